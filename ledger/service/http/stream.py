"""The trail as it is written: Server-Sent Events (HTML, section 9.2), resumed by position."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Annotated, Any, Final

from fastapi import Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from ledger.domain.errors import InvalidValue, LedgerError
from ledger.domain.values import Role
from ledger.service.http.events import Filter
from ledger.service.http.live import RETRY_MS, Live, Stream
from ledger.service.http.one_write import TRANSPORT_KEY
from ledger.service.http.problems import (
    NotAllowed,
    TooManyStreams,
    invalid_header,
    problem_of,
    responses,
)
from ledger.service.http.route import (
    POSITION,
    READ_HEADERS,
    allow,
    bearer_key,
    caller_of,
    router,
    service_of,
)
from ledger.service.http.shapes import BEHIND_THE_GATE

WRITE_BUFFER_BYTES: Final = 16 * 1024  # that wait in the process for a reader, before it pauses
SOCKET_BUFFER_BYTES: Final = 64 * 1024  # that wait in the kernel; it would take megabytes

MEDIA_TYPE: Final = "text/event-stream"

routes = router("events")

After = Annotated[
    int | None,
    Query(
        ge=0,
        le=2**53,
        description="Begin after this position; from now on when absent. `Last-Event-ID` wins.",
    ),
]
_LAST_EVENT_ID: Final = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "The id of the last event that was seen: a position. What follows it is sent.",
    "schema": {"type": "string", "pattern": "^(0|[1-9][0-9]{0,15})$", "example": "41"},
}


@routes.get(
    "/v1/events/stream",
    summary="The audit trail, live",
    openapi_extra={**allow(Role.AUDITOR), "parameters": [*READ_HEADERS, _LAST_EVENT_ID]},
    responses={
        200: {
            "description": (
                "Server-Sent Events without an end: `id` is the position, `event` the type, and "
                f"`data` the event as `GET /v1/events` shows it. `retry` is {RETRY_MS} ms."
            ),
            "content": {MEDIA_TYPE: {"schema": {"type": "string"}}},
        },
        **responses(*BEHIND_THE_GATE, InvalidValue, TooManyStreams),
    },
    response_class=Response,
)
async def stream(request: Request, filters: Filter, after: After = None) -> Response:
    """Send events as they are recorded, oldest first, each once; resume after a position."""
    service, key = service_of(request), bearer_key(request)

    def require_allowed() -> None:
        caller = caller_of(service, key)
        if caller.role is not Role.AUDITOR:
            raise NotAllowed(f"{caller.operator} has the role {caller.role} now")

    return await stream_events(request, filters, after=after, require_allowed=require_allowed)


async def stream_events(
    request: Request,
    filters: Mapping[str, Any],
    *,
    after: int | None,
    require_allowed: Callable[[], object],
) -> Response:
    """Return a stream of the events that match; for any route that knows who may read it.

    It begins after the request's ``Last-Event-ID``, else after ``after``, else now. It goes on
    until its reader goes, the process ends, or ``require_allowed``, which is called every half
    second in the event loop, raises a ``LedgerError``. ``filters`` are those of ``event_filter``.
    """
    service = service_of(request)
    position = _last_event_id(request, after)
    if position is None:
        position = service.feed.position
    await service.feed.wait_for(position)
    await run_in_threadpool(_try_filters, request, filters)
    live: Live = request.app.state.live
    return EventStream(live, Stream(filters, position, require_allowed))


def _last_event_id(request: Request, after: int | None) -> int | None:
    raw = request.headers.get("last-event-id")
    if raw is None:
        return after
    if not POSITION.match(raw):
        raise invalid_header("Last-Event-ID", "must be the id of an event of this stream, like 41")
    return int(raw)


def _try_filters(request: Request, filters: Mapping[str, Any]) -> None:
    """Raise ``InvalidValue`` for filters that the trail does not take, while it can be told."""
    service = service_of(request)
    with service.reading(newest=True) as (c, _):
        service.trail.events(c, position=0, limit=1, **filters)


class EventStream(Response):
    """An answer that goes on until its stream ends."""

    def __init__(self, live: Live, stream: Stream) -> None:
        super().__init__(
            headers={
                "Cache-Control": "no-store",
                "Ledger-Position": str(stream.position),
                "X-Accel-Buffering": "no",  # nginx would hold events back
            },
            media_type=MEDIA_TYPE,
        )
        del self.headers["content-length"]
        self._live = live
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send what the stream is given."""
        stream, loop = self._stream, asyncio.get_running_loop()
        try:
            self._live.admit(stream)
        except LedgerError as error:
            await problem_of(error)(scope, receive, send)
            return
        stream.connection = scope.get("state", {}).get(TRANSPORT_KEY)
        stream.cut_off = _bounded(stream.connection)
        gone = asyncio.create_task(_gone(receive, stream))
        try:
            # Said here, because ``Live`` writes chunks, too.
            headers = [*self.raw_headers, (b"transfer-encoding", b"chunked")]
            start = {"type": "http.response.start", "status": 200}
            await send({**start, "headers": headers if stream.connection else self.raw_headers})
            async with aclosing(self._live.pieces(stream)) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    stream.sending_since = loop.time()
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                    stream.sending_since = None
                    stream.sent_at = loop.time()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except asyncio.CancelledError:
            if stream.goes_on:
                raise
        finally:
            gone.cancel()
            self._live.leave(stream)


def _bounded(transport: asyncio.Transport | None) -> Callable[[], object]:
    """Let little wait for a slow reader on a connection; return what cuts it off."""
    if transport is None:  # another server's: its own limit holds
        task = asyncio.current_task()
        assert task is not None
        return task.cancel
    transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
    return transport.abort


async def _gone(receive: Receive, stream: Stream) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    stream.end()
