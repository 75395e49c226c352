"""A ledger that a newer program wrote to is not served by this one."""

from __future__ import annotations

import pytest

from ledger.domain.errors import UnknownFact
from ledger.service.settings import Settings
from ledger.service.wiring import build
from tests.conftest import SetClock
from tests.service.conftest import open_ledger

ENVELOPE = (
    b'{"caused_by":null,"data":{},"on_behalf_of":null,"operator":"x","request_id":null,"schema":'
)


@pytest.mark.parametrize(
    ("type_", "schema"), [("subject.praised", 1), ("subject.suspended", 2), ("x.y", 9)]
)
def test_a_fact_of_a_newer_version_stops_the_service_at_its_start(
    settings: Settings, clock: SetClock, type_: str, schema: int
) -> None:
    """The refusal names the event, its type and its schema, and the bytes stay as they are."""
    service = build(settings, clock=clock)
    open_ledger(service)
    position = service.recorder.position + 1
    state = ENVELOPE + b"%d}" % schema
    with service.recorder.store.transaction(commit=True) as c:
        c.execute(
            "INSERT INTO events VALUES (?, 'subject/user:alice', 1, ?, ?, ?)",
            (position, type_, "2026-11-24T10:00:00.000000Z", state),
        )

    with pytest.raises(UnknownFact, match=rf"event {position} is a {type_} of schema {schema}"):
        service.start()

    with service.recorder.store.transaction(commit=False) as c:
        c.execute("SELECT state FROM events WHERE position = ?", (position,))
        assert state == c.fetchone()[0]
    service.close()
