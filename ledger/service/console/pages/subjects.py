"""Subjects: finding one, and all that is recorded about it, then as now, as known then or now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final

from eventsourcing.persistence import Cursor
from fastapi import Query, Request
from fastapi.responses import Response

from ledger.application import Known
from ledger.domain.access import looked_at
from ledger.domain.errors import InvalidValue, NotFound
from ledger.domain.events import Author, Recorded, SubjectEvent, SuspensionRevised
from ledger.domain.record import Record
from ledger.domain.values import Sealed, Subject, format_instant
from ledger.service.console.frame import Listed, render, with_query
from ledger.service.console.route import console_router, form_of, only
from ledger.service.console.timeline import Line, counted, picture_of
from ledger.service.http.access import access_of
from ledger.service.http.conduct import READERS
from ledger.service.http.route import service_of
from ledger.service.http.shapes import (
    DIGITS_MAX,
    PageByKeyAsked,
    SubjectKey,
    Times,
    TimeTravel,
    Travel,
    subject_of,
)
from ledger.service.http.subjects import record_of
from ledger.service.wiring import Service

TYPES_SHOWN_MAX: Final = 50  # of subjects: to choose from, and to look into for an id without one
ROWS_SHOWN_MAX: Final = 50  # of each list on a subject's page: some screens; the lists have all

Beginning = Annotated[str | None, Query(max_length=400)]
OfType = Annotated[str | None, Query(alias="type", max_length=100)]

routes = console_router()


# --- finding one ----------------------------------------------------------------------------------


@routes.get("/console/subjects", openapi_extra=only(*READERS))
def subjects(
    request: Request,
    asked: PageByKeyAsked,
    travel: Travel,
    q: Beginning = None,
    of_type: OfType = None,
) -> Response:
    """List the subjects that the ledger knows, whose id or ``type:id`` begins as asked for."""
    service = service_of(request)
    with service.reading() as (c, head):
        times = travel.resolve(service, head)
        types = service.access.types_of_subjects(c, TYPES_SHOWN_MAX)
        found = service.access.subjects_beginning(
            c,
            beginnings(q or "", of_type, types),
            position=times.position,
            limit=asked.limit + 1,
            after=asked.after,
        )
        shown = found[: asked.limit]
        in_force = service.access.in_force_by_subject(
            c, [key for key, _ in shown], at=times.at, position=times.position
        )
        firsts = service.recorder.at_positions([position for _, position in shown])
    items = [
        {"key": key, "since": first.recorded_at, "in_force": in_force.get(key, 0)}
        for (key, _), first in zip(shown, firsts, strict=True)
    ]
    return render(
        request,
        "subjects.html",
        times=times,
        listed=Listed(items, shown[-1][0] if len(found) > len(shown) else None),
        types=types,
        exact=exact_of(q, of_type),
    )


def beginnings(q: str, of_type: str | None, types: Sequence[str]) -> list[str]:
    """Return how the keys that are looked for begin; an id may be meant in any type."""
    kinds = types if of_type is None else [of_type]
    begins = [f"{kind}:{q}" for kind in kinds]
    if ":" in q and (of_type is None or q.startswith(f"{of_type}:")):
        begins.append(q)
    return begins


def exact_of(q: str | None, of_type: str | None) -> str | None:
    """Return the key that was typed, known or not; ``None`` when it is none."""
    for key in (q, f"{of_type}:{q}" if q and of_type else None):
        try:
            if key is not None:
                return Subject.parse(key).key
        except InvalidValue:
            continue
    return None


# --- one ------------------------------------------------------------------------------------------


@routes.get("/console/subjects/record", openapi_extra=only(*READERS))
def subject_record(request: Request, subject: SubjectKey, travel: Travel) -> Response:
    """Show standing, timeline, access with reasons, and every list of a subject's record."""
    service = service_of(request)
    asked = subject_of(subject)
    with service.reading() as (c, head):
        times = travel.resolve(service, head)
        known = service.ledger.known([asked], position=times.position)
        record = record_of(service, c, known, asked, times)
        looking = _looking(service, times, travel)
        mine = known.records.get(asked, Record(asked))
        above = _above(known, asked, times.at)
        revisions = _revisions(service, [asked, *(each.subject for each in above)], times.position)
        sealed = _sealed(service, c, mine, times.position)
    access = access_of(known, asked, times, service.settings.unknown_subject)
    answers = [_explained(each, access["suspensions"], asked) for each in access["resources"]]
    return render(
        request,
        "subject.html",
        times=times,
        subject=asked,
        known=mine.first_recorded_at is not None,
        standing=_standing(asked, access["suspensions"], answers),
        record=record,
        answers=answers,
        picture=picture_of(mine, above, revisions, looking.lines, times.at),
        revisions=revisions,
        sealed=sealed,
        looking=looking,
        shown_max=ROWS_SHOWN_MAX,
    )


@dataclass(frozen=True, slots=True)
class Looking:
    """From where in time a page looks: whether it is not now, and at which instants.

    ``known_at`` is ``None`` when what is known is what is known now. What a page says and draws
    must not depend on the clock once both times are given, because its link shows the same next
    year. So now is a line only while newer facts would be shown, too.
    """

    travels: bool
    known_at: datetime | None
    lines: tuple[Line, ...]


def _looking(service: Service, times: Times, travel: TimeTravel) -> Looking:
    pinned = travel.known_at is not None or travel.known_position is not None
    known_at = travel.known_at
    if pinned and known_at is None and times.position:
        (newest,) = service.recorder.at_positions([times.position])
        known_at = newest.recorded_at
    if travel.at is None:
        lines = [Line("now", "now", times.at)]
    else:
        lines = [Line("as_of", "as of", times.at)]
        if not pinned:
            lines.append(Line("now", "now", service.now()))
    if known_at is not None:
        lines.append(Line("known", "as known on", known_at))
    return Looking(pinned or travel.at is not None, known_at, tuple(lines))


def _above(known: Known, subject: Subject, at: datetime) -> list[Record]:
    """Return the records of all that stood above a subject, nearest first."""
    _, *above = looked_at((subject,), known.records.get, at)
    return [known.records[each] for each in above if each in known.records]


def _revisions(
    service: Service, subjects: Sequence[Subject], position: int
) -> dict[str, list[Recorded]]:
    """Return the facts that moved an end, by suspension, in order."""
    found: dict[str, list[Recorded]] = {}
    for subject in subjects:
        for recorded in service.recorder.stream(
            f"subject/{subject.key}", until=position, types=(SuspensionRevised.TYPE,)
        ):
            assert isinstance(recorded.event, SuspensionRevised)
            found.setdefault(recorded.event.suspension, []).append(recorded)
    return found


def _sealed(service: Service, c: Cursor, mine: Record, position: int) -> dict[int, str]:
    """Return, by position of an event, whether what it seals was ``sealed`` or ``erased`` then.

    As with everything on the page, an erasure counts once it was known. What is erased in truth
    stays so: there is nothing left to show.
    """
    facts: list[tuple[int, SubjectEvent]] = [
        (one.recorded.position, one.event) for one in mine.violations.values()
    ]
    facts += [(one.position, one.event) for one in mine.suspensions.values()]
    found = {}
    for place, event in facts:
        keys = {one.key for _, one in event.sealed_fields() if isinstance(one, Sealed)}
        if keys:
            erased = service.erasures.erased_by(c, keys)
            gone = all(erased.get(key, position + 1) <= position for key in keys)
            found[place] = "erased" if gone else "sealed"
    return found


def _explained(
    answer: Mapping[str, Any], suspensions: Sequence[Mapping[str, Any]], subject: Subject
) -> dict[str, Any]:
    """Return what a resource answers, with the suspensions that refuse instead of their ids."""
    by_id = {each["id"]: each for each in suspensions}
    reasons = [by_id[id_] for id_ in answer["suspensions"]]
    return {
        **answer,
        "key": f"{answer['resource']['type']}:{answer['resource']['id']}",
        "refused": [name for name, allowed in answer["actions"].items() if not allowed],
        "reasons": [
            {**each, "inherited": each["subject"] != subject.model_dump()} for each in reasons
        ],
    }


def _standing(
    subject: Subject, suspensions: Sequence[Mapping[str, Any]], answers: Sequence[Mapping[str, Any]]
) -> str:
    """Say how a subject stands, in a sentence."""
    refused = [each for each in answers if not each["allowed"]]
    of = f"{len(refused)} of {counted(len(answers), 'catalogued resource')}"
    if not suspensions:
        if refused:
            return f"No suspension is in force, but {of} are refused, because it is unknown."
        return "No suspension is in force; nothing in the catalogue is refused."
    above = any(each["subject"] != subject.model_dump() for each in suspensions)
    more = " on it or on subjects above it" if above else ""
    return (
        f"{counted(len(suspensions), 'suspension')} in force{more}; "
        f"{of} {'is' if len(refused) == 1 else 'are'} refused, wholly or in part."
    )


# --- what is sealed -------------------------------------------------------------------------------


@routes.post("/console/subjects/reveal", openapi_extra=only(*READERS))
def reveal(request: Request) -> Response:
    """Show what an event of a subject seals, once it is recorded who was shown it."""
    service, form = service_of(request), form_of(request)
    asked = subject_of(form.get("subject", ""))
    digits = form.get("position", "")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= DIGITS_MAX):
        raise InvalidValue("position must be that of an event", field="position")
    position = int(digits)
    with service.reading():
        recorded = service.recorder.event(position)
    if (
        recorded is None
        or not isinstance(recorded.event, SubjectEvent)
        or recorded.event.subject != asked
    ):
        raise NotFound(f"{asked.key} has no event {position}")
    by = Author(request.state.caller.operator, None, request.state.request_id)
    texts = service.ledger.disclose(position, by=by)
    return render(
        request,
        "revealed.html",
        subject=asked,
        position=position,
        sentence=recorded.sentence,
        recorded_at=format_instant(recorded.recorded_at),
        texts=texts,
        back=with_query("/console/subjects/record", subject=asked.key),
    )
