"""The tampering table: whatever is done to the files of a ledger, `verify` says what and where.

Each test works on a copy of one ledger of 300 events, signed over 100, 200 and 300 of them, as
somebody would who can write its files: the triggers are dropped first.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest

from ledger.service import keyfile
from ledger.service.verification import Trusted, verify_database
from ledger.service.wiring import reading_recorder
from ledger.tlog.checkpoint import Checkpoint, format_checkpoint
from ledger.tlog.merkle import root
from ledger.tlog.note import Note, Signer, format_note, sign
from ledger.tlog.verify import Kind
from tests.service.conftest import open_ledger
from tests.tampering import END, Copy, at, close, forked, grow, make

COLUMNS = ("stream", "version", "type", "recorded_at", "state")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger that nobody touched."""
    return make(tmp_path_factory.mktemp("untouched"))


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Copy:
    """A copy of the ledger with all of its files."""
    for file in folder.glob("ledger.*"):
        shutil.copy(file, tmp_path)
    return Copy(tmp_path / "ledger.db")


def test_the_untouched_ledger_is_fine(copy: Copy) -> None:
    """Everything fits: events, log, checkpoints, checkpoint file and projections."""
    report = copy.whole

    assert ((), ()) == (report.findings, report.doubts)
    assert (END, 0) == (report.events, report.code)
    assert report.proven is not None
    assert END == report.proven.checkpoint.size


# --- events ---------------------------------------------------------------------------------------


def every_byte(value: object) -> Iterator[object]:
    """A column with each of its bytes changed in turn; a number with each of its bits."""
    match value:
        case bytes():
            for place in range(len(value)):
                yield value[:place] + bytes([value[place] ^ 1]) + value[place + 1 :]
        case str():
            raw = value.encode()
            for place in range(len(raw)):
                yield raw[:place] + bytes([raw[place] ^ 0x80]) + raw[place + 1 :]
                yield raw[:place] + bytes([raw[place] ^ 0x20]) + raw[place + 1 :]
        case int():
            for bit in range(5, 63):  # the lowest would be those of other events of the stream
                yield value ^ 1 << bit


@pytest.mark.parametrize("column", COLUMNS)
def test_every_byte_of_an_event_counts(column: str, copy: Copy) -> None:
    """Each byte of each column changed in turn: the event was changed, and it is named."""
    position = 150
    ((value,),) = copy.rows(f"SELECT {column} FROM events WHERE position = {position}")
    cast = "CAST(? AS TEXT)" if isinstance(value, str) else "?"
    for edited in every_byte(value):
        copy.sql(
            f"UPDATE events SET {column} = {cast} WHERE position = {position}", values=(edited,)
        )

        assert [(Kind.CHANGED, position, None)] == copy.found, edited


def test_a_thousand_bytes_at_random_are_found(copy: Copy) -> None:
    """Any byte of the stored state of any event, even of those that name the log's key."""
    random = Random("a thousand bytes")
    states = dict(copy.rows("SELECT position, state FROM events"))
    copy.sql()
    with closing(sqlite3.connect(copy.path, isolation_level=None)) as c:
        c.execute("PRAGMA synchronous = OFF")
        for _ in range(1_000):
            position = random.randint(1, END)
            state = bytearray(states[position])
            state[random.randrange(len(state))] ^= 1 << random.randrange(8)
            edit = "UPDATE events SET state = ? WHERE position = ?"
            c.execute(edit, (bytes(state), position))

            assert [(Kind.CHANGED, position, None)] == copy.found
            c.execute(edit, (states[position], position))


DELETED: dict[str, tuple[str, list[tuple[int, int | None]]]] = {
    "the first": ("position = 1", [(1, None)]),
    "one in the middle": ("position = 150", [(150, None)]),
    "the last": ("position = 300", [(300, None)]),
    "several": ("position BETWEEN 120 AND 140", [(120, 140)]),
    "a whole stream": ("stream = 'subject/user:u3'", [(n, None) for n in range(18, 301, 7)]),
}


@pytest.mark.parametrize("what", DELETED)
def test_deleted_events_are_missing(what: str, copy: Copy) -> None:
    """First, middle, last, many: each is missing where it stood."""
    where, expected = DELETED[what]
    copy.sql(f"DELETE FROM events WHERE {where}")

    assert [(Kind.MISSING, first, last) for first, last in expected] == copy.found


def test_the_end_cut_off_with_its_hashes_is_rolled_back(copy: Copy) -> None:
    """Not even the log knows of them any more, but what was signed does."""
    copy.sql(
        "DELETE FROM events WHERE position > 280",
        "DELETE FROM log_hashes WHERE level = 0 AND idx >= 280",
    )

    assert [(Kind.ROLLED_BACK, 281, 300)] == copy.found


def test_the_end_cut_off_with_all_traces_is_found_by_the_checkpoint_file(copy: Copy) -> None:
    """The database agrees with itself; without the file beside it nothing could be told."""
    copy.sql(
        "DELETE FROM events WHERE position > 200",
        "DELETE FROM log_hashes WHERE idx >= CASE level WHEN 0 THEN 200 ELSE 0 END",
        "DELETE FROM log_checkpoints WHERE size > 200",
    )

    assert [(Kind.ROLLED_BACK, 201, 300)] == copy.found
    copy.anchor.unlink()
    assert ([], 2) == (copy.found, copy.report.code)


def test_an_older_backup_in_place_of_the_database_is_rolled_back(folder: Path, copy: Copy) -> None:
    """The whole file is older; the checkpoint file shows it, and so does a kept checkpoint."""
    shutil.copy(folder / "at-200" / "ledger.db", copy.path)

    assert [(Kind.ROLLED_BACK, 201, 300)] == copy.found
    kept = copy.anchor.read_bytes()
    copy.anchor.unlink()
    found = verify_database(copy.path, copy.anchor, Trusted(earlier=kept)).findings
    assert [(Kind.ROLLED_BACK, 201, 300)] == [(it.kind, it.position, it.last) for it in found]


def test_two_rows_swapped_are_reordered(copy: Copy) -> None:
    """Every column but the position."""
    copy.sql(
        "UPDATE events SET position = 1000 WHERE position = 20",
        "UPDATE events SET position = 20 WHERE position = 170",
        "UPDATE events SET position = 170 WHERE position = 1000",
    )

    assert [(Kind.REORDERED, 20, None), (Kind.REORDERED, 170, None)] == copy.found


def test_two_states_swapped_are_two_changed_events(copy: Copy) -> None:
    """What is sealed in one event cannot be passed off as another's."""
    states = dict(copy.rows("SELECT position, state FROM events WHERE position IN (20, 170)"))
    copy.sql("UPDATE events SET state = ? WHERE position = 20", values=(states[170],))
    copy.sql("UPDATE events SET state = ? WHERE position = 170", values=(states[20],))

    assert [(Kind.CHANGED, 20, None), (Kind.CHANGED, 170, None)] == copy.found


def test_rows_renumbered_are_reordered(copy: Copy) -> None:
    """One deleted, and all after it moved up to close the gap."""
    copy.sql("DELETE FROM events WHERE position = 150", *MOVED_UP)

    found = copy.found
    assert 150 == found[0][1]
    assert (Kind.MISSING, 150, None) in found
    assert [(Kind.REORDERED, n, None) for n in range(150, END)] == [
        each for each in found if each[0] is Kind.REORDERED and each[1] != END
    ]


MOVED_UP = [
    f"UPDATE events SET position = {n - 1} WHERE position = {n}" for n in range(151, END + 1)
]
INSERT = (
    "INSERT INTO events SELECT {position}, 'subject/user:x', 1, type, recorded_at, state "
    "FROM events WHERE position = 50"
)


@pytest.mark.parametrize("position", [301, 4_000, 0, -5])
def test_a_row_inserted_beyond_either_end_is_inserted(position: int, copy: Copy) -> None:
    """The log never took it down."""
    copy.sql(INSERT.format(position=position))

    assert [(Kind.INSERTED, position, None)] == copy.found


def test_a_row_inserted_in_between_is_inserted(copy: Copy) -> None:
    """All after it moved down to make room."""
    copy.sql(
        *(f"UPDATE events SET position = {n + 1} WHERE position = {n}" for n in range(END, 149, -1))
    )
    copy.sql(INSERT.format(position=150))

    assert (Kind.INSERTED, 150, None) == copy.found[0]
    assert {Kind.INSERTED, Kind.REORDERED} == {kind for kind, _, _ in copy.found}


# --- the log --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("level", "index", "last"), [(0, 0, None), (0, 149, None), (1, 0, 256)])
@pytest.mark.parametrize(
    "deed", ["UPDATE log_hashes SET hash = zeroblob(32)", "DELETE FROM log_hashes"]
)
def test_a_hash_of_any_level_is_the_logs_own_fault(
    deed: str, level: int, index: int, last: int | None, copy: Copy
) -> None:
    """Events and checkpoints agree, so it is not history that was touched."""
    copy.sql(f"{deed} WHERE level = {level} AND idx = {index}")

    assert [(Kind.LOG, index + 1, last)] == copy.found


def test_an_event_rewritten_with_all_hashes_is_narrowed_down(copy: Copy) -> None:
    """What was signed over 100 still fits, what was signed over 200 does not."""
    ((state,),) = copy.rows("SELECT state FROM events WHERE position = 150")
    edited = state.replace(b"warned", b"waived")
    assert edited != state
    copy.sql("UPDATE events SET state = ? WHERE position = 150", values=(edited,))
    copy.relog()

    assert [(Kind.CHANGED, 101, 200)] == copy.found


def test_an_event_taken_out_with_all_hashes_is_found(copy: Copy) -> None:
    """The rest renumbered and the log made anew: nothing in the database speaks of it."""
    copy.sql("DELETE FROM events WHERE position = 150", *MOVED_UP)
    copy.relog()

    assert [(Kind.CHANGED, 101, 200), (Kind.ROLLED_BACK, 300, 300)] == copy.found


# --- checkpoints ----------------------------------------------------------------------------------


def note_of(copy: Copy, size: int) -> bytes:
    """The checkpoint of a size."""
    ((note,),) = copy.rows(f"SELECT note FROM log_checkpoints WHERE size = {size}")
    assert isinstance(note, bytes)
    return note


def test_a_checkpoint_of_another_history_is_told_from_the_right_one(
    folder: Path, copy: Copy, tmp_path: Path
) -> None:
    """Validly signed, put into the table in place of the right one, which the file still holds."""
    fork = forked(folder, tmp_path / "fork")
    copy.sql("UPDATE log_checkpoints SET note = ? WHERE size = 300", values=(note_of(fork, 300),))

    (finding,) = copy.report.findings

    assert (Kind.CHECKPOINT, 300) == (finding.kind, finding.size)
    assert "of another history" in finding.sentence


def test_a_database_of_another_history_does_not_fit_what_was_kept(
    folder: Path, copy: Copy, tmp_path: Path
) -> None:
    """Two clients with checkpoints of two forks: each is told that there are two histories."""
    fork = forked(folder, tmp_path / "fork")
    for ours, theirs in ((copy, fork), (fork, copy)):
        kept = Trusted(earlier=theirs.anchor.read_bytes())
        (finding,) = verify_database(ours.path, ours.anchor, kept).findings

        assert (Kind.FORK, 201, 300) == (finding.kind, finding.position, finding.last)
        assert finding.sentence.startswith("Two histories: ")
    shutil.copy(fork.path, copy.path)
    assert [(Kind.FORK, 201, 300)] == copy.found
    assert [] == fork.found


def test_a_checkpoint_with_any_byte_changed_is_none_that_the_log_signed(copy: Copy) -> None:
    """Text or signature, in the table or in the file."""
    note = note_of(copy, 200)
    for place in range(len(note)):
        edited = note[:place] + bytes([note[place] ^ 1]) + note[place + 1 :]
        copy.sql("UPDATE log_checkpoints SET note = ? WHERE size = 200", values=(edited,))

        assert [(Kind.CHECKPOINT, None, None)] == copy.found
    copy.sql("UPDATE log_checkpoints SET note = ? WHERE size = 200", values=(note,))
    assert [] == copy.found
    copy.anchor.write_bytes(note[:-9] + (b"B" if note[-9:-8] == b"A" else b"A") + note[-8:])
    assert [(Kind.CHECKPOINT, None, None)] == copy.found


def test_a_checkpoint_under_another_size_is_found(copy: Copy) -> None:
    """The table says 200, what was signed says 300."""
    copy.sql("UPDATE log_checkpoints SET note = ? WHERE size = 200", values=(note_of(copy, 300),))

    assert [(Kind.CHECKPOINT, None, None)] == copy.found


def test_a_ledger_made_anew_with_a_key_of_its_own_is_not_signed_by_ours(
    copy: Copy, tmp_path: Path
) -> None:
    """It agrees with itself in everything; only a key that was kept elsewhere tells them apart."""
    (ours,) = keyfile.read(copy.path.with_suffix(".log-key"))
    service = at(tmp_path / "theirs")
    open_ledger(service)
    grow(service, END)
    close(service)
    theirs = Copy(tmp_path / "theirs" / "ledger.db")

    assert 0 == theirs.report.code
    report = verify_database(theirs.path, theirs.anchor, Trusted((ours.verifier_key,)))
    assert (2, None) == (report.code, report.proven)
    kept = Trusted((ours.verifier_key,), copy.anchor.read_bytes())
    report = verify_database(theirs.path, theirs.anchor, kept)
    assert Kind.FORK in {each.kind for each in report.findings}


def test_a_rotated_key_signs_no_further_trees(copy: Copy) -> None:
    """After the event that names another key, a checkpoint by the old one is none."""
    (old,) = keyfile.read(copy.path.with_suffix(".log-key"))
    service = at(copy.path.parent)
    service.rotate_log_key()
    grow(service, END + 10)
    close(service)
    assert ([], 0) == (copy.found, copy.report.code)

    forged = signed(copy, old, END + 10)
    copy.sql("UPDATE log_checkpoints SET note = ? WHERE size = 310", values=(forged,))

    assert [Kind.CHECKPOINT] == [kind for kind, _, _ in copy.found]


def test_a_loss_that_was_accepted_is_on_record_and_verifies(folder: Path, copy: Copy) -> None:
    """What is left is sound again; with a checkpoint from before it is not simply fine."""
    shutil.copy(folder / "at-200" / "ledger.db", copy.path)
    kept = copy.anchor.read_bytes()
    service = at(copy.path.parent, checked=False)
    service.signer.recover()
    close(service)

    assert ([], 0) == (copy.found, copy.report.code)
    report = verify_database(copy.path, copy.anchor, Trusted(earlier=kept))
    assert 2 == report.code
    assert "rolled back and got a new key since" in report.doubts[0]


def signed(copy: Copy, signer: Signer, size: int) -> bytes:
    """A checkpoint of the log as it is, by any key."""
    hashes = [each for (each,) in copy.rows("SELECT hash FROM log_hashes WHERE level = 0")]
    text = format_checkpoint(Checkpoint(signer.name, size, root(hashes[:size])))
    return format_note(Note(text, (sign(text, signer),)))


# --- projections ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM operators",
        "UPDATE operators SET role = 'admin'",
        "DROP TABLE operators",
    ],
)
def test_an_edited_projection_is_not_called_history(statement: str, copy: Copy) -> None:
    """The events are sound; the rows derived from them are not what they say."""
    copy.sql(statement)

    report = copy.whole

    assert [Kind.PROJECTION] == [each.kind for each in report.findings]
    assert "operators" in report.findings[0].sentence
    assert ([], 1) == (copy.found, report.code)


def test_projections_are_not_compared_with_a_history_that_is_not_sound(copy: Copy) -> None:
    """What they would be compared with is wrong itself."""
    copy.sql("DELETE FROM operators", "DELETE FROM events WHERE position = 150")

    report = copy.whole

    assert [Kind.MISSING] == [each.kind for each in report.findings]
    assert "not compared" in report.remarks[-1]


def test_the_recorder_that_reads_has_every_projection(copy: Copy) -> None:
    """The ones that a service writes, in its order."""
    service, reading = at(copy.path.parent), reading_recorder(copy.path)

    assert [type(each) for each in service.recorder.projections] == [
        type(each) for each in reading.projections
    ]
    close(service)
    reading.store.close()


# --- the schema and the file ----------------------------------------------------------------------


def test_missing_triggers_are_named(copy: Copy) -> None:
    """Nothing is wrong yet, but somebody opened the door."""
    copy.sql()

    report = copy.report

    assert 0 == report.code
    assert "The trigger events_are_never_changed is missing, which the ledger makes." in (
        report.remarks
    )


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0" + bytes(5_000)])
def test_a_file_that_is_no_ledger_cannot_be_told(content: bytes, copy: Copy) -> None:
    """A sentence, and no traceback."""
    copy.path.write_bytes(content)

    report = copy.whole

    assert (2, ()) == (report.code, report.findings)
    assert "cannot be read" in report.doubts[0]


def spoil(random: Random, data: bytes) -> bytes:
    """The file as damage or malice may leave it: bytes changed, a page zeroed, the end cut off."""
    spoilt = bytearray(data)
    match random.randrange(4):
        case 0:
            for _ in range(random.choice([1, 1, 2, 20, 500])):
                spoilt[random.randrange(len(spoilt))] = random.randrange(256)
        case 1:
            page = random.randrange(len(spoilt) // 4096)
            spoilt[page * 4096 : (page + 1) * 4096] = bytes(4096)
        case 2:
            del spoilt[random.randrange(len(spoilt)) :]
        case _:
            one, other = (random.randrange(len(spoilt) // 4096) * 4096 for _ in range(2))
            spoilt[one : one + 4096] = data[other : other + 4096]
    return bytes(spoilt)


def check_spoilt(copy: Copy, seed: str, cases: int) -> None:
    """Check that no damage to the file leads to anything but a verdict, and the right one."""
    data, intact = copy.path.read_bytes(), content_of(copy)
    for number in range(cases):
        for leftover in copy.path.parent.glob("ledger.db-*"):
            leftover.unlink()
        copy.path.write_bytes(spoil(Random(f"{seed} {number}"), data))

        report = copy.whole

        assert report.code in (0, 1, 2)
        assert report.code or content_of(copy) == intact, f"{seed} {number}"


def content_of(copy: Copy) -> list[tuple[Any, ...]]:
    """Every event and every row of the log."""
    return [
        row
        for table in ("events", "log_hashes", "log_checkpoints")
        for row in copy.rows(f"SELECT * FROM {table} ORDER BY 1, 2")
    ]


def test_a_spoilt_file_gets_a_verdict(copy: Copy) -> None:
    """Some hundred kinds of damage; where the verdict is fine, every event is as it was."""
    check_spoilt(copy, "spoilt", 150)


@pytest.mark.soak
def test_ten_thousand_spoilt_files_get_a_verdict(copy: Copy) -> None:
    """As above, for longer."""
    check_spoilt(copy, "soak", 10_000)
