"""The plots of a report: bars, drawn on the server, as SVG that runs nothing and loads nothing.

A plot is a function of the figures: the same figures make the same bytes. What it shows stands in
the table beside it, so a plot has a title and a description and no more words than fit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import import_module
from typing import Any, Final

from ledger.domain.errors import NotFound

PLOT_ROWS_MAX: Final = 24  # bars that a person can still compare; the table has all rows
LABEL_CHARACTERS_MAX: Final = 24  # of a bar's name, which fit beside it
WIDTH: Final = 480
ROW: Final = 26
NAMES: Final = 190  # where the bars begin
VALUES: Final = 70  # room after the longest bar for its number
TOP: Final = 44
INK: Final = "#16202b"
BAR: Final = "#0b57a4"
GROUND: Final = "#ffffff"
FONT: Final = "system-ui, sans-serif"

_NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Plot:
    """Which table of a report is drawn; others than ``in_order`` by size."""

    title: str
    kind: str
    table: str
    in_order: bool = False


PLOTS: Final[Mapping[str, Plot]] = {
    "violations-by-category": Plot("Violations by category", "violations", "by_category"),
    "violations-by-clause": Plot("Violations by clause", "violations", "by_clause"),
    "violations-by-month": Plot("Violations by month", "violations", "by_month", in_order=True),
    "suspensions-by-model": Plot("Suspensions by model", "suspensions", "by_model"),
    "suspensions-by-length": Plot(
        "Suspensions by length", "suspensions", "by_length", in_order=True
    ),
    "suspensions-by-month": Plot("Suspensions by month", "suspensions", "by_month", in_order=True),
    "reinstatements-by-cause": Plot("Reinstatements by cause", "reinstatements", "by_cause"),
}


def plots_of(report: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """Return the names of the plots that a report has, by the kind and table that they draw."""
    return {
        (plot.kind, plot.table): name
        for name, plot in PLOTS.items()
        if report[plot.kind].get(plot.table)
    }


def plot_of(name: str, report: Mapping[str, Any]) -> bytes:
    """Return a plot of a report as SVG. Raises ``NotFound`` when there is no such plot."""
    plot = PLOTS.get(name)
    rows = report[plot.kind].get(plot.table) if plot is not None else None
    if plot is None or rows is None:
        raise NotFound(f"there is no plot {name!r} of this report")
    period = f"recorded from {report['from'][:10]} until before {report['to'][:10]}"
    known = f"as known at position {report['known_position']}"
    return _bars(plot, [_bar(row) for row in rows], f"{period}, {known}")


def _bar(row: Mapping[str, Any]) -> tuple[str, int | None]:
    if "clause" in row:  # the clause first: it is what tells the bars of one policy apart
        words = f"{row['clause']} ({row['policy']})"
    else:
        words = " ".join(value for value in row.values() if isinstance(value, str))
    count = row["recorded"] if "recorded" in row else row["count"]
    return _NOT_IN_XML.sub("\ufffd", words), count


def _bars(plot: Plot, rows: Sequence[tuple[str, int | None]], about: str) -> bytes:
    # Imported when a plot is first asked for: a service that is asked for checks never needs it.
    drawsvg: Any = import_module("drawsvg")
    ordered = list(rows)
    if not plot.in_order:
        ordered.sort(key=lambda row: (-(row[1] or 0), row[0]))
    shown = ordered[-PLOT_ROWS_MAX:] if plot.in_order else ordered[:PLOT_ROWS_MAX]
    described = f"{plot.title}, {about}. " + "; ".join(
        f"{name}: {'left out' if count is None else count}" for name, count in shown
    )
    if len(shown) < len(rows):
        described += f"; and {len(rows) - len(shown)} more in the table"

    def text(words: str, size: int, x: int, y: int, **more: str) -> Any:
        return drawsvg.Text(words, size, x, y, fill=INK, font_family=FONT, **more)

    height = TOP + ROW * max(1, len(shown)) + 14
    svg = drawsvg.Drawing(WIDTH, height, id_prefix="p", role="img")
    svg.append_title(plot.title)
    svg.append(drawsvg.Raw(f"<desc>{escape(described)}</desc>"))
    svg.append(drawsvg.Rectangle(0, 0, WIDTH, height, fill=GROUND))
    svg.append(text(plot.title, 16, 12, 26, font_weight="bold"))
    most = max((count or 0 for _, count in shown), default=0)
    for number, (name, count) in enumerate(shown):
        middle = TOP + ROW * number + ROW // 2
        length = 0 if not most else (count or 0) * (WIDTH - NAMES - VALUES) // most
        bar = drawsvg.Rectangle(NAMES, middle - 8, length, 16, fill=BAR)
        bar.append_title(f"{name}: {'left out' if count is None else count}")
        svg.append(bar)
        svg.append(text(_cut(name), 13, NAMES - 8, middle + 5, text_anchor="end"))
        words = "left out" if count is None else f"{count:,}"
        svg.append(text(words, 13, NAMES + length + 6, middle + 5))
    if not shown:
        svg.append(text("nothing was recorded", 13, 12, TOP + 18))
    return (svg.as_svg() or "").encode()


def _cut(name: str) -> str:
    if len(name) <= LABEL_CHARACTERS_MAX:
        return name
    return f"{name[: LABEL_CHARACTERS_MAX - 1]}…"
