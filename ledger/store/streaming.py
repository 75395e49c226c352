"""How are many rows read, and written, without holding all of them in memory?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Any, Final

from eventsourcing.persistence import Cursor
from eventsourcing.sqlite import SQLiteCursor

ROWS_TOGETHER: Final = 1_000  # fetched at once: about a megabyte

_numbers = count(1)


def streamed(c: Cursor, statement: str, values: Sequence[object] = ()) -> Iterator[Any]:
    """Yield the rows of a query one by one; on SQLite the cursor is in use until the last.

    A PostgreSQL server would send all rows at once, so there the transaction has a cursor of its
    own for them.
    """
    if isinstance(c, SQLiteCursor):
        c.execute(statement, values)
        yield from iter(c.fetchone, None)
        return
    name = f"streamed_{next(_numbers)}"
    c.execute(f"DECLARE {name} NO SCROLL CURSOR FOR {statement}", values)
    while True:
        c.execute(f"FETCH {ROWS_TOGETHER} FROM {name}")
        rows = c.fetchall()
        yield from rows
        if len(rows) < ROWS_TOGETHER:
            break
    c.execute(f"CLOSE {name}")  # when the reader stops before, the end of the transaction does it


def poured(c: Cursor, table: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Insert rows, one by one as they come; triggers see each.

    A PostgreSQL server takes them in one stream, many times faster than in statements.
    """
    names = ", ".join(columns)
    if isinstance(c, SQLiteCursor):
        holes = ", ".join("?" * len(columns))
        c.executemany(f"INSERT INTO {table} ({names}) VALUES ({holes})", rows)
        return
    # Whoever keeps a ledger in a file need not load the driver of a server.
    from ledger.store.postgres import PostgresCursor, copied  # noqa: PLC0415

    assert isinstance(c, PostgresCursor)
    copied(c.postgres_cursor, f"{table} ({names})", rows)
