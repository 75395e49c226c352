"""A session begins with a key; rest, age, revocation and signing out end it; none is forged."""

from __future__ import annotations

import base64
import json

import httpx
import pytest

from ledger.domain.values import Role, microseconds
from ledger.service.console.route import FORM_FIELDS_MAX, is_from_here, local_address
from ledger.service.console.session import (
    ABSOLUTE_S,
    CONSOLE_ROLES,
    COOKIE,
    IDLE_S,
    RENEW_S,
    Seals,
    begin,
)
from ledger.service.wiring import build
from projections.operators import Caller
from tests.conftest import T0
from tests.service.conftest import Running, joined, settings_at, until
from tests.service.console.conftest import client_of, csrf_in, signed_in

REFUSED = "This key does not open the console."
NOW = microseconds(T0)
SECOND = 1_000_000


def is_open(http: httpx.Client) -> bool:
    """Whether the client's session is one; otherwise it is sent to sign in."""
    answer = http.get("/console")
    if answer.status_code == 303:
        assert answer.headers["location"].startswith("/console/sign-in")
    return answer.status_code == 200


# --- beginning ------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", list(Role))
def test_only_people_sign_in(shared: Running, role: Role) -> None:
    """Four roles open the console; a machine's key is refused as an unknown one is."""
    with client_of(shared) as http:
        answer = http.post("/console/sign-in", data={"key": shared.keys[role]})

        assert (303 if role in CONSOLE_ROLES else 403) == answer.status_code
        assert (role in CONSOLE_ROLES) == is_open(http)


def test_a_refusal_does_not_say_what_was_wrong(running: Running) -> None:
    """Unknown, revoked, expired, of a machine, empty, enormous: one answer, to the byte."""
    issue = "/v1/operators/the-officer/keys"
    revoked = running.done("POST", issue, role="admin", json={})
    running.done("DELETE", f"/v1/keys/{revoked['id']}", role="admin")
    ends = {"expires_at": "2026-11-24T10:00:01Z"}
    expired = running.done("POST", issue, role="admin", json=ends)
    running.clock.move(seconds=1)
    wrong = [revoked["key"], expired["key"], running.keys["service"], "", "clk_x", "é", "x" * 9_999]
    with client_of(running) as http:
        answers = [http.post("/console/sign-in", data={"key": key}) for key in wrong]

    assert {403} == {answer.status_code for answer in answers}
    assert {answers[0].text} == {answer.text for answer in answers}
    assert REFUSED in answers[0].text
    assert not any("set-cookie" in answer.headers for answer in answers)


def test_the_cookie_holds_no_key_and_goes_nowhere_else(shared: Running) -> None:
    """It is for the console only, out of reach of script, and of links from other sites."""
    with client_of(shared) as http:
        answer = http.post("/console/sign-in", data={"key": shared.keys["auditor"]})
        secure = http.post(
            "/console/sign-in",
            data={"key": shared.keys["auditor"], "csrf": csrf_of(shared, http)},
            headers={"X-Forwarded-Proto": "https"},
        )

    cookie = answer.headers["set-cookie"]
    text = cookie.partition("=")[2].partition(".")[0]
    inside = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
    assert '"the-auditor"' in inside
    assert "clk_" not in inside
    assert "clk_" not in cookie
    for attribute in ("HttpOnly", "Path=/console", "SameSite=strict", f"Max-Age={ABSOLUTE_S}"):
        assert attribute in cookie
    assert "Secure" not in cookie
    assert "Secure" in secure.headers["set-cookie"]


def csrf_of(run: Running, http: httpx.Client) -> str:
    """The token of a client's session."""
    seals = Seals(run.service.console_key)
    session = seals.session_of(http.cookies[COOKIE])
    assert session is not None
    return seals.csrf_of(session)


def test_no_key_is_logged(shared: Running, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a key that opens the console nor one that does not gets into the log."""
    with caplog.at_level("DEBUG"), client_of(shared) as http:
        for key in (shared.keys["auditor"], shared.keys["service"]):
            http.post("/console/sign-in", data={"key": key})

    said = [str(vars(record)) for record in caplog.records]
    assert said
    assert not [line for line in said if "clk_" in line]


# --- ending ---------------------------------------------------------------------------------------


def test_a_session_ends_after_rest(running: Running) -> None:
    """It lasts as long as each request comes before the rest is over, and not a second longer."""
    with signed_in(running, "officer") as http:
        for _ in range(3):
            running.clock.move(seconds=IDLE_S - 1)
            assert is_open(http)
        running.clock.move(seconds=IDLE_S)
        assert not is_open(http)


def test_a_session_ends_with_the_day(running: Running) -> None:
    """However busy it is kept, its age ends it."""
    with signed_in(running, "officer") as http:
        for _ in range(ABSOLUTE_S // (IDLE_S // 2) - 1):
            running.clock.move(seconds=IDLE_S // 2)
            assert is_open(http)
        running.clock.move(seconds=IDLE_S // 2)
        assert not is_open(http)


def test_the_cookie_is_renewed_once_in_a_while() -> None:
    """Before a minute has passed, an answer sets no cookie."""
    session = begin(Caller("ann", Role.AUDITOR, "key_1"), NOW)

    assert not session.is_stale(NOW + RENEW_S * SECOND - 1)
    assert session.is_stale(NOW + RENEW_S * SECOND)
    assert session.used(NOW + 5).began == NOW
    assert session.is_over(NOW - 1)
    assert not session.is_over(NOW + IDLE_S * SECOND - 1)
    assert session.is_over(NOW + IDLE_S * SECOND)


def test_a_revoked_key_ends_its_sessions_and_no_others(running: Running) -> None:
    """At the next request, in this process and in another one."""
    own = running.done("POST", "/v1/operators/the-officer/keys", role="admin", json={})
    running.keys["own"] = own["key"]
    with (
        joined(running) as other,
        signed_in(running, "own") as http,
        signed_in(running, "officer") as bystander,
        client_of(other) as there,
    ):
        there.cookies = http.cookies
        assert is_open(http)
        until(lambda: is_open(there))

        running.done("DELETE", f"/v1/keys/{own['id']}", role="admin")

        assert not is_open(http)
        until(lambda: not is_open(there))
        assert is_open(bystander)


def test_another_role_ends_the_session(running: Running) -> None:
    """What somebody signed in for is not silently something else."""
    with signed_in(running, "officer") as http:
        body = {"id": "the-officer", "role": "auditor"}
        running.done("POST", "/v1/operators", role="admin", json=body)

        assert not is_open(http)


def test_an_expired_key_ends_the_session(running: Running) -> None:
    """A session does not outlive the key that it rests on."""
    body = {"expires_at": "2026-11-24T10:05:00Z"}
    own = running.done("POST", "/v1/operators/the-auditor/keys", role="admin", json=body)
    running.keys["own"] = own["key"]
    with signed_in(running, "own") as http:
        running.clock.move(minutes=4)
        assert is_open(http)
        running.clock.move(minutes=1)
        assert not is_open(http)


def test_signing_out_ends_the_session(shared: Running) -> None:
    """The browser forgets the cookie, and the console asks for a key again."""
    with signed_in(shared, "auditor") as http:
        token = csrf_in(http.get("/console").text)
        answer = http.post("/console/sign-out", data={"csrf": token})

        assert (303, "/console/sign-in") == (answer.status_code, answer.headers["location"])
        assert COOKIE not in http.cookies
        assert not is_open(http)


# --- forging --------------------------------------------------------------------------------------


def test_a_cookie_that_was_changed_is_none(shared: Running) -> None:
    """Neither a bit of it nor all of it can be made up, nor used for another purpose."""
    seals = Seals(shared.service.console_key)
    session = begin(Caller("the-auditor", Role.AUDITOR, "key_1"), NOW)
    good = seals.cookie_of(session)
    text, _, mac = good.partition(".")
    forged = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    forged[2] = "admin"
    as_admin = base64.urlsafe_b64encode(json.dumps(forged).encode()).decode().rstrip("=")

    assert session == seals.session_of(good)
    for bad in ("", ".", text, f"{text}.", f"{as_admin}.{mac}", good[:-1], f"{good}A", "x" * 9_999):
        assert seals.session_of(bad) is None, bad
    for index in range(0, len(good), 7):
        changed = good[:index] + ("B" if good[index] == "A" else "A") + good[index + 1 :]
        assert seals.session_of(changed) is None
    assert seals.session_of(seals.seal("other", [1, 2, 3, 4, 5, 6])) is None
    assert Seals(bytes(32)).session_of(good) is None


def test_another_ledger_takes_no_session_of_this_one(
    shared: Running, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each ledger signs with a key of its own, and its processes with the same."""
    folder = tmp_path_factory.mktemp("other")
    settings = settings_at(f"sqlite:///{folder / 'ledger.db'}", folder, origin="test.ledger")
    other, again = build(settings), build(shared.service.settings)
    try:
        assert other.console_key != shared.service.console_key
        assert again.console_key == shared.service.console_key
    finally:
        other.close()
        again.close()


@pytest.mark.parametrize(
    "more",
    [
        {"data": {"csrf": ""}},
        {"data": {"csrf": "x"}},
        {"headers": {"Sec-Fetch-Site": "cross-site"}},
        {"headers": {"Sec-Fetch-Site": "same-site"}},
        {"headers": {"Sec-Fetch-Site": "none"}},
        {"headers": {"Origin": "https://evil.example"}},
        {"headers": {"Origin": "null"}},
    ],
    ids=str,
)
def test_a_form_from_elsewhere_does_nothing(
    shared: Running, more: dict[str, dict[str, str]]
) -> None:
    """Without the session's token, or from another site, a form is refused as a page."""
    with signed_in(shared, "auditor") as http:
        token = csrf_in(http.get("/console").text)
        asked = {"data": {"csrf": token}, **more}
        answer = http.post("/console/sign-out", **asked)  # type: ignore[arg-type]

        assert 403 == answer.status_code
        assert "<code>foreign_form</code>" in answer.text
        assert is_open(http)


def test_the_token_of_another_session_does_not_count(shared: Running) -> None:
    """An attacker's own token opens nobody else's forms."""
    with signed_in(shared, "auditor") as mine, signed_in(shared, "auditor") as theirs:
        token = csrf_in(theirs.get("/console").text)

        assert 403 == mine.post("/console/sign-out", data={"csrf": token}).status_code


@pytest.mark.parametrize(
    ("headers", "public_url", "expected"),
    [
        ({}, None, False),
        ({"sec-fetch-site": "same-origin"}, None, True),
        ({"sec-fetch-site": "same-origin", "origin": "http://a:1", "host": "a:1"}, None, True),
        ({"origin": "http://a:1", "host": "a:1"}, None, True),
        ({"origin": "http://a:2", "host": "a:1"}, None, False),
        ({"origin": "https://l.example", "host": "10.0.0.1"}, "https://l.example", True),
        ({"origin": "https://l.example", "host": "10.0.0.1"}, None, False),
        ({"origin": "null"}, None, False),
    ],
)
def test_where_a_form_is_from(
    headers: dict[str, str], public_url: str | None, expected: bool
) -> None:
    """A browser says it in one of two headers; who says it in neither is no browser."""
    assert expected == is_from_here(headers, public_url)


def test_a_form_in_another_shape_is_refused(shared: Running) -> None:
    """Only what a form of ours sends is read: its media type, its size, its number of fields."""
    with client_of(shared) as http:
        path = "/console/sign-in"
        assert 415 == http.post(path, json={"key": "x"}).status_code
        assert 413 == http.post(path, data={"key": "x" * 300_000}).status_code
        for fields, status in ((FORM_FIELDS_MAX, 403), (FORM_FIELDS_MAX + 1, 400)):
            form = {str(number): "x" for number in range(fields)}
            assert status == http.post(path, data=form).status_code
        assert (
            400
            == http.post(
                path,
                content="key=%ff",
                headers={"Content-Type": "application/x-www-form-urlencoded"},
            ).status_code
        )


# --- where to -------------------------------------------------------------------------------------


def test_who_is_sent_to_sign_in_comes_back(shared: Running) -> None:
    """The address that was asked for, with all its parameters, is opened after signing in."""
    with client_of(shared) as http:
        sent = http.get("/console?at=2026-11-24T10:00:00Z").headers["location"]
        page = http.get(sent)
        assert 'value="/console?at=2026-11-24T10:00:00Z"' in page.text
        following = httpx.URL(sent).params["next"]
        answer = http.post(
            "/console/sign-in", data={"key": shared.keys["auditor"], "next": following}
        )

        assert "/console?at=2026-11-24T10:00:00Z" == answer.headers["location"]
        again = http.get("/console/sign-in", params={"next": following})
        assert "/console?at=2026-11-24T10:00:00Z" == again.headers["location"]


ELSEWHERE = [
    "https://evil.example/console",
    "//evil.example/console",
    "/\\evil.example/console",
    "/console/../v1/events",
    "/console/%2e%2e/v1/events",
    "/console//evil.example",
    "/consoles",
    "/v1/events",
    "javascript:alert(1)",
    "/console\r\nSet-Cookie: a=b",
    "/console?" + "x" * 2_000,
]


@pytest.mark.parametrize("address", ELSEWHERE)
def test_nobody_is_sent_elsewhere(shared: Running, address: str) -> None:
    """An address that is not the console's own is forgotten."""
    assert local_address(address) is None
    with client_of(shared) as http:
        data = {"key": shared.keys["auditor"], "next": address}
        answer = http.post("/console/sign-in", data=data)

    assert (303, "/console") == (answer.status_code, answer.headers["location"])


def test_a_link_on_another_site_opens_the_page(shared: Running) -> None:
    """The cookie does not come with such a visit, so the page is opened once more, from here."""
    with client_of(shared) as http:
        answer = http.get("/console?at=2026-11-24", headers={"Sec-Fetch-Site": "cross-site"})

    assert 200 == answer.status_code
    assert '<meta http-equiv="refresh" content="0; url=/console?at=2026-11-24">' in answer.text
