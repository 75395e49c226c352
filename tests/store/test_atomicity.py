"""All or nothing: whatever fails, and wherever, a command leaves every trace or none."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from eventsourcing.persistence import Cursor

from ledger.application import Done, Ledger, Once
from ledger.domain.errors import AlreadyEnded, NotFound, StorageFull
from ledger.domain.events import Author, Clause, Recorded
from ledger.domain.values import Cause, Resource, Role, Scope, Subject
from tests.conftest import LOG_KEY, SetClock, check_store, open_ledger
from tests.store.failing import DISK_FAULTS, FailingStore, dump

JO = Author("jo")
ALICE = Subject(type="user", id="alice")
BOB = Subject(type="user", id="bob")
ACME = Subject(type="organization", id="acme")
SCOPE = Scope.model_validate({"resources": [{"group": "frontier"}, {"type": "tool"}]})
FRAUD = Clause(id="fraud", title="Fraud", text="None.", category="fraud", severity="high")


class Tally:
    """A projection that counts events, and fails as it is told: by an error, or at the commit."""

    NAME: ClassVar[str] = "tally"
    TABLES: ClassVar[Sequence[str]] = ("tally", "tally_dues")
    DDL: ClassVar[Sequence[str]] = (
        "CREATE TABLE IF NOT EXISTS tally (position INTEGER PRIMARY KEY)",
        """CREATE TABLE IF NOT EXISTS tally_dues (
            position INTEGER REFERENCES tally DEFERRABLE INITIALLY DEFERRED
        )""",
    )

    def __init__(self) -> None:
        self.fails: str | None = None

    def apply(self, cursor: Cursor, recorded: Recorded) -> None:
        """Count an event."""
        cursor.execute(f"INSERT INTO tally VALUES ({recorded.position})")
        if self.fails == "error":
            raise RuntimeError("the projection broke")
        if self.fails == "commit":
            # Found out by the COMMIT, and not before: the row it refers to never comes.
            cursor.execute("INSERT INTO tally_dues VALUES (-1)")


@dataclass
class Fixture:
    """A ledger whose parts fail on demand, with some facts in it."""

    path: Path
    ledger: Ledger
    store: FailingStore
    tally: Tally
    told: list[int]
    violation: str
    suspension: str


@pytest.fixture
def failing(path: Path, clock: SetClock) -> Iterator[Fixture]:
    """A ledger with a policy, a group, a linked user, a violation and two suspensions on it."""
    store, tally, told = FailingStore(path), Tally(), list[int]()
    ledger = open_ledger(
        path,
        clock,
        store=store,
        projections=[tally],
        committed=lambda recorded: told.extend(one.position for one in recorded),
    )
    ledger.open("test", log_key=LOG_KEY)
    ledger.publish("aup", title="Acceptable use", clauses=[FRAUD], by=JO)
    ledger.define_group("frontier", resources=(Resource(type="model", id="m1"),), by=JO)
    ledger.link(ALICE, parent=ACME, by=JO)
    violation = record_violation(ledger, ALICE)
    suspension = suspend(ledger, ALICE, violation)
    suspend(ledger, ACME, violation)
    yield Fixture(path, ledger, store, tally, told, violation, suspension)
    check_store(ledger.recorder)
    assert list(range(1, ledger.recorder.position + 1)) == told
    store.close()


def record_violation(ledger: Ledger, subject: Subject, once: Once | None = None) -> str:
    """Record a violation; return its id."""
    done = ledger.record_violation(
        subject,
        policy="aup",
        clause="fraud",
        occurred_at=ledger.recorder.clock(),
        detected_by="human",
        summary="It happened.",
        by=JO,
        once=once,
    )
    return str(done.recorded.event.about)


def suspend(ledger: Ledger, subject: Subject, ground: str, once: Once | None = None) -> str:
    """Suspend a subject for two months; return the id of the suspension."""
    done = ledger.suspend(
        subject,
        scope=SCOPE,
        duration="P2M",
        grounds=[ground],
        reason="Fraud.",
        by=JO,
        once=once,
    )
    return str(done.recorded.event.about)


ONCE = Once("key-1", "fingerprint")
COMMANDS: dict[str, Callable[[Fixture], object]] = {
    "record a violation": lambda f: record_violation(f.ledger, BOB, ONCE),
    "suspend": lambda f: suspend(f.ledger, ALICE, f.violation, ONCE),
    "overturn, which ends two suspensions": lambda f: f.ledger.overturn(
        f.violation, reason="Mistaken.", by=JO, once=ONCE
    ),
    "reinstate": lambda f: f.ledger.reinstate(
        f.suspension, cause=Cause.EARLY, reason="Enough.", by=JO, once=ONCE
    ),
    "revise": lambda f: f.ledger.revise(
        f.suspension, indefinite=True, reason="Worse.", by=JO, once=ONCE
    ),
    "unlink": lambda f: f.ledger.unlink(ALICE, parent=ACME, by=JO, once=ONCE),
    "issue a key": lambda f: (
        f.ledger.enroll("mod", role=Role.ADMIN, by=JO),
        f.ledger.issue_key("mod", by=JO, once=ONCE),
    ),
    "say what is so already": lambda f: f.ledger.define_group(
        "frontier", resources=(Resource(type="model", id="m1"),), by=JO, once=ONCE
    ),
}


def fault_of(
    failing: Fixture, command: Callable[[Fixture], object], fail_at: int
) -> Exception | None:
    """Run a command on a store that fails at a statement; return the fault, if it came to that."""
    failing.store.failing_at(fail_at)
    try:
        with failing.ledger.together():
            command(failing)
    except DISK_FAULTS as fault:
        return fault
    finally:
        failing.store.fail_at = 0
    return None


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_fails_at_any_statement_leaves_nothing(failing: Fixture, name: str) -> None:
    """For every n: when the n-th statement fails, no event, no row and no key is left behind."""
    before, failed_at = dump(failing.path), 1
    while (fault := fault_of(failing, COMMANDS[name], failed_at)) is not None:
        assert "disk I/O error" in str(fault)
        assert before == dump(failing.path)
        failed_at += 1

    # The command took so many statements, and has failed once at each of them.
    assert failed_at - 1 == failing.store.statements
    assert 4 < failed_at
    assert [("jo", "key-1", "fingerprint")] == [row[:3] for row in dump(failing.path)["commands"]]
    assert before["events"] == dump(failing.path)["events"][: len(before["events"])]


@pytest.mark.parametrize("fails", ["error", "commit"])
@pytest.mark.parametrize("name", list(COMMANDS)[:-1])
def test_a_projection_that_fails_takes_the_command_with_it(
    failing: Fixture, name: str, fails: str
) -> None:
    """Whether it fails at once or only at the commit, nothing is recorded, and the next is."""
    before, told = dump(failing.path), list(failing.told)
    failing.tally.fails = fails
    with pytest.raises((RuntimeError, sqlite3.IntegrityError)):
        COMMANDS[name](failing)

    assert before == dump(failing.path)
    assert told == failing.told
    failing.tally.fails = None
    COMMANDS[name](failing)
    assert len(before["events"]) < len(dump(failing.path)["events"])


def test_a_failed_commit_takes_all_that_were_committed_together(failing: Fixture) -> None:
    """Commands that share a commit share its fate: none of them was answered yet."""
    before = dump(failing.path)

    def commands() -> None:
        with failing.ledger.together():
            record_violation(failing.ledger, BOB)
            failing.tally.fails = "commit"
            record_violation(failing.ledger, ALICE)

    with pytest.raises(sqlite3.IntegrityError):
        commands()

    assert before == dump(failing.path)
    failing.tally.fails = None
    suspend(failing.ledger, BOB, record_violation(failing.ledger, BOB))


def test_a_command_that_fails_together_with_others_fails_alone(failing: Fixture) -> None:
    """A refusal or a fault of one leaves no trace, and the others are committed with one commit."""
    ledger, told = failing.ledger, list(failing.told)
    with ledger.together():
        first = record_violation(ledger, BOB, Once("first", "1"))
        with pytest.raises(NotFound):
            ledger.overturn("vio_unknown", reason="x", by=JO, once=Once("second", "2"))
        ledger.reinstate(failing.suspension, cause=Cause.EARLY, reason="x", by=JO)
        with pytest.raises(AlreadyEnded):
            ledger.reinstate(failing.suspension, cause=Cause.EARLY, reason="x", by=JO)
        failing.tally.fails = "error"
        with pytest.raises(RuntimeError):
            suspend(ledger, BOB, first, Once("third", "3"))
        failing.tally.fails = None
        suspend(ledger, BOB, first, Once("fourth", "4"))
        assert told == failing.told

    types = [recorded.type for recorded in ledger.recorder.events()][-3:]
    assert ["violation.recorded", "subject.reinstated", "subject.suspended"] == types
    assert [len(told) + 1, len(told) + 2, len(told) + 3] == failing.told[-3:]
    keys = [row[1] for row in dump(failing.path)["commands"]]
    assert ["first", "fourth"] == sorted(keys)


def test_a_full_disk_loses_nothing_and_halves_nothing(failing: Fixture) -> None:
    """When the database cannot grow, commands fail whole; once it can, they go through."""
    ledger = failing.ledger
    before = dump(failing.path)

    def limit(pages: int) -> None:
        with failing.store.transaction(commit=True) as c:
            c.execute(f"PRAGMA max_page_count = {pages}")

    limit(1)  # never below what is used already
    recorded = 0

    def fill() -> None:
        nonlocal recorded
        while True:
            record_violation(ledger, Subject(type="user", id=f"u{recorded}"))
            recorded += 1

    with pytest.raises(DISK_FAULTS, match="full"):
        fill()

    after = dump(failing.path)
    assert len(before["events"]) + recorded == len(after["events"])
    assert len(before["tally"]) + recorded == len(after["tally"])
    limit(1_000_000)
    record_violation(ledger, Subject(type="user", id=f"u{recorded}"))
    assert len(after["events"]) + 1 == len(dump(failing.path)["events"])


def test_a_full_disk_under_commands_together_is_never_half_answered(failing: Fixture) -> None:
    """Either the block raises and nothing stands, or what stands is what did not raise."""
    ledger = failing.ledger
    before = dump(failing.path)["events"]
    stands: list[str] = []

    def commands() -> None:
        with ledger.together():
            for number in range(200):
                try:
                    subject = Subject(type="user", id=f"u{number}")
                    stands.append(record_violation(ledger, subject))
                except DISK_FAULTS:
                    with failing.store.transaction(commit=False) as c:
                        c.execute("PRAGMA max_page_count = 1000000")

    with failing.store.transaction(commit=True) as c:
        c.execute("PRAGMA max_page_count = 1")
    try:
        commands()
    except StorageFull:
        stands.clear()

    found = [recorded.event.about for recorded in ledger.recorder.events(after=len(before))]
    assert stands == found
    assert len(before) + len(stands) == ledger.recorder.position


def test_a_refused_command_writes_nothing_at_all(failing: Fixture) -> None:
    """Not even the key of the command: the same key may come again, corrected."""
    before = dump(failing.path)

    with pytest.raises(NotFound):
        failing.ledger.overturn("vio_unknown", reason="x", by=JO, once=ONCE)

    assert before == dump(failing.path)
    done: Done = failing.ledger.overturn(failing.violation, reason="x", by=JO, once=ONCE)
    assert "recorded" == done.outcome
