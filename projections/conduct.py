"""Which violations and warnings were recorded, and which still stand?

A row is written once. That a violation was overturned is added to its row, with the position that
says so, and a list as known at a position passes over what came later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Literal

import orjson
from eventsourcing.persistence import Cursor

from ledger.domain.events import Recorded, ViolationOverturned, ViolationRecorded, WarningIssued
from ledger.domain.values import DetectedBy, Subject, format_instant

ViolationState = Literal["stands", "overturned"]


class ConductRows:
    """The tables of violations and warnings, and the questions they answer.

    What is sealed in an event, the details of a violation, is not here.
    """

    NAME: ClassVar[str] = "conduct"
    TABLES: ClassVar[Sequence[str]] = (
        "conduct_violations",
        "conduct_resources",
        "conduct_warnings",
    )
    # An index ends with the key of its table, so each of these is in the order of positions.
    DDL: ClassVar[Sequence[str]] = (
        """CREATE TABLE IF NOT EXISTS conduct_violations (
            position INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            subject TEXT NOT NULL,
            policy TEXT NOT NULL,
            clause TEXT NOT NULL,
            category TEXT NOT NULL,
            severity TEXT NOT NULL,
            occurred_at TEXT NOT NULL,
            detected_by TEXT NOT NULL,
            summary TEXT NOT NULL,
            evidence TEXT NOT NULL,
            resources TEXT NOT NULL,
            operator TEXT NOT NULL,
            recorded_at TEXT NOT NULL,
            overturned_by INTEGER,
            overturned_at TEXT,
            overturned_reason TEXT
        ) STRICT""",
        """CREATE INDEX IF NOT EXISTS conduct_violations_subject
            ON conduct_violations (subject, position)""",
        """CREATE INDEX IF NOT EXISTS conduct_violations_category
            ON conduct_violations (category, position)""",
        """CREATE INDEX IF NOT EXISTS conduct_violations_overturned
            ON conduct_violations (position) WHERE overturned_by IS NOT NULL""",
        """CREATE TABLE IF NOT EXISTS conduct_resources (
            resource TEXT NOT NULL,
            position INTEGER NOT NULL,
            PRIMARY KEY (resource, position)
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE IF NOT EXISTS conduct_warnings (
            position INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            subject TEXT NOT NULL,
            grounds TEXT NOT NULL,
            clauses TEXT NOT NULL,
            reason TEXT NOT NULL,
            operator TEXT NOT NULL,
            recorded_at TEXT NOT NULL
        ) STRICT""",
        """CREATE INDEX IF NOT EXISTS conduct_warnings_subject
            ON conduct_warnings (subject, position)""",
    )

    def apply(self, cursor: Cursor, recorded: Recorded) -> None:
        """Write what one event changes."""
        match recorded.event:
            case ViolationRecorded() as event:
                cursor.execute(
                    "INSERT INTO conduct_violations VALUES "
                    "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        recorded.position,
                        event.violation,
                        event.subject.key,
                        event.policy,
                        event.clause,
                        event.category,
                        event.severity,
                        format_instant(event.occurred_at),
                        event.detected_by,
                        event.summary,
                        _json([item.model_dump() for item in event.evidence]),
                        _json([resource.model_dump() for resource in event.resources]),
                        recorded.author.operator,
                        format_instant(recorded.recorded_at),
                        None,  # not overturned
                        None,
                        None,
                    ),
                )
                for resource in dict.fromkeys(resource.key for resource in event.resources):
                    cursor.execute(
                        "INSERT INTO conduct_resources VALUES (?, ?)", (resource, recorded.position)
                    )
            case ViolationOverturned(violation=violation, reason=reason):
                cursor.execute(
                    "UPDATE conduct_violations "
                    "SET overturned_by = ?, overturned_at = ?, overturned_reason = ? WHERE id = ?",
                    (recorded.position, format_instant(recorded.recorded_at), reason, violation),
                )
            case WarningIssued() as event:
                cursor.execute(
                    "INSERT INTO conduct_warnings VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        recorded.position,
                        event.warning,
                        event.subject.key,
                        _json(event.grounds),
                        _json([clause.model_dump() for clause in event.clauses]),
                        event.reason,
                        recorded.author.operator,
                        format_instant(recorded.recorded_at),
                    ),
                )
            case _:
                pass

    # --- questions --------------------------------------------------------------------------------

    def stream_of(self, cursor: Cursor, violation: str) -> str | None:
        """Return the stream that holds a violation."""
        cursor.execute("SELECT subject FROM conduct_violations WHERE id = ?", (violation,))
        row = cursor.fetchone()
        return f"subject/{row[0]}" if row else None

    def violations(
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
        state: ViolationState | None = None,
        policy: str | None = None,
        clause: str | None = None,
        category: str | None = None,
        model: str | None = None,
        operator: str | None = None,
        detected_by: DetectedBy | None = None,
        recorded_from: datetime | None = None,
        recorded_to: datetime | None = None,
    ) -> list[dict[str, object]]:
        """Return violations as known at ``position``, by position, with their state at ``at``.

        A violation is overturned from the instant at which that was recorded, once it is known.
        ``policy`` is a policy (``acceptable-use``) or a version of one (``acceptable-use@1``),
        ``model`` the key of a resource that the violation names.
        """
        known = (position, format_instant(at))
        overturned = "overturned_by <= ? AND overturned_at <= ?"
        where, values = _where(
            {
                "position <= ?": position,
                f"position {'>' if oldest_first else '<'} ?": cursor_position,
                "id = ?": id_,
                "subject = ?": subject,
                overturned: known if state == "overturned" else None,
                f"NOT coalesce({overturned}, false)": known if state == "stands" else None,
                **_of_policy(policy),
                "clause = ?": clause,
                "category = ?": category,
                "resource = ?": model,
                "operator = ?": operator,
                "detected_by = ?": detected_by,
                "recorded_at >= ?": format_instant(recorded_from) if recorded_from else None,
                "recorded_at < ?": format_instant(recorded_to) if recorded_to else None,
            }
        )
        named = ("conduct_resources JOIN ", " USING (position)") if model is not None else ("", "")
        cursor.execute(
            "SELECT id, position, subject, policy, clause, category, severity, occurred_at, "
            "detected_by, summary, evidence, resources, "
            f"CASE WHEN {overturned} THEN 'overturned' ELSE 'stands' END AS state, "
            "NULL AS overturned, operator, recorded_at, "
            "overturned_by, overturned_at, overturned_reason "
            f"FROM {named[0]}conduct_violations{named[1]} WHERE {where} "
            f"ORDER BY position {'ASC' if oldest_first else 'DESC'} LIMIT ?",
            (*known, *values, limit),
        )
        return [_violation_json(row) for row in cursor.fetchall()]

    def warnings(
        self,
        cursor: Cursor,
        *,
        position: int,
        limit: int,
        cursor_position: int | None = None,
        oldest_first: bool = False,
        id_: str | None = None,
        subject: str | None = None,
        policy: str | None = None,
        category: str | None = None,
        ground: str | None = None,
        operator: str | None = None,
        recorded_from: datetime | None = None,
        recorded_to: datetime | None = None,
    ) -> list[dict[str, object]]:
        """Return warnings as known at ``position``, by position; ``policy`` as for violations.

        ``ground`` is a violation that the warning names.
        """
        where, values = _where(
            {
                "position <= ?": position,
                f"position {'>' if oldest_first else '<'} ?": cursor_position,
                "id = ?": id_,
                "subject = ?": subject,
                # Clauses are canonical JSON, so a member stands there in one way only, and in no
                # text with bare quotes. Of the two conditions each needs its own wording here.
                "replace(clauses, ?, '') <> clauses": _named("policy", policy),
                "clauses <> replace(clauses, ?, '')": _named("category", category),
                "replace(grounds, ?, '') <> grounds": None if ground is None else _json(ground),
                "operator = ?": operator,
                "recorded_at >= ?": format_instant(recorded_from) if recorded_from else None,
                "recorded_at < ?": format_instant(recorded_to) if recorded_to else None,
            }
        )
        cursor.execute(
            "SELECT id, position, subject, grounds, clauses, reason, operator, recorded_at "
            f"FROM conduct_warnings WHERE {where} "
            f"ORDER BY position {'ASC' if oldest_first else 'DESC'} LIMIT ?",
            (*values, limit),
        )
        return [
            {
                **dict(row),
                "subject": Subject.parse(row["subject"]).model_dump(),
                "grounds": orjson.loads(row["grounds"]),
                "clauses": orjson.loads(row["clauses"]),
            }
            for row in cursor.fetchall()
        ]


def _where(filters: Mapping[str, object]) -> tuple[str, list[object]]:
    """Return the conditions that were asked for, and their values; ``None`` was not asked."""
    asked = {condition: value for condition, value in filters.items() if value is not None}
    values: list[object] = []
    for value in asked.values():
        values += value if isinstance(value, tuple) else (value,)
    return " AND ".join(asked), values


def _of_policy(policy: str | None) -> dict[str, object]:
    """Return the condition that a version of a policy is this one, or one of this policy."""
    if policy is None or "@" in policy:
        return {"policy = ?": policy}
    # "aup@" to "aupA" is every version of aup, because A is the character after @.
    return {"policy >= ? AND policy < ?": (f"{policy}@", f"{policy}A")}


def _named(member: str, value: str | None) -> str | None:
    """Return how clauses show that a member is this; a policy without a version is any of it."""
    if value is None:
        return None
    shown = f'"{member}":{_json(value)}'
    return shown if member != "policy" or "@" in value else f"{shown[:-1]}@"


def _violation_json(row: Mapping[str, Any]) -> dict[str, object]:
    violation = dict(row)
    position, at, reason = (violation.pop(f"overturned_{name}") for name in ("by", "at", "reason"))
    if violation["state"] == "overturned":
        violation["overturned"] = {"position": position, "at": at, "reason": reason}
    return {
        **violation,
        "subject": Subject.parse(row["subject"]).model_dump(),
        "evidence": orjson.loads(row["evidence"]),
        "resources": orjson.loads(row["resources"]),
    }


def _json(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
