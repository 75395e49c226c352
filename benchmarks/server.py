"""A server under test: the real command line, in a process of its own, on a throw-away ledger."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

START_TIMEOUT_S = 120


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def environment(database: Path, **settings: str) -> dict[str, str]:
    """Return the variables under which a command uses this database."""
    return {**os.environ, "LEDGER_DATABASE_URL": f"sqlite:///{database}", **settings}


def new_ledger(database: Path, **settings: str) -> str:
    """Make a ledger; returns its admin key."""
    done = subprocess.run(
        [sys.executable, "-m", "ledger", "init", "--json"],
        env=environment(database, **settings),
        check=True,
        capture_output=True,
    )
    return str(json.loads(done.stdout)["admin_key"])


@contextmanager
def serving(
    database: Path,
    *,
    workers: int = 1,
    core: int | None = 0,
    program: Sequence[str] = ("-m", "ledger"),
    **settings: str,
) -> Iterator[tuple[str, int, int]]:
    """Serve a database until the block ends; yields URL, port and process id."""
    port = free_port()
    command = [sys.executable, *program, "serve", "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--workers", str(workers)], env=environment(database, **settings)
    )
    if core is not None:
        os.sched_setaffinity(process.pid, {core})
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(url, process)
        yield url, port, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    """Return when the server answers that it is ready."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        try:
            if httpx.get(f"{url}/readyz", timeout=5).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.02)
    raise RuntimeError("the server did not become ready")


def keys_of(url: str, admin_key: str) -> dict[str, str]:
    """Enroll an operator of each role and return a key for each."""
    keys = {"admin": admin_key}
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {admin_key}"}) as http:
        for role in ("service", "reporter", "officer", "approver", "auditor"):
            http.post("/v1/operators", json={"id": f"the-{role}", "role": role}).raise_for_status()
            done = http.post(f"/v1/operators/the-{role}/keys", json={}).raise_for_status()
            keys[role] = done.json()["key"]
    return keys


def load(plan: Mapping[str, Any], *, core: int | None = 1) -> dict[str, Any]:
    """Run a plan of ``benchmarks.load`` in a process of its own; returns what it measured."""
    with loading(plan, core=core) as measured:
        return measured()


@contextmanager
def loading(
    plan: Mapping[str, Any], *, core: int | None = 1
) -> Iterator[Callable[[], dict[str, Any]]]:
    """Run a plan beside the block; yields a function that waits for what it measured."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.load"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )
    if core is not None:
        os.sched_setaffinity(process.pid, {core})
    assert process.stdin is not None
    process.stdin.write(json.dumps(plan).encode())
    process.stdin.close()
    process.stdin = None  # so that communicate() does not flush it again

    def measured() -> dict[str, Any]:
        output, _ = process.communicate()
        if process.returncode:
            raise RuntimeError("the load generator failed")
        found: dict[str, Any] = json.loads(output)
        return found

    try:
        yield measured
    finally:
        process.kill()
        process.wait()


def cpu_seconds(pid: int) -> float:
    """Return how long a process has computed so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> float:
    """Return the resident memory of a process in megabytes."""
    found = _status_mb(pid, "VmRSS")
    if not found:
        raise RuntimeError(f"no process {pid}")
    return found


def peak_mb(pid: int) -> float:
    """Return the most resident memory that a process ever had, or since ``forget_peak``.

    It is 0 of one that has ended, and was not waited for.
    """
    return _status_mb(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    """Let the peak of a process begin again with what it has now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _status_mb(pid: int, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    return 0.0


def waited_seconds(pid: int) -> float:
    """Return how long the threads of a process were ready to compute, and others had the cores."""
    waited = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        waited += int((thread / "schedstat").read_text().split()[1])
    return waited / 1e9
