"""The log's rows: a leaf with every event, the hashes of full tiles, and nothing ever changed."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from eventsourcing.persistence import StoredEvent

from ledger.store.recorder import LedgerRecorder
from ledger.store.sqlite import LedgerDatastore
from ledger.tlog.leaf import StoredRow, entry, hash_of, parse_entry
from ledger.tlog.log import LogRows
from ledger.tlog.merkle import (
    LogFormatError,
    consistency_proof,
    inclusion_proof,
    root,
    root_at,
    verify_consistency,
    verify_inclusion,
)
from ledger.tlog.tiles import Tile, decode_bundle, decode_tile, new_tiles
from tests.conftest import SetClock

LOG = LogRows()


@pytest.fixture
def recorder(path: Path, clock: SetClock) -> Iterator[LedgerRecorder]:
    """A recorder that keeps a log and no projections."""
    recorder = LedgerRecorder(LedgerDatastore(path), clock=clock, log=LOG)
    recorder.create_table()
    yield recorder
    recorder.store.close()


def append(recorder: LedgerRecorder, count: int) -> None:
    """Append events of random content, all in one transaction."""
    start = recorder.position
    made = random.Random(start)
    recorder.insert_events(
        [
            StoredEvent(f"user/{number}", 1, "a.fact", made.randbytes(made.randint(1, 90)))
            for number in range(start, start + count)
        ]
    )


def leaves(path: Path) -> list[bytes]:
    """Return the leaf hashes as the columns on disk say, read past the product's code."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(
            "SELECT position, stream, version, type, recorded_at, state FROM events ORDER BY 1"
        )
        return [hash_of(StoredRow(*row)) for row in rows]


def hashes(path: Path) -> list[Any]:
    """Return everything in log_hashes."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT * FROM log_hashes ORDER BY level, idx").fetchall()


def test_each_event_gets_the_leaf_of_its_stored_columns(
    recorder: LedgerRecorder, path: Path
) -> None:
    """Level 0 holds the leaf hash of every event, computed from what was stored."""
    append(recorder, 5)
    append(recorder, 2)

    assert [(0, index, leaf) for index, leaf in enumerate(leaves(path))] == hashes(path)


def test_higher_levels_hold_the_roots_of_full_tiles(recorder: LedgerRecorder, path: Path) -> None:
    """Each level's hashes are the roots over their leaves, at random sizes up to level 2."""
    chance = random.Random(4)
    while recorder.position < 256 * 256 + 300:
        append(recorder, chance.choice((1, 255, 256, 20_000)))

    all_leaves = leaves(path)
    expected = [
        (level, index, root(all_leaves[index * 256**level : (index + 1) * 256**level]))
        for level in range(3)
        for index in range(len(all_leaves) // 256**level)
    ]
    assert expected == hashes(path)
    with recorder.store.transaction(commit=False) as c:
        for size in (1, 255, 256, 257, 65_535, 65_536, 65_537, recorder.position):
            assert root(all_leaves[:size]) == root_at(size, LOG.hash_reader(c, size))


def test_proofs_from_the_rows_verify(recorder: LedgerRecorder, path: Path) -> None:
    """Inclusion and consistency are proven from the rows, at random positions and sizes."""
    append(recorder, 1_500)
    all_leaves = leaves(path)
    chance = random.Random(5)

    with recorder.store.transaction(commit=False) as c:
        for _ in range(60):
            size = chance.randint(1, 1_500)
            old, index = chance.randint(1, size), chance.randrange(size)
            now, before = root(all_leaves[:size]), root(all_leaves[:old])
            read = LOG.hash_reader(c, size)
            inclusion = inclusion_proof(index, size, read)
            verify_inclusion(all_leaves[index], index, size, inclusion, now)
            consistency = consistency_proof(old, size, read)
            verify_consistency(old, size, before, now, consistency)


def test_tiles_and_bundles_are_cut_from_the_rows(recorder: LedgerRecorder, path: Path) -> None:
    """A tile holds its hashes and a bundle its events' entries, full or partial."""
    append(recorder, 600)
    all_leaves = leaves(path)

    with recorder.store.transaction(commit=False) as c:
        for tile in new_tiles(0, 600):
            covered = 256 ** (tile.level or 0)
            first = tile.index * 256 * covered
            expected = tuple(
                root(all_leaves[first + number * covered : first + (number + 1) * covered])
                for number in range(tile.width)
            )
            assert expected == decode_tile(LOG.tile(c, tile), tile.width)
        bundle = decode_bundle(LOG.bundle(c, Tile(None, 2, 88)), 88)
        rows = LOG.rows(c, 512, 88)
    assert [entry(row) for row in rows] == list(bundle)
    assert list(range(513, 601)) == [parse_entry(each).position for each in bundle]
    assert all_leaves[512:600] == [hash_of(row) for row in rows]


def test_an_incomplete_tile_is_not_made(recorder: LedgerRecorder) -> None:
    """A tile or bundle that the tree has not in full is an error, never a shorter one."""
    append(recorder, 10)

    with recorder.store.transaction(commit=False) as c:
        for make, tile in (
            (LOG.tile, Tile(0, 0, 11)),
            (LOG.tile, Tile(1, 0, 1)),
            (LOG.bundle, Tile(None, 0, 11)),
            (LOG.bundle, Tile(None, 1, 1)),
        ):
            with pytest.raises(LogFormatError, match="is incomplete"):
                make(c, tile)


class Interrupted(Exception):
    """What ends a transaction here."""


def append_then_raise(recorder: LedgerRecorder) -> None:
    """Fill a tile in a transaction, and leave it by an error."""
    with recorder.transaction():
        append(recorder, 10)
        raise Interrupted


def test_a_transaction_that_fails_leaves_no_leaf(recorder: LedgerRecorder, path: Path) -> None:
    """Events and hashes are committed together or not at all, full tiles too."""
    append(recorder, 250)
    before = hashes(path)

    with pytest.raises(Interrupted):
        append_then_raise(recorder)
    with recorder.transaction():
        append(recorder, 3)
        with pytest.raises(Interrupted):
            append_then_raise(recorder)

    assert 253 == recorder.position
    assert before == hashes(path)[:250]
    assert leaves(path) == [hash_ for _, _, hash_ in hashes(path)]


def test_an_event_without_its_leaf_is_not_recorded(path: Path, clock: SetClock) -> None:
    """When the log cannot take the leaf, the event is not appended either."""

    class Full(LogRows):
        """A log that has no room left."""

        def append(self, *_: Any, **__: Any) -> bytes:
            """Refuse."""
            raise sqlite3.OperationalError("database or disk is full")

    recorder = LedgerRecorder(LedgerDatastore(path), clock=clock, log=Full())
    recorder.create_table()

    with pytest.raises(sqlite3.OperationalError):
        append(recorder, 1)

    assert 0 == recorder.position
    recorder.store.close()


@pytest.mark.parametrize("table", ["log_hashes", "log_checkpoints", "log_cosignatures"])
def test_the_rows_are_never_changed_replaced_or_deleted(
    recorder: LedgerRecorder, path: Path, table: str
) -> None:
    """The database refuses UPDATE, DELETE and REPLACE on each table, to any program."""
    append(recorder, 2)
    with recorder.store.transaction(commit=True) as c:
        LOG.add_checkpoint(c, 2, b"note\n", "2026-11-24T10:00:00.000000Z")
        LOG.add_cosignature(c, 2, "witness.example", "line")
    with closing(sqlite3.connect(path)) as connection:
        before = connection.execute(f"SELECT * FROM {table}").fetchall()
        column = {"log_hashes": "hash"}.get(table, "size")

        for statement in (
            f"UPDATE {table} SET {column} = {column}",
            f"UPDATE OR REPLACE {table} SET {column} = {column}",
            f"DELETE FROM {table}",
            f"INSERT OR REPLACE INTO {table} SELECT * FROM {table}",
            f"REPLACE INTO {table} SELECT * FROM {table}",
        ):
            with pytest.raises(sqlite3.IntegrityError, match="are never"):
                connection.execute(statement)

        assert before == connection.execute(f"SELECT * FROM {table}").fetchall()


def test_a_checkpoint_is_never_followed_by_a_smaller_one(recorder: LedgerRecorder) -> None:
    """The database takes one checkpoint for each size, each larger than the ones before."""
    with recorder.store.transaction(commit=True) as c:
        LOG.add_checkpoint(c, 5, b"five\n", "2026-11-24T10:00:00.000000Z")
        for size in (4, 5):
            with pytest.raises(sqlite3.IntegrityError, match="are never replaced"):
                LOG.add_checkpoint(c, size, b"other\n", "2026-11-24T10:00:00.000000Z")
        LOG.add_checkpoint(c, 6, b"six\n", "2026-11-24T10:00:00.000000Z")

    with recorder.store.transaction(commit=False) as c:
        assert 6 == LOG.newest_size(c)
        assert b"six\n" == LOG.newest_checkpoint(c)
        assert b"five\n" == LOG.checkpoint_at(c, 5)
        assert LOG.checkpoint_at(c, 4) is None


def test_cosignatures_stand_under_their_checkpoint(recorder: LedgerRecorder) -> None:
    """A checkpoint is read with the lines of its witnesses, one of each, the first that came."""
    with recorder.store.transaction(commit=True) as c:
        LOG.add_checkpoint(c, 5, b"five\n", "2026-11-24T10:00:00.000000Z")
        LOG.add_cosignature(c, 5, "w2.example", "\N{EM DASH} w2.example AAAA")
        LOG.add_cosignature(c, 5, "w1.example", "\N{EM DASH} w1.example BBBB")
        LOG.add_cosignature(c, 5, "w2.example", "\N{EM DASH} w2.example CCCC")

        assert (
            "five\n\N{EM DASH} w1.example BBBB\n\N{EM DASH} w2.example AAAA\n".encode()
            == LOG.newest_checkpoint(c)
        )


def test_nothing_was_signed_at_first(recorder: LedgerRecorder) -> None:
    """A new log has no checkpoint."""
    with recorder.store.transaction(commit=False) as c:
        assert 0 == LOG.newest_size(c)
        assert LOG.newest_checkpoint(c) is None
