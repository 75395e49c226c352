"""Inserts that are held back: whoever reads sees what was written, as if each had been sent."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from random import Random

import pytest

from ledger.store.held import ROWS_TOGETHER, HeldInserts, Row
from ledger.store.sqlite import insert

ONE = "INSERT INTO one (id, text) VALUES (?, ?)"
OTHER = "INSERT INTO other (id) VALUES (?)"


class Sent:
    """What was sent, in its order; ``refused`` is a statement that the database refuses."""

    def __init__(self) -> None:
        self.statements: list[tuple[str, list[Row]]] = []
        self.refused: str | None = None
        self.held = HeldInserts(self.send)

    def send(self, statement: str, rows: Sequence[Row]) -> None:
        if statement == self.refused:
            raise sqlite3.IntegrityError(statement)
        self.statements.append((statement, list(rows)))

    def ran(self) -> list[tuple[str, list[Row]]]:
        """Take what was sent since the last look."""
        taken, self.statements = self.statements, []
        return taken


@pytest.fixture
def sent() -> Sent:
    return Sent()


def test_an_insert_is_held_until_it_is_sent(sent: Sent) -> None:
    """Rows of one statement go together, table by table, and once."""
    assert all(sent.held.takes(ONE, (number, "x")) for number in range(3))
    assert sent.held.takes(OTHER, (7,))
    assert [] == sent.ran()

    sent.held.send()
    assert [(ONE, [(0, "x"), (1, "x"), (2, "x")]), (OTHER, [(7,)])] == sent.ran()
    sent.held.send()
    assert [] == sent.ran()


@pytest.mark.parametrize(
    "reading",
    [
        "SELECT count(*) FROM one",
        "UPDATE one SET text = ?",
        "DELETE FROM one WHERE id = ?",
        "INSERT INTO third SELECT id FROM one",
        "INSERT INTO third (id) VALUES (?) RETURNING (SELECT max(id) FROM one)",
        "SELECT 1 FROM main.one",
        "WITH found AS (SELECT * FROM one) SELECT * FROM found",
    ],
)
def test_a_statement_that_names_a_table_finds_its_rows(sent: Sent, reading: str) -> None:
    """They are sent before it runs; those of a table that it does not name wait on."""
    sent.held.takes(OTHER, (7,))
    sent.held.takes(ONE, (1, "x"))

    assert not sent.held.takes(reading, (1,))
    assert [(ONE, [(1, "x")])] == sent.ran()


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO one SELECT id, text FROM other",
        "INSERT INTO one (id) VALUES (?)\nRETURNING id",
        "INSERT OR REPLACE INTO one (id) VALUES (?)",
        "insert into one (id) VALUES (?)",
        "SELECT 1",
    ],
)
def test_what_reads_or_is_no_plain_insert_is_not_held(sent: Sent, statement: str) -> None:
    """An insert that reads, answers or replaces runs in its turn."""
    assert not sent.held.takes(statement, (1,))


def test_an_insert_without_values_is_not_held(sent: Sent) -> None:
    """There is no row to send it with, and it comes after those before it."""
    sent.held.takes(ONE, (1, "x"))

    assert not sent.held.takes("INSERT INTO one DEFAULT VALUES", ())
    assert [(ONE, [(1, "x")])] == sent.ran()


def test_a_schema_before_the_name_is_the_same_table(sent: Sent) -> None:
    """Rows of one table keep their order, whatever the statement calls it."""
    qualified = ONE.replace("one", "main.one")
    sent.held.takes(ONE, (1, "x"))
    sent.held.takes(qualified, (2, "x"))
    sent.held.takes(ONE, (3, "x"))

    assert not sent.held.takes("SELECT * FROM one", ())
    assert [
        (ONE, [(1, "x")]),
        (qualified, [(2, "x")]),
        (ONE, [(3, "x")]),
    ] == sent.ran()


def test_the_fullest_table_is_sent_when_much_is_held(sent: Sent) -> None:
    """What is kept in memory does not grow with what is written."""
    for number in range(ROWS_TOGETHER - 2):
        sent.held.takes(ONE, (number, "x"))
    sent.held.takes(OTHER, (7,))
    assert [] == sent.ran()
    sent.held.takes(OTHER, (8,))

    ((statement, rows),) = sent.ran()
    assert (ONE, ROWS_TOGETHER - 2) == (statement, len(rows))
    sent.held.send()
    assert [(OTHER, [(7,), (8,)])] == sent.ran()


def test_the_first_rows_are_sent_while_the_next_are_decided(sent: Sent) -> None:
    """Whoever waits for a server has it insert meanwhile."""
    sent.held = HeldInserts(sent.send, between=3)
    for number in range(4):
        sent.held.takes(ONE, (number, "x"))
    assert [(ONE, [(0, "x"), (1, "x"), (2, "x")])] == sent.ran()

    for number in range(2):
        sent.held.takes(OTHER, (number,))
    assert [(OTHER, [(0,), (1,)])] == sent.ran()
    sent.held.send()
    assert [(ONE, [(3, "x")])] == sent.ran()


def test_nothing_is_sent_of_what_is_forgotten(sent: Sent) -> None:
    """What is rolled back was never there."""
    sent.held.takes(ONE, (1, "x"))
    sent.held.forget()

    sent.held.send()
    assert [] == sent.ran()


def test_what_was_refused_is_refused_again_before_the_commit(sent: Sent) -> None:
    """Nobody can commit around it, whoever swallowed the first refusal."""
    sent.held.takes(ONE, (1, "x"))
    sent.refused = ONE
    with pytest.raises(sqlite3.IntegrityError):
        sent.held.takes("SELECT * FROM one", ())

    with pytest.raises(sqlite3.IntegrityError):
        sent.held.send()
    assert [] == sent.ran()


@pytest.fixture
def databases() -> Iterator[tuple[sqlite3.Connection, sqlite3.Connection]]:
    """Two empty databases with the same two tables."""
    pair = (sqlite3.connect(":memory:"), sqlite3.connect(":memory:"))
    for each in pair:
        each.execute("CREATE TABLE one (id INTEGER, text TEXT)")
        each.execute("CREATE TABLE other (id INTEGER)")
    yield pair
    for each in pair:
        each.close()


def test_held_or_not_the_same_is_read(
    databases: tuple[sqlite3.Connection, sqlite3.Connection],
) -> None:
    """Whatever is inserted, changed and read in whatever order, both ways answer the same."""
    plain, holding = databases
    held = HeldInserts(lambda statement, rows: insert(holding, statement, rows))
    random = Random("held")
    statements = [
        *[(ONE, 2), (OTHER, 1)] * 4,
        ("UPDATE one SET text = text || ?", 1),
        ("DELETE FROM other WHERE id = ?", 1),
        ("INSERT INTO other SELECT id FROM one WHERE id < ?", 1),
        ("SELECT count(*), max(text) FROM one WHERE id > ?", 1),
        ("SELECT group_concat(id) FROM other WHERE id <> ?", 1),
    ]
    for _ in range(2_000):
        statement, count = random.choice(statements)
        values = tuple(random.randint(0, 9) for _ in range(count))
        due = plain.execute(statement, values).fetchall()
        if not held.takes(statement, values):
            assert due == holding.execute(statement, values).fetchall()
    held.send()

    for table in ("one", "other"):
        everything = f"SELECT rowid, * FROM {table}"
        assert plain.execute(everything).fetchall() == holding.execute(everything).fetchall()
