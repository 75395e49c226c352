"""``given(facts).when(decision).then(fact)``: how the tests of the rules are written.

Facts are recorded one minute apart from the start of 2026, unless an instant stands before them; a
decision is taken at ``NOW``, a noon in the spring after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from ledger.domain.errors import LedgerError
from ledger.domain.events import (
    Author,
    Clause,
    Event,
    PolicyPublished,
    Recorded,
    SubjectReinstated,
    SubjectSuspended,
    ViolationOverturned,
    ViolationRecorded,
)
from ledger.domain.policy import Policy
from ledger.domain.record import Record
from ledger.domain.values import (
    Basis,
    Cause,
    Ending,
    Resource,
    Scope,
    Severity,
    Subject,
    parse_instant,
)

T = TypeVar("T")

ALICE = Subject(type="user", id="alice")
BOB = Subject(type="user", id="bob")
APP = Subject(type="application", id="app")
ACME = Subject(type="organization", id="acme")
MODEL = Resource(type="model", id="m1")
SCOPE = Scope.model_validate({"resources": [{"group": "frontier"}]})
FRAUD = Clause(
    id="fraud", title="Fraud", text="Do not deceive people.", category="fraud", severity="high"
)

START = parse_instant("2026-01-01T00:00:00Z")
NOW = parse_instant("2026-04-01T12:00:00Z")
TICK = timedelta(microseconds=1)
DAY = timedelta(days=1)

Fact = Event | tuple[datetime, Event]


def instant(text: str) -> datetime:
    """Read an instant; a day alone means its first instant in UTC."""
    return parse_instant(text if "T" in text else f"{text}T00:00:00Z")


def recorded(*facts: Fact) -> list[Recorded]:
    """Give facts their places in a ledger."""
    at, versions, ledger = START, dict[str, int](), list[Recorded]()
    for position, fact in enumerate(facts, start=1):
        at, event = (at + timedelta(minutes=1), fact) if isinstance(fact, Event) else fact
        version = versions[event.stream] = versions.get(event.stream, 0) + 1
        ledger.append(Recorded(position, event.stream, version, at, Author("jo"), None, event))
    return ledger


# --- facts in short -------------------------------------------------------------------------------


def violation(id_: str = "vio_1", subject: Subject = ALICE, **changed: object) -> ViolationRecorded:
    """Return a violation of the clause on fraud."""
    members: dict[str, object] = {
        "subject": subject,
        "violation": id_,
        "policy": "aup@1",
        "clause": "fraud",
        "category": "fraud",
        "severity": "high",
        "occurred_at": START,
        "detected_by": "human",
        "summary": "Sold forged invoices.",
    }
    return ViolationRecorded.model_validate(members | changed)


def overturned(id_: str = "vio_1", subject: Subject = ALICE) -> ViolationOverturned:
    """Return the end of a violation."""
    return ViolationOverturned(subject=subject, violation=id_, reason="Mistaken.")


def suspension(
    id_: str = "sus_1",
    *,
    subject: Subject = ALICE,
    start: datetime = START,
    end: datetime | None = None,
    scope: Scope = SCOPE,
    grounds: Sequence[str] = (),
    basis: Basis = Basis.VIOLATIONS,
    ending: Ending = Ending.AUTOMATIC,
) -> SubjectSuspended:
    """Return a suspension, by default from the start of 2026 without an end."""
    return SubjectSuspended(
        subject=subject,
        suspension=id_,
        scope=scope,
        effective_at=start,
        ends_at=end,
        basis=basis,
        grounds=tuple(grounds),
        reason="Fraud.",
        reinstatement=ending,
        disclosure="notified",
    )


def reinstated(
    id_: str = "sus_1", *, subject: Subject = ALICE, at: datetime = NOW, cause: Cause = Cause.EARLY
) -> SubjectReinstated:
    """Return the end of a suspension."""
    return SubjectReinstated(
        subject=subject,
        reinstatement=f"rei_{id_}",
        suspension=id_,
        cause=cause,
        effective_at=at,
        reason="Enough.",
    )


def published(
    version: int = 1, *, at: datetime = START, clauses: Sequence[Clause] = (FRAUD,)
) -> PolicyPublished:
    """Return a version of the policy ``aup``, in force from ``at``."""
    return PolicyPublished(
        policy="aup",
        version=version,
        title="Acceptable use",
        clauses=tuple(clauses),
        effective_at=at,
    )


def clause(id_: str, severity: Severity = "low") -> Clause:
    """Return a clause of that id and category."""
    return Clause(id=id_, title=id_.title(), text=f"No {id_}.", category=id_, severity=severity)


# --- given, when, then ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What a decision led to: its answer, or its refusal."""

    answer: object = None
    refusal: LedgerError | None = None

    def then(self, expected: object) -> None:
        """Expect the decision to answer just this."""
        assert (expected, None) == (self.answer, self.refusal)

    def refused(self, refusal: type[LedgerError], *, field: str | None = None) -> LedgerError:
        """Expect this refusal, on this member; return it."""
        assert refusal is type(self.refusal), f"answered {self}"
        assert self.refusal is not None
        assert field == self.refusal.field
        return self.refusal


@dataclass(frozen=True)
class Given(Generic[T]):
    """What was recorded before a decision."""

    folded: T

    def when(self, decide: Callable[[T], object]) -> Outcome:
        """Take the decision, twice: deciding changes nothing, so the second answer is the first."""
        first, second = self._decided(decide), self._decided(decide)

        assert first.answer == second.answer
        assert repr(first.refusal) == repr(second.refusal)
        return first

    def _decided(self, decide: Callable[[T], object]) -> Outcome:
        try:
            return Outcome(answer=decide(self.folded))
        except LedgerError as refusal:
            return Outcome(refusal=refusal)


def given(*facts: Fact, subject: Subject = ALICE) -> Given[Record]:
    """Fold the facts about a subject."""
    return Given(Record.replay(subject, recorded(*facts)))


def given_policy(*facts: Fact) -> Given[Policy]:
    """Fold the versions of the policy ``aup``."""
    return Given(Policy.replay("aup", recorded(*facts)))
