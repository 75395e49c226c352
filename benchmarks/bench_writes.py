"""How many suspensions a second, through HTTP: one client, and 16 at once.

The peer in the same run is the disk itself: commits of one row a transaction, in the same mode.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.server import keys_of, load, new_ledger, serving

SUSPENSIONS = 4_000
SUSPENSIONS_ALONE = 500


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        bare = bare_commits(Path(folder) / "bare.db")
        database = Path(folder) / "ledger.db"
        admin = new_ledger(database)
        with serving(database, core=None) as (url, port, _):
            key = keys_of(url, admin)["officer"]
            alone = load(plan(port, key, "alone", SUSPENSIONS_ALONE, 1), core=None)
            many = load(plan(port, key, "many", SUSPENSIONS, 16), core=None)
    print(f"bare SQLite, one row a commit:      {bare:8.0f} commits/s")
    for name, measured in (("1 client", alone), ("16 clients", many)):
        print(
            f"suspensions over HTTP, {name:<10}: {measured['rate']:8.0f} /s "
            f"({measured['rate'] / bare:.2f} of bare commits), p50 {measured['p50_ms']:.1f} ms, "
            f"p99 {measured['p99_ms']:.1f} ms, statuses {measured['statuses']}"
        )


def plan(port: int, key: str, name: str, count: int, connections: int) -> dict[str, Any]:
    """Return a plan that suspends ``count`` different users."""
    return {
        "host": "127.0.0.1",
        "port": port,
        "connections": connections,
        "requests": [
            {
                "method": "POST",
                "path": "/v1/suspensions",
                "key": key,
                "body": {
                    "subject": {"type": "user", "id": f"{name}-{number}"},
                    "scope": {"resources": [{"type": "model"}]},
                    "duration": "P30D",
                    "basis": "precautionary",
                    "reason": "Under investigation.",
                },
                "Idempotency_Key": f"{name}-{number}",
            }
            for number in range(count)
        ],
    }


def bare_commits(path: Path) -> float:
    """Return how many one-row transactions a second the disk takes, in the ledger's mode."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, b BLOB)")
    started = time.perf_counter()
    count = 2_000
    for _ in range(count):
        connection.execute("INSERT INTO t (b) VALUES (zeroblob(600))")
    connection.close()
    return count / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
