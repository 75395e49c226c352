"""A ledger that moves: all of it or what refuses to be served, whatever stops the move."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from random import Random
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from eventsourcing.persistence import IntegrityError

from ledger.application import Once
from ledger.domain.errors import InvalidValue, LedgerError, StoreBusy, Unavailable, VaultUnavailable
from ledger.domain.events import Author, SubjectEvent
from ledger.domain.values import Sealed, Subject
from ledger.service import migrating
from ledger.service.cli_verifying import verify_stored
from ledger.service.migrating import Migrated, migrate
from ledger.service.settings import Settings, sqlite_path
from ledger.service.verification import COULD_NOT_TELL, FINE, TAMPERED, Trusted
from ledger.service.wiring import Service, build, schema_script
from ledger.store import streaming
from ledger.store.postgres import PostgresDatastore
from ledger.store.sqlite import LedgerDatastore
from ledger.tlog.note import Signer, format_signatures, sign
from tests.checks import check_ledger
from tests.conftest import SetClock, store_at
from tests.histories import Drawing, awake, founded, happen
from tests.postgres import fresh_database
from tests.tampering import Copy

BY: Final = Author("the-officer")
ANN: Final = Subject(type="user", id="ann")
KILLED: Final = -signal.SIGKILL
TOGETHER: Final = 100  # rows in one transaction, so that a small ledger takes several
FACTS: Final = (
    ("events", "position"),
    ("log_hashes", "level, idx"),
    ("log_checkpoints", "size"),
    ("log_cosignatures", "size, witness"),
    ("commands", "operator, idempotency_key"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ledger in a file: signed, cosigned, with sealed texts and an erasure."""
    folder = tmp_path_factory.mktemp("made")
    service = founded(folder, SetClock())
    for signed in range(3):
        happen(service, Drawing(Random(signed)), 120)
        for number in range(40):
            once = Once(f"key-{signed}-{number}", "0" * 64)
            service.ledger.warn(ANN, reason="Stop.", by=BY, once=once)
        sign_all(service)
        with service.recorder.transaction() as c:
            for witness in range(2):
                line = format_signatures([sign("seen\n", Signer(f"w{witness}", bytes(32)))])
                size = service.log.newest_size(c)
                service.log.add_cosignature(c, size, f"w{witness}", line.rstrip("\n"))
    assert service.recorder.position > 2 * TOGETHER
    check_ledger(service)
    service.close()
    return folder


def sign_all(service: Service) -> None:
    """Sign what is there."""
    service.signer.check()
    while service.signer._round():
        pass


def settings_of(url: str, files: Path, vault: Path | None = None) -> Settings:
    """Settings of a database with the private files of the ledger in a folder."""
    return Settings(
        database_url=url,
        files=vault or files,
        allow_owner=True,
        log_key_file=files / "ledger.log-key",
        checkpoint_file=files / "ledger.checkpoint",
        vault_key_file=files / "ledger.vault-key",
    )


@pytest.fixture
def source(made: Path, tmp_path: Path) -> Settings:
    """A copy of that ledger in files, to be moved."""
    files = tmp_path / "source"
    files.mkdir()
    for name in ("ledger.log-key", "ledger.checkpoint", "ledger.vault-key", "ledger.vault"):
        (files / name).write_bytes((made / name).read_bytes())
        (files / name).chmod(0o600)
    with (
        closing(sqlite3.connect(made / "ledger.db")) as old,
        closing(sqlite3.connect(files / "ledger.db")) as new,
    ):
        old.backup(new)
    return settings_of(f"sqlite:///{files / 'ledger.db'}", files)


@pytest.fixture(params=["sqlite", "postgresql"])
def target(request: pytest.FixtureRequest, source: Settings, tmp_path: Path) -> Settings:
    """An empty database, where the ledger is to go."""
    return target_of(request.param, request, source, tmp_path)


@pytest.fixture
def file(request: pytest.FixtureRequest, source: Settings, tmp_path: Path) -> Settings:
    """A file that does not exist yet, where the ledger is to go."""
    return target_of("sqlite", request, source, tmp_path)


def target_of(
    store: str, request: pytest.FixtureRequest, source: Settings, tmp_path: Path
) -> Settings:
    url = f"sqlite:///{tmp_path / 'target' / 'ledger.db'}"
    if store == "postgresql":
        url = request.getfixturevalue("postgres_url")
    return settings_of(url, source.log_key_path.parent, tmp_path / "target")


def facts_of(settings: Settings) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table of facts, and of the vault; nothing where there is no table."""
    rows = {}
    store = store_at(settings.database_url)
    try:
        with store.transaction(commit=False) as c:
            for table, key in FACTS:
                c.execute(f"SELECT * FROM {table} ORDER BY {key}")
                rows[table] = [tuple(row) for row in c.fetchall()]
            if isinstance(store, PostgresDatastore):
                c.execute("SELECT * FROM vault.data_keys ORDER BY key")
                rows["data_keys"] = [tuple(row) for row in c.fetchall()]
                return rows
    finally:
        store.close()
    with closing(sqlite3.connect(settings.vault_path)) as vault:
        rows["data_keys"] = vault.execute("SELECT * FROM data_keys ORDER BY key").fetchall()
    return rows


def revealed(service: Service) -> list[str]:
    """Every sealed text of which the key is there."""
    texts = []
    for recorded in service.recorder.events():
        event = recorded.event
        for path, box in event.sealed_fields() if isinstance(event, SubjectEvent) else ():
            assert isinstance(box, Sealed)
            try:
                texts.append(
                    service.ledger.vault.open(
                        box, stream=recorded.stream, version=recorded.version, path=path
                    )
                )
            except VaultUnavailable:
                continue
    return texts


def check_serves(settings: Settings) -> None:
    """Check that a ledger is whole, and goes on recording and signing."""
    service = awake(build(settings, clock=SetClock()))
    service.ledger.warn(ANN, reason="Going on.", by=BY)
    sign_all(service)
    assert service.signer.doubt is None
    with service.reading() as (c, position):
        assert position == service.log.newest_size(c)
    assert [] == service.lost_keys()
    check_ledger(service)
    service.close()


# --- unchanged ------------------------------------------------------------------------------------


def test_there_and_back_nothing_changed(
    source: Settings, postgres_server: str, tmp_path: Path
) -> None:
    """From a file to a server, to another database of it, to a file and to another file."""
    files = source.log_key_path.parent
    before = facts_of(source)
    service = build(source)
    texts = revealed(service)
    service.close()
    assert texts
    assert all(before.values())

    with fresh_database(postgres_server) as first, fresh_database(postgres_server) as second:
        ends = [
            source,
            settings_of(first, files),
            settings_of(second, files),
            settings_of(f"sqlite:///{tmp_path / 'back' / 'ledger.db'}", files, tmp_path / "back"),
            settings_of(f"sqlite:///{tmp_path / 'more' / 'ledger.db'}", files, tmp_path / "more"),
        ]
        size = len(before["events"])
        for old, new in pairwise(ends):
            moved = migrate(old, new)
            assert (FINE, size, new.database) == (moved.report.code, moved.copied, moved.database)
            assert moved.report.proven is not None
            assert size == moved.report.proven.checkpoint.size
            assert before == facts_of(new)

            service = build(new)
            assert texts == revealed(service)
            service.close()
        assert before == facts_of(source)
    check_serves(ends[-1])


def test_a_ledger_that_moved_goes_on(source: Settings, target: Settings) -> None:
    """The copy records, signs what continues the old checkpoints, and seals."""
    migrate(source, target)

    check_serves(target)


def test_what_is_there_already_is_only_verified(source: Settings, target: Settings) -> None:
    """A second move copies nothing, and leaves a copy that can be served."""
    migrate(source, target)
    before = facts_of(target)

    again = migrate(source, target)

    assert (0, FINE) == (again.copied, again.report.code)
    assert before == facts_of(target)
    check_serves(target)


def test_what_was_recorded_since_is_copied_the_next_time(
    source: Settings, target: Settings
) -> None:
    """A first copy while the ledger serves, and the rest when it stopped: a short pause."""
    migrate(source, target)
    service = build(source, clock=SetClock())
    for number in range(3):
        service.ledger.warn(ANN, reason="Late.", by=BY, once=Once(f"a-{number}", "1" * 64))
    sign_all(service)
    service.close()

    again = migrate(source, target)

    assert (3, FINE) == (again.copied, again.report.code)
    assert facts_of(source) == facts_of(target)
    check_serves(target)


def test_a_key_destroyed_since_does_not_stay_in_the_copy(
    source: Settings, target: Settings
) -> None:
    """What an erasure destroyed between two runs is gone at both ends."""
    migrate(source, target)
    keys = [row[0] for row in facts_of(source)["data_keys"]]
    with closing(sqlite3.connect(source.vault_path)) as vault:
        vault.execute("DELETE FROM data_keys WHERE key = ?", (keys[0],))
        vault.commit()

    migrate(source, target)

    assert keys[1:] == [row[0] for row in facts_of(target)["data_keys"]]


def test_a_writer_may_move_a_ledger(source: Settings, postgres_url: str, tmp_path: Path) -> None:
    """On a database that an owner prepared, the rights of ledger_writer are enough, both ways."""
    name = f"writer_{uuid4().hex[:8]}"
    with psycopg.connect(postgres_url, autocommit=True) as c:
        c.execute(schema_script())
        c.execute(f"CREATE ROLE {name} LOGIN IN ROLE ledger_writer")
    parts = urlsplit(postgres_url)
    url = parts._replace(netloc=f"{name}@{parts.netloc.rpartition('@')[2]}").geturl()
    files = source.log_key_path.parent
    there = settings_of(url, files)
    back = settings_of(f"sqlite:///{tmp_path / 'back' / 'ledger.db'}", files, tmp_path / "back")
    try:
        assert FINE == migrate(source, there).report.code
        assert FINE == migrate(there, back).report.code

        assert facts_of(source) == facts_of(back)
        check_serves(back)
    finally:
        with psycopg.connect(postgres_url, autocommit=True) as c:
            c.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


# --- stopped at any moment ------------------------------------------------------------------------


@dataclass(frozen=True)
class Killed:
    """A move in a process of its own that kills itself at its so-manieth step."""

    source: Settings
    target: Settings
    step: int

    def __call__(self) -> None:
        """Move; a step is a call of progress, or rows that were written and not committed yet."""
        steps = count(1)
        pour = streaming.poured

        def step(*_: object) -> None:
            if next(steps) == self.step:
                os.kill(os.getpid(), signal.SIGKILL)

        def poured(*arguments: Any) -> None:
            pour(*arguments)
            step()

        migrating.COPIED_TOGETHER = TOGETHER  # type: ignore[misc]
        setattr(migrating, pour.__name__, poured)
        migrate(self.source, self.target, progress=step)


def run_killed(source: Settings, target: Settings, step: int) -> int | None:
    """Run such a move; returns what its process ended with."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.service.test_migrating"])
    process = context.Process(target=Killed(source, target, step))
    process.start()
    process.join(60)
    return process.exitcode


def check_is_half_of(source: Settings, target: Settings) -> None:
    """Check that verify says what it is, and takes what is missing for no tampering."""
    database = target.database_path or target.database_url
    report = verify_stored(database, target.checkpoint_path, Trusted(), lambda _done, _all: None)

    assert COULD_NOT_TELL == report.code
    (doubt,) = report.doubts
    assert f"{target.database} is half of a copy of {source.database}: " in doubt
    assert "Run the same migrate again" in doubt


def test_a_killed_move_goes_on_and_is_served_by_nobody_before(
    source: Settings, target: Settings
) -> None:
    """Killed at each of its steps, one run after the other, it comes to the end all the same."""
    before = facts_of(source)
    heads = []
    for step in count(2, 2):
        if run_killed(source, target, step) != KILLED:
            break
        heads.append(head_of(target))
        with pytest.raises(LedgerError):
            build(target).load()
        if heads[-1]:
            refuse_an_event(target)
            check_is_half_of(source, target)

    assert 3 < len(set(heads))
    assert sorted(heads) == heads
    assert before == facts_of(target)
    assert before == facts_of(source)
    check_serves(target)


def head_of(settings: Settings) -> int:
    """The newest position of a database; 0 also where there is no table yet."""
    store = store_at(settings.database_url)
    try:
        with store.transaction(commit=False) as c:
            c.execute("SELECT max(position) FROM events")
            row = c.fetchone()
            return (row and row[0]) or 0
    except (sqlite3.OperationalError, psycopg.errors.UndefinedTable, Unavailable):
        return 0
    finally:
        store.close()


def refuse_an_event(settings: Settings) -> None:
    """Check that the database itself takes no event, whatever program brings one."""
    store = store_at(settings.database_url)
    with (
        pytest.raises((sqlite3.IntegrityError, psycopg.IntegrityError), match="half of a copy"),
        store.transaction(commit=True) as c,
    ):
        c.execute(
            "INSERT INTO events SELECT position + 1, 'stream', 1, type, recorded_at, state "
            "FROM events ORDER BY position DESC LIMIT 1"
        )
    store.close()


def test_nothing_is_recorded_meanwhile(source: Settings, target: Settings) -> None:
    """While a ledger is copied, neither end takes an event."""
    refused = []

    def look(what: str, done: int, _total: int) -> None:
        if what == "copying events" and done:
            with (
                closing(LedgerDatastore(sqlite_path(source.database_url), lock_timeout_s=0)) as old,
                pytest.raises(StoreBusy),
                old.transaction(commit=True),
            ):
                pass
            refuse_an_event(target)
            refused.append(what)

    migrate(source, target, progress=look)

    assert refused
    check_serves(target)


def test_a_service_that_ran_before_cannot_record_in_half_a_copy(
    source: Settings, file: Settings
) -> None:
    """A process that opened an earlier copy finds out when it writes, and nothing is added."""
    migrate(source, file)
    running = build(file, clock=SetClock())
    service = build(source, clock=SetClock())
    service.ledger.warn(ANN, reason="Late.", by=BY)
    sign_all(service)
    service.close()

    def look(what: str, _done: int, _total: int) -> None:
        if what == "verifying the copy":
            with pytest.raises((LedgerError, IntegrityError)):
                running.ledger.warn(ANN, reason="Not here.", by=BY)

    assert FINE == migrate(source, file, progress=look).report.code

    running.close()
    check_serves(file)


# --- refused --------------------------------------------------------------------------------------


def refused(source: Settings, target: Settings, why: str) -> None:
    """Check that a move is refused with these words, and leaves what the target holds."""
    before = facts_of(target)
    with pytest.raises(InvalidValue, match=why):
        migrate(source, target)
    assert before == facts_of(target)


def test_another_ledger_is_not_added_to(source: Settings, target: Settings, tmp_path: Path) -> None:
    """A database with other events is refused, and stays what it was."""
    other = tmp_path / "other"
    other.mkdir()
    service = founded(other, SetClock(), url=target.database_url)
    service.close()

    refused(source, settings_of(target.database_url, other), "are not the first of")

    check_serves(settings_of(target.database_url, other))


def test_a_copy_that_went_on_is_not_added_to(source: Settings, target: Settings) -> None:
    """A copy that recorded, or answered under an idempotency key, is a ledger of its own."""
    migrate(source, target)
    running = build(target, clock=SetClock())
    with running.recorder.transaction() as c:
        running.recorder.remember_command(c, "the-officer", "here", "0" * 64, 1, recorded=False)
    running.close()
    refused(source, target, "has served on its own")

    signed = source.checkpoint_path.read_bytes()
    check_serves(target)
    assert (TAMPERED, source.database, 0) == found(migrate(source, target))
    source.checkpoint_path.write_bytes(signed)  # as if each had a checkpoint file of its own
    refused(source, target, "are not the first of")


def test_one_database_is_not_copied_to_itself(source: Settings, tmp_path: Path) -> None:
    """Also where another name leads to the same file."""
    link = tmp_path / "link.db"
    link.symlink_to(sqlite_path(source.database_url))
    for url in (source.database_url, f"sqlite:///{link}"):
        with pytest.raises(InvalidValue, match="one database"):
            migrate(source, settings_of(url, source.log_key_path.parent))
    check_serves(source)


def test_a_served_ledger_is_not_copied(source: Settings, postgres_url: str, file: Settings) -> None:
    """On PostgreSQL a process that serves is known, and must be stopped first."""
    there = settings_of(postgres_url, source.log_key_path.parent)
    migrate(source, there)
    serving = PostgresDatastore(postgres_url)
    assert serving.leads()

    with pytest.raises(InvalidValue, match="stop it first"):
        migrate(there, file)
    with pytest.raises(InvalidValue, match="stop it first"):
        migrate(source, there)

    serving.close()
    check_serves(there)


def test_the_vault_of_another_ledger_is_not_written_to(
    source: Settings, file: Settings, tmp_path: Path
) -> None:
    """A vault in the way, made with another key, stays."""
    other = tmp_path / "target"
    other.mkdir()
    service = founded(other, SetClock(), url=f"sqlite:///{tmp_path / 'other.db'}")
    service.close()
    (other / "other.vault").rename(file.vault_path)
    before = file.vault_path.read_bytes()

    with pytest.raises(VaultUnavailable, match="another vault key"):
        migrate(source, file)

    assert before == file.vault_path.read_bytes()
    assert 0 == head_of(file)


def test_a_source_that_is_not_there_is_not_made(source: Settings, file: Settings) -> None:
    """A slip in the name of a file, or of the folder of the vault, makes no empty ledger."""
    with pytest.raises(InvalidValue, match="does not exist"):
        migrate(file, source)
    vault = source.vault_path
    vault.rename(vault.with_suffix(".away"))
    with pytest.raises(InvalidValue, match="does not exist"):
        migrate(source, file)
    vault.with_suffix(".away").rename(vault)

    assert not sqlite_path(file.database_url).exists()
    check_serves(source)


# --- tampered with --------------------------------------------------------------------------------


def found(moved: Migrated) -> tuple[int, str, int]:
    return (moved.report.code, moved.database, moved.copied)


@pytest.fixture
def tampered(source: Settings) -> Copy:
    """The source, to be tampered with."""
    return Copy(sqlite_path(source.database_url))


def test_a_tampered_source_is_not_copied(source: Settings, file: Settings, tampered: Copy) -> None:
    """Nothing is written when an event is not what was signed."""
    tampered.sql("UPDATE events SET type = 'warning.issued' WHERE position = 20")

    assert (TAMPERED, source.database, 0) == found(migrate(source, file))
    assert not sqlite_path(file.database_url).exists()


def test_a_source_that_nothing_vouches_for_is_not_copied(source: Settings, file: Settings) -> None:
    """Without its checkpoint file, an older copy of the whole database would go unseen."""
    source.checkpoint_path.unlink()

    assert (COULD_NOT_TELL, source.database, 0) == found(migrate(source, file))
    assert not sqlite_path(file.database_url).exists()


def test_a_tampered_half_is_found_and_never_served(source: Settings, file: Settings) -> None:
    """What is changed in the copy between two runs is found at the end."""
    assert KILLED == run_killed(source, file, 10)
    assert 0 < head_of(file)
    Copy(sqlite_path(file.database_url)).sql("UPDATE events SET type = 'x' WHERE position = 20")

    moved = migrate(source, file)

    assert (TAMPERED, file.database) == found(moved)[:2]
    assert [20] == [finding.position for finding in moved.report.findings]
    with pytest.raises(Unavailable, match="holds half of a copy"):
        build(file)


def test_projections_of_the_source_that_are_not_what_the_events_say_are_found(
    source: Settings, file: Settings, tampered: Copy
) -> None:
    """Then the copy, whose projections are made anew, waits until somebody has looked."""
    tampered.sql("DELETE FROM trail WHERE position = 7")

    moved = migrate(source, file)

    assert (TAMPERED, source.database) == found(moved)[:2]
    with pytest.raises(Unavailable, match="holds half of a copy"):
        build(file)
