"""How long a ledger takes from SQLite to PostgreSQL and back, both ends verified, step by step.

`python -m benchmarks.bench_migrate 1000000` moves a million events. The last line says how much
memory the process took at most.
"""

from __future__ import annotations

import hashlib
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from eventsourcing.sqlite import SQLiteCursor

from benchmarks.ledgers import fill
from benchmarks.server import new_ledger
from ledger.service.migrating import migrate
from ledger.service.settings import Settings
from ledger.service.wiring import build
from tests.postgres import Server

EVENTS = 100_000
SIGNED_WITHIN_S = 600


def main(events: int = EVENTS) -> None:
    """Measure and print."""
    server = Server()
    try:
        with tempfile.TemporaryDirectory() as folder:
            _measure(events, server.url, Path(folder))
    finally:
        server.remove()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"memory at most: {peak:,.0f} MB")


def _measure(events: int, url: str, folder: Path) -> None:
    database = folder / "ledger.db"
    new_ledger(database)
    service = fill(database, events)
    with service.recorder.transaction() as c:
        assert isinstance(c, SQLiteCursor)
        c.execute("SELECT position FROM events")
        made = [("importer", f"import-{row[0]:032}", "0" * 64, row[0], 1) for row in c.fetchall()]
        c.executemany("INSERT INTO commands VALUES (?, ?, ?, ?, ?)", made)
    service.signer.check()
    service.signer.start()
    assert service.signer.wait_for(service.recorder.position, SIGNED_WITHIN_S)
    service.signer.stop()
    service.close()
    files: dict[str, Any] = {
        "log_key_file": folder / "ledger.log-key",
        "checkpoint_file": folder / "ledger.checkpoint",
        "vault_key_file": folder / "ledger.vault-key",
        "allow_owner": True,
    }
    here = Settings(database_url=f"sqlite:///{database}", **files)
    there = Settings(database_url=url, files=folder, **files)
    back = Settings(database_url=f"sqlite:///{folder / 'back' / 'ledger.db'}", **files)
    _move("SQLite to PostgreSQL", here, there)
    _move("PostgreSQL to SQLite", there, back)
    assert _checkpoints(here) == _checkpoints(back)
    print("the checkpoints are identical")


def _move(name: str, source: Settings, target: Settings) -> None:
    started, worked = time.perf_counter(), _worked()
    steps: dict[str, tuple[float, float, int]] = {}

    def progress(what: str, done: int, _total: int) -> None:
        now = time.perf_counter()
        steps[what] = (steps[what][0] if what in steps else now, now, done)

    moved = migrate(source, target, progress=progress)
    took = time.perf_counter() - started
    assert moved.report.code == 0, moved.report
    cpu = _worked() - worked
    print(
        f"{name}: {moved.copied:,} events in {took:.1f} s, {moved.copied / took:,.0f} events/s; "
        f"{cpu:.1f} s of processor time besides the server's"
    )
    for what, (first, last, done) in steps.items():
        print(f"  from {first - started:6.1f} s to {last - started:6.1f} s  {what} ({done:,})")


def _worked() -> float:
    """The processor time of this process and of those that it ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    used = [resource.getrusage(kind) for kind in kinds]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _checkpoints(settings: Settings) -> tuple[int, str]:
    """How many checkpoints there are, and a hash of all of them and of every leaf."""
    service = build(settings)
    found = hashlib.sha256()
    with service.reading() as (c, _):
        c.execute("SELECT size, note, signed_at FROM log_checkpoints ORDER BY size")
        signed = c.fetchall()
        c.execute("SELECT hash FROM log_hashes ORDER BY level, idx")
        for row in (*signed, *c.fetchall()):
            found.update(repr(tuple(row)).encode())
    service.close()
    return len(signed), found.hexdigest()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS)
