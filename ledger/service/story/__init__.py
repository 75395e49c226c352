"""What the ledger is for, told with the ledger: the founding story, for the demo and its readers.

A provider suspends three of its five models for an organization and one of its users, because they
broke its policy again and again. Around it stand an early reinstatement, a term that ended by
itself, a finding that was overturned, and a correction of the past.

The story is data. ``founding.json`` lists its steps, in order: ``when`` it happened, which method
of ``Ledger`` decided it, ``by`` which operator and ``for`` whom, ``with`` which members. These have
the shape of the HTTP bodies, but instants are told by weeks: ``-P4W Wednesday 10:30`` is that time
(UTC) on the Wednesday four weeks before that of this week. So on any day the story ends today, and
its people work on working days. What a step makes gets a name by ``as``; later steps name
violations and suspensions so.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from importlib.resources import files
from typing import Any, Final, get_type_hints

import orjson
from pydantic import Field, TypeAdapter

from ledger.application import Done, Ledger
from ledger.domain.events import (
    Author,
    OperatorEnrolled,
    OperatorKeyIssued,
    SubjectSuspended,
    SuspensionRevised,
)
from ledger.domain.values import Role, Value
from ledger.service.settings import Settings
from ledger.service.wiring import build, wall_clock

_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MOMENT: Final = re.compile(rf"(-?)P(\d+)W ({'|'.join(_DAYS)}) (\d\d:\d\d)")
_NAMING: Final = ("violation", "suspension", "grounds")  # members that name what earlier steps made


class Step(Value):
    """One decision of the story."""

    when: str
    by: str
    on_behalf_of: str | None = Field(default=None, alias="for")
    decision: str
    members: dict[str, Any] = Field(alias="with")
    name: str | None = Field(default=None, alias="as")


@dataclass(frozen=True, slots=True)
class Told:
    """A story that was told: the key of each role, and the ids of what the story gave names to."""

    keys: dict[str, str]
    ids: dict[str, str]

    def examples(self, url: str) -> list[str]:
        """Return three commands to try: a check that is denied, one that is allowed, and why."""
        return [
            self._check(url, "atlas-3"),
            self._check(url, "mini-2"),
            self._curl(Role.AUDITOR, f"{url}/v1/access?subject=user:alice"),
        ]

    def _check(self, url: str, model: str) -> str:
        body = {
            "subject": {"type": "user", "id": "alice"},
            "action": {"name": "use"},
            "resource": {"type": "model", "id": model},
            "context": {"subjects": [{"type": "application", "id": "press-desk"}]},
        }
        return self._curl(
            Role.SERVICE,
            f"{url}/access/v1/evaluation",
            *("-H", "Content-Type: application/json"),
            *("-d", orjson.dumps(body).decode()),
        )

    def _curl(self, role: Role, url: str, *more: str) -> str:
        return shlex.join(
            ["curl", "-s", url, "-H", f"Authorization: Bearer {self.keys[role]}", *more]
        )


def read() -> list[Step]:
    """Return the steps of the founding story, in order."""
    text = files(__name__).joinpath("founding.json").read_bytes()
    return TypeAdapter(list[Step]).validate_json(text)


def moment(text: str, today: datetime) -> datetime:
    """Return the instant of ``-P4W Wednesday 10:30``, seen from today; weeks begin on Monday.

    Raises ``ValueError`` for another form.
    """
    match = _MOMENT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} has not the form -P4W Wednesday 10:30")
    sign, weeks, day, clock = match.groups()
    here = today.astimezone(UTC).date()
    days = _DAYS.index(day) - here.weekday() + 7 * int(f"{sign}{weeks}")
    return datetime.combine(here + timedelta(days=days), time.fromisoformat(clock), tzinfo=UTC)


def tell(settings: Settings, *, today: datetime | None = None) -> Told:
    """Open the ledger that the settings name and tell the founding story in it, as of today.

    All of it is committed at once. Raises ``InvalidValue`` when the database holds a ledger.
    """
    seen_from = today or wall_clock()
    steps = read()
    clock = _StoryClock(moment(steps[0].when, seen_from))
    service = build(settings, clock=clock)
    teller = _Teller(service.ledger, clock, seen_from)
    try:
        with service.ledger.together():
            service.open()
            for number, step in enumerate(steps, start=1):
                teller.tell(step, f"founding-{number:03}")
            teller.wait_until(seen_from)
    finally:
        service.recorder.store.close()
    return Told(teller.keys, teller.ids)


@dataclass(slots=True)
class _StoryClock:
    """The clock of the story, which the teller sets."""

    now: datetime

    def __call__(self) -> datetime:
        return self.now


@dataclass(slots=True)
class _Teller:
    """Tells step by step. ``ends`` are the ends of suspensions that the story has not reached."""

    ledger: Ledger
    clock: _StoryClock
    today: datetime
    keys: dict[str, str] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)
    ends: dict[str, datetime | None] = field(default_factory=dict)

    def tell(self, step: Step, request_id: str) -> None:
        """Let one step happen, at its time."""
        self.wait_until(moment(step.when, self.today))
        decide: Callable[..., Done] = getattr(self.ledger, step.decision)
        by = Author(step.by, step.on_behalf_of, request_id)
        done = decide(**self._members(decide, step.members), by=by)
        match done.recorded.event:
            case OperatorEnrolled(operator=operator, role=role):
                self.roles[operator] = str(role)
            case OperatorKeyIssued(operator=operator):
                assert done.secret is not None, "a key that is issued is shown"
                self.keys[self.roles[operator]] = done.secret
            case (
                SubjectSuspended(suspension=suspension, ends_at=ends_at)
                | SuspensionRevised(suspension=suspension, ends_at=ends_at)
            ):
                self.ends[suspension] = ends_at
            case _:
                pass
        if step.name is not None:
            about = done.recorded.event.about
            assert about is not None, "what gets a name has an id"
            self.ids[step.name] = about

    def wait_until(self, then: datetime) -> None:
        """Let time pass; record each term that ends meanwhile at its end, as the ticker does."""
        over = sorted((end, id_) for id_, end in self.ends.items() if end and end <= then)
        for end, suspension in over:
            self.clock.now = end
            self.ledger.serve_terms([suspension])
            del self.ends[suspension]
        self.clock.now = then

    def _members(
        self, decide: Callable[..., Done], members: Mapping[str, object]
    ) -> dict[str, object]:
        """Return the arguments of a decision, of the types that it declares."""
        types = get_type_hints(decide, include_extras=True)
        return {
            name: TypeAdapter(types[name]).validate_python(self._resolved(name, value))
            for name, value in members.items()
        }

    def _resolved(self, name: str, value: object) -> object:
        """Put the instant for a moment, and ids for the names that earlier steps gave."""
        match value:
            case str() if name.endswith("_at"):
                return moment(value, self.today)
            case str() if name in _NAMING:
                return self.ids[value]
            case Sequence() if name in _NAMING:
                return [self.ids[each] for each in value]
            case _:
                return value
