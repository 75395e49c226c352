"""A small OpenID provider on a real socket: discovery, keys, codes with PKCE, signed id tokens."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey

CLIENT: Final = "ledger-console"
SECRET: Final = "a secret: with / and %"


@dataclass
class Provider:
    """A provider at which somebody is signed in already, and what it says of them."""

    clock: Callable[[], datetime]
    url: str = ""
    claims: dict[str, Any] = field(default_factory=dict)
    """What id tokens say of whoever is signed in; ``None`` takes a member out of the token."""
    header: dict[str, Any] = field(default_factory=dict)
    said: dict[str, Any] = field(default_factory=dict)
    """What the metadata say besides."""
    key: ECKey = field(default_factory=lambda: new_key("first"))
    published: list[ECKey] = field(default_factory=list)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.published.append(self.key)

    def metadata(self) -> dict[str, Any]:
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/keys",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
            "authorization_response_iss_parameter_supported": True,
            **self.said,
        }

    def authorize(self, asked: dict[str, str]) -> str:
        """Return where the browser goes with the code of whoever is signed in."""
        assert (CLIENT, "code", "S256") == (
            asked["client_id"],
            asked["response_type"],
            asked["code_challenge_method"],
        )
        assert "openid" in asked["scope"].split()
        code = secrets.token_urlsafe(16)
        self.codes[code] = asked
        query = {"code": code, "state": asked["state"], "iss": self.url, "session_state": ""}
        return f"{asked['redirect_uri']}?{urlencode(query)}"

    def token(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        """Return an id token for a code, once, to who has the verifier and the secret."""
        given = base64.b64decode(authorization.removeprefix("Basic ")).decode()
        if given != urlencode({CLIENT: SECRET}).replace("=", ":"):
            return 401, {"error": "invalid_client"}
        asked = self.codes.pop(form["code"], None)
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        if asked is None or (challenge, form["redirect_uri"]) != (
            asked["code_challenge"],
            asked["redirect_uri"],
        ):
            return 400, {"error": "invalid_grant"}
        now = int(self.clock().timestamp())
        claims = {
            "iss": self.url,
            "aud": CLIENT,
            "sub": "somebody",
            "iat": now,
            "exp": now + 300,
            "nonce": asked["nonce"],
            **self.claims,
        }
        kept = {name: value for name, value in claims.items() if value is not None}
        header = {"alg": "ES256", "kid": self.key.kid, **self.header}
        return 200, {
            "access_token": "none of ours",
            "token_type": "Bearer",
            "id_token": jwt.encode(header, kept, self.key, algorithms=["ES256"]),
        }


def new_key(kid: str) -> ECKey:
    """A signing key with a name."""
    return ECKey.generate_key("P-256", {"kid": kid, "use": "sig", "alg": "ES256"})


class Handler(BaseHTTPRequestHandler):
    """Answers for the provider of its server."""

    provider: Provider

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.provider.seen.append(parts.path)
        if parts.path == "/authorize":
            asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
            self.send_response(302)
            self.send_header("Location", self.provider.authorize(asked))
            self.end_headers()
        elif parts.path == "/keys":
            keys = [key.as_dict(private=False) for key in self.provider.published]
            self.answer(200, {"keys": keys})
        elif parts.path == "/.well-known/openid-configuration":
            self.answer(200, self.provider.metadata())
        else:
            self.answer(404, {})

    def do_POST(self) -> None:
        self.provider.seen.append(self.path)
        form = dict(parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
        self.answer(*self.provider.token(form, self.headers.get("Authorization", "")))

    def answer(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Write nothing beside the tests' own output."""


@contextmanager
def openid_provider(clock: Callable[[], datetime]) -> Iterator[Provider]:
    """A provider on a free port of 127.0.0.1."""
    provider = Provider(clock)
    handler = type("Bound", (Handler,), {"provider": provider})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        provider.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield provider
        finally:
            server.shutdown()
            thread.join()
