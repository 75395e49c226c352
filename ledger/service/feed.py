"""Keeps what is in memory at the newest position: own writes at once, others' within 50 ms.

A follower sees every event once, in order. When one fails, the feed stops and says so: from then on
nothing in memory may be trusted to be current, and checks must not be answered from it.

When the ledger ends before what was applied, or has another event in its place, it lost events:
then what is in memory is what was answered and acted upon, and nobody knows better. The feed stays
there, says so, and checks go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import Final, Protocol

from ledger.domain.errors import Behind, LedgerError, LogNotVerified, Unavailable
from ledger.domain.events import Recorded
from ledger.store.recorder import LedgerRecorder

MIN_POSITION_WAIT_S: Final = 2.0  # how long a request waits to have applied Ledger-Min-Position
STANDBY_PAUSE_S: Final = 0.02  # between two looks at a standby, which tells nobody of its news

asked_position: ContextVar[int] = ContextVar("asked_position", default=0)
"""The position that the request at hand wants its answer to include."""

log = logging.getLogger(__name__)


class Follower(Protocol):
    """Something in memory that takes in every event."""

    def apply(self, recorded: Recorded) -> None:
        """Take in the next event."""


class Feed:
    """Applies committed events to followers, in order, whoever committed them."""

    def __init__(self, recorder: LedgerRecorder, followers: Sequence[Follower]) -> None:
        self._recorder = recorder
        self._followers = followers
        self._applying = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._waiting: list[tuple[int, asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._draining = False
        self._followed = 0  # own commits, each applied after what others had committed before it
        self.position = 0
        self.failure: Exception | None = None
        self.on_loss: Callable[[str], None] = lambda _: None
        """Called once, when the ledger lost events that were applied here, with what is lost."""
        self._last: Recorded | None = None  # what was applied at ``position``, unless loaded
        self._lost = False
        self._unreachable: Unavailable | None = None

    def start(self, position: int) -> None:
        """Begin at ``position``, from which the followers were loaded, and watch for commits."""
        self.position = self._recorder.newest = position
        self._recorder.committed = self.committed
        self._thread = threading.Thread(target=self._watch, name="feed", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def draining(self) -> bool:
        """Whether the process is about to end."""
        return self._draining

    def drain(self) -> None:
        """Let go of everybody who waits: the process is about to end, another one answers."""
        self._draining = True
        self._wake()

    def committed(self, recorded: Sequence[Recorded]) -> None:
        """Apply what this process has just committed, after what others committed before."""
        with self._applying:
            if recorded[0].position == self.position + 1:
                self._apply(recorded)
            else:
                with contextlib.suppress(
                    Unavailable
                ):  # the watch catches up, and says so till then
                    self._catch_up()
            if self.position >= recorded[-1].position:
                self._followed += 1
        self._wake()

    def catch_up(self) -> None:
        """Apply everything committed so far."""
        with self._applying:
            self._catch_up()
        self._wake()

    def _catch_up(self) -> None:
        # What this process appended last, it has applied, and need not read.
        if self._lost or self._recorder.ends_with_own(self.position):
            return
        try:
            self._apply(self._following())
        except LogNotVerified as error:
            self._lost = True
            self.on_loss(str(error))

    def _following(self) -> Iterator[Recorded]:
        """Yield what follows the last event that was applied, once that is found to be there."""
        events = self._recorder.events(after=max(0, self.position - 1))
        if self.position:
            here = next(events, None)
            if here is None:
                self._recorder.require_nothing_lost(self._recorder.position)
            elif self._last is not None and here != self._last:
                raise LogNotVerified(
                    f"event {self.position} is not the one that this process has seen: the ledger "
                    "lost that one, and went on differently"
                )
        yield from events

    def _apply(self, events: Iterable[Recorded]) -> None:
        if self.failure is not None:
            return
        try:
            for recorded in events:
                for follower in self._followers:
                    follower.apply(recorded)
                self.position, self._last = recorded.position, recorded
                self._recorder.newest = max(self._recorder.newest, recorded.position)
        except Exception as error:
            if type(error) in {Unavailable, LogNotVerified}:  # it is about the store
                raise
            # The event is committed and cannot be refused any more; memory is stale for good.
            self.failure = error
            log.exception("following stopped after position %d", self.position)

    def _watch(self) -> None:
        seen = -1
        store = self._recorder.store
        while not self._stop.is_set():
            followed = self._followed
            store.await_commit(self._stop)
            # An own commit is a look: where it is only time that passed, the next is due after it.
            # On PostgreSQL somebody told of a commit, and it may have come after that one.
            if followed != self._followed and store.dialect == "sqlite":
                continue
            try:
                version = store.data_version()
                if version != seen:
                    self.catch_up()
                    seen = version
                self._unreachable = None
            except Exception as error:
                if type(error) is Unavailable:
                    # The database is restarted, say; what is in memory may be old till it is back.
                    self._unreachable = error
                    continue
                self.failure = error
                log.exception("watching the store failed")
                return

    # --- waiting ----------------------------------------------------------------------------------

    def require_current(self) -> None:
        """Raise ``Unavailable`` when what is in memory cannot be trusted."""
        if self._unreachable is not None:
            raise Unavailable(f"the ledger cannot be followed just now: {self._unreachable}")
        if self.failure is not None:
            hint = self.failure.hint if isinstance(self.failure, LedgerError) else ""
            raise Unavailable(
                f"this process stopped following the ledger after position {self.position}: "
                f"{self.failure}. {hint}".rstrip()
            )

    async def wait_for(self, position: int, *, timeout_s: float = MIN_POSITION_WAIT_S) -> None:
        """Return when ``position`` is applied; raise ``Behind`` after ``timeout_s``, or drained."""
        if self.position >= position:
            return
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiting.append((position, loop, future))
        self._wake()  # it may have been applied between the two lines above
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(future, timeout_s)
        if self.position < position:
            raise Behind(f"position {position} is asked for, {self.position} is applied")

    def _wake(self) -> None:
        for waiter in list(self._waiting):
            position, loop, future = waiter
            if future.done() or self.position >= position or self._draining:
                with contextlib.suppress(ValueError):  # another thread took it out
                    self._waiting.remove(waiter)
                with contextlib.suppress(RuntimeError):  # the loop that waited is closed
                    loop.call_soon_threadsafe(_finish, future)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
