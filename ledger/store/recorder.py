"""The recorder: an append-only table, one writer at a time, nothing half written, on either store.

What is the same on SQLite and PostgreSQL is here: the SQL is written once, for both. A store below
gives transactions; the first thing that a write transaction does is take the one append lock of the
ledger, so whatever is read after it is still true at the commit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from itertools import chain
from typing import Any, ClassVar, Final, Literal, Protocol, TypeVar

from eventsourcing.persistence import (
    ApplicationRecorder,
    Cursor,
    IntegrityError,
    OperationalError,
    StoredEvent,
    Subscription,
)

from ledger.domain.errors import LogNotVerified, OutcomeUnknown, Unavailable, UnknownFact
from ledger.domain.events import EVENT_TYPES, Recorded
from ledger.domain.values import format_instant
from ledger.store.codec import (
    LedgerMapper,
    Placed,
    RecordedNotification,
    decode,
    parse_recorded_at,
    stored_as_json,
)
from ledger.store.projection import Log, Projection

SCHEMA_VERSION: Final = 4  # raised when a projection derives more than before
LOCK_TIMEOUT_S: Final = 10  # longer than any append; a writer that waits longer has lost its caller
RESOLVE_TRIES: Final = 3  # to reach the database again, each as long as a connection may take
READ_BATCH: Final = 1_000  # events read at a time: a few megabytes at most
_NO_LIMIT: Final = 2**62
_BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)

T = TypeVar("T")


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


DENSE: Final = "NEW.position IS NOT (SELECT coalesce(max(position), 0) + 1 FROM events)"
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
    f"""CREATE TRIGGER IF NOT EXISTS events_are_dense BEFORE INSERT ON events
        WHEN {DENSE}
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
    # A row says that what is here is copied from another database, and not all of it yet. Whoever
    # copies takes the row away and puts it back in each transaction, so nobody else can append.
    """CREATE TABLE IF NOT EXISTS half_copy (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        source TEXT NOT NULL
    ) STRICT""",
    """CREATE TRIGGER IF NOT EXISTS events_are_not_added_to_half_a_copy BEFORE INSERT ON events
        WHEN EXISTS (SELECT 1 FROM half_copy)
        BEGIN SELECT raise(ABORT, 'this is half of a copy'); END""",
)
_SELECT: Final = "SELECT position, stream, version, type, recorded_at, state FROM events "
# Without statistics, as after the first minutes of a ledger, PostgreSQL takes a list of streams for
# most of the ledger and reads all of it. The limit, which is none, makes it look up one by one.
_NEWER: Final = (
    "SELECT e.* FROM unnest(?::text[], ?::bigint[]) AS asked (name, seen) CROSS JOIN LATERAL "
    f"({_SELECT} WHERE stream = name AND version > seen ORDER BY version LIMIT {_NO_LIMIT}) e"
)
_EVENT_IS_THERE: Final = (
    "SELECT 1 FROM events WHERE position = ? AND stream = ? AND version = ? AND type = ? "
    "AND recorded_at = ? AND state = ?"
)
_COMMAND_IS_THERE: Final = (
    "SELECT 1 FROM commands WHERE operator = ? AND idempotency_key = ? AND fingerprint = ? "
    "AND position = ?"
)


class Store(Protocol):
    """Transactions on the database of one ledger."""

    dialect: Literal["sqlite", "postgresql"]
    path: str
    """What messages call it: a file, or an address without a password."""
    address: str
    """What another process opens it with."""
    lock_timeout_s: float
    turn: threading.RLock
    """Held by the one thread of this process that writes."""
    refusals: ClassVar[tuple[type[Exception], ...]]
    """What the driver raises when a constraint or a trigger refuses a statement."""
    failures: ClassVar[tuple[type[Exception], ...]]
    """What the driver raises when a statement cannot be carried out."""

    def transaction(self, *, commit: bool) -> AbstractContextManager[Cursor]:
        """Yield a cursor in a transaction: a snapshot to read from, or the append lock.

        A write inside a write of the same thread is a savepoint of it; reading inside one sees what
        it wrote. Raises ``StoreBusy`` when the lock cannot be had in ``lock_timeout_s``, and
        ``OutcomeUnknown`` when it cannot tell whether it committed.
        """

    def glancing(self) -> AbstractContextManager[Cursor]:
        """Yield a cursor for one statement that reads, which is a snapshot by itself.

        Inside a transaction of the same thread it reads in that.
        """

    def answering(self) -> AbstractContextManager[Cursor]:
        """Yield a cursor on a snapshot to answer a question from: of a standby, if one is set.

        Whatever the same thread reads inside it, it reads in that snapshot.
        """

    def holding(self) -> AbstractContextManager[Cursor]:
        """Hold inserts back inside a write transaction, and send them at the end.

        What reads their tables is sent after them. An insert that is refused may so be refused by
        another statement than its own, or at the end.
        """

    def make_tables(self, statements: Sequence[str], *, derived: Sequence[str] = ()) -> bool:
        """Make the tables where they are missing; empty ``derived`` ones where they are outdated.

        Returns whether they were: an older version of the program made them. Raises ``Unavailable``
        for a newer schema, and where somebody else has to make them.
        """

    def data_version(self) -> int:
        """Return a number that changes when another connection, of any process, has committed."""

    def require_writable(self) -> None:
        """Raise why the disk refuses writes, if it did the last time and still does."""

    def await_commit(self, stop: threading.Event) -> None:
        """Return when something may have been committed, or after a while, or told to stop."""

    def leads(self) -> bool:
        """Tell whether this process does what one does for all: ending terms, signing."""

    def close(self) -> None:
        """Close every connection, once nobody reads or writes; from then on nobody can."""


class LedgerRecorder(ApplicationRecorder):
    """Appends events with dense positions; every projection applies them in the same transaction.

    So does ``log`` write its leaf; only a recorder that appends nothing may do without.
    ``clock`` says what time it is; ``recorded_at`` never goes back, whatever the clock does.
    ``committed`` is called after each commit with what it recorded, in order; ``admit`` before each
    transaction, and raises when nothing may be recorded.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], datetime],
        log: Log | None,
        projections: Sequence[Projection] = (),
        committed: Callable[[Sequence[Recorded]], None] = lambda _: None,
    ) -> None:
        self.store = store
        self.clock = clock
        self.log = log
        self.projections = projections
        self.committed = committed
        self.admit: Callable[[], None] = lambda: None
        self.mapper = LedgerMapper()
        self._pending: list[Recorded] = []
        self._traces: list[tuple[str, tuple[Any, ...]]] = []
        self._commands: dict[tuple[str, str], tuple[str, int, bool] | None] = {}
        self._led_to: dict[int, Recorded] = {}
        self._leaves: dict[int, bytes] = {}
        self._level = 0
        self._head = (0, _BEGINNING)
        self.newest = 0
        """The newest position that this process has seen: nothing is appended before it."""
        self._own_head = 0
        self._own_row: tuple[Any, ...] | None = None
        """The columns of the newest event that was appended here."""
        self._next_row: tuple[Any, ...] | None = None
        self.generation = 0
        """A number that changes when events may be there that this recorder did not append."""

    def statements(self) -> list[str]:
        """Return what makes the tables of the ledger, its log and its projections."""
        parts: list[Log | Projection] = [*self.projections]
        if self.log is not None:
            parts.insert(0, self.log)
        return [*DDL, *(statement for part in parts for statement in part.DDL)]

    def create_table(self) -> None:
        """Make the tables where they are missing; derive anew what an older version derived.

        Either is done whole or not at all. Raises ``Unavailable`` for a newer schema.
        """
        derived = [table for projection in self.projections for table in projection.TABLES]
        with self.store.transaction(commit=True):
            if self.store.make_tables(self.statements(), derived=derived):
                with self.store.holding() as c:
                    for recorded in self.events():
                        for projection in self.projections:
                            projection.apply(c, recorded)

    def refuse_half_copy(self) -> None:
        """Raise ``Unavailable`` when the store holds a copy that was not made to the end."""
        with self.store.transaction(commit=False) as c:
            c.execute("SELECT source FROM half_copy")
            row = c.fetchone()
        if row is not None:
            raise Unavailable(
                f"{self.store.path} holds half of a copy of {row[0]}; run the same "
                "compliance-ledger migrate again, which goes on where it stopped"
            )

    # --- writing ----------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[Cursor]:
        """Hold the write lock; commit what was appended at the end, or nothing after an error.

        Nested in the same thread it is a savepoint. ``committed`` runs after the outermost commit.
        Raises ``OutcomeUnknown`` when the answer to the commit was lost and cannot be found out.
        """
        with self.store.turn:
            before, level, head = len(self._pending), self._level, self._head
            traces = len(self._traces)
            if level == 0:
                self.admit()
            self._level += 1
            try:
                with self.store.transaction(commit=True) as cursor:
                    if level == 0:
                        self._head = self._read_head(cursor)
                        self.require_nothing_lost(self._head[0])
                        if self._head[0] != self._own_head:
                            self.generation += 1
                        self._own_head = self._head[0]
                    yield cursor
            except BaseException as error:
                unknown = isinstance(error, OutcomeUnknown)
                found = unknown and self._was_recorded()
                if not found:
                    del self._pending[before:]
                    del self._traces[traces:]
                    self._head = head
                    self._forget()
                    if unknown and found is False:
                        raise Unavailable(f"nothing was recorded: {error}") from error
                    raise
            finally:
                self._level = level
            if level == 0:
                recorded, self._pending = self._pending, []
                self._traces = []
                self._forget()
                self._own_head = self._head[0]
                if recorded:
                    self._own_row = self._next_row
                    self.newest = max(self.newest, recorded[-1].position)
                    self.committed(recorded)

    def _forget(self) -> None:
        """Keep nothing of what was read and written in a transaction, however it ended."""
        self._commands.clear()
        self._led_to.clear()
        self._leaves.clear()

    def require_nothing_lost(self, head: int) -> None:
        """Raise ``LogNotVerified`` when the ledger ends before what this process has seen of it.

        So it is after a standby took over that had not received all, or an older file was put in
        place: what would be appended would take the positions of facts that were acted upon.
        """
        if head < self.newest:
            raise LogNotVerified(
                f"position {self.newest} was recorded, and the database ends at {head}: it lost "
                f"events {head + 1} to {self.newest}. Stop every process and put back a copy that "
                "has them; when there is none, compliance-ledger recover --accept-loss goes on "
                "without those that were signed, and a restart without those that were not"
            )

    def _was_recorded(self) -> bool | None:
        """Find out what became of a commit whose answer was lost, by the last row it wrote.

        The transaction that looks begins with the append lock, and the one that was cut off keeps
        the lock until it is decided: so what is not there then will not come. Returns ``None`` when
        the database is not to be reached.
        """
        if not self._traces:
            return None
        for _ in range(RESOLVE_TRIES):
            with suppress(Unavailable), self.store.transaction(commit=True) as c:
                c.execute(*self._traces[-1])
                return c.fetchone() is not None
        return None

    @staticmethod
    def _read_head(c: Cursor) -> tuple[int, datetime]:
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
            self.generation += 1  # whoever follows what is appended here was not asked
            return self._insert_events(c, stored_events, **kwargs)

    def _insert_events(
        self,
        c: Cursor,
        stored_events: Sequence[StoredEvent],
        *,
        recorded_at: datetime | None = None,
        **_: Any,
    ) -> Sequence[int]:
        at = recorded_at or self.now()
        positions = []
        for stored in stored_events:
            position = self._write(c, stored, at)
            if self.projections:
                # Nobody but the bytes can say what fact this is.
                self._project(
                    c,
                    decode(
                        position,
                        str(stored.originator_id),
                        stored.originator_version,
                        stored.topic,
                        at,
                        stored.state,
                    ),
                )
            positions.append(position)
        return positions

    def _write(self, c: Cursor, stored: StoredEvent, at: datetime) -> int:
        """Write an event and its leaf at the next position."""
        position = self._head[0] + 1
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
        except self.store.refusals as error:
            raise IntegrityError(error) from error
        except self.store.failures as error:
            raise OperationalError(error) from error
        self._traces.append((_EVENT_IS_THERE, row))
        if self.log is not None:
            self._leaves[position] = self.log.append(c, *row, appended=self._leaves)
        self._head, self._next_row = (position, at), row
        return position

    def _project(self, c: Cursor, recorded: Recorded) -> Recorded:
        for projection in self.projections:
            projection.apply(c, recorded)
        self._pending.append(recorded)
        return recorded

    def append(self, c: Cursor, placed: Placed, recorded_at: datetime) -> Recorded:
        """Append one draft inside ``transaction``; returns the fact with its position.

        It is what ``decode`` makes of its bytes, which a rebuild will see: facts are values, and
        each is equal to what is read of it.
        """
        draft = placed.draft
        position = self._write(c, self.mapper.to_stored_event(placed), recorded_at)
        recorded = Recorded(
            position,
            placed.stream,
            placed.version,
            recorded_at,
            draft.author,
            draft.caused_by,
            draft.event,
        )
        return self._project(c, recorded)

    def leaf_appended(self, position: int) -> bytes | None:
        """Return the leaf hash of an event that this transaction appended, ``None`` of another."""
        return self._leaves.get(position)

    def leaf_hash(self, position: int) -> bytes:
        """Return the leaf hash of an event that is committed."""
        assert self.log is not None, "there is no log"
        with self.store.transaction(commit=False) as c:
            return self.log.leaf_hashes(c, position - 1, 1)[0]

    def read_ahead(self, commands: Iterable[tuple[str, str]]) -> None:
        """Find out at once, inside ``transaction``, what these idempotency keys led to.

        A file that is imported again asks for nothing else, line after line.
        """
        asked: dict[str, dict[str, None]] = {}
        for operator, key in commands:
            asked.setdefault(operator, {})[key] = None
        found: dict[tuple[str, str], tuple[str, int, bool]] = {}
        with self.store.transaction(commit=False) as c:
            for operator, keys in asked.items():
                c.execute(
                    "SELECT idempotency_key, fingerprint, position, recorded FROM commands "
                    f"WHERE operator = ? AND idempotency_key IN ({', '.join('?' * len(keys))})",
                    (operator, *keys),
                )
                for row in c.fetchall():
                    found[operator, row[0]] = (row[1], row[2], bool(row[3]))
        self._commands = {
            (operator, key): found.get((operator, key))
            for operator, keys in asked.items()
            for key in keys
        }
        positions = {position for _, position, _ in found.values()}
        self._led_to = self._found_at(sorted(positions), self._recorded)

    def event_led_to(self, position: int) -> Recorded | None:
        """Return the event that an idempotency key led to; it is read unless ``read_ahead`` was."""
        return self._led_to.get(position) or self.event(position)

    def find_command(self, c: Cursor, operator: str, key: str) -> tuple[str, int, bool] | None:
        """Return what an idempotency key led to: fingerprint, position, and whether it recorded it.

        A command may also have found that its fact held already, recorded by another.
        """
        if (operator, key) in self._commands:
            return self._commands[operator, key]
        c.execute(
            "SELECT fingerprint, position, recorded FROM commands "
            "WHERE operator = ? AND idempotency_key = ?",
            (operator, key),
        )
        row = c.fetchone()
        return (row[0], row[1], bool(row[2])) if row else None

    def remember_command(
        self,
        c: Cursor,
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
            (operator, key, fingerprint, position, int(recorded)),
        )
        self._commands[operator, key] = (fingerprint, position, recorded)
        self._traces.append((_COMMAND_IS_THERE, (operator, key, fingerprint, position)))

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
        with self.store.glancing() as c:
            c.execute(
                _SELECT + "WHERE stream = ? AND version > ? AND version <= ? "
                f"ORDER BY version {'DESC' if desc else 'ASC'} LIMIT ?",
                (
                    str(originator_id),
                    -1 if gt is None else gt,
                    _NO_LIMIT if lte is None else lte,
                    _NO_LIMIT if limit is None else limit,
                ),
            )
            return [
                StoredEvent(
                    row["stream"],
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
        with self.store.glancing() as c:
            c.execute(
                _SELECT + f"WHERE position >= ? AND position <= ? {topic_filter}"
                "ORDER BY position LIMIT ?",
                (first, _NO_LIMIT if stop is None else stop, *topics, limit),
            )
            return [
                RecordedNotification(
                    row["stream"],
                    row["version"],
                    row["type"],
                    row["state"],
                    row["position"],
                    parse_recorded_at(row["recorded_at"], row["position"]),
                )
                for row in c.fetchall()
            ]

    def max_notification_id(self) -> int | None:
        """Return the newest position; ``None`` when nothing is recorded."""
        with self.store.glancing() as c:
            c.execute("SELECT max(position) FROM events")
            position: int | None = c.fetchone()[0]
            return position

    def subscribe(
        self, gt: int | None = None, topics: Sequence[str] = ()
    ) -> Subscription[ApplicationRecorder]:
        """Refuse: the feed follows the ledger."""
        raise NotImplementedError("the feed follows the ledger")

    @property
    def position(self) -> int:
        """The newest position; 0 when nothing is recorded."""
        return self.max_notification_id() or 0

    def ends_with_own(self, position: int) -> bool:
        """Tell whether the newest event is that at a position, and is as it was appended here."""
        own = self._own_row
        if own is None or own[0] != position:
            return False
        with self.store.glancing() as c:
            c.execute(_SELECT + "WHERE position >= ? ORDER BY position LIMIT 2", (position,))
            return [tuple(row) for row in c.fetchall()] == [own]

    def position_at(self, known_at: datetime) -> int:
        """Return the newest position recorded at or before an instant; 0 when there is none."""
        return self._newest(lambda recorded_at: recorded_at <= known_at)

    def position_before(self, instant: datetime) -> int:
        """Return the newest position recorded before an instant; 0 when there is none."""
        return self._newest(lambda recorded_at: recorded_at < instant)

    def _newest(self, holds: Callable[[datetime], bool]) -> int:
        """Return the newest position for whose ``recorded_at`` something holds that ends once.

        ``recorded_at`` never goes back, so a binary search over positions finds it.
        """
        with self.store.transaction(commit=False) as c:
            low, high = 0, self.position
            while low < high:
                middle = (low + high + 1) // 2
                c.execute("SELECT recorded_at FROM events WHERE position = ?", (middle,))
                if holds(parse_recorded_at(c.fetchone()[0])):
                    low = middle
                else:
                    high = middle - 1
            return low

    def refuse_unknown_facts(self) -> None:
        """Raise ``UnknownFact`` when the store holds a type or schema this program does not know.

        Deciding on half a record would be worse than not deciding. The canonical bytes of an event
        end with its schema version, so its data need not be parsed. Events are looked at one by
        one and the first that is unknown ends it: to group them, a store would hold them all.
        """
        known = [(type_, (b":%d}" % schema)[-3:]) for type_, schema in EVENT_TYPES]
        with self.store.transaction(commit=False) as c:
            c.execute(
                "SELECT position, type, substr(state, length(state) - 2) FROM events "
                "WHERE (type, substr(state, length(state) - 2)) NOT IN "
                f"(VALUES {', '.join(['(?, ?)'] * len(known))}) ORDER BY position LIMIT 1",
                tuple(chain.from_iterable(known)),
            )
            row = c.fetchone()
        if row is None:
            return
        position, type_, ending = row
        schema = int(bytes(ending).rpartition(b":")[2].rstrip(b"}") or b"0")
        raise UnknownFact(
            f"event {position} is a {type_} of schema {schema}, which this version does not know",
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
        with self.store.glancing() as c:
            c.execute(
                _SELECT + f"WHERE stream = ? AND version > ? AND position <= ? {of_types}"
                "ORDER BY version",
                (stream, after, _NO_LIMIT if until is None else until, *types),
            )
            return [self._recorded(row) for row in c.fetchall()]

    def newer(self, versions: Mapping[str, int]) -> list[Recorded]:
        """Return the events of several streams, of each those above a version, in ledger order."""
        if not versions:
            return []
        with self.store.glancing() as c:
            if self.store.dialect == "postgresql":
                c.execute(_NEWER, (list(versions), list(versions.values())))
            else:
                # Most are asked for from their beginning: names are found faster than conditions.
                begun = {stream: version for stream, version in versions.items() if version}
                new = [stream for stream in versions if stream not in begun]
                streams = ["stream = ? AND version > ?"] * len(begun)
                if new:
                    streams.append(f"stream IN ({', '.join('?' * len(new))})")
                c.execute(
                    _SELECT + f"WHERE {' OR '.join(streams)}",
                    [*(value for each in begun.items() for value in each), *new],
                )
            return sorted(map(self._recorded, c.fetchall()), key=lambda each: each.position)

    def streams(self, category: str, *, until: int | None = None) -> list[Recorded]:
        """Return the events of every stream of a category (``group``), in ledger order."""
        with self.store.glancing() as c:
            c.execute(
                _SELECT + "WHERE stream >= ? AND stream < ? AND position <= ? ORDER BY position",
                (f"{category}/", f"{category}0", _NO_LIMIT if until is None else until),
            )
            return [self._recorded(row) for row in c.fetchall()]

    def events(self, *, after: int = 0, until: int | None = None) -> Iterator[Recorded]:
        """Yield all events in ledger order, read in batches of ``READ_BATCH``."""
        full = True
        while full:
            batch = self.select_notifications(after, READ_BATCH, until, inclusive_of_start=False)
            for notification in batch:
                yield self.mapper.to_domain_event(notification)
            full = len(batch) == READ_BATCH
            after = batch[-1].id if batch else after

    def event(self, position: int) -> Recorded | None:
        """Return the event at a position."""
        found = self.select_notifications(position, 1, position)
        return self.mapper.to_domain_event(found[0]) if found else None

    def at_positions(self, positions: Sequence[int]) -> list[Recorded]:
        """Return the events at positions, in the order of ``positions``; each must exist."""
        return self._at(positions, self._recorded)

    def shown_at(self, positions: Sequence[int]) -> list[dict[str, Any]]:
        """Return the events at positions as the API shows them, quicker than one by one."""
        return self._at(positions, lambda row: stored_as_json(*row))

    def _at(self, positions: Sequence[int], read: Callable[[Any], T]) -> list[T]:
        found = self._found_at(positions, read)
        return [found[position] for position in positions]

    def _found_at(self, positions: Sequence[int], read: Callable[[Any], T]) -> dict[int, T]:
        if not positions:
            return {}
        with self.store.glancing() as c:
            c.execute(_SELECT + f"WHERE position IN ({', '.join('?' * len(positions))})", positions)
            return {row["position"]: read(row) for row in c.fetchall()}

    def _recorded(self, row: Any) -> Recorded:
        position, stream, version, type_, recorded_at, state = row
        return decode(
            position, stream, version, type_, parse_recorded_at(recorded_at, position), state
        )
