"""How are the tree and its entries cut into files that never change?

Trust: tiles are not trusted. Whoever reads them checks the hashes against a signed checkpoint, and
the entries against the hashes.

Implements C2SP tlog-tiles. A full tile holds 256 consecutive hashes of one tile level; tile level L
is tree level 8 L. Its rightmost tile may be partial, and has its width in its name:

    tile/0/x001/x234/067       hashes 0..255 of tile 1234067 of level 0
    tile/0/x001/x234/067.p/7   the first 7 of them
    tile/entries/000           entries 0..255, each a big-endian uint16 length and its bytes
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from ledger.tlog.merkle import HASH_BYTES, MAX_TREE_SIZE, HashAt, LogFormatError, root

TILE_HEIGHT = 8
TILE_WIDTH = 256
MAX_TILE_LEVEL = 63
MAX_ENTRY_BYTES = 65535
LENGTH_BYTES = 2

_PATH = re.compile(
    r"tile/(?P<level>entries|[0-9]{1,2})/(?P<index>(?:x[0-9]{3}/){0,6}[0-9]{3})"
    r"(?:\.p/(?P<width>[0-9]{1,3}))?"
)


@dataclass(frozen=True, slots=True)
class Tile:
    """The name of a tile: its level (None for a bundle of entries), index, and width (1 to 256).

    Raises LogFormatError for a tile that cannot be named.
    """

    level: int | None
    index: int
    width: int = TILE_WIDTH

    def __post_init__(self) -> None:
        if not 0 <= (self.level or 0) <= MAX_TILE_LEVEL:
            raise LogFormatError(f"a tile level is at most {MAX_TILE_LEVEL}")
        if not 0 <= self.index <= MAX_TREE_SIZE:
            raise LogFormatError("a tile index is at least 0 and below 2**63")
        if not 1 <= self.width <= TILE_WIDTH:
            raise LogFormatError(f"a tile is 1 to {TILE_WIDTH} wide")


def tile_path(tile: Tile) -> str:
    """Write a tile's path, relative to the log's prefix."""
    groups = [f"{tile.index % 1000:03d}"]
    rest = tile.index // 1000
    while rest:
        groups.insert(0, f"x{rest % 1000:03d}")
        rest //= 1000
    level = "entries" if tile.level is None else str(tile.level)
    partial = "" if tile.width == TILE_WIDTH else f".p/{tile.width}"
    return f"tile/{level}/{'/'.join(groups)}{partial}"


def parse_tile_path(path: str) -> Tile:
    """Read a tile's path. Raises LogFormatError unless it is the one way to write that path."""
    match = _PATH.fullmatch(path)
    if match is None:
        raise LogFormatError("not the path of a tile")
    level = None if match["level"] == "entries" else int(match["level"])
    index = int(match["index"].replace("x", "").replace("/", ""))
    tile = Tile(level, index, TILE_WIDTH if match["width"] is None else int(match["width"]))
    if tile_path(tile) != path:
        raise LogFormatError("not the canonical path of a tile")
    return tile


def hash_count(level: int | None, size: int) -> int:
    """Count the hashes (or, with None, the entries) on a tile level of a tree of `size`."""
    return size >> (TILE_HEIGHT * (level or 0))


def tile_exists(tile: Tile, size: int) -> bool:
    """Tell whether a tree of `size` has everything that this tile holds.

    With the size of the newest published checkpoint, this says what may be served: the tiles of
    that size and of every earlier one, none of which will ever change.
    """
    return tile.index * TILE_WIDTH + tile.width <= hash_count(tile.level, size)


def new_tiles(old_size: int, new_size: int) -> Iterator[Tile]:
    """Name the hash tiles that a tree of `new_size` has and one of `old_size` had not.

    Lowest level first, each level from the left, the partial tile last. From 0, these are all tiles
    of `new_size`. Raises LogFormatError when the sizes are impossible or in the wrong order.
    """
    _check_growth(old_size, new_size)
    level = 0
    while hash_count(level, new_size) > 0:
        yield from _new_on_level(level, old_size, new_size)
        level += 1


def new_bundles(old_size: int, new_size: int) -> Iterator[Tile]:
    """Name the bundles of entries that a tree of `new_size` has and one of `old_size` had not."""
    _check_growth(old_size, new_size)
    return _new_on_level(None, old_size, new_size)


def encode_tile(hashes: Iterable[bytes]) -> bytes:
    """Write 1 to 256 hashes as a tile. Raises LogFormatError."""
    data = b"".join(hashes)
    decode_tile(data)
    return data


def decode_tile(data: bytes, width: int | None = None) -> tuple[bytes, ...]:
    """Read the hashes of a tile, exactly `width` of them if given. Raises LogFormatError."""
    count, rest = divmod(len(data), HASH_BYTES)
    if rest or not 1 <= count <= TILE_WIDTH or count != (width or count):
        raise LogFormatError(f"{len(data)} bytes are not a tile of the expected width")
    return tuple(data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES))


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """Write 1 to 256 entries as a bundle. Raises LogFormatError, too for an entry over 65535 bytes.

    An entry that does not fit must be refused before it is appended: its leaf could not be served.
    """
    if not 1 <= len(entries) <= TILE_WIDTH:
        raise LogFormatError(f"a bundle has 1 to {TILE_WIDTH} entries, not {len(entries)}")
    if any(len(entry) > MAX_ENTRY_BYTES for entry in entries):
        raise LogFormatError(f"an entry has at most {MAX_ENTRY_BYTES} bytes")
    return b"".join(len(entry).to_bytes(LENGTH_BYTES, "big") + entry for entry in entries)


def decode_bundle(data: bytes, width: int | None = None) -> tuple[bytes, ...]:
    """Read the entries of a bundle, exactly `width` of them if given. Raises LogFormatError."""
    entries: list[bytes] = []
    at = 0
    while at < len(data) and len(entries) < TILE_WIDTH:
        start = at + LENGTH_BYTES
        end = start + int.from_bytes(data[at:start], "big")
        if end > len(data):
            raise LogFormatError("the bundle is cut off")
        entries.append(data[start:end])
        at = end
    if at < len(data) or not entries or len(entries) != (width or len(entries)):
        raise LogFormatError("the bundle does not have the expected number of entries")
    return tuple(entries)


def tile_bytes(tile: Tile, hash_at: HashAt) -> bytes:
    """Build a hash tile from a reader of the tree. Raises LogFormatError for a bundle's name."""
    if tile.level is None:
        raise LogFormatError("a bundle of entries is not made of hashes")
    level, first = TILE_HEIGHT * tile.level, tile.index * TILE_WIDTH
    return encode_tile(hash_at(level, index) for index in range(first, first + tile.width))


def hash_reader(size: int, read_tile: Callable[[Tile], bytes]) -> HashAt:
    """Make a `hash_at` reader over the stored tiles of a tree of `size`.

    `read_tile` is asked for the tile as it is at this size, at most once for each; it may answer
    with the full tile instead, once that exists. The reader remembers tiles: make one for each
    proof. It raises LogFormatError for a subtree that this tree has not, and for data that is no
    such tile.
    """
    hashes_of: dict[Tile, tuple[bytes, ...]] = {}

    def hash_at(level: int, index: int) -> bytes:
        if level < 0 or index < 0 or index >= size >> level:
            raise LogFormatError(f"a tree of {size} has no subtree {index} on level {level}")
        tile_level, height = divmod(level, TILE_HEIGHT)
        first, last = index << height, ((index + 1) << height) - 1
        tile = _tile_at(tile_level, first // TILE_WIDTH, size)
        if tile not in hashes_of:
            hashes_of[tile] = _hashes_in(tile, read_tile(tile))
        return root(hashes_of[tile][first % TILE_WIDTH : last % TILE_WIDTH + 1])

    return hash_at


def _tile_at(level: int, index: int, size: int) -> Tile:
    """Name a tile as it is in a tree of `size`, full or partial."""
    return Tile(level, index, min(TILE_WIDTH, hash_count(level, size) - index * TILE_WIDTH))


def _hashes_in(tile: Tile, data: bytes) -> tuple[bytes, ...]:
    is_full = len(data) == TILE_WIDTH * HASH_BYTES
    return decode_tile(data, TILE_WIDTH if is_full else tile.width)


def _new_on_level(level: int | None, old_size: int, new_size: int) -> Iterator[Tile]:
    old, new = hash_count(level, old_size), hash_count(level, new_size)
    if old == new:
        return
    for index in range(old // TILE_WIDTH, new // TILE_WIDTH):
        yield Tile(level, index)
    if new % TILE_WIDTH:
        yield Tile(level, new // TILE_WIDTH, new % TILE_WIDTH)


def _check_growth(old_size: int, new_size: int) -> None:
    if not 0 <= old_size <= new_size <= MAX_TREE_SIZE:
        raise LogFormatError(f"a tree does not grow from {old_size} to {new_size}")
