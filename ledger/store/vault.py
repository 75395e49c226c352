"""The vault: what is sealed in an event can be read while its subject's key is here, and not after.

Each subject has a data key of its own. The vault's file holds it wrapped by the vault key, which is
in another file. Both are outside the ledger's database: destroying a data key leaves every stored
event, and so every proof over it, as it is. (With PostgreSQL the vault is a schema of the same
database, because all hosts share it: see ``postgres_vault.py``.)

A key is committed here before the event that it sealed commits there. A crash between the two
leaves a key that no event uses; it is harmless, and the next event of its subject takes it.

Trust: whoever has the vault's file and the vault key reads what is not erased. Without either it is
AES-256-GCM, bound to ledger, stream, version and member: a box moved elsewhere does not open.

Why not the write-ahead log that the ledger's own database has: with it, pages with destroyed keys
would stay in the log beside the file until it happens to be written over. With a rollback journal
they are gone with the journal, which ends with each commit; ``secure_delete`` writes zeros over
what a row leaves in the file, and ``VACUUM`` after a destruction leaves no stale copy of a moved
row.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ledger.domain.errors import InvalidValue, TamperDetected, VaultUnavailable
from ledger.domain.events import SubjectEvent
from ledger.domain.values import Sealed, Subject
from ledger.store.secret_file import OWNER_ONLY, put_file, read_secret
from ledger.store.sqlite import write_transaction
from ledger.store.streaming import ROWS_TOGETHER

VAULT_KEY_BYTES: Final = 32
VAULT_TIMEOUT_S: Final = 10  # as long as a writer waits for the ledger itself
_NONCE_BYTES: Final = 12
_PROBE: Final = b"compliance-ledger vault"

EventT = TypeVar("EventT", bound=SubjectEvent)
Run = Callable[..., Any]
"""Executes a statement with values for its ``?``; what it returns has ``fetchone``."""

DDL: Final = (
    """CREATE TABLE IF NOT EXISTS data_keys (
        key TEXT PRIMARY KEY,
        subject TEXT NOT NULL,
        retired INTEGER NOT NULL,
        wrapped BLOB NOT NULL
    ) STRICT""",
    "CREATE INDEX IF NOT EXISTS data_keys_subject ON data_keys (subject)",
    # A subject seals with one key; one that is about to be destroyed seals nothing more.
    """CREATE UNIQUE INDEX IF NOT EXISTS data_keys_in_use ON data_keys (subject)
        WHERE retired = 0""",
    """CREATE TABLE IF NOT EXISTS probe (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        origin TEXT NOT NULL,
        box BLOB NOT NULL
    ) STRICT""",
)


class Vault:
    """The data keys of all subjects, and what they seal. Several processes may share one file.

    ``origin`` names the ledger of a new vault; one that is there keeps the name it was made with.
    Raises ``VaultUnavailable`` wherever the file cannot be read or written.
    """

    KEYS: ClassVar[str] = "data_keys"
    PROBE: ClassVar[str] = "probe"

    def __init__(self, path: Path, *, vault_key: bytes, origin: str) -> None:
        self.path = path
        self._turn = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._open(str(path), vault_key, origin)

    def _open(self, name: str, vault_key: bytes, origin: str) -> None:
        self.name = name
        self._origin = origin
        self._wrapping = AESGCM(vault_key)
        with self._writing() as run:
            self._make_tables()
            found = run(f"SELECT origin, box FROM {self.PROBE}").fetchone()
            if found is None:
                box = self._encrypt(self._wrapping, _PROBE, "probe")
                run(f"INSERT INTO {self.PROBE} VALUES (1, ?, ?)", (origin, box))
                found = (origin, box)
        self._origin = found[0]
        if self._decrypt(self._wrapping, found[1], "probe") != _PROBE:
            self.close()
            raise VaultUnavailable(
                f"{name} was made with another vault key; put back the key file that belongs to it"
            )

    def close(self) -> None:
        """Close the file."""
        with self._turn:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @property
    def origin(self) -> str:
        """The name that what is wrapped and sealed is bound to."""
        return self._origin

    # --- sealing and opening ----------------------------------------------------------------------

    def seal(self, event: EventT, version: int, *, keep: bool = True) -> EventT:
        """Return a subject's event with every text sealed for its place, by the key in use.

        The key is made where there is none, and is on disk when this returns. Not ``keep``: a new
        key is kept nowhere, and what it seals is never to be opened.
        """
        if not any(event.sealed_fields()):
            return event
        key, cipher = self._key_in_use(event.subject, keep=keep)

        def seal(path: str, text: str) -> Sealed:
            box = self._encrypt(cipher, text.encode(), event.stream, version, path)
            return Sealed(key=key, box=base64.b64encode(box).decode())

        return event.sealed_by(seal)

    def open(self, sealed: Sealed, *, stream: str, version: int, path: str) -> str:
        """Return the text of a sealed member at a place.

        Raises ``TamperDetected`` when it was not sealed there, and ``VaultUnavailable`` when the
        key is not in the vault.
        """
        with self._reading() as run:
            row = run(
                f"SELECT key, subject, wrapped FROM {self.KEYS} WHERE key = ?", (sealed.key,)
            ).fetchone()
        if row is None:
            raise VaultUnavailable(f"{self.name} does not hold the key {sealed.key}")
        box = base64.b64decode(sealed.box)
        text = self._decrypt(self._unwrapped(row), box, stream, version, path)
        if text is None:
            raise TamperDetected(f"{path} of version {version} of {stream} was not sealed there")
        return text.decode()

    # --- keys -------------------------------------------------------------------------------------

    def keys_of(self, subject: Subject) -> list[str]:
        """Return every key of a subject that is here, the one in use and retired ones."""
        with self._reading() as run:
            rows = run(
                f"SELECT key FROM {self.KEYS} WHERE subject = ? ORDER BY key", (subject.key,)
            )
            return [row[0] for row in rows.fetchall()]

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Return which of these keys are not here; all are asked for by one statement."""
        wanted = list(keys)
        if not wanted:
            return []
        places = ", ".join("?" * len(wanted))
        with self._reading() as run:
            found = run(f"SELECT key FROM {self.KEYS} WHERE key IN ({places})", wanted).fetchall()
        here = {row[0] for row in found}
        return [key for key in wanted if key not in here]

    def retire(self, subject: Subject) -> None:
        """Seal nothing more with the subject's key; what it sealed can still be read.

        Before an erasure commits: what is recorded between then and the destruction of the key
        is sealed by a new one, and outlives it.
        """
        with self._writing() as run:
            run(f"UPDATE {self.KEYS} SET retired = 1 WHERE subject = ?", (subject.key,))

    def destroy(self, keys: Iterable[str]) -> int:
        """Destroy keys for good; return how many of them were still here."""
        destroyed = 0
        with self._writing() as run:
            for key in keys:
                gone = run(f"DELETE FROM {self.KEYS} WHERE key = ? RETURNING key", (key,))
                destroyed += len(gone.fetchall())
            if destroyed:
                self._mark_stale(run)
        self._write_anew()
        return destroyed

    def take_over(self, other: Vault) -> None:
        """Hold exactly the keys of another vault, as they are wrapped there by the same vault key.

        All are replaced at once: one that was destroyed there meanwhile is not here afterwards.
        """
        with self._writing() as run:
            if run(f"SELECT 1 FROM {self.KEYS} LIMIT 1").fetchone() is not None:
                run(f"DELETE FROM {self.KEYS}")
                self._mark_stale(run)
            for row in other.rows():
                run(f"INSERT INTO {self.KEYS} VALUES (?, ?, ?, ?)", row)
        self._write_anew()

    def rows(self) -> Iterator[tuple[str, str, int, bytes]]:
        """Yield every key as it is kept: its id, its subject, whether it is retired, its box."""
        after = ""
        while True:
            with self._reading() as run:
                found = run(
                    f"SELECT key, subject, retired, wrapped FROM {self.KEYS} "
                    "WHERE key > ? ORDER BY key LIMIT ?",
                    (after, ROWS_TOGETHER),
                ).fetchall()
            yield from map(tuple, found)
            if len(found) < ROWS_TOGETHER:
                return
            after = found[-1][0]

    def _key_in_use(self, subject: Subject, *, keep: bool) -> tuple[str, AESGCM]:
        find = f"SELECT key, subject, wrapped FROM {self.KEYS} WHERE subject = ? AND retired = 0"
        with self._reading() as run:
            row = run(find, (subject.key,)).fetchone()
        if row is None and not keep:
            row = self._new_key(subject)
        if row is None:
            with self._writing() as run:  # another process may have been faster
                row = run(find, (subject.key,)).fetchone()
                if row is None:
                    row = self._new_key(subject)
                    run(
                        f"INSERT INTO {self.KEYS} (key, subject, retired, wrapped) "
                        "VALUES (?, ?, 0, ?)",
                        row,
                    )
        return row[0], self._unwrapped(row)

    def _new_key(self, subject: Subject) -> tuple[str, str, bytes]:
        secret = AESGCM.generate_key(256)
        key = fingerprint(secret)
        return key, subject.key, self._encrypt(self._wrapping, secret, key, subject.key)

    def _unwrapped(self, row: tuple[str, str, bytes]) -> AESGCM:
        key, subject, wrapped = row
        secret = self._decrypt(self._wrapping, wrapped, key, subject)
        if secret is None or fingerprint(secret) != key:
            raise VaultUnavailable(f"the key {key} in {self.name} was changed or cut short")
        return AESGCM(secret)

    # --- cipher and file --------------------------------------------------------------------------

    def _encrypt(self, cipher: AESGCM, plain: bytes, *place: str | int) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + cipher.encrypt(nonce, plain, self._bound_to(place))

    def _decrypt(self, cipher: AESGCM, box: bytes, *place: str | int) -> bytes | None:
        """Return what a box holds, ``None`` when it does not open at this place."""
        try:
            return cipher.decrypt(box[:_NONCE_BYTES], box[_NONCE_BYTES:], self._bound_to(place))
        except (InvalidTag, ValueError):  # ValueError: a box shorter than a nonce and a tag
            return None

    def _bound_to(self, place: tuple[str | int, ...]) -> bytes:
        return orjson.dumps([self._origin, *place])

    @contextmanager
    def _reading(self) -> Iterator[Run]:
        with self._turn:
            try:
                if self._connection is None:
                    self._connection = self._connect()
                yield self._connection.execute
            except (sqlite3.Error, OSError) as error:
                raise VaultUnavailable(f"{self.path} cannot be used: {error}") from error

    @contextmanager
    def _writing(self) -> Iterator[Run]:
        with self._reading() as run:
            assert self._connection is not None
            with write_transaction(self._connection):
                yield run

    def _make_tables(self) -> None:
        with self._reading() as run:
            for statement in DDL:
                run(statement)

    def _mark_stale(self, run: Run) -> None:
        """Remember, over a crash, that the file must be written anew."""
        run("PRAGMA user_version = 1")

    def _write_anew(self) -> None:
        with self._reading() as run:
            if run("PRAGMA user_version").fetchone()[0]:
                run("VACUUM")
                run("PRAGMA user_version = 0")

    def _connect(self) -> sqlite3.Connection:
        self.path.touch(mode=0o600)  # SQLite would let everybody read it; a journal gets its mode
        connection = sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False, timeout=VAULT_TIMEOUT_S
        )
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("PRAGMA temp_store = MEMORY")  # VACUUM copies every key through it
        return connection


def fingerprint(secret: bytes) -> str:
    """Return the id of a data key. It tells nothing of a key of 256 random bits."""
    return "dek_" + hashlib.sha256(b"compliance-ledger data key\n" + secret).hexdigest()[:32]


# --- the vault key --------------------------------------------------------------------------------


def make_vault_key(path: Path) -> None:
    """Make the file of a new vault key, whole or not at all; one that is there stays as it is."""
    text = base64.b64encode(secrets.token_bytes(VAULT_KEY_BYTES)) + b"\n"
    try:
        put_file(path, text, OWNER_ONLY, replace=False)
    except OSError as error:
        raise VaultUnavailable(f"{path} cannot be made: {error.strerror}") from None


def read_vault_key(path: Path) -> bytes:
    """Return the vault key; raises ``InvalidValue`` for a file that others can use, or no key."""
    text = read_secret(
        path, "the vault key", when_missing="put the file back from where its copy is kept"
    )
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != VAULT_KEY_BYTES:
        raise InvalidValue(f"{path} does not hold a vault key: 32 bytes in base64, one line")
    return key


def key_for(purpose: str, *, vault_key: bytes, origin: str) -> bytes:
    """Return a key for something else than the vault, the same in every process of a ledger.

    It tells nothing of the vault key, nor of the key for another purpose (RFC 5869).
    """
    info = orjson.dumps(["compliance-ledger", purpose, origin])
    return HKDF(hashes.SHA256(), length=VAULT_KEY_BYTES, salt=None, info=info).derive(vault_key)
