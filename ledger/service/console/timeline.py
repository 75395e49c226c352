"""Where does each part of a record stand in its picture?

Pure geometry: from folded records and the instants asked for to positions on a canvas, which the
template ``timeline.html`` draws. Time is a parameter, so a view draws the same whenever it is made.

The canvas is ``WIDTH`` wide, whatever its units come to on a screen. A lane is a scope, and in it
each suspension has a row of its own, so that overlapping ones never cover each other.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import MAXYEAR, UTC, datetime, timedelta
from itertools import pairwise
from typing import Final, Literal

from ledger.domain.events import Recorded, SuspensionRevised
from ledger.domain.record import Record, Suspension, SuspensionState
from ledger.domain.values import Cause, Ending, Subject, from_microseconds, microseconds

WIDTH: Final = 800.0
BARS_MAX: Final = 60  # of the newest suspensions: some screens; the lists have the rest
LABEL_COLUMNS_MAX: Final = 84  # of a label: what fits on the canvas in its letters
TICKS_MAX: Final = 6  # the longest label, 16 letters, has room between two
MARK_GAP: Final = 16.0  # marks that are nearer become one, with their number
FUTURE_LEAST: Final = timedelta(days=90)  # a quarter, so that a short record does not look rushed

_LINE_ROW: Final = 18.0  # of the label of a line
_HEAD_ROW: Final = 26.0  # of a lane's name
_BAR_ROW: Final = 38.0  # of a bar below its own label
_MARK_ROW: Final = 40.0  # of marks below their number
_AXIS_ROW: Final = 24.0
_EDGE: Final = 60.0  # a label nearer to an edge does not fit around its place

_FIRST: Final = microseconds(datetime.min.replace(tzinfo=UTC))
_LAST: Final = microseconds(datetime.max.replace(tzinfo=UTC))
_HOUR: Final = 3_600_000_000
_DAY: Final = 24 * _HOUR

UNDONE: Final = frozenset((Cause.VIOLATION_OVERTURNED, Cause.ERROR, Cause.APPEAL_UPHELD))
"""Reinstatements that say that a suspension should not have been."""

SegmentKind = Literal["held", "ahead", "waits", "unserved"]


# --- the axis -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Axis:
    """The span of time that the canvas shows, in microseconds since 1970."""

    begin: int
    end: int

    def x(self, instant: datetime) -> float:
        """Return where an instant stands; one beyond an edge stands at the edge."""
        place = min(max(microseconds(instant), self.begin), self.end)
        return round(WIDTH * (place - self.begin) / (self.end - self.begin), 1)

    def holds(self, instant: datetime) -> bool:
        """Tell whether an instant is on the canvas."""
        return self.begin <= microseconds(instant) <= self.end


@dataclass(frozen=True, slots=True)
class Tick:
    """A line of the grid; ``label`` is empty where it would not fit."""

    x: float
    label: str


def axis_over(
    seen: Iterable[datetime], ends: Iterable[datetime], focus: Sequence[datetime]
) -> Axis:
    """Return a span that holds all instants ``seen``, and ``ends`` unless they are far ahead.

    A term may last a hundred years. So what lies ahead of ``focus``, the instants asked for, gets
    no more room for ends than what lies behind, or a quarter of a year if that is more.
    """
    shown = [microseconds(instant) for instant in (*seen, *focus)]
    begin, last_asked = min(shown), max(map(microseconds, focus))
    room = max(last_asked - begin, FUTURE_LEAST // timedelta(microseconds=1))
    ahead = [min(microseconds(end), last_asked + room) for end in ends]
    end = max(*shown, *ahead, begin)
    margin = max((end - begin) // 40, _HOUR)
    return Axis(max(begin - margin, _FIRST), min(end + margin, _LAST))


def ticks_of(axis: Axis) -> list[Tick]:
    """Return the grid: even hours, days, months or years, as few as can be read."""
    span = axis.end - axis.begin
    for hours in (1, 3, 6, 12):
        if span <= TICKS_MAX * hours * _HOUR:
            return _even(axis, hours * _HOUR, "%Y-%m-%d %H:%M")
    for days in (1, 2, 7, 14):
        if span <= TICKS_MAX * days * _DAY:
            return _even(axis, days * _DAY, "%Y-%m-%d", phase=4 * _DAY if days >= 7 else 0)  # noqa: PLR2004 - a week, and 1970-01-05 was a Monday
    for months in (1, 2, 3, 6, 12, 24, 60, 120, 240, 600, 1_200, 6_000, 24_000):
        if span <= TICKS_MAX * months * 30 * _DAY or months == 24_000:  # noqa: PLR2004 - the last
            return _by_calendar(axis, months)
    raise AssertionError("the last step is taken for any span")


def _even(axis: Axis, step: int, form: str, *, phase: int = 0) -> list[Tick]:
    first = -((phase - axis.begin) // step) * step + phase
    return [
        _tick(axis, from_microseconds(place), form) for place in range(first, axis.end + 1, step)
    ]


def _by_calendar(axis: Axis, step: int) -> list[Tick]:
    start = from_microseconds(axis.begin)
    month = -(-(start.year * 12 + start.month - 1) // step) * step
    found = []
    while month < (MAXYEAR + 1) * 12:
        instant = datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC)
        if microseconds(instant) > axis.end:
            break
        if axis.holds(instant):
            found.append(_tick(axis, instant, "%Y-%m" if step % 12 else "%Y"))
        month += step
    return found


def _tick(axis: Axis, instant: datetime, form: str) -> Tick:
    x = axis.x(instant)
    # strftime does not fill a year below 1000.
    label = instant.strftime(form.replace("%Y", f"{instant.year:04}"))
    return Tick(x, label if _EDGE <= x <= WIDTH - _EDGE else "")


# --- lines, marks and bars ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """An instant that the view is about: ``now``, ``as_of`` or ``known``."""

    name: Literal["now", "as_of", "known"]
    label: str
    at: datetime


@dataclass(frozen=True, slots=True)
class PlacedLine:
    """A line across the picture; its label has a row of its own, so none covers another."""

    name: str
    label: str
    x: float
    y: float
    anchor: Literal["start", "end"]


@dataclass(frozen=True, slots=True)
class Mark:
    """One or more violations or warnings at about one time; ``count`` of them."""

    x: float
    count: int
    kind: Literal["stands", "overturned", "warning"]
    words: str


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a bar: what was held, lies ahead, waits for a person, or was never served."""

    x: float
    width: float
    kind: SegmentKind


@dataclass(frozen=True, slots=True)
class Bar:
    """A suspension. ``end`` is where it ended, ``goes_on`` whether it leaves the picture."""

    suspension: Suspension
    state: SuspensionState
    undone: bool
    y: float
    label: str
    segments: tuple[Segment, ...]
    revised: tuple[float, ...]
    end: float | None
    term_over: float | None
    goes_on: bool


@dataclass(frozen=True, slots=True)
class Lane:
    """A scope, or a kind of marks, with what belongs to it."""

    name: str
    y: float
    above: bool = False
    bars: tuple[Bar, ...] = ()
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the table behind the picture. ``id`` names what it is about, of a ``kind``."""

    at: datetime
    kind: Literal["violation", "warning", "suspension"]
    id: str
    words: str


@dataclass(frozen=True, slots=True)
class Picture:
    """All that is drawn, and in words what it is."""

    height: float
    plot_top: float
    plot_bottom: float
    axis: Axis
    lines: tuple[PlacedLine, ...]
    ticks: tuple[Tick, ...]
    lanes: tuple[Lane, ...]
    entries: tuple[Entry, ...]
    left_out: int
    summary: str
    width: float = field(default=WIDTH)


# --- drawing --------------------------------------------------------------------------------------


def picture_of(
    mine: Record,
    above: Sequence[Record],
    revisions: Mapping[str, Sequence[Recorded]],
    lines: Sequence[Line],
    at: datetime,
) -> Picture:
    """Return the picture of a record, with the suspensions of those above, as it stood at ``at``.

    ``revisions`` has, by suspension, the facts that moved its end. ``lines`` must not be empty.
    """
    held = [(True, each) for record in above for each in record.suspensions.values()]
    held += [(False, each) for each in mine.suspensions.values()]
    newest = sorted(held, key=lambda one: one[1].position)[-BARS_MAX:]
    suspensions = [suspension for _, suspension in newest]
    moved = {one.id: list(revisions.get(one.id, ())) for one in suspensions}
    axis = _axis_of(mine, suspensions, moved, lines)

    y = _LINE_ROW * len(lines) + 6
    top = y
    lanes: list[Lane] = []
    for name, marks in (
        ("Violations", _violations(mine, axis, at)),
        ("Warnings", _warnings(mine, axis)),
    ):
        if marks:
            lanes.append(Lane(name, y, marks=tuple(marks)))
            y += _HEAD_ROW + _MARK_ROW
    lanes_of: dict[tuple[bool, str, str], list[Suspension]] = {}
    for is_above, suspension in newest:
        holder = suspension.event.subject.key if is_above else ""
        lanes_of.setdefault((is_above, holder, suspension.event.scope.label), []).append(suspension)
    for (is_above, holder, scope), within in sorted(lanes_of.items()):
        name = shortened(f"{scope}, of {holder}" if is_above else scope)
        head, y = y, y + _HEAD_ROW
        bars = []
        for suspension in sorted(within, key=lambda s: (s.event.effective_at, s.position)):
            bars.append(bar_of(suspension, moved[suspension.id], axis, at, y=y))
            y += _BAR_ROW
        lanes.append(Lane(name, head, above=is_above, bars=tuple(bars)))
    bottom = y + 6
    return Picture(
        height=bottom + _AXIS_ROW,
        plot_top=top,
        plot_bottom=bottom,
        axis=axis,
        lines=tuple(_placed(lines, axis)),
        ticks=tuple(ticks_of(axis)),
        lanes=tuple(lanes),
        entries=tuple(_entries(mine, suspensions, moved, at)),
        left_out=len(held) - len(newest),
        summary=_summary(mine.subject, mine, suspensions, at),
    )


def _axis_of(
    mine: Record,
    suspensions: Sequence[Suspension],
    moved: Mapping[str, Sequence[Recorded]],
    lines: Sequence[Line],
) -> Axis:
    seen = [one.event.occurred_at for one in mine.violations.values()]
    seen += [one.recorded_at for one in mine.warnings.values()]
    ends: list[datetime] = []
    for one in suspensions:
        seen.append(one.event.effective_at)
        seen += [each.recorded_at for each in moved[one.id]]
        seen += [one.ended.at] if one.ended is not None else []
        ends += [one.ends_at] if one.ends_at is not None else []
    return axis_over(seen, ends, [line.at for line in lines])


def _placed(lines: Sequence[Line], axis: Axis) -> list[PlacedLine]:
    placed = []
    for number, line in enumerate(lines):
        x = axis.x(line.at)
        anchor: Literal["start", "end"] = "start" if x < WIDTH / 2 else "end"
        placed.append(PlacedLine(line.name, line.label, x, _LINE_ROW * (number + 1), anchor))
    return placed


def bar_of(
    suspension: Suspension, moved: Sequence[Recorded], axis: Axis, at: datetime, *, y: float
) -> Bar:
    """Return the bar of a suspension as it stood at ``at``."""
    pieces = pieces_of(suspension, at)
    segments = []
    goes_on = False
    for start, end, kind in pieces:
        if not axis.holds(start):
            continue
        goes_on = goes_on or (kind != "unserved" and (end is None or not axis.holds(end)))
        x = axis.x(start)
        right = WIDTH if end is None else axis.x(end)
        segments.append(Segment(x, round(max(right - x, 1.0), 1), kind))
    ended, ends_at = suspension.ended, suspension.ends_at
    on_review = suspension.event.reinstatement is Ending.ON_REVIEW
    return Bar(
        suspension=suspension,
        state=suspension.state(at),
        undone=ended is not None and ended.cause in UNDONE,
        y=y,
        label=shortened(words_of(suspension, at)),
        segments=tuple(segments),
        revised=tuple(axis.x(each.recorded_at) for each in moved),
        end=axis.x(ended.at) if ended is not None else None,
        term_over=(
            axis.x(ends_at) if on_review and ends_at is not None and axis.holds(ends_at) else None
        ),
        goes_on=goes_on,
    )


def pieces_of(
    suspension: Suspension, at: datetime
) -> list[tuple[datetime, datetime | None, SegmentKind]]:
    """Return what a suspension consists of in time, in order; an end of ``None`` is open.

    It counts from its start until it closes. Of that, what is past at ``at`` was held, and what is
    not lies ahead. On review, it waits for a person from the end of its term. What an ending cut
    off, or the whole of it when it was ended before it began, was never served.
    """
    start, closes = suspension.event.effective_at, suspension.closes_at
    ends_at = suspension.ends_at
    pieces: list[tuple[datetime, datetime | None, SegmentKind]] = []
    if closes is None or closes > start:
        cuts = [start]
        on_review = suspension.event.reinstatement is Ending.ON_REVIEW
        term_over = ends_at if on_review else None
        within = {at, term_over} - {None}
        cuts += sorted(
            cut
            for cut in within
            if cut is not None and start < cut and (not closes or cut < closes)
        )
        for begin, end in pairwise((*cuts, closes)):
            assert begin is not None
            kind: SegmentKind = "held"
            if begin >= at:
                kind = "ahead"
            elif term_over is not None and begin >= term_over:
                kind = "waits"
            pieces.append((begin, end, kind))
    if suspension.ended is not None:
        rest = max(start, suspension.ended.at)
        if ends_at is not None and rest < ends_at:
            pieces.append((rest, ends_at, "unserved"))
        elif ends_at is None and rest == start:
            pieces.append((rest, None, "unserved"))
    return pieces


def words_of(suspension: Suspension, at: datetime) -> str:
    """Return how a suspension stood at ``at``, as its label says it."""
    state, ended, ends_at = suspension.state(at), suspension.ended, suspension.ends_at
    begins = day_of(suspension.event.effective_at)
    on_review = suspension.event.reinstatement is Ending.ON_REVIEW
    until = f"until {day_of(ends_at)}" if ends_at else "without an end"
    if on_review and ends_at:
        until += ", then until a person decides"
    if state == "cancelled":
        assert ended is not None
        return f"cancelled on {day_of(ended.at)}, was to begin on {begins}"
    if state == "scheduled":
        return f"scheduled, from {begins} {until}"
    if state == "ended":
        if ended is None:
            assert ends_at is not None
            return f"ended by itself on {day_of(ends_at)}, in force from {begins}"
        how = "ended by itself" if ended.cause == Cause.TERM_SERVED else "ended"
        why = "" if ended.cause == Cause.TERM_SERVED else f" ({ended.cause.replace('_', ' ')})"
        if ended.at <= suspension.event.effective_at:
            return f"never in force, ended on {day_of(ended.at)}{why}"
        return f"{how} on {day_of(ended.at)}{why}, in force from {begins}"
    if on_review and ends_at is not None and ends_at <= at:
        return f"in force from {begins}, waits for a person since {day_of(ends_at)}"
    if ended is not None and ended.at > at:
        return (
            f"in force from {begins}, ends on {day_of(ended.at)} ({ended.cause.replace('_', ' ')})"
        )
    return f"in force from {begins} {until}"


# --- marks ----------------------------------------------------------------------------------------


def _violations(mine: Record, axis: Axis, at: datetime) -> list[Mark]:
    found: list[tuple[datetime, bool, str]] = []
    for one in mine.violations.values():
        stood = one.overturned_at is None or one.overturned_at > at
        fell = "" if stood else " (overturned)"
        words = f"{one.clause.label} on {day_of(one.event.occurred_at)}{fell}"
        found.append((one.event.occurred_at, stood, words))
    return [
        Mark(x, len(words), "stands" if any(stood) else "overturned", _several(words))
        for x, stood, words in clustered(axis, found)
    ]


def _warnings(mine: Record, axis: Axis) -> list[Mark]:
    found = [
        (one.recorded_at, True, f"warned on {day_of(one.recorded_at)}")
        for one in mine.warnings.values()
    ]
    return [
        Mark(x, len(words), "warning", _several(words)) for x, _, words in clustered(axis, found)
    ]


def clustered(
    axis: Axis, found: Iterable[tuple[datetime, bool, str]]
) -> list[tuple[float, list[bool], list[str]]]:
    """Gather what stands within ``MARK_GAP`` of the first of its kind, from the left."""
    gathered: list[tuple[float, list[bool], list[str]]] = []
    for instant, stood, words in sorted(found):
        x = axis.x(instant)
        if not gathered or x - gathered[-1][0] >= MARK_GAP:
            gathered.append((x, [], []))
        gathered[-1][1].append(stood)
        gathered[-1][2].append(words)
    return gathered


def _several(words: Sequence[str]) -> str:
    shown = 5  # as many as a tooltip holds
    more = f"; and {len(words) - shown} more" if len(words) > shown else ""
    return "; ".join(words[:shown]) + more


# --- words ----------------------------------------------------------------------------------------


def _entries(
    mine: Record,
    suspensions: Sequence[Suspension],
    moved: Mapping[str, Sequence[Recorded]],
    at: datetime,
) -> list[Entry]:
    """Return all that is drawn as lines of a table, in the order of time."""
    found: list[Entry] = []
    for one in mine.violations.values():
        id_ = one.event.violation
        found.append(
            Entry(one.event.occurred_at, "violation", id_, f"violation of {one.clause.label}")
        )
        if one.overturned_at is not None:
            found.append(Entry(one.overturned_at, "violation", id_, "violation overturned"))
    for id_, recorded in mine.warnings.items():
        found.append(Entry(recorded.recorded_at, "warning", id_, "warned"))
    for suspension in suspensions:
        event, id_ = suspension.event, suspension.id
        whose = "" if event.subject == mine.subject else f" of {event.subject.key}"
        what = f"suspension{whose} from {event.scope.label}"
        found.append(
            Entry(event.effective_at, "suspension", id_, f"{what}: {words_of(suspension, at)}")
        )
        for each in moved[id_]:
            assert isinstance(each.event, SuspensionRevised)
            before, after = (
                day_of(end) if end else "no end"
                for end in (each.event.previous_ends_at, each.event.ends_at)
            )
            words = f"end moved from {before} to {after}"
            found.append(Entry(each.recorded_at, "suspension", id_, words))
        if suspension.ended is not None:
            cause = suspension.ended.cause.replace("_", " ")
            words = "cancelled" if cause == "cancelled" else f"reinstated: {cause}"
            found.append(Entry(suspension.ended.at, "suspension", id_, words))
    return sorted(found, key=lambda entry: (entry.at, entry.id))


def _summary(
    subject: Subject, mine: Record, suspensions: Sequence[Suspension], at: datetime
) -> str:
    states = [one.state(at) for one in suspensions]
    counts = ", ".join(
        f"{states.count(state)} {state.replace('_', ' ')}"
        for state in ("in_force", "scheduled", "ended", "cancelled")
        if state in states
    )
    return (
        f"{subject.key} on {day_of(at)}: {counted(len(mine.violations), 'violation')}, "
        f"{counted(len(mine.warnings), 'warning')}, {counted(len(suspensions), 'suspension')}"
        f"{f' ({counts})' if counts else ''}. The table below has the same in words."
    )


def counted(number: int, what: str) -> str:
    """Return a number of things, in words."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def day_of(instant: datetime) -> str:
    """Return the day of an instant, in UTC; with the minute unless it is midnight."""
    here = instant.astimezone(UTC)
    whole = here.hour == here.minute == here.second == here.microsecond == 0
    return here.isoformat(sep=" ", timespec="minutes")[: 10 if whole else 16]


def shortened(text: str) -> str:
    """Return a label that fits: wide letters count for two, and an ellipsis for what is cut."""
    columns = 0
    for place, letter in enumerate(text):
        columns += 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        if columns > LABEL_COLUMNS_MAX:
            return text[: place - 1] + "…"
    return text
