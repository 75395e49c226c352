"""What the index costs in memory, and how long a restart takes from the rows.

Each ledger is served by a process of its own; the memory of one that serves an empty ledger is
taken off.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.bench_checks import check_body, measure
from benchmarks.ledgers import fill
from benchmarks.server import keys_of, memory_mb, new_ledger, serving

SIZES: Final = (1_000, 100_000, 1_000_000)
EVENTS: Final = 1_000_000


def main(sizes: tuple[int, ...] = SIZES) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "empty.db"
        new_ledger(empty)
        with serving(empty) as (_, _, pid):
            base = memory_mb(pid)
        print(f"an empty ledger: {base:.0f} MB")
        for suspended in sizes:
            database = Path(folder) / f"{suspended}.db"
            admin = new_ledger(database)
            fill(database, 0, suspended=suspended).recorder.store.close()
            started = time.perf_counter()
            with serving(database) as (url, port, pid):
                ready = time.perf_counter() - started
                grown = memory_mb(pid) - base
                key = keys_of(url, admin)["service"]
                run = measure(port, key, "/access/v1/evaluation", check_body("nobody"), seconds=5)
            print(
                f"{suspended:>9,} restricted subjects: {grown:6.0f} MB more "
                f"({grown * 1e6 / suspended:,.0f} bytes each), ready in {ready:.1f} s, "
                f"{run['rate']:,.0f} checks/s"
            )
        database = Path(folder) / "events.db"
        new_ledger(database)
        fill(database, EVENTS).recorder.store.close()
        started = time.perf_counter()
        with serving(database):
            print(f"{EVENTS:,} events of a year: ready in {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main(tuple(int(size) for size in sys.argv[1:]) or SIZES)
