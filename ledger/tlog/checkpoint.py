"""What did the log commit to: how many entries, and which root?

Trust: a checkpoint commits its log only when a key of that log signed it, one that may sign a
checkpoint of this size (`check_log_signed`). The parser believes nobody.

Implements C2SP tlog-checkpoint. The text of the signed note is

    <origin> LF
    <size, decimal> LF
    <base64 of the root> LF
    <extension> LF            (any number, not recommended)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ledger.tlog.merkle import (
    HASH_BYTES,
    MAX_PROOF_HASHES,
    MAX_TREE_SIZE,
    LogFormatError,
    ProofInvalid,
)
from ledger.tlog.note import (
    KeyType,
    VerifiedSignature,
    VerifierKey,
    check_text,
    decode_base64,
    encode_base64,
)

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")
_FIXED_LINES = 3


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The tree of `size` entries of the log `origin` has this root (32 bytes).

    Extension lines are signed too, but no monitor can audit what they say.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LogKey:
    """A key of a log, and the sizes that it may sign: from `first_size` to `last_size`, inclusive.

    The key's name is the origin of its log. A rotated key keeps its old checkpoints and gets no
    new ones: its `last_size` is set, and its successor's `first_size`. None means without end.
    Raises LogFormatError for a key that is not of type 01, or an empty range.
    """

    key: VerifierKey
    first_size: int = 0
    last_size: int | None = None

    def __post_init__(self) -> None:
        if self.key.type is not KeyType.ED25519:
            raise LogFormatError(f"the key of {self.key.name} makes cosignatures only")
        last_size = MAX_TREE_SIZE if self.last_size is None else self.last_size
        if not 0 <= self.first_size <= last_size <= MAX_TREE_SIZE:
            raise LogFormatError(f"the key of {self.key.name} has an empty range of sizes")

    def covers(self, size: int) -> bool:
        """Tell whether this key may sign a checkpoint of this size."""
        return self.first_size <= size and (self.last_size is None or size <= self.last_size)


def parse_checkpoint(text: str) -> Checkpoint:
    """Read a checkpoint from a note's text. Raises LogFormatError for the slightest deviation."""
    check_text(text)
    lines = text[:-1].split("\n")
    if len(lines) < _FIXED_LINES:
        raise LogFormatError("a checkpoint has an origin, a size and a root")
    if not all(lines):
        raise LogFormatError("a checkpoint has no empty lines")
    origin, size, root, *extensions = lines
    return Checkpoint(origin, parse_size(size), parse_hash(root), tuple(extensions))


def format_checkpoint(checkpoint: Checkpoint) -> str:
    """Write the text that a log signs. Raises LogFormatError for one that would not be read back.

    The check against the parser is there because a log cannot take a signature back.
    """
    lines = (
        checkpoint.origin,
        str(checkpoint.size),
        encode_base64(checkpoint.root),
        *checkpoint.extensions,
    )
    text = "".join(f"{line}\n" for line in lines)
    if parse_checkpoint(text) != checkpoint:
        raise LogFormatError("the checkpoint cannot be written: a line is malformed")
    return text


def check_log_signed(
    checkpoint: Checkpoint, verified: Iterable[VerifiedSignature], log_keys: Iterable[LogKey]
) -> None:
    """Check that a key of this log, allowed to sign this size, is among the verified signatures.

    Raises ProofInvalid, and says whether the log did not sign or the wrong one of its keys did.
    """
    signed_by = {each.key for each in verified}
    signers = [
        each for each in log_keys if each.key in signed_by and each.key.name == checkpoint.origin
    ]
    if not signers:
        raise ProofInvalid(f"no known key of {checkpoint.origin} signed the checkpoint")
    if not any(each.covers(checkpoint.size) for each in signers):
        key_ids = ", ".join(each.key.key_id.hex() for each in signers)
        raise ProofInvalid(f"the key {key_ids} may not sign a tree of size {checkpoint.size}")


def split_lines(data: bytes, what: str, *, max_bytes: int) -> tuple[bytes, bytes]:
    """Part a proof file or a request into the lines before its checkpoint, and the checkpoint.

    Raises LogFormatError, which calls it `what`.
    """
    if len(data) > max_bytes:
        raise LogFormatError(f"{what} is larger than {max_bytes} bytes")
    lines, blank, checkpoint = data.partition(b"\n\n")
    if not blank:
        raise LogFormatError(f"{what} has no empty line before its checkpoint")
    return lines, checkpoint


def parse_hashes(lines: Sequence[str], what: str) -> tuple[bytes, ...]:
    """Read the hashes of a proof, one to a line. Raises LogFormatError, which calls it `what`."""
    if len(lines) > MAX_PROOF_HASHES:
        raise LogFormatError(f"{what} has more than {MAX_PROOF_HASHES} hashes")
    return tuple(parse_hash(line) for line in lines)


def parse_size(text: str) -> int:
    """Read a tree size or leaf index: decimal, no sign, no leading zero. Raises LogFormatError."""
    if not _DECIMAL.fullmatch(text) or int(text) > MAX_TREE_SIZE:
        raise LogFormatError("a size is a decimal number without leading zeros, below 2**63")
    return int(text)


def parse_hash(text: str) -> bytes:
    """Read the base64 of one 32-byte hash. Raises LogFormatError."""
    value = decode_base64(text)
    if len(value) != HASH_BYTES:
        raise LogFormatError(f"a hash has {HASH_BYTES} bytes, not {len(value)}")
    return value
