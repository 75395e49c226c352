"""The rows of who may use what: for lists, for the past as it was known, and for a restart.

They are written in the append transaction, so they are always those of the newest event.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Final

import orjson
from eventsourcing.persistence import Cursor

from ledger.domain.access import UnknownSubjects
from ledger.domain.events import (
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
    Ending,
    OneResource,
    ResourcesOfGroup,
    ResourcesOfType,
    Scope,
    Subject,
    format_instant,
)
from ledger.store.streaming import streamed


class AccessRows:
    """The tables of suspensions, links and the catalogue, and the questions they answer.

    ``access_terms`` has a row for each state of a suspension that was known, from a position until
    another (null: still). So a list as known at a position is a comparison, not a replay. The
    newest ``ends_at`` and ``closes_at`` stand in ``access_suspensions`` too, for the restart.
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
            ends_at TEXT,
            closes_at TEXT,
            scope TEXT NOT NULL,
            reason TEXT NOT NULL,
            clauses TEXT NOT NULL,
            duration TEXT,
            basis TEXT NOT NULL,
            grounds TEXT NOT NULL,
            disclosure TEXT NOT NULL,
            operator TEXT NOT NULL,
            recorded_at TEXT NOT NULL
        ) STRICT""",
        """CREATE INDEX IF NOT EXISTS access_suspensions_subject
            ON access_suspensions (subject, position)""",
        # All that is counted of the present, of what is open alone; and what falls due next.
        """CREATE INDEX IF NOT EXISTS access_suspensions_open
            ON access_suspensions (closes_at, effective_at, ends_at, subject)""",
        """CREATE INDEX IF NOT EXISTS access_suspensions_ends
            ON access_suspensions (ends_at, position)""",
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
        """CREATE INDEX IF NOT EXISTS access_terms_due ON access_terms (closes_at, suspension)
            WHERE known_until IS NULL AND ended_by IS NULL AND closes_at IS NOT NULL""",
        """CREATE INDEX IF NOT EXISTS access_terms_overturned ON access_terms (suspension)
            WHERE known_until IS NULL AND overturned > 0""",
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
            properties = _json(event.properties) if isinstance(event, SubjectRegistered) else None
            row = (event.subject.key, recorded.position, properties)
            if recorded.version == 1:  # so there is no row of the subject yet
                cursor.execute("INSERT INTO access_subjects VALUES (?, ?, ?)", row)
            elif properties is not None:
                cursor.execute(
                    "INSERT INTO access_subjects VALUES (?, ?, ?) ON CONFLICT (subject) "
                    "DO UPDATE SET properties = excluded.properties",
                    row,
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
            case ResourceListed():
                cursor.execute(
                    "INSERT INTO access_resources VALUES (?, ?, ?, ?) ON CONFLICT (resource) "
                    "DO UPDATE SET position = excluded.position, "
                    "properties = excluded.properties, actions = excluded.actions",
                    (
                        event.resource.key,
                        recorded.position,
                        _json(event.properties),
                        _json(event.actions),
                    ),
                )
            case GroupDefined():
                cursor.execute(
                    "INSERT INTO access_groups VALUES (?, ?, ?) ON CONFLICT (name) "
                    "DO UPDATE SET position = excluded.position, resources = excluded.resources",
                    (
                        event.group,
                        recorded.position,
                        _json(sorted(resource.key for resource in event.resources)),
                    ),
                )
            case _:
                pass

    def _begin(self, cursor: Cursor, recorded: Recorded, event: SubjectSuspended) -> None:
        automatic = event.reinstatement is Ending.AUTOMATIC
        ends_at = format_instant(event.ends_at) if event.ends_at else None
        closes_at = ends_at if automatic else None
        cursor.execute(
            "INSERT INTO access_suspensions VALUES "
            "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                recorded.position,
                event.suspension,
                event.subject.key,
                format_instant(event.effective_at),
                int(automatic),
                ends_at,
                closes_at,
                _json(event.scope.model_dump(by_alias=True)),
                event.reason,
                _json([clause.model_dump() for clause in event.clauses]),
                event.duration,
                event.basis,
                _json(event.grounds),
                event.disclosure,
                recorded.author.operator,
                format_instant(recorded.recorded_at),
            ),
        )
        cursor.execute(
            "INSERT INTO access_terms VALUES (?, ?, NULL, ?, ?, ?, NULL, NULL, NULL, 0)",
            (
                event.suspension,
                recorded.position,
                ends_at,
                recorded.position,
                closes_at,
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
        cursor.execute(
            "UPDATE access_suspensions SET ends_at = ?, closes_at = ? WHERE id = ?",
            (row["ends_at"], row["closes_at"], suspension),
        )
        cursor.execute(
            "UPDATE access_terms SET known_until = ? WHERE suspension = ? AND known_from = ?",
            (recorded.position, suspension, row["known_from"]),
        )
        cursor.execute(
            "INSERT INTO access_terms VALUES (?, ?, NULL, ?, ?, ?, ?, ?, ?, ?)",
            (
                suspension,
                recorded.position,
                row["ends_at"],
                row["end_set_by"],
                row["closes_at"],
                row["ended_by"],
                row["ended_at"],
                row["cause"],
                row["overturned"],
            ),
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

    def is_known(self, cursor: Cursor, subject: str) -> bool:
        """Tell whether the ledger holds any fact about a subject."""
        cursor.execute("SELECT 1 FROM access_subjects WHERE subject = ?", (subject,))
        return cursor.fetchone() is not None

    def types_of_subjects(self, cursor: Cursor, limit: int) -> list[str]:
        """Return the types of known subjects, in order: one look into the index for each."""
        found: list[str] = []
        after = ""
        while len(found) < limit:
            cursor.execute("SELECT min(subject) FROM access_subjects WHERE subject > ?", (after,))
            (key,) = cursor.fetchone()
            if key is None:
                break
            found.append(key.partition(":")[0])
            after = f"{found[-1]};"  # beyond every key of the type, as in _keys_of_type
        return found

    def subjects_beginning(
        self, cursor: Cursor, begins: Iterable[str], *, position: int, limit: int, after: str = ""
    ) -> list[tuple[str, int]]:
        """Return known subjects whose key begins with one of these texts, by key.

        With each comes the position of the first fact about it; those known later than ``position``
        are passed over, and so are those up to the key ``after``.
        """
        found: list[tuple[str, int]] = []
        for begin in _none_within_another(begins):
            if len(found) == limit:
                break
            beyond = _beyond(begin)
            cursor.execute(
                "SELECT subject, position FROM access_subjects WHERE subject >= ? AND subject > ? "
                f"AND position <= ?{'' if beyond is None else ' AND subject < ?'} "
                "ORDER BY subject LIMIT ?",
                (
                    begin,
                    after,
                    position,
                    *(() if beyond is None else (beyond,)),
                    limit - len(found),
                ),
            )
            found += [(row[0], row[1]) for row in cursor.fetchall()]
        return found

    def in_force_by_subject(
        self, cursor: Cursor, subjects: Sequence[str], *, at: datetime, position: int
    ) -> dict[str, int]:
        """Count the suspensions of each of these subjects that were in force, as known then.

        Those of subjects above are not counted.
        """
        if not subjects:
            return {}
        now = format_instant(at)
        cursor.execute(
            f"SELECT s.subject, count(*) FROM {_KNOWN_TERMS} AND s.effective_at <= ? "
            "AND (t.closes_at IS NULL OR t.closes_at > ?) "
            f"AND s.subject IN ({', '.join('?' * len(subjects))}) GROUP BY s.subject",
            (position, position, position, now, now, *subjects),
        )
        return {row[0]: int(row[1]) for row in cursor.fetchall()}

    def subjects_of_type(self, cursor: Cursor, kind: str, after: str) -> Iterator[str]:
        """Yield the keys of known subjects of a type that sort after ``after``."""
        return _keys_of_type(cursor, "subject", "access_subjects", kind, after)

    def resources_of_type(self, cursor: Cursor, kind: str, after: str) -> Iterator[str]:
        """Yield the keys of catalogued resources of a type that sort after ``after``."""
        return _keys_of_type(cursor, "resource", "access_resources", kind, after)

    def actions_of(self, cursor: Cursor, resource: str) -> list[str]:
        """Return the catalogued actions of a resource; none when it is not listed."""
        cursor.execute("SELECT actions FROM access_resources WHERE resource = ?", (resource,))
        row = cursor.fetchone()
        actions: list[str] = orjson.loads(row[0]) if row else []
        return actions

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
        covering: Sequence[str] | None = None,
        policy: str | None = None,
        category: str | None = None,
        operator: str | None = None,
        recorded_from: datetime | None = None,
        recorded_to: datetime | None = None,
    ) -> list[dict[str, object]]:
        """Return suspensions as they stood at ``at``, as known at ``position``, by position.

        ``model`` is a resource key; suspensions of its type and of groups that hold it now match
        too. ``covering`` is any of several selectors, as ``selectors_of`` returns them.
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
            also(
                _WAITS_FOR_REVIEW if review else f"NOT coalesce({_WAITS_FOR_REVIEW}, false)",
                now,
                now,
            )
        if model is not None:
            covering = self._selectors_of(cursor, model)
        if covering is not None:
            also(
                "s.id IN (SELECT suspension FROM access_selectors WHERE selector IN "
                f"({', '.join('?' * len(covering))}))",
                *covering,
            )
        if policy is not None:
            also(_CLAUSES_HOLD, _named("policy", policy))
        if category is not None:
            also(_CLAUSES_HOLD, _named("category", category))
        cursor.execute(
            f"{_SELECT_SHOWN} FROM access_suspensions s JOIN access_terms t ON t.suspension = s.id "
            "AND t.known_from <= ? AND (t.known_until IS NULL OR t.known_until > ?) "
            f"WHERE {' AND '.join(where)} "
            f"ORDER BY s.position {'ASC' if oldest_first else 'DESC'} LIMIT ?",
            (position, position, *values, limit),
        )
        return [_suspension_json(row, at) for row in cursor.fetchall()]

    def standings(
        self,
        cursor: Cursor,
        *,
        at: datetime,
        position: int,
        due_until: datetime,
        newest: bool = False,
    ) -> dict[str, int]:
        """Count suspensions by how they stood at ``at``, as known at ``position``.

        ``due`` are those in force whose term ends until ``due_until``. When ``position`` is the
        ``newest``, an index has all that is counted, and what has ended is not looked at.
        """
        now, due = format_instant(at), format_instant(due_until)
        known: Sequence[object] = () if newest else (position, position, position)
        source, ends, review = (
            ("access_suspensions s WHERE true", "s.ends_at", "s.ends_at <= ?")
            if newest
            else (_KNOWN_TERMS, "t.ends_at", "t.overturned > 0 OR t.ends_at <= ?")
        )
        closes = "s.closes_at" if newest else "t.closes_at"
        cursor.execute(
            "SELECT count(*) FILTER (WHERE s.effective_at <= ?) AS in_force, "
            "count(DISTINCT s.subject) FILTER (WHERE s.effective_at <= ?) AS restricted_subjects, "
            "count(*) FILTER (WHERE s.effective_at > ?) AS scheduled, "
            f"count(*) FILTER (WHERE s.effective_at <= ? AND {ends} > ? AND {ends} <= ?) AS due, "
            f"count(*) FILTER (WHERE {review}) AS review "
            # What has ended is counted by none of these, and is most of what there is.
            f"FROM {source} AND ({closes} IS NULL OR {closes} > ?)",
            (now, now, now, now, now, due, now, *known, now),
        )
        row = cursor.fetchone()
        counts = {
            name: int(row[name])
            for name in ("in_force", "restricted_subjects", "scheduled", "due", "review")
        }
        if newest:
            cursor.execute(
                f"SELECT count(*) FROM {_OVERTURNED} "
                "AND (s.closes_at IS NULL OR s.closes_at > ?) "
                "AND (s.ends_at IS NULL OR s.ends_at > ?)",
                (now, now),
            )
            counts["review"] += int(cursor.fetchone()[0])
        return counts

    def falling_due(
        self,
        cursor: Cursor,
        *,
        at: datetime,
        position: int,
        until: datetime,
        limit: int,
        newest: bool = False,
    ) -> list[dict[str, object]]:
        """Return the suspensions whose term ends after ``at`` and by ``until``, the next first.

        When ``position`` is the ``newest``, they are found by an index.
        """
        now = format_instant(at)
        known: Sequence[object] = () if newest else (position, position, position)
        source, of = (_NEWEST_TERMS, "s") if newest else (_KNOWN_TERMS, "t")
        cursor.execute(
            f"{_SELECT_SHOWN} FROM {source} AND ({of}.closes_at IS NULL OR {of}.closes_at > ?) "
            f"AND {of}.ends_at > ? AND {of}.ends_at <= ? ORDER BY {of}.ends_at, s.position LIMIT ?",
            (*known, now, now, format_instant(until), limit),
        )
        return [_suspension_json(row, at) for row in cursor.fetchall()]

    def waiting(self, cursor: Cursor, *, at: datetime, limit: int) -> list[dict[str, object]]:
        """Return the suspensions that wait for a person, as is known now, the newest first."""
        now = format_instant(at)
        cursor.execute(
            f"{_SELECT_SHOWN} FROM {_NEWEST_TERMS} AND s.position IN ("
            "SELECT position FROM access_suspensions WHERE closes_at IS NULL AND ends_at <= ? "
            "UNION SELECT position FROM access_suspensions WHERE closes_at > ? AND ends_at <= ? "
            f"UNION SELECT s.position FROM {_OVERTURNED} "
            "AND (s.closes_at IS NULL OR s.closes_at > ?)"
            ") ORDER BY s.position DESC LIMIT ?",
            (now, now, now, now, limit),
        )
        return [_suspension_json(row, at) for row in cursor.fetchall()]

    def _selectors_of(self, cursor: Cursor, resource: str) -> list[str]:
        cursor.execute("SELECT name, resources FROM access_groups")
        groups = [
            name for name, resources in cursor.fetchall() if resource in orjson.loads(resources)
        ]
        return selectors_of(resource, groups)

    def kept_out(
        self,
        cursor: Cursor,
        covering: Sequence[str],
        *,
        at: datetime,
        position: int,
        counted_max: int,
        beside: Sequence[str] = (),
    ) -> tuple[int, int]:
        """Count the suspensions in force at ``at`` with one of several selectors, and the subjects.

        Those that have a selector of ``beside``, too, are passed over. No more than ``counted_max``
        suspensions are counted.
        """
        condition, bound = _state_condition("in_force", format_instant(at))
        passed_over = (
            " AND NOT EXISTS (SELECT 1 FROM access_selectors y WHERE y.suspension = s.id "
            f"AND y.selector IN ({', '.join('?' * len(beside))}))"
            if beside
            else ""
        )
        cursor.execute(
            "SELECT count(*), count(DISTINCT subject) FROM (SELECT DISTINCT s.id, s.subject "
            "FROM access_selectors x JOIN access_suspensions s ON s.id = x.suspension "
            "JOIN access_terms t ON t.suspension = s.id "
            "AND t.known_from <= ? AND (t.known_until IS NULL OR t.known_until > ?) "
            f"WHERE x.selector IN ({', '.join('?' * len(covering))}) AND s.position <= ? "
            f"AND {condition}{passed_over} LIMIT ?) AS found",
            (position, position, *covering, position, *bound, *beside, counted_max),
        )
        suspensions, subjects = cursor.fetchone()
        return int(suspensions), int(subjects)

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


_KNOWN_TERMS: Final = (
    "access_suspensions s JOIN access_terms t ON t.suspension = s.id "
    "AND t.known_from <= ? AND (t.known_until IS NULL OR t.known_until > ?) WHERE s.position <= ?"
)
"""Every suspension as known at a position, which is bound three times."""

_SELECT_SHOWN: Final = (
    "SELECT s.*, t.ends_at AS term_ends_at, t.end_set_by, "
    "t.ended_by, t.ended_at, t.cause, t.overturned"
)
"""The columns of which ``_suspension_json`` makes what is shown."""

_NEWEST_TERMS: Final = (
    "access_suspensions s JOIN access_terms t ON t.suspension = s.id AND t.known_until IS NULL "
    "WHERE true"
)
_OVERTURNED: Final = (
    "access_terms t JOIN access_suspensions s ON s.id = t.suspension "
    "WHERE t.known_until IS NULL AND t.overturned > 0"
)
"""Suspensions of whose grounds one was overturned, as is known now."""

KEYS_TOGETHER: Final = 500  # read at a time, so that a page needs no more than it shows


def _none_within_another(begins: Iterable[str]) -> list[str]:
    """Return beginnings of keys in order, without those that others cover, so none counts twice."""
    kept: list[str] = []
    for begin in sorted(set(begins)):
        if not kept or not begin.startswith(kept[-1]):
            kept.append(begin)
    return kept


_SURROGATES: Final = (0xD800, 0xE000)


def _beyond(begin: str) -> str | None:
    """Return the first text after all that begin so, by code points as both stores sort."""
    stem = begin.rstrip(chr(sys.maxunicode))
    if not stem:
        return None
    following = ord(stem[-1]) + 1
    if _SURROGATES[0] <= following < _SURROGATES[1]:
        following = _SURROGATES[1]
    return stem[:-1] + chr(following)


def _keys_of_type(cursor: Cursor, column: str, table: str, kind: str, after: str) -> Iterator[str]:
    # "user:" to "user;" is every key of the type, because ; is the character after the colon.
    after = max(after, f"{kind}:")
    while True:
        cursor.execute(
            f"SELECT {column} FROM {table} WHERE {column} > ? AND {column} < ? "
            f"ORDER BY {column} LIMIT ?",
            (after, f"{kind};", KEYS_TOGETHER),
        )
        keys = [row[0] for row in cursor.fetchall()]
        yield from keys
        if len(keys) < KEYS_TOGETHER:
            return
        after = keys[-1]


# One table in the order it was written: a million rows are read in seconds.
_OPEN_SUSPENSIONS: Final = (
    "SELECT subject, id, position, effective_at, automatic, ends_at, closes_at, "
    "scope, reason, clauses FROM access_suspensions "
    "WHERE closes_at IS NULL OR closes_at > ? ORDER BY position"
)
_SUBJECT_PROPERTIES: Final = (
    "SELECT subject, properties FROM access_subjects "
    "WHERE properties IS NOT NULL AND properties <> '{}'"
)
SNAPSHOT: Final = (
    ("suspension", _OPEN_SUSPENSIONS),
    ("link", "SELECT subject, parent FROM access_links WHERE known_until IS NULL"),
    ("properties", _SUBJECT_PROPERTIES),
    ("resource", "SELECT resource, properties FROM access_resources"),
    ("group", "SELECT name, resources FROM access_groups"),
)
KNOWN_SUBJECTS: Final = ("known", "SELECT subject FROM access_subjects")


def snapshot(
    cursor: Cursor, *, position: int, recorded_at: str, unknown: UnknownSubjects
) -> Iterator[tuple[Any, ...]]:
    """Yield what an index is filled from: records of a kind and its columns, the last ``ledger``.

    ``position`` and ``recorded_at`` are those of the newest event in the cursor's snapshot. When
    ``unknown`` subjects are denied, every subject is named that the ledger holds a fact about.
    """
    for kind, query in (*SNAPSHOT, *((KNOWN_SUBJECTS,) if unknown == "deny_unknown" else ())):
        for row in streamed(cursor, query, (recorded_at,) if "?" in query else ()):
            yield (kind, *row)
    yield ("ledger", position, recorded_at, unknown)


_WAITS_FOR_REVIEW: Final = (
    "(t.closes_at IS NULL OR t.closes_at > ?) AND (t.overturned > 0 OR t.ends_at <= ?)"
)


def _state_condition(state: SuspensionState, now: str) -> tuple[str, Sequence[str]]:
    """Return the SQL of ``Suspension.state``."""
    is_open = "(t.closes_at IS NULL OR t.closes_at > ?)"
    match state:
        case "in_force":
            return f"s.effective_at <= ? AND {is_open}", (now, now)
        case "cancelled":
            return "t.cause = 'cancelled' AND t.closes_at <= ?", (now,)
        case "ended":
            return "coalesce(t.cause, '') <> 'cancelled' AND t.closes_at <= ?", (now,)
        case "scheduled":
            return f"s.effective_at > ? AND {is_open}", (now, now)


def _suspension_json(row: Mapping[str, Any], at: datetime) -> dict[str, object]:
    event = SubjectSuspended(
        subject=Subject.parse(row["subject"]),
        suspension=row["id"],
        scope=Scope.model_validate_json(row["scope"]),
        effective_at=datetime.fromisoformat(row["effective_at"]),
        ends_at=None,  # as first decided; what counts is the end as revised, below
        duration=row["duration"],
        basis=row["basis"],
        grounds=orjson.loads(row["grounds"]),
        clauses=orjson.loads(row["clauses"]),
        reason=row["reason"],
        reinstatement=Ending.AUTOMATIC if row["automatic"] else Ending.ON_REVIEW,
        disclosure=row["disclosure"],
    )
    ended = None
    if row["ended_by"] is not None:
        ended = Ended(row["ended_by"], datetime.fromisoformat(row["ended_at"]), row["cause"])
    ends_at = datetime.fromisoformat(row["term_ends_at"]) if row["term_ends_at"] else None
    suspension = Suspension(event, row["position"], ends_at, row["end_set_by"], ended)
    fell = row["overturned"] > 0
    return {
        **suspension.as_json(at),
        "review": suspension.waits_for_review(at, ground_fell=fell),
        "operator": row["operator"],
        "recorded_at": row["recorded_at"],
    }


def selectors_of(resource: str, groups: Iterable[str]) -> list[str]:
    """Return the selectors that cover a resource that is in these groups."""
    named = (f"group {group}" for group in groups)
    return [f"resource {resource}", f"type {resource.partition(':')[0]}", *named]


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


# Clauses are canonical JSON, so a member stands there in one way only, and in no text a bare quote.
_CLAUSES_HOLD: Final = "replace(s.clauses, ?, '') <> s.clauses"


def _named(member: str, value: str) -> str:
    """Return how clauses show that a member is this; a policy without a version is any of it."""
    shown = f'"{member}":{_json(value)}'
    return shown if member != "policy" or "@" in value else f"{shown[:-1]}@"


def _json(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
