"""A process of its own that runs commands, so that whoever reads and answers them need not wait.

One interpreter does one thing at a time. An import that reads lines, decides them, writes rows and
signs checkpoints in one process does these in turn; with the deciding and writing in another, they
go on side by side. It is one more writer of the ledger like any other: when it or its parent is
killed, what was committed is recorded, and nothing else.

Commands and answers cross a pipe as pickles, which nobody but these two processes can write to.
"""

from __future__ import annotations

import multiprocessing
import pickle
import threading
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Final

from ledger.domain.errors import LedgerError, Unavailable

if TYPE_CHECKING:
    from ledger.service.settings import Settings

END_TIMEOUT_S: Final = 30.0  # for the group that is under way to be committed

Answer = int | LedgerError
"""The position of the fact that a command led to, or why it was refused."""


class WriteProcess:
    """A process that runs groups of commands, one group after the other.

    It loads what it needs at once, and opens the ledger of the settings with the first group.
    """

    def __init__(self, settings: Settings) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._lent: threading.RLock | None = None
        self._process = spawn.Process(
            target=_record, args=(settings, theirs), name="ledger-writer", daemon=True
        )
        self._process.start()
        theirs.close()  # else its end would not be seen here

    def begin(self, group: bytes, turn: threading.RLock) -> None:
        """Let it run what ``packed`` returned; ``answers`` must be asked for before the next.

        ``turn`` is that of the store with which this process writes to the same ledger. It is lent
        until then: two processes that wait for the lock of an SQLite file do not take turns.
        """
        turn.acquire()
        self._lent = turn
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
        if self._lent is not None:
            self._lent.release()
            self._lent = None

    def _ended(self) -> Unavailable:
        self._process.join(END_TIMEOUT_S)
        return Unavailable(f"the process that records has ended ({self._process.exitcode})")


def _record(settings: Settings, pipe: Connection) -> None:
    from ledger.service.recording import record  # noqa: PLC0415 - the parent need not load it

    record(settings, pipe)
