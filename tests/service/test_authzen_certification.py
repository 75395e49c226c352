"""The checks of the official AuthZEN 1.0 certification scenario, under its own ids.

openid/authzen, ``certification/authorization-api-1_0-scenario.md``, as merged in June 2026. Its
levels are Basic, Batch, Search and Discovery, the first three with Core and Properties; all are
claimed. Its policy is set up as a user of this ledger would: resources in the catalogue, registered
subjects, and suspensions with conditions, all through the HTTP API. Nothing in the service knows of
the scenario.

Two of its readings need a word. ``c-3-2-7``: an item's entity replaces the default as a whole, as
the merged text says; a draft of the text, and a module of one harness, still fill in a missing type
from the default. ``c-6``: the metadata names https URLs once ``LEDGER_PUBLIC_URL`` is set; TLS
itself ends at a proxy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest

from ledger.service.settings import Settings
from tests.service.conftest import Running, SetClock, opened

Json = dict[str, Any]

PUBLIC_URL: Final = "https://pdp.ledger.test"
DEFAULT_PATHS: Final = {
    "access_evaluation_endpoint": "/access/v1/evaluation",
    "access_evaluations_endpoint": "/access/v1/evaluations",
    "search_subject_endpoint": "/access/v1/search/subject",
    "search_resource_endpoint": "/access/v1/search/resource",
    "search_action_endpoint": "/access/v1/search/action",
}
ONE, MANY, SUBJECTS, RESOURCES, ACTIONS = DEFAULT_PATHS.values()


def user(id_: str, **properties: object) -> Json:
    """Return a user, with properties when there are any."""
    return entity("user", id_, properties)


def record(id_: str, **properties: object) -> Json:
    """Return a record, with properties when there are any."""
    return entity("record", id_, properties)


def entity(kind: str, id_: str, properties: Mapping[str, object]) -> Json:
    """Return an entity; without properties it has no such member."""
    found: Json = {"type": kind, "id": id_}
    return found | {"properties": properties} if properties else found


def action(name: str, **properties: object) -> Json:
    """Return an action, with properties when there are any."""
    return {"name": name, "properties": properties} if properties else {"name": name}


def asked(subject: Json, name: str | Json, resource: Json, **more: object) -> Json:
    """Return an evaluation."""
    named = action(name) if isinstance(name, str) else name
    return {"subject": subject, "action": named, "resource": resource, **more}


ALICE, BOB = user("alice"), user("bob")
ADMIN = user("bob", role="admin")
FIRST, SECOND = record("record-1"), record("record-2")
ACTIVE, ARCHIVED = record("record-1", status="active"), record("record-2", status="archived")
CONTEXT: Final = {"time": "2025-06-27T18:03-07:00", "ip": "192.168.1.1"}
SUBJECT_SEARCH: Final = asked({"type": "user"}, "read", FIRST)


@pytest.fixture(scope="module")
def pdp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The scenario's fixture (c-1), made through the HTTP API."""
    settings = Settings(
        database_url=f"sqlite:///{tmp_path_factory.mktemp('pdp') / 'ledger.db'}",
        origin="test.ledger",
        public_url=PUBLIC_URL,
    )
    with opened(settings, SetClock()) as run:
        for resource, status in ((FIRST, "active"), (SECOND, "archived")):
            listing = {
                "resource": resource,
                "properties": {"status": status},
                "actions": ["read", "write", "delete"],
            }
            run.done("PUT", "/v1/resources", role="admin", json=listing)
        for subject, properties in ((ALICE, {}), (BOB, {"role": "admin"})):
            registered = {"subject": subject, "properties": properties}
            run.done("PUT", "/v1/subjects", role="officer", json=registered)
        no_archive = [
            {"attribute": "resource.properties.status", "in": ["archived"]},
            {"attribute": "subject.properties.role", "not_in": ["admin"]},
        ]
        only_archive = [{"attribute": "resource.properties.status", "not_in": ["archived"]}]
        hard = [{"attribute": "action.properties.soft", "in": [False]}]
        for subject, name, conditions in (
            (ALICE, "write", no_archive),  # rules 5 and 6
            (BOB, "write", only_archive),  # rules 4 and 6
            (ALICE, "delete", hard),  # rules 7 and 8
        ):
            suspension = {
                "subject": subject,
                "scope": {
                    "resources": [{"type": "record"}],
                    "actions": [name],
                    "conditions": conditions,
                },
                "indefinite": True,
                "basis": "legal_order",
                "reason": "The scenario wants it.",
            }
            run.done("POST", "/v1/suspensions", role="officer", json=suspension)
        yield run


def ask(pdp: Running, path: str, body: object = None, **more: Any) -> httpx.Response:
    """Send what a harness would send."""
    return pdp("POST", path, role="service", **({"json": body} | more))


def answered(pdp: Running, path: str, body: object, **more: Any) -> Json:
    """Send what must be answered; check what is true of every answer (c-2-3, c-5)."""
    response = ask(pdp, path, body, **more)
    assert 200 == response.status_code, response.text
    assert "application/json" == response.headers["content-type"]
    found: Json = response.json()
    return found


def check_decision(found: Json) -> bool:
    """Check the form of a decision (c-2-3-1, c-2-3-2); return it."""
    assert isinstance(found["decision"], bool)
    assert isinstance(found.get("context", {}), dict)
    return found["decision"]


# --- Basic, Core and Properties -------------------------------------------------------------------

EXTRA: Final = asked(
    user("alice", department="Sales", role="manager"),
    action("read", method="GET"),
    record("record-1", status="active", owner="bob"),
)
BASIC: Final[dict[str, tuple[Json, bool]]] = {
    "c-2-2-1": (asked(ALICE, "read", FIRST), True),
    "c-2-2-2": (asked(BOB, "write", FIRST), False),
    "c-2-2-3": (asked(ALICE, "read", FIRST, context=CONTEXT), True),
    "c-2-2-4": (asked(ALICE, "write", ARCHIVED), False),
    "c-2-2-5": (asked(ADMIN, "write", ARCHIVED), True),
    "c-2-2-6": (asked(ALICE, action("delete", soft=True), FIRST), True),
    "c-2-2-7": (asked(ALICE, action("delete", soft=False), FIRST), False),
    "c-2-2-8": (EXTRA, True),
    "c-2-2-9": (asked(ALICE, "read", FIRST, foo="bar", futureField={"nested": True}), True),
    "rule 2": (asked(ALICE, "write", FIRST), True),
    "rule 3": (asked(BOB, "read", FIRST), True),
}


@pytest.mark.parametrize("id_", BASIC)
def test_basic(pdp: Running, id_: str) -> None:
    """A request is accepted and decided as the fixture's rules say, with and without a context."""
    body, decision = BASIC[id_]

    assert decision is check_decision(answered(pdp, ONE, body))
    assert decision is check_decision(answered(pdp, ONE, {"context": CONTEXT, **body}))


def without(body: Json, *path: str) -> Json:
    """Leave a member out of a body, or out of one of its entities."""
    name, *rest = path
    if rest:
        return {**body, name: without(body[name], *rest)}
    return {key: value for key, value in body.items() if key != name}


WHOLE: Final = asked(ALICE, "read", FIRST)
REFUSED: Final[dict[str, Callable[[], dict[str, Any]]]] = {
    "c-2-4-1 subject": lambda: {"json": without(WHOLE, "subject")},
    "c-2-4-1 action": lambda: {"json": without(WHOLE, "action")},
    "c-2-4-1 resource": lambda: {"json": without(WHOLE, "resource")},
    "c-2-4-2 subject.type": lambda: {"json": without(WHOLE, "subject", "type")},
    "c-2-4-2 subject.id": lambda: {"json": without(WHOLE, "subject", "id")},
    "c-2-4-2 action.name": lambda: {"json": without(WHOLE, "action", "name")},
    "c-2-4-2 resource.type": lambda: {"json": without(WHOLE, "resource", "type")},
    "c-2-4-2 resource.id": lambda: {"json": without(WHOLE, "resource", "id")},
    "c-2-4-3 text": lambda: {"content": b"{}", "headers": {"Content-Type": "text/plain"}},
    "c-2-4-3 xml": lambda: {"content": b"<a/>", "headers": {"Content-Type": "application/xml"}},
    "c-2-4-3 none": lambda: {"content": b"{}"},
    "c-2-4-4": lambda: {
        "content": b'{"subject": ',
        "headers": {"Content-Type": "application/json"},
    },
    "c-2-4-5": lambda: {"content": b"", "headers": {"Content-Type": "application/json"}},
    "c-2-4-6 subject": lambda: {"json": {**WHOLE, "subject": "alice"}},
    "c-2-4-6 action.name": lambda: {"json": {**WHOLE, "action": {"name": 123}}},
}


@pytest.mark.parametrize("path", [ONE, MANY])
@pytest.mark.parametrize("id_", REFUSED)
def test_what_is_no_request_is_a_400(pdp: Running, path: str, id_: str) -> None:
    """Missing members, wrong types, another media type, no JSON, no body."""
    assert 400 == pdp("POST", path, role="service", **REFUSED[id_]()).status_code


@pytest.mark.parametrize("path", [ONE, MANY, SUBJECTS, RESOURCES, ACTIONS])
def test_c_2_5_request_ids(pdp: Running, path: str) -> None:
    """An X-Request-ID comes back as it was sent, with refusals too; its absence is no fault."""
    for body, status in ((WHOLE, 200), ({}, 400)):
        for headers in ({"X-Request-ID": "req-4711 /?"}, {}):
            response = ask(pdp, path, body, headers=headers)

            assert status == response.status_code
            if headers:
                assert headers["X-Request-ID"] == response.headers["x-request-id"]


def test_c_2_6_the_same_request_gets_the_same_decision(pdp: Running) -> None:
    """Asking changes nothing."""
    for body, decision in BASIC.values():
        found = {check_decision(answered(pdp, ONE, body)) for _ in range(5)}

        assert {decision} == found


# --- Batch, Core and Properties -------------------------------------------------------------------

OTHER_CONTEXT: Final = {"time": "2025-06-27T19:00-07:00", "source": "batch-override"}
BATCH: Final[dict[str, tuple[Json, list[bool | None]]]] = {
    "c-3-2-1": (
        {
            "subject": ALICE,
            "action": action("read"),
            "evaluations": [{"resource": FIRST}, {"resource": SECOND}],
        },
        [None, None],
    ),
    "c-3-2-2": (
        {
            "subject": BOB,
            "resource": FIRST,
            "evaluations": [{"action": action("read")}, {"action": action("write")}],
        },
        [True, False],
    ),
    "c-3-2-3": (
        {
            "subject": ALICE,
            "action": action("write"),
            "evaluations": [{"resource": ACTIVE}, {"resource": ARCHIVED}],
        },
        [True, False],
    ),
    "c-3-2-4": (
        {
            "action": action("write"),
            "resource": ARCHIVED,
            "evaluations": [{"subject": ALICE}, {"subject": ADMIN}],
        },
        [False, True],
    ),
    "c-3-2-5": (
        {"evaluations": [asked(ALICE, "read", FIRST), asked(BOB, "write", FIRST)]},
        [True, False],
    ),
    "c-3-2-6": (
        {
            "subject": ALICE,
            "action": action("read"),
            "context": CONTEXT,
            "evaluations": [
                {"resource": FIRST},
                {"resource": SECOND, "context": OTHER_CONTEXT},
            ],
        },
        [None, None],
    ),
    # The default of every item that lacks it; an item's own replaces it as a whole.
    "c-3-2-7": (
        {
            "subject": ALICE,
            "action": action("write"),
            "resource": ACTIVE,
            "evaluations": [{}, {"resource": ARCHIVED}],
        },
        [True, False],
    ),
    "c-3-4-1": (
        {
            "subject": ALICE,
            "action": action("read"),
            "evaluations": [{"resource": FIRST}, {}],
        },
        [True, False],
    ),
}


@pytest.mark.parametrize("id_", BATCH)
def test_batch(pdp: Running, id_: str) -> None:
    """As many decisions as items, in order (c-3-3); an item that fails is denied by itself."""
    body, decisions = BATCH[id_]

    found = answered(pdp, MANY, body)

    assert {"evaluations"} == set(found)
    assert len(body["evaluations"]) == len(found["evaluations"])
    for expected, one in zip(decisions, found["evaluations"], strict=True):
        assert expected in (None, check_decision(one))


@pytest.mark.parametrize("more", [{}, {"evaluations": []}], ids=["c-3-4-2", "c-3-4-3"])
def test_a_batch_without_items_is_a_single_request(pdp: Running, more: Json) -> None:
    """Absent or empty ``evaluations``: one decision and no array."""
    found = answered(pdp, MANY, WHOLE | more)

    assert check_decision(found)
    assert "evaluations" not in found


# --- Search, Core and Properties ------------------------------------------------------------------

SEARCH: Final[dict[str, tuple[str, Json, list[Json]]]] = {
    "c-4-2-1": (SUBJECTS, SUBJECT_SEARCH, [ALICE, BOB]),
    "c-4-2-2": (SUBJECTS, {**SUBJECT_SEARCH, "context": CONTEXT}, [ALICE, BOB]),
    "c-4-2-4": (SUBJECTS, asked({"type": "user"}, "write", ARCHIVED), [BOB]),
    "c-4-3-1": (RESOURCES, asked(ALICE, "read", {"type": "record"}), [FIRST]),
    "c-4-3-3": (RESOURCES, asked(ADMIN, "write", {"type": "record"}), [SECOND]),
    "c-4-4-1": (
        ACTIONS,
        {"subject": ALICE, "resource": FIRST},
        [action("read"), action("write")],
    ),
    "c-4-4-2": (
        ACTIONS,
        {"subject": ALICE, "resource": FIRST, "context": CONTEXT},
        [action("read"), action("write")],
    ),
    "c-4-4-3": (ACTIONS, {"subject": ADMIN, "resource": ARCHIVED}, [action("write")]),
    # The id of what is searched for is not sent (c-4-2-3, c-4-3-2); if it is, it does not count.
    "c-4-2-3": (SUBJECTS, {**SUBJECT_SEARCH, "subject": user("nobody")}, [ALICE, BOB]),
    "c-4-3-2": (RESOURCES, asked(ALICE, "read", record("none")), [FIRST]),
}


@pytest.mark.parametrize("id_", SEARCH)
def test_search(pdp: Running, id_: str) -> None:
    """What the fixture promises is found, in bare form, and what is found would be permitted."""
    path, body, expected = SEARCH[id_]
    members = {"name"} if path == ACTIONS else {"type", "id"}
    searched = path.rpartition("/")[2]

    results = answered(pdp, path, body)["results"]

    assert results
    for found in results:
        assert members == set(found)
        assert all(isinstance(value, str) for value in found.values())
        if path != ACTIONS:
            assert body[searched]["type"] == found["type"]
        # c-4-5 and c-2 together: each result evaluates to true afterwards.
        properties = (
            {} if path == ACTIONS else {"properties": body[searched].get("properties") or {}}
        )
        assert answered(pdp, ONE, {**body, searched: found | properties})["decision"]
    assert all(one in results for one in expected)


def test_c_4_5_pages(pdp: Running) -> None:
    """A limit and a token are accepted; the last page has an empty token."""
    first = answered(pdp, SUBJECTS, {**SUBJECT_SEARCH, "page": {"limit": 1}})

    assert 1 == len(first["results"])
    assert "page" == next(iter(first))
    pages = [first]
    while pages[-1]["page"]["next_token"] != "":
        page = {"token": pages[-1]["page"]["next_token"], "unknown": 1}
        pages.append(answered(pdp, SUBJECTS, {**SUBJECT_SEARCH, "page": page}))

    assert 1 < len(pages)
    for found in pages:
        assert isinstance(found["page"]["next_token"], str)
        assert found["page"]["count"] == len(found["results"])
    assert [ALICE, BOB] == [result for found in pages for result in found["results"]]


@pytest.mark.parametrize("page", [{}, {"limit": 1_000}, {"token": ""}, {"properties": {"x": 1}}])
def test_c_4_5_a_page_that_holds_everything_says_so(pdp: Running, page: Json) -> None:
    """Whatever of ``page`` is sent; no page, or an empty token, in the answer."""
    found = answered(pdp, SUBJECTS, {**SUBJECT_SEARCH, "page": page})

    assert [ALICE, BOB] == found["results"]
    assert "" == found.get("page", {}).get("next_token", "")


NOTHING: Final[dict[str, tuple[str, Json]]] = {
    "c-4-6-1 subject": (ACTIONS, {"subject": user("nonexistent-user"), "resource": FIRST}),
    "c-4-6-1 resource": (SUBJECTS, asked({"type": "user"}, "read", record("none"))),
    "c-4-6-1 action": (SUBJECTS, asked({"type": "user"}, "fly", FIRST)),
    "c-4-6-2 subject": (SUBJECTS, asked({"type": "spaceship"}, "read", FIRST)),
    "c-4-6-2 resource": (RESOURCES, asked(ALICE, "read", {"type": "spaceship"})),
}


@pytest.mark.parametrize("id_", NOTHING)
def test_a_search_that_finds_nothing_is_no_error(pdp: Running, id_: str) -> None:
    """Unknown ids and unknown types alike: an empty list."""
    path, body = NOTHING[id_]

    assert {"results": []} == answered(pdp, path, body)


UNFIT: Final[dict[str, tuple[str, Json]]] = {
    "c-4-7-1 subject search": (SUBJECTS, without(SUBJECT_SEARCH, "action")),
    "c-4-7-1 resource search": (
        RESOURCES,
        {"action": action("read"), "resource": {"type": "record"}},
    ),
    "c-4-7-1 action search": (ACTIONS, {"subject": ALICE}),
    "c-4-7-2 subject search": (SUBJECTS, asked({"type": "user"}, "read", {"type": "record"})),
    "c-4-7-2 resource search": (RESOURCES, asked({"type": "user"}, "read", {"type": "record"})),
}


@pytest.mark.parametrize("id_", UNFIT)
def test_a_search_that_lacks_something_is_a_400(pdp: Running, id_: str) -> None:
    """Missing entities, and missing members of those that are not searched for."""
    path, body = UNFIT[id_]

    assert 400 == ask(pdp, path, body).status_code


@pytest.mark.parametrize("path", [SUBJECTS, RESOURCES, ACTIONS])
@pytest.mark.parametrize("id_", ["c-2-4-3 text", "c-2-4-3 none", "c-2-4-4", "c-2-4-5"])
def test_a_search_that_is_no_json_is_a_400(pdp: Running, path: str, id_: str) -> None:
    """Another media type, no JSON, no body."""
    assert 400 == pdp("POST", path, role="service", **REFUSED[id_]()).status_code


@pytest.mark.parametrize("path", [SUBJECTS, RESOURCES, ACTIONS])
def test_a_search_ignores_members_that_it_does_not_know(pdp: Running, path: str) -> None:
    """c-5: in the request and in its entities."""
    subject, resource = ALICE | {"x": 1}, FIRST | {"y": [None]}
    body = asked(subject, "read", resource, foo="bar", futureField={"nested": True})

    assert answered(pdp, path, body)["results"]


# --- Discovery ------------------------------------------------------------------------------------


def test_c_6_the_metadata_names_every_endpoint(pdp: Running) -> None:
    """Anybody may read it; it names this decision point and https URLs, and nothing empty."""
    response = pdp("GET", "/.well-known/authzen-configuration")

    assert 200 == response.status_code
    assert "application/json" == response.headers["content-type"]
    found: Json = response.json()
    assert PUBLIC_URL == found["policy_decision_point"]
    assert {"policy_decision_point", *DEFAULT_PATHS} == set(found)
    for name, path in DEFAULT_PATHS.items():
        parts = urlsplit(found[name])
        assert ("https", urlsplit(PUBLIC_URL).netloc) == (parts.scheme, parts.netloc)
        assert (path, "", "") == (parts.path, parts.query, parts.fragment)
        # c-6-6: the endpoints are where the standard says, for those who do not read this.
        assert 401 == pdp("POST", path, json={}).status_code
