"""A limit on how often one key may ask, off unless set. Counted in each process by itself."""

from __future__ import annotations

import math
import time
from typing import Final

from ledger.domain.errors import InvalidValue
from ledger.service.http.problems import TooManyRequests

EXAMPLE: Final = "1000/second"


class Limiter:
    """Counts requests by key in fixed windows, as ``limits`` does in memory."""

    def __init__(self, rate: str) -> None:
        # Most services have no limit, and need not hold what counts.
        from limits import parse  # noqa: PLC0415
        from limits.storage import MemoryStorage  # noqa: PLC0415
        from limits.strategies import FixedWindowRateLimiter  # noqa: PLC0415

        try:
            self._rate = parse(rate)
        except ValueError:
            raise InvalidValue(f"LEDGER_RATE_LIMIT {rate!r} must be like {EXAMPLE}") from None
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    def count(self, key: str) -> None:
        """Count a request of a key; raises ``TooManyRequests`` with when to try again."""
        if not self._limiter.hit(self._rate, key):
            ends_at, _ = self._limiter.get_window_stats(self._rate, key)
            wait_s = max(1, math.ceil(ends_at - time.time()))
            raise TooManyRequests(f"this key may ask {self._rate}", retry_after_s=wait_s)
