"""Does the log still hold everything that it committed to, and what does it commit to now?

Trust: a checkpoint that was signed, found in the database or in the file beside it (the anchor),
binds. Nothing is signed that does not continue it, and only events whose leaves were computed again
from the stored rows are signed at all. When something does not fit, the log is in doubt: nothing is
signed any more and nothing recorded, until a person has looked; checks go on answering, marked.

How two processes never sign two trees: a checkpoint is signed under the write lock, after looking
once more for the newest one. It is in the anchor before it is in the database, and there before
anybody is shown it; after a crash between the two, the anchor's is taken into the database.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from eventsourcing.persistence import Cursor

from ledger.application import Ledger
from ledger.domain.errors import InvalidValue, LogNotVerified, TamperDetected
from ledger.domain.events import LedgerRecovered, Recorded
from ledger.domain.values import format_instant
from ledger.service import keyfile
from ledger.store.recorder import READ_BATCH
from ledger.store.secret_file import put_file
from ledger.tlog.checkpoint import (
    Checkpoint,
    LogKey,
    check_log_signed,
    format_checkpoint,
    parse_checkpoint,
)
from ledger.tlog.leaf import hash_of
from ledger.tlog.log import LogRows
from ledger.tlog.merkle import EMPTY_ROOT, Frontier, LogError, frontier_at, root, root_at
from ledger.tlog.note import Note, format_note, format_vkey, parse_note, sign, verify_note
from ledger.tlog.note import Signer as Key
from ledger.tlog.tiles import TILE_HEIGHT, TILE_WIDTH

SIGN_INTERVAL_S: Final = 1.0  # between two checkpoints: how long an event waits for its proof
LOOK_INTERVAL_S: Final = 0.05  # between two looks for commits; one PRAGMA costs some microseconds
SIGNED_TOGETHER_MAX: Final = 10_000  # events that one checkpoint adds: a tenth of a second of work
START_EVENTS_MAX: Final = 100_000  # unsigned events recomputed before the start: about a second
CHECK_PAUSE_S: Final = 0.005  # after every 256 events of the full check: requests come first
AUDIT_INTERVAL_S: Final = 30.0  # between two full checks: an edit is found within a minute
AUDIT_REST: Final = 20  # times as long as a full check took, if that is longer: 5 % of a core
CHECKPOINT_MODE: Final = 0o644  # anybody may read what was signed

State = Literal["checking", "verified", "doubted"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one look found.

    ``signed`` is the newest checkpoint, and ``stored`` the size of the newest in the database;
    ``anchored`` is the size of the one in the file. ``tree`` is what may be signed next.
    """

    signed: Checkpoint
    stored: int
    anchored: int
    tree: Frontier


class Signer:
    """Signs checkpoints of what it has verified; a thread does, and another verifies it all."""

    def __init__(
        self,
        ledger: Ledger,
        rows: LogRows,
        *,
        key_file: Path,
        anchor: Path,
        clock: Callable[[], datetime],
    ) -> None:
        self._ledger = ledger
        self._recorder = ledger.recorder
        self._store = ledger.recorder.store
        self._rows = rows
        self._key_file = key_file
        self._anchor = anchor
        self._clock = clock
        self._stop = threading.Event()
        self._news = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._trusted: Frontier | None = None  # the tree of the newest checkpoint that was seen
        self._known_keys: dict[str, Key] = {}
        self.state: State = "checking"
        self.doubt: str | None = None
        self.published: tuple[int, bytes | None] = (0, None)
        """Size and note of the checkpoint that others may see, with the cosignatures it has."""
        self.to_publish: Callable[[Cursor], tuple[int, bytes | None]] = self._newest_signed
        """Chooses it; the newest, unless witnesses must have seen it first."""
        self.on_checkpoint: list[Callable[[int], None]] = []
        """Called, in the signing thread, with the size of each checkpoint that this process signed,

        and at its start with that of the newest."""
        self.on_doubt: list[Callable[[], None]] = []
        """Called once, in whichever thread, when the log is in doubt."""

    # --- the threads ------------------------------------------------------------------------------

    def start(self, *, audits: bool = True) -> None:
        """Check what was signed against the database; then sign, and check everything.

        Not ``audits``: checking everything is left to other processes.
        """
        self.check()
        with self._doubting():
            self._key_of(self._ledger.log_keys(), self._recorder.position)
        if self.doubt is not None:
            return
        threads = [("signer", self._sign_until_stopped)]
        if audits:
            threads.append(("log-check", self._check_all))
        for name, run in threads:
            thread = threading.Thread(target=run, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Sign what is not signed yet, then stop."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def check(self) -> None:
        """Check the newest checkpoint against the database, and the events since, as many as fit

        in a short time. What does not fit puts the log in doubt.
        """
        with self._doubting():
            self._look(START_EVENTS_MAX)

    def require_verified(self) -> None:
        """Raise ``LogNotVerified`` when the log is in doubt."""
        if self.doubt is not None:
            raise LogNotVerified(self.doubt)

    @property
    def checkpoint(self) -> bytes | None:
        """The newest checkpoint, with the cosignatures that it has; ``None`` before the first."""
        return self.published[1]

    def wait_for(self, size: int, timeout_s: float) -> bool:
        """Tell whether a checkpoint of this size or a larger one was published in time."""
        with self._news:
            return self._news.wait_for(lambda: self.published[0] >= size, timeout_s)

    def _sign_until_stopped(self) -> None:
        seen, stopping, first = -1, False, True
        while self.doubt is None and not stopping:
            stopping = self._stop.wait(LOOK_INTERVAL_S)
            try:
                version = self._store.data_version()
                if version == seen and not stopping:
                    continue
                more = False
                with self._doubting():
                    more = self._round(first=first)
                first, seen = False, version
                if more:
                    seen = -1
                    continue
            except Exception:
                # The disk is full, say. Nothing was signed; what was recorded stays recorded.
                log.exception("signing failed; it is tried again")
            self._stop.wait(SIGN_INTERVAL_S)

    @contextmanager
    def _doubting(self) -> Iterator[None]:
        """Turn what does not fit into doubt; let faults of the machine through."""
        try:
            yield
        except (LogNotVerified, InvalidValue, TamperDetected, LogError) as error:
            self.mark_doubted(str(error))

    def mark_doubted(self, doubt: str) -> None:
        """Record nothing from now on, sign nothing, and say why; the first doubt stays."""
        if self.doubt is None:
            self.doubt = doubt
            self.state = "doubted"
            log.error("the log is not verified, so nothing is recorded: %s", doubt)
            for call in self.on_doubt:
                call()

    # --- signing ----------------------------------------------------------------------------------

    def _round(self, *, first: bool = False) -> bool:
        """Sign what may be signed, and publish; return whether more is waiting.

        Raises ``LogNotVerified`` and others when something does not fit.
        """
        seen = self._look(SIGNED_TOGETHER_MAX)
        size = max(seen.signed.size, seen.tree.size)
        signed = False
        behind = size > seen.stored or seen.anchored != seen.signed.size
        if behind and self._store.leads():
            signed = self._sign(seen)
        with self._store.transaction(commit=False) as c:
            newest, head = self._rows.newest_size(c), self._head(c)
            published = self.to_publish(c)
        with self._news:
            self.published = published
            self._news.notify_all()
        if newest and (signed or first):
            for call in self.on_checkpoint:
                try:
                    call(newest)
                except Exception:
                    log.exception("telling of checkpoint %d failed", newest)
        return head > newest

    def _newest_signed(self, c: Cursor) -> tuple[int, bytes | None]:
        size = self._rows.newest_size(c)
        return size, self._rows.checkpoint_at(c, size)

    def _sign(self, seen: _Seen) -> bool:
        """Sign a tree, unless another process was quicker; return whether it was signed."""
        self.require_verified()
        with self._store.transaction(commit=True) as c:
            anchor = self._read_anchor()
            newest, stored, anchored = self._newest(c, anchor)
            if newest != seen.signed:
                return False  # another process was quicker; the next look follows it
            now = format_instant(self._clock())
            if stored < newest.size:
                assert anchor is not None
                self._rows.add_checkpoint(c, newest.size, anchor, now)
            if seen.tree.size > newest.size:
                note = self._note_of(seen.tree)
                put_file(self._anchor, note, CHECKPOINT_MODE)
                self._rows.add_checkpoint(c, seen.tree.size, note, now)
            elif anchored != newest.size:
                note = self._rows.checkpoint_at(c, newest.size) or b""
                put_file(self._anchor, note, CHECKPOINT_MODE)
        self._trusted = seen.tree
        return seen.tree.size > newest.size

    def _note_of(self, tree: Frontier) -> bytes:
        key = self._key_of(self._ledger.log_keys(), tree.size)
        text = format_checkpoint(Checkpoint(key.name, tree.size, tree.root()))
        return format_note(Note(text, (sign(text, key),)))

    def _key_of(self, keys: Sequence[LogKey], size: int) -> Key:
        """Return the private half of the key that the log names for a size."""
        named = next((format_vkey(each.key) for each in keys if each.covers(size)), "none")
        if named not in self._known_keys:
            self._known_keys = {
                format_vkey(key.verifier_key): key for key in keyfile.read(self._key_file)
            }
        if named not in self._known_keys:
            raise InvalidValue(
                f"the log's key file {self._key_file} does not hold the key {named}, which the log "
                "names; put it back, or make a new key with compliance-ledger keys rotate-log"
            )
        return self._known_keys[named]

    # --- looking ----------------------------------------------------------------------------------

    def _look(self, events_max: int) -> _Seen:
        """Check that the database continues the newest checkpoint, and recompute what came since.

        The anchor is read first: what it commits to was committed before, so a snapshot that is
        taken afterwards has it.
        """
        anchor = self._read_anchor()
        with self._store.transaction(commit=False) as c:
            signed, stored, anchored = self._newest(c, anchor)
            tree = self._follow(c, signed)
            self._trusted = tree
            until = min(self._head(c), signed.size + events_max)
            return _Seen(signed, stored, anchored, self._recompute(c, tree, until))

    def _follow(self, c: Cursor, signed: Checkpoint) -> Frontier:
        """Return the tree of a checkpoint after checking that it is ours."""
        if self._trusted is None:
            tree = frontier_at(signed.size, self._rows.hash_reader(c, signed.size))
        elif signed.size < self._trusted.size:
            raise _doubt(
                f"a checkpoint of {self._trusted.size} events was signed, and the newest that is "
                f"left has {signed.size}"
            )
        else:
            tree = self._recompute(c, self._trusted, signed.size)
        if tree.root() != signed.root:
            raise _doubt(
                f"the first {signed.size} events are not those that were signed: the root of the "
                "checkpoint is another"
            )
        return tree

    def _newest(self, c: Cursor, anchor: bytes | None) -> tuple[Checkpoint, int, int]:
        """Return the newest checkpoint, and the sizes of those in the database and the anchor.

        An anchor that a recovery gave up counts as none.
        """
        keys, head = self._ledger.log_keys(), self._head(c)
        newest = Checkpoint("", 0, EMPTY_ROOT)
        note = self._rows.newest_checkpoint(c)
        if note is not None:
            newest = _read(note, "the newest checkpoint in the database")
            if newest.size > head:
                raise _lost(newest.size, head)
            if newest.size != self._rows.newest_size(c):
                raise _doubt("the newest checkpoint in the database stands under another size")
            _check_signed(newest, note, keys, "the newest checkpoint in the database")
        stored = newest.size
        if anchor is None:
            return newest, stored, 0
        anchored = _read(anchor, str(self._anchor))
        if (anchored.size, anchored.root.hex()) in self._given_up():
            return newest, stored, 0
        if anchored.size > head:
            raise _lost(anchored.size, head)
        _check_signed(anchored, anchor, keys, str(self._anchor))
        if anchored.size >= stored:
            if anchored.size == stored and anchored.root != newest.root:
                raise _doubt(f"two checkpoints of size {stored} were signed, with different roots")
            return anchored, stored, anchored.size
        if root_at(anchored.size, self._rows.hash_reader(c, anchored.size)) != anchored.root:
            raise _doubt(
                f"the first {anchored.size} events are not those that {self._anchor} commits to"
            )
        return newest, stored, anchored.size

    def _given_up(self) -> set[tuple[int, str]]:
        return {
            (recorded.event.checkpoint_size, recorded.event.checkpoint_root)
            for recorded in self._recorder.stream("ledger", types=(LedgerRecovered.TYPE,))
            if isinstance(recorded.event, LedgerRecovered)
        }

    def _read_anchor(self) -> bytes | None:
        try:
            return self._anchor.read_bytes()
        except FileNotFoundError:
            return None

    @staticmethod
    def _head(c: Cursor) -> int:
        c.execute("SELECT coalesce(max(position), 0) FROM events")
        row = c.fetchone()
        return int(row[0]) if row else 0

    def _recompute(self, c: Cursor, tree: Frontier, until: int) -> Frontier:
        """Extend a tree by leaves that are computed from the stored rows, up to a size."""
        while tree.size < until:
            tree = tree.extend(self._leaves(c, tree.size, min(READ_BATCH, until - tree.size)))
        return tree

    def _leaves(self, c: Cursor, after: int, count: int) -> list[bytes]:
        """Compute the leaf hashes of events from their rows; they must be those that are kept."""
        rows = self._rows.rows(c, after, count)
        kept = self._rows.leaf_hashes(c, after, count)
        for index, position in enumerate(range(after + 1, after + count + 1)):
            if index >= len(rows) or rows[index].position != position:
                raise _doubt(f"event {position} is missing")
            if index >= len(kept) or hash_of(rows[index]) != kept[index]:
                raise _doubt(
                    f"event {position} is not the one that was recorded: it, or its leaf, was "
                    "changed or is missing"
                )
        return kept

    # --- checking everything ----------------------------------------------------------------------

    def _check_all(self) -> None:
        """Check everything, again and again: an edit is found while the service runs, too."""
        while self.doubt is None and not self._stop.is_set():
            began = time.monotonic()
            self._check_once()
            took = time.monotonic() - began
            self._stop.wait(max(AUDIT_INTERVAL_S, AUDIT_REST * took))

    def _check_once(self) -> None:
        assert self._trusted is not None
        try:
            with self._doubting():
                if self._check_tree(self._trusted, self._stop, CHECK_PAUSE_S):
                    self.state = "verified" if self.doubt is None else "doubted"
        except Exception:
            log.exception("the check of the whole log failed")

    def _check_tree(self, signed: Frontier, stop: threading.Event, pause_s: float) -> bool:
        """Recompute a tree from the first event, with every hash that is kept of it.

        Returns whether it came to the end; ``stop`` ends it before.
        """
        tree, filled = Frontier(), dict[int, list[bytes]]()
        while tree.size < signed.size:
            with self._store.transaction(commit=False) as c:
                leaves = self._leaves(c, tree.size, min(TILE_WIDTH, signed.size - tree.size))
                level, filled[0] = 0, leaves
                while len(filled[level]) == TILE_WIDTH:
                    above, filled[level] = root(filled[level]), []
                    level += 1
                    filled.setdefault(level, []).append(above)
                    index = tree.size >> (TILE_HEIGHT * level)
                    if self._rows.hash_at(c, level, index) != above:
                        raise _doubt(f"hash {index} of tile level {level} is not its leaves'")
            tree = tree.extend(leaves)
            if stop.wait(pause_s):
                return False
        if tree != signed:
            raise _doubt(f"the first {signed.size} events are not those that were signed")
        return True

    # --- going on after a loss --------------------------------------------------------------------

    def recover(self) -> Recorded:
        """Go on without events that a checkpoint commits to and that nobody has any more.

        Everything that is there is checked first. Records what is lost, and a new key of the log in
        the same transaction: from here on it is another tree. Raises ``InvalidValue`` when nothing
        is lost, ``LogNotVerified`` when what is there does not fit.
        """
        anchor = self._read_anchor()
        if anchor is None:
            raise InvalidValue(f"nothing is known to be lost: there is no {self._anchor}")
        lost = _read(anchor, str(self._anchor))
        with self._store.transaction(commit=False) as c:
            head = self._head(c)
            given_up = (lost.size, lost.root.hex()) in self._given_up()
            if given_up or lost.size <= head:
                raise InvalidValue(
                    f"nothing is lost: the ledger holds {head} events, and the newest checkpoint "
                    f"is of {lost.size}"
                )
            self._trusted = self._follow(c, self._newest(c, None)[0])
            whole = self._recompute(c, self._trusted, head)
        self._check_tree(whole, self._stop, 0)
        kept = self._anchor.with_name(f"{self._anchor.name}.lost-{lost.size}")
        put_file(kept, anchor, CHECKPOINT_MODE)
        with self._ledger.together():
            if self._recorder.position != head:
                raise InvalidValue("the ledger is being written to; stop every process first")
            key = keyfile.add(self._key_file, self._ledger.log_keys()[-1].key.name)
            recovered = self._ledger.record_recovery(
                lost_from=head + 1, checkpoint_size=lost.size, checkpoint_root=lost.root.hex()
            )
            self._ledger.rotate_log_key(format_vkey(key.verifier_key))
        while self._round():
            pass
        return recovered.recorded


def _doubt(found: str) -> LogNotVerified:
    return LogNotVerified(
        f"{found}. Keep the database and the checkpoint file as they are, run compliance-ledger "
        "verify, and put back a copy that fits"
    )


def _lost(size: int, head: int) -> LogNotVerified:
    return LogNotVerified(
        f"a checkpoint of {size} events was signed, and the database ends at position {head}: it "
        f"lost events {head + 1} to {size}, or an older copy was put in its place. Put the newest "
        "copy back; when there is none that has them, compliance-ledger recover --accept-loss goes "
        "on without them"
    )


def _read(note: bytes, where: str) -> Checkpoint:
    try:
        return parse_checkpoint(parse_note(note).text)
    except LogError as error:
        raise _doubt(f"{where} is no checkpoint: {error}") from None


def _check_signed(checkpoint: Checkpoint, note: bytes, keys: Sequence[LogKey], where: str) -> None:
    try:
        signatures = verify_note(parse_note(note), [each.key for each in keys])
        check_log_signed(checkpoint, signatures, keys)
    except LogError as error:
        raise _doubt(f"{where} is not signed by this log: {error}") from None
