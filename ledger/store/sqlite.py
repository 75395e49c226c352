"""The store on SQLite: one file, one writer at a time, nothing half written.

Facts this file relies on: in WAL mode with ``synchronous=FULL`` a commit is on disk when it
returns; ``BEGIN IMMEDIATE`` takes the one write lock, across processes too, so whatever is read
after it is still true at the commit; ``PRAGMA data_version`` changes when another connection has
committed.
"""

from __future__ import annotations

import re
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

from eventsourcing.sqlite import SQLiteCursor, SQLiteDatastore

from ledger.domain.errors import StorageFailed, StorageFull, StoreBusy, Unavailable
from ledger.store.held import HeldInserts, Row
from ledger.store.recorder import LOCK_TIMEOUT_S, SCHEMA_VERSION

POLL_INTERVAL_S: Final = 0.01  # two are less than half of the promise; a PRAGMA costs little
ROWS_IN_A_STATEMENT: Final = 64  # more gain nothing
ROWS_APART: Final = 8  # so that there are 15 statements of many rows for each one of a single row
STATEMENTS_KEPT: Final = 512  # prepared for a connection: those 15 for each table, and the others
_ROW: Final = re.compile(r"VALUES (\([^()]*\))")
WAL_RETRY_S: Final = 0.01  # between two tries to switch a new file to WAL mode


@contextmanager
def write_transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Hold the write lock of a file that is not the ledger's; commit, or nothing after an error."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


class HoldingCursor(SQLiteCursor):
    """A cursor that holds inserts back."""

    def __init__(self, cursor: sqlite3.Cursor, held: HeldInserts) -> None:
        super().__init__(cursor)
        self._held = held

    def execute(self, statement: str | bytes, params: Any = ()) -> None:
        """Hold an insert back, or execute a statement after what it may read."""
        assert isinstance(statement, str)
        if not self._held.takes(statement, params):
            self.sqlite_cursor.execute(statement, params)

    def executemany(self, statement: str, params: Any) -> None:
        """Hold each insert back, or execute a statement once for each row of values."""
        for row in params:
            self.execute(statement, row)


class LedgerDatastore(SQLiteDatastore):
    """Connections to one database file: one for writing, one for reading in each thread.

    A write transaction inside another, in the same thread, is a savepoint of it: commands that are
    committed together are still refused one by one.
    """

    dialect: Literal["sqlite", "postgresql"] = "sqlite"
    refusals: ClassVar[tuple[type[Exception], ...]] = (sqlite3.IntegrityError,)
    failures: ClassVar[tuple[type[Exception], ...]] = (sqlite3.OperationalError,)

    def __init__(self, path: Path | str, *, lock_timeout_s: float = LOCK_TIMEOUT_S) -> None:
        super().__init__(str(path), originator_id_type="text")
        self.path = self.address = str(path)
        self.lock_timeout_s = lock_timeout_s
        self.turn = threading.RLock()
        self._writer: sqlite3.Connection | None = None
        self._writing_thread: int | None = None
        self._depth = 0
        self._held: HeldInserts | None = None
        self._threads = threading.local()
        self._readers: list[sqlite3.Connection] = []
        self._idle = threading.Condition()
        self._reading = 0
        self._closed = False
        self.fault: StorageFull | StorageFailed | None = None
        """Why the last write could not be made, when that was the disk; ``None`` since one was."""

    @contextmanager
    def transaction(self, *, commit: bool) -> Iterator[SQLiteCursor]:
        """Yield a cursor in a transaction: a snapshot to read from, or the write lock.

        Reading inside a write transaction of the same thread sees what that transaction wrote.
        Raises ``StoreBusy`` when the write lock cannot be had in ``lock_timeout_s``.
        """
        if commit:
            with self.turn, self._write() as cursor:
                yield cursor
        elif self._writing_thread == threading.get_ident():
            assert self._writer is not None
            yield self._cursor(self._writer)
        else:
            with self._snapshot() as cursor:
                yield cursor

    def glancing(self) -> AbstractContextManager[SQLiteCursor]:
        """Yield a cursor for one statement that reads, which is a snapshot by itself."""
        if self._writing_thread == threading.get_ident():
            return self.transaction(commit=False)
        return self._glance()

    @contextmanager
    def _glance(self) -> Iterator[SQLiteCursor]:
        with self._reader() as connection:
            yield SQLiteCursor(connection.cursor())

    def answering(self) -> AbstractContextManager[SQLiteCursor]:
        """Yield a cursor on a snapshot to answer a question from."""
        return self.transaction(commit=False)

    @contextmanager
    def _write(self) -> Iterator[SQLiteCursor]:
        if self._closed:
            raise Unavailable("the store was closed")
        if self._writer is None:
            self._writer = self._connect()
            # Else what a savepoint could take back goes to a temporary file, a tenth of a write.
            # What is read may have to be sorted, though, and more than fits goes to such a file.
            self._writer.execute("PRAGMA temp_store = MEMORY")
        connection, depth = self._writer, self._depth
        begin, commit, roll_back = (
            ("BEGIN IMMEDIATE", "COMMIT", ("ROLLBACK",))
            if depth == 0
            else (
                f"SAVEPOINT command_{depth}",
                f"RELEASE command_{depth}",
                (f"ROLLBACK TO command_{depth}", f"RELEASE command_{depth}"),
            )
        )
        if depth and not connection.in_transaction:
            # The disk was full, say, and all is rolled back: what comes now must not stand alone.
            raise Unavailable("the transaction was rolled back by the database")
        if self._held is not None:
            self._held.send()  # what comes before a savepoint is not rolled back with it
        try:
            connection.execute(begin)
        except sqlite3.OperationalError as error:
            raise StoreBusy(f"no write lock within {self.lock_timeout_s} s: {error}") from error
        self._depth, self._writing_thread = depth + 1, threading.get_ident()
        try:
            yield self._cursor(connection)
            if self._held is not None:
                self._held.send()
            connection.execute(commit)
            if depth == 0:
                self.fault = None
        except BaseException as error:
            if self._held is not None:
                self._held.forget()
            # A failed COMMIT leaves the transaction open or already rolled back; it ends here.
            if connection.in_transaction:
                for statement in roll_back:
                    connection.execute(statement)
            fault = _fault_of_disk(error)
            if fault is None:
                raise
            if depth == 0:
                # What a failed fsync left behind is unknown: the next write opens the file anew and
                # reads the newest event from it before it adds one.
                self.fault, self._writer = fault, None
                connection.close()
            raise fault from error
        finally:
            self._depth = depth
            if depth == 0:
                self._writing_thread = None

    @contextmanager
    def holding(self) -> Iterator[SQLiteCursor]:
        """Hold inserts back inside a write transaction, and send them at the end."""
        assert self._writer is not None
        connection = self._writer
        self._held = HeldInserts(lambda statement, rows: insert(connection, statement, rows))
        try:
            yield self._cursor(connection)
            self._held.send()
        finally:
            self._held = None

    def _cursor(self, connection: sqlite3.Connection) -> SQLiteCursor:
        cursor = connection.cursor()
        return SQLiteCursor(cursor) if self._held is None else HoldingCursor(cursor, self._held)

    @contextmanager
    def _snapshot(self) -> Iterator[SQLiteCursor]:
        with self._reader() as connection:
            if connection.in_transaction:  # a query that calls another shares its snapshot
                yield SQLiteCursor(connection.cursor())
                return
            connection.execute("BEGIN")
            try:
                yield SQLiteCursor(connection.cursor())
            finally:
                connection.rollback()

    @contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        """Yield this thread's connection for reading; ``close`` waits until it is given back.

        SQLite crashes the process when a connection is closed under a thread that uses it.
        """
        with self._idle:
            if self._closed:
                raise Unavailable("the store was closed")
            self._reading += 1
        try:
            connection: sqlite3.Connection | None = getattr(self._threads, "reader", None)
            if connection is None:
                connection = self._threads.reader = self._connect()
                self._readers.append(connection)
            yield connection
        finally:
            with self._idle:
                self._reading -= 1
                if not self._reading:
                    self._idle.notify_all()

    def _connect(self) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(
                self.path,
                isolation_level=None,
                check_same_thread=False,
                timeout=self.lock_timeout_s,
                cached_statements=STATEMENTS_KEPT,
            )
            mode = self._in_wal_mode(connection)
        except sqlite3.DatabaseError as error:
            raise Unavailable(f"{self.path} cannot be opened: {error}") from error
        connection.row_factory = sqlite3.Row
        if mode != "wal":
            raise Unavailable(f"{self.path} cannot be opened in WAL mode; use a local file system")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    def _in_wal_mode(self, connection: sqlite3.Connection) -> str:
        """Switch to WAL mode and return the mode. Others may be switching the new file, too.

        SQLite refuses the second at once, whatever the timeout says, so it asks again.
        """
        tries = int(self.lock_timeout_s / WAL_RETRY_S)
        while True:
            try:
                return str(connection.execute("PRAGMA journal_mode = WAL").fetchone()[0])
            except sqlite3.OperationalError as error:
                tries -= 1
                if tries < 0 or error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                    raise
            time.sleep(WAL_RETRY_S)

    def make_tables(self, statements: Sequence[str], *, derived: Sequence[str] = ()) -> bool:
        """Make the tables where they are missing; empty ``derived`` ones where they are outdated.

        Returns whether they were. Raises ``Unavailable`` for a newer schema.
        """
        with self.transaction(commit=True) as c:
            c.execute("PRAGMA user_version")
            found = int(c.fetchone()[0])
            if found > SCHEMA_VERSION:
                raise Unavailable(
                    f"{self.path} has schema {found}, this version knows {SCHEMA_VERSION}; "
                    "upgrade the program"
                )
            outdated = 0 < found < SCHEMA_VERSION
            dropped = [f"DROP TABLE IF EXISTS {table}" for table in derived] if outdated else []
            for statement in (*dropped, *statements):
                c.execute(statement)
            c.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            return outdated

    def data_version(self) -> int:
        """Return a number that changes when another connection, of any process, has committed."""
        with self._reader() as connection:
            return int(connection.execute("PRAGMA data_version").fetchone()[0])

    def require_writable(self) -> None:
        """Raise why the disk refuses writes, if it did the last time and still does."""
        if self.fault is not None:
            with self.transaction(commit=True) as c:
                c.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def await_commit(self, stop: threading.Event) -> None:
        """Return when it is time to look at ``data_version`` again, or told to stop."""
        stop.wait(POLL_INTERVAL_S)

    def leads(self) -> bool:
        """Tell whether this process does what one does for all: any may, under the write lock."""
        return True

    def close(self) -> None:
        """Close every connection, once nobody reads or writes; from then on nobody can."""
        with self.turn, self._idle:
            self._closed = True
            self._idle.wait_for(lambda: not self._reading)
            super().close()
            for connection in (*self._readers, *([self._writer] if self._writer else [])):
                connection.close()
            self._readers, self._writer = [], None


def insert(connection: sqlite3.Connection, statement: str, rows: Sequence[Row]) -> None:
    """Insert rows by few statements, and so that few different ones are ever prepared.

    At each statement the thread lets go of the interpreter, and waits to have it back.
    """
    if len(rows) == 1:
        connection.execute(statement, rows[0])
        return
    done = 0
    while done < len(rows):
        left = len(rows) - done
        count = min(ROWS_IN_A_STATEMENT, left - left % ROWS_APART or left)
        values = list(chain.from_iterable(rows[done : done + count]))
        connection.execute(_of_many_rows(statement, count), values)
        done += count


@lru_cache(1_000)
def _of_many_rows(statement: str, count: int) -> str:
    """Return an insert of one row as one of so many."""
    return _ROW.sub(lambda row: f"VALUES {', '.join([row[1]] * count)}", statement)


def _fault_of_disk(error: BaseException | None) -> StorageFull | StorageFailed | None:
    """Return what an error of SQLite, or one that it led to, says about the disk."""
    while error is not None and not isinstance(error, sqlite3.OperationalError):
        if isinstance(error, StorageFull | StorageFailed):
            return error
        error = error.__cause__
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest of it says where
    if code == sqlite3.SQLITE_FULL:
        return StorageFull(f"nothing was recorded: {error}")
    if code == sqlite3.SQLITE_IOERR:
        return StorageFailed(f"nothing was recorded: {error}")
    return None
