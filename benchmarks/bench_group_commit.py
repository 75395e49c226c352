"""What do commands gain that share a transaction: writes by 64 clients, imports, on both stores?

The peers in the same run: the same server when each command has a commit of its own, and for
imports the engine itself, which is given the finished rows of the events and nothing else.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg

from benchmarks.bench_writes import plan
from benchmarks.server import cpu_seconds, environment, keys_of, load, new_ledger, serving
from ledger.domain.values import format_instant
from ledger.service.importing import IMPORT_LINES_MAX
from ledger.service.writer import COMMANDS_TOGETHER_MAX
from tests.postgres import Server, fresh_database

CLIENTS: Final = 64
SUSPENSIONS: Final = 2_000
LINES: Final = 40 * IMPORT_LINES_MAX
TOGETHER: Final = ("-m", "ledger")
ALONE: Final = (
    "-c",
    "from ledger.service import cli, writer; writer.COMMANDS_TOGETHER_MAX = 1; cli.main()",
)


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
    rates = {}
    for name, program in (("alone", ALONE), ("together", TOGETHER)):
        with serving(database, workers=1, core=None, program=program, **settings) as (
            url,
            port,
            pid,
        ):
            if name == "alone":
                keys = keys_of(url, admin)
            begun = cpu_seconds(pid)
            measured = load(plan(port, keys["officer"], name, SUSPENSIONS, CLIENTS), core=None)
            rates[name] = measured["rate"]
            cost = (cpu_seconds(pid) - begun) / SUSPENSIONS * 1e6
        print(
            f"{store}, {CLIENTS} clients, {name:<8}: {measured['rate']:7.0f} /s, "
            f"{cost:5.0f} us of CPU each, p50 {measured['p50_ms']:.1f} ms, "
            f"p99 {measured['p99_ms']:.1f} ms, statuses {measured['statuses']}"
        )
    publish(database, settings, admin)
    print(f"{store}: together is {rates['together'] / rates['alone']:.2f} times as fast")
    for kind in ("registrations", "violations"):
        path = folder / f"{kind}.ndjson"
        now = format_instant(datetime.now(UTC))
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines(kind, now)))
        rate, cost = imported(path, environment(database, **settings), keys)
        bare = engine(where.get("LEDGER_DATABASE_URL"), database)
        print(
            f"{store}, import of {kind:<13}: {rate:7.0f} events/s, {cost:5.0f} us of CPU each "
            f"({rate / bare:.3f} of bare inserts, which are {bare:.0f}/s)"
        )


def publish(database: Path, settings: dict[str, str], admin: str) -> None:
    """Publish the policy that the violations break."""
    clause = {"id": "fraud", "title": "Fraud", "text": "No.", "category": "fraud"}
    body = {"title": "Use", "clauses": [{**clause, "severity": "high"}]}
    headers = {"Authorization": f"Bearer {admin}"}
    with serving(database, workers=1, core=None, program=TOGETHER, **settings) as (url, _, _):
        httpx.put(f"{url}/v1/policies/use", json=body, headers=headers).raise_for_status()


def lines(kind: str, occurred_at: str, count: int = LINES) -> Iterator[dict[str, Any]]:
    """Make batch lines, each about another user."""
    for number in range(count):
        body: dict[str, Any] = {"subject": {"type": "user", "id": f"{kind}-{number}"}}
        if kind == "registrations":
            yield {"method": "PUT", "path": "/v1/subjects", "body": body}
            continue
        body |= {"policy": "use@1", "clause": "fraud", "detected_by": "automated"}
        body |= {"occurred_at": occurred_at, "summary": f"Phishing, batch {number}."}
        yield {"method": "POST", "path": "/v1/violations", "body": body}


def imported(path: Path, variables: dict[str, str], keys: dict[str, str]) -> tuple[float, float]:
    """Import a file in a process of its own; return events a second, and microseconds of CPU."""
    begun, used = time.perf_counter(), os.times()
    done = subprocess.run(
        [sys.executable, "-m", "ledger", "import", str(path), "--json"],
        env={**variables, "LEDGER_API_KEY": keys["officer"]},
        check=False,
        capture_output=True,
    )
    elapsed, after = time.perf_counter() - begun, os.times()
    found = json.loads(done.stdout)
    if found["done"] < LINES:
        raise RuntimeError(f"{found['refused_count']} lines were refused: {found['refused'][:1]}")
    cpu = after.children_user + after.children_system - used.children_user - used.children_system
    return LINES / elapsed, cpu / LINES * 1e6


@contextmanager
def _plain(url: str | None, database: Path) -> Iterator[Any]:
    """Yield a connection to a database beside the ledger's own tables."""
    if url is not None:
        with psycopg.connect(url, autocommit=True) as connection:
            yield connection.cursor()
        return
    with closing(sqlite3.connect(database.with_name("bare.db"), isolation_level=None)) as bare:
        bare.execute("PRAGMA journal_mode = WAL")
        bare.execute("PRAGMA synchronous = FULL")
        yield bare


def engine(url: str | None, database: Path) -> float:
    """Return how many plain rows a second the engine takes in commits of as many commands."""
    place = "?" if url is None else "%s"
    insert = f"INSERT INTO bare VALUES ({place}, {place})"
    with _plain(url, database) as c:
        c.execute("DROP TABLE IF EXISTS bare")
        c.execute("CREATE TABLE bare (position BIGINT PRIMARY KEY, state TEXT)")
        begun = time.perf_counter()
        for first in range(0, LINES, COMMANDS_TOGETHER_MAX):
            c.execute("BEGIN")
            rows = [(number, "x" * 400) for number in range(first, first + COMMANDS_TOGETHER_MAX)]
            c.executemany(insert, rows)
            c.execute("COMMIT")
        return LINES / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
