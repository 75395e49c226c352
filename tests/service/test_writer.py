"""The writer: commands that share a commit are refused one by one and answered after it."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from ledger.application import Done, Once
from ledger.domain.errors import AlreadyLinked, LedgerError, LinkCycle, StoreBusy, Unavailable
from ledger.domain.values import Subject
from ledger.service import writer as writing
from ledger.service.wiring import Service
from tests.checks import check_ledger
from tests.conftest import SetClock
from tests.histories import OFFICER, awake, founded

USERS = [Subject(type="user", id=f"u{number}") for number in range(300)]
ACME = Subject(type="organization", id="acme")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A service whose writer runs, and nothing else of it."""
    service = awake(founded(tmp_path, SetClock()))
    service.writer.start()
    yield service
    service.writer.stop()
    check_ledger(service)
    service.recorder.store.close()


def link(service: Service, user: Subject, parent: Subject = ACME) -> Callable[[], Done]:
    """A command that is refused when it is given twice."""
    return lambda: service.ledger.link(user, parent=parent, by=OFFICER)


class Held:
    """A command that holds the writer until it is let go, so that others gather behind it."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        assert self.go_on.wait(20)


async def gathered(
    service: Service, *commands: Callable[[], object]
) -> list[object | BaseException]:
    """Run commands that arrive while the writer is held, so that they are committed together."""
    held = Held()
    first = asyncio.ensure_future(service.writer.run(held))
    await asyncio.to_thread(held.begun.wait, 20)
    behind = [asyncio.ensure_future(service.writer.run(command)) for command in commands]
    await asyncio.sleep(0)
    held.go_on.set()
    await first
    return list(await asyncio.gather(*behind, return_exceptions=True))


def within[T](work: Awaitable[T]) -> T:
    """Run to the end, but not for ever."""

    async def limited() -> T:
        return await asyncio.wait_for(work, 30)

    return asyncio.run(limited())
