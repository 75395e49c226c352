"""The application: every route, what wraps them, and the OpenAPI document."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ledger.domain.errors import LedgerError
from ledger.service.http import (
    access,
    authzen_openapi,
    batch,
    catalogue,
    conduct,
    erasures,
    events,
    following,
    health,
    operators,
    search,
    subjects,
    suspensions,
)
from ledger.service.http import (
    log as log_routes,
)
from ledger.service.http.authzen import EVALUATION_PATHS, AccessApp, DecisionPoint
from ledger.service.http.problems import (
    MEDIA_TYPE,
    internal_error,
    on_http_exception,
    on_invalid_request,
    on_ledger_error,
    problem_of,
)
from ledger.service.http.protocol import STATE_KEY
from ledger.service.wiring import Service

VERSION: Final = "0.1.0"

log = logging.getLogger(__name__)


def create_app(service: Service) -> Front:
    """Return the ASGI application of a built service; its lifespan starts and stops the service."""
    point = DecisionPoint(
        service.index,
        service.keyring,
        service.feed,
        service.now_us,
        limiter=service.limiter,
        log=service.decision_log,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, object]]:
        loop = asyncio.get_running_loop()

        # Checks are answered in this loop's thread, so no answer is made while it is told.
        def mark() -> None:
            loop.call_soon_threadsafe(point.mark_log_doubted)

        service.signer.on_doubt.append(mark)
        service.start()
        try:
            yield {STATE_KEY: point}
        finally:
            service.stop()

    app = FastAPI(
        title="Compliance ledger",
        version=VERSION,
        summary="Who may use which model now, and why not.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    app.state.point = point
    areas = (
        search,
        access,
        following,
        subjects,
        conduct,
        suspensions,
        erasures,
        events,
        catalogue,
        operators,
        batch,
        log_routes,
        health,
    )
    app.state.routes = [route for area in areas for route in area.routes.routes]
    # Not through include_router, which tries every route by a detour, twice for each request.
    app.router.routes.extend(app.state.routes)
    app.state.commands = batch.Commands(app.state.routes)
    app.add_exception_handler(LedgerError, on_ledger_error)
    app.add_exception_handler(RequestValidationError, on_invalid_request)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_middleware(Envelope)
    app.openapi = lambda: openapi(app)  # type: ignore[method-assign]
    return Front(app, AccessApp(point, service.feed))


class Front:
    """Sends checks straight to their application, and everything else to FastAPI."""

    def __init__(self, api: FastAPI, access_app: AccessApp) -> None:
        self.api = api
        self._access = access_app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, or the lifespan."""
        if scope["type"] == "http" and scope["path"] in EVALUATION_PATHS:
            await self._access(scope, receive, send)
        else:
            await self.api(scope, receive, send)


class Envelope:
    """Gives every request an id, echoes it in every answer, and answers our own faults with 500."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = next((v for k, v in scope["headers"] if k == b"x-request-id"), None)
        request_id: bytes = given if given is not None else uuid.uuid4().hex.encode()
        scope.setdefault("state", {})["request_id"] = request_id.decode("latin-1")
        begun = False

        async def send_with_id(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception:
            log.exception("request %s failed", scope["state"]["request_id"])
            if begun:
                raise
            await problem_of(internal_error())(scope, receive, send_with_id)


def openapi(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document: what FastAPI derives, with our key scheme and problem type."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, summary=app.summary, routes=app.routes
        )
        document["components"]["securitySchemes"] = {
            "key": {"type": "http", "scheme": "bearer", "description": "A key of an operator."}
        }
        document["paths"] = {**authzen_openapi.paths(), **document["paths"]}
        for operations in document["paths"].values():
            for operation in operations.values():
                _only_our_problems(operation["responses"])
                operation["responses"]["500"] = _FAULT
        for unused in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(unused, None)
        app.openapi_schema = document
    return app.openapi_schema


_FAULT: Final = {
    "description": (
        "`internal_error`: The ledger failed. `tamper_detected`: The record does not add up."
    ),
    "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
}


def _only_our_problems(answers: dict[str, Any]) -> None:
    """Take out what FastAPI adds of its own: its validation error, and JSON beside problem+json."""
    for status, described in list(answers.items()):
        content = described.get("content", {})
        if "HTTPValidationError" in str(content):
            del answers[status]
        elif MEDIA_TYPE in content:
            content.pop("application/json", None)
