"""A load generator: many keep-alive connections, requests made beforehand, latencies measured.

It runs in a process of its own, so that what it costs is not the server's. Peak rates are bounded
by this program, written in Python; where wrk is installed, ``bench_checks`` uses that instead.

A plan with ``pace`` asks so many times a second and no faster. Its latencies count from when a
request was due, so that a server which holds up one request does not hide that it held up the next.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Load:
    """What a run measured; latencies in milliseconds, sorted."""

    requests: int
    seconds: float
    latencies_ms: Sequence[float]
    statuses: dict[str, int]

    @property
    def rate(self) -> float:
        """Requests answered in a second."""
        return self.requests / self.seconds

    def percentile(self, share: float) -> float:
        """Return the latency within which ``share`` of the requests were answered."""
        return self.latencies_ms[
            min(len(self.latencies_ms) - 1, int(len(self.latencies_ms) * share))
        ]


async def run(
    host: str,
    port: int,
    requests: Sequence[bytes],
    connections: int,
    *,
    pace: float | None = None,
    seconds: float = math.inf,
) -> Load:
    """Send every request once over ``connections`` connections; each waits for its answer.

    With ``pace``, send that many a second; with ``seconds``, send none after that time.
    """
    waiting: Iterator[tuple[int, bytes]] = iter(enumerate(requests))
    latencies: list[float] = []
    statuses: dict[str, int] = {}

    async def client() -> None:
        reader, writer = await asyncio.open_connection(host, port)
        for number, request in waiting:
            sent = time.perf_counter()
            if pace is not None:
                due = began + number / pace
                if sent < due:
                    await asyncio.sleep(due - sent)
                    due = sent = time.perf_counter()  # that a timer is late is not the server's
                sent = due
            if sent - began > seconds:
                break
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            latencies.append((time.perf_counter() - sent) * 1000)
            status = head[9:12].decode()
            statuses[status] = statuses.get(status, 0) + 1
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(connections)))
    return Load(len(latencies), time.perf_counter() - began, sorted(latencies), statuses)


def http_request(method: str, path: str, key: str, body: object, **headers: str) -> bytes:
    """Return the bytes of a request with a JSON body."""
    payload = json.dumps(body).encode()
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Authorization: Bearer {key}",
        "Content-Type: application/json",
        f"Content-Length: {len(payload)}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + payload


def main() -> None:
    """Read a plan from standard input as JSON, run it, and print what was measured as JSON."""
    import uvloop  # noqa: PLC0415

    plan = json.load(sys.stdin)
    requests = [http_request(**request) for request in plan["requests"]] * plan.get("repeat", 1)
    load = uvloop.run(
        run(
            plan["host"],
            plan["port"],
            requests,
            plan["connections"],
            pace=plan.get("pace"),
            seconds=plan.get("seconds", math.inf),
        )
    )
    json.dump(
        {
            "requests": load.requests,
            "seconds": load.seconds,
            "rate": load.rate,
            "p50_ms": load.percentile(0.5),
            "p99_ms": load.percentile(0.99),
            "p999_ms": load.percentile(0.999),
            "statuses": load.statuses,
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
