"""The witness that we run for others: what it cosigns, what it refuses, and what it keeps."""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from ledger.domain.errors import InvalidValue
from ledger.service.witness import (
    EVIDENCE_PER_LOG_MAX,
    KEY_FILE,
    STATE_FILE,
    Witness,
    evidence,
    make_witness,
    read_logs,
)
from ledger.tlog.checkpoint import LogKey, parse_checkpoint
from ledger.tlog.note import Signer, format_vkey, parse_note, verify_note
from ledger.tlog.witness_protocol import MAX_REQUEST_BYTES, origin_hash, parse_cosignatures
from tests.service.conftest import until
from tests.service.witnessing import COSIGNED_AT_S, Branch, Served, witness_of
from tests.serving import environment, url_in
from tests.tlog.test_vectors import (
    CHECKPOINT_7,
    COSIGNATURE_7,
    LOG,
    LOG_VKEY,
    entries,
    witness_request,
)

HONEST = Branch(LOG, entries(40))
FORKED = Branch(LOG, [*entries(5), *(b"changed-%d" % index for index in range(35))])
LOG_KEY = LogKey(LOG.verifier_key)


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Served]:
    """A witness of the log of the vectors."""
    with witness_of(tmp_path / "witness", LOG_KEY) as served:
        yield served


def cosigned(witness: Served, response: httpx.Response, branch: Branch, size: int) -> None:
    """Check that an answer is the witness's cosignature on a checkpoint."""
    assert 200 == response.status_code, response.text
    (found,) = parse_cosignatures(response.content, branch.note(size).text, [witness.key])
    assert COSIGNED_AT_S == found.signed_at_s


def test_the_vectors_of_the_standard_are_answered_as_listed(witness: Served) -> None:
    """200 from 3 to 7; the same again 409 with 7; old 9 is 400; a wrong proof 422; and so on."""
    cosigned(witness, witness.post(HONEST.request(0, 3)), HONEST, 3)
    cosigned(witness, witness.post(witness_request()), HONEST, 7)

    again = witness.post(witness_request())
    assert (409, b"7\n") == (again.status_code, again.content)
    assert "text/x.tlog.size" == again.headers["content-type"]
    assert 400 == witness.post(witness_request().replace(b"old 3", b"old 9")).status_code
    wrong = HONEST.request(7, 12, proof=(bytes(32),) * 4)
    assert 422 == witness.post(wrong).status_code
    assert 422 == witness.post(FORKED.request(7, 7)).status_code
    stranger = Branch(Signer("unknown.example/log", bytes(32)), entries(7))
    assert 404 == witness.post(stranger.request(0, 7)).status_code
    impostor = Branch(Signer(LOG.name, bytes(32)), entries(7))
    assert 403 == witness.post(impostor.request(7, 7)).status_code
    cosigned(witness, witness.post(HONEST.request(7, 7)), HONEST, 7)


@pytest.mark.parametrize(
    "body",
    [b"", b"old 3", b"old 03\n\n", b"\xff", b"old 0\n\n" + b"x" * 1000, b"old -1\n\na\n1\n"],
)
def test_what_is_no_request_is_400(witness: Served, body: bytes) -> None:
    """Malformed bodies are refused in words, and change nothing."""
    response = witness.post(body)

    assert 400 == response.status_code
    assert response.text.endswith("\n")
    cosigned(witness, witness.post(HONEST.request(0, 3)), HONEST, 3)


def test_a_body_that_is_too_large_is_not_read(witness: Served) -> None:
    """413 by the declared length, and by what comes when none is declared."""
    chunks = iter([b"x" * 65_536] * 8)

    assert 413 == witness.post(b"x" * (MAX_REQUEST_BYTES + 1)).status_code
    assert 413 == httpx.post(f"{witness.url}/add-checkpoint", content=chunks).status_code


def test_nothing_else_is_served(witness: Served) -> None:
    """There are the two routes of the standard, and /livez."""
    assert 200 == httpx.get(f"{witness.url}/livez").status_code
    assert 405 == httpx.get(f"{witness.url}/add-checkpoint").status_code
    for path in ("/", "/docs", "/openapi.json", "/witness.key", "/..%2fwitness.key/checkpoint"):
        assert 404 == httpx.get(f"{witness.url}{path}").status_code


def test_monitors_get_the_newest_checkpoint_with_both_signatures(witness: Served) -> None:
    """The monitoring path names the log by the hash of its origin; nothing planted is in it."""
    hashed = origin_hash(LOG.name)
    assert "5be92bef3f42d5bcd9e2649883a59da25fe073e6e9f4e75607dd36f54d6f94d5" == hashed
    assert 404 == httpx.get(f"{witness.url}/{hashed}/checkpoint").status_code
    witness.post(HONEST.request(0, 3))
    witness.post(witness_request())

    response = httpx.get(f"{witness.url}/{hashed}/checkpoint")

    assert "text/plain; charset=utf-8" == response.headers["content-type"]
    assert response.text.startswith(CHECKPOINT_7)
    assert COSIGNATURE_7 not in response.text
    keys = [LOG.verifier_key, witness.key]
    assert keys == [each.key for each in verify_note(parse_note(response.content), keys)]


def test_a_forked_log_is_refused_and_both_checkpoints_prove_it(witness: Served) -> None:
    """Two roots of one size, both signed by the log, are kept; anybody can check them offline."""
    cosigned(witness, witness.post(HONEST.request(0, 8)), HONEST, 8)

    assert 422 == witness.post(FORKED.request(8, 8)).status_code
    assert 409 == witness.post(FORKED.request(5, 8)).status_code  # the same, whatever its old size
    (kept,) = evidence(witness.folder)

    assert ("fork", LOG.name, (LOG_VKEY,)) == (kept.kind, kept.origin, kept.vkeys)
    assert FORKED.signed(8) == kept.offered
    first, second = (parse_note(each) for each in (kept.cosigned, kept.offered))
    for note in (first, second):
        verify_note(note, [LOG.verifier_key])
    one, other = parse_checkpoint(first.text), parse_checkpoint(second.text)
    assert (one.origin, one.size) == (other.origin, other.size)
    assert one.root != other.root


def test_a_log_that_went_back_is_refused_and_kept(witness: Served) -> None:
    """A smaller tree, and a larger one that does not continue, are kept as what they are."""
    witness.post(HONEST.request(0, 8))

    assert 409 == witness.post(FORKED.request(0, 7)).status_code
    assert 422 == witness.post(FORKED.request(8, 9)).status_code
    assert 409 == witness.post(HONEST.request(3, 9)).status_code  # everyday business

    assert ["rollback", "unproven"] == [each.kind for each in evidence(witness.folder)]
    cosigned(witness, witness.post(HONEST.request(8, 9)), HONEST, 9)


def test_evidence_is_kept_once_and_never_without_end(witness: Served) -> None:
    """Sending old checkpoints again and again cannot fill the disk."""
    long = Branch(LOG, entries(EVIDENCE_PER_LOG_MAX + 20))
    witness.post(long.request(0, EVIDENCE_PER_LOG_MAX + 20))
    with httpx.Client(base_url=witness.url) as http:
        for size in (1, 1, *range(1, EVIDENCE_PER_LOG_MAX + 10)):
            answer = http.post("/add-checkpoint", content=long.request(0, size))
            assert 409 == answer.status_code

    assert EVIDENCE_PER_LOG_MAX == len(evidence(witness.folder))
    witness.post(Branch(LOG, [b"fork"] * (EVIDENCE_PER_LOG_MAX + 20)).request(0, 120))
    assert "fork" == evidence(witness.folder)[-1].kind


def test_of_concurrent_requests_one_wins(witness: Served) -> None:
    """Fifty requests at once from one size, for two trees: one is cosigned, all others refused."""
    witness.post(HONEST.request(0, 5))
    bodies = [branch.request(5, size) for branch in (HONEST, FORKED) for size in range(6, 31)]

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(witness.post, bodies))

    statuses = sorted(answer.status_code for answer in answers)
    assert [200] + [409] * 49 == statuses
    sizes = {answer.content for answer in answers if answer.status_code == 409}
    assert 1 == len(sizes)


def test_the_state_outlives_the_program(tmp_path: Path) -> None:
    """A witness that is started again goes on from what it cosigned."""
    folder = tmp_path / "witness"
    with witness_of(folder, LOG_KEY) as served:
        served.post(HONEST.request(0, 8))
    with witness_of(folder, LOG_KEY) as served:
        assert b"8\n" == served.post(FORKED.request(0, 9)).content
        cosigned(served, served.post(HONEST.request(8, 9)), HONEST, 9)


def test_a_key_of_certain_sizes_signs_no_others(tmp_path: Path) -> None:
    """After a rotation the old key counts for old sizes only, the new one from its first."""
    new = Signer(LOG.name, bytes(range(1, 33)))
    keys = (LogKey(LOG.verifier_key, 0, 7), LogKey(new.verifier_key, 8))
    rotated = Branch(new, entries(40))
    with witness_of(tmp_path / "witness", *keys) as served:
        assert 403 == served.post(rotated.request(0, 7)).status_code
        cosigned(served, served.post(HONEST.request(0, 7)), HONEST, 7)
        assert 403 == served.post(HONEST.request(7, 8)).status_code
        cosigned(served, served.post(rotated.request(7, 8)), rotated, 8)


# --- its folder -----------------------------------------------------------------------------------


def opened(folder: Path) -> None:
    """Open a witness and let go of it."""
    Witness(folder, [LOG_KEY], now_s=lambda: 0).close()


def test_a_witness_is_made_once(tmp_path: Path) -> None:
    """Its files are for their owner only, and never made again over others."""
    make_witness(tmp_path / "w", "witness.example/w1")

    for name in (KEY_FILE, STATE_FILE):
        assert 0o600 == (tmp_path / "w" / name).stat().st_mode & 0o777
    with pytest.raises(InvalidValue, match="holds a witness"):
        make_witness(tmp_path / "w", "witness.example/w1")
    with pytest.raises(InvalidValue, match="cannot be the name"):
        make_witness(tmp_path / "other", "two words")


def test_a_witness_without_its_own_state_does_not_start(tmp_path: Path) -> None:
    """Lost, of another key, or with a key that others may read: each is refused in words."""
    for name in ("a", "b"):
        make_witness(tmp_path / name, f"witness.example/{name}")
    opened(tmp_path / "a")

    shutil.copy(tmp_path / "b" / STATE_FILE, tmp_path / "a" / STATE_FILE)
    with pytest.raises(InvalidValue, match="not the state of the key"):
        opened(tmp_path / "a")
    (tmp_path / "a" / STATE_FILE).unlink()
    with pytest.raises(InvalidValue, match="made to cosign a fork"):
        opened(tmp_path / "a")
    (tmp_path / "b" / KEY_FILE).chmod(0o640)
    with pytest.raises(InvalidValue, match="chmod 600"):
        opened(tmp_path / "b")
    (tmp_path / "b" / KEY_FILE).unlink()
    with pytest.raises(InvalidValue, match="is missing; run compliance-ledger witness init"):
        opened(tmp_path / "b")


def test_logs_are_named_by_options_and_by_a_policy(tmp_path: Path) -> None:
    """A key may have a range of sizes; what names no log is refused."""
    policy = tmp_path / "policy"
    policy.write_text(f"log {LOG_VKEY} https://log.example\nquorum none\n")

    assert (LOG_KEY,) == read_logs(policy, [])
    assert (LogKey(LOG.verifier_key, 3, 9),) == read_logs(None, [f"3 9 {LOG_VKEY}"])
    assert (LOG_KEY, LogKey(LOG.verifier_key, 10)) == read_logs(policy, [f"10 - {LOG_VKEY}"])
    for wrong in ("", "3", f"9 3 {LOG_VKEY}", f"3 {LOG_VKEY}", f"- 3 {LOG_VKEY}", f" {LOG_VKEY}"):
        with pytest.raises(InvalidValue, match="names no log"):
            read_logs(None, [wrong])
    with pytest.raises(InvalidValue, match="at least one log"):
        read_logs(None, [])
    policy.write_text("quorum\n")
    with pytest.raises(InvalidValue, match="no policy: line 1"):
        read_logs(policy, [])
    with pytest.raises(InvalidValue, match="cannot be read"):
        read_logs(tmp_path / "none", [])


# --- the command ----------------------------------------------------------------------------------


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the witness in a folder, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "ledger", "witness", *arguments],
        cwd=folder,
        env=environment(folder / "unused.db"),
        capture_output=True,
        text=True,
        check=False,
    )


def is_alive(url: str) -> bool:
    """Tell whether a witness answers yet."""
    try:
        return httpx.get(f"{url}/livez").status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def started(folder: Path, *vkeys: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Serve the witness of a folder by our own command, until the block ends."""
    logs = [word for vkey in vkeys for word in ("--log", vkey)]
    popen = subprocess.Popen(
        [sys.executable, "-m", "ledger", "witness", "serve", "--port", "0", *logs],
        cwd=folder,
        env=environment(folder / "unused.db"),
        stdout=subprocess.PIPE,
    )
    try:
        assert popen.stdout is not None
        url = url_in(popen.stdout)
        until(lambda: is_alive(url))
        yield popen, url
    finally:
        popen.kill()
        popen.wait()
        if popen.stdout is not None:
            popen.stdout.close()


def test_the_commands_make_serve_and_show(tmp_path: Path) -> None:
    """A key is made and shown, checkpoints are cosigned, and a fork ends in evidence and exit 1."""
    made = run(tmp_path, "init", "witness.example/w1")
    assert 0 == made.returncode, made.stderr
    vkey = made.stdout.splitlines()[-1]
    assert 1 == run(tmp_path, "init", "witness.example/w1").returncode
    assert "at least one log" in run(tmp_path, "serve").stderr
    assert "Nothing" in run(tmp_path, "evidence").stdout
    with started(tmp_path, LOG_VKEY) as (popen, url):
        for body in (HONEST.request(0, 8), FORKED.request(8, 8)):
            answer = httpx.post(f"{url}/add-checkpoint", content=body)
        assert 422 == answer.status_code
        popen.terminate()
        assert popen.wait(60) in (0, -15)

    shown = run(tmp_path, "evidence", "--to", "kept")

    assert 1 == shown.returncode
    assert FORKED.signed(8).decode() in shown.stdout
    kept = {path.name: path.read_bytes() for path in (tmp_path / "kept").iterdir()}
    assert FORKED.signed(8) == kept["1-fork-offered.txt"]
    assert vkey.startswith("witness.example/w1+")
    assert f"{LOG_VKEY}\n".encode() == kept["1-fork-keys.txt"]
    assert HONEST.signed(8) in kept["1-fork-cosigned.txt"]


def test_kill_9_never_lets_it_cosign_two_trees(tmp_path: Path) -> None:
    """Two trees race for the next cosignature while the program is killed and started again."""
    rng = random.Random(4)
    logs = [Signer(f"log.example/{number}", bytes([number]) * 32) for number in range(4)]
    vkeys = [format_vkey(log.verifier_key) for log in logs]
    assert 0 == run(tmp_path, "init", "witness.example/w1").returncode
    seen: dict[str, set[tuple[int, bytes]]] = {log.name: set() for log in logs}

    answered: list[int] = []

    def race(url: str, branch: Branch) -> None:
        old = 0
        try:
            with httpx.Client(base_url=url, timeout=20) as http:
                for size in range(6, 41):
                    answer = http.post("/add-checkpoint", content=branch.request(old, size))
                    answered.append(answer.status_code)
                    if answer.status_code == 200:
                        seen[branch.signer.name].add((size, branch.root(size)))
                        old = size
                    elif answer.status_code == 409 and int(answer.text) < size:
                        old = int(answer.text)
        except httpx.TransportError:
            pass  # it was killed

    for _ in range(4):
        enough = len(answered) + rng.randint(1, 60)
        with started(tmp_path, *vkeys) as (popen, url), ThreadPoolExecutor(8) as pool:
            for log in logs:
                pool.submit(race, url, Branch(log, entries(40)))
                pool.submit(race, url, Branch(log, [*entries(5), *[b"other"] * 35]))
            until(lambda least=enough: len(answered) >= least)  # type: ignore[misc]
            popen.kill()

    for log in logs:
        branches = [Branch(log, entries(40)), Branch(log, [*entries(5), *[b"other"] * 35])]
        held = [
            all(root == branch.root(size) for size, root in seen[log.name]) for branch in branches
        ]
        assert any(held), seen[log.name]
    assert {200, 409} <= set(answered)


def test_a_client_that_sends_nothing_holds_up_nobody(witness: Served) -> None:
    """While one connection sends half a request, others are answered."""
    host, port = witness.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as slow:
        slow.sendall(b"POST /add-checkpoint HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\nold")
        cosigned(witness, witness.post(HONEST.request(0, 8)), HONEST, 8)
