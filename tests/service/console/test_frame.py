"""What every page has around it: a policy that allows nothing foreign, navigation, refusals."""

from __future__ import annotations

import re

import pytest

from ledger.service.console.frame import POLICY, STATIC, static_address
from ledger.tlog.log import LogRows
from tests.service.conftest import Running
from tests.service.console.conftest import client_of, signed_in


@pytest.mark.parametrize("path", ["/console", "/console/sign-in", "/console/nowhere"])
def test_no_page_can_be_framed_sniffed_or_made_to_run_foreign_script(
    shared: Running, path: str
) -> None:
    """Pages and refusals alike carry the headers that keep others out."""
    with signed_in(shared, "auditor") as http:
        headers = http.get(path).headers

    assert POLICY == headers["content-security-policy"]
    assert "unsafe" not in POLICY
    assert "DENY" == headers["x-frame-options"]
    assert "nosniff" == headers["x-content-type-options"]
    assert "same-origin" == headers["referrer-policy"]
    assert "no-store" == headers["cache-control"]


def test_a_file_is_kept_for_ever_under_the_address_of_its_content(shared: Running) -> None:
    """With its version the file never changes; without, the browser asks whether it did."""
    for name, file in STATIC.items():
        kept = shared.http.get(static_address(name))
        assert file.content == kept.content
        assert "immutable" in kept.headers["cache-control"]

        asked = shared.http.get(f"/console/static/{name}")
        assert "no-cache" == asked.headers["cache-control"]
        again = shared.http.get(
            f"/console/static/{name}", headers={"If-None-Match": asked.headers["etag"]}
        )
        assert (304, b"") == (again.status_code, again.content)


def test_what_is_no_page_is_answered_as_a_page(shared: Running) -> None:
    """An unknown address says so in the console's own look, to whoever asks."""
    for client in (client_of(shared), signed_in(shared, "admin")):
        with client as http:
            for path in ("/console/nowhere", "/console/static/none.css", "/console/static/a/b"):
                answer = http.get(path)
                assert 404 == answer.status_code
                assert answer.headers["content-type"].startswith("text/html")
                assert "<code>not_found</code>" in answer.text


def test_an_unknown_parameter_is_refused_as_a_page(shared: Running) -> None:
    """A filter that is misspelt is not silently left out."""
    with signed_in(shared, "auditor") as http:
        answer = http.get("/console", params={"knwon_position": "4"})

    assert 422 == answer.status_code
    assert "knwon_position" in answer.text
    assert "<h1>The request is not valid</h1>" in answer.text


@pytest.mark.parametrize(
    ("given", "in_order"),
    [
        ("?at=", ""),
        ("?at=2026-11-24T10:00&known_position=", "?at=2026-11-24T10%3A00%3A00Z"),
        ("?known_at=2026-11-24", "?known_at=2026-11-24T00%3A00%3A00Z"),
    ],
)
def test_an_address_is_put_in_order(shared: Running, given: str, in_order: str) -> None:
    """What an empty field or a field of date and time makes of the address is mended once."""
    with signed_in(shared, "auditor") as http:
        answer = http.get(f"/console{given}")
        assert (303, f"/console{in_order}") == (answer.status_code, answer.headers["location"])
        assert 200 == http.get(answer.headers["location"]).status_code


def test_the_link_to_exactly_this_view_pins_what_was_known(shared: Running) -> None:
    """The link at the foot names both times, and shows the same view."""
    with signed_in(shared, "auditor") as http:
        position = int(http.get("/console").headers["ledger-position"])
        page = http.get("/console").text

    assert f"known_position={position}" in page
    assert "at=2026-11-24T10%3A00%3A00.000000Z" in page


def test_pages_are_no_part_of_the_api(shared: Running) -> None:
    """The OpenAPI document describes the API only."""
    assert [] == [
        path for path in shared("GET", "/openapi.json").json()["paths"] if "console" in path
    ]


def test_a_fault_of_ours_is_answered_as_a_page(
    shared: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says nothing of the inside, and the API's own answer to a fault stays what it was."""

    def fail(*_: object) -> None:
        raise RuntimeError("the inside")

    monkeypatch.setattr(LogRows, "newest_signed", fail)
    with signed_in(shared, "auditor") as http:
        answer = http.get("/console")

    assert 500 == answer.status_code
    assert "<code>internal_error</code>" in answer.text
    assert "the inside" not in answer.text
    assert POLICY == answer.headers["content-security-policy"]


def test_a_page_can_be_asked_for_its_head(shared: Running) -> None:
    """A program that looks whether a link leads somewhere gets the status and no body."""
    with signed_in(shared, "auditor") as http:
        answer = http.head("/console")

    assert (200, b"") == (answer.status_code, answer.content)


def test_the_navigation_shows_in_which_area_a_page_is(shared: Running) -> None:
    """Also where the address of the page does not begin with that of its area."""
    shown = {
        ("auditor", "/console"): "/console",
        ("auditor", "/console/events/1"): "/console/trail",
        ("auditor", "/console/export/events"): "/console/trail",
        ("auditor", "/console/export/warnings"): "/console/warnings",
        ("auditor", "/console/groups"): "/console/models",
        ("officer", "/console/suspend?subject=user:new"): "/console/record",
        ("admin", "/console/issue-key"): "/console/record",
    }
    for (role, address), area in shown.items():
        with signed_in(shared, role) as http:
            page = http.get(address)
            assert 200 == page.status_code, address
            assert [area] == re.findall(r'href="([^"]+)" aria-current="page"', page.text), address


def test_the_navigation_shows_what_the_role_may_open(shared: Running) -> None:
    """What is not there, or not for the role, is not linked; every link leads somewhere."""
    for role in ("auditor", "officer", "approver", "admin"):
        with signed_in(shared, role) as http:
            page = http.get("/console").text
            linked = re.findall(r'href="(/console[^"?]*)"', page.partition("<main")[0])
            assert "/console" in linked
            assert [200] * len(linked) == [http.get(each).status_code for each in linked]
