"""What does a running ledger count and measure, and how do several processes count as one?

Counters and histograms live in files that every serving process maps, one set for each process,
and whoever is scraped adds them up (prometheus-client's multi-process mode). ``serve`` names their
folder in ``PROMETHEUS_MULTIPROC_DIR`` before this module is imported; without it, as in tests, the
values are in memory, and all else is the same.

Labels are few and never from outside: routes are templates, and no label says who or what.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Final, Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from ledger.domain.errors import Unavailable
from ledger.service.settings import METRICS_FOLDER_VARIABLE

COUNTERS_BYTES: Final = 1024 * 1024  # some 5,000 time series of a process
GAUGES_BYTES: Final = 64 * 1024
CHECK_BUCKETS: Final = (
    *(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0),
)
APPEND_BUCKETS: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)

# When a series began: files that several processes share do not know, and nobody asks.
disable_created_metrics()  # type: ignore[no-untyped-call]

CheckKind = Literal["single", "batch"]


class Metrics:
    """The instruments of one process. Names and units are those that Prometheus expects."""

    def __init__(self) -> None:
        self._folder = os.environ.get(METRICS_FOLDER_VARIABLE)
        if self._folder is not None:
            _reserve(Path(self._folder))
        self.registry = registry = CollectorRegistry()

        def gauge(name: str, documentation: str, across: Literal["livemin", "livemax"]) -> Gauge:
            return Gauge(name, documentation, registry=registry, multiprocess_mode=across)

        checks = Counter(
            "ledger_checks_total", "Checks answered, by result.", ["result"], registry=registry
        )
        self.checks = {result: checks.labels(result) for result in ("allowed", "denied", "refused")}
        durations = Histogram(
            "ledger_check_duration_seconds",
            "From the whole body of a request for checks to its answer; of single ones a sample.",
            ["kind"],
            buckets=CHECK_BUCKETS,
            registry=registry,
        )
        self.check_seconds: dict[CheckKind, Histogram] = {
            "single": durations.labels("single"),
            "batch": durations.labels("batch"),
        }
        self.append_seconds = Histogram(
            "ledger_append_duration_seconds",
            "A transaction of commands that arrived together, with its wait for the lock.",
            buckets=APPEND_BUCKETS,
            registry=registry,
        )
        self.commands = Counter(
            "ledger_commands_total",
            "Commands run, by route and outcome.",
            ["route", "outcome"],
            registry=registry,
        )
        self.requests = Counter(
            "ledger_http_requests_total",
            "Requests answered, but for checks, by method, route and status.",
            ["method", "route", "status"],
            registry=registry,
        )
        self.decisions_dropped = Counter(
            "ledger_decisions_dropped_total",
            "Decisions that are missing from the decision log.",
            registry=registry,
        )
        self.streams_open = Gauge(
            "ledger_streams_open",
            "Streams of the trail that are open.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.streams_cut = Counter(
            "ledger_streams_cut_total",
            "Streams of the trail that were cut off, because their readers did not read.",
            registry=registry,
        )
        self.processes = Gauge(
            "ledger_processes",
            "Processes that serve.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.position = gauge(
            "ledger_position", "Newest position that every process has applied.", "livemin"
        )
        self.lag_positions = gauge(
            "ledger_lag_positions",
            "Positions that the store holds and the slowest process has not applied.",
            "livemax",
        )
        self.lag_seconds = gauge(
            "ledger_lag_seconds",
            "Age of the oldest event that some process has not applied; 0 when there is none.",
            "livemax",
        )
        self.following_stopped = gauge(
            "ledger_following_stopped",
            "1 when a process has stopped following the store and answers no checks.",
            "livemax",
        )
        self.index_subjects = gauge(
            "ledger_index_subjects", "Subjects with a suspension that can refuse.", "livemax"
        )
        self.tamper_detected = gauge(
            "ledger_tamper_detected",
            "1 when a process doubts the log, and nothing is recorded.",
            "livemax",
        )
        self.witnesses_behind = gauge(
            "ledger_witnesses_behind", "Witnesses that do not cosign, as some process sees it.",
            "livemax",
        )  # fmt: skip
        self.vault_keys_lost = gauge(
            "ledger_vault_keys_lost",
            "Keys that the vault lacked at the start though no erasure destroyed them.",
            "livemax",
        )

    def text(self) -> bytes:
        """Return the values of all processes in the text format of Prometheus."""
        if self._folder is None:
            return generate_latest(self.registry)
        _forget_dead(Path(self._folder))
        together = CollectorRegistry()
        MultiProcessCollector(together, path=self._folder)  # type: ignore[no-untyped-call]
        return generate_latest(together)


class Deltas:
    """Turns totals that are kept as plain integers into increments of counters."""

    def __init__(self) -> None:
        self._seen: dict[Counter, int] = {}
        self.lock = threading.Lock()

    def add(self, counter: Counter, total: int) -> None:
        """Bring a counter to a total; the lock must be held."""
        seen = self._seen.get(counter, 0)
        if total > seen:
            counter.inc(total - seen)
            self._seen[counter] = total


def _reserve(folder: Path) -> None:
    """Take the space of this process's files now.

    They are mapped. Where a full disk has no page for a write to a map, the system ends the
    process, and a measurement must never do that.
    """
    sizes = {
        "counter": COUNTERS_BYTES,
        "histogram": COUNTERS_BYTES,
        **dict.fromkeys(("gauge_livemin", "gauge_livemax", "gauge_livesum"), GAUGES_BYTES),
    }
    for kind, size in sizes.items():
        try:
            with (folder / f"{kind}_{os.getpid()}.db").open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise Unavailable(f"no space for the metrics in {folder}: {error.strerror}") from None


def _forget_dead(folder: Path) -> None:
    """Drop what processes that are gone said of their state; what they counted stays."""
    for path in folder.glob("gauge_live*_*.db"):
        process = int(path.stem.rpartition("_")[2])
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            mark_process_dead(process, str(folder))  # type: ignore[no-untyped-call]
