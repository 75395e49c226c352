"""Erasing what is sealed about a person, and the legal holds that forbid it."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from ledger.domain.errors import (
    AlreadyErased,
    AlreadyRequested,
    ConflictOfInterest,
    HoldAlreadyLifted,
    LegalHold,
    NotFound,
    VaultUnavailable,
)
from ledger.domain.values import DataKeyId, Instant, Reason, Role, Subject, Value
from ledger.service.http.route import Command, allow, router, service_of
from ledger.service.http.shapes import (
    IdPath,
    OfSubject,
    Page,
    PageAsked,
    Travel,
    command_responses,
    example,
    one,
    page,
    read_responses,
    subject_key,
)
from projections.erasures import ErasureState, HoldState

routes = router("erasures")
READERS = (Role.ADMIN, Role.APPROVER, Role.AUDITOR)


class ErasureRequest(Value):
    """A wish that what is sealed about a subject be erased."""

    model_config = example(
        {"subject": {"type": "user", "id": "alice"}, "reason": "Asked for by the person."}
    )
    subject: Subject
    reason: Reason = Field(
        description="Kept in clear, for ever: no personal data.",
        examples=["Asked for by the person."],
    )


class HoldRequest(Value):
    """A reason why nothing about a subject may be erased."""

    model_config = example(
        {"subject": {"type": "user", "id": "alice"}, "reason": "Case 12 O 345/26 is pending."}
    )
    subject: Subject
    reason: Reason = Field(
        description="Kept in clear, for ever: no personal data.",
        examples=["Case 12 O 345/26 is pending."],
    )


class DoneView(BaseModel):
    """The fact that ended a hold."""

    position: int
    at: Instant
    operator: str


class ErasedView(DoneView):
    """The fact that confirmed an erasure, with the fingerprints of the keys it destroyed."""

    keys: list[DataKeyId]


class ErasureView(BaseModel):
    """An erasure: requested, or done."""

    id: str = Field(examples=["era_01k9qv4w4jbdph1z6cx3m0y7ra"])
    position: int
    subject: Subject
    reason: str
    operator: str
    recorded_at: Instant
    state: ErasureState
    erased: ErasedView | None


class HoldView(BaseModel):
    """A legal hold: it stands, or was lifted."""

    id: str = Field(examples=["hld_01k9qv4w4jbdph1z6cx3m0y7ra"])
    position: int
    subject: Subject
    reason: str
    operator: str
    recorded_at: Instant
    state: HoldState
    lifted: DoneView | None


@routes.post(
    "/v1/erasures",
    status_code=201,
    summary="Ask that a subject's sealed data be erased",
    openapi_extra=allow(Role.ADMIN, command=True),
    responses=command_responses(LegalHold, AlreadyRequested),
)
def request_erasure(request: Request, body: ErasureRequest) -> Command:
    """Ask for an erasure. Nothing is erased until an approver confirms it."""
    ledger = service_of(request).ledger
    return Command(
        partial(ledger.request_erasure, body.subject, reason=body.reason),
        subjects=[body.subject],
    )


@routes.post(
    "/v1/erasures/{id}/confirmation",
    status_code=201,
    summary="Confirm an erasure",
    openapi_extra=allow(Role.APPROVER, command=True),
    responses=command_responses(
        NotFound, AlreadyErased, LegalHold, ConflictOfInterest, VaultUnavailable
    ),
)
def confirm_erasure(request: Request, id: IdPath) -> Command:
    """Destroy the subject's keys. When this is answered, nobody can read what they sealed.

    A suspension in force goes on being enforced. What is recorded later is sealed by a new key.
    """
    ledger = service_of(request).ledger
    return Command(
        partial(ledger.confirm_erasure, id),
        afterwards=ledger.shred,
    )


@routes.get(
    "/v1/erasures",
    summary="List erasures",
    openapi_extra=allow(*READERS),
    responses=read_responses(Page[ErasureView]),
)
def erasures(
    request: Request,
    asked: PageAsked,
    travel: Travel,
    subject: OfSubject = None,
    state: Annotated[ErasureState | None, Query(description="Of this state.")] = None,
) -> Response:
    """List erasures, newest first."""
    return page(
        request,
        asked,
        travel,
        lambda c, _, **asked_for: service_of(request).erasures.erasures(c, **asked_for),
        subject=subject_key(subject),
        state=state,
    )


@routes.get(
    "/v1/erasures/{id}",
    summary="One erasure",
    openapi_extra=allow(*READERS),
    responses=read_responses(ErasureView, NotFound),
)
def erasure(request: Request, id: IdPath, travel: Travel) -> Response:
    """Return one erasure."""
    return one(
        request,
        travel,
        id,
        lambda c, times: service_of(request).erasures.erasures(
            c, position=times.position, limit=1, id_=id
        ),
    )


@routes.post(
    "/v1/holds",
    status_code=201,
    summary="Place a legal hold",
    openapi_extra=allow(Role.ADMIN, command=True),
    responses=command_responses(),
)
def place_hold(request: Request, body: HoldRequest) -> Command:
    """Forbid every erasure of the subject while the hold stands. Holds add up."""
    ledger = service_of(request).ledger
    return Command(
        partial(ledger.place_hold, body.subject, reason=body.reason),
        subjects=[body.subject],
    )


@routes.delete(
    "/v1/holds/{id}",
    status_code=201,
    summary="Lift a legal hold",
    openapi_extra=allow(Role.ADMIN, command=True),
    responses=command_responses(NotFound, HoldAlreadyLifted),
)
def lift_hold(request: Request, id: IdPath) -> Command:
    """Lift one hold; others on the subject stay. It takes no body."""
    ledger = service_of(request).ledger
    return Command(partial(ledger.lift_hold, id))


@routes.get(
    "/v1/holds",
    summary="List legal holds",
    openapi_extra=allow(*READERS),
    responses=read_responses(Page[HoldView]),
)
def holds(
    request: Request,
    asked: PageAsked,
    travel: Travel,
    subject: OfSubject = None,
    state: Annotated[HoldState | None, Query(description="Of this state.")] = None,
) -> Response:
    """List legal holds, newest first."""
    return page(
        request,
        asked,
        travel,
        lambda c, _, **asked_for: service_of(request).erasures.holds(c, **asked_for),
        subject=subject_key(subject),
        state=state,
    )


@routes.get(
    "/v1/holds/{id}",
    summary="One legal hold",
    openapi_extra=allow(*READERS),
    responses=read_responses(HoldView, NotFound),
)
def hold(request: Request, id: IdPath, travel: Travel) -> Response:
    """Return one legal hold."""
    return one(
        request,
        travel,
        id,
        lambda c, times: service_of(request).erasures.holds(
            c, position=times.position, limit=1, id_=id
        ),
    )
