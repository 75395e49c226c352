"""How many checks a second on one core, and how long each takes.

The ceiling in the same run is a bare ASGI application on uvicorn (uvloop, httptools) that parses
the same body, looks up a dictionary and answers with as many headers, under the same settings of
uvicorn, and about a suspended user with as many bytes. Where wrk is installed it makes the load;
otherwise ``benchmarks.load`` does, whose own limit is lower.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import orjson

from benchmarks.ledgers import fill
from benchmarks.server import free_port, keys_of, load, new_ledger, serving, wait_until_ready
from ledger.service.cli_serving import KEEP_ALIVE_S

SECONDS: Final = 3
TURNS: Final = 5
BATCH: Final = 100
EVALUATION: Final = "/access/v1/evaluation"
CONNECTIONS: Final = 64
SERVER_CORE: Final = 0
LOAD_CORE: Final = 1


def check_body(user: str) -> dict[str, Any]:
    """Return the body of an ordinary check."""
    return {
        "subject": {"type": "user", "id": user},
        "action": {"name": "use"},
        "resource": {"type": "model", "id": "atlas-3"},
    }


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """Answer every request as simply as an ASGI application can."""
    if scope["type"] != "http":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    message = await receive()
    body = message["body"]
    while message["more_body"]:
        message = await receive()
        body += message["body"]
    restricted = bool(body) and orjson.loads(body)["subject"]["id"] in RESTRICTED
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS[restricted]})
    await send({"type": "http.response.body", "body": ANSWERS[restricted]})


RESTRICTED: Final = {"u7": True}
DENIAL_BYTES: Final = 767  # of ours in this benchmark, with its reasons
ANSWERS: Final = {
    False: b'{"decision":true,"context":{"position":1014}}',
    True: b'{"decision":false,"context":{"reason":"%b"}}' % (b"x" * (DENIAL_BYTES - 42)),
}
HEADERS: Final = {
    restricted: [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(answer)),
        (b"ledger-position", b"1014"),
    ]
    for restricted, answer in ANSWERS.items()
}


@contextmanager
def serving_bare() -> Iterator[int]:
    """Serve the bare application on the server's core; yields the port."""
    port = free_port()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "uvicorn", "benchmarks.bench_checks:bare"),
            *("--port", str(port), "--loop", "uvloop", "--http", "httptools"),
            *("--no-access-log", "--log-level", "warning", "--no-proxy-headers"),
            *("--no-server-header", "--timeout-keep-alive", str(KEEP_ALIVE_S)),
        ]
    )
    os.sched_setaffinity(process.pid, {SERVER_CORE})
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", process)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def measure(port: int, key: str, path: str, body: object, *, seconds: int = SECONDS) -> Any:
    """Send one request over and over for some seconds; returns rate and latencies."""
    if shutil.which("wrk") is None:
        plan = {
            "host": "127.0.0.1",
            "port": port,
            "connections": CONNECTIONS,
            "requests": [{"method": "POST", "path": path, "key": key, "body": body}],
            "repeat": 60_000,
        }
        return load(plan, core=LOAD_CORE)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(
            'wrk.method = "POST"\n'
            f"wrk.body = {_lua(orjson.dumps(body).decode())}\n"
            'wrk.headers["Content-Type"] = "application/json"\n'
            f'wrk.headers["Authorization"] = "Bearer {key}"\n'
            "done = function(summary, latency, requests)\n"
            '  io.write(string.format("RESULT %f %f %f %f %d\\n", '
            "summary.requests / (summary.duration / 1e6), latency:percentile(50) / 1000, "
            "latency:percentile(99) / 1000, latency:percentile(99.9) / 1000, "
            "summary.errors.status))\nend\n"
        )
        script.flush()
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", script.name]
        process = subprocess.Popen(
            [*command, f"http://127.0.0.1:{port}{path}"], stdout=subprocess.PIPE, text=True
        )
        os.sched_setaffinity(process.pid, {LOAD_CORE})
        output, _ = process.communicate()
    found = re.search(r"RESULT (\S+) (\S+) (\S+) (\S+) (\d+)", output)
    if found is None:
        raise RuntimeError(output)
    rate, p50, p99, p999 = map(float, found.groups()[:4])
    return {
        "rate": rate,
        "p50_ms": p50,
        "p99_ms": p99,
        "p999_ms": p999,
        "refused": int(found[5]),
    }


def median(runs: Sequence[Any]) -> dict[str, float]:
    """Return the median of each figure of several runs."""
    return {
        name: statistics.median(run[name] for run in runs)
        for name, figure in runs[0].items()
        if isinstance(figure, float | int)
    }


def _lua(text: str) -> str:
    return f"[==[{text}]==]"


def show(name: str, measured: Any, ceiling: float) -> None:
    """Print one line."""
    print(
        f"{name:<44} {measured['rate']:>9,.0f} /s  {measured['rate'] / ceiling:>5.2f} of bare  "
        f"p50 {measured['p50_ms']:.2f}  p99 {measured['p99_ms']:.2f}  "
        f"p99.9 {measured['p999_ms']:.2f} ms"
    )


def main() -> None:
    """Measure and print."""
    print(f"one core for the server, {CONNECTIONS} connections, {TURNS} turns of {SECONDS} s each")
    with tempfile.TemporaryDirectory() as folder, serving_bare() as bare_port:
        database = Path(folder) / "ledger.db"
        admin = new_ledger(database)
        fill(database, 0, suspended=1_000).recorder.store.close()
        for protocol, where in (("true", "in the parser"), ("false", "as ASGI")):
            with serving(database, core=SERVER_CORE, LEDGER_CHECK_PROTOCOL=protocol) as (
                url,
                port,
                _,
            ):
                compare(url, port, keys_of(url, admin)["service"], bare_port, where)


def compare(url: str, port: int, key: str, bare_port: int, where: str) -> None:
    """Measure the bare application and ours by turns, so that a slow moment slows both."""
    for user, allowed in (("nobody", True), ("u7", False)):
        answer = httpx.post(
            f"{url}{EVALUATION}",
            json=check_body(user),
            headers={"Authorization": f"Bearer {key}"},
        )
        assert answer.json()["decision"] is allowed, answer.text
    asked: dict[str, tuple[int, str, Any]] = {
        "bare ASGI application on uvicorn": (bare_port, EVALUATION, check_body("nobody")),
        "the same, answering as a denial is long": (bare_port, EVALUATION, check_body("u7")),
        f"a check that is allowed, {where}": (port, EVALUATION, check_body("nobody")),
        f"a check that is denied, {where}": (port, EVALUATION, check_body("u7")),
        f"a batch of {BATCH}, {where}": (port, EVALUATION + "s", batch_body()),
    }
    runs: dict[str, list[Any]] = {name: [] for name in asked}
    for _ in range(TURNS):
        for name, (to, path, body) in asked.items():
            runs[name].append(measure(to, key, path, body))
    medians = {name: median(several) for name, several in runs.items()}
    ceiling, *_, batch = (one["rate"] for one in medians.values())
    for name, measured in medians.items():
        show(name, measured, ceiling)
    print(f"  in batches of {BATCH}, {where}: {batch * BATCH:,.0f} decisions/s")


def batch_body() -> dict[str, Any]:
    """Return the body of a batch: one subject, many resources."""
    return {
        "subject": {"type": "user", "id": "nobody"},
        "action": {"name": "use"},
        "evaluations": [
            {"resource": {"type": "model", "id": f"m{number}"}} for number in range(BATCH)
        ],
    }


if __name__ == "__main__":
    main()
