"""A store that fails at the n-th statement of a write, as a disk does: whenever, whoever asks."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from eventsourcing.persistence import OperationalError
from eventsourcing.sqlite import SQLiteCursor

from ledger.domain.errors import StorageFailed, StorageFull
from ledger.store.sqlite import LedgerDatastore

DISK_FAULTS: Final = (sqlite3.OperationalError, OperationalError, StorageFull, StorageFailed)


class FailingCursor(SQLiteCursor):
    """A cursor that asks its store whether to go on."""

    def __init__(self, cursor: SQLiteCursor, store: FailingStore) -> None:
        super().__init__(cursor.sqlite_cursor)
        self._store = store

    def execute(self, *args: Any, **kwargs: Any) -> None:
        """Execute a statement, or fail instead."""
        self._store.count()
        super().execute(*args, **kwargs)


class FailingStore(LedgerDatastore):
    """A store whose write transactions fail at the statement ``fail_at``, counted from 1."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.fail_at = 0
        self.statements = 0

    def failing_at(self, statement: int) -> None:
        """Count statements anew, and fail at one of them; 0: at none."""
        self.statements, self.fail_at = 0, statement

    def count(self) -> None:
        """Fail when it is time."""
        self.statements += 1
        if self.statements == self.fail_at:
            raise sqlite3.OperationalError("disk I/O error")

    @contextmanager
    def transaction(self, *, commit: bool) -> Iterator[SQLiteCursor]:
        """Yield a cursor that may fail."""
        with super().transaction(commit=commit) as cursor:
            writing = self._writing_thread == threading.get_ident()
            yield FailingCursor(cursor, self) if writing else cursor


def dump(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of every table of a database, as they are on disk."""
    with closing(sqlite3.connect(path)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        return {
            name: connection.execute(f"SELECT * FROM {name}").fetchall()
            for (name,) in tables.fetchall()
        }
