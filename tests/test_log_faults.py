"""Events that are lost behind the ledger's back are noticed, and can be given up openly."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from ledger.domain.errors import InvalidValue, LogNotVerified
from ledger.domain.events import LedgerRecovered
from ledger.service.settings import Settings
from ledger.service.wiring import Service, build
from ledger.tlog.checkpoint import Checkpoint, parse_checkpoint
from ledger.tlog.merkle import ProofInvalid, root_at
from ledger.tlog.note import parse_note
from ledger.tlog.proof import Policy, verify_checkpoint
from tests.checks import check_ledger
from tests.service.conftest import until
from tests.serving import Process, opened, program, started


def anchor_of(database: Path) -> Checkpoint:
    """Read the checkpoint beside a database."""
    note = database.with_suffix(".checkpoint").read_bytes()
    return parse_checkpoint(parse_note(note).text)


def write(process: Process, names: range) -> int:
    """Suspend users and wait until all of it is signed; return the newest position."""
    position = 0
    for name in names:
        answer = process.suspend(f"u{name}")
        assert 201 == answer.status_code, answer.text
        position = answer.json()["position"]
    until(lambda: process("GET", "/readyz").json()["checkpoint"] >= position)
    return position


def service_on(database: Path) -> Service:
    """Build a service on a database."""
    return build(Settings(database_url=f"sqlite:///{database}"))


def copied(database: Path, folder: Path) -> Path:
    """Copy a database with all the files beside it, as they are now."""
    folder.mkdir()
    for path in database.parent.glob(f"{database.stem}.*"):
        shutil.copy(path, folder / path.name)
    return folder / database.name


def restored(database: Path, backup: Path) -> None:
    """Put a backup of the database, and of it alone, in place."""
    for suffix in ("-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    shutil.copy(backup, database)


def backed_up(database: Path, backup: Path) -> Path:
    """Make a backup of the database while it is in use."""
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(backup)) as copy:
        source.backup(copy)
    return backup


def test_a_write_ahead_log_that_is_cut_is_noticed(tmp_path: Path) -> None:
    """Killed, and its write-ahead log cut anywhere: every loss of a signed event is refused.

    SQLite itself says that such a database is whole.
    """
    database = tmp_path / "ledger.db"
    keys = opened(database)
    with started(database, keys) as process:
        # Few enough that SQLite does not move them into the database meanwhile.
        head = write(process, range(20))
        process.kill()
    signed = anchor_of(database)
    assert head <= signed.size
    wal = database.with_name("ledger.db-wal")
    length = wal.stat().st_size
    assert length > 0

    lost = 0
    for number in range(24):
        cut = copied(database, tmp_path / f"cut-{number}")
        with cut.with_name("ledger.db-wal").open("r+b") as file:
            file.truncate(length * number // 24)
        cut.with_name("ledger.db-shm").unlink(missing_ok=True)
        service = service_on(cut)
        service.signer.check()
        if service.recorder.position < signed.size:
            lost += 1
            assert service.signer.doubt is not None
            with pytest.raises(LogNotVerified, match=f"a checkpoint of {signed.size} events"):
                service.ledger.open("x", log_key="x")
        else:
            assert service.signer.doubt is None
        service.recorder.store.close()
    assert lost > 12


def test_a_write_ahead_log_that_is_deleted_is_noticed(tmp_path: Path) -> None:
    """Without its write-ahead log the database is an older one, or none at all."""
    database = tmp_path / "ledger.db"
    keys = opened(database)
    with started(database, keys) as process:
        write(process, range(10))
        process.kill()
    database.with_name("ledger.db-wal").unlink()
    database.with_name("ledger.db-shm").unlink(missing_ok=True)

    service = service_on(database)
    service.signer.check()

    assert service.recorder.position < anchor_of(database).size
    assert service.signer.doubt is not None
    service.recorder.store.close()


@pytest.mark.parametrize("lost", [30, pytest.param(1, marks=pytest.mark.soak)])
def test_an_older_backup_is_refused_until_the_loss_is_accepted(tmp_path: Path, lost: int) -> None:
    """Nothing is recorded on it; ``recover --accept-loss`` names what is lost, and goes on.

    What was signed beyond the loss never verifies again, and what was signed before still does.
    """
    database = tmp_path / "ledger.db"
    keys = opened(database)
    with started(database, keys) as process:
        kept = write(process, range(20))
        backup = backed_up(database, tmp_path / "backup.db")
        before = process("GET", "/log/checkpoint").content
        write(process, range(20, 20 + lost))
        after = process("GET", "/log/checkpoint").content
        assert 0 == process.stop()
    restored(database, backup)
    signed = anchor_of(database)

    # Refused, by every command that would record something; what only reads goes on.
    refused = program("keys", "issue", "admin", database=database)
    assert 1 == refused.returncode
    assert f"a checkpoint of {signed.size} events was signed" in refused.stderr
    assert "recover --accept-loss" in refused.stderr
    assert 0 == program("keys", "list", database=database).returncode
    assert 1 == program("keys", "rotate-log", database=database).returncode
    assert 1 == program("recover", database=database).returncode
    service = service_on(database)
    assert kept == service.recorder.position
    service.recorder.store.close()

    # Accepted.
    done = program("recover", "--accept-loss", "--json", database=database)
    assert 0 == done.returncode, done.stderr
    recovered = json.loads(done.stdout)
    expected = {
        "position": kept + 1,
        "lost_from": kept + 1,
        "checkpoint_size": signed.size,
        "checkpoint_root": signed.root.hex(),
    }
    assert expected == {name: recovered[name] for name in expected}
    assert after.startswith(
        database.with_name(f"ledger.checkpoint.lost-{signed.size}").read_bytes()
    )

    # It goes on, under another key, and everything that is there is sound.
    with started(database, keys) as process:
        assert process.check("u0").json()["decision"] is False
        write(process, range(100, 110))
        now = process("GET", "/log/checkpoint").content
        assert 0 == process.stop()
    service = service_on(database)
    event = service.recorder.event(kept + 1)
    assert event is not None
    assert isinstance(event.event, LedgerRecovered)
    first, second = service.ledger.log_keys()
    assert kept + 2 == second.first_size
    policy = Policy((first, second))
    verify_checkpoint(before, policy)
    verify_checkpoint(now, policy)
    with service.reading() as (c, head):
        if signed.size <= head:
            assert signed.root != root_at(signed.size, service.log.hash_reader(c, signed.size))
    if signed.size > kept + 1:
        with pytest.raises(ProofInvalid):
            verify_checkpoint(after, policy)
    check_ledger(service)
    service.recorder.store.close()


def test_a_recovery_that_was_interrupted_is_finished(tmp_path: Path) -> None:
    """Once the loss is recorded, the old checkpoint counts no more, though its file is there."""
    database = tmp_path / "ledger.db"
    keys = opened(database)
    with started(database, keys) as process:
        write(process, range(5))
        backup = backed_up(database, tmp_path / "backup.db")
        write(process, range(5, 6))
        assert 0 == process.stop()
    restored(database, backup)
    lost = database.with_suffix(".checkpoint").read_bytes()
    assert 0 == program("recover", "--accept-loss", database=database).returncode
    database.with_suffix(".checkpoint").write_bytes(lost)

    with started(database, keys) as process:
        write(process, range(7, 9))
        assert 0 == process.stop()

    service = service_on(database)
    check_ledger(service)
    service.recorder.store.close()


def test_nothing_is_recovered_where_nothing_is_lost(tmp_path: Path) -> None:
    """The command is no way to change a ledger that is whole."""
    database = tmp_path / "ledger.db"
    opened(database)
    service = service_on(database)
    with pytest.raises(InvalidValue, match="nothing is known to be lost"):
        service.signer.recover()
    service.signer.start()
    assert service.signer.wait_for(service.recorder.position, 20)
    service.signer.stop()

    with pytest.raises(InvalidValue, match="nothing is lost"):
        service.signer.recover()

    check_ledger(service)
    service.recorder.store.close()


def test_what_was_changed_is_no_loss_to_accept(tmp_path: Path) -> None:
    """A database in which something else does not fit is not recovered, and not written to."""
    database = tmp_path / "ledger.db"
    keys = opened(database)
    with started(database, keys) as process:
        write(process, range(5))
        backup = backed_up(database, tmp_path / "backup.db")
        write(process, range(5, 8))
        assert 0 == process.stop()
    restored(database, backup)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DROP TRIGGER events_are_never_changed")
        connection.execute("UPDATE events SET version = version + 50 WHERE position = 4")
    key_file = database.with_suffix(".log-key").read_bytes()

    refused = program("recover", "--accept-loss", database=database)

    assert 1 == refused.returncode
    assert "event 4 is not the one that was recorded" in refused.stderr
    assert key_file == database.with_suffix(".log-key").read_bytes()
