"""The report's page: figures, plots and tables of a period, and a link to exactly this."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from html import unescape

import httpx
import pytest
from playwright.sync_api import Browser

from ledger.domain.values import Role
from ledger.service.http.report import READERS
from tests.conftest import SetClock, settings_at
from tests.service.conftest import Running, found, opened, suspension_of, violation_of
from tests.service.console.conftest import (
    PHONE,
    opened_page,
    overflow_of,
    signed_in,
    violations_in,
)

HOSTILE = "model:<script>alert(1)</script>\"'"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A ledger with a few facts in a quarter, one of them about a model with a hostile name."""
    folder = tmp_path_factory.mktemp("report")
    settings = settings_at(
        f"sqlite:///{folder / 'ledger.db'}", folder, origin="test.ledger", transparency="quarter"
    )
    clock = SetClock(datetime(2026, 8, 3, 9, 0, tzinfo=UTC))
    with opened(settings, clock) as run:
        found(run)
        for number in range(6):
            suspension_of(run, f"user:u{number}")
        scope = {"resources": [{"type": "model", "id": HOSTILE.removeprefix("model:")}]}
        suspension_of(run, "user:u0", scope=scope, grounds=[], basis="legal_order")
        clock.now = datetime(2026, 10, 5, 9, 0, tzinfo=UTC)
        violation_of(run, "user:u9")
        yield run


def images_of(page: httpx.Response) -> list[str]:
    """The addresses of the pictures of a page."""
    return [unescape(each) for each in re.findall(r'<img src="([^"]+)"', page.text)]


def test_the_page_shows_the_figures_of_a_period_and_its_position(run: Running) -> None:
    """Each kind of figure, the position that they are a function of, and a link that pins it."""
    with signed_in(run, "auditor") as http:
        page = http.get("/console/report?period=2026-Q3")
        known = run.service.recorder.position
        link = re.search(r'href="([^"]+)">Link to exactly this report', page.text)
        assert link is not None
        exact = http.get(unescape(link[1]))

    assert f"as known at position <strong>{known}</strong>" in page.text
    for heading in ("Violations by clause", "Suspensions by model", "Reinstatements by cause"):
        assert heading in page.text
    assert 200 == exact.status_code
    assert str(known) == exact.headers["Ledger-Position"]
    assert images_of(page) == images_of(exact)


def test_the_exact_link_shows_the_same_after_more_was_recorded(run: Running) -> None:
    """The page that a link pins is the same, byte for byte, but for the token of its forms."""
    known = run.service.recorder.position
    address = (
        f"/console/report?from=2026-07-01T00:00:00Z&to=2027-01-01T00:00:00Z&known_position={known}"
    )
    with signed_in(run, "auditor") as http:
        before = http.get(address)
        violation_of(run, "user:u9")
        after = http.get(address)

    assert before.text == after.text


def test_every_plot_of_the_page_is_served(run: Running) -> None:
    """As an SVG that may run nothing, with the hostile name as words in it."""
    with signed_in(run, "approver") as http:
        page = http.get("/console/report?period=2026-Q3")
        pictures = [http.get(address) for address in images_of(page)]

    assert 7 == len(pictures)
    for picture in pictures:
        assert 200 == picture.status_code
        assert "image/svg+xml" == picture.headers["Content-Type"]
        assert (
            "default-src 'none'; frame-ancestors 'none'"
            == (picture.headers["Content-Security-Policy"])
        )
        assert "<script" not in picture.text
    assert "<script" not in page.text
    assert any("&lt;script&gt;alert" in picture.text for picture in pictures)


@pytest.mark.parametrize("role", [Role.AUDITOR, Role.OFFICER, Role.APPROVER, Role.ADMIN])
def test_who_reads_the_report_by_the_api_reads_it_here(run: Running, role: Role) -> None:
    """The same roles; who is not signed in is sent to the sign-in page."""
    assert role in READERS
    with signed_in(run, role) as http:
        assert 200 == http.get("/console/report").status_code
        http.cookies.clear()
        assert 303 == http.get("/console/report").status_code
        plot = "/console/report/plot/violations-by-month.svg"
        query = "?from=2026-07-01T00:00:00Z&to=2026-10-01T00:00:00Z&known_position=9"
        assert 303 == http.get(plot + query).status_code


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("period=2026-Q5", "a period is a month, quarter or year"),
        ("from=2026-07-01", "give a period by its name, or both"),
        ("period=2026&from=2026-07-01", "give a period by its name, or both"),
        ("from=2026-07-01&to=2026-07-01", "to must be later than from"),
        ("period=2026&known_position=99999", "the ledger ends at position"),
    ],
)
def test_a_period_that_is_none_is_refused_with_words(run: Running, query: str, words: str) -> None:
    """A page says what is wrong."""
    with signed_in(run, "auditor") as http:
        page = http.get(f"/console/report?{query}", follow_redirects=True)

    assert 422 == page.status_code
    assert words in page.text


@pytest.mark.parametrize(
    ("address", "role", "dark"),
    [("/console/report?period=2026-Q3", "auditor", True), ("/transparency", None, False)],
)
def test_the_report_can_be_read_in_a_browser_by_everybody(
    run: Running, browser: Browser, address: str, role: str | None, dark: bool
) -> None:
    """On a phone nothing overflows, the pictures load, and the rules of accessibility hold."""
    with opened_page(browser, run, role, size=PHONE, dark=dark) as page:
        page.goto(address)
        for picture in page.get_by_role("img").all():
            picture.scroll_into_view_if_needed()
            width = "async e => { await e.decode(); return e.naturalWidth }"
            assert picture.evaluate(width) > 0

        assert 0 == overflow_of(page)
        assert [] == violations_in(page)
