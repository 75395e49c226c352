"""How fast does a whole ledger leave as a file, and what memory does the service need for it?

The peer is to read and decode the same events from the same file, and nothing else.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import httpx

from benchmarks.ledgers import fill
from benchmarks.server import cpu_seconds, keys_of, memory_mb, new_ledger, serving
from ledger.service.exports import FORMATS

EVENTS = 1_000_000
GROWN_MB_MAX = 100  # that a process grows by its first export, and not by any after it


def main(events: int = EVENTS) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "ledger.db"
        admin = new_ledger(database)
        service = fill(database, events)
        begun = time.perf_counter()
        read = sum(1 for _ in service.recorder.events())
        peer = read / (time.perf_counter() - begun)
        service.close()
        print(f"events read and decoded, and nothing else: {peer:10,.0f}/s")
        with serving(database) as (url, _, pid):
            key = keys_of(url, admin)["auditor"]
            before = most = memory_mb(pid)
            print(f"memory before: {before:.0f} MB")
            for name in FORMATS:
                most = max(most, _measure(url, key, pid, name, read, peer))
            assert most - before < GROWN_MB_MAX, f"{before:.0f} MB became {most:.0f} MB"


def _measure(url: str, key: str, pid: int, name: str, events: int, peer: float) -> float:
    """Export once, without keeping what comes; returns the most memory that the service had."""
    size, most = 0, memory_mb(pid)
    begun, computed = time.perf_counter(), cpu_seconds(pid)
    with httpx.stream(
        "GET",
        f"{url}/v1/events/export",
        params={"format": name, "known_position": events, "order": "oldest"},
        headers={"Authorization": f"Bearer {key}"},
        timeout=60,
    ) as response:
        response.raise_for_status()
        for part in response.iter_raw():
            size += len(part)
            most = max(most, memory_mb(pid))
    rate = events / (time.perf_counter() - begun)
    of_a_core = events / (cpu_seconds(pid) - computed)
    print(
        f"{name:<12} {rate:10,.0f} events/s ({rate / peer:.2f}), {of_a_core:10,.0f} in a second "
        f"of a core, {size / events:6,.0f} bytes each, at most {most:.0f} MB"
    )
    return most


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS)
