"""Who says that somebody is who they say: an OpenID provider that the settings name.

Authorization code with PKCE, state and nonce (OpenID Connect Core 1.0, RFC 7636, RFC 9207). The
provider vouches for a person and for what they may do; the ledger has enrolled the operator. Only
where both agree does a session begin, so the trail names who acted, in a role that it shows.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Self
from urllib.parse import urlencode, urlsplit

import httpx
import orjson

from ledger.domain.errors import InvalidValue, Unavailable
from ledger.domain.values import Role
from ledger.service.console.session import CONSOLE_ROLES
from ledger.service.http.problems import RequestRefused
from ledger.service.settings import Settings
from ledger.store.secret_file import read_secret
from projections.operators import Caller, Keyring

# What reads keys and tokens is imported where it is used: most ledgers have no provider.
if TYPE_CHECKING:
    from joserfc.jwk import KeySet

PROVIDER_TIMEOUT_S: Final = 5.0  # somebody sits and waits
PROVIDER_BYTES_MAX: Final = 1024 * 1024  # metadata and keys have some kilobytes
PROVIDER_KEPT_S: Final = 3_600  # metadata and keys change once in months; new keys are seen at once
STARTED_S: Final = 600  # a second factor, and a password that had to be looked for
LEEWAY_S: Final = 60  # between the provider's clock and ours
ALGORITHMS: Final = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "EdDSA",
)
"""Signatures by a key that the provider alone has; never "none", nor a shared secret."""

SCOPE: Final = "openid profile email"


class SignInRefused(RequestRefused):
    """The provider or the ledger does not let this person in. It does not say which, nor why."""

    status = 403
    code = "sign_in_refused"
    title = "You could not be signed in"
    hint = "Try again; if it stays so, ask an administrator: the cause is in the ledger's log."


class ProviderUnavailable(Unavailable):
    """The OpenID provider cannot be reached, or answers what is no answer."""

    code = "provider_unavailable"
    title = "The sign-in service does not answer"
    hint = "Try again in a while, or sign in with a key."


@dataclass(frozen=True, slots=True)
class Started:
    """A sign-in that has begun: what the browser keeps until the provider sends it back."""

    state: str
    nonce: str
    verifier: str
    following: str | None
    at: int

    @classmethod
    def begin(cls, following: str | None, at: int) -> Self:
        """Begin one, with secrets of its own."""
        return cls(
            secrets.token_urlsafe(24),
            secrets.token_urlsafe(24),
            secrets.token_urlsafe(48),
            following,
            at,
        )

    def is_over(self, at: int) -> bool:
        """Tell whether it took too long."""
        return not 0 <= at - self.at < STARTED_S * 1_000_000


@dataclass(frozen=True, slots=True)
class _Provider:
    """What a provider says of itself, and its keys."""

    authorization: str
    token: str
    posts_secret: bool
    names_itself: bool
    keys: KeySet
    read_at: float


class OpenId:
    """The provider of the settings. Its metadata and keys are read when first needed."""

    def __init__(self, settings: Settings, *, issuer: str, client_id: str) -> None:
        self.issuer = issuer
        self._client_id = client_id
        self._secret = _secret_of(settings)
        self._role_claim = settings.oidc_role_claim
        self._operator_claim = settings.oidc_operator_claim
        self._roles = settings.oidc_roles
        self._turn = threading.Lock()
        self._known: _Provider | None = None

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """Return the provider that the settings name, if they do."""
        if settings.oidc_issuer is None or settings.oidc_client_id is None:
            return None
        return cls(settings, issuer=settings.oidc_issuer, client_id=settings.oidc_client_id)

    @property
    def name(self) -> str:
        """What people call the provider: its host."""
        return urlsplit(self.issuer).netloc

    def address(self, started: Started, redirect_uri: str) -> str:
        """Return where the browser goes to sign in."""
        from authlib.oauth2.rfc7636 import (  # type: ignore[import-untyped]  # noqa: PLC0415
            create_s256_code_challenge,
        )

        query = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": redirect_uri,
            "scope": SCOPE,
            "state": started.state,
            "nonce": started.nonce,
            "code_challenge": create_s256_code_challenge(started.verifier),
            "code_challenge_method": "S256",
        }
        there = self._provider().authorization
        return f"{there}{'&' if urlsplit(there).query else '?'}{urlencode(query)}"

    def claims(
        self, started: Started, answer: Mapping[str, str], redirect_uri: str, *, now: int
    ) -> Mapping[str, Any]:
        """Return what the provider vouches for, ``now`` in microseconds since 1970.

        Raises ``SignInRefused`` unless the answer is one to this sign-in, and all of it holds.
        """
        state = answer.get("state", "")
        if not secrets.compare_digest(state.encode(), started.state.encode()):
            raise SignInRefused("the answer is not one to a sign-in that this browser began")
        if started.is_over(now):
            raise SignInRefused("the sign-in took too long")
        provider = self._provider()
        if answer.get("iss", None if provider.names_itself else self.issuer) != self.issuer:
            raise SignInRefused("the answer is not the provider's")
        if "code" not in answer:
            raise SignInRefused("the provider did not sign you in")
        tokens = self._exchange(provider, answer["code"], started.verifier, redirect_uri)
        return self._validated(tokens, started.nonce, now // 1_000_000)

    def caller(self, claims: Mapping[str, Any], keyring: Keyring) -> Caller:
        """Return the operator that the claims are of. Raises ``SignInRefused``.

        It must be enrolled, in a role that the provider grants and that may open the console.
        """
        operator = claim(claims, self._operator_claim)
        if self._operator_claim == "email" and claims.get("email_verified") is not True:
            raise SignInRefused("the provider has not verified the address")
        role = keyring.role_of(operator) if isinstance(operator, str) else None
        if role is None or role not in self.granted(claims) & CONSOLE_ROLES:
            raise SignInRefused("no operator of the ledger is let in for this account")
        assert isinstance(operator, str)
        return Caller(operator, role, f"oidc:{operator}")

    def granted(self, claims: Mapping[str, Any]) -> set[Role]:
        """Return the roles that the claim's values stand for."""
        values = claim(claims, self._role_claim)
        found = values if isinstance(values, list) else [values]
        return {
            self._roles[each] for each in found if isinstance(each, str) and each in self._roles
        }

    # --- the provider -----------------------------------------------------------------------------

    def _provider(self, *, anew: bool = False) -> _Provider:
        with self._turn:
            known = self._known
            if known is None or anew or time.monotonic() - known.read_at > PROVIDER_KEPT_S:
                known = self._known = self._discover()
            return known

    def _discover(self) -> _Provider:
        from joserfc.errors import JoseError  # noqa: PLC0415
        from joserfc.jwk import KeySet  # noqa: PLC0415

        said = self._asked("GET", f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
        if said.get("issuer") != self.issuer:
            raise ProviderUnavailable(f"{self.name} says that it is another issuer")
        authorization, token, jwks = (
            self._endpoint(said, name)
            for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")
        )
        methods = said.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        try:
            keys = KeySet.import_key_set(self._asked("GET", jwks))  # type: ignore[arg-type]
        except (JoseError, ValueError, KeyError, TypeError):
            raise ProviderUnavailable(f"{self.name} publishes keys that are none") from None
        return _Provider(
            authorization,
            token,
            posts_secret="client_secret_basic" not in methods,
            names_itself=said.get("authorization_response_iss_parameter_supported") is True,
            keys=keys,
            read_at=time.monotonic(),
        )

    def _endpoint(self, said: Mapping[str, Any], name: str) -> str:
        url = said.get(name)
        # As safe as the issuer's own address, of which the settings demand https.
        if not isinstance(url, str) or urlsplit(url).scheme != urlsplit(self.issuer).scheme:
            raise ProviderUnavailable(f"{self.name} names no usable {name}")
        return url

    def _exchange(
        self, provider: _Provider, code: str, verifier: str, redirect_uri: str
    ) -> dict[str, Any]:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        auth = None
        if self._secret is not None and not provider.posts_secret:
            auth = httpx.BasicAuth(_quoted(self._client_id), _quoted(self._secret))
        else:
            form["client_id"] = self._client_id
            if self._secret is not None:
                form["client_secret"] = self._secret
        return self._asked("POST", provider.token, data=form, auth=auth, refusal=True)

    def _asked(
        self,
        method: Literal["GET", "POST"],
        url: str,
        *,
        data: Mapping[str, str] | None = None,
        auth: httpx.Auth | None = None,
        refusal: bool = False,
    ) -> dict[str, Any]:
        """Return what the provider answers, an object. ``refusal``: 400 means that it refuses."""
        body = bytearray()
        try:
            with (
                httpx.Client(timeout=PROVIDER_TIMEOUT_S, trust_env=False) as http,
                http.stream(
                    method, url, data=data, auth=auth, headers={"Accept": "application/json"}
                ) as response,
            ):
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > PROVIDER_BYTES_MAX:
                        raise ProviderUnavailable(f"{self.name} answers too much")
                status = response.status_code
        except httpx.HTTPError as error:
            raise ProviderUnavailable(f"{self.name} cannot be asked: {error}") from error
        if refusal and status == httpx.codes.BAD_REQUEST:
            raise SignInRefused("the provider does not know this sign-in, or knows it no more")
        try:
            found = orjson.loads(body)
        except orjson.JSONDecodeError:
            found = None
        if status != httpx.codes.OK or not isinstance(found, dict):
            raise ProviderUnavailable(f"{self.name} answers {status}, and not what was asked for")
        return found

    def _validated(self, tokens: Mapping[str, Any], nonce: str, now_s: int) -> Mapping[str, Any]:
        from authlib.oidc.core import CodeIDToken  # type: ignore[import-untyped]  # noqa: PLC0415
        from joserfc import jwt  # noqa: PLC0415
        from joserfc.errors import InvalidKeyIdError, JoseError  # noqa: PLC0415

        token = tokens.get("id_token")
        if not isinstance(token, str):
            raise SignInRefused("the provider sent no id token")
        try:
            try:
                decoded = jwt.decode(token, self._provider().keys, algorithms=list(ALGORITHMS))
            except InvalidKeyIdError:  # it signs with a new key
                decoded = jwt.decode(
                    token, self._provider(anew=True).keys, algorithms=list(ALGORITHMS)
                )
            claims = CodeIDToken(
                decoded.claims,
                decoded.header,
                options={
                    "iss": {"essential": True, "value": self.issuer},
                    "aud": {"essential": True, "value": self._client_id},
                    "nonce": {"essential": True, "value": nonce},
                },
                params={
                    "nonce": nonce,
                    "client_id": self._client_id,
                    "access_token": tokens.get("access_token"),
                },
            )
            claims.validate(now=now_s, leeway=LEEWAY_S)
        except (JoseError, ValueError, TypeError) as error:
            raise SignInRefused(f"the id token does not hold: {type(error).__name__}") from None
        return dict(claims)


def claim(claims: Mapping[str, Any], name: str) -> object:
    """Return a claim by its name, or by the path of a nested one, like ``realm_access.roles``."""
    if name in claims:
        return claims[name]
    found: object = claims
    for part in name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found


def _secret_of(settings: Settings) -> str | None:
    if settings.oidc_client_secret is not None:
        return settings.oidc_client_secret.get_secret_value()
    if settings.oidc_client_secret_file is None:
        return None
    secret = read_secret(
        settings.oidc_client_secret_file,
        "the client secret",
        when_missing="put the secret there, or unset LEDGER_OIDC_CLIENT_SECRET_FILE",
    )
    try:
        return secret.decode().strip()
    except UnicodeDecodeError:
        raise InvalidValue(
            f"{settings.oidc_client_secret_file} does not hold a client secret: it is not UTF-8"
        ) from None


def _quoted(text: str) -> str:
    """Return a text as a form encodes it, which RFC 6749 wants inside of Basic (section 2.3.1)."""
    return urlencode({"": text})[1:]
