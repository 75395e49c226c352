"""Is this entry in that tree, and is this tree the beginning of that one?

Trust: nothing is trusted here but SHA-256. A proof comes from whoever wants to be believed, and a
`hash_at` reader may lie: what a lying reader yields is a proof or a root that does not verify.

Implements RFC 6962 section 2.1 (the same as RFC 9162 section 2.1 with SHA-256). A tree of size n
holds the leaves 0..n-1; a complete subtree is named by its level (0 = leaves) and its index on
that level, and covers the leaves `index * 2**level` up to `(index + 1) * 2**level`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

HASH_BYTES = 32
MAX_TREE_SIZE = 2**63 - 1
"""Sizes fit a signed 64-bit integer, in every implementation and database."""
MAX_PROOF_HASHES = 63
"""The limit that C2SP tlog-witness sets; no proof over a tree of up to 2**62 is longer."""
EMPTY_ROOT = sha256(b"").digest()

HashAt = Callable[[int, int], bytes]
"""Reads the hash of the complete subtree at `(level, index)`: from a list, a table, or tiles."""


class LogError(Exception):
    """Base of everything that the transparency log raises."""


class LogFormatError(LogError):
    """The input is malformed: it cannot be what it claims to be."""


class ProofInvalid(LogError):
    """The input is well formed, but it does not prove what it should."""


def leaf_hash(entry: bytes) -> bytes:
    """Hash one entry as a leaf (RFC 6962 section 2.1)."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two subtrees into their parent (RFC 6962 section 2.1)."""
    return sha256(b"\x01" + left + right).digest()


def root(leaf_hashes: Iterable[bytes]) -> bytes:
    """Compute the root over leaf hashes in order; none of them gives `EMPTY_ROOT`.

    Raises LogFormatError for a hash that is not 32 bytes. (RFC 6962 section 2.1, MTH.)
    """
    return Frontier().extend(leaf_hashes).root()


@dataclass(frozen=True, slots=True)
class Frontier:
    """A tree from its right edge: enough to append to it and to know its root.

    `hashes` are the complete subtrees that make up the tree, largest (leftmost) first: one for
    each bit that is set in `size`. `Frontier()` is the empty tree. Raises LogFormatError when the
    hashes do not fit the size.
    """

    size: int = 0
    hashes: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        _check_size(self.size)
        _check_hashes(self.hashes)
        if len(self.hashes) != self.size.bit_count():
            raise LogFormatError(
                f"a tree of {self.size} has {self.size.bit_count()} subtrees,"
                f" not {len(self.hashes)}"
            )

    def completes(self, leaf: bytes) -> tuple[bytes, ...]:
        """List the complete subtrees that appending this leaf hash would finish.

        Element k is the subtree at level k and index `size >> k`; element 0 is the leaf itself.
        These are exactly the new nodes, for a store that keeps them.
        """
        _check_hash(leaf)
        finished = [leaf]
        rest, size = len(self.hashes), self.size
        while size & 1:
            rest -= 1
            finished.append(node_hash(self.hashes[rest], finished[-1]))
            size >>= 1
        return tuple(finished)

    def append(self, leaf: bytes) -> Frontier:
        """Return the tree with one more leaf hash, after O(log n) hashing.

        Raises LogFormatError for a hash that is not 32 bytes, or a full tree.
        """
        finished = self.completes(leaf)
        kept = len(self.hashes) - (len(finished) - 1)
        return Frontier(self.size + 1, (*self.hashes[:kept], finished[-1]))

    def extend(self, leaves: Iterable[bytes]) -> Frontier:
        """Append many leaf hashes; the same as `append` for each, without the copies between."""
        hashes, size = list(self.hashes), self.size
        for leaf in leaves:
            if len(leaf) != HASH_BYTES:
                _check_hash(leaf)
            merged, bits = leaf, size
            while bits & 1:
                merged = sha256(b"\x01" + hashes.pop() + merged).digest()
                bits >>= 1
            hashes.append(merged)
            size += 1
        return Frontier(size, tuple(hashes))

    def root(self) -> bytes:
        """Return the root of this tree; of the empty one, `EMPTY_ROOT`."""
        return _fold(self.hashes)


def frontier_at(size: int, hash_at: HashAt) -> Frontier:
    """Read the frontier of the first `size` leaves, with O(log n) reads.

    Raises LogFormatError for an impossible size, or a reader that yields no hashes.
    """
    _check_size(size)
    return Frontier(size, tuple(hash_at(level, index) for level, index in _subtrees(0, size)))


def root_at(size: int, hash_at: HashAt) -> bytes:
    """Compute the root of the first `size` leaves, with O(log n) reads."""
    return frontier_at(size, hash_at).root()


def inclusion_proof(index: int, size: int, hash_at: HashAt) -> tuple[bytes, ...]:
    """Build the audit path of leaf `index` in the tree of `size`, the leaf's sibling first.

    Reads O(log n) hashes. Raises LogFormatError when the tree has no such leaf.
    (RFC 6962 section 2.1.1, PATH.)
    """
    _check_size(size)
    if not 0 <= index < size:
        raise LogFormatError(f"a tree of {size} has no leaf {index}")
    path = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(_range_hash(middle, end, hash_at))
            end = middle
        else:
            path.append(_range_hash(start, middle, hash_at))
            start = middle
    return tuple(reversed(path))


def consistency_proof(old_size: int, new_size: int, hash_at: HashAt) -> tuple[bytes, ...]:
    """Build the proof that the tree of `old_size` is the beginning of the tree of `new_size`.

    Empty when `old_size` is 0 or equals `new_size`. Reads O(log n) hashes. Raises LogFormatError
    when the sizes are impossible or in the wrong order. (RFC 6962 section 2.1.2, PROOF.)
    """
    _check_size(new_size)
    if not 0 <= old_size <= new_size:
        raise LogFormatError(f"a tree of {old_size} is not the beginning of a tree of {new_size}")
    if old_size == 0:
        return ()
    path = []
    start, end = 0, new_size
    while end != old_size:
        middle = start + _split(end - start)
        if old_size <= middle:
            path.append(_range_hash(middle, end, hash_at))
            end = middle
        else:
            path.append(_range_hash(start, middle, hash_at))
            start = middle
    if start > 0:
        # The old tree ends in a subtree that is not its root: the verifier cannot know its hash.
        path.append(_range_hash(start, end, hash_at))
    return tuple(reversed(path))


def verify_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root_hash: bytes
) -> None:
    """Check that the leaf hash stands at `index` in the tree of `size` with this root.

    The size is not hashed into the root: take both from one signed checkpoint. Raises ProofInvalid
    when the proof does not verify, LogFormatError for impossible hashes or sizes.
    (RFC 9162 section 2.1.3.2.)
    """
    _check_size(size)
    _check_hashes((leaf, root_hash, *proof))
    if not 0 <= index < size:
        raise ProofInvalid(f"a tree of {size} has no leaf {index}")
    first, last, computed = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise ProofInvalid("the inclusion proof is too long")
        if first & 1 or first == last:
            computed = node_hash(sibling, computed)
            first, last = _skip_missing_siblings(first, last)
        else:
            computed = node_hash(computed, sibling)
        first, last = first >> 1, last >> 1
    if last != 0:
        raise ProofInvalid("the inclusion proof is too short")
    if computed != root_hash:
        raise ProofInvalid(f"the inclusion proof of leaf {index} does not lead to the root")


def verify_consistency(
    old_size: int, new_size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the tree of `old_size` is the beginning of the tree of `new_size`.

    The empty tree begins every tree: its proof is empty, and its root must be `EMPTY_ROOT`. Raises
    ProofInvalid when the proof does not verify, LogFormatError for impossible hashes or sizes.
    (RFC 9162 section 2.1.4.2.)
    """
    _check_size(old_size)
    _check_size(new_size)
    _check_hashes((old_root, new_root, *proof))
    if old_size > new_size:
        raise ProofInvalid(f"the tree shrank from {old_size} to {new_size}")
    for size, tree_root in ((old_size, old_root), (new_size, new_root)):
        if size == 0 and tree_root != EMPTY_ROOT:
            raise ProofInvalid("the root of the empty tree is wrong")
    if old_size in (0, new_size):
        if proof:
            raise ProofInvalid("the consistency proof should be empty")
        if old_size == new_size and old_root != new_root:
            raise ProofInvalid(f"two trees of size {new_size} have different roots: a fork")
        return
    _verify_growth(old_size, new_size, old_root, new_root, proof)


def _verify_growth(
    old_size: int, new_size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check a consistency proof for 0 < old_size < new_size."""
    if not proof:
        raise ProofInvalid("the consistency proof is empty")
    # An old tree that is one complete subtree is itself the starting point, and not sent.
    path = (old_root, *proof) if old_size.bit_count() == 1 else tuple(proof)
    first, last = old_size - 1, new_size - 1
    while first & 1:
        first, last = first >> 1, last >> 1
    old_computed = new_computed = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise ProofInvalid("the consistency proof is too long")
        if first & 1 or first == last:
            old_computed = node_hash(sibling, old_computed)
            new_computed = node_hash(sibling, new_computed)
            first, last = _skip_missing_siblings(first, last)
        else:
            new_computed = node_hash(new_computed, sibling)
        first, last = first >> 1, last >> 1
    if last != 0:
        raise ProofInvalid("the consistency proof is too short")
    if old_computed != old_root:
        raise ProofInvalid(f"the consistency proof does not lead to the root of size {old_size}")
    if new_computed != new_root:
        raise ProofInvalid(f"the consistency proof does not lead to the root of size {new_size}")


def _skip_missing_siblings(first: int, last: int) -> tuple[int, int]:
    """Climb the levels on which a last node is alone, and so goes up without being hashed."""
    while first and not first & 1:
        first, last = first >> 1, last >> 1
    return first, last


def _split(width: int) -> int:
    """Return the largest power of two below `width`, which is at least 2."""
    return 1 << ((width - 1).bit_length() - 1)


def _subtrees(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Cut the leaves [start, end) into complete subtrees, largest first.

    `start` must be where a subtree as wide as the range may begin, as it is in every RFC 6962 tree.
    """
    while start < end:
        level = (end - start).bit_length() - 1
        yield level, start >> level
        start += 1 << level


def _range_hash(start: int, end: int, hash_at: HashAt) -> bytes:
    """Compute MTH(D[start:end]) of a non-empty range that starts where a subtree may."""
    return _fold([hash_at(level, index) for level, index in _subtrees(start, end)])


def _fold(hashes: Sequence[bytes]) -> bytes:
    """Hash subtrees, largest first, into the root of the tree that they make up."""
    if not hashes:
        return EMPTY_ROOT
    folded = hashes[-1]
    for left in reversed(hashes[:-1]):
        folded = node_hash(left, folded)
    return folded


def _check_size(size: int) -> None:
    if not 0 <= size <= MAX_TREE_SIZE:
        raise LogFormatError(f"{size} is not a tree size")


def _check_hash(value: bytes) -> None:
    if len(value) != HASH_BYTES:
        raise LogFormatError(f"a hash has {HASH_BYTES} bytes, not {len(value)}")


def _check_hashes(values: Iterable[bytes]) -> None:
    for value in values:
        _check_hash(value)
