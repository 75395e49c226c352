"""Violations and warnings: lists, and a page for each."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import Response

from ledger.domain.errors import NotFound
from ledger.service.console.frame import paged, render
from ledger.service.console.route import console_router, only
from ledger.service.console.shown import (
    RESTING_SHOWN_MAX,
    events_about,
    is_sealed,
    with_human,
    within,
)
from ledger.service.http.conduct import READERS, ViolationFilter, WarningFilter
from ledger.service.http.route import service_of
from ledger.service.http.sealed import reveal_in, with_sealed
from ledger.service.http.shapes import IdPath, PageAsked, TimeTravel, Travel

routes = console_router()


@routes.get("/console/violations", openapi_extra=only(*READERS))
def violations(
    request: Request, asked: PageAsked, travel: Travel, filters: ViolationFilter
) -> Response:
    """List violations as the API does."""
    service = service_of(request)
    with service.reading() as (c, head):
        times = travel.resolve(service, head)
        found = service.conduct.violations(c, at=times.at, **within(asked, times), **filters)
    return render(request, "violations.html", times=times, listed=paged(asked, found))


@routes.get("/console/violations/{id}", openapi_extra=only(*READERS))
def violation(request: Request, id: IdPath, travel: Travel) -> Response:
    """Show one violation, and the suspensions and warnings that rest on it."""
    return _violation(request, id, travel, reveal=False)


@routes.post("/console/violations/{id}", openapi_extra=only(*READERS))
def violation_in_clear(request: Request, id: IdPath, travel: Travel) -> Response:
    """Show it with what is sealed in clear, once it is recorded who was shown it."""
    return _violation(request, id, travel, reveal=True)


def _violation(request: Request, id_: str, travel: TimeTravel, *, reveal: bool) -> Response:
    service = service_of(request)
    with service.reading() as (c, head):
        times = travel.resolve(service, head)
        known: dict[str, Any] = {"at": times.at, "position": times.position}
        found = service.conduct.violations(c, **known, limit=1, id_=id_)
        if not found:
            raise NotFound(f"no violation is recorded under the id {id_!r}")
        item = with_human(service, with_sealed(service, c, found[0], "details"))
        naming = service.access.resting_on(c, id_)
        resting = [
            each
            for _, suspension in naming[:RESTING_SHOWN_MAX]
            for each in service.access.suspensions(c, **known, limit=1, id_=suspension)
        ]
        warnings = service.conduct.warnings(
            c,
            position=times.position,
            limit=RESTING_SHOWN_MAX + 1,
            cursor_position=item["position"],  # a warning comes after what it rests on
            oldest_first=True,
            ground=id_,
        )
        events = events_about(service, c, request.state.caller, id_, times)
    sealed = is_sealed(item)
    if reveal:
        reveal_in(request, item["position"], item)
    return render(
        request,
        "violation.html",
        times=times,
        item=item,
        resting=resting,
        warnings=warnings[:RESTING_SHOWN_MAX],
        more=max(len(naming), len(warnings)) > RESTING_SHOWN_MAX,
        events=events,
        sealed=sealed and not reveal,
    )


@routes.get("/console/warnings", openapi_extra=only(*READERS))
def warnings(
    request: Request, asked: PageAsked, travel: Travel, filters: WarningFilter
) -> Response:
    """List warnings as the API does."""
    service = service_of(request)
    with service.reading() as (c, head):
        times = travel.resolve(service, head)
        found = service.conduct.warnings(c, **within(asked, times), **filters)
    return render(request, "warnings.html", times=times, listed=paged(asked, found))


@routes.get("/console/warnings/{id}", openapi_extra=only(*READERS))
def warning(request: Request, id: IdPath, travel: Travel) -> Response:
    """Show one warning and the violations that it names."""
    service = service_of(request)
    with service.reading() as (c, head):
        times = travel.resolve(service, head)
        found = service.conduct.warnings(c, position=times.position, limit=1, id_=id)
        if not found:
            raise NotFound(f"no warning is recorded under the id {id!r}")
        item = with_human(service, found[0])
        grounds = [
            each
            for ground in item["grounds"]
            for each in service.conduct.violations(
                c, at=times.at, position=times.position, limit=1, id_=ground
            )
        ]
        events = events_about(service, c, request.state.caller, id, times)
    return render(request, "warning.html", times=times, item=item, grounds=grounds, events=events)
