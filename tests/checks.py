"""``check_ledger``: what must hold of a whole ledger. Every test above the domain ends with it."""

from __future__ import annotations

from datetime import timedelta

from ledger.domain.access import Request, decide
from ledger.domain.events import SubjectEvent, SubjectSuspended
from ledger.domain.values import (
    OneResource,
    Resource,
    Subject,
    format_instant,
    from_microseconds,
    microseconds,
)
from ledger.service.wiring import Service
from ledger.store.replay import rebuild
from projections.access import AccessIndex, snapshot

INSTANTS_MAX = 12  # per ledger: enough to meet each end, few enough to keep tests quick
SUBJECTS_MAX = 40


def check_ledger(service: Service) -> None:
    """Check that positions and versions are dense, time runs forward, projections equal a rebuild,

    and that the index (the live one, and one loaded from the rows) answers as the fold does.
    """
    check_history(service)
    check_projections(service)
    check_index(service)


def check_history(service: Service) -> None:
    """Check positions, versions and ``recorded_at``; reading also decodes every event."""
    versions: dict[str, int] = {}
    position = 0
    recorded_at = None
    for recorded in service.recorder.events():
        position += 1
        assert position == recorded.position
        assert versions.get(recorded.stream, 0) + 1 == recorded.version
        assert recorded_at is None or recorded_at <= recorded.recorded_at
        versions[recorded.stream] = recorded.version
        recorded_at = recorded.recorded_at
    assert position == service.recorder.position


def check_projections(service: Service) -> None:
    """Check that every projection is what a rebuild from the events makes."""
    assert [] == list(rebuild(service.recorder).differences)


def check_index(service: Service) -> None:
    """Check that index and fold agree on subjects, resources, actions and interesting instants."""
    events = list(service.recorder.events())
    if not events:
        return
    newest = events[-1].recorded_at
    loaded = AccessIndex()
    with service.recorder.store.transaction(commit=False) as c:
        loaded.load(
            snapshot(
                c,
                position=events[-1].position,
                recorded_at=format_instant(newest),
                unknown=service.index.unknown,
            )
        )
    indexes = [loaded]
    if service.index.position:
        service.feed.catch_up()
        assert events[-1].position == service.index.position
        indexes.append(service.index)

    subjects: dict[Subject, None] = {Subject(type="user", id="nobody-knows"): None}
    resources = {Resource(type="model", id="not-listed"): None}
    actions = {"use": None}
    instants = {newest: None, newest + timedelta(days=36_500): None}
    for recorded in events:
        if isinstance(recorded.event, SubjectEvent):
            subjects[recorded.event.subject] = None
        if isinstance(recorded.event, SubjectSuspended):
            event = recorded.event
            for action in event.scope.actions or ():
                actions[action] = None
            for selector in event.scope.resources:
                if isinstance(selector, OneResource):
                    resources[Resource(type=selector.type, id=selector.id)] = None
            for instant in (event.effective_at, event.ends_at):
                if instant is not None and instant >= newest:
                    instants[instant] = None
                    instants[instant - timedelta(microseconds=1)] = None
    known = service.ledger.known(subjects)
    for entry in known.catalogue.listed_at(newest):
        resources[entry.resource] = None
        for action in entry.actions:
            actions[action] = None
    for subject in list(subjects)[-SUBJECTS_MAX:]:
        for resource in resources:
            for action in actions:
                for at in [i for i in instants if i >= newest][:INSTANTS_MAX]:
                    fold = decide(
                        known.records,
                        known.catalogue,
                        Request(subject, resource, action),
                        at,
                        unknown=service.index.unknown,
                    )
                    expected = (
                        fold.allowed,
                        [s.id for s in fold.suspensions],
                        fold.until,
                        fold.unknown_subject,
                    )
                    for index in indexes:
                        found = index.check(subject.key, resource.key, action, microseconds(at))
                        until = None if found.until is None else from_microseconds(found.until)
                        assert expected == (
                            found.allowed,
                            [r.id for r in found.restrictions],
                            until,
                            found.unknown_subject,
                        ), (subject, resource, action, at)
