"""How does a history that was kept elsewhere come into the ledger, and what did not?

A file of batch lines is sent to ``POST /v1/batch``, some at a time and in order: to a service,
or to the application itself in this process, which serves the same route. Nothing is remembered
about how far it came. Each line has an idempotency key, so the same file sent again is answered as
the first time, records nothing twice, and goes on where it stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import orjson

from ledger.domain.errors import InvalidValue, Unavailable
from ledger.service.http.app import create_app
from ledger.service.http.batch import BATCH_LINE_BYTES_MAX, MEDIA_TYPE
from ledger.service.wiring import Service

# So little that the answers fit into what two ends of a connection hold for each other: this client
# sends all of a batch before it takes the first answer.
IMPORT_LINES_MAX: Final = 500
IMPORT_BYTES_MAX: Final = 1024 * 1024
IMPORT_TIMEOUT_S: Final = 120.0  # for one batch; a busy service takes a second or two
REFUSED_KEPT_MAX: Final = 1_000  # more refused lines are counted, and not kept

Progress = Callable[[int], None]
Line = tuple[int, bytes]


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


async def import_file(client: httpx.AsyncClient, path: Path, *, progress: Progress) -> Imported:
    """Send every line of a file; ``progress`` is told how many bytes of it are done.

    Raises ``Unavailable`` when the service cannot be reached or refuses a batch as a whole.
    """
    imported = Imported()
    for lines in _batches(path):
        try:
            response = await client.post("/v1/batch", content=b"".join(line for _, line in lines))
        except httpx.HTTPError as error:
            raise Unavailable(
                f"after {imported.done} lines the service could not be reached: {error!r}; "
                "send the file again to go on"
            ) from None
        if response.status_code != httpx.codes.OK:
            raise Unavailable(f"the service answers {response.status_code}: {response.text}")
        answers = [orjson.loads(line) for line in response.content.splitlines()]
        if len(answers) != len(lines):
            raise Unavailable("the service broke off its answer; send the file again to go on")
        for (number, _), answer in zip(lines, answers, strict=True):
            imported.take(number, answer)
        progress(sum(len(line) for _, line in lines))
    return imported


def _batches(path: Path) -> Iterator[list[Line]]:
    """Yield the lines of a file with their numbers, so many as are sent at a time."""
    lines: list[Line] = []
    size = 0
    with path.open("rb") as file:
        number = 0
        while text := file.readline(BATCH_LINE_BYTES_MAX + 1):
            number += 1
            if len(text) > BATCH_LINE_BYTES_MAX:
                raise InvalidValue(f"line {number} has more than {BATCH_LINE_BYTES_MAX} bytes")
            if not text.strip():
                continue
            lines.append((number, _with_key(number, text)))
            size += len(text)
            if len(lines) == IMPORT_LINES_MAX or size > IMPORT_BYTES_MAX:
                yield lines
                lines, size = [], 0
    if lines:
        yield lines


def _with_key(number: int, text: bytes) -> bytes:
    """Return a line with an idempotency key: its own, or one of its number and its text."""
    try:
        line = orjson.loads(text)
    except orjson.JSONDecodeError:
        line = None
    if not isinstance(line, dict) or "idempotency_key" in line:
        return text.rstrip(b"\r\n") + b"\n"  # what is no command is refused by the service
    digest = hashlib.sha256(b"%d\n%b" % (number, text.strip())).hexdigest()
    return b'{"idempotency_key":"import-%b",' % digest[:32].encode() + text.strip()[1:] + b"\n"


@asynccontextmanager
async def client_of(
    url: str, key: str, service: Service | None
) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of the service at a URL, or of a service that runs here for so long."""
    headers = {
        "Authorization": f"Bearer {key}",
        "Content-Type": MEDIA_TYPE,
        "Prefer": "return=minimal",
    }
    if service is None:
        async with httpx.AsyncClient(
            base_url=url, headers=headers, timeout=IMPORT_TIMEOUT_S
        ) as client:
            yield client
        return
    front = create_app(service)
    async with (
        front.api.router.lifespan_context(front.api),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(front), base_url="http://here", headers=headers
        ) as client,
    ):
        yield client
