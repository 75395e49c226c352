"""The access rule: who is refused what, when, until when, and by which suspensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.access import Decision, Request, UnknownSubjects, decide, in_force_on, looked_at
from ledger.domain.catalogue import Catalogue
from ledger.domain.events import (
    GroupDefined,
    ResourceListed,
    SubjectLinked,
    SubjectRegistered,
    SubjectUnlinked,
)
from ledger.domain.record import Ended, Record
from ledger.domain.values import Cause, Ending, Resource, Scope, Subject
from tests.domain.given import (
    ACME,
    ALICE,
    APP,
    BOB,
    DAY,
    MODEL,
    NOW,
    START,
    TICK,
    Fact,
    recorded,
    reinstated,
    suspension,
    violation,
)

SIBLING = Subject(type="organization", id="sibling")
OTHER_MODEL = Resource(type="model", id="m2")
TOOL = Resource(type="tool", id="m1")
ALL_MODELS = Scope.model_validate({"resources": [{"type": "model"}]})
ONE_MODEL = Scope.model_validate({"resources": [{"type": "model", "id": "m1"}]})
FRONTIER = Scope.model_validate({"resources": [{"group": "frontier"}]})


@dataclass(frozen=True)
class World:
    """Everything that was recorded, folded."""

    records: dict[Subject, Record]
    catalogue: Catalogue

    def ask(
        self,
        subject: Subject = ALICE,
        *,
        resource: Resource = MODEL,
        action: str = "use",
        at: datetime = NOW,
        unknown: UnknownSubjects = "allow",
        **more: Any,
    ) -> Decision:
        """Ask whether a subject may do something."""
        request = Request(subject, resource, action, **more)
        return decide(self.records, self.catalogue, request, at, unknown=unknown)


def world(*facts: Fact) -> World:
    """Fold facts of any stream."""
    records: dict[Subject, Record] = {}
    catalogue = Catalogue()
    for fact in recorded(*facts):
        catalogue.evolve(fact)
        if fact.stream.startswith("subject/"):
            subject = Subject.parse(fact.stream.removeprefix("subject/"))
            records.setdefault(subject, Record(subject)).evolve(fact)
    return World(records, catalogue)


def reasons(decision: Decision) -> list[str]:
    """Return the ids of the suspensions that count."""
    return [suspension.id for suspension in decision.suspensions]


def linked(subject: Subject, parent: Subject) -> SubjectLinked:
    """Return a link."""
    return SubjectLinked(subject=subject, parent=parent)


def group(*resources: Resource) -> GroupDefined:
    """Return a definition of the group ``frontier``."""
    return GroupDefined(group="frontier", resources=resources)


def conditioned(*conditions: dict[str, object]) -> Scope:
    """Return a scope of all models under conditions."""
    return Scope.model_validate({"resources": [{"type": "model"}], "conditions": conditions})


# --- whose suspensions count ----------------------------------------------------------------------


def test_nothing_recorded_allows_everything() -> None:
    """Who is not suspended is allowed, known or not."""
    assert Decision(allowed=True) == world().ask()
    assert Decision(allowed=True) == world(violation()).ask()


def test_a_suspension_of_an_organization_refuses_all_below_and_nobody_beside() -> None:
    """What is refused to an organization is refused to its applications and users, at any depth."""
    w = world(
        linked(ALICE, APP),
        linked(APP, ACME),
        linked(BOB, SIBLING),
        linked(SIBLING, Subject(type="group", id="holding")),
        linked(ACME, Subject(type="group", id="holding")),
        suspension(subject=ACME, scope=ALL_MODELS),
    )

    assert ["sus_1"] == reasons(w.ask(ACME))
    assert ["sus_1"] == reasons(w.ask(APP))
    assert ["sus_1"] == reasons(w.ask(ALICE))
    assert w.ask(SIBLING).allowed
    assert w.ask(BOB).allowed
    assert w.ask(Subject(type="group", id="holding")).allowed


def test_a_suspension_of_a_user_does_not_climb() -> None:
    """Suspensions go down links, never up."""
    w = world(linked(ALICE, ACME), suspension(scope=ALL_MODELS))

    assert not w.ask(ALICE).allowed
    assert w.ask(ACME).allowed


def test_every_parent_counts() -> None:
    """A subject with two parents is refused what either is refused; a way shared counts once."""
    w = world(
        linked(ALICE, APP),
        linked(ALICE, ACME),
        linked(APP, SIBLING),
        linked(ACME, SIBLING),
        suspension("sus_1", subject=ACME, scope=ALL_MODELS),
        suspension("sus_2", subject=SIBLING, scope=ALL_MODELS),
    )

    assert ["sus_1", "sus_2"] == reasons(w.ask(ALICE))
    assert [ALICE, APP, ACME, SIBLING] == looked_at([ALICE], w.records.get, NOW)


def test_a_subject_that_is_acted_through_counts_with_all_above_it() -> None:
    """A user who acts through an application is refused what the application's owner is refused."""
    w = world(linked(APP, ACME), suspension(subject=ACME, scope=ALL_MODELS))

    assert w.ask(ALICE).allowed
    assert ["sus_1"] == reasons(w.ask(ALICE, through=(APP,)))
    assert ["sus_1"] == reasons(w.ask(ALICE, through=(APP, ACME, APP)))
    assert w.ask(ALICE, through=(BOB,)).allowed


def test_the_same_id_of_another_type_is_somebody_else() -> None:
    """Subjects are compared by type and id."""
    w = world(suspension(scope=ALL_MODELS))

    assert w.ask(Subject(type="application", id="alice")).allowed
    assert w.ask(Subject(type="user", id="Alice")).allowed


def test_links_are_those_of_the_instant_asked_about() -> None:
    """Before it joined and after it left, a user is not held for its organization."""
    w = world(
        (START, suspension(subject=ACME, scope=ALL_MODELS)),
        (START + DAY, linked(ALICE, ACME)),
        (START + 2 * DAY, SubjectUnlinked(subject=ALICE, parent=ACME)),
    )

    allowed = {days: w.ask(at=START + days * DAY).allowed for days in (0, 1, 2)}

    assert {0: True, 1: False, 2: True} == allowed
    assert not w.ask(at=START + 2 * DAY - TICK).allowed


def test_every_suspension_on_a_subject_or_above_is_named_oldest_start_first() -> None:
    """What is in force on a subject does not depend on what is asked for."""
    w = world(
        linked(ALICE, ACME),
        suspension("sus_1", scope=ONE_MODEL, start=START + DAY),
        suspension("sus_2", scope=FRONTIER, subject=ACME),
        suspension("sus_3", scope=ALL_MODELS, end=NOW),
        suspension("sus_4", scope=ALL_MODELS, subject=BOB),
        suspension("sus_5", scope=ALL_MODELS, start=NOW + TICK),
    )

    assert ["sus_2", "sus_1"] == [s.id for s in in_force_on(w.records, ALICE, NOW)]
    assert ["sus_2"] == [s.id for s in in_force_on(w.records, ACME, NOW)]
    assert [] == in_force_on(w.records, SIBLING, NOW)


# --- what a scope covers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "covered"),
    [
        (ONE_MODEL, {"model:m1"}),
        (ALL_MODELS, {"model:m1", "model:m2"}),
        (FRONTIER, {"model:m2"}),
        (
            Scope.model_validate(
                {"resources": [{"group": "frontier"}, {"type": "tool", "id": "m1"}]}
            ),
            {"model:m2", "tool:m1"},
        ),
        (Scope.model_validate({"resources": [{"group": "unheard"}]}), set()),
    ],
    ids=["one resource", "a type", "a group", "several selectors", "an unknown group"],
)
def test_a_scope_covers_resources_by_id_by_type_or_by_group(
    scope: Scope, covered: set[str]
) -> None:
    """A resource is covered when any selector selects it, listed in the catalogue or not."""
    w = world(group(OTHER_MODEL), suspension(scope=scope))

    refused = {r.key for r in (MODEL, OTHER_MODEL, TOOL) if not w.ask(resource=r).allowed}

    assert covered == refused


def test_a_group_covers_later_members_and_lets_former_ones_go() -> None:
    """Membership is that of the instant asked about, not that of the suspension."""
    w = world(
        (START, group(MODEL)),
        (START, suspension(scope=FRONTIER)),
        (START + DAY, group(MODEL, OTHER_MODEL)),
        (START + 2 * DAY, group(OTHER_MODEL)),
    )

    def refused(at: datetime) -> list[str]:
        return [r.id for r in (MODEL, OTHER_MODEL) if not w.ask(resource=r, at=at).allowed]

    assert ["m1"] == refused(START)
    assert ["m1"] == refused(START + DAY - TICK)
    assert ["m1", "m2"] == refused(START + DAY)
    assert ["m2"] == refused(START + 2 * DAY)


def test_a_scope_may_name_actions() -> None:
    """With actions only these are refused; without, every action is."""
    some = Scope.model_validate({"resources": [{"type": "model"}], "actions": ["use", "tune"]})

    refused = {
        a
        for a in ("use", "tune", "read", "Use")
        if not world(suspension(scope=some)).ask(action=a).allowed
    }

    assert {"use", "tune"} == refused
    assert not world(suspension(scope=ALL_MODELS)).ask(action="anything").allowed


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        ({}, True),
        ({"resource_properties": {"status": "preview"}}, False),
        ({"resource_properties": {"status": "stable"}}, True),
        ({"resource_properties": {"status": ["stable", "preview"]}}, False),
        ({"subject_properties": {"status": "preview"}}, True),
    ],
    ids=["absent", "met", "not met", "met by one of a list", "of another entity"],
)
def test_a_condition_must_hold_on_the_request(asked: dict[str, Any], allowed: bool) -> None:
    """A suspension under a condition counts only where the request meets it."""
    scope = conditioned({"attribute": "resource.properties.status", "in": ["preview"]})

    assert allowed is world(suspension(scope=scope)).ask(**asked).allowed


def test_all_conditions_must_hold() -> None:
    """Conditions on subject, resource and action are a conjunction."""
    w = world(
        suspension(
            scope=conditioned(
                {"attribute": "subject.properties.tier", "in": ["free"]},
                {"attribute": "resource.properties.size", "not_in": ["small"]},
                {"attribute": "action.properties.batch", "exists": True},
            )
        )
    )
    met: dict[str, Any] = {
        "subject_properties": {"tier": "free"},
        "resource_properties": {"size": "large"},
        "action_properties": {"batch": False},
    }

    assert not w.ask(**met).allowed
    assert w.ask(**met | {"subject_properties": {"tier": "paid"}}).allowed
    assert w.ask(**met | {"resource_properties": {"size": "small"}}).allowed
    assert w.ask(**met | {"action_properties": {}}).allowed


def test_recorded_properties_stand_in_where_the_request_says_nothing() -> None:
    """A property in the request wins over a recorded one; both are those of the instant."""
    scope = conditioned(
        {"attribute": "subject.properties.tier", "in": ["free"]},
        {"attribute": "resource.properties.status", "in": ["preview"]},
    )
    listed = ResourceListed(resource=MODEL, properties={"status": "preview"}, actions=("use",))
    w = world(
        (START, suspension(scope=scope)),
        (START + DAY, SubjectRegistered(subject=ALICE, properties={"tier": "free"})),
        (START + DAY, listed),
        (START + 2 * DAY, SubjectRegistered(subject=ALICE, properties={"tier": "paid"})),
        (START + 3 * DAY, listed.model_copy(update={"properties": {}})),
    )

    assert w.ask(at=START).allowed
    assert not w.ask(at=START + DAY).allowed
    assert w.ask(at=START + DAY, subject_properties={"tier": "paid"}).allowed
    assert w.ask(at=START + DAY, resource_properties={"status": "stable"}).allowed
    assert w.ask(at=START + 2 * DAY).allowed
    assert not w.ask(at=START + 2 * DAY, subject_properties={"tier": "free"}).allowed
    assert w.ask(at=START + 3 * DAY, subject_properties={"tier": "free"}).allowed


def test_conditions_look_at_the_properties_of_who_asks() -> None:
    """A suspension of an organization looks at the user that asks, not at the organization."""
    scope = conditioned({"attribute": "subject.properties.tier", "in": ["free"]})
    w = world(
        linked(ALICE, ACME),
        linked(BOB, ACME),
        SubjectRegistered(subject=ACME, properties={"tier": "free"}),
        SubjectRegistered(subject=BOB, properties={"tier": "free"}),
        suspension(subject=ACME, scope=scope),
    )

    assert w.ask(ALICE).allowed
    assert not w.ask(BOB).allowed
    assert not w.ask(ALICE, subject_properties={"tier": "free"}).allowed


# --- when, and until when -------------------------------------------------------------------------


def test_the_start_is_refused_and_the_end_is_not() -> None:
    """A term is half open: access is back at the very instant of its end."""
    w = world(suspension(scope=ALL_MODELS, start=NOW, end=NOW + DAY))

    assert w.ask(at=NOW - TICK).allowed
    assert not w.ask(at=NOW).allowed
    assert not w.ask(at=NOW + DAY - TICK).allowed
    assert w.ask(at=NOW + DAY).allowed


@pytest.mark.parametrize(
    ("facts", "until"),
    [
        ([("sus_1", 0, 10)], 10),
        ([("sus_1", 0, None)], None),
        ([("sus_1", 0, 10), ("sus_2", 5, 20)], 20),
        ([("sus_1", 0, 10), ("sus_2", 10, 20)], 20),
        ([("sus_1", 0, 10), ("sus_2", 11, 20)], 10),
        ([("sus_1", 0, 30), ("sus_2", 5, 20)], 30),
        ([("sus_1", 0, 10), ("sus_2", 5, 20), ("sus_3", 20, 30), ("sus_4", 31, 40)], 30),
        ([("sus_1", 0, 10), ("sus_2", 5, None)], None),
        ([("sus_1", 0, 10), ("sus_2", 10, None)], None),
        ([("sus_1", 0, 10), ("sus_2", 11, None)], 10),
        ([("sus_1", -9, 10), ("sus_2", -5, 3)], 10),
        ([("sus_1", -9, -1), ("sus_2", -5, 3)], 3),
        ([("sus_3", 20, 30), ("sus_2", 10, 20), ("sus_1", 0, 10)], 30),
    ],
    ids=[
        "one",
        "one without an end",
        "two that overlap",
        "two that touch",
        "two with a gap",
        "one within the other",
        "a chain up to a gap",
        "into one without an end",
        "touching one without an end",
        "a gap before one without an end",
        "two that began before",
        "one that is over",
        "recorded in reverse",
    ],
)
def test_until_is_the_end_of_the_run(
    facts: Sequence[tuple[str, int, int | None]], until: int | None
) -> None:
    """Overlapping and touching suspensions are one run; it has no end when any in it has none."""
    w = world(
        *(
            suspension(
                id_,
                scope=ALL_MODELS,
                start=NOW + start * DAY,
                end=None if end is None else NOW + end * DAY,
            )
            for id_, start, end in facts
        )
    )

    decision = w.ask()

    assert (None if until is None else NOW + until * DAY) == decision.until


def test_until_looks_only_at_what_covers_the_request() -> None:
    """A later suspension of something else, or one that was lifted, makes the run no longer."""
    w = world(
        suspension("sus_1", scope=ALL_MODELS, end=NOW + DAY),
        suspension(
            "sus_2",
            scope=Scope.model_validate({"resources": [{"type": "tool"}]}),
            end=NOW + 2 * DAY,
        ),
        suspension("sus_3", scope=ALL_MODELS, start=NOW + TICK, end=NOW + 3 * DAY),
        reinstated("sus_3", at=NOW),
    )

    assert (["sus_1"], NOW + DAY) == (reasons(w.ask()), w.ask().until)


def test_a_term_on_review_has_no_known_end() -> None:
    """Past its term, and before, a suspension on review ends when a person ends it."""
    facts: list[Fact] = [suspension(scope=ALL_MODELS, end=NOW, ending=Ending.ON_REVIEW)]
    w = world(*facts)

    assert w.ask(at=NOW - DAY).until is None
    assert (["sus_1"], None) == (reasons(w.ask(at=NOW + DAY)), w.ask(at=NOW + DAY).until)
    lifted = world(*facts, reinstated(at=NOW + DAY, cause=Cause.TERM_SERVED))
    assert NOW + DAY == lifted.ask().until
    assert lifted.ask(at=NOW + DAY).allowed


def test_the_reasons_are_named_oldest_start_first() -> None:
    """Of two that began at once, the one that was recorded first comes first."""
    w = world(
        suspension("sus_c", scope=ALL_MODELS, start=START + DAY),
        suspension("sus_b", scope=ALL_MODELS, start=START),
        suspension("sus_a", scope=ALL_MODELS, start=START),
    )

    assert ["sus_b", "sus_a", "sus_c"] == reasons(w.ask())


def test_a_subject_that_nobody_knows_may_be_refused_by_default() -> None:
    """With ``deny_unknown``, who has no fact by then is refused, and that is the reason given."""
    w = world((NOW, violation()), (NOW, linked(BOB, ACME)))
    unknown = Decision(allowed=False, unknown_subject=True)

    assert unknown == w.ask(at=NOW - TICK, unknown="deny_unknown")
    assert Decision(allowed=True) == w.ask(at=NOW, unknown="deny_unknown")
    assert unknown == w.ask(APP, unknown="deny_unknown")
    assert unknown == w.ask(ACME, unknown="deny_unknown")
    assert unknown == w.ask(APP, through=(ALICE,), unknown="deny_unknown")
    assert Decision(allowed=True) == w.ask(APP, unknown="allow")


def test_a_suspension_is_the_reason_even_for_an_unknown_subject() -> None:
    """What counts is told before the default."""
    w = world(suspension(subject=ACME, scope=ALL_MODELS))

    decision = w.ask(APP, through=(ACME,), unknown="deny_unknown")

    assert ["sus_1"] == reasons(decision)
    assert not decision.unknown_subject


# --- properties -----------------------------------------------------------------------------------

SCOPES = [
    ALL_MODELS,
    ONE_MODEL,
    FRONTIER,
    conditioned({"attribute": "subject.properties.tier", "in": ["free"]}),
]
LINKS: list[Fact] = [linked(ALICE, APP), linked(ALICE, ACME), linked(APP, SIBLING), group(MODEL)]
DAYS = st.integers(0, 20)


@st.composite
def suspensions(draw: st.DrawFn, size_max: int = 6) -> list[Fact]:
    """Draw suspensions of the subjects around Alice, some of them reinstated."""
    facts: list[Fact] = []
    for number in range(draw(st.integers(0, size_max))):
        start = draw(DAYS)
        length = draw(st.none() | st.integers(1, 10))
        subject = draw(st.sampled_from([ALICE, APP, ACME, SIBLING, BOB]))
        facts.append(
            suspension(
                f"sus_{number}",
                subject=subject,
                start=START + start * DAY,
                end=None if length is None else START + (start + length) * DAY,
                scope=draw(st.sampled_from(SCOPES)),
                ending=draw(st.sampled_from(Ending)),
            )
        )
        if draw(st.integers(0, 3)) == 0:
            at = START + draw(DAYS) * DAY
            facts.append(reinstated(f"sus_{number}", subject=subject, at=at))
    return facts


@st.composite
def questions(draw: st.DrawFn) -> dict[str, Any]:
    """Draw what Alice asks, and when."""
    return {
        "at": START + draw(st.integers(1, 30)) * timedelta(hours=12),
        "resource": draw(st.sampled_from([MODEL, OTHER_MODEL])),
        "through": draw(st.sampled_from([(), (BOB,)])),
        "subject_properties": draw(st.sampled_from([{}, {"tier": "free"}])),
    }


@given(suspensions(), suspensions(size_max=1), questions())
def test_adding_a_suspension_never_allows_what_was_denied(
    before: list[Fact], added: list[Fact], asked: dict[str, Any]
) -> None:
    """One more suspension keeps every reason there was, and its end is no earlier."""
    more = [
        fact.model_copy(update={"suspension": "sus_new"})
        for fact in added
        if not isinstance(fact, tuple)
    ]

    old = world(*LINKS, *before).ask(**asked)
    new = world(*LINKS, *before, *more).ask(**asked)

    assert set(reasons(old)) <= set(reasons(new))
    if not old.allowed:
        assert not new.allowed
        assert new.until is None or (old.until is not None and old.until <= new.until)


@given(suspensions(), st.integers(0, 5), questions())
def test_lifting_a_suspension_never_lifts_another(
    facts: list[Fact], number: int, asked: dict[str, Any]
) -> None:
    """Without one suspension the others count as before; lifting it is as if it were not there."""
    id_ = f"sus_{number}"
    w = world(*LINKS, *facts)
    before = reasons(w.ask(**asked))
    for record in w.records.values():
        if id_ in record.suspensions:
            lifted = Ended(99, asked["at"], Cause.EARLY)
            record.suspensions[id_] = replace(record.suspensions[id_], ended=lifted)

    assert [other for other in before if other != id_] == reasons(w.ask(**asked))


@given(suspensions(), st.randoms(use_true_random=False), questions())
def test_the_answer_does_not_depend_on_the_order_of_suspensions(
    facts: list[Fact], random: Any, asked: dict[str, Any]
) -> None:
    """However the suspensions are stored, the same ones count, in the same order, as long."""
    w = world(*LINKS, *facts)
    before = w.ask(**asked)
    for record in w.records.values():
        shuffled = list(record.suspensions.items())
        random.shuffle(shuffled)
        record.suspensions = dict(shuffled)

    assert before == w.ask(**asked)


@given(suspensions(), questions())
def test_until_is_the_first_instant_that_is_allowed(
    facts: list[Fact], asked: dict[str, Any]
) -> None:
    """Every half day before ``until`` is denied and ``until`` itself is not; null never ends."""
    w = world(*LINKS, *facts)
    decision = w.ask(**asked)
    if decision.allowed:
        assert decision.until is None
        return
    half_days = [asked["at"] + number * timedelta(hours=12) for number in range(100)]
    denied = {at: not w.ask(**asked | {"at": at}).allowed for at in half_days}

    if decision.until is None:
        assert all(denied.values())
    else:
        assert all(denied[at] for at in half_days if at < decision.until)
        assert not denied[decision.until]
