"""The transparency report: the figures of a period, with the position they are a function of."""

from __future__ import annotations

import csv
import io
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import httpx
import orjson
from eventsourcing.persistence import Cursor

from ledger.domain.errors import InvalidValue, Unavailable
from ledger.domain.values import format_instant, parse_instant
from ledger.service.periods import Period
from projections.report import Span

if TYPE_CHECKING:
    from ledger.service.wiring import Service

REPORTS_KEPT: Final = 16  # some kilobytes each: those of the pages that people look at now
REPORT_TIMEOUT_S: Final = 60.0  # a report on a million events takes some seconds
FORMULA_MARKS: Final = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z", re.ASCII)


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


class Reports:
    """Reports that were asked for lately; a page shows one, and its plots are drawn from it.

    A report is a function of its period and position, so one that was made needs no second look.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._made: OrderedDict[tuple[datetime, datetime, int], dict[str, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def of(
        self, *, start: datetime, end: datetime, known_position: int | None
    ) -> Mapping[str, Any]:
        """Return the report on [start, end), as ``report_of`` does."""
        with self._service.reading() as (c, head):
            known = head if known_position is None else known_position
            with self._lock:
                found = self._made.get((start, end, known))
            if found is None:
                found = report_of(
                    self._service, c, head, start=start, end=end, known_position=known
                )
                with self._lock:
                    self._made[start, end, known] = found
                    while len(self._made) > REPORTS_KEPT:
                        self._made.popitem(last=False)
            return found


def period_of(start: str | None, end: str | None, period: str | None) -> tuple[datetime, datetime]:
    """Return from when to when a report is, as a person says it: by dates, instants or a name.

    Raises ``InvalidValue``.
    """
    if period is not None and start is None and end is None:
        named = Period.parse(period)
        return named.start, named.end
    if period is not None or start is None or end is None:
        raise InvalidValue("give a period by its name, or both its --from and --to")
    return _instant(start), _instant(end)


def _instant(text: str) -> datetime:
    """Return an instant, or the beginning of a day in UTC. Raises ``InvalidValue``."""
    try:
        return parse_instant(f"{text}T00:00:00Z" if _DAY.match(text) else text)
    except ValueError as error:
        raise InvalidValue(f"{text!r} {error}") from None


def fetch_report(
    url: str,
    key: str | None,
    *,
    start: datetime,
    end: datetime,
    known_position: int | None,
) -> dict[str, Any]:
    """Return the report of a service. Raises ``Unavailable`` when it does not give one."""
    asked = {"from": format_instant(start), "to": format_instant(end)}
    if known_position is not None:
        asked["known_position"] = str(known_position)
    try:
        response = httpx.get(
            f"{url.rstrip('/')}/v1/report",
            params=asked,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=REPORT_TIMEOUT_S,
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unavailable(f"{url} cannot be reached: {error}") from None
    if response.status_code != httpx.codes.OK:
        raise Unavailable(f"{url} answers {response.status_code}: {response.text[:1000]}")
    found: dict[str, Any] = orjson.loads(response.content)
    return found


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


def tables_of(report: Mapping[str, Any]) -> Iterator[tuple[str, list[Mapping[str, Any]] | None]]:
    """Yield each table of a report with its title: the figures of a kind, then counts by what.

    A table of the public variant that is withheld is ``None``.
    """
    for name, kind in report.items():
        if isinstance(kind, Mapping):
            yield (
                name.capitalize(),
                [
                    {"figure": measure.replace("_", " "), "value": value}
                    for measure, value in kind.items()
                    if not measure.startswith("by_")
                ],
            )
            for by, rows in kind.items():
                if by.startswith("by_"):
                    yield f"{name} {by.replace('_', ' ')}".capitalize(), rows
