"""Signing in with a key, and out."""

from __future__ import annotations

import logging
from typing import Annotated, Final

from fastapi import Query, Request
from fastapi.responses import RedirectResponse, Response

from ledger.service.console.frame import HEADERS, render
from ledger.service.console.openid import OpenId
from ledger.service.console.route import (
    ANYBODY,
    SIGN_IN,
    console_router,
    end_session,
    form_of,
    keep_session,
    local_address,
)
from ledger.service.console.session import ABSOLUTE_S, CONSOLE_ROLES, IDLE_S, begin
from ledger.service.http.problems import NotAuthenticated
from ledger.service.http.route import KEY_BYTES_MAX, caller_of, service_of

REFUSED: Final = "This key does not open the console."

routes = console_router()
log = logging.getLogger(__name__)


@routes.get(SIGN_IN, openapi_extra=ANYBODY)
def sign_in_page(
    request: Request, following: Annotated[str | None, Query(alias="next")] = None
) -> Response:
    """Ask for a key; who is signed in already goes on."""
    if request.state.session is not None:
        return go_on(following)
    return ask(request, following)


@routes.post(SIGN_IN, openapi_extra=ANYBODY)
def sign_in(request: Request) -> Response:
    """Begin a session for a key. All that does not open the console is refused in one wording."""
    service, form = service_of(request), form_of(request)
    key = form.get("key", "").encode()[: KEY_BYTES_MAX + 1]
    try:
        caller = caller_of(service, key)
    except NotAuthenticated:
        caller = None
    if caller is None or caller.role not in CONSOLE_ROLES:
        log.warning("a sign-in to the console was refused")
        return ask(request, form.get("next"), refused=True)
    response = go_on(form.get("next"))
    session = begin(caller, service.now_us())
    request.state.session = session
    keep_session(request, response, session)
    log.info("somebody signed in to the console")
    return response


@routes.post("/console/sign-out")
def sign_out(request: Request) -> Response:
    """End the session in this browser."""
    response = RedirectResponse(SIGN_IN, 303, headers=HEADERS)
    end_session(request, response)
    return response


def ask(request: Request, following: str | None, *, refused: bool = False) -> Response:
    """Return the page with the form."""
    provider: OpenId | None = request.app.state.openid
    return render(
        request,
        "sign-in.html",
        403 if refused else 200,
        following=following and local_address(following),
        refused=REFUSED if refused else None,
        single_sign_on=provider and provider.name,
        idle_minutes=IDLE_S // 60,
        absolute_hours=ABSOLUTE_S // 3600,
    )


def go_on(following: str | None) -> Response:
    """Send a browser to where it was going, if that is a page of ours."""
    target = (following and local_address(following)) or "/console"
    return RedirectResponse(target, 303, headers=HEADERS)
