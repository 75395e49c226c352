"""What stands in a ledger's database? Read with SQL of its own, through nothing that writes it.

Trust: none. Whoever can write the file can have put anything into it, values of any type included,
so nothing is assumed but that SQLite reads it. Where it cannot, ``UNREADABLE`` is raised.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from ledger.tlog.leaf import StoredRow, entry
from ledger.tlog.merkle import LogFormatError
from ledger.tlog.note import VerifierKey
from ledger.tlog.verify import NAMING_STREAM, key_named

UNREADABLE: Final = (sqlite3.Error, OverflowError, UnicodeDecodeError)
"""What reading a damaged file raises: of SQLite, or of Python where a message of it is damaged."""

_COLUMNS = "SELECT position, stream, version, type, recorded_at, state FROM events NOT INDEXED "
_UNSIGNED = (1 << 64) - 1


class StoredRecord:
    """One snapshot of a database file: events, the log's hashes and checkpoints, and the schema."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def damage(self) -> str | None:
        """Return what SQLite itself finds wrong with events and log, their indexes included."""
        for table in ("events", "log_hashes", "log_checkpoints"):
            (found,) = self._connection.execute(f"PRAGMA integrity_check({table})").fetchone()
            if found != "ok":
                return str(found).splitlines()[-1]
        return None

    def entries(self) -> Iterator[tuple[int, bytes]]:
        """Yield positions with their entries; an empty one for a row that cannot have one."""
        for position, *columns in self._connection.execute(_COLUMNS + "ORDER BY position"):
            yield position, _entry(position, *columns)

    def leaves(self) -> Iterator[tuple[int, bytes]]:
        """Yield leaf indexes with the hashes that the log took down."""
        for index, value in self._connection.execute(
            "SELECT idx, hash FROM log_hashes WHERE level = 0 ORDER BY idx"
        ):
            if isinstance(index, int):
                yield index, _bytes(value)

    def nodes(self) -> dict[tuple[int, int], bytes]:
        """Return the hashes above the leaves, by level and index."""
        return {
            (level, index): _bytes(value)
            for level, index, value in self._connection.execute(
                "SELECT level, idx, hash FROM log_hashes WHERE level IS NOT 0"
            )
            if isinstance(level, int) and isinstance(index, int)
        }

    def checkpoints(self) -> Iterator[tuple[int, bytes]]:
        """Yield the sizes that were signed with their notes."""
        for size, note in self._connection.execute("SELECT size, note FROM log_checkpoints"):
            yield size, _bytes(note)

    def named_keys(self) -> list[tuple[int, VerifierKey]]:
        """Return the keys that events name, with the positions of these."""
        found = []
        for position, *columns in self._connection.execute(
            "SELECT position, stream, version, type, recorded_at, state FROM events "
            "WHERE stream = ? ORDER BY version",
            (NAMING_STREAM,),
        ):
            data = _entry(position, *columns)
            key = key_named(data)
            if key is not None and position > 0:
                found.append((position, key))
        return found

    def schema(self) -> dict[str, str]:
        """Return the statements that made the tables, indexes and triggers, by name."""
        return dict(
            self._connection.execute(
                "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name"
            )
        )


@contextmanager
def stored_record(path: Path) -> Iterator[StoredRecord]:
    """Open a database file for reading only; nothing is written, not even a missing table."""
    connection = _open(path)
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        # An edited text may be no UTF-8 any more: it is read as it is, and found to be changed.
        connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
        connection.execute("BEGIN")
        yield StoredRecord(connection)
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
