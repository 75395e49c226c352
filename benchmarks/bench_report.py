"""How long a report takes over a large ledger: over all of it, over a quarter, and its plots."""

from __future__ import annotations

import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from benchmarks.ledgers import fill
from benchmarks.server import new_ledger
from ledger.service.plots import PLOTS, plot_of
from ledger.service.report import report_of
from ledger.service.transparency.figures import public_figures
from ledger.service.wiring import Service

EVENTS = 1_000_000


def recorded_at(service: Service, part: float) -> datetime:
    """When so large a part of the events was recorded."""
    event = service.recorder.event(max(1, int(part * service.recorder.position)))
    assert event is not None
    return event.recorded_at


def main(events: int = EVENTS) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "ledger.db"
        new_ledger(database)
        service = fill(database, events)
        # What was recorded in a quarter of a year is a quarter of what was recorded in the year.
        for name, part in (("everything", 1.0), ("a quarter", 1 / 4), ("a month", 1 / 12)):
            start, end = (
                recorded_at(service, 0.5 * (1 - part)),
                recorded_at(service, 0.5 * (1 + part)),
            )
            started = time.perf_counter()
            with service.reading() as (c, head):
                report = report_of(service, c, head, start=start, end=end)
            seconds = time.perf_counter() - started
            found = report["violations"]["recorded"] + report["suspensions"]["recorded"]
            print(f"{name:10} {found:9,} violations and suspensions: {seconds:7.3f} s")
            started = time.perf_counter()
            public_figures(report)
            for plot in PLOTS:
                plot_of(plot, report)
            seconds = time.perf_counter() - started
            print(f"{'':10} {len(PLOTS)} plots and the public variant:   {seconds:7.3f} s")
        service.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS)
