"""The console under test: a client that is signed in, and a real browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, Page, sync_playwright

from tests.service.conftest import Running

ARGUMENTS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
PHONE: Final = {"width": 375, "height": 800}
DESKTOP: Final = {"width": 1280, "height": 900}


@contextmanager
def client_of(run: Running) -> Iterator[httpx.Client]:
    """A client that says what a browser says of a form from here; nobody is signed in."""
    with httpx.Client(
        base_url=run.url, timeout=20, headers={"Sec-Fetch-Site": "same-origin"}
    ) as http:
        yield http


@contextmanager
def signed_in(run: Running, role: str) -> Iterator[httpx.Client]:
    """A client with a session of a role. It follows no redirect by itself."""
    with client_of(run) as http:
        answer = http.post("/console/sign-in", data={"key": run.keys[role]})
        assert answer.status_code == 303, answer.text
        yield http


def csrf_in(page: str) -> str:
    """The token that the forms of a page carry."""
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium. It ends with the module: its event loop would hinder other tests."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed; make setup installs it where it may")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        yield chromium
        chromium.close()


@contextmanager
def opened_page(
    browser: Browser,
    run: Running,
    role: str | None = None,
    *,
    size: dict[str, int] | None = None,
    dark: bool = False,
    script: bool = True,
) -> Iterator[Page]:
    """A page of its own in the browser, signed in through the form when a role is given."""
    context = browser.new_context(
        base_url=run.url,
        viewport=size or DESKTOP,  # type: ignore[arg-type]
        color_scheme="dark" if dark else "light",
        java_script_enabled=script,
    )
    try:
        page = context.new_page()
        page.set_default_timeout(20_000)
        if role is not None:
            sign_in(page, run.keys[role])
        yield page
    finally:
        context.close()


def sign_in(page: Page, key: str) -> None:
    """Sign in as a person does."""
    page.goto("/console/sign-in")
    page.get_by_label("Your key").fill(key)
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.get_by_role("button", name="Sign out").wait_for()


def overflow_of(page: Page) -> int:
    """By how many pixels the page is wider than the window."""
    wider: int = page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    return wider


def violations_in(page: Page) -> list[str]:
    """What the rules of axe-core find wrong with a page."""
    found = Axe().run(page).response["violations"]
    return [f"{each['id']}: {node['html']}" for each in found for node in each["nodes"]]
