"""The first page: what is in force, what falls due, what waits for a person, how the log is."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import Response

from ledger.service.console.frame import render
from ledger.service.console.route import console_router
from ledger.service.http.route import service_of
from ledger.service.http.shapes import Travel

routes = console_router()


@routes.get("/console")
def overview(request: Request, travel: Travel) -> Response:
    """Show what matters today."""
    service = service_of(request)
    with service.reading() as (_, head):
        times = travel.resolve(service, head)
    return render(request, "overview.html", times=times)
