"""Bad input: each gets a problem that says what is wrong and where, and records nothing."""

from __future__ import annotations

import copy
import json
import socket
import tracemalloc
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import quote

import httpx
import pytest

from tests.service.conftest import POLICY, Running, suspension_of, violation_of

MEBIBYTE: Final = 1024 * 1024
LIMIT: Final = 256 * 1024
ALICE: Final = {"type": "user", "id": "alice"}
GONE: Final = object()
"""In place of a value: the member is taken out."""


@pytest.fixture(scope="module")
def given(shared: Running) -> dict[str, str]:
    """Ids of facts that bad requests may name."""
    run = shared
    given = {
        "violation": violation_of(run, "user:alice"),
        "other": violation_of(run, "user:bob"),
        "fallen": violation_of(run, "user:alice"),
        "suspension": suspension_of(run, "user:alice"),
        "ended": suspension_of(run, "user:alice"),
        "scheduled": suspension_of(run, "user:alice", effective_at="2027-01-01T00:00:00Z"),
    }
    reason = {"reason": "It was looked at again."}
    path = f"/v1/violations/{given['fallen']}/overturn"
    run.done("POST", path, role="approver", json=reason)
    body = {"suspension": given["ended"], "cause": "early", **reason}
    run.done("POST", "/v1/reinstatements", role="officer", json=body)
    for lower, upper in zip(range(8), range(1, 9), strict=True):
        link(run, f"team:t{lower}", f"team:t{upper}")
    for number in range(32):
        link(run, "user:joiner", f"team:p{number}")
    return given


def subject(key: str) -> dict[str, str]:
    """A subject as JSON has it."""
    kind, _, id_ = key.partition(":")
    return {"type": kind, "id": id_}


def link(run: Running, below: str, above: str) -> None:
    """Link a subject below another."""
    body = {"subject": subject(below), "parent": subject(above)}
    run.done("POST", "/v1/links", role="officer", json=body)


def refused(run: Running, method: str, path: str, role: str, **more: Any) -> dict[str, Any]:
    """Send a request that must be refused; returns the problem, which must be a whole one."""
    before = run.service.recorder.position
    response = run(method, path, role=role, **more)
    problem: dict[str, Any] = response.json()
    assert 400 <= response.status_code < 500, response.text
    assert "application/problem+json" == response.headers["content-type"]
    assert response.status_code == problem["status"]
    assert {"type", "title", "status", "detail", "code", "hint"} <= set(problem)
    assert problem["detail"]
    assert problem["hint"]
    assert before == run.service.recorder.position
    return problem


# --- what is no JSON ------------------------------------------------------------------------------

UNREADABLE: Final = {
    "nothing": b"",
    "white space": b"  \n",
    "half a value": b'{"subject": {',
    "a word": b"suspend alice",
    "Python": b"{'subject': None}",
    "a comma too many": b'{"reason": "x",}',
    "a comment": b'{"reason": "x" /* why */}',
    "two values": b"{}{}",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"reason": "x"}'.encode("utf-16"),
    "Latin-1": '{"reason": "caf\u00e9"}'.encode("latin-1"),
    "an overlong encoding": b'{"reason": "\xc0\xaf"}',
    "an encoded surrogate": b'{"reason": "\xed\xa0\x80"}',
    "a cut sequence": b'{"reason": "\xe2\x82"}',
    "a raw NUL": b'{"reason": "a\x00b"}',
    "a raw line end": b'{"reason": "a\nb"}',
    "a member twice": b'{"reason": "x", "reason": "y"}',
    "a member twice, escaped": b'{"reason": "x", "re\\u0061son": "y"}',
    "a member twice, below": b'{"subject": {"type": "user", "id": "a", "id": "b"}}',
    "the last of many members twice": b"{"
    + b"".join(b'"k%d":0,' % number for number in range(20_000))
    + b'"k19999":0}',
    "not a number": b'{"ends_at": NaN}',
    "infinity": b'{"ends_at": Infinity}',
    "minus infinity": b'{"ends_at": -Infinity}',
    "a number beyond doubles": b'{"ends_at": 1e400}',
    "a number beyond 2^53": b'{"ends_at": 9007199254740993}',
    "a number below -2^53": b'{"ends_at": -9007199254740993}',
    "a large float": b'{"ends_at": 1e300}',
    "a number of a hundred thousand digits": b'{"ends_at": ' + b"9" * 100_000 + b"}",
    "arrays 33 deep": b"[" * 33 + b"]" * 33,
    "objects 33 deep": b'{"a":' * 33 + b"0" + b"}" * 33,
    "arrays 100,000 deep": b"[" * 100_000 + b"]" * 100_000,
    "objects 40,000 deep": b'{"a":' * 40_000 + b"0" + b"}" * 40_000,
    "open arrays": b"[" * 100_000,
}


@pytest.mark.parametrize("path", ["/v1/suspensions", "/v1/violations", "/v1/warnings"])
@pytest.mark.parametrize("name", UNREADABLE)
def test_a_body_that_is_not_strict_json_is_refused(shared: Running, name: str, path: str) -> None:
    """400, before anything is made of it: what two readers could read differently is no JSON."""
    headers = {"Content-Type": "application/json"}

    problem = refused(shared, "POST", path, "officer", content=UNREADABLE[name], headers=headers)

    assert (400, "malformed_request") == (problem["status"], problem["code"])


@pytest.mark.parametrize("body", ["[]", '"suspend alice"', "1", "0.5", "true", "null", "[{}]"])
def test_a_body_that_is_no_object_is_refused(shared: Running, body: str) -> None:
    """JSON, but not an object: the problem points at the whole body."""
    headers = {"Content-Type": "application/json"}

    problem = refused(shared, "POST", "/v1/suspensions", "officer", content=body, headers=headers)

    assert (422, "invalid_request", "") == (problem["status"], problem["code"], problem["field"])


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": ""},
        {"Content-Type": "text/plain"},
        {"Content-Type": "text/json"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": "application/json; charset=latin-1"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
        {"Content-Type": "application/json", "Content-Encoding": "br"},
        {"Content-Type": "application/json", "Content-Encoding": "identity, gzip"},
    ],
)
def test_a_body_that_is_not_plain_json_is_refused(shared: Running, headers: dict[str, str]) -> None:
    """415: no other type, no other charset, and nothing that must be unpacked."""
    problem = refused(shared, "POST", "/v1/suspensions", "officer", content=b"{}", headers=headers)

    assert (415, "unsupported_media_type") == (problem["status"], problem["code"])


@pytest.mark.parametrize(
    "media_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        'application/json;charset="UTF-8"',
        "Application/JSON",
    ],
)
def test_a_body_of_plain_json_is_read(shared: Running, media_type: str) -> None:
    """The ways to say JSON in UTF-8 are all right; what is refused here is the empty object."""
    headers = {"Content-Type": media_type, "Content-Encoding": "identity"}

    problem = refused(shared, "POST", "/v1/suspensions", "officer", content=b"{}", headers=headers)

    assert (422, "/subject") == (problem["status"], problem["field"])


# --- size -----------------------------------------------------------------------------------------


def say(run: Running, head: str, pieces: Iterable[bytes]) -> tuple[bytes, int]:
    """Send a request over a bare socket until it is answered; returns the answer and what was sent.

    The socket must be closed by the service: the rest of the body would be taken for a request.
    """
    host, _, port = run.url.removeprefix("http://").partition(":")
    sent = 0
    answer = b""
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        try:
            connection.sendall(head.encode())
            for piece in pieces:
                connection.sendall(piece)
                sent += len(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it was closed while the rest was still coming
        try:
            while more := connection.recv(65_536):
                answer += more
        except ConnectionResetError:
            pass
    return answer, sent


def large(run: Running, length: str, *, role: str = "officer") -> str:
    """The head of a request with a large body."""
    return (
        f"POST /v1/suspensions HTTP/1.1\r\nHost: ledger\r\nAuthorization: Bearer {run.keys[role]}"
        f"\r\nContent-Type: application/json\r\n{length}\r\n\r\n"
    )


def chunked(total: int) -> Iterator[bytes]:
    """A JSON text in chunks, which says nothing of its length."""
    yield b'1\r\n"\r\n'
    for _ in range(total // 65_536):
        yield b"10000\r\n" + b"a" * 65_536 + b"\r\n"


@pytest.mark.parametrize(
    ("length", "pieces"),
    [
        (f"Content-Length: {10 * MEBIBYTE}", lambda: (b"a" * 65_536 for _ in range(160))),
        ("Transfer-Encoding: chunked", lambda: chunked(64 * MEBIBYTE)),
    ],
    ids=["10 MB of known length", "chunks without end"],
)
def test_a_body_that_is_too_large_is_neither_read_nor_kept(
    shared: Running, length: str, pieces: Any
) -> None:
    """413 and the connection closed; the memory of the process grows by less than 10 MB."""
    before = shared.service.recorder.position
    tracemalloc.start()
    answer, _ = say(shared, large(shared, length), pieces())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413 ")
    assert b"\r\nconnection: close" in head.lower()
    assert "body_too_large" == json.loads(body)["code"]
    assert peak < 10 * MEBIBYTE
    assert before == shared.service.recorder.position


def test_a_large_body_without_a_right_is_not_read_either(shared: Running) -> None:
    """Whoever may not do it is told so at once, whatever the size."""
    response = shared(
        "POST", "/v1/suspensions", role="auditor", content=b"a" * MEBIBYTE, headers={}
    )

    assert 403 == response.status_code


def test_the_limit_is_256_kibibytes(shared: Running) -> None:
    """One byte more is too large; at the limit the body is read, and refused for what it says."""
    headers = {"Content-Type": "application/json"}
    body = b'{"reason": "' + b"a" * (LIMIT - 14) + b'"}'
    assert LIMIT == len(body)

    at = refused(shared, "POST", "/v1/suspensions", "officer", content=body, headers=headers)
    over = refused(
        shared, "POST", "/v1/suspensions", "officer", content=body + b" ", headers=headers
    )

    assert [(422, "invalid_request"), (413, "body_too_large")] == [
        (problem["status"], problem["code"]) for problem in (at, over)
    ]


def test_a_fact_that_would_be_too_large_for_the_log_is_refused(shared: Running) -> None:
    """Every text within its limit, and together more than an event may hold."""
    evidence = [{"uri": "s3://" + "e" * 1990, "sha256": "0" * 64}] * 50
    body = violation(summary="\u6f22" * 2000, details="\u6f22" * 16_000, evidence=evidence)

    problem = refused(shared, "POST", "/v1/violations", "reporter", json=body)

    assert (413, "event_too_large") == (problem["status"], problem["code"])


def test_a_body_with_very_many_faults_gets_a_short_answer(shared: Running) -> None:
    """The first fifty faults are named; an answer is never larger than what was sent."""
    body = {f"m{number}": 0 for number in range(20_000)}

    problem = refused(shared, "POST", "/v1/suspensions", "officer", json=body)

    assert 50 == len(problem["errors"])


# --- members --------------------------------------------------------------------------------------


def violation(**more: Any) -> dict[str, Any]:
    """A violation that could be recorded."""
    return {
        "subject": ALICE,
        "policy": "aup@1",
        "clause": "fraud",
        "occurred_at": "2026-11-24T10:00:00Z",
        "detected_by": "human",
        "summary": "It happened.",
        **more,
    }


def suspension(given: dict[str, str]) -> dict[str, Any]:
    """A suspension that could be recorded."""
    return {
        "subject": ALICE,
        "scope": {
            "resources": [{"group": "frontier"}],
            "conditions": [{"attribute": "resource.properties.status", "in": ["preview"]}],
        },
        "duration": "P2M",
        "grounds": [given["violation"]],
        "reason": "Repeated fraud.",
    }


def changed(body: dict[str, Any], pointer: str, value: object) -> dict[str, Any]:
    """Return a body with another value at a JSON pointer, or without the member."""
    body = copy.deepcopy(body)
    *way, last = pointer.split("/")[1:]
    place: Any = body
    for name in way:
        place = place[int(name)] if isinstance(place, list) else place[name]
    if value is GONE:
        del place[last]
    elif isinstance(place, list):
        place[int(last)] = value
    else:
        place[last] = value
    return body


def send_changed(
    run: Running, path: str, role: str, body: dict[str, Any], method: str = "POST"
) -> dict[str, Any]:
    """Send a body that may hold lone surrogates, which only escapes can carry."""
    headers = {"Content-Type": "application/json"}
    return refused(run, method, path, role, content=json.dumps(body), headers=headers)


NOT_A_TEXT: Final[tuple[object, ...]] = (None, 1, True, [], {})
NOT_AN_ID: Final = (
    *NOT_A_TEXT,
    "",
    "a" * 257,
    "\u00e9" * 129,
    "a\x00b",
    "a\nb",
    "a\x7fb",
    "a\u0085b",
    "caf\u0065\u0301",
    "\ufffd",
    "\ud800",
    "a\udfffb",
)
NOT_A_TYPE: Final = (*NOT_A_TEXT, "", "User", "1st", "u" * 65, "us er", "\u00fcser", "user\n")
NOT_A_LINE: Final = (*NOT_A_TEXT, "", "a\x00b", "\x1b[31mred", "\ud800", "a\u0085b")
NOT_A_DURATION: Final = (
    *NOT_A_TEXT[1:],
    "",
    "P",
    "PT",
    "P0D",
    "PT0S",
    "P0Y0M",
    "-P1D",
    "+P1D",
    "P-1D",
    "P1Y2D",
    "P1.5D",
    "P1,5D",
    "P1W2D",
    "PT1S1M",
    "p2m",
    "P2M ",
    "2 months",
    "P\uff12M",
    "P1D/P2D",
)
NOT_AN_INSTANT: Final = (
    *NOT_A_TEXT[1:],
    "",
    "tomorrow",
    "2027-01-01",
    "2027-01-01T00:00:00",
    "2027-02-30T00:00:00Z",
    "2027-13-01T00:00:00Z",
    "2027-01-01T24:00:00Z",
    "2027-01-01T00:00:60Z",
    "2027-01-01T00:00:00+25:00",
    "2027-01-01T00:00:00.0000000001Z",
    "2027-001T00:00:00Z",
    "2027-W01-1T00:00:00Z",
    "0000-01-01T00:00:00Z",
    "10000-01-01T00:00:00Z",
    "+12027-01-01T00:00:00Z",
    "9999-12-31T23:59:59-23:59",
    "0001-01-01T00:00:00+23:59",
    "\uff12\uff10\uff12\uff17-01-01T00:00:00Z",
)
NOT_A_PROPERTY: Final[tuple[object, ...]] = (
    None,
    {},
    {"a": 1},
    [None],
    [[1]],
    [{}],
    "",
    "a" * 1001,
    "\ud800",
    ["x"] * 101,
)

FORMS: Final[list[tuple[str, Iterable[object], str | None]]] = [
    ("/subject", (GONE, None, "user:alice", [], 1), None),
    ("/subject/type", (GONE, *NOT_A_TYPE), None),
    ("/subject/id", (GONE, *NOT_AN_ID), None),
    ("/subject/name", ("Alice",), None),
    ("/scope", (GONE, None, [], "all"), None),
    ("/scope/resources", (GONE, None, [], {}, [{"type": "model"}] * 101), None),
    ("/scope/resources/0", (None, "frontier", {}, []), None),
    ("/scope/resources/0/group", (*NOT_A_TEXT, "", "a b", "g" * 65, "\u00e9"), None),
    ("/scope/resources/0/type", ("model",), None),
    ("/scope/actions", ({}, [], ["use"] * 101, "use"), None),
    ("/scope/conditions/0", (None, [], {}, {"attribute": "resource.properties.a"}), None),
    (
        "/scope/conditions/0/attribute",
        (*NOT_A_TEXT, "status", "resource.type", "x.properties.y"),
        None,
    ),
    ("/scope/conditions/0/in", (*NOT_A_TEXT[1:], [None], [{}], ["\ud800"], ["a"] * 101), None),
    ("/scope/conditions/0/exists", ("yes", 1), None),
    ("/scope/conditions/0/like", ("a*",), None),
    ("/duration", NOT_A_DURATION, None),
    ("/ends_at", NOT_AN_INSTANT, None),
    ("/effective_at", NOT_AN_INSTANT, None),
    ("/indefinite", ("true", 1, [], {}), None),
    ("/grounds", (None, {}, "vio_1", ["vio_1"] * 101), None),
    ("/grounds/0", NOT_AN_ID, None),
    ("/basis", (*NOT_A_TEXT, "", "because", "Violations"), None),
    ("/reason", (GONE, *NOT_A_LINE, "a" * 4001), None),
    ("/note", (*NOT_A_LINE[1:], "a" * 16_001), None),
    ("/reinstatement", (*NOT_A_TEXT, "manual"), None),
    ("/disclosure", (*NOT_A_TEXT, "secret"), None),
    ("/operator", ("somebody-else",), None),
    ("/recorded_at", ("2020-01-01T00:00:00Z",), None),
    ("/position", (1,), None),
    ("/suspension", ("sus_1",), None),
    ("/clauses", ([],), None),
]


@pytest.mark.parametrize(("pointer", "values"), [(p, v) for p, v, _ in FORMS])
def test_a_member_of_another_form_is_refused_where_it_stands(
    shared: Running, given: dict[str, str], pointer: str, values: Iterable[object]
) -> None:
    """Wrong types, lengths and characters, unknown members, what the service sets: 422, named."""
    for value in values:
        body = changed(suspension(given), pointer, value)

        problem = send_changed(shared, "/v1/suspensions", "officer", body)

        assert (422, "invalid_request") == (problem["status"], problem["code"]), value
        pointers = [error["pointer"] for error in problem["errors"]]
        assert any(found.startswith(f"#{pointer}") for found in pointers) or (
            # What a condition lacks, or has too much of, is a fault of the condition as a whole.
            pointer.startswith("/scope/conditions/0") and "#/scope/conditions/0" in pointers
        ), (value, pointers)


def test_a_member_with_a_strange_name_is_pointed_at(shared: Running, given: dict[str, str]) -> None:
    """Slashes and tildes are escaped as in any pointer; a name that is no text points above."""
    for name, pointer in (
        ("a/b", "#/a~1b"),
        ("a~b", "#/a~0b"),
        ("", "#/"),
        ("\u0000", "#/\u0000"),
        ("\u6f22", "#/\u6f22"),
        ("\ud800", "#"),
    ):
        problem = send_changed(shared, "/v1/suspensions", "officer", {**suspension(given), name: 1})

        assert [pointer] == [error["pointer"] for error in problem["errors"]]


def test_every_fault_of_a_body_is_named_at_once(shared: Running) -> None:
    """Nobody has to send a body five times to learn of five faults."""
    body = violation(subject={"type": "User", "id": ""}, clause="", occurred_at="today", extra=1)

    problem = refused(shared, "POST", "/v1/violations", "reporter", json=body)

    pointers = ["#/subject/type", "#/subject/id", "#/clause", "#/occurred_at", "#/extra"]
    assert pointers == [error["pointer"] for error in problem["errors"]]
    assert "/subject/type" == problem["field"]
    for pointer in pointers:
        assert pointer.removeprefix("#") in problem["detail"]


VALUES: Final[list[tuple[str, str, str, dict[str, Iterable[object]]]]] = [
    (
        "POST",
        "/v1/violations",
        "reporter",
        {
            "/policy": (*NOT_A_TEXT, "a" * 81),
            "/clause": (GONE, *NOT_A_TEXT, "", "a b", "c" * 65),
            "/occurred_at": (GONE, None, *NOT_AN_INSTANT),
            "/detected_by": (GONE, *NOT_A_TEXT, "nobody"),
            "/summary": (GONE, *NOT_A_LINE, "a" * 2001),
            "/details": (*NOT_A_LINE[1:], "a" * 16_001),
            "/evidence": ({}, [1], [{}], [{"uri": "u", "sha256": "0" * 64}] * 51),
            "/evidence/0": ({"uri": "", "sha256": "0" * 64}, {"uri": "u", "sha256": "0" * 63}),
            "/resources": ({}, ["atlas-3"], [{"type": "model"}]),
        },
    ),
    (
        "PUT",
        "/v1/subjects",
        "officer",
        {
            "/subject/id": NOT_AN_ID,
            "/properties": (None, [], 1, {f"p{number}": 1 for number in range(65)}),
            "/properties/plan": NOT_A_PROPERTY,
            "/properties/the plan": ("team",),
            f"/properties/{'p' * 129}": ("team",),
        },
    ),
    (
        "POST",
        "/v1/links",
        "officer",
        {"/subject": (GONE, None, "user:a"), "/parent/id": NOT_AN_ID, "/parent/type": NOT_A_TYPE},
    ),
    ("POST", "/v1/warnings", "officer", {"/reason": NOT_A_LINE, "/grounds": (None, {}, [1])}),
    (
        "POST",
        "/v1/reinstatements",
        "officer",
        {
            "/suspension": (GONE, *NOT_AN_ID),
            "/cause": (GONE, *NOT_A_TEXT, "mercy"),
            "/reason": (GONE, *NOT_A_LINE),
            "/effective_at": NOT_AN_INSTANT,
        },
    ),
    (
        "PUT",
        "/v1/policies/terms",
        "admin",
        {
            "/title": (GONE, *NOT_A_LINE, "a" * 201),
            "/clauses": (GONE, None, {}, [], [*POLICY["clauses"]] * 51),
            "/clauses/0/severity": (GONE, *NOT_A_TEXT, "fatal"),
            "/clauses/0/text": (GONE, *NOT_A_LINE, "a" * 8001),
            "/clauses/0/category": (*NOT_A_TEXT, "a b"),
            "/version": (7,),
            "/effective_at": NOT_AN_INSTANT,
        },
    ),
    (
        "PUT",
        "/v1/resources",
        "admin",
        {
            "/resource/id": NOT_AN_ID,
            "/properties/plan": NOT_A_PROPERTY,
            "/actions": ({}, [], ["a b"], [1], ["use"] * 101),
        },
    ),
    (
        "PUT",
        "/v1/groups/small",
        "admin",
        {"/resources": (GONE, None, {}, ["atlas-3"], [{"type": "model", "id": "m"}] * 1001)},
    ),
    (
        "POST",
        "/v1/operators",
        "admin",
        {"/id": (GONE, *NOT_AN_ID), "/role": (GONE, *NOT_A_TEXT, "root", "Admin")},
    ),
    (
        "POST",
        "/v1/operators/the-officer/keys",
        "admin",
        {"/expires_at": NOT_AN_INSTANT, "/label": (*NOT_A_LINE[1:], "a" * 201), "/key": ("k",)},
    ),
]


def whole_body(path: str) -> dict[str, Any]:
    """A body of a command that would be taken."""
    bodies: dict[str, dict[str, Any]] = {
        "/v1/violations": violation(evidence=[{"uri": "u", "sha256": "0" * 64}]),
        "/v1/subjects": {"subject": ALICE, "properties": {"plan": "team"}},
        "/v1/links": {"subject": ALICE, "parent": {"type": "organization", "id": "northwind"}},
        "/v1/warnings": {"subject": ALICE, "reason": "Mind the policy."},
        "/v1/reinstatements": {"suspension": "sus_1", "cause": "early", "reason": "Complies."},
        "/v1/policies/terms": POLICY,
        "/v1/resources": {"resource": {"type": "model", "id": "m"}, "properties": {}},
        "/v1/groups/small": {"resources": []},
        "/v1/operators": {"id": "somebody", "role": "officer"},
    }
    return bodies.get(path, {})


@pytest.mark.parametrize(("method", "path", "role", "faults"), VALUES)
def test_every_command_names_the_member_that_is_wrong(
    shared: Running, method: str, path: str, role: str, faults: dict[str, Iterable[object]]
) -> None:
    """Whatever the command, a fault of form is a 422 that points at its member."""
    for pointer, values in faults.items():
        for value in values:
            body = changed(whole_body(path), pointer, value)

            problem = send_changed(shared, path, role, body, method)

            assert (422, "invalid_request") == (problem["status"], problem["code"]), value
            pointers = [error["pointer"] for error in problem["errors"]]
            assert any(found.startswith(f"#{pointer}") for found in pointers), (value, pointers)


# --- values that the rules refuse -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"/duration": "P99999Y"}, "end_too_far", "/duration"),
        ({"/duration": "P99999999999999999999Y"}, "end_too_far", "/duration"),
        ({"/duration": "PT" + "9" * 5000 + "S"}, "end_too_far", "/duration"),
        ({"/duration": "P101Y"}, "end_too_far", "/duration"),
        ({"/duration": GONE}, "term_required", "/duration"),
        ({"/indefinite": True}, "term_required", "/duration"),
        ({"/ends_at": "2027-01-01T00:00:00Z"}, "term_required", "/duration"),
        ({"/duration": GONE, "/ends_at": "2026-11-24T10:00:00Z"}, "end_in_past", "/ends_at"),
        ({"/duration": GONE, "/ends_at": "0001-01-01T00:00:00Z"}, "end_in_past", "/ends_at"),
        ({"/duration": GONE, "/ends_at": "2127-01-01T00:00:00Z"}, "end_too_far", "/ends_at"),
        ({"/duration": GONE, "/ends_at": "9999-12-31T23:59:59Z"}, "end_too_far", "/ends_at"),
        ({"/effective_at": "2026-11-24T09:59:59.999999Z"}, "effective_in_past", "/effective_at"),
        ({"/effective_at": "0001-01-01T00:00:00Z"}, "effective_in_past", "/effective_at"),
        ({"/effective_at": "9999-12-31T23:59:59Z"}, "end_too_far", "/duration"),
        ({"/scope/resources/0/group": "nobody-knows"}, "unknown_group", "/scope/resources"),
        ({"/grounds": []}, "grounds_required", "/grounds"),
        ({"/grounds/0": "vio_01k9qv4w4jbdph1z6cx3m0y7ra"}, "unknown_violation", "/grounds/0"),
        ({"/grounds/0": "fraud"}, "unknown_violation", "/grounds/0"),
        ({"/grounds/0": "@suspension"}, "unknown_violation", "/grounds/0"),
        ({"/grounds": ["@violation", "@other"]}, "ground_of_another_subject", "/grounds/1"),
        ({"/grounds": ["@violation", "@fallen"]}, "ground_overturned", "/grounds/1"),
        ({"/basis": "precautionary", "/duration": "P31D"}, "end_too_far", "/duration"),
        (
            {"/basis": "precautionary", "/duration": GONE, "/indefinite": True},
            "end_too_far",
            "/duration",
        ),
    ],
)
def test_a_suspension_that_the_rules_refuse_says_which_member_is_at_fault(
    shared: Running,
    given: dict[str, str],
    changes: dict[str, object],
    code: str,
    field: str,
) -> None:
    """Terms, starts, grounds and groups: 422 with the rule's own code."""
    body = suspension(given)
    for pointer, value in changes.items():
        body = changed(body, pointer, named(given, value))

    problem = refused(shared, "POST", "/v1/suspensions", "officer", json=body)

    assert (422, code, field) == (problem["status"], problem["code"], problem["field"])


def named(given: dict[str, str], value: object) -> object:
    """Put the ids of given facts in place of their names."""
    if isinstance(value, list):
        return [named(given, item) for item in value]
    return given[value[1:]] if isinstance(value, str) and value.startswith("@") else value


@pytest.mark.parametrize(
    ("method", "path", "role", "body", "status", "code", "field"),
    [
        (
            "POST",
            "/v1/violations",
            "reporter",
            violation(policy="nope@1"),
            422,
            "unknown_policy",
            "/policy",
        ),
        (
            "POST",
            "/v1/violations",
            "reporter",
            violation(policy="aup@9"),
            422,
            "unknown_policy",
            "/policy",
        ),
        (
            "POST",
            "/v1/violations",
            "reporter",
            violation(policy="aup@0"),
            422,
            "invalid_value",
            "/policy",
        ),
        (
            "POST",
            "/v1/violations",
            "reporter",
            violation(policy="aup@1@2"),
            422,
            "invalid_value",
            "/policy",
        ),
        (
            "POST",
            "/v1/violations",
            "reporter",
            violation(clause="nope"),
            422,
            "unknown_clause",
            "/clause",
        ),
        (
            "POST",
            "/v1/violations",
            "reporter",
            violation(occurred_at="2026-11-24T09:59:59Z"),
            422,
            "policy_not_in_force",
            "/policy",
        ),
        (
            "POST",
            "/v1/violations",
            "reporter",
            violation(occurred_at="9999-12-31T23:59:59Z"),
            422,
            "occurred_in_future",
            "/occurred_at",
        ),
        (
            "PUT",
            "/v1/policies/terms",
            "admin",
            {**POLICY, "clauses": [*POLICY["clauses"], POLICY["clauses"][0]]},
            422,
            "invalid_value",
            "/clauses/2/id",
        ),
        (
            "PUT",
            "/v1/policies/aup",
            "admin",
            {**POLICY, "title": "Next", "effective_at": "2026-01-01T00:00:00Z"},
            422,
            "effective_in_past",
            "/effective_at",
        ),
        (
            "PUT",
            "/v1/groups/small",
            "admin",
            {"resources": [{"type": "model", "id": "m"}] * 2},
            422,
            "invalid_value",
            "/resources/1",
        ),
        (
            "POST",
            "/v1/operators",
            "admin",
            {"id": "system", "role": "admin"},
            422,
            "reserved_operator",
            "/id",
        ),
        (
            "POST",
            "/v1/operators/the-officer/keys",
            "admin",
            {"expires_at": "2026-11-24T10:00:00Z"},
            422,
            "end_in_past",
            "/expires_at",
        ),
        ("POST", "/v1/operators/nobody/keys", "admin", {}, 404, "not_found", None),
        ("POST", "/v1/links", "officer", ("user:a", "user:a"), 422, "link_cycle", "/parent"),
        ("POST", "/v1/links", "officer", ("team:t1", "team:t0"), 422, "link_cycle", "/parent"),
        ("POST", "/v1/links", "officer", ("team:t8", "team:t0"), 422, "link_cycle", "/parent"),
        ("POST", "/v1/links", "officer", ("team:t8", "team:t9"), 422, "link_too_deep", "/parent"),
        ("POST", "/v1/links", "officer", ("user:new", "team:t0"), 422, "link_too_deep", "/parent"),
        (
            "POST",
            "/v1/links",
            "officer",
            ("user:joiner", "team:x"),
            422,
            "too_many_parents",
            "/parent",
        ),
        ("POST", "/v1/links", "officer", ("team:t0", "team:t1"), 409, "already_linked", None),
        ("DELETE", "/v1/links", "officer", ("team:t1", "team:t0"), 409, "not_linked", None),
        (
            "POST",
            "/v1/warnings",
            "officer",
            {"subject": ALICE, "grounds": ["vio_1"], "reason": "Mind it."},
            422,
            "unknown_violation",
            "/grounds/0",
        ),
        (
            "POST",
            "/v1/reinstatements",
            "officer",
            {"suspension": "sus_1", "cause": "early", "reason": "Complies."},
            404,
            "not_found",
            None,
        ),
        (
            "POST",
            "/v1/violations/nope/overturn",
            "approver",
            {"reason": "Wrong."},
            404,
            "not_found",
            None,
        ),
        ("DELETE", "/v1/keys/nope", "admin", None, 404, "not_found", None),
    ],
)
def test_a_command_that_the_rules_refuse_says_why(
    shared: Running,
    given: dict[str, str],
    method: str,
    path: str,
    role: str,
    body: Any,
    status: int,
    code: str,
    field: str | None,
) -> None:
    """What does not exist, would close a cycle, or lies in the past: each by its own code."""
    if isinstance(body, tuple):
        body = {"subject": subject(body[0]), "parent": subject(body[1])}
    more = {} if body is None else {"json": body}

    problem = refused(shared, method, path, role, **more)

    assert (status, code) == (problem["status"], problem["code"])
    assert field == problem.get("field")


@pytest.mark.parametrize(
    ("path", "body", "code", "field"),
    [
        (
            "/v1/suspensions/@suspension/revision",
            {"duration": "P0D"},
            "invalid_request",
            "/duration",
        ),
        ("/v1/suspensions/@suspension/revision", {}, "term_required", "/duration"),
        ("/v1/suspensions/@suspension/revision", {"duration": "P101Y"}, "end_too_far", "/duration"),
        (
            "/v1/suspensions/@suspension/revision",
            {"ends_at": "2026-11-24T10:00:00Z"},
            "end_in_past",
            "/ends_at",
        ),
        ("/v1/suspensions/@ended/revision", {"duration": "P9M"}, "already_ended", None),
        ("/v1/suspensions/@suspension/cancellation", {}, "already_started", None),
        ("/v1/suspensions/@ended/cancellation", {}, "already_ended", None),
        ("/v1/suspensions/@violation/cancellation", {}, "not_found", None),
        ("/v1/suspensions/nope/revision", {"duration": "P9M"}, "not_found", None),
        ("/v1/reinstatements", {"suspension": "@ended", "cause": "early"}, "already_ended", None),
        ("/v1/reinstatements", {"suspension": "@violation", "cause": "early"}, "not_found", None),
        (
            "/v1/reinstatements",
            {"suspension": "@suspension", "cause": "term_served"},
            "cause_not_allowed",
            "/cause",
        ),
        (
            "/v1/reinstatements",
            {"suspension": "@suspension", "cause": "appeal_upheld"},
            "cause_not_allowed",
            "/cause",
        ),
        (
            "/v1/reinstatements",
            {"suspension": "@suspension", "cause": "violation_overturned"},
            "cause_not_allowed",
            "/cause",
        ),
        (
            "/v1/reinstatements",
            {
                "suspension": "@suspension",
                "cause": "early",
                "effective_at": "2026-11-24T09:00:00Z",
            },
            "invalid_value",
            "/effective_at",
        ),
        (
            "/v1/reinstatements",
            {
                "suspension": "@suspension",
                "cause": "error",
                "effective_at": "9999-12-31T23:59:59Z",
            },
            "invalid_value",
            "/effective_at",
        ),
    ],
)
def test_what_no_longer_fits_a_suspension_is_refused(
    shared: Running,
    given: dict[str, str],
    path: str,
    body: dict[str, Any],
    code: str,
    field: str | None,
) -> None:
    """Revising, cancelling and ending: what is over is over, and what is not yet is not."""
    for name, id_ in given.items():
        path = path.replace(f"@{name}", id_)
    body = {"reason": "It was looked at."} | {n: named(given, v) for n, v in body.items()}

    problem = refused(shared, "POST", path, "officer", json=body)

    assert (code, field) == (problem["code"], problem.get("field"))
    if code == "already_ended":
        assert isinstance(problem["ended_by"], int)


# --- paths, queries, headers ----------------------------------------------------------------------

NOT_UTF_8: Final = ("%ff", "%c0%af", "%ed%a0%80", "%f4%90%80%80", "%e2%82", "caf%e9")


@pytest.mark.parametrize("id_", NOT_UTF_8)
def test_bytes_that_are_no_text_are_refused_in_paths_and_queries(shared: Running, id_: str) -> None:
    """Replacing them would make one id of many; they are 400 instead, everywhere."""
    for path in (
        f"/v1/violations/{id_}",
        f"/v1/suspensions/sus_{id_}",
        f"/v1/access?subject=user:{id_}",
        f"/v1/subjects/record?subject=user:{id_}",
        f"/v1/suspensions?subject=user:{id_}",
        f"/v1/events?q={id_}",
        f"/v1/events?{id_}=1",
    ):
        problem = refused(shared, "GET", path, "auditor")
        assert (400, "malformed_request") == (problem["status"], problem["code"]), path
    for method, path, role in (
        ("POST", f"/v1/violations/{id_}/overturn", "approver"),
        ("POST", f"/v1/suspensions/{id_}/revision", "officer"),
        ("PUT", f"/v1/groups/{id_}", "admin"),
        ("DELETE", f"/v1/keys/{id_}", "admin"),
    ):
        problem = refused(shared, method, path, role, json={})
        assert (400, "malformed_request") == (problem["status"], problem["code"]), path


@pytest.mark.parametrize(
    "id_",
    ["", "%00", "a%0Ab", "%7f", "%C2%85", "%EF%BF%BD", "cafe%CC%81", "a" * 257, "%C3%A9" * 129],
)
def test_a_subject_in_a_query_has_the_form_of_any_subject(shared: Running, id_: str) -> None:
    """The same limits and characters as in a body, with the parameter named."""
    for path in ("/v1/access", "/v1/subjects/record", "/v1/suspensions", "/v1/events"):
        problem = refused(shared, "GET", f"{path}?subject=user:{id_}", "auditor")

        assert (422, "subject") == (problem["status"], problem["field"])


@pytest.mark.parametrize(
    "id_",
    [
        "nope",
        "%00",
        "..",
        "%2e%2e",
        "%2E",
        "a" * 5000,
        "vio_" + "0" * 26,
        "%F0%9F%92%A9",
        "'--",
        "*",
    ],
)
def test_an_id_that_names_nothing_is_not_found(shared: Running, id_: str) -> None:
    """Whatever it looks like, an id that was never recorded is a 404 of one shape."""
    for path in ("/v1/violations", "/v1/warnings", "/v1/suspensions", "/v1/reinstatements"):
        target = f"{path}/{id_}"
        if id_ == "..":  # which clients resolve themselves
            target = target.replace("..", "%2e%2e")

        problem = refused(shared, "GET", target, "auditor")

        assert (404, "not_found") == (problem["status"], problem["code"]), target


@pytest.mark.parametrize(
    "id_", ["a b", "%00", "\u00e9", "-a", "a" * 65, "..%2f", "a%2Fb", "%2e%2e"]
)
def test_a_name_in_a_path_has_the_form_of_a_name(shared: Running, id_: str) -> None:
    """Policies and groups have names that can stand in a path; no other can be made or found."""
    for path, body in (("/v1/policies", POLICY), ("/v1/groups", {"resources": []})):
        target = f"{path}/{quote(id_, safe='%')}"
        for problem in (
            refused(shared, "PUT", target, "admin", json=body),
            refused(shared, "GET", target, "admin"),
        ):
            if "%2f" in id_.lower():  # a slash parts segments, however it is written
                assert (404, "no_such_route") == (problem["status"], problem["code"])
            else:
                assert (422, "id") == (problem["status"], problem["field"])


@pytest.mark.parametrize(
    "position", ["0", "-1", "x", "1.5", "9007199254740993", "9" * 400, "%EF%BC%91"]
)
def test_a_position_in_a_path_is_a_position(shared: Running, position: str) -> None:
    """Positions count from 1."""
    problem = refused(shared, "GET", f"/v1/events/{position}", "auditor")

    assert (422, "position") == (problem["status"], problem["field"])


def test_a_position_that_is_not_reached_is_not_found(shared: Running) -> None:
    """The answer says where the ledger ends."""
    end = shared.service.recorder.position

    problem = refused(shared, "GET", f"/v1/events/{2**53}", "auditor")

    assert (404, "not_found") == (problem["status"], problem["code"])
    assert str(end) in problem["detail"]


def test_ids_that_look_alike_stay_apart(founded: Running) -> None:
    """Each of these is another subject: none is trimmed, folded, normalised or decoded twice."""
    ids = [
        "alice",
        "Alice",
        "ALICE",
        " alice",
        "alice ",
        "al\u0456ce",
        "alic\u00e9",
        "alice\u200b",
        "\u202ealice",
        "alice%20",
        "alice+",
        "%61lice",
        "user:alice",
        ":",
        "a/b",
        "a?b",
        "a#b",
        "a&b=c",
        "..",
        "\u00df",
        "ss",
        "\ufb01",
        "fi",
        "\U0001f4a9",
        "a" * 256,
        "\u00e9" * 128,
        "1",
        "01",
        "null",
        '"',
        "\\u0061",
        "'; DROP TABLE events; --",
    ]
    assert all(unicodedata.is_normalized("NFC", id_) for id_ in ids)
    for number, id_ in enumerate(ids):
        body = {"subject": {"type": "user", "id": id_}, "properties": {"number": number}}
        answer = founded("PUT", "/v1/subjects", role="officer", json=body)
        assert 201 == answer.status_code, id_

    for number, id_ in enumerate(ids):
        query = {"subject": f"user:{id_}"}
        record = founded.done("GET", "/v1/subjects/record", role="auditor", params=query)
        assert {"number": number} == record["properties"]
        assert id_ == record["subject"]["id"]
        events = founded.done("GET", "/v1/events", role="auditor", params=query)["items"]
        assert [number] == [event["data"]["properties"]["number"] for event in events]


def test_a_request_that_is_no_http_is_closed_without_a_word_of_the_inside(shared: Running) -> None:
    """The server refuses it before the service sees it, and goes on."""
    for request in (
        b"GET /v1/access?subject=user:\xc3\xa9 HTTP/1.1\r\nHost: ledger\r\n\r\n",
        b"GET /v1/violations/\xff HTTP/1.1\r\nHost: ledger\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: ledger\r\nX-Request-ID: a\x00b\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: ledger\r\n\r\n",
    ):
        answer, _ = say(shared, "", [request])

        assert answer.startswith(b"HTTP/1.1 400 "), request
        assert b"Traceback" not in answer
    assert 200 == shared("GET", "/livez").status_code


def test_answers_to_bad_requests_are_answers_to_one_request_each(shared: Running) -> None:
    """After a refusal, a connection goes on with the next request."""
    with httpx.Client(base_url=shared.url) as client:
        headers = {
            "Authorization": f"Bearer {shared.keys['officer']}",
            "Content-Type": "application/json",
        }
        for _ in range(3):
            bad = client.post("/v1/suspensions", content=b"{", headers=headers)
            good = client.get("/v1/suspensions", headers=headers)
            assert (400, 200) == (bad.status_code, good.status_code)
