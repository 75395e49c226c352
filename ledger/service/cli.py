"""The command line: ``compliance-ledger init | serve | demo | rebuild | verify | export …``.

Exit codes: 0 done; 1 the ledger refused or something differs; 2 the command line is wrong, or
``verify`` could not tell.
"""

from __future__ import annotations

import gc
import ipaddress
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Final

import orjson
import typer
from pydantic import ValidationError
from rich.progress import Progress, TaskID
from rich.table import Table
from rich.text import Text

from ledger.domain.errors import (
    InvalidValue,
    LedgerError,
    NotFound,
    TamperDetected,
    Unavailable,
)
from ledger.domain.values import Role, format_instant, parse_instant
from ledger.service.cli_reading import (
    ByOperator,
    KeyFile,
    OfCategory,
    OfClause,
    OfPolicy,
    OfResource,
    OfSubject,
    OfSubjectType,
    OfTypes,
    OnBehalfOf,
    RecordedFrom,
    RecordedTo,
    Words,
    key_given,
    key_needed,
    reading,
)
from ledger.service.opening import existing, place_of, settings_given, words_of
from ledger.service.settings import METRICS_FOLDER_VARIABLE, Settings, is_postgresql
from ledger.service.terminal import AsJson, err, out, print_json, print_table
from ledger.tlog.note import format_vkey

if TYPE_CHECKING:
    from ledger.service.verification import Report, Trusted
    from ledger.service.witness import Evidence, Witness
    from ledger.tlog.note import VerifierKey
    from ledger.tlog.policy_file import PolicyFile

DEMO_FOLDER: Final = Path("var/demo")
FIRST_OPERATOR: Final = "admin"
METRICS_HOST: Final = "127.0.0.1"  # the metrics port asks for no key, so it is for this host only
KEEP_ALIVE_S: Final = 75  # longer than the idle time of common proxies, so that they close first
SWITCH_INTERVAL_S: Final = 0.001  # a tenth of a write; shorter ones cost more than they give
FILES_OPEN_MAX: Final = 65_536  # each stream and connection is one; often 1,024 are allowed
# Objects made between two rounds of the collector. With the usual 700 its rounds are a sixth of an
# import, because what a batch holds is in use; while serving, a round may take a millisecond.
IMPORT_ALLOCATIONS: Final = 50_000
SERVE_ALLOCATIONS: Final = 10_000
WITNESS_DRAIN_S: Final = 30  # how long open requests may take once a witness is told to stop
FINDINGS_SHOWN_MAX: Final = 20  # a person reads some, and the first is the one that matters
VERDICTS: Final = ("fine", "tampered", "could_not_tell")  # by exit code

app = typer.Typer(
    name="compliance-ledger",
    help="Who may use which AI model, why not, who decided it, and a record nobody can edit.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
keys = typer.Typer(help="Issue, list and revoke the keys of operators.", no_args_is_help=True)
app.add_typer(keys, name="keys")
witness = typer.Typer(
    help="Watch other ledgers, so that they cannot show two histories.", no_args_is_help=True
)
app.add_typer(witness, name="witness")
app.add_typer(reading)

Host = Annotated[str, typer.Option(help="The address to listen on.")]
Port = Annotated[
    int, typer.Option(min=0, max=65535, help="The port to listen on; 0: any free one.")
]


def main() -> None:
    """Run the command line; a refusal is one sentence and a hint, not a traceback."""
    try:
        app()
    except LedgerError as error:
        _print_refusal(error)
        raise SystemExit(1) from None
    except ValidationError as error:
        # A value from the command line that a fact cannot hold: an empty label, say.
        for fault in error.errors():
            err.print(f"compliance-ledger: {place_of(fault)}: {words_of(fault)}", markup=False)
        raise SystemExit(1) from None


def _print_refusal(error: LedgerError) -> None:
    err.print(f"compliance-ledger: {error}", markup=False)
    if error.hint and error.hint != Unavailable.hint:  # that one speaks of an HTTP header
        err.print(error.hint, markup=False)


# --- init and serve -------------------------------------------------------------------------------


@app.command()
def init(as_json: AsJson = False) -> None:
    """Make the database and the vault key, open the ledger, and print the first admin key, once."""
    settings = settings_given()
    if settings.database_path is None:
        _apply_schema(settings)
    key, log_key = _open_ledger(settings)
    path = settings.database_path
    database = settings.database if path is None else str(path.absolute())
    if as_json:
        print_json(
            {
                "database": database,
                "origin": settings.origin,
                "admin_key": key,
                "log_key": log_key,
                "vault_key_file": str(settings.vault_key_path.absolute()),
            }
        )
        return
    out.print(f"Opened the ledger {settings.origin} in {database}.", markup=False)
    out.print(f"The admin key, shown only now: {key}", markup=False)
    out.print(f"The public key of its log, for those who verify: {log_key}", markup=False)
    out.print(f"The private key is in {settings.log_key_path}; keep a copy elsewhere.")
    out.print(f"Keep a copy of {settings.vault_key_path.absolute()}, apart from the database.")
    out.print("Next: compliance-ledger serve")


def _apply_schema(settings: Settings) -> None:
    from ledger.service.wiring import schema_script
    from ledger.store.postgres import PostgresDatastore

    store = PostgresDatastore(settings.database_url)
    try:
        store.apply_schema(schema_script())
    finally:
        store.close()


@app.command()
def schema(
    sql: Annotated[bool, typer.Option("--sql", help="Print it as SQL for psql.")] = False,
) -> None:
    """Print what an owner runs on PostgreSQL: tables, triggers, roles and their rights."""
    from ledger.service.wiring import schema_script

    if not sql:
        raise typer.BadParameter("say --sql; there is no other form")
    typer.echo(schema_script(), nl=False)


def _open_ledger(settings: Settings) -> tuple[str, str]:
    from ledger.application import SYSTEM_AUTHOR
    from ledger.service.wiring import build

    service = build(settings)
    try:
        with service.ledger.together():
            log_key = service.open()
            service.ledger.enroll(FIRST_OPERATOR, role=Role.ADMIN, by=SYSTEM_AUTHOR)
            done = service.ledger.issue_key(FIRST_OPERATOR, label="the first key", by=SYSTEM_AUTHOR)
    finally:
        service.close()
    assert done.secret is not None
    return done.secret, log_key


@app.command()
def serve(
    host: Host = "127.0.0.1",
    port: Port = 8080,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that serve.")] = 1,
) -> None:
    """Serve the ledger over HTTP."""
    settings = settings_given()
    _check_host(host)
    with existing(settings) as service:
        service.require_modest_role()  # a refusal is read better here than from each worker
    with _listening(host, port) as (listening, url):
        out.print(f"Serving on {url}; end it with Ctrl-C.", markup=False)
        _serve(listening, workers)


def _check_host(host: str) -> None:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if host != "localhost":
            raise InvalidValue(f"--host {host!r} is no address; use 127.0.0.1 or 0.0.0.0") from None


@contextmanager
def _listening(host: str, port: int) -> Iterator[tuple[socket.socket, str]]:
    """Bind the socket that every serving process listens on; yields it with its URL."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, port))
        except OSError as error:
            raise Unavailable(f"cannot listen on {host} port {port}: {error.strerror}") from None
        shown = f"[{host}]" if ":" in host else host
        yield bound, f"http://{shown}:{bound.getsockname()[1]}"


def _serve(listening: socket.socket, workers: int) -> None:
    """Serve on a socket, and on the port of the metrics if there is to be one."""
    port = settings_given().metrics_port
    with _metrics_folder(), ExitStack() as stack:
        sockets = [listening]
        if port is not None:
            sockets.append(stack.enter_context(_listening(METRICS_HOST, port))[0])
        _run_server(sockets, workers)


@contextmanager
def _metrics_folder() -> Iterator[None]:
    """Name a new folder in which all serving processes count together.

    The metrics library looks for it once, when it is imported: so this comes before.
    """
    try:
        folder = TemporaryDirectory(prefix="ledger-metrics-", ignore_cleanup_errors=True)
    except OSError as error:
        raise Unavailable(
            f"no folder for the metrics can be made: {error.strerror}; TMPDIR may name a place"
        ) from None
    with folder as name:
        os.environ[METRICS_FOLDER_VARIABLE] = name
        yield


def _run_server(sockets: list[socket.socket], workers: int) -> None:
    import uvicorn
    from uvicorn.config import STARTUP_FAILURE
    from uvicorn.supervisors import Multiprocess

    from ledger.service import logs
    from ledger.service.http.protocol import CheckProtocol

    settings = settings_given()
    logs.configure(settings.log_format)
    _allow_many_files()
    config = uvicorn.Config(
        "ledger.service.cli:asgi",
        factory=True,
        interface="asgi3",
        workers=workers,
        loop="uvloop",
        http=CheckProtocol if settings.check_protocol else "httptools",
        ws="none",
        lifespan="on",
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        log_config=None,
    )
    if workers > 1:
        for each in sockets:
            each.set_inheritable(True)
        supervisor = Multiprocess(config, sockets=sockets)
        supervisor.run()
        started = all(worker.exitcode != STARTUP_FAILURE for worker in supervisor.processes)
    else:
        server = uvicorn.Server(config)
        for number in (signal.SIGINT, signal.SIGTERM):
            # The server stops at the first signal and raises it again at its end. All is done then.
            signal.signal(number, lambda *_: None)
        server.run(sockets=sockets)
        started = server.started
    if not started:
        raise typer.Exit(1)


def _allow_many_files() -> None:
    """Raise the limit of open files to what this process may have, as far as it is of use."""
    import resource

    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_OPEN_MAX if most == resource.RLIM_INFINITY else min(FILES_OPEN_MAX, most)
    if now != resource.RLIM_INFINITY and now < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def asgi() -> Any:
    """Build the application from the settings of the environment, in each serving process.

    It is returned as a bound method, which is called in less time than an object.
    """
    import multiprocessing
    import threading

    from ledger.service import logs
    from ledger.service.http.app import create_app
    from ledger.service.wiring import build

    settings = settings_given()
    logs.configure(settings.log_format)
    application = create_app(build(settings))
    # What is there by now stays for ever. Left to the collector, each of its full rounds would look
    # at all of it, and hold up every check meanwhile for a tenth of a second.
    gc.collect()
    gc.freeze()
    gc.set_threshold(SERVE_ALLOCATIONS)
    # The thread that writes gives way to the checks sooner than after the usual 5 ms.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    parent = multiprocessing.parent_process()
    if parent is not None:

        def end_with_parent() -> None:
            # Killed, the process that started this one can neither stop nor replace it any more.
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=end_with_parent, name="parent", daemon=True).start()
    return application.__call__


@app.command()
def demo(host: Host = "127.0.0.1", port: Port = 8080) -> None:
    """Open a throw-away ledger under var/demo, tell the founding story in it, and serve it."""
    from ledger.service.story import tell

    _check_host(host)
    with _listening(host, port) as (listening, url):
        shutil.rmtree(DEMO_FOLDER, ignore_errors=True)
        if not is_postgresql(os.environ.get("LEDGER_DATABASE_URL", "")):
            os.environ["LEDGER_DATABASE_URL"] = f"sqlite:///{DEMO_FOLDER / 'ledger.db'}"
        os.environ["LEDGER_ORIGIN"] = "demo.localhost"
        os.environ["LEDGER_LOG_KEY_FILE"] = str(DEMO_FOLDER / "ledger.log-key")
        os.environ["LEDGER_CHECKPOINT_FILE"] = str(DEMO_FOLDER / "ledger.checkpoint")
        os.environ["LEDGER_VAULT_KEY_FILE"] = str(DEMO_FOLDER / "ledger.vault-key")
        os.environ["LEDGER_FILES"] = str(DEMO_FOLDER)
        os.environ["LEDGER_ALLOW_OWNER"] = "true"
        told = tell(settings_given())
        out.print("The founding story is told. The keys of this throw-away ledger:", markup=False)
        for role, key in told.keys.items():
            out.print(f"  {role:<9} {key}", markup=False)
        (DEMO_FOLDER / "keys.json").touch(mode=0o600)
        (DEMO_FOLDER / "keys.json").write_bytes(orjson.dumps(told.keys))
        out.print("\nTry:", markup=False)
        for line in told.examples(url):
            out.print(f"  {line}\n", markup=False)
        out.print(
            f"An auditor's desk: {url}/console; sign in with the key of the auditor.\n",
            markup=False,
        )
        out.print(f"Serving on {url}; end it with Ctrl-C.", markup=False)
        _serve(listening, 1)


# --- rebuild --------------------------------------------------------------------------------------


@app.command()
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


# --- recover --------------------------------------------------------------------------------------


@app.command()
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


# --- verify, export, backup -----------------------------------------------------------------------


@app.command()
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
    with _verifying(as_json=as_json) as progress:
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
def _verifying(*, as_json: bool) -> Iterator[Callable[[int, int], None]]:
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


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="Commands, one a line, as POST /v1/batch takes.")],
    key_file: KeyFile = None,
    url: Annotated[str | None, typer.Option(help="Send them to this service.")] = None,
    as_json: AsJson = False,
) -> None:
    """Record the commands of a file. Run it again after a stop: nothing is recorded twice.

    Without --url they are recorded in the database of the settings, by this process.
    """
    import asyncio

    from ledger.service.importing import Imported, import_file, importer_of
    from ledger.service.wiring import build

    if not file.is_file():
        raise InvalidValue(f"{file} is no file")
    key = key_needed(key_file, "who records them")
    settings = settings_given()
    path = settings.database_path
    if url is None and path is not None and not path.exists():
        raise InvalidValue(f"{path} does not exist; run compliance-ledger init first")
    service = build(settings) if url is None else None
    # One thread reads lines, one writes: at each statement of its own that one lets go of the
    # interpreter, and would wait so long to have it back.
    sys.setswitchinterval(SWITCH_INTERVAL_S / 10)
    gc.freeze()
    gc.set_threshold(IMPORT_ALLOCATIONS)

    async def run(advance: Callable[[int], None]) -> Imported:
        async with importer_of(url or "", key, service) as importer:
            return await import_file(importer, file, progress=advance)

    with Progress(console=err, disable=as_json) as bar:
        task = bar.add_task("importing", total=file.stat().st_size)
        imported = asyncio.run(run(lambda sent: bar.update(task, advance=sent)))
    if as_json:
        print_json(asdict(imported))
    else:
        for answer in imported.refused[:FINDINGS_SHOWN_MAX]:
            err.print(f"line {answer['line']}: {answer['problem']['detail']}", markup=False)
        out.print(
            f"{imported.done} lines are recorded, {imported.refused_count} were refused; "
            f"the newest is event {imported.position}.",
            markup=False,
        )
    if imported.refused_count:
        raise typer.Exit(1)


@app.command()
def export(
    bundle: Annotated[
        Path | None, typer.Option(help="Write the whole record to this archive, to be verified.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write a list to this file, and its manifest beside it.")
    ] = None,
    view: Annotated[str, typer.Option(help="Which list.")] = "events",
    form: Annotated[str, typer.Option("--format", help="The form of the file.")] = "ndjson",
    filters: Annotated[
        list[str] | None,
        typer.Option("--filter", help="NAME=VALUE, a parameter of the list; may be repeated."),
    ] = None,
    key_file: KeyFile = None,
    url: Annotated[str | None, typer.Option(help="Ask this service for the list.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a list to a file, or the whole record to an archive that anybody can verify.

    Without --url a list is read from the database of the settings, by this process.
    """
    if (bundle is None) == (output is None):
        raise typer.BadParameter("say either --bundle or --output")
    if bundle is not None:
        _export_bundle(bundle, as_json=as_json)
    elif output is not None:
        _export_list(output, view, form, filters or [], key_file, url, as_json=as_json)


def _export_list(
    path: Path,
    view: str,
    form: str,
    filters: list[str],
    key_file: Path | None,
    url: str | None,
    *,
    as_json: bool,
) -> None:
    import asyncio

    from ledger.service.exporting import export_file, exporting_client
    from ledger.service.exports import VIEWS, formats_of
    from ledger.service.wiring import build

    if view not in VIEWS:
        raise typer.BadParameter(f"--view {view} is none of {', '.join(VIEWS)}")
    if form not in formats_of(VIEWS[view]):
        raise typer.BadParameter(
            f"--format {form} is none of {', '.join(formats_of(VIEWS[view]))}, "
            f"which {view} can be exported in"
        )
    key = key_needed(key_file, "who takes the list with them")
    parameters = []
    for each in filters:
        name, equals, value = each.partition("=")
        if not equals:
            raise typer.BadParameter(f"--filter {each!r} is not NAME=VALUE")
        parameters.append((name, value))
    settings = settings_given()
    database = settings.database_path
    if url is None and database is not None and not database.exists():
        raise InvalidValue(f"{database} does not exist; run compliance-ledger init first")
    service = build(settings) if url is None else None

    async def run(progress: Callable[[int], None]) -> dict[str, Any]:
        async with exporting_client(url or "", key, service) as client:
            return await export_file(
                client, path, view=view, format=form, parameters=parameters, progress=progress
            )

    with Progress(console=err, disable=as_json) as bar:
        task = bar.add_task("exporting", total=None)
        manifest = asyncio.run(run(lambda came: bar.update(task, advance=came)))
    if as_json:
        print_json({"output": str(path), **manifest})
    else:
        out.print(
            f"Wrote {manifest['count']} {view} as known at position {manifest['position']} to "
            f"{path}, and what they are to {path.name}.manifest.json.",
            markup=False,
        )


def _export_bundle(bundle: Path, *, as_json: bool) -> None:
    from ledger.service.bundle import Contents, write_bundle
    from ledger.tlog.checkpoint import parse_checkpoint
    from ledger.tlog.merkle import LogError
    from ledger.tlog.note import parse_note
    from ledger.tlog.tiles import Tile

    with existing(settings_given()) as service, service.reading(newest=True) as (c, _):
        note = service.log.newest_checkpoint(c)
        if note is None:
            raise InvalidValue("nothing was signed yet; start the service, which signs")

        def read(tile: Tile) -> bytes:
            return service.log.bundle(c, tile) if tile.level is None else service.log.tile(c, tile)

        try:
            signed = parse_checkpoint(parse_note(note).text)
            log_keys = service.ledger.log_keys()
            contents = Contents(
                signed.origin,
                signed.size,
                note,
                tuple(each for each in log_keys if each.first_size <= signed.size),
                read,
            )
            with Progress(console=err, disable=as_json) as bar:
                task = bar.add_task("exporting", total=signed.size)
                write_bundle(
                    bundle, contents, progress=lambda done: bar.update(task, completed=done)
                )
        except LogError as error:
            raise TamperDetected(f"{error}; run compliance-ledger verify") from None
    if as_json:
        print_json({"bundle": str(bundle), "origin": signed.origin, "size": signed.size})
    else:
        out.print(f"Wrote {signed.size} events of {signed.origin} to {bundle}.", markup=False)


@app.command()
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
    with _verifying(as_json=as_json) as progress:
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


# --- tail -----------------------------------------------------------------------------------------


@app.command()
def tail(
    url: Annotated[str | None, typer.Option(help="Follow what this service records.")] = None,
    key_file: KeyFile = None,
    since: Annotated[
        int | None,
        typer.Option(min=0, max=2**53, help="Begin after this position; from now on when absent."),
    ] = None,
    subject: OfSubject = None,
    types: OfTypes = None,
    subject_type: OfSubjectType = None,
    operator: ByOperator = None,
    on_behalf_of: OnBehalfOf = None,
    policy: OfPolicy = None,
    clause: OfClause = None,
    category: OfCategory = None,
    resource: OfResource = None,
    words: Words = None,
    recorded_from: RecordedFrom = None,
    recorded_to: RecordedTo = None,
    as_json: AsJson = False,
) -> None:
    """Show events as they are recorded, one a line, until Ctrl-C.

    Without --url it follows the database of the settings. A service that goes away is asked again.
    """
    from ledger.service.tailing import from_database, from_service, trail_filters

    # Started by a script in the background, a process is told to ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parameters = {
        "subject": subject,
        "type": types,
        "subject_type": subject_type,
        "operator": operator,
        "on_behalf_of": on_behalf_of,
        "policy": policy,
        "clause": clause,
        "category": category,
        "resource": resource,
        "from": recorded_from and format_instant(recorded_from),
        "to": recorded_to and format_instant(recorded_to),
        "q": words,
    }
    asked = {name: value for name, value in parameters.items() if value is not None}
    filters = trail_filters(asked)
    key = key_needed(key_file) if url is not None else None
    with suppress(KeyboardInterrupt), ExitStack() as stack:
        if url is not None:
            assert key is not None

            def tell(what: str) -> None:
                err.print(f"compliance-ledger: {what}; trying again", markup=False)

            events = from_service(url, key, asked, since=since, tell=tell)
        else:
            service = stack.enter_context(existing(settings_given()))
            events = from_database(service, filters, since=since)
        for event in events:
            if as_json:
                print_json(event)
            else:
                out.print(_line_of(event))


def _line_of(event: Mapping[str, Any]) -> Text:
    """Return one event as a line: where and when it stands, and what happened."""
    from ledger.service.tailing import plain

    return Text.assemble(
        (f"{event['position']:>8}", "bold"),
        (f"  {event['recorded_at'][:19]}Z  ", "dim"),
        plain(event["sentence"]),
    )


# --- migrate --------------------------------------------------------------------------------------


@app.command()
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
        _print_refusal(error)
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


# --- wrongful -------------------------------------------------------------------------------------


@app.command()
def wrongful(
    violation: Annotated[str, typer.Option(help="The id of the violation, like vio_01…")],
    log: Annotated[
        Path | None, typer.Option(help="The decision log; LEDGER_DECISION_LOG when absent.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the requests that were refused by suspensions resting on a violation.

    For the day a violation is overturned: whom did it keep out meanwhile?
    """
    from ledger.service.decision_log import refused_by

    settings = settings_given()
    path = log or settings.decision_log
    if path is None or not path.is_file():
        raise InvalidValue(f"there is no decision log at {path}; name one with --log")
    with existing(settings) as service, service.reading(newest=True) as (c, _):
        if service.conduct.stream_of(c, violation) is None:
            raise NotFound(f"no violation {violation!r} is recorded")
        suspensions = frozenset(id_ for _, id_ in service.access.resting_on(c, violation))
    found = refused_by(path, suspensions)
    if as_json:
        for decision in found:
            print_json(decision)
        return
    table = Table("at", "subject", "action", "resource", "suspensions", "decision")
    for decision in found:
        table.add_row(
            decision["at"],
            decision["subject"],
            decision["action"],
            decision["resource"],
            ", ".join(decision["suspensions"]),
            decision["decision_id"],
        )
    print_table(table)


# --- report ---------------------------------------------------------------------------------------


@app.command()
def report(
    start: Annotated[
        str | None, typer.Option("--from", help="The period begins then, like 2026-07-01.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="The period ends before then.")] = None,
    period: Annotated[
        str | None, typer.Option(help="Instead of both: 2026-09, 2026-Q3 or 2026.")
    ] = None,
    known_position: Annotated[
        int | None, typer.Option(min=0, help="As the ledger knew it at this position.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Ask this service.")] = None,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Print the transparency figures of a period.

    Without --url they are counted in the database of the settings.
    """
    from ledger.service.report import fetch_report, period_of, report_of, tables_of

    begins, ends = period_of(start, end, period)
    found: dict[str, Any]
    if url is not None:
        found = fetch_report(
            url, key_needed(key_file), start=begins, end=ends, known_position=known_position
        )
    else:
        with existing(settings_given()) as service, service.reading() as (c, head):
            found = report_of(
                service, c, head, start=begins, end=ends, known_position=known_position
            )
    if as_json:
        print_json(found)
        return
    out.print(
        f"Recorded from {found['from']} until before {found['to']}, "
        f"as known at position {found['known_position']}.",
        markup=False,
    )
    for title, rows in tables_of(found):
        if rows:
            table = Table(*rows[0], title=title, title_justify="left")
            for row in rows:
                table.add_row(*(Text("–" if cell is None else str(cell)) for cell in row.values()))
            print_table(table)


# --- keys -----------------------------------------------------------------------------------------


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


# --- witness --------------------------------------------------------------------------------------

WitnessFolder = Annotated[Path, typer.Option(help="Where its key and its state are kept.")]
WITNESS_FOLDER: Final = Path("var/witness")


@witness.command("init")
def init_witness(
    name: Annotated[str, typer.Argument(help="Its name, like witness.example/w1.")],
    folder: WitnessFolder = WITNESS_FOLDER,
    as_json: AsJson = False,
) -> None:
    """Make the key and the empty state of a witness, and print its public key."""
    from ledger.service.witness import make_witness
    from ledger.tlog.note import format_vkey

    vkey = format_vkey(make_witness(folder, name))
    if as_json:
        print_json({"folder": str(folder.absolute()), "vkey": vkey})
        return
    out.print(f"Made the witness {name} in {folder.absolute()}. Its public key:", markup=False)
    out.print(vkey, markup=False)


@witness.command("serve")
def serve_witness(
    folder: WitnessFolder = WITNESS_FOLDER,
    log: Annotated[
        list[str] | None,
        typer.Option(
            help="A log to watch: VKEY, or FIRST LAST VKEY for a key of these sizes; many times."
        ),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="A policy file (C2SP tlog-policy) with logs to watch.")
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = 8081,
) -> None:
    """Serve a witness: cosign what its logs prove to have grown from, refuse all else."""
    import time

    from ledger.service.witness import Witness, read_logs

    _check_host(host)
    served = Witness(folder, read_logs(policy, log or ()), now_s=lambda: int(time.time()))
    try:
        with _listening(host, port) as (listening, url):
            out.print(f"Serving {served.vkey}", markup=False)
            out.print(f"on {url}; end it with Ctrl-C.", markup=False)
            _run_witness(served, listening)
    finally:
        served.close()


def _run_witness(served: Witness, listening: socket.socket) -> None:
    import uvicorn

    from ledger.service.witness import CONNECTIONS_MAX, KEEP_ALIVE_S, create_witness_app

    server = uvicorn.Server(
        uvicorn.Config(
            create_witness_app(served),
            ws="none",
            lifespan="off",
            access_log=False,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            limit_concurrency=CONNECTIONS_MAX,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=WITNESS_DRAIN_S,
        )
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # as for the ledger: raised again at the end
    server.run(sockets=[listening])


@witness.command("evidence")
def witness_evidence(
    folder: WitnessFolder = WITNESS_FOLDER,
    to: Annotated[
        Path | None, typer.Option(help="A folder to write the signed checkpoints to.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the signed checkpoints that were refused, each with the one it may contradict.

    Exits with 1 when one of them is a fork, which proves itself.
    """
    from ledger.service.witness import evidence

    found = evidence(folder)
    for each in found:
        if to is not None:
            _write_evidence(to, each)
        if as_json:
            print_json(
                {
                    "id": each.id,
                    "origin": each.origin,
                    "kind": each.kind,
                    "seen_at_s": each.seen_at_s,
                    "cosigned": each.cosigned.decode(),
                    "offered": each.offered.decode(),
                    "vkeys": each.vkeys,
                }
            )
        else:
            out.print(f"{each.id}: {each.kind} of {each.origin}. Cosigned:", markup=False)
            out.print(each.cosigned.decode(), markup=False)
            out.print("Refused:", markup=False)
            out.print(each.offered.decode(), markup=False)
    if not found and not as_json:
        out.print("Nothing: no log contradicted itself here.")
    if any(each.kind == "fork" for each in found):
        raise typer.Exit(1)


def _write_evidence(to: Path, each: Evidence) -> None:
    try:
        to.mkdir(parents=True, exist_ok=True)
        for part, data in (
            ("cosigned.txt", each.cosigned),
            ("offered.txt", each.offered),
            ("keys.txt", "".join(f"{vkey}\n" for vkey in each.vkeys).encode()),
        ):
            (to / f"{each.id}-{each.kind}-{part}").write_bytes(data)
    except OSError as error:
        raise Unavailable(f"{to} cannot be written: {error.strerror}") from None
