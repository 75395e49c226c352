"""The trail and its events as pages: what the API tells, by links that lead on."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any

import httpx
import orjson
import pytest

from ledger.service.console.frame import POLICY
from ledger.service.console.pages import event as event_page
from ledger.service.console.pages.trail import (
    FACET_VALUES_MAX,
    FACET_VALUES_SHOWN,
    GROUNDS_SHOWN,
    facets_of,
)
from ledger.service.console.session import IDLE_S
from ledger.service.http import live
from ledger.tlog.leaf import StoredRow, hash_of
from ledger.tlog.note import decode_base64
from ledger.tlog.proof import Policy, parse_proof, verify_proof
from tests.service.conftest import WITHIN_S, Running, founded_on, suspension_of, violation_of
from tests.service.console.conftest import csrf_in, signed_in

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7 * 7 }}"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def told(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A ledger with a history of some months, in which one thing led to another."""
    with founded_on(request.param, request, tmp_path_factory.mktemp("told")) as run:
        tell(run)
        yield run


def tell(run: Running) -> None:
    """Record violations and suspensions, of which one falls with its ground."""
    model = [{"type": "model", "id": "atlas-3"}]
    for number in range(FACET_VALUES_SHOWN + 2):
        clause = "fraud" if number % 3 else "disinformation"
        violation_of(run, f"user:u{number}", clause, details=f"secret {number}", resources=model)
        run.clock.move(days=4)
    ground = violation_of(run, "organization:acme")
    suspension_of(run, "organization:acme", grounds=[ground], note="a sealed note")
    overturned = {"reason": "It was another company."}
    run.done("POST", f"/v1/violations/{ground}/overturn", role="approver", json=overturned)
    human = {"Ledger-On-Behalf-Of": "user:jane"}
    body = {
        "subject": {"type": "user", "id": "warned"},
        "reason": HOSTILE,
        "grounds": [violation_of(run, "user:warned")],
    }
    run.done("POST", "/v1/warnings", role="officer", json=body, headers=human)


def positions_in(page: str) -> list[int]:
    """The events that a page of the trail lists."""
    return [
        int(each) for each in re.findall(r'class="head"><a[^>]*href="/console/events/(\d+)', page)
    ]


def listed_by_api(run: Running, query: str) -> list[int]:
    """The events that the API lists under the same parameters."""
    found = run.done("GET", f"/v1/events?{query}", role="auditor")
    return [each["position"] for each in found["items"]]


def total_in(page: str) -> int:
    """How many events a page of the trail says that there are."""
    found = re.search(r'<h2 id="events">([\d,]+) event', page)
    assert found is not None
    return int(found[1].replace(",", ""))


def choices_in(page: str) -> dict[tuple[str, str], tuple[str, int]]:
    """The values of each facet on a page: where each leads, and how often it counts."""
    found = {}
    for name, section in re.findall(r'<h3 id="by-(\w+)">(.*?)</section>', page, re.DOTALL):
        for link, value, count in re.findall(
            r'<a href="([^"]*)"[^>]*><span>(.*?)</span>.*?<small>([\d,]+)</small>', section
        ):
            found[name, html.unescape(value)] = (html.unescape(link), int(count.replace(",", "")))
    return found


# --- the trail ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "",
        "q=warned",
        "q=broke+fraud*&order=oldest",
        "type=subject.suspended&type=subject.reinstated",
        "subject=user%3Au1",
        "subject_type=organization",
        "operator=the-reporter&category=disinformation",
        "policy=aup&clause=fraud&resource=atlas-3",
        "on_behalf_of=user%3Ajane",
        "from=2026-12-01T00:00:00Z&to=2026-12-09T00:00:00Z",
        "known_position=22",
        "q=nothing-is-called-so",
    ],
)
def test_the_page_lists_what_the_api_lists(told: Running, query: str) -> None:
    """Its filters are those of the API, under the same names."""
    with signed_in(told, "auditor") as http:
        page = http.get(f"/console/trail?{query}")

    assert (200, POLICY) == (page.status_code, page.headers["content-security-policy"])
    assert listed_by_api(told, query) == positions_in(page.text)
    assert len(positions_in(page.text)) == total_in(page.text)


def test_every_count_is_what_its_link_leads_to(told: Running) -> None:
    """A value counts as many events as are listed behind it, and what is asked for leads back."""
    with signed_in(told, "auditor") as http:
        choices = choices_in(http.get("/console/trail?clause=aup%401%2Ffraud").text)
        facets = {name for name, _ in choices}
        assert {"type", "resource", "clause", "category", "policy", "operator"} <= facets
        assert {"subject_type", "month"} <= facets
        for (name, value), (link, count) in choices.items():
            behind = http.get(link).text
            if (name, value) == ("clause", "aup@1/fraud"):
                assert "clause" not in link
                assert total_in(behind) > count
            else:
                assert count == total_in(behind), (name, value)


def test_types_add_up_and_other_values_take_the_place_of_one(told: Running) -> None:
    """So that two types can be seen together, and no click leads to nothing."""
    with signed_in(told, "auditor") as http:
        page = http.get("/console/trail?type=violation.recorded&category=fraud&cursor=9999").text
        choices = choices_in(page)

    added = httpx.URL(choices["type", "subject.suspended"][0]).params
    assert ["violation.recorded", "subject.suspended"] == added.get_list("type")
    assert "cursor" not in added
    instead = httpx.URL(choices["category", "disinformation"][0]).params
    assert ["disinformation"] == instead.get_list("category")


def test_a_month_is_a_span_of_time(told: Running) -> None:
    """December ends where the next year begins; the month is one filter, and newest comes first."""
    with signed_in(told, "auditor") as http:
        choices = choices_in(http.get("/console/trail").text)
        months = [value for name, value in choices if name == "month"]
        link, count = choices["month", "2026-12"]
        page = http.get(link).text

    assert sorted(months, reverse=True) == months
    assert dict(httpx.URL(link).params) == {
        "from": "2026-12-01T00:00:00Z",
        "to": "2027-01-01T00:00:00Z",
    }
    assert count == total_in(page)
    assert 'aria-label="Remove the filter Month 2026-12"' in page


def test_every_filter_can_be_taken_away_again(told: Running) -> None:
    """Each is named with a link to the same view without it."""
    asked = {
        "q": "broke",
        "type": "violation.recorded",
        "resource": "atlas-3",
        "from": "2026-11-01",
    }
    with signed_in(told, "auditor") as http:
        page = http.get("/console/trail", params=asked, follow_redirects=True).text
        chips = page.partition('class="chips"')[2].partition("</ul>")[0]
        links = [html.unescape(each) for each in re.findall(r'href="([^"]*)"', chips)]
        left = [set(asked) - set(httpx.URL(link).params) for link in links]
        assert [200] * 4 == [http.get(link).status_code for link in links]

    assert [{name} for name in asked] == sorted(left, key=lambda each: list(asked).index(min(each)))


def test_rare_values_are_counted_and_not_shown() -> None:
    """Of a property with very many values the most frequent are there."""
    values = [{"value": f"c{number}", "count": 1} for number in range(FACET_VALUES_MAX + 1)]
    (whole,) = facets_of({"total": 9, "category": values[:-1]}, {})
    (cut,) = facets_of({"total": 9, "category": values}, {})

    assert (FACET_VALUES_MAX, 0) == (len(whole.values), whole.rarer)
    assert (whole.values, 1) == (cut.values, cut.rarer)
    assert [("An other thing",)] == [
        (each.title,) for each in facets_of({"an_other_thing": values[:1]}, {})
    ]


def test_pages_lead_through_the_whole_list(told: Running) -> None:
    """By the keyset of the API: nothing is left out, nothing comes twice."""
    for order in ("newest", "oldest"):
        link, seen = f"/console/trail?limit=7&order={order}&type=violation.recorded", list[int]()
        with signed_in(told, "auditor") as http:
            while link:
                page = http.get(link).text
                seen += positions_in(page)
                further = re.search(r'rel="next" href="([^"]*)"', page)
                link = html.unescape(further[1]) if further else ""
        assert listed_by_api(told, f"type=violation.recorded&order={order}") == seen


def test_a_permalink_shows_the_same_after_more_was_recorded(told: Running) -> None:
    """The list, every count and the events themselves are as they were."""
    with signed_in(told, "auditor") as http:
        page = http.get("/console/trail?type=violation.recorded").text
        link = html.unescape(re.findall(r'href="([^"]*)">Link to exactly this view', page)[0])
        before = http.get(link).text
        one = http.get(
            f"/console/events/21?{httpx.URL(link).query.decode().partition('&')[2]}"
        ).text
        violation_of(told, "user:u0", "disinformation")
        after = http.get(link).text
        other = http.get(
            f"/console/events/21?{httpx.URL(link).query.decode().partition('&')[2]}"
        ).text

    assert main_of(before) == main_of(after)
    assert positions_in(page) == positions_in(after)
    assert main_of(one) == main_of(other)


def main_of(page: str) -> str:
    """What a page shows, without the token of its forms."""
    return re.sub(r'name="csrf" value="[^"]*"', "", page.partition("<main")[2])


def test_the_trail_is_for_auditors_and_no_link_leads_others_there(told: Running) -> None:
    """As in the API; on the pages of others nothing links to what they may not open."""
    for role in ("officer", "approver", "admin"):
        with signed_in(told, role) as http:
            for path in ("/console/trail", "/console/events/1", "/console/trail/stream"):
                assert 403 == http.get(path).status_code
            assert not re.search(r"/console/(trail|events)", http.get("/console").text)


def test_no_link_of_these_pages_leads_nowhere(told: Running) -> None:
    """Ids whose pages the role may not open, or that there are not, are no links."""
    with signed_in(told, "auditor") as http:
        for path in ("/console/trail?limit=30", f"/console/events/{caused_of(told)['position']}"):
            page = http.get(path).text
            links = {html.unescape(each) for each in re.findall(r'href="(/[^"]*)"', page)}
            assert [] == [link for link in sorted(links) if http.get(link).status_code != 200]


# --- one event ------------------------------------------------------------------------------------


def caused_of(run: Running) -> dict[str, Any]:
    """The reinstatement that the overturned violation led to."""
    found = run.done("GET", "/v1/events?type=subject.reinstated", role="auditor")
    event: dict[str, Any] = found["items"][0]
    return event


def sections_of(page: str) -> dict[str, list[int]]:
    """The events that an event's page names before it, and after it."""
    return {
        name: positions_in(page.partition(f'<h2 id="{name}">')[2].partition("</section>")[0])
        for name in ("earlier", "later")
    }


def test_an_event_shows_all_that_is_stored_of_it(told: Running) -> None:
    """Every member, the sentence, and the very bytes that the log commits to."""
    newest = told.service.recorder.position
    with signed_in(told, "auditor") as http:
        for position in range(1, newest + 1):
            event = told.done("GET", f"/v1/events/{position}", role="auditor")
            page = html.unescape(http.get(f"/console/events/{position}").text)
            assert event["sentence"] in page
            for value in leaves_of(event["data"]):
                assert value in page, (position, value)
            stored = http.get(f"/console/events/{position}/stored").json()
            state = decode_base64(stored["state"]).decode()
            assert f">{state}</pre>" in page
            assert orjson.loads(state)["data"] == event["data"]


def leaves_of(value: Any) -> Iterator[str]:
    """What is written in an event's data, without boxes."""
    if isinstance(value, dict):
        if value.keys() == {"key", "box"}:
            yield value["key"]
        elif value.keys() == {"type", "id"}:
            yield f"{value['type']}:{value['id']}"
        else:
            for each in value.values():
                yield from leaves_of(each)
    elif isinstance(value, list):
        for each in value:
            yield from leaves_of(each)
    elif isinstance(value, str):
        yield value


def test_events_lead_to_what_caused_them_and_what_they_caused(told: Running) -> None:
    """From the ground to the suspension, the overturning and its consequence, and back."""
    end = caused_of(told)
    overturned = end["caused_by"]
    suspended, ground = overturned - 1, overturned - 2
    with signed_in(told, "auditor") as http:

        def around(position: int) -> tuple[list[int], list[int]]:
            found = sections_of(http.get(f"/console/events/{position}").text)
            return found["earlier"], found["later"]

        assert around(ground) == ([], [suspended, overturned])
        assert around(suspended) == ([ground], [overturned, end["position"]])
        assert around(overturned) == ([ground, suspended], [end["position"]])
        assert around(end["position"]) == ([suspended, overturned], [])
        known = http.get(f"/console/events/{suspended}?known_position={suspended}").text
        assert sections_of(known)["later"] == []
        page = http.get(f"/console/events/{overturned}").text
        assert "follows from it" in page
        assert "led to it" in http.get(f"/console/events/{end['position']}").text


def test_of_very_many_related_events_the_nearest_are_shown(
    told: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is behind a link to the trail."""
    ground = violation_of(told, "user:often")
    first = told.service.recorder.position
    for _ in range(3):
        suspension_of(told, "user:often", grounds=[ground], basis="violations")
    monkeypatch.setattr(event_page, "RELATED_MAX", 2)
    with signed_in(told, "auditor") as http:
        page = http.get(f"/console/events/{first}").text
        assert {"earlier": [], "later": [first + 1, first + 2]} == sections_of(page)
        last = http.get(f"/console/events/{first + 3}").text
        assert {"earlier": [first + 1, first + 2], "later": []} == sections_of(last)
        assert f"/console/trail?q={ground}" in last
        monkeypatch.setattr(event_page, "NAMING_MAX", 1)
        by_own_id = http.get(f"/console/events/{first + 3}").text
        assert {"earlier": [], "later": []} == sections_of(by_own_id)


def test_a_list_names_some_grounds_of_many(told: Running) -> None:
    """And how many there are besides; the event's own page has all."""
    grounds = [violation_of(told, "user:many") for _ in range(GROUNDS_SHOWN + 1)]
    for count, more in ((GROUNDS_SHOWN, False), (GROUNDS_SHOWN + 1, True)):
        suspension_of(told, "user:many", grounds=grounds[:count])
        with signed_in(told, "auditor") as http:
            page = http.get("/console/trail?subject=user:many&limit=1").text
            own = http.get(f"/console/events/{told.service.recorder.position}").text
        assert [True] * GROUNDS_SHOWN == [each in page for each in grounds[:GROUNDS_SHOWN]]
        assert (more, False) == ("and 1 more" in page, grounds[-1] in page)
        assert (more, True) == (grounds[-1] in own, grounds[0] in own)


def test_an_event_that_is_not_known_is_not_there(told: Running) -> None:
    """Neither one that never was, nor one that was recorded after what is known."""
    newest = told.service.recorder.position
    with signed_in(told, "auditor") as http:
        assert 404 == http.get(f"/console/events/{newest + 1}").status_code
        assert 404 == http.get(f"/console/events/{newest}?known_position=1").status_code
        assert 422 == http.get("/console/events/none").status_code


def test_the_proof_is_one_of_the_stored_columns(told: Running) -> None:
    """What the browser is given verifies by the same rules as a proof file does offline."""
    position = caused_of(told)["position"]
    assert told.service.signer.wait_for(position, WITHIN_S)
    with signed_in(told, "auditor") as http:
        stored = http.get(f"/console/events/{position}/stored").json()
        proof = http.get(f"/console/events/{position}/proof")
        page = http.get(f"/console/events/{position}").text

    leaf = hash_of(StoredRow(**{**stored, "state": decode_base64(stored["state"])}))
    keys = told.service.ledger.log_keys()
    verify_proof(parse_proof(proof.content), leaf, Policy(keys))
    assert POLICY == proof.headers["content-security-policy"]
    (opened,) = list(told.service.recorder.events(until=1))
    assert opened.event.log_key in page  # type: ignore[attr-defined]


def test_what_is_sealed_is_shown_to_who_says_so_and_that_is_recorded(told: Running) -> None:
    """Only a form of the session's own reveals; a link never does."""
    position = listed_by_api(told, "type=violation.recorded&q=u3")[0]
    path = f"/console/events/{position}"
    with signed_in(told, "auditor") as http:
        page = http.get(path).text
        assert ("sealed</span>" in page, "secret 3" in page) == (True, False)
        assert 422 == http.get(f"{path}?reveal=true").status_code
        assert 403 == http.post(path, data={"csrf": "not this"}).status_code
        before = told.service.recorder.position

        shown = http.post(path, data={"csrf": csrf_in(page)})
        assert (200, True) == (shown.status_code, "secret 3" in shown.text)
        assert "It is recorded that you were shown" in shown.text
        disclosed = told.done("GET", f"/v1/events/{before + 1}", role="auditor")
        assert ("record.disclosed", "the-auditor") == (disclosed["type"], disclosed["operator"])
        assert [before + 1] == sections_of(http.get(path).text)["later"]
        assert [position] == sections_of(http.get(f"/console/events/{before + 1}").text)["earlier"]
        assert "secret 3" not in http.get(path).text


def test_what_was_erased_says_so(told: Running) -> None:
    """With the event that erased it, and nothing to reveal; before that it was sealed."""
    position = listed_by_api(told, "type=violation.recorded&q=u4")[0]
    before = told.service.recorder.position
    wish = {"subject": {"type": "user", "id": "u4"}, "reason": "Asked for."}
    asked = told.done("POST", "/v1/erasures", role="admin", json=wish)
    done = told.done("POST", f"/v1/erasures/{asked['id']}/confirmation", role="approver")
    with signed_in(told, "auditor") as http:
        page = http.get(f"/console/events/{position}").text
        known = http.get(f"/console/events/{position}?known_position={before}").text
        assert [asked["position"]] == sections_of(
            http.get(f"/console/events/{done['position']}").text
        )["earlier"]

    assert f'erased</span> by <a class="id" href="/console/events/{done["position"]}"' in page
    assert "Reveal what is sealed" not in page
    assert "erased</span>" not in known


# --- live -----------------------------------------------------------------------------------------


def test_the_trail_is_streamed_to_a_session_as_long_as_it_lasts(told: Running) -> None:
    """What matches comes as it is recorded; the end of the session is the end of the stream."""
    with signed_in(told, "auditor") as http:
        head = http.head("/console/trail/stream")
        assert (200, b"") == (head.status_code, head.content)
        page = http.get("/console/trail?type=violation.recorded&limit=5").text
        found = re.search(r'data-stream="([^"]*)" data-after="(\d+)"', page)
        assert found is not None
        address = f"{html.unescape(found[1])}&after={found[2]}"
        with http.stream("GET", address, timeout=WITHIN_S) as answer:
            assert "text/event-stream" in answer.headers["content-type"]
            lines = answer.iter_lines()
            assert f"retry: {live.RETRY_MS}" == next(lines)
            suspension_of(told, "user:live")
            data = next(line for line in lines if line.startswith("data: "))
            assert "violation.recorded" == orjson.loads(data[6:])["type"]
            told.clock.move(seconds=IDLE_S)
            assert [] == [line for line in lines if line.startswith("data: ")]
        assert 303 == http.get("/console/trail/stream").status_code


@pytest.mark.parametrize("query", ["order=oldest", "known_position=9", "cursor=9", "to=2026-12-01"])
def test_only_the_newest_events_are_followed(told: Running, query: str) -> None:
    """Where nothing new would ever be shown, nothing is offered."""
    with signed_in(told, "auditor") as http:
        page = http.get(f"/console/trail?{query}", follow_redirects=True).text
        assert "data-stream" not in page
        assert "data-stream" in http.get("/console/trail").text
