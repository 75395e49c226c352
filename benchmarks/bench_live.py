"""What a thousand readers of the live trail cost, and what others notice of those who do not read.

First 1,000 readers while 200 events are recorded a second: how many messages they have, how late,
and what that takes of the server. Then writers alone, and the same writers while 200 readers take
nothing, or a byte a second: they must be cut off, come back to every event that they missed, and
neither the server's memory nor the writers may notice much. The peer of the writers is themselves
in the same run, before the slow readers came and after they were gone.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks.crowd import FILES_BESIDE, Crowd, allow_files, crowd, suspension, write
from benchmarks.server import (
    cpu_seconds,
    keys_of,
    load,
    memory_mb,
    new_ledger,
    serving,
    waited_seconds,
)

READERS: Final = 1_000
RATE: Final = 200
SECONDS: Final = 20
SLOW: Final = 200
WRITERS: Final = 4
WRITES_PER_S: Final = 100  # one by one; a share of what the service can, so that none queues
TURN_S: Final = 3  # of writing; shorter than the service bears with who does not read
TURNS: Final = 5  # before the slow readers come, beside them, and when they are gone
FILLING: Final = 600  # events that are more than the buffers of a connection hold
WITHIN_S: Final = 120


def main() -> None:
    """Measure and print."""
    allow_files(2 * READERS + FILES_BESIDE)
    for measure in (many_readers, slow_readers):
        with tempfile.TemporaryDirectory() as folder:
            database = Path(folder) / "ledger.db"
            admin = new_ledger(database)
            with serving(database, core=None) as (url, port, pid):
                measure(url, port, pid, keys_of(url, admin))


def many_readers(url: str, port: int, pid: int, keys: dict[str, str]) -> None:
    """Let a thousand read while 200 events are recorded a second."""
    empty_mb = memory_mb(pid)
    with crowd(port, keys["auditor"], readers=READERS) as ask:
        ask.until(position=0, connected=READERS, within_s=WITHIN_S)
        open_mb = memory_mb(pid)
        before, spent, waited = ask(forget=True), cpu_seconds(pid), waited_seconds(pid)
        begun = time.monotonic()
        rate = write(url, keys["officer"], RATE * SECONDS, rate=RATE)
        behind = caught_up(url, ask, READERS)
        took = time.monotonic() - begun
        found = ask()
        print(f"{READERS:,} readers, {rate:.0f} events/s")
        print(
            f"  delivered: {found['messages'] / took:10,.0f} /s, all {behind:.1f} s after the last"
        )
        print(f"  delay:     p50 {found['p50_ms']} ms  p99 {found['p99_ms']} ms")
        print(
            f"  server:    {(cpu_seconds(pid) - spent) / took:.2f} s of a core a second, and "
            f"{(waited_seconds(pid) - waited) / took:.2f} s of waiting for one"
        )
        print(f"  readers:   {(found['cpu_s'] - before['cpu_s']) / took:.2f} s of a core a second")
        print(
            f"  memory:    {empty_mb:.0f} MB, {open_mb:.0f} with the streams open, "
            f"{memory_mb(pid):.0f} after all of it"
        )


def slow_readers(url: str, port: int, pid: int, keys: dict[str, str]) -> None:
    """Write with slow readers and without."""
    # One that keeps up is there all the time, so that the trail is followed in either case.
    with crowd(port, keys["auditor"], readers=1) as quick:
        quick.until(position=0, connected=1, within_s=WITHIN_S)
        officer = keys["officer"]
        write(url, officer, 2 * FILLING, rate=RATE)
        alone = [writing(port, keys, f"before-{turn}") for turn in range(TURNS)]
        memory = [memory_mb(pid)]
        write(url, officer, FILLING, rate=RATE)
        memory.append(memory_mb(pid))
        with crowd(port, keys["auditor"], readers=0, slow=SLOW) as slow:
            write(url, officer, FILLING, rate=RATE)
            memory.append(memory_mb(pid))
            beside = [writing(port, keys, f"beside-{turn}") for turn in range(TURNS)]
            begun = time.monotonic()
            while (cut := streams_cut(url, keys["auditor"])) < SLOW:
                if time.monotonic() - begun > WITHIN_S:
                    raise RuntimeError(f"only {cut} of {SLOW} slow readers were cut off")
                time.sleep(1)
            slow.hurry()
            back_s = caught_up(url, slow, SLOW)
            faults = slow()["faults"]
        alone += [writing(port, keys, f"after-{turn}") for turn in range(TURNS)]
    without, with_them = (after - before for before, after in pairwise(memory))
    print(f"{SLOW} readers that take nothing or a byte a second, {WRITES_PER_S} writes/s")
    print(
        f"  memory:    {memory[0]:.0f} MB, {with_them - without:+.1f} by them: {FILLING} events "
        f"added {with_them:.1f} with them, and {without:.1f} before they came"
    )
    print(f"  cut off:   {cut:.0f}; back with every event, once, in {back_s:.1f} s {faults or ''}")
    for name in ("p50", "p99"):
        print(f"  {name}:       {compared(alone, beside, f'{name}_ms')}")


def compared(alone: list[dict[str, Any]], beside: list[dict[str, Any]], name: str) -> str:
    """Compare the turns, of which on a busy machine only the quietest tells of the service."""
    told = []
    for which, of in (("median turn", statistics.median), ("quietest turn", min)):
        without, with_them = (of([turn[name] for turn in turns]) for turns in (alone, beside))
        told.append(
            f"{which} {without:.1f} ms alone, {with_them:.1f} beside them "
            f"({with_them / without:.2f})"
        )
    each = (
        " ".join(f"{turn[name]:.0f}" for turn in alone),
        " ".join(f"{turn[name]:.0f}" for turn in beside),
    )
    return f"{'; '.join(told)}; all turns {each[0]} | {each[1]}"


def writing(port: int, keys: dict[str, str], name: str) -> dict[str, Any]:
    """Record suspensions one by one at a moderate pace; return what that took."""
    requests = [
        {
            "method": "POST",
            "path": "/v1/suspensions",
            "key": keys["officer"],
            "body": suspension(f"{name}-{number}"),
        }
        for number in range(WRITES_PER_S * TURN_S)
    ]
    done = load(
        {
            "host": "127.0.0.1",
            "port": port,
            "connections": WRITERS,
            "requests": requests,
            "pace": WRITES_PER_S,
        },
        core=None,
    )
    if set(done["statuses"]) != {"201"}:
        raise RuntimeError(done["statuses"])
    return done


def caught_up(url: str, ask: Crowd, readers: int) -> float:
    """Return after how long all readers have everything that is recorded."""
    position = httpx.get(f"{url}/readyz").json()["position"]
    return ask.until(position=position, connected=readers, within_s=WITHIN_S)


def streams_cut(url: str, key: str) -> float:
    """Return how many streams the service says to have cut off."""
    text = httpx.get(f"{url}/metrics", headers={"Authorization": f"Bearer {key}"}).text
    return float(text.partition("\nledger_streams_cut_total ")[2].partition("\n")[0])


if __name__ == "__main__":
    main()
