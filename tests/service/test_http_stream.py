"""The trail as it is written: every event once, in order, to whoever may read and does read."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from random import Random
from typing import Any, Final
from unittest.mock import Mock
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import Request
from fastapi.responses import Response

from ledger.application import SYSTEM_AUTHOR
from ledger.domain.values import Role
from ledger.service.http import live
from ledger.service.http.app import create_app
from ledger.service.http.events import event_filter
from ledger.service.http.problems import NotAllowed
from ledger.service.http.route import LedgerRoute
from ledger.service.http.stream import stream_events
from ledger.service.settings import Settings
from ledger.service.tailing import from_service
from ledger.service.wiring import build
from tests import histories
from tests.checks import check_ledger
from tests.conftest import SetClock, on_each_store
from tests.service.conftest import (
    ENDLESS,
    Running,
    joined,
    open_ledger,
    serving,
    suspension_of,
    until,
    violation_of,
)
from tests.service.streaming import streaming
from tests.service.test_http_erasures import erase, sealed_about

LONG: Final = "It goes on and on. " * 100


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often at the streams, and speak whenever one is silent: it says how far it is."""
    monkeypatch.setattr(live, "STREAM_LOOK_S", 0.02)
    monkeypatch.setattr(live, "SPAN_PAUSE_S", 0.01)
    monkeypatch.setattr(live, "HEARTBEAT_S", 0.0)


def reading(run: Running, **more: Any) -> Any:
    """Open a stream as the auditor."""
    return streaming(run.url, run.keys["auditor"], **more)


def listed(run: Running, **query: Any) -> list[dict[str, Any]]:
    """What the trail lists, oldest first."""
    query = {"order": "oldest", "limit": 1_000, **query}
    items: list[dict[str, Any]] = run.done("GET", "/v1/events", role="auditor", params=query)[
        "items"
    ]
    return items


# --- what is sent ---------------------------------------------------------------------------------


def test_a_stream_sends_what_the_trail_lists(shared: Running) -> None:
    """From a position on, each event as it is in the list; then what is recorded later."""
    start = shared.service.recorder.position
    with reading(shared, after=0) as old, reading(shared) as new:
        suspension_of(shared, "user:alice", reason="Zwölf\u2028Zeilen, «kurz».")
        position = shared.service.recorder.position

        assert listed(shared) == old.up_to(position)
        assert str(start) == new.response.headers["ledger-position"]
        assert [e for e in listed(shared) if e["position"] > start] == new.up_to(position)
    head = new.response.headers
    assert "text/event-stream; charset=utf-8" == head["content-type"]
    assert ("no-store", "no") == (head["cache-control"], head["x-accel-buffering"])


def test_a_stream_resumes_after_the_last_event_that_was_seen(shared: Running) -> None:
    """The header says where, and wins over the parameter of the first connection."""
    for user in ("bob", "carol"):
        violation_of(shared, f"user:{user}")
    position = shared.service.recorder.position

    with reading(shared, last_id=str(position - 1), after=2) as resumed:
        resumed.up_to(position)
    with reading(shared, last_id=str(position)) as nothing:
        nothing.next()
    with reading(shared, after=position - 2) as first:
        first.up_to(position)

    assert [position] == resumed.positions
    assert ([], str(position)) == (nothing.positions, nothing.last_id)
    assert [position - 1, position] == first.positions


def test_a_silent_stream_says_how_far_it_is(shared: Running) -> None:
    """A reader whose filter matches nothing comes back to where it was told to be, not to then."""
    with reading(shared, operator="nobody") as silent:
        violation_of(shared, "user:dave")
        assert [] == silent.up_to(shared.service.recorder.position)


@pytest.mark.parametrize("last_id", ["", "-1", "01", "1.0", "x", "9" * 17, "é"])
def test_an_id_that_is_none_of_ours_is_refused(shared: Running, last_id: str) -> None:
    """Beginning somewhere else would lose events, and nobody would know."""
    headers = {"Last-Event-ID": last_id.encode("latin-1")}
    answer = shared("GET", ENDLESS, role="auditor", headers=headers)

    assert (422, "Last-Event-ID") == (answer.status_code, answer.json()["field"])


@pytest.mark.parametrize(
    "query", [{"after": -1}, {"after": 2**53 + 1}, {"q": " ".join(map(str, range(51)))}]
)
def test_what_cannot_be_streamed_is_refused(shared: Running, query: dict[str, Any]) -> None:
    """Before the first event, while a status can say so."""
    answer = shared("GET", ENDLESS, role="auditor", params=query)

    assert 422 == answer.status_code
    assert answer.json()["field"] in query


def test_a_position_that_is_not_there_yet_is_waited_for(
    shared: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may be ahead by a moment; after two seconds it is 503."""
    monkeypatch.setattr(type(shared.service.feed).wait_for, "__kwdefaults__", {"timeout_s": 0.01})
    last_id = str(shared.service.recorder.position + 1)
    answer = shared("GET", ENDLESS, role="auditor", headers={"Last-Event-ID": last_id})

    assert (503, "behind") == (answer.status_code, answer.json()["code"])
    assert "1" == answer.headers["retry-after"]


@pytest.mark.parametrize("chunk_bytes_max", [0, live.CHUNK_BYTES_MAX])
def test_streams_are_given_the_same_in_pieces_and_as_one_chunk(
    shared: Running, monkeypatch: pytest.MonkeyPatch, chunk_bytes_max: int
) -> None:
    """Those that wait are written to together; what is too much for that is sent one by one."""
    monkeypatch.setattr(live, "CHUNK_BYTES_MAX", chunk_bytes_max)
    start = shared.service.recorder.position
    with reading(shared) as one, reading(shared) as other, reading(shared, q="zoe") as some:
        for user in ("yves", "zoe", "yves"):
            violation_of(shared, f"user:{user}")
            one.up_to(shared.service.recorder.position)  # so that all wait again
        position = shared.service.recorder.position
        events = [e for e in listed(shared) if e["position"] > start]
        assert events == one.up_to(position) == other.up_to(position)
        assert [e for e in events if "zoe" in e["sentence"]] == some.up_to(position)


@pytest.mark.parametrize(("more", "is_given"), [(0, True), (1, False)])
def test_a_chunk_has_a_limit(
    shared: Running, monkeypatch: pytest.MonkeyPatch, more: int, *, is_given: bool
) -> None:
    """Up to there a connection that is empty and waits is given a span at once."""
    written: list[bytes] = []
    connection = Mock(is_closing=lambda: False, get_write_buffer_size=lambda: 0)
    connection.write = written.append
    stream = live.Stream({}, 4, lambda: None, connection=connection, waits=True)
    text = b"x" * 0x100
    monkeypatch.setattr(live, "CHUNK_BYTES_MAX", len(b"100\r\n%b\r\n" % text) - more)
    span = live._Span(after=4, last=5, matching={stream.key: [(5, text)]}, size=len(text))

    async def given() -> bool:
        return live.Live(shared.service)._give(stream, span)

    assert is_given == asyncio.run(given())
    assert ([b"100\r\n%b\r\n" % text] if is_given else []) == written
    assert (5 if is_given else 4) == stream.position


# --- the same events as a list --------------------------------------------------------------------


def queries(run: Running) -> list[dict[str, Any]]:
    """Filters of each kind that match something of a history, and of two kinds together."""
    events = listed(run)
    middle = events[len(events) // 2]["recorded_at"]
    words = [word for event in events[-40:] for word in event["sentence"].split()]
    found: list[dict[str, Any]] = [{}, {"q": "nothing-says-this"}]
    found += [{"subject": s} for s in ("user:u1", "org:o1", "user:zebra")]
    found += [{"type": t} for t in sorted({event["type"] for event in events})]
    found += [{"type": ["violation.recorded", "subject.suspended"]}]
    found += [{"operator": o} for o in ("the-officer", "system")]
    found += [{"policy": "aup"}, {"policy": "aup@1"}, {"policy": "aup@2"}]
    found += [{"category": c} for c in histories.CLAUSES]
    found += [{"resource": r.key} for r in histories.RESOURCES]
    found += [{"q": word.strip(",.;:")} for word in Random(6).sample(words, 8)]
    found += [{"q": "susp*"}, {"from": middle}, {"to": middle}]
    found += [{"category": histories.CLAUSES[0], "q": "user", "from": middle}]
    return found


@pytest.fixture
def historic(settings: Settings, clock: SetClock) -> Iterator[Running]:
    """A served ledger with a history that was made up, and more of it to come."""
    service = histories.founded(settings.vault_path.parent, clock, url=settings.database_url)
    done = service.ledger.issue_key("the-auditor", by=SYSTEM_AUTHOR)
    assert done.secret is not None
    with serving(service) as url, httpx.Client(base_url=url, timeout=20) as http:
        yield Running(service, url, clock, {"auditor": done.secret}, http)
        check_ledger(service)


@on_each_store
def test_live_events_pass_the_filters_that_they_pass_in_a_list(
    historic: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A made-up history under all filters at once: live, from the ring, and from the store.

    Ring, spans and pages are so small that streams which begin at the beginning need them all.
    """
    for name, size in (("RING_EVENTS_MAX", 20), ("SPAN_EVENTS_MAX", 7), ("PAGE_EVENTS_MAX", 3)):
        monkeypatch.setattr(live, name, size)
    monkeypatch.setattr(live, "PIECE_BYTES_MAX", 2_000)
    run, drawing = historic, histories.Drawing(Random(3))
    histories.happen(run.service, drawing, 60)
    start = run.service.recorder.position
    asked = queries(run)
    with ExitStack() as stack:
        opened = [
            (query, after, stack.enter_context(reading(run, after=after, **query)))
            for number, query in enumerate(asked)
            for after in ((start,) if number % 3 else (start, start - 10, 0))
        ]
        histories.happen(run.service, drawing, 60)
        position = run.service.recorder.position
        for query, after, one in opened:
            expected = [e for e in listed(run, **query) if e["position"] > after]
            assert expected == [e for e in one.up_to(position) if e["position"] <= position], query
    assert position > start + 20
    assert sum(bool(one.events) for _, _, one in opened) > len(asked) // 2


@on_each_store
def test_a_stream_has_what_other_processes_recorded(founded: Running) -> None:
    """Each process follows the store, so it does not matter which one a reader is connected to."""
    with joined(founded) as other, reading(other) as there:
        start = founded.service.recorder.position
        for user in ("alice", "bob"):
            suspension_of(founded, f"user:{user}")
        violation_of(other, "user:carol")
        position = founded.service.recorder.position

        there.up_to(position)
        assert list(range(start + 1, position + 1)) == there.positions


def test_sealed_members_are_sealed_and_erased_ones_erased(founded: Running) -> None:
    """A stream shows what the list shows at that time, though it has encoded the event before."""
    sealed_about(founded)
    sealed = founded.service.recorder.position
    with reading(founded, after=0) as before, reading(founded, operator="nobody") as open_still:
        assert listed(founded) == before.up_to(sealed)
        erase(founded)
        position = founded.service.recorder.position
        before.up_to(position)
        with reading(founded, after=0) as after:
            assert listed(founded) == after.up_to(position)
        open_still.next()
    assert before.events[:sealed] != after.events[:sealed]
    assert '"erased": True' in str(after.events).replace("'", '"')


# --- who may, how many, how long ------------------------------------------------------------------


def test_a_revoked_key_ends_its_streams(founded: Running) -> None:
    """Within a second, and as an answer ends; the streams of other keys go on."""
    issued = founded.done("POST", "/v1/operators/the-auditor/keys", role="admin", json={})
    with streaming(founded.url, issued["key"]) as ending, reading(founded) as other:
        founded.done("DELETE", f"/v1/keys/{issued['id']}", role="admin")
        position = founded.service.recorder.position
        ending.to_the_end()
        assert position in [e["position"] for e in other.up_to(position)]
    answer = founded.http.get(ENDLESS, headers={"Authorization": f"Bearer {issued['key']}"})
    assert 401 == answer.status_code


def test_no_more_streams_are_open_than_may_be(
    founded: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more is told when to come again; when another has gone, there is room."""
    monkeypatch.setattr(live, "STREAMS_MAX", 2)
    with reading(founded) as first:
        with reading(founded):
            answer = founded("GET", ENDLESS, role="auditor")
            assert (503, "too_many_streams") == (answer.status_code, answer.json()["code"])
            assert "5" == answer.headers["retry-after"]
            assert "ledger_open_streams 2.0" in founded("GET", "/metrics", role="auditor").text
        until(lambda: "ledger_open_streams 1.0" in founded("GET", "/metrics", role="auditor").text)
        with reading(founded) as second:
            violation_of(founded, "user:alice")
            for one in (first, second):
                assert one.up_to(founded.service.recorder.position)
    until(lambda: "ledger_open_streams 0.0" in founded("GET", "/metrics", role="auditor").text)


def test_a_reader_that_does_not_read_is_cut_off_and_can_come_back(
    founded: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for it: others have every event, and so has it once it resumes."""
    monkeypatch.setattr(live, "STALL_S", 0.3)
    parts = urlsplit(founded.url)
    assert parts.hostname is not None
    start = founded.service.recorder.position
    with socket.socket() as slow, reading(founded) as quick:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        slow.connect((parts.hostname, parts.port))
        head = f"GET {ENDLESS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
        slow.sendall(f"{head}{founded.keys['auditor']}\r\n\r\n".encode())
        assert slow.recv(12) == b"HTTP/1.1 200"
        for number in range(150):
            violation_of(founded, f"user:u{number}", summary=LONG)
            quick.up_to(founded.service.recorder.position)
        position = founded.service.recorder.position
        assert list(range(start + 1, position + 1)) == [
            e["position"] for e in quick.up_to(position)
        ]
        metrics = "ledger_streams_cut_total 1.0"
        until(lambda: metrics in founded("GET", "/metrics", role="auditor").text)
        received = read_until_cut(slow)

    seen = [int(line[4:]) for line in received.split(b"\n") if line.startswith(b"id: ")]
    complete = [number for number in seen if b"id: %d\n" % (number + 1) in received]
    with reading(founded, last_id=str(complete[-1])) as resumed:
        resumed.up_to(position)
    assert list(range(complete[-1] + 1, position + 1)) == resumed.positions
    assert complete[-1] < position


def read_until_cut(connection: socket.socket) -> bytes:
    """Read what a connection holds; that it was cut off is an error or an end, both are right."""
    received = b""
    connection.settimeout(20)
    try:
        while data := connection.recv(65_536):
            received += data
    except ConnectionResetError:
        pass
    return received


def test_another_route_can_stream_to_whoever_it_lets_in(shared: Running) -> None:
    """A page with a session uses the same streams, and says itself when the session is over."""
    over = threading.Event()

    def require_session() -> None:
        if over.is_set():
            raise NotAllowed("the session is over")

    async def tail(request: Request) -> Response:
        return await stream_events(
            request, event_filter({}), after=0, require_allowed=require_session
        )

    front = create_app(shared.service)
    front.api.router.routes.append(LedgerRoute("/tail", tail))
    with serving(shared.service, app=front) as url, streaming(url, "none", path="/tail") as one:
        one.up_to(shared.service.recorder.position)
        over.set()
        assert listed(shared) == one.to_the_end()


# --- the end of a process -------------------------------------------------------------------------


def test_a_reader_has_every_event_once_across_a_restart(
    settings: Settings, clock: SetClock
) -> None:
    """Its stream ends as an answer should, and it goes on with the process that comes next."""
    got: list[Mapping[str, Any]] = []
    told: list[str] = []
    service = build(settings, clock=clock)
    keys = open_ledger(service)
    first = service.recorder.position
    with ExitStack() as stack:
        with serving(service) as url:
            events = from_service(
                url, keys["auditor"], {}, since=0, tell=told.append, pause=threading.Event().wait
            )
            bystander = stack.enter_context(streaming(url, keys["auditor"]))
            got += [next(events) for _ in range(first)]
            service.ledger.enroll("before", role=Role.AUDITOR, by=SYSTEM_AUTHOR)
            got.append(next(events))
        assert [first + 1] == [e["position"] for e in bystander.to_the_end()]
    port = urlsplit(url).port
    assert port is not None
    service = build(settings, clock=clock)
    service.ledger.enroll("between", role=Role.AUDITOR, by=SYSTEM_AUTHOR)
    with serving(service, port=port):
        got.append(next(events))
        service.ledger.enroll("after", role=Role.AUDITOR, by=SYSTEM_AUTHOR)
        got.append(next(events))
        del events
        check_ledger(service)
    assert list(range(1, first + 4)) == [event["position"] for event in got]
