"""Who is signed in: a cookie that we signed, and nothing kept on our side.

Any process of the ledger can read it, because all have the vault key. It names the key that was
signed in with, never the key itself, and that key is looked up at every request: revoking it, or
changing its operator's role, binds here at the next request.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from dataclasses import dataclass, replace
from typing import Final

import orjson

from ledger.domain.values import Role
from projections.operators import Caller, Keyring

COOKIE: Final = "ledger_console"
IDLE_S: Final = 30 * 60  # a desk that was left; long enough to read a page to its end
ABSOLUTE_S: Final = 12 * 60 * 60  # a working day: a stolen cookie is worth nothing tomorrow
RENEW_S: Final = 60  # how stale "last seen" may get, so that most answers set no cookie
COOKIE_BYTES_MAX: Final = 1_024  # ours have about 250; browsers stop at 4096

CONSOLE_ROLES: Final = frozenset((Role.AUDITOR, Role.OFFICER, Role.APPROVER, Role.ADMIN))
"""Who may sign in. A service and a reporter are machines, and have the API."""

_US: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Session:
    """A session: whose it is, when it began, and when it was last used (microseconds since 1970).

    ``key`` is the id of the key that was signed in with; without one, somebody else vouched for
    the operator in this role.
    """

    nonce: str
    operator: str
    role: Role
    key: str | None
    began: int
    seen: int

    def is_over(self, at: int) -> bool:
        """Tell whether it has ended, by rest or by age. One from the future is none."""
        idle, age = at - self.seen, at - self.began
        return not (0 <= idle < IDLE_S * _US and age < ABSOLUTE_S * _US)

    def is_stale(self, at: int) -> bool:
        """Tell whether the cookie should say anew when it was last used."""
        return at - self.seen >= RENEW_S * _US

    def used(self, at: int) -> Session:
        """Return the session as it is after a request at ``at``."""
        return replace(self, seen=at)

    def caller(self, keyring: Keyring, at: int) -> Caller | None:
        """Return who acts in it now; ``None`` when the key or the role is not what it was."""
        if self.key is None:
            role = keyring.role_of(self.operator)
            found = None if role is None else Caller(self.operator, role, f"oidc:{self.operator}")
        else:
            found = keyring.holder_of(self.key, at)
        if found is None or (found.operator, found.role) != (self.operator, self.role):
            return None
        return found if found.role in CONSOLE_ROLES else None


def begin(caller: Caller, at: int, *, by_key: bool = True) -> Session:
    """Return a new session of somebody who has just signed in."""
    key = caller.key if by_key else None
    return Session(secrets.token_urlsafe(16), caller.operator, caller.role, key, at, at)


class Seals:
    """Signs what a browser keeps for us, and knows it again."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def mac(self, purpose: str, text: bytes) -> bytes:
        """Return the signature of a text for one purpose."""
        return hmac.digest(self._key, purpose.encode() + b"\n" + text, hashlib.sha256)

    def seal(self, purpose: str, value: object) -> str:
        """Return a value with its signature, as a cookie's value."""
        text = orjson.dumps(value)
        return f"{_encoded(text)}.{_encoded(self.mac(purpose, text))}"

    def unseal(self, purpose: str, sealed: str) -> object:
        """Return the value; ``None`` when we did not sign it for this purpose."""
        if len(sealed) > COOKIE_BYTES_MAX:
            return None
        text, _, mac = (_decoded(part) for part in sealed.partition("."))
        if not hmac.compare_digest(self.mac(purpose, text), mac):
            return None
        value: object = orjson.loads(text)
        return value

    def cookie_of(self, session: Session) -> str:
        """Return a session as the value of its cookie."""
        return self.seal(
            "session",
            [
                session.nonce,
                session.operator,
                session.role,
                session.key,
                session.began,
                session.seen,
            ],
        )

    def session_of(self, cookie: str) -> Session | None:
        """Return the session of a cookie's value; ``None`` when we did not sign it."""
        value = self.unseal("session", cookie)
        if not isinstance(value, list):
            return None
        nonce, operator, role, key, began, seen = value
        return Session(nonce, operator, Role(role), key, began, seen)

    def csrf_of(self, session: Session) -> str:
        """Return the token that every form of a session carries."""
        return _encoded(self.mac("form", session.nonce.encode()))

    def is_csrf_of(self, session: Session, token: str) -> bool:
        """Tell whether a form carries the token of a session."""
        return hmac.compare_digest(self.csrf_of(session).encode(), token.encode())


def _encoded(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    """Return what a text encodes; nothing when it encodes nothing."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return b""
