"""The founding story: it can be told on any day, and what the ledger then says is what was told."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import get_type_hints
from urllib.parse import urlsplit

import orjson
import pytest
from starlette.testclient import TestClient

from ledger.application import Done, Ledger
from ledger.domain.access import Request, decide
from ledger.domain.errors import InvalidValue
from ledger.domain.events import Recorded, SubjectEvent, SubjectReinstated, SubjectSuspended
from ledger.domain.values import Cause, Role, Subject, end_after, format_instant, microseconds
from ledger.service.http.app import create_app
from ledger.service.settings import Settings
from ledger.service.story import Told, moment, read, tell
from ledger.service.wiring import Service, build
from tests.checks import check_ledger

TODAY = datetime(2026, 11, 24, 15, 30, tzinfo=UTC)  # a Tuesday afternoon
FRONTIER = ["model:atlas-3", "model:atlas-3-vision", "model:cipher-2"]
MODELS = [*FRONTIER, "model:embed-1", "model:mini-2"]
DAY = timedelta(days=1)

# Who may send what over HTTP; the story must not do what its operators could not.
ROLES = {
    "enroll": {"admin"},
    "issue_key": {"admin"},
    "list_resource": {"admin"},
    "define_group": {"admin"},
    "publish": {"admin"},
    "register": {"officer"},
    "link": {"officer"},
    "record_violation": {"reporter", "officer"},
    "warn": {"officer"},
    "suspend": {"officer"},
    "revise": {"officer"},
    "reinstate": {"officer", "approver"},
    "overturn": {"approver"},
}


@dataclass(frozen=True)
class Story:
    """A story that was told, and a service on its ledger whose clock says it is today."""

    told: Told
    service: Service
    today: datetime

    def at(self, text: str) -> datetime:
        """Return an instant as the story tells it."""
        return moment(text, self.today)

    def events(self, subject: str | None = None) -> list[Recorded]:
        """Return all events, or those of a subject."""
        if subject is None:
            return list(self.service.recorder.events())
        return self.service.recorder.stream(f"subject/{subject}")

    def refused(
        self,
        subject: str,
        at: datetime | None = None,
        *,
        known_at: datetime | None = None,
        action: str = "use",
    ) -> dict[str, tuple[list[str], datetime | None]]:
        """Return each model that is refused, with the names of the suspensions and until when."""
        names = {id_: name for name, id_ in self.told.ids.items()}
        at = at or self.today
        position = None if known_at is None else self.service.recorder.position_at(known_at)
        asked = Subject.parse(subject)
        known = self.service.ledger.known([asked], position=position)
        found = {}
        for entry in known.catalogue.listed_at(at):
            request = Request(asked, entry.resource, action)
            decision = decide(known.records, known.catalogue, request, at)
            if not decision.allowed:
                by = [names[suspension.id] for suspension in decision.suspensions]
                found[entry.resource.key] = (by, decision.until)
        return found


@contextmanager
def told_on(today: datetime, settings: Settings) -> Iterator[Story]:
    """Tell the story; at the end, everything that must hold of a ledger is checked."""
    told = tell(settings, today=today)
    service = build(settings, clock=lambda: today)
    try:
        yield Story(told, service, today)
        check_ledger(service)
    finally:
        service.close()


@pytest.fixture
def story(settings: Settings) -> Iterator[Story]:
    """The story, told on a Tuesday."""
    with told_on(TODAY, settings) as told:
        yield told


# --- the data -------------------------------------------------------------------------------------


def test_the_story_is_plain_json() -> None:
    """The story is data that any JSON reader reads."""
    steps = orjson.loads(files("ledger.service.story").joinpath("founding.json").read_bytes())

    assert len(read()) == len(steps)
    assert all(isinstance(step, dict) for step in steps)


def test_every_step_is_a_decision_of_the_ledger_with_members_that_it_takes() -> None:
    """Each step names a command of the ledger, and gives it only what it takes."""
    for step in read():
        decision = getattr(Ledger, step.decision)

        assert Done is get_type_hints(decision)["return"], step
        assert step.members.keys() <= inspect.signature(decision).parameters.keys(), step


def test_every_step_is_taken_by_an_operator_whose_role_may() -> None:
    """Nobody in the story does what the service would refuse to their role."""
    roles = {"system": "admin"}  # the ledger itself gives the first key, to an admin
    for step in read():
        if step.decision == "enroll":
            roles[step.members["operator"]] = step.members["role"]

        assert roles[step.by] in ROLES[step.decision], step

    assert {str(role) for role in Role} == set(roles.values())


def test_on_any_day_the_steps_follow_each_other_and_lie_in_the_past() -> None:
    """For two years with a leap day the order is the same, and people decide on working days."""
    steps = read()
    for number in range(731):
        midnight = datetime(2027, 6, 1, tzinfo=UTC) + number * DAY
        moments = [moment(step.when, midnight) for step in steps]

        assert sorted(moments) == moments
        assert moments[-1] < midnight
        for step, at in zip(steps, moments, strict=True):
            if step.on_behalf_of is not None:
                assert at.weekday() < 5, step
                assert 8 <= at.hour < 19, step


def test_a_moment_is_told_by_the_week() -> None:
    """A moment is a day and time of a week before or after this one, whatever day it is."""
    sunday = datetime(2028, 3, 5, 23, 59, tzinfo=UTC)

    assert datetime(2028, 2, 29, 9, 30, tzinfo=UTC) == moment("P0W Tuesday 09:30", sunday)
    assert datetime(2028, 2, 28, 0, 0, tzinfo=UTC) == moment("P0W Monday 00:00", sunday)
    assert datetime(2028, 2, 1, 9, 30, tzinfo=UTC) == moment("-P4W Tuesday 09:30", sunday)
    assert datetime(2028, 3, 13, 9, 30, tzinfo=UTC) == moment("P2W Monday 09:30", sunday)
    assert moment("P0W Monday 00:00", sunday) == moment("P0W Monday 00:00", sunday - 6 * DAY)


@pytest.mark.parametrize("text", ["P2M Monday 09:30", "-P4W Someday 09:30", "-P4W Monday", ""])
def test_a_moment_of_another_form_is_refused(text: str) -> None:
    """A slip in the story is an error that shows it, not another day."""
    with pytest.raises(ValueError, match="has not the form -P4W Wednesday 10:30"):
        moment(text, TODAY)


# --- told on any day ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "today",
    [
        datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC),
        datetime(2027, 1, 31, tzinfo=UTC),
        datetime(2027, 3, 1, tzinfo=UTC),  # a Monday: the last week lies right behind
        datetime(2027, 4, 30, 12, tzinfo=UTC),
        datetime(2028, 1, 30, 12, tzinfo=UTC),  # two months from the decision end in February
        datetime(2028, 2, 29, tzinfo=UTC),
        datetime(2028, 3, 31, 12, tzinfo=UTC),
        datetime(2028, 10, 29, 1, tzinfo=UTC),  # a Sunday, when clocks go back in Europe
    ],
    ids=lambda today: f"{today:%Y-%m-%d}",
)
def test_who_is_suspended_from_what_today(today: datetime, settings: Settings) -> None:
    """On every day the same people are refused the same models, half-way through two months."""
    with told_on(today, settings) as story:
        ends = end_after(story.at("-P4W Wednesday 10:30"), "P2M")
        northwind = dict.fromkeys(FRONTIER, (["northwind-frontier"], ends))
        alice = dict.fromkeys(FRONTIER, (["alice-frontier", "northwind-frontier"], ends))
        frank = dict.fromkeys(MODELS, (["frank-on-review"], None))
        everybody = {
            recorded.event.subject.key
            for recorded in story.events()
            if isinstance(recorded.event, SubjectEvent)
        }
        expected: dict[str, object] = {subject: {} for subject in everybody}
        expected |= {
            "organization:northwind-media": northwind,
            "application:press-desk": northwind,
            "user:alice": alice,
            "user:bob": northwind,
            "user:carol": northwind,
            "user:frank": frank,
        }

        assert expected == {subject: story.refused(subject) for subject in everybody}
        assert timedelta(days=24) < ends - today < timedelta(days=37)
        assert {} == story.refused("application:press-desk", ends)
        assert {} == story.refused("user:alice", ends)
        assert today >= story.events()[-1].recorded_at


def test_the_story_is_told_the_same_twice_apart_from_ids_and_keys(tmp_path: Path) -> None:
    """Only ids and keys differ between two tellings on one day."""
    tellings = []
    for name in ("first", "second"):
        settings = Settings(database_url=f"sqlite:///{tmp_path / name}.db", origin="test.ledger")
        with told_on(TODAY, settings) as story:
            told = [
                (r.recorded_at, r.type, r.stream, r.author, r.caused_by) for r in story.events()
            ]
            tellings.append((told, list(story.told.ids), list(story.told.keys)))

    assert tellings[0] == tellings[1]


def test_without_a_day_the_story_ends_now(settings: Settings) -> None:
    """Told without a day, the two months are half over on the clock on the wall."""
    tell(settings)
    service = build(settings)
    try:
        recorded = list(service.recorder.events())
        ends = [r.event.ends_at for r in recorded if isinstance(r.event, SubjectSuspended)]

        assert recorded[-1].recorded_at < service.clock()
        assert any(end and end > service.clock() for end in ends)
    finally:
        service.close()


def test_the_story_is_not_told_into_a_ledger_that_exists(story: Story) -> None:
    """Telling it again in the same database is refused and records nothing."""
    before = story.service.recorder.position

    with pytest.raises(InvalidValue, match="holds a ledger already"):
        tell(story.service.settings, today=TODAY + DAY)

    assert before == story.service.recorder.position


# --- what happened --------------------------------------------------------------------------------


def test_a_term_ended_by_itself(story: Story) -> None:
    """The first suspension of frank was served: recorded once, by the ledger, at its very end."""
    id_ = story.told.ids["frank-two-weeks"]
    served = [
        (recorded, recorded.event)
        for recorded in story.events()
        if isinstance(recorded.event, SubjectReinstated)
        and recorded.event.cause is Cause.TERM_SERVED
    ]
    [suspended] = [
        recorded
        for recorded in story.events("user:frank")
        if isinstance(recorded.event, SubjectSuspended) and recorded.event.suspension == id_
    ]
    assert isinstance(suspended.event, SubjectSuspended)
    end = suspended.event.ends_at
    assert end is not None

    assert [id_] == [event.suspension for _, event in served]
    assert [end] == [event.effective_at for _, event in served]
    assert [end] == [recorded.recorded_at for recorded, _ in served]
    assert [suspended.position] == [recorded.caused_by for recorded, _ in served]
    assert "system" == served[0][0].author.operator
    assert MODELS == sorted(story.refused("user:frank", end - timedelta(microseconds=1)))
    assert {} == story.refused("user:frank", end)


def test_an_early_reinstatement_ends_one_suspension_and_no_later_one(story: Story) -> None:
    """Bob may make images again before his month is over, until his organization is suspended."""
    reinstated = story.at("-P11W Thursday 15:00")
    term = story.at("-P13W Tuesday 10:10")

    assert ["model:atlas-3-vision"] == list(story.refused("user:bob", term))
    assert {} == story.refused("user:bob", reinstated)
    assert end_after(term, "P1M") > reinstated
    assert FRONTIER == sorted(story.refused("user:bob"))


def test_a_suspension_fell_with_the_finding_it_rested_on(story: Story) -> None:
    """Erin's violation was overturned, and because of it her suspension ended in that moment."""
    overturned, reinstated = story.events("user:erin")[-2:]

    assert ["violation.overturned", "subject.reinstated"] == [overturned.type, reinstated.type]
    assert isinstance(reinstated.event, SubjectReinstated)
    assert Cause.VIOLATION_OVERTURNED is reinstated.event.cause
    assert overturned.position == reinstated.caused_by
    assert FRONTIER == sorted(story.refused("user:erin", overturned.recorded_at - DAY))
    assert {} == story.refused("user:erin", overturned.recorded_at)


def test_a_correction_changes_the_past_but_not_what_was_known_of_it(story: Story) -> None:
    """Carol was refused every model on that Tuesday, as known then; as known today she was not."""
    tuesday = story.at("-P7W Tuesday 12:00")
    corrected = story.at("-P7W Thursday 09:40")
    as_known_then = story.refused("user:carol", tuesday, known_at=tuesday)
    just_before = corrected - timedelta(microseconds=1)

    assert MODELS == sorted(as_known_then)
    assert as_known_then == story.refused("user:carol", tuesday, known_at=just_before)
    assert {} == story.refused("user:carol", tuesday, known_at=corrected)
    assert {} == story.refused("user:carol", tuesday)


def test_a_revision_moved_an_end_and_a_review_holds_past_it(story: Story) -> None:
    """Frank's second term is six months instead of three, and does not end without a person."""
    [revised] = [r for r in story.events("user:frank") if r.type == "suspension.revised"]
    began = story.at("-P8W Tuesday 11:15")
    data = revised.event.model_dump()

    assert format_instant(end_after(began, "P3M")) == data["previous_ends_at"]
    assert format_instant(end_after(began, "P6M")) == data["ends_at"]
    assert MODELS == sorted(story.refused("user:frank", end_after(began, "P1Y")))


def test_a_scheduled_suspension_refuses_nothing_yet(story: Story) -> None:
    """Deal Finder may use every model today; from its day on it may only fine-tune."""
    begins = story.at("P2W Monday 00:00")

    assert {} == story.refused("application:deal-finder")
    assert {} == story.refused("application:deal-finder", begins - timedelta(microseconds=1))
    assert MODELS == sorted(story.refused("application:deal-finder", begins))
    assert {} == story.refused("application:deal-finder", begins, action="fine_tune")


def test_the_innocent_were_never_refused_anything(story: Story) -> None:
    """An unrelated organization with all below it was allowed every model at every event."""
    for recorded in story.events():
        for subject in ("organization:harbor-clinic", "application:ward-notes", "user:dana"):
            assert {} == story.refused(subject, recorded.recorded_at)


def test_the_trail_tells_it_in_order(story: Story) -> None:
    """The trail of the suspended user reads as the story does, with the people who decided."""
    with story.service.reading() as (cursor, position):
        found = story.service.trail.events(
            cursor, position=position, limit=1_000, oldest_first=True, subject="user:alice"
        )
        whole = story.service.trail.events(
            cursor, position=position, limit=1_000, oldest_first=True
        )
    trail = story.service.recorder.at_positions(found)

    assert [
        ("subject.linked", "mod-tool", "user:jane"),
        ("violation.recorded", "detector", None),
        ("warning.issued", "mod-tool", "user:jane"),
        ("violation.recorded", "detector", None),
        ("subject.suspended", "mod-tool", "user:jane"),
    ] == [(r.type, r.author.operator, r.author.on_behalf_of) for r in trail]
    assert "mod-tool (for user:jane) suspended user:alice from group:frontier" in trail[-1].sentence
    assert [recorded.position for recorded in story.events()] == whole


def test_every_step_is_one_event_at_its_time(story: Story) -> None:
    """Each step is recorded at its time, under its number; three facts follow by themselves."""
    recorded = {r.author.request_id: r for r in story.events() if r.caused_by is None}
    steps = {f"founding-{number:03}": step for number, step in enumerate(read(), start=1)}

    assert {None, *steps} == recorded.keys()
    assert "ledger.opened" == recorded[None].type
    assert {id_: (story.at(step.when), step.by) for id_, step in steps.items()} == {
        id_: (recorded[id_].recorded_at, recorded[id_].author.operator) for id_ in steps
    }
    assert len(steps) + 3 == story.service.recorder.position


# --- to try ---------------------------------------------------------------------------------------


def test_the_examples_do_what_they_show(settings: Settings) -> None:
    """The three commands are denied, allowed and explained, by the keys of service and auditor."""
    told = tell(settings, today=TODAY)
    app = create_app(build(settings, clock=lambda: TODAY))
    answers = []
    with TestClient(app, base_url="http://127.0.0.1:8080") as client:
        for line in told.examples("http://127.0.0.1:8080"):
            assert "\n" not in line
            command, silent, url, *options = shlex.split(line)
            assert ["curl", "-s"] == [command, silent]
            given = list(zip(options[::2], options[1::2], strict=True))
            headers = dict(value.split(": ", 1) for option, value in given if option == "-H")
            body = dict(given).get("-d")
            path = urlsplit(url)._replace(scheme="", netloc="").geturl()
            response = client.request(
                "POST" if body else "GET", path, content=body, headers=headers
            )
            assert 200 == response.status_code, response.text
            answers.append(response.json())
        check_ledger(app.api.state.service)
    denied, allowed, access = answers

    ends = end_after(moment("-P4W Wednesday 10:30", TODAY), "P2M")
    assert denied["decision"] is False
    assert format_instant(ends) == denied["context"]["until"]
    assert ["alice-frontier", "northwind-frontier"] == [
        name
        for suspension in denied["context"]["suspensions"]
        for name, id_ in told.ids.items()
        if id_ == suspension["id"]
    ]
    assert "Our other models stay available" in denied["context"]["reason_user"]["en"]
    assert allowed["decision"] is True
    assert {"type": "user", "id": "alice"} == access["subject"]
    assert dict.fromkeys(MODELS, True) | dict.fromkeys(FRONTIER, False) == {
        f"{entry['resource']['type']}:{entry['resource']['id']}": entry["allowed"]
        for entry in access["resources"]
    }


def test_there_is_a_key_for_each_role_and_each_opens_as_that_role(story: Story) -> None:
    """Six keys, one for each role, each of the operator that the story enrolled in it."""
    with story.service.recorder.store.transaction(commit=False) as cursor:
        story.service.keyring.load(cursor)
    callers = {
        role: story.service.keyring.find(key.encode(), microseconds(TODAY))
        for role, key in story.told.keys.items()
    }

    assert {
        "admin": "admin",
        "service": "gateway",
        "reporter": "detector",
        "officer": "mod-tool",
        "approver": "review-board",
        "auditor": "internal-audit",
    } == {role: caller.operator for role, caller in callers.items() if caller}
    assert all(caller and role == caller.role for role, caller in callers.items())
    assert list(story.told.keys) == [str(key) for key in story.told.keys]
