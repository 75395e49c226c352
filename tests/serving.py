"""The program itself, started as users start it: processes, ports and signals are real."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import httpx

from ledger.domain.values import Role
from ledger.service.settings import Settings
from ledger.service.wiring import build
from tests.service.conftest import open_ledger

ROOT: Final = Path(__file__).resolve().parent.parent
STARTED_WITHIN_S: Final = 60  # a busy machine may take long to import everything
STOPPED_WITHIN_S: Final = 60
LOOK_EVERY_S: Final = 0.02


def environment(database: Path, **more: str) -> dict[str, str]:
    """The environment of a process on a database: nothing of ours is set in it but that."""
    inherited = {name: value for name, value in os.environ.items() if name[:7] != "LEDGER_"}
    return {
        **inherited,
        "PYTHONPATH": str(ROOT),
        "LEDGER_DATABASE_URL": f"sqlite:///{database}",
        **more,
    }


def program(*arguments: str, database: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m ledger`` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "ledger", *arguments],
        env=environment(database, **more),
        cwd=database.parent,
        capture_output=True,
        text=True,
        timeout=STOPPED_WITHIN_S,
        check=False,
    )


@dataclass
class Process:
    """A serving process, with a key for each role."""

    popen: subprocess.Popen[bytes]
    url: str
    keys: Mapping[str, str]
    http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.http = httpx.Client(base_url=self.url, timeout=30)

    def __call__(
        self, method: str, path: str, *, role: str | None = None, **more: Any
    ) -> httpx.Response:
        """Send a request with the key of a role."""
        headers = dict(more.pop("headers", {}))
        if role is not None:
            headers["Authorization"] = f"Bearer {self.keys[role]}"
        return self.http.request(method, path, headers=headers, **more)

    def done(self, method: str, path: str, *, role: str, **more: Any) -> dict[str, Any]:
        """Send a request that must succeed; return the body."""
        response = self(method, path, role=role, **more)
        assert response.status_code in (200, 201), response.text
        body: dict[str, Any] = response.json()
        return body

    def suspend(self, user: str, **headers: str) -> httpx.Response:
        """Suspend a user from all models for a day."""
        return self(
            "POST", "/v1/suspensions", role="officer", json=suspended(user), headers=headers
        )

    def check(self, user: str, **headers: str) -> httpx.Response:
        """Ask whether a user may use a model."""
        return self(
            "POST", "/access/v1/evaluation", role="service", json=asked(user), headers=headers
        )

    def kill(self) -> None:
        """Send SIGKILL; what the process has not written by now is lost."""
        self.popen.kill()
        self.popen.wait(STOPPED_WITHIN_S)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Tell it to stop; return its exit code."""
        self.popen.send_signal(number)
        return self.popen.wait(STOPPED_WITHIN_S)


def suspended(user: str) -> dict[str, object]:
    """The body of a suspension of a user from all models for a day."""
    return {
        "subject": {"type": "user", "id": user},
        "scope": {"resources": [{"type": "model"}]},
        "duration": "P1D",
        "basis": "legal_order",
        "reason": "An order.",
    }


def asked(user: str) -> dict[str, object]:
    """The body of a check whether a user may use a model."""
    return {
        "subject": {"type": "user", "id": user},
        "action": {"name": "use"},
        "resource": {"type": "model", "id": "m1"},
    }


def opened(database: Path) -> dict[str, str]:
    """Open a ledger on a new file; return a key for each role."""
    service = build(Settings(database_url=f"sqlite:///{database}"))
    keys = open_ledger(service)
    service.close()
    assert set(Role) == set(keys)
    return keys


@contextmanager
def started(
    database: Path, keys: Mapping[str, str], *arguments: str, **more: str
) -> Iterator[Process]:
    """Serve a database on a free port until the block ends; yields once it answers."""
    popen = subprocess.Popen(
        [sys.executable, "-m", "ledger", "serve", "--port", "0", *arguments],
        env=environment(database, **more),
        cwd=database.parent,
        stdout=subprocess.PIPE,
    )
    try:
        assert popen.stdout is not None
        process = Process(popen, url_in(popen.stdout), keys)
        until_it_answers(process)
        yield process
        process.http.close()
    finally:
        if popen.poll() is None:
            popen.kill()
        popen.wait(STOPPED_WITHIN_S)
        if popen.stdout is not None:
            popen.stdout.close()


def url_in(output: IO[bytes]) -> str:
    """Read the URL that the program says it serves on."""
    for line in output:
        found = re.search(rb"http://[^\s;]+", line)
        if found:
            return found.group().decode()
    raise AssertionError("the program ended without saying where it serves")


def until_it_answers(process: Process) -> None:
    """Return when the process is ready; fail when it ends instead."""
    for _ in range(int(STARTED_WITHIN_S / LOOK_EVERY_S)):
        try:
            if process("GET", "/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        try:
            process.popen.wait(LOOK_EVERY_S)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(f"the program ended with {process.popen.returncode}")
    raise AssertionError(f"no answer within {STARTED_WITHIN_S} s")


# --- processes that write without a server --------------------------------------------------------


def working(*command: str, **more: str) -> subprocess.Popen[str]:
    """Start ``python -m tests.writing …``; it says ``ready`` and waits for a line."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.writing", *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **more},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@contextmanager
def workers(*commands: Sequence[str], **more: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Start ``python -m tests.writing …`` for each, and let all begin at the same moment."""
    running = [working(*command, **more) for command in commands]
    try:
        for worker in running:
            assert worker.stdout is not None
            assert "ready\n" == worker.stdout.readline()
        for worker in running:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        yield running
    finally:
        for worker in running:
            if worker.poll() is None:
                worker.kill()
            worker.wait(STOPPED_WITHIN_S)
            for pipe in (worker.stdin, worker.stdout):
                if pipe is not None:
                    pipe.close()
