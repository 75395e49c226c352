"""A value that is set anew as a whole, and which one held at an instant."""

from __future__ import annotations

from bisect import bisect_right
from datetime import datetime
from typing import Generic, TypeVar

T = TypeVar("T")


class History(Generic[T]):
    """The values that a thing has had, in the order in which they were set.

    Setting is in time order (``recorded_at`` never goes back), so the value that held at an instant
    is the last one set at or before it.
    """

    __slots__ = ("_instants", "_values")

    def __init__(self) -> None:
        self._instants: list[datetime] = []
        self._values: list[T] = []

    def set(self, at: datetime, value: T) -> None:
        """Add the value that holds from ``at`` on."""
        self._instants.append(at)
        self._values.append(value)

    def at(self, instant: datetime) -> T | None:
        """Return the value that held at ``instant``; ``None`` before the first was set."""
        found = bisect_right(self._instants, instant)
        return self._values[found - 1] if found else None

    @property
    def latest(self) -> T | None:
        """The value set last; ``None`` when none was."""
        return self._values[-1] if self._values else None
