"""What was in force then, and what was known then? Ends to the microsecond; clocks that err."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest

from ledger.domain.values import format_instant
from ledger.service.wiring import build
from tests.checks import check_ledger
from tests.service.conftest import (
    FRONTIER,
    POLICY,
    SMALL,
    T0,
    Running,
    joined,
    suspension_of,
    violation_of,
)

MICROSECOND = timedelta(microseconds=1)
ALICE = {"type": "user", "id": "alice"}
NORTHWIND = {"type": "organization", "id": "northwind"}


def day(number: float) -> datetime:
    """An instant, in days after the first."""
    return T0 + timedelta(days=number)


def get(run: Running, path: str, **query: Any) -> dict[str, Any]:
    """Ask as the auditor; instants are written as the API wants them."""
    params = {
        name: format_instant(value) if isinstance(value, datetime) else value
        for name, value in query.items()
    }
    return run.done("GET", path, role="auditor", params=params)


def refused(run: Running, subject: str = "user:alice", **query: Any) -> list[str]:
    """Return the models that /v1/access says are refused."""
    answer = get(run, "/v1/access", subject=subject, **query)
    return [r["resource"]["id"] for r in answer["resources"] if not r["allowed"]]


def command(run: Running, role: str, method: str, path: str, **body: Any) -> dict[str, Any]:
    """Send a command that must succeed."""
    return run.done(method, path, role=role, json=body)


def reinstatements_of(run: Running, suspension: str) -> list[dict[str, Any]]:
    """Return the events that ended a suspension, as the trail has them."""
    events = get(run, "/v1/events", type="subject.reinstated", limit=1000)["items"]
    return [event for event in events if event["data"]["suspension"] == suspension]


# --- corrections ----------------------------------------------------------------------------------


class Told:
    """A suspension of two months at day 0, and a correction of it at day 10."""

    def __init__(self, run: Running, correction: str) -> None:
        self.run = run
        self.violation = violation_of(run, "user:alice")
        self.suspension = suspension_of(run, "user:alice", grounds=[self.violation])
        self.before = run.service.recorder.position
        run.clock.now = day(10)
        reason = {"reason": "It was looked at again."}
        end = {"suspension": self.suspension, **reason}
        match correction:
            case "revision":
                path = f"/v1/suspensions/{self.suspension}/revision"
                command(run, "officer", "POST", path, duration="P1M", **reason)
            case "early":
                command(run, "officer", "POST", "/v1/reinstatements", cause="early", **end)
            case "error":
                effective = format_instant(day(2))
                command(
                    run,
                    "approver",
                    "POST",
                    "/v1/reinstatements",
                    cause="error",
                    effective_at=effective,
                    **end,
                )
            case "overturn":
                path = f"/v1/violations/{self.violation}/overturn"
                command(run, "approver", "POST", path, **reason)

    def in_force(self, at: datetime, **known: Any) -> bool:
        """Ask every route that tells; they must agree."""
        run = self.run
        access = get(run, "/v1/access", subject="user:alice", at=at, **known)
        alone = get(run, f"/v1/suspensions/{self.suspension}", at=at, **known)
        listed = get(run, "/v1/suspensions", state="in_force", at=at, **known)
        record = get(run, "/v1/subjects/record", subject="user:alice", at=at, **known)
        told = {
            bool(access["suspensions"]),
            set(FRONTIER) == {r["resource"]["id"] for r in access["resources"] if not r["allowed"]},
            "in_force" == alone["state"],
            bool(listed["items"]),
            "suspended" == record["standing"],
            "in_force" == record["suspensions"][0]["state"],
        }
        assert 1 == len(told), (at, known, access, alone, listed, record)
        return True in told


@pytest.mark.parametrize(
    ("correction", "now_known"),
    [
        # In force at day 1, 5, 12, 40 and 70, as it is known once the correction is recorded.
        ("none", [True, True, True, True, False]),
        ("revision", [True, True, True, False, False]),
        ("early", [True, True, False, False, False]),
        ("error", [True, False, False, False, False]),
        ("overturn", [True, True, False, False, False]),
    ],
)
def test_a_correction_changes_what_was_in_force_but_not_what_was_known(
    founded: Running, correction: str, now_known: list[bool]
) -> None:
    """``at`` sees a correction from when it took effect, ``known_at`` before it never does."""
    founded.service.ticker.stop()
    told = Told(founded, correction)
    founded.clock.now = day(80)
    instants = [day(1), day(5), day(12), day(40), day(70)]
    as_decided = [True, True, True, True, False]

    assert now_known == [told.in_force(at) for at in instants]
    for known in (
        {"known_at": day(9)},
        {"known_at": day(10) - MICROSECOND},
        {"known_position": told.before},
    ):
        assert as_decided == [told.in_force(at, **known) for at in instants]
    for known in ({"known_at": day(10)}, {"known_at": day(11)}, {"known_position": 10**9}):
        assert now_known == [told.in_force(at, **known) for at in instants]


def test_before_it_was_recorded_a_suspension_is_not_there(founded: Running) -> None:
    """As known before it, a list is empty, the id names nothing, and everything is allowed."""
    before = founded.service.recorder.position
    founded.clock.move(days=1)
    suspension = suspension_of(founded, "user:alice")
    known: dict[str, Any] = {"known_position": before}

    assert [] == get(founded, "/v1/suspensions", **known)["items"]
    assert [] == get(founded, "/v1/violations", **known)["items"]
    assert [] == refused(founded, **known)
    record = get(founded, "/v1/subjects/record", subject="user:alice", **known)
    assert ("good", []) == (record["standing"], record["suspensions"])
    answer = founded("GET", f"/v1/suspensions/{suspension}", role="auditor", params=known)
    assert (404, "not_found") == (answer.status_code, answer.json()["code"])
    assert FRONTIER == refused(founded)
    assert [] == refused(founded, at=day(1) - MICROSECOND)


def test_a_violation_stands_until_the_instant_at_which_it_is_overturned(founded: Running) -> None:
    """Its state at an instant, as known at a position, alone, in the list, and in the record."""
    told = Told(founded, "overturn")
    states: dict[str, tuple[dict[str, Any], str]] = {
        "now": ({}, "overturned"),
        "just before": ({"at": day(10) - MICROSECOND}, "stands"),
        "from then on": ({"at": day(10)}, "overturned"),
        "as known before": ({"at": day(20), "known_at": day(9)}, "stands"),
        "as known at a position": ({"known_position": told.before}, "stands"),
    }
    for name, (query, state) in states.items():
        alone = get(founded, f"/v1/violations/{told.violation}", **query)
        assert alone.pop("details") is None
        record = get(founded, "/v1/subjects/record", subject="user:alice", **query)
        assert state == alone["state"], name
        assert (state == "overturned") == (alone["overturned"] is not None)
        assert [alone] == get(founded, "/v1/violations", state=state, **query)["items"]
        assert [alone] == record["violations"]


def test_the_position_known_is_said_in_the_answer(founded: Running) -> None:
    """An answer about the past names the position it is a function of, so it can be asked again."""
    told = Told(founded, "early")

    answer = get(founded, "/v1/access", subject="user:alice", known_at=day(9))

    assert (told.before, told.before + 1) == (answer["known_position"], answer["position"])
    again = get(founded, "/v1/access", subject="user:alice", known_position=told.before)
    assert answer == again


def test_known_is_asked_in_one_way_at_a_time(shared: Running) -> None:
    """known_at and known_position together could contradict each other."""
    params = {"subject": "user:alice", "known_at": format_instant(T0), "known_position": 1}

    answer = shared("GET", "/v1/access", role="auditor", params=params)

    assert (422, "known_at") == (answer.status_code, answer.json()["field"])


# --- groups, links, resources and policies --------------------------------------------------------


def test_a_group_covers_the_members_that_it_had_then(founded: Running) -> None:
    """A later member is refused from when it joins; whoever left is allowed from then on."""
    suspension_of(founded, "user:alice")
    first = founded.service.recorder.position
    founded.clock.now = day(1)
    members = [{"type": "model", "id": model} for model in ("atlas-3", "mini-2")]
    command(founded, "admin", "PUT", "/v1/groups/frontier", resources=members)

    assert ["atlas-3", "mini-2"] == refused(founded)
    assert ["atlas-3", "mini-2"] == refused(founded, at=day(1))
    assert FRONTIER == refused(founded, at=day(1) - MICROSECOND)
    assert FRONTIER == refused(founded, at=day(1), known_position=first)
    assert (False, True) == tuple(founded.allowed("user:alice", m) for m in ("mini-2", "cipher-2"))
    group = get(founded, "/v1/groups/frontier", at=day(0.5))
    assert FRONTIER == [resource["id"] for resource in group["resources"]]
    group = get(founded, "/v1/groups/frontier")
    assert ["atlas-3", "mini-2"] == [resource["id"] for resource in group["resources"]]
    group = get(founded, "/v1/groups/frontier", known_position=first)
    assert FRONTIER == [resource["id"] for resource in group["resources"]]
    (listed,) = get(founded, "/v1/groups", at=day(0.5))["items"]
    assert FRONTIER == [resource["id"] for resource in listed["resources"]]
    for at, groups in ((day(0.5), []), (day(1), ["frontier"])):
        (mini,) = [
            item
            for item in get(founded, "/v1/resources", at=at)["items"]
            if item["resource"]["id"] == "mini-2"
        ]
        assert groups == mini["groups"]


def test_a_link_holds_for_as_long_as_it_stood(founded: Running) -> None:
    """What is refused to the parent is refused to the subject from the link to the unlinking."""
    suspension_of(founded, "organization:northwind")
    unlinked = founded.service.recorder.position
    link = {"subject": ALICE, "parent": NORTHWIND}
    founded.clock.now = day(1)
    command(founded, "officer", "POST", "/v1/links", **link)
    linked = founded.service.recorder.position
    assert not founded.allowed("user:alice", "atlas-3")
    founded.clock.now = day(2)
    command(founded, "officer", "DELETE", "/v1/links", **link)
    assert founded.allowed("user:alice", "atlas-3")

    for query, models in (
        ({"at": day(1) - MICROSECOND}, []),
        ({"at": day(1)}, FRONTIER),
        ({"at": day(2) - MICROSECOND}, FRONTIER),
        ({"at": day(2)}, []),
        ({"at": day(3), "known_position": linked}, FRONTIER),
        ({"at": day(3), "known_position": unlinked}, []),
        ({"at": day(1.5), "known_at": day(0)}, []),
    ):
        assert models == refused(founded, **query), query
        record = get(founded, "/v1/subjects/record", subject="user:alice", **query)
        parents = [NORTHWIND] if models else []
        assert parents == [link["subject"] for link in record["links"]["parents"]]
        assert ("suspended" if models else "good") == record["standing"]
        above = get(founded, "/v1/subjects/record", subject="organization:northwind", **query)
        assert bool(models) == bool(above["links"]["children"])


def test_the_catalogue_and_the_policies_are_shown_as_they_were(founded: Running) -> None:
    """A model that was listed later was not there; a version published later was not known."""
    first = founded.service.recorder.position
    founded.clock.now = day(1)
    command(founded, "admin", "PUT", "/v1/resources", resource={"type": "model", "id": "zephyr-1"})
    command(founded, "admin", "PUT", "/v1/policies/aup", **{**POLICY, "title": "Second"})

    models = sorted((*FRONTIER, *SMALL))
    for query, listed, version in (
        ({}, [*models, "zephyr-1"], 2),
        ({"known_position": first}, models, 1),
        ({"known_at": day(0.5)}, models, 1),
        ({"known_at": day(-1)}, [], None),
    ):
        items = get(founded, "/v1/resources", **query)["items"]
        assert listed == [item["resource"]["id"] for item in items]
        policies = get(founded, "/v1/policies", **query)["items"]
        assert ([] if version is None else [version]) == [policy["version"] for policy in policies]
    assert models == [
        r["resource"]["id"]
        for r in get(founded, "/v1/access", subject="user:alice", at=day(0.5))["resources"]
    ]
    old = founded("GET", "/v1/policies/aup", role="auditor", params={"known_position": 1})
    assert 404 == old.status_code


def test_properties_are_those_of_the_instant(founded: Running) -> None:
    """A subject's properties in its record are those it had at the instant that is asked about."""
    for number, plan in enumerate(("team", "enterprise")):
        founded.clock.now = day(number)
        command(founded, "officer", "PUT", "/v1/subjects", subject=ALICE, properties={"plan": plan})

    for query, plan in (
        ({}, "enterprise"),
        ({"at": day(0.5)}, "team"),
        ({"known_at": day(0)}, "team"),
    ):
        record = get(founded, "/v1/subjects/record", subject="user:alice", **query)
        assert {"plan": plan} == record["properties"]


# --- ends -----------------------------------------------------------------------------------------


def test_a_term_holds_from_its_start_to_just_before_its_end(founded: Running) -> None:
    """Half-open, to the microsecond, by computation: no ticker runs and nothing is recorded."""
    founded.service.ticker.stop()
    start, end = day(1), day(31)
    suspension_of(founded, "user:alice", effective_at=start.isoformat(), ends_at=end.isoformat())
    position = founded.service.recorder.position

    for now, allowed in (
        (T0, True),
        (start - MICROSECOND, True),
        (start, False),
        (end - MICROSECOND, False),
        (end, True),
        (end + timedelta(days=365), True),
    ):
        founded.clock.now = now
        assert allowed == founded.allowed("user:alice", "atlas-3"), now
        assert ([] if allowed else FRONTIER) == refused(founded)
        assert ([] if allowed else FRONTIER) == refused(founded, at=now)
        in_force = get(founded, "/v1/suspensions", in_force=now)["items"]
        assert allowed == (not in_force)
    assert position == founded.service.recorder.position


def test_a_calendar_month_from_the_last_of_january_ends_in_february(founded: Running) -> None:
    """P1M from 31 January is 28 February: the calendar's month, not thirty days."""
    suspension = suspension_of(
        founded, "user:alice", effective_at="2027-01-31T12:00:00Z", duration="P1M"
    )

    ends_at = get(founded, f"/v1/suspensions/{suspension}")["ends_at"]

    assert "2027-02-28T12:00:00.000000Z" == ends_at


def test_until_is_the_end_of_the_run_of_overlapping_suspensions(founded: Running) -> None:
    """Two terms that touch are one run; after a gap comes another."""
    for start, end in ((0, 10), (10, 20), (30, 40)):
        suspension_of(
            founded,
            "user:alice",
            effective_at=day(start).isoformat(),
            ends_at=day(end).isoformat(),
        )

    assert format_instant(day(20)) == founded.decision("user:alice", "atlas-3")["context"]["until"]
    founded.clock.now = day(25)
    assert founded.allowed("user:alice", "atlas-3")
    founded.clock.now = day(30)
    assert format_instant(day(40)) == founded.decision("user:alice", "atlas-3")["context"]["until"]


def test_on_review_holds_past_its_end_until_a_person_has_looked(founded: Running) -> None:
    """The end of the term lifts nothing: it is listed for review, and a person reinstates."""
    suspension = suspension_of(founded, "user:alice", reinstatement="on_review", duration="P10D")
    founded.clock.now = day(10) - MICROSECOND
    assert [] == get(founded, "/v1/suspensions", review=True)["items"]

    founded.clock.now = day(20)

    assert 0 == founded.service.ticker.tick()
    assert not founded.allowed("user:alice", "atlas-3")
    assert None is founded.decision("user:alice", "atlas-3")["context"]["until"]
    (waiting,) = get(founded, "/v1/suspensions", review=True)["items"]
    assert (suspension, "in_force") == (waiting["id"], waiting["state"])
    end = {"suspension": suspension, "cause": "term_served", "reason": "Complies now."}
    command(founded, "approver", "POST", "/v1/reinstatements", **end)
    assert founded.allowed("user:alice", "atlas-3")
    assert [] == get(founded, "/v1/suspensions", review=True)["items"]
    # When it was over is when the person decided, not when the term would have ended.
    assert not get(founded, "/v1/access", subject="user:alice", at=day(15))["resources"][0][
        "allowed"
    ]


# --- the ticker -----------------------------------------------------------------------------------


def test_the_ticker_records_once_that_a_term_was_served(founded: Running) -> None:
    """One event by the system, effective at the end, caused by the fact that set the end."""
    suspension = suspension_of(founded, "user:alice", duration="P10D")
    set_by = founded.service.recorder.position
    founded.clock.now = day(10)
    for _ in range(3):
        founded.service.ticker.tick()

    (event,) = reinstatements_of(founded, suspension)

    assert ("system", set_by) == (event["operator"], event["caused_by"])
    assert ("term_served", None) == (event["data"]["cause"], event["data"]["reason"])
    assert format_instant(day(10)) == event["data"]["effective_at"] == event["recorded_at"]
    alone = get(founded, f"/v1/suspensions/{suspension}")
    assert ("ended", "term_served") == (alone["state"], alone["ended"]["cause"])
    (reinstated,) = get(founded, "/v1/reinstatements", suspension=suspension)["items"]
    assert event["data"]["reinstatement"] == reinstated["id"]


def test_the_ticker_names_the_revision_that_set_the_end(founded: Running) -> None:
    """What led to the end is the fact that set it: the latest revision, not the first decision."""
    suspension = suspension_of(founded, "user:alice", duration="P10D")
    path = f"/v1/suspensions/{suspension}/revision"
    revised = command(founded, "officer", "POST", path, duration="P20D", reason="Again.")
    founded.clock.now = day(15)
    assert 0 == founded.service.ticker.tick()
    assert not founded.allowed("user:alice", "atlas-3")
    founded.clock.now = day(25)
    founded.service.ticker.tick()

    (event,) = reinstatements_of(founded, suspension)

    assert revised["position"] == event["caused_by"]
    assert format_instant(day(20)) == event["data"]["effective_at"]
    assert format_instant(day(25)) == event["recorded_at"]


def test_two_services_on_one_database_record_each_term_once(founded: Running) -> None:
    """Both tickers look at the same instant, again and again; each term is recorded once."""
    suspensions = [
        suspension_of(founded, f"user:u{number}", duration=f"P{number + 1}D")
        for number in range(12)
    ]
    with joined(founded) as other, ThreadPoolExecutor(4) as threads:
        for passed in range(1, 13):
            founded.clock.now = day(passed)
            ticks = [founded.service.ticker.tick, other.service.ticker.tick] * 2
            list(threads.map(lambda tick: tick(), ticks))

    assert [1] * 12 == [len(reinstatements_of(founded, s)) for s in suspensions]


def test_a_service_that_stood_still_records_what_fell_due_meanwhile(founded: Running) -> None:
    """Access was back in time whether or not anything ran; the record says since when."""
    suspension = suspension_of(founded, "user:alice", duration="P10D")
    founded.service.ticker.stop()
    founded.clock.now = day(100)
    assert founded.allowed("user:alice", "atlas-3")
    assert [] == reinstatements_of(founded, suspension)
    state = get(founded, f"/v1/suspensions/{suspension}")
    assert ("ended", None) == (state["state"], state["ended"])

    later = build(founded.service.settings, clock=founded.clock)
    later.start()
    later.ticker.tick()
    check_ledger(later)
    later.stop()

    (event,) = reinstatements_of(founded, suspension)
    assert format_instant(day(10)) == event["data"]["effective_at"]
    assert format_instant(day(100)) == event["recorded_at"]
    assert FRONTIER == refused(founded, at=day(10) - MICROSECOND)
    assert [] == refused(founded, at=day(10))


def test_a_term_that_is_over_cannot_be_ended_again(founded: Running) -> None:
    """Before and after the ticker has recorded it: 409, naming the event that brought the end."""
    suspension = suspension_of(founded, "user:alice", duration="P10D")
    set_by = founded.service.recorder.position
    founded.service.ticker.stop()
    founded.clock.now = day(10)
    end = {"suspension": suspension, "cause": "early", "reason": "Too late."}

    unrecorded = founded("POST", "/v1/reinstatements", role="officer", json=end)

    later = build(founded.service.settings, clock=founded.clock)
    later.ticker.tick()
    later.recorder.store.close()
    recorded = founded("POST", "/v1/reinstatements", role="officer", json=end)
    (event,) = reinstatements_of(founded, suspension)
    for answer, ended_by in ((unrecorded, set_by), (recorded, event["position"])):
        problem = answer.json()
        assert (409, "already_ended") == (answer.status_code, problem["code"])
        assert ended_by == problem["ended_by"]


# --- clocks that go back --------------------------------------------------------------------------


@pytest.mark.parametrize("back", [timedelta(hours=1), timedelta(days=1)])
def test_a_clock_that_goes_back_moves_no_fact(founded: Running, back: timedelta) -> None:
    """recorded_at stays, nothing ends early or vanishes, and readiness tells how far back it is."""
    founded.clock.now = day(5)
    held = suspension_of(founded, "user:alice", duration="PT30M")
    founded.clock.now -= back

    ready = founded.done("GET", "/readyz", role="auditor")
    assert back.total_seconds() == ready["clock_behind_s"]
    assert not founded.allowed("user:alice", "atlas-3")
    assert FRONTIER == refused(founded)
    assert "in_force" == get(founded, f"/v1/suspensions/{held}")["state"]

    # A suspension that is decided meanwhile binds at once, at the ledger's time.
    suspension_of(founded, "user:bob", duration="PT30M")
    newest = get(founded, "/v1/events", limit=2)["items"]
    assert [format_instant(day(5))] * 2 == [event["recorded_at"] for event in newest]
    assert format_instant(day(5)) == newest[0]["data"]["effective_at"]
    assert not founded.allowed("user:bob", "atlas-3")
    assert 0 == founded.service.ticker.tick()

    for now, allowed in (
        (day(5) - MICROSECOND, False),
        (day(5), False),
        (day(5) + timedelta(minutes=30) - MICROSECOND, False),
        (day(5) + timedelta(minutes=30), True),
    ):
        founded.clock.now = now
        assert [allowed] * 2 == [founded.allowed(f"user:{u}", "atlas-3") for u in ("alice", "bob")]
    assert 0 == founded.done("GET", "/readyz", role="auditor")["clock_behind_s"]


def test_a_term_that_was_recorded_as_served_stays_so_when_the_clock_goes_back(
    founded: Running,
) -> None:
    """What is recorded is not undone by a clock: the suspension does not come back."""
    suspension = suspension_of(founded, "user:alice", duration="P10D")
    founded.clock.now = day(10)
    founded.service.ticker.tick()
    (event,) = reinstatements_of(founded, suspension)

    founded.clock.now = day(9)

    assert founded.allowed("user:alice", "atlas-3")
    assert [] == refused(founded)
    assert [event] == reinstatements_of(founded, suspension)


def test_a_key_that_has_expired_does_not_come_back_with_the_clock(founded: Running) -> None:
    """The ledger's time is that of its newest fact at the least, for keys too."""
    body = {"expires_at": day(1).isoformat()}
    issued = command(founded, "admin", "POST", "/v1/operators/the-auditor/keys", **body)
    founded.keys["brief"] = issued["key"]
    founded.clock.now = day(2)
    violation_of(founded, "user:alice")

    founded.clock.now = day(0.5)

    assert 401 == founded("GET", "/v1/events", role="brief").status_code


def test_conduct_may_be_reported_a_little_ahead_of_the_clock(founded: Running) -> None:
    """Reporters' clocks differ: five minutes ahead is taken, more is refused."""
    report = {
        "subject": ALICE,
        "policy": "aup",
        "clause": "fraud",
        "detected_by": "automated",
        "summary": "It happened.",
    }
    five = T0 + timedelta(minutes=5)

    answers = [
        founded(
            "POST",
            "/v1/violations",
            role="reporter",
            json={**report, "occurred_at": format_instant(at)},
        )
        for at in (five, five + MICROSECOND)
    ]

    assert [201, 422] == [answer.status_code for answer in answers]
    problem = answers[1].json()
    assert ("occurred_in_future", "/occurred_at") == (problem["code"], problem["field"])
