"""Signing in at an OpenID provider: going there, and coming back."""

from __future__ import annotations

import logging
from typing import Annotated, Final
from urllib.parse import quote

from fastapi import Query, Request
from fastapi.responses import RedirectResponse, Response

from ledger.domain.errors import NotFound
from ledger.service.console.frame import HEADERS, render
from ledger.service.console.openid import STARTED_S, OpenId, SignInRefused, Started
from ledger.service.console.route import (
    ANYBODY,
    SENT_BACK,
    console_router,
    is_over_tls,
    keep_session,
    local_address,
)
from ledger.service.console.session import Seals, begin
from ledger.service.http.route import service_of

CALLBACK: Final = "/console/oidc/callback"
STARTED_COOKIE: Final = "ledger_console_oidc"

routes = console_router()
log = logging.getLogger(__name__)


@routes.get("/console/oidc", openapi_extra=ANYBODY)
def leave(
    request: Request, following: Annotated[str | None, Query(alias="next")] = None
) -> Response:
    """Send the browser to the provider, with a cookie by which its answer is known."""
    provider, service = _provider_of(request), service_of(request)
    started = Started.begin(following and local_address(following), service.now_us())
    target = provider.address(started, _callback_of(request))
    response = RedirectResponse(quote(target, safe=":/?#[]@!$&'()*+,;=%"), 303, headers=HEADERS)
    sealed = Seals(service.console_key).seal(
        "sign-in",
        [started.state, started.nonce, started.verifier, started.following, started.at],
    )
    # Lax: the way back comes from the provider's site, and a strict cookie would stay behind.
    response.set_cookie(
        STARTED_COOKIE,
        sealed,
        max_age=STARTED_S,
        path=CALLBACK,
        secure=is_over_tls(request),
        httponly=True,
        samesite="lax",
    )
    return response


@routes.get(CALLBACK, openapi_extra=SENT_BACK)
def come_back(request: Request) -> Response:
    """Begin a session for whom the provider vouches for, if the ledger knows them as that."""
    provider, service = _provider_of(request), service_of(request)
    service.feed.require_current()
    now = service.now_us()
    try:
        started = _started(request)
        claims = provider.claims(
            started, dict(request.query_params), _callback_of(request), now=now
        )
        caller = provider.caller(claims, service.keyring)
    except SignInRefused as refusal:
        log.warning("a sign-in at the OpenID provider was refused: %s", refusal)
        raise SignInRefused("This account could not be signed in to the console.") from None
    session = begin(caller, now, by_key=False)
    # A strict cookie does not go with a redirect that began elsewhere, but with what we open.
    response = render(request, "arriving.html", here=started.following or "/console")
    request.state.session = session
    keep_session(request, response, session)
    response.delete_cookie(
        STARTED_COOKIE, path=CALLBACK, secure=is_over_tls(request), httponly=True, samesite="lax"
    )
    log.info("somebody signed in to the console at the OpenID provider")
    return response


def _started(request: Request) -> Started:
    """Return the sign-in that this browser began. Raises ``SignInRefused``."""
    seals = Seals(service_of(request).console_key)
    found = seals.unseal("sign-in", request.cookies.get(STARTED_COOKIE, ""))
    if not isinstance(found, list):
        raise SignInRefused("the answer is not one to a sign-in that this browser began")
    return Started(*found)


def _provider_of(request: Request) -> OpenId:
    provider: OpenId | None = request.app.state.openid
    if provider is None:
        raise NotFound("no OpenID provider is named in the settings")
    return provider


def _callback_of(request: Request) -> str:
    """Return the address to which the provider sends a browser back; it must know it already."""
    public = service_of(request).settings.public_url
    if public is None:
        scheme = "https" if is_over_tls(request) else "http"
        public = f"{scheme}://{request.headers.get('host', '')}"
    return f"{public}{CALLBACK}"
