"""The command that exports: of a service and of a database, whole and checked or not at all."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ledger.domain.errors import Unavailable
from ledger.service import exporting
from ledger.service.cli import main
from tests.service.conftest import Running, found, founded_on, violation_of

SUBJECT = "user:=1+1, or two"


@pytest.fixture(scope="module")
def filled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A service with some events, two of them about a subject with a hostile name."""
    with founded_on("sqlite", request, tmp_path_factory.mktemp("filled")) as run:
        found(run)
        for _ in range(2):
            violation_of(run, SUBJECT)
        yield run


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: object
    stdout: str
    stderr: str


@pytest.fixture
def export(
    filled: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ran]:
    """Run the command with the database of the service, and by the auditor's key."""
    settings = filled.service.settings
    monkeypatch.setenv("LEDGER_DATABASE_URL", settings.database_url)
    monkeypatch.setenv("LEDGER_FILES", str(settings.files))
    monkeypatch.setenv("LEDGER_ORIGIN", settings.origin)
    monkeypatch.setenv("LEDGER_API_KEY", filled.keys["auditor"])
    monkeypatch.setenv("COLUMNS", "400")

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["compliance-ledger", "export", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return Ran(ended.value.code or 0, *capsys.readouterr())

    return run


def check(path: Path, subject: str) -> dict[str, Any]:
    """Check a file against the manifest beside it; returns that."""
    manifest: dict[str, Any] = json.loads(path.with_name(f"{path.name}.manifest.json").read_bytes())
    lines = path.read_bytes().splitlines()
    assert [2, 2] == [len(lines), manifest["count"]]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == manifest["sha256"]
    assert {"subject": [subject], "type": ["violation.recorded"]} == manifest["filters"]
    assert "the-auditor" == manifest["operator"]
    return manifest


FILTERS = ("--filter", f"subject={SUBJECT}", "--filter", "type=violation.recorded")


@pytest.mark.parametrize("where", ["service", "database"])
def test_a_list_is_exported_with_its_manifest(
    where: str, filled: Running, export: Callable[..., Ran], tmp_path: Path
) -> None:
    """Of either, with the list's own parameters; and it is recorded who has it."""
    path = tmp_path / "two.ndjson"
    at = ("--url", filled.url) if where == "service" else ()
    done = export("--output", str(path), *FILTERS, *at, "--json")

    assert 0 == done.code, done.stderr
    manifest = check(path, SUBJECT)
    assert {"output": str(path), **manifest} == json.loads(done.stdout)
    (newest,) = filled.done(
        "GET", "/v1/events", role="auditor", params={"type": "record.disclosed", "limit": 1}
    )["items"]
    assert manifest["position"] == newest["data"]["export"]["position"]
    assert ["two.ndjson", "two.ndjson.manifest.json"] == sorted(p.name for p in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        ((), 2, "either --bundle or --output"),
        (("--output", "a", "--bundle", "b"), 2, "either --bundle or --output"),
        (("--output", "a", "--view", "secrets"), 2, "none of events, suspensions"),
        (("--output", "a", "--view", "warnings", "--format", "ocsf"), 2, "ndjson, csv, parquet"),
        (("--output", "a", "--filter", "subject"), 2, "NAME=VALUE"),
        (("--output", "a", "--filter", "subject=alice"), 1, "the service answers 422"),
        (("--output", "a", "--key-file", "there"), 1, "the service answers 401"),
        (("--output", "here/nowhere/a"), 1, "cannot be written"),
        (("--output", "there"), 1, "there exists"),
    ],
)
def test_what_cannot_be_exported_leaves_no_file(
    arguments: tuple[str, ...],
    status: int,
    says: str,
    filled: Running,
    export: Callable[..., Ran],
    tmp_path: Path,
) -> None:
    """One sentence says why; nothing is left behind."""
    (tmp_path / "there").write_text("as it was")
    in_folder = [
        str(tmp_path / each) if before in ("--output", "--bundle", "--key-file") else each
        for before, each in zip(("", *arguments), arguments, strict=False)
    ]
    done = export(*in_folder, "--url", filled.url)

    assert (status, True) == (done.code, says in done.stderr), done.stderr
    assert ["there"] == [each.name for each in tmp_path.iterdir()]


def test_a_file_that_is_not_what_its_manifest_says_is_not_kept(
    filled: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were a byte lost on the way, there would be no file."""
    write = exporting._write

    async def losing(*asked: Any) -> str:
        await write(*asked)
        return "0" * 64

    monkeypatch.setattr(exporting, "_write", losing)

    async def run() -> None:
        async with exporting.exporting_client(filled.url, filled.keys["auditor"], None) as client:
            await exporting.export_file(
                client,
                tmp_path / "a",
                view="events",
                format="csv",
                parameters=[],
                progress=lambda _: None,
            )

    with pytest.raises(Unavailable, match="nothing was written"):
        asyncio.run(run())
    assert [] == list(tmp_path.iterdir())
