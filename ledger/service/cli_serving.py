"""The commands that found a ledger and serve it: ``init``, ``schema``, ``serve``, ``demo``."""

from __future__ import annotations

import gc
import ipaddress
import os
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final

import orjson
import typer

from ledger.domain.errors import InvalidValue, Unavailable
from ledger.domain.values import Role
from ledger.service.opening import existing, settings_given
from ledger.service.settings import METRICS_FOLDER_VARIABLE, Settings, is_postgresql
from ledger.service.terminal import AsJson, out, print_json

FIRST_OPERATOR: Final = "admin"
DEMO_FOLDER: Final = Path("var/demo")
METRICS_HOST: Final = "127.0.0.1"  # the metrics port asks for no key, so it is for this host only
KEEP_ALIVE_S: Final = 75  # longer than the idle time of common proxies, so that they close first
SWITCH_INTERVAL_S: Final = 0.001  # a tenth of a write; shorter ones cost more than they give
FILES_OPEN_MAX: Final = 65_536  # each stream and connection is one; often 1,024 are allowed
# Objects made between two rounds of the collector; while serving, a round may take a millisecond.
SERVE_ALLOCATIONS: Final = 10_000

serving = typer.Typer(rich_markup_mode=None)

Host = Annotated[str, typer.Option(help="The address to listen on.")]
Port = Annotated[
    int, typer.Option(min=0, max=65535, help="The port to listen on; 0: any free one.")
]


@serving.command()
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


@serving.command()
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


@serving.command()
def serve(
    host: Host = "127.0.0.1",
    port: Port = 8080,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that serve.")] = 1,
) -> None:
    """Serve the ledger over HTTP."""
    settings = settings_given()
    check_host(host)
    with existing(settings) as service:
        service.require_modest_role()  # a refusal is read better here than from each worker
    with listening_on(host, port) as (listening, url):
        out.print(f"Serving on {url}; end it with Ctrl-C.", markup=False)
        _serve(listening, workers)


def check_host(host: str) -> None:
    """Raise ``InvalidValue`` for what is no address to listen on."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if host != "localhost":
            raise InvalidValue(f"--host {host!r} is no address; use 127.0.0.1 or 0.0.0.0") from None


@contextmanager
def listening_on(host: str, port: int) -> Iterator[tuple[socket.socket, str]]:
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
            sockets.append(stack.enter_context(listening_on(METRICS_HOST, port))[0])
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
        "ledger.service.cli_serving:asgi",
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


@serving.command()
def demo(host: Host = "127.0.0.1", port: Port = 8080) -> None:
    """Open a throw-away ledger under var/demo, tell the founding story in it, and serve it."""
    from ledger.service.story import tell

    check_host(host)
    with listening_on(host, port) as (listening, url):
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
