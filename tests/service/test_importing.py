"""Importing a file: what is told of it, and that stopping it loses and doubles nothing."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ledger.application import SYSTEM_AUTHOR
from ledger.domain.values import Role
from ledger.service.importing import IMPORT_LINES_MAX
from ledger.service.wiring import Service, build
from tests.checks import check_ledger
from tests.conftest import on_each_store, settings_at
from tests.histories import awake

WAIT_S = 60  # for what takes a second, on a machine that may be busy


@dataclass
class Importer:
    """A ledger that only imports write to, each in a process of its own."""

    url: str
    folder: Path
    key: str = ""
    environment: dict[str, str] = field(default_factory=dict)

    def opened(self) -> Service:
        """Open the ledger in this process."""
        return build(settings_at(self.url, self.folder))

    def file(self, lines: Sequence[object]) -> Path:
        """Write lines to a file: objects as JSON, texts as they are."""
        path = self.folder / "history.ndjson"
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_text("".join(f"{text}\n" for text in texts))
        return path

    def begin(self, path: Path, *options: str, key: str | None = None) -> subprocess.Popen[str]:
        """Begin to import a file."""
        return subprocess.Popen(
            [sys.executable, "-m", "ledger", "import", str(path), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env={**os.environ, **self.environment, "LEDGER_API_KEY": key or self.key},
        )

    def run(self, path: Path, *options: str, key: str | None = None) -> tuple[int, str, str]:
        """Import a file; return the exit code and what was printed."""
        importing = self.begin(path, *options, key=key)
        out, err = importing.communicate(timeout=WAIT_S)
        return importing.returncode, out, err

    def result(self, path: Path) -> dict[str, Any]:
        """Import a file; return what is told of it in JSON."""
        found: dict[str, Any] = json.loads(self.run(path, "--json")[1])
        return found

    def users(self) -> list[str]:
        """Return who was registered, in the order of the ledger."""
        service = self.opened()
        try:
            return [
                str(recorded.event.about)
                for recorded in service.recorder.events()
                if recorded.type == "subject.registered"
            ]
        finally:
            service.close()


@pytest.fixture
def importer(database_url: str, tmp_path: Path) -> Iterator[Importer]:
    """A new ledger with an officer, checked as a whole when the test is over."""
    importer = Importer(database_url, tmp_path)
    importer.environment = {
        "LEDGER_DATABASE_URL": database_url,
        "LEDGER_FILES": str(tmp_path),
        "LEDGER_ALLOW_OWNER": "true",
    }
    service = importer.opened()
    service.open()
    service.ledger.enroll("the-officer", role=Role.OFFICER, by=SYSTEM_AUTHOR)
    importer.key = str(service.ledger.issue_key("the-officer", by=SYSTEM_AUTHOR).secret)
    service.close()
    yield importer
    service = importer.opened()
    check_ledger(awake(service))
    service.close()


def register(number: int) -> dict[str, object]:
    """A line that makes a user known."""
    body = {"subject": {"type": "user", "id": f"u{number}"}}
    return {"method": "PUT", "path": "/v1/subjects", "body": body}


@on_each_store
def test_an_import_that_was_killed_goes_on_where_it_stopped(importer: Importer) -> None:
    """Killed in the middle and run again, a file is recorded once and in its order."""
    count = 8 * IMPORT_LINES_MAX
    path = importer.file([register(number) for number in range(count)])
    importing = importer.begin(path)
    assert importing.stderr is not None
    service = importer.opened()
    begun = service.recorder.position
    while service.recorder.position == begun:  # by itself it ends only when all is recorded
        assert importing.poll() is None
        select.select([importing.stderr], [], [], 0.01)
    service.close()
    importing.send_signal(signal.SIGKILL)
    importing.communicate(timeout=WAIT_S)
    before = importer.users()

    again = importer.result(path)

    assert -signal.SIGKILL == importing.returncode
    assert 0 < len(before) < count
    assert (count, 0) == (again["done"], again["refused_count"])
    assert [f"user:u{number}" for number in range(count)] == importer.users()


@on_each_store
def test_a_refused_line_is_told_with_its_number_and_the_rest_goes_on(importer: Importer) -> None:
    """Lines are numbered as in the file, blank ones included; one that is refused exits with 1."""
    path = importer.file([register(1), "", "{", {**register(2), "path": "/v1/none"}, register(3)])

    code, out, err = importer.run(path)
    result = importer.result(path)

    assert 1 == code
    assert "2 lines are recorded, 2 were refused" in out
    assert [3, 4] == [answer["line"] for answer in result["refused"]]
    assert "line 3: " in err
    assert "line 4: PUT /v1/none is no command" in err
    assert ["user:u1", "user:u3"] == importer.users()


def test_an_import_exits_with_0_when_every_line_is_recorded(importer: Importer) -> None:
    """Once and once more: a repeated line is no refused one, and names the same event."""
    path = importer.file([register(1), register(2)])

    first, second = importer.run(path), importer.run(path)

    assert 0 == first[0]
    assert first[:2] == second[:2]
    assert "2 lines are recorded, 0 were refused" in first[1]
    assert "importing" in first[2]
    assert "100%" in first[2]


def test_what_cannot_be_imported_at_all_records_nothing(importer: Importer) -> None:
    """A file that is not there and a key that is unknown are told at once."""
    path = importer.file([register(1)])

    missing = importer.run(importer.folder / "none.ndjson")
    unknown = importer.run(path, key="clk_unknown")

    assert 0 not in (missing[0], unknown[0])
    assert "is no file" in missing[2]
    assert "not_authenticated" in unknown[2]
    assert [] == importer.users()
