"""How often one key may ask: off by default, and the same limit for every way to ask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import orjson
import pytest

from ledger.domain.errors import InvalidValue
from ledger.service.limiter import Limiter
from ledger.service.settings import Settings
from tests.service.conftest import Running, SetClock, found, opened, suspension_of, until
from tests.service.wire import Wire, request

EVALUATION: Final = "/access/v1/evaluation"
EVALUATIONS: Final = "/access/v1/evaluations"
ASKED: Final = {
    "subject": {"type": "user", "id": "alice"},
    "action": {"name": "use"},
    "resource": {"type": "model", "id": "atlas-3"},
}
OUTSIDE: Final = {"Ledger-Min-Position": "0"}  # answered by the application, not in the parser


@contextmanager
def limited(folder: Path, rate: str | None) -> Iterator[Running]:
    """A service with a limit, and with a suspended user, whom another key has suspended."""
    settings = Settings(database_url=f"sqlite:///{folder / 'ledger.db'}", rate_limit=rate)
    with opened(settings, SetClock()) as run:
        yield run


def check(
    run: Running, *, body: Any = ASKED, path: str = EVALUATION, **more: Any
) -> httpx.Response:
    """Ask the decision point."""
    return run("POST", path, role="service", json=body, **more)


def test_nobody_is_limited_by_default(running: Running) -> None:
    """Without the setting there is no limit and no counting."""
    assert running.service.limiter is None
    assert {200} == {check(running).status_code for _ in range(200)}


def test_every_way_to_ask_counts_against_one_limit(tmp_path: Path) -> None:
    """In the parser, with a known head, by the application, in batches, searches, other routes."""
    with limited(tmp_path, "7/minute") as run:
        allowed = [
            check(run),
            check(run),
            check(run, headers=OUTSIDE),
            check(run, path=EVALUATIONS, body={**ASKED, "evaluations": [{}] * 100}),
            run("POST", "/access/v1/search/action", role="service", json=ASKED),
            run("GET", "/v1/access?subject=user:alice", role="service"),
            check(run, headers={"X-Request-ID": "7"}),
        ]
        refused = [
            check(run),
            check(run, headers=OUTSIDE),
            check(run, headers={"X-Request-ID": "8"}),
            check(run, path=EVALUATIONS),
            run("POST", "/access/v1/search/action", role="service", json=ASKED),
            run("GET", "/v1/access?subject=user:alice", role="service"),
        ]

        assert [200] * 7 == [answer.status_code for answer in allowed]
        for answer in refused:
            assert 429 == answer.status_code
            assert "application/problem+json" == answer.headers["content-type"]
            problem = answer.json()
            assert ("too_many_requests", 429) == (problem["code"], problem["status"])
            assert "7 per 1 minute" in problem["detail"]
            assert 1 <= int(answer.headers["retry-after"]) <= 60
            assert "decision" not in problem
        assert "8" == refused[2].headers["x-request-id"]
        # Others are not concerned: another key, and what needs no key.
        assert 200 == run("GET", "/v1/access?subject=user:alice", role="auditor").status_code
        assert 200 == run("GET", "/livez").status_code


def test_a_refused_request_counts_once(tmp_path: Path) -> None:
    """What the parser hands over is not counted again, and strangers count against nobody."""
    with limited(tmp_path, "6/minute") as run, Wire(run.url) as wire:
        good = orjson.dumps(ASKED)
        # The third has the head of the second, which is known by then.
        bodies = [b"{}", good, good[:-1] + b"]", good]
        key = run.keys["service"]
        statuses = [wire.ask(request(EVALUATION, body, key=key)).status for body in bodies]
        other = {"Content-Type": "text/plain"}
        statuses.append(check(run, content=good, headers=other, body=None).status_code)
        for _ in range(10):
            assert 401 == run("POST", EVALUATION, json=ASKED).status_code
            assert 403 == run("POST", EVALUATION, role="officer", json=ASKED).status_code

        assert [400, 200, 400, 200, 400] == statuses
        assert [200, 429] == [check(run).status_code for _ in range(2)]


def test_commands_are_limited_too(tmp_path: Path) -> None:
    """An officer's key has the same limit, and a refused command records nothing."""
    with limited(tmp_path, "1000/minute") as run:
        found(run)
        suspension_of(run, "user:alice")
    with limited(tmp_path / "other", "2/minute") as run:
        body = {"subject": {"type": "user", "id": "bob"}}
        statuses = [
            run(
                "PUT", "/v1/subjects", role="officer", json=body | {"properties": {"n": n}}
            ).status_code
            for n in range(4)
        ]
        position = run.service.recorder.position

        assert [201, 201, 429, 429] == statuses
        assert "subject.registered" == run.service.recorder.event(position).event.TYPE  # type: ignore[union-attr]


def test_a_new_window_is_a_new_start(tmp_path: Path) -> None:
    """After the time in Retry-After the key may ask again."""
    with limited(tmp_path, "2/second") as run:
        until(lambda: check(run).status_code == 429)
        answer = check(run)

        assert answer.status_code in (200, 429)
        if answer.status_code == 429:
            assert "1" == answer.headers["retry-after"]
        until(lambda: check(run).status_code == 200)


@pytest.mark.parametrize("rate", ["often", "10", "10/fortnight", "-1/second", "", "ten/second"])
def test_a_rate_that_is_none_is_refused(rate: str) -> None:
    """With what it must look like."""
    with pytest.raises(InvalidValue, match="1000/second"):
        Limiter(rate)
