"""Which violations and warnings were recorded, and which violations still stand?

A violation's row is written once; that it was overturned is added to it, with the position that says so. So
a list as known at a position reads the same rows and passes over what came later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Literal

import orjson
from eventsourcing.persistence import Cursor

from ledger.domain.events import (
    Recorded,
    ViolationOverturned,
    ViolationRecorded,
    WarningIssued,
)
from ledger.domain.values import DetectedBy, Subject, format_instant

ViolationState = Literal["stands", "overturned"]


class ConductRows:
    """The tables of violations and warnings. What is sealed (``details``) is not here."""

    NAME: ClassVar[str] = "conduct"
    TABLES: ClassVar[Sequence[str]] = ("conduct_violations", "conduct_warnings")
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
        at = format_instant(recorded.recorded_at)
        match recorded.event:
            case ViolationRecorded() as event:
                cursor.execute(
                    "INSERT INTO conduct_violations VALUES "
                    "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL, NULL)",
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
                        _json([evidence.model_dump() for evidence in event.evidence]),
                        _json([resource.model_dump() for resource in event.resources]),
                        recorded.author.operator,
                        at,
                    ),
                )
            case ViolationOverturned() as event:
                cursor.execute(
                    "UPDATE conduct_violations SET overturned_by = ?, overturned_at = ?, "
                    "overturned_reason = ? WHERE id = ?",
                    (recorded.position, at, event.reason, event.violation),
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
                        at,
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
        """Return violations as they stood at ``at``, as known at ``position``, by position.

        ``policy`` is a policy (``acceptable-use``) or a version of one; ``model`` is a resource key.
        """
        where, values = _conditions(
            {
                "position <= ?": position,
                f"position {'>' if oldest_first else '<'} ?": cursor_position,
                "id = ?": id_,
                "subject = ?": subject,
                "? IN (policy, substr(policy, 1, instr(policy, '@') - 1))": policy,
                "clause = ?": clause,
                "category = ?": category,
                "operator = ?": operator,
                "detected_by = ?": detected_by,
                "recorded_at >= ?": format_instant(recorded_from) if recorded_from else None,
                "recorded_at < ?": format_instant(recorded_to) if recorded_to else None,
                "EXISTS (SELECT 1 FROM json_each(resources) WHERE ? = "
                "value ->> 'type' || ':' || (value ->> 'id'))": model,
            }
        )
        if state is not None:
            fallen = "coalesce(overturned_by <= ? AND overturned_at <= ?, 0)"
            where += f" AND {fallen}" if state == "overturned" else f" AND NOT {fallen}"
            values = [*values, position, format_instant(at)]
        cursor.execute(
            f"SELECT * FROM conduct_violations WHERE {where} "
            f"ORDER BY position {'ASC' if oldest_first else 'DESC'} LIMIT ?",
            (*values, limit),
        )
        return [_violation_json(row, at, position) for row in cursor.fetchall()]

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
        operator: str | None = None,
        recorded_from: datetime | None = None,
        recorded_to: datetime | None = None,
    ) -> list[dict[str, object]]:
        """Return warnings as known at ``position``, by position."""
        named = "value ->> 'policy'"
        where, values = _conditions(
            {
                "position <= ?": position,
                f"position {'>' if oldest_first else '<'} ?": cursor_position,
                "id = ?": id_,
                "subject = ?": subject,
                "operator = ?": operator,
                "recorded_at >= ?": format_instant(recorded_from) if recorded_from else None,
                "recorded_at < ?": format_instant(recorded_to) if recorded_to else None,
                "EXISTS (SELECT 1 FROM json_each(clauses) WHERE ? IN "
                f"({named}, substr({named}, 1, instr({named}, '@') - 1)))": policy,
                "EXISTS (SELECT 1 FROM json_each(clauses) WHERE value ->> 'category' = ?)": (
                    category
                ),
            }
        )
        cursor.execute(
            f"SELECT * FROM conduct_warnings WHERE {where} "
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


def _conditions(asked: Mapping[str, object]) -> tuple[str, list[object]]:
    """Return the SQL of the conditions that have a value, and the values, in one order."""
    given = {condition: value for condition, value in asked.items() if value is not None}
    return " AND ".join(given), list(given.values())


def _violation_json(row: Mapping[str, Any], at: datetime, position: int) -> dict[str, object]:
    overturned = None
    if (
        row["overturned_by"] is not None
        and row["overturned_by"] <= position
        and row["overturned_at"] <= format_instant(at)
    ):
        overturned = {
            "position": row["overturned_by"],
            "at": row["overturned_at"],
            "reason": row["overturned_reason"],
        }
    return {
        "id": row["id"],
        "position": row["position"],
        "subject": Subject.parse(row["subject"]).model_dump(),
        "policy": row["policy"],
        "clause": row["clause"],
        "category": row["category"],
        "severity": row["severity"],
        "occurred_at": row["occurred_at"],
        "detected_by": row["detected_by"],
        "summary": row["summary"],
        "evidence": orjson.loads(row["evidence"]),
        "resources": orjson.loads(row["resources"]),
        "state": "overturned" if overturned else "stands",
        "overturned": overturned,
        "operator": row["operator"],
        "recorded_at": row["recorded_at"],
    }


def _json(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
