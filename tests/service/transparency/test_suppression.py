"""No count that is left out can be worked out from what is shown."""

from __future__ import annotations

from collections import defaultdict
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.service.transparency.figures import public_figures
from ledger.service.transparency.suppression import SMALL, shown_counts, shown_total

Counts = tuple[int, ...]


def everything_that_looks_alike(size: int, most: int) -> dict[Any, list[Counts]]:
    """Every table of so many counts, by what is shown of it."""
    alike = defaultdict(list)
    for counts in product(range(most + 1), repeat=size):
        shown = shown_counts(counts)
        alike[shown_total(sum(counts)), None if shown is None else tuple(shown)].append(counts)
    return alike


@pytest.mark.parametrize(("size", "most"), [(2, 40), (3, 16), (4, 8)])
def test_whoever_knows_the_rule_and_the_total_cannot_tell_a_count_that_is_left_out(
    size: int, most: int
) -> None:
    """Of all tables that look alike, no two agree on what is left out: tried for every table."""
    for (_, shown), tables in everything_that_looks_alike(size, most).items():
        for place in range(size):
            if shown is None or shown[place] is None:
                assert len({counts[place] for counts in tables}) > 1, (shown, tables[:3])


tables = st.lists(st.integers(0, 60), min_size=2, max_size=12)


@given(tables)
def test_a_count_that_is_left_out_could_be_another(counts: list[int]) -> None:
    """For a large table, too: exchanging two counts that are left out shows the same."""
    shown = shown_counts(counts)
    if shown is None:
        assert sum(counts) <= (SMALL - 1) * len([count for count in counts if count])
        return
    hidden = [place for place, count in enumerate(shown) if count is None]
    for place in hidden:
        others = [other for other in hidden if counts[other] != counts[place]]
        assert others
        exchanged = list(counts)
        exchanged[place], exchanged[others[0]] = counts[others[0]], counts[place]
        assert shown == shown_counts(exchanged)


@given(tables)
def test_no_small_count_is_shown(counts: list[int]) -> None:
    """What is shown is true, and 0 or not small."""
    for count, shown in zip(counts, shown_counts(counts) or [], strict=False):
        assert shown is None or (shown == count and (count == 0 or count >= SMALL))


@pytest.mark.parametrize(
    ("counts", "shown"),
    [
        ([0, 0, 0], [0, 0, 0]),
        ([5, 9, 0], [5, 9, 0]),
        ([4, 9, 30], [None, None, 30]),
        ([4, 9, 9, 30], [None, None, None, 30]),
        ([4, 4, 4], None),
        ([4, 5], [None, None]),
        ([4, 4], None),
        ([5], [5]),
        ([4], None),
    ],
)
def test_what_is_left_out_of_a_table(counts: list[int], shown: list[int | None] | None) -> None:
    """Small counts, and the least of the others; of mostly small counts, all."""
    assert shown == shown_counts(counts)


@pytest.mark.parametrize(("total", "shown"), [(0, 0), (1, None), (4, None), (5, 5)])
def test_a_small_total_is_left_out(total: int, shown: int | None) -> None:
    """Five is the first total that is shown."""
    assert shown == shown_total(total)


def violations_of(clauses: dict[tuple[str, str], int]) -> dict[str, Any]:
    """A report with these violations by category and clause, and nothing else."""
    categories: dict[str, int] = defaultdict(int)
    for (category, _), count in clauses.items():
        categories[category] += count
    total = sum(clauses.values())
    nothing: dict[str, Any] = {"recorded": 0, "counted": 0, "subjects": 0, "repeat_subjects": 0}
    return {
        "violations": {
            "recorded": total,
            "standing": total,
            "overturned": 0,
            "by_category": [
                {"category": name, "recorded": count} for name, count in sorted(categories.items())
            ],
            "by_clause": [
                {"policy": "aup", "clause": clause, "category": category, "recorded": count}
                for (category, clause), count in sorted(clauses.items())
            ],
            "by_month": [],
            "by_detection": [],
        },
        "warnings": {"issued": 0},
        "suspensions": {
            **nothing,
            **{f"by_{name}": [] for name in ("model", "length", "basis", "month")},
        },
        "reinstatements": {**nothing, "median_seconds": None, "by_cause": []},
        "subjects": {"affected": 0, "by_type": []},
    }


def test_clauses_do_not_give_away_their_category_nor_it_them() -> None:
    """Of all violations that look alike by category and clause, none tells what is left out."""
    cells = (("fraud", "phishing"), ("fraud", "scams"), ("lies", "bots"), ("lies", "rumours"))
    alike = defaultdict(list)
    for counts in product(range(9), repeat=len(cells)):
        shown = public_figures(violations_of(dict(zip(cells, counts, strict=True))))
        table = shown["violations"]["by_category"]
        known: dict[tuple[str, ...], int] = {}
        for row in table or ():
            if row["count"] is not None:
                known[row["category"],] = row["count"]
            for each in row["by_clause"] or ():
                if each["count"] is not None:
                    known[row["category"], each["clause"]] = each["count"]
        alike[repr(shown)].append((counts, known))

    for tables_alike in alike.values():
        _, known = tables_alike[0]
        for place, cell in enumerate(cells):
            values = {counts[place] for counts, _ in tables_alike}
            assert cell in known or len(values) > 1 or values == {0}, (cell, tables_alike[:3])
        for category, (one, two) in {"fraud": (0, 1), "lies": (2, 3)}.items():
            sums = {counts[one] + counts[two] for counts, _ in tables_alike}
            assert (category,) in known or len(sums) > 1 or sums == {0}
