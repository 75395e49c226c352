"""What an auditor asks about one subject: what may it use, then or now, as known then or now?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from ledger.application import Known
from ledger.domain.access import Request as AccessRequest
from ledger.domain.access import UnknownSubjects, decide, in_force_on
from ledger.domain.catalogue import Catalogue
from ledger.domain.record import Record
from ledger.domain.values import Instant, Resource, Role, Subject, format_instant
from ledger.service.http.route import allow, answer, router, service_of
from ledger.service.http.shapes import (
    SubjectKey,
    Times,
    Travel,
    read_responses,
    subject_of,
)
from ledger.service.http.suspensions import SuspensionView

routes = router("access")


class ResourceAccess(BaseModel):
    """Whether a catalogued resource may be used: with every action, and with each; if not, why."""

    resource: Resource
    allowed: bool
    actions: dict[str, bool] = Field(examples=[{"use": False}])
    suspensions: list[str] = Field(examples=[["sus_01k9qv4w4jbdph1z6cx3m0y7ra"]])
    until: Instant | None = Field(description="When every action is allowed again, if known.")


class AccessAnswer(BaseModel):
    """What a subject may use at ``at``, as known at ``known_position``."""

    subject: Subject
    at: Instant
    known_position: int
    position: int
    suspensions: list[SuspensionView]
    resources: list[ResourceAccess]


@routes.get(
    "/v1/access",
    summary="What a subject may use, at any time, as known at any time",
    openapi_extra=allow(Role.AUDITOR, Role.OFFICER, Role.APPROVER, Role.SERVICE),
    responses=read_responses(AccessAnswer),
)
def access(request: Request, subject: SubjectKey, travel: Travel) -> Response:
    """Return every suspension in force on the subject, and what each catalogued resource answers.

    ``at`` asks what was in force then; ``known_at`` or ``known_position`` what was known then.
    """
    service = service_of(request)
    asked = subject_of(subject)
    with service.reading() as (_, head):
        times = travel.resolve(service, head)
        known = service.ledger.known([asked], position=times.position)
    body = {
        "subject": asked.model_dump(),
        "at": format_instant(times.at),
        "known_position": times.position,
        "position": head,
        **access_of(known, asked, times, service.settings.unknown_subject),
    }
    return answer(body, position=head)


def access_of(
    known: Known, subject: Subject, times: Times, unknown: UnknownSubjects
) -> dict[str, list[dict[str, Any]]]:
    """Return the suspensions in force on a subject, and what each catalogued resource answers."""
    return {
        "suspensions": [
            suspension.as_json(times.at)
            for suspension in in_force_on(known.records, subject, times.at)
        ],
        "resources": [
            _resource_access(
                known.records,
                known.catalogue,
                subject,
                entry.resource,
                entry.actions,
                times,
                unknown,
            )
            for entry in known.catalogue.listed_at(times.at)
        ],
    }


def _resource_access(
    records: Mapping[Subject, Record],
    catalogue: Catalogue,
    subject: Subject,
    resource: Resource,
    actions: Sequence[str],
    times: Times,
    unknown: UnknownSubjects,
) -> dict[str, object]:
    decided = {
        action: decide(
            records,
            catalogue,
            AccessRequest(subject, resource, action),
            times.at,
            unknown=unknown,
        )
        for action in actions
    }
    refused = [decision for decision in decided.values() if not decision.allowed]
    ends = [decision.until for decision in refused]
    known_ends = [end for end in ends if end is not None]
    until = max(known_ends) if known_ends and len(known_ends) == len(ends) else None
    return {
        "resource": resource.model_dump(),
        "allowed": not refused,
        "actions": {action: decision.allowed for action, decision in decided.items()},
        "suspensions": list(dict.fromkeys(s.id for d in refused for s in d.suspensions)),
        "until": format_instant(until) if until else None,
    }
