"""The pages of what is recorded, in a real browser: nothing runs, nothing overflows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Dialog

from tests.service.conftest import Running, founded_on
from tests.service.console.conftest import PHONE, opened_page, overflow_of, violations_in
from tests.service.console.test_recorded_pages import SECRET, fill, newest, pages_of


@pytest.fixture(scope="module")
def told(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A ledger with some of everything that the pages show, hostile words among it."""
    with founded_on("sqlite", request, tmp_path_factory.mktemp("told")) as run:
        fill(run)
        yield run


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_pages_are_accessible_fit_a_phone_and_run_nothing(
    told: Running, browser: Browser, dark: bool
) -> None:
    """No dialog opens, no policy is violated, axe-core finds nothing, and no page is too wide."""
    said: list[str] = []

    def dismiss(dialog: Dialog) -> None:
        said.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def note(message: ConsoleMessage) -> None:
        said.append(message.text)

    addresses = [each for each in pages_of(told) if each != "/console/operators"]
    with opened_page(browser, told, "auditor", size=PHONE, dark=dark) as page:
        page.on("dialog", dismiss)
        page.on("console", note)
        for number, address in enumerate(addresses):
            answer = page.goto(address)
            assert answer is not None
            assert (200, 0) == (answer.status, overflow_of(page)), address
            # The rules take a second for each page; some in the dark, some in the light.
            if number % 4 == (2 if dark else 0):
                assert [] == violations_in(page), address
    with opened_page(browser, told, "admin", size=PHONE, dark=dark) as page:
        page.goto("/console/operators")
        assert 0 == overflow_of(page)
        assert [] == violations_in(page)
    assert [] == said


def test_somebody_finds_a_suspension_and_looks_into_its_note(
    told: Running, browser: Browser
) -> None:
    """By the form of the list, to the page, to the text, without script."""
    suspension = newest(told, "suspensions", subject="user:s1")
    with opened_page(browser, told, "approver", script=False) as page:
        page.goto("/console/suspensions")
        page.get_by_label("Subject", exact=True).fill("user:s1")
        page.get_by_label("State").select_option("in force")
        page.get_by_role("button", name="Filter").click()
        page.get_by_role("link", name=suspension["id"]).click()
        page.get_by_role("button", name="Show the note in clear").click()
        page.get_by_text(SECRET).wait_for()


def test_somebody_compares_two_versions(told: Running, browser: Browser) -> None:
    """The form leads to an address that shows the words that went and came."""
    with opened_page(browser, told, "auditor") as page:
        page.goto("/console/policies/aup")
        page.get_by_label("Compare").select_option("version 1")
        page.get_by_role("button", name="Compare").click()
        assert "from=1" in page.url
        assert page.locator("del", has_text="Do not").first.is_visible()
        assert page.locator("ins", has_text="Never").first.is_visible()
