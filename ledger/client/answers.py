"""What does the ledger answer? Frozen values, one for each shape.

Words of the domain (subjects, scopes, instants) are its own types. A member that a newer ledger
adds is kept and passed on; words that may get new values, like a cause, are read as text.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from ledger.domain.values import ClauseRef, Instant, Resource, Scope, Subject

T = TypeVar("T")


class Answer(BaseModel):
    """An answer, or a part of one."""

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)

    def as_json(self) -> dict[str, Any]:
        """Return it as the ledger wrote it."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class Page(Answer, Generic[T]):
    """A page of a list; ``next`` is the cursor of the next one, ``None`` on the last."""

    items: list[T]
    next: str | None = None
    position: int = 0
    """The newest position that the page takes into account."""


# --- events and commands --------------------------------------------------------------------------


class Event(Answer):
    """An event; ``sentence`` is what a person reads."""

    position: int
    type: str
    schema_: int = Field(alias="schema")
    stream: str
    version: int
    recorded_at: Instant
    operator: str
    on_behalf_of: str | None
    request_id: str | None
    caused_by: int | None
    data: dict[str, Any]
    sentence: str


class Recorded(Answer):
    """What a command led to: the position of its event, the id of what it made, the event."""

    position: int
    id: str
    leaf_hash: str
    event: Event


class KeyIssued(Recorded):
    """An issued key, with the key itself, which is shown only here."""

    key: str | None = None


class Count(Answer):
    """How many events have one value."""

    value: str
    count: int


class Counts(Answer):
    """How many events there are, in all and by each property, most frequent first."""

    total: int
    type: list[Count]
    operator: list[Count]
    month: list[Count]
    category: list[Count]
    policy: list[Count]
    clause: list[Count]
    resource: list[Count]
    subject_type: list[Count]
    position: int


class BatchAnswer(Answer):
    """What one line of a batch led to: the answer of its route, or the problem."""

    line: int
    status: int
    position: int | None = None
    id: str | None = None
    leaf_hash: str | None = None
    event: Event | None = None
    key: str | None = None
    problem: dict[str, Any] | None = None


# --- access ---------------------------------------------------------------------------------------


class CountingSuspension(Answer):
    """A suspension that counts against a request, with what its subject may be told."""

    id: str
    effective_at: Instant
    ends_at: Instant | None
    clause: str | None
    reason: str
    appeal: str | None = None


class DecisionContext(Answer):
    """Why, and as of when. A yes has ``position`` alone."""

    position: int | None = None
    as_of: Instant | None = None
    reason_user: dict[str, str] = Field(default_factory=dict)
    reason_admin: dict[str, str] = Field(default_factory=dict)
    reasons: list[str] = Field(default_factory=list)
    suspensions: list[CountingSuspension] = Field(default_factory=list)
    until: Instant | None = None
    decision_id: str | None = None
    log: str | None = None
    error: dict[str, Any] | None = None


class Decision(Answer):
    """May this subject do this with this resource now?"""

    decision: bool
    context: DecisionContext = DecisionContext()


class Action(Answer):
    """Something that can be done with a resource."""

    name: str


class ResourceAccess(Answer):
    """Whether a listed resource may be used: with every action, and with each; if not, why."""

    resource: Resource
    allowed: bool
    actions: dict[str, bool]
    suspensions: list[str]
    until: Instant | None


class Ended(Answer):
    """What ended a suspension: the fact that says so, from when, and why."""

    position: int
    at: Instant
    cause: str


class SuspensionInForce(Answer):
    """A suspension as it stands, or stood."""

    id: str
    position: int
    subject: Subject
    scope: Scope
    state: str
    effective_at: Instant
    ends_at: Instant | None
    duration: str | None
    basis: str
    grounds: list[str]
    clauses: list[ClauseRef]
    reason: str
    reinstatement: str
    disclosure: str
    ended: Ended | None


class Access(Answer):
    """What a subject may use at ``at``, as known at ``known_position``."""

    subject: Subject
    at: Instant
    known_position: int
    position: int
    suspensions: list[SuspensionInForce]
    resources: list[ResourceAccess]


# --- facts ----------------------------------------------------------------------------------------


class Suspension(SuspensionInForce):
    """A suspension, whether it waits for a person, and who decided it when.

    ``note`` is there when one suspension is asked for: sealed, erased, or its text if revealed.
    """

    review: bool
    operator: str
    recorded_at: Instant


class Reinstatement(Answer):
    """The fact that ended a suspension; ``reason`` is ``None`` when the term ended by itself."""

    id: str
    position: int
    suspension: str
    subject: Subject
    cause: str
    effective_at: Instant
    reason: str | None
    operator: str
    recorded_at: Instant


class Overturned(Answer):
    """Which fact undid a violation, when, and why."""

    position: int
    at: Instant
    reason: str


class ShownEvidence(Answer):
    """A piece of evidence; what is personal is sealed, erased, or revealed."""

    uri: str | dict[str, Any]
    sha256: str | dict[str, Any]
    personal: bool


class Violation(Answer):
    """A violation as it stands, or stood.

    ``details`` is there when one violation is asked for: sealed, erased, or its text if revealed.
    """

    id: str
    position: int
    subject: Subject
    policy: str
    clause: str
    category: str
    severity: str
    occurred_at: Instant
    detected_by: str
    summary: str
    evidence: list[ShownEvidence]
    resources: list[Resource]
    state: str
    overturned: Overturned | None
    operator: str
    recorded_at: Instant


class IssuedWarning(Answer):
    """A warning."""

    id: str
    position: int
    subject: Subject
    grounds: list[str]
    clauses: list[ClauseRef]
    reason: str
    operator: str
    recorded_at: Instant


class Link(Answer):
    """Who stands directly above or below, and since when."""

    subject: Subject
    since: Instant


class Links(Answer):
    """Who stood directly above and below."""

    parents: list[Link]
    children: list[Link]


class Record(Answer):
    """The whole record of a subject as it stood at ``at``, as known at ``known_position``."""

    subject: Subject
    at: Instant
    known_position: int
    position: int
    standing: str
    properties: dict[str, Any]
    links: Links
    violations: list[Violation]
    warnings: list[IssuedWarning]
    suspensions: list[Suspension]
    reinstatements: list[Reinstatement]


class Done(Answer):
    """The fact that ended a hold."""

    position: int
    at: Instant
    operator: str


class ErasureDone(Done):
    """The fact that confirmed an erasure, with the fingerprints of the keys it destroyed."""

    keys: list[str]


class Erasure(Answer):
    """An erasure: requested, or done."""

    id: str
    position: int
    subject: Subject
    reason: str
    operator: str
    recorded_at: Instant
    state: str
    erased: ErasureDone | None


class Hold(Answer):
    """A legal hold: it stands, or was lifted."""

    id: str
    position: int
    subject: Subject
    reason: str
    operator: str
    recorded_at: Instant
    state: str
    lifted: Done | None


# --- catalogue and operators ----------------------------------------------------------------------


class Clause(Answer):
    """One rule of a policy."""

    id: str
    title: str
    text: str
    category: str
    severity: str


class PolicyVersion(Answer):
    """One version of a policy, for ever as it was published."""

    policy: str
    version: int
    title: str
    effective_at: Instant
    clauses: list[Clause]
    position: int
    recorded_at: Instant
    operator: str


class Policy(Answer):
    """A policy: the number of its newest version, and every version."""

    id: str
    version: int
    versions: list[PolicyVersion]


class ListedResource(Answer):
    """A resource's entry in the catalogue, and the groups that hold it."""

    resource: Resource
    properties: dict[str, Any]
    actions: list[str]
    groups: list[str]


class Group(Answer):
    """A group and its members."""

    id: str
    resources: list[Resource]


class Key(Answer):
    """A key, without the key itself or its digest."""

    id: str
    label: str | None
    issued_at: Instant
    expires_at: Instant | None
    revoked_at: Instant | None


class Operator(Answer):
    """An operator, its role and its keys."""

    id: str
    role: str
    keys: list[Key]


# --- the log and the service ----------------------------------------------------------------------


class Inclusion(Answer):
    """That an event is in the tree of a size: the way up from its leaf to the root."""

    position: int
    leaf_index: int
    size: int
    leaf_hash: str
    root: str
    hashes: list[str]


class Consistency(Answer):
    """That the tree of one size is the beginning of that of another."""

    from_: int = Field(alias="from")
    to: int
    from_root: str
    to_root: str
    hashes: list[str]


class SignedCheckpoint(Answer):
    """The newest checkpoint that was signed: how many events it covers, and since when."""

    size: int
    signed_at: Instant


class Status(Answer):
    """What is in force, what falls due, what waits for a person, and how the log stands."""

    at: Instant
    known_position: int
    position: int
    recorded_at: Instant | None
    in_force: int
    restricted_subjects: int
    scheduled: int
    due_until: Instant
    due: int
    review: int
    checkpoint: SignedCheckpoint | None


class Witness(Answer):
    """How one of the ledger's witnesses stands."""

    name: str
    state: str
    detail: str | None
    cosigned_size: int
    behind: int


class Ready(Answer):
    """A process that is fit to answer."""

    status: str
    position: int
    lag: int
    restricted_subjects: int
    clock_behind_s: float
    log: str
    checkpoint: int
    decisions_dropped: int
    vault_keys_lost: int
    witnesses: list[Witness]
