"""An officer at a browser: suspending, with hostile words, by mouse and keyboard, on a phone."""

from __future__ import annotations

from typing import Final, Literal

from playwright.sync_api import Browser, Dialog, Page

from tests.service.conftest import Running, suspension_of, violation_of
from tests.service.console.conftest import PHONE, opened_page, overflow_of, violations_in

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)><svg onload=alert(2)>"
SCHEMES: Final[tuple[Literal["light", "dark"], ...]] = ("light", "dark")
SUBJECT = "user:<img/src=x/onerror=alert(3)>"


def watched(page: Page) -> list[str]:
    """What goes wrong on a page from here on: dialogs, and whatever the browser complains about."""
    wrong = list[str]()

    def dismiss(dialog: Dialog) -> None:
        wrong.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", dismiss)
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    return wrong


def look(page: Page) -> None:
    """Send the form for the first time."""
    page.get_by_role("button", name="Look at what will happen").click()


def test_an_officer_suspends_on_a_phone(shared: Running, browser: Browser) -> None:
    """Form, refusal, what will happen, and recorded: accessible, narrow, and words stay words."""
    ground = violation_of(shared, SUBJECT, summary=HOSTILE)
    suspension_of(shared, SUBJECT, grounds=[ground], reason=HOSTILE)
    with opened_page(browser, shared, "officer", size=PHONE) as page:
        wrong = watched(page)

        def check() -> None:
            assert 0 == overflow_of(page)
            for scheme in SCHEMES:
                page.emulate_media(color_scheme=scheme)
                assert [] == violations_in(page)

        page.goto("/console/record")
        check()
        page.get_by_role("link", name="Suspend a subject").click()
        page.get_by_label("Subject").fill(SUBJECT)
        page.get_by_role("button", name="Go on").click()
        page.get_by_label("Reason").fill(f"{HOSTILE}\nAnd a second line.")
        page.get_by_label("Note").fill(f"Sealed: {HOSTILE}")
        look(page)
        page.get_by_role("alert").wait_for()
        check()

        page.get_by_label("every model").check()
        page.get_by_label("How long").select_option("P2M")
        page.get_by_label("From").fill("2027-01-01T00:00")
        page.get_by_role("group", name="Grounds").get_by_role("checkbox").first.check()
        look(page)
        page.get_by_text("Nothing is recorded yet.").wait_for()
        assert page.get_by_text("It begins on 2027-01-01 00:00:00 UTC").is_visible()
        assert page.get_by_text("It ends by itself on 2027-03-01 00:00:00 UTC.").is_visible()
        check()

        before = shared.service.recorder.position
        page.get_by_role("button", name="Suspend the subject").dblclick()
        page.get_by_role("heading", name="Recorded").wait_for()
        assert before + 1 == shared.service.recorder.position
        assert "Sealed:" not in page.content()
        assert "And a second line." in page.content()
        check()
        page.reload()
        assert before + 1 == shared.service.recorder.position

    assert [] == [each for each in wrong if "status of 422" not in each]


def test_a_decision_needs_neither_script_nor_mouse(shared: Running, browser: Browser) -> None:
    """Tab and Enter lead through the form, the page before and the page after."""
    suspension = suspension_of(shared, "user:keyboard")
    with opened_page(browser, shared, "officer", script=False) as page:
        page.goto(f"/console/reinstate?suspension={suspension}")
        page.get_by_label("Cause").focus()
        page.keyboard.type("early")
        page.keyboard.press("Tab")
        page.keyboard.type("Complied.")
        page.get_by_role("button", name="Look at what will happen").press("Enter")
        assert page.get_by_text("Allowed again").is_visible()
        page.get_by_role("button", name="End the suspension").press("Enter")
        page.get_by_role("heading", name="Recorded").wait_for()
    assert shared.allowed("user:keyboard", "atlas-3")
