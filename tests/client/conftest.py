"""A founded service over a real socket, and what stands between it and a client to do harm."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from tests.service.conftest import Running, shared

__all__ = ["shared"]  # a fixture, for every test here

HOP_BY_HOP = {"host", "connection", "transfer-encoding", "content-length"}


@dataclass
class Harmful:
    """A proxy before a ledger that does something to the next requests, one harm for each.

    ``cut``: the ledger is asked, and its answer thrown away with the connection; ``refuse``: the
    connection is closed unasked; a number: that status is answered, with ``Retry-After: 7``.
    """

    url: str
    harms: list[str | int] = field(default_factory=list)
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def keys(self) -> list[str | None]:
        """The idempotency keys of the requests, in their order."""
        return [headers.get("idempotency-key") for _, _, headers in self.seen]


@pytest.fixture
def harmful(shared: Running) -> Iterator[Harmful]:
    """A harmful proxy before the shared service."""
    state = Harmful("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {k.lower(): v for k, v in self.headers.items()}
            state.seen.append((self.command, self.path, headers))
            harm = state.harms.pop(0) if state.harms else None
            if harm == "refuse":
                self.close_connection = True
                return
            if isinstance(harm, int):
                self._send(harm, b"<html>busy</html>", {"retry-after": "7"})
                return
            sent = {k: v for k, v in headers.items() if k not in HOP_BY_HOP}
            answer = httpx.request(
                self.command, shared.url + self.path, headers=sent, content=body, timeout=20
            )
            if harm == "cut":
                self.close_connection = True
                return
            kept = {k: v for k, v in answer.headers.items() if k not in HOP_BY_HOP}
            self._send(answer.status_code, answer.content, kept)

        def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    for method in ("GET", "POST", "PUT", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.handle_any)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield state
    server.shutdown()
    thread.join()
    server.server_close()
