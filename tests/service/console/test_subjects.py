"""Finding a subject and reading its record: what the API answers, at any time, as words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any

import httpx
import pytest

from ledger.service.console.pages.subjects import ROWS_SHOWN_MAX, TYPES_SHOWN_MAX, beginnings
from tests.service.conftest import Running, founded_on, suspension_of, violation_of
from tests.service.console.conftest import csrf_in, signed_in
from tests.service.console.subject_history import (
    HOSTILE,
    HOSTILE_WORDS,
    PARENT,
    SUBJECT,
    entity,
    tell,
)

RECORD = "/console/subjects/record"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def told(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Running, dict[str, str]]]:
    """A ledger with a long history of one subject, and the ids of what was made in it."""
    with founded_on(request.param, request, tmp_path_factory.mktemp("told")) as run:
        yield run, tell(run)


def text_of(markup: str) -> str:
    """What a person reads of some markup."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", markup)).split())


def section(page: str, name: str) -> str:
    return page.partition(f'<section aria-labelledby="{name}">')[2].partition("</section>")[0]


def access_on(page: str) -> list[tuple[str, bool, str | None, list[str]]]:
    """Key, answer, end and suspensions of each resource, as a page says it."""
    found = []
    for row in section(page, "access").split("<tr>")[2:]:
        answer, key, until, reasons = re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)
        end = re.search(r'datetime="([^"]+)"', until)
        ids = re.findall(r'/console/suspensions/([^"?]+)', reasons)
        found.append((text_of(key), "allowed" in answer, end[1] if end else None, ids))
    return found


def access_of(body: dict[str, Any]) -> list[tuple[str, bool, str | None, list[str]]]:
    """The same, as the API says it."""
    return [
        (
            f"{each['resource']['type']}:{each['resource']['id']}",
            each["allowed"],
            each["until"],
            each["suspensions"],
        )
        for each in body["resources"]
    ]


def main_of(page: str) -> str:
    """The page without what is of a session: the token of its forms."""
    return re.sub(r'name="csrf" value="[^"]+"', "", page.partition("<main")[2])


def disclosed(run: Running) -> list[dict[str, Any]]:
    found = run("GET", "/v1/events", role="auditor", params={"type": "record.disclosed"})
    items: list[dict[str, Any]] = found.json()["items"]
    return items


# --- travelling -----------------------------------------------------------------------------------


def test_a_page_says_what_the_api_answers_at_any_time(
    told: tuple[Running, dict[str, str]],
) -> None:
    """Access, standing and lists are those of the API, as of any instant, as known at any fact."""
    run, _ = told
    head = run.service.recorder.position
    start = datetime(2026, 11, 24, 10, tzinfo=UTC)
    instants = [start + timedelta(days=days) for days in (0, 20, 31, 60, 95, 126, 500)]
    standings, answers = set(), set()
    with signed_in(run, "auditor") as http:
        for number, at in enumerate(instants):
            for known in (head, head - 1 - number * 5, number):
                for subject in (SUBJECT, PARENT):
                    asked = {
                        "subject": subject,
                        "at": at.isoformat(),
                        "known_position": str(known),
                    }
                    page = http.get(RECORD, params=asked).text
                    access = run.done("GET", "/v1/access", role="auditor", params=asked)
                    record = run.done("GET", "/v1/subjects/record", role="auditor", params=asked)
                    assert access_of(access) == access_on(page)
                    assert ("good standing" in page) == (record["standing"] == "good")
                    for name in ("suspensions", "violations"):
                        links = rf"/console/{name}/([^\"?]+)\?at="
                        shown = re.findall(links, section(page, name))
                        assert [each["id"] for each in record[name]] == shown
                    for each in record["suspensions"]:
                        words = each["state"].replace("_", " ")
                        assert f">{words}</span>" in section(page, "suspensions")
                    standings.add(record["standing"])
                    answers |= {each[1] for each in access_on(page)}
    assert ({"good", "suspended"}, {True, False}) == (standings, answers)


def test_known_at_is_the_position_of_its_instant(told: tuple[Running, dict[str, str]]) -> None:
    """A field of the form without an offset is in UTC, and means what the API means by it."""
    run, _ = told
    with signed_in(run, "officer") as http:
        sent = http.get(RECORD, params={"subject": SUBJECT, "known_at": "2027-01-10T00:00"})
        assert 303 == sent.status_code
        page = http.get(sent.headers["location"])

    asked = {"subject": SUBJECT, "known_at": "2027-01-10T00:00:00Z"}
    body = run.done("GET", "/v1/access", role="officer", params=asked)
    assert str(body["known_position"]) == page.headers["ledger-position"]
    assert access_of(body) == access_on(page.text)
    assert 'value="2027-01-10T00:00:00"' in page.text


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
@pytest.mark.parametrize("known", ["0", "60", str(2**53)])
def test_the_ends_of_time_can_be_asked(
    told: tuple[Running, dict[str, str]], at: str, known: str
) -> None:
    """The picture has room for any instant that the API takes."""
    run, _ = told
    with signed_in(run, "auditor") as http:
        answer = http.get(RECORD, params={"subject": SUBJECT, "at": at, "known_position": known})
    assert 200 == answer.status_code
    assert (known == "0") == ("before anything was recorded" in answer.text)
    assert (known != "0") == ('<svg class="timeline"' in answer.text)


def test_both_kinds_of_known_at_once_are_refused(told: tuple[Running, dict[str, str]]) -> None:
    run, _ = told
    asked = {"subject": SUBJECT, "known_at": "2027-01-10T00:00:00Z", "known_position": "4"}
    with signed_in(run, "auditor") as http:
        answer = http.get(RECORD, params=asked)
    assert 422 == answer.status_code
    assert "not both" in answer.text


def test_a_banner_says_when_one_does_not_look_at_the_present(
    told: tuple[Running, dict[str, str]],
) -> None:
    """It names both times, and leads back; now there is none, and the line is that of now."""
    run, _ = told
    with signed_in(run, "auditor") as http:
        now = http.get(RECORD, params={"subject": SUBJECT}).text
        then = http.get(RECORD, params={"subject": SUBJECT, "at": "2026-12-30T00:00:00Z"}).text
        known = http.get(
            RECORD,
            params={"subject": SUBJECT, "at": "2026-12-30T00:00:00Z", "known_position": "30"},
        ).text

    assert "Not the present." not in now
    assert "Back to now" not in now
    assert ["now"] == re.findall(r'<text class="moment (\w+)"', now)
    assert "in force on 2026-12-30 00:00:00 UTC , as known now (up to event #" in text_of(then)
    assert ["as_of", "now"] == re.findall(r'<text class="moment (\w+)"', then)
    assert f'href="{RECORD}?subject=user%3Aalice">Back to now' in then
    assert "(up to event #30)" in text_of(known)
    assert ["as_of", "known"] == re.findall(r'<text class="moment (\w+)"', known)


def test_the_link_to_exactly_this_view_shows_the_same_next_year(
    told: tuple[Running, dict[str, str]],
) -> None:
    """Whatever is recorded meanwhile: the same bytes, and a year later the same page."""
    run, _ = told
    subject = "user:bob"
    first = violation_of(run, subject, details="Sealed words.")
    suspension = suspension_of(run, subject, grounds=[first])
    with signed_in(run, "auditor") as http:
        now = http.get(RECORD, params={"subject": subject}).text
        link = unescape(re.search(r'href="([^"]+)">Link to exactly this view', now)[1])  # type: ignore[index]
        before = http.get(link)
        assert 200 == before.status_code
        assert access_on(now) == access_on(before.text)

        run.clock.move(minutes=10)
        moved = {"duration": "P5M", "reason": "It went on."}
        run.done("POST", f"/v1/suspensions/{suspension}/revision", role="officer", json=moved)
        suspension_of(run, subject, scope={"resources": [{"type": "model", "id": "mini-2"}]})
        body = {"reason": "It was somebody else."}
        run.done("POST", f"/v1/violations/{first}/overturn", role="approver", json=body)
        above = {"subject": entity(subject), "parent": entity(PARENT)}
        run.done("POST", "/v1/links", role="officer", json=above)
        more = {"resource": {"type": "model", "id": f"new-{run.service.recorder.position}"}}
        run.done("PUT", "/v1/resources", role="admin", json=more)
        named = {"subject": entity(subject), "properties": {"plan": "free"}}
        run.done("PUT", "/v1/subjects", role="officer", json=named)
        wish = {"subject": entity(subject), "reason": "Asked for by the person."}
        erasure = run.done("POST", "/v1/erasures", role="admin", json=wish)["id"]
        run.done("POST", f"/v1/erasures/{erasure}/confirmation", role="approver", json={})

        again = http.get(link)
        assert before.content == again.content
        assert access_on(again.text) != access_on(
            http.get(RECORD, params={"subject": subject}).text
        )
        assert "erased" in http.get(RECORD, params={"subject": subject}).text

    run.clock.move(days=365)
    with signed_in(run, "auditor") as http:
        assert main_of(before.text) == main_of(http.get(link).text)


# --- finding --------------------------------------------------------------------------------------


def keys_on(page: str) -> list[str]:
    table = page.partition("<tbody>")[2]
    return [unescape(key) for key in re.findall(r'<a class="id"[^>]*>(.*?)</a>', table, re.DOTALL)]


def test_a_subject_is_found_by_how_it_begins(told: tuple[Running, dict[str, str]]) -> None:
    """By the id in any type, by the key, within a type; an exact key is offered, known or not."""
    run, _ = told

    def found(**asked: str) -> list[str]:
        with signed_in(run, "approver") as http:
            page = http.get("/console/subjects", params=asked)
        assert 200 == page.status_code
        return keys_on(page.text)

    everything = found()
    assert everything == sorted(everything, key=str.encode)
    assert {SUBJECT, HOSTILE, PARENT, "api_key:k1"} <= set(everything)
    assert [SUBJECT] == found(q="alic")
    assert [SUBJECT] == found(q="user:alice")
    assert [PARENT] == found(q="north", type="organization")
    assert [] == found(q="north", type="user")
    assert [HOSTILE] == found(q=HOSTILE)
    assert [HOSTILE] == found(q=HOSTILE.partition(":")[2][:12])
    assert [] == found(q="ALICE")
    assert [] == found(q="_lice")
    assert [] == found(known_position="1")

    with signed_in(run, "auditor") as http:
        unknown = http.get("/console/subjects", params={"q": "user:nobody"}).text
        assert "record?subject=user%3Anobody" in unknown
        page = http.get(RECORD, params={"subject": "user:nobody"}).text
    assert "The ledger knew no fact about it." in page
    assert "in good standing" in page


def test_the_list_is_walked_page_by_page(told: tuple[Running, dict[str, str]]) -> None:
    """Nothing comes twice and nothing is left out."""
    run, _ = told
    with signed_in(run, "auditor") as http:
        whole = keys_on(http.get("/console/subjects").text)
        walked, following = list[str](), "/console/subjects?limit=1"
        while following:
            page = http.get(following).text
            walked += keys_on(page)
            link = re.search(r'rel="next" href="([^"]+)"', page)
            following = unescape(link[1]) if link else ""
    assert whole == walked


def test_an_id_is_looked_for_in_every_type() -> None:
    """A text with a colon may be a key, or an id that holds one."""
    assert ["app:a", "user:a"] == beginnings("a", None, ["app", "user"])
    assert ["app:user:a", "user:user:a", "user:a"] == beginnings("user:a", None, ["app", "user"])
    assert ["user:app:a"] == beginnings("app:a", "user", ["app", "user"])


def test_only_so_many_types_are_offered(shared: Running) -> None:
    """The rest can be named in the address, or before the colon."""
    names = [f"kind-{number:03}" for number in range(TYPES_SHOWN_MAX + 1)]
    for name in names:
        body = {"subject": entity(f"{name}:x")}
        shared.done("PUT", "/v1/subjects", role="officer", json=body)
    with signed_in(shared, "auditor") as http:
        page = http.get("/console/subjects").text
        last = http.get("/console/subjects", params={"q": f"{names[-1]}:"}).text

    assert TYPES_SHOWN_MAX == page.count('<option value="kind-')
    assert [f"{names[-1]}:x"] == keys_on(last)


# --- roles, words, sealed -------------------------------------------------------------------------


def test_only_who_may_read_records_through_the_api_may_here(
    told: tuple[Running, dict[str, str]],
) -> None:
    """An administrator is refused, and sees no link; a link to the trail is for who may read it."""
    run, _ = told
    with signed_in(run, "admin") as http:
        for path in ("/console/subjects", f"{RECORD}?subject={SUBJECT}"):
            assert 403 == http.get(path).status_code
        form = {"subject": SUBJECT, "position": "1", "csrf": csrf_in(http.get("/console").text)}
        assert 403 == http.post("/console/subjects/reveal", data=form).status_code
        assert 'href="/console/subjects"' not in http.get("/console").text
    for role in ("auditor", "officer", "approver"):
        with signed_in(run, role) as http:
            page = http.get(RECORD, params={"subject": SUBJECT}).text
        head, _, main = page.partition("<main")
        assert 'href="/console/subjects" aria-current="page"' in head
        assert ('href="/console/trail"' in head) == ('href="/console/trail?' in main)


def test_words_are_words_and_ids_lead_where_they_say(
    told: tuple[Running, dict[str, str]],
) -> None:
    """Nothing recorded becomes markup, and the hostile id comes through each of our links."""
    run, _ = told
    # As known at a position: terms that end by themselves are recorded at any moment.
    times = {"at": "2027-04-01T00:00:00Z", "known_position": str(run.service.recorder.position)}
    with signed_in(run, "auditor") as http:
        page = http.get(RECORD, params={"subject": HOSTILE, **times}).text
        listed = http.get("/console/subjects", params=times).text
        link = re.search(r'<a class="id" href="([^"]+)">user:a/b', listed)
        assert link is not None
        assert main_of(page) == main_of(http.get(unescape(link[1])).text)

    for markup in ("<script", "<img", "onerror=alert(1)>", "</title></svg>"):
        assert markup not in page.replace("onerror=alert(1)&gt;", "")
    assert HOSTILE.partition(":")[2] in unescape(page)
    assert HOSTILE_WORDS in unescape(page)


def reveal(http: httpx.Client, subject: str, position: int) -> httpx.Response:
    page = http.get(RECORD, params={"subject": subject}).text
    form = {"subject": subject, "position": str(position), "csrf": csrf_in(page)}
    return http.post("/console/subjects/reveal", data=form)


def test_what_is_sealed_is_shown_on_request_and_that_is_recorded(
    told: tuple[Running, dict[str, str]],
) -> None:
    """The page itself never shows it; the button does, as ``reveal=true`` does in the API."""
    run, ids = told
    (violation,) = [
        each
        for each in run("GET", f"/v1/violations?subject={SUBJECT}", role="auditor").json()["items"]
        if each["id"] == ids["violation"]
    ]
    before = len(disclosed(run))
    with signed_in(run, "officer") as http:
        page = http.get(RECORD, params={"subject": SUBJECT}).text
        assert ">sealed</span>" in page
        assert "with a name" not in page
        assert before == len(disclosed(run))

        shown = reveal(http, SUBJECT, violation["position"])
        assert 200 == shown.status_code
        assert "The whole mail, with a name." in shown.text
        assert "s3://case/7781" in shown.text

        form = {"subject": SUBJECT, "position": str(violation["position"])}
        assert 403 == http.post("/console/subjects/reveal", data=form).status_code
    newest = disclosed(run)
    assert before + 1 == len(newest)
    assert ("the-officer", violation["position"]) == (
        newest[0]["operator"],
        newest[0]["data"]["shown_position"],
    )


def test_nothing_else_is_shown_and_then_nothing_is_recorded(
    told: tuple[Running, dict[str, str]],
) -> None:
    """An event of another subject, one that is none, and one that seals nothing."""
    run, _ = told
    before = len(disclosed(run))
    with signed_in(run, "auditor") as http:
        for subject, position in ((PARENT, 26), (SUBJECT, 1), (SUBJECT, 10**9)):
            assert 404 == reveal(http, subject, position).status_code
        token = csrf_in(http.get("/console").text)
        for wrong in ("", "x", "-1", "9" * 40):
            form = {"subject": SUBJECT, "position": wrong, "csrf": token}
            assert 422 == http.post("/console/subjects/reveal", data=form).status_code
        (warned,) = run("GET", f"/v1/warnings?subject={SUBJECT}", role="auditor").json()["items"]
        assert "Nothing is left to show" in reveal(http, SUBJECT, warned["position"]).text
    assert before == len(disclosed(run))


def test_a_long_list_shows_its_newest(shared: Running) -> None:
    """How many there are is said, and the picture has all of them."""
    for _ in range(ROWS_SHOWN_MAX + 1):
        violation_of(shared, "user:busy")
    with signed_in(shared, "auditor") as http:
        page = http.get(RECORD, params={"subject": "user:busy"}).text

    assert f"<small>({ROWS_SHOWN_MAX + 1})</small>" in page
    assert ROWS_SHOWN_MAX == section(page, "violations").count("/console/violations/")
    assert f"The newest {ROWS_SHOWN_MAX}" in page
    assert f">{ROWS_SHOWN_MAX + 1}</text>" in section(page, "timeline")
