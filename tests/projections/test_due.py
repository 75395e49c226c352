"""What falls due is asked for once a second, so it must cost nothing when nothing does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ledger.application import Ledger
from projections.access import AccessRows
from tests.conftest import T0, on_each_store


@on_each_store
def test_what_falls_due_is_read_from_an_index_in_its_order(ledger: Ledger) -> None:
    """Nothing is sorted: the server would expect much of what is due, and sort it in parallel."""
    sqlite = ledger.recorder.store.dialect == "sqlite"
    plan: list[str] = []

    class Explaining:
        """Asks how a statement would run, and runs it."""

        def __init__(self, cursor: Any) -> None:
            self.cursor = cursor

        def execute(self, statement: str, params: Sequence[object]) -> None:
            self.cursor.execute(f"EXPLAIN {'QUERY PLAN ' * sqlite}{statement}", params)
            plan.extend(row[3 if sqlite else 0] for row in self.cursor.fetchall())
            self.cursor.execute(statement, params)

        def fetchall(self) -> Any:
            return self.cursor.fetchall()

    with ledger.recorder.store.transaction(commit=False) as c:
        if not sqlite:  # an empty table is quicker to read
            c.execute("SET LOCAL enable_seqscan = off")
            c.execute("SET LOCAL enable_bitmapscan = off")
        explaining: Any = Explaining(c)
        assert [] == AccessRows().due(explaining, T0, 500)

    assert any("access_terms_due" in step for step in plan), plan
    assert [] == [step for step in plan if "Sort" in step or "TEMP" in step]
