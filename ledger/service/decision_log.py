"""A log of decisions, for asking later which requests a wrong suspension refused.

It is off unless a file is named. Decisions are handed to a thread through a bounded queue, so a
slow disk never slows a check; what does not fit is dropped and counted. It is a log, not the
ledger: it proves nothing, and may be rotated and deleted.
"""

from __future__ import annotations

import itertools
import queue
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from ledger.domain.values import format_instant, from_microseconds

WAITING_MAX: Final = 100_000  # some seconds of a busy process: about 50 MB
WRITTEN_TOGETHER: Final = 1_000  # lines of one write


class DecisionLog:
    """Writes decisions as lines of JSON. Denials are always logged, permits as ``sample`` says.

    ``sample`` is the share of permits that is logged, from 0 to 1: one of every ``1 / sample``.
    """

    def __init__(self, path: Path, *, sample: float) -> None:
        self._path = path
        self._every = round(1 / sample) if sample else 0
        self._waiting: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        self._prefix = secrets.token_hex(8)
        self._numbers = itertools.count(1)
        self._permits = itertools.count()
        self._thread = threading.Thread(target=self._write, name="decision-log", daemon=True)
        self.dropped = 0

    def start(self) -> None:
        """Begin to write."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._thread.start()

    def stop(self) -> None:
        """Write what is waiting, then stop."""
        self._waiting.put(None)
        self._thread.join()

    def takes(self, *, allowed: bool) -> bool:
        """Tell whether the next decision is to be logged."""
        if not allowed:
            return True
        return self._every > 0 and next(self._permits) % self._every == 0

    def record(
        self,
        *,
        at: int,
        subject: str,
        action: str,
        resource: str,
        allowed: bool,
        reasons: Sequence[str],
        suspensions: Sequence[str],
        position: int,
    ) -> str:
        """Hand a decision over for writing; returns its id, under which it is in the log."""
        decision = f"dec_{self._prefix}{next(self._numbers):012x}"
        if self._waiting.qsize() >= WAITING_MAX:
            self.dropped += 1
        else:
            self._waiting.put(
                (decision, at, subject, action, resource, allowed, reasons, suspensions, position)
            )
        return decision

    def _write(self) -> None:
        with self._path.open("ab") as file:
            while (first := self._waiting.get()) is not None:
                lines = [_line(*first)]
                last = False
                while len(lines) < WRITTEN_TOGETHER and not self._waiting.empty():
                    waiting = self._waiting.get()
                    if waiting is None:
                        last = True
                        break
                    lines.append(_line(*waiting))
                # One write in append mode: lines of several processes do not mix.
                file.write(b"".join(lines))
                file.flush()
                if last:
                    return


def _line(
    decision: str,
    at: int,
    subject: str,
    action: str,
    resource: str,
    allowed: bool,  # noqa: FBT001 - a column
    reasons: Sequence[str],
    suspensions: Sequence[str],
    position: int,
) -> bytes:
    return orjson.dumps(
        {
            "decision_id": decision,
            "at": format_instant(from_microseconds(at)),
            "subject": subject,
            "action": action,
            "resource": resource,
            "decision": allowed,
            "reasons": reasons,
            "suspensions": suspensions,
            "position": position,
        },
        option=orjson.OPT_APPEND_NEWLINE,
    )


def refused_by(path: Path, suspensions: frozenset[str]) -> Iterator[Mapping[str, Any]]:
    """Yield the logged decisions that one of these suspensions refused, in the order of the log.

    A last line that was cut off by a crash is passed over.
    """
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            decision = orjson.loads(line)
            if not decision["decision"] and not suspensions.isdisjoint(decision["suspensions"]):
                yield decision
