"""What stands in a ledger's database? Read with SQL of its own, through nothing that writes it.

Trust: none. Whoever can write the database can have put anything into it, in a file of SQLite
values of any type included, so nothing is assumed but that SQLite, or the PostgreSQL server, reads
it. Where it cannot, ``UNREADABLE`` is raised.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import quote

import psycopg

from ledger.store.postgres_schema import schema
from ledger.store.recorder import DDL
from ledger.tlog.leaf import StoredRow, entry
from ledger.tlog.log import LogRows
from ledger.tlog.merkle import LogFormatError
from ledger.tlog.note import VerifierKey
from ledger.tlog.verify import NAMING_STREAM, key_named

UNREADABLE: Final = (sqlite3.Error, psycopg.Error, OverflowError, UnicodeDecodeError)
"""What reading a damaged database raises: of the store, or of Python where a message is damaged."""

_UNSIGNED = (1 << 64) - 1
_ROWS_TOGETHER: Final = 1_000  # sent by a server at once
_FUNCTION: Final = re.compile(r"CREATE OR REPLACE FUNCTION (\w+)\(.*?\$\$(.*)\$\$", re.DOTALL)
_TRIGGERS: Final = """SELECT t.tgname, p.prosrc, t.tgenabled IN ('O', 'A')
    FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid
    WHERE NOT t.tgisinternal AND c.relnamespace = 'public'::regnamespace"""


class StoredRecord:
    """One snapshot of a database: events, the log's hashes and checkpoints, and the schema.

    ``rows`` yields the rows of a query.
    """

    EVENTS: ClassVar[str] = "events"
    TABLES: ClassVar[str]
    """A query for the names of the tables that are there."""

    def __init__(self, rows: Callable[[str, Sequence[object]], Iterable[Sequence[Any]]]) -> None:
        self._rows = rows

    def damage(self) -> str | None:
        """Return what the store itself finds wrong with events and log, where it looks."""
        return None

    def differing_schema(self) -> list[str]:
        """Say which tables and triggers of events and log are not as the ledger makes them."""
        raise NotImplementedError

    def half_of(self) -> str | None:
        """Return the name of the database of which this is half of a copy; ``None`` if it is not.

        A copy that was stopped early has no table yet that could say so.
        """
        for _ in self._rows(f"SELECT 1 FROM ({self.TABLES}) AS found WHERE name = 'half_copy'", ()):
            for (source,) in self._rows("SELECT source FROM half_copy", ()):
                return str(source)
        return None

    def entries(self) -> Iterator[tuple[int, bytes]]:
        """Yield positions with their entries; an empty one for a row that cannot have one."""
        for position, *columns in self._rows(
            "SELECT position, stream, version, type, recorded_at, state "
            f"FROM {self.EVENTS} ORDER BY position",
            (),
        ):
            yield position, _entry(position, *columns)

    def leaves(self) -> Iterator[tuple[int, bytes]]:
        """Yield leaf indexes with the hashes that the log took down."""
        for index, value in self._rows(
            "SELECT idx, hash FROM log_hashes WHERE level = 0 ORDER BY idx", ()
        ):
            if isinstance(index, int):
                yield index, _bytes(value)

    def nodes(self) -> dict[tuple[int, int], bytes]:
        """Return the hashes above the leaves, by level and index."""
        return {
            (level, index): _bytes(value)
            for level, index, value in self._rows(
                "SELECT level, idx, hash FROM log_hashes WHERE level <> 0 OR level IS NULL", ()
            )
            if isinstance(level, int) and isinstance(index, int)
        }

    def checkpoints(self) -> Iterator[tuple[int, bytes]]:
        """Yield the sizes that were signed with their notes."""
        for size, note in self._rows("SELECT size, note FROM log_checkpoints", ()):
            yield size, _bytes(note)

    def cosignatures(self) -> Iterator[tuple[int, str]]:
        """Yield signature lines of witnesses with the sizes that they signed, largest first."""
        for size, line in self._rows(
            "SELECT size, line FROM log_cosignatures ORDER BY size DESC, witness", ()
        ):
            if isinstance(size, int):
                yield size, str(line)

    def named_keys(self) -> list[tuple[int, VerifierKey]]:
        """Return the keys that events name, with the positions of these."""
        found = []
        for position, *columns in self._rows(
            "SELECT position, stream, version, type, recorded_at, state FROM events "
            "WHERE stream = ? ORDER BY version",
            (NAMING_STREAM,),
        ):
            data = _entry(position, *columns)
            key = key_named(data)
            if key is not None and position > 0:
                found.append((position, key))
        return found


class _FileRecord(StoredRecord):
    """The record in a file of SQLite."""

    EVENTS: ClassVar[str] = "events NOT INDEXED"
    TABLES: ClassVar[str] = "SELECT name FROM sqlite_schema WHERE type = 'table'"

    def damage(self) -> str | None:
        """Return what SQLite itself finds wrong with events and log, their indexes included."""
        for table in ("events", "log_hashes", "log_checkpoints"):
            ((found,), *_) = self._rows(f"PRAGMA integrity_check({table})", ())
            if found != "ok":
                return str(found).splitlines()[-1]
        return None

    def differing_schema(self) -> list[str]:
        """Compare the statements that made tables, indexes and triggers."""
        statements = "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL"
        found = {name: sql for _, name, sql in self._rows(statements, ())}
        fresh = sqlite3.connect(":memory:", isolation_level=None)
        try:
            for statement in (*DDL, *LogRows.DDL):
                fresh.execute(statement)
            due = fresh.execute(statements).fetchall()
        finally:
            fresh.close()
        return [
            _difference(type_, name, name in found)
            for type_, name, sql in due
            if found.get(name) != sql
        ]


class _ServerRecord(StoredRecord):
    """The record in a PostgreSQL database, whose server checks its pages as it reads them."""

    TABLES: ClassVar[str] = "SELECT relname AS name FROM pg_class WHERE pg_table_is_visible(oid)"

    def differing_schema(self) -> list[str]:
        """Compare the triggers: what they do, and that they are not switched off."""
        found = {name: code for name, code, is_on in self._rows(_TRIGGERS, ()) if is_on}
        due = filter(None, map(_FUNCTION.match, schema([*DDL, *LogRows.DDL])))
        return [
            _difference("trigger", name, name in found)
            for name, code in (each.groups() for each in due)
            if found.get(name) != code
        ]


def _difference(type_: str, name: str, is_there: bool) -> str:  # noqa: FBT001 - used just above
    due = "is not the one that" if is_there else "is missing, which"
    return f"The {type_} {name} {due} the ledger makes."


@contextmanager
def stored_record(database: Path | str) -> Iterator[StoredRecord]:
    """Open a file of SQLite, or the URL of a PostgreSQL database, for reading only."""
    with _in_file(database) if isinstance(database, Path) else _on_server(database) as record:
        yield record


@contextmanager
def _on_server(url: str) -> Iterator[StoredRecord]:
    with psycopg.connect(url, application_name="compliance-ledger verify") as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        numbers = count(1)

        def rows(statement: str, values: Sequence[object]) -> Iterator[Sequence[Any]]:
            with connection.cursor(name=f"record_{next(numbers)}") as cursor:
                cursor.itersize = _ROWS_TOGETHER
                yield from cursor.execute(statement.replace("?", "%s"), values)

        yield _ServerRecord(rows)


@contextmanager
def _in_file(path: Path) -> Iterator[StoredRecord]:
    connection = _open(path)
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        # An edited text may be no UTF-8 any more: it is read as it is, and found to be changed.
        connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
        connection.execute("BEGIN")
        yield _FileRecord(connection.execute)
    finally:
        connection.close()


def _open(path: Path) -> sqlite3.Connection:
    url = f"file:{quote(str(path.absolute()))}?mode=ro"
    connection = sqlite3.connect(url, uri=True, isolation_level=None)
    try:
        connection.execute("SELECT 1 FROM sqlite_schema").fetchone()
    except sqlite3.OperationalError:
        connection.close()
        if path.with_name(f"{path.name}-wal").exists():
            raise
        # In a folder that cannot be written, where SQLite cannot keep its notes about readers.
        return sqlite3.connect(f"{url}&immutable=1", uri=True, isolation_level=None)
    return connection


def _entry(position: int, *columns: Any) -> bytes:
    try:
        # A negative position keeps its bytes: which position the row had before can then be found.
        return entry(StoredRow(position & _UNSIGNED, *columns))
    except (LogFormatError, TypeError, AttributeError):
        return b""


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else b""
