"""The commands of a witness, which watches other ledgers: ``witness init | serve | evidence``."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ledger.domain.errors import Unavailable
from ledger.service.cli_serving import Host, Port, check_host, listening_on
from ledger.service.terminal import AsJson, out, print_json
from ledger.tlog.note import format_vkey

if TYPE_CHECKING:
    from ledger.service.witness import Evidence, Witness

WITNESS_DRAIN_S: Final = 30  # how long open requests may take once a witness is told to stop
WITNESS_FOLDER: Final = Path("var/witness")

witness = typer.Typer(
    help="Watch other ledgers, so that they cannot show two histories.", no_args_is_help=True
)

WitnessFolder = Annotated[Path, typer.Option(help="Where its key and its state are kept.")]


@witness.command("init")
def init_witness(
    name: Annotated[str, typer.Argument(help="Its name, like witness.example/w1.")],
    folder: WitnessFolder = WITNESS_FOLDER,
    as_json: AsJson = False,
) -> None:
    """Make the key and the empty state of a witness, and print its public key."""
    from ledger.service.witness import make_witness

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

    check_host(host)
    served = Witness(folder, read_logs(policy, log or ()), now_s=lambda: int(time.time()))
    try:
        with listening_on(host, port) as (listening, url):
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
