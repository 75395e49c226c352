"""Violations and warnings: recording, overturning, listing."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import Depends, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from ledger.domain.errors import (
    AlreadyOverturned,
    GroundOfAnother,
    GroundOverturned,
    NotFound,
    OccurredInFuture,
    PolicyNotInForce,
    StoreBusy,
    UnknownClause,
    UnknownPolicy,
    UnknownViolation,
    VaultUnavailable,
)
from ledger.domain.values import (
    EVIDENCE_MAX,
    GROUNDS_MAX,
    GROUP_RESOURCES_MAX,
    ClauseRef,
    DetectedBy,
    Evidence,
    FreeText,
    Identifier,
    Instant,
    Name,
    Reason,
    Resource,
    Role,
    Sealed,
    Severity,
    Subject,
    Summary,
    Value,
)
from ledger.service.http.route import Command, allow, router, service_of
from ledger.service.http.sealed import Erased, EvidenceView, Reveal, show_erased, with_sealed
from ledger.service.http.shapes import (
    CommonFilters,
    IdPath,
    Item,
    OfCategory,
    OfClause,
    OfPolicy,
    OfResource,
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
from projections.conduct import ViolationState

routes = router("conduct")
READERS = (Role.AUDITOR, Role.OFFICER, Role.APPROVER)


class ViolationRequest(Value):
    """A finding that a subject broke a clause of a policy."""

    model_config = example(
        {
            "subject": {"type": "user", "id": "alice"},
            "policy": "acceptable-use@1",
            "clause": "fraud",
            "occurred_at": "2026-11-20T09:30:00Z",
            "detected_by": "human",
            "summary": "Phishing texts in the name of a bank.",
            "evidence": [{"uri": "s3://evidence/2026/case-7781.json", "sha256": "0" * 64}],
            "resources": [{"type": "model", "id": "atlas-3"}],
        }
    )
    subject: Subject
    policy: str = Field(
        max_length=80,
        description="A policy version (acceptable-use@1), or a policy: the version then in force.",
        examples=["acceptable-use@1"],
    )
    clause: Name = Field(examples=["fraud"])
    occurred_at: Instant = Field(examples=["2026-11-20T09:30:00Z"])
    detected_by: DetectedBy
    summary: Summary = Field(examples=["Phishing texts in the name of a bank."])
    details: FreeText | None = Field(
        default=None, description="Sealed; shown in no list, and in clear to who asks for it."
    )
    evidence: Annotated[tuple[Evidence, ...], Field(max_length=EVIDENCE_MAX)] = ()
    resources: Annotated[tuple[Resource, ...], Field(max_length=GROUP_RESOURCES_MAX)] = Field(
        default=(), description="The resources that were misused."
    )


class OverturnRequest(Value):
    """Why a violation was found wrong."""

    model_config = example({"reason": "The texts were a security exercise."})
    reason: Reason = Field(examples=["The texts were a security exercise."])


class WarningRequest(Value):
    """A notice to a subject that restricts nothing."""

    model_config = example(
        {
            "subject": {"type": "user", "id": "alice"},
            "grounds": ["vio_01k9qv4w4jbdph1z6cx3m0y7ra"],
            "reason": "Please read clause fraud of our acceptable use policy.",
        }
    )
    subject: Subject
    grounds: Annotated[tuple[Identifier, ...], Field(max_length=GROUNDS_MAX)] = ()
    reason: Reason = Field(examples=["Please read clause fraud of our acceptable use policy."])


class Overturned(BaseModel):
    """Which fact undid a violation, when, and why."""

    position: int
    at: Instant
    reason: str


class ViolationView(BaseModel):
    """A violation as it stands, or stood, without its details."""

    id: str = Field(examples=["vio_01k9qv4w4jbdph1z6cx3m0y7ra"])
    position: int
    subject: Subject
    policy: str = Field(examples=["acceptable-use@1"])
    clause: str
    category: str
    severity: Severity
    occurred_at: Instant
    detected_by: DetectedBy
    summary: str
    evidence: list[EvidenceView]
    resources: list[Resource]
    state: ViolationState
    overturned: Overturned | None
    operator: str
    recorded_at: Instant


class OneViolation(ViolationView):
    """A violation with its details: sealed, erased, or the text because that was asked for."""

    details: Sealed | Erased | str | None


class WarningView(BaseModel):
    """A warning."""

    id: str = Field(examples=["war_01k9qv4w4jbdph1z6cx3m0y7ra"])
    position: int
    subject: Subject
    grounds: list[str]
    clauses: list[ClauseRef]
    reason: str
    operator: str
    recorded_at: Instant


def violation_filter(
    common: CommonFilters,
    state: Annotated[ViolationState | None, Query(description="Of this state, at `at`.")] = None,
    policy: OfPolicy = None,
    clause: OfClause = None,
    category: OfCategory = None,
    model: OfResource = None,
    detected_by: Annotated[DetectedBy | None, Query(description="Found so.")] = None,
) -> dict[str, Any]:
    """Read the filters of violations."""
    return {
        **common,
        "state": state,
        "policy": policy,
        "clause": clause,
        "category": category,
        "model": model_key(model),
        "detected_by": detected_by,
    }


def warning_filter(
    common: CommonFilters, policy: OfPolicy = None, category: OfCategory = None
) -> dict[str, Any]:
    """Read the filters of warnings."""
    return {**common, "policy": policy, "category": category}


ViolationFilter = Annotated[dict[str, Any], Depends(violation_filter)]
WarningFilter = Annotated[dict[str, Any], Depends(warning_filter)]


@routes.post(
    "/v1/violations",
    status_code=201,
    summary="Record a violation",
    openapi_extra=allow(Role.REPORTER, Role.OFFICER, command=True),
    responses=command_responses(
        OccurredInFuture, UnknownPolicy, PolicyNotInForce, UnknownClause, VaultUnavailable
    ),
)
def record_violation(request: Request, body: ViolationRequest) -> Command:
    """Record that a subject broke a clause. It stands until an approver overturns it."""
    ledger = service_of(request).ledger
    return Command(
        partial(
            ledger.record_violation,
            body.subject,
            policy=body.policy,
            clause=body.clause,
            occurred_at=body.occurred_at,
            detected_by=body.detected_by,
            summary=body.summary,
            details=body.details,
            evidence=body.evidence,
            resources=body.resources,
        ),
        subjects=[body.subject],
    )


@routes.post(
    "/v1/violations/{id}/overturn",
    status_code=201,
    summary="Overturn a violation",
    openapi_extra=allow(Role.APPROVER, command=True),
    responses=command_responses(NotFound, AlreadyOverturned),
)
def overturn(request: Request, id: IdPath, body: OverturnRequest) -> Command:
    """Undo a violation. Suspensions that rest on overturned violations only end with it."""
    ledger = service_of(request).ledger
    return Command(partial(ledger.overturn, id, reason=body.reason))


@routes.post(
    "/v1/warnings",
    status_code=201,
    summary="Warn a subject",
    openapi_extra=allow(Role.OFFICER, command=True),
    responses=command_responses(UnknownViolation, GroundOverturned, GroundOfAnother),
)
def warn(request: Request, body: WarningRequest) -> Command:
    """Warn a subject; nothing is refused by it."""
    ledger = service_of(request).ledger
    return Command(
        partial(ledger.warn, body.subject, grounds=body.grounds, reason=body.reason),
        subjects=[body.subject],
    )


@routes.get(
    "/v1/violations",
    summary="List violations",
    openapi_extra=allow(*READERS),
    responses=read_responses(Page[ViolationView]),
)
def violations(
    request: Request, asked: PageAsked, travel: Travel, filters: ViolationFilter
) -> Response:
    """List violations, newest first.

    ``policy`` takes a policy or a version of one; ``model`` a resource id.
    """
    service = service_of(request)

    def find(c: Any, times: Times, **asked_for: Any) -> list[Item]:
        found = service.conduct.violations(c, at=times.at, **asked_for)
        shown: list[Item] = show_erased(service, c, found)
        return shown

    return page(request, asked, travel, find, **filters)


@routes.get(
    "/v1/violations/{id}",
    summary="One violation",
    openapi_extra=allow(*READERS, reveals=True),
    responses=read_responses(OneViolation, NotFound, StoreBusy, VaultUnavailable),
)
def violation(request: Request, id: IdPath, travel: Travel, reveal: Reveal = "false") -> Response:
    """Return one violation as it stands, or stood."""
    service = service_of(request)

    def find(c: Any, times: Times) -> list[Item]:
        found = service.conduct.violations(c, at=times.at, position=times.position, limit=1, id_=id)
        return [with_sealed(service, c, item, "details") for item in found]

    return one(request, travel, id, find, reveal=reveal == "true")


@routes.get(
    "/v1/warnings",
    summary="List warnings",
    openapi_extra=allow(*READERS),
    responses=read_responses(Page[WarningView]),
)
def warnings(
    request: Request, asked: PageAsked, travel: Travel, filters: WarningFilter
) -> Response:
    """List warnings, newest first."""
    return page(
        request,
        asked,
        travel,
        lambda c, _, **asked_for: service_of(request).conduct.warnings(c, **asked_for),
        **filters,
    )


@routes.get(
    "/v1/warnings/{id}",
    summary="One warning",
    openapi_extra=allow(*READERS),
    responses=read_responses(WarningView, NotFound),
)
def warning(request: Request, id: IdPath, travel: Travel) -> Response:
    """Return one warning."""
    return one(
        request,
        travel,
        id,
        lambda c, times: service_of(request).conduct.warnings(
            c, position=times.position, limit=1, id_=id
        ),
    )
