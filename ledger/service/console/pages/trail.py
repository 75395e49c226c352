"""The trail: the events that match, counts that lead on to others, and more as they happen.

Its filters are those of ``GET /v1/events``, by the same names, so an address of one is an address
of the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from fastapi import Request
from fastapi.responses import Response

from ledger.domain.events import EVENT_TYPES, Recorded
from ledger.domain.values import Role, format_instant
from ledger.service.console.frame import HEADERS, paged, query_of, render, with_query
from ledger.service.console.pages.export import export_offer
from ledger.service.console.route import console_router, only
from ledger.service.console.session import Session
from ledger.service.http.events import Filter
from ledger.service.http.problems import NotAllowed
from ledger.service.http.route import service_of
from ledger.service.http.shapes import PageAsked, Travel
from ledger.service.http.stream import MEDIA_TYPE, After, stream_events

FACET_VALUES_SHOWN: Final = 8  # of each facet, before it is opened: what a glance takes in
GROUNDS_SHOWN: Final = 5  # of one event in a list; its own page has all
FACET_VALUES_MAX: Final = 100  # of each facet, most frequent first; who wants a rarer one names it

TRAIL: Final = "/console/trail"
TITLES: Final[Mapping[str, str]] = {
    "q": "Words",
    "type": "Type",
    "resource": "Model or resource",
    "clause": "Policy clause",
    "category": "Category",
    "policy": "Policy",
    "operator": "Operator",
    "subject_type": "Subject type",
    "month": "Month",
    "subject": "Subject",
    "on_behalf_of": "For",
    "from": "Recorded from",
    "to": "Recorded before",
}
"""Of filters and facets, in the order in which facets are shown; others follow by their names."""
MANNER: Final = frozenset(("limit", "cursor", "order", "at", "known_at", "known_position"))
"""The parameters that say how events are shown, and not which."""

_FIRST_INSTANT: Final = re.compile(r"\d{4}-\d\d-01T00:00:00(?:\.0+)?(?:Z|\+00:00)")

routes = console_router()


@dataclass(frozen=True, slots=True)
class Choice:
    """A value of a facet or a filter, and where a click on it leads: to it, or away from it."""

    title: str
    words: str
    address: str
    count: int = 0
    is_active: bool = False


@dataclass(frozen=True, slots=True)
class Facet:
    """A property by which events are counted. ``rarer``: how many more values there are."""

    name: str
    title: str
    values: Sequence[Choice]
    rarer: int


@routes.get(TRAIL, openapi_extra=only(Role.AUDITOR))
def trail(request: Request, asked: PageAsked, travel: Travel, filters: Filter) -> Response:
    """Show a page of the trail, and how many events there are by each property."""
    service = service_of(request)
    with service.reading() as (c, head):
        times = travel.resolve(service, head)
        positions = service.trail.events(
            c,
            position=times.position,
            limit=asked.limit + 1,
            cursor_position=asked.after,
            oldest_first=asked.oldest_first,
            **filters,
        )
        found = [line_of(recorded) for recorded in service.recorder.at_positions(positions)]
        counts = service.trail.counts(c, position=times.position, alternatives=True, **filters)
    query = query_of(request)
    is_newest = times.position == head and not {"known_at", "known_position"} & query.keys()
    live = None
    if is_newest and asked.after is None and not asked.oldest_first and "to" not in query:
        shown = {name: value for name, value in query.items() if name not in MANNER}
        live = with_query(f"{TRAIL}/stream", shown)
    return render(
        request,
        "trail.html",
        times=times,
        listed=paged(asked, found),
        total=counts["total"],
        facets=list(facets_of(counts, query)),
        active=list(active_in(query)),
        more_is_open=bool(query.keys() & {"on_behalf_of", "policy", "clause", "category"}),
        export=export_offer(request, "events", times),
        live=live,
        types=sorted({type_ for type_, _ in EVENT_TYPES}),
        is_newest=is_newest,
        titles=TITLES,
        shown=FACET_VALUES_SHOWN,
    )


@routes.get(f"{TRAIL}/stream", openapi_extra=only(Role.AUDITOR))
async def stream(request: Request, filters: Filter, after: After = None) -> Response:
    """Send events as they are recorded, for as long as the session lasts.

    To watch is not to be there: a stream does not keep its session from ending.
    """
    if request.method == "HEAD":  # which has no body to wait for
        return Response(headers=HEADERS, media_type=MEDIA_TYPE)
    service = service_of(request)
    session: Session = request.state.session

    def require_allowed() -> None:
        now = service.now_us()
        caller = session.caller(service.keyring, now)
        if session.is_over(now) or caller is None or caller.role is not Role.AUDITOR:
            raise NotAllowed("the session is over, or its operator has another role now")

    response = await stream_events(request, filters, after=after, require_allowed=require_allowed)
    for name, value in HEADERS.items():
        response.headers[name] = value
    return response


# --- what is shown of an event --------------------------------------------------------------------


def line_of(recorded: Recorded) -> dict[str, Any]:
    """Return what a list shows of an event: the sentence, and what of it leads elsewhere."""
    event = recorded.event
    subject, grounds = getattr(event, "subject", None), getattr(event, "grounds", ())
    return {
        "position": recorded.position,
        "type": recorded.type,
        "recorded_at": format_instant(recorded.recorded_at),
        "operator": recorded.author.operator,
        "on_behalf_of": recorded.author.on_behalf_of,
        "caused_by": recorded.caused_by,
        "sentence": recorded.sentence,
        "subject": None if subject is None else subject.key,
        "grounds": grounds[:GROUNDS_SHOWN],
        "more_grounds": max(0, len(grounds) - GROUNDS_SHOWN),
    }


# --- filters and facets ---------------------------------------------------------------------------


def facets_of(counts: Mapping[str, Any], query: Mapping[str, Any]) -> Iterator[Facet]:
    """Yield each facet that has values; a value leads to the events that have it, too.

    One that is asked for leads to the events without that filter. Types add up, of any other facet
    a value takes the place of the one before.
    """
    facets = {name: found for name, found in counts.items() if isinstance(found, list)}
    for name in sorted(facets, key=lambda name: (_place(name), name)):
        values = []
        in_order = facets[name]
        if name == "month":
            in_order = sorted(in_order, key=lambda found: found["value"], reverse=True)
        for found in in_order[:FACET_VALUES_MAX]:
            value, is_active = found["value"], found["value"] in _asked_for(name, query)
            without = _without(name, value, query)
            values.append(
                Choice(
                    title_of(name),
                    _words(name, value),
                    without if is_active else _with(name, value, query),
                    found["count"],
                    is_active,
                )
            )
        if values:
            yield Facet(name, title_of(name), values, len(facets[name]) - len(values))


def active_in(query: Mapping[str, Any]) -> Iterator[Choice]:
    """Yield each filter that is asked for, with the address without it."""
    month = _month_in(query)
    if month is not None:
        yield Choice(TITLES["month"], month, _without("month", month, query))
    for name in query:
        if name in MANNER or (month is not None and name in ("from", "to")):
            continue
        for value in _asked_for(name, query):
            yield Choice(title_of(name), _words(name, value), _without(name, value, query))


def title_of(name: str) -> str:
    """Return what a filter or a facet is called."""
    return TITLES.get(name) or name.replace("_", " ").capitalize()


def _place(name: str) -> int:
    return list(TITLES).index(name) if name in TITLES else len(TITLES)


def _words(name: str, value: str) -> str:
    return value.removeprefix("model:") if name == "resource" else value


def _asked_for(name: str, query: Mapping[str, Any]) -> list[str]:
    """Return the values of a facet or filter that are asked for."""
    if name == "month":
        month = _month_in(query)
        return [] if month is None else [month]
    value = query.get(name, [])
    if isinstance(value, list):
        return value
    if name == "resource" and ":" not in value:
        return [f"model:{value}"]
    return [value]


def _with(name: str, value: str, query: Mapping[str, Any]) -> str:
    """Return the address of the same events that have a value, too."""
    if name == "month":
        first, last = _span_of(value)
        return with_query(TRAIL, query, **{"from": first, "to": last, "cursor": None})
    values = [*_asked_for(name, query), value] if name == "type" else [value]
    return with_query(TRAIL, query, **{name: values, "cursor": None})


def _without(name: str, value: str, query: Mapping[str, Any]) -> str:
    """Return the address of the events that need not have a value."""
    if name == "month":
        return with_query(TRAIL, query, **{"from": None, "to": None, "cursor": None})
    values = [each for each in _asked_for(name, query) if each != value]
    return with_query(TRAIL, query, **{name: values, "cursor": None})


def _span_of(month: str) -> tuple[str, str]:
    """Return the first instant of a month, and that of the next."""
    year, number = map(int, month.split("-"))
    following = (year + 1, 1) if number == 12 else (year, number + 1)  # noqa: PLR2004 - December
    return f"{month}-01T00:00:00Z", f"{following[0]:04}-{following[1]:02}-01T00:00:00Z"


def _month_in(query: Mapping[str, Any]) -> str | None:
    """Return the month that ``from`` and ``to`` are; ``None`` when they are no whole month."""
    first, last = query.get("from"), query.get("to")
    if not isinstance(first, str) or not isinstance(last, str):
        return None
    if not (_FIRST_INSTANT.fullmatch(first) and _FIRST_INSTANT.fullmatch(last)):
        return None
    month = first[:7]
    whole = tuple(map(datetime.fromisoformat, _span_of(month)))
    given = (datetime.fromisoformat(first), datetime.fromisoformat(last))
    return month if whole == given else None
