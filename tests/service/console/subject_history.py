"""A subject to whom everything happened that a record can hold, for the tests of its page."""

from __future__ import annotations

from typing import Any, Final

from tests.service.conftest import Running, suspension_of, violation_of

SUBJECT: Final = "user:alice"
PARENT: Final = "organization:northwind"
HOSTILE: Final = "user:a/b?c&d=e#f \"'<script>alert(1)</script>é漢字\u202e\u200f%00{{7*7}}"
HOSTILE_WORDS: Final = (
    "</title></svg></pre><script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7 * 7 }}"
)
LONG_MODEL: Final = "atlas-3-vision-extended-context-preview-2026-11-long-name"


def entity(key: str) -> dict[str, str]:
    kind, _, id_ = key.partition(":")
    return {"type": kind, "id": id_}


def model(id_: str) -> dict[str, Any]:
    return {"resources": [{"type": "model", "id": id_}]}


def tell(run: Running) -> dict[str, str]:
    """Let half a year pass; returns the ids of what was made, by a name."""
    ids: dict[str, str] = {}
    for listed in (LONG_MODEL, "<b>&\"'"):
        body = {"resource": {"type": "model", "id": listed}, "actions": ["use", "fine_tune"]}
        run.done("PUT", "/v1/resources", role="admin", json=body)
    registered = {"subject": entity(SUBJECT), "properties": {"plan": "enterprise"}}
    run.done("PUT", "/v1/subjects", role="officer", json=registered)
    link = {"subject": entity(SUBJECT), "parent": entity(PARENT)}
    run.done("POST", "/v1/links", role="officer", json=link)
    below = {"subject": entity("api_key:k1"), "parent": entity(SUBJECT)}
    run.done("POST", "/v1/links", role="officer", json=below)

    first = violation_of(
        run,
        SUBJECT,
        details="The whole mail, with a name.",
        evidence=[{"uri": "s3://case/7781", "sha256": "0" * 64, "personal": True}],
    )
    ids["violation"] = first
    violation_of(run, SUBJECT, "disinformation", summary=HOSTILE_WORDS)
    warned = {"subject": entity(SUBJECT), "grounds": [first], "reason": "Please read the policy."}
    run.done("POST", "/v1/warnings", role="officer", json=warned)

    run.clock.move(days=20)
    ids["early"] = suspension_of(run, SUBJECT, grounds=[first], note="Spoke with her manager.")
    run.clock.move(days=10)
    moved = {"duration": "P4M", "reason": "It went on."}
    run.done("POST", f"/v1/suspensions/{ids['early']}/revision", role="officer", json=moved)
    ids["overlapping"] = suspension_of(run, SUBJECT, duration="P1M", grounds=[first])
    run.clock.move(days=25)
    end = {"suspension": ids["early"], "cause": "early", "reason": "She has complied."}
    run.done("POST", "/v1/reinstatements", role="officer", json=end)
    run.clock.move(days=20)
    run.service.ledger.serve_terms([ids["overlapping"]])

    wrong = violation_of(run, SUBJECT, summary="Somebody else did it.")
    ids["overturned"] = suspension_of(
        run, SUBJECT, scope=model("mini-2"), duration="P3M", grounds=[wrong]
    )
    run.clock.move(days=12)
    body = {"reason": "It was somebody else."}
    run.done("POST", f"/v1/violations/{wrong}/overturn", role="approver", json=body)

    ids["waits"] = suspension_of(
        run,
        SUBJECT,
        scope=model(LONG_MODEL) | {"actions": ["use"]},
        duration="P14D",
        reinstatement="on_review",
    )
    run.clock.move(days=30)
    ids["indefinite"] = suspension_of(
        run, SUBJECT, scope=model("cipher-2"), indefinite=True, reason=HOSTILE_WORDS
    )
    start = run.clock().replace(microsecond=0)
    later = start.replace(year=start.year + 1).isoformat()
    ids["scheduled"] = suspension_of(
        run, SUBJECT, scope=model("embed-1"), effective_at=later, duration="P2M"
    )
    ids["cancelled"] = suspension_of(
        run, SUBJECT, scope=model("embed-1"), effective_at=later, duration="P1M"
    )
    cancelled = {"reason": "Decided twice."}
    path = f"/v1/suspensions/{ids['cancelled']}/cancellation"
    run.done("POST", path, role="officer", json=cancelled)
    ids["inherited"] = suspension_of(run, PARENT, scope=model("atlas-3"), duration="P100Y")
    run.clock.move(days=9, seconds=17)

    suspension_of(run, HOSTILE, reason=HOSTILE_WORDS, note=HOSTILE_WORDS)
    named = {"subject": entity(HOSTILE), "properties": {"team": HOSTILE_WORDS[:200]}}
    run.done("PUT", "/v1/subjects", role="officer", json=named)
    return ids
