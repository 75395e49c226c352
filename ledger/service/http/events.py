"""The trail: what happened, in order, with filters, words search and counts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from eventsourcing.persistence import Cursor
from fastapi import Depends, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel

from ledger.domain.errors import NotFound, StoreBusy, VaultUnavailable
from ledger.domain.events import Recorded
from ledger.domain.values import Role
from ledger.service.http.route import allow, answer, router, service_of
from ledger.service.http.sealed import Reveal, reveal_in, show_erased
from ledger.service.http.shapes import (
    CommonFilters,
    EventView,
    Item,
    OfCategory,
    OfPolicy,
    OfResource,
    OnBehalfOf,
    Page,
    PageAsked,
    Times,
    Travel,
    model_key,
    page,
    read_responses,
)
from ledger.service.wiring import Service
from ledger.store.codec import as_json

routes = router("events")

TypesAsked = Annotated[
    list[str] | None,
    Query(alias="type", description="An event type; may be given several times.", max_length=30),
]
Words = Annotated[
    str | None,
    Query(description="Words that must all occur; word* finds what begins so.", max_length=500),
]
OfClause = Annotated[
    str | None,
    Query(
        max_length=200,
        description="Of this clause: of a version of a policy, of every version, or of any policy "
        "or the one that is asked for.",
        examples=["acceptable-use@1/bots", "acceptable-use/bots", "bots"],
    ),
]
OfSubjectType = Annotated[
    str | None,
    Query(max_length=64, description="About subjects of this type.", examples=["user"]),
]
Alternatives = Annotated[
    Literal["true", "false"],
    Query(
        description="true counts by each property as if no value of that property were asked for: "
        "what asking for another value instead would find.",
    ),
]


def event_filter(
    common: CommonFilters,
    types: TypesAsked = None,
    subject_type: OfSubjectType = None,
    on_behalf_of: OnBehalfOf = None,
    policy: OfPolicy = None,
    clause: OfClause = None,
    category: OfCategory = None,
    resource: OfResource = None,
    q: Words = None,
) -> dict[str, Any]:
    """Read the filters of the trail."""
    return {
        **common,
        "types": tuple(types or ()),
        "subject_type": subject_type,
        "on_behalf_of": on_behalf_of,
        "policy": policy,
        "clause": clause,
        "category": category,
        "resource": model_key(resource, parameter="resource"),
        "q": q,
    }


PositionPath = Annotated[int, Path(ge=1, le=2**53, description="Positions count from 1.")]
Filter = Annotated[dict[str, Any], Depends(event_filter)]


class Count(BaseModel):
    """How many events have one value."""

    value: str
    count: int


class CountsAnswer(BaseModel):
    """How many events there are, in all and by each of eight properties, most frequent first."""

    total: int
    type: list[Count]
    operator: list[Count]
    month: list[Count]
    category: list[Count]
    policy: list[Count]
    clause: list[Count]
    resource: list[Count]
    subject_type: list[Count]
    position: int


@routes.get(
    "/v1/events",
    summary="The audit trail",
    openapi_extra=allow(Role.AUDITOR),
    responses=read_responses(Page[EventView]),
)
def events(request: Request, asked: PageAsked, travel: Travel, filters: Filter) -> Response:
    """List events, newest first, each with the sentence that a person reads."""
    service = service_of(request)

    def find(c: Any, _: Times, **asked_for: Any) -> list[Item]:
        positions = service.trail.events(c, **asked_for)
        found = service.recorder.at_positions(positions)
        return [shown(service, c, recorded) for recorded in found]

    return page(request, asked, travel, find, **filters)


@routes.get(
    "/v1/events/counts",
    summary="How many events, by what",
    openapi_extra=allow(Role.AUDITOR),
    responses=read_responses(CountsAnswer),
)
def counts(
    request: Request, travel: Travel, filters: Filter, alternatives: Alternatives = "false"
) -> Response:
    """Count the events that the same filters of the trail list, by type, operator and so on."""
    service = service_of(request)
    with service.reading() as (c, head):
        times = travel.resolve(service, head)
        found = service.trail.counts(
            c, position=times.position, alternatives=alternatives == "true", **filters
        )
    return answer({**found, "position": times.position}, position=times.position)


@routes.get(
    "/v1/events/{position}",
    summary="One event",
    openapi_extra=allow(Role.AUDITOR, reveals=True),
    responses=read_responses(EventView, NotFound, StoreBusy, VaultUnavailable),
)
def event(request: Request, position: PositionPath, reveal: Reveal = "false") -> Response:
    """Return one event by its position."""
    service = service_of(request)
    with service.reading() as (c, head):
        recorded = service.recorder.event(position)
        if recorded is None:
            raise NotFound(f"the ledger ends at position {head}")
        found = shown(service, c, recorded)
    if reveal == "true":
        reveal_in(request, position, found["data"])
    return answer(found, position=head)


def shown(service: Service, c: Cursor, recorded: Recorded) -> dict[str, Any]:
    """Return an event as the API shows it, with a word in place of what was erased."""
    found = as_json(recorded)
    if recorded.event.SEALED:
        found["data"] = show_erased(service, c, found["data"])
    return found
