"""The pages of what is recorded show what the API answers, to whom it answers, words as words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import httpx
import pytest

from ledger.service.console import shown
from ledger.service.console.pages import conduct, models
from ledger.service.console.pages.models import GROUPS_SHOWN_MAX, KEPT_OUT_MAX
from ledger.service.console.pages.operators import state_of
from ledger.service.console.shown import ABOUT_SHOWN_MAX, RESTING_SHOWN_MAX
from tests.conftest import SetClock
from tests.service.conftest import POLICY, Running, founded_on, suspension_of, violation_of
from tests.service.console.conftest import csrf_in, signed_in

HOSTILE: Final = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7 * 7 }}"
HOSTILE_ID: Final = "<b>&\"'/%2e?#"
SECRET: Final = "The zebra did it."
ROLES: Final = ("auditor", "officer", "approver", "admin")


@pytest.fixture(scope="module")
def told(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A ledger with some of everything that the pages show."""
    with founded_on("sqlite", request, tmp_path_factory.mktemp("told")) as run:
        fill(run)
        yield run


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def either(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """The same on each store, for what asks the store in ways of its own."""
    with founded_on(request.param, request, tmp_path_factory.mktemp("told")) as run:
        fill(run)
        yield run


def fill(run: Running) -> None:
    """Record every state of everything, in words that a page must not take for its own."""
    assert isinstance(run.clock, SetClock)
    resources = [{"type": "model", "id": "atlas-3"}]
    for number in range(3):
        suspension_of(run, f"user:u{number}", duration="P2D")
    scopes: list[dict[str, Any]] = [
        {"resources": [{"type": "model", "id": "atlas-3"}, {"group": "frontier"}]},
        {
            "resources": [{"type": "model"}],
            "actions": ["use"],
            "conditions": [{"attribute": "subject.properties.plan", "in": ["free", 7, True]}],
        },
        {"resources": [{"type": "model", "id": "mini-2"}]},
    ]
    for number, scope in enumerate(scopes):
        suspension_of(run, f"user:s{number}", scope=scope, indefinite=True, note=SECRET)
    suspension_of(run, "user:later", effective_at="2027-01-01T00:00:00Z", duration="P1D")
    suspension_of(run, "user:waits", duration="P1D", reinstatement="on_review")
    cancelled = suspension_of(run, "user:c", effective_at="2027-01-01T00:00:00Z")
    body = {"reason": HOSTILE}
    run.done("POST", f"/v1/suspensions/{cancelled}/cancellation", role="officer", json=body)
    early = suspension_of(run, "user:early")
    body = {"suspension": early, "cause": "early", "reason": HOSTILE}
    run.done("POST", "/v1/reinstatements", role="officer", json=body)
    more = {
        "summary": HOSTILE,
        "details": SECRET,
        "resources": resources,
        "evidence": [{"uri": "s3://zebra/1.json", "sha256": "0" * 64, "personal": True}],
    }
    ground = violation_of(run, f"user:{HOSTILE_ID}", "disinformation", **more)
    suspension_of(run, f"user:{HOSTILE_ID}", grounds=[ground], reason=HOSTILE, duration="P9D")
    subject = {"type": "user", "id": HOSTILE_ID}
    body_of_warning = {"subject": subject, "grounds": [ground], "reason": HOSTILE}
    run.done("POST", "/v1/warnings", role="officer", json=body_of_warning)
    run.done(
        "POST",
        "/v1/warnings",
        role="officer",
        json={"subject": {"type": "user", "id": "early"}, "reason": "Please read it."},
    )
    gone = violation_of(run, "user:overturned")
    body = {"reason": HOSTILE}
    run.done("POST", f"/v1/violations/{gone}/overturn", role="approver", json=body)
    fraud: Any = POLICY["clauses"][0]
    clauses = [
        {**fraud, "text": f"Never deceive people for gain. {HOSTILE}"},
        {**fraud, "id": "spam", "title": HOSTILE},
    ]
    run.done("PUT", "/v1/policies/aup", role="admin", json={"title": HOSTILE, "clauses": clauses})
    listed = {
        "resource": {"type": "model", "id": HOSTILE_ID},
        "properties": {"words": HOSTILE, "many": ["a", 1, True]},
    }
    run.done("PUT", "/v1/resources", role="admin", json=listed)
    run.clock.move(days=3)


LISTS: Final = {
    "suspensions": [
        {},
        {"state": "in_force"},
        {"state": "scheduled"},
        {"state": "cancelled"},
        {"state": "ended", "order": "oldest"},
        {"review": "true"},
        {"review": "false", "limit": "3"},
        {"model": "mini-2"},
        {"model": "atlas-3", "state": "in_force"},
        {"policy": "aup", "category": "disinformation"},
        {"subject": f"user:{HOSTILE_ID}"},
        {"in_force": "2026-11-24T12:00:00Z"},
        {"at": "2026-11-24T12:00:00Z", "state": "in_force"},
        {"known_position": "30"},
        {"operator": "the-officer", "from": "2026-11-24T10:00:00Z", "to": "2026-11-25T10:00:00Z"},
    ],
    "violations": [
        {},
        {"state": "overturned"},
        {"state": "stands", "limit": "4", "order": "oldest"},
        {"policy": "aup@1", "clause": "disinformation"},
        {"category": "fraud", "detected_by": "human"},
        {"model": "atlas-3"},
        {"known_at": "2026-11-23T00:00:00Z"},
    ],
    "reinstatements": [{}, {"cause": "early"}, {"order": "oldest"}, {"subject": "user:early"}],
    "warnings": [{}, {"policy": "aup"}, {"category": "fraud"}, {"subject": "user:early"}],
}


def ids_in(page: str, kind: str) -> list[str]:
    """The ids that the lines of a list link to, in order."""
    body = page.partition("<tbody>")[2].partition("</tbody>")[0]
    return re.findall(rf'<tr>\s*<td[^>]*>\s*<a class="id" href="/console/{kind}/([^"?]+)', body)


@pytest.mark.parametrize(
    ("kind", "query"), [(kind, query) for kind, asked in LISTS.items() for query in asked]
)
def test_a_list_is_that_of_the_api(told: Running, kind: str, query: dict[str, str]) -> None:
    """The same things in the same order, page by page, for the same parameters."""
    answer = told.done("GET", f"/v1/{kind}", role="auditor", params=query)
    with signed_in(told, "auditor") as http:
        page = http.get(f"/console/{kind}", params=query)
        assert (200, [item["id"] for item in answer["items"]]) == (
            page.status_code,
            ids_in(page.text, kind),
        )
        following = re.search(r'rel="next" href="([^"]+)"', page.text)
        assert (answer["next"] is None) is (following is None)
        if following is not None:
            query = {**query, "cursor": answer["next"]}
            answer = told.done("GET", f"/v1/{kind}", role="auditor", params=query)
            page = http.get(f"/console/{kind}{following[1].replace('&amp;', '&')}")
            assert [item["id"] for item in answer["items"]] == ids_in(page.text, kind)
            assert "First page" in page.text


def test_a_wrong_filter_is_refused_as_by_the_api(told: Running) -> None:
    """A state that is none, and both ways to say what was known, are no filters."""
    with signed_in(told, "officer") as http:
        assert 422 == http.get("/console/violations?state=wrong").status_code
        both = http.get("/console/warnings?known_at=2026-11-24T10:00:00Z&known_position=4")
        assert "not both" in both.text
        assert 404 == http.get("/console/suspensions/sus_none").status_code


def test_the_past_is_marked_and_its_links_stay_in_it(told: Running) -> None:
    """A banner says which time is shown; what is opened from there is of that time."""
    past = {"at": "2026-11-24T12:00:00Z", "known_position": "30"}
    with signed_in(told, "auditor") as http:
        page = http.get("/console/suspensions", params=past).text
        assert "Another time" in page
        assert "as known at position 30" in page
        (first, *_) = re.findall(r'href="(/console/suspensions/sus_[^"]+)"', page)
        asked = parse_qs(urlsplit(first.replace("&amp;", "&")).query)
        assert past == {name: values[0] for name, values in asked.items()}
        assert "Another time" not in http.get("/console/suspensions").text


def newest(run: Running, kind: str, **filters: str) -> dict[str, Any]:
    """The newest of a kind in the API's list."""
    found: list[dict[str, Any]] = run.done(
        "GET", f"/v1/{kind}", role="auditor", params={**filters, "limit": "1"}
    )["items"]
    return found[0]


def test_each_thing_shows_what_it_rests_on_and_what_rests_on_it(either: Running) -> None:
    """From a violation to the suspension and the warning that name it, and back; to the ending."""
    violation = newest(either, "violations", model="atlas-3")
    suspension = newest(either, "suspensions", subject=f"user:{HOSTILE_ID}")
    warning = newest(either, "warnings", policy="aup")
    reinstatement = newest(either, "reinstatements", cause="early")
    with signed_in(either, "auditor") as http:
        one = http.get(f"/console/violations/{violation['id']}").text
        assert f"/console/suspensions/{suspension['id']}" in one
        assert f"/console/warnings/{warning['id']}" in one
        assert "aup@1" in one
        assert "#clause-disinformation" in one
        for page in (f"suspensions/{suspension['id']}", f"warnings/{warning['id']}"):
            assert f"/console/violations/{violation['id']}" in http.get(f"/console/{page}").text
        ended = http.get(f"/console/suspensions/{reinstatement['suspension']}").text
        assert f"/console/reinstatements/{reinstatement['id']}" in ended
        back = http.get(f"/console/reinstatements/{reinstatement['id']}").text
        assert f"/console/suspensions/{reinstatement['suspension']}" in back
        overturned = newest(either, "violations", state="overturned")
        assert "Overturned" in http.get(f"/console/violations/{overturned['id']}").text
        conditions = newest(either, "suspensions", subject="user:s1")
        page = http.get(f"/console/suspensions/{conditions['id']}").text
        assert "subject.properties.plan" in page
        assert "<code>true</code>" in page


def test_each_thing_shows_the_human_on_whose_behalf_it_was_recorded(either: Running) -> None:
    """A machine recorded it; whom it acted for stands beside it, and nothing where it is nobody."""
    human = {"headers": {"Ledger-On-Behalf-Of": "user:jane"}}
    violation = {
        "subject": {"type": "user", "id": "for-jane"},
        "policy": "aup",
        "clause": "fraud",
        "occurred_at": either.clock().isoformat(),
        "detected_by": "human",
        "summary": "It happened.",
    }
    ground = either.done("POST", "/v1/violations", role="reporter", json=violation, **human)["id"]
    about = {"subject": violation["subject"], "grounds": [ground], "reason": "Repeated."}
    warning = either.done("POST", "/v1/warnings", role="officer", json=about, **human)["id"]
    body = {**about, "scope": {"resources": [{"group": "frontier"}]}, "duration": "P1D"}
    suspension = either.done("POST", "/v1/suspensions", role="officer", json=body, **human)["id"]
    body = {"suspension": suspension, "cause": "early", "reason": "Complied."}
    ended = either.done("POST", "/v1/reinstatements", role="officer", json=body, **human)["id"]

    with signed_in(either, "officer") as http:
        for address, operator in (
            (f"violations/{ground}", "the-reporter"),
            (f"warnings/{warning}", "the-officer"),
            (f"suspensions/{suspension}", "the-officer"),
            (f"reinstatements/{ended}", "the-officer"),
        ):
            page = http.get(f"/console/{address}")
            assert f'<dd class="id">{operator} for user:jane</dd>' in page.text
        other = newest(either, "suspensions", subject="user:s1")["id"]
        assert '<dd class="id">the-officer</dd>' in http.get(f"/console/suspensions/{other}").text


def test_events_are_shown_to_who_may_read_the_trail(told: Running) -> None:
    """An auditor sees the events about a thing; an officer sees none and no link to one."""
    item = newest(told, "suspensions", subject="user:early")
    events = told.done("GET", "/v1/events", role="auditor", params={"q": item["id"]})["items"]
    assert 2 <= len(events) <= ABOUT_SHOWN_MAX
    with signed_in(told, "auditor") as http:
        page = http.get(f"/console/suspensions/{item['id']}").text
    assert [True] * len(events) == [f"#{event['position']}<" in page for event in events]
    assert 'id="events"' in page
    with signed_in(told, "officer") as http:
        page = http.get(f"/console/suspensions/{item['id']}").text
    assert "/console/events" not in page
    assert 'id="events"' not in page


@pytest.mark.parametrize("kind", ["violations", "suspensions"])
def test_what_is_sealed_is_shown_to_who_asks_and_that_is_recorded(told: Running, kind: str) -> None:
    """A form of one's own shows the texts, once; a link or a foreign form does not."""
    subject = f"user:{HOSTILE_ID}" if kind == "violations" else "user:s0"
    item = newest(told, kind, subject=subject)

    def disclosed() -> list[dict[str, Any]]:
        query = {"type": "record.disclosed", "limit": "1000"}
        found: list[dict[str, Any]] = told.done("GET", "/v1/events", role="auditor", params=query)[
            "items"
        ]
        return found

    before = len(disclosed())
    with signed_in(told, "approver") as http:
        address = f"/console/{kind}/{item['id']}"
        page = http.get(address).text
        assert "zebra" not in page
        assert "sealed</span>" in page
        assert 403 == http.post(address, data={"csrf": "wrong"}).status_code
        assert before == len(disclosed())

        clear = http.post(address, data={"csrf": csrf_in(page)})
        assert SECRET in clear.text
        assert "no-store" == clear.headers["cache-control"]
        assert ("s3://zebra/1.json" in clear.text) is (kind == "violations")
    assert before + 1 == len(disclosed())
    told_of = disclosed()[0]
    assert ("the-approver", item["position"]) == (
        told_of["operator"],
        told_of["data"]["shown_position"],
    )


def test_what_was_erased_is_shown_as_erased(told: Running) -> None:
    """There is no text any more, and no button that asks for it."""
    suspension = newest(told, "suspensions", subject="user:s2")
    wish = {"subject": {"type": "user", "id": "s2"}, "reason": "They asked for it."}
    asked = told.done("POST", "/v1/erasures", role="admin", json=wish)
    told.done("POST", f"/v1/erasures/{asked['id']}/confirmation", role="approver")
    with signed_in(told, "auditor") as http:
        page = http.get(f"/console/suspensions/{suspension['id']}").text
    assert "erased</span>" in page
    assert "in clear" not in page


def test_a_policy_shows_its_versions_and_what_changed(told: Running) -> None:
    """Versions with their times, the words of each, and a comparison by address."""
    answer = told.done("GET", "/v1/policies/aup", role="auditor")
    with signed_in(told, "auditor") as http:
        assert "/console/policies/aup" in http.get("/console/policies").text
        page = http.get("/console/policies/aup").text
        assert [version["effective_at"] in page for version in answer["versions"]] == [True] * 2
        first = http.get("/console/policies/aup?version=1").text
        assert 'id="clause-disinformation"' in first
        assert "policy=aup%401&amp;clause=fraud" in first

        compared = http.get("/console/policies/aup?from=1&to=2").text
        assert "<del>Do not</del>" in compared
        assert "<ins>Never</ins>" in compared
        kinds = re.findall(r'<span class="badge \w+">(\w+)</span> <span class="id">', compared)
        assert ["changed", "added", "removed"] == kinds
        one_given = http.get("/console/policies/aup?from=1").text
        assert "From version 1 to version 2" in one_given
        assert "No clause is added" in http.get("/console/policies/aup?from=2&to=2").text
        assert "aup@9 was never published" in http.get("/console/policies/aup?to=9").text
        assert 404 == http.get("/console/policies/none").status_code
        then = http.get("/console/policies/aup?known_position=20").text
        assert "version 2" not in then


def kept_out_in(page: str) -> dict[str, int]:
    """The count of suspensions of each resource on the page of models."""
    rows = page.partition("<tbody>")[2].partition("</tbody>")[0].split("<tr>")[1:]
    found = [
        re.findall(r'models/one\?resource=([^"&#]+)"|<td>(?:<a [^>]+>)?([\d,]+)<', row)
        for row in rows
    ]
    return {unquote(cells[0][0]): int(cells[-1][1]) for cells in found}


def test_the_models_show_who_is_kept_out_of_each(either: Running) -> None:
    """As many as the API lists in force for it, by id, type or group; each once."""
    resources = either.done("GET", "/v1/resources", role="auditor")["items"]
    expected = {}
    with signed_in(either, "officer") as http:
        for item in resources:
            key = f"{item['resource']['type']}:{item['resource']['id']}"
            query = {"model": key, "state": "in_force"}
            found = either.done("GET", "/v1/suspensions", role="officer", params=query)["items"]
            expected[key] = len(found)
            subjects = {str(each["subject"]) for each in found}
            page = http.get("/console/models/one", params={"resource": key}).text
            assert [each["id"] for each in found] == ids_in(page, "suspensions")
            assert re.search(rf"{len(found)} suspensions?\s+in force", page)
            assert re.search(rf"on {len(subjects)}\s+subject", page)
        page = http.get("/console/models").text
        assert expected == kept_out_in(page)
        assert expected["model:atlas-3"] > expected["model:mini-2"] > 0

        first = http.get("/console/models/one?resource=model:atlas-3&limit=2").text
        following = re.search(r'rel="next" href="([^"]+)"', first)
        assert following is not None
        second = http.get(f"/console/models/one{following[1].replace('&amp;', '&')}").text
        query = {"model": "atlas-3", "state": "in_force", "limit": "4"}
        found = either.done("GET", "/v1/suspensions", role="officer", params=query)["items"]
        both = ids_in(first, "suspensions") + ids_in(second, "suspensions")
        assert [each["id"] for each in found] == both


def test_a_group_shows_its_members_and_who_is_kept_out_by_it(either: Running) -> None:
    """At the times that are asked for: before it was defined there is none."""
    with signed_in(either, "auditor") as http:
        page = http.get("/console/groups/frontier").text
        assert "model%3Acipher-2" in page
        named = [
            each["id"]
            for each in either.done(
                "GET", "/v1/suspensions", role="auditor", params={"state": "in_force"}
            )["items"]
            if {"group": "frontier"} in each["scope"]["resources"]
        ]
        body = page.partition('id="kept-out"')[2]
        assert named == ids_in(body, "suspensions")
        assert len(named) >= 2
        assert "/console/groups/frontier" in http.get("/console/groups").text
        assert 404 == http.get("/console/groups/frontier?known_position=3").status_code
        assert "No group was defined then" in http.get("/console/models?known_position=3").text


def test_counting_ends_at_its_limit(told: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than are counted are shown as over that many, and the groups beyond some by a link."""
    assert KEPT_OUT_MAX > GROUPS_SHOWN_MAX > 1
    counts = []
    with signed_in(told, "auditor") as http:
        exact = kept_out_in(http.get("/console/models").text)["model:mini-2"]
        for limit in (exact, exact - 1):
            monkeypatch.setattr(models, "KEPT_OUT_MAX", limit)
            page = http.get("/console/models/one?resource=model:mini-2").text
            counts += re.findall(r"<p>((?:over )?[\d,]+) suspensions?\s+in force", page)
            row = http.get("/console/models").text.partition("Amini-2#kept-out")[2]
            counts += re.findall(r'^">([^<]+)<', row)
        assert [str(exact)] * 2 + [f"over {exact - 1}"] * 2 == counts
        monkeypatch.setattr(models, "GROUPS_SHOWN_MAX", 0)
        assert "All 1 groups" in http.get("/console/models").text


def test_what_is_around_a_thing_is_shown_up_to_a_limit(
    told: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many events, and decisions that rest on a violation, as the limits say; then: more."""
    ground = newest(told, "violations", model="atlas-3")["id"]
    subject = {"type": "user", "id": HOSTILE_ID}
    body = {"subject": subject, "grounds": [ground], "reason": "Once more."}
    told.done("POST", "/v1/warnings", role="officer", json=body)
    seen = []
    with signed_in(told, "auditor") as http:
        for limit in (2, 1):
            monkeypatch.setattr(conduct, "RESTING_SHOWN_MAX", limit)
            monkeypatch.setattr(shown, "ABOUT_SHOWN_MAX", limit)
            page = http.get(f"/console/violations/{ground}").text
            warned = len(re.findall(r'href="/console/warnings/', page))
            events = page.partition('id="events"')[2].count("<li>")
            seen.append((warned, "There are more" in page, events))
    assert [(2, False, 2), (1, True, 1)] == seen
    assert RESTING_SHOWN_MAX > ABOUT_SHOWN_MAX > 1


def test_operators_are_shown_to_administrators_without_their_keys(told: Running) -> None:
    """Ids and times of keys, as the API lists them; neither a key nor its digest."""
    answer = told.done("GET", "/v1/operators", role="admin")["items"]
    with signed_in(told, "admin") as http:
        page = http.get("/console/operators").text
    listed = re.findall(r'<td><span class="id">([^<]+)</span><br><small>(\w+)</small>', page)
    assert [(item["id"], item["role"]) for item in answer] == listed
    keys = [key["id"] for item in answer for key in item["keys"]]
    assert keys == re.findall(r'<span class="id">(key_[^<]+)</span>', page)
    assert [secret for secret in told.keys.values() if secret in page] == []
    assert not re.search(r"[0-9a-f]{64}", page)
    assert "usable" in page


def test_a_key_is_revoked_expired_or_usable() -> None:
    """In words, whatever else is true of it."""
    key: dict[str, Any] = {"revoked_at": None, "expires_at": None}
    now = "2026-11-24T10:00:00.000000Z"
    assert "usable" == state_of(key, now)
    assert "expired" == state_of({**key, "expires_at": now}, now)
    assert "usable" == state_of({**key, "expires_at": "2026-11-24T10:00:00.000001Z"}, now)
    assert "revoked" == state_of({"revoked_at": now, "expires_at": now}, now)


def pages_of(run: Running) -> list[str]:
    """An address of each kind of page of these, with what is hostile on it."""
    return [
        "/console/suspensions",
        "/console/violations",
        "/console/reinstatements",
        "/console/warnings",
        f"/console/suspensions/{newest(run, 'suspensions', subject=f'user:{HOSTILE_ID}')['id']}",
        f"/console/suspensions/{newest(run, 'suspensions', subject='user:s1')['id']}",
        f"/console/suspensions/{newest(run, 'suspensions', state='scheduled')['id']}",
        f"/console/violations/{newest(run, 'violations', model='atlas-3')['id']}",
        f"/console/violations/{newest(run, 'violations', state='overturned')['id']}",
        f"/console/reinstatements/{newest(run, 'reinstatements', cause='early')['id']}",
        f"/console/warnings/{newest(run, 'warnings', policy='aup')['id']}",
        "/console/policies",
        "/console/policies/aup",
        "/console/policies/aup?from=1&to=2",
        "/console/models",
        "/console/models/one?resource=model%3A%3Cb%3E%26%22%27%2F%252e%3F%23",
        "/console/groups",
        "/console/groups/frontier",
        "/console/operators",
    ]


def links_in(page: str) -> set[str]:
    """The pages of these that a page links to, without what comes after the #."""
    found = re.findall(r'href="(/console[^"]*)"', page)
    return {each.replace("&amp;", "&").partition("#")[0] for each in found} - {""}


@pytest.mark.parametrize("role", ROLES)
def test_no_link_leads_a_role_where_it_may_not_go(told: Running, role: str) -> None:
    """Who may open a page can open all that it links to; the rest is text without a link."""
    answers: dict[str, int] = {}

    def status(http: httpx.Client, address: str) -> int:
        if address not in answers:
            answers[address] = http.get(address).status_code
        return answers[address]

    with signed_in(told, role) as http:
        refused = {
            (address, each)
            for address in pages_of(told)
            if status(http, address) == 200
            for each in sorted(links_in(http.get(address).text))
            if status(http, each) != 200
        }
    assert set() == refused
    opened = {urlsplit(address).path for address, code in answers.items() if code == 200}
    assert ("/console/operators" in opened) is (role == "admin")
    assert ("/console/suspensions" in opened) is (role != "admin")
    assert {"/console/models", "/console/policies/aup"} <= opened


def test_words_are_words(told: Running) -> None:
    """Nothing that somebody recorded becomes part of a page's own markup."""
    for role in ("auditor", "admin"):
        with signed_in(told, role) as http:
            for address in pages_of(told):
                page = http.get(address)
                if page.status_code == 200:
                    for markup in ("<script", "<img", "<b>", ">49<"):
                        assert markup not in page.text, (address, markup)
