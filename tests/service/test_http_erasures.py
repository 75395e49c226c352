"""Sealed data over HTTP: shown when asked for and recorded, erased for good, and held from it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import orjson
import pytest

from ledger.domain.errors import InvalidValue, VaultUnavailable
from ledger.service.settings import sqlite_path
from ledger.service.wiring import build
from ledger.store.codec import as_json
from ledger.store.replay import rebuild
from ledger.store.sqlite import LedgerDatastore
from tests.checks import check_ledger
from tests.service.conftest import (
    Running,
    SetClock,
    found,
    joined,
    opened,
    serving,
    settings,  # noqa: F401 - a fixture
    suspension_of,
    violation_of,
)

SECRETS: Final = {
    "details": "Zebra told the support that she was hurt.",
    "uri": "s3://people/zebra.json",
    "sha256": "5ec0" * 16,
    "note": "Zebra is a minor, the school says.",
}
ALICE: Final = {"type": "user", "id": "alice"}
WISH: Final = {"subject": ALICE, "reason": "Asked for by the person."}


def sealed_about(run: Running, subject: str = "user:alice") -> tuple[str, str]:
    """Record a violation and a suspension with everything sealed; return their ids."""
    evidence = [
        {"uri": "s3://logs/1.json", "sha256": "0" * 64},
        {"uri": SECRETS["uri"], "sha256": SECRETS["sha256"], "personal": True},
    ]
    violation = violation_of(run, subject, details=SECRETS["details"], evidence=evidence)
    return violation, suspension_of(run, subject, grounds=[violation], note=SECRETS["note"])


def get(run: Running, path: str, role: str = "auditor", **query: Any) -> dict[str, Any]:
    """Read something."""
    return run.done("GET", path, role=role, params=query)


def events(run: Running, type_: str) -> list[dict[str, Any]]:
    """Return the events of a type, the newest first."""
    found: list[dict[str, Any]] = get(run, "/v1/events", type=type_)["items"]
    return found


def erase(run: Running, subject: dict[str, str] = ALICE) -> dict[str, Any]:
    """Request and confirm an erasure; return the answer to the confirmation."""
    asked = run.done("POST", "/v1/erasures", role="admin", json={**WISH, "subject": subject})
    return run.done("POST", f"/v1/erasures/{asked['id']}/confirmation", role="approver")


def files_of(run: Running) -> dict[str, bytes]:
    """Return everything that lies beside the database, the database included."""
    folder = run.service.settings.vault_path.parent
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def exported(run: Running) -> bytes:
    """Return every event as the API shows it."""
    return b"\n".join(orjson.dumps(as_json(one)) for one in run.service.recorder.events())


def wrapped_keys(run: Running) -> dict[str, bytes]:
    """Return the wrapped keys in the vault's file."""
    with sqlite3.connect(run.service.settings.vault_path) as c:
        found = dict(c.execute("SELECT key, wrapped FROM data_keys"))
    c.close()
    return found


# --- what is shown --------------------------------------------------------------------------------


def test_a_sealed_member_is_shown_as_its_box(founded: Running) -> None:
    """Commands, events and single items show the box; no answer and no file holds the text."""
    violation, suspension = sealed_about(founded)

    alone = get(founded, f"/v1/violations/{violation}")
    assert {"key", "box"} == set(alone["details"])
    assert {"uri": "s3://logs/1.json", "sha256": "0" * 64, "personal": False} == alone["evidence"][
        0
    ]
    assert {"key", "box"} == set(alone["evidence"][1]["uri"]) == set(alone["evidence"][1]["sha256"])
    assert alone["details"]["key"] == alone["evidence"][1]["uri"]["key"]
    event = get(founded, f"/v1/events/{alone['position']}")
    assert (alone["details"], alone["evidence"]) == (
        event["data"]["details"],
        event["data"]["evidence"],
    )
    assert {"key", "box"} == set(get(founded, f"/v1/suspensions/{suspension}")["note"])
    texts = [
        founded("GET", path, role="auditor", params=query).content
        for path, query in (
            ("/v1/violations", {}),
            ("/v1/suspensions", {}),
            ("/v1/events", {}),
            ("/v1/subjects/record", {"subject": "user:alice"}),
            ("/v1/access", {"subject": "user:alice"}),
        )
    ]
    texts += [
        founded("GET", f"/v1/access/{path}", role="service").content
        for path in ("snapshot", "changes?after=0")
    ]
    for secret in SECRETS.values():
        for text in (*texts, exported(founded), *files_of(founded).values()):
            assert secret.encode() not in text
    assert [] == get(founded, "/v1/events", q="zebra")["items"]


def test_what_is_sealed_is_shown_to_who_asks_after_that_is_recorded(founded: Running) -> None:
    """The text comes with reveal=true, and the trail names operator, human, event and members."""
    violation, suspension = sealed_about(founded)
    headers = {"Ledger-On-Behalf-Of": "employee:jane", "X-Request-ID": "look-1"}

    shown = founded.done(
        "GET",
        f"/v1/violations/{violation}",
        role="officer",
        params={"reveal": "true"},
        headers=headers,
    )

    personal = {"uri": SECRETS["uri"], "sha256": SECRETS["sha256"], "personal": True}
    assert (SECRETS["details"], personal) == (shown["details"], shown["evidence"][1])
    (disclosed,) = events(founded, "record.disclosed")
    assert {
        "subject": ALICE,
        "shown_position": shown["position"],
        "shown_stream": "subject/user:alice",
        "fields": ["details", "evidence/1/uri", "evidence/1/sha256"],
        "export": None,
    } == disclosed["data"]
    assert ("ledger", "the-officer", "employee:jane", "look-1") == tuple(
        disclosed[name] for name in ("stream", "operator", "on_behalf_of", "request_id")
    )
    note = get(founded, f"/v1/suspensions/{suspension}", "approver", reveal="true")
    assert SECRETS["note"] == note["note"]
    event = get(founded, f"/v1/events/{note['position']}", reveal="true")
    assert SECRETS["note"] == event["data"]["note"]
    assert ["the-auditor", "the-approver", "the-officer"] == [
        one["operator"] for one in events(founded, "record.disclosed")
    ]
    of_alice = get(founded, "/v1/events", subject="user:alice", type="record.disclosed")
    assert 3 == len(of_alice["items"])
    for secret in SECRETS.values():
        assert secret.encode() not in exported(founded)


def test_nothing_is_recorded_where_nothing_is_shown(founded: Running) -> None:
    """Only an explicit true reveals; where nothing is sealed, it discloses nothing."""
    sealed_about(founded)
    plain = violation_of(founded, "user:bob")
    before = founded.service.recorder.position

    for query in ({}, {"reveal": "false"}):
        shown = get(founded, f"/v1/events/{before - 2}", **query)
        assert "box" in shown["data"]["details"]
    assert get(founded, f"/v1/violations/{plain}", reveal="true")["details"] is None
    for value in ("1", "yes", "TRUE", ""):
        answer = founded("GET", "/v1/events/1", role="auditor", params={"reveal": value})
        assert (422, "reveal") == (answer.status_code, answer.json()["field"])

    assert before == founded.service.recorder.position


@pytest.mark.parametrize("role", ["reporter", "service", "admin"])
def test_roles_that_may_not_read_are_shown_nothing(founded: Running, role: str) -> None:
    """Who may not read a violation or an event may not reveal one; nothing is recorded."""
    violation, suspension = sealed_about(founded)
    before = founded.service.recorder.position
    for path in (f"/v1/violations/{violation}", f"/v1/suspensions/{suspension}", "/v1/events/1"):
        answer = founded("GET", path, role=role, params={"reveal": "true"})
        assert 403 == answer.status_code

    assert before == founded.service.recorder.position


def test_a_text_is_not_shown_when_that_cannot_be_recorded(founded: Running) -> None:
    """While another holds the write lock, the answer is 503 and the text stays sealed."""
    violation, _ = sealed_about(founded)
    founded.service.recorder.store.lock_timeout_s = 1
    assert isinstance(founded.service.recorder.store, LedgerDatastore)
    founded.service.recorder.store._writer = None  # the next one is opened with the short wait
    path = sqlite_path(founded.service.settings.database_url)
    with sqlite3.connect(path, isolation_level=None) as c:
        c.execute("BEGIN IMMEDIATE")
        answer = founded(
            "GET", f"/v1/violations/{violation}", role="auditor", params={"reveal": "true"}
        )
        c.execute("ROLLBACK")
    c.close()

    assert (503, "store_busy") == (answer.status_code, answer.json()["code"])
    assert SECRETS["details"] not in answer.text
    assert [] == events(founded, "record.disclosed")


def test_a_repeated_command_answers_the_sealed_event(founded: Running) -> None:
    """The same key and body: the event as it was recorded, box for box."""
    body = {
        "subject": ALICE,
        "scope": {"resources": [{"type": "model"}]},
        "duration": "P1D",
        "basis": "legal_order",
        "reason": "An order.",
        "note": SECRETS["note"],
    }
    headers = {"Idempotency-Key": "once"}

    first = founded("POST", "/v1/suspensions", role="officer", json=body, headers=headers)
    again = founded("POST", "/v1/suspensions", role="officer", json=body, headers=headers)

    assert 201 == first.status_code
    assert first.json() == again.json()
    assert {"key", "box"} == set(first.json()["event"]["data"]["note"])


# --- erasing --------------------------------------------------------------------------------------


def test_an_erasure_destroys_the_keys_and_nothing_else(founded: Running) -> None:
    """Afterwards no file holds text or wrapped key, the events are as they were, and it binds."""
    violation, suspension = sealed_about(founded)
    bob, _ = sealed_about(founded, "user:bob")
    stored = list(founded.service.recorder.select_notifications(1, 1_000))
    key = get(founded, f"/v1/violations/{violation}")["details"]["key"]
    wrapped = wrapped_keys(founded)
    assert 2 == len(wrapped)

    answer = erase(founded)

    event = answer["event"]
    assert [key] == event["data"]["keys"]
    assert ("personal_data.erased", "the-approver") == (event["type"], event["operator"])
    (asked,) = events(founded, "erasure.requested")
    assert asked["position"] == event["caused_by"]
    assert stored == list(founded.service.recorder.select_notifications(1, stored[-1].id))
    marker = {"key": key, "erased": True, "erased_by": answer["position"]}
    for query in ({}, {"reveal": "true"}):
        alone = get(founded, f"/v1/violations/{violation}", **query)
        assert (marker, marker) == (alone["details"], alone["evidence"][1]["uri"])
        assert marker == get(founded, f"/v1/suspensions/{suspension}", **query)["note"]
        assert marker == get(founded, f"/v1/events/{alone['position']}", **query)["data"]["details"]
    listed = get(founded, "/v1/violations", subject="user:alice")["items"][0]
    record = get(founded, "/v1/subjects/record", subject="user:alice")["violations"][0]
    assert marker == listed["evidence"][1]["uri"] == record["evidence"][1]["uri"]
    assert [] == events(founded, "record.disclosed")
    assert SECRETS["details"] == get(founded, f"/v1/violations/{bob}", reveal="true")["details"]

    assert not founded.allowed("user:alice", "atlas-3")
    files = files_of(founded)
    assert {"ledger.db", "ledger.db-wal", "ledger.vault"} < set(files)
    for content in (*files.values(), exported(founded)):
        assert wrapped[key] not in content
        for secret in SECRETS.values():
            assert secret.encode() not in content
    assert {name: value for name, value in wrapped.items() if name != key} == wrapped_keys(founded)


def test_what_is_sealed_after_an_erasure_has_a_new_key(founded: Running) -> None:
    """It can be read, until another erasure; the old stays erased."""
    old, _ = sealed_about(founded)
    erase(founded)
    new, _ = sealed_about(founded)

    assert SECRETS["details"] == get(founded, f"/v1/violations/{new}", reveal="true")["details"]
    assert get(founded, f"/v1/violations/{old}", reveal="true")["details"]["erased"]
    erase(founded)
    assert get(founded, f"/v1/violations/{new}", reveal="true")["details"]["erased"]
    assert {} == wrapped_keys(founded)


def test_where_nothing_is_sealed_the_erasure_says_so(founded: Running) -> None:
    """It is allowed all the same, for a subject that nobody knew, too."""
    answer = erase(founded, {"type": "user", "id": "nobody-knows"})

    assert [] == answer["event"]["data"]["keys"]
    assert "nothing was sealed about user:nobody-knows" in answer["event"]["sentence"]
    (listed,) = get(founded, "/v1/erasures", "approver")["items"]
    assert [] == listed["erased"]["keys"]
    assert "erased" == listed["state"]


def test_an_erasure_is_requested_and_confirmed_once(founded: Running) -> None:
    """A second request while one waits, and a second confirmation, are refused with the fact."""
    sealed_about(founded)
    asked = founded.done("POST", "/v1/erasures", role="admin", json=WISH)
    path = f"/v1/erasures/{asked['id']}/confirmation"
    again = founded("POST", "/v1/erasures", role="admin", json=WISH)
    assert (409, "already_requested") == (again.status_code, again.json()["code"])
    assert asked["id"] == again.json()["erasure"]
    headers = {"Idempotency-Key": "confirm"}

    first = founded("POST", path, role="approver", headers=headers)
    same = founded("POST", path, role="approver", headers=headers)
    second = founded("POST", path, role="approver")

    assert (201, first.content) == (same.status_code, same.content)
    assert (409, "already_erased") == (second.status_code, second.json()["code"])
    assert first.json()["position"] == second.json()["erased_by"]
    missing = founded("POST", "/v1/erasures/era_none/confirmation", role="approver")
    assert (404, "not_found") == (missing.status_code, missing.json()["code"])


def test_the_same_person_does_not_request_and_confirm(founded: Running) -> None:
    """Behind two machines the same human, or one operator whose role was changed: refused."""
    jane = {"Ledger-On-Behalf-Of": "employee:jane"}
    asked = founded.done("POST", "/v1/erasures", role="admin", json=WISH, headers=jane)
    path = f"/v1/erasures/{asked['id']}/confirmation"

    refused = founded("POST", path, role="approver", headers=jane)
    assert (409, "conflict_of_interest") == (refused.status_code, refused.json()["code"])
    issued = founded.done("POST", "/v1/operators/the-officer/keys", role="admin", json={})
    founded.keys["turncoat"] = issued["key"]
    turn = {"id": "the-officer", "role": "admin"}
    founded.done("POST", "/v1/operators", role="admin", json=turn)
    bob = {**WISH, "subject": {"type": "user", "id": "bob"}}
    own = founded.done("POST", "/v1/erasures", role="turncoat", json=bob)
    founded.done("POST", "/v1/operators", role="admin", json={**turn, "role": "approver"})
    refused = founded("POST", f"/v1/erasures/{own['id']}/confirmation", role="turncoat")
    assert (409, "conflict_of_interest") == (refused.status_code, refused.json()["code"])

    assert founded.done("POST", path, role="approver", headers={"Ledger-On-Behalf-Of": "a:b"})


# --- legal holds ----------------------------------------------------------------------------------


def test_a_legal_hold_forbids_erasing_while_it_stands(founded: Running) -> None:
    """Request and confirmation are refused until the last hold is lifted; others' are no matter."""
    violation, _ = sealed_about(founded)
    asked = founded.done("POST", "/v1/erasures", role="admin", json=WISH)["id"]
    confirmation = f"/v1/erasures/{asked}/confirmation"
    case = {"subject": ALICE, "reason": "A case is pending."}
    holds = [founded.done("POST", "/v1/holds", role="admin", json=case)["id"] for _ in range(2)]
    other = {**case, "subject": {"type": "user", "id": "bob"}}
    founded.done("POST", "/v1/holds", role="admin", json=other)

    def refusals() -> list[tuple[int, str, list[str]]]:
        answers = [
            founded("POST", "/v1/erasures", role="admin", json=WISH),
            founded("POST", confirmation, role="approver"),
        ]
        return [(a.status_code, a.json()["code"], a.json()["holds"]) for a in answers]

    assert [(409, "legal_hold", holds)] * 2 == refusals()
    founded.done("DELETE", f"/v1/holds/{holds[0]}", role="admin")
    assert [(409, "legal_hold", holds[1:])] * 2 == refusals()
    assert (
        SECRETS["details"] == get(founded, f"/v1/violations/{violation}", reveal="true")["details"]
    )
    founded.done("DELETE", f"/v1/holds/{holds[1]}", role="admin")
    again = founded("DELETE", f"/v1/holds/{holds[1]}", role="admin")
    assert (409, "hold_already_lifted") == (again.status_code, again.json()["code"])
    missing = founded("DELETE", "/v1/holds/hld_none", role="admin")
    assert (404, "not_found") == (missing.status_code, missing.json()["code"])
    founded.done("POST", confirmation, role="approver")


# --- crashes, other processes, old files ----------------------------------------------------------


@pytest.fixture
def crashed(settings: Any, clock: SetClock) -> Iterator[Running]:  # noqa: F811
    """A service whose erasure was committed and whose vault was not reached."""
    with opened(settings, clock) as run:
        yield found(run)


@contextmanager
def failing_vault(run: Running) -> Iterator[None]:
    """Let every destruction of a key fail in the vault's file, as a disk may."""
    with sqlite3.connect(run.service.settings.vault_path) as c:
        c.execute(
            "CREATE TRIGGER failing BEFORE DELETE ON data_keys "
            "BEGIN SELECT raise(ABORT, 'the disk is gone'); END"
        )
        c.commit()
        yield
        c.execute("DROP TRIGGER failing")
    c.close()


def test_a_key_that_outlived_its_erasure_goes_with_the_same_command_again(
    crashed: Running,
) -> None:
    """503, and nothing of it is shown; the repeated confirmation destroys and answers 201."""
    violation, _ = sealed_about(crashed)
    asked = crashed.done("POST", "/v1/erasures", role="admin", json=WISH)["id"]
    path, headers = f"/v1/erasures/{asked}/confirmation", {"Idempotency-Key": "erase"}
    with failing_vault(crashed):
        failed = crashed("POST", path, role="approver", headers=headers)
    assert (503, "vault_unavailable") == (failed.status_code, failed.json()["code"])
    assert 1 == len(wrapped_keys(crashed))
    assert get(crashed, f"/v1/violations/{violation}", reveal="true")["details"]["erased"]
    later, _ = sealed_about(crashed)

    again = crashed("POST", path, role="approver", headers=headers)

    assert 201 == again.status_code
    assert again.json()["event"]["data"]["keys"][0] not in wrapped_keys(crashed)
    assert SECRETS["details"] == get(crashed, f"/v1/violations/{later}", reveal="true")["details"]


def test_a_key_that_outlived_its_erasure_goes_at_the_next_start(
    crashed: Running,
) -> None:
    """A crash between the commit and the destruction is mended before the service answers."""
    sealed_about(crashed)
    with failing_vault(crashed):
        asked = crashed.done("POST", "/v1/erasures", role="admin", json=WISH)["id"]
        crashed("POST", f"/v1/erasures/{asked}/confirmation", role="approver")
    assert 1 == len(wrapped_keys(crashed))

    with joined(crashed):
        assert {} == wrapped_keys(crashed)
        assert [] == crashed.service.lost_keys()


def test_an_old_vault_file_does_not_bring_back_what_was_erased(
    settings: Any,  # noqa: F811
    clock: SetClock,
) -> None:
    """After a restored vault, starting destroys again what the ledger says is erased."""
    with opened(settings, clock) as run:
        found(run)
        violation, _ = sealed_about(run)
        old = settings.vault_path.read_bytes()
        erase(run)
        keys = run.keys
    settings.vault_path.write_bytes(old)

    service = build(settings, clock=clock)
    with serving(service) as url, httpx.Client(base_url=url, timeout=20) as http:
        again = Running(service, url, clock, keys, http)
        assert {} == wrapped_keys(again)
        assert get(again, f"/v1/violations/{violation}", reveal="true")["details"]["erased"]
        check_ledger(service)


def test_another_process_seals_and_erases_on_the_same_vault(founded: Running) -> None:
    """What one process seals, another reveals and erases; then neither can read it."""
    with joined(founded) as other:
        violation, _ = sealed_about(other)
        path = f"/v1/violations/{violation}"
        assert SECRETS["details"] == get(founded, path, reveal="true")["details"]
        position = erase(founded)["position"]
        applied = {"Ledger-Min-Position": str(position)}
        for run in (founded, other):
            shown = run.done(
                "GET", path, role="auditor", params={"reveal": "true"}, headers=applied
            )
            assert shown["details"]["erased"]
        newer, _ = sealed_about(other)
        shown = get(founded, f"/v1/violations/{newer}", reveal="true")
        assert SECRETS["details"] == shown["details"]


def test_keys_are_never_destroyed_before_the_commit(founded: Running) -> None:
    """Within a transaction the erasure could still be rolled back; it is a fault to shred there."""
    ledger = founded.service.ledger
    with ledger.together(), pytest.raises(AssertionError, match="after the commit"):
        ledger.shred()


def test_a_changed_row_destroys_no_key(founded: Running) -> None:
    """Only an event can have a key destroyed; what somebody wrote into a projection cannot."""
    violation, _ = sealed_about(founded)
    sealed_about(founded, "user:bob")
    position = erase(founded, {"type": "user", "id": "bob"})["position"]
    with sqlite3.connect(sqlite_path(founded.service.settings.database_url)) as c:
        c.execute("UPDATE erasure_keys SET erased_by = ? WHERE subject = 'user:alice'", (position,))
        c.execute(
            "UPDATE erasure_requests SET keys = (SELECT json_group_array(key) FROM erasure_keys)"
        )
        c.commit()
        assert 0 == founded.service.ledger.shred()
        c.execute("UPDATE erasure_requests SET done_position = 1")
        c.commit()
        assert 0 == founded.service.ledger.shred()
    c.close()
    rebuild(founded.service.recorder, repair=True)

    shown = get(founded, f"/v1/violations/{violation}", reveal="true")
    assert SECRETS["details"] == shown["details"]


def test_a_lost_key_is_told_from_an_erased_one(
    founded: Running, caplog: pytest.LogCaptureFixture
) -> None:
    """A vault that lost a key answers 503 and says which; a start says how many are lost."""
    violation, _ = sealed_about(founded)
    with sqlite3.connect(founded.service.settings.vault_path) as c:
        c.execute("DELETE FROM data_keys")
    c.close()

    answer = founded(
        "GET", f"/v1/violations/{violation}", role="auditor", params={"reveal": "true"}
    )

    assert (503, "vault_unavailable") == (answer.status_code, answer.json()["code"])
    assert "does not hold the key dek_" in answer.json()["detail"]
    assert "box" in get(founded, f"/v1/violations/{violation}")["details"]
    with joined(founded):
        assert "lacks 1 keys that no erasure destroyed" in caplog.text


def test_a_ledger_without_its_vault_key_is_not_opened(
    settings: Any,  # noqa: F811
    clock: SetClock,
) -> None:
    """A missing key is not replaced by a new one, and another ledger's key is refused."""
    with opened(settings, clock) as run:
        found(run)
    key: Path = settings.vault_key_path
    kept = key.read_bytes()
    key.unlink()

    with pytest.raises(InvalidValue, match="put the file back"):
        build(settings, clock=clock)
    key.touch(mode=0o600)
    key.write_bytes(b"A" * 43 + b"=\n")
    with pytest.raises(VaultUnavailable, match="another vault key"):
        build(settings, clock=clock)
    key.write_bytes(kept)
    build(settings, clock=clock).close()
