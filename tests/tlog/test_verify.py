"""Verifying, in memory: each way to tamper is named, and where it was done is found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from random import Random

import pytest

from ledger.tlog.checkpoint import Checkpoint, LogKey, format_checkpoint
from ledger.tlog.leaf import StoredRow, entry
from ledger.tlog.merkle import EMPTY_ROOT, LogError, leaf_hash, root
from ledger.tlog.note import Note, Signer, format_note, format_vkey, sign
from ledger.tlog.verify import (
    Finding,
    Kind,
    Signed,
    Verdict,
    key_named,
    keys_in_force,
    read_signed,
    verify,
)

ORIGIN = "ledger.example"
SIGNER = Signer(ORIGIN, bytes(range(32)))
KEYS = (LogKey(SIGNER.verifier_key),)


def row(position: int, *, text: str = "") -> StoredRow:
    """An event that looks like one of ours."""
    return StoredRow(
        position,
        f"subject/user:u{position % 3}",
        position // 3 + 1,
        "violation.recorded",
        f"2026-11-24T10:00:00.{position:06d}Z",
        json.dumps({"data": {"text": text or f"event {position}"}}).encode(),
    )


@dataclass
class Record:
    """A record in memory, to be tampered with: rows, the log's hashes, and what was signed."""

    rows: dict[int, bytes]
    leaves: dict[int, bytes]
    nodes: dict[tuple[int, int], bytes]
    signed: list[Signed]

    @property
    def verdict(self) -> Verdict:
        """What the verifier says of it."""
        return verify(
            sorted(self.rows.items()), sorted(self.leaves.items()), self.nodes, self.signed
        )

    @property
    def found(self) -> list[tuple[Kind, int | None, int | None]]:
        """Kind, first and last position of each finding."""
        return [(each.kind, each.position, each.last) for each in self.verdict.findings]

    @property
    def first(self) -> tuple[Kind, int | None]:
        """Kind and position of the first finding."""
        kind, position, _ = self.found[0]
        return kind, position

    def relog(self) -> None:
        """Make the log's hashes anew, from the rows as they are now."""
        hashes = [leaf_hash(data) for _, data in sorted(self.rows.items())]
        self.leaves = dict(enumerate(hashes))
        self.nodes = nodes_of(hashes)


def nodes_of(hashes: Sequence[bytes]) -> dict[tuple[int, int], bytes]:
    """The hashes of the tiles above the lowest level."""
    found: dict[tuple[int, int], bytes] = {}
    level, below = 0, list(hashes)
    while len(below) >= 256:
        level += 1
        below = [root(below[at : at + 256]) for at in range(0, len(below) - 255, 256)]
        found |= {(level, index): each for index, each in enumerate(below)}
    return found


def signed_over(
    hashes: Sequence[bytes], *, source: str = "the database", beside: bool = True
) -> Signed:
    """A checkpoint over these leaves, by the log's key."""
    text = format_checkpoint(Checkpoint(ORIGIN, len(hashes), root(hashes)))
    note = format_note(Note(text, (sign(text, SIGNER),)))
    return read_signed(note, KEYS, source=source, beside=beside)


def record(size: int, *sizes: int, fork_after: int | None = None) -> Record:
    """A record of ``size`` events with checkpoints of these sizes.

    After ``fork_after`` its events are others than those of another record of the same size.
    """
    fork = size if fork_after is None else fork_after
    rows = {n: entry(row(n, text="fork" if n > fork else "")) for n in range(1, size + 1)}
    made = Record(rows, {}, {}, [])
    made.relog()
    hashes = list(made.leaves.values())
    made.signed = [signed_over(hashes[:each]) for each in sizes]
    return made


def move(data: bytes, position: int) -> bytes:
    """The entry of the same row under another position."""
    return data[:1] + position.to_bytes(8, "big") + data[9:]


def renumber(rows: Iterable[bytes]) -> dict[int, bytes]:
    """Rows at the positions 1, 2, 3 …, as if they had always stood there."""
    return {position: move(data, position) for position, data in enumerate(rows, start=1)}


# --- a record that nobody touched -----------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 8, 255, 256, 257, 511, 512, 600])
def test_an_untouched_record_has_no_findings(size: int) -> None:
    """Whatever its size, with a checkpoint of every smaller size, and all of them fit."""
    untouched = record(size, *range(size + 1))

    verdict = untouched.verdict

    assert (size, ()) == (verdict.size, verdict.findings)
    assert list(range(size + 1)) == [each.checkpoint.size for each in verdict.fitting]


def test_hashes_of_the_second_level_are_recomputed() -> None:
    """65,536 events fill a tile of tiles, whose hash is compared, too."""
    full = record(65_536 + 300, 65_536 + 300)

    assert [] == full.found
    assert (2, 0) in full.nodes

    full.nodes[2, 0] = bytes(32)

    assert [(Kind.LOG, 1, 65_536)] == full.found
    assert (2, 0) == full.verdict.findings[0].tile


def test_progress_is_told_up_to_the_end() -> None:
    """The last call names the number of positions."""
    untouched, seen = record(5_000), list[int]()

    verify(
        sorted(untouched.rows.items()),
        sorted(untouched.leaves.items()),
        untouched.nodes,
        (),
        progress=seen.append,
    )

    assert [4_096, 5_000] == seen


# --- one thing done to it, at every position of every small record --------------------------------

SIZES = range(1, 13)
EVERYWHERE = [(size, position) for size in SIZES for position in range(1, size + 1)]


@pytest.mark.parametrize(("size", "position"), EVERYWHERE)
def test_a_changed_event_is_found_where_it_stands(size: int, position: int) -> None:
    """Any row, in any small record, with every checkpoint and with the newest alone."""
    for sizes in ((size,), range(1, size + 1)):
        edited = record(size, *sizes)
        edited.rows[position] = entry(row(position, text="edited"))

        assert [(Kind.CHANGED, position, None)] == edited.found


@pytest.mark.parametrize(("size", "position"), EVERYWHERE)
def test_a_deleted_event_is_missing_where_it_stood(size: int, position: int) -> None:
    """First, middle or last: the log still holds its hash."""
    cut = record(size, size)
    del cut.rows[position]

    assert [(Kind.MISSING, position, None)] == cut.found


@pytest.mark.parametrize(("size", "position"), EVERYWHERE)
def test_an_event_deleted_with_its_hash_is_missing(size: int, position: int) -> None:
    """A hole in both is missing; at the end of both, the record was rolled back."""
    cut = record(size, size)
    del cut.rows[position], cut.leaves[position - 1]

    kind = Kind.ROLLED_BACK if position == size else Kind.MISSING
    assert (kind, position) == cut.first
    assert 1 == len(cut.found)


@pytest.mark.parametrize(("size", "position"), EVERYWHERE)
def test_a_deletion_that_was_closed_up_is_found(size: int, position: int) -> None:
    """The rows after it moved up: the gap is where the first of them stands now."""
    cut = record(size, size)
    cut.rows = renumber(data for n, data in sorted(cut.rows.items()) if n != position)

    found = cut.found

    assert (Kind.MISSING, position, None) in found
    assert {(Kind.REORDERED, n, None) for n in range(position, size)} <= set(found)
    assert position == found[0][1]


@pytest.mark.parametrize(("size", "position"), EVERYWHERE)
def test_an_event_slipped_in_is_found_where_it_stands(size: int, position: int) -> None:
    """The rows after it moved down, so what stands at its position is due one further."""
    full = record(size, size)
    rows = [data for _, data in sorted(full.rows.items())]
    rows.insert(position - 1, entry(row(999)))
    full.rows = renumber(rows)

    found = full.found

    assert (Kind.INSERTED, position, None) == found[0]
    assert {(Kind.REORDERED, n, None) for n in range(position + 1, size + 2)} <= set(found)


@pytest.mark.parametrize("size", SIZES)
def test_an_event_added_at_the_end_without_the_log_was_inserted(size: int) -> None:
    """Right after the last one, far behind it, or before the first."""
    for position in (size + 1, size + 1_000, 2**62, 0, -7):
        full = record(size, size)
        full.rows[position] = entry(row(max(position, 1)))

        assert [(Kind.INSERTED, position, None)] == full.found


@pytest.mark.parametrize("size", range(2, 9))
def test_two_events_swapped_are_both_found(size: int) -> None:
    """Every pair: each is named with the position at which it stands."""
    for one, other in combinations(range(1, size + 1), 2):
        swapped = record(size, size)
        rows = swapped.rows
        rows[one], rows[other] = move(rows[other], one), move(rows[one], other)

        assert [(Kind.REORDERED, one, None), (Kind.REORDERED, other, None)] == swapped.found


@pytest.mark.parametrize("size", SIZES)
def test_an_event_moved_to_a_free_position_is_reordered(size: int) -> None:
    """It is reported where it should stand, and where it does."""
    moved = record(size, size)
    moved.rows[size + 50] = move(moved.rows.pop(1), size + 50)

    assert [(Kind.REORDERED, 1, None), (Kind.REORDERED, size + 50, None)] == moved.found


@pytest.mark.parametrize(("size", "position"), EVERYWHERE)
def test_a_hash_of_the_log_that_was_edited_is_no_fault_of_the_event(
    size: int, position: int
) -> None:
    """Changed or deleted: events and checkpoint agree, so it is the log that was touched."""
    for doctored in (bytes(32), b"short", None):
        edited = record(size, size)
        if doctored is None:
            del edited.leaves[position - 1]
        else:
            edited.leaves[position - 1] = doctored

        assert [(Kind.LOG, position, None)] == edited.found
        assert (0, position - 1) == edited.verdict.findings[0].tile


@pytest.mark.parametrize("index", [-1, 12, 2**40])
def test_a_hash_of_an_event_that_never_was_is_reported(index: int) -> None:
    """Before the first event, or behind a gap after the last."""
    edited = record(10, 10)
    edited.leaves[index] = bytes(32)

    assert [(Kind.LOG, index + 1, None)] == edited.found


def test_a_higher_hash_that_is_edited_deleted_or_made_up_is_reported() -> None:
    """With the events that it stands for; one too many has none."""
    edited = record(600, 600)
    edited.nodes[1, 0] = bytes(32)
    assert [(Kind.LOG, 1, 256)] == edited.found

    deleted = record(600, 600)
    del deleted.nodes[1, 1]
    assert [(Kind.LOG, 257, 512)] == deleted.found

    for tile in ((1, 2), (2, 0), (1, -1), (-1, 0)):
        made_up = record(600, 600)
        made_up.nodes[tile] = bytes(32)
        assert [(Kind.LOG, None, None)] == made_up.found


# --- events and log rewritten together ------------------------------------------------------------


@pytest.mark.parametrize("size", range(1, 10))
def test_history_rewritten_with_its_log_is_narrowed_down_by_older_checkpoints(size: int) -> None:
    """Every position against every pair of checkpoints: the range holds it, and is the smallest."""
    for position in range(1, size + 1):
        for older in range(size):
            edited = record(size, older, size)
            edited.rows[position] = entry(row(position, text="edited"))
            edited.relog()

            first, last = (1, older) if position <= older else (older + 1, size)
            assert [(Kind.CHANGED, first, last)] == edited.found


def test_the_sentence_says_what_is_not_known() -> None:
    """A range is not a position, and the smaller checkpoint says what is untouched."""
    edited = record(300, 100, 200, 300)
    edited.rows[150] = entry(row(150, text="edited"))
    edited.relog()

    (finding,) = edited.verdict.findings

    assert (Kind.CHANGED, 101, 200, 200) == (
        finding.kind,
        finding.position,
        finding.last,
        finding.size,
    )
    assert "at least one of the events 101 to 200" in finding.sentence
    assert "up to 100 are untouched" in finding.sentence


def test_an_edit_in_one_stretch_and_another_of_the_log_elsewhere_are_told_apart() -> None:
    """Each checkpoint settles what lies before it."""
    edited = record(30, 10, 20, 30)
    edited.rows[5] = entry(row(5, text="edited"))
    edited.leaves[14] = bytes(32)
    del edited.rows[25]

    assert [
        (Kind.CHANGED, 5, None),
        (Kind.LOG, 15, None),
        (Kind.MISSING, 25, None),
    ] == edited.found


def test_an_event_edited_whose_hash_was_deleted_is_found() -> None:
    """Neither side fits: the range is named, and the position at which they part."""
    edited = record(30, 10, 30)
    edited.rows[15] = entry(row(15, text="edited"))
    del edited.leaves[14]

    assert [(Kind.CHANGED, 11, 30), (Kind.CHANGED, 15, None)] == edited.found


def test_what_nobody_signed_yet_is_compared_with_the_log() -> None:
    """Behind the newest checkpoint the log's hash is all there is, and the sentence says so."""
    edited = record(30, 20)
    edited.rows[25] = entry(row(25, text="edited"))

    (finding,) = edited.verdict.findings

    assert (Kind.CHANGED, 25) == (finding.kind, finding.position)
    assert "No signed checkpoint" in finding.sentence


def test_a_row_that_cannot_be_an_entry_was_changed() -> None:
    """A column of another type, say; readers hand in an empty entry for it."""
    edited = record(5, 5)
    edited.rows[3] = b""

    assert [(Kind.CHANGED, 3, None)] == edited.found


def test_neighbours_are_reported_together() -> None:
    """Ten events deleted in a row are one finding with a first and a last."""
    cut = record(40, 40)
    for position in range(11, 21):
        del cut.rows[position]

    assert [(Kind.MISSING, 11, 20)] == cut.found
    assert "Events 11 to 20 are missing." == cut.verdict.findings[0].sentence


def test_a_whole_stream_deleted_is_found_event_by_event() -> None:
    """Every third event is of the same subject."""
    cut = record(12, 12)
    for position in (3, 6, 9, 12):
        del cut.rows[position]

    assert [(Kind.MISSING, position, None) for position in (3, 6, 9, 12)] == cut.found


# --- checkpoints ----------------------------------------------------------------------------------


def anchored(made: Record, hashes: Sequence[bytes], source: str = "the checkpoint file") -> Record:
    """The same record, with a checkpoint that is kept elsewhere."""
    return replace(made, signed=[*made.signed, signed_over(hashes, source=source, beside=False)])


def test_an_older_copy_is_rolled_back_as_a_checkpoint_elsewhere_shows() -> None:
    """All of the older copy agrees with itself."""
    now = record(300, 300)
    older = anchored(record(200, 100, 200), list(now.leaves.values()))

    assert [(Kind.ROLLED_BACK, 201, 300)] == older.found


def test_a_checkpoint_replaced_by_one_of_another_history_is_found() -> None:
    """As long as the right one of this size, or a larger one, is kept somewhere."""
    other = record(300, 300, fork_after=150)
    right = list(record(300).leaves.values())
    replaced = anchored(replace(record(300), signed=other.signed), right)

    (finding,) = replaced.verdict.findings

    assert (Kind.CHECKPOINT, None, 300) == (finding.kind, finding.position, finding.size)
    in_between = record(300, 100, 300)
    in_between.signed.append(record(300, 200, fork_after=150).signed[0])
    assert [Kind.CHECKPOINT] == [each.kind for each in in_between.verdict.findings]


def test_two_histories_are_called_so() -> None:
    """A checkpoint kept elsewhere that does not fit, while one signed later does."""
    ours = list(record(250, fork_after=100).leaves.values())
    served = anchored(record(300, 100, 300), ours, "--checkpoint")

    (finding,) = served.verdict.findings

    assert (Kind.FORK, 101, 250) == (finding.kind, finding.position, finding.last)
    assert finding.sentence.startswith("Two histories: the log signed --checkpoint over 250")


def test_two_roots_of_one_size_are_two_histories_though_neither_fits() -> None:
    """The events were rewritten, and the log signed twice, besides."""
    edited = record(300)
    edited.rows[9] = entry(row(9, text="edited"))
    edited.relog()
    for fork_after in (300, 100):
        hashes = list(record(300, fork_after=fork_after).leaves.values())
        edited = anchored(edited, hashes, f"copy {fork_after}")

    assert [Kind.CHANGED, Kind.FORK] == [each.kind for each in edited.verdict.findings]


def test_the_empty_tree_has_one_root() -> None:
    """A checkpoint of size 0 fits every record."""
    assert EMPTY_ROOT == record(5, 0).verdict.fitting[0].checkpoint.root


# --- at random ------------------------------------------------------------------------------------


def flip(data: bytes, at: int, bit: int) -> bytes:
    """The same bytes with one bit changed."""
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def test_a_thousand_random_flips_of_one_byte_are_all_found() -> None:
    """Each where it was done, as a changed event; the position is a column like any other."""
    random, size = Random("flips"), 60
    for _ in range(1_000):
        edited = record(size, random.randint(0, size), size)
        position = random.randint(1, size)
        data = edited.rows[position]
        at = random.choice([0, *range(9, len(data))])
        edited.rows[position] = flip(data, at, random.randrange(8))

        assert [(Kind.CHANGED, position, None)] == edited.found


def _nothing(_: Record, __: Random) -> None:
    pass


def _change(made: Record, random: Random) -> None:
    position = random.choice(list(made.rows))
    made.rows[position] = entry(row(position, text=str(random.random())))


def _delete(made: Record, random: Random) -> None:
    del made.rows[random.choice(list(made.rows))]


def _insert(made: Record, random: Random) -> None:
    made.rows[random.randint(-2, 40)] = entry(row(random.randint(50, 99)))


def _unlog(made: Record, random: Random) -> None:
    if made.leaves:
        del made.leaves[random.choice(list(made.leaves))]


def _mislog(made: Record, random: Random) -> None:
    made.leaves[random.randint(-2, 40)] = random.randbytes(32)


def _relog(made: Record, _: Random) -> None:
    made.rows = renumber(data for _, data in sorted(made.rows.items()))
    made.relog()


DEEDS: Sequence[Callable[[Record, Random], None]] = (
    _nothing,
    _change,
    _delete,
    _insert,
    _unlog,
    _mislog,
    _relog,
)


def test_whatever_is_done_it_is_found_and_nothing_is_found_where_nothing_was_done() -> None:
    """Random deeds one after the other: no crash, and a finding exactly when something differs.

    Events with their hashes after the newest checkpoint are what appending looks like.
    """
    random = Random("deeds")
    for _ in range(2_000):
        size = random.randint(3, 30)
        untouched = record(size, random.randint(0, size), size)
        edited = replace(
            untouched, rows=dict(untouched.rows), leaves=dict(untouched.leaves), nodes={}
        )
        for _ in range(random.randint(0, 4)):
            if edited.rows:
                random.choice(DEEDS)(edited, random)
        appended = {n: edited.rows.pop(n) for n in sorted(edited.rows) if n > size}
        in_the_log = {n - 1: leaf_hash(data) for n, data in appended.items()}
        dense = list(appended) == list(range(size + 1, size + 1 + len(appended)))
        differs = not dense or (edited.rows, edited.leaves) != (
            untouched.rows,
            untouched.leaves | in_the_log,
        )
        edited.rows |= appended

        assert differs == bool(edited.found), edited.found


# --- keys -----------------------------------------------------------------------------------------


def naming(
    position: int, key: str, *, type_: str = "log.key_rotated", stream: str = "ledger"
) -> bytes:
    """The entry of an event that names a key of the log."""
    state = json.dumps({"data": {"log_key": key}}, separators=(",", ":")).encode()
    return entry(StoredRow(position, stream, position, type_, "2026-11-24T10:00:00Z", state))


def test_the_keys_that_events_name_are_collected_with_their_positions() -> None:
    """Each signs from where it is named until another one is."""
    made = record(9)
    other = Signer(ORIGIN, bytes(32)).verifier_key
    made.rows[1] = naming(1, format_vkey(SIGNER.verifier_key))
    made.rows[7] = naming(7, format_vkey(other))
    made.relog()

    named = made.verdict.named

    assert ((1, SIGNER.verifier_key), (7, other)) == named
    assert (LogKey(SIGNER.verifier_key, 1, 6), LogKey(other, 7)) == keys_in_force(named)


@pytest.mark.parametrize(
    "data",
    [
        entry(row(1)),
        naming(1, "nonsense"),
        naming(1, format_vkey(SIGNER.verifier_key), type_="warning.issued"),
        naming(1, format_vkey(SIGNER.verifier_key), stream="subject/user:ann"),
        naming(1, format_vkey(SIGNER.verifier_key))[:-1],
        b'"log_key"',
    ],
)
def test_only_the_events_that_name_keys_name_keys(data: bytes) -> None:
    """Neither another event that says so, nor a malformed one."""
    assert None is key_named(data)


def test_a_checkpoint_by_another_key_is_no_checkpoint() -> None:
    """Nor one by a key that may not sign this size."""
    note = record(5, 5).signed[0].note
    for keys in (
        [LogKey(Signer(ORIGIN, bytes(32)).verifier_key)],
        [LogKey(SIGNER.verifier_key, 6)],
    ):
        with pytest.raises(LogError):
            read_signed(note, keys, source="a test")


def test_a_finding_says_where_and_what() -> None:
    """What is not known is absent."""
    assert (None, None, None, None) == (
        (finding := Finding(Kind.PROJECTION, "A row differs.")).position,
        finding.last,
        finding.size,
        finding.tile,
    )
