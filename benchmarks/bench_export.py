"""How fast does a whole ledger leave as a file, and in how much memory, at its peak?

It leaves a service over HTTP, in every form one after the other, and the command in a process for
each form. The peer is to read and decode the same events from the same file, and nothing else.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from benchmarks.ledgers import fill
from benchmarks.server import (
    cpu_seconds,
    environment,
    forget_peak,
    keys_of,
    new_ledger,
    peak_mb,
    serving,
)
from ledger.service.exports import FORMATS

EVENTS = 1_000_000
PEAK_MB_MAX = 200  # of the service since its start, and of each command, whatever they export
SIGNED_WITHIN_S = 900
LOOK_INTERVAL_S = 0.05  # between two looks at the peak of a command, which is gone at its end


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
        measure(database, admin, read, peer)


def measure(database: Path, admin: str, events: int, peer: float) -> None:
    """Export the first events of a ledger by a service, then by the command; print, and judge."""
    with serving(database) as (url, _, pid):
        key = keys_of(url, admin)["auditor"]
        _wait_until_signed(url, key)
        most = peak_mb(pid)
        print(f"the service, started and all signed: at most {most:.0f} MB")
        for name in FORMATS:
            most = max(most, _served(url, key, pid, name, events, peer))
    for name in FORMATS:
        most = max(most, _commanded(database, key, name, events, peer))
    assert most < PEAK_MB_MAX, f"{most:.0f} MB, and {PEAK_MB_MAX} MB are the bound"
    print(f"at most {most:.0f} MB, which is less than {PEAK_MB_MAX} MB")


def _wait_until_signed(url: str, key: str) -> None:
    """Return when the log is signed, so that what signs it takes no part of the core."""
    deadline = time.monotonic() + SIGNED_WITHIN_S
    while time.monotonic() < deadline:
        status = httpx.get(
            f"{url}/v1/status", headers={"Authorization": f"Bearer {key}"}, timeout=60
        )
        found = status.raise_for_status().json()
        if found["checkpoint"] and found["checkpoint"]["size"] == found["position"]:
            return
        time.sleep(1)
    raise RuntimeError("the log is not signed")


def _served(url: str, key: str, pid: int, name: str, events: int, peer: float) -> float:
    """Export once, without keeping what comes; returns the most memory that the service had."""
    size = 0
    forget_peak(pid)
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
    rate = events / (time.perf_counter() - begun)
    of_a_core = events / (cpu_seconds(pid) - computed)
    most = peak_mb(pid)
    print(
        f"{name:<12} {rate:10,.0f} events/s ({rate / peer:.2f}), {of_a_core:10,.0f} in a second "
        f"of a core, {size / events:6,.0f} bytes each, at most {most:.0f} MB",
        flush=True,
    )
    return most


def _commanded(database: Path, key: str, name: str, events: int, peer: float) -> float:
    """Export once with the command; returns the most memory that it had."""
    with tempfile.TemporaryDirectory(dir=database.parent) as folder:
        begun, most = time.perf_counter(), 0.0
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "ledger", "export", "--json", "--format", name),
                *("--output", f"{folder}/export"),
                *("--filter", f"known_position={events}", "--filter", "order=oldest"),
            ],
            env=environment(database, LEDGER_API_KEY=key),
            stdout=subprocess.DEVNULL,
        )
        while process.poll() is None:
            # Between its end and its being waited for, it has no memory any more.
            most = max(most, peak_mb(process.pid))
            time.sleep(LOOK_INTERVAL_S)
        if process.returncode:
            raise RuntimeError(f"the command ended with {process.returncode}")
        rate = events / (time.perf_counter() - begun)
    print(
        f"{name:<12} {rate:10,.0f} events/s ({rate / peer:.2f}) by the command, with its manifest, "
        f"at most {most:.0f} MB",
        flush=True,
    )
    return most


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS)
