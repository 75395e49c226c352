"""The commands with which people look: ``status``, ``show``, ``trail``, ``tail``, ``report``.

The first three ask the ledger at a URL, or the database that the settings name, through the same
client and the same routes, so both print the same. Exit codes: 0 done; 1 the ledger refused, or
nothing is recorded under that id; 2 the command line is wrong, or nobody answered.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer
from rich.table import Table
from rich.text import Text

from ledger.domain.errors import InvalidValue, NotFound, Unavailable
from ledger.domain.values import Subject, format_instant, parse_instant
from ledger.service.opening import existing, settings_given
from ledger.service.terminal import AsJson, err, out, print_json, print_table

if TYPE_CHECKING:
    from ledger.client import AsyncClient
    from ledger.client.answers import Access, Answer, Event, Record, Status
    from ledger.client.reading import Times

KEY_VARIABLE: Final = "LEDGER_API_KEY"
EVENTS_SHOWN_DEFAULT: Final = 50  # some screens
EVENTS_TOGETHER_MAX: Final = 500  # asked for with one request: half a megabyte

reading = typer.Typer(rich_markup_mode=None)


# --- options --------------------------------------------------------------------------------------


def _instant(raw: str) -> datetime:
    try:
        return parse_instant(raw)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _event_types(incomplete: str) -> list[str]:
    """Return the types of events that begin so, for the shell."""
    from ledger.domain.events import EVENT_TYPES

    types = sorted({event.TYPE for event in EVENT_TYPES.values()})
    return [each for each in types if each.startswith(incomplete)]


def _kinds(incomplete: str) -> list[str]:
    """Return how what can be shown begins, for the shell."""
    begins = ["user:", "application:", "organization:", "api_key:", *(f"{each}_" for each in _ONE)]
    return [each for each in begins if each.startswith(incomplete)]


Url = Annotated[
    str | None,
    typer.Option(help="The URL of a ledger; the database of the settings when absent."),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(help="A file with your key; the variable LEDGER_API_KEY when absent."),
]
At = Annotated[
    datetime | None,
    typer.Option(parser=_instant, metavar="INSTANT", help="What was in force then."),
]
KnownAt = Annotated[
    datetime | None,
    typer.Option(parser=_instant, metavar="INSTANT", help="As the ledger knew it then."),
]
KnownPosition = Annotated[
    int | None, typer.Option(min=0, help="As the ledger knew it at this position.")
]

# The filters of GET /v1/events, for each command that lists or follows events.
OfSubject = Annotated[str | None, typer.Option(help="Of this subject, as type:id.")]
OfTypes = Annotated[
    list[str] | None,
    typer.Option(
        "--type", help="Of this type; several: once for each.", autocompletion=_event_types
    ),
]
OfSubjectType = Annotated[str | None, typer.Option(help="About subjects of this type.")]
ByOperator = Annotated[str | None, typer.Option(help="By this operator.")]
OnBehalfOf = Annotated[str | None, typer.Option(help="For this human, as type:id.")]
OfPolicy = Annotated[str | None, typer.Option(help="Of this policy, or of this version of one.")]
OfClause = Annotated[
    str | None, typer.Option(help="Of this clause: policy@1/clause, policy/clause or clause.")
]
OfCategory = Annotated[str | None, typer.Option(help="Of clauses of this category.")]
OfResource = Annotated[
    str | None, typer.Option(help="Of this model, by its id, or of any resource, as type:id.")
]
Words = Annotated[str | None, typer.Option(help="Words that must all occur; word* begins so.")]
RecordedFrom = Annotated[
    datetime | None,
    typer.Option("--from", parser=_instant, metavar="INSTANT", help="Recorded then or later."),
]
RecordedTo = Annotated[
    datetime | None,
    typer.Option("--to", parser=_instant, metavar="INSTANT", help="Recorded before then."),
]


# --- whom to ask ----------------------------------------------------------------------------------


@asynccontextmanager
async def _asking(url: str | None, key_file: Path | None) -> AsyncIterator[AsyncClient]:
    """Yield a client of the ledger at a URL, or of the database that the settings name."""
    if url is None:
        if key_file is not None:
            raise typer.BadParameter("--key-file is for --url; a database is read without a key")
        with existing(settings_given()) as service:
            from ledger.service.direct import reading_client

            async with reading_client(service) as client:
                yield client
        return
    from ledger.client import AsyncClient

    if not url.startswith(("http://", "https://")):
        raise typer.BadParameter(f"--url {url!r} must begin with http:// or https://")
    async with AsyncClient(url, key_needed(key_file)) as client:
        yield client


def key_given(key_file: Path | None) -> str | None:
    """Return the key in a file, or else in the variable; ``None`` when there is neither.

    It is never an option itself: other users of a machine read what commands are started with.
    """
    if key_file is None:
        key = os.environ.get(KEY_VARIABLE, "").strip()
        if not key:
            return None
    else:
        try:
            key = key_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Unavailable(f"{key_file} cannot be read: {error}") from None
    if not (key and key.isascii() and key.isprintable()):
        where = KEY_VARIABLE if key_file is None else str(key_file)
        raise typer.BadParameter(f"{where} holds no key: a key is one line of printable ASCII")
    return key


def key_needed(key_file: Path | None, whose: str = "an auditor") -> str:
    """Return the key that is given, or say how to give one."""
    key = key_given(key_file)
    if key is None:
        raise typer.BadParameter(
            f"set {KEY_VARIABLE} to the key of {whose}, or name a file that holds it with "
            "--key-file"
        )
    return key


def _ask(
    url: str | None, key_file: Path | None, ask: Callable[[AsyncClient], Awaitable[None]]
) -> None:
    """Run what asks a ledger; a problem is told in its own words."""
    from ledger.client import ClientError, Problem

    async def asked() -> None:
        async with _asking(url, key_file) as client:
            await ask(client)

    try:
        asyncio.run(asked())
    except Problem as problem:
        err.print(f"compliance-ledger: {problem.detail}", markup=False)
        if problem.hint:
            err.print(problem.hint, markup=False)
        raise typer.Exit(1) from None
    except ClientError as error:
        err.print(f"compliance-ledger: {error}", markup=False)
        raise typer.Exit(2) from None


# --- status ---------------------------------------------------------------------------------------


@reading.command()
def status(
    url: Url = None,
    key_file: KeyFile = None,
    at: At = None,
    known_at: KnownAt = None,
    known_position: KnownPosition = None,
    as_json: AsJson = False,
) -> None:
    """Say what is in force, falls due and waits for a person, and how the log stands."""
    times: Times = {"at": at, "known_at": known_at, "known_position": known_position}

    async def ask(client: AsyncClient) -> None:
        found = await client.status(**times)
        if as_json:
            print_json(found.as_json())
        else:
            _print_status(found)

    _ask(url, key_file, ask)


def _print_status(found: Status) -> None:
    checkpoint = "none yet"
    if found.checkpoint is not None:
        checkpoint = (
            f"{found.checkpoint.size} events, signed {_ago(found.at, found.checkpoint.signed_at)}; "
            f"{found.known_position - found.checkpoint.size} not covered yet"
        )
    _print_pairs(
        {
            "at": _shown(found.at),
            "position": f"{found.known_position} of {found.position}",
            "newest event": _shown(found.recorded_at),
            "in force": f"{found.in_force} suspensions of {found.restricted_subjects} subjects",
            "due": f"{found.due} end until {_shown(found.due_until)}",
            "scheduled": f"{found.scheduled} have not begun",
            "waiting for review": str(found.review),
            "log": f"{found.known_position} events",
            "checkpoint": checkpoint,
        }
    )


def _ago(at: datetime, then: datetime) -> str:
    seconds = int((at - then).total_seconds())
    if seconds < 0:
        return f"at {_shown(then)}"
    for name, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {name} ago"
    return f"{seconds} seconds ago"


# --- show -----------------------------------------------------------------------------------------

_ONE: Final[Mapping[str, str]] = {
    "vio": "violation",
    "sus": "suspension",
    "war": "warning",
    "rei": "reinstatement",
    "era": "erasure",
    "hld": "hold",
}
"""The method of the client that returns what an id of this kind names."""


@reading.command()
def show(
    what: Annotated[
        str,
        typer.Argument(
            help="A subject like user:alice, an id like sus_01… or vio_01…, or a position.",
            autocompletion=_kinds,
        ),
    ],
    url: Url = None,
    key_file: KeyFile = None,
    at: At = None,
    known_at: KnownAt = None,
    known_position: KnownPosition = None,
    as_json: AsJson = False,
) -> None:
    """Show a subject with its standing, record and access; or one fact, or one event."""
    times: Times = {"at": at, "known_at": known_at, "known_position": known_position}
    prefix = what.partition("_")[0]

    async def ask(client: AsyncClient) -> None:
        if ":" in what:
            await _show_subject(client, Subject.parse(what), times, as_json=as_json)
        elif what.isascii() and what.isdigit():
            if any(value is not None for value in times.values()):
                raise typer.BadParameter("an event is the same at all times; leave them out")
            _show_one(await client.event(int(what)), as_json=as_json)
        elif prefix in _ONE:
            _show_one(await getattr(client, _ONE[prefix])(what, **times), as_json=as_json)
        else:
            raise InvalidValue(
                f"{what!r} is no subject (user:alice), id "
                f"({', '.join(f'{each}_…' for each in _ONE)}) or position"
            )

    _ask(url, key_file, ask)


async def _show_subject(
    client: AsyncClient, subject: Subject, times: Times, *, as_json: bool
) -> None:
    record = await client.record(subject, **times)
    # The same two times, though something may have been recorded since.
    access = await client.access(subject, at=record.at, known_position=record.known_position)
    if as_json:
        print_json({"record": record.as_json(), "access": access.as_json()})
        return
    _print_record(record)
    _print_access(access)
    _print_facts(record)


def _print_record(record: Record) -> None:
    links = [
        f"below {each.subject.key} since {_shown(each.since)}" for each in record.links.parents
    ]
    links += [
        f"above {each.subject.key} since {_shown(each.since)}" for each in record.links.children
    ]
    properties = [f"{name} = {value}" for name, value in record.properties.items()]
    _print_pairs(
        {
            "subject": record.subject.key,
            "standing": record.standing,
            "at": _shown(record.at),
            "as known at": f"position {record.known_position} of {record.position}",
            **({"links": "; ".join(links)} if links else {}),
            **({"properties": "; ".join(properties)} if properties else {}),
        }
    )


def _print_access(access: Access) -> None:
    rows = []
    for each in access.resources:
        refused = [action for action, allowed in each.actions.items() if not allowed]
        rows.append(
            (
                each.resource.key,
                "yes" if each.allowed else f"no ({', '.join(refused)})",
                "" if each.allowed else _shown(each.until),
                ", ".join(each.suspensions),
            )
        )
    _print_rows("access", ("resource", "may be used", "back from", "because of"), rows)
    _print_rows(
        "in force, with those of whoever stands above",
        ("id", "of", "until", "for", "reason"),
        [
            (
                each.id,
                each.subject.key,
                _shown(each.ends_at),
                ", ".join(clause.label for clause in each.clauses) or each.basis,
                each.reason,
            )
            for each in access.suspensions
        ],
    )


def _print_facts(record: Record) -> None:
    _print_rows(
        "suspensions",
        ("id", "state", "from", "until", "reason"),
        [
            (each.id, each.state, _shown(each.effective_at), _shown(each.ends_at), each.reason)
            for each in record.suspensions
        ],
    )
    _print_rows(
        "violations",
        ("id", "state", "on", "clause", "summary"),
        [
            (
                each.id,
                each.state,
                _shown(each.occurred_at),
                f"{each.policy} {each.clause}",
                each.summary,
            )
            for each in record.violations
        ],
    )
    _print_rows(
        "warnings",
        ("id", "on", "reason"),
        [(each.id, _shown(each.recorded_at), each.reason) for each in record.warnings],
    )
    _print_rows(
        "reinstatements",
        ("id", "of", "from", "cause"),
        [
            (each.id, each.suspension, _shown(each.effective_at), each.cause)
            for each in record.reinstatements
        ],
    )


def _show_one(found: Answer, *, as_json: bool) -> None:
    if as_json:
        print_json(found.as_json())
    else:
        _print_pairs(_flat(found.as_json()))


def _flat(value: Any, place: str = "") -> dict[str, str]:
    """Return every value in an answer by its place, as people read it."""
    if isinstance(value, dict) and value.keys() == {"type", "id"}:
        return {place: f"{value['type']}:{value['id']}"}
    if isinstance(value, dict | list) and value:
        named = value.items() if isinstance(value, dict) else enumerate(value, start=1)
        return {
            name: text
            for key, inner in named
            for name, text in _flat(inner, f"{place} {key}".strip()).items()
        }
    if isinstance(value, bool):
        return {place: "yes" if value else "no"}
    return {place: "–" if value is None or value in ([], {}) else str(value)}


# --- trail ----------------------------------------------------------------------------------------


@reading.command()
def trail(
    url: Url = None,
    key_file: KeyFile = None,
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
    known_at: KnownAt = None,
    known_position: KnownPosition = None,
    order: Annotated[
        Literal["newest", "oldest"], typer.Option(help="Which come first.")
    ] = "newest",
    limit: Annotated[
        int, typer.Option(min=1, help="At most so many events.")
    ] = EVENTS_SHOWN_DEFAULT,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each event as a line of JSON, for machines.")
    ] = False,
) -> None:
    """List what happened, each event with its sentence."""

    async def ask(client: AsyncClient) -> None:
        rows: list[tuple[str, ...]] = []
        left = limit
        events = client.events(
            subject=subject,
            types=types,
            subject_type=subject_type,
            operator=operator,
            on_behalf_of=on_behalf_of,
            policy=policy,
            clause=clause,
            category=category,
            resource=resource,
            q=words,
            recorded_from=recorded_from,
            recorded_to=recorded_to,
            known_at=known_at,
            known_position=known_position,
            order=order,
            page_size=min(limit, EVENTS_TOGETHER_MAX),
        )
        async for event in events:
            if as_json:
                print_json(event.as_json())
            else:
                rows.append(_row_of(event))
            left -= 1
            if not left:
                break
        if not as_json:
            _print_rows("", ("position", "recorded", "type", "what"), rows)
            if not rows:
                out.print("Nothing is recorded that fits.")

    _ask(url, key_file, ask)


def _row_of(event: Event) -> tuple[str, ...]:
    return str(event.position), _shown(event.recorded_at), event.type, event.sentence


# --- printing -------------------------------------------------------------------------------------


def _shown(instant: datetime | None) -> str:
    return "–" if instant is None else instant.strftime("%Y-%m-%d %H:%M:%S UTC")


def _print_pairs(pairs: Mapping[str, str]) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in pairs.items():
        table.add_row(Text(name), Text(value))
    print_table(table)


def _print_rows(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table, of what others wrote: as it stands, never as markup."""
    if not rows:
        return
    table = Table(*columns, title=title or None, title_justify="left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    print_table(table)


# --- tail -----------------------------------------------------------------------------------------


@reading.command()
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


# --- report and wrongful --------------------------------------------------------------------------


@reading.command()
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


@reading.command()
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
