"""Answers ordinary checks inside the HTTP parser, and gives every connection deadlines.

uvicorn makes a scope, a task and an event for every request. A check needs none of them: its answer
is known when its body is complete. ``CheckProtocol`` keeps what the parser reports about a request
to an evaluation path and, when it is ordinary, writes the answer at once. Everything else it hands
to uvicorn, by reporting the same things again, so every error and every other route is uvicorn's
and the ASGI application's.

A client on a kept connection sends the same head again and again. A head that the parser accepted
and that was answered here is remembered, byte for byte; a request that arrives whole with that head
is answered without parsing it again, as long as no key or role has changed since.

Ordinary is: POST over HTTP/1.1, a JSON body of known length within the limit, no Expect, Upgrade or
Content-Encoding, a valid key of a service, no position to wait for, no earlier request still being
answered, a client that reads its answers, and a body that ``DecisionPoint`` accepts. All but the
last shows in the head, so whoever may not ask is told so before a body is waited for.

It relies on these names of uvicorn's ``HttpToolsProtocol``, to which a test holds it: the parser's
callbacks, ``cycle`` with its ``scope`` and ``transport``, ``url``, ``scope``, ``parser``,
``pipeline``, ``flow``, ``transport``, ``app_state``, and the ``default_headers``, ``connections``
and ``total_requests`` of ``server_state``.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final
from weakref import WeakSet

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ledger.domain.errors import LedgerError
from ledger.domain.values import Role
from ledger.service.http.authzen import (
    BATCH_BYTES_MAX,
    COUNTED_KEY,
    EVALUATION_BYTES_MAX,
    EVALUATION_PATH,
    EVALUATIONS_PATH,
    JSON_TYPES,
    REQUEST_ID,
    DecisionPoint,
    KnownHead,
)
from ledger.service.http.one_write import TRANSPORT_KEY

HEADERS_DEADLINE_S: Final = 5.0  # from the first byte of a request to the end of its headers
BODY_DEADLINE_S: Final = 20.0  # from the end of its headers to the end of its body
IDLE_DEADLINE_S: Final = 75.0  # between requests; longer than common proxies keep a connection
LINGER_S: Final = 0.25  # of silence, before a connection is closed because the process ends
SWEEP_INTERVAL_S: Final = 1.0  # one look at all connections a second costs a millisecond for 5,000

STATE_KEY: Final = "decision_point"
"""Under this name the application's lifespan hands over its ``DecisionPoint``."""
METRICS_PORT_KEY: Final = "metrics_port"
"""Under this one the port on which nothing but the metrics is answered; ``None``: there is none."""

_LIMITS: Final = {
    EVALUATION_PATH.encode(): EVALUATION_BYTES_MAX,
    EVALUATIONS_PATH.encode(): BATCH_BYTES_MAX,
}
_BATCH: Final = EVALUATIONS_PATH.encode()
# A request with one of these is not ordinary.
_SPECIAL: Final = frozenset(
    (b"expect", b"upgrade", b"content-encoding", b"transfer-encoding", b"ledger-min-position")
)
IDLE, HEADERS, BODY, ANSWERING = range(4)
_DEADLINE_S: Final = (IDLE_DEADLINE_S, HEADERS_DEADLINE_S, BODY_DEADLINE_S, float("inf"))


class CheckProtocol(HttpToolsProtocol):
    """One connection. ``_held`` is true while a request may still be answered here."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._point: DecisionPoint | None = self.app_state.get(STATE_KEY)
        self._phase = IDLE
        self._since = self.loop.time()
        self._held = False
        self._raw_headers: list[tuple[bytes, bytes]] = []
        self._chunks: list[bytes] = []
        self._head: KnownHead | None = None
        self._counted = False
        self._closing = False
        self._winding_since = 0.0
        self._arrived = b""

    # --- deadlines --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to be watched."""
        super().connection_made(transport)
        if self.server is not None and self.server[1] == self.app_state.get(METRICS_PORT_KEY):
            self._point = None
        _watch(self)

    def data_received(self, data: bytes) -> None:
        """Answer a whole request with a known head; parse anything else."""
        self._arrived = b""
        if self._phase == IDLE or (self._phase == ANSWERING and not self._is_answering()):
            self._since = self.loop.time()
            self._counted = False
            answer = self._answer_known(data)
            if answer is not None:
                self._unset_keepalive_if_required()
                self._phase = IDLE
                self._write(answer)
                return
            self._phase = HEADERS
            self._arrived = data
        super().data_received(data)

    def close_if_late(self, now: float) -> None:
        """Close the connection when it has waited longer for the other side than it may."""
        if self._phase == ANSWERING and not self._is_answering():
            self._phase, self._since = IDLE, now
        elif self.pipeline or (self._phase == HEADERS and self._is_answering()):
            # An earlier request is still being answered, and uvicorn stops reading meanwhile.
            self._since = now
        if now - self._since <= _DEADLINE_S[self._phase]:
            return
        if self.transport.is_closing():
            self.transport.abort()  # it was closed, but nobody reads the last answer
        else:
            self.transport.close()

    # --- what the parser reports ------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Hold what follows back until it is clear who answers."""
        self._held = True
        self.url = b""
        self._raw_headers = []
        self._chunks = []
        if self._phase != HEADERS:
            self._phase, self._since = HEADERS, self.loop.time()

    def on_url(self, url: bytes) -> None:
        """Keep a piece of the target."""
        if self._held:
            self.url += url
        else:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header."""
        if self._held:
            self._raw_headers.append((name, value))
        else:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Hand everything over at once that is not ordinary by its head."""
        self._phase, self._since = BODY, self.loop.time()
        if self.transport.is_closing():
            return  # the request before was the last; this one stays held and is passed over
        self._head = self._read_head()
        if self._head is None:
            self._hand_over()

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body; the parser sees to it that it is as long as was said."""
        if self._held:
            self._chunks.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Answer, or hand over."""
        self._phase = ANSWERING
        if not self._held:
            super().on_message_complete()
            return
        if self.transport.is_closing():
            return
        self._closing = self._closing or not self.parser.should_keep_alive()
        answer = self._answer()
        if answer is None:
            self._hand_over()
            super().on_message_complete()
            return
        self._held = self._counted = False
        self._phase, self._since = IDLE, self.loop.time()
        self._write(answer)
        if self._closing:
            self.transport.close()

    def _write(self, answer: bytes) -> None:
        self.transport.write(answer)
        self.server_state.total_requests += 1

    def shutdown(self) -> None:
        """Finish the request that is arriving, then close; close at once when there is none."""
        if self._point is not None:
            self._point.drain()
        if self._held and self._phase in (HEADERS, BODY):
            self._closing = True
        else:
            super().shutdown()

    def wind_down(self) -> None:
        """Let the request that is here or comes soon be the last; called until it is closed.

        A caller that is about to ask again is answered once more, and told to go elsewhere.
        """
        now = self.loop.time()
        if not self._closing:
            self._closing = True
            self._winding_since = now
        answering = self._is_answering()
        if answering:
            self.cycle.keep_alive = False
        elif self._phase in (IDLE, ANSWERING) and now - self._winding_since > LINGER_S:
            self.transport.close()

    def _is_answering(self) -> bool:
        """Tell whether uvicorn is still answering an earlier request of this connection."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    # --- answering and handing over ---------------------------------------------------------------

    def _read_head(self) -> KnownHead | None:
        """Return what the head says of an ordinary request; ``None`` when it is not ordinary."""
        point, limit = self._point, _LIMITS.get(self.url)
        if (
            point is None
            or limit is None
            or self.parser.get_method() != b"POST"
            or self.parser.get_http_version() != "1.1"
            or self._is_answering()
            or self.flow.write_paused
        ):
            return None
        authorization = request_id = media_type = length = None
        for raw_name, value in self._raw_headers:
            name = raw_name.lower()
            if name == b"authorization":
                authorization = value
            elif name == b"content-type":
                if media_type is not None:
                    return None
                media_type = value
            elif name == b"content-length":
                length = value
            elif name == b"x-request-id":
                request_id = value
            elif name in _SPECIAL:
                return None
        if (
            authorization is None
            or length is None
            or media_type is None
            or media_type.lower() not in JSON_TYPES
            or not 0 < int(length) <= limit
            or (request_id is not None and not REQUEST_ID.match(request_id))
        ):
            return None
        try:
            generation = point.generation
            caller = point.caller(authorization)
        except LedgerError:
            return None  # the application refuses it, in its own words
        if caller is None or caller.role is not Role.SERVICE:
            return None
        return KnownHead(int(length), self.url == _BATCH, caller, generation, request_id)

    def _answer(self) -> bytes | None:
        """Return the whole response to a held request; ``None`` when it must be refused."""
        point, head = self._point, self._head
        assert point is not None
        assert head is not None
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        try:
            answer = self._decide(point, head, body)
        except Exception:  # noqa: BLE001 - refusals and faults are the application's to answer
            return None
        if self._arrived.endswith(body) and not self._closing:
            known = self._arrived[: -len(body)]
            if known.find(b"\r\n\r\n") == len(known) - 4:
                point.remember(known, head)
        return answer

    def _answer_known(self, data: bytes) -> bytes | None:
        """Return the response to a whole request with a known head; ``None`` for any other."""
        point = self._point
        if point is None or self._closing or self.flow.write_paused:
            return None
        end = data.find(b"\r\n\r\n") + 4
        head = point.known_heads.get(data[:end])
        if head is None or len(data) - end != head.length or not point.still_admits(head):
            return None
        try:
            return self._decide(point, head, data[end:])
        except Exception:  # noqa: BLE001 - as in _answer
            return None

    def _decide(self, point: DecisionPoint, head: KnownHead, body: bytes) -> bytes:
        if not self._counted:
            point.count(head.caller)
            self._counted = True
        decided = point.evaluations(body) if head.is_batch else point.evaluation(body)
        status = _status(self.server_state.default_headers)
        if head.request_id is None and not self._closing:
            return b"%bledger-position: %d\r\ncontent-length: %d\r\n\r\n%b" % (
                status,
                point.position,
                len(decided),
                decided,
            )
        return b"".join(
            (
                status,
                b"ledger-position: %d\r\n" % point.position,
                b"" if head.request_id is None else b"x-request-id: %b\r\n" % head.request_id,
                b"connection: close\r\n" if self._closing else b"",
                b"content-length: %d\r\n\r\n" % len(decided),
                decided,
            )
        )

    def _hand_over(self) -> None:
        """Report to uvicorn what the parser has reported so far."""
        self._held = False
        url, chunks = self.url, self._chunks
        self._chunks = []
        super().on_message_begin()
        super().on_url(url)
        for name, value in self._raw_headers:
            super().on_header(name, value)
        super().on_headers_complete()
        self.scope["state"][TRANSPORT_KEY] = self.transport
        if self._counted:
            self.scope["state"][COUNTED_KEY] = True
            self._counted = False
        if self._closing:
            self.cycle.keep_alive = False
        for chunk in chunks:
            super().on_body(chunk)


class _StatusLine:
    """The status line and uvicorn's own headers, which it replaces once a second."""

    def __init__(self) -> None:
        self._made_from: object = None
        self._bytes = b""

    def __call__(self, default_headers: list[tuple[bytes, bytes]]) -> bytes:
        if self._made_from is not default_headers:
            lines = b"".join(b"%b: %b\r\n" % header for header in default_headers)
            self._bytes = b"HTTP/1.1 200 OK\r\n%bcontent-type: application/json\r\n" % lines
            self._made_from = default_headers
        return self._bytes


_status = _StatusLine()


# --- one look at all connections ------------------------------------------------------------------

_sweeping: WeakSet[Any] = WeakSet()


def _watch(protocol: CheckProtocol) -> None:
    """Make sure that the connections of this protocol's server are looked at."""
    state = protocol.server_state
    if state not in _sweeping:
        _sweeping.add(state)
        protocol.loop.call_later(SWEEP_INTERVAL_S, _sweep, protocol.loop, state)


def _sweep(loop: asyncio.AbstractEventLoop, state: Any) -> None:
    now = loop.time()
    for connection in list(state.connections):
        if isinstance(connection, CheckProtocol):
            connection.close_if_late(now)
    if state.connections:
        loop.call_later(SWEEP_INTERVAL_S, _sweep, loop, state)
    else:
        _sweeping.discard(state)
