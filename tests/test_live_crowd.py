"""A thousand readers of the trail, a busy writer, and a restart between: each event once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx
import pytest

from ledger.service.settings import Settings
from ledger.service.wiring import build
from tests.checks import check_ledger
from tests.histories import awake
from tests.serving import Process, opened, started, suspended

READERS: Final = int(os.environ.get("LIVE_READERS", "1000"))
EVENTS_EACH: Final = int(os.environ.get("LIVE_EVENTS", "3000"))  # before the restart, and after
RATE: Final = 200.0
WITHIN_S: Final = 300.0

_ID: Final = re.compile(rb"^id: (\d+)\nevent", re.MULTILINE)


@dataclass
class Crowd:
    """Readers that come back by themselves, and what they have seen."""

    port: int
    key: str
    last: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    over: bool = False
    _never: asyncio.Event = field(default_factory=asyncio.Event)

    def run(self) -> None:
        """Let all of them read until it is over; for a thread of its own."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        self.last = [-1] * READERS
        await asyncio.gather(*(self._read(number) for number in range(READERS)))

    async def _read(self, number: int) -> None:
        while not self.over:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                await self._take(number, reader, writer)
                writer.close()
            except OSError:
                pass
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._never.wait(), 0.2)

    async def _take(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        last = self.last[number]
        since = "" if last < 0 else f"Last-Event-ID: {last}\r\n"
        writer.write(
            f"GET /v1/events/stream HTTP/1.1\r\nHost: x\r\n{since}"
            f"Authorization: Bearer {self.key}\r\n\r\n".encode()
        )
        kept = b""
        while not self.over and (data := await reader.read(256 * 1024)):
            kept += data
            # The first and the last message, and heartbeats, have an id and no event.
            if self.last[number] < 0 and (began := re.search(rb"retry: \d+\nid: (\d+)\n", kept)):
                self.last[number] = int(began[1])
            whole = kept.rfind(b"\n\n") + 2
            for match in _ID.finditer(kept, 0, whole):
                position = int(match[1])
                if position != self.last[number] + 1:
                    self.faults.append(f"{number}: {position} after {self.last[number]}")
                self.last[number] = position
            kept = kept[whole:]


def write(process: Process, count: int) -> float:
    """Record so many events at the rate, or as fast as it goes; return the rate."""
    begun = time.monotonic()
    lock, numbers = threading.Lock(), iter(range(count))

    def work() -> None:
        with httpx.Client(base_url=process.url, timeout=60) as http:
            headers = {"Authorization": f"Bearer {process.keys['officer']}"}
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                threading.Event().wait(max(0.0, begun + number / RATE - time.monotonic()))
                body = suspended(f"u{begun}-{number}")
                answer = http.post("/v1/suspensions", json=body, headers=headers)
                assert 201 == answer.status_code

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return count / (time.monotonic() - begun)


def rss_kb(pid: int) -> int:
    """How much memory a process has."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmRSS:")[2].split()[0])


@pytest.mark.soak
def test_a_thousand_readers_have_every_event_once_across_a_restart(tmp_path: Path) -> None:
    """While 200 events are written a second, and the server is replaced by another between."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8_192)), hard))
    database = tmp_path / "ledger.db"
    keys = opened(database)
    crowd: Crowd | None = None
    port = "0"
    for _ in range(2):
        with started(database, keys, "--port", port) as process:
            port = str(urlsplit(process.url).port)
            before_kb = rss_kb(process.popen.pid)
            if crowd is None:
                crowd = Crowd(int(port), keys["auditor"])
                thread = threading.Thread(target=crowd.run)
                thread.start()
            until_all(crowd, 0)
            rate = write(process, EVENTS_EACH)
            position = int(process("GET", "/readyz").json()["position"])
            caught_up_s = until_all(crowd, position)
            print(
                f"{rate:.0f} events/s, all there {caught_up_s:.1f} s after the last; "
                f"RSS {before_kb // 1024} → {rss_kb(process.popen.pid) // 1024} MB"
            )
            assert [] == crowd.faults[:5]
            assert 0 == process.stop()
    assert crowd is not None
    crowd.over = True
    thread.join(60)
    service = build(Settings(database_url=f"sqlite:///{database}"))
    assert position == service.recorder.position
    check_ledger(awake(service))
    service.close()


def until_all(crowd: Crowd, position: int) -> float:
    """Return how long it took until all readers had seen a position."""
    begun = time.monotonic()
    while len(crowd.last) < READERS or min(crowd.last) < position:
        assert time.monotonic() - begun < WITHIN_S, (min(crowd.last), position, crowd.faults[:3])
        threading.Event().wait(0.05)
    return time.monotonic() - begun
