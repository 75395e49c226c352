"""What does a serving process write to its log, and in which form?

One line for each record, JSON for machines or text for people, on standard error: from this
program, from uvicorn and from every library, through structlog's formatter.

A log is read by more people than the ledger, and goes to more places. So it holds nobody's data: of
a fault it has the kind and the place, and what it says only when the machine says it (a full disk);
and whatever comes from outside is escaped, so that it can forge no line and move no cursor.
"""

from __future__ import annotations

import json
import logging
import re
import sqlite3
import sys
import threading
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Literal

import structlog
from structlog.typing import EventDict, WrappedLogger

LogFormat = Literal["json", "text"]
FRAMES_SHOWN_MAX: Final = 30  # of a fault, the innermost

# Nothing of a caller's is in what these say: they speak of files, sockets and the machine.
_OF_THE_MACHINE: Final = (OSError, sqlite3.OperationalError, MemoryError)
# Control characters, and those that some readers take for the end of a line or a change of order.
_OF_EVERY_RECORD: Final = frozenset((*vars(logging.makeLogRecord({})), "message", "asctime"))
# What would take the place of something that each line has, and what comes from structlog itself.
_NOT_PLAIN: Final = frozenset(("time", "level", "logger", "event", "_logger", "_record"))
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff]"
)

# In ASCII: what a terminal or a reader of lines might act on is an escape sequence of JSON.
_ENCODER: Final = json.JSONEncoder(default=str)


def configure(form: LogFormat | None) -> None:
    """Send every record of this process to standard error; ``None``: text for a terminal."""
    handler = logging.StreamHandler(sys.stderr)
    render = _as_text if (form or default_format()) == "text" else _as_json
    handler.setFormatter(
        _Lines(
            render,
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
                structlog.stdlib.ExtraAdder(),
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _without_data,
                render,
            ],
            use_get_message=True,
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("ledger").setLevel(logging.INFO)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        # The server makes a line for each request as long as anything would take it, shown or not.
        logging.getLogger(name).propagate = name != "uvicorn.access"
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


class _Lines(structlog.stdlib.ProcessorFormatter):
    """Writes a record without an exception as structlog would, at half the cost.

    Nearly every record is one of a request, and is written by the thread that answers checks.
    """

    def __init__(self, render: Callable[[None, str, EventDict], str], **options: Any) -> None:
        super().__init__(**options)
        self._render = render

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        more = {name: value for name, value in vars(record).items() if name not in _OF_EVERY_RECORD}
        if record.exc_info or record.stack_info or not more.keys().isdisjoint(_NOT_PLAIN):
            return super().format(record)
        return self._render(
            None,
            "",
            {
                "time": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
                "level": record.levelname.lower(),
                "logger": record.name,
                "event": record.getMessage(),
                **more,
            },
        )


def default_format() -> LogFormat:
    """Return the form for whoever reads standard error: a terminal is a person's."""
    return "text" if sys.stderr.isatty() else "json"


def escaped(text: str) -> str:
    r"""Return a text on one line, with ``\x1b`` and the like for what must not be printed."""
    return _UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text)


def _without_data(_: WrappedLogger, __: str, record: EventDict) -> EventDict:
    """Replace an exception by its kind and its place, because what it says may be a caller's."""
    raised = record.pop("exc_info", None)
    record.pop("stack_info", None)
    if raised:
        error = (sys.exc_info() if raised is True else raised)[1]
        if error is not None:
            record["fault"] = [
                said for one in _chain(error) for said in (_named(one), *_places(one))
            ]
    return record


def _chain(error: BaseException) -> list[BaseException]:
    """Return an exception and those it was raised from or in, the first cause last."""
    found: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in found:
        found.append(one)
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    return found


def _named(error: BaseException) -> str:
    kind = f"{type(error).__module__}.{type(error).__qualname__}"
    if isinstance(error, _OF_THE_MACHINE):
        return f"{kind}: {error.strerror if isinstance(error, OSError) else error}"
    return kind


def _places(error: BaseException) -> list[str]:
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES_SHOWN_MAX:]
    return [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in reversed(frames)]


def _as_json(_: WrappedLogger, __: str, record: EventDict) -> str:
    head = {key: record.pop(key) for key in ("time", "level", "logger", "event") if key in record}
    return _ENCODER.encode({**head, **record}).replace("\x7f", "\\u007f")


def _as_text(_: WrappedLogger, __: str, record: EventDict) -> str:
    fault = record.pop("fault", ())
    head = [str(record.pop(key, "")) for key in ("time", "level", "logger", "event")]
    rest = [f"{key}={json.dumps(value, default=str)}" for key, value in record.items()]
    # A line of a fault is indented, so that it cannot be taken for a record of its own.
    lines = [" ".join((*head, *rest)), *(f"    {line}" for line in fault)]
    return "\n".join(escaped(line) for line in lines)


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("ledger").critical("uncaught", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(arguments: Any) -> None:
    if arguments.exc_value is not None:
        _log_uncaught(arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
