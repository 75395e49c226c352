"""The trail finds what happened, in order, by what it concerns and by the words that tell it."""

from __future__ import annotations

import re
import sqlite3
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from eventsourcing.sqlite import SQLiteCursor

from ledger.application import Ledger
from ledger.domain.errors import InvalidValue, LedgerError
from ledger.domain.events import (
    Author,
    Clause,
    GroupDefined,
    Recorded,
    ResourceListed,
    SubjectEvent,
    SubjectReinstated,
    SubjectSuspended,
    SuspensionCancelled,
    SuspensionRevised,
    ViolationOverturned,
    ViolationRecorded,
    WarningIssued,
)
from ledger.domain.values import (
    Basis,
    Cause,
    OneResource,
    Resource,
    ResourcesOfGroup,
    Scope,
    Subject,
)
from ledger.service.wiring import Service
from ledger.store.replay import rebuild
from projections import trail
from projections.trail import SEARCH_CHARS_MAX, SEARCH_WORDS_MAX, TrailRows
from tests.checks import check_ledger
from tests.conftest import T0, SetClock, on_each_store
from tests.histories import RESOURCES, SUBJECTS, Drawing, founded
from tests.service.conftest import SetClock as ServiceClock

ROWS = TrailRows()


def rows_of(ledger: Ledger) -> TrailRows:
    """The trail of the ledger, on whichever store it is kept."""
    return TrailRows(ledger.recorder.store.dialect)


OFFICER, MACHINE = Author("officer"), Author("mod-tool", "user:jane@acme.example")
AUTHORS = [OFFICER, MACHINE, Author("mod-tool", "user:joe"), Author("mod-tool")]
ALICE, BOB = Subject(type="user", id="alice"), Subject(type="user", id="bob")
M1, M2, M3 = (Resource(type="model", id=id_) for id_ in ("m1", "m2", "m3"))


def found(ledger: Ledger, **asked: Any) -> list[int]:
    """Ask for positions, as known now unless told otherwise."""
    with ledger.recorder.store.transaction(commit=False) as c:
        return rows_of(ledger).events(
            c, **{"position": ledger.recorder.position, "limit": 100, **asked}
        )


def counted(ledger: Ledger, **asked: Any) -> dict[str, Any]:
    """Ask for counts, as known now unless told otherwise."""
    with ledger.recorder.store.transaction(commit=False) as c:
        return rows_of(ledger).counts(c, **{"position": ledger.recorder.position, **asked})


def publish(ledger: Ledger, policy: str = "acceptable-use", title: str = "Use") -> None:
    """Publish a policy of two clauses."""
    clauses = [
        Clause(id=id_, title=id_, text="Do not.", category=category, severity="high")
        for id_, category in (("phishing", "fraud"), ("bots", "disinformation"))
    ]
    ledger.publish(policy, title=title, clauses=clauses, by=OFFICER)


def violate(ledger: Ledger, subject: Subject = ALICE, **changed: Any) -> Recorded:
    """Record a violation."""
    violation = {
        "policy": "acceptable-use",
        "clause": "phishing",
        "occurred_at": T0,
        "detected_by": "automated",
        "summary": "A mask of a bank.",
        "by": MACHINE,
    }
    return ledger.record_violation(subject, **{**violation, **changed}).recorded


def suspend(ledger: Ledger, *selectors: dict[str, str], **changed: Any) -> Recorded:
    """Suspend alice from what is selected."""
    suspension = {
        "scope": Scope.model_validate({"resources": selectors}),
        "duration": "P2M",
        "basis": Basis.LEGAL_ORDER,
        "reason": "Ordered.",
        "by": OFFICER,
    }
    return ledger.suspend(ALICE, **{**suspension, **changed}).recorded


def id_of(recorded: Recorded) -> str:
    """The id of what an event made."""
    assert recorded.event.about is not None
    return recorded.event.about


# --- order and pages ------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 100])
@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"operator": "officer"},
        {"types": ["subject.registered", "violation.recorded", "policy.published"]},
        {"resource": "model:m1"},
        {"q": "mod-tool"},
        {"category": "fraud"},
    ],
)
def test_pages_in_either_direction_meet_each_event_once(
    ledger: Ledger, asked: dict[str, Any], limit: int
) -> None:
    """The pages one after another are all that matches, in order, though more is recorded."""
    publish(ledger)
    for number in range(4):
        ledger.register(BOB, properties={"number": number}, by=AUTHORS[number])
        violate(ledger, resources=(M1, M2))
        suspend(ledger, {"type": "model"}, {"type": "model", "id": "m1"})
    position = ledger.recorder.position
    newest_first = found(ledger, position=position, **asked)
    assert newest_first == sorted(set(newest_first), reverse=True)

    for oldest_first in (False, True):
        pages: list[int] = []
        after = None
        while page := found(
            ledger,
            position=position,
            limit=limit,
            cursor_position=after,
            oldest_first=oldest_first,
            **asked,
        ):
            assert len(page) <= limit
            pages += page
            after = page[-1]
            violate(ledger, resources=(M1,))

        assert (newest_first[::-1] if oldest_first else newest_first) == pages


def test_what_was_recorded_later_is_not_known(ledger: Ledger) -> None:
    """As known at a position, later events are neither listed nor counted."""
    publish(ledger)
    position = violate(ledger).position
    violate(ledger)

    assert [position] == found(ledger, position=position, subject="user:alice")
    assert 2 == counted(ledger, position=position)["total"]


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        (T0, None, [1, 2, 3]),
        (T0 + timedelta(hours=1), None, [2, 3]),
        (T0 + timedelta(microseconds=1), T0 + timedelta(hours=2), [2]),
        (None, T0 + timedelta(hours=2), [1, 2]),
        (None, T0, []),
        (T0 + timedelta(hours=3), None, []),
        (T0 + timedelta(hours=2), T0, []),
    ],
)
def test_a_span_of_time_includes_its_first_instant_and_not_its_last(
    ledger: Ledger,
    clock: SetClock,
    since: datetime | None,
    until: datetime | None,
    expected: list[int],
) -> None:
    """``recorded_from`` is included, ``recorded_to`` is not; either may be left out."""
    for policy in ("first", "second", "third"):
        publish(ledger, policy)
        clock.move(hours=1)
    span: dict[str, Any] = {"recorded_from": since, "recorded_to": until}

    assert expected == found(ledger, oldest_first=True, **span)
    assert len(expected) == counted(ledger, **span)["total"]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"recorded_from": T0 + timedelta(hours=1), "cursor_position": 0}, [2, 3]),
        ({"recorded_to": T0 + timedelta(hours=2), "cursor_position": 3}, []),
        ({"position": 2, "cursor_position": 9, "oldest_first": False}, [2, 1]),
    ],
)
def test_a_page_after_any_position_stays_within_what_is_asked(
    ledger: Ledger, clock: SetClock, asked: dict[str, Any], expected: list[int]
) -> None:
    """A position to go on from, wherever it came from, never widens the span."""
    for policy in ("first", "second", "third"):
        publish(ledger, policy)
        clock.move(hours=1)

    assert expected == found(ledger, **{"oldest_first": True, **asked})


def test_a_filter_that_does_not_exist_is_an_error(ledger: Ledger) -> None:
    """A misspelt filter is never passed over, or it would find everything."""
    with pytest.raises(TypeError, match="subjekt"):
        found(ledger, subjekt="user:alice")


# --- what an event concerns -----------------------------------------------------------------------


@on_each_store
def test_a_group_stands_for_the_members_it_had_when_the_event_was_recorded(ledger: Ledger) -> None:
    """Who joined a group later is not concerned by what was decided before, who left it is."""
    ledger.define_group("frontier", resources=(M1, M2), by=OFFICER)
    before = suspend(ledger, {"group": "frontier"})
    ledger.define_group("frontier", resources=(M2, M3), by=OFFICER)
    after = suspend(ledger, {"group": "frontier"})
    revised = ledger.revise(id_of(before), duration="P3M", reason="Worse.", by=OFFICER).recorded

    assert [1, 2, 5] == found(ledger, resource="model:m1", oldest_first=True)
    assert [1, 2, 3, 4, 5] == found(ledger, resource="model:m2", oldest_first=True)
    assert [3, 4] == found(ledger, resource="model:m3", oldest_first=True)
    assert (2, 4, 5) == (before.position, after.position, revised.position)


@on_each_store
def test_a_selector_of_a_type_concerns_every_resource_of_the_type(ledger: Ledger) -> None:
    """A suspension of all models is found by any model, listed or not, and by no other resource."""
    every = suspend(ledger, {"type": "model"}).position
    star = suspend(ledger, {"type": "model", "id": "*"}).position

    assert [every] == found(ledger, resource="model:never-listed")
    assert [] == found(ledger, resource="modelling:m1")
    assert [] == found(ledger, resource="tool:model")
    assert [star, every] == found(ledger, resource="model:*")


@on_each_store
def test_what_is_about_a_suspension_concerns_what_it_does(ledger: Ledger, clock: SetClock) -> None:
    """Revisions, cancellations and reinstatements are found by clause, category and resource."""
    publish(ledger)
    ledger.list_resource(M2, properties={}, by=OFFICER)
    ground = violate(ledger, resources=(M2,))
    grounds = [id_of(ground)]
    model = {"type": "model", "id": "m1"}
    later = clock.now + timedelta(days=1)
    cancelled = suspend(ledger, model, effective_at=later, grounds=grounds)
    revised = suspend(ledger, model, grounds=grounds, basis=Basis.VIOLATIONS)
    ledger.revise(id_of(revised), duration="P3M", reason="Worse.", by=OFFICER)
    ledger.cancel(id_of(cancelled), reason="Not needed.", by=OFFICER)
    ledger.reinstate(id_of(revised), cause=Cause.EARLY, reason="Enough.", by=OFFICER)
    fallen = suspend(ledger, model, grounds=grounds, basis=Basis.VIOLATIONS)
    ledger.overturn(id_of(ground), reason="Wrong.", by=OFFICER)
    by_itself = found(ledger, types=["subject.reinstated"], limit=1)

    assert [4, 5, 6, 7, 8, 9, 11] == found(ledger, resource="model:m1", oldest_first=True)
    assert [2, 3, 10] == found(ledger, resource="model:m2", oldest_first=True)
    for asked in (
        {"category": "fraud"},
        {"policy": "acceptable-use"},
        {"policy": "acceptable-use@1"},
        {"policy": "acceptable-use@1", "category": "fraud"},
    ):
        assert list(range(3, 12)) == found(ledger, oldest_first=True, **asked)
    for asked in (
        {"category": "phishing"},
        {"policy": "acceptable-use@2"},
        {"policy": "acceptable"},
        {"policy": ""},
        {"policy": "@1"},
    ):
        assert [] == found(ledger, **asked)
    assert (9, [11]) == (fallen.position, by_itself)


@on_each_store
def test_a_warning_concerns_the_clauses_that_its_grounds_broke(ledger: Ledger) -> None:
    """A warning is found by each clause it rests on, and counts once for each category."""
    publish(ledger)
    publish(ledger, "partners")
    grounds = [
        id_of(violate(ledger, policy=policy, clause=clause))
        for policy in ("acceptable-use", "partners")
        for clause in ("phishing", "bots")
    ]
    warned = ledger.warn(ALICE, grounds=grounds, reason="Stop.", by=OFFICER).recorded

    assert 7 == warned.position
    assert [7, 6, 5] == found(ledger, policy="partners")
    assert [7, 6, 4] == found(ledger, category="disinformation")
    expected = [{"value": "acceptable-use@1", "count": 1}, {"value": "partners@1", "count": 1}]
    counts = counted(ledger, types=["warning.issued"])
    assert expected == counts["policy"]
    expected = [{"value": "disinformation", "count": 1}, {"value": "fraud", "count": 1}]
    assert expected == counts["category"]
    assert 1 == counts["total"]


# --- words ----------------------------------------------------------------------------------------


@pytest.fixture
def told(ledger: Ledger) -> Ledger:
    """A ledger in which 1 published, 2 broke, 3 suspended and 4 reinstated."""
    publish(ledger)
    violate(
        ledger,
        Subject(type="user", id="zoë:2"),
        summary='Zoë wrote "NEAR(bank)" — ЖУРНАЛ, 名前 and don\'t-ask.',
        details="Sealedword in the details.",
    )
    suspend(ledger, {"type": "model"}, reason="Ordered by the court.", note="Sealedword, too.")
    suspension = found(ledger, types=["subject.suspended"])[0]
    recorded = ledger.recorder.event(suspension)
    assert recorded is not None
    ledger.reinstate(id_of(recorded), cause=Cause.ERROR, reason="A slip.", by=OFFICER)
    return ledger


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        ("alice", [3, 4]),
        ("user:alice", [3, 4]),
        ("USER:Alice", [3, 4]),
        ("alice:user", []),
        ("ali", []),
        ("ali*", [3, 4]),
        ("user:ali*", [3, 4]),
        ("acceptable-use@1", [1, 2]),
        ("acceptable-use", [1, 2]),
        ("acceptable-use@11", []),
        ("acceptable-use@*", [1, 2]),
        ("mod-tool", [2]),
        ("user:jane@acme.example", [2]),
        ("officer court", [3]),
        ("court officer", [3]),
        ("officer", [1, 3, 4]),
        ("officer absent", []),
        ("zoe", [2]),
        ("zoë", [2]),
        ("zoë".upper(), [2]),
        (unicodedata.normalize("NFD", "zoë"), [2]),
        ("user:zoë:2", [2]),
        ("журнал", [2]),
        ("名前", [2]),
        ("名*", [2]),
        ("don't", [2]),
        ('"NEAR(bank)"', [2]),
        ("near bank", [2]),
        ("2026-11-24", [1, 2, 3, 4]),
        ("sus_01*", [3, 4]),
        ("a* " * (SEARCH_CHARS_MAX // 3), [1, 2, 3, 4]),
        ("", [1, 2, 3, 4]),
        (" \t\n", [1, 2, 3, 4]),
        ("Sealedword", []),
        ("sealed*", []),
    ],
)
def test_words_find_the_sentences_that_hold_all_of_them(
    told: Ledger, q: str, expected: list[int]
) -> None:
    """Words match whole, in any case and order; ids match as a whole; ``*`` ends a beginning."""
    assert expected == found(told, q=q, oldest_first=True)
    assert len(expected) == counted(told, q=q)["total"]


@on_each_store
def test_an_id_finds_what_it_names_and_what_is_about_that(ledger: Ledger) -> None:
    """An id, pasted as it is, finds what made it, what rests on it and what is about it."""
    publish(ledger)
    violation = id_of(violate(ledger))
    warning = id_of(ledger.warn(ALICE, grounds=[violation], reason="!", by=OFFICER).recorded)
    suspension = id_of(suspend(ledger, {"type": "model"}, grounds=[violation]))
    reinstated = ledger.reinstate(suspension, cause=Cause.EARLY, reason="!", by=OFFICER).recorded
    ledger.overturn(violation, reason="Wrong.", by=OFFICER)

    assert [2, 3, 4, 6] == found(ledger, q=violation, oldest_first=True)
    assert [3] == found(ledger, q=warning)
    assert [4, 5] == found(ledger, q=suspension, oldest_first=True)
    assert [4, 5] == found(ledger, q=suspension[:20].upper() + "*", oldest_first=True)
    assert [5] == found(ledger, q=id_of(reinstated))


@pytest.mark.parametrize(
    "q",
    [
        '"',
        '""',
        '"""',
        "'",
        "*",
        "**",
        '"*',
        "-",
        "- -",
        "^",
        "—",
        "(",
        "NEAR(",
        "NEAR(a b, 2)",
        "words:",
        "words:officer",
        "words : officer",
        "{words}:officer",
        "-officer",
        "^officer",
        "officer OR alice",
        "officer AND alice",
        "officer NOT alice",
        "officer + alice",
        "officer' OR 1 --",
        "officer\0alice",
        "\0",
        "\x01\x7f",
        "officer\ud800alice",
        "\udfff*",
        "\ufffd",
        "\u202eofficer",
        "🙂",
        "?1 :a @b $c",
        "\\",
        "%",
        "_",
        "a" * SEARCH_CHARS_MAX,
        "a " * (SEARCH_CHARS_MAX // 2),
        " ".join(f"{number}*" for number in range(SEARCH_WORDS_MAX)),
        '"' * SEARCH_CHARS_MAX,
        "*" * SEARCH_CHARS_MAX,
    ],
)
def test_nothing_that_is_asked_for_is_syntax(told: Ledger, q: str) -> None:
    """Whatever is typed is words: it finds a part of what its letters alone find, or nothing."""
    letters = " ".join(re.findall(r"[^\W_]+", q))
    part = set(found(told, q=letters)) if letters else set()

    assert set(found(told, q=q)) <= part
    assert len(found(told, q=q)) == counted(told, q=q)["total"]


@pytest.mark.parametrize(
    "q",
    [
        "x" * (SEARCH_CHARS_MAX + 1),
        "word " * 2_000,
        " " * 10_000,
        " ".join(map(str, range(SEARCH_WORDS_MAX + 1))),
    ],
)
def test_a_search_that_is_too_long_is_refused(told: Ledger, q: str) -> None:
    """A search has at most so many characters and different words, or the index is not asked."""
    for ask in (found, counted):
        with pytest.raises(InvalidValue, match=f"{SEARCH_CHARS_MAX} characters") as refusal:
            ask(told, q=q)
        assert "q" == refusal.value.field


@on_each_store
def test_sealed_text_is_in_no_table(told: Ledger) -> None:
    """Neither the details of a violation nor the note on a suspension is copied by the trail."""
    with told.recorder.store.transaction(commit=False) as c:
        for table in ROWS.TABLES:
            c.execute(f"SELECT * FROM {table}")
            assert "sealedword" not in str([tuple(row) for row in c.fetchall()]).lower()


# --- any history ----------------------------------------------------------------------------------


@dataclass
class Told:
    """An event as the trail must know it, by nothing but the events before it."""

    recorded: Recorded
    clauses: set[tuple[str, str, str]] = field(default_factory=set)
    resources: set[str] = field(default_factory=set)
    words: list[str] = field(default_factory=list)


def words_of(text: str) -> list[str]:
    """The words of a text, in small letters without accents."""
    plain = "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))
    return re.findall(r"[^\W_]+", plain.lower())


def told_by(events: Sequence[Recorded]) -> list[Told]:
    """Work out what each event concerns."""
    groups: dict[str, set[str]] = {}
    about: dict[str, Told] = {}
    story = []
    for recorded in events:
        event = recorded.event
        ids = [event.about or "", *getattr(event, "grounds", ())]
        missing = [id_ for id_ in ids if id_ not in recorded.sentence]
        now = Told(recorded, words=words_of(" ".join([recorded.sentence, *missing])))
        match event:
            case ViolationRecorded():
                now.clauses = {(event.policy, event.clause, event.category)}
                now.resources = {resource.key for resource in event.resources}
                about[event.violation] = now
            case SubjectSuspended():
                now.clauses = {(c.policy, c.clause, c.category) for c in event.clauses}
                for selector in event.scope.resources:
                    match selector:
                        case ResourcesOfGroup(group=group):
                            now.resources |= groups[group]
                        case OneResource(type=type_, id=id_):
                            now.resources.add(f"{type_}:{id_}")
                        case _:
                            now.resources.add(f"{selector.type}:")
                about[event.suspension] = now
            case (
                SuspensionRevised(suspension=id_)
                | SuspensionCancelled(suspension=id_)
                | SubjectReinstated(suspension=id_)
                | ViolationOverturned(violation=id_)
            ):
                now.clauses, now.resources = about[id_].clauses, about[id_].resources
            case WarningIssued():
                now.clauses = {(c.policy, c.clause, c.category) for c in event.clauses}
            case ResourceListed():
                now.resources = {event.resource.key}
            case GroupDefined():
                now.resources = groups[event.group] = {r.key for r in event.resources}
            case _:
                pass
        story.append(now)
    return story


def holds_words(words: Sequence[str], q: str) -> bool:
    """Tell whether every word of ``q`` is in ``words``, the parts of one in a row."""
    for asked in q.split():
        parts = words_of(asked)
        runs = [words[at : at + len(parts)] for at in range(len(words))]
        if asked.endswith("*"):
            *whole, begin = parts
            if not any(
                r[:-1] == whole and r[-1].startswith(begin) for r in runs if r[len(whole) :]
            ):
                return False
        elif parts not in runs:
            return False
    return True


def subject_type_of(told: Told) -> str | None:
    """The type of the subject that an event is about."""
    subject = getattr(told.recorded.event, "subject", None)
    return subject.type if isinstance(subject, Subject) else None


MEANT: dict[str, Callable[[Told, Any], bool]] = {
    "subject": lambda told, asked: (
        isinstance(told.recorded.event, SubjectEvent) and told.recorded.event.subject.key == asked
    ),
    "subject_type": lambda told, asked: subject_type_of(told) == asked,
    "types": lambda told, asked: told.recorded.type in asked,
    "operator": lambda told, asked: told.recorded.author.operator == asked,
    "on_behalf_of": lambda told, asked: told.recorded.author.on_behalf_of == asked,
    "policy": lambda told, asked: any(
        asked in (policy, policy.partition("@")[0]) for policy, _, _ in told.clauses
    ),
    "clause": lambda told, asked: any(
        asked in (f"{policy}/{clause}", f"{policy.partition('@')[0]}/{clause}", clause)
        for policy, clause, _ in told.clauses
    ),
    "category": lambda told, asked: any(asked == category for _, _, category in told.clauses),
    "resource": lambda told, asked: bool({asked, asked.partition(":")[0] + ":"} & told.resources),
    "recorded_from": lambda told, asked: asked <= told.recorded.recorded_at,
    "recorded_to": lambda told, asked: told.recorded.recorded_at < asked,
    "q": lambda told, asked: holds_words(told.words, asked),
}


def draw_filters(random: Random, story: Sequence[Told]) -> dict[str, Any]:
    """Draw up to four filters that something in the story fits, though perhaps not at once."""
    told = random.choice(story)
    word = random.choice(told.words)
    types = sorted({each.recorded.type for each in story})
    instant = told.recorded.recorded_at + timedelta(microseconds=random.randint(-1, 1))
    names = {(policy, clause) for each in story for policy, clause, _ in each.clauses}
    clauses = [f"{policy}/{clause}" for policy, clause in sorted(names)] or ["aup@1/none"]
    clauses += [f"aup/{each.partition('/')[2]}" for each in clauses]
    filters = {
        "subject": random.choice(SUBJECTS).key,
        "subject_type": random.choice(SUBJECTS).type,
        "types": random.sample(types, random.randint(1, 4)),
        "operator": random.choice(["officer", "mod-tool", "the-admin", "system"]),
        "on_behalf_of": random.choice(["user:joe", "user:jane@acme.example"]),
        "policy": random.choice(["aup", "aup@1", "aup@2"]),
        "clause": random.choice(clauses),
        "category": random.choice(["fraud", "disinformation"]),
        "resource": random.choice(RESOURCES).key,
        "recorded_from": instant,
        "recorded_to": instant,
        "q": random.choice([word, word[:2] + "*", "user:a*", "aup@1 fraud", "user:zoë:2 model"]),
    }
    return {name: filters[name] for name in random.sample([*filters], random.randint(0, 4))}


def values_of(told: Told) -> dict[str, set[str]]:
    """What an event counts for, by nothing but the events."""
    recorded, subject_type = told.recorded, subject_type_of(told)
    return {
        "type": {recorded.type},
        "operator": {recorded.author.operator},
        "month": {recorded.recorded_at.strftime("%Y-%m")},
        "category": {category for _, _, category in told.clauses},
        "policy": {policy for policy, _, _ in told.clauses},
        "clause": {f"{policy}/{clause}" for policy, clause, _ in told.clauses},
        "resource": {resource for resource in told.resources if resource[-1] != ":"},
        "subject_type": {subject_type} if subject_type else set(),
    }


FILTER_OF = {"type": "types"}  # other facets have the name of their filter


def expected_counts(
    story: Sequence[Told], asked: dict[str, Any], *, alternatives: bool = False
) -> dict[str, Any]:
    """Count by asking for each value, of nothing but the events."""
    meant = [told for told in story if is_meant(told, asked)]
    counts: dict[str, Any] = {"total": len(meant)}
    for facet in trail._FACETS:
        own = FILTER_OF.get(facet, facet) if alternatives else None
        among = [t for t in story if is_meant(t, {k: v for k, v in asked.items() if k != own})]
        counter = Counter(value for told in among for value in values_of(told)[facet])
        if facet == "resource":
            counter = Counter(
                {value: sum(MEANT["resource"](told, value) for told in among) for value in counter}
            )
        counts[facet] = [
            {"value": value, "count": count}
            for value, count in sorted(counter.items(), key=lambda item: (-item[1], item[0]))
        ]
    return counts


def is_meant(told: Told, asked: dict[str, Any]) -> bool:
    """Tell whether an event has all that is asked for."""
    return all(MEANT[name](told, value) for name, value in asked.items())


def happened(folder: Path, seed: int, commands: int, url: str | None = None) -> Service:
    """Let a random history happen, by several operators."""
    clock, drawing = ServiceClock(), Drawing(Random(seed))
    service = founded(folder, clock, url=url)
    for _ in range(commands):
        if drawing.chance(3):
            drawing.move(clock)
        if drawing.chance(8):
            service.ticker.tick()
        try:
            done = drawing.command(service.now()).run(service, by=drawing.one(AUTHORS))
        except LedgerError:
            continue
        drawing.learn(done.recorded)
    return service


@pytest.mark.parametrize(
    ("seed", "block", "merged", "texts", "database_url"),
    [
        (0, 1, 4, 0, "sqlite"),
        (1, 7, 21, 5, "sqlite"),
        (2, 3, 48, 1_000, "sqlite"),
        (3, 5, 40, 0, "sqlite"),
        (4, 1_024, 65_536, 10, "sqlite"),
        (5, 7, 21, 5, "postgresql"),
    ],
    indirect=["database_url"],
)
def test_lists_and_counts_of_any_history_are_what_its_events_say(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    block: int,
    merged: int,
    texts: int,
    database_url: str,
) -> None:
    """For random filters, positions and pages, wherever blocks of events end and are merged."""
    monkeypatch.setattr(trail, "BLOCK_EVENTS", block)
    monkeypatch.setattr(trail, "MERGED_EVENTS", merged)
    monkeypatch.setattr(trail, "TEXTS_READ_MAX", texts)
    service = happened(tmp_path, seed, 100, database_url)
    story, random = told_by(list(service.recorder.events())), Random(f"asked {seed}")

    for _ in range(60):
        position = random.randint(0, len(story))
        asked = draw_filters(random, story)
        known = story[:position]
        expected = [told.recorded.position for told in known if is_meant(told, asked)]
        of_it: dict[str, Any] = {"position": position, **asked}
        for oldest_first in (True, False):
            limit, pages = random.randint(1, len(story)), list[int]()
            while len(pages) % limit == 0 and (
                page := found(
                    service.ledger,
                    oldest_first=oldest_first,
                    limit=limit,
                    cursor_position=pages[-1] if pages else None,
                    **of_it,
                )
            ):
                pages += page
            assert (expected if oldest_first else expected[::-1]) == pages, asked
        assert expected_counts(known, asked) == counted(service.ledger, **of_it), asked
        alternatives = counted(service.ledger, alternatives=True, **of_it)
        assert expected_counts(known, asked, alternatives=True) == alternatives, asked

    check_ledger(service)
    service.recorder.store.close()


@on_each_store
def test_a_clause_is_one_of_a_version_of_a_policy_or_of_any(ledger: Ledger) -> None:
    """Alone it is one of the policy that is asked for, too, and of every policy without one."""
    publish(ledger)
    violate(ledger, policy="acceptable-use@1", clause="bots")
    publish(ledger, title="Other use")
    violate(ledger, policy="acceptable-use@2", clause="bots")
    violate(ledger, policy="acceptable-use@2", clause="phishing")
    publish(ledger, "partners")
    violate(ledger, policy="partners@1", clause="bots")

    for asked, expected in (
        ({"clause": "acceptable-use@2/bots"}, [4]),
        ({"clause": "acceptable-use/bots"}, [2, 4]),
        ({"clause": "bots"}, [2, 4, 7]),
        ({"clause": "bots", "policy": "acceptable-use"}, [2, 4]),
        ({"clause": "bots", "policy": "acceptable-use@1"}, [2]),
        ({"clause": "bots", "category": "fraud"}, []),
        ({"clause": "ots"}, []),
        ({"clause": "acceptable/bots"}, []),
        ({"clause": "/bots"}, []),
        ({"clause": ""}, []),
    ):
        assert expected == found(ledger, oldest_first=True, **asked), asked


@on_each_store
def test_a_resource_counts_as_often_as_asking_for_it_finds(ledger: Ledger) -> None:
    """What concerns every model counts for each model that is named, and not for a tool."""
    ledger.list_resource(M1, properties={}, by=OFFICER)
    ledger.list_resource(Resource(type="tool", id="t"), properties={}, by=OFFICER)
    suspend(ledger, {"type": "model"})
    suspend(ledger, {"type": "model"}, {"type": "model", "id": "m1"})

    expected = [{"value": "model:m1", "count": 3}, {"value": "tool:t", "count": 1}]
    assert expected == counted(ledger)["resource"]
    assert 3 == counted(ledger, resource="model:m1")["total"]
    named = [{"value": "model:m1", "count": 3}]
    assert named == counted(ledger, resource="model:m1")["resource"]
    both = counted(ledger, resource="model:m1", alternatives=True)["resource"]
    assert expected == both


def test_blocks_are_merged_and_hold_every_event_once(ledger: Ledger) -> None:
    """Over more events than a block has, counts are exact at any position and for any span."""
    instants = []
    with ledger.together():
        publish(ledger)
        for number in range(trail.BLOCK_EVENTS + 10):
            by = AUTHORS[number % len(AUTHORS)]
            recorded = ledger.register(ALICE, properties={"number": number}, by=by).recorded
            instants.append(recorded.recorded_at)
    last = ledger.recorder.position

    for position in (1, trail.BLOCK_EVENTS - 1, trail.BLOCK_EVENTS, trail.BLOCK_EVENTS + 1, last):
        counts = counted(ledger, position=position)
        assert position == counts["total"]
        for facet in ("type", "operator", "month"):
            assert position == sum(item["count"] for item in counts[facet])
    assert last == counted(ledger, recorded_from=instants[0])["total"]
    assert last - 1 == len(found(ledger, subject_type="user", limit=last))


# --- the tables -----------------------------------------------------------------------------------


def vocabulary(connection: sqlite3.Connection) -> list[Any]:
    """Every word in the index, with each place at which it stands."""
    connection.execute(
        "CREATE VIRTUAL TABLE temp.vocabulary USING fts5vocab(main, trail_words, instance)"
    )
    return connection.execute("SELECT * FROM vocabulary ORDER BY term, doc, offset").fetchall()


def test_a_rebuild_makes_the_same_tables_and_the_same_words(tmp_path: Path) -> None:
    """Events applied to a fresh database make the tables and the index that live ones made."""
    service = happened(tmp_path, 1, 80)
    with (
        closing(sqlite3.connect(tmp_path / "ledger.db")) as live,
        closing(sqlite3.connect(tmp_path / "fresh.db")) as fresh,
    ):
        fresh.row_factory = sqlite3.Row
        for statement in ROWS.DDL:
            fresh.execute(statement)
        for recorded in service.recorder.events():
            ROWS.apply(SQLiteCursor(fresh.cursor()), recorded)
        fresh.row_factory = None
        for table in ROWS.TABLES:
            rows = [db.execute(f"SELECT * FROM {table}").fetchall() for db in (live, fresh)]
            assert rows[0] == rows[1], table
        assert vocabulary(live) == vocabulary(fresh)
    service.recorder.store.close()


@on_each_store
def test_a_repair_brings_lost_words_back(told: Ledger) -> None:
    """When words are lost or changed, a rebuild says so, and a repair makes events found again."""
    with told.recorder.store.transaction(commit=True) as c:
        key = "rowid" if told.recorder.store.dialect == "sqlite" else "position"
        c.execute(f"DELETE FROM trail_words WHERE {key} = 2")
        c.execute(f"UPDATE trail_words SET words = 'nothing happened' WHERE {key} = 3")
    assert [] == found(told, q="zoë")

    assert ["trail_words"] == [d.table for d in rebuild(told.recorder, repair=True).differences]
    assert [2] == found(told, q="zoë")
    assert [3, 4] == found(told, q="alice", oldest_first=True)
    assert [] == found(told, q="nothing")


@pytest.mark.parametrize("oldest_first", [True, False])
@pytest.mark.parametrize(
    ("asked", "index"),
    [
        ({"subject": "user:a"}, "d USING COVERING INDEX trail_subject (subject=? AND position"),
        ({"on_behalf_of": "b"}, "d USING COVERING INDEX trail_on_behalf_of (on_behalf_of=? AND"),
        ({"recorded_from": T0}, "d USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
        ({}, "d USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
        ({"q": "words"}, "d VIRTUAL TABLE INDEX"),
        ({"subject": "user:a", "types": ["policy.published"]}, "trail_subject (subject=? AND"),
        ({"subject": "user:a", "q": "words"}, "trail_subject (subject=? AND"),
        ({"q": "publish*", "operator": "officer"}, "json_each VIRTUAL TABLE INDEX"),
        ({"category": "c"}, "trail_members_1 (facet=? AND value=? AND block_end"),
        ({"policy": "p"}, "trail_members_1 (facet=? AND value>? AND value<?)"),
    ],
)
def test_a_page_is_read_from_an_index_in_its_order(
    monkeypatch: pytest.MonkeyPatch,
    ledger: Ledger,
    asked: dict[str, Any],
    index: str,
    oldest_first: bool,
) -> None:
    """No page is sorted, none reads the whole trail, and each filter is looked up in its index."""
    monkeypatch.setattr(trail, "BLOCK_EVENTS", 1)  # so that more than the nearest block is asked
    for policy in ("first", "second"):
        publish(ledger, policy)

    class Explaining:
        """Asks how each statement would run, and runs it."""

        def __init__(self, cursor: Any) -> None:
            self.cursor = cursor
            self.plan: list[str] = []

        def execute(self, statement: str, params: Sequence[object] = ()) -> None:
            self.cursor.execute(f"EXPLAIN QUERY PLAN {statement}", params)
            self.plan += [row[3] for row in self.cursor.fetchall()]
            self.cursor.execute(statement, params)

        def fetchone(self) -> Any:
            return self.cursor.fetchone()

        def fetchall(self) -> Any:
            return self.cursor.fetchall()

    with ledger.recorder.store.transaction(commit=False) as c:
        explaining: Any = Explaining(c)
        ROWS.events(explaining, position=2, limit=9, oldest_first=oldest_first, **asked)

    slow = [step for step in explaining.plan if re.match(r"SCAN (?!.* VIRTUAL)|.*TEMP", step)]
    assert [] == slow
    assert any(index in step for step in explaining.plan), explaining.plan
