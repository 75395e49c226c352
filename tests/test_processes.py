"""Several processes on one database: whatever they do at once, there is one ledger."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import Popen

import httpx
import pytest

from ledger.domain.events import (
    Recorded,
    SubjectReinstated,
    SubjectSuspended,
    SuspensionCancelled,
    ViolationOverturned,
)
from ledger.domain.values import Basis, Cause, Scope, Subject, format_instant
from ledger.service.wiring import Service, build
from tests.checks import check_ledger
from tests.conftest import SOAK_S, SetClock, on_each_store, settings_at
from tests.histories import OFFICER, awake, founded
from tests.service.conftest import until
from tests.serving import Process, asked, opened, started, workers

ROUNDS = 200
WAIT_S = 20  # for what comes within milliseconds, on a machine that may be busy


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Process, Process]]:
    """Two serving processes on one new ledger, which is checked as a whole when they are gone."""
    database = tmp_path_factory.mktemp("two") / "ledger.db"
    keys = opened(database)
    with ExitStack() as stack:
        one = stack.enter_context(started(database, keys))
        other = stack.enter_context(started(database, keys))
        yield one, other
        assert [0, 0] == [one.stop(), other.stop()]
    check_database(database)


def check_database(database: Path, url: str | None = None) -> list[Recorded]:
    """Check a ledger that no process has open any more; return its events.

    ``url`` names it when it is no file: then its files are beside where that would be.
    """
    service = build(settings_at(url or f"sqlite:///{database}", database.parent))
    events = list(service.recorder.events())
    check_ledger(awake(service))
    check_endings(events)
    service.close()
    return events


def check_endings(events: Sequence[Recorded]) -> None:
    """Check that no suspension ended twice, and no violation was overturned twice."""
    ended = [
        recorded.event.suspension
        for recorded in events
        if isinstance(recorded.event, SubjectReinstated | SuspensionCancelled)
    ]
    overturned = [
        recorded.event.violation
        for recorded in events
        if isinstance(recorded.event, ViolationOverturned)
    ]

    assert sorted(set(ended)) == sorted(ended)
    assert sorted(set(overturned)) == sorted(overturned)


# --- writing at once ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clocks", "commands"),
    [
        (["0", "1"], 500),
        (["0", "0", "-2"], 300),
        pytest.param(["0", "1", "-2"], 5_000, marks=pytest.mark.soak),
    ],
)
def test_processes_that_write_at_once_make_one_ledger(
    tmp_path: Path, clocks: Sequence[str], commands: int
) -> None:
    """Every answered command is there once, positions are dense, and time runs forward.

    The clocks of the processes are hours apart.
    """
    service = founded(tmp_path, SetClock(datetime.now(UTC)))
    before = service.recorder.position
    service.close()
    database = tmp_path / "ledger.db"
    with workers(
        *(
            ["commands", str(database), clock, f"process-{number}", str(commands)]
            for number, clock in enumerate(clocks)
        )
    ) as running:
        answers = answers_of(running)
    assert len(clocks) * commands == len(answers)
    check_answered(answers, check_database(database)[before:])


@pytest.mark.soak
@on_each_store
def test_four_processes_write_for_minutes_about_the_same_subjects(
    database_url: str, tmp_path: Path
) -> None:
    """For ten minutes none of their commands is lost or recorded twice, and all invariants hold.

    ``LEDGER_TEST_SOAK_S`` gives another number of seconds.
    """
    service = founded(tmp_path, SetClock(datetime.now(UTC)), url=database_url)
    before = service.recorder.position
    service.close()
    with workers(
        *(
            ["minutes-of-commands", database_url, "0", f"process-{number}", str(SOAK_S)]
            for number in range(4)
        ),
        LEDGER_FILES=str(tmp_path),
    ) as running:
        answers = answers_of(running)
    check_answered(answers, check_database(tmp_path / "ledger.db", database_url)[before:])


def answers_of(running: Sequence[Popen[str]]) -> dict[str, dict[str, object]]:
    """Return what writing processes were answered, by request, once all of them have ended."""
    answers: dict[str, dict[str, object]] = {}
    # All are read at once: one that nobody reads would stop at a full pipe.
    with ThreadPoolExecutor(len(running)) as readers:
        for output, _ in readers.map(lambda each: each.communicate(timeout=SOAK_S + 600), running):
            for line in output.splitlines():
                answer = json.loads(line)
                assert answer["request"] not in answers
                answers[answer["request"]] = answer
    assert [0] * len(running) == [each.returncode for each in running]
    return answers


def check_answered(answers: Mapping[str, Mapping[str, object]], events: Sequence[Recorded]) -> None:
    """Check that each command that was answered as recorded is there once, and no other is."""
    # What was recorded and not answered was led to by what was.
    given = [event for event in events if event.caused_by is None]
    recorded = {event.author.request_id: event.position for event in given}

    assert len(given) == len(recorded)
    assert recorded == {
        request: answer["position"]
        for request, answer in answers.items()
        if answer.get("outcome") == "recorded"
    }
    refusals = sorted({str(answer.get("refused")) for answer in answers.values()})
    print(f"{len(answers)} commands, {len(events)} events; refusals: {', '.join(refusals)}")


def due_terms(service: Service, count: int) -> datetime:
    """Suspend users for a day each, in one commit; return when all their terms are over."""
    with service.ledger.together():
        for number in range(count):
            service.ledger.suspend(
                Subject(type="user", id=f"u{number}"),
                scope=Scope.model_validate({"resources": [{"group": "frontier"}]}),
                duration="P1D",
                basis=Basis.LEGAL_ORDER,
                reason="An order.",
                by=OFFICER,
            )
    return service.now() + timedelta(days=2)


def test_each_term_is_served_once_however_many_tickers_run(tmp_path: Path) -> None:
    """Three processes that look for ended terms at once record each of them once."""
    service = founded(tmp_path, SetClock())
    later = format_instant(due_terms(service, 600))
    service.close()
    database = tmp_path / "ledger.db"
    with workers(*(["tick", str(database), later] for _ in range(3))) as running:
        counts = [json.loads(worker.communicate(timeout=600)[0])["recorded"] for worker in running]

    served = [r.event for r in check_database(database) if isinstance(r.event, SubjectReinstated)]

    print(f"recorded by each ticker: {counts}")
    assert 600 == sum(counts) == len(served)
    assert {Cause.TERM_SERVED} == {event.cause for event in served}


# --- one writes, the other answers ----------------------------------------------------------------


def test_a_check_that_names_the_position_never_misses_the_suspension(
    two: tuple[Process, Process],
) -> None:
    """With Ledger-Min-Position no process allows what any process has already refused."""
    for number in range(ROUNDS):
        writer, reader = two if number % 2 else two[::-1]
        position = writer.suspend(f"checked-{number}").headers["Ledger-Position"]
        answer = reader.check(f"checked-{number}", **{"Ledger-Min-Position": position})

        assert 200 == answer.status_code, answer.text
        assert answer.json()["decision"] is False
        assert int(answer.headers["Ledger-Position"]) >= int(position)


def test_a_command_repeated_at_another_process_binds_there(two: tuple[Process, Process]) -> None:
    """A retry that another process answers binds the next check there, as the first one would."""
    writer, reader = two
    for number in range(ROUNDS // 4):
        key = {"Idempotency-Key": f"key-{number}"}
        first = writer.suspend(f"again-{number}", **key)
        again = reader.suspend(f"again-{number}", **key)

        assert (201, first.json()) == (again.status_code, again.json())
        assert reader.check(f"again-{number}").json()["decision"] is False


def test_a_key_revoked_in_one_process_is_refused_by_the_other(
    two: tuple[Process, Process],
) -> None:
    """A revoked key stops everywhere; a new one works everywhere."""
    one, other = two
    taken = []
    for number in range(10):
        issued = one.done("POST", "/v1/operators/the-service/keys", role="admin", json={})
        headers = {"Authorization": f"Bearer {issued['key']}"}
        wait_until(other, asked(f"u{number}"), headers, status=200)
        one.done("DELETE", f"/v1/keys/{issued['id']}", role="admin")
        revoked = time.perf_counter()
        body = asked(f"u{number}")
        assert 401 == one.http.post("/access/v1/evaluation", json=body, headers=headers).status_code
        wait_until(other, body, headers, status=401)
        taken.append(1_000 * (time.perf_counter() - revoked))
    print(f"revoked elsewhere after {statistics.median(taken):.1f} ms, at most {max(taken):.1f} ms")


def wait_until(
    process: Process, body: dict[str, object], headers: dict[str, str], *, status: int
) -> None:
    """Ask until the answer has a status."""
    until = time.monotonic() + WAIT_S
    while process.http.post("/access/v1/evaluation", json=body, headers=headers).status_code != (
        status
    ):
        assert time.monotonic() < until, f"no {status} within {WAIT_S} s"


def test_what_one_process_writes_reaches_the_other_in_order(two: tuple[Process, Process]) -> None:
    """Another process's writes arrive by themselves, each after what came before it.

    And an answer never claims a position of which it missed the event.
    """
    writer, reader = two
    taken = []
    seen = 0
    for number in range(ROUNDS):
        user = f"in-order-{number}"
        position = int(writer.suspend(user).headers["Ledger-Position"])
        written = time.perf_counter()
        until = time.monotonic() + WAIT_S
        while seen < position:
            answer = reader.check(user)
            body, claimed = answer.json(), int(answer.headers["Ledger-Position"])

            assert seen <= claimed == body["context"]["position"]
            assert body["decision"] is (claimed < position)
            assert time.monotonic() < until
            seen = claimed
        taken.append(1_000 * (time.perf_counter() - written))
    print(
        f"arrived after {statistics.median(taken):.1f} ms at the median, {max(taken):.1f} at most"
    )


# --- workers --------------------------------------------------------------------------------------


def test_serve_with_two_workers_is_one_ledger(tmp_path: Path) -> None:
    """Two workers behind one port write and answer as one, and stop together."""
    database = tmp_path / "ledger.db"
    with started(database, opened(database), "--workers", "2") as process:
        # A connection of its own each time, so that either worker may get it.
        closing = {"Connection": "close"}
        for number in range(40):
            written = process.suspend(f"u{number}", **closing)
            assert 201 == written.status_code, written.text
            position = {"Ledger-Min-Position": written.headers["Ledger-Position"]}
            answer = process.check(f"u{number}", **closing, **position)
            assert answer.json()["decision"] is False

        assert 0 == process.stop()
    events = check_database(database)
    assert 40 == sum(isinstance(recorded.event, SubjectSuspended) for recorded in events)


def test_workers_end_when_nobody_is_left_to_stop_them(tmp_path: Path) -> None:
    """Their port is free again for whoever is started in their place."""
    database = tmp_path / "ledger.db"
    with started(database, opened(database), "--workers", "2") as process:
        assert 201 == process.suspend("alice").status_code
        process.popen.kill()

        until(lambda: refuses(process.url))
    check_database(database)


def refuses(url: str) -> bool:
    """Tell whether nobody listens at a URL any more."""
    try:
        httpx.get(f"{url}/livez", headers={"Connection": "close"})
    except httpx.ConnectError:
        return True
    except httpx.TransportError:  # somebody is just ending
        return False
    return False
