"""Recording from the console: a form, what it will lead to, and the fact; nothing by mistake."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from ledger.domain.errors import InvalidValue
from ledger.service.console.acting import foretold, forms
from ledger.service.console.acting.fields import (
    Values,
    evidence,
    properties,
    property_lines,
    scope,
    term,
)
from ledger.service.console.acting.forms import FORMS
from ledger.service.console.pages import acting as acting_pages
from ledger.service.console.session import CONSOLE_ROLES
from tests.service.conftest import Running, founded_on, suspension_of, violation_of
from tests.service.console.conftest import csrf_in, signed_in

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7 * 7 }}"
SECRET = "Only for us: the whistle was blown by Jo."


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def desk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A ledger to act on, on either store; it is checked as a whole at the end."""
    with founded_on(request.param, request, tmp_path_factory.mktemp("desk")) as run:
        yield run


@pytest.fixture(scope="module")
def made(desk: Running) -> dict[str, str]:
    """What the forms are about, by the names under which the table of forms speaks of it."""
    subject = {"erased": subject_of("user:erased"), "held": subject_of("user:held")}
    reason = {"reason": "x"}
    false = violation_of(desk, "user:cleared")
    suspension_of(desk, "user:cleared", grounds=[false])
    suspension_of(desk, "user:erased", note=SECRET)
    suspension_of(
        desk, "organization:barred", scope={"resources": [{"type": "model", "id": "embed-1"}]}
    )
    link = {"subject": subject_of("user:linked"), "parent": subject_of("organization:barred")}
    desk.done("POST", "/v1/links", role="officer", json=link)

    def by_admin(path: str, body: dict[str, Any]) -> str:
        return str(desk.done("POST", path, role="admin", json=body)["id"])

    return {
        "violation": violation_of(desk, "user:each"),
        "false": false,
        "suspension": suspension_of(desk, "user:ended"),
        "scheduled": suspension_of(desk, "user:later", effective_at="2027-01-01T00:00:00Z"),
        "erasure": by_admin("/v1/erasures", {"subject": subject["erased"], **reason}),
        "hold": by_admin("/v1/holds", {"subject": subject["held"], **reason}),
        "key": by_admin("/v1/operators/the-service/keys", {}),
    }


def subject_of(key: str) -> dict[str, str]:
    """A subject as a member of a body."""
    kind, _, id_ = key.partition(":")
    return {"type": kind, "id": id_}


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


EACH: tuple[tuple[str, str, str, dict[str, Any], str, str], ...] = (
    (
        "violation",
        "officer",
        "subject=user:each",
        {
            "clause": "aup:fraud",
            "occurred_at": "2026-11-24T10:00",
            "detected_by": "human",
            "summary": "It happened.",
            "details": SECRET,
            "evidence": f"s3://evidence/1 {'0' * 64}\ns3://evidence/2 {'1' * 64} personal",
            "models": ["model:atlas-3", "model:mini-2"],
            "resources": "model:not-listed",
        },
        "Nothing is refused by it",
        "violation.recorded",
    ),
    (
        "overturn",
        "approver",
        "violation={false}",
        {"reason": "It was somebody else."},
        "Allowed again model:atlas-3",
        "violation.overturned",
    ),
    (
        "warn",
        "officer",
        "subject=user:each&grounds={violation}",
        {"reason": "Please read the policy."},
        "Nothing is refused by it.",
        "warning.issued",
    ),
    (
        "suspend",
        "officer",
        "subject=user:each",
        {
            "types": "model",
            "resources": "model:not-listed",
            "actions": "use",
            "conditions": "subject.properties.plan not_in enterprise, beta",
            "ends_at": "2027-03-01T00:00",
            "effective_at": "2026-12-01T00:00",
            "basis": "legal_order",
            "reason": "An order.",
            "reinstatement": "on_review",
            "disclosure": "deferred",
        },
        "it goes on until a person has looked and reinstates",
        "subject.suspended",
    ),
    (
        "revise",
        "officer",
        "suspension={suspension}",
        {"other_duration": "P90D", "reason": "It went on."},
        "The end was",
        "suspension.revised",
    ),
    (
        "cancel",
        "officer",
        "suspension={scheduled}",
        {"reason": "Complied."},
        "never begins",
        "suspension.cancelled",
    ),
    (
        "reinstate",
        "approver",
        "suspension={suspension}",
        {"cause": "early", "reason": "Complied."},
        "ends at once",
        "subject.reinstated",
    ),
    (
        "register",
        "officer",
        "subject=user:each",
        {"properties": 'plan = enterprise\nseats = 3\ntags = ["a", "b"]'},
        "registered user:each with plan, seats, tags",
        "subject.registered",
    ),
    (
        "link",
        "officer",
        "subject=user:each&parent=organization:barred",
        {},
        "Refused from then on model:embed-1",
        "subject.linked",
    ),
    (
        "unlink",
        "officer",
        "subject=user:linked&parent=organization:barred",
        {},
        "Allowed again model:embed-1",
        "subject.unlinked",
    ),
    (
        "erase",
        "admin",
        "subject=user:each",
        {"reason": "Asked for by the person."},
        "Nothing is erased until an approver",
        "erasure.requested",
    ),
    (
        "confirm-erasure",
        "approver",
        "erasure={erasure}",
        {},
        "1 key destroyed at once: nobody can undo it.",
        "personal_data.erased",
    ),
    (
        "hold",
        "admin",
        "subject=user:each",
        {"reason": "A case is pending."},
        "While it stands, nothing about the subject is erased.",
        "hold.placed",
    ),
    ("lift-hold", "admin", "hold={hold}", {}, "lifted the legal hold", "hold.lifted"),
    (
        "enroll",
        "admin",
        "",
        {"operator": "new-tool", "role": "reporter"},
        "It can do nothing until a key is issued to it.",
        "operator.enrolled",
    ),
    ("revoke-key", "admin", "key={key}", {}, "is refused within a second", "operator.key_revoked"),
)
"""Form, role, what its address says, what is filled in, what is foretold, and the event."""


@pytest.mark.parametrize(
    ("name", "role", "asked", "filled", "told", "type_"),
    EACH,
    ids=[each[0] for each in EACH],
)
def test_every_form_is_looked_at_and_recorded_once(
    desk: Running,
    made: dict[str, str],
    name: str,
    role: str,
    asked: str,
    filled: dict[str, Any],
    told: str,
    type_: str,
) -> None:
    """Looking changes nothing at all, deciding records one fact, and deciding again none."""
    before = everything_in(desk)
    with acting(desk, role, f"/console/{name}?{asked.format(**made)}") as form:
        words = form.look(**filled, on_behalf_of="user:jane")
        assert told in words
        assert before == everything_in(desk)

        looked_at = form.page
        words = form.record()
        assert "Recorded" in words
        assert f"the-{role} (for user:jane)" in words
        assert SECRET not in form.page.text
        recorded = desk.service.recorder.position
        fact = desk.service.recorder.event(len_before(before) + 1)
        assert fact is not None
        assert (type_, f"the-{role}", "user:jane") == (
            fact.type,
            fact.author.operator,
            fact.author.on_behalf_of,
        )
        assert fact.author.request_id

        form.page = looked_at
        again = form.record()
        assert "Recorded before, and not again" in again
        assert recorded == desk.service.recorder.position
    assert SECRET not in str(fact.event.model_dump(mode="json"))


def len_before(before: tuple[Any, ...]) -> int:
    """How many events there were."""
    return len(before[0]["events"])


def test_every_form_of_the_console_is_tried() -> None:
    """And whoever may use its command through the API may use it here, and nobody else."""
    assert {each[0] for each in EACH} | {"issue-key"} == {form.name for form in FORMS}
    for form in FORMS:
        assert form.roles, form.name
        assert form.roles == frozenset(form.route.roles or ()) & CONSOLE_ROLES


@pytest.mark.parametrize("role", ["auditor", "officer", "approver", "admin"])
def test_each_role_is_offered_what_it_may_record(desk: Running, role: str) -> None:
    """Another form is refused, whether it is asked for or sent; an auditor has none."""
    with signed_in(desk, role) as http:
        token = {"csrf": csrf_in(http.get("/console").text)}
        offered = http.get("/console/record")
        assert (403 if role == "auditor" else 200) == offered.status_code
        assert ("Record and decide" in http.get("/console").text) == (role != "auditor")
        for form in FORMS:
            assert (f'href="{form.address}"' in offered.text) == (role in form.roles)
            expected = 200 if role in form.roles else 403
            assert expected == http.get(form.address).status_code
            if expected == 403:
                assert 403 == http.post(form.address, data=token).status_code


def test_what_a_rule_refuses_is_shown_beside_the_form(desk: Running) -> None:
    """With its hint, and everything that was filled in; nothing is recorded."""
    ground = violation_of(desk, "user:refused")
    position = desk.service.recorder.position
    filled = {"groups": "frontier", "duration": "P2M", "reason": "Fraud & more.", "note": SECRET}
    with acting(desk, "officer", "/console/suspend?subject=user:refused") as form:
        page = form.send("look", filled)
        assert 422 == page.status_code
        words = text_of(page.text)
        assert "Nothing was recorded." in words
        assert "grounds_required" in words
        assert 'value="frontier" checked' in page.text
        assert '<option value="P2M" selected>' in page.text
        assert ">\nFraud &amp; more.</textarea>" in page.text
        assert f">\n{html.escape(SECRET)}</textarea>" in page.text
        assert f'value="{ground}"' in page.text
        assert position == desk.service.recorder.position

        assert "It begins at once" in form.look(**filled, grounds=ground)


def test_what_cannot_be_read_is_marked_at_its_field(desk: Running) -> None:
    """In words of the form, not of the body; several at once."""
    with acting(desk, "officer", "/console/suspend?subject=user:unread") as form:
        page = form.send("look", {"models": "model:atlas-3", "other_duration": "two months"})

    words = text_of(page.text)
    assert 422 == page.status_code
    assert "Not everything could be read." in words
    assert "Reason: field required" in words
    assert "must be an ISO 8601 duration" in words
    assert 'aria-invalid="true"' in page.text
    assert "/reason" not in words

    with acting(desk, "officer", "/console/violation?subject=user:unread") as form:
        words = text_of(form.send("look").text).partition("Nothing was recorded.")[0]
    for label in ("Clause", "When it happened", "Found by", "Summary"):
        assert 1 == words.count(f"{label}: field required")


def test_a_link_fills_in_a_form_and_records_nothing(desk: Running) -> None:
    """Whatever is in the address; also a ground, a term and a model that are not offered."""
    position = desk.service.recorder.position
    query = "subject=user:linked-to&grounds=vio_gone&groups=frontier&models=model:x&duration=P5D"
    times = "effective_at=2027-01-01T00:00:00Z&reason=Fraud."
    with acting(desk, "officer", f"/console/suspend?{query}&{times}") as form:
        page = form.page.text
    for box in ("vio_gone", "frontier", "model:x"):
        assert f'value="{box}" checked' in page
    assert '<option value="P5D" selected>' in page
    assert 'value="2027-01-01T00:00:00"' in page
    assert ">\nFraud.</textarea>" in page
    with signed_in(desk, "officer") as http:
        refused = http.get("/console/suspend?subject=user:linked-to&note=Sealed.")
    assert (422, False) == (refused.status_code, "Sealed." in refused.text)
    assert position == desk.service.recorder.position


@pytest.mark.parametrize(
    ("role", "address", "status", "code"),
    [
        ("officer", "/console/reinstate?suspension=sus_none", 404, "not_found"),
        ("officer", "/console/suspend?subject=alice", 422, "invalid_value"),
        ("approver", "/console/overturn?violation=vio_none", 404, "not_found"),
        ("admin", "/console/lift-hold?hold=%3Cb%3E", 404, "not_found"),
    ],
)
def test_a_form_about_nothing_asks_again(
    desk: Running, role: str, address: str, status: int, code: str
) -> None:
    """It says what is wrong, and shows the field in which it can be mended."""
    with signed_in(desk, role) as http:
        page = http.get(address)
    assert (status, True) == (page.status_code, code in page.text)
    assert '<form class="acting" method="get"' in page.text
    assert "<b>" not in page.text


def test_somebody_may_go_back_and_change_it(desk: Running) -> None:
    """The fields are as they were; what is recorded is what was looked at last."""
    with acting(desk, "officer", "/console/warn?subject=user:changed") as form:
        form.look(reason="One.")
        page = form.send("change")
        assert ">\nOne.</textarea>" in page.text
        form.look(reason="Two.")
        assert "warned user:changed: Two." in form.record()


def test_a_form_that_was_changed_after_it_was_recorded_is_another_request(desk: Running) -> None:
    """Whoever goes back in the browser, and sends the form with other words, records a second."""
    with acting(desk, "officer", "/console/warn?subject=user:twice") as form:
        first = form.page
        form.look(reason="One.")
        form.record()
        form.page = first
        assert "warned user:twice: Two." in form.look(reason="Two.")
        assert "Recorded before" not in form.record()
    found = desk("GET", "/v1/warnings", role="auditor", params={"subject": "user:twice"})
    assert ["Two.", "One."] == [each["reason"] for each in found.json()["items"]]


def test_what_was_recorded_meanwhile_is_looked_at_first(desk: Running) -> None:
    """Two officers with the same subject before them: the second sees what the first did."""
    filled = {"groups": "frontier", "duration": "P7D", "basis": "legal_order"}
    with acting(desk, "officer", "/console/suspend?subject=user:raced") as form:
        assert "No other suspension is in force then." in form.look(**filled, reason="An order.")
        other = suspension_of(desk, "user:raced")
        page = form.send("record")
        assert 200 == page.status_code
        words = text_of(page.text)
        assert "Something else was recorded about it since you looked." in words
        unseen = form.http.post(form.address, data={**form.hidden(), "seen": "", "step": "record"})
        assert "Nothing is recorded yet." in unseen.text
        assert "since you looked" not in unseen.text
        assert other in words
        assert "Recorded" in form.record()


def test_what_holds_already_is_not_recorded_again(desk: Running) -> None:
    """A subject with just these properties: the page names the fact that says so."""
    desk.done(
        "PUT",
        "/v1/subjects",
        role="officer",
        json={"subject": subject_of("user:held-already"), "properties": {"plan": "free"}},
    )
    with acting(desk, "officer", "/console/register?subject=user:held-already") as form:
        assert ">\nplan = free</textarea>" in form.page.text
        page = form.send("look", {"properties": "plan = free"})
    assert "Nothing had to be recorded" in text_of(page.text)


def test_a_key_is_shown_once(desk: Running) -> None:
    """On the page that answers the decision; sending it again shows the fact without the key."""
    with acting(desk, "admin", "/console/issue-key?operator=the-auditor") as form:
        assert "The key is shown once" in form.look(label="spare")
        looked_at = form.page
        page = form.send("record")
        (secret,) = re.findall(r"clk_[\w-]{40,}", page.text)
        form.page = looked_at
        assert secret not in form.record()
        assert "Recorded before" in text_of(form.page.text)
    answer = desk.http.get("/v1/log/key", headers={"Authorization": f"Bearer {secret}"})
    assert answer.status_code != 401


def test_a_form_of_another_site_changes_nothing(desk: Running) -> None:
    """Neither looks nor decides: without our token, or sent from elsewhere, it is refused."""
    position = desk.service.recorder.position
    with acting(desk, "officer", "/console/warn?subject=user:forged") as form:
        form.look(reason="Mine.")
        whole = {**form.hidden(), "step": "record"}
        for headers, body in (
            ({"Sec-Fetch-Site": "cross-site"}, whole),
            ({"Sec-Fetch-Site": "same-site"}, whole),
            ({"Sec-Fetch-Site": "same-origin", "Origin": "https://evil.example"}, whole),
            ({"Sec-Fetch-Site": "same-origin"}, {**whole, "csrf": "x"}),
            ({"Sec-Fetch-Site": "same-origin"}, {k: v for k, v in whole.items() if k != "csrf"}),
        ):
            answer = form.http.post("/console/warn", data=body, headers=headers)
            assert (403, True) == (answer.status_code, "foreign_form" in answer.text)
        address = httpx.URL(
            "/console/warn", params=[(k, v) for k, v in whole.items() if k != "csrf"]
        )
        assert 422 == form.http.get(address).status_code
    assert position == desk.service.recorder.position


def test_only_who_recorded_it_sees_the_page_after_it(desk: Running) -> None:
    """Others have the trail, if their role may read it."""
    position = desk.service.recorder.position
    author = desk.service.recorder.event(position).author.operator  # type: ignore[union-attr]
    for role in ("officer", "approver", "admin"):
        with signed_in(desk, role) as http:
            answer = http.get(f"/console/recorded/{position}")
        assert (200 if author == f"the-{role}" else 404) == answer.status_code
        with signed_in(desk, role) as http:
            assert 404 == http.get(f"/console/recorded/{2**60}").status_code


def test_hostile_words_stay_words(desk: Running) -> None:
    """In the form, when they come back, on the page before and the page after."""
    subject = "user:<b onclick=alert(1)>&\"' "
    address = str(httpx.URL("/console/suspend", params={"subject": subject, "reason": HOSTILE}))
    with acting(desk, "officer", address) as form:
        pages = [form.page.text]
        pages.append(form.send("look", {"reason": HOSTILE, "note": HOSTILE}).text)
        form.look(types="model", duration="P1D", basis="legal_order", reason=HOSTILE)
        pages.append(form.page.text)
        form.record()
        pages.append(form.page.text)
    for page in pages:
        for markup in ("<script", "<img", "<b "):
            assert markup not in page.partition("<main")[2]
        assert "{{ 7 * 7 }}" in page
    assert not desk.allowed(subject, "atlas-3")
    assert desk.allowed(subject.strip(), "atlas-3")


def test_what_is_shown_has_limits_and_says_so(
    desk: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a catalogue, of those below, and of consequences: at the limit all, above it a part."""
    for number in range(3):
        for child, parent in ((f"user:c{number}", "team:wide"), (f"user:c{number}", "team:w2")):
            link = {"subject": subject_of(child), "parent": subject_of(parent)}
            desk.done("POST", "/v1/links", role="officer", json=link)
    filled = {"types": "model", "duration": "P1D", "basis": "legal_order", "reason": "x"}
    listed = 5
    with acting(desk, "officer", "/console/suspend?subject=team:wide") as form:
        for shown, offered, told in (
            (3, listed, "user:c0, user:c1, user:c2."),
            (2, listed - 1, "user:c0, user:c1, and 1 more."),
        ):
            monkeypatch.setattr(foretold, "SUBJECTS_SHOWN_MAX", shown)
            monkeypatch.setattr(foretold, "RESOURCES_LOOKED_AT_MAX", offered)
            monkeypatch.setattr(forms, "OFFERED_MAX", offered)
            page = form.http.get("/console/suspend?subject=team:wide").text
            assert offered == page.count('name="models"')
            words = form.look(**filled)
            assert told in words
            assert ("every listed resource" in words) == (offered == listed)
            assert (f"the first {offered} of {listed} listed" in words) == (offered < listed)
            form.page = form.http.get("/console/suspend?subject=team:wide")


def test_consequences_are_shown_up_to_a_limit(
    desk: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two suspensions end with the one violation that they rest on."""
    ground = violation_of(desk, "user:resting")
    ended = [suspension_of(desk, "user:resting", grounds=[ground]) for _ in range(2)]
    with acting(desk, "approver", f"/console/overturn?violation={ground}") as form:
        words = form.look(reason="Wrong.")
        assert all(f"suspension {each} ended" in words for each in ended)
        words = form.record()
        assert "What followed from it" in words
        for shown in (2, 1):
            monkeypatch.setattr(acting_pages, "CONSEQUENCES_SHOWN_MAX", shown)
            again = text_of(form.http.get(str(form.page.url)).text)
            assert shown == sum(f"suspension {each} ended" in again for each in ended)


def test_a_suspension_that_goes_on_is_named(desk: Running) -> None:
    """What rests on another violation, too, does not end with the one that falls."""
    grounds = [violation_of(desk, "user:goes-on") for _ in range(2)]
    suspension = suspension_of(desk, "user:goes-on", grounds=grounds)
    with acting(desk, "approver", f"/console/overturn?violation={grounds[0]}") as form:
        words = form.look(reason="Wrong.")
    assert f"Suspension {suspension} of user:goes-on does not rest on it alone" in words


def test_the_end_is_compared_from_when_it_differs(desk: Running) -> None:
    """A term that is made longer refuses from the old end on, one made shorter opens earlier."""
    suspension = suspension_of(desk, "user:longer", ends_at="2027-02-01T00:00:00Z")
    with acting(desk, "officer", f"/console/revise?suspension={suspension}") as form:
        words = form.look(ends_at="2027-03-01T00:00", reason="x")
        assert "from 2027-02-01 00:00:00 UTC on Refused from then on model:atlas-3" in words
        form.send("change")
        words = form.look(ends_at="2027-01-01T00:00", reason="x")
        assert "from 2027-01-01 00:00:00 UTC on Allowed again model:atlas-3" in words


# --- the words of fields --------------------------------------------------------------------------


def filled_in(**fields: str | list[str]) -> Values:
    """The values of fields."""
    return Values(
        (name, each)
        for name, value in fields.items()
        for each in ([value] if isinstance(value, str) else value)
    )


@pytest.mark.parametrize(
    ("line", "condition"),
    [
        (
            "subject.properties.plan in free, 3,true",
            {"attribute": "subject.properties.plan", "in": ["free", 3, True]},
        ),
        (
            'resource.properties.status not_in ["a, b", "c"]',
            {"attribute": "resource.properties.status", "not_in": ["a, b", "c"]},
        ),
        ("action.properties.x exists", {"attribute": "action.properties.x", "exists": True}),
        ("action.properties.x exists no", {"attribute": "action.properties.x", "exists": False}),
    ],
)
def test_a_condition_is_a_line(line: str, condition: dict[str, object]) -> None:
    """Values are parted by commas, or are a list of JSON where they hold some."""
    read = scope(filled_in(types="model", conditions=f"\n{line}\n\n"))
    assert [condition] == read["conditions"]


@pytest.mark.parametrize(
    "values",
    [
        filled_in(conditions="subject.properties.plan is free", types="model"),
        filled_in(conditions="plan", types="model"),
        filled_in(resources="no-type"),
        filled_in(),
    ],
)
def test_a_scope_that_cannot_be_read_is_refused(values: Values) -> None:
    """It says in which field."""
    with pytest.raises(InvalidValue) as caught:
        scope(values)
    assert str(caught.value.field).startswith("/scope/")


@pytest.mark.parametrize(
    "held",
    [
        {"plan": "enterprise", "seats": 3, "trial": False, "ratio": 0.5},
        {"tags": ["a", "b"], "odd": "3", "yes": "true", "spaced": " x ", "lines": "a\nb"},
        {"list": "[1]", "quoted": '"q"', "empty.list": [], "equals": "a = b", "object": "{}"},
    ],
)
def test_properties_are_read_as_they_were_written(held: dict[str, object]) -> None:
    """Whatever a property holds, its line gives it again."""
    assert held == properties(filled_in(properties=property_lines(held)))


def test_a_property_is_given_once_and_with_a_value() -> None:
    """A line without an equals sign, and a name twice, are slips."""
    for text in ("plan", "a = 1\na = 2"):
        with pytest.raises(InvalidValue):
            properties(filled_in(properties=text))


def test_an_end_is_passed_on_as_it_is_given() -> None:
    """Which ways may go together is for the rule; only two durations cannot be one."""
    assert {"duration": "P7D"} == term(filled_in(duration="P7D"))
    assert {"indefinite": True} == term(filled_in(duration="indefinite"))
    assert {"ends_at": "2027-01-01T00:00:00Z"} == term(filled_in(ends_at="2027-01-01T00:00"))
    both = term(filled_in(duration="indefinite", other_duration="P1D"))
    assert {"duration": "P1D", "indefinite": True} == both
    with pytest.raises(InvalidValue):
        term(filled_in(duration="P7D", other_duration="P8D"))


def test_evidence_is_a_line() -> None:
    """Whether a digest is one, the API says."""
    read = evidence(filled_in(evidence="s3://a 12 personal\ns3://b 34\ns3://c"))
    assert [
        {"uri": "s3://a", "sha256": "12", "personal": True},
        {"uri": "s3://b", "sha256": "34"},
        {"uri": "s3://c", "sha256": ""},
    ] == read
    with pytest.raises(InvalidValue):
        evidence(filled_in(evidence="s3://a 12 private"))
