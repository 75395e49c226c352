"""A primary, and a standby that takes over: what was answered is there, or its loss is said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from ledger.domain.errors import NotConfirmed, Unavailable
from ledger.domain.events import LedgerRecovered
from ledger.service.wiring import build
from ledger.store.postgres import PostgresDatastore
from tests.checks import check_ledger
from tests.conftest import SetClock, check_store, open_ledger, settings_at
from tests.postgres import SERVER_VARIABLE, NoServerError, Server, Standby
from tests.service.conftest import Running, opened, until
from tests.serving import asked, program, suspended
from tests.store.test_postgres_faults import is_recorded, register, writing

LIMIT_S = 1  # until a commit that no standby confirms is given up


@contextmanager
def replicated() -> Iterator[tuple[Server, Standby]]:
    """A primary and a hot standby that streams from it."""
    with ExitStack() as stack:
        try:
            primary = Server()
            stack.callback(primary.remove)
            standby = Standby(primary)
            stack.callback(standby.remove)
        except NoServerError as error:
            pytest.skip(f"{error}; {SERVER_VARIABLE} cannot help, because this breaks the server")
        until(lambda: states(primary) == ["async"])
        yield primary, standby


@pytest.fixture
def pair() -> Iterator[tuple[Server, Standby]]:
    """A primary and a standby, to be broken."""
    with replicated() as pair:
        yield pair


def states(primary: Server) -> list[str]:
    """How the standbys of a primary follow it."""
    return [state for (state,) in primary.sql("SELECT sync_state FROM pg_stat_replication")]


def synchronous(primary: Server) -> None:
    """Let a commit be answered only when the standby has it."""
    primary.configure(synchronous_standby_names=Standby.NAME)
    primary.reload()
    until(lambda: states(primary) == ["sync"])


def either(primary: Server, standby: Server) -> str:
    """The address of whichever of the two is the primary, as it is set for a service."""
    return (
        f"postgresql://postgres@/postgres?host={primary.folder},{standby.folder}"
        "&target_session_attrs=read-write"
    )


# --- synchronous ----------------------------------------------------------------------------------


def test_what_a_synchronous_standby_confirmed_outlives_the_primary(
    pair: tuple[Server, Standby], tmp_path: Path
) -> None:
    """Four threads write while the primary dies; all that was answered is on the promoted standby.

    Writing goes on by itself, nothing is taken for a conflict, and what is said not to be there
    does not come.
    """
    primary, standby = pair
    store = PostgresDatastore(either(primary, standby))
    ledger = open_ledger(tmp_path / "ledger.db", SetClock(), store=store)
    synchronous(primary)
    with writing(ledger) as load:
        load.await_recorded(60)
        primary.kill()
        standby.promote()
        load.forget_recorded()
        load.await_recorded(60)
    load.check_answers(standby.url)
    check_store(ledger.recorder)
    store.close()
    ledger.vault.close()


def test_a_write_that_no_standby_confirms_is_never_answered_as_recorded(
    pair: tuple[Server, Standby], tmp_path: Path
) -> None:
    """The standby hangs: the answer is that nobody can tell, also when it is asked again.

    When the standby goes on, the same command is answered as recorded, once.
    """
    primary, standby = pair
    store = PostgresDatastore(primary.url, lock_timeout_s=LIMIT_S)
    ledger = open_ledger(tmp_path / "ledger.db", SetClock(), store=store)
    synchronous(primary)
    assert "recorded" == register(ledger, 1)

    with standby.frozen():
        for _ in range(2):
            with pytest.raises(NotConfirmed), ledger.together():
                register(ledger, 2)
    assert "repeated" == register(ledger, 2)
    until(lambda: is_recorded(standby.url, 2))

    assert 2 == ledger.recorder.position
    check_store(ledger.recorder)
    store.close()
    ledger.vault.close()


# --- asynchronous ---------------------------------------------------------------------------------


def suspend(run: Running, names: range) -> int:
    """Suspend users and wait until all of it is signed; return the newest position."""
    position = 0
    for name in names:
        body = suspended(f"u{name}")
        position = run.done("POST", "/v1/suspensions", role="officer", json=body)["position"]
    until(lambda: run.service.signer.published[0] >= position)
    return position


def test_what_an_asynchronous_standby_had_not_received_is_named_as_lost(
    pair: tuple[Server, Standby], tmp_path: Path
) -> None:
    """The range is said; nothing is recorded or signed over it; checks go on, and are marked.

    A process that starts afterwards finds the same. ``recover --accept-loss`` goes on without it.
    """
    primary, standby = pair
    url = either(primary, standby)
    settings = settings_at(url, tmp_path, origin="test.ledger")
    with opened(settings, SetClock()) as run:
        run.checked = False
        kept = suspend(run, range(3))
        until(lambda: standby.sql("SELECT max(size) FROM log_checkpoints") == [(kept,)])
        standby.stop()
        signed = suspend(run, range(3, 6))

        primary.kill()
        standby.start()
        standby.promote()
        until(lambda: run("GET", "/readyz").json().get("code") == "log_not_verified")

        lost = f"lost events {kept + 1} to {signed}"
        assert lost in run("GET", "/readyz").json()["detail"]
        refused = run("POST", "/v1/suspensions", role="officer", json=suspended("u9"))
        assert (503, "log_not_verified") == (refused.status_code, refused.json()["code"])
        for name in (0, 5):
            answer = run.done(
                "POST", "/access/v1/evaluation", role="service", json=asked(f"u{name}")
            )
            assert answer["decision"] is False
            assert "not_verified" == answer["context"]["log"]

        # The old primary comes back. Whoever saw the other one does not go back to it.
        primary.start()
        standby.sql(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        store = run.service.recorder.store
        for commit in (True, False):
            with pytest.raises(Unavailable, match="promoted"), store.transaction(commit=commit):
                pass
        assert isinstance(store, PostgresDatastore)
        store._timeline = 0
        with store.transaction(commit=True) as c:  # nothing but that memory is in the way
            c.execute("SELECT max(position) FROM events")
            assert signed == c.fetchall()[0][0]
        primary.kill()

    assert [(kept, kept)] == standby.sql(
        "SELECT (SELECT max(position) FROM events), (SELECT max(size) FROM log_checkpoints)"
    )
    service = build(settings)
    service.signer.check()
    assert service.signer.doubt is not None
    assert lost in service.signer.doubt
    service.close()

    named = {"LEDGER_DATABASE_URL": url, "LEDGER_FILES": str(tmp_path)}
    database = tmp_path / "ledger.db"
    done = program("recover", "--accept-loss", "--json", database=database, **named)
    assert 0 == done.returncode, done.stderr
    assert (kept + 1, signed) == tuple(
        json.loads(done.stdout)[name] for name in ("lost_from", "checkpoint_size")
    )
    service = build(settings)
    service.signer.check()
    assert service.signer.doubt is None
    event = service.recorder.event(kept + 1)
    assert event is not None
    assert isinstance(event.event, LedgerRecovered)
    check_ledger(service)
    service.close()

    # A process that never saw the promoted one is kept off the old primary by what was signed.
    primary.start()
    service = build(settings_at(primary.url, tmp_path, origin="test.ledger"))
    service.signer.check()
    assert service.signer.doubt is not None
    service.close()
