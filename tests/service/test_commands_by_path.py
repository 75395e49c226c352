"""Commands whose path names all of them: answered as FastAPI would answer, whatever is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from ledger.service.http.app import create_app
from ledger.service.http.route import CommandsByPath, LedgerRoute
from tests.service.conftest import Running, serving

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
    commands = CommandsByPath(front.api)
    for route in front.api.routes:
        if isinstance(route, LedgerRoute):
            for method in route.methods or ():
                asked = {"type": "http", "method": method, "path": route.path, "root_path": ""}
                plain = route.is_command and "{" not in route.path
                assert plain is commands.has(asked), asked
                assert not commands.has({**asked, "root_path": "/below"})
    assert not commands.has({"type": "lifespan"})
