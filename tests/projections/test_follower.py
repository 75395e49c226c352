"""The access index in a gateway's process: it follows a real service, and says when it cannot."""

from __future__ import annotations

import logging
import shutil
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import httpx
import orjson
import pytest
import uvicorn

from ledger.domain.errors import Unavailable
from ledger.domain.values import format_instant, microseconds
from ledger.service.settings import Settings
from ledger.service.wiring import build
from projections.access import AccessFollower, CutOff, RequireAccess
from projections.access.follower import CUT_OFF_AFTER_S, WAIT_S
from tests.conftest import SetClock
from tests.service.conftest import (
    Running,
    found,
    open_ledger,
    opened,
    serving,
    suspension_of,
    until,
    violation_of,
)

SOON_S: Final = WAIT_S / 2  # a change that takes longer was not sent while it was waited for
MODELS: Final = ("atlas-3", "cipher-2", "mini-2")
SUBJECTS: Final = ("user:alice", "user:bob", "application:press", "organization:northwind")


@dataclass
class Stopwatch:
    """A monotonic clock that stands still until it is moved."""

    now: float = 1_000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def following(
    run: Running, *, when_cut_off: CutOff = "deny", start: bool = True, **more: Any
) -> Iterator[AccessFollower]:
    """A follower of a running service, by the clock of that service."""
    follower = AccessFollower(
        run.url,
        run.keys["service"],
        when_cut_off=when_cut_off,
        clock_ns=lambda: microseconds(run.clock()) * 1_000,
        **more,
    )
    try:
        if start:
            follower.start(timeout_s=SOON_S)
        yield follower
    finally:
        follower.stop()
        assert not follower._thread.is_alive()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Running]:
    """A service with five models, the group frontier and a policy."""
    settings = Settings(database_url=f"sqlite:///{tmp_path / 'ledger.db'}", origin="test.ledger")
    with opened(settings, SetClock()) as running:
        yield found(running)


def caught_up(follower: AccessFollower, run: Running) -> None:
    """Return when a follower has every position that the service has."""
    until(lambda: follower.position == run.service.recorder.position, within_s=SOON_S)


def answers(run: Running) -> list[bool]:
    """Ask the service about every subject and model."""
    return [run.allowed(subject, model) for subject in SUBJECTS for model in MODELS]


def verdicts(follower: AccessFollower) -> list[bool]:
    """Ask a follower the same."""
    asked = [(subject, f"model:{model}") for subject in SUBJECTS for model in MODELS]
    found_ = [follower.is_allowed(subject, "use", model) for subject, model in asked]
    assert found_ == [follower.verdict(s, "use", model).allowed for s, model in asked]
    return found_


# --- following ------------------------------------------------------------------------------------


def test_a_follower_begins_with_what_holds(run: Running) -> None:
    """Loaded, it answers as the service does, at the service's position, and says why."""
    suspension = suspension_of(run, "user:alice", reason="Repeated fraud.")
    scheduled = format_instant(run.clock.now.replace(year=2027))
    suspension_of(run, "user:bob", effective_at=scheduled)
    with following(run) as follower:
        assert run.service.recorder.position == follower.position
        assert not follower.is_cut_off
        assert follower.age_s < CUT_OFF_AFTER_S
        assert answers(run) == verdicts(follower)
        verdict = follower.verdict("user:alice", "use", "model:atlas-3")

        assert (False, False) == (verdict.allowed, verdict.flagged)
        assert (("suspended",), (suspension,)) == (verdict.reasons, verdict.suspensions)
        assert follower.position == verdict.position
        assert run.decision("user:alice", "atlas-3")["context"]["until"] == verdict.until
        permit = follower.verdict("user:bob", "use", "model:atlas-3")
        assert ((), (), None) == (permit.reasons, permit.suspensions, permit.until)
        run.clock.now = run.clock.now.replace(year=2027)
        assert not follower.is_allowed("user:bob", "use", "model:atlas-3")


def link_body(subject: str, parent: str) -> dict[str, dict[str, str]]:
    """The body of a link."""
    named = {"subject": subject, "parent": parent}
    return {
        name: dict(zip(("type", "id"), key.split(":"), strict=True)) for name, key in named.items()
    }


def test_a_follower_takes_in_every_kind_of_change(run: Running) -> None:
    """Suspensions, their changes and ends, links, groups, properties: each within its wait."""
    condition = {"attribute": "resource.properties.status", "in": ["preview"]}
    region = {"attribute": "subject.properties.region", "in": ["eu"]}
    on = {"resources": [{"type": "model"}]}
    ids: dict[str, str] = {}
    steps: list[Callable[[], object]] = [
        lambda: ids.update(alice=suspension_of(run, "user:alice")),
        lambda: run.done(
            "POST",
            f"/v1/suspensions/{ids['alice']}/revision",
            role="officer",
            json={"duration": "P1D", "reason": "Shorter."},
        ),
        lambda: suspension_of(run, "organization:northwind", basis="legal_order", indefinite=True),
        lambda: run.done(
            "POST",
            "/v1/links",
            role="officer",
            json=link_body("application:press", "organization:northwind"),
        ),
        lambda: run.done(
            "POST",
            "/v1/links",
            role="officer",
            json=link_body("user:bob", "application:press"),
        ),
        lambda: run.done(
            "PUT",
            "/v1/groups/frontier",
            role="admin",
            json={"resources": [{"type": "model", "id": "mini-2"}]},
        ),
        lambda: run.done(
            "DELETE", "/v1/links", role="officer", json=link_body("user:bob", "application:press")
        ),
        lambda: suspension_of(run, "user:bob", scope={**on, "conditions": [condition]}),
        lambda: run.done(
            "PUT",
            "/v1/resources",
            role="admin",
            json={
                "resource": {"type": "model", "id": "mini-2"},
                "properties": {"status": "preview"},
            },
        ),
        lambda: suspension_of(run, "application:press", scope={**on, "conditions": [region]}),
        lambda: run.done(
            "PUT",
            "/v1/subjects",
            role="officer",
            json={
                "subject": {"type": "application", "id": "press"},
                "properties": {"region": "eu"},
            },
        ),
        lambda: run.done(
            "POST",
            "/v1/reinstatements",
            role="officer",
            json={"suspension": ids["alice"], "cause": "early", "reason": "Complies."},
        ),
        lambda: ids.update(violation=violation_of(run, "user:alice")),
        lambda: suspension_of(run, "user:alice", grounds=[ids["violation"]]),
        lambda: run.done(
            "POST",
            f"/v1/violations/{ids['violation']}/overturn",
            role="approver",
            json={"reason": "Mistaken."},
        ),
        lambda: ids.update(
            later=suspension_of(
                run,
                "user:alice",
                effective_at=format_instant(run.clock.now.replace(year=2027)),
            )
        ),
        lambda: run.done(
            "POST",
            f"/v1/suspensions/{ids['later']}/cancellation",
            role="officer",
            json={"reason": "Not needed."},
        ),
    ]
    seen = []
    with following(run) as follower:
        for step in steps:
            step()
            caught_up(follower, run)
            expected = answers(run)

            assert expected == verdicts(follower)
            seen.append(expected)
        run.clock.move(days=3)
        assert answers(run) == verdicts(follower)
    assert 7 < len({tuple(one) for one in seen})  # the steps do change what is answered


def test_a_follower_answers_by_properties_and_through_subjects(run: Running) -> None:
    """The caller's properties win over recorded ones, and further subjects are looked at."""
    status = {"attribute": "resource.properties.status", "in": ["preview"]}
    bulk = {"attribute": "action.properties.bulk", "exists": True}
    region = {"attribute": "subject.properties.region", "not_in": ["eu"]}
    for user, condition in (("alice", status), ("bob", bulk), ("carol", region)):
        scope = {"resources": [{"type": "model"}], "conditions": [condition]}
        suspension_of(run, f"user:{user}", scope=scope)
    suspension_of(run, "application:press")
    with following(run) as follower:
        for user, claimed, allowed in (
            ("alice", {}, True),
            ("alice", {"resource_properties": {"status": "preview"}}, False),
            ("bob", {}, True),
            ("bob", {"action_properties": {"bulk": False}}, False),
            ("carol", {}, False),
            ("carol", {"subject_properties": {"region": "eu"}}, True),
            ("dan", {"through": ["application:other"]}, True),
            ("dan", {"through": ["application:other", "application:press"]}, False),
        ):
            asked: Mapping[str, Any] = claimed
            key = f"user:{user}"

            assert allowed is follower.is_allowed(key, "use", "model:atlas-3", **asked)
            assert allowed is follower.verdict(key, "use", "model:atlas-3", **asked).allowed


def test_unknown_subjects_are_refused_where_the_ledger_refuses_them(tmp_path: Path) -> None:
    """deny_unknown: a subject is known by any fact about it, before the snapshot or after."""
    settings = Settings(
        database_url=f"sqlite:///{tmp_path / 'ledger.db'}", unknown_subject="deny_unknown"
    )
    with opened(settings, SetClock()) as running:
        run = found(running)
        violation_of(run, "user:alice")
        with following(run) as follower:
            assert answers(run) == verdicts(follower)
            unknown = follower.verdict("user:bob", "use", "model:atlas-3")
            assert (False, ("unknown_subject",)) == (unknown.allowed, unknown.reasons)
            assert follower.is_allowed("user:alice", "use", "model:atlas-3")
            violation_of(run, "user:bob")  # it changes no answer but this
            caught_up(follower, run)

            assert follower.is_allowed("user:bob", "use", "model:atlas-3")
            assert answers(run) == verdicts(follower)


def test_answers_are_never_half_a_change(run: Running) -> None:
    """Asked from several threads while it follows: who is suspended throughout is never let in."""
    suspension_of(run, "user:alice", scope={"resources": [{"type": "model"}]})
    stop = threading.Event()
    wrong: list[object] = []
    with following(run) as follower:

        def ask() -> None:
            while not stop.wait(0.0002):  # or nobody else would get on
                if follower.is_allowed("user:alice", "use", "model:mini-2"):
                    wrong.append("allowed")
                follower.verdict("user:bob", "use", "model:atlas-3")

        askers = [threading.Thread(target=ask) for _ in range(2)]
        for asker in askers:
            asker.start()
        ground = violation_of(run, "user:alice")
        for number in range(12):
            suspension_of(run, "user:alice", grounds=[ground], duration="PT1H")
            suspension_of(run, f"user:u{number}", basis="legal_order")
            run.clock.move(minutes=31)
        caught_up(follower, run)
        stop.set()
        for asker in askers:
            asker.join()

        assert [] == wrong
        assert answers(run) == verdicts(follower)


# --- being cut off --------------------------------------------------------------------------------


def test_what_to_do_when_cut_off_must_be_said(run: Running) -> None:
    """There is no safe default: the gateway chooses."""
    with pytest.raises(TypeError, match="when_cut_off"):
        AccessFollower(run.url, run.keys["service"])  # type: ignore[call-arg]
    for url in ("ledger.example", "ftp://ledger.example", "http://"):
        with pytest.raises(ValueError, match="http"):
            AccessFollower(url, "key", when_cut_off="deny")


def test_age_is_counted_from_the_last_word_of_the_ledger(run: Running) -> None:
    """Every answer of the ledger, with or without news, makes it young again."""
    watch = Stopwatch()
    with following(run, monotonic=watch) as follower:
        assert 0 == follower.age_s
        watch.now += 30
        assert 30 == follower.age_s == follower.verdict("user:bob", "use", "model:mini-2").age_s
        suspension_of(run, "user:alice")
        caught_up(follower, run)
        until(lambda: follower.age_s == 0, within_s=SOON_S)


def free_port() -> int:
    """Return a port that is free now, and was not used before."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextmanager
def served(folder: Path, clock: SetClock, keys: dict[str, str], port: int) -> Iterator[Running]:
    """Serve the ledger of a folder, a new one or one that is there, on a port."""
    url = f"sqlite:///{folder / 'ledger.db'}"
    service = build(Settings(database_url=url, origin="test.ledger"), clock=clock)
    is_new = service.recorder.position == 0
    if is_new:
        keys |= open_ledger(service)
    with serving(service, port=port) as address, httpx.Client(base_url=address) as http:
        run = Running(service, address, clock, keys, http)
        if is_new:
            found(run)
            suspension_of(run, "user:alice", duration="P1D")
        yield run


def test_cut_off_it_does_what_the_gateway_chose(tmp_path: Path) -> None:
    """deny: nobody is let in. allow_flagged: what was known last, by the clock, and marked."""
    watch, keys, clock, port = Stopwatch(), dict[str, str](), SetClock(), free_port()
    with served(tmp_path, clock, keys, port) as run:
        pass
    with (
        served(tmp_path, clock, keys, port) as run,
        following(run, start=False, monotonic=watch) as denying,
        following(run, start=False, monotonic=watch, when_cut_off="allow_flagged") as allowing,
    ):
        denying.start()
        allowing.start()
        replaced = replace(run)
    # The service is gone, and the followers are stopped: nothing is confirmed any more.
    for follower in (denying, allowing):
        assert verdicts(follower) == [False, False, True] + [True] * 9
    watch.now += CUT_OFF_AFTER_S - 1
    for follower in (denying, allowing):
        assert not follower.is_cut_off
        assert not follower.verdict("user:bob", "use", "model:mini-2").flagged
        assert verdicts(follower) == [False, False, True] + [True] * 9
    watch.now += 2
    assert denying.is_cut_off
    assert allowing.is_cut_off
    assert [False] * 12 == verdicts(denying)
    verdict = denying.verdict("user:bob", "use", "model:mini-2")
    assert (True, ("cut_off",), ()) == (verdict.flagged, verdict.reasons, verdict.suspensions)
    assert CUT_OFF_AFTER_S < verdict.age_s
    assert [False, False, True] + [True] * 9 == verdicts(allowing)
    for model in MODELS:
        assert allowing.verdict("user:alice", "use", f"model:{model}").flagged
    replaced.clock.move(days=1)
    assert [True] * 12 == verdicts(allowing)


def test_it_goes_on_where_it_was_when_the_ledger_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After a pause of the ledger it takes in what it missed; no new snapshot, no restart."""
    watch, keys, clock, port = Stopwatch(), dict[str, str](), SetClock(), free_port()
    follower: AccessFollower | None = None
    with caplog.at_level(logging.WARNING, "projections.access.follower"):
        with served(tmp_path, clock, keys, port) as run:
            follower = AccessFollower(
                run.url,
                keys["service"],
                when_cut_off="deny",
                clock_ns=lambda: microseconds(clock()) * 1_000,
                monotonic=watch,
            )
            follower.start(timeout_s=SOON_S)
        try:
            index = follower._index
            until(lambda: "cut off" in caplog.text, within_s=SOON_S)
            watch.now += CUT_OFF_AFTER_S + 1
            assert not follower.is_allowed("user:bob", "use", "model:atlas-3")
            with served(tmp_path, clock, keys, port) as run:
                suspension_of(run, "user:bob")
                caught_up(follower, run)
                until(lambda: not follower.is_cut_off, within_s=SOON_S)

                assert index is follower._index
                assert 0 == follower.age_s
                assert answers(run) == verdicts(follower)
                follower.stop()
        finally:
            follower.stop()


def test_a_ledger_that_went_back_is_not_followed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An old copy of the ledger does not lift what was decided since: the follower is cut off."""
    keys, clock, port = dict[str, str](), SetClock(), free_port()
    old = tmp_path / "old"
    old.mkdir()
    with served(tmp_path, clock, keys, port) as run:
        with sqlite3.connect(tmp_path / "ledger.db") as live:
            live.execute("VACUUM INTO ?", (str(old / "ledger.db"),))
        live.close()
        shutil.copy2(tmp_path / "ledger.vault-key", old)
        suspension_of(run, "user:bob")
        follower = AccessFollower(
            run.url,
            keys["service"],
            when_cut_off="deny",
            clock_ns=lambda: microseconds(clock()) * 1_000,
        )
        follower.start(timeout_s=SOON_S)
        position = follower.position
        assert follower.is_allowed("user:carol", "use", "model:atlas-3")
    try:
        with (
            caplog.at_level(logging.WARNING, "projections.access.follower"),
            served(old, clock, keys, port) as run,
        ):
            until(lambda: follower.is_cut_off, within_s=SOON_S)

            assert position == follower.position > run.service.recorder.position
            assert not follower.is_allowed("user:carol", "use", "model:atlas-3")
            assert "behind" in caplog.text
            follower.stop()
    finally:
        follower.stop()
        shutil.rmtree(old)


def test_a_key_that_no_longer_works_cuts_off(
    run: Running, caplog: pytest.LogCaptureFixture
) -> None:
    """A refusal is no confirmation; and without a key there is no snapshot."""
    watch = Stopwatch()
    issued = run.done("POST", "/v1/operators/the-service/keys", role="admin", json={})
    mine = replace(run, keys={**run.keys, "service": issued["key"]})
    with (
        caplog.at_level(logging.WARNING, "projections.access.follower"),
        following(mine, monotonic=watch) as follower,
    ):
        position = follower.position
        run.done("DELETE", f"/v1/keys/{issued['id']}", role="admin")
        suspension_of(run, "user:alice")
        until(lambda: "401" in caplog.text, within_s=SOON_S)
        assert position == follower.position
        watch.now += CUT_OFF_AFTER_S + 1
        assert follower.is_cut_off
        with (
            following(mine, start=False) as stranger,
            pytest.raises(Unavailable, match="snapshot"),
        ):
            stranger.start(timeout_s=0.2)
        assert (0, False) == (stranger.position, stranger.is_allowed("user:bob", "use", "model:m"))
        assert stranger.verdict("user:bob", "use", "model:m").flagged


# --- a ledger of another version ------------------------------------------------------------------


class Stranger:
    """What a ledger of a later version may send: records and changes as they are given."""

    def __init__(self, records: list[list[object]], changes: list[dict[str, object]]) -> None:
        self.records = records
        self.changes = changes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer with the records, or with the changes."""
        assert scope["type"] == "http"
        if scope["path"] == "/v1/access/snapshot":
            body = b"".join(orjson.dumps(record) + b"\n" for record in self.records)
        else:
            newest = self.changes or [{"position": self.records[-1][1]}]
            body = orjson.dumps(
                {
                    "position": newest[-1]["position"],
                    "recorded_at": "2026-11-24T10:00:00.000000Z",
                    "events": self.changes,
                    "known": [],
                }
            )
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@contextmanager
def listening(app: Any) -> Iterator[str]:
    """Serve any ASGI application; yields its URL."""
    bound = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


END: Final[list[object]] = ["ledger", 9, "2026-11-24T10:00:00.000000Z", "allow"]
LATER: Final = {
    "stream": "subject/user:alice",
    "version": 2,
    "recorded_at": "2026-11-24T10:00:00.000000Z",
    "data": {},
}


@pytest.mark.parametrize(
    "change",
    [
        {"position": 10, "type": "subject.quarantined", "schema": 1},
        {"position": 10, "type": "subject.suspended", "schema": 99},
    ],
)
def test_a_fact_of_a_later_version_cuts_off(
    change: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    """What it cannot understand it does not pass over: from then on it is cut off, at once."""
    stranger = Stranger([END], [LATER | change])
    with (
        caplog.at_level(logging.ERROR),
        listening(stranger) as url,
        AccessFollower(url, "key", when_cut_off="deny") as follower,
    ):
        until(lambda: follower.is_cut_off and "not known" in caplog.text)

        assert 9 == follower.position
        assert not follower.is_allowed("user:bob", "use", "model:atlas-3")


@pytest.mark.parametrize(
    "records",
    [
        [["quarantine", "user:alice"], END],
        [],
        [["link", "user:alice", "organization:acme"]],
        [["suspension", "user:alice"], END],
    ],
    ids=["another kind", "nothing", "cut off", "another shape"],
)
def test_a_snapshot_that_is_not_understood_is_not_used(
    records: list[list[object]], caplog: pytest.LogCaptureFixture
) -> None:
    """Half a snapshot, or one of a later version, answers nothing, whatever was chosen."""
    with caplog.at_level(logging.CRITICAL), listening(Stranger(records, [])) as url:
        follower = AccessFollower(url, "key", when_cut_off="allow_flagged")
        try:
            with pytest.raises(Unavailable, match="no snapshot"):
                follower.start(timeout_s=0.3)

            assert not follower.is_allowed("user:bob", "use", "model:atlas-3")
        finally:
            follower.stop()


def test_a_change_that_cannot_be_applied_begins_anew(caplog: pytest.LogCaptureFixture) -> None:
    """Cut off until the whole is loaded again, because what is in memory may be half changed."""
    malformed = LATER | {"position": 10, "type": "subject.suspended", "schema": 1}
    stranger = Stranger([END], [malformed])
    with (
        caplog.at_level(logging.ERROR),
        listening(stranger) as url,
        AccessFollower(url, "key", when_cut_off="deny") as follower,
    ):
        until(lambda: "following failed" in caplog.text and follower.is_cut_off)
        index = follower._index
        stranger.records = [["known", "user:alice"], ["ledger", 20, *END[2:]]]
        stranger.changes = []
        until(lambda: follower.position == 20 and not follower.is_cut_off)
        assert index is not follower._index


# --- stopping -------------------------------------------------------------------------------------


def test_stopping_does_not_wait_for_the_ledger(run: Running) -> None:
    """The thread ends though the ledger holds its question open; stopping twice does no harm."""
    with following(run) as follower:
        until(lambda: bool(run.service.feed._waiting))
        follower.stop()

        assert not follower._thread.is_alive()
        follower.stop()
        assert follower.is_allowed("user:bob", "use", "model:atlas-3")
    never = AccessFollower(run.url, "key", when_cut_off="deny")
    never.stop()


# --- an ASGI gateway ------------------------------------------------------------------------------


def user_of(scope: Any) -> str | None:
    """Return the user whom a gateway's own login found."""
    user = dict(scope["headers"]).get(b"x-user")
    return f"user:{user.decode()}" if user else None


def model_of(scope: Any) -> str | None:
    """Return the model that a path names."""
    _, area, model = scope["path"].split("/", 2)
    return f"model:{model}" if area == "models" else None


async def backend(scope: Any, receive: Any, send: Any) -> None:
    """Answer with what the middleware says of access."""
    verdict = scope.get("state", {}).get("access")
    body = orjson.dumps({"position": verdict and verdict.position})
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def test_a_gateway_refuses_whom_the_ledger_suspends(run: Running) -> None:
    """Over HTTP: 403 with problem details for the suspended; the rest passes, with its verdict."""
    suspension = suspension_of(run, "user:alice")
    with following(run) as follower:
        gateway = RequireAccess(backend, follower, subject_of=user_of, resource_of=model_of)
        with listening(gateway) as url, httpx.Client(base_url=url) as http:
            refused = http.get("/models/atlas-3", headers={"X-User": "alice"})
            passed = http.post("/models/mini-2", headers={"X-User": "alice"}, json={})
            anybody = http.get("/about/us", headers={"X-User": "alice"})
            nobody = http.get("/models/atlas-3")
            suspension_of(run, "user:bob")
            caught_up(follower, run)
            now = http.get("/models/atlas-3", headers={"X-User": "bob"})

    assert [403, 200, 200, 200, 403] == [
        answer.status_code for answer in (refused, passed, anybody, nobody, now)
    ]
    assert "application/problem+json" == refused.headers["content-type"]
    problem = refused.json()
    assert ("access_refused", 403) == (problem["code"], problem["status"])
    assert (["suspended"], [suspension]) == (problem["reasons"], problem["suspensions"])
    assert problem["until"] in problem["detail"]
    assert "model:atlas-3" in problem["detail"]
    assert problem["position"] == passed.json()["position"]
    assert [None, None] == [answer.json()["position"] for answer in (anybody, nobody)]


def test_a_gateway_closes_the_sockets_of_whom_the_ledger_suspends(run: Running) -> None:
    """A web socket is refused before it is accepted; the lifespan passes."""
    suspension_of(run, "user:alice")
    sent: list[Mapping[str, Any]] = []
    passed: list[str] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope["type"])

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, object]:
        return {}

    with following(run) as follower:
        gateway = RequireAccess(inner, follower, subject_of=user_of, resource_of=model_of)
        for kind, user in (("websocket", b"alice"), ("websocket", b"bob"), ("lifespan", b"alice")):
            scope = {"type": kind, "path": "/models/atlas-3", "headers": [(b"x-user", user)]}
            # It awaits nothing but what is above, so that no loop is needed to run it.
            step = gateway(scope, receive, send).__await__()
            assert list(step) == []

    assert [{"type": "websocket.close", "code": 1008}] == sent
    assert ["websocket", "lifespan"] == passed
