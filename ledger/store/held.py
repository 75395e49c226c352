"""How do many commands share not only a commit but also the statements before it?

A row that is inserted is read by nobody until something asks for its table. So inserts are held
back, table by table and in their order, and sent together: before any other statement that names
their table, and before the commit. Whoever reads therefore sees what was written, as without this.

The first of many rows are sent before, so that a server inserts while the next are decided.

An insert that the database refuses is refused when it is sent, so nobody can say whose it was: the
transaction fails as a whole, and what shared it is tried again without holding anything back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final

ROWS_TOGETHER: Final = 5_000  # taken between two sends, each of the fullest table: some megabytes
_INSERT: Final = re.compile(
    r"INSERT INTO (?:\w+\.)?(\w+)\b(?!.*\b(?:SELECT|RETURNING)\b)", re.DOTALL
)
_WORDS: Final = re.compile(r"\w+")

Row = Sequence[Any]
Send = Callable[[str, Sequence[Row]], None]


@lru_cache(10_000)
def _understood(statement: str) -> tuple[str | None, frozenset[str]]:
    """Return the table of an insert that can be held back, and every word of the statement."""
    insert = _INSERT.match(statement)
    return insert[1] if insert else None, frozenset(_WORDS.findall(statement))


class HeldInserts:
    """The inserts of one transaction that are not sent yet; ``send`` runs one with many rows.

    After every ``between`` rows those of the fullest table are sent.
    """

    def __init__(self, send: Send, *, between: int = ROWS_TOGETHER) -> None:
        self._send = send
        self._between = between
        self._taken = 0
        self._held: dict[str, list[tuple[str, list[Row]]]] = {}
        self._open: dict[str, list[Row]] = {}
        """The rows of a statement that comes last of what is held for its table."""

    def takes(self, statement: str, values: Row) -> bool:
        """Hold an insert back; return whether it was one. For another, send what it may read."""
        rows = self._open.get(statement)
        if rows is None:
            table, words = _understood(statement)
            if table is None or not values:
                for held in [each for each in self._held if each in words]:
                    self._send_rows(held)
                return False
            inserts = self._held.setdefault(table, [])
            if inserts:
                del self._open[inserts[-1][0]]
            self._open[statement] = rows = []
            inserts.append((statement, rows))
        rows.append(values)
        self._taken += 1
        if self._taken == self._between:
            self._taken = 0
            self._send_rows(max(self._held, key=self._rows_of))
        return True

    def _rows_of(self, table: str) -> int:
        return sum(len(rows) for _, rows in self._held[table])

    def send(self) -> None:
        """Send everything, each table's rows after those that were held before them."""
        for table in list(self._held):
            self._send_rows(table)

    def forget(self) -> None:
        """Send nothing of it: what held it is rolled back."""
        self._held.clear()
        self._open.clear()

    def _send_rows(self, table: str) -> None:
        # Taken out afterwards: what was refused once is sent, and refused, again before the commit.
        for statement, rows in self._held[table]:
            self._send(statement, rows)
        del self._open[self._held.pop(table)[-1][0]]
