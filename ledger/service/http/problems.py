"""Refusals as problem details (RFC 9457), and the one map from kinds of refusal to status codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from ledger.domain.errors import (
    Conflict,
    EventTooLarge,
    LedgerError,
    NotFound,
    Refused,
    StorageFull,
    TamperDetected,
    Unavailable,
)

PROBLEM_TYPE: Final = "urn:compliance-ledger:problem:"
MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = 1  # what was not ready is usually ready a second later
STREAMS_RETRY_AFTER_S: Final = 5  # streams are long; a second later there is seldom room
ERRORS_SHOWN_MAX: Final = 50  # more faults than anybody mends at once; the answer stays small

STATUS: Final[Mapping[type[LedgerError], int]] = {
    Refused: 422,
    EventTooLarge: 413,
    NotFound: 404,
    Conflict: 409,
    StorageFull: 507,
    Unavailable: 503,
    TamperDetected: 500,
}


class RequestRefused(LedgerError):
    """A request that is not well formed or not allowed; ``status`` says how to answer."""

    status = 400
    code = "malformed_request"
    title = "The request cannot be read"
    hint = "Correct the request as the detail says."

    def headers(self) -> dict[str, str]:
        """Return further headers of the answer."""
        return {}


class MalformedRequest(RequestRefused):
    """The request's body, query or headers cannot be read."""


class NotAuthenticated(RequestRefused):
    """The request carries no usable key. It says nothing about why."""

    status = 401
    code = "not_authenticated"
    title = "No usable key"
    hint = "Send Authorization: Bearer <key> with a key that is neither revoked nor expired."

    def headers(self) -> dict[str, str]:
        """Name the scheme (RFC 9110, section 11.6.1)."""
        return {"WWW-Authenticate": 'Bearer realm="compliance-ledger"'}


class NotAllowed(RequestRefused):
    """The operator's role does not allow this."""

    status = 403
    code = "not_allowed"
    title = "This role may not do this"
    hint = "Use a key of an operator in one of the roles that the detail names."


class MethodNotAllowed(RequestRefused):
    """The path has no such method."""

    status = 405
    code = "method_not_allowed"
    title = "This method is not allowed here"
    hint = "The header Allow names the methods of this route."

    def headers(self) -> dict[str, str]:
        """Name the one method of the paths that raise this."""
        return {"Allow": "POST"}


class BodyTooLarge(RequestRefused):
    """The body is larger than the limit."""

    status = 413
    code = "body_too_large"
    title = "The body is too large"
    hint = "Send less at a time; evidence belongs behind a URI with its SHA-256."

    def headers(self) -> dict[str, str]:
        """Close the connection: the rest of the body is not read."""
        return {"Connection": "close"}


class NoSuchCommand(RequestRefused):
    """A line of a batch names a method and a path that are no command."""

    status = 404
    code = "no_such_command"
    title = "No such command"
    hint = "Name the method and the path of a command's route, as GET /openapi.json lists them."


class BatchTooLong(RequestRefused):
    """A batch has more lines than one may have."""

    status = 413
    code = "batch_too_long"
    title = "The batch has too many lines"
    hint = "Send the lines from this one on in another batch; those before it are done."


class UnsupportedMediaType(RequestRefused):
    """The body is not plain JSON."""

    status = 415
    code = "unsupported_media_type"
    title = "The body must be JSON"
    hint = "Send Content-Type: application/json, without Content-Encoding."


class TooManyRequests(RequestRefused):
    """The key asks more often than the limit allows."""

    status = 429
    code = "too_many_requests"
    title = "Too many requests"
    hint = "Ask again after the time in Retry-After, or ask several things in one request."

    def headers(self) -> dict[str, str]:
        """Say when to try again (RFC 6585, section 4)."""
        return {"Retry-After": str(self.more.get("retry_after_s", 1))}


class TooManyStreams(RequestRefused):
    """As many streams are open in this process as it may have."""

    status = 503
    code = "too_many_streams"
    title = "Too many streams"
    hint = "Try again after the time in Retry-After; another process may have room."

    def headers(self) -> dict[str, str]:
        """Say when to try again."""
        return {"Retry-After": str(STREAMS_RETRY_AFTER_S)}


class InvalidRequest(RequestRefused):
    """A member, parameter or header has not the form it must have."""

    status = 422
    code = "invalid_request"
    title = "The request is not valid"
    hint = "Correct each member that errors names; nothing was recorded."


class Problem(BaseModel):
    """A problem document. ``code`` is stable; ``hint`` says how to mend it."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=[PROBLEM_TYPE + "grounds_required"])
    title: str
    status: int
    detail: str
    code: str
    hint: str
    field: str | None = Field(
        default=None,
        description="JSON pointer of the member, or name of the parameter or header, at fault.",
    )
    errors: list[dict[str, str]] | None = Field(
        default=None,
        description=(
            f"The first {ERRORS_SHOWN_MAX} faults, each with detail and with the pointer of its "
            "member or the name of its parameter or header."
        ),
    )


def status_of(error: LedgerError) -> int:
    """Return the status code of a refusal: that of the nearest kind above it."""
    if isinstance(error, RequestRefused):
        return error.status
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def problem(
    status: int,
    code: str,
    title: str,
    detail: str,
    hint: str,
    *,
    headers: Mapping[str, str] | None = None,
    **more: object,
) -> Response:
    """Return a problem document as a response."""
    body = {
        "type": PROBLEM_TYPE + code,
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "hint": hint,
        **more,
    }
    return Response(orjson.dumps(body), status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def problem_of(error: LedgerError) -> Response:
    """Return the problem document of a refusal, as a response."""
    headers = error.headers() if isinstance(error, RequestRefused) else {}
    if isinstance(error, Unavailable):
        headers = {"Retry-After": str(RETRY_AFTER_S)}
    document = document_of(error)
    return Response(
        orjson.dumps(document), status_of(error), headers=headers, media_type=MEDIA_TYPE
    )


def document_of(error: LedgerError) -> dict[str, object]:
    """Return the problem document of a refusal."""
    document = {
        "type": PROBLEM_TYPE + error.code,
        "title": error.title,
        "status": status_of(error),
        "detail": str(error),
        "code": error.code,
        "hint": error.hint,
        **error.more,
    }
    if error.field is not None:
        document["field"] = error.field
    return document


async def on_ledger_error(_: Request, error: Exception) -> Response:
    """Answer a refusal."""
    assert isinstance(error, LedgerError)
    return problem_of(error)


async def on_invalid_request(_: Request, error: Exception) -> Response:
    """Answer members that have not their form, each with its JSON pointer."""
    assert isinstance(error, RequestValidationError)
    return problem_of(invalid_request(error.errors()))


def invalid_request(found: Sequence[Mapping[str, Any]]) -> InvalidRequest:
    """Return the refusal for what pydantic found wrong."""
    errors = []
    for item in found[:ERRORS_SHOWN_MAX]:
        where, *path = item["loc"]
        pointer = "".join(f"/{_escaped(part)}" for part in path if not _is_tag(part))
        named = (
            pointer.lstrip("/") if where in ("query", "header", "path") else pointer or "the body"
        )
        place = {"pointer": f"#{pointer}"} if where == "body" else {"parameter": named}
        message = str(item["msg"]).removeprefix("Value error, ")
        errors.append({"detail": f"{named}: {message[:1].lower()}{message[1:]}", **place})
    detail = "; ".join(error["detail"] for error in errors[:5])
    first = errors[0].get("parameter") or errors[0]["pointer"].removeprefix("#")
    return InvalidRequest(detail, field=first, errors=errors)


def invalid_header(name: str, fault: str) -> InvalidRequest:
    """Return the refusal of a header that has not its form."""
    return InvalidRequest(f"{name} {fault}", field=name, errors=[{"detail": fault, "header": name}])


def _escaped(part: object) -> str:
    """Escape a name for a JSON pointer (RFC 6901, section 3)."""
    text = str(part).encode("utf-8", "backslashreplace").decode()
    return text.replace("~", "~0").replace("/", "~1")


def _is_tag(part: object) -> bool:
    """Tell whether pydantic put the name of a union's branch into the path."""
    return isinstance(part, str) and ("[" in part or part.startswith("constrained-"))


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Answer what the framework refuses: unknown routes and methods."""
    assert isinstance(error, HTTPException)
    codes = {
        404: ("no_such_route", "No such route", "GET /openapi.json describes every route."),
        405: (
            "method_not_allowed",
            "This method is not allowed here",
            "The header Allow names the methods of this route.",
        ),
    }
    code, title, hint = codes.get(error.status_code, ("refused", "Refused", ""))
    headers = dict(error.headers or {})
    if "Allow" in headers:
        headers["Allow"] = _methods_of_path(request)
    return problem(error.status_code, code, title, str(error.detail), hint, headers=headers)


def _methods_of_path(request: Request) -> str:
    """Return every method of a path: the framework names those of the first route that has it."""
    methods = {
        method
        for route in request.app.state.routes
        if route.path_regex.match(request.scope["path"])
        for method in route.methods
    }
    return ", ".join(sorted(methods))


class InternalError(RequestRefused):
    """A fault of ours, told without a word about the inside."""

    status = 500
    code = "internal_error"
    title = "The ledger failed"
    hint = "Try again; when it persists, report the X-Request-ID."


def internal_error() -> InternalError:
    """Return what is said about a fault of ours."""
    return InternalError("An unexpected fault; it is in the log under this request's id.")


def responses(*errors: type[LedgerError]) -> dict[int | str, dict[str, Any]]:
    """Describe for OpenAPI the problems that a route can answer, by status."""
    by_status: dict[int, list[type[LedgerError]]] = {}
    for error in errors:
        by_status.setdefault(status_of(error("")), []).append(error)
    return {
        status: {
            "model": Problem,
            "description": " ".join(
                f"`{kind.code}`: {kind.title}." for kind in dict.fromkeys(kinds)
            ),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status, kinds in sorted(by_status.items())
    }
