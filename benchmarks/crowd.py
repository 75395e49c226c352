"""Readers of the live trail: a thousand that keep up, some that do not, in a process of their own.

It looks at each message only as far as its id, with operations on bytes, so that it can take some
hundred thousand messages a second and is not what is measured. Every reader holds the ids against
each other: the next must be the one after the last, also when the connection was lost meanwhile
and the reader came back with ``Last-Event-ID``.

The delay of a message is from ``recorded_at`` to when it was read. Of messages that arrive together
the oldest is looked at, and the others are counted with its delay.
"""

from __future__ import annotations

import json
import resource
import selectors
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import httpx

FILES_BESIDE: Final = 200  # descriptors that a process needs besides its connections
OPENED_TOGETHER: Final = 50  # a pause after as many: a server's queue of connections is short
COME_BACK_S: Final = 0.2  # after which a reader tries again
RECEIVE_BYTES: Final = 256 * 1024
SLOW_BUFFER_BYTES: Final = 4_096  # the kernel would read megabytes for who reads nothing
SLOW_READS_S: Final = 1.0  # between two bytes that a slow reader takes
KEPT_RECORDED: Final = 50_000
BATCHES_PER_S: Final = 10
RETRY_S: Final = 0.05

_RECORDED_AT: Final = b'"recorded_at":"'


@dataclass(eq=False, slots=True)
class Reader:
    """One reader, and up to where it has read. A ``slow`` one takes a byte a second, or none."""

    slow: bool = False
    takes_none: bool = False
    last: int = -1
    connection: socket.socket | None = None
    kept: bytes = b""
    is_begun: bool = False
    back_at: float = 0.0


@dataclass
class Readers:
    """All readers of a process, and what they found."""

    port: int
    key: str
    path: str
    readers: list[Reader]
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    recorded: dict[int, float] = field(default_factory=dict)
    delays_ms: Counter[int] = field(default_factory=Counter)
    messages: int = 0
    received: int = 0
    connected: int = 0
    faults: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Read until standard input ends; each line there asks how far everybody is.

        Who asks waits for the answer, so there is never more than one line to read.
        """
        self.selector.register(sys.stdin, selectors.EVENT_READ)
        looked = 0.0
        while True:
            now = time.monotonic()
            if now - looked > COME_BACK_S / 4:
                looked = now
                self._connect(now)
            for ready, _ in self.selector.select(COME_BACK_S / 4):
                if ready.data is not None:
                    self._read(ready.data)
                elif line := sys.stdin.readline():
                    self._answer(line.strip())
                else:
                    return

    def _answer(self, asked: str) -> None:
        if asked == "forget":
            self.delays_ms.clear()
            self.messages = self.received = 0
        if asked == "hurry":
            self._hurry()
        ready = [reader for reader in self.readers if not reader.slow]
        spent = resource.getrusage(resource.RUSAGE_SELF)
        found = {
            "last": min((reader.last for reader in ready), default=0),
            "connected": sum(reader.is_begun for reader in self.readers),
            "connections": self.connected,
            "messages": self.messages,
            "bytes": self.received,
            "p50_ms": self._percentile(0.5),
            "p99_ms": self._percentile(0.99),
            "cpu_s": spent.ru_utime + spent.ru_stime,
            "faults": self.faults[:5],
        }
        print(json.dumps(found), flush=True)

    def _percentile(self, share: float) -> int:
        wanted = sum(self.delays_ms.values()) * share
        for delay, count in sorted(self.delays_ms.items()):
            wanted -= count
            if wanted <= 0:
                return delay
        return 0

    # --- connections ------------------------------------------------------------------------------

    def _connect(self, now: float) -> None:
        opened = 0
        for reader in self.readers:
            if reader.connection is None:
                if reader.back_at <= now and opened < OPENED_TOGETHER:
                    opened += 1
                    self._open(reader, now)
            elif reader.slow and reader.back_at <= now:
                reader.back_at = now + SLOW_READS_S
                self._sip(reader)

    def _open(self, reader: Reader, now: float) -> None:
        since = "" if reader.last < 0 else f"Last-Event-ID: {reader.last}\r\n"
        connection = socket.socket()
        try:
            if reader.slow:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BUFFER_BYTES)
            connection.connect(("127.0.0.1", self.port))
            connection.sendall(
                f"GET {self.path} HTTP/1.1\r\nHost: x\r\n{since}"
                f"Authorization: Bearer {self.key}\r\n\r\n".encode()
            )
        except OSError:
            connection.close()
            reader.back_at = now + COME_BACK_S
            return
        connection.settimeout(0)
        reader.connection, reader.kept, reader.is_begun = connection, b"", False
        self.connected += 1
        if not reader.slow:
            self.selector.register(connection, selectors.EVENT_READ, reader)

    def _close(self, reader: Reader) -> None:
        assert reader.connection is not None
        if not reader.slow:
            self.selector.unregister(reader.connection)
        reader.connection.close()
        reader.connection, reader.is_begun = None, False
        reader.back_at = time.monotonic() + COME_BACK_S

    # --- reading ----------------------------------------------------------------------------------

    def _read(self, reader: Reader) -> None:
        assert reader.connection is not None
        try:
            data = reader.connection.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(reader)
            return
        self.received += len(data)
        self._take(reader, data)

    def _take(self, reader: Reader, data: bytes) -> None:
        kept = reader.kept + data
        if not reader.is_begun:
            head, end, rest = kept.partition(b"\r\n\r\n")
            # The first message names the position from which on it reads.
            _, begins, named = rest.partition(b"retry: ")
            if not end or b"\n\n" not in named:
                reader.kept = kept
                if end and not head.startswith(b"HTTP/1.1 200"):
                    # A service that is about to end takes no more, and another will.
                    if not head.startswith(b"HTTP/1.1 503"):
                        self.faults.append(repr(head[:200]))
                    self._close(reader)
                return
            position = int(named.partition(b"id: ")[2].partition(b"\n")[0])
            if reader.last >= 0 and position != reader.last:
                self.faults.append(f"it came back to {position} after {reader.last}")
            reader.last, reader.is_begun = position, True
            kept = begins + named
        *messages, reader.kept = kept.split(b"\n\n")
        first, last = reader.last + 1, reader.last
        for message in messages:
            # A piece of a chunked answer begins with its length; messages without a type are no
            # events.
            at = message.find(b"id: ", 0, 24) + 4
            end_of_id = message.find(b"\nevent: ", at, at + 24)
            if end_of_id < 0:
                continue
            position = int(message[at:end_of_id])
            last += 1
            if position != last:
                self.faults.append(f"{position} after {last - 1}")
                last = position
            if position not in self.recorded:
                self._note(position, message)
        reader.last = last
        if last >= first:
            self.messages += last - first + 1
            delay = time.time() - self.recorded.get(first, 0.0)
            self.delays_ms[int(delay * 1000)] += last - first + 1

    def _note(self, position: int, message: bytes) -> None:
        at = message.find(_RECORDED_AT) + len(_RECORDED_AT)
        recorded_at = message[at : message.index(b'"', at)].decode()
        self.recorded[position] = datetime.fromisoformat(recorded_at).timestamp()
        if len(self.recorded) > KEPT_RECORDED:
            del self.recorded[next(iter(self.recorded))]

    def _sip(self, reader: Reader) -> None:
        """Take a byte, or none."""
        assert reader.connection is not None
        if reader.takes_none:
            return
        with suppress(BlockingIOError):
            self._take(reader, reader.connection.recv(1))

    def _hurry(self) -> None:
        """Let the slow ones read like others: what they were sent, and what they missed."""
        for reader in self.readers:
            if reader.slow and reader.connection is not None:
                self.selector.register(reader.connection, selectors.EVENT_READ, reader)
            reader.slow = False


def main() -> None:
    """Read a plan from the command line as JSON, and be the readers in it."""
    plan = json.loads(sys.argv[1])
    readers = [Reader() for _ in range(plan["readers"])]
    readers += [Reader(slow=True, takes_none=number % 2 == 0) for number in range(plan["slow"])]
    allow_files(len(readers) + FILES_BESIDE)
    Readers(plan["port"], plan["key"], plan["path"], readers).run()


def allow_files(wanted: int) -> None:
    """Raise the limit of open files of this process, and of those that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


# --- for who starts it ----------------------------------------------------------------------------


class Crowd:
    """The process of the readers, for whoever asks it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, *, forget: bool = False) -> dict[str, Any]:
        """Return how far the readers are; with ``forget``, count from here on."""
        return self._ask("forget" if forget else "how far")

    def hurry(self) -> None:
        """Let the slow readers read on like others."""
        self._ask("hurry")

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    def until(self, *, position: int, connected: int, within_s: float) -> float:
        """Return after how long everybody has read up to a position; fail after a while."""
        begun = time.monotonic()
        while True:
            found = self()
            if found["faults"]:
                raise AssertionError(found)
            if found["last"] >= position and found["connected"] >= connected:
                return time.monotonic() - begun
            if time.monotonic() - begun > within_s:
                raise AssertionError(f"{position} is not there yet: {found}")
            time.sleep(0.05)


@contextmanager
def crowd(
    port: int, key: str, *, readers: int, slow: int = 0, path: str = "/v1/events/stream"
) -> Iterator[Crowd]:
    """Let readers read beside the block."""
    plan = {"port": port, "key": key, "readers": readers, "slow": slow, "path": path}
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.crowd", json.dumps(plan)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
        text=True,
    )
    try:
        yield Crowd(process)
    finally:
        process.kill()
        process.communicate()


def write(url: str, key: str, events: int, *, rate: float) -> float:
    """Record suspensions at a rate, in batches; return the rate that came of it.

    Who does not answer is asked again for the same, with the same idempotency keys: it may be a
    service that is started again.
    """
    run, each = time.time_ns(), max(1, round(rate / BATCHES_PER_S))
    begun = time.monotonic()
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}) as http:
        for start in range(0, events, each):
            time.sleep(max(0.0, begun + start / rate - time.monotonic()))
            numbers = range(start, min(start + each, events))
            lines = "\n".join(json.dumps(_command(f"u{run}-{number}")) for number in numbers)
            while not _is_recorded(http, lines, len(numbers)):
                time.sleep(RETRY_S)
    return events / (time.monotonic() - begun)


def _is_recorded(http: httpx.Client, lines: str, count: int) -> bool:
    try:
        headers = {"Content-Type": "application/x-ndjson"}
        done = http.post("/v1/batch", content=lines, headers=headers, timeout=60)
    except httpx.TransportError:
        return False
    if done.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        return False
    statuses = [json.loads(line)["status"] for line in done.raise_for_status().text.splitlines()]
    if any(status == httpx.codes.SERVICE_UNAVAILABLE for status in statuses):
        return False
    if len(statuses) < count or {201} != set(statuses):
        raise AssertionError(done.text[:500])
    return True


def _command(user: str) -> dict[str, Any]:
    return {
        "method": "POST",
        "path": "/v1/suspensions",
        "idempotency_key": user,
        "body": suspension(user),
    }


def suspension(user: str) -> dict[str, Any]:
    """Return the body of a suspension of a user from all models for a day."""
    return {
        "subject": {"type": "user", "id": user},
        "scope": {"resources": [{"type": "model"}]},
        "duration": "P1D",
        "basis": "legal_order",
        "reason": "An order.",
    }


if __name__ == "__main__":
    main()
