"""A thousand readers of the trail, a busy writer, and a restart meanwhile: each event once."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest

from benchmarks.crowd import FILES_BESIDE, Crowd, allow_files, crowd, write
from benchmarks.server import cpu_seconds, memory_mb
from ledger.service.settings import Settings
from ledger.service.wiring import build
from tests.checks import check_ledger
from tests.histories import awake
from tests.serving import Process, opened, started

READERS: Final = int(os.environ.get("LIVE_READERS", "1000"))
EVENTS: Final = int(os.environ.get("LIVE_EVENTS", "6000"))  # half a minute of them
RATE: Final = 200.0
WITHIN_S: Final = 300.0
FEW: Final = 20  # readers, where every test run must be quick


def test_readers_have_every_event_once_across_a_restart(tmp_path: Path) -> None:
    """A few of them, and no more than a second of events."""
    read_across_a_restart(tmp_path, readers=FEW, events=200)


@pytest.mark.soak
def test_a_thousand_readers_have_every_event_once_across_a_restart(tmp_path: Path) -> None:
    """While 200 events are written a second, also while the server is replaced by another."""
    read_across_a_restart(tmp_path, readers=READERS, events=EVENTS)


def read_across_a_restart(folder: Path, *, readers: int, events: int) -> None:
    """Replace the server in the middle of the events; nobody waits for it, and all come back."""
    allow_files(2 * readers + FILES_BESIDE)
    database = folder / "ledger.db"
    keys = opened(database)
    with ExitStack() as stack:
        beside = stack.enter_context(ThreadPoolExecutor(1))
        first = stack.enter_context(started(database, keys))
        port = urlsplit(first.url).port
        assert port is not None
        ask = stack.enter_context(crowd(port, keys["auditor"], readers=readers))
        ask.until(position=0, connected=readers, within_s=WITHIN_S)
        start = position_of(first)
        written = beside.submit(write, first.url, keys["officer"], events, rate=RATE)
        until_at(first, start + events // 2)
        assert 0 == first.stop()
        second = stack.enter_context(started(database, keys, "--port", str(port)))
        spent = cpu_seconds(second.popen.pid)
        rate = written.result(WITHIN_S)
        position = position_of(second)
        behind_s = ask.until(position=position, connected=readers, within_s=WITHIN_S)
        tell(second, ask, rate=rate, behind_s=behind_s, spent=spent)
        found = ask()
        assert 0 == second.stop()
    assert start + events == position
    assert (position, []) == (found["last"], found["faults"])
    assert 2 * readers <= found["connections"]
    service = build(Settings(database_url=f"sqlite:///{database}"))
    assert position == service.recorder.position
    check_ledger(awake(service))
    service.close()


def position_of(process: Process) -> int:
    """Up to where the ledger goes."""
    return int(process("GET", "/readyz").json()["position"])


def until_at(process: Process, position: int) -> None:
    """Return when so much is recorded."""
    while position_of(process) < position:
        threading.Event().wait(0.05)


def tell(process: Process, ask: Crowd, *, rate: float, behind_s: float, spent: float) -> None:
    """Print what it cost: these are no promises of the test."""
    found = ask()
    print(
        f"{rate:.0f} events/s with the restart, all there {behind_s:.1f} s after the last; delay "
        f"p50 {found['p50_ms']} ms, p99 {found['p99_ms']} ms; {found['connections']} connections; "
        f"after the restart {cpu_seconds(process.popen.pid) - spent:.1f} s of a core, "
        f"RSS {memory_mb(process.popen.pid):.0f} MB"
    )
