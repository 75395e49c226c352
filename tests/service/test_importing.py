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
from ledger.domain.values import Role, format_instant
from ledger.service.http.problems import NotAuthenticated
from ledger.service.importing import IMPORT_LINES_MAX, Reader
from ledger.service.wiring import Service, build, wall_clock
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

    def underway(self, path: Path) -> subprocess.Popen[str]:
        """Begin to import a file; return when some of it is recorded."""
        importing = self.begin(path)
        assert importing.stderr is not None
        service = self.opened()
        begun = service.recorder.position
        while service.recorder.position == begun:  # by itself it ends only when all is recorded
            assert importing.poll() is None
            select.select([importing.stderr], [], [], 0.01)
        service.close()
        return importing

    def run(self, path: Path, *options: str, key: str | None = None) -> tuple[int, str, str]:
        """Import a file; return the exit code and what was printed."""
        importing = self.begin(path, *options, key=key)
        out, err = importing.communicate(timeout=WAIT_S)
        return importing.returncode, out, err

    def result(self, path: Path) -> dict[str, Any]:
        """Import a file; return what is told of it in JSON."""
        found: dict[str, Any] = json.loads(self.run(path, "--json")[1])
        return found

    def key_of(self, role: Role) -> str:
        """Enrol an operator in this role; return a key."""
        service = self.opened()
        try:
            service.ledger.enroll(f"the-{role}", role=role, by=SYSTEM_AUTHOR)
            return str(service.ledger.issue_key(f"the-{role}", by=SYSTEM_AUTHOR).secret)
        finally:
            service.close()

    def record(self, key: str, *commands: tuple[str, str, object]) -> None:
        """Import commands; each must be recorded."""
        path = self.file(
            [{"method": method, "path": path, "body": body} for method, path, body in commands]
        )
        code, out, err = self.run(path, key=key)
        assert 0 == code, err
        assert f"{len(commands)} lines are recorded, 0 were refused" in out

    def made(self) -> dict[str, list[str]]:
        """Return what the events are about, by their type and in the order of the ledger."""
        service = self.opened()
        found: dict[str, list[str]] = {}
        for recorded in service.recorder.events():
            found.setdefault(recorded.type, []).append(str(recorded.event.about))
        service.close()
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
    importing = importer.underway(path)
    importing.send_signal(signal.SIGKILL)
    importing.communicate(timeout=WAIT_S)
    before = importer.users()

    again = importer.result(path)

    assert -signal.SIGKILL == importing.returncode
    assert 0 < len(before) < count
    assert (count, 0) == (again["done"], again["refused_count"])
    assert [f"user:u{number}" for number in range(count)] == importer.users()


@on_each_store
def test_an_import_whose_recording_process_ends_says_so_and_goes_on_later(
    importer: Importer,
) -> None:
    """What was committed is recorded; run again, the file is recorded once and in its order."""
    count = 8 * IMPORT_LINES_MAX
    path = importer.file([register(number) for number in range(count)])
    importing = importer.underway(path)
    os.kill(recording_process_of(importing.pid), signal.SIGKILL)
    err = importing.communicate(timeout=WAIT_S)[1]
    before = importer.users()

    again = importer.result(path)

    assert 0 != importing.returncode
    assert "the process that records has ended" in err
    assert 0 < len(before) < count
    assert (count, 0) == (again["done"], again["refused_count"])
    assert [f"user:u{number}" for number in range(count)] == importer.users()


def recording_process_of(pid: int) -> int:
    """Return the process that another one has started to record for it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    commands = {child: Path(f"/proc/{child}/cmdline").read_bytes() for child in children}
    (found,) = [child for child, command in commands.items() if b"spawn_main" in command]
    return int(found)


@on_each_store
def test_every_kind_of_command_can_be_imported(importer: Importer) -> None:
    """It crosses to the process that records with all its values, and means there what it means."""
    jo: dict[str, object] = {"subject": {"type": "user", "id": "jo"}}
    acme = {"type": "organization", "id": "acme"}
    model = {"type": "model", "id": "sonnet"}
    clause = {"id": "fraud", "title": "Fraud", "text": "No.", "category": "fraud"}
    reason = {"reason": "Because."}
    officer, admin = importer.key, importer.key_of(Role.ADMIN)
    approver = importer.key_of(Role.APPROVER)

    importer.record(
        admin,
        ("PUT", "/v1/policies/use", {"title": "Use", "clauses": [{**clause, "severity": "high"}]}),
        ("PUT", "/v1/resources", {"resource": model}),
        ("PUT", "/v1/groups/large", {"resources": [model]}),
        ("POST", "/v1/operators", {"id": "another", "role": "officer"}),
        ("POST", "/v1/operators/another/keys", {"label": "a key"}),
    )
    suspension: dict[str, object] = {**jo, **reason, "basis": "precautionary", "duration": "P14D"}
    suspension["scope"] = {"resources": [{"group": "large"}]}
    violation = {**jo, "policy": "use@1", "clause": "fraud", "detected_by": "automated"}
    violation |= {"occurred_at": format_instant(wall_clock()), "summary": "Phishing."}
    importer.record(
        officer,
        ("PUT", "/v1/subjects", {**jo, "properties": {"tier": "gold"}}),
        ("POST", "/v1/links", {**jo, "parent": acme}),
        ("POST", "/v1/violations", {**violation, "details": "Jo wrote to Kim.", "evidence": []}),
        ("POST", "/v1/warnings", {**jo, **reason}),
        *[("POST", "/v1/suspensions", suspension)] * 2,
        (
            "POST",
            "/v1/suspensions",
            {**suspension, "effective_at": "2999-01-01T00:00:00Z"},
        ),
    )
    made = importer.made()
    first, second, scheduled = made["subject.suspended"]
    (violated,), key = made["violation.recorded"], made["operator.key_issued"][-1]
    ended = {"suspension": second, "cause": "early", **reason}
    importer.record(
        officer,
        ("POST", f"/v1/suspensions/{first}/revision", {"duration": "P7D", **reason}),
        ("POST", f"/v1/suspensions/{scheduled}/cancellation", reason),
        ("DELETE", "/v1/links", {**jo, "parent": acme}),
    )
    importer.record(
        approver,
        ("POST", "/v1/reinstatements", ended),
        ("POST", f"/v1/violations/{violated}/overturn", reason),
    )
    importer.record(
        admin,
        ("DELETE", f"/v1/keys/{key}", None),
        ("POST", "/v1/holds", {**jo, **reason}),
    )
    (hold,) = importer.made()["hold.placed"]
    importer.record(
        admin,
        ("DELETE", f"/v1/holds/{hold}", None),
        ("POST", "/v1/erasures", {**jo, **reason}),
    )
    (erasure,) = importer.made()["erasure.requested"]
    importer.record(approver, ("POST", f"/v1/erasures/{erasure}/confirmation", None))

    assert "personal_data.erased" in importer.made()


def test_a_key_that_is_revoked_meanwhile_records_nothing_more(
    importer: Importer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may import is looked at again and again."""
    monkeypatch.setattr("ledger.service.importing.KEY_LOOK_S", 0)
    service = importer.opened()
    lines = [(1, json.dumps(register(1)).encode())]
    reader = Reader(service, importer.key)

    before = reader.read(lines)
    service.ledger.revoke_key(str(*importer.made()["operator.key_issued"]), by=SYSTEM_AUTHOR)
    after = reader.read(lines)
    service.close()

    assert [None] == [refused for _, _, refused in before.lines]
    assert [True] == [isinstance(refused, NotAuthenticated) for _, _, refused in after.lines]


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
    assert "no operator has the key" in unknown[2]
    assert [] == importer.users()
