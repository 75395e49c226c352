"""Signing in at an OpenID provider: who it vouches for is let in as the operator of that id."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from playwright.sync_api import Browser
from pydantic import SecretStr, ValidationError

from ledger.domain.errors import InvalidValue
from ledger.domain.values import Role
from ledger.service.console.openid import (
    LEEWAY_S,
    STARTED_S,
    OpenId,
    ProviderUnavailable,
    Started,
    claim,
)
from ledger.service.console.session import COOKIE
from ledger.service.settings import Settings
from tests.conftest import SetClock, settings_at
from tests.openid_provider import CLIENT, SECRET, Provider, new_key, openid_provider
from tests.service.conftest import Running, opened
from tests.service.console.conftest import client_of, csrf_in, opened_page

ROLES = {"ledger-audit": Role.AUDITOR, "ledger-cases": Role.OFFICER, "ledger-bots": Role.SERVICE}


@dataclass
class Trusting:
    """A ledger that trusts a provider."""

    run: Running
    provider: Provider


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trusting]:
    """A ledger and its provider, for the tests of this module."""
    clock, folder = SetClock(), tmp_path_factory.mktemp("openid")
    with openid_provider(clock) as provider:
        settings = settings_at(
            f"sqlite:///{folder / 'ledger.db'}",
            folder,
            origin="test.ledger",
            oidc_issuer=provider.url,
            oidc_client_id=CLIENT,
            oidc_client_secret=SecretStr(SECRET),
            oidc_roles=ROLES,
        )
        with opened(settings, clock) as run:
            yield Trusting(run, provider)


@pytest.fixture
def trusting(both: Trusting) -> Iterator[Trusting]:
    """The same, with a provider that vouches for the auditor, truthfully, at the start."""
    provider = both.provider
    first, published = provider.key, list(provider.published)
    provider.claims = {"sub": "the-auditor", "groups": ["staff", "ledger-audit"]}
    yield both
    provider.key, provider.header, provider.said = first, {}, {}
    provider.published[:] = published


def come_back(http: httpx.Client, start: str = "/console/oidc") -> httpx.Response:
    """Go to the provider and come back, as a browser does."""
    there = http.get(start)
    assert there.status_code == 303, there.text
    back = httpx.get(there.headers["location"], trust_env=False)
    assert back.status_code == 302
    return http.get(back.headers["location"], headers={"Sec-Fetch-Site": "cross-site"})


def is_open(http: httpx.Client) -> bool:
    """Whether the client has a session."""
    return http.get("/console").status_code == 200


def test_who_is_vouched_for_is_let_in(trusting: Trusting) -> None:
    """The session is that of the enrolled operator, with a strict cookie, and leads on."""
    with client_of(trusting.run) as http:
        answer = come_back(http, "/console/oidc?next=/console?at=2026-11-24T10:00:00Z")

        assert 200 == answer.status_code
        assert 'content="0; url=/console?at=2026-11-24T10:00:00Z"' in answer.text
        cookies = answer.headers.get_list("set-cookie")
        assert [True] == ["SameSite=strict" in each for each in cookies if COOKIE + "=" in each]
        page = http.get("/console").text
        assert "the-auditor <small>(auditor)</small>" in page
        http.post("/console/sign-out", data={"csrf": csrf_in(page)})
        assert not is_open(http)


def test_a_browser_signs_in_at_the_provider(trusting: Trusting, browser: Browser) -> None:
    """The button leads there, and back to the page that was asked for, with and without script."""
    for script in (True, False):
        with opened_page(browser, trusting.run, script=script) as page:
            page.goto("/console?known_position=1")
            page.get_by_role("link", name="Sign in at").click()
            page.get_by_role("button", name="Sign out").wait_for()
            assert page.url.endswith("/console?known_position=1")


@pytest.mark.parametrize(
    "claims",
    [
        {"groups": ["staff"]},
        {"groups": []},
        {"groups": None},
        {"groups": [7, {"ledger-audit": 1}]},
        {"groups": "ledger-cases"},
        {"sub": "nobody"},
        {"sub": "the-service", "groups": ["ledger-bots"]},
        {"sub": "system"},
        {"sub": None},
        {"iss": "https://evil.example"},
        {"aud": "another-client"},
        {"aud": ["another-client", CLIENT], "azp": "another-client"},
        {"nonce": "replayed"},
        {"nonce": None},
        {"exp": 1},
        {"iat": 9_999_999_999},
        {"exp": None},
    ],
    ids=str,
)
def test_who_is_not_vouched_for_as_an_operator_is_not_let_in(
    trusting: Trusting, claims: dict[str, Any]
) -> None:
    """The provider must grant the very role that the operator is enrolled in, in a good token."""
    trusting.provider.claims |= claims
    with client_of(trusting.run) as http:
        answer = come_back(http)

        assert 403 == answer.status_code
        assert "<code>sign_in_refused</code>" in answer.text
        assert COOKIE not in http.cookies


def test_a_token_that_the_provider_did_not_sign_is_none(trusting: Trusting) -> None:
    """Another key under the name of the provider's, or one that it does not publish."""
    for key in (new_key("first"), new_key("unpublished")):
        trusting.provider.key = key
        with client_of(trusting.run) as http:
            assert 403 == come_back(http).status_code


def test_a_new_key_of_the_provider_is_seen_at_once(trusting: Trusting) -> None:
    """A provider that signs with a new key, which it publishes, is asked for its keys anew."""
    trusting.provider.key = new_key("second")
    trusting.provider.published.append(trusting.provider.key)
    with client_of(trusting.run) as http:
        come_back(http)
        assert is_open(http)


def test_an_answer_belongs_to_the_browser_that_asked(trusting: Trusting) -> None:
    """Somebody else's answer, one that comes twice, and one that comes late sign nobody in."""
    with client_of(trusting.run) as mine, client_of(trusting.run) as theirs:
        theirs.get("/console/oidc")
        there = mine.get("/console/oidc").headers["location"]
        back = httpx.get(there, trust_env=False).headers["location"]
        assert 403 == theirs.get(back).status_code
        assert 403 == httpx.get(back, trust_env=False).status_code
        kept = mine.cookies["ledger_console_oidc"]
        assert 200 == mine.get(back).status_code
        mine.cookies.clear()
        again = mine.get(back, headers={"Cookie": f"ledger_console_oidc={kept}"})
        assert 403 == again.status_code

    with client_of(trusting.run) as late:
        there = late.get("/console/oidc").headers["location"]
        trusting.run.clock.move(seconds=STARTED_S)
        back = httpx.get(there, trust_env=False).headers["location"]
        assert 403 == late.get(back).status_code


def test_an_answer_of_another_issuer_is_none(trusting: Trusting) -> None:
    """Which provider answers is said in the answer, and a mix-up is refused (RFC 9207)."""
    with client_of(trusting.run) as http:
        there = http.get("/console/oidc").headers["location"]
        back = httpx.get(there, trust_env=False).headers["location"]
        parts = urlsplit(back)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        for iss in ("https://evil.example", None):
            asked = {**query, "iss": iss} if iss else {k: v for k, v in query.items() if k != "iss"}
            assert 403 == http.get(parts.path, params=asked).status_code


def test_another_role_ends_the_session_that_a_provider_began(trusting: Trusting) -> None:
    """The ledger's own word counts at every request."""
    run = trusting.run
    with client_of(run) as http:
        come_back(http)
        assert is_open(http)
        for role in ("officer", "auditor"):
            body = {"id": "the-auditor", "role": role}
            run.done("POST", "/v1/operators", role="admin", json=body)
            assert (role == "auditor") == is_open(http)


def test_a_little_difference_of_clocks_is_borne(trusting: Trusting) -> None:
    """A token that ended a moment ago by our clock still counts; a moment more and it does not."""
    now = int(trusting.run.clock().timestamp())
    for ended, expected in ((LEEWAY_S - 1, 200), (LEEWAY_S + 1, 403)):
        trusting.provider.claims |= {"iat": now - 400, "exp": now - ended}
        with client_of(trusting.run) as http:
            assert expected == come_back(http).status_code


@pytest.mark.parametrize(
    "said",
    [
        {"issuer": "https://evil.example"},
        {"token_endpoint": None},
        {"token_endpoint": "ftp://127.0.0.1/token"},
        {"jwks_uri": 7},
    ],
    ids=str,
)
def test_a_provider_that_is_not_what_it_should_be_is_not_used(
    trusting: Trusting, said: dict[str, Any]
) -> None:
    """What it says of itself must be whole, and of the issuer that the settings name."""
    trusting.provider.said = said
    openid = OpenId.of(trusting.run.service.settings)
    assert openid is not None
    with pytest.raises(ProviderUnavailable):
        openid.address(Started.begin(None, 0), "http://localhost/console/oidc/callback")


def test_a_provider_that_cannot_be_reached_is_said_to_be(trusting: Trusting) -> None:
    """Without it, people sign in with a key."""
    settings = trusting.run.service.settings.model_copy(
        update={"oidc_issuer": "http://127.0.0.1:9"}
    )
    openid = OpenId.of(settings)
    assert openid is not None
    with pytest.raises(ProviderUnavailable, match="cannot be asked"):
        openid.address(Started.begin(None, 0), "http://localhost/console/oidc/callback")


def test_without_a_provider_there_is_no_such_page(shared: Running) -> None:
    """Nothing of it is shown where the settings name none."""
    with client_of(shared) as http:
        assert 404 == http.get("/console/oidc").status_code
        assert "Sign in at" not in http.get("/console/sign-in").text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("groups", ["a"]),
        ("realm_access.roles", ["b"]),
        ("https://ledger.example/roles", "c"),
        ("realm_access.none", None),
        ("groups.none", None),
    ],
)
def test_a_claim_is_found_by_its_name_or_its_path(name: str, expected: object) -> None:
    """Providers nest what they add."""
    claims = {
        "groups": ["a"],
        "realm_access": {"roles": ["b"]},
        "https://ledger.example/roles": "c",
    }
    assert expected == claim(claims, name)


@pytest.mark.parametrize(
    "changed",
    [
        {"oidc_client_id": None},
        {"oidc_issuer": None},
        {"oidc_issuer": "http://login.example"},
        {"oidc_issuer": "http://localhost.evil.example"},
        {"oidc_roles": {}},
        {"oidc_roles": {"a": "king"}},
        {"oidc_client_secret": "a", "oidc_client_secret_file": "b"},
    ],
    ids=str,
)
def test_half_a_provider_is_refused(changed: dict[str, Any]) -> None:
    """Settings that would let nobody in, or anybody, are named at the start."""
    whole: dict[str, Any] = {
        "oidc_issuer": "https://login.example",
        "oidc_client_id": CLIENT,
        "oidc_roles": {"ledger-audit": "auditor"},
    }
    assert Settings(**whole).oidc_roles == {"ledger-audit": Role.AUDITOR}
    with pytest.raises(ValidationError):
        Settings(**{**whole, **changed})


def test_the_secret_is_read_from_a_file_and_shown_nowhere(tmp_path: Path) -> None:
    """A file that others may read is refused; settings that are printed do not show a secret."""
    path = tmp_path / "secret"
    path.write_text(f"{SECRET}\n", encoding="utf-8")
    settings = Settings(
        oidc_issuer="https://login.example",
        oidc_client_id=CLIENT,
        oidc_client_secret_file=path,
        oidc_roles=ROLES,
    )
    path.chmod(0o644)
    with pytest.raises(InvalidValue):
        OpenId.of(settings)
    path.chmod(0o600)
    openid = OpenId.of(settings)
    assert openid is not None
    assert SECRET == openid._secret
    assert SECRET not in repr(Settings(oidc_client_secret=SecretStr(SECRET)))
