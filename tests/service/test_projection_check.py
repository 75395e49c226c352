"""The comparison of projections with events, while a service runs."""

from __future__ import annotations

import pytest

from ledger.service import projection_check
from ledger.service.projection_check import ProjectionCheck
from tests.conftest import on_each_store
from tests.service.conftest import Running, suspension_of, until

WITHIN_S = 60.0


@on_each_store
def test_a_row_that_lets_somebody_in_is_found_while_the_service_runs(
    founded: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service is in doubt then: it records nothing, says so, and marks its answers."""
    suspension = suspension_of(founded, "user:alice")
    service = founded.service
    monkeypatch.setattr(projection_check, "AUDIT_INTERVAL_S", 0.05)
    monkeypatch.setattr(projection_check, "AUDIT_REST", 0)
    check = ProjectionCheck(service.settings.database_url, service.signer.mark_doubted)
    check.start()
    with service.recorder.store.transaction(commit=True) as c:
        c.execute("UPDATE access_terms SET overturned = 1 WHERE suspension = ?", (suspension,))
    until(lambda: service.signer.doubt is not None, within_s=WITHIN_S)
    check.stop()

    answer = founded("GET", "/readyz")
    assert (503, "log_not_verified") == (answer.status_code, answer.json()["code"])
    assert "rows of access_terms are not what the events say" in answer.json()["detail"]
    decided = founded.decision("user:alice", "atlas-3")
    assert (False, "not_verified") == (decided["decision"], decided["context"]["log"])
    founded.checked = False  # it is not whole, and that is the point


@pytest.mark.soak
def test_what_is_whole_is_compared_again_and_again(
    founded: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is said while rows and events agree, whatever is recorded meanwhile."""
    monkeypatch.setattr(projection_check, "AUDIT_INTERVAL_S", 0.05)
    monkeypatch.setattr(projection_check, "AUDIT_REST", 0)
    compared: list[list[str]] = []

    class Counting(ProjectionCheck):
        def _differing(self) -> list[str]:
            compared.append(super()._differing())
            return compared[-1]

    said: list[str] = []
    check = Counting(founded.service.settings.database_url, said.append)
    check.start()
    suspension_of(founded, "user:alice")
    until(lambda: len(compared) > 1, within_s=WITHIN_S)
    check.stop()

    assert [[], []] == compared[:2]
    assert [] == said
