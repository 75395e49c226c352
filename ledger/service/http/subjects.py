"""Subjects: registering, linking, and the whole record of one."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from eventsourcing.persistence import Cursor
from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from ledger.application import Known
from ledger.domain.access import in_force_on
from ledger.domain.errors import (
    AlreadyLinked,
    LinkCycle,
    LinkTooDeep,
    NotLinked,
    TooManyParents,
)
from ledger.domain.values import Instant, Properties, Role, Subject, Value, format_instant
from ledger.service.http.conduct import ViolationView, WarningView
from ledger.service.http.route import Command, allow, answer, router, service_of
from ledger.service.http.sealed import show_erased
from ledger.service.http.shapes import (
    PAGE_MAX,
    SubjectKey,
    Times,
    Travel,
    command_responses,
    example,
    read_responses,
    subject_of,
)
from ledger.service.http.suspensions import ListedSuspension, ReinstatementView
from ledger.service.wiring import Service

routes = router("subjects")


class RegistrationRequest(Value):
    """A subject and its properties, which replace those it had."""

    model_config = example(
        {"subject": {"type": "user", "id": "alice"}, "properties": {"plan": "enterprise"}}
    )
    subject: Subject
    properties: Properties = Field(
        default_factory=dict,
        description="In clear, for conditions; not for personal data.",
        examples=[{"plan": "enterprise"}],
    )


class LinkRequest(Value):
    """A subject and the one above it."""

    model_config = example(
        {
            "subject": {"type": "user", "id": "alice"},
            "parent": {"type": "organization", "id": "northwind"},
        }
    )
    subject: Subject
    parent: Subject


class LinkView(BaseModel):
    """Who stands directly above or below, and since when."""

    subject: Subject
    since: Instant


class LinksView(BaseModel):
    """Who stood directly above and below."""

    parents: list[LinkView]
    children: list[LinkView]


class RecordAnswer(BaseModel):
    """The whole record of a subject as it stood at ``at``, as known at ``known_position``."""

    subject: Subject
    at: Instant
    known_position: int
    position: int
    standing: Literal["good", "suspended"] = Field(
        description="suspended: a suspension of the subject or of an ancestor is in force."
    )
    properties: Properties
    links: LinksView
    violations: list[ViolationView]
    warnings: list[WarningView]
    suspensions: list[ListedSuspension]
    reinstatements: list[ReinstatementView]


@routes.put(
    "/v1/subjects",
    status_code=201,
    summary="Register a subject or set its properties",
    openapi_extra=allow(Role.OFFICER, command=True),
    responses=command_responses(may_hold=True),
)
def register(request: Request, body: RegistrationRequest) -> Command:
    """Make a subject known before any other fact about it, or replace its properties."""
    ledger = service_of(request).ledger
    return Command(
        partial(ledger.register, body.subject, properties=body.properties),
        subjects=[body.subject],
    )


@routes.post(
    "/v1/links",
    status_code=201,
    summary="Link a subject below a parent",
    openapi_extra=allow(Role.OFFICER, command=True),
    responses=command_responses(LinkCycle, AlreadyLinked, TooManyParents, LinkTooDeep),
)
def link(request: Request, body: LinkRequest) -> Command:
    """From now on, what is refused to the parent is refused to the subject."""
    ledger = service_of(request).ledger
    return Command(
        partial(ledger.link, body.subject, parent=body.parent),
        subjects=[body.subject, body.parent],
    )


@routes.delete(
    "/v1/links",
    status_code=201,
    summary="Remove a link",
    openapi_extra=allow(Role.OFFICER, command=True),
    responses=command_responses(NotLinked),
)
def unlink(request: Request, body: LinkRequest) -> Command:
    """From now on, the two stand separately. The link stays in the record of the past."""
    ledger = service_of(request).ledger
    return Command(
        partial(ledger.unlink, body.subject, parent=body.parent),
        subjects=[body.subject, body.parent],
    )


@routes.get(
    "/v1/subjects/record",
    summary="The whole record of a subject",
    openapi_extra=allow(Role.AUDITOR, Role.OFFICER, Role.APPROVER, Role.SERVICE),
    responses=read_responses(RecordAnswer),
)
def record(request: Request, subject: SubjectKey, travel: Travel) -> Response:
    """Return standing, violations, warnings, suspensions, reinstatements, links and properties.

    Each list holds the newest 1,000; the routes of the lists page through more.
    """
    service = service_of(request)
    asked = subject_of(subject)
    with service.reading() as (c, head):
        times = travel.resolve(service, head)
        known = service.ledger.known([asked], position=times.position)
        body = {
            "subject": asked.model_dump(),
            "at": format_instant(times.at),
            "known_position": times.position,
            "position": head,
            **record_of(service, c, known, asked, times),
        }
    return answer(body, position=head)


def record_of(
    service: Service, c: Cursor, known: Known, subject: Subject, times: Times
) -> dict[str, Any]:
    """Return what the record of a subject says, as it stood and as it was known."""
    mine = known.records.get(subject)
    about: dict[str, Any] = {
        "subject": subject.key,
        "position": times.position,
        "limit": PAGE_MAX,
    }
    return {
        "standing": "suspended" if in_force_on(known.records, subject, times.at) else "good",
        "properties": (mine.properties.at(times.at) if mine else None) or {},
        "links": service.access.links_of(c, subject, position=times.position, at=times.at),
        "violations": show_erased(service, c, service.conduct.violations(c, at=times.at, **about)),
        "warnings": service.conduct.warnings(c, **about),
        "suspensions": service.access.suspensions(c, at=times.at, **about),
        "reinstatements": service.access.reinstatements(c, **about),
    }
