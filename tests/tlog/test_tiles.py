"""Tiles: one path for each, the right ones for each size, and the tree can be read from them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.tlog.merkle import (
    EMPTY_ROOT,
    Frontier,
    HashAt,
    LogError,
    LogFormatError,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_at,
    verify_consistency,
    verify_inclusion,
)
from ledger.tlog.tiles import (
    Tile,
    decode_bundle,
    decode_tile,
    encode_bundle,
    encode_tile,
    hash_reader,
    new_bundles,
    new_tiles,
    parse_tile_path,
    tile_bytes,
    tile_exists,
    tile_path,
)

SIZES = (1, 2, 255, 256, 257, 511, 512, 600, 65535, 65536, 65537, 70000)
LARGEST = max(SIZES)


def build_tree() -> tuple[dict[tuple[int, int], bytes], dict[int, bytes]]:
    """Append every leaf, and keep the subtrees and the roots of SIZES."""
    nodes: dict[tuple[int, int], bytes] = {}
    roots: dict[int, bytes] = {}
    frontier = Frontier()
    for size in range(LARGEST + 1):
        if size in SIZES:
            roots[size] = frontier.root()
        leaf = leaf_hash(str(size).encode())
        for level, value in enumerate(frontier.completes(leaf)):
            nodes[level, size >> level] = value
        frontier = frontier.append(leaf)
    return nodes, roots


NODES, ROOTS = build_tree()


def from_nodes(level: int, index: int) -> bytes:
    """Read a subtree as a store would that keeps them all."""
    return NODES[level, index]


def stored(size: int) -> dict[str, bytes]:
    """Make all hash tiles of a size, by path."""
    return {tile_path(tile): tile_bytes(tile, from_nodes) for tile in new_tiles(0, size)}


def reader(size: int, files: dict[str, bytes], reads: list[str] | None = None) -> HashAt:
    """Read a tree from files, and note which."""

    def read_tile(tile: Tile) -> bytes:
        if reads is not None:
            reads.append(tile_path(tile))
        return files[tile_path(tile)]

    return hash_reader(size, read_tile)


@pytest.mark.parametrize("size", SIZES)
def test_proofs_are_made_from_tiles_alone(size: int) -> None:
    """The tiles of a size give its root and its proofs, reading each tile at most once."""
    files = stored(size)

    assert ROOTS[size] == root_at(size, reader(size, files))
    for index in {0, 1, size // 2, size - 1} & set(range(size)):
        reads: list[str] = []
        proof = inclusion_proof(index, size, reader(size, files, reads))
        verify_inclusion(NODES[0, index], index, size, proof, ROOTS[size])
        assert len(reads) == len(set(reads)) <= 6
    for old in SIZES:
        if old <= size:
            proof = consistency_proof(old, size, reader(size, files))
            verify_consistency(old, size, ROOTS[old], ROOTS[size], proof)


def test_growing_in_steps_makes_the_tiles_of_every_size() -> None:
    """Writing only the new tiles of each step leaves every tile of every size on the way."""
    written: dict[str, bytes] = {}
    for old, new in zip((0, *SIZES), SIZES, strict=False):
        for tile in new_tiles(old, new):
            path = tile_path(tile)
            assert path not in written
            written[path] = tile_bytes(tile, from_nodes)
        assert stored(new).items() <= written.items()


def test_bundles_follow_the_leaf_tiles() -> None:
    """For each tile on level 0 there is a bundle of the same index and width."""
    for old, new in ((0, 0), (0, 7), (7, 7), (7, 256), (256, 257), (300, 70000)):
        bundles = [(tile.index, tile.width) for tile in new_bundles(old, new)]
        tiles = [(tile.index, tile.width) for tile in new_tiles(old, new) if tile.level == 0]
        assert tiles == bundles


@given(st.integers(0, 2**20), st.integers(0, 2**20))
def test_new_tiles_exist_now_and_did_not_before(one: int, two: int) -> None:
    """Every new tile is one that the new size has and the old had not."""
    old, new = sorted((one, two))
    for tile in (*new_tiles(old, new), *new_bundles(old, new)):
        assert tile_exists(tile, new)
        assert not tile_exists(tile, old)


@pytest.mark.parametrize(
    ("path", "size", "expected"),
    [
        ("tile/0/000.p/7", 7, True),
        ("tile/0/000.p/7", 6, False),
        ("tile/0/000.p/7", 8, True),
        ("tile/0/000", 255, False),
        ("tile/0/000", 256, True),
        ("tile/1/000.p/1", 255, False),
        ("tile/1/000.p/1", 256, True),
        ("tile/63/000.p/1", 2**63 - 1, False),
        ("tile/entries/000.p/7", 7, True),
        ("tile/entries/001.p/1", 256, False),
    ],
)
def test_a_tile_is_served_once_the_tree_has_all_of_it(
    path: str, size: int, *, expected: bool
) -> None:
    """No tile is served in part, and none before its hashes exist."""
    assert expected is tile_exists(parse_tile_path(path), size)


@pytest.mark.parametrize(("old", "new"), [(8, 7), (-1, 7), (0, 2**63)])
def test_a_tree_does_not_shrink(old: int, new: int) -> None:
    """There are no new tiles between sizes in the wrong order."""
    with pytest.raises(LogFormatError):
        list(new_tiles(old, new))
    with pytest.raises(LogFormatError):
        new_bundles(old, new)


@given(st.one_of(st.none(), st.integers(0, 63)), st.integers(0, 2**63 - 1), st.integers(1, 256))
def test_tile_paths_are_written_and_read_back(level: int | None, index: int, width: int) -> None:
    """Every tile has one path, and is found by it."""
    tile = Tile(level, index, width)

    assert tile == parse_tile_path(tile_path(tile))


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile/0",
        "tile/0/",
        "/tile/0/000",
        "tile/0/000/",
        "tile/0/000\n",
        "tile/00/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/a/000",
        "tile/0/0",
        "tile/0/0000",
        "tile/0/1000",
        "tile/0/x000/001",
        "tile/0/001/000",
        "tile/0/x001/x000",
        "tile/0/x001000",
        "tile/0/x999/x999/x999/x999/x999/x999/999",
        "tile/0/x001/x000/x000/x000/x000/x000/x000/000",
        "tile/0/000.p",
        "tile/0/000.p/",
        "tile/0/000.p/0",
        "tile/0/000.p/00",
        "tile/0/000.p/01",
        "tile/0/000.p/256",
        "tile/0/000.p/999",
        "tile/0/\u0660\u0660\u0660",
        "tile/entry/000",
        "tile/entries/../000",
        "checkpoint",
    ],
)
def test_a_malformed_tile_path_is_refused(path: str) -> None:
    """Each deviation from the one way to write a path is a LogFormatError."""
    with pytest.raises(LogFormatError):
        parse_tile_path(path)


@given(st.one_of(st.text(), st.from_regex(r"tile/[0-9a-z]*/[x0-9/]*(\.p/[0-9]*)?", fullmatch=True)))
def test_any_text_as_a_tile_path_raises_our_errors_only(path: str) -> None:
    """What is read at all is written again as the same path."""
    with contextlib.suppress(LogError):
        assert path == tile_path(parse_tile_path(path))


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=256))
def test_bundles_are_written_and_read_back(entries: list[bytes]) -> None:
    """Every bundle survives, and has exactly the width that is asked for."""
    data = encode_bundle(entries)

    assert tuple(entries) == decode_bundle(data)
    assert tuple(entries) == decode_bundle(data, len(entries))
    with pytest.raises(LogFormatError):
        decode_bundle(data, len(entries) + 1)
    with pytest.raises(LogFormatError):
        decode_bundle(data[:-1])
    with pytest.raises(LogFormatError):
        decode_bundle(data + b"\x00")


@given(st.binary(max_size=2000))
def test_any_bytes_as_a_bundle_raise_our_errors_only(data: bytes) -> None:
    """What is read at all is written again as the same bytes."""
    with contextlib.suppress(LogError):
        assert data == encode_bundle(decode_bundle(data))


def test_a_bundle_has_limits() -> None:
    """An entry has at most 65535 bytes, and a bundle at most 256 entries."""
    assert decode_bundle(encode_bundle([bytes(65535)])) == (bytes(65535),)
    for entries in ([], [bytes(65536)], [b""] * 257):
        with pytest.raises(LogFormatError):
            encode_bundle(entries)
    with pytest.raises(LogFormatError):
        decode_bundle(bytes(2 * 257))


@pytest.mark.parametrize("length", [0, 31, 33, 8191, 8224])
def test_a_malformed_tile_is_refused(length: int) -> None:
    """A tile is 1 to 256 whole hashes."""
    with pytest.raises(LogFormatError):
        decode_tile(bytes(length))
    with pytest.raises(LogFormatError):
        encode_tile([bytes(length)])


def test_a_bundle_is_not_made_of_hashes() -> None:
    """Asking for the hashes of a bundle of entries is refused."""
    with pytest.raises(LogFormatError):
        tile_bytes(Tile(None, 0), from_nodes)


def test_a_full_tile_may_stand_in_for_a_partial_one() -> None:
    """A log may have dropped a partial tile: the full one, fetched instead, does as well."""
    full = tile_bytes(Tile(0, 0), from_nodes)

    assert root_at(7, from_nodes) == root_at(7, hash_reader(7, lambda _: full))


@pytest.mark.parametrize("length", [0, 1, 6 * 32, 8 * 32, 255 * 32, 257 * 32])
def test_a_stored_tile_of_another_width_is_refused(length: int) -> None:
    """A tile that is cut off, or longer than it can be, is noticed when it is read."""
    with pytest.raises(LogFormatError):
        root_at(7, hash_reader(7, lambda _: bytes(length)))


@pytest.mark.parametrize(("level", "index"), [(0, 7), (1, 3), (3, 0), (-1, 0), (0, -1), (10**9, 0)])
def test_a_subtree_that_is_not_complete_cannot_be_read(level: int, index: int) -> None:
    """A tree of 7 has no leaf 7, and no third pair."""
    with pytest.raises(LogFormatError):
        hash_reader(7, lambda _: EMPTY_ROOT * 7)(level, index)


@pytest.mark.parametrize(
    ("level", "index", "width"),
    [(64, 0, 1), (-1, 0, 1), (0, -1, 1), (0, 2**63, 1), (0, 0, 0), (0, 0, 257)],
)
def test_a_tile_that_cannot_be_named_is_refused(level: int, index: int, width: int) -> None:
    """Levels, indexes and widths have bounds."""
    with pytest.raises(LogFormatError):
        Tile(level, index, width)
