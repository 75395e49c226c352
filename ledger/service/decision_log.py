"""A log of decisions, for asking later which requests a wrong suspension refused.

It is off unless a file is named. Decisions are handed to a thread through a bounded queue, so a
slow disk never slows a check; what does not fit is dropped and counted. It is a log, not the
ledger: it proves nothing, and may be rotated and deleted.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import os
import queue
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from ledger.domain.errors import Unavailable
from ledger.domain.values import format_instant, from_microseconds

WAITING_MAX: Final = 100_000  # some seconds of a busy process: about 50 MB
WRITTEN_TOGETHER: Final = 1_000  # lines of one write

log = logging.getLogger(__name__)


class DecisionLog:
    """Writes decisions as lines of JSON. Denials are always logged, permits as ``sample`` says.

    ``sample`` is the share of permits that is logged, from 0 to 1, evenly spread. ``dropped``
    counts the decisions that are not in the log though they were to be: the queue was full, or the
    file could not be written.
    """

    def __init__(self, path: Path, *, sample: float) -> None:
        self._path = path
        self._sample = sample
        self._waiting: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        self._prefix = secrets.token_hex(8)
        self._numbers = itertools.count(1)
        self._permits = itertools.count(1)
        self._thread = threading.Thread(target=self._write, name="decision-log", daemon=True)
        self.dropped = 0

    def start(self) -> None:
        """Begin to write; raises ``Unavailable`` when the file cannot be."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a+b") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    if file.read() != b"\n":
                        file.write(b"\n")  # a crash cut the last line off; the next stands alone
        except OSError as error:
            raise Unavailable(
                f"the decision log {self._path} cannot be written: {error.strerror}"
            ) from None
        self._thread.start()

    def stop(self) -> None:
        """Write what is waiting, then stop."""
        self._waiting.put(None)
        self._thread.join()

    def takes(self, *, allowed: bool) -> bool:
        """Tell whether the next decision is to be logged."""
        if not allowed:
            return True
        number = next(self._permits)
        return int(number * self._sample) > int((number - 1) * self._sample)

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
        # Unbuffered: one write in append mode, so lines of several processes do not mix.
        with self._path.open("ab", buffering=0) as file:
            while (first := self._waiting.get()) is not None:
                lines = [_line(*first)]
                last = False
                while len(lines) < WRITTEN_TOGETHER and not self._waiting.empty():
                    waiting = self._waiting.get()
                    if waiting is None:
                        last = True
                        break
                    lines.append(_line(*waiting))
                self._append(file, lines)
                if last:
                    return

    def _append(self, file: io.FileIO, lines: Sequence[bytes]) -> None:
        text = b"".join(lines)
        try:
            written = file.write(text)
        except OSError:
            self.dropped += len(lines)
            log.exception("%d decisions are not in the decision log", len(lines))
        else:
            if written < len(text):  # the disk is full; the line that was cut off is ended
                self.dropped += text[written:].count(b"\n")
                log.error("the decision log is cut off after %d of %d bytes", written, len(text))
                with contextlib.suppress(OSError):
                    file.write(b"\n")


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

    A line that was cut off by a crash or a full disk is passed over.
    """
    with path.open("rb") as file:
        for line in file:
            try:
                decision = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue
            if not decision["decision"] and not suspensions.isdisjoint(decision["suspensions"]):
                yield decision
