"""Proof files and policies: what verifies is exactly what was logged and witnessed."""

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
    inclusion_proof,
    leaf_hash,
    root,
)
from ledger.tlog.note import (
    KeyType,
    Note,
    Signature,
    Signer,
    VerifierKey,
    cosign,
    format_note,
    sign,
)
from ledger.tlog.proof import (
    MAX_EXTRA_BYTES,
    Policy,
    TlogProof,
    format_proof,
    parse_proof,
    verify_checkpoint,
    verify_proof,
)

ORIGIN = "ledger.example/log1"
LOG = Signer(ORIGIN, bytes(range(32)))
LEAVES = [leaf_hash(str(index).encode()) for index in range(300)]
CHECKPOINT = Checkpoint(ORIGIN, 300, root(LEAVES))
WITNESSES = [Signer(f"w{n}.example", bytes([n] * 32), KeyType.COSIGNATURE) for n in (1, 2, 3)]
LOG_KEYS = (LogKey(LOG.verifier_key),)
POLICY = Policy(LOG_KEYS, tuple(each.verifier_key for each in WITNESSES), quorum=2)


def hash_at(level: int, index: int) -> bytes:
    """Read the test tree."""
    return root(LEAVES[index << level : (index + 1) << level])


def signed(*witnesses: Signer, checkpoint: Checkpoint = CHECKPOINT, at_s: int = 1000) -> bytes:
    """Sign a checkpoint by the log, and cosign it."""
    text = format_checkpoint(checkpoint)
    cosignatures = (cosign(text, each, at_s) for each in witnesses)
    return format_note(Note(text, (sign(text, LOG), *cosignatures)))


PROOF = TlogProof(123, inclusion_proof(123, 300, hash_at), signed(*WITNESSES[:2]))
DATA = format_proof(PROOF)


def test_a_proof_is_written_and_read_back() -> None:
    """A proof file verifies, with and without extra data."""
    for extra in (None, b"\x00context"):
        proof = TlogProof(PROOF.index, PROOF.hashes, PROOF.checkpoint, extra)
        assert proof == parse_proof(format_proof(proof))
        assert CHECKPOINT == verify_proof(proof, LEAVES[123], POLICY).checkpoint


def test_every_single_bit_that_is_flipped_is_noticed() -> None:
    """When every cosigner is needed, no bit of a proof file can change."""
    for at in range(len(DATA) * 8):
        changed = bytearray(DATA)
        changed[at // 8] ^= 1 << at % 8
        with pytest.raises(LogError):
            verify_proof(parse_proof(bytes(changed)), LEAVES[123], POLICY)


def test_a_proof_of_another_entry_does_not_verify() -> None:
    """The proof of one leaf is of no use for any other."""
    for index, leaf in enumerate(LEAVES):
        if index != 123:
            with pytest.raises(ProofInvalid):
                verify_proof(PROOF, leaf, POLICY)


def test_the_one_entry_of_a_tree_of_one_needs_no_hashes() -> None:
    """In a tree of size 1, the leaf is the root."""
    alone = Checkpoint(ORIGIN, 1, LEAVES[0])
    data = format_proof(TlogProof(0, (), signed(checkpoint=alone)))

    verify_proof(parse_proof(data), LEAVES[0], Policy(LOG_KEYS))


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_the_quorum_counts_known_witnesses(count: int) -> None:
    """A checkpoint that enough witnesses cosigned is accepted, and they are listed."""
    witnesses = WITNESSES[:count]
    for quorum in range(4):
        policy = Policy(POLICY.log_keys, POLICY.witnesses, quorum)
        if quorum <= count:
            verified = verify_checkpoint(signed(*witnesses), policy)
            assert CHECKPOINT == verified.checkpoint
            assert [each.name for each in witnesses] == [
                each.key.name for each in verified.cosigners
            ]
        else:
            with pytest.raises(ProofInvalid, match="are needed"):
                verify_checkpoint(signed(*witnesses), policy)


def test_one_witness_that_signs_twice_counts_once() -> None:
    """A witness cannot make a quorum by itself; of its cosignatures the newest is listed."""
    text = format_checkpoint(CHECKPOINT)
    twice = [cosign(text, WITNESSES[0], at_s) for at_s in (1000, 1060, 1030)]
    data = format_note(Note(text, (sign(text, LOG), *twice)))

    with pytest.raises(ProofInvalid, match="1 witnesses"):
        verify_checkpoint(data, POLICY)
    (cosigner,) = verify_checkpoint(data, Policy(LOG_KEYS, POLICY.witnesses, 1)).cosigners
    assert cosigner.signed_at_s == 1060


def test_unknown_witnesses_do_not_count() -> None:
    """Any number of cosignatures by strangers is as good as none."""
    strangers = [Signer(f"s{n}", bytes([n] * 32), KeyType.COSIGNATURE) for n in range(10, 20)]

    with pytest.raises(ProofInvalid, match="1 witnesses"):
        verify_checkpoint(signed(WITNESSES[0], *strangers), POLICY)


def test_a_lying_witness_rejects_the_checkpoint() -> None:
    """A bad signature by a known witness is not passed over, even if the quorum is met."""
    text = format_checkpoint(CHECKPOINT)
    liar = WITNESSES[2].verifier_key
    bad = Signature(liar.name, liar.key_id, bytes(72))
    cosignatures = (cosign(text, each, 1000) for each in WITNESSES[:2])

    with pytest.raises(ProofInvalid):
        verify_checkpoint(format_note(Note(text, (sign(text, LOG), *cosignatures, bad))), POLICY)


def test_witnesses_alone_do_not_make_a_checkpoint() -> None:
    """Without the log's own signature, cosignatures say nothing."""
    text = format_checkpoint(CHECKPOINT)
    data = format_note(Note(text, tuple(cosign(text, each, 1000) for each in WITNESSES)))

    with pytest.raises(ProofInvalid, match=r"no known key of ledger\.example/log1"):
        verify_checkpoint(data, POLICY)


def test_a_retired_log_key_does_not_verify_newer_proofs() -> None:
    """The policy's ranges of sizes hold for proof files too."""
    retired = Policy((LogKey(LOG.verifier_key, last_size=299),))
    current = Policy((LogKey(LOG.verifier_key, first_size=300),))

    verify_proof(PROOF, LEAVES[123], current)
    with pytest.raises(ProofInvalid, match="may not sign"):
        verify_proof(PROOF, LEAVES[123], retired)


def test_the_empty_tree_has_one_root() -> None:
    """A signed checkpoint of size 0 with another root is refused."""
    verify_checkpoint(signed(checkpoint=Checkpoint(ORIGIN, 0, EMPTY_ROOT)), Policy(LOG_KEYS))
    with pytest.raises(ProofInvalid):
        verify_checkpoint(signed(checkpoint=Checkpoint(ORIGIN, 0, LEAVES[0])), Policy(LOG_KEYS))


@pytest.mark.parametrize(
    ("log_keys", "witnesses", "quorum"),
    [
        ((), (), 0),
        (LOG_KEYS, (), 1),
        (LOG_KEYS, (), -1),
        (LOG_KEYS, POLICY.witnesses, 4),
        (LOG_KEYS, (POLICY.witnesses[0], POLICY.witnesses[0]), 1),
        (
            LOG_KEYS,
            (
                POLICY.witnesses[0],
                VerifierKey("alias", POLICY.witnesses[0].public_key, KeyType.COSIGNATURE),
            ),
            1,
        ),
        (LOG_KEYS, (Signer("w", bytes([9] * 32)).verifier_key,), 1),
        (LOG_KEYS, (Signer(ORIGIN, LOG.seed, KeyType.COSIGNATURE).verifier_key,), 1),
    ],
)
def test_a_policy_that_does_not_mean_what_it_says_is_refused(
    log_keys: tuple[LogKey, ...], witnesses: tuple[VerifierKey, ...], quorum: int
) -> None:
    """No key may count twice, and a quorum can be met."""
    with pytest.raises(LogFormatError):
        Policy(log_keys, witnesses, quorum)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"c2sp.org/tlog-proof@v1\n", b""),
        (b"c2sp.org/tlog-proof@v1\n", b"c2sp.org/tlog-proof@v2\n"),
        (b"c2sp.org/tlog-proof@v1\n", b"\nc2sp.org/tlog-proof@v1\n"),
        (b"index 123\n", b""),
        (b"index 123\n", b"index 0123\n"),
        (b"index 123\n", b"index -1\n"),
        (b"index 123\n", b"index\n"),
        (b"index 123\n", b"index 123\r\n"),
        (b"index 123\n", b"index 123\n\n"),
        (b"index 123\n", b"index 9223372036854775808\n"),
        (b"index 123\n", b"extra \nindex 123\n"),
        (b"index 123\n", b"extra AB==\nindex 123\n"),
        (b"index 123\n", b"index 123\nextra AA==\n"),
        (b"index 123\n", b"extra AA==\nextra AA==\nindex 123\n"),
        (b"index 123\n", b"index 123\nAAAA\n"),
        (b"index 123\n", b"index 123\n" + b"A" * 43 + b"=\n" + b"not base64\n"),
        (b"index 123\n", b"index 123\n" + 63 * (b"A" * 43 + b"=\n")),
        (b"\n300\n", b"\n0300\n"),
    ],
)
def test_a_malformed_proof_is_refused(old: bytes, new: bytes) -> None:
    """Each deviation from the format is a LogFormatError."""
    assert old in DATA
    with pytest.raises(LogFormatError):
        parse_proof(DATA.replace(old, new, 1))


@pytest.mark.parametrize(
    "proof",
    [
        TlogProof(-1, PROOF.hashes, PROOF.checkpoint),
        TlogProof(1, (b"short",), PROOF.checkpoint),
        TlogProof(1, PROOF.hashes, b"not a note"),
        TlogProof(1, PROOF.hashes, PROOF.checkpoint, b""),
        TlogProof(1, PROOF.hashes, PROOF.checkpoint, bytes(MAX_EXTRA_BYTES + 1)),
    ],
)
def test_a_proof_that_could_not_be_read_is_not_written(proof: TlogProof) -> None:
    """Writing refuses what reading would refuse."""
    with pytest.raises(LogFormatError):
        format_proof(proof)


def test_a_proof_has_limits() -> None:
    """There are at most 63 hashes, and a file that is far too large is refused at once."""
    many = TlogProof(1, (EMPTY_ROOT,) * 63, PROOF.checkpoint)
    assert many == parse_proof(format_proof(many))
    with pytest.raises(LogFormatError):
        format_proof(TlogProof(1, (EMPTY_ROOT,) * 64, PROOF.checkpoint))
    with pytest.raises(LogFormatError):
        parse_proof(DATA + bytes(2**20))


@given(st.integers(0, len(DATA)), st.integers(0, len(DATA)), st.binary(max_size=8))
def test_a_damaged_proof_raises_our_errors_only(start: int, length: int, middle: bytes) -> None:
    """A proof with a part replaced is refused, or still proves the same entry."""
    data = DATA[:start] + middle + DATA[start + length :]
    try:
        proof = parse_proof(data)
        assert data == format_proof(proof)
        verify_proof(proof, LEAVES[123], POLICY)
    except LogError:
        return
    assert (proof.index, proof.hashes) == (PROOF.index, PROOF.hashes)


@given(st.binary())
def test_any_bytes_as_a_proof_raise_our_errors_only(data: bytes) -> None:
    """Arbitrary bytes, at each place of a proof file, raise a LogError or nothing."""
    for each in (data, b"c2sp.org/tlog-proof@v1\n" + data, data + b"\n\n" + PROOF.checkpoint):
        with contextlib.suppress(LogError):
            verify_proof(parse_proof(each), LEAVES[123], POLICY)
