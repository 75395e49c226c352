"""The tree: every proof of every small tree, against the definitions of RFC 6962 themselves."""

from __future__ import annotations

import contextlib
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymerkle import InmemoryTree  # type: ignore[import-untyped]

from ledger.tlog.merkle import (
    EMPTY_ROOT,
    MAX_PROOF_HASHES,
    MAX_TREE_SIZE,
    Frontier,
    HashAt,
    LogError,
    LogFormatError,
    ProofInvalid,
    consistency_proof,
    frontier_at,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root,
    root_at,
    verify_consistency,
    verify_inclusion,
)

SIZE = 300
LEAVES = [leaf_hash(str(index).encode()) for index in range(SIZE)]


@cache
def tree_hash(start: int, end: int) -> bytes:
    """MTH(D[start:end]), as RFC 6962 section 2.1 defines it."""
    if end - start <= 1:
        return LEAVES[start] if end > start else EMPTY_ROOT
    middle = start + split(end - start)
    return node_hash(tree_hash(start, middle), tree_hash(middle, end))


@cache
def path(index: int, start: int, end: int) -> tuple[bytes, ...]:
    """PATH(m, D[start:end]), as RFC 6962 section 2.1.1 defines it, with m counted from 0."""
    if end - start == 1:
        return ()
    middle = start + split(end - start)
    if index < middle:
        return (*path(index, start, middle), tree_hash(middle, end))
    return (*path(index, middle, end), tree_hash(start, middle))


@cache
def subproof(old: int, start: int, end: int, *, whole: bool) -> tuple[bytes, ...]:
    """SUBPROOF(m, D[start:end], b), as RFC 6962 section 2.1.2 defines it, with m from 0."""
    if old == end:
        return () if whole else (tree_hash(start, end),)
    middle = start + split(end - start)
    if old <= middle:
        return (*subproof(old, start, middle, whole=whole), tree_hash(middle, end))
    return (*subproof(old, middle, end, whole=False), tree_hash(start, middle))


def split(width: int) -> int:
    """Find the largest power of two below width."""
    power = 1
    while power * 2 < width:
        power *= 2
    return power


def hash_at(level: int, index: int) -> bytes:
    """Read the test tree; a subtree that is not complete is never asked for."""
    assert (index + 1) << level <= SIZE
    return tree_hash(index << level, (index + 1) << level)


def counting(reads: list[tuple[int, int]]) -> HashAt:
    """Make a reader that notes what it was asked for."""

    def read(level: int, index: int) -> bytes:
        reads.append((level, index))
        return hash_at(level, index)

    return read


def flipped(value: bytes, bit: int) -> bytes:
    """Flip one of 256 bits."""
    return (int.from_bytes(value, "big") ^ (1 << bit)).to_bytes(len(value), "big")


def mutations(proof: tuple[bytes, ...], bit: int) -> list[tuple[bytes, ...]]:
    """Change a proof in every simple way: a bit, a hash fewer, a hash more, two swapped."""
    changed = []
    for at, value in enumerate(proof):
        changed += [
            (*proof[:at], flipped(value, bit), *proof[at + 1 :]),
            (*proof[:at], *proof[at + 1 :]),
            (*proof[:at], value, *proof[at:]),
        ]
        if at and proof[at - 1] != value:
            changed.append((*proof[: at - 1], value, proof[at - 1], *proof[at + 1 :]))
    return [*changed, (*proof, flipped(EMPTY_ROOT, bit))]


def test_every_leaf_of_every_tree_up_to_300_has_its_proof() -> None:
    """For all n ≤ 300 and every leaf, the proof is the RFC's, verifies, and took few reads."""
    for size in range(1, SIZE + 1):
        expected_root = tree_hash(0, size)
        for index in range(size):
            reads: list[tuple[int, int]] = []
            proof = inclusion_proof(index, size, counting(reads))
            assert path(index, 0, size) == proof
            assert len(reads) <= 2 * size.bit_length()
            verify_inclusion(LEAVES[index], index, size, proof, expected_root)


def test_every_tree_up_to_300_is_proven_to_begin_every_larger_one() -> None:
    """For all m ≤ n ≤ 300, the proof is the RFC's, verifies, and took few reads."""
    for new in range(SIZE + 1):
        for old in range(new + 1):
            reads: list[tuple[int, int]] = []
            proof = consistency_proof(old, new, counting(reads))
            assert (subproof(old, 0, new, whole=True) if old else ()) == proof
            assert len(reads) <= 2 * new.bit_length()
            verify_consistency(old, new, tree_hash(0, old), tree_hash(0, new), proof)


def test_a_frontier_knows_the_root_of_every_size() -> None:
    """Appending, extending and reading back give the same frontier, with the RFC's root."""
    frontier = Frontier()
    for size in range(SIZE + 1):
        assert tree_hash(0, size) == frontier.root()
        assert tree_hash(0, size) == root(LEAVES[:size])
        assert tree_hash(0, size) == root_at(size, hash_at)
        assert frontier == frontier_at(size, hash_at)
        assert frontier == Frontier().extend(LEAVES[:size])
        assert frontier_at(SIZE, hash_at) == frontier.extend(LEAVES[size:])
        if size < SIZE:
            frontier = frontier.append(LEAVES[size])


def test_a_leaf_completes_exactly_the_subtrees_that_end_with_it() -> None:
    """What `completes` lists over time is every complete subtree of the tree, once."""
    stored = {}
    for size in range(SIZE):
        for level, value in enumerate(frontier_at(size, hash_at).completes(LEAVES[size])):
            assert (level, size >> level) not in stored
            stored[level, size >> level] = value

    expected = {
        (level, index): hash_at(level, index)
        for level in range(SIZE.bit_length())
        for index in range(SIZE >> level)
    }
    assert expected == stored


def test_pymerkle_computes_the_same_roots() -> None:
    """An independent implementation agrees on the root of every size."""
    tree = InmemoryTree(algorithm="sha256")
    for index in range(SIZE):
        tree.append_entry(str(index).encode())

    for size in range(SIZE + 1):
        assert tree.get_root(size) == tree_hash(0, size)


def test_the_largest_tree_has_proofs_of_at_most_63_hashes() -> None:
    """Up to a size of 2**62 no proof is longer, and up to 2**63 - 1 they still verify."""
    same = leaf_hash(b"the same in every leaf")
    by_level = [same]
    for _ in range(63):
        by_level.append(node_hash(by_level[-1], by_level[-1]))

    def read(level: int, _: int) -> bytes:
        return by_level[level]

    for size in (MAX_TREE_SIZE, 2**62, 2**62 - 1):
        tree_root = root_at(size, read)
        for index in (0, 1, size // 2 + 1, size - 1):
            proof = inclusion_proof(index, size, read)
            verify_inclusion(same, index, size, proof, tree_root)
            grown = consistency_proof(index, size, read)
            assert size > 2**62 or max(len(proof), len(grown)) <= MAX_PROOF_HASHES
            verify_consistency(index, size, root_at(index, read), tree_root, grown)


@given(st.data(), st.integers(1, SIZE), st.integers(0, 255))
def test_a_mutated_inclusion_proof_never_verifies(data: st.DataObject, size: int, bit: int) -> None:
    """A changed proof, leaf, root or index is refused."""
    index = data.draw(st.integers(0, size - 1))
    proof, tree_root, leaf = path(index, 0, size), tree_hash(0, size), LEAVES[index]

    for changed in mutations(proof, bit):
        with pytest.raises(ProofInvalid):
            verify_inclusion(leaf, index, size, changed, tree_root)
    for other in range(size + 1):
        if other != index:
            with pytest.raises(ProofInvalid):
                verify_inclusion(leaf, other, size, proof, tree_root)
    with pytest.raises(ProofInvalid):
        verify_inclusion(flipped(leaf, bit), index, size, proof, tree_root)
    with pytest.raises(ProofInvalid):
        verify_inclusion(leaf, index, size, proof, flipped(tree_root, bit))


@given(st.data(), st.integers(0, SIZE), st.integers(0, 255))
def test_a_mutated_consistency_proof_never_verifies(
    data: st.DataObject, new: int, bit: int
) -> None:
    """A changed proof or root is refused, and so is a tree that shrank."""
    old = data.draw(st.integers(0, new))
    proof = consistency_proof(old, new, hash_at)
    old_root, new_root = tree_hash(0, old), tree_hash(0, new)

    for changed in mutations(proof, bit):
        with pytest.raises(ProofInvalid):
            verify_consistency(old, new, old_root, new_root, changed)
    with pytest.raises(ProofInvalid):
        verify_consistency(old, new, flipped(old_root, bit), new_root, proof)
    if old:
        with pytest.raises(ProofInvalid):
            verify_consistency(old, new, old_root, flipped(new_root, bit), proof)
    with pytest.raises(ProofInvalid, match="shrank"):
        verify_consistency(new + 1, old, tree_hash(0, new), old_root, proof)


@pytest.mark.parametrize(
    ("index", "size", "of"), [(3, 4, (7, 8)), (7, 100, (7, 8)), (0, 1, (1, 2))]
)
def test_an_inclusion_proof_fits_no_tree_of_another_height(
    index: int, size: int, of: tuple[int, int]
) -> None:
    """A genuine proof, with its genuine root, does not pass for one of a higher or lower tree."""
    proof, tree_root = path(of[0], 0, of[1]), tree_hash(0, of[1])

    with pytest.raises(ProofInvalid, match="too"):
        verify_inclusion(LEAVES[of[0]], index, size, proof, tree_root)


@pytest.mark.parametrize(("old", "new", "of"), [(3, 4, (7, 8)), (4, 100, (4, 7))])
def test_a_consistency_proof_fits_no_tree_of_another_height(
    old: int, new: int, of: tuple[int, int]
) -> None:
    """A genuine proof, with its genuine roots, does not pass for one of higher or lower trees."""
    proof = consistency_proof(*of, hash_at)
    old_root, new_root = tree_hash(0, of[0]), tree_hash(0, of[1])

    verify_consistency(*of, old_root, new_root, proof)
    with pytest.raises(ProofInvalid, match="too"):
        verify_consistency(old, new, old_root, new_root, proof)


def test_a_proof_does_not_by_itself_tell_the_size() -> None:
    """Trees of one shape share their proofs: the size is known only from what was signed.

    This is a property of RFC 6962, and why sizes are to be taken from checkpoints.
    """
    verify_inclusion(LEAVES[0], 0, 7, path(0, 0, 8), tree_hash(0, 8))
    proof = consistency_proof(4, 7, hash_at)
    verify_consistency(2, 3, tree_hash(0, 4), tree_hash(0, 7), proof)


def test_every_fork_is_refused_by_every_proof_of_the_honest_log() -> None:
    """A tree in which one old leaf was changed is not the beginning of the honest tree."""
    for old in range(1, 40):
        forked = root([*LEAVES[: old - 1], leaf_hash(b"changed")])
        for new in range(old, 40):
            proof = consistency_proof(old, new, hash_at)
            with pytest.raises(ProofInvalid):
                verify_consistency(old, new, forked, tree_hash(0, new), proof)


@given(
    st.lists(st.binary(max_size=33) | st.just(EMPTY_ROOT), max_size=5),
    st.integers(-2, 2**64),
    st.integers(-2, 2**64),
)
def test_malformed_proofs_raise_our_errors_only(proof: list[bytes], one: int, two: int) -> None:
    """Whatever sizes and hashes come in, verifying raises a LogError or nothing."""
    for check in (
        lambda: verify_inclusion(EMPTY_ROOT, one, two, proof, EMPTY_ROOT),
        lambda: verify_consistency(one, two, EMPTY_ROOT, EMPTY_ROOT, proof),
        lambda: root(proof),
        lambda: Frontier(one, tuple(proof)),
    ):
        with contextlib.suppress(LogError):
            check()


@pytest.mark.parametrize(("index", "size"), [(0, 0), (7, 7), (-1, 7), (0, -1), (0, 2**63)])
def test_there_is_no_proof_of_a_leaf_outside_the_tree(index: int, size: int) -> None:
    """Asking for a leaf that the tree has not is refused."""
    with pytest.raises(LogFormatError):
        inclusion_proof(index, size, hash_at)


@pytest.mark.parametrize(("old", "new"), [(8, 7), (-1, 7), (0, -1), (0, 2**63)])
def test_there_is_no_proof_between_impossible_sizes(old: int, new: int) -> None:
    """Asking for a proof that a tree shrank is refused."""
    with pytest.raises(LogFormatError):
        consistency_proof(old, new, hash_at)


def test_a_frontier_with_too_few_hashes_is_refused() -> None:
    """A frontier that was stored wrongly is found when it is loaded."""
    with pytest.raises(LogFormatError):
        Frontier(3, (EMPTY_ROOT,))
