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
