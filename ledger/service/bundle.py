"""The archive in which a whole record leaves the ledger, to be verified by anybody, offline.

An uncompressed tar (USTAR) with the checkpoint, the keys, every tile and every bundle of entries of
exactly the checkpoint's size. The same record gives the same bytes: no times, owners or order that
could differ. Written and read in constant memory but for the list of its files.

Trust: none in the archive. A header counts only when it is the one way to write its name and size,
and no file is read that is larger than one of its kind can be.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from ledger.domain.errors import InvalidValue, Unavailable
from ledger.tlog.checkpoint import LogKey, parse_size
from ledger.tlog.merkle import HASH_BYTES, LogFormatError
from ledger.tlog.note import MAX_NOTE_BYTES, decode_text, format_vkey, parse_vkey
from ledger.tlog.tiles import (
    LENGTH_BYTES,
    MAX_ENTRY_BYTES,
    TILE_WIDTH,
    Tile,
    new_bundles,
    new_tiles,
    tile_path,
)

README: Final = "README.txt"
CHECKPOINT: Final = "checkpoint"
KEYS: Final = "keys.txt"
KEYS_BYTES_MAX: Final = 64 * 1024
FILES_MAX: Final = 4_000_000  # tiles and bundles of half a billion events: a list of some 600 MB
BUNDLE_BYTES_MAX: Final = TILE_WIDTH * (LENGTH_BYTES + MAX_ENTRY_BYTES)
TILE_BYTES_MAX: Final = TILE_WIDTH * HASH_BYTES

_ABOUT: Final = """\
The record of the ledger {origin}: its first {size} events, as they were signed.

  checkpoint      what was signed: origin, number of events, root of the tree; and signatures
  keys.txt        the keys of the log: first size, last size ("-": none yet), key
  tile/entries/   the events, 256 to a file (C2SP tlog-tiles)
  tile/0/ 1/ ...  the hashes of the tree over them

To verify it:

  compliance-ledger verify --bundle THIS.tar --key KEY --checkpoint EARLIER

KEY is the log's key and EARLIER a checkpoint of this ledger that you kept; both from elsewhere than
this archive, which could bring keys of its own. How to write another verifier is described in the
ledger's documentation, in reference/bundle-format.md.
"""
_BLOCK: Final = tarfile.BLOCKSIZE
_END: Final = bytes(2 * _BLOCK)


@dataclass(frozen=True, slots=True)
class Contents:
    """What goes into a bundle; ``read`` returns the bytes of a tile or a bundle of entries."""

    origin: str
    size: int
    checkpoint: bytes
    keys: tuple[LogKey, ...]
    read: Callable[[Tile], bytes]


def write_bundle(
    path: Path, contents: Contents, *, progress: Callable[[int], None] = lambda _position: None
) -> None:
    """Write a bundle whole, or not at all. Raises ``InvalidValue`` when the file exists."""
    if path.exists():
        raise InvalidValue(f"{path} exists; name a file that does not")
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with unfinished.open("wb") as file:
            for name, data in _files(contents, progress):
                file.write(_header(name, len(data)) + data + bytes(-len(data) % _BLOCK))
            file.write(_END)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise Unavailable(f"{path} cannot be written: {error.strerror}") from None
    finally:
        unfinished.unlink(missing_ok=True)


def _files(contents: Contents, progress: Callable[[int], None]) -> Iterator[tuple[str, bytes]]:
    about = _ABOUT.format(origin=contents.origin, size=contents.size)
    yield README, about.encode()
    yield CHECKPOINT, contents.checkpoint
    yield KEYS, format_keys(contents.keys).encode()
    for tile in new_tiles(0, contents.size):
        yield tile_path(tile), contents.read(tile)
    for tile in new_bundles(0, contents.size):
        yield tile_path(tile), contents.read(tile)
        progress(tile.index * TILE_WIDTH + tile.width)


def format_keys(keys: tuple[LogKey, ...]) -> str:
    """Write which key may sign which sizes: a line for each, the last size ``-`` while it may."""
    return "".join(
        f"{each.first_size} {'-' if each.last_size is None else each.last_size} "
        f"{format_vkey(each.key)}\n"
        for each in keys
    )


def parse_keys(data: bytes) -> tuple[LogKey, ...]:
    """Read what ``format_keys`` wrote. Raises ``LogFormatError``."""
    keys = []
    for line in decode_text(data).splitlines():
        first, _, rest = line.partition(" ")
        last, _, key = rest.partition(" ")
        last_size = None if last == "-" else parse_size(last)
        keys.append(LogKey(parse_vkey(key), parse_size(first), last_size))
    if not keys or format_keys(tuple(keys)).encode() != data:
        raise LogFormatError(f"{KEYS} is not a list of first size, last size and key")
    return tuple(keys)


# --- reading --------------------------------------------------------------------------------------


class Bundle:
    """An archive that was opened: its files by name. Raises ``LogFormatError`` for any other."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._places: dict[str, tuple[int, int]] = {}
        length = file.seek(0, os.SEEK_END)
        at = 0
        while True:
            block = self._read_at(at, _BLOCK)
            if block == bytes(_BLOCK):
                if self._read_at(at, len(_END) + 1) != _END:
                    raise LogFormatError(f"the archive does not end where it should, at byte {at}")
                return
            name, size = _parse_header(block, at)
            if name in self._places:
                raise LogFormatError(f"the archive holds {name} twice")
            if len(self._places) >= FILES_MAX:
                raise LogFormatError(f"the archive holds more than {FILES_MAX} files")
            self._places[name] = (at + _BLOCK, size)
            at += _BLOCK + size
            filling = -size % _BLOCK
            if at + filling + len(_END) > length:
                raise LogFormatError(f"the archive is cut off in {name}")
            if any(self._read_at(at, filling)):
                raise LogFormatError(f"the archive holds something behind the end of {name}")
            at += filling

    @property
    def names(self) -> frozenset[str]:
        """The files that the archive holds."""
        return frozenset(self._places)

    def file(self, name: str, limit: int) -> bytes:
        """Return a file. Raises ``LogFormatError`` when it is absent, or larger than it can be."""
        if name not in self._places:
            raise LogFormatError(f"the archive holds no {name}")
        at, size = self._places[name]
        if size > limit:
            raise LogFormatError(f"{name} has {size} bytes; it cannot have more than {limit}")
        return self._read_at(at, size)

    def checkpoint(self) -> bytes:
        """Return the signed checkpoint."""
        return self.file(CHECKPOINT, MAX_NOTE_BYTES)

    def keys(self) -> tuple[LogKey, ...]:
        """Return the keys that the archive names; they prove nothing by themselves."""
        return parse_keys(self.file(KEYS, KEYS_BYTES_MAX))

    def tile(self, tile: Tile) -> bytes | None:
        """Return a tile or a bundle of entries; None when it is absent."""
        name = tile_path(tile)
        if name not in self._places:
            return None
        return self.file(name, BUNDLE_BYTES_MAX if tile.level is None else TILE_BYTES_MAX)

    def strangers(self, size: int) -> frozenset[str]:
        """Return the files that do not belong into a bundle of this size."""
        if size > TILE_WIDTH * len(self._places):
            return frozenset()  # most of what belongs into it is missing, and will be reported
        tiles = (*new_tiles(0, size), *new_bundles(0, size))
        return self.names - {README, CHECKPOINT, KEYS} - {tile_path(each) for each in tiles}

    def _read_at(self, at: int, length: int) -> bytes:
        self._file.seek(at)
        return self._file.read(length)


def _header(name: str, size: int) -> bytes:
    """Return the one header that a file of this name and size has."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)


def _parse_header(block: bytes, at: int) -> tuple[str, int]:
    try:
        name = block[:100].rstrip(b"\x00").decode("ascii")
        size = int(block[124:135], 8)
        if _header(name, size) == block:
            return name, size
    except (ValueError, tarfile.TarError):
        pass
    raise LogFormatError(f"byte {at} is not the header of a file in a bundle")
