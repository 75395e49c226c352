"""Random histories: whatever a provider may do to its ledger, in any order, by any clock.

A ``Random`` draws everything, so a seed repeats a history, and one that Hypothesis plays shrinks.
Many commands are refused; that a refusal changes nothing is a part of what the tests look at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Final, TypeVar

from ledger.application import SYSTEM_AUTHOR, Done, Once
from ledger.domain.access import Request, UnknownSubjects
from ledger.domain.errors import LedgerError
from ledger.domain.events import (
    Author,
    Clause,
    Recorded,
    SubjectSuspended,
    SuspensionRevised,
    ViolationRecorded,
)
from ledger.domain.values import Basis, Cause, Ending, Evidence, Resource, Role, Scope, Subject
from ledger.service.wiring import Service, build
from tests.conftest import SetClock, settings_at

T = TypeVar("T")

SUBJECTS: Final = [
    Subject.parse(key)
    for key in (
        "user:ann",
        "user:bob",
        "user:zoë:2",
        "application:desk",
        "organization:acme",
        "organization:acme-holding",
    )
]
STRANGER: Final = Subject(type="user", id="nobody-knows")
RESOURCES: Final = [
    Resource.parse(key) for key in ("model:m1", "model:m2", "model:m3", "tool:m1", "tool:t1")
]
NOT_LISTED: Final = Resource(type="model", id="not-listed")
GROUPS: Final = ("frontier", "legacy")
ACTIONS: Final = ("use", "fine_tune", "export")
CLAUSES: Final = ("fraud", "disinformation")
EVIDENCE: Final = Evidence(uri="s3://evidence/ann", sha256="0" * 64, personal=True)
TICK: Final = timedelta(microseconds=1)

# Values that are easily taken for one another.
VALUES: Final[tuple[object, ...]] = ("released", "preview", "1", 1, 1.0, True, ("preview", True))
NAMES: Final = ("status", "region")

OFFICER: Final = Author("the-officer")


@dataclass(frozen=True)
class Command:
    """A method of ``Ledger`` and its arguments."""

    name: str
    arguments: Mapping[str, Any]

    def run(self, service: Service, *, by: Author = OFFICER, once: Once | None = None) -> Done:
        """Run it; raises what it is refused with."""
        by = self.author(by)
        done: Done = getattr(service.ledger, self.name)(**self.arguments, by=by, once=once)
        return done

    def author(self, by: Author) -> Author:
        """Return who gives it: an erasure is confirmed by somebody else than who requested it."""
        return replace(by, operator="the-approver") if self.name == "confirm_erasure" else by


@dataclass
class Drawing:
    """Draws commands, instants and requests that fit what was recorded so far, more or less."""

    random: Random
    subjects: Sequence[Subject] = field(default_factory=lambda: SUBJECTS)
    violations: list[str] = field(default_factory=list)
    owners: dict[str, Subject] = field(default_factory=dict)
    suspensions: list[str] = field(default_factory=list)
    instants: list[datetime] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    erasures: list[str] = field(default_factory=list)
    holds: list[str] = field(default_factory=list)

    def command(self, now: datetime) -> Command:
        """Draw a command that is given at ``now``."""
        draw = self.random.choice(_COMMANDS)
        name = draw.__name__.strip("_")
        return Command(name, draw(self, now))

    def learn(self, recorded: Recorded) -> None:
        """Take note of the ids and instants in a recorded event."""
        id_, event = recorded.event.about or "", recorded.event
        for prefix, ids in (
            ("vio_", self.violations),
            ("sus_", self.suspensions),
            ("key_", self.keys),
            ("era_", self.erasures),
            ("hld_", self.holds),
        ):
            if id_.startswith(prefix) and id_ not in ids:
                ids.append(id_)
        match event:
            case SubjectSuspended(effective_at=start, ends_at=end):
                self.instants += [start, end] if end else [start]
            case ViolationRecorded(violation=violation, subject=owner):
                self.owners[violation] = owner
            case SuspensionRevised(ends_at=end) if end:
                self.instants.append(end)
            case _:
                pass

    def instant(self, now: datetime) -> datetime:
        """Draw an instant: near or far, before or after, at what matters or a tick beside it."""
        if self.instants and self.chance(2):
            return self.one(self.instants) + TICK * self.random.randint(-1, 1)
        unit = self.one([TICK, timedelta(seconds=1), timedelta(hours=7), timedelta(days=11)])
        return now + unit * self.random.randint(-1, 5)

    def move(self, clock: SetClock) -> None:
        """Move the clock; mostly forward, at times back, as clocks do."""
        clock.now = self.instant(clock.now)

    def request(self) -> Request:
        """Draw what is asked of the access rule."""
        random = self.random
        return Request(
            subject=self.one([*SUBJECTS, STRANGER]),
            resource=self.one([*RESOURCES, NOT_LISTED]),
            action=self.one([*ACTIONS, "other"]),
            through=tuple(self.some(SUBJECTS, 3)) if self.chance(3) else (),
            subject_properties=self.properties() if self.chance(4) else {},
            resource_properties=self.properties() if self.chance(4) else {},
            action_properties=self.properties() if random.random() < 0.5 else {},
        )

    # --- parts ------------------------------------------------------------------------------------

    def one(self, among: Sequence[T]) -> T:
        """Draw one."""
        return among[self.random.randrange(len(among))]

    def some(self, among: Sequence[T], most: int) -> list[T]:
        """Draw up to ``most`` of them, each once."""
        return self.random.sample(among, self.random.randint(0, min(most, len(among))))

    def chance(self, of: int) -> bool:
        """Say yes once in ``of`` times."""
        return self.random.randrange(of) == 0

    def properties(self) -> dict[str, object]:
        """Draw properties of a subject, a resource or an action."""
        return {name: self.one(VALUES) for name in self.some(NAMES, 2)}

    def scope(self) -> Scope:
        """Draw a scope, with selectors of every kind."""
        selectors: list[dict[str, str]] = []
        for _ in range(self.random.randint(1, 2)):
            kind = self.random.randrange(4)
            if kind == 0:
                selectors.append({"type": self.one(["model", "tool"])})
            elif kind == 1:
                selectors.append(self.one([*RESOURCES, NOT_LISTED]).model_dump())
            else:
                selectors.append({"group": self.one(GROUPS) if not self.chance(20) else "ghosts"})
        scope: dict[str, object] = {"resources": selectors}
        if self.chance(3):
            scope["actions"] = self.some(ACTIONS, 2) or ["use"]
        if self.chance(3):
            scope["conditions"] = [self.condition() for _ in range(self.random.randint(1, 2))]
        return Scope.model_validate(scope)

    def condition(self) -> dict[str, object]:
        """Draw a condition on a property."""
        entity = self.one(["resource", "subject", "action"])
        attribute = {"attribute": f"{entity}.properties.{self.one(NAMES)}"}
        scalars = [value for value in VALUES if not isinstance(value, tuple)]
        match self.random.randrange(3):
            case 0:
                return {**attribute, "exists": self.chance(2)}
            case 1:
                return {**attribute, "in": self.some(scalars, 3) or ["released"]}
            case _:
                return {**attribute, "not_in": self.some(scalars, 3) or ["released"]}

    def term(self, now: datetime) -> dict[str, object]:
        """Draw the end of a term; at times none or two, which is refused."""
        if self.chance(25):
            return self.one([{}, {"duration": "P1D", "indefinite": True}])
        match self.random.randrange(4):
            case 0:
                return {"ends_at": self.instant(now)}
            case 1:
                return {"indefinite": True}
            case _:
                return {"duration": self.one(["P2M", "P1M", "P14D", "P1W", "PT36H", "PT1S"])}

    def id_of(self, ids: Sequence[str], otherwise: str) -> str:
        """Draw the id of something that was recorded, mostly of late; or one that never was."""
        if not ids or self.chance(30):
            return otherwise
        return self.one(ids[-4:] if not self.chance(4) else ids)


# --- what each command may look like --------------------------------------------------------------


def _suspend(draw: Drawing, now: datetime) -> dict[str, Any]:
    basis = draw.one([Basis.VIOLATIONS, Basis.PRECAUTIONARY, Basis.LEGAL_ORDER])
    grounds = draw.some(draw.violations[-4:], 2) if basis is Basis.VIOLATIONS else []
    subject = draw.one(draw.subjects)
    if grounds and not draw.chance(4):  # mostly of whom it is about
        subject = draw.owners.get(grounds[0], subject)
    return {
        "subject": subject,
        "scope": draw.scope(),
        **draw.term(now),
        "effective_at": draw.instant(now) if draw.chance(2) else None,
        "basis": basis,
        "grounds": grounds,
        "reason": draw.one(["Fraud.", "Again and again."]),
        "note": "For officers only." if draw.chance(5) else None,
        "reinstatement": Ending.ON_REVIEW if draw.chance(4) else Ending.AUTOMATIC,
    }


def _record_violation(draw: Drawing, now: datetime) -> dict[str, Any]:
    # Few people break the rules, and those again and again.
    return {
        "subject": draw.one([*draw.subjects, *[*draw.subjects[:2]] * 4]),
        "policy": draw.one(["aup", "aup", "aup@1", "aup@2"]),
        "clause": draw.one([*CLAUSES, "fraud", "fraud"]),
        "occurred_at": draw.instant(now),
        "detected_by": "human",
        "summary": "It happened.",
        "details": "Seen by two." if draw.chance(4) else None,
        "evidence": (EVIDENCE,) if draw.chance(8) else (),
        "resources": tuple(draw.some(RESOURCES, 2)),
    }


def _revise(draw: Drawing, now: datetime) -> dict[str, Any]:
    suspension = draw.id_of(draw.suspensions, "sus_none")
    return {"suspension": suspension, **draw.term(now), "reason": "Considered again."}


def _cancel(draw: Drawing, _: datetime) -> dict[str, Any]:
    return {"suspension": draw.id_of(draw.suspensions, "sus_none"), "reason": "Not needed."}


def _reinstate(draw: Drawing, now: datetime) -> dict[str, Any]:
    return {
        "suspension": draw.id_of(draw.suspensions, "sus_none"),
        "cause": draw.one([Cause.EARLY, Cause.ERROR, Cause.LEGAL_ORDER, *Cause]),
        "reason": "Enough.",
        "effective_at": draw.instant(now) if draw.chance(4) else None,
    }


def _overturn(draw: Drawing, _: datetime) -> dict[str, Any]:
    return {"violation": draw.id_of(draw.violations, "vio_none"), "reason": "Mistaken."}


def _warn(draw: Drawing, _: datetime) -> dict[str, Any]:
    grounds = draw.some(draw.violations, 2)
    return {"subject": draw.one(draw.subjects), "grounds": grounds, "reason": "Take care."}


def _link(draw: Drawing, _: datetime) -> dict[str, Any]:
    return {"subject": draw.one(draw.subjects), "parent": draw.one(draw.subjects)}


def _unlink(draw: Drawing, _: datetime) -> dict[str, Any]:
    return {"subject": draw.one(draw.subjects), "parent": draw.one(draw.subjects)}


def _register(draw: Drawing, _: datetime) -> dict[str, Any]:
    return {"subject": draw.one(draw.subjects), "properties": draw.properties()}


def _list_resource(draw: Drawing, _: datetime) -> dict[str, Any]:
    actions = tuple(draw.some(ACTIONS, 3)) or None
    return {
        "resource": draw.one(RESOURCES),
        "properties": draw.properties(),
        "actions": actions,
    }


def _define_group(draw: Drawing, _: datetime) -> dict[str, Any]:
    return {"group": draw.one(GROUPS), "resources": tuple(draw.some(RESOURCES, 4))}


def _publish(draw: Drawing, now: datetime) -> dict[str, Any]:
    return {
        "policy": "aup",
        "title": draw.one(["Acceptable use", "Acceptable use, revised"]),
        "clauses": [clause_of(name) for name in draw.some(CLAUSES, 2) or ["fraud"]],
        "effective_at": draw.instant(now) if draw.chance(2) else None,
    }


def _issue_key(draw: Drawing, now: datetime) -> dict[str, Any]:
    expires_at = draw.instant(now) if draw.chance(2) else None
    return {"operator": "the-auditor", "expires_at": expires_at, "label": None}


def _request_erasure(draw: Drawing, _: datetime) -> dict[str, Any]:
    return {"subject": draw.one(draw.subjects), "reason": "Asked for."}


def _confirm_erasure(draw: Drawing, _: datetime) -> dict[str, Any]:
    return {"erasure": draw.id_of(draw.erasures, "era_none")}


def _place_hold(draw: Drawing, _: datetime) -> dict[str, Any]:
    return {"subject": draw.one(draw.subjects), "reason": "A case is pending."}


def _lift_hold(draw: Drawing, _: datetime) -> dict[str, Any]:
    return {"hold": draw.id_of(draw.holds, "hld_none")}


def _revoke_key(draw: Drawing, _: datetime) -> dict[str, Any]:
    return {"key": draw.id_of(draw.keys, "key_none")}


_COMMANDS: Final[Sequence[Callable[[Drawing, datetime], dict[str, Any]]]] = (
    *[_suspend] * 8,
    *[_record_violation] * 4,
    *[_revise] * 3,
    *[_reinstate] * 3,
    *[_link] * 3,
    *[_overturn] * 2,
    *[_cancel] * 2,
    *[_register] * 2,
    *[_list_resource] * 2,
    *[_define_group] * 2,
    _unlink,
    _warn,
    _publish,
    _issue_key,
    _revoke_key,
    _request_erasure,
    _confirm_erasure,
    _place_hold,
    _lift_hold,
)


# --- the ledger they happen to --------------------------------------------------------------------


def clause_of(name: str) -> Clause:
    """Return a clause of the policy ``aup``."""
    return Clause(id=name, title=name.title(), text=f"No {name}.", category=name, severity="high")


def founded(
    folder: Path,
    clock: SetClock,
    *,
    unknown: UnknownSubjects = "allow",
    url: str | None = None,
) -> Service:
    """Build a service on a new file, with operators, a policy, four resources and two groups.

    ``url`` names another database, which must be empty.
    """
    url = url or f"sqlite:///{folder / 'ledger.db'}"
    settings = settings_at(url, folder, unknown_subject=unknown)
    service = build(settings, clock=clock)
    ledger = service.ledger
    with ledger.together():
        service.open()
        for role in Role:
            ledger.enroll(f"the-{role}", role=role, by=SYSTEM_AUTHOR)
            ledger.issue_key(f"the-{role}", by=SYSTEM_AUTHOR)
        admin = Author("the-admin")
        ledger.publish(
            "aup",
            title="Acceptable use",
            clauses=[clause_of(name) for name in CLAUSES],
            effective_at=None,
            by=admin,
        )
        for resource in RESOURCES[:4]:
            ledger.list_resource(resource, properties={"status": "released"}, by=admin)
        ledger.define_group("frontier", resources=tuple(RESOURCES[:2]), by=admin)
        ledger.define_group("legacy", resources=(RESOURCES[3],), by=admin)
    return service


def awake(service: Service) -> Service:
    """Load what checks read and let it follow this service's own writes, without any thread.

    What others write is taken in by ``service.feed.catch_up()``, when the test says so.
    """
    service.feed.position = service.load()
    service.recorder.committed = service.feed.committed
    return service


def happen(service: Service, drawing: Drawing, commands: int) -> list[LedgerError]:
    """Let commands happen, each by a clock that moved; return the refusals.

    Now and then the ticker looks, too.
    """
    clock = service.clock
    assert isinstance(clock, SetClock)
    refusals = []
    for _ in range(commands):
        if drawing.chance(3):
            drawing.move(clock)
        if drawing.chance(8):
            service.ticker.tick()
        try:
            done = drawing.command(service.now()).run(service)
        except LedgerError as refusal:
            refusals.append(refusal)
        else:
            drawing.learn(done.recorded)
        service.ledger.shred()
    return refusals


def lists_of(service: Service, at: datetime, position: int) -> dict[str, object]:
    """Everything that can be listed as it stood at an instant and was known at a position."""
    access, conduct, trail = service.access, service.conduct, service.trail
    both: dict[str, Any] = {"position": position, "limit": 1_000}
    with service.reading() as (c, _):
        return {
            "suspensions": access.suspensions(c, at=at, **both),
            "in force": access.suspensions(c, at=at, in_force_at=at + TICK, **both),
            "for review": access.suspensions(c, at=at, review=True, **both),
            "not for review": access.suspensions(c, at=at, review=False, **both),
            "for fraud": access.suspensions(c, at=at, category="fraud", oldest_first=True, **both),
            "for aup@1": access.suspensions(c, at=at, policy="aup@1", **both),
            "of ann": access.suspensions(c, at=at, subject="user:ann", **both),
            "reinstatements": access.reinstatements(c, **both),
            "violations": conduct.violations(c, at=at, **both),
            "standing": conduct.violations(c, at=at, state="stands", **both),
            "warnings": conduct.warnings(c, **both),
            "trail": trail.events(c, **both),
            "of the model": trail.events(c, resource="model:m1", **both),
            "with words": trail.events(c, q="suspend* fraud", **both),
            "counts": trail.counts(c, position=position),
            "links": [access.links_of(c, s, position=position, at=at) for s in SUBJECTS],
        }
