"""The composition root: builds every part once and hands it to those that need it.

The wall clock is read here and nowhere below.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from eventsourcing.persistence import Cursor

from ledger.application import Ledger
from ledger.domain.errors import Behind, InvalidValue, NotFound, Unavailable, VaultUnavailable
from ledger.domain.values import Subject, from_microseconds, microseconds
from ledger.service import keyfile
from ledger.service.decision_log import DecisionLog
from ledger.service.feed import MIN_POSITION_WAIT_S, STANDBY_PAUSE_S, Feed, asked_position
from ledger.service.limiter import Limiter
from ledger.service.projection_check import ProjectionCheck
from ledger.service.settings import Settings
from ledger.service.signer import Signer
from ledger.service.ticker import Ticker
from ledger.service.witnesses import Witnesses, read_witness_policy
from ledger.service.writer import Writer
from ledger.store.recorder import DDL, LedgerRecorder, Store
from ledger.store.sqlite import LedgerDatastore
from ledger.store.vault import Vault, key_for, make_vault_key, read_vault_key
from ledger.tlog.log import LogRows
from ledger.tlog.note import format_vkey
from ledger.tlog.policy_file import PolicyFile
from projections.access import AccessIndex, AccessRows, snapshot
from projections.conduct import ConductRows
from projections.erasures import ErasureRows
from projections.operators import Keyring, OperatorRows
from projections.report import ReportRows
from projections.trail import TrailRows

if TYPE_CHECKING:
    from ledger.store.postgres import PostgresDatastore

KEYS_TOGETHER_MAX: Final = 1_000  # looked for in the vault at once: a moment, and no memory

log = logging.getLogger(__name__)


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
        store: Store,
        access: AccessRows,
        conduct: ConductRows,
        operators: OperatorRows,
        erasures: ErasureRows,
    ) -> None:
        self._store = store
        self._access = access
        self._erasures = erasures
        self._stream_of = {
            "sus_": access.stream_of,
            "vio_": conduct.stream_of,
            "key_": operators.stream_of,
            "era_": erasures.stream_of,
            "hld_": erasures.stream_of,
        }

    def stream_of(self, id_: str) -> str | None:
        """Return the stream that holds a violation, suspension, erasure, hold or key."""
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

    def unerased_keys(self, subject: Subject) -> Sequence[str]:
        """Return the data keys that seal something of a subject and that no event erased."""
        with self._store.transaction(commit=False) as c:
            return self._erasures.keys(c, erased=False, subject=subject.key)

    def erased_keys(self, among: Iterable[str]) -> Sequence[str]:
        """Return those of these data keys that an event says are destroyed."""
        with self._store.transaction(commit=False) as c:
            return list(self._erasures.erased_by(c, among))

    def erasures_done(self, *, after: int, limit: int) -> Sequence[tuple[int, int]]:
        """Return erasures after a position, each with that of the event which says it is done."""
        with self._store.transaction(commit=False) as c:
            return self._erasures.done(c, after=after, limit=limit)


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
    erasures: ErasureRows
    report: ReportRows
    trail: TrailRows
    operators: OperatorRows
    index: AccessIndex
    keyring: Keyring
    feed: Feed
    writer: Writer
    ticker: Ticker
    signer: Signer
    projection_check: ProjectionCheck
    witnesses: Witnesses
    limiter: Limiter | None
    decision_log: DecisionLog | None
    console_key: bytes
    """Signs the sessions of the console."""

    def now(self) -> datetime:
        """Say what time it is for reading: never before the newest event that is in memory."""
        return max(self.clock(), from_microseconds(self.index.recorded_at))

    def now_us(self) -> int:
        """Say the same in microseconds since 1970."""
        now, recorded_at = self.clock_us(), self.index.recorded_at
        return now if now > recorded_at else recorded_at  # noqa: FURB136 - quicker than max()

    @contextmanager
    def reading(self, *, newest: bool = False, at_least: int = 0) -> Iterator[tuple[Cursor, int]]:
        """Yield a cursor on one snapshot of the store, and the position of that snapshot.

        It is the standby's where one is set, unless the ``newest`` is asked for. It has the
        position that the request names. Given ``at_least``, it is waited for to have that, too.
        Raises ``Behind``.
        """
        store, until = self.recorder.store, time.monotonic() + MIN_POSITION_WAIT_S
        while True:
            with store.transaction(commit=False) if newest else store.answering() as cursor:
                head = self.recorder.position
                if head < asked_position.get() or (head < at_least and time.monotonic() > until):
                    needed = max(at_least, asked_position.get())
                    raise Behind(f"position {needed} is asked for, and what is read ends at {head}")
                if head >= at_least:
                    yield cursor, head
                    return
            time.sleep(STANDBY_PAUSE_S)

    def require_modest_role(self) -> None:
        """Raise ``InvalidValue`` when the database's role could change what is recorded."""
        server = _server_of(self.recorder.store)
        if server is not None and not self.settings.allow_owner:
            power = server.power()
            if power is not None:
                raise InvalidValue(
                    f"{power}, so nothing keeps this service from changing what is recorded; serve "
                    "with a member of ledger_writer, or set LEDGER_ALLOW_OWNER to true"
                )

    def require_own_standby(self) -> None:
        """Raise ``InvalidValue`` when what is read from is a standby of another ledger."""
        if self.settings.read_url is None:
            return
        firsts = []
        try:
            for newest in (True, False):
                with self.reading(newest=newest) as (c, _):
                    firsts.append(self.log.leaf_hashes(c, 0, 1))
        except Unavailable as error:
            log.warning("the standby cannot be read just now: %s", error)
            return
        first, there = firsts
        if there and there != first:
            raise InvalidValue("LEDGER_READ_URL names a standby of another ledger")

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
                raise self._no_ledger()
            unknown = self.settings.unknown_subject
            self.index.load(snapshot(c, position=row[0], recorded_at=row[1], unknown=unknown))
            self.keyring.load(c)
            return int(row[0])

    def _no_ledger(self) -> NotFound:
        return NotFound(
            f"{self.settings.database} holds no ledger; run compliance-ledger init first"
        )

    def lost_keys(self) -> list[str]:
        """Return the data keys that seal something, were not erased, and are not in the vault."""
        lost: list[str] = []
        after = ""
        while True:
            with self.recorder.store.transaction(commit=False) as c:
                keys = self.erasures.keys(c, erased=False, after=after, limit=KEYS_TOGETHER_MAX)
            lost += self.ledger.vault.missing(keys)
            if len(keys) < KEYS_TOGETHER_MAX:
                return lost
            after = keys[-1]

    def start(self) -> int:
        """Destroy what is to be destroyed, load what is in memory, check the log; then go on.

        Returns how many keys the vault lacks that no erasure destroyed.
        """
        self.require_modest_role()
        self.require_own_standby()
        position = self.load()
        self.ledger.shred()
        lost = self.lost_keys()
        if lost:
            log.error(
                "%s lacks %d keys that no erasure destroyed; put back the file that holds them",
                self.ledger.vault.name,
                len(lost),
            )
        self.feed.start(position)
        self.witnesses.start()
        self.signer.start()
        self.writer.start()
        self.ticker.start()
        self.projection_check.start()
        if self.decision_log is not None:
            self.decision_log.start()
        return len(lost)

    @contextmanager
    def signing(self) -> Iterator[None]:
        """Sign what another process records, and end terms; nobody is answered from here meanwhile.

        Nothing of the ledger is in memory, so it costs the same however large that is. Lets go of
        the store at the end. Raises ``NotFound`` when the store holds no ledger.
        """
        self.require_modest_role()
        self.recorder.refuse_unknown_facts()
        self.recorder.newest = self.recorder.position
        if not self.recorder.newest:
            raise self._no_ledger()
        self.ledger.shred()
        self.witnesses.start()
        self.signer.start(audits=False)
        self.ticker.start()
        try:
            yield
        finally:
            self.ticker.stop()
            self.signer.stop()
            self.witnesses.stop()
            self.close()

    def stop(self) -> None:
        """Finish what is under way and let go of the store."""
        self.projection_check.stop()
        self.ticker.stop()
        self.writer.stop()
        self.signer.stop()
        self.witnesses.stop()
        self.feed.stop()
        if self.decision_log is not None:
            self.decision_log.stop()
        self.close()

    def close(self) -> None:
        """Let go of the store and the vault."""
        self.recorder.store.close()
        self.ledger.vault.close()


def projections_of(
    dialect: Literal["sqlite", "postgresql"],
) -> tuple[AccessRows, ConductRows, OperatorRows, ErasureRows, ReportRows, TrailRows]:
    """Return every projection, in the order in which they take in an event."""
    return (
        AccessRows(),
        ConductRows(),
        OperatorRows(),
        ErasureRows(),
        ReportRows(),
        TrailRows(dialect),
    )


# The driver of a server takes nine megabytes, which a ledger in a file need not have.


def _server_at(url: str, *, standby: str | None = None) -> PostgresDatastore:
    from ledger.store.postgres import PostgresDatastore  # noqa: PLC0415

    return PostgresDatastore(url, standby=standby)


def _server_of(store: Store) -> PostgresDatastore | None:
    """Return a store that is a server's."""
    if store.dialect == "sqlite":
        return None
    from ledger.store.postgres import PostgresDatastore  # noqa: PLC0415

    assert isinstance(store, PostgresDatastore)
    return store


def _has_vault(server: PostgresDatastore) -> bool:
    from ledger.store.postgres_vault import has_vault  # noqa: PLC0415

    return has_vault(server)


def schema_script() -> str:
    """Return what makes a ledger on PostgreSQL, and the roles that work with it."""
    from ledger.store.postgres_schema import script  # noqa: PLC0415
    from ledger.store.postgres_vault import VAULT_DDL  # noqa: PLC0415

    parts = (LogRows(), *projections_of("postgresql"))
    return script([*DDL, *(each for part in parts for each in part.DDL), *VAULT_DDL])


def open_store(settings: Settings) -> Store:
    """Open the store that the settings name, and make its file and folders where they are missing.

    Raises ``Unavailable`` where that cannot be.
    """
    path = settings.database_path
    try:
        settings.vault_path.parent.mkdir(parents=True, exist_ok=True)
        if path is None:
            return _server_at(settings.database_url, standby=settings.read_url)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            # SQLite would let everybody read it. Its log of writes gets the mode of the database.
            path.touch(mode=0o600)
        return LedgerDatastore(path)
    except OSError as error:
        raise Unavailable(f"{path or error.filename} cannot be made: {error.strerror}") from None


def open_vault(settings: Settings, store: Store, *, vault_key: bytes, origin: str) -> Vault:
    """Open the vault of the ledger in ``store``; a new one gets the name ``origin``."""
    server = _server_of(store)
    if server is not None:
        from ledger.store.postgres_vault import PostgresVault  # noqa: PLC0415

        return PostgresVault(server, vault_key=vault_key, origin=origin)
    return Vault(settings.vault_path, vault_key=vault_key, origin=origin)


def refuse_lost_vault(settings: Settings, recorder: LedgerRecorder, erasures: ErasureRows) -> None:
    """Raise ``VaultUnavailable`` when the vault is gone and held keys that no erasure destroyed.

    A new one in its place would hide that: everybody would be erased, and nobody told.
    """
    store = recorder.store
    server = _server_of(store)
    if settings.vault_path.exists() if server is None else _has_vault(server):
        return
    with store.transaction(commit=False) as c:
        keys = len(erasures.keys(c, erased=False))
    if not keys:
        return
    on_server = server is not None
    name = f"the table vault.data_keys in {settings.database}" if on_server else settings.vault_path
    anew = (
        "make it anew with compliance-ledger schema --sql"
        if on_server
        else f"make an empty file: install -m 600 /dev/null {settings.vault_path}"
    )
    raise VaultUnavailable(
        f"{name} is missing, with {keys} keys that no erasure destroyed; put back what holds them. "
        f"Only when nobody has it any more, {anew}; what they sealed can then never be read again"
    )


def build(settings: Settings, *, clock: Callable[[], datetime] = wall_clock) -> Service:
    """Build a service on its store, and make the store's tables where they are missing."""
    store = open_store(settings)
    projections = projections_of(store.dialect)
    access, conduct, operators, erasures, report, trail = projections
    log_rows = LogRows()
    recorder = LedgerRecorder(store, clock=clock, log=log_rows, projections=projections)
    try:
        recorder.create_table()
        recorder.refuse_half_copy()
        refuse_lost_vault(settings, recorder, erasures)
    except BaseException:
        store.close()
        raise
    if not recorder.position and not settings.vault_key_path.exists():
        # Only a new ledger gets a key: with another one, an old ledger's vault would not open.
        make_vault_key(settings.vault_key_path)
    vault_key = read_vault_key(settings.vault_key_path)
    vault = open_vault(settings, store, vault_key=vault_key, origin=settings.origin)
    ledger = Ledger(recorder, Finder(store, access, conduct, operators, erasures), vault)
    index, keyring = AccessIndex(unknown=settings.unknown_subject), Keyring()
    signer = Signer(
        ledger,
        log_rows,
        key_file=settings.log_key_path,
        anchor=settings.checkpoint_path,
        clock=clock,
    )
    recorder.admit = signer.require_verified
    feed = Feed(recorder, (index, keyring))
    feed.on_loss = signer.mark_doubted
    policy = PolicyFile()
    if settings.witness_policy is not None:
        policy = read_witness_policy(settings.witness_policy)
    witnesses = Witnesses(policy, store, log_rows)
    signer.to_publish = witnesses.publication.newest
    signer.on_checkpoint.append(witnesses.offer)
    return Service(
        settings=settings,
        clock=clock,
        clock_us=wall_clock_us if clock is wall_clock else lambda: microseconds(clock()),
        recorder=recorder,
        log=log_rows,
        ledger=ledger,
        access=access,
        conduct=conduct,
        erasures=erasures,
        report=report,
        trail=trail,
        operators=operators,
        index=index,
        keyring=keyring,
        feed=feed,
        writer=Writer(ledger),
        ticker=Ticker(ledger, recorder, access, clock),
        signer=signer,
        projection_check=ProjectionCheck(settings.database_url, signer.mark_doubted),
        witnesses=witnesses,
        limiter=Limiter(settings.rate_limit) if settings.rate_limit else None,
        decision_log=(
            DecisionLog(settings.decision_log, sample=settings.decision_log_sample)
            if settings.decision_log
            else None
        ),
        console_key=key_for("console", vault_key=vault_key, origin=vault.origin),
    )


def reading_recorder(database: Path | str) -> LedgerRecorder:
    """Return a recorder on a database that must exist: an SQLite file, or the URL of PostgreSQL.

    It is there to compare projections, and appends nothing.
    """
    store: Store = LedgerDatastore(database) if isinstance(database, Path) else _server_at(database)
    return LedgerRecorder(
        store,
        clock=wall_clock,
        log=None,
        projections=projections_of(store.dialect),
    )
