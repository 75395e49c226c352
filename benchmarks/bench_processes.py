"""How soon does every other worker process deny what one of them has recorded, on both stores?

The clock starts when the answer to the suspension has arrived, and stops for each other worker when
its first denial has. All are asked again and again meanwhile. The peer in the same run is the
worker that recorded it, asked the same way: it must deny at once, so that is what asking costs.
"""

from __future__ import annotations

import json
import re
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from benchmarks.load import http_request
from benchmarks.server import keys_of, new_ledger, serving
from tests.postgres import Server, fresh_database
from tests.serving import asked, suspended

WORKERS: Final = 4
SUSPENSIONS: Final = 1_000
PAUSE_S: Final = 0.01  # between two, so that each finds the workers as they are when little happens
TOGETHER: Final = 16  # connections opened at once, because the kernel chooses which worker gets one
FOUND_WITHIN_S: Final = 60  # the last worker may start long after the first
MEDIAN_MAX_MS: Final = 50.0
P99_MAX_MS: Final = 100.0


class Connection:
    """A connection that stays open, and so with one worker."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = self._socket.makefile("rb")
        self.port = int(self._socket.getsockname()[1])

    def send(self, request: bytes) -> None:
        """Send a request."""
        self._socket.sendall(request)

    def receive(self) -> dict[str, object]:
        """Return the body of the next answer, which must be a good one."""
        status = self._stream.readline()
        length = 0
        while (line := self._stream.readline()) != b"\r\n":
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        body: dict[str, object] = json.loads(self._stream.read(length))
        assert status.split()[1] in (b"200", b"201"), body
        return body

    def close(self) -> None:
        """Close it."""
        self._stream.close()
        self._socket.close()


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        measure("SQLite", Path(name), {})
    server = Server()
    try:
        with fresh_database(server.url) as url, tempfile.TemporaryDirectory() as name:
            measure("PostgreSQL", Path(name), {"LEDGER_DATABASE_URL": url})
    finally:
        server.remove()


def measure(store: str, folder: Path, where: dict[str, str]) -> None:
    """Measure one store and print."""
    settings = {**where, "LEDGER_FILES": str(folder), "LEDGER_ALLOW_OWNER": "true"}
    database = folder / "ledger.db"
    admin = new_ledger(database, **settings)
    with serving(database, workers=WORKERS, core=None, **settings) as (url, port, pid):
        keys = keys_of(url, admin)
        with one_for_each_worker(port, pid) as connections:
            there, elsewhere = arrivals(connections, keys["officer"], keys["service"])
    show(f"{store}, the worker that recorded it", there)
    show(f"{store}, every other of {WORKERS} workers", elsewhere)
    median, p99 = statistics.median(elsewhere), percentile(elsewhere, 0.99)
    kept = median < MEDIAN_MAX_MS and p99 < P99_MAX_MS
    print(
        f"{store}: a median under {MEDIAN_MAX_MS:.0f} ms and a p99 under {P99_MAX_MS:.0f} ms "
        f"{'are' if kept else 'ARE NOT'} kept"
    )


def arrivals(
    connections: Sequence[Connection], officer: str, service: str
) -> tuple[list[float], list[float]]:
    """Suspend users through one worker after the other.

    Returns the milliseconds until the first denial there, and those in every other.
    """
    there: list[float] = []
    elsewhere: list[float] = []
    for number in range(SUSPENSIONS):
        user = f"u{number}"
        writer = connections[number % len(connections)]
        check = http_request("POST", "/access/v1/evaluation", service, asked(user))
        writer.send(http_request("POST", "/v1/suspensions", officer, suspended(user)))
        writer.receive()
        answered = time.perf_counter()
        waiting = list(connections)
        while waiting:
            for connection in waiting:
                connection.send(check)
            for connection in list(waiting):
                if connection.receive()["decision"] is False:
                    taken = (time.perf_counter() - answered) * 1_000
                    (there if connection is writer else elsewhere).append(taken)
                    waiting.remove(connection)
        time.sleep(PAUSE_S)
    return there, elsewhere


@contextmanager
def one_for_each_worker(port: int, parent: int) -> Iterator[list[Connection]]:
    """Yield a connection to each worker, whichever the kernel gave it to."""
    found: dict[int, Connection] = {}
    with ExitStack() as stack:
        until = time.monotonic() + FOUND_WITHIN_S
        while len(found) < WORKERS:
            if time.monotonic() > until:
                raise RuntimeError(f"only {len(found)} workers took a connection")
            opened = [Connection(port) for _ in range(TOGETHER)]
            for connection in opened:
                # An answer says that it was accepted.
                connection.send(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            for connection in opened:
                stack.callback(connection.close)
                connection.receive()
                found.setdefault(worker_of(connection, port, parent), connection)
            for connection in set(opened) - set(found.values()):
                connection.close()
        yield list(found.values())


def worker_of(connection: Connection, port: int, parent: int) -> int:
    """Return the process that has the other end of a connection."""
    ends = rf" 0100007F:{port:04X} 0100007F:{connection.port:04X} 01 (?:\S+ +){{5}}(\d+) "
    row = re.search(ends, Path("/proc/net/tcp").read_text())
    assert row is not None
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        for file in Path(f"/proc/{child}/fd").iterdir():
            if file.is_symlink() and str(file.readlink()) == f"socket:[{row[1]}]":
                return int(child)
    raise RuntimeError("no worker has the connection")


def percentile(taken: Sequence[float], share: float) -> float:
    """Return the time within which a share of all arrived."""
    return sorted(taken)[min(len(taken) - 1, int(len(taken) * share))]


def show(what: str, taken: Sequence[float]) -> None:
    """Print one line."""
    print(
        f"{what:<38}: first denial after p50 {statistics.median(taken):.1f} ms, "
        f"p99 {percentile(taken, 0.99):.1f} ms, at most {max(taken):.1f} ms ({len(taken)} times)"
    )


if __name__ == "__main__":
    main()
