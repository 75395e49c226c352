"""The recorder on SQLite: an append-only table, one writer at a time, nothing half written.

Facts this file relies on: in WAL mode with ``synchronous=FULL`` a commit is on disk when it
returns; ``BEGIN IMMEDIATE`` takes the one write lock, across processes too, so whatever is read
after it is still true at the commit; ``PRAGMA data_version`` changes when another connection has
committed.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from eventsourcing.persistence import IntegrityError, OperationalError, StoredEvent
from eventsourcing.sqlite import (
    SQLiteApplicationRecorder,
    SQLiteCursor,
    SQLiteDatastore,
)

from ledger.domain.errors import StoreBusy, Unavailable, UnknownFact
from ledger.domain.events import EVENT_TYPES, Recorded
from ledger.domain.values import format_instant
from ledger.store.codec import LedgerMapper, Placed, RecordedNotification, parse_recorded_at
from ledger.store.projection import Log, Projection

SCHEMA_VERSION: Final = 1
LOCK_TIMEOUT_S: Final = 10  # longer than any append; a writer that waits longer has lost its caller
WAL_RETRY_S: Final = 0.01  # between two tries to switch a new file to WAL mode
READ_BATCH: Final = 1_000  # events read at a time: a few megabytes at most
_BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)


def append_only(table: str, conflict: str) -> tuple[str, ...]:
    """Return the triggers that refuse every change but an insert that has no ``conflict``.

    INSERT OR REPLACE would delete the row in its way without asking the trigger for deletes.
    """
    return (
        f"""CREATE TRIGGER IF NOT EXISTS {table}_are_never_replaced BEFORE INSERT ON {table}
            WHEN EXISTS (SELECT 1 FROM {table} WHERE {conflict})
            BEGIN SELECT raise(ABORT, '{table} are never replaced'); END""",
        f"""CREATE TRIGGER IF NOT EXISTS {table}_are_never_changed BEFORE UPDATE ON {table}
            BEGIN SELECT raise(ABORT, '{table} are never changed'); END""",
        f"""CREATE TRIGGER IF NOT EXISTS {table}_are_never_deleted BEFORE DELETE ON {table}
            BEGIN SELECT raise(ABORT, '{table} are never deleted'); END""",
    )


DDL: Final = (
    """CREATE TABLE IF NOT EXISTS events (
        position INTEGER PRIMARY KEY,
        stream TEXT NOT NULL,
        version INTEGER NOT NULL,
        type TEXT NOT NULL,
        recorded_at TEXT NOT NULL,
        state BLOB NOT NULL,
        UNIQUE (stream, version)
    ) STRICT""",
    """CREATE TRIGGER IF NOT EXISTS events_are_dense BEFORE INSERT ON events
        WHEN NEW.position IS NOT (SELECT coalesce(max(position), 0) + 1 FROM events)
        BEGIN SELECT raise(ABORT, 'positions have no gap'); END""",
    *append_only("events", "stream = NEW.stream AND version = NEW.version"),
    """CREATE TABLE IF NOT EXISTS commands (
        operator TEXT NOT NULL,
        idempotency_key TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        position INTEGER NOT NULL,
        recorded INTEGER NOT NULL,
        PRIMARY KEY (operator, idempotency_key)
    ) STRICT, WITHOUT ROWID""",
)
_SELECT: Final = "SELECT position, stream, version, type, recorded_at, state FROM events "


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


class LedgerDatastore(SQLiteDatastore):
    """Connections to one database file: one for writing, one for reading in each thread.

    A write transaction inside another, in the same thread, is a savepoint of it: commands that are
    committed together are still refused one by one.
    """

    def __init__(self, path: Path | str, *, lock_timeout_s: float = LOCK_TIMEOUT_S) -> None:
        super().__init__(str(path), originator_id_type="text")
        self.path = str(path)
        self.lock_timeout_s = lock_timeout_s
        self.turn = threading.RLock()
        self._writer: sqlite3.Connection | None = None
        self._writing_thread: int | None = None
        self._depth = 0
        self._threads = threading.local()
        self._readers: list[sqlite3.Connection] = []
        self._idle = threading.Condition()
        self._reading = 0
        self._closed = False

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
            yield SQLiteCursor(self._writer.cursor())
        else:
            with self._snapshot() as cursor:
                yield cursor

    @contextmanager
    def _write(self) -> Iterator[SQLiteCursor]:
        if self._closed:
            raise Unavailable("the store was closed")
        if self._writer is None:
            self._writer = self._connect()
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
        try:
            connection.execute(begin)
        except sqlite3.OperationalError as error:
            raise StoreBusy(f"no write lock within {self.lock_timeout_s} s: {error}") from error
        self._depth, self._writing_thread = depth + 1, threading.get_ident()
        try:
            yield SQLiteCursor(connection.cursor())
            connection.execute(commit)
        except BaseException:
            # A failed COMMIT leaves the transaction open or already rolled back; it ends here.
            if connection.in_transaction:
                for statement in roll_back:
                    connection.execute(statement)
            raise
        finally:
            self._depth = depth
            if depth == 0:
                self._writing_thread = None

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

    def data_version(self) -> int:
        """Return a number that changes when another connection, of any process, has committed."""
        with self._reader() as connection:
            return int(connection.execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        """Close every connection, once nobody reads or writes; from then on nobody can."""
        with self.turn, self._idle:
            self._closed = True
            self._idle.wait_for(lambda: not self._reading)
            super().close()
            for connection in (*self._readers, *([self._writer] if self._writer else [])):
                connection.close()
            self._readers, self._writer = [], None


class LedgerRecorder(SQLiteApplicationRecorder):
    """Appends events with dense positions; every projection applies them in the same transaction.

    So does ``log`` write its leaf; only a recorder that appends nothing may do without.
    ``clock`` says what time it is; ``recorded_at`` never goes back, whatever the clock does.
    ``committed`` is called after each commit with what it recorded, in order; ``admit`` before each
    transaction, and raises when nothing may be recorded.
    """

    def __init__(
        self,
        datastore: LedgerDatastore,
        *,
        clock: Callable[[], datetime],
        log: Log | None,
        projections: Sequence[Projection] = (),
        committed: Callable[[Sequence[Recorded]], None] = lambda _: None,
    ) -> None:
        super().__init__(datastore, events_table_name="events")
        self.store = datastore
        self.clock = clock
        self.log = log
        self.projections = projections
        self.committed = committed
        self.admit: Callable[[], None] = lambda: None
        self.mapper = LedgerMapper()
        self._pending: list[Recorded] = []
        self._level = 0
        self._head = (0, _BEGINNING)

    def construct_create_table_statements(self) -> list[str]:
        """Our own tables instead of the library's: dense positions, triggers, commands."""
        return list(DDL)

    def create_table(self) -> None:
        """Make the tables where they are missing. Raises ``Unavailable`` for a newer schema."""
        with self.store.transaction(commit=True) as c:
            c.execute("PRAGMA user_version")
            found = c.fetchone()[0]
            if found > SCHEMA_VERSION:
                raise Unavailable(
                    f"{self.store.path} has schema {found}, this version knows {SCHEMA_VERSION}; "
                    "upgrade the program"
                )
            for statement in DDL:
                c.execute(statement)
            parts: list[Log | Projection] = [*self.projections]
            for part in [self.log, *parts] if self.log else parts:
                for statement in part.DDL:
                    c.execute(statement)
            c.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    # --- writing ----------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[SQLiteCursor]:
        """Hold the write lock; commit what was appended at the end, or nothing after an error.

        Nested in the same thread it is a savepoint. ``committed`` runs after the outermost commit.
        """
        with self.store.turn:
            before, level, head = len(self._pending), self._level, self._head
            if level == 0:
                self.admit()
            self._level += 1
            try:
                with self.store.transaction(commit=True) as cursor:
                    if level == 0:
                        self._head = self._read_head(cursor)
                    yield cursor
            except BaseException:
                del self._pending[before:]
                self._head = head
                raise
            finally:
                self._level = level
            if level == 0:
                recorded, self._pending = self._pending, []
                if recorded:
                    self.committed(recorded)

    @staticmethod
    def _read_head(c: SQLiteCursor) -> tuple[int, datetime]:
        c.execute("SELECT position, recorded_at FROM events ORDER BY position DESC LIMIT 1")
        row = c.fetchone()
        return (row[0], parse_recorded_at(row[1], row[0])) if row else (0, _BEGINNING)

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open; only the thread that holds the store's turn may ask."""
        return self._level > 0

    def now(self) -> datetime:
        """Return the instant at which an event appended now is recorded: never before the last.

        Only inside ``transaction``: the lock is what makes it true at the commit.
        """
        assert self.in_transaction, "there is no transaction"
        return max(self.clock(), self._head[1])

    def insert_events(
        self, stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> Sequence[int] | None:
        """Append events in a transaction of their own; return their positions."""
        with self.transaction() as c:
            return self._insert_events(c, stored_events, **kwargs)

    def _insert_events(
        self,
        c: SQLiteCursor,
        stored_events: Sequence[StoredEvent],
        *,
        recorded_at: datetime | None = None,
        **_: Any,
    ) -> Sequence[int]:
        at = recorded_at or self.now()
        head = self._head[0]
        positions = list(range(head + 1, head + 1 + len(stored_events)))
        for position, stored in zip(positions, stored_events, strict=True):
            row = (
                position,
                str(stored.originator_id),
                stored.originator_version,
                stored.topic,
                format_instant(at),
                stored.state,
            )
            try:
                c.execute(
                    "INSERT INTO events (position, stream, version, type, recorded_at, state) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    row,
                )
            except sqlite3.IntegrityError as error:
                raise IntegrityError(error) from error
            except sqlite3.OperationalError as error:
                raise OperationalError(error) from error
            if self.log is not None:
                self.log.append(c, *row)
            if self.projections:
                # Decoded from the bytes just written: a projection sees what a rebuild will.
                recorded = self.mapper.to_domain_event(
                    RecordedNotification(
                        stored.originator_id,
                        stored.originator_version,
                        stored.topic,
                        stored.state,
                        position,
                        at,
                    )
                )
                for projection in self.projections:
                    projection.apply(c, recorded)
                self._pending.append(recorded)
            self._head = (position, at)
        return positions

    def append(self, c: SQLiteCursor, placed: Placed, recorded_at: datetime) -> Recorded:
        """Append one draft inside ``transaction``; returns the fact with its position."""
        stored = self.mapper.to_stored_event(placed)
        (position,) = self._insert_events(c, [stored], recorded_at=recorded_at)
        draft = placed.draft
        return Recorded(
            position,
            placed.stream,
            placed.version,
            recorded_at,
            draft.author,
            draft.caused_by,
            draft.event,
        )

    def find_command(
        self, c: SQLiteCursor, operator: str, key: str
    ) -> tuple[str, int, bool] | None:
        """Return what an idempotency key led to: fingerprint, position, and whether it recorded it.

        A command may also have found that its fact held already, recorded by another.
        """
        c.execute(
            "SELECT fingerprint, position, recorded FROM commands "
            "WHERE operator = ? AND idempotency_key = ?",
            (operator, key),
        )
        row = c.fetchone()
        return (row[0], row[1], bool(row[2])) if row else None

    def remember_command(
        self,
        c: SQLiteCursor,
        operator: str,
        key: str,
        fingerprint: str,
        position: int,
        *,
        recorded: bool,
    ) -> None:
        """Keep what an idempotency key led to, in the transaction that recorded it."""
        c.execute(
            "INSERT INTO commands (operator, idempotency_key, fingerprint, position, recorded) "
            "VALUES (?, ?, ?, ?, ?)",
            (operator, key, fingerprint, position, recorded),
        )

    # --- reading ----------------------------------------------------------------------------------

    def select_events(
        self,
        originator_id: Any,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        """Return the stored events of a stream, as the library's interface wants them."""
        with self.store.transaction(commit=False) as c:
            c.execute(
                _SELECT + "WHERE stream = ? AND version > ? AND version <= ? "
                f"ORDER BY version {'DESC' if desc else 'ASC'} LIMIT ?",
                (
                    str(originator_id),
                    -1 if gt is None else gt,
                    2**62 if lte is None else lte,
                    -1 if limit is None else limit,
                ),
            )
            return [
                StoredEvent(
                    self.convert_originator_id(row["stream"]),
                    row["version"],
                    row["type"],
                    row["state"],
                )
                for row in c.fetchall()
            ]

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[RecordedNotification]:
        """Return stored events in ledger order, from and to a position."""
        first = (start or 0) + (not inclusive_of_start)
        topic_filter = f"AND type IN ({', '.join('?' * len(topics))}) " if topics else ""
        with self.store.transaction(commit=False) as c:
            c.execute(
                _SELECT + f"WHERE position >= ? AND position <= ? {topic_filter}"
                "ORDER BY position LIMIT ?",
                (first, 2**62 if stop is None else stop, *topics, limit),
            )
            return [
                RecordedNotification(
                    self.convert_originator_id(row["stream"]),
                    row["version"],
                    row["type"],
                    row["state"],
                    row["position"],
                    parse_recorded_at(row["recorded_at"], row["position"]),
                )
                for row in c.fetchall()
            ]

    def max_notification_id(self) -> int | None:  # type: ignore[override]
        """Return the newest position; ``None`` when nothing is recorded."""
        with self.store.transaction(commit=False) as c:
            c.execute("SELECT max(position) FROM events")
            position: int | None = c.fetchone()[0]
            return position

    @property
    def position(self) -> int:
        """The newest position; 0 when nothing is recorded."""
        return self.max_notification_id() or 0

    def position_at(self, known_at: datetime) -> int:
        """Return the newest position recorded at or before an instant; 0 when there is none.

        ``recorded_at`` never goes back, so a binary search over positions finds it.
        """
        with self.store.transaction(commit=False) as c:
            low, high = 0, self.position
            while low < high:
                middle = (low + high + 1) // 2
                c.execute("SELECT recorded_at FROM events WHERE position = ?", (middle,))
                if parse_recorded_at(c.fetchone()[0]) <= known_at:
                    low = middle
                else:
                    high = middle - 1
            return low

    def refuse_unknown_facts(self) -> None:
        """Raise ``UnknownFact`` when the store holds a type or schema this program does not know.

        Deciding on half a record would be worse than not deciding. The canonical bytes of an event
        end with its schema version, so its data need not be parsed.
        """
        with self.store.transaction(commit=False) as c:
            c.execute("SELECT type, substr(state, -3), min(position) FROM events GROUP BY 1, 2")
            for type_, ending, position in c.fetchall():
                schema = int(bytes(ending).rpartition(b":")[2].rstrip(b"}") or b"0")
                if (type_, schema) not in EVENT_TYPES:
                    raise UnknownFact(
                        f"event {position} is a {type_} of schema {schema}, "
                        "which this version does not know",
                        position=position,
                    )

    def stream(
        self,
        stream: str,
        *,
        after: int = 0,
        until: int | None = None,
        types: Sequence[str] = (),
    ) -> list[Recorded]:
        """Return a stream's events of versions above ``after`` and positions up to ``until``.

        Given ``types``, only events of these are read at all.
        """
        of_types = f"AND type IN ({', '.join('?' * len(types))}) " if types else ""
        with self.store.transaction(commit=False) as c:
            c.execute(
                _SELECT + f"WHERE stream = ? AND version > ? AND position <= ? {of_types}"
                "ORDER BY version",
                (stream, after, 2**62 if until is None else until, *types),
            )
            return [self._recorded(row) for row in c.fetchall()]

    def streams(self, category: str, *, until: int | None = None) -> list[Recorded]:
        """Return the events of every stream of a category (``group``), in ledger order."""
        with self.store.transaction(commit=False) as c:
            c.execute(
                _SELECT + "WHERE stream >= ? AND stream < ? AND position <= ? ORDER BY position",
                (f"{category}/", f"{category}0", 2**62 if until is None else until),
            )
            return [self._recorded(row) for row in c.fetchall()]

    def events(self, *, after: int = 0, until: int | None = None) -> Iterator[Recorded]:
        """Yield all events in ledger order, read in batches of ``READ_BATCH``."""
        while batch := self.select_notifications(
            after, READ_BATCH, until, inclusive_of_start=False
        ):
            for notification in batch:
                yield self.mapper.to_domain_event(notification)
            after = batch[-1].id

    def event(self, position: int) -> Recorded | None:
        """Return the event at a position."""
        found = self.select_notifications(position, 1, position)
        return self.mapper.to_domain_event(found[0]) if found else None

    def at_positions(self, positions: Sequence[int]) -> list[Recorded]:
        """Return the events at positions, in the order of ``positions``; each must exist."""
        with self.store.transaction(commit=False) as c:
            c.execute(_SELECT + f"WHERE position IN ({', '.join('?' * len(positions))})", positions)
            found = {row["position"]: self._recorded(row) for row in c.fetchall()}
            return [found[position] for position in positions]

    def _recorded(self, row: sqlite3.Row) -> Recorded:
        return self.mapper.to_domain_event(
            RecordedNotification(
                row["stream"],
                row["version"],
                row["type"],
                row["state"],
                row["position"],
                parse_recorded_at(row["recorded_at"], row["position"]),
            )
        )
