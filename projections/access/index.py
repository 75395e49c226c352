"""The access index: every check is answered from here, in memory.

It answers at the instant of the newest event or later. Only what can still refuse is kept: a
suspension that has closed leaves with the next event of its subject.

A million restricted subjects must fit, so restrictions are rows of columns (``_Rows``), not
objects, and equal scopes, reasons and clauses are kept once. It is read from the event loop while
one other thread applies events. Rows are therefore only ever added and never written over, and each
change for a reader is one assignment in a dictionary: a reader sees the old or the new.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson

from ledger.domain.access import UnknownSubjects
from ledger.domain.events import (
    Event,
    GroupDefined,
    Recorded,
    ResourceListed,
    SubjectEvent,
    SubjectLinked,
    SubjectRegistered,
    SubjectReinstated,
    SubjectSuspended,
    SubjectUnlinked,
    SuspensionCancelled,
    SuspensionRevised,
)
from ledger.domain.values import (
    Condition,
    Ending,
    OneResource,
    ResourcesOfType,
    Scope,
    microseconds,
)

CHANGES_ANSWERS: Final = frozenset(
    event.TYPE
    for event in (
        SubjectSuspended,
        SuspensionRevised,
        SuspensionCancelled,
        SubjectReinstated,
        SubjectLinked,
        SubjectUnlinked,
        SubjectRegistered,
        ResourceListed,
        GroupDefined,
    )
)
"""The types of events that can change what the index answers, unknown subjects aside."""

NEVER: Final = 2**62  # microseconds; an end that does not come
ANSWERS_KEPT_MAX: Final = 10_000  # denials by one suspension alone, made once: about 5 MB
INSTANTS_KEPT_MAX: Final = 10_000  # while loading: many suspensions share their instants
COMPACT_ABOVE: Final = 10_000  # dead rows below which compacting saves nothing worth the pause

_NO_PROPERTIES: Final[Mapping[str, object]] = {}
_NO_GROUPS: Final[frozenset[str]] = frozenset()
_ENTITIES: Final = {"subject": 0, "resource": 1, "action": 2}

Properties = tuple[Mapping[str, object], Mapping[str, object], Mapping[str, object]]
"""The properties of a request's subject, resource and action, recorded ones included."""


# --- scopes, compiled -----------------------------------------------------------------------------


class CompiledCondition:
    """``Condition.holds``, with its attribute taken apart and its values in a set."""

    __slots__ = ("_entity", "_exists", "_name", "_values", "_wanted")

    def __init__(self, condition: Condition) -> None:
        entity, _, self._name = condition.attribute.split(".", 2)
        self._entity = _ENTITIES[entity]
        self._exists = condition.exists
        self._wanted = condition.in_ is not None
        values = condition.in_ or condition.not_in or ()
        self._values = frozenset(_comparable(value) for value in values)

    def holds(self, properties: Properties) -> bool:
        """Tell whether the demand is met."""
        found = properties[self._entity]
        if self._exists is not None:
            return (self._name in found) is self._exists
        if self._name not in found:
            return not self._wanted
        value = found[self._name]
        if isinstance(value, list | tuple):
            matches = any(self._has(each) for each in value)
        else:
            matches = self._has(value)
        return matches is self._wanted

    def _has(self, value: object) -> bool:
        # A caller's property may be an object or a list in a list; no condition has such a value.
        return not isinstance(value, dict | list) and _comparable(value) in self._values


def _comparable(value: object) -> tuple[bool, object]:
    """Return what compares as JSON does: ``true`` is not ``1``, and ``1`` is ``1.0``."""
    return isinstance(value, bool), value


class CompiledScope:
    """A scope made ready for checks; equal scopes share one."""

    __slots__ = ("actions", "conditions", "groups", "resources", "types")

    def __init__(self, scope: Scope) -> None:
        self.actions = None if scope.actions is None else frozenset(scope.actions)
        self.conditions = tuple(CompiledCondition(condition) for condition in scope.conditions)
        self.groups = frozenset(scope.groups)
        self.resources = frozenset(
            f"{s.type}:{s.id}" for s in scope.resources if isinstance(s, OneResource)
        )
        self.types = frozenset(s.type for s in scope.resources if isinstance(s, ResourcesOfType))


# --- rows -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Restriction:
    """A suspension as answers show it. Times are microseconds since 1970, or ``NEVER``.

    ``clauses`` is JSON: a list of policy, clause and category.
    """

    id: str
    position: int
    effective: int
    ends: int
    closes: int
    reason: str
    clauses: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The index's answer: ``until`` in microseconds, ``None`` when no end is known.

    ``lasts`` is the instant before which it is the same if nothing changes; 0 says nothing of that.
    """

    allowed: bool
    restrictions: tuple[Restriction, ...] = ()
    until: int | None = None
    unknown_subject: bool = False
    lasts: int = 0


ALLOWED: Final = Answer(allowed=True)
_UNKNOWN: Final = Answer(allowed=False, unknown_subject=True)


class _Rows:
    """Restrictions as columns, and which rows each subject has: one number, or several."""

    __slots__ = (
        "alone",
        "automatic",
        "closes",
        "effective",
        "ends",
        "ids",
        "live",
        "of",
        "positions",
        "scopes",
        "texts",
    )

    def __init__(self) -> None:
        self.of: dict[str, int | tuple[int, ...]] = {}
        self.ids: list[str] = []
        self.scopes: list[CompiledScope] = []
        self.texts: list[tuple[str, str]] = []
        self.positions = array("q")
        self.effective = array("q")
        self.ends = array("q")
        self.closes = array("q")
        self.automatic = array("b")
        self.live = 0
        self.alone: dict[int, Answer] = {}

    def add(
        self,
        subject: str,
        id_: str,
        position: int,
        effective: int,
        ends: int,
        closes: int,
        scope: CompiledScope,
        texts: tuple[str, str],
        *,
        automatic: bool,
    ) -> None:
        """Add a restriction and give it to its subject."""
        row = len(self.ids)
        self.positions.append(position)
        self.effective.append(effective)
        self.ends.append(ends)
        self.closes.append(closes)
        self.automatic.append(automatic)
        self.scopes.append(scope)
        self.texts.append(texts)
        self.ids.append(id_)
        self.live += 1
        held = self.of.get(subject)
        if held is None:
            self.of[subject] = row
        else:
            self.of[subject] = (*((held,) if isinstance(held, int) else held), row)

    def restriction(self, row: int) -> Restriction:
        """Return a row as an object."""
        reason, clauses = self.texts[row]
        return Restriction(
            self.ids[row],
            self.positions[row],
            self.effective[row],
            self.ends[row],
            self.closes[row],
            reason,
            clauses,
        )

    def denial(self, row: int) -> Answer:
        """Return the answer of a request that this row alone denies."""
        found = self.alone.get(row)
        if found is None:
            if len(self.alone) >= ANSWERS_KEPT_MAX:
                self.alone.clear()
            only = self.restriction(row)
            until = None if only.closes == NEVER else only.closes
            found = self.alone[row] = Answer(
                allowed=False, restrictions=(only,), until=until, lasts=only.closes
            )
        return found

    def rows(self, subject: str) -> tuple[int, ...]:
        """Return the rows of a subject."""
        held = self.of.get(subject)
        if held is None:
            return ()
        return (held,) if isinstance(held, int) else held

    def keep(self, subject: str, rows: Sequence[int]) -> None:
        """Leave a subject these of its rows; the others are dead from now on."""
        before = self.rows(subject)
        self.live -= len(before) - len(rows)
        if len(rows) > 1:
            self.of[subject] = tuple(rows)
        elif rows:
            self.of[subject] = rows[0]
        else:
            self.of.pop(subject, None)

    def copy_row(self, subject: str, row: int, other: _Rows, **changed: int) -> None:
        """Add to ``other`` what a row of this holds, with other ends."""
        other.add(
            subject,
            self.ids[row],
            self.positions[row],
            self.effective[row],
            changed.get("ends", self.ends[row]),
            changed.get("closes", self.closes[row]),
            self.scopes[row],
            self.texts[row],
            automatic=bool(self.automatic[row]),
        )


class AccessIndex:
    """Who is restricted from what, ready to be asked a hundred thousand times a second."""

    def __init__(self, *, unknown: UnknownSubjects = "allow") -> None:
        self.unknown = unknown
        self.position = 0
        self.recorded_at = 0
        self.changes = 0
        """How many events were taken in that may change an answer; counted before ``position``."""
        self._rows = _Rows()
        self._parents: dict[str, tuple[str, ...]] = {}
        self._groups_of: dict[str, frozenset[str]] = {}
        self._members: dict[str, frozenset[str]] = {}
        self._subject_properties: dict[str, Mapping[str, object]] = {}
        self._resource_properties: dict[str, Mapping[str, object]] = {}
        self._known: set[str] = set()
        self._scopes: dict[str, CompiledScope] = {}
        self._texts: dict[tuple[str, str], tuple[str, str]] = {}

    @property
    def subjects(self) -> int:
        """How many subjects have a restriction in the index."""
        return len(self._rows.of)

    # --- loading and following --------------------------------------------------------------------

    def load(self, records: Iterable[Sequence[Any]]) -> None:
        """Fill an empty index from the records of ``rows.snapshot``, of this process or another."""
        parsed: dict[str | None, int] = {None: NEVER}
        for kind, *record in records:
            match kind:
                case "suspension":
                    subject, id_, place, effective_at, automatic, ends_at, closes_at = record[:7]
                    for text in (effective_at, ends_at, closes_at):
                        if text not in parsed:
                            parsed[text] = microseconds(datetime.fromisoformat(text))
                    self._rows.add(
                        subject,
                        id_,
                        place,
                        parsed[effective_at],
                        parsed[ends_at],
                        parsed[closes_at],
                        self._compiled(record[7]),
                        self._shared(record[8], record[9]),
                        automatic=bool(automatic),
                    )
                    if len(parsed) > INSTANTS_KEPT_MAX:
                        parsed = {None: NEVER}
                case "link":
                    subject, parent = record
                    self._parents[subject] = (*self._parents.get(subject, ()), parent)
                case "known":
                    self._known.add(record[0])
                case "properties":
                    self._subject_properties[record[0]] = orjson.loads(record[1])
                case "resource":
                    self._resource_properties[record[0]] = orjson.loads(record[1])
                case "group":
                    self._set_group(record[0], orjson.loads(record[1]))
                case "ledger":
                    position, recorded_at, self.unknown = record
                    self.recorded_at = microseconds(datetime.fromisoformat(recorded_at))
                    self.position = position
                case _:
                    raise AssertionError(f"{kind!r} is no kind of record")

    def skip(self, position: int, recorded_at: datetime, known: Iterable[str] = ()) -> None:
        """Pass over events that change no answer, up to ``position``, but make subjects known."""
        self._known.update(known)
        self.recorded_at = microseconds(recorded_at)
        self.position = position

    def apply(self, recorded: Recorded) -> None:
        """Take in the next event; it must be the one after ``position``."""
        assert recorded.position == self.position + 1, "the index must not skip an event"
        self._take_in(recorded.event, recorded)
        self.changes += 1
        self.recorded_at = microseconds(recorded.recorded_at)
        self.position = recorded.position

    def _take_in(self, event: Event, recorded: Recorded) -> None:
        if isinstance(event, SubjectEvent) and self.unknown == "deny_unknown":
            self._known.add(event.subject.key)
        match event:
            case SubjectSuspended(subject=subject):
                self._drop_closed(subject.key, recorded)
                ends = microseconds(event.ends_at) if event.ends_at else NEVER
                automatic = event.reinstatement is Ending.AUTOMATIC
                self._rows.add(
                    subject.key,
                    event.suspension,
                    recorded.position,
                    microseconds(event.effective_at),
                    ends,
                    ends if automatic else NEVER,
                    self._compiled(_json(event.scope.model_dump(by_alias=True))),
                    self._shared(event.reason, _json([c.model_dump() for c in event.clauses])),
                    automatic=automatic,
                )
            case SuspensionRevised(subject=subject, suspension=suspension):
                self._drop_closed(subject.key, recorded)
                self._revise(subject.key, suspension, event)
            case (
                SuspensionCancelled(subject=subject, suspension=suspension)
                | SubjectReinstated(subject=subject, suspension=suspension)
            ):
                self._drop_closed(subject.key, recorded, also=suspension)
            case SubjectLinked(subject=subject, parent=parent):
                self._parents[subject.key] = (*self._parents.get(subject.key, ()), parent.key)
            case SubjectUnlinked(subject=subject, parent=parent):
                parents = tuple(p for p in self._parents[subject.key] if p != parent.key)
                if parents:
                    self._parents[subject.key] = parents
                else:
                    del self._parents[subject.key]
            case SubjectRegistered(subject=subject, properties=properties):
                if properties:
                    self._subject_properties[subject.key] = properties
                else:
                    self._subject_properties.pop(subject.key, None)
            case ResourceListed(resource=resource, properties=properties):
                self._resource_properties[resource.key] = properties
            case GroupDefined(group=group, resources=resources):
                self._set_group(group, [resource.key for resource in resources])
            case _:
                pass

    def _revise(self, subject: str, suspension: str, event: SuspensionRevised) -> None:
        rows = self._rows
        ends = microseconds(event.ends_at) if event.ends_at else NEVER
        for row in rows.rows(subject):
            if rows.ids[row] == suspension:
                closes = ends if rows.automatic[row] else NEVER
                # The new row first: between the two a reader finds both, and both refuse.
                rows.copy_row(subject, row, rows, ends=ends, closes=closes)
                rows.keep(subject, [r for r in rows.rows(subject) if r != row])

    def _drop_closed(self, subject: str, recorded: Recorded, *, also: str | None = None) -> None:
        now, rows = microseconds(recorded.recorded_at), self._rows
        held = rows.rows(subject)
        kept = [row for row in held if rows.closes[row] > now and rows.ids[row] != also]
        if len(kept) < len(held):
            rows.keep(subject, kept)
            self._compact_when_worth_it()

    def _compact_when_worth_it(self) -> None:
        """Copy the live rows into new columns once most rows are dead."""
        rows = self._rows
        dead = len(rows.ids) - rows.live
        if dead > COMPACT_ABOVE and dead > rows.live:
            fresh = _Rows()
            for subject in rows.of:
                for row in rows.rows(subject):
                    rows.copy_row(subject, row, fresh)
            self._rows = fresh

    def _set_group(self, group: str, resources: Iterable[str]) -> None:
        before, now = self._members.get(group, _NO_GROUPS), frozenset(resources)
        for resource in now - before:
            self._groups_of[resource] = self._groups_of.get(resource, _NO_GROUPS) | {group}
        for resource in before - now:
            self._groups_of[resource] -= {group}
        self._members[group] = now

    def _compiled(self, scope: str) -> CompiledScope:
        found = self._scopes.get(scope)
        if found is None:
            found = self._scopes[scope] = CompiledScope(Scope.model_validate_json(scope))
        return found

    def _shared(self, reason: str, clauses: str) -> tuple[str, str]:
        texts = (reason, clauses)
        return self._texts.setdefault(texts, texts)

    # --- checks -----------------------------------------------------------------------------------

    def allows_all(self, subject: str) -> bool:
        """Tell whether a subject that acts through nobody may do everything: nothing is on it."""
        return (
            self.unknown == "allow"
            and subject not in self._rows.of
            and subject not in self._parents
        )

    def check(
        self,
        subject: str,
        resource: str,
        action: str,
        at: int,
        through: Sequence[str] = (),
        subject_properties: Mapping[str, object] = _NO_PROPERTIES,
        resource_properties: Mapping[str, object] = _NO_PROPERTIES,
        action_properties: Mapping[str, object] = _NO_PROPERTIES,
    ) -> Answer:
        """Answer whether ``subject`` may do ``action`` with ``resource``, both keys, at ``at``.

        ``at`` is in microseconds since 1970.

        An instant before the newest event is taken as that of the newest event: a clock that went
        back must not lift a suspension that was just recorded.
        """
        rows = self._rows
        held = rows.of.get(subject)
        if through or subject in self._parents:
            candidates: Sequence[int] = self._rows_on(rows, subject, through)
        elif held is None:
            return ALLOWED if self.unknown == "allow" else self._default(subject)
        else:
            candidates = (held,) if isinstance(held, int) else held
        recorded_at = self.recorded_at
        if at < recorded_at:  # noqa: PLR1730 - max() would take twice as long
            at = recorded_at
        covering: list[int] = []
        counts = False
        for row in candidates:
            scope = rows.scopes[row]
            if (
                rows.closes[row] > at
                and (scope.actions is None or action in scope.actions)
                and (
                    resource in scope.resources
                    or (scope.types and resource[: resource.index(":")] in scope.types)
                    or (
                        scope.groups
                        and not scope.groups.isdisjoint(self._groups_of.get(resource, _NO_GROUPS))
                    )
                )
                and (
                    not scope.conditions
                    or self._conditions_hold(
                        scope,
                        subject,
                        resource,
                        (subject_properties, resource_properties, action_properties),
                    )
                )
            ):
                covering.append(row)
                counts = counts or rows.effective[row] <= at
        if not counts:
            return ALLOWED if self.unknown == "allow" else self._default(subject)
        if len(covering) == 1:
            return rows.denial(covering[0])
        found = sorted(
            {rows.ids[row]: rows.restriction(row) for row in covering}.values(),
            key=lambda restriction: (restriction.effective, restriction.position),
        )
        return Answer(
            allowed=False,
            restrictions=tuple(r for r in found if r.effective <= at),
            until=_end_of_run(found, at),
        )

    def _conditions_hold(
        self, scope: CompiledScope, subject: str, resource: str, given: Properties
    ) -> bool:
        """Tell whether all hold; the caller's properties win over recorded ones."""
        of_subject, of_resource, of_action = given
        properties = (
            {**self._subject_properties.get(subject, _NO_PROPERTIES), **of_subject},
            {**self._resource_properties.get(resource, _NO_PROPERTIES), **of_resource},
            of_action,
        )
        return all(condition.holds(properties) for condition in scope.conditions)

    def _default(self, subject: str) -> Answer:
        return ALLOWED if subject in self._known else _UNKNOWN

    def _rows_on(self, rows: _Rows, subject: str, through: Sequence[str]) -> list[int]:
        """Return the rows of the subjects and all their ancestors."""
        found = dict.fromkeys((subject, *through))
        waiting = list(found)
        while waiting:
            for parent in self._parents.get(waiting.pop(), ()):
                if parent not in found:
                    found[parent] = None
                    waiting.append(parent)
        return [row for key in found for row in rows.rows(key)]


def _end_of_run(covering: Iterable[Restriction], at: int) -> int | None:
    """Follow overlapping restrictions, oldest start first, to the first gap after ``at``."""
    end = at
    for restriction in covering:
        if restriction.effective <= end:
            end = max(end, restriction.closes)
    return None if end == NEVER else end


def _json(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
