"""How long a page of the trail takes to find and read, and its counts, at a million events."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any, Final

from benchmarks.ledgers import START, fill_with
from benchmarks.server import new_ledger
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
from ledger.service.wiring import Service

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


def median_and_worst(ask: Callable[[], object]) -> tuple[float, float]:
    """Ask several times; returns milliseconds."""
    taken = []
    for _ in range(ASKED):
        started = time.perf_counter()
        ask()
        taken.append(1_000 * (time.perf_counter() - started))
    return statistics.median(taken), max(taken)


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


def main(events: int = EVENTS) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "ledger.db"
        new_ledger(database)
        service = fill_with(database, year(events), authors=AUTHORS, every=OVER / events)
        print("of", f"{service.recorder.position:,}", "events, in ms: median and worst")
        print(f"{'':40}{'page':>16}{'oldest':>16}{'counts':>16}{'alternatives':>16}{'found':>11}")
        for name, asked in questions(service).items():
            print(f"{name:40}{_measured(service, asked)}", flush=True)
        service.close()


def _measured(service: Service, asked: dict[str, Any]) -> str:
    trail = service.trail
    with service.reading() as (c, head):
        asked = {"position": head, **asked}
        middle = asked["position"] // 2

        def page(**where: Any) -> None:
            found = trail.events(c, limit=PAGE, **where, **asked)
            service.recorder.at_positions(found)

        times = [
            median_and_worst(page),
            median_and_worst(lambda: page(oldest_first=True, cursor_position=middle)),
            median_and_worst(lambda: trail.counts(c, **asked)),
            median_and_worst(lambda: trail.counts(c, alternatives=True, **asked)),
        ]
        total = trail.counts(c, **asked)["total"]
    return "".join(f"{median:8.1f}{worst:8.1f}" for median, worst in times) + f"{total:11,}"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS)
