"""The first page: what is in force, what falls due, what waits for a person, how the log is."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from eventsourcing.persistence import Cursor
from fastapi import Request
from fastapi.responses import Response

from ledger.domain.values import Role
from ledger.service.console.frame import render
from ledger.service.console.route import console_router
from ledger.service.http.conduct import READERS
from ledger.service.http.erasures import READERS as ERASURE_READERS
from ledger.service.http.route import service_of
from ledger.service.http.shapes import Travel
from ledger.service.wiring import Service
from ledger.store.codec import as_json

DUE_DAYS: Final = 30
SHOWN_MAX: Final = 10  # of each list; the pages behind show the rest

routes = console_router()


@routes.get("/console")
def overview(request: Request, travel: Travel) -> Response:
    """Show what matters today, or mattered on another day; each role sees what it may read."""
    service, role = service_of(request), request.state.caller.role
    standing = due = review = erasures = latest = None
    with service.reading() as (c, head):
        times = travel.resolve(service, head)
        known: dict[str, Any] = {"at": times.at, "position": times.position}
        until = times.at + timedelta(days=DUE_DAYS)
        if role in READERS:
            newest = times.position == head
            standing = service.access.standings(c, **known, due_until=until, newest=newest)
            due = service.access.falling_due(
                c, **known, until=until, limit=SHOWN_MAX, newest=newest
            )
            review = (
                service.access.waiting(c, at=times.at, limit=SHOWN_MAX)
                if newest
                else service.access.suspensions(c, **known, limit=SHOWN_MAX, review=True)
            )
        if role in ERASURE_READERS:
            erasures = service.erasures.erasures(
                c, position=times.position, limit=SHOWN_MAX, state="requested"
            )
        if role is Role.AUDITOR:
            positions = service.trail.events(c, position=times.position, limit=SHOWN_MAX)
            latest = [as_json(recorded) for recorded in service.recorder.at_positions(positions)]
        log = _log_health(service, c, head)
    return render(
        request,
        "overview.html",
        times=times,
        standing=standing,
        due=due,
        due_days=DUE_DAYS,
        review=review,
        erasures=erasures,
        latest=latest,
        log=log,
    )


def _log_health(service: Service, c: Cursor, head: int) -> dict[str, Any]:
    """Return how the log is now, whatever time is travelled to."""
    size, signed_at = service.log.newest_signed(c, head) or (0, None)
    return {
        "state": service.signer.state,
        "doubt": service.signer.doubt,
        "events": head,
        "signed": size,
        "signed_at": signed_at,
        "published": service.signer.published[0],
        "witnesses": service.witnesses.standings(c),
    }
