"""The command line: ``compliance-ledger init | serve | verify | export …``, all of it together.

Exit codes: 0 done; 1 the ledger refused or something differs; 2 the command line is wrong, or
``verify`` could not tell.
"""

from __future__ import annotations

import typer
from pydantic import ValidationError

from ledger.domain.errors import LedgerError
from ledger.service.cli_keys import keys
from ledger.service.cli_moving import moving
from ledger.service.cli_reading import reading
from ledger.service.cli_serving import serving
from ledger.service.cli_verifying import verifying
from ledger.service.cli_witness import witness
from ledger.service.opening import place_of, words_of
from ledger.service.terminal import err, print_refusal

app = typer.Typer(
    name="compliance-ledger",
    help="Who may use which AI model, why not, who decided it, and a record nobody can edit.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for commands in (serving, reading, moving, verifying):
    app.add_typer(commands)
app.add_typer(keys, name="keys")
app.add_typer(witness, name="witness")


def main() -> None:
    """Run the command line; a refusal is one sentence and a hint, not a traceback."""
    try:
        app()
    except LedgerError as error:
        print_refusal(error)
        raise SystemExit(1) from None
    except ValidationError as error:
        # A value from the command line that a fact cannot hold: an empty label, say.
        for fault in error.errors():
            err.print(f"compliance-ledger: {place_of(fault)}: {words_of(fault)}", markup=False)
        raise SystemExit(1) from None
