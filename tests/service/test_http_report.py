"""The report over HTTP: for readers with a key all figures, for everybody what is published."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import UTC, datetime
from xml.etree import ElementTree as ET

import pytest

from ledger.domain.errors import Unavailable
from ledger.domain.values import Role
from ledger.service.http.report import READERS, PublishedAnswer
from ledger.service.plots import PLOT_ROWS_MAX, PLOTS, plot_of
from ledger.service.report import fetch_report
from tests.conftest import SetClock, settings_at
from tests.service.conftest import (
    Running,
    found,
    founded_on,
    opened,
    suspension_of,
    violation_of,
)

BEGUN = datetime(2026, 7, 6, 9, 0, tzinfo=UTC)
QUARTER = {"from": "2026-07-01T00:00:00Z", "to": "2026-10-01T00:00:00Z"}
SVG = "{http://www.w3.org/2000/svg}"


def picture_of(svg: bytes) -> ET.Element:
    """What an SVG of ours draws."""
    return ET.fromstring(svg)  # noqa: S314 - it is our own


def fill(run: Running) -> Running:
    """Record a quarter in which much is fraud, little is disinformation; then go on a little."""
    run.clock.now = BEGUN
    found(run)
    for number in range(12):
        violation_of(run, f"user:u{number}", detected_by="automated")
    for number in range(6):
        violation_of(run, f"user:u{number}")
    violation_of(run, "organization:acme", clause="disinformation")
    for number in range(7):
        suspension_of(run, f"user:u{number}", basis="legal_order", grounds=[])
    run.clock.now = datetime(2026, 8, 3, 9, 0, tzinfo=UTC)
    wrong = violation_of(run, "user:u1")
    run.clock.now = datetime(2026, 10, 5, 9, 0, tzinfo=UTC)
    body = {"reason": "Mistaken."}
    run.done("POST", f"/v1/violations/{wrong}/overturn", role="approver", json=body)
    return run


@pytest.fixture(scope="module")
def quarter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A ledger with a quarter behind it, which it publishes."""
    folder = tmp_path_factory.mktemp("quarter")
    settings = settings_at(
        f"sqlite:///{folder / 'ledger.db'}", folder, origin="test.ledger", transparency="quarter"
    )
    with opened(settings, SetClock(BEGUN)) as run:
        yield fill(run)


# --- with a key -----------------------------------------------------------------------------------


def test_the_report_says_what_it_is_a_function_of(quarter: Running) -> None:
    """Without a position it is as known now, and says at which that was."""
    response = quarter("GET", "/v1/report", role="auditor", params=QUARTER)
    report = response.json()

    assert quarter.service.recorder.position == report["known_position"]
    assert str(report["known_position"]) == response.headers["Ledger-Position"]
    assert "2026-07-01T00:00:00.000000Z" == report["from"]
    violations = report["violations"]
    assert (20, 19, 1) == tuple(violations[n] for n in ("recorded", "standing", "overturned"))
    assert 0.6 == violations["automated_share"]
    assert ["disinformation", "fraud"] == [r["category"] for r in violations["by_category"]]
    assert [{"model": "group:frontier", "count": 7}] == report["suspensions"]["by_model"]


def test_the_same_report_again_is_the_same_bytes(quarter: Running) -> None:
    """Whatever is recorded meanwhile, and by whomever it is asked."""
    asked = {**QUARTER, "known_position": quarter.service.recorder.position}
    before = quarter("GET", "/v1/report", role="auditor", params=asked)
    violation_of(quarter, "user:later")
    quarter.service.feed.catch_up()
    with_other_key = quarter("GET", "/v1/report", role="admin", params=asked)

    assert before.content == with_other_key.content
    assert before.headers["Ledger-Position"] == with_other_key.headers["Ledger-Position"]


def test_the_report_comes_as_csv(quarter: Running) -> None:
    """Every number of the JSON is in a line of the CSV."""
    asked = {**QUARTER, "format": "csv"}
    response = quarter("GET", "/v1/report", role="officer", params=asked)
    lines = list(csv.reader(io.StringIO(response.text)))

    assert ["figure", "key", "measure", "value"] == lines[0]
    assert ["violations", "", "recorded", "20"] in lines
    assert ["violations by clause", "aup fraud fraud", "recorded", "19"] in lines
    assert ["suspensions by model", "group:frontier", "count", "7"] in lines


@pytest.mark.parametrize("role", [*Role])
def test_who_reads_the_record_reads_the_report(quarter: Running, role: Role) -> None:
    """Auditors, officers, approvers and administrators do; nobody else, and nobody without key."""
    expected = 200 if role in READERS else 403
    assert expected == quarter("GET", "/v1/report", role=role, params=QUARTER).status_code
    assert 401 == quarter("GET", "/v1/report", params=QUARTER).status_code


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"from": "2026-10-01T00:00:00Z"}, "to"),
        ({"from": "yesterday"}, "from"),
        ({"from": "2026-07-01"}, "from"),
        ({"to": None}, "to"),
        ({"known_position": "1000000"}, "known_position"),
        ({"known_position": "-1"}, "known_position"),
        ({"format": "xml"}, "format"),
        ({"known_at": "2026-10-01T00:00:00Z"}, "known_at"),
    ],
)
def test_bad_input_gets_a_problem_that_names_the_parameter(
    quarter: Running, changed: dict[str, str | None], field: str
) -> None:
    """Whatever cannot be a period, a position or a format."""
    asked = {name: value for name, value in {**QUARTER, **changed}.items() if value is not None}
    response = quarter("GET", "/v1/report", role="auditor", params=asked)

    assert 422 == response.status_code
    assert field == response.json()["field"] or field in str(response.json()["errors"])


# --- without a key --------------------------------------------------------------------------------


def test_nothing_is_published_unless_it_is_switched_on(shared: Running) -> None:
    """Without the setting there is nothing at any of the addresses."""
    for path in ("/transparency", "/transparency.json", "/transparency/plot/a.svg"):
        response = shared("GET", path)
        assert 404 == response.status_code
        assert "publishes no figures" in response.text


def test_what_is_published_leaves_small_counts_out(quarter: Running) -> None:
    """One violation is about one organization: neither it nor what would give it away is shown."""
    document = quarter("GET", "/transparency.json").json()

    PublishedAnswer.model_validate(document)
    violations = document["violations"]
    assert "2026-Q3" == document["period"]
    assert 20 == violations["recorded"]
    assert [
        {"category": "disinformation", "count": None, "by_clause": None},
        {"category": "fraud", "count": None, "by_clause": None},
    ] == violations["by_category"]
    assert 7 == document["suspensions"]["counted"]
    assert "user:" not in str(document)


def test_what_is_published_is_as_it_was_known_when_the_period_ended(quarter: Running) -> None:
    """A violation that was overturned after the quarter stands in the figures of the quarter."""
    document = quarter("GET", "/transparency.json", params={"period": "2026-Q3"}).json()

    assert [
        {"outcome": "standing", "count": 20},
        {"outcome": "overturned", "count": 0},
    ] == document["violations"]["by_outcome"]
    before = quarter("GET", "/transparency.json")
    violation_of(quarter, "user:later")
    after = quarter("GET", "/transparency.json")
    assert before.content == after.content
    assert "public, max-age=3600" == after.headers["Cache-Control"]
    tagged = {"If-None-Match": after.headers["ETag"]}
    assert 304 == quarter.http.get("/transparency.json", headers=tagged).status_code


@pytest.mark.parametrize(
    ("period", "status"),
    [("2026-Q3", 200), ("2026-Q2", 404), ("2026-Q4", 404), ("2026-08", 404), ("2026-13", 422)],
)
def test_only_whole_periods_of_the_one_length_that_ended_are_published(
    quarter: Running, period: str, status: int
) -> None:
    """No other, because the difference of two that overlap would show what is left out."""
    for path in (
        "/transparency.json",
        "/transparency",
        "/transparency/plot/suspensions-by-model.svg",
    ):
        assert status == quarter("GET", path, params={"period": period}).status_code


def test_a_period_is_published_when_something_was_recorded_after_it(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """A clock that says that it ended is not enough: it may go back."""
    folder = tmp_path_factory.mktemp("months")
    settings = settings_at(f"sqlite:///{folder / 'ledger.db'}", folder, transparency="month")
    with opened(settings, SetClock(BEGUN)) as run:
        found(run)
        run.clock.now = datetime(2026, 8, 1, 0, 0, tzinfo=UTC)
        assert 404 == run("GET", "/transparency").status_code
        assert "not ended" in run("GET", "/transparency").text
        violation_of(run, "user:ann")
        assert "2026-07" == run("GET", "/transparency.json").json()["period"]


def test_the_public_page_has_the_figures_and_runs_nothing(quarter: Running) -> None:
    """Tables and pictures of our own, no script, and a policy that forbids anything else."""
    response = quarter("GET", "/transparency")

    assert "Transparency report 2026-Q3" in response.text
    assert "<script" not in response.text
    assert "style=" not in response.text
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert "unsafe" not in response.headers["Content-Security-Policy"]
    assert 'src="/transparency/plot/violations-by-month.svg?period=2026-Q3"' in response.text


# --- plots ----------------------------------------------------------------------------------------


def test_a_plot_is_a_picture_with_words_for_those_who_do_not_see_it(quarter: Running) -> None:
    """It has a title, a description with every number, and the same bytes each time."""
    address = "/transparency/plot/suspensions-by-model.svg"
    first, second = quarter("GET", address), quarter("GET", address)
    picture = picture_of(first.content)

    assert first.content == second.content
    assert "image/svg+xml" == first.headers["Content-Type"]
    assert "default-src 'none'; frame-ancestors 'none'" == first.headers["Content-Security-Policy"]
    assert "img" == picture.attrib["role"]
    assert "Suspensions by model" == picture.findtext(f"{SVG}title")
    assert "group:frontier: 7" in str(picture.findtext(f"{SVG}desc"))
    assert 404 == quarter("GET", "/transparency/plot/nothing.svg").status_code


HOSTILE = (
    "<script>alert(1)</script>",
    "\"&'><img src=x>",
    "]]>",
    "\ufffe\u202e",
    "=1+1",
    "x" * 256,
)


def test_hostile_names_are_words_in_a_plot_and_in_csv() -> None:
    """Whatever a model is called, the picture stays a picture of bars."""
    rows = [{"model": f"model:{name}", "count": 9} for name in HOSTILE]
    report = {
        "from": "2026-07-01T00:00:00.000000Z",
        "to": "2026-10-01T00:00:00.000000Z",
        "known_position": 9,
        "suspensions": {"by_model": rows},
    }
    drawn = plot_of("suspensions-by-model", report)
    tags = {element.tag.removeprefix(SVG) for element in picture_of(drawn).iter()}

    assert {"svg", "defs", "title", "desc", "rect", "text"} == tags
    assert b"<script" not in drawn
    assert b"style=" not in drawn
    shown = picture_of(drawn).findtext(f"{SVG}desc")
    assert HOSTILE[0] in str(shown)


@pytest.mark.parametrize("more", [0, 1])
def test_a_plot_has_so_many_bars_as_can_be_compared(more: int) -> None:
    """The description says how many more there are in the table."""
    rows = [{"model": f"model:m{n:03}", "count": n} for n in range(PLOT_ROWS_MAX + more)]
    report = {
        "from": "2026-07-01T00:00:00.000000Z",
        "to": "2026-10-01T00:00:00.000000Z",
        "known_position": 9,
        "suspensions": {"by_model": rows},
    }
    picture = picture_of(plot_of("suspensions-by-model", report))

    assert PLOT_ROWS_MAX + 1 == len(picture.findall(f"{SVG}rect"))  # the ground is one, too
    assert bool(more) == str(picture.findtext(f"{SVG}desc")).endswith("; and 1 more in the table")


def test_every_plot_draws_a_table_that_reports_have(quarter: Running) -> None:
    """Each of them can be drawn from a report."""
    report = quarter("GET", "/v1/report", role="auditor", params=QUARTER).json()
    for name in PLOTS:
        picture_of(plot_of(name, report))


def test_the_report_is_the_same_on_postgresql(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The same history has the same figures on the other store."""
    with founded_on("postgresql", request, tmp_path_factory.mktemp("pg")) as run:
        violation_of(run, "user:ann", detected_by="automated")
        suspension_of(run, "user:ann")
        asked = {"from": "2026-01-01T00:00:00Z", "to": "2027-01-01T00:00:00Z"}
        report = run.done("GET", "/v1/report", role="auditor", params=asked)

    assert (2, 0.5) == (report["violations"]["recorded"], report["violations"]["automated_share"])
    assert [{"model": "group:frontier", "count": 1}] == report["suspensions"]["by_model"]


def test_a_service_is_asked_for_its_report(quarter: Running) -> None:
    """What the command line fetches is what the service counts; without a right it says so."""
    start, end = datetime(2026, 7, 1, tzinfo=UTC), datetime(2026, 10, 1, tzinfo=UTC)
    key = quarter.keys["auditor"]

    fetched = fetch_report(quarter.url, key, start=start, end=end, known_position=40)

    asked = {**QUARTER, "known_position": 40}
    assert quarter.done("GET", "/v1/report", role="auditor", params=asked) == fetched
    for refused in (None, quarter.keys["service"]):
        with pytest.raises(Unavailable, match="answers 40"):
            fetch_report(quarter.url, refused, start=start, end=end, known_position=None)
