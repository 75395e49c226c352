"""The feed: everything in memory follows the store, in order, or nothing is answered from it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Coroutine, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

import orjson
import pytest

from ledger.domain.errors import Behind, NotFound, Unavailable
from ledger.domain.events import Recorded
from ledger.domain.values import Basis, Scope, Subject
from ledger.service.feed import Feed
from ledger.service.http.authzen import DecisionPoint
from ledger.service.settings import Settings
from ledger.service.wiring import Service, build
from ledger.store.recorder import LedgerRecorder
from ledger.store.sqlite import LedgerDatastore
from projections.access import AccessIndex, Answer
from projections.operators import Keyring
from tests.checks import check_ledger
from tests.conftest import SetClock
from tests.histories import OFFICER, awake, founded
from tests.service.conftest import Running, joined, suspension_of

T = TypeVar("T")

ACME = Subject(type="organization", id="acme")
SCOPE = Scope.model_validate({"resources": [{"type": "model"}]})


class Witness:
    """A follower that notes what it sees, and fails at a position when it is told to."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.seen: list[int] = []
        self.fails_at = fails_at

    def apply(self, recorded: Recorded) -> None:
        """Note an event."""
        if recorded.position == self.fails_at:
            raise ZeroDivisionError("this event is too much")
        self.seen.append(recorded.position)


def within(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end, but not for ever."""
    return asyncio.run(asyncio.wait_for(work, 30))


def link(service: Service, number: int) -> int:
    """Record one event; return its position."""
    subject = Subject(type="user", id=f"u{number}")
    return service.ledger.link(subject, parent=ACME, by=OFFICER).recorded.position


def suspend(service: Service, name: str) -> int:
    """Suspend a user from all models; return the position."""
    done = service.ledger.suspend(
        Subject(type="user", id=name),
        scope=SCOPE,
        indefinite=True,
        basis=Basis.LEGAL_ORDER,
        reason="An order.",
        by=OFFICER,
    )
    return done.recorded.position


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A service that is built and not started."""
    service = founded(tmp_path, SetClock())
    yield service
    check_ledger(service)
    service.recorder.store.close()


@pytest.fixture
def other(service: Service) -> Iterator[Service]:
    """Another service on the same file, as another process would be."""
    other = build(service.settings, clock=service.clock)
    yield other
    other.recorder.store.close()


@pytest.fixture
def witness(service: Service) -> Iterator[Witness]:
    """What a running feed of the service shows to a follower."""
    witness = Witness()
    feed = Feed(service.recorder, (witness,))
    feed.start(service.recorder.position)
    yield witness
    feed.stop()


def feed_of(service: Service) -> Feed:
    """The feed that follows a service's own commits."""
    feed: Feed = service.recorder.committed.__self__  # type: ignore[attr-defined]
    return feed


# --- order ----------------------------------------------------------------------------------------


def test_own_writes_are_applied_when_they_are_answered(service: Service, witness: Witness) -> None:
    """Nobody has to wait for what this process wrote itself."""
    positions = [link(service, 1), link(service, 2)]

    assert positions == witness.seen


def test_own_writes_are_not_read_again(
    service: Service, other: Service, witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watch finds that nothing came after them; what others add or put there it reads."""
    link(service, 1)
    read = LedgerRecorder.events
    monkeypatch.setattr(LedgerRecorder, "events", lambda *_, **__: pytest.fail("it was read"))
    feed_of(service).catch_up()
    assert service.recorder.ends_with_own(service.recorder.position)

    monkeypatch.setattr(LedgerRecorder, "events", read)
    position = link(other, 2)
    feed_of(service).catch_up()
    assert position == witness.seen[-1]
    assert not service.recorder.ends_with_own(position)
    assert not service.recorder.ends_with_own(position - 1)


def test_an_own_commit_is_a_look(
    service: Service, other: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes in what others had committed before it, so the watch need not look just then."""
    witness, looks, store = Witness(), list[int](), service.recorder.store
    feed = Feed(service.recorder, (witness,))
    feed.position = service.recorder.position
    service.recorder.committed = feed.committed
    first = feed.position + 1
    steps = iter(
        [
            lambda: link(service, 1),
            lambda: link(other, 2),
            lambda: link(other, 3) and link(service, 4),
            feed._stop.set,
        ]
    )
    look = store.data_version

    def looked() -> int:
        looks.append(feed.position)
        return look()

    monkeypatch.setattr(store, "await_commit", lambda _: next(steps)())
    monkeypatch.setattr(store, "data_version", looked)
    feed._watch()

    assert [first, first + 3] == looks
    assert [first, first + 1, first + 2, first + 3] == witness.seen


@pytest.mark.parametrize("column", ["stream", "type", "recorded_at", "state"])
def test_an_own_write_that_was_replaced_is_noticed(
    service: Service, witness: Witness, tmp_path: Path, column: str
) -> None:
    """An event at the same position is another one, whatever of it differs."""
    position = link(service, 1)
    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as c:
        c.execute("DROP TRIGGER events_are_never_changed")
        ((before,),) = c.execute(f"SELECT {column} FROM events WHERE position = ?", (position,))
        change = f"UPDATE events SET {column} = ? WHERE position = {position}"
        c.execute(change, (before[:-1] + before[:1],))
        assert not service.recorder.ends_with_own(position)

        c.execute(change, (before,))
        assert service.recorder.ends_with_own(position)


def test_commands_committed_together_are_applied_in_order(
    service: Service, witness: Witness
) -> None:
    """Nothing of a commit is shown before the commit, and then all of it is."""
    with service.ledger.together():
        positions = [link(service, number) for number in range(5)]
        assert [] == witness.seen

    assert positions == witness.seen


def test_what_is_rolled_back_is_never_shown(service: Service, witness: Witness) -> None:
    """A follower sees facts only."""
    with suppress(ZeroDivisionError), service.ledger.together():
        link(service, 1)
        raise ZeroDivisionError

    position = link(service, 2)
    assert [position] == witness.seen


def test_the_writes_of_others_arrive_by_themselves(
    service: Service, other: Service, witness: Witness
) -> None:
    """Another process's commit is noticed without anybody asking."""
    positions = [link(other, number) for number in range(5)]

    within(feed_of(service).wait_for(positions[-1], timeout_s=20))
    assert positions == witness.seen


def test_what_others_wrote_before_comes_before_what_was_just_written(
    service: Service, other: Service, tmp_path: Path
) -> None:
    """A process that has not yet noticed another's commit catches up before its own."""
    awake(service)
    witness = Witness()
    feed = Feed(service.recorder, (witness,))
    feed.position = service.recorder.position
    service.recorder.committed = feed.committed

    theirs = [link(other, 1), link(other, 2)]
    assert [] == witness.seen
    ours = [link(service, 3), link(service, 4)]

    assert [*theirs, *ours] == witness.seen


def test_two_services_that_write_in_turns_both_see_everything_once(
    service: Service, other: Service, witness: Witness
) -> None:
    """However two processes interleave, each follower sees one dense row of positions."""
    opposite = Witness()
    theirs = Feed(other.recorder, (opposite,))
    theirs.start(other.recorder.position)
    positions = [link(service if number % 3 else other, number) for number in range(60)]

    for feed in (feed_of(service), theirs):
        within(feed.wait_for(positions[-1], timeout_s=20))
    theirs.stop()
    assert positions == witness.seen == opposite.seen


# --- failing --------------------------------------------------------------------------------------


def test_a_follower_that_fails_stops_the_feed_for_good(service: Service) -> None:
    """What comes after an event that was missed must not be applied on top of the gap."""
    first = service.recorder.position + 1
    before, failing = Witness(), Witness(fails_at=first + 1)
    feed = Feed(service.recorder, (before, failing))
    feed.start(service.recorder.position)

    positions = [link(service, number) for number in range(4)]

    assert [first, first + 1, first + 2, first + 3] == positions
    assert first == feed.position
    assert [first] == failing.seen
    with pytest.raises(Unavailable, match=f"after position {first}: this event is too much"):
        feed.require_current()
    feed.catch_up()
    assert ([first, first + 1], [first]) == (before.seen, failing.seen)
    feed.stop()


def test_a_fact_of_a_newer_version_stops_the_feed(service: Service, tmp_path: Path) -> None:
    """A program that does not understand an event says what to do, and does not guess."""
    witness = Witness()
    feed = Feed(service.recorder, (witness,))
    feed.start(service.recorder.position)
    head = service.recorder.position
    state = service.recorder.select_notifications(head, 1)[0].state
    newer = orjson.dumps({**orjson.loads(state), "schema": 2}, option=orjson.OPT_SORT_KEYS)
    with sqlite3.connect(tmp_path / "ledger.db", isolation_level=None) as c:
        c.execute(
            "INSERT INTO events SELECT position + 1, 'ghost', 1, 'ghost.seen', recorded_at, ? "
            "FROM events WHERE position = ?",
            (newer, head),
        )

    with pytest.raises(Behind):
        within(feed.wait_for(head + 1, timeout_s=0.2))
    with pytest.raises(Unavailable, match=r"ghost\.seen of schema 2.*Upgrade this program"):
        feed.require_current()
    feed.stop()
    with sqlite3.connect(tmp_path / "ledger.db", isolation_level=None) as c:
        c.execute("DROP TRIGGER events_are_never_deleted")
        c.execute("DELETE FROM events WHERE stream = 'ghost'")
    c.close()


class Unplugged(LedgerDatastore):
    """A store that can no longer be watched."""

    def data_version(self) -> int:
        """Fail."""
        raise sqlite3.OperationalError("disk I/O error")


def test_a_store_that_cannot_be_watched_makes_checks_unavailable(
    service: Service, tmp_path: Path
) -> None:
    """A process that would not notice a suspension must not answer."""
    store = Unplugged(tmp_path / "ledger.db")
    feed = Feed(LedgerRecorder(store, clock=service.clock, log=service.log), ())

    feed.start(service.recorder.position)

    assert feed._thread is not None
    feed._thread.join(20)
    with pytest.raises(Unavailable, match="disk I/O error"):
        feed.require_current()
    feed.stop()
    store.close()


def test_a_process_whose_memory_is_stale_answers_no_check(founded: Running) -> None:
    """A stale yes would be wrong: 503 for checks, commands and readiness; alive all the same."""
    assert founded.allowed("user:ann", "atlas-3")
    suspension_of(founded, "user:ann")
    with joined(founded) as second:
        failing = Witness(fails_at=founded.service.recorder.position + 1)
        second.service.feed._followers = (*second.service.feed._followers, failing)
        assert not second.allowed("user:ann", "atlas-3")

        suspension_of(founded, "user:bob", basis="legal_order")

        # It is noticed within some milliseconds; the answer that waits for it comes after that.
        ready = second("GET", "/readyz")
        while ready.status_code == 200:
            ready = second("GET", "/readyz")
        body = {
            "subject": {"type": "user", "id": "bob"},
            "action": {"name": "use"},
            "resource": {"type": "model", "id": "atlas-3"},
        }
        for path in ("/access/v1/evaluation", "/access/v1/evaluations"):
            refused = second("POST", path, role="service", json=body)
            assert (503, "unavailable") == (refused.status_code, refused.json()["code"])
        command = second("GET", "/v1/suspensions", role="auditor")
        assert (503, "unavailable") == (command.status_code, command.json()["code"])
        assert 200 == second("GET", "/livez").status_code
        assert not founded.allowed("user:bob", "atlas-3")


# --- waiting --------------------------------------------------------------------------------------


def test_waiting_for_what_is_applied_takes_no_time(service: Service, witness: Witness) -> None:
    """The usual case: the position was applied long ago."""
    position = link(service, 1)

    within(feed_of(service).wait_for(position, timeout_s=0))
    within(feed_of(service).wait_for(0, timeout_s=0))


def test_waiting_for_what_does_not_come_ends(service: Service, witness: Witness) -> None:
    """The caller is told which position is asked for, and which is applied."""
    head = service.recorder.position

    with pytest.raises(Behind, match=f"position {head + 1} is asked for, {head} is applied"):
        within(feed_of(service).wait_for(head + 1, timeout_s=0.05))


def test_everybody_who_waits_is_woken_by_what_they_wait_for(
    service: Service, other: Service, witness: Witness
) -> None:
    """Each waits for its own position, and nobody is forgotten or woken too early."""
    feed, head = feed_of(service), service.recorder.position

    async def wait_for(position: int) -> int:
        await feed.wait_for(position, timeout_s=20)
        assert feed.position >= position
        return position

    async def wait() -> list[int]:
        waiting = [asyncio.ensure_future(wait_for(head + n)) for n in (3, 1, 2, 3, 1)]
        await asyncio.sleep(0)
        await asyncio.to_thread(lambda: [link(other, number) for number in range(3)])
        return list(await asyncio.gather(*waiting))

    assert [head + n for n in (3, 1, 2, 3, 1)] == within(wait())
    assert [] == feed._waiting


def test_a_caller_that_went_away_is_not_waited_for(service: Service, witness: Witness) -> None:
    """What a cancelled request or a closed loop leaves behind is cleared by the next event."""
    feed, head = feed_of(service), service.recorder.position

    async def leave() -> None:
        gone = asyncio.ensure_future(feed.wait_for(head + 1, timeout_s=20))
        asyncio.ensure_future(feed.wait_for(head + 1, timeout_s=20))  # noqa: RUF006 - left behind
        await asyncio.sleep(0)
        gone.cancel()

    within(leave())
    assert feed._waiting
    link(service, 1)
    assert [] == feed._waiting


# --- what an answer claims ------------------------------------------------------------------------


class Overtaken(AccessIndex):
    """An index to which an event comes in just after it was asked, as from the feed's thread."""

    def __init__(self) -> None:
        super().__init__()
        self.next: Recorded | None = None

    def check(self, *asked: Any, **more: Any) -> Answer:
        """Answer, and only then take in the event."""
        answer = super().check(*asked, **more)
        self.take_in_next()
        return answer

    def allows_all(self, subject: str) -> bool:
        """Answer, and only then take in the event."""
        answer = super().allows_all(subject)
        self.take_in_next()
        return answer

    def take_in_next(self) -> None:
        """Take in the event, once."""
        if self.next is not None:
            self.apply(self.next)
            self.next = None


@pytest.mark.parametrize("path", ["evaluation", "evaluations"])
def test_an_answer_claims_no_event_that_came_while_it_was_made(service: Service, path: str) -> None:
    """Allowed at a position means: not suspended by any event up to that position."""
    index, keyring = Overtaken(), Keyring()
    point = DecisionPoint(
        index, keyring, Feed(service.recorder, (index,)), lambda: index.recorded_at
    )
    for recorded in service.recorder.events():
        index.apply(recorded)
    suspended_at = suspend(service, "ann")
    index.next = service.recorder.event(suspended_at)
    item = {
        "subject": {"type": "user", "id": "ann"},
        "action": {"name": "use"},
        "resource": {"type": "model", "id": "m1"},
    }
    body = orjson.dumps(item if path == "evaluation" else {"evaluations": [item]})

    first = orjson.loads(getattr(point, path)(body))
    position = point.position
    second = orjson.loads(getattr(point, path)(body))

    if path == "evaluations":
        first, second = first["evaluations"][0], second["evaluations"][0]
    assert (True, suspended_at - 1) == (first["decision"], first["context"]["position"])
    assert suspended_at - 1 == position
    assert (False, suspended_at) == (second["decision"], second["context"]["position"])


def test_a_service_without_a_ledger_does_not_start(tmp_path: Path) -> None:
    """There is nothing to follow in an empty database."""
    service = build(Settings(database_url=f"sqlite:///{tmp_path / 'empty.db'}"), clock=SetClock())

    with pytest.raises(NotFound, match="holds no ledger"):
        service.start()
    service.recorder.store.close()
