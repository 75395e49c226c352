"""How does a history that was kept elsewhere come into the ledger, and what did not?

A file of batch lines is sent to ``POST /v1/batch``, some at a time and in order: to a service,
or to the application itself in this process, which serves the same route. Nothing is remembered
about how far it came. Each line has an idempotency key, so the same file sent again is answered as
the first time, records nothing twice, and goes on where it stopped.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final

import httpx
import orjson
from starlette.types import ASGIApp, Message

from ledger.domain.errors import InvalidValue, Unavailable
from ledger.service.http.app import create_app
from ledger.service.http.batch import BATCH_LINE_BYTES_MAX, BATCH_LINES_MAX, MEDIA_TYPE
from ledger.service.wiring import Service
from ledger.service.writer import COMMANDS_TOGETHER_MAX

# Over HTTP this client sends all of a request before it takes the first answer, so they are so few
# that the answers fit into what two ends of a connection hold for each other.
IMPORT_LINES_MAX: Final = 512
IMPORT_PART_BYTES_MAX: Final = 256 * 1024  # of lines that are read and sent at a time
IMPORT_TIMEOUT_S: Final = 120.0  # for one request; a busy service takes a second or two
REFUSED_KEPT_MAX: Final = 1_000  # more refused lines are counted, and not kept

Progress = Callable[[int], None]
Part = list[tuple[int, bytes]]


@dataclass(slots=True)
class Imported:
    """What became of the lines of a file; ``refused`` holds the first answers that are problems."""

    done: int = 0
    refused_count: int = 0
    position: int = 0
    refused: list[dict[str, Any]] = field(default_factory=list)

    def take(self, number: int, answer: dict[str, Any]) -> None:
        """Count the answer to the line of the file that has this number."""
        if "problem" not in answer:
            self.done += 1
            self.position = max(self.position, answer["position"])
            return
        self.refused_count += 1
        if len(self.refused) < REFUSED_KEPT_MAX:
            self.refused.append({**answer, "line": number})


@dataclass(frozen=True, slots=True)
class Importer:
    """A client of the service that records, and how many lines one request to it may have."""

    client: httpx.AsyncClient
    lines_max: int


async def import_file(importer: Importer, path: Path, *, progress: Progress) -> Imported:
    """Send every line of a file; ``progress`` is told how many bytes of it are done.

    Raises ``Unavailable`` when the service cannot be reached or refuses a batch as a whole.
    """
    imported = Imported()
    parts = _parts(path)
    for first in parts:
        rest = islice(parts, importer.lines_max // COMMANDS_TOGETHER_MAX - 1)
        try:
            await _send(importer.client, chain([first], rest), imported, progress)
        except httpx.HTTPError as error:
            raise Unavailable(
                f"after {imported.done} lines the service could not be reached: {error!r}; "
                "send the file again to go on"
            ) from None
    return imported


async def _send(
    client: httpx.AsyncClient, parts: Iterable[Part], imported: Imported, progress: Progress
) -> None:
    """Send parts of a file in one request, and take the answers as they come."""
    sent: deque[tuple[int, int]] = deque()

    async def content() -> AsyncIterator[bytes]:
        for part in parts:
            sent.extend((number, len(line)) for number, line in part)
            yield b"".join(line for _, line in part)

    async with client.stream("POST", "/v1/batch", content=content()) as response:
        if response.status_code != httpx.codes.OK:
            text = (await response.aread()).decode(errors="replace")
            raise Unavailable(f"the service answers {response.status_code}: {text}")
        rest = b""
        async for some in response.aiter_bytes():
            *ended, rest = (rest + some).split(b"\n")
            size = 0
            for answer in ended:
                number, length = sent.popleft()
                imported.take(number, orjson.loads(answer))
                size += length
            progress(size)
    if sent:
        raise Unavailable("the service broke off its answer; send the file again to go on")


def _parts(path: Path) -> Iterator[Part]:
    """Yield the lines of a file with their numbers, so many as are committed together."""
    part: Part = []
    size = 0
    with path.open("rb") as file:
        number = 0
        while text := file.readline(BATCH_LINE_BYTES_MAX + 1):
            number += 1
            if len(text) > BATCH_LINE_BYTES_MAX:
                raise InvalidValue(f"line {number} has more than {BATCH_LINE_BYTES_MAX} bytes")
            if not text.strip():
                continue
            part.append((number, _with_key(number, text)))
            size += len(text)
            if len(part) == COMMANDS_TOGETHER_MAX or size > IMPORT_PART_BYTES_MAX:
                yield part
                part, size = [], 0
    if part:
        yield part


def _with_key(number: int, text: bytes) -> bytes:
    """Return a line with an idempotency key: its own, or one of its number and its text."""
    try:
        line = orjson.loads(text)
    except orjson.JSONDecodeError:
        line = None
    if not isinstance(line, dict) or "idempotency_key" in line:
        return text.rstrip(b"\r\n") + b"\n"  # what is no command is refused by the service
    # The number comes first, so that keys come in the order in which they are kept: else each would
    # be written into another page of the database.
    digest = hashlib.sha256(text.strip()).hexdigest()[:32]
    key = f"import-{number:012d}-{digest}".encode()
    return b'{"idempotency_key":"%b",' % key + text.strip()[1:] + b"\n"


@asynccontextmanager
async def importer_of(url: str, key: str, service: Service | None) -> AsyncIterator[Importer]:
    """Yield what sends to the service at a URL, or to a service that runs here for so long."""
    headers = {
        "Authorization": f"Bearer {key}",
        "Content-Type": MEDIA_TYPE,
        "Prefer": "return=minimal",
    }
    if service is None:
        async with httpx.AsyncClient(
            base_url=url, headers=headers, timeout=IMPORT_TIMEOUT_S
        ) as client:
            yield Importer(client, IMPORT_LINES_MAX)
        return
    front = create_app(service)
    async with (
        front.api.router.lifespan_context(front.api),
        httpx.AsyncClient(
            transport=_Here(front), base_url="http://here", headers=headers
        ) as client,
    ):
        yield Importer(client, BATCH_LINES_MAX)


class _Here(httpx.AsyncBaseTransport):
    """Asks an application in this process, which answers while the request is still being sent."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Begin a request; its answer is made while it is taken."""
        assert isinstance(request.stream, httpx.AsyncByteStream)
        body = aiter(request.stream)
        answer: asyncio.Queue[Message | None] = asyncio.Queue(1)

        async def receive() -> Message:
            some = await anext(body, None)
            return {"type": "http.request", "body": some or b"", "more_body": some is not None}

        async def run() -> None:
            try:
                await self._app(_scope(request), receive, answer.put)
            finally:
                await answer.put(None)

        running = asyncio.create_task(run())
        start = await answer.get()
        if start is None:
            await running
            raise httpx.RemoteProtocolError("the application did not answer")
        return httpx.Response(
            start["status"], headers=start["headers"], stream=_Answer(answer, running)
        )


class _Answer(httpx.AsyncByteStream):
    """The body of an answer that an application is making."""

    def __init__(self, answer: asyncio.Queue[Message | None], running: asyncio.Task[None]) -> None:
        self._answer = answer
        self._running = running

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield what comes."""
        while (message := await self._answer.get()) is not None:
            yield message.get("body", b"")
        await self._running

    async def aclose(self) -> None:
        """Let the application go."""
        self._running.cancel()


def _scope(request: httpx.Request) -> dict[str, Any]:
    """Return a request as an application takes it."""
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "scheme": request.url.scheme,
        "path": request.url.path,
        "raw_path": request.url.raw_path.partition(b"?")[0],
        "query_string": request.url.query,
        "server": (request.url.host, request.url.port),
        "client": ("127.0.0.1", 0),
        "root_path": "",
    }
