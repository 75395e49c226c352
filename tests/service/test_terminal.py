"""Tables are readable in a terminal of any width, and whole where a program reads."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console
from rich.table import Table

from ledger.service import terminal

ID = "sus_01m5yctv80wa31ker5ak290x64"
REASON = "You wrote in the name of a mayor without her knowledge, and then once more."


def printed(monkeypatch: pytest.MonkeyPatch, width: int, *, is_terminal: bool = True) -> str:
    """What a table of a suspension looks like there."""
    file = StringIO()
    out = Console(
        file=file, width=width, force_terminal=is_terminal, color_system=None, soft_wrap=True
    )
    monkeypatch.setattr(terminal, "out", out)
    table = Table(title="suspensions")
    for head in ("id", "of", "reason"):
        table.add_column(head)
    table.add_row(ID, "organization:northwind-media", REASON)
    terminal.print_table(table)
    return file.getvalue()


@pytest.mark.parametrize("width", [40, 80, 97, 98, 120, 200])
def test_no_line_is_wider_than_the_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """And no id is broken: where the table does not fit, each member has a line of its own."""
    text = printed(monkeypatch, width)

    assert width >= max(map(len, text.splitlines()))
    assert ID in text
    assert ("│" in text) == (width >= 98)
    assert "more." in text


def test_a_table_that_no_person_reads_is_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that its lines can be searched, whatever the width of nothing is."""
    assert f"{ID} │ organization:northwind-media │ {REASON}" in printed(
        monkeypatch, 80, is_terminal=False
    )
