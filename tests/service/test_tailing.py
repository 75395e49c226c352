"""Following the trail at a terminal: from a service and from the database, told in lines."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import IO, Any

import orjson
import pytest

from ledger.domain.errors import InvalidValue, LedgerError
from ledger.service import tailing
from ledger.service.http import live
from ledger.service.settings import sqlite_path
from ledger.service.tailing import from_database, from_service, plain, trail_filters
from ledger.service.wiring import build
from tests.conftest import on_each_store
from tests.service.conftest import Running, suspension_of, violation_of
from tests.serving import environment


def tail(run: Running, *arguments: str, **more: str) -> subprocess.Popen[str]:
    """Start ``compliance-ledger tail`` as a script does in the background: deaf to SIGINT."""
    program = [sys.executable, "-m", "ledger", "tail"]
    database = sqlite_path(run.service.settings.database_url)
    files = str(run.service.settings.vault_path.parent)
    return subprocess.Popen(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *program, *arguments],
        env=environment(database, LEDGER_FILES=files, **more),
        cwd=database.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def line_of(stream: IO[str] | None) -> str:
    """Read one line."""
    assert stream is not None
    return stream.readline().rstrip("\n")


def test_tail_tells_a_line_for_each_event_until_it_is_interrupted(founded: Running) -> None:
    """A sentence for a person, JSON for a program; Ctrl-C is no failure."""
    last = founded.service.recorder.position
    key = founded.keys["auditor"]
    person = tail(founded, "--url", founded.url, "--since", str(last - 1), LEDGER_API_KEY=key)
    program = tail(founded, "--json", "--since", str(last), "--type", "subject.suspended")
    before = line_of(person.stdout)
    suspension_of(founded, "user:alice")
    position = founded.service.recorder.position

    lines = [before, *(line_of(person.stdout) for _ in range(position - last))]
    event = orjson.loads(line_of(program.stdout))

    events = founded.done("GET", "/v1/events", role="auditor")["items"]
    expected = [
        f"{e['position']:>8}  {e['recorded_at'][:19]}Z  {e['sentence']}"
        for e in reversed(events)
        if e["position"] >= last
    ]
    assert expected == lines
    assert events[0] == event
    for one in (person, program):
        one.send_signal(signal.SIGINT)
        assert ("", "") == one.communicate(timeout=20)
        assert 0 == one.returncode


@on_each_store
def test_the_database_is_followed_with_the_filters_of_the_trail(
    founded: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a position or from now on, page by page, then as events come."""
    monkeypatch.setattr(tailing, "TAIL_PAGE", 2)
    for user in ("alice", "bob", "alice", "alice"):
        violation_of(founded, f"user:{user}")
    filters = trail_filters({"subject": "user:alice", "type": ["violation.recorded"]})
    # As the program does: a process of its own, in which nothing else waits for news.
    service = build(founded.service.settings, clock=founded.clock)
    events: Iterator[Any] = from_database(service, filters, since=0)

    got = [next(events)["position"] for _ in range(3)]
    violation_of(founded, "user:alice")
    got.append(next(events)["position"])

    query = {"subject": "user:alice", "order": "oldest"}
    listed = founded.done("GET", "/v1/events", role="auditor", params=query)["items"]
    assert [event["position"] for event in listed] == got
    del events
    service.close()


def test_a_service_is_asked_again_when_it_has_no_room(
    founded: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says why, waits as long as it was told, and goes on when there is room."""
    monkeypatch.setattr(live, "STREAMS_MAX", 0)
    waits: list[float] = []
    told: list[str] = []

    def pause(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            monkeypatch.setattr(live, "STREAMS_MAX", 1)

    events = from_service(
        founded.url, founded.keys["auditor"], {}, since=0, tell=told.append, pause=pause
    )

    assert 1 == next(events)["position"]
    assert ["0 streams are open in this process."] * 2 == told
    assert all(0.75 * 5 <= seconds <= 1.25 * 5 for seconds in waits)


@pytest.mark.parametrize(
    ("role", "asked", "said"),
    [
        ("officer", {}, "this needs auditor"),
        ("auditor", {"q": " ".join(map(str, range(51)))}, "50 words"),
    ],
)
def test_a_refusal_that_will_not_pass_ends_it(
    founded: Running, role: str, asked: dict[str, Any], said: str
) -> None:
    """Asking again would change nothing."""
    events = from_service(founded.url, founded.keys[role], asked, since=None, tell=print)

    with pytest.raises(LedgerError, match=said):
        next(events)


@pytest.mark.parametrize("url", ["ledger.example", "ftp://ledger.example"])
def test_what_is_no_address_is_refused(url: str) -> None:
    """At once: it will never answer."""
    with pytest.raises(InvalidValue, match="--url"):
        next(from_service(url, "k", {}, since=None, tell=print))


@pytest.mark.parametrize("asked", [{"from": "yesterday"}, {"subject": "alice"}])
def test_a_filter_that_cannot_be_read_is_refused(asked: dict[str, Any]) -> None:
    """With the name of the parameter."""
    with pytest.raises(InvalidValue) as refused:
        trail_filters(asked)
    assert refused.value.field in asked


def test_nothing_in_a_sentence_moves_the_cursor() -> None:
    """What others have written must not paint, delete or turn around what a person reads."""
    assert "a\\u001b[2Jb\\u202ec\\u000ad é" == plain("a\x1b[2Jb\u202ec\nd é")
