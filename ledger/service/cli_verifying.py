"""The commands about all that is recorded: ``verify``, ``backup``, ``migrate``, ``rebuild`` ….

Exit codes of the first three: 0 all is well; 1 something was tampered with; 2 it could not tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.progress import Progress, TaskID

from ledger.domain.errors import InvalidValue, LedgerError, Unavailable
from ledger.service.cli_reading import KeyFile, key_given
from ledger.service.opening import existing, settings_given
from ledger.service.settings import Settings
from ledger.service.terminal import AsJson, err, out, print_json, print_refusal
from ledger.tlog.note import format_vkey

if TYPE_CHECKING:
    from ledger.service.verification import Report, Trusted
    from ledger.tlog.note import VerifierKey
    from ledger.tlog.policy_file import PolicyFile

FINDINGS_SHOWN_MAX: Final = 20  # a person reads some, and the first is the one that matters
VERDICTS: Final = ("fine", "tampered", "could_not_tell")  # by exit code

verifying = typer.Typer(rich_markup_mode=None)


@verifying.command()
def verify(
    url: Annotated[str | None, typer.Option(help="Verify what a service serves.")] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Verify an archive that export made, offline.")
    ] = None,
    fork: Annotated[
        Path | None, typer.Option(help="Judge evidence of two histories that --evidence wrote.")
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(help="A public key of the log, kept elsewhere; several: again, or a comma."),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A checkpoint of this ledger that was kept.")
    ] = None,
    key_file: KeyFile = None,
    save: Annotated[
        Path | None,
        typer.Option(help="Keep the newest checkpoint in this file, if all is well."),
    ] = None,
    evidence: Annotated[
        Path | None,
        typer.Option(help="Write evidence of two histories to this file, if there are."),
    ] = None,
    witness_policy: Annotated[
        Path | None,
        typer.Option(help="A policy file (C2SP tlog-policy) that names witnesses to believe."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Recompute the whole record and compare it with what was signed.

    Without --url, --bundle and --fork it verifies the database of the settings, projections too.
    Exits with 0 when all is well, 1 when something was tampered with, 2 when it could not tell.
    """
    from ledger.service import verification

    if sum(place is not None for place in (url, bundle, fork)) > 1:
        raise typer.BadParameter("--url, --bundle and --fork exclude each other")
    if fork is not None and witness_policy is not None:
        raise typer.BadParameter("--fork and --witness-policy exclude each other")
    trusted = verification.Trusted(
        _log_keys(key or []), _kept(checkpoint), _witnesses(witness_policy)
    )
    if url is not None and not trusted.keys:
        raise typer.BadParameter("--url needs --key: a service could name any key")
    with _progress(as_json=as_json) as progress:
        if fork is not None:
            report = verification.verify_evidence(fork, trusted)
        elif bundle is not None:
            report = verification.verify_bundle(bundle, trusted, progress=progress)
        elif url is not None:
            report = verification.verify_service(
                url, trusted, api_key=key_given(key_file), progress=progress
            )
        else:
            settings = _settings_to_verify()
            database = settings.database_path or settings.database_url
            if trusted.policy is None:
                trusted = replace(trusted, policy=_witnesses(settings.witness_policy))
            report = verify_stored(database, settings.checkpoint_path, trusted, progress)
    if save is not None and report.code == verification.FINE and report.proven is not None:
        _write(save, report.proven.note)
    if evidence is not None and report.evidence is not None:
        _write(evidence, report.evidence)
    _show(report, as_json=as_json)
    if report.code:
        raise typer.Exit(report.code)


def _log_keys(texts: list[str]) -> tuple[VerifierKey, ...]:
    from ledger.tlog.merkle import LogError
    from ledger.tlog.note import KeyType, parse_vkey

    try:
        found = tuple(parse_vkey(each) for text in texts for each in text.split(","))
    except LogError as error:
        raise typer.BadParameter(f"--key: {error}") from None
    if any(each.type is not KeyType.ED25519 for each in found):
        raise typer.BadParameter("--key: this is the key of a witness, not of a log")
    return found


def _kept(checkpoint: Path | None) -> bytes | None:
    from ledger.service.verification import read_limited
    from ledger.tlog.merkle import LogError
    from ledger.tlog.note import MAX_NOTE_BYTES

    try:
        return None if checkpoint is None else read_limited(checkpoint, MAX_NOTE_BYTES)
    except (OSError, LogError) as error:
        raise typer.BadParameter(f"--checkpoint: {error}") from None


def _witnesses(policy: Path | None) -> PolicyFile | None:
    """Read a policy of witnesses; unlike ours, it need not say where they are."""
    from ledger.service.verification import read_limited
    from ledger.tlog.merkle import LogError
    from ledger.tlog.policy_file import MAX_POLICY_BYTES, parse_policy_file

    if policy is None:
        return None
    try:
        return parse_policy_file(read_limited(policy, MAX_POLICY_BYTES))
    except (OSError, LogError) as error:
        raise typer.BadParameter(f"the witness policy {policy}: {error}") from None


def _settings_to_verify() -> Settings:
    try:
        return settings_given()
    except LedgerError as error:  # an exit with 1 would say that something was tampered with
        raise typer.BadParameter(str(error)) from None


@contextmanager
def _progress(*, as_json: bool) -> Iterator[Callable[[int, int], None]]:
    with Progress(console=err, disable=as_json) as bar:
        task = bar.add_task("verifying", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def verify_stored(
    database: Path | str, checkpoint: Path, trusted: Trusted, progress: Callable[[int, int], None]
) -> Report:
    """Verify a database with its checkpoint file, and its projections when the history is sound.

    It is a file of SQLite, or the URL of a PostgreSQL database.
    """
    from ledger.service.verification import half_copy, verify_database, with_projections
    from ledger.service.wiring import reading_recorder

    half = half_copy(database)
    if half is not None:
        return half
    report = verify_database(database, checkpoint, trusted, progress=progress)
    if not report.events:
        return report
    recorder = reading_recorder(database)
    try:
        return with_projections(report, recorder, progress)
    finally:
        recorder.store.close()


def _show(report: Report, *, as_json: bool, **more: object) -> None:
    proven = report.proven.checkpoint if report.proven else None
    if as_json:
        print_json(
            {
                "verdict": VERDICTS[report.code],
                "events": report.events,
                "checkpoint": proven
                and {"origin": proven.origin, "size": proven.size, "root": proven.root.hex()},
                "findings": [asdict(finding) for finding in report.findings],
                "doubts": report.doubts,
                "remarks": report.remarks,
                "witnesses": report.vouched and asdict(report.vouched),
                **more,
            }
        )
        return
    for finding in report.findings[:FINDINGS_SHOWN_MAX]:
        out.print(f"{finding.kind}: {finding.sentence}", markup=False)
    if report.findings[FINDINGS_SHOWN_MAX:]:
        out.print(f"… and {len(report.findings) - FINDINGS_SHOWN_MAX} more; --json has them all.")
    for line in (*report.doubts, *report.remarks):
        out.print(line, markup=False)
    if proven is not None and report.events:
        out.print(
            f"{report.events} events; the newest checkpoint that fits is of {proven.size}, signed "
            f"by {proven.origin}.",
            markup=False,
        )
    out.print(f"{VERDICTS[report.code].replace('_', ' ').capitalize()}.")


def _write(path: Path, data: bytes) -> None:
    from ledger.store.secret_file import put_file

    try:
        put_file(path, data, 0o644)
    except OSError as error:
        raise Unavailable(f"{path} cannot be written: {error.strerror}") from None


@verifying.command()
def backup(
    folder: Annotated[Path, typer.Argument(help="Where to; a folder that is new or empty.")],
    as_json: AsJson = False,
) -> None:
    """Copy the ledger while it runs, with its checkpoint, and verify the copy.

    Exits as verify does. The log's private keys and the vault key are not copied.
    """
    from ledger.service.backup import back_up
    from ledger.service.verification import Trusted

    settings = settings_given()
    path = settings.database_path
    if path is None:
        raise InvalidValue(
            f"{settings.database} is a PostgreSQL database: copy {settings.checkpoint_path} first, "
            "then the database with pg_basebackup or pg_dump"
        )
    copied = back_up(path, settings.checkpoint_path, folder)
    with _progress(as_json=as_json) as progress:
        report = verify_stored(copied.database, copied.checkpoint, Trusted(), progress)
    if not as_json:
        out.print(f"Copied {path} to {copied.database}.", markup=False)
        if copied.vault is not None:
            out.print(
                f"Copied the vault to {copied.vault}: it has the keys of whoever is erased later, "
                "so it MUST NOT be kept as long as the rest.",
                markup=False,
            )
    _show(report, as_json=as_json)
    if report.code:
        raise typer.Exit(report.code)


@verifying.command()
def migrate(
    source: Annotated[str, typer.Option("--from", help="The URL of the database of the ledger.")],
    target: Annotated[str, typer.Option("--to", help="The URL of the database it is copied to.")],
    as_json: AsJson = False,
) -> None:
    """Copy the ledger into another database, unchanged, and verify both; run again, it goes on.

    Nothing is recorded meanwhile. Exits with 0 when both are fine, 1 when something was tampered
    with, 2 when it could not be copied or verified.
    """
    from ledger.service.migrating import migrate as migrate_ledger

    try:
        old, new = (settings_given(database_url=url) for url in (source, target))
        with _steps(as_json=as_json) as progress:
            migrated = migrate_ledger(old, new, progress=progress)
    except LedgerError as error:
        print_refusal(error)
        raise typer.Exit(2) from None
    report = migrated.report
    if not as_json:
        out.print(
            f"Copied {migrated.copied} events. What was found in {migrated.database}:", markup=False
        )
    _show(report, as_json=as_json, database=migrated.database, copied=migrated.copied)
    if report.code:
        raise typer.Exit(report.code)
    if not as_json:
        out.print(
            f"From now on serve only {new.database}, which LEDGER_DATABASE_URL must name.",
            markup=False,
        )
        for name in ("log_key", "checkpoint", "vault_key"):
            path = getattr(old, f"{name}_path").absolute()
            if path != getattr(new, f"{name}_path").absolute():
                out.print(f"Set LEDGER_{name.upper()}_FILE={path}", markup=False)


@contextmanager
def _steps(*, as_json: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Show how far each step of several is."""
    with Progress(console=err, disable=as_json) as bar:
        tasks: dict[str, TaskID] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=None)
            bar.update(tasks[what], completed=done, total=total)

        yield progress


@verifying.command()
def rebuild(
    as_json: AsJson = False,
    check: Annotated[
        bool, typer.Option("--check", help="Compare only; leave the live rows as they are.")
    ] = False,
) -> None:
    """Rebuild every projection from the events and compare it with what is live.

    Exits with 1 when something differed; without --check the live rows are then replaced.
    """
    from ledger.store.replay import rebuild as rebuild_projections

    with existing(settings_given()) as service, Progress(console=err, disable=as_json) as bar:
        task = bar.add_task("rebuilding", total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        found = rebuild_projections(service.recorder, repair=not check, progress=progress)
    differing = [difference.table for difference in found.differences]
    if as_json:
        print_json(
            {
                "events": found.events,
                "differences": [
                    {
                        "projection": difference.projection,
                        "table": difference.table,
                        "missing": [list(map(str, row)) for row in difference.missing],
                        "extra": [list(map(str, row)) for row in difference.extra],
                    }
                    for difference in found.differences
                ],
                "repaired": bool(differing) and not check,
            }
        )
    elif differing:
        for difference in found.differences:
            out.print(
                f"{difference.table}: {len(difference.missing)} rows missing, "
                f"{len(difference.extra)} rows that no event accounts for"
            )
        out.print("The live rows were replaced." if not check else "Nothing was changed.")
    else:
        out.print(f"{found.events} events; every projection is what they say.")
    if differing:
        raise typer.Exit(1)


@verifying.command()
def recover(
    accept_loss: Annotated[
        bool,
        typer.Option("--accept-loss", help="Say that nobody has the lost events any more."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Go on after events were lost that a signed checkpoint commits to.

    Checks what is there, records what is missing, and gives the log a new key.
    """
    from ledger.service.wiring import build

    settings = settings_given()
    if not accept_loss:
        raise InvalidValue(
            "recovering gives up events for good; put the newest copy of the database back if "
            "there is one, and say --accept-loss if there is none"
        )
    path = settings.database_path
    if path is not None and not path.exists():
        raise InvalidValue(f"{path} does not exist")
    service = build(settings)
    try:
        recorded = service.signer.recover()
        log_key = format_vkey(service.ledger.log_keys()[-1].key)
    finally:
        service.close()
    if as_json:
        print_json(
            {
                "position": recorded.position,
                "log_key": log_key,
                **recorded.event.model_dump(),
            }
        )
        return
    out.print(recorded.sentence, markup=False)
    out.print(f"The new public key of the log: {log_key}", markup=False)
