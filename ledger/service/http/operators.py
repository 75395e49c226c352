"""Operators and their keys."""

from __future__ import annotations

from functools import partial

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from ledger.domain.errors import (
    EndInPast,
    KeyAlreadyRevoked,
    LastAdminKey,
    NotFound,
    ReservedOperator,
)
from ledger.domain.values import Identifier, Instant, Role, Title, Value
from ledger.service.http.route import Command, allow, router, service_of
from ledger.service.http.shapes import (
    IdPath,
    KeyAnswer,
    Page,
    PageByKeyAsked,
    command_responses,
    example,
    page_by_key,
    read_responses,
)

routes = router("operators")


class OperatorRequest(Value):
    """An operator and its one role."""

    model_config = example({"id": "mod-tool", "role": "officer"})
    id: Identifier = Field(examples=["mod-tool"])
    role: Role = Field(examples=["officer"])


class KeyRequest(Value):
    """What a new key is for and until when it opens anything."""

    model_config = example({"label": "moderation tool, production"})
    expires_at: Instant | None = Field(default=None, description="Never when absent.")
    label: Title | None = Field(default=None, examples=["moderation tool, production"])


class KeyView(BaseModel):
    """A key, without the key itself or its digest."""

    id: str = Field(examples=["key_01k9qv4w4jbdph1z6cx3m0y7ra"])
    label: str | None
    issued_at: Instant
    expires_at: Instant | None
    revoked_at: Instant | None


class OperatorView(BaseModel):
    """An operator, its role and its keys."""

    id: str = Field(examples=["mod-tool"])
    role: Role
    keys: list[KeyView]


@routes.post(
    "/v1/operators",
    status_code=201,
    summary="Enroll an operator or change its role",
    openapi_extra=allow(Role.ADMIN, command=True),
    responses=command_responses(ReservedOperator, LastAdminKey, may_hold=True),
)
def enroll(request: Request, body: OperatorRequest) -> Command:
    """Let an operator act in one role; for one that is enrolled, change its role."""
    ledger = service_of(request).ledger
    return Command(partial(ledger.enroll, body.id, role=body.role))


@routes.post(
    "/v1/operators/{id}/keys",
    status_code=201,
    summary="Issue a key",
    openapi_extra=allow(Role.ADMIN, command=True),
    responses=command_responses(NotFound, EndInPast, model=KeyAnswer),
)
def issue_key(request: Request, id: IdPath, body: KeyRequest) -> Command:
    """Issue one more key. It is shown in this answer only; the ledger keeps its SHA-256."""
    ledger = service_of(request).ledger
    return Command(
        partial(ledger.issue_key, id, expires_at=body.expires_at, label=body.label),
    )


@routes.delete(
    "/v1/keys/{id}",
    status_code=201,
    summary="Revoke a key",
    openapi_extra=allow(Role.ADMIN, command=True),
    responses=command_responses(NotFound, KeyAlreadyRevoked, LastAdminKey),
)
def revoke_key(request: Request, id: IdPath) -> Command:
    """Refuse a key from now on, in every process within a second."""
    ledger = service_of(request).ledger
    return Command(partial(ledger.revoke_key, id))


@routes.get(
    "/v1/operators",
    summary="List operators and their keys",
    openapi_extra=allow(Role.ADMIN),
    responses=read_responses(Page[OperatorView]),
)
def operators(request: Request, asked: PageByKeyAsked) -> Response:
    """List operators by id, each with its role and its keys; never a key or its digest."""
    service = service_of(request)
    with service.reading() as (c, head):
        items = service.operators.operators(c, after=asked.after, limit=asked.limit + 1)
    return page_by_key(request, asked, [(str(item["id"]), item) for item in items], head)
