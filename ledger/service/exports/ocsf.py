"""Events of the Open Cybersecurity Schema Framework 1.8.0, for tools that watch security.

A violation is a Compliance Finding (2003), everything else an Entity Management event (3004): a
suspension is its activity Suspend, a reinstatement Resume. Nothing is left out: what OCSF has no
activity for is Other, by its own name, and the whole event stands under ``unmapped``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Final

import orjson

from ledger.service.exports.views import Row, View

VERSION: Final = "1.8.0"
PRODUCT: Final = {"name": "Compliance ledger", "vendor_name": "compliance-ledger"}

FINDINGS: Final = 2  # the category of class 2003
COMPLIANCE_FINDING: Final = 2003
IDENTITY: Final = 3  # the category of class 3004
ENTITY_MANAGEMENT: Final = 3004

OTHER: Final = 99
INFORMATIONAL: Final = 1
SUCCESS: Final = 1
SERVICE_USER: Final = 4  # operators are programs; the human behind one is in ``invoked_by``
SEVERITIES: Final[Mapping[str, int]] = {"low": 2, "medium": 3, "high": 4, "critical": 5}
ENTITY_TYPES: Final[Mapping[str, int]] = {
    "user": 2,
    "operator": 2,
    "group": 3,
    "organization": 4,
    "policy": 5,
}
ACTIVITIES: Final[Mapping[str, tuple[int, str]]] = {
    "subject.registered": (1, "Create"),
    "subject.linked": (3, "Update"),
    "subject.unlinked": (3, "Update"),
    "subject.suspended": (12, "Suspend"),
    "suspension.revised": (3, "Update"),
    "suspension.cancelled": (13, "Resume"),
    "subject.reinstated": (13, "Resume"),
    "policy.published": (1, "Create"),
    "resource.listed": (1, "Create"),
    "group.defined": (1, "Create"),
    "operator.enrolled": (1, "Create"),
    "operator.role_changed": (3, "Update"),
}
"""What becomes of an event of class 3004; any other is Other, by its type."""


def write(_: View, pages: Iterable[list[Row]], origin: str) -> Iterator[bytes]:
    """Yield the lines of each page."""
    for page in pages:
        yield b"".join(
            [orjson.dumps(event_of(row, origin), option=orjson.OPT_APPEND_NEWLINE) for row in page]
        )


def event_of(row: Row, origin: str) -> dict[str, object]:
    """Return an event of the trail as one of OCSF."""
    time = _milliseconds(row["recorded_at"])
    metadata: dict[str, object] = {
        "version": VERSION,
        "product": PRODUCT,
        "uid": str(row["position"]),
        "sequence": row["position"],
        "event_code": row["type"],
        "log_name": origin,
        "logged_time": time,
    }
    if row["request_id"]:
        metadata["correlation_uid"] = row["request_id"]
    if row["caused_by"] is not None:
        metadata["original_event_uid"] = str(row["caused_by"])
    kind = _finding if row["type"].startswith("violation.") else _change
    return {
        "metadata": metadata,
        "time": time,
        "message": row["sentence"],
        **kind(row),
        "unmapped": row,
    }


def _finding(row: Row) -> dict[str, object]:
    data = row["data"]
    subject = data["subject"]
    recorded = _milliseconds(row["recorded_at"])
    info: dict[str, object] = {"uid": data["violation"], "modified_time": recorded}
    compliance: dict[str, object]
    if row["type"] == "violation.recorded":
        activity, name, status, severity = 1, "Create", 1, SEVERITIES[data["severity"]]
        info |= {
            "title": data["summary"],
            "types": [data["category"]],
            "created_time": recorded,
            "first_seen_time": _milliseconds(data["occurred_at"]),
        }
        compliance = {
            "standards": [data["policy"]],
            "control": data["clause"],
            "category": data["category"],
            "status_id": 3,
            "status": "Fail",
        }
    else:
        activity, name, status, severity = 3, "Close", 4, INFORMATIONAL
        compliance = {"status_id": 1, "status": "Pass", "desc": data["reason"]}
    return {
        "category_uid": FINDINGS,
        "class_uid": COMPLIANCE_FINDING,
        "activity_id": activity,
        "activity_name": name,
        "type_uid": COMPLIANCE_FINDING * 100 + activity,
        "severity_id": severity,
        "status_id": status,
        "finding_info": info,
        "compliance": compliance,
        "resources": [_resource(each) for each in (subject, *data.get("resources", ()))],
    }


def _change(row: Row) -> dict[str, object]:
    data = row["data"]
    activity, name = ACTIVITIES.get(row["type"], (OTHER, row["type"]))
    actor: dict[str, object] = {"user": {"uid": row["operator"], "type_id": SERVICE_USER}}
    if row["on_behalf_of"]:
        actor["invoked_by"] = row["on_behalf_of"]
    change: dict[str, object] = {
        "category_uid": IDENTITY,
        "class_uid": ENTITY_MANAGEMENT,
        "activity_id": activity,
        "activity_name": name,
        "type_uid": ENTITY_MANAGEMENT * 100 + activity,
        "severity_id": INFORMATIONAL,
        "status_id": SUCCESS,
        "actor": actor,
        "entity": _entity(row["stream"]),
    }
    if data.get("reason"):
        change["comment"] = data["reason"]
    return change


def _entity(stream: str) -> dict[str, object]:
    """Return what a stream is about: ``subject/user:alice``, ``policy/acceptable-use``."""
    kind, _, uid = stream.partition("/")
    if kind in ("subject", "resource"):
        kind = uid.partition(":")[0]
    type_id = ENTITY_TYPES.get(kind, OTHER)
    entity: dict[str, object] = {"uid": uid or stream, "type_id": type_id, "type": kind}
    if kind == "user":
        entity["user"] = {"uid": uid, "type_id": 1}
    return entity


def _resource(named: Mapping[str, str]) -> dict[str, object]:
    return {
        "uid": f"{named['type']}:{named['id']}",
        "type": named["type"],
        "name": named["id"],
    }


def _milliseconds(instant: str) -> int:
    return int(datetime.fromisoformat(instant).timestamp() * 1_000)
