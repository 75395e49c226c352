"""The figures of a period are what its events say, as known at a position, and stay so."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from statistics import median_low
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.application import Ledger
from ledger.domain.errors import InvalidValue, LedgerError
from ledger.domain.events import (
    Recorded,
    SubjectReinstated,
    SubjectSuspended,
    SuspensionCancelled,
    SuspensionRevised,
    ViolationOverturned,
    ViolationRecorded,
    WarningIssued,
)
from ledger.domain.values import Basis, Cause, format_instant
from ledger.service.report import report_of
from ledger.service.wiring import Service
from projections.report import LENGTHS, NO_END, ReportRows, Span, length_of
from tests.checks import check_ledger
from tests.conftest import SetClock, on_each_store
from tests.histories import OFFICER, SUBJECTS, TICK, Drawing, awake, founded, happen

DAY = 86_400_000_000
few = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def slow_report(
    events: Sequence[Recorded], start: datetime, end: datetime, known: int
) -> dict[str, Any]:
    """Count everything by looking at every event, as the reference defines it."""
    known_events = [one for one in events if one.position <= known]
    overturned: set[str] = set()
    cancelled: set[str] = set()
    ends: dict[str, datetime | None] = {}
    suspended: dict[str, SubjectSuspended] = {}
    for one in known_events:
        match one.event:
            case ViolationOverturned(violation=id_):
                overturned.add(id_)
            case SuspensionCancelled(suspension=id_):
                cancelled.add(id_)
            case SubjectSuspended() as event:
                suspended[event.suspension] = event
                ends[event.suspension] = event.ends_at
            case SuspensionRevised(suspension=id_, ends_at=ends_at):
                ends[id_] = ends_at
            case _:
                pass

    def is_void(one: Recorded) -> bool:
        match one.event:
            case ViolationRecorded(violation=id_):
                return id_ in overturned
            case SubjectSuspended(suspension=id_):
                return id_ in cancelled
            case _:
                return False

    def repeats(kind: type) -> tuple[int, int]:
        every: list[Any] = [e for e in known_events if isinstance(e.event, kind) and not is_void(e)]
        inside = [e for e in every if start <= e.recorded_at < end]
        again = {
            e.event.subject
            for e in inside
            if any(o.position < e.position and o.event.subject == e.event.subject for o in every)
        }
        return len({e.event.subject for e in inside}), len(again)

    period: list[Any] = [one for one in known_events if start <= one.recorded_at < end]
    found: list[Any] = [one for one in period if isinstance(one.event, ViolationRecorded)]
    imposed: list[Any] = [one for one in period if isinstance(one.event, SubjectSuspended)]
    counted: list[Any] = [one for one in imposed if not is_void(one)]
    warned: list[Any] = [one for one in period if isinstance(one.event, WarningIssued)]
    ended = [one.event for one in period if isinstance(one.event, SubjectReinstated)]
    held = [
        (
            event.cause,
            max(timedelta(), event.effective_at - suspended[event.suspension].effective_at)
            // timedelta(microseconds=1),
        )
        for event in ended
    ]

    def months(facts: Sequence[Recorded]) -> Callable[[Recorded], tuple[str]]:
        assert all(one.recorded_at.tzinfo is UTC for one in facts)
        return lambda one: (one.recorded_at.strftime("%Y-%m"),)

    def conduct(names: tuple[str, ...], key: Callable[[Any], tuple[str, ...]]) -> list[Any]:
        all_, void = Counter(map(key, found)), Counter(key(one) for one in found if is_void(one))
        return [
            {
                **dict(zip(names, each, strict=True)),
                "recorded": all_[each],
                "standing": all_[each] - void[each],
                "overturned": void[each],
            }
            for each in sorted(all_)
        ]

    def count(name: str, keys: list[str], order: Sequence[str] | None = None) -> list[Any]:
        numbers = Counter(keys)
        return [{name: each, "count": numbers[each]} for each in order or sorted(numbers)]

    def median(times: list[int]) -> int | None:
        return median_low(times) // 1_000_000 if times else None

    def length(event: SubjectSuspended) -> str:
        last = ends[event.suspension]
        if last is None:
            return "no end"
        for days in (1, 7, 31, 92, 366):
            if last - event.effective_at <= timedelta(days=days):
                return f"up to {days} day{'s' if days > 1 else ''}"
        return "longer"

    subjects, repeated = repeats(ViolationRecorded)
    suspended_subjects, suspended_again = repeats(SubjectSuspended)
    affected = {
        one.event.subject for one in [*(o for o in found if not is_void(o)), *warned, *counted]
    }
    automated = sum(one.event.detected_by == "automated" for one in found)
    return {
        "violations": {
            "recorded": len(found),
            "standing": sum(not is_void(one) for one in found),
            "overturned": sum(is_void(one) for one in found),
            "automated_share": round(automated / len(found), 4) if found else None,
            "by_category": conduct(("category",), lambda one: (one.event.category,)),
            "by_clause": conduct(
                ("policy", "clause", "category"),
                lambda one: (
                    one.event.policy.split("@")[0],
                    one.event.clause,
                    one.event.category,
                ),
            ),
            "by_month": conduct(("month",), months(found)),
            "by_detection": conduct(("detected_by",), lambda one: (one.event.detected_by,)),
            "subjects": subjects,
            "repeat_subjects": repeated,
            "repeat_rate": round(repeated / subjects, 4) if subjects else None,
        },
        "warnings": {"issued": len(warned)},
        "suspensions": {
            "recorded": len(imposed),
            "cancelled": len(imposed) - len(counted),
            "counted": len(counted),
            "by_model": count(
                "model",
                [
                    label
                    for one in counted
                    for label in {each.label for each in one.event.scope.resources}
                ],
            ),
            "by_length": count(
                "length",
                [length(one.event) for one in counted],
                [
                    "up to 1 day",
                    "up to 7 days",
                    "up to 31 days",
                    "up to 92 days",
                    "up to 366 days",
                    "longer",
                    "no end",
                ],
            ),
            "by_basis": count("basis", [str(one.event.basis) for one in counted], [*Basis]),
            "by_month": count("month", [months(counted)(one)[0] for one in counted]),
            "subjects": suspended_subjects,
            "repeat_subjects": suspended_again,
            "repeat_rate": (
                round(suspended_again / suspended_subjects, 4) if suspended_subjects else None
            ),
        },
        "reinstatements": {
            "recorded": len(held),
            "median_seconds": median([time for _, time in held]),
            "by_cause": [
                {
                    "cause": str(cause),
                    "count": sum(each == cause for each, _ in held),
                    "median_seconds": median([time for each, time in held if each == cause]),
                }
                for cause in Cause
            ],
        },
        "subjects": {
            "affected": len(affected),
            "by_type": count("type", [subject.type for subject in affected]),
        },
    }


def lived(folder: Path, seed: int, commands: int, *, url: str | None = None) -> Service:
    """A ledger to which anything happened, with violations that anybody may have found."""
    drawing = Drawing(Random(seed))
    service = awake(founded(folder, SetClock(), url=url))
    go_on(service, drawing, commands)
    return service


def go_on(service: Service, drawing: Drawing, commands: int) -> None:
    """Let more happen."""
    for _ in range(commands // 4 + 1):
        happen(service, drawing, 4)
        try:
            done = service.ledger.record_violation(
                drawing.one(SUBJECTS[:3]),
                policy="aup",
                clause="fraud",
                occurred_at=service.now(),
                detected_by=drawing.one(["automated", "external"]),
                summary="Found.",
                by=OFFICER,
            )
        except LedgerError:
            continue
        drawing.learn(done.recorded)


def asked(service: Service, start: datetime, end: datetime, known: int | None) -> dict[str, Any]:
    """The report of a service."""
    with service.reading() as (c, head):
        return report_of(service, c, head, start=start, end=end, known_position=known)


def check_figures(service: Service, random: Random, times: int) -> None:
    """Compare reports of random periods, at random positions, with the slow count."""
    events = list(service.recorder.events())
    edges = [one.recorded_at + TICK * shift for one in events for shift in (0, 1)]
    edges += [edges[0] - timedelta(days=400), edges[-1] + timedelta(days=400)]
    for number in range(times):
        start, end = sorted(random.choices(edges, k=2)) if number else (edges[-2], edges[-1])
        known = random.randint(0, len(events)) if number else len(events)
        if start == end:
            continue
        report = asked(service, start, end, known)

        about = {name: report.pop(name) for name in ("from", "to", "known_position", "known_at")}
        assert slow_report(events, start, end, known) == report
        assert known == about["known_position"]
        newest = format_instant(events[known - 1].recorded_at) if known else None
        assert newest == about["known_at"]


@few
@given(seed=st.integers(0, 2**32), commands=st.integers(1, 80))
def test_the_figures_are_those_of_a_slow_count_of_the_events(seed: int, commands: int) -> None:
    """For any history, period and position, the report is what looking at every event finds."""
    with tempfile.TemporaryDirectory() as folder:
        service = lived(Path(folder), seed, commands)

        check_figures(service, Random(f"asked {seed}"), 12)

        check_ledger(service)
        service.close()


def test_the_figures_are_the_same_on_postgresql(tmp_path: Path, postgres_ledger: str) -> None:
    """PostgreSQL counts as SQLite does."""
    service = lived(tmp_path, 7, 120, url=postgres_ledger)

    check_figures(service, Random("asked"), 25)

    check_ledger(service)
    service.close()


def test_a_report_at_a_position_is_the_same_bytes_whatever_was_recorded_since(
    tmp_path: Path,
) -> None:
    """Neither new facts nor corrections of old ones change a report at an earlier position."""
    drawing = Drawing(Random(11))
    service = awake(founded(tmp_path, SetClock()))
    start, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2036, 1, 1, tzinfo=UTC)
    shown: dict[int, bytes] = {}
    for _ in range(8):
        go_on(service, drawing, 12)
        known = service.recorder.position
        shown[known] = orjson.dumps(asked(service, start, end, known))

    for known, report in shown.items():
        assert report == orjson.dumps(asked(service, start, end, known))
    assert len(shown) == len(set(shown.values()))

    check_ledger(service)
    service.close()


def test_a_correction_shows_in_a_report_at_a_later_position(tmp_path: Path) -> None:
    """An overturned violation stays recorded in its period, and counts as standing no more."""
    service = awake(founded(tmp_path, SetClock()))
    ledger, clock = service.ledger, service.clock
    assert isinstance(clock, SetClock)
    start = clock.now
    violation = ledger.record_violation(
        SUBJECTS[0],
        policy="aup",
        clause="fraud",
        occurred_at=clock.now,
        detected_by="automated",
        summary="Found.",
        by=OFFICER,
    ).recorded
    end = clock.move(days=1)
    clock.move(days=40)
    assert violation.event.about is not None
    ledger.overturn(violation.event.about, reason="Mistaken.", by=OFFICER)

    before = asked(service, start, end, violation.position)["violations"]
    after = asked(service, start, end, None)["violations"]

    def seen(figures: dict[str, Any]) -> list[int]:
        return [figures[name] for name in ("recorded", "standing", "overturned", "subjects")]

    assert [1, 1, 0, 1] == seen(before)
    assert [1, 0, 1, 0] == seen(after)
    check_ledger(service)
    service.close()


@pytest.mark.parametrize(
    ("days", "name"), [(days, name) for name, days in LENGTHS if days is not None]
)
def test_a_length_ends_with_its_last_day(days: int, name: str) -> None:
    """A term of exactly so many days is of that length, and one a microsecond longer is not."""
    assert name == length_of(DAY, DAY + days * DAY)
    assert name != length_of(DAY, DAY + days * DAY + 1)
    assert NO_END == length_of(DAY, None)


@on_each_store
def test_a_ledger_without_facts_has_figures_of_nothing(ledger: Ledger) -> None:
    """Counts are 0, and shares and medians of nothing are null."""
    with ledger.recorder.store.transaction(commit=False) as c:
        figures = ReportRows().figures(c, Span(after=0, until=0, known=0))

    assert 0 == figures["violations"]["recorded"] == figures["subjects"]["affected"]
    assert figures["violations"]["automated_share"] is None
    assert figures["suspensions"]["repeat_rate"] is None
    assert figures["reinstatements"]["median_seconds"] is None


def test_a_report_needs_a_period_and_a_position_that_is_there(tmp_path: Path) -> None:
    """A period that ends before it begins, and a position that is not yet, are refused."""
    service = awake(founded(tmp_path, SetClock()))
    now, head = service.now(), service.recorder.position
    for start, end, known in (
        (now, now, None),
        (now + TICK, now, None),
        (now, now + TICK, head + 1),
    ):
        with pytest.raises(InvalidValue):
            asked(service, start, end, known)
    assert head == asked(service, now, now + TICK, head)["known_position"]
    first = datetime.min.replace(tzinfo=UTC)
    assert 0 == asked(service, first, first + TICK, None)["violations"]["recorded"]
    check_ledger(service)
    service.close()
