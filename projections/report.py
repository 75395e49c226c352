"""How much was recorded in a period: violations, suspensions and reinstatements, in figures?

Every figure is a function of the period and of a position: of the facts up to that position, and of
nothing else. So a report that is run again at its position is the same, byte for byte, whatever was
recorded since; and what a later fact corrects shows in the report at a later position.

``apply`` only inserts, one row for each fact that counts, so it costs an append little. What became
of a violation or a suspension is a row of its own, and is joined when somebody asks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar, Final

import orjson
from eventsourcing.persistence import Cursor

from ledger.domain.events import (
    Recorded,
    SubjectReinstated,
    SubjectSuspended,
    SuspensionCancelled,
    SuspensionRevised,
    ViolationOverturned,
    ViolationRecorded,
    WarningIssued,
)
from ledger.domain.values import Basis, Cause, format_instant, microseconds
from ledger.store.streaming import streamed

SHARE_DIGITS: Final = 4  # of a share: a hundredth of a percent, more would be noise
DAY_US: Final = timedelta(days=1) // timedelta(microseconds=1)
LENGTHS: Final[Sequence[tuple[str, int | None]]] = (
    ("up to 1 day", 1),
    ("up to 7 days", 7),
    ("up to 31 days", 31),
    ("up to 92 days", 92),  # three months, whichever they are
    ("up to 366 days", 366),
    ("longer", None),
)
"""Lengths of suspensions: a name, and the most days that it means. Each begins after the last."""
NO_END: Final = "no end"

_FACTS: Final = "position > ? AND position <= ?"
_STANDS: Final = (
    "NOT EXISTS (SELECT 1 FROM report_outcomes o WHERE o.about = {0}.id AND o.outcome = '{1}' "
    "AND o.position <= ?)"
)


@dataclass(frozen=True, slots=True)
class Span:
    """The facts of a period: those after a position and up to another, as known at a third.

    ``recorded_at`` never goes back, so the facts of a period are neighbours.
    """

    after: int
    until: int
    known: int


class ReportRows:
    """The tables of what is counted, and the figures.

    ``report_outcomes`` says what became of a violation or a suspension: overturned, cancelled,
    revised, or ended, with the cause.
    """

    NAME: ClassVar[str] = "report"
    TABLES: ClassVar[Sequence[str]] = (
        "report_violations",
        "report_warnings",
        "report_suspensions",
        "report_outcomes",
    )
    DDL: ClassVar[Sequence[str]] = (
        """CREATE TABLE IF NOT EXISTS report_violations (
            position INTEGER PRIMARY KEY,
            id TEXT NOT NULL,
            subject TEXT NOT NULL,
            subject_type TEXT NOT NULL,
            policy TEXT NOT NULL,
            clause TEXT NOT NULL,
            category TEXT NOT NULL,
            detected_by TEXT NOT NULL,
            month TEXT NOT NULL
        ) STRICT""",
        """CREATE INDEX IF NOT EXISTS report_violations_subject
            ON report_violations (subject, position)""",
        """CREATE TABLE IF NOT EXISTS report_warnings (
            position INTEGER PRIMARY KEY,
            subject TEXT NOT NULL,
            subject_type TEXT NOT NULL
        ) STRICT""",
        """CREATE TABLE IF NOT EXISTS report_suspensions (
            position INTEGER PRIMARY KEY,
            id TEXT NOT NULL,
            subject TEXT NOT NULL,
            subject_type TEXT NOT NULL,
            basis TEXT NOT NULL,
            models TEXT NOT NULL,
            effective_us INTEGER NOT NULL,
            ends_us INTEGER,
            month TEXT NOT NULL
        ) STRICT""",
        """CREATE INDEX IF NOT EXISTS report_suspensions_subject
            ON report_suspensions (subject, position)""",
        "CREATE INDEX IF NOT EXISTS report_suspensions_id ON report_suspensions (id)",
        """CREATE TABLE IF NOT EXISTS report_outcomes (
            position INTEGER PRIMARY KEY,
            about TEXT NOT NULL,
            outcome TEXT NOT NULL,
            at_us INTEGER
        ) STRICT""",
        "CREATE INDEX IF NOT EXISTS report_outcomes_about ON report_outcomes (about, position)",
    )

    def apply(self, cursor: Cursor, recorded: Recorded) -> None:
        """Write what one event changes."""
        position, month = recorded.position, format_instant(recorded.recorded_at)[:7]
        match recorded.event:
            case ViolationRecorded() as event:
                cursor.execute(
                    "INSERT INTO report_violations VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        position,
                        event.violation,
                        event.subject.key,
                        event.subject.type,
                        event.policy.partition("@")[0],
                        event.clause,
                        event.category,
                        event.detected_by,
                        month,
                    ),
                )
            case WarningIssued(subject=subject):
                cursor.execute(
                    "INSERT INTO report_warnings VALUES (?, ?, ?)",
                    (position, subject.key, subject.type),
                )
            case SubjectSuspended() as event:
                models = sorted({selector.label for selector in event.scope.resources})
                cursor.execute(
                    "INSERT INTO report_suspensions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        position,
                        event.suspension,
                        event.subject.key,
                        event.subject.type,
                        event.basis,
                        orjson.dumps(models).decode(),
                        microseconds(event.effective_at),
                        microseconds(event.ends_at) if event.ends_at else None,
                        month,
                    ),
                )
            case ViolationOverturned(violation=violation):
                self._became(cursor, position, violation, "overturned", None)
            case SuspensionCancelled(suspension=suspension):
                self._became(cursor, position, suspension, "cancelled", None)
            case SuspensionRevised(suspension=suspension, ends_at=ends_at):
                end = microseconds(ends_at) if ends_at else None
                self._became(cursor, position, suspension, "revised", end)
            case SubjectReinstated() as event:
                at = microseconds(event.effective_at)
                self._became(cursor, position, event.suspension, event.cause, at)
            case _:
                pass

    @staticmethod
    def _became(cursor: Cursor, position: int, about: str, outcome: str, at: int | None) -> None:
        cursor.execute(
            "INSERT INTO report_outcomes VALUES (?, ?, ?, ?)", (position, about, outcome, at)
        )

    # --- questions --------------------------------------------------------------------------------

    def figures(self, cursor: Cursor, span: Span) -> dict[str, Any]:
        """Return the figures of the facts in ``span``, as known at its last position."""
        return {
            "violations": self._violations(cursor, span),
            "warnings": {"issued": self._warnings(cursor, span)},
            "suspensions": self._suspensions(cursor, span),
            "reinstatements": self._reinstatements(cursor, span),
            "subjects": self._subjects(cursor, span),
        }

    def _violations(self, cursor: Cursor, span: Span) -> dict[str, Any]:
        # Grouped by the database: a million rows become as many as there are kinds of them.
        cursor.execute(
            "SELECT v.policy, v.clause, v.category, v.detected_by, v.month, "
            f"CASE WHEN {_STANDS.format('v', 'overturned')} THEN 1 ELSE 0 END AS stands, "
            "count(*) AS number FROM report_violations v "
            f"WHERE {_FACTS} GROUP BY 1, 2, 3, 4, 5, 6",
            (span.known, span.after, span.until),
        )
        rows = [tuple(row) for row in cursor.fetchall()]
        by = {
            "by_category": _tally(((category,), s, n) for _, _, category, _, _, s, n in rows),
            "by_clause": _tally(((p, c, category), s, n) for p, c, category, _, _, s, n in rows),
            "by_month": _tally(((month,), s, n) for *_, month, s, n in rows),
            "by_detection": _tally(((found,), s, n) for _, _, _, found, _, s, n in rows),
        }
        recorded = sum(row[6] for row in rows)
        automated = sum(row[6] for row in rows if row[3] == "automated")
        subjects, repeated = self._repeats(cursor, span, "report_violations", "overturned")
        return {
            "recorded": recorded,
            "standing": sum(row[6] for row in rows if row[5]),
            "overturned": sum(row[6] for row in rows if not row[5]),
            "automated_share": _share(automated, recorded),
            "by_category": _listed(by["by_category"], "category"),
            "by_clause": _listed(by["by_clause"], "policy", "clause", "category"),
            "by_month": _listed(by["by_month"], "month"),
            "by_detection": _listed(by["by_detection"], "detected_by"),
            "subjects": subjects,
            "repeat_subjects": repeated,
            "repeat_rate": _share(repeated, subjects),
        }

    def _warnings(self, cursor: Cursor, span: Span) -> int:
        cursor.execute(
            f"SELECT count(*) FROM report_warnings WHERE {_FACTS}", (span.after, span.until)
        )
        return int(cursor.fetchone()[0])

    def _suspensions(self, cursor: Cursor, span: Span) -> dict[str, Any]:
        ends, cancelled = self._revisions(cursor, span)
        counts: dict[str, Counter[str]] = {
            name: Counter() for name in ("model", "length", "basis", "month")
        }
        recorded = taken_back = 0
        rows = streamed(
            cursor,
            "SELECT id, basis, models, effective_us, ends_us, month FROM report_suspensions "
            f"WHERE {_FACTS}",
            (span.after, span.until),
        )
        for id_, basis, models, effective, end, month in map(tuple, rows):
            recorded += 1
            if id_ in cancelled:
                taken_back += 1
                continue
            counts["model"][models] += 1
            counts["length"][length_of(effective, ends.get(id_, end))] += 1
            counts["basis"][basis] += 1
            counts["month"][month] += 1
        by_model: Counter[str] = Counter()
        for models, number in counts["model"].items():
            for model in orjson.loads(models):
                by_model[model] += number
        subjects, repeated = self._repeats(cursor, span, "report_suspensions", "cancelled")
        return {
            "recorded": recorded,
            "cancelled": taken_back,
            "counted": recorded - taken_back,
            "by_model": _counted(by_model, "model"),
            "by_length": _counted(counts["length"], "length", (*[n for n, _ in LENGTHS], NO_END)),
            "by_basis": _counted(counts["basis"], "basis", tuple(Basis)),
            "by_month": _counted(counts["month"], "month"),
            "subjects": subjects,
            "repeat_subjects": repeated,
            "repeat_rate": _share(repeated, subjects),
        }

    def _revisions(self, cursor: Cursor, span: Span) -> tuple[dict[str, int | None], set[str]]:
        """Return the last known ends of suspensions that were revised, and those cancelled."""
        cursor.execute(
            "SELECT o.about, o.outcome, o.at_us FROM report_outcomes o "
            "JOIN report_suspensions s ON s.id = o.about "
            "WHERE s.position > ? AND s.position <= ? AND o.position <= ? "
            "AND o.outcome IN ('revised', 'cancelled') ORDER BY o.position",
            (span.after, span.until, span.known),
        )
        ends: dict[str, int | None] = {}
        cancelled = set()
        for about, outcome, at in map(tuple, cursor.fetchall()):
            if outcome == "revised":
                ends[about] = at
            else:
                cancelled.add(about)
        return ends, cancelled

    def _reinstatements(self, cursor: Cursor, span: Span) -> dict[str, Any]:
        rows = streamed(
            cursor,
            "SELECT o.outcome, o.at_us - s.effective_us FROM report_outcomes o "
            "JOIN report_suspensions s ON s.id = o.about "
            "WHERE o.position > ? AND o.position <= ? "
            "AND o.outcome NOT IN ('overturned', 'cancelled', 'revised')",
            (span.after, span.until),
        )
        times: dict[str, list[int]] = {cause: [] for cause in Cause}
        for cause, held in map(tuple, rows):
            times[cause].append(max(0, held))
        every = [held for some in times.values() for held in some]
        return {
            "recorded": len(every),
            "median_seconds": median_seconds(every),
            "by_cause": [
                {"cause": str(cause), "count": len(held), "median_seconds": median_seconds(held)}
                for cause, held in times.items()
            ],
        }

    def _subjects(self, cursor: Cursor, span: Span) -> dict[str, Any]:
        """Count the subjects of standing violations, warnings and suspensions not cancelled."""
        cursor.execute(
            "SELECT subject_type, count(*) FROM ("
            "SELECT v.subject, v.subject_type FROM report_violations v "
            f"WHERE {_FACTS} AND {_STANDS.format('v', 'overturned')} "
            f"UNION SELECT subject, subject_type FROM report_warnings WHERE {_FACTS} "
            "UNION SELECT s.subject, s.subject_type FROM report_suspensions s "
            f"WHERE {_FACTS} AND {_STANDS.format('s', 'cancelled')}"
            ") AS affected GROUP BY subject_type",
            (
                *(span.after, span.until, span.known),
                *(span.after, span.until),
                *(span.after, span.until, span.known),
            ),
        )
        found = Counter({row[0]: int(row[1]) for row in cursor.fetchall()})
        return {"affected": found.total(), "by_type": _counted(found, "type")}

    @staticmethod
    def _repeats(cursor: Cursor, span: Span, table: str, void: str) -> tuple[int, int]:
        """Count the subjects of a kind of fact, and those of them that had one before.

        A fact that was overturned or cancelled, as known, is none.
        """
        cursor.execute(
            "SELECT count(*), coalesce(sum(CASE WHEN EXISTS ("
            f"SELECT 1 FROM {table} e WHERE e.subject = p.subject AND e.position < p.newest "
            f"AND {_STANDS.format('e', void)}) THEN 1 ELSE 0 END), 0) "
            f"FROM (SELECT f.subject, max(f.position) AS newest FROM {table} f "
            f"WHERE {_FACTS} AND {_STANDS.format('f', void)} GROUP BY f.subject) AS p",
            (span.known, span.after, span.until, span.known),
        )
        row = cursor.fetchone()
        return int(row[0]), int(row[1])


def length_of(effective_us: int, ends_us: int | None) -> str:
    """Return the name of the length of a term."""
    if ends_us is None:
        return NO_END
    for name, days in LENGTHS:
        if days is None or ends_us - effective_us <= days * DAY_US:
            return name
    raise AssertionError("the last length has no limit")


def median_seconds(times_us: Sequence[int]) -> int | None:
    """Return the lower median in whole seconds, cut; ``None`` when there are no times.

    The lower one is a time that was measured, so there is nothing to round.
    """
    if not times_us:
        return None
    return sorted(times_us)[(len(times_us) - 1) // 2] // 1_000_000


def _share(part: int, whole: int) -> float | None:
    """Return what part of a whole something is; ``None`` where there is no whole."""
    return round(part / whole, SHARE_DIGITS) if whole else None


def _tally(
    rows: Iterable[tuple[tuple[str, ...], int, int]],
) -> dict[tuple[str, ...], tuple[int, int]]:
    """Add up, for each key, what stands and what was overturned."""
    found: dict[tuple[str, ...], tuple[int, int]] = {}
    for key, stands, number in rows:
        standing, overturned = found.get(key, (0, 0))
        found[key] = (standing + number, overturned) if stands else (standing, overturned + number)
    return found


def _listed(
    found: Mapping[tuple[str, ...], tuple[int, int]], *names: str
) -> list[dict[str, object]]:
    """Return counts by key, in the order of the keys, which is that of their code points."""
    return [
        {
            **dict(zip(names, key, strict=True)),
            "recorded": standing + overturned,
            "standing": standing,
            "overturned": overturned,
        }
        for key, (standing, overturned) in sorted(found.items())
    ]


def _counted(
    found: Mapping[str, int], name: str, order: Sequence[str] = ()
) -> list[dict[str, object]]:
    """Return counts by key: all of ``order`` in that order, or the keys found, in theirs."""
    return [{name: str(key), "count": found.get(key, 0)} for key in order or sorted(found)]
