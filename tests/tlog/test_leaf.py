"""The entry of an event: one way to write it, every column in it, nothing else read."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.tlog.leaf import StoredRow, entry, hash_of, parse_entry
from ledger.tlog.merkle import LogFormatError

ROW = StoredRow(
    position=41,
    stream="subject/user:alice",
    version=3,
    type="subject.suspended",
    recorded_at="2026-11-24T10:00:00.000000Z",
    state=b'{"data":{}}',
)
number = st.integers(0, 2**64 - 1)
text = st.text(max_size=40).filter(lambda t: not any("\ud800" <= c <= "\udfff" for c in t))
rows = st.builds(StoredRow, number, text, number, text, text, st.binary(max_size=60))


def test_an_entry_has_the_documented_bytes() -> None:
    """The layout is what the reference says, to the byte."""
    expected = (
        b"\x01"
        + (41).to_bytes(8, "big")
        + b"\x00\x12subject/user:alice"
        + (3).to_bytes(8, "big")
        + b"\x00\x11subject.suspended"
        + b"\x00\x1b2026-11-24T10:00:00.000000Z"
        + b'\x00\x00\x00\x0b{"data":{}}'
    )
    assert expected == entry(ROW)
    assert sha256(b"\x00" + expected).digest() == hash_of(ROW)


@given(row=rows)
def test_an_entry_is_read_back_as_the_row_it_was_made_of(row: StoredRow) -> None:
    """Writing and reading are inverse."""
    assert row == parse_entry(entry(row))


@given(one=rows, other=rows)
def test_two_rows_have_the_same_entry_only_when_they_are_equal(
    one: StoredRow, other: StoredRow
) -> None:
    """No byte can move from one column into the next."""
    assert (one == other) == (entry(one) == entry(other))


@given(data=st.binary(max_size=80))
def test_bytes_that_are_no_entry_are_refused_or_written_back_the_same(data: bytes) -> None:
    """There is one way to write a row, and nothing raises another error."""
    try:
        row = parse_entry(b"\x01" + data)
    except LogFormatError:
        return
    assert b"\x01" + data == entry(row)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x02" + entry(ROW)[1:],
        entry(ROW)[:-1],
        entry(ROW) + b"\x00",
        entry(ROW).replace(b"alice", b"\xff\xff\xff\xff\xff"),
    ],
    ids=["empty", "another layout", "cut off", "too long", "not UTF-8"],
)
def test_an_entry_that_is_malformed_is_refused(data: bytes) -> None:
    """Each fault of form is a LogFormatError."""
    with pytest.raises(LogFormatError):
        parse_entry(data)


@pytest.mark.parametrize(
    "row",
    [
        replace(ROW, position=-1),
        replace(ROW, version=2**64),
        replace(ROW, stream="s" * 65_536),
        replace(ROW, type="\ud800"),
    ],
    ids=["position", "version", "stream", "type"],
)
def test_a_row_that_no_ledger_can_hold_has_no_entry(row: StoredRow) -> None:
    """What does not fit the layout is refused instead of being cut."""
    with pytest.raises(LogFormatError):
        entry(row)
