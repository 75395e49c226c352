"""``Ledger``: one method per decision.

Every decision is taken under the write lock: what a rule looked at is still true when its event is
recorded, whichever process or stream it came from. A command that is refused records nothing.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, Final, Generic, Literal, Protocol, TypeVar

from eventsourcing.persistence import Cursor, IntegrityError

from ledger.domain.catalogue import Catalogue, define_group, list_resource
from ledger.domain.errors import (
    Conflict,
    IdempotencyKeyReused,
    InvalidValue,
    LastAdminKey,
    LedgerError,
    NotFound,
    UnknownGroup,
)
from ledger.domain.events import (
    SYSTEM,
    Author,
    Clause,
    Draft,
    Event,
    Exported,
    GroupDefined,
    LedgerOpened,
    LedgerRecovered,
    LogKeyRotated,
    PersonalDataErased,
    RecordDisclosed,
    Recorded,
    ResourceListed,
    SubjectEvent,
)
from ledger.domain.operators import Operator
from ledger.domain.policy import Policy, parse_policy_ref
from ledger.domain.record import Ground, Record, Violation, longest_ways_up
from ledger.domain.values import (
    Basis,
    Cause,
    DetectedBy,
    Disclosure,
    Ending,
    Evidence,
    Properties,
    Resource,
    Role,
    Scope,
    Sealed,
    Subject,
    sortable_id,
)
from ledger.store.codec import Placed
from ledger.store.recorder import LedgerRecorder
from ledger.store.vault import Vault
from ledger.tlog.checkpoint import LogKey
from ledger.tlog.note import VerifierKey, parse_vkey

FOLDED_STREAMS_MAX: Final = 10_000  # folded records kept for the next decision: some tens of MB
ENTROPY_BYTES_DRAWN: Final = 1_280  # at a time, which is enough for 128 ids
ERASURES_TOGETHER_MAX: Final = 1_000  # whose keys are destroyed in one transaction of the vault
KEY_PREFIX: Final = "clk_"  # lets secret scanners find a leaked key
SYSTEM_AUTHOR: Final = Author(SYSTEM)


class Finder(Protocol):
    """Where things are written; answered by the projections."""

    def stream_of(self, id_: str) -> str | None:
        """Return the stream that holds a violation, suspension, erasure, hold or key."""

    def resting_on(self, violation: str) -> Sequence[tuple[str, str]]:
        """Return subject key and id of every suspension that names a violation as a ground."""

    def children_of(self, subject: Subject) -> Sequence[Subject]:
        """Return the subjects directly below a subject now."""

    def unerased_keys(self, subject: Subject) -> Sequence[str]:
        """Return the data keys that seal something of a subject and that no event erased."""

    def erased_keys(self, among: Iterable[str]) -> Sequence[str]:
        """Return those of these data keys that an event says are destroyed."""

    def erasures_done(self, *, after: int, limit: int) -> Sequence[tuple[int, int]]:
        """Return erasures after a position, each with that of the event which says it is done."""


class Folded(Protocol):
    """Something folded from a stream."""

    def evolve(self, recorded: Recorded) -> None:
        """Take in the next event."""


FoldedT = TypeVar("FoldedT", bound=Folded)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Once:
    """An idempotency key and the SHA-256 of the request it came with."""

    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What a command will look at, which is then read at once for all that share a transaction.

    It saves time and decides nothing: what is not foreseen is read when it is looked at.
    """

    command: tuple[str, str] | None = None
    """The operator and the idempotency key."""
    subjects: Sequence[Subject] = ()


Outcome = Literal["recorded", "repeated", "unchanged"]


@dataclass(frozen=True, slots=True)
class Done:
    """What a command led to. ``recorded`` is the fact that holds now.

    ``outcome`` says whether it was recorded by this command, by the same command before
    (``repeated``), or held already (``unchanged``). ``secret`` is a key that is shown only here.
    """

    recorded: Recorded
    outcome: Outcome = "recorded"
    secret: str | None = None


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What a command would lead to now, and every event that it would record, in order."""

    done: Done
    events: tuple[Recorded, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """The ledger as it was known at a position: records of some subjects, and the catalogue."""

    position: int
    records: dict[Subject, Record]
    catalogue: Catalogue


Decision = Callable[[datetime], Event | Recorded]
"""Given now, returns the event to record, or the recorded fact that already says so, or raises."""
Consequences = Callable[[Recorded, datetime], Iterable[Event]]


@dataclass(slots=True)
class _Folded(Generic[FoldedT]):
    """A stream folded up to a version, and when that was known to be all of it."""

    state: FoldedT
    version: int = 0
    generation: int = -1

    def evolve(self, recorded: Recorded) -> None:
        self.state.evolve(recorded)
        self.version = recorded.version


class _HalfDone(Exception):
    """A command failed after it had written something, among others that have no savepoints."""


class _TakenBack(Exception):
    """A rehearsal is over, and what it wrote is rolled back."""


class _Entropy:
    """Random bytes of the kernel, each given out once; only one thread at a time may ask.

    Many are drawn at once: whoever asks the kernel lets go of the interpreter, and waits for it.
    """

    def __init__(self) -> None:
        self._drawn = b""
        self._given = 0

    def __call__(self, size: int) -> bytes:
        """Return so many bytes."""
        given, self._given = self._given, self._given + size
        if self._given > len(self._drawn):
            self._drawn, given, self._given = os.urandom(max(size, ENTROPY_BYTES_DRAWN)), 0, size
        return self._drawn[given : self._given]


class Ledger:
    """The write side. Every method is one command, and is safe to call from several threads."""

    def __init__(
        self,
        recorder: LedgerRecorder,
        finder: Finder,
        vault: Vault,
        *,
        entropy: Callable[[int], bytes] | None = None,
    ) -> None:
        self.recorder = recorder
        self.finder = finder
        self.vault = vault
        self._entropy = entropy or _Entropy()
        self._folded: OrderedDict[str, _Folded[Any]] = OrderedDict()
        self._appended = 0
        self._joined: Cursor | None = None
        """While commands run that have no savepoints: the cursor of their transaction."""
        self._rehearsed: list[Recorded] | None = None
        """While a command is rehearsed: what it has appended, which will be taken back."""

    # --- subjects and links -----------------------------------------------------------------------

    def register(
        self, subject: Subject, *, properties: Properties, by: Author, once: Once | None = None
    ) -> Done:
        """Make a subject known, or set its properties anew."""

        def decide(_: datetime) -> Event | Recorded:
            record = self._record(subject)
            return record.register(properties=properties) or _held(record.registered)

        return self._decide(decide, by=by, once=once)

    def link(
        self, subject: Subject, *, parent: Subject, by: Author, once: Once | None = None
    ) -> Done:
        """Put a subject below a parent."""

        def decide(now: datetime) -> Event:
            above = longest_ways_up(parent, lambda subject: self._record(subject).parents(now))
            below = longest_ways_up(subject, self.finder.children_of)
            return self._record(subject).link(
                parent=parent,
                above_parent=above,
                below=max(below.values(), default=0),
                now=now,
            )

        return self._decide(decide, by=by, once=once)

    def unlink(
        self, subject: Subject, *, parent: Subject, by: Author, once: Once | None = None
    ) -> Done:
        """Remove a link."""
        return self._decide(
            lambda now: self._record(subject).unlink(parent=parent, now=now), by=by, once=once
        )

    # --- conduct ----------------------------------------------------------------------------------

    def record_violation(
        self,
        subject: Subject,
        *,
        policy: str,
        clause: str,
        occurred_at: datetime,
        detected_by: DetectedBy,
        summary: str,
        details: str | None = None,
        evidence: tuple[Evidence, ...] = (),
        resources: tuple[Resource, ...] = (),
        by: Author,
        once: Once | None = None,
    ) -> Done:
        """Record that a subject broke a clause of a policy: a version of it or that in force."""
        policy_id, version = parse_policy_ref(policy)

        def decide(now: datetime) -> Event:
            return self._record(subject).record_violation(
                violation=self._new_id("vio", now),
                policy=self._policy(policy_id),
                version=version,
                clause=clause,
                occurred_at=occurred_at,
                detected_by=detected_by,
                summary=summary,
                details=details,
                evidence=evidence,
                resources=resources,
                now=now,
            )

        return self._decide(decide, by=by, once=once)

    def overturn(
        self, violation: str, *, reason: str, by: Author, once: Once | None = None
    ) -> Done:
        """Overturn a violation; end every suspension that rests on overturned violations only."""

        def consequences(_: Recorded, now: datetime) -> Iterator[Event]:
            for subject, suspension in self.finder.resting_on(violation):
                event = self._record(Subject.parse(subject)).lose_grounds(
                    suspension=suspension,
                    reinstatement=self._new_id("rei", now),
                    stands=self._stands,
                    now=now,
                )
                if event:
                    yield event

        return self._decide(
            lambda _: self._holding(violation).overturn(violation=violation, reason=reason),
            by=by,
            once=once,
            consequences=consequences,
        )

    def warn(
        self,
        subject: Subject,
        *,
        grounds: Sequence[str] = (),
        reason: str,
        by: Author,
        once: Once | None = None,
    ) -> Done:
        """Warn a subject; nothing is refused by it."""
        return self._decide(
            lambda now: self._record(subject).warn(
                warning=self._new_id("war", now),
                grounds=self._grounds(subject, grounds, now),
                reason=reason,
            ),
            by=by,
            once=once,
        )

    # --- suspensions ------------------------------------------------------------------------------

    def suspend(
        self,
        subject: Subject,
        *,
        scope: Scope,
        duration: str | None = None,
        ends_at: datetime | None = None,
        indefinite: bool = False,
        effective_at: datetime | None = None,
        basis: Basis = Basis.VIOLATIONS,
        grounds: Sequence[str] = (),
        reason: str,
        note: str | None = None,
        reinstatement: Ending = Ending.AUTOMATIC,
        disclosure: Disclosure = "notified",
        by: Author,
        once: Once | None = None,
    ) -> Done:
        """Refuse a scope to a subject and to all below it."""

        def decide(now: datetime) -> Event:
            event = self._record(subject).suspend(
                suspension=self._new_id("sus", now),
                scope=scope,
                duration=duration,
                ends_at=ends_at,
                indefinite=indefinite,
                effective_at=effective_at,
                basis=basis,
                grounds=self._grounds(subject, grounds, now),
                reason=reason,
                note=note,
                reinstatement=reinstatement,
                disclosure=disclosure,
                now=now,
            )
            for group in scope.groups:
                if not self._fold(f"group/{group}", Catalogue).groups:
                    raise UnknownGroup(f"no group {group!r} was defined", field="/scope/resources")
            return event

        return self._decide(decide, by=by, once=once)

    def revise(
        self,
        suspension: str,
        *,
        duration: str | None = None,
        ends_at: datetime | None = None,
        indefinite: bool = False,
        reason: str,
        by: Author,
        once: Once | None = None,
    ) -> Done:
        """Move the end of a suspension; a ``duration`` counts from its start."""
        return self._decide(
            lambda now: self._holding(suspension).revise(
                suspension=suspension,
                duration=duration,
                ends_at=ends_at,
                indefinite=indefinite,
                reason=reason,
                now=now,
            ),
            by=by,
            once=once,
        )

    def cancel(self, suspension: str, *, reason: str, by: Author, once: Once | None = None) -> Done:
        """Take a suspension back before it begins."""
        return self._decide(
            lambda now: self._holding(suspension).cancel(
                suspension=suspension, reason=reason, now=now
            ),
            by=by,
            once=once,
        )

    def reinstate(
        self,
        suspension: str,
        *,
        cause: Cause,
        reason: str,
        effective_at: datetime | None = None,
        by: Author,
        once: Once | None = None,
    ) -> Done:
        """End one suspension that is scheduled or in force."""
        return self._decide(
            lambda now: self._holding(suspension).reinstate(
                reinstatement=self._new_id("rei", now),
                suspension=suspension,
                cause=cause,
                reason=reason,
                effective_at=effective_at,
                stands=self._stands,
                now=now,
            ),
            by=by,
            once=once,
        )

    def serve_terms(self, suspensions: Iterable[str]) -> list[Recorded]:
        """Record for each suspension that its term ended by itself, unless it is recorded already.

        Deciding under the write lock makes it happen once, however many processes try.
        """
        served: list[Recorded] = []
        with self._transaction() as c:
            now = self.recorder.now()
            for suspension in suspensions:
                record = self._holding(suspension)
                event = record.serve_term(
                    suspension=suspension, reinstatement=self._new_id("rei", now), now=now
                )
                if event:
                    cause = record.suspension(suspension).end_set_by
                    served.append(
                        self._append(c, event, by=SYSTEM_AUTHOR, now=now, caused_by=cause)
                    )
        return served

    # --- sealed data ------------------------------------------------------------------------------

    def disclose(self, position: int, *, by: Author) -> dict[str, str]:
        """Return what is sealed in an event, by its path, once it is recorded who was shown it.

        What was erased is left out; when nothing is left, nothing is shown and nothing recorded.
        """
        with self._transaction() as c:
            shown = _held(self.recorder.event(position))
            keys = {one.key for _, one in shown.event.sealed_fields() if isinstance(one, Sealed)}
            erased = set(self.finder.erased_keys(keys))
            texts = {
                path: self.vault.open(sealed, stream=shown.stream, version=shown.version, path=path)
                for path, sealed in shown.event.sealed_fields()
                if isinstance(sealed, Sealed) and sealed.key not in erased
            }
            if texts:
                assert isinstance(shown.event, SubjectEvent)
                event = RecordDisclosed(
                    subject=shown.event.subject,
                    shown_position=position,
                    shown_stream=shown.stream,
                    fields=tuple(texts),
                )
                self._append(c, event, by=by, now=self.recorder.now())
        return texts

    def disclose_export(self, export: Exported, *, subject: Subject | None, by: Author) -> Recorded:
        """Record that a list leaves the ledger as a file, before the first byte of it does."""
        with self._transaction() as c:
            event = RecordDisclosed(subject=subject, export=export)
            return self._append(c, event, by=by, now=self.recorder.now())

    def place_hold(
        self, subject: Subject, *, reason: str, by: Author, once: Once | None = None
    ) -> Done:
        """Forbid that anything about a subject be erased."""
        return self._decide(
            lambda now: self._record(subject).place_hold(
                hold=self._new_id("hld", now), reason=reason
            ),
            by=by,
            once=once,
        )

    def lift_hold(self, hold: str, *, by: Author, once: Once | None = None) -> Done:
        """Take one legal hold away; others on the subject stay."""
        return self._decide(
            lambda _: self._holding(hold, "hld_").lift_hold(hold=hold), by=by, once=once
        )

    def request_erasure(
        self, subject: Subject, *, reason: str, by: Author, once: Once | None = None
    ) -> Done:
        """Ask that what is sealed about a subject be erased."""
        return self._decide(
            lambda now: self._record(subject).request_erasure(
                erasure=self._new_id("era", now), reason=reason
            ),
            by=by,
            once=once,
        )

    def confirm_erasure(self, erasure: str, *, by: Author, once: Once | None = None) -> Done:
        """Record that what is sealed about a subject is erased; ``shred`` MUST follow the commit.

        A crash between the two is mended by the next ``shred``, at the latest at the next start.
        """

        def decide(_: datetime) -> Event:
            record = self._holding(erasure, "era_")
            here = self.vault.keys_of(record.subject)
            keys = {*here, *self.finder.unerased_keys(record.subject)}
            keys -= {*self.finder.erased_keys(here)}
            event = record.confirm_erasure(erasure=erasure, keys=sorted(keys), by=by)
            if self._rehearsed is None:  # the vault's file would not be rolled back with the rest
                self.vault.retire(record.subject)
            return event

        def cause() -> int:
            return self._holding(erasure, "era_").erasures[erasure].requested.position

        return self._decide(decide, by=by, once=once, caused_by=cause)

    def shred(self) -> int:
        """Destroy every key that an event says is destroyed; return how many were still there.

        All of them each time: an old vault file may have been put back meanwhile.
        """
        with self.recorder.store.turn:
            # The event could still be rolled back, and the keys would be gone without it.
            assert not self.recorder.in_transaction, "keys are destroyed after the commit"
        destroyed, after = 0, 0
        while True:
            done = self.finder.erasures_done(after=after, limit=ERASURES_TOGETHER_MAX)
            # The events themselves are asked: a changed row of a projection destroys no key.
            found = [self.recorder.event(position) for _, position in done]
            events = [recorded.event for recorded in found if recorded is not None]
            destroyed += self.vault.destroy(
                key
                for event in events
                if isinstance(event, PersonalDataErased)
                for key in event.keys
            )
            if len(done) < ERASURES_TOGETHER_MAX:
                return destroyed
            after = done[-1][0]

    # --- policies and the catalogue ---------------------------------------------------------------

    def publish(
        self,
        policy: str,
        *,
        title: str,
        clauses: Sequence[Clause],
        effective_at: datetime | None = None,
        by: Author,
        once: Once | None = None,
    ) -> Done:
        """Publish the next version of a policy, unless the newest says the same."""

        def decide(now: datetime) -> Event | Recorded:
            current = self._policy(policy)
            event = current.publish(
                title=title, clauses=clauses, effective_at=effective_at, now=now
            )
            return event or current.published[-1]

        return self._decide(decide, by=by, once=once)

    def list_resource(
        self,
        resource: Resource,
        *,
        properties: Properties,
        actions: tuple[str, ...] | None = None,
        by: Author,
        once: Once | None = None,
    ) -> Done:
        """Put a resource into the catalogue, or set its entry anew."""

        def decide(_: datetime) -> Event | Recorded:
            entries = self.recorder.stream(f"resource/{resource.key}")
            entry = entries[-1].event if entries else None
            assert entry is None or isinstance(entry, ResourceListed)
            event = list_resource(entry, resource=resource, properties=properties, actions=actions)
            return event or entries[-1]

        return self._decide(decide, by=by, once=once)

    def define_group(
        self,
        group: str,
        *,
        resources: tuple[Resource, ...],
        by: Author,
        once: Once | None = None,
    ) -> Done:
        """Set the members of a group; suspensions that name it cover them from now on."""

        def decide(_: datetime) -> Event | Recorded:
            definitions = self.recorder.stream(f"group/{group}")
            definition = definitions[-1].event if definitions else None
            assert definition is None or isinstance(definition, GroupDefined)
            event = define_group(definition, group=group, resources=resources)
            return event or definitions[-1]

        return self._decide(decide, by=by, once=once)

    # --- operators and the ledger itself ----------------------------------------------------------

    def open(self, origin: str, *, log_key: str) -> Done:
        """Begin the ledger: its first fact. Raises ``InvalidValue`` when it has begun.

        ``log_key`` is the public key of its transparency log.
        """

        def decide(_: datetime) -> Event:
            if self.recorder.position:
                raise InvalidValue("this database holds a ledger already")
            return LedgerOpened(origin=origin, log_key=log_key)

        return self._decide(decide, by=SYSTEM_AUTHOR, once=None)

    def rotate_log_key(self, log_key: str) -> Done:
        """Let another key sign the log, from the tree that holds this fact on."""
        return self._decide(lambda _: LogKeyRotated(log_key=log_key), by=SYSTEM_AUTHOR, once=None)

    def record_recovery(
        self, *, lost_from: int, checkpoint_size: int, checkpoint_root: str
    ) -> Done:
        """Say that events which a checkpoint commits to are lost."""
        event = LedgerRecovered(
            lost_from=lost_from, checkpoint_size=checkpoint_size, checkpoint_root=checkpoint_root
        )
        return self._decide(lambda _: event, by=SYSTEM_AUTHOR, once=None)

    def enroll(self, operator: str, *, role: Role, by: Author, once: Once | None = None) -> Done:
        """Let an operator act in a role, or change its role."""

        def decide(now: datetime) -> Event | Recorded:
            current = self._operator(operator)
            event = current.enroll(role=role)
            if event and current.has_usable_admin_key(now):
                self._keep_an_admin(operator, None, now)
            return event or _held(current.newest)

        return self._decide(decide, by=by, once=once)

    def issue_key(
        self,
        operator: str,
        *,
        expires_at: datetime | None = None,
        label: str | None = None,
        by: Author,
        once: Once | None = None,
    ) -> Done:
        """Give an operator one more key. The key is in ``Done.secret`` and nowhere else."""
        secret = KEY_PREFIX + secrets.token_urlsafe(32)
        done = self._decide(
            lambda now: self._operator(operator).issue_key(
                key=self._new_id("key", now),
                sha256=key_digest(secret),
                expires_at=expires_at,
                label=label,
                now=now,
            ),
            by=by,
            once=once,
        )
        return replace(done, secret=secret) if done.outcome == "recorded" else done

    def revoke_key(self, key: str, *, by: Author, once: Once | None = None) -> Done:
        """Refuse a key from now on. Raises ``LastAdminKey`` when nobody could administer then."""

        def decide(now: datetime) -> Event:
            operator = self._operator(self._stream_of(key, "key_").removeprefix("operator/"))
            event = operator.revoke_key(key)
            if operator.has_usable_admin_key(now):
                self._keep_an_admin(operator.id, key, now)
            return event

        return self._decide(decide, by=by, once=once)

    # --- reading for answers about the past -------------------------------------------------------

    def known(self, subjects: Iterable[Subject], *, position: int | None = None) -> Known:
        """Return the records of subjects and all their ancestors, and the catalogue, as known then.

        Ancestors by links that stood at any time are included, so any instant can be asked.
        """
        with self.recorder.store.transaction(commit=False):
            head = self.recorder.position
            until = head if position is None else min(position, head)
            records: dict[Subject, Record] = {}
            waiting = list(subjects)
            while waiting:
                subject = waiting.pop()
                if subject in records:
                    continue
                events = self.recorder.stream(f"subject/{subject.key}", until=until)
                if events:
                    records[subject] = Record.replay(subject, events)
                    waiting.extend(link.parent for link in records[subject].links)
            catalogue = Catalogue.replay(self.recorder.streams("resource", until=until))
            for recorded in self.recorder.streams("group", until=until):
                catalogue.evolve(recorded)
            return Known(until, records, catalogue)

    def log_keys(self) -> tuple[LogKey, ...]:
        """Return the keys of the transparency log, oldest first, with the sizes they may sign."""
        named: list[tuple[int, VerifierKey]] = [
            (recorded.position, parse_vkey(recorded.event.log_key))
            for recorded in self.recorder.stream(
                "ledger", types=(LedgerOpened.TYPE, LogKeyRotated.TYPE)
            )
            if isinstance(recorded.event, LedgerOpened | LogKeyRotated)
        ]
        ends: list[int | None] = [position - 1 for position, _ in named[1:]]
        return tuple(
            LogKey(key, position, last)
            for (position, key), last in zip(named, [*ends, None], strict=False)
        )

    def policies(self, *, position: int | None = None) -> list[Policy]:
        """Return every policy with its versions, by id, as known at a position."""
        found: dict[str, Policy] = {}
        for recorded in self.recorder.streams("policy", until=position):
            id_ = recorded.stream.removeprefix("policy/")
            found.setdefault(id_, Policy(id_)).evolve(recorded)
        return [found[id_] for id_ in sorted(found)]

    # --- how a decision becomes a fact ------------------------------------------------------------

    @contextmanager
    def together(self) -> Iterator[None]:
        """Commit several commands at once; each is still refused by itself.

        None of them may be answered before this returns.
        """
        with self._transaction():
            yield

    def rehearse(self, command: Callable[[], Done]) -> Rehearsed:
        """Say what a command would lead to now, and record nothing; raise what it would raise.

        It is carried out like any other and then rolled back, so every rule and limit has its say.
        Nothing is left of it, not even a data key: what it seals is sealed by one that is thrown
        away. It promises nothing: whatever is recorded before the command comes may change it.
        """
        with self.recorder.store.turn:
            assert not self.recorder.in_transaction, "it would take back what others have written"
            self._rehearsed = []
            try:
                with self._transaction():
                    done = command()
                    raise _TakenBack  # noqa: TRY301 - it ends the transaction
            except _TakenBack:
                return Rehearsed(replace(done, secret=None), tuple(self._rehearsed))
            finally:
                self._rehearsed = None

    def run_together(
        self, commands: Sequence[Callable[[], T]], foreseen: Sequence[Foreseen] = ()
    ) -> list[T | Exception]:
        """Run commands in one transaction; return what each returned, or why it was refused.

        Raises when the transaction fails: then nothing of any of them is recorded.
        """
        try:
            return self._run_joined(commands, foreseen)
        except _HalfDone:
            with self._transaction():
                return [self._outcome_of(command) for command in commands]

    def _run_joined(
        self, commands: Sequence[Callable[[], T]], foreseen: Sequence[Foreseen]
    ) -> list[T | Exception]:
        """Run commands in one transaction that reads for all and writes for all.

        None of them has a savepoint, which nearly always would have nothing to take back: what a
        rule refuses has written nothing. Raises ``_HalfDone`` where one would have been needed.
        """
        results: list[T | Exception] = []
        with self._transaction():
            self._read_ahead(foreseen)
            try:
                with self.recorder.store.holding() as self._joined:
                    for command in commands:
                        before = self._appended
                        outcome = self._outcome_of(command)
                        results.append(outcome)
                        # What the database refused, it may have answered by rolling back all.
                        if isinstance(outcome, Exception) and (
                            self._appended != before or not isinstance(outcome, LedgerError)
                        ):
                            raise _HalfDone from outcome  # noqa: TRY301 - it ends the block
            except (LedgerError, _HalfDone):
                raise
            except Exception as error:
                raise _HalfDone from error  # whose insert it was that was held back, nobody knows
            finally:
                self._joined = None
        return results

    @staticmethod
    def _outcome_of(command: Callable[[], T]) -> T | Exception:
        try:
            return command()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the command's own
            return error

    def _read_ahead(self, foreseen: Sequence[Foreseen]) -> None:
        self.recorder.read_ahead(each.command for each in foreseen if each.command)
        subjects = {subject for each in foreseen for subject in each.subjects}
        kept = {
            f"subject/{each.key}": self._kept(f"subject/{each.key}", partial(Record, each))
            for each in subjects
        }
        behind = {
            stream: each
            for stream, each in kept.items()
            if each.generation != self.recorder.generation
        }
        versions = {stream: each.version for stream, each in behind.items()}
        for recorded in self.recorder.newer(versions):
            behind[recorded.stream].evolve(recorded)
        for each in behind.values():
            each.generation = self.recorder.generation

    @contextmanager
    def _transaction(self) -> Iterator[Cursor]:
        # The turn is kept until the cache is cleared, or another thread could decide on it first.
        with self.recorder.store.turn:
            if self._joined is not None:
                yield self._joined
                return
            before = self._appended
            try:
                with self.recorder.transaction() as c:
                    yield c
            except IntegrityError as error:
                # Only somebody who wrote around the lock can have taken the place of this event.
                self._folded.clear()
                raise Conflict(f"the event's place in its stream is taken: {error}") from error
            except _TakenBack:
                # All that was folded stays true but for the streams that were appended to.
                for each in self._rehearsed or ():
                    self._folded.pop(each.stream, None)
                raise
            except BaseException:
                if self._appended != before:
                    # What was folded since may include events that are now rolled back.
                    self._folded.clear()
                raise

    def _decide(
        self,
        decide: Decision,
        *,
        by: Author,
        once: Once | None,
        consequences: Consequences | None = None,
        caused_by: Callable[[], int] | None = None,
    ) -> Done:
        with self.recorder.store.turn:
            if self._joined is not None:  # as ``_transaction`` does, many times a second
                return self._decided(self._joined, decide, by, once, consequences, caused_by)
            with self._transaction() as c:
                return self._decided(c, decide, by, once, consequences, caused_by)

    def _decided(
        self,
        c: Cursor,
        decide: Decision,
        by: Author,
        once: Once | None,
        consequences: Consequences | None,
        caused_by: Callable[[], int] | None,
    ) -> Done:
        """Decide inside a transaction."""
        if once and (before := self._done_before(c, by, once)):
            return before
        now = self.recorder.now()
        decided = decide(now)
        if isinstance(decided, Recorded):
            done = Done(decided, "unchanged")
        else:
            led_by = caused_by() if caused_by else None
            done = Done(self._append(c, decided, by=by, now=now, caused_by=led_by))
            if consequences:
                cause = done.recorded.position
                for event in consequences(done.recorded, now):
                    self._append(c, event, by=by, now=now, caused_by=cause)
        if once:
            self.recorder.remember_command(
                c,
                by.operator,
                once.key,
                once.fingerprint,
                done.recorded.position,
                recorded=done.outcome == "recorded",
            )
        return done

    def _done_before(self, c: Cursor, by: Author, once: Once) -> Done | None:
        found = self.recorder.find_command(c, by.operator, once.key)
        if found is None:
            return None
        fingerprint, position, recorded = found
        if fingerprint != once.fingerprint:
            raise IdempotencyKeyReused(
                f"this key was used for another request, which led to event {position}"
            )
        before = _held(self.recorder.event_led_to(position))
        return Done(before, "repeated" if recorded else "unchanged")

    def _append(
        self, c: Cursor, event: Event, *, by: Author, now: datetime, caused_by: int | None = None
    ) -> Recorded:
        stream = event.stream
        kept = self._folded.get(stream)
        if kept is not None and kept.generation == self.recorder.generation:
            version = kept.version + 1
        else:
            kept = None
            c.execute("SELECT max(version) FROM events WHERE stream = ?", (stream,))
            version = (c.fetchone()[0] or 0) + 1
        if isinstance(event, SubjectEvent):
            event = self.vault.seal(event, version, keep=self._rehearsed is None)
        self._appended += 1
        recorded = self.recorder.append(
            c, Placed(stream, version, Draft(event, by, caused_by)), now
        )
        if self._rehearsed is not None:
            self._rehearsed.append(recorded)
        if kept is not None:
            kept.evolve(recorded)
        return recorded

    def _new_id(self, prefix: str, now: datetime) -> str:
        return sortable_id(prefix, now, self._entropy(10))

    # --- what decisions look at -------------------------------------------------------------------

    def _record(self, subject: Subject) -> Record:
        return self._fold(f"subject/{subject.key}", lambda: Record(subject))

    def _policy(self, policy: str) -> Policy:
        return self._fold(f"policy/{policy}", lambda: Policy(policy))

    def _operator(self, operator: str) -> Operator:
        return self._fold(f"operator/{operator}", lambda: Operator(operator))

    def _fold(self, stream: str, new: Callable[[], FoldedT]) -> FoldedT:
        """Return a stream folded up to now; only what others added since the last time is read."""
        kept = self._kept(stream, new)
        if kept.generation != self.recorder.generation:
            for recorded in self.recorder.stream(stream, after=kept.version):
                kept.evolve(recorded)
            kept.generation = self.recorder.generation
        return kept.state

    def _kept(self, stream: str, new: Callable[[], FoldedT]) -> _Folded[FoldedT]:
        """Return a stream as it is folded so far."""
        kept: _Folded[FoldedT] | None = self._folded.get(stream)
        if kept is None:
            kept = self._folded[stream] = _Folded(new())
            if len(self._folded) > FOLDED_STREAMS_MAX:
                self._folded.popitem(last=False)
        self._folded.move_to_end(stream)
        return kept

    def _stream_of(self, id_: str, prefix: str) -> str:
        stream = self.finder.stream_of(id_) if id_.startswith(prefix) else None
        if stream is None:
            raise NotFound(f"nothing is recorded under the id {id_!r}")
        return stream

    def _holding(self, id_: str, *prefixes: str) -> Record:
        """Return the record that holds a suspension or violation; raises ``NotFound``.

        Given prefixes, the id must have one of them instead.
        """
        allowed = prefixes or ("sus_", "vio_")
        stream = self._stream_of(id_, id_[:4] if id_[:4] in allowed else allowed[0])
        return self._record(Subject.parse(stream.removeprefix("subject/")))

    def _violation(self, violation: str) -> Violation | None:
        stream = self.finder.stream_of(violation) if violation.startswith("vio_") else None
        if stream is None:
            return None
        record = self._record(Subject.parse(stream.removeprefix("subject/")))
        return record.violations.get(violation)

    def _stands(self, violation: str) -> bool:
        found = self._violation(violation)
        return found is not None and found.stands

    def _grounds(self, subject: Subject, ids: Sequence[str], now: datetime) -> list[Ground]:
        grounds = []
        for id_ in dict.fromkeys(ids):
            violation = self._violation(id_)
            if violation is None:
                grounds.append(Ground(id_, None))
                continue
            owner = violation.event.subject
            below = owner == subject or subject in longest_ways_up(
                owner, lambda subject: self._record(subject).parents(now)
            )
            grounds.append(Ground(id_, violation, below))
        return grounds

    def _keep_an_admin(self, operator: str, key: str | None, now: datetime) -> None:
        """Raise ``LastAdminKey`` unless somebody could still administer.

        ``key`` is the key of ``operator`` that goes; ``None``: all of its keys go.
        """
        names = dict.fromkeys(
            recorded.stream.removeprefix("operator/")
            for recorded in self.recorder.streams("operator")
        )
        for name in names:
            if name == operator and key is None:
                continue
            if self._operator(name).has_usable_admin_key(now, besides=key):
                return
        raise LastAdminKey("no other admin key is usable; without one nobody could issue keys")


def key_digest(key: str) -> str:
    """Return what is recorded of a key. One SHA-256 is enough: a key has 256 random bits."""
    return hashlib.sha256(key.encode()).hexdigest()


def _held(recorded: Recorded | None) -> Recorded:
    assert recorded is not None, "a fact that holds was recorded"
    return recorded
