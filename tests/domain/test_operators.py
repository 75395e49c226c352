"""Operators: their role, their keys, and which of these still opens anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

import pytest

from ledger.domain.errors import (
    EndInPast,
    KeyAlreadyRevoked,
    LedgerError,
    NotFound,
    ReservedOperator,
)
from ledger.domain.events import (
    OperatorEnrolled,
    OperatorKeyIssued,
    OperatorKeyRevoked,
    OperatorRoleChanged,
)
from ledger.domain.operators import Operator
from ledger.domain.values import Role
from tests.domain.given import DAY, NOW, TICK, Fact, Given, recorded, violation

DIGEST = "0" * 64


def given_operator(*facts: Fact, operator: str = "jo") -> Given[Operator]:
    """Fold the facts about an operator."""
    return Given(Operator.replay(operator, recorded(*facts)))


def enrolled(role: Role = Role.OFFICER) -> OperatorEnrolled:
    """Return the first fact about an operator."""
    return OperatorEnrolled(operator="jo", role=role)


def issued(key: str = "key_1", expires_at: datetime | None = None) -> OperatorKeyIssued:
    """Return a key."""
    return OperatorKeyIssued(
        operator="jo", key=key, sha256=DIGEST, expires_at=expires_at, label="Laptop"
    )


def revoked(key: str = "key_1") -> OperatorKeyRevoked:
    """Return the end of a key."""
    return OperatorKeyRevoked(operator="jo", key=key)


def changed(role: Role, previous: Role = Role.OFFICER) -> OperatorRoleChanged:
    """Return a change of role."""
    return OperatorRoleChanged(operator="jo", role=role, previous=previous)


@pytest.mark.parametrize(
    ("facts", "role", "expected"),
    [
        ([], Role.OFFICER, enrolled()),
        ([enrolled()], Role.OFFICER, None),
        ([enrolled()], Role.ADMIN, changed(Role.ADMIN)),
        (
            [enrolled(), changed(Role.ADMIN)],
            Role.OFFICER,
            changed(Role.OFFICER, Role.ADMIN),
        ),
        ([enrolled(), changed(Role.ADMIN)], Role.ADMIN, None),
    ],
    ids=["new", "the same", "another role", "back again", "the same again"],
)
def test_an_operator_has_one_role(facts: Sequence[Fact], role: Role, expected: object) -> None:
    """Enrolling again changes the role, and records nothing when it is the same."""
    given_operator(*facts).when(lambda operator: operator.enroll(role=role)).then(expected)


def test_nobody_is_enrolled_as_the_ledger_itself() -> None:
    """What the ledger does by itself must not look like somebody's doing."""
    given_operator(operator="system").when(
        lambda operator: operator.enroll(role=Role.ADMIN)
    ).refused(ReservedOperator, field="/id")


def issuing(expires_at: datetime | None = None) -> Callable[[Operator], object]:
    """Decide to give the operator a key."""
    return lambda operator: operator.issue_key(
        key="key_1", sha256=DIGEST, expires_at=expires_at, label="Laptop", now=NOW
    )


@pytest.mark.parametrize(
    ("facts", "expires_at", "expected"),
    [
        ([enrolled()], None, issued()),
        ([enrolled()], NOW + TICK, issued(expires_at=NOW + TICK)),
        ([enrolled(), issued("key_0")], None, issued()),
    ],
    ids=["for good", "for an instant", "one more"],
)
def test_an_operator_gets_a_key(
    facts: Sequence[Fact], expires_at: datetime | None, expected: object
) -> None:
    """An enrolled operator may have several keys; each may expire."""
    given_operator(*facts).when(issuing(expires_at)).then(expected)


@pytest.mark.parametrize(
    ("facts", "expires_at", "refusal", "field"),
    [
        ([], None, NotFound, None),
        ([], NOW - DAY, NotFound, None),
        ([enrolled()], NOW, EndInPast, "/expires_at"),
    ],
    ids=["not enrolled", "not enrolled, expired", "expired"],
)
def test_a_key_that_could_open_nothing_is_refused(
    facts: Sequence[Fact],
    expires_at: datetime | None,
    refusal: type[LedgerError],
    field: str | None,
) -> None:
    """A key needs an operator, which is told first, and time to live."""
    given_operator(*facts).when(issuing(expires_at)).refused(refusal, field=field)


def test_a_key_is_revoked_once() -> None:
    """Only a key that was issued and not revoked can be revoked."""
    held = [enrolled(), issued()]

    given_operator(*held).when(lambda operator: operator.revoke_key("key_1")).then(revoked())
    given_operator(*held).when(lambda operator: operator.revoke_key("key_2")).refused(NotFound)
    given_operator(*held, revoked()).when(lambda operator: operator.revoke_key("key_1")).refused(
        KeyAlreadyRevoked
    )


@pytest.mark.parametrize(
    ("facts", "usable"),
    [
        ([enrolled(Role.ADMIN), issued()], True),
        ([enrolled(Role.ADMIN), issued(expires_at=NOW + TICK)], True),
        ([enrolled(Role.ADMIN), issued(expires_at=NOW)], False),
        ([enrolled(Role.ADMIN), issued(), revoked()], False),
        ([enrolled(Role.ADMIN), issued(), issued("key_2"), revoked()], True),
        ([enrolled(Role.ADMIN)], False),
        ([enrolled(Role.OFFICER), issued()], False),
        ([enrolled(Role.ADMIN), issued(), changed(Role.OFFICER, Role.ADMIN)], False),
        ([enrolled(), issued(), changed(Role.ADMIN)], True),
    ],
    ids=[
        "admin with a key",
        "not yet expired",
        "expired",
        "revoked",
        "one of two revoked",
        "without a key",
        "officer",
        "no longer admin",
        "admin by now",
    ],
)
def test_an_admin_key_is_usable_while_it_lives_and_its_owner_is_admin(
    facts: Sequence[Fact], usable: bool
) -> None:
    """Expiry, revocation and the owner's role are all looked at."""
    operator = Operator.replay("jo", recorded(*facts))

    assert usable is operator.has_usable_admin_key(NOW)


def test_one_key_can_be_left_out_of_account() -> None:
    """Before a key goes it is asked what would remain."""
    operator = Operator.replay("jo", recorded(enrolled(Role.ADMIN), issued("key_1")))

    assert not operator.has_usable_admin_key(NOW, besides="key_1")
    assert operator.has_usable_admin_key(NOW, besides="key_2")


def test_an_operator_takes_only_its_own_events() -> None:
    """An event of another kind of stream is a fault of the program."""
    with pytest.raises(AssertionError, match="no event of an operator"):
        Operator("jo").evolve(recorded(violation())[0])
