"""Who may have what erased, and what forbids it?"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ledger.domain.errors import (
    AlreadyErased,
    AlreadyRequested,
    ConflictOfInterest,
    HoldAlreadyLifted,
    LegalHold,
    NotFound,
)
from ledger.domain.events import (
    Author,
    ErasureRequested,
    HoldLifted,
    HoldPlaced,
    PersonalDataErased,
    Recorded,
)
from ledger.domain.record import Record
from tests.domain.given import ALICE, START, Given, given, suspension

KEY = "dek_" + "0" * 32
REQUESTED = ErasureRequested(subject=ALICE, erasure="era_1", reason="She asked.")
ERASED = PersonalDataErased(subject=ALICE, erasure="era_1", keys=(KEY,))
HELD = HoldPlaced(subject=ALICE, hold="hld_1", reason="A case is pending.")
HELD_TOO = HoldPlaced(subject=ALICE, hold="hld_2", reason="Another case.")
LIFTED = HoldLifted(subject=ALICE, hold="hld_1")
LIFTED_TOO = HoldLifted(subject=ALICE, hold="hld_2")


def request(record: Record) -> object:
    """Ask for an erasure."""
    return record.request_erasure(erasure="era_2", reason="She asked.")


def confirmed_by(by: Author, erasure: str = "era_1") -> Callable[[Record], object]:
    """Confirm an erasure as somebody."""
    return lambda record: record.confirm_erasure(erasure=erasure, keys=[KEY], by=by)


def asked_by(author: Author) -> Given[Record]:
    """Return a record in which somebody asked for an erasure."""
    requested = Recorded(1, "subject/user:alice", 1, START, author, None, REQUESTED)
    return Given(Record.replay(ALICE, [requested]))


def test_an_erasure_is_asked_for_once_at_a_time() -> None:
    """A second request waits until the first is confirmed; then it is a new one."""
    asked = REQUESTED.model_copy(update={"erasure": "era_2"})

    given().when(request).then(asked)
    refusal = given(REQUESTED).when(request).refused(AlreadyRequested)
    assert {"erasure": "era_1"} == refusal.more
    given(REQUESTED, ERASED).when(request).then(asked)


def test_an_erasure_is_confirmed_once() -> None:
    """What was never requested is not found; what was confirmed names the event that did it."""
    somebody = Author("approver")

    given(REQUESTED).when(confirmed_by(somebody)).then(ERASED)
    given().when(confirmed_by(somebody)).refused(NotFound)
    refusal = given(REQUESTED, ERASED).when(confirmed_by(somebody)).refused(AlreadyErased)
    assert {"erased_by": 2} == refusal.more


@pytest.mark.parametrize(
    ("asked", "confirming", "refused"),
    [
        (Author("admin"), Author("approver"), False),
        (Author("admin"), Author("admin"), True),
        (Author("tool-1", "user:jane"), Author("tool-2", "user:jane"), True),
        (Author("tool-1", "user:jane"), Author("tool-2", "user:max"), False),
        (Author("tool-1", "user:jane"), Author("tool-1", "user:max"), True),
        (Author("tool-1", "user:jane"), Author("tool-2"), False),
    ],
)
def test_nobody_confirms_their_own_request(
    asked: Author, confirming: Author, *, refused: bool
) -> None:
    """Neither the same operator, nor the same human behind another machine."""
    outcome = asked_by(asked).when(confirmed_by(confirming))

    if refused:
        outcome.refused(ConflictOfInterest)
    else:
        outcome.then(ERASED)


@pytest.mark.parametrize(
    ("facts", "standing"),
    [
        ([HELD], ["hld_1"]),
        ([HELD, HELD_TOO], ["hld_1", "hld_2"]),
        ([HELD, HELD_TOO, LIFTED], ["hld_2"]),
        ([HELD, HELD_TOO, LIFTED, LIFTED_TOO], []),
    ],
)
def test_while_any_hold_stands_nothing_is_erased(
    facts: list[HoldPlaced | HoldLifted], standing: list[str]
) -> None:
    """Holds add up; each that stands is named, to who requests and to who confirms."""
    asking = given(*facts).when(request)
    confirming = given(REQUESTED, *facts).when(confirmed_by(Author("approver")))

    if standing:
        assert {"holds": standing} == asking.refused(LegalHold).more
        assert {"holds": standing} == confirming.refused(LegalHold).more
    else:
        confirming.then(ERASED)


def test_a_hold_is_lifted_once() -> None:
    """A hold that was never placed is not found; one that was lifted stays so."""
    given().when(lambda record: record.place_hold(hold="hld_1", reason=HELD.reason)).then(HELD)
    given(HELD).when(lambda record: record.lift_hold(hold="hld_1")).then(LIFTED)
    given().when(lambda record: record.lift_hold(hold="hld_1")).refused(NotFound)
    given(HELD, LIFTED).when(lambda record: record.lift_hold(hold="hld_1")).refused(
        HoldAlreadyLifted
    )


def test_the_confirmations_refusals_have_their_order() -> None:
    """Confirmed before, then held, then by the same person."""
    own = confirmed_by(Author("jo"))  # who recorded the facts that are given

    given(REQUESTED, ERASED, HELD).when(own).refused(AlreadyErased)
    given(REQUESTED, HELD).when(own).refused(LegalHold)
    given(REQUESTED).when(own).refused(ConflictOfInterest)


def test_an_erasure_changes_nothing_about_a_suspension() -> None:
    """It is in force as before, until its own end."""
    before = given(suspension()).folded.suspension("sus_1")
    after = given(suspension(), REQUESTED, ERASED).folded.suspension("sus_1")

    assert before == after
    assert after.in_force(START)
