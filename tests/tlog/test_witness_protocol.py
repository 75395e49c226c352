"""The witness protocol: what is asked, what is answered, and what is never cosigned."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.tlog.checkpoint import Checkpoint, LogKey, format_checkpoint
from ledger.tlog.merkle import (
    EMPTY_ROOT,
    LogError,
    LogFormatError,
    ProofInvalid,
    consistency_proof,
    leaf_hash,
    root,
)
from ledger.tlog.note import (
    KeyType,
    Note,
    Signature,
    Signer,
    cosign,
    format_signatures,
    sign,
)
from ledger.tlog.witness_protocol import (
    Accepted,
    AddCheckpoint,
    Refused,
    WitnessState,
    decide,
    format_add_checkpoint,
    format_latest_size,
    parse_add_checkpoint,
    parse_cosignatures,
    parse_latest_size,
)

ORIGIN = "ledger.example/log1"
LOG = Signer(ORIGIN, bytes(range(32)))
OTHER = Signer("other.example/log", bytes(32))
WITNESS = Signer("witness.example/w1", bytes(range(32, 64)), KeyType.COSIGNATURE)
LOG_KEYS = [LogKey(LOG.verifier_key), LogKey(OTHER.verifier_key)]
LEAVES = [leaf_hash(str(index).encode()) for index in range(40)]
FORKED = [*LEAVES[:-1], leaf_hash(b"changed")]


def hash_at(level: int, index: int) -> bytes:
    """Read the test tree."""
    return root(LEAVES[index << level : (index + 1) << level])


def state(size: int) -> WitnessState:
    """Tell what an honest witness stored of the honest log."""
    return WitnessState(size, root(LEAVES[:size]))


def request(
    old: int,
    size: int,
    *,
    proof: tuple[bytes, ...] | None = None,
    root_hash: bytes | None = None,
    signer: Signer = LOG,
) -> AddCheckpoint:
    """Make an honest request, except for what is given."""
    text = format_checkpoint(Checkpoint(ORIGIN, size, root_hash or root(LEAVES[:size])))
    steps = consistency_proof(old, size, hash_at) if proof is None else proof
    return AddCheckpoint(old, steps, Note(text, (sign(text, signer),)))


def refusal(asked: AddCheckpoint, stored: WitnessState | None) -> Refused:
    """Ask, and insist on a refusal."""
    answer = decide(asked, LOG_KEYS, stored)
    assert isinstance(answer, Refused)
    return answer


DATA = format_add_checkpoint(request(13, 40))


def test_every_step_of_an_honest_log_is_accepted() -> None:
    """From any size to any larger or equal one, by way of the request's own bytes."""
    for old in range(len(LEAVES) + 1):
        for new in range(old, len(LEAVES) + 1):
            asked = request(old, new)
            assert asked == parse_add_checkpoint(format_add_checkpoint(asked))
            assert Accepted(state(new)) == decide(asked, LOG_KEYS, state(old))


def test_a_log_that_is_seen_for_the_first_time_starts_from_0() -> None:
    """Nothing stored is the same as having cosigned the empty tree."""
    assert Accepted(state(40)) == decide(request(0, 40), LOG_KEYS, None)
    stale = refusal(request(13, 40), None)
    assert (stale.status, stale.latest_size) == (409, 0)


def test_an_unknown_log_is_404() -> None:
    """A checkpoint of an origin that no key has is refused, whoever signed it."""
    text = format_checkpoint(Checkpoint("unknown.example/log", 7, root(LEAVES[:7])))
    asked = AddCheckpoint(0, (), Note(text, (sign(text, LOG),)))

    assert refusal(asked, None).status == 404


@pytest.mark.parametrize("signer", [OTHER, Signer(ORIGIN, bytes(range(1, 33)))])
def test_a_checkpoint_that_its_log_did_not_sign_is_403(signer: Signer) -> None:
    """Neither the key of another known log nor an unknown key of the same name will do."""
    assert refusal(request(0, 7, signer=signer), None).status == 403


def test_a_bad_signature_beside_a_good_one_is_403() -> None:
    """A signature by the log's key that does not verify spoils the note."""
    honest = request(0, 7)
    bad = Signature(LOG.name, LOG.verifier_key.key_id, bytes(64))
    spoiled = Note(honest.note.text, (*honest.note.signatures, bad))

    assert refusal(AddCheckpoint(0, (), spoiled), None).status == 403


def test_a_retired_key_is_403() -> None:
    """A witness that knows of a rotation does not cosign what the old key signs after it."""
    retired = [LogKey(LOG.verifier_key, last_size=6)]
    answer = decide(request(0, 7), retired, None)

    assert isinstance(answer, Refused)
    assert answer.status == 403


def test_an_old_size_above_the_new_is_400() -> None:
    """The one malformed request that only the checkpoint shows; before 409, as in the standard."""
    assert refusal(request(9, 7, proof=()), state(3)).status == 400


@pytest.mark.parametrize(("old", "stored"), [(3, 7), (7, 3), (0, 7), (40, 7)])
def test_an_old_size_that_is_not_the_stored_one_is_409(old: int, stored: int) -> None:
    """The answer tells the size from which the log must prove."""
    answer = refusal(request(old, 40), state(stored))

    assert (answer.status, answer.latest_size) == (409, stored)
    assert stored == parse_latest_size(format_latest_size(stored))


@pytest.mark.parametrize(
    ("asked", "stored"),
    [
        (request(13, 40, proof=()), 13),
        (request(13, 40, proof=consistency_proof(12, 40, hash_at)), 13),
        (request(13, 40, root_hash=root(FORKED)), 13),
        (request(0, 40, proof=(EMPTY_ROOT,)), 0),
        (request(40, 40, proof=(EMPTY_ROOT,)), 40),
        (request(0, 0, root_hash=LEAVES[0]), 0),
    ],
)
def test_what_is_not_proven_is_422(asked: AddCheckpoint, stored: int) -> None:
    """A wrong or superfluous proof, or a wrong root of the empty tree, is never cosigned."""
    assert refusal(asked, state(stored)).status == 422


def test_another_root_for_the_same_size_is_422_and_a_fork() -> None:
    """The log signed two roots for one size: refused, and told to be worth keeping."""
    answer = refusal(request(40, 40, root_hash=root(FORKED)), state(40))

    assert (answer.status, answer.is_fork) == (422, True)
    assert not refusal(request(13, 40, proof=()), state(13)).is_fork


def test_a_witness_never_follows_a_fork() -> None:
    """From a state on one side of a fork, no honest proof of the other side is accepted."""
    for old in range(1, 40):
        forked = WitnessState(old, root([*LEAVES[: old - 1], leaf_hash(b"changed")]))
        for new in range(old, 41):
            assert refusal(request(old, new), forked).status == 422


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"old 13\n", b""),
        (b"old 13\n", b"old  13\n"),
        (b"old 13\n", b"old 013\n"),
        (b"old 13\n", b"old -1\n"),
        (b"old 13\n", b"old 13\r\n"),
        (b"old 13\n", b"size 13\n"),
        (b"old 13\n", b"old 13\n\n"),
        (b"old 13\n", b"old 13\nAAAA\n"),
        (b"old 13\n", b"old 13\n" + 63 * (b"A" * 43 + b"=\n")),
        (b"\n40\n", b"\n040\n"),
        (b"\n\n", b"\n"),
    ],
)
def test_a_malformed_request_is_refused(old: bytes, new: bytes) -> None:
    """Each deviation from the format is a LogFormatError, which is answered 400."""
    assert old in DATA
    with pytest.raises(LogFormatError):
        parse_add_checkpoint(DATA.replace(old, new, 1))


def test_63_hashes_are_read_and_no_more() -> None:
    """As many as the standard allows; whether they prove anything is another question."""
    many = request(13, 40, proof=tuple(EMPTY_ROOT for _ in range(63)))

    assert many == parse_add_checkpoint(format_add_checkpoint(many))
    with pytest.raises(LogFormatError):
        format_add_checkpoint(request(13, 40, proof=tuple(EMPTY_ROOT for _ in range(64))))


def test_a_request_has_a_limit() -> None:
    """A body that is far too large is refused before any work is done."""
    with pytest.raises(LogFormatError):
        parse_add_checkpoint(DATA + bytes(2**20))
    with pytest.raises(LogFormatError):
        parse_cosignatures(bytes(2**20), "text\n", [])


@pytest.mark.parametrize(
    "asked", [request(13, 40, proof=(b"short",)), AddCheckpoint(-1, (), request(0, 7).note)]
)
def test_a_request_that_could_not_be_read_is_not_written(asked: AddCheckpoint) -> None:
    """Writing refuses what reading would refuse."""
    with pytest.raises(LogFormatError):
        format_add_checkpoint(asked)


def test_the_log_takes_from_a_witness_what_is_the_witness_own() -> None:
    """Lines by other keys in the answer are dropped; with none of its own it is refused."""
    text = request(0, 7).note.text
    own, planted = cosign(text, WITNESS, 1000), sign(text, OTHER)
    body = format_signatures([planted, own]).encode()

    (taken,) = parse_cosignatures(body, text, [WITNESS.verifier_key])
    assert own == taken.signature
    with pytest.raises(ProofInvalid):
        parse_cosignatures(format_signatures([planted]).encode(), text, [WITNESS.verifier_key])


@pytest.mark.parametrize("body", [b"", b"\n", b"7", b"07\n", b"7\n\n", b"-1\n", b"7 \n", b"\xff\n"])
def test_a_malformed_size_is_refused(body: bytes) -> None:
    """The body of 409 is a decimal number and a line feed."""
    with pytest.raises(LogFormatError):
        parse_latest_size(body)


@given(st.integers(0, len(DATA)), st.integers(0, len(DATA)), st.binary(max_size=8))
def test_a_damaged_request_raises_our_errors_only(start: int, length: int, middle: bytes) -> None:
    """A request with a part replaced is refused, or asks for the very same checkpoint."""
    try:
        asked = parse_add_checkpoint(DATA[:start] + middle + DATA[start + length :])
    except LogError:
        return
    answer = decide(asked, LOG_KEYS, state(13))
    assert isinstance(answer, Refused) or answer.state == state(40)


@given(st.binary())
def test_any_bytes_raise_our_errors_only(data: bytes) -> None:
    """Arbitrary bytes as a request or an answer raise a LogError or nothing."""
    for attempt in (
        lambda: parse_add_checkpoint(data),
        lambda: parse_add_checkpoint(b"old 13\n" + data),
        lambda: parse_add_checkpoint(b"old 13\n\n" + data),
        lambda: parse_cosignatures(data, "text\n", [WITNESS.verifier_key]),
        lambda: parse_latest_size(data),
    ):
        with contextlib.suppress(LogError):
            attempt()
