"""Who signed this text?

Trust: a note proves nothing until `verify_note` has found the signature of a key that the caller
already trusts. Lines by unknown keys are carried along and mean nothing.

Implements C2SP signed-note, with its signature types 01 (Ed25519 over the text) and 04 (Ed25519
cosignature with a time, C2SP tlog-cosignature). A note is

    text, one or more lines LF
    LF
    — <key name> <base64(4 bytes key ID || signature)> LF        (one or more)

where the dash is U+2014. The same key under another type has another key ID, so type 04 keys are
never mistaken for type 01.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ledger.tlog.merkle import LogFormatError, ProofInvalid

MAX_NOTE_BYTES = 256 * 1024
"""Room for 16 post-quantum signatures, which a verifier must accept, and far from any abuse."""
MAX_SIGNATURES = 64
MAX_TIME_S = 2**63 - 1
KEY_ID_BYTES = 4
SEED_BYTES = 32
PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
TIME_BYTES = 8

_SIGNATURE_PREFIX = "\N{EM DASH} "
_SIGNER_PREFIX = "PRIVATE+KEY+"
_KEY_ID = re.compile(r"[0-9a-f]{8}")
_FORBIDDEN = re.compile(r"[\x00-\x09\x0b-\x1f]")
"""No control character but LF: a terminal that prints a note must not be steered by it."""


class KeyType(IntEnum):
    """What a key signs, and how: the type byte of C2SP signed-note."""

    ED25519 = 0x01
    COSIGNATURE = 0x04


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key under a name. Raises LogFormatError for an impossible name or key."""

    name: str
    public_key: bytes = field(repr=False)
    type: KeyType = KeyType.ED25519

    def __post_init__(self) -> None:
        _check_name(self.name)
        if len(self.public_key) != PUBLIC_KEY_BYTES:
            raise LogFormatError(f"an Ed25519 public key has {PUBLIC_KEY_BYTES} bytes")

    @property
    def key_id(self) -> bytes:
        """The four bytes by which signature lines name this key, together with its name."""
        return _key_id(self.name, self.type, self.public_key)


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key, by its 32-byte seed, under a name. Its repr does not show the seed.

    Raises LogFormatError for an impossible name or seed.
    """

    name: str
    seed: bytes = field(repr=False)
    type: KeyType = KeyType.ED25519

    def __post_init__(self) -> None:
        _check_name(self.name)
        if len(self.seed) != SEED_BYTES:
            raise LogFormatError(f"an Ed25519 seed has {SEED_BYTES} bytes")

    @property
    def verifier_key(self) -> VerifierKey:
        """The public half."""
        public_key = Ed25519PrivateKey.from_private_bytes(self.seed).public_key()
        return VerifierKey(self.name, public_key.public_bytes_raw(), self.type)


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line. `payload` is what follows the key ID: its shape is the key's business."""

    name: str
    key_id: bytes
    payload: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """A text with the signature lines under it, in order. Nothing of it is verified yet."""

    text: str
    signatures: tuple[Signature, ...]


@dataclass(frozen=True, slots=True)
class VerifiedSignature:
    """A signature line that verified, the known key that made it, and when it says it did.

    `signed_at_s` is in Unix seconds for cosignatures, and None for plain signatures. It is the
    signer's claim: there is no clock here to compare it with.
    """

    key: VerifierKey
    signature: Signature
    signed_at_s: int | None


def parse_vkey(text: str) -> VerifierKey:
    """Read a verifier key, `<name>+<hex key ID>+<base64(type || public key)>`.

    Raises LogFormatError when it is malformed, of a type other than 01 and 04, or when its key ID
    is not the one of its key.
    """
    name, key_type, public_key, key_id = _parse_key(text)
    key = VerifierKey(name, public_key, key_type)
    if key.key_id != key_id:
        raise LogFormatError(f"the key ID of {name} does not fit its key")
    return key


def format_vkey(key: VerifierKey) -> str:
    """Write a verifier key as `parse_vkey` reads it."""
    return _format_key(key, key.public_key)


def parse_signer(text: str) -> Signer:
    """Read a signer key, `PRIVATE+KEY+<name>+<hex key ID>+<base64(type || seed)>`, as Go writes it.

    Raises LogFormatError as `parse_vkey` does; the message never holds the key.
    """
    if not text.startswith(_SIGNER_PREFIX):
        raise LogFormatError(f"a signer key begins with {_SIGNER_PREFIX}")
    name, key_type, seed, key_id = _parse_key(text.removeprefix(_SIGNER_PREFIX))
    signer = Signer(name, seed, key_type)
    if signer.verifier_key.key_id != key_id:
        raise LogFormatError(f"the key ID of {name} does not fit its key")
    return signer


def format_signer(signer: Signer) -> str:
    """Write a signer key as `parse_signer` reads it. The result is a secret."""
    return _SIGNER_PREFIX + _format_key(signer.verifier_key, signer.seed)


def parse_note(data: bytes) -> Note:
    """Read a signed note, without verifying it.

    The text is what precedes the last blank line, with its final LF. Raises LogFormatError.
    """
    if len(data) > MAX_NOTE_BYTES:
        raise LogFormatError(f"the note is larger than {MAX_NOTE_BYTES} bytes")
    head, blank, lines = decode_text(data).rpartition("\n\n")
    if not blank:
        raise LogFormatError("the note has no blank line before its signatures")
    return Note(head + "\n", parse_signatures(lines))


def parse_signatures(lines: str) -> tuple[Signature, ...]:
    """Read one or more signature lines, each ended by LF. Raises LogFormatError."""
    if not lines.endswith("\n"):
        raise LogFormatError("the last signature line has no end")
    each = lines[:-1].split("\n")
    if len(each) > MAX_SIGNATURES:
        raise LogFormatError(f"the note has more than {MAX_SIGNATURES} signatures")
    return tuple(_parse_signature(line) for line in each)


def format_signatures(signatures: Iterable[Signature]) -> str:
    """Write signature lines, each ended by LF."""
    return "".join(
        f"{_SIGNATURE_PREFIX}{each.name} {encode_base64(each.key_id + each.payload)}\n"
        for each in signatures
    )


def format_note(note: Note) -> bytes:
    """Write a signed note. Raises LogFormatError for one that `parse_note` would read otherwise."""
    data = encode_text(f"{note.text}\n{format_signatures(note.signatures)}")
    if parse_note(data) != note:
        raise LogFormatError("the note cannot be written: its text or signatures are malformed")
    return data


def with_signatures(note: Note, added: Iterable[Signature]) -> Note:
    """Return the note with further signatures, each in place of an earlier one by the same key."""
    by_key = {(each.name, each.key_id): each for each in (*note.signatures, *added)}
    return Note(note.text, tuple(by_key.values()))


def sign(text: str, signer: Signer) -> Signature:
    """Sign a text with an Ed25519 key (type 01).

    Raises LogFormatError for another type of key, or a text that no note can have: a signature
    cannot be taken back.
    """
    check_text(text)
    if signer.type is not KeyType.ED25519:
        raise LogFormatError(f"the key of {signer.name} signs only with a time")
    return _make_signature(signer, b"", encode_text(text))


def cosign(text: str, signer: Signer, signed_at_s: int) -> Signature:
    """Cosign a checkpoint's text at a time in Unix seconds (type 04, C2SP tlog-cosignature).

    The caller states by it that at this time it knew no larger tree of this log, and that it had
    checked this one to be consistent. Raises LogFormatError for another type of key, or an
    impossible time.
    """
    check_text(text)
    if signer.type is not KeyType.COSIGNATURE:
        raise LogFormatError(f"the key of {signer.name} does not make cosignatures")
    if not 0 <= signed_at_s <= MAX_TIME_S:
        raise LogFormatError(f"{signed_at_s} is not a time in Unix seconds")
    time = signed_at_s.to_bytes(TIME_BYTES, "big")
    return _make_signature(signer, time, _cosigned_message(text, signed_at_s))


def verify_note(note: Note, keys: Iterable[VerifierKey]) -> tuple[VerifiedSignature, ...]:
    """Return the signatures by known keys, in order, all verified; those by others are ignored.

    A key that signed twice is listed twice. Raises ProofInvalid when a known key's signature does
    not verify, or no known key signed; LogFormatError when two known keys cannot be told apart.
    """
    known = _keys_by_id(keys)
    verified = tuple(
        _verify_signature(note.text, signature, key)
        for signature in note.signatures
        if (key := known.get((signature.name, signature.key_id))) is not None
    )
    if not verified:
        raise ProofInvalid("no known key signed the note")
    return verified


def check_text(text: str) -> None:
    """Check that this can be the text of a note: lines, each ended by LF. Raises LogFormatError."""
    decode_text(encode_text(text))
    if not text.endswith("\n"):
        raise LogFormatError("the last line of the text has no end")


def encode_base64(data: bytes) -> str:
    """Write standard base64 with padding (RFC 4648 section 4)."""
    return base64.b64encode(data).decode("ascii")


def decode_base64(text: str) -> bytes:
    """Read standard base64 with padding, in its one canonical form. Raises LogFormatError."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise LogFormatError("malformed base64") from error
    if encode_base64(data) != text:
        # Unused bits that are set: two spellings of one value would let a third party change
        # signed bytes without anyone noticing.
        raise LogFormatError("base64 that is not canonical")
    return data


def decode_text(data: bytes) -> str:
    """Read UTF-8 without control characters but LF. Raises LogFormatError."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise LogFormatError("the text is not UTF-8") from error
    if _FORBIDDEN.search(text):
        raise LogFormatError("the text has a control character")
    return text


def encode_text(text: str) -> bytes:
    """Write text as UTF-8. Raises LogFormatError for a lone surrogate."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise LogFormatError("the text cannot be written as UTF-8") from error


def _parse_signature(line: str) -> Signature:
    if not line.startswith(_SIGNATURE_PREFIX):
        raise LogFormatError("a signature line begins with an em dash and a space")
    name, space, encoded = line.removeprefix(_SIGNATURE_PREFIX).partition(" ")
    if not space:
        raise LogFormatError("a signature line has a key name and a signature")
    _check_name(name)
    blob = decode_base64(encoded)
    if len(blob) <= KEY_ID_BYTES:
        raise LogFormatError("a signature line holds no signature")
    return Signature(name, blob[:KEY_ID_BYTES], blob[KEY_ID_BYTES:])


def _make_signature(signer: Signer, time: bytes, message: bytes) -> Signature:
    raw = Ed25519PrivateKey.from_private_bytes(signer.seed).sign(message)
    return Signature(signer.name, signer.verifier_key.key_id, time + raw)


def _verify_signature(text: str, signature: Signature, key: VerifierKey) -> VerifiedSignature:
    time = b""
    raw = signature.payload
    message = encode_text(text)
    signed_at_s = None
    if key.type is KeyType.COSIGNATURE:
        time, raw = raw[:TIME_BYTES], raw[TIME_BYTES:]
        signed_at_s = int.from_bytes(time, "big")
        message = _cosigned_message(text, signed_at_s)
    well_formed = len(raw) == SIGNATURE_BYTES and (signed_at_s or 0) <= MAX_TIME_S
    if not (well_formed and _is_signed(key.public_key, raw, message)):
        raise ProofInvalid(f"the signature of {key.name} ({key.key_id.hex()}) does not verify")
    return VerifiedSignature(key, signature, signed_at_s)


def _is_signed(public_key: bytes, raw: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(raw, message)
    except (InvalidSignature, ValueError):
        # ValueError: 32 bytes that are no point of the curve. Nothing can be signed by such a key.
        return False
    return True


def _cosigned_message(text: str, signed_at_s: int) -> bytes:
    return encode_text(f"cosignature/v1\ntime {signed_at_s}\n{text}")


def _keys_by_id(keys: Iterable[VerifierKey]) -> dict[tuple[str, bytes], VerifierKey]:
    known: dict[tuple[str, bytes], VerifierKey] = {}
    for key in keys:
        if known.setdefault((key.name, key.key_id), key) != key:
            raise LogFormatError(f"two keys of {key.name} have the ID {key.key_id.hex()}")
    return known


def _key_id(name: str, key_type: KeyType, public_key: bytes) -> bytes:
    named = encode_text(name) + b"\n" + bytes([key_type]) + public_key
    return sha256(named).digest()[:KEY_ID_BYTES]


def _parse_key(text: str) -> tuple[str, KeyType, bytes, bytes]:
    """Take a vkey or the rest of a signer key apart: name, type, key material, key ID."""
    parts: Sequence[str] = text.split("+", 2)
    if len(parts) != 3 or not _KEY_ID.fullmatch(parts[1]):  # noqa: PLR2004 - the three parts
        raise LogFormatError("a key is written <name>+<8 hex digits>+<base64>")
    name, key_id, encoded = parts
    material = decode_base64(encoded)
    if material[:1] not in (b"\x01", b"\x04"):
        raise LogFormatError(f"the key of {name!r} is neither of type 01 nor of type 04")
    return name, KeyType(material[0]), material[1:], bytes.fromhex(key_id)


def _format_key(key: VerifierKey, material: bytes) -> str:
    return f"{key.name}+{key.key_id.hex()}+{encode_base64(bytes([key.type]) + material)}"


def _check_name(name: str) -> None:
    encode_text(name)
    if not name or "+" in name or any(each.isspace() for each in name) or _FORBIDDEN.search(name):
        raise LogFormatError("a key name is not empty and has no spaces, plus or control signs")
