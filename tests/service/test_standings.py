"""What is counted of the present by indexes is what is counted of it by looking at everything."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from eventsourcing.sqlite import SQLiteCursor

from tests.conftest import SetClock
from tests.service.conftest import (
    Running,
    founded_on,
    suspension_of,
    violation_of,
)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def filled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A ledger with suspensions that stand in every way."""
    with founded_on(request.param, request, tmp_path_factory.mktemp("filled")) as run:
        assert isinstance(run.clock, SetClock)
        suspension_of(run, "user:in-force")
        suspension_of(run, "user:in-force", duration="P2D")
        suspension_of(run, "user:endless", indefinite=True)
        suspension_of(run, "user:later", effective_at="2027-01-01T00:00:00Z", duration="P1D")
        suspension_of(run, "user:waits", duration="P1D", reinstatement="on_review")
        grounds = [violation_of(run, "user:fell"), violation_of(run, "user:fell")]
        for term in ({"duration": "P3D", "reinstatement": "on_review"}, {"duration": "P2M"}):
            suspension_of(run, "user:fell", grounds=grounds, **term)
        path = f"/v1/violations/{grounds[0]}/overturn"
        run.done("POST", path, role="approver", json={"reason": "A mistake."})
        revised = suspension_of(run, "user:revised")
        body = {"duration": "P5D", "reason": "Less."}
        run.done("POST", f"/v1/suspensions/{revised}/revision", role="officer", json=body)
        cancelled = suspension_of(run, "user:never", effective_at="2027-01-01T00:00:00Z")
        path = f"/v1/suspensions/{cancelled}/cancellation"
        run.done("POST", path, role="officer", json={"reason": "Not so."})
        early = suspension_of(run, "user:early", duration="P1D", reinstatement="on_review")
        run.clock.move(days=2)
        body = {"suspension": early, "cause": "early", "reason": "Complied."}
        run.done("POST", "/v1/reinstatements", role="officer", json=body)
        yield run


@pytest.mark.parametrize("days", [-3, -1, 0, 1, 2, 4, 40, 400])
def test_the_present_is_counted_alike(filled: Running, days: int) -> None:
    """At any instant, because terms end and begin by themselves."""
    service, at = filled.service, filled.clock() + timedelta(days=days)
    until = at + timedelta(days=30)
    with service.reading() as (c, head):
        counted = [
            service.access.standings(c, at=at, position=head, due_until=until, newest=newest)
            for newest in (False, True)
        ]
        due = [
            service.access.falling_due(c, at=at, position=head, until=until, limit=5, newest=newest)
            for newest in (False, True)
        ]
        waiting = [
            service.access.suspensions(c, at=at, position=head, limit=5, review=True),
            service.access.waiting(c, at=at, limit=5),
        ]
    assert counted[0] == counted[1]
    assert due[0] == due[1]
    assert waiting[0] == waiting[1]
    if days == 0:  # there is something to count of every kind
        assert 0 not in {*counted[0].values(), len(due[0]), len(waiting[0])}


def test_what_has_ended_is_not_looked_at(filled: Running) -> None:
    """Nothing is read from beginning to end, so the present costs what is open."""
    service, at, asked = filled.service, filled.clock(), list[tuple[str, Any]]()
    with service.reading() as (c, head):
        on_sqlite = isinstance(c, SQLiteCursor)
        if not on_sqlite:  # where a table as small as this is read as a whole, if that is allowed
            c.execute("SET LOCAL enable_seqscan = off")
        execute = c.execute

        def noted(statement: str, values: Any = ()) -> None:
            asked.append((statement, values))
            execute(statement, values)

        c.execute = noted  # type: ignore[assignment, method-assign]
        known = {"at": at, "position": head}
        service.access.standings(c, **known, due_until=at, newest=True)  # type: ignore[arg-type]
        service.access.falling_due(c, **known, until=at, limit=5, newest=True)  # type: ignore[arg-type]
        service.access.waiting(c, at=at, limit=5)
        for statement, values in asked:
            execute(f"EXPLAIN {'QUERY PLAN ' * on_sqlite}{statement}", values)
            steps = [str(row[-1]) for row in c.fetchall()]
            whole = ("SCAN s", "SCAN access_") if on_sqlite else ("Seq Scan",)
            assert steps
            assert not [each for each in steps if each.lstrip(" ->").startswith(whole)]
    assert 4 == len(asked)
