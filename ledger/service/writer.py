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
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Final, Generic, TypeVar

from ledger.application import Foreseen, Ledger
from ledger.domain.errors import Unavailable

COMMANDS_TOGETHER_MAX: Final = 128  # bounds how long the first of them waits for the last
WAITING_MAX: Final = 10_000  # more than that is not a queue but an outage
NOTHING_FORESEEN: Final = Foreseen()

T = TypeVar("T")


@dataclass(slots=True)
class _Job(Generic[T]):
    command: Callable[[], T]
    foreseen: Foreseen
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[T]
    result: T | None = None
    error: BaseException | None = None

    def resolve(self) -> None:
        """Answer, in the loop that waits."""
        if self.future.done():  # the caller went away
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)  # type: ignore[arg-type]


class Writer:
    """The one thread of a process that runs commands."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._jobs: queue.Queue[_Job[object] | None] = queue.Queue(WAITING_MAX)
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

        Raises what the command raises; ``Unavailable`` when too many commands wait.
        """
        return await self.begin(command, foreseen)

    def begin(
        self, command: Callable[[], T], foreseen: Foreseen = NOTHING_FORESEEN
    ) -> asyncio.Future[T]:
        """Let a command wait for its turn, which comes in the order of these calls.

        Raises ``Unavailable`` when too many wait.
        """
        loop = asyncio.get_running_loop()
        job: _Job[T] = _Job(command, foreseen, loop, loop.create_future())
        try:
            self._jobs.put_nowait(job)  # type: ignore[arg-type]
        except queue.Full:
            raise Unavailable(f"{WAITING_MAX} commands are waiting") from None
        return job.future

    def _work(self) -> None:
        while (first := self._jobs.get()) is not None:
            jobs = [first]
            last = False
            while len(jobs) < COMMANDS_TOGETHER_MAX and not self._jobs.empty():
                job = self._jobs.get_nowait()
                if job is None:
                    last = True
                    break
                jobs.append(job)
            self._commit(jobs)
            if last:
                return

    def _commit(self, jobs: list[_Job[object]]) -> None:
        begun = time.perf_counter()
        try:
            results = self._ledger.run_together(
                [job.command for job in jobs], [job.foreseen for job in jobs]
            )
        except Exception as error:  # noqa: BLE001 - the commit failed: nothing of it is recorded
            results = [error] * len(jobs)
        for job, result in zip(jobs, results, strict=True):
            if isinstance(result, Exception):
                job.error = result
            else:
                job.result = result
        if self.observe is not None:
            self.observe(time.perf_counter() - begun)
        for loop, answered in groupby(jobs, key=lambda job: job.loop):
            with contextlib.suppress(RuntimeError):  # the loop that waited is closed
                loop.call_soon_threadsafe(_resolve, list(answered))


def _resolve(jobs: list[_Job[object]]) -> None:
    """Answer all jobs of a commit at once: to wake a loop costs more than to answer."""
    for job in jobs:
        job.resolve()
