"""Is this entry in a log that those whom I trust have seen?

Trust: the policy, and nothing else. A policy names the log's keys, the witnesses, and how many of
those must have seen the checkpoint. The proof file and all in it may come from an adversary; its
`extra` data is covered by no signature.

Implements C2SP tlog-proof (`c2sp.org/tlog-proof@v1`):

    c2sp.org/tlog-proof@v1
    extra <base64>            (optional)
    index <decimal>
    <base64 hash>             (any number, the leaf's sibling first)
                              (an empty line)
    <the checkpoint, verbatim, with its signatures>
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ledger.tlog.checkpoint import (
    Checkpoint,
    LogKey,
    check_log_signed,
    parse_checkpoint,
    parse_hashes,
    parse_size,
    split_lines,
)
from ledger.tlog.merkle import (
    EMPTY_ROOT,
    LogFormatError,
    ProofInvalid,
    verify_inclusion,
)
from ledger.tlog.note import (
    MAX_NOTE_BYTES,
    KeyType,
    VerifiedSignature,
    VerifierKey,
    decode_base64,
    decode_text,
    encode_base64,
    encode_text,
    parse_note,
    verify_note,
)

HEADER = "c2sp.org/tlog-proof@v1"
MAX_EXTRA_BYTES = 64 * 1024
MAX_PROOF_BYTES = 2 * MAX_NOTE_BYTES


@dataclass(frozen=True, slots=True)
class TlogProof:
    """That an entry is leaf `index`: the way up to the root, and the signed checkpoint with it.

    `hashes` has the leaf's sibling first; `checkpoint` is the signed note, byte for byte. `extra`
    is not authenticated, and None when there is none.
    """

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """Whom a verifier trusts: keys of the log, witnesses, and how many of these must have signed.

    Raises LogFormatError for a policy that would not mean what it says: no log key, a quorum that
    cannot be met, a witness key of the wrong type, or one key that counts twice, be it under two
    names or as log and witness.
    """

    log_keys: tuple[LogKey, ...]
    witnesses: tuple[VerifierKey, ...] = ()
    quorum: int = 0

    def __post_init__(self) -> None:
        if not self.log_keys:
            raise LogFormatError("a policy names at least one key of the log")
        if not 0 <= self.quorum <= len(self.witnesses):
            raise LogFormatError(
                f"a quorum of {self.quorum} cannot be met by {len(self.witnesses)} witnesses"
            )
        if any(key.type is not KeyType.COSIGNATURE for key in self.witnesses):
            raise LogFormatError("a witness key is of type 04")
        witnesses = {key.public_key for key in self.witnesses}
        if len(witnesses) != len(self.witnesses):
            raise LogFormatError("a witness is listed twice")
        if any(each.key.public_key in witnesses for each in self.log_keys):
            raise LogFormatError("the log cannot be its own witness")


@dataclass(frozen=True, slots=True)
class VerifiedCheckpoint:
    """A checkpoint that meets the policy, and the cosignatures of known witnesses on it.

    One for each witness, the newest where it signed several times; in the order of the policy.
    """

    checkpoint: Checkpoint
    cosigners: tuple[VerifiedSignature, ...]


def format_proof(proof: TlogProof) -> bytes:
    """Write a proof file. Raises LogFormatError for one that `parse_proof` would refuse."""
    extra = [] if proof.extra is None else [f"extra {encode_base64(proof.extra)}"]
    hashes = [encode_base64(each) for each in proof.hashes]
    lines = [HEADER, *extra, f"index {proof.index}", *hashes, "", ""]
    data = encode_text("\n".join(lines)) + proof.checkpoint
    parse_proof(data)
    return data


def parse_proof(data: bytes) -> TlogProof:
    """Read a proof file, without verifying it. Raises LogFormatError."""
    head, checkpoint = split_lines(data, "the proof", max_bytes=MAX_PROOF_BYTES)
    parse_checkpoint(parse_note(checkpoint).text)
    header, *lines = decode_text(head).split("\n")
    if header != HEADER:
        raise LogFormatError(f"the proof does not begin with {HEADER}")
    extra = _parse_extra(lines.pop(0)) if lines and lines[0].startswith("extra ") else None
    if not lines or not lines[0].startswith("index "):
        raise LogFormatError("the proof names no index")
    hashes = parse_hashes(lines[1:], "the proof")
    return TlogProof(parse_size(lines[0].removeprefix("index ")), hashes, checkpoint, extra)


def verify_checkpoint(data: bytes, policy: Policy) -> VerifiedCheckpoint:
    """Read a signed checkpoint and check it against a policy.

    It must be signed by a key of its log that may sign its size, and cosigned by the quorum;
    signatures by keys that the policy does not know are ignored. How fresh it is, the caller judges
    by the times of the cosigners. Raises LogFormatError when it is malformed, ProofInvalid when it
    does not meet the policy.
    """
    note = parse_note(data)
    checkpoint = parse_checkpoint(note.text)
    known = (*(each.key for each in policy.log_keys), *policy.witnesses)
    verified = verify_note(note, known)
    check_log_signed(checkpoint, verified, policy.log_keys)
    if checkpoint.size == 0 and checkpoint.root != EMPTY_ROOT:
        raise ProofInvalid("the root of the empty tree is wrong")
    cosigners = _newest_by_witness(verified, policy.witnesses)
    if len(cosigners) < policy.quorum:
        raise ProofInvalid(
            f"{len(cosigners)} witnesses cosigned the checkpoint, {policy.quorum} are needed"
        )
    return VerifiedCheckpoint(checkpoint, cosigners)


def verify_proof(proof: TlogProof, leaf: bytes, policy: Policy) -> VerifiedCheckpoint:
    """Check that an entry, by its leaf hash, is where the proof says, under the policy.

    Compute the leaf hash from your own data, never from the proof. Raises as `verify_checkpoint`
    and `merkle.verify_inclusion` do.
    """
    verified = verify_checkpoint(proof.checkpoint, policy)
    tree = verified.checkpoint
    verify_inclusion(leaf, proof.index, tree.size, proof.hashes, tree.root)
    return verified


def _parse_extra(line: str) -> bytes:
    extra = decode_base64(line.removeprefix("extra "))
    if not 1 <= len(extra) <= MAX_EXTRA_BYTES:
        raise LogFormatError(f"extra data has 1 to {MAX_EXTRA_BYTES} bytes; without, no such line")
    return extra


def _newest_by_witness(
    verified: Sequence[VerifiedSignature], witnesses: Sequence[VerifierKey]
) -> tuple[VerifiedSignature, ...]:
    by_time = sorted(verified, key=lambda each: each.signed_at_s or 0)
    newest = {each.key: each for each in by_time}
    return tuple(newest[key] for key in witnesses if key in newest)
