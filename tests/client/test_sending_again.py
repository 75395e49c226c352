"""What is lost between client and ledger is sent again, and recorded once."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import httpx
import pytest

from ledger.client import (
    AsyncClient,
    Client,
    NoAnswer,
    NotFound,
    Refused,
    TooManyRequests,
    Unavailable,
    UnexpectedAnswer,
)
from ledger.client.clients import FIRST_PAUSE_S, PAUSE_MAX_S, RETRIES_DEFAULT, RETRY_AFTER_MAX_S
from tests.client.conftest import Harmful
from tests.service.conftest import Running


def recorded(shared: Running, subject: str) -> int:
    """How many events there are about a subject."""
    answer = shared.done("GET", f"/v1/events?subject={subject}", role="auditor")
    return len(answer["items"])


def test_a_command_whose_answer_was_lost_is_recorded_once(
    shared: Running, harmful: Harmful
) -> None:
    """The connection is cut after the write: the same key gets the first answer."""
    harmful.harms = ["cut", "refuse", 503, "cut"]
    slept: list[float] = []
    with Client(harmful.url, shared.keys["officer"], sleep=slept.append) as officer:
        done = officer.register("user:cut", {"plan": "team"})

    assert (1, RETRIES_DEFAULT) == (recorded(shared, "user:cut"), len(slept))
    assert 5 == len(harmful.keys())
    assert {harmful.keys()[0]} == set(harmful.keys())
    assert done.position == officer.position
    assert [7.0] == [pause for pause in slept if pause >= FIRST_PAUSE_S * 8]
    for number, pause in enumerate(slept):
        assert pause == 7.0 or FIRST_PAUSE_S * 2**number / 2 <= pause <= FIRST_PAUSE_S * 2**number


def test_awaiting_is_the_same(shared: Running, harmful: Harmful) -> None:
    """What holds for one client holds for the other."""
    harmful.harms = ["cut", 429]
    slept: list[float] = []

    async def pause(seconds: float) -> None:
        slept.append(seconds)

    async def register() -> int:
        async with AsyncClient(harmful.url, shared.keys["officer"], sleep=pause) as officer:
            done = await officer.once("mine").acting_for("user:jane").register("user:async")
            assert "user:jane" == done.event.on_behalf_of
            assert officer.position == done.position
            known = await officer.record("user:async")
            return known.position

    assert recorded(shared, "user:async") == 0
    assert asyncio.run(register()) >= 1
    assert 1 == recorded(shared, "user:async")
    assert ["mine", "mine", "mine", None] == harmful.keys()
    assert 7.0 == slept[1]


def test_a_batch_whose_answers_were_lost_is_recorded_once(
    shared: Running, harmful: Harmful
) -> None:
    """Each line has a key, its own or one that it was given, and keeps it."""
    lines = [
        {
            "method": "POST",
            "path": "/v1/warnings",
            "body": {"subject": {"type": "user", "id": "lost"}, "reason": f"Number {number}."},
            **({"idempotency_key": "line-1"} if number == 1 else {}),
        }
        for number in range(3)
    ]
    harmful.harms = ["cut", "refuse"]
    with Client(harmful.url, shared.keys["officer"], sleep=lambda _: None) as officer:
        answered = list(officer.batch(lines))

    assert [201, 201, 201] == [each.status for each in answered]
    assert (3, 3) == (recorded(shared, "user:lost"), len(harmful.seen))
    assert officer.position == answered[-1].position


def test_every_command_has_a_key_of_its_own(shared: Running, harmful: Harmful) -> None:
    """Two commands are two, though they say the same; one of the caller's keys makes them one."""
    with Client(harmful.url, shared.keys["officer"]) as officer:
        officer.warn("user:twice", reason="Mind the policy.")
        officer.warn("user:twice", reason="Mind the policy.")
        assert 2 == recorded(shared, "user:twice")

        first = officer.once("k1").as_request("r-1").warn("user:twice", reason="Third.")
        again = officer.once("k1").warn("user:twice", reason="Third.")
        with pytest.raises(Refused) as error:
            officer.once("k1").warn("user:twice", reason="Another.")

    assert first == again
    assert "r-1" == first.event.request_id
    assert 3 == recorded(shared, "user:twice")
    assert ("idempotency_key_reused", "k1") == (error.value.code, error.value.idempotency_key)
    assert 5 == len(harmful.seen)
    assert 3 == len(set(harmful.keys()))


def test_reads_follow_what_the_client_has_written(shared: Running, harmful: Harmful) -> None:
    """After a command, reads and checks name its position; another client can be told of it."""
    with Client(harmful.url, shared.keys["officer"]) as officer:
        officer.record("user:chain")
        done = officer.register("user:chain")
        assert officer.record("user:chain").position >= done.position
    with Client(harmful.url, shared.keys["service"], min_position=officer.position) as service:
        service.evaluate("user:chain", "use", "model:mini-2")
        service.ready()

    named = [headers.get("ledger-min-position") for _, _, headers in harmful.seen]
    assert [None, None, str(done.position), str(done.position), None] == named
    with Client(shared.url, shared.keys["auditor"], retries=0) as auditor:
        auditor.at_least(10**6)
        with pytest.raises(Unavailable) as error:
            auditor.record("user:chain")
    assert ("behind", 1.0) == (error.value.code, error.value.retry_after_s)


def test_tries_end(shared: Running, harmful: Harmful) -> None:
    """After the last try the caller is told, with the key under which it can go on."""
    harmful.harms = ["cut", "refuse", "cut"]
    with Client(harmful.url, shared.keys["officer"], retries=2, sleep=lambda _: None) as officer:
        with pytest.raises(NoAnswer) as error:
            officer.register("user:ends")
        assert error.value.idempotency_key == harmful.keys()[0]
        assert error.value.idempotency_key is not None
        again = officer.once(error.value.idempotency_key).register("user:ends")

    assert 1 == recorded(shared, "user:ends")
    assert 4 == len(harmful.seen)
    assert again.event.operator == "the-officer"


def test_a_refusal_is_not_sent_again(shared: Running, harmful: Harmful) -> None:
    """What would be refused again is asked once."""
    with Client(harmful.url, shared.keys["auditor"], sleep=no_sleep) as auditor:
        with pytest.raises(NotFound):
            auditor.suspension("sus_none")
        harmful.harms = [500]
        with pytest.raises(UnexpectedAnswer, match="not by a ledger"):
            auditor.suspension("sus_none")
    assert 2 == len(harmful.seen)
    with Client("ftp://127.0.0.1", "k", sleep=no_sleep) as wrong, pytest.raises(NoAnswer):
        wrong.ready()


def no_sleep(seconds: float) -> None:
    """Fail: nobody should wait here."""
    raise AssertionError(f"slept for {seconds} s")


def answering(*answers: httpx.Response) -> httpx.MockTransport:
    """A transport that gives these answers, one after the other."""
    left = list(answers)
    return httpx.MockTransport(lambda _: left.pop(0))


@pytest.mark.parametrize(
    ("retry_after", "slept"),
    [
        (f"{RETRY_AFTER_MAX_S:.0f}", [RETRY_AFTER_MAX_S]),
        (f"{RETRY_AFTER_MAX_S + 1:.0f}", []),
    ],
)
def test_a_long_wait_is_the_callers_to_decide_on(retry_after: str, slept: list[float]) -> None:
    """A minute is waited for; what is longer is told to the caller at once."""
    problem: dict[str, Any] = {"status": 429, "code": "too_many_requests"}
    headers = {"Retry-After": retry_after, "Content-Type": "application/problem+json"}
    busy = httpx.Response(429, json=problem, headers=headers)
    pauses: list[float] = []
    transport = answering(busy, httpx.Response(200, text="note"))
    with Client("http://ledger", "k", sleep=pauses.append, transport=transport) as client:
        if slept:
            assert "note" == client.checkpoint()
        else:
            with pytest.raises(TooManyRequests) as error:
                client.checkpoint()
            assert float(retry_after) == error.value.retry_after_s

    assert slept == pauses


def test_pauses_grow_up_to_a_limit() -> None:
    """However many tries are allowed, no pause is longer than the longest."""
    pauses: list[float] = []
    busy = [httpx.Response(502) for _ in range(13)]
    with (
        Client(
            "http://ledger", "k", retries=12, sleep=pauses.append, transport=answering(*busy)
        ) as client,
        pytest.raises(UnexpectedAnswer),
    ):
        client.checkpoint()

    assert 12 == len(pauses)
    assert all(PAUSE_MAX_S / 2 <= pause <= PAUSE_MAX_S for pause in pauses[6:])
    assert pauses[0] <= FIRST_PAUSE_S


def test_an_answer_of_another_form_is_said_to_be_one() -> None:
    """A newer ledger's members are kept; what lacks a member is not passed off as an answer."""
    ready: dict[str, Any] = {
        "status": "ready",
        "position": 1,
        "lag": 0,
        "restricted_subjects": 0,
        "clock_behind_s": 0.0,
        "log": "verified",
        "checkpoint": 1,
        "decisions_dropped": 0,
        "vault_keys_lost": 0,
        "witnesses": [],
        "mood": "good",
    }
    answers = answering(httpx.Response(200, json=ready), httpx.Response(200, json={}))
    with Client("http://ledger", "k", transport=answers) as client:
        assert ready == client.ready().as_json()
        with pytest.raises(UnexpectedAnswer, match="use the client of the ledger's version"):
            client.ready()


def test_nobody_listening_is_no_answer() -> None:
    """A ledger that is down for good is tried as often as allowed."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    pauses: list[float] = []
    with (
        Client(f"http://127.0.0.1:{port}", "k", sleep=pauses.append) as client,
        pytest.raises(NoAnswer, match="see that the ledger runs"),
    ):
        client.ready()
    assert RETRIES_DEFAULT == len(pauses)
