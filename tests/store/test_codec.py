"""The stored form of events, and the form in which they are shown."""

from __future__ import annotations

from uuid import UUID

import orjson
import pytest
from eventsourcing.persistence import StoredEvent

from ledger.domain.events import Author, Draft, OperatorEnrolled, Recorded, SubjectRegistered
from ledger.domain.values import Role, Subject
from ledger.store.codec import LedgerMapper, Placed, RecordedNotification, as_json, encode
from tests.conftest import T0

ENROLLED = OperatorEnrolled(operator="jo", role=Role.OFFICER)
AUTHOR = Author("admin", "user:jane", "request-1")


def test_an_event_is_stored_as_canonical_json() -> None:
    """Names are sorted, there is no white space, and nothing but the type and place is left out."""
    state = encode(Draft(ENROLLED, AUTHOR, caused_by=7))

    assert (
        b'{"caused_by":7,"data":{"operator":"jo","role":"officer"},"on_behalf_of":"user:jane",'
        b'"operator":"admin","request_id":"request-1","schema":1}'
    ) == state


def test_the_same_fact_has_the_same_bytes() -> None:
    """The order in which properties were given does not show."""
    alice = Subject(type="user", id="alice")

    bytes_of = [
        encode(Draft(SubjectRegistered(subject=alice, properties=properties), AUTHOR))
        for properties in ({"a": 1, "b": ("é", 2.0)}, {"b": ["é", 2.0], "a": 1})
    ]

    assert bytes_of[0] == bytes_of[1]
    assert '"b":["é",2.0]'.encode() in bytes_of[0]


def test_a_stored_event_is_read_with_its_place() -> None:
    """Without a position an event is not in the ledger yet, and is not read."""
    mapper = LedgerMapper()
    stored = mapper.to_stored_event(Placed("operator/jo", 1, Draft(ENROLLED, AUTHOR)))

    read = mapper.to_domain_event(
        RecordedNotification(
            stored.originator_id,
            stored.originator_version,
            stored.topic,
            stored.state,
            3,
            T0,
        )
    )

    assert Recorded(3, "operator/jo", 1, T0, AUTHOR, None, ENROLLED) == read
    with pytest.raises(TypeError, match="position"):
        mapper.to_domain_event(stored)
    with pytest.raises(TypeError):
        mapper.to_domain_event(StoredEvent(UUID(int=1), 1, stored.topic, stored.state))


def test_an_event_is_shown_with_all_that_belongs_to_it() -> None:
    """What the API shows is JSON, and holds the envelope, the data and the sentence."""
    shown = as_json(Recorded(3, "operator/jo", 1, T0, AUTHOR, 2, ENROLLED))

    assert {
        "position": 3,
        "type": "operator.enrolled",
        "schema": 1,
        "stream": "operator/jo",
        "version": 1,
        "recorded_at": "2026-11-24T10:00:00.000000Z",
        "operator": "admin",
        "on_behalf_of": "user:jane",
        "request_id": "request-1",
        "caused_by": 2,
        "data": {"operator": "jo", "role": "officer"},
        "sentence": "admin (for user:jane) enrolled operator jo as officer",
    } == orjson.loads(orjson.dumps(shown))
