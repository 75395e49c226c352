"""What of a report may anybody see?

The public variant has fewer figures than the report, each table a partition of one total, so that
what ``suppression`` shows of a table holds for the whole: two tables share a total and nothing
else. The clauses of a category are parts of its count, so they are shown where that is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ledger.service.transparency.suppression import SMALL, shown_counts, shown_total
from projections.report import SHARE_DIGITS

Row = Mapping[str, Any]
Table = list[dict[str, Any]] | None

SUPPRESSION_NOTE: Final = (
    f"Counts below {SMALL} are left out, and with them what would let them be worked out; a table "
    "of mostly small counts is left out as a whole."
)


def public_figures(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the public variant of a report's figures; ``None`` stands for what is left out."""
    violations, suspensions = report["violations"], report["suspensions"]
    reinstatements, subjects = report["reinstatements"], report["subjects"]
    detection = _table(_by(violations["by_detection"], "detected_by", "recorded"))
    outcomes = [{"outcome": name, "count": violations[name]} for name in ("standing", "overturned")]
    return {
        "violations": {
            "recorded": shown_total(violations["recorded"]),
            "automated_share": _share_of("automated", detection),
            "by_category": _categories(violations),
            "by_month": _table(_by(violations["by_month"], "month", "recorded")),
            "by_detection": detection,
            "by_outcome": _table(outcomes),
        },
        "warnings": {"issued": shown_total(report["warnings"]["issued"])},
        "suspensions": {
            "counted": shown_total(suspensions["counted"]),
            "by_model": _table(suspensions["by_model"]),
            "by_length": _table(suspensions["by_length"]),
            "by_basis": _table(suspensions["by_basis"]),
            "by_month": _table(suspensions["by_month"]),
            "by_subject": _repeats(suspensions),
        },
        "reinstatements": {
            "recorded": shown_total(reinstatements["recorded"]),
            "median_seconds": (
                reinstatements["median_seconds"] if reinstatements["recorded"] >= SMALL else None
            ),
            "by_cause": _table(_by(reinstatements["by_cause"], "cause", "count")),
        },
        "subjects": {
            "affected": shown_total(subjects["affected"]),
            "by_type": _table(subjects["by_type"]),
        },
    }


def _by(rows: Sequence[Row], key: str, count: str) -> list[dict[str, Any]]:
    """Return of each row what it is about, and one of its counts."""
    return [{key: row[key], "count": row[count]} for row in rows]


def _table(rows: Sequence[Row]) -> Table:
    """Return a table as it is shown; the labels of one that is withheld are not shown either."""
    shown = shown_counts([row["count"] for row in rows])
    if shown is None:
        return None
    return [{**row, "count": count} for row, count in zip(rows, shown, strict=True)]


def _categories(violations: Row) -> Table:
    table = _table(_by(violations["by_category"], "category", "recorded"))
    if table is None:
        return None
    for row in table:
        clauses = [each for each in violations["by_clause"] if each["category"] == row["category"]]
        row["by_clause"] = None
        if row["count"] is not None:
            row["by_clause"] = _table(
                [
                    {
                        "policy": each["policy"],
                        "clause": each["clause"],
                        "count": each["recorded"],
                    }
                    for each in clauses
                ]
            )
    return table


def _repeats(suspensions: Row) -> Table:
    """Return how many subjects were suspended for the first time, and how many again."""
    again = suspensions["repeat_subjects"]
    return _table(
        [
            {"suspended": "first time", "count": suspensions["subjects"] - again},
            {"suspended": "again", "count": again},
        ]
    )


def _share_of(name: str, table: Table) -> float | None:
    """Return the share of one row, where all of its table is shown."""
    counts: dict[str, int | None] = {row["detected_by"]: row["count"] for row in table or ()}
    shown = [count for count in counts.values() if count is not None]
    if not shown or len(shown) < len(counts):
        return None
    return round((counts.get(name) or 0) / sum(shown), SHARE_DIGITS)
