"""Makes large ledgers quickly: events written straight into the table, projections by rebuild.

The mix is that of a year of enforcement: of ten events six are violations, two suspensions, one a
warning, one a reinstatement; every suspension has violations of its own subject as its grounds.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from ledger.domain.events import (
    Author,
    Draft,
    Event,
    SubjectReinstated,
    SubjectSuspended,
    ViolationRecorded,
    WarningIssued,
)
from ledger.domain.values import (
    Basis,
    Cause,
    ClauseRef,
    Ending,
    Resource,
    ResourcesOfGroup,
    Scope,
    Subject,
    format_instant,
    sortable_id,
)
from ledger.service.settings import Settings
from ledger.service.wiring import Service, build
from ledger.store.codec import encode
from ledger.store.replay import rebuild

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
AUTHOR: Final = Author("detector", None, "6f1d2c3b4a5968778695a4b3c2d1e0f0")
MODELS: Final = ("atlas-3", "cipher-2", "vesper-1")
SCOPE: Final = Scope(resources=(ResourcesOfGroup(group="frontier"),))
CLAUSE: Final = ClauseRef(policy="acceptable-use@1", clause="fraud", category="fraud")


def fill(database: Path, events: int, *, suspended: int | None = None) -> Service:
    """Fill a ledger with about ``events`` more events; returns the service, which is not started.

    With ``suspended`` every event is instead a suspension in force, each of another subject.
    """
    return fill_with(database, _suspensions(suspended) if suspended is not None else _year(events))


def fill_with(
    database: Path,
    made: Iterable[tuple[Event, int]],
    *,
    authors: Sequence[Author] = (AUTHOR,),
    every: timedelta = timedelta(microseconds=1),
) -> Service:
    """Fill a ledger in a file with these events; returns the service, which is not started."""
    service = build(Settings(database_url=f"sqlite:///{database}"))
    append(service, made, authors=authors, every=every)
    return service


def append(
    service: Service,
    made: Iterable[tuple[Event, int]],
    *,
    authors: Sequence[Author] = (AUTHOR,),
    every: timedelta = timedelta(microseconds=1),
) -> None:
    """Append these events, each with its version, to a ledger on either store.

    They are recorded by the ``authors`` in turn, one ``every`` so often.
    """
    if not service.recorder.position:
        service.open()
    members = tuple(Resource(type="model", id=id_) for id_ in MODELS)
    service.ledger.define_group("frontier", resources=members, by=AUTHOR)
    with service.recorder.transaction(), service.recorder.store.holding() as c:
        position, start = service.recorder.position, service.recorder.now()
        for number, (event, version) in enumerate(made, start=position + 1):
            at = format_instant(start + every * (number - position))
            state = encode(Draft(event, authors[number % len(authors)]))
            row = (number, event.stream, version, event.TYPE, at, state)
            c.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", row)
            service.log.append(c, *row, appended={})
    rebuild(service.recorder, repair=True)


def _id(prefix: str) -> str:
    return sortable_id(prefix, START, os.urandom(10))


def _violation(subject: Subject, number: int) -> ViolationRecorded:
    return ViolationRecorded(
        subject=subject,
        violation=_id("vio"),
        policy=CLAUSE.policy,
        clause=CLAUSE.clause,
        category=CLAUSE.category,
        severity="high",
        occurred_at=START + timedelta(seconds=number),
        detected_by="automated",
        summary=f"Phishing texts in the name of a bank, batch {number}.",
    )


def _suspension(subject: Subject, grounds: tuple[str, ...]) -> SubjectSuspended:
    return SubjectSuspended(
        subject=subject,
        suspension=_id("sus"),
        scope=SCOPE,
        effective_at=START,
        ends_at=datetime(2036, 3, 1, tzinfo=UTC),
        duration="P2M",
        basis=Basis.VIOLATIONS if grounds else Basis.LEGAL_ORDER,
        grounds=grounds,
        clauses=(CLAUSE,),
        reason="Repeated fraud after two warnings.",
        reinstatement=Ending.AUTOMATIC,
        disclosure="notified",
    )


def _reinstatement(suspension: SubjectSuspended, effective_at: datetime) -> SubjectReinstated:
    return SubjectReinstated(
        subject=suspension.subject,
        reinstatement=_id("rei"),
        suspension=suspension.suspension,
        cause=Cause.EARLY,
        effective_at=effective_at,
        reason="Complied.",
    )


def past(user: str, count: int) -> Iterator[tuple[Event, int]]:
    """Make suspensions of one user that are all over."""
    subject = Subject(type="user", id=user)
    for number in range(count):
        suspension = _suspension(subject, ())
        yield suspension, 2 * number + 1
        yield _reinstatement(suspension, START + timedelta(hours=number)), 2 * number + 2


def _year(events: int) -> Iterator[tuple[Event, int]]:
    for number in range(events // 10):
        subject = Subject(type="user", id=f"u{number}")
        grounds = []
        for count in range(6):
            violation = _violation(subject, number)
            grounds.append(violation.violation)
            yield violation, count + 1
        yield WarningIssued(subject=subject, warning=_id("war"), reason="Please stop."), 7
        first = _suspension(subject, tuple(grounds[:1]))
        yield first, 8
        yield _reinstatement(first, START + timedelta(milliseconds=25 * 10 * number)), 9
        yield _suspension(subject, tuple(grounds[1:3])), 10


def _suspensions(count: int) -> Iterator[tuple[Event, int]]:
    for number in range(count):
        yield _suspension(Subject(type="user", id=f"u{number}"), ()), 1
