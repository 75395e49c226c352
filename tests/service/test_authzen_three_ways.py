"""Three ways to one answer: the HTTP parser's, the ASGI application's, and the plain rule's.

``CheckProtocol`` answers what is ordinary and hands the rest over, so no client may be able to tell
whether it is there. Every request of the table below is sent to a server with it and to one without
it, as the same bytes; status, headers and body must be the same. What is decided must be what
``ledger/domain/access.py`` decides on the folded records.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any, Final

import orjson
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as settings_of
from hypothesis import strategies as st

from ledger.application import SYSTEM_AUTHOR
from ledger.domain.access import Decision, Request, UnknownSubjects, decide
from ledger.domain.values import Resource, Subject, format_instant
from ledger.service.http.app import create_app
from ledger.service.http.authzen import BRACKETS_MAX, DecisionPoint
from ledger.service.http.following import CHANGES_MAX, _changes
from ledger.service.http.search import RESULTS_MAX, Page, find, page_of, search_of
from ledger.service.wiring import Service
from projections.access import AccessFollower, AccessIndex, snapshot
from tests.conftest import SetClock
from tests.histories import SUBJECTS, Drawing, awake, founded, happen
from tests.service.conftest import Running, serving, suspension_of, violation_of
from tests.service.wire import Answer, Wire, chunked, request

EVALUATION: Final = "/access/v1/evaluation"
EVALUATIONS: Final = "/access/v1/evaluations"
ALICE: Final = {"type": "user", "id": "alice"}
BOB: Final = {"type": "user", "id": "bob"}
CAROL: Final = {"type": "user", "id": "carol"}
DAVE: Final = {"type": "user", "id": "dave"}
ZOE: Final = {"type": "user", "id": "zoë:2 ✓"}
PRESS: Final = {"type": "application", "id": "press"}
NORTHWIND: Final = {"type": "organization", "id": "northwind"}
USE: Final = {"name": "use"}
ATLAS: Final = {"type": "model", "id": "atlas-3"}
MINI: Final = {"type": "model", "id": "mini-2"}
ASKED: Final[dict[str, Any]] = {"subject": ALICE, "action": USE, "resource": ATLAS}
PERMITTED: Final[dict[str, Any]] = {**ASKED, "resource": MINI}


@dataclass(frozen=True)
class Ways:
    """One ledger behind two servers: with ``CheckProtocol``, and with uvicorn alone."""

    run: Running
    urls: tuple[str, str]
    revoked: str
    expired: str

    def keys(self) -> Mapping[str, str]:
        """Every kind of key."""
        return {**self.run.keys, "revoked": self.revoked, "expired": self.expired}


@pytest.fixture(scope="module")
def ways(shared: Running) -> Iterator[Ways]:
    """A ledger with every kind of restriction, behind both servers."""
    run = shared
    suspension_of(run, "user:alice")
    suspension_of(run, "user:alice", scope={"resources": [{"type": "model"}], "actions": ["train"]})
    suspension_of(run, "organization:northwind", basis="legal_order", indefinite=True)
    run.done("POST", "/v1/links", role="officer", json={"subject": PRESS, "parent": NORTHWIND})
    conditions: list[dict[str, Any]] = [
        {"attribute": "resource.properties.status", "in": ["preview", 1]},
        {"attribute": "subject.properties.region", "not_in": ["eu"]},
        {"attribute": "action.properties.bulk", "exists": True},
    ]
    for condition in conditions:
        scope = {"resources": [{"type": "model"}], "conditions": [condition]}
        suspension_of(run, "user:carol", scope=scope)
    held = suspension_of(run, "user:dave", duration="P10D", reinstatement="on_review")
    assert not run.allowed("user:dave", "atlas-3")  # what this answer says must not be kept
    revision = {"duration": "P20D", "reason": "Considered again."}
    run.done("POST", f"/v1/suspensions/{held}/revision", role="officer", json=revision)
    later = format_instant(run.clock() + timedelta(days=30))
    suspension_of(run, "user:dave", effective_at=later, duration="P1D")
    suspension_of(run, "user:zoë:2 ✓", scope={"resources": [ATLAS, {"type": "tool"}]})
    violation_of(run, "user:bob")
    ledger = run.service.ledger
    revoked = ledger.issue_key("the-service", by=SYSTEM_AUTHOR)
    ledger.revoke_key(str(revoked.recorded.event.about), by=SYSTEM_AUTHOR)
    soon = run.clock() + timedelta(hours=1)
    expired = ledger.issue_key("the-service", expires_at=soon, by=SYSTEM_AUTHOR)
    run.clock.move(hours=2)
    assert revoked.secret is not None
    assert expired.secret is not None
    with serving(run.service, app=create_app(run.service)) as alone:
        yield Ways(run, (run.url, alone), revoked.secret, expired.secret)


# --- the same bytes to both -----------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """What is sent, and the statuses of what comes back; ``open``: the connection stays so."""

    name: str
    sent: Callable[[Mapping[str, str]], bytes]
    statuses: Sequence[int]
    open: bool = True
    head: bool = field(default=False)


def json(body: object) -> bytes:
    """Return JSON as bytes; bytes as they are."""
    return body if isinstance(body, bytes) else orjson.dumps(body)


def case(
    name: str,
    status: int,
    body: object = ASKED,
    *headers: str,
    path: str = EVALUATION,
    key: str | None = "service",
    open: bool = True,  # noqa: A002 - as the field is called
    **more: Any,
) -> Case:
    """Return a case of one request."""

    def sent(keys: Mapping[str, str]) -> bytes:
        return request(path, json(body), *headers, key=key and keys[key], **more)

    return Case(name, sent, [status], open=open, head=more.get("method") == "HEAD")


def authorization(name: str, status: int, *values: str) -> Case:
    """Return a case with these values of Authorization; ``%`` stands for the service's key."""

    def sent(keys: Mapping[str, str]) -> bytes:
        lines = [f"Authorization: {value.replace('%', keys['service'])}" for value in values]
        return request(EVALUATION, json(ASKED), *lines)

    return Case(f"authorization: {name}", sent, [status])


def crowded(brackets: int, body: bytes = orjson.dumps(ASKED)) -> bytes:
    """Return a request with so many empty arrays more, in a list of them."""
    return body[:-1] + b',"more":[%b]}' % b",".join([b"[]"] * brackets)


def nested(depth: int) -> bytes:
    """Return an evaluation with an array of a depth in its context, which is the second level."""
    deep = b"[" * (depth - 2) + b"]" * (depth - 2)
    return orjson.dumps({**ASKED, "context": 1}).replace(b":1", b': {"x": %b}' % deep)


def padded(body: object, size: int) -> bytes:
    """Return a body with white space up to a size."""
    text = json(body)
    return text + b" " * (size - len(text))


def batch(*items: object, **more: object) -> dict[str, object]:
    """Return a batch with alice's use as its defaults."""
    return {"subject": ALICE, "action": USE, "evaluations": list(items), **more}


HALF: Final[dict[str, dict[str, str]]] = {"resource": {"id": "mini-2"}}
ITEMS: Final[list[dict[str, Any]]] = [
    {"resource": MINI},
    {"resource": ATLAS},
    HALF,
    {"resource": MINI},
    {},
]
KIB: Final = 1024

BODIES: Final = [
    case("a denial", 200),
    case("a permit", 200, PERMITTED),
    case("white space around", 200, b"\r\n\t " + json(ASKED) + b"\n"),
    case("unknown members everywhere", 200, {**ASKED, "x": [None], "action": {**USE, "y": {}}}),
    case(
        "a member twice: the last counts",
        200,
        json(ASKED)[:-1] + b',"resource":' + json(MINI) + b"}",
    ),
    case("escapes", 200, json(ASKED).replace(b"alice", b"\\u0061\\u006cice")),
    case("a name beyond ASCII", 200, {**ASKED, "subject": ZOE}),
    case("a byte order mark", 400, b"\xef\xbb\xbf" + json(ASKED)),
    case("nothing", 400, b""),
    case("white space", 400, b" \n"),
    case("an array", 400, [ASKED]),
    case("a text", 400, "x"),
    case("null", 400, None),
    case("half an object", 400, b'{"subject":'),
    case("two objects", 400, json(ASKED) * 2),
    case("no UTF-8", 400, b'{"subject": "\xff"}'),
    case("a lone surrogate", 400, json(ASKED).replace(b"alice", b"\\ud800")),
    case("NaN", 400, b'{"subject": NaN}'),
    case("no subject", 400, {"action": USE, "resource": ATLAS}),
    case("no id", 400, {**ASKED, "subject": {"type": "user"}}),
    case("an action that is a text", 400, {**ASKED, "action": "use"}),
    case("properties that are a list", 400, {**ASKED, "resource": {**ATLAS, "properties": []}}),
    case("a context that is a list", 400, {**ASKED, "context": []}),
    case("17 further subjects", 400, {**ASKED, "context": {"subjects": [BOB] * 17}}),
    case("16 further subjects", 200, {**ASKED, "context": {"subjects": [BOB] * 16}}),
    case("32 deep", 200, nested(32)),
    case("33 deep", 400, nested(33)),
    case("32 deep in a batch", 200, nested(32), path=EVALUATIONS),
    case("33 deep in a batch", 400, nested(33), path=EVALUATIONS),
    case("33 brackets in a text", 200, {**ASKED, "context": {"x": '[{"' * 40 + "\\"}}),
    case("100,000 deep", 400, b"[" * 100_000),
    case("33 deep beside much that is flat", 400, crowded(20_000, nested(33))),
    case("32 deep beside much that is flat", 200, crowded(20_000, nested(32))),
    case("as many brackets as may be", 200, crowded(BRACKETS_MAX - 5)),
    case("one bracket more", 400, crowded(BRACKETS_MAX - 4)),
    case("256 KiB", 200, padded(ASKED, 256 * KIB)),
    case("256 KiB and a byte", 413, padded(ASKED, 256 * KIB + 1), open=False),
    case("10 MB announced", 413, b"", length=10_000_000, open=False),
    case("a number of 40 digits announced", 400, b"", length=10**40, open=False),
    case("1 MiB in a batch", 200, padded(ASKED, KIB * KIB), path=EVALUATIONS),
    case("1 MiB and a byte", 413, padded(ASKED, KIB * KIB + 1), path=EVALUATIONS, open=False),
]
BATCHES: Final = [
    case(f"batch: {name}", status, body, path=EVALUATIONS)
    for name, status, body in [
        ("items good and bad", 200, batch(*ITEMS)),
        ("execute_all", 200, batch(*ITEMS, options={"evaluations_semantic": "execute_all"})),
        ("first deny", 200, batch(*ITEMS, options={"evaluations_semantic": "deny_on_first_deny"})),
        (
            "first permit",
            200,
            batch(*ITEMS[::-1], options={"evaluations_semantic": "permit_on_first_permit"}),
        ),
        ("another semantic", 400, batch(*ITEMS, options={"evaluations_semantic": "any"})),
        ("options that are a list", 400, batch(*ITEMS, options=[])),
        ("none", 200, {**ASKED, "evaluations": []}),
        ("absent", 200, ASKED),
        ("null", 200, {**ASKED, "evaluations": None}),
        ("an object", 400, {**ASKED, "evaluations": {}}),
        ("texts", 400, batch("x")),
        ("one that is nothing", 200, {"evaluations": [{}]}),
        ("defaults that are no entities", 200, batch({"resource": MINI}, {}, resource={})),
        (
            "an item's context wins",
            200,
            batch({"context": {"subjects": [PRESS]}}, {}, resource=MINI),
        ),
        (
            "a context for all",
            200,
            batch({}, {"context": {}}, resource=MINI, context={"subjects": [PRESS]}),
        ),
        (
            "a null context",
            200,
            batch({"context": None}, resource=MINI, context={"subjects": [PRESS]}),
        ),
        ("a thousand", 200, batch(*[{}] * 1000, resource=ATLAS)),
        ("a thousand and one", 400, batch(*[{}] * 1001, resource=ATLAS)),
    ]
]
MEDIA_TYPES: Final = [
    case(f"content type {media_type!r}", status, media_type=media_type)
    for media_type, status in [
        ("application/json", 200),
        ("APPLICATION/JSON", 200),
        ("application/json; charset=utf-8", 200),
        ("application/json;charset=UTF-8", 200),
        ('application/json; charset="utf-8"', 200),
        ("application/json ;charset=utf-8", 200),
        ("application/json;", 200),
        ("application/json; charset=utf-16", 400),
        ("application/json; boundary=x", 400),
        ("application/jsonp", 400),
        ("application/problem+json", 400),
        ("text/plain", 400),
        ("", 400),
        (None, 400),
    ]
]
HEADERS: Final = [
    case("two content types, JSON first", 200, ASKED, "content-type: text/plain"),
    case(
        "two content types, JSON last",
        200,
        ASKED,
        "content-type: application/json",
        media_type="text/plain",
    ),
    case("content encoding gzip", 400, ASKED, "content-encoding: gzip"),
    case("content encoding identity", 200, ASKED, "content-encoding: identity"),
    case("a request id", 200, ASKED, 'x-request-id: bfe9eb29-"ab87"~ x'),
    case("a request id with a refusal", 400, {}, "X-Request-ID: 42"),
    case("a request id of 256", 200, ASKED, "x-request-id: " + "x" * 256),
    case("a request id of 257", 422, ASKED, "x-request-id: " + "x" * 257),
    case("an empty request id", 422, ASKED, "x-request-id:"),
    case("a request id beyond ASCII", 422, ASKED, "x-request-id: \xe9"),
    case("two request ids", 200, ASKED, "x-request-id: 1", "x-request-id: 2"),
    case("minimum position 0", 200, ASKED, "ledger-min-position: 0"),
    case("minimum position 1", 200, PERMITTED, "Ledger-Min-Position: 1"),
    case("minimum position 01", 422, ASKED, "ledger-min-position: 01"),
    case("minimum position x", 422, ASKED, "ledger-min-position: x"),
    case("minimum position empty", 422, ASKED, "ledger-min-position:"),
    case("a minimum position and no body", 400, b"", "ledger-min-position: 1"),
    case("connection: close", 200, ASKED, "connection: close", open=False),
    case("connection: close with a refusal", 400, {}, "connection: close", open=False),
    case("connection: keep-alive", 200, ASKED, "connection: keep-alive"),
    case("a header beyond ASCII", 200, ASKED, "x-other: \xff\xfe"),
    case("a long head", 200, ASKED, "x-other: " + "x" * 8_000),
    # The parser does not report the body of a request that asks for an upgrade.
    case("upgrade to a web socket", 400, ASKED, "connection: upgrade", "upgrade: websocket"),
    case(
        "upgrade to HTTP/2",
        400,
        ASKED,
        "connection: upgrade, http2-settings",
        "upgrade: h2c",
        "http2-settings: x",
    ),
    case("expect something else", 200, ASKED, "expect: 200-ok"),
    case("HTTP/1.0", 200, version="1.0", open=False),
    case("HTTP/1.0, kept", 200, ASKED, "connection: keep-alive", version="1.0", open=False),
]
WHO: Final = [
    case("no key", 401, key=None),
    case("no key and no body", 401, b"", key=None),
    *(
        case(f"the {role}'s key", 403, key=role)
        for role in ("officer", "approver", "auditor", "admin")
    ),
    case("another role and no JSON", 403, b"{", key="reporter", media_type="text/plain"),
    case("a revoked key", 401, key="revoked"),
    case("an expired key", 401, key="expired"),
    authorization("lower case", 200, "bearer %"),
    authorization("upper case", 200, "BEARER %"),
    authorization("spaces", 200, "Bearer    %  "),
    authorization("another scheme", 401, "Basic %"),
    authorization("no scheme", 401, "%"),
    authorization("no key", 401, "Bearer"),
    authorization("an empty key", 401, "Bearer "),
    authorization("a longer key", 401, "Bearer %x"),
    authorization("a shorter key", 401, "Bearer clk_"),
    authorization("a huge key", 401, "Bearer " + "x" * 5_000),
    authorization("a key beyond ASCII", 401, "Bearer \xe9\xff"),
    authorization("two keys, the good last", 200, "Bearer x", "Bearer %"),
    authorization("two keys, the good first", 401, "Bearer %", "Bearer x"),
]
METHODS: Final = [
    case(f"{method} {path}", 405, b"", path=path, method=method, media_type=None)
    for path in (EVALUATION, EVALUATIONS)
    for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND")
]
TARGETS: Final = [
    case("a query", 200, path=f"{EVALUATION}?x=1"),
    case("a whole URL", 200, path=f"http://ledger.test{EVALUATION}"),
    case("an escape in the path", 200, path="/access/v1/%65valuation"),
    case("a slash after it", 404, path=f"{EVALUATION}/"),
    case("two slashes", 404, path=f"/{EVALUATION}"),
    case("another case", 404, path="/access/v1/Evaluation"),
]


def bodies_in_chunks(keys: Mapping[str, str], body: object, size: int, path: str) -> bytes:
    """Return a request with a chunked body."""
    return request(
        path,
        chunked(json(body), size),
        "transfer-encoding: chunked",
        key=keys["service"],
        length=None,
    )


CHUNKED: Final = [
    Case("one chunk", lambda k: bodies_in_chunks(k, ASKED, 10_000, EVALUATION), [200]),
    Case("chunks of a byte", lambda k: bodies_in_chunks(k, ASKED, 1, EVALUATION), [200]),
    Case("chunks of nothing", lambda k: bodies_in_chunks(k, b"", 1, EVALUATION), [400]),
    Case("a batch in chunks", lambda k: bodies_in_chunks(k, batch(*ITEMS), 7, EVALUATIONS), [200]),
    Case(
        "chunks of 257 KiB",
        lambda k: bodies_in_chunks(k, padded(ASKED, 257 * KIB), 60_000, EVALUATION),
        [413],
        open=False,
    ),
    Case(
        "chunked with a length, which may be smuggling",
        lambda k: request(EVALUATION, b"0\r\n\r\n", "transfer-encoding: chunked", key=k["service"]),
        [400],
        open=False,
    ),
]


def several(
    *bodies: object, close_after: int | None = None
) -> Callable[[Mapping[str, str]], bytes]:
    """Return what sends several requests at once; ``None`` is the reading of another route."""

    def sent(keys: Mapping[str, str]) -> bytes:
        pieces = []
        for number, body in enumerate(bodies):
            headers = [f"x-request-id: {number}"]
            if number == close_after:
                headers.append("connection: close")
            if body is None:
                path = "/v1/access?subject=user:alice"
                more: dict[str, Any] = {"method": "GET", "length": None}
            else:
                path = EVALUATIONS if b'"evaluations"' in json(body) else EVALUATION
                more = {}
            pieces.append(
                request(
                    path,
                    json(body) if body is not None else b"",
                    *headers,
                    key=keys["service"],
                    **more,
                )
            )
        return b"".join(pieces)

    return sent


PIPELINED: Final = [
    Case("five checks at once", several(ASKED, PERMITTED, ASKED, batch(*ITEMS), ASKED), [200] * 5),
    Case("checks around a refusal", several(ASKED, {}, ASKED), [200, 400, 200]),
    Case("checks around another route", several(ASKED, None, ASKED, None), [200] * 4),
    Case("another route first", several(None, ASKED, {}, PERMITTED), [200, 200, 400, 200]),
    Case("a hundred checks", several(*[ASKED, PERMITTED] * 50), [200] * 100),
    Case(
        "nothing after the last",
        several(ASKED, ASKED, ASKED, close_after=1),
        [200, 200],
        open=False,
    ),
    Case(
        "nothing after a refusal that is the last",
        several({}, ASKED, close_after=0),
        [400],
        open=False,
    ),
    Case(
        "nothing after another route that is the last",
        several(None, ASKED, close_after=0),
        [200],
        open=False,
    ),
]
NO_HTTP: Final = [
    Case(name, lambda _, sent=sent: sent, [400], open=False)  # type: ignore[misc]
    for name, sent in [
        ("no HTTP", b"hello\r\n\r\n"),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
        ("another protocol", b"POST /access/v1/evaluation FTP/1.1\r\n\r\n"),
        ("a header without a colon", b"POST /access/v1/evaluation HTTP/1.1\r\nhost\r\n\r\n"),
        (
            "a control character",
            b"POST /access/v1/evaluation HTTP/1.1\r\nx-request-id: \x01\r\n\r\n",
        ),
        ("DEL", b"POST /access/v1/evaluation HTTP/1.1\r\nx-request-id: \x7f\r\n\r\n"),
        ("a space before the colon", b"POST /access/v1/evaluation HTTP/1.1\r\nhost : x\r\n\r\n"),
        (
            "two lengths",
            b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        ),
        (
            "a length that is no number",
            b"POST /access/v1/evaluation HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        ),
    ]
]
CASES: Final = [
    *BODIES,
    *BATCHES,
    *MEDIA_TYPES,
    *HEADERS,
    *WHO,
    *METHODS,
    *TARGETS,
    *CHUNKED,
    *PIPELINED,
    *NO_HTTP,
]


def compared(answer: Answer | None, sent: bytes) -> object:
    """Return what must be the same both ways: all but the date and an id that was made up."""
    if answer is None:
        return None
    left_out = {"date"} if b"x-request-id" in sent.lower() else {"date", "x-request-id"}
    headers = sorted(header for header in answer.headers if header[0] not in left_out)
    return answer.status, headers, answer.body


@pytest.mark.parametrize("one", CASES, ids=[one.name for one in CASES])
def test_no_client_can_tell_the_two_servers_apart(ways: Ways, one: Case) -> None:
    """The same bytes get the same answers, and leave the connection in the same state.

    They are sent twice, because what is answered to a known head takes a way of its own.
    """
    sent = one.sent(ways.keys())
    found = []
    for url in ways.urls:
        with Wire(url) as wire:
            answers = []
            for _ in range(2 if one.open else 1):
                wire.send(sent)
                answers += [wire.take(head=one.head) for _ in one.statuses]
            found.append((answers, wire.is_open()))

    (here, is_open), (alone, stays_open) = found
    assert [compared(a, sent) for a in alone] == [compared(a, sent) for a in here]
    assert [*one.statuses] * (len(here) // len(one.statuses)) == [a and a.status for a in here]
    assert one.open is is_open is stays_open


def test_the_names_of_the_cases_are_unique() -> None:
    """A failure names one case."""
    assert sorted({one.name for one in CASES}) == sorted(one.name for one in CASES)


@pytest.mark.parametrize("path", [EVALUATION, EVALUATIONS])
def test_a_client_that_expects_to_be_asked_for_the_body_is_asked(ways: Ways, path: str) -> None:
    """``Expect: 100-continue``: the body is asked for, or the request refused before it comes."""
    for url in ways.urls:
        with Wire(url) as wire:
            body = json(ASKED)
            expect = ["expect: 100-continue"]
            asked = wire.ask(
                request(path, b"", *expect, key=ways.run.keys["service"], length=len(body))
            )
            answer = wire.ask(body)

            assert (100, 200) == (asked.status, answer.status)
            assert wire.is_open()
        with Wire(url) as wire:
            answer = wire.ask(request(path, b"", *expect, length=len(body)))

            assert 401 == answer.status


def test_who_may_not_ask_is_refused_before_the_body_comes(ways: Ways) -> None:
    """No server holds the head of a request back until a body is there that it will not read."""
    for url in ways.urls:
        for key, length, status in (
            (None, 100, 401),
            ("officer", 100, 403),
            ("service", 10**9, 413),
        ):
            with Wire(url) as wire:
                keys = ways.keys()
                answer = wire.ask(request(EVALUATION, b"", key=key and keys[key], length=length))

                assert status == answer.status


# --- the plain rule -------------------------------------------------------------------------------


def with_properties(**entities: Mapping[str, object]) -> dict[str, Any]:
    """Return carol's use of a model, with properties of the entities that are named."""
    body: dict[str, Any] = {"subject": CAROL, "action": USE, "resource": MINI}
    return body | {
        name: {**body[name], "properties": properties} for name, properties in entities.items()
    }


EU: Final = {"region": "eu"}
EVALUATED: Final[list[dict[str, Any]]] = [
    ASKED,
    PERMITTED,
    {**ASKED, "action": {"name": "train"}},
    {**PERMITTED, "action": {"name": "train"}},
    {**ASKED, "subject": BOB},
    {**ASKED, "subject": BOB, "context": {"subjects": [PRESS]}},
    {**PERMITTED, "subject": BOB, "context": {"subjects": [PRESS, ALICE], "ip": "::1"}},
    {**ASKED, "subject": BOB, "context": {"subjects": [ALICE, DAVE]}},
    {**ASKED, "subject": PRESS},
    {**ASKED, "subject": NORTHWIND},
    {**ASKED, "subject": DAVE},
    {**ASKED, "subject": ZOE},
    {**ASKED, "subject": ZOE, "resource": {"type": "tool", "id": "any"}},
    {**ASKED, "subject": {"type": "user", "id": "nobody"}},
    {**ASKED, "subject": {"type": "robot", "id": "alice"}},
    {**ASKED, "resource": {"type": "model", "id": "not-listed"}},
    with_properties(),
    with_properties(subject=EU),
    with_properties(subject={"region": ["us", "eu"]}),
    with_properties(subject={"region": {"eu": True}}),
    with_properties(subject=EU, resource={"status": "preview"}),
    with_properties(subject=EU, resource={"status": 1.0}),
    with_properties(subject=EU, resource={"status": True}),
    with_properties(subject=EU, resource={"status": ["released", "preview"]}),
    with_properties(subject=EU, resource={"status": [["preview"]]}),
    with_properties(subject=EU, resource={}),
    with_properties(subject=EU, action={"bulk": None}),
    with_properties(subject=EU, action={"other": 1}),
]


def request_of(body: Mapping[str, Any]) -> Request:
    """Return an evaluation's body as the access rule takes it."""
    properties = {
        f"{name}_properties": body[name].get("properties") or {}
        for name in ("subject", "resource", "action")
    }
    through = (body.get("context") or {}).get("subjects") or ()
    return Request(
        Subject(type=body["subject"]["type"], id=body["subject"]["id"]),
        Resource(type=body["resource"]["type"], id=body["resource"]["id"]),
        body["action"]["name"],
        tuple(Subject(type=one["type"], id=one["id"]) for one in through),
        **properties,
    )


def ruled(service: Service, asked: Request) -> Decision:
    """Return what the plain rule decides on the folded records, now."""
    known = service.ledger.known((asked.subject, *asked.through))
    unknown = service.index.unknown
    return decide(known.records, known.catalogue, asked, service.now(), unknown=unknown)


def as_answered(decision: Decision) -> tuple[object, ...]:
    """Bring a decision of the rule into a form that an answer can be compared with."""
    return (
        decision.allowed,
        [s.id for s in decision.suspensions],
        [s.ends_at and format_instant(s.ends_at) for s in decision.suspensions],
        decision.until and format_instant(decision.until),
        decision.unknown_subject,
    )


def as_ruled(answer: Mapping[str, Any]) -> tuple[object, ...]:
    """Bring an answer into the same form."""
    context = answer["context"]
    suspensions = context.get("suspensions", [])
    return (
        answer["decision"],
        [s["id"] for s in suspensions],
        [s["ends_at"] for s in suspensions],
        context.get("until"),
        "unknown_subject" in context.get("reasons", ()),
    )


@pytest.mark.parametrize("number", range(len(EVALUATED)))
def test_both_servers_answer_what_the_plain_rule_decides(ways: Ways, number: int) -> None:
    """Decision, suspensions, their ends and the end of their run, alone or in a batch."""
    body = EVALUATED[number]
    expected = as_answered(ruled(ways.run.service, request_of(body)))
    key = ways.run.keys["service"]
    for url in ways.urls:
        with Wire(url) as wire:
            for _ in range(2):
                single = wire.ask(request(EVALUATION, json(body), key=key))
                together = wire.ask(
                    request(EVALUATIONS, json({"evaluations": [body, body]}), key=key)
                )

                assert expected == as_ruled(single.json)
                assert [single.json] * 2 == together.json["evaluations"]


# --- random ledgers -------------------------------------------------------------------------------


@dataclass(frozen=True)
class History:
    """A random history; the questions about it are drawn from the seed as well."""

    seed: int
    length: int
    unknown: UnknownSubjects


histories = st.builds(
    History,
    seed=st.integers(0, 2**32),
    length=st.integers(1, 60),
    unknown=st.sampled_from(["allow", "deny_unknown"]),
)
few = settings_of(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
many = settings_of(few, max_examples=1_000)
QUESTIONS: Final = 25
INSTANTS: Final = 3


def body_of(asked: Request) -> dict[str, Any]:
    """Return a request of the access rule as an evaluation's body."""
    return {
        "subject": {**asked.subject.model_dump(), "properties": asked.subject_properties},
        "resource": {**asked.resource.model_dump(), "properties": asked.resource_properties},
        "action": {"name": asked.action, "properties": asked.action_properties},
        "context": {"subjects": [subject.model_dump() for subject in asked.through]},
    }


def followed(service: Service, index: AccessIndex, follower: AccessFollower) -> None:
    """Let an index take in what a follower would be sent, as it would be sent."""
    while index.position < service.index.position:
        changes = orjson.loads(orjson.dumps(_changes(service, index.position)))
        assert index.position < changes["position"] <= index.position + CHANGES_MAX
        follower._apply(index, changes)


def snapshot_of(service: Service, unknown: UnknownSubjects) -> AccessIndex:
    """Return an index that was loaded from a snapshot as it is sent."""
    index = AccessIndex(unknown=unknown)
    with service.reading() as (c, head):
        newest = service.recorder.event(head)
        assert newest is not None
        records = snapshot(
            c,
            position=head,
            recorded_at=format_instant(newest.recorded_at),
            unknown=unknown,
        )
        index.load(orjson.loads(orjson.dumps(record)) for record in records)
    return index


def searched(service: Service, point: DecisionPoint, kind: str, body: object) -> list[Any]:
    """Return all results of a search, page by page."""
    parsed = orjson.loads(orjson.dumps(body))
    search = search_of(point, parsed, kind)
    results: list[Any] = []
    page = page_of(parsed | {"page": {"limit": 2}}, kind)
    while True:
        found = find(service, search, page, kind)
        results += found["results"]
        token = found.get("page", {}).get("next_token", "")
        if not token:
            break
        page = page_of(parsed | {"page": {"token": token}}, kind)
    whole = find(service, search, Page(RESULTS_MAX, "", ""), kind)
    assert whole == {"results": results}
    return results


def check_five(history: History, folder: Path) -> None:
    """Check that single, batch, search, follower and fold give one answer on a random ledger."""
    service = awake(founded(folder, SetClock(), unknown=history.unknown))
    drawing, questions = Drawing(Random(history.seed)), Drawing(Random(f"ask {history.seed}"))
    early = snapshot_of(service, history.unknown)
    happen(service, drawing, history.length // 2)
    halfway = snapshot_of(service, history.unknown)
    happen(service, drawing, history.length - history.length // 2)
    follower = AccessFollower("http://unused", "", when_cut_off="deny")
    for index in (early, halfway):
        followed(service, index, follower)
    point = DecisionPoint(service.index, service.keyring, service.feed, service.now_us)
    clock = service.clock
    assert isinstance(clock, SetClock)
    for _ in range(INSTANTS):
        clock.now = max(questions.instant(service.now()), clock.now)
        asked = [questions.request() for _ in range(QUESTIONS)]
        bodies = [body_of(one) for one in asked]
        ruling = [ruled(service, one) for one in asked]

        single = [orjson.loads(point.evaluation(json(body))) for body in bodies]
        together = orjson.loads(point.evaluations(json({"evaluations": bodies})))

        assert [as_answered(one) for one in ruling] == [as_ruled(one) for one in single]
        assert single == together["evaluations"]
        for index in (early, halfway):
            follower._index = index
            follower._confirmed_at = follower._monotonic()
            follower._clock_ns = lambda: service.now_us() * 1_000
            assert [one.allowed for one in ruling] == [follows(follower, one) for one in asked]
            assert [(*as_answered(one)[:2], as_answered(one)[3]) for one in ruling] == [
                verdict_of(follower, one) for one in asked
            ]
        for one in asked[:5]:
            check_searches(service, point, one)
    service.close()


def arguments(asked: Request) -> tuple[Any, ...]:
    """Return a request as a follower is asked it."""
    return (
        asked.subject.key,
        asked.action,
        asked.resource.key,
        [subject.key for subject in asked.through],
        asked.subject_properties,
        asked.resource_properties,
        asked.action_properties,
    )


def follows(follower: AccessFollower, asked: Request) -> bool:
    """Ask a follower for its short answer."""
    return follower.is_allowed(*arguments(asked))


def verdict_of(follower: AccessFollower, asked: Request) -> tuple[object, ...]:
    """Ask a follower for its long answer."""
    found = follower.verdict(*arguments(asked))
    assert not found.flagged
    return found.allowed, list(found.suspensions), found.until


def check_searches(service: Service, point: DecisionPoint, asked: Request) -> None:
    """Check that each search finds exactly what would be permitted, of what the ledger knows.

    Properties of what is searched for do not count: a result is evaluated without them afterwards.
    """
    body = body_of(asked)
    listed = {
        e.resource: e.actions for e in service.ledger.known(()).catalogue.listed_at(service.now())
    }
    with service.reading() as (c, _):
        known = [s for s in SUBJECTS if service.access.is_known(c, s.key)]

    def allowed(**changed: object) -> bool:
        return ruled(service, Request(**{**_members(asked), **changed})).allowed

    offered = listed.get(asked.resource, ())
    assert [
        {"type": s.type, "id": s.id}
        for s in sorted(known, key=lambda s: s.key.encode())
        if s.type == asked.subject.type
        and asked.action in offered
        and allowed(subject=s, subject_properties={})
    ] == searched(service, point, "subject", body)
    assert [
        {"type": r.type, "id": r.id}
        for r in sorted(listed, key=lambda r: r.key.encode())
        if r.type == asked.resource.type
        and asked.subject in known
        and asked.action in listed[r]
        and allowed(resource=r, resource_properties={})
    ] == searched(service, point, "resource", body)
    del body["action"]
    assert [
        {"name": action}
        for action in sorted(offered)
        if asked.subject in known and allowed(action=action, action_properties={})
    ] == searched(service, point, "action", body)


def _members(asked: Request) -> dict[str, Any]:
    return {name: getattr(asked, name) for name in Request.__dataclass_fields__}


@few
@given(history=histories)
def test_five_ways_give_one_answer_on_any_ledger(history: History) -> None:
    """Single, batch, search, follower and fold agree, at any instant of any history."""
    with tempfile.TemporaryDirectory() as folder:
        check_five(history, Path(folder))


@pytest.mark.soak
@many
@given(history=histories)
def test_five_ways_give_one_answer_on_a_thousand_ledgers(history: History) -> None:
    """Single, batch, search, follower and fold agree, at any instant of any history."""
    with tempfile.TemporaryDirectory() as folder:
        check_five(history, Path(folder))


def test_five_ways_give_one_answer_in_a_long_history(tmp_path: Path) -> None:
    """They agree after hundreds of commands, too, when the follower asked for changes in parts."""
    check_five(History(seed=20261124, length=600, unknown="deny_unknown"), tmp_path)
