"""A database that an older version of the program made."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from ledger.service.wiring import build
from ledger.store.recorder import SCHEMA_VERSION
from tests.checks import check_ledger
from tests.conftest import SetClock
from tests.histories import awake, founded


def test_what_an_older_version_derived_is_derived_anew(tmp_path: Path) -> None:
    """The events stay as they are, and every projection is what this version makes of them."""
    service = founded(tmp_path, SetClock())
    events = list(service.recorder.events())
    service.close()
    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as older:
        older.execute("DROP TABLE trail")
        older.execute("CREATE TABLE trail (position INTEGER PRIMARY KEY) STRICT")
        older.execute(f"PRAGMA user_version = {SCHEMA_VERSION - 1}")

    upgraded = awake(build(service.settings, clock=SetClock()))

    assert events == list(upgraded.recorder.events())
    check_ledger(upgraded)
    upgraded.close()
