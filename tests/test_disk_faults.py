"""A disk that is full or fails: nothing is half written, reading goes on, writing comes back."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ledger.service.settings import Settings
from ledger.service.wiring import build
from tests.checks import check_ledger
from tests.histories import awake
from tests.serving import Process, opened, started

DISK_BYTES = 6 * 1024 * 1024
FAILS_ONCE = "fdatasync:error=EIO:when=1"
FAILS_ALWAYS = "fdatasync:error=EIO"


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system in memory that is soon full; the test is skipped where none can be mounted."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


@contextmanager
def failing(process: Process, fault: str) -> Iterator[None]:
    """Let calls of the process that write to its disk fail, until the block ends."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not here to make calls fail")
    tracer = subprocess.Popen(
        [
            strace,
            "-f",
            "-p",
            str(process.popen.pid),
            "-e",
            "trace=fdatasync",
            "-e",
            f"inject={fault}",
            "-o",
            "/dev/null",
        ],
        stderr=subprocess.PIPE,
    )
    assert tracer.stderr is not None
    if b"attached" not in tracer.stderr.readline():
        pytest.skip("strace may not attach to a process here")
    try:
        yield
    finally:
        tracer.terminate()
        tracer.wait(30)
        tracer.stderr.close()


def check_kept(database: Path, answered: dict[str, int]) -> None:
    """Check the ledger of a process that ended, and that every answered event is there."""
    service = awake(build(Settings(database_url=f"sqlite:///{database}")))
    for user, position in answered.items():
        recorded = service.recorder.event(position)
        assert recorded is not None
        assert f"subject/user:{user}" == recorded.stream
    check_ledger(service)
    service.close()


def suspend_until_refused(process: Process, answered: dict[str, int]) -> int:
    """Suspend users until one is refused; return the status of that."""
    for number in range(100_000):
        answer = process.suspend(f"u{number}")
        if answer.status_code != 201:
            assert answer.json()["code"] in ("storage_full", "storage_failed"), answer.text
            return answer.status_code
        answered[f"u{number}"] = answer.json()["position"]
    raise AssertionError("the disk never became full")


def test_a_full_disk_refuses_writes_and_nothing_else(tmp_path: Path) -> None:
    """507 while it is full; checks and reads go on, and writing does once there is room."""
    with small_disk(tmp_path / "disk") as disk:
        database = disk / "ledger.db"
        keys = opened(database)
        room = disk / "room"
        room.write_bytes(b"x" * (1024 * 1024))
        answered: dict[str, int] = {}
        with started(database, keys) as process:
            assert 507 == suspend_until_refused(process, answered)
            assert process.check("u0").json()["decision"] is False
            assert process.check("nobody").json()["decision"] is True
            assert 200 == process("GET", "/v1/events", role="auditor").status_code
            full = process("GET", "/readyz")
            room.unlink()
            ready = process("GET", "/readyz")
            answered["later"] = process.suspend("later").json()["position"]
            assert len(answered) + len(keys) * 2 + 1 == answered["later"]
            process.stop()
        check_kept(database, answered)
    # It tries a write of its own, and one so small may still find room.
    assert full.status_code == 200 or full.json()["code"] == "storage_full"
    assert 200 == ready.status_code


def test_a_write_whose_sync_fails_is_refused(tmp_path: Path) -> None:
    """Once: the next write opens the store anew, reads its head and is recorded."""
    database = tmp_path / "ledger.db"
    keys = opened(database)
    with started(database, keys) as process:
        first = process.suspend("first").json()["position"]
        with failing(process, FAILS_ONCE):
            answers = [process.suspend(f"u{number}") for number in range(3)]
        process.stop()
    refused = [answer for answer in answers if answer.status_code != 201]
    answered = {
        f"u{number}": answer.json()["position"]
        for number, answer in enumerate(answers)
        if answer.status_code == 201
    }
    check_kept(database, {"first": first, **answered})
    assert ["storage_failed"] * len(refused) == [answer.json()["code"] for answer in refused]
    assert 1 >= len(refused)
    assert list(range(first + 1, first + 1 + len(answered))) == list(answered.values())


def test_a_disk_that_fails_for_good_leaves_a_ledger_to_read(tmp_path: Path) -> None:
    """Nothing is recorded; checks go on, and /readyz says why until the disk works again."""
    database = tmp_path / "ledger.db"
    keys = opened(database)
    with started(database, keys) as process:
        first = process.suspend("first").json()["position"]
        with failing(process, FAILS_ALWAYS):
            codes = {process.suspend(f"u{number}").json().get("code") for number in range(5)}
            ready = process("GET", "/readyz")
            assert process.check("first").json()["decision"] is False
            assert process.check("u1").json()["decision"] is True
        assert 200 == process("GET", "/readyz").status_code
        later = process.suspend("later").json()["position"]
        process.stop()
    check_kept(database, {"first": first, "later": later})
    assert {"storage_failed"} == codes
    assert (503, "storage_failed") == (ready.status_code, ready.json()["code"])
    assert first + 1 == later
