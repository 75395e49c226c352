"""The picture of a record: everything stands where its time is, whatever the clock says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.events import (
    Author,
    Event,
    Recorded,
    SubjectReinstated,
    SubjectSuspended,
    SuspensionCancelled,
    SuspensionRevised,
    ViolationOverturned,
    ViolationRecorded,
    WarningIssued,
)
from ledger.domain.record import Record
from ledger.domain.values import Basis, Cause, Ending, Scope, Subject
from ledger.service.console.timeline import (
    BARS_MAX,
    LABEL_COLUMNS_MAX,
    MARK_GAP,
    TICKS_MAX,
    WIDTH,
    Axis,
    Line,
    Picture,
    axis_over,
    bar_of,
    clustered,
    picture_of,
    pieces_of,
    shortened,
    ticks_of,
    words_of,
)

ALICE = Subject.parse("user:alice")
NORTHWIND = Subject.parse("organization:northwind")
FRONTIER = Scope.model_validate({"resources": [{"group": "frontier"}]})
MINI = Scope.model_validate({"resources": [{"type": "model", "id": "mini-2"}]})
T = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


class Told:
    """A record that is told event by event, each at a day counted from ``T``."""

    def __init__(self, subject: Subject = ALICE) -> None:
        self.record = Record(subject)
        self.revisions: dict[str, list[Recorded]] = {}

    def add(self, day: float, event: Event) -> None:
        recorded = Recorded(
            position=self.record.version + 1,
            stream=f"subject/{self.record.subject.key}",
            version=self.record.version + 1,
            recorded_at=T + day * DAY,
            author=Author("the-officer"),
            caused_by=None,
            event=event,
        )
        self.record.evolve(recorded)
        if isinstance(event, SuspensionRevised):
            self.revisions.setdefault(event.suspension, []).append(recorded)

    def suspend(self, id_: str, begins: float, ends: float | None, **more: Any) -> None:
        day = more.pop("on", begins)
        event = SubjectSuspended(
            subject=self.record.subject,
            suspension=id_,
            scope=more.pop("scope", FRONTIER),
            effective_at=T + begins * DAY,
            ends_at=None if ends is None else T + ends * DAY,
            basis=Basis.LEGAL_ORDER,
            reason="It must be.",
            reinstatement=more.pop("reinstatement", Ending.AUTOMATIC),
            disclosure="notified",
        )
        self.add(day, event)

    def revise(self, id_: str, day: float, ends: float | None) -> None:
        end = None if ends is None else T + ends * DAY
        self.add(
            day,
            SuspensionRevised(
                subject=self.record.subject,
                suspension=id_,
                previous_ends_at=self.record.suspensions[id_].ends_at,
                ends_at=end,
                reason="It went on.",
            ),
        )

    def end(self, id_: str, day: float, cause: Cause, effective: float | None = None) -> None:
        event = SubjectReinstated(
            subject=self.record.subject,
            reinstatement=f"rei_{id_}",
            suspension=id_,
            cause=cause,
            effective_at=T + (day if effective is None else effective) * DAY,
        )
        self.add(day, event)

    def cancel(self, id_: str, day: float) -> None:
        event = SuspensionCancelled(subject=self.record.subject, suspension=id_, reason="Twice.")
        self.add(day, event)

    def violate(self, id_: str, day: float) -> None:
        event = ViolationRecorded(
            subject=self.record.subject,
            violation=id_,
            policy="aup@1",
            clause="fraud",
            category="fraud",
            severity="high",
            occurred_at=T + day * DAY,
            detected_by="human",
            summary="It happened.",
        )
        self.add(day, event)

    def overturn(self, id_: str, day: float) -> None:
        event = ViolationOverturned(subject=self.record.subject, violation=id_, reason="No.")
        self.add(day, event)

    def warn(self, id_: str, day: float) -> None:
        self.add(day, WarningIssued(subject=self.record.subject, warning=id_, reason="Read it."))

    def pieces(self, id_: str, day: float) -> list[tuple[float, float | None, str]]:
        """What a suspension consists of on a day, in days."""
        return [
            ((start - T) / DAY, None if end is None else (end - T) / DAY, kind)
            for start, end, kind in pieces_of(self.record.suspensions[id_], T + day * DAY)
        ]

    def drawn(self, day: float, above: tuple[Record, ...] = ()) -> Picture:
        at = T + day * DAY
        return picture_of(self.record, above, self.revisions, [Line("now", "now", at)], at)


def test_what_is_past_was_held_and_the_rest_lies_ahead() -> None:
    """The part before the instant asked for differs from what is only decided."""
    told = Told()
    told.suspend("s", 10, 20)

    assert [(10, 20, "ahead")] == told.pieces("s", 5)
    assert [(10, 20, "ahead")] == told.pieces("s", 10)
    assert [(10, 13, "held"), (13, 20, "ahead")] == told.pieces("s", 13)
    assert [(10, 20, "held")] == told.pieces("s", 20)


def test_without_an_end_it_goes_on() -> None:
    """The last part is open, and the bar leaves the picture at its right edge."""
    told = Told()
    told.suspend("s", 10, None)

    assert [(10, 15, "held"), (15, None, "ahead")] == told.pieces("s", 15)
    (bar,) = told.drawn(15).lanes[0].bars
    assert bar.goes_on
    assert WIDTH == bar.segments[-1].x + bar.segments[-1].width


def test_on_review_it_waits_past_the_end_of_its_term() -> None:
    """From the end of the term until the instant it waits; a person's decision ends that."""
    told = Told()
    told.suspend("s", 10, 20, reinstatement=Ending.ON_REVIEW)

    assert [(10, 15, "held"), (15, 20, "ahead"), (20, None, "ahead")] == told.pieces("s", 15)
    assert [(10, 20, "held"), (20, 30, "waits"), (30, None, "ahead")] == told.pieces("s", 30)
    suspension = told.record.suspensions["s"]
    assert words_of(suspension, T + 30 * DAY).endswith("waits for a person since 2026-01-21")
    assert told.drawn(30).lanes[0].bars[0].term_over is not None

    told.end("s", 25, Cause.TERM_SERVED)
    assert [(10, 20, "held"), (20, 25, "waits")] == told.pieces("s", 30)


def test_what_an_early_end_cut_off_was_not_served() -> None:
    """The rest of the term as decided is shown as such, after the mark of the end."""
    told = Told()
    told.suspend("s", 10, 20)
    told.end("s", 14, Cause.EARLY)

    assert [(10, 14, "held"), (14, 20, "unserved")] == told.pieces("s", 30)
    (bar,) = told.drawn(30).lanes[0].bars
    assert bar.segments[1].x == bar.end
    assert ("ended", False) == (bar.state, bar.undone)
    assert "ended on 2026-01-15 (early), in force from 2026-01-11" == bar.label


def test_a_term_that_was_served_leaves_nothing() -> None:
    """Recorded or not, it ended by itself at its end."""
    told = Told()
    told.suspend("s", 10, 20)
    assert words_of(told.record.suspensions["s"], T + 30 * DAY).startswith("ended by itself")
    told.end("s", 21, Cause.TERM_SERVED, effective=20)

    assert [(10, 20, "held")] == told.pieces("s", 30)
    assert words_of(told.record.suspensions["s"], T + 30 * DAY).startswith("ended by itself")


def test_what_was_cancelled_or_undone_from_its_start_was_never_held() -> None:
    """Nothing of it is drawn as held, and it is crossed out."""
    told = Told()
    told.suspend("cancelled", 10, 20, on=5)
    told.suspend("wrong", 6, None, on=6)
    told.cancel("cancelled", 7)
    told.end("wrong", 9, Cause.ERROR, effective=6)

    assert [(10, 20, "unserved")] == told.pieces("cancelled", 30)
    assert [(6, None, "unserved")] == told.pieces("wrong", 30)
    wrong, cancelled = told.drawn(30).lanes[0].bars
    assert ("cancelled", False) == (cancelled.state, cancelled.undone)
    assert ("ended", True, False) == (wrong.state, wrong.undone, wrong.goes_on)
    assert "cancelled on 2026-01-08, was to begin on 2026-01-11" == cancelled.label
    assert "never in force, ended on 2026-01-07 (error)" == wrong.label


def test_a_finding_that_falls_undoes_what_rests_on_it() -> None:
    """The mark is hollow from the instant at which it was overturned, and not before."""
    told = Told()
    told.violate("v", 1)
    told.suspend("s", 2, 40)
    told.overturn("v", 10)
    told.end("s", 10, Cause.VIOLATION_OVERTURNED)

    marks = {day: told.drawn(day).lanes[0].marks[0] for day in (5, 20)}
    assert ["stands", "overturned"] == [marks[5].kind, marks[20].kind]
    assert marks[20].words.endswith("(overturned)")
    assert told.drawn(20).lanes[1].bars[0].undone


def test_a_moved_end_is_marked_where_it_was_moved() -> None:
    """The bar has the end as revised, and a mark for each revision."""
    told = Told()
    told.suspend("s", 0, 10)
    told.revise("s", 5, 40)
    told.revise("s", 20, 30)
    picture = told.drawn(25)
    (bar,) = picture.lanes[0].bars

    assert (picture.axis.x(T + 5 * DAY), picture.axis.x(T + 20 * DAY)) == bar.revised
    assert picture.axis.x(T + 30 * DAY) == pytest.approx(
        bar.segments[-1].x + bar.segments[-1].width
    )


def test_overlapping_suspensions_never_cover_each_other() -> None:
    """Each has a row of its own, in the lane of its scope; lanes of others above come last."""
    told, above = Told(), Told(NORTHWIND)
    for number in range(4):
        told.suspend(f"s{number}", 10 + number, 30, scope=MINI if number == 3 else FRONTIER)
    above.suspend("n", 12, 40)
    picture = told.drawn(20, (above.record,))

    assert [
        ("group:frontier", 3, False),
        ("model:mini-2", 1, False),
        ("group:frontier, of organization:northwind", 1, True),
    ] == [(lane.name, len(lane.bars), lane.above) for lane in picture.lanes]
    rows = [bar.y for lane in picture.lanes for bar in lane.bars]
    assert rows == sorted(set(rows))
    assert picture.plot_bottom > rows[-1]


def test_only_the_newest_suspensions_are_drawn() -> None:
    """How many were left out is said."""
    told = Told()
    for number in range(BARS_MAX + 3):
        told.suspend(f"s{number:03}", number, number + 1)
    picture = told.drawn(100)

    drawn = [bar.suspension.id for lane in picture.lanes for bar in lane.bars]
    assert (BARS_MAX, 3, "s003") == (len(drawn), picture.left_out, drawn[0])


def test_a_picture_says_in_words_what_it_shows() -> None:
    """The table has an entry for each thing that happened, in the order of time."""
    told = Told()
    told.violate("v", 1)
    told.warn("w", 2)
    told.suspend("s", 3, 10)
    told.revise("s", 4, 20)
    told.end("s", 6, Cause.EARLY)
    told.overturn("v", 7)
    picture = told.drawn(8)

    assert [
        (1, "v", "violation of aup@1 fraud"),
        (2, "w", "warned"),
        (
            3,
            "s",
            "suspension from group:frontier: ended on 2026-01-07 (early), in force from 2026-01-04",
        ),
        (4, "s", "end moved from 2026-01-11 to 2026-01-21"),
        (6, "s", "reinstated: early"),
        (7, "v", "violation overturned"),
    ] == [((entry.at - T) / DAY, entry.id, entry.words) for entry in picture.entries]
    assert picture.summary.startswith(
        "user:alice on 2026-01-09: 1 violation, 1 warning, 1 suspension (1 ended)"
    )


def test_a_record_with_nothing_in_it_draws_nothing() -> None:
    assert () == Told().drawn(0).lanes


def test_lines_have_labels_that_never_cover_each_other() -> None:
    """Each has a row of its own, and stands on the side where there is room."""
    told = Told()
    told.suspend("s", 0, 100)
    at = T + 90 * DAY
    lines = [
        Line("as_of", "as of", at),
        Line("now", "now", at),
        Line("known", "as known on", T + DAY),
    ]
    placed = picture_of(told.record, (), {}, lines, at).lines

    assert 3 == len({line.y for line in placed})
    assert ["end", "end", "start"] == [line.anchor for line in placed]


# --- the axis -------------------------------------------------------------------------------------


def test_a_far_end_does_not_squeeze_the_rest() -> None:
    """What lies ahead has no more room than what lies behind, but starts are always shown."""
    focus = T + 400 * DAY
    axis = axis_over([T], [T + 36_500 * DAY], [focus])
    assert 300 < axis.x(focus) < 500
    assert WIDTH == axis.x(T + 36_500 * DAY)

    short = axis_over([T], [T + 36_500 * DAY], [T])
    assert not short.holds(T + 120 * DAY)
    assert axis_over([T, T + 3_650 * DAY], [], [T]).holds(T + 3_650 * DAY)


@given(
    st.lists(st.datetimes(timezones=st.just(UTC)), min_size=1, max_size=4),
    st.lists(st.datetimes(timezones=st.just(UTC)), max_size=4),
)
def test_every_span_has_an_axis_that_can_be_read(
    seen: list[datetime], ends: list[datetime]
) -> None:
    """From a moment to all of history: places are in order and on the canvas, ticks are few."""
    axis = axis_over(seen, ends, seen[:1])
    places = [axis.x(instant) for instant in sorted(seen)]

    assert all(axis.holds(instant) for instant in seen)
    assert places == sorted(places)
    assert all(0 <= place <= WIDTH for place in places)
    ticks = ticks_of(axis)
    assert len(ticks) <= TICKS_MAX + 2
    assert [tick.x for tick in ticks] == sorted({tick.x for tick in ticks})


@pytest.mark.parametrize(
    ("span", "labels"),
    [
        (timedelta(hours=4), [f"2026-01-01 {hour:02}:00" for hour in range(5)]),
        (4 * DAY, ["2026-01-02", "2026-01-03", "2026-01-04"]),
        (30 * DAY, ["2026-01-05", "2026-01-12", "2026-01-19", "2026-01-26"]),
        (300 * DAY, ["2026-03", "2026-05", "2026-07", "2026-09"]),
        (3_000 * DAY, ["2028", "2030", "2032"]),
    ],
)
def test_ticks_stand_at_even_times(span: timedelta, labels: list[str]) -> None:
    """Whole hours, days, Mondays, months and years; none that would leave the canvas."""
    axis = axis_over([T, T + span], [], [T])
    assert labels == [tick.label for tick in ticks_of(axis) if tick.label]


def test_marks_that_are_too_near_become_one_with_a_number() -> None:
    """What stands ``MARK_GAP`` apart is told apart."""
    axis = Axis(0, 800_000_000)  # a microsecond is a millionth of a unit

    def at(x: float) -> datetime:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=x)

    found = [(at(x), True, str(x)) for x in (100, 100 + MARK_GAP - 1, 100 + MARK_GAP)]
    assert [(100.0, 2), (116.0, 1)] == [(x, len(words)) for x, _, words in clustered(axis, found)]


def test_a_label_is_cut_at_its_limit() -> None:
    """Wide letters take two columns."""
    assert "a" * LABEL_COLUMNS_MAX == shortened("a" * LABEL_COLUMNS_MAX)
    assert LABEL_COLUMNS_MAX == len(shortened("a" * (LABEL_COLUMNS_MAX + 1)))
    assert "a…" == shortened("a" * (LABEL_COLUMNS_MAX + 1))[-2:]
    assert LABEL_COLUMNS_MAX // 2 == len(shortened("漢" * LABEL_COLUMNS_MAX))


def test_what_is_beyond_the_picture_is_not_drawn() -> None:
    """A bar that begins after the right edge, as when it is drawn on a given axis, has no part."""
    told = Told()
    told.suspend("s", 500, 600)
    axis = axis_over([T], [], [T])
    assert () == bar_of(told.record.suspensions["s"], [], axis, T, y=0).segments
