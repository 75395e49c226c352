"""What every page has around it: layout, navigation, headers; and how a refusal looks here."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from typing import Any, Final
from urllib.parse import urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.routing import Match

from ledger.domain.errors import LedgerError
from ledger.domain.values import format_instant
from ledger.service.console.session import Seals
from ledger.service.http.problems import RequestRefused, document_of, status_of
from ledger.service.http.route import service_of
from ledger.service.http.shapes import Paging, Times

POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # With no-referrer, a browser would send "Origin: null" with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
NAVIGATION: Final = (
    ("/console", "Overview"),
    ("/console/trail", "Trail"),
    ("/console/subjects", "Subjects"),
    ("/console/suspensions", "Suspensions"),
    ("/console/violations", "Violations"),
    ("/console/reinstatements", "Reinstatements"),
    ("/console/warnings", "Warnings"),
    ("/console/policies", "Policies"),
    ("/console/models", "Models and groups"),
    ("/console/report", "Report"),
    ("/console/record", "Record and decide"),
    ("/console/operators", "Operators and keys"),
)
"""In the order shown; only what exists and what the caller's role may open."""

NOWHERE: Final = "/console/{rest:path}"
"""The route of whatever is no page."""

_STATIC_TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


# --- files that are served as they are ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A style, a script or a picture: its bytes, its media type, and a name for its content."""

    content: bytes
    media_type: str
    version: str


def _static_files() -> dict[str, StaticFile]:
    found = {}
    for path in files("ledger.service.console").joinpath("static").iterdir():
        content = path.read_bytes()
        version = hashlib.sha256(content).hexdigest()[:16]
        media_type = _STATIC_TYPES[path.name.rpartition(".")[2]]
        found[path.name] = StaticFile(content, media_type, version)
    return found


STATIC: Final = _static_files()


def static_address(name: str) -> str:
    """Return the address of a static file, which changes with its content."""
    return f"/console/static/{name}?v={STATIC[name].version}"


# --- pages ----------------------------------------------------------------------------------------


def local_time(instant: str | datetime) -> str:
    """Return an instant as a field of the kind ``datetime-local`` takes it: in UTC, to seconds."""
    text = instant if isinstance(instant, str) else format_instant(instant)
    return text[:19]


def readable_time(instant: str | datetime) -> str:
    """Return an instant as a person reads it; UTC, to seconds, the rest cut."""
    return f"{local_time(instant).replace('T', ' ')} UTC"


def with_query(address: str, parameters: Mapping[str, object] | None = None, **more: object) -> str:
    """Return an address with parameters; one that is ``None`` or empty is left out."""
    asked = {k: v for k, v in {**(parameters or {}), **more}.items() if v not in (None, "", [])}
    return f"{address}?{urlencode(asked, doseq=True)}" if asked else address


def sentence_of(role_or_state: str) -> str:
    """Return a name such as ``in_force`` as words."""
    return role_or_state.replace("_", " ")


_asking: ContextVar[tuple[Request, dict[str, bool]]] = ContextVar("asking")
"""Whose page is being made, and what is known of what they may open; for macros."""


def may_open(address: str) -> bool:
    """Tell whether the console has a page at an address, and whoever asks may open it."""
    request, known = _asking.get()
    if address not in known:
        known[address] = is_open_to(request, address)
    return known[address]


def is_open_to(request: Request, address: str) -> bool:
    """Tell whether the console has a page at an address, and the caller's role may open it."""
    caller = getattr(request.state, "caller", None)
    scope = {"type": "http", "method": "GET", "path": address}
    for route in request.app.state.console_routes:
        if route.path != NOWHERE and route.matches(scope)[0] is Match.FULL:
            return route.roles is None or (caller is not None and caller.role in route.roles)
    return False


ENVIRONMENT: Final = Environment(
    loader=PackageLoader("ledger.service.console"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.globals["static"] = static_address
ENVIRONMENT.globals["link"] = with_query
ENVIRONMENT.globals["may_open"] = may_open
ENVIRONMENT.filters["instant"] = lambda value: (
    value if isinstance(value, str) else format_instant(value)
)
ENVIRONMENT.filters["readable"] = readable_time
ENVIRONMENT.filters["local_time"] = local_time
ENVIRONMENT.filters["words"] = sentence_of


@dataclass(frozen=True, slots=True)
class Listed:
    """A page of a list: what it shows, and the cursor of the next; ``None`` on the last."""

    items: Sequence[Any]
    next: str | None


def paged(asked: Paging, found: Sequence[Mapping[str, Any]]) -> Listed:
    """Return a page of a list, of which one item more than it holds was asked for."""
    if len(found) <= asked.limit:
        return Listed(found, None)
    shown = found[: asked.limit]
    return Listed(shown, str(shown[-1]["position"]))


def navigation_of(request: Request, open_area: str | None) -> list[tuple[str, str, bool]]:
    """Return address, label and whether it is open, of each area that the caller may open.

    A page is in the area with whose address its own begins, unless ``open_area`` names another.
    """
    caller = getattr(request.state, "caller", None)
    if caller is None:
        return []
    roles_of = {
        route.path: route.roles
        for route in request.app.state.console_routes
        if "GET" in route.methods
    }
    path = open_area or request.url.path
    return [
        (
            address,
            label,
            path == address or (path.startswith(f"{address}/") and address != "/console"),
        )
        for address, label in NAVIGATION
        if caller.role in roles_of.get(address, ())
    ]


def query_of(request: Request) -> dict[str, str | list[str]]:
    """Return the parameters of a request; a list for one that is given more than once."""
    many = request.query_params
    return {
        name: values[0] if len(values) == 1 else values
        for name in many
        if (values := many.getlist(name))
    }


class Query(dict[str, Any]):
    """The parameters of an address; one that was not given is ``None``, also as an attribute."""

    def __missing__(self, name: str) -> None:
        return None


def render(
    request: Request,
    template: str,
    status: int = 200,
    *,
    times: Times | None = None,
    area: str | None = None,
    headers: Mapping[str, str] | None = None,
    **context: Any,
) -> HTMLResponse:
    """Return a page. ``times`` are those that it shows, for the link to exactly this view.

    ``area`` is the address of the area that it belongs to, where its own does not say so.

    Every template has ``request_path`` as ``address``, the parameters as ``query``, the ``caller``
    (``None`` when nobody is signed in), the token of forms as ``csrf``, and ``permalink``.
    """
    session = getattr(request.state, "session", None)
    query = Query(query_of(request))
    permalink = None
    if times is not None:
        pinned = {k: v for k, v in query.items() if k not in ("known_at", "known_position", "at")}
        permalink = with_query(
            request.url.path,
            pinned,
            at=format_instant(times.at),
            known_position=str(times.position),
        )
    _asking.set((request, {}))
    text = ENVIRONMENT.get_template(template).render(
        address=request.url.path,
        query=query,
        caller=getattr(request.state, "caller", None),
        csrf=Seals(service_of(request).console_key).csrf_of(session) if session else "",
        navigation=navigation_of(request, area),
        permalink=permalink,
        times=times,
        **context,
    )
    position = {"Ledger-Position": str(times.position)} if times is not None else {}
    return HTMLResponse(text, status, headers={**HEADERS, **position, **(headers or {})})


def error_page(request: Request, error: LedgerError) -> Response:
    """Return a refusal as a page: the same words as the API's problem document."""
    headers = error.headers() if isinstance(error, RequestRefused) else {}
    headers.pop("WWW-Authenticate", None)  # a browser would ask for a password
    return render(
        request, "error.html", status_of(error), headers=headers, problem=document_of(error)
    )
