"""Lists: pages that join without a gap, the order, every filter, and waiting for a position."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, Final

import pytest

from ledger.application import SYSTEM_AUTHOR
from ledger.domain.values import Subject, format_instant
from ledger.service.wiring import build
from tests.service.conftest import (
    ENDLESS,
    POLICY,
    T0,
    Running,
    founded_on,
    suspension_of,
    violation_of,
)

Item = dict[str, Any]
DAY: Final = timedelta(days=1)
BY_POSITION: Final = (
    "/v1/violations",
    "/v1/warnings",
    "/v1/suspensions",
    "/v1/reinstatements",
    "/v1/erasures",
    "/v1/holds",
    "/v1/events",
)
BY_KEY: Final = ("/v1/policies", "/v1/resources", "/v1/groups", "/v1/operators")


def subject(key: str) -> dict[str, str]:
    """A subject as JSON has it."""
    kind, _, id_ = key.partition(":")
    return {"type": kind, "id": id_}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def told(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """The same ledger on each store."""
    with founded_on(request.param, request, tmp_path_factory.mktemp("told")) as run:
        yield tell(run)


def tell(run: Running) -> Running:
    """A ledger of four days: enough of everything that each filter keeps some and drops some."""
    reason = {"reason": "Because of what happened."}

    def do(by: str, method: str, path: str, /, **body: Any) -> str:
        return str(run.done(method, path, role=by, json=body)["id"])

    do("admin", "POST", "/v1/operators", id="night-officer", role="officer")
    issued = run.done("POST", "/v1/operators/night-officer/keys", role="admin", json={})
    run.keys["night-officer"] = issued["key"]
    do("admin", "PUT", "/v1/policies/privacy", **POLICY)
    do("admin", "PUT", "/v1/groups/small", resources=[subject("model:mini-2")])
    atlas, mini = subject("model:atlas-3"), subject("model:mini-2")
    v1 = violation_of(run, "user:alice", resources=[atlas])
    v2 = violation_of(run, "user:bob", clause="disinformation", detected_by="automated")
    v3 = violation_of(run, "application:press", detected_by="external", resources=[mini, atlas])

    run.clock.now = T0 + DAY
    do("officer", "POST", "/v1/warnings", subject=subject("user:alice"), grounds=[v1], **reason)
    do("night-officer", "POST", "/v1/warnings", subject=subject("user:bob"), grounds=[v2], **reason)
    do("officer", "POST", "/v1/warnings", subject=subject("user:bob"), **reason)
    s1 = suspension_of(run, "user:alice", grounds=[v1])
    one_model = {"resources": [atlas]}
    suspension_of(run, "user:bob", scope=one_model, grounds=[v2], duration="P1D")
    every_model = {"resources": [{"type": "model"}]}
    suspension_of(
        run,
        "application:press",
        scope=every_model,
        grounds=[v3],
        effective_at=(T0 + 30 * DAY).isoformat(),
    )
    suspension_of(run, "organization:northwind", basis="legal_order", indefinite=True)
    reviewed = {"resources": [{"group": "small"}]}
    suspension_of(
        run,
        "user:bob",
        scope=reviewed,
        grounds=[v2],
        duration="PT12H",
        reinstatement="on_review",
    )
    taken_back = suspension_of(
        run, "user:carol", basis="legal_order", effective_at=(T0 + 9 * DAY).isoformat()
    )
    do("officer", "POST", f"/v1/suspensions/{taken_back}/cancellation", **reason)

    review: dict[str, Any] = {"basis": "legal_order", "reinstatement": "on_review"}
    suspension_of(run, "user:dora", duration="PT12H", **review)
    brief = suspension_of(run, "user:dora", basis="legal_order")
    do("officer", "POST", "/v1/reinstatements", suspension=brief, cause="early", **reason)

    run.clock.now = T0 + 2 * DAY
    run.service.ticker.tick()
    do("admin", "PUT", "/v1/policies/aup", **{**POLICY, "title": "Second edition"})
    violation_of(run, "user:alice", policy="aup@2")
    do("approver", "POST", f"/v1/violations/{v2}/overturn", **reason)
    do("approver", "POST", "/v1/reinstatements", suspension=s1, cause="early", **reason)
    kept = suspension_of(run, "user:alice", basis="legal_order", grounds=[v1], duration="P3D")
    headers = {"Ledger-On-Behalf-Of": "employee:jane"}
    body = {"suspension": kept, "cause": "error", **reason}
    run.done("POST", "/v1/reinstatements", role="night-officer", json=body, headers=headers)
    for key in ("user:alice", "user:bob", "user:dora"):
        asked = do("admin", "POST", "/v1/erasures", subject=subject(key), **reason)
        hold = do("admin", "POST", "/v1/holds", subject=subject(key), **reason)
        if key != "user:dora":
            run.done("DELETE", f"/v1/holds/{hold}", role="admin")
        if key == "user:alice":
            run.done("POST", f"/v1/erasures/{asked}/confirmation", role="approver")
    run.clock.now = T0 + 3 * DAY
    run.service.ticker.stop()
    return run


def role_of(path: str) -> str:
    """Return a role that may read a list."""
    return "admin" if path == "/v1/operators" else "auditor"


def items(run: Running, path: str, **query: Any) -> list[Item]:
    """Return one big page."""
    answer = run.done("GET", path, role=role_of(path), params={"limit": 1000, **query})
    found: list[Item] = answer["items"]
    assert None is answer["next"]
    return found


def walk(run: Running, path: str, **query: Any) -> list[list[Item]]:
    """Return every page, following the ``Link`` of each, which must say what ``next`` does."""
    pages = []
    response = run("GET", path, role=role_of(path), params=query)
    while True:
        answer = response.json()
        pages.append(answer["items"])
        assert str(answer["position"]) == response.headers["ledger-position"]
        if answer["next"] is None:
            assert "link" not in response.headers
            return pages
        target = response.links["next"]["url"]
        by_hand = run("GET", path, role=role_of(path), params={**query, "cursor": answer["next"]})
        response = run("GET", target, role=role_of(path))
        assert by_hand.content == response.content


# --- pages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*BY_POSITION, *BY_KEY])
def test_pages_of_any_size_join_to_the_whole(told: Running, path: str) -> None:
    """Following the links to the end gives each item once, in order, whatever the limit."""
    whole = items(told, path)
    sizes = sorted({1, 2, 3, len(whole) - 1, len(whole), len(whole) + 1} - {0})
    for limit in sizes:
        pages = walk(told, path, limit=limit)

        assert whole == [item for page in pages for item in page], limit
        assert [limit] * (len(pages) - 1) == [len(page) for page in pages[:-1]]


@pytest.mark.parametrize("path", BY_POSITION)
def test_the_newest_come_first_unless_the_oldest_are_asked_for(told: Running, path: str) -> None:
    """The order is that of positions, in both directions, and pages go on in it."""
    newest = items(told, path)
    positions = [item["position"] for item in newest]

    assert len(newest) > 2
    assert sorted(positions, reverse=True) == positions
    assert newest == items(told, path, order="newest")
    assert newest[::-1] == items(told, path, order="oldest")
    pages = walk(told, path, order="oldest", limit=2)
    assert newest[::-1] == [item for page in pages for item in page]


def test_lists_without_positions_are_in_the_order_of_their_keys(told: Running) -> None:
    """Policies, resources, groups and operators come in the order of their ids."""
    ids = [
        [policy["id"] for policy in items(told, "/v1/policies")],
        [item["resource"]["id"] for item in items(told, "/v1/resources")],
        [group["id"] for group in items(told, "/v1/groups")],
        [operator["id"] for operator in items(told, "/v1/operators")],
    ]

    assert [sorted(each) for each in ids] == ids
    assert ["aup", "privacy"] == ids[0]


def test_pages_keep_their_filters(told: Running) -> None:
    """The link repeats what was asked, so the next page is one of the same list."""
    for query in (
        {"subject": "user:alice"},
        {"type": ["violation.recorded", "subject.suspended"]},
        {"from": format_instant(T0 + DAY), "q": "suspended"},
    ):
        whole = items(told, "/v1/events", **query)
        pages = walk(told, "/v1/events", limit=2, **query)

        assert len(whole) > 2
        assert whole == [item for page in pages for item in page]


def test_a_page_that_was_begun_is_not_shifted_by_what_is_recorded_meanwhile(
    founded: Running,
) -> None:
    """Pages are cut at positions: nothing comes twice and nothing is left out."""
    for number in range(5):
        violation_of(founded, f"user:u{number}")
    whole = items(founded, "/v1/violations")
    first = founded.done("GET", "/v1/violations", role="auditor", params={"limit": 2})
    violation_of(founded, "user:late")

    rest = items(founded, "/v1/violations", cursor=first["next"])

    assert whole == first["items"] + rest


def test_a_page_has_a_hundred_items_when_nothing_is_said(founded: Running) -> None:
    """And at most a thousand when as many are asked for."""
    with founded.service.ledger.together():
        for number in range(1001):
            founded.service.ledger.register(
                Subject(type="user", id=str(number)), properties={}, by=SYSTEM_AUTHOR
            )

    default = founded.done("GET", "/v1/events", role="auditor")
    most = founded.done("GET", "/v1/events", role="auditor", params={"limit": 1000})

    assert [100, 1000] == [len(default["items"]), len(most["items"])]
    assert most["next"] is not None
    founded.checked = False  # a thousand subjects on every instant would take a minute


# --- filters --------------------------------------------------------------------------------------


def about(*keys: str) -> Callable[[Item], bool]:
    """Items about one of these subjects."""
    return lambda item: item["subject"] in [subject(key) for key in keys]


def is_(name: str, *values: object) -> Callable[[Item], bool]:
    """Items whose member has one of these values."""
    return lambda item: item[name] in values


def of_clause(name: str, value: str) -> Callable[[Item], bool]:
    """Items that rest on a clause whose policy or category begins so."""
    return lambda item: any(clause[name].startswith(value) for clause in item["clauses"])


def recorded(item: Item) -> str:
    """When an item was recorded."""
    return str(item["recorded_at"])


def selects(*selectors: object) -> Callable[[Item], bool]:
    """Suspensions whose scope has one of these selectors."""
    return lambda item: any(s in selectors for s in item["scope"]["resources"])


SECOND_DAY: Final = format_instant(T0 + DAY)
THIRD_DAY: Final = format_instant(T0 + 2 * DAY)
ATLAS: Final = subject("model:atlas-3")
FILTERS: Final[list[tuple[str, dict[str, Any], Callable[[Item], bool]]]] = [
    ("/v1/violations", {"subject": "user:alice"}, about("user:alice")),
    ("/v1/violations", {"state": "stands"}, is_("state", "stands")),
    ("/v1/violations", {"state": "overturned"}, is_("state", "overturned")),
    ("/v1/violations", {"policy": "aup@1"}, is_("policy", "aup@1")),
    ("/v1/violations", {"policy": "aup@2"}, is_("policy", "aup@2")),
    ("/v1/violations", {"clause": "fraud"}, is_("clause", "fraud")),
    ("/v1/violations", {"category": "disinformation"}, is_("category", "disinformation")),
    ("/v1/violations", {"model": "atlas-3"}, lambda v: ATLAS in v["resources"]),
    ("/v1/violations", {"model": "model:mini-2"}, about("application:press")),
    ("/v1/violations", {"detected_by": "external"}, is_("detected_by", "external")),
    ("/v1/violations", {"from": THIRD_DAY}, lambda v: recorded(v) >= THIRD_DAY),
    ("/v1/violations", {"to": THIRD_DAY}, lambda v: recorded(v) < THIRD_DAY),
    ("/v1/warnings", {"subject": "user:bob"}, about("user:bob")),
    ("/v1/warnings", {"policy": "aup"}, of_clause("policy", "aup@")),
    ("/v1/warnings", {"policy": "aup@1"}, of_clause("policy", "aup@1")),
    ("/v1/warnings", {"category": "fraud"}, of_clause("category", "fraud")),
    ("/v1/warnings", {"operator": "night-officer"}, is_("operator", "night-officer")),
    ("/v1/suspensions", {"subject": "user:bob"}, about("user:bob")),
    ("/v1/suspensions", {"state": "in_force"}, is_("state", "in_force")),
    ("/v1/suspensions", {"state": "scheduled"}, is_("state", "scheduled")),
    ("/v1/suspensions", {"state": "ended"}, is_("state", "ended")),
    ("/v1/suspensions", {"state": "cancelled"}, is_("state", "cancelled")),
    ("/v1/suspensions", {"review": False}, is_("review", False)),
    (
        "/v1/suspensions",
        {"model": "atlas-3"},
        selects({"type": "model"}, ATLAS, {"group": "frontier"}),
    ),
    (
        "/v1/suspensions",
        {"model": "mini-2"},
        selects({"type": "model"}, {"group": "small"}),
    ),
    ("/v1/suspensions", {"model": "tool:web"}, lambda _: False),
    ("/v1/suspensions", {"policy": "aup"}, of_clause("policy", "aup@")),
    ("/v1/suspensions", {"category": "fraud"}, of_clause("category", "fraud")),
    ("/v1/suspensions", {"from": THIRD_DAY}, lambda s: recorded(s) >= THIRD_DAY),
    ("/v1/suspensions", {"to": THIRD_DAY}, lambda s: recorded(s) < THIRD_DAY),
    ("/v1/reinstatements", {"subject": "user:alice"}, about("user:alice")),
    ("/v1/reinstatements", {"cause": "term_served"}, is_("cause", "term_served")),
    ("/v1/reinstatements", {"cause": "error"}, is_("cause", "error")),
    ("/v1/reinstatements", {"operator": "system"}, is_("operator", "system")),
    ("/v1/reinstatements", {"from": THIRD_DAY}, lambda r: recorded(r) >= THIRD_DAY),
    ("/v1/events", {"subject": "user:alice"}, is_("stream", "subject/user:alice")),
    ("/v1/events", {"type": "subject.suspended"}, is_("type", "subject.suspended")),
    (
        "/v1/events",
        {"type": ["subject.suspended", "warning.issued"]},
        is_("type", "subject.suspended", "warning.issued"),
    ),
    ("/v1/events", {"operator": "the-officer"}, is_("operator", "the-officer")),
    ("/v1/events", {"on_behalf_of": "employee:jane"}, is_("on_behalf_of", "employee:jane")),
    ("/v1/events", {"from": SECOND_DAY}, lambda e: recorded(e) >= SECOND_DAY),
    ("/v1/events", {"to": SECOND_DAY}, lambda e: recorded(e) < SECOND_DAY),
    ("/v1/events", {"q": "warned"}, lambda e: "warned" in e["sentence"]),
    ("/v1/events", {"q": "LEGAL order"}, lambda e: "legal_order" in e["sentence"]),
    ("/v1/events", {"q": "publ*"}, is_("type", "policy.published")),
    (
        "/v1/events",
        {"q": "warned", "operator": "night-officer"},
        lambda e: (e["type"], e["operator"]) == ("warning.issued", "night-officer"),
    ),
]


@pytest.mark.parametrize(("path", "query", "kept"), FILTERS)
def test_a_filter_keeps_just_what_it_says(
    told: Running, path: str, query: dict[str, Any], kept: Callable[[Item], bool]
) -> None:
    """Of the whole list, a filter leaves those and only those that match, in the same order."""
    whole = items(told, path)

    found = items(told, path, **query)

    assert [item for item in whole if kept(item)] == found
    assert found != whole
    assert found or query == {"model": "tool:web"}


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/v1/violations", ["policy", "clause", "category", "operator"]),
        ("/v1/warnings", ["policy", "category", "operator"]),
        ("/v1/suspensions", ["policy", "category", "operator"]),
        ("/v1/reinstatements", ["suspension", "operator"]),
        ("/v1/events", ["policy", "category", "operator", "on_behalf_of", "q"]),
    ],
)
@pytest.mark.parametrize("value", ["a\0b", "\0", "%", "_", '*"', "' OR 1=1 --"])
def test_a_value_that_nothing_has_finds_nothing(
    told: Running, path: str, names: list[str], value: str
) -> None:
    """Whatever it is made of, it is compared as it is, and no part of it is syntax."""
    for name in names:
        assert [] == items(told, path, **{name: value})


def test_the_filters_of_the_trail_know_what_an_event_concerns(told: Running) -> None:
    """Policy, category and resource are found also through the violation that an event is about."""
    by_id = {event["data"].get("violation"): event for event in items(told, "/v1/events")}
    (bobs,) = items(told, "/v1/violations", category="disinformation")
    about_it = items(told, "/v1/events", category="disinformation")

    kinds = [event["type"] for event in about_it]
    assert by_id[bobs["id"]] in about_it
    assert {
        "violation.recorded",
        "violation.overturned",
        "warning.issued",
        "subject.suspended",
        "subject.reinstated",
    } == set(kinds)
    assert {"stream": "subject/user:bob"}.items() <= about_it[0].items()
    second = items(told, "/v1/events", policy="aup@2")
    assert ["violation.recorded"] == [event["type"] for event in second]
    mini = items(told, "/v1/events", resource="mini-2")
    assert {"resource.listed", "group.defined", "violation.recorded", "subject.suspended"} <= {
        event["type"] for event in mini
    }


def test_in_force_asks_about_any_instant(told: Running) -> None:
    """A suspension is listed for the instants from its start to just before its end."""
    for number in (0, 1, 1.5, 2, 3, 30, 60, 100):
        instant = T0 + number * DAY
        expected = [
            item["id"]
            for item in items(told, "/v1/suspensions", at=format_instant(instant))
            if item["state"] == "in_force"
        ]

        found = items(told, "/v1/suspensions", in_force=format_instant(instant))

        assert expected == [item["id"] for item in found]


def test_what_waits_for_a_person_is_listed_for_review(told: Running) -> None:
    """A term on review that is over waits; what has ended, or not begun, does not."""
    waiting = items(told, "/v1/suspensions", review=True)

    assert [item for item in items(told, "/v1/suspensions") if item["review"]] == waiting


def test_counts_count_what_the_trail_lists(told: Running) -> None:
    """In all, and by type and operator, under the same filters."""
    for query in ({}, {"subject": "user:bob"}, {"type": "subject.suspended"}, {"q": "frontier"}):
        events = items(told, "/v1/events", **query)
        counts = told.done("GET", "/v1/events/counts", role="auditor", params=query)

        assert len(events) == counts["total"]
        for name in ("type", "operator"):
            assert {event[name] for event in events} == {c["value"] for c in counts[name]}
            for count in counts[name]:
                of_it = [event for event in events if event[name] == count["value"]]
                assert len(of_it) == count["count"]
        for name in ("clause", "resource", "subject_type"):
            for count in counts[name]:
                found = items(told, "/v1/events", **{**query, name: count["value"]})
                assert len(found) == count["count"]


def test_counts_say_what_another_value_would_find(told: Running) -> None:
    """With ``alternatives`` a property is counted as if none of its values were asked for."""
    asked = {"type": "violation.recorded", "subject_type": "user"}
    counts, others = (
        told.done(
            "GET", "/v1/events/counts", role="auditor", params={**asked, "alternatives": each}
        )
        for each in ("false", "true")
    )

    assert ["violation.recorded"] == [count["value"] for count in counts["type"]]
    assert counts["total"] == others["total"]
    assert len(others["type"]) > 1
    for count in others["type"]:
        found = items(told, "/v1/events", **{**asked, "type": count["value"]})
        assert len(found) == count["count"]
    assert counts["operator"] == others["operator"]


@pytest.mark.parametrize("path", BY_POSITION)
def test_every_item_can_be_asked_for_alone(told: Running, path: str) -> None:
    """What a list shows is what the route of one item shows, beside a sealed text."""
    for item in items(told, path):
        name = item["position"] if path == "/v1/events" else item["id"]
        alone = told.done("GET", f"{path}/{name}", role="auditor")
        sealed = {"/v1/violations": {"details": None}, "/v1/suspensions": {"note": None}}
        assert {**item, **sealed.get(path, {})} == alone


def test_erasures_and_holds_are_listed_by_subject_and_state(told: Running) -> None:
    """Each filter keeps what it says, now and as known before."""

    def subjects(path: str, **query: Any) -> list[str]:
        return [item["subject"]["id"] for item in items(told, path, **query)]

    assert ["dora", "bob", "alice"] == subjects("/v1/erasures")
    assert ["dora", "bob"] == subjects("/v1/erasures", state="requested")
    assert ["alice"] == subjects("/v1/erasures", state="erased")
    assert ["bob"] == subjects("/v1/erasures", subject="user:bob")
    assert ["dora"] == subjects("/v1/holds", state="stands")
    assert ["bob", "alice"] == subjects("/v1/holds", state="lifted")
    [lifted] = items(told, "/v1/holds", subject="user:bob")
    before = lifted["lifted"]["position"] - 1
    assert ["bob"] == subjects("/v1/holds", state="stands", known_position=before)
    [hold] = items(told, "/v1/holds", subject="user:bob", known_position=before)
    assert ("stands", None) == (hold["state"], hold["lifted"])


# --- parameters that are not right ----------------------------------------------------------------


@pytest.mark.parametrize("path", [*BY_POSITION, *BY_KEY])
@pytest.mark.parametrize("limit", ["0", "1001", "-1", "ten", "1.5", "1e3", ""])
def test_a_limit_that_is_none_is_refused(told: Running, path: str, limit: str) -> None:
    """1 to 1000, said with the name of the parameter."""
    answer = told("GET", path, role=role_of(path), params={"limit": limit})

    assert (422, "limit") == (answer.status_code, answer.json()["field"])


@pytest.mark.parametrize("path", BY_POSITION)
@pytest.mark.parametrize(
    "cursor", ["", "x", "-1", "1.5", "0x1", "\uff11", "9" * 17, "9" * 401, "1 "]
)
def test_a_cursor_that_no_page_gave_is_refused(told: Running, path: str, cursor: str) -> None:
    """A cursor is the ``next`` of an earlier page, which is a position."""
    answer = told("GET", path, role="auditor", params={"cursor": cursor})

    assert (422, "cursor") == (answer.status_code, answer.json()["field"])


@pytest.mark.parametrize("path", BY_KEY)
@pytest.mark.parametrize("cursor", ["", "9" * 401])
def test_a_cursor_that_is_no_key_is_refused(told: Running, path: str, cursor: str) -> None:
    """Where pages are cut at keys, a cursor is one."""
    answer = told("GET", path, role=role_of(path), params={"cursor": cursor})

    assert (422, "cursor") == (answer.status_code, answer.json()["field"])


def parameters(run: Running) -> Iterator[tuple[str, list[str], str, bool]]:
    """Yield path, roles, name and whether it may be given twice, of every query parameter."""
    paths = run("GET", "/openapi.json").json()["paths"]
    del paths[ENDLESS]
    for path, methods in paths.items():
        for parameter in methods.get("get", {}).get("parameters", ()):
            if parameter["in"] == "query":
                many = "'array'" in str(parameter["schema"])
                roles = methods["get"].get("x-roles", [None])
                yield (
                    path.replace("{id}", "x").replace("{position}", "1"),
                    roles,
                    (parameter["name"]),
                    many,
                )


def test_a_parameter_that_is_unknown_or_given_twice_is_refused(told: Running) -> None:
    """On every route: a slip in a name, or a second value, must not be passed over silently."""
    tried = 0
    for path, roles, name, many in parameters(told):
        for query in ({"nonsense": "1"}, {name: ["1", "1"]}):
            (asked,) = query
            needed = {"format": "csv"} if "/export" in path else {}
            answer = told("GET", path, role=roles[0], params={**needed, **query})
            if many and asked == name:
                assert 200 == answer.status_code
            else:
                assert (422, asked) == (answer.status_code, answer.json()["field"]), path
        tried += 1
    assert tried > 60


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/v1/suspensions", {"state": "over"}),
        ("/v1/suspensions", {"review": "maybe"}),
        ("/v1/suspensions", {"in_force": "yesterday"}),
        ("/v1/suspensions", {"model": "model:"}),
        ("/v1/suspensions", {"subject": "alice"}),
        ("/v1/suspensions", {"order": "random"}),
        ("/v1/suspensions", {"at": "2027-02-30T00:00:00Z"}),
        ("/v1/suspensions", {"known_at": "2027-01-01"}),
        ("/v1/suspensions", {"known_position": "-1"}),
        ("/v1/suspensions", {"from": "2027-01-01T00:00:00"}),
        ("/v1/suspensions", {"to": "10000-01-01T00:00:00Z"}),
        ("/v1/violations", {"state": "in_force"}),
        ("/v1/violations", {"detected_by": "nobody"}),
        ("/v1/reinstatements", {"cause": "mercy"}),
        ("/v1/events", {"resource": "model:\u0000"}),
        ("/v1/events", {"q": "w" * 501}),
        ("/v1/access", {"subject": "alice"}),
        ("/v1/access", {"subject": ""}),
        ("/v1/access", {}),
        ("/v1/subjects/record", {"subject": "User:alice"}),
        ("/v1/subjects/record", {}),
    ],
)
def test_a_parameter_of_another_form_is_refused_by_name(
    told: Running, path: str, query: dict[str, str]
) -> None:
    """The problem names the parameter at fault."""
    answer = told("GET", path, role="auditor", params=query)

    problem = answer.json()
    assert 422 == answer.status_code
    assert problem["code"] in ("invalid_request", "invalid_value")
    assert (next(iter(query)) if query else "subject") == problem["field"]


# --- waiting for a position -----------------------------------------------------------------------


def test_a_position_that_is_applied_is_answered_at_once(shared: Running) -> None:
    """Reads and checks take it, and say which position they answered at."""
    position = shared.service.recorder.position
    headers = {"Ledger-Min-Position": str(position)}

    read = shared("GET", "/v1/suspensions", role="auditor", headers=headers)
    body = {"subject": subject("user:alice"), "action": {"name": "use"}, "resource": ATLAS}
    check = shared("POST", "/access/v1/evaluation", role="service", json=body, headers=headers)

    assert [200, 200] == [read.status_code, check.status_code]
    assert [str(position)] * 2 == [a.headers["ledger-position"] for a in (read, check)]


def test_a_position_that_another_process_writes_is_waited_for(founded: Running) -> None:
    """The read begins before the write, and is answered once the write is applied here."""
    other = build(founded.service.settings, clock=founded.clock)
    body = {
        "subject": subject("user:alice"),
        "action": {"name": "use"},
        "resource": ATLAS,
    }
    with ThreadPoolExecutor(2) as threads:
        for number in range(10):
            position = founded.service.recorder.position + 1
            headers = {"Ledger-Min-Position": str(position)}
            read = threads.submit(
                founded, "GET", "/v1/events", role="auditor", headers=headers, params={"limit": 1}
            )
            check = threads.submit(
                founded, "POST", "/access/v1/evaluation", role="service", json=body, headers=headers
            )

            other.ledger.register(
                Subject(type="user", id=f"u{number}"), properties={}, by=SYSTEM_AUTHOR
            )

            answer = read.result().json()
            assert [position] == [event["position"] for event in answer["items"]]
            assert f"user:u{number}" in answer["items"][0]["stream"]
            assert position <= check.result().json()["context"]["position"]
    other.recorder.store.close()


def test_a_position_that_does_not_come_is_answered_after_two_seconds(shared: Running) -> None:
    """503 behind, with Retry-After, for reads and for checks alike."""
    headers = {"Ledger-Min-Position": "9007199254740992"}
    body = {"subject": subject("user:alice"), "action": {"name": "use"}, "resource": ATLAS}
    began = time.monotonic()
    with ThreadPoolExecutor(2) as threads:
        answers = [
            threads.submit(shared, "GET", "/v1/suspensions", role="auditor", headers=headers),
            threads.submit(
                shared, "POST", "/access/v1/evaluation", role="service", json=body, headers=headers
            ),
        ]
        for answer in (waited.result() for waited in answers):
            assert (503, "behind") == (answer.status_code, answer.json()["code"])
            assert int(answer.headers["retry-after"]) >= 1
            assert "application/problem+json" == answer.headers["content-type"]

    assert 1.9 <= time.monotonic() - began


@pytest.mark.parametrize(
    "value", [b"", b"-1", b"+1", b"1.0", b"01", b"soon", b"1" * 17, b"\xef\xbc\x91"]
)
@pytest.mark.parametrize("path", ["/v1/suspensions", "/access/v1/evaluation"])
def test_a_malformed_position_is_refused(shared: Running, path: str, value: bytes) -> None:
    """What is no position is not taken for 0."""
    headers = {"Ledger-Min-Position": value}
    body = {"subject": subject("user:alice"), "action": {"name": "use"}, "resource": ATLAS}

    if path == "/v1/suspensions":
        answer = shared("GET", path, role="auditor", headers=headers)
    else:
        answer = shared("POST", path, role="service", json=body, headers=headers)

    assert (422, "Ledger-Min-Position") == (answer.status_code, answer.json()["field"])
