"""One event: all that is stored of it, what it has to do with others, and its proof.

The proof is recomputed by the browser, from the stored columns, the proof file and the log's keys.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Final, Literal

import orjson
from eventsourcing.persistence import Cursor
from fastapi import Request
from fastapi.responses import Response

from ledger.domain.errors import NotFound
from ledger.domain.events import Event, RecordDisclosed, Recorded
from ledger.domain.values import Role
from ledger.service.console.frame import HEADERS, render, with_query
from ledger.service.console.pages.trail import TRAIL, line_of
from ledger.service.console.route import console_router, only
from ledger.service.http import log as http_log
from ledger.service.http.events import PositionPath
from ledger.service.http.route import author_of, service_of
from ledger.service.http.sealed import show_erased
from ledger.service.http.shapes import Times, TimeTravel, Travel, time_travel
from ledger.service.wiring import Service
from ledger.store.codec import as_json
from ledger.tlog.leaf import StoredRow
from ledger.tlog.note import encode_base64, format_vkey

RELATED_MAX: Final = 20  # events before and after that name an id; the trail has the rest
NAMING_MAX: Final = 20  # ids of an event that others are looked for by: each takes two searches

EVENT: Final = "/console/events/{position}"
HAVE_PAGES: Final = ("violation", "suspension", "reinstatement", "warning")
NAMES: Final = ("violation", "suspension", "warning", "erasure", "hold", "key")
"""The members by which events name what an event made."""

Kind = Literal["text", "none", "subject", "thing", "sealed", "erased", "revealed"]

routes = console_router()


@dataclass(frozen=True, slots=True)
class Field:
    """A member of an event's data, however deep: where it stands, and what it holds."""

    path: str
    kind: Kind
    value: Any = None


@dataclass(frozen=True, slots=True)
class Related:
    """An event that has to do with the one that is shown, and how."""

    line: Mapping[str, Any]
    why: list[str] = field(default_factory=list)


@routes.get(EVENT, openapi_extra=only(Role.AUDITOR))
def event(request: Request, position: PositionPath, travel: Travel) -> Response:
    """Show an event, with what is known of it."""
    return _page(request, position, travel)


@routes.post(EVENT, openapi_extra=only(Role.AUDITOR))
def reveal(request: Request, position: PositionPath) -> Response:
    """Show an event with what is sealed in it, once it is recorded who was shown that.

    For a form only: a link that stands on another site must not bring a disclosure about.
    """
    texts = service_of(request).ledger.disclose(position, by=author_of(request))
    return _page(request, position, time_travel(), texts)


@routes.get(f"{EVENT}/proof", openapi_extra=only(Role.AUDITOR))
def proof(request: Request, position: PositionPath) -> Response:
    """Return the event's proof file, as the API does."""
    found = http_log.proof(request, position)
    found.headers.update(HEADERS)
    return found


@routes.get(f"{EVENT}/stored", openapi_extra=only(Role.AUDITOR))
def stored(request: Request, position: PositionPath) -> Response:
    """Return the event's columns as they are stored; the bytes of its state in base64."""
    service = service_of(request)
    with service.reading() as (c, head):
        row = _row(service, c, position, head)
    body = {
        "position": row.position,
        "stream": row.stream,
        "version": row.version,
        "type": row.type,
        "recorded_at": row.recorded_at,
        "state": encode_base64(row.state),
    }
    return Response(orjson.dumps(body), media_type="application/json", headers=HEADERS)


def _page(
    request: Request, position: int, travel: TimeTravel, texts: Mapping[str, str] | None = None
) -> Response:
    service = service_of(request)
    with service.reading() as (c, head):
        times = travel.resolve(service, head)
        row = _row(service, c, position, times.position)
        recorded = service.recorder.event(position)
        assert recorded is not None
        shown = as_json(recorded)
        data = show_erased(service, c, shown["data"], known=times.position)
        earlier, later = _related(service, c, recorded, times)
    fields = list(fields_of(data, texts or {}, recorded.event.SEALED))
    return render(
        request,
        "event.html",
        area="/console/trail",
        times=times,
        event=shown,
        line=line_of(recorded),
        fields=fields,
        can_reveal=any(each.kind == "sealed" for each in fields),
        is_revealed=texts is not None,
        stored=row.state.decode("utf-8", "replace"),
        earlier=earlier,
        later=later,
        keys=[
            {
                "text": format_vkey(each.key),
                "first": each.first_size,
                "last": each.last_size,
            }
            for each in service.ledger.log_keys()
        ],
        of_the_same=_lists_of(recorded),
    )


def _row(service: Service, c: Cursor, position: int, known: int) -> StoredRow:
    if position > known:
        raise NotFound(f"as far as is known, the ledger ends at position {known}")
    (row,) = service.log.rows(c, position - 1, 1)
    return row


# --- what is in it --------------------------------------------------------------------------------


def fields_of(
    value: Any, texts: Mapping[str, str], sealed: Collection[str], path: str = ""
) -> Iterator[Field]:
    """Yield every member of an event's data, however deep.

    Of the members named ``sealed``, and of what is in them, the texts that were shown are given.
    """
    top, _, rest = path.partition("/")
    if path in texts:
        yield Field(path, "revealed", texts[path])
    elif top in sealed and isinstance(value, dict) and "box" in value:
        yield Field(path, "sealed", value["key"])
    elif top in sealed and isinstance(value, dict) and "erased_by" in value:
        yield Field(path, "erased", value["erased_by"])
    elif isinstance(value, dict) and value.keys() == {"type", "id"} and top != "properties":
        key = f"{value['type']}:{value['id']}"
        yield Field(path, "subject" if path in ("subject", "parent") else "text", key)
    elif isinstance(value, dict | list | tuple) and value:
        inside = value.items() if isinstance(value, dict) else enumerate(value)
        for name, inner in inside:
            yield from fields_of(inner, texts, sealed, f"{path}/{name}" if path else str(name))
    elif value is None or isinstance(value, dict | list | tuple):
        yield Field(path, "none")
    elif path in HAVE_PAGES or (top == "grounds" and rest):
        yield Field(path, "thing", value)
    else:
        yield Field(path, "text", value if isinstance(value, str) else orjson.dumps(value).decode())


# --- what it has to do with others ----------------------------------------------------------------


def ids_in(event: Event) -> list[str]:
    """Return the ids that an event names: of what it made, what it is about, and its grounds."""
    named = [getattr(event, name, None) for name in NAMES]
    return [id_ for id_ in dict.fromkeys([*named, *getattr(event, "grounds", ())]) if id_]


def _related(
    service: Service, c: Cursor, recorded: Recorded, times: Times
) -> tuple[list[Related], list[Related]]:
    """Return the events before this one that it rests on, and those after that rest on it."""
    found: dict[int, Related] = {}

    def add(others: Iterable[Recorded], why: str) -> None:
        for each in others:
            if each.position != recorded.position:
                found.setdefault(each.position, Related(line_of(each))).why.append(why)

    def at(positions: Sequence[int]) -> list[Recorded]:
        return service.recorder.at_positions(positions)

    here, until = recorded.position, times.position
    if recorded.caused_by is not None:
        add(at([recorded.caused_by]), "led to it")
    if isinstance(recorded.event, RecordDisclosed) and recorded.event.shown_position is not None:
        add(at([recorded.event.shown_position]), "was shown")
    # What follows from a decision is recorded with it, right after it.
    following = at(range(here + 1, min(here + RELATED_MAX, until) + 1))
    add(takewhile(lambda each: each.caused_by == here, following), "follows from it")
    for id_ in ids_in(recorded.event)[:NAMING_MAX]:
        for oldest_first in (False, True):  # those nearest before it, and nearest after it
            naming = service.trail.events(
                c,
                position=until,
                limit=RELATED_MAX,
                cursor_position=here,
                oldest_first=oldest_first,
                q=_as_one(id_),
            )
            named = [each for each in at(naming) if id_ in ids_in(each.event)]
            add([each for each in named if each.caused_by == here], "follows from it")
            add(named, f"names {id_}")
    disclosures = service.trail.events(
        c, position=until, limit=RELATED_MAX, types=(RecordDisclosed.TYPE,), q=f"event-{here}"
    )
    add(
        (
            each
            for each in at(disclosures)
            if isinstance(each.event, RecordDisclosed) and each.event.shown_position == here
        ),
        "somebody was shown it",
    )
    in_order = [
        Related(found[position].line, list(dict.fromkeys(found[position].why)))
        for position in sorted(found)
    ]
    return (
        [each for each in in_order if each.line["position"] < here],
        [each for each in in_order if each.line["position"] > here],
    )


def _as_one(id_: str) -> str:
    """Return an id as one word of a search, whatever it holds; not as the beginning of others."""
    return "-".join(id_.split()).rstrip("*")


def _lists_of(recorded: Recorded) -> list[tuple[str, str]]:
    """Return what else the trail can list for this event: words and address."""
    line = line_of(recorded)
    found = []
    if line["subject"] is not None:
        found.append(
            (f"Everything about {line['subject']}", with_query(TRAIL, subject=line["subject"]))
        )
    found += [
        (f"Everything that names {id_}", with_query(TRAIL, q=_as_one(id_)))
        for id_ in ids_in(recorded.event)[:NAMING_MAX]
    ]
    found.append(
        (f"Everything by {line['operator']}", with_query(TRAIL, operator=line["operator"]))
    )
    return found
