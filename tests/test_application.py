"""``Ledger``: what each command records, what it refuses, and that nothing is recorded twice."""

from __future__ import annotations

import hashlib
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Barrier, RLock
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.application import (
    KEY_PREFIX,
    SYSTEM_AUTHOR,
    Done,
    Foreseen,
    Ledger,
    Once,
    key_digest,
)
from ledger.domain.errors import (
    AlreadyEnded,
    AlreadyLinked,
    AlreadyOverturned,
    AlreadyStarted,
    CauseNotAllowed,
    Conflict,
    EffectiveInPast,
    EndInPast,
    GroundOfAnother,
    GroundOverturned,
    GroundsRequired,
    IdempotencyKeyReused,
    InvalidValue,
    KeyAlreadyRevoked,
    LastAdminKey,
    LedgerError,
    LinkCycle,
    LinkTooDeep,
    NotFound,
    NotLinked,
    PolicyNotInForce,
    ReservedOperator,
    TermRequired,
    TooManyParents,
    UnknownClause,
    UnknownGroup,
    UnknownPolicy,
    UnknownViolation,
)
from ledger.domain.events import (
    Author,
    Clause,
    OperatorKeyIssued,
    Recorded,
    SubjectReinstated,
    SubjectSuspended,
    SuspensionRevised,
    ViolationRecorded,
)
from ledger.domain.record import Record
from ledger.domain.values import (
    LINK_DEPTH_MAX,
    PARENTS_MAX,
    Basis,
    Cause,
    Ending,
    Resource,
    Role,
    Scope,
    Subject,
)
from tests.conftest import LOG_KEY, T0, SetClock, check_store, open_ledger
from tests.store.failing import DISK_FAULTS, FailingStore, dump

JO, SAM = Author("jo"), Author("sam")
ALICE = Subject(type="user", id="alice")
BOB = Subject(type="user", id="bob")
APP = Subject(type="application", id="app")
ACME = Subject(type="organization", id="acme")
M1 = Resource(type="model", id="m1")
M2 = Resource(type="model", id="m2")
MODELS = Scope.model_validate({"resources": [{"type": "model"}]})
FRONTIER = Scope.model_validate({"resources": [{"group": "frontier"}]})
FRAUD = Clause(id="fraud", title="Fraud", text="Do not deceive.", category="fraud", severity="high")
SPAM = Clause(id="spam", title="Spam", text="Do not spam.", category="spam", severity="low")
ONCE = Once("key-1", "fingerprint-1")


@pytest.fixture
def founded(ledger: Ledger) -> Ledger:
    """A ledger with a policy and a group."""
    ledger.open("test.ledger", log_key=LOG_KEY)
    ledger.publish("aup", title="Acceptable use", clauses=[FRAUD], effective_at=T0, by=JO)
    ledger.define_group("frontier", resources=(M1,), by=JO)
    return ledger


def about(done: Done) -> str:
    """Return the id of what a command made."""
    assert done.recorded.event.about is not None
    return done.recorded.event.about


def violate(ledger: Ledger, subject: Subject = ALICE, **changed: Any) -> str:
    """Record a violation that has just happened; return its id."""
    members: dict[str, Any] = {
        "policy": "aup",
        "clause": "fraud",
        "occurred_at": ledger.recorder.clock(),
        "detected_by": "human",
        "summary": "It happened.",
        "by": JO,
    }
    return about(ledger.record_violation(subject, **members | changed))


def suspend(ledger: Ledger, subject: Subject = ALICE, **changed: Any) -> str:
    """Suspend a subject without an end, by order unless grounds are given; return the id."""
    members: dict[str, Any] = {"scope": MODELS, "reason": "Fraud.", "by": JO}
    if not changed.keys() & {"duration", "ends_at", "indefinite"}:
        members["indefinite"] = True
    if not changed.keys() & {"grounds", "basis"}:
        members["basis"] = Basis.LEGAL_ORDER
    return about(ledger.suspend(subject, **members | changed))


def events(ledger: Ledger, after: int = 0) -> list[Recorded]:
    """Return what was recorded after a position."""
    return list(ledger.recorder.events(after=after))


def types(ledger: Ledger, after: int = 0) -> list[str]:
    """Return the types of what was recorded after a position."""
    return [recorded.type for recorded in events(ledger, after)]


def record_of(ledger: Ledger, subject: Subject = ALICE) -> Record:
    """Return a subject's record, folded anew from its events."""
    return Record.replay(subject, ledger.recorder.stream(f"subject/{subject.key}"))


def refused(
    ledger: Ledger, refusal: type[LedgerError], command: Callable[[], object]
) -> LedgerError:
    """Expect a command to be refused just so, and to record nothing; return the refusal."""
    before = ledger.recorder.position

    with pytest.raises(refusal) as caught:
        command()

    assert refusal is type(caught.value)
    assert before == ledger.recorder.position
    return caught.value


# --- the same command again -----------------------------------------------------------------------


def test_the_same_command_again_gets_the_first_answer(founded: Ledger, clock: SetClock) -> None:
    """The same key and the same request record nothing, even when much has happened since."""
    first = founded.register(ALICE, properties={"a": 1}, by=JO, once=ONCE)
    founded.register(ALICE, properties={"a": 2}, by=JO)
    clock.move(days=400)
    head = founded.recorder.position

    again = founded.register(ALICE, properties={"a": 1}, by=JO, once=ONCE)

    assert ("recorded", "repeated") == (first.outcome, again.outcome)
    assert first.recorded == again.recorded
    assert head == founded.recorder.position


def test_a_command_that_could_not_be_taken_again_is_answered_again(founded: Ledger) -> None:
    """A repeated reinstatement is the first one, not a refusal because the suspension has ended."""
    suspension = suspend(founded)

    def reinstate() -> Done:
        return founded.reinstate(suspension, cause=Cause.EARLY, reason="x", by=JO, once=ONCE)

    first, again = reinstate(), reinstate()

    assert first.recorded == again.recorded
    assert "repeated" == again.outcome


def test_another_request_with_the_same_key_is_refused(founded: Ledger) -> None:
    """The key names the first request for ever."""
    founded.register(ALICE, properties={}, by=JO, once=ONCE)

    other = Once(ONCE.key, "fingerprint-2")

    refused(
        founded,
        IdempotencyKeyReused,
        lambda: founded.register(BOB, properties={}, by=JO, once=other),
    )


def test_each_operator_has_its_own_keys(founded: Ledger) -> None:
    """The same key from another operator is another command; for whom it acts does not matter."""
    mine = founded.register(ALICE, properties={}, by=JO, once=ONCE)
    theirs = founded.register(BOB, properties={}, by=SAM, once=Once(ONCE.key, "other"))
    for_jane = founded.register(
        ALICE, properties={}, by=Author("jo", "user:jane", "r-2"), once=ONCE
    )

    assert ["recorded", "recorded", "repeated"] == [mine.outcome, theirs.outcome, for_jane.outcome]
    assert mine.recorded == for_jane.recorded


def test_a_command_that_found_all_so_already_is_remembered(founded: Ledger) -> None:
    """Its repetition must not undo what came after it."""
    founded.register(ALICE, properties={"a": 1}, by=JO)
    first = founded.register(ALICE, properties={"a": 1}, by=JO, once=ONCE)
    founded.register(ALICE, properties={"a": 2}, by=JO)

    again = founded.register(ALICE, properties={"a": 1}, by=JO, once=ONCE)

    assert ("unchanged", "unchanged") == (first.outcome, again.outcome)
    assert first.recorded == again.recorded
    assert {"a": 2} == record_of(founded).properties.latest
    refused(
        founded,
        IdempotencyKeyReused,
        lambda: founded.register(ALICE, properties={}, by=JO, once=Once(ONCE.key, "other")),
    )


def test_the_key_of_a_refused_command_is_free(founded: Ledger) -> None:
    """What was refused recorded nothing, so the corrected request may use the key."""
    refused(
        founded,
        GroundsRequired,
        lambda: suspend(founded, basis=Basis.VIOLATIONS, once=ONCE),
    )

    assert suspend(founded, once=Once(ONCE.key, "corrected")).startswith("sus_")


def test_a_repeated_command_with_consequences_has_them_once(founded: Ledger) -> None:
    """Overturning again neither overturns nor reinstates again, and answers with the first fact."""
    violation = violate(founded)
    suspend(founded, grounds=[violation])
    first = founded.overturn(violation, reason="x", by=JO, once=ONCE)
    head = founded.recorder.position

    again = founded.overturn(violation, reason="x", by=JO, once=ONCE)

    assert first.recorded == again.recorded
    assert head == founded.recorder.position


@pytest.mark.parametrize("ledgers", [1, 2], ids=["one ledger", "two ledgers on one file"])
def test_one_of_two_commands_at_the_same_time_is_recorded(
    founded: Ledger, path: Path, clock: SetClock, ledgers: int
) -> None:
    """Two connections that send the same request get the same answer, and one event is recorded."""
    other = founded if ledgers == 1 else open_ledger(path, clock)
    start = Barrier(2)
    head = founded.recorder.position

    def register(ledger: Ledger, number: int) -> Done:
        start.wait()
        once = Once(f"key-{number}", "same")
        return ledger.register(ALICE, properties={"n": number}, by=JO, once=once)

    with ThreadPoolExecutor(2) as threads:
        for number in range(10):
            answers = list(threads.map(register, (founded, other), (number, number)))
            assert ["recorded", "repeated"] == sorted(answer.outcome for answer in answers)
            assert answers[0].recorded == answers[1].recorded

    assert head + 10 == founded.recorder.position
    if other is not founded:
        other.recorder.store.close()


# --- beginning, subjects and links ----------------------------------------------------------------


def test_a_ledger_begins_once(ledger: Ledger) -> None:
    """The first fact is that it was opened, by the ledger itself."""
    done = ledger.open("test.ledger", log_key=LOG_KEY)

    assert (1, "ledger.opened", SYSTEM_AUTHOR) == (
        done.recorded.position,
        done.recorded.type,
        done.recorded.author,
    )
    refused(ledger, InvalidValue, lambda: ledger.open("another", log_key=LOG_KEY))


def test_a_fact_names_who_acted_and_when(founded: Ledger, clock: SetClock) -> None:
    """Operator, the human behind it, the request and the instant are recorded with each fact."""
    author = Author("mod-tool", "user:jane", "request-7")
    clock.move(seconds=5)

    done = founded.register(ALICE, properties={}, by=author)

    assert (author, clock.now, None) == (
        done.recorded.author,
        done.recorded.recorded_at,
        done.recorded.caused_by,
    )
    assert done.recorded == founded.recorder.event(done.recorded.position)


def test_registering_the_same_again_records_nothing(founded: Ledger) -> None:
    """The answer is the fact that already says so."""
    first = founded.register(ALICE, properties={"tier": "free"}, by=JO)
    again = founded.register(ALICE, properties={"tier": "free"}, by=SAM)
    other = founded.register(ALICE, properties={"tier": "paid"}, by=SAM)

    assert ["recorded", "unchanged", "recorded"] == [d.outcome for d in (first, again, other)]
    assert first.recorded == again.recorded


def link_chain(ledger: Ledger, length: int, name: str = "n") -> list[Subject]:
    """Link subjects into a chain of so many links; return them from the bottom up."""
    chain = [Subject(type="unit", id=f"{name}{height}") for height in range(length + 1)]
    for below, above in pairwise(chain):
        ledger.link(below, parent=above, by=JO)
    return chain


@pytest.mark.parametrize("length", [0, 1, 2, 7])
def test_links_close_no_cycle(founded: Ledger, length: int) -> None:
    """Whatever its length, a way that would lead back to where it began is refused."""
    chain = link_chain(founded, length)

    refused(founded, LinkCycle, lambda: founded.link(chain[-1], parent=chain[0], by=JO))


def test_a_cycle_may_be_closed_once_it_is_open_elsewhere(founded: Ledger) -> None:
    """Only links that stand count."""
    founded.link(ALICE, parent=ACME, by=JO)
    founded.unlink(ALICE, parent=ACME, by=JO)

    assert "recorded" == founded.link(ACME, parent=ALICE, by=JO).outcome


@pytest.mark.parametrize("above", range(LINK_DEPTH_MAX))
def test_links_stand_8_deep_and_no_deeper(founded: Ledger, above: int) -> None:
    """Wherever the joint is, chains above and below it count together."""
    top = link_chain(founded, above, "top")
    fits = link_chain(founded, LINK_DEPTH_MAX - 1 - above, "fits")
    long = link_chain(founded, LINK_DEPTH_MAX - above, "long")

    refused(founded, LinkTooDeep, lambda: founded.link(long[-1], parent=top[0], by=JO))
    assert "recorded" == founded.link(fits[-1], parent=top[0], by=JO).outcome
    deepest = Subject(type="unit", id="deepest")
    refused(founded, LinkTooDeep, lambda: founded.link(deepest, parent=fits[0], by=JO))
    highest = Subject(type="unit", id="highest")
    refused(founded, LinkTooDeep, lambda: founded.link(top[-1], parent=highest, by=JO))


def test_the_longest_way_counts_among_several(founded: Ledger) -> None:
    """A short way beside a long one does not make the long one shorter."""
    chain = link_chain(founded, LINK_DEPTH_MAX)
    founded.link(chain[0], parent=chain[-1], by=JO)

    refused(founded, LinkTooDeep, lambda: founded.link(ALICE, parent=chain[0], by=JO))


def test_a_subject_has_at_most_32_parents(founded: Ledger) -> None:
    """The limit itself is allowed."""
    for number in range(PARENTS_MAX):
        founded.link(ALICE, parent=Subject(type="unit", id=f"p{number}"), by=JO)

    refused(founded, TooManyParents, lambda: founded.link(ALICE, parent=ACME, by=JO))


def test_a_link_is_made_and_removed_once(founded: Ledger) -> None:
    """A link that stands is not made again, one that does not stand is not removed."""
    refused(founded, NotLinked, lambda: founded.unlink(ALICE, parent=ACME, by=JO))
    founded.link(ALICE, parent=ACME, by=JO)
    refused(founded, AlreadyLinked, lambda: founded.link(ALICE, parent=ACME, by=JO))
    founded.unlink(ALICE, parent=ACME, by=JO)
    refused(founded, NotLinked, lambda: founded.unlink(ALICE, parent=ACME, by=JO))


# --- violations and warnings ----------------------------------------------------------------------


def test_a_violation_pins_the_policy_version_in_force(founded: Ledger, clock: SetClock) -> None:
    """Later versions change nothing about conduct before them."""
    clock.move(days=1)
    before = clock.now - timedelta(hours=1)
    founded.publish("aup", title="Acceptable use", clauses=[SPAM], by=JO)

    violate(founded, occurred_at=before)
    violate(founded, clause="spam")

    assert [("aup@1", "fraud", "high"), ("aup@2", "spam", "low")] == [
        (e.event.policy, e.event.category, e.event.severity)
        for e in events(founded)
        if isinstance(e.event, ViolationRecorded)
    ]


@pytest.mark.parametrize(
    ("members", "refusal"),
    [
        ({"policy": "aup@0"}, InvalidValue),
        ({"policy": "no such"}, InvalidValue),
        ({"policy": "other"}, UnknownPolicy),
        ({"policy": "aup@2"}, UnknownPolicy),
        ({"occurred_at": T0 - timedelta(days=1)}, PolicyNotInForce),
        ({"clause": "unheard"}, UnknownClause),
    ],
)
def test_a_violation_that_does_not_fit_the_policy_is_refused(
    founded: Ledger, members: dict[str, Any], refusal: type[LedgerError]
) -> None:
    """Nothing is recorded about a subject that a refused command names."""
    refused(founded, refusal, lambda: violate(founded, **members))


def test_a_warning_names_the_clauses_of_its_grounds(founded: Ledger) -> None:
    """Each ground is named once, each clause too, and warning refuses nothing."""
    first, second = violate(founded), violate(founded)

    done = founded.warn(ALICE, grounds=[second, first, second], reason="Mind it.", by=JO)

    data = done.recorded.event.model_dump()
    assert (second, first) == data["grounds"]
    assert ({"policy": "aup@1", "clause": "fraud", "category": "fraud"},) == data["clauses"]
    assert {} == record_of(founded).suspensions


def test_a_warning_rests_on_grounds_as_a_suspension_does(founded: Ledger) -> None:
    """Unknown, overturned and foreign violations are refused; none is needed."""
    foreign, fallen = violate(founded, BOB), violate(founded)
    founded.overturn(fallen, reason="x", by=JO)

    def warn(*grounds: str) -> Callable[[], object]:
        return lambda: founded.warn(ALICE, grounds=grounds, reason="x", by=JO)

    refused(founded, UnknownViolation, warn("vio_unknown"))
    refused(founded, GroundOverturned, warn(fallen))
    refused(founded, GroundOfAnother, warn(foreign))
    warn()()


# --- suspending -----------------------------------------------------------------------------------


def test_a_subject_is_suspended_on_violations_of_those_below_it(founded: Ledger) -> None:
    """A company answers for its applications and their users, at any depth."""
    founded.link(ALICE, parent=APP, by=JO)
    founded.link(APP, parent=ACME, by=JO)
    grounds = [violate(founded, subject) for subject in (ALICE, APP, ACME)]

    done = founded.suspend(
        ACME, scope=MODELS, duration="P2M", grounds=grounds, reason="Fraud.", by=JO
    )

    event = done.recorded.event
    assert isinstance(event, SubjectSuspended)
    assert tuple(grounds) == event.grounds
    assert (T0, datetime(2027, 1, 24, 10, tzinfo=T0.tzinfo)) == (event.effective_at, event.ends_at)


def test_nobody_is_suspended_for_what_somebody_else_did(founded: Ledger) -> None:
    """Not for a stranger, not for who stands above, not for who stood below before."""
    founded.link(ALICE, parent=ACME, by=JO)
    strangers, above, below = violate(founded, BOB), violate(founded, ACME), violate(founded)

    refused(founded, GroundOfAnother, lambda: suspend(founded, ALICE, grounds=[strangers]))
    refused(founded, GroundOfAnother, lambda: suspend(founded, ALICE, grounds=[above]))
    refused(founded, GroundOfAnother, lambda: suspend(founded, BOB, grounds=[below]))
    founded.unlink(ALICE, parent=ACME, by=JO)
    refused(founded, GroundOfAnother, lambda: suspend(founded, ACME, grounds=[below]))


@pytest.mark.parametrize(
    ("members", "refusal", "where"),
    [
        ({"grounds": ["vio_unknown"]}, UnknownViolation, "/grounds/0"),
        ({"grounds": ["sus_1"]}, UnknownViolation, "/grounds/0"),
        ({"grounds": [""]}, UnknownViolation, "/grounds/0"),
        ({"duration": None}, TermRequired, "/duration"),
        (
            {"effective_at": T0 - timedelta(microseconds=1)},
            EffectiveInPast,
            "/effective_at",
        ),
        ({"ends_at": T0}, EndInPast, "/ends_at"),
        ({"grounds": []}, GroundsRequired, "/grounds"),
        (
            {"scope": Scope.model_validate({"resources": [{"group": "unheard"}]})},
            UnknownGroup,
            "/scope/resources",
        ),
        (
            {
                "scope": Scope.model_validate({"resources": [{"group": "unheard"}]}),
                "grounds": ["vio_unknown"],
                "duration": None,
            },
            TermRequired,
            "/duration",
        ),
        (
            {
                "scope": Scope.model_validate({"resources": [{"group": "unheard"}]}),
                "grounds": ["vio_unknown"],
            },
            UnknownViolation,
            "/grounds/0",
        ),
        (
            {"scope": Scope.model_validate({"resources": [{"group": "unheard"}]}), "ends_at": T0},
            EndInPast,
            "/ends_at",
        ),
    ],
)
def test_a_suspension_that_breaks_a_rule_is_refused(
    founded: Ledger, members: dict[str, Any], refusal: type[LedgerError], where: str
) -> None:
    """What is named must exist, which is told of violations first and of groups last."""
    error = refused(founded, refusal, lambda: suspend(founded, **members))

    assert where == error.field


def test_a_suspension_of_a_group_needs_the_group_to_be_defined(founded: Ledger) -> None:
    """A group that is defined, even as nothing, can be named; its members may come later."""
    empty = Scope.model_validate({"resources": [{"group": "empty"}, {"group": "frontier"}]})
    refused(founded, UnknownGroup, lambda: suspend(founded, scope=empty))

    founded.define_group("empty", resources=(), by=JO)

    assert suspend(founded, scope=empty).startswith("sus_")


def test_ids_sort_in_the_order_in_which_things_were_recorded(
    founded: Ledger, clock: SetClock
) -> None:
    """An id is its kind and a part that sorts by time, so lists by id are lists by age."""
    ids = []
    for _ in range(20):
        clock.move(milliseconds=1)
        ids.append(violate(founded))

    assert sorted(ids) == ids
    assert {30} == {len(id_) for id_ in ids}


def test_a_clock_that_went_back_moves_no_start_into_the_past(
    founded: Ledger, clock: SetClock
) -> None:
    """Now is never before the newest fact, so a suspension from now begins when it is recorded."""
    violate(founded)
    clock.move(hours=-3)

    suspend(founded)

    event = events(founded)[-1]
    assert isinstance(event.event, SubjectSuspended)
    assert (T0, T0) == (event.recorded_at, event.event.effective_at)


# --- revising, cancelling, reinstating ------------------------------------------------------------


def test_a_suspension_is_revised_and_reinstated_by_its_id(founded: Ledger, clock: SetClock) -> None:
    """The id alone finds the subject's record."""
    suspension = suspend(founded, duration="P2M")
    other = suspend(founded, duration="P2M")
    founded.revise(suspension, duration="P3M", reason="It went on.", by=JO)
    clock.move(days=1)
    done = founded.reinstate(suspension, cause=Cause.EARLY, reason="Enough.", by=JO)

    record = record_of(founded)
    assert about(done).startswith("rei_")
    assert {suspension: "ended", other: "in_force"} == {
        id_: found.state(clock.now) for id_, found in record.suspensions.items()
    }
    refused(
        founded,
        AlreadyEnded,
        lambda: founded.reinstate(suspension, cause=Cause.EARLY, reason="x", by=JO),
    )
    refused(
        founded,
        AlreadyEnded,
        lambda: founded.revise(suspension, indefinite=True, reason="x", by=JO),
    )


def test_a_suspension_is_cancelled_before_it_begins(founded: Ledger, clock: SetClock) -> None:
    """From its start on, it is reinstated instead."""
    planned = suspend(founded, effective_at=T0 + timedelta(days=1))
    started = suspend(founded, effective_at=T0 + timedelta(days=1))
    founded.cancel(planned, reason="Not needed.", by=JO)
    clock.move(days=1)

    refused(founded, AlreadyStarted, lambda: founded.cancel(started, reason="x", by=JO))
    refused(founded, AlreadyEnded, lambda: founded.cancel(planned, reason="x", by=JO))


@pytest.mark.parametrize("id_", ["", "sus_", "sus_unknown", "vio_unknown", "key_unknown", "x"])
def test_what_is_not_recorded_is_not_found(founded: Ledger, id_: str) -> None:
    """An id that names nothing, or nothing of this kind, is not found."""
    commands: Sequence[Callable[[], object]] = (
        lambda: founded.revise(id_, indefinite=True, reason="x", by=JO),
        lambda: founded.cancel(id_, reason="x", by=JO),
        lambda: founded.reinstate(id_, cause=Cause.EARLY, reason="x", by=JO),
        lambda: founded.overturn(id_, reason="x", by=JO),
        lambda: founded.revoke_key(id_, by=JO),
        lambda: founded.serve_terms([id_]),
    )

    for command in commands:
        refused(founded, NotFound, command)


def test_the_id_of_another_kind_is_not_found(founded: Ledger) -> None:
    """A violation is no suspension, a suspension no violation, and neither is a key."""
    violation = violate(founded)
    suspension = suspend(founded)

    refused(founded, NotFound, lambda: founded.cancel(violation, reason="x", by=JO))
    refused(founded, NotFound, lambda: founded.overturn(suspension, reason="x", by=JO))
    refused(founded, NotFound, lambda: founded.revoke_key(suspension, by=JO))
    refused(founded, UnknownViolation, lambda: suspend(founded, grounds=[suspension]))


def test_a_cause_is_checked_against_the_violations_of_others_too(founded: Ledger) -> None:
    """Whether a ground stands is looked up where it was recorded."""
    founded.link(ALICE, parent=ACME, by=JO)
    violation = violate(founded)
    suspension = suspend(founded, ACME, grounds=[violation], basis=Basis.LEGAL_ORDER)

    def reinstate() -> Done:
        return founded.reinstate(
            suspension, cause=Cause.VIOLATION_OVERTURNED, reason="x", effective_at=T0, by=JO
        )

    refused(founded, CauseNotAllowed, reinstate)
    founded.overturn(violation, reason="x", by=JO)
    assert "recorded" == reinstate().outcome


# --- overturning ----------------------------------------------------------------------------------


def test_an_overturned_violation_ends_what_rests_on_it_alone(
    founded: Ledger, clock: SetClock
) -> None:
    """On the subject, above it, and what is yet to begin; the rest stays as it is."""
    founded.link(ALICE, parent=ACME, by=JO)
    violation, other = violate(founded), violate(founded)
    alone = suspend(founded, grounds=[violation])
    above = suspend(founded, ACME, grounds=[violation])
    planned = suspend(founded, grounds=[violation], effective_at=T0 + timedelta(days=90))
    reviewed = suspend(founded, grounds=[violation], duration="P1D", reinstatement=Ending.ON_REVIEW)
    suspend(founded, grounds=[violation, other])
    suspend(founded, grounds=[other])
    suspend(founded, grounds=[violation], basis=Basis.LEGAL_ORDER)
    suspend(founded, grounds=[violation], basis=Basis.PRECAUTIONARY, duration="P30D")
    suspend(founded, grounds=[violation], duration="P1D")
    ended = suspend(founded, grounds=[violation])
    founded.reinstate(ended, cause=Cause.EARLY, reason="x", by=JO)
    clock.move(days=2)
    head = founded.recorder.position

    done = founded.overturn(violation, reason="Mistaken.", by=SAM)

    consequences = events(founded, head + 1)
    assert head + 1 == done.recorded.position
    assert [alone, above, planned, reviewed] == [
        fact.event.suspension
        for fact in consequences
        if isinstance(fact.event, SubjectReinstated)
        and fact.event.cause is Cause.VIOLATION_OVERTURNED
        and fact.event.effective_at == clock.now
        and fact.caused_by == done.recorded.position
        and fact.author == SAM
    ]
    assert 4 == len(consequences)
    assert ["subject/organization:acme"] == [
        fact.stream for fact in consequences if fact.stream != "subject/user:alice"
    ]


def test_a_suspension_on_two_violations_ends_with_the_second(founded: Ledger) -> None:
    """One ground that stands is enough, whichever falls first."""
    first, second = violate(founded), violate(founded)
    suspension = suspend(founded, grounds=[first, second])

    founded.overturn(second, reason="x", by=JO)
    assert "in_force" == record_of(founded).suspension(suspension).state(T0)
    founded.overturn(first, reason="x", by=JO)
    assert "ended" == record_of(founded).suspension(suspension).state(T0)


def test_a_suspension_above_on_violations_of_two_users_ends_with_the_second(
    founded: Ledger,
) -> None:
    """Grounds are looked up in every record that they stand in."""
    founded.link(ALICE, parent=ACME, by=JO)
    founded.link(BOB, parent=ACME, by=JO)
    first, second = violate(founded, ALICE), violate(founded, BOB)
    suspension = suspend(founded, ACME, grounds=[first, second])

    founded.overturn(first, reason="x", by=JO)
    assert "in_force" == record_of(founded, ACME).suspension(suspension).state(T0)
    founded.overturn(second, reason="x", by=JO)
    assert "ended" == record_of(founded, ACME).suspension(suspension).state(T0)


def test_overturning_together_ends_what_rests_on_both(founded: Ledger) -> None:
    """The second of two commands that are committed together sees what the first did."""
    first, second = violate(founded), violate(founded)
    suspension = suspend(founded, grounds=[first, second])

    with founded.together():
        founded.overturn(first, reason="x", by=JO)
        founded.overturn(second, reason="x", by=JO)

    assert "ended" == record_of(founded).suspension(suspension).state(T0)


def test_a_violation_is_overturned_once(founded: Ledger) -> None:
    """The second attempt names the fact that did it."""
    violation = violate(founded)
    done = founded.overturn(violation, reason="x", by=JO)

    error = refused(
        founded, AlreadyOverturned, lambda: founded.overturn(violation, reason="x", by=JO)
    )

    assert {"overturned_by": done.recorded.position} == error.more


# --- terms that end by themselves -----------------------------------------------------------------


def test_a_served_term_is_recorded_once_whoever_runs(
    founded: Ledger, path: Path, clock: SetClock
) -> None:
    """Two ledgers on one file, again and again and at once, record it one time."""
    suspension = suspend(founded, duration="P2M")
    decided = founded.recorder.position
    other = open_ledger(path, clock)
    assert [] == founded.serve_terms([suspension])
    clock.move(days=100)
    start = Barrier(2)

    def serve(ledger: Ledger) -> list[Recorded]:
        start.wait()
        return [fact for _ in range(3) for fact in ledger.serve_terms([suspension, suspension])]

    with ThreadPoolExecutor(2) as threads:
        served = [fact for facts in threads.map(serve, (founded, other)) for fact in facts]

    assert 1 == len(served)
    assert served == events(founded, decided)
    event = served[0].event
    assert isinstance(event, SubjectReinstated)
    assert (Cause.TERM_SERVED, datetime(2027, 1, 24, 10, tzinfo=T0.tzinfo), None) == (
        event.cause,
        event.effective_at,
        event.reason,
    )
    assert (decided, SYSTEM_AUTHOR, clock.now) == (
        served[0].caused_by,
        served[0].author,
        served[0].recorded_at,
    )
    other.recorder.store.close()


def test_a_served_term_is_caused_by_the_fact_that_set_its_end(
    founded: Ledger, clock: SetClock
) -> None:
    """After a revision that is the revision, no longer the suspension itself."""
    suspension = suspend(founded, duration="P2M")
    revised = founded.revise(suspension, duration="P1M", reason="Milder.", by=JO).recorded
    assert isinstance(revised.event, SuspensionRevised)
    clock.move(days=40)

    (served,) = founded.serve_terms([suspension])

    assert isinstance(served.event, SubjectReinstated)
    assert (revised.position, revised.event.ends_at) == (
        served.caused_by,
        served.event.effective_at,
    )


def test_only_terms_that_ended_by_themselves_are_served(founded: Ledger, clock: SetClock) -> None:
    """Not what waits for review, has no end, is not over, was cancelled or was reinstated."""
    tomorrow = T0 + timedelta(days=1)
    over = suspend(founded, ends_at=tomorrow)
    review = suspend(founded, ends_at=tomorrow, reinstatement=Ending.ON_REVIEW)
    endless = suspend(founded)
    longer = suspend(founded, ends_at=tomorrow + timedelta(microseconds=1))
    cancelled = suspend(founded, effective_at=T0 + timedelta(hours=1), ends_at=tomorrow)
    founded.cancel(cancelled, reason="x", by=JO)
    early = suspend(founded, ends_at=tomorrow)
    founded.reinstate(early, cause=Cause.EARLY, reason="x", by=JO)
    clock.move(days=1)

    served = founded.serve_terms([review, endless, longer, cancelled, early, over])

    assert [over] == [
        fact.event.suspension for fact in served if isinstance(fact.event, SubjectReinstated)
    ]
    refused(
        founded,
        AlreadyEnded,
        lambda: founded.reinstate(over, cause=Cause.EARLY, reason="x", by=JO),
    )


# --- rehearsing -----------------------------------------------------------------------------------


def everything_in(ledger: Ledger) -> tuple[object, ...]:
    """All that a ledger holds on disk: every row of every table, and every data key."""
    return dump(Path(ledger.recorder.store.path)), list(ledger.vault.rows())


def test_a_rehearsal_says_what_would_be_recorded_and_leaves_nothing(
    founded: Ledger, clock: SetClock
) -> None:
    """Not an event, a leaf, a row, an idempotency key or a data key; then it comes true."""
    violation = violate(founded)
    before, head = everything_in(founded), founded.recorder.position

    def command(once: Once | None = ONCE) -> Done:
        return founded.suspend(
            ALICE,
            scope=FRONTIER,
            duration="P2M",
            grounds=[violation],
            reason="Fraud.",
            note="For us alone.",
            by=JO,
            once=once,
        )

    rehearsed = founded.rehearse(command)
    again = founded.rehearse(command)

    assert before == everything_in(founded)
    assert (head + 1, "recorded") == (rehearsed.done.recorded.position, rehearsed.done.outcome)
    assert (rehearsed.done.recorded,) == rehearsed.events
    assert again.done.recorded.position == rehearsed.done.recorded.position
    done = command()
    assert "recorded" == done.outcome
    assert rehearsed.done.recorded.sentence == done.recorded.sentence
    assert "repeated" == founded.rehearse(command).done.outcome
    assert "For us alone." == founded.disclose(done.recorded.position, by=JO)["note"]


def test_a_rehearsal_shows_the_consequences_too(founded: Ledger) -> None:
    """What ends because a violation falls is there, and still in force afterwards."""
    violation = violate(founded)
    suspension = suspend(founded, grounds=[violation])
    before = everything_in(founded)

    rehearsed = founded.rehearse(
        lambda: founded.overturn(violation, reason="It was somebody else.", by=JO)
    )

    overturned, reinstated = rehearsed.events
    assert isinstance(reinstated.event, SubjectReinstated)
    assert (suspension, overturned.position) == (
        reinstated.event.suspension,
        reinstated.caused_by,
    )
    assert before == everything_in(founded)
    assert record_of(founded).suspensions[suspension].in_force(T0)


def test_a_rehearsal_is_refused_as_the_command_is(founded: Ledger) -> None:
    """By the same rule, in the same words; and the key it came with is still free."""
    suspension = suspend(founded)
    founded.reinstate(suspension, cause=Cause.EARLY, reason="x", by=JO)
    before = everything_in(founded)

    def command() -> Done:
        return founded.reinstate(suspension, cause=Cause.EARLY, reason="x", by=JO, once=ONCE)

    rehearsed = refused(founded, AlreadyEnded, lambda: founded.rehearse(command))

    assert str(rehearsed) == str(refused(founded, AlreadyEnded, command))
    assert before == everything_in(founded)


def test_rehearsing_an_erasure_erases_nothing(founded: Ledger) -> None:
    """The key in use stays in use, so what comes next is not sealed by another."""
    noted = founded.suspend(
        ALICE,
        scope=MODELS,
        indefinite=True,
        basis=Basis.LEGAL_ORDER,
        reason="An order.",
        note="For us alone.",
        by=JO,
    ).recorded
    erasure = about(founded.request_erasure(ALICE, reason="She asked.", by=JO))
    before = everything_in(founded)

    rehearsed = founded.rehearse(lambda: founded.confirm_erasure(erasure, by=SAM))

    assert "destroying 1 key" in rehearsed.done.recorded.sentence
    assert 0 == founded.shred()
    assert before == everything_in(founded)
    assert {"note": "For us alone."} == founded.disclose(noted.position, by=JO)


def test_a_rehearsed_key_is_told_to_nobody(founded: Ledger) -> None:
    """It was never issued, and the next one is another."""
    founded.enroll("kim", role=Role.OFFICER, by=JO)
    rehearsed = founded.rehearse(lambda: founded.issue_key("kim", by=JO))

    assert rehearsed.done.secret is None
    assert founded.issue_key("kim", by=JO).secret is not None


def test_rehearsals_and_commands_do_not_disturb_each_other(
    founded: Ledger, path: Path, clock: SetClock
) -> None:
    """In other threads and by another ledger: only what was decided is recorded."""
    other = open_ledger(path, clock)
    head, count = founded.recorder.position, 8

    def work(number: int) -> None:
        ledger = other if number % 3 == 0 else founded
        rehearsed = ledger.rehearse(lambda: ledger.warn(ALICE, reason=f"rehearsed {number}", by=JO))
        assert rehearsed.done.recorded.position > head
        ledger.warn(ALICE, reason=f"recorded {number}", by=JO)

    with ThreadPoolExecutor(4) as threads:
        assert [None] * count == list(threads.map(work, range(count)))

    reasons = [recorded.event.sentence() for recorded in events(founded, head)]
    assert count == len(reasons)
    assert not [each for each in reasons if "rehearsed" in each]
    other.recorder.store.close()


def test_nothing_is_rehearsed_among_commands_that_are_recorded(founded: Ledger) -> None:
    """It would take back what they have written."""
    with founded.together(), pytest.raises(AssertionError, match="take back"):
        founded.rehearse(lambda: founded.register(ALICE, properties={}, by=JO))
    assert "recorded" == founded.register(ALICE, properties={}, by=JO).outcome


# --- policies and the catalogue -------------------------------------------------------------------


def test_a_policy_is_published_unless_it_says_the_same(founded: Ledger) -> None:
    """The answer to the same words is the version that says so."""
    same = founded.publish("aup", title="Acceptable use", clauses=[FRAUD], by=SAM)
    more = founded.publish("aup", title="Acceptable use", clauses=[FRAUD, SPAM], by=SAM)
    other = founded.publish("api", title="API terms", clauses=[SPAM], by=SAM)

    assert [("unchanged", "aup@1"), ("recorded", "aup@2"), ("recorded", "api@1")] == [
        (done.outcome, about(done)) for done in (same, more, other)
    ]
    assert [("api", 1), ("aup", 2)] == [(p.id, len(p.versions)) for p in founded.policies()]
    refused(
        founded,
        EffectiveInPast,
        lambda: founded.publish(
            "aup", title="x", clauses=[FRAUD], effective_at=T0 - timedelta(days=1), by=JO
        ),
    )


def test_policies_are_told_as_they_were_known(founded: Ledger) -> None:
    """As of a position, later versions are not there."""
    head = founded.recorder.position
    founded.publish("aup", title="Acceptable use", clauses=[SPAM], by=JO)

    assert [1] == [len(policy.versions) for policy in founded.policies(position=head)]
    assert [] == founded.policies(position=1)


def test_the_catalogue_is_set_unless_it_is_so_already(founded: Ledger) -> None:
    """Resources and groups are set as a whole; the same again records nothing."""
    listed = founded.list_resource(M1, properties={"status": "preview"}, by=JO)
    again = founded.list_resource(M1, properties={"status": "preview"}, actions=("use",), by=SAM)
    anew = founded.list_resource(M1, properties={}, actions=("use", "tune"), by=SAM)
    group = founded.define_group("frontier", resources=(M1, M2), by=JO)
    same = founded.define_group("frontier", resources=(M2, M1), by=SAM)

    assert ["recorded", "unchanged", "recorded", "recorded", "unchanged"] == [
        done.outcome for done in (listed, again, anew, group, same)
    ]
    assert (listed.recorded, group.recorded) == (again.recorded, same.recorded)
    refused(
        founded,
        InvalidValue,
        lambda: founded.define_group("frontier", resources=(M1, M1), by=JO),
    )


def test_the_past_is_told_as_it_was_known(founded: Ledger, clock: SetClock) -> None:
    """Records of ancestors by any link ever are included; what came later is not."""
    founded.link(ALICE, parent=ACME, by=JO)
    suspend(founded, ACME)
    founded.list_resource(M1, properties={}, by=JO)
    known = founded.recorder.position
    clock.move(days=1)
    founded.unlink(ALICE, parent=ACME, by=JO)
    suspend(founded)
    founded.define_group("frontier", resources=(M2,), by=JO)

    then, now = founded.known([ALICE], position=known), founded.known([ACME, ALICE, BOB, ALICE])

    assert (known, founded.recorder.position) == (then.position, now.position)
    assert {ALICE, ACME} == set(then.records) == set(now.records)
    assert [0, 1] == [len(k.records[ALICE].suspensions) for k in (then, now)]
    assert [[ACME], []] == [k.records[ALICE].parents(clock.now) for k in (then, now)]
    assert [True, False] == [k.catalogue.is_member(M1, "frontier", clock.now) for k in (then, now)]
    assert [M1] == [entry.resource for entry in then.catalogue.listed_at(clock.now)]
    assert now.position == founded.known([ALICE], position=10_000).position


# --- operators and keys ---------------------------------------------------------------------------


def admin_with_key(ledger: Ledger, operator: str, **changed: Any) -> str:
    """Enroll an administrator with a key; return the id of the key."""
    ledger.enroll(operator, role=Role.ADMIN, by=JO)
    return about(ledger.issue_key(operator, by=JO, **changed))


def test_an_operator_is_enrolled_and_changes_roles(founded: Ledger) -> None:
    """One role at a time; the same again records nothing."""
    first = founded.enroll("mod", role=Role.OFFICER, by=JO)
    same = founded.enroll("mod", role=Role.OFFICER, by=JO)
    other = founded.enroll("mod", role=Role.AUDITOR, by=JO)

    assert ["operator.enrolled", "operator.enrolled", "operator.role_changed"] == [
        done.recorded.type for done in (first, same, other)
    ]
    assert "unchanged" == same.outcome
    refused(founded, ReservedOperator, lambda: founded.enroll("system", role=Role.ADMIN, by=JO))


def test_a_key_is_shown_once_and_kept_as_a_digest(founded: Ledger) -> None:
    """Neither the ledger nor a repeated command holds the key itself."""
    founded.enroll("mod", role=Role.SERVICE, by=JO)

    first = founded.issue_key("mod", label="Laptop", by=JO, once=ONCE)
    again = founded.issue_key("mod", label="Laptop", by=JO, once=ONCE)
    second = founded.issue_key("mod", by=JO)

    assert first.secret is not None
    assert first.secret.startswith(KEY_PREFIX)
    event = first.recorded.event
    assert isinstance(event, OperatorKeyIssued)
    assert hashlib.sha256(first.secret.encode()).hexdigest() == event.sha256
    assert key_digest(first.secret) == event.sha256
    assert (None, first.recorded) == (again.secret, again.recorded)
    assert second.secret not in (None, first.secret)
    states = b"".join(row[5] for row in dump(Path(founded.recorder.store.path))["events"])
    assert first.secret.encode() not in states


def test_a_key_needs_an_operator_and_time_to_live(founded: Ledger) -> None:
    """Nobody enrolled has no key; a key does not begin expired; the ledger itself needs none."""
    founded.enroll("mod", role=Role.SERVICE, by=JO)

    refused(founded, NotFound, lambda: founded.issue_key("nobody", by=JO))
    refused(founded, NotFound, lambda: founded.issue_key("system", by=JO))
    refused(founded, EndInPast, lambda: founded.issue_key("mod", expires_at=T0, by=JO))


def test_a_key_is_revoked_once(founded: Ledger) -> None:
    """A revoked key stays revoked, and another of the operator is not touched."""
    founded.enroll("mod", role=Role.SERVICE, by=JO)
    key, other = (about(founded.issue_key("mod", by=JO)) for _ in range(2))

    assert key == about(founded.revoke_key(key, by=JO))
    refused(founded, KeyAlreadyRevoked, lambda: founded.revoke_key(key, by=JO))
    assert other == about(founded.revoke_key(other, by=JO))


def test_the_last_admin_key_stays(founded: Ledger, clock: SetClock) -> None:
    """Without it nobody could issue keys: neither the key nor its owner's role can go."""
    key = admin_with_key(founded, "root")
    admin_with_key(founded, "keyless")
    founded.revoke_key(about_last_key(founded), by=JO)
    admin_with_key(founded, "expired", expires_at=T0 + timedelta(hours=1))
    clock.move(hours=1)

    refused(founded, LastAdminKey, lambda: founded.revoke_key(key, by=JO))
    refused(founded, LastAdminKey, lambda: founded.enroll("root", role=Role.OFFICER, by=JO))
    assert "unchanged" == founded.enroll("root", role=Role.ADMIN, by=JO).outcome
    assert "recorded" == founded.enroll("expired", role=Role.OFFICER, by=JO).outcome


def about_last_key(ledger: Ledger) -> str:
    """Return the id of the key that was issued last."""
    keys = [e.event.key for e in events(ledger) if isinstance(e.event, OperatorKeyIssued)]
    return keys[-1]


def test_an_admin_key_may_go_when_another_is_usable(founded: Ledger) -> None:
    """A second key of the same administrator or of another is enough."""
    first = admin_with_key(founded, "root")
    second = about(founded.issue_key("root", by=JO))
    founded.revoke_key(first, by=JO)
    refused(founded, LastAdminKey, lambda: founded.revoke_key(second, by=JO))

    third = admin_with_key(founded, "deputy")
    founded.revoke_key(second, by=JO)
    refused(founded, LastAdminKey, lambda: founded.revoke_key(third, by=JO))
    about(founded.issue_key("root", by=JO))
    assert "recorded" == founded.enroll("deputy", role=Role.OFFICER, by=JO).outcome


def test_keys_of_other_roles_may_always_go(founded: Ledger) -> None:
    """Only administration must go on."""
    admin_with_key(founded, "root")
    founded.enroll("mod", role=Role.OFFICER, by=JO)
    key = about(founded.issue_key("mod", by=JO))

    assert "recorded" == founded.revoke_key(key, by=JO).outcome


# --- deciding on what is true ---------------------------------------------------------------------


def test_a_decision_sees_what_another_process_has_recorded(
    founded: Ledger, path: Path, clock: SetClock
) -> None:
    """What was folded before is brought up to date under the lock."""
    other = open_ledger(path, clock)
    suspension = suspend(founded)
    other.revise(suspension, duration="P1Y", reason="x", by=JO)
    founded.revise(suspension, duration="P2Y", reason="x", by=JO)
    other.reinstate(suspension, cause=Cause.EARLY, reason="x", by=JO)

    refused(
        founded,
        AlreadyEnded,
        lambda: founded.reinstate(suspension, cause=Cause.EARLY, reason="x", by=JO),
    )
    other.recorder.store.close()


def test_a_place_that_is_taken_is_a_conflict(founded: Ledger, path: Path) -> None:
    """What the store refuses about an event's place is told as a conflict, and leaves nothing."""
    with closing(sqlite3.connect(path)) as around:
        around.execute(
            "CREATE TRIGGER taken BEFORE INSERT ON events WHEN NEW.stream = 'subject/user:bob' "
            "BEGIN SELECT raise(ABORT, 'taken'); END"
        )
    suspension = suspend(founded)

    refused(founded, Conflict, lambda: founded.register(BOB, properties={}, by=JO, once=ONCE))

    assert "recorded" == founded.register(ALICE, properties={}, by=JO, once=ONCE).outcome
    founded.revise(suspension, duration="P1Y", reason="x", by=JO)


def test_the_cache_of_folded_streams_is_bounded(
    founded: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The streams that were used longest ago are folded anew when they are needed again."""
    monkeypatch.setattr("ledger.application.FOLDED_STREAMS_MAX", 3)
    subjects = [Subject(type="user", id=f"u{number}") for number in range(10)]
    suspensions = [suspend(founded, subject) for subject in subjects]

    for suspension in suspensions:
        founded.revise(suspension, duration="P1Y", reason="x", by=JO)
        assert 3 >= len(founded._folded)

    assert ["suspension.revised"] * 10 == types(founded)[-10:]


def test_a_decision_is_not_taken_on_what_was_rolled_back(founded: Ledger) -> None:
    """After a block that failed as a whole, none of its commands is remembered as done."""
    suspension = suspend(founded)

    def fail() -> None:
        with founded.together():
            founded.reinstate(suspension, cause=Cause.EARLY, reason="x", by=JO)
            refused(
                founded,
                AlreadyEnded,
                lambda: founded.reinstate(suspension, cause=Cause.EARLY, reason="x", by=JO),
            )
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()

    done = founded.reinstate(suspension, cause=Cause.EARLY, reason="x", by=JO)
    assert "recorded" == done.outcome


class Watched(OrderedDict[str, Any]):
    """A cache that notes at each clearing whether another thread could take its turn already."""

    def __init__(self, turn: RLock) -> None:
        super().__init__()
        self._turn = turn
        self.turn_was_free: list[bool] = []

    def clear(self) -> None:
        """Forget everything."""
        with ThreadPoolExecutor(1) as other:
            self.turn_was_free.append(other.submit(self._turn.acquire, blocking=False).result())
        super().clear()


def test_no_other_thread_decides_before_the_cache_is_cleared(founded: Ledger) -> None:
    """Threads that wait for their turn get it only when what was rolled back is forgotten."""
    cache = founded._folded = Watched(founded.recorder.store.turn)

    def fail() -> None:
        with founded.together():
            founded.register(ALICE, properties={}, by=JO)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()

    assert [False] == cache.turn_was_free


# --- failures change nothing ----------------------------------------------------------------------

SUBJECTS = [ALICE, BOB, APP, ACME]


@dataclass(frozen=True)
class Step:
    """One command: what to do, to what, and at which statement the store fails (0: at none)."""

    name: str
    first: int
    second: int
    moved_hours: int
    fails_at: int


@dataclass
class Player:
    """A ledger on which steps are played; the same steps give the same ids and instants."""

    ledger: Ledger
    clock: SetClock
    step_number: int = 0
    drawn: int = 0
    ids: dict[str, list[str]] = field(default_factory=dict)

    def entropy(self, size: int) -> bytes:
        """Draw bytes that depend on the step alone, whatever failed before it."""
        self.drawn += 1
        return hashlib.sha256(f"{self.step_number}/{self.drawn}".encode()).digest()[:size]

    def play(self, number: int, step: Step) -> str:
        """Play a step; return its outcome, or the code of its refusal."""
        try:
            done = self.run(number, step)
        except LedgerError as refusal:
            return refusal.code
        self.learn(done)
        return done.outcome if isinstance(done, Done) else f"served {len(done)}"

    def run(self, number: int, step: Step) -> Done | list[Recorded]:
        """Run the command of a step."""
        self.step_number, self.drawn = number, 0
        self.clock.now = T0 + timedelta(hours=number + step.moved_hours)
        done: Done | list[Recorded] = getattr(self, step.name)(step)
        return done

    def learn(self, done: object) -> None:
        """Take in what a step made, for later ones to name."""
        if isinstance(done, Done) and done.outcome == "recorded":
            self.ids.setdefault(about(done)[:4], []).append(about(done))

    def subject(self, number: int) -> Subject:
        """Pick a subject."""
        return SUBJECTS[number % len(SUBJECTS)]

    def one(self, kind: str, number: int) -> str:
        """Pick an id that was made before; or one that never was."""
        made = self.ids.get(kind, [])
        return made[number % len(made)] if made else f"{kind}none"

    # The steps.

    def register(self, step: Step) -> Done:
        subject, once = self.subject(step.first), Once(f"k{step.second}", f"{step.first}")
        return self.ledger.register(subject, properties={"n": step.second}, by=JO, once=once)

    def link(self, step: Step) -> Done:
        return self.ledger.link(self.subject(step.first), parent=self.subject(step.second), by=JO)

    def unlink(self, step: Step) -> Done:
        return self.ledger.unlink(self.subject(step.first), parent=self.subject(step.second), by=JO)

    def violate(self, step: Step) -> Done:
        return self.ledger.record_violation(
            self.subject(step.first),
            policy="aup",
            clause="fraud",
            occurred_at=T0,
            detected_by="human",
            summary="It happened.",
            by=JO,
        )

    def overturn(self, step: Step) -> Done:
        return self.ledger.overturn(self.one("vio_", step.first), reason="x", by=JO)

    def suspend(self, step: Step) -> Done:
        return self.ledger.suspend(
            self.subject(step.first),
            scope=FRONTIER,
            duration="PT5H",
            grounds=[self.one("vio_", step.first), self.one("vio_", step.second)],
            reason="x",
            reinstatement=list(Ending)[step.second % 2],
            by=JO,
        )

    def revise(self, step: Step) -> Done:
        suspension = self.one("sus_", step.first)
        return self.ledger.revise(suspension, duration=f"P{step.second + 1}D", reason="x", by=JO)

    def reinstate(self, step: Step) -> Done:
        cause = list(Cause)[step.second % len(Cause)]
        suspension = self.one("sus_", step.first)
        return self.ledger.reinstate(suspension, cause=cause, reason="x", by=JO)

    def serve(self, _: Step) -> list[Recorded]:
        return self.ledger.serve_terms(self.ids.get("sus_", []))

    def half_done(self, step: Step) -> Done:
        with self.ledger.together():
            self.violate(step)
            self.overturn(step)
            raise InvalidValue("given up")

    def define(self, step: Step) -> Done:
        resources = (M1, M2)[: step.first % 3]
        return self.ledger.define_group("frontier", resources=resources, by=JO)

    def enroll(self, step: Step) -> Done:
        role = list(Role)[step.second % len(Role)]
        return self.ledger.enroll(f"o{step.first}", role=role, by=JO)


STEPS = (
    "register",
    "link",
    "unlink",
    "violate",
    "overturn",
    "suspend",
    "revise",
    "reinstate",
    "serve",
    "define",
    "enroll",
)
step = st.builds(
    Step,
    name=st.sampled_from(STEPS) | st.sampled_from(["violate", "suspend", "overturn"]),
    first=st.integers(0, 4),
    second=st.integers(0, 4),
    moved_hours=st.integers(-3, 3),
    fails_at=st.sampled_from([0, 0]) | st.integers(1, 60),
)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        yield Path(folder)


def player(path: Path) -> tuple[Player, FailingStore]:
    """Return a player on a new ledger with a policy and a group."""
    clock, store = SetClock(), FailingStore(path)
    ledger = open_ledger(path, clock, store=store)
    ledger.open("test.ledger", log_key=LOG_KEY)
    ledger.publish("aup", title="Acceptable use", clauses=[FRAUD], by=JO)
    ledger.define_group("frontier", resources=(M1,), by=JO)
    played = Player(ledger, clock)
    ledger._entropy = played.entropy
    return played, store


@given(st.lists(st.lists(step, min_size=1, max_size=4), max_size=8))
@settings(max_examples=30, deadline=None)
def test_commands_that_failed_leave_the_ledger_as_if_they_had_not_been(
    folder: Path, batches: list[list[Step]]
) -> None:
    """Commands alone and together, some struck by a fault: the others record the same."""
    with TemporaryDirectory(dir=folder) as place:
        struck, store = player(Path(place) / "struck.db")
        spared, _ = player(Path(place) / "spared.db")
        number = 0
        for batch in batches:
            outcomes: list[tuple[int, Step, str]] = []
            with struck.ledger.together():
                for one in batch:
                    number += 1
                    store.failing_at(one.fails_at)
                    with suppress(*DISK_FAULTS):
                        outcomes.append((number, one, struck.play(number, one)))
                    store.failing_at(0)
            for which, one, outcome in outcomes:
                assert outcome == spared.play(which, one)

        assert dump(Path(place) / "spared.db") == dump(Path(place) / "struck.db")
        assert spared.ids == struck.ids
        check_store(struck.ledger.recorder)
        for played in (struck, spared):
            played.ledger.recorder.store.close()


half_done = st.builds(
    Step,
    name=st.just("half_done"),
    first=st.integers(0, 4),
    second=st.integers(0, 4),
    moved_hours=st.just(0),
    fails_at=st.just(0),
)


@given(st.lists(st.lists(step | step | step | half_done, min_size=1, max_size=12), max_size=3))
@settings(max_examples=10, deadline=None)
def test_commands_that_share_a_transaction_record_what_they_would_alone(
    folder: Path, batches: list[list[Step]]
) -> None:
    """Read ahead, held back, refused or half done among them: events, rows and leaves are alike."""
    with TemporaryDirectory(dir=folder) as place:
        joined, _ = player(Path(place) / "joined.db")
        alone, _ = player(Path(place) / "alone.db")
        number = 0
        for batch in batches:
            numbered = list(enumerate(batch, number + 1))
            number += len(batch)
            foreseen = [
                Foreseen((JO.operator, f"k{one.second}"), [joined.subject(one.first)])
                for one in batch
            ]
            outcomes = joined.ledger.run_together(
                [partial(joined.run, which, one) for which, one in numbered], foreseen
            )
            expected = [
                Ledger._outcome_of(partial(alone.run, which, one)) for which, one in numbered
            ]

            assert list(map(told, expected)) == list(map(told, outcomes))
            for done, again in zip(outcomes, expected, strict=True):
                joined.learn(done)
                alone.learn(again)

        rows = [dump(Path(place) / f"{name}.db") for name in ("alone", "joined")]
        for tables in rows:
            # How the index of words lies on its pages depends on when it was written out. What is
            # in it does not, and is compared with a rebuild below.
            for name in ("trail_words_data", "trail_words_idx"):
                del tables[name]
        assert rows[0] == rows[1]
        check_store(joined.ledger.recorder)
        for played in (joined, alone):
            played.ledger.recorder.store.close()


def told(outcome: object) -> object:
    """Return what a caller is told of an outcome."""
    if isinstance(outcome, LedgerError):
        return outcome.code, str(outcome)
    assert not isinstance(outcome, Exception), repr(outcome)
    return outcome
