"""The application: every route, what wraps them, and the OpenAPI document."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from prometheus_client import Counter
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ledger.domain.errors import LedgerError
from ledger.service.console.frame import error_page
from ledger.service.console.openid import OpenId
from ledger.service.console.site import console_routes
from ledger.service.http import (
    access,
    authzen_openapi,
    batch,
    catalogue,
    conduct,
    erasures,
    events,
    exports,
    following,
    health,
    operators,
    report,
    search,
    stream,
    subjects,
    suspensions,
)
from ledger.service.http import (
    log as log_routes,
)
from ledger.service.http import (
    metrics as metrics_routes,
)
from ledger.service.http import (
    status as status_routes,
)
from ledger.service.http.authzen import REQUEST_ID, AccessApp, DecisionPoint, new_request_id
from ledger.service.http.commands import commands
from ledger.service.http.drain import Drain
from ledger.service.http.live import Live
from ledger.service.http.metrics import VERSION, MetricsApp, Monitor
from ledger.service.http.problems import (
    MEDIA_TYPE,
    internal_error,
    on_http_exception,
    on_invalid_request,
    on_ledger_error,
    problem_of,
)
from ledger.service.http.protocol import METRICS_PORT_KEY, STATE_KEY
from ledger.service.http.route import CommandsByPath
from ledger.service.metrics import Metrics
from ledger.service.report import Reports
from ledger.service.transparency.publication import Publication
from ledger.service.wiring import Service

METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
PROBES: Final = frozenset(("/livez", "/readyz", "/metrics"))  # asked every few seconds, for ever

log = logging.getLogger(__name__)


def create_app(service: Service) -> Front:
    """Return the ASGI application of a built service; its lifespan starts and stops the service."""
    metrics = Metrics()
    point = DecisionPoint(
        service.index,
        service.keyring,
        service.feed,
        service.now_us,
        limiter=service.limiter,
        log=service.decision_log,
        observe={kind: timed.observe for kind, timed in metrics.check_seconds.items()},
    )
    live = Live(service)
    monitor = Monitor(service, point, live, metrics)
    service.writer.observe = metrics.append_seconds.observe
    drain = Drain(service.feed, delay_s=service.settings.drain_delay_s)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, object]]:
        loop = asyncio.get_running_loop()

        # Checks are answered in this loop's thread, so no answer is made while it is told.
        def mark() -> None:
            loop.call_soon_threadsafe(point.mark_log_doubted)

        service.signer.on_doubt.append(mark)
        app.state.vault_keys_lost = service.start()
        monitor.start(vault_keys_lost=app.state.vault_keys_lost)
        drain.watch(loop)
        try:
            yield {STATE_KEY: point, METRICS_PORT_KEY: service.settings.metrics_port}
        finally:
            monitor.stop()
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
    app.state.monitor = monitor
    app.state.drain = drain
    app.state.live = live
    app.state.reports = Reports(service)
    length = service.settings.transparency
    app.state.publication = None if length is None else Publication(service, length)
    areas = (
        search,
        access,
        following,
        subjects,
        exports,  # before what would take export for an id
        conduct,
        suspensions,
        erasures,
        status_routes,
        stream,  # before the events, one of which it would seem to be
        events,
        report,
        catalogue,
        operators,
        batch,
        log_routes,
        health,
        metrics_routes,
    )
    app.state.routes = [route for area in areas for route in area.routes.routes]
    # Not through include_router, which tries every route by a detour, twice for each request.
    app.router.routes.extend(app.state.routes)
    app.state.openid = OpenId.of(service.settings)
    app.state.console_routes = console_routes()
    app.router.routes.extend(app.state.console_routes)
    app.state.commands = commands()
    app.add_exception_handler(LedgerError, on_ledger_error)
    app.add_exception_handler(RequestValidationError, on_invalid_request)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_middleware(Envelope, requests=metrics.requests)
    app.openapi = lambda: openapi(app)  # type: ignore[method-assign]
    return Front(app, CommandsByPath(app), metrics, point, service, MetricsApp(monitor))


class Front(AccessApp):
    """Answers checks itself, sends commands to their routes and everything else to FastAPI.

    What comes in at the port of the metrics goes to the metrics.
    """

    def __init__(
        self,
        api: FastAPI,
        commands: CommandsByPath,
        metrics: Metrics,
        point: DecisionPoint,
        service: Service,
        metrics_app: MetricsApp,
    ) -> None:
        super().__init__(point, service.feed, closed_port=service.settings.metrics_port)
        self.api = api
        self._commands = commands
        self._answer_command = Envelope(commands, metrics.requests)
        self._metrics = metrics_app

    async def elsewhere(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle what is no check: another request, or the lifespan."""
        port = self.closed_port
        if port is not None and scope["type"] == "http" and scope["server"][1] == port:
            await self._metrics(scope, receive, send)
        elif self._commands.has(scope):
            await self._answer_command(scope, receive, send)
        else:
            await self.api(scope, receive, send)


class Envelope:
    """Gives every request an id, echoes it in every answer, and answers our own faults with 500.

    It also counts the request, and writes its line to the log.
    """

    def __init__(self, app: ASGIApp, requests: Counter) -> None:
        self.app = app
        self._requests = requests
        self._counted: dict[tuple[str, str | None, int], Counter] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = next((v for k, v in scope["headers"] if k == b"x-request-id"), None)
        request_id: bytes = given if given is not None else new_request_id()
        scope.setdefault("state", {})["request_id"] = request_id.decode("latin-1")
        begun, status = False, 0
        started = time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal begun, status
            if message["type"] == "http.response.start":
                begun, status = True, message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception:
            log.exception("request failed", extra={"request_id": _shown(request_id)})
            if begun:
                raise
            await _fault(scope)(scope, receive, send_with_id)
        finally:
            self._note(scope, status, request_id, time.perf_counter() - started)

    def _note(self, scope: Scope, status: int, request_id: bytes, seconds: float) -> None:
        """Count a request and log it: by its route, never by its address, which may name people."""
        template = getattr(scope.get("route"), "path", None)
        method = scope["method"] if scope["method"] in METHODS else "other"
        counted = self._counted.get((method, template, status))
        if counted is None:
            counted = self._requests.labels(method, template or "none", status)
            self._counted[method, template, status] = counted
        counted.inc()
        if template in PROBES and status < HTTPStatus.INTERNAL_SERVER_ERROR:
            return
        # Not through ``log.info``, which would look for the place that called it.
        if log.isEnabledFor(logging.INFO):
            told = {
                "request_id": _shown(request_id),
                "method": method,
                "route": template,
                "status": status,
                "duration_ms": round(1_000 * seconds, 3),
            }
            log.handle(
                log.makeRecord(log.name, logging.INFO, "", 0, "request", (), None, extra=told)
            )


def _fault(scope: Scope) -> ASGIApp:
    """Return the answer to a fault of ours: a page in the console, a problem document elsewhere."""
    if f"{scope['path']}/".startswith("/console/"):
        return error_page(Request(scope), internal_error())
    return problem_of(internal_error())


def _shown(request_id: bytes) -> str | None:
    """Return a request's id if it has the form of one; what has not is no id."""
    return request_id.decode() if REQUEST_ID.match(request_id) else None


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
