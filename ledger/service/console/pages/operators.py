"""Operators and their keys, never a key itself; for administrators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from fastapi import Request
from fastapi.responses import Response

from ledger.domain.values import Role, format_instant
from ledger.service.console.frame import Listed, render
from ledger.service.console.route import console_router, only
from ledger.service.http.route import service_of
from ledger.service.http.shapes import PageByKeyAsked

routes = console_router()


def state_of(key: Mapping[str, Any], now: str) -> Literal["revoked", "expired", "usable"]:
    """Name the state of a key at an instant, told as RFC 3339 as its times are."""
    if key["revoked_at"] is not None:
        return "revoked"
    return "expired" if key["expires_at"] is not None and key["expires_at"] <= now else "usable"


@routes.get("/console/operators", openapi_extra=only(Role.ADMIN))
def operators(request: Request, asked: PageByKeyAsked) -> Response:
    """List operators by id, each with its role and its keys, as they are now."""
    service = service_of(request)
    with service.reading() as (c, _):
        found = service.operators.operators(c, after=asked.after, limit=asked.limit + 1)
        now = format_instant(service.now())
    shown = found[: asked.limit]
    following = str(shown[-1]["id"]) if len(found) > len(shown) else None
    return render(
        request,
        "operators.html",
        listed=Listed(shown, following),
        state_of=lambda key: state_of(key, now),
    )
