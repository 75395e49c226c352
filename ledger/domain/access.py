"""The access rule: may this subject do this with this resource at this instant? If not, why not?

Nothing else decides access. The live index (``projections/access.py``) is a faster way to the same
answers, and the tests hold it to this one.

A suspension counts when it is in force at the instant, is recorded against the request's subject,
one of the subjects it acts through, or any ancestor of these, and its scope covers the request. Any
that counts refuses, and all that count are the reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from ledger.domain.catalogue import Catalogue
from ledger.domain.record import Record, Suspension
from ledger.domain.values import OneResource, Resource, ResourcesOfGroup, Scope, Subject

UnknownSubjects = Literal["allow", "deny_unknown"]
"""The default where nothing counts: allow everybody, or only subjects that the ledger knows."""

_NONE: Mapping[str, object] = {}


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked. ``through`` are the further subjects that the subject acts through.

    Properties are claims of the caller; each wins over a recorded one of the same name.
    """

    subject: Subject
    resource: Resource
    action: str
    through: tuple[Subject, ...] = ()
    subject_properties: Mapping[str, object] = field(default_factory=dict)
    resource_properties: Mapping[str, object] = field(default_factory=dict)
    action_properties: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer. ``suspensions`` are all that count, oldest start first.

    ``until`` is the end of the run of overlapping ones, ``None`` when any of them has no known end.
    ``unknown_subject`` is set when the default, not a suspension, refused.
    """

    allowed: bool
    suspensions: tuple[Suspension, ...] = ()
    until: datetime | None = None
    unknown_subject: bool = False


def decide(
    records: Mapping[Subject, Record],
    catalogue: Catalogue,
    request: Request,
    at: datetime,
    *,
    unknown: UnknownSubjects = "allow",
) -> Decision:
    """Answer a request at an instant from folded records.

    ``records`` must hold the record of every subject looked at (see ``looked_at``) that has one.
    """
    covering = [
        suspension
        for subject in looked_at((request.subject, *request.through), records.get, at)
        if subject in records
        for suspension in records[subject].suspensions.values()
        if _covers(suspension.event.scope, records, catalogue, request, at)
    ]
    counting = [suspension for suspension in covering if suspension.in_force(at)]
    if counting:
        counting.sort(key=lambda s: (s.event.effective_at, s.position))
        return Decision(
            allowed=False, suspensions=tuple(counting), until=_end_of_run(covering, counting)
        )
    if unknown == "deny_unknown":
        record = records.get(request.subject)
        if record is None or not record.known(at):
            return Decision(allowed=False, unknown_subject=True)
    return Decision(allowed=True)


def looked_at(
    subjects: Iterable[Subject], record_of: Callable[[Subject], Record | None], at: datetime
) -> list[Subject]:
    """Return the subjects and all their ancestors at an instant, each once, nearest first."""
    found = dict.fromkeys(subjects)
    waiting = list(found)
    while waiting:
        record = record_of(waiting.pop(0))
        for parent in record.parents(at) if record else ():
            if parent not in found:
                found[parent] = None
                waiting.append(parent)
    return list(found)


def in_force_on(
    records: Mapping[Subject, Record], subject: Subject, at: datetime
) -> list[Suspension]:
    """Return all suspensions in force on a subject or an ancestor then, oldest start first."""
    found = [
        suspension
        for above in looked_at((subject,), records.get, at)
        if above in records
        for suspension in records[above].suspensions.values()
        if suspension.in_force(at)
    ]
    return sorted(found, key=lambda s: (s.event.effective_at, s.position))


def _covers(
    scope: Scope,
    records: Mapping[Subject, Record],
    catalogue: Catalogue,
    request: Request,
    at: datetime,
) -> bool:
    if scope.actions is not None and request.action not in scope.actions:
        return False
    if not any(_selects(selector, catalogue, request.resource, at) for selector in scope.resources):
        return False
    if not scope.conditions:
        return True
    record = records.get(request.subject)
    recorded = record.properties.at(at) if record else None
    properties = {
        "subject": {**(recorded or _NONE), **request.subject_properties},
        "resource": {
            **catalogue.properties_at(request.resource, at),
            **request.resource_properties,
        },
        "action": request.action_properties,
    }
    return all(condition.holds(properties) for condition in scope.conditions)


def _selects(selector: object, catalogue: Catalogue, resource: Resource, at: datetime) -> bool:
    if isinstance(selector, OneResource):
        return (selector.type, selector.id) == (resource.type, resource.id)
    if isinstance(selector, ResourcesOfGroup):
        return catalogue.is_member(resource, selector.group, at)
    return bool(getattr(selector, "type", None) == resource.type)


def _end_of_run(covering: Iterable[Suspension], counting: list[Suspension]) -> datetime | None:
    """Follow the overlapping suspensions from those that count now to the first gap."""
    later = sorted(
        (s for s in covering if s not in counting),
        key=lambda suspension: suspension.event.effective_at,
    )
    end = counting[0].closes_at
    for suspension in (*counting, *later):
        if end is None:
            return None
        closes = suspension.closes_at
        if suspension.event.effective_at <= end and (closes is None or closes > end):
            end = closes
    return end
