"""A process of its own that works on a ledger, without a server: ``python -m tests.writing``.

It says ``ready``, waits for a line, and prints one line of JSON for each answer it got, at once.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from itertools import count as counting
from itertools import takewhile
from random import Random

import pytest

from ledger.application import Done, Once
from ledger.domain.errors import LedgerError
from ledger.domain.events import Author
from ledger.domain.values import Basis, Scope, Subject, parse_instant
from ledger.service import signer
from ledger.service.settings import Settings
from ledger.service.wiring import Service, build, wall_clock
from ledger.tlog.note import Signature, Signer, sign
from tests.histories import SUBJECTS, Drawing

EVENTS_A_GENERATION = 1_000  # then come new subjects, or the streams of a long run grow for ever


def commands(service: Service, seed: str, count: str) -> None:
    """Give random commands about subjects and suspensions that other processes work on, too."""
    _commands(service, seed, iter(range(int(count))))


def minutes_of_commands(service: Service, seed: str, seconds: str) -> None:
    """Do the same for a while, about new subjects after every thousand events."""
    end = time.monotonic() + float(seconds)
    _commands(service, seed, takewhile(lambda _: time.monotonic() < end, counting()), renewed=True)


def _commands(
    service: Service, seed: str, numbers: Iterator[int], *, renewed: bool = False
) -> None:
    drawing = Drawing(Random(seed))
    for number in numbers:
        with service.reading() as (c, head):
            now = service.clock()
            listed = service.access.suspensions(c, at=now, position=head, limit=6)
            found = service.conduct.violations(c, at=now, position=head, limit=6)
        drawing.suspensions = [str(suspension["id"]) for suspension in listed]
        drawing.violations = [str(violation["id"]) for violation in found]
        if renewed:
            # All processes come to the next ones at the same position, so they go on meeting.
            drawing.subjects = [
                Subject(type=subject.type, id=f"{subject.id}-{head // EVENTS_A_GENERATION}")
                for subject in SUBJECTS
            ]
        name = f"{seed}-{number}"
        try:
            done = drawing.command(now).run(service, by=Author("the-officer", request_id=name))
        except LedgerError as refusal:
            say(request=name, refused=refusal.code)
        else:
            say(request=name, outcome=done.outcome, position=done.recorded.position)


def suspensions(service: Service, count: str) -> None:
    """Suspend one user after the other."""
    for number in range(int(count)):
        name, done = suspend(service, number)
        say(request=name, outcome=done.outcome, position=done.recorded.position)


def suspend(service: Service, number: int) -> tuple[str, Done]:
    """Suspend a user under an idempotency key, which is the name that this returns, too."""
    name = f"key-{number}"
    done = service.ledger.suspend(
        Subject(type="user", id=f"u{number % 10}"),
        scope=Scope.model_validate({"resources": [{"type": "model"}]}),
        duration="P1D",
        basis=Basis.LEGAL_ORDER,
        reason="An order.",
        by=Author("the-officer", request_id=name),
        once=Once(name, name),
    )
    return name, done


def tick(service: Service) -> None:
    """Look for terms that are over, once."""
    say(recorded=service.ticker.tick())


def run(service: Service) -> None:
    """Do what every serving process does besides answering, until told to end.

    Says every text of a checkpoint that it signs, before anybody else can see it.
    """

    def saying(text: str, key: Signer) -> Signature:
        signature = sign(text, key)
        say(signed=text)
        return signature

    pytest.MonkeyPatch().setattr(signer, "sign", saying)
    service.start()
    say(started=True)
    sys.stdin.readline()
    service.stop()


def say(**answer: object) -> None:
    """Print an answer, at once: a process that is killed later has said it."""
    print(json.dumps(answer), flush=True)


def main(what: str, database: str, clock: str, *arguments: str) -> None:
    """Work on a database by a clock: an instant at which it stands, or hours that it is ahead.

    The database is an SQLite file, or the URL of a PostgreSQL database; ``LEDGER_FILES`` then names
    the folder of the ledger's files.
    """
    stands = parse_instant(clock) if "T" in clock else None
    ahead = timedelta() if stands else timedelta(hours=float(clock))

    def read_clock() -> datetime:
        return stands or wall_clock() + ahead

    work: dict[str, Callable[..., None]] = {
        "commands": commands,
        "minutes-of-commands": minutes_of_commands,
        "run": run,
        "suspensions": suspensions,
        "tick": tick,
    }
    url = database if "://" in database else f"sqlite:///{database}"
    settings = Settings(database_url=url, allow_owner=True)
    service = build(settings, clock=wall_clock if clock == "0" else read_clock)
    print("ready", flush=True)
    sys.stdin.readline()
    work[what](service, *arguments)
    if what != "run":  # which has stopped, and closed, the whole service
        service.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
