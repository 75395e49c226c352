"""The facts themselves: their registry, their streams, and the sentences that a person reads."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import pytest
from pydantic import ValidationError

from ledger.domain import events
from ledger.domain.events import (
    EVENT_TYPES,
    Author,
    ErasureRequested,
    Event,
    Exported,
    GroupDefined,
    HoldLifted,
    HoldPlaced,
    LedgerOpened,
    LedgerRecovered,
    LogKeyRotated,
    OperatorEnrolled,
    OperatorKeyIssued,
    OperatorKeyRevoked,
    OperatorRoleChanged,
    PersonalDataErased,
    PolicyPublished,
    RecordDisclosed,
    Recorded,
    ResourceListed,
    SubjectLinked,
    SubjectRegistered,
    SubjectUnlinked,
    SuspensionCancelled,
    SuspensionRevised,
    WarningIssued,
)
from ledger.domain.values import (
    CLAUSES_MAX,
    EVIDENCE_MAX,
    GROUNDS_MAX,
    Basis,
    Cause,
    ClauseRef,
    RecordedEvidence,
    Role,
    Scope,
)
from tests.conftest import LOG_KEY
from tests.domain.given import (
    ACME,
    ALICE,
    DAY,
    MODEL,
    NOW,
    START,
    clause,
    overturned,
    published,
    reinstated,
    suspension,
    violation,
)

EXPORTED = Exported(view="warnings", format="csv", filters=(), position=7)

SENTENCES: list[tuple[Event, str, str | None, str]] = [
    (
        LedgerOpened(origin="ledger.example", log_key=LOG_KEY),
        "ledger",
        "ledger.example",
        "opened the ledger ledger.example",
    ),
    (
        LogKeyRotated(log_key=LOG_KEY),
        "ledger",
        None,
        "gave the log the new key test.ledger+0dcbc35a",
    ),
    (
        LedgerRecovered(lost_from=101, checkpoint_size=154, checkpoint_root="ab" * 32),
        "ledger",
        None,
        (
            "recovered the ledger without events 101 to 154, which a signed checkpoint commits to "
            "and which are lost"
        ),
    ),
    (
        SubjectRegistered(subject=ALICE),
        "subject/user:alice",
        "user:alice",
        "registered user:alice with no properties",
    ),
    (
        SubjectRegistered(subject=ALICE, properties={"tier": "free", "region": "eu"}),
        "subject/user:alice",
        "user:alice",
        "registered user:alice with region, tier",
    ),
    (
        SubjectLinked(subject=ALICE, parent=ACME),
        "subject/user:alice",
        "user:alice",
        "linked user:alice below organization:acme",
    ),
    (
        SubjectUnlinked(subject=ALICE, parent=ACME),
        "subject/user:alice",
        "user:alice",
        "unlinked user:alice from organization:acme",
    ),
    (
        violation(),
        "subject/user:alice",
        "vio_1",
        (
            "recorded that user:alice broke aup@1 fraud (fraud, high) on 2026-01-01 00:00 UTC: "
            "Sold forged invoices."
        ),
    ),
    (
        overturned(),
        "subject/user:alice",
        "vio_1",
        "overturned violation vio_1 of user:alice: Mistaken.",
    ),
    (
        WarningIssued(subject=ALICE, warning="war_1", reason="Mind the policy."),
        "subject/user:alice",
        "war_1",
        "warned user:alice: Mind the policy.",
    ),
    (
        suspension(end=NOW, grounds=["vio_1", "vio_2"]).model_copy(
            update={
                "clauses": (
                    ClauseRef(policy="aup@1", clause="fraud", category="fraud"),
                    ClauseRef(policy="aup@2", clause="spam", category="spam"),
                )
            }
        ),
        "subject/user:alice",
        "sus_1",
        (
            "suspended user:alice from group:frontier, from 2026-01-01 00:00 UTC until "
            "2026-04-01 12:00 UTC, for aup@1 fraud, aup@2 spam: Fraud."
        ),
    ),
    (
        suspension(
            basis=Basis.LEGAL_ORDER,
            scope=Scope.model_validate({"resources": [{"type": "model"}], "actions": ["tune"]}),
        ),
        "subject/user:alice",
        "sus_1",
        (
            "suspended user:alice from every model (tune only), from 2026-01-01 00:00 UTC "
            "without an end, basis legal_order: Fraud."
        ),
    ),
    (
        SuspensionRevised(
            subject=ALICE, suspension="sus_1", ends_at=NOW, previous_ends_at=None, reason="Milder."
        ),
        "subject/user:alice",
        "sus_1",
        (
            "moved the end of suspension sus_1 of user:alice from no end to 2026-04-01 12:00 UTC: "
            "Milder."
        ),
    ),
    (
        SuspensionRevised(
            subject=ALICE, suspension="sus_1", ends_at=None, previous_ends_at=NOW, reason="Worse."
        ),
        "subject/user:alice",
        "sus_1",
        (
            "moved the end of suspension sus_1 of user:alice from 2026-04-01 12:00 UTC to no end: "
            "Worse."
        ),
    ),
    (
        SuspensionCancelled(subject=ALICE, suspension="sus_1", reason="Not needed."),
        "subject/user:alice",
        "sus_1",
        "cancelled suspension sus_1 of user:alice: Not needed.",
    ),
    (
        reinstated(),
        "subject/user:alice",
        "rei_sus_1",
        "reinstated user:alice: suspension sus_1 ended on 2026-04-01 12:00 UTC (early): Enough.",
    ),
    (
        reinstated().model_copy(update={"cause": Cause.TERM_SERVED, "reason": None}),
        "subject/user:alice",
        "rei_sus_1",
        "reinstated user:alice: suspension sus_1 ended on 2026-04-01 12:00 UTC (term served)",
    ),
    (
        published(),
        "policy/aup",
        "aup@1",
        "published aup@1, Acceptable use, with 1 clause, in force from 2026-01-01 00:00 UTC",
    ),
    (
        published(2, clauses=[clause("fraud"), clause("spam")]),
        "policy/aup",
        "aup@2",
        "published aup@2, Acceptable use, with 2 clauses, in force from 2026-01-01 00:00 UTC",
    ),
    (
        ResourceListed(resource=MODEL, actions=("use", "tune")),
        "resource/model:m1",
        "model:m1",
        "listed model:m1 with the actions use, tune",
    ),
    (
        GroupDefined(group="frontier", resources=(MODEL,)),
        "group/frontier",
        "frontier",
        "defined group:frontier as model:m1",
    ),
    (
        GroupDefined(group="frontier", resources=()),
        "group/frontier",
        "frontier",
        "defined group:frontier as nothing",
    ),
    (
        OperatorEnrolled(operator="jo", role=Role.OFFICER),
        "operator/jo",
        "jo",
        "enrolled operator jo as officer",
    ),
    (
        OperatorRoleChanged(operator="jo", role=Role.ADMIN, previous=Role.OFFICER),
        "operator/jo",
        "jo",
        "changed the role of operator jo from officer to admin",
    ),
    (
        OperatorKeyIssued(operator="jo", key="key_1", sha256="0" * 64),
        "operator/jo",
        "key_1",
        "issued key key_1 to operator jo",
    ),
    (
        OperatorKeyIssued(operator="jo", key="key_1", sha256="0" * 64, expires_at=NOW),
        "operator/jo",
        "key_1",
        "issued key key_1 to operator jo, valid until 2026-04-01 12:00 UTC",
    ),
    (
        OperatorKeyRevoked(operator="jo", key="key_1"),
        "operator/jo",
        "key_1",
        "revoked key key_1 of operator jo",
    ),
    (
        ErasureRequested(subject=ALICE, erasure="era_1", reason="She asked."),
        "subject/user:alice",
        "era_1",
        "requested to erase what is sealed about user:alice: She asked.",
    ),
    (
        PersonalDataErased(subject=ALICE, erasure="era_1", keys=()),
        "subject/user:alice",
        "era_1",
        "confirmed erasure era_1: nothing was sealed about user:alice",
    ),
    (
        PersonalDataErased(subject=ALICE, erasure="era_1", keys=("dek_" + "0" * 32,)),
        "subject/user:alice",
        "era_1",
        "erased what was sealed about user:alice, destroying 1 key",
    ),
    (
        PersonalDataErased(
            subject=ALICE, erasure="era_1", keys=("dek_" + "0" * 32, "dek_" + "1" * 32)
        ),
        "subject/user:alice",
        "era_1",
        "erased what was sealed about user:alice, destroying 2 keys",
    ),
    (
        HoldPlaced(subject=ALICE, hold="hld_1", reason="A case is pending."),
        "subject/user:alice",
        "hld_1",
        "placed a legal hold on user:alice: A case is pending.",
    ),
    (
        HoldLifted(subject=ALICE, hold="hld_1"),
        "subject/user:alice",
        "hld_1",
        "lifted the legal hold hld_1 on user:alice",
    ),
    (
        RecordDisclosed(
            subject=ALICE,
            shown_position=7,
            shown_stream="subject/user:alice",
            fields=("details", "evidence/0/uri"),
        ),
        "ledger",
        "7",
        "was shown details, evidence/0/uri of event 7 about user:alice",
    ),
    (
        RecordDisclosed(export=EXPORTED),
        "ledger",
        None,
        "exported warnings as known at position 7, as csv",
    ),
    (
        RecordDisclosed(
            subject=ALICE,
            export=Exported(
                view="events",
                format="ndjson",
                filters=(("q", "a, b"), ("subject", "user:alice")),
                position=9,
            ),
        ),
        "ledger",
        None,
        "exported events with q a, b, subject user:alice as known at position 9, as ndjson",
    ),
]


@pytest.mark.parametrize(
    "named",
    [
        {},
        {"subject": ALICE},
        {"subject": ALICE, "shown_position": 7, "shown_stream": "subject/user:alice"},
        {"shown_position": 7, "shown_stream": "subject/user:alice", "fields": ("details",)},
        {"export": EXPORTED, "shown_position": 7},
        {"export": EXPORTED, "fields": ("details",)},
    ],
)
def test_a_disclosure_is_of_sealed_members_or_an_export(named: dict[str, Any]) -> None:
    """It names what was shown, in one of the two ways and in full."""
    with pytest.raises(ValidationError, match="must name"):
        RecordDisclosed(**named)


@pytest.mark.parametrize(("event", "stream", "about", "sentence"), SENTENCES)
def test_an_event_says_where_it_belongs_what_it_is_about_and_what_happened(
    event: Event, stream: str, about: str | None, sentence: str
) -> None:
    """Stream, id and sentence follow from the event alone."""
    assert (stream, about, sentence) == (event.stream, event.about, event.sentence())


def test_every_event_of_the_registry_has_its_sentence_here() -> None:
    """No type of event is without an example above, no event class without its type."""
    classes = {
        found
        for found in vars(events).values()
        if isinstance(found, type) and issubclass(found, Event) and "TYPE" in vars(found)
    }

    assert set(EVENT_TYPES.values()) == {type(event) for event, _, _, _ in SENTENCES}
    assert set(EVENT_TYPES.values()) == classes


def test_types_are_stable_names() -> None:
    """A type is ``thing.happened``, not the path of a module; it names one class."""
    for (type_, schema), event in EVENT_TYPES.items():
        assert re.fullmatch(r"[a-z_]+\.[a-z_]+", type_)
        assert (type_, schema) == (event.TYPE, event.SCHEMA)
        assert event.__doc__
        assert schema >= 1


@pytest.mark.parametrize(
    ("author", "expected"),
    [
        (Author("mod-tool"), "mod-tool cancelled suspension sus_1 of user:alice: Not needed."),
        (
            Author("mod-tool", "user:jane"),
            "mod-tool (for user:jane) cancelled suspension sus_1 of user:alice: Not needed.",
        ),
    ],
)
def test_a_recorded_fact_says_who_did_it(author: Author, expected: str) -> None:
    """The sentence names the operator, and the human behind a machine."""
    event = SuspensionCancelled(subject=ALICE, suspension="sus_1", reason="Not needed.")

    fact = Recorded(7, event.stream, 3, NOW, author, None, event)

    assert expected == fact.sentence
    assert "suspension.cancelled" == fact.type


def test_an_event_without_a_stream_or_a_sentence_cannot_be_used() -> None:
    """The common parent of all events is no event."""
    with pytest.raises(NotImplementedError):
        _ = Event().stream
    with pytest.raises(NotImplementedError):
        Event().sentence()
    assert Event().about is None


@pytest.mark.parametrize(
    ("build", "limit"),
    [
        (
            lambda count: violation(evidence=[RecordedEvidence(uri="u", sha256="0" * 64)] * count),
            EVIDENCE_MAX,
        ),
        (lambda count: suspension(grounds=["vio_1"] * count), GROUNDS_MAX),
        (
            lambda count: WarningIssued(
                subject=ALICE, warning="war_1", grounds=("vio_1",) * count, reason="x"
            ),
            GROUNDS_MAX,
        ),
        (lambda count: published(clauses=[clause("c")] * count), CLAUSES_MAX),
    ],
    ids=["evidence", "grounds of a suspension", "grounds of a warning", "clauses"],
)
def test_the_lists_of_a_fact_are_limited(build: object, limit: int) -> None:
    """Each list is taken at its limit and refused one beyond it."""
    assert callable(build)
    build(limit)
    with pytest.raises(ValidationError, match=f"at most {limit}"):
        build(limit + 1)


def test_a_policy_without_clauses_is_refused() -> None:
    """A rulebook has at least one rule; a version is at least 1."""
    with pytest.raises(ValidationError):
        published(clauses=[])
    with pytest.raises(ValidationError):
        published(0)


def test_an_event_keeps_instants_in_utc() -> None:
    """An instant with another offset is the same instant."""
    event = PolicyPublished.model_validate(
        published().model_dump() | {"effective_at": "2026-01-02T01:00:00+01:00"}
    )

    assert START + DAY == event.effective_at
    assert "2026-01-02T00:00:00.000000Z" == event.model_dump()["effective_at"]
    assert isinstance(event.effective_at, datetime)
