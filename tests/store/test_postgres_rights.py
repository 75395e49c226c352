"""Each role on PostgreSQL may do what it is for, and no more: connected as each, and tried."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege, IntegrityConstraintViolation

from ledger.domain.errors import InvalidValue, Unavailable
from ledger.service.settings import Settings
from ledger.service.wiring import build, schema_script
from ledger.store.postgres import PostgresDatastore
from ledger.store.recorder import SCHEMA_VERSION
from tests.checks import check_ledger
from tests.conftest import SetClock
from tests.histories import awake, founded

ROLES = ("ledger_owner", "ledger_writer", "ledger_reader")


@pytest.fixture
def logins(postgres_url: str) -> Iterator[dict[str, str]]:
    """A login in each role, on a database that an owner has prepared: its address by its role."""
    names = {role: f"{role}_{uuid4().hex[:8]}" for role in ROLES}
    with psycopg.connect(postgres_url, autocommit=True) as c:
        c.execute(schema_script())
        for role, name in names.items():
            c.execute(f"CREATE ROLE {name} LOGIN IN ROLE {role}")
    parts = urlsplit(postgres_url)
    host = parts.netloc.rpartition("@")[2]
    yield {role: parts._replace(netloc=f"{name}@{host}").geturl() for role, name in names.items()}
    with psycopg.connect(postgres_url, autocommit=True) as c:
        for name in names.values():
            c.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def settings_of(url: str, folder: Path, **more: bool) -> Settings:
    return Settings(database_url=url, files=folder, origin="test.ledger", **more)  # type: ignore[arg-type]


def refused(url: str, statement: str) -> str:
    """Return what refuses a statement; ``done`` when nothing does. Nothing of it stays."""
    with psycopg.connect(url) as c:
        try:
            c.execute(statement)
        except InsufficientPrivilege:
            return "rights"
        except IntegrityConstraintViolation:
            return "trigger"
        finally:
            c.rollback()
    return "done"


def test_what_an_owner_runs_may_be_run_again(postgres_url: str) -> None:
    """What is there stays; so an upgrade runs it, too."""
    with psycopg.connect(postgres_url, autocommit=True) as c:
        for _ in range(2):
            c.execute(schema_script())
        assert [(SCHEMA_VERSION,)] == c.execute("SELECT version FROM ledger_schema").fetchall()
        owners = c.execute(
            "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname IN ('public', 'vault')"
        )
        assert [("ledger_owner",)] == owners.fetchall()


def test_a_writer_runs_a_ledger(logins: dict[str, str], tmp_path: Path, clock: SetClock) -> None:
    """With the rights of ledger_writer all of it works; no table is made by it."""
    service = build(settings_of(logins["ledger_writer"], tmp_path), clock=clock)
    service.open()

    service.require_modest_role()
    assert [] == service.lost_keys()
    check_ledger(service)
    service.close()


@pytest.mark.parametrize(
    ("statement", "owner", "writer", "reader"),
    [
        ("SELECT * FROM events", "done", "done", "done"),
        ("SELECT * FROM trail", "done", "done", "done"),
        ("SELECT * FROM vault.data_keys", "done", "done", "rights"),
        ("DELETE FROM vault.data_keys", "done", "done", "rights"),
        ("UPDATE events SET type = type", "trigger", "rights", "rights"),
        ("DELETE FROM events", "trigger", "rights", "rights"),
        ("TRUNCATE events", "trigger", "rights", "rights"),
        ("DELETE FROM log_hashes", "trigger", "rights", "rights"),
        ("UPDATE log_checkpoints SET size = size + 1", "trigger", "rights", "rights"),
        ("TRUNCATE log_checkpoints CASCADE", "trigger", "rights", "rights"),
        ("DELETE FROM commands", "done", "rights", "rights"),
        ("DROP TRIGGER events_are_never_changed ON events", "done", "rights", "rights"),
        ("ALTER TABLE events DISABLE TRIGGER ALL", "done", "rights", "rights"),
        ("ALTER TABLE events DISABLE TRIGGER USER", "done", "rights", "rights"),
        ("DROP TABLE events", "done", "rights", "rights"),
        ("SET session_replication_role = replica", "rights", "rights", "rights"),
        ("INSERT INTO events VALUES (7, 'x', 1, 'x', 'x', 'x')", "trigger", "trigger", "rights"),
        (
            """CREATE TEMP TABLE events (position BIGINT); INSERT INTO pg_temp.events VALUES (6);
            INSERT INTO public.events VALUES (7, 'x', 1, 'x', 'x', 'x')""",
            "trigger",
            "trigger",
            "rights",
        ),
        ("DELETE FROM trail", "done", "done", "rights"),
        ("UPDATE ledger_schema SET version = 9", "done", "rights", "rights"),
    ],
)
def test_a_role_may_do_what_it_is_for_and_no_more(
    logins: dict[str, str], statement: str, owner: str, writer: str, reader: str
) -> None:
    """Rights stop the writer where triggers stop the owner, who could remove them."""
    expected = (owner, writer, reader)
    assert expected == tuple(refused(logins[role], statement) for role in ROLES)


def test_nobody_serves_as_an_owner_or_a_superuser(
    postgres_url: str, logins: dict[str, str], tmp_path: Path, clock: SetClock
) -> None:
    """Whoever serves could not undo the triggers; unless the settings say that it may."""
    for url, why in ((logins["ledger_owner"], "owns"), (postgres_url, "superuser")):
        service = build(settings_of(url, tmp_path), clock=clock)
        with pytest.raises(InvalidValue, match=why):
            service.start()
        service.close()
        allowed = build(settings_of(url, tmp_path, allow_owner=True), clock=clock)
        allowed.require_modest_role()
        allowed.close()


def test_a_writer_says_what_the_owner_has_to_do(logins: dict[str, str], postgres_url: str) -> None:
    """A table that is missing is named, with the command that prints what makes it."""
    with psycopg.connect(postgres_url, autocommit=True) as c:
        c.execute("DROP TABLE trail CASCADE")
    store = PostgresDatastore(logins["ledger_writer"])

    with pytest.raises(Unavailable, match=r"lacks the table trail.*schema --sql"):
        store.make_tables(["CREATE TABLE IF NOT EXISTS trail (position INTEGER PRIMARY KEY)"])
    store.close()


RIGHTS = """SELECT table_name, grantee, privilege_type FROM information_schema.role_table_grants
    WHERE grantee LIKE 'ledger%' ORDER BY 1, 2, 3"""


def test_what_an_older_version_derived_only_the_owner_derives_anew(
    postgres_url: str, logins: dict[str, str], tmp_path: Path
) -> None:
    """A writer says who has to; afterwards it works as before, and nobody may more or less."""
    service = founded(tmp_path, SetClock(), url=logins["ledger_writer"])
    events = list(service.recorder.events())
    service.close()
    with psycopg.connect(postgres_url, autocommit=True) as older:
        rights = older.execute(RIGHTS).fetchall()
        older.execute("SET ROLE ledger_owner; DROP TABLE trail")
        older.execute("CREATE TABLE trail (position BIGINT PRIMARY KEY)")
        older.execute(f"UPDATE ledger_schema SET version = {SCHEMA_VERSION - 1}")

    with pytest.raises(Unavailable, match="let the owner run compliance-ledger rebuild once"):
        build(service.settings, clock=SetClock())
    build(settings_of(postgres_url, tmp_path), clock=SetClock()).close()
    upgraded = awake(build(service.settings, clock=SetClock()))

    assert events == list(upgraded.recorder.events())
    check_ledger(upgraded)
    upgraded.close()
    with psycopg.connect(postgres_url) as newer:
        assert rights == newer.execute(RIGHTS).fetchall()
