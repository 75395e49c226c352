"""Access: the AuthZEN decision point, and what an auditor asks about one subject.

The evaluation routes follow the OpenID AuthZEN Authorization API 1.0. A denial is an answer with
status 200, never an error: a caller that took it for one might fail open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from ledger.domain.access import Request as AccessRequest
from ledger.domain.access import UnknownSubjects, decide, in_force_on
from ledger.domain.catalogue import Catalogue
from ledger.domain.record import Record
from ledger.domain.values import (
    Instant,
    Resource,
    Role,
    Subject,
    format_instant,
    from_microseconds,
    identifier,
    microseconds,
    type_name,
)
from ledger.service.http.problems import (
    BodyTooLarge,
    MalformedRequest,
    UnsupportedMediaType,
    responses,
)
from ledger.service.http.route import (
    BODY_BYTES_MAX,
    allow,
    answer,
    read_body,
    router,
    service_of,
)
from ledger.service.http.shapes import (
    BEHIND_THE_GATE,
    SubjectKey,
    Times,
    Travel,
    read_responses,
    subject_of,
)
from ledger.service.http.suspensions import SuspensionView
from projections.access import (
    NEVER,
    AccessIndex,
    Answer,
    Restriction,
)

routes = router("access")

BATCH_BYTES_MAX: Final = 1024 * 1024  # a thousand evaluations of a kilobyte
BATCH_ITEMS_MAX: Final = 1_000  # some milliseconds of work; more would hold up single checks
THROUGH_MAX: Final = 16  # subjects that one request acts through: application, organization, key …
ACTION_NAME_MAX: Final = 256  # an action's name is an identifier

APPEAL_HINT: Final = "You may appeal this decision within 180 days of its notice; quote its id."
_SEMANTICS: Final = {
    "execute_all": None,
    "deny_on_first_deny": False,
    "permit_on_first_permit": True,
}
_NO_PROPERTIES: Final[Mapping[str, object]] = {}


# --- one evaluation -------------------------------------------------------------------------------


def evaluate(index: AccessIndex, item: Mapping[str, Any], at: int) -> dict[str, object]:
    """Answer one evaluation (AuthZEN 1.0, section 6): ``decision`` and ``context``.

    ``at`` is now in microseconds since 1970. Raises ``MalformedRequest`` for an item that is not a
    whole evaluation. Members that are not known are ignored, as the standard wants.
    """
    subject, subject_properties = _entity(item.get("subject"), "subject")
    resource, resource_properties = _entity(item.get("resource"), "resource")
    action, action_properties = _action(item.get("action"))
    through = _through(item.get("context"))
    kind, _, id_ = resource.partition(":")
    found = index.check(
        subject,
        kind,
        id_,
        action,
        at,
        through=through,
        subject_properties=subject_properties,
        resource_properties=resource_properties,
        action_properties=action_properties,
    )
    if found.allowed:
        return {"decision": True, "context": {"position": index.position}}
    return {
        "decision": False,
        "context": explain(found, subject, resource, at, index.position),
    }


def _entity(raw: object, name: str) -> tuple[str, Mapping[str, object]]:
    """Return the key and the properties of a subject or resource."""
    if not isinstance(raw, dict):
        raise MalformedRequest(f"{name} must be an object with type and id", field=f"/{name}")
    kind, id_ = raw.get("type"), raw.get("id")
    try:
        key = f"{type_name(kind)}:{identifier(id_)}"
    except ValueError as error:
        raise MalformedRequest(f"{name} must have type and id: {error}", field=f"/{name}") from None
    return key, _properties(raw, name)


def _action(raw: object) -> tuple[str, Mapping[str, object]]:
    if not isinstance(raw, dict) or not isinstance(raw.get("name"), str):
        raise MalformedRequest("action must be an object with a name", field="/action")
    name: str = raw["name"]
    if not 0 < len(name) <= ACTION_NAME_MAX:
        raise MalformedRequest(
            f"action.name must have 1 to {ACTION_NAME_MAX} characters", field="/action/name"
        )
    return name, _properties(raw, "action")


def _properties(raw: Mapping[str, Any], name: str) -> Mapping[str, object]:
    found = raw.get("properties")
    if found is None:
        return _NO_PROPERTIES
    if not isinstance(found, dict):
        raise MalformedRequest(f"{name}.properties must be an object", field=f"/{name}/properties")
    return found


def _through(context: object) -> Sequence[str]:
    """Return the keys of ``context.subjects``: the application, organization … acted through."""
    if context is None:
        return ()
    if not isinstance(context, dict):
        raise MalformedRequest("context must be an object", field="/context")
    subjects = context.get("subjects")
    if subjects is None:
        return ()
    if not isinstance(subjects, list) or len(subjects) > THROUGH_MAX:
        raise MalformedRequest(
            f"context.subjects must be an array of at most {THROUGH_MAX} subjects",
            field="/context/subjects",
        )
    return [_entity(subject, "context.subjects")[0] for subject in subjects]


def explain(
    found: Answer, subject: str, resource: str, at: int, position: int
) -> dict[str, object]:
    """Return the ``context`` of a denial: for the user, for the administrator, and for programs."""
    as_of = format_instant(from_microseconds(at))
    if found.unknown_subject:
        return {
            "reason_user": {"en": "Access is given to registered users only."},
            "reason_admin": {"en": f"{subject} is not known to the ledger."},
            "reasons": ["unknown_subject"],
            "suspensions": [],
            "until": None,
            "position": position,
            "as_of": as_of,
        }
    until = _instant_or_none(found.until)
    shown_until = f"until {until[:16].replace('T', ' ')} UTC" if until else "until further notice"
    words = " ".join(dict.fromkeys(restriction.reason for restriction in found.restrictions))
    by = "; ".join(
        f"{restriction.id}{f' for {clause}' if (clause := _clause(restriction)) else ''}"
        for restriction in found.restrictions
    )
    return {
        "reason_user": {"en": f"Access to {resource} is suspended {shown_until}: {words}"},
        "reason_admin": {"en": f"{subject} is suspended from {resource} {shown_until} by {by}"},
        "reasons": ["suspended"],
        "suspensions": [
            {
                "id": restriction.id,
                "effective_at": format_instant(from_microseconds(restriction.effective)),
                "ends_at": _instant_or_none(restriction.ends),
                "clause": _clause(restriction),
                "reason": restriction.reason,
                "appeal": APPEAL_HINT,
            }
            for restriction in found.restrictions
        ],
        "until": until,
        "position": position,
        "as_of": as_of,
    }


def _clause(restriction: Restriction) -> str | None:
    clauses = orjson.loads(restriction.clauses)
    return ", ".join(f"{c['policy']} {c['clause']}" for c in clauses) or None


def _instant_or_none(number: int | None) -> str | None:
    if number is None or number == NEVER:
        return None
    return format_instant(from_microseconds(number))


def evaluations(index: AccessIndex, body: Mapping[str, Any], at: int) -> dict[str, object]:
    """Answer a batch (AuthZEN 1.0, section 7); without ``evaluations`` it is one evaluation.

    An item takes each entity it lacks, whole, from the top level. An item that is not a whole
    evaluation is denied by itself, with ``context.error``.
    """
    items = body.get("evaluations")
    options = body.get("options")
    if options is not None and not isinstance(options, dict):
        raise MalformedRequest("options must be an object", field="/options")
    semantic = (options or {}).get("evaluations_semantic", "execute_all")
    if not isinstance(semantic, str) or semantic not in _SEMANTICS:
        raise MalformedRequest(
            f"evaluations_semantic must be one of {', '.join(_SEMANTICS)}",
            field="/options/evaluations_semantic",
        )
    if items is None or items == []:
        return evaluate(index, body, at)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise MalformedRequest("evaluations must be an array of objects", field="/evaluations")
    if len(items) > BATCH_ITEMS_MAX:
        raise MalformedRequest(
            f"evaluations has {len(items)} items, {BATCH_ITEMS_MAX} are allowed",
            field="/evaluations",
        )
    stop_at = _SEMANTICS[semantic]
    defaults = {
        name: body[name] for name in ("subject", "action", "resource", "context") if name in body
    }
    answers: list[dict[str, object]] = []
    for item in items:
        try:
            decided = evaluate(index, {**defaults, **item}, at)
        except MalformedRequest as error:
            decided = {
                "decision": False,
                "context": {"error": {"status": 400, "message": str(error)}},
            }
        answers.append(decided)
        if stop_at is not None and decided["decision"] is stop_at:
            break
    return {"evaluations": answers}


# --- the AuthZEN routes ---------------------------------------------------------------------------

_ENTITY: Final = {
    "type": "object",
    "required": ["type", "id"],
    "properties": {
        "type": {"type": "string", "pattern": "^[a-z][a-z0-9_.-]{0,63}$"},
        "id": {"type": "string", "minLength": 1, "maxLength": 256},
        "properties": {"type": "object"},
    },
}
_EVALUATION_MEMBERS: Final = {
    "subject": _ENTITY,
    "action": {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": ACTION_NAME_MAX},
            "properties": {"type": "object"},
        },
    },
    "resource": _ENTITY,
    "context": {
        "type": "object",
        "properties": {
            "subjects": {"type": "array", "maxItems": THROUGH_MAX, "items": _ENTITY},
        },
    },
}
_EXAMPLE: Final = {
    "subject": {"type": "user", "id": "alice"},
    "action": {"name": "use"},
    "resource": {"type": "model", "id": "atlas-3"},
    "context": {"subjects": [{"type": "application", "id": "press-desk"}]},
}
_DECISION: Final = {
    "type": "object",
    "required": ["decision"],
    "properties": {"decision": {"type": "boolean"}, "context": {"type": "object"}},
}


def _authzen(
    request_schema: Mapping[str, object], example: object, answer_schema: Mapping[str, object]
) -> dict[str, Any]:
    """Return the ``openapi_extra`` of an AuthZEN route, whose body FastAPI does not read."""
    content = {"application/json": {"schema": request_schema, "example": example}}
    return {
        **allow(Role.SERVICE),
        "requestBody": {"required": True, "content": content},
        "responses": {
            "200": {
                "description": "The decision; a denial too.",
                "content": {"application/json": {"schema": answer_schema}},
            }
        },
    }


_REFUSALS: Final = responses(*BEHIND_THE_GATE, BodyTooLarge)


async def _authzen_body(request: Request, limit: int) -> Mapping[str, Any]:
    """Return the JSON object of an AuthZEN request; every fault of form is a 400 there."""
    try:
        raw = await read_body(request, limit)
        body = orjson.loads(raw)
    except UnsupportedMediaType as error:
        raise MalformedRequest(str(error)) from None
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise MalformedRequest("the body must be a JSON object")
    return body


@routes.post(
    "/access/v1/evaluation",
    summary="May this subject do this with this resource now?",
    openapi_extra=_authzen(
        {
            "type": "object",
            "required": ["subject", "action", "resource"],
            "properties": _EVALUATION_MEMBERS,
        },
        _EXAMPLE,
        _DECISION,
    ),
    responses=_REFUSALS,
)
async def evaluation(request: Request) -> Response:
    """Answer an AuthZEN access evaluation. A denial says why and until when in ``context``."""
    service = service_of(request)
    body = await _authzen_body(request, BODY_BYTES_MAX)
    decided = evaluate(service.index, body, microseconds(service.now()))
    return answer(decided, position=service.index.position)


@routes.post(
    "/access/v1/evaluations",
    summary="Several evaluations in one request",
    openapi_extra=_authzen(
        {
            "type": "object",
            "properties": {
                **_EVALUATION_MEMBERS,
                "evaluations": {
                    "type": "array",
                    "maxItems": BATCH_ITEMS_MAX,
                    "items": {"type": "object", "properties": _EVALUATION_MEMBERS},
                },
                "options": {
                    "type": "object",
                    "properties": {"evaluations_semantic": {"enum": list(_SEMANTICS)}},
                },
            },
        },
        {
            "subject": {"type": "user", "id": "alice"},
            "action": {"name": "use"},
            "evaluations": [
                {"resource": {"type": "model", "id": "atlas-3"}},
                {"resource": {"type": "model", "id": "mini-2"}},
            ],
        },
        {
            "anyOf": [
                _DECISION,
                {
                    "type": "object",
                    "required": ["evaluations"],
                    "properties": {"evaluations": {"type": "array", "items": _DECISION}},
                },
            ]
        },
    ),
    responses=_REFUSALS,
)
async def evaluation_batch(request: Request) -> Response:
    """Answer an AuthZEN access evaluations request, in the order of its items."""
    service = service_of(request)
    body = await _authzen_body(request, BATCH_BYTES_MAX)
    decided = evaluations(service.index, body, microseconds(service.now()))
    return answer(decided, position=service.index.position)


# --- what is in force, now and then ---------------------------------------------------------------


class ResourceAccess(BaseModel):
    """Whether a catalogued resource may be used: with every action, and with each; if not, why."""

    resource: Resource
    allowed: bool
    actions: dict[str, bool] = Field(examples=[{"use": False}])
    suspensions: list[str] = Field(examples=[["sus_01k9qv4w4jbdph1z6cx3m0y7ra"]])
    until: Instant | None = Field(description="When every action is allowed again, if known.")


class AccessAnswer(BaseModel):
    """What a subject may use at ``at``, as known at ``known_position``."""

    subject: Subject
    at: Instant
    known_position: int
    position: int
    suspensions: list[SuspensionView]
    resources: list[ResourceAccess]


@routes.get(
    "/v1/access",
    summary="What a subject may use, at any time, as known at any time",
    openapi_extra=allow(Role.AUDITOR, Role.OFFICER, Role.APPROVER, Role.SERVICE),
    responses=read_responses(AccessAnswer),
)
def access(request: Request, subject: SubjectKey, travel: Travel) -> Response:
    """Return every suspension in force on the subject, and what each catalogued resource answers.

    ``at`` asks what was in force then; ``known_at`` or ``known_position`` what was known then.
    """
    service = service_of(request)
    asked = subject_of(subject)
    with service.reading() as (_, head):
        times = travel.resolve(service, head)
        known = service.ledger.known([asked], position=times.position)
    body = {
        "subject": asked.model_dump(),
        "at": format_instant(times.at),
        "known_position": times.position,
        "position": head,
        "suspensions": [
            suspension.as_json(times.at)
            for suspension in in_force_on(known.records, asked, times.at)
        ],
        "resources": [
            _resource_access(
                known.records,
                known.catalogue,
                asked,
                entry.resource,
                entry.actions,
                times,
                service.settings.unknown_subject,
            )
            for entry in known.catalogue.listed_at(times.at)
        ],
    }
    return answer(body, position=head)


def _resource_access(
    records: Mapping[Subject, Record],
    catalogue: Catalogue,
    subject: Subject,
    resource: Resource,
    actions: Sequence[str],
    times: Times,
    unknown: UnknownSubjects,
) -> dict[str, object]:
    decided = {
        action: decide(
            records,
            catalogue,
            AccessRequest(subject, resource, action),
            times.at,
            unknown=unknown,
        )
        for action in actions
    }
    refused = [decision for decision in decided.values() if not decision.allowed]
    ends = [decision.until for decision in refused]
    known_ends = [end for end in ends if end is not None]
    until = max(known_ends) if known_ends and len(known_ends) == len(ends) else None
    return {
        "resource": resource.model_dump(),
        "allowed": not refused,
        "actions": {action: decision.allowed for action, decision in decided.items()},
        "suspensions": list(dict.fromkeys(s.id for d in refused for s in d.suspensions)),
        "until": format_instant(until) if until else None,
    }
