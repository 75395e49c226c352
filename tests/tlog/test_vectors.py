"""The reference vectors: leaves `entry-0`.., log key seed 00..1f, witness key seed 20..3f.

They were cross-checked with Go's sumdb/note and sumdb/tlog and with several Python implementations,
so that what agrees here agrees with them.
"""

from __future__ import annotations

import base64
import hashlib

import pytest

from ledger.tlog.checkpoint import Checkpoint, LogKey, format_checkpoint, parse_checkpoint
from ledger.tlog.merkle import (
    EMPTY_ROOT,
    ProofInvalid,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root,
    verify_consistency,
    verify_inclusion,
)
from ledger.tlog.note import (
    KeyType,
    Note,
    Signer,
    cosign,
    format_note,
    format_signatures,
    format_signer,
    format_vkey,
    parse_note,
    parse_signer,
    parse_vkey,
    sign,
    verify_note,
    with_signatures,
)
from ledger.tlog.proof import Policy, TlogProof, format_proof, parse_proof, verify_proof
from ledger.tlog.tiles import (
    Tile,
    decode_bundle,
    encode_bundle,
    new_tiles,
    parse_tile_path,
    tile_bytes,
    tile_path,
)
from ledger.tlog.witness_protocol import (
    Accepted,
    AddCheckpoint,
    Refused,
    WitnessState,
    decide,
    format_add_checkpoint,
    format_latest_size,
    origin_hash,
    parse_add_checkpoint,
    parse_cosignatures,
)

LOG = Signer("ledger.example/log1", bytes(range(32)))
WITNESS = Signer("witness.example/w1", bytes(range(32, 64)), KeyType.COSIGNATURE)
LOG_VKEY = "ledger.example/log1+7d41893d+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"
LOG_SKEY = "PRIVATE+KEY+ledger.example/log1+7d41893d+AQABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
WITNESS_VKEY = "witness.example/w1+20324abe+BCmsuuFBvMrwsi4alNNNC8c2HlJtC/4SyJeUvJMilm3X"

ROOTS = {
    0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    1: "40766b2033429026f53d54502679a839706b4741f8dcaf3a8bba5f41b5ffe075",
    2: "2f27a5082c1d42afa488ac350a9fc4390c084f54f71ecdff859e98db8429b479",
    3: "a64bf26e09128f6fe2fe6f8b2d8c801e166b57c047a7cd9b2b809e7a96a2f1cb",
    4: "256b9e8825e5d370a4ae005d0901ea291977e2927f5cf8e3e72660dd09519edb",
    5: "1aa68d3074905a581f84cbbd0f753794904fd80451bc4c13e69d9a53bc59502c",
    6: "08783a523d260480de2ccf0976d7411ed8adaf06f75d5a5de2254c58f968eca9",
    7: "9139601cc1ca8ab2a7a0c2c134c04845f2b1ba549a83d6c845cfcda439cc585d",
    8: "dfcc13b9b0ca932c68de3d59eaaa8fe266a9c8091c0300e8405ebfeb0d0e5832",
    300: "aebb027d5c3dd08871ee52577a61fc83122d0d14352791943639bd4c12d36943",
}
INCLUSION = {
    (5, 7): (
        "GUu1otW9EOXRqm/V1CmAs1bK8dpiPNmYfEv6L4F3Htc=",
        "DP2ldv9LKeozw6/a7tG9Y362VLKKBDAvyrX9fbB4Acw=",
        "JWueiCXl03CkrgBdCQHqKRl34pJ/XPjj5yZg3QlRnts=",
    ),
    (6, 7): (
        "ShNqcAh7Y340w9Paps6naLHbE+xHWQLS4kC2Dj2ZnHo=",
        "JWueiCXl03CkrgBdCQHqKRl34pJ/XPjj5yZg3QlRnts=",
    ),
}
CONSISTENCY = {
    (3, 7): (
        "BJ19zbVrz+vTEzBMmDnxlqPUtu873AsIKY+TrIGR8Kg=",
        "J0ebarMh0u5HdFL2i6UndI6GPK/o+9HfK/idFXDRtpc=",
        "LyelCCwdQq+kiKw1Cp/EOQwIT1T3Hs3/hZ6Y24QptHk=",
        "5CnFtcyqlSPDcpfxhGdm+QMTfoIZXFGZ5r5XEw0QBsg=",
    ),
    (4, 7): ("5CnFtcyqlSPDcpfxhGdm+QMTfoIZXFGZ5r5XEw0QBsg=",),
    (6, 8): (
        "ShNqcAh7Y340w9Paps6naLHbE+xHWQLS4kC2Dj2ZnHo=",
        "1EgFk1RgUwW/k2qmoOTHCTIclg4rpskhuYuaFlMZy+I=",
        "JWueiCXl03CkrgBdCQHqKRl34pJ/XPjj5yZg3QlRnts=",
    ),
}
NOTE_1 = (
    "Quarterly attestation: no open violations.\n"
    "\n"
    "— ledger.example/log1 fUGJPTV1YWG/RwURAMcZomFGCJ+vEHTbcTQT0iWMTuGhh+W2n7Uvy9Mb4cP5Kml1"
    "pokoXhDkqa12+aSpRJ6kiEevPAM=\n"
)
CHECKPOINT_0 = (
    "ledger.example/log1\n"
    "0\n"
    "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"
    "\n"
    "— ledger.example/log1 fUGJPYkEOc3tgaXaZ/JiAWNjkx6SD5Fhk5VUVemlfPtZqGIcDB0+1yWoi0MFZWf4"
    "rJ94vCjFagJjLyX6B7GIZUXwvAw=\n"
)
CHECKPOINT_7 = (
    "ledger.example/log1\n"
    "7\n"
    "kTlgHMHKirKnoMLBNMBIRfKxulSag9bIRc/NpDnMWF0=\n"
    "\n"
    "— ledger.example/log1 fUGJPVxGrlMvgUFy3zE6F9cnDVCor5oJH9m7o0QoUddassch6Mn9DoJ5JmcA+Vw/"
    "dl4cV4UDE+WcQfATIzHaAWTwmg8=\n"
)
COSIGNATURE_7 = (
    "— witness.example/w1 IDJKvgAAAABpVbkAhvGI/Mj9kYtVhmHwI1ukuHOg2gfI1APFDz8uq3sHOZeqdekzhjDh"
    "lqMsTlR3l5kzEHnIHbyIJNMsLY3M4uqIDA==\n"
)
CHECKPOINT_8 = (
    "ledger.example/log1\n"
    "8\n"
    "38wTubDKkyxo3j1Z6qqP4mapyAkcAwDoQF6/6w0OWDI=\n"
    "\n"
    "— ledger.example/log1 fUGJPVpGOl/RRHFKh2RCcvLkOd/kttzGRIKq8tnUyTXTIoIZKZClq7nuGKWD59Bq"
    "9Rad8OrCJsPauw17RFkCthbviAw=\n"
)
COSIGNATURE_8 = (
    "— witness.example/w1 IDJKvgAAAABpVbk8IuMiRR0cp5iLU9Z1yP09m+9XU6Dbod4owFUyCfFBYRpSQG+dQIZR"
    "PETPez53A3A3726XjNYNXnnwJUPpPyEiCA==\n"
)
COSIGNED_AT_7 = 1767225600
COSIGNED_AT_8 = 1767225660
SIGNED = {0: CHECKPOINT_0, 7: CHECKPOINT_7, 8: CHECKPOINT_8}
COSIGNED = {7: (COSIGNATURE_7, COSIGNED_AT_7), 8: (COSIGNATURE_8, COSIGNED_AT_8)}
POLICY = Policy((LogKey(LOG.verifier_key),), (WITNESS.verifier_key,), quorum=1)


def entries(size: int) -> list[bytes]:
    """List the entries of the reference tree."""
    return [f"entry-{index}".encode() for index in range(size)]


def leaves(size: int) -> list[bytes]:
    """List their leaf hashes."""
    return [leaf_hash(entry) for entry in entries(size)]


def hash_at(level: int, index: int) -> bytes:
    """Read the reference tree of 300."""
    return root(leaves(300)[index << level : (index + 1) << level])


def decoded(hashes: tuple[str, ...]) -> tuple[bytes, ...]:
    """Decode what the vectors write in base64."""
    return tuple(base64.b64decode(each) for each in hashes)


def witness_request() -> bytes:
    """Write the witness vector: `old 3`, the proof from 3 to 7, checkpoint 7."""
    lines = "".join(f"{each}\n" for each in CONSISTENCY[3, 7])
    return f"old 3\n{lines}\n{CHECKPOINT_7}{COSIGNATURE_7}".encode()


@pytest.mark.parametrize(("size", "expected"), ROOTS.items())
def test_roots_are_those_of_the_reference(size: int, expected: str) -> None:
    """The root of every listed size is the listed one."""
    assert expected == root(leaves(size)).hex()


def test_the_certificate_transparency_leaves_give_their_known_root() -> None:
    """The eight leaves of the CT reference implementation hash as they do there."""
    ct = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657"]
    ct.append("606162636465666768696a6b6c6d6e6f")
    expected = "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"

    assert expected == root(leaf_hash(bytes.fromhex(each)) for each in ct).hex()


def test_an_event_as_canonical_json_has_the_known_leaf_hash() -> None:
    """The event leaf of the reference hashes as listed."""
    event = (
        b'{"data":{"model":"m-large","policy":"P-7","until":"2026-03-01T00:00:00Z"},'
        b'"id":"evt-000000000042","subject":"acct:9f2c","time":"2026-01-01T00:00:00Z",'
        b'"type":"access.suspended"}'
    )

    assert len(event) == 176
    expected = "8d761a953e94251ddf1a63d3bc3e594c33239e54b1c12ae2a4ee2a29bb0b05ae"
    assert expected == leaf_hash(event).hex()


@pytest.mark.parametrize(("where", "expected"), INCLUSION.items())
def test_inclusion_proofs_are_those_of_the_reference(
    where: tuple[int, int], expected: tuple[str, ...]
) -> None:
    """The listed inclusion proofs are made, and verify."""
    index, size = where
    proof = inclusion_proof(index, size, hash_at)

    assert decoded(expected) == proof
    verify_inclusion(leaves(8)[index], index, size, proof, bytes.fromhex(ROOTS[size]))


@pytest.mark.parametrize(("where", "expected"), CONSISTENCY.items())
def test_consistency_proofs_are_those_of_the_reference(
    where: tuple[int, int], expected: tuple[str, ...]
) -> None:
    """The listed consistency proofs are made, and verify."""
    old, new = where
    proof = consistency_proof(old, new, hash_at)

    assert decoded(expected) == proof
    verify_consistency(old, new, bytes.fromhex(ROOTS[old]), bytes.fromhex(ROOTS[new]), proof)


def test_tiles_are_those_of_the_reference() -> None:
    """Tile names and contents for the sizes 7, 256, 300 and 70000 are the listed ones."""
    first_of_level_1 = "f85f4ead34080710b4d1e808301543aaab81aa04deb88599350dc26a4f2f58de"
    tile_of_7 = "e99f493b599ba703533533aef52f8c7d065829a1ab763aac3f97a11854400cc9"

    assert first_of_level_1 == tile_bytes(Tile(1, 0, 1), hash_at).hex()
    assert tile_of_7 == hashlib.sha256(tile_bytes(Tile(0, 0, 7), hash_at)).hexdigest()
    assert [tile_path(tile) for tile in new_tiles(0, 7)] == ["tile/0/000.p/7"]
    assert [tile_path(tile) for tile in new_tiles(0, 256)] == ["tile/0/000", "tile/1/000.p/1"]
    of_70000 = [tile_path(tile) for tile in new_tiles(0, 70000)]
    assert len(of_70000) == 273 + 1 + 1 + 1 + 1
    assert of_70000[272:] == [
        "tile/0/272",
        "tile/0/273.p/112",
        "tile/1/000",
        "tile/1/001.p/17",
        "tile/2/000.p/1",
    ]


@pytest.mark.parametrize(
    ("index", "expected"),
    [(5, "tile/0/005"), (1000, "tile/0/x001/000"), (1234067, "tile/0/x001/x234/067")],
)
def test_tile_indexes_are_written_in_groups_of_three(index: int, expected: str) -> None:
    """The listed tile indexes are written and read as listed."""
    assert expected == tile_path(Tile(0, index))
    assert Tile(0, index) == parse_tile_path(expected)


def test_the_entry_bundle_is_that_of_the_reference() -> None:
    """The bundle of the first three entries has the listed bytes."""
    data = bytes.fromhex("0007656e7472792d300007656e7472792d310007656e7472792d32")

    assert data == encode_bundle(entries(3))
    assert tuple(entries(3)) == decode_bundle(data)


def test_keys_are_those_of_the_reference() -> None:
    """Public keys, key IDs, vkeys and Go's signer key are the listed ones, both ways."""
    public_key = "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
    witness_key = "29acbae141bccaf0b22e1a94d34d0bc7361e526d0bfe12c89794bc9322966dd7"

    assert public_key == LOG.verifier_key.public_key.hex()
    assert LOG.verifier_key.key_id.hex() == "7d41893d"
    assert witness_key == WITNESS.verifier_key.public_key.hex()
    assert WITNESS.verifier_key.key_id.hex() == "20324abe"
    assert LOG_VKEY == format_vkey(LOG.verifier_key)
    assert LOG.verifier_key == parse_vkey(LOG_VKEY)
    assert WITNESS_VKEY == format_vkey(WITNESS.verifier_key)
    assert WITNESS.verifier_key == parse_vkey(WITNESS_VKEY)
    assert LOG_SKEY == format_signer(LOG)
    assert LOG == parse_signer(LOG_SKEY)


def test_the_plain_note_is_that_of_the_reference() -> None:
    """Signing the listed text gives the listed note, and it verifies."""
    text = "Quarterly attestation: no open violations.\n"

    assert NOTE_1.encode() == format_note(Note(text, (sign(text, LOG),)))
    assert [LOG.verifier_key] == [
        each.key for each in verify_note(parse_note(NOTE_1.encode()), [LOG.verifier_key])
    ]


@pytest.mark.parametrize(("size", "expected"), SIGNED.items())
def test_signed_checkpoints_are_those_of_the_reference(size: int, expected: str) -> None:
    """Signing the tree of the listed sizes gives the listed notes, and they parse back."""
    checkpoint = Checkpoint("ledger.example/log1", size, bytes.fromhex(ROOTS[size]))
    text = format_checkpoint(checkpoint)

    assert expected.encode() == format_note(Note(text, (sign(text, LOG),)))
    assert checkpoint == parse_checkpoint(parse_note(expected.encode()).text)


@pytest.mark.parametrize(("size", "expected"), COSIGNED.items())
def test_cosignatures_are_those_of_the_reference(size: int, expected: tuple[str, int]) -> None:
    """Cosigning the listed checkpoints at the listed times gives the listed lines."""
    line, signed_at_s = expected
    note = parse_note(SIGNED[size].encode())
    cosigned = with_signatures(note, [cosign(note.text, WITNESS, signed_at_s)])

    assert line == format_signatures([cosign(note.text, WITNESS, signed_at_s)])
    assert (SIGNED[size] + line).encode() == format_note(cosigned)
    by_log, by_witness = verify_note(cosigned, [LOG.verifier_key, WITNESS.verifier_key])
    assert by_log.signed_at_s is None
    assert signed_at_s == by_witness.signed_at_s


def test_the_note_of_the_signed_note_specification_verifies() -> None:
    """C2SP's own example, made by somebody else's key, verifies."""
    vkey = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
    note = (
        "This is an example message.\n\n— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi"
        "2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
    )

    assert len(verify_note(parse_note(note.encode()), [parse_vkey(vkey)])) == 1


@pytest.mark.parametrize("index", [5, 6])
def test_proof_files_are_those_of_the_reference(index: int) -> None:
    """The listed proof files are made, read, and verify under a quorum of one witness."""
    lines = "".join(f"{each}\n" for each in INCLUSION[index, 7])
    signed = CHECKPOINT_7 + COSIGNATURE_7
    data = f"c2sp.org/tlog-proof@v1\nindex {index}\n{lines}\n{signed}".encode()
    proof = TlogProof(index, inclusion_proof(index, 7, hash_at), signed.encode())

    assert data == format_proof(proof)
    assert proof == parse_proof(data)
    verified = verify_proof(proof, leaves(8)[index], POLICY)
    assert verified.checkpoint.size == 7
    assert [COSIGNED_AT_7] == [each.signed_at_s for each in verified.cosigners]


def test_the_witness_answers_as_in_the_reference() -> None:
    """The listed request is accepted, then stale; its variants get the listed statuses."""
    request = parse_add_checkpoint(witness_request())
    log_keys = [LogKey(LOG.verifier_key)]
    at_3 = WitnessState(3, bytes.fromhex(ROOTS[3]))
    at_7 = WitnessState(7, bytes.fromhex(ROOTS[7]))
    after_7 = AddCheckpoint(9, (), request.note)
    unproven = AddCheckpoint(3, request.proof[1:], request.note)

    assert witness_request() == format_add_checkpoint(request)
    assert Accepted(at_7) == decide(request, log_keys, at_3)
    stale = decide(request, log_keys, at_7)
    assert isinstance(stale, Refused)
    assert (stale.status, stale.latest_size) == (409, 7)
    assert format_latest_size(7) == b"7\n"
    statuses = [
        refused.status
        for refused in (
            decide(after_7, log_keys, at_3),
            decide(unproven, log_keys, at_3),
            decide(request, [], at_3),
        )
        if isinstance(refused, Refused)
    ]
    assert statuses == [400, 422, 404]


def test_the_log_reads_the_witness_answer_of_the_reference() -> None:
    """The listed cosignature line, as an answer to the log, verifies on checkpoint 7 and not 8."""
    witnesses = [WITNESS.verifier_key]
    text_of_7 = parse_note(CHECKPOINT_7.encode()).text
    text_of_8 = parse_note(CHECKPOINT_8.encode()).text

    (cosignature,) = parse_cosignatures(COSIGNATURE_7.encode(), text_of_7, witnesses)
    assert cosignature.signed_at_s == COSIGNED_AT_7
    with pytest.raises(ProofInvalid):
        parse_cosignatures(COSIGNATURE_7.encode(), text_of_8, witnesses)


def test_the_origin_hash_is_that_of_the_reference() -> None:
    """The name of the log in monitoring paths is the listed one."""
    expected = "5be92bef3f42d5bcd9e2649883a59da25fe073e6e9f4e75607dd36f54d6f94d5"

    assert expected == origin_hash("ledger.example/log1")


def test_the_empty_tree_begins_every_tree() -> None:
    """Size 0 is consistent with every size, by an empty proof, and with itself."""
    for size, expected in ROOTS.items():
        assert consistency_proof(0, size, hash_at) == ()
        verify_consistency(0, size, EMPTY_ROOT, bytes.fromhex(expected), ())
