"""Reads from a hot standby: they say which position they are of, and never claim a later one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from pydantic import ValidationError

from ledger.domain.errors import InvalidValue, Unavailable
from ledger.service.settings import Settings
from ledger.service.wiring import build
from tests.conftest import SetClock, settings_at
from tests.postgres import Server, Standby, fresh_database
from tests.service.conftest import Running, opened, until
from tests.serving import asked, suspended
from tests.test_replication import replicated


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Server, Standby]]:
    """A primary and a standby for the tests of this module."""
    with replicated() as pair:
        yield pair


@pytest.fixture
def run(servers: tuple[Server, Standby], tmp_path: Path) -> Iterator[Running]:
    """A service that writes to the primary and reads from the standby."""
    primary, standby = servers
    with fresh_database(primary.url) as url:
        name = url.partition("?")[0].rpartition("/")[2]
        read_url = f"postgresql://postgres@/{name}?host={standby.folder}"
        until(lambda: (name,) in standby.sql("SELECT datname FROM pg_database"))
        settings = settings_at(url, tmp_path, origin="test.ledger", read_url=read_url)
        with opened(settings, SetClock()) as run:
            yield run


def suspend(run: Running, name: str) -> int:
    """Suspend a user; return the position of that."""
    done = run.done("POST", "/v1/suspensions", role="officer", json=suspended(name))
    return int(done["position"])


def read(run: Running, path: str, *, at_least: int | None = None) -> httpx.Response:
    """Read as an auditor, from a position on."""
    headers = {} if at_least is None else {"Ledger-Min-Position": str(at_least)}
    return run("GET", path, role="auditor", headers=headers)


LISTS = ("/v1/events", "/v1/suspensions", "/v1/policies", "/v1/events/counts")
ABOUT = ("/v1/access?subject=user:bob", "/v1/subjects/record?subject=user:bob")


def test_a_read_waits_for_the_standby_to_have_the_position(run: Running) -> None:
    """With Ledger-Min-Position every read includes what was just answered, whatever it is."""
    for number in range(10):
        position = suspend(run, f"u{number}")
        for path in (*LISTS, *ABOUT):
            answer = read(run, path, at_least=position)
            assert 200 == answer.status_code, answer.text
            assert position <= int(answer.headers["Ledger-Position"])
            assert position <= answer.json()["position"]
    assert 200 == read(run, f"/v1/events/{position}/proof").status_code
    inclusion = read(run, f"/v1/log/inclusion?position={position}")
    assert 200 == inclusion.status_code, inclusion.text
    assert 200 == read(run, "/log/tile/0/000.p/1").status_code


def test_a_standby_that_lags_is_read_at_its_own_position(
    run: Running, servers: tuple[Server, Standby]
) -> None:
    """Each answer is of the standby's data and says so; asked for more, it is ``behind``.

    Decisions, commands and everything that they look at are the primary's meanwhile.
    """
    _, standby = servers
    before = suspend(run, "ann")
    assert 200 == read(run, "/v1/events", at_least=before).status_code
    with standby.paused():
        after = suspend(run, "bob")

        for path in LISTS:
            answer = read(run, path)
            body: dict[str, Any] = answer.json()
            assert before == body["position"] == int(answer.headers["Ledger-Position"])
        newest = read(run, "/v1/events").json()["items"][0]
        assert before == newest["position"]
        access = read(run, ABOUT[0]).json()
        assert ([], before) == (access["suspensions"], access["position"])
        assert "good" == read(run, ABOUT[1]).json()["standing"]
        assert 404 == read(run, f"/v1/events/{after}").status_code

        behind = read(run, "/v1/events", at_least=after)
        assert (503, "behind") == (behind.status_code, behind.json()["code"])
        assert f"ends at {before}" in behind.json()["detail"]
        until(lambda: run.service.signer.published[0] >= after)
        inclusion = read(run, f"/v1/log/inclusion?position={after}")
        assert (503, "behind") == (inclusion.status_code, inclusion.json()["code"])

        assert not run.allowed("user:bob", "m1")
        check = run(
            "POST",
            "/access/v1/evaluation",
            role="service",
            json=asked("bob"),
            headers={"Ledger-Min-Position": str(after)},
        )
        assert (200, False) == (check.status_code, check.json()["decision"])
        changes = run("GET", f"/v1/access/changes?after={before}", role="service").json()
        assert (after, [after]) == (
            changes["position"],
            [event["position"] for event in changes["events"]],
        )
        assert 0 == run("GET", "/readyz").json()["lag"]
        ended = run.done(
            "POST",
            "/v1/reinstatements",
            role="approver",
            json={
                "suspension": run.service.recorder.event(after).event.about,  # type: ignore[union-attr]
                "cause": "legal_order",
                "reason": "Another order.",
            },
        )
    answer = read(run, ABOUT[1], at_least=ended["position"])
    assert (200, "good") == (answer.status_code, answer.json()["standing"])


def test_a_standby_that_is_gone_takes_only_the_reads_with_it(
    run: Running, servers: tuple[Server, Standby]
) -> None:
    """Reads are 503 until it is back; checks and commands go on."""
    _, standby = servers
    standby.stop()
    try:
        position = suspend(run, "ann")
        assert not run.allowed("user:ann", "m1")
        gone = read(run, "/v1/events")
        assert (503, "unavailable") == (gone.status_code, gone.json()["code"])
        run.service.require_own_standby()  # which it cannot tell now, and says
    finally:
        standby.start()
    answer = read(run, "/v1/events", at_least=position)
    assert 200 == answer.status_code, answer.text


def test_a_query_that_the_standby_ends_to_go_on_replaying_is_unavailable(run: Running) -> None:
    """It is no fault of ours, and may succeed when it is asked again."""
    position = suspend(run, "ann")
    assert 200 == read(run, "/v1/events", at_least=position).status_code

    def read_while_it_goes() -> None:
        with run.service.reading() as (c, _):
            c.execute("SELECT count(*) FROM access_suspensions")
            with psycopg.connect(run.service.settings.database_url, autocommit=True) as primary:
                # It takes the table for itself, which a reader of the standby may not hold up.
                primary.execute("VACUUM FULL access_suspensions")
            while True:
                c.execute("SELECT count(*) FROM access_suspensions")

    with pytest.raises(Unavailable, match=r"ended the transaction|was lost"):
        read_while_it_goes()

    assert 200 == read(run, "/v1/suspensions").status_code


def test_a_standby_of_another_ledger_is_refused(
    run: Running, servers: tuple[Server, Standby], tmp_path: Path, postgres_ledger: str
) -> None:
    """What is read from must hold the same first event."""
    other = tmp_path / "other"
    other.mkdir()
    settings = settings_at(postgres_ledger, other, origin="test.ledger")
    first = build(settings)
    first.open()
    first.close()
    read_url = run.service.settings.read_url
    service = build(settings.model_copy(update={"read_url": read_url}))

    with pytest.raises(InvalidValue, match="another ledger"):
        service.start()
    service.close()


@pytest.mark.parametrize(
    ("database", "standby"),
    [
        ("sqlite:///var/ledger.db", "postgresql://db/ledger"),
        ("postgresql://db/ledger", "sqlite:///var/ledger.db"),
    ],
)
def test_only_postgresql_has_a_standby_to_read_from(database: str, standby: str) -> None:
    """Anything else is refused with a sentence that says what it must be."""
    with pytest.raises(ValidationError, match="LEDGER_READ_URL must be postgresql"):
        Settings(database_url=database, read_url=standby)
