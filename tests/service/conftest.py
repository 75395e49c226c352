"""A running service: real HTTP over a real socket, a real database file, and a clock to set."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from ledger.application import SYSTEM_AUTHOR
from ledger.domain.values import Role
from ledger.service.http.app import Front, create_app
from ledger.service.http.protocol import CheckProtocol
from ledger.service.settings import Settings
from ledger.service.wiring import Service, build
from tests import conftest
from tests.checks import check_ledger
from tests.postgres import fresh_database

T0 = conftest.T0
SetClock = conftest.SetClock
settings_at = conftest.settings_at


DOCUMENT: dict[str, Any] = {}
"""The OpenAPI document, once a service has told it; the same for every service."""


ENDLESS = "/v1/events/stream"
"""The route whose answer has no end: who reads all routes leaves it out, test_http_stream.py reads
it."""


def template_of(path: str) -> str | None:
    """Return the path of the document that a path is one of."""
    found = [
        template
        for template in DOCUMENT["paths"]
        if re.fullmatch(re.sub(r"\{[a-z]+\}", "[^/]+", template), path)
    ]
    # Of /v1/events/counts and /v1/events/{position}, the one without a parameter is meant.
    return min(found, key=lambda template: "{" in template) if found else None


@dataclass
class Running:
    """A running service, with a client and a key for each role."""

    service: Service
    url: str
    clock: SetClock
    keys: dict[str, str]
    http: httpx.Client
    checked: bool = field(default=True)

    def __call__(
        self, method: str, path: str, *, role: str | None = None, **more: Any
    ) -> httpx.Response:
        """Send a request with the key of a role."""
        headers = dict(more.pop("headers", {}))
        if role is not None:
            headers["Authorization"] = f"Bearer {self.keys[role]}"
        response = self.http.request(method, path, headers=headers, **more)
        self.check_documented(response)
        return response

    def check_documented(self, response: httpx.Response) -> None:
        """Check that the OpenAPI document describes the status and the code of an answer."""
        if not DOCUMENT:
            DOCUMENT.update(self.http.get("/openapi.json").json())
        request = response.request
        path = request.url.raw_path.decode().partition("?")[0]
        template = template_of(path)
        operation = DOCUMENT["paths"][template].get(request.method.lower()) if template else None
        problem = "problem" in response.headers.get("content-type", "")
        code = response.json()["code"] if problem else None
        if operation is None or code in ("no_such_route", "method_not_allowed"):
            return
        name = f"{request.method} {path} answers {response.status_code} {code}"
        described = operation["responses"].get(str(response.status_code))
        assert described is not None, f"{name}, which is not in the document"
        if code is not None:
            assert f"`{code}`" in described["description"], f"{name}, which is not described"

    def done(self, method: str, path: str, *, role: str, **more: Any) -> dict[str, Any]:
        """Send a request that must succeed; returns the body."""
        response = self(method, path, role=role, **more)
        assert response.status_code in (200, 201), response.text
        body: dict[str, Any] = response.json()
        return body

    def allowed(self, subject: str, resource: str, **more: Any) -> bool:
        """Ask the decision point about one subject and one model."""
        return bool(self.decision(subject, resource, **more)["decision"])

    def decision(self, subject: str, resource: str, **more: Any) -> dict[str, Any]:
        """Ask the decision point; returns the whole answer."""
        kind, _, id_ = subject.partition(":")
        body = {
            "subject": {"type": kind, "id": id_},
            "action": {"name": "use"},
            "resource": {"type": "model", "id": resource},
            **more,
        }
        return self.done("POST", "/access/v1/evaluation", role="service", json=body)


def open_ledger(service: Service) -> dict[str, str]:
    """Open the ledger and return a key for each role."""
    keys = {}
    with service.ledger.together():
        service.open()
        for role in Role:
            service.ledger.enroll(f"the-{role}", role=role, by=SYSTEM_AUTHOR)
            done = service.ledger.issue_key(f"the-{role}", by=SYSTEM_AUTHOR)
            assert done.secret is not None
            keys[str(role)] = done.secret
    return keys


def serve(
    service: Service, *, app: Front | FastAPI | None = None, port: int = 0
) -> tuple[uvicorn.Server, threading.Thread, str]:
    """Serve in a thread on a port of 127.0.0.1 (0: a free one); returns when it answers.

    Given an application that is served already, it is served once more, by uvicorn alone.
    """
    listening = socket.create_server(("127.0.0.1", port), backlog=2_048)
    port = listening.getsockname()[1]
    config = uvicorn.Config(
        app or create_app(service),
        http="httptools" if app else CheckProtocol,
        log_level="warning",
        access_log=False,
        lifespan="off" if app else "on",
        ws="none",
        timeout_keep_alive=75,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{port}"
    # The socket listens already, so the first request waits in its queue until the service starts.
    assert httpx.get(f"{url}/livez", timeout=10).status_code == 200
    return server, thread, url


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return settings_at(database_url, tmp_path, origin="test.ledger")


@contextmanager
def serving(
    service: Service, *, app: Front | FastAPI | None = None, port: int = 0
) -> Iterator[str]:
    """Serve for as long as the block runs; yields the URL."""
    server, thread, url = serve(service, app=app, port=port)
    try:
        yield url
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive()


@contextmanager
def opened(settings: Settings, clock: SetClock) -> Iterator[Running]:
    """A new ledger, served; it is checked as a whole at the end."""
    service = build(settings, clock=clock)
    keys = open_ledger(service)
    with serving(service) as url, httpx.Client(base_url=url, timeout=20) as http:
        run = Running(service, url, clock, keys, http)
        yield run
        if run.checked:
            check_ledger(service)


@contextmanager
def joined(run: Running) -> Iterator[Running]:
    """Another service on the database of a running one, as a second process would be."""
    service = build(run.service.settings, clock=run.clock)
    with serving(service) as url, httpx.Client(base_url=url, timeout=20) as http:
        yield Running(service, url, run.clock, run.keys, http)


@pytest.fixture
def running(settings: Settings, clock: SetClock) -> Iterator[Running]:
    """A service that is checked as a whole when the test is over."""
    with opened(settings, clock) as run:
        yield run


@contextmanager
def founded_on(kind: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[Running]:
    """A founded service on a kind of store, for the tests of one module."""
    with ExitStack() as stack:
        url = f"sqlite:///{folder / 'ledger.db'}"
        if kind == "postgresql":
            server = request.getfixturevalue("postgres_server")
            url = stack.enter_context(fresh_database(server))
        settings = settings_at(url, folder, origin="test.ledger")
        yield found(stack.enter_context(opened(settings, SetClock())))


@pytest.fixture(scope="module")
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A founded service that the tests of one module share."""
    with founded_on("sqlite", request, tmp_path_factory.mktemp("shared")) as run:
        yield run


POLICY = {
    "title": "Acceptable use",
    "clauses": [
        {
            "id": "fraud",
            "title": "Fraud",
            "text": "Do not deceive people for gain.",
            "category": "fraud",
            "severity": "high",
        },
        {
            "id": "disinformation",
            "title": "Disinformation",
            "text": "Do not spread what you know to be false.",
            "category": "disinformation",
            "severity": "medium",
        },
    ],
}
FRONTIER = ["atlas-3", "atlas-3-vision", "cipher-2"]
SMALL = ["mini-2", "embed-1"]


def found(running: Running) -> Running:
    """List five models, define the group frontier and publish a policy."""
    for model in (*FRONTIER, *SMALL):
        body = {"resource": {"type": "model", "id": model}, "properties": {"status": "released"}}
        running.done("PUT", "/v1/resources", role="admin", json=body)
    members = [{"type": "model", "id": model} for model in FRONTIER]
    running.done("PUT", "/v1/groups/frontier", role="admin", json={"resources": members})
    running.done("PUT", "/v1/policies/aup", role="admin", json=POLICY)
    return running


@pytest.fixture
def founded(running: Running) -> Running:
    """A running service with five models, the group frontier and a policy."""
    return found(running)


def violation_of(run: Running, subject: str, clause: str = "fraud", **more: Any) -> str:
    """Record a violation now; returns its id."""
    kind, _, id_ = subject.partition(":")
    body = {
        "subject": {"type": kind, "id": id_},
        "policy": "aup@1",
        "clause": clause,
        "occurred_at": run.clock().isoformat(),
        "detected_by": "human",
        "summary": "It happened.",
        **more,
    }
    return str(run.done("POST", "/v1/violations", role="reporter", json=body)["id"])


def suspension_of(run: Running, subject: str, **more: Any) -> str:
    """Suspend a subject from group frontier for two months, for a new violation; returns its id."""
    kind, _, id_ = subject.partition(":")
    body: dict[str, Any] = {
        "subject": {"type": kind, "id": id_},
        "scope": {"resources": [{"group": "frontier"}]},
        "reason": "Repeated fraud.",
        **more,
    }
    if not {"duration", "ends_at", "indefinite"} & set(body):
        body["duration"] = "P2M"
    if "grounds" not in body and "basis" not in body:
        body["grounds"] = [violation_of(run, subject)]
    return str(run.done("POST", "/v1/suspensions", role="officer", json=body)["id"])


WITHIN_S = 20.0  # for what comes within milliseconds, on a machine that may be busy
LOOK_EVERY_S = 0.005


def until(condition: Callable[[], bool], *, within_s: float = WITHIN_S) -> None:
    """Return when something that other threads bring about has come about."""
    pause = threading.Event()
    for _ in range(int(within_s / LOOK_EVERY_S)):
        if condition():
            return
        pause.wait(LOOK_EVERY_S)
    raise AssertionError(f"it did not come about within {within_s} s")
