"""How does a history that was kept elsewhere come into the ledger, and what did not?

A file of batch lines is recorded some at a time and in order: by a service at a URL, which is sent
them by ``POST /v1/batch``, or by this process, which reads and judges each line as that route does
and has another process record it. Nothing is remembered about how far it came. Each line has an
idempotency key, so the same file sent again is answered as the first time, records nothing twice,
and goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx
import orjson
from starlette.applications import Starlette
from starlette.requests import Request

from ledger.domain.errors import InvalidValue, LedgerError, Unavailable
from ledger.domain.events import Author
from ledger.service.http.batch import BATCH_LINE_BYTES_MAX, MEDIA_TYPE, asked_by, refusal
from ledger.service.http.commands import commands
from ledger.service.http.problems import NotAuthenticated
from ledger.service.recording import packed
from ledger.service.wiring import Service
from ledger.service.write_process import Answer, WriteProcess
from projections.operators import Caller, Keyring

# Over HTTP this client sends all of a request before it takes the first answer, so lines are so few
# that the answers fit into what two ends of a connection hold for each other. Without a service
# they are one transaction, which holds everybody else up for some 50 ms.
IMPORT_LINES_MAX: Final = 512
IMPORT_PART_BYTES_MAX: Final = 512 * 1024  # of lines that are read and sent at a time
IMPORT_TIMEOUT_S: Final = 120.0  # for one request; a busy service takes a second or two
KEY_LOOK_S: Final = 0.5  # between two looks whether the key still counts: half of what is promised
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


# --- by a service at a URL ------------------------------------------------------------------------


async def import_to(url: str, key: str, path: Path, *, progress: Progress) -> Imported:
    """Send every line of a file to a service; ``progress`` is told how many bytes of it are done.

    Raises ``Unavailable`` when the service cannot be reached or refuses a batch as a whole.
    """
    imported = Imported()
    headers = {
        "Authorization": f"Bearer {key}",
        "Content-Type": MEDIA_TYPE,
        "Prefer": "return=minimal",
    }
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=IMPORT_TIMEOUT_S) as client:
        for part in parts_of(path):
            try:
                progress(await _send(client, part, imported))
            except httpx.HTTPError as error:
                raise Unavailable(
                    f"after {imported.done} lines the service could not be reached: {error!r}; "
                    "send the file again to go on"
                ) from None
    return imported


async def _send(client: httpx.AsyncClient, part: Part, imported: Imported) -> int:
    """Send lines in one request, and take the answers as they come; return how long they are."""
    sent = iter(part)
    size = taken = 0
    body = b"".join(line for _, line in part)
    async with client.stream("POST", "/v1/batch", content=body) as response:
        if response.status_code != httpx.codes.OK:
            text = (await response.aread()).decode(errors="replace")
            raise Unavailable(f"the service answers {response.status_code}: {text}")
        rest = b""
        async for some in response.aiter_bytes():
            *ended, rest = (rest + some).split(b"\n")
            for answer, (number, line) in zip(ended, sent, strict=False):
                imported.take(number, orjson.loads(answer))
                size += len(line)
                taken += 1
    if taken < len(part):
        raise Unavailable("the service broke off its answer; send the file again to go on")
    return size


# --- by this process and another ------------------------------------------------------------------


def import_here(
    service: Service, writing: WriteProcess, key: str, path: Path, *, progress: Progress
) -> Imported:
    """Record every line of a file in the database of a service that is built and not started.

    While one group of lines is recorded by the other process, the next is read here, and what is
    recorded is signed here. Raises ``InvalidValue`` when the key counts for nothing, and
    ``Unavailable`` when the other process has ended.
    """
    imported = Imported()
    under_way: _Group | None = None
    with service.signing(), closing(writing):
        reader = Reader(service, key)
        for part in parts_of(path):
            group = reader.read(part)
            service.signer.require_verified()
            done = None if under_way is None else (under_way, writing.answers())
            writing.begin(group.packed, service.recorder.store.turn)
            under_way = group
            if done is not None:
                progress(done[0].take(done[1], imported))
        if under_way is not None:
            progress(under_way.take(writing.answers(), imported))
    return imported


@dataclass(frozen=True, slots=True)
class _Group:
    """Lines that take their turn together: number, length, and why a line had no turn."""

    lines: Sequence[tuple[int, int, LedgerError | None]]
    packed: bytes

    def take(self, answers: Iterable[Answer], imported: Imported) -> int:
        """Count the answers; return how long the lines are."""
        coming = iter(answers)
        size = 0
        for number, length, refused in self.lines:
            found = refused or next(coming)
            if isinstance(found, LedgerError):
                imported.take(number, refusal(found))
            else:
                imported.take(number, {"position": found})
            size += length
        return size


class Reader:
    """Reads lines as the route of a batch does, for whoever has a key."""

    def __init__(self, service: Service, key: str) -> None:
        self._service = service
        self._key = key.encode()
        self._looked = -KEY_LOOK_S
        self._keyring = Keyring()
        app = Starlette()
        app.state.service, app.state.commands = service, commands()
        self._request = Request({"type": "http", "app": app, "headers": []})
        caller = self._caller()
        if caller is None:
            raise InvalidValue("no operator has the key that is given, or it is revoked or expired")
        self.by = Author(caller.operator, None, uuid4().hex)

    def read(self, part: Part) -> _Group:
        """Understand lines, each by itself."""
        caller = self._caller() or NotAuthenticated("the key was revoked meanwhile, or has expired")
        lines, asked = [], []
        for number, text in part:
            found = asked_by(self._request, caller, text.strip())
            refused = found if isinstance(found, LedgerError) else None
            lines.append((number, len(text), refused))
            if not isinstance(found, LedgerError):
                asked.append(found)
        return _Group(lines, packed(asked, self.by))

    def _caller(self) -> Caller | None:
        if time.monotonic() - self._looked >= KEY_LOOK_S:
            self._looked = time.monotonic()
            self._keyring = Keyring()
            with self._service.recorder.store.transaction(commit=False) as c:
                self._keyring.load(c)
        return self._keyring.find(self._key, self._service.clock_us())


# --- lines of a file ------------------------------------------------------------------------------


def parts_of(path: Path) -> Iterator[Part]:
    """Yield the lines of a file with their numbers, some at a time."""
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
            if len(part) == IMPORT_LINES_MAX or size > IMPORT_PART_BYTES_MAX:
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
