"""Violations and warnings are listed as they were known, and as they stood."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from ledger.application import Ledger
from ledger.domain.errors import LedgerError
from ledger.domain.events import (
    Author,
    Clause,
    Recorded,
    ViolationOverturned,
    ViolationRecorded,
    WarningIssued,
)
from ledger.domain.values import Evidence, Resource, Subject, format_instant
from projections.conduct import ConductRows
from tests.checks import check_ledger
from tests.conftest import T0, SetClock, on_each_store
from tests.histories import RESOURCES, SUBJECTS, Drawing, founded
from tests.service.conftest import SetClock as ServiceClock

ROWS = ConductRows()
OFFICER, REPORTER = Author("officer"), Author("reporter", "user:jane")
ALICE, BOB = Subject(type="user", id="alice"), Subject(type="user", id="bob")
M1, M2 = Resource(type="model", id="m1"), Resource(type="model", id="m2")
DIGEST = "0" * 64


@pytest.fixture
def policies(ledger: Ledger) -> Ledger:
    """A ledger with two policies of two clauses each."""
    clauses = [
        Clause(id=id_, title=id_, text="Do not.", category=category, severity="high")
        for id_, category in (("phishing", "fraud"), ("bots", "disinformation"))
    ]
    for policy in ("aup", "aup-partners"):
        ledger.publish(policy, title="Use", clauses=clauses, by=OFFICER)
    return ledger


def violate(ledger: Ledger, subject: Subject = ALICE, **changed: Any) -> str:
    """Record a violation; returns its id."""
    violation = {
        "policy": "aup",
        "clause": "phishing",
        "occurred_at": T0,
        "detected_by": "automated",
        "summary": "A mask of a bank.",
        "by": REPORTER,
    }
    about = ledger.record_violation(subject, **{**violation, **changed}).recorded.event.about
    assert about is not None
    return about


def violations(ledger: Ledger, **asked: Any) -> list[dict[str, Any]]:
    """List violations, as known now unless told otherwise."""
    known = {"at": T0, "position": ledger.recorder.position, "limit": 100}
    with ledger.recorder.store.transaction(commit=False) as c:
        return ROWS.violations(c, **{**known, **asked})


def warnings(ledger: Ledger, **asked: Any) -> list[dict[str, Any]]:
    """List warnings, as known now unless told otherwise."""
    known = {"position": ledger.recorder.position, "limit": 100}
    with ledger.recorder.store.transaction(commit=False) as c:
        return ROWS.warnings(c, **{**known, **asked})


# --- what is shown --------------------------------------------------------------------------------


@on_each_store
def test_a_violation_is_shown_with_everything_but_its_sealed_details(policies: Ledger) -> None:
    """A violation shows what was found, by whom, and that it stands; never the details."""
    id_ = violate(
        policies,
        details="What was said in confidence.",
        evidence=(Evidence(uri="s3://evidence/1", sha256=DIGEST),),
        resources=(M2, M1),
    )

    expected = {
        "id": id_,
        "position": 3,
        "subject": {"type": "user", "id": "alice"},
        "policy": "aup@1",
        "clause": "phishing",
        "category": "fraud",
        "severity": "high",
        "occurred_at": "2026-11-24T10:00:00.000000Z",
        "detected_by": "automated",
        "summary": "A mask of a bank.",
        "evidence": [{"uri": "s3://evidence/1", "sha256": DIGEST, "personal": False}],
        "resources": [{"type": "model", "id": "m2"}, {"type": "model", "id": "m1"}],
        "state": "stands",
        "overturned": None,
        "operator": "reporter",
        "recorded_at": "2026-11-24T10:00:00.000000Z",
    }
    assert [expected] == violations(policies, id_=id_)
    with policies.recorder.store.transaction(commit=False) as c:
        for table in ROWS.TABLES:
            c.execute(f"SELECT * FROM {table}")
            assert "confidence" not in str([tuple(row) for row in c.fetchall()])


def test_a_warning_is_shown_with_its_grounds_and_clauses(policies: Ledger) -> None:
    """A warning shows the violations it names, and which clauses these broke."""
    ground = violate(policies)
    id_ = policies.warn(ALICE, grounds=[ground], reason="Stop.", by=OFFICER).recorded.event.about

    expected = {
        "id": id_,
        "position": 4,
        "subject": {"type": "user", "id": "alice"},
        "grounds": [ground],
        "clauses": [{"policy": "aup@1", "clause": "phishing", "category": "fraud"}],
        "reason": "Stop.",
        "operator": "officer",
        "recorded_at": "2026-11-24T10:00:00.000000Z",
    }
    assert [expected] == warnings(policies, id_=id_)


def test_the_stream_of_a_violation_is_its_subject_s(policies: Ledger) -> None:
    """A violation is found in its subject's stream, and an unknown one in none."""
    id_ = violate(policies, BOB)

    with policies.recorder.store.transaction(commit=False) as c:
        assert "subject/user:bob" == ROWS.stream_of(c, id_)
        assert None is ROWS.stream_of(c, "vio_unknown")


# --- then and now ---------------------------------------------------------------------------------


@on_each_store
def test_an_overturned_violation_shows_what_overturned_it(
    policies: Ledger, clock: SetClock
) -> None:
    """An overturned violation says so, with the position, the instant and the reason."""
    id_ = violate(policies)
    clock.move(hours=1)
    position = policies.overturn(id_, reason="Not alice.", by=OFFICER).recorded.position

    (found,) = violations(policies, at=clock.now)
    expected = {"position": position, "at": "2026-11-24T11:00:00.000000Z", "reason": "Not alice."}
    assert ("overturned", expected) == (found["state"], found["overturned"])


@on_each_store
def test_a_violation_stands_until_the_instant_at_which_it_was_overturned(
    policies: Ledger, clock: SetClock
) -> None:
    """It stood a microsecond before; from the instant on it is overturned."""
    id_ = violate(policies)
    policies.overturn(id_, reason="Wrong.", by=OFFICER)
    before = clock.now - timedelta(microseconds=1)

    assert [None] == [v["overturned"] for v in violations(policies, at=before, state="stands")]
    assert [] == violations(policies, at=before, state="overturned")
    assert [] == violations(policies, at=clock.now, state="stands")
    assert [id_] == [v["id"] for v in violations(policies, at=clock.now, state="overturned")]


def test_an_overturning_is_not_known_before_it_was_recorded(policies: Ledger) -> None:
    """As known at an earlier position the violation stands, at whatever instant is asked about."""
    id_ = violate(policies)
    known = policies.recorder.position
    policies.overturn(id_, reason="Wrong.", by=OFFICER)
    later = T0 + timedelta(days=365)

    (found,) = violations(policies, at=later, position=known, state="stands")
    assert ("stands", None) == (found["state"], found["overturned"])
    assert [] == violations(policies, at=later, position=known, state="overturned")


def test_what_was_recorded_later_is_not_known(policies: Ledger) -> None:
    """Violations and warnings after a position are not listed as known at it."""
    first = violate(policies)
    known = policies.recorder.position
    violate(policies)
    policies.warn(ALICE, reason="Stop.", by=OFFICER)

    assert [first] == [v["id"] for v in violations(policies, position=known)]
    assert [] == warnings(policies, position=known)


# --- filters --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"subject": "user:alice"}, [0, 1]),
        ({"policy": "aup"}, [0, 2]),
        ({"policy": "aup@1"}, [0, 2]),
        ({"policy": "aup@2"}, []),
        ({"policy": "aup-partners"}, [1]),
        ({"policy": "au"}, []),
        ({"clause": "bots"}, [2]),
        ({"category": "fraud"}, [0, 1]),
        ({"category": "phishing"}, []),
        ({"model": "model:m1"}, [0, 2]),
        ({"model": "model:m2", "subject": "user:bob"}, [2]),
        ({"model": "m1"}, []),
        ({"operator": "officer"}, [1]),
        ({"detected_by": "human"}, [2]),
        ({"recorded_from": T0 + timedelta(hours=1)}, [1, 2]),
        ({"recorded_to": T0 + timedelta(hours=1)}, [0]),
        ({"recorded_from": T0, "recorded_to": T0 + timedelta(hours=2), "subject": "user:bob"}, []),
        ({"subject": "user:' OR 1 --"}, []),
    ],
)
def test_a_filter_of_violations_keeps_what_it_names(
    policies: Ledger, clock: SetClock, asked: dict[str, Any], expected: list[int]
) -> None:
    """Each filter keeps exactly the violations that have what it names; all must hold."""
    ids = [violate(policies, resources=(M1,))]
    clock.move(hours=1)
    ids.append(violate(policies, policy="aup-partners", by=OFFICER))
    clock.move(hours=1)
    ids.append(violate(policies, BOB, clause="bots", detected_by="human", resources=(M1, M2, M1)))

    found = violations(policies, oldest_first=True, **asked)
    assert [ids[number] for number in expected] == [violation["id"] for violation in found]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"subject": "user:alice"}, [0]),
        ({"policy": "aup"}, [0, 1]),
        ({"policy": "aup-partners@1"}, [1]),
        ({"category": "disinformation"}, [1]),
        ({"operator": "reporter"}, [0, 2]),
        ({"recorded_from": T0 + timedelta(hours=1), "recorded_to": T0 + timedelta(hours=2)}, [1]),
    ],
)
@on_each_store
def test_a_filter_of_warnings_keeps_what_it_names(
    policies: Ledger, clock: SetClock, asked: dict[str, Any], expected: list[int]
) -> None:
    """A warning is kept for each clause that its grounds broke; one without grounds has none."""
    grounds = [violate(policies), violate(policies, BOB)]
    grounds.append(violate(policies, BOB, policy="aup-partners", clause="bots"))
    ids = []
    for subject, named, by in (
        (ALICE, grounds[:1], REPORTER),
        (BOB, grounds[1:], OFFICER),
        (BOB, [], REPORTER),
    ):
        warned = policies.warn(subject, grounds=named, reason="Stop.", by=by)
        ids.append(warned.recorded.event.about)
        clock.move(hours=1)

    found = warnings(policies, oldest_first=True, **asked)
    assert [ids[number] for number in expected] == [warning["id"] for warning in found]


@pytest.mark.parametrize(
    "asked", [{"subject": "s"}, {"category": "c"}, {"model": "r:1"}, {"id_": "vio"}, {}]
)
@pytest.mark.parametrize("oldest_first", [True, False])
def test_a_page_of_violations_is_read_from_an_index_in_its_order(
    policies: Ledger, asked: dict[str, Any], oldest_first: bool
) -> None:
    """No list is sorted, and none that names one thing reads the whole table."""

    class Explaining:
        """Asks how a statement would run instead of running it."""

        def __init__(self, cursor: Any) -> None:
            self.cursor = cursor

        def execute(self, statement: str, params: Sequence[object] = ()) -> None:
            self.cursor.execute(f"EXPLAIN QUERY PLAN {statement}", params)
            self.plan = [row[3] for row in self.cursor.fetchall()]

        def fetchall(self) -> list[Any]:
            return []

    with policies.recorder.store.transaction(commit=False) as c:
        explaining: Any = Explaining(c)
        ROWS.violations(explaining, at=T0, position=9, limit=9, oldest_first=oldest_first, **asked)

    assert [] == [step for step in explaining.plan if "SCAN" in step or "TEMP" in step]


# --- any history ----------------------------------------------------------------------------------


def expected_violations(
    events: Sequence[Recorded], at: datetime, position: int
) -> list[dict[str, Any]]:
    """What the list must show, by nothing but the events."""
    known = [recorded for recorded in events if recorded.position <= position]
    fallen = {
        recorded.event.violation: recorded
        for recorded in known
        if isinstance(recorded.event, ViolationOverturned) and recorded.recorded_at <= at
    }
    return [
        {
            "id": event.violation,
            "subject": event.subject.key,
            "policy": event.policy,
            "clause": event.clause,
            "category": event.category,
            "models": {resource.key for resource in event.resources},
            "operator": recorded.author.operator,
            "overturned": fallen[event.violation].position if event.violation in fallen else None,
            "recorded_at": recorded.recorded_at,
        }
        for recorded in known
        if isinstance(event := recorded.event, ViolationRecorded)
    ]


@pytest.mark.parametrize(
    ("seed", "database_url"),
    [(0, "sqlite"), (1, "sqlite"), (2, "sqlite"), (3, "postgresql")],
    indirect=["database_url"],
)
def test_lists_of_any_history_are_what_its_events_say(
    tmp_path: Path, seed: int, database_url: str
) -> None:
    """For random filters, positions and instants a list equals one made from the events alone."""
    clock, drawing, random = ServiceClock(), Drawing(Random(seed)), Random(f"asked {seed}")
    service = founded(tmp_path, clock, url=database_url)
    for _ in range(100):
        if drawing.chance(3):
            drawing.move(clock)
        try:
            command = drawing.command(service.now())
            done = command.run(service, by=drawing.one([OFFICER, REPORTER]))
        except LedgerError:
            continue
        drawing.learn(done.recorded)
    events = list(service.recorder.events())
    warned = [recorded for recorded in events if isinstance(recorded.event, WarningIssued)]

    for _ in range(100):
        position = random.randint(0, len(events))
        recorded = random.choice(events)
        at = recorded.recorded_at + timedelta(microseconds=random.randint(-1, 1))
        state = random.choice([None, "stands", "overturned"])
        fields = {
            "subject": random.choice(SUBJECTS).key,
            "policy": random.choice(["aup@1", "aup@2"]),
            "category": random.choice(["fraud", "disinformation"]),
            "operator": random.choice(["officer", "reporter"]),
        }
        asked = {name: fields[name] for name in random.sample([*fields], random.randint(0, 2))}
        model = random.choice([None, None, *(resource.key for resource in RESOURCES)])
        since = random.choice([None, None, random.choice(events).recorded_at])
        listed = violations(
            service.ledger,
            at=at,
            position=position,
            state=state,
            model=model,
            recorded_from=since,
            **asked,
        )

        expected = [
            (violation["id"], violation["overturned"])
            for violation in reversed(expected_violations(events, at, position))
            if all(violation[name] == value for name, value in asked.items())
            and (model is None or model in violation["models"])
            and (since is None or since <= violation["recorded_at"])
            and (state is None or (state == "overturned") == (violation["overturned"] is not None))
        ]
        overturned = [(each["id"], each["overturned"]) for each in listed]
        assert expected == [(id_, by and by["position"]) for id_, by in overturned]
        assert [each["id"] for each in warnings(service.ledger, position=position)] == [
            recorded.event.about for recorded in reversed(warned) if recorded.position <= position
        ]

    check_ledger(service)
    service.recorder.store.close()


@pytest.mark.parametrize("oldest_first", [True, False])
@pytest.mark.parametrize("limit", [1, 3, 100])
def test_paging_meets_each_violation_and_warning_once(
    policies: Ledger, oldest_first: bool, limit: int
) -> None:
    """The pages one after another are the whole list, though more is recorded meanwhile."""
    for _ in range(4):
        violate(policies)
        policies.warn(ALICE, reason="Stop.", by=OFFICER)
    for ask in (violations, warnings):
        position = policies.recorder.position
        whole = [item["id"] for item in ask(policies, position=position, oldest_first=oldest_first)]
        found: list[str] = []
        after = None
        while page := ask(
            policies,
            position=position,
            limit=limit,
            cursor_position=after,
            oldest_first=oldest_first,
        ):
            assert len(page) <= limit
            found += [item["id"] for item in page]
            after = page[-1]["position"]
            violate(policies, BOB)
            policies.warn(BOB, reason="Stop.", by=OFFICER)

        assert whole == found


def test_times_are_shown_in_the_one_stored_form(policies: Ledger) -> None:
    """An instant given with another offset is shown in UTC, with six digits."""
    occurred_at = datetime.fromisoformat("2026-11-24T12:00:00.5+02:00")
    violate(policies, occurred_at=occurred_at)

    assert format_instant(occurred_at) == violations(policies)[0]["occurred_at"]
