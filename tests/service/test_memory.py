"""What a service holds does not grow with the events of its ledger, whatever it sends out.

The figures are in the benchmark of exports; here is what they rest on.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from ledger.service.exports import FORMATS, VIEWS
from ledger.service.settings import Settings
from ledger.service.wiring import build
from ledger.store.sqlite import LedgerDatastore
from tests.conftest import SetClock
from tests.service.conftest import (
    found,
    joined,
    open_ledger,
    opened,
    suspension_of,
    until,
)

FEW_NEED = ("authlib", "drawsvg", "duckdb", "joserfc", "limits", "psycopg", "pyarrow")
LOADED = (
    "import sys, ledger.service.cli, ledger.service.http.app as app;"
    "from ledger.service.wiring import build;"
    "from ledger.service.settings import Settings;"
    "app.create_app(build(Settings()));"
    "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Every statement that is sent to a database which is opened during the test."""
    statements: set[str] = set()
    connect = LedgerDatastore._connect

    def traced(self: LedgerDatastore) -> sqlite3.Connection:
        connection = connect(self)
        connection.set_trace_callback(statements.add)
        return connection

    monkeypatch.setattr(LedgerDatastore, "_connect", traced)
    return statements


def test_nothing_is_sorted_to_start_or_to_export_a_list(
    settings: Settings, clock: SetClock, asked: set[str]
) -> None:
    """What is sorted is held as a whole, so the order that is asked for is that of a table."""
    with opened(settings, clock) as run:
        found(run)
        suspension_of(run, "user:alice")
        asked.clear()
        with joined(run) as other:
            until(lambda: other.service.signer.state == "verified")
            for view in VIEWS.values():
                for format in (each.name for each in FORMATS.values() if each.is_of(view)):
                    done = other(
                        "GET", f"{view.path}/export", role="auditor", params={"format": format}
                    )
                    assert 200 == done.status_code
            statements = [each for each in asked if each.startswith("SELECT")]
    assert any("NOT IN (VALUES" in each for each in statements)
    with closing(sqlite3.connect(settings.database_path or "")) as database:
        for each in statements:
            plan = database.execute(f"EXPLAIN QUERY PLAN {each}").fetchall()
            assert not [step for *_, step in plan if "TEMP B-TREE" in step], each


def test_what_few_ledgers_need_is_not_loaded_until_they_do(
    settings: Settings, clock: SetClock
) -> None:
    """A ledger in a file, with no provider, no limit and no plot asked for, does without."""
    service = build(settings, clock=clock)
    open_ledger(service)
    service.close()
    done = subprocess.run(
        [sys.executable, "-c", LOADED],
        env={
            "LEDGER_DATABASE_URL": settings.database_url,
            "LEDGER_VAULT_KEY_FILE": str(settings.vault_key_path),
        },
        cwd=settings.vault_key_path.parent,
        capture_output=True,
        check=True,
        text=True,
    )
    assert not {*FEW_NEED} & {*done.stdout.split()}
