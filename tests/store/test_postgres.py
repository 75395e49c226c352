"""The recorder on PostgreSQL keeps the contract, and the library's own; and what only it can do."""

from __future__ import annotations

from ledger.store.postgres import PostgresDatastore
from ledger.store.recorder import LedgerRecorder
from ledger.tlog.log import LogRows
from projections.access import AccessRows
from projections.conduct import ConductRows
from projections.erasures import ErasureRows
from tests.conftest import SetClock
from tests.store.contract import enrolled


def test_an_event_is_appended_with_its_projections(postgres_url: str, clock: SetClock) -> None:
    """It is read back, with its leaf and its rows."""
    store = PostgresDatastore(postgres_url)
    recorder = LedgerRecorder(
        store,
        clock=clock,
        log=LogRows(),
        projections=(AccessRows(), ConductRows(), ErasureRows()),
    )
    recorder.create_table()
    assert [1] == recorder.insert_events([enrolled()])

    assert ["jo"] == [recorded.event.about for recorded in recorder.events()]
    store.close()
