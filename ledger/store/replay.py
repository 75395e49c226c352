"""Rebuild every projection from the events, and compare it with what is live.

A projection is a function of the events alone. Where live rows differ from rebuilt ones, the rows
were changed by something else, or a projection's code changed since they were written.

Rebuilding uses all cores: each process replays the events into a file of its own, for its share of
the projections. Rows are inserted in batches and without indexes, which is what makes it
many times faster than the appends were. The files are SQLite's, whatever the ledger is kept in:
rows are compared as values, in the order of their bytes, which is the same on both stores.
"""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from eventsourcing.persistence import Cursor
from eventsourcing.sqlite import SQLiteCursor

from ledger.store.held import HeldInserts
from ledger.store.projection import Projection
from ledger.store.recorder import LedgerRecorder, Store
from ledger.store.sqlite import HoldingCursor, insert
from ledger.store.streaming import poured, streamed

DIFFERENCES_SHOWN_MAX: Final = 20  # rows per table in a report; a person looks at some, not at all
PROGRESS_EVERY: Final = 10_000  # events between two calls of the progress function
ALONE_MAX: Final = 50_000  # events below which starting processes costs more than it saves
COMPARED_TOGETHER: Final = 1_000  # rows compared at once

Progress = Callable[[int, int], None]


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
    progress: Progress = lambda _done, _all: None,
) -> Rebuilt:
    """Rebuild all projections of ``recorder`` beside the live ones, and compare, in one snapshot.

    With ``repair`` the write lock is held throughout and differing tables are replaced, all or
    none. ``progress`` is called with events done and events in all.
    """
    with (
        recorder.store.transaction(commit=repair) as live,
        replayed(recorder, progress=progress) as replay,
    ):
        return Rebuilt(replay.events, replay.compare(live, repair=repair))


@dataclass(frozen=True, slots=True)
class Replay:
    """Projections as so many events make them, in files; which of them each file holds."""

    events: int
    files: Sequence[tuple[Sequence[Projection], Path]]

    def compare(self, live: Cursor, *, repair: bool = False) -> list[Difference]:
        """Return the live tables that differ; with ``repair`` they are replaced."""
        differences = []
        for projections, path in self.files:
            fresh = sqlite3.connect(path, isolation_level=None)
            try:
                for projection in projections:
                    for table in projection.TABLES:
                        found = _compare(projection.NAME, table, fresh, live)
                        if found:
                            differences.append(found)
                            if repair:
                                _replace(table, fresh, live)
            finally:
                fresh.close()
        return differences


@contextmanager
def replayed(
    recorder: LedgerRecorder, *, progress: Progress = lambda _done, _all: None
) -> Iterator[Replay]:
    """Replay all events into new files, which are there until the block ends.

    They can be compared with what is live in ``recorder``, and in any SQLite file.
    """
    with tempfile.TemporaryDirectory(prefix="ledger-rebuild-") as folder:
        total = recorder.position
        yield Replay(total, _replay_all(recorder, Path(folder), total, progress))


# --- replaying ------------------------------------------------------------------------------------


def _replay_all(
    recorder: LedgerRecorder, folder: Path, total: int, progress: Progress
) -> list[tuple[Sequence[Projection], Path]]:
    """Replay the events into new files; returns which projections each file holds."""
    shares: list[Sequence[Projection]] = [recorder.projections]
    cores = os.cpu_count() or 1
    if total > ALONE_MAX and cores > 1:
        # The trail writes about as much as all others together, and comes last.
        shares = [recorder.projections[-1:], recorder.projections[:-1]]
    files = [(share, folder / f"rebuilt-{number}.db") for number, share in enumerate(shares)]
    if len(files) == 1:
        _replay(recorder.events(until=total), *files[0], total, progress)
        return files
    # A fresh interpreter, because a copy of this one would share its threads' locks.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(files) - 1, mp_context=spawn) as others:
        running = [
            others.submit(
                _replay_elsewhere, type(recorder.store), recorder.store.address, share, path, total
            )
            for share, path in files[1:]
        ]
        _replay(recorder.events(until=total), *files[0], total, progress)
        for one in running:
            one.result()
    return files


def _replay_elsewhere(
    store: Callable[[str], Store],
    address: str,
    projections: Sequence[Projection],
    path: Path,
    total: int,
) -> None:
    recorder = LedgerRecorder(store(address), clock=_no_clock, log=None)
    try:
        _replay(recorder.events(until=total), projections, path, total, lambda _done, _all: None)
    finally:
        recorder.store.close()


def _no_clock() -> Any:
    raise AssertionError("a replay appends nothing, so it needs no time")


def _replay(
    events: Iterable[Any],
    projections: Sequence[Projection],
    path: Path,
    total: int,
    progress: Progress,
) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    # A throw-away file: speed matters, surviving a crash does not.
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    connection.row_factory = sqlite3.Row
    try:
        for projection in projections:
            for statement in projection.DDL:
                if statement.startswith(("CREATE TABLE", "CREATE VIRTUAL TABLE")):
                    connection.execute(statement)
        connection.execute("BEGIN")
        held = HeldInserts(lambda statement, rows: insert(connection, statement, rows))
        cursor = HoldingCursor(connection.cursor(), held)
        for recorded in events:
            for projection in projections:
                projection.apply(cursor, recorded)
            if recorded.position % PROGRESS_EVERY == 0:
                progress(recorded.position, total)
        held.send()
        connection.execute("COMMIT")
        progress(total, total)
    finally:
        connection.close()


# --- comparing ------------------------------------------------------------------------------------


def _compare(
    projection: str, table: str, fresh: sqlite3.Connection, live: Cursor
) -> Difference | None:
    """Walk both tables in the order of all their columns and note where they part."""
    columns = _columns(table, fresh, live)
    order = ", ".join(f"{column} NULLS FIRST" for column in columns)
    query = f"SELECT {', '.join(columns)} FROM {table} ORDER BY {order}"
    rebuilt_rows = fresh.execute(query)
    live_rows = map(tuple, streamed(live, query))
    ours: list[tuple[object, ...]] = []
    theirs: list[tuple[object, ...]] = []
    missing: list[tuple[object, ...]] = []
    extra: list[tuple[object, ...]] = []
    while len(missing) + len(extra) < 2 * DIFFERENCES_SHOWN_MAX:
        ours = ours or rebuilt_rows.fetchmany(COMPARED_TOGETHER)
        theirs = theirs or list(islice(live_rows, COMPARED_TOGETHER))
        if ours == theirs:
            if not ours:
                break
            ours, theirs = [], []
        elif not theirs or (ours and _order(ours[0]) < _order(theirs[0])):
            missing.append(ours.pop(0))
        elif not ours or _order(theirs[0]) < _order(ours[0]):
            extra.append(theirs.pop(0))
        else:
            ours, theirs = ours[1:], theirs[1:]
    if not missing and not extra:
        return None
    return Difference(projection, table, missing, extra)


def _columns(table: str, fresh: sqlite3.Connection, live: Cursor) -> list[str]:
    if isinstance(live, SQLiteCursor):
        live.execute(
            "SELECT sql LIKE 'CREATE VIRTUAL %' FROM sqlite_schema WHERE name = ?", (table,)
        )
        row = live.fetchone()
        if row is not None and row[0]:
            # A table of words has no other key. Rebuilt as PostgreSQL has it, that is its position.
            live.execute(f"PRAGMA table_info({table})")
            return ["rowid", *(row[1] for row in live.fetchall())]
    return [row[1] for row in fresh.execute(f"PRAGMA table_info({table})")]


def _order(row: tuple[object, ...]) -> tuple[tuple[int, Any], ...]:
    """Order rows as SQLite does: null, then numbers, then text, then bytes."""

    def rank(value: object) -> tuple[int, Any]:
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


def _replace(table: str, fresh: sqlite3.Connection, live: Cursor) -> None:
    columns = _columns(table, fresh, live)
    live.execute(f"DELETE FROM {table}")
    poured(live, table, columns, fresh.execute(f"SELECT {', '.join(columns)} FROM {table}"))
