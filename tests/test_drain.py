"""The end of a serving process under load: nobody is cut off, and nothing answered is lost."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import orjson
import pytest

from ledger.domain.events import SubjectSuspended
from ledger.service.settings import Settings
from ledger.service.wiring import build
from tests.checks import check_ledger
from tests.histories import awake
from tests.service.conftest import until
from tests.service.wire import Answer, Wire, request
from tests.serving import Process, asked, opened, started, suspended

WRITERS: Final = 4
CHECKERS: Final = 4
ENOUGH: Final = 40  # answers of each kind before the signal: the load is on by then


@dataclass
class Caller:
    """Somebody who asks again and again, on kept connections, until nobody listens any more."""

    name: str
    url: str
    key: str
    writes: bool
    keeps: bool = True
    answered: list[str] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    refused_at_s: float = 0.0

    def run(self) -> None:
        """Ask until a connection is refused."""
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        wire: Wire | None = None
        while True:
            if wire is None:
                try:
                    wire = Wire(self.url)
                except (ConnectionRefusedError, ConnectionResetError):
                    self.refused_at_s = time.monotonic()
                    return
            user = f"{self.name}-{len(self.answered) + len(self.unanswered)}"
            answer = self._ask(wire, user)
            if answer is None:
                self.unanswered.append(user)
            else:
                assert answer.status == (201 if self.writes else 200), answer.body
                self.answered.append(user)
            if answer is None or not self.keeps or answer.header("connection") == "close":
                wire.close()
                wire = None

    def _ask(self, wire: Wire, user: str) -> Answer | None:
        path, body = (
            ("/v1/suspensions", suspended(user))
            if self.writes
            else ("/access/v1/evaluation", asked(user))
        )
        more = () if self.keeps else ("connection: close",)
        wire.send(request(path, orjson.dumps(body), *more, key=self.key))
        try:
            return wire.take()
        except (OSError, ValueError, IndexError) as error:  # the answer is cut off
            self.broken.append(f"{user}: {error!r}")
            return None


def callers_of(process: Process) -> list[Caller]:
    """Writers and checkers, some of which open a connection for each request."""
    return [
        Caller(
            f"{kind}{number}",
            process.url,
            process.keys["officer" if kind == "writer" else "service"],
            writes=kind == "writer",
            keeps=bool(number % 3),
        )
        for kind, count in (("writer", WRITERS), ("checker", CHECKERS))
        for number in range(count)
    ]


def under_load(process: Process, callers: Sequence[Caller]) -> list[threading.Thread]:
    """Start the callers; return when all have been answered some times."""
    threads = [threading.Thread(target=caller.run, daemon=True) for caller in callers]
    for thread in threads:
        thread.start()
    until(lambda: all(len(caller.answered) >= ENOUGH // 4 for caller in callers), within_s=60)
    until(lambda: sum(len(c.answered) for c in callers if c.writes) >= ENOUGH, within_s=60)
    return threads


@pytest.mark.parametrize(
    ("workers", "setting"), [(1, {}), (2, {"LEDGER_DRAIN_DELAY_S": "0.7"}), (2, {})]
)
def test_no_answered_write_is_lost_and_no_request_is_cut_off(
    tmp_path: Path, workers: int, setting: dict[str, str]
) -> None:
    """SIGTERM under writes and checks: what was answered is recorded, and nothing else is.

    A request without an answer was never taken: its connection was closed before, or refused.
    """
    database = tmp_path / "ledger.db"
    keys = opened(database)
    with started(database, keys, "--workers", str(workers), **setting) as process:
        callers = callers_of(process)
        threads = under_load(process, callers)
        told_s = time.monotonic()
        assert 0 == process.stop()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()

    recorded, answered = suspended_in(database), set[str]()
    for caller in callers:
        assert [] == caller.broken
        assert caller.refused_at_s > told_s + float(setting.get("LEDGER_DRAIN_DELAY_S", 0))
        if caller.writes:
            answered |= set(caller.answered)
    unanswered = [user for caller in callers for user in caller.unanswered]
    print(f"{len(recorded)} recorded, {len(unanswered)} requests never taken")
    assert recorded == answered


def suspended_in(database: Path) -> set[str]:
    """Check a ledger that nobody serves any more; return whom it suspended."""
    service = build(Settings(database_url=f"sqlite:///{database}"))
    events = [recorded.event for recorded in service.recorder.events()]
    check_ledger(awake(service))
    service.close()
    return {event.subject.id for event in events if isinstance(event, SubjectSuspended)}


def test_a_process_says_first_that_it_will_end(tmp_path: Path) -> None:
    """With a delay /readyz is 503 while all else goes on, new connections too; then it ends."""
    database = tmp_path / "ledger.db"
    with started(database, opened(database), LEDGER_DRAIN_DELAY_S="2") as process:
        process.popen.send_signal(signal.SIGTERM)
        until(lambda: process("GET", "/readyz").status_code == 503)
        ready = process("GET", "/readyz").json()
        written = process.suspend("late", Connection="close")
        check = process.check("late", Connection="close")

        assert ("unavailable", True) == (ready["code"], "about to end" in ready["detail"])
        assert 200 == process("GET", "/livez").status_code
        assert (201, 200, False) == (
            written.status_code,
            check.status_code,
            check.json()["decision"],
        )
        assert 0 == process.popen.wait(60)
    assert {"late"} == suspended_in(database)


def test_a_process_that_is_told_twice_does_not_wait(tmp_path: Path) -> None:
    """The second signal ends the delay."""
    database = tmp_path / "ledger.db"
    with started(database, opened(database), LEDGER_DRAIN_DELAY_S="300") as process:
        process.popen.send_signal(signal.SIGTERM)
        until(lambda: process("GET", "/readyz").status_code == 503)

        assert 0 == process.stop()


def test_nobody_is_refused_while_somebody_is_served(tmp_path: Path) -> None:
    """A slow request holds the process open, and others are still answered meanwhile.

    An idle connection is closed, and who was served slowly is told to go elsewhere next.
    """
    database = tmp_path / "ledger.db"
    keys = opened(database)
    body = orjson.dumps(suspended("slow"))
    sent = request("/v1/suspensions", body, key=keys["officer"])
    with (
        started(database, keys) as process,
        Wire(process.url) as slow,
        Wire(process.url) as idle,
    ):
        slow.send(sent[:-5])
        idle.ask(request("/livez", method="GET", length=None))
        process.popen.send_signal(signal.SIGTERM)
        until(lambda: process("GET", "/readyz").status_code == 503)
        assert idle.take() is None  # closed after a moment of silence
        for number in range(5):
            with Wire(process.url) as new:
                answer = new.ask(
                    request(
                        "/access/v1/evaluation",
                        orjson.dumps(asked(f"u{number}")),
                        key=keys["service"],
                    )
                )
                assert 200 == answer.status
        written = slow.ask(sent[-5:])

        assert (201, "close") == (written.status, written.header("connection"))
        assert 0 == process.popen.wait(60)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", int(process.url.rpartition(":")[2])))
    assert {"slow"} == suspended_in(database)
