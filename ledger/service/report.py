"""The transparency report: the figures of a period, with the position they are a function of."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from eventsourcing.persistence import Cursor

from ledger.domain.errors import InvalidValue
from ledger.domain.values import format_instant
from projections.report import Span

if TYPE_CHECKING:
    from ledger.service.wiring import Service

FORMULA_MARKS: Final = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""


def report_of(
    service: Service,
    c: Cursor,
    head: int,
    *,
    start: datetime,
    end: datetime,
    known_position: int | None = None,
) -> dict[str, Any]:
    """Return the report on what was recorded in [start, end), as known at a position.

    Raises ``InvalidValue`` for a period that ends before it begins, and for a position that is not
    there yet: what it will hold nobody knows.
    """
    if start >= end:
        raise InvalidValue("to must be later than from", field="to")
    known = head if known_position is None else known_position
    if known > head:
        raise InvalidValue(f"the ledger ends at position {head}", field="known_position")
    last = service.recorder.event(known)
    recorder = service.recorder
    span = Span(
        after=min(known, recorder.position_before(start)),
        until=min(known, recorder.position_before(end)),
        known=known,
    )
    return {
        "from": format_instant(start),
        "to": format_instant(end),
        "known_position": known,
        "known_at": None if last is None else format_instant(last.recorded_at),
        **service.report.figures(c, span),
    }


def as_csv(report: Mapping[str, Any]) -> bytes:
    """Return a report as lines of ``figure,key,measure,value`` (RFC 4180)."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("figure", "key", "measure", "value"))
    for row in _lines(report):
        writer.writerow([_plain(cell) for cell in row])
    return text.getvalue().encode()


def _lines(report: Mapping[str, Any]) -> Iterator[Sequence[object]]:
    for name, value in report.items():
        if not isinstance(value, Mapping):
            yield "report", "", name, value
            continue
        for measure, figure in value.items():
            if not isinstance(figure, list):
                yield name, "", measure, figure
                continue
            for row in figure:
                key, numbers = parted(row)
                for of, number in numbers.items():
                    yield f"{name} {measure.replace('_', ' ')}", " ".join(key), of, number


def parted(row: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Return what a row of a table is about, and its numbers."""
    key = [value for value in row.values() if isinstance(value, str)]
    return key, {name: value for name, value in row.items() if not isinstance(value, str)}


def _plain(cell: object) -> object:
    """Return a cell that no spreadsheet takes for a formula."""
    if isinstance(cell, str) and cell.startswith(FORMULA_MARKS):
        return f"'{cell}"
    return cell


def tables_of(report: Mapping[str, Any]) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    """Yield each table of a report with its title: first the figures of a kind, then what by."""
    for name, kind in report.items():
        if isinstance(kind, Mapping):
            yield (
                name.capitalize(),
                [
                    {"figure": measure.replace("_", " "), "value": value}
                    for measure, value in kind.items()
                    if not isinstance(value, list)
                ],
            )
            for by, rows in kind.items():
                if isinstance(rows, list):
                    yield f"{name} {by.replace('_', ' ')}".capitalize(), rows
