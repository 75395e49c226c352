"""Commands: what they answer, what they record about who asked, and that each is done once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import httpx
import pytest

from ledger.tlog.leaf import hash_of
from ledger.tlog.note import encode_base64
from tests.service.conftest import POLICY, Running, joined, suspension_of, violation_of

EVENT_MEMBERS: Final = {
    "position",
    "type",
    "schema",
    "stream",
    "version",
    "recorded_at",
    "operator",
    "on_behalf_of",
    "request_id",
    "caused_by",
    "data",
    "sentence",
}
ALICE: Final = {"type": "user", "id": "alice"}
NORTHWIND: Final = {"type": "organization", "id": "northwind"}
ATLAS: Final = {"type": "model", "id": "atlas-3"}
VIOLATION: Final = {
    "subject": ALICE,
    "policy": "aup@1",
    "clause": "fraud",
    "occurred_at": "2026-11-24T10:00:00Z",
    "detected_by": "automated",
    "summary": "Phishing texts in the name of a bank.",
}


def every_command(run: Running) -> Iterator[tuple[str, str, str, dict[str, Any] | None, str]]:
    """Yield method, path, role, body and event type of each command, in an order that fits.

    Whatever a command needs is recorded just before it is yielded.
    """
    yield (
        "PUT",
        "/v1/subjects",
        "officer",
        {"subject": ALICE, "properties": {"plan": "team"}},
        "subject.registered",
    )
    link = {"subject": ALICE, "parent": NORTHWIND}
    yield "POST", "/v1/links", "officer", link, "subject.linked"
    yield "DELETE", "/v1/links", "officer", link, "subject.unlinked"
    yield "POST", "/v1/violations", "reporter", VIOLATION, "violation.recorded"
    reason = {"reason": "It was looked at twice."}
    path = f"/v1/violations/{violation_of(run, 'user:alice')}/overturn"
    yield "POST", path, "approver", reason, "violation.overturned"
    ground = violation_of(run, "user:alice")
    warning = {"subject": ALICE, "grounds": [ground], **reason}
    yield "POST", "/v1/warnings", "officer", warning, "warning.issued"
    suspension = {
        "subject": ALICE,
        "scope": {"resources": [{"group": "frontier"}, ATLAS, {"type": "model"}]},
        "duration": "P2M",
        "grounds": [ground],
        **reason,
    }
    yield "POST", "/v1/suspensions", "officer", suspension, "subject.suspended"
    path = f"/v1/suspensions/{suspension_of(run, 'user:alice')}/revision"
    yield "POST", path, "officer", {"duration": "P3M", **reason}, "suspension.revised"
    later = suspension_of(run, "user:alice", effective_at="2027-01-01T00:00:00Z")
    path = f"/v1/suspensions/{later}/cancellation"
    yield "POST", path, "officer", reason, "suspension.cancelled"
    early = {"suspension": suspension_of(run, "user:alice"), "cause": "early", **reason}
    yield "POST", "/v1/reinstatements", "approver", early, "subject.reinstated"
    yield "PUT", "/v1/policies/privacy", "admin", POLICY, "policy.published"
    listing = {"resource": {"type": "model", "id": "nova-1"}, "actions": ["use", "fine-tune"]}
    yield "PUT", "/v1/resources", "admin", listing, "resource.listed"
    yield "PUT", "/v1/groups/preview", "admin", {"resources": [ATLAS]}, "group.defined"
    tool = {"id": "mod-tool", "role": "officer"}
    yield "POST", "/v1/operators", "admin", tool, "operator.enrolled"
    path = "/v1/operators/the-officer/keys"
    yield "POST", path, "admin", {"label": "production"}, "operator.key_issued"
    key = run.done("POST", path, role="admin", json={})["id"]
    yield "DELETE", f"/v1/keys/{key}", "admin", None, "operator.key_revoked"


def send(run: Running, method: str, path: str, role: str, body: Any, **more: Any) -> httpx.Response:
    """Send a command, with a body where it has one."""
    if body is not None:
        more["json"] = body
    return run(method, path, role=role, **more)


def at_once(count: int, act: Callable[[int], httpx.Response]) -> list[httpx.Response]:
    """Do something in as many threads, all let go at the same instant."""
    gate = threading.Barrier(count)

    def wait_and_act(number: int) -> httpx.Response:
        gate.wait(timeout=30)
        return act(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(wait_and_act, range(count)))


def leaf_of(run: Running, position: int) -> str:
    """Compute the leaf hash of an event from its row."""
    with run.service.reading() as (c, _):
        (row,) = run.service.log.rows(c, position - 1, 1)
    return encode_base64(hash_of(row))


# --- what a command answers -----------------------------------------------------------------------


def test_every_command_answers_with_its_event_and_does_it_once(founded: Running) -> None:
    """201, position, id and the whole event; the same again with the same key, and one event."""
    seen = set()
    for number, (method, path, role, body, type_) in enumerate(every_command(founded)):
        before = founded.service.recorder.position
        headers = {"Idempotency-Key": f"command-{number}", "X-Request-ID": f"request-{number}"}

        first = send(founded, method, path, role, body, headers=headers)
        again = send(founded, method, path, role, body, headers=headers)

        answer = first.json()
        event = answer["event"]
        assert 201 == first.status_code, first.text
        assert "application/json" == first.headers["content-type"]
        assert {"position", "id", "leaf_hash", "event"} == set(answer) - {"key"}
        assert leaf_of(founded, answer["position"]) == answer["leaf_hash"]
        assert ("key" in answer) == (type_ == "operator.key_issued")
        assert EVENT_MEMBERS == set(event)
        assert (type_, f"the-{role}") == (event["type"], event["operator"])
        assert f"request-{number}" == event["request_id"] == first.headers["x-request-id"]
        assert (None, None) == (event["on_behalf_of"], event["caused_by"])
        assert event["sentence"].startswith(f"the-{role} ")
        assert before + 1 == answer["position"] == event["position"]
        assert str(answer["position"]) == first.headers["ledger-position"]
        shown = founded.done("GET", f"/v1/events/{answer['position']}", role="auditor")
        assert shown == event
        answer.pop("key", None)
        assert (201, answer) == (again.status_code, again.json())
        assert first.headers["ledger-position"] == again.headers["ledger-position"]
        assert before + 1 == founded.service.recorder.position
        seen.add((method, path, type_))
    assert 16 == len(seen)


def test_no_command_of_the_document_is_left_out(founded: Running) -> None:
    """A command that is added without a line in the list above fails here."""
    document = founded("GET", "/openapi.json").json()
    commands = {
        (method.upper(), path)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if "201" in operation["responses"]
    }
    tried = {
        (method, template)
        for method, path, *_ in every_command(founded)
        for _, template in commands
        if len(template.split("/")) == len(path.split("/"))
        and all(t in (p, "{id}") for t, p in zip(template.split("/"), path.split("/"), strict=True))
    }

    assert commands == tried


@pytest.mark.parametrize(
    ("path", "body", "id_"),
    [
        ("/v1/subjects", {"subject": ALICE}, "user:alice"),
        ("/v1/policies/privacy", POLICY, "privacy@1"),
        ("/v1/resources", {"resource": {"type": "model", "id": "nova-1"}}, "model:nova-1"),
        ("/v1/groups/preview", {"resources": [ATLAS]}, "preview"),
    ],
)
def test_a_put_that_changes_nothing_records_nothing(
    founded: Running, path: str, body: dict[str, Any], id_: str
) -> None:
    """200 with the fact that holds already; only what changes something is recorded."""
    role = "officer" if path == "/v1/subjects" else "admin"
    first = founded("PUT", path, role=role, json=body)
    position = founded.service.recorder.position

    again = founded("PUT", path, role=role, json=body)

    assert (201, 200) == (first.status_code, again.status_code)
    assert first.json() == again.json()
    assert id_ == again.json()["id"]
    assert str(position) == again.headers["ledger-position"]
    assert position == founded.service.recorder.position


def test_what_is_the_same_in_another_order_changes_nothing(founded: Running) -> None:
    """Members of a group and properties are sets: their order is no change; a value is one."""
    members = [{"type": "model", "id": id_} for id_ in ("cipher-2", "atlas-3", "atlas-3-vision")]
    properties = {"plan": "team", "region": "eu"}
    subject = {"subject": ALICE, "properties": properties}
    founded.done("PUT", "/v1/subjects", role="officer", json=subject)
    position = founded.service.recorder.position
    turned = {"subject": ALICE, "properties": dict(reversed(properties.items()))}

    answers = [
        founded("PUT", "/v1/groups/frontier", role="admin", json={"resources": members}),
        founded("PUT", "/v1/subjects", role="officer", json=turned),
        founded("POST", "/v1/operators", role="admin", json={"id": "the-admin", "role": "admin"}),
    ]

    assert [200, 200, 200] == [answer.status_code for answer in answers]
    assert position == founded.service.recorder.position
    turned["properties"] = {**properties, "plan": "enterprise"}
    assert 201 == founded("PUT", "/v1/subjects", role="officer", json=turned).status_code


def test_a_policy_that_changes_becomes_the_next_version(founded: Running) -> None:
    """PUT of other words publishes version n+1; the versions before stay as they were."""
    changed = {**POLICY, "title": "Acceptable use, second edition"}

    second = founded.done("PUT", "/v1/policies/aup", role="admin", json=changed)

    assert "aup@2" == second["id"]
    policy = founded.done("GET", "/v1/policies/aup", role="service")
    assert 2 == policy["version"]
    assert [POLICY["title"], changed["title"]] == [v["title"] for v in policy["versions"]]


def test_overturning_names_itself_as_the_cause_of_what_follows(founded: Running) -> None:
    """The reinstatement that an overturned violation leads to is one more event, with its cause."""
    violation = violation_of(founded, "user:alice")
    suspension = suspension_of(founded, "user:alice", grounds=[violation])

    overturned = founded.done(
        "POST", f"/v1/violations/{violation}/overturn", role="approver", json={"reason": "Wrong."}
    )

    position = overturned["position"]
    assert "violation.overturned" == overturned["event"]["type"]
    followed = founded.done("GET", f"/v1/events/{position + 1}", role="auditor")
    assert ("subject.reinstated", position) == (followed["type"], followed["caused_by"])
    assert suspension == followed["data"]["suspension"]
    assert "violation_overturned" == followed["data"]["cause"]
    assert founded.allowed("user:alice", "atlas-3")


# --- who asked ------------------------------------------------------------------------------------


def test_a_request_without_an_id_gets_one_that_is_recorded(shared: Running) -> None:
    """The answer names the id under which the event can be found; two requests never share one."""
    answers = [shared("POST", "/v1/violations", role="reporter", json=VIOLATION) for _ in range(2)]

    ids = [answer.headers["x-request-id"] for answer in answers]
    assert ids == [answer.json()["event"]["request_id"] for answer in answers]
    assert 2 == len(set(ids))


@pytest.mark.parametrize("request_id", ["6f1d", "a b", '"quoted"', "~" * 256])
def test_the_request_id_is_echoed_and_recorded(shared: Running, request_id: str) -> None:
    """Any printable ASCII of up to 256 characters is taken as it is."""
    headers = {"X-Request-ID": request_id}

    answer = shared("POST", "/v1/violations", role="reporter", json=VIOLATION, headers=headers)

    assert request_id == answer.headers["x-request-id"]
    assert request_id == answer.json()["event"]["request_id"]


@pytest.mark.parametrize(
    "human", ["user:jane", "user:zoë", "employee:jane.doe@example.org", "a:b:c"]
)
def test_the_human_behind_a_machine_is_recorded(shared: Running, human: str) -> None:
    """Ledger-On-Behalf-Of stands in the event, in its sentence, and can be searched for."""
    headers = {"Ledger-On-Behalf-Of": human.encode()}

    answer = shared.done("POST", "/v1/violations", role="reporter", json=VIOLATION, headers=headers)

    assert human == answer["event"]["on_behalf_of"]
    assert answer["event"]["sentence"].startswith(f"the-reporter (for {human}) ")
    query = {"on_behalf_of": human}
    found = shared.done("GET", "/v1/events", role="auditor", params=query)["items"]
    assert [answer["event"]] == found


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Ledger-On-Behalf-Of", b""),
        ("Ledger-On-Behalf-Of", b"jane"),
        ("Ledger-On-Behalf-Of", b"user:"),
        ("Ledger-On-Behalf-Of", b":jane"),
        ("Ledger-On-Behalf-Of", b"User:jane"),
        ("Ledger-On-Behalf-Of", b"user:" + b"j" * 257),
        ("Ledger-On-Behalf-Of", b"user:jan\xff"),
        ("Ledger-On-Behalf-Of", b"user:\xc0\xaf"),
        ("Ledger-On-Behalf-Of", b"user:\xed\xa0\x80"),
        ("Ledger-On-Behalf-Of", "user:zoe\u0308".encode()),
        ("Ledger-On-Behalf-Of", "user:jane\u0085".encode()),
        ("Idempotency-Key", b""),
        ("Idempotency-Key", b'""'),
        ("Idempotency-Key", b"k" * 257),
        ("Idempotency-Key", "schlüssel".encode()),
        ("X-Request-ID", b""),
        ("X-Request-ID", b"i" * 257),
        ("X-Request-ID", b"i\xff"),
        ("X-Request-ID", b"a\tb"),
    ],
)
def test_a_malformed_header_is_refused_by_name(shared: Running, header: str, value: bytes) -> None:
    """Nothing is cut, replaced or left out silently: the problem names the header at fault."""
    before = shared.service.recorder.position

    answer = shared(
        "POST", "/v1/violations", role="reporter", json=VIOLATION, headers={header: value}
    )

    problem = answer.json()
    assert (422, "invalid_request") == (answer.status_code, problem["code"])
    assert header == problem["field"] == problem["errors"][0]["header"]
    assert before == shared.service.recorder.position


# --- once -----------------------------------------------------------------------------------------


def test_two_connections_with_one_key_at_the_same_instant_record_once(founded: Running) -> None:
    """Fifty times two requests race each other; every pair gets one event and one answer."""
    before = founded.service.recorder.position
    clients = [httpx.Client(base_url=founded.url, timeout=20) for _ in range(2)]
    for round_ in range(50):
        headers = {
            "Authorization": f"Bearer {founded.keys['reporter']}",
            "Idempotency-Key": f"round-{round_}",
        }

        one, other = at_once(
            2,
            lambda number, headers=headers: clients[number].post(  # type: ignore[misc]
                "/v1/violations", json=VIOLATION, headers=headers
            ),
        )

        assert (201, 201) == (one.status_code, other.status_code)
        assert one.json() == other.json()
    for client in clients:
        client.close()

    assert before + 50 == founded.service.recorder.position


def test_fifty_requests_in_parallel_with_one_key_record_once(founded: Running) -> None:
    """One event, and fifty equal answers."""
    before = founded.service.recorder.position
    headers = {"Idempotency-Key": "fifty", "X-Request-ID": "the-same"}

    answers = at_once(
        50,
        lambda _: founded(
            "POST", "/v1/violations", role="reporter", json=VIOLATION, headers=headers
        ),
    )

    assert {201} == {answer.status_code for answer in answers}
    assert 1 == len({answer.content for answer in answers})
    assert before + 1 == founded.service.recorder.position


def test_two_processes_with_one_key_at_the_same_instant_record_once(founded: Running) -> None:
    """The key is looked up under the store's write lock, so it does not matter who is asked."""
    before = founded.service.recorder.position
    with joined(founded) as other:
        for round_ in range(10):
            headers = {"Idempotency-Key": f"round-{round_}"}

            answers = at_once(
                8,
                lambda number, headers=headers: (founded, other)[number % 2](  # type: ignore[misc]
                    "POST", "/v1/violations", role="reporter", json=VIOLATION, headers=headers
                ),
            )

            assert {201} == {answer.status_code for answer in answers}
            assert 1 == len({answer.content for answer in answers})

    assert before + 10 == founded.service.recorder.position


def test_a_key_is_remembered_by_a_service_that_starts_later(founded: Running) -> None:
    """What a key led to is in the store, not in the memory of a process."""
    headers = {"Idempotency-Key": "before the restart"}
    first = founded("POST", "/v1/violations", role="reporter", json=VIOLATION, headers=headers)

    with joined(founded) as other:
        again = other("POST", "/v1/violations", role="reporter", json=VIOLATION, headers=headers)

    assert (201, first.content) == (again.status_code, again.content)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/violations", {**VIOLATION, "summary": "Something else."}),
        ("/v1/violations", {**VIOLATION, "details": "More."}),
        ("/v1/warnings", {"subject": ALICE, "reason": "Another command."}),
    ],
)
def test_a_key_that_comes_with_another_request_is_refused(
    founded: Running, path: str, body: dict[str, Any]
) -> None:
    """The first answer stands, the other request is refused and records nothing."""
    headers = {"Idempotency-Key": "used"}
    first = founded("POST", "/v1/violations", role="officer", json=VIOLATION, headers=headers)
    before = founded.service.recorder.position

    other = founded("POST", path, role="officer", json=body, headers=headers)
    again = founded("POST", "/v1/violations", role="officer", json=VIOLATION, headers=headers)

    assert (422, "idempotency_key_reused") == (other.status_code, other.json()["code"])
    assert str(first.json()["position"]) in other.json()["detail"]
    assert first.content == again.content
    assert before == founded.service.recorder.position


def test_the_same_request_written_differently_is_the_same(founded: Running) -> None:
    """Quotes around the key, white space and the order of members make no other request."""
    plain = {"Idempotency-Key": "a-key", "Content-Type": "application/json"}
    quoted = {**plain, "Idempotency-Key": '"a-key"'}
    turned = dict(reversed(VIOLATION.items()))
    first = founded("POST", "/v1/violations", role="reporter", json=VIOLATION, headers=plain)

    again = founded("POST", "/v1/violations", role="reporter", json=turned, headers=quoted)

    assert (201, first.content) == (again.status_code, again.content)


def test_the_same_key_of_another_operator_is_another_key(founded: Running) -> None:
    """Nobody can run into, or read, what somebody else's key led to."""
    headers = {"Idempotency-Key": "1"}
    answers = [
        founded("POST", "/v1/violations", role=role, json=VIOLATION, headers=headers)
        for role in ("reporter", "officer")
    ]

    assert [201, 201] == [answer.status_code for answer in answers]
    assert answers[0].json()["id"] != answers[1].json()["id"]
    assert ["the-reporter", "the-officer"] == [a.json()["event"]["operator"] for a in answers]


def test_a_refusal_is_not_kept_under_the_key(founded: Running) -> None:
    """The same command is judged anew: what was refused may be right when it comes again."""
    headers = {"Idempotency-Key": "again"}
    link = {"subject": ALICE, "parent": NORTHWIND}
    removal: dict[str, Any] = {"json": link, "role": "officer", "headers": headers}
    refused = founded("DELETE", "/v1/links", **removal)
    founded.done("POST", "/v1/links", role="officer", json=link)

    done = founded("DELETE", "/v1/links", **removal)

    assert (409, "not_linked") == (refused.status_code, refused.json()["code"])
    assert 201 == done.status_code


def test_a_key_is_not_shown_again_when_its_issuing_is_repeated(founded: Running) -> None:
    """The repeated answer has everything but the key, which nobody keeps."""
    headers = {"Idempotency-Key": "issue"}
    path = "/v1/operators/the-officer/keys"

    first = founded.done("POST", path, role="admin", json={}, headers=headers)
    again = founded.done("POST", path, role="admin", json={}, headers=headers)

    assert first.pop("key").startswith("clk_")
    assert first == again


def test_commands_without_a_key_are_done_as_often_as_they_are_sent(founded: Running) -> None:
    """Nothing is guessed to be a repetition: two equal violations are two."""
    one, other = (violation_of(founded, "user:alice") for _ in range(2))

    assert one != other
