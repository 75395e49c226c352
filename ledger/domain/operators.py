"""Who may act on the ledger: operators, their one role each, and their keys."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from ledger.domain.errors import (
    EndInPast,
    KeyAlreadyRevoked,
    NotFound,
    ReservedOperator,
)
from ledger.domain.events import (
    SYSTEM,
    OperatorEnrolled,
    OperatorEvent,
    OperatorKeyIssued,
    OperatorKeyRevoked,
    OperatorRoleChanged,
    Recorded,
)
from ledger.domain.values import Role


@dataclass(frozen=True, slots=True)
class Key:
    """A key of an operator, without the key itself."""

    id: str
    sha256: str
    issued_at: datetime
    expires_at: datetime | None
    label: str | None = None
    revoked_at: datetime | None = None

    def usable(self, at: datetime) -> bool:
        """Tell whether the key opens anything at an instant."""
        return self.revoked_at is None and (self.expires_at is None or at < self.expires_at)


class Operator:
    """One operator, folded from its stream. ``role`` is ``None`` until it is enrolled."""

    def __init__(self, operator: str) -> None:
        self.id = operator
        self.role: Role | None = None
        self.keys: dict[str, Key] = {}
        self.newest: Recorded | None = None

    @classmethod
    def replay(cls, operator: str, events: Iterable[Recorded]) -> Operator:
        """Fold the events of the operator's stream."""
        self = cls(operator)
        for recorded in events:
            self.evolve(recorded)
        return self

    def evolve(self, recorded: Recorded) -> None:
        """Take in one more event of the stream."""
        match recorded.event:
            case OperatorEnrolled(role=role) | OperatorRoleChanged(role=role):
                self.role = role
                self.newest = recorded
            case OperatorKeyIssued() as event:
                self.keys[event.key] = Key(
                    id=event.key,
                    sha256=event.sha256,
                    issued_at=recorded.recorded_at,
                    expires_at=event.expires_at,
                    label=event.label,
                )
            case OperatorKeyRevoked(key=key):
                self.keys[key] = replace(self.keys[key], revoked_at=recorded.recorded_at)
            case _:
                raise AssertionError(f"{recorded.type} is no event of an operator")

    def has_usable_admin_key(self, at: datetime, *, besides: str | None = None) -> bool:
        """Tell whether the operator could administer the ledger, not counting one key."""
        return self.role is Role.ADMIN and any(
            key.usable(at) for key in self.keys.values() if key.id != besides
        )

    def enroll(self, *, role: Role) -> OperatorEvent | None:
        """Decide to enroll the operator or to change its role; ``None`` when it has that role."""
        if self.id == SYSTEM:
            raise ReservedOperator(f"{SYSTEM!r} is the ledger itself", field="/id")
        if self.role is None:
            return OperatorEnrolled(operator=self.id, role=role)
        if self.role is role:
            return None
        return OperatorRoleChanged(operator=self.id, role=role, previous=self.role)

    def issue_key(
        self,
        *,
        key: str,
        sha256: str,
        expires_at: datetime | None,
        label: str | None,
        now: datetime,
    ) -> OperatorKeyIssued:
        """Decide to give the operator one more key. Raises ``NotFound``, ``EndInPast``."""
        if self.role is None:
            raise NotFound(f"no operator {self.id!r} is enrolled")
        if expires_at is not None and expires_at <= now:
            raise EndInPast("a key cannot expire before it is issued", field="/expires_at")
        return OperatorKeyIssued(
            operator=self.id, key=key, sha256=sha256, expires_at=expires_at, label=label
        )

    def revoke_key(self, key: str) -> OperatorKeyRevoked:
        """Decide to revoke a key. Raises ``NotFound``, ``KeyAlreadyRevoked``."""
        if key not in self.keys:
            raise NotFound(f"no key {key!r} was issued")
        if self.keys[key].revoked_at is not None:
            raise KeyAlreadyRevoked(f"key {key} was revoked before")
        return OperatorKeyRevoked(operator=self.id, key=key)
