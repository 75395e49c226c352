"""How does a list of any length leave the ledger whole, in little memory, or visibly not at all?

What is exported is fixed before the first byte: the list, the form, the filters, the position as of
which it is read, and the order. The rows are found in pages, each by where the one before ended,
and read in parts of a page, always in a short transaction. Facts that come meanwhile have higher
positions and are not in it. A fault midway ends the stream with an exception, so that the
connection breaks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from ledger.domain.errors import InvalidValue
from ledger.domain.events import Author, Exported
from ledger.domain.values import Subject, format_instant
from ledger.service.exports.formats import Format
from ledger.service.exports.views import Row, View
from ledger.service.http.shapes import TimeTravel
from ledger.service.wiring import Service

PAGE_ROWS_MAX: Final = 1_000  # found at a time: some milliseconds, whatever the filters
PART_ROWS_MAX: Final = 200  # of a page that are held as rows: a megabyte, and quicker than more


@dataclass(frozen=True, slots=True)
class Export:
    """All that the bytes of an export are a function of.

    ``filters`` are those of the view's queries, ``asked`` what they were read from: name and value.
    """

    view: View
    format: Format
    filters: Mapping[str, Any]
    asked: tuple[tuple[str, str], ...]
    at: datetime
    position: int
    oldest_first: bool

    @property
    def file_name(self) -> str:
        """How the file should be called."""
        return f"{self.view.name}-{self.position}.{self.format.suffix}"

    def query(self) -> list[tuple[str, str]]:
        """Return the parameters under which this very export is asked for again."""
        pinned = [("known_position", str(self.position))]
        if self.view.of_a_time:
            pinned.append(("at", format_instant(self.at)))
        order = "oldest" if self.oldest_first else "newest"
        return [("format", self.format.name), ("order", order), *pinned, *self.asked]


def export_of(
    service: Service,
    view: View,
    format: Format,
    *,
    filters: Mapping[str, Any],
    asked: tuple[tuple[str, str], ...] = (),
    travel: TimeTravel,
    oldest_first: bool = False,
) -> Export:
    """Fix what is exported. Raises ``InvalidValue`` for what could not be exported."""
    if not format.is_of(view):
        raise InvalidValue(f"{view.name} cannot be exported as {format.name}", field="format")
    format.require()
    with service.reading() as (c, head):
        times = travel.resolve(service, head)
        export = Export(
            view, format, filters, tuple(sorted(asked)), times.at, times.position, oldest_first
        )
        # What the query refuses, it refuses now.
        _read(service, export, _find(service, c, export, after=None, limit=1))
    return export


def begin_export(service: Service, export: Export, *, by: Author) -> Iterator[bytes]:
    """Record who takes what with them; then return the bytes, which are made as they are taken."""
    subject = export.filters.get("subject")
    service.ledger.disclose_export(
        Exported(
            view=export.view.name,
            format=export.format.name,
            filters=export.asked,
            position=export.position,
        ),
        subject=None if subject is None else Subject.parse(subject),
        by=by,
    )
    return export.format.write(export.view, pages(service, export), service.settings.origin)


def stream_export(
    service: Service, view: View, format: Format, *, by: Author, **asked: Any
) -> tuple[Export, Iterator[bytes]]:
    """Fix an export, record it and return its bytes: what ``export_of`` and ``begin_export`` do."""
    export = export_of(service, view, format, **asked)
    return export, begin_export(service, export, by=by)


def pages(service: Service, export: Export) -> Iterator[list[Row]]:
    """Yield every row of an export, part by part; between two parts no transaction is open."""
    after: int | None = None
    while True:
        with service.reading(at_least=export.position) as (c, _):
            found = _find(service, c, export, after=after, limit=PAGE_ROWS_MAX)
        count = len(found)
        while found:
            part = found[:PART_ROWS_MAX]
            del found[:PART_ROWS_MAX]
            rows = _read(service, export, part)
            after = rows[-1]["position"]
            yield rows
        if count < PAGE_ROWS_MAX:
            return


def _find(service: Service, c: Any, export: Export, *, after: int | None, limit: int) -> list[Any]:
    return export.view.find(
        service,
        c,
        export.at,
        position=export.position,
        limit=limit,
        cursor_position=after,
        oldest_first=export.oldest_first,
        **export.filters,
    )


def _read(service: Service, export: Export, found: list[Any]) -> list[Row]:
    if export.view.read is None:
        return found
    with service.reading(at_least=export.position) as (c, _):
        return export.view.read(service, c, found, export.position)


def manifest(service: Service, export: Export, *, by: Author) -> dict[str, object]:
    """Return what is needed to check a file: made by making its bytes again, and counting them."""
    counted = 0

    def counting() -> Iterator[list[Row]]:
        nonlocal counted
        for page in pages(service, export):
            counted += len(page)
            yield page

    digest, size = hashlib.sha256(), 0
    for part in export.format.write(export.view, counting(), service.settings.origin):
        digest.update(part)
        size += len(part)
    _, note = service.signer.published
    filters: dict[str, list[str]] = {}
    for name, value in export.asked:
        filters.setdefault(name, []).append(value)
    return {
        "origin": service.settings.origin,
        "view": export.view.name,
        "format": export.format.name,
        "media_type": export.format.media_type,
        "file": export.file_name,
        "filters": filters,
        "order": "oldest" if export.oldest_first else "newest",
        "position": export.position,
        "at": format_instant(export.at) if export.view.of_a_time else None,
        "count": counted,
        "bytes": size,
        "sha256": digest.hexdigest(),
        "checkpoint": None if note is None else note.decode(),
        "made_at": format_instant(service.now()),
        "operator": by.operator,
        "on_behalf_of": by.on_behalf_of,
    }
