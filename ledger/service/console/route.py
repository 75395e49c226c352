"""The gate before every page: is somebody signed in, may they, does the form come from us?

What is refused is answered as a page. Who is not signed in is sent to the sign-in page and back.

An address is put in order first: an empty field of a form is no parameter, and a date and time
without an offset is one of UTC. The browser is sent to the address in order, which is then the one
that is copied and sent to somebody.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from fastapi.routing import APIRoute

from ledger.application import Done, Once
from ledger.domain.errors import LedgerError
from ledger.domain.events import Author
from ledger.domain.values import Role
from ledger.service.console.frame import HEADERS, error_page, render, with_query
from ledger.service.console.session import ABSOLUTE_S, CONSOLE_ROLES, COOKIE, Seals, Session
from ledger.service.http.problems import (
    BodyTooLarge,
    MalformedRequest,
    NotAllowed,
    RequestRefused,
    UnsupportedMediaType,
    invalid_request,
)
from ledger.service.http.route import (
    BODY_BYTES_MAX,
    Command,
    carry_out,
    check_query,
    check_request_id,
    check_text,
    query_parameters,
    service_of,
)
from ledger.service.http.shapes import subject_key

SIGN_IN: Final = "/console/sign-in"
NEXT_CHARACTERS_MAX: Final = 2_000  # the longest address that every browser and proxy takes
FORM_FIELDS_MAX: Final = 400  # the largest names 100 resources, 100 grounds and 100 actions
FORM_MEDIA_TYPE: Final = "application/x-www-form-urlencoded"
INSTANTS: Final = frozenset(("at", "known_at", "from", "to", "in_force"))
"""The parameters that a ``datetime-local`` or ``date`` field fills in."""

_LOCAL = re.compile(r"(\d{4}-\d\d-\d\d)(?:T(\d\d:\d\d)(:\d\d(?:\.\d+)?)?)?\Z")


class ForeignForm(RequestRefused):
    """A form that was not made by this console for this session."""

    status = 403
    code = "foreign_form"
    title = "This form is not from here, or too old"
    hint = "Open the page anew and send its form again; nothing was recorded."


class ConsoleRoute(APIRoute):
    """A page's route, with the roles that may open it; ``None``: anybody, signed in or not."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        extra = options.get("openapi_extra") or {}
        roles = extra.get("x-roles", CONSOLE_ROLES)
        self.roles = None if roles is None else frozenset(roles)
        self.is_sent_back = bool(extra.get("x-sent-back"))
        more = {"response_model": None, "include_in_schema": False}
        super().__init__(path, endpoint, **{**options, **more})
        if self.methods is not None and "GET" in self.methods:
            self.methods.add("HEAD")  # the server leaves out the body

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Put the gate before FastAPI's own handling."""
        handle = super().get_route_handler()
        parameters, many = query_parameters(self)

        async def handle_behind_gate(request: Request) -> Response:
            try:
                check_text(request)
                check_request_id(request)
                session = open_session(request)
                if self.roles is not None:
                    if session is None:
                        return send_to_sign_in(request)
                    service = service_of(request)
                    if service.limiter is not None:
                        service.limiter.count(request.state.caller.key)
                    if request.state.caller.role not in self.roles:
                        raise NotAllowed(
                            f"{request.state.caller.operator} has the role "
                            f"{request.state.caller.role}; this needs "
                            f"{' or '.join(sorted(self.roles))}"
                        )
                if not self.is_sent_back:
                    in_order = address_in_order(request)
                    if in_order is not None:
                        return RedirectResponse(in_order, 303, headers=HEADERS)
                    check_query(request, parameters, many)
                if request.method == "POST":
                    await take_form(request)
                    require_own_form(request, session)
                response = await handle(request)
            except RequestValidationError as error:
                response = error_page(request, invalid_request(error.errors()))
            except LedgerError as error:
                response = error_page(request, error)
            renew(request, response)
            return response

        return handle_behind_gate


def console_router() -> APIRouter:
    """Return a router whose routes go through the console's gate, and are no part of the API."""
    return APIRouter(route_class=ConsoleRoute)


def only(*roles: Role) -> dict[str, Any]:
    """Return the ``openapi_extra`` of a page that these roles may open."""
    return {"x-roles": roles}


ANYBODY: Final[dict[str, Any]] = {"x-roles": None}
"""The ``openapi_extra`` of a page that needs no session."""

SENT_BACK: Final[dict[str, Any]] = {"x-roles": None, "x-sent-back": True}
"""That of a page to which another site sends a browser, with parameters of its own choice."""


# --- sessions -------------------------------------------------------------------------------------


def open_session(request: Request) -> Session | None:
    """Find the session of a request and who acts in it now; ``None`` when there is none."""
    request.state.session = request.state.caller = None
    service = service_of(request)
    session = Seals(service.console_key).session_of(request.cookies.get(COOKIE, ""))
    now = service.now_us()
    if session is None or session.is_over(now):
        return None
    service.feed.require_current()
    caller = session.caller(service.keyring, now)
    if caller is None:
        return None
    request.state.session, request.state.caller = session, caller
    return session


def is_over_tls(request: Request) -> bool:
    """Tell whether the browser reached us by https, here or at a proxy before us."""
    forwarded = request.headers.get("x-forwarded-proto", "").partition(",")[0].strip()
    return (
        request.url.scheme == "https"
        or forwarded == "https"
        or service_of(request).settings.public_url is not None
    )


def keep_session(request: Request, response: Response, session: Session) -> None:
    """Let the browser keep a session."""
    response.set_cookie(
        COOKIE,
        Seals(service_of(request).console_key).cookie_of(session),
        max_age=ABSOLUTE_S,
        path="/console",
        secure=is_over_tls(request),
        httponly=True,
        samesite="strict",
    )


def end_session(request: Request, response: Response) -> None:
    """Let the browser forget its session."""
    request.state.session = None
    response.delete_cookie(
        COOKIE, path="/console", secure=is_over_tls(request), httponly=True, samesite="strict"
    )


def renew(request: Request, response: Response) -> None:
    """Say anew when the session was last used, once in a while."""
    session: Session | None = request.state.session
    now = service_of(request).now_us()
    if session is not None and session.is_stale(now):
        keep_session(request, response, session.used(now))


def send_to_sign_in(request: Request) -> Response:
    """Send a browser to the sign-in page, and from there to where it was going.

    A link on another site arrives without our cookie, because that is SameSite=Strict. So such a
    visit is first answered with a page of ours that opens the same address again.
    """
    here = request.url.path
    if request.url.query:
        here = f"{here}?{request.url.query}"
    if request.method == "GET" and request.headers.get("sec-fetch-site") == "cross-site":
        return render(request, "arriving.html", here=here)
    following = here if request.method == "GET" and local_address(here) else None
    return RedirectResponse(with_query(SIGN_IN, next=following), 303, headers=HEADERS)


def local_address(address: str) -> str | None:
    """Return an address when it is one of the console's own, and no way out of it."""
    if len(address) > NEXT_CHARACTERS_MAX or not address.isprintable() or "\\" in address:
        return None
    parts = urlsplit(address)
    path = unquote(parts.path)
    inside = path == "/console" or path.startswith("/console/")
    if parts.scheme or parts.netloc or not inside or ".." in path.split("/") or "//" in path:
        return None
    return address


# --- addresses and forms --------------------------------------------------------------------------


def address_in_order(request: Request) -> str | None:
    """Return the address without empty parameters and with whole instants; ``None`` if it is so."""
    if request.method != "GET":
        return None
    given = request.query_params.multi_items()
    kept = [
        (name, whole_instant(value) if name in INSTANTS else value)
        for name, value in given
        if value
    ]
    if kept == given:
        return None
    return f"{request.url.path}?{urlencode(kept)}" if kept else request.url.path


def whole_instant(text: str) -> str:
    """Return a date, or a date and time, as the instant in UTC; anything else as it is."""
    match = _LOCAL.match(text)
    if match is None:
        return text
    day, minutes, seconds = match.groups()
    return f"{day}T{minutes or '00:00'}{seconds or ':00'}Z"


async def take_form(request: Request) -> None:
    """Read the fields of a form into ``request.state.form``."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != FORM_MEDIA_TYPE:
        raise UnsupportedMediaType(f"a form comes as {FORM_MEDIA_TYPE}")
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > BODY_BYTES_MAX:
            raise BodyTooLarge(f"the form has more than {BODY_BYTES_MAX} bytes")
        chunks.append(chunk)
    request._body = b"".join(chunks)  # noqa: SLF001 - for what FastAPI itself would read
    try:
        fields = parse_qsl(
            request._body.decode("ascii"),  # noqa: SLF001
            keep_blank_values=True,
            encoding="utf-8",
            errors="strict",
            max_num_fields=FORM_FIELDS_MAX,
        )
    except ValueError:
        raise MalformedRequest("the form cannot be read, or has too many fields") from None
    # A browser sends the ends of lines as CR LF.
    request.state.form = [(name, value.replace("\r\n", "\n")) for name, value in fields]


def form_of(request: Request) -> dict[str, str]:
    """Return the fields of a form that are filled in, without space around them."""
    return {name: value.strip() for name, value in request.state.form if value.strip()}


def form_values(request: Request, name: str) -> list[str]:
    """Return every filled-in value of a field that a form has several times."""
    return [value.strip() for given, value in request.state.form if given == name and value.strip()]


def require_own_form(request: Request, session: Session | None) -> None:
    """Raise ``ForeignForm`` unless a form comes from a page of ours, made for this session.

    The sign-in form has no session yet, so for it the browser must say where the form is from.
    """
    if not is_from_here(request.headers, service_of(request).settings.public_url):
        raise ForeignForm("the browser says that the form was sent from another site")
    if session is None:
        return
    token = form_of(request).get("csrf", "")
    if not Seals(service_of(request).console_key).is_csrf_of(session, token):
        raise ForeignForm("the form does not carry the token of your session")


def is_from_here(headers: Mapping[str, str], public_url: str | None) -> bool:
    """Tell whether a browser says that a request was made by a page of this very site."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None and site != "same-origin":
        return False
    if origin is None:
        return site is not None
    hosts = {headers.get("host", "")}
    if public_url is not None:
        hosts.add(urlsplit(public_url).netloc)
    return urlsplit(origin).netloc in hosts - {""}


# --- recording ------------------------------------------------------------------------------------


def author_of(request: Request, on_behalf_of: str | None = None) -> Author:
    """Return who acts: who is signed in, for whom, and the request's id."""
    human = subject_key(on_behalf_of, parameter="on_behalf_of")
    return Author(request.state.caller.operator, human, request.state.request_id)


async def record(
    request: Request, command: Command, *, by: Author | None = None, once: Once | None = None
) -> Done:
    """Run a command as whoever is signed in, if nobody else is named; returns what it did."""
    done, _ = await carry_out(request, command, by or author_of(request), once)
    return done
