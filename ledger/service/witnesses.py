"""Who else has seen our checkpoints? Offers each to the witnesses, and publishes what they saw.

Trust: a witness is believed what its key signs and nothing else. A wrong, late, huge or missing
answer costs nothing but that witness's cosignature: writes go on, and so do the other witnesses.

What is published is the newest checkpoint whose quorum is met. While a quorum is not met, that
stays the last one that met it. So that witnesses come together on one checkpoint, however often the
log signs, all are offered the same one until its quorum is met or ``ROUND_S`` are over.

Several processes may offer at once: a witness takes one at a time, and what it cosigned is read
from the database before each offer.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Literal, TypeVar
from urllib.parse import urlsplit

import httpx
from eventsourcing.persistence import Cursor

from ledger.domain.errors import InvalidValue
from ledger.store.recorder import Store
from ledger.tlog.log import LogRows
from ledger.tlog.merkle import LogError, LogFormatError, ProofInvalid, consistency_proof
from ledger.tlog.note import format_signatures, parse_note, verify_note
from ledger.tlog.policy_file import PolicyFile, PolicyWitness, parse_policy_file
from ledger.tlog.witness_protocol import (
    SIZE_CONTENT_TYPE,
    STALE,
    UNPROVEN,
    AddCheckpoint,
    format_add_checkpoint,
    parse_cosignatures,
    parse_latest_size,
)

WITNESSES_MAX: Final = 32  # as many as every reader of a policy should take
ANSWER_WITHIN_S: Final = 10  # the whole exchange; a witness has one signature to check and to make
ANSWER_BYTES_MAX: Final = 64 * 1024  # room for many signature lines
ATTEMPTS_MAX: Final = 3  # offers in a row to a witness that answers each with another latest size
ROUND_S: Final = 5  # how long all wait for the witnesses that a quorum still lacks
LOOK_INTERVAL_S: Final = 1.0  # between two looks for checkpoints that other processes signed
BACKOFF_MIN_S: Final = 1.0  # after the first failure; doubled with each that follows
BACKOFF_MAX_S: Final = 60.0
LOOK_BACK: Final = 16  # cosigned sizes looked at for a quorum; older ones get no more cosignatures

State = Literal["waiting", "cosigning", "failing", "refusing", "ahead"]
T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """How one witness stands: what it cosigned last, and what is wrong if anything is.

    `waiting`: nothing was offered yet. `cosigning`: the last offer was cosigned. `failing`: it
    cannot be reached, or its answer is none. `refusing`: it answers and does not cosign. `ahead`:
    it says that it has seen a larger tree of this log than this log has.
    """

    name: str
    state: State
    detail: str | None
    cosigned_size: int
    behind: int


def read_witness_policy(path: Path) -> PolicyFile:
    """Read the policy that names our witnesses and their quorum. Raises ``InvalidValue``."""
    try:
        policy = parse_policy_file(path.read_bytes())
    except OSError as error:
        raise InvalidValue(f"{path} cannot be read: {error.strerror}") from None
    except LogFormatError as error:
        raise InvalidValue(f"{path} is no witness policy: {error}") from None
    if len(policy.witnesses) > WITNESSES_MAX:
        raise InvalidValue(f"{path} names more than {WITNESSES_MAX} witnesses")
    if len({each.key.name for each in policy.witnesses}) != len(policy.witnesses):
        raise InvalidValue(f"{path} names two witnesses whose keys have one name")
    for witness in policy.witnesses:
        url = urlsplit(witness.url or "")
        if url.scheme not in ("http", "https") or not url.netloc:
            raise InvalidValue(
                f"{path} gives the witness {witness.name} no http or https URL, so nothing can be "
                "offered to it"
            )
    return policy


# --- what is published ----------------------------------------------------------------------------


class Publication:
    """Answers which checkpoint others may see: the newest whose quorum is met."""

    def __init__(self, policy: PolicyFile, rows: LogRows) -> None:
        self._policy = policy
        self._rows = rows
        self._keys = [witness.key for witness in policy.witnesses]
        self._size = 0
        self._looked_back = False

    def newest(self, c: Cursor) -> tuple[int, bytes | None]:
        """Return its size and its note with the cosignatures; 0 and None while there is none."""
        if self._policy.quorum is None:
            self._size = self._rows.newest_size(c)
        else:
            # The first look goes back to the last quorum there was, however long ago that is.
            limit = LOOK_BACK if self._looked_back else -1
            for size in self._rows.cosigned_sizes(c, after=self._size, limit=limit):
                if self.is_met_at(c, size):
                    self._size = size
                    break
            self._looked_back = True
        return self._size, self._rows.checkpoint_at(c, self._size)

    def is_met_at(self, c: Cursor, size: int) -> bool:
        """Tell whether the checkpoint of a size has the cosignatures that the quorum asks for."""
        note = self._rows.checkpoint_at(c, size)
        if note is None or not self._keys:
            return note is not None and self._policy.is_met_by(())
        try:
            verified = verify_note(parse_note(note), self._keys)
        except LogError:
            # None is by these witnesses; or a row was edited, and what it says counts for nothing.
            return self._policy.is_met_by(())
        return self._policy.is_met_by(each.key for each in verified)


# --- offering -------------------------------------------------------------------------------------


class _Failed(Exception):
    """An offer that led to no cosignature: how the witness stands now, and why."""

    def __init__(self, state: State, detail: str) -> None:
        super().__init__(detail)
        self.state: State = state
        self.detail = detail


@dataclass(slots=True)
class _Watched:
    """A witness, and what this process knows of it. Only the offering thread changes it."""

    witness: PolicyWitness
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    state: State = "waiting"
    detail: str | None = None
    failures: int = 0
    latest_size: int | None = None  # that it told; None: what the database says holds


class Witnesses:
    """Offers checkpoints in a thread of its own; in it, each witness has a task of its own."""

    def __init__(self, policy: PolicyFile, store: Store, rows: LogRows) -> None:
        self.publication = Publication(policy, rows)
        self._policy = policy
        self._store = store
        self._rows = rows
        self._watched = [_Watched(witness) for witness in policy.witnesses]
        self._target, self._round_began_s = 0, 0.0
        # One thread for the database: a wait for its write lock must not look like a late answer.
        self._database = ThreadPoolExecutor(1, "witness-rows")
        self._thread = threading.Thread(target=self._run, name="witnesses", daemon=True)
        self._running = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to offer, if there is anybody to offer to."""
        if self._watched:
            self._thread.start()
            self._running.wait()

    def stop(self) -> None:
        """Stop at once; an offer that is under way is made again at the next start."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._cancel)
            self._thread.join()
            self._loop = None
        self._database.shutdown()

    def offer(self, _size: int) -> None:
        """Tell that a checkpoint was signed; called from any thread, and returns at once."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake_all)

    def standings(self, c: Cursor) -> list[Standing]:
        """Say how each witness stands, in the order of the policy."""
        newest = self._rows.newest_size(c)
        found = []
        for each in self._watched:
            size = self._rows.cosigned_size(c, each.witness.key.name)
            found.append(
                Standing(each.witness.name, each.state, each.detail, size, max(0, newest - size))
            )
        return found

    def _run(self) -> None:
        asyncio.run(self._watch_all())

    def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _wake_all(self) -> None:
        for each in self._watched:
            each.wake.set()

    async def _watch_all(self) -> None:
        async with httpx.AsyncClient(
            follow_redirects=False,
            timeout=ANSWER_WITHIN_S,
            # What a few bytes could unpack to is not bounded by the limit on what is read.
            headers={"Accept-Encoding": "identity"},
        ) as http:
            self._tasks = [asyncio.create_task(self._watch(http, each)) for each in self._watched]
            self._loop = asyncio.get_running_loop()
            self._running.set()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _watch(self, http: httpx.AsyncClient, each: _Watched) -> None:
        """Offer to one witness whatever it has not cosigned, for ever."""
        while True:
            each.wake.clear()
            try:
                cosigned = await self._offer_what_it_lacks(http, each)
            except _Failed as error:
                self._note_failure(each, error)
            except Exception:
                # Our own fault, or the database's: the witness cannot mend it, the next try may.
                log.exception("offering to the witness %s failed", each.witness.name)
                each.failures += 1
            else:
                each.failures = 0
                if cosigned:
                    if each.detail is not None:
                        log.warning("the witness %s cosigns again", each.witness.name)
                    each.state, each.detail = "cosigning", None
            await self._pause(each)

    async def _pause(self, each: _Watched) -> None:
        """Wait for a new checkpoint; after failures wait anyway, longer each time."""
        if each.failures:
            delay = BACKOFF_MIN_S * 2 ** min(each.failures - 1, 10)
            await asyncio.sleep(min(delay, BACKOFF_MAX_S))
            return
        try:
            async with asyncio.timeout(LOOK_INTERVAL_S):
                await each.wake.wait()
        except TimeoutError:
            pass

    def _note_failure(self, each: _Watched, error: _Failed) -> None:
        each.failures += 1
        if each.detail != error.detail:
            grave = error.state in ("ahead", "refusing")
            log.log(
                logging.ERROR if grave else logging.WARNING,
                "the witness %s: %s",
                each.witness.name,
                error.detail,
            )
        each.state, each.detail = error.state, error.detail

    async def _offer_what_it_lacks(self, http: httpx.AsyncClient, each: _Watched) -> int:
        """Offer the checkpoint of this round, unless it is cosigned; return what size then is."""
        size, cosigned = await self._in_database(lambda c: self._next_for(c, each))
        if size <= cosigned:
            return cosigned
        old = cosigned if each.latest_size is None else each.latest_size
        for _ in range(ATTEMPTS_MAX):
            request = await self._in_database(partial(self._request, old=old, size=size))
            status, content_type, answer = await self._post(http, each.witness, request)
            if status == httpx.codes.OK:
                await self._keep(each, request, answer)
                return size
            if status != STALE:
                raise _refused(status)
            latest = _latest_size(content_type, answer)
            newest = await self._in_database(self._rows.newest_size)
            if latest > newest:
                raise _Failed(
                    "ahead",
                    f"it says it has cosigned {latest} events of this log, which has signed "
                    f"{newest}: this ledger lost events, or another one signs with its key",
                )
            if latest == old:
                raise _Failed(
                    "refusing", f"it refuses to go on from {old}, which it says is its latest"
                )
            each.latest_size = old = latest
            if latest > size:
                size = newest
        raise _Failed("failing", "it names another latest size with every answer")

    def _next_for(self, c: Cursor, each: _Watched) -> tuple[int, int]:
        """Return the size that this round offers, and what this witness has cosigned."""
        newest, now = self._rows.newest_size(c), time.monotonic()
        if newest > self._target and (
            now - self._round_began_s >= ROUND_S
            or not self._target
            or self.publication.is_met_at(c, self._target)
        ):
            self._target, self._round_began_s = newest, now
        return self._target, self._rows.cosigned_size(c, each.witness.key.name)

    def _request(self, c: Cursor, *, old: int, size: int) -> AddCheckpoint:
        note = self._rows.checkpoint_at(c, size)
        assert note is not None, f"no checkpoint of size {size} is kept"
        proof = consistency_proof(old, size, self._rows.hash_reader(c, size))
        return AddCheckpoint(old, proof, parse_note(note))

    async def _post(
        self, http: httpx.AsyncClient, witness: PolicyWitness, request: AddCheckpoint
    ) -> tuple[int, str, bytes]:
        """Send a request; return status, content type and body of the answer, whatever it is."""
        assert witness.url is not None
        url = witness.url.rstrip("/") + "/add-checkpoint"
        body, answer = format_add_checkpoint(request), bytearray()
        headers = {"Content-Type": "text/plain; charset=utf-8"}
        try:
            async with (
                asyncio.timeout(ANSWER_WITHIN_S),
                http.stream("POST", url, content=body, headers=headers) as response,
            ):
                async for chunk in response.aiter_raw():
                    answer += chunk
                    if len(answer) > ANSWER_BYTES_MAX:
                        raise _Failed("failing", f"it answers with over {ANSWER_BYTES_MAX} bytes")
                content_type = response.headers.get("content-type", "")
                return response.status_code, content_type, bytes(answer)
        except (TimeoutError, httpx.TimeoutException):
            raise _Failed("failing", f"it does not answer within {ANSWER_WITHIN_S} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            log.info("the witness %s: %r", witness.name, error)
            raise _Failed("failing", "it cannot be reached") from None

    async def _keep(self, each: _Watched, request: AddCheckpoint, answer: bytes) -> None:
        """Verify the cosignature in an answer, and add it to the checkpoint."""
        key = each.witness.key
        try:
            verified = parse_cosignatures(answer, request.note.text, [key])
        except LogFormatError:
            raise _Failed("failing", "it answers with something that is no cosignature") from None
        except ProofInvalid:
            raise _Failed(
                "failing", "it answers with a cosignature that its key did not make of this"
            ) from None
        newest = max(verified, key=lambda one: one.signed_at_s or 0)
        line = format_signatures([newest.signature]).removesuffix("\n")
        size = request.checkpoint.size

        def keep() -> None:
            with self._store.transaction(commit=True) as c:
                self._rows.add_cosignature(c, size, key.name, line)

        await asyncio.get_running_loop().run_in_executor(self._database, keep)
        each.latest_size = None
        # It may have met the quorum, and then the next round begins, for those that wait as well.
        self._wake_all()

    async def _in_database(self, read: Callable[[Cursor], T]) -> T:
        def run() -> T:
            with self._store.transaction(commit=False) as c:
                return read(c)

        return await asyncio.get_running_loop().run_in_executor(self._database, run)


def _refused(status: int) -> _Failed:
    if status == UNPROVEN:
        return _Failed(
            "refusing",
            "it refuses the proof (422): it has cosigned another tree of this log",
        )
    state: State = "refusing" if status in (400, 403, 404) else "failing"
    what = {
        400: ": it cannot read the request",
        403: ": it does not know the key that signed",
        404: ": it does not watch this log",
    }.get(status, "")
    return _Failed(state, f"it answers {status}{what}")


def _latest_size(content_type: str, answer: bytes) -> int:
    without = _Failed("failing", "it answers 409 without a size")
    if content_type.partition(";")[0].strip() != SIZE_CONTENT_TYPE:
        raise without
    try:
        return parse_latest_size(answer)
    except LogFormatError:
        raise without from None
