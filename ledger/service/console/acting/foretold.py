"""What would happen, in words: made of the events of a rehearsal and the records before it.

Who may use what is asked of the access rule itself, before and after, at the instant from which the
events make a difference. So the page cannot say anything else than the decision point will.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ledger.application import Known, Rehearsed
from ledger.domain.access import Request, decide, in_force_on
from ledger.domain.catalogue import DEFAULT_ACTION
from ledger.domain.events import (
    ErasureRequested,
    Event,
    HoldPlaced,
    OperatorEnrolled,
    OperatorKeyIssued,
    OperatorKeyRevoked,
    OperatorRoleChanged,
    PersonalDataErased,
    Recorded,
    SubjectEvent,
    SubjectLinked,
    SubjectRegistered,
    SubjectReinstated,
    SubjectSuspended,
    SubjectUnlinked,
    SuspensionCancelled,
    SuspensionRevised,
    ViolationOverturned,
    ViolationRecorded,
    WarningIssued,
)
from ledger.domain.record import Record
from ledger.domain.values import Basis, Condition, Ending, OneResource, Resource, Scope, Subject
from ledger.service.console.frame import readable_time
from ledger.service.wiring import Service

_Told = tuple[Recorded, SubjectEvent]
_Use = tuple[Resource, str]

RESOURCES_LOOKED_AT_MAX: Final = 500  # of the catalogue: some ten milliseconds; the page says so
SUBJECTS_SHOWN_MAX: Final = 10  # whose access changes, and who stands below: a page, not a list

CHANGES_ACCESS: Final = (
    SubjectRegistered,
    SubjectLinked,
    SubjectUnlinked,
    SubjectSuspended,
    SuspensionRevised,
    SuspensionCancelled,
    SubjectReinstated,
)


@dataclass(frozen=True, slots=True)
class Other:
    """A suspension that stands beside what is recorded, and stays as it is."""

    id: str
    subject: str
    refuses: str
    until: datetime | None


@dataclass(frozen=True, slots=True)
class Change:
    """What a subject may use from an instant on that it could not before, and the other way."""

    subject: str
    at: datetime
    refused: Sequence[str]
    opened: Sequence[str]
    still: Sequence[str]
    others: Sequence[Other]


@dataclass(frozen=True, slots=True)
class Foretold:
    """All that the page before the decision says."""

    sentences: Sequence[str]
    follows: Sequence[str]
    changes: Sequence[Change]
    looked_at: int
    listed: int


def foretell(service: Service, rehearsed: Rehearsed) -> Foretold:
    """Say what a rehearsed command would lead to."""
    events = rehearsed.events
    follows = [said for recorded in events for said in _follows(service, recorded, events)]
    told = [(each, each.event) for each in events if isinstance(each.event, SubjectEvent)]
    changes, looked_at, listed = _changes(service, told)
    sentences = [each.sentence for each in events]
    return Foretold(sentences, list(dict.fromkeys(follows)), changes, looked_at, listed)


def seen_in(rehearsed: Rehearsed) -> str:
    """Return a text that is another one once anything was recorded about what is decided on."""
    places = [[each.stream, each.version, each.type] for each in rehearsed.events]
    return hashlib.sha256(repr(places).encode()).hexdigest()[:32]


# --- what follows ---------------------------------------------------------------------------------


def _follows(service: Service, recorded: Recorded, events: Sequence[Recorded]) -> list[str]:
    event = recorded.event
    match event:
        case SubjectSuspended():
            return [*_suspended(event, recorded.recorded_at), *_below(service, event.subject)]
        case SuspensionRevised():
            return [
                f"The end was {_end(event.previous_ends_at)}; it will be {_end(event.ends_at)}."
            ]
        case SuspensionCancelled():
            return [f"Suspension {event.suspension} never begins."]
        case SubjectReinstated():
            return [_reinstated(event, recorded.recorded_at), *_below(service, event.subject)]
        case ViolationRecorded():
            return [
                "Nothing is refused by it: a suspension that rests on it is a decision of its own.",
                "It stands until an approver overturns it.",
                *_sealed(event),
            ]
        case ViolationOverturned():
            return _overturned(service, event, events)
        case SubjectLinked():
            return [
                f"What is refused to {event.parent.key} is refused to {event.subject.key}, too.",
                "So it is with all below it, and with what is refused later.",
            ]
        case SubjectUnlinked():
            return [
                f"What is refused to {event.parent.key} no longer binds {event.subject.key}.",
                "Another link may still lead there; below is what changes for it.",
            ]
        case _:
            return _in_one_sentence(event)


def _in_one_sentence(event: Event) -> list[str]:
    match event:
        case WarningIssued():
            return ["Nothing is refused by it."]
        case SubjectRegistered():
            return ["Its properties are replaced by these; conditions of suspensions look at them."]
        case ErasureRequested():
            return ["Nothing is erased until an approver, who is somebody else, confirms it."]
        case PersonalDataErased(keys=keys):
            return [
                f"{_count(len(keys), 'key')} destroyed at once: nobody can undo it."
                if keys
                else "Nothing is sealed about the subject, so no key is destroyed.",
                "The events stay, and so does every suspension that is in force.",
            ]
        case HoldPlaced():
            return ["While it stands, nothing about the subject is erased."]
        case OperatorEnrolled():
            return ["It can do nothing until a key is issued to it."]
        case OperatorRoleChanged():
            return ["Its keys act in the new role from then on, and its sessions here end."]
        case OperatorKeyIssued():
            return ["The key is shown once, on the next page. The ledger keeps its digest only."]
        case OperatorKeyRevoked():
            return ["Whoever uses it is refused within a second, and its sessions here end."]
        case _:
            return []


def _suspended(event: SubjectSuspended, now: datetime) -> list[str]:
    begins = "at once" if event.effective_at <= now else f"on {readable_time(event.effective_at)}"
    said = [f"It begins {begins}, for {event.scope.label}."]
    said += [f"Only where {_condition(each)}." for each in event.scope.conditions]
    if event.ends_at is None:
        said.append("It has no end: it stands until a person reinstates the subject.")
    elif event.reinstatement is Ending.AUTOMATIC:
        said.append(f"It ends by itself on {readable_time(event.ends_at)}.")
    else:
        said.append(
            f"Its term ends on {readable_time(event.ends_at)}, but it goes on until a person has "
            "looked and reinstates the subject."
        )
    if event.basis is Basis.VIOLATIONS:
        said.append(
            f"It rests on {_count(len(event.grounds), 'violation')}; when all of them are "
            "overturned, it ends with the last."
        )
    said.append(
        {
            "notified": "The subject is told, and shown the reason.",
            "deferred": "The subject is told later.",
            "public": "The subject is told, and everybody may know.",
        }[event.disclosure]
    )
    return [*said, *_sealed(event)]


def _reinstated(event: SubjectReinstated, now: datetime) -> str:
    ends = "at once" if event.effective_at == now else f"on {readable_time(event.effective_at)}"
    return f"Suspension {event.suspension} ends {ends}."


def _overturned(
    service: Service, event: ViolationOverturned, events: Sequence[Recorded]
) -> list[str]:
    """Name the suspensions that rest on the violation, too, and yet go on."""
    ending = {each.event.suspension for each in events if isinstance(each.event, SubjectReinstated)}
    resting = [
        (Subject.parse(key), id_)
        for key, id_ in service.ledger.finder.resting_on(event.violation)
        if id_ not in ending
    ]
    records = _known_before(service, [subject for subject, _ in resting], events[0]).records
    return [
        "The violation counts for nothing from then on.",
        *(
            f"Suspension {id_} of {subject.key} does not rest on it alone: it goes on, and waits "
            "for a person to look."
            for subject, id_ in resting
            if records[subject].suspensions[id_].state(events[0].recorded_at)
            in ("scheduled", "in_force")
        ),
    ]


def _below(service: Service, subject: Subject) -> list[str]:
    below = sorted(each.key for each in service.ledger.finder.children_of(subject))
    if not below:
        return []
    shown = ", ".join(below[:SUBJECTS_SHOWN_MAX])
    more = len(below) - SUBJECTS_SHOWN_MAX
    return [
        f"So it is for all below {subject.key}: {shown}"
        + (f", and {more} more." if more > 0 else ".")
    ]


def _sealed(event: SubjectEvent) -> list[str]:
    count = sum(1 for _ in event.sealed_fields())
    if not count:
        return []
    are = "is" if count == 1 else "are"
    return [f"{_count(count, 'text')} {are} sealed: shown only to who asks, which is recorded."]


def _condition(condition: Condition) -> str:
    if condition.exists is not None:
        return f"{condition.attribute} is {'there' if condition.exists else 'not there'}"
    values = condition.in_ if condition.in_ is not None else condition.not_in or ()
    negated = "" if condition.in_ is not None else "not "
    return f"{condition.attribute} is {negated}one of {', '.join(map(str, values))}"


def _end(instant: datetime | None) -> str:
    return readable_time(instant) if instant else "none"


def _count(number: int, of_what: str) -> str:
    return f"{number} {of_what}{'' if number == 1 else 's'}"


# --- who may use what -----------------------------------------------------------------------------


def _changes(service: Service, told: Sequence[_Told]) -> tuple[list[Change], int, int]:
    """Compare what each subject may use before and after; also how many resources were looked at.

    Subjects are compared whose access may change, and all events are taken in: they are dense.
    """
    changing = [each for each in told if isinstance(each[1], CHANGES_ACCESS)]
    subjects = list(dict.fromkeys(event.subject for _, event in changing))[:SUBJECTS_SHOWN_MAX]
    if not subjects:
        return [], 0, 0
    first = told[0][0]
    parents = [event.parent for _, event in told if isinstance(event, SubjectLinked)]
    known = _known_before(service, [*(event.subject for _, event in told), *parents], first)
    records = known.records
    at = {
        subject: max(_start(records, each) for each in changing if each[1].subject == subject)
        for subject in subjects
    }
    listed = known.catalogue.listed_at(first.recorded_at)
    asked = {
        entry.resource: tuple(entry.actions) for entry in listed[:RESOURCES_LOOKED_AT_MAX]
    } | _named(records, changing)

    def refused() -> dict[Subject, set[_Use]]:
        return {
            subject: {
                (resource, action)
                for resource, actions in asked.items()
                for action in actions
                if not decide(
                    records,
                    known.catalogue,
                    Request(subject, resource, action),
                    at[subject],
                    unknown=service.index.unknown,
                ).allowed
            }
            for subject in subjects
        }

    before = refused()
    for recorded, event in told:
        records.setdefault(event.subject, Record(event.subject)).evolve(recorded)
    after = refused()
    decided = {getattr(event, "suspension", None) for _, event in told}
    changes = [
        Change(
            subject.key,
            at[subject],
            refused=_labels(asked, after[subject] - before[subject]),
            opened=_labels(asked, before[subject] - after[subject]),
            still=_labels(asked, before[subject] & after[subject]),
            others=[
                Other(each.id, each.event.subject.key, each.event.scope.label, each.closes_at)
                for each in in_force_on(records, subject, at[subject])
                if each.id not in decided
            ],
        )
        for subject in subjects
    ]
    return changes, min(len(listed), RESOURCES_LOOKED_AT_MAX), len(listed)


def _known_before(service: Service, subjects: Iterable[Subject], first: Recorded) -> Known:
    return service.ledger.known(subjects, position=first.position - 1)


def _start(records: Mapping[Subject, Record], told: _Told) -> datetime:
    """Return from when an event makes a difference that is still to come."""
    recorded, event = told
    start: datetime | None = None
    if isinstance(event, SubjectSuspended):
        start = event.effective_at
    elif isinstance(event, SubjectReinstated | SuspensionCancelled):
        start = records[event.subject].suspensions[event.suspension].event.effective_at
    elif isinstance(event, SuspensionRevised):
        start = min((end for end in (event.previous_ends_at, event.ends_at) if end), default=None)
    return max(start or recorded.recorded_at, recorded.recorded_at)


def _named(
    records: Mapping[Subject, Record], told: Sequence[_Told]
) -> dict[Resource, tuple[str, ...]]:
    """Return the resources that the scopes name one by one, whether or not they are listed."""
    scopes: list[Scope] = []
    for _, event in told:
        if isinstance(event, SubjectSuspended):
            scopes.append(event.scope)
        elif isinstance(event, SubjectReinstated | SuspensionCancelled | SuspensionRevised):
            scopes.append(records[event.subject].suspensions[event.suspension].event.scope)
    return {
        Resource(type=selector.type, id=selector.id): scope.actions or (DEFAULT_ACTION,)
        for scope in scopes
        for selector in scope.resources
        if isinstance(selector, OneResource)
    }


def _labels(asked: Mapping[Resource, Sequence[str]], uses: set[_Use]) -> list[str]:
    """Return resources, each with the actions that are meant unless those are all it has."""
    found = []
    for resource, actions in asked.items():
        meant = [action for action in actions if (resource, action) in uses]
        if meant:
            all_of_them = len(meant) == len(actions)
            found.append(resource.key if all_of_them else f"{resource.key} ({', '.join(meant)})")
    return found
