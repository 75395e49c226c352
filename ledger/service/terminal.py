"""What does a command print, and where? Tables and sentences for people, JSON for programs."""

from __future__ import annotations

from typing import Annotated, Final

import orjson
import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from ledger.domain.errors import LedgerError, Unavailable

TABLE_WIDTH_MIN: Final = 160  # characters where no terminal says; in fewer, ids would be cut
TEXT_WIDTH_MIN: Final = 24  # characters of the widest column; in fewer, sentences are hard to read

# Without emoji, or "type:id: must" would be printed as "type🆔 must".
out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


def print_json(value: object) -> None:
    """Print a value as one line of JSON."""
    typer.echo(orjson.dumps(value).decode())


def print_refusal(error: LedgerError) -> None:
    """Print to the errors what the ledger refused, and how to mend it."""
    err.print(f"compliance-ledger: {error}", markup=False)
    if error.hint and error.hint != Unavailable.hint:  # that one speaks of an HTTP header
        err.print(error.hint, markup=False)


def print_table(table: Table) -> None:
    """Print a table; on a terminal that is too narrow for it, each row as lines of its own."""
    if not out.is_terminal:
        out.width = max(out.width, TABLE_WIDTH_MIN)
    elif _width_needed(table) > out.width:
        _print_rows(table)
        return
    out.print(table)


def _width_needed(table: Table) -> int:
    """Return in how many characters a table fits when only its widest column is broken."""
    *others, widest = sorted(
        max(cell_len(str(cell)) for cell in (column.header, *column.cells))
        for column in table.columns
    )
    # A column is only made narrower than the next widest together with that one.
    broken = min(widest, max([TEXT_WIDTH_MIN, *others[-1:]]))
    borders = 3 * len(table.columns) + 1
    return sum(others) + broken + borders


def _print_rows(table: Table) -> None:
    if table.title:
        out.print(table.title, style="italic")
    for row in zip(*(column.cells for column in table.columns), strict=True):
        lines = Table.grid(padding=(0, 2))
        lines.add_column(style="bold", no_wrap=True)
        lines.add_column(overflow="fold")
        for column, cell in zip(table.columns, row, strict=True):
            lines.add_row(column.header, cell)
        out.print(lines, soft_wrap=False)
        out.print()
