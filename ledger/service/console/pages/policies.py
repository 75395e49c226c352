"""Policies: the words by which conduct is judged, from when, and how versions differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from fastapi import Query, Request
from fastapi.responses import Response

from ledger.domain.errors import NotFound
from ledger.domain.events import PolicyPublished, Recorded
from ledger.domain.policy import Policy
from ledger.service.console.clause_changes import clause_changes
from ledger.service.console.frame import render
from ledger.service.console.route import console_router
from ledger.service.console.shown import paged_by_key
from ledger.service.http.catalogue import NamePath
from ledger.service.http.route import service_of
from ledger.service.http.shapes import PageByKeyAsked, Travel

VersionAsked = Annotated[int | None, Query(ge=1, le=2**31, description="The words of a version.")]
FromVersion = Annotated[
    int | None, Query(alias="from", ge=1, le=2**31, description="Compare this version ...")
]
ToVersion = Annotated[
    int | None, Query(alias="to", ge=1, le=2**31, description="... with this one.")
]

routes = console_router()


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a policy, and whether conduct at an instant is judged by it."""

    recorded: Recorded
    event: PolicyPublished
    until: datetime | None
    """From when the next is in force; ``None`` for the newest."""
    state: Literal["judges", "later", "replaced"]


def versions_of(policy: Policy, at: datetime) -> list[Version]:
    """Return a policy's versions, the newest first."""
    judges = policy.in_force(at)
    following: Sequence[PolicyPublished | None] = [*policy.versions[1:], None]
    return [
        Version(
            recorded,
            event,
            after.effective_at if after else None,
            "judges" if event is judges else "later" if event.effective_at > at else "replaced",
        )
        for recorded, event, after in zip(policy.published, policy.versions, following, strict=True)
    ][::-1]


@routes.get("/console/policies")
def policies(request: Request, asked: PageByKeyAsked, travel: Travel) -> Response:
    """List every policy with the version in force and the newest."""
    service = service_of(request)
    with service.reading() as (_, head):
        times = travel.resolve(service, head)
        found = service.ledger.policies(position=times.position)
    listed = paged_by_key(asked, [(policy.id, policy) for policy in found])
    return render(request, "policies.html", times=times, listed=listed)


@routes.get("/console/policies/{id}")
def policy(
    request: Request,
    id: NamePath,
    travel: Travel,
    version: VersionAsked = None,
    before: FromVersion = None,
    after: ToVersion = None,
) -> Response:
    """Show a policy's versions, the words of one of them, or what changed between two."""
    service = service_of(request)
    with service.reading() as (_, head):
        times = travel.resolve(service, head)
        found = {policy.id: policy for policy in service.ledger.policies(position=times.position)}
    if id not in found:
        raise NotFound(f"no policy {id!r} was published")
    policy = found[id]
    compared = changes = None
    if before is not None or after is not None:
        later = policy.version(after or len(policy.versions))
        compared = (policy.version(before or max(1, later.version - 1)), later)
        changes = clause_changes(compared[0].clauses, compared[1].clauses)
    shown = (
        policy.version(version)
        if version is not None
        else policy.in_force(times.at) or policy.versions[-1]
    )
    return render(
        request,
        "policy.html",
        times=times,
        policy=policy,
        versions=versions_of(policy, times.at),
        shown=shown,
        compared=compared,
        changes=changes,
    )
