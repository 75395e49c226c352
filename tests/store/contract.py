"""What every recorder promises, as tests that each backend's test module inherits.

A backend says how to open a recorder in this process and in another, and how to reach its tables
with SQL behind the recorder's back. Facts here are of operators, whose streams are short to write.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import orjson
import pytest
from eventsourcing.persistence import Cursor, IntegrityError, StoredEvent

from ledger.domain.errors import EventTooLarge, StoreBusy, TamperDetected, UnknownFact
from ledger.domain.events import (
    Author,
    Draft,
    Event,
    GroupDefined,
    OperatorEnrolled,
    OperatorKeyRevoked,
    Recorded,
    ViolationRecorded,
)
from ledger.domain.values import EVENT_BYTES_MAX, RecordedEvidence, Role, Subject
from ledger.store.codec import LedgerMapper, Placed, encode
from ledger.store.projection import Projection
from ledger.store.recorder import LedgerRecorder
from tests.conftest import T0, SetClock

ROOT = Path(__file__).resolve().parent.parent.parent
Where = Path | str
"""A file, or the address of a database."""
JO = Author("jo")
TICK = timedelta(microseconds=1)


def stored(event: Event, version: int, author: Author = JO) -> StoredEvent:
    """Return an event as a recorder takes it."""
    return LedgerMapper().to_stored_event(Placed(event.stream, version, Draft(event, author)))


def enrolled(operator: str = "jo", version: int = 1) -> StoredEvent:
    """Return a short fact of the stream ``operator/…``."""
    return stored(OperatorEnrolled(operator=operator, role=Role.OFFICER), version)


def positions(recorder: LedgerRecorder) -> list[int]:
    """Return all positions in the order in which they are read."""
    return [recorded.position for recorded in recorder.events()]


class Interrupted(Exception):
    """What ends a transaction here."""


def append_then_raise(
    recorder: LedgerRecorder, error: type[BaseException], *operators: str
) -> None:
    """Append a fact about each operator in one transaction, and leave it by an error."""
    with recorder.transaction():
        for operator in operators:
            recorder.insert_events([enrolled(operator)])
        raise error


class Names:
    """A projection that keeps the names of operators, and what it was shown."""

    NAME: ClassVar[str] = "names"
    TABLES: ClassVar[Sequence[str]] = ("names",)
    DDL: ClassVar[Sequence[str]] = (
        "CREATE TABLE IF NOT EXISTS names (position INTEGER PRIMARY KEY, name TEXT NOT NULL)",
    )

    def __init__(self) -> None:
        self.seen: list[Recorded] = []

    def apply(self, cursor: Cursor, recorded: Recorded) -> None:
        """Keep the name."""
        self.seen.append(recorded)
        name = recorded.stream.removeprefix("operator/")
        cursor.execute(f"INSERT INTO names VALUES ({recorded.position}, '{name}')")


class RecorderContract(ABC):
    """Plain tests of a recorder; ``recorder`` is a fresh one."""

    OPENING: ClassVar[str]
    """Python that binds ``recorder`` on the store that ``sys.argv[1]`` names, with ``clock``."""

    FORBIDDEN: ClassVar[Sequence[str]] = (
        "UPDATE events SET state = state",
        "UPDATE events SET recorded_at = '2026-01-01T00:00:00.000000Z' WHERE position = 1",
        "UPDATE events SET position = position + 10",
        "DELETE FROM events WHERE position = 3",
        "DELETE FROM events",
        *(
            "INSERT INTO events (position, stream, version, type, recorded_at, state) SELECT "
            f"{place}, 'operator/x', 1, type, recorded_at, state FROM events WHERE position = 1"
            for place in (-1, 0, 3, 5)
        ),
    )
    """Statements that nobody may run on a ledger of three events."""

    @abstractmethod
    def open(
        self,
        path: Where,
        clock: Callable[[], datetime],
        *,
        projections: Sequence[Projection] = (),
        committed: Callable[[Sequence[Recorded]], None] = lambda _: None,
        lock_timeout_s: float = 10,
    ) -> LedgerRecorder:
        """Open a recorder on a store, and make its tables."""

    @abstractmethod
    def sql(self, path: Where) -> AbstractContextManager[Callable[[str], list[Any]]]:
        """Return what runs a statement on the store, beside the recorder."""

    @abstractmethod
    def literal(self, value: bytes) -> str:
        """Return how SQL writes bytes."""

    @abstractmethod
    def defenceless(self, path: Where) -> None:
        """Remove the triggers, as somebody who owns the store can."""

    @pytest.fixture
    def recorder(self, path: Where, clock: SetClock) -> Iterator[LedgerRecorder]:
        recorder = self.open(path, clock)
        yield recorder
        recorder.store.close()

    # --- appending --------------------------------------------------------------------------------

    def test_positions_count_from_1_without_a_gap(self, recorder: LedgerRecorder) -> None:
        """Whatever the streams and however many at once; an append that fails takes none."""
        assert 0 == recorder.position
        assert [1] == recorder.insert_events([enrolled("a")])
        assert [2, 3] == recorder.insert_events([enrolled("b"), enrolled("a", 2)])
        with pytest.raises(IntegrityError):
            recorder.insert_events([enrolled("c"), enrolled("b")])
        assert [4] == recorder.insert_events([enrolled("c")])
        assert [] == recorder.insert_events([])

        assert [1, 2, 3, 4] == positions(recorder)
        assert 4 == recorder.position

    def test_an_event_comes_back_as_it_was_recorded(
        self, recorder: LedgerRecorder, clock: SetClock
    ) -> None:
        """Every member of the envelope and of the event is read back."""
        event = OperatorEnrolled(operator="é/中文:👩‍🚀", role=Role.AUDITOR)
        author = Author("jo", "user:jane", "request-1")
        draft = Placed(event.stream, 1, Draft(event, author, caused_by=1))
        with recorder.transaction() as c:
            appended = recorder.append(c, draft, recorder.now())

        expected = Recorded(1, event.stream, 1, clock.now, author, 1, event)
        assert expected == appended
        assert expected == recorder.event(1)
        assert [expected] == recorder.stream(event.stream)
        assert [expected] == list(recorder.events())
        assert recorder.event(2) is None

    def test_recorded_at_never_goes_back_even_when_the_clock_does(
        self, path: Where, recorder: LedgerRecorder, clock: SetClock
    ) -> None:
        """A clock that is set back stands still for the ledger, in another process too."""
        recorder.insert_events([enrolled("a")])
        clock.move(hours=-24)
        recorder.insert_events([enrolled("b")])
        later = self.open(path, clock)
        later.insert_events([enrolled("c")])
        clock.move(hours=25)
        recorder.insert_events([enrolled("d"), enrolled("e")])
        later.insert_events([enrolled("f")])
        later.store.close()

        hours = [recorded.recorded_at - T0 for recorded in recorder.events()]

        assert [timedelta(0)] * 3 + [timedelta(hours=1)] * 3 == hours

    def test_now_is_asked_for_under_the_write_lock(
        self, recorder: LedgerRecorder, clock: SetClock
    ) -> None:
        """Now is the clock, or the newest event where that is later, also one just appended."""
        recorder.insert_events([enrolled()])
        with recorder.transaction():
            clock.move(minutes=-5)
            assert T0 == recorder.now()
            clock.move(minutes=10)
            assert clock.now == recorder.now()
            recorder.insert_events([enrolled("b")])
            clock.move(minutes=-10)
            assert T0 + timedelta(minutes=5) == recorder.now()

        with pytest.raises(AssertionError):
            recorder.now()

    def test_a_version_of_a_stream_is_recorded_once(self, recorder: LedgerRecorder) -> None:
        """A second event of the same stream and version is refused with all of its append."""
        recorder.insert_events([enrolled("a")])

        b, c = enrolled("b"), enrolled("c")
        for again in ([enrolled("a")], [b, b], [c, enrolled("a")]):
            with pytest.raises(IntegrityError):
                recorder.insert_events(again)
        assert ["operator/a"] == [recorded.stream for recorded in recorder.events()]

    def test_streams_are_told_apart_byte_for_byte(self, recorder: LedgerRecorder) -> None:
        """Letter case, other scripts and prefixes make another stream."""
        names = ["a", "A", "ab", "\u0430", "a/b", "a:b", "é", "a "]
        recorder.insert_events([enrolled(name) for name in names])

        assert [[name] for name in names] == [
            [recorded.event.about for recorded in recorder.stream(f"operator/{name}")]
            for name in names
        ]

    def test_a_stream_is_read_for_some_types_only(self, recorder: LedgerRecorder) -> None:
        """Only the events of the types that are named come back, in their order."""
        recorder.insert_events([enrolled("a", version) for version in (1, 2)])
        type_ = recorder.stream("operator/a")[0].type

        assert [1, 2] == [each.version for each in recorder.stream("operator/a", types=(type_,))]
        assert [] == recorder.stream("operator/a", types=("operator.key_issued",))

    def test_a_stream_is_read_in_part(self, recorder: LedgerRecorder) -> None:
        """After a version, up to a position, or both."""
        recorder.insert_events([enrolled("a", version) for version in (1, 2)])
        recorder.insert_events([enrolled("b")])
        recorder.insert_events([enrolled("a", version) for version in (3, 4)])

        def versions(**part: Any) -> list[int]:
            return [recorded.version for recorded in recorder.stream("operator/a", **part)]

        assert [1, 2, 3, 4] == versions()
        assert [3, 4] == versions(after=2)
        assert [1, 2] == versions(until=3)
        assert [2, 3] == versions(after=1, until=4)
        assert [] == versions(after=4)
        assert [] == recorder.stream("operator/unknown")

    def test_the_streams_of_a_category_are_read_together(self, recorder: LedgerRecorder) -> None:
        """In ledger order, and without those of a category whose name begins alike."""
        groups = [
            stored(GroupDefined(group=name, resources=()), version)
            for name, version in (("b", 1), ("a", 1), ("b", 2))
        ]
        recorder.insert_events([groups[0], enrolled("group"), groups[1], groups[2]])

        assert [1, 3, 4] == [recorded.position for recorded in recorder.streams("group")]
        assert [1, 3] == [recorded.position for recorded in recorder.streams("group", until=3)]
        assert [] == recorder.streams("grou")
        assert [2] == [recorded.position for recorded in recorder.streams("operator")]

    def test_the_ledger_is_read_in_part(
        self, recorder: LedgerRecorder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After a position and up to one, in batches of any size."""
        recorder.insert_events([enrolled(f"o{number}") for number in range(7)])

        for batch in (1, 2, 3, 7, 8):
            monkeypatch.setattr("ledger.store.recorder.READ_BATCH", batch)
            assert [1, 2, 3, 4, 5, 6, 7] == positions(recorder)
            part = recorder.events(after=2, until=5)
            assert [3, 4, 5] == [recorded.position for recorded in part]

    def test_events_are_read_by_their_positions(self, recorder: LedgerRecorder) -> None:
        """In the order in which they are asked for."""
        recorder.insert_events([enrolled(name) for name in "abc"])

        assert [3, 1] == [recorded.position for recorded in recorder.at_positions([3, 1])]
        assert [] == recorder.at_positions([])
        with pytest.raises(KeyError):
            recorder.at_positions([4])

    def test_position_at_is_the_newest_known_at_an_instant(
        self, recorder: LedgerRecorder, clock: SetClock
    ) -> None:
        """Of several events in one instant all are known then; before the first, none is."""
        assert 0 == recorder.position_at(T0)
        for moved in (0, 0, 10, 0, 10):
            clock.move(seconds=moved)
            recorder.insert_events([enrolled(f"o{recorder.position}")])

        found = {
            seconds: recorder.position_at(T0 + timedelta(seconds=seconds))
            for seconds in (-1, 0, 9, 10, 19, 20, 1_000_000)
        }

        assert {-1: 0, 0: 2, 9: 2, 10: 4, 19: 4, 20: 5, 1_000_000: 5} == found
        assert 2 == recorder.position_at(T0 + timedelta(seconds=10) - TICK)

    def test_events_are_never_changed_deleted_replaced_or_left_out(
        self, path: Where, recorder: LedgerRecorder
    ) -> None:
        """The store itself refuses, also behind the recorder's back."""
        recorder.insert_events([enrolled("a"), enrolled("b"), enrolled("c")])
        before = list(recorder.events())

        for statement in self.FORBIDDEN:
            with (
                self.sql(path) as run,
                pytest.raises(Exception, match=r"never|no gap|duplicate key") as refusal,
            ):
                run(statement)
            assert isinstance(refusal.value, recorder.store.refusals), statement
            assert before == list(recorder.events()), statement
        assert [4] == recorder.insert_events([enrolled("d")])

    @pytest.mark.parametrize("beyond", [0, 1])
    def test_an_event_is_as_large_as_the_limit_and_no_larger(
        self, recorder: LedgerRecorder, beyond: int
    ) -> None:
        """With its envelope a fact fits a log entry, or it is refused and nothing is recorded."""

        def evidenced(padding: int) -> Draft:
            return Draft(
                ViolationRecorded(
                    subject=Subject(type="user", id="alice"),
                    violation="vio_1",
                    policy="aup@1",
                    clause="fraud",
                    category="fraud",
                    severity="high",
                    occurred_at=T0,
                    detected_by="human",
                    summary="x" * padding,
                    evidence=(RecordedEvidence(uri="x" * 1950, sha256="0" * 64),) * 29,
                ),
                JO,
            )

        room = EVENT_BYTES_MAX - 700 - len(encode(evidenced(1))) + 1
        draft = evidenced(room + beyond)
        placed = Placed(draft.event.stream, 1, draft)

        if beyond:
            with pytest.raises(EventTooLarge), recorder.transaction() as c:
                recorder.append(c, placed, recorder.now())
            assert 0 == recorder.position
        else:
            with recorder.transaction() as c:
                recorder.append(c, placed, recorder.now())
            assert 1 == recorder.position

    # --- transactions -----------------------------------------------------------------------------

    def test_an_error_leaves_nothing_behind(self, recorder: LedgerRecorder) -> None:
        """What was appended in a transaction that an error ends was never there."""
        with pytest.raises(KeyboardInterrupt):
            append_then_raise(recorder, KeyboardInterrupt, "a", "b")

        assert [] == positions(recorder)
        assert [1] == recorder.insert_events([enrolled("b")])

    def test_a_transaction_inside_another_is_refused_alone(self, recorder: LedgerRecorder) -> None:
        """An inner refusal leaves what the outer transaction did before and does after it."""
        with recorder.transaction():
            recorder.insert_events([enrolled("before")])
            with pytest.raises(Interrupted):
                append_then_raise(recorder, Interrupted, "inner", "more")
            recorder.insert_events([enrolled("after")])

        assert ["before", "after"] == [recorded.event.about for recorded in recorder.events()]
        assert [1, 2] == positions(recorder)

    def test_an_outer_refusal_takes_the_inner_with_it(self, recorder: LedgerRecorder) -> None:
        """What an inner transaction did stands only when the outermost commits."""

        def outer() -> None:
            with recorder.transaction():
                with recorder.transaction():
                    recorder.insert_events([enrolled("inner")])
                with pytest.raises(Interrupted):
                    append_then_raise(recorder, Interrupted, "refused")
                raise Interrupted

        with pytest.raises(Interrupted):
            outer()

        assert [] == positions(recorder)

    def test_a_conflict_inside_a_transaction_leaves_the_rest(
        self, recorder: LedgerRecorder
    ) -> None:
        """A version that is taken is refused, and the transaction goes on."""
        with recorder.transaction():
            recorder.insert_events([enrolled("a")])
            with pytest.raises(IntegrityError):
                recorder.insert_events([enrolled("a")])
            recorder.insert_events([enrolled("a", 2)])

        assert [1, 2] == [recorded.version for recorded in recorder.events()]

    def test_reading_inside_a_write_sees_what_was_written(self, recorder: LedgerRecorder) -> None:
        """A decision sees the facts that were appended just before it, though nobody else does."""
        with recorder.transaction():
            recorder.insert_events([enrolled("a")])
            with ThreadPoolExecutor(1) as other:
                elsewhere = other.submit(positions, recorder).result()

            assert [1] == positions(recorder)
            assert 1 == len(recorder.stream("operator/a"))
            assert [] == elsewhere

    def test_a_snapshot_does_not_see_later_commits(self, recorder: LedgerRecorder) -> None:
        """Whoever reads in several steps reads one state of the ledger."""
        recorder.insert_events([enrolled("a")])
        with (
            ThreadPoolExecutor(1) as other,
            recorder.store.transaction(commit=False),
        ):
            before = positions(recorder)
            other.submit(recorder.insert_events, [enrolled("b")]).result()

            assert [1] == before
            assert (before, 1, []) == (
                positions(recorder),
                recorder.position,
                recorder.stream("operator/b"),
            )
        assert [1, 2] == positions(recorder)

    def test_whoever_waits_too_long_for_the_lock_is_refused(
        self, path: Where, clock: SetClock, recorder: LedgerRecorder
    ) -> None:
        """A store that is busy says so after the limit; the next attempt goes through."""
        impatient = self.open(path, clock, lock_timeout_s=0.05)
        with recorder.transaction():
            recorder.insert_events([enrolled("a")])
            with pytest.raises(StoreBusy, match=r"within 0\.05 s"):
                impatient.insert_events([enrolled("b")])
            assert [] == positions(impatient)

        assert [2] == impatient.insert_events([enrolled("b")])
        impatient.store.close()

    def test_threads_take_turns(self, recorder: LedgerRecorder) -> None:
        """Many threads append through one recorder, and leave a dense ledger."""
        start = threading.Barrier(4)

        def append(name: str) -> None:
            start.wait()
            for version in range(1, 11):
                recorder.insert_events([enrolled(name, version)])

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(append, "abcd"))

        assert list(range(1, 41)) == positions(recorder)
        assert [10] * 4 == [len(recorder.stream(f"operator/{name}")) for name in "abcd"]

    def test_processes_take_turns(self, path: Where, clock: SetClock) -> None:
        """Two processes that open and fill one store at the same time leave a dense ledger."""
        program = (
            f"{self.OPENING}\n"
            "from tests.store.contract import enrolled\n"
            "print('ready', flush=True)\n"
            "input()\n"
            "for version in range(1, 51):\n"
            "    recorder.insert_events([enrolled(sys.argv[2], version)])\n"
        )
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", program, str(path), name],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for name in ("a", "b")
        ]
        for process in processes:
            assert process.stdout
            assert "ready\n" == process.stdout.readline()
        for process in processes:
            assert process.stdin
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            process.communicate(timeout=60)
            assert 0 == process.returncode

        recorder = self.open(path, clock)
        assert list(range(1, 101)) == positions(recorder)
        for name in "ab":
            versions = [recorded.version for recorded in recorder.stream(f"operator/{name}")]
            assert list(range(1, 51)) == versions
        recorder.store.close()

    # --- projections and who is told --------------------------------------------------------------

    def test_a_projection_sees_each_event_with_its_place(
        self, path: Where, clock: SetClock
    ) -> None:
        """It is shown just what reading the ledger shows later, in order."""
        names = Names()
        recorder = self.open(path, clock, projections=[names])
        recorder.insert_events([enrolled("a"), enrolled("b")])
        recorder.insert_events([enrolled("c")])

        assert list(recorder.events()) == names.seen
        with self.sql(path) as run:
            assert [(1, "a"), (2, "b"), (3, "c")] == run("SELECT position, name FROM names")
        recorder.store.close()

    def test_it_is_told_what_was_committed_and_only_then(
        self, path: Where, clock: SetClock
    ) -> None:
        """After the outermost commit, once, in order, without what was refused inside."""
        told: list[list[int]] = []

        def committed(recorded: Sequence[Recorded]) -> None:
            with self.sql(path) as run:
                on_disk = run("SELECT count(*) FROM events")
            assert [(recorded[-1].position,)] == on_disk
            told.append([one.position for one in recorded])

        recorder = self.open(path, clock, projections=[Names()], committed=committed)
        recorder.insert_events([enrolled("a")])
        with recorder.transaction():
            recorder.insert_events([enrolled("b")])
            with pytest.raises(Interrupted):
                append_then_raise(recorder, Interrupted, "c")
            recorder.insert_events([enrolled("d"), enrolled("e")])
            assert [[1]] == told
        with pytest.raises(IntegrityError):
            recorder.insert_events([enrolled("f"), enrolled("a")])
        with recorder.transaction():
            pass

        assert [[1], [2, 3, 4]] == told
        recorder.store.close()

    # --- idempotency ------------------------------------------------------------------------------

    def test_a_command_is_remembered_for_its_operator(self, recorder: LedgerRecorder) -> None:
        """What a key led to is found again by the same operator, and by nobody else."""
        with recorder.transaction() as c:
            recorder.remember_command(c, "jo", "key-1", "fingerprint", 7, recorded=True)

        with recorder.store.transaction(commit=False) as c:
            assert ("fingerprint", 7, True) == recorder.find_command(c, "jo", "key-1")
            assert recorder.find_command(c, "jo", "key-2") is None
            assert recorder.find_command(c, "Jo", "key-1") is None

    # --- a store that does not add up -------------------------------------------------------------

    @pytest.mark.parametrize(
        ("column", "value"),
        [("type", "moon.landed"), ("schema", 2)],
        ids=["an unknown type", "a newer schema"],
    )
    def test_a_fact_of_a_newer_version_is_not_read_and_not_touched(
        self, path: Where, recorder: LedgerRecorder, column: str, value: Any
    ) -> None:
        """It is never guessed at: reading says that the program is too old, the bytes stay."""
        event = enrolled("b")
        newer = StoredEvent(
            event.originator_id,
            event.originator_version,
            value if column == "type" else event.topic,
            orjson.dumps(orjson.loads(event.state) | {"schema": value})
            if column == "schema"
            else event.state,
        )
        recorder.insert_events([enrolled("a"), newer])

        with pytest.raises(UnknownFact) as caught:
            list(recorder.events())
        with pytest.raises(UnknownFact):
            recorder.stream("operator/b")
        assert {"position": 2} == caught.value.more
        assert "a" == recorder.stream("operator/a")[0].event.about
        assert [newer] == recorder.select_events("operator/b")
        with self.sql(path) as run:
            assert [(newer.topic, newer.state)] == [
                (type_, bytes(state))
                for type_, state in run("SELECT type, state FROM events WHERE position = 2")
            ]

    def test_the_first_fact_of_a_newer_version_is_named_and_none_is_taken_for_one(
        self, recorder: LedgerRecorder
    ) -> None:
        """A service asks before it starts; what it knows is passed over, however much it is."""
        recorder.insert_events([enrolled("a"), enrolled("b")])
        recorder.refuse_unknown_facts()

        event = enrolled("c")
        newer = event.state.removesuffix(b"1}") + b"12}"
        unknown = [
            StoredEvent(event.originator_id, version, event.topic, newer) for version in (1, 2)
        ]
        with recorder.transaction() as c:
            for stored in unknown:
                recorder._write(c, stored, recorder.now())

        with pytest.raises(UnknownFact, match=r"event 3 is a operator\.enrolled of schema 12"):
            recorder.refuse_unknown_facts()

    @pytest.mark.parametrize(
        ("column", "value"),
        [
            ("state", b""),
            ("state", b"{"),
            ("state", b"7"),
            ("state", b"[]"),
            ("state", b'"schema"'),
            ("state", b"{}"),
            ("state", b"\xff\xfe"),
            ("state", encode(Draft(OperatorKeyRevoked(operator="a", key="key_1"), JO))),
            ("state", enrolled("a").state[:-1]),
            ("state", enrolled("a").state.replace(b"officer", b"emperor")),
            ("state", enrolled("a").state.replace(b'"schema":1', b'"schema":[1]')),
            ("state", enrolled("a").state.replace(b'"schema":1', b'"schema":1,"more":1')),
            ("state", enrolled("a").state.replace(b'"role"', b'"rule"')),
            ("state", enrolled("other").state),
            ("stream", b"operator/other"),
            ("recorded_at", b"yesterday"),
        ],
        ids=[
            "empty",
            "cut to nothing",
            "a number",
            "a list",
            "a text",
            "an empty object",
            "no UTF-8",
            "of another type",
            "cut by a byte",
            "a value that is none",
            "a schema that is none",
            "a member more",
            "a member renamed",
            "of another stream",
            "moved to another stream",
            "recorded at no instant",
        ],
    )
    def test_what_no_version_can_have_written_is_told(
        self, path: Where, recorder: LedgerRecorder, column: str, value: bytes
    ) -> None:
        """Bytes and columns that do not belong together are found when they are read."""
        recorder.insert_events([enrolled("a")])
        self.defenceless(path)
        literal = self.literal(value) if column == "state" else f"'{value.decode()}'"
        with self.sql(path) as run:
            run(f"UPDATE events SET {column} = {literal} WHERE position = 1")

        with pytest.raises(TamperDetected) as caught:
            recorder.event(1)
        with pytest.raises(TamperDetected):
            list(recorder.events())

        assert {"position": 1} == caught.value.more
