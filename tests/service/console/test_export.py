"""A list is taken along from its page: the very bytes of the API's export, recorded, by a form."""

from __future__ import annotations

import hashlib
import html
import re

import httpx
import pytest

from tests.service.conftest import Running, suspension_of, violation_of
from tests.service.console.conftest import csrf_in, signed_in

FORMATS = ("ndjson", "csv", "parquet", "cloudevents", "ocsf")


def offered(page: str) -> str:
    """Where the export form of a page is sent."""
    found = re.search(r'class="export" method="post" action="([^"]*)"', page)
    assert found is not None
    return html.unescape(found[1])


@pytest.mark.parametrize("format", FORMATS)
def test_the_file_is_what_was_on_the_page(shared: Running, format: str) -> None:
    """With all pages of it, and nothing that came later; who took it is recorded."""
    violation_of(shared, "user:taken")
    suspension_of(shared, "user:taken", reason="=1+1")
    with signed_in(shared, "auditor") as http:
        page = http.get("/console/trail?subject=user:taken&limit=1&order=oldest").text
        address, before = offered(page), shared.service.recorder.position
        violation_of(shared, "user:taken")
        file = http.post(address, data={"csrf": csrf_in(page), "format": format})
        made = http.post(
            address, data={"csrf": csrf_in(page), "format": format, "part": "manifest"}
        )

    assert 200 == file.status_code, file.text
    position = shared.service.recorder.position
    event = shared.done("GET", f"/v1/events/{position}", role="auditor")
    assert ("record.disclosed", "the-auditor") == (event["type"], event["operator"])
    assert event["data"]["export"] == {
        "view": "events",
        "format": format,
        "filters": [["subject", "user:taken"]],
        "position": before,
    }
    asked = {
        "format": format,
        "order": "oldest",
        "subject": "user:taken",
        "known_position": str(before),
    }
    by_api = shared("GET", "/v1/events/export", role="auditor", params=asked)
    assert by_api.content == file.content
    assert by_api.headers["content-disposition"] == file.headers["content-disposition"]
    manifest = made.json()
    assert hashlib.sha256(file.content).hexdigest() == manifest["sha256"]
    assert f"{manifest['file']}.manifest.json" in made.headers["content-disposition"]


def test_a_link_takes_nothing_along(shared: Running) -> None:
    """It leads to a page that says what would be exported; only a form from here exports."""
    before = shared.service.recorder.position
    with signed_in(shared, "auditor") as http:
        answer = http.get("/console/export/events?category=fraud&q=%3Cb%3E")
        address = offered(answer.text)
        assert {"category": "fraud", "q": "<b>", "known_position": str(before)} == dict(
            httpx.URL(address).params
        )
        assert "<dd>&lt;b&gt;</dd>" in answer.text
        assert all(f">{name}</option>" in answer.text for name in FORMATS)
        assert 403 == http.post(address, data={"format": "csv"}).status_code
        wrong = {"csrf": csrf_in(answer.text), "format": "xlsx"}
        assert 422 == http.post(address, data=wrong).status_code
        wrong = {"csrf": csrf_in(answer.text), "format": "csv", "part": "half"}
        assert 422 == http.post(address, data=wrong).status_code
        assert 422 == http.get("/console/export/events?order=some").status_code
    assert before == shared.service.recorder.position


@pytest.mark.parametrize("view", ["suspensions", "violations", "reinstatements", "warnings"])
def test_each_role_takes_what_it_may_read(shared: Running, view: str) -> None:
    """As in the API: an officer the lists of conduct, the trail only an auditor."""
    suspension_of(shared, f"user:{view}")
    with signed_in(shared, "officer") as http:
        page = http.get(f"/console/export/{view}?subject=user:{view}").text
        assert "ocsf" not in page.partition("<main")[2]
        file = http.post(offered(page), data={"csrf": csrf_in(page), "format": "csv"})
        assert (200, "text/csv; charset=utf-8; header=present") == (
            file.status_code,
            file.headers["content-type"],
        )
        assert 403 == http.get("/console/export/events").status_code
        refused = http.post("/console/export/events", data={"csrf": csrf_in(page)})
        assert 403 == refused.status_code
