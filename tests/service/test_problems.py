"""Problems: every refusal has a code, a hint and a status, and every error one shape."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator

import httpx
import pytest

import ledger.domain.errors
from ledger.domain.errors import LedgerError, NotFound, TamperDetected, Unavailable
from ledger.service.http import problems
from ledger.service.http.problems import RequestRefused, TooManyStreams, problem_of, status_of
from ledger.service.settings import Settings
from ledger.service.wiring import build
from tests.service.conftest import Running, SetClock, open_ledger, serving

MEMBERS = {"type", "title", "status", "detail", "code", "hint"}
TYPE = "urn:compliance-ledger:problem:"


def kinds(kind: type[LedgerError] = LedgerError) -> Iterator[type[LedgerError]]:
    """Every kind of refusal, below one."""
    for below in kind.__subclasses__():
        yield below
        yield from kinds(below)


KINDS = sorted({kind for kind in kinds() if kind.__module__.startswith("ledger.")}, key=str)
# Kinds that only others are raised of: they group, and no answer carries their code.
GROUPS = {ledger.domain.errors.Refused, RequestRefused}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_refusal_says_what_it_is_and_how_to_mend_it(kind: type[LedgerError]) -> None:
    """A code in snake case, a title without a full stop, a hint that is a sentence, a status."""
    assert kind.code.replace("_", "").isalpha()
    assert kind.code == kind.code.lower()
    assert kind.title[0].isupper()
    assert not kind.title.endswith(".")
    assert kind in GROUPS or kind.hint.endswith((".", "}"))
    assert kind.__doc__
    assert 400 <= status_of(kind("a detail")) <= 507


def test_no_two_kinds_of_refusal_have_one_code() -> None:
    """A code names one kind, so that a program may rely on it; groups may share that of a part."""
    codes: dict[str, list[type[LedgerError]]] = {}
    for kind in KINDS:
        if kind not in GROUPS:
            codes.setdefault(kind.code, []).append(kind)

    assert {} == {code: of for code, of in codes.items() if len(of) > 1}


def test_every_code_of_the_domain_stands_in_the_drawing_of_the_tree() -> None:
    """The docstring of the errors draws every kind with its code."""
    drawing = inspect.getdoc(ledger.domain.errors) or ""
    drawn = dict(
        line.replace("\u2502", " ")
        .replace("\u251c\u2500\u2500", "")
        .replace("\u2514\u2500\u2500", "")
        .split()[:2]
        for line in drawing.splitlines()
        if "\u2500\u2500" in line
    )

    for kind in KINDS:
        if kind.__module__ == ledger.domain.errors.__name__ and kind not in GROUPS:
            assert kind.code == drawn[kind.__name__].removesuffix(":")


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("InvalidValue", 422),
        ("GroundsRequired", 422),
        ("IdempotencyKeyReused", 422),
        ("EventTooLarge", 413),
        ("NotFound", 404),
        ("Conflict", 409),
        ("AlreadyEnded", 409),
        ("LastAdminKey", 409),
        ("Unavailable", 503),
        ("Behind", 503),
        ("StoreBusy", 503),
        ("StorageFull", 507),
        ("StorageFailed", 503),
        ("UnknownFact", 503),
        ("TamperDetected", 500),
        ("MalformedRequest", 400),
        ("NotAuthenticated", 401),
        ("NotAllowed", 403),
        ("BodyTooLarge", 413),
        ("UnsupportedMediaType", 415),
        ("InvalidRequest", 422),
    ],
)
def test_a_kind_of_refusal_has_the_status_of_the_nearest_kind_above_it(
    kind: str, status: int
) -> None:
    """One map from kinds to status codes; a new kind takes that of its group."""
    found = getattr(ledger.domain.errors, kind, None) or getattr(problems, kind)

    assert status == status_of(found("a detail"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_refusal_becomes_a_problem_document(kind: type[LedgerError]) -> None:
    """RFC 9457: type, title, status and detail, and our code, hint, field and further members."""
    error = kind("What is wrong: \u6f22, \\ud800.", field="/scope/resources/0", position=41)

    response = problem_of(error)

    body = json.loads(bytes(response.body))
    assert "application/problem+json" == response.media_type
    assert {*MEMBERS, "field", "position"} == set(body)
    assert TYPE + kind.code == body["type"]
    assert (kind.code, kind.title, kind.hint) == (body["code"], body["title"], body["hint"])
    assert status_of(error) == response.status_code == body["status"]
    assert "What is wrong: \u6f22, \\ud800." == body["detail"]
    assert ("/scope/resources/0", 41) == (body["field"], body["position"])


def test_a_refusal_without_a_field_shows_none() -> None:
    """Members that have nothing to say are left out."""
    assert MEMBERS == set(json.loads(bytes(problem_of(NotFound("nothing here")).body)))


def test_what_may_succeed_later_says_when_to_try_again() -> None:
    """Every 429, 503 and 507, and nothing else, carries Retry-After (RFC 9110, section 10.2.3)."""
    for kind in KINDS:
        response = problem_of(kind("not now"))

        assert ("retry-after" in response.headers) == (response.status_code in (429, 503, 507))
        is_unavailable = issubclass(kind, Unavailable | TooManyStreams)
        assert is_unavailable == (response.status_code in (503, 507))


# --- over HTTP ------------------------------------------------------------------------------------


def assert_problem(response: httpx.Response, status: int, code: str) -> None:
    """Check the shape that every answer of an error has."""
    body = response.json()
    assert (status, code) == (response.status_code, body["code"])
    assert "application/problem+json" == response.headers["content-type"]
    assert body.keys() >= MEMBERS
    assert TYPE + code == body["type"]
    assert status == body["status"]
    assert all(isinstance(body[name], str) and body[name] for name in MEMBERS - {"status"})
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/nothing", "/v1/suspensions/", "/docs", "/v1/links/x"]
)
def test_a_route_that_does_not_exist_is_a_404(shared: Running, path: str) -> None:
    """No redirect, no page: the problem says where routes are described."""
    response = shared("GET", path, headers={"X-Request-ID": "404"})

    assert_problem(response, 404, "no_such_route")
    assert "/openapi.json" in response.json()["hint"]
    assert "404" == response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/violations", "GET, POST"),
        ("DELETE", "/v1/suspensions", "GET, POST"),
        ("GET", "/v1/links", "DELETE, POST"),
        ("PATCH", "/v1/policies/aup", "GET, PUT"),
        ("POST", "/v1/suspensions/x", "GET"),
        ("GET", "/v1/suspensions/x/revision", "POST"),
        ("POST", "/livez", "GET"),
        ("OPTIONS", "/v1/operators", "GET, POST"),
        ("TRACE", "/v1/events", "GET"),
    ],
)
def test_a_method_that_a_route_has_not_is_a_405(
    shared: Running, method: str, path: str, allowed: str
) -> None:
    """Allow names every method of the path (RFC 9110, section 10.2.1)."""
    response = shared(method, path)

    assert_problem(response, 405, "method_not_allowed")
    assert allowed == response.headers["allow"]


@pytest.mark.parametrize(
    ("content", "media_type", "status", "code"),
    [
        (b"{", "application/json", 400, "malformed_request"),
        (b" " * 300_000, "application/json", 413, "body_too_large"),
        (b"{}", "text/plain", 415, "unsupported_media_type"),
        (b"{}", "application/json", 422, "invalid_request"),
    ],
)
def test_what_is_wrong_with_a_body_is_a_problem(
    shared: Running, content: bytes, media_type: str, status: int, code: str
) -> None:
    """Each in the one shape, with a request id also when none was sent."""
    headers = {"Content-Type": media_type}

    response = shared("POST", "/v1/warnings", role="officer", content=content, headers=headers)

    assert_problem(response, status, code)


@pytest.fixture
def broken(settings: Settings, clock: SetClock) -> Iterator[Callable[..., httpx.Response]]:
    """A service whose store was closed under it; whatever reads or writes it fails."""
    service = build(settings, clock=clock)
    keys = open_ledger(service)
    with serving(service) as url, httpx.Client(base_url=url, timeout=20) as http:

        def send(method: str, path: str, *, role: str, **more: object) -> httpx.Response:
            headers = {"Authorization": f"Bearer {keys[role]}", "X-Request-ID": "the-fault"}
            return http.request(method, path, headers=headers, **more)  # type: ignore[arg-type]

        assert 200 == send("GET", "/v1/suspensions", role="auditor").status_code
        service.ticker.stop()
        service.feed.stop()
        service.close()
        service.recorder.store.path = "/nowhere/ledger.db"
        yield send


def test_a_fault_of_ours_is_a_500_that_shows_nothing_of_the_inside(
    settings: Settings, clock: SetClock
) -> None:
    """The answer has a request id to quote and no word of the cause, which is in the log."""
    service = build(settings, clock=clock)
    keys = open_ledger(service)
    with serving(service) as url:
        with service.recorder.store.transaction(commit=True) as c:
            c.execute("DROP TABLE operator_keys")
        headers = {"Authorization": f"Bearer {keys['admin']}", "X-Request-ID": "the-fault"}

        answer = httpx.get(f"{url}/v1/operators", headers=headers, timeout=20)

    assert_problem(answer, 500, "internal_error")
    assert "the-fault" == answer.headers["x-request-id"]
    for inside in ("sqlite", "operator_keys", "traceback", ".py", "operationalerror"):
        assert inside not in answer.text.lower()


def test_a_read_that_the_store_cannot_answer_is_a_503(
    broken: Callable[..., httpx.Response],
) -> None:
    """A store that is gone may come back; where it is, is nobody's business."""
    answer = broken("GET", "/v1/operators", role="admin")

    assert_problem(answer, 503, "unavailable")
    assert "nowhere" not in answer.text.lower()


def test_a_command_that_cannot_be_recorded_is_a_503(broken: Callable[..., httpx.Response]) -> None:
    """A write that failed is known to have recorded nothing, so it may be tried again."""
    body = {"subject": {"type": "user", "id": "alice"}, "reason": "Mind the policy."}

    answer = broken("POST", "/v1/warnings", role="officer", json=body)

    assert_problem(answer, 503, "unavailable")
    assert "traceback" not in answer.text.lower()


def test_checks_go_on_when_the_store_does_not(broken: Callable[..., httpx.Response]) -> None:
    """A check is answered from memory: a lost disk does not stop every service at once."""
    body = {
        "subject": {"type": "user", "id": "alice"},
        "action": {"name": "use"},
        "resource": {"type": "model", "id": "atlas-3"},
    }

    answer = broken("POST", "/access/v1/evaluation", role="service", json=body)

    assert (200, True) == (answer.status_code, answer.json()["decision"])


def test_a_record_that_does_not_add_up_is_a_500_with_its_position(shared: Running) -> None:
    """Tampering is told apart from a fault: its code and where it was found are shown."""
    response = problem_of(TamperDetected("event 7 cannot be read", position=7))

    body = json.loads(bytes(response.body))
    assert (500, "tamper_detected", 7) == (response.status_code, body["code"], body["position"])
