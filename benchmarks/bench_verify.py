"""How long verifying a record takes on one core, against hashing the same bytes alone."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path

from benchmarks.ledgers import fill
from benchmarks.server import new_ledger
from ledger.service.bundle import Contents, write_bundle
from ledger.service.stored_record import stored_record
from ledger.service.verification import Report, Trusted, verify_bundle, verify_database
from ledger.tlog.checkpoint import parse_checkpoint
from ledger.tlog.note import parse_note
from ledger.tlog.tiles import Tile

EVENTS = 1_000_000
SIGNED_WITHIN_S = 600


def main(events: int = EVENTS) -> None:
    """Measure and print."""
    os.sched_setaffinity(0, {0})
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "ledger.db"
        new_ledger(database)
        service = fill(database, events)
        service.signer.start()
        assert service.signer.wait_for(service.recorder.position, SIGNED_WITHIN_S)
        service.signer.stop()
        with service.reading() as (c, _):
            note = service.log.newest_checkpoint(c)
            assert note is not None
            checkpoint = parse_checkpoint(parse_note(note).text)

            def read(tile: Tile) -> bytes:
                if tile.level is None:
                    return service.log.bundle(c, tile)
                return service.log.tile(c, tile)

            bundle = Path(folder) / "bundle.tar"
            keys = service.ledger.log_keys()
            started = time.perf_counter()
            contents = Contents(checkpoint.origin, checkpoint.size, note, keys, read)
            write_bundle(bundle, contents)
            exporting = time.perf_counter() - started
        service.recorder.store.close()
        with stored_record(database) as record:
            entries = [entry for _, entry in record.entries()]
        started = time.perf_counter()
        for entry in entries:
            sha256(entry).digest()
        hashing = time.perf_counter() - started
        size, total = len(entries), sum(map(len, entries))
        del entries
        print(f"{size:,} events of {total / size:,.0f} bytes, signed {checkpoint.size:,}")
        started = time.perf_counter()
        report = verify_database(database, database.with_suffix(".checkpoint"), Trusted())
        show("verified, database (history):", report, time.perf_counter() - started, hashing)
        started = time.perf_counter()
        report = verify_bundle(bundle, Trusted())
        show("verified, bundle:", report, time.perf_counter() - started, hashing)
        print(f"exported to a bundle:          {size / exporting:9,.0f} events/s")


def show(what: str, report: Report, took: float, hashing: float) -> None:
    """Print one figure, for a million events too."""
    assert report.code == 0
    print(
        f"{what:<30} {report.events / took:9,.0f} events/s, a million in "
        f"{took / report.events * 1e6:.1f} s; {took / hashing:.1f} times the bare SHA-256"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS)
