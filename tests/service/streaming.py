"""Reading a stream of events, one after the other, as far as a test wants."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson
from httpx_sse import EventSource, ServerSentEvent

from ledger.service.http import live
from tests.service.conftest import ENDLESS, WITHIN_S


@dataclass
class Reading:
    """An open stream, and what was read of it."""

    response: httpx.Response
    messages: Iterator[ServerSentEvent]
    events: list[dict[str, Any]] = field(default_factory=list)
    last_id: str = ""

    def next(self) -> ServerSentEvent:
        """Read one more message; one without data is a heartbeat."""
        message = next(self.messages)
        self.last_id = message.id
        if message.data:
            event = orjson.loads(message.data)
            assert (message.id, message.event) == (str(event["position"]), event["type"])
            self.events.append(event)
        return message

    def up_to(self, position: int) -> list[dict[str, Any]]:
        """Read until the stream says that it is at a position; return all events so far."""
        while not self.last_id or int(self.last_id) < position:
            self.next()
        return self.events

    def to_the_end(self) -> list[dict[str, Any]]:
        """Read until the stream ends as an answer should; return all events."""
        for message in self.messages:
            self.last_id = message.id
            if message.data:
                self.events.append(orjson.loads(message.data))
        return self.events

    @property
    def positions(self) -> list[int]:
        """The positions of the events that were read."""
        return [event["position"] for event in self.events]


@contextmanager
def streaming(
    url: str, key: str, *, last_id: str | None = None, path: str = ENDLESS, **query: Any
) -> Iterator[Reading]:
    """Open a stream; its first message, which names its position, is read."""
    headers = {"Authorization": f"Bearer {key}"}
    if last_id is not None:
        headers["Last-Event-ID"] = last_id
    with httpx.stream(
        "GET", f"{url}{path}", params=query, headers=headers, timeout=WITHIN_S
    ) as response:
        if response.status_code != httpx.codes.OK:
            raise AssertionError(response.read())
        reading = Reading(response, EventSource(response).iter_sse())
        first = reading.next()
        assert (live.RETRY_MS, "") == (first.retry, first.data)
        yield reading
