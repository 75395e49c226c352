"""Which months, quarters and years are there, and from when to when does one last?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, Self

from ledger.domain.errors import InvalidValue

Length = Literal["month", "quarter", "year"]
MONTHS: Final[dict[Length, int]] = {"month": 1, "quarter": 3, "year": 12}
_NAME: Final = re.compile(r"([0-9]{4})(?:-(?:(0[1-9]|1[0-2])|Q([1-4])))?\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Period:
    """A month, quarter or year of the calendar, in UTC; ``first`` counts its first month from 0."""

    length: Length
    first: int

    @classmethod
    def parse(cls, name: str) -> Self:
        """Return the period that is called 2026-09, 2026-Q3 or 2026. Raises ``InvalidValue``."""
        match = _NAME.match(name)
        if match is None or not 1 <= int(match[1]) <= 9998:  # noqa: PLR2004 - a year after it must be
            raise InvalidValue("a period is a month, quarter or year like 2026-09, 2026-Q3 or 2026")
        january = int(match[1]) * 12
        if match[2]:
            return cls("month", january + int(match[2]) - 1)
        if match[3]:
            return cls("quarter", january + (int(match[3]) - 1) * 3)
        return cls("year", january)

    @classmethod
    def around(cls, length: Length, instant: datetime) -> Self:
        """Return the period in which an instant lies."""
        month = instant.year * 12 + instant.month - 1
        return cls(length, month - month % MONTHS[length])

    @property
    def name(self) -> str:
        """What the period is called."""
        year, month = divmod(self.first, 12)
        if self.length == "year":
            return f"{year:04}"
        return f"{year:04}-Q{month // 3 + 1}" if self.length == "quarter" else self._first_name

    @property
    def _first_name(self) -> str:
        return f"{self.first // 12:04}-{self.first % 12 + 1:02}"

    @property
    def start(self) -> datetime:
        """The first instant in it."""
        return datetime(self.first // 12, self.first % 12 + 1, 1, tzinfo=UTC)

    @property
    def end(self) -> datetime:
        """The first instant after it."""
        return self.next.start

    @property
    def next(self) -> Period:
        """The period of this length that follows it."""
        return Period(self.length, self.first + MONTHS[self.length])


def periods_between(length: Length, first: datetime, last: datetime) -> Iterator[Period]:
    """Yield the periods that ended by ``last``, from the one in which ``first`` lies."""
    period = Period.around(length, first)
    while period.end <= last:
        yield period
        period = period.next
