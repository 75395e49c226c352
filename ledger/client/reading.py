"""What is recorded: one thing by its id, lists with filters, and the record of a subject.

The filters of a list are keywords, all optional; all that are given must hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict, Unpack

from ledger.client.answers import (
    Access,
    Consistency,
    Counts,
    Erasure,
    Event,
    Hold,
    Inclusion,
    IssuedWarning,
    Ready,
    Record,
    Reinstatement,
    Status,
    Suspension,
    Violation,
)
from ledger.client.call import Parts, SubjectLike, When, call, listing, query_of


class Times(TypedDict, total=False):
    """What was in force ``at``, as it was known then: at an instant or at a position."""

    at: When | None
    known_at: When | None
    known_position: int | None


class Paging(TypedDict, total=False):
    """How a list is gone through: ``page_size`` items with each request, in this order."""

    page_size: int | None
    order: Literal["newest", "oldest"] | None


class Facts(Times, Paging, total=False):
    """The filters that every list of facts has; recorded from, included, to, excluded."""

    subject: SubjectLike | None
    operator: str | None
    recorded_from: When | None
    recorded_to: When | None


class TrailFilters(Times, total=False):
    """The filters of the trail."""

    subject: SubjectLike | None
    operator: str | None
    recorded_from: When | None
    recorded_to: When | None
    types: Sequence[str] | None
    subject_type: str | None
    on_behalf_of: SubjectLike | None
    policy: str | None
    clause: str | None
    category: str | None
    resource: SubjectLike | None
    q: str | None


class Counted(TrailFilters, total=False):
    """The filters of the trail, and whether each property is counted without its own filter."""

    alternatives: bool | None


class Events(TrailFilters, Paging, total=False):
    """The filters of the trail, and how it is gone through."""


class Violations(Facts, total=False):
    """The filters of violations."""

    state: Literal["stands", "overturned"] | None
    policy: str | None
    clause: str | None
    category: str | None
    model: SubjectLike | None
    detected_by: str | None


class Warnings(Facts, total=False):
    """The filters of warnings."""

    policy: str | None
    category: str | None


class Suspensions(Facts, total=False):
    """The filters of suspensions; ``review``: whether they wait for a person."""

    state: Literal["scheduled", "in_force", "ended", "cancelled"] | None
    review: bool | None
    in_force: When | None
    model: SubjectLike | None
    policy: str | None
    category: str | None


class Reinstatements(Facts, total=False):
    """The filters of reinstatements."""

    suspension: str | None
    cause: str | None


class Requests(Times, Paging, total=False):
    """The filters of erasures and holds."""

    subject: SubjectLike | None
    state: str | None


class Shown(Times, total=False):
    """Of one thing: as of when, and whether what is sealed is shown, which is recorded."""

    reveal: bool | None


class Reading:
    """What auditors, officers and approvers read."""

    # --- the trail --------------------------------------------------------------------------------

    @listing("GET /v1/events", Event)
    def events(self, **asked: Unpack[Events]) -> Parts:
        """List events, newest first, each with the sentence that a person reads."""
        return Parts(query=query_of(asked))

    @call("GET /v1/events/counts", Counts)
    def counts(self, **asked: Unpack[Counted]) -> Parts:
        """Count the events that the same filters list, by type, operator and so on."""
        return Parts(query=query_of(asked))

    @call("GET /v1/events/{position}", Event)
    def event(self, position: int, *, reveal: bool | None = None) -> Parts:
        """Return one event."""
        return Parts({"position": position}, query_of({"reveal": reveal}))

    @call("GET /v1/events/{position}/proof", str)
    def proof(self, position: int) -> Parts:
        """Return the file that proves an event offline (C2SP tlog-proof)."""
        return Parts({"position": position})

    # --- subjects ---------------------------------------------------------------------------------

    @call("GET /v1/access", Access)
    def access(self, subject: SubjectLike, **asked: Unpack[Times]) -> Parts:
        """Return what a subject may use, and what is in force on it."""
        return Parts(query=query_of({"subject": subject, **asked}))

    @call("GET /v1/subjects/record", Record)
    def record(self, subject: SubjectLike, **asked: Unpack[Times]) -> Parts:
        """Return the whole record of a subject, the newest 1,000 facts of each kind."""
        return Parts(query=query_of({"subject": subject, **asked}))

    # --- facts ------------------------------------------------------------------------------------

    @listing("GET /v1/violations", Violation)
    def violations(self, **asked: Unpack[Violations]) -> Parts:
        """List violations."""
        return Parts(query=query_of(asked))

    @call("GET /v1/violations/{id}", Violation)
    def violation(self, id: str, **asked: Unpack[Shown]) -> Parts:
        """Return one violation, with its details."""
        return Parts({"id": id}, query_of(asked))

    @listing("GET /v1/warnings", IssuedWarning)
    def warnings(self, **asked: Unpack[Warnings]) -> Parts:
        """List warnings."""
        return Parts(query=query_of(asked))

    @call("GET /v1/warnings/{id}", IssuedWarning)
    def warning(self, id: str, **asked: Unpack[Times]) -> Parts:
        """Return one warning."""
        return Parts({"id": id}, query_of(asked))

    @listing("GET /v1/suspensions", Suspension)
    def suspensions(self, **asked: Unpack[Suspensions]) -> Parts:
        """List suspensions."""
        return Parts(query=query_of(asked))

    @call("GET /v1/suspensions/{id}", Suspension)
    def suspension(self, id: str, **asked: Unpack[Shown]) -> Parts:
        """Return one suspension, with its note."""
        return Parts({"id": id}, query_of(asked))

    @listing("GET /v1/reinstatements", Reinstatement)
    def reinstatements(self, **asked: Unpack[Reinstatements]) -> Parts:
        """List reinstatements."""
        return Parts(query=query_of(asked))

    @call("GET /v1/reinstatements/{id}", Reinstatement)
    def reinstatement(self, id: str, **asked: Unpack[Times]) -> Parts:
        """Return one reinstatement."""
        return Parts({"id": id}, query_of(asked))

    @listing("GET /v1/erasures", Erasure)
    def erasures(self, **asked: Unpack[Requests]) -> Parts:
        """List erasures."""
        return Parts(query=query_of(asked))

    @call("GET /v1/erasures/{id}", Erasure)
    def erasure(self, id: str, **asked: Unpack[Times]) -> Parts:
        """Return one erasure."""
        return Parts({"id": id}, query_of(asked))

    @listing("GET /v1/holds", Hold)
    def holds(self, **asked: Unpack[Requests]) -> Parts:
        """List legal holds."""
        return Parts(query=query_of(asked))

    @call("GET /v1/holds/{id}", Hold)
    def hold(self, id: str, **asked: Unpack[Times]) -> Parts:
        """Return one legal hold."""
        return Parts({"id": id}, query_of(asked))

    # --- the log and the service ------------------------------------------------------------------

    @call("GET /v1/status", Status)
    def status(self, **asked: Unpack[Times]) -> Parts:
        """Return what is in force, falls due and waits for a person, and how the log stands."""
        return Parts(query=query_of(asked))

    @call("GET /log/checkpoint", str, waits=False)
    def checkpoint(self) -> Parts:
        """Return the newest signed checkpoint."""
        return Parts()

    @call("GET /log/tile/{path}", bytes)
    def tile(self, path: str) -> Parts:
        """Return a tile of hashes (``0/000``) or a bundle of entries (``entries/000``)."""
        return Parts({"path": path})

    @call("GET /v1/log/inclusion", Inclusion)
    def inclusion(self, position: int, *, size: int | None = None) -> Parts:
        """Return the proof that an event is in the tree of a size."""
        return Parts(query=query_of({"position": position, "size": size}))

    @call("GET /v1/log/consistency", Consistency)
    def consistency(self, from_: int, to: int | None = None) -> Parts:
        """Return the proof that the tree of one size is the beginning of that of another."""
        return Parts(query=query_of({"from_": from_, "to": to}))

    @call("GET /readyz", Ready, waits=False)
    def ready(self) -> Parts:
        """Return whether the process that answers is fit to."""
        return Parts()
