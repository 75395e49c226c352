"""How do many commands share not only a commit but also the statements before it?

A row that is inserted is read by nobody until something asks for its table. So inserts are held
back, table by table and in their order, and sent together: before any other statement that names
their table, and before the commit. Whoever reads therefore sees what was written, as without this.

A store may send the first of many rows ahead, while what comes after them is being decided.

An insert that the database refuses is refused when it is sent, so nobody can say whose it was: the
transaction fails as a whole, and what shared it is tried again without holding anything back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final

ROWS_TOGETHER: Final = 5_000  # of one table that are held: some megabytes
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

    ``ahead`` may return before it has run one, of ``together`` rows. ``settle`` then returns when
    all of these have run, and raises what one of them was refused with, as often as it is asked.
    """

    def __init__(
        self,
        send: Send,
        *,
        together: int = ROWS_TOGETHER,
        ahead: Send | None = None,
        settle: Callable[[], object] = lambda: None,
    ) -> None:
        self._send = send
        self._together = together
        self._ahead = ahead or send
        self._settle = settle
        self._held: dict[str, list[tuple[str, list[Row]]]] = {}
        self._open: dict[str, list[Row]] = {}
        """The rows of a statement that comes last of what is held for its table."""

    def takes(self, statement: str, values: Row) -> bool:
        """Hold an insert back; return whether it was one. For another, send what it may read."""
        rows = self._open.get(statement)
        if rows is not None and len(rows) < self._together:
            rows.append(values)
            return True
        table, words = _understood(statement)
        if table is None or not values:
            self._settle()
            for held in [each for each in self._held if each in words]:
                self._send_rows(held, self._send)
            return False
        if rows is not None:
            self._send_rows(table, self._ahead)
        inserts = self._held.setdefault(table, [])
        if inserts:
            del self._open[inserts[-1][0]]
        self._open[statement] = [values]
        inserts.append((statement, self._open[statement]))
        return True

    def send(self) -> None:
        """Send everything, each table's rows after those that were held before them."""
        self._settle()
        for table in list(self._held):
            self._send_rows(table, self._send)

    def forget(self) -> None:
        """Send nothing of it: what held it is rolled back."""
        with suppress(Exception):  # what was refused is raised again before the commit
            self._settle()
        self._held.clear()
        self._open.clear()

    def _send_rows(self, table: str, send: Send) -> None:
        # Taken out afterwards: what was refused once is sent, and refused, again before the commit.
        for statement, rows in self._held[table]:
            send(statement, rows)
        del self._open[self._held.pop(table)[-1][0]]
