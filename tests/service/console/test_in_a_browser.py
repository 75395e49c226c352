"""A person at a browser: signing in and looking around, on a phone, in light and in dark."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser

from tests.service.conftest import Running
from tests.service.console.conftest import PHONE, opened_page, overflow_of, sign_in, violations_in


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_sign_in_and_overview_are_accessible_and_fit_a_phone(
    shared: Running, browser: Browser, dark: bool
) -> None:
    """The rules of axe-core find nothing, and no page is wider than a phone."""
    with opened_page(browser, shared, size=PHONE, dark=dark) as page:
        page.goto("/console/sign-in")
        assert 0 == overflow_of(page)
        assert [] == violations_in(page)
        sign_in(page, shared.keys["auditor"])
        assert 0 == overflow_of(page)
        assert [] == violations_in(page)


def test_the_console_is_usable_by_keyboard_and_without_script(
    shared: Running, browser: Browser
) -> None:
    """The field has the focus, Enter sends the form, and the first stop on a page skips to it."""
    with opened_page(browser, shared, script=False) as page:
        page.goto("/console")
        page.locator("#key:focus").wait_for()
        page.keyboard.type(shared.keys["officer"])
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Sign out").wait_for()

        page.keyboard.press("Tab")
        assert "Skip to the content" == page.locator(":focus").inner_text()
        assert page.locator(":focus").bounding_box()["x"] >= 0  # type: ignore[index]
        page.keyboard.press("Enter")
        assert page.url.endswith("#main")

        page.get_by_role("button", name="Sign out").press("Enter")
        page.get_by_label("Your key").wait_for()


def test_a_link_on_another_site_leads_to_the_page(shared: Running, browser: Browser) -> None:
    """A colleague's link opens although the strict cookie does not come with the first visit."""
    with opened_page(browser, shared, "auditor") as page:
        elsewhere = shared.url.replace("127.0.0.1", "localhost")
        page.goto(f"{elsewhere}/console/sign-in")
        page.evaluate(f"location.assign('{shared.url}/console?known_position=1')")

        page.get_by_role("button", name="Sign out").wait_for()
        assert page.url == f"{shared.url}/console?known_position=1"


def test_nothing_foreign_is_asked_for_or_run(shared: Running, browser: Browser) -> None:
    """A page asks only its own server, and the browser complains about nothing."""
    with opened_page(browser, shared) as page:
        asked, said = list[str](), list[str]()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        sign_in(page, shared.keys["auditor"])

    assert asked
    assert [] == [url for url in asked if not url.startswith(shared.url)]
    assert [] == said
