"""Checkpoints: one way to write each, and only the right key may sign it."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.tlog.checkpoint import (
    Checkpoint,
    LogKey,
    check_log_signed,
    format_checkpoint,
    parse_checkpoint,
)
from ledger.tlog.merkle import EMPTY_ROOT, LogError, LogFormatError, ProofInvalid
from ledger.tlog.note import KeyType, Note, Signer, sign, verify_note

ORIGIN = "ledger.example/log1"
OLD = Signer(ORIGIN, bytes(range(32)))
NEW = Signer(ORIGIN, bytes(range(1, 33)))
ROOT = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
ROTATED = (LogKey(OLD.verifier_key, last_size=100), LogKey(NEW.verifier_key, first_size=101))


def check_signed(size: int, *signers: Signer) -> None:
    """Sign a checkpoint of this size, and judge it by the rotated keys."""
    checkpoint = Checkpoint(ORIGIN, size, EMPTY_ROOT)
    text = format_checkpoint(checkpoint)
    note = Note(text, tuple(sign(text, signer) for signer in signers))
    verified = verify_note(note, [each.key for each in ROTATED])
    check_log_signed(checkpoint, verified, ROTATED)


def test_extension_lines_are_kept() -> None:
    """Extension lines are read, and written again, in order."""
    text = f"{ORIGIN}\n7\n{ROOT}\nfirst\nsecond line\n"
    checkpoint = Checkpoint(ORIGIN, 7, EMPTY_ROOT, ("first", "second line"))

    assert checkpoint == parse_checkpoint(text)
    assert text == format_checkpoint(checkpoint)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        f"{ORIGIN}\n7\n",
        f"{ORIGIN}\n7\n{ROOT}",
        f"\n7\n{ROOT}\n",
        f"{ORIGIN}\n\n{ROOT}\n",
        f"{ORIGIN}\n07\n{ROOT}\n",
        f"{ORIGIN}\n00\n{ROOT}\n",
        f"{ORIGIN}\n+7\n{ROOT}\n",
        f"{ORIGIN}\n-7\n{ROOT}\n",
        f"{ORIGIN}\n 7\n{ROOT}\n",
        f"{ORIGIN}\n7 \n{ROOT}\n",
        f"{ORIGIN}\n7_0\n{ROOT}\n",
        f"{ORIGIN}\n\u0667\n{ROOT}\n",
        f"{ORIGIN}\n7\r\n{ROOT}\n",
        f"{ORIGIN}\n9223372036854775808\n{ROOT}\n",
        f"{ORIGIN}\n{'9' * 5000}\n{ROOT}\n",
        f"{ORIGIN}\n7\n{ROOT[:-1]}\n",
        f"{ORIGIN}\n7\n{ROOT[:-2]}V=\n",
        f"{ORIGIN}\n7\nAAAA\n",
        f"{ORIGIN}\n7\n{ROOT.replace('+', '-')}\n",
        f"{ORIGIN}\n7\n{ROOT}\n\n",
        f"{ORIGIN}\n7\n{ROOT}\n\nextension\n",
        f"{ORIGIN}\x1b\n7\n{ROOT}\n",
        f"{ORIGIN}\udc80\n7\n{ROOT}\n",
    ],
)
def test_a_malformed_checkpoint_is_refused(text: str) -> None:
    """Each deviation from the format is a LogFormatError."""
    with pytest.raises(LogFormatError):
        parse_checkpoint(text)


@pytest.mark.parametrize(
    "checkpoint",
    [
        Checkpoint("", 7, EMPTY_ROOT),
        Checkpoint("two\nlines", 7, EMPTY_ROOT),
        Checkpoint(ORIGIN, -1, EMPTY_ROOT),
        Checkpoint(ORIGIN, 2**63, EMPTY_ROOT),
        Checkpoint(ORIGIN, 7, b"short"),
        Checkpoint(ORIGIN, 7, EMPTY_ROOT, ("",)),
        Checkpoint(ORIGIN, 7, EMPTY_ROOT, ("two\nlines",)),
    ],
)
def test_a_checkpoint_that_could_not_be_read_is_not_written(checkpoint: Checkpoint) -> None:
    """A log never signs what a verifier would refuse, or read as something else."""
    with pytest.raises(LogFormatError):
        format_checkpoint(checkpoint)


@given(st.text())
def test_any_text_as_a_checkpoint_raises_our_errors_only(text: str) -> None:
    """What is read at all is written again as the same text."""
    for each in (text, f"{text}\n7\n{ROOT}\n", f"a\n{text}\n{ROOT}\n", f"a\n7\n{text}\n"):
        with contextlib.suppress(LogError):
            assert each == format_checkpoint(parse_checkpoint(each))


@pytest.mark.parametrize(
    ("size", "signers"),
    [(0, [OLD]), (100, [OLD]), (101, [NEW]), (5000, [NEW]), (50, [OLD, NEW]), (150, [OLD, NEW])],
)
def test_a_rotated_key_signs_the_sizes_of_its_range(size: int, signers: list[Signer]) -> None:
    """Old checkpoints stay valid by the old key, and new ones are by the new key."""
    check_signed(size, *signers)


@pytest.mark.parametrize(("size", "signer"), [(101, OLD), (2**40, OLD), (100, NEW), (0, NEW)])
def test_a_rotated_key_signs_no_other_size(size: int, signer: Signer) -> None:
    """Whoever steals a retired key cannot sign new trees with it, nor old ones with the new."""
    with pytest.raises(ProofInvalid, match="may not sign"):
        check_signed(size, signer)


def test_the_key_of_another_log_does_not_sign_for_this_one() -> None:
    """A checkpoint must be signed by a key whose name is its origin, however trusted another is."""
    other = Signer("other.example/log", bytes(32))
    checkpoint = Checkpoint(ORIGIN, 7, EMPTY_ROOT)
    text = format_checkpoint(checkpoint)
    verified = verify_note(Note(text, (sign(text, other),)), [other.verifier_key])

    with pytest.raises(ProofInvalid, match=r"no known key of ledger\.example/log1"):
        check_log_signed(checkpoint, verified, [LogKey(other.verifier_key)])


@pytest.mark.parametrize(("first", "last"), [(-1, None), (8, 7), (0, 2**63), (2**63, None)])
def test_a_key_with_an_empty_range_is_refused(first: int, last: int | None) -> None:
    """A range of sizes that no checkpoint can be in is a mistake in the configuration."""
    with pytest.raises(LogFormatError):
        LogKey(OLD.verifier_key, first, last)


def test_a_cosigner_key_is_no_log_key() -> None:
    """A log signs with type 01."""
    with pytest.raises(LogFormatError):
        LogKey(Signer(ORIGIN, bytes(32), KeyType.COSIGNATURE).verifier_key)
