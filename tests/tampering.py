"""A signed ledger in files, to be copied, continued differently, and tampered with."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ledger.domain.events import Author
from ledger.domain.values import Subject
from ledger.service.cli_verifying import verify_stored
from ledger.service.settings import Settings
from ledger.service.verification import Report, Trusted, verify_database
from ledger.service.wiring import Service, build
from ledger.tlog.leaf import StoredRow, hash_of
from ledger.tlog.merkle import root
from ledger.tlog.verify import Kind
from tests.checks import check_ledger
from tests.conftest import SetClock
from tests.service.conftest import open_ledger

SIZES = (100, 200, 300)
END = SIZES[-1]
BY = Author("the-officer", request_id="6f1d")


def grow(service: Service, until: int, *, word: str = "warned") -> None:
    """Record warnings until there are so many events, and sign them."""
    with service.ledger.together():
        while (position := service.recorder.position) < until:
            subject = Subject(type="user", id=f"u{position % 7}")
            service.ledger.warn(subject, reason=f"{word} {position}", by=BY)
    while service.signer._round():
        pass


def at(folder: Path, *, checked: bool = True) -> Service:
    """A service on the ledger in a folder, which has looked whether it fits."""
    url = f"sqlite:///{folder / 'ledger.db'}"
    service = build(Settings(database_url=url, origin="ledger.example"), clock=SetClock())
    if checked:
        service.signer.check()
    return service


def close(service: Service) -> None:
    """Let go of the database, with all of it in one file."""
    service.recorder.store.close()


def make(made: Path) -> Path:
    """Make a ledger, with copies of it as it was at each size that was signed."""
    service = at(made)
    open_ledger(service)
    for size in SIZES:
        grow(service, size)
        close(service)
        shutil.copytree(made, made / f"at-{size}", ignore=shutil.ignore_patterns("at-*"))
        service = at(made)
    check_ledger(service)
    close(service)
    return made


@dataclass
class Copy:
    """A copy of the ledger, to be tampered with."""

    path: Path

    @property
    def anchor(self) -> Path:
        """The file of the newest checkpoint."""
        return self.path.with_suffix(".checkpoint")

    def sql(self, *statements: str, values: Sequence[object] = ()) -> None:
        """Run statements as somebody who dropped the triggers."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as c:
            c.execute("PRAGMA ignore_check_constraints = ON")
            c.execute("PRAGMA synchronous = OFF")
            for (name,) in c.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'"):
                if "_are_" in name:
                    c.execute(f"DROP TRIGGER {name}")
            c.execute("BEGIN")
            for statement in statements:
                c.execute(statement, values)
            c.execute("COMMIT")

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What a query finds."""
        with closing(sqlite3.connect(self.path)) as c:
            return c.execute(query).fetchall()

    def relog(self) -> None:
        """Make the log's hashes anew from the events, on every level."""
        hashes = [
            hash_of(StoredRow(*row))
            for row in self.rows(
                "SELECT position, stream, version, type, recorded_at, state FROM events ORDER BY 1"
            )
        ]
        with closing(sqlite3.connect(self.path, isolation_level=None)) as c:
            c.execute("BEGIN")
            c.execute("DELETE FROM log_hashes")
            c.executemany(
                "INSERT INTO log_hashes VALUES (?, ?, ?)",
                [
                    *((0, index, each) for index, each in enumerate(hashes)),
                    *((1, index, root(hashes[:256])) for index in range(len(hashes) // 256)),
                ],
            )
            c.execute("COMMIT")

    @property
    def report(self) -> Report:
        """What is found in the history."""
        return verify_database(self.path, self.anchor, Trusted())

    @property
    def found(self) -> list[tuple[Kind, int | None, int | None]]:
        """Kind, first and last position of each finding in the history."""
        return [(each.kind, each.position, each.last) for each in self.report.findings]

    @property
    def whole(self) -> Report:
        """What is found in the history, and in the projections."""
        return verify_stored(self.path, self.anchor, Trusted(), lambda _done, _all: None)


def forked(folder: Path, target: Path) -> Copy:
    """The same ledger as it went on differently after 200 events, signed with the same key."""
    shutil.copytree(folder / "at-200", target)
    service = at(target)
    grow(service, END, word="spared")
    close(service)
    return Copy(target / "ledger.db")
