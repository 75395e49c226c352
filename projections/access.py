"""Who may use what now, and why not?

Two forms of one answer. The rows are for listing, for the past as it was known, and for a restart;
they are written in the append transaction. The ``AccessIndex`` is in memory and answers checks; it
applies an event once its append is committed. Both answer as ``ledger/domain/access.py`` rules.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Final

import orjson
from eventsourcing.persistence import Cursor

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
    ViolationOverturned,
)
from ledger.domain.record import Ended, Suspension, SuspensionState
from ledger.domain.values import (
    Cause,
    Condition,
    Ending,
    OneResource,
    ResourcesOfGroup,
    ResourcesOfType,
    Scope,
    Subject,
    format_instant,
    microseconds,
)

NEVER: Final = 2**62  # microseconds; an end that does not come


# --- rows -----------------------------------------------------------------------------------------


class AccessRows:
    """The tables of suspensions, links and the catalogue, and the questions they answer.

    ``access_terms`` has a row for each state of a suspension that was known, from a position until
    another (null: still). So a list as known at a position is a comparison, not a replay.
    """

    NAME: ClassVar[str] = "access"
    TABLES: ClassVar[Sequence[str]] = (
        "access_suspensions",
        "access_terms",
        "access_selectors",
        "access_grounds",
        "access_reinstatements",
        "access_links",
        "access_subjects",
        "access_resources",
        "access_groups",
    )
    DDL: ClassVar[Sequence[str]] = (
        """CREATE TABLE IF NOT EXISTS access_suspensions (
            position INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            subject TEXT NOT NULL,
            effective_at TEXT NOT NULL,
            automatic INTEGER NOT NULL,
            scope TEXT NOT NULL,
            reason TEXT NOT NULL,
            clauses TEXT NOT NULL,
            operator TEXT NOT NULL,
            recorded_at TEXT NOT NULL,
            data TEXT NOT NULL
        ) STRICT""",
        """CREATE INDEX IF NOT EXISTS access_suspensions_subject
            ON access_suspensions (subject, position)""",
        """CREATE TABLE IF NOT EXISTS access_terms (
            suspension TEXT NOT NULL,
            known_from INTEGER NOT NULL,
            known_until INTEGER,
            ends_at TEXT,
            end_set_by INTEGER NOT NULL,
            closes_at TEXT,
            ended_by INTEGER,
            ended_at TEXT,
            cause TEXT,
            overturned INTEGER NOT NULL,
            PRIMARY KEY (suspension, known_from)
        ) STRICT, WITHOUT ROWID""",
        """CREATE INDEX IF NOT EXISTS access_terms_due ON access_terms (closes_at)
            WHERE known_until IS NULL AND ended_by IS NULL AND closes_at IS NOT NULL""",
        """CREATE TABLE IF NOT EXISTS access_selectors (
            selector TEXT NOT NULL,
            suspension TEXT NOT NULL,
            PRIMARY KEY (selector, suspension)
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE IF NOT EXISTS access_grounds (
            violation TEXT NOT NULL,
            suspension TEXT NOT NULL,
            PRIMARY KEY (violation, suspension)
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE IF NOT EXISTS access_reinstatements (
            position INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            suspension TEXT NOT NULL,
            subject TEXT NOT NULL,
            cause TEXT NOT NULL,
            effective_at TEXT NOT NULL,
            reason TEXT,
            operator TEXT NOT NULL,
            recorded_at TEXT NOT NULL
        ) STRICT""",
        """CREATE INDEX IF NOT EXISTS access_reinstatements_subject
            ON access_reinstatements (subject, position)""",
        """CREATE TABLE IF NOT EXISTS access_links (
            subject TEXT NOT NULL,
            parent TEXT NOT NULL,
            known_from INTEGER NOT NULL,
            known_until INTEGER,
            since TEXT NOT NULL,
            until TEXT,
            PRIMARY KEY (subject, parent, known_from)
        ) STRICT, WITHOUT ROWID""",
        "CREATE INDEX IF NOT EXISTS access_links_parent ON access_links (parent, subject)",
        """CREATE TABLE IF NOT EXISTS access_subjects (
            subject TEXT PRIMARY KEY,
            position INTEGER NOT NULL,
            properties TEXT
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE IF NOT EXISTS access_resources (
            resource TEXT PRIMARY KEY,
            position INTEGER NOT NULL,
            properties TEXT NOT NULL,
            actions TEXT NOT NULL
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE IF NOT EXISTS access_groups (
            name TEXT PRIMARY KEY,
            position INTEGER NOT NULL,
            resources TEXT NOT NULL
        ) STRICT, WITHOUT ROWID""",
    )

    def apply(self, cursor: Cursor, recorded: Recorded) -> None:
        """Write what one event changes."""
        event = recorded.event
        if isinstance(event, SubjectEvent):
            cursor.execute(
                "INSERT INTO access_subjects (subject, position) VALUES (?, ?) "
                "ON CONFLICT (subject) DO NOTHING",
                (event.subject.key, recorded.position),
            )
        match event:
            case SubjectSuspended():
                self._begin(cursor, recorded, event)
            case SuspensionRevised(suspension=suspension, ends_at=ends_at):
                end = format_instant(ends_at) if ends_at else None
                self._go_on(cursor, recorded, suspension, ends_at=end, end_set_by=recorded.position)
            case SuspensionCancelled(suspension=suspension):
                self._end(cursor, recorded, suspension, recorded.recorded_at, "cancelled")
            case SubjectReinstated():
                cursor.execute(
                    "INSERT INTO access_reinstatements VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        recorded.position,
                        event.reinstatement,
                        event.suspension,
                        event.subject.key,
                        event.cause,
                        format_instant(event.effective_at),
                        event.reason,
                        recorded.author.operator,
                        format_instant(recorded.recorded_at),
                    ),
                )
                self._end(cursor, recorded, event.suspension, event.effective_at, event.cause)
            case ViolationOverturned(violation=violation):
                for _, suspension in self.resting_on(cursor, violation):
                    self._go_on(cursor, recorded, suspension, overturned_more=1)
            case SubjectLinked(subject=subject, parent=parent):
                cursor.execute(
                    "INSERT INTO access_links VALUES (?, ?, ?, NULL, ?, NULL)",
                    (
                        subject.key,
                        parent.key,
                        recorded.position,
                        format_instant(recorded.recorded_at),
                    ),
                )
            case SubjectUnlinked(subject=subject, parent=parent):
                cursor.execute(
                    "UPDATE access_links SET known_until = ?, until = ? "
                    "WHERE subject = ? AND parent = ? AND known_until IS NULL",
                    (
                        recorded.position,
                        format_instant(recorded.recorded_at),
                        subject.key,
                        parent.key,
                    ),
                )
            case SubjectRegistered(subject=subject, properties=properties):
                cursor.execute(
                    "UPDATE access_subjects SET properties = ? WHERE subject = ?",
                    (_json(properties), subject.key),
                )
            case ResourceListed():
                cursor.execute(
                    "INSERT OR REPLACE INTO access_resources VALUES (?, ?, ?, ?)",
                    (
                        event.resource.key,
                        recorded.position,
                        _json(event.properties),
                        _json(event.actions),
                    ),
                )
            case GroupDefined():
                cursor.execute(
                    "INSERT OR REPLACE INTO access_groups VALUES (?, ?, ?)",
                    (
                        event.group,
                        recorded.position,
                        _json(sorted(resource.key for resource in event.resources)),
                    ),
                )
            case _:
                pass

    def _begin(self, cursor: Cursor, recorded: Recorded, event: SubjectSuspended) -> None:
        data = event.model_dump(by_alias=True, exclude={"note"})
        automatic = event.reinstatement is Ending.AUTOMATIC
        cursor.execute(
            "INSERT INTO access_suspensions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                recorded.position,
                event.suspension,
                event.subject.key,
                data["effective_at"],
                automatic,
                _json(data["scope"]),
                event.reason,
                _json(data["clauses"]),
                recorded.author.operator,
                format_instant(recorded.recorded_at),
                _json(data),
            ),
        )
        cursor.execute(
            "INSERT INTO access_terms VALUES (?, ?, NULL, ?, ?, ?, NULL, NULL, NULL, 0)",
            (
                event.suspension,
                recorded.position,
                data["ends_at"],
                recorded.position,
                data["ends_at"] if automatic else None,
            ),
        )
        for selector in {_selector_key(selector) for selector in event.scope.resources}:
            cursor.execute(
                "INSERT INTO access_selectors VALUES (?, ?)", (selector, event.suspension)
            )
        for violation in event.grounds:
            cursor.execute(
                "INSERT INTO access_grounds VALUES (?, ?)", (violation, event.suspension)
            )

    def _end(
        self, cursor: Cursor, recorded: Recorded, suspension: str, at: datetime, cause: str
    ) -> None:
        self._go_on(
            cursor,
            recorded,
            suspension,
            ended_by=recorded.position,
            ended_at=format_instant(at),
            cause=cause,
        )

    def _go_on(
        self,
        cursor: Cursor,
        recorded: Recorded,
        suspension: str,
        *,
        overturned_more: int = 0,
        **changed: object,
    ) -> None:
        """Close the newest known state of a suspension at this position and open the next."""
        cursor.execute(
            "SELECT t.*, s.automatic FROM access_terms t JOIN access_suspensions s "
            "ON s.id = t.suspension WHERE t.suspension = ? AND t.known_until IS NULL",
            (suspension,),
        )
        row = dict(cursor.fetchone())
        automatic = row.pop("automatic")
        row |= changed
        row["overturned"] += overturned_more
        ends = [row["ends_at"] if automatic else None, row["ended_at"]]
        row["closes_at"] = min((end for end in ends if end is not None), default=None)
        if row["known_from"] != recorded.position:
            cursor.execute(
                "UPDATE access_terms SET known_until = ? WHERE suspension = ? AND known_from = ?",
                (recorded.position, suspension, row["known_from"]),
            )
        row["known_from"] = recorded.position
        cursor.execute(
            "INSERT OR REPLACE INTO access_terms VALUES "
            "(:suspension, :known_from, :known_until, :ends_at, :end_set_by, :closes_at, "
            ":ended_by, :ended_at, :cause, :overturned)",
            row,
        )

    # --- questions --------------------------------------------------------------------------------

    def stream_of(self, cursor: Cursor, suspension: str) -> str | None:
        """Return the stream that holds a suspension."""
        cursor.execute("SELECT subject FROM access_suspensions WHERE id = ?", (suspension,))
        row = cursor.fetchone()
        return f"subject/{row[0]}" if row else None

    def resting_on(self, cursor: Cursor, violation: str) -> list[tuple[str, str]]:
        """Return subject key and id of every suspension that names a violation as a ground."""
        cursor.execute(
            "SELECT s.subject, s.id FROM access_grounds g JOIN access_suspensions s "
            "ON s.id = g.suspension WHERE g.violation = ? ORDER BY s.position",
            (violation,),
        )
        return [(row[0], row[1]) for row in cursor.fetchall()]

    def children_of(self, cursor: Cursor, subject: Subject) -> list[Subject]:
        """Return the subjects directly below a subject now."""
        cursor.execute(
            "SELECT subject FROM access_links WHERE parent = ? AND known_until IS NULL",
            (subject.key,),
        )
        return [Subject.parse(row[0]) for row in cursor.fetchall()]

    def links_of(
        self, cursor: Cursor, subject: Subject, *, position: int, at: datetime
    ) -> dict[str, list[dict[str, object]]]:
        """Return who stood directly above (``parents``) and below (``children``) at an instant."""
        answer: dict[str, list[dict[str, object]]] = {}
        for name, shown, asked in (
            ("parents", "parent", "subject"),
            ("children", "subject", "parent"),
        ):
            cursor.execute(
                f"SELECT {shown}, since FROM access_links WHERE {asked} = ? AND known_from <= ? "
                "AND since <= ? AND (until IS NULL OR known_until > ? OR until > ?) "
                "ORDER BY known_from",
                (subject.key, position, format_instant(at), position, format_instant(at)),
            )
            answer[name] = [
                {"subject": Subject.parse(row[0]).model_dump(), "since": row[1]}
                for row in cursor.fetchall()
            ]
        return answer

    def due(self, cursor: Cursor, at: datetime, limit: int) -> list[str]:
        """Return suspensions whose term ended by itself, not yet recorded, oldest end first."""
        cursor.execute(
            "SELECT suspension FROM access_terms WHERE known_until IS NULL AND ended_by IS NULL "
            "AND closes_at IS NOT NULL AND closes_at <= ? ORDER BY closes_at, suspension LIMIT ?",
            (format_instant(at), limit),
        )
        return [row[0] for row in cursor.fetchall()]

    def suspensions(
        self,
        cursor: Cursor,
        *,
        at: datetime,
        position: int,
        limit: int,
        cursor_position: int | None = None,
        oldest_first: bool = False,
        id_: str | None = None,
        subject: str | None = None,
        state: SuspensionState | None = None,
        review: bool | None = None,
        in_force_at: datetime | None = None,
        model: str | None = None,
        policy: str | None = None,
        category: str | None = None,
        operator: str | None = None,
        recorded_from: datetime | None = None,
        recorded_to: datetime | None = None,
    ) -> list[dict[str, object]]:
        """Return suspensions as they stood at ``at``, as known at ``position``, by position.

        ``model`` is a resource key; suspensions of its type and of groups that hold it now match
        too.
        ``policy`` is a policy (``acceptable-use``) or a version of one (``acceptable-use@1``).
        """
        where = ["s.position <= ?"]
        values: list[object] = [position]

        def also(condition: str, *bound: object) -> None:
            where.append(condition)
            values.extend(bound)

        now = format_instant(at)
        if cursor_position is not None:
            also(f"s.position {'>' if oldest_first else '<'} ?", cursor_position)
        if id_ is not None:
            also("s.id = ?", id_)
        if subject is not None:
            also("s.subject = ?", subject)
        if operator is not None:
            also("s.operator = ?", operator)
        if recorded_from is not None:
            also("s.recorded_at >= ?", format_instant(recorded_from))
        if recorded_to is not None:
            also("s.recorded_at < ?", format_instant(recorded_to))
        if in_force_at is not None:
            instant = format_instant(in_force_at)
            also(
                "s.effective_at <= ? AND (t.closes_at IS NULL OR t.closes_at > ?)", instant, instant
            )
        if state is not None:
            condition, bound = _state_condition(state, now)
            also(condition, *bound)
        if review is not None:
            condition = (
                "(t.closes_at IS NULL OR t.closes_at > ?) AND (t.overturned > 0 OR t.ends_at <= ?)"
            )
            also(condition if review else f"NOT coalesce({condition}, 0)", now, now)
        if model is not None:
            selectors = self._selectors_of(cursor, model)
            also(
                "s.id IN (SELECT suspension FROM access_selectors WHERE selector IN "
                f"({', '.join('?' * len(selectors))}))",
                *selectors,
            )
        if policy is not None:
            name = "value ->> 'policy'"
            also(
                f"EXISTS (SELECT 1 FROM json_each(s.clauses) WHERE {name} = ? "
                f"OR substr({name}, 1, instr({name}, '@') - 1) = ?)",
                policy,
                policy,
            )
        if category is not None:
            also(
                "EXISTS (SELECT 1 FROM json_each(s.clauses) WHERE value ->> 'category' = ?)",
                category,
            )
        cursor.execute(
            "SELECT s.position, s.data, s.operator, s.recorded_at, t.ends_at, t.end_set_by, "
            "t.ended_by, t.ended_at, t.cause, t.overturned "
            "FROM access_suspensions s JOIN access_terms t ON t.suspension = s.id "
            "AND t.known_from <= ? AND (t.known_until IS NULL OR t.known_until > ?) "
            f"WHERE {' AND '.join(where)} "
            f"ORDER BY s.position {'ASC' if oldest_first else 'DESC'} LIMIT ?",
            (position, position, *values, limit),
        )
        return [_suspension_json(row, at) for row in cursor.fetchall()]

    def _selectors_of(self, cursor: Cursor, resource: str) -> list[str]:
        cursor.execute(
            "SELECT name FROM access_groups WHERE EXISTS "
            "(SELECT 1 FROM json_each(resources) WHERE value = ?)",
            (resource,),
        )
        groups = [f"group {row[0]}" for row in cursor.fetchall()]
        return [f"resource {resource}", f"type {resource.partition(':')[0]}", *groups]

    def reinstatements(
        self,
        cursor: Cursor,
        *,
        position: int,
        limit: int,
        cursor_position: int | None = None,
        oldest_first: bool = False,
        id_: str | None = None,
        subject: str | None = None,
        suspension: str | None = None,
        cause: Cause | None = None,
        operator: str | None = None,
        recorded_from: datetime | None = None,
        recorded_to: datetime | None = None,
    ) -> list[dict[str, object]]:
        """Return reinstatements as known at ``position``, by position."""
        filters: dict[str, object] = {
            "position <= ?": position,
            f"position {'>' if oldest_first else '<'} ?": cursor_position,
            "id = ?": id_,
            "subject = ?": subject,
            "suspension = ?": suspension,
            "cause = ?": cause,
            "operator = ?": operator,
            "recorded_at >= ?": format_instant(recorded_from) if recorded_from else None,
            "recorded_at < ?": format_instant(recorded_to) if recorded_to else None,
        }
        asked = {condition: value for condition, value in filters.items() if value is not None}
        cursor.execute(
            "SELECT position, id, suspension, subject, cause, effective_at, reason, operator, "
            f"recorded_at FROM access_reinstatements WHERE {' AND '.join(asked)} "
            f"ORDER BY position {'ASC' if oldest_first else 'DESC'} LIMIT ?",
            (*asked.values(), limit),
        )
        return [
            {**dict(row), "subject": Subject.parse(row["subject"]).model_dump()}
            for row in cursor.fetchall()
        ]


def _state_condition(state: SuspensionState, now: str) -> tuple[str, Sequence[str]]:
    """Return the SQL of ``Suspension.state``."""
    is_open = "(t.closes_at IS NULL OR t.closes_at > ?)"
    match state:
        case "in_force":
            return f"s.effective_at <= ? AND {is_open}", (now, now)
        case "cancelled":
            return "t.cause = 'cancelled' AND t.closes_at <= ?", (now,)
        case "ended":
            return "t.cause IS NOT 'cancelled' AND t.closes_at <= ?", (now,)
        case "scheduled":
            return f"s.effective_at > ? AND {is_open}", (now, now)


def _suspension_json(row: Mapping[str, Any], at: datetime) -> dict[str, object]:
    event = SubjectSuspended.model_validate(orjson.loads(row["data"]))
    ended = None
    if row["ended_by"] is not None:
        ended = Ended(row["ended_by"], datetime.fromisoformat(row["ended_at"]), row["cause"])
    ends_at = datetime.fromisoformat(row["ends_at"]) if row["ends_at"] else None
    suspension = Suspension(event, row["position"], ends_at, row["end_set_by"], ended)
    fell = row["overturned"] > 0
    return {
        **suspension.as_json(at),
        "review": suspension.waits_for_review(at, ground_fell=fell),
        "operator": row["operator"],
        "recorded_at": row["recorded_at"],
    }


def _selector_key(selector: object) -> str:
    match selector:
        case OneResource(type=type_, id=id_):
            return f"resource {type_}:{id_}"
        case ResourcesOfGroup(group=group):
            return f"group {group}"
        case ResourcesOfType(type=type_):
            return f"type {type_}"
        case _:
            raise AssertionError(f"{selector!r} is no selector")


def _json(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


# --- the index ------------------------------------------------------------------------------------


class CompiledScope:
    """A scope made ready for checks; equal scopes share one."""

    __slots__ = ("actions", "conditions", "groups", "resources", "types")

    def __init__(self, scope: Scope) -> None:
        self.actions = None if scope.actions is None else frozenset(scope.actions)
        self.conditions: tuple[Condition, ...] = scope.conditions
        self.groups = frozenset(scope.groups)
        self.resources = frozenset(
            f"{s.type}:{s.id}" for s in scope.resources if isinstance(s, OneResource)
        )
        self.types = frozenset(s.type for s in scope.resources if isinstance(s, ResourcesOfType))


class Restriction:
    """A suspension as checks need it. Times are microseconds since 1970, or ``NEVER``."""

    __slots__ = ("clauses", "closes", "effective", "ends", "id", "position", "reason", "scope")

    def __init__(
        self,
        id_: str,
        position: int,
        effective: int,
        ends: int,
        closes: int,
        scope: CompiledScope,
        reason: str,
        clauses: str,
    ) -> None:
        self.id = id_
        self.position = position
        self.effective = effective
        self.ends = ends
        self.closes = closes
        self.scope = scope
        self.reason = reason
        self.clauses = clauses

    def revised(self, ends: int, closes: int) -> Restriction:
        """Return this restriction with another end."""
        return Restriction(
            self.id,
            self.position,
            self.effective,
            ends,
            closes,
            self.scope,
            self.reason,
            self.clauses,
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """The index's answer: ``until`` in microseconds, ``None`` when no end is known."""

    allowed: bool
    restrictions: tuple[Restriction, ...] = ()
    until: int | None = None
    unknown_subject: bool = False


ALLOWED: Final = Answer(allowed=True)
_UNKNOWN: Final = Answer(allowed=False, unknown_subject=True)
_NOTHING: Final[tuple[Restriction, ...]] = ()
_NO_PROPERTIES: Final[Mapping[str, object]] = {}


class AccessIndex:
    """Answers checks at the instant of the newest event or later, from memory.

    Only what can still refuse is kept: a suspension that has closed leaves the index with the next
    event of its subject. It is read from the event loop and written by one thread at a time; each
    write replaces a value in a dictionary, so a reader sees the old or the new one, never half of
    either.
    """

    def __init__(self, *, unknown: UnknownSubjects = "allow") -> None:
        self.unknown = unknown
        self.position = 0
        self.recorded_at = 0
        self._restrictions: dict[str, tuple[Restriction, ...]] = {}
        self._automatic: dict[str, bool] = {}
        self._parents: dict[str, tuple[str, ...]] = {}
        self._groups_of: dict[str, frozenset[str]] = {}
        self._members: dict[str, frozenset[str]] = {}
        self._subject_properties: dict[str, Mapping[str, object]] = {}
        self._resource_properties: dict[str, Mapping[str, object]] = {}
        self._known: set[str] = set()
        self._scopes: dict[str, CompiledScope] = {}

    @property
    def subjects(self) -> int:
        """How many subjects have a restriction in the index."""
        return len(self._restrictions)

    # --- loading and following --------------------------------------------------------------------

    def load(self, cursor: Cursor, position: int, recorded_at: datetime) -> None:
        """Fill an empty index from the rows, which are those of ``position``."""
        cursor.execute(
            "SELECT s.subject, s.id, s.position, s.effective_at, s.automatic, t.ends_at, "
            "t.closes_at, s.scope, s.reason, s.clauses "
            "FROM access_terms t JOIN access_suspensions s "
            "ON s.id = t.suspension WHERE t.known_until IS NULL "
            "AND (t.closes_at IS NULL OR t.closes_at > ?) ORDER BY s.position",
            (format_instant(recorded_at),),
        )
        for (
            subject,
            id_,
            place,
            effective,
            automatic,
            ends,
            closes,
            scope,
            reason,
            clauses,
        ) in cursor.fetchall():
            restriction = Restriction(
                id_,
                place,
                microseconds(datetime.fromisoformat(effective)),
                microseconds(datetime.fromisoformat(ends)) if ends else NEVER,
                microseconds(datetime.fromisoformat(closes)) if closes else NEVER,
                self._compiled(scope),
                sys.intern(reason),
                sys.intern(clauses),
            )
            if not automatic:
                self._automatic[id_] = False
            self._restrictions[subject] = (*self._restrictions.get(subject, ()), restriction)
        cursor.execute("SELECT subject, parent FROM access_links WHERE known_until IS NULL")
        for subject, parent in cursor.fetchall():
            self._parents[subject] = (*self._parents.get(subject, ()), parent)
        cursor.execute("SELECT subject, properties FROM access_subjects")
        for subject, properties in cursor.fetchall():
            if self.unknown == "deny_unknown":
                self._known.add(subject)
            if properties is not None and properties != "{}":
                self._subject_properties[subject] = orjson.loads(properties)
        cursor.execute("SELECT resource, properties FROM access_resources")
        for resource, properties in cursor.fetchall():
            self._resource_properties[resource] = orjson.loads(properties)
        cursor.execute("SELECT name, resources FROM access_groups")
        for group, resources in cursor.fetchall():
            self._set_group(group, orjson.loads(resources))
        self.recorded_at = microseconds(recorded_at)
        self.position = position

    def apply(self, recorded: Recorded) -> None:
        """Take in the next event; it must be the one after ``position``."""
        assert recorded.position == self.position + 1, "the index must not skip an event"
        self._take_in(recorded.event, recorded)
        self.recorded_at = microseconds(recorded.recorded_at)
        self.position = recorded.position

    def _take_in(self, event: Event, recorded: Recorded) -> None:
        if isinstance(event, SubjectEvent) and self.unknown == "deny_unknown":
            self._known.add(event.subject.key)
        match event:
            case SubjectSuspended(subject=subject):
                ends = microseconds(event.ends_at) if event.ends_at else NEVER
                automatic = event.reinstatement is Ending.AUTOMATIC
                if not automatic:
                    self._automatic[event.suspension] = False
                restriction = Restriction(
                    event.suspension,
                    recorded.position,
                    microseconds(event.effective_at),
                    ends,
                    ends if automatic else NEVER,
                    self._compiled(_json(event.scope.model_dump(by_alias=True))),
                    sys.intern(event.reason),
                    sys.intern(_json([clause.model_dump() for clause in event.clauses])),
                )
                kept = self._still_open(subject.key, recorded)
                self._set_restrictions(subject.key, (*kept, restriction))
            case SuspensionRevised(subject=subject, suspension=suspension):
                ends = microseconds(event.ends_at) if event.ends_at else NEVER
                closes = ends if self._automatic.get(suspension, True) else NEVER
                self._set_restrictions(
                    subject.key,
                    tuple(
                        r.revised(ends, closes) if r.id == suspension else r
                        for r in self._still_open(subject.key, recorded)
                    ),
                )
            case (
                SuspensionCancelled(subject=subject, suspension=suspension)
                | SubjectReinstated(subject=subject, suspension=suspension)
            ):
                self._automatic.pop(suspension, None)
                self._set_restrictions(
                    subject.key,
                    tuple(r for r in self._still_open(subject.key, recorded) if r.id != suspension),
                )
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

    def _still_open(self, subject: str, recorded: Recorded) -> tuple[Restriction, ...]:
        now = microseconds(recorded.recorded_at)
        return tuple(r for r in self._restrictions.get(subject, ()) if r.closes > now)

    def _set_restrictions(self, subject: str, restrictions: tuple[Restriction, ...]) -> None:
        if restrictions:
            self._restrictions[subject] = restrictions
        else:
            self._restrictions.pop(subject, None)

    def _set_group(self, group: str, resources: Iterable[str]) -> None:
        before, now = self._members.get(group, frozenset()), frozenset(resources)
        for resource in now - before:
            self._groups_of[resource] = self._groups_of.get(resource, frozenset()) | {group}
        for resource in before - now:
            self._groups_of[resource] -= {group}
        self._members[group] = now

    def _compiled(self, scope: str) -> CompiledScope:
        found = self._scopes.get(scope)
        if found is None:
            found = self._scopes[scope] = CompiledScope(Scope.model_validate_json(scope))
        return found

    # --- checks -----------------------------------------------------------------------------------

    def check(
        self,
        subject: str,
        resource_type: str,
        resource_id: str,
        action: str,
        at: int,
        *,
        through: Sequence[str] = (),
        subject_properties: Mapping[str, object] = _NO_PROPERTIES,
        resource_properties: Mapping[str, object] = _NO_PROPERTIES,
        action_properties: Mapping[str, object] = _NO_PROPERTIES,
    ) -> Answer:
        """Answer whether ``subject`` (a key) may do ``action`` at ``at`` (microseconds since 1970).

        An instant before the newest event is taken as that of the newest event: a clock that went
        back must not lift a suspension that was just recorded.
        """
        restrictions = self._restrictions_on(subject, through)
        if not restrictions:
            return self._default(subject)
        at = max(at, self.recorded_at)
        resource = f"{resource_type}:{resource_id}"
        groups = self._groups_of.get(resource, frozenset())
        covering = []
        counts = False
        for restriction in restrictions:
            scope = restriction.scope
            if restriction.closes <= at or not (
                (scope.actions is None or action in scope.actions)
                and (
                    resource in scope.resources
                    or resource_type in scope.types
                    or not scope.groups.isdisjoint(groups)
                )
            ):
                continue
            if scope.conditions:
                properties = {
                    "subject": {
                        **self._subject_properties.get(subject, _NO_PROPERTIES),
                        **subject_properties,
                    },
                    "resource": {
                        **self._resource_properties.get(resource, _NO_PROPERTIES),
                        **resource_properties,
                    },
                    "action": action_properties,
                }
                if not all(condition.holds(properties) for condition in scope.conditions):
                    continue
            covering.append(restriction)
            counts = counts or restriction.effective <= at
        if not counts:
            return self._default(subject)
        covering.sort(key=lambda r: (r.effective, r.position))
        return Answer(
            allowed=False,
            restrictions=tuple(r for r in covering if r.effective <= at),
            until=_end_of_run(covering, at),
        )

    def _default(self, subject: str) -> Answer:
        if self.unknown == "deny_unknown" and subject not in self._known:
            return _UNKNOWN
        return ALLOWED

    def _restrictions_on(self, subject: str, through: Sequence[str]) -> Sequence[Restriction]:
        """Return the restrictions of the subjects and all their ancestors."""
        own = self._restrictions.get(subject, _NOTHING)
        if not through and subject not in self._parents:
            return own
        found = dict.fromkeys((subject, *through))
        waiting = list(found)
        while waiting:
            for parent in self._parents.get(waiting.pop(), ()):
                if parent not in found:
                    found[parent] = None
                    waiting.append(parent)
        return [r for key in found for r in self._restrictions.get(key, _NOTHING)]


def _end_of_run(covering: Iterable[Restriction], at: int) -> int | None:
    """Follow overlapping restrictions, oldest start first, to the first gap after ``at``."""
    end = at
    for restriction in covering:
        if restriction.effective <= end:
            end = max(end, restriction.closes)
    return None if end == NEVER else end
