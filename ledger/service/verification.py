"""Was anything touched? Puts a record before the verifier and says what came of it, in words.

Three places where a record can be: the ledger's database, a service that serves it, an archive.
And one piece of evidence: two checkpoints of one log that no record fits both of.

Trust: the keys and the earlier checkpoint that the caller brings. Without them the record's own
word is taken for who may sign it, and the report says that this proves less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import IO, Final

import httpx
import orjson

from ledger.domain.errors import LedgerError
from ledger.service.bundle import BUNDLE_BYTES_MAX, TILE_BYTES_MAX, Bundle
from ledger.service.stored_record import UNREADABLE, StoredRecord, stored_record
from ledger.store.address import without_password
from ledger.store.recorder import LedgerRecorder
from ledger.store.replay import Difference, rebuild
from ledger.tlog.checkpoint import LogKey, parse_hash
from ledger.tlog.merkle import (
    LogError,
    LogFormatError,
    ProofInvalid,
    consistency_proof,
    root_at,
    verify_consistency,
)
from ledger.tlog.note import (
    MAX_NOTE_BYTES,
    Note,
    Signature,
    VerifierKey,
    encode_base64,
    encode_text,
    parse_note,
    parse_signatures,
    verify_note,
)
from ledger.tlog.policy_file import PolicyFile, PolicyWitness
from ledger.tlog.tiled import Tiled
from ledger.tlog.tiles import Tile, hash_reader, tile_path
from ledger.tlog.verify import Finding, Kind, Signed, Verdict, keys_in_force, read_signed, verify

FINE: Final = 0
TAMPERED: Final = 1
COULD_NOT_TELL: Final = 2

HTTP_TIMEOUT_S: Final = 30
KEPT: Final = "--checkpoint"  # what the caller's own checkpoint is called in findings
_SIGNATURE: Final = "\n— ".encode()  # begins each line with a signature in a note
FORK_FORMAT: Final = "compliance-ledger-fork/1"
FORK_BYTES_MAX: Final = 2 * MAX_NOTE_BYTES

Progress = Callable[[int, int], None]


def _silent(_done: int, _all: int) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Vouched:
    """Which witnesses cosigned the checkpoint of a size, by the policy's names for them.

    It is the newest whose quorum is met, or else the newest; size 0 when there is none.
    """

    size: int
    by: tuple[str, ...]
    missing: tuple[str, ...]
    quorum_met: bool


@dataclass(frozen=True, slots=True)
class Report:
    """What a verification found, and what it could not tell.

    ``proven`` is the largest checkpoint that fits and that a trusted key signed. ``doubts`` say why
    it could not be told whether all is well; ``remarks`` what is good to know besides. ``evidence``
    shows others that the log signed two histories, where it did. ``vouched`` is what witnesses say,
    where a policy names some.
    """

    events: int = 0
    findings: tuple[Finding, ...] = ()
    doubts: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    proven: Signed | None = None
    evidence: bytes | None = None
    vouched: Vouched | None = None

    @property
    def code(self) -> int:
        """0 fine, 1 tampered, 2 could not tell: what a command exits with."""
        return TAMPERED if self.findings else COULD_NOT_TELL if self.doubts else FINE


@dataclass(frozen=True, slots=True)
class Trusted:
    """What the caller brings.

    Keys of the log, a checkpoint that was kept, and a policy that names witnesses (None: none).
    """

    keys: tuple[VerifierKey, ...] = ()
    earlier: bytes | None = None
    policy: PolicyFile | None = None


class _Case:
    """Collects checkpoints, findings and doubts until the walk is done."""

    def __init__(self, trusted: Trusted, known: Sequence[LogKey]) -> None:
        self.findings: list[Finding] = []
        self.doubts: list[str] = []
        self.remarks: list[str] = []
        self.signed: list[Signed] = []
        self.policy = trusted.policy
        self.cosignatures: Iterable[tuple[int, str]] = ()
        """Signature lines that are kept apart from the checkpoints, by size, largest first."""
        ranged = [each for each in known if each.key in trusted.keys]
        named = {each.key for each in known}
        unnamed = [LogKey(key) for key in trusted.keys if key not in named]
        self.keys = (*known, *unnamed)
        self._is_told = bool(known)  # which keys may sign, by the record itself
        self.vouched = (*ranged, *unnamed) if trusted.keys else self.keys
        if not self.keys:
            self.doubts.append("No key of the log is known; give one with --key.")
        elif not trusted.keys:
            self.remarks.append(
                "The log's keys were taken from the record itself, which proves less than a key "
                "that was kept elsewhere: give it with --key."
            )
        if trusted.earlier is not None:
            self.earlier(trusted.earlier)

    def earlier(self, note: bytes) -> None:
        """Take the checkpoint that the caller kept."""
        try:
            self.signed.append(read_signed(note, self.keys, source=KEPT))
        except LogError as error:
            self.doubts.append(f"--checkpoint cannot be used: {error}.{self._replaced(note)}")

    def _replaced(self, note: bytes) -> str:
        """Say so when the key that signed was the log's, but may not sign trees of this size."""
        try:
            read_signed(note, [LogKey(each.key) for each in self.keys], source=KEPT)
        except LogError:
            return ""
        return (
            " By this record another key signs trees of that size: the record was rolled back and "
            "got a new key since, or the old key was misused."
        )

    def _is_ours(self, note: bytes) -> bool:
        """Tell whether a note says to be signed by a key that is known."""
        known = {(each.key.name, each.key.key_id) for each in self.keys}
        try:
            return any((each.name, each.key_id) in known for each in parse_note(note).signatures)
        except LogFormatError:
            return False

    def found(self, notes: Iterable[tuple[int | None, bytes]], source: str, *, beside: bool) -> int:
        """Take the checkpoints of a source, with the sizes that they should have; count the bad."""
        bad: list[tuple[int | None, str, bool]] = []
        for size, note in notes if self.keys else ():
            try:
                signed = read_signed(note, self.keys, source=source, beside=beside)
            except LogError as error:
                bad.append((size, str(error), self._is_ours(note)))
            else:
                if size in (None, signed.checkpoint.size):
                    self.signed.append(signed)
                else:
                    over = signed.checkpoint.size
                    bad.append((size, f"it is signed over {over} events", True))
        if bad and not (self._is_told or any(ours for _, _, ours in bad)):
            self.doubts.append(f"The checkpoint of {source} cannot be used: {bad[0][1]}.")
        elif bad:
            size, why, _ = bad[0]
            of = "" if size is None else f" of {size} events"
            more = f" So it is with {len(bad) - 1} more." if bad[1:] else ""
            self.findings.append(
                Finding(
                    Kind.CHECKPOINT,
                    f"A checkpoint{of} in {source} is none that the log signed: {why}.{more}",
                    size=size,
                )
            )
        return len(bad)

    def closed(self, verdict: Verdict) -> Report:
        """Say what the walk found, together with what was found before it."""
        proven = self._proven(verdict)
        vouched = None if self.policy is None else self._vouched(verdict, self.policy)
        if proven is None and self.keys:
            self.doubts.append(
                "No checkpoint that fits the events is signed by a trusted key."
                if self.signed
                else "Nothing was signed yet, so there is nothing to hold the events against."
            )
        elif proven is not None and proven.checkpoint.size < verdict.size:
            self.remarks.append(
                f"No such checkpoint covers the events after {proven.checkpoint.size} yet; they "
                "were compared with the log's hashes only."
            )
        return Report(
            events=verdict.size,
            findings=(*verdict.findings, *self.findings),
            doubts=tuple(self.doubts),
            remarks=tuple(self.remarks),
            proven=proven,
            vouched=vouched,
        )

    # --- witnesses --------------------------------------------------------------------------------

    def _vouched(self, verdict: Verdict, policy: PolicyFile) -> Vouched:
        """Say which checkpoint witnesses vouch for, and what is wrong with what they signed.

        Looks from the newest checkpoint that fits to the first one whose quorum is met.
        """
        everybody = tuple(each.name for each in policy.witnesses)
        best = Vouched(0, (), everybody, quorum_met=False)
        for size, text, signatures in self._cosigned(verdict):
            seen = [w for w in policy.witnesses if self._is_cosigned_by(w, size, text, signatures)]
            by = tuple(each.name for each in seen)
            met = policy.is_met_by(each.key for each in seen)
            if met or not best.size:
                missing = tuple(name for name in everybody if name not in by)
                best = Vouched(size, by, missing, met)
            if met:
                break
        self._say_who_vouches(best, policy, verdict.size)
        return best

    def _cosigned(self, verdict: Verdict) -> Iterator[tuple[int, str, list[Signature]]]:
        """Yield size and text of the newest checkpoint that fits, and of all with cosignatures,

        newest first, with every signature there is.
        """
        apart = groupby(self.cosignatures, key=itemgetter(0))
        kept, lines = next(apart, (0, iter(())))
        fitting = groupby(reversed(verdict.fitting), key=lambda each: each.checkpoint.size)
        for number, (size, copies) in enumerate(fitting):
            notes = {each.note for each in copies}
            while kept > size:
                kept, lines = next(apart, (0, iter(())))
            if number and kept != size and all(each.count(_SIGNATURE) == 1 for each in notes):
                continue
            read = [parse_note(each) for each in notes]
            signatures = [signature for note in read for signature in note.signatures]
            for _, line in lines if kept == size else ():
                try:
                    signatures += parse_signatures(f"{line}\n")
                except LogFormatError as error:
                    self._no_cosignature(size, f"one is no signature line: {error}")
            yield size, read[0].text, signatures

    def _is_cosigned_by(
        self, witness: PolicyWitness, size: int, text: str, signatures: Sequence[Signature]
    ) -> bool:
        """Tell whether a witness's key made a signature here; one that says so falsely is found.

        Signatures by other keys are ignored, as C2SP signed-note wants it.
        """
        key = witness.key
        own = tuple(s for s in signatures if (s.name, s.key_id) == (key.name, key.key_id))
        try:
            return bool(own) and bool(verify_note(Note(text, own), [key]))
        except LogError:
            self._no_cosignature(size, f"that of {witness.name} is not by its key")
            return False

    def _no_cosignature(self, size: int, why: str) -> None:
        self.findings.append(
            Finding(
                Kind.CHECKPOINT,
                f"The cosignatures of the checkpoint of {size} events were edited: {why}.",
                size=size,
            )
        )

    def _say_who_vouches(self, vouched: Vouched, policy: PolicyFile, events: int) -> None:
        if vouched.by:
            missing = f"; not {', '.join(vouched.missing)}" if vouched.missing else ""
            self.remarks.append(
                f"Witnesses that vouch for the first {vouched.size} of {events} events: "
                f"{', '.join(vouched.by)}{missing}."
            )
        elif policy.witnesses:
            self.remarks.append("No witness of the policy vouches for the newest checkpoint.")
        if not vouched.quorum_met and policy.quorum is not None:
            self.doubts.append(
                "No checkpoint that fits has the cosignatures that the quorum of the witness "
                f"policy asks for, {policy.quorum}."
            )

    def _proven(self, verdict: Verdict) -> Signed | None:
        for each in reversed(verdict.fitting):
            try:
                return read_signed(each.note, self.vouched, source=each.source)
            except LogError:
                continue
        return None


# --- the database ---------------------------------------------------------------------------------


def verify_database(
    database: Path | str, anchor: Path, trusted: Trusted, *, progress: Progress = _silent
) -> Report:
    """Verify the history in a database, against its checkpoints and the one in ``anchor``.

    It is a file of SQLite, or the URL of a PostgreSQL database.
    """
    name = database if isinstance(database, Path) else without_password(database)
    try:
        # Before the snapshot: it must hold all that this checkpoint was signed over.
        newest = read_limited(anchor, MAX_NOTE_BYTES) if anchor.exists() else None
        with stored_record(database) as record:
            return _verify_stored(record, anchor.name, newest, trusted, progress)
    except UNREADABLE as error:
        return Report(doubts=(f"{name} cannot be read: {error}.",))
    except OSError as error:
        return Report(doubts=(f"{error.filename} cannot be read: {error.strerror}.",))
    except LogError as error:
        return Report(doubts=(f"{name} cannot be verified: {error}.",))


def _verify_stored(
    record: StoredRecord,
    anchor: str,
    newest: bytes | None,
    trusted: Trusted,
    progress: Progress,
) -> Report:
    case = _Case(trusted, keys_in_force(record.named_keys()))
    case.found(record.checkpoints(), "the database", beside=True)
    case.cosignatures = record.cosignatures()
    if newest is not None:
        case.found([(None, newest)], f"the checkpoint file {anchor}", beside=False)
    elif trusted.earlier is None:
        case.doubts.append(
            f"There is no checkpoint file {anchor}, and no --checkpoint was given, so an older "
            "copy of the whole database would go unseen."
        )
    total = max((each.checkpoint.size for each in case.signed), default=0)
    verdict = verify(
        record.entries(),
        record.leaves(),
        record.nodes(),
        case.signed,
        progress=lambda done: progress(done, max(done, total)),
    )
    damage = record.damage()
    if damage is not None:
        case.doubts.append(f"SQLite finds the file damaged: {damage}.")
    case.remarks += record.differing_schema()
    return case.closed(verdict)


def half_copy(database: Path | str) -> Report | None:
    """Say so when a database is half of a copy, of which nobody can tell whether it is sound.

    ``None`` for any other, one that cannot be read included.
    """
    name = database if isinstance(database, Path) else without_password(database)
    try:
        with stored_record(database) as record:
            source = record.half_of()
    except UNREADABLE:
        return None
    if source is None:
        return None
    said = (
        f"{name} is half of a copy of {source}: compliance-ledger migrate was stopped before it "
        "had verified all of it. Run the same migrate again, which goes on where it stopped; until "
        f"then the ledger is {source}."
    )
    return Report(doubts=(said,))


def compare_projections(recorder: LedgerRecorder, *, progress: Progress = _silent) -> Report:
    """Compare every projection with a rebuild from the events, whose history must be sound."""
    try:
        missing = _missing_tables(recorder)
        if missing:
            return Report(findings=missing)
        rebuilt = rebuild(recorder, progress=progress)
    except (*UNREADABLE, LedgerError) as error:
        return Report(doubts=(f"The projections could not be compared: {error}.",))
    return Report(findings=projection_findings(rebuilt.differences))


def projection_findings(differences: Iterable[Difference]) -> tuple[Finding, ...]:
    """Say in words where projections differ from a rebuild."""
    return tuple(
        Finding(
            Kind.PROJECTION,
            f"The projection {each.projection} differs from the events in {each.table}: "
            f"{len(each.missing)} rows are missing, {len(each.extra)} rows are accounted for "
            "by no event.",
        )
        for each in differences
    )


TABLES_THERE: Final = {
    "sqlite": "SELECT name FROM sqlite_schema",
    "postgresql": "SELECT relname FROM pg_class WHERE pg_table_is_visible(oid)",
}


def _missing_tables(recorder: LedgerRecorder) -> tuple[Finding, ...]:
    with recorder.store.transaction(commit=False) as c:
        c.execute(TABLES_THERE[recorder.store.dialect])
        there = {row[0] for row in c.fetchall()}
    return tuple(
        Finding(Kind.PROJECTION, f"The projection {each.NAME} has no table {table} any more.")
        for each in recorder.projections
        for table in each.TABLES
        if table not in there
    )


def with_projections(history: Report, recorder: LedgerRecorder, progress: Progress) -> Report:
    """Add what comparing the projections finds, where the history they derive from is sound."""
    if history.code == TAMPERED:
        skipped = "The projections were not compared, because the history is not sound."
        return replace(history, remarks=(*history.remarks, skipped))
    compared = compare_projections(recorder, progress=progress)
    return replace(
        history,
        findings=compared.findings,
        doubts=(*history.doubts, *compared.doubts),
    )


# --- a service ------------------------------------------------------------------------------------


def verify_service(
    url: str, trusted: Trusted, *, api_key: str | None = None, progress: Progress = _silent
) -> Report:
    """Verify what a service serves: that it continues the earlier checkpoint, and every entry."""
    headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=HTTP_TIMEOUT_S) as client:
            return _verify_served(client, trusted, progress)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Report(doubts=(f"{url} does not answer: {error}.",))
    except LogError as error:
        return Report(doubts=(f"{url} cannot be verified: {error}.",))


def _verify_served(client: httpx.Client, trusted: Trusted, progress: Progress) -> Report:
    def read(tile: Tile) -> bytes:
        limit = BUNDLE_BYTES_MAX if tile.level is None else TILE_BYTES_MAX
        return _fetched(client, f"/log/{tile_path(tile)}", limit)

    case = _Case(trusted, ())
    note = _fetched(client, "/log/checkpoint", MAX_NOTE_BYTES)
    if case.found([(None, note)], "the service", beside=False) or not case.keys:
        return replace(case.closed(verify((), (), {}, ())), events=0)
    served = case.signed[-1]
    size = served.checkpoint.size
    if size == 0:
        return case.closed(verify((), (), {}, case.signed))
    return _verify_tiled(case, Tiled(size, read), progress)


def _verify_tiled(case: _Case, tiled: Tiled, progress: Progress) -> Report:
    verdict = verify(
        tiled.entries(),
        tiled.leaves(),
        tiled.nodes(),
        case.signed,
        progress=lambda done: progress(done, tiled.size),
    )
    case.findings += _outside_their_range(verdict)
    report = case.closed(verdict)
    return replace(report, evidence=_evidence(report, case.signed, tiled))


def _outside_their_range(verdict: Verdict) -> Iterator[Finding]:
    """Report the checkpoints that no key signed which the events name for their size."""
    keys = keys_in_force(verdict.named)
    for each in verdict.fitting if keys else ():
        try:
            read_signed(each.note, keys, source=each.source)
        except LogError as error:
            yield Finding(
                Kind.CHECKPOINT,
                f"The events name other keys than the one that signed {each.source}: {error}.",
                size=each.checkpoint.size,
            )


def _fetched(client: httpx.Client, path: str, limit: int) -> bytes:
    """Fetch a file of at most ``limit`` bytes. Raises ``LogFormatError`` for any other answer."""
    with client.stream("GET", path, headers={"Accept-Encoding": "identity"}) as response:
        if response.status_code != httpx.codes.OK:
            raise LogFormatError(f"{path} is answered with {response.status_code}")
        data = b""
        for part in response.iter_raw():
            data += part
            if len(data) > limit:
                raise LogFormatError(f"{path} has more than {limit} bytes")
        return data


# --- an archive -----------------------------------------------------------------------------------


def verify_bundle(path: Path, trusted: Trusted, *, progress: Progress = _silent) -> Report:
    """Verify an archive that ``export --bundle`` wrote, with nothing else at hand."""
    try:
        with path.open("rb") as file:
            return _verify_archive(file, trusted, progress)
    except OSError as error:
        return Report(doubts=(f"{path} cannot be read: {error.strerror}.",))
    except LogError as error:
        return Report(doubts=(f"{path} cannot be verified: {error}.",))


def _verify_archive(file: IO[bytes], trusted: Trusted, progress: Progress) -> Report:
    bundle = Bundle(file)
    case = _Case(trusted, bundle.keys())
    if case.found([(None, bundle.checkpoint())], "the bundle", beside=True):
        return case.closed(verify((), (), {}, ()))
    size = case.signed[-1].checkpoint.size
    strangers = bundle.strangers(size)
    if strangers:
        case.doubts.append(
            f"{len(strangers)} files in the bundle do not belong there, like {min(strangers)}."
        )
    return _verify_tiled(case, Tiled(size, bundle.tile), progress)


# --- evidence of two histories --------------------------------------------------------------------


def _evidence(report: Report, signed: Sequence[Signed], tiled: Tiled) -> bytes | None:
    """Write down two checkpoints that contradict each other so that anybody can see that they do.

    The record begins with a tree of the older one's size, whose root is another: a consistency
    proof shows that of the newer one, and two signatures say that both are the log's.
    """
    if not any(each.kind is Kind.FORK for each in report.findings):
        return None
    older = min(signed, key=lambda each: (each.checkpoint.size, each.source != KEPT))
    newer = next(each for each in signed if each.source != KEPT)

    def read(tile: Tile) -> bytes:
        return tiled.read(tile) or b""

    hash_at = hash_reader(tiled.size, read)
    old_size = older.checkpoint.size
    proof = consistency_proof(old_size, tiled.size, hash_at)
    return orjson.dumps(
        {
            "format": FORK_FORMAT,
            "checkpoints": [older.note.decode(), newer.note.decode()],
            "root": encode_base64(root_at(old_size, hash_at)),
            "proof": [encode_base64(each) for each in proof],
        },
        option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE,
    )


def verify_evidence(path: Path, trusted: Trusted) -> Report:
    """Judge evidence of two histories: does it show that the log signed both?"""
    try:
        return _verify_evidence(read_limited(path, FORK_BYTES_MAX), trusted)
    except OSError as error:
        return Report(doubts=(f"{path} cannot be read: {error.strerror}.",))
    except (LogError, ValueError, TypeError, KeyError, AttributeError) as error:
        return Report(doubts=(f"{path} is no evidence: {error}.",))


def _verify_evidence(data: bytes, trusted: Trusted) -> Report:
    told = orjson.loads(data)
    if told["format"] != FORK_FORMAT:
        raise LogFormatError("it has another format")
    keys = [LogKey(key) for key in trusted.keys]
    if not keys:
        raise LogFormatError("a key of the log is needed; give it with --key")
    older, newer = (
        read_signed(encode_text(note), keys, source="the evidence") for note in told["checkpoints"]
    )
    old, new = older.checkpoint, newer.checkpoint
    if old.origin != new.origin:
        raise LogFormatError("its checkpoints are of two logs")
    root = parse_hash(told["root"])
    proof = [parse_hash(each) for each in told["proof"]]
    try:
        verify_consistency(old.size, new.size, root, new.root, proof)
    except ProofInvalid as error:
        if old.size != new.size:
            raise
        raise LogFormatError(f"its root is not that of the second checkpoint: {error}") from None
    if root == old.root:
        return Report(remarks=("The two checkpoints are of one history.",), proven=newer)
    return Report(
        findings=(
            Finding(
                Kind.FORK,
                f"Two histories: {old.origin} signed a checkpoint of {old.size} events and one of "
                f"{new.size} events, and the second is proven not to continue the first.",
                size=old.size,
            ),
        )
    )


def read_limited(path: Path, limit: int) -> bytes:
    """Read a file that cannot be larger than this. Raises ``LogFormatError`` when it is."""
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise LogFormatError(f"{path.name} has more than {limit} bytes")
    return data
