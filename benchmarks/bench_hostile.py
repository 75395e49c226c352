"""What other clients notice of those who waste the service's time, and how fast it is rid of them.

Ordinary clients ask at a moderate pace throughout. Their peer in the same run is themselves before
anybody was hostile. Then come thousands of idle connections, connections that send a byte a second,
and requests that must be refused; last, what all of that left in memory.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import resource
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop

from benchmarks.bench_checks import LOAD_CORE, SERVER_CORE, check_body
from benchmarks.ledgers import fill
from benchmarks.load import http_request
from benchmarks.server import keys_of, load, loading, memory_mb, new_ledger, serving

CONNECTIONS: Final = 8
CHECKS_PER_S: Final = 2_000
SECONDS: Final = 6  # of each part; longer than the deadline for headers
SETTLING_S: Final = 1.0  # until the server has noticed that connections were closed
IDLE: Final = 5_000
SLOW: Final = 200
FILES_BESIDE: Final = 200  # descriptors that a process needs besides its connections
OPENED_TOGETHER: Final = 25  # after each of these a pause, so about 1,000 in a second
REFUSALS: Final = 30  # of each kind, fewer when they take longer than ``REFUSING_S``
REFUSING_S: Final = 1.0
PAUSE_S: Final = 0.02  # between two of either
PATH: Final = "/access/v1/evaluation"
BATCH: Final = "/access/v1/evaluations"

Opened = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def main() -> None:
    """Measure and print."""
    idle = min(IDLE, files() - FILES_BESIDE)
    os.sched_setaffinity(0, {LOAD_CORE})
    print(f"{CONNECTIONS} clients ask {CHECKS_PER_S:,} checks/s, {SECONDS} s in each part")
    if idle < IDLE:
        print(f"only {idle:,} idle connections: this machine allows no more open files")
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "ledger.db"
        admin = new_ledger(database)
        fill(database, 0, suspended=1_000).recorder.store.close()
        with serving(database, core=SERVER_CORE) as (url, port, pid):
            uvloop.run(Hostility(port, pid, keys_of(url, admin)["service"], idle).run())


def files() -> int:
    """Return how many files this process and the server may open, after asking for enough."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = IDLE + FILES_BESIDE
    if soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@dataclass(frozen=True)
class Hostility:
    """What is done to one server."""

    port: int
    pid: int
    key: str
    idle: int

    async def run(self) -> None:
        """Measure and print."""
        await asyncio.to_thread(load, self._plan(1))
        before = memory_mb(self.pid)
        alone = await asyncio.to_thread(load, self._plan(SECONDS))
        show("alone", alone, alone)
        with loading(self._plan(SECONDS)) as measured:
            async with self.held(self.idle):
                show("while connections are opened", await asyncio.to_thread(measured), alone)
                show(f"{self.idle:,} idle connections", await self.others(), alone)
                print(f"  memory meanwhile: {memory_mb(self.pid) - before:+.1f} MB")
        # A whole request but for its end: it never comes to that.
        request = http_request("POST", PATH, self.key, check_body("nobody"))
        head, _, body = request.partition(b"\r\n\r\n")
        slow_body = b" " * 65_536
        slow_head = head.replace(b"Length: %d" % len(body), b"Length: %d" % len(slow_body))
        slow = {"headers": (b"", head), "bodies": (slow_head + b"\r\n\r\n", slow_body)}
        for part, (first, then) in slow.items():
            async with self.dripping(first, then):
                show(f"{SLOW} connections with slow {part}", await self.others(), alone)
                print(f"  memory meanwhile: {memory_mb(self.pid) - before:+.1f} MB")
        with loading(self._plan(SECONDS)) as measured:
            await asyncio.sleep(0.5)
            for kind, (wanted, attack) in attacks(self.key).items():
                times, cut_off = await self.refused_often(attack, wanted)
                print(
                    f"  {kind:<36} {wanted} after {statistics.median(times):.1f} ms, "
                    f"worst of {len(times)} {times[-1]:.1f} ms"
                    + (f" ({cut_off} cut off while sending)" if cut_off else "")
                )
            show("what must be refused", await asyncio.to_thread(measured), alone)
        await asyncio.sleep(SETTLING_S)
        after = memory_mb(self.pid)
        async with self.held(self.idle):
            for wanted, attack in attacks(self.key).values():
                await self.refused_often(attack, wanted, times=REFUSALS // 6)
        await asyncio.sleep(SETTLING_S)
        print(
            f"memory of the server: {before:.0f} MB before, {after - before:+.1f} MB after all of "
            f"it, {memory_mb(self.pid) - after:+.1f} MB when it comes again"
        )

    def _plan(self, seconds: int) -> dict[str, Any]:
        check = {"method": "POST", "path": PATH, "key": self.key, "body": check_body("nobody")}
        return {
            "host": "127.0.0.1",
            "port": self.port,
            "connections": CONNECTIONS,
            "requests": [check],
            "repeat": CHECKS_PER_S * seconds,
            "pace": CHECKS_PER_S,
            "seconds": seconds,
        }

    async def others(self) -> dict[str, Any]:
        """Measure ordinary clients, while the loop of this process goes on being hostile."""
        return await asyncio.to_thread(load, self._plan(SECONDS))

    async def connect(self) -> Opened:
        """Open a connection."""
        return await asyncio.open_connection("127.0.0.1", self.port)

    @asynccontextmanager
    async def held(self, count: int) -> AsyncIterator[None]:
        """Keep connections open that send nothing."""
        opened: list[Opened] = []
        try:
            while len(opened) < count:
                together = min(OPENED_TOGETHER, count - len(opened))
                opened += await asyncio.gather(*(self.connect() for _ in range(together)))
                await asyncio.sleep(PAUSE_S)
            yield
            ended = sum(reader.at_eof() for reader, _ in opened)
            assert not ended, f"{ended} idle connections were closed"
        finally:
            for _, writer in opened:
                writer.transport.abort()
            await asyncio.sleep(SETTLING_S)

    @asynccontextmanager
    async def dripping(self, first: bytes, then: bytes) -> AsyncIterator[None]:
        """Keep connections open that send ``then`` a byte a second; each is opened again."""
        tasks = [asyncio.create_task(self._drip(first, then)) for _ in range(SLOW)]
        try:
            yield
            for task in tasks:
                assert not task.done(), task.exception()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(SETTLING_S)

    async def _drip(self, first: bytes, then: bytes) -> None:
        while True:
            reader, writer = await self.connect()
            try:
                writer.write(first)
                for number in range(len(then)):
                    writer.write(then[number : number + 1])
                    await asyncio.sleep(1)
                    if reader.at_eof():
                        break
            except ConnectionError:
                pass
            finally:
                writer.transport.abort()

    async def refused_often(
        self, attack: Callable[[], Iterator[bytes]], wanted: int, *, times: int = REFUSALS
    ) -> tuple[Sequence[float], int]:
        """Send a request again and again; returns how long each refusal took, sorted.

        And how often the connection was reset before the answer could be read: who goes on sending
        to a closed connection may find that.
        """
        took: list[float] = []
        cut_off = 0
        while len(took) < times and sum(took) < REFUSING_S * 1000:
            started = time.perf_counter()
            try:
                await self.refused(attack, wanted)
            except ConnectionError:
                cut_off += 1
            took.append((time.perf_counter() - started) * 1000)
            await asyncio.sleep(PAUSE_S)
        return sorted(took), cut_off

    async def refused(self, attack: Callable[[], Iterator[bytes]], wanted: int) -> None:
        """Connect, and send pieces until there is an answer."""
        reader, writer = await self.connect()
        answer = asyncio.ensure_future(reader.readuntil(b"\r\n"))
        try:
            for piece in attack():
                writer.write(piece)
                with suppress(ConnectionError):
                    await writer.drain()
                await asyncio.sleep(0)
                if answer.done():
                    break
            line = await answer
        finally:
            answer.cancel()
            writer.transport.abort()
        assert int(line.split()[1]) == wanted, line


def attacks(key: str) -> Mapping[str, tuple[int, Callable[[], Iterator[bytes]]]]:
    """Return requests that must be refused: the status, and the pieces in which they are sent."""
    piece = b" " * 65_536
    check = http_request("POST", PATH, key, check_body("nobody")).partition(b"\r\n\r\n")[2]

    def whole(
        body: bytes, *, path: str = PATH, headers: str = "", length: int | None = None
    ) -> Callable[[], Iterator[bytes]]:
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n"
            f"Content-Type: application/json\r\n{headers}"
            f"Content-Length: {len(body) if length is None else length}\r\n\r\n"
        )
        return lambda: iter([head.encode() + body])

    def endless() -> Iterator[bytes]:
        head = whole(b"", headers="Transfer-Encoding: chunked\r\n")
        yield next(head()).replace(b"Content-Length: 0\r\n", b"")
        while True:
            yield b"%x\r\n%b\r\n" % (len(piece), piece)

    nested = b"[" * 40 + b"]" * 40
    return {
        "a body of 1 GB announced": (413, whole(piece, length=10**9)),
        "chunks without end": (413, endless),
        "nested 100,000 deep": (400, whole(b"[" * 100_000 + b"]" * 100_000)),
        "a megabyte nested 40 deep": (
            400,
            whole(b'{"evaluations":[' + b",".join([nested] * 12_000) + b"]}", path=BATCH),
        ),
        "a batch of 300,000": (
            400,
            whole(b'{"evaluations":[' + b",".join([b"{}"] * 300_000) + b"]}", path=BATCH),
        ),
        "malformed": (400, whole(check[:-1])),
        "256 KiB that end malformed": (400, whole(check + b" " * (260_000 - len(check)) + b"x")),
        "gzip": (400, whole(gzip.compress(check), headers="Content-Encoding: gzip\r\n")),
    }


def show(name: str, measured: Any, peer: Any) -> None:
    """Print one line."""
    assert set(measured["statuses"]) == {"200"}, measured["statuses"]
    print(
        f"{name:<38} {measured['rate']:>7,.0f} /s  p50 {measured['p50_ms']:.2f}  "
        f"p99 {measured['p99_ms']:.2f}  p99.9 {measured['p999_ms']:.2f} ms  "
        f"(p99 {measured['p99_ms'] / peer['p99_ms']:.1f} of alone)"
    )


if __name__ == "__main__":
    main()
