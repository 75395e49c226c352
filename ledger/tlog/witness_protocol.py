"""May a witness cosign this checkpoint, and what do a log and its witnesses say to each other?

Trust: a witness believes what it stored itself, and the log keys it was configured with; the
request may come from anyone. A log believes a witness's cosignature after verifying it, and its
claimed size not at all: a lie there yields a proof that the witness refuses.

Implements C2SP tlog-witness (main) `add-checkpoint`. The request body is

    old <size, decimal> LF
    <base64 hash> LF          (up to 63: the consistency proof from that size)
    LF
    <the checkpoint, with its signatures>

and the answer 200 with cosignature lines, or 409 with `<size> LF`, or another refusal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

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
    HASH_BYTES,
    MAX_PROOF_HASHES,
    LogFormatError,
    ProofInvalid,
    verify_consistency,
)
from ledger.tlog.note import (
    MAX_NOTE_BYTES,
    Note,
    VerifiedSignature,
    VerifierKey,
    decode_text,
    encode_base64,
    encode_text,
    format_note,
    parse_note,
    parse_signatures,
    verify_note,
)

SIZE_CONTENT_TYPE = "text/x.tlog.size"
MAX_REQUEST_BYTES = MAX_NOTE_BYTES + MAX_PROOF_HASHES * 2 * HASH_BYTES

BAD_REQUEST = 400
UNKNOWN_SIGNER = 403
UNKNOWN_LOG = 404
STALE = 409
UNPROVEN = 422


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """A request to cosign: the signed checkpoint, and the proof that it continues `old_size`."""

    old_size: int
    proof: tuple[bytes, ...]
    note: Note

    @property
    def checkpoint(self) -> Checkpoint:
        """What the note says. Raises LogFormatError when it is no checkpoint."""
        return parse_checkpoint(self.note.text)


@dataclass(frozen=True, slots=True)
class WitnessState:
    """The largest tree of one log that a witness has cosigned."""

    size: int
    root: bytes


NEVER_COSIGNED = WitnessState(0, EMPTY_ROOT)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The witness may cosign, once it has stored this state."""

    state: WitnessState


@dataclass(frozen=True, slots=True)
class Refused:
    """The witness must not cosign; the HTTP status that says why, and the same in words.

    `latest_size` is set for 409 only. `is_fork` tells that the log itself signed two roots for one
    size: this request and what the witness stored are together proof of it, and worth keeping.
    """

    status: int
    reason: str
    latest_size: int | None = None
    is_fork: bool = False


def format_add_checkpoint(request: AddCheckpoint) -> bytes:
    """Write a request body. Raises LogFormatError for one that would be refused with 400."""
    lines = [f"old {request.old_size}", *(encode_base64(each) for each in request.proof), "", ""]
    body = encode_text("\n".join(lines)) + format_note(request.note)
    parse_add_checkpoint(body)
    return body


def parse_add_checkpoint(body: bytes) -> AddCheckpoint:
    """Read a request body, checkpoint and all. Raises LogFormatError: the answer is 400."""
    head, signed = split_lines(body, "the request", max_bytes=MAX_REQUEST_BYTES)
    first, *lines = decode_text(head).split("\n")
    if not first.startswith("old "):
        raise LogFormatError("the request does not begin with the old size")
    hashes = parse_hashes(lines, "the request")
    old_size = parse_size(first.removeprefix("old "))
    note = parse_note(signed)
    parse_checkpoint(note.text)
    return AddCheckpoint(old_size, hashes, note)


def decide(
    request: AddCheckpoint, log_keys: Iterable[LogKey], state: WitnessState | None
) -> Accepted | Refused:
    """Decide whether a witness may cosign, in the order of refusals of the standard.

    `log_keys` are those of all logs that the witness knows; `state` is what it stored for the
    origin of this checkpoint, None if nothing. 404: no key has this origin. 403: none of its keys
    signed, or not one that may sign this size, or one's signature is bad. 400: the old size exceeds
    the new. 409: the old size is not the stored one. 422: not proven to continue what is stored.

    Reading the state, deciding, and storing the accepted state MUST be one transaction, or two
    requests at once could roll the witness back.
    """
    checkpoint = request.checkpoint
    stored = state or NEVER_COSIGNED
    keys = [each for each in log_keys if each.key.name == checkpoint.origin]
    if not keys:
        return Refused(UNKNOWN_LOG, f"the log {checkpoint.origin} is not known here")
    try:
        check_log_signed(checkpoint, verify_note(request.note, [each.key for each in keys]), keys)
    except ProofInvalid as error:
        return Refused(UNKNOWN_SIGNER, str(error))
    if request.old_size > checkpoint.size:
        return Refused(BAD_REQUEST, "the old size is larger than the checkpoint's")
    if request.old_size != stored.size:
        return Refused(STALE, f"the latest size cosigned is {stored.size}", stored.size)
    try:
        verify_consistency(
            stored.size, checkpoint.size, stored.root, checkpoint.root, request.proof
        )
    except ProofInvalid as error:
        is_fork = checkpoint.size == stored.size and checkpoint.root != stored.root
        return Refused(UNPROVEN, str(error), is_fork=is_fork)
    return Accepted(WitnessState(checkpoint.size, checkpoint.root))


def parse_cosignatures(
    body: bytes, text: str, witnesses: Sequence[VerifierKey]
) -> tuple[VerifiedSignature, ...]:
    """Read a witness's answer 200, and return the cosignatures on `text` by these witnesses.

    Lines by other keys are dropped, so that a witness cannot plant anything in our checkpoint.
    Raises LogFormatError when it is malformed, ProofInvalid when a signature does not verify or
    none is by these witnesses.
    """
    if len(body) > MAX_NOTE_BYTES:
        raise LogFormatError(f"the answer is larger than {MAX_NOTE_BYTES} bytes")
    return verify_note(Note(text, parse_signatures(decode_text(body))), witnesses)


def parse_latest_size(body: bytes) -> int:
    """Read the body of an answer 409 of type `SIZE_CONTENT_TYPE`. Raises LogFormatError."""
    text = decode_text(body)
    if not text.endswith("\n"):
        raise LogFormatError("the size has no end of line")
    return parse_size(text[:-1])


def format_latest_size(size: int) -> bytes:
    """Write the body of an answer 409."""
    return f"{size}\n".encode()


def origin_hash(origin: str) -> str:
    """Name a log in a witness's monitoring paths: `<prefix>/<this>/checkpoint`."""
    return sha256(encode_text(origin)).hexdigest()
