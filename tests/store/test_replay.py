"""Rebuilding projections finds every row that is not what the events say, and can put it right."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import pytest
from eventsourcing.persistence import Cursor

from ledger.application import Ledger
from ledger.domain.events import Author, Recorded
from ledger.domain.values import Basis, Scope, Subject
from ledger.store import held, replay
from ledger.store.replay import DIFFERENCES_SHOWN_MAX, Difference, rebuild
from tests.conftest import LOG_KEY, SetClock, open_ledger
from tests.store.failing import dump
from tests.store.test_sqlite import connected

JO = Author("jo")
ACME = Subject(type="organization", id="acme")


class Mixed:
    """A projection whose columns hold everything that SQLite can, several rows per event."""

    NAME: ClassVar[str] = "mixed"
    TABLES: ClassVar[Sequence[str]] = ("mixed", "mixed_sums")
    DDL: ClassVar[Sequence[str]] = (
        "CREATE TABLE IF NOT EXISTS mixed (position INTEGER, value)",
        "CREATE INDEX IF NOT EXISTS mixed_value ON mixed (value)",
        "CREATE TABLE IF NOT EXISTS mixed_sums (position INTEGER PRIMARY KEY, sum INTEGER)",
    )

    def apply(self, cursor: Cursor, recorded: Recorded) -> None:
        """Write one row of each kind, and how many there are by now."""
        for value in (None, -1, 2.5, "text", "Ω", b"\x00"):
            cursor.execute("INSERT INTO mixed VALUES (?, ?)", (recorded.position, value))
        cursor.execute("SELECT count(*) FROM mixed")
        total = cursor.fetchone()[0]
        cursor.execute("INSERT INTO mixed_sums VALUES (?, ?)", (recorded.position, total))


@pytest.fixture
def told(path: Path, clock: SetClock) -> Iterator[Ledger]:
    """A ledger in which a little has happened, with one projection more than the product has."""
    ledger = open_ledger(path, clock, projections=[Mixed()])
    ledger.open("test.ledger", log_key=LOG_KEY)
    for number in range(10):
        subject = Subject(type="user", id=f"u{number}")
        ledger.link(subject, parent=ACME, by=JO)
        ledger.suspend(
            subject,
            scope=Scope.model_validate({"resources": [{"type": "model"}]}),
            indefinite=True,
            basis=Basis.LEGAL_ORDER,
            reason="By order.",
            by=JO,
        )
    yield ledger
    ledger.recorder.store.close()


def spoil(path: Path, *statements: str) -> None:
    """Change rows behind the ledger's back."""
    with connected(path) as run:
        for statement in statements:
            run(statement)


def test_what_is_live_is_what_a_rebuild_makes(
    told: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many rows are written or compared together, nothing differs and nothing changes."""
    before = dump(path)
    for together in (1, 2, 3, 1_000):
        monkeypatch.setattr(held, "ROWS_TOGETHER", together)
        monkeypatch.setattr(replay, "COMPARED_TOGETHER", together)
        progress: list[tuple[int, int]] = []

        found = rebuild(told.recorder, progress=lambda *done: progress.append(done))  # noqa: B023

        assert (21, []) == (found.events, list(found.differences))
        assert (21, 21) == progress[-1]
    assert before == dump(path)


def test_a_rebuild_on_several_cores_makes_the_same(
    told: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process replays its share of the projections, and is compared like this one."""
    monkeypatch.setattr(replay, "ALONE_MAX", 0)
    monkeypatch.setattr(replay, "PROGRESS_EVERY", 7)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    progress: list[tuple[int, int]] = []

    found = rebuild(told.recorder, progress=lambda *done: progress.append(done))

    assert [] == list(found.differences)
    assert [(7, 21), (14, 21), (21, 21), (21, 21)] == progress


@pytest.mark.parametrize("together", [1, 2, 1_000])
@pytest.mark.parametrize(
    ("statement", "missing", "extra"),
    [
        ("DELETE FROM mixed WHERE position = 1 AND value IS NULL", [(1, None)], []),
        ("DELETE FROM mixed WHERE position = 21 AND value = x'00'", [(21, b"\x00")], []),
        ("INSERT INTO mixed VALUES (0, 'new')", [], [(0, "new")]),
        ("INSERT INTO mixed VALUES (9, 'a')", [], [(9, "a")]),
        ("INSERT INTO mixed VALUES (22, NULL)", [], [(22, None)]),
        ("INSERT INTO mixed VALUES (5, 'text')", [], [(5, "text")]),
        ("UPDATE mixed SET value = 3 WHERE position = 7 AND value = -1", [(7, -1)], [(7, 3)]),
        (
            "UPDATE mixed SET value = 'text ' WHERE position = 7 AND value = 'Ω'",
            [(7, "Ω")],
            [(7, "text ")],
        ),
        (
            "UPDATE mixed SET value = '-1' WHERE position = 7 AND value = -1",
            [(7, -1)],
            [(7, "-1")],
        ),
    ],
)
def test_a_row_that_the_events_do_not_make_is_shown(
    told: Ledger,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    together: int,
    statement: str,
    missing: Sequence[tuple[object, ...]],
    extra: Sequence[tuple[object, ...]],
) -> None:
    """A row that is gone, made up or changed is told, wherever in the table it is."""
    monkeypatch.setattr(replay, "COMPARED_TOGETHER", together)
    spoil(path, statement)

    assert [Difference("mixed", "mixed", missing, extra)] == list(
        rebuild(told.recorder).differences
    )


def test_a_report_shows_some_of_many_differences(told: Ledger, path: Path) -> None:
    """A table that is all wrong is told without listing all of it."""
    spoil(path, "DELETE FROM mixed")

    (found,) = rebuild(told.recorder).differences

    assert (2 * DIFFERENCES_SHOWN_MAX, 0) == (len(found.missing), len(found.extra))


def test_looking_changes_nothing_and_repairing_puts_it_right(told: Ledger, path: Path) -> None:
    """Differing tables are replaced, and only these; the ledger goes on from there."""
    before = dump(path)
    spoil(
        path,
        "DELETE FROM access_links",
        "UPDATE access_suspensions SET subject = 'user:somebody-else' WHERE position = 3",
        "INSERT INTO mixed_sums VALUES (99, 99)",
    )
    spoiled = dump(path)
    differing = {"access_links", "access_suspensions", "mixed_sums"}

    assert differing == {found.table for found in rebuild(told.recorder).differences}
    assert spoiled == dump(path)
    repaired = rebuild(told.recorder, repair=True)
    assert differing == {found.table for found in repaired.differences}
    assert before == dump(path)
    told.unlink(Subject(type="user", id="u1"), parent=ACME, by=JO)
    assert [] == list(rebuild(told.recorder).differences)


def test_a_repair_that_fails_repairs_nothing(told: Ledger, path: Path) -> None:
    """All differing tables are replaced, or none is."""
    spoil(
        path,
        "DELETE FROM access_links",
        "DELETE FROM mixed",
        "CREATE TRIGGER broken BEFORE INSERT ON mixed BEGIN SELECT raise(ABORT, 'broken'); END",
    )
    spoiled = dump(path)

    with pytest.raises(sqlite3.IntegrityError, match="broken"):
        rebuild(told.recorder, repair=True)

    assert spoiled == dump(path)
