"""Suspensions, and the reinstatements that ended them: lists, and a page for each."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import Response

from ledger.domain.errors import NotFound
from ledger.domain.values import Subject
from ledger.service.console.frame import paged, render
from ledger.service.console.route import console_router, only
from ledger.service.console.shown import events_about, is_sealed, with_human, within
from ledger.service.http.conduct import READERS
from ledger.service.http.route import service_of
from ledger.service.http.sealed import reveal_in, with_sealed
from ledger.service.http.shapes import IdPath, PageAsked, TimeTravel, Travel
from ledger.service.http.suspensions import ReinstatementFilter, SuspensionFilter

routes = console_router()


@routes.get("/console/suspensions", openapi_extra=only(*READERS))
def suspensions(
    request: Request, asked: PageAsked, travel: Travel, filters: SuspensionFilter
) -> Response:
    """List suspensions as the API does."""
    service = service_of(request)
    with service.reading() as (c, head):
        times = travel.resolve(service, head)
        found = service.access.suspensions(c, at=times.at, **within(asked, times), **filters)
    return render(request, "suspensions.html", times=times, listed=paged(asked, found))


@routes.get("/console/suspensions/{id}", openapi_extra=only(*READERS))
def suspension(request: Request, id: IdPath, travel: Travel) -> Response:
    """Show one suspension, what it rests on, and how it ended."""
    return _suspension(request, id, travel, reveal=False)


@routes.post("/console/suspensions/{id}", openapi_extra=only(*READERS))
def suspension_in_clear(request: Request, id: IdPath, travel: Travel) -> Response:
    """Show it with its note in clear, once it is recorded who was shown it."""
    return _suspension(request, id, travel, reveal=True)


def _suspension(request: Request, id_: str, travel: TimeTravel, *, reveal: bool) -> Response:
    service = service_of(request)
    with service.reading() as (c, head):
        times = travel.resolve(service, head)
        known: dict[str, Any] = {"at": times.at, "position": times.position}
        found = service.access.suspensions(c, **known, limit=1, id_=id_)
        if not found:
            raise NotFound(f"no suspension is recorded under the id {id_!r}")
        item = with_human(service, with_sealed(service, c, found[0], "note"))
        subject = Subject.model_validate(item["subject"]).key
        grounds = [
            each
            for ground in item["grounds"]
            for each in service.conduct.violations(c, **known, limit=1, id_=ground)
        ]
        # A suspension ends once.
        reinstated = service.access.reinstatements(
            c, position=times.position, limit=1, subject=subject, suspension=id_
        )
        events = events_about(service, c, request.state.caller, id_, times)
    sealed = is_sealed(item)
    if reveal:
        reveal_in(request, item["position"], item)
    return render(
        request,
        "suspension.html",
        times=times,
        item=item,
        grounds=grounds,
        reinstatement=reinstated[0] if reinstated else None,
        events=events,
        sealed=sealed and not reveal,
    )


@routes.get("/console/reinstatements", openapi_extra=only(*READERS))
def reinstatements(
    request: Request, asked: PageAsked, travel: Travel, filters: ReinstatementFilter
) -> Response:
    """List reinstatements as the API does."""
    service = service_of(request)
    with service.reading() as (c, head):
        times = travel.resolve(service, head)
        found = service.access.reinstatements(c, **within(asked, times), **filters)
    return render(request, "reinstatements.html", times=times, listed=paged(asked, found))


@routes.get("/console/reinstatements/{id}", openapi_extra=only(*READERS))
def reinstatement(request: Request, id: IdPath, travel: Travel) -> Response:
    """Show one reinstatement with the suspension that it ended."""
    service = service_of(request)
    with service.reading() as (c, head):
        times = travel.resolve(service, head)
        found = service.access.reinstatements(c, position=times.position, limit=1, id_=id)
        if not found:
            raise NotFound(f"no reinstatement is recorded under the id {id!r}")
        item = with_human(service, found[0])
        (ended,) = service.access.suspensions(
            c, at=times.at, position=times.position, limit=1, id_=str(item["suspension"])
        )
        events = events_about(service, c, request.state.caller, id, times)
    return render(request, "reinstatement.html", times=times, item=item, ended=ended, events=events)
