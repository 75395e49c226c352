"""What a projection is: tables, and how one event changes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

from eventsourcing.persistence import Cursor

from ledger.domain.events import Recorded


class Projection(Protocol):
    """A read model that is written in the transaction that appends the event.

    ``apply`` MUST be a function of the events alone: no clock, no randomness, no table but its own.
    It MUST raise when it cannot apply an event; the append then fails, and nothing is recorded.
    ``NAME`` is a deployed identity and never changes.
    """

    NAME: ClassVar[str]
    TABLES: ClassVar[Sequence[str]]
    DDL: ClassVar[Sequence[str]]

    def apply(self, cursor: Cursor, recorded: Recorded) -> None:
        """Write what one event changes."""
