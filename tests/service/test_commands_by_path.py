"""Commands whose path names all of them: answered as FastAPI would answer, whatever is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx
import orjson
import pytest

from ledger.service.http.app import create_app
from ledger.service.http.commands import commands
from ledger.service.http.one_write import TRANSPORT_KEY, in_one_write
from ledger.service.http.route import CommandsByPath, LedgerRoute
from tests.service.conftest import Running, serving
from tests.service.wire import Wire, request

PATH = "/v1/suspensions"
BODY = {
    "subject": {"type": "user", "id": "ann"},
    "scope": {"resources": [{"type": "model"}]},
    "indefinite": True,
    "basis": "legal_order",
    "reason": "An order.",
}

Ask = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def ask(shared: Running) -> Iterator[Ask]:
    """Sends a request to the service and to FastAPI alone, which must answer alike."""
    api = create_app(shared.service).api
    with serving(shared.service, app=api) as url, httpx.Client(base_url=url, timeout=20) as plain:

        def ask(method: str, path: str, **more: Any) -> httpx.Response:
            headers = {
                "Authorization": f"Bearer {shared.keys['officer']}",
                "X-Request-ID": "the-same",
                **more.pop("headers", {}),
            }
            answers = [
                http.request(method, path, headers=headers, **more) for http in (shared.http, plain)
            ]
            one, other = (
                (answer.status_code, answer.content, sorted(set(answer.headers.items()) - dates))
                for answer in answers
                for dates in [{("date", answer.headers["date"])}]
            )
            assert one == other
            return answers[0]

        yield ask


@pytest.mark.parametrize(
    ("status", "asked"),
    [
        (201, {"json": BODY, "headers": {"Idempotency-Key": "once"}}),
        (201, {"json": BODY, "headers": {"Idempotency-Key": "last", "Connection": "close"}}),
        (401, {"json": BODY, "headers": {"Authorization": "Bearer none"}}),
        (400, {"content": b"{", "headers": {"Content-Type": "application/json"}}),
        (400, {"content": b"", "headers": {"Content-Type": "application/json"}}),
        (415, {"content": b"{}", "headers": {"Content-Type": "text/plain"}}),
        (413, {"json": {**BODY, "reason": "x" * 300_000}}),
        (422, {"json": {}}),
        (422, {"json": {**BODY, "basis": "no basis"}}),
        (422, {"json": {**BODY, "indefinite": False}}),
        (422, {"json": BODY, "params": {"more": "1"}}),
        (422, {"json": BODY, "headers": {"X-Request-ID": "x" * 300}}),
        (422, {"json": BODY, "headers": {"Idempotency-Key": "x" * 300}}),
        (422, {"json": BODY, "headers": {"Ledger-On-Behalf-Of": "nobody"}}),
        (503, {"json": BODY, "headers": {"Ledger-Min-Position": "1000000"}}),
    ],
)
def test_a_command_is_answered_as_by_fastapi(ask: Ask, status: int, asked: dict[str, Any]) -> None:
    """Who asks, whether it can be read, and what the rules say: each has its say, in its order."""
    assert status == ask("POST", PATH, **asked).status_code


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PATCH", PATH, 405),
        ("POST", f"{PATH}/", 404),
        ("POST", "/v1/nothing", 404),
        ("POST", "/v1/operators", 403),
        ("GET", PATH, 200),
    ],
)
def test_what_is_no_such_command_is_left_to_fastapi(
    ask: Ask, method: str, path: str, status: int
) -> None:
    """Another method, a slash too many, a role that may not, and a list."""
    assert status == ask(method, path, json={} if method == "POST" else None).status_code


def test_every_command_without_a_parameter_is_found(shared: Running) -> None:
    """None takes the way through the list of all routes, and no list of facts takes the other."""
    front = create_app(shared.service)
    by_path = CommandsByPath(front.api)
    for route in front.api.routes:
        if isinstance(route, LedgerRoute):
            for method in route.methods or ():
                asked = {"type": "http", "method": method, "path": route.path, "root_path": ""}
                plain = route.is_command and "{" not in route.path
                assert plain is by_path.has(asked), asked
                assert not by_path.has({**asked, "root_path": "/below"})
    assert not by_path.has({"type": "lifespan"})


def test_a_line_of_a_batch_may_name_every_command(shared: Running) -> None:
    """Whichever part of the interface it belongs to, in a service and in an import."""
    front = create_app(shared.service)
    served = {
        (method, route.path)
        for route in front.api.routes
        if isinstance(route, LedgerRoute) and route.is_command
        for method in route.methods or ()
    }

    named = {(method, commands().find(method, path)[0].path) for method, path in served}

    assert served
    assert served == named


def test_commands_that_arrive_together_are_answered_in_order(shared: Running) -> None:
    """What is sent on one connection before anything was answered, a check among it."""
    key = f"authorization: Bearer {shared.keys['officer']}"
    service = f"authorization: Bearer {shared.keys['service']}"
    command, body = request(PATH, orjson.dumps(BODY), key), {"subject": BODY["subject"]}
    check = {**body, "action": {"name": "use"}, "resource": {"type": "model", "id": "m"}}
    asked = request("/access/v1/evaluation", orjson.dumps(check), service)
    with Wire(shared.url) as wire:
        wire.send(command + command + asked + command)
        answers = [wire.read() for _ in range(4)]

    assert [201, 201, 200, 201] == [answer.status for answer in answers]
    assert answers[2].json["decision"] is False
    places = [answer.json["position"] for answer in (answers[0], answers[1], answers[3])]
    assert sorted(places) == places


class Connection:
    """Remembers what was done with it; uvicorn's protocol and its cycle at once."""

    def __init__(self, scope: dict[str, Any]) -> None:
        self.scope = scope
        self.transport: Any = self
        self.done: list[bytes | str] = []

    @property
    def cycle(self) -> Connection:
        """What answers the request."""
        return self

    def get_protocol(self) -> Connection:
        """What speaks on the connection."""
        return self

    def write(self, data: bytes) -> None:
        """Remember what is written."""
        self.done.append(data)

    def close(self) -> None:
        """Remember that it is closed."""
        self.done.append("closed")


def test_an_answer_leaves_in_one_piece() -> None:
    """Its head and body together, and before the end of the connection; a fault takes nothing."""
    scope: dict[str, Any] = {"state": {}}
    connection = Connection(scope)
    scope["state"][TRANSPORT_KEY] = connection
    with in_one_write(scope):
        connection.transport.write(b"head ")
        connection.transport.write(b"body")
        connection.transport.close()
    with suppress(ZeroDivisionError), in_one_write(scope):
        connection.transport.write(b"head")
        raise ZeroDivisionError
    with in_one_write(scope):
        pass

    assert [b"head body", "closed", b"head"] == connection.done
    assert connection.transport is connection


@pytest.mark.parametrize("state", [None, {}, "another"])
def test_what_uvicorn_parsed_alone_is_written_as_ever(state: object) -> None:
    """There is no connection in the scope, or it has gone on to another request."""
    connection = Connection({})
    scope = {"state": {TRANSPORT_KEY: connection} if state == "another" else state}
    if state is None:
        del scope["state"]
    with in_one_write(scope):
        connection.transport.write(b"head ")
        connection.transport.write(b"body")

    assert [b"head ", b"body"] == connection.done
