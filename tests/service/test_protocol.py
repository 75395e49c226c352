"""``CheckProtocol`` beside uvicorn: what it relies on, what it hands over, and whom it cuts off."""

from __future__ import annotations

import asyncio
import inspect
import resource
import socket
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import orjson
import pytest
import uvicorn
from httptools import HttpRequestParser
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from ledger.application import SYSTEM_AUTHOR
from ledger.domain.values import REASON_MAX, Basis, Role, Scope, Subject
from ledger.service.http import protocol
from ledger.service.http.authzen import HEADS_KEPT_MAX, DecisionPoint
from ledger.service.http.one_write import TRANSPORT_KEY
from ledger.service.http.protocol import (
    BODY_DEADLINE_S,
    HEADERS_DEADLINE_S,
    IDLE_DEADLINE_S,
    STATE_KEY,
    CheckProtocol,
)
from ledger.service.settings import Settings
from ledger.service.wiring import Service, build
from tests.checks import check_ledger
from tests.conftest import SetClock
from tests.service.conftest import open_ledger, serve, until
from tests.service.wire import WAIT_S, Answer, Wire, chunked, exchange, request
from tests.serving import opened, started

T = TypeVar("T")

EVALUATION: Final = "/access/v1/evaluation"
EVALUATIONS: Final = "/access/v1/evaluations"
ASKED: Final = {
    "subject": {"type": "user", "id": "alice"},
    "action": {"name": "use"},
    "resource": {"type": "model", "id": "m1"},
}
CHECK: Final = orjson.dumps(ASKED)
ROUTE: Final = "/v1/access?subject=user:alice"
CHANGES: Final = "/v1/access/changes?after={}&wait=20"


@dataclass(frozen=True)
class Served:
    """A server, and a way to look at its connections from its own loop."""

    service: Service
    clock: SetClock
    keys: dict[str, str]
    server: uvicorn.Server
    thread: threading.Thread
    url: str

    def check(self, *headers: str, body: bytes = CHECK, **more: Any) -> bytes:
        """Return the bytes of a check."""
        return request(EVALUATION, body, *headers, key=self.keys["service"], **more)

    def get(self, path: str = ROUTE) -> bytes:
        """Return the bytes of a reading of another route."""
        return request(path, method="GET", key=self.keys["service"], length=None)

    def suspend(self, user: str = "alice", reason: str = "An order.") -> int:
        """Suspend a user from all models; return the position."""
        done = self.service.ledger.suspend(
            Subject(type="user", id=user),
            scope=Scope.model_validate({"resources": [{"type": "model"}]}),
            indefinite=True,
            basis=Basis.LEGAL_ORDER,
            reason=reason,
            by=SYSTEM_AUTHOR,
        )
        return done.recorded.position

    def connections(self) -> list[CheckProtocol]:
        """Return the connections that the server has."""
        return list(self.server.server_state.connections)  # type: ignore[arg-type]

    def connection(self, wire: Wire) -> CheckProtocol:
        """Return the server's end of a connection, once it has one."""
        name = wire.socket.getsockname()
        found: list[CheckProtocol] = []

        def is_there() -> bool:
            found[:] = [c for c in self.connections() if c.client == name]
            return bool(found)

        until(is_there)
        return found[0]


def on_loop(connection: CheckProtocol, call: Callable[[], T]) -> T:
    """Run something on the loop of a connection, as uvicorn would; return what it returns."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it is raised in the test
            done.set_exception(error)

    connection.loop.call_soon_threadsafe(run)
    return done.result(WAIT_S)


@contextmanager
def server_on(folder: Path) -> Iterator[Served]:
    """A server on a new ledger with alice suspended."""
    clock = SetClock()
    url = f"sqlite:///{folder / 'ledger.db'}"
    service = build(Settings(database_url=url, origin="test.ledger"), clock=clock)
    keys = open_ledger(service)
    server, thread, url = serve(service)
    served = Served(service, clock, keys, server, thread, url)
    try:
        served.suspend()
        served.suspend("wordy", reason="x" * REASON_MAX)
        yield served
        if thread.is_alive():
            check_ledger(service)
    finally:
        server.should_exit = True
        thread.join(WAIT_S)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that the tests of this module share."""
    with server_on(tmp_path_factory.mktemp("protocol")) as served:
        yield served


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A server that a test has for itself."""
    with server_on(tmp_path) as served:
        yield served


# --- what it relies on ----------------------------------------------------------------------------

CALLBACKS: Final = {
    "on_message_begin": ["self"],
    "on_url": ["self", "url"],
    "on_header": ["self", "name", "value"],
    "on_headers_complete": ["self"],
    "on_body": ["self", "body"],
    "on_message_complete": ["self"],
}
METHODS: Final = CALLBACKS | {
    "connection_made": ["self", "transport"],
    "data_received": ["self", "data"],
    "shutdown": ["self"],
    "_unset_keepalive_if_required": ["self"],
    "on_response_complete": ["self"],
}


def unlike(protocol_class: type[HttpToolsProtocol]) -> list[str]:
    """Say in what a class is not what ``CheckProtocol`` takes for its base."""
    faults = []
    for name, parameters in METHODS.items():
        method = getattr(protocol_class, name, None)
        if method is None:
            faults.append(f"{name} is gone")
        elif [*inspect.signature(method).parameters] != parameters:
            faults.append(f"{name} takes {inspect.signature(method)}, not {parameters}")
    reported = {name for name in dir(protocol_class) if name.startswith("on_")}
    faults += [
        f"{name} is new: the parser reports something that is not handed over"
        for name in sorted(reported - {*CALLBACKS, "on_response_complete"})
    ]
    config = uvicorn.Config(lambda: None, log_config=None)
    loop = asyncio.new_event_loop()
    try:
        made = protocol_class(config, ServerState(), {"a": 1}, loop)
    finally:
        loop.close()
    kinds: dict[str, type] = {
        "app_state": dict,
        "cycle": type(None),
        "parser": HttpRequestParser,
        "pipeline": deque,
        "connections": set,
        "server_state": ServerState,
        "loop": asyncio.AbstractEventLoop,
    }
    faults += [
        f"{name} is not a {kind.__name__} in a new connection"
        for name, kind in kinds.items()
        if not isinstance(getattr(made, name, object()), kind)
    ]
    owners: dict[object, set[str]] = {
        made.server_state: {"default_headers", "connections", "total_requests"},
        made.parser: {"get_method", "get_http_version", "should_keep_alive"},
    }
    faults += [
        f"{type(owner).__name__} has no {name}"
        for owner, names in owners.items()
        for name in sorted(names)
        if not hasattr(owner, name)
    ]
    for owner, names in (
        (RequestResponseCycle, {"response_complete", "keep_alive", "transport", "scope"}),
        (FlowControl, {"write_paused"}),
    ):
        source = inspect.getsource(owner)
        faults += [
            f"{owner.__name__} has no {name}"
            for name in sorted(names)
            if f"self.{name} = " not in source
        ]
    return faults


def test_uvicorn_is_what_the_protocol_was_written_for() -> None:
    """An upgrade of uvicorn that changes what is relied on is told here, in words."""
    written_for = "0.54"

    assert [] == unlike(HttpToolsProtocol), (
        f"uvicorn {uvicorn.__version__} differs from {written_for}, for which "
        "ledger/service/http/protocol.py was written. Read its httptools_impl.py again, or set "
        "LEDGER_CHECK_PROTOCOL=false meanwhile."
    )


def test_a_change_of_uvicorn_is_told_in_words() -> None:
    """A callback that takes more, one that is new, and a name that is gone."""

    class Later(HttpToolsProtocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            del self.pipeline

        def on_body(self, body: bytes, offset: int = 0) -> None: ...

        def on_chunk_header(self) -> None: ...

    faults = unlike(Later)

    assert 3 == len(faults)
    for name in ("on_body takes", "on_chunk_header is new", "pipeline is not"):
        assert any(fault.startswith(name) for fault in faults)


def test_everything_that_is_relied_on_is_there_while_a_request_is_answered(
    shared_server: Served,
) -> None:
    """Attributes that a connection has only later are there by then."""
    with Wire(shared_server.url) as wire:
        wire.ask(shared_server.get())
        connection = shared_server.connection(wire)

        assert connection.cycle.response_complete is True
        assert connection.flow.write_paused is False
        assert STATE_KEY in connection.scope["state"]
        for name in ("write", "close", "abort", "is_closing"):
            assert callable(getattr(connection.transport, name))


# --- what it hands over ---------------------------------------------------------------------------


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with everything that an application is told of a request."""
    if scope["type"] == "lifespan":
        await receive()
        scope["state"].update(STATE)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = b""
    more = True
    while more:
        message = await receive()
        body += message["body"]
        more = message["more_body"]
    told = {
        name: value.decode("latin-1") if isinstance(value, bytes) else value
        for name, value in scope.items()
        if name not in ("client", "server", "headers", "state")
    }
    headers = [
        [name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]
    ]
    text = orjson.dumps(
        {
            "scope": told,
            "headers": headers,
            "state": sorted(scope["state"]),
            "body": body.decode("latin-1"),
        }
    )
    length = str(len(text)).encode()
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]}
    await send(start)
    await send({"type": "http.response.body", "body": text})


STATE: Final[dict[str, DecisionPoint]] = {}


@contextmanager
def echoing(http: type[HttpToolsProtocol]) -> Iterator[str]:
    """Serve ``echo`` with a protocol."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(echo, http=http, log_level="error", access_log=False, ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(WAIT_S)
        assert not thread.is_alive()


HANDED_OVER: Final = {
    "a reading": request("/v1/events?q=a%20b&x=1", method="GET", length=None),
    "a writing": request("/v1/suspensions", b'{"a": 1}', "X-CASE: As-Sent", "x-case: twice"),
    "chunks": request("/v1/x", chunked(b"a" * 50, 7), "transfer-encoding: chunked", length=None),
    "a large body": request("/v1/x", b"ab" * 200_000),
    "HTTP/1.0": request("/v1/x", b"body", version="1.0"),
    "another method": request("/v1/x", b"body", method="PROPFIND"),
    "an expectation": request("/v1/x", b"body", "expect: later"),
    "escapes": request("/v1/a%2Fb%C3%A9/%25?%ff=%00", method="GET", length=None),
    "beyond ASCII": request("/v1/x", b"\xff\x00", "x-other: \xe9\xff"),
    "a whole URL": request("http://other.test:81/v1/x?y", b"body"),
    "the path of a check, read": request(EVALUATION, method="GET", length=None),
    "a check without a key": request(EVALUATION, CHECK),
    "a check with a wrong key": request(EVALUATION, CHECK, key="clk_wrong"),
    "a check that is no JSON": request(EVALUATION, CHECK, media_type="text/plain"),
    "a check in chunks": request(
        EVALUATION, chunked(CHECK, 9), "transfer-encoding: chunked", length=None
    ),
    "a check over HTTP/1.0": request(EVALUATIONS, CHECK, version="1.0"),
    "a check with a position": request(EVALUATIONS, CHECK, "ledger-min-position: 1"),
}


def test_what_is_handed_over_is_what_uvicorn_would_report(tmp_path: Path) -> None:
    """An application is told the same of every request, byte for byte, whoever parsed it."""
    service = build(Settings(database_url=f"sqlite:///{tmp_path / 'ledger.db'}"), clock=SetClock())
    STATE[STATE_KEY] = DecisionPoint(service.index, service.keyring, service.feed, service.now_us)
    with echoing(CheckProtocol) as checked, echoing(HttpToolsProtocol) as alone:
        for name, sent in HANDED_OVER.items():
            here, there = exchange(checked, sent), exchange(alone, sent)

            # But for the connection itself, without which no stream could be bounded.
            assert [STATE_KEY, TRANSPORT_KEY] == here.json["state"]
            assert {**there.json, "state": here.json["state"]} == here.json, name
            assert [STATE_KEY] == there.json["state"]
    service.close()


def test_a_request_that_is_split_anywhere_gets_the_same_answer(shared_server: Served) -> None:
    """Whatever pieces the network makes of a request: one answer, the same."""
    keys = shared_server.keys
    batch = orjson.dumps({**ASKED, "evaluations": [{}, {"resource": {"type": "model", "id": "x"}}]})
    sent = [
        shared_server.check(),
        shared_server.check("x-request-id: 42", "connection: keep-alive"),
        shared_server.check(body=b'{"subject": 1}'),
        shared_server.check(body=CHECK + b" \n"),  # whole JSON before it is the whole body
        request(EVALUATIONS, batch, key=keys["service"]),
        request(EVALUATION, CHECK, key=keys["officer"]),
        request(
            EVALUATION,
            chunked(CHECK, 50),
            "transfer-encoding: chunked",
            key=keys["service"],
            length=None,
        ),
        shared_server.get(),
    ]
    for whole in sent:
        with Wire(shared_server.url) as wire:
            wire.send(whole)
            expected = told(wire.read())
            connection = shared_server.connection(wire)
            cuts = [[cut] for cut in range(1, len(whole))]
            for cut in [*cuts, range(1, len(whole))]:
                pieces = [
                    whole[start:end]
                    for start, end in zip([0, *cut], [*cut, len(whole)], strict=True)
                ]
                feed(connection, *pieces)

                assert expected == told(wire.read()), cut


def feed(connection: CheckProtocol, *pieces: bytes) -> None:
    """Let a connection receive bytes in these pieces."""

    def receive() -> None:
        for piece in pieces:
            connection.data_received(piece)

    on_loop(connection, receive)


def told(answer: Answer) -> object:
    """Return what two answers must have in common."""
    made_up = {"date", "x-request-id"}
    return answer.status, [h for h in answer.headers if h[0] not in made_up], answer.body


def test_answers_come_in_the_order_of_the_requests(shared_server: Served) -> None:
    """However checks, refusals and other routes are mixed, and however the stream is cut."""
    kinds: dict[str, Callable[..., bytes]] = {
        "check": shared_server.check,
        "refusal": lambda *headers: shared_server.check(*headers, body=b"{}"),
        "route": lambda *headers: request(
            ROUTE, b"", *headers, method="GET", key=shared_server.keys["service"], length=None
        ),
    }
    statuses = {"check": 200, "refusal": 400, "route": 200}
    order = [*kinds] * 3 + ["check"] * 5 + ["route", "route", "check", "refusal", "check", "route"]
    stream = b"".join(kinds[kind](f"x-request-id: {n}") for n, kind in enumerate(order))
    for size in (len(stream), 1_000, 333):
        with Wire(shared_server.url) as wire:
            for start in range(0, len(stream), size):
                wire.send(stream[start : start + size])
            answers = [wire.read() for _ in order]

            assert [str(number) for number in range(len(order))] == [
                answer.header("x-request-id") for answer in answers
            ]
            assert [statuses[kind] for kind in order] == [answer.status for answer in answers]
            assert wire.is_open()


def test_a_client_that_reads_nothing_is_not_answered_without_end(shared_server: Served) -> None:
    """Who sends checks and reads no answer is read no further; later it gets every answer."""
    count = 2_500
    body = orjson.dumps({**ASKED, "subject": {"type": "user", "id": "wordy"}})
    checks = (shared_server.check(f"x-request-id: {n}", body=body) for n in range(count))
    stream = b"".join(checks)
    with Wire(shared_server.url) as wire:
        sender = threading.Thread(target=wire.send, args=(stream,))
        sender.start()
        connection = shared_server.connection(wire)
        until(lambda: on_loop(connection, lambda: connection.flow.read_paused))

        waiting = on_loop(connection, connection.transport.get_write_buffer_size)
        assert waiting < 2 * 1024 * 1024
        for number in range(count):
            answer = wire.read()
            assert str(number) == answer.header("x-request-id")
        sender.join()


def test_a_fault_of_ours_is_answered_as_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A check that fails inside is a 500 of the application's, known head or not."""
    with server_on(tmp_path) as served, Wire(served.url) as wire:
        first = wire.ask(served.check())
        rows, served.service.index._rows = served.service.index._rows, None  # type: ignore[assignment]
        known = wire.ask(served.check())
        parsed = wire.ask(served.check("x-other: 1"))
        served.service.index._rows = rows
        again = wire.ask(served.check())

        for answer in (known, parsed):
            assert (500, "internal_error") == (answer.status, answer.json["code"])
        assert told(first) == told(again)


# --- known heads ----------------------------------------------------------------------------------


def test_a_known_head_is_worth_no_more_than_its_key(served: Served) -> None:
    """Revoked, expired, of another role: the very next request with the same bytes is refused."""
    ledger, clock = served.service.ledger, served.clock
    soon = clock() + timedelta(hours=1)
    by = SYSTEM_AUTHOR
    keys = {
        "revoked": ledger.issue_key("the-service", by=by),
        "expired": ledger.issue_key("the-service", expires_at=soon, by=by),
    }
    ledger.enroll("another", role=Role.SERVICE, by=by)
    keys["changed"] = ledger.issue_key("another", by=by)
    sent = {name: request(EVALUATION, CHECK, key=done.secret) for name, done in keys.items()}

    def statuses() -> dict[str, int]:
        return {name: wires[name].ask(bytes_).status for name, bytes_ in sent.items()}

    with ExitStack() as stack:
        wires = {name: stack.enter_context(Wire(served.url)) for name in sent}
        for _ in range(3):
            assert {"revoked": 200, "expired": 200, "changed": 200} == statuses()
        ledger.revoke_key(str(keys["revoked"].recorded.event.about), by=by)
        assert {"revoked": 401, "expired": 200, "changed": 200} == statuses()
        ledger.enroll("another", role=Role.AUDITOR, by=by)
        assert {"revoked": 401, "expired": 200, "changed": 403} == statuses()
        clock.now = soon
        assert {"revoked": 401, "expired": 401, "changed": 403} == statuses()
        ledger.enroll("another", role=Role.SERVICE, by=by)
        assert {"revoked": 401, "expired": 401, "changed": 200} == statuses()


def test_a_known_head_is_not_answered_from_memory_that_is_stale(served: Served) -> None:
    """Once the process has stopped following the ledger, nobody is answered from it."""
    with Wire(served.url) as wire:
        for _ in range(2):
            answer = wire.ask(served.check())
            assert 200 == answer.status
        served.service.feed.failure = OSError("the disk is gone")
        answer = wire.ask(served.check())

        assert 503 == answer.status
        served.service.feed.failure = None


def test_the_heads_that_are_kept_are_few(served: Served) -> None:
    """Every head may differ, by an id of its own: only so many are kept, and all are answered."""
    with Wire(served.url) as wire:
        for start in range(0, HEADS_KEPT_MAX + 500, 50):
            for number in range(start, start + 50):
                answer = wire.ask(served.check(f"x-request-id: {number}"))
                assert str(number) == answer.header("x-request-id")
        long = served.check("x-long: " + "x" * 4_000)
        wire.ask(long)
        point = served.connection(wire)._point

        assert point is not None
        assert 0 < len(point.known_heads) <= HEADS_KEPT_MAX
        assert not any(b"x-long" in head for head in point.known_heads)


# --- deadlines ------------------------------------------------------------------------------------


def late(connection: CheckProtocol, by: float) -> None:
    """Look at a connection as will be done some seconds later."""
    on_loop(connection, lambda: connection.close_if_late(connection.loop.time() + by))


def is_closing(connection: CheckProtocol) -> bool:
    """Tell whether the server has closed its end."""
    return on_loop(connection, connection.transport.is_closing)


def arrived(served: Served, wire: Wire, phase: int) -> CheckProtocol:
    """Return the server's end once it is in a phase."""
    connection = served.connection(wire)
    until(lambda: on_loop(connection, lambda: connection._phase) == phase)
    return connection


def test_a_head_that_takes_too_long_is_cut_off(shared_server: Served) -> None:
    """From its first byte a head has its time, however steadily its bytes come."""
    for sent in (b"P", b"POST /access/v1/evaluation HTTP/1.1\r\nO", b"GET /livez HTTP/1.1\r\n"):
        with Wire(shared_server.url) as wire:
            wire.send(sent)
            connection = arrived(shared_server, wire, protocol.HEADERS)
            late(connection, HEADERS_DEADLINE_S - 1)
            assert not is_closing(connection)
            feed(connection, b"O")
            late(connection, HEADERS_DEADLINE_S + 0.1)

            assert wire.take() is None


def test_a_body_that_takes_too_long_is_cut_off(shared_server: Served) -> None:
    """From the end of its head a body has its time, of a check and of any other request."""
    officer = shared_server.keys["officer"]
    for sent in (
        shared_server.check(length=1_000),
        request("/v1/suspensions", b"{", key=officer, length=1_000),
        request("/v1/x", b"5\r\n{", "transfer-encoding: chunked", key=officer, length=None),
    ):
        with Wire(shared_server.url) as wire:
            wire.send(sent)
            connection = arrived(shared_server, wire, protocol.BODY)
            late(connection, BODY_DEADLINE_S - 1)
            assert not is_closing(connection)
            feed(connection, b" ")
            late(connection, BODY_DEADLINE_S + 0.1)

            assert is_closing(connection)


def test_a_connection_without_a_request_is_closed_at_last(shared_server: Served) -> None:
    """Before the first request, after a check, after another route: it is kept for its time."""
    for sent in (b"", shared_server.check(), shared_server.check() * 2, shared_server.get()):
        with Wire(shared_server.url) as wire:
            wire.send(sent)
            for _ in range(sent.count(b"HTTP/1.1")):
                wire.read()
            connection = shared_server.connection(wire)
            late(connection, 0)  # what uvicorn answered counts as idle from this look on
            late(connection, IDLE_DEADLINE_S - 1)
            assert not is_closing(connection)
            late(connection, IDLE_DEADLINE_S + 0.1)

            assert wire.take() is None


def has_taken(connection: CheckProtocol, behind: bytes) -> bool:
    """Tell whether what was sent behind a request that is being answered has arrived."""
    return not behind or bool(connection.pipeline) or connection._phase == protocol.HEADERS


def test_an_answer_that_takes_long_is_not_cut_off(served: Served) -> None:
    """A request that is being answered has no deadline, nor have those that wait behind it."""
    position = served.service.recorder.position
    wait = served.get(CHANGES.format(position))
    for behind, more in (
        (b"", 0),
        (served.check(), 1),
        (served.get(), 1),
        (served.check() + served.get(), 2),
        (b"POST", 0),
        (served.check() + b"POST /access", 1),
    ):
        with Wire(served.url) as wire:
            wire.send(
                wait.replace(b"after=%d" % position, b"after=%d" % served.service.feed.position)
            )
            connection = arrived(served, wire, protocol.ANSWERING)
            wire.send(behind)
            until(lambda c=connection, b=behind: on_loop(c, lambda: has_taken(c, b)))  # type: ignore[misc]
            for seconds in (10, 100, 1_000):
                late(connection, seconds)
            assert not is_closing(connection)
            served.suspend(f"u{served.service.feed.position}")

            for _ in range(1 + more):
                answer = wire.read()
                assert 200 == answer.status


@contextmanager
def deaf(served: Served) -> Iterator[tuple[CheckProtocol, bytes]]:
    """A client that takes little: yields its connection, and the end of a request for much."""
    host, port = urlsplit(served.url).netloc.split(":")
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
        client.connect((host, int(port)))
        wordy = {"type": "user", "id": "wordy"}
        batch = orjson.dumps({**ASKED, "subject": wordy, "evaluations": [{}] * 1_000})
        sent = request(EVALUATIONS, batch, key=served.keys["service"])
        client.sendall(sent[:-1])
        name = client.getsockname()
        until(lambda: any(c.client == name for c in served.connections()))
        (connection,) = (c for c in served.connections() if c.client == name)
        until(
            lambda: on_loop(connection, lambda: len(b"".join(connection._chunks))) == len(batch) - 1
        )
        yield connection, sent[-1:]


def test_an_answer_that_nobody_reads_is_dropped_at_last(served: Served) -> None:
    """A connection that is closed but not read goes, too, with what was still to be sent."""
    with deaf(served) as (connection, end):
        on_loop(connection, connection.shutdown)
        feed(connection, end)
        assert is_closing(connection)
        late(connection, IDLE_DEADLINE_S - 1)
        assert [connection] == served.connections()
        late(connection, IDLE_DEADLINE_S + 0.1)

        until(lambda: not served.connections())


def test_nothing_is_done_behind_the_request_that_was_the_last(served: Served) -> None:
    """What was sent behind it is passed over: a command would be done, and not be answered."""
    listing = orjson.dumps({"resource": {"type": "model", "id": "unasked"}})
    command = request("/v1/resources", listing, method="PUT", key=served.keys["admin"])
    position = served.service.recorder.position
    for last in (served.check("connection: close"), served.check(version="1.0")):
        with Wire(served.url) as wire:
            wire.send(last + command)

            assert 200 == wire.read().status
            assert wire.take() is None
    with deaf(served) as (connection, end), Wire(served.url) as wire:
        on_loop(connection, connection.shutdown)
        feed(connection, end + command + served.check())
        # A later command, because commands are done in the order in which they come.
        body = orjson.dumps({"subject": {"type": "user", "id": "bob"}})
        later = request("/v1/subjects", body, method="PUT", key=served.keys["officer"])
        answers = [wire.ask(sent).status for sent in (served.get(), later)]
        assert is_closing(connection)
        assert connection in served.connections()
    assert [200, 201] == answers
    assert position + 1 == served.service.recorder.position


class Later:
    """The clock of a loop, moved; what is scheduled is noted instead."""

    def __init__(self, loop: asyncio.AbstractEventLoop, by: float) -> None:
        self._loop = loop
        self._by = by
        self.scheduled: list[object] = []

    def time(self) -> float:
        """Say what time it will be."""
        return self._loop.time() + self._by

    def call_later(self, _: float, call: object, *__: object) -> None:
        """Note what would be done."""
        self.scheduled.append(call)


def sweep(served: Served, connection: CheckProtocol, by: float) -> Later:
    """Look at all connections of a server as will be done some seconds later."""
    later = Later(connection.loop, by)
    on_loop(connection, lambda: protocol._sweep(later, served.server.server_state))  # type: ignore[arg-type]
    return later


def test_every_server_looks_at_its_connections(tmp_path: Path) -> None:
    """From the first connection to the last, each server of a process for itself, and once."""
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        with server_on(folder) as served, Wire(served.url) as wire:
            connection = served.connection(wire)
            state = served.server.server_state

            assert state in protocol._sweeping
            assert [protocol._sweep] == sweep(served, connection, 0).scheduled
            on_loop(connection, state.connections.clear)
            assert [] == sweep(served, connection, 0).scheduled
            assert state not in protocol._sweeping
            state.connections.add(connection)


def test_thousands_of_idle_and_slow_connections_keep_nobody_from_being_answered(
    served: Served,
) -> None:
    """Idle ones cost a look a second, slow ones are cut off, and checks go on meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard if hard != resource.RLIM_INFINITY else 20_000
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, max(soft, 8_192)), hard))
    idle = min(2_000, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 500) // 2)
    host, port = urlsplit(served.url).netloc.split(":")
    slow = [
        b"POST /access/v1/evaluation HTTP/1.1\r\nx-slow: ",
        served.check(length=100_000)[:-1],
    ]
    with ExitStack() as stack:
        for number in range(idle + 200):
            client = stack.enter_context(socket.create_connection((host, int(port)), WAIT_S))
            if number >= idle:
                client.sendall(slow[number % 2])
        wire = stack.enter_context(Wire(served.url))

        def check_is_answered() -> None:
            for sent in (served.check(body=b"{}"), served.get(), served.check()):
                wire.ask(sent)

        def open_connections() -> int:
            return len(served.connections())

        def phases() -> Counter[int]:
            return on_loop(mine, lambda: Counter(c._phase for c in served.connections()))

        check_is_answered()
        mine = served.connection(wire)
        until(lambda: phases()[protocol.HEADERS] == phases()[protocol.BODY] == 100)
        assert idle + 201 == open_connections()
        check_is_answered()
        sweep(served, mine, HEADERS_DEADLINE_S + 1)
        until(lambda: open_connections() == idle + 101)
        check_is_answered()
        sweep(served, mine, BODY_DEADLINE_S + 1)
        until(lambda: open_connections() == idle + 1)
        check_is_answered()
        sweep(served, mine, IDLE_DEADLINE_S + 1)
        until(lambda: open_connections() == 0)
    assert 200 == exchange(served.url, served.check()).status


# --- shutting down --------------------------------------------------------------------------------


def test_what_has_begun_is_answered_before_the_server_ends(served: Served) -> None:
    """A check whose body, or head, is still arriving is answered, and the connection closed."""
    whole = served.check("x-request-id: 7")
    body = served.check("x-request-id: 8", body=b"{}")
    command = request("/v1/suspensions", b"{}", key=served.keys["officer"])
    with ExitStack() as stack:
        wires = []
        for sent, cut in ((whole, -10), (whole, 20), (body, -1), (command, -1)):
            wire = stack.enter_context(Wire(served.url))
            wire.send(sent[:cut])
            arrived(served, wire, protocol.HEADERS if cut > 0 else protocol.BODY)
            wires.append((wire, sent[cut:]))
        idle = stack.enter_context(Wire(served.url))
        idle.send(served.check())
        idle.read()
        waiting = stack.enter_context(Wire(served.url))
        waiting.send(served.get(CHANGES.format(served.service.feed.position)))
        arrived(served, waiting, protocol.ANSWERING)

        served.server.should_exit = True
        assert idle.take() is None
        released = waiting.read()
        answers = []
        for wire, rest in wires:
            wire.send(rest)
            answers.append(wire.read())

            assert wire.take() is None
        served.thread.join(WAIT_S)

    assert not served.thread.is_alive()
    assert (200, []) == (released.status, released.json["events"])
    assert [200, 200, 400, 422] == [answer.status for answer in answers]
    assert {"close"} == {answer.header("connection") for answer in answers}
    assert ["7", "7", "8"] == [answer.header("x-request-id") for answer in answers[:3]]


def test_a_process_that_is_told_to_end_answers_what_has_begun(tmp_path: Path) -> None:
    """SIGTERM while the body of a check arrives: it is answered, then the process ends well."""
    database = tmp_path / "ledger.db"
    keys = opened(database)
    with started(database, keys) as process, Wire(process.url) as wire, Wire(process.url) as other:
        for each in (wire, other):  # the server has both before it is told to end
            each.send(request(EVALUATION, CHECK, key=keys["service"]))
            each.read()
        sent = request(EVALUATION, CHECK, key=keys["service"])
        wire.send(sent[:-5])
        other.send(sent)
        other.read()  # by now the server has read the first part, too
        process.popen.terminate()
        assert other.take() is None
        answer = wire.ask(sent[-5:])

        assert (200, "close") == (answer.status, answer.header("connection"))
        assert wire.take() is None
        assert 0 == process.popen.wait(WAIT_S)


# --- the setting ----------------------------------------------------------------------------------


def test_a_setting_leaves_every_request_to_uvicorn(tmp_path: Path, shared_server: Served) -> None:
    """LEDGER_CHECK_PROTOCOL=false: the same answers, by the application."""

    def is_by_the_parser(answer: Answer) -> bool:
        # The order of the headers is no promise, but it tells who has written them.
        names = [name for name, _ in answer.headers]
        return names.index("ledger-position") < names.index("content-length")

    database = tmp_path / "ledger.db"
    keys = opened(database)
    with started(database, keys, LEDGER_CHECK_PROTOCOL="false") as process:
        position = int(process.suspend("alice").headers["Ledger-Position"])
        answer = exchange(process.url, request(EVALUATION, CHECK, key=keys["service"]))

        assert (200, False) == (answer.status, answer.json["decision"])
        assert str(position) == answer.header("ledger-position")
        assert not is_by_the_parser(answer)
    assert is_by_the_parser(exchange(shared_server.url, shared_server.check()))
