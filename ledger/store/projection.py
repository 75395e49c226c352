"""What is written with an event: a projection's rows, and the leaf of the transparency log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

    @property
    def DDL(self) -> Sequence[str]:  # noqa: N802 - it is a constant, of a class or of an instance
        """What makes the tables, in SQLite's form."""

    def apply(self, cursor: Cursor, recorded: Recorded) -> None:
        """Write what one event changes."""


class Log(Protocol):
    """The transparency log, as the recorder sees it: a leaf for every event, in its transaction."""

    DDL: ClassVar[Sequence[str]]

    def append(
        self,
        c: Cursor,
        position: int,
        stream: str,
        version: int,
        type_: str,
        recorded_at: str,
        state: bytes,
        *,
        appended: Mapping[int, bytes],
    ) -> bytes:
        """Write the leaf of an event from its columns, exactly as they are stored; return it.

        ``appended`` are the leaves that this transaction wrote before, by position.
        """

    def leaf_hashes(self, c: Cursor, start: int, count: int) -> list[bytes]:
        """Return the leaf hashes from index ``start``, at most ``count`` of them."""
