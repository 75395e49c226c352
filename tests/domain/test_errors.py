"""Refusals: every one has a code, a title and a hint, and is in the tree that the module draws."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from ledger.domain import errors
from ledger.domain.errors import LedgerError

INDENT = 4  # characters per level of the drawing


def every_error(above: type[LedgerError] = LedgerError) -> Iterator[type[LedgerError]]:
    """Yield each kind of error of the domain, from the top."""
    yield above
    for below in above.__subclasses__():
        if below.__module__ == errors.__name__:
            yield from every_error(below)


@pytest.mark.parametrize("error", list(every_error()), ids=lambda error: error.__name__)
def test_every_error_says_what_it_is_and_how_to_mend_it(error: type[LedgerError]) -> None:
    """Code, title and docstring are there; so is a hint, on everything that is ever raised."""
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", error.code)
    assert error.title
    assert error.__doc__
    if not error.__subclasses__() or error.code in ("conflict", "not_found", "unavailable"):
        assert error.hint.endswith(".")


def test_codes_name_one_error_each() -> None:
    """A machine that reads a code knows which refusal it was."""
    codes = [error.code for error in every_error()]

    assert sorted(set(codes)) == sorted(codes)


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    """The drawing names every class below the right one, and says its code."""
    drawn: dict[str, str] = {}
    above = ["LedgerError"]
    for line in (errors.__doc__ or "").splitlines():
        branch = re.match(r"    ((?:│   |    )*)[├└]── (\w+) +(\w+)?", line)
        if branch:
            depth = len(branch[1]) // INDENT + 1
            del above[depth:]
            drawn[branch[2]] = above[-1]
            above.append(branch[2])
            code = getattr(errors, branch[2]).code
            assert code in line or "Refused" == branch[2]

    parents = {error.__name__: error.__bases__[0].__name__ for error in every_error()}
    del parents["LedgerError"]
    assert parents == drawn


def test_an_error_carries_its_field_and_more() -> None:
    """Members beside the sentence are kept for the problem document."""
    error = errors.AlreadyEnded("It is over.", field="/suspension", ended_by=7)

    assert ("It is over.", "/suspension", {"ended_by": 7}) == (
        str(error),
        error.field,
        error.more,
    )
    assert errors.NotFound("Nothing.").field is None
