"""CSV as RFC 4180 writes it, that no spreadsheet computes anything from.

A spreadsheet takes a cell that begins with ``=`` for a formula, quoted or not, and formulas can
send what stands beside them elsewhere. So a text that begins with a character which may start a
formula gets an apostrophe before it (OWASP ASVS 5.0, 1.2.10). One that begins with an apostrophe
gets another, so that taking one away always gives the text back.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import orjson

from ledger.service.exports.views import Kind, Row, View

# The last four are the wide forms of the first, which some spreadsheets take for the same.
FORMULA_STARTS: Final = frozenset("=+-@\t\r\n\0＝＋－＠")  # noqa: RUF001 - wide on purpose
MARK: Final = "'"
ESCAPING: Final = "formula-apostrophe"  # what the header X-Export-Escaping says was done
_MARKED: Final = FORMULA_STARTS | {MARK}


def escaped(text: str) -> str:
    """Return a text as it stands in a cell."""
    return MARK + text if text[:1] in _MARKED else text


def unescaped(cell: str) -> str:
    """Return the text that a cell stands for."""
    return cell.removeprefix(MARK)


_CELL: Final[dict[Kind, Callable[[Any], object]]] = {
    "integer": int,
    "text": escaped,
    "instant": str,
    "truth": lambda value: "true" if value else "false",
    "subject": lambda value: f"{value['type']}:{value['id']}",  # a type begins with a letter
    "json": lambda value: escaped(orjson.dumps(value).decode()),
}


def write(view: View, pages: Iterable[list[Row]], _origin: str) -> Iterator[bytes]:
    """Yield the head, then the lines of each page; null is an empty cell."""
    cells = [(column.name, _CELL[column.kind]) for column in view.columns]
    text = io.StringIO(newline="")
    writer = csv.writer(text)  # its dialect is that of RFC 4180: CRLF, and quotes are doubled
    writer.writerow([column.name for column in view.columns])
    for page in pages:
        writer.writerows(
            [None if row[name] is None else cell(row[name]) for name, cell in cells] for row in page
        )
        yield text.getvalue().encode()
        text.seek(0)
        text.truncate()
    yield text.getvalue().encode()
