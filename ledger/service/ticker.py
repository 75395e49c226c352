"""Records that terms ended by themselves.

Access is back at the instant ``ends_at`` by computation; this only writes down that it was. Every
process may run one: the decision is taken under the write lock, so each term is recorded once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Final

from ledger.application import Ledger
from ledger.domain.errors import LogNotVerified
from ledger.store.recorder import LedgerRecorder
from projections.access import AccessRows

TICK_INTERVAL_S: Final = 1.0  # a record of the past may be a second late
TERMS_TOGETHER_MAX: Final = 500  # recorded in one transaction, so that other writes get their turn

log = logging.getLogger(__name__)


class Ticker:
    """Looks once a second for terms that are over and not recorded as served."""

    def __init__(
        self,
        ledger: Ledger,
        recorder: LedgerRecorder,
        access: AccessRows,
        clock: Callable[[], datetime],
    ) -> None:
        self._ledger = ledger
        self._recorder = recorder
        self._access = access
        self._clock = clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ticker", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Finish what is under way, then stop."""
        self._stop.set()
        self._thread.join()

    def tick(self) -> int:
        """Record everything that is due now; return how many terms were recorded."""
        recorded = 0
        while not self._stop.is_set():
            with self._recorder.store.transaction(commit=False) as c:
                due = self._access.due(c, self._clock(), TERMS_TOGETHER_MAX)
            if not due:
                break
            served = self._ledger.serve_terms(due)
            recorded += len(served)
            if not served:
                # Others recorded them meanwhile, or the ledger's clock is behind this one's.
                break
        return recorded

    def _run(self) -> None:
        while not self._stop.wait(TICK_INTERVAL_S):
            try:
                if self._recorder.store.leads():
                    self.tick()
            except LogNotVerified:
                pass  # it was said when the doubt arose; the terms are recorded when it is gone
            except Exception:
                # Access does not depend on it: the next tick tries again, and says so again.
                log.exception("recording served terms failed")
