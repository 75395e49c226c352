"""Group commit: commands that arrive together share one transaction, and so one wait for the disk.

Each command is still decided and refused by itself, and none is answered before the commit that
makes it durable.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Final, Generic, TypeVar

from ledger.application import Foreseen, Ledger
from ledger.domain.errors import Unavailable

COMMANDS_TOGETHER_MAX: Final = 256  # bounds how long the first waits for the last: some 25 ms
WAITING_MAX: Final = 10_000  # callers; more than that is not a queue but an outage
NOTHING_FORESEEN: Final = Foreseen()

T = TypeVar("T")


@dataclass(slots=True)
class _Job(Generic[T]):
    commands: Sequence[Callable[[], T]]
    foreseen: Sequence[Foreseen]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[list[T | Exception]]
    outcomes: list[T | Exception] = field(default_factory=list)

    def resolve(self) -> None:
        """Answer, in the loop that waits."""
        if not self.future.done():  # else the caller went away
            self.future.set_result(self.outcomes)


class Writer:
    """The one thread of a process that runs commands."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._jobs: queue.SimpleQueue[_Job[object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)
        self.observe: Callable[[float], object] | None = None
        """Called with the seconds that each transaction took, the wait for its lock included."""

    def start(self) -> None:
        """Begin to take commands."""
        self._thread.start()

    def stop(self) -> None:
        """Run what is waiting, then stop."""
        self._jobs.put(None)
        self._thread.join()

    async def run(self, command: Callable[[], T], foreseen: Foreseen = NOTHING_FORESEEN) -> T:
        """Run a command and return what it returns, once that is committed.

        Raises what the command raises; ``Unavailable`` when too many wait.
        """
        (outcome,) = await self.begin([command], [foreseen])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def begin(
        self, commands: Sequence[Callable[[], T]], foreseen: Sequence[Foreseen]
    ) -> asyncio.Future[list[T | Exception]]:
        """Let commands wait for their turn, which comes in the order of these calls.

        At most ``COMMANDS_TOGETHER_MAX``, which are then committed together; each leads to what it
        returns or raises. Raises ``Unavailable`` when too many wait.
        """
        loop = asyncio.get_running_loop()
        job: _Job[T] = _Job(commands, foreseen, loop, loop.create_future())
        if self._jobs.qsize() >= WAITING_MAX:
            raise Unavailable(f"{WAITING_MAX} commands are waiting")
        self._jobs.put(job)  # type: ignore[arg-type]
        return job.future

    def _work(self) -> None:
        job = self._jobs.get()
        while job is not None:
            jobs: list[_Job[object]] = []
            room, nobody_waits = COMMANDS_TOGETHER_MAX, False
            while job is not None and (not jobs or len(job.commands) <= room):
                jobs.append(job)
                room -= len(job.commands)
                nobody_waits = self._jobs.empty()
                if nobody_waits:
                    break
                job = self._jobs.get_nowait()
            self._commit(jobs)
            if nobody_waits:
                job = self._jobs.get()

    def _commit(self, jobs: list[_Job[object]]) -> None:
        begun = time.perf_counter()
        commands = [command for job in jobs for command in job.commands]
        try:
            outcomes = self._ledger.run_together(
                commands, [foreseen for job in jobs for foreseen in job.foreseen]
            )
        except Exception as error:  # noqa: BLE001 - the commit failed: nothing of it is recorded
            outcomes = [error] * len(commands)
        done = iter(outcomes)
        for job in jobs:
            job.outcomes = list(islice(done, len(job.commands)))
        if self.observe is not None:
            self.observe(time.perf_counter() - begun)
        for loop, answered in groupby(jobs, key=lambda job: job.loop):
            with contextlib.suppress(RuntimeError):  # the loop that waited is closed
                loop.call_soon_threadsafe(_resolve, list(answered))


def _resolve(jobs: list[_Job[object]]) -> None:
    """Answer all jobs of a commit at once: to wake a loop costs more than to answer."""
    for job in jobs:
        job.resolve()
