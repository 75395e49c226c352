"""Suspensions and reinstatements: deciding and listing."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import Depends, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field, StrictBool

from ledger.domain.errors import (
    AlreadyEnded,
    AlreadyStarted,
    CauseNotAllowed,
    EffectiveInPast,
    EndInPast,
    EndTooFar,
    GroundOfAnother,
    GroundOverturned,
    GroundsRequired,
    NotFound,
    StoreBusy,
    TermRequired,
    UnknownGroup,
    UnknownViolation,
    VaultUnavailable,
)
from ledger.domain.record import SuspensionState
from ledger.domain.values import (
    GROUNDS_MAX,
    Basis,
    Cause,
    ClauseRef,
    Disclosure,
    Duration,
    Ending,
    FreeText,
    Identifier,
    Instant,
    Reason,
    Role,
    Scope,
    Sealed,
    Subject,
    Value,
)
from ledger.service.http.conduct import READERS
from ledger.service.http.route import Command, allow, router, service_of
from ledger.service.http.sealed import Erased, Reveal, with_sealed
from ledger.service.http.shapes import (
    CommonFilters,
    IdPath,
    Item,
    OfCategory,
    OfPolicy,
    OfResource,
    OfSuspension,
    Page,
    PageAsked,
    Times,
    Travel,
    command_responses,
    example,
    model_key,
    one,
    page,
    read_responses,
)

routes = router("suspensions")
Review = Annotated[bool | None, Query(description="Whether it waits for a person.")]


class Term(Value):
    """An end, given in exactly one of three ways."""

    duration: Duration | None = Field(
        default=None, description="By the calendar in UTC, from the start.", examples=["P2M"]
    )
    ends_at: Instant | None = Field(default=None, description="The first instant after the term.")
    indefinite: StrictBool = Field(default=False, description="No end.")


class SuspensionRequest(Term):
    """A decision to refuse a scope to a subject and to all below it."""

    model_config = example(
        {
            "subject": {"type": "user", "id": "alice"},
            "scope": {"resources": [{"group": "frontier"}]},
            "duration": "P2M",
            "grounds": ["vio_01k9qv4w4jbdph1z6cx3m0y7ra"],
            "reason": "Repeated fraud after two warnings.",
        }
    )
    subject: Subject
    scope: Scope = Field(examples=[{"resources": [{"group": "frontier"}]}])
    effective_at: Instant | None = Field(default=None, description="Now when absent.")
    grounds: Annotated[tuple[Identifier, ...], Field(max_length=GROUNDS_MAX)] = Field(
        default=(), description="Violations of the subject or of subjects below it that stand."
    )
    basis: Basis = Basis.VIOLATIONS
    reason: Reason = Field(
        description="Shown to the subject.",
        examples=["Repeated fraud after two warnings."],
    )
    note: FreeText | None = Field(
        default=None, description="Sealed; shown in no list, and in clear to who asks for it."
    )
    reinstatement: Ending = Field(
        default=Ending.AUTOMATIC, description="on_review holds past the end until a person looks."
    )
    disclosure: Disclosure = "notified"


class RevisionRequest(Term):
    """A new end; a duration counts from the suspension's start."""

    model_config = example({"duration": "P3M", "reason": "The fraud went on from a new account."})
    reason: Reason


class CancellationRequest(Value):
    """Why a suspension is taken back before it begins."""

    model_config = example({"reason": "The subject has complied."})
    reason: Reason


class ReinstatementRequest(Value):
    """A decision to end one suspension."""

    model_config = example(
        {
            "suspension": "sus_01k9qv4w4jbdph1z6cx3m0y7ra",
            "cause": "early",
            "reason": "The subject has complied.",
        }
    )
    suspension: Identifier
    cause: Cause
    reason: Reason
    effective_at: Instant | None = Field(
        default=None,
        description=(
            "Now when absent. May lie in the past for error, violation_overturned and legal_order: "
            "a correction of what was in force, known from now on."
        ),
    )


class EndedView(BaseModel):
    """What ended a suspension: the fact that says so, from when, and why."""

    position: int
    at: Instant
    cause: str = Field(examples=["early"], description="Of a reinstatement, or cancelled.")


class SuspensionView(BaseModel):
    """A suspension as it stands, or stood, without its note."""

    id: str = Field(examples=["sus_01k9qv4w4jbdph1z6cx3m0y7ra"])
    position: int
    subject: Subject
    scope: Scope
    state: SuspensionState
    effective_at: Instant
    ends_at: Instant | None
    duration: str | None = Field(examples=["P2M"])
    basis: Basis
    grounds: list[str]
    clauses: list[ClauseRef]
    reason: str
    reinstatement: Ending
    disclosure: Disclosure
    ended: EndedView | None


class ListedSuspension(SuspensionView):
    """A suspension in lists: also whether it waits for a person, and who decided it when."""

    review: bool
    operator: str
    recorded_at: Instant


class OneSuspension(ListedSuspension):
    """A suspension with its note: sealed, erased, or the text because that was asked for."""

    note: Sealed | Erased | str | None


class ReinstatementView(BaseModel):
    """The fact that ended a suspension; ``reason`` is null when the term ended by itself."""

    id: str = Field(examples=["rei_01k9qv4w4jbdph1z6cx3m0y7ra"])
    position: int
    suspension: str
    subject: Subject
    cause: Cause
    effective_at: Instant
    reason: str | None
    operator: str
    recorded_at: Instant


def suspension_filter(
    common: CommonFilters,
    state: Annotated[SuspensionState | None, Query(description="Of this state, at `at`.")] = None,
    review: Review = None,
    in_force: Annotated[Instant | None, Query(description="In force at this instant.")] = None,
    model: OfResource = None,
    policy: OfPolicy = None,
    category: OfCategory = None,
) -> dict[str, Any]:
    """Read the filters of suspensions."""
    return {
        **common,
        "state": state,
        "review": review,
        "in_force_at": in_force,
        "model": model_key(model),
        "policy": policy,
        "category": category,
    }


def reinstatement_filter(
    common: CommonFilters,
    suspension: OfSuspension = None,
    cause: Annotated[Cause | None, Query(description="For this cause.")] = None,
) -> dict[str, Any]:
    """Read the filters of reinstatements."""
    return {**common, "suspension": suspension, "cause": cause}


SuspensionFilter = Annotated[dict[str, Any], Depends(suspension_filter)]
ReinstatementFilter = Annotated[dict[str, Any], Depends(reinstatement_filter)]


@routes.post(
    "/v1/suspensions",
    status_code=201,
    summary="Suspend a subject",
    openapi_extra=allow(Role.OFFICER, command=True),
    responses=command_responses(
        TermRequired,
        EndTooFar,
        EffectiveInPast,
        EndInPast,
        GroundsRequired,
        UnknownViolation,
        GroundOverturned,
        GroundOfAnother,
        UnknownGroup,
        VaultUnavailable,
    ),
)
def suspend(request: Request, body: SuspensionRequest) -> Command:
    """Refuse a scope to a subject and all below it. It binds when this is answered."""
    ledger = service_of(request).ledger
    return Command(
        partial(
            ledger.suspend,
            body.subject,
            scope=body.scope,
            duration=body.duration,
            ends_at=body.ends_at,
            indefinite=body.indefinite,
            effective_at=body.effective_at,
            basis=body.basis,
            grounds=body.grounds,
            reason=body.reason,
            note=body.note,
            reinstatement=body.reinstatement,
            disclosure=body.disclosure,
        ),
        subjects=[body.subject],
    )


@routes.post(
    "/v1/suspensions/{id}/revision",
    status_code=201,
    summary="Move the end of a suspension",
    openapi_extra=allow(Role.OFFICER, command=True),
    responses=command_responses(NotFound, AlreadyEnded, TermRequired, EndTooFar, EndInPast),
)
def revise(request: Request, id: IdPath, body: RevisionRequest) -> Command:
    """Extend or shorten a suspension that is scheduled or in force."""
    ledger = service_of(request).ledger
    return Command(
        partial(
            ledger.revise,
            id,
            duration=body.duration,
            ends_at=body.ends_at,
            indefinite=body.indefinite,
            reason=body.reason,
        ),
    )


@routes.post(
    "/v1/suspensions/{id}/cancellation",
    status_code=201,
    summary="Cancel a suspension before it begins",
    openapi_extra=allow(Role.OFFICER, command=True),
    responses=command_responses(NotFound, AlreadyEnded, AlreadyStarted),
)
def cancel(request: Request, id: IdPath, body: CancellationRequest) -> Command:
    """Take back a suspension that has not begun."""
    ledger = service_of(request).ledger
    return Command(partial(ledger.cancel, id, reason=body.reason))


@routes.post(
    "/v1/reinstatements",
    status_code=201,
    summary="End a suspension",
    openapi_extra=allow(Role.OFFICER, Role.APPROVER, command=True),
    responses=command_responses(NotFound, AlreadyEnded, CauseNotAllowed),
)
def reinstate(request: Request, body: ReinstatementRequest) -> Command:
    """End one suspension; others of the same subject stay as they are."""
    ledger = service_of(request).ledger
    return Command(
        partial(
            ledger.reinstate,
            body.suspension,
            cause=body.cause,
            reason=body.reason,
            effective_at=body.effective_at,
        ),
    )


@routes.get(
    "/v1/suspensions",
    summary="List suspensions",
    openapi_extra=allow(*READERS),
    responses=read_responses(Page[ListedSuspension]),
)
def suspensions(
    request: Request, asked: PageAsked, travel: Travel, filters: SuspensionFilter
) -> Response:
    """List suspensions, newest first.

    ``state`` is that at ``at``; ``in_force`` is an instant at which they were in force; ``review``
    lists those that wait for a person; ``model`` matches by id, by type and by group.
    """
    return page(
        request,
        asked,
        travel,
        lambda c, times, **asked_for: service_of(request).access.suspensions(
            c, at=times.at, **asked_for
        ),
        **filters,
    )


@routes.get(
    "/v1/suspensions/{id}",
    summary="One suspension",
    openapi_extra=allow(*READERS, reveals=True),
    responses=read_responses(OneSuspension, NotFound, StoreBusy, VaultUnavailable),
)
def suspension(request: Request, id: IdPath, travel: Travel, reveal: Reveal = "false") -> Response:
    """Return one suspension as it stands, or stood."""
    service = service_of(request)

    def find(c: Any, times: Times) -> list[Item]:
        found = service.access.suspensions(c, at=times.at, position=times.position, limit=1, id_=id)
        return [with_sealed(service, c, item, "note") for item in found]

    return one(request, travel, id, find, reveal=reveal == "true")


@routes.get(
    "/v1/reinstatements",
    summary="List reinstatements",
    openapi_extra=allow(*READERS),
    responses=read_responses(Page[ReinstatementView]),
)
def reinstatements(
    request: Request, asked: PageAsked, travel: Travel, filters: ReinstatementFilter
) -> Response:
    """List reinstatements, newest first."""
    return page(
        request,
        asked,
        travel,
        lambda c, _, **asked_for: service_of(request).access.reinstatements(c, **asked_for),
        **filters,
    )


@routes.get(
    "/v1/reinstatements/{id}",
    summary="One reinstatement",
    openapi_extra=allow(*READERS),
    responses=read_responses(ReinstatementView, NotFound),
)
def reinstatement(request: Request, id: IdPath, travel: Travel) -> Response:
    """Return one reinstatement."""
    return one(
        request,
        travel,
        id,
        lambda c, times: service_of(request).access.reinstatements(
            c, position=times.position, limit=1, id_=id
        ),
    )
