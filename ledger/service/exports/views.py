"""Which lists can be exported, and of which columns is each made where a form wants columns?

A row is what the API shows of an item. Rows are a function of the position at which a list is read,
of ``at`` and of the filters, so the same export gives the same bytes at any later time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from eventsourcing.persistence import Cursor

from ledger.domain.events import EVENT_TYPES
from ledger.domain.values import Role
from ledger.service.http.conduct import READERS
from ledger.service.http.sealed import show_erased
from ledger.service.wiring import Service

Row = dict[str, Any]
Kind = Literal["integer", "text", "instant", "truth", "subject", "json"]
Find = Callable[..., list[Any]]
Read = Callable[[Service, Cursor, list[Any], int], list[Row]]


@dataclass(frozen=True, slots=True)
class Column:
    """A member of a row. A ``subject`` is written ``type:id``, and what is nested as JSON."""

    name: str
    kind: Kind = "text"


@dataclass(frozen=True, slots=True)
class View:
    """A list: where it is, who may read it, its columns, and how a page of it is read.

    ``find`` is called with the service, a cursor, ``at``, and as keywords ``position``, ``limit``,
    ``cursor_position``, ``oldest_first`` and the filters. It returns rows, or the positions whose
    rows ``read`` returns, as known at a position. ``of_a_time``: rows depend on ``at``.
    """

    name: str
    roles: tuple[Role, ...]
    columns: tuple[Column, ...]
    find: Find
    read: Read | None = None
    of_a_time: bool = False

    @property
    def path(self) -> str:
        """The route of the list."""
        return f"/v1/{self.name}"


def _events_at(service: Service, c: Cursor, positions: list[int], known: int) -> list[Row]:
    rows = service.recorder.shown_at(positions)
    for row in rows:
        data = row["data"]
        for member in EVENT_TYPES[row["type"], row["schema"]].SEALED:
            if data[member]:
                data[member] = show_erased(service, c, data[member], known=known)
    return rows


def _violations(service: Service, c: Cursor, at: Any, *, position: int, **asked: Any) -> list[Row]:
    found = service.conduct.violations(c, at=at, position=position, **asked)
    shown: list[Row] = show_erased(service, c, found, known=position)
    return shown


def _columns(**kinds: Kind) -> tuple[Column, ...]:
    return tuple(Column(name, kind) for name, kind in kinds.items())


VIEWS: Final[Mapping[str, View]] = {
    view.name: view
    for view in (
        View(
            "events",
            (Role.AUDITOR,),
            _columns(
                position="integer",
                type="text",
                schema="integer",
                stream="text",
                version="integer",
                recorded_at="instant",
                operator="text",
                on_behalf_of="text",
                request_id="text",
                caused_by="integer",
                data="json",
                sentence="text",
            ),
            lambda service, c, _, **asked: service.trail.events(c, **asked),
            _events_at,
        ),
        View(
            "suspensions",
            READERS,
            _columns(
                id="text",
                position="integer",
                subject="subject",
                scope="json",
                state="text",
                effective_at="instant",
                ends_at="instant",
                duration="text",
                basis="text",
                grounds="json",
                clauses="json",
                reason="text",
                reinstatement="text",
                disclosure="text",
                ended="json",
                review="truth",
                operator="text",
                recorded_at="instant",
            ),
            lambda service, c, at, **asked: service.access.suspensions(c, at=at, **asked),
            of_a_time=True,
        ),
        View(
            "violations",
            READERS,
            _columns(
                id="text",
                position="integer",
                subject="subject",
                policy="text",
                clause="text",
                category="text",
                severity="text",
                occurred_at="instant",
                detected_by="text",
                summary="text",
                evidence="json",
                resources="json",
                state="text",
                overturned="json",
                operator="text",
                recorded_at="instant",
            ),
            _violations,
            of_a_time=True,
        ),
        View(
            "reinstatements",
            READERS,
            _columns(
                position="integer",
                id="text",
                suspension="text",
                subject="subject",
                cause="text",
                effective_at="instant",
                reason="text",
                operator="text",
                recorded_at="instant",
            ),
            lambda service, c, _, **asked: service.access.reinstatements(c, **asked),
        ),
        View(
            "warnings",
            READERS,
            _columns(
                id="text",
                position="integer",
                subject="subject",
                grounds="json",
                clauses="json",
                reason="text",
                operator="text",
                recorded_at="instant",
            ),
            lambda service, c, _, **asked: service.conduct.warnings(c, **asked),
        ),
    )
}
