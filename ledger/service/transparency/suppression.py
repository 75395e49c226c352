"""Which counts of a table must be left out, so that nobody can work out a small one?

A small count is about people whom somebody who knows them may recognise. Leaving it out is not
enough: with the total and the other counts it is found by subtraction. Nor is it enough to leave
out one more: who knows the rule can ask which tables would have led to what is shown. So:

- a table whose counts are smaller than ``SMALL`` on average is withheld as a whole;
- of another, every small count is left out, and with them every count that equals the least of
  those that are not small.

A table that is not withheld has at least one count that is not small. Exchange the values of a
small count and of one that was left out with it: the same cells are left out, the same counts and
the same total are shown. So each count that is left out might be another, for whoever knows the
total, the counts that are shown, the marks in place of the others, and this rule.

Counts of nothing are about nobody, and are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

SMALL: Final = 5  # counts below it are about so few that somebody may recognise them

Shown = Sequence[int | None]


def shown_total(total: int) -> int | None:
    """Return a total as it is shown: ``None`` when it is small."""
    return None if 0 < total < SMALL else total


def shown_counts(counts: Sequence[int]) -> Shown | None:
    """Return the counts of a table as they are shown, or ``None`` when it is withheld.

    The counts must be parts of one total, which may be shown beside them.
    """
    parts = [count for count in counts if count]
    if sum(parts) <= (SMALL - 1) * len(parts):
        # Also when there is nothing in it, which nobody needs a table for.
        return None if parts else list(counts)
    if all(count >= SMALL for count in parts):
        return list(counts)
    least = min(count for count in parts if count >= SMALL)
    return [None if 0 < count < SMALL or count == least else count for count in counts]
