"""The decision point over HTTP: OpenID AuthZEN 1.0, and what a denial says."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any, Final

import httpx
import pytest

from ledger.domain.values import format_instant
from ledger.service.settings import Settings
from tests.service.conftest import (
    T0,
    Running,
    SetClock,
    found,
    opened,
    suspension_of,
    violation_of,
)
from tests.serving import ROOT

EVALUATION: Final = "/access/v1/evaluation"
EVALUATIONS: Final = "/access/v1/evaluations"
BOTH: Final = (EVALUATION, EVALUATIONS)
ALICE: Final = {"type": "user", "id": "alice"}
BOB: Final = {"type": "user", "id": "bob"}
USE: Final = {"name": "use"}
ATLAS: Final = {"type": "model", "id": "atlas-3"}
MINI: Final = {"type": "model", "id": "mini-2"}
ASKED: Final = {"subject": ALICE, "action": USE, "resource": ATLAS}

# Ordinary checks are answered inside the HTTP parser, those with this header by the application.
WAYS: Final = pytest.mark.parametrize(
    "way", [{}, {"Ledger-Min-Position": "0"}], ids=["in the parser", "by the application"]
)


@pytest.fixture(scope="module")
def denied(shared: Running) -> Running:
    """A service that has suspended alice, an organization, and bob from previews only."""
    run = shared
    suspension_of(run, "user:alice")
    suspension_of(run, "organization:northwind")
    link = {"subject": {"type": "application", "id": "press"}, "parent": NORTHWIND}
    run.done("POST", "/v1/links", role="officer", json=link)
    return run


NORTHWIND: Final = {"type": "organization", "id": "northwind"}


def ask(run: Running, body: Any, path: str = EVALUATION, **headers: str) -> httpx.Response:
    """Ask the decision point."""
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    asked = {"Content-Type": "application/json", **headers}
    return run("POST", path, role="service", content=body, headers=asked)


def without(body: dict[str, Any], *names: str) -> dict[str, Any]:
    """Leave members out."""
    return {name: value for name, value in body.items() if name not in names}


# --- status codes and headers ---------------------------------------------------------------------


@WAYS
def test_a_permit_and_a_denial_are_both_answers(denied: Running, way: dict[str, str]) -> None:
    """200 and JSON either way: a denial is never an error, on which a caller might fail open."""
    position = denied.service.recorder.position
    for resource, decision in ((MINI, True), (ATLAS, False)):
        answer = ask(denied, {**ASKED, "resource": resource}, **way)

        assert 200 == answer.status_code
        assert "application/json" == answer.headers["content-type"]
        assert str(position) == answer.headers["ledger-position"]
        assert decision is answer.json()["decision"]
        assert position == answer.json()["context"]["position"]


@WAYS
@pytest.mark.parametrize("path", BOTH)
@pytest.mark.parametrize(
    "media_type",
    ["application/json", "application/json; charset=utf-8", 'application/json;charset="UTF-8"'],
)
def test_every_way_to_say_json_works(
    denied: Running, path: str, media_type: str, way: dict[str, str]
) -> None:
    """With and without a charset, in any case and any quotes."""
    answer = ask(denied, ASKED, path, **{"Content-Type": media_type}, **way)

    assert (200, False) == (answer.status_code, answer.json()["decision"])


NO_EVALUATIONS: Final[dict[str, Any]] = {
    "no subject": without(ASKED, "subject"),
    "no action": without(ASKED, "action"),
    "no resource": without(ASKED, "resource"),
    "a null subject": {**ASKED, "subject": None},
    "a subject that is a text": {**ASKED, "subject": "user:alice"},
    "a subject without a type": {**ASKED, "subject": {"id": "alice"}},
    "a subject without an id": {**ASKED, "subject": {"type": "user"}},
    "a subject with a number for an id": {**ASKED, "subject": {"type": "user", "id": 1}},
    "a subject with an object for a type": {**ASKED, "subject": {"type": {}, "id": "alice"}},
    "a subject with an empty id": {**ASKED, "subject": {"type": "user", "id": ""}},
    "a subject of 257 bytes": {**ASKED, "subject": {"type": "user", "id": "a" * 257}},
    "a subject with a NUL": {**ASKED, "subject": {"type": "user", "id": "a\0"}},
    "a subject not in NFC": {**ASKED, "subject": {"type": "user", "id": "cafe\u0301"}},
    "a subject with U+FFFD": {**ASKED, "subject": {"type": "user", "id": "\ufffd"}},
    "a subject with a lone surrogate": {**ASKED, "subject": {"type": "user", "id": "\ud800"}},
    "properties that are a list": {**ASKED, "subject": {**ALICE, "properties": []}},
    "a resource that is a list": {**ASKED, "resource": [ATLAS]},
    "a resource without an id": {**ASKED, "resource": {"type": "model"}},
    "an action that is a text": {**ASKED, "action": "use"},
    "an action without a name": {**ASKED, "action": {}},
    "an action with a number for a name": {**ASKED, "action": {"name": 1}},
    "an action with an empty name": {**ASKED, "action": {"name": ""}},
    "a context that is a list": {**ASKED, "context": []},
    "subjects that are no list": {**ASKED, "context": {"subjects": ALICE}},
    "subjects of which one is none": {**ASKED, "context": {"subjects": [ALICE, "bob"]}},
    "more subjects than a request has": {**ASKED, "context": {"subjects": [BOB] * 17}},
    "an array": [ASKED],
    "a text": "alice",
    "null": None,
    "nothing": b"",
    "white space": b" ",
    "half an object": b'{"subject":',
    "not a number": b'{"subject": NaN}',
    "no UTF-8": b'{"subject": "\xff"}',
    "an overlong encoding": b'{"subject": "\xc0\xaf"}',
    "UTF-16": json.dumps(ASKED).encode("utf-16"),
    "arrays 33 deep": b'{"context": ' + b"[" * 33 + b"]" * 33 + b"}",
    "arrays 100,000 deep": b"[" * 100_000 + b"]" * 100_000,
    "a number of a hundred thousand digits": b'{"context": ' + b"9" * 100_000 + b"}",
}


@WAYS
@pytest.mark.parametrize("path", BOTH)
@pytest.mark.parametrize("name", NO_EVALUATIONS)
def test_what_is_no_evaluation_is_a_400(
    denied: Running, path: str, name: str, way: dict[str, str]
) -> None:
    """Missing and ill-typed members and what is no JSON: a problem, and nothing decided."""
    answer = ask(denied, NO_EVALUATIONS[name], path, **way)

    assert (400, "malformed_request") == (answer.status_code, answer.json()["code"])
    assert "application/problem+json" == answer.headers["content-type"]
    assert "decision" not in answer.json()


@WAYS
@pytest.mark.parametrize("path", BOTH)
@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": ""},
        {"Content-Encoding": "gzip"},
    ],
)
def test_another_media_type_is_a_400(
    denied: Running, path: str, headers: dict[str, str], way: dict[str, str]
) -> None:
    """The standard's scenario wants 400 for what is not JSON by its header."""
    answer = ask(denied, ASKED, path, **headers, **way)

    assert (400, "malformed_request") == (answer.status_code, answer.json()["code"])


@pytest.mark.parametrize("path", BOTH)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_another_method_is_a_405(denied: Running, path: str, method: str) -> None:
    """With the header that names the right one."""
    answer = denied(method, path, role="service", headers={"X-Request-ID": "405"})

    assert (405, "POST") == (answer.status_code, answer.headers["allow"])
    assert "method_not_allowed" == answer.json()["code"]
    assert "405" == answer.headers["x-request-id"]


@WAYS
@pytest.mark.parametrize("path", BOTH)
def test_the_request_id_comes_back_with_every_answer(
    denied: Running, path: str, way: dict[str, str]
) -> None:
    """With permits and denials, and with every error."""
    headers = {"X-Request-ID": 'bfe9eb29-"ab87"~ x', **way}
    answers = [
        ask(denied, ASKED, path, **headers),
        ask(denied, {**ASKED, "resource": MINI}, path, **headers),
        ask(denied, {}, path, **headers),
        ask(denied, b"a" * (2 * 1024 * 1024), path, **headers),
        denied("POST", path, json=ASKED, headers=headers),
        denied("POST", path, role="officer", json=ASKED, headers=headers),
        denied("GET", path, role="service", headers=headers),
    ]

    assert [200, 200, 400, 413, 401, 403, 405] == [answer.status_code for answer in answers]
    assert {headers["X-Request-ID"]} == {answer.headers["x-request-id"] for answer in answers}


def test_who_may_not_ask_gets_no_decision(denied: Running) -> None:
    """401 with the scheme, 403 for another role, whatever the body."""
    for path in BOTH:
        stranger = denied("POST", path, json=ASKED)
        officer = denied("POST", path, role="officer", content=b"{", headers={})

        assert [401, 403] == [stranger.status_code, officer.status_code]
        assert stranger.headers["www-authenticate"].startswith("Bearer")
        assert "decision" not in stranger.json() | officer.json()


@WAYS
def test_a_body_that_is_too_large_is_a_413(denied: Running, way: dict[str, str]) -> None:
    """256 KiB for one evaluation and 1 MiB for a batch; at the limit it is read."""
    for path, limit in ((EVALUATION, 256 * 1024), (EVALUATIONS, 1024 * 1024)):
        body = json.dumps(ASKED).encode()
        body += b" " * (limit - len(body))

        at, over = ask(denied, body, path, **way), ask(denied, body + b" ", path, **way)

        assert (200, 413) == (at.status_code, over.status_code)
        assert "body_too_large" == over.json()["code"]
        assert "close" == over.headers["connection"]


@WAYS
def test_members_that_are_not_known_are_ignored(denied: Running, way: dict[str, str]) -> None:
    """The standard wants it everywhere, and a later version of it may add some."""
    body = {
        "subject": {**ALICE, "roles": ["admin"], "properties": {"level": {"deep": [1]}}},
        "action": {**USE, "verb": "GET"},
        "resource": {**ATLAS, "owner": None},
        "context": {"time": "2026-11-24T10:00:00Z", "ip": {"v": 4}},
        "nonce": [1, 2, 3],
    }

    for path in BOTH:
        answer = ask(denied, body, path, **way)

        assert (200, False) == (answer.status_code, answer.json()["decision"])


# --- batches --------------------------------------------------------------------------------------


def decisions(answer: httpx.Response) -> list[bool]:
    """Return the decisions of a batch, whose answer must hold nothing else."""
    assert 200 == answer.status_code, answer.text
    assert {"evaluations"} == set(answer.json())
    return [item["decision"] for item in answer.json()["evaluations"]]


@WAYS
def test_a_batch_is_answered_in_the_order_of_its_items(
    denied: Running, way: dict[str, str]
) -> None:
    """As many decisions as items, each with the context it would have alone."""
    items = [
        {"resource": ATLAS},
        {"resource": MINI},
        {"resource": ATLAS, "subject": BOB},
        {"resource": ATLAS, "subject": NORTHWIND},
    ]
    body = {"subject": ALICE, "action": USE, "evaluations": items}

    answer = ask(denied, body, EVALUATIONS, **way)

    assert [False, True, True, False] == decisions(answer)
    alone = [ask(denied, {**body, **item}).json() for item in items]
    assert alone == answer.json()["evaluations"]


@pytest.mark.parametrize(
    ("semantic", "expected"),
    [
        ("execute_all", [True, False, True, False]),
        ("deny_on_first_deny", [True, False]),
        ("permit_on_first_permit", [True]),
    ],
)
@WAYS
def test_a_batch_stops_where_its_semantic_says(
    denied: Running, semantic: str, expected: list[bool], way: dict[str, str]
) -> None:
    """The answer ends with the item that stopped it."""
    items = [{"resource": r} for r in (MINI, ATLAS, MINI, ATLAS)]
    body = {"subject": ALICE, "action": USE, "evaluations": items}
    body["options"] = {"evaluations_semantic": semantic, "future": True}

    assert expected == decisions(ask(denied, body, EVALUATIONS, **way))
    if semantic == "permit_on_first_permit":
        body["evaluations"] = [{"resource": ATLAS}, {"resource": {}}, {"resource": MINI}, {}]
        assert [False, False, True] == decisions(ask(denied, body, EVALUATIONS, **way))
    if semantic == "deny_on_first_deny":
        body["evaluations"] = [{"resource": MINI}, {"resource": {}}, {"resource": MINI}]
        assert [True, False] == decisions(ask(denied, body, EVALUATIONS, **way))


@pytest.mark.parametrize(
    "options",
    [
        {"evaluations_semantic": "execute_some"},
        {"evaluations_semantic": ""},
        {"evaluations_semantic": None},
        {"evaluations_semantic": 1},
        {"evaluations_semantic": ["execute_all"]},
        [],
        "execute_all",
    ],
)
@WAYS
def test_a_semantic_that_does_not_exist_is_a_400(
    denied: Running, options: Any, way: dict[str, str]
) -> None:
    """Guessing one could answer with a permit that was not asked for."""
    body = {**ASKED, "evaluations": [{}], "options": options}

    answer = ask(denied, body, EVALUATIONS, **way)

    assert (400, "malformed_request") == (answer.status_code, answer.json()["code"])
    assert answer.json()["field"].startswith("/options")


@WAYS
def test_an_item_replaces_a_default_as_a_whole(denied: Running, way: dict[str, str]) -> None:
    """Entities are not merged: half an entity in an item is no entity."""
    body = {**ASKED, "evaluations": [{}, {"resource": MINI}, {"resource": {"id": "mini-2"}}]}

    answer = ask(denied, body, EVALUATIONS, **way)

    assert [False, True, False] == decisions(answer)
    assert 400 == answer.json()["evaluations"][2]["context"]["error"]["status"]


@WAYS
def test_defaults_are_judged_only_once_they_are_used(denied: Running, way: dict[str, str]) -> None:
    """A default that is no entity does no harm where every item brings its own."""
    body = {"subject": ALICE, "action": USE, "resource": {}, "context": None}

    assert [True] == decisions(
        ask(denied, {**body, "evaluations": [{"resource": MINI}]}, EVALUATIONS, **way)
    )
    assert [False, True] == decisions(
        ask(denied, {**body, "evaluations": [{}, {"resource": MINI}]}, EVALUATIONS, **way)
    )


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({}, "subject"),
        ({"subject": ALICE}, "resource"),
        ({"subject": ALICE, "resource": ATLAS}, "action"),
        ({**ASKED, "subject": {"type": "user"}}, "subject"),
        ({**ASKED, "context": {"subjects": [{}]}}, "context.subjects"),
    ],
)
@WAYS
def test_an_item_that_is_no_evaluation_is_denied_by_itself(
    denied: Running, item: dict[str, Any], said: str, way: dict[str, str]
) -> None:
    """200 for the batch, even of one: the item is denied and says what is wrong with it."""
    for items in ([item], [item, {**ASKED, "resource": MINI}]):
        answer = ask(denied, {"evaluations": items}, EVALUATIONS, **way)

        assert [False, True][: len(items)] == decisions(answer)
        error = answer.json()["evaluations"][0]["context"]["error"]
        assert 400 == error["status"]
        assert said in error["message"]


@WAYS
def test_a_batch_without_items_is_one_evaluation(denied: Running, way: dict[str, str]) -> None:
    """Without ``evaluations``, or with an empty list, the answer is one decision and no array."""
    alone = ask(denied, ASKED).json()
    bodies: list[dict[str, Any]] = [{}, {"evaluations": []}, {"evaluations": [], "options": {}}]
    for more in bodies:
        answer = ask(denied, {**ASKED, **more}, EVALUATIONS, **way)

        assert (200, alone) == (answer.status_code, answer.json())
    half = ask(denied, {"subject": ALICE, "evaluations": []}, EVALUATIONS, **way)
    assert 400 == half.status_code


@pytest.mark.parametrize("items", [{}, "all", 1, True, [1], ["all"], [[]], [None], [ASKED, None]])
@WAYS
def test_items_that_are_no_objects_are_a_400(
    denied: Running, items: Any, way: dict[str, str]
) -> None:
    """What is no list of objects is no batch."""
    answer = ask(denied, {**ASKED, "evaluations": items}, EVALUATIONS, **way)

    assert (400, "/evaluations") == (answer.status_code, answer.json()["field"])


@WAYS
def test_a_batch_has_at_most_a_thousand_items(denied: Running, way: dict[str, str]) -> None:
    """A thousand are answered, one more is a 400."""
    body = {**ASKED, "evaluations": [{}] * 1000}
    assert [False] * 1000 == decisions(ask(denied, body, EVALUATIONS, **way))

    body["evaluations"] = [{}] * 1001
    answer = ask(denied, body, EVALUATIONS, **way)

    assert (400, "/evaluations") == (answer.status_code, answer.json()["field"])


# --- what a denial says ---------------------------------------------------------------------------


@WAYS
def test_a_denial_says_why_to_each_who_asks(founded: Running, way: dict[str, str]) -> None:
    """For the user, for the administrator, for programs: every suspension, its end, its clause."""
    first = suspension_of(founded, "user:alice", reason="Repeated fraud.")
    ground = violation_of(founded, "user:alice", clause="disinformation")
    later = {"effective_at": "2026-12-24T10:00:00Z", "duration": "P2M"}
    founded.clock.move(days=3)
    second = suspension_of(
        founded,
        "user:alice",
        scope={"resources": [{"type": "model"}], "actions": ["use"]},
        grounds=[ground],
        reason="False news.",
        duration="P7D",
    )
    suspension_of(founded, "user:alice", **later)
    now = founded.clock.move(days=1)

    denial = ask(founded, ASKED, **way).json()

    until = "2027-02-24T10:00:00.000000Z"
    context = denial["context"]
    assert {
        "reason_user",
        "reason_admin",
        "reasons",
        "suspensions",
        "until",
        "position",
        "as_of",
    } == set(context)
    assert ["suspended"] == context["reasons"]
    assert until == context["until"]
    assert format_instant(now) == context["as_of"]
    assert founded.service.recorder.position == context["position"]
    appeal = context["suspensions"][0]["appeal"]
    assert [
        {
            "id": first,
            "effective_at": format_instant(T0),
            "ends_at": "2027-01-24T10:00:00.000000Z",
            "clause": "aup@1 fraud",
            "reason": "Repeated fraud.",
            "appeal": appeal,
        },
        {
            "id": second,
            "effective_at": format_instant(T0 + timedelta(days=3)),
            "ends_at": format_instant(T0 + timedelta(days=10)),
            "clause": "aup@1 disinformation",
            "reason": "False news.",
            "appeal": appeal,
        },
    ] == context["suspensions"]
    assert documented_appeal() == appeal
    for text in ("model:atlas-3", "2027-02-24 10:00 UTC", "Repeated fraud.", "False news."):
        assert text in context["reason_user"]["en"]
    for text in ("user:alice", "model:atlas-3", first, second, "aup@1 fraud"):
        assert text in context["reason_admin"]["en"]


def documented_appeal() -> str:
    """What docs/reference/access-answers.md says that a user is told to do."""
    page = (ROOT / "docs/reference/access-answers.md").read_text()
    (found,) = re.findall(r"^\| `appeal` \|.*: \"(.*)\" \|$", page, re.MULTILINE)
    return str(found)


def test_what_a_denied_user_is_told_can_be_done(founded: Running) -> None:
    """An officer who is quoted the id can shorten the suspension, and end it."""
    suspension = suspension_of(founded, "user:alice", duration="P2M")
    denial = founded.decision("user:alice", "atlas-3")["context"]["suspensions"][0]
    route = f"/v1/suspensions/{denial['id']}"
    shorter = {"duration": "P1M", "reason": "Asked for."}
    ended = {"suspension": suspension, "cause": "early", "reason": "Asked for."}

    assert suspension == denial["id"]
    founded.done("POST", f"{route}/revision", role="officer", json=shorter)
    assert not founded.allowed("user:alice", "atlas-3")
    founded.done("POST", "/v1/reinstatements", role="officer", json=ended)
    assert founded.allowed("user:alice", "atlas-3")


@WAYS
def test_a_denial_without_an_end_says_so(founded: Running, way: dict[str, str]) -> None:
    """No end is ``null``, and words, for the suspension and for the whole."""
    suspension_of(founded, "user:alice", basis="legal_order", indefinite=True)

    context = ask(founded, ASKED, **way).json()["context"]

    assert None is context["until"]
    assert (None, None) == (
        context["suspensions"][0]["ends_at"],
        context["suspensions"][0]["clause"],
    )
    assert "until further notice" in context["reason_user"]["en"]


@WAYS
def test_an_answer_binds_the_next_check(founded: Running, way: dict[str, str]) -> None:
    """Suspending and reinstating hold for the check right after their answers."""
    for _ in range(5):
        assert ask(founded, ASKED, **way).json()["decision"]
        suspension = suspension_of(founded, "user:alice")
        assert not ask(founded, ASKED, **way).json()["decision"]
        body = {"suspension": suspension, "cause": "early", "reason": "Complies."}
        founded.done("POST", "/v1/reinstatements", role="officer", json=body)


# --- who and what is looked at --------------------------------------------------------------------


@WAYS
def test_the_subjects_acted_through_are_looked_at_too(denied: Running, way: dict[str, str]) -> None:
    """``context.subjects``: a user that acts through a suspended application is refused."""
    press = {"type": "application", "id": "press"}
    for subjects, decision in (
        ([], True),
        ([press], False),
        ([{"type": "application", "id": "other"}, press], False),
        ([NORTHWIND], False),
        ([{"type": "application", "id": "other"}], True),
        (None, True),
    ):
        body = {**ASKED, "subject": BOB, "context": {"subjects": subjects}}

        assert decision is ask(denied, body, **way).json()["decision"], subjects
    # The application is refused for its organization, and as itself.
    assert not ask(denied, {**ASKED, "subject": press}, **way).json()["decision"]


@WAYS
def test_a_suspension_covers_the_resources_and_actions_that_it_names(
    founded: Running, way: dict[str, str]
) -> None:
    """By id, by type, by group; all actions, or those that are named."""
    suspension_of(
        founded,
        "user:alice",
        scope={"resources": [ATLAS, {"type": "tool"}], "actions": ["use", "fine-tune"]},
    )
    for kind, id_, action, decision in (
        ("model", "atlas-3", "use", False),
        ("model", "atlas-3", "fine-tune", False),
        ("model", "atlas-3", "read", True),
        ("model", "atlas-3 ", "use", True),
        ("model", "Atlas-3", "use", True),
        ("model", "mini-2", "use", True),
        ("tool", "anything-at-all", "use", False),
        ("tools", "anything-at-all", "use", True),
    ):
        body = {"subject": ALICE, "action": {"name": action}, "resource": {"type": kind, "id": id_}}

        assert decision is ask(founded, body, **way).json()["decision"], body


@WAYS
def test_conditions_look_at_what_the_caller_says_before_what_is_recorded(
    founded: Running, way: dict[str, str]
) -> None:
    """A property that is sent wins over the recorded one; one that is not sent is looked up."""
    condition = {"attribute": "resource.properties.status", "in": ["preview"]}
    region = {"attribute": "subject.properties.region", "not_in": ["eu"]}
    bulk = {"attribute": "action.properties.bulk", "exists": True}
    scopes = {"user:alice": [condition], "user:bob": [region], "user:carol": [bulk]}
    for subject, conditions in scopes.items():
        suspension_of(
            founded,
            subject,
            scope={"resources": [{"type": "model"}], "conditions": conditions},
        )
    preview = {"resource": MINI, "properties": {"status": "preview"}}
    founded.done("PUT", "/v1/resources", role="admin", json=preview)
    registered = {"subject": BOB, "properties": {"region": "eu"}}
    founded.done("PUT", "/v1/subjects", role="officer", json=registered)

    def decision(user: str, model: str = "atlas-3", /, **claimed: dict[str, Any]) -> bool:
        body: dict[str, dict[str, Any]] = {
            "subject": {"type": "user", "id": user},
            "action": dict(USE),
            "resource": {"type": "model", "id": model},
        }
        for entity, properties in claimed.items():
            body[entity]["properties"] = properties
        return bool(ask(founded, body, **way).json()["decision"])

    assert [True, False] == [decision("alice"), decision("alice", "mini-2")]
    assert not decision("alice", resource={"status": "preview"})
    assert not decision("alice", "mini-2", resource={"owner": "me"})
    assert decision("alice", "mini-2", resource={"status": "released"})
    assert decision("bob")
    assert not decision("bob", subject={"region": "us"})
    assert decision("bob", subject={"region": ["us", "eu"]})
    assert decision("carol")
    assert not decision("carol", action={"bulk": False})


@WAYS
def test_nobody_is_refused_whom_the_ledger_does_not_know(
    denied: Running, way: dict[str, str]
) -> None:
    """Unknown subjects, types, resources and actions are permitted unless configured otherwise."""
    for body in (
        {**ASKED, "subject": {"type": "user", "id": "nobody"}},
        {**ASKED, "subject": {"type": "robot", "id": "alice"}},
        {**ASKED, "resource": {"type": "model", "id": "unlisted"}},
        {**ASKED, "resource": {"type": "tool", "id": "atlas-3"}},
    ):
        assert ask(denied, body, **way).json()["decision"]


@WAYS
def test_unknown_subjects_are_refused_where_that_is_configured(
    settings: Settings, clock: SetClock, way: dict[str, str]
) -> None:
    """deny_unknown: only subjects with a fact are permitted, in checks and in an auditor's view."""
    with opened(settings.model_copy(update={"unknown_subject": "deny_unknown"}), clock) as run:
        found(run)
        registered = {"subject": BOB}
        run.done("PUT", "/v1/subjects", role="officer", json=registered)

        unknown = ask(run, ASKED, **way).json()
        known = ask(run, {**ASKED, "subject": BOB}, **way).json()

        assert (False, True) == (unknown["decision"], known["decision"])
        context = unknown["context"]
        assert ["unknown_subject"] == context["reasons"]
        assert ([], None) == (context["suspensions"], context["until"])
        assert "user:alice" in context["reason_admin"]["en"]
        assert {"reason_user", "position", "as_of"} < set(context)
        for subject, allowed in (("user:alice", False), ("user:bob", True)):
            view = run.done("GET", "/v1/access", role="auditor", params={"subject": subject})
            assert {allowed} == {resource["allowed"] for resource in view["resources"]}
        violation_of(run, "user:alice")
        assert ask(run, ASKED, **way).json()["decision"]


# --- the auditor's view ---------------------------------------------------------------------------


def test_the_view_of_a_subject_agrees_with_the_checks(denied: Running) -> None:
    """For each catalogued model, /v1/access says what a check answers, and by which suspensions."""
    for key in ("user:alice", "user:bob", "application:press", "organization:northwind"):
        view = denied.done("GET", "/v1/access", role="service", params={"subject": key})
        kind, _, id_ = key.partition(":")
        in_force = [suspension["id"] for suspension in view["suspensions"]]
        for resource in view["resources"]:
            asked = {**ASKED, "subject": {"type": kind, "id": id_}}
            check = ask(denied, {**asked, "resource": resource["resource"]}).json()
            assert check["decision"] is resource["allowed"] is resource["actions"]["use"]
            by = [s["id"] for s in check["context"].get("suspensions", ())]
            assert by == resource["suspensions"]
            assert set(by) <= set(in_force)
            assert check["context"].get("until") == resource["until"]
        assert 5 == len(view["resources"])


def test_an_action_that_alone_is_refused_is_shown(founded: Running) -> None:
    """A resource is allowed when every action is; each action is shown by itself."""
    listing = {"resource": {"type": "model", "id": "zephyr-1"}, "actions": ["use", "fine-tune"]}
    founded.done("PUT", "/v1/resources", role="admin", json=listing)
    tuning = {"resources": [{"type": "model"}], "actions": ["fine-tune"]}
    suspension = suspension_of(founded, "user:alice", scope=tuning, duration="P1D")

    view = founded.done("GET", "/v1/access", role="auditor", params={"subject": "user:alice"})

    zephyr, *others = view["resources"][::-1]
    assert {
        "resource": listing["resource"],
        "allowed": False,
        "actions": {"use": True, "fine-tune": False},
        "suspensions": [suspension],
        "until": format_instant(T0 + timedelta(days=1)),
    } == zephyr
    assert all(resource["allowed"] for resource in others)
