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
from ledger.tlog.checkpoint import check_log_signed, parse_checkpoint
from ledger.tlog.leaf import hash_of
from ledger.tlog.merkle import Frontier, root
from ledger.tlog.note import parse_note, verify_note
from projections.access import AccessIndex, snapshot

INSTANTS_MAX = 12  # per ledger: enough to meet each end, few enough to keep tests quick
SUBJECTS_MAX = 40


def check_ledger(service: Service) -> None:
    """Check that positions and versions are dense, time runs forward, projections equal a rebuild,

    that the log commits to every event and every checkpoint to its tree, and that the index (the
    live one, and one loaded from the rows) answers as the fold does.
    """
    check_history(service)
    check_log(service)
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


def check_log(service: Service) -> None:
    """Check that every hash of the log is that of its rows, and every checkpoint that of its tree.

    (Any checkpoint that was ever signed is a prefix of the log now.)
    """
    keys = service.ledger.log_keys()
    with service.recorder.store.transaction(commit=False) as c:
        head = service.recorder.position
        leaves = [hash_of(row) for row in service.log.rows(c, 0, head)]
        hashes, level = leaves, 0
        expected = []
        while hashes:
            expected += [(level, index, hash_) for index, hash_ in enumerate(hashes)]
            full = len(hashes) // 256
            hashes = [root(hashes[index * 256 : (index + 1) * 256]) for index in range(full)]
            level += 1
        c.execute("SELECT level, idx, hash FROM log_hashes ORDER BY level, idx")
        assert expected == [tuple(row) for row in c.fetchall()]
        c.execute("SELECT size, note FROM log_checkpoints ORDER BY size")
        tree = Frontier()
        for size, data in c.fetchall():
            note = parse_note(data)
            checkpoint = parse_checkpoint(note.text)
            assert size == checkpoint.size <= head
            tree = tree.extend(leaves[tree.size : size])
            assert tree.root() == checkpoint.root
            verified = verify_note(note, [each.key for each in keys])
            check_log_signed(checkpoint, verified, keys)


def check_projections(service: Service) -> None:
    """Check that every projection is what a rebuild from the events makes."""
    assert [] == list(rebuild(service.recorder).differences)


def check_index(service: Service) -> None:
    """Check that index and fold agree on subjects, resources, actions and interesting instants."""
    events = list(service.recorder.events())
    if not events:
        return
    newest = events[-1].recorded_at
    loaded = AccessIndex(unknown=service.index.unknown)
    with service.recorder.store.transaction(commit=False) as c:
        known_too = service.index.unknown == "deny_unknown"
        loaded.load(
            snapshot(
                c,
                position=events[-1].position,
                recorded_at=format_instant(newest),
                known=known_too,
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
