"""Others read what we write: tlog-scales, written by somebody else, works against our tiles."""

from __future__ import annotations

from pathlib import Path

import pytest
from tlog_scales import cli, signing, tlog
from tlog_scales.backend import LocalBackend
from tlog_scales.reader import TilesReader

from ledger.tlog.checkpoint import Checkpoint, LogKey, format_checkpoint, parse_checkpoint
from ledger.tlog.merkle import consistency_proof, inclusion_proof, leaf_hash, root
from ledger.tlog.note import (
    KeyType,
    Note,
    Signer,
    cosign,
    format_note,
    format_vkey,
    parse_note,
    sign,
)
from ledger.tlog.proof import Policy, parse_proof, verify_proof
from ledger.tlog.tiles import (
    encode_bundle,
    hash_reader,
    new_bundles,
    new_tiles,
    tile_bytes,
    tile_path,
)

LOG = Signer("ledger.example/log1", bytes(range(32)))
WITNESS = Signer("witness.example/w1", bytes(range(32, 64)), KeyType.COSIGNATURE)
SIZES = (1, 7, 256, 300, 1000, 66000)


def publish(folder: Path, size: int) -> list[bytes]:
    """Write a whole log of this size to a folder, as it is served; return its entries."""
    entries = [f"entry-{index}".encode() for index in range(size)]
    leaves = [leaf_hash(entry) for entry in entries]
    files = {
        tile_path(tile): tile_bytes(
            tile, lambda level, index: root(leaves[index << level : (index + 1) << level])
        )
        for tile in new_tiles(0, size)
    }
    for tile in new_bundles(0, size):
        start = tile.index * 256
        files[tile_path(tile)] = encode_bundle(entries[start : start + tile.width])
    text = format_checkpoint(Checkpoint("ledger.example/log1", size, root(leaves)))
    note = Note(text, (sign(text, LOG), cosign(text, WITNESS, 1767225600)))
    files["checkpoint"] = format_note(note)
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return entries


@pytest.mark.parametrize("size", SIZES)
def test_tlog_scales_reads_and_verifies_our_tiles(tmp_path: Path, size: int) -> None:
    """It verifies both signatures, the root, and entries with their proofs; its proofs are ours."""
    entries = publish(tmp_path, size)
    theirs = TilesReader(LocalBackend(tmp_path))
    checkpoint = theirs.get_checkpoint()
    ours = hash_reader(size, lambda tile: (tmp_path / tile_path(tile)).read_bytes())

    for signer in (LOG, WITNESS):
        checkpoint.verify(signing.Vkey.from_string(format_vkey(signer.verifier_key)))
    assert checkpoint.root_hash == theirs.calculate_root_hash()
    for index in {0, size // 2, size - 1}:
        proof = theirs.get_inclusion_proof(index, size)
        proof.check(leaf_hash(theirs.get_entry(index)), checkpoint.root_hash)
        assert entries[index] == theirs.get_entry(index)
        assert tuple(proof.node_hashes) == inclusion_proof(index, size, ours)
        grown = theirs.get_consistency_proof(index + 1, size)
        assert tuple(grown.node_hashes) == consistency_proof(index + 1, size, ours)


def test_a_proof_file_by_tlog_scales_verifies_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its command line makes a tlog-proof from our tiles, and our verifier accepts it."""
    entries = publish(tmp_path, 300)
    monkeypatch.setattr("sys.argv", ["tlog-tiles", "gen-proof", str(tmp_path), "123"])
    cli.main()
    policy = Policy((LogKey(LOG.verifier_key),), (WITNESS.verifier_key,), quorum=1)
    proof = parse_proof(capsys.readouterr().out.encode())

    assert proof.index == 123
    verify_proof(proof, leaf_hash(entries[123]), policy)


def test_a_checkpoint_by_tlog_scales_is_read_here() -> None:
    """What it signs, with the same key, is byte for byte what we sign."""
    signer = signing.PlainEd25519Signer(LOG.name, LOG.seed)
    theirs = tlog.Checkpoint.make_signed(LOG.name, 7, bytes(32), [signer]).serialize().encode()
    checkpoint = Checkpoint(LOG.name, 7, bytes(32))
    text = format_checkpoint(checkpoint)

    assert theirs == format_note(Note(text, (sign(text, LOG),)))
    assert checkpoint == parse_checkpoint(parse_note(theirs).text)
