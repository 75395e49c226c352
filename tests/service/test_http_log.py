"""The log over HTTP: what anybody may have, what auditors may, and that others can verify it."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest
from pymerkle import InmemoryTree  # type: ignore[import-untyped]
from tlog_scales import signing
from tlog_scales.backend import HttpBackend
from tlog_scales.reader import TilesReader

from ledger.service.settings import Settings
from ledger.tlog.checkpoint import Checkpoint, parse_checkpoint
from ledger.tlog.leaf import entry, hash_of, parse_entry
from ledger.tlog.merkle import leaf_hash, root, verify_consistency, verify_inclusion
from ledger.tlog.note import format_vkey, parse_note
from ledger.tlog.proof import Policy, parse_proof, verify_checkpoint, verify_proof
from ledger.tlog.tiles import decode_bundle, decode_tile, new_bundles, new_tiles, tile_path
from tests.service.conftest import Running, SetClock, opened, until

WITHIN_S = 20.0


def record(run: Running, count: int) -> None:
    """Record events and wait until they are signed."""
    for _ in range(count):
        name = f"u{run.service.recorder.position}"
        body = {"subject": {"type": "user", "id": name}, "properties": {"tier": "free"}}
        run.done("PUT", "/v1/subjects", role="officer", json=body)
    assert run.service.signer.wait_for(run.service.recorder.position, WITHIN_S)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service with 300 signed events that the tests of this module share and leave alone."""
    path = tmp_path_factory.mktemp("log") / "ledger.db"
    settings = Settings(database_url=f"sqlite:///{path}", origin="test.ledger")
    with opened(settings, SetClock()) as run:
        record(run, 300 - run.service.recorder.position)
        yield run


def entries(run: Running) -> list[bytes]:
    """Return every event's entry, from its row."""
    with run.service.reading() as (c, head):
        return [entry(row) for row in run.service.log.rows(c, 0, head)]


def newest(run: Running) -> Checkpoint:
    """Return the published checkpoint, verified against the keys that the ledger names."""
    answer = run("GET", "/log/checkpoint")
    assert 200 == answer.status_code, answer.text
    return verify_checkpoint(answer.content, Policy(run.service.ledger.log_keys())).checkpoint


def decoded(hashes: list[str]) -> list[bytes]:
    """Decode the hashes of an answer."""
    return [base64.b64decode(each, validate=True) for each in hashes]


# --- the checkpoint -------------------------------------------------------------------------------


def test_anybody_may_have_the_checkpoint(log: Running) -> None:
    """It is served without a key, as text, for a second; its root is that of all events."""
    answer = log("GET", "/log/checkpoint")
    checkpoint = newest(log)

    assert "text/plain; charset=utf-8" == answer.headers["content-type"]
    assert "public, max-age=1" == answer.headers["cache-control"]
    assert ("test.ledger", 300) == (checkpoint.origin, checkpoint.size)
    assert root(leaf_hash(each) for each in entries(log)) == checkpoint.root


def test_a_checkpoint_comes_soon_after_each_event(running: Running) -> None:
    """What was just recorded is committed to within seconds."""
    record(running, 1)

    assert running.service.recorder.position == newest(running).size


# --- tiles ----------------------------------------------------------------------------------------


def test_every_tile_of_the_checkpoint_is_served(log: Running) -> None:
    """Hash tiles and bundles of the newest size, for auditors, to be kept for ever."""
    held = entries(log)
    leaves = [leaf_hash(each) for each in held]

    for tile in (*new_tiles(0, 300), *new_bundles(0, 300)):
        answer = log("GET", f"/log/{tile_path(tile)}", role="auditor")
        assert 200 == answer.status_code
        assert "application/octet-stream" == answer.headers["content-type"]
        assert "private, max-age=31536000, immutable" == answer.headers["cache-control"]
        start = tile.index * 256
        if tile.level is None:
            expected = tuple(held[start : start + tile.width])
            assert expected == decode_bundle(answer.content, tile.width)
        elif tile.level == 0:
            expected = tuple(leaves[start : start + tile.width])
            assert expected == decode_tile(answer.content, tile.width)
        else:
            assert (root(leaves[:256]),) == decode_tile(answer.content, tile.width)


def test_every_partial_tile_is_served_and_is_a_beginning(log: Running) -> None:
    """A client that holds an older checkpoint gets the tiles of that size."""
    whole = log("GET", "/log/tile/0/000", role="auditor").content

    for width in (1, 44, 255):
        part = log("GET", f"/log/tile/0/000.p/{width}", role="auditor")
        assert whole[: 32 * width] == part.content


@pytest.mark.parametrize(
    "path",
    [
        "0/001",
        "0/001.p/45",
        "0/002",
        "1/000",
        "1/000.p/2",
        "2/000.p/1",
        "entries/001",
        "entries/001.p/45",
        "0/000.p/0",
        "0/000.p/256",
        "0/000.p/044",
        "0/0",
        "00/000",
        "0/x000/000",
        "0/000/",
        "0//000",
        "64/000",
        "-1/000",
        "entries/000.p/",
        "0%2F000",
        "%30/000",
        "0/000%2Ep/7",
        "0/000?",
        "",
        "checkpoint",
    ],
)
def test_what_is_no_tile_of_the_checkpoint_is_not_found(log: Running, path: str) -> None:
    """Neither a tile that does not exist yet nor a second spelling of one is served."""
    answer = log("GET", f"/log/tile/{path}", role="auditor")

    if path == "0/000?":  # an empty query is no other path
        assert 200 == answer.status_code
    else:
        assert 404 == answer.status_code, answer.text


def test_only_what_is_published_is_served(log: Running) -> None:
    """An event that is recorded but not signed is in no tile, however it is asked for."""
    service = log.service
    published = service.signer.published
    try:
        service.signer.published = (299, published[1])
        assert 404 == log("GET", "/log/tile/0/001.p/44", role="auditor").status_code
        assert 404 == log("GET", "/log/tile/entries/001.p/44", role="auditor").status_code
        assert 200 == log("GET", "/log/tile/0/001.p/43", role="auditor").status_code
    finally:
        service.signer.published = published


@pytest.mark.parametrize(
    "path",
    [
        "/log/tile/0/000",
        "/log/tile/entries/000",
        "/v1/log/inclusion?position=1",
        "/v1/log/consistency?from=1",
        "/v1/events/1/proof",
    ],
)
def test_the_record_is_for_auditors(log: Running, path: str) -> None:
    """Tiles and proofs need an auditor's key: entries hold the whole record."""
    assert 401 == log("GET", path).status_code
    for role in log.keys:
        assert (200 if role == "auditor" else 403) == log("GET", path, role=role).status_code


# --- proofs ---------------------------------------------------------------------------------------


def test_inclusion_is_proven(log: Running) -> None:
    """The path leads from an event's leaf to the root, in the newest tree and in an older one."""
    leaves = [leaf_hash(each) for each in entries(log)]

    for position, given in ((1, None), (300, None), (1, 1), (7, 100), (256, 257), (257, 300)):
        asked = f"/v1/log/inclusion?position={position}" + (f"&size={given}" if given else "")
        found = log.done("GET", asked, role="auditor")
        size = given or 300
        assert (position, position - 1, size) == (
            found["position"],
            found["leaf_index"],
            found["size"],
        )
        (leaf, top) = decoded([found["leaf_hash"], found["root"]])
        assert (leaves[position - 1], root(leaves[:size])) == (leaf, top)
        verify_inclusion(leaf, position - 1, size, decoded(found["hashes"]), top)


def test_consistency_is_proven(log: Running) -> None:
    """An earlier tree is shown to be the beginning of the newest, and of another."""
    leaves = [leaf_hash(each) for each in entries(log)]

    for old, given in ((1, None), (300, None), (7, 100), (256, 257), (100, 100)):
        asked = f"/v1/log/consistency?from={old}" + (f"&to={given}" if given else "")
        found = log.done("GET", asked, role="auditor")
        new = given or 300
        assert (old, new) == (found["from"], found["to"])
        before, now = decoded([found["from_root"], found["to_root"]])
        assert (root(leaves[:old]), root(leaves[:new])) == (before, now)
        verify_consistency(old, new, before, now, decoded(found["hashes"]))


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/log/inclusion?position=301", 404, "not_found"),
        ("/v1/log/inclusion?position=8&size=7", 404, "not_found"),
        ("/v1/log/inclusion?position=1&size=301", 422, "invalid_value"),
        ("/v1/log/inclusion?position=0", 422, "invalid_request"),
        ("/v1/log/inclusion", 422, "invalid_request"),
        ("/v1/log/consistency?from=301", 422, "invalid_value"),
        ("/v1/log/consistency?from=8&to=7", 422, "invalid_value"),
        ("/v1/log/consistency?from=1&to=301", 422, "invalid_value"),
        ("/v1/log/consistency?from=0", 422, "invalid_request"),
        ("/v1/events/301/proof", 404, "not_found"),
        ("/v1/events/0/proof", 422, "invalid_request"),
    ],
)
def test_what_cannot_be_proven_is_refused(log: Running, path: str, status: int, code: str) -> None:
    """Positions and sizes beyond the checkpoint have no proof."""
    answer = log("GET", path, role="auditor")

    assert (status, code) == (answer.status_code, answer.json()["code"])


def test_an_event_has_a_proof_file(log: Running) -> None:
    """It verifies offline, from the event's row and the log's public key alone."""
    for position in (1, 256, 300):
        answer = log("GET", f"/v1/events/{position}/proof", role="auditor")
        assert "text/plain; charset=utf-8" == answer.headers["content-type"]
        proof = parse_proof(answer.content)
        leaf = leaf_hash(entries(log)[position - 1])
        verified = verify_proof(proof, leaf, Policy(log.service.ledger.log_keys()))
        assert (position - 1, 300) == (proof.index, verified.checkpoint.size)


def test_a_command_is_followed_at_once_by_its_proof(running: Running) -> None:
    """The answer holds the leaf hash; the proof file waits for the checkpoint that covers it."""
    body = {"subject": {"type": "user", "id": "alice"}, "properties": {}}
    done = running.done("PUT", "/v1/subjects", role="officer", json=body)

    answer = running("GET", f"/v1/events/{done['position']}/proof", role="auditor")

    assert 200 == answer.status_code, answer.text
    leaf = base64.b64decode(done["leaf_hash"], validate=True)
    verify_proof(parse_proof(answer.content), leaf, Policy(running.service.ledger.log_keys()))


def test_an_event_that_is_not_signed_yet_is_to_be_asked_for_again(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 with Retry-After, and so is the checkpoint before the first."""
    monkeypatch.setattr("ledger.service.http.log.PROOF_WAIT_S", 0.01)
    signer = running.service.signer
    until(lambda: signer.published[0] == running.service.recorder.position)
    published, signer.published = signer.published, (0, None)

    for path in ("/v1/events/1/proof", "/log/checkpoint", "/log/tile/0/000"):
        answer = running("GET", path, role="auditor")
        assert (503, "behind") == (answer.status_code, answer.json()["code"])
        assert "1" == answer.headers["retry-after"]
    signer.published = published


# --- others can verify it -------------------------------------------------------------------------


def test_tlog_scales_reads_and_verifies_the_service(log: Running) -> None:
    """A client written by somebody else verifies checkpoint, root, entries and proofs over HTTP."""
    backend = HttpBackend(f"{log.url}/log")
    backend.session.headers["Authorization"] = f"Bearer {log.keys['auditor']}"
    theirs = TilesReader(backend)
    checkpoint = theirs.get_checkpoint()
    (key,) = log.service.ledger.log_keys()

    checkpoint.verify(signing.Vkey.from_string(format_vkey(key.key)))
    assert checkpoint.root_hash == theirs.calculate_root_hash()
    for index in (0, 77, 255, 256, 299):
        found = theirs.get_entry(index)
        theirs.get_inclusion_proof(index, 300).check(leaf_hash(found), checkpoint.root_hash)
        row = parse_entry(found)
        shown = log.done("GET", f"/v1/events/{index + 1}", role="auditor")
        assert (shown["position"], shown["stream"], shown["type"]) == (
            row.position,
            row.stream,
            row.type,
        )
        assert leaf_hash(found) == hash_of(row)
    grown = theirs.get_consistency_proof(100, 300)
    answered = log.done("GET", "/v1/log/consistency?from=100&to=300", role="auditor")
    assert list(grown.node_hashes) == decoded(answered["hashes"])


def test_pymerkle_computes_the_same_root(log: Running) -> None:
    """A Merkle library written by somebody else agrees, over the entries that are served."""
    tree = InmemoryTree(algorithm="sha256")
    for tile in new_bundles(0, 300):
        answer = log("GET", f"/log/{tile_path(tile)}", role="auditor")
        for each in decode_bundle(answer.content):
            tree.append_entry(each)

    text = parse_note(log("GET", "/log/checkpoint").content).text
    assert tree.get_root() == parse_checkpoint(text).root
