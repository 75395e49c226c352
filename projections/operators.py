"""Who may act on the ledger, in which role, and with which keys?

The rows are for listing and for a restart. The ``Keyring`` is in memory and answers every request;
it applies an event once its append is committed, so a revoked key stops with the answer to its
revocation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from eventsourcing.persistence import Cursor

from ledger.domain.events import (
    OperatorEnrolled,
    OperatorEvent,
    OperatorKeyIssued,
    OperatorKeyRevoked,
    OperatorRoleChanged,
    Recorded,
)
from ledger.domain.values import Role, format_instant, microseconds


class OperatorRows:
    """The tables of operators and keys. Only the SHA-256 of a key is here, as in its event."""

    NAME: ClassVar[str] = "operators"
    TABLES: ClassVar[Sequence[str]] = ("operators", "operator_keys")
    DDL: ClassVar[Sequence[str]] = (
        """CREATE TABLE IF NOT EXISTS operators (
            operator TEXT PRIMARY KEY,
            role TEXT NOT NULL,
            position INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE IF NOT EXISTS operator_keys (
            key TEXT PRIMARY KEY,
            operator TEXT NOT NULL,
            sha256 TEXT NOT NULL UNIQUE,
            label TEXT,
            issued_at TEXT NOT NULL,
            expires_at TEXT,
            revoked_at TEXT
        ) STRICT, WITHOUT ROWID""",
    )

    def apply(self, cursor: Cursor, recorded: Recorded) -> None:
        """Write what one event changes."""
        match recorded.event:
            case (
                OperatorEnrolled(operator=operator, role=role)
                | OperatorRoleChanged(operator=operator, role=role)
            ):
                cursor.execute(
                    "INSERT INTO operators VALUES (?, ?, ?) ON CONFLICT (operator) "
                    "DO UPDATE SET role = excluded.role, position = excluded.position",
                    (operator, role, recorded.position),
                )
            case OperatorKeyIssued() as event:
                cursor.execute(
                    "INSERT INTO operator_keys VALUES (?, ?, ?, ?, ?, ?, NULL)",
                    (
                        event.key,
                        event.operator,
                        event.sha256,
                        event.label,
                        format_instant(recorded.recorded_at),
                        format_instant(event.expires_at) if event.expires_at else None,
                    ),
                )
            case OperatorKeyRevoked(key=key):
                cursor.execute(
                    "UPDATE operator_keys SET revoked_at = ? WHERE key = ?",
                    (format_instant(recorded.recorded_at), key),
                )
            case _:
                pass

    def stream_of(self, cursor: Cursor, key: str) -> str | None:
        """Return the stream that holds a key."""
        cursor.execute("SELECT operator FROM operator_keys WHERE key = ?", (key,))
        row = cursor.fetchone()
        return f"operator/{row[0]}" if row else None

    def operators(self, cursor: Cursor, *, after: str, limit: int) -> list[dict[str, object]]:
        """Return operators with their keys, by id; never a digest."""
        cursor.execute(
            "SELECT operator, role FROM operators WHERE operator > ? ORDER BY operator LIMIT ?",
            (after, limit),
        )
        found = [(row[0], row[1]) for row in cursor.fetchall()]
        return [
            {"id": operator, "role": role, "keys": self._keys_of(cursor, operator)}
            for operator, role in found
        ]

    def _keys_of(self, cursor: Cursor, operator: str) -> list[Mapping[str, Any]]:
        cursor.execute(
            "SELECT key AS id, label, issued_at, expires_at, revoked_at FROM operator_keys "
            "WHERE operator = ? ORDER BY key",
            (operator,),
        )
        return [dict(row) for row in cursor.fetchall()]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a key belongs to."""

    operator: str
    role: Role
    key: str
    expires: int | None = None
    """When the key expires, in microseconds since 1970."""


@dataclass(frozen=True, slots=True)
class _HeldKey:
    key: str
    operator: str
    expires: int | None


class Keyring:
    """Finds the operator of a key: one SHA-256 and one look-up.

    The look-up compares digests, not keys: how long it takes tells nothing about a key.
    """

    def __init__(self) -> None:
        self._keys: dict[bytes, _HeldKey] = {}
        self._digests: dict[str, bytes] = {}
        self._roles: dict[str, Role] = {}
        self.generation = 0
        """A number that changes with every key and role, for what is remembered about a key."""

    def load(self, cursor: Cursor) -> None:
        """Fill an empty keyring from the rows."""
        cursor.execute("SELECT operator, role FROM operators")
        self._roles = {row[0]: Role(row[1]) for row in cursor.fetchall()}
        cursor.execute(
            "SELECT key, operator, sha256, expires_at FROM operator_keys WHERE revoked_at IS NULL"
        )
        for key, operator, sha256, expires_at in cursor.fetchall():
            self._hold(sha256, key, operator, expires_at and datetime.fromisoformat(expires_at))

    def apply(self, recorded: Recorded) -> None:
        """Take in the next event."""
        match recorded.event:
            case (
                OperatorEnrolled(operator=operator, role=role)
                | OperatorRoleChanged(operator=operator, role=role)
            ):
                self._roles[operator] = role
            case OperatorKeyIssued() as event:
                self._hold(event.sha256, event.key, event.operator, event.expires_at)
            case OperatorKeyRevoked(key=key):
                del self._keys[self._digests.pop(key)]
            case _:
                pass
        if isinstance(recorded.event, OperatorEvent):
            # Afterwards: what is remembered meanwhile about an old key has the old number.
            self.generation += 1

    def _hold(self, sha256: str, key: str, operator: str, expires_at: datetime | None) -> None:
        digest = bytes.fromhex(sha256)
        expires = microseconds(expires_at) if expires_at else None
        self._keys[digest] = _HeldKey(key, operator, expires)
        self._digests[key] = digest

    def find(self, secret: bytes, at: int) -> Caller | None:
        """Return whom a key belongs to at ``at``, in microseconds since 1970.

        ``None`` when it is unknown, revoked or expired.
        """
        return self._usable(hashlib.sha256(secret).digest(), at)

    def holder_of(self, key: str, at: int) -> Caller | None:
        """Return whom the key with this id belongs to at ``at``, as ``find`` does."""
        digest = self._digests.get(key)
        return None if digest is None else self._usable(digest, at)

    def role_of(self, operator: str) -> Role | None:
        """Return the role of an operator, ``None`` when none is enrolled under the name."""
        return self._roles.get(operator)

    def _usable(self, digest: bytes, at: int) -> Caller | None:
        held = self._keys.get(digest)
        if held is None or (held.expires is not None and held.expires <= at):
            return None
        return Caller(held.operator, self._roles[held.operator], held.key, held.expires)
