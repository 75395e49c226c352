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
_HEAD, _NUMBER_AND_SHORT = struct.Struct(">BQH"), struct.Struct(">QH")


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
    return entry_of(row.position, row.stream, row.version, row.type, row.recorded_at, row.state)


def entry_of(
    position: int, stream: str, version: int, type_: str, recorded_at: str, state: bytes
) -> bytes:
    """Return the entry of an event from its columns. Raises ``LogFormatError``."""
    try:
        name, kind, at = stream.encode(), type_.encode(), recorded_at.encode()
        return b"".join(
            (
                _HEAD.pack(LAYOUT, position, len(name)),
                name,
                _NUMBER_AND_SHORT.pack(version, len(kind)),
                kind,
                _SHORT.pack(len(at)),
                at,
                _LONG.pack(len(state)),
                state,
            )
        )
    except (struct.error, UnicodeEncodeError) as error:
        raise LogFormatError(f"event {position} cannot be an entry: {error}") from None


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
