"""A witness for other ledgers: it cosigns their checkpoints, and never two trees of one log.

Trust: its folder is the trust. `witness.key` says who it is, `witness.db` what it has cosigned;
a witness that lost the second can be made to cosign a fork, so it must not go on under its key.
Requests may come from anyone: what is believed of them is the signature of a log that the witness
was told to watch, and a proof that the log has grown from what the witness cosigned last.

Implements C2SP tlog-witness on `ledger.tlog.witness_protocol`, which decides.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ledger.domain.errors import InvalidValue, Unavailable
from ledger.store.secret_file import OWNER_ONLY, put_file, read_secret
from ledger.store.sqlite import write_transaction
from ledger.tlog.checkpoint import (
    Checkpoint,
    LogKey,
    check_log_signed,
    parse_checkpoint,
    parse_size,
)
from ledger.tlog.merkle import LogError, LogFormatError
from ledger.tlog.note import (
    SEED_BYTES,
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
    parse_signer,
    parse_vkey,
    verify_note,
)
from ledger.tlog.policy_file import parse_policy_file
from ledger.tlog.witness_protocol import (
    BAD_REQUEST,
    MAX_REQUEST_BYTES,
    SIZE_CONTENT_TYPE,
    STALE,
    UNPROVEN,
    Accepted,
    AddCheckpoint,
    WitnessState,
    decide,
    format_latest_size,
    origin_hash,
    parse_add_checkpoint,
)

KEY_FILE: Final = "witness.key"
STATE_FILE: Final = "witness.db"
BODY_WITHIN_S: Final = (
    10  # a request is a few kilobytes; who takes longer to send it, holds a place
)
STATE_LOCK_TIMEOUT_S: Final = 5
EVIDENCE_PER_LOG_MAX: Final = 100  # of each kind; nobody may fill the disk with it
CONNECTIONS_MAX: Final = 500
KEEP_ALIVE_S: Final = 15
TEXT: Final = "text/plain; charset=utf-8"

_STATE: Final = (
    # Whose state this is: under another key it would say that what was never cosigned was.
    "CREATE TABLE witness (vkey TEXT PRIMARY KEY) STRICT",
    """CREATE TABLE cosigned (
        origin TEXT PRIMARY KEY,
        origin_hash TEXT NOT NULL UNIQUE,
        size INTEGER NOT NULL,
        root BLOB NOT NULL,
        note BLOB NOT NULL
    ) STRICT""",
    """CREATE TRIGGER no_tree_shrinks BEFORE UPDATE ON cosigned
        WHEN NEW.size < OLD.size OR (NEW.size = OLD.size AND NEW.root IS NOT OLD.root)
        BEGIN SELECT raise(ABORT, 'a witness goes forward only'); END""",
    """CREATE TABLE evidence (
        id INTEGER PRIMARY KEY,
        origin TEXT NOT NULL,
        kind TEXT NOT NULL,
        cosigned BLOB NOT NULL,
        offered BLOB NOT NULL,
        vkeys TEXT NOT NULL,
        seen_at_s INTEGER NOT NULL,
        UNIQUE (cosigned, offered)
    ) STRICT""",
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request is answered with."""

    status: int
    body: bytes
    content_type: str = TEXT


@dataclass(frozen=True, slots=True)
class Evidence:
    """Two checkpoints that a log signed and that the witness could not bring together.

    `cosigned` is what this witness had seen, `offered` what it refused; both with the signatures of
    the log's keys `vkeys`. The kind says what they amount to:

    - `fork`: one size, two roots. The two notes prove by themselves that the log shows two trees.
    - `rollback`: a smaller tree than before. Either the log lost its end, or somebody sent an old
      checkpoint again; a proof of consistency, which the log must be able to give, tells which.
    - `unproven`: a larger tree, with a proof that does not verify. As for a rollback, the log must
      be able to give one that does.
    """

    id: int
    origin: str
    kind: str
    cosigned: bytes
    offered: bytes
    seen_at_s: int
    vkeys: tuple[str, ...]


# --- its folder -----------------------------------------------------------------------------------


def make_witness(folder: Path, name: str) -> VerifierKey:
    """Make the key and the empty state of a new witness; return its public key.

    Raises ``InvalidValue`` where there is a witness already, or for an impossible name.
    """
    for path in (folder / KEY_FILE, folder / STATE_FILE):
        if path.exists():
            raise InvalidValue(f"{path} exists already: {folder} holds a witness")
    try:
        signer = Signer(name, secrets.token_bytes(SEED_BYTES), KeyType.COSIGNATURE)
    except LogFormatError as error:
        raise InvalidValue(f"{name!r} cannot be the name of a witness: {error}") from None
    vkey = format_vkey(signer.verifier_key)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / STATE_FILE).touch(mode=0o600, exist_ok=False)
        with closing(_connect(folder / STATE_FILE)) as state, write_transaction(state) as c:
            for statement in _STATE:
                c.execute(statement)
            c.execute("INSERT INTO witness (vkey) VALUES (?)", (vkey,))
        # Last: a key without its state would be refused, a state without its key does no harm.
        line = format_signer(signer) + "\n"
        put_file(folder / KEY_FILE, line.encode(), OWNER_ONLY)
    except OSError as error:
        raise Unavailable(f"{folder} cannot be written: {error.strerror}") from None
    return signer.verifier_key


def _read_key(path: Path) -> Signer:
    raw = read_secret(
        path, "the witness's key file", when_missing="run compliance-ledger witness init"
    )
    try:
        signer = parse_signer(raw.decode().removesuffix("\n"))
    except (LogFormatError, UnicodeDecodeError):
        raise InvalidValue(f"{path} holds no signer key") from None
    if signer.type is not KeyType.COSIGNATURE:
        raise InvalidValue(f"{path} holds a key that makes no cosignatures")
    return signer


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",  # a lost state is never made anew by opening it
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=STATE_LOCK_TIMEOUT_S,
    )
    # One file, with no log of writes beside it that could be lost alone; and a commit is on disk,
    # with the end of its journal, before it is answered.
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute("PRAGMA synchronous = EXTRA")
    return connection


def _open_state(folder: Path) -> sqlite3.Connection:
    """Open the state of a witness. Raises ``InvalidValue`` when it is lost or another's."""
    path = folder / STATE_FILE
    if not path.exists():
        raise InvalidValue(
            f"{path} does not exist: what this witness cosigned is not known, and under its key "
            "it could be made to cosign a fork; begin anew in another folder, with another key"
        )
    try:
        connection = _connect(path)
        vkeys = connection.execute("SELECT vkey FROM witness").fetchall()
    except sqlite3.DatabaseError as error:
        raise Unavailable(f"{path} cannot be read: {error}") from None
    vkey = format_vkey(_read_key(folder / KEY_FILE).verifier_key)
    if vkeys != [(vkey,)]:
        connection.close()
        raise InvalidValue(f"{path} is not the state of the key in {folder / KEY_FILE}")
    return connection


# --- what it watches ------------------------------------------------------------------------------


def read_logs(policy: Path | None, named: Sequence[str]) -> tuple[LogKey, ...]:
    """Return the keys of the logs to watch: those of a policy file, and those named one by one.

    Each named one is ``VKEY`` or ``FIRST LAST VKEY``, the sizes that this key may sign, with ``-``
    for no last one. Raises ``InvalidValue``.
    """
    keys = []
    if policy is not None:
        try:
            keys += [LogKey(each.key) for each in parse_policy_file(policy.read_bytes()).logs]
        except OSError as error:
            raise InvalidValue(f"{policy} cannot be read: {error.strerror}") from None
        except LogFormatError as error:
            raise InvalidValue(f"{policy} is no policy: {error}") from None
    for text in named:
        try:
            keys.append(_parse_log(text))
        except LogFormatError as error:
            raise InvalidValue(f"--log {text!r} names no log: {error}") from None
    if not keys:
        raise InvalidValue("a witness watches at least one log; name it with --log or --policy")
    return tuple(keys)


def _parse_log(text: str) -> LogKey:
    match text.split(" "):
        case [vkey]:
            return LogKey(parse_vkey(vkey))
        case [first, last, vkey]:
            last_size = None if last == "-" else parse_size(last)
            return LogKey(parse_vkey(vkey), parse_size(first), last_size)
    raise LogFormatError("it is written VKEY, or FIRST LAST VKEY")


# --- what it does ---------------------------------------------------------------------------------


class Witness:
    """A witness with its state open. Threads and processes may share the folder."""

    def __init__(
        self, folder: Path, log_keys: Sequence[LogKey], *, now_s: Callable[[], int]
    ) -> None:
        self._state = _open_state(folder)
        self._signer = _read_key(folder / KEY_FILE)
        self._log_keys = log_keys
        self._now_s = now_s
        self._turn = threading.Lock()

    @property
    def vkey(self) -> str:
        """The public key under which it cosigns."""
        return format_vkey(self._signer.verifier_key)

    def close(self) -> None:
        """Let go of the state."""
        with self._turn:
            self._state.close()

    def add_checkpoint(self, body: bytes) -> Answer:
        """Decide on a request, and keep what it led to before it is answered."""
        try:
            request = parse_add_checkpoint(body)
        except LogFormatError as error:
            return Answer(BAD_REQUEST, f"{error}\n".encode())
        try:
            # One transaction under the write lock: two requests at once cannot both be the next.
            with self._turn, write_transaction(self._state) as c:
                return self._decide(c, request)
        except sqlite3.OperationalError as error:
            log.exception("the state cannot be written; nothing was cosigned")
            return Answer(503, f"the state cannot be written: {error}\n".encode())

    def _decide(self, c: sqlite3.Connection, request: AddCheckpoint) -> Answer:
        offered = request.checkpoint
        row = c.execute(
            "SELECT size, root, note FROM cosigned WHERE origin = ?", (offered.origin,)
        ).fetchone()
        decision = decide(request, self._log_keys, WitnessState(*row[:2]) if row else None)
        if isinstance(decision, Accepted):
            return self._cosign(c, request, decision.state)
        if decision.status in (STALE, UNPROVEN) and row is not None:
            self._keep_evidence(c, request, parse_note(row[2]), status=decision.status)
        if decision.latest_size is not None:
            return Answer(
                decision.status, format_latest_size(decision.latest_size), SIZE_CONTENT_TYPE
            )
        return Answer(decision.status, f"{decision.reason}\n".encode())

    def _cosign(self, c: sqlite3.Connection, request: AddCheckpoint, state: WitnessState) -> Answer:
        origin, text = request.checkpoint.origin, request.note.text
        cosignature = cosign(text, self._signer, self._now_s())
        note = Note(text, (*self._signed_by_log(request.note, origin), cosignature))
        c.execute(
            "INSERT INTO cosigned (origin, origin_hash, size, root, note) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (origin) DO UPDATE SET "
            "size = excluded.size, root = excluded.root, note = excluded.note",
            (origin, origin_hash(origin), state.size, state.root, format_note(note)),
        )
        return Answer(200, format_signatures([cosignature]).encode())

    def _keep_evidence(
        self, c: sqlite3.Connection, request: AddCheckpoint, kept: Note, *, status: int
    ) -> None:
        """Keep a signed checkpoint that was refused, together with the one that it may contradict.

        Both are signed by the log: `decide` looks at signatures before sizes and proofs.
        """
        cosigned, offered = parse_checkpoint(kept.text), request.checkpoint
        kind = _kind_of(cosigned, offered, status)
        if kind is None:
            return
        origin = offered.origin
        found = c.execute(
            "SELECT count(*) FROM evidence WHERE origin = ? AND kind = ?", (origin, kind)
        ).fetchone()[0]
        if found >= EVIDENCE_PER_LOG_MAX:
            return
        keys = [each.key for each in self._log_keys if each.key.name == origin]
        c.execute(
            "INSERT OR IGNORE INTO evidence (origin, kind, cosigned, offered, vkeys, seen_at_s) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (
                origin,
                kind,
                format_note(kept),
                format_note(Note(request.note.text, self._signed_by_log(request.note, origin))),
                " ".join(dict.fromkeys(format_vkey(key) for key in keys)),
                self._now_s(),
            ),
        )
        log.log(
            logging.ERROR if kind == "fork" else logging.WARNING,
            "refused a checkpoint of %s: %s of size %d, after size %d was cosigned",
            *(origin, kind, offered.size, cosigned.size),
        )

    def _signed_by_log(self, note: Note, origin: str) -> tuple[Signature, ...]:
        """Return the log's own signatures; lines of others would only be carried along."""
        keys = [each.key for each in self._log_keys if each.key.name == origin]
        return tuple(each.signature for each in verify_note(note, keys))

    def checkpoint(self, hashed_origin: str) -> bytes | None:
        """Return the newest checkpoint that was cosigned of a log, None if there is none."""
        with self._turn:
            row = self._state.execute(
                "SELECT note FROM cosigned WHERE origin_hash = ?", (hashed_origin,)
            ).fetchone()
        return row and bytes(row[0])


def _kind_of(cosigned: Checkpoint, offered: Checkpoint, status: int) -> str | None:
    """Name what a refused checkpoint may be evidence of; None when it is everyday business.

    That is a larger one, or the same once more, sent with an old size that is not the latest.
    """
    if offered.size < cosigned.size:
        return "rollback"
    if offered.size == cosigned.size and offered.root != cosigned.root:
        return "fork"
    return "unproven" if status == UNPROVEN else None


def evidence(folder: Path) -> list[Evidence]:
    """Return what a witness kept, oldest first; each checked anew, as anybody can check it."""
    with closing(_open_state(folder)) as state:
        rows = state.execute(
            "SELECT id, origin, kind, cosigned, offered, seen_at_s, vkeys FROM evidence ORDER BY id"
        ).fetchall()
    found = [
        Evidence(id_, origin, kind, cosigned, offered, seen_at_s, tuple(vkeys.split(" ")))
        for id_, origin, kind, cosigned, offered, seen_at_s, vkeys in rows
    ]
    for each in found:
        _check_evidence(each)
    return found


def _check_evidence(each: Evidence) -> None:
    """Check that both notes are signed by a key of the log, and are what their kind says."""
    try:
        cosigned, offered = (
            _check_signed(note, [parse_vkey(vkey) for vkey in each.vkeys])
            for note in (each.cosigned, each.offered)
        )
    except LogError as error:
        raise Unavailable(f"evidence {each.id} was damaged: {error}") from None
    if _kind_of(cosigned, offered, UNPROVEN) != each.kind:
        raise Unavailable(f"evidence {each.id} was damaged: it shows no {each.kind}")


def _check_signed(data: bytes, keys: Sequence[VerifierKey]) -> Checkpoint:
    note = parse_note(data)
    checkpoint = parse_checkpoint(note.text)
    check_log_signed(checkpoint, verify_note(note, keys), [LogKey(key) for key in keys])
    return checkpoint


# --- over HTTP ------------------------------------------------------------------------------------


def create_witness_app(witness: Witness) -> Starlette:
    """Return the ASGI application of a witness: the two routes of the standard, and /livez."""

    async def add_checkpoint(request: Request) -> Response:
        try:
            async with asyncio.timeout(BODY_WITHIN_S):
                body = await _read_body(request)
        except TimeoutError:
            return PlainTextResponse("the body took too long\n", 408)
        except ClientDisconnect:
            return Response(status_code=BAD_REQUEST)  # nobody reads it
        if body is None:
            return PlainTextResponse(f"a request has at most {MAX_REQUEST_BYTES} bytes\n", 413)
        answer = await run_in_threadpool(witness.add_checkpoint, body)
        # Set as a header: a media type of text would get a charset, and the standard has none.
        headers = {"content-type": answer.content_type}
        return Response(answer.body, answer.status, headers=headers)

    async def checkpoint(request: Request) -> Response:
        found = await run_in_threadpool(witness.checkpoint, request.path_params["origin_hash"])
        if found is None:
            return PlainTextResponse("nothing of this log was cosigned here\n", 404)
        return Response(found, headers={"content-type": TEXT, "cache-control": "public, max-age=1"})

    async def livez(_: Request) -> Response:
        return PlainTextResponse("alive\n")

    return Starlette(
        routes=[
            Route("/add-checkpoint", add_checkpoint, methods=["POST"]),
            Route("/livez", livez),
            Route("/{origin_hash}/checkpoint", checkpoint),
        ]
    )


async def _read_body(request: Request) -> bytes | None:
    """Return the body, None for one that is too large; no more than the limit is ever held."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > MAX_REQUEST_BYTES:
        return None
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_REQUEST_BYTES:
            return None
    return bytes(body)
