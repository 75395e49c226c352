"""The composition root: builds every part once and hands it to those that need it.

The wall clock is read here and nowhere below.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from eventsourcing.persistence import Cursor

from ledger.application import Ledger
from ledger.domain.errors import InvalidValue, NotFound, Unavailable
from ledger.domain.values import Subject, from_microseconds, microseconds
from ledger.service import keyfile
from ledger.service.decision_log import DecisionLog
from ledger.service.feed import Feed
from ledger.service.limiter import Limiter
from ledger.service.settings import Settings
from ledger.service.signer import Signer
from ledger.service.ticker import Ticker
from ledger.service.writer import Writer
from ledger.store.sqlite import LedgerDatastore, LedgerRecorder
from ledger.tlog.log import LogRows
from ledger.tlog.note import format_vkey
from projections.access import AccessIndex, AccessRows, snapshot
from projections.conduct import ConductRows
from projections.operators import Keyring, OperatorRows
from projections.trail import TrailRows


def wall_clock() -> datetime:
    """Say what time it is."""
    return datetime.now(UTC)


def wall_clock_us() -> int:
    """Say what time it is, in microseconds since 1970; quicker than making a ``datetime``."""
    return time.time_ns() // 1000


class Finder:
    """Answers the ledger's questions about where things are written, from the projections."""

    def __init__(
        self,
        store: LedgerDatastore,
        access: AccessRows,
        conduct: ConductRows,
        operators: OperatorRows,
    ) -> None:
        self._store = store
        self._access = access
        self._stream_of = {
            "sus_": access.stream_of,
            "vio_": conduct.stream_of,
            "key_": operators.stream_of,
        }

    def stream_of(self, id_: str) -> str | None:
        """Return the stream that holds a violation, suspension or key."""
        find = self._stream_of.get(id_[:4])
        if find is None:
            return None
        with self._store.transaction(commit=False) as c:
            return find(c, id_)

    def resting_on(self, violation: str) -> Sequence[tuple[str, str]]:
        """Return subject key and id of every suspension that names a violation as a ground."""
        with self._store.transaction(commit=False) as c:
            return self._access.resting_on(c, violation)

    def children_of(self, subject: Subject) -> Sequence[Subject]:
        """Return the subjects directly below a subject now."""
        with self._store.transaction(commit=False) as c:
            return self._access.children_of(c, subject)


@dataclass(frozen=True, slots=True)
class Service:
    """Every part of a running service."""

    settings: Settings
    clock: Callable[[], datetime]
    clock_us: Callable[[], int]
    recorder: LedgerRecorder
    log: LogRows
    ledger: Ledger
    access: AccessRows
    conduct: ConductRows
    trail: TrailRows
    operators: OperatorRows
    index: AccessIndex
    keyring: Keyring
    feed: Feed
    writer: Writer
    ticker: Ticker
    signer: Signer
    limiter: Limiter | None
    decision_log: DecisionLog | None

    def now(self) -> datetime:
        """Say what time it is for reading: never before the newest event that is in memory."""
        return max(self.clock(), from_microseconds(self.index.recorded_at))

    def now_us(self) -> int:
        """Say the same in microseconds since 1970."""
        return max(self.clock_us(), self.index.recorded_at)

    @contextmanager
    def reading(self) -> Iterator[tuple[Cursor, int]]:
        """Yield a cursor on one snapshot of the store, and the position of that snapshot."""
        with self.recorder.store.transaction(commit=False) as cursor:
            yield cursor, self.recorder.position

    def open(self) -> str:
        """Make the log's key and open the ledger; returns the public key.

        Raises ``InvalidValue`` when there is a ledger, or a checkpoint of one, already.
        """
        settings = self.settings
        if settings.checkpoint_path.exists():
            raise InvalidValue(
                f"{settings.checkpoint_path} is the checkpoint of another ledger; put its database "
                "back, or move the file away when that ledger is given up"
            )
        with self.ledger.together():
            if self.recorder.position:
                raise InvalidValue("this database holds a ledger already")
            key = format_vkey(keyfile.add(settings.log_key_path, settings.origin).verifier_key)
            self.ledger.open(settings.origin, log_key=key)
        return key

    def rotate_log_key(self) -> str:
        """Make a new key of the log and let it sign from here on; returns the public key."""
        self.signer.require_verified()
        # Under the write lock, because two processes that add to the file at once would lose a key.
        with self.ledger.together():
            origin = self.ledger.log_keys()[-1].key.name
            key = format_vkey(keyfile.add(self.settings.log_key_path, origin).verifier_key)
            self.ledger.rotate_log_key(key)
        return key

    def load(self) -> int:
        """Load what is in memory from the rows; returns the position they are those of.

        Raises ``NotFound`` when the store holds no ledger, ``UnknownFact`` when a newer program
        wrote it.
        """
        self.recorder.refuse_unknown_facts()
        with self.recorder.store.transaction(commit=False) as c:
            c.execute("SELECT position, recorded_at FROM events ORDER BY position DESC LIMIT 1")
            row = c.fetchone()
            if row is None:
                raise NotFound(
                    f"{self.settings.database_url} holds no ledger; "
                    "run compliance-ledger init first"
                )
            known = self.index.unknown == "deny_unknown"
            self.index.load(snapshot(c, position=row[0], recorded_at=row[1], known=known))
            self.keyring.load(c)
            return int(row[0])

    def start(self) -> None:
        """Load what is in memory, check the log, then follow, sign, write and tick."""
        self.feed.start(self.load())
        self.signer.start()
        self.writer.start()
        self.ticker.start()
        if self.decision_log is not None:
            self.decision_log.start()

    def stop(self) -> None:
        """Finish what is under way and let go of the store."""
        self.ticker.stop()
        self.writer.stop()
        self.signer.stop()
        self.feed.stop()
        if self.decision_log is not None:
            self.decision_log.stop()
        self.recorder.store.close()


def build(settings: Settings, *, clock: Callable[[], datetime] = wall_clock) -> Service:
    """Build a service on its store, and make the store's tables where they are missing."""
    path = settings.database_path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            # SQLite would let everybody read it. Its log of writes gets the mode of the database.
            path.touch(mode=0o600)
    except OSError as error:
        raise Unavailable(f"{path} cannot be made: {error.strerror}") from None
    store = LedgerDatastore(path)
    access, conduct, trail, operators = AccessRows(), ConductRows(), TrailRows(), OperatorRows()
    log = LogRows()
    recorder = LedgerRecorder(
        store, clock=clock, log=log, projections=(access, conduct, operators, trail)
    )
    recorder.create_table()
    ledger = Ledger(recorder, Finder(store, access, conduct, operators))
    index, keyring = AccessIndex(unknown=settings.unknown_subject), Keyring()
    signer = Signer(
        ledger,
        log,
        key_file=settings.log_key_path,
        anchor=settings.checkpoint_path,
        clock=clock,
    )
    recorder.admit = signer.require_verified
    return Service(
        settings=settings,
        clock=clock,
        clock_us=wall_clock_us if clock is wall_clock else lambda: microseconds(clock()),
        recorder=recorder,
        log=log,
        ledger=ledger,
        access=access,
        conduct=conduct,
        trail=trail,
        operators=operators,
        index=index,
        keyring=keyring,
        feed=Feed(recorder, (index, keyring)),
        writer=Writer(ledger),
        ticker=Ticker(ledger, recorder, access, clock),
        signer=signer,
        limiter=Limiter(settings.rate_limit) if settings.rate_limit else None,
        decision_log=(
            DecisionLog(settings.decision_log, sample=settings.decision_log_sample)
            if settings.decision_log
            else None
        ),
    )


def reading_recorder(path: Path) -> LedgerRecorder:
    """Return a recorder on a file that must exist, to compare projections: it appends nothing."""
    return LedgerRecorder(
        LedgerDatastore(path),
        clock=wall_clock,
        log=None,
        projections=(AccessRows(), ConductRows(), OperatorRows(), TrailRows()),
    )
