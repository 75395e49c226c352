"""How long a page of the trail takes to find and read, and its counts, at a million events?

On SQLite and on PostgreSQL, or on the one that is named, and of as many events as are named. Both
hold the same events. Beside the time of an answer stands the processor time of the quickest, of
this process and of the server's that answers it, which says what others on the cores do not change.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any, Final

import psycopg

from benchmarks.ledgers import START, append
from ledger.domain.events import (
    Author,
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
    OneResource,
    Resource,
    ResourcesOfGroup,
    ResourcesOfType,
    Scope,
    Subject,
    sortable_id,
)
from ledger.service.settings import Settings
from ledger.service.wiring import Service, build
from tests.postgres import Server, fresh_database

STORES: Final = ("sqlite", "postgresql")
EVENTS: Final = 1_000_000
ASKED: Final = 7  # times for each question
PAGE: Final = 100
OVER: Final = timedelta(days=400)
CATEGORIES: Final = ("fraud", "disinformation", "malware", "harassment", "child-safety", "privacy")
CLAUSES: Final = tuple(
    ClauseRef(policy=f"{policy}@{version}", clause=f"{category}-{number}", category=category)
    for policy in ("acceptable-use", "partners")
    for version in (1, 2, 3)
    for category in CATEGORIES
    for number in (1, 2)
)
AUTHORS: Final = (
    *(Author("detector", None) for _ in range(12)),
    *(Author("mod-tool", f"user:moderator-{number}@acme.example") for number in range(20)),
    *(Author(f"officer-{number}", None) for number in range(4)),
)
SCOPES: Final = (
    Scope(resources=(ResourcesOfGroup(group="frontier"),)),
    Scope(resources=(ResourcesOfType(type="model"),)),
    *(Scope(resources=(OneResource(type="model", id=f"model-{number}"),)) for number in range(30)),
)


def year(events: int) -> Iterator[tuple[Event, int]]:
    """Make a year of enforcement: of ten events of a subject six are violations."""
    random = Random(0)

    def id_(prefix: str) -> str:
        return sortable_id(prefix, START + 10 * number * OVER / events, random.randbytes(10))

    for number in range(events // 10):
        kind = "user" if number % 10 else random.choice(("organization", "key", "application"))
        subject = Subject(type=kind, id=f"s{number}")
        grounds: list[tuple[str, ClauseRef]] = []
        for count in range(6):
            clause = random.choice(CLAUSES[: random.randint(1, len(CLAUSES))])
            models = {f"model-{random.randint(0, 29)}" for _ in range(random.randint(0, 2))}
            violation = ViolationRecorded(
                subject=subject,
                violation=id_("vio"),
                policy=clause.policy,
                clause=clause.clause,
                category=clause.category,
                severity=random.choice(("low", "high", "critical")),
                occurred_at=START + timedelta(seconds=number),
                detected_by="automated",
                summary=f"{clause.category} in the name of a bank, batch {number % 5_000}.",
                resources=tuple(Resource(type="model", id=model) for model in sorted(models)),
            )
            grounds.append((violation.violation, clause))
            yield violation, count + 1
        yield (
            WarningIssued(
                subject=subject,
                warning=id_("war"),
                grounds=(grounds[0][0],),
                clauses=(grounds[0][1],),
                reason="Please stop.",
            ),
            7,
        )
        for count, used in enumerate((grounds[:1], grounds[1:3])):
            suspension = SubjectSuspended(
                subject=subject,
                suspension=id_("sus"),
                scope=random.choice(SCOPES),
                effective_at=START,
                ends_at=START + timedelta(days=3660),
                duration="P2M",
                basis=Basis.VIOLATIONS,
                grounds=tuple(ground for ground, _ in used),
                clauses=tuple(dict.fromkeys(clause for _, clause in used)),
                reason="Repeated after two warnings.",
                reinstatement=Ending.AUTOMATIC,
                disclosure="notified",
            )
            yield suspension, 8 + 2 * count
            if not count:
                yield (
                    SubjectReinstated(
                        subject=subject,
                        reinstatement=id_("rei"),
                        suspension=suspension.suspension,
                        cause=Cause.EARLY,
                        effective_at=START + timedelta(days=1),
                        reason="Complied.",
                    ),
                    9,
                )


@dataclass(frozen=True, slots=True)
class Taken:
    """What answers took, in milliseconds: the median, the worst, and the least computing."""

    median: float
    worst: float
    computed: float

    def __str__(self) -> str:
        return f"{self.median:8.1f}{self.worst:8.1f}{self.computed:8.1f}"


def taken(ask: Callable[[], object], server: int | None) -> Taken:
    """Ask several times; ``server`` is the process of PostgreSQL that answers."""
    times, computed = [], []
    for _ in range(ASKED):
        served, used = _served_ms(server), time.process_time()
        started = time.perf_counter()
        ask()
        times.append(1_000 * (time.perf_counter() - started))
        computed.append(1_000 * (time.process_time() - used) + _served_ms(server) - served)
    return Taken(statistics.median(times), max(times), min(computed))


def _served_ms(server: int | None) -> float:
    if server is None:
        return 0
    return int(Path(f"/proc/{server}/schedstat").read_text().split()[0]) / 1e6


def questions(service: Service) -> dict[str, dict[str, Any]]:
    """Return what is asked for, by its name."""
    head = service.recorder.position
    third, half = (service.recorder.event(head // part) for part in (3, 2))
    assert third is not None
    assert half is not None
    privacy = {"category": "privacy"}
    return {
        "everything": {},
        "as known at half of it": {"position": head // 2},
        "a span of time": {"recorded_from": third.recorded_at, "recorded_to": half.recorded_at},
        "a type": {"types": ("violation.recorded",)},
        "a type of which there is one": {"types": ("ledger.opened",)},
        "an operator": {"operator": "mod-tool"},
        "a category": privacy,
        "a policy, all versions": {"policy": "partners"},
        "a clause": {"clause": "partners@3/privacy-2"},
        "a model": {"resource": "model:model-7"},
        "a subject type": {"subject_type": "key"},
        "a category and a model": {**privacy, "resource": "model:model-7"},
        "a category and a type, never together": {**privacy, "types": ("ledger.opened",)},
        "a subject": {"subject": "user:s777"},
        "a subject and a type": {"subject": "user:s777", "types": ("warning.issued",)},
        "on whose behalf": {"on_behalf_of": "user:moderator-3@acme.example"},
        "on whose behalf, and a category": {
            "on_behalf_of": "user:moderator-3@acme.example",
            **privacy,
        },
        "a rare word": {"q": "s777"},
        "a word of most events": {"q": "recorded"},
        "two words": {"q": "fraud bank"},
        "words in a row": {"q": "acceptable-use@1"},
        "how a word begins": {"q": "fra*"},
        "how a million words begin": {"q": "vio_01*"},
        "a word and a model": {"q": "bank", "resource": "model:model-3"},
        "a word and a category, rarely together": {"q": "fraud", **privacy},
        "a word and a type, never together": {"q": "recorded", "types": ("ledger.opened",)},
    }


def main(stores: Sequence[str], events: int) -> None:
    """Measure and print."""
    for store in stores:
        with tempfile.TemporaryDirectory() as name, _service(store, Path(name)) as service:
            began = time.perf_counter()
            append(service, year(events), authors=AUTHORS, every=OVER / events)
            if store == "postgresql":
                with psycopg.connect(service.settings.database_url, autocommit=True) as connection:
                    connection.execute("VACUUM ANALYZE")  # as autovacuum does, sooner or later
            filled = time.perf_counter() - began
            print(
                store, "of", f"{service.recorder.position:,}", f"events, filled in {filled:.0f} s"
            )
            print("in ms: median, worst, and of a processor at least")
            columns = ("page", "oldest", "counts", "alternatives")
            print(f"{'':40}{''.join(f'{column:>24}' for column in columns)}{'found':>11}")
            for asked_for, asked in questions(service).items():
                print(f"{asked_for:40}{_measured(service, asked)}", flush=True)


@contextmanager
def _service(store: str, folder: Path) -> Iterator[Service]:
    """Yield the service of a new ledger, which is not started."""
    if store == "sqlite":
        with _built(Settings(database_url=f"sqlite:///{folder / 'ledger.db'}")) as service:
            yield service
        return
    server = Server()
    try:
        with (
            fresh_database(server.url) as url,
            _built(Settings(database_url=url, files=folder, allow_owner=True)) as service,
        ):
            yield service
    finally:
        server.remove()


@contextmanager
def _built(settings: Settings) -> Iterator[Service]:
    service = build(settings)
    try:
        yield service
    finally:
        service.close()


def _measured(service: Service, asked: dict[str, Any]) -> str:
    trail = service.trail
    with service.reading() as (c, head):
        asked = {"position": head, **asked}
        middle = asked["position"] // 2
        server = None
        if service.recorder.store.dialect == "postgresql":
            c.execute("SELECT pg_backend_pid()")
            server = c.fetchall()[0][0]

        def page(**where: Any) -> None:
            found = trail.events(c, limit=PAGE, **where, **asked)
            service.recorder.at_positions(found)

        took = [
            taken(page, server),
            taken(lambda: page(oldest_first=True, cursor_position=middle), server),
            taken(lambda: trail.counts(c, **asked), server),
            taken(lambda: trail.counts(c, alternatives=True, **asked), server),
        ]
        total = trail.counts(c, **asked)["total"]
    return "".join(map(str, took)) + f"{total:11,}"


if __name__ == "__main__":
    named = [word for word in sys.argv[1:] if not word.isdigit()]
    number = next((int(word) for word in sys.argv[1:] if word.isdigit()), EVENTS)
    main(named or STORES, number)
