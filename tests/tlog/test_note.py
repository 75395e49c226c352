"""Signed notes: who signed is found out, and nothing else gets through."""

from __future__ import annotations

import contextlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import example, given
from hypothesis import strategies as st

from ledger.tlog.merkle import LogError, LogFormatError, ProofInvalid
from ledger.tlog.note import (
    MAX_NOTE_BYTES,
    MAX_SIGNATURES,
    KeyType,
    Note,
    Signature,
    Signer,
    VerifierKey,
    cosign,
    format_note,
    format_signatures,
    format_signer,
    format_vkey,
    parse_note,
    parse_signatures,
    parse_signer,
    parse_vkey,
    sign,
    verify_note,
    with_signatures,
)

LOG = Signer("ledger.example/log1", bytes(range(32)))
WITNESS = Signer("witness.example/w1", bytes(range(32, 64)), KeyType.COSIGNATURE)
STRANGER = Signer("stranger.example", bytes(32))
TEXT = "one line\n\nand another: è subito sera\n"
NOTE = Note(TEXT, (sign(TEXT, LOG), cosign(TEXT, WITNESS, 1767225600)))
DATA = format_note(NOTE)
KEYS = (LOG.verifier_key, WITNESS.verifier_key)


def test_a_note_is_written_and_read_back() -> None:
    """A text with blank lines of its own survives, and both signatures verify."""
    assert NOTE == parse_note(DATA)
    assert [*KEYS] == [each.key for each in verify_note(NOTE, KEYS)]
    assert [None, 1767225600] == [each.signed_at_s for each in verify_note(NOTE, KEYS)]


def test_every_single_bit_that_is_flipped_is_noticed() -> None:
    """No bit of a note can change unless the note is malformed or no longer fully signed."""
    for at in range(len(DATA) * 8):
        changed = bytearray(DATA)
        changed[at // 8] ^= 1 << at % 8
        try:
            verified = verify_note(parse_note(bytes(changed)), KEYS)
        except LogError:
            continue
        assert len(verified) == 1  # a line whose name or key ID changed is by nobody we know


def test_signatures_by_unknown_keys_are_ignored() -> None:
    """A line that shares only the name, or only the key ID, with a known key means nothing."""
    (known,) = verify_note(Note(TEXT, (sign(TEXT, LOG),)), KEYS)
    same_name = Signature(LOG.name, b"\x00\x00\x00\x00", b"rubbish")
    same_id = Signature("somebody.else", LOG.verifier_key.key_id, b"rubbish")
    note = Note(TEXT, (same_name, same_id, sign(TEXT, STRANGER), sign(TEXT, LOG)))

    assert (known,) == verify_note(parse_note(format_note(note)), KEYS)


def test_a_note_that_only_strangers_signed_is_refused() -> None:
    """Without a signature by a known key, a note proves nothing."""
    with pytest.raises(ProofInvalid):
        verify_note(Note(TEXT, (sign(TEXT, STRANGER),)), KEYS)
    with pytest.raises(ProofInvalid):
        verify_note(NOTE, ())


@pytest.mark.parametrize("payload", [b"x", bytes(64), bytes(72), bytes(200), b"\xff" * 72])
@pytest.mark.parametrize("signer", [LOG, WITNESS])
def test_a_bad_signature_by_a_known_key_rejects_the_whole_note(
    signer: Signer, payload: bytes
) -> None:
    """One good signature does not excuse a bad one."""
    bad = Signature(signer.name, signer.verifier_key.key_id, payload)

    with pytest.raises(ProofInvalid):
        verify_note(Note(TEXT, (*NOTE.signatures, bad)), KEYS)


def test_a_signature_of_one_type_is_not_one_of_the_other() -> None:
    """The same private key has another ID as a cosigner, and its signatures do not mix."""
    as_cosigner = Signer(LOG.name, LOG.seed, KeyType.COSIGNATURE)

    assert as_cosigner.verifier_key.public_key == LOG.verifier_key.public_key
    assert as_cosigner.verifier_key.key_id != LOG.verifier_key.key_id
    with pytest.raises(LogFormatError):
        sign(TEXT, as_cosigner)
    with pytest.raises(LogFormatError):
        cosign(TEXT, LOG, 0)


def test_a_cosignature_is_bound_to_its_time() -> None:
    """Moving the time of a cosignature invalidates it."""
    cosignature = cosign(TEXT, WITNESS, 1000)
    moved = (1001).to_bytes(8, "big") + cosignature.payload[8:]

    with pytest.raises(ProofInvalid):
        verify_note(Note(TEXT, (Signature(WITNESS.name, cosignature.key_id, moved),)), KEYS)


def test_a_cosignature_of_an_impossible_time_is_refused() -> None:
    """A time that does not fit a signed 64-bit integer is refused, however well it is signed."""
    private_key = Ed25519PrivateKey.from_private_bytes(WITNESS.seed)
    for time_s, is_possible in ((2**63 - 1, True), (2**63, False)):
        raw = private_key.sign(f"cosignature/v1\ntime {time_s}\n{TEXT}".encode())
        payload = time_s.to_bytes(8, "big") + raw
        note = Note(TEXT, (Signature(WITNESS.name, WITNESS.verifier_key.key_id, payload),))
        if is_possible:
            assert verify_note(note, KEYS)[0].signed_at_s == time_s
        else:
            with pytest.raises(ProofInvalid):
                verify_note(note, KEYS)


@pytest.mark.parametrize("time_s", [-1, 2**63, 2**64])
def test_an_impossible_time_is_not_cosigned(time_s: int) -> None:
    """Times are Unix seconds that fit a signed 64-bit integer."""
    with pytest.raises(LogFormatError):
        cosign(TEXT, WITNESS, time_s)


def test_sixteen_large_signatures_are_accepted() -> None:
    """As many as every verifier must accept, each as large as post-quantum ones get."""
    others = (Signature(f"w{index}", b"\x00\x00\x00\x01", bytes(5000)) for index in range(15))
    note = Note(TEXT, (*others, sign(TEXT, LOG)))

    assert note == parse_note(format_note(note))
    assert len(verify_note(note, KEYS)) == 1


def test_a_note_has_limits() -> None:
    """Too many signatures, or too many bytes, are refused before any work is done."""
    lines = format_signatures([sign(TEXT, LOG)])
    parse_signatures(lines * MAX_SIGNATURES)

    with pytest.raises(LogFormatError):
        parse_signatures(lines * (MAX_SIGNATURES + 1))
    with pytest.raises(LogFormatError):
        parse_note(b"x" * MAX_NOTE_BYTES + DATA)


def test_a_later_signature_takes_the_place_of_an_earlier_one() -> None:
    """Adding a witness's newer cosignature leaves one line by that witness."""
    newer = cosign(TEXT, WITNESS, 1767225660)
    note = with_signatures(NOTE, [newer, sign(TEXT, STRANGER)])

    assert (sign(TEXT, LOG), newer, sign(TEXT, STRANGER)) == note.signatures


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"\n\n",
        b"text\n",
        b"text\n\n",
        "text\n— log AAAAAAA=\n".encode(),
        "text\n\n— log AAAAAAA=".encode(),
        "text\n\n— log AAAAAAA=\n\n".encode(),
        "text\n\n— log AAAAAAA=\r\n".encode(),
        "te\tt\n\n— log AAAAAAA=\n".encode(),
        "te\x00t\n\n— log AAAAAAA=\n".encode(),
        b"te\xfft\n\n\xe2\x80\x94 log AAAAAAA=\n",
        b"text\n\n- log AAAAAAA=\n",
        "text\n\n—log AAAAAAA=\n".encode(),
        "text\n\n— log\n".encode(),
        "text\n\n—  AAAAAAA=\n".encode(),
        "text\n\n— log  AAAAAAA=\n".encode(),
        "text\n\n— log AAAAAAA= x\n".encode(),
        "text\n\n— l+g AAAAAAA=\n".encode(),
        "text\n\n— l\u00a0g AAAAAAA=\n".encode(),
        "text\n\n— l\u2028g AAAAAAA=\n".encode(),
        "text\n\n— log AAAAAAA\n".encode(),
        "text\n\n— log AAAAAAB=\n".encode(),
        "text\n\n— log AAAA-_A=\n".encode(),
        "text\n\n— log AAAAAA==\n".encode(),
        "text\n\n— log ÄÄÄÄÄÄÄ=\n".encode(),
    ],
)
def test_a_malformed_note_is_refused(data: bytes) -> None:
    """Each deviation from the format is a LogFormatError."""
    with pytest.raises(LogFormatError):
        parse_note(data)


def test_the_shortest_note_is_read() -> None:
    """The malformed notes above differ from this one in one thing each."""
    parse_note("text\n\n— log AAAAAAA=\n".encode())


@pytest.mark.parametrize("text", ["", "no end", "control\x1b\n", "\ud800\n", "tab\t\n"])
def test_a_text_that_no_note_can_have_is_not_signed(text: str) -> None:
    """A signature cannot be taken back, so malformed text never gets one."""
    with pytest.raises(LogFormatError):
        sign(text, LOG)
    with pytest.raises(LogFormatError):
        cosign(text, WITNESS, 0)
    with pytest.raises(LogFormatError):
        format_note(Note(text, NOTE.signatures))


@pytest.mark.parametrize(
    "note",
    [
        Note(TEXT, ()),
        Note(TEXT, (Signature("a b", bytes(4), b"x"),)),
        Note(TEXT, (Signature("ab", bytes(3), b"xy"),)),
        Note(TEXT, (Signature("ab", bytes(4), b""),)),
        Note(TEXT, (Signature("ab\n", bytes(4), b"x"),)),
    ],
)
def test_a_note_that_could_not_be_read_is_not_written(note: Note) -> None:
    """Writing refuses what reading would refuse, or read as something else."""
    with pytest.raises(LogFormatError):
        format_note(note)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ledger.example/log1",
        "ledger.example/log1+7d41893d",
        "+7d41893d+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4",
        "ledger.example/log2+7d41893d+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4",
        "ledger.example/log1+7D41893D+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4",
        "ledger.example/log1+7d41893d+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG",
        "ledger.example/log1+7d41893d+BgOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4",
        "ledger.example/log1+7d41893d+AQOh",
        "ledger.example/log1+7d41893d+",
        "ledger.example/log\udcff+7d41893d+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4",
    ],
)
def test_a_malformed_verifier_key_is_refused(text: str) -> None:
    """Each deviation from the format, or a key ID of another key, is a LogFormatError."""
    with pytest.raises(LogFormatError):
        parse_vkey(text)
    with pytest.raises(LogFormatError):
        parse_signer(text)


@given(st.binary(min_size=32, max_size=32), st.sampled_from(KeyType))
def test_keys_are_written_and_read_back(seed: bytes, key_type: KeyType) -> None:
    """Every key survives its text form, private and public."""
    signer = Signer("ledger.example/log1", seed, key_type)

    assert signer == parse_signer(format_signer(signer))
    assert signer.verifier_key == parse_vkey(format_vkey(signer.verifier_key))


def test_the_seed_is_not_shown() -> None:
    """Neither the repr of a signer, nor the error about a malformed one, holds its key."""
    secret = format_signer(LOG)

    assert "seed" not in repr(LOG)
    assert repr(LOG.seed) not in repr(LOG)
    with pytest.raises(LogFormatError) as caught:
        parse_signer(secret.replace("7d41893d", "7d41893e"))
    assert secret[-44:] not in str(caught.value)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_key_of_the_wrong_length_is_refused(length: int) -> None:
    """Seeds and public keys have 32 bytes."""
    with pytest.raises(LogFormatError):
        Signer("log", bytes(length))
    with pytest.raises(LogFormatError):
        VerifierKey("log", bytes(length))


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=64, max_size=64))
def test_a_public_key_that_is_no_point_signs_nothing(public_key: bytes, payload: bytes) -> None:
    """Any 32 bytes may be configured as a key; random signatures by it are refused."""
    key = VerifierKey("log", public_key)

    with pytest.raises(ProofInvalid):
        verify_note(Note(TEXT, (Signature("log", key.key_id, payload),)), [key])


def test_two_known_keys_that_cannot_be_told_apart_are_refused() -> None:
    """Whose signature it is must never depend on the order of the configuration."""
    seen: dict[bytes, VerifierKey] = {}
    key = clash = LOG.verifier_key
    for counter in range(10**6):
        key = VerifierKey("log", counter.to_bytes(32, "big"))
        clash = seen.setdefault(key.key_id, key)
        if clash != key:
            break

    with pytest.raises(LogFormatError):
        verify_note(NOTE, [key, clash])
    assert len(verify_note(NOTE, [LOG.verifier_key, LOG.verifier_key])) == 1


@given(st.binary())
@example(DATA)
def test_any_bytes_as_a_note_raise_our_errors_only(data: bytes) -> None:
    """Reading and verifying arbitrary bytes raises a LogError or nothing."""
    with contextlib.suppress(LogError):
        verify_note(parse_note(data), KEYS)


@given(st.integers(0, len(DATA)), st.integers(0, len(DATA)), st.binary(max_size=8))
def test_a_damaged_note_raises_our_errors_only(start: int, length: int, middle: bytes) -> None:
    """A note with a part replaced is refused, unless what is signed is still the same text."""
    try:
        note = parse_note(DATA[:start] + middle + DATA[start + length :])
        verify_note(note, KEYS)
    except LogError:
        return
    assert note.text == TEXT


@given(st.text())
def test_any_text_as_a_key_raises_our_errors_only(text: str) -> None:
    """Reading arbitrary text as a key raises a LogError or nothing."""
    for parse in (parse_vkey, parse_signer, parse_signatures):
        for each in (text, "PRIVATE+KEY+" + text, "a+00000000+" + text):
            with contextlib.suppress(LogError):
                parse(each)
