"""Subjects are found by how their key begins, alike on both stores."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.events import Author
from ledger.domain.values import Subject
from ledger.store.postgres import PostgresDatastore
from projections.access.rows import AccessRows, _beyond, _none_within_another
from tests.conftest import SetClock, check_store, open_ledger

KEYS = sorted(
    (
        "app:a",
        "app:user:a",
        "user:A",
        "user:a",
        "user:a%",
        "user:a_b",
        "user:ab",
        "user:aé",
        "user:a漢",
        "user:a\U0001f600",
        "user:a\U0010ffff",
        "user:b",
        "zone:a",
    ),
    key=str.encode,
)
TEXT = st.text(st.sampled_from("ab\ud7ff\ue000\uffff\U00010000\U0010ffff"), max_size=4)


@given(TEXT, TEXT)
def test_the_text_beyond_a_beginning_bounds_just_what_begins_so(begin: str, text: str) -> None:
    """By the order of UTF-8, in which both stores sort; surrogates are no text."""
    beyond = _beyond(begin)
    within = begin.encode() <= text.encode()
    if beyond is not None:
        within = within and text.encode() < beyond.encode()
    assert text.startswith(begin) == within


@given(st.lists(TEXT, max_size=5), TEXT)
def test_no_key_begins_in_two_ways(begins: list[str], text: str) -> None:
    """What begins as any of them begins as exactly one that is kept."""
    kept = _none_within_another(begins)
    assert any(map(text.startswith, begins)) == (1 == sum(map(text.startswith, kept)))
    assert sum(map(text.startswith, kept)) <= 1


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_subjects_are_found_in_order_as_known(
    kind: str, path: Path, request: pytest.FixtureRequest
) -> None:
    """For each beginning, from each key on, and for each position: what a plain search finds."""
    store = (
        PostgresDatastore(request.getfixturevalue("postgres_ledger")) if kind != "sqlite" else None
    )
    clock = SetClock()
    ledger = open_ledger(path, clock, store=store)
    rows = AccessRows()
    known = {}
    for key in reversed(KEYS):
        done = ledger.register(Subject.parse(key), properties={}, by=Author("the-officer"))
        known[key] = done.recorded.position
    with ledger.recorder.store.transaction(commit=False) as c:
        for begins in (["user:a"], ["user:a", "app:a", "user:"], ["user:a_", "x"], [""], []):
            for after in ("", "user:a", "user:a漢", "zone:a"):
                for position in (known["user:b"], known["user:a"], known["app:a"]):
                    expected = [
                        (key, known[key])
                        for key in KEYS
                        if any(map(key.startswith, begins))
                        and key.encode() > after.encode()
                        and known[key] <= position
                    ]
                    asked = {"position": position, "after": after}
                    found = rows.subjects_beginning(c, begins, limit=100, **asked)  # type: ignore[arg-type]
                    assert expected == found
                    some = rows.subjects_beginning(c, begins, limit=2, **asked)  # type: ignore[arg-type]
                    assert expected[:2] == some
        assert ["app", "user", "zone"] == rows.types_of_subjects(c, 10)
        assert ["app", "user"] == rows.types_of_subjects(c, 2)
        assert {} == rows.in_force_by_subject(c, [], at=clock(), position=1)
    check_store(ledger.recorder)
    ledger.recorder.store.close()
    ledger.vault.close()
