"""A subject's record in a real browser: on a phone, in the dark, with hostile ids and words."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from playwright.sync_api import Browser, Dialog, Page

from tests.service.conftest import Running, founded_on
from tests.service.console.conftest import PHONE, opened_page, overflow_of, violations_in
from tests.service.console.subject_history import (
    HOSTILE,
    HOSTILE_WORDS,
    LONG_MODEL,
    SUBJECT,
    tell,
)


@pytest.fixture(scope="module")
def told(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    with founded_on("sqlite", request, tmp_path_factory.mktemp("told")) as run:
        tell(run)
        yield run


def record_of(subject: str, **more: str) -> str:
    return f"/console/subjects/record?{urlencode({'subject': subject, **more})}"


def wrapped(page: Page) -> int:
    """How many of the names that must stay whole are broken over several lines."""
    lines: int = page.evaluate(
        "[...document.querySelectorAll('.whole .id, small.whole')]"
        ".filter(each => each.getClientRects().length > 1).length"
    )
    return lines


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_record_is_accessible_and_fits_a_phone(
    told: Running, browser: Browser, dark: bool
) -> None:
    """Only the picture and the tables scroll, each in its own box; no name is broken."""
    with opened_page(browser, told, "auditor", size=PHONE, dark=dark) as page:
        for address in ("/console/subjects", record_of(SUBJECT), record_of(HOSTILE)):
            page.goto(address)
            assert 0 == overflow_of(page), address
            assert [] == violations_in(page), address
            assert 0 == wrapped(page)
        page.goto(record_of(SUBJECT, at="2027-02-20T00:00:00Z", known_position="40"))
        page.get_by_text("The same as a table").click()
        assert page.get_by_role("cell", name="warned", exact=True).is_visible()
        assert 0 == overflow_of(page)
        assert [] == violations_in(page)


def test_no_label_leaves_the_picture(told: Running, browser: Browser) -> None:
    """Every text of it stands between its edges, the longest name too."""
    with opened_page(browser, told, "officer") as page:
        page.goto(record_of(SUBJECT))
        picture = page.get_by_role("img", name=f"Timeline of {SUBJECT}")
        beyond = picture.evaluate(
            "svg => [...svg.querySelectorAll('text')].map(text => [text.getBBox(), text])"
            ".filter(([box]) => box.x < 0 || box.x + box.width > svg.viewBox.baseVal.width"
            " || box.y + box.height > svg.viewBox.baseVal.height)"
            ".map(([, text]) => text.textContent)"
        )
        assert [] == beyond
        assert picture.get_by_text(f"model:{LONG_MODEL} (use only)").is_visible()


def test_travel_works_without_script(told: Running, browser: Browser) -> None:
    """The two pickers make an address, the page says that it is not now, and leads back."""
    with opened_page(browser, told, "approver", script=False) as page:
        page.goto(record_of(HOSTILE))
        page.get_by_label("As of (UTC)").fill("2026-12-30T12:30")
        page.get_by_label("As known on (UTC)").fill("2027-01-10T00:00:00")
        page.get_by_role("button", name="Look").click()
        page.get_by_text("Not the present.").wait_for()

        asked = parse_qs(urlsplit(page.url).query)
        assert {
            "subject": [HOSTILE],
            "at": ["2026-12-30T12:30:00Z"],
            "known_at": ["2027-01-10T00:00:00Z"],
        } == asked
        assert "2026-12-30T12:30" == page.get_by_label("As of (UTC)").input_value()
        assert page.get_by_text("The ledger knew no fact about it.").is_visible()

        page.get_by_role("link", name="Back to now").click()
        page.get_by_text("suspended", exact=True).first.wait_for()
        assert {"subject": [HOSTILE]} == parse_qs(urlsplit(page.url).query)


def test_hostile_ids_and_words_do_nothing(told: Running, browser: Browser) -> None:
    """No dialog opens, the browser complains about nothing, and what was sealed is only text."""
    with opened_page(browser, told, "auditor") as page:
        opened, said = list[str](), list[str]()

        def dismiss(dialog: Dialog) -> None:
            opened.append(dialog.message)
            dialog.dismiss()

        page.on("dialog", dismiss)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto("/console/subjects")
        page.get_by_label("Id, or type:id, begins").fill(HOSTILE)
        page.get_by_role("button", name="Find").click()
        page.get_by_role("table").get_by_role("link").click()
        page.get_by_role("heading", level=1).get_by_text("a/b?c&d=e#f").wait_for()
        assert page.get_by_text(HOSTILE_WORDS).first.is_visible()

        page.get_by_role("button", name="Show #").click()
        page.get_by_text("It is recorded that you were shown this.").wait_for()
        assert HOSTILE_WORDS == page.locator("dl.revealed pre").inner_text()
        assert [] == opened
        assert [] == said
