"""Parquet: a table with types. It is written by ``pyarrow``, which the extra ``parquet`` brings.

Groups of rows, and the parts of which they are made, have a fixed size, so that the bytes do not
depend on how the rows were read. They do depend on the version of ``pyarrow``, which a file names.
"""

from __future__ import annotations

import importlib.util
import io
import os
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import chain, islice
from typing import Any, Final

import orjson

from ledger.domain.errors import InvalidValue
from ledger.domain.values import microseconds
from ledger.service.exports.views import Column, Row, View

# Of one group, which is held as columns while it is written: about three megabytes. What is known
# of each group is held until the end, about as much for a million rows.
GROUP_ROWS_MAX: Final = 5_000
PART_ROWS: Final = 200  # of a group that are held as rows
PARTS_OF_GROUP: Final = GROUP_ROWS_MAX // PART_ROWS


def require() -> None:
    """Raise ``InvalidValue`` when ``pyarrow`` is not installed."""
    if importlib.util.find_spec("pyarrow") is None:
        raise InvalidValue(
            "parquet cannot be written here, because pyarrow is not installed; install "
            "compliance-ledger[parquet], or ask for another format",
            field="format",
        )


def write(view: View, pages: Iterable[list[Row]], _origin: str) -> Iterator[bytes]:
    """Yield the bytes of each group of rows, then those of the footer."""
    # Its own allocator keeps ten megabytes more of what it once had. It is chosen at the import.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    import pyarrow as pa  # noqa: PLC0415 - only who asks for Parquet needs it, and 40 megabytes
    import pyarrow.parquet as pq  # noqa: PLC0415 - as above

    kinds = {
        "integer": pa.int64(),
        "instant": pa.timestamp("us", tz="UTC"),
        "truth": pa.bool_(),
    }
    schema = pa.schema(
        [(column.name, kinds.get(column.kind, pa.string())) for column in view.columns]
    )
    rows = chain.from_iterable(pages)
    written = _Taken()
    # Of texts they would be two texts of each group, a half of what is kept until the end.
    ranges = [column.name for column in view.columns if column.kind in kinds]
    with pq.ParquetWriter(written, schema, compression="zstd", write_statistics=ranges) as writer:
        while parts := list(islice(_parts(pa, view, schema, rows), PARTS_OF_GROUP)):
            writer.write_table(pa.Table.from_batches(parts, schema=schema))
            yield written.take()
    yield written.take()


def _parts(pa: Any, view: View, schema: Any, rows: Iterator[Row]) -> Iterator[Any]:
    """Yield parts of a group as columns, which take a tenth of the memory of rows."""
    while part := list(islice(rows, PART_ROWS)):
        arrays = [
            # Not ``cast``: it would load all that Arrow computes with, 16 megabytes.
            pa.array(
                _values(column, part), pa.int64() if column.kind == "instant" else field.type
            ).view(field.type)
            for column, field in zip(view.columns, schema, strict=True)
        ]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _values(column: Column, rows: list[Row]) -> list[Any]:
    values = [row[column.name] for row in rows]
    if column.kind == "subject":
        return [f"{value['type']}:{value['id']}" for value in values]
    if column.kind == "json":
        return [None if each is None else orjson.dumps(each).decode() for each in values]
    if column.kind == "instant":
        return [
            None if each is None else microseconds(datetime.fromisoformat(each)) for each in values
        ]
    return values


class _Taken(io.RawIOBase):
    """A file that is written from its beginning, of which what was written is taken away."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: Any) -> int:
        """Keep some bytes until they are taken."""
        part = bytes(data)
        self._parts.append(part)
        self._size += len(part)
        return len(part)

    def tell(self) -> int:
        """Return how many bytes were written."""
        return self._size

    def take(self) -> bytes:
        """Return what was written since the last time."""
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken
