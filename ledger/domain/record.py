"""One subject's compliance record: what stands against it, and every decision about it.

A decision is a method that returns the event it leads to, or raises a refusal; it changes nothing.
``evolve`` takes in an event that was recorded. What several refusals would fit is answered in the
order in which the code tests for them, which is that of ``docs/reference/errors.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from ledger.domain.errors import (
    AlreadyEnded,
    AlreadyErased,
    AlreadyLinked,
    AlreadyOverturned,
    AlreadyRequested,
    AlreadyStarted,
    CauseNotAllowed,
    ConflictOfInterest,
    EffectiveInPast,
    EndInPast,
    EndTooFar,
    GroundOfAnother,
    GroundOverturned,
    GroundsRequired,
    HoldAlreadyLifted,
    InvalidValue,
    LegalHold,
    LinkCycle,
    LinkTooDeep,
    NotFound,
    NotLinked,
    OccurredInFuture,
    PolicyNotInForce,
    TermRequired,
    TooManyParents,
    UnknownViolation,
)
from ledger.domain.events import (
    Author,
    ErasureRequested,
    HoldLifted,
    HoldPlaced,
    PersonalDataErased,
    Recorded,
    SubjectLinked,
    SubjectRegistered,
    SubjectReinstated,
    SubjectSuspended,
    SubjectUnlinked,
    SuspensionCancelled,
    SuspensionRevised,
    ViolationOverturned,
    ViolationRecorded,
    WarningIssued,
)
from ledger.domain.history import History
from ledger.domain.policy import Policy, clause_of
from ledger.domain.values import (
    LINK_DEPTH_MAX,
    OCCURRED_AHEAD_MAX,
    PARENTS_MAX,
    PRECAUTION_DAYS_MAX,
    SUSPENSION_YEARS_MAX,
    Basis,
    Cause,
    ClauseRef,
    DetectedBy,
    Disclosure,
    Ending,
    Evidence,
    Properties,
    Resource,
    Scope,
    Subject,
    Unsealed,
    end_after,
    format_instant,
    same_properties,
)

SuspensionState = Literal["scheduled", "in_force", "ended", "cancelled"]


@dataclass(frozen=True, slots=True)
class Violation:
    """A finding against a subject; ``overturned_by`` is the position of the fact that undid it."""

    recorded: Recorded
    event: ViolationRecorded
    overturned_by: int | None = None
    overturned_at: datetime | None = None

    @property
    def stands(self) -> bool:
        """Whether the violation counts."""
        return self.overturned_by is None

    @property
    def clause(self) -> ClauseRef:
        """The clause that was broken, as recorded."""
        return ClauseRef(
            policy=self.event.policy, clause=self.event.clause, category=self.event.category
        )


@dataclass(frozen=True, slots=True)
class Ended:
    """What ended a suspension for good; ``cause`` is ``cancelled`` or that of a reinstatement."""

    position: int
    at: datetime
    cause: str

    def as_json(self) -> dict[str, object]:
        """Return what ended it, and the position of the fact that says so."""
        return {"position": self.position, "at": format_instant(self.at), "cause": self.cause}


@dataclass(frozen=True, slots=True)
class Suspension:
    """A suspension as it stands: what was decided, its end as revised, and what ended it.

    ``end_set_by`` is the position of the fact that set ``ends_at``.
    """

    event: SubjectSuspended
    position: int
    ends_at: datetime | None
    end_set_by: int
    ended: Ended | None = None

    @property
    def id(self) -> str:
        """The suspension's id."""
        return self.event.suspension

    @property
    def closes_at(self) -> datetime | None:
        """The first instant at which it no longer counts, as known; ``None``: none is known.

        On review, the end of the term closes nothing: a person does.
        """
        term = self.ends_at if self.event.reinstatement is Ending.AUTOMATIC else None
        if self.ended is None:
            return term
        return self.ended.at if term is None else min(term, self.ended.at)

    def in_force(self, at: datetime) -> bool:
        """Tell whether it counts at an instant: from ``effective_at`` to before ``closes_at``."""
        closes = self.closes_at
        return self.event.effective_at <= at and (closes is None or at < closes)

    def state(self, at: datetime) -> SuspensionState:
        """Name its state at an instant."""
        if self.in_force(at):
            return "in_force"
        if self.ended is not None and self.ended.cause == "cancelled":
            return "cancelled" if self.ended.at <= at else "scheduled"
        closes = self.closes_at
        return "ended" if closes is not None and closes <= at else "scheduled"

    def waits_for_review(self, at: datetime, *, ground_fell: bool) -> bool:
        """Tell whether a person should look: a ground fell, or an ``on_review`` term is over."""
        if self.state(at) not in ("in_force", "scheduled"):
            return False
        return ground_fell or (self.ends_at is not None and self.ends_at <= at)

    def as_json(self, at: datetime) -> dict[str, object]:
        """Return the suspension as lists and answers show it, with its state at an instant.

        The sealed note is not shown here.
        """
        event = self.event
        return {
            "id": self.id,
            "position": self.position,
            "subject": event.subject.model_dump(),
            "scope": event.scope.model_dump(by_alias=True, exclude_none=True),
            "state": self.state(at),
            "effective_at": format_instant(event.effective_at),
            "ends_at": format_instant(self.ends_at) if self.ends_at else None,
            "duration": event.duration,
            "basis": event.basis,
            "grounds": event.grounds,
            "clauses": [clause.model_dump() for clause in event.clauses],
            "reason": event.reason,
            "reinstatement": event.reinstatement,
            "disclosure": event.disclosure,
            "ended": self.ended.as_json() if self.ended else None,
        }

    def refuse_if_ended(self, now: datetime) -> None:
        """Raise ``AlreadyEnded``, with the fact that ended it, unless scheduled or in force."""
        if self.ended is not None:
            raise AlreadyEnded(
                f"suspension {self.id} ended on {format_instant(self.ended.at)} "
                f"({self.ended.cause}), by event {self.ended.position}",
                ended_by=self.ended.position,
            )
        if self.state(now) == "ended":
            assert self.ends_at is not None
            raise AlreadyEnded(
                f"the term of suspension {self.id} ended by itself on "
                f"{format_instant(self.ends_at)}, as set by event {self.end_set_by}",
                ended_by=self.end_set_by,
            )


def suspended(recorded: Recorded, event: SubjectSuspended) -> Suspension:
    """Return the suspension that a ``subject.suspended`` begins."""
    return Suspension(event, recorded.position, event.ends_at, recorded.position)


@dataclass(frozen=True, slots=True)
class Link:
    """A parent, from when until when."""

    parent: Subject
    since: datetime
    until: datetime | None = None

    def holds(self, at: datetime) -> bool:
        """Tell whether the link stood at an instant."""
        return self.since <= at and (self.until is None or at < self.until)


@dataclass(frozen=True, slots=True)
class Erasure:
    """A request to erase; ``erased_by`` is the position of the fact that confirmed it."""

    requested: Recorded
    erased_by: int | None = None


@dataclass(frozen=True, slots=True)
class Ground:
    """A violation named as a ground; ``violation`` is ``None`` when no such is recorded.

    ``below``: it belongs to the subject or to one below it.
    """

    id: str
    violation: Violation | None
    below: bool = False


@dataclass(slots=True)
class Record:
    """All that is recorded about one subject, folded from its stream by ``evolve`` alone."""

    subject: Subject
    version: int = 0
    properties: History[Properties] = field(default_factory=History)
    registered: Recorded | None = None
    links: list[Link] = field(default_factory=list)
    violations: dict[str, Violation] = field(default_factory=dict)
    warnings: dict[str, Recorded] = field(default_factory=dict)
    suspensions: dict[str, Suspension] = field(default_factory=dict)
    erasures: dict[str, Erasure] = field(default_factory=dict)
    holds: dict[str, bool] = field(default_factory=dict)
    """Every legal hold by its id, and whether it stands."""
    first_recorded_at: datetime | None = None

    @classmethod
    def replay(cls, subject: Subject, events: Iterable[Recorded]) -> Record:
        """Fold the events of the subject's stream."""
        self = cls(subject)
        for recorded in events:
            self.evolve(recorded)
        return self

    def evolve(self, recorded: Recorded) -> None:
        """Take in one more event of the stream, which must be the next."""
        assert recorded.version == self.version + 1, (
            f"{recorded.stream} has a gap at {self.version}"
        )
        self.version = recorded.version
        self.first_recorded_at = self.first_recorded_at or recorded.recorded_at
        at = recorded.recorded_at
        match recorded.event:
            case SubjectRegistered(properties=properties):
                self.properties.set(at, properties)
                self.registered = recorded
            case SubjectLinked(parent=parent):
                self.links.append(Link(parent, at))
            case SubjectUnlinked(parent=parent):
                self.links = [
                    replace(link, until=at)
                    if link.until is None and link.parent == parent
                    else link
                    for link in self.links
                ]
            case ViolationRecorded() as event:
                self.violations[event.violation] = Violation(recorded, event)
            case ViolationOverturned(violation=violation):
                self.violations[violation] = replace(
                    self.violations[violation], overturned_by=recorded.position, overturned_at=at
                )
            case WarningIssued(warning=warning):
                self.warnings[warning] = recorded
            case SubjectSuspended() as event:
                self.suspensions[event.suspension] = suspended(recorded, event)
            case SuspensionRevised(suspension=suspension, ends_at=ends_at):
                self.suspensions[suspension] = replace(
                    self.suspensions[suspension], ends_at=ends_at, end_set_by=recorded.position
                )
            case SuspensionCancelled(suspension=suspension):
                self._end(suspension, Ended(recorded.position, at, "cancelled"))
            case SubjectReinstated(suspension=suspension, cause=cause, effective_at=effective_at):
                self._end(suspension, Ended(recorded.position, effective_at, cause))
            case ErasureRequested(erasure=erasure):
                self.erasures[erasure] = Erasure(recorded)
            case PersonalDataErased(erasure=erasure):
                self.erasures[erasure] = replace(
                    self.erasures[erasure], erased_by=recorded.position
                )
            case HoldPlaced(hold=hold):
                self.holds[hold] = True
            case HoldLifted(hold=hold):
                self.holds[hold] = False
            case _:
                raise AssertionError(f"{recorded.type} is no event of a subject")

    def _end(self, suspension: str, ended: Ended) -> None:
        self.suspensions[suspension] = replace(self.suspensions[suspension], ended=ended)

    # --- what the record says ---------------------------------------------------------------------

    def known(self, at: datetime) -> bool:
        """Tell whether the ledger held any fact about the subject at an instant."""
        return self.first_recorded_at is not None and self.first_recorded_at <= at

    def parents(self, at: datetime) -> list[Subject]:
        """Return the subjects directly above at an instant."""
        return [link.parent for link in self.links if link.holds(at)]

    def suspension(self, suspension: str) -> Suspension:
        """Return one suspension; raises ``NotFound``."""
        if suspension not in self.suspensions:
            raise NotFound(f"no suspension {suspension!r} is recorded")
        return self.suspensions[suspension]

    # --- decisions --------------------------------------------------------------------------------

    def register(self, *, properties: Properties) -> SubjectRegistered | None:
        """Decide to make the subject known; ``None`` when it is, with these properties."""
        event = SubjectRegistered(subject=self.subject, properties=properties)
        latest = self.properties.latest
        if latest is not None and same_properties(latest, event.properties):
            return None
        return event

    def link(
        self, *, parent: Subject, above_parent: Mapping[Subject, int], below: int, now: datetime
    ) -> SubjectLinked:
        """Decide to put the subject below ``parent``.

        ``above_parent`` maps each ancestor of the parent to the longest way up to it, in links;
        ``below`` is the longest chain of links under the subject.
        Raises ``LinkCycle``, ``AlreadyLinked``, ``TooManyParents``, ``LinkTooDeep``.
        """
        if parent == self.subject or self.subject in above_parent:
            raise LinkCycle(
                f"{self.subject.key} already stands above {parent.key}", field="/parent"
            )
        parents = self.parents(now)
        if parent in parents:
            raise AlreadyLinked(f"{self.subject.key} is linked below {parent.key} already")
        if len(parents) >= PARENTS_MAX:
            raise TooManyParents(f"{self.subject.key} has {len(parents)} parents", field="/parent")
        depth = below + 1 + max(above_parent.values(), default=0)
        if depth > LINK_DEPTH_MAX:
            raise LinkTooDeep(
                f"the chain would be {depth} links deep, {LINK_DEPTH_MAX} are allowed",
                field="/parent",
            )
        return SubjectLinked(subject=self.subject, parent=parent)

    def unlink(self, *, parent: Subject, now: datetime) -> SubjectUnlinked:
        """Decide to remove a link. Raises ``NotLinked``."""
        if parent not in self.parents(now):
            raise NotLinked(f"{self.subject.key} is not linked below {parent.key}")
        return SubjectUnlinked(subject=self.subject, parent=parent)

    def record_violation(
        self,
        *,
        violation: str,
        policy: Policy,
        version: int | None,
        clause: str,
        occurred_at: datetime,
        detected_by: DetectedBy,
        summary: str,
        details: str | None,
        evidence: tuple[Evidence, ...],
        resources: tuple[Resource, ...],
        now: datetime,
    ) -> ViolationRecorded:
        """Decide that the subject broke a clause; ``version`` ``None`` takes the one then in force.

        Raises ``OccurredInFuture``, ``UnknownPolicy``, ``PolicyNotInForce``, ``UnknownClause``.
        """
        if occurred_at > now + OCCURRED_AHEAD_MAX:
            raise OccurredInFuture(
                f"{format_instant(occurred_at)} is ahead of the ledger's clock, "
                f"{format_instant(now)}",
                field="/occurred_at",
            )
        named = policy.version(version or 1)
        valid = policy.in_force(occurred_at)
        if valid is None or (version is not None and valid is not named):
            raise PolicyNotInForce(
                f"on {format_instant(occurred_at)} "
                + (f"{valid.about} was in force" if valid else f"no version of {policy.id} was"),
                field="/policy",
            )
        broken = clause_of(valid, clause)
        return ViolationRecorded(
            subject=self.subject,
            violation=violation,
            policy=valid.about,
            clause=broken.id,
            category=broken.category,
            severity=broken.severity,
            occurred_at=occurred_at,
            detected_by=detected_by,
            summary=summary,
            details=None if details is None else Unsealed(details),
            evidence=tuple(item.to_record() for item in evidence),
            resources=resources,
        )

    def overturn(self, *, violation: str, reason: str) -> ViolationOverturned:
        """Decide that a violation was found wrong. Raises ``NotFound``, ``AlreadyOverturned``."""
        if violation not in self.violations:
            raise NotFound(f"no violation {violation!r} is recorded")
        by = self.violations[violation].overturned_by
        if by is not None:
            raise AlreadyOverturned(
                f"violation {violation} was overturned by event {by}", overturned_by=by
            )
        return ViolationOverturned(subject=self.subject, violation=violation, reason=reason)

    def warn(self, *, warning: str, grounds: Sequence[Ground], reason: str) -> WarningIssued:
        """Decide to warn the subject. Raises ``GroundOverturned``, ``GroundOfAnother``."""
        self._check_grounds(grounds)
        return WarningIssued(
            subject=self.subject,
            warning=warning,
            grounds=tuple(ground.id for ground in grounds),
            clauses=_clauses(grounds),
            reason=reason,
        )

    def suspend(
        self,
        *,
        suspension: str,
        scope: Scope,
        duration: str | None,
        ends_at: datetime | None,
        indefinite: bool,
        effective_at: datetime | None,
        basis: Basis,
        grounds: Sequence[Ground],
        reason: str,
        note: str | None,
        reinstatement: Ending,
        disclosure: Disclosure,
        now: datetime,
    ) -> SubjectSuspended:
        """Decide to refuse a scope to the subject. Suspensions may overlap; each stands alone.

        Raises ``TermRequired``, ``EndTooFar``, ``EffectiveInPast``, ``EndInPast``,
        ``GroundsRequired``, ``GroundOverturned``, ``GroundOfAnother``.
        """
        start = effective_at or now
        end = _end_of_term(start, duration, ends_at, indefinite=indefinite)
        if start < now:
            raise EffectiveInPast(
                f"{format_instant(start)} is before now, {format_instant(now)}",
                field="/effective_at",
            )
        if end is not None and end <= start:
            raise EndInPast("the end must be later than the start", field="/ends_at")
        _check_precaution(basis, start, end)
        if not grounds and basis is Basis.VIOLATIONS:
            raise GroundsRequired("no violation is named", field="/grounds")
        self._check_grounds(grounds)
        return SubjectSuspended(
            subject=self.subject,
            suspension=suspension,
            scope=scope,
            effective_at=start,
            ends_at=end,
            duration=duration,
            basis=basis,
            grounds=tuple(ground.id for ground in grounds),
            clauses=_clauses(grounds),
            reason=reason,
            note=None if note is None else Unsealed(note),
            reinstatement=reinstatement,
            disclosure=disclosure,
        )

    def _check_grounds(self, grounds: Sequence[Ground]) -> None:
        for number, ground in enumerate(grounds):
            violation = ground.violation
            if violation is None:
                raise UnknownViolation(
                    f"no violation {ground.id!r} is recorded", field=f"/grounds/{number}"
                )
            if not violation.stands:
                raise GroundOverturned(
                    f"violation {ground.id} was overturned", field=f"/grounds/{number}"
                )
            if not ground.below:
                raise GroundOfAnother(
                    f"violation {violation.event.violation} belongs to "
                    f"{violation.event.subject.key}, which is not {self.subject.key} or below it",
                    field=f"/grounds/{number}",
                )

    def revise(
        self,
        *,
        suspension: str,
        duration: str | None,
        ends_at: datetime | None,
        indefinite: bool,
        reason: str,
        now: datetime,
    ) -> SuspensionRevised:
        """Decide to move the end of a suspension; a ``duration`` counts from its start.

        Raises ``NotFound``, ``AlreadyEnded``, ``TermRequired``, ``EndTooFar``, ``EndInPast``.
        """
        current = self.suspension(suspension)
        current.refuse_if_ended(now)
        start = current.event.effective_at
        end = _end_of_term(start, duration, ends_at, indefinite=indefinite)
        if end is not None and end <= max(now, start):
            raise EndInPast(
                f"{format_instant(end)} is not after now and after the start", field="/ends_at"
            )
        _check_precaution(current.event.basis, start, end)
        return SuspensionRevised(
            subject=self.subject,
            suspension=suspension,
            ends_at=end,
            duration=duration,
            previous_ends_at=current.ends_at,
            reason=reason,
        )

    def cancel(self, *, suspension: str, reason: str, now: datetime) -> SuspensionCancelled:
        """Decide to take a suspension back before it begins.

        Raises ``NotFound``, ``AlreadyEnded``, ``AlreadyStarted``.
        """
        current = self.suspension(suspension)
        current.refuse_if_ended(now)
        if current.event.effective_at <= now:
            raise AlreadyStarted(
                f"suspension {suspension} is in force since "
                f"{format_instant(current.event.effective_at)}"
            )
        return SuspensionCancelled(subject=self.subject, suspension=suspension, reason=reason)

    def reinstate(
        self,
        *,
        reinstatement: str,
        suspension: str,
        cause: Cause,
        reason: str,
        effective_at: datetime | None,
        stands: Callable[[str], bool],
        now: datetime,
    ) -> SubjectReinstated:
        """Decide that a person ends a suspension that is scheduled or in force.

        ``effective_at`` may lie in the past where the suspension should not have held (``error``,
        ``violation_overturned``, ``legal_order``): a correction of what was in force, known from
        now.
        Raises ``NotFound``, ``AlreadyEnded``, ``CauseNotAllowed``, ``InvalidValue``.
        """
        current = self.suspension(suspension)
        current.refuse_if_ended(now)
        if cause is Cause.APPEAL_UPHELD:
            raise CauseNotAllowed("an appeal is upheld by deciding the appeal", field="/cause")
        if cause is Cause.VIOLATION_OVERTURNED and all(map(stands, current.event.grounds)):
            raise CauseNotAllowed("every ground of this suspension stands", field="/cause")
        if cause is Cause.TERM_SERVED and (current.ends_at is None or now < current.ends_at):
            raise CauseNotAllowed("the term of this suspension is not over", field="/cause")
        if effective_at is not None and effective_at != now:
            if cause in (Cause.EARLY, Cause.TERM_SERVED):
                raise InvalidValue(
                    f"{cause} takes effect when it is recorded", field="/effective_at"
                )
            if effective_at > now:
                raise InvalidValue("a reinstatement cannot begin later", field="/effective_at")
        return SubjectReinstated(
            subject=self.subject,
            reinstatement=reinstatement,
            suspension=suspension,
            cause=cause,
            effective_at=effective_at or now,
            reason=reason,
        )

    def serve_term(
        self, *, suspension: str, reinstatement: str, now: datetime
    ) -> SubjectReinstated | None:
        """Decide to record that a term ended by itself; ``None``: it did not, or is recorded."""
        current = self.suspensions.get(suspension)
        if (
            current is None
            or current.ended is not None
            or current.event.reinstatement is not Ending.AUTOMATIC
            or current.ends_at is None
            or now < current.ends_at
        ):
            return None
        return SubjectReinstated(
            subject=self.subject,
            reinstatement=reinstatement,
            suspension=suspension,
            cause=Cause.TERM_SERVED,
            effective_at=current.ends_at,
        )

    def lose_grounds(
        self,
        *,
        suspension: str,
        reinstatement: str,
        stands: Callable[[str], bool],
        now: datetime,
    ) -> SubjectReinstated | None:
        """Decide to end a suspension that rests on overturned violations only; else ``None``."""
        current = self.suspension(suspension)
        if current.state(now) not in ("scheduled", "in_force"):
            return None
        if current.event.basis is not Basis.VIOLATIONS or any(map(stands, current.event.grounds)):
            return None
        return SubjectReinstated(
            subject=self.subject,
            reinstatement=reinstatement,
            suspension=suspension,
            cause=Cause.VIOLATION_OVERTURNED,
            effective_at=now,
        )

    # --- erasing ----------------------------------------------------------------------------------

    def place_hold(self, *, hold: str, reason: str) -> HoldPlaced:
        """Decide that nothing about the subject may be erased. Holds add up; each stands alone."""
        return HoldPlaced(subject=self.subject, hold=hold, reason=reason)

    def lift_hold(self, *, hold: str) -> HoldLifted:
        """Decide that a hold no longer stands. Raises ``NotFound``, ``HoldAlreadyLifted``."""
        if hold not in self.holds:
            raise NotFound(f"no hold {hold!r} is recorded")
        if not self.holds[hold]:
            raise HoldAlreadyLifted(f"hold {hold} was lifted before")
        return HoldLifted(subject=self.subject, hold=hold)

    def request_erasure(self, *, erasure: str, reason: str) -> ErasureRequested:
        """Decide to ask for an erasure. Raises ``LegalHold``, ``AlreadyRequested``."""
        self._refuse_if_held()
        for id_, other in self.erasures.items():
            if other.erased_by is None:
                raise AlreadyRequested(
                    f"erasure {id_} of {self.subject.key} waits for its confirmation", erasure=id_
                )
        return ErasureRequested(subject=self.subject, erasure=erasure, reason=reason)

    def confirm_erasure(
        self, *, erasure: str, keys: Sequence[str], by: Author
    ) -> PersonalDataErased:
        """Decide that the subject's keys are destroyed.

        Raises ``NotFound``, ``AlreadyErased``, ``LegalHold``, ``ConflictOfInterest``.
        """
        if erasure not in self.erasures:
            raise NotFound(f"no erasure {erasure!r} is recorded")
        current = self.erasures[erasure]
        if current.erased_by is not None:
            raise AlreadyErased(
                f"erasure {erasure} was confirmed by event {current.erased_by}",
                erased_by=current.erased_by,
            )
        self._refuse_if_held()
        asked = current.requested.author
        same_human = by.on_behalf_of is not None and by.on_behalf_of == asked.on_behalf_of
        if by.operator == asked.operator or same_human:
            who = by.on_behalf_of if same_human else by.operator
            raise ConflictOfInterest(f"{who} requested erasure {erasure} and cannot confirm it")
        return PersonalDataErased(subject=self.subject, erasure=erasure, keys=tuple(keys))

    def _refuse_if_held(self) -> None:
        standing = [hold for hold, stands in self.holds.items() if stands]
        if standing:
            raise LegalHold(
                f"a legal hold stands on {self.subject.key}: {', '.join(standing)}", holds=standing
            )


def _clauses(grounds: Sequence[Ground]) -> tuple[ClauseRef, ...]:
    broken = [ground.violation.clause for ground in grounds if ground.violation is not None]
    return tuple(dict.fromkeys(broken))


def _end_of_term(
    start: datetime, duration: str | None, ends_at: datetime | None, *, indefinite: bool
) -> datetime | None:
    """Return the end of a term that is given in exactly one of three ways; ``None``: no end."""
    given = [duration is not None, ends_at is not None, indefinite].count(True)
    if given != 1:
        raise TermRequired(
            "none of duration, ends_at and indefinite is given"
            if given == 0
            else "more than one of duration, ends_at and indefinite is given",
            field="/duration",
        )
    end = end_after(start, duration) if duration is not None else ends_at
    # Most terms are far shorter, and a year has at least 365 days: the calendar is asked only then.
    may_be_too_long = end is not None and end - start > timedelta(days=365 * SUSPENSION_YEARS_MAX)
    if end and may_be_too_long and end > end_after(start, f"P{SUSPENSION_YEARS_MAX}Y"):
        raise EndTooFar(
            f"{format_instant(end)} is more than {SUSPENSION_YEARS_MAX} years after the start",
            field="/duration" if duration is not None else "/ends_at",
        )
    return end


def _check_precaution(basis: Basis, start: datetime, end: datetime | None) -> None:
    longest = timedelta(days=PRECAUTION_DAYS_MAX)
    if basis is Basis.PRECAUTIONARY and (end is None or end > start + longest):
        raise EndTooFar(
            f"a precautionary suspension must end within {PRECAUTION_DAYS_MAX} days of its start",
            field="/duration",
        )


def longest_ways_up(
    subject: Subject, parents_of: Callable[[Subject], Iterable[Subject]]
) -> dict[Subject, int]:
    """Map each ancestor of ``subject`` to the number of links on the longest way up to it.

    Links form a DAG of depth at most 8, so each round climbs one link and the rounds end.
    """
    ways: dict[Subject, int] = {}
    level = {subject}
    for height in range(1, LINK_DEPTH_MAX + 1):
        level = {parent for below in level for parent in parents_of(below)}
        if not level:
            break
        ways.update(dict.fromkeys(level, height))
    return ways
