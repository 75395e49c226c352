"""AuthZEN searches and metadata: which subjects, resources or actions would be permitted?

Searches range over what the ledger knows: subjects it holds a fact about, catalogued resources and
their actions. What it does not know gives an empty result, though an evaluation of it may permit.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
from eventsourcing.persistence import Cursor
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from ledger.domain.errors import Behind, Unavailable
from ledger.domain.values import Role, type_name
from ledger.service.http.authzen import (
    EVALUATION_BYTES_MAX,
    EVALUATION_PATH,
    EVALUATIONS_PATH,
    DecisionPoint,
    action_of,
    json_object,
)
from ledger.service.http.authzen_openapi import ACTION, ENTITY, EVALUATION_MEMBERS
from ledger.service.http.problems import (
    BodyTooLarge,
    InvalidRequest,
    MalformedRequest,
    NotAllowed,
    NotAuthenticated,
    TooManyRequests,
    UnsupportedMediaType,
    responses,
)
from ledger.service.http.route import allow, answer, read_body, router, service_of
from ledger.service.wiring import Service

routes = router("access")

RESULTS_MAX: Final = 1_000  # of one page; what is left is behind its next_token
TOKEN_MAX: Final = 2_000  # characters of a token: an id and a digest, encoded
METADATA_SECONDS: Final = 3_600  # how long a client may keep the metadata

SEARCH_PATHS: Final = {
    "subject": "/access/v1/search/subject",
    "resource": "/access/v1/search/resource",
    "action": "/access/v1/search/action",
}


@dataclass(frozen=True, slots=True)
class Page:
    """Which page is asked for: at most ``limit`` results, those that sort after ``after``."""

    limit: int
    after: str
    digest: str

    def token(self, last: str) -> str:
        """Return the token of the page that follows the one ending with ``last``."""
        body = orjson.dumps({"after": last, "limit": self.limit, "of": self.digest})
        return base64.urlsafe_b64encode(body).decode()


def page_of(body: Mapping[str, Any], kind: str) -> Page:
    """Read the ``page`` member (AuthZEN 1.0, section 8): limit, or the token of an earlier answer.

    A token belongs to one search: changed entities or another limit are refused.
    """
    asked = body.get("page")
    if asked is not None and not isinstance(asked, dict):
        raise MalformedRequest("page must be an object", field="/page")
    asked = asked or {}
    limit = asked.get("limit")
    if limit is not None and (type(limit) is not int or limit < 0):
        raise MalformedRequest("page.limit must be a non-negative integer", field="/page/limit")
    entities = {
        name: body.get(name)
        for name in ("subject", "action", "resource", "context")
        if name in body
    }
    digest = hashlib.sha256(
        kind.encode() + orjson.dumps(entities, option=orjson.OPT_SORT_KEYS)
    ).hexdigest()[:32]
    token = asked.get("token")
    if token is None or token == "":
        chosen = RESULTS_MAX if limit is None else min(limit, RESULTS_MAX)
        return Page(chosen, "", digest)
    try:
        if not isinstance(token, str) or len(token) > TOKEN_MAX:
            raise ValueError("no token")  # noqa: TRY301 - answered as any other bad token
        found = orjson.loads(base64.urlsafe_b64decode(token.encode("ascii")))
        if type(found["limit"]) is not int or not 0 <= found["limit"] <= RESULTS_MAX:
            raise ValueError("no limit")  # noqa: TRY301 - as above
        page = Page(found["limit"], str(found["after"]), str(found["of"]))
    except (ValueError, KeyError, TypeError):
        raise MalformedRequest("page.token is none of ours", field="/page/token") from None
    if page.digest != digest or (limit is not None and min(limit, RESULTS_MAX) != page.limit):
        raise MalformedRequest("page.token belongs to another search", field="/page/token")
    return page


@dataclass(frozen=True, slots=True)
class Search:
    """The checked entities of a search; the key of the one searched for is empty."""

    subject: str
    resource: str
    action: str
    kind: str
    properties: tuple[Mapping[str, object], Mapping[str, object], Mapping[str, object]]
    through: tuple[str, ...]


def search_of(point: DecisionPoint, body: Mapping[str, Any], searched: str) -> Search:
    """Read the entities of a search. Of the one searched for, only the type counts."""
    subject = resource = action = kind = ""
    of_subject: Mapping[str, object] = {}
    of_resource: Mapping[str, object] = {}
    of_action: Mapping[str, object] = {}
    if searched == "subject":
        kind = _type_of(body.get("subject"), "subject")
    else:
        subject, of_subject = point.entity(body.get("subject"), "subject")
    if searched == "resource":
        kind = _type_of(body.get("resource"), "resource")
    else:
        resource, of_resource = point.entity(body.get("resource"), "resource")
    if searched != "action":
        action, of_action = action_of(body.get("action"))
    context = body.get("context")
    through = () if context is None else tuple(point.through(context))
    return Search(subject, resource, action, kind, (of_subject, of_resource, of_action), through)


def _type_of(raw: object, name: str) -> str:
    if not isinstance(raw, dict):
        raise MalformedRequest(f"{name} must be an object with a type", field=f"/{name}")
    try:
        return type_name(raw.get("type"))
    except ValueError as error:
        raise MalformedRequest(f"{name}.type {error}", field=f"/{name}/type") from None


# --- candidates -----------------------------------------------------------------------------------


def subjects(service: Service, c: Cursor, search: Search, after: str) -> Iterator[tuple[str, Any]]:
    """Yield known subjects of the type that may use the resource, by id."""
    if search.action not in service.access.actions_of(c, search.resource):
        return
    for subject in service.access.subjects_of_type(c, search.kind, after):
        if _permitted(service, search, subject, search.resource, search.action):
            yield subject, _entity(subject)


def resources(service: Service, c: Cursor, search: Search, after: str) -> Iterator[tuple[str, Any]]:
    """Yield catalogued resources of the type that the subject may use, by id."""
    if not service.access.is_known(c, search.subject):
        return
    for resource in service.access.resources_of_type(c, search.kind, after):
        offered = search.action in service.access.actions_of(c, resource)
        if offered and _permitted(service, search, search.subject, resource, search.action):
            yield resource, _entity(resource)


def actions(service: Service, c: Cursor, search: Search, after: str) -> Iterator[tuple[str, Any]]:
    """Yield the catalogued actions of the resource that the subject may do, by name."""
    if not service.access.is_known(c, search.subject):
        return
    for action in sorted(service.access.actions_of(c, search.resource)):
        if action > after and _permitted(service, search, search.subject, search.resource, action):
            yield action, {"name": action}


def _permitted(service: Service, search: Search, subject: str, resource: str, action: str) -> bool:
    of_subject, of_resource, of_action = search.properties
    return service.index.check(
        subject,
        resource,
        action,
        service.now_us(),
        search.through,
        of_subject,
        of_resource,
        of_action,
    ).allowed


def _entity(key: str) -> dict[str, str]:
    kind, _, id_ = key.partition(":")
    return {"type": kind, "id": id_}


Candidates = Callable[[Service, Cursor, Search, str], Iterator[tuple[str, Any]]]
_CANDIDATES: Final[Mapping[str, Candidates]] = {
    "subject": subjects,
    "resource": resources,
    "action": actions,
}


def find(service: Service, search: Search, page: Page, searched: str) -> dict[str, Any]:
    """Return one page of results; ``page`` comes first and is left out when all are there."""
    results: list[Any] = []
    last, more = "", False
    with service.reading(newest=True) as (c, _):
        for key, result in _CANDIDATES[searched](service, c, search, page.after):
            if len(results) == page.limit:
                more = True
                break
            results.append(result)
            last = key
    if not more and not page.after:
        return {"results": results}
    token = page.token(last or page.after) if more else ""
    return {"page": {"next_token": token, "count": len(results)}, "results": results}


# --- the routes -----------------------------------------------------------------------------------


async def _search(request: Request, searched: str) -> Response:
    service = service_of(request)
    point: DecisionPoint = request.app.state.point
    try:
        body = json_object(await read_body(request, EVALUATION_BYTES_MAX))
    except UnsupportedMediaType as error:
        raise MalformedRequest(str(error)) from None
    search, page = search_of(point, body, searched), page_of(body, searched)
    found = await run_in_threadpool(find, service, search, page, searched)
    if service.signer.doubt is not None:
        found["context"] = {"log": "not_verified"}
    return answer(found, position=service.index.position)


_TYPE_ONLY: Final = {
    "type": "object",
    "required": ["type"],
    "properties": {"type": ENTITY["properties"]["type"]},
}
_PAGE: Final = {
    "type": "object",
    "properties": {
        "token": {"type": "string", "maxLength": TOKEN_MAX},
        "limit": {"type": "integer", "minimum": 0},
    },
}
_REFUSALS: Final = responses(
    MalformedRequest,
    NotAuthenticated,
    NotAllowed,
    BodyTooLarge,
    InvalidRequest,
    TooManyRequests,
    Behind,
    Unavailable,
)


def _described(searched: str, example: dict[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    members: dict[str, Any] = {
        name: EVALUATION_MEMBERS[name] for name in ("subject", "resource", "action", "context")
    }
    required = [name for name in ("subject", "resource", "action") if name != "action"]
    if searched == "action":
        del members["action"]
    else:
        members[searched] = _TYPE_ONLY
        required.append("action")
    schema = {
        "type": "object",
        "required": required,
        "properties": {**members, "page": _PAGE},
    }
    answered = {
        "type": "object",
        "required": ["results"],
        "properties": {
            "page": {
                "type": "object",
                "required": ["next_token"],
                "properties": {
                    "next_token": {"type": "string"},
                    "count": {"type": "integer"},
                },
            },
            "results": {"type": "array", "items": result},
            "context": {
                "type": "object",
                "description": "Only when the log is in doubt.",
                "properties": {"log": {"const": "not_verified"}},
            },
        },
    }
    content = {"application/json": {"schema": schema, "example": example}}
    return {
        **allow(Role.SERVICE),
        "requestBody": {"required": True, "content": content},
        "responses": {
            "200": {
                "description": "What would be permitted.",
                "content": {"application/json": {"schema": answered}},
            }
        },
    }


_SUBJECT: Final = {"type": "user", "id": "alice"}
_RESOURCE: Final = {"type": "model", "id": "atlas-3"}
_USE: Final = {"name": "use"}


@routes.post(
    SEARCH_PATHS["subject"],
    summary="Which subjects may do this with this resource?",
    openapi_extra=_described(
        "subject",
        {"subject": {"type": "user"}, "action": _USE, "resource": _RESOURCE},
        ENTITY,
    ),
    responses=_REFUSALS,
)
async def search_subjects(request: Request) -> Response:
    """Answer an AuthZEN subject search over the subjects that the ledger knows."""
    return await _search(request, "subject")


@routes.post(
    SEARCH_PATHS["resource"],
    summary="With which resources may this subject do this?",
    openapi_extra=_described(
        "resource",
        {"subject": _SUBJECT, "action": _USE, "resource": {"type": "model"}},
        ENTITY,
    ),
    responses=_REFUSALS,
)
async def search_resources(request: Request) -> Response:
    """Answer an AuthZEN resource search over the catalogue."""
    return await _search(request, "resource")


@routes.post(
    SEARCH_PATHS["action"],
    summary="What may this subject do with this resource?",
    openapi_extra=_described("action", {"subject": _SUBJECT, "resource": _RESOURCE}, ACTION),
    responses=_REFUSALS,
)
async def search_actions(request: Request) -> Response:
    """Answer an AuthZEN action search over the resource's catalogued actions."""
    return await _search(request, "action")


@routes.get(
    "/.well-known/authzen-configuration",
    summary="Where the AuthZEN endpoints are",
    responses={200: {"model": dict[str, Any], "description": "AuthZEN metadata."}},
)
async def metadata(request: Request) -> Response:
    """Return the AuthZEN metadata (AuthZEN 1.0, section 9), under ``LEDGER_PUBLIC_URL``."""
    service = service_of(request)
    base = (
        service.settings.public_url or f"{request.url.scheme}://{urlsplit(str(request.url)).netloc}"
    )
    body = {
        "policy_decision_point": base,
        "access_evaluation_endpoint": base + EVALUATION_PATH,
        "access_evaluations_endpoint": base + EVALUATIONS_PATH,
        **{f"search_{name}_endpoint": base + path for name, path in SEARCH_PATHS.items()},
    }
    return answer(
        body,
        position=service.feed.position,
        headers={"Cache-Control": f"public, max-age={METADATA_SECONDS}"},
    )
