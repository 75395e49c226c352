"""The vault: what is sealed opens in its place only, and never again without its key."""

from __future__ import annotations

import base64
import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.domain.errors import InvalidValue, TamperDetected, VaultUnavailable
from ledger.domain.events import Author, Draft, SubjectSuspended, ViolationRecorded
from ledger.domain.values import RecordedEvidence, Sealed, Unsealed
from ledger.store.codec import encode
from ledger.store.vault import (
    VAULT_KEY_BYTES,
    Vault,
    fingerprint,
    key_for,
    make_vault_key,
    read_vault_key,
)
from tests.conftest import VAULT_KEY
from tests.domain.given import ALICE, BOB, suspension, violation

STREAM = "subject/user:alice"


def opened(path: Path, **changed: object) -> Vault:
    """Open a vault, a new one or one that is there."""
    vault_key = changed.pop("vault_key", VAULT_KEY)
    assert isinstance(vault_key, bytes)
    return Vault(path, vault_key=vault_key, origin=str(changed.pop("origin", "test.ledger")))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ledger.vault"


@pytest.fixture
def vault(file: Path) -> Iterator[Vault]:
    vault = opened(file)
    yield vault
    vault.close()


def noted(vault: Vault, text: str, version: int = 1) -> Sealed:
    """Seal the note of a suspension of Alice."""
    event = suspension().model_copy(update={"note": Unsealed(text)})
    note = vault.seal(event, version).note
    assert isinstance(note, Sealed)
    return note


def wrapped_keys(file: Path) -> list[bytes]:
    """Return the wrapped keys that the file holds."""
    with sqlite3.connect(file) as c:
        found = [row[0] for row in c.execute("SELECT wrapped FROM data_keys")]
    c.close()
    return found


# --- sealing --------------------------------------------------------------------------------------


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    version=st.integers(1, 2**53),
)
def test_whatever_is_sealed_opens_as_it_was(vault: Vault, text: str, version: int) -> None:
    """Any text comes back to the letter, from its own place."""
    sealed = noted(vault, text, version)

    assert text == vault.open(sealed, stream=STREAM, version=version, path="note")


def test_a_box_is_new_each_time_and_tells_nothing(vault: Vault) -> None:
    """The same text twice gives two boxes, in neither of which it can be seen."""
    one, other = noted(vault, "Secret words."), noted(vault, "Secret words.")

    assert one.key == other.key
    assert one.box != other.box
    assert b"Secret" not in base64.b64decode(one.box)


@pytest.mark.parametrize(
    ("stream", "version", "path"),
    [
        ("subject/user:bob", 1, "note"),
        (STREAM, 2, "note"),
        (STREAM, 1, "details"),
        ("subject/user:alice,1", 1, "note"),
    ],
)
def test_a_box_in_another_place_does_not_open(
    vault: Vault, stream: str, version: int, path: str
) -> None:
    """A box is bound to stream, version and member: moved elsewhere, it is found out."""
    sealed = noted(vault, "Secret.")

    with pytest.raises(TamperDetected, match="was not sealed there"):
        vault.open(sealed, stream=stream, version=version, path=path)


def test_a_box_of_another_ledger_does_not_open(vault: Vault, file: Path) -> None:
    """The same keys under another origin open nothing."""
    sealed = noted(vault, "Secret.")
    vault._origin = "other.ledger"

    with pytest.raises(VaultUnavailable, match="was changed"):
        vault.open(sealed, stream=STREAM, version=1, path="note")


def test_a_changed_box_does_not_open(vault: Vault) -> None:
    """Each byte of a box counts: nonce, text and tag."""
    sealed = noted(vault, "Secret.")
    box = base64.b64decode(sealed.box)
    for place in range(len(box)):
        changed = bytearray(box)
        changed[place] ^= 1
        other = Sealed(key=sealed.key, box=base64.b64encode(changed).decode())
        with pytest.raises(TamperDetected):
            vault.open(other, stream=STREAM, version=1, path="note")


def test_every_sealed_member_of_an_event_is_sealed_for_its_path(vault: Vault) -> None:
    """Details and personal evidence are sealed by one key; evidence that is not stays in clear."""
    plain = RecordedEvidence(uri="s3://plain", sha256="0" * 64)
    personal = RecordedEvidence(
        uri=Unsealed("s3://alice"), sha256=Unsealed("1" * 64), personal=True
    )
    event = violation(details=Unsealed("Who said what."), evidence=(plain, personal))

    sealed = vault.seal(event, 3)

    assert isinstance(sealed, ViolationRecorded)
    assert plain == sealed.evidence[0]
    assert {
        "details": "Who said what.",
        "evidence/1/uri": "s3://alice",
        "evidence/1/sha256": "1" * 64,
    } == {
        path: vault.open(one, stream=STREAM, version=3, path=path)
        for path, one in sealed.sealed_fields()
        if isinstance(one, Sealed)
    }
    assert 1 == len({one.key for _, one in sealed.sealed_fields() if isinstance(one, Sealed)})
    encode(Draft(sealed, Author("jo")))


def test_what_is_sealed_by_a_key_that_is_not_kept_is_never_opened(vault: Vault) -> None:
    """A rehearsal leaves no key behind; where there is one, it is the one that would be used."""
    event = violation(details=Unsealed("Who said what."))

    def keys_of(sealed: ViolationRecorded) -> set[str]:
        return {one.key for _, one in sealed.sealed_fields() if isinstance(one, Sealed)}

    sealed = vault.seal(event, 1, keep=False)
    assert [] == vault.keys_of(ALICE)
    assert sorted(keys_of(sealed)) == vault.missing(keys_of(sealed))
    encode(Draft(sealed, Author("jo")))

    kept = vault.seal(event, 1)
    assert keys_of(kept) == keys_of(vault.seal(event, 2, keep=False)) == {*vault.keys_of(ALICE)}


def test_an_event_with_nothing_to_seal_makes_no_key(vault: Vault) -> None:
    """Most events are as they were, and cost the vault nothing."""
    event = suspension()

    assert event is vault.seal(event, 1)
    assert [] == vault.keys_of(ALICE)


@pytest.mark.parametrize(
    "event",
    [
        suspension().model_copy(update={"note": Unsealed("Secret.")}),
        violation(details=Unsealed("Secret.")),
        violation(
            evidence=(
                RecordedEvidence(uri=Unsealed("Secret."), sha256=Unsealed("0" * 64), personal=True),
            )
        ),
    ],
    ids=["note", "details", "evidence"],
)
def test_a_text_that_is_not_sealed_is_never_encoded(
    event: SubjectSuspended | ViolationRecorded,
) -> None:
    """The codec refuses it, and neither the refusal nor its representation shows the text."""
    with pytest.raises(TypeError, match="never written down") as refusal:
        encode(Draft(event, Author("jo")))
    with pytest.raises(ValueError, match="never written down"):
        event.model_dump()
    with pytest.raises(TypeError, match="not JSON serializable"):
        orjson.dumps(Unsealed("Secret."))

    assert "Secret" not in str(refusal.value) + repr(event) + str(event)


@pytest.mark.parametrize("note", ["Secret.", {"key": "dek_1", "box": "AAAA"}, {"key": "x"}, 1])
def test_a_stored_event_with_another_form_of_seal_is_not_read(note: object) -> None:
    """Plain text, or a box too short to hold a nonce and a tag, was never written."""
    with pytest.raises(ValueError, match="note"):
        SubjectSuspended.model_validate({**suspension().model_dump(), "note": note})


@pytest.mark.parametrize(("uri", "personal"), [("s3://x", True), (Unsealed("s3://x"), False)])
def test_evidence_is_sealed_when_it_is_personal_and_only_then(
    uri: object, personal: object
) -> None:
    """The mark and the seal say the same."""
    with pytest.raises(ValueError, match="only then"):
        RecordedEvidence.model_validate({"uri": uri, "sha256": "0" * 64, "personal": personal})


# --- keys -----------------------------------------------------------------------------------------


def test_each_subject_has_a_key_of_its_own(vault: Vault) -> None:
    """Destroying one subject's key leaves what is sealed about others."""
    mine = noted(vault, "About Alice.")
    theirs = vault.seal(suspension(subject=BOB).model_copy(update={"note": Unsealed("Bob.")}), 1)
    assert isinstance(theirs.note, Sealed)

    assert 1 == vault.destroy([mine.key])

    with pytest.raises(VaultUnavailable, match="does not hold"):
        vault.open(mine, stream=STREAM, version=1, path="note")
    assert "Bob." == vault.open(theirs.note, stream="subject/user:bob", version=1, path="note")
    assert 0 == vault.destroy([mine.key])


def test_a_retired_key_still_opens_and_seals_nothing_more(vault: Vault) -> None:
    """Between an erasure and the destruction of its key, a new key seals what comes."""
    before = noted(vault, "Before.")
    vault.retire(ALICE)
    after = noted(vault, "After.", 2)

    assert before.key != after.key
    assert "Before." == vault.open(before, stream=STREAM, version=1, path="note")
    assert sorted([before.key, after.key]) == vault.keys_of(ALICE)
    vault.destroy([before.key])
    assert "After." == vault.open(after, stream=STREAM, version=2, path="note")


def test_a_destroyed_key_leaves_no_byte_in_any_file(vault: Vault, file: Path) -> None:
    """Of hundreds of keys some are destroyed: their wrapped bytes are in no file of the folder."""
    sealed = [
        vault.seal(
            suspension(subject=ALICE.model_copy(update={"id": f"u{number}"})).model_copy(
                update={"note": Unsealed("Secret.")}
            ),
            1,
        ).note
        for number in range(300)
    ]
    keys = [one.key for one in sealed if isinstance(one, Sealed)]
    with sqlite3.connect(file) as c:
        rows = dict(c.execute("SELECT key, wrapped FROM data_keys"))
    c.close()

    vault.destroy(keys[::3])

    kept = b"".join(path.read_bytes() for path in file.parent.iterdir())
    assert not any(rows[key] in kept for key in keys[::3])
    assert all(rows[key] in kept for key in keys[1::3])
    assert [file] == list(file.parent.iterdir())


def test_a_crash_after_the_destruction_still_leads_to_a_file_written_anew(
    vault: Vault, file: Path
) -> None:
    """That the file is to be written anew is remembered in it, and done by the next destruction."""
    noted(vault, "Secret.")
    vault.close()
    with sqlite3.connect(file) as c:
        c.execute("PRAGMA user_version = 1")
    c.close()

    again = opened(file)
    assert 0 == again.destroy([])
    again.close()

    with sqlite3.connect(file) as c:
        assert (0,) == c.execute("PRAGMA user_version").fetchone()
    c.close()


def test_several_processes_make_one_key_for_a_subject(file: Path) -> None:
    """Vaults on one file that seal at once for a new subject seal with the same key."""
    vaults = [opened(file) for _ in range(4)]
    found: list[Sealed] = []
    threads = [
        threading.Thread(target=lambda one=one: found.append(noted(one, "At once.")))
        for one in vaults
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 4 == len(found)
    assert 1 == len({sealed.key for sealed in found})
    for one in vaults:
        one.close()


def test_keys_that_are_not_here_are_named(vault: Vault) -> None:
    """A lost key is told from one that was never made."""
    sealed = noted(vault, "Secret.")

    assert [fingerprint(b"lost")] == vault.missing([sealed.key, fingerprint(b"lost")])


def test_a_wrapped_key_that_was_changed_is_refused(vault: Vault, file: Path) -> None:
    """Neither a flipped byte nor another subject's key is taken for the key."""
    sealed = noted(vault, "Secret.")
    with sqlite3.connect(file) as c:
        c.execute("UPDATE data_keys SET subject = 'user:bob'")
    c.close()

    with pytest.raises(VaultUnavailable, match="was changed"):
        vault.open(sealed, stream=STREAM, version=1, path="note")


# --- the file and the vault key -------------------------------------------------------------------


def test_another_vault_key_is_refused_at_once(vault: Vault, file: Path) -> None:
    """A vault says at its opening that the key is not its own, and stays as it is."""
    sealed = noted(vault, "Secret.")
    before = wrapped_keys(file)

    with pytest.raises(VaultUnavailable, match="another vault key"):
        opened(file, vault_key=bytes(32))

    assert before == wrapped_keys(file)
    assert "Secret." == vault.open(sealed, stream=STREAM, version=1, path="note")


def test_a_vault_keeps_the_origin_it_was_made_with(file: Path) -> None:
    """Naming the ledger otherwise later does not lock its data away."""
    first = opened(file)
    sealed = noted(first, "Secret.")
    first.close()

    second = opened(file, origin="renamed.ledger")

    assert "Secret." == second.open(sealed, stream=STREAM, version=1, path="note")
    second.close()


def test_a_vault_is_its_owners_alone_and_has_no_write_ahead_log(vault: Vault, file: Path) -> None:
    """Mode 0600, a rollback journal, zeros over what is deleted."""
    noted(vault, "Secret.")

    assert 0o600 == stat.S_IMODE(file.stat().st_mode)
    assert vault._connection is not None
    for pragma, expected in (("journal_mode", "delete"), ("secure_delete", 1), ("synchronous", 2)):
        assert expected == vault._connection.execute(f"PRAGMA {pragma}").fetchone()[0]


def test_a_file_that_is_no_vault_is_refused(file: Path) -> None:
    """A damaged file is told from a wrong key."""
    file.write_bytes(b"not a database" * 100)

    with pytest.raises(VaultUnavailable, match="cannot be used"):
        opened(file)


def test_a_vault_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    """32 random bytes in base64, mode 0600; what is there stays."""
    path = tmp_path / "ledger.vault-key"
    make_vault_key(path)
    first = path.read_bytes()
    make_vault_key(path)

    assert first == path.read_bytes()
    assert 32 == len(read_vault_key(path))
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert [path] == list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_vault_key_that_others_may_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    """The refusal says what to do."""
    path = tmp_path / "ledger.vault-key"
    make_vault_key(path)
    path.chmod(mode)

    with pytest.raises(InvalidValue, match="chmod 600"):
        read_vault_key(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_vault_key_of_another_owner_is_refused(tmp_path: Path) -> None:
    """Whoever owns the file could put another key there."""
    path = tmp_path / "ledger.vault-key"
    make_vault_key(path)
    os.chown(path, 12_345, -1)

    with pytest.raises(InvalidValue, match="belongs to user 12345"):
        read_vault_key(path)


@pytest.mark.parametrize(
    "text", ["", "\n", "not base64!", "AAAA", base64.b64encode(bytes(31)).decode(), "é" * 44]
)
def test_a_vault_key_of_another_form_is_refused(tmp_path: Path, text: str) -> None:
    """It is 32 bytes, in base64; the refusal does not show what is there instead."""
    path = tmp_path / "ledger.vault-key"
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")

    with pytest.raises(InvalidValue, match="does not hold a vault key"):
        read_vault_key(path)


def test_a_vault_key_that_is_missing_is_refused_with_a_sentence(tmp_path: Path) -> None:
    """No new key is made for a vault that has one somewhere."""
    with pytest.raises(InvalidValue, match="put the file back"):
        read_vault_key(tmp_path / "ledger.vault-key")


def test_a_key_for_another_purpose_is_one_of_its_own() -> None:
    """It is the same wherever the vault key is, and another for another purpose or ledger."""
    vault_key = bytes(range(VAULT_KEY_BYTES))
    made = [
        key_for(purpose, vault_key=key, origin=origin)
        for purpose, key, origin in (
            ("console", vault_key, "a.ledger"),
            ("another", vault_key, "a.ledger"),
            ("console", vault_key[::-1], "a.ledger"),
            ("console", vault_key, "b.ledger"),
        )
    ]

    assert made[0] == key_for("console", vault_key=vault_key, origin="a.ledger")
    assert len(made) == len({*made, vault_key}) - 1
