"""What does a command print, and where? Tables and sentences for people, JSON for programs."""

from __future__ import annotations

from typing import Annotated, Final

import orjson
import typer
from rich.console import Console
from rich.table import Table

TABLE_WIDTH_MIN: Final = 160  # characters; in a narrower one ids would be cut

# Without emoji, or "type:id: must" would be printed as "type🆔 must".
out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


def print_json(value: object) -> None:
    """Print a value as one line of JSON."""
    typer.echo(orjson.dumps(value).decode())


def print_table(table: Table) -> None:
    """Print a table, as wide as its ids want it."""
    out.width = max(out.width, TABLE_WIDTH_MIN)
    out.print(table)
