"""The facts: every type of event, what its members mean, and the sentence that a person reads.

An event is never edited and its bytes are kept for ever. A changed meaning is a new type; a changed
shape is a new schema version with an upcaster; a wrong fact is corrected by another fact.
``tests/golden`` keeps the bytes of every type and schema version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, ClassVar, Final, Self

from pydantic import Field, model_validator

from ledger.domain.values import (
    ACTIONS_MAX,
    CLAUSES_MAX,
    EVIDENCE_MAX,
    GROUNDS_MAX,
    GROUP_RESOURCES_MAX,
    Basis,
    Cause,
    ClauseRef,
    ClauseText,
    DataKeyId,
    DetectedBy,
    Disclosure,
    Duration,
    Ending,
    Identifier,
    Instant,
    LogKeyText,
    Name,
    Properties,
    Reason,
    RecordedEvidence,
    Resource,
    Role,
    Scope,
    Sealable,
    Sealed,
    Severity,
    Sha256,
    Subject,
    Summary,
    Title,
    Unsealed,
    Value,
    format_instant,
)

SYSTEM: Final = "system"
"""The operator id under which the ledger itself acts: opening, and terms that end by themselves."""


def _day(instant: datetime) -> str:
    return format_instant(instant)[:16].replace("T", " ") + " UTC"


class Event(Value):
    """A fact. Subclasses set ``TYPE`` (stable for ever) and ``SCHEMA`` (version of their shape).

    ``SEALED`` names the members that are sealed, or hold sealed ones.
    """

    TYPE: ClassVar[str]
    SCHEMA: ClassVar[int] = 1
    SEALED: ClassVar[tuple[str, ...]] = ()

    @property
    def stream(self) -> str:
        """The stream that this fact belongs to, like ``subject/user:alice``."""
        raise NotImplementedError

    @property
    def about(self) -> str | None:
        """The id that a command's answer names: of the thing that this fact made or changed."""
        return None

    def sentence(self) -> str:
        """What happened, in words that follow the operator's name: ``suspended user:alice …``."""
        raise NotImplementedError

    def sealed_fields(self) -> Iterator[tuple[str, Sealed | Unsealed]]:
        """Yield what is sealed, or is to be, with its path: ``details``, ``evidence/0/uri``."""
        for name in self.SEALED:
            member = getattr(self, name)
            if isinstance(member, tuple):
                for number, item in enumerate(member):
                    for inner in type(item).model_fields:
                        value = getattr(item, inner)
                        if isinstance(value, Sealed | Unsealed):
                            yield f"{name}/{number}/{inner}", value
            elif member is not None:
                yield name, member

    def sealed_by(self, seal: Callable[[str, str], Sealed]) -> Self:
        """Return the fact with every text sealed; ``seal`` is called with path and text."""
        changed: dict[str, object] = {}
        for path, value in self.sealed_fields():
            assert isinstance(value, Unsealed), f"{path} is sealed already"
            name, *inner = path.split("/")
            if inner:
                number, member = int(inner[0]), inner[1]
                items = list(changed.get(name, getattr(self, name)))  # type: ignore[call-overload]
                update = {member: seal(path, value.text)}
                items[number] = items[number].model_copy(update=update)
                changed[name] = tuple(items)
            else:
                changed[name] = seal(path, value.text)
        return self.model_copy(update=changed)


# --- subjects -------------------------------------------------------------------------------------


class SubjectEvent(Event):
    """A fact about one subject."""

    subject: Subject

    @property
    def stream(self) -> str:
        return f"subject/{self.subject.key}"


class SubjectRegistered(SubjectEvent):
    """A subject was made known, or its properties were set anew.

    Properties stay in clear and are used by conditions; they are not for personal data.
    """

    TYPE = "subject.registered"
    properties: Properties = Field(default_factory=dict)

    @property
    def about(self) -> str:
        return self.subject.key

    def sentence(self) -> str:
        names = ", ".join(sorted(self.properties)) or "no properties"
        return f"registered {self.subject.key} with {names}"


class SubjectLinked(SubjectEvent):
    """A subject was put below a parent: what is refused to the parent is refused to the subject."""

    TYPE = "subject.linked"
    parent: Subject

    @property
    def about(self) -> str:
        return self.subject.key

    def sentence(self) -> str:
        return f"linked {self.subject.key} below {self.parent.key}"


class SubjectUnlinked(SubjectEvent):
    """A link was removed; from here on the two stand separately."""

    TYPE = "subject.unlinked"
    parent: Subject

    @property
    def about(self) -> str:
        return self.subject.key

    def sentence(self) -> str:
        return f"unlinked {self.subject.key} from {self.parent.key}"


class ViolationRecorded(SubjectEvent):
    """A subject was found to have broken a clause of a policy version. Stands until overturned."""

    TYPE = "violation.recorded"
    SEALED = ("details", "evidence")
    violation: Identifier
    policy: str = Field(description="The policy version, like acceptable-use@3.")
    clause: Name
    category: Name = Field(description="The clause's category when this was recorded.")
    severity: Severity = Field(description="The clause's severity when this was recorded.")
    occurred_at: Instant = Field(description="When the conduct is said to have happened.")
    detected_by: DetectedBy
    summary: Summary
    details: Sealable | None = None
    evidence: Annotated[tuple[RecordedEvidence, ...], Field(max_length=EVIDENCE_MAX)] = ()
    resources: Annotated[tuple[Resource, ...], Field(max_length=GROUP_RESOURCES_MAX)] = ()

    @property
    def about(self) -> str:
        return self.violation

    def sentence(self) -> str:
        return (
            f"recorded that {self.subject.key} broke {self.policy} {self.clause} "
            f"({self.category}, {self.severity}) on {_day(self.occurred_at)}: {self.summary}"
        )


class ViolationOverturned(SubjectEvent):
    """A violation was found wrong; it counts for nothing from here on."""

    TYPE = "violation.overturned"
    violation: Identifier
    reason: Reason

    @property
    def about(self) -> str:
        return self.violation

    def sentence(self) -> str:
        return f"overturned violation {self.violation} of {self.subject.key}: {self.reason}"


class WarningIssued(SubjectEvent):
    """A subject was warned; nothing is refused by it."""

    TYPE = "warning.issued"
    warning: Identifier
    grounds: Annotated[tuple[Identifier, ...], Field(max_length=GROUNDS_MAX)] = ()
    clauses: Annotated[tuple[ClauseRef, ...], Field(max_length=GROUNDS_MAX)] = ()
    reason: Reason

    @property
    def about(self) -> str:
        return self.warning

    def sentence(self) -> str:
        return f"warned {self.subject.key}: {self.reason}"


class SubjectSuspended(SubjectEvent):
    """A scope is refused to a subject and all below, from ``effective_at`` until ``ends_at``."""

    TYPE = "subject.suspended"
    SEALED = ("note",)
    suspension: Identifier
    scope: Scope
    effective_at: Instant
    ends_at: Instant | None = Field(description="The first instant after the term; null: no end.")
    duration: Duration | None = Field(
        default=None, description="The term as decided; ends_at is computed from it, once."
    )
    basis: Basis
    grounds: Annotated[tuple[Identifier, ...], Field(max_length=GROUNDS_MAX)] = ()
    clauses: Annotated[tuple[ClauseRef, ...], Field(max_length=GROUNDS_MAX)] = Field(
        default=(), description="The clauses that the grounds broke, as recorded with them."
    )
    reason: Reason = Field(description="Shown to the subject.")
    note: Sealable | None = None
    reinstatement: Ending = Field(description="Whether the term ends by itself or on review.")
    disclosure: Disclosure

    @property
    def about(self) -> str:
        return self.suspension

    def sentence(self) -> str:
        until = f"until {_day(self.ends_at)}" if self.ends_at else "without an end"
        for_what = ", ".join(dict.fromkeys(clause.label for clause in self.clauses))
        return (
            f"suspended {self.subject.key} from {self.scope.label}, "
            f"from {_day(self.effective_at)} {until}"
            f"{f', for {for_what}' if for_what else f', basis {self.basis}'}: {self.reason}"
        )


class SuspensionRevised(SubjectEvent):
    """The end of a suspension was moved."""

    TYPE = "suspension.revised"
    suspension: Identifier
    ends_at: Instant | None
    duration: Duration | None = None
    previous_ends_at: Instant | None
    reason: Reason

    @property
    def about(self) -> str:
        return self.suspension

    def sentence(self) -> str:
        old = _day(self.previous_ends_at) if self.previous_ends_at else "no end"
        new = _day(self.ends_at) if self.ends_at else "no end"
        return (
            f"moved the end of suspension {self.suspension} of {self.subject.key} "
            f"from {old} to {new}: {self.reason}"
        )


class SuspensionCancelled(SubjectEvent):
    """A suspension was taken back before it began."""

    TYPE = "suspension.cancelled"
    suspension: Identifier
    reason: Reason

    @property
    def about(self) -> str:
        return self.suspension

    def sentence(self) -> str:
        return f"cancelled suspension {self.suspension} of {self.subject.key}: {self.reason}"


class SubjectReinstated(SubjectEvent):
    """One suspension ended. It no longer counts from ``effective_at`` on."""

    TYPE = "subject.reinstated"
    reinstatement: Identifier
    suspension: Identifier
    cause: Cause
    effective_at: Instant
    reason: Reason | None = None

    @property
    def about(self) -> str:
        return self.reinstatement

    def sentence(self) -> str:
        cause = self.cause.replace("_", " ")
        return (
            f"reinstated {self.subject.key}: suspension {self.suspension} ended on "
            f"{_day(self.effective_at)} ({cause}){f': {self.reason}' if self.reason else ''}"
        )


class ErasureRequested(SubjectEvent):
    """Somebody asked that what is sealed about a subject be erased; an approver must confirm it."""

    TYPE = "erasure.requested"
    erasure: Identifier
    reason: Reason

    @property
    def about(self) -> str:
        return self.erasure

    def sentence(self) -> str:
        return f"requested to erase what is sealed about {self.subject.key}: {self.reason}"


class PersonalDataErased(SubjectEvent):
    """The keys of a subject were destroyed: nobody can read what they sealed, ever again."""

    TYPE = "personal_data.erased"
    erasure: Identifier
    keys: tuple[DataKeyId, ...] = Field(
        description="The fingerprints of the destroyed keys; none when nothing was sealed."
    )

    @property
    def about(self) -> str:
        return self.erasure

    def sentence(self) -> str:
        if not self.keys:
            return f"confirmed erasure {self.erasure}: nothing was sealed about {self.subject.key}"
        count = f"{len(self.keys)} key{'s' if len(self.keys) > 1 else ''}"
        return f"erased what was sealed about {self.subject.key}, destroying {count}"


class HoldPlaced(SubjectEvent):
    """A legal hold: while it stands, nothing about the subject is erased."""

    TYPE = "hold.placed"
    hold: Identifier
    reason: Reason

    @property
    def about(self) -> str:
        return self.hold

    def sentence(self) -> str:
        return f"placed a legal hold on {self.subject.key}: {self.reason}"


class HoldLifted(SubjectEvent):
    """A legal hold no longer stands; others may."""

    TYPE = "hold.lifted"
    hold: Identifier

    @property
    def about(self) -> str:
        return self.hold

    def sentence(self) -> str:
        return f"lifted the legal hold {self.hold} on {self.subject.key}"


# --- policies, resources, groups ------------------------------------------------------------------


class Clause(Value):
    """One rule of a policy."""

    id: Name = Field(examples=["fraud"])
    title: Title = Field(examples=["Fraud"])
    text: ClauseText = Field(examples=["Do not use the models to deceive people for gain."])
    category: Name = Field(examples=["fraud"])
    severity: Severity = Field(examples=["high"])


class PolicyPublished(Event):
    """A version of a policy came into force; it is never changed, only followed by the next."""

    TYPE = "policy.published"
    policy: Name
    version: int = Field(ge=1)
    title: Title
    clauses: Annotated[tuple[Clause, ...], Field(min_length=1, max_length=CLAUSES_MAX)]
    effective_at: Instant = Field(description="From when conduct is judged by this version.")

    @property
    def stream(self) -> str:
        return f"policy/{self.policy}"

    @property
    def about(self) -> str:
        return f"{self.policy}@{self.version}"

    def sentence(self) -> str:
        return (
            f"published {self.about}, {self.title}, with {len(self.clauses)} "
            f"clause{'s' if len(self.clauses) > 1 else ''}, in force from {_day(self.effective_at)}"
        )


class ResourceListed(Event):
    """A resource was put into the catalogue, or its entry was set anew."""

    TYPE = "resource.listed"
    resource: Resource
    properties: Properties = Field(default_factory=dict)
    actions: Annotated[tuple[Name, ...], Field(min_length=1, max_length=ACTIONS_MAX)]

    @property
    def stream(self) -> str:
        return f"resource/{self.resource.key}"

    @property
    def about(self) -> str:
        return self.resource.key

    def sentence(self) -> str:
        return f"listed {self.resource.key} with the actions {', '.join(self.actions)}"


class GroupDefined(Event):
    """The members of a group were set."""

    TYPE = "group.defined"
    group: Name
    resources: Annotated[tuple[Resource, ...], Field(max_length=GROUP_RESOURCES_MAX)]

    @property
    def stream(self) -> str:
        return f"group/{self.group}"

    @property
    def about(self) -> str:
        return self.group

    def sentence(self) -> str:
        members = ", ".join(resource.key for resource in self.resources) or "nothing"
        return f"defined group:{self.group} as {members}"


# --- operators and the ledger itself --------------------------------------------------------------


class OperatorEvent(Event):
    """A fact about one operator."""

    operator: Identifier = Field(description="The operator that the fact is about.")

    @property
    def stream(self) -> str:
        return f"operator/{self.operator}"

    @property
    def about(self) -> str:
        return self.operator


class OperatorEnrolled(OperatorEvent):
    """A person or machine may act on the ledger, in one role."""

    TYPE = "operator.enrolled"
    role: Role

    def sentence(self) -> str:
        return f"enrolled operator {self.operator} as {self.role}"


class OperatorRoleChanged(OperatorEvent):
    """An operator acts in another role from here on."""

    TYPE = "operator.role_changed"
    role: Role
    previous: Role

    def sentence(self) -> str:
        return f"changed the role of operator {self.operator} from {self.previous} to {self.role}"


class OperatorKeyIssued(OperatorEvent):
    """An operator got a key. Only its SHA-256 is recorded: the key has 256 random bits."""

    TYPE = "operator.key_issued"
    key: Identifier = Field(description="The id of the key, not the key.")
    sha256: Sha256
    expires_at: Instant | None = None
    label: Title | None = None

    @property
    def about(self) -> str:
        return self.key

    def sentence(self) -> str:
        until = f", valid until {_day(self.expires_at)}" if self.expires_at else ""
        return f"issued key {self.key} to operator {self.operator}{until}"


class OperatorKeyRevoked(OperatorEvent):
    """A key is refused from here on."""

    TYPE = "operator.key_revoked"
    key: Identifier

    @property
    def about(self) -> str:
        return self.key

    def sentence(self) -> str:
        return f"revoked key {self.key} of operator {self.operator}"


class LedgerOpened(Event):
    """The ledger began; always position 1."""

    TYPE = "ledger.opened"
    origin: Title = Field(description="The name by which this ledger is known to others.")
    log_key: LogKeyText = Field(
        description="The public key that signs its transparency log, as a C2SP verifier key."
    )

    @property
    def stream(self) -> str:
        return "ledger"

    @property
    def about(self) -> str:
        return self.origin

    def sentence(self) -> str:
        return f"opened the ledger {self.origin}"


class LedgerFact(Event):
    """What happens to the ledger as a whole."""

    @property
    def stream(self) -> str:
        return "ledger"

    @property
    def about(self) -> str | None:
        return None


class LogKeyRotated(LedgerFact):
    """Another key signs the transparency log, from the tree that holds this event on."""

    TYPE = "log.key_rotated"
    log_key: LogKeyText = Field(description="The new public key, as a C2SP verifier key.")

    def sentence(self) -> str:
        return f"gave the log the new key {'+'.join(self.log_key.split('+')[:2])}"


class LedgerRecovered(LedgerFact):
    """The ledger goes on without events that a signed checkpoint commits to: they are lost."""

    TYPE = "ledger.recovered"
    lost_from: int = Field(ge=1, description="The first position whose event was lost.")
    checkpoint_size: int = Field(
        ge=1, description="How many events the checkpoint covers; the last lost position."
    )
    checkpoint_root: Sha256 = Field(description="The root of the checkpoint's tree.")

    def sentence(self) -> str:
        return (
            f"recovered the ledger without events {self.lost_from} to {self.checkpoint_size}, "
            "which a signed checkpoint commits to and which are lost"
        )


class Exported(Value):
    """What left the ledger in a file: which list, in which form, and of all of it what."""

    view: str = Field(description="Which list: `events`, `suspensions` and so on.")
    format: str = Field(description="The form of the file, like `csv`.")
    filters: tuple[tuple[str, str], ...] = Field(
        description="Name and value of each filter, sorted; a name may stand there again."
    )
    position: int = Field(ge=0, description="The position at which the list was read.")


class RecordDisclosed(LedgerFact):
    """Somebody was shown what is sealed in an event, or took a list with them as a file.

    Recorded before it was shown. Either ``fields`` says what, or ``export``.
    """

    TYPE = "record.disclosed"
    subject: Subject | None = Field(
        default=None, description="Whose data was shown; null when an export is not of one subject."
    )
    shown_position: int | None = Field(
        default=None, ge=1, description="The event whose sealed members were shown."
    )
    shown_stream: str | None = Field(default=None, description="The stream of that event.")
    fields: tuple[str, ...] = Field(
        default=(), description="The paths of the members that were shown."
    )
    export: Exported | None = Field(default=None, description="What was exported.")

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        opened = (self.shown_position, self.shown_stream, self.fields or None)
        if self.export is None and None in (*opened, self.subject):
            raise ValueError("must name the event and the members that were shown, or an export")
        if self.export is not None and any(opened):
            raise ValueError("must name either the members that were shown, or an export")
        return self

    @property
    def about(self) -> str | None:
        return None if self.shown_position is None else str(self.shown_position)

    def sentence(self) -> str:
        if self.export is None:
            assert self.subject is not None
            return (
                f"was shown {', '.join(self.fields)} of event {self.shown_position} "
                f"about {self.subject.key}"
            )
        asked = ", ".join(f"{name} {value}" for name, value in self.export.filters)
        return (
            f"exported {self.export.view}{f' with {asked}' if asked else ''} "
            f"as known at position {self.export.position}, as {self.export.format}"
        )


EVENT_TYPES: Final[dict[tuple[str, int], type[Event]]] = {
    (event.TYPE, event.SCHEMA): event
    for event in (
        SubjectRegistered,
        SubjectLinked,
        SubjectUnlinked,
        ViolationRecorded,
        ViolationOverturned,
        WarningIssued,
        SubjectSuspended,
        SuspensionRevised,
        SuspensionCancelled,
        SubjectReinstated,
        ErasureRequested,
        PersonalDataErased,
        HoldPlaced,
        HoldLifted,
        PolicyPublished,
        ResourceListed,
        GroupDefined,
        OperatorEnrolled,
        OperatorRoleChanged,
        OperatorKeyIssued,
        OperatorKeyRevoked,
        LedgerOpened,
        LedgerRecovered,
        LogKeyRotated,
        RecordDisclosed,
    )
}
"""The closed registry of facts, by type and schema version. What is not here is never imported."""


# --- the envelope ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Author:
    """Who acts: the operator, the human behind a machine (``user:jane``), and the request's id."""

    operator: str
    on_behalf_of: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """A decided fact that is not recorded yet; ``caused_by`` is the position that led to it."""

    event: Event
    author: Author
    caused_by: int | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """A fact with its place in the ledger.

    ``position`` counts all facts from 1 without a gap, ``version`` those of the stream from 1.
    ``recorded_at`` is never earlier than that of the position before.
    """

    position: int
    stream: str
    version: int
    recorded_at: datetime
    author: Author
    caused_by: int | None
    event: Event

    @property
    def type(self) -> str:
        """The stable type of the event."""
        return self.event.TYPE

    @property
    def sentence(self) -> str:
        """Who did what, as a person reads it."""
        for_whom = self.author.on_behalf_of
        who = f"{self.author.operator} (for {for_whom})" if for_whom else self.author.operator
        return f"{who} {self.event.sentence()}"
