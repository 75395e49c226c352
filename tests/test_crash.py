"""kill -9 at any moment: what was answered is there, what was not is there whole or not at all."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final
from urllib.parse import urlsplit

import pytest

from ledger.domain.events import Recorded, SubjectSuspended
from ledger.service.settings import Settings
from ledger.service.wiring import build
from tests.checks import check_ledger
from tests.conftest import SetClock
from tests.histories import awake, founded
from tests.serving import ROOT, STOPPED_WITHIN_S, Process, opened, started, suspended
from tests.writing import suspend

THREADS: Final = 16
WRITES_PER_USER: Final = 5  # so that streams grow, and commands meet on one


@dataclass
class Writing:
    """Suspensions that many threads send, each under a key of its own, until all are answered.

    ``answered`` maps a key to the answer that came; ``unanswered`` are keys whose answer never did.
    """

    count: int
    random: Random
    answered: dict[str, dict[str, object]] = field(default_factory=dict)
    unanswered: set[str] = field(default_factory=set)
    kills: int = 0

    def __post_init__(self) -> None:
        self._numbers = iter(range(self.count))
        self._lock = threading.Lock()

    def body(self, key: str) -> dict[str, object]:
        """The suspension that is sent under a key, always the same."""
        return {**suspended(self.user(key)), "reason": f"Order {key}."}

    def user(self, key: str) -> str:
        """Whom the suspension under a key is about: each user is suspended several times."""
        return f"u{int(key.removeprefix('key-')) % (self.count // WRITES_PER_USER)}"

    def until_killed(self, process: Process, answers: int) -> None:
        """Write with all threads; kill the process about when ``answers`` more have come."""
        target = len(self.answered) + answers
        threads = [
            threading.Thread(target=self._write, args=(process, target)) for _ in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(STOPPED_WITHIN_S)
            assert not thread.is_alive()

    def _write(self, process: Process, target: int) -> None:
        connection = http.client.HTTPConnection(urlsplit(process.url).netloc, timeout=30)
        while process.popen.poll() is None:
            with self._lock:
                number = next(self._numbers, None)
            if number is None:
                break
            self._send(connection, process, f"key-{number}")
            with self._lock:
                if len(self.answered) >= target and process.popen.poll() is None:
                    # Some requests are on their way now, some are being decided or committed.
                    threading.Event().wait(self.random.uniform(0, 0.004))
                    process.kill()
                    self.kills += 1
        connection.close()

    def _send(self, connection: http.client.HTTPConnection, process: Process, key: str) -> None:
        headers = {
            "Authorization": f"Bearer {process.keys['officer']}",
            "Content-Type": "application/json",
            "Idempotency-Key": key,
            "X-Request-ID": key,
        }
        try:
            connection.request("POST", "/v1/suspensions", json.dumps(self.body(key)), headers)
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, http.client.HTTPException):
            connection.close()
            self.unanswered.add(key)
            return
        assert 201 == response.status, answer
        self.answered[key] = answer

    def repeat(self, process: Process) -> None:
        """Send again what was not answered, under its key; now it is."""
        connection = http.client.HTTPConnection(urlsplit(process.url).netloc, timeout=30)
        for key in sorted(self.unanswered):
            self._send(connection, process, key)
        connection.close()
        self.unanswered -= set(self.answered)
        assert set() == self.unanswered


def check_after_a_crash(
    database: Path, answered: Mapping[str, Mapping[str, object]], *, most: int
) -> dict[str, Recorded]:
    """Check a ledger as a crash left it; return what is recorded, by its idempotency key.

    ``answered`` are the answers that were given; ``most`` is how many commands were sent.
    """
    service = build(Settings(database_url=f"sqlite:///{database}"))
    check_ledger(awake(service))
    recorded = {
        str(event.author.request_id): event
        for event in service.recorder.events()
        if isinstance(event.event, SubjectSuspended)
    }
    # A command is remembered in the transaction that records its fact: one alone would be a half.
    with service.recorder.store.transaction(commit=False) as c:
        c.execute("SELECT idempotency_key, position FROM commands")
        remembered = dict(tuple(row) for row in c.fetchall())
    service.close()

    assert {key: event.position for key, event in recorded.items()} == remembered
    assert len(remembered) <= most
    for key, answer in answered.items():
        assert answer["position"] == recorded[key].position
        assert answer.get("id", recorded[key].event.about) == recorded[key].event.about
    return recorded


def kill_while_writing(folder: Path, *, writes: int, kills: int, seed: int) -> str:
    """Write until all is answered, with so many kills on the way; return what happened."""
    folder.mkdir(exist_ok=True)
    database = folder / "ledger.db"
    keys = opened(database)
    writing = Writing(writes, Random(seed))
    lost = there = 0
    for _ in range(kills):
        with started(database, keys) as process:
            writing.repeat(process)
            share = writes // (kills + 1)
            writing.until_killed(process, writing.random.randint(share // 4, share))
        recorded = check_after_a_crash(database, writing.answered, most=writes)
        there += len(writing.unanswered & set(recorded))
        lost += len(writing.unanswered - set(recorded))
    with started(database, keys) as process:
        writing.repeat(process)
        writing.until_killed(process, writes)
        assert 0 == process.stop()
    recorded = check_after_a_crash(database, writing.answered, most=writes)

    assert writes == len(writing.answered) == len(recorded)
    assert kills == writing.kills
    return (
        f"seed {seed}: {writes} writes, {kills} kills, {there + lost} unanswered, "
        f"of which {there} were recorded whole and {lost} not at all"
    )


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(1, 4))]
)
def test_a_killed_service_has_everything_that_it_answered(tmp_path: Path, seed: int) -> None:
    """Killed and started again, nothing answered is lost; what is repeated is recorded once."""
    print(kill_while_writing(tmp_path, writes=400, kills=2, seed=seed))


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 120))
def test_a_service_killed_again_and_again_has_everything_that_it_answered(
    tmp_path: Path, seed: int
) -> None:
    """2,000 writes with 22 kills, 20 times over."""
    print(kill_while_writing(tmp_path, writes=2_000, kills=22, seed=seed))


def kill_beside_another(folder: Path, *, writes: int, seed: int) -> None:
    """Kill a process while it writes; another on the same database goes on, at once."""
    folder.mkdir(exist_ok=True)
    database = folder / "ledger.db"
    keys = opened(database)
    writing = Writing(writes, Random(seed))
    with started(database, keys) as other:
        with started(database, keys) as process:
            writing.until_killed(process, writing.random.randint(writes // 4, writes // 2))
        assert 1 == writing.kills
        writing.repeat(other)
        newest = max(writing.answered.values(), key=lambda answer: int(str(answer["position"])))
        position = {"Ledger-Min-Position": str(newest["position"])}
        for key in writing.answered:
            assert other.check(writing.user(key), **position).json()["decision"] is False
        assert "ready" == other("GET", "/readyz").json()["status"]
        assert 0 == other.stop()
    recorded = check_after_a_crash(database, writing.answered, most=writes)
    assert set(recorded) == set(writing.answered)


def test_a_process_killed_beside_another_does_not_disturb_it(tmp_path: Path) -> None:
    """The other one takes over what was not answered, and refuses all that was suspended."""
    kill_beside_another(tmp_path, writes=300, seed=1)


@pytest.mark.soak
def test_processes_killed_beside_another_never_disturb_it(tmp_path: Path) -> None:
    """The same, 20 times over."""
    for seed in range(2, 22):
        kill_beside_another(tmp_path / str(seed), writes=1_000, seed=seed)


# --- killed at the n-th write to the disk ---------------------------------------------------------

strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


def killed_at(folder: Path, call: str, when: int) -> tuple[dict[str, dict[str, object]], bool]:
    """Write 30 suspensions in a process that is killed at its n-th system call of a kind.

    Returns what it answered, and whether it was killed at all.
    """
    service = founded(folder, SetClock())
    service.close()
    database = folder / "ledger.db"
    tracing = ["strace", "-f", "-o", "/dev/null", f"--trace={call}"]
    inject = f"--inject={call}:signal=SIGKILL:when={when}"
    command = [sys.executable, "-m", "tests.writing", "suspensions", str(database), "0", "30"]
    finished = subprocess.run(
        [*tracing, inject, *command],
        cwd=ROOT,
        input="go\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = [json.loads(line) for line in finished.stdout.splitlines() if line.startswith("{")]
    return {answer["request"]: answer for answer in lines}, finished.returncode != 0


@strace
@pytest.mark.parametrize(("call", "when"), [("pwrite64", 150), ("fdatasync", 9)])
def test_a_writer_killed_at_a_system_call_leaves_no_half(
    tmp_path: Path, call: str, when: int
) -> None:
    """Killed in the middle of its writes, a process has lost nothing that it answered."""
    answered, killed = killed_at(tmp_path, call, when)

    assert killed
    assert answered
    check_after_a_crash(tmp_path / "ledger.db", answered, most=30)


@pytest.mark.soak
@strace
@pytest.mark.parametrize(
    ("call", "moments"),
    [("pwrite64", [*range(1, 61), *range(70, 400, 10)]), ("fdatasync", [*range(1, 31)])],
)
def test_a_writer_killed_at_each_system_call_leaves_no_half(
    tmp_path: Path, call: str, moments: Sequence[int]
) -> None:
    """Killed at its first write, at its second, and so on, it has lost nothing that it answered."""
    kills = missing = unanswered = 0
    for when in moments:
        folder = tmp_path / str(when)
        folder.mkdir()
        answered, killed = killed_at(folder, call, when)
        recorded = check_after_a_crash(folder / "ledger.db", answered, most=30)
        kills += killed
        unanswered += len(set(recorded) - set(answered))
        missing += 30 - len(recorded)
        go_on(folder, recorded)
        shutil.rmtree(folder)
    print(f"{call}: {kills} kills; {unanswered} recorded unanswered, {missing} never begun")

    assert len(moments) == kills


def go_on(folder: Path, recorded: Mapping[str, Recorded]) -> None:
    """Give every command again, under its key: now each is recorded, once."""
    service = build(Settings(database_url=f"sqlite:///{folder / 'ledger.db'}"))
    for number in range(30):
        key, done = suspend(service, number)
        assert ("repeated" if key in recorded else "recorded") == done.outcome
    service.close()
    assert 30 == len(check_after_a_crash(folder / "ledger.db", {}, most=30))
