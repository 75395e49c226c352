"""Rebuild every projection from the events, and compare it with what is live.

A projection is a function of the events alone. Where live rows differ from rebuilt ones, the rows
were changed by something else, or a projection's code changed since they were written.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from eventsourcing.sqlite import SQLiteCursor

from ledger.store.sqlite import LedgerRecorder

DIFFERENCES_SHOWN_MAX: Final = 20  # rows per table in a report; a person looks at some, not at all
PROGRESS_EVERY: Final = 10_000  # events between two calls of the progress function


@dataclass(frozen=True, slots=True)
class Difference:
    """A table whose live rows are not those of a rebuild.

    ``missing`` rows are in the rebuild only, ``extra`` rows are live only; some of each, as tuples.
    """

    projection: str
    table: str
    missing: Sequence[tuple[object, ...]]
    extra: Sequence[tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild found: events read, and the tables that differed."""

    events: int
    differences: Sequence[Difference]


def rebuild(
    recorder: LedgerRecorder,
    *,
    repair: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Rebuilt:
    """Rebuild all projections of ``recorder`` beside the live ones, and compare, in one snapshot.

    With ``repair`` the write lock is held throughout and differing tables are replaced, all or
    none. ``progress`` is called with events done and events in all.
    """
    with (
        tempfile.TemporaryDirectory(prefix="ledger-rebuild-") as folder,
        recorder.store.transaction(commit=repair) as live,
    ):
        path = Path(folder) / "rebuilt.db"
        events = _rebuild_into(path, recorder, progress)
        differences = []
        fresh = sqlite3.connect(path, isolation_level=None)
        try:
            for projection in recorder.projections:
                for table in projection.TABLES:
                    found = _compare(projection.NAME, table, fresh, live)
                    if found:
                        differences.append(found)
                        if repair:
                            _replace(table, fresh, live)
        finally:
            fresh.close()
    return Rebuilt(events, differences)


def _rebuild_into(
    path: Path, recorder: LedgerRecorder, progress: Callable[[int, int], None]
) -> int:
    connection = sqlite3.connect(path, isolation_level=None)
    # A throw-away file: speed matters, surviving a crash does not.
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    connection.row_factory = sqlite3.Row
    try:
        for projection in recorder.projections:
            for statement in projection.DDL:
                connection.execute(statement)
        total, done = recorder.position, 0
        connection.execute("BEGIN")
        cursor = SQLiteCursor(connection.cursor())
        for recorded in recorder.events(until=total):
            for projection in recorder.projections:
                projection.apply(cursor, recorded)
            done = recorded.position
            if done % PROGRESS_EVERY == 0:
                progress(done, total)
        connection.execute("COMMIT")
        progress(done, total)
        return done
    finally:
        connection.close()


def _compare(
    projection: str, table: str, fresh: sqlite3.Connection, live: SQLiteCursor
) -> Difference | None:
    """Walk both tables in the order of all their columns and note where they part."""
    columns = [row[1] for row in fresh.execute(f"PRAGMA table_info({table})")]
    query = f"SELECT * FROM {table} ORDER BY {', '.join(columns)}"
    live.execute(query)
    rebuilt_rows, live_rows = iter(fresh.execute(query)), iter(live.sqlite_cursor)
    missing: list[tuple[object, ...]] = []
    extra: list[tuple[object, ...]] = []
    ours, theirs = next(rebuilt_rows, None), next(live_rows, None)
    while ours is not None or theirs is not None:
        mine = None if ours is None else tuple(ours)
        other = None if theirs is None else tuple(theirs)
        if mine == other:
            ours, theirs = next(rebuilt_rows, None), next(live_rows, None)
        elif other is None or (mine is not None and _order(mine) < _order(other)):
            assert mine is not None
            missing.append(mine)
            ours = next(rebuilt_rows, None)
        else:
            extra.append(other)
            theirs = next(live_rows, None)
        if len(missing) + len(extra) >= 2 * DIFFERENCES_SHOWN_MAX:
            break
    if not missing and not extra:
        return None
    return Difference(projection, table, missing, extra)


def _order(row: tuple[object, ...]) -> tuple[tuple[int, object], ...]:
    """Order rows as SQLite does: null, then numbers, then text, then bytes."""

    def rank(value: object) -> tuple[int, object]:
        match value:
            case None:
                return (0, 0)
            case int() | float():
                return (1, value)
            case str():
                return (2, value.encode())
            case _:
                return (3, value)

    return tuple(rank(value) for value in row)


def _replace(table: str, fresh: sqlite3.Connection, live: SQLiteCursor) -> None:
    live.execute(f"DELETE FROM {table}")
    rows = fresh.execute(f"SELECT * FROM {table}")
    holes = ", ".join("?" * len(rows.description))
    live.executemany(f"INSERT INTO {table} VALUES ({holes})", rows)
