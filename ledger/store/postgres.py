"""The store on PostgreSQL 15 to 18: many processes and hosts, one of them appending at a time.

Facts this file relies on: a transaction-scoped advisory lock is let go after the commit is visible
to everybody, so whoever has it sees all that was recorded before; ``COMMIT`` of a transaction in
which a statement failed rolls back and says so; a connection that is lost before ``COMMIT`` was
sent recorded nothing.

When the answer to ``COMMIT`` is lost, nobody here can tell what happened: ``OutcomeUnknown``. The
old session holds the append lock until its end is decided; so a new transaction, which begins with
that lock, sees the outcome.

SQL above is written once, in SQLite's form. Here ``?`` becomes ``%s``; what tables become is in
``postgres_schema.py``.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import lru_cache
from typing import Any, ClassVar, Final, Literal, TypeAlias

import orjson
import psycopg
from eventsourcing.persistence import Cursor, OperationalError
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from ledger.domain.errors import NotConfirmed, OutcomeUnknown, StoreBusy, Unavailable
from ledger.store.address import without_password
from ledger.store.held import HeldInserts
from ledger.store.held import Row as HeldRow
from ledger.store.postgres_schema import renewal, schema, tables
from ledger.store.recorder import LOCK_TIMEOUT_S, SCHEMA_VERSION

POOL_MAX: Final = 20  # of one process: more readers at a time would only wait for a core
CONNECT_TIMEOUT_S: Final = 5  # for a connection, new or free; then it is said that there is none
LOST_WRITER_S: Final = 60  # until the server ends a transaction whose process says no more
NOTICE_WAIT_S: Final = 0.2  # then it is looked anyway: a notice may be lost
LEASE_S: Final = 5  # until a process that leads and asks no more leads no more; it asks each second
ROWS_AHEAD: Final = 160  # held between two inserts that the server begins while we decide
PAUSE_S: Final = 0.02  # where there are no notices, as on a standby
_LEADER_LOCK: Final = 0x1ED6E6  # held by the session of the process that leads
_APPEND_LOCK: Final = 0x1ED6E5  # the key of the append lock, the same in every process
_ENDED: Final = ("57P", "08", "25P03")  # SQLSTATEs with which a server ends a session
# A transaction that wrote nothing may answer with what an earlier one wrote. Where a standby must
# confirm, this makes its commit wait for that, too: it confirms all that came before.
_COMMIT_CONFIRMED: Final = (
    "SELECT pg_logical_emit_message(true, 'compliance-ledger', '') "
    "WHERE pg_current_xact_id_if_assigned() IS NULL; COMMIT"
)
_IN_TRANSACTION: Final = TransactionStatus.INTRANS

_Form: TypeAlias = Callable[[Sequence[Any]], str]

_PLAIN_INSERT: Final = re.compile(
    r"INSERT INTO (?P<table>[\w.]+) ?(?:\((?P<columns>[^)]*)\) )?"
    r"VALUES \((?P<values>(?:\?|NULL|\d+)(?:, (?:\?|NULL|\d+))*)\)"
    r"(?P<conflict> ON CONFLICT \(\w+\) DO NOTHING)?"
)
_PLACES: Final = re.compile(r"'[^']*'|\?|%")


class Row(tuple[Any, ...]):
    """A row that is read by index and by name, like ``sqlite3.Row``."""

    __slots__ = ()
    places: ClassVar[dict[str, int]]

    def __getitem__(self, key: Any) -> Any:
        return tuple.__getitem__(self, self.places[key] if isinstance(key, str) else key)

    def keys(self) -> list[str]:
        """Return the names of the columns."""
        return list(self.places)


@lru_cache(1_000)
def _row_type(names: tuple[str, ...]) -> type[Row]:
    places: dict[str, int] = {}
    for place, name in enumerate(names):
        places.setdefault(name, place)
    return type("Row", (Row,), {"__slots__": (), "places": places})


def _rows(cursor: psycopg.Cursor[Row]) -> Callable[[Sequence[Any]], Row]:
    return _row_type(tuple(column.name for column in cursor.description or ()))


@lru_cache(10_000)
def _with_places(statement: str) -> str:
    """Return a statement with the places of its values as psycopg has them."""

    def place(found: re.Match[str]) -> str:
        return "%s" if found[0] == "?" else found[0].replace("%", "%%")

    return _PLACES.sub(place, statement)


def _findable(value: object) -> object:
    """Return what may be asked for instead of a text with NUL, which no text here can have.

    The replacement character is in no id and no name either, so nothing is found.
    """
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


class PostgresCursor(Cursor):
    """A cursor that takes statements in SQLite's form."""

    def __init__(self, cursor: psycopg.Cursor[Row], held: HeldInserts | None = None) -> None:
        self.postgres_cursor = cursor
        self._held = held

    def execute(self, statement: str | bytes, params: Any = None) -> None:
        """Execute a statement with values for its ``?``, or hold an insert back."""
        assert isinstance(statement, str)
        if self._held is not None and self._held.takes(statement, params or ()):
            return
        if not params:
            self.postgres_cursor.execute(statement)
            return
        # The driver's own way of writing an array takes several times as long.
        params = [_array(value) if isinstance(value, list) else value for value in params]
        try:
            self.postgres_cursor.execute(_with_places(statement), params)
        except psycopg.DataError:
            findable = [_findable(value) for value in params]
            if findable == params or not statement.startswith(("SELECT ", "WITH ")):
                raise
            self.postgres_cursor.execute(_with_places(statement), findable)

    def executemany(self, statement: str, params: Any) -> None:
        """Execute a statement once for each row of values, or hold each insert back."""
        if self._held is None:
            self.postgres_cursor.executemany(_with_places(statement), params)
            return
        for row in params:
            self.execute(statement, row)

    def fetchall(self) -> list[Row]:
        """Return all rows that are left."""
        return self.postgres_cursor.fetchall()

    def fetchone(self) -> Row | None:
        """Return the next row."""
        return self.postgres_cursor.fetchone()


_Pool: TypeAlias = ConnectionPool[psycopg.Connection[Row]]


class PostgresDatastore:
    """Connections to one database: one writes, and one reads in each thread that does.

    A connection that the server or the network ended is replaced by a new one; what was under way
    on it ends with ``Unavailable``, or with ``OutcomeUnknown`` where ``COMMIT`` was sent.
    """

    dialect: Literal["sqlite", "postgresql"] = "postgresql"
    refusals: ClassVar[tuple[type[Exception], ...]] = (psycopg.IntegrityError,)
    failures: ClassVar[tuple[type[Exception], ...]] = (psycopg.OperationalError,)

    def __init__(
        self, url: str, *, standby: str | None = None, lock_timeout_s: float = LOCK_TIMEOUT_S
    ) -> None:
        self.address = url
        self.path = without_password(url)
        self.lock_timeout_s = lock_timeout_s
        self.turn = threading.RLock()
        self._writer: psycopg.Connection[Row] | None = None
        self._writing_thread: int | None = None
        self._depth = 0
        self._held: HeldInserts | None = None
        self._threads = threading.local()
        self._listener: psycopg.Connection[Any] | None = None
        self._leader: psycopg.Connection[Any] | None = None
        self._leading = threading.Lock()
        self._timeline = 0  # the newest that was seen; each promotion of a standby begins another
        self._fenced: str | None = None
        self._of_arrays: dict[str, tuple[str, list[_Form]]] = {}
        self._pool = _pool(url, self._configure)
        self._standby = None if standby is None else _pool(standby)

    @contextmanager
    def transaction(self, *, commit: bool) -> Iterator[PostgresCursor]:
        """Yield a cursor in a transaction: a snapshot to read from, or the append lock.

        Reading inside a write transaction of the same thread sees what that transaction wrote.
        Raises ``StoreBusy`` when the append lock cannot be had in ``lock_timeout_s``.
        """
        if commit:
            with self.turn, self._savepoint() if self._depth else self._write() as cursor:
                yield cursor
        elif self._writing_thread == threading.get_ident():
            assert self._writer is not None
            yield PostgresCursor(self._writer.cursor(), self._held)
        else:
            with self._snapshot(self._pool) as cursor:
                yield cursor

    def glancing(self) -> AbstractContextManager[PostgresCursor]:
        """Yield a cursor for one statement that reads, which is a snapshot by itself."""
        return self.transaction(commit=False)

    @contextmanager
    def answering(self) -> Iterator[PostgresCursor]:
        """Yield a cursor on a snapshot to answer a question from: of the standby, if one is set.

        Whatever the same thread reads inside it, it reads in that snapshot.
        """
        if self._standby is None or self._writing_thread == threading.get_ident():
            with self.transaction(commit=False) as cursor:
                yield cursor
        else:
            try:
                with self._snapshot(self._standby) as cursor:
                    yield cursor
            except psycopg.errors.UndefinedTable as error:
                raise Unavailable("the standby has not received the ledger's tables yet") from error

    @contextmanager
    def _write(self) -> Iterator[PostgresCursor]:
        begin = (
            f"BEGIN; SET LOCAL lock_timeout = {int(self.lock_timeout_s * 1000)}; "
            f"SET LOCAL idle_in_transaction_session_timeout = '{LOST_WRITER_S}s'; "
            f"SELECT pg_advisory_xact_lock({_APPEND_LOCK}), "
            "current_setting('synchronous_standby_names')"
        )
        with self._connection(self._pool, begin) as begun:
            connection, row = begun.connection, begun.fetchone()
            self._writer, self._writing_thread, self._depth = connection, threading.get_ident(), 1
            try:
                with _losing(connection):
                    yield PostgresCursor(connection.cursor())
                _commit(connection, self.lock_timeout_s if row and row[1] else None)
            except BaseException:
                with suppress(psycopg.Error):  # a lost connection took its transaction with it
                    connection.execute("ROLLBACK")
                raise
            finally:
                self._writer, self._writing_thread, self._depth = None, None, 0

    @contextmanager
    def _savepoint(self) -> Iterator[PostgresCursor]:
        assert self._writer is not None
        connection, depth = self._writer, self._depth
        if connection.info.transaction_status != _IN_TRANSACTION:
            raise Unavailable("the transaction was rolled back by the database")
        self._depth = depth + 1
        held = self._held
        try:
            with _losing(connection):
                if held is not None:
                    held.send()  # what comes before a savepoint is not rolled back with it
                connection.execute(f"SAVEPOINT command_{depth}")
                yield PostgresCursor(connection.cursor(), held)
                if held is not None:
                    held.send()
                connection.execute(f"RELEASE command_{depth}")
        except BaseException:
            if held is not None:
                held.forget()
            if connection.info.transaction_status in {_IN_TRANSACTION, TransactionStatus.INERROR}:
                with suppress(psycopg.Error):  # what comes next finds out that nothing stands
                    connection.execute(f"ROLLBACK TO command_{depth}")
                    connection.execute(f"RELEASE command_{depth}")
            raise
        finally:
            self._depth = depth

    @contextmanager
    def holding(self) -> Iterator[PostgresCursor]:
        """Hold inserts back inside a write transaction, and send them at the end.

        The first of many are sent before, and not waited for: the server inserts them while the
        next commands are decided, and what it refuses is raised at what is asked next.
        """
        assert self._writer is not None
        connection = self._writer
        cursor = connection.cursor()
        self._held = HeldInserts(
            lambda statement, rows: self._insert(cursor, statement, rows), between=ROWS_AHEAD
        )
        try:
            with _losing(connection), connection.pipeline() as pipeline:
                try:
                    yield PostgresCursor(connection.cursor(), self._held)
                    self._held.send()
                except BaseException:
                    with suppress(psycopg.Error):  # all of it is rolled back
                        pipeline.sync()
                    raise
        finally:
            self._held = None

    def _insert(self, cursor: psycopg.Cursor[Row], statement: str, rows: Sequence[HeldRow]) -> None:
        """Insert many rows by one statement, or one by one where some may be there."""
        insert = _PLAIN_INSERT.fullmatch(statement)
        if insert is None or len(rows) == 1:
            cursor.executemany(_with_places(statement), rows)
            return
        if statement not in self._of_arrays:
            self._of_arrays[statement] = _of_arrays(cursor, insert)
        many, forms = self._of_arrays[statement]
        columns = zip(*rows, strict=True)
        cursor.execute(many, [form(column) for form, column in zip(forms, columns, strict=True)])

    @contextmanager
    def _snapshot(self, pool: _Pool) -> Iterator[PostgresCursor]:
        shared: psycopg.Connection[Row] | None = getattr(self._threads, "reader", None)
        if shared is not None:  # a query that calls another shares its snapshot
            yield PostgresCursor(shared.cursor())
            return
        begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
        with self._connection(pool, begin) as begun:
            connection = self._threads.reader = begun.connection
            try:
                with _losing(connection):
                    yield PostgresCursor(connection.cursor())
            finally:
                self._threads.reader = None
                with suppress(psycopg.Error):
                    connection.execute("ROLLBACK")

    @contextmanager
    def _connection(self, pool: _Pool, begin: str) -> Iterator[psycopg.Cursor[Row]]:
        """Yield the cursor on which a transaction was begun, at the last of its answers.

        One that was lost while nobody used it is found out by this, and replaced.
        """
        name = without_password(str(pool.conninfo))
        lost: psycopg.Error | None = None
        for _ in range(POOL_MAX + 1):
            try:
                connection = pool.getconn()
            except PoolClosed:
                raise Unavailable("the store was closed") from None
            except PoolTimeout as error:
                why = self._fenced or str(error)
                raise Unavailable(f"no connection to {name}: {why}") from error
            try:
                try:
                    begun = connection.execute(begin)
                    while begun.nextset():
                        pass
                except psycopg.errors.LockNotAvailable as error:
                    with suppress(psycopg.Error):
                        connection.execute("ROLLBACK")
                    raise StoreBusy(f"no write lock within {self.lock_timeout_s} s") from error
                except psycopg.Error as error:
                    # The server may say that it ends the session before the connection is broken.
                    lost = error
                    connection.close()
                    continue
                yield begun
                return
            finally:
                pool.putconn(connection)
        raise Unavailable(f"every connection to {name} is lost: {lost}") from lost

    def make_tables(self, statements: Sequence[str], *, derived: Sequence[str] = ()) -> bool:
        """Make the tables where they are missing; empty ``derived`` ones where they are outdated.

        Returns whether they were. A writer may do neither; it finds that the owner did. Raises
        ``Unavailable`` for a newer schema, and where this role may not make what is due.
        """
        named = [*tables(statements), "ledger_schema"]
        with self.transaction(commit=True) as c:
            c.execute(
                "SELECT name FROM unnest(?::text[]) name WHERE to_regclass(name) IS NULL", (named,)
            )
            missing = [name for (name,) in c.fetchall()]
            found = 0
            if "ledger_schema" not in missing:
                c.execute("SELECT coalesce(max(version), 0) FROM ledger_schema")
                found = c.fetchall()[0][0]
            if found > SCHEMA_VERSION:
                raise Unavailable(
                    f"{self.path} has schema {found}, this version knows {SCHEMA_VERSION}; "
                    "upgrade the program"
                )
            outdated = 0 < found < SCHEMA_VERSION
            if not missing and not outdated:
                return False
            try:
                for statement in renewal(statements, derived) if outdated else schema(statements):
                    c.execute(statement)
            except psycopg.errors.InsufficientPrivilege as error:
                what, how = (
                    (f"has the older schema {found}", "run compliance-ledger rebuild once")
                    if outdated
                    else (
                        f"lacks the table {missing[0]}",
                        "run what compliance-ledger schema --sql prints",
                    )
                )
                raise Unavailable(
                    f"{self.path} {what}, and this role may not make what is due: "
                    f"{str(error).splitlines()[0]}; let the owner {how}"
                ) from error
            return outdated

    def apply_schema(self, script: str) -> bool:
        """Run what ``postgres_schema.script`` returned, where this role may make roles.

        Returns whether it may; everything in it that is there already stays.
        """
        with self.transaction(commit=True) as c:
            c.execute(
                "SELECT bool_or(rolsuper OR rolcreaterole) FROM pg_roles "
                "WHERE rolname = current_user"
            )
            row = c.fetchone()
            allowed = bool(row and row[0])
            if allowed:
                c.execute(script)
            return allowed

    def power(self) -> str | None:
        """Return why this role could change what is recorded, ``None`` when it could not."""
        with self.transaction(commit=False) as c:
            c.execute(
                "SELECT current_user, "
                "(SELECT bool_or(rolsuper) FROM pg_roles "
                "WHERE rolname IN (current_user, session_user)), "
                "pg_has_role(session_user, relowner, 'MEMBER'), "
                "has_table_privilege(oid, 'UPDATE, DELETE, TRUNCATE, TRIGGER') "
                "FROM pg_class WHERE oid = 'events'::regclass"
            )
            name, superuser, owner, may = c.fetchall()[0]
        if superuser:
            return f"{name} is a superuser"
        if owner:
            return f"{name} owns the table events, or may become its owner"
        return f"{name} may change the table events" if may else None

    def data_version(self) -> int:
        """Return a number that changes when another connection, of any process, has committed."""
        with self.transaction(commit=False) as c:
            c.execute(
                "SELECT (SELECT max(position) FROM events), "
                "(SELECT max(size) FROM log_checkpoints), "
                "(SELECT count(*) FROM log_cosignatures WHERE size = "
                "(SELECT max(size) FROM log_cosignatures))"
            )
            return hash(tuple(c.fetchall()[0]))

    def require_writable(self) -> None:
        """Pass: the disk is the server's, which says with each write what it can do."""

    def await_commit(self, stop: threading.Event) -> None:
        """Return when something may have been committed, or after a while, or told to stop.

        One thread calls it. Without notices it is a pause, and looking again is always right.
        """
        try:
            if self._listener is None:
                self._listener = self._session()
                self._listener.execute("LISTEN ledger_events")
            elif not stop.is_set():
                for _ in self._listener.notifies(timeout=NOTICE_WAIT_S, stop_after=1):
                    pass
        except psycopg.Error:
            if self._listener is not None:
                self._listener.close()
                self._listener = None
            stop.wait(PAUSE_S)

    def leads(self) -> bool:
        """Tell whether this process does what one does for all: ending terms, signing.

        It does as long as its session has the lock; when the session ends, another gets it.
        """
        with self._leading:
            try:
                if self._leader is None:
                    self._leader = self._session()
                    # A holder that hangs, or whose host is gone, says nothing and loses the lock.
                    self._leader.execute(f"SET idle_session_timeout = '{LEASE_S}s'")
                found = self._leader.execute(
                    "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' "
                    f"AND objid = {_LEADER_LOCK} AND pid = pg_backend_pid() AND granted) "
                    f"OR pg_try_advisory_lock({_LEADER_LOCK})"
                ).fetchone()
            except psycopg.Error:
                if self._leader is not None:
                    self._leader.close()
                    self._leader = None
                return False
            return bool(found and found[0])

    def _configure(self, connection: psycopg.Connection[Row]) -> None:
        """Make a new connection fit to be used; refuse one to a primary that was replaced.

        A commit is on disk when it is answered, here and where a standby must have it, whatever the
        server's default. And whoever has seen the ledger on a promoted standby never writes to the
        server that it took over from, nor reads there what nobody else has.
        """
        row = connection.execute(
            "SELECT CASE WHEN pg_is_in_recovery() THEN 0 ELSE "
            "('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END, "
            "CASE WHEN current_setting('synchronous_commit') NOT IN ('on', 'remote_apply') "
            "THEN set_config('synchronous_commit', 'on', false) END"
        ).fetchone()
        timeline = row[0] if row else 0
        if 0 < timeline < self._timeline:
            self._fenced = (
                f"the server is on timeline {timeline}, and the ledger went on on timeline "
                f"{self._timeline}: a standby was promoted in its place; keep it stopped"
            )
            raise psycopg.OperationalError(self._fenced)
        self._timeline, self._fenced = max(timeline, self._timeline), None

    def _session(self) -> psycopg.Connection[Any]:
        """Return a connection of its own, for what lasts as long as a session."""
        return psycopg.connect(
            self.address,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name="compliance-ledger",
        )

    def close(self) -> None:
        """Close every connection, once nobody writes; from then on nobody can."""
        with self.turn:
            self._pool.close()
            if self._standby is not None:
                self._standby.close()
        for connection in (self._listener, self._leader):
            if connection is not None:
                connection.close()


def _pool(url: str, configure: Callable[[psycopg.Connection[Row]], None] | None = None) -> _Pool:
    return ConnectionPool(
        url,
        kwargs={
            "autocommit": True,
            "row_factory": _rows,
            "connect_timeout": CONNECT_TIMEOUT_S,
            "application_name": "compliance-ledger",
        },
        configure=configure,
        min_size=1,
        max_size=POOL_MAX,
        timeout=CONNECT_TIMEOUT_S,
        reconnect_timeout=CONNECT_TIMEOUT_S,
        open=True,
    )


def _of_arrays(cursor: psycopg.Cursor[Row], insert: re.Match[str]) -> tuple[str, list[_Form]]:
    """Return an insert as one that takes an array for each column, and how each is written."""
    cursor.execute(
        "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute "
        "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        (insert["table"],),
    )
    types = dict(map(tuple, cursor.fetchall()))
    columns = insert["columns"].split(", ") if insert["columns"] else list(types)
    values = insert["values"].split(", ")
    given = [name for name, value in zip(columns, values, strict=True) if value == "?"]
    arrays = ", ".join(f"%s::{types[name]}[]" for name in given)
    selected = ", ".join(
        value.replace("?", name) for name, value in zip(columns, values, strict=True)
    )
    many = (
        f"INSERT INTO {insert['table']} ({', '.join(columns)}) "
        f"SELECT {selected} FROM unnest({arrays}) AS given ({', '.join(given)})"
        f"{insert['conflict'] or ''}"
    )
    return many, [_array_of_bytes if types[name] == "bytea" else _array for name in given]


def _array_of_bytes(values: Sequence[bytes | None]) -> str:
    """Return bytes as PostgreSQL reads an array of them."""
    elements = ["NULL" if value is None else rf'"\\x{value.hex()}"' for value in values]
    return f"{{{','.join(elements)}}}"


def _array(values: Sequence[str | int | None]) -> str:
    """Return integers or texts as PostgreSQL reads an array of them.

    It reads what JSON writes, but for other brackets and for the escapes.
    """
    text = orjson.dumps(values).decode()
    if "\\" not in text:
        return f"{{{text[1:-1]}}}"
    return f"{{{','.join(map(_element, values))}}}"


def _element(value: str | int | None) -> str:
    if value is None:
        return "NULL"
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def copied(cursor: psycopg.Cursor[Row], where: str, rows: Iterable[Sequence[Any]]) -> None:
    """Insert rows in one stream; ``where`` is the table, with its columns in brackets."""
    with cursor.copy(f"COPY {where} FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


def _commit(connection: psycopg.Connection[Row], confirmed_within_s: float | None) -> None:
    """Commit; where a standby must confirm it, wait so long and no longer.

    No timeout of the server's ends that wait, so it is cancelled. It is committed all the same.
    """
    if connection.info.transaction_status != _IN_TRANSACTION:
        # COMMIT would roll back, or there is nobody to send it to: nothing of it is recorded.
        raise Unavailable("the transaction was rolled back by the database")
    warnings: list[str] = []
    try:
        if confirmed_within_s is None:
            # A server that is told to end may warn of that beside its answer, which holds.
            answer = connection.execute("COMMIT").statusmessage
        else:
            with _heeded(connection, warnings), _cancelled_after(connection, confirmed_within_s):
                cursor = connection.execute(_COMMIT_CONFIRMED)
                while cursor.nextset():
                    pass
            answer = cursor.statusmessage
    except psycopg.Error as error:
        if _is_lost(connection, error):
            raise OutcomeUnknown(f"the connection was lost while committing: {error}") from error
        raise Unavailable(f"the database refused to commit: {error}") from error
    if warnings:
        # A standby that must have it did not say so in time; on this server it is committed.
        raise NotConfirmed(f"the commit was not confirmed: {'; '.join(warnings)}")
    if answer != "COMMIT":
        raise Unavailable("the transaction was rolled back by the database")


@contextmanager
def _heeded(connection: psycopg.Connection[Row], warnings: list[str]) -> Iterator[None]:
    """Keep what the server warns of meanwhile."""

    def heed(notice: psycopg.errors.Diagnostic) -> None:
        warnings.append(notice.message_primary or "a warning without words")

    connection.add_notice_handler(heed)
    try:
        yield
    finally:
        connection.remove_notice_handler(heed)


@contextmanager
def _cancelled_after(connection: psycopg.Connection[Row], limit_s: float) -> Iterator[None]:
    """Cancel what the server is doing for a connection when it takes longer than that."""
    late = threading.Event()

    def cancel() -> None:
        late.set()
        with suppress(psycopg.Error):
            connection.cancel()

    timer = threading.Timer(limit_s, cancel)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        if late.is_set():
            connection.close()  # or the cancelling could meet what is asked on it next


@contextmanager
def _losing(connection: psycopg.Connection[Row]) -> Iterator[None]:
    """Say that a connection was lost, and with it whatever was under way on it."""
    try:
        yield
    except (psycopg.Error, OperationalError) as error:
        if _is_lost(connection, error):
            raise Unavailable(f"the connection to the database was lost: {error}") from error
        if _state(error)[:2] == "40":  # of a reader on a standby, say, that must go on replaying
            raise Unavailable(f"the database ended the transaction: {error}") from error
        raise


def _state(error: BaseException) -> str:
    """Return the SQLSTATE of an error, or of the one that it was made of."""
    return getattr(error, "sqlstate", None) or getattr(error.__cause__, "sqlstate", None) or ""


def _is_lost(connection: psycopg.Connection[Row], error: BaseException) -> bool:
    """Tell whether a connection is lost: broken, or the server said that it ends the session.

    Between the two it is not known to be broken yet; from here on nobody uses it.
    """
    if not connection.closed and _state(error).startswith(_ENDED):
        connection.close()
    return connection.closed
