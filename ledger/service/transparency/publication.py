"""Which periods are published, and what of each?

One length of periods is published, so no two overlap: the difference of a quarter and two of its
months would show what the third leaves out. For the same reason a period is published once, as it
was known when it ended, and never again as it is known later.

A period is published when something was recorded after it ended. From then on nothing can be
recorded in it, because ``recorded_at`` never goes back, whatever the clocks of hosts do.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import orjson
from eventsourcing.persistence import Cursor

from ledger.domain.errors import NotFound
from ledger.service.periods import Length, Period, periods_between
from ledger.service.report import report_of
from ledger.service.transparency.figures import SUPPRESSION_NOTE, public_figures
from ledger.service.transparency.suppression import SMALL
from ledger.service.wiring import Service


class Publication:
    """What is published, and made once for each period."""

    def __init__(self, service: Service, length: Length) -> None:
        self._service = service
        self._length: Length = length
        self._made: dict[str, bytes] = {}
        self._making = threading.Lock()

    def periods(self) -> list[Period]:
        """Return the periods that are published, the newest first."""
        with self._service.reading() as (_, head):
            return self._periods(head)

    def document(self, period: Period) -> dict[str, Any]:
        """Return what is published of a period. Raises ``NotFound`` when nothing is."""
        found: dict[str, Any] = orjson.loads(self.encoded(period))
        return found

    def encoded(self, period: Period) -> bytes:
        """Return the same as the bytes that are served."""
        # One at a time: whoever asks has no key, and a report of a year takes its time.
        with self._making:
            found = self._made.get(period.name)
            if found is None:
                with self._service.reading() as (c, head):
                    if period not in self._periods(head):
                        raise NotFound(f"nothing is published of {period.name}")
                    found = orjson.dumps(self._make(c, head, period))
                self._made[period.name] = found
            return found

    def _periods(self, head: int) -> list[Period]:
        recorder = self._service.recorder
        first, last = recorder.event(1), recorder.event(head)
        if first is None or last is None:
            return []
        found = periods_between(self._length, first.recorded_at, last.recorded_at)
        return list(found)[::-1]

    def _make(self, c: Cursor, head: int, period: Period) -> dict[str, Any]:
        known = self._service.recorder.position_before(period.end)
        report = report_of(
            self._service, c, head, start=period.start, end=period.end, known_position=known
        )
        about = {name: report[name] for name in ("from", "to", "known_position", "known_at")}
        return {
            "origin": self._service.settings.origin,
            "period": period.name,
            **about,
            "small": SMALL,
            "note": SUPPRESSION_NOTE,
            **public_figures(report),
        }


def newest(periods: Sequence[Period]) -> Period:
    """Return the newest of the published periods. Raises ``NotFound`` when there is none."""
    if not periods:
        raise NotFound("nothing is published yet: the first period has not ended")
    return periods[0]
