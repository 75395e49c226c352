"""An auditor at a browser: proofs step by step, live events, hostile words, no script at all."""

from __future__ import annotations

import base64
import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Dialog, Frame, Page, Route

from tests.service.conftest import (
    POLICY,
    WITHIN_S,
    Running,
    SetClock,
    founded_on,
    opened,
    settings_at,
    suspension_of,
    violation_of,
)
from tests.service.console.conftest import (
    DESKTOP,
    PHONE,
    opened_page,
    overflow_of,
    violations_in,
)

PAYLOADS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"'><svg onload=alert(1)>",
    "' autofocus onfocus=alert(1) x='",
    "</title></pre></textarea><iframe srcdoc='<script>alert(1)</script>'>",
    "javascript:alert(1)//",
    "{{ 7 * 7 }}${7*7}<%= 7*7 %>",
    "<a href=javascript:alert(1)>click</a><base href=//example.com>",
)
NAME = "<svg/onload=alert(1)>\"'&lt;"
"""What an id may be at its worst: it has no space."""


@pytest.fixture(scope="module")
def told(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A ledger in which every text that somebody may choose is hostile."""
    with founded_on("sqlite", request, tmp_path_factory.mktemp("told")) as run:
        for number, payload in enumerate(PAYLOADS):
            more = {"summary": payload, "details": payload}
            ground = violation_of(run, f"user:{NAME}", "fraud", **more)
            suspension_of(run, f"user:{NAME}", grounds=[ground], reason=payload, note=payload)
            clause = {
                "id": "bad",
                "title": payload,
                "text": payload,
                "category": "bad",
                "severity": "low",
            }
            policy = {"title": payload, "clauses": [clause]}
            run.done("PUT", f"/v1/policies/hostile-{number}", role="admin", json=policy)
        subject = {
            "subject": {"type": "user", "id": NAME},
            "properties": {"word": PAYLOADS[0], "suspension": PAYLOADS[1]},
        }
        headers = {"Ledger-On-Behalf-Of": f"user:{NAME}", "X-Request-ID": PAYLOADS[0]}
        run.done("PUT", "/v1/subjects", role="officer", json=subject, headers=headers)
        enrolled = {"id": NAME, "role": "officer"}
        run.done("POST", "/v1/operators", role="admin", json=enrolled)
        yield run


def watched(page: Page) -> list[str]:
    """What the browser says and asks while a page is used; nothing, when all is well."""
    said = list[str]()

    def asked(dialog: Dialog) -> None:
        said.append(dialog.message)
        dialog.dismiss()

    def opened_frame(frame: Frame) -> None:
        if frame.parent_frame:
            said.append(frame.url)

    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", asked)
    page.on("framenavigated", opened_frame)
    return said


def test_hostile_words_stay_words_on_every_page(told: Running, browser: Browser) -> None:
    """Recorded, asked for or coming in live: no dialog, no frame, no complaint."""
    events = told.done("GET", "/v1/events?limit=1000", role="auditor")["items"]
    kinds = {event["type"]: event["position"] for event in events}
    with opened_page(browser, told, "auditor") as page:
        said = watched(page)
        page.goto("/console/trail?limit=1000")
        page.get_by_role("button", name="Follow live").click()
        page.get_by_text("Following.").wait_for()
        violation_of(told, f"user:{NAME}", summary="".join(PAYLOADS))
        page.locator(".live li").wait_for()
        assert PAYLOADS[0] in page.locator(".live li").inner_text()
        for number, payload in enumerate(PAYLOADS):
            field = ("q", "category", "operator")[number % 3]
            page.goto(f"/console/trail?{field}={base_of(payload)}")
        page.goto(f"/console/export/events?q={''.join(map(base_of, PAYLOADS))}")
        page.goto(f"/console/trail?subject=user:{base_of(NAME)}")
        assert page.locator("ol.events .event").count() > 1
        for position in kinds.values():
            page.goto(f"/console/events/{position}")
            assert 1 == page.locator("h1").count()
        page.goto(f"/console/events/{kinds['subject.suspended']}")
        page.get_by_role("button", name="Reveal what is sealed").click()
        page.get_by_text("shown to you").wait_for()
        assert [] == page.locator("main script, main img, main svg, main iframe").all()
    assert [] == said


def base_of(text: str) -> str:
    """A text as a parameter of an address."""
    return "".join(f"%{byte:02x}" for byte in text.encode())


# --- the proof ------------------------------------------------------------------------------------


def verified(page: Page, position: int) -> tuple[str, str]:
    """Verify an event in the browser; return how that ended, and in which words."""
    page.goto(f"/console/events/{position}")
    page.get_by_role("button", name="Verify in this browser").click()
    verdict = page.locator("#verify .notice")
    verdict.wait_for()
    return (verdict.get_attribute("class") or "").split()[-1], verdict.inner_text()


def test_the_browser_proves_events_step_by_step(told: Running, browser: Browser) -> None:
    """Of the first event, the last and one between; every step shows what it came to."""
    size = told.service.recorder.position
    assert told.service.signer.wait_for(size, WITHIN_S)
    with opened_page(browser, told, "auditor") as page:
        said = watched(page)
        for position in (1, size // 3, size):
            kind, words = verified(page, position)
            assert ("good", "Proven") == (kind, words[:6]), words
        assert ["right"] * 6 == page.locator(".steps .badge").all_inner_texts()
        with told.service.reading() as (c, _):
            leaf = told.service.log.hash_at(c, 0, size - 1)
        assert leaf is not None
        values = page.locator(".steps code").all_inner_texts()
        assert base64.b64encode(leaf).decode() in values
    assert [] == said


def edited(edit: Callable[[str], str]) -> Callable[[Route], None]:
    """Answer a request with what the server answers, changed on the way."""

    def handle(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=edit(answer.text()))

    return handle


def other_operator(body: str) -> str:
    """The stored columns with another operator in their bytes."""
    row: dict[str, Any] = json.loads(body)
    state = base64.b64decode(row["state"]).replace(b'"the-', b'"The-')
    return json.dumps({**row, "state": base64.b64encode(state).decode()})


def other_version(body: str) -> str:
    """The stored columns with another version."""
    row: dict[str, Any] = json.loads(body)
    return json.dumps({**row, "version": row["version"] + 1})


def other_index(body: str) -> str:
    """The proof of another event."""
    return body.replace("index ", "index 1")


def other_hash(body: str) -> str:
    """The proof with another first hash."""
    head, index, _, *rest = body.split("\n")
    return "\n".join([head, index, base64.b64encode(b"x" * 32).decode(), *rest])


def other_size(body: str) -> str:
    """The checkpoint as if it were of one event more, which nobody signed."""
    return re.sub(r"(\n\ntest\.ledger\n)(\d+)", lambda m: f"{m[1]}{int(m[2]) + 1}", body)


def test_what_was_tampered_with_on_the_way_is_shown_in_red_with_the_step_that_fails(
    told: Running, browser: Browser
) -> None:
    """Whatever was changed between the log and the browser is found, and where."""
    with opened_page(browser, told, "auditor") as page:
        for what, edit, step in (
            ("stored", other_operator, "Read the stored columns"),
            ("stored", other_version, "Compare the roots"),
            ("proof", other_hash, "Compare the roots"),
            ("proof", other_size, "Check the log's signature"),
            ("proof", other_index, "Read the proof and the checkpoint"),
            ("proof", lambda body: body[:40], "Read the proof and the checkpoint"),
        ):
            page.route(f"**/console/events/*/{what}", edited(edit))
            kind, words = verified(page, 21)
            page.unroute_all()

            assert ("bad", "Not proven.") == (kind, words[:11]), words
            assert step in words
            assert [step] == page.locator(".step.denied .title strong").all_inner_texts()
            assert "wrong" == page.locator(".steps .badge").last.inner_text()


def test_a_row_that_was_changed_in_the_database_is_not_proven(
    browser: Browser, tmp_path: Path
) -> None:
    """The page shows the row as it was changed, and that its bytes have another leaf."""
    path = tmp_path / "ledger.db"
    settings = settings_at(f"sqlite:///{path}", tmp_path, origin="test.ledger")
    with opened(settings, SetClock()) as run, opened_page(browser, run, "auditor") as page:
        position = run.done("PUT", "/v1/policies/aup", role="admin", json=POLICY)["position"]
        assert "good" == verified(page, position)[0]
        run.checked = False
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("DROP TRIGGER events_are_never_changed")
            connection.execute(
                "UPDATE events SET state = CAST(replace(CAST(state AS TEXT), ?, ?) AS BLOB) "
                "WHERE position = ?",
                ("the-admin", "the-forger", position),
            )
        kind, words = verified(page, position)

        assert "the-forger" in page.locator(".lead").inner_text()
        assert ("bad", True) == (kind, "“Compare the roots” failed" in words), words


def test_a_browser_without_ed25519_says_what_it_did_not_check(
    told: Running, browser: Browser
) -> None:
    """The way to the root is shown; that nobody looked at the signature, too."""
    with opened_page(browser, told, "auditor") as page:
        unknown = "throw new DOMException('', 'NotSupportedError')"
        page.add_init_script(f"crypto.subtle.importKey = async () => {{ {unknown} }}")
        kind, words = verified(page, 21)

        assert "warn" == kind
        assert "could not be checked" in words
        assert "not checked" == page.locator(".steps .badge").last.inner_text()


# --- at the desk ----------------------------------------------------------------------------------


def test_new_events_appear_and_the_reader_can_pause(told: Running, browser: Browser) -> None:
    """By keyboard; what comes during a pause is shown when it goes on."""
    with opened_page(browser, told, "auditor") as page:
        page.goto("/console/trail?type=subject.suspended")
        button = page.locator(".live button")
        button.press("Enter")
        page.get_by_text("Following.").wait_for()
        suspension_of(told, "user:first")
        page.locator(".live li", has_text="user:first").wait_for()
        assert "polite" == page.locator(".live ol").get_attribute("aria-live")
        button.press("Enter")
        page.get_by_text("Paused.").wait_for()
        suspension_of(told, "user:second")
        assert 1 == page.locator(".live li").count()
        button.press("Enter")
        page.locator(".live li", has_text="user:second").wait_for()
        assert ["user:second", "user:first"] == [
            next(name for name in ("user:first", "user:second") if name in text)
            for text in page.locator(".live li").all_inner_texts()
        ]
        assert [] == violations_in(page)


def test_the_pages_fit_and_are_accessible(told: Running, browser: Browser) -> None:
    """The rules of axe-core find nothing in light and dark, and nothing is wider than a window."""
    suspended = told.done("GET", "/v1/events?type=subject.suspended", role="auditor")["items"]
    with opened_page(browser, told, "auditor", size=PHONE) as page:
        verified(page, suspended[-1]["position"])
        for path in (None, "trail?limit=20&type=subject.suspended&q=fraud*", "export/events?q=a"):
            if path is not None:
                page.goto(f"/console/{path}")
            page.set_viewport_size(DESKTOP)  # type: ignore[arg-type]
            assert (0, []) == (overflow_of(page), violations_in(page))
            page.emulate_media(color_scheme="dark")
            page.set_viewport_size(PHONE)  # type: ignore[arg-type]
            assert (0, []) == (overflow_of(page), violations_in(page))
            page.emulate_media(color_scheme="light")


def test_all_but_the_live_tail_and_the_proof_works_without_script(
    told: Running, browser: Browser
) -> None:
    """Find by words, follow a count, take the list along, open an event, reveal what is sealed."""
    with opened_page(browser, told, "auditor", script=False) as page:
        page.goto("/console/trail")
        page.get_by_label("Words").fill("onerror")
        page.get_by_role("button", name="Filter").click()
        page.locator("#counts").get_by_role("link", name=re.compile("subject.suspended")).click()
        assert "q=onerror" in page.url
        assert "type=subject.suspended" in page.url
        with page.expect_download() as download:
            page.get_by_label("Export as").select_option("csv")
            page.get_by_role("button", name="Export", exact=True).click()
        assert re.fullmatch(r"events-\d+\.csv", download.value.suggested_filename)
        page.locator("ol.events .head a").first.click()
        page.get_by_role("button", name="Reveal what is sealed").click()
        page.get_by_text("shown to you").wait_for()
        assert not page.locator("#verify").is_visible()
        page.get_by_text("needs script").wait_for()
