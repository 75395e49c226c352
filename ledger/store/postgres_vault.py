"""The vault on PostgreSQL: a schema of the ledger's own database, shared by all hosts.

A key is made in the transaction that appends what it seals: both are there, or neither is.

Destroying a key deletes its row, and nobody can read it through the server any more. Its bytes,
wrapped by the vault key, outlive it where the server keeps what was: in dead rows until VACUUM, in
the archive of its write-ahead log, in replicas that lag and in backups. Whoever has such a copy
needs the vault key, too; it is not in the database.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Final

import psycopg
from eventsourcing.persistence import Cursor

from ledger.domain.errors import VaultUnavailable
from ledger.store.postgres import PostgresDatastore
from ledger.store.vault import Run, Vault

VAULT_DDL: Final = (
    "CREATE SCHEMA IF NOT EXISTS vault",
    """CREATE TABLE IF NOT EXISTS vault.data_keys (
        key TEXT PRIMARY KEY,
        subject TEXT NOT NULL,
        retired INTEGER NOT NULL,
        wrapped BLOB NOT NULL
    ) STRICT""",
    "CREATE INDEX IF NOT EXISTS data_keys_subject ON vault.data_keys (subject)",
    """CREATE UNIQUE INDEX IF NOT EXISTS data_keys_in_use ON vault.data_keys (subject)
        WHERE retired = 0""",
    """CREATE TABLE IF NOT EXISTS vault.probe (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        origin TEXT NOT NULL,
        box BLOB NOT NULL
    ) STRICT""",
)


def has_vault(store: PostgresDatastore) -> bool:
    """Tell whether a database has the table of the data keys."""
    with store.transaction(commit=False) as c:
        c.execute(
            "SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname = 'vault' AND c.relname = 'data_keys'"
        )
        return c.fetchone() is not None


class PostgresVault(Vault):
    """The data keys of all subjects, and what they seal, in the schema ``vault``."""

    KEYS: ClassVar[str] = "vault.data_keys"
    PROBE: ClassVar[str] = "vault.probe"

    def __init__(self, store: PostgresDatastore, *, vault_key: bytes, origin: str) -> None:
        self._store = store
        self._open(f"the vault in {store.path}", vault_key, origin)

    def close(self) -> None:
        """Leave it to the store, which has the connections."""

    @contextmanager
    def _reading(self) -> Iterator[Run]:
        with self._transaction(commit=False) as run:
            yield run

    @contextmanager
    def _writing(self) -> Iterator[Run]:
        with self._transaction(commit=True) as run:
            yield run

    @contextmanager
    def _transaction(self, *, commit: bool) -> Iterator[Run]:
        with self._store.transaction(commit=commit) as c:

            def run(statement: str, values: Any = ()) -> Cursor:
                try:
                    c.execute(statement, values)
                except psycopg.errors.InsufficientPrivilege as error:
                    raise VaultUnavailable(f"{self.name} may not be used: {error}") from error
                return c

            yield run

    def _make_tables(self) -> None:
        self._store.make_tables(VAULT_DDL)

    def _mark_stale(self, run: Run) -> None:
        """Do nothing: the server vacuums by itself, and only it can."""

    def _write_anew(self) -> None:
        """Do nothing, for the same reason."""
