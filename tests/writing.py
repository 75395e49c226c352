"""A process of its own that writes to a ledger, without a server: ``python -m tests.writing``.

It says ``ready``, waits for a line, and prints one line of JSON for each answer it got, at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from random import Random

from ledger.application import Done, Once
from ledger.domain.errors import LedgerError
from ledger.domain.events import Author
from ledger.domain.values import Basis, Scope, Subject, parse_instant
from ledger.service.settings import Settings
from ledger.service.wiring import Service, build, wall_clock
from tests.histories import Drawing


def commands(service: Service, seed: str, count: str) -> None:
    """Give random commands about subjects and suspensions that other processes work on, too."""
    drawing = Drawing(Random(seed))
    for number in range(int(count)):
        with service.reading() as (c, head):
            now = service.clock()
            listed = service.access.suspensions(c, at=now, position=head, limit=6)
            found = service.conduct.violations(c, at=now, position=head, limit=6)
        drawing.suspensions = [str(suspension["id"]) for suspension in listed]
        drawing.violations = [str(violation["id"]) for violation in found]
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


def say(**answer: object) -> None:
    """Print an answer, at once: a process that is killed later has said it."""
    print(json.dumps(answer), flush=True)


def main(what: str, database: str, clock: str, *arguments: str) -> None:
    """Work on a database by a clock: an instant at which it stands, or hours that it is ahead."""
    stands = parse_instant(clock) if "T" in clock else None
    ahead = timedelta() if stands else timedelta(hours=float(clock))

    def read_clock() -> datetime:
        return stands or wall_clock() + ahead

    work: dict[str, Callable[..., None]] = {
        "commands": commands,
        "suspensions": suspensions,
        "tick": tick,
    }
    service = build(Settings(database_url=f"sqlite:///{database}"), clock=read_clock)
    print("ready", flush=True)
    sys.stdin.readline()
    work[what](service, *arguments)
    service.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
