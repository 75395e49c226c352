"""Where is the log kept? In the ledger's own database: the one module of the log that does I/O.

Trust: none is needed. Whoever can write to the database can write to these tables too; what they
say counts only where a signed checkpoint outside the database, or a witness, says the same.

    log_hashes         level 0: the leaf hash of event idx + 1, written in the transaction that
                       appends the event. Level L: the root of the leaves from idx * 256**L up to
                       (idx + 1) * 256**L, written with the last of them. These are the hashes of
                       tile level L; every tile is a range of rows.
    log_checkpoints    the log's own signed notes, one for each size that was signed
    log_cosignatures   lines of witnesses on them, verified before they are added

Rows are appended, and never changed, replaced or deleted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, TypeVar

from eventsourcing.persistence import Cursor

from ledger.store.recorder import append_only
from ledger.tlog.leaf import StoredRow, entry, entry_of
from ledger.tlog.merkle import HashAt, LogFormatError, leaf_hash, root
from ledger.tlog.tiles import (
    TILE_WIDTH,
    Tile,
    encode_bundle,
    encode_tile,
    hash_reader,
    tile_path,
)

T = TypeVar("T")


def _all(rows: list[T], tile: Tile) -> list[T]:
    if len(rows) != tile.width:
        raise LogFormatError(f"{tile_path(tile)} is incomplete: {len(rows)} of {tile.width}")
    return rows


_ADD_HASH: Final = "INSERT INTO log_hashes (level, idx, hash) VALUES (?, ?, ?)"


class LogRows:
    """The log of the ledger whose database the cursor is on."""

    DDL: ClassVar[Sequence[str]] = (
        """CREATE TABLE IF NOT EXISTS log_hashes (
            level INTEGER NOT NULL,
            idx INTEGER NOT NULL,
            hash BLOB NOT NULL CHECK (length(hash) = 32),
            PRIMARY KEY (level, idx)
        ) STRICT, WITHOUT ROWID""",
        *append_only("log_hashes", "level = NEW.level AND idx = NEW.idx"),
        """CREATE TABLE IF NOT EXISTS log_checkpoints (
            size INTEGER PRIMARY KEY,
            note BLOB NOT NULL,
            signed_at TEXT NOT NULL
        ) STRICT""",
        # Not only never replaced: what is signed next is never smaller, whoever signs.
        *append_only("log_checkpoints", "size >= NEW.size"),
        """CREATE TABLE IF NOT EXISTS log_cosignatures (
            size INTEGER NOT NULL REFERENCES log_checkpoints,
            witness TEXT NOT NULL,
            line TEXT NOT NULL,
            PRIMARY KEY (size, witness)
        ) STRICT, WITHOUT ROWID""",
        *append_only("log_cosignatures", "size = NEW.size AND witness = NEW.witness"),
        """CREATE INDEX IF NOT EXISTS log_cosignatures_by_witness
            ON log_cosignatures (witness, size)""",
    )

    # --- the tree ---------------------------------------------------------------------------------

    def append(
        self,
        c: Cursor,
        position: int,
        stream: str,
        version: int,
        type_: str,
        recorded_at: str,
        state: bytes,
        *,
        appended: Mapping[int, bytes],
    ) -> bytes:
        """Add the leaf of an event, and the hash of each tile that it fills; return the leaf.

        Belongs into the transaction that inserts the event, with the columns as they are stored.
        ``appended`` are the leaves that this transaction added before, by position: a tile that it
        filled alone is not read.
        """
        leaf = leaf_hash(entry_of(position, stream, version, type_, recorded_at, state))
        c.execute(_ADD_HASH, (0, position - 1, leaf))
        level, index = 0, position
        while index % TILE_WIDTH == 0:
            level, index = level + 1, index // TILE_WIDTH
            first = position - TILE_WIDTH + 1
            if level == 1 and all(each in appended for each in range(first, position)):
                full = [*(appended[each] for each in range(first, position)), leaf]
            else:
                full = self._hashes(c, level - 1, (index - 1) * TILE_WIDTH, TILE_WIDTH)
            c.execute(_ADD_HASH, (level, index - 1, root(full)))
        return leaf

    def hash_reader(self, c: Cursor, size: int) -> HashAt:
        """Return a reader of the tree of `size`. It remembers tiles: make one for each proof."""
        return hash_reader(size, lambda tile: self.tile(c, tile))

    def leaf_hashes(self, c: Cursor, start: int, count: int) -> list[bytes]:
        """Return the leaf hashes from index `start`, at most `count` of them."""
        return self._hashes(c, 0, start, count)

    def hash_at(self, c: Cursor, level: int, index: int) -> bytes | None:
        """Return one hash of a tile level; None when it is not there."""
        return next(iter(self._hashes(c, level, index, 1)), None)

    def tile(self, c: Cursor, tile: Tile) -> bytes:
        """Return a hash tile. Raises LogFormatError unless all of its hashes are there."""
        hashes = self._hashes(c, tile.level or 0, tile.index * TILE_WIDTH, tile.width)
        return encode_tile(_all(hashes, tile))

    def bundle(self, c: Cursor, tile: Tile) -> bytes:
        """Return a bundle of entries. Raises LogFormatError unless all of its events are there."""
        rows = self.rows(c, tile.index * TILE_WIDTH, tile.width)
        return encode_bundle([entry(row) for row in _all(rows, tile)])

    def rows(self, c: Cursor, after: int, count: int) -> list[StoredRow]:
        """Return the events after a position as they are stored, at most `count` of them."""
        c.execute(
            "SELECT position, stream, version, type, recorded_at, state FROM events "
            "WHERE position > ? AND position <= ? ORDER BY position",
            (after, after + count),
        )
        return [StoredRow(*row) for row in c.fetchall()]

    @staticmethod
    def _hashes(c: Cursor, level: int, start: int, count: int) -> list[bytes]:
        c.execute(
            "SELECT hash FROM log_hashes WHERE level = ? AND idx >= ? AND idx < ? ORDER BY idx",
            (level, start, start + count),
        )
        return [row[0] for row in c.fetchall()]

    # --- what was signed --------------------------------------------------------------------------

    def add_checkpoint(self, c: Cursor, size: int, note: bytes, signed_at: str) -> None:
        """Keep a signed checkpoint. The database refuses one that is not larger than the newest."""
        c.execute(
            "INSERT INTO log_checkpoints (size, note, signed_at) VALUES (?, ?, ?)",
            (size, note, signed_at),
        )

    def add_cosignature(self, c: Cursor, size: int, witness: str, line: str) -> None:
        """Keep a witness's verified signature line, without its LF; the first one stays."""
        c.execute(
            "INSERT INTO log_cosignatures (size, witness, line) SELECT ?, ?, ? WHERE NOT EXISTS "
            "(SELECT 1 FROM log_cosignatures WHERE size = ? AND witness = ?)",
            (size, witness, line, size, witness),
        )

    def cosigned_size(self, c: Cursor, witness: str) -> int:
        """Return the largest size that a witness has cosigned; 0 when it has none."""
        c.execute("SELECT max(size) FROM log_cosignatures WHERE witness = ?", (witness,))
        row = c.fetchone()
        return (row and row[0]) or 0

    def cosigned_sizes(self, c: Cursor, *, after: int, limit: int) -> list[int]:
        """Return the sizes above one that any witness has cosigned, largest first.

        At most `limit` of them; all for -1.
        """
        c.execute(
            "SELECT DISTINCT size FROM log_cosignatures WHERE size > ? ORDER BY size DESC LIMIT ?",
            (after, limit),
        )
        return [row[0] for row in c.fetchall()]

    def newest_size(self, c: Cursor) -> int:
        """Return the size of the newest checkpoint; 0 when nothing was signed."""
        c.execute("SELECT max(size) FROM log_checkpoints")
        row = c.fetchone()
        return (row and row[0]) or 0

    def newest_signed(self, c: Cursor, until: int) -> tuple[int, str] | None:
        """Return size and time of the newest checkpoint of at most `until` events."""
        c.execute(
            "SELECT size, signed_at FROM log_checkpoints WHERE size <= ? "
            "ORDER BY size DESC LIMIT 1",
            (until,),
        )
        row = c.fetchone()
        return (int(row[0]), str(row[1])) if row else None

    def newest_checkpoint(self, c: Cursor) -> bytes | None:
        """Return the newest checkpoint with its cosignatures; None when nothing was signed."""
        return self.checkpoint_at(c, self.newest_size(c))

    def checkpoint_at(self, c: Cursor, size: int) -> bytes | None:
        """Return the checkpoint of this size with its cosignatures; None when there is none."""
        c.execute("SELECT note FROM log_checkpoints WHERE size = ?", (size,))
        row = c.fetchone()
        if row is None:
            return None
        note: bytes = row[0]
        c.execute("SELECT line FROM log_cosignatures WHERE size = ? ORDER BY witness", (size,))
        return note + "".join(f"{line}\n" for (line,) in c.fetchall()).encode()
