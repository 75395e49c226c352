"""The decision log: what is in it, what is not, and which refusals rested on a violation."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from ledger.domain.errors import Unavailable
from ledger.domain.values import format_instant
from ledger.service import decision_log
from ledger.service.cli import main
from ledger.service.decision_log import DecisionLog, refused_by
from ledger.service.settings import Settings
from tests.service.conftest import (
    T0,
    Running,
    SetClock,
    found,
    opened,
    suspension_of,
    until,
    violation_of,
)

EVALUATIONS: Final = "/access/v1/evaluations"
FULL: Final = Path("/dev/full")


@contextmanager
def logging_to(path: Path, *, sample: float = 1.0) -> Iterator[Running]:
    """A founded service with a decision log."""
    settings = Settings(
        database_url=f"sqlite:///{path.parent / 'ledger.db'}",
        origin="test.ledger",
        decision_log=path,
        decision_log_sample=sample,
    )
    with opened(settings, SetClock()) as run:
        yield found(run)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a log is written, in a folder that does not exist yet."""
    return tmp_path / "logs" / "decisions.ndjson"


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Return the decisions in a log."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def both_ways(run: Running, body: dict[str, Any], path: str) -> list[dict[str, Any]]:
    """Ask twice in the parser, with a head that is new and one that is known, and once outside."""
    ways: list[dict[str, str]] = [{}, {}, {"Ledger-Min-Position": "0"}]
    return [run.done("POST", path, role="service", json=body, headers=way) for way in ways]


# --- what is in it --------------------------------------------------------------------------------


def test_every_decision_is_logged_under_the_id_in_its_answer(tmp_path: Path) -> None:
    """Single and batch, permits and denials, whoever answered: one line each, in order."""
    path = tmp_path / "decisions.ndjson"
    with logging_to(path) as run:
        suspension = suspension_of(run, "user:alice")
        position = run.service.recorder.position
        asked = {
            "subject": {"type": "user", "id": "alice"},
            "action": {"name": "use"},
            "resource": {"type": "model", "id": "atlas-3"},
        }
        mini = {"type": "model", "id": "mini-2"}
        denials = both_ways(run, asked, "/access/v1/evaluation")
        permits = both_ways(run, {**asked, "resource": mini}, "/access/v1/evaluation")
        batch = {**asked, "evaluations": [{}, {"resource": {}}, {"resource": mini}]}
        batches = both_ways(run, batch, EVALUATIONS)
        # No decisions: what is refused, and what is searched.
        run("POST", "/access/v1/evaluation", role="service", json={})
        run("POST", "/access/v1/evaluation", json=asked)
        run.done("POST", "/access/v1/search/action", role="service", json=asked)

        answers = [*denials, *permits]
        for one in batches:
            refused, failed, permitted = one["evaluations"]
            assert "decision_id" not in failed["context"]
            answers += [refused, permitted]
        assert position == run.service.recorder.position
        assert run.service.decision_log is not None
        assert 0 == run.service.decision_log.dropped
    logged = lines_of(path)

    assert [answer["context"]["decision_id"] for answer in answers] == [
        line["decision_id"] for line in logged
    ]
    assert len(logged) == len({line["decision_id"] for line in logged})
    assert [answer["decision"] for answer in answers] == [line["decision"] for line in logged]
    common = {
        "at": format_instant(T0),
        "subject": "user:alice",
        "action": "use",
        "position": position,
    }
    for line in logged:
        refusal = {
            "resource": "model:atlas-3",
            "reasons": ["suspended"],
            "suspensions": [suspension],
        }
        permit = {"resource": "model:mini-2", "reasons": [], "suspensions": []}
        expected = permit if line["decision"] else refusal
        assert common | expected == {
            name: value for name, value in line.items() if name not in ("decision_id", "decision")
        }
    for answer in denials:
        assert [suspension] == [s["id"] for s in answer["context"]["suspensions"]]
        assert answer["context"]["reason_user"]["en"]
        assert (position, format_instant(T0)) == (
            answer["context"]["position"],
            answer["context"]["as_of"],
        )


def test_without_a_file_nothing_is_logged(running: Running) -> None:
    """It is off by default: no log, no ids in answers."""
    assert running.service.decision_log is None
    assert {"position"} == set(running.decision("user:alice", "atlas-3")["context"])
    assert 0 == running("GET", "/readyz").json()["decisions_dropped"]


def test_a_sample_of_permits_and_every_denial_is_logged(tmp_path: Path) -> None:
    """What is not in the log has no id in its answer."""
    path = tmp_path / "decisions.ndjson"
    with logging_to(path, sample=0.25) as run:
        suspension_of(run, "user:alice")
        permits = [run.decision("user:bob", "atlas-3")["context"] for _ in range(40)]
        denials = [run.decision("user:alice", "atlas-3")["context"] for _ in range(10)]
    logged = [
        context["decision_id"] for context in [*permits, *denials] if "decision_id" in context
    ]

    assert 10 == sum("decision_id" in context for context in permits)
    assert all("decision_id" in context for context in denials)
    assert logged == [line["decision_id"] for line in lines_of(path)]


@pytest.mark.parametrize("sample", [0.0, 0.001, 0.1, 0.3, 0.5, 0.6, 0.7, 0.99, 1.0])
def test_the_sample_is_the_share_of_permits(path: Path, sample: float) -> None:
    """Evenly spread, and as many as the setting says; denials are always taken."""
    log = DecisionLog(path, sample=sample)

    taken = [log.takes(allowed=True) for _ in range(1_000)]

    assert round(1_000 * sample) == sum(taken)
    assert abs(sum(taken[:500]) - 500 * sample) <= 1
    assert all(log.takes(allowed=False) for _ in range(10))


# --- bounded, and off the way of a check ----------------------------------------------------------


def record(log: DecisionLog, number: int = 0, *suspensions: str) -> str:
    """Record a denial."""
    return log.record(
        at=number,
        subject=f"user:u{number}",
        action="use",
        resource="model:m1",
        allowed=False,
        reasons=["suspended"],
        suspensions=suspensions,
        position=number,
    )


def test_what_does_not_fit_is_dropped_and_counted(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that does not get on costs no memory beyond the limit, and no check its answer."""
    most = 2_500
    monkeypatch.setattr(decision_log, "WAITING_MAX", most)
    log = DecisionLog(path, sample=1.0)  # its writer has not been started
    for number in range(most + 7):
        assert record(log, number)

    assert 7 == log.dropped
    log.start()
    log.stop()
    written = lines_of(path)
    assert most == len(written)
    assert [0, most - 1] == [written[0]["position"], written[-1]["position"]]


@pytest.mark.skipif(not FULL.exists(), reason="there is no full disk here")
def test_a_full_disk_loses_lines_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Checks are answered, what is lost is counted and shown, and the process ends well."""
    path = tmp_path / "decisions.ndjson"
    path.symlink_to(FULL)
    with caplog.at_level(logging.CRITICAL), logging_to(path) as run:
        for _ in range(3):
            assert run.allowed("user:alice", "atlas-3")
        log = run.service.decision_log
        assert log is not None
        until(lambda: log.dropped == 3)

        assert 3 == run("GET", "/readyz").json()["decisions_dropped"]


def test_a_log_that_cannot_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    """Better no service than one that seems to log."""
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "decisions.ndjson"):
        with pytest.raises(Unavailable, match="decision log"):
            DecisionLog(path, sample=1.0).start()


def test_lines_of_several_writers_do_not_mix(path: Path) -> None:
    """Several processes may write one file: each line is whole, and none is lost."""
    logs = [DecisionLog(path, sample=1.0) for _ in range(3)]

    def write(log: DecisionLog) -> None:
        for number in range(3_000):
            record(log, number)

    writers = [threading.Thread(target=write, args=(log,)) for log in logs]
    for log in logs:
        log.start()
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    for log in logs:
        log.stop()
    logged = lines_of(path)

    assert 9_000 == len({line["decision_id"] for line in logged}) == len(logged)


def test_a_line_that_a_crash_cut_off_spoils_no_other(path: Path) -> None:
    """The next start begins a line of its own; reading passes the piece over."""
    path.parent.mkdir()
    for piece in (b"", b'{"decision_id": "dec_1", "decis', b"{", b'"'):
        path.write_bytes(b"")
        first = DecisionLog(path, sample=1.0)
        first.start()
        before = record(first, 1, "sus_a")
        first.stop()
        with path.open("ab") as file:
            file.write(piece)
        second = DecisionLog(path, sample=1.0)
        second.start()
        after = record(second, 2, "sus_a")
        second.stop()

        found_ = [line["decision_id"] for line in refused_by(path, frozenset({"sus_a"}))]
        assert [before, after] == found_


# --- which refusals rested on a violation ---------------------------------------------------------


@pytest.fixture
def wrongful(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command as the console script does: exit code, what is printed, what is wrong."""
    monkeypatch.setenv("LEDGER_DATABASE_URL", f"sqlite:///{tmp_path / 'ledger.db'}")
    monkeypatch.setenv("COLUMNS", "250")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["compliance-ledger", "wrongful", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run


def test_wrongful_lists_the_refusals_that_rested_on_a_violation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrongful: Callable[..., tuple[int, str, str]]
) -> None:
    """Exactly those of suspensions with that ground, whoever was refused, overturned or not."""
    path = tmp_path / "decisions.ndjson"
    with logging_to(path) as run:
        mistaken, sound = (violation_of(run, "organization:acme") for _ in range(2))
        org = suspension_of(run, "organization:acme", grounds=[mistaken])
        suspension_of(run, "organization:acme", grounds=[sound], scope=only("cipher-2"))
        both = suspension_of(
            run, "organization:acme", grounds=[mistaken, sound], scope=only("mini-2")
        )
        suspension_of(run, "user:bob")
        parent = {"type": "organization", "id": "acme"}
        link = {"subject": {"type": "user", "id": "alice"}, "parent": parent}
        run.done("POST", "/v1/links", role="officer", json=link)

        def asked(subject: str, model: str) -> str:
            return str(run.decision(subject, model)["context"]["decision_id"])

        expected = [
            asked("user:alice", "atlas-3"),
            asked("organization:acme", "atlas-3"),
            asked("organization:acme", "cipher-2"),  # by both, one of which is mistaken
            asked("organization:acme", "mini-2"),
        ]
        others = [
            asked("user:bob", "atlas-3"),
            asked("user:alice", "embed-1"),
            asked("user:carol", "atlas-3"),
        ]
        reason = {"reason": "It was somebody else."}
        run.done("POST", f"/v1/violations/{mistaken}/overturn", role="approver", json=reason)
        others.append(asked("user:alice", "atlas-3"))  # let in again
        others.append(asked("organization:acme", "cipher-2"))  # still refused, for another ground
        expected.append(asked("organization:acme", "mini-2"))  # one ground still stands
    monkeypatch.setenv("LEDGER_DECISION_LOG", str(path))
    code, printed, complaint = wrongful("--violation", mistaken, "--json")
    shown = wrongful("--violation", mistaken, "--log", str(path))[1]

    assert (0, "") == (code, complaint)
    listed = [orjson.loads(line) for line in printed.splitlines()]
    assert expected == [line["decision_id"] for line in listed]
    assert not set(others) & {line["decision_id"] for line in listed}
    assert {org, both} <= {id_ for line in listed for id_ in line["suspensions"]}
    assert [True] * len(expected) == [id_ in shown for id_ in expected]
    assert not any(id_ in shown for id_ in others)


def only(model: str) -> dict[str, object]:
    """The scope of one model."""
    return {"resources": [{"type": "model", "id": model}]}


def test_wrongful_says_what_it_lacks(
    tmp_path: Path, wrongful: Callable[..., tuple[int, str, str]]
) -> None:
    """No log, or no such violation: one sentence, and no list that looks empty."""
    path = tmp_path / "decisions.ndjson"
    with logging_to(path):
        pass
    cases: list[tuple[list[str], str]] = [
        ([], "there is no decision log"),
        (["--log", str(tmp_path)], "there is no decision log"),
        (["--log", str(path)], "no violation 'vio_none'"),
    ]
    for arguments, words in cases:
        code, printed, complaint = wrongful("--violation", "vio_none", *arguments)

        assert (1, "") == (code, printed)
        assert words in complaint
