"""Policies: which version judges what, and when the next may be published."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

import pytest

from ledger.domain.errors import (
    EffectiveInPast,
    InvalidValue,
    LedgerError,
    UnknownClause,
    UnknownPolicy,
)
from ledger.domain.events import Clause
from ledger.domain.policy import Policy, clause_of, parse_policy_ref
from tests.domain.given import (
    ALICE,
    DAY,
    FRAUD,
    NOW,
    START,
    TICK,
    Fact,
    clause,
    given_policy,
    published,
    recorded,
    suspension,
)


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        ("aup", ("aup", None)),
        ("aup@1", ("aup", 1)),
        ("Acceptable-use_2.0@999999999", ("Acceptable-use_2.0", 999_999_999)),
        ("a" * 64 + "@12", ("a" * 64, 12)),
    ],
)
def test_a_policy_is_named_with_or_without_a_version(
    ref: str, expected: tuple[str, int | None]
) -> None:
    """Without a version, the one in force is meant."""
    assert expected == parse_policy_ref(ref)


@pytest.mark.parametrize(
    "ref",
    [
        "",
        "@1",
        "aup@",
        "aup@0",
        "aup@01",
        "aup@-1",
        "aup@1.5",
        "aup@1000000000",
        "aup@x",
        "aup@1@2",
        "aup@\u0661",
        "aup@1\n",
        "a u p",
        "a" * 65,
        "_aup",
    ],
    ids=ascii,
)
def test_what_names_no_policy_is_refused(ref: str) -> None:
    """A reference in another form is refused with the member at fault."""
    with pytest.raises(InvalidValue, match="must name a policy version") as caught:
        parse_policy_ref(ref)

    assert "/policy" == caught.value.field


def publishing(
    clauses: Sequence[Clause] = (FRAUD,),
    effective_at: datetime | None = None,
    title: str = "Acceptable use",
) -> Callable[[Policy], object]:
    """Decide to publish the next version."""
    return lambda policy: policy.publish(
        title=title, clauses=clauses, effective_at=effective_at, now=NOW
    )


OTHER = [clause("spam")]
FIRST = published(1, at=START)
PLANNED = published(1, at=NOW + DAY)


@pytest.mark.parametrize(
    ("facts", "decision", "expected"),
    [
        ([], publishing(), published(1, at=NOW)),
        ([], publishing(effective_at=START), published(1, at=START)),
        ([], publishing(effective_at=NOW + DAY), published(1, at=NOW + DAY)),
        ([FIRST], publishing(OTHER), published(2, at=NOW, clauses=OTHER)),
        ([FIRST], publishing(OTHER, NOW), published(2, at=NOW, clauses=OTHER)),
        ([FIRST], publishing(OTHER, NOW + DAY), published(2, at=NOW + DAY, clauses=OTHER)),
        ([PLANNED], publishing(OTHER), published(2, at=NOW + DAY, clauses=OTHER)),
        ([PLANNED], publishing(OTHER, NOW + DAY), published(2, at=NOW + DAY, clauses=OTHER)),
        ([FIRST], publishing(), None),
        ([FIRST], publishing(effective_at=START), None),
        ([FIRST], publishing(effective_at=NOW), published(2, at=NOW)),
        (
            [FIRST],
            publishing([FRAUD, *OTHER]),
            published(2, at=NOW, clauses=[FRAUD, *OTHER]),
        ),
        (
            [FIRST, published(2, at=NOW - DAY, clauses=OTHER)],
            publishing(),
            published(3, at=NOW),
        ),
    ],
    ids=[
        "the first, from now",
        "the first, from before the ledger",
        "the first, from later",
        "the next, from now",
        "the next, from just now",
        "the next, from later",
        "the next, not before the one before",
        "the next, together with the one before",
        "the same words",
        "the same words and start",
        "the same words from another start",
        "one more clause",
        "the words of an older version",
    ],
)
def test_the_next_version_is_published(
    facts: Sequence[Fact], decision: Callable[[Policy], object], expected: object
) -> None:
    """Versions follow one another; saying the same again publishes nothing."""
    given_policy(*facts).when(decision).then(expected)


@pytest.mark.parametrize(
    ("facts", "decision", "refusal", "field"),
    [
        ([], publishing([FRAUD, *OTHER, FRAUD]), InvalidValue, "/clauses/2/id"),
        ([FIRST], publishing(OTHER, NOW - TICK), EffectiveInPast, "/effective_at"),
        ([FIRST], publishing(effective_at=NOW - TICK), EffectiveInPast, "/effective_at"),
        ([PLANNED], publishing(OTHER, NOW), EffectiveInPast, "/effective_at"),
        ([PLANNED], publishing(OTHER, NOW + DAY - TICK), EffectiveInPast, "/effective_at"),
        ([FIRST], publishing([*OTHER, *OTHER], NOW - TICK), InvalidValue, "/clauses/1/id"),
    ],
    ids=[
        "one id twice",
        "in the past",
        "the same words, in the past",
        "before the planned one",
        "just before the planned one",
        "one id twice, in the past",
    ],
)
def test_a_version_that_breaks_a_rule_is_refused(
    facts: Sequence[Fact],
    decision: Callable[[Policy], object],
    refusal: type[LedgerError],
    field: str,
) -> None:
    """Clause ids are unique, which is told first; no version judges what was done before it."""
    given_policy(*facts).when(decision).refused(refusal, field=field)


def test_a_version_is_found_by_its_number() -> None:
    """Versions count from 1; a policy never published is told from one without that version."""
    policy = Policy.replay("aup", recorded(published(1), published(2, clauses=OTHER)))

    assert ["aup@1", "aup@2"] == [policy.version(number).about for number in (1, 2)]
    for number in (0, -1, 3):
        with pytest.raises(UnknownPolicy, match="the newest is aup@2") as caught:
            policy.version(number)
        assert "/policy" == caught.value.field
    with pytest.raises(UnknownPolicy, match="no policy 'aup' was published"):
        Policy("aup").version(1)


def test_conduct_is_judged_by_the_newest_version_in_force() -> None:
    """A version is in force from its start, inclusive, until the next one is."""
    policy = Policy.replay(
        "aup",
        recorded(published(1, at=START), published(2, at=NOW), published(3, at=NOW)),
    )

    in_force = {
        at: version and version.version
        for at in (START - TICK, START, NOW - TICK, NOW)
        for version in [policy.in_force(at)]
    }

    assert {START - TICK: None, START: 1, NOW - TICK: 1, NOW: 3} == in_force


def test_a_clause_is_found_by_its_id() -> None:
    """An unknown clause is refused with the ids that there are."""
    version = published(1, clauses=[FRAUD, *OTHER])

    assert OTHER[0] == clause_of(version, "spam")
    with pytest.raises(UnknownClause, match="has no clause 'Spam'; it has fraud, spam") as caught:
        clause_of(version, "Spam")
    assert "/clause" == caught.value.field


def test_a_policy_takes_only_its_own_events() -> None:
    """An event of another kind of stream is a fault of the program."""
    with pytest.raises(AssertionError):
        Policy("aup").evolve(recorded(suspension(subject=ALICE))[0])
