"""The new enemy: suspended through one process, never let in by another that is told the position.

A gateway learns the position of a suspension and asks another process at once. Without
``Ledger-Min-Position`` that process may answer from before the suspension; with it, it may not,
whatever way it is asked. The same rounds without the header, through a process that has stopped
looking for news, show that the header is what keeps the enemy out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from ledger.service.settings import Settings
from ledger.service.wiring import Service, build
from ledger.store import sqlite
from tests.checks import check_ledger
from tests.service.conftest import serving
from tests.serving import Process, asked, opened, started

ROUNDS: Final = 200
ROUNDS_SOAK: Final = 10_000
ROUNDS_STALE: Final = 20
NEVER_S: Final = 1e6
WAYS: Final = ("evaluation", "evaluations", "search", "view")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("enemy") / "ledger.db"


@pytest.fixture(scope="module")
def writer(database: Path) -> Iterator[Process]:
    """A process of its own that serves a new ledger, with a model in its catalogue."""
    keys = opened(database)
    with started(database, keys) as process:
        listing = {"resource": {"type": "model", "id": "m1"}}
        process.done("PUT", "/v1/resources", role="admin", json=listing)
        yield process
        assert 0 == process.stop()


class Reader:
    """The process of the test, as another one that serves the ledger."""

    def __init__(self, service: Service, http: httpx.Client, key: str) -> None:
        self.service = service
        self.http = http
        self.key = key

    def ask(self, path: str, body: object, **headers: str) -> httpx.Response:
        """Ask with a service's key."""
        headers = {"Authorization": f"Bearer {self.key}", **headers}
        if body is None:
            return self.http.get(path, headers=headers)
        return self.http.post(path, json=body, headers=headers)

    def lets_in(self, user: str, way: str, **headers: str) -> bool:
        """Tell whether a user would be let in, asked in one of the ``WAYS``."""
        body = asked(user)
        match way:
            case "evaluation":
                found = self.answered("/access/v1/evaluation", body, **headers)
                return bool(found["decision"])
            case "evaluations":
                more: dict[str, object] = {"evaluations": [{}]}
                found = self.answered("/access/v1/evaluations", body | more, **headers)
                return bool(found["evaluations"][0]["decision"])
            case "search":
                found = self.answered("/access/v1/search/action", body, **headers)
                return bool(found["results"])
            case _:
                found = self.answered(f"/v1/access?subject=user:{user}", None, **headers)
                return bool(found["resources"][0]["allowed"])

    def answered(self, path: str, body: object, **headers: str) -> Any:
        """Ask what must be answered, from the position that was named or a later one."""
        answer = self.ask(path, body, **headers)
        assert 200 == answer.status_code, answer.text
        minimum = headers.get("Ledger-Min-Position", "0")
        assert int(minimum) <= int(answer.headers["Ledger-Position"])
        return answer.json()


@pytest.fixture
def reader(database: Path, writer: Process) -> Iterator[Reader]:
    """The process of the test, on the ledger that the other one writes."""
    service = build(Settings(database_url=f"sqlite:///{database}"))
    with serving(service) as url, httpx.Client(base_url=url, timeout=30) as http:
        yield Reader(service, http, writer.keys["service"])
        service.feed.catch_up()
        check_ledger(service)


def suspend_and_ask(writer: Process, reader: Reader, rounds: int) -> None:
    """Suspend through the one process and ask the other at once, again and again."""
    for number in range(rounds):
        enemy = f"enemy-{rounds}-{number}"
        position = writer.suspend(enemy).headers["Ledger-Position"]
        assert not reader.lets_in(enemy, WAYS[number % len(WAYS)], **at(position))


def at(position: str) -> dict[str, str]:
    """The header that names a position."""
    return {"Ledger-Min-Position": position}


def test_no_process_lets_in_whom_another_has_just_suspended(
    writer: Process, reader: Reader
) -> None:
    """Asked with the position of the suspension, in any way: never allowed."""
    suspend_and_ask(writer, reader, ROUNDS)


@pytest.mark.soak
def test_no_process_lets_anybody_in_ten_thousand_times(writer: Process, reader: Reader) -> None:
    """Asked with the position of the suspension, in any way: never allowed."""
    suspend_and_ask(writer, reader, ROUNDS_SOAK)


def test_without_the_position_a_process_that_lags_lets_the_enemy_in(
    monkeypatch: pytest.MonkeyPatch, writer: Process, database: Path
) -> None:
    """The same without the header, where the process looks for no news: allowed, every time.

    Its answers say so: they name a position before the suspension. With the header it answers
    nothing, until it has caught up.
    """
    monkeypatch.setattr(sqlite, "POLL_INTERVAL_S", NEVER_S)
    service = build(Settings(database_url=f"sqlite:///{database}"))
    with serving(service) as url, httpx.Client(base_url=url, timeout=30) as http:
        reader = Reader(service, http, writer.keys["service"])
        before = service.feed.position
        for number in range(ROUNDS_STALE):
            enemy = f"stale-{number}"
            position = writer.suspend(enemy).headers["Ledger-Position"]
            stale = reader.ask("/access/v1/evaluation", asked(enemy))

            assert (200, True) == (stale.status_code, stale.json()["decision"])
            assert before == stale.json()["context"]["position"] < int(position)
        guarded = reader.ask("/access/v1/evaluation", asked(enemy), **at(position))
        assert (503, "behind") == (guarded.status_code, guarded.json()["code"])
        assert "decision" not in guarded.json()
        service.feed.catch_up()
        for number in range(ROUNDS_STALE):
            for way in WAYS:
                assert not reader.lets_in(f"stale-{number}", way, **at(position))
        check_ledger(service)
