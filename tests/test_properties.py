"""What holds of every history: index and fold, rows and rebuild, then and now give one answer."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest
from eventsourcing.persistence import StoredEvent
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.domain.access import Decision, UnknownSubjects, decide, looked_at
from ledger.domain.catalogue import Catalogue
from ledger.domain.events import Recorded, SubjectEvent
from ledger.domain.record import Record, Suspension, SuspensionState
from ledger.domain.values import Subject, format_instant, from_microseconds, microseconds
from ledger.service.settings import Settings
from ledger.service.wiring import Service, build
from ledger.store.replay import rebuild
from projections.access import AccessIndex, Answer, snapshot
from tests.checks import check_ledger
from tests.conftest import SetClock
from tests.histories import GROUPS, SUBJECTS, TICK, Drawing, awake, founded, happen, lists_of

COMMANDS_MAX = 60  # of one history; a failure shrinks to the shortest that still fails
REQUESTS = 6  # asked at each position
INSTANTS = 4  # of each request
STATES: Final[tuple[SuspensionState, ...]] = ("scheduled", "in_force", "ended", "cancelled")


@dataclass(frozen=True)
class History:
    """A history is repeated from these; the questions about it are drawn from the seed as well."""

    seed: int
    length: int
    unknown: UnknownSubjects

    @property
    def questions(self) -> Drawing:
        """What draws the questions: how many there are does not change the history."""
        return Drawing(Random(f"questions {self.seed}"))

    @contextmanager
    def played(self) -> Iterator[Service]:
        """Let it happen to a ledger of its own."""
        with tempfile.TemporaryDirectory() as folder:
            service = awake(founded(Path(folder), SetClock(), unknown=self.unknown))
            happen(service, Drawing(Random(self.seed)), self.length)
            yield service
            service.close()


histories = st.builds(
    History,
    seed=st.integers(0, 2**32),
    length=st.integers(1, COMMANDS_MAX),
    unknown=st.sampled_from(["allow", "deny_unknown"]),
)
few = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
many = settings(few, max_examples=1_000)


class Fold:
    """Every record and the catalogue, folded event by event with nothing but the domain."""

    def __init__(self) -> None:
        self.records: dict[Subject, Record] = {}
        self.catalogue = Catalogue()

    def take_in(self, recorded: Recorded) -> None:
        """Take in the next event."""
        if isinstance(recorded.event, SubjectEvent):
            subject = recorded.event.subject
            self.records.setdefault(subject, Record(subject)).evolve(recorded)
        self.catalogue.evolve(recorded)

    def suspensions(self) -> dict[str, Suspension]:
        """Every suspension by its id."""
        return {id_: s for record in self.records.values() for id_, s in record.suspensions.items()}

    def instants(self, since: datetime) -> list[datetime]:
        """Where an answer may change at or after an instant, and a tick before and after it."""
        turns = {since, since + timedelta(days=40_000)}
        for suspension in self.suspensions().values():
            turns |= {suspension.event.effective_at, suspension.closes_at or since}
        near = {turn + tick for turn in turns for tick in (-TICK, TICK * 0, TICK)}
        return sorted(instant for instant in near if instant >= since)


def as_answer(decision: Decision) -> tuple[object, ...]:
    """Bring the fold's answer into a form that the index's can be compared with."""
    ids = [suspension.id for suspension in decision.suspensions]
    return decision.allowed, ids, decision.until, decision.unknown_subject


def found(answer: Answer) -> tuple[object, ...]:
    """Bring the index's answer into the same form."""
    until = None if answer.until is None else from_microseconds(answer.until)
    ids = [restriction.id for restriction in answer.restrictions]
    return answer.allowed, ids, until, answer.unknown_subject


def check_answers(fold: Fold, at_least: datetime, drawing: Drawing, *indexes: AccessIndex) -> None:
    """Ask fold and indexes the same, at every kind of instant from the newest event on."""
    unknown = indexes[0].unknown
    instants = fold.instants(at_least)
    for _ in range(REQUESTS):
        request = drawing.request()
        for at in [at_least, *drawing.random.choices(instants, k=INSTANTS - 1)]:
            expected = as_answer(decide(fold.records, fold.catalogue, request, at, unknown=unknown))
            for index in indexes:
                answer = index.check(
                    request.subject.key,
                    request.resource.key,
                    request.action,
                    microseconds(at),
                    through=[subject.key for subject in request.through],
                    subject_properties=request.subject_properties,
                    resource_properties=request.resource_properties,
                    action_properties=request.action_properties,
                )
                assert expected == found(answer), (request, at)


def loaded_index(service: Service) -> AccessIndex:
    """An index that begins with the rows as they are."""
    index = AccessIndex()
    events = service.recorder
    newest = events.event(events.position)
    assert newest is not None
    with service.recorder.store.transaction(commit=False) as c:
        index.load(
            snapshot(
                c,
                position=newest.position,
                recorded_at=format_instant(newest.recorded_at),
                unknown=service.index.unknown,
            )
        )
    return index


@contextmanager
def stopping(service: Service) -> Iterator[tuple[Service, Iterator[Recorded]]]:
    """A second ledger that gets the first one's events, one by one as they are asked for."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/stopped.db"
        unknown = service.settings.unknown_subject
        stopped = build(Settings(database_url=url, unknown_subject=unknown), clock=service.clock)

        def one_by_one() -> Iterator[Recorded]:
            for notification in service.recorder.select_notifications(1, 10_000):
                stored = StoredEvent(
                    notification.originator_id,
                    notification.originator_version,
                    notification.topic,
                    notification.state,
                )
                stopped.recorder.insert_events([stored], recorded_at=notification.recorded_at)
                yield service.recorder.mapper.to_domain_event(notification)

        yield stopped, one_by_one()
        stopped.recorder.store.close()


# --- the index and the fold -----------------------------------------------------------------------


def index_is_fold(history: History) -> None:
    """Ask fold and index at every position of a history."""
    with history.played() as service:
        fold, index, drawing = Fold(), AccessIndex(unknown=history.unknown), history.questions
        for recorded in service.recorder.events():
            fold.take_in(recorded)
            index.apply(recorded)
            check_answers(fold, recorded.recorded_at, drawing, index)
        check_ledger(service)


@few
@given(histories)
def test_the_index_answers_as_the_fold_at_every_position(history: History) -> None:
    """The index after n events answers as the access rule does on the records known at n."""
    index_is_fold(history)


@pytest.mark.soak
@many
@given(histories)
def test_the_index_answers_as_the_fold_for_many_histories(history: History) -> None:
    """The index after n events answers as the access rule does, over many more histories."""
    index_is_fold(history)


@few
@given(histories)
def test_an_index_loaded_from_the_rows_answers_as_one_that_followed(history: History) -> None:
    """Wherever a process starts, it answers as one that was there, then and after what comes."""
    with history.played() as service, stopping(service) as (stopped, events):
        fold, drawing = Fold(), history.questions
        followed = AccessIndex(unknown=history.unknown)
        started: list[AccessIndex] = []
        for recorded in events:
            fold.take_in(recorded)
            for index in (followed, *started):
                index.apply(recorded)
            loaded = loaded_index(stopped)
            check_answers(fold, recorded.recorded_at, drawing, followed, loaded, *started)
            if drawing.chance(10):
                started.append(loaded)


@few
@given(histories)
def test_a_check_before_the_newest_event_is_answered_as_of_that_event(history: History) -> None:
    """A clock that went back does not lift what was just recorded."""
    with history.played() as service:
        index, drawing = service.index, history.questions
        for _ in range(20):
            request = drawing.request()
            asked = (
                request.subject.key,
                request.resource.key,
                request.action,
            )
            earlier = index.recorded_at - drawing.random.randint(0, 10**13)

            assert found(index.check(*asked, index.recorded_at)) == found(
                index.check(*asked, earlier)
            )


# --- the rows -------------------------------------------------------------------------------------


@few
@given(histories)
def test_what_is_acted_upon_is_what_the_bytes_say(history: History) -> None:
    """Projections and followers are handed the fact that was decided, a rebuild what is stored."""
    told: list[Recorded] = []
    with tempfile.TemporaryDirectory() as folder:
        service = awake(founded(Path(folder), SetClock(), unknown=history.unknown))
        committed, founding = service.recorder.committed, service.recorder.position

        def hear(recorded: Sequence[Recorded]) -> None:
            told.extend(recorded)
            committed(recorded)

        service.recorder.committed = hear
        happen(service, Drawing(Random(history.seed)), history.length)
        stored = list(service.recorder.events(after=founding))
        service.close()

    assert stored == told
    assert list(map(repr, stored)) == list(map(repr, told))  # where 1 is not 1.0, nor True


@few
@given(histories, st.lists(st.integers(1, 20), max_size=3))
def test_a_rebuild_is_what_is_live_at_every_stop(history: History, lengths: list[int]) -> None:
    """Whenever it is asked, a rebuild from the events makes the rows that are live."""
    with history.played() as service:
        for length in (0, *lengths):
            happen(service, history.questions, length)

            assert [] == list(rebuild(service.recorder).differences)


@few
@given(histories)
def test_a_list_known_at_a_position_is_that_of_a_ledger_that_stopped_there(
    history: History,
) -> None:
    """What came later changes no list that is asked for as it was known before."""
    with history.played() as service, stopping(service) as (stopped, events):
        drawing, fold = history.questions, Fold()
        for recorded in events:
            fold.take_in(recorded)
            if drawing.chance(3):
                at = drawing.one(fold.instants(datetime(2026, 1, 1, tzinfo=UTC)))
                expected = lists_of(stopped, at, stopped.recorder.position)
                listed = lists_of(service, at, recorded.position)
                for name, items in expected.items():
                    assert items == listed[name], (name, recorded.position, at)
        check_ledger(stopped)


@few
@given(histories)
def test_the_state_in_a_list_is_that_of_the_fold(history: History) -> None:
    """A suspension's state is the same by SQL, in a filter and in an answer, as by the rule."""
    with history.played() as service:
        drawing, fold = history.questions, Fold()
        for recorded in service.recorder.events():
            fold.take_in(recorded)
            if not fold.suspensions() or not drawing.chance(3):
                continue
            at = drawing.one(fold.instants(datetime(2026, 1, 1, tzinfo=UTC)))
            expected = {id_: s.state(at) for id_, s in fold.suspensions().items()}
            asked: dict[str, Any] = {"at": at, "position": recorded.position, "limit": 1_000}
            with service.reading() as (c, _):
                every = service.access.suspensions(c, **asked)
                by_state = {
                    state: {s["id"] for s in service.access.suspensions(c, **asked, state=state)}
                    for state in STATES
                }
                in_force = service.access.suspensions(c, **asked, in_force_at=at)

            assert expected == {s["id"]: s["state"] for s in every}, at
            assert {
                state: {id_ for id_, found in expected.items() if found == state}
                for state in by_state
            } == by_state, at
            assert by_state["in_force"] == {s["id"] for s in in_force}, at


@few
@given(histories)
def test_a_list_of_a_model_is_of_what_covers_it(history: History) -> None:
    """A list by model holds the suspensions whose scope names it by id, by type or by group now."""
    with history.played() as service:
        fold = Fold()
        for recorded in service.recorder.events():
            fold.take_in(recorded)
        at, drawing = service.now(), history.questions
        resource = drawing.request().resource
        groups = [group for group in GROUPS if fold.catalogue.is_member(resource, group, at)]
        labels = {resource.key, f"every {resource.type}", *(f"group:{group}" for group in groups)}
        with service.reading() as (c, head):
            listed = service.access.suspensions(
                c, at=at, position=head, limit=1_000, model=resource.key
            )

        assert {
            suspension.id
            for suspension in fold.suspensions().values()
            if labels & {selector.label for selector in suspension.event.scope.resources}
        } == {suspension["id"] for suspension in listed}


# --- then and now ---------------------------------------------------------------------------------


def shape(record: Record) -> tuple[object, ...]:
    """Everything that a record says, in a form that compares."""
    properties = record.properties
    return (
        record.version,
        properties._instants,
        properties._values,
        record.links,
        record.violations,
        record.warnings,
        record.suspensions,
        record.first_recorded_at,
    )


@few
@given(histories)
def test_what_was_known_at_a_position_is_the_fold_of_the_events_until_then(
    history: History,
) -> None:
    """The records known at n hold the first n events, of all that anybody could act through."""
    with history.played() as service:
        drawing, fold = history.questions, Fold()
        for recorded in service.recorder.events():
            fold.take_in(recorded)
            if not drawing.chance(3):
                continue
            subject = drawing.one(SUBJECTS)
            known = service.ledger.known([subject], position=recorded.position)
            above = looked_at([subject], fold.records.get, recorded.recorded_at)

            assert recorded.position == known.position
            assert {s for s in above if s in fold.records} <= set(known.records)
            for found_subject, record in known.records.items():
                assert shape(fold.records[found_subject]) == shape(record)
            for at in drawing.random.sample(fold.instants(recorded.recorded_at), 3):
                request = drawing.request()
                everything = service.ledger.known(
                    [request.subject, *request.through], position=recorded.position
                )
                assert as_answer(decide(fold.records, fold.catalogue, request, at)) == as_answer(
                    decide(everything.records, everything.catalogue, request, at)
                )


@few
@given(histories)
def test_recorded_at_never_goes_back_whatever_the_clock_does(history: History) -> None:
    """Events are in the order of time, so an instant at which something was known is a position."""
    with history.played() as service:
        drawing = history.questions
        instants = [recorded.recorded_at for recorded in service.recorder.events()]

        assert sorted(instants) == instants
        for _ in range(10):
            known_at = drawing.one(instants) + TICK * drawing.random.randint(-1, 1)
            expected = sum(instant <= known_at for instant in instants)
            assert expected == service.recorder.position_at(known_at)


@few
@given(histories)
def test_what_a_suspension_refuses_begins_and_ends_at_its_instants(history: History) -> None:
    """A suspension counts at its start and not a tick before; at its end it does not count."""
    with history.played() as service:
        fold = Fold()
        for recorded in service.recorder.events():
            fold.take_in(recorded)
        for suspension in fold.suspensions().values():
            start, end = suspension.event.effective_at, suspension.closes_at
            empty = end is not None and end <= start

            assert not suspension.in_force(start - TICK)
            assert suspension.in_force(start) is not empty
            if end is not None:
                assert suspension.in_force(end - TICK) is not empty
                assert not suspension.in_force(end)


def test_a_history_repeats_from_its_seed(tmp_path: Path) -> None:
    """The same seed gives the same history, but for the ids and keys that are drawn by chance."""
    trails = []
    for name in ("once", "again"):
        folder = tmp_path / name
        folder.mkdir()
        service = founded(folder, SetClock())
        happen(service, Drawing(Random(7)), 60)
        trails.append([(r.type, r.stream, r.recorded_at) for r in service.recorder.events()])
        check_ledger(service)
        service.close()
        shutil.rmtree(folder)

    assert trails[0] == trails[1]
