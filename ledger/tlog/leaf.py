"""What does the log commit to of one event?

Trust: the entry holds every column of the event's row, each with its length before it, so no column
can be edited, and no byte can move from one into the next, without another hash.

    bytes    what
    1        the version of this layout: 1
    8        position, big-endian
    2 + n    length and UTF-8 of the stream's name
    8        version in the stream, big-endian
    2 + n    length and UTF-8 of the event's type
    2 + n    length and UTF-8 of recorded_at, as it is stored
    4 + n    length and the stored bytes: canonical JSON of who acted, the schema and the data

Event n of the ledger is leaf n-1 of the tree.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ledger.tlog.merkle import LogFormatError, leaf_hash

LAYOUT = 1
_SHORT, _LONG, _NUMBER = struct.Struct(">H"), struct.Struct(">I"), struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class StoredRow:
    """One event as its columns hold it."""

    position: int
    stream: str
    version: int
    type: str
    recorded_at: str
    state: bytes


def entry(row: StoredRow) -> bytes:
    """Return the entry of an event. Raises ``LogFormatError`` for a row that cannot have one."""
    try:
        return b"".join(
            (
                bytes((LAYOUT,)),
                _NUMBER.pack(row.position),
                _short(row.stream),
                _NUMBER.pack(row.version),
                _short(row.type),
                _short(row.recorded_at),
                _LONG.pack(len(row.state)),
                row.state,
            )
        )
    except (struct.error, UnicodeEncodeError) as error:
        raise LogFormatError(f"event {row.position} cannot be an entry: {error}") from None


def hash_of(row: StoredRow) -> bytes:
    """Return the leaf hash of an event."""
    return leaf_hash(entry(row))


def parse_entry(data: bytes) -> StoredRow:
    """Read an entry. Raises ``LogFormatError`` unless it is the one way to write that row."""
    reader = _Reader(data)
    if reader.take(1) != bytes((LAYOUT,)):
        raise LogFormatError("an entry begins with the version of its layout, which is 1")
    row = StoredRow(
        position=reader.number(),
        stream=reader.text(),
        version=reader.number(),
        type=reader.text(),
        recorded_at=reader.text(),
        state=reader.take(_LONG.unpack(reader.take(_LONG.size))[0]),
    )
    reader.end()
    return row


def _short(text: str) -> bytes:
    raw = text.encode()
    return _SHORT.pack(len(raw)) + raw


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, length: int) -> bytes:
        start, self._at = self._at, self._at + length
        if self._at > len(self._data):
            raise LogFormatError("the entry is cut off")
        return self._data[start : self._at]

    def number(self) -> int:
        return int(_NUMBER.unpack(self.take(_NUMBER.size))[0])

    def text(self) -> str:
        raw = self.take(_SHORT.unpack(self.take(_SHORT.size))[0])
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise LogFormatError("the entry holds a text that is not UTF-8") from None

    def end(self) -> None:
        if self._at != len(self._data):
            raise LogFormatError("the entry goes on after its end")
