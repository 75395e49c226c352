"""Who may use which route, and with which key? The table of roles, written out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import httpx
import pytest

from ledger.domain.values import Role
from tests.service.conftest import ENDLESS, Running, joined, suspension_of, violation_of

EVERYBODY: Final = {"service", "reporter", "officer", "approver", "auditor", "admin"}
READERS: Final = {"auditor", "officer", "approver"}

# Method, path and who may. Written by hand: what the routes say of themselves is held against it.
ROLES: Final = {
    ("POST", "/access/v1/evaluation"): {"service"},
    ("POST", "/access/v1/evaluations"): {"service"},
    ("POST", "/access/v1/search/subject"): {"service"},
    ("POST", "/access/v1/search/resource"): {"service"},
    ("POST", "/access/v1/search/action"): {"service"},
    ("POST", "/v1/batch"): {"reporter", "officer", "approver", "admin"},
    ("PUT", "/v1/subjects"): {"officer"},
    ("POST", "/v1/links"): {"officer"},
    ("DELETE", "/v1/links"): {"officer"},
    ("POST", "/v1/violations"): {"reporter", "officer"},
    ("POST", "/v1/violations/{id}/overturn"): {"approver"},
    ("POST", "/v1/warnings"): {"officer"},
    ("POST", "/v1/suspensions"): {"officer"},
    ("POST", "/v1/suspensions/{id}/revision"): {"officer"},
    ("POST", "/v1/suspensions/{id}/cancellation"): {"officer"},
    ("POST", "/v1/reinstatements"): {"officer", "approver"},
    ("GET", "/v1/violations"): READERS,
    ("GET", "/v1/violations/{id}"): READERS,
    ("GET", "/v1/warnings"): READERS,
    ("GET", "/v1/warnings/{id}"): READERS,
    ("GET", "/v1/suspensions"): READERS,
    ("GET", "/v1/suspensions/{id}"): READERS,
    ("GET", "/v1/reinstatements"): READERS,
    ("GET", "/v1/reinstatements/{id}"): READERS,
    ("GET", "/v1/events/export"): {"auditor"},
    ("GET", "/v1/events/export/manifest"): {"auditor"},
    ("GET", "/v1/suspensions/export"): READERS,
    ("GET", "/v1/suspensions/export/manifest"): READERS,
    ("GET", "/v1/violations/export"): READERS,
    ("GET", "/v1/violations/export/manifest"): READERS,
    ("GET", "/v1/reinstatements/export"): READERS,
    ("GET", "/v1/reinstatements/export/manifest"): READERS,
    ("GET", "/v1/warnings/export"): READERS,
    ("GET", "/v1/warnings/export/manifest"): READERS,
    ("GET", "/v1/access"): {*READERS, "service"},
    ("GET", "/v1/access/snapshot"): {"service"},
    ("GET", "/v1/access/changes"): {"service"},
    ("GET", "/v1/subjects/record"): {*READERS, "service"},
    ("GET", "/v1/events"): {"auditor"},
    ("GET", "/metrics"): {"auditor"},
    ("GET", "/v1/events/counts"): {"auditor"},
    ("GET", "/v1/events/stream"): {"auditor"},
    ("GET", "/v1/events/{position}"): {"auditor"},
    ("GET", "/v1/events/{position}/proof"): {"auditor"},
    ("GET", "/log/tile/{path}"): {"auditor"},
    ("GET", "/v1/log/inclusion"): {"auditor"},
    ("GET", "/v1/log/consistency"): {"auditor"},
    ("POST", "/v1/erasures"): {"admin"},
    ("POST", "/v1/erasures/{id}/confirmation"): {"approver"},
    ("GET", "/v1/erasures"): {"admin", "approver", "auditor"},
    ("GET", "/v1/erasures/{id}"): {"admin", "approver", "auditor"},
    ("POST", "/v1/holds"): {"admin"},
    ("DELETE", "/v1/holds/{id}"): {"admin"},
    ("GET", "/v1/holds"): {"admin", "approver", "auditor"},
    ("GET", "/v1/holds/{id}"): {"admin", "approver", "auditor"},
    ("PUT", "/v1/policies/{id}"): {"admin"},
    ("GET", "/v1/policies"): EVERYBODY,
    ("GET", "/v1/policies/{id}"): EVERYBODY,
    ("PUT", "/v1/resources"): {"admin"},
    ("GET", "/v1/resources"): EVERYBODY,
    ("PUT", "/v1/groups/{id}"): {"admin"},
    ("GET", "/v1/groups"): EVERYBODY,
    ("GET", "/v1/groups/{id}"): EVERYBODY,
    ("POST", "/v1/operators"): {"admin"},
    ("GET", "/v1/operators"): {"admin"},
    ("POST", "/v1/operators/{id}/keys"): {"admin"},
    ("DELETE", "/v1/keys/{id}"): {"admin"},
}
OPEN: Final = {
    ("GET", "/livez"),
    ("GET", "/readyz"),
    ("GET", "/log/checkpoint"),
    ("GET", "/.well-known/authzen-configuration"),
}
WITHOUT_BODY: Final = {
    ("DELETE", "/v1/keys/{id}"),
    ("DELETE", "/v1/holds/{id}"),
    ("POST", "/v1/erasures/{id}/confirmation"),
}

USELESS_KEYS: Final = (
    None,
    "",
    "Bearer",
    "Bearer clk_garbage",
    "Bearer " + "k" * 10_000,
    "Bearer k\u00e9y",
    "Basic dXNlcjpwYXNz",
    "clk_garbage",
)


@pytest.fixture(scope="module")
def gate(shared: Running) -> Iterator[Running]:
    """A service with two more keys that were good once: one revoked, one expired."""
    body = {"expires_at": "2026-11-24T10:30:00Z"}
    for name, more in (("revoked", {}), ("expired", body)):
        issued = shared.done("POST", "/v1/operators/the-admin/keys", role="admin", json=more)
        shared.keys[name] = issued["key"]
        assert 200 == shared("GET", "/v1/operators", role=name).status_code
        if name == "revoked":
            shared.done("DELETE", f"/v1/keys/{issued['id']}", role="admin")
    shared.clock.move(hours=1)
    yield shared
    del shared.keys["revoked"], shared.keys["expired"]


def knock(gate: Running, method: str, path: str, **more: Any) -> httpx.Response:
    """Send a request with a body that cannot be read, to a path that names nothing."""
    path = path.replace("{id}", "x").replace("{position}", "1")
    if path == ENDLESS:
        path += "?after=none"  # who passes is refused this, and need not read without end
    headers = {"Content-Type": "application/json", **more.pop("headers", {})}
    return gate(method, path, headers=headers, content=b'{"garbage', **more)


def operations(gate: Running) -> dict[tuple[str, str], dict[str, Any]]:
    """Return what the OpenAPI document says of each operation."""
    paths = gate("GET", "/openapi.json").json()["paths"]
    return {
        (method.upper(), path): operation
        for path, methods in paths.items()
        for method, operation in methods.items()
    }


def test_the_table_names_every_route_of_the_document(gate: Running) -> None:
    """A route that is added without a line in the table of roles fails here."""
    assert set(ROLES) | OPEN == set(operations(gate))


def test_the_document_says_the_same_roles_as_the_table(gate: Running) -> None:
    """What the document says about roles is what is decided, and open routes say nothing."""
    said = {name: operation.get("x-roles") for name, operation in operations(gate).items()}

    assert ROLES == {name: set(roles) for name, roles in said.items() if roles is not None}
    assert OPEN == {name for name, roles in said.items() if roles is None}


@pytest.mark.parametrize(("method", "path"), ROLES)
def test_a_route_serves_its_own_roles_and_no_other(gate: Running, method: str, path: str) -> None:
    """Every role is tried on every route; a wrong one is told so before its body is looked at."""
    before = gate.service.recorder.position
    allowed = ROLES[method, path]
    passed = 404 if (method, path) in WITHOUT_BODY else 400
    if path == "/v1/batch":  # it takes lines, and looks for them before it reads any
        passed = 415
    for role in Role:
        response = knock(gate, method, path, role=role)
        if role not in allowed:
            problem = response.json()
            assert (403, "not_allowed") == (response.status_code, problem["code"]), role
            assert all(name in problem["detail"] for name in allowed)
        elif method == "GET":
            assert response.status_code in (200, 404, 422), role
        else:
            assert passed == response.status_code, role

    assert before == gate.service.recorder.position


@pytest.mark.parametrize(("method", "path"), ROLES)
def test_a_route_refuses_every_key_that_is_not_usable(
    gate: Running, method: str, path: str
) -> None:
    """No key, garbage, a revoked and an expired key: one answer, which never says which it was."""
    before = gate.service.recorder.position
    given = [*USELESS_KEYS, f"Bearer {gate.keys['revoked']}", f"Bearer {gate.keys['expired']}"]
    answers = set()
    for key in given:
        headers = [] if key is None else [("Authorization", key.encode("latin-1"))]
        response = knock(gate, method, path, headers=dict(headers))
        for varying in ("x-request-id", "date"):
            response.headers.pop(varying, None)
        answers.add((response.status_code, response.content, str(sorted(response.headers.items()))))
        assert response.headers["www-authenticate"].startswith("Bearer")

    assert 1 == len(answers), answers
    assert 401 == answers.pop()[0]
    assert before == gate.service.recorder.position


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v1/suspensions?nonsense=1", {}),
        ("/v1/suspensions?limit=0", {}),
        ("/v1/suspensions?subject=%ff", {}),
        ("/v1/suspensions/%ff", {}),
        ("/v1/suspensions", {"Ledger-Min-Position": "soon"}),
        ("/v1/suspensions", {"Ledger-Min-Position": "999999"}),
        ("/v1/suspensions", {"X-Request-ID": "i" * 257}),
    ],
)
def test_who_asks_is_judged_before_what_is_asked(
    gate: Running, path: str, headers: dict[str, str]
) -> None:
    """Without a key it is 401 and with a wrong role 403, whatever else is wrong with a request."""
    assert 401 == gate("GET", path, headers=headers).status_code
    assert 403 == gate("GET", path, headers=headers, role="reporter").status_code


@pytest.mark.parametrize("path", ["/access/v1/evaluation", "/access/v1/evaluations"])
@pytest.mark.parametrize(
    "headers",
    [{"Ledger-Min-Position": "soon"}, {"X-Request-ID": "i" * 257}, {"Content-Type": "text/plain"}],
)
def test_who_asks_for_a_check_is_judged_before_the_check(
    gate: Running, path: str, headers: dict[str, str]
) -> None:
    """The decision point keeps the same order as every other route."""
    assert 401 == gate("POST", path, headers=headers, content=b"a").status_code
    assert 403 == gate("POST", path, headers=headers, content=b"a", role="auditor").status_code


@pytest.mark.parametrize(("method", "path"), [*sorted(OPEN), ("GET", "/openapi.json")])
def test_health_and_what_is_offered_are_open_to_anyone(
    gate: Running, method: str, path: str
) -> None:
    """Whether it lives, whether it is ready and what it offers needs no key."""
    assert 200 == gate(method, path).status_code


def test_no_role_can_do_the_work_of_another(founded: Running) -> None:
    """Complete and valid commands are refused just the same, and leave no trace."""
    violation = violation_of(founded, "user:alice")
    suspension = suspension_of(founded, "user:alice")
    before = founded.service.recorder.position
    reason = {"reason": "Because I can."}
    alice = {"type": "user", "id": "alice"}
    frontier = {"resources": [{"group": "frontier"}]}
    attempts: list[tuple[str, str, str, dict[str, Any]]] = [
        ("officer", "POST", f"/v1/violations/{violation}/overturn", reason),
        ("officer", "PUT", "/v1/groups/frontier", {"resources": []}),
        ("officer", "POST", "/v1/operators", {"id": "friend", "role": "admin"}),
        ("admin", "POST", "/v1/suspensions", {"subject": alice, "scope": frontier, **reason}),
        ("approver", "POST", f"/v1/suspensions/{suspension}/revision", {"duration": "P1D"}),
        ("auditor", "PUT", "/v1/subjects", {"subject": alice}),
        ("service", "POST", "/v1/reinstatements", {"suspension": suspension, "cause": "early"}),
        ("reporter", "POST", "/v1/warnings", {"subject": alice, **reason}),
    ]

    answers = [founded(method, path, role=role, json=body) for role, method, path, body in attempts]

    assert [403] * len(attempts) == [answer.status_code for answer in answers]
    assert before == founded.service.recorder.position


def test_a_changed_role_holds_for_the_keys_that_exist(founded: Running) -> None:
    """The role is the operator's, not the key's: an old key is judged anew at the next request."""
    assert 200 == founded("GET", "/v1/events", role="auditor").status_code

    founded.done(
        "POST", "/v1/operators", role="admin", json={"id": "the-auditor", "role": "reporter"}
    )

    assert 403 == founded("GET", "/v1/events", role="auditor").status_code
    assert violation_of(founded, "user:alice")


def test_a_key_works_until_the_instant_of_its_expiry(founded: Running) -> None:
    """A key opens up to, and not at, the instant at which it expires."""
    body = {"expires_at": "2026-11-24T11:00:00Z", "label": "for an hour"}
    issued = founded.done("POST", "/v1/operators/the-auditor/keys", role="admin", json=body)
    founded.keys["hour"] = issued["key"]

    founded.clock.move(minutes=59, seconds=59, microseconds=999_999)
    assert 200 == founded("GET", "/v1/events", role="hour").status_code
    founded.clock.move(microseconds=1)
    assert 401 == founded("GET", "/v1/events", role="hour").status_code


def test_a_revoked_key_stops_in_every_process(founded: Running) -> None:
    """A second service on the same database refuses the key once it has applied the revocation."""
    issued = founded.done("POST", "/v1/operators/the-auditor/keys", role="admin", json={})
    founded.keys["leaked"] = issued["key"]
    with joined(founded) as other:
        assert 200 == other("GET", "/v1/events", role="leaked").status_code

        revoked = founded.done("DELETE", f"/v1/keys/{issued['id']}", role="admin")

        assert 401 == founded("GET", "/v1/events", role="leaked").status_code
        applied = {"Ledger-Min-Position": str(revoked["position"])}
        assert 200 == other("GET", "/v1/events", role="auditor", headers=applied).status_code
        assert 401 == other("GET", "/v1/events", role="leaked").status_code


def test_the_last_admin_key_can_neither_be_revoked_nor_demoted(founded: Running) -> None:
    """Whatever the role table says, nobody can lock everybody out."""
    (admin,) = [
        operator
        for operator in founded.done("GET", "/v1/operators", role="admin")["items"]
        if operator["role"] == "admin"
    ]
    before = founded.service.recorder.position

    answers = [
        founded("DELETE", f"/v1/keys/{admin['keys'][0]['id']}", role="admin"),
        founded("POST", "/v1/operators", role="admin", json={"id": admin["id"], "role": "auditor"}),
    ]

    assert ["last_admin_key"] * 2 == [answer.json()["code"] for answer in answers]
    assert [409, 409] == [answer.status_code for answer in answers]
    assert before == founded.service.recorder.position


def test_a_key_is_shown_once_and_its_digest_never(founded: Running) -> None:
    """Neither the list of operators nor the answer's event nor the trail holds the key itself."""
    issued = founded.done("POST", "/v1/operators/the-auditor/keys", role="admin", json={})
    key = issued.pop("key")

    shown = [
        str(issued),
        founded("GET", "/v1/operators", role="admin").text,
        founded("GET", "/v1/events", role="auditor").text,
    ]

    assert key.startswith("clk_")
    assert not any(key in text for text in shown)
    assert "sha256" not in shown[1]
