"""The provider's rulebook: immutable versions of clauses, and which version judges conduct when."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime

from ledger.domain.errors import EffectiveInPast, InvalidValue, UnknownClause, UnknownPolicy
from ledger.domain.events import Clause, PolicyPublished, Recorded
from ledger.domain.values import format_instant

_REF = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,63})(?:@([1-9][0-9]{0,8}))?\Z")


def parse_policy_ref(ref: str) -> tuple[str, int | None]:
    """Read ``acceptable-use@3`` as policy and version; without ``@`` the version is ``None``."""
    match = _REF.match(ref)
    if not match:
        raise InvalidValue(
            f"{ref!r} must name a policy version, like acceptable-use@3", field="/policy"
        )
    return match[1], int(match[2]) if match[2] else None


def clause_of(version: PolicyPublished, clause: str) -> Clause:
    """Return a clause of a policy version; raises ``UnknownClause``."""
    for candidate in version.clauses:
        if candidate.id == clause:
            return candidate
    known = ", ".join(c.id for c in version.clauses)
    raise UnknownClause(
        f"{version.about} has no clause {clause!r}; it has {known}", field="/clause"
    )


class Policy:
    """One policy: its versions from 1 without a gap, folded from its stream."""

    def __init__(self, policy: str) -> None:
        self.id = policy
        self.published: list[Recorded] = []
        self.versions: list[PolicyPublished] = []

    @classmethod
    def replay(cls, policy: str, events: Iterable[Recorded]) -> Policy:
        """Fold the events of the policy's stream."""
        self = cls(policy)
        for recorded in events:
            self.evolve(recorded)
        return self

    def evolve(self, recorded: Recorded) -> None:
        """Take in one more event of the stream."""
        assert isinstance(recorded.event, PolicyPublished)
        self.published.append(recorded)
        self.versions.append(recorded.event)

    def version(self, number: int) -> PolicyPublished:
        """Return one version; raises ``UnknownPolicy``."""
        if not self.versions:
            raise UnknownPolicy(f"no policy {self.id!r} was published", field="/policy")
        if not 1 <= number <= len(self.versions):
            raise UnknownPolicy(
                f"{self.id}@{number} was never published; the newest is "
                f"{self.id}@{len(self.versions)}",
                field="/policy",
            )
        return self.versions[number - 1]

    def in_force(self, at: datetime) -> PolicyPublished | None:
        """Return the version by which conduct at ``at`` is judged: the newest in force by then."""
        for version in reversed(self.versions):
            if version.effective_at <= at:
                return version
        return None

    def publish(
        self, *, title: str, clauses: Sequence[Clause], effective_at: datetime | None, now: datetime
    ) -> PolicyPublished | None:
        """Decide to publish the next version; ``None`` when it would say what the newest says.

        Only the first version may be in force from before now: a rulebook is older than its ledger,
        but no later version may judge what was done under the one before.
        Raises ``InvalidValue``, ``EffectiveInPast``.
        """
        ids = [clause.id for clause in clauses]
        for number, clause_id in enumerate(ids):
            if clause_id in ids[:number]:
                raise InvalidValue(
                    f"two clauses have the id {clause_id!r}", field=f"/clauses/{number}/id"
                )
        if self.versions:
            newest = self.versions[-1]
            same_words = (newest.title, newest.clauses) == (title, tuple(clauses))
            if same_words and effective_at in (None, newest.effective_at):
                return None
            earliest = max(now, newest.effective_at)
            if effective_at is not None and effective_at < earliest:
                raise EffectiveInPast(
                    f"version {len(self.versions) + 1} can be in force from "
                    f"{format_instant(earliest)} at the earliest",
                    field="/effective_at",
                )
            effective_at = effective_at or earliest
        return PolicyPublished(
            policy=self.id,
            version=len(self.versions) + 1,
            title=title,
            clauses=tuple(clauses),
            effective_at=effective_at or now,
        )
