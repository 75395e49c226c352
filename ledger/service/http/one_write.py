"""How does an answer leave in one piece? uvicorn writes its head, and then its body.

Each write is a call of the kernel and a packet, and wakes whoever waits for it: together they cost
more than the answer took to make. So for the moment in which an answer is sent whole, what uvicorn
writes to is not the connection but a list.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from starlette.types import Scope

TRANSPORT_KEY: Final = "transport"
"""Under this name a request that the parser hands over carries its connection's transport."""


class _Joined:
    """What uvicorn's cycle does with a connection: it writes, and closes it after the last."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._parts: list[bytes] = []

    def write(self, part: bytes) -> None:
        """Keep a part."""
        self._parts.append(part)

    def close(self) -> None:
        """Write what is kept, then close."""
        self.flush()
        self._transport.close()

    def flush(self) -> None:
        """Write what is kept."""
        parts, self._parts = self._parts, []
        if parts:
            self._transport.write(b"".join(parts))


@contextmanager
def in_one_write(scope: Scope) -> Iterator[None]:
    """Write what a request is answered in the block at its end, at once.

    Only for an answer that is there, whole: nothing of it leaves before. Where uvicorn alone parsed
    the request, or reads a later one of the connection already, it writes as ever.
    """
    transport = scope.get("state", {}).get(TRANSPORT_KEY)
    cycle = None if transport is None else transport.get_protocol().cycle
    if cycle is None or cycle.scope is not scope:
        yield
        return
    cycle.transport = joined = _Joined(transport)
    try:
        yield
    finally:
        cycle.transport = transport
        joined.flush()
