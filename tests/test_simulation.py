"""A random world from a seed: commands, faults, crashes, rebuilds, two services on one file.

Beside it stands a model that knows nothing of events: terms in a dictionary. After every step both
are asked who is suspended from what until when. ``pytest tests/test_simulation.py -k seed-7`` plays
one world again.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Final

import pytest
from eventsourcing.persistence import Cursor

from ledger.application import Done, Once
from ledger.domain.access import Request
from ledger.domain.errors import IdempotencyKeyReused, LedgerError
from ledger.domain.events import Recorded, SubjectReinstated, SuspensionCancelled
from ledger.domain.values import (
    Basis,
    Cause,
    Ending,
    Resource,
    Scope,
    Subject,
    from_microseconds,
    microseconds,
)
from ledger.service.wiring import Service, build
from ledger.store.replay import rebuild
from tests.checks import check_ledger
from tests.conftest import SetClock
from tests.histories import OFFICER, RESOURCES, Command, Drawing, awake, founded

STEPS = 110
QUESTIONS = 4  # after each step

LENGTHS: Final = {
    "PT1S": timedelta(seconds=1),
    "PT36H": timedelta(hours=36),
    "P1W": timedelta(weeks=1),
    "P14D": timedelta(days=14),
}


# --- the model ------------------------------------------------------------------------------------


@dataclass
class Term:
    """One suspension: from when until when; ``over`` is when somebody ended it."""

    subject: Subject
    scope: Scope
    start: datetime
    end: datetime | None
    automatic: bool
    rests_on: frozenset[str] | None
    over: datetime | None = None

    def closes(self) -> datetime | None:
        """Give the first instant at which it no longer counts."""
        ends = [end for end in (self.end if self.automatic else None, self.over) if end]
        return min(ends, default=None)

    def is_open(self, now: datetime) -> bool:
        """Tell whether it is scheduled or in force."""
        closes = self.closes()
        return closes is None or now < closes


@dataclass
class Model:
    """Who is suspended from what until when, in the plainest way there is."""

    terms: dict[str, Term] = field(default_factory=dict)
    parents: dict[Subject, set[Subject]] = field(default_factory=dict)
    groups: dict[str, set[Resource]] = field(default_factory=dict)
    properties: dict[str, dict[str, Any]] = field(default_factory=dict)
    fallen: set[str] = field(default_factory=set)

    def take(self, command: Command, done: Done, now: datetime) -> None:
        """Take in a command that was recorded."""
        given = command.arguments
        match command.name:
            case "suspend":
                start = given["effective_at"] or now
                self.terms[done.recorded.event.about or ""] = Term(
                    given["subject"],
                    given["scope"],
                    start,
                    end_of(given, start),
                    given["reinstatement"] is Ending.AUTOMATIC,
                    frozenset(given["grounds"]) if given["basis"] is Basis.VIOLATIONS else None,
                )
            case "revise":
                term = self.terms[given["suspension"]]
                term.end = end_of(given, term.start)
            case "cancel":
                self.terms[given["suspension"]].over = now
            case "reinstate":
                self.terms[given["suspension"]].over = given["effective_at"] or now
            case "overturn":
                self.fallen.add(given["violation"])
                for term in self.terms.values():
                    rests_on = term.rests_on or frozenset()
                    if given["violation"] in rests_on <= self.fallen and term.is_open(now):
                        term.over = now
            case "link":
                self.parents.setdefault(given["subject"], set()).add(given["parent"])
            case "unlink":
                self.parents[given["subject"]].discard(given["parent"])
            case "define_group":
                self.groups[given["group"]] = set(given["resources"])
            case "register":
                self.properties[f"subject {given['subject'].key}"] = given["properties"]
            case "list_resource":
                self.properties[f"resource {given['resource'].key}"] = given["properties"]

    def expects(self, command: Command, now: datetime) -> bool | None:
        """Foresee whether a command will be recorded; ``None``: that is for others to know."""
        given = command.arguments
        term = self.terms.get(given.get("suspension", ""))
        if command.name == "cancel":
            return term is not None and term.is_open(now) and now < term.start
        if command.name == "reinstate" and given["cause"] in (Cause.EARLY, Cause.LEGAL_ORDER):
            at = given["effective_at"] or now
            in_time = at == now or (at < now and given["cause"] is Cause.LEGAL_ORDER)
            return term is not None and term.is_open(now) and in_time
        return None

    def refusals(self, request: Request, at: datetime) -> tuple[set[str], datetime | None]:
        """Say which suspensions refuse a request, and when the first instant is that none does."""
        who, waiting = set[Subject](), [request.subject, *request.through]
        while waiting:
            subject = waiting.pop()
            if subject not in who:
                who.add(subject)
                waiting += self.parents.get(subject, ())
        covering = {
            id_: term
            for id_, term in self.terms.items()
            if term.subject in who and self.covers(term.scope, request)
        }
        counting = {id_ for id_, term in covering.items() if term.start <= at and term.is_open(at)}
        until: datetime | None = at
        while until is not None:
            now = [t for t in covering.values() if t.start <= until and t.is_open(until)]
            if not now:
                break
            ends = [term.closes() for term in now]
            until = None if None in ends else max(end for end in ends if end)
        return counting, until

    def covers(self, scope: Scope, request: Request) -> bool:
        """Tell whether a scope is about what is asked."""
        resource = request.resource
        labels = {resource.key, f"every {resource.type}"}
        labels |= {f"group:{name}" for name, members in self.groups.items() if resource in members}
        properties: Mapping[str, Mapping[str, object]] = {
            "subject": self.properties.get(f"subject {request.subject.key}", {})
            | dict(request.subject_properties),
            "resource": self.properties.get(f"resource {resource.key}", {})
            | dict(request.resource_properties),
            "action": request.action_properties,
        }
        return (
            bool(labels & {selector.label for selector in scope.resources})
            and (scope.actions is None or request.action in scope.actions)
            and all(condition.holds(properties) for condition in scope.conditions)
        )


def end_of(given: Mapping[str, Any], start: datetime) -> datetime | None:
    """Reckon the end of a term as it was given."""
    if "duration" in given:
        return start + LENGTHS[given["duration"]]
    return given.get("ends_at")


# --- the world ------------------------------------------------------------------------------------


class SimulationFault(Exception):
    """Something that breaks, because the simulation says so."""


class Breaking:
    """A projection that breaks in the middle of an append, when it is armed."""

    NAME: ClassVar[str] = "breaking"
    TABLES: ClassVar[Sequence[str]] = ()
    DDL: ClassVar[Sequence[str]] = ()

    def __init__(self) -> None:
        self.armed = False

    def apply(self, cursor: Cursor, recorded: Recorded) -> None:
        """Break once."""
        if self.armed:
            self.armed = False
            raise SimulationFault(f"at {recorded.position}")


class Draws(Drawing):
    """Draws terms whose end the model can reckon without a calendar."""

    def term(self, now: datetime) -> dict[str, object]:
        """Draw the end of a term."""
        term = super().term(now)
        if "duration" in term and "indefinite" not in term:
            return {"duration": self.one(list(LENGTHS))}
        return term


class World:
    """Two services on one file, by one clock; everything that happens is drawn from the seed."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = Random(seed)
        self.draw = Draws(self.random)
        self.clock = SetClock()
        self.steps = 0
        self.model = Model()
        self.folder = folder
        self.answered: dict[str, tuple[Command, int]] = {}
        self.happened = dict.fromkeys(("recorded", "refused", "broken", "crashed", "repeated"), 0)
        self.breaking = Breaking()
        first = founded(folder, self.clock)
        self.model.groups = {"frontier": set(RESOURCES[:2]), "legacy": {RESOURCES[3]}}
        for resource in RESOURCES[:4]:
            self.model.properties[f"resource {resource.key}"] = {"status": "released"}
        self.services = [self.woken(first), self.woken(self.another())]

    def another(self) -> Service:
        """Build one more service on the file."""
        settings = self.settings.model_copy(
            update={
                "database_url": f"sqlite:///{self.folder / 'ledger.db'}",
                "files": self.folder,
            }
        )
        return build(settings, clock=self.clock)

    def woken(self, service: Service) -> Service:
        """Let a service begin, with the projection that may break somewhere among the others."""
        self.settings = service.settings
        among = list(service.recorder.projections)
        among.insert(self.random.randint(0, len(among)), self.breaking)
        service.recorder.projections = among
        return awake(service)

    def step(self) -> None:
        """Let one thing happen, then ask."""
        service = self.draw.one(self.services)
        if self.draw.chance(3):
            self.draw.move(self.clock)
        match self.random.randrange(24):
            case 0:
                self.crash()
            case 1:
                self.repair(service)
            case 2:
                service.ticker.tick()
            case 3:
                self.repeat(service)
            case 4 | 5:
                self.together(service)
            case 6:
                self.breaking.armed = True
                self.one(service)
                self.breaking.armed = False
            case _:
                self.one(service)
        self.ask()

    def now(self, service: Service) -> datetime:
        """Reckon what the ledger will take for now."""
        newest = service.recorder.event(service.recorder.position)
        assert newest is not None
        return max(self.clock(), newest.recorded_at)

    def one(self, service: Service) -> None:
        """Give one command to a service."""
        command, now = self.draw.command(self.clock()), self.now(service)
        expected = self.model.expects(command, now)
        broken = self.happened["broken"]
        done = self.run(service, command)
        assert expected in (None, done is not None) or self.happened["broken"] > broken, command
        if done is not None:
            self.believe(command, done, now)
            if done.outcome == "recorded":
                assert service.index.position == service.recorder.position

    def run(self, service: Service, command: Command, once: Once | None = None) -> Done | None:
        """Run a command; what is refused or breaks records nothing."""
        before = service.recorder.position
        key = f"key-{self.random.getrandbits(64):x}"
        try:
            done = command.run(service, once=once or Once(key, command.name))
        except LedgerError:
            self.happened["refused"] += 1
        except SimulationFault:
            self.happened["broken"] += 1
        else:
            self.answered[key] = (command, done.recorded.position)
            return done
        assert before == service.recorder.position
        return None

    def believe(self, command: Command, done: Done, now: datetime) -> None:
        """Let the model and the drawing know what was recorded."""
        self.happened["recorded"] += 1
        self.draw.learn(done.recorded)
        if done.outcome == "recorded":
            self.model.take(command, done, now)

    def together(self, service: Service) -> None:
        """Commit several commands at once; some are refused, and at times all are lost."""
        lost = self.draw.chance(3)
        answered, now = dict(self.answered), self.now(service)
        believed: list[tuple[Command, Done]] = []
        try:
            with service.ledger.together():
                for _ in range(self.random.randint(1, 8)):
                    command = self.draw.command(self.clock())
                    if done := self.run(service, command):
                        believed.append((command, done))
                if lost:
                    raise SimulationFault("before the commit")  # noqa: TRY301 - to be caught here
        except SimulationFault:
            self.answered = answered
            return
        for command, done in believed:
            self.believe(command, done, now)

    def repeat(self, service: Service) -> None:
        """Give a command again under its key, and another under the same key."""
        if not self.answered:
            return
        key = self.draw.one(list(self.answered))
        command, position = self.answered[key]
        before = service.recorder.position
        done = command.run(service, once=Once(key, command.name))

        assert done.outcome != "recorded"
        assert position == done.recorded.position
        with pytest.raises(IdempotencyKeyReused):
            command.run(service, once=Once(key, "another request"))
        assert before == service.recorder.position
        self.happened["repeated"] += 1

    def repair(self, service: Service) -> None:
        """Rebuild; at times something has changed rows behind the ledger's back."""
        spoilt = self.draw.chance(2)
        if spoilt:
            with sqlite3.connect(self.folder / "ledger.db") as c:
                c.execute("UPDATE trail SET operator = 'nobody' WHERE position = 3")
                c.execute("DELETE FROM access_subjects")
                c.execute("INSERT INTO access_links VALUES ('a:b', 'a:c', 1, NULL, '', NULL)")
            c.close()
        found = rebuild(service.recorder, repair=True).differences

        assert spoilt is ("trail" in {difference.table for difference in found})
        assert [] == list(rebuild(service.recorder).differences)

    def crash(self) -> None:
        """Stop everything at once: what is on the disk at that moment is all that is left."""
        self.happened["crashed"] += 1
        wreck = self.folder.with_name(f"after-{self.happened['crashed']}")
        wreck.mkdir()
        dying = self.draw.one(self.services)
        with suppress(SimulationFault), dying.ledger.together():
            for _ in range(self.random.randint(0, 4)):
                with suppress(LedgerError):
                    self.draw.command(self.clock()).run(dying)
            for name in ("ledger.db", "ledger.db-wal", "ledger.vault", "ledger.vault-key"):
                # The shared memory is made anew from the log of writes, as after a power cut.
                shutil.copy(self.folder / name, wreck)
            raise SimulationFault("while a command is decided")
        for service in self.services:
            service.close()
        shutil.rmtree(self.folder)
        self.folder = wreck
        self.services = [self.woken(self.another()), self.woken(self.another())]

    def ask(self) -> None:
        """Ask a service and the model the same."""
        service = self.draw.one(self.services)
        service.ledger.shred()
        with service.reading() as (c, _):
            keys = service.erasures.keys(c, erased=False)
            erased = service.erasures.keys(c, erased=True)
        assert [] == service.ledger.vault.missing(keys)
        assert erased == service.ledger.vault.missing(erased)
        service.feed.catch_up()
        assert service.index.position == service.recorder.position
        for _ in range(QUESTIONS):
            request = self.draw.request()
            at = max(self.draw.instant(self.clock()), self.now(service))
            found = service.index.check(
                request.subject.key,
                request.resource.key,
                request.action,
                microseconds(at),
                through=[subject.key for subject in request.through],
                subject_properties=request.subject_properties,
                resource_properties=request.resource_properties,
                action_properties=request.action_properties,
            )
            ids, until = self.model.refusals(request, at)

            assert ids == {restriction.id for restriction in found.restrictions}, (request, at)
            assert found.allowed is not bool(ids)
            if ids:
                assert until == (None if found.until is None else from_microseconds(found.until))

    def end(self) -> None:
        """Check the whole ledger, in both services, and that every answer is in it."""
        for service in self.services:
            check_ledger(service)
        recorder = self.services[0].recorder
        endings = [
            recorded.event
            for recorded in recorder.events()
            if isinstance(recorded.event, SubjectReinstated | SuspensionCancelled)
        ]

        assert len({event.suspension for event in endings}) == len(endings)
        for event in endings:
            term = self.model.terms[event.suspension]
            assert term.subject == event.subject
            if isinstance(event, SubjectReinstated) and event.reason is None:
                ended_by_itself = event.cause is Cause.TERM_SERVED
                assert (term.end if ended_by_itself else term.over) == event.effective_at
        with recorder.store.transaction(commit=False) as c:
            for key, (command, position) in self.answered.items():
                found = recorder.find_command(c, command.author(OFFICER).operator, key)
                assert found is not None
                assert (command.name, position) == found[:2]
            c.execute("SELECT count(*) FROM access_suspensions")
            assert len(self.model.terms) == c.fetchone()[0]
        for service in self.services:
            service.close()


def play(folder: Path, seed: int) -> dict[str, int]:
    """Play a world to its end; a failure names the seed and the step."""
    (folder / "ledger").mkdir()
    world = World(folder / "ledger", seed)
    try:
        for world.steps in range(STEPS):
            world.step()
        world.end()
    except BaseException:
        print(f"seed {seed}, step {world.steps}: {world.happened}")
        raise
    return world.happened


@pytest.mark.parametrize("seed", range(25), ids="seed-{}".format)
def test_a_random_world_agrees_with_a_model_of_it(tmp_path: Path, seed: int) -> None:
    """After every step of a random world, checks answer as a plain model of it does."""
    happened = play(tmp_path, seed)

    assert happened["recorded"] > 0


@pytest.mark.soak
@pytest.mark.parametrize("block", range(10))
def test_many_random_worlds_agree_with_their_models(tmp_path: Path, block: int) -> None:
    """The same over 500 more seeds."""
    happened = dict[str, int]()
    for seed in range(1_000 + 50 * block, 1_050 + 50 * block):
        folder = tmp_path / str(seed)
        folder.mkdir()
        for what, times in play(folder, seed).items():
            happened[what] = happened.get(what, 0) + times
        shutil.rmtree(folder)
    print(happened)

    assert min(happened.values()) > 0
