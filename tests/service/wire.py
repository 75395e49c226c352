"""HTTP/1.1 by hand: what no client library sends, and every byte that comes back."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import orjson

WAIT_S: Final = 20.0  # for an answer, on a machine that may be busy


@dataclass(frozen=True)
class Answer:
    """A response as it came over the wire; header names in lower case."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """Return the value of a header, ``None`` when it is not there."""
        return next((value for key, value in self.headers if key == name), None)

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return orjson.loads(self.body)


class Wire:
    """One connection to a server."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.socket = socket.create_connection((parts.hostname, parts.port or 80), WAIT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes; that the server has closed meanwhile is seen when its answer is read."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)

    def ask(self, data: bytes) -> Answer:
        """Send a request and return its answer, which must come."""
        self.send(data)
        return self.read()

    def read(self) -> Answer:
        """Read one response, which must come."""
        answer = self.take()
        assert answer is not None, "the server closed the connection"
        return answer

    def take(self, *, head: bool = False) -> Answer | None:
        """Read one response (``head``: to a HEAD request); ``None`` when the server has closed."""
        try:
            line = self._file.readline()
            if not line:
                return None
            status = int(line.split(b" ", 2)[1])
            headers = []
            while (header := self._file.readline()) not in (b"\r\n", b""):
                name, _, value = header.decode("latin-1").partition(":")
                headers.append((name.lower(), value.strip()))
            found = dict(headers)
            if head or status < 200:  # 100 Continue
                body = b""
            elif found.get("transfer-encoding") == "chunked":
                body = self._read_chunks()
            else:
                body = self._file.read(int(found["content-length"]))
        except ConnectionResetError:
            return None
        return Answer(status, tuple(headers), body)

    def _read_chunks(self) -> bytes:
        chunks = []
        while size := int(self._file.readline(), 16):
            chunks.append(self._file.read(size))
            self._file.readline()
        self._file.readline()
        return b"".join(chunks)

    def is_open(self) -> bool:
        """Tell whether the server still answers on this connection."""
        self.send(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = self.take()
        return answer is not None and answer.status == 200


def request(
    path: str,
    body: bytes = b"",
    *headers: str,
    method: str = "POST",
    version: str = "1.1",
    key: str | None = None,
    media_type: str | None = "application/json",
    length: int | None = -1,
) -> bytes:
    """Return the bytes of a request; ``length`` -1 is that of the body, ``None`` tells none."""
    lines = [f"{method} {path} HTTP/{version}", "host: ledger.test"]
    if key is not None:
        lines.append(f"authorization: Bearer {key}")
    if media_type is not None:
        lines.append(f"content-type: {media_type}")
    if length is not None:
        lines.append(f"content-length: {len(body) if length < 0 else length}")
    return "\r\n".join([*lines, *headers, "", ""]).encode("latin-1") + body


def chunked(body: bytes, size: int) -> bytes:
    """Return a body in chunks of a size."""
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def exchange(url: str, sent: bytes) -> Answer:
    """Send a request on a connection of its own and return its answer, which must come."""
    with Wire(url) as wire:
        return wire.ask(sent)
