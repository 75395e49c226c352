"""How does somebody at a terminal watch the trail? From a service, or from the database itself.

Both ways yield the events that match, oldest first, each once, without an end. A service is asked
again when it goes away, from the last position that was seen.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

import httpx
import orjson
from httpx_sse import EventSource

from ledger.domain.errors import InvalidValue, LedgerError, Unavailable
from ledger.domain.values import parse_instant
from ledger.service.http.events import shown
from ledger.service.http.shapes import model_key, subject_key
from ledger.service.wiring import Service

SILENCE_MAX_S: Final = 40.0  # two heartbeats that did not come, and some
REACH_WITHIN_S: Final = 10.0  # a service that cannot be reached so long is tried again
COME_BACK_MIN_S: Final = 0.5  # doubled each time, as long as no event comes
COME_BACK_MAX_S: Final = 30.0  # longer, and a person thinks that it gave up
TAIL_PAGE: Final = 500  # events that are read from the database at once

_MAY_PASS: Final = frozenset((429, 502, 503, 504))  # statuses of a service or proxy in trouble

Event = Mapping[str, Any]


def trail_filters(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the filters of the trail, from what the parameters of ``GET /v1/events`` say.

    Raises ``InvalidValue``.
    """
    return {
        "subject": subject_key(asked.get("subject")),
        "types": tuple(asked.get("type") or ()),
        "operator": asked.get("operator"),
        "on_behalf_of": asked.get("on_behalf_of"),
        "policy": asked.get("policy"),
        "category": asked.get("category"),
        "resource": model_key(asked.get("resource"), parameter="resource"),
        "recorded_from": _instant(asked.get("from"), "from"),
        "recorded_to": _instant(asked.get("to"), "to"),
        "q": asked.get("q"),
    }


def _instant(text: str | None, parameter: str) -> datetime | None:
    try:
        return None if text is None else parse_instant(text)
    except ValueError as error:
        raise InvalidValue(f"{parameter} {error}", field=parameter) from None


def from_database(
    service: Service, filters: Mapping[str, Any], *, since: int | None
) -> Iterator[Event]:
    """Yield the events after a position, or from now on, as the database gets them."""
    never = threading.Event()
    position, version = since, -1
    while True:
        seen = service.recorder.store.data_version()
        if seen != version:
            more = True
            while more:
                with service.reading(newest=True) as (c, head):
                    after = head if position is None else position
                    found = service.trail.events(
                        c,
                        position=head,
                        limit=TAIL_PAGE,
                        cursor_position=after,
                        oldest_first=True,
                        **filters,
                    )
                    events = [
                        shown(service, c, each) for each in service.recorder.at_positions(found)
                    ]
                yield from events
                more = len(found) == TAIL_PAGE
                position = found[-1] if more else max(after, head)
            version = seen
        service.recorder.store.await_commit(never)


def from_service(
    url: str,
    key: str,
    asked: Mapping[str, Any],
    *,
    since: int | None,
    tell: Callable[[str], object],
    pause: Callable[[float], object] = time.sleep,
) -> Iterator[Event]:
    """Yield the events that a service streams; whenever it goes away, come back to it.

    ``tell`` is called with what kept it from answering. Raises ``LedgerError`` when the service
    refuses, and would refuse again.
    """
    last_id = None if since is None else str(since)
    wait_s = COME_BACK_MIN_S
    timeout = httpx.Timeout(REACH_WITHIN_S, read=SILENCE_MAX_S)
    with httpx.Client(timeout=timeout, headers={"Authorization": f"Bearer {key}"}) as http:
        while True:
            at_least_s = 0.0
            try:
                headers = {"Accept": "text/event-stream"}
                if last_id is not None:
                    headers["Last-Event-ID"] = last_id
                with http.stream(
                    "GET", f"{url.rstrip('/')}/v1/events/stream", params=asked, headers=headers
                ) as response:
                    _require_stream(response)
                    for event in EventSource(response).iter_sse():
                        last_id = event.id or last_id
                        if event.retry is not None:
                            at_least_s = event.retry / 1_000
                        if event.data:
                            wait_s = COME_BACK_MIN_S
                            yield orjson.loads(event.data)
            except Unavailable as error:
                tell(str(error))
                at_least_s = float(str(error.more["retry_after_s"]))
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise InvalidValue(f"--url {url!r}: {error}") from None
            except httpx.TransportError as error:
                tell(f"{url} cannot be read: {str(error) or type(error).__name__}")
            # Not all at once, when many were cut off together.
            pause(max(at_least_s, wait_s) * random.uniform(0.75, 1.25))  # noqa: S311 - no secret
            wait_s = min(2 * wait_s, COME_BACK_MAX_S)


def _require_stream(response: httpx.Response) -> None:
    """Raise ``Unavailable`` when it may be there later, ``LedgerError`` when it will not be."""
    if response.status_code == httpx.codes.OK:
        media_type = response.headers.get("content-type", "").partition(";")[0]
        if media_type != "text/event-stream":
            raise LedgerError(f"{response.url} answers {media_type or 'nothing'}, and no events")
        return
    response.read()
    detail, hint = f"{response.url} answers {response.status_code}.", ""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        problem = response.json()
        detail, hint = f"{problem['detail']}.", f" {problem['hint']}"
    if response.status_code in _MAY_PASS:
        raw = response.headers.get("retry-after", "")
        raise Unavailable(detail, retry_after_s=float(raw) if raw.isdigit() else 0.0)
    raise LedgerError(detail + hint)


def plain(text: str) -> str:
    """Return a text in which nothing moves a cursor, changes a colour or turns a line around."""
    return "".join(each if each.isprintable() else f"\\u{ord(each):04x}" for each in text)
