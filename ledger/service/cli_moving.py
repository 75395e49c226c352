"""The commands that bring facts in and take them out: ``import``, ``export``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.progress import Progress

from ledger.domain.errors import InvalidValue, TamperDetected
from ledger.service.cli_reading import KeyFile, key_needed
from ledger.service.opening import existing, require_database, settings_given
from ledger.service.terminal import AsJson, err, out, print_json

if TYPE_CHECKING:
    from ledger.service.importing import Imported

REFUSALS_SHOWN_MAX: Final = 20  # a person reads some, and the first is the one that matters

moving = typer.Typer(rich_markup_mode=None)


@moving.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="Commands, one a line, as POST /v1/batch takes.")],
    key_file: KeyFile = None,
    url: Annotated[str | None, typer.Option(help="Send them to this service.")] = None,
    as_json: AsJson = False,
) -> None:
    """Record the commands of a file. Run it again after a stop: nothing is recorded twice.

    Without --url they are recorded in the database of the settings.
    """
    if not file.is_file():
        raise InvalidValue(f"{file} is no file")
    key = key_needed(key_file, "who records them")
    with Progress(console=err, disable=as_json) as bar:
        task = bar.add_task("importing", total=file.stat().st_size)

        def advance(done: int) -> None:
            bar.update(task, advance=done)

        imported = _sent(url, key, file, advance) if url else _recorded(key, file, advance)
    if as_json:
        print_json(asdict(imported))
    else:
        for answer in imported.refused[:REFUSALS_SHOWN_MAX]:
            err.print(f"line {answer['line']}: {answer['problem']['detail']}", markup=False)
        out.print(
            f"{imported.done} lines are recorded, {imported.refused_count} were refused; "
            f"the newest is event {imported.position}.",
            markup=False,
        )
    if imported.refused_count:
        raise typer.Exit(1)


def _sent(url: str, key: str, file: Path, advance: Callable[[int], None]) -> Imported:
    """Import a file by a service."""
    import asyncio

    from ledger.service.importing import import_to

    return asyncio.run(import_to(url, key, file, progress=advance))


def _recorded(key: str, file: Path, advance: Callable[[int], None]) -> Imported:
    """Import a file into the database of the settings."""
    from ledger.service.write_process import WriteProcess

    settings = settings_given()
    require_database(settings)
    with closing(WriteProcess(settings)) as writing:
        # Only now, while that process loads what it needs.
        from ledger.service.importing import import_here
        from ledger.service.wiring import build

        return import_here(build(settings), writing, key, file, progress=advance)


@moving.command()
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
    if url is None:
        require_database(settings)
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
