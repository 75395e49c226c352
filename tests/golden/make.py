"""Keep the bytes of every type and schema version of event, for ever.

``make golden`` writes a file for what has none yet, and never touches one that is there: the bytes
in a ledger do not change either. A changed shape is a new schema version, with an example of its
own here.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import orjson

from ledger.domain.events import (
    EVENT_TYPES,
    SYSTEM,
    Author,
    Clause,
    Draft,
    Event,
    GroupDefined,
    LedgerOpened,
    LedgerRecovered,
    LogKeyRotated,
    OperatorEnrolled,
    OperatorKeyIssued,
    OperatorKeyRevoked,
    OperatorRoleChanged,
    PolicyPublished,
    ResourceListed,
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
from ledger.domain.values import (
    Basis,
    Cause,
    ClauseRef,
    Ending,
    Evidence,
    Resource,
    Role,
    Scope,
    Subject,
    format_instant,
    parse_instant,
)
from ledger.store.codec import LedgerMapper, Placed

FOLDER: Final = Path(__file__).resolve().parent
RECORDED_AT: Final = parse_instant("2026-11-24T10:00:00.123456Z")

LOG_KEY = "ledger.example/main+22044f0f+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"
ALICE = Subject(type="user", id="alice")
ANGSTROM = Subject(type="application", id="Ångström: 中文 👩‍🚀")  # keeps its bytes
ACME = Subject(type="organization", id="acme")
ATLAS = Resource(type="model", id="atlas-3")
VIOLATION = "vio_01kb03w5hg6r40g40m30e209185"
SUSPENSION = "sus_01kb03w5hg6r40g40m30e209186"
KEY = "key_01kb03w5hg6r40g40m30e209187"
JANE = Author("mod-tool", on_behalf_of="user:jane", request_id="6f1d9e2a")
FRAUD = ClauseRef(policy="acceptable-use@1", clause="fraud", category="fraud")

# Every member is filled, with the odd value where a member may hold one.
EXAMPLES: Final[tuple[Draft, ...]] = (
    Draft(LedgerOpened(origin="ledger.example/main", log_key=LOG_KEY), Author(SYSTEM)),
    Draft(LogKeyRotated(log_key=LOG_KEY), Author(SYSTEM)),
    Draft(
        LedgerRecovered(lost_from=101, checkpoint_size=154, checkpoint_root="ab" * 32),
        Author(SYSTEM),
    ),
    Draft(
        SubjectRegistered(
            subject=ANGSTROM,
            properties={
                "tier": "free",
                "region": ("eu", "us", 1),
                "verified": False,
                "age_days": 12,
                "score": 0.1,
                "debt": -2.5,
            },
        ),
        JANE,
    ),
    Draft(SubjectLinked(subject=ALICE, parent=ACME), Author("officer")),
    Draft(SubjectUnlinked(subject=ALICE, parent=ACME), Author("officer")),
    Draft(
        ViolationRecorded(
            subject=ALICE,
            violation=VIOLATION,
            policy="acceptable-use@1",
            clause="fraud",
            category="fraud",
            severity="high",
            occurred_at=parse_instant("2026-11-23T22:15:00Z"),
            detected_by="automated",
            summary="Sold “forged” invoices.",
            details="First line.\nSecond line, with a\ttab.",
            evidence=(Evidence(uri="s3://evidence/7781.json", sha256="0a" * 32),),
            resources=(ATLAS,),
        ),
        JANE,
    ),
    Draft(
        ViolationOverturned(subject=ALICE, violation=VIOLATION, reason="The account was stolen."),
        Author("approver"),
    ),
    Draft(
        WarningIssued(
            subject=ALICE,
            warning="war_01kb03w5hg6r40g40m30e209188",
            grounds=(VIOLATION,),
            clauses=(FRAUD,),
            reason="Mind the policy.",
        ),
        JANE,
    ),
    Draft(
        SubjectSuspended(
            subject=ALICE,
            suspension=SUSPENSION,
            scope=Scope.model_validate(
                {
                    "resources": [
                        {"group": "frontier"},
                        {"type": "model", "id": "atlas-3"},
                        {"type": "tool"},
                    ],
                    "actions": ["use", "tune"],
                    "conditions": [
                        {"attribute": "resource.properties.status", "in": ["preview", 1, True]},
                        {"attribute": "subject.properties.tier", "not_in": ["paid", 0.5]},
                        {"attribute": "action.properties.batch", "exists": True},
                    ],
                }
            ),
            effective_at=parse_instant("2026-11-24T10:00:00.123456Z"),
            ends_at=parse_instant("2027-01-24T10:00:00.123456Z"),
            duration="P2M",
            basis=Basis.VIOLATIONS,
            grounds=(VIOLATION,),
            clauses=(FRAUD,),
            reason="Repeated fraud.",
            note="Seen by two people.",
            reinstatement=Ending.AUTOMATIC,
            disclosure="notified",
        ),
        JANE,
    ),
    Draft(
        SuspensionRevised(
            subject=ALICE,
            suspension=SUSPENSION,
            ends_at=None,
            duration=None,
            previous_ends_at=parse_instant("2027-01-24T10:00:00.123456Z"),
            reason="It went on.",
        ),
        JANE,
    ),
    Draft(
        SuspensionCancelled(subject=ALICE, suspension=SUSPENSION, reason="Taken back in time."),
        JANE,
    ),
    Draft(
        SubjectReinstated(
            subject=ALICE,
            reinstatement="rei_01kb03w5hg6r40g40m30e209189",
            suspension=SUSPENSION,
            cause=Cause.TERM_SERVED,
            effective_at=parse_instant("2027-01-24T10:00:00.123456Z"),
            reason=None,
        ),
        Author(SYSTEM),
        caused_by=7,
    ),
    Draft(
        PolicyPublished(
            policy="acceptable-use",
            version=1,
            title="Acceptable use",
            clauses=(
                Clause(
                    id="fraud",
                    title="Fraud",
                    text="Do not use the models to deceive people for gain.",
                    category="fraud",
                    severity="high",
                ),
            ),
            effective_at=parse_instant("2026-01-01T00:00:00Z"),
        ),
        Author("admin"),
    ),
    Draft(
        ResourceListed(
            resource=ATLAS,
            properties={"status": "released", "context": 200_000},
            actions=("use", "tune"),
        ),
        Author("admin"),
    ),
    Draft(GroupDefined(group="frontier", resources=(ATLAS,)), Author("admin")),
    Draft(OperatorEnrolled(operator="mod-tool", role=Role.OFFICER), Author("admin")),
    Draft(
        OperatorRoleChanged(operator="mod-tool", role=Role.REPORTER, previous=Role.OFFICER),
        Author("admin"),
    ),
    Draft(
        OperatorKeyIssued(
            operator="mod-tool",
            key=KEY,
            sha256="0b" * 32,
            expires_at=parse_instant("2027-11-24T10:00:00Z"),
            label="Moderation service",
        ),
        Author("admin"),
    ),
    Draft(OperatorKeyRevoked(operator="mod-tool", key=KEY), Author("admin")),
)


def file_name(event: type[Event]) -> str:
    """Return the name of the file that keeps the bytes of a type and schema version."""
    return f"{event.TYPE}.v{event.SCHEMA}.json"


def add_missing(folder: Path) -> list[Path]:
    """Write a file for each example that has none in ``folder``; return what was written."""
    written = []
    for position, draft in enumerate(EXAMPLES, start=1):
        path = folder / file_name(type(draft.event))
        if path.exists():
            continue
        stored = LedgerMapper().to_stored_event(Placed(draft.event.stream, 1, draft))
        columns = {
            "position": position,
            "stream": stored.originator_id,
            "version": stored.originator_version,
            "type": stored.topic,
            "recorded_at": format_instant(RECORDED_AT),
            "state": stored.state.decode(),
        }
        with path.open("xb") as file:  # refuses what is there, also if it appeared just now
            file.write(orjson.dumps(columns, option=orjson.OPT_INDENT_2) + b"\n")
        written.append(path)
    return written


def main() -> int:
    """Add what is missing, and say what is without an example."""
    for path in add_missing(FOLDER):
        print(f"added {path.name}")
    missing = [file_name(e) for e in EVENT_TYPES.values() if not (FOLDER / file_name(e)).exists()]
    for name in missing:
        print(f"{name}: no example; add one to {Path(__file__).name}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
