"""What changed from one version of a policy to another, clause by clause and word by word?"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Final, Literal

from ledger.domain.events import Clause

WORD_PAIRS_MAX: Final = 100_000
"""Pairs of equal words in two texts, beyond which the whole text is shown as changed.

Comparing takes time with their number. Prose has a tenth of that in the longest clause.
"""

_WORD: Final = re.compile(r"\s*\S+|\s+\Z")

Kind = Literal["same", "removed", "added"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a text: in both versions, or only in the one before or after."""

    kind: Kind
    text: str


@dataclass(frozen=True, slots=True)
class ClauseChange:
    """A clause in two versions; ``None`` where it is not in a version."""

    before: Clause | None
    after: Clause | None

    @property
    def id(self) -> str:
        """The clause's id, by which it is known from version to version."""
        clause = self.after or self.before
        assert clause is not None
        return clause.id

    @property
    def kind(self) -> Literal["same", "removed", "added", "changed"]:
        """What became of it."""
        if self.before is None:
            return "added"
        if self.after is None:
            return "removed"
        return "same" if self.before == self.after else "changed"

    def pieces(self, member: Literal["title", "text", "category", "severity"]) -> list[Piece]:
        """Return how a member of it changed."""
        return pieces_of(
            getattr(self.before, member) if self.before else "",
            getattr(self.after, member) if self.after else "",
        )


def clause_changes(before: Sequence[Clause], after: Sequence[Clause]) -> list[ClauseChange]:
    """Return every clause of two versions: in the order of the later one, then those removed."""
    old = {clause.id: clause for clause in before}
    new = {clause.id: clause for clause in after}
    return [
        *(ClauseChange(old.get(id_), clause) for id_, clause in new.items()),
        *(ClauseChange(clause, None) for id_, clause in old.items() if id_ not in new),
    ]


def pieces_of(before: str, after: str) -> list[Piece]:
    """Return a text's stretches of words that stayed, went and came.

    Those that are not ``added`` make up the text before, those not ``removed`` the text after.
    """
    if before == after:
        return [Piece("same", before)] if before else []
    old, new = _WORD.findall(before), _WORD.findall(after)
    counted = Counter(new)
    if sum(times * counted[word] for word, times in Counter(old).items()) > WORD_PAIRS_MAX:
        return [Piece("removed", before), Piece("added", after)]
    pieces = []
    for _, i, j, k, m in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        gone, come = "".join(old[i:j]), "".join(new[k:m])
        if gone == come:
            pieces.append(Piece("same", gone))
            continue
        pieces += [Piece("removed", gone)] if gone else []
        pieces += [Piece("added", come)] if come else []
    return pieces
