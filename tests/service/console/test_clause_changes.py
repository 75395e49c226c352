"""The comparison of two versions shows each changed word, and both versions whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.events import Clause
from ledger.service.console.clause_changes import (
    WORD_PAIRS_MAX,
    Piece,
    clause_changes,
    pieces_of,
)


def clause(id_: str, text: str = "Do not.") -> Clause:
    return Clause(id=id_, title=id_, text=text, category="fraud", severity="high")


@pytest.mark.parametrize(
    ("before", "after", "pieces"),
    [
        ("", "", []),
        ("Do not lie.", "Do not lie.", [Piece("same", "Do not lie.")]),
        ("", "Do not.", [Piece("added", "Do not.")]),
        ("Do not.", "", [Piece("removed", "Do not.")]),
        (
            "Do not lie for gain.",
            "Do not deceive people for gain.",
            [
                Piece("same", "Do not"),
                Piece("removed", " lie"),
                Piece("added", " deceive people"),
                Piece("same", " for gain."),
            ],
        ),
        (
            "a\nb ",
            "a b ",
            [
                Piece("same", "a"),
                Piece("removed", "\nb"),
                Piece("added", " b"),
                Piece("same", " "),
            ],
        ),
    ],
)
def test_words_that_went_and_came_are_marked(before: str, after: str, pieces: list[Piece]) -> None:
    """A word is compared with the space before it."""
    assert pieces == pieces_of(before, after)


words = st.text(st.sampled_from("ab \n<&"), max_size=30)


@given(words, words)
def test_both_texts_can_be_read_in_full(before: str, after: str) -> None:
    """What is shown of each version is exactly its text."""
    pieces = pieces_of(before, after)

    assert before == "".join(piece.text for piece in pieces if piece.kind != "added")
    assert after == "".join(piece.text for piece in pieces if piece.kind != "removed")
    assert "" not in [piece.text for piece in pieces]


def test_texts_that_would_take_long_to_compare_are_shown_whole() -> None:
    """At the limit words are compared; above it the text before and the text after stand whole."""
    side = int(WORD_PAIRS_MAX**0.5)
    assert WORD_PAIRS_MAX - 2 * side < side * side <= WORD_PAIRS_MAX
    at_limit = " a" * side
    assert ["same", "added"] == [p.kind for p in pieces_of(at_limit, f"{at_limit} b")]

    beyond = " a" * (side + 1)
    assert ["removed", "added"] == [p.kind for p in pieces_of(beyond, f"{beyond} b")]


def test_clauses_are_matched_by_their_ids() -> None:
    """In the order of the later version, then what it no longer has."""
    before = [clause("gone"), clause("kept"), clause("said", "Do not lie.")]
    after = [clause("new"), clause("said", "Never lie."), clause("kept")]

    found = clause_changes(before, after)

    assert [("new", "added"), ("said", "changed"), ("kept", "same"), ("gone", "removed")] == [
        (change.id, change.kind) for change in found
    ]
    assert [Piece("removed", "Do not"), Piece("added", "Never"), Piece("same", " lie.")] == found[
        1
    ].pieces("text")
    assert [Piece("added", "Do not.")] == found[0].pieces("text")
    assert [Piece("removed", "high")] == found[3].pieces("severity")
