"""What is decided about subjects: the commands of reporters, officers and approvers, and batches.

Each is sent under an idempotency key, so that repeating it after a lost answer records nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import httpx
from pydantic_core import to_json

from ledger.client.answers import BatchAnswer, Page, Recorded
from ledger.client.call import (
    ListMethod,
    Paged,
    Parts,
    SubjectLike,
    When,
    body_of,
    command,
    described,
    subject_of,
)
from ledger.domain.values import (
    Basis,
    Cause,
    DetectedBy,
    Disclosure,
    Ending,
    Evidence,
    Scope,
)

LINES_TOGETHER_MAX: Final = 500  # of a batch: more might wait for answers that nobody takes yet

ScopeLike = Scope | Mapping[str, Any]
EvidenceLike = Evidence | Mapping[str, Any]


def _subjects(many: Iterable[SubjectLike]) -> list[dict[str, str]]:
    return [subject_of(each) for each in many]


class Decisions:
    """Commands about subjects."""

    @command("PUT /v1/subjects", Recorded)
    def register(
        self, subject: SubjectLike, properties: Mapping[str, object] | None = None
    ) -> Parts:
        """Make a subject known, or set its properties anew."""
        return Parts(body=body_of(subject=subject_of(subject), properties=properties))

    @command("POST /v1/links", Recorded)
    def link(self, subject: SubjectLike, parent: SubjectLike) -> Parts:
        """Put a subject below a parent: what is refused to the parent is refused to it."""
        return Parts(body=body_of(subject=subject_of(subject), parent=subject_of(parent)))

    @command("DELETE /v1/links", Recorded)
    def unlink(self, subject: SubjectLike, parent: SubjectLike) -> Parts:
        """Remove a link."""
        return Parts(body=body_of(subject=subject_of(subject), parent=subject_of(parent)))

    @command("POST /v1/violations", Recorded)
    def record_violation(
        self,
        subject: SubjectLike,
        *,
        policy: str,
        clause: str,
        occurred_at: When,
        detected_by: DetectedBy,
        summary: str,
        details: str | None = None,
        evidence: Sequence[EvidenceLike] = (),
        resources: Iterable[SubjectLike] = (),
    ) -> Parts:
        """Record that a subject broke a clause of a policy."""
        return Parts(
            body=body_of(
                subject=subject_of(subject),
                policy=policy,
                clause=clause,
                occurred_at=occurred_at,
                detected_by=detected_by,
                summary=summary,
                details=details,
                evidence=list(evidence),
                resources=_subjects(resources),
            )
        )

    @command("POST /v1/violations/{id}/overturn", Recorded)
    def overturn(self, violation: str, *, reason: str) -> Parts:
        """Undo a violation; suspensions that rest on overturned violations only end with it."""
        return Parts({"id": violation}, body=body_of(reason=reason))

    @command("POST /v1/warnings", Recorded)
    def warn(self, subject: SubjectLike, *, reason: str, grounds: Sequence[str] = ()) -> Parts:
        """Warn a subject; nothing is refused by it."""
        return Parts(
            body=body_of(subject=subject_of(subject), reason=reason, grounds=list(grounds))
        )

    @command("POST /v1/suspensions", Recorded)
    def suspend(
        self,
        subject: SubjectLike,
        *,
        scope: ScopeLike,
        reason: str,
        duration: str | None = None,
        ends_at: When | None = None,
        indefinite: bool = False,
        effective_at: When | None = None,
        grounds: Sequence[str] = (),
        basis: Basis | None = None,
        note: str | None = None,
        reinstatement: Ending | None = None,
        disclosure: Disclosure | None = None,
    ) -> Parts:
        """Refuse a scope to a subject and all below it; give one of the three ways to end."""
        return Parts(
            body=body_of(
                subject=subject_of(subject),
                scope=scope,
                reason=reason,
                duration=duration,
                ends_at=ends_at,
                indefinite=indefinite or None,
                effective_at=effective_at,
                grounds=list(grounds),
                basis=basis,
                note=note,
                reinstatement=reinstatement,
                disclosure=disclosure,
            )
        )

    @command("POST /v1/suspensions/{id}/revision", Recorded)
    def revise(
        self,
        suspension: str,
        *,
        reason: str,
        duration: str | None = None,
        ends_at: When | None = None,
        indefinite: bool = False,
    ) -> Parts:
        """Move the end of a suspension that is scheduled or in force."""
        return Parts(
            {"id": suspension},
            body=body_of(
                reason=reason, duration=duration, ends_at=ends_at, indefinite=indefinite or None
            ),
        )

    @command("POST /v1/suspensions/{id}/cancellation", Recorded)
    def cancel(self, suspension: str, *, reason: str) -> Parts:
        """Take back a suspension that has not begun."""
        return Parts({"id": suspension}, body=body_of(reason=reason))

    @command("POST /v1/reinstatements", Recorded)
    def reinstate(
        self, suspension: str, *, cause: Cause | str, reason: str, effective_at: When | None = None
    ) -> Parts:
        """End one suspension; others of the same subject stay as they are."""
        return Parts(
            body=body_of(
                suspension=suspension, cause=cause, reason=reason, effective_at=effective_at
            )
        )

    def _batch(self, lines: Iterable[Mapping[str, Any]]) -> Parts:
        """Send many commands, 500 to a request, and list what each line led to.

        A line has ``method``, ``path``, ``body`` and ``idempotency_key``; it gets a key when it has
        none. Keep the lines to send them again, should the connection fail for good.
        """
        return Parts(body=[{"idempotency_key": uuid.uuid4().hex, **line} for line in lines])

    batch: ListMethod[[Iterable[Mapping[str, Any]]], BatchAnswer]


def _batches(route: str, parts: Parts, done: int = 0) -> Paged[BatchAnswer]:
    """Return the first of the requests in which the lines of a batch are sent, and the next."""
    lines = parts.body
    assert isinstance(lines, list)
    now, later = lines[:LINES_TOGETHER_MAX], lines[LINES_TOGETHER_MAX:]

    def read(response: httpx.Response) -> Page[BatchAnswer]:
        answers = [BatchAnswer.model_validate_json(line) for line in response.content.splitlines()]
        return Page[BatchAnswer](
            items=[each.model_copy(update={"line": each.line + done}) for each in answers],
            next=str(done + len(now)) if later else None,
            position=max((each.position or 0 for each in answers), default=0),
        )

    def following(_: Page[BatchAnswer]) -> Paged[BatchAnswer] | None:
        return _batches(route, Parts(body=later), done + len(now)) if later else None

    body = b"".join(to_json(line, by_alias=True) + b"\n" for line in now)
    sent = described(route, Parts(body=body), read, wrote=lambda page: page.position, waits=False)
    return Paged(sent, following)


Decisions.batch = ListMethod("POST /v1/batch", Decisions._batch, _batches)  # noqa: SLF001
