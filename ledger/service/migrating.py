"""How does a ledger come from one database into another, and back, with nothing changed?

What is a fact is copied as it is stored: events, the log's hashes, checkpoints, cosignatures, what
idempotency keys led to, and the keys of the vault, wrapped as they are. Projections are made anew
from the events that arrived.

Three things keep two ledgers from coming of one:

- The source's append lock is held from the first look to the end: nothing is recorded meanwhile.
- Until the target is verified, a row in it says that it is half of a copy. It stands there in every
  state that anybody else can see, so the target's own trigger refuses events, and ``build`` to open
  it.
- What is in the target already must be the beginning of the same ledger. So a copy that was stopped
  at any moment goes on where it was, and no other ledger is ever added to.

Trust: neither end is believed. The source is verified before anything is written, and both ends,
leaf by leaf, before the row is taken away.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import psycopg
from eventsourcing.persistence import Cursor

from ledger.domain.errors import InvalidValue, Unavailable
from ledger.service.settings import Settings
from ledger.service.verification import (
    FINE,
    TABLES_THERE,
    Report,
    Trusted,
    projection_findings,
    verify_database,
)
from ledger.service.wiring import (
    open_store,
    open_vault,
    projections_of,
    schema_script,
    wall_clock,
)
from ledger.store.postgres import PostgresDatastore
from ledger.store.recorder import LedgerRecorder, Store
from ledger.store.replay import replayed
from ledger.store.streaming import poured
from ledger.store.vault import Vault, read_vault_key
from ledger.tlog.log import LogRows
from ledger.tlog.merkle import LogError, root_at
from ledger.tlog.tiles import TILE_WIDTH

COPIED_TOGETHER: Final = 5_000  # rows in one transaction: some megabytes
_EVENT: Final = ("position", "stream", "version", "type", "recorded_at", "state")
_HASH: Final = ("level", "idx", "hash")
_FAILURES: Final = (sqlite3.Error, psycopg.Error, LogError)

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of facts; the first ``keys`` of its columns are its key."""

    name: str
    columns: Sequence[str]
    keys: int

    @property
    def select(self) -> str:
        """Reads the rows."""
        return f"SELECT {', '.join(self.columns)} FROM {self.name} "

    @property
    def key(self) -> str:
        """The columns of its key."""
        return ", ".join(self.columns[: self.keys])


_TABLES: Final = (
    _Table("log_checkpoints", ("size", "note", "signed_at"), 1),
    _Table("log_cosignatures", ("size", "witness", "line"), 2),
    _Table("commands", ("operator", "idempotency_key", "fingerprint", "position", "recorded"), 2),
)


@dataclass(frozen=True, slots=True)
class Migrated:
    """What came of it: whose report it is, and how many events this run copied.

    A report that is not fine says why the target is not to be used.
    """

    database: str
    report: Report
    copied: int = 0


@dataclass(frozen=True, slots=True)
class _End:
    """One of the two databases."""

    settings: Settings
    recorder: LedgerRecorder

    @property
    def store(self) -> Store:
        """Its transactions."""
        return self.recorder.store

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.settings.database

    def tables(self) -> set[str]:
        """Return the names of the tables that are there."""
        with self.store.transaction(commit=False) as c:
            c.execute(TABLES_THERE[self.store.dialect])
            return {row[0] for row in c.fetchall()}


def migrate(
    source: Settings, target: Settings, *, progress: Progress = lambda _what, _done, _all: None
) -> Migrated:
    """Copy the ledger that ``source`` names to where ``target`` names, or the rest of it.

    Raises ``InvalidValue`` when the target may not take it, ``Unavailable`` when a database cannot
    be read or written; run again, it goes on.
    """
    if source.database_path is not None:
        for path in (source.database_path, source.vault_path):
            if not path.exists():
                raise InvalidValue(f"{path} does not exist, so there is no ledger to copy")
    try:
        with _opened(source) as old:
            if "half_copy" in old.tables():
                old.recorder.refuse_half_copy()
            _refuse_led(old)
            with _nothing_recorded(old):
                return _copied(old, target, progress)
    except _FAILURES as error:
        raise Unavailable(f"a database cannot be read or written: {error}") from error


def _copied(old: _End, target: Settings, progress: Progress) -> Migrated:
    report = _verified(old, old, progress, "verifying the source")
    if report.code != FINE:
        return Migrated(old.name, report)
    old.recorder.refuse_unknown_facts()
    if _is_one_file(old.settings, target):
        raise InvalidValue("--from and --to name one database")
    vault_key = read_vault_key(old.settings.vault_key_path)
    with _opened(target) as new:
        _refuse_led(new)
        there = _copied_before(old, new)
        _make_tables(new)
        with (
            _vault(old, vault_key, old.settings.origin) as kept,
            _vault(new, vault_key, kept.origin) as vault,
        ):
            if vault.origin != kept.origin:
                raise InvalidValue(
                    f"{vault.name} is that of {vault.origin}; name an empty database, and an empty "
                    "folder for its vault"
                )
            _copy_events(old, new, there, partial(progress, "copying events"))
            _copy_tables(old, new, partial(progress, "copying what was signed and answered"))
            if kept.name != vault.name:
                vault.take_over(kept)
        compared = _compared(old, new, progress)
        if compared.report.code == FINE:
            with _adding(new, compared.report.events) as c:
                c.execute("DELETE FROM half_copy")
    return replace(compared, copied=old.recorder.position - there)


# --- the two ends ---------------------------------------------------------------------------------


@contextmanager
def _opened(settings: Settings) -> Iterator[_End]:
    store = open_store(settings)
    try:
        yield _End(
            settings,
            LedgerRecorder(
                store,
                clock=wall_clock,
                log=LogRows(),
                projections=projections_of(store.dialect),
            ),
        )
    finally:
        store.close()


@contextmanager
def _vault(end: _End, vault_key: bytes, origin: str) -> Iterator[Vault]:
    vault = open_vault(end.settings, end.store, vault_key=vault_key, origin=origin)
    try:
        yield vault
    finally:
        vault.close()


def _is_one_file(source: Settings, target: Settings) -> bool:
    """Tell whether both ends are one file; two names of one PostgreSQL database meet at its lock.

    The lock of a file would be waited for in vain, too, but after the file was looked at.
    """
    ours, theirs = source.database_path, target.database_path
    if ours is None or theirs is None:
        return source.database_url == target.database_url
    return theirs.exists() and ours.samefile(theirs)


def _refuse_led(end: _End) -> None:
    """Refuse a database that a process serves, where that can be known, and keep others from it."""
    if not end.store.leads():
        raise InvalidValue(f"a process serves the ledger in {end.name}; stop it first")


@contextmanager
def _nothing_recorded(end: _End) -> Iterator[None]:
    """Hold the append lock; nothing is written under it."""
    with end.store.transaction(commit=True) as c:
        if isinstance(end.store, PostgresDatastore):
            # A writer that says no more for so long is taken for lost; this one is at work.
            c.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        yield


def _make_tables(new: _End) -> None:
    if isinstance(new.store, PostgresDatastore) and "half_copy" not in new.tables():
        new.store.apply_schema(schema_script())
    new.recorder.create_table()


@contextmanager
def _adding(new: _End, position: int) -> Iterator[Cursor]:
    """Hold the target's append lock; it must end at a position, and stays half of a copy."""
    with new.store.transaction(commit=True) as c:
        if new.recorder.position != position:
            raise InvalidValue(f"something else records in {new.name}; name an empty database")
        yield c


@contextmanager
def _copying(old: _End, new: _End, position: int) -> Iterator[Cursor]:
    """Do the same without the row that refuses events, which is back before anybody can look."""
    with _adding(new, position) as c:
        c.execute("DELETE FROM half_copy")
        yield c
        c.execute("INSERT INTO half_copy (id, source) VALUES (1, ?)", (old.name,))


# --- copying --------------------------------------------------------------------------------------


def _copied_before(old: _End, new: _End) -> int:
    """Return how many events the target holds.

    Raises ``InvalidValue`` unless all that it holds is the source's, from the first event on.
    """
    if "events" not in new.tables():
        return 0
    rows = LogRows()
    with (
        old.store.transaction(commit=False) as ours,
        new.store.transaction(commit=False) as theirs,
    ):
        size, head = old.recorder.position, new.recorder.position
        try:
            same = head <= size and root_at(head, rows.hash_reader(ours, head)) == root_at(
                head, rows.hash_reader(theirs, head)
            )
        except LogError:
            same = False
        if not same:
            raise InvalidValue(
                f"{new.name} holds {head} events that are not the first of {old.name}; "
                "name an empty database"
            )
        for table in _TABLES:
            if any(_missing(ours, table, page) for page in _pages(theirs, table)):
                raise InvalidValue(
                    f"{new.name} has served on its own: it holds {table.name} that {old.name} does "
                    "not; name an empty database"
                )
    return head


def _copy_events(old: _End, new: _End, there: int, progress: Callable[[int, int], None]) -> None:
    """Copy the events that are missing, each with the hashes that were written with it."""
    size = old.recorder.position
    progress(there, size)
    while there < size:
        last = min(there + COPIED_TOGETHER, size)
        with (
            old.store.transaction(commit=False) as ours,
            _copying(old, new, there) as c,
        ):
            ours.execute(
                f"SELECT {', '.join(_EVENT)} FROM events WHERE position > ? AND position <= ? "
                "ORDER BY position",
                (there, last),
            )
            poured(c, "events", _EVENT, ours.fetchall())
            poured(c, "log_hashes", _HASH, _hashes(ours, there, last))
        there = last
        progress(there, size)


def _hashes(c: Cursor, after: int, until: int) -> Iterator[Sequence[Any]]:
    """Yield the rows of the log that were written with the events of a range."""
    level = 0
    while until:
        c.execute(
            "SELECT level, idx, hash FROM log_hashes WHERE level = ? AND idx >= ? AND idx < ? "
            "ORDER BY idx",
            (level, after, until),
        )
        yield from c.fetchall()
        level, after, until = level + 1, after // TILE_WIDTH, until // TILE_WIDTH


def _copy_tables(old: _End, new: _End, progress: Callable[[int, int], None]) -> None:
    """Copy the rows that are missing in the other tables; a row that is there stays."""
    size, done = old.recorder.position, 0
    for table in _TABLES:
        with old.store.transaction(commit=False) as ours:
            for page in _pages(ours, table):
                with _copying(old, new, size) as c:
                    poured(c, table.name, table.columns, _missing(c, table, page))
                done += len(page)
                progress(done, done)
    with _copying(old, new, size):
        pass  # where there was nothing to copy: what follows is not verified yet, either


def _pages(c: Cursor, table: _Table) -> Iterator[list[tuple[Any, ...]]]:
    """Yield the rows of a table in the order of its key."""
    holes = ", ".join("?" * table.keys)
    where, after = "", ()
    while True:
        c.execute(f"{table.select} {where} ORDER BY {table.key} LIMIT ?", (*after, COPIED_TOGETHER))
        rows = [tuple(row) for row in c.fetchall()]
        if rows:
            yield rows
        if len(rows) < COPIED_TOGETHER:
            return
        where, after = f"WHERE ({table.key}) > ({holes})", rows[-1][: table.keys]


def _missing(c: Cursor, table: _Table, page: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    holes = ", ".join("?" * table.keys)
    c.execute(
        f"{table.select} WHERE ({table.key}) >= ({holes}) AND ({table.key}) <= ({holes})",
        (*page[0][: table.keys], *page[-1][: table.keys]),
    )
    there = {tuple(row) for row in c.fetchall()}
    return [row for row in page if row not in there]


# --- comparing ------------------------------------------------------------------------------------


def _verified(end: _End, old: _End, progress: Progress, what: str) -> Report:
    """Verify the history of an end against the newest checkpoint of the source, which is outside

    of both databases.
    """
    return verify_database(
        end.settings.database_path or end.settings.database_url,
        old.settings.checkpoint_path,
        Trusted(),
        progress=partial(progress, what),
    )


def _compared(old: _End, new: _End, progress: Progress) -> Migrated:
    """Verify both ends, and make the projections of the target; stop at the first finding.

    Both histories are those of one checkpoint, so the events of either are replayed for both. Words
    as PostgreSQL has them are in a table that any store can be compared with.
    """
    copied = _verified(new, old, progress, "verifying the copy")
    if copied.code != FINE:
        return Migrated(new.name, copied)
    kept = _verified(old, old, progress, "verifying the source again")
    if kept.code != FINE:
        return Migrated(old.name, kept)
    if (copied.events, copied.proven) != (kept.events, kept.proven):
        raise Unavailable(f"{new.name} does not end as {old.name} does")
    for table in _TABLES:
        if _digest(old, table) != _digest(new, table):
            raise InvalidValue(f"{new.name} holds other {table.name}; name an empty database")
    replaying = next((each for each in (new, old) if each.store.dialect == "postgresql"), new)
    with replayed(
        replaying.recorder, progress=partial(progress, "making the projections")
    ) as replay:
        with _copying(old, new, replay.events) as c:
            replay.compare(c, repair=True)
        for end in (old, new):
            with end.store.transaction(commit=False) as c:
                found = projection_findings(replay.compare(c))
            if found:
                break
    return Migrated(end.name, replace(copied, findings=found))


def _digest(end: _End, table: _Table) -> bytes:
    found = hashlib.sha256()
    with end.store.transaction(commit=False) as c:
        for page in _pages(c, table):
            for row in page:
                found.update(repr(row).encode())
    return found.digest()
