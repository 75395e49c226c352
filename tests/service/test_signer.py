"""The signer: what it signs, what it refuses to sign, and what a service in doubt still does."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from eventsourcing.persistence import StoredEvent

from ledger.application import SYSTEM_AUTHOR
from ledger.domain.errors import InvalidValue, LogNotVerified
from ledger.domain.values import Subject
from ledger.service import keyfile, signer
from ledger.service.settings import Settings, sqlite_path
from ledger.service.wiring import Service, build
from ledger.tlog.checkpoint import Checkpoint, LogKey, format_checkpoint, parse_checkpoint
from ledger.tlog.merkle import ProofInvalid
from ledger.tlog.note import Note, format_note, format_vkey, parse_note, sign
from ledger.tlog.proof import Policy, verify_checkpoint
from tests.checks import check_ledger
from tests.service.conftest import Running, SetClock, until

WITHIN_S = 20.0


@pytest.fixture
def service(settings: Settings, clock: SetClock) -> Iterator[Service]:
    """An opened ledger; the test says when its signer runs."""
    service = build(settings, clock=clock)
    service.open()
    yield service
    service.recorder.store.close()


def append(service: Service, count: int) -> None:
    """Append events, all in one transaction."""
    with service.ledger.together():
        for _ in range(count):
            number = service.recorder.position
            subject = Subject(type="user", id=f"u{number}")
            service.ledger.register(subject, properties={"n": str(number)}, by=SYSTEM_AUTHOR)


@contextmanager
def signing(service: Service) -> Iterator[None]:
    """Run the signer of a service; it signs what is there at the end."""
    service.signer.start()
    try:
        yield
    finally:
        service.signer.stop()


def sign_all(service: Service) -> None:
    """Run the signer until all is signed."""
    with signing(service):
        assert service.signer.wait_for(service.recorder.position, WITHIN_S)


def policy(service: Service) -> Policy:
    """The policy of a verifier that trusts the log's keys."""
    return Policy(service.ledger.log_keys())


@contextmanager
def reopened(service: Service) -> Iterator[Service]:
    """The same ledger in another process, as it were."""
    other = build(service.settings, clock=service.clock)
    try:
        yield other
    finally:
        other.recorder.store.close()


def path_of(service: Service) -> Path:
    """The file of its database."""
    return sqlite_path(service.settings.database_url)


def tamper(service: Service, statement: str) -> None:
    """Change the database behind the program's back, past the triggers."""
    with (
        closing(sqlite3.connect(path_of(service))) as connection,
        connection,
    ):
        triggers = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'")
        for (name,) in triggers.fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        assert connection.execute(statement).rowcount > 0
    # The next to open the database makes the triggers anew.


# --- signing --------------------------------------------------------------------------------------


def test_what_is_recorded_is_signed(service: Service) -> None:
    """The checkpoint covers every event, is signed by the log's key, and is in file and table."""
    append(service, 300)
    told: list[int] = []
    service.signer.on_checkpoint.append(told.append)

    sign_all(service)

    note = service.signer.checkpoint
    assert note is not None
    checkpoint = verify_checkpoint(note, policy(service)).checkpoint
    assert ("test.ledger", 301) == (checkpoint.origin, checkpoint.size)
    assert note == service.settings.checkpoint_path.read_bytes()
    with service.reading() as (c, _):
        assert note == service.log.newest_checkpoint(c)
    assert [301] == told
    check_ledger(service)


def test_events_that_come_are_signed_within_seconds(service: Service) -> None:
    """A running signer notices what this process and another one commit."""
    with signing(service), reopened(service) as other:
        assert service.signer.wait_for(1, WITHIN_S)
        append(service, 2)
        assert service.signer.wait_for(3, WITHIN_S)
        append(other, 2)
        assert service.signer.wait_for(5, WITHIN_S)
    assert 5 == service.signer.published[0]
    check_ledger(service)


def test_a_large_backlog_is_signed_in_steps(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each checkpoint adds a bounded number of events, so no write waits long for the signer."""
    monkeypatch.setattr("ledger.service.signer.SIGNED_TOGETHER_MAX", 100)
    append(service, 250)

    sign_all(service)

    with service.reading() as (c, _):
        c.execute("SELECT size FROM log_checkpoints ORDER BY size")
        assert [100, 200, 251] == [row[0] for row in c.fetchall()]
    check_ledger(service)


def test_nothing_new_signs_nothing(service: Service) -> None:
    """A restart without events leaves the checkpoint as it is, byte for byte."""
    sign_all(service)
    note = service.signer.checkpoint

    with reopened(service) as other:
        sign_all(other)
        assert note == other.signer.checkpoint
    check_ledger(service)


def test_several_processes_sign_one_history(service: Service) -> None:
    """With several signers there is one checkpoint for a size, and all publish the same."""
    with reopened(service) as second, reopened(service) as third:
        with signing(service), signing(second), signing(third):
            for each in (service, second, third, second, service):
                append(each, 7)
                for signer in (service.signer, second.signer, third.signer):
                    assert signer.wait_for(service.recorder.position, WITHIN_S)
        assert service.signer.published == second.signer.published == third.signer.published
        assert [None] * 3 == [each.signer.doubt for each in (service, second, third)]
    check_ledger(service)


def test_the_whole_log_is_checked_after_the_start(service: Service) -> None:
    """The state is verified once every event was recomputed; a tile's hash that is wrong is found

    even where the root of the newest checkpoint does not need it.
    """
    service.recorder.projections = ()
    service.recorder.insert_events(
        [StoredEvent(f"subject/user:u{n}", 1, "subject.registered", b"{}") for n in range(65_800)]
    )
    sign_all(service)

    with reopened(service) as other, signing(other):
        until(lambda: other.signer.state == "verified", within_s=60)
        assert other.signer.doubt is None
    tamper(service, "UPDATE log_hashes SET hash = zeroblob(32) WHERE level = 1 AND idx = 7")
    with reopened(service) as other, signing(other):
        until(lambda: other.signer.state == "doubted", within_s=60)
        assert other.signer.doubt is not None
        assert "hash 7 of tile level 1" in other.signer.doubt


def test_an_edit_is_found_while_the_service_runs(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is checked again and again, so a row need not wait for a restart to be found."""
    monkeypatch.setattr(signer, "AUDIT_INTERVAL_S", 0.05)
    monkeypatch.setattr(signer, "AUDIT_REST", 1)
    append(service, 3)
    with signing(service):
        assert service.signer.wait_for(3, WITHIN_S)
        until(lambda: service.signer.state == "verified", within_s=WITHIN_S)
        tamper(service, "UPDATE events SET type = 'subject.unlinked' WHERE position = 2")
        until(lambda: service.signer.state == "doubted", within_s=WITHIN_S)

        assert service.signer.doubt is not None
        assert "event 2 is not the one that was recorded" in service.signer.doubt
        with pytest.raises(LogNotVerified):
            append(service, 1)


def test_an_error_while_telling_witnesses_stops_nothing(service: Service) -> None:
    """What is told of a checkpoint may fail; signing goes on."""

    def fail(_: int) -> None:
        raise RuntimeError("the witness broke")

    service.signer.on_checkpoint.append(fail)
    with signing(service):
        assert service.signer.wait_for(1, WITHIN_S)
        append(service, 1)
        assert service.signer.wait_for(2, WITHIN_S)
    check_ledger(service)


def test_an_anchor_that_cannot_be_written_signs_nothing(service: Service) -> None:
    """No checkpoint is published that is not in its file first; it is tried again."""
    anchor = service.settings.checkpoint_path
    anchor.with_name(f"{anchor.name}.new").mkdir()  # in the way of the file that is renamed

    with signing(service):
        assert not service.signer.wait_for(1, 0.5)
        assert service.signer.doubt is None
        anchor.with_name(f"{anchor.name}.new").rmdir()
        assert service.signer.wait_for(1, WITHIN_S)
    check_ledger(service)


def test_a_crash_between_file_and_table_is_mended(service: Service) -> None:
    """A checkpoint that is only in its file was signed; it is taken into the database."""
    append(service, 5)
    sign_all(service)
    note = service.signer.checkpoint
    tamper(service, "DELETE FROM log_checkpoints")

    with reopened(service) as other:
        sign_all(other)
        assert note == other.signer.checkpoint
        check_ledger(other)


def test_a_file_that_is_gone_is_written_anew(service: Service) -> None:
    """Without the file, the checkpoint in the database counts."""
    append(service, 5)
    sign_all(service)
    service.settings.checkpoint_path.unlink()

    with reopened(service) as other:
        sign_all(other)
        assert other.signer.checkpoint == service.settings.checkpoint_path.read_bytes()
        check_ledger(other)


# --- doubt ----------------------------------------------------------------------------------------


def older_copy(service: Service) -> None:
    """Put a copy of the database in its place that lacks signed events."""
    path = path_of(service)
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(f"{path}.old")) as copy:
        source.backup(copy)
    append(service, 5)
    sign_all(service)
    service.recorder.store.close()
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    shutil.move(f"{path}.old", path)


def change(statement: str) -> Callable[[Service], None]:
    """Return a fault: all is signed, then a statement changes the database."""

    def do(service: Service) -> None:
        sign_all(service)
        tamper(service, statement)

    return do


def unsigned(statement: str) -> Callable[[Service], None]:
    """Return a fault in events that no checkpoint covers yet."""

    def do(service: Service) -> None:
        sign_all(service)
        append(service, 5)
        tamper(service, statement)

    return do


def other_history(service: Service) -> None:
    """Sign, with the log's own key, another tree of the same size."""
    sign_all(service)
    (key,) = keyfile.read(service.settings.log_key_path)
    text = format_checkpoint(Checkpoint("test.ledger", service.recorder.position, bytes(32)))
    service.settings.checkpoint_path.write_bytes(format_note(Note(text, (sign(text, key),))))


def shorter_history(service: Service) -> None:
    """Sign, with the log's own key, another beginning."""
    sign_all(service)
    (key,) = keyfile.read(service.settings.log_key_path)
    text = format_checkpoint(Checkpoint("test.ledger", 3, bytes(32)))
    service.settings.checkpoint_path.write_bytes(format_note(Note(text, (sign(text, key),))))


def other_signer(service: Service) -> None:
    """Replace the checkpoint file by one of somebody else's key."""
    sign_all(service)
    key = keyfile.add(service.settings.log_key_path.with_suffix(".other"), "test.ledger")
    text = format_checkpoint(Checkpoint("test.ledger", 3, bytes(32)))
    service.settings.checkpoint_path.write_bytes(format_note(Note(text, (sign(text, key),))))


def garbage(service: Service) -> None:
    """Overwrite the checkpoint file."""
    service.settings.checkpoint_path.write_bytes(b"nothing\n")


def no_key(service: Service) -> None:
    """Lose the key file."""
    service.settings.log_key_path.unlink()


def open_key(service: Service) -> None:
    """Let others read the key file."""
    service.settings.log_key_path.chmod(0o644)


def other_key(service: Service) -> None:
    """Put the key of another log in place."""
    service.settings.log_key_path.unlink()
    keyfile.add(service.settings.log_key_path, "test.ledger")


FAULTS: dict[str, tuple[Callable[[Service], None], str]] = {
    "an older copy": (older_copy, "a checkpoint of 16 events was signed.*ends at position 11"),
    "the last events deleted": (
        change("DELETE FROM events WHERE position > 9"),
        "a checkpoint of 11 events was signed.*ends at position 9",
    ),
    "a leaf of the signed tree changed": (
        change("UPDATE log_hashes SET hash = zeroblob(32) WHERE idx = 4"),
        "the first 11 events are not those that were signed",
    ),
    "leaves gone": (change("DELETE FROM log_hashes"), "is incomplete"),
    "an unsigned event changed": (
        unsigned("UPDATE events SET recorded_at = '2026-11-24T10:00:00.000001Z' WHERE position=14"),
        "event 14 is not the one that was recorded",
    ),
    "an unsigned event deleted": (
        unsigned("DELETE FROM events WHERE position = 14"),
        "event 14 is missing",
    ),
    "an unsigned leaf changed": (
        unsigned("UPDATE log_hashes SET hash = zeroblob(32) WHERE idx = 13"),
        "event 14 is not the one that was recorded",
    ),
    "another history of this size": (other_history, "two checkpoints of size 11 were signed"),
    "another beginning": (shorter_history, "the first 3 events are not those"),
    "a checkpoint by another key": (other_signer, "is not signed by this log"),
    "no checkpoint in the file": (garbage, "is no checkpoint"),
    "the key file is missing": (no_key, "key file .* is missing"),
    "the key file is open": (open_key, "has mode 0644"),
    "the key file holds another key": (other_key, "does not hold the key"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_found_at_the_start(service: Service, fault: str) -> None:
    """The log is in doubt, says why, signs nothing, and nothing is recorded."""
    append(service, 10)
    do, sentence = FAULTS[fault]
    do(service)

    with reopened(service) as other:
        before = other.recorder.position
        anchor = service.settings.checkpoint_path
        held = anchor.read_bytes() if anchor.exists() else None
        with signing(other):
            assert "doubted" == other.signer.state
            assert other.signer.doubt is not None
        with pytest.raises(LogNotVerified, match=sentence):
            append(other, 1)
        assert before == other.recorder.position
        assert held == (anchor.read_bytes() if anchor.exists() else None)
        assert other.signer.checkpoint is None


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("UPDATE events SET version = 2 WHERE position = 4", "event 4 is not the one"),
        ("DELETE FROM events WHERE position = 4", "event 4 is missing"),
        (
            "UPDATE log_hashes SET hash = zeroblob(32) WHERE level = 1 AND idx = 0",
            "the root of the checkpoint is another",
        ),
    ],
)
def test_what_lies_deeper_is_found_by_the_full_check(
    service: Service, statement: str, sentence: str
) -> None:
    """An event long signed that was changed puts a service in doubt soon after its start."""
    append(service, 600)
    sign_all(service)
    tamper(service, statement)

    with reopened(service) as other, signing(other):
        until(lambda: other.signer.state == "doubted")
        assert other.signer.doubt is not None
        assert sentence in other.signer.doubt
        with pytest.raises(LogNotVerified):
            append(other, 1)


def test_tampering_while_it_runs_is_never_signed(service: Service) -> None:
    """An event that is changed before it is signed ends the signing, and so the recording."""
    with signing(service):
        assert service.signer.wait_for(1, WITHIN_S)
        with service.recorder.transaction() as c:
            append(service, 3)
            c.execute("DROP TRIGGER events_are_never_changed")
            c.execute("UPDATE events SET version = 7 WHERE position = 3")
        until(lambda: service.signer.doubt is not None)
        with pytest.raises(LogNotVerified, match="event 3 is not the one"):
            append(service, 1)
        assert 1 == service.signer.published[0]


def test_a_ledger_is_not_opened_beside_a_checkpoint_of_another(
    service: Service, settings: Settings, clock: SetClock
) -> None:
    """A database that is gone is not replaced by an empty one."""
    sign_all(service)
    for path in settings.vault_path.parent.glob("ledger.db*"):
        path.unlink()
    fresh = build(settings, clock=clock)

    with pytest.raises(InvalidValue, match="is the checkpoint of another ledger"):
        fresh.open()

    assert 0 == fresh.recorder.position
    fresh.recorder.store.close()


# --- rotation -------------------------------------------------------------------------------------


def test_a_rotated_key_signs_from_its_event_on(service: Service) -> None:
    """Old checkpoints verify by the old key, new ones by the new key, none by the wrong one."""
    append(service, 5)
    sign_all(service)
    before = service.signer.checkpoint
    old = service.ledger.log_keys()[0].key

    new = service.rotate_log_key()
    with reopened(service) as other:
        sign_all(other)
        after = other.signer.checkpoint
        check_ledger(other)

    assert before is not None
    assert after is not None
    first, second = service.ledger.log_keys()
    assert (LogKey(old, 1, 6), 7, None) == (first, second.first_size, second.last_size)
    assert new == format_vkey(second.key)
    for note, right, wrong in ((before, first, second), (after, second, first)):
        verify_checkpoint(note, policy(service))
        verify_checkpoint(note, Policy((right,)))
        with pytest.raises(ProofInvalid):
            verify_checkpoint(note, Policy((wrong,)))


def test_a_running_signer_takes_up_a_rotated_key(service: Service) -> None:
    """A rotation by another process needs no restart."""
    with signing(service), reopened(service) as other:
        assert service.signer.wait_for(1, WITHIN_S)
        other.rotate_log_key()
        append(other, 3)
        assert service.signer.wait_for(5, WITHIN_S)
        assert service.signer.doubt is None
    check_ledger(service)


def test_a_lost_key_is_replaced_by_rotation(service: Service) -> None:
    """Without the old key a new one can be made; old checkpoints still verify."""
    append(service, 5)
    sign_all(service)
    before = service.signer.checkpoint
    service.settings.log_key_path.unlink()

    with reopened(service) as other:
        other.signer.check()
        other.rotate_log_key()
        sign_all(other)
        check_ledger(other)
        assert before is not None
        verify_checkpoint(before, policy(other))


def test_a_key_is_not_rotated_while_the_log_is_in_doubt(service: Service) -> None:
    """A new key must not sign what the old one would have refused."""
    append(service, 5)
    older_copy(service)
    before = service.settings.log_key_path.read_bytes()

    with reopened(service) as other:
        other.signer.check()
        with pytest.raises(LogNotVerified):
            other.rotate_log_key()
    assert before == service.settings.log_key_path.read_bytes()


# --- over HTTP ------------------------------------------------------------------------------------


def test_a_service_in_doubt_answers_checks_and_marks_them(founded: Running) -> None:
    """Writes are 503 with the reason, /readyz too, and every AuthZEN answer says so."""
    founded.checked = False
    founded.done(
        "POST",
        "/v1/suspensions",
        role="officer",
        json={
            "subject": {"type": "user", "id": "bob"},
            "scope": {"resources": [{"type": "model"}]},
            "duration": "P1D",
            "basis": "legal_order",
            "reason": "An order.",
        },
    )
    for name in ("alice", "bob", "alice", "bob"):  # what is prepared and remembered is unmarked
        assert "log" not in founded.decision(f"user:{name}", "atlas-3")["context"]

    with founded.service.recorder.transaction() as c:
        c.execute("DROP TRIGGER events_are_never_changed")
        c.execute("UPDATE events SET version = version + 50 WHERE position = 2")
        c.execute("DROP TRIGGER log_hashes_are_never_changed")
        c.execute("UPDATE log_hashes SET hash = zeroblob(32) WHERE level = 0")
    founded.service.signer.check()
    until(lambda: founded.service.signer.doubt is not None)
    until(lambda: "log" in founded.decision("user:alice", "atlas-3")["context"])

    for name, allowed in (("alice", True), ("bob", False), ("alice", True), ("bob", False)):
        decided = founded.decision(f"user:{name}", "atlas-3")
        assert (allowed, "not_verified") == (decided["decision"], decided["context"]["log"])
    batch = founded.done(
        "POST",
        "/access/v1/evaluations",
        role="service",
        json={
            "subject": {"type": "user", "id": "bob"},
            "action": {"name": "use"},
            "evaluations": [{"resource": {"type": "model", "id": "atlas-3"}}, {"resource": 7}],
        },
    )
    assert ["not_verified"] * 2 == [each["context"]["log"] for each in batch["evaluations"]]
    found = founded.done(
        "POST",
        "/access/v1/search/resource",
        role="service",
        json={
            "subject": {"type": "user", "id": "bob"},
            "action": {"name": "use"},
            "resource": {"type": "model"},
        },
    )
    assert {"log": "not_verified"} == found["context"]
    ready = founded("GET", "/readyz")
    assert (503, "log_not_verified") == (ready.status_code, ready.json()["code"])
    assert "run compliance-ledger verify" in ready.json()["detail"]
    written = founded("POST", "/v1/operators", role="admin", json={"id": "x", "role": "officer"})
    assert (503, "log_not_verified") == (written.status_code, written.json()["code"])
    assert "1" == written.headers["retry-after"]
    assert 200 == founded("GET", "/v1/events", role="auditor").status_code


def test_ready_says_how_much_is_signed_and_verified(running: Running) -> None:
    """A monitor sees when the checkpoint falls behind the position."""
    running.service.signer.wait_for(running.service.recorder.position, WITHIN_S)
    until(lambda: running.service.signer.state == "verified")

    ready = running.done("GET", "/readyz", role="auditor")

    assert ("verified", ready["position"]) == (ready["log"], ready["checkpoint"])


def test_a_checkpoint_is_parsed_back(service: Service) -> None:
    """What the file holds is one checkpoint of this ledger, in text."""
    sign_all(service)
    text = parse_note(Path(service.settings.checkpoint_path).read_bytes()).text

    assert ("test.ledger", 1) == (parse_checkpoint(text).origin, parse_checkpoint(text).size)
