"""What the log costs an append, and how long a proof takes at a million events.

Appends with the log and without it take turns in one run, so that both see the same machine.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from eventsourcing.persistence import StoredEvent

from ledger.application import SYSTEM_AUTHOR, Ledger
from ledger.domain.values import Subject
from ledger.service.settings import Settings
from ledger.service.wiring import build, wall_clock
from ledger.store.recorder import LedgerRecorder
from ledger.store.sqlite import LedgerDatastore
from ledger.tlog.log import LogRows
from ledger.tlog.merkle import consistency_proof, inclusion_proof

ROUNDS = 6
ALONE = 300
TOGETHER = 64
GROUPS = 40
EVENTS = 1_000_000
BATCH = 10_000
STATE = b"{}" * 200  # as long as a fact is
PROOFS = 1_000
RATIO_MIN = 0.70
PROOF_MS_MAX = 2.0


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        for name, commits, together in (("one", ALONE, 1), (f"{TOGETHER}", GROUPS, TOGETHER)):
            with_log, without = appends(Path(folder), commits, together)
            ratio = with_log / without
            print(
                f"appends, {name} a commit: {with_log:8.0f} /s with the log, {without:8.0f} /s "
                f"without: {ratio:.2f} (at least {RATIO_MIN:.2f})"
            )
        recorder, log = large(Path(folder) / "large.db")
        for what, measured in proofs(recorder, log).items():
            took = sorted(measured)
            print(
                f"{what} proof at {recorder.position:,} events: p50 "
                f"{statistics.median(took):.2f} ms, p99 {took[int(len(took) * 0.99)]:.2f} ms "
                f"(under {PROOF_MS_MAX} ms)"
            )
        recorder.store.close()


def appends(folder: Path, commits: int, together: int) -> tuple[float, float]:
    """Return events a second with the log and without; the median of several turns each."""
    services = []
    for name in ("with", "without"):
        service = build(Settings(database_url=f"sqlite:///{folder / f'{name}-{together}.db'}"))
        service.open()
        services.append(service)
    services[1].recorder.log = None
    rates: Sequence[list[float]] = ([], [])
    for turn in range(ROUNDS):
        for service, found in zip(services, rates, strict=True):
            started = time.perf_counter()
            for commit in range(commits):
                with service.ledger.together():
                    for number in range(together):
                        append(service.ledger, f"u{turn}-{commit}-{number}")
            found.append(commits * together / (time.perf_counter() - started))
    for service in services:
        service.recorder.store.close()
    return statistics.median(rates[0]), statistics.median(rates[1])


def append(ledger: Ledger, name: str) -> None:
    """Record one fact about a new subject."""
    subject = Subject(type="user", id=name)
    ledger.register(subject, properties={"tier": "free"}, by=SYSTEM_AUTHOR)


def large(path: Path) -> tuple[LedgerRecorder, LogRows]:
    """Append a million events and their leaves, through a recorder without projections."""
    log = LogRows()
    recorder = LedgerRecorder(LedgerDatastore(path), clock=wall_clock, log=log)
    recorder.create_table()
    for start in range(0, EVENTS, BATCH):
        recorder.insert_events(
            [
                StoredEvent(f"subject/user:u{number}", 1, "subject.registered", STATE)
                for number in range(start, start + BATCH)
            ]
        )
    return recorder, log


def proofs(recorder: LedgerRecorder, log: LogRows) -> dict[str, list[float]]:
    """Return how long inclusion and consistency proofs took, in milliseconds."""
    chance = random.Random(1)
    took: dict[str, list[float]] = {"inclusion": [], "consistency": []}
    size = recorder.position
    for _ in range(PROOFS):
        index = chance.randrange(size)
        started = time.perf_counter()
        with recorder.store.transaction(commit=False) as c:
            inclusion_proof(index, size, log.hash_reader(c, size))
        took["inclusion"].append((time.perf_counter() - started) * 1_000)
        started = time.perf_counter()
        with recorder.store.transaction(commit=False) as c:
            consistency_proof(index + 1, size, log.hash_reader(c, size))
        took["consistency"].append((time.perf_counter() - started) * 1_000)
    return took


if __name__ == "__main__":
    main()
