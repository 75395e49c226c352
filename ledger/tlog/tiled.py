"""What does a record say that is cut into tiles, as a service serves it and an archive holds it?

Trust: none. Whatever the tiles hold, or lack, is handed on as it is, position by position, so that
`verify` can say where it was touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ledger.tlog.merkle import HASH_BYTES
from ledger.tlog.tiles import LENGTH_BYTES, TILE_WIDTH, Tile, hash_count, new_bundles, new_tiles

ReadTile = Callable[[Tile], bytes | None]
"""Reads a tile or a bundle of entries; None when there is none."""


@dataclass(frozen=True, slots=True)
class Tiled:
    """A record of ``size`` events, in tiles of exactly that size."""

    size: int
    read: ReadTile

    def entries(self) -> Iterator[tuple[int, bytes]]:
        """Yield positions with their entries, an empty one for each that cannot be read."""
        for tile in new_bundles(0, self.size):
            data = self.read(tile)
            if data is not None:
                first = tile.index * TILE_WIDTH + 1
                yield from enumerate(_split(data, tile.width), start=first)

    def leaves(self) -> Iterator[tuple[int, bytes]]:
        """Yield leaf indexes with the hashes of the lowest tiles."""
        for index in range(-(-hash_count(0, self.size) // TILE_WIDTH)):
            width = min(TILE_WIDTH, self.size - index * TILE_WIDTH)
            yield from self._hashes(Tile(0, index, width))

    def nodes(self) -> dict[tuple[int, int], bytes]:
        """Return the hashes of all higher tiles, by level and index."""
        return {
            (tile.level, index): each
            for tile in new_tiles(0, self.size)
            if tile.level
            for index, each in self._hashes(tile)
        }

    def _hashes(self, tile: Tile) -> Iterator[tuple[int, bytes]]:
        data = self.read(tile) or b""
        first = tile.index * TILE_WIDTH
        for number in range(min(tile.width, len(data) // HASH_BYTES)):
            yield first + number, data[number * HASH_BYTES : (number + 1) * HASH_BYTES]


def _split(data: bytes, width: int) -> Iterator[bytes]:
    """Yield ``width`` entries; from the first that is cut off, and for what is too much, none."""
    at = 0
    for number in range(width):
        start = at + LENGTH_BYTES
        at = start + int.from_bytes(data[at:start], "big")
        if at > len(data) or (number == width - 1 and at < len(data)):
            yield from [b""] * (width - number)
            return
        yield data[start:at]
