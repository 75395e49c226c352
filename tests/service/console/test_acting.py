"""Recording from the console: a form, what it will lead to, and the fact; nothing by mistake."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from ledger.domain.values import Role, format_instant
from ledger.service.console.acting.fields import (
    Values,
    evidence,
    properties,
    property_lines,
    scope,
    term,
)
from ledger.service.console.acting.forms import FORMS
from ledger.service.console.session import CONSOLE_ROLES
from ledger.service.http.route import LedgerRoute
from tests.conftest import SetClock
from tests.service.conftest import Running, founded_on, suspension_of, violation_of
from tests.service.console.conftest import csrf_in, signed_in

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7 * 7 }}"
SECRET = "Only for us: the whistle was blown by Jo."  # noqa: S105 - a note


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def desk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A ledger to act on, on either store; it is checked as a whole at the end."""
    with founded_on(request.param, request, tmp_path_factory.mktemp("desk")) as run:
        yield run


class Acting:
    """Somebody at a form: what a browser would send, page by page."""

    def __init__(self, http: httpx.Client, address: str) -> None:
        self.http = http
        self.address = address.partition("?")[0]
        self.page = http.get(address)
        assert 200 == self.page.status_code, self.page.text

    def hidden(self) -> dict[str, Any]:
        """The hidden fields of the form on the page, and its boxes that are ticked."""
        form = self.page.text.partition('<form class="acting"')[2].partition("</form>")[0]
        found: dict[str, Any] = {}
        for name, value in re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', form):
            found.setdefault(name, []).append(html.unescape(value))
        for name, value in re.findall(r'"checkbox" name="([^"]+)" value="([^"]*)" checked', form):
            found.setdefault(name, []).append(html.unescape(value))
        return found

    def send(self, step: str, filled: Mapping[str, Any] | None = None) -> httpx.Response:
        """Press a button of the page."""
        body = {**self.hidden(), **(filled or {}), "step": step}
        self.page = self.http.post(self.address, data=body)
        return self.page

    def look(self, **filled: Any) -> str:
        """Fill in the form and look at what will happen; returns the words of that page."""
        page = self.send("look", filled)
        assert 200 == page.status_code, text_of(page.text)
        assert "Nothing is recorded yet." in page.text
        return text_of(page.text)

    def record(self) -> str:
        """Decide, and return the words of the page that is led to."""
        answer = self.send("record")
        assert 303 == answer.status_code, text_of(answer.text)
        self.page = self.http.get(answer.headers["location"])
        assert 200 == self.page.status_code
        return text_of(self.page.text)


def text_of(page: str) -> str:
    """The words of a page's content."""
    main = page.partition("<main")[2].partition("</main>")[0]
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", main)))


@contextmanager
def acting(run: Running, role: str, address: str) -> Iterator[Acting]:
    """Open a form as somebody of a role."""
    with signed_in(run, role) as http:
        yield Acting(http, address)


def everything_in(run: Running) -> tuple[object, ...]:
    """What a ledger holds: every row of every table, every data key, and the index's position."""
    service = run.service
    with service.recorder.store.transaction(commit=False) as c:
        tables = [
            found[1]
            for statement in service.recorder.statements()
            if (found := re.match(r"CREATE TABLE IF NOT EXISTS (\w+)", statement))
            # What the signer adds by itself.
            and found[1] not in ("log_checkpoints", "log_cosignatures")
        ]
        rows = {}
        for table in tables:
            c.execute(f"SELECT * FROM {table}")
            rows[table] = sorted(map(repr, map(tuple, c.fetchall())))
    return rows, list(service.ledger.vault.rows()), service.index.position


def test_an_officer_suspends_in_two_steps(desk: Running) -> None:
    """The page between says what will be, and nothing of it is; then it binds."""
    ground = violation_of(desk, "user:ann")
    suspension_of(desk, "user:ann", scope={"resources": [{"type": "model", "id": "mini-2"}]})
    before = everything_in(desk)

    with acting(desk, "officer", f"/console/suspend?subject=user:ann&grounds={ground}") as form:
        words = form.look(
            groups="frontier",
            duration="P2M",
            reason="Fraud, twice.",
            note=SECRET,
            basis="violations",
        )

        assert "the-officer suspended user:ann from group:frontier" in words
        assert "It begins at once" in words
        assert re.search(r"It ends by itself on \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", words)
        assert "model:atlas-3 model:atlas-3-vision model:cipher-2" in words
        assert "Refused before, and still model:mini-2" in words
        assert "Other suspensions stand and stay as they are" in words
        assert "1 text is sealed" in words
        assert SECRET not in words
        assert before == everything_in(desk)
        assert desk.allowed("user:ann", "atlas-3")

        words = form.record()

    assert "Recorded" in words
    assert "the-officer suspended user:ann from group:frontier" in words
    assert SECRET not in form.page.text
    assert not desk.allowed("user:ann", "atlas-3")
    (newest,) = desk("GET", "/v1/events", role="auditor", params={"limit": 1}).json()["items"]
    assert ("the-officer", "subject.suspended") == (newest["operator"], newest["type"])
    assert newest["request_id"]
    assert SECRET not in str(newest)
