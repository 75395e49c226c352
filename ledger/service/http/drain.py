"""How does a serving process end without a caller noticing more than it must?

Told to stop, it first says so on ``/readyz`` and serves on for a while, so that whoever sends it
requests can look away. Then it winds its connections down, each after one more answer or a moment
of silence, and still takes new ones. It stops listening when the last connection is gone that was
there before, so nobody is refused while anybody is served.

It steps between the signal and uvicorn, whose own way is to stop listening at once.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

import uvicorn

from ledger.service.feed import Feed
from ledger.service.http.protocol import CheckProtocol

DRAIN_S: Final = 30.0  # how long open requests may take once the connections are wound down
LAST_S: Final = 1  # at least this is left to uvicorn for what came in meanwhile
LOOK_INTERVAL_S: Final = 0.02

log = logging.getLogger(__name__)


class Drain:
    """The end of one process. ``begun`` is what ``/readyz`` tells."""

    def __init__(self, feed: Feed, *, delay_s: float) -> None:
        self.begun = False
        self._feed = feed
        self._delay_s = delay_s
        self._task: asyncio.Task[None] | None = None

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take the signals to stop from the server that runs in this thread, if one does."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            stop = signal.getsignal(number)
            server = getattr(stop, "__self__", None)
            if isinstance(server, uvicorn.Server) and callable(stop):
                signal.signal(number, self._handler(loop, server, stop))

    def _handler(
        self, loop: asyncio.AbstractEventLoop, server: uvicorn.Server, stop: Callable[..., Any]
    ) -> Callable[[int, FrameType | None], None]:
        def handle(number: int, frame: FrameType | None) -> None:
            if self.begun:  # told twice: without more ado
                stop(number, frame)
                return
            self.begun = True

            def begin() -> None:
                self._task = loop.create_task(self._drain(server, lambda: stop(number, None)))

            loop.call_soon_threadsafe(begin)

        return handle

    async def _drain(self, server: uvicorn.Server, stop: Callable[[], object]) -> None:
        loop = asyncio.get_running_loop()
        log.info("draining", extra={"connections": len(server.server_state.connections)})
        try:
            await asyncio.sleep(self._delay_s)
            self._feed.drain()
            until = loop.time() + DRAIN_S
            connections = server.server_state.connections
            before = set(connections)
            while before & connections and not server.should_exit and loop.time() < until:
                for connection in list(connections):
                    if isinstance(connection, CheckProtocol):
                        connection.wind_down()
                    else:
                        connection.shutdown()
                await asyncio.sleep(LOOK_INTERVAL_S)
            server.config.timeout_graceful_shutdown = max(LAST_S, int(until - loop.time()))
        finally:
            stop()
