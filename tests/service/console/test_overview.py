"""The overview shows each role what it may read, then as now, and hostile words stay words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape

import pytest

from ledger.service.console.pages.overview import SHOWN_MAX
from tests.conftest import SetClock
from tests.service.conftest import WITHIN_S, Running, founded_on, suspension_of, violation_of
from tests.service.console.conftest import signed_in

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7 * 7 }}"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def told(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A ledger with something of each kind on its overview."""
    with founded_on(request.param, request, tmp_path_factory.mktemp("told")) as run:
        fill(run)
        yield run


def fill(run: Running) -> None:
    """Record suspensions that are in force, due, over, scheduled, and one with hostile words."""
    for number in range(SHOWN_MAX + 2):
        suspension_of(run, f"user:due-{number:02}", duration=f"P{number + 3}D")
    suspension_of(run, "user:far", duration="P3M")
    suspension_of(run, "user:later", effective_at="2027-01-01T00:00:00Z", duration="P1D")
    suspension_of(run, "user:waits", duration="P1D", reinstatement="on_review")
    ground = violation_of(run, "user:cleared")
    suspension_of(run, "user:cleared", grounds=[ground])
    body = {"reason": "It was somebody else."}
    run.done("POST", f"/v1/violations/{ground}/overturn", role="approver", json=body)
    suspension_of(run, "user:<b>&\"'", reason=HOSTILE, duration="P2D")
    wish = {"subject": {"type": "user", "id": "gone"}, "reason": HOSTILE}
    run.done("POST", "/v1/erasures", role="admin", json=wish)
    assert isinstance(run.clock, SetClock)
    run.clock.move(days=1, seconds=1)


def test_an_auditor_sees_what_matters(told: Running) -> None:
    """The figures are those of the lists of the API, and the next to end comes first."""
    with signed_in(told, "auditor") as http:
        page = http.get("/console").text

    def count(**filters: str) -> int:
        found = told("GET", "/v1/suspensions", role="auditor", params={**filters, "limit": "1000"})
        return len(found.json()["items"])

    figures = [count(state="in_force"), count(review="true"), count(state="scheduled")]
    assert [f'<span class="figure">{figure}</span>' in page for figure in figures] == [True] * 3
    assert f"The next {SHOWN_MAX} of {SHOWN_MAX + 3}" in page
    due = page.partition('id="due"')[2].partition("</section>")[0]
    assert due.index("user:due-00") < due.index("user:due-01")
    assert "user:far" not in due
    waits = page.partition('id="review"')[2].partition("</section>")[0]
    assert "user:waits" in waits
    assert "Latest events" in page
    assert "Erasures that wait" in page


@pytest.mark.parametrize(
    ("role", "sees", "does_not_see"),
    [
        ("officer", ["Waits for a person"], ["Latest events", "Erasures that wait"]),
        ("approver", ["Waits for a person", "Erasures that wait"], ["Latest events"]),
        ("admin", ["Erasures that wait"], ["Waits for a person", "Latest events"]),
    ],
)
def test_each_role_sees_what_it_may_read(
    told: Running, role: str, sees: list[str], does_not_see: list[str]
) -> None:
    """The console opens to nobody what the API would not answer."""
    with signed_in(told, role) as http:
        page = http.get("/console").text

    assert [words for words in sees if words not in page] == []
    assert [words for words in does_not_see if words in page] == []
    assert "Health of the log" in page


def test_what_waits_leads_whoever_may_to_the_form_that_settles_it(told: Running) -> None:
    """Every form that is linked opens; who decides nothing, or looks at another time, gets none."""
    forms = {
        "officer": {"reinstate", "revise"},
        "approver": {"reinstate", "confirm-erasure"},
        "auditor": set[str](),
    }
    for role, expected in forms.items():
        with signed_in(told, role) as http:
            main = http.get("/console").text.partition("<main")[2]
            linked = re.findall(r'href="(/console/([a-z-]+)\?[^"]*)">(?:End|Move|Confirm) ', main)
            assert expected == {name for _, name in linked}
            for address, _ in linked[-2:]:
                assert 200 == http.get(unescape(address)).status_code
            then = http.get("/console?known_position=30").text.partition("<main")[2]
            assert 'class="acts"' not in then


def test_the_overview_travels_in_time(told: Running) -> None:
    """Another day, and what was known at another position, are parameters of the address."""
    with signed_in(told, "auditor") as http:
        before = http.get("/console?at=2026-11-24T10:00:00Z").text
        unknown = http.get("/console?known_position=1").text

    waits = before.partition('id="review"')[2].partition("</section>")[0]
    assert "user:waits" not in waits
    assert "No suspension waits for a person." in unknown
    assert "known_position=1" in unknown


def test_words_are_words(told: Running) -> None:
    """Nothing that somebody recorded becomes part of the page's own markup."""
    with signed_in(told, "auditor") as http:
        page = http.get("/console").text

    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "{{ 7 * 7 }}" in page
    for markup in ("<script", "<img", "<b>", " onerror=alert(1)>{{"):
        assert markup not in page.replace("&lt;img src=x onerror=alert(1)&gt;", "")


def test_the_log_is_shown_as_it_is(told: Running) -> None:
    """Its size, its newest checkpoint and when that was signed."""
    size = told.service.recorder.position
    assert told.service.signer.wait_for(size, WITHIN_S)
    with signed_in(told, "auditor") as http:
        page = http.get("/console").text

    assert f"over {size} events" in page
    assert "No witness is named in the settings." in page
