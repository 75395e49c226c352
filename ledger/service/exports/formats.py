"""In which forms can a list be exported? This table is what routes, command and pages name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from ledger.service.exports import cloudevents, csv_table, lines, ocsf, parquet
from ledger.service.exports.views import Row, View

Pages = Iterable[list[Row]]
Write = Callable[[View, Pages, str], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class Format:
    """A form: how a file's name ends, its media type, and what makes bytes of pages of rows.

    ``write`` is called with the view, its pages and the log's origin. ``require`` raises
    ``InvalidValue`` where the form cannot be written here.
    """

    name: str
    suffix: str
    media_type: str
    write: Write
    what: str
    views: frozenset[str] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    require: Callable[[], object] = lambda: None

    def is_of(self, view: View) -> bool:
        """Tell whether a list can be written in this form."""
        return self.views is None or view.name in self.views


_EVENTS: Final = frozenset({"events"})

FORMATS: Final[Mapping[str, Format]] = {
    each.name: each
    for each in (
        Format(
            "ndjson",
            "ndjson",
            "application/x-ndjson",
            lines.write,
            "each item as the API shows it, a line of JSON each",
        ),
        Format(
            "csv",
            "csv",
            "text/csv; charset=utf-8; header=present",
            csv_table.write,
            "a table for spreadsheets (RFC 4180), in which no cell is a formula",
            headers={"X-Export-Escaping": csv_table.ESCAPING},
        ),
        Format(
            "parquet",
            "parquet",
            "application/vnd.apache.parquet",
            parquet.write,
            "a table for DuckDB, Polars and Spark, with types",
            require=parquet.require,
        ),
        Format(
            "cloudevents",
            "cloudevents.json",
            "application/cloudevents-batch+json",
            cloudevents.write,
            "one JSON array of CloudEvents 1.0",
            _EVENTS,
        ),
        Format(
            "ocsf",
            "ocsf.ndjson",
            "application/x-ndjson",
            ocsf.write,
            "events of OCSF 1.8 for security tools, a line of JSON each",
            _EVENTS,
        ),
    )
}


def formats_of(view: View) -> list[str]:
    """Return the names of the forms that a list can be written in."""
    return [each.name for each in FORMATS.values() if each.is_of(view)]
