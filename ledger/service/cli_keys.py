"""The commands for keys: ``keys issue | list | revoke | rotate-log``."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from ledger.domain.errors import InvalidValue
from ledger.domain.values import Role, format_instant, parse_instant
from ledger.service.opening import existing, settings_given
from ledger.service.terminal import AsJson, out, print_json, print_table

keys = typer.Typer(help="Issue, list and revoke the keys of operators.", no_args_is_help=True)


def _expiry(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return parse_instant(text)
    except ValueError as error:
        raise InvalidValue(f"--expires-at {error}") from None


@keys.command("issue")
def issue_key(
    operator: Annotated[str, typer.Argument(help="The operator that gets the key.")],
    role: Annotated[
        Role | None, typer.Option(help="Enroll the operator in this role first.")
    ] = None,
    expires_at: Annotated[str | None, typer.Option(help="An RFC 3339 instant.")] = None,
    label: Annotated[str | None, typer.Option(help="What the key is for.")] = None,
    as_json: AsJson = False,
) -> None:
    """Issue a key, straight in the database: for the day the last admin key is lost."""
    from ledger.application import SYSTEM_AUTHOR

    with existing(settings_given()) as service, service.ledger.together():
        if role is not None:
            service.ledger.enroll(operator, role=role, by=SYSTEM_AUTHOR)
        done = service.ledger.issue_key(
            operator, expires_at=_expiry(expires_at), label=label, by=SYSTEM_AUTHOR
        )
    if as_json:
        print_json({"id": done.recorded.event.about, "operator": operator, "key": done.secret})
    else:
        out.print(f"Key {done.recorded.event.about} of {operator}, shown only now:", markup=False)
        out.print(str(done.secret), markup=False)


@keys.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List operators and their keys; never a key itself."""
    with existing(settings_given()) as service, service.reading(newest=True) as (c, _):
        found: list[Any] = service.operators.operators(c, after="", limit=100_000)
        now = service.clock()
    if as_json:
        print_json(found)
        return
    table = Table("operator", "role", "key", "label", "state")
    for operator in found:
        for key in operator["keys"] or [None]:
            described = ("", "", "") if key is None else _describe(key, now)
            table.add_row(operator["id"], operator["role"], *described)
    print_table(table)


def _describe(key: dict[str, Any], now: datetime) -> tuple[str, str, str]:
    state = "usable"
    if key["revoked_at"]:
        state = f"revoked {key['revoked_at'][:16]}"
    elif key["expires_at"]:
        expired = key["expires_at"] <= format_instant(now)
        state = f"{'expired' if expired else 'usable until'} {key['expires_at'][:16]}"
    return key["id"], key["label"] or "", state


@keys.command("revoke")
def revoke_key(
    key: Annotated[str, typer.Argument(help="The id of the key, like key_01…")],
    as_json: AsJson = False,
) -> None:
    """Revoke a key; every serving process refuses it within a second."""
    from ledger.application import SYSTEM_AUTHOR

    with existing(settings_given()) as service:
        done = service.ledger.revoke_key(key, by=SYSTEM_AUTHOR)
    if as_json:
        print_json({"id": key, "position": done.recorded.position})
    else:
        out.print(f"Revoked {key}.", markup=False)


@keys.command("rotate-log")
def rotate_log_key(as_json: AsJson = False) -> None:
    """Give the log a new signing key; what the old one signed stays verifiable."""
    with existing(settings_given()) as service:
        key = service.rotate_log_key()
    if as_json:
        print_json({"log_key": key})
    else:
        out.print(f"The new public key of the log, for those who verify: {key}", markup=False)
