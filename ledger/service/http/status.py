"""What is going on? What is in force, falls due and waits for a person, and how the log stands."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from ledger.domain.values import Instant, format_instant
from ledger.service.http.conduct import READERS
from ledger.service.http.route import allow, answer, router, service_of
from ledger.service.http.shapes import Travel, read_responses

routes = router("status")

DUE_WITHIN_DAYS: Final = 30  # a month: as far ahead as people plan
END_OF_TIME: Final = datetime.max.replace(tzinfo=UTC)  # the last instant of the calendar


class CheckpointView(BaseModel):
    """The newest checkpoint that was signed: how many events it covers, and since when."""

    size: int
    signed_at: Instant


class StatusAnswer(BaseModel):
    """The ledger at ``at``, as known at ``known_position``."""

    at: Instant
    known_position: int
    position: int
    recorded_at: Instant | None = Field(description="When the newest event known was recorded.")
    in_force: int = Field(description="Suspensions in force.")
    restricted_subjects: int = Field(
        description="Subjects with a suspension of their own in force."
    )
    scheduled: int = Field(description="Suspensions that have not begun.")
    due_until: Instant
    due: int = Field(description="Suspensions in force whose term ends until `due_until`.")
    review: int = Field(description="Suspensions that wait for a person.")
    checkpoint: CheckpointView | None = Field(
        description="The newest that was signed, of at most `known_position` events."
    )


@routes.get(
    "/v1/status",
    summary="What is in force, falls due and waits for a person",
    openapi_extra=allow(*READERS),
    responses=read_responses(StatusAnswer),
)
def status(request: Request, travel: Travel) -> Response:
    """Count suspensions by how they stand, and say how far the log is signed."""
    service = service_of(request)
    with service.reading() as (c, head):
        times = travel.resolve(service, head)
        due_until = _later(times.at, DUE_WITHIN_DAYS)
        newest = service.recorder.event(times.position) if times.position else None
        signed = service.log.newest_signed(c, times.position)
        body = {
            "at": format_instant(times.at),
            "known_position": times.position,
            "position": head,
            "recorded_at": format_instant(newest.recorded_at) if newest else None,
            **service.access.standings(
                c,
                at=times.at,
                position=times.position,
                due_until=due_until,
                newest=times.position == head,
            ),
            "due_until": format_instant(due_until),
            "checkpoint": {"size": signed[0], "signed_at": signed[1]} if signed else None,
        }
    return answer(body, position=head)


def _later(at: datetime, days: int) -> datetime:
    """Return an instant some days later, or the last one that there is."""
    return at + min(timedelta(days=days), END_OF_TIME - at)
