"""Many commands in one request: each line is judged and answered by itself, in order."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Sequence
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
from hypothesis import example, given
from hypothesis import strategies as st

from ledger.service.http.batch import BATCH_LINE_BYTES_MAX, BATCH_LINES_MAX, MEDIA_TYPE
from ledger.service.http.route import fingerprint
from ledger.service.writer import COMMANDS_TOGETHER_MAX
from tests.service.conftest import Running

ACME = {"type": "organization", "id": "acme"}


def register(user: str, **more: object) -> dict[str, object]:
    """A line that makes a user known, under a key of its own."""
    body = {"subject": {"type": "user", "id": user}}
    return {"method": "PUT", "path": "/v1/subjects", "idempotency_key": user, "body": body, **more}


def link(user: str) -> dict[str, object]:
    """A line that is refused when it is given twice."""
    body = {"subject": {"type": "user", "id": user}, "parent": ACME}
    return {"method": "POST", "path": "/v1/links", "body": body}


def send(
    running: Running, *lines: object, role: str = "officer", **headers: str
) -> list[dict[str, Any]]:
    """Send lines, objects or raw texts; return the answers."""
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    response = post(running, "\n".join(texts), role=role, **headers)
    assert response.status_code == 200, response.text
    return answers_in(response.text)


def post(running: Running, body: str, *, role: str = "officer", **headers: str) -> httpx.Response:
    """Send a body as it is."""
    all_headers = {"Content-Type": MEDIA_TYPE, **headers}
    return running("POST", "/v1/batch", role=role, content=body, headers=all_headers)


def answers_in(text: str) -> list[dict[str, Any]]:
    """Read the answers."""
    return [json.loads(line) for line in text.splitlines()]


def statuses(answers: Sequence[dict[str, Any]]) -> list[int]:
    """Only how each line was answered."""
    return [answer["status"] for answer in answers]


def test_each_line_is_answered_as_its_own_request_would_be(running: Running) -> None:
    """Position, id, leaf and event are those that the route answers with."""
    (answer,) = send(running, register("alice"))

    event = running.done("GET", f"/v1/events/{answer['position']}", role="auditor")
    assert event["data"] == answer["event"]["data"]
    assert (1, 201, "user:alice") == (answer["line"], answer["status"], answer["id"])
    assert "leaf_hash" in answer


def test_a_refused_line_neither_holds_up_nor_undoes_the_others(running: Running) -> None:
    """Whatever is wrong with a line is its own affair."""
    answers = send(
        running,
        link("alice"),
        link("alice"),
        "{",
        {"method": "POST", "path": "/v1/links"},
        {"method": "GET", "path": "/v1/events"},
        {"method": "PUT", "path": "/v1/groups/x", "body": {"resources": []}},
        {"method": "PUT", "path": "/v1/subjects", "body": {}, "more": 1},
        register("x" * 300),
        register("bad-key", idempotency_key=""),
        {"method": "POST", "path": "/v1/suspensions/%ff/cancellation", "body": {"reason": "x"}},
        {"method": "POST", "path": "/v1/suspensions/sus_1/cancellation", "body": {"reason": "x"}},
        link("bob"),
    )

    assert [201, 409, 400, 422, 404, 403, 422, 422, 422, 400, 404, 201] == statuses(answers)
    assert "no_such_command" == answers[4]["problem"]["code"]
    assert answers[0]["position"] + 1 == answers[-1]["position"]
    assert list(range(1, 13)) == [answer["line"] for answer in answers]


def test_every_line_of_many_groups_has_its_own_answer(running: Running) -> None:
    """Refused lines stand between those that are recorded, in groups of several transactions."""
    count = 2 * COMMANDS_TOGETHER_MAX + 50
    refused = {"method": "POST", "path": "/v1/links", "body": {"subject": ACME, "parent": ACME}}
    texts = [
        refused if n % 7 == 0 else "{" if n % 11 == 0 else register(f"u{n}") for n in range(count)
    ]

    answers = send(running, *texts)

    expected = [422 if n % 7 == 0 else 400 if n % 11 == 0 else 201 for n in range(count)]
    assert expected == statuses(answers)
    assert list(range(1, count + 1)) == [answer["line"] for answer in answers]
    recorded = [answer for answer in answers if answer["status"] == 201]
    first = recorded[0]["position"]
    assert list(range(first, first + len(recorded))) == [each["position"] for each in recorded]
    assert [f"user:u{n}" for n in range(count) if expected[n] == 201] == [
        each["id"] for each in recorded
    ]


def test_a_later_line_builds_on_an_earlier_one(running: Running) -> None:
    """Lines take their turn in their order."""
    unlink = {**link("alice"), "method": "DELETE"}

    answers = send(running, link("alice"), unlink, link("alice"), unlink)

    assert [201] * 4 == statuses(answers)


def test_lines_are_committed_together(running: Running) -> None:
    """Lines that come together share a commit, and no commit takes more than its limit."""
    seen: list[int] = []
    follow = running.service.recorder.committed

    def committed(recorded: Any) -> None:
        seen.append(len(recorded))
        follow(recorded)

    running.service.recorder.committed = committed
    count = 3 * COMMANDS_TOGETHER_MAX

    answers = send(running, *(register(f"u{n}") for n in range(count)))

    assert [201] * count == statuses(answers)
    assert count == sum(seen)
    assert COMMANDS_TOGETHER_MAX >= max(seen)
    assert len(seen) < count / 4


def test_the_same_batch_again_gives_the_same_answers(running: Running) -> None:
    """Idempotency keys of lines are those of requests: nothing is recorded twice."""
    lines = [register(f"u{n}") for n in range(5)]
    first = send(running, *lines)
    head = running.service.recorder.position

    again = send(running, *lines)

    assert first == again
    assert head == running.service.recorder.position
    alone = running.done(
        "PUT",
        "/v1/subjects",
        role="officer",
        json=lines[0]["body"],
        headers={"Idempotency-Key": "u0"},
    )
    assert first[0]["position"] == alone["position"]


def test_a_short_answer_leaves_out_the_event(running: Running) -> None:
    """Prefer: return=minimal is for imports, which do not read what they sent."""
    (answer,) = send(running, register("alice"), Prefer="return=minimal")

    assert {"line", "status", "position", "id"} == set(answer)


def test_a_key_is_shown_to_who_issued_it(running: Running) -> None:
    """A batch can do what single requests can, each route for its roles."""
    path = "/v1/operators/the-officer/keys"

    (answer,) = send(running, {"method": "POST", "path": path, "body": {}}, role="admin")

    assert answer["key"].startswith("clk_")


def test_a_batch_is_for_those_who_may_command_something(running: Running) -> None:
    """Who may run no command at all is refused before a line is read."""
    assert 403 == post(running, "", role="auditor").status_code
    assert 415 == running("POST", "/v1/batch", role="officer", json={}).status_code
    assert [] == send(running, "", "", "")


def test_lines_are_numbered_as_in_the_file(running: Running) -> None:
    """Empty lines count and are not answered; the last line needs no end."""
    answers = send(running, "", register("a"), "", register("b"))

    assert [2, 4] == [answer["line"] for answer in answers]


def test_a_line_may_have_so_many_bytes(running: Running) -> None:
    """One byte more is refused, and the line after it is not."""
    line = json.dumps(register("alice"))
    fits = line + " " * (BATCH_LINE_BYTES_MAX - len(line))

    answers = send(running, fits, fits + " ", "x" * (3 * BATCH_LINE_BYTES_MAX), register("bob"))

    assert [201, 413, 413, 201] == statuses(answers)
    assert [1, 2, 3, 4] == [answer["line"] for answer in answers]


def test_a_batch_may_have_so_many_lines(running: Running) -> None:
    """The line after the last is refused, and nothing behind it is read."""
    last = json.dumps(register("last"))
    full = "\n" * (BATCH_LINES_MAX - 1) + last + "\n"

    fits = answers_in(post(running, full).text)
    longer = answers_in(post(running, full + last + "\n" + last).text)

    assert [201] == statuses(fits)
    assert [201, 413] == statuses(longer)
    assert "batch_too_long" == longer[1]["problem"]["code"]


def test_answers_come_while_lines_are_still_sent(running: Running) -> None:
    """A sender may wait for the answer to a line before it sends the next."""
    with Talking(running) as talking:
        talking.say(register("alice"))
        first = talking.hear()
        talking.say(register("bob"))
        second = talking.hear()

    assert [(1, 201), (2, 201)] == [(each["line"], each["status"]) for each in (first, second)]


def test_what_was_answered_stays_when_the_sender_goes_away(running: Running) -> None:
    """Half a line is not run; what was committed is there, and sent again it is repeated."""
    with Talking(running) as talking:
        talking.say(register("alice"))
        first = talking.hear()
        talking.chunk(json.dumps(register("bob")).encode())
    head = running.service.recorder.position

    (again,) = send(running, register("alice"))

    assert first["position"] == again["position"] == head


def test_a_key_revoked_meanwhile_ends_nothing_but_is_refused(running: Running) -> None:
    """Each line is authenticated when its turn to be read comes."""
    issued = running.done("POST", "/v1/operators/the-officer/keys", role="admin", json={})
    running.keys["second"] = issued["key"]
    with Talking(running, role="second") as talking:
        talking.say(register("alice"))
        before = talking.hear()
        running.done("DELETE", f"/v1/keys/{issued['id']}", role="admin")
        talking.say(register("bob"))
        after = talking.hear()

    assert [201, 401] == [before["status"], after["status"]]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e15, 1e15) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), JSON, max_size=5))
@example({"a": "\x7f", "b": 1e16, "c": "\ud800", "é": '\x00\x1f"\\/', "d": [1.0, -0.0, 1e-7]})
@example({"a": "x", "b": [-5, True, None]})
def test_a_fingerprint_covers_a_body_as_the_standard_library_writes_it(
    body: dict[str, object],
) -> None:
    """However it is written faster: a fingerprint that was recorded once counts for ever."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))

    expected = hashlib.sha256(f"PUT /v1/subjects\n{text}".encode()).hexdigest()

    assert expected == fingerprint("PUT", "/v1/subjects", body)


class Talking:
    """A sender that takes answers while it sends, on a socket of its own."""

    def __init__(self, running: Running, *, role: str = "officer") -> None:
        address = urlsplit(running.url)
        assert address.hostname is not None
        assert address.port is not None
        self._socket = socket.create_connection((address.hostname, address.port), timeout=30)
        self._socket.sendall(
            b"POST /v1/batch HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n"
            + f"Content-Type: {MEDIA_TYPE}\r\n".encode()
            + f"Authorization: Bearer {running.keys[role]}\r\n\r\n".encode()
        )
        self._file = self._socket.makefile("rb")
        self._begun = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def say(self, line: object) -> None:
        """Send a line."""
        self.chunk(json.dumps(line).encode() + b"\n")

    def chunk(self, data: bytes) -> None:
        """Send bytes as a chunk of the body."""
        self._socket.sendall(b"%x\r\n%b\r\n" % (len(data), data))

    def hear(self) -> dict[str, Any]:
        """Take the answer to one line."""
        while not self._begun:
            self._begun = self._file.readline() == b"\r\n"
        size = int(self._file.readline(), 16)
        answer: dict[str, Any] = json.loads(self._file.read(size))
        self._file.readline()
        return answer
