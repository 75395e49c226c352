"""Every decision about one subject: what it answers, what it refuses, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest

from ledger.domain.errors import (
    AlreadyEnded,
    AlreadyLinked,
    AlreadyOverturned,
    AlreadyStarted,
    CauseNotAllowed,
    EffectiveInPast,
    EndInPast,
    EndTooFar,
    GroundOfAnother,
    GroundOverturned,
    GroundsRequired,
    InvalidValue,
    LedgerError,
    LinkCycle,
    LinkTooDeep,
    NotFound,
    NotLinked,
    OccurredInFuture,
    PolicyNotInForce,
    TermRequired,
    TooManyParents,
    UnknownClause,
    UnknownPolicy,
    UnknownViolation,
)
from ledger.domain.events import (
    OperatorEnrolled,
    SubjectLinked,
    SubjectRegistered,
    SubjectReinstated,
    SubjectSuspended,
    SubjectUnlinked,
    SuspensionCancelled,
    SuspensionRevised,
    ViolationOverturned,
    WarningIssued,
)
from ledger.domain.policy import Policy
from ledger.domain.record import Ground, Record, longest_ways_up
from ledger.domain.values import (
    LINK_DEPTH_MAX,
    OCCURRED_AHEAD_MAX,
    PARENTS_MAX,
    PRECAUTION_DAYS_MAX,
    Basis,
    Cause,
    ClauseRef,
    Ending,
    Evidence,
    RecordedEvidence,
    Role,
    Subject,
    Unsealed,
)
from tests.domain.given import (
    ACME,
    ALICE,
    APP,
    BOB,
    DAY,
    MODEL,
    NOW,
    SCOPE,
    START,
    TICK,
    Fact,
    clause,
    given,
    instant,
    overturned,
    published,
    recorded,
    reinstated,
    suspension,
    violation,
)

HUNDRED_YEARS_ON = instant("2126-04-01T12:00:00Z")
PRECAUTION = timedelta(days=PRECAUTION_DAYS_MAX)
FRAUD_REF = ClauseRef(policy="aup@1", clause="fraud", category="fraud")


# --- registering and links ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "properties", "expected"),
    [
        ([], {}, SubjectRegistered(subject=ALICE, properties={})),
        ([], {"tier": "free"}, SubjectRegistered(subject=ALICE, properties={"tier": "free"})),
        ([violation()], {}, SubjectRegistered(subject=ALICE, properties={})),
        ([SubjectRegistered(subject=ALICE)], {}, None),
        (
            [SubjectRegistered(subject=ALICE, properties={"a": 1})],
            {},
            SubjectRegistered(subject=ALICE),
        ),
        ([SubjectRegistered(subject=ALICE, properties={"a": 1, "b": 2})], {"b": 2, "a": 1}, None),
        ([SubjectRegistered(subject=ALICE, properties={"a": ("x", 1)})], {"a": ["x", 1]}, None),
        (
            [SubjectRegistered(subject=ALICE, properties={"a": 1})],
            {"a": True},
            SubjectRegistered(subject=ALICE, properties={"a": True}),
        ),
        (
            [SubjectRegistered(subject=ALICE, properties={"a": ("x",)})],
            {"a": "x"},
            SubjectRegistered(subject=ALICE, properties={"a": "x"}),
        ),
    ],
    ids=[
        "new",
        "with properties",
        "known by a violation",
        "the same",
        "emptied",
        "other order",
        "the same list",
        "true for 1",
        "one value for a list of one",
    ],
)
def test_a_subject_is_registered_unless_it_is_so_already(
    facts: Sequence[Fact], properties: dict[str, Any], expected: object
) -> None:
    """Registering records the properties, and nothing when they are those already recorded."""
    given(*facts).when(lambda record: record.register(properties=properties)).then(expected)


def linking(
    parent: Subject = ACME, above: dict[Subject, int] | None = None, below: int = 0
) -> Callable[[Record], object]:
    """Decide to link the subject below a parent."""
    return lambda record: record.link(parent=parent, above_parent=above or {}, below=below, now=NOW)


def test_a_subject_is_linked_below_a_parent() -> None:
    """A link is one fact about the subject below."""
    given().when(linking()).then(SubjectLinked(subject=ALICE, parent=ACME))


def test_a_link_that_was_removed_may_be_made_again() -> None:
    """Only a link that stands is refused a second time."""
    linked = SubjectLinked(subject=ALICE, parent=ACME)
    unlinked = SubjectUnlinked(subject=ALICE, parent=ACME)

    given(linked, unlinked).when(linking()).then(linked)
    given(linked, unlinked, linked).when(linking()).refused(AlreadyLinked)


def parents(count: int) -> list[Fact]:
    """Return links below that many organizations."""
    return [
        SubjectLinked(subject=ALICE, parent=Subject(type="organization", id=f"o{number}"))
        for number in range(count)
    ]


def test_a_subject_has_at_most_32_parents() -> None:
    """The last parent allowed is linked, the next refused; one that went makes room."""
    linked = SubjectLinked(subject=ALICE, parent=ACME)
    unlinked = SubjectUnlinked(subject=ALICE, parent=Subject(type="organization", id="o0"))

    given(*parents(PARENTS_MAX - 1)).when(linking()).then(linked)
    given(*parents(PARENTS_MAX)).when(linking()).refused(TooManyParents, field="/parent")
    given(*parents(PARENTS_MAX), unlinked).when(linking()).then(linked)


@pytest.mark.parametrize(("above", "below"), [(0, 7), (7, 0), (3, 4)])
def test_a_chain_of_links_is_at_most_8_deep(above: int, below: int) -> None:
    """The links above the parent, this one and those below the subject are counted together."""
    ways = {Subject(type="organization", id=f"o{height}"): height for height in range(1, above + 1)}

    given().when(linking(above=ways, below=below)).then(SubjectLinked(subject=ALICE, parent=ACME))
    given().when(linking(above=ways, below=below + 1)).refused(LinkTooDeep, field="/parent")


def test_a_link_is_refused_for_the_first_reason_that_holds() -> None:
    """A cycle is told before a link that stands, that before too many parents, then the depth."""
    above = {ALICE: 1, BOB: LINK_DEPTH_MAX}
    linked = SubjectLinked(subject=ALICE, parent=ACME)
    full = [linked, *parents(PARENTS_MAX - 1)]

    given(*full).when(linking(ALICE, {}, 9)).refused(LinkCycle, field="/parent")
    given(*full).when(linking(ACME, above, 9)).refused(LinkCycle, field="/parent")
    del above[ALICE]
    given(*full).when(linking(ACME, above, 9)).refused(AlreadyLinked)
    given(*full).when(linking(APP, above, 9)).refused(TooManyParents, field="/parent")
    given(linked).when(linking(APP, above, 9)).refused(LinkTooDeep, field="/parent")


def test_only_a_link_that_stands_is_removed() -> None:
    """Unlinking twice, or unlinking what was never linked, is refused."""
    linked = SubjectLinked(subject=ALICE, parent=ACME)
    unlinked = SubjectUnlinked(subject=ALICE, parent=ACME)

    given(linked).when(lambda record: record.unlink(parent=ACME, now=NOW)).then(unlinked)
    given(linked).when(lambda record: record.unlink(parent=APP, now=NOW)).refused(NotLinked)
    given(linked, unlinked).when(lambda record: record.unlink(parent=ACME, now=NOW)).refused(
        NotLinked
    )
    given().when(lambda record: record.unlink(parent=ACME, now=NOW)).refused(NotLinked)


def test_a_link_holds_from_its_instant_until_before_it_was_removed() -> None:
    """The parents of a past instant are those of then."""
    record = Record.replay(
        ALICE,
        recorded(
            (START, SubjectLinked(subject=ALICE, parent=ACME)),
            (START + DAY, SubjectUnlinked(subject=ALICE, parent=ACME)),
            (START + DAY, SubjectLinked(subject=ALICE, parent=APP)),
        ),
    )

    assert [] == record.parents(START - TICK)
    assert [ACME] == record.parents(START)
    assert [ACME] == record.parents(START + DAY - TICK)
    assert [APP] == record.parents(START + DAY)


def test_a_link_removed_in_the_instant_it_was_made_never_held() -> None:
    """Facts of one instant leave no moment between them."""
    record = Record.replay(
        ALICE,
        recorded(
            (START, SubjectLinked(subject=ALICE, parent=ACME)),
            (START, SubjectUnlinked(subject=ALICE, parent=ACME)),
        ),
    )

    assert [] == record.parents(START)


def test_the_longest_way_up_counts_where_ways_differ() -> None:
    """An ancestor that is reached in one link and in three stands three links above."""
    up = {ALICE: [APP, ACME], APP: [BOB], BOB: [ACME]}

    assert {APP: 1, BOB: 2, ACME: 3} == longest_ways_up(ALICE, lambda subject: up.get(subject, ()))


# --- violations -----------------------------------------------------------------------------------

POLICY = Policy.replay(
    "aup",
    recorded(
        published(1, at=START),
        published(2, at=instant("2026-02-01"), clauses=[clause("fraud", "critical")]),
        published(3, at=instant("2026-06-01"), clauses=[clause("spam")]),
    ),
)


def breaking(
    version: int | None = None,
    clause_id: str = "fraud",
    occurred_at: datetime = NOW,
    policy: Policy = POLICY,
) -> Callable[[Record], object]:
    """Decide that the subject broke a clause."""
    return lambda record: record.record_violation(
        violation="vio_1",
        policy=policy,
        version=version,
        clause=clause_id,
        occurred_at=occurred_at,
        detected_by="human",
        summary="Sold forged invoices.",
        details=None,
        evidence=(),
        resources=(),
        now=NOW,
    )


@pytest.mark.parametrize(
    ("version", "occurred_at", "judged_by", "severity"),
    [
        (None, START, "aup@1", "high"),
        (1, START, "aup@1", "high"),
        (None, instant("2026-02-01") - TICK, "aup@1", "high"),
        (None, instant("2026-02-01"), "aup@2", "critical"),
        (2, NOW, "aup@2", "critical"),
        (None, NOW + OCCURRED_AHEAD_MAX, "aup@2", "critical"),
    ],
    ids=["oldest", "named", "last instant of 1", "first instant of 2", "now", "5 minutes ahead"],
)
def test_conduct_is_judged_by_the_version_in_force_when_it_happened(
    version: int | None, occurred_at: datetime, judged_by: str, severity: str
) -> None:
    """The fact pins the version, the clause, and its category and severity of then."""
    given().when(breaking(version, occurred_at=occurred_at)).then(
        violation(policy=judged_by, category="fraud", severity=severity, occurred_at=occurred_at)
    )


@pytest.mark.parametrize(
    ("decision", "refusal", "field"),
    [
        (breaking(occurred_at=NOW + OCCURRED_AHEAD_MAX + TICK), OccurredInFuture, "/occurred_at"),
        (breaking(policy=Policy("other")), UnknownPolicy, "/policy"),
        (breaking(4), UnknownPolicy, "/policy"),
        (breaking(1), PolicyNotInForce, "/policy"),
        (breaking(3), PolicyNotInForce, "/policy"),
        (breaking(occurred_at=START - TICK), PolicyNotInForce, "/policy"),
        (breaking(2, occurred_at=START), PolicyNotInForce, "/policy"),
        (breaking(clause_id="spam"), UnknownClause, "/clause"),
        (breaking(clause_id="Fraud"), UnknownClause, "/clause"),
    ],
    ids=[
        "too far ahead",
        "never published",
        "no such version",
        "superseded",
        "not yet in force",
        "before the first",
        "before that version",
        "clause of a later version",
        "other letter case",
    ],
)
def test_a_violation_that_does_not_fit_the_policy_is_refused(
    decision: Callable[[Record], object], refusal: type[LedgerError], field: str
) -> None:
    """Conduct must have happened, under a version in force then, against a clause of it."""
    given().when(decision).refused(refusal, field=field)


def test_a_violation_is_refused_for_the_first_reason_that_holds() -> None:
    """The instant is told first, then the policy, its being in force, and the clause last."""
    ahead = NOW + DAY

    given().when(breaking(9, "x", ahead, Policy("other"))).refused(
        OccurredInFuture, field="/occurred_at"
    )
    given().when(breaking(9, "x", NOW)).refused(UnknownPolicy, field="/policy")
    given().when(breaking(1, "x", NOW)).refused(PolicyNotInForce, field="/policy")
    given().when(breaking(2, "x", NOW)).refused(UnknownClause, field="/clause")
    given().when(breaking(2)).then(violation(policy="aup@2", severity="critical", occurred_at=NOW))


def test_a_violation_keeps_what_was_said_about_it() -> None:
    """Details and personal evidence are to be sealed; all else is recorded as given."""
    evidence = (
        Evidence(uri="s3://case", sha256="0" * 64),
        Evidence(uri="s3://alice", sha256="1" * 64, personal=True),
    )

    given().when(
        lambda record: record.record_violation(
            violation="vio_1",
            policy=POLICY,
            version=None,
            clause="fraud",
            occurred_at=START,
            detected_by="external",
            summary="Short.",
            details="Long.",
            evidence=evidence,
            resources=(MODEL,),
            now=NOW,
        )
    ).then(
        violation(
            detected_by="external",
            summary="Short.",
            details=Unsealed("Long."),
            evidence=(
                RecordedEvidence(uri="s3://case", sha256="0" * 64),
                RecordedEvidence(
                    uri=Unsealed("s3://alice"), sha256=Unsealed("1" * 64), personal=True
                ),
            ),
            resources=(MODEL,),
        )
    )


def overturning(id_: str = "vio_1") -> Callable[[Record], object]:
    """Decide that a violation was found wrong."""
    return lambda record: record.overturn(violation=id_, reason="Mistaken.")


def test_a_violation_is_overturned_once() -> None:
    """What stands can be overturned; what was overturned names the fact that did it."""
    given(violation()).when(overturning()).then(
        ViolationOverturned(subject=ALICE, violation="vio_1", reason="Mistaken.")
    )
    refusal = given(violation(), overturned()).when(overturning()).refused(AlreadyOverturned)
    assert {"overturned_by": 2} == refusal.more
    given(violation()).when(overturning("vio_2")).refused(NotFound)


def grounds(*facts: Fact, below: bool = True) -> list[Ground]:
    """Return the violations among facts as grounds."""
    records: dict[Subject, Record] = {}
    for fact in recorded(*facts):
        subject = Subject.parse(fact.stream.removeprefix("subject/"))
        records.setdefault(subject, Record(subject)).evolve(fact)
    return [
        Ground(id_, v, below) for record in records.values() for id_, v in record.violations.items()
    ]


STANDING = grounds(violation("vio_1"), violation("vio_2"))
BELOW = grounds(violation("vio_3", BOB))
FALLEN = grounds(violation("vio_4"), overturned("vio_4"))
FOREIGN = grounds(violation("vio_5", BOB), below=False)
UNKNOWN = [Ground("vio_7", None)]
FALLEN_FOREIGN = grounds(violation("vio_6", BOB), overturned("vio_6", BOB), below=False)


def warning(named: Sequence[Ground]) -> Callable[[Record], object]:
    """Decide to warn the subject."""
    return lambda record: record.warn(warning="war_1", grounds=named, reason="Mind the policy.")


def test_a_subject_is_warned_with_or_without_grounds() -> None:
    """A warning names its grounds and each clause they broke once."""
    plain = WarningIssued(subject=ALICE, warning="war_1", reason="Mind the policy.")

    given().when(warning([])).then(plain)
    given().when(warning([*STANDING, *BELOW])).then(
        plain.model_copy(update={"grounds": ("vio_1", "vio_2", "vio_3"), "clauses": (FRAUD_REF,)})
    )


def test_a_warning_rests_on_violations_that_stand_and_belong_here() -> None:
    """The first ground at fault is told, by its place; overturned comes before foreign."""
    given().when(warning([*STANDING, *FALLEN])).refused(GroundOverturned, field="/grounds/2")
    given().when(warning([*STANDING, *FOREIGN])).refused(GroundOfAnother, field="/grounds/2")
    given().when(warning([*STANDING, *UNKNOWN])).refused(UnknownViolation, field="/grounds/2")
    given().when(warning(FALLEN_FOREIGN)).refused(GroundOverturned, field="/grounds/0")
    given().when(warning([*FOREIGN, *FALLEN])).refused(GroundOfAnother, field="/grounds/0")


# --- suspending -----------------------------------------------------------------------------------


def suspending(**changed: Any) -> Callable[[Record], object]:
    """Decide to suspend the subject; by default for two months, on standing violations."""
    members: dict[str, Any] = {
        "suspension": "sus_1",
        "scope": SCOPE,
        "duration": None,
        "ends_at": None,
        "indefinite": False,
        "effective_at": None,
        "basis": Basis.VIOLATIONS,
        "grounds": STANDING,
        "reason": "Fraud.",
        "note": None,
        "reinstatement": Ending.AUTOMATIC,
        "disclosure": "notified",
        "now": NOW,
    }
    unknown = changed.keys() - members.keys()
    assert not unknown, unknown
    return lambda record: record.suspend(**members | changed)


def decided(
    end: datetime | None,
    *,
    start: datetime = NOW,
    basis: Basis = Basis.VIOLATIONS,
    named: tuple[str, ...] = ("vio_1", "vio_2"),
    **changed: object,
) -> SubjectSuspended:
    """Return the suspension that ``suspending`` leads to."""
    base = suspension(start=start, end=end, basis=basis, grounds=named)
    return base.model_copy(update={"clauses": (FRAUD_REF,) if named else ()} | changed)


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"duration": "P2M"}, decided(instant("2026-06-01T12:00:00Z"), duration="P2M")),
        (
            {"duration": "P2M", "effective_at": instant("2026-12-31")},
            decided(instant("2027-02-28"), start=instant("2026-12-31"), duration="P2M"),
        ),
        ({"ends_at": NOW + TICK}, decided(NOW + TICK)),
        ({"indefinite": True}, decided(None)),
        ({"indefinite": True, "effective_at": NOW}, decided(None)),
        ({"indefinite": True, "effective_at": NOW + TICK}, decided(None, start=NOW + TICK)),
        ({"duration": "P100Y"}, decided(HUNDRED_YEARS_ON, duration="P100Y")),
        ({"ends_at": HUNDRED_YEARS_ON}, decided(HUNDRED_YEARS_ON)),
        ({"indefinite": True, "grounds": BELOW}, decided(None, named=("vio_3",))),
        (
            {"duration": "P30D", "basis": Basis.PRECAUTIONARY, "grounds": []},
            decided(NOW + PRECAUTION, basis=Basis.PRECAUTIONARY, named=(), duration="P30D"),
        ),
        (
            {"ends_at": NOW + PRECAUTION, "basis": Basis.PRECAUTIONARY},
            decided(NOW + PRECAUTION, basis=Basis.PRECAUTIONARY),
        ),
        (
            {"indefinite": True, "basis": Basis.LEGAL_ORDER, "grounds": []},
            decided(None, basis=Basis.LEGAL_ORDER, named=()),
        ),
        (
            {
                "indefinite": True,
                "note": "n",
                "reinstatement": Ending.ON_REVIEW,
                "disclosure": "public",
            },
            decided(None, note=Unsealed("n"), reinstatement=Ending.ON_REVIEW, disclosure="public"),
        ),
    ],
    ids=[
        "for two months",
        "scheduled, clamped",
        "for a microsecond",
        "without an end",
        "from now",
        "from the next instant",
        "for a hundred years",
        "until in a hundred years",
        "for a violation below",
        "as a precaution without grounds",
        "as a precaution with grounds",
        "by order",
        "with everything said",
    ],
)
def test_a_subject_is_suspended(members: dict[str, Any], expected: SubjectSuspended) -> None:
    """A suspension says what, from when, until when, on what basis and why."""
    given().when(suspending(**members)).then(expected)


@pytest.mark.parametrize(
    ("members", "refusal", "field"),
    [
        ({}, TermRequired, "/duration"),
        ({"duration": "P2M", "indefinite": True}, TermRequired, "/duration"),
        ({"duration": "P2M", "ends_at": NOW + DAY}, TermRequired, "/duration"),
        ({"ends_at": NOW + DAY, "indefinite": True}, TermRequired, "/duration"),
        ({"duration": "P2M", "ends_at": NOW, "indefinite": True}, TermRequired, "/duration"),
        ({"duration": "P101Y"}, EndTooFar, "/duration"),
        ({"duration": "P99999Y"}, EndTooFar, "/duration"),
        ({"ends_at": HUNDRED_YEARS_ON + TICK}, EndTooFar, "/ends_at"),
        ({"indefinite": True, "effective_at": NOW - TICK}, EffectiveInPast, "/effective_at"),
        ({"ends_at": NOW}, EndInPast, "/ends_at"),
        ({"ends_at": NOW - DAY}, EndInPast, "/ends_at"),
        ({"ends_at": NOW + DAY, "effective_at": NOW + DAY}, EndInPast, "/ends_at"),
        (
            {"ends_at": NOW + PRECAUTION + TICK, "basis": Basis.PRECAUTIONARY},
            EndTooFar,
            "/duration",
        ),
        ({"indefinite": True, "basis": Basis.PRECAUTIONARY}, EndTooFar, "/duration"),
        ({"indefinite": True, "grounds": []}, GroundsRequired, "/grounds"),
        ({"indefinite": True, "grounds": [*STANDING, *UNKNOWN]}, UnknownViolation, "/grounds/2"),
        ({"indefinite": True, "grounds": [*STANDING, *FALLEN]}, GroundOverturned, "/grounds/2"),
        ({"indefinite": True, "grounds": [*STANDING, *FOREIGN]}, GroundOfAnother, "/grounds/2"),
        (
            {"duration": "P1D", "basis": Basis.PRECAUTIONARY, "grounds": FALLEN},
            GroundOverturned,
            "/grounds/0",
        ),
        (
            {"indefinite": True, "basis": Basis.LEGAL_ORDER, "grounds": FOREIGN},
            GroundOfAnother,
            "/grounds/0",
        ),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_a_suspension_that_breaks_a_rule_is_refused(
    members: dict[str, Any], refusal: type[LedgerError], field: str
) -> None:
    """One end, not too far, not in the past, on grounds that stand and belong here."""
    given().when(suspending(**members)).refused(refusal, field=field)


def test_a_suspension_is_refused_for_the_first_reason_that_holds() -> None:
    """With everything wrong at once, mending one fault after another shows them in order."""
    wrong: dict[str, Any] = {
        "effective_at": NOW - DAY,
        "basis": Basis.PRECAUTIONARY,
        "grounds": [*FALLEN_FOREIGN, *FOREIGN],
    }

    for refusal, field, mended in (
        (TermRequired, "/duration", {"ends_at": HUNDRED_YEARS_ON + DAY}),
        (EndTooFar, "/ends_at", {"ends_at": NOW - 2 * DAY}),
        (EffectiveInPast, "/effective_at", {"effective_at": None}),
        (EndInPast, "/ends_at", {"ends_at": None, "indefinite": True}),
        (EndTooFar, "/duration", {"basis": Basis.VIOLATIONS, "grounds": []}),
        (GroundsRequired, "/grounds", {"grounds": [*UNKNOWN, *FALLEN_FOREIGN]}),
        (UnknownViolation, "/grounds/0", {"grounds": [*FALLEN_FOREIGN, *FOREIGN]}),
        (GroundOverturned, "/grounds/0", {"grounds": FOREIGN}),
        (GroundOfAnother, "/grounds/0", {"grounds": STANDING}),
    ):
        given().when(suspending(**wrong)).refused(refusal, field=field)
        wrong |= mended
    given().when(suspending(**wrong)).then(decided(None))


def test_suspensions_may_overlap() -> None:
    """The same scope may be suspended again while it is suspended: each stands alone."""
    given(suspension()).when(suspending(suspension="sus_2", indefinite=True)).then(
        decided(None, suspension="sus_2")
    )


# --- revising and cancelling ----------------------------------------------------------------------


def revising(id_: str = "sus_1", **changed: Any) -> Callable[[Record], object]:
    """Decide to move the end of a suspension."""
    members = {"duration": None, "ends_at": None, "indefinite": False} | changed
    return lambda record: record.revise(suspension=id_, reason="New facts.", now=NOW, **members)


def revised(
    end: datetime | None, previous: datetime | None, duration: str | None = None
) -> SuspensionRevised:
    """Return the moved end of a suspension."""
    return SuspensionRevised(
        subject=ALICE,
        suspension="sus_1",
        ends_at=end,
        duration=duration,
        previous_ends_at=previous,
        reason="New facts.",
    )


LATER = NOW + 10 * DAY


@pytest.mark.parametrize(
    ("facts", "members", "expected"),
    [
        ([suspension(end=LATER)], {"ends_at": LATER + DAY}, revised(LATER + DAY, LATER)),
        ([suspension(end=LATER)], {"ends_at": NOW + TICK}, revised(NOW + TICK, LATER)),
        ([suspension(end=LATER)], {"indefinite": True}, revised(None, LATER)),
        ([suspension()], {"ends_at": LATER}, revised(LATER, None)),
        (
            [suspension(end=LATER)],
            {"duration": "P1Y"},
            revised(instant("2027-01-01"), LATER, "P1Y"),
        ),
        (
            [suspension(start=LATER, end=LATER + DAY)],
            {"ends_at": LATER + TICK},
            revised(LATER + TICK, LATER + DAY),
        ),
        (
            [suspension(end=LATER), revised(LATER + DAY, LATER)],
            {"ends_at": LATER},
            revised(LATER, LATER + DAY),
        ),
        (
            [suspension(end=NOW - DAY, ending=Ending.ON_REVIEW)],
            {"ends_at": LATER},
            revised(LATER, NOW - DAY),
        ),
        (
            [suspension(end=LATER, basis=Basis.PRECAUTIONARY, start=NOW - DAY)],
            {"ends_at": NOW - DAY + PRECAUTION},
            revised(NOW - DAY + PRECAUTION, LATER),
        ),
        (
            [suspension(end=LATER)],
            {"ends_at": instant("2126-01-01")},
            revised(instant("2126-01-01"), LATER),
        ),
    ],
    ids=[
        "longer",
        "shorter",
        "without an end",
        "with an end after all",
        "a duration counts from the start",
        "before it began",
        "for a second time",
        "on review, past its term",
        "a precaution to its limit",
        "to the limit",
    ],
)
def test_the_end_of_a_suspension_is_moved(
    facts: Sequence[Fact], members: dict[str, Any], expected: object
) -> None:
    """An end moves while the suspension is scheduled or in force; the fact keeps the old one."""
    given(*facts).when(revising(**members)).then(expected)


@pytest.mark.parametrize(
    ("facts", "members", "refusal", "field"),
    [
        ([], {"indefinite": True}, NotFound, None),
        ([suspension(), reinstated()], {"indefinite": True}, AlreadyEnded, None),
        ([suspension(end=NOW)], {"indefinite": True}, AlreadyEnded, None),
        (
            [
                suspension(start=LATER),
                SuspensionCancelled(subject=ALICE, suspension="sus_1", reason="x"),
            ],
            {"indefinite": True},
            AlreadyEnded,
            None,
        ),
        ([suspension(end=LATER)], {}, TermRequired, "/duration"),
        ([suspension(end=LATER)], {"ends_at": NOW, "indefinite": True}, TermRequired, "/duration"),
        (
            [suspension(end=LATER)],
            {"ends_at": instant("2126-01-01") + TICK},
            EndTooFar,
            "/ends_at",
        ),
        ([suspension(end=LATER)], {"ends_at": NOW}, EndInPast, "/ends_at"),
        ([suspension(end=LATER)], {"duration": "P1M"}, EndInPast, "/ends_at"),
        ([suspension(start=LATER)], {"ends_at": LATER}, EndInPast, "/ends_at"),
        (
            [suspension(end=LATER, basis=Basis.PRECAUTIONARY, start=NOW - DAY)],
            {"ends_at": NOW - DAY + PRECAUTION + TICK},
            EndTooFar,
            "/duration",
        ),
        (
            [suspension(end=LATER, basis=Basis.PRECAUTIONARY)],
            {"indefinite": True},
            EndTooFar,
            "/duration",
        ),
    ],
    ids=[
        "unknown",
        "reinstated",
        "its term is over",
        "cancelled",
        "no end",
        "two ends",
        "beyond the limit",
        "to now",
        "a duration that is over",
        "to the start",
        "a precaution beyond its limit",
        "a precaution without an end",
    ],
)
def test_a_revision_that_breaks_a_rule_is_refused(
    facts: Sequence[Fact], members: dict[str, Any], refusal: type[LedgerError], field: str | None
) -> None:
    """An end that is past is not moved, and no end moves into the past or too far."""
    given(*facts).when(revising(**members)).refused(refusal, field=field)


def test_a_revision_is_refused_for_the_first_reason_that_holds() -> None:
    """That it is unknown or over is told first, then the form of the end, its reach, its past."""
    over = suspension(end=NOW, basis=Basis.PRECAUTIONARY)
    open_ = suspension(end=LATER, basis=Basis.PRECAUTIONARY)

    given(over).when(revising("sus_2")).refused(NotFound)
    given(over).when(revising()).refused(AlreadyEnded)
    given(open_).when(revising()).refused(TermRequired, field="/duration")
    given(open_).when(revising(ends_at=instant("2200-01-01"))).refused(EndTooFar, field="/ends_at")
    given(open_).when(revising(ends_at=NOW)).refused(EndInPast, field="/ends_at")


def cancelling(id_: str = "sus_1") -> Callable[[Record], object]:
    """Decide to take a suspension back."""
    return lambda record: record.cancel(suspension=id_, reason="Not needed.", now=NOW)


def test_a_suspension_is_cancelled_before_it_begins() -> None:
    """Up to the last instant before the start, a suspension can be taken back."""
    cancelled = SuspensionCancelled(subject=ALICE, suspension="sus_1", reason="Not needed.")

    given(suspension(start=NOW + TICK)).when(cancelling()).then(cancelled)
    given(suspension(start=NOW)).when(cancelling()).refused(AlreadyStarted)
    given(suspension(start=NOW - DAY)).when(cancelling()).refused(AlreadyStarted)
    given(suspension(start=NOW - DAY, end=NOW)).when(cancelling()).refused(AlreadyEnded)
    given(suspension(start=LATER), cancelled).when(cancelling()).refused(AlreadyEnded)
    given(suspension(start=LATER)).when(cancelling("sus_2")).refused(NotFound)


# --- reinstating ----------------------------------------------------------------------------------


def all_stand(_: str) -> bool:
    """Say that every violation stands."""
    return True


def none_stands(_: str) -> bool:
    """Say that no violation stands."""
    return False


def reinstating(
    cause: Cause = Cause.EARLY,
    *,
    id_: str = "sus_1",
    effective_at: datetime | None = None,
    stands: Callable[[str], bool] = all_stand,
) -> Callable[[Record], object]:
    """Decide that a person ends a suspension."""
    return lambda record: record.reinstate(
        reinstatement="rei_sus_1",
        suspension=id_,
        cause=cause,
        reason="Enough.",
        effective_at=effective_at,
        stands=stands,
        now=NOW,
    )


REVIEWED = suspension(end=NOW, ending=Ending.ON_REVIEW)


@pytest.mark.parametrize(
    ("fact", "decision", "expected"),
    [
        (suspension(), reinstating(), reinstated()),
        (suspension(start=LATER), reinstating(), reinstated()),
        (suspension(end=NOW + TICK), reinstating(), reinstated()),
        (suspension(), reinstating(effective_at=NOW), reinstated()),
        (suspension(), reinstating(Cause.ERROR), reinstated(cause=Cause.ERROR)),
        (
            suspension(),
            reinstating(Cause.ERROR, effective_at=START),
            reinstated(cause=Cause.ERROR, at=START),
        ),
        (
            suspension(),
            reinstating(Cause.LEGAL_ORDER, effective_at=NOW - TICK),
            reinstated(cause=Cause.LEGAL_ORDER, at=NOW - TICK),
        ),
        (
            suspension(grounds=["vio_1"]),
            reinstating(Cause.VIOLATION_OVERTURNED, effective_at=START, stands=none_stands),
            reinstated(cause=Cause.VIOLATION_OVERTURNED, at=START),
        ),
        (
            suspension(grounds=["vio_1", "vio_2"]),
            reinstating(Cause.VIOLATION_OVERTURNED, stands=lambda id_: id_ == "vio_1"),
            reinstated(cause=Cause.VIOLATION_OVERTURNED),
        ),
        (REVIEWED, reinstating(Cause.TERM_SERVED), reinstated(cause=Cause.TERM_SERVED)),
        (REVIEWED, reinstating(), reinstated()),
    ],
    ids=[
        "early",
        "while scheduled",
        "in its last instant",
        "from now",
        "an error",
        "an error, from the start",
        "by order, from before now",
        "its ground fell",
        "one of its grounds fell",
        "on review, term served",
        "on review, early",
    ],
)
def test_a_person_reinstates_a_subject(
    fact: Fact, decision: Callable[[Record], object], expected: object
) -> None:
    """What is scheduled or in force ends from now, or from before where it was wrong."""
    given(fact).when(decision).then(expected)


@pytest.mark.parametrize(
    ("facts", "decision", "refusal", "field"),
    [
        ([], reinstating(), NotFound, None),
        ([suspension(), reinstated()], reinstating(), AlreadyEnded, None),
        ([suspension(end=NOW)], reinstating(), AlreadyEnded, None),
        ([suspension()], reinstating(Cause.APPEAL_UPHELD), CauseNotAllowed, "/cause"),
        (
            [suspension(grounds=["vio_1"])],
            reinstating(Cause.VIOLATION_OVERTURNED),
            CauseNotAllowed,
            "/cause",
        ),
        (
            [suspension()],
            reinstating(Cause.VIOLATION_OVERTURNED, stands=none_stands),
            CauseNotAllowed,
            "/cause",
        ),
        ([suspension()], reinstating(Cause.TERM_SERVED), CauseNotAllowed, "/cause"),
        (
            [suspension(end=NOW + TICK, ending=Ending.ON_REVIEW)],
            reinstating(Cause.TERM_SERVED),
            CauseNotAllowed,
            "/cause",
        ),
        (
            [suspension()],
            reinstating(effective_at=NOW - TICK),
            InvalidValue,
            "/effective_at",
        ),
        (
            [suspension()],
            reinstating(effective_at=NOW + TICK),
            InvalidValue,
            "/effective_at",
        ),
        (
            [REVIEWED],
            reinstating(Cause.TERM_SERVED, effective_at=NOW - DAY),
            InvalidValue,
            "/effective_at",
        ),
        (
            [suspension()],
            reinstating(Cause.ERROR, effective_at=NOW + TICK),
            InvalidValue,
            "/effective_at",
        ),
    ],
    ids=[
        "unknown",
        "reinstated",
        "its term is over",
        "as if an appeal had been upheld",
        "its grounds stand",
        "it has no grounds",
        "it has no term",
        "its term is not over",
        "early, from before now",
        "early, from later",
        "term served, from before now",
        "an error, from later",
    ],
)
def test_a_reinstatement_that_breaks_a_rule_is_refused(
    facts: Sequence[Fact],
    decision: Callable[[Record], object],
    refusal: type[LedgerError],
    field: str | None,
) -> None:
    """A cause must be true of the suspension, and only a correction reaches into the past."""
    given(*facts).when(decision).refused(refusal, field=field)


def test_a_reinstatement_is_refused_for_the_first_reason_that_holds() -> None:
    """That it is unknown or over comes first, then the cause, then the instant."""
    later = NOW + DAY
    over = [suspension(), reinstated()]

    given(*over).when(reinstating(Cause.APPEAL_UPHELD, id_="sus_2", effective_at=later)).refused(
        NotFound
    )
    given(*over).when(reinstating(Cause.APPEAL_UPHELD, effective_at=later)).refused(AlreadyEnded)
    given(suspension()).when(reinstating(Cause.TERM_SERVED, effective_at=later)).refused(
        CauseNotAllowed, field="/cause"
    )
    given(suspension()).when(reinstating(Cause.ERROR, effective_at=later)).refused(
        InvalidValue, field="/effective_at"
    )


@pytest.mark.parametrize(
    ("facts", "ended_by"),
    [
        ([violation(), suspension(), reinstated()], 3),
        ([suspension(end=NOW)], 1),
        ([suspension(end=LATER), revised(NOW, LATER)], 2),
        (
            [
                suspension(start=LATER),
                violation(),
                SuspensionCancelled(subject=ALICE, suspension="sus_1", reason="x"),
            ],
            3,
        ),
    ],
    ids=["a reinstatement", "its own term", "a revision", "a cancellation"],
)
def test_what_has_ended_names_the_fact_that_ended_it(facts: Sequence[Fact], ended_by: int) -> None:
    """Whoever wants to end a suspension again is told by which event it ended."""
    refusal = given(*facts).when(reinstating()).refused(AlreadyEnded)

    assert {"ended_by": ended_by} == refusal.more


def test_ending_one_suspension_leaves_the_others() -> None:
    """Each suspension stands alone, the same scope notwithstanding."""
    record = Record.replay(
        ALICE, recorded(suspension("sus_1"), suspension("sus_2"), reinstated("sus_1"))
    )

    states = {id_: record.suspension(id_).state(NOW) for id_ in record.suspensions}

    assert {"sus_1": "ended", "sus_2": "in_force"} == states


@pytest.mark.parametrize(
    ("facts", "served"),
    [
        ([suspension(end=NOW)], NOW),
        ([suspension(end=NOW - DAY)], NOW - DAY),
        ([suspension(end=NOW - DAY), revised(NOW - TICK, NOW - DAY)], NOW - TICK),
        ([suspension(end=NOW + TICK)], None),
        ([suspension()], None),
        ([suspension(end=NOW), reinstated(at=NOW - DAY)], None),
        ([suspension(end=NOW), reinstated(at=NOW, cause=Cause.TERM_SERVED)], None),
        ([REVIEWED], None),
        ([suspension("sus_2", end=NOW)], None),
        ([], None),
    ],
    ids=[
        "at its end",
        "after its end",
        "at its revised end",
        "before its end",
        "without an end",
        "reinstated before",
        "recorded already",
        "on review",
        "another",
        "unknown",
    ],
)
def test_a_term_that_ended_by_itself_is_recorded(
    facts: Sequence[Fact], served: datetime | None
) -> None:
    """The fact takes effect at the end of the term, whenever it is written, and is written once."""
    expected = served and SubjectReinstated(
        subject=ALICE,
        reinstatement="rei_9",
        suspension="sus_1",
        cause=Cause.TERM_SERVED,
        effective_at=served,
    )

    given(*facts).when(
        lambda record: record.serve_term(suspension="sus_1", reinstatement="rei_9", now=NOW)
    ).then(expected)


GROUNDED = suspension(grounds=["vio_1", "vio_2"])


@pytest.mark.parametrize(
    ("facts", "stands", "ends"),
    [
        ([GROUNDED], none_stands, True),
        ([suspension(start=LATER, grounds=["vio_1"])], none_stands, True),
        ([suspension(end=NOW, grounds=["vio_1"], ending=Ending.ON_REVIEW)], none_stands, True),
        ([GROUNDED], lambda id_: id_ == "vio_2", False),
        ([GROUNDED], all_stand, False),
        ([GROUNDED, reinstated()], none_stands, False),
        ([suspension(end=NOW, grounds=["vio_1"])], none_stands, False),
        ([suspension(grounds=["vio_1"], basis=Basis.LEGAL_ORDER)], none_stands, False),
        (
            [suspension(grounds=["vio_1"], basis=Basis.PRECAUTIONARY, end=LATER)],
            none_stands,
            False,
        ),
    ],
    ids=[
        "in force",
        "scheduled",
        "waiting for review",
        "another ground stands",
        "all stand",
        "reinstated before",
        "its term is over",
        "by order",
        "as a precaution",
    ],
)
def test_a_suspension_ends_when_the_last_of_its_grounds_falls(
    facts: Sequence[Fact], stands: Callable[[str], bool], ends: bool
) -> None:
    """Only what rests on violations alone, none of which stands, and is not over, ends from now."""
    expected = ends and SubjectReinstated(
        subject=ALICE,
        reinstatement="rei_9",
        suspension="sus_1",
        cause=Cause.VIOLATION_OVERTURNED,
        effective_at=NOW,
    )

    given(*facts).when(
        lambda record: record.lose_grounds(
            suspension="sus_1", reinstatement="rei_9", stands=stands, now=NOW
        )
    ).then(expected or None)


def test_an_unknown_suspension_has_no_grounds_to_lose() -> None:
    """Asking about a suspension that is not recorded is refused."""
    given().when(
        lambda record: record.lose_grounds(
            suspension="sus_1", reinstatement="rei_9", stands=all_stand, now=NOW
        )
    ).refused(NotFound)


# --- what the record says -------------------------------------------------------------------------


@dataclass(frozen=True)
class Life:
    """What happens to one suspension, and its states at instants."""

    facts: Sequence[Fact]
    states: dict[datetime, str]


BEGIN, END = instant("2026-03-01"), instant("2026-05-01")
TERM = suspension(start=BEGIN, end=END)
LIVES = {
    "a term that ends by itself": Life(
        [TERM],
        {
            BEGIN - TICK: "scheduled",
            BEGIN: "in_force",
            END - TICK: "in_force",
            END: "ended",
        },
    ),
    "without an end": Life(
        [suspension(start=BEGIN)], {BEGIN: "in_force", instant("2500-01-01"): "in_force"}
    ),
    "reinstated early": Life(
        [TERM, reinstated(at=NOW)], {NOW - TICK: "in_force", NOW: "ended", END: "ended"}
    ),
    "reinstated late, its term was over": Life(
        [TERM, reinstated(at=END + DAY)], {END - TICK: "in_force", END: "ended"}
    ),
    "reinstated before it began": Life(
        [TERM, reinstated(at=BEGIN - DAY)],
        {BEGIN - 2 * DAY: "scheduled", BEGIN - DAY: "ended", BEGIN: "ended"},
    ),
    "wrong from the start": Life(
        [TERM, reinstated(at=BEGIN, cause=Cause.ERROR)],
        {BEGIN - TICK: "scheduled", BEGIN: "ended"},
    ),
    "cancelled": Life(
        [TERM, (BEGIN - DAY, SuspensionCancelled(subject=ALICE, suspension="sus_1", reason="x"))],
        {BEGIN - DAY - TICK: "scheduled", BEGIN - DAY: "cancelled", BEGIN: "cancelled"},
    ),
    "made longer": Life(
        [TERM, revised(END + DAY, END)], {END: "in_force", END + DAY - TICK: "in_force"}
    ),
    "made endless": Life([TERM, revised(None, END)], {END: "in_force"}),
    "on review, past its term": Life(
        [suspension(start=BEGIN, end=END, ending=Ending.ON_REVIEW)],
        {BEGIN - TICK: "scheduled", END: "in_force", END + 1000 * DAY: "in_force"},
    ),
    "on review, reinstated after its term": Life(
        [
            suspension(start=BEGIN, end=END, ending=Ending.ON_REVIEW),
            reinstated(at=END + DAY, cause=Cause.TERM_SERVED),
        ],
        {END: "in_force", END + DAY - TICK: "in_force", END + DAY: "ended"},
    ),
}


@pytest.mark.parametrize(
    ("facts", "at", "state"),
    [(life.facts, at, state) for life in LIVES.values() for at, state in life.states.items()],
    ids=[f"{name}, at {at:%d %b %H:%M:%S}" for name, life in LIVES.items() for at in life.states],
)
def test_a_suspension_has_one_state_at_each_instant(
    facts: Sequence[Fact], at: datetime, state: str
) -> None:
    """Starts are counted in, ends are not: there is no instant between two states."""
    found = Record.replay(ALICE, recorded(*facts)).suspension("sus_1")

    assert state == found.state(at)
    assert (state == "in_force") is found.in_force(at)


def test_a_suspension_waits_for_review_while_somebody_should_look() -> None:
    """A fallen ground or a term over on review asks for a person, until the suspension ends."""
    running = Record.replay(ALICE, recorded(suspension(end=END))).suspension("sus_1")
    over = Record.replay(ALICE, recorded(REVIEWED)).suspension("sus_1")
    ended = Record.replay(ALICE, recorded(REVIEWED, reinstated())).suspension("sus_1")

    assert not running.waits_for_review(NOW, ground_fell=False)
    assert running.waits_for_review(NOW, ground_fell=True)
    assert not running.waits_for_review(END, ground_fell=True)
    assert not over.waits_for_review(NOW - TICK, ground_fell=False)
    assert over.waits_for_review(NOW, ground_fell=False)
    assert not ended.waits_for_review(NOW, ground_fell=True)


def test_a_suspension_is_shown_with_its_state_and_without_its_note() -> None:
    """Lists show what was decided, its end as revised and what ended it, never the note."""
    noted = suspension(end=END, grounds=["vio_1"]).model_copy(
        update={"note": "Sealed.", "clauses": (FRAUD_REF,), "duration": "P4M"}
    )
    record = Record.replay(ALICE, recorded(noted, revised(LATER, END), reinstated(at=NOW)))

    shown = record.suspension("sus_1").as_json(NOW)

    assert {
        "id": "sus_1",
        "position": 1,
        "subject": {"type": "user", "id": "alice"},
        "scope": {"resources": ({"group": "frontier"},), "conditions": ()},
        "state": "ended",
        "effective_at": "2026-01-01T00:00:00.000000Z",
        "ends_at": "2026-04-11T12:00:00.000000Z",
        "duration": "P4M",
        "basis": "violations",
        "grounds": ("vio_1",),
        "clauses": [{"policy": "aup@1", "clause": "fraud", "category": "fraud"}],
        "reason": "Fraud.",
        "reinstatement": "automatic",
        "disclosure": "notified",
        "ended": {"position": 3, "at": "2026-04-01T12:00:00.000000Z", "cause": "early"},
    } == shown


def test_a_running_suspension_is_shown_as_not_ended() -> None:
    """Without an end there is no end to show."""
    shown = Record.replay(ALICE, recorded(suspension())).suspension("sus_1").as_json(NOW)

    assert (None, None) == (shown["ends_at"], shown["ended"])


def test_a_subject_is_known_from_the_first_fact_about_it() -> None:
    """Whatever the first fact is, the subject is known from that instant on."""
    record = Record.replay(ALICE, recorded((START, violation()), (NOW, suspension())))

    assert not Record(ALICE).known(NOW)
    assert not record.known(START - TICK)
    assert record.known(START)


def test_properties_of_a_past_instant_are_those_of_then() -> None:
    """Properties are set as a whole and held from the instant they were recorded."""
    record = Record.replay(
        ALICE,
        recorded(
            (START, SubjectRegistered(subject=ALICE, properties={"a": 1})),
            (START + DAY, SubjectRegistered(subject=ALICE, properties={"b": 2})),
            (START + DAY, SubjectRegistered(subject=ALICE, properties={"c": 3})),
        ),
    )

    assert record.properties.at(START - TICK) is None
    assert {"a": 1} == record.properties.at(START + DAY - TICK)
    assert {"c": 3} == record.properties.at(START + DAY)
    assert {"c": 3} == record.properties.latest


def test_warnings_are_kept_and_refuse_nothing() -> None:
    """A warning is part of the record and changes no standing."""
    issued = WarningIssued(subject=ALICE, warning="war_1", reason="Mind the policy.")

    record = Record.replay(ALICE, recorded(issued))

    assert ["war_1"] == list(record.warnings)
    assert {} == record.suspensions


def test_a_record_takes_its_events_one_by_one() -> None:
    """A gap in the stream, or an event of another kind of stream, is a fault of the program."""
    first, second = recorded(violation("vio_1"), violation("vio_2"))
    other = recorded(OperatorEnrolled(operator="jo", role=Role.OFFICER))[0]

    with pytest.raises(AssertionError, match="gap at 0"):
        Record(ALICE).evolve(second)
    with pytest.raises(AssertionError, match="no event of a subject"):
        Record(ALICE).evolve(other)
    assert 1 == Record.replay(ALICE, [first]).version
