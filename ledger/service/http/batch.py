"""Many commands in one request: a line is a command, and each line has an answer of its own.

A line names a route, as a request would, and is read, authorised and decided by what serves that
route; only the way in and the way out differ. Lines take their turns in their order, so a line may
build on one before it. Nothing holds more than some groups of lines, however long the batch: while
answers wait to be taken, no more lines are read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_to_bytes

import orjson
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from pydantic import BaseModel, Field, ValidationError
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from ledger.application import Done, Once
from ledger.domain.errors import LedgerError
from ledger.domain.events import Author
from ledger.domain.values import Role, Value
from ledger.service.http.problems import (
    BatchTooLong,
    BodyTooLarge,
    InvalidRequest,
    MalformedRequest,
    NoSuchCommand,
    Problem,
    UnsupportedMediaType,
    document_of,
    internal_error,
    invalid_request,
    responses,
)
from ledger.service.http.route import (
    BODY_BYTES_MAX,
    HEADER_TEXT_MAX,
    Command,
    LedgerRoute,
    allow,
    answer_of,
    author_of,
    bearer_key,
    begin,
    caller_of,
    check_media_type,
    fingerprint,
    is_header_id,
    kept_leaf,
    receipt_of,
    router,
    service_of,
    status_of_done,
    strict_json,
)
from ledger.service.http.shapes import BEHIND_THE_GATE, EventView, example
from ledger.service.writer import COMMANDS_TOGETHER_MAX
from projections.operators import Caller

if TYPE_CHECKING:
    from ledger.service.wiring import Service

BATCH_LINES_MAX: Final = 100_000  # half a minute of work; a longer import is several batches
BATCH_LINE_BYTES_MAX: Final = BODY_BYTES_MAX  # a line is a request's body and some words more
BATCH_GROUPS_AHEAD_MAX: Final = 2  # groups of lines that are decided while answers are sent
MEDIA_TYPE: Final = "application/x-ndjson"

log = logging.getLogger(__name__)
routes = router("batch")


class BatchLine(Value):
    """One command: the method, path and body of its request, and its idempotency key."""

    model_config = example(
        {
            "method": "PUT",
            "path": "/v1/subjects",
            "idempotency_key": "import-2026-11/1",
            "body": {"subject": {"type": "user", "id": "alice"}},
        }
    )
    method: str = Field(examples=["POST"])
    path: str = Field(description="Percent-encoded as in a URL.", examples=["/v1/violations"])
    idempotency_key: str | None = Field(
        default=None,
        description="Without one, the same batch sent again records the line again.",
        examples=["import-2026-11/17"],
    )
    body: dict[str, Any] | None = None


class BatchAnswer(BaseModel):
    """What one line led to: the answer of its route, or the problem."""

    line: int = Field(description="The number of the line, from 1.")
    status: int = Field(description="The status that the request would have had.")
    position: int | None = None
    id: str | None = None
    leaf_hash: str | None = None
    event: EventView | None = None
    key: str | None = None
    problem: Problem | None = None


class Commands:
    """Which route a method and a path name, among those that are commands."""

    def __init__(self, served: Iterable[object]) -> None:
        commands = [
            (method, route)
            for route in served
            if isinstance(route, LedgerRoute) and route.is_command
            for method in route.methods or ()
        ]
        self._plain = {(method, route.path): route for method, route in commands}
        self._others = [each for each in commands if each[1].param_convertors]

    def find(self, method: str, path: str) -> tuple[LedgerRoute, Mapping[str, str]]:
        """Return the route, and its parameters in the path; raises ``NoSuchCommand``."""
        route = self._plain.get((method, path))
        if route is not None and not route.param_convertors:
            return route, {}
        for others, route in self._others:
            match = route.path_regex.match(path) if others == method else None
            if match:
                return route, match.groupdict()
        raise NoSuchCommand(f"{method} {path} is no command")


@dataclass(slots=True)
class _Group:
    """Lines that take their turn together: what each asks for, or why it had no turn."""

    lines: list[tuple[int, LedgerError | tuple[Command, Once | None]]]
    waiting: asyncio.Future[list[tuple[Done, bytes | None] | Exception]] | None = None


@routes.post(
    "/v1/batch",
    summary="Many commands in one request",
    openapi_extra={
        **allow(Role.REPORTER, Role.OFFICER, Role.APPROVER, Role.ADMIN, reveals=True),
        "requestBody": {
            "required": True,
            "description": "One BatchLine in each line.",
            "content": {MEDIA_TYPE: {"schema": BatchLine.model_json_schema()}},
        },
    },
    responses={
        200: {
            "description": "One BatchAnswer in each line, in the order of the lines.",
            "content": {
                MEDIA_TYPE: {
                    "schema": BatchAnswer.model_json_schema(
                        ref_template="#/components/schemas/{model}"
                    )
                }
            },
        },
        **responses(*BEHIND_THE_GATE, UnsupportedMediaType),
    },
)
async def batch(request: Request) -> Response:
    """Run each line as the command it names; answer each with a line once it is committed.

    A line that is refused neither holds up nor undoes any other. With ``Prefer: return=minimal``
    an answer has neither ``event`` nor ``leaf_hash``. Take answers while you send: when too many
    wait to be taken, no more lines are read.
    """
    check_media_type(request, MEDIA_TYPE)
    author = author_of(request)
    return _Streamed(_answers(request, author))


class _Streamed(Response):
    """An answer that begins while the request is still being read.

    The framework's own listens for the client's leaving, and so takes the request's body away.
    """

    def __init__(self, lines: AsyncGenerator[bytes, None]) -> None:
        super().__init__(media_type=MEDIA_TYPE)
        self._lines = lines
        del self.headers["content-length"]

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send each line when it is there."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async with contextlib.aclosing(self._lines) as lines:
            async for line in lines:
                await send({"type": "http.response.body", "body": line, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _answers(request: Request, by: Author) -> AsyncGenerator[bytes, None]:
    """Yield the answers of one group of lines after the other."""
    minimal = "return=minimal" in request.headers.get("prefer", "").replace(" ", "")
    groups: asyncio.Queue[_Group | None] = asyncio.Queue(BATCH_GROUPS_AHEAD_MAX)
    reading = asyncio.create_task(_read(request, by, groups))
    try:
        while (group := await groups.get()) is not None:
            outcomes = iter(await group.waiting if group.waiting is not None else ())
            answers = []
            for number, asked in group.lines:
                if isinstance(asked, LedgerError):
                    answers.append(_written(number, refusal(asked)))
                else:
                    told = await _told(request, number, asked[0], next(outcomes), minimal=minimal)
                    answers.append(_written(number, told))
            yield b"".join(answers)
        await reading
    finally:
        reading.cancel()


async def _read(request: Request, by: Author, groups: asyncio.Queue[_Group | None]) -> None:
    """Begin the commands of a batch in the order of its lines, and hand on what was begun."""
    service, key = service_of(request), bearer_key(request)
    group = _Group([])
    caller: Caller | LedgerError | None = None
    try:
        async for number, text in _lines(request):
            if not group.lines:
                # Again for each group: the key may have been revoked since the batch began.
                caller = _caller_of(service, key)
            if isinstance(text, LedgerError):
                group.lines.append((number, text))
            elif text:
                assert caller is not None
                group.lines.append((number, asked_by(request, caller, text)))
            if group.lines and (text is None or len(group.lines) >= COMMANDS_TOGETHER_MAX):
                await groups.put(_begun(service, by, group))
                group = _Group([])
    except ClientDisconnect:
        log.info("the sender of batch %s went away; what was begun is done", by.request_id)
    if group.lines:
        await groups.put(_begun(service, by, group))
    await groups.put(None)


def _begun(service: Service, by: Author, group: _Group) -> _Group:
    """Let the commands of a group wait for their turn."""
    asked = [each for _, each in group.lines if not isinstance(each, LedgerError)]
    if asked:
        try:
            group.waiting = begin(service, asked, by)
        except LedgerError as error:
            group.lines = [
                (number, each if isinstance(each, LedgerError) else error)
                for number, each in group.lines
            ]
    return group


async def _lines(request: Request) -> AsyncIterator[tuple[int, bytes | LedgerError | None]]:
    """Yield each line with its number, or why it is not read; ``None`` before every pause.

    Half a line of a sender that went away is none: it raises ``ClientDisconnect`` then.
    """
    number, rest, skipping = 0, b"", False
    async for chunk in request.stream():
        *ended, rest = (rest + chunk).split(b"\n")
        for text in ended:
            if skipping:  # this is the end of a line that was refused already
                skipping = False
                continue
            number += 1
            yield number, _within_limits(number, text)
            if number > BATCH_LINES_MAX:
                return
        if len(rest) > BATCH_LINE_BYTES_MAX and not skipping:
            number += 1
            yield number, _within_limits(number, rest)
            skipping = True
        if skipping:
            rest = b""
        yield number, None
    if rest:
        yield number + 1, _within_limits(number + 1, rest)


def _within_limits(number: int, text: bytes) -> bytes | LedgerError:
    if number > BATCH_LINES_MAX:
        return BatchTooLong(f"a batch may have {BATCH_LINES_MAX} lines")
    if len(text) > BATCH_LINE_BYTES_MAX:
        return BodyTooLarge(f"the line has more than {BATCH_LINE_BYTES_MAX} bytes")
    return text.strip()


def _caller_of(service: Service, key: bytes) -> Caller | LedgerError:
    try:
        return caller_of(service, key)
    except LedgerError as error:
        return error


def asked_by(
    request: Request, caller: Caller | LedgerError, text: bytes
) -> LedgerError | tuple[Command, Once | None]:
    """Return what a line asks for, or why it is refused before its turn."""
    try:
        if isinstance(caller, LedgerError):
            return caller
        asked = _understood(strict_json(text))
        path = _path_of(asked)
        route, parameters = request.app.state.commands.find(asked.method, path)
        route.authorise(caller)
        command = route.read(request, parameters, asked.body)
        once = None
        if asked.idempotency_key is not None:
            once = Once(asked.idempotency_key, fingerprint(asked.method, path, asked.body))
    except LedgerError as error:
        return error
    return command, once


def _understood(value: object) -> BatchLine:
    try:
        asked = BatchLine.model_validate(value)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        raise invalid_request(
            [{**fault, "loc": ("body", *fault["loc"])} for fault in faults]
        ) from None
    if asked.idempotency_key is not None and not is_header_id(asked.idempotency_key):
        raise InvalidRequest(
            f"idempotency_key must have 1 to {HEADER_TEXT_MAX} printable ASCII characters",
            field="/idempotency_key",
        )
    return asked


def _path_of(asked: BatchLine) -> str:
    if asked.path.isascii() and "%" not in asked.path:
        return asked.path
    try:
        return unquote_to_bytes(asked.path).decode("utf-8")
    except UnicodeError:
        raise MalformedRequest("the path is not valid UTF-8 once decoded", field="/path") from None


def _written(number: int, told: Mapping[str, object]) -> bytes:
    return orjson.dumps({"line": number, **told}, option=orjson.OPT_APPEND_NEWLINE)


def refusal(error: LedgerError) -> dict[str, object]:
    """Return the answer of a line that is refused."""
    document = document_of(error)
    return {"status": document["status"], "problem": document}


async def _told(
    request: Request,
    number: int,
    command: Command,
    outcome: tuple[Done, bytes | None] | Exception,
    *,
    minimal: bool,
) -> dict[str, object]:
    """Return the answer of a line, once what it led to binds here."""
    try:
        if isinstance(outcome, Exception):
            raise outcome  # noqa: TRY301 - as what is raised below
        done, leaf_hash = outcome
        if command.afterwards is not None:
            await run_in_threadpool(command.afterwards)
        if done.outcome != "recorded":
            # Another process may have recorded it: it binds here, too, before it is answered here.
            await service_of(request).feed.wait_for(done.recorded.position)
        if minimal:
            return {"status": status_of_done(done), **receipt_of(done)}
        leaf_hash = leaf_hash or await kept_leaf(service_of(request), done)
    except LedgerError as error:
        return refusal(error)
    except Exception:
        log.exception("line %d of batch %s failed", number, request.state.request_id)
        return refusal(internal_error())
    return {"status": status_of_done(done), **answer_of(done, leaf_hash)}
