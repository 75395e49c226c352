"""Is this record what was signed, and if not: where does it first differ, and how?

Trust: the keys that the caller passes in, and nothing else. Entries, the log's hashes and the
checkpoints all come from a database, a service or an archive that may have been tampered with.
Each is held against the others. A signed checkpoint outweighs both events and hashes, because it
cannot be made without the key.

The walk goes through the positions once. At each it compares the hash of the entry with the hash
that the log took down, and it grows a tree of each. While the two agree there is one tree. Where
they part there are two, until a signed checkpoint fits one of them and so settles who was edited:

    the log's tree fits       the events were edited: changed, missing, reordered or inserted
    the events' tree fits     the log's hashes were edited
    neither fits              both were rewritten since the last checkpoint that fits

What no checkpoint covers yet is only compared, events with hashes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from itertools import chain, groupby, pairwise
from typing import Final, TypeVar

from ledger.tlog.checkpoint import Checkpoint, LogKey
from ledger.tlog.leaf import parse_entry
from ledger.tlog.merkle import HASH_BYTES, Frontier, LogError
from ledger.tlog.note import KeyType, VerifierKey, parse_vkey
from ledger.tlog.proof import Policy, verify_checkpoint
from ledger.tlog.tiles import TILE_HEIGHT, TILE_WIDTH

FAULTS_KEPT_MAX: Final = 10_000  # entries kept to find out where they belong: some megabytes
TRIALS_MAX: Final = 200_000  # hashes spent on finding out where entries belong: below a second
PROGRESS_EVERY: Final = 4_096  # positions between two calls of the progress function

NAMING_STREAM: Final = "ledger"
NAMING_TYPES: Final = ("ledger.opened", "log.key_rotated")
"""The facts that name a key of the log, in their member ``log_key``."""

_POSITION: Final = slice(1, 9)  # where an entry holds its position
_NOWHERE: Final = 1 << 70  # after every position

T = TypeVar("T")


class Kind(StrEnum):
    """What is wrong with the record."""

    CHANGED = "changed"
    MISSING = "missing"
    REORDERED = "reordered"
    INSERTED = "inserted"
    ROLLED_BACK = "rolled_back"
    LOG = "log"
    CHECKPOINT = "checkpoint"
    FORK = "fork"
    PROJECTION = "projection"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: where, what, and in words.

    ``position`` is the first event concerned and ``last`` the last one, where there are several.
    ``size`` is set for what concerns a checkpoint, ``tile`` (level and index of a hash) for what
    concerns the log.
    """

    kind: Kind
    sentence: str
    position: int | None = None
    last: int | None = None
    size: int | None = None
    tile: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Signed:
    """A checkpoint that a key of the log signed, its note as it is written, and where it was found.

    ``beside`` tells that it was kept with the events, where whoever edits them can replace it.
    """

    checkpoint: Checkpoint
    note: bytes
    source: str
    beside: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a walk found: positions seen, findings, the checkpoints that fit, keys that are named.

    Findings are in the order of positions, ``fitting`` and ``named`` in the order of sizes.
    """

    size: int
    findings: tuple[Finding, ...]
    fitting: tuple[Signed, ...]
    named: tuple[tuple[int, VerifierKey], ...]


def read_signed(
    note: bytes, keys: Iterable[LogKey], *, source: str, beside: bool = False
) -> Signed:
    """Read a checkpoint that one of these keys may have signed, and did. Raises ``LogError``."""
    return Signed(
        verify_checkpoint(note, Policy(tuple(keys))).checkpoint, note, source, beside=beside
    )


def key_named(data: bytes) -> VerifierKey | None:
    """Return the key of the log that an entry names; None for any other entry."""
    if b'"log_key"' not in data:
        return None
    try:
        row = parse_entry(data)
        if row.stream != NAMING_STREAM or row.type not in NAMING_TYPES:
            return None
        key = parse_vkey(json.loads(row.state)["data"]["log_key"])
    except (LogError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return key if key.type is KeyType.ED25519 else None


def keys_in_force(named: Iterable[tuple[int, VerifierKey]]) -> tuple[LogKey, ...]:
    """Say which sizes each named key may sign: from where it is named until another one is."""
    ordered = sorted(named, key=lambda each: each[0])
    ends = [*(position - 1 for position, _ in ordered[1:]), None]
    return tuple(
        LogKey(key, position, end) for (position, key), end in zip(ordered, ends, strict=False)
    )


def verify(
    entries: Iterable[tuple[int, bytes]],
    leaves: Iterable[tuple[int, bytes]],
    nodes: Mapping[tuple[int, int], bytes],
    signed: Iterable[Signed],
    *,
    progress: Callable[[int], None] = lambda _position: None,
) -> Verdict:
    """Recompute every leaf, every hash of a tile and every root, and say what does not fit.

    ``entries`` are positions with their entries, in order; an empty one stands for a row that
    cannot be an entry. ``leaves`` are leaf indexes with the hashes that the log took down, in
    order; ``nodes`` the hashes of higher tiles by level and index. The signatures of ``signed``
    have been verified by ``read_signed``. Findings come in the order of positions.
    """
    walk = _Walk(nodes, signed)
    walk.go(iter(entries), iter(leaves), progress)
    return walk.verdict()


# --- the walk -------------------------------------------------------------------------------------


class _Tree:
    """A tree that grows, tile by tile; ``done`` collects the hashes that finished tiles make."""

    def __init__(self, size: int = 0, tiles: Sequence[Frontier] = (Frontier(),)) -> None:
        self.size = size
        self.done: list[tuple[int, int, bytes]] = []
        self._tiles = list(tiles)  # what the unfinished tile of each level holds so far

    def copy(self) -> _Tree:
        return _Tree(self.size, self._tiles)

    def extend(self, hashes: Sequence[bytes]) -> None:
        taken = 0
        while taken < len(hashes):
            room = TILE_WIDTH - self.size % TILE_WIDTH
            part = hashes[taken : taken + room]
            self._tiles[0] = self._tiles[0].extend(part)
            taken, self.size = taken + len(part), self.size + len(part)
            level = 0
            while self._tiles[level].size == TILE_WIDTH:
                finished = self._tiles[level].root()
                self._tiles[level] = Frontier()
                level += 1
                self.done.append((level, (self.size >> TILE_HEIGHT * level) - 1, finished))
                if level == len(self._tiles):
                    self._tiles.append(Frontier())
                self._tiles[level] = self._tiles[level].append(finished)

    def root(self) -> bytes:
        hashes = [each for tile in reversed(self._tiles) for each in tile.hashes]
        return Frontier(self.size, tuple(hashes)).root()


@dataclass(frozen=True, slots=True)
class _Fault:
    """A position where the event is not what the log says, which is ``due`` (None: no event is).

    ``entry`` is None where there is no event. ``sure`` tells that a signed checkpoint fits the log.
    """

    position: int
    entry: bytes | None
    due: bytes | None
    sure: bool


@dataclass
class _Walk:
    nodes: Mapping[tuple[int, int], bytes]
    signed: Iterable[Signed]
    size: int = 0  # positions walked
    findings: list[Finding] = field(default_factory=list)
    fitting: list[Signed] = field(default_factory=list)
    unfitting: list[Signed] = field(default_factory=list)
    named: list[tuple[int, VerifierKey]] = field(default_factory=list)

    # The next size that a checkpoint has, and those that have it.
    _stop: int | None = None
    _here: Sequence[Signed] = ()

    def __post_init__(self) -> None:
        by_size = sorted(self.signed, key=lambda each: each.checkpoint.size)
        self.newest = by_size[-1] if by_size else None
        self._stops = iter(
            [
                (size, list(each))
                for size, each in groupby(by_size, key=lambda each: each.checkpoint.size)
            ]
        )
        self._tree = _Tree()
        self._same: list[bytes] = []  # hashes on which both agree, not yet in the tree
        # Since events and log parted: the tree of each. None when it has a hole.
        self._parted = False
        self._of_events: _Tree | None = None
        self._of_log: _Tree | None = None
        self._odd: list[_Fault] = []
        self._faults: list[_Fault] = []
        self._holes: list[tuple[int, int]] = []
        self._edited: list[tuple[int, bool]] = []  # leaf indexes, and whether the log holds a hash
        self._logged_until = 0
        self._next_stop()
        if self._stop == 0:
            self._compare_checkpoints()

    # --- going through the positions --------------------------------------------------------------

    def go(
        self,
        entries: Iterator[tuple[int, bytes]],
        leaves: Iterator[tuple[int, bytes]],
        progress: Callable[[int], None],
    ) -> None:
        until = self.newest.checkpoint.size if self.newest else 0
        event, leaf = next(entries, None), next(leaves, None)
        while event is not None or leaf is not None:
            due = self.size + 1
            position = event[0] if event else _NOWHERE
            logged_at = leaf[0] + 1 if leaf else _NOWHERE
            if position < due:
                self._faults.append(_Fault(position, event[1] if event else None, None, sure=True))
                event = next(entries, None)
            elif logged_at < due:
                self._stray_leaf(logged_at - 1)
                leaf = next(leaves, None)
            elif due in (position, logged_at):
                here, there = position == due, logged_at == due
                self._take(
                    event[1] if event and here else None, leaf[1] if leaf and there else None
                )
                if here:
                    event = next(entries, None)
                if there:
                    leaf = next(leaves, None)
                if not due % PROGRESS_EVERY:
                    progress(due)
            elif due <= until:
                self._skip(min(position, logged_at, until + 1) - 1)
            elif position == logged_at:
                self._skip(position - 1)
            elif position < logged_at:
                # After a gap, past all that was signed, and the log knows nothing of it.
                self._faults.append(_Fault(position, event[1] if event else None, None, sure=True))
                event = next(entries, None)
            else:
                self._stray_leaf(logged_at - 1)
                leaf = next(leaves, None)
        progress(self.size)

    def _take(self, entry: bytes | None, logged: bytes | None) -> None:
        """Go one position on, with what stands there."""
        computed = sha256(b"\x00" + entry).digest() if entry else None
        self.size += 1
        if computed is not None and computed == logged and not self._parted:
            self._same.append(computed)
            if len(self._same) >= PROGRESS_EVERY:
                self._flush()
        else:
            self._take_apart(entry, computed, logged)
        if logged is not None:
            self._logged_until = self.size
        if entry and b'"log_key"' in entry and computed == logged:
            key = key_named(entry)
            if key is not None:
                self.named.append((self.size, key))
        if self.size == self._stop:
            self._compare_checkpoints()

    def _part(self) -> None:
        """From here on keep two trees, one of events and one of the log's hashes."""
        if not self._parted:
            self._flush()
            self._parted = True
            self._of_events, self._of_log = self._tree.copy(), self._tree.copy()

    def _take_apart(self, entry: bytes | None, computed: bytes | None, due: bytes | None) -> None:
        """Let each of the two trees grow by its own hash."""
        self._part()
        self._of_events = _grown(self._of_events, computed)
        self._of_log = _grown(self._of_log, due)
        if computed is None or computed != due:
            if len(self._odd) + len(self._faults) > FAULTS_KEPT_MAX and entry is not None:
                entry = b""
            self._odd.append(_Fault(self.size, entry, due, sure=False))

    def _skip(self, last: int) -> None:
        """Note that neither event nor hash stands from here to ``last``; no tree survives that."""
        self._part()
        self._of_events = self._of_log = None
        self._holes.append((self.size + 1, last))
        self.size = last
        while self._stop is not None and self._stop <= last:
            self._next_stop()

    def _flush(self) -> None:
        self._tree.extend(self._same)
        self._same = []
        self._compare_nodes(self._tree)

    def _stray_leaf(self, index: int) -> None:
        self.findings.append(
            Finding(
                Kind.LOG,
                f"The log holds a hash of an event {index + 1}, which there never was.",
                index + 1,
                tile=(0, index),
            )
        )

    # --- comparing with what was signed -----------------------------------------------------------

    def _next_stop(self) -> None:
        self._stop, self._here = next(self._stops, (None, ()))

    def _compare_checkpoints(self) -> None:
        """See which tree the checkpoints of this size fit, and settle what is open if one does."""
        here = self._here
        self._next_stop()
        if not self._parted:
            self._flush()
        trees = [self._of_events, self._of_log] if self._parted else [self._tree]
        roots = {tree.root(): tree for tree in reversed(trees) if tree is not None}
        if not roots:
            return  # a hole: it is reported, and nothing after it can be recomputed
        signed = None
        for each in here:
            tree = roots.get(each.checkpoint.root)
            (self.unfitting if tree is None else self.fitting).append(each)
            signed = signed or tree
        if self._parted and signed is not None:
            self._settle(signed)

    def _settle(self, tree: _Tree) -> None:
        """Go on with the tree that was signed; the other one is the edited one."""
        if tree is self._of_events:
            self._edited += [(each.position - 1, each.due is not None) for each in self._odd]
        else:
            for each in self._odd:
                self._faults.append(_Fault(each.position, each.entry, each.due, sure=True))
        self._tree, self._parted, self._odd = tree, False, []
        self._compare_nodes(tree)

    def _compare_nodes(self, tree: _Tree) -> None:
        for level, index, due in tree.done:
            stored = self.nodes.get((level, index))
            if stored != due:
                width = TILE_WIDTH**level
                what = "is missing" if stored is None else "is not that of the hashes below it"
                first, last = index * width + 1, (index + 1) * width
                self.findings.append(
                    Finding(
                        Kind.LOG,
                        f"The log's hash {index} of level {level}, over the events {first} to "
                        f"{last}, {what}.",
                        first,
                        last,
                        tile=(level, index),
                    )
                )
        tree.done.clear()

    # --- the verdict ------------------------------------------------------------------------------

    def verdict(self) -> Verdict:
        """Close the walk, and put into words what was found."""
        self._close()
        self.findings += _edited_leaves(self._edited)
        self.findings += _edited_events(self._faults, self._holes)
        self.findings += self._against_signatures()
        self.findings.sort(key=lambda each: (each.position is None, each.position or 0))
        return Verdict(
            self.size,
            tuple(self.findings),
            tuple(self.fitting),
            tuple(self.named),
        )

    def _close(self) -> None:
        """Judge what no checkpoint settled: the log's word counts, where it has one."""
        if not self._parted:
            self._flush()
        for tree in (self._of_log or self._of_events,) if self._parted else ():
            if tree is not None:
                self._compare_nodes(tree)
        since = self._fitted_before(_NOWHERE)
        unfitting = any(each.checkpoint.size > since for each in self.unfitting)
        covered = max(self._logged_until, self.newest.checkpoint.size if self.newest else 0)
        for each in self._odd:
            if each.due is None and each.position <= covered and not unfitting:
                self._edited.append((each.position - 1, False))
            else:
                sure = each.due is None and each.position > covered
                self._faults.append(_Fault(each.position, each.entry, each.due, sure=sure))
        for level, index in sorted(self.nodes):
            if not (level > 0 and 0 <= index < self.size >> TILE_HEIGHT * level):
                self.findings.append(
                    Finding(
                        Kind.LOG,
                        f"The log holds a hash {index} of level {level}, for which there are not "
                        "enough events.",
                        tile=(level, index),
                    )
                )

    def _fitted_before(self, size: int) -> int:
        """Return the largest size below this one of a checkpoint that fits; 0 without one."""
        return max(
            (each.checkpoint.size for each in self.fitting if each.checkpoint.size < size),
            default=0,
        )

    def _against_signatures(self) -> Iterator[Finding]:
        """Report the checkpoints that do not fit, and what was signed but is not there."""
        largest = max((each.checkpoint.size for each in self.fitting), default=-1)
        beyond = [each for each in self.unfitting if each.checkpoint.size > largest]
        for each in self.unfitting:
            if each.checkpoint.size <= largest:
                yield self._other_history(each)
        if beyond:
            yield self._rewritten(beyond[0])
            for one, other in pairwise(beyond):
                if one.checkpoint.size == other.checkpoint.size and (
                    one.checkpoint.root != other.checkpoint.root
                ):
                    yield self._two_roots(one, other)
        if self.newest is not None and self.newest.checkpoint.size > self.size:
            size = self.newest.checkpoint.size
            yield Finding(
                Kind.ROLLED_BACK,
                f"The record ends with event {self.size}, but {self.newest.source} is signed over "
                f"{size} events: the last {size - self.size} are gone, or this is another history.",
                self.size + 1,
                size,
                size,
            )

    def _other_history(self, each: Signed) -> Finding:
        size = each.checkpoint.size
        fitting = next(one for one in self.fitting if one.checkpoint.size >= size)
        first = self._fitted_before(size) + 1
        if each.beside:
            return Finding(
                Kind.CHECKPOINT,
                f"The checkpoint of {size} events in {each.source} is signed, but of another "
                f"history: the events fit {fitting.source}, signed over "
                f"{fitting.checkpoint.size} events.",
                size=size,
            )
        return Finding(
            Kind.FORK,
            f"Two histories: the log signed {each.source} over {size} events and "
            f"{fitting.source} over {fitting.checkpoint.size} events, and no record fits both. "
            f"They part between the events {first} and {size}.",
            first,
            size,
            size,
        )

    def _two_roots(self, one: Signed, other: Signed) -> Finding:
        size = one.checkpoint.size
        return Finding(
            Kind.FORK,
            f"Two histories: over {size} events the log signed one root in {one.source} and "
            f"another in {other.source}.",
            self._fitted_before(size) + 1,
            size,
            size,
        )

    def _rewritten(self, each: Signed) -> Finding:
        size = each.checkpoint.size
        since = self._fitted_before(size)
        spared = (
            f"The events up to {since} are untouched, as a smaller checkpoint shows."
            if since
            else "No smaller checkpoint narrows it down."
        )
        which = (
            f"event {size} was"
            if size == since + 1
            else f"at least one of the events {since + 1} to {size} was"
        )
        return Finding(
            Kind.CHANGED,
            f"The events do not fit {each.source}, signed over {size} events: {which} changed, "
            "taken out, slipped in or moved, and the log's hashes were made to match; or else "
            f"that checkpoint is of another history. {spared}",
            since + 1,
            size,
            size,
        )


def _grown(tree: _Tree | None, leaf: bytes | None) -> _Tree | None:
    if tree is None or leaf is None or len(leaf) != HASH_BYTES:
        return None
    tree.extend((leaf,))
    return tree


# --- what happened to an event --------------------------------------------------------------------


def _edited_leaves(edited: Iterable[tuple[int, bool]]) -> Iterator[Finding]:
    """Report hashes that the log holds wrong, or not at all, of events that are as signed."""
    for is_there, first, last in _runs((index + 1, is_there) for index, is_there in edited):
        of = f"event {first}" if first == last else f"each of the events {first} to {last}"
        done = "was changed" if is_there else "is missing"
        yield Finding(
            Kind.LOG,
            f"The log's hash of {of} {done}; what was recorded is untouched.",
            first,
            None if first == last else last,
            tile=(0, first - 1),
        )


def _edited_events(faults: Sequence[_Fault], holes: Iterable[tuple[int, int]]) -> Iterator[Finding]:
    """Tell changed, missing, reordered and inserted events apart.

    A row whose entry, under another position, is what the log took down there, was moved. What
    fits nowhere was inserted where the event that is due turns up elsewhere or none is due, and
    else changed.
    """
    homes = _homes(faults)
    found_at = {home: position for position, home in homes.items()}
    kinds: list[tuple[int, tuple[Kind, bool]]] = []
    for fault in faults:
        position = fault.position
        if position in homes:
            yield Finding(
                Kind.REORDERED,
                f"Event {homes[position]} stands at position {position}.",
                position,
            )
            if fault.due is not None and position not in found_at:
                kinds.append((position, (Kind.MISSING, fault.sure)))
        elif fault.entry is None:
            if position in found_at:
                yield Finding(
                    Kind.REORDERED,
                    f"Event {position} stands at position {found_at[position]}.",
                    position,
                )
            else:
                kinds.append((position, (Kind.MISSING, fault.sure)))
        elif position in found_at or (fault.due is None and fault.sure):
            kinds.append((position, (Kind.INSERTED, fault.sure)))
        else:
            kinds.append((position, (Kind.CHANGED, fault.sure)))
    for first, last in holes:
        yield _in_words(Kind.MISSING, first, last, sure=True)
    for (kind, sure), first, last in _runs(kinds):
        yield _in_words(kind, first, last, sure=sure)


def _in_words(kind: Kind, first: int, last: int, *, sure: bool) -> Finding:
    many = first != last
    events = f"Events {first} to {last}" if many else f"Event {first}"
    were, they = ("were", "they are") if many else ("was", "it is")
    said = {
        Kind.CHANGED: f"{events} {were} changed: {they} not what the log took down.",
        Kind.MISSING: f"{events} {'are' if many else 'is'} missing.",
        Kind.INSERTED: f"{events} {were} inserted: the log never took {'them' if many else 'it'} "
        "down.",
    }[kind]
    if not sure and kind is Kind.CHANGED:
        said += " No signed checkpoint shows whether the event or its hash was edited."
    return Finding(kind, said, first, last if many else None)


def _homes(faults: Sequence[_Fault]) -> dict[int, int]:
    """Find out where displaced events belong: the position at which each is what is due."""
    due = {fault.position: fault.due for fault in faults if fault.due is not None}
    homes: dict[int, int] = {}
    trials, offset = TRIALS_MAX, 0
    for fault in faults:
        if not fault.entry:
            continue
        # Rows that were renumbered together moved by the same number of positions.
        for home in chain((fault.position + offset,), due):
            if home == fault.position or home not in due:
                continue
            if not trials:
                return homes
            trials -= 1
            moved = fault.entry[:1] + home.to_bytes(8, "big") + fault.entry[_POSITION.stop :]
            if sha256(b"\x00" + moved).digest() == due[home]:
                homes[fault.position] = home
                offset = home - fault.position
                del due[home]
                break
    return homes


def _runs(positions: Iterable[tuple[int, T]]) -> Iterator[tuple[T, int, int]]:
    """Join neighbours with the same label; yields label, first and last position."""
    run: tuple[T, int, int] | None = None
    for position, label in sorted(positions, key=lambda each: each[0]):
        if run is not None and (label, position) == (run[0], run[2] + 1):
            run = (label, run[1], position)
        else:
            if run is not None:
                yield run
            run = (label, position, position)
    if run is not None:
        yield run
