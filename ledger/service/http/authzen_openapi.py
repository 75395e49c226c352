"""The OpenAPI description of the evaluation paths, which no FastAPI route answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ledger.domain.errors import Behind, Unavailable
from ledger.domain.values import Role
from ledger.service.http.authzen import (
    ACTION_NAME_MAX,
    BATCH_ITEMS_MAX,
    EVALUATION_PATH,
    EVALUATIONS_PATH,
    SEMANTICS,
    THROUGH_MAX,
)
from ledger.service.http.problems import (
    BodyTooLarge,
    InvalidRequest,
    MalformedRequest,
    NotAllowed,
    NotAuthenticated,
    TooManyRequests,
    responses,
)
from ledger.service.http.route import allow

ENTITY: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["type", "id"],
    "properties": {
        "type": {"type": "string", "pattern": "^[a-z][a-z0-9_.-]{0,63}$"},
        "id": {"type": "string", "minLength": 1, "maxLength": 256},
        "properties": {"type": "object"},
    },
}
ACTION: Final = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": ACTION_NAME_MAX},
        "properties": {"type": "object"},
    },
}
EVALUATION_MEMBERS: Final[dict[str, Any]] = {
    "subject": ENTITY,
    "action": ACTION,
    "resource": ENTITY,
    "context": {
        "type": "object",
        "properties": {
            "subjects": {"type": "array", "maxItems": THROUGH_MAX, "items": ENTITY},
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


def paths() -> dict[str, Any]:
    """Return the two paths as they stand in the document."""
    return {
        EVALUATION_PATH: {
            "post": _operation(
                "May this subject do this with this resource now?",
                "Answer an AuthZEN access evaluation. A denial says why in `context`.",
                {
                    "type": "object",
                    "required": ["subject", "action", "resource"],
                    "properties": EVALUATION_MEMBERS,
                },
                _EXAMPLE,
                _DECISION,
            )
        },
        EVALUATIONS_PATH: {
            "post": _operation(
                "Several evaluations in one request",
                "Answer an AuthZEN access evaluations request, in the order of its items.",
                _BATCH,
                _BATCH_EXAMPLE,
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
            )
        },
    }


_BATCH: Final = {
    "type": "object",
    "properties": {
        **EVALUATION_MEMBERS,
        "evaluations": {
            "type": "array",
            "maxItems": BATCH_ITEMS_MAX,
            "items": {"type": "object", "properties": EVALUATION_MEMBERS},
        },
        "options": {
            "type": "object",
            "properties": {"evaluations_semantic": {"enum": list(SEMANTICS)}},
        },
    },
}
_BATCH_EXAMPLE: Final = {
    "subject": {"type": "user", "id": "alice"},
    "action": {"name": "use"},
    "evaluations": [
        {"resource": {"type": "model", "id": "atlas-3"}},
        {"resource": {"type": "model", "id": "mini-2"}},
    ],
}


def _operation(
    summary: str,
    description: str,
    request: Mapping[str, object],
    example: object,
    answered: Mapping[str, object],
) -> dict[str, Any]:
    refusals = responses(
        MalformedRequest,
        NotAuthenticated,
        NotAllowed,
        BodyTooLarge,
        InvalidRequest,
        TooManyRequests,
        Behind,
        Unavailable,
    )
    answers: dict[str, Any] = {
        "200": {
            "description": "The decision; a denial too.",
            "content": {"application/json": {"schema": answered}},
        }
    }
    for status, described in refusals.items():
        answers[str(status)] = {k: v for k, v in described.items() if k != "model"}
    return {
        "tags": ["access"],
        "summary": summary,
        "description": description,
        "operationId": summary.lower().replace(" ", "_").rstrip("?"),
        **allow(Role.SERVICE),
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": request, "example": example}},
        },
        "responses": answers,
    }
