"""The file of the log's private keys: made for its owner alone, and refused when it is not."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from ledger.domain.errors import InvalidValue
from ledger.service import keyfile
from ledger.tlog.note import format_signer, format_vkey, parse_vkey


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """Where a key file is made."""
    return tmp_path / "ledger.log-key"


def test_a_new_key_is_kept_for_its_owner_alone(key_file: Path) -> None:
    """The file has mode 0600 and one line, and what is read is what was made."""
    made = keyfile.add(key_file, "ledger.example")

    assert 0o600 == stat.S_IMODE(key_file.stat().st_mode)
    assert f"{format_signer(made)}\n" == key_file.read_text()
    assert (made,) == keyfile.read(key_file)
    assert "ledger.example" == parse_vkey(format_vkey(made.verifier_key)).name


def test_a_further_key_stands_after_the_first(key_file: Path) -> None:
    """Keys are added and never removed, and nothing else is left in the folder."""
    first = keyfile.add(key_file, "ledger.example")
    second = keyfile.add(key_file, "ledger.example")

    assert (first, second) == keyfile.read(key_file)
    assert first.seed != second.seed
    assert [key_file] == list(key_file.parent.iterdir())


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601])
def test_a_file_that_others_may_use_is_refused(key_file: Path, mode: int) -> None:
    """Whoever can read the key can sign for the log, so it may have leaked."""
    keyfile.add(key_file, "ledger.example")
    key_file.chmod(mode)

    for use in (lambda: keyfile.read(key_file), lambda: keyfile.add(key_file, "ledger.example")):
        with pytest.raises(InvalidValue, match=f"has mode {mode:04o}, so others may use it"):
            use()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(key_file: Path) -> None:
    """A key that somebody else owns is somebody else's."""
    keyfile.add(key_file, "ledger.example")
    os.chown(key_file, 65534, -1)

    with pytest.raises(InvalidValue, match="belongs to user 65534"):
        keyfile.read(key_file)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "is empty"),
        (b"\n", "is malformed"),
        (b"PRIVATE+KEY+a+00000000+AAAA\n", "is malformed"),
        (b"-----BEGIN PRIVATE KEY-----\n", "is malformed"),
        (b"\xff\xfe\n", "cannot be read"),
    ],
)
def test_a_malformed_file_is_refused(key_file: Path, content: bytes, fault: str) -> None:
    """What is no list of signer keys is refused in a sentence, and not overwritten."""
    key_file.touch(mode=0o600)
    key_file.write_bytes(content)

    for use in (lambda: keyfile.read(key_file), lambda: keyfile.add(key_file, "ledger.example")):
        with pytest.raises(InvalidValue, match=fault):
            use()
    assert content == key_file.read_bytes()


def test_a_refusal_never_shows_a_key(key_file: Path) -> None:
    """The sentence about a malformed line does not hold what is in it."""
    secret = format_signer(keyfile.add(key_file, "ledger.example"))
    key_file.write_text(f"{secret}AAAA\n")

    with pytest.raises(InvalidValue, match="is malformed") as refused:
        keyfile.read(key_file)

    assert secret[-20:] not in str(refused.value)


def test_a_missing_file_is_refused_with_what_to_do(key_file: Path) -> None:
    """The sentence says how to get on."""
    with pytest.raises(InvalidValue, match=r"is missing.*rotate-log"):
        keyfile.read(key_file)


def test_a_folder_is_no_key_file(tmp_path: Path) -> None:
    """Only a regular file is read."""
    with pytest.raises(InvalidValue, match="cannot be read"):
        keyfile.read(tmp_path)


def test_a_name_that_no_log_can_have_is_refused(key_file: Path) -> None:
    """A name with a space could not stand in a signature line."""
    with pytest.raises(InvalidValue, match="cannot be the name of a log"):
        keyfile.add(key_file, "my ledger")
    assert not key_file.exists()


def test_a_key_file_that_cannot_be_written_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """A folder that is not there is no traceback."""
    with pytest.raises(InvalidValue, match="cannot be written"):
        keyfile.add(tmp_path / "missing" / "ledger.log-key", "ledger.example")
