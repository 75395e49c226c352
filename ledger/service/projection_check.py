"""Do the rows that checks and lists are answered from still say what the events say?

Whoever can write to the database can change a row of a projection, and with it who is let in after
the next start. So all projections are made anew and compared, again and again, while the service
runs; by another process, of the lowest priority, because that takes as much computing as a rebuild.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Final

import orjson

from ledger.service.signer import AUDIT_INTERVAL_S, AUDIT_REST

LOOK_INTERVAL_S: Final = 0.1  # between two looks whether the other process is done
LOWEST_PRIORITY: Final = 19  # of Linux and other Unix systems

log = logging.getLogger(__name__)


class ProjectionCheck:
    """Compares, and tells ``on_difference`` once, in its own thread, what differs."""

    def __init__(self, database_url: str, on_difference: Callable[[str], object]) -> None:
        self._database_url = database_url
        self._on_difference = on_difference
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="projection-check", daemon=True)

    def start(self) -> None:
        """Begin; the first comparison comes after a pause, when the start is over."""
        self._thread.start()

    def stop(self) -> None:
        """Give up what is under way, and stop."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        pause = AUDIT_INTERVAL_S
        while not self._stop.wait(pause):
            began = time.monotonic()
            tables = None
            try:
                tables = self._differing()
            except (OSError, orjson.JSONDecodeError):
                log.exception("the projections could not be compared; it is tried again")
            if tables:
                self._on_difference(
                    f"rows of {', '.join(tables)} are not what the events say: they were changed "
                    "behind the ledger's back. compliance-ledger rebuild --check shows them, "
                    "compliance-ledger rebuild replaces them; then start again"
                )
                return
            pause = max(AUDIT_INTERVAL_S, AUDIT_REST * (time.monotonic() - began))

    def _differing(self) -> list[str]:
        """Return the tables that differ; none when told to stop meanwhile."""
        with tempfile.TemporaryFile() as found:
            process = subprocess.Popen(
                [sys.executable, "-m", "ledger.service.compare_projections"],
                stdin=subprocess.DEVNULL,
                stdout=found,
                env={**os.environ, "LEDGER_DATABASE_URL": self._database_url},
            )
            os.setpriority(os.PRIO_PROCESS, process.pid, LOWEST_PRIORITY)
            while process.poll() is None:
                if self._stop.wait(LOOK_INTERVAL_S):
                    process.kill()  # it only reads
                    process.wait()
                    return []
            found.seek(0)
            tables: list[str] = orjson.loads(found.read())
            return tables
