"""The writer: commands that share a commit are refused one by one and answered after it."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
from eventsourcing.persistence import Cursor

from ledger.application import Done
from ledger.domain.errors import AlreadyLinked, LinkCycle, StoreBusy, Unavailable
from ledger.domain.events import Recorded
from ledger.domain.values import Subject
from ledger.service.wiring import Service
from ledger.service.writer import COMMANDS_TOGETHER_MAX, WAITING_MAX
from ledger.store.sqlite import LedgerDatastore
from tests.checks import check_ledger
from tests.conftest import SetClock
from tests.histories import OFFICER, awake, founded

T = TypeVar("T")

ACME = Subject(type="organization", id="acme")


def user(number: int) -> Subject:
    """One of many users."""
    return Subject(type="user", id=f"u{number}")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A service of which only the writer runs; it is checked as a whole at the end."""
    service = awake(founded(tmp_path, SetClock()))
    service.writer.start()
    yield service
    service.writer.stop()
    check_ledger(service)
    service.recorder.store.close()


def link(service: Service, subject: Subject, parent: Subject = ACME) -> Callable[[], Done]:
    """A command that is refused when it is given twice."""
    return lambda: service.ledger.link(subject, parent=parent, by=OFFICER)


class Held:
    """A command that holds the writer until it is let go, so that others gather behind it."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def __call__(self) -> None:
        """Wait."""
        self.begun.set()
        assert self.go_on.wait(20)


def within(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end, but not for ever."""
    return asyncio.run(asyncio.wait_for(work, 30))


async def gathered(service: Service, *commands: Callable[[], object]) -> list[Any]:
    """Run commands that arrive while the writer is held, and so are committed together."""
    held = Held()
    first = asyncio.ensure_future(service.writer.run(held))
    await asyncio.to_thread(held.begun.wait, 20)
    behind = [asyncio.ensure_future(service.writer.run(command)) for command in commands]
    await asyncio.sleep(0)
    held.go_on.set()
    await first
    return list(await asyncio.gather(*behind, return_exceptions=True))


def commits(service: Service) -> list[list[int]]:
    """The positions of each commit from here on."""
    seen: list[list[int]] = []
    follow = service.recorder.committed

    def committed(recorded: Sequence[Recorded]) -> None:
        seen.append([each.position for each in recorded])
        follow(recorded)

    service.recorder.committed = committed
    return seen


# --- together -------------------------------------------------------------------------------------


def test_a_command_is_answered_with_what_it_returns(service: Service) -> None:
    """What the command returns is what the caller gets, once it is committed."""
    done = within(service.writer.run(link(service, user(1))))

    assert service.recorder.position == done.recorded.position == service.index.position


def test_commands_that_arrive_together_share_one_commit(service: Service) -> None:
    """Waiting for the disk once is enough for all of them."""
    seen, head = commits(service), service.recorder.position

    answers = within(gathered(service, *(link(service, user(n)) for n in range(10))))

    assert [list(range(head + 1, head + 11))] == seen
    assert seen[0] == [done.recorded.position for done in answers]


def test_a_refused_command_does_not_hold_up_the_rest(service: Service) -> None:
    """Each is refused by itself; the others are recorded, without a gap."""
    head = service.recorder.position

    answers = within(
        gathered(
            service,
            link(service, user(1)),
            link(service, user(1)),
            link(service, ACME),
            link(service, user(2)),
        )
    )

    assert AlreadyLinked is type(answers[1])
    assert LinkCycle is type(answers[2])
    assert [head + 1, head + 2] == [answers[0].recorded.position, answers[3].recorded.position]


def test_a_command_that_breaks_does_not_hold_up_the_rest(service: Service) -> None:
    """A fault of the program is its caller's answer, and nobody else's; what it wrote is undone."""
    head = service.recorder.position

    def breaks() -> None:
        with service.ledger.together():
            link(service, user(3))()
            raise ZeroDivisionError

    answers = within(gathered(service, link(service, user(1)), breaks, link(service, user(3))))

    assert ZeroDivisionError is type(answers[1])
    assert [head + 1, head + 2] == [answers[0].recorded.position, answers[2].recorded.position]


def test_no_commit_takes_more_commands_than_its_limit(service: Service) -> None:
    """The first of many does not wait for the last."""
    seen = commits(service)
    count = 2 * COMMANDS_TOGETHER_MAX + 10

    answers = within(gathered(service, *(link(service, user(n)) for n in range(count))))

    assert [COMMANDS_TOGETHER_MAX, COMMANDS_TOGETHER_MAX, 10] == [len(batch) for batch in seen]
    assert count == len({done.recorded.position for done in answers})


# --- when the commit fails ------------------------------------------------------------------------


class Demanding:
    """A projection whose rows are only found wanting at the commit."""

    NAME: ClassVar[str] = "demanding"
    TABLES: ClassVar[Sequence[str]] = ()
    DDL: ClassVar[Sequence[str]] = ()

    def apply(self, cursor: Cursor, recorded: Recorded) -> None:
        """Refer to a row that never comes."""
        cursor.execute("INSERT INTO children VALUES (?)", (recorded.position,))


def demand(service: Service) -> Callable[[], None]:
    """Let every commit fail from here on, until what is returned is called."""
    with service.recorder.store.transaction(commit=True) as c:
        c.execute("CREATE TABLE parents (id INTEGER PRIMARY KEY)")
        c.execute(
            "CREATE TABLE children (id INTEGER REFERENCES parents DEFERRABLE INITIALLY DEFERRED)"
        )
    before = service.recorder.projections
    service.recorder.projections = (*before, Demanding())

    def relent() -> None:
        service.recorder.projections = before

    return relent


def test_when_the_commit_fails_nobody_is_told_that_it_worked(service: Service) -> None:
    """All are answered with the failure: a refusal may rest on what was not recorded after all."""
    relent, head = demand(service), service.recorder.position

    answers = within(
        gathered(service, link(service, user(1)), link(service, user(1)), link(service, user(2)))
    )

    assert [sqlite3.IntegrityError] * 3 == list(map(type, answers))
    assert head == service.recorder.position == service.index.position
    relent()
    done = within(service.writer.run(link(service, user(1))))
    assert (head + 1, 1) == (done.recorded.position, done.recorded.version)


def test_when_the_disk_is_full_what_failed_is_not_recorded(service: Service) -> None:
    """Whoever was told that it failed is right, and with room again may try again."""
    commands = [link(service, user(n)) for n in range(60)]
    assert isinstance(service.recorder.store, LedgerDatastore)
    head, writer = service.recorder.position, service.recorder.store._writer
    assert writer is not None
    pages = writer.execute("PRAGMA page_count").fetchone()[0]
    writer.execute(f"PRAGMA max_page_count = {pages}")

    answers = within(gathered(service, *commands))

    failed = [n for n, answer in enumerate(answers) if isinstance(answer, Exception)]
    assert failed
    assert head + 60 - len(failed) == service.recorder.position == service.index.position
    # The connection that met the fault is closed; the next one knows no such limit.
    again = within(gathered(service, *(commands[n] for n in failed)))
    assert head + 60 == service.recorder.position == again[-1].recorded.position


def test_a_lock_that_is_not_to_be_had_is_an_answer(service: Service, tmp_path: Path) -> None:
    """Nothing is recorded while another process holds on to the lock; afterwards it is."""
    assert isinstance(service.recorder.store, LedgerDatastore)
    writer = service.recorder.store._writer
    assert writer is not None
    writer.execute("PRAGMA busy_timeout = 50")
    other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    for number in range(2):
        with pytest.raises(StoreBusy):
            within(service.writer.run(link(service, user(number))))
    other.execute("ROLLBACK")
    other.close()

    assert 1 == within(service.writer.run(link(service, user(1)))).recorded.version


# --- callers that go away, and too many of them ---------------------------------------------------


def test_a_caller_that_went_away_changes_nothing_for_the_rest(service: Service) -> None:
    """Its command is recorded all the same: whether it was, a repetition under its key tells."""
    head = service.recorder.position

    async def leave() -> Done:
        held = Held()
        first = asyncio.ensure_future(service.writer.run(held))
        await asyncio.to_thread(held.begun.wait, 20)
        gone = asyncio.ensure_future(service.writer.run(link(service, user(1))))
        stays = asyncio.ensure_future(service.writer.run(link(service, user(2))))
        await asyncio.sleep(0)
        gone.cancel()
        held.go_on.set()
        await first
        return await stays

    done = within(leave())

    assert head + 2 == done.recorded.position
    with pytest.raises(AlreadyLinked):
        within(service.writer.run(link(service, user(1))))


def test_a_loop_that_was_closed_changes_nothing_for_the_rest(service: Service) -> None:
    """A server that stopped while a command ran does not take the writer with it."""
    held = Held()

    async def leave() -> None:
        asyncio.ensure_future(service.writer.run(held))  # noqa: RUF006 - it is left behind
        await asyncio.to_thread(held.begun.wait, 20)

    within(leave())
    held.go_on.set()

    assert 1 == within(service.writer.run(link(service, user(1)))).recorded.version


def test_a_queue_without_end_is_refused(service: Service) -> None:
    """More waiting commands than the limit is an outage, and the next caller is told so at once."""

    async def crowd() -> int:
        held = Held()
        first = asyncio.ensure_future(service.writer.run(held))
        await asyncio.to_thread(held.begun.wait, 20)
        waiting = [
            asyncio.ensure_future(service.writer.run(lambda: None)) for _ in range(WAITING_MAX)
        ]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="commands are waiting"):
            await service.writer.run(lambda: None)
        held.go_on.set()
        await first
        return len(await asyncio.gather(*waiting))

    assert WAITING_MAX == within(crowd())


def test_what_waits_when_the_writer_is_told_to_stop_is_still_run(tmp_path: Path) -> None:
    """Stopping answers everybody who was let in."""
    service = awake(founded(tmp_path, SetClock()))
    service.writer.start()

    async def stop() -> Sequence[Done]:
        held = Held()
        first = asyncio.ensure_future(service.writer.run(held))
        await asyncio.to_thread(held.begun.wait, 20)
        waiting = [
            asyncio.ensure_future(service.writer.run(link(service, user(n)))) for n in range(5)
        ]
        await asyncio.sleep(0)
        stopping = asyncio.ensure_future(asyncio.to_thread(service.writer.stop))
        held.go_on.set()
        await first
        await stopping
        return await asyncio.gather(*waiting)

    assert 5 == len(within(stop()))
    check_ledger(service)
    service.recorder.store.close()
