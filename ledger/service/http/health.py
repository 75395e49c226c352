"""Is the process alive, and is it fit to answer?"""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import Response

from ledger.domain.errors import Unavailable
from ledger.service.http.problems import responses
from ledger.service.http.route import answer, router, service_of
from projections.access import from_microseconds

routes = router("health")


@routes.get("/livez", summary="Is the process alive?", responses={200: {"model": dict[str, Any]}})
async def livez(request: Request) -> Response:
    """Answer as long as the process can answer anything."""
    return answer({"status": "alive"}, position=service_of(request).feed.position)


@routes.get(
    "/readyz",
    summary="Is the process fit to answer?",
    responses={200: {"model": dict[str, Any]}, **responses(Unavailable)},
)
def readyz(request: Request) -> Response:
    """Answer with the position applied, how far that is behind the store, and the clock's state.

    503 when this process stopped following the store: its checks would be stale.
    """
    service = service_of(request)
    service.feed.require_current()
    with service.reading() as (_, head):
        behind_s = (from_microseconds(service.index.recorded_at) - service.clock()).total_seconds()
        body = {
            "status": "ready",
            "position": service.feed.position,
            "lag": max(0, head - service.feed.position),
            "restricted_subjects": service.index.subjects,
            "clock_behind_s": max(0.0, behind_s),
        }
    return answer(body, position=service.feed.position)
