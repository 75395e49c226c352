"""How many answers a second an ``AccessFollower`` gives in a gateway's own process, on one core.

Its peer is a bare look-up in a dictionary of the same keys, called as a method.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks.ledgers import fill
from benchmarks.server import keys_of, new_ledger, serving
from projections.access import AccessFollower

ANSWERS: Final = 1_000_000
SUSPENDED: Final = 1_000


class Bare:
    """The least that a gateway would do instead."""

    def __init__(self) -> None:
        self._restricted = {f"user:u{number}": True for number in range(SUSPENDED)}

    def is_allowed(self, subject: str, action: str, resource: str) -> bool:
        """Look up one subject."""
        return subject not in self._restricted and bool(action) and bool(resource)


def rate(ask: Callable[[str, str, str], bool], subject: str) -> float:
    """Return how many times a second ``ask`` answers."""
    started = time.perf_counter()
    for _ in range(ANSWERS):
        ask(subject, "use", "model:atlas-3")
    return ANSWERS / (time.perf_counter() - started)


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "ledger.db"
        admin = new_ledger(database)
        fill(database, 0, suspended=SUSPENDED).recorder.store.close()
        with serving(database) as (url, _, _):
            key = keys_of(url, admin)["service"]
            with AccessFollower(url, key, when_cut_off="deny") as follower:
                assert follower.is_allowed("user:nobody", "use", "model:atlas-3")
                assert not follower.is_allowed("user:u7", "use", "model:atlas-3")
                bare = rate(Bare().is_allowed, "user:nobody")
                allowed = rate(follower.is_allowed, "user:nobody")
                denied = rate(follower.is_allowed, "user:u7")
    print(f"bare look-up:              {bare:12,.0f} /s")
    print(f"follower, allowed:         {allowed:12,.0f} /s ({allowed / bare:.2f} of that)")
    print(f"follower, denied:          {denied:12,.0f} /s ({denied / bare:.2f} of that)")


if __name__ == "__main__":
    main()
