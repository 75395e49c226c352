"""What tests above the domain share: a clock that they set, and a ledger on a real database."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from ledger.application import Ledger
from ledger.domain.events import Recorded
from ledger.service.settings import Settings, sqlite_path
from ledger.service.wiring import Finder
from ledger.store.postgres import PostgresDatastore
from ledger.store.projection import Projection
from ledger.store.recorder import LedgerRecorder, Store
from ledger.store.replay import rebuild
from ledger.store.sqlite import LedgerDatastore
from ledger.store.vault import Vault
from ledger.tlog.log import LogRows
from projections.access import AccessRows
from projections.conduct import ConductRows
from projections.erasures import ErasureRows
from projections.operators import OperatorRows
from projections.report import ReportRows
from projections.trail import TrailRows
from tests.postgres import fresh_database, postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url"]  # fixtures, for every test

LOG_KEY = "test.ledger+0dcbc35a+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"
VAULT_KEY = bytes(range(32))
SOAK_S = float(os.environ.get("LEDGER_TEST_SOAK_S", "600"))  # how long a soak goes on that may
T0 = datetime(2026, 11, 24, 10, 0, tzinfo=UTC)


@dataclass
class SetClock:
    """A clock that stands still until it is set or moved."""

    now: datetime = T0

    def __call__(self) -> datetime:
        return self.now

    def move(self, **delta: float) -> datetime:
        """Move the clock, back too; return the new instant."""
        self.now += timedelta(**delta)
        return self.now


def open_ledger(
    path: Path,
    clock: Callable[[], datetime],
    *,
    projections: Sequence[Projection] = (),
    store: Store | None = None,
    committed: Callable[[Sequence[Recorded]], None] = lambda _: None,
    entropy: Callable[[int], bytes] = os.urandom,
) -> Ledger:
    """Open a ledger with the product's own projections, and further ones after them."""
    store = store or LedgerDatastore(path)
    access, conduct, operators = AccessRows(), ConductRows(), OperatorRows()
    erasures, trail = ErasureRows(), TrailRows(store.dialect)
    recorder = LedgerRecorder(
        store,
        clock=clock,
        log=LogRows(),
        projections=(access, conduct, operators, erasures, ReportRows(), trail, *projections),
        committed=committed,
    )
    recorder.create_table()
    vault = Vault(path.with_suffix(".vault"), vault_key=VAULT_KEY, origin="test.ledger")
    finder = Finder(store, access, conduct, operators, erasures)
    return Ledger(recorder, finder, vault, entropy=entropy)


def check_store(recorder: LedgerRecorder) -> None:
    """Check that positions are dense, time runs forward, and projections equal a rebuild."""
    versions: dict[str, int] = {}
    position, at = 0, datetime.min.replace(tzinfo=UTC)
    for recorded in recorder.events():
        version = versions.get(recorded.stream, 0) + 1
        assert (position + 1, version) == (recorded.position, recorded.version)
        assert at <= recorded.recorded_at
        position, at = recorded.position, recorded.recorded_at
        versions[recorded.stream] = version
    assert position == recorder.position
    assert [] == list(rebuild(recorder).differences)


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a database is made."""
    return tmp_path / "ledger.db"


on_each_store = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
"""Runs a test on both stores; without it, it runs on SQLite. Without a server, it is skipped."""


@pytest.fixture(scope="session")
def postgres_tables(
    postgres_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The name of a PostgreSQL database with a ledger's tables, to make others from."""
    with fresh_database(postgres_server) as url:
        path = tmp_path_factory.mktemp("tables") / "ledger.db"
        ledger = open_ledger(path, SetClock(), store=PostgresDatastore(url))
        ledger.recorder.store.close()
        ledger.vault.close()
        yield urlsplit(url).path.lstrip("/")


@pytest.fixture
def postgres_ledger(postgres_server: str, postgres_tables: str) -> Iterator[str]:
    """The address of a PostgreSQL database of its own, with the tables and nothing in them."""
    with fresh_database(postgres_server, postgres_tables) as url:
        yield url


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    url: str = request.getfixturevalue("postgres_ledger")
    return url


def settings_at(url: str, folder: Path, **more: Any) -> Settings:
    """Settings of a ledger in the database that a URL names, with its files in a folder."""
    return Settings(
        database_url=url,
        files=folder,
        allow_owner=url.startswith("postgresql:"),  # tests connect as the superuser
        **more,
    )


def store_at(url: str) -> Store:
    """Open the store that a URL names."""
    if url.startswith("sqlite:"):
        return LedgerDatastore(sqlite_path(url))
    return PostgresDatastore(url)


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """An empty store."""
    store = store_at(database_url)
    yield store
    store.close()


@pytest.fixture
def ledger(store: Store, path: Path, clock: SetClock) -> Iterator[Ledger]:
    """A ledger, empty, that is checked as a whole when the test is over."""
    ledger = open_ledger(path, clock, store=store)
    yield ledger
    check_store(ledger.recorder)
    ledger.vault.close()
