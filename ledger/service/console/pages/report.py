"""The report: the figures of a period, each with a plot and the table behind it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final

from fastapi import Query, Request
from fastapi.responses import Response

from ledger.domain.errors import InvalidValue
from ledger.domain.values import Instant
from ledger.service.console.frame import HEADERS, render, with_query
from ledger.service.console.route import console_router, only
from ledger.service.http.report import PLOT_HEADERS, READERS
from ledger.service.http.route import service_of
from ledger.service.http.shapes import KnownPosition
from ledger.service.periods import Period
from ledger.service.plots import plot_of, plots_of
from ledger.service.report import Reports, tables_of

routes = console_router()

PeriodFrom = Annotated[Instant | None, Query(alias="from")]
PeriodTo = Annotated[Instant | None, Query()]
PeriodName = Annotated[str | None, Query(max_length=10)]
PERIODS_OFFERED: Final = 4  # a year of quarters


@routes.get("/console/report", openapi_extra=only(*READERS))
def report(
    request: Request,
    start: PeriodFrom = None,
    to: PeriodTo = None,
    period: PeriodName = None,
    known_position: KnownPosition = None,
) -> Response:
    """Show the report of a period: of this quarter so far, when none is asked for."""
    service = service_of(request)
    begin, end = bounds(start, to, period, service.now())
    reports: Reports = request.app.state.reports
    found = reports.of(start=begin, end=end, known_position=known_position)
    pinned = {
        "from": found["from"],
        "to": found["to"],
        "known_position": str(found["known_position"]),
    }
    return render(
        request,
        "report.html",
        headers={"Ledger-Position": str(found["known_position"])},
        report=found,
        pinned=pinned,
        exact=with_query("/console/report", pinned),
        offered=recent(service.now()),
        tables=list(tables_of(found)),
        plots=plots_of(found),
    )


@routes.get("/console/report/plot/{name}.svg", openapi_extra=only(*READERS))
def plot(
    request: Request,
    name: str,
    start: Annotated[Instant, Query(alias="from")],
    to: Annotated[Instant, Query()],
    known_position: Annotated[int, Query(ge=0, le=2**53)],
) -> Response:
    """Return a plot of the report of a period at a position."""
    reports: Reports = request.app.state.reports
    found = reports.of(start=start, end=to, known_position=known_position)
    return Response(
        plot_of(name, found), headers={**HEADERS, **PLOT_HEADERS}, media_type="image/svg+xml"
    )


def bounds(
    start: datetime | None, to: datetime | None, period: str | None, now: datetime
) -> tuple[datetime, datetime]:
    """Return from when to when the report is. Raises ``InvalidValue`` for a half or two periods."""
    if period is not None and start is None and to is None:
        named = Period.parse(period)
        return named.start, named.end
    if period is not None or (start is None) != (to is None):
        raise InvalidValue("give a period by its name, or both its from and to", field="from")
    if start is None or to is None:
        quarter = Period.around("quarter", now)
        return quarter.start, quarter.end
    return start, to


def recent(now: datetime) -> list[str]:
    """Return the quarters of the last year by their names, the newest first."""
    quarter = Period.around("quarter", now)
    names = []
    for _ in range(PERIODS_OFFERED):
        names.append(quarter.name)
        quarter = Period("quarter", quarter.first - 3)
    return names
