"""One of several processes ends terms and signs checkpoints; when it dies, another goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from ledger.domain.events import SubjectReinstated
from ledger.domain.values import Basis, Scope, Subject
from ledger.service.wiring import Service, build
from ledger.tlog.checkpoint import parse_checkpoint
from ledger.tlog.leaf import hash_of
from ledger.tlog.merkle import Frontier
from tests.checks import check_ledger
from tests.conftest import SOAK_S, on_each_store, settings_at
from tests.histories import OFFICER, awake
from tests.service.conftest import open_ledger, until
from tests.serving import STARTED_WITHIN_S, STOPPED_WITHIN_S, working

TAKEN_OVER_WITHIN_S: Final = 10  # what docs/operating/several-processes.md promises


@dataclass
class Runner:
    """A process that does what every serving process does besides answering."""

    popen: subprocess.Popen[str]
    started: threading.Event = field(default_factory=threading.Event)
    signed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        # What a killed process had said stays in the pipe, so nothing that it signed is missed.
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            if line == "ready\n":
                self.tell()
                continue
            said = json.loads(line)
            if "signed" in said:
                self.signed.append(said["signed"])
            else:
                self.started.set()

    def tell(self) -> None:
        """Send a line: the first starts it, the second ends it."""
        assert self.popen.stdin is not None
        self.popen.stdin.write("go\n")
        self.popen.stdin.flush()

    def kill(self) -> None:
        """Send SIGKILL."""
        self.popen.kill()
        self.popen.wait(STOPPED_WITHIN_S)
        self._reader.join(STOPPED_WITHIN_S)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Let it do nothing for a while; its connections stay open."""
        self.popen.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.popen.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Let it stop as a service does."""
        self.tell()
        assert 0 == self.popen.wait(STOPPED_WITHIN_S)
        self._reader.join(STOPPED_WITHIN_S)


class Runners:
    """Several such processes on one ledger, and one more that only writes: this."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self._folder = url, folder
        self.service = build(settings_at(url, folder))
        open_ledger(self.service)
        self.running: list[Runner] = []
        self.all: list[Runner] = []

    def start(self, number: int = 1) -> None:
        """Start more; returns when they work."""
        more = [self._new() for _ in range(number)]
        self.running += more
        self.all += more
        for runner in more:
            assert runner.started.wait(STARTED_WITHIN_S)

    def _new(self) -> Runner:
        return Runner(working("run", self.url, "0", LEDGER_FILES=str(self._folder)))

    def holder(self) -> Runner | None:
        """Return who signed last, and so leads; ``None`` when it runs no more."""
        newest = max(self.all, key=lambda runner: max(map(size_of, runner.signed), default=0))
        return newest if newest.signed and newest in self.running else None

    def kill_holder(self) -> Runner:
        """Kill who leads, with events and a term about to end left to whoever is next."""
        until(lambda: self.holder() is not None)
        holder = self.holder()
        assert holder is not None
        holder.kill()
        self.running.remove(holder)
        return holder

    def suspend(self, user: str, duration: str) -> str:
        """Suspend a user; returns the suspension's id."""
        done = self.service.ledger.suspend(
            Subject(type="user", id=user),
            scope=Scope.model_validate({"resources": [{"type": "model"}]}),
            duration=duration,
            basis=Basis.LEGAL_ORDER,
            reason="An order.",
            by=OFFICER,
        )
        return str(done.recorded.event.about)

    def is_served_and_signed(self, suspension: str) -> bool:
        """Tell whether a term's end is recorded, and a checkpoint covers that event."""
        stream = self.service.access.stream_of
        with self.service.reading() as (c, _):
            name = stream(c, suspension)
            assert name is not None
            signed = self.service.log.newest_size(c)
        return any(
            recorded.position <= signed
            for recorded in self.service.recorder.stream(name, types=(SubjectReinstated.TYPE,))
            if isinstance(recorded.event, SubjectReinstated)
            and recorded.event.suspension == suspension
        )

    def end(self) -> None:
        """Stop what still runs; check the ledger, and every checkpoint that anybody signed."""
        for runner in self.running:
            runner.end()
        self.running.clear()
        check_ledger(awake(self.service))
        check_signed(self.service, [text for runner in self.all for text in runner.signed])


def size_of(text: str) -> int:
    """How many events a checkpoint covers."""
    return parse_checkpoint(text).size


def check_signed(service: Service, signed: list[str]) -> None:
    """Check that no two of these checkpoints contradict each other: each is a prefix of the log."""
    texts: dict[int, str] = {}
    for text in signed:
        assert text == texts.setdefault(size_of(text), text)
    with service.reading() as (c, head):
        leaves = [hash_of(row) for row in service.log.rows(c, 0, head)]
    tree = Frontier()
    for size in sorted(texts):
        tree = tree.extend(leaves[tree.size : size])
        assert tree.root() == parse_checkpoint(texts[size]).root
    assert texts


@contextmanager
def several(url: str, folder: Path, number: int) -> Iterator[Runners]:
    """Start several processes on a new ledger, which is checked as a whole at the end."""
    runners = Runners(url, folder)
    try:
        runners.start(number)
        yield runners
        runners.end()
    finally:
        for runner in runners.running:
            runner.kill()
        for runner in runners.all:
            for pipe in (runner.popen.stdin, runner.popen.stdout):
                if pipe is not None:
                    pipe.close()
        runners.service.close()


@on_each_store
def test_when_the_process_that_signs_is_killed_another_goes_on(
    database_url: str, tmp_path: Path
) -> None:
    """Within ten seconds the next one ends terms and signs, and what it signs goes on from there.

    On PostgreSQL one leads, by the lock of its session. On SQLite any does, under the write lock.
    """
    with several(database_url, tmp_path, 2) as runners:
        before = runners.suspend("ann", "PT1S")
        until(lambda: runners.is_served_and_signed(before))
        after = runners.suspend("bob", "PT1S")
        killed = runners.kill_holder()
        until(lambda: runners.is_served_and_signed(after), within_s=TAKEN_OVER_WITHIN_S)
        [left] = runners.running

        assert left is runners.holder()
        if database_url.startswith("postgresql:"):
            assert max(map(size_of, killed.signed)) < min(map(size_of, left.signed))


@on_each_store
def test_when_the_process_that_signs_hangs_another_goes_on(
    database_url: str, tmp_path: Path
) -> None:
    """One that is stopped, as by a debugger or a machine put to sleep, holds nobody up.

    When it goes on it finds that it leads no more, and signs nothing beside the one that does.
    """
    with several(database_url, tmp_path, 2) as runners:
        before = runners.suspend("ann", "PT1S")
        until(lambda: runners.is_served_and_signed(before) and runners.holder() is not None)
        holder = runners.holder()
        assert holder is not None
        with holder.stopped():
            after = runners.suspend("bob", "PT1S")
            until(lambda: runners.is_served_and_signed(after))
        last = runners.suspend("cid", "PT1S")
        until(lambda: runners.is_served_and_signed(last))


@pytest.mark.soak
@on_each_store
def test_never_are_two_checkpoints_of_one_size_signed(database_url: str, tmp_path: Path) -> None:
    """For ten minutes whoever leads is killed again and again while events arrive, and replaced.

    ``LEDGER_TEST_SOAK_S`` gives another number of seconds.
    """
    end = time.monotonic() + SOAK_S
    kills, longest = 0, 0.0
    with several(database_url, tmp_path, 3) as runners:
        while time.monotonic() < end:
            for number in range(50 + kills % 7):
                runners.suspend(f"u{number}-{kills}", "P1D")
            due = runners.suspend(f"due-{kills}", "PT1S")
            killed = time.monotonic()
            runners.kill_holder()
            until(partial(runners.is_served_and_signed, due), within_s=TAKEN_OVER_WITHIN_S)
            longest = max(longest, time.monotonic() - killed)
            kills += 1
            runners.start()
        sizes = {size_of(text) for runner in runners.all for text in runner.signed}
        print(f"{kills} kills, {len(sizes)} checkpoints, taken over within {longest:.1f} s")
