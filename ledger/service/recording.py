"""What runs in the process that records for another one, one group of commands after the other."""

from __future__ import annotations

import gc
import logging
import pickle
import signal
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Final

from ledger.application import Done, Foreseen, Ledger, Once
from ledger.domain.errors import LedgerError
from ledger.service.http.problems import internal_error
from ledger.service.wiring import build

if TYPE_CHECKING:
    from ledger.domain.events import Author
    from ledger.service.http.route import Command
    from ledger.service.settings import Settings
    from ledger.service.write_process import Answer

# Objects made between two rounds of the collector. With the usual 700 its rounds are a sixth of an
# import, because what a group of commands holds is in use.
WRITE_ALLOCATIONS: Final = 50_000

log = logging.getLogger(__name__)


def packed(asked: Sequence[tuple[Command, Once | None]], by: Author) -> bytes:
    """Return commands as they cross the pipe: names of methods of ``Ledger`` with their values."""
    return pickle.dumps(
        (
            by,
            [
                (
                    each.run.func.__name__,
                    each.run.args,
                    each.run.keywords,
                    each.subjects,
                    each.afterwards and each.afterwards.__name__,
                    once and (once.key, once.fingerprint),
                )
                for each, once in asked
            ],
        ),
        pickle.HIGHEST_PROTOCOL,
    )


def record(settings: Settings, pipe: Connection) -> None:
    """Run groups of commands until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal; the parent closes the pipe
    with suppress(EOFError, ConnectionError):  # the parent is done, or gone: nobody waits
        group = pipe.recv_bytes()  # whose sender has opened the ledger, and found one
        with closing(build(settings)) as service:
            gc.freeze()
            gc.set_threshold(WRITE_ALLOCATIONS)
            while True:
                pipe.send_bytes(pickle.dumps(run(service.ledger, group), pickle.HIGHEST_PROTOCOL))
                group = pipe.recv_bytes()


def run(ledger: Ledger, group: bytes) -> list[Answer]:
    """Run what ``packed`` returned in one transaction, and answer each command of it."""
    by, asked = pickle.loads(group)  # noqa: S301 - from our own parent
    runs, foreseen, afterwards = [], [], []
    for name, values, named, subjects, after, key in asked:
        once = key and Once(*key)
        runs.append(partial(getattr(ledger, name), *values, **named, by=by, once=once))
        foreseen.append(Foreseen((by.operator, once.key) if once else None, subjects))
        afterwards.append(getattr(ledger, after) if after else None)
    try:
        outcomes = ledger.run_together(runs, foreseen)
    except Exception as error:  # noqa: BLE001 - the commit failed: nothing of it is recorded
        outcomes = [error] * len(runs)
    return list(map(_answer, outcomes, afterwards))


def _answer(outcome: Done | Exception, afterwards: Callable[[], object] | None) -> Answer:
    try:
        if isinstance(outcome, Exception):
            raise outcome  # noqa: TRY301 - as what is raised below
        if afterwards is not None:
            afterwards()
    except LedgerError as error:
        return error
    except Exception:
        log.exception("a command of an import failed")
        return internal_error()
    return outcome.recorded.position
