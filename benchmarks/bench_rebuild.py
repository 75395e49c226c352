"""How many events a second a rebuild takes in, all projections together, comparing included."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from benchmarks.ledgers import fill
from benchmarks.server import new_ledger
from ledger.store.replay import rebuild

EVENTS = 200_000


def main(events: int = EVENTS) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "ledger.db"
        new_ledger(database)
        service = fill(database, events)
        started = time.perf_counter()
        decoded = sum(1 for _ in service.recorder.events())
        reading = decoded / (time.perf_counter() - started)
        started = time.perf_counter()
        found = rebuild(service.recorder)
        rate = found.events / (time.perf_counter() - started)
        service.close()
    assert not found.differences
    print(f"read and decoded:                 {reading:9,.0f} events/s")
    print(f"rebuilt and compared, all tables: {rate:9,.0f} events/s ({rate / reading:.2f} of that)")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS)
