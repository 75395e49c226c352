"""NDJSON: each item as the API shows it, on a line of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import orjson

from ledger.service.exports.views import Row, View


def write(_: View, pages: Iterable[list[Row]], _origin: str) -> Iterator[bytes]:
    """Yield the lines of each page."""
    for page in pages:
        yield b"".join([orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in page])
