"""A ledger and its witnesses: what they cosign is published, and nothing else they say counts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ledger.domain.errors import InvalidValue
from ledger.service import witnesses
from ledger.service.witness import evidence
from ledger.service.witnesses import ANSWER_BYTES_MAX, read_witness_policy
from ledger.tlog.checkpoint import parse_checkpoint
from ledger.tlog.note import (
    KeyType,
    Note,
    Signer,
    VerifierKey,
    cosign,
    format_signatures,
    parse_note,
    verify_note,
)
from ledger.tlog.witness_protocol import SIZE_CONTENT_TYPE, parse_add_checkpoint
from tests.checks import check_ledger
from tests.conftest import SetClock
from tests.service.conftest import Running, until
from tests.service.witnessing import (
    COSIGNED_AT_S,
    founded_in,
    over_http,
    policy_of,
    published,
    standing,
    witness_of,
)
from tests.serving import suspended

LIAR = Signer("liar.example/w", bytes(range(32, 64)), KeyType.COSIGNATURE)
NOBODY = "http://127.0.0.1:1"


def write(run: Running, user: str) -> int:
    """Record one more fact; return its position."""
    answer = run.done("POST", "/v1/suspensions", role="officer", json=suspended(user))
    return int(answer["position"])


def published_size(run: Running) -> int:
    """Return the size of the checkpoint that others may see; 0 when there is none."""
    note = published(run)
    return parse_checkpoint(parse_note(note).text).size if note else 0


def cosigners(run: Running, *keys: VerifierKey) -> set[str]:
    """Return the names of those of these keys that cosigned what is published."""
    note = published(run)
    assert note is not None
    return {each.key.name for each in verify_note(parse_note(note), keys)}


def test_a_witness_of_ours_cosigns_a_running_ledger(tmp_path: Path, clock: SetClock) -> None:
    """Every checkpoint comes to the witness, and its cosignature is published with it."""
    founded = founded_in(tmp_path / "ledger", clock)
    with witness_of(tmp_path / "w", founded.log_key) as witness:
        policy = policy_of(tmp_path / "policy", {"w": (witness.key, witness.url)}, "all")
        with founded.serving(policy) as run:
            for user in ("alice", "bob"):
                position = write(run, user)
                until(lambda size=position: published_size(run) >= size)  # type: ignore[misc]

            assert {witness.key.name} == cosigners(run, witness.key)
            expected = {
                "name": "w",
                "state": "cosigning",
                "detail": None,
                "cosigned_size": position,
                "behind": 0,
            }
            assert expected == standing(run, "w")
            assert [] == evidence(witness.folder)
            check_ledger(run.service)


def test_without_witnesses_the_newest_checkpoint_is_published(
    tmp_path: Path, clock: SetClock
) -> None:
    """A ledger that names nobody waits for nobody."""
    with founded_in(tmp_path, clock).serving() as run:
        position = write(run, "alice")

        until(lambda: published_size(run) == position)
        assert [] == run.done("GET", "/readyz", role="auditor")["witnesses"]
        check_ledger(run.service)


def test_a_quorum_that_is_not_met_keeps_the_last_one_that_was(
    tmp_path: Path, clock: SetClock
) -> None:
    """With one of two away, writes go on and the old checkpoint stays; back, it catches up."""
    founded = founded_in(tmp_path / "ledger", clock)
    policy = tmp_path / "policy"
    with witness_of(tmp_path / "a", founded.log_key, name="a.example/w") as a:
        with witness_of(tmp_path / "b", founded.log_key, name="b.example/w") as b:
            policy_of(policy, {"a": (a.key, a.url), "b": (b.key, b.url)}, "all")
            with founded.serving(policy) as run:
                met = write(run, "alice")
                until(lambda: published_size(run) == met)
                assert {"a.example/w", "b.example/w"} == cosigners(run, a.key, b.key)
        policy_of(policy, {"a": (a.key, a.url), "b": (b.key, NOBODY)}, "all")
        with founded.serving(policy) as run:
            newer = write(run, "bob")
            until(lambda: standing(run, "a")["cosigned_size"] == newer)
            until(lambda: standing(run, "b")["state"] == "failing")

            assert met == published_size(run)
            behind = standing(run, "b")
            assert (met, newer - met) == (behind["cosigned_size"], behind["behind"])
            assert "it cannot be reached" == behind["detail"]
        policy_of(policy, {"a": (a.key, a.url), "b": (b.key, NOBODY)}, "any")
        with founded.serving(policy) as run:
            until(lambda: published_size(run) == newer)
            assert {"a.example/w"} == cosigners(run, a.key, b.key)
        with witness_of(tmp_path / "b", founded.log_key) as b:
            policy_of(policy, {"a": (a.key, a.url), "b": (b.key, b.url)}, "all")
            with founded.serving(policy) as run:
                until(lambda: standing(run, "b")["cosigned_size"] == newer)
                until(lambda: published_size(run) == newer)
                assert {"a.example/w", "b.example/w"} == cosigners(run, a.key, b.key)
                check_ledger(run.service)


def test_slow_witnesses_come_together_while_the_log_goes_on(
    tmp_path: Path, clock: SetClock
) -> None:
    """Two that answer late, each at its own pace, still meet a quorum under steady writes."""
    founded = founded_in(tmp_path / "ledger", clock)
    signers = [Signer(f"slow.example/{n}", bytes([n]) * 32, KeyType.COSIGNATURE) for n in (1, 2)]

    def slow(signer: Signer, delay_s: float) -> Starlette:
        async def answer(request: Request) -> Response:
            late = asyncio.Event()
            asyncio.get_running_loop().call_later(delay_s, late.set)
            await late.wait()
            return cosigned_by(signer, await request.body())

        return Starlette(routes=[Route("/add-checkpoint", answer, methods=["POST"])])

    with over_http(slow(signers[0], 0.7)) as one, over_http(slow(signers[1], 1.6)) as other:
        urls = {"a": (signers[0].verifier_key, one), "b": (signers[1].verifier_key, other)}
        with founded.serving(policy_of(tmp_path / "policy", urls, "all")) as run:
            sizes: set[int] = set()

            def three_are_published() -> bool:
                write(run, f"user-{len(sizes)}-{run.service.recorder.position}")
                sizes.add(published_size(run))
                return len(sizes - {0}) >= 3

            until(three_are_published)
            check_ledger(run.service)


# --- witnesses that lie ---------------------------------------------------------------------------


def cosigned_by(signer: Signer, body: bytes, *, text: str | None = None) -> Response:
    """Answer as a witness does that looks at nothing."""
    offered = parse_add_checkpoint(body).note.text
    signature = cosign(offered if text is None else text, signer, COSIGNED_AT_S)
    return PlainTextResponse(format_signatures([signature]))


def another_tree(body: bytes) -> Response:
    return cosigned_by(LIAR, body, text="test.ledger\n7\n" + "A" * 43 + "=\n")


def another_key(body: bytes) -> Response:
    return cosigned_by(Signer(LIAR.name, bytes(32), KeyType.COSIGNATURE), body)


def bad_signature(body: bytes) -> Response:
    note: Note = parse_add_checkpoint(body).note
    line = format_signatures([cosign(note.text, LIAR, COSIGNED_AT_S)])
    return PlainTextResponse(line.replace(line[-10:-3], "AAAAAAA"))


def latest(size: int) -> Callable[[bytes], Response]:
    return lambda _: Response(f"{size}\n", 409, headers={"content-type": SIZE_CONTENT_TYPE})


def always_another(body: bytes) -> Response:
    return latest(parse_add_checkpoint(body).old_size ^ 1)(body)


def redirected(_: bytes) -> Response:
    return Response(status_code=307, headers={"location": "/elsewhere"})


LIES: dict[str, tuple[Callable[[bytes], Response], str, str]] = {
    "another tree": (another_tree, "failing", "did not make of this"),
    "another key": (another_key, "failing", "did not make of this"),
    "a bad signature": (bad_signature, "failing", ""),
    "garbage": (lambda _: Response(b"\xff\0"), "failing", "no cosignature"),
    "nothing": (lambda _: Response(b""), "failing", "no cosignature"),
    "a huge body": (lambda _: Response(b"x" * 10_000_000), "failing", str(ANSWER_BYTES_MAX)),
    "a redirect": (redirected, "failing", "it answers 307"),
    "a fault": (lambda _: Response(status_code=500), "failing", "it answers 500"),
    "a larger tree": (latest(10**9), "ahead", "lost events, or another one signs"),
    "its latest is ours": (latest(0), "refusing", "refuses to go on from 0"),
    "no size": (lambda _: Response(b"7\n", 409), "failing", "409 without a size"),
    "a size that is none": (
        lambda _: Response(b"7", 409, headers={"content-type": SIZE_CONTENT_TYPE}),
        "failing",
        "409 without a size",
    ),
    "another size each time": (always_another, "failing", "another latest size"),
    "the proof is wrong": (lambda _: Response(status_code=422), "refusing", "another tree"),
    "an unknown log": (lambda _: Response(status_code=404), "refusing", "does not watch"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_witness_is_ignored_and_reported(lie: str, tmp_path: Path, clock: SetClock) -> None:
    """Whatever it answers, nothing of it is published, it is named, and others are not held up."""
    answering, state, said = LIES[lie]
    paths = []

    async def answer(request: Request) -> Response:
        paths.append(request.url.path)
        return answering(await request.body())

    app = Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])
    founded = founded_in(tmp_path / "ledger", clock)
    with over_http(app) as url, witness_of(tmp_path / "w", founded.log_key) as honest:
        urls = {"liar": (LIAR.verifier_key, url), "honest": (honest.key, honest.url)}
        with founded.serving(policy_of(tmp_path / "policy", urls, "any")) as run:
            position = write(run, "alice")
            until(lambda: published_size(run) == position)
            until(lambda: standing(run, "liar")["state"] != "waiting")

            found = standing(run, "liar")
            assert (state, 0) == (found["state"], found["cosigned_size"])
            assert said in str(found["detail"])
            assert {honest.key.name} == cosigners(run, honest.key, LIAR.verifier_key)
            assert {"/add-checkpoint"} == set(paths)
            check_ledger(run.service)


def test_a_witness_that_hangs_holds_up_nobody(
    tmp_path: Path, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given up after its time, and does not keep the ledger from ending."""
    monkeypatch.setattr(witnesses, "ANSWER_WITHIN_S", 0.5)

    async def hang(_: Request) -> Response:
        await asyncio.Event().wait()
        raise AssertionError("nothing wakes it")

    app = Starlette(routes=[Route("/add-checkpoint", hang, methods=["POST"])])
    founded = founded_in(tmp_path / "ledger", clock)
    with over_http(app) as url, witness_of(tmp_path / "w", founded.log_key) as honest:
        urls = {"hanging": (LIAR.verifier_key, url), "honest": (honest.key, honest.url)}
        with founded.serving(policy_of(tmp_path / "policy", urls, "any")) as run:
            position = write(run, "alice")
            until(lambda: published_size(run) == position)
            until(lambda: standing(run, "hanging")["state"] == "failing")
            assert "it does not answer within 0.5 s" == standing(run, "hanging")["detail"]
            check_ledger(run.service)


def test_a_forked_ledger_is_refused_and_told_so(tmp_path: Path, clock: SetClock) -> None:
    """Two histories under one key: the witness cosigns the first, and keeps what shows the other.

    The second ledger is a copy of the files of the first, taken before they part.
    """
    founded = founded_in(tmp_path / "ledger", clock)
    copy = founded_in(tmp_path / "copy", clock)
    for path in (tmp_path / "copy").iterdir():
        path.unlink()
    for path in (tmp_path / "ledger").iterdir():
        (tmp_path / "copy" / path.name).write_bytes(path.read_bytes())
        (tmp_path / "copy" / path.name).chmod(0o600)
    copy.keys.update(founded.keys)
    with witness_of(tmp_path / "w", founded.log_key) as witness:
        policy = policy_of(tmp_path / "policy", {"w": (witness.key, witness.url)}, "all")
        with founded.serving(policy) as run:
            position = write(run, "alice")
            until(lambda: published_size(run) == position)
        with copy.serving(policy) as run:
            assert position == write(run, "bob")
            until(lambda: standing(run, "w")["state"] == "refusing")

            assert published_size(run) < position
        (kept,) = (each for each in evidence(witness.folder) if each.kind == "fork")
        one, other = (parse_note(each).text for each in (kept.cosigned, kept.offered))
        assert one != other
        assert position == parse_checkpoint(one).size == parse_checkpoint(other).size


def test_two_providers_watch_each_other(tmp_path: Path, clock: SetClock) -> None:
    """Each runs a ledger, and a witness of the other's: both ledgers are cosigned across."""
    a, b = (founded_in(tmp_path / name, clock) for name in ("a", "b"))
    with (
        witness_of(tmp_path / "wa", b.log_key, name="a.example/witness") as run_by_a,
        witness_of(tmp_path / "wb", a.log_key, name="b.example/witness") as run_by_b,
    ):
        of_a = policy_of(tmp_path / "pa", {"b": (run_by_b.key, run_by_b.url)}, "all")
        of_b = policy_of(tmp_path / "pb", {"a": (run_by_a.key, run_by_a.url)}, "all")
        with a.serving(of_a) as ledger_a, b.serving(of_b) as ledger_b:
            positions = [write(ledger, "alice") for ledger in (ledger_a, ledger_b)]
            until(lambda: published_size(ledger_a) == positions[0])
            until(lambda: published_size(ledger_b) == positions[1])
            assert {"b.example/witness"} == cosigners(ledger_a, run_by_b.key)
            assert {"a.example/witness"} == cosigners(ledger_b, run_by_a.key)
            for ledger in (ledger_a, ledger_b):
                check_ledger(ledger.service)


# --- the policy -----------------------------------------------------------------------------------


def test_a_policy_that_cannot_be_used_does_not_start(tmp_path: Path) -> None:
    """No file, no policy, a witness without a URL, one name twice: each is refused in words."""
    path = tmp_path / "policy"
    with pytest.raises(InvalidValue, match="cannot be read"):
        read_witness_policy(path)
    path.write_text("quorum w\n")
    with pytest.raises(InvalidValue, match="no witness policy: line 1"):
        read_witness_policy(path)
    for url in ("", "ftp://w.example", "https://", "w.example"):
        policy_of(path, {"w": (LIAR.verifier_key, url)}, "none")
        with pytest.raises(InvalidValue, match="no http or https URL"):
            read_witness_policy(path)
    twin = Signer(LIAR.name, bytes(32), KeyType.COSIGNATURE).verifier_key
    policy_of(path, {"v": (LIAR.verifier_key, NOBODY), "w": (twin, NOBODY)}, "none")
    with pytest.raises(InvalidValue, match="have one name"):
        read_witness_policy(path)
    many = {
        f"w{n}": (Signer(f"w/{n}", bytes([n]) * 32, KeyType.COSIGNATURE).verifier_key, NOBODY)
        for n in range(33)
    }
    with pytest.raises(InvalidValue, match="more than 32"):
        read_witness_policy(policy_of(path, many, "none"))
