"""A process of its own that runs commands, so that whoever reads and answers them need not wait.

One interpreter does one thing at a time. An import that reads lines, decides them, writes rows and
signs checkpoints in one process does these in turn; with the deciding and writing in another, they
go on side by side. It is one more writer of the ledger like any other: when it or its parent is
killed, what was committed is recorded, and nothing else.

Commands and answers cross a pipe as pickles, which nobody but these two processes can write to.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import pickle
import signal
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Final

from ledger.application import Done, Foreseen, Ledger, Once
from ledger.domain.errors import LedgerError, Unavailable
from ledger.service.http.batch import receipt, refusal
from ledger.service.http.problems import internal_error
from ledger.service.wiring import build

if TYPE_CHECKING:
    from ledger.domain.events import Author
    from ledger.service.http.route import Command
    from ledger.service.settings import Settings
    from ledger.store.recorder import Store

# Objects made between two rounds of the collector. With the usual 700 its rounds are a sixth of an
# import, because what a group of commands holds is in use.
WRITE_ALLOCATIONS: Final = 50_000
END_TIMEOUT_S: Final = 30.0  # for the group that is under way to be committed

Answer = dict[str, object]
"""What a line of a batch is answered, in its shorter form."""

log = logging.getLogger(__name__)


class WriteProcess:
    """A process that runs groups of commands, one group after the other.

    ``store`` is how the parent writes to the same ledger. Its turn is lent to the process for each
    group: two processes that both wait for the lock of an SQLite file do not take turns.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._turn = store.turn
        self._lent = False
        self._process = spawn.Process(
            target=_work, args=(settings, theirs), name="ledger-writer", daemon=True
        )
        self._process.start()
        theirs.close()  # else its end would not be seen here

    def begin(self, group: bytes) -> None:
        """Let it run what ``packed`` returned; ``answers`` must be asked for before the next."""
        self._turn.acquire()
        self._lent = True
        try:
            self._pipe.send_bytes(group)
        except OSError as error:
            raise self._ended() from error

    def answers(self) -> list[Answer]:
        """Return the answers to the commands that it was given, once they are committed.

        Raises ``Unavailable`` when the process has ended; whether they are is not known then.
        """
        try:
            found: list[Answer] = pickle.loads(self._pipe.recv_bytes())  # noqa: S301 - from our own
        except (EOFError, OSError) as error:
            raise self._ended() from error
        finally:
            self._take_back()
        return found

    def close(self) -> None:
        """Let it finish what is under way, and end."""
        self._pipe.close()
        self._process.join(END_TIMEOUT_S)
        self._take_back()

    def _take_back(self) -> None:
        if self._lent:
            self._lent = False
            self._turn.release()

    def _ended(self) -> Unavailable:
        self._process.join(END_TIMEOUT_S)
        return Unavailable(f"the process that records has ended ({self._process.exitcode})")


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


def _work(settings: Settings, pipe: Connection) -> None:
    """Run groups of commands until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal; the parent closes the pipe
    service = build(settings)
    gc.freeze()
    gc.set_threshold(WRITE_ALLOCATIONS)
    try:
        while True:
            try:
                group = pipe.recv_bytes()
            except EOFError:
                return
            pipe.send_bytes(pickle.dumps(run(service.ledger, group), pickle.HIGHEST_PROTOCOL))
    except BrokenPipeError:
        return  # the parent is gone, and nobody waits for the answers
    finally:
        service.close()


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
        return refusal(error)
    except Exception:
        log.exception("a command of an import failed")
        return refusal(internal_error())
    return receipt(outcome)
