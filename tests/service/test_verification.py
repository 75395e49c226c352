"""Verifying from outside: a service over HTTP, an archive offline, evidence of two histories."""

from __future__ import annotations

import io
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random

import orjson
import pytest

from ledger.domain.errors import InvalidValue
from ledger.service import bundle as bundles
from ledger.service import keyfile
from ledger.service.backup import back_up
from ledger.service.bundle import Bundle, Contents, parse_keys, write_bundle
from ledger.service.settings import sqlite_path
from ledger.service.verification import (
    Report,
    Trusted,
    verify_bundle,
    verify_evidence,
    verify_service,
)
from ledger.service.wiring import Service
from ledger.tlog.checkpoint import LogKey, parse_checkpoint
from ledger.tlog.merkle import LogFormatError
from ledger.tlog.note import Signer, VerifierKey, parse_note
from ledger.tlog.tiles import Tile, new_bundles, new_tiles, tile_path
from ledger.tlog.verify import Kind
from tests.service.conftest import Running
from tests.tampering import END, Copy, at, close, forked, grow, make

STRANGER = Signer("ledger.example", bytes(32)).verifier_key


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger that nobody touched."""
    return make(tmp_path_factory.mktemp("untouched"))


@pytest.fixture(scope="module")
def key(folder: Path) -> VerifierKey:
    """The key of its log."""
    (signer,) = keyfile.read(folder / "ledger.log-key")
    return signer.verifier_key


@pytest.fixture(scope="module")
def fork(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same ledger, as it went on differently after 200 events."""
    return forked(folder, tmp_path_factory.mktemp("fork") / "ledger").path.parent


Files = dict[str, bytes]


def files_of(folder: Path) -> Files:
    """Everything that a service serves of its log, by path."""
    service = at(folder)
    files = contents_of(service)
    close(service)
    return files


def contents_of(service: Service) -> Files:
    """The checkpoint, every tile and every bundle of entries."""
    with service.reading() as (c, _):
        note = service.log.newest_checkpoint(c)
        assert note is not None
        size = parse_checkpoint(parse_note(note).text).size
        return {
            "checkpoint": note,
            **{tile_path(each): service.log.tile(c, each) for each in new_tiles(0, size)},
            **{tile_path(each): service.log.bundle(c, each) for each in new_bundles(0, size)},
        }


@contextmanager
def served(files: Files) -> Iterator[str]:
    """Serve files as a log does, whatever they hold; yields the URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = files.get(self.path.removeprefix("/log/"))
            self.send_response(404 if data is None else 200)
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def kinds(report: Report) -> list[tuple[Kind, int | None, int | None]]:
    """Kind, first and last position of each finding."""
    return [(each.kind, each.position, each.last) for each in report.findings]


def edited(data: bytes, at_byte: int) -> bytes:
    """The same bytes, but for one."""
    return data[:at_byte] + bytes([data[at_byte] ^ 1]) + data[at_byte + 1 :]


# --- a service ------------------------------------------------------------------------------------


def test_a_running_service_is_verified_over_http(running: Running) -> None:
    """An auditor's key fetches all; the log's key, from elsewhere, vouches for it."""
    for number in range(10):
        violation_of_nobody(running, number)
    assert running.service.signer.wait_for(running.service.recorder.position, 20)
    keys = tuple(each.key for each in running.service.ledger.log_keys())

    report = verify_service(running.url, Trusted(keys), api_key=running.keys["auditor"])

    assert ((), ()) == (report.findings, report.doubts)
    assert report.proven is not None
    assert running.service.recorder.position == report.events == report.proven.checkpoint.size
    again = Trusted(keys, report.proven.note)
    assert 0 == verify_service(running.url, again, api_key=running.keys["auditor"]).code
    assert (2, ()) == refused(verify_service(running.url, Trusted(keys), api_key="clk_no"))
    assert (2, ()) == refused(verify_service(running.url, Trusted((STRANGER,))))


def violation_of_nobody(run: Running, number: int) -> None:
    """Record something, so that there is something to verify."""
    body = {"subject": {"type": "user", "id": f"u{number}"}, "reason": "Please stop."}
    run.done("POST", "/v1/warnings", role="officer", json=body)


def refused(report: Report) -> tuple[int, tuple[object, ...]]:
    """The exit code and the findings of a report that has doubts."""
    assert report.doubts
    return report.code, report.findings


def test_what_a_service_changed_in_its_tiles_is_found(folder: Path, key: VerifierKey) -> None:
    """Entries, hashes of each level, and the checkpoint itself."""
    files = files_of(folder)
    entries, tile = files["tile/entries/001.p/44"], files["tile/0/000"]
    last = len(entries) - 1
    cases: dict[str, tuple[Files, list[tuple[Kind, int | None, int | None]]]] = {
        "nothing": ({}, []),
        "the last entry": (
            {"tile/entries/001.p/44": edited(entries, last)},
            [(Kind.CHANGED, 300, None)],
        ),
        "a length": (
            {"tile/entries/001.p/44": edited(entries, 0)},
            [(Kind.CHANGED, 257, 300)],
        ),
        "a leaf hash": ({"tile/0/000": edited(tile, 32 * 9)}, [(Kind.LOG, 10, None)]),
        "a tile cut off": ({"tile/0/000": tile[: 32 * 200]}, [(Kind.LOG, 201, 256)]),
        "a higher hash": (
            {"tile/1/000.p/1": edited(files["tile/1/000.p/1"], 0)},
            [(Kind.LOG, 1, 256)],
        ),
        "the checkpoint": (
            {"checkpoint": edited(files["checkpoint"], 20)},
            [(Kind.CHECKPOINT, None, None)],
        ),
    }
    for what, (changed, expected) in cases.items():
        with served({**files, **changed}) as url:
            assert expected == kinds(verify_service(url, Trusted((key,)))), what


def test_what_a_service_does_not_say_cannot_be_told(folder: Path, key: VerifierKey) -> None:
    """Absent files, nonsense, endless answers, and nobody there: a sentence for each."""
    files = files_of(folder)
    cases: list[Files] = [
        {},
        {"checkpoint": b"nonsense"},
        {**files, "checkpoint": bytes(10**6)},
        {**files, "tile/entries/000": bytes(10**8)},
        {name: data for name, data in files.items() if name != "tile/entries/000"},
    ]
    for case in cases:
        with served(case) as url:
            report = verify_service(url, Trusted((key,)))
        assert (2, ()) == refused(report)
    assert (2, ()) == refused(verify_service("http://127.0.0.1:1", Trusted((key,))))
    assert (2, ()) == refused(verify_service("no url", Trusted((key,))))


def test_two_clients_of_two_forks_learn_that_there_are_two_histories(
    folder: Path, fork: Path, key: VerifierKey, tmp_path: Path
) -> None:
    """Either's checkpoint against the other's service; and the evidence convinces anybody else."""
    histories = (folder, fork, folder / "at-200")
    notes = [(each / "ledger.checkpoint").read_bytes() for each in histories]
    for shown, kept in ((folder, notes[1]), (fork, notes[0])):
        with served(files_of(shown)) as url:
            report = verify_service(url, Trusted((key,), kept))
            common = verify_service(url, Trusted((key,), notes[2]))

        assert [(Kind.FORK, 1, 300)] == kinds(report)
        assert report.findings[0].sentence.startswith("Two histories: ")
        assert report.evidence is not None
        (tmp_path / "evidence.json").write_bytes(report.evidence)
        judged = verify_evidence(tmp_path / "evidence.json", Trusted((key,)))
        assert [Kind.FORK] == [each.kind for each in judged.findings]
        assert (0, None) == (common.code, common.evidence)


def test_evidence_of_a_fork_holds_between_trees_of_two_sizes(
    folder: Path, fork: Path, key: VerifierKey, tmp_path: Path
) -> None:
    """The smaller checkpoint is kept, and the service has gone on: a consistency proof shows it."""
    longer = tmp_path / "longer"
    shutil.copytree(folder, longer)
    service = at(longer)
    grow(service, END + 33)
    close(service)
    kept = (fork / "ledger.checkpoint").read_bytes()
    with served(files_of(longer)) as url:
        report = verify_service(url, Trusted((key,), kept))

    assert [(Kind.FORK, 1, 300)] == kinds(report)
    assert report.evidence is not None
    path = tmp_path / "evidence.json"
    path.write_bytes(report.evidence)
    assert 1 == verify_evidence(path, Trusted((key,))).code
    told = orjson.loads(report.evidence)
    lies: list[dict[str, object]] = [
        {"format": "another"},
        {"proof": told["proof"][:-1]},
        {"root": told["proof"][0]},
        {"checkpoints": told["checkpoints"][::-1]},
        {"checkpoints": told["checkpoints"][:1]},
        {"checkpoints": 7},
        {"root": None},
    ]
    for lie in lies:
        path.write_bytes(orjson.dumps({**told, **lie}))
        assert (2, ()) == refused(verify_evidence(path, Trusted((key,)))), lie
    path.write_bytes(report.evidence)
    assert (2, ()) == refused(verify_evidence(path, Trusted((STRANGER,))))
    assert (2, ()) == refused(verify_evidence(path, Trusted()))
    assert (2, ()) == refused(verify_evidence(tmp_path / "nowhere", Trusted((key,))))


def test_two_checkpoints_of_one_history_are_no_evidence(
    folder: Path, key: VerifierKey, tmp_path: Path
) -> None:
    """Equal checkpoints contradict nothing."""
    note = (folder / "ledger.checkpoint").read_text()
    root = note.splitlines()[2]
    told = {
        "format": "compliance-ledger-fork/1",
        "checkpoints": [note, note],
        "root": root,
        "proof": [],
    }
    (tmp_path / "evidence.json").write_bytes(orjson.dumps(told))

    assert 0 == verify_evidence(tmp_path / "evidence.json", Trusted((key,))).code


def test_a_service_that_shows_less_than_was_signed_is_rolled_back(
    folder: Path, key: VerifierKey
) -> None:
    """A client remembers more than the service now knows."""
    kept = (folder / "ledger.checkpoint").read_bytes()
    with served(files_of(folder / "at-200")) as url:
        report = verify_service(url, Trusted((key,), kept))

    assert [(Kind.ROLLED_BACK, 201, 300)] == kinds(report)


# --- an archive -----------------------------------------------------------------------------------


@dataclass
class Archive:
    """A bundle, taken apart so that it can be put together differently."""

    path: Path
    files: Files = field(default_factory=dict)

    def __post_init__(self) -> None:
        with tarfile.open(self.path) as tar:
            for member in tar:
                content = tar.extractfile(member)
                assert content is not None
                self.files[member.name] = content.read()

    def write(self, files: Files) -> Path:
        """Write an archive of these files."""
        made = self.path.with_name("edited.tar")
        with made.open("wb") as file:
            for name, data in files.items():
                file.write(bundles._header(name, len(data)) + data + bytes(-len(data) % 512))
            file.write(bytes(1_024))
        return made


def export(folder: Path, path: Path) -> Path:
    """Export a ledger as it is."""
    service = at(folder)
    with service.reading() as (c, _):
        note = service.log.newest_checkpoint(c)
        assert note is not None
        signed = parse_checkpoint(parse_note(note).text)

        def read(tile: Tile) -> bytes:
            return service.log.bundle(c, tile) if tile.level is None else service.log.tile(c, tile)

        keys = service.ledger.log_keys()
        write_bundle(path, Contents(signed.origin, signed.size, note, keys, read))
    close(service)
    return path


@pytest.fixture
def archive(folder: Path, tmp_path: Path) -> Archive:
    """The whole record in a file."""
    return Archive(export(folder, tmp_path / "bundle.tar"))


def test_a_bundle_is_verified_with_nothing_else_at_hand(
    archive: Archive, folder: Path, key: VerifierKey
) -> None:
    """With the keys it brings, with a key from elsewhere, and with an earlier checkpoint."""
    kept = (folder / "at-100" / "ledger.checkpoint").read_bytes()
    for trusted in (Trusted(), Trusted((key,)), Trusted((key,), kept)):
        report = verify_bundle(archive.path, trusted)

        assert (0, END, ()) == (report.code, report.events, report.findings)
        assert bool(trusted.keys) != any("taken from the record" in it for it in report.remarks)


def test_the_same_record_gives_the_same_bytes(archive: Archive, folder: Path) -> None:
    """Any tar reads it, and nothing in it depends on when or where it was written."""
    again = export(folder, archive.path.with_name("again.tar"))

    assert archive.path.read_bytes() == again.read_bytes()
    assert files_of(folder) == {
        name: data for name, data in archive.files.items() if name not in ("README.txt", "keys.txt")
    }
    assert archive.path.read_bytes() == archive.write(archive.files).read_bytes()


def test_a_bundle_is_written_whole_or_not_at_all(archive: Archive, tmp_path: Path) -> None:
    """An existing file stays as it is; a failure leaves nothing behind."""
    before = archive.path.read_bytes()
    with Bundles(archive.path) as bundle:
        contents = Contents("ledger.example", END, bundle.checkpoint(), bundle.keys(), broken)
        with pytest.raises(InvalidValue):
            write_bundle(archive.path, contents)
        with pytest.raises(LogFormatError):
            write_bundle(tmp_path / "new.tar", contents)

    assert before == archive.path.read_bytes()
    assert [archive.path] == list(tmp_path.iterdir())


@contextmanager
def Bundles(path: Path) -> Iterator[Bundle]:  # noqa: N802 - it stands for the class
    """A bundle that is open while the block runs."""
    with path.open("rb") as file:
        yield Bundle(file)


def broken(_: Tile) -> bytes:
    """A tile that cannot be read."""
    raise LogFormatError("gone")


def test_each_byte_of_each_file_of_a_bundle_counts(archive: Archive, key: VerifierKey) -> None:
    """Some of them at random: but for the two files for people, no verdict is fine any more."""
    random = Random("bundle")
    for name, data in archive.files.items():
        for _ in range(25):
            changed = edited(data, random.randrange(len(data)))
            report = verify_bundle(archive.write({**archive.files, name: changed}), Trusted((key,)))

            assert (name == "README.txt") == (report.code == 0), name
            if name.startswith("tile/entries"):
                assert Kind.CHANGED is report.findings[0].kind
            elif name.startswith("tile/"):
                assert Kind.LOG is report.findings[0].kind


def test_each_missing_file_is_missed(archive: Archive, key: VerifierKey) -> None:
    """Events that are not there are missing, hashes are the log's fault, the rest is no bundle."""
    expected: dict[str, list[tuple[Kind, int | None, int | None]]] = {
        "tile/entries/000": [(Kind.MISSING, 1, 256)],
        "tile/entries/001.p/44": [(Kind.MISSING, 257, 300)],
        "tile/0/000": [(Kind.LOG, 1, 256)],
        "tile/0/001.p/44": [(Kind.LOG, 257, 300)],
        "tile/1/000.p/1": [(Kind.LOG, 1, 256)],
    }
    for name in archive.files:
        rest = {other: data for other, data in archive.files.items() if other != name}
        report = verify_bundle(archive.write(rest), Trusted((key,)))

        assert expected.get(name, []) == kinds(report), name
        assert {"README.txt": 0, "checkpoint": 2, "keys.txt": 2}.get(name, 1) == report.code


def test_a_bundle_cut_off_anywhere_is_no_bundle(archive: Archive, key: VerifierKey) -> None:
    """Nothing is said of the rest: it could not be told."""
    data = archive.path.read_bytes()
    cut = archive.path.with_name("cut.tar")
    for length in (0, 1, 511, 512, 513, len(data) // 2, len(data) - 1_024, len(data) - 1):
        cut.write_bytes(data[:length])
        assert (2, ()) == refused(verify_bundle(cut, Trusted((key,)))), length
    cut.write_bytes(data + b"\0")
    assert (2, ()) == refused(verify_bundle(cut, Trusted((key,))))
    assert (2, ()) == refused(verify_bundle(cut.with_name("nowhere.tar"), Trusted((key,))))


def test_a_bundle_signed_by_another_key_cannot_be_told(archive: Archive) -> None:
    """It agrees with itself; with the key that was given, nothing vouches for it."""
    assert (2, ()) == refused(verify_bundle(archive.path, Trusted((STRANGER,))))


def test_a_bundle_that_names_other_keys_than_its_events_is_found(archive: Archive) -> None:
    """The events name the key that may sign; a list of keys beside them cannot widen that."""
    keys = parse_keys(archive.files["keys.txt"])
    for wrong in ((replace(keys[0], first_size=301),), (LogKey(STRANGER),)):
        changed = {**archive.files, "keys.txt": bundles.format_keys(wrong).encode()}
        report = verify_bundle(archive.write(changed), Trusted())

        assert [(Kind.CHECKPOINT, None, None)] == kinds(report)


def test_entries_that_trade_places_are_reordered(archive: Archive, key: VerifierKey) -> None:
    """Each says where it belongs, and stands elsewhere."""
    files = dict(archive.files)
    name = "tile/entries/001.p/44"
    data = files[name]
    first = 2 + int.from_bytes(data[:2], "big")
    second = first + 2 + int.from_bytes(data[first : first + 2], "big")
    files[name] = data[first:second] + data[:first] + data[second:]

    report = verify_bundle(archive.write(files), Trusted((key,)))

    assert [(Kind.REORDERED, 257, None), (Kind.REORDERED, 258, None)] == kinds(report)


def test_a_bundle_of_a_fork_does_not_fit_what_was_kept(
    archive: Archive, fork: Path, key: VerifierKey
) -> None:
    """Offline, too, with evidence."""
    kept = (fork / "ledger.checkpoint").read_bytes()

    report = verify_bundle(archive.path, Trusted((key,), kept))

    assert [(Kind.FORK, 1, 300)] == kinds(report)
    assert report.evidence is not None


HOSTILE: dict[str, Callable[[Files], bytes]] = {
    "a size beyond any file": lambda _: header("checkpoint", 8**11 - 1) + bytes(2_048),
    "a checkpoint larger than can be": lambda files: packed({**files, "checkpoint": bytes(10**6)}),
    "a tile larger than can be": lambda files: packed({**files, "tile/0/000": bytes(10**6)}),
    "a file that does not belong": lambda files: packed({**files, "tile/0/007": bytes(32)}),
    "a path out of the archive": lambda files: packed({**files, "../../etc/passwd": b"x"}),
    "a file twice": lambda files: packed(files) and twice(files),
    "a link": lambda _: odd(tarfile.SYMTYPE),
    "a sparse file": lambda _: odd(tarfile.GNUTYPE_SPARSE),
    "a long name": lambda _: odd(tarfile.GNUTYPE_LONGNAME),
    "extended headers": lambda _: odd(tarfile.XHDTYPE),
    "a compressed one": lambda _: b"\x1f\x8b" + bytes(2_000),
    "an endless list of keys": lambda files: packed({**files, "keys.txt": b"1 - x\n" * 10**5}),
}


def header(name: str, size: int) -> bytes:
    """The header of a file."""
    return bundles._header(name, size)


def packed(files: Files) -> bytes:
    """An archive of files."""
    return b"".join(
        header(name, len(data)) + data + bytes(-len(data) % 512) for name, data in files.items()
    ) + bytes(1_024)


def twice(files: Files) -> bytes:
    """An archive with one file twice."""
    return packed({"checkpoint": files["checkpoint"]})[:-1_024] + packed(files)


def odd(kind: bytes) -> bytes:
    """An archive with a member that is no plain file."""
    info = tarfile.TarInfo("checkpoint")
    info.type, info.linkname, info.size = kind, "elsewhere", 0
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(1_024)


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_archive_is_refused(what: str, archive: Archive, key: VerifierKey) -> None:
    """Nothing is unpacked, nothing larger than it can be is read, and there is a sentence."""
    path = archive.path.with_name("hostile.tar")
    path.write_bytes(HOSTILE[what](archive.files))

    report = verify_bundle(path, Trusted((key,)))

    assert (2, ()) == refused(report)


def test_random_damage_to_a_bundle_gets_a_verdict(archive: Archive, key: VerifierKey) -> None:
    """Never a crash, and never a clean bill for other events."""
    random, data = Random("damage"), archive.path.read_bytes()
    path = archive.path.with_name("damaged.tar")
    about = archive.files["README.txt"]
    for _ in range(400):
        at_byte = random.randrange(len(data))
        path.write_bytes(edited(data, at_byte))
        if verify_bundle(path, Trusted((key,))).code == 0:
            assert 512 <= at_byte < 512 + len(about)


def test_keys_are_read_in_one_form_only() -> None:
    """First size, last size or a dash, key; nothing else."""
    keys = (LogKey(STRANGER, 1, 9), LogKey(STRANGER, 10))
    text = bundles.format_keys(keys).encode()

    assert keys == parse_keys(text)
    for wrong in (
        b"",
        text[:-1],
        b"1 9\n",
        b"01 9 x\n",
        text + b"\n",
        text.replace(b"1 9", b"9 1"),
    ):
        with pytest.raises(LogFormatError):
            parse_keys(wrong)


def test_an_archive_is_read_from_any_file() -> None:
    """An empty one holds nothing."""
    bundle = Bundle(io.BytesIO(bytes(1_024)))

    assert frozenset() == bundle.names
    with pytest.raises(LogFormatError):
        bundle.checkpoint()


# --- a backup -------------------------------------------------------------------------------------


def test_a_backup_is_a_whole_ledger(folder: Path, tmp_path: Path) -> None:
    """It verifies by itself, and brings no private key."""
    copied = back_up(
        folder / "ledger.db", folder / "ledger.checkpoint", tmp_path / "new" / "backup"
    )

    assert 0 == Copy(copied.database).whole.code
    assert ["ledger.checkpoint", "ledger.db", "ledger.vault"] == sorted(
        each.name for each in copied.database.parent.iterdir()
    )


def test_a_backup_of_a_ledger_in_use_holds_what_was_recorded(running: Running) -> None:
    """While the service writes; the vault comes along where there is one."""
    database = sqlite_path(running.service.settings.database_url)
    for number in range(5):
        violation_of_nobody(running, number)
    assert running.service.signer.wait_for(running.service.recorder.position, 20)

    copied = back_up(database, running.service.settings.checkpoint_path, database.parent / "backup")

    report = Copy(copied.database).report
    assert (0, running.service.recorder.position) == (report.code, report.events)


def test_a_backup_overwrites_nothing(folder: Path, tmp_path: Path) -> None:
    """A folder with anything in it is refused, and so is a ledger that is not there."""
    (tmp_path / "kept").write_text("kept")
    with pytest.raises(InvalidValue, match="not empty"):
        back_up(folder / "ledger.db", folder / "ledger.checkpoint", tmp_path)
    with pytest.raises(InvalidValue, match="does not exist"):
        back_up(tmp_path / "no.db", tmp_path / "no.checkpoint", tmp_path / "new")

    assert ["kept"] == [each.name for each in tmp_path.iterdir()]
