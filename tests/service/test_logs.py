"""The log of a serving process: whole lines, no data of anybody, and nothing that can forge one."""

from __future__ import annotations

import io
import json
import logging
import re
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog

from ledger.service import logs
from ledger.service.settings import Settings
from ledger.service.wiring import build
from tests.checks import check_ledger
from tests.histories import awake
from tests.service.conftest import until
from tests.service.wire import Wire, exchange, request
from tests.serving import STOPPED_WITHIN_S, asked, environment, opened, suspended, url_in

HOSTILE = 'canary\r\n{"level": "info"}\x1b[2J\x1b]0;x\x07\x9b\u2028\u202e\x7f'
ESCAPES = ("\r", "\x1b", "\x07", "\x9b", "\u2028", "\u202e", "\x7f")


@pytest.fixture
def written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[[], str]]:
    """Reads what is on standard error; the logging of the tests comes back afterwards."""
    root, names = logging.getLogger(), ("ledger", "uvicorn", "uvicorn.error", "uvicorn.access")
    handlers, level = list(root.handlers), root.level
    levels = {name: logging.getLogger(name).level for name in names}
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    yield lambda: capsys.readouterr().err
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize(
    "extra", [{}, {"status": 201, "route": None, "when": HOSTILE}, {"level": "mine", "z": 1}]
)
def test_a_line_is_the_same_with_and_without_structlog(
    form: logs.LogFormat,
    extra: dict[str, Any],
    written: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is made the quick way has the same members in the same order."""
    logs.configure(form)
    log, seen = logging.getLogger("ledger.service.feed"), []
    for way in (logs._Lines.format, structlog.stdlib.ProcessorFormatter.format):
        monkeypatch.setattr(logs._Lines, "format", way)
        log.info("about %s", HOSTILE, extra=extra)
        seen.append(re.sub(r"20\d\d-\d\d-\d\dT[0-9:.]+Z", "T", written()))
    assert seen[0] == seen[1]


def lines_of(text: str) -> list[dict[str, Any]]:
    """Each line of a log, which must be JSON with what every line has."""
    read = [json.loads(line) for line in text.split("\n") if line]
    for line in read:
        assert {"time", "level", "logger", "event"} <= set(line), line
    return read


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("name", ["ledger.service.feed", "uvicorn.error", "another"])
def test_nothing_from_outside_forges_a_line(
    form: logs.LogFormat, name: str, written: Callable[[], str]
) -> None:
    """Line ends, escape sequences and marks of direction are escaped, wherever they stand."""
    logs.configure(form)
    logging.getLogger(name).warning("about %s", HOSTILE, extra={"more": HOSTILE, "n": [HOSTILE]})
    text = written()

    assert 1 == text.count("\n")
    assert not any(escape in text for escape in ESCAPES)
    if form == "json":
        (line,) = lines_of(text)
        assert ("warning", name, f"about {HOSTILE}") == (
            line["level"],
            line["logger"],
            line["event"],
        )
        assert (HOSTILE, [HOSTILE]) == (line["more"], line["n"])


def fail(message: str) -> None:
    raise LookupError(message)


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_fault_is_told_by_kind_and_place(
    form: logs.LogFormat, written: Callable[[], str]
) -> None:
    """What an exception says may be a caller's, so it stays out; so does that of its causes."""
    logs.configure(form)
    try:
        try:
            fail("canary-one")
        except LookupError as error:
            raise ValueError("canary-two\nforged") from error
    except ValueError:
        logging.getLogger("ledger").exception("it failed")
    text = written()

    assert "canary" not in text
    assert "forged" not in text
    assert "LookupError" in text
    assert "ValueError" in text
    assert "in fail" in text
    if form == "text":
        assert all(line.startswith("    ") for line in text.splitlines()[1:])


def test_what_the_machine_says_of_itself_is_told(written: Callable[[], str]) -> None:
    """A full disk must not read like any other fault."""
    logs.configure("json")
    for error in (sqlite3.OperationalError("database or disk is full"), OSError(28, "No space")):
        logging.getLogger("ledger").error("it failed", exc_info=error)
    first, second = lines_of(written())

    assert ["sqlite3.OperationalError: database or disk is full"] == first["fault"]
    assert ["builtins.OSError: No space"] == second["fault"]


def test_what_nobody_caught_is_a_line_as_well(written: Callable[[], str]) -> None:
    """In a thread, where Python would print a traceback with all that it says."""
    logs.configure("json")
    thread = threading.Thread(target=fail, args=("canary",))
    thread.start()
    thread.join()
    (line,) = lines_of(written())

    assert ("critical", "uncaught") == (line["level"], line["event"])
    assert "canary" not in str(line)


def test_the_form_is_for_whoever_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text for a terminal, JSON for everything else."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    assert "text" == logs.default_format()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert "json" == logs.default_format()


def answers(url: str) -> bool:
    """Tell whether a server answers yet."""
    try:
        return exchange(url, request("/readyz", method="GET", length=None)).status == 200
    except OSError:
        return False


def test_a_request_is_a_line_without_anybody_in_it(tmp_path: Path) -> None:
    """Canaries in every place that a request has: none is in the log, and each line is JSON.

    A line has the request's id, its method, its route, the status and how long it took. Checks and
    probes have none.
    """
    database = tmp_path / "ledger.db"
    keys = opened(database)
    popen = subprocess.Popen(
        [sys.executable, "-m", "ledger", "serve", "--port", "0", "--workers", "2"],
        env=environment(database),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert popen.stdout is not None
    url = url_in(popen.stdout)
    body = {**suspended("canary-user"), "reason": "canary-reason"}
    sent = [
        request("/livez", method="GET", length=None),
        request(
            "/v1/suspensions",
            orjson.dumps(body),
            "x-request-id: req-1",
            "idempotency-key: canary-idempotency",
            "ledger-on-behalf-of: user:canary-human",
            key=keys["officer"],
        ),
        request(
            "/v1/access?subject=user:canary-query", method="GET", key=keys["auditor"], length=None
        ),
        request("/v1/suspensions/canary-path", method="GET", key=keys["auditor"], length=None),
        request("/canary%0d%0apath", method="GET", length=None),
        request("/v1/events", method="GET", key="canary-key", length=None),
        request("/v1/events", b"", "x-request-id: canary\xff", method="GET", key=keys["auditor"]),
        request("/v1/violations", b'{"canary": "body', key=keys["reporter"]),
        request("/access/v1/evaluation", orjson.dumps(asked("canary-check")), key=keys["service"]),
        request("/access/v1/evaluation", b'{"canary": 1', key=keys["service"]),
    ]
    until(lambda: answers(url))
    statuses = [exchange(url, each).status for each in sent]
    with Wire(url) as wire:
        wire.send(b"canary \x1b[2J\r\n\r\n")
        wire.take()
    popen.terminate()
    _, told = popen.communicate(timeout=STOPPED_WITHIN_S)
    lines = [line for line in lines_of(told.decode("ascii")) if line["event"] == "request"]

    assert [200, 201, 200, 404, 404, 401, 422, 400, 200, 400] == statuses
    assert "canary" not in told.decode()
    assert not any(key in told.decode() for key in keys.values())
    # A line is written after its answer, so that of the next request may come first.
    assert Counter(
        [
            ("POST", "/v1/suspensions", 201),
            ("GET", "/v1/access", 200),
            ("GET", "/v1/suspensions/{id}", 404),
            ("GET", None, 404),
            ("GET", "/v1/events", 401),
            ("GET", "/v1/events", 422),
            ("POST", "/v1/violations", 400),
        ]
    ) == Counter((line["method"], line["route"], line["status"]) for line in lines)
    assert ["req-1"] == [line["request_id"] for line in lines if line["status"] == 201]
    assert all(0 < line["duration_ms"] < 60_000 for line in lines)
    service = build(Settings(database_url=f"sqlite:///{database}"))
    check_ledger(awake(service))
    service.close()
