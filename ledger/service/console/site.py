"""Which addresses the console has: those of its pages, its static files, and none besides."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Annotated, Final

from fastapi import Query, Request
from fastapi.responses import Response
from starlette.routing import BaseRoute

from ledger.domain.errors import NotFound
from ledger.service.console import pages
from ledger.service.console.frame import HEADERS, NOWHERE, STATIC
from ledger.service.console.route import ANYBODY, console_router

FOREVER: Final = "public, max-age=31536000, immutable"

routes = console_router()


@routes.get("/console/static/{name}", openapi_extra=ANYBODY)
def static(request: Request, name: str, v: Annotated[str | None, Query()] = None) -> Response:
    """Return a style or a script; for ever when its address names its content."""
    found = STATIC.get(name)
    if found is None:
        raise NotFound(f"the console has no file {name!r}")
    tag = f'"{found.version}"'
    headers = {
        **HEADERS,
        "Cache-Control": FOREVER if v == found.version else "no-cache",
        "ETag": tag,
    }
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(found.content, headers=headers, media_type=found.media_type)


nowhere = console_router()


@nowhere.api_route(
    NOWHERE,
    methods=["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"],
    openapi_extra=ANYBODY,
)
def no_such_page(rest: str) -> Response:
    """Answer whatever is no page."""
    raise NotFound(f"the console has no page /console/{rest}")


def console_routes() -> list[BaseRoute]:
    """Return every route of the console, the one for what is no page last.

    An address without a parameter comes first: /console/violations/new is no violation's page.
    """
    found = list(routes.routes)
    for module in sorted(iter_modules(pages.__path__), key=lambda each: each.name):
        found += import_module(f"{pages.__name__}.{module.name}").routes.routes
    found.sort(key=lambda route: "{" in getattr(route, "path", ""))
    return [*found, *nowhere.routes]
