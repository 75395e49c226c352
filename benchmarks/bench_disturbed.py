"""What checks lose while the same process records suspensions, and what a long record costs.

The peer in the same run is the same process left alone: while 100 suspensions a second are written
to it over HTTP, and, for a subject with many suspensions behind it, a subject that has none.

What is compared is measured by turns, some seconds each, and the median of the turns is shown, so
that a moment in which the machine was busy with something else spoils neither side. The ratio of
checks in a second of the server's own computing time stands beside that of the rates: they differ
when the server did not have its core to itself.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks.bench_checks import CONNECTIONS, SERVER_CORE, check_body, measure, median
from benchmarks.bench_writes import plan
from benchmarks.ledgers import fill, fill_with, past
from benchmarks.server import cpu_seconds, keys_of, load, loading, new_ledger, serving

TURNS: Final = 5
SECONDS: Final = 3
WRITES_PER_S: Final = 100
WRITERS: Final = 16  # connections, so that a slow commit does not slow the writing down
MARGIN_S: Final = 0.5  # writing begins that much before the checks, and ends that much after
PATH: Final = "/access/v1/evaluation"
RECORDS: Final = {"never-restricted": 0, "once": 1, "a-thousand-times": 1_000}


def main() -> None:
    """Measure and print."""
    print(f"one core for the server, {CONNECTIONS} connections, {TURNS} turns of {SECONDS} s each")
    with tempfile.TemporaryDirectory() as folder:
        while_written_to(Path(folder) / "written.db")
        with_a_record(Path(folder) / "record.db")


def while_written_to(database: Path) -> None:
    """Compare checks while suspensions are recorded with checks before."""
    admin = new_ledger(database)
    fill(database, 0, suspended=1_000).recorder.store.close()
    with serving(database, core=SERVER_CORE) as (url, port, pid):
        keys = keys_of(url, admin)
        key = keys["service"]
        load(writing(port, keys["officer"], "warm-up", 1.0))
        for name, user in (("allowed", "nobody"), ("denied", "u7")):
            ensure(url, key, user, allowed=name == "allowed")
            alone, disturbed, writes = [], [], []
            for turn in range(TURNS):
                alone.append(checks(pid, port, key, user))
                paced = writing(port, keys["officer"], f"{name}-{turn}", SECONDS + 2 * MARGIN_S)
                with loading(paced) as written:
                    time.sleep(MARGIN_S)
                    disturbed.append(checks(pid, port, key, user))
                    writes.append(written())
                assert set(writes[-1]["statuses"]) == {"201"}, writes[-1]["statuses"]
            before, recorded = median(alone), median(writes)
            show(f"a check that is {name}", before, before)
            show("  while suspensions are recorded", median(disturbed), before)
            print(
                f"  suspensions recorded meanwhile: {recorded['rate']:.0f} of {WRITES_PER_S} /s, "
                f"p50 {recorded['p50_ms']:.1f} ms, p99 {recorded['p99_ms']:.1f} ms"
            )


def checks(pid: int, port: int, key: str, user: str) -> dict[str, float]:
    """Ask for checks of one user; returns what was measured, by computing time, too."""
    before = cpu_seconds(pid)
    measured = measure(port, key, PATH, check_body(user), seconds=SECONDS)
    computed = cpu_seconds(pid) - before
    asked = measured["rate"] * measured.get("seconds", SECONDS)
    return {**measured, "by_cpu": asked / computed}


def writing(port: int, key: str, name: str, seconds: float) -> dict[str, Any]:
    """Return a plan that suspends another user ``WRITES_PER_S`` times a second."""
    return {
        **plan(port, key, name, int(WRITES_PER_S * seconds), WRITERS),
        "pace": WRITES_PER_S,
        "seconds": seconds,
    }


def with_a_record(database: Path) -> None:
    """Compare checks of a subject with many suspensions behind it with one that has none."""
    admin = new_ledger(database)
    made = itertools.chain.from_iterable(past(user, count) for user, count in RECORDS.items())
    fill_with(database, made).recorder.store.close()
    with serving(database, core=SERVER_CORE) as (url, port, pid):
        key = keys_of(url, admin)["service"]
        for user in RECORDS:
            ensure(url, key, user, allowed=True)
        turns: dict[str, list[Any]] = {user: [] for user in RECORDS}
        for _ in range(TURNS):
            for user, runs in turns.items():
                runs.append(checks(pid, port, key, user))
        never, once, often = (median(runs) for runs in turns.values())
        show("never restricted", never, never)
        show("1 suspension in the past", once, never)
        show("1,000 suspensions in the past", often, never)
        print(f"  a thousand against one: {often['rate'] / once['rate']:.2f}")


def ensure(url: str, key: str, user: str, *, allowed: bool) -> None:
    """Make sure that what is measured is what was meant."""
    answer = httpx.post(
        f"{url}{PATH}", json=check_body(user), headers={"Authorization": f"Bearer {key}"}
    )
    assert answer.json()["decision"] is allowed, answer.text


def show(name: str, measured: Any, peer: Any) -> None:
    """Print one line."""
    print(
        f"{name:<36} {measured['rate']:>9,.0f} /s  "
        f"{measured['rate'] / peer['rate']:>5.2f} of peer "
        f"({measured['by_cpu'] / peer['by_cpu']:.2f} by computing time)  "
        f"p50 {measured['p50_ms']:.2f}  p99 {measured['p99_ms']:.2f}  "
        f"p99.9 {measured['p999_ms']:.2f} ms"
    )


if __name__ == "__main__":
    main()
