"""What every request goes through, in this order: who is it, may it, can it be read; then the rule.

FastAPI reads the body before anything else, which would tell an unknown caller what is wrong with
it. ``LedgerRoute`` authenticates and authorises first, then reads the body strictly and within its
limit.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, get_args, get_origin
from urllib.parse import unquote_to_bytes

import orjson
from fastapi import APIRouter, FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import ParamTypes
from fastapi.responses import Response
from fastapi.routing import APIRoute
from prometheus_client import Counter
from starlette.types import Receive, Scope, Send

from ledger.application import Done, Foreseen, Once
from ledger.domain.errors import Behind, Conflict, InvalidValue, LedgerError, NotFound, Refused
from ledger.domain.events import Author
from ledger.domain.values import Role, Subject
from ledger.service.feed import MIN_POSITION_WAIT_S, STANDBY_PAUSE_S, asked_position
from ledger.service.http.one_write import in_one_write
from ledger.service.http.problems import (
    BodyTooLarge,
    InvalidRequest,
    MalformedRequest,
    NotAllowed,
    NotAuthenticated,
    RequestRefused,
    UnsupportedMediaType,
    invalid_header,
    invalid_request,
    problem_of,
)
from ledger.store.codec import as_json
from ledger.tlog.note import encode_base64
from projections.operators import Caller

if TYPE_CHECKING:
    from ledger.service.wiring import Service

BODY_BYTES_MAX: Final = 256 * 1024  # four times the largest fact; nothing here needs more
JSON_DEPTH_MAX: Final = 32  # no body of ours is deeper than 6
JSON_NUMBER_MAX: Final = 2**53  # beyond it JSON readers disagree about the value (RFC 7493)
KEY_BYTES_MAX: Final = 200  # our keys have 47; hashing more is work for nothing
HEADER_TEXT_MAX: Final = 256  # of X-Request-ID and Idempotency-Key: an id, not a message

_PLAIN_PATH: Final = re.compile(r"(?:/[A-Za-z0-9_.:~-]+)+\Z")
_ID_HEADER = re.compile(r"[\x20-\x7e]{1,256}\Z")
# Where nothing is between values, a member's name ends before its number: an instant holds none.
_FRACTION = re.compile(rb'(?:":|[\[,])-?[0-9]+[.e]')
POSITION = re.compile(r"(0|[1-9][0-9]{0,15})\Z")


def _header(name: str, description: str, schema: dict[str, object]) -> dict[str, object]:
    return {"name": name, "in": "header", "description": description, "schema": schema}


_REQUEST_ID: Final = _header(
    "X-Request-ID",
    "Echoed in the answer and recorded with what the request leads to.",
    {"type": "string", "pattern": "^[ -~]{1,256}$"},
)
READ_HEADERS: Final = [
    _REQUEST_ID,
    _header(
        "Ledger-Min-Position",
        "Answer only once this position is applied; after 2 seconds 503 `behind`.",
        {"type": "string", "pattern": "^(0|[1-9][0-9]{0,15})$", "example": "41"},
    ),
]
_ON_BEHALF_OF: Final = _header(
    "Ledger-On-Behalf-Of",
    "The human behind a machine's key, as type:id.",
    {"type": "string", "pattern": "^[a-z][a-z0-9_.-]{0,63}:[!-~]{1,256}$"},
)
COMMAND_HEADERS: Final = [
    _REQUEST_ID,
    _header(
        "Idempotency-Key",
        "The same key with the same request gives the first answer again and records nothing.",
        {"type": "string", "pattern": "^[ -~]{1,256}$", "example": "8e03978e-40d5"},
    ),
    _ON_BEHALF_OF,
]


class LedgerRoute(APIRoute):
    """A route with the roles that may use it in ``openapi_extra["x-roles"]`` (absent: anybody).

    The endpoint of a command returns the ``Command`` that its path and body ask for. It is called
    by ``read``, for a request and for a line of a batch: FastAPI would go the same way at three
    times the cost.
    """

    answer: Callable[[Request], Coroutine[Any, Any, Response]]
    """Answers a request behind the gate; raises refusals."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        self.is_command = endpoint.__annotations__["return"] == Command.__name__
        extra = options.get("openapi_extra") or {}
        self.roles = frozenset(extra["x-roles"]) if "x-roles" in extra else None
        # Answers are made by us; none is made from what an endpoint's annotation says.
        super().__init__(path, endpoint, **{**options, "response_model": None})

    def authorise(self, caller: Caller) -> None:
        """Raise ``NotAllowed`` unless the caller's role may use this route."""
        if self.roles is not None and caller.role not in self.roles:
            raise NotAllowed(
                f"{caller.operator} has the role {caller.role}; this needs "
                f"{' or '.join(sorted(self.roles))}"
            )

    def read(self, request: Request, path: Mapping[str, str], body: object) -> Command:
        """Return the command that a path's parameters and a body ask for.

        Raises ``InvalidRequest`` for every member that has not the form the route declares.
        """
        values: dict[str, object] = {}
        faults: list[dict[str, Any]] = []
        for field in self.dependant.path_params:
            place = ("path", field.alias)
            values[field.name], found = field.validate(path[field.alias], loc=place)
            faults += found
        if self.body_field is not None:
            values[self.body_field.name], found = self.body_field.validate(body, loc=("body",))
            faults += found
        if faults:
            raise invalid_request(faults)
        command: Command = self.endpoint(request, **values)
        return command

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Put the gate before FastAPI's own handling."""
        handle = super().get_route_handler()
        parameters, many = query_parameters(self)
        has_body = self.body_field is not None
        if self.is_command:

            async def handle(request: Request) -> Response:
                body = request._json if has_body else None  # noqa: SLF001
                return await _run(request, self.read(request, request.path_params, body))

        async def handle_behind_gate(request: Request) -> Response:
            if self.roles is not None:
                caller = authenticate(request)
                self.authorise(caller)
                request.state.caller = caller
            check_text(request)
            check_request_id(request)
            check_query(request, parameters, many)
            if has_body:
                # Starlette takes these two for what it would read itself.
                request._body = await read_body(request, BODY_BYTES_MAX)  # noqa: SLF001
                request._json = strict_json(request._body)  # noqa: SLF001
            await _wait_for_position(request)
            return await handle(request)

        self.answer = handle_behind_gate
        return handle_behind_gate


class CommandsByPath:
    """Answers those commands whose path names all of them, and leaves other requests to FastAPI.

    FastAPI would compare the path with that of each route in turn and make ready for dependencies,
    of which a command has none: a fifth of what a command costs the loop that answers checks.
    """

    def __init__(self, api: FastAPI) -> None:
        self._api = api
        self._routes = {
            (method, route.path): route
            for route in api.routes
            if isinstance(route, LedgerRoute) and route.is_command and not route.param_convertors
            for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        route = self._routes[scope["method"], scope["path"]]
        scope.update(app=self._api, route=route, path_params={})
        request = Request(scope, receive, send)
        try:
            response = await route.answer(request)
        except LedgerError as error:
            response = problem_of(error)
        with in_one_write(scope):
            await response(scope, receive, send)

    def has(self, scope: Scope) -> bool:
        """Tell whether a request asks for one of these commands."""
        return (
            scope["type"] == "http"
            and (scope["method"], scope["path"]) in self._routes
            and not scope.get("root_path")
        )


def query_parameters(route: APIRoute) -> tuple[set[str], set[str]]:
    """Return the names of a route's query parameters, and of those that may be given repeatedly."""
    parameters = {
        field.alias: field.field_info
        for field in get_flat_params(route.dependant)
        if getattr(field.field_info, "in_", None) is ParamTypes.query
    }
    many = {name for name, info in parameters.items() if _takes_many(info.annotation)}
    return set(parameters), many


def router(tag: str) -> APIRouter:
    """Return a router whose routes go through the gate."""
    return APIRouter(route_class=LedgerRoute, tags=[tag])


def allow(*roles: Role, command: bool = False, reveals: bool = False) -> dict[str, Any]:
    """Return the ``openapi_extra`` of a route that these roles may use, with its headers.

    A read that ``reveals`` what is sealed records for whom.
    """
    read = [*READ_HEADERS, _ON_BEHALF_OF] if reveals else READ_HEADERS
    return {
        "x-roles": [str(role) for role in roles],
        "security": [{"key": []}],
        "parameters": COMMAND_HEADERS if command else read,
    }


def service_of(request: Request) -> Service:
    """Return the service that the application was built for."""
    service: Service = request.app.state.service
    return service


# --- who is it ------------------------------------------------------------------------------------


def authenticate(request: Request) -> Caller:
    """Return the operator behind the bearer key, and count the request against the key's limit.

    Raises ``NotAuthenticated``, always in one wording.
    """
    service = service_of(request)
    caller = caller_of(service, bearer_key(request))
    if service.limiter is not None:
        service.limiter.count(caller.key)
    return caller


def bearer_key(request: Request) -> bytes:
    """Return the key that a request carries; nothing when it is none of ours."""
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or len(secret) > KEY_BYTES_MAX:
        return b""
    return secret.strip().encode("latin-1")


def caller_of(service: Service, key: bytes) -> Caller:
    """Return whom a key belongs to now. Raises ``NotAuthenticated``."""
    service.feed.require_current()
    caller = service.keyring.find(key, service.now_us())
    if caller is None:
        raise NotAuthenticated("the request carries no usable key")
    return caller


def author_of(request: Request) -> Author:
    """Return who acts: the operator, the human of ``Ledger-On-Behalf-Of``, the request's id."""
    caller: Caller = request.state.caller
    raw = request.headers.get("ledger-on-behalf-of")
    human = None
    if raw is not None:
        try:
            human = Subject.parse(raw.encode("latin-1").decode("utf-8")).key
        except (UnicodeDecodeError, InvalidValue) as error:
            raise invalid_header(
                "Ledger-On-Behalf-Of", f"must name a subject like user:jane: {error}"
            ) from None
    return Author(caller.operator, human, request.state.request_id)


def once_of(request: Request) -> Once | None:
    """Return the idempotency key and the fingerprint of the request; ``None`` without a key.

    The key may be quoted (draft-ietf-httpapi-idempotency-key-header) or bare. The fingerprint
    covers method, path and the body's members, not its white space.
    """
    raw = request.headers.get("idempotency-key")
    if raw is None:
        return None
    key = raw[1:-1] if len(raw) > 1 and raw[0] == raw[-1] == '"' else raw
    if not is_header_id(key):
        raise invalid_header(
            "Idempotency-Key", f"must have 1 to {HEADER_TEXT_MAX} printable ASCII characters"
        )
    body = getattr(request, "_json", None)
    path: str = request.scope["path"]
    if not _PLAIN_PATH.match(path):
        path = request.url.path
    return Once(key, fingerprint(request.method, path, body))


def is_header_id(text: str) -> bool:
    """Tell whether a text may be an idempotency key or a request id."""
    return _ID_HEADER.match(text) is not None


def fingerprint(method: str, path: str, body: object) -> str:
    """Return the SHA-256 of a request: its method, its path and the members of its body."""
    return hashlib.sha256(f"{method} {path}\n".encode() + _canonical(body)).hexdigest()


def _canonical(body: object) -> bytes:
    """Return a body as it is fingerprinted, for ever: as the standard library writes it in ASCII.

    ``orjson`` writes the same, four times as fast, where there is only ASCII and no fraction.
    """
    try:
        text = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:  # a lone surrogate, say
        return _ENCODER.encode(body).encode()
    if text.isascii() and b"\x7f" not in text and not _FRACTION.search(text):
        return text
    return _ENCODER.encode(body).encode()


# --- can it be read -------------------------------------------------------------------------------


def check_text(request: Request) -> None:
    """Refuse paths and queries that are not UTF-8: decoding leniently would make many ids one."""
    raw_path: bytes = request.scope.get("raw_path") or b""
    for name, raw in (("path", raw_path), ("query", request.scope["query_string"])):
        if raw.isascii() and b"%" not in raw:
            continue
        try:
            unquote_to_bytes(raw).decode("utf-8")
        except UnicodeDecodeError:
            raise MalformedRequest(f"the {name} is not valid UTF-8 once decoded") from None


def check_request_id(request: Request) -> None:
    """Refuse a request id that is none: it is echoed and recorded."""
    if not _ID_HEADER.match(request.state.request_id):
        raise invalid_header(
            "X-Request-ID", f"must have 1 to {HEADER_TEXT_MAX} printable ASCII characters"
        )


def _takes_many(annotation: object) -> bool:
    """Tell whether a parameter is a list, or a list that may be absent."""
    return any(get_origin(one) is list for one in (annotation, *get_args(annotation)))


def check_query(request: Request, known: Iterable[str], many: set[str]) -> None:
    """Refuse parameters that the route does not know, and those given twice that it takes once."""
    if not request.scope["query_string"]:
        return
    names = [name for name, _ in request.query_params.multi_items()]
    for name in dict.fromkeys(names):
        if name not in known:
            raise InvalidRequest(
                f"{name!r} is no parameter of this route; it has "
                f"{', '.join(sorted(known)) or 'none'}",
                field=name,
                errors=[{"detail": "unknown parameter", "parameter": name}],
            )
        if names.count(name) > 1 and name not in many:
            raise InvalidRequest(
                f"{name!r} may be given once",
                field=name,
                errors=[{"detail": "given more than once", "parameter": name}],
            )


def check_media_type(request: Request, wanted: str) -> None:
    """Raise ``UnsupportedMediaType`` unless the body is of a media type, in UTF-8, as it is."""
    media_type, _, parameters = request.headers.get("content-type", "").partition(";")
    charset = parameters.strip().lower().replace('"', "")
    if media_type.strip().lower() != wanted or charset not in ("", "charset=utf-8"):
        raise UnsupportedMediaType(f"the body's Content-Type is not {wanted} in UTF-8")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("an encoded body is not accepted")


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body of a JSON request, read no further than ``limit`` bytes.

    Raises ``UnsupportedMediaType``, ``BodyTooLarge``, ``MalformedRequest``.
    """
    check_media_type(request, "application/json")
    declared = request.headers.get("content-length")
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise BodyTooLarge(f"the body has {declared} bytes, {limit} are allowed")
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge(f"the body has more than {limit} bytes")
        chunks.append(chunk)
    if not size:
        raise MalformedRequest("the body is empty")
    return b"".join(chunks)


def strict_json(body: bytes) -> object:
    """Return the value of a JSON text that every reader would read alike (RFC 7493).

    Raises ``MalformedRequest`` for bytes that are not UTF-8, two members of one name, NaN, numbers
    beyond 2^53 and nesting deeper than ``JSON_DEPTH_MAX``.
    """
    try:
        value: object = _DECODER.decode(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise MalformedRequest(f"the body is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise MalformedRequest(
            f"the body is not JSON at character {error.pos}: {error.msg}"
        ) from None
    except RecursionError:
        raise MalformedRequest(f"the body nests deeper than {JSON_DEPTH_MAX}") from None
    if body.count(b"[") + body.count(b"{") > JSON_DEPTH_MAX:
        _check_depth(value)
    return value


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise MalformedRequest(f"the member {name!r} is given twice")
            seen.add(name)
    return found


def _integer(text: str) -> int:
    # Checked by length first: turning a million digits into a number takes a second.
    if len(text) > 17 or abs(int(text)) > JSON_NUMBER_MAX:  # noqa: PLR2004 - digits of 2^53, and a sign
        raise MalformedRequest("a number is beyond 2^53; send it as a string")
    return int(text)


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number) or abs(number) > JSON_NUMBER_MAX:
        raise MalformedRequest("a number is beyond 2^53; send it as a string")
    return number


def _constant(text: str) -> object:
    raise MalformedRequest(f"{text} is not a JSON value")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant
)
_ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def _check_depth(value: object) -> None:
    level: Sequence[object] = [value]
    for _ in range(JSON_DEPTH_MAX + 1):
        nesting = [outer for outer in level if isinstance(outer, dict | list)]
        if not nesting:
            return
        level = [
            inner
            for outer in nesting
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    raise MalformedRequest(f"the body nests deeper than {JSON_DEPTH_MAX}")


async def _wait_for_position(request: Request) -> None:
    raw = request.headers.get("ledger-min-position")
    if raw is None:
        return
    if not POSITION.match(raw):
        raise invalid_header("Ledger-Min-Position", "must be a position, like 41")
    position, service = int(raw), service_of(request)
    await service.feed.wait_for(position)
    asked_position.set(position)
    if service.settings.read_url is None or request.method != "GET":
        return
    until = time.monotonic() + MIN_POSITION_WAIT_S
    while True:
        try:
            await run_in_threadpool(_read_nothing, service)
        except Behind:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(STANDBY_PAUSE_S)
        else:
            return


def _read_nothing(service: Service) -> None:
    """Raise ``Behind`` when what is read from does not have what the request asks for."""
    with service.reading():
        pass


# --- answers --------------------------------------------------------------------------------------


def answer(
    body: object, status: int = 200, *, position: int, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a JSON answer with the position that it is a function of."""
    return Response(
        orjson.dumps(body),
        status,
        headers={"Ledger-Position": str(position), **(headers or {})},
        media_type="application/json",
    )


@dataclass(frozen=True, slots=True)
class Command:
    """What a request asks to be recorded, in its form and not yet decided.

    ``run`` is a method of ``Ledger`` with its values; ``by`` and ``once`` are still to come.
    ``afterwards``, another one, is called after the commit and before the answer, repeated commands
    included.
    """

    run: partial[Done]
    afterwards: Callable[[], object] | None = None
    subjects: Sequence[Subject] = ()
    """Whose records the decision will look at, as far as the request says it."""


async def _run(request: Request, command: Command) -> Response:
    """Run a command on the writer and answer with what it recorded.

    201 for a fact that this command recorded, now or the first time it came; 200 for one that held.
    """
    done, leaf_hash = await carry_out(request, command, author_of(request), once_of(request))
    leaf_hash = leaf_hash or await kept_leaf(service_of(request), done)
    return answer(answer_of(done, leaf_hash), status_of_done(done), position=done.recorded.position)


async def carry_out(
    request: Request, command: Command, by: Author, once: Once | None
) -> tuple[Done, bytes | None]:
    """Run a request's command on the writer, and count it; returns what ``begin`` says it does."""
    service = service_of(request)

    counted: Counter = request.app.state.monitor.metrics.commands
    route = f"{request.method} {request.scope['route'].path}"
    try:
        (outcome,) = await begin(service, [(command, once)], by)
        if isinstance(outcome, Exception):
            raise outcome  # noqa: TRY301 - it is counted like what is refused before its turn
    except Exception as error:
        refused = isinstance(error, Refused | NotFound | Conflict | RequestRefused)
        counted.labels(route, "refused" if refused else "failed").inc()
        raise
    done, leaf_hash = outcome
    counted.labels(route, done.outcome).inc()
    if command.afterwards is not None:
        await run_in_threadpool(command.afterwards)
    if done.outcome != "recorded":
        # Another process may have recorded it: it binds here, too, before it is answered here.
        await service.feed.wait_for(done.recorded.position)
    return done, leaf_hash


def begin(
    service: Service, asked: Sequence[tuple[Command, Once | None]], by: Author
) -> asyncio.Future[list[tuple[Done, bytes | None] | Exception]]:
    """Let commands wait for their turn; each leads to what it did, or is refused.

    With it comes the leaf of what it recorded; ``kept_leaf`` reads that of an older fact.
    """

    def running(command: Command, once: Once | None) -> Callable[[], tuple[Done, bytes | None]]:
        def run() -> tuple[Done, bytes | None]:
            done = command.run(by=by, once=once)
            return done, service.recorder.leaf_appended(done.recorded.position)

        return run

    return service.writer.begin(
        [running(command, once) for command, once in asked],
        [
            Foreseen((by.operator, once.key) if once else None, command.subjects)
            for command, once in asked
        ],
    )


async def kept_leaf(service: Service, done: Done) -> bytes:
    """Return the leaf hash of the fact that a command led to, once that is committed."""
    return await run_in_threadpool(service.recorder.leaf_hash, done.recorded.position)


def status_of_done(done: Done) -> int:
    """Return the status code of what a command led to."""
    return 200 if done.outcome == "unchanged" else 201


def receipt_of(done: Done) -> dict[str, object]:
    """Return the least that is answered to a command: where the fact stands, and what it is of."""
    return {"position": done.recorded.position, "id": done.recorded.event.about}


def answer_of(done: Done, leaf_hash: bytes) -> dict[str, object]:
    """Return what is answered to a command."""
    body: dict[str, object] = {
        **receipt_of(done),
        "leaf_hash": encode_base64(leaf_hash),
        "event": as_json(done.recorded),
    }
    if done.secret is not None:
        body["key"] = done.secret
    return body
