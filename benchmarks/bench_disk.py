"""How many bytes of disk an event takes: its row and its leaf, and what is derived from it."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks.ledgers import fill
from benchmarks.server import new_ledger

EVENTS = 200_000
FACTS = "tbl_name IN ('events', 'log_hashes')"  # the rest can be made again


def main(events: int = EVENTS) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "ledger.db"
        new_ledger(database)
        service = fill(database, events)
        with service.reading() as (c, count):
            c.execute(
                f"SELECT sum(pgsize), sum(pgsize) FILTER (WHERE {FACTS}) "
                "FROM dbstat JOIN sqlite_schema USING (name)"
            )
            everything, facts = c.fetchone()
        service.close()
    print(
        f"{count:,} events and all that is derived from them: {everything / count:,.0f} bytes each"
    )
    print(f"the events and their leaves alone:                {facts / count:,.0f} bytes each")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS)
