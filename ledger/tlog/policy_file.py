"""Which logs, which witnesses, and how many of those: the policy that people exchange as a file.

Trust: the file is the trust. Whoever may change it decides whom its reader believes.

Implements C2SP tlog-policy. Lines, whose items are parted by spaces or tabs:

    log <vkey> [<url>]
    witness <name> <vkey> [<url>]
    group <name> all|any|<k> <member>...      at least k of the members: witnesses or groups
    quorum <name>|none                        exactly one
    # a comment

A name is known from the line after the one that defines it, so groups cannot be circular, and is a
member of one group at most, so nobody counts twice. Names are for this file alone: a witness is
known elsewhere by the name in its key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ledger.tlog.checkpoint import LogKey
from ledger.tlog.merkle import LogFormatError
from ledger.tlog.note import KeyType, VerifierKey, format_vkey, parse_vkey

MAX_POLICY_BYTES = 256 * 1024
MAX_POLICY_LINES = 1024
"""Far beyond the 32 logs, 32 witnesses and 32 groups that every reader should take."""

_NOBODY = "none"
_FORBIDDEN = re.compile(rb"[^\t\n\x20-\x7e\x80-\xff]")
_BLANKS = re.compile(r"[ \t]+")
_BREAKS = re.compile(r"[\t\n ]")
_THRESHOLD = re.compile(r"[1-9][0-9]{0,3}")


@dataclass(frozen=True, slots=True)
class PolicyLog:
    """A log that the policy accepts, and where it is, if the policy says so."""

    key: VerifierKey
    url: str | None = None


@dataclass(frozen=True, slots=True)
class PolicyWitness:
    """A witness under the policy's name for it; `url` is its submission prefix."""

    name: str
    key: VerifierKey
    url: str | None = None


@dataclass(frozen=True, slots=True)
class PolicyGroup:
    """Has seen a checkpoint when at least `threshold` of its members have."""

    name: str
    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """A policy. `groups` stand in an order in which each refers backwards only; `quorum` is the
    name of the witness or group that must have seen a checkpoint, None when nobody need.

    Raises LogFormatError for one that `parse_policy_file` would refuse.
    """

    logs: tuple[PolicyLog, ...] = ()
    witnesses: tuple[PolicyWitness, ...] = ()
    groups: tuple[PolicyGroup, ...] = ()
    quorum: str | None = None

    def __post_init__(self) -> None:
        for log in self.logs:
            LogKey(log.key)
        for witness in self.witnesses:
            if witness.key.type is not KeyType.COSIGNATURE:
                raise LogFormatError(f"the key of the witness {witness.name} is not of type 04")
        _refuse_twice("log", [log.key for log in self.logs])
        _refuse_twice("witness", [witness.key for witness in self.witnesses])
        for word in self._words():
            if not word or _BREAKS.search(word) or _FORBIDDEN.search(_encode(word)):
                raise LogFormatError(f"{word!r} cannot stand in a policy: it is no single word")
        known: set[str] = {_NOBODY}
        for witness in self.witnesses:
            _define(witness.name, known)
        taken: set[str] = {_NOBODY}
        for group in self.groups:
            if not 1 <= group.threshold <= len(group.members):
                raise LogFormatError(
                    f"{group.threshold} of {len(group.members)} members: {group.name} is no group"
                )
            for member in group.members:
                if member not in known or member == _NOBODY:
                    raise LogFormatError(f"{group.name} refers to {member}, not defined before it")
                if member in taken:
                    raise LogFormatError(f"{member} is listed as a member twice")
                taken.add(member)
            _define(group.name, known)
        if self.quorum is not None and (self.quorum == _NOBODY or self.quorum not in known):
            raise LogFormatError(f"the quorum refers to {self.quorum}, not defined before it")

    def is_met_by(self, cosigners: Iterable[VerifierKey]) -> bool:
        """Tell whether these keys, each with a verified cosignature, make up the quorum."""
        if self.quorum is None:
            return True
        keys = set(cosigners)
        seen = {witness.name for witness in self.witnesses if witness.key in keys}
        for group in self.groups:
            if sum(member in seen for member in group.members) >= group.threshold:
                seen.add(group.name)
        return self.quorum in seen

    def _words(self) -> Iterable[str]:
        for log in self.logs:
            yield from _vkey_and_url(log)
        for witness in self.witnesses:
            yield witness.name
            yield from _vkey_and_url(witness)
        for group in self.groups:
            yield group.name


def parse_policy_file(data: bytes) -> PolicyFile:
    """Read a policy. Raises LogFormatError, which names the line where one alone is at fault."""
    if len(data) > MAX_POLICY_BYTES or data.count(b"\n") > MAX_POLICY_LINES:
        raise LogFormatError(
            f"a policy has at most {MAX_POLICY_LINES} lines and {MAX_POLICY_BYTES} bytes"
        )
    if _FORBIDDEN.search(data):
        raise LogFormatError("the policy has a control character")
    if data and not data.endswith(b"\n"):
        raise LogFormatError("the policy's last line has no end")
    found = _Lines()
    # Bytes that are no UTF-8 are opaque, and come back as they were.
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    for number, line in enumerate(lines, start=1):
        words = _BLANKS.split(line.strip(" \t"))
        if words == [""] or words[0].startswith("#"):
            continue
        try:
            found.read(words)
        except LogFormatError as error:
            raise LogFormatError(f"line {number}: {error}") from None
    if found.quorum is None:
        raise LogFormatError("the policy has no quorum line; to need nobody, write: quorum none")
    return PolicyFile(
        tuple(found.logs),
        tuple(found.witnesses),
        tuple(found.groups),
        None if found.quorum == _NOBODY else found.quorum,
    )


def format_policy_file(policy: PolicyFile) -> bytes:
    """Write a policy as `parse_policy_file` reads it."""
    lines = [
        *(("log", format_vkey(log.key), log.url) for log in policy.logs),
        *(("witness", each.name, format_vkey(each.key), each.url) for each in policy.witnesses),
        *(("group", each.name, str(each.threshold), *each.members) for each in policy.groups),
        ("quorum", policy.quorum or _NOBODY),
    ]
    return _encode("".join(" ".join(word for word in line if word) + "\n" for line in lines))


class _Lines:
    """What the lines so far define, in their order."""

    def __init__(self) -> None:
        self.logs: list[PolicyLog] = []
        self.witnesses: list[PolicyWitness] = []
        self.groups: list[PolicyGroup] = []
        self.quorum: str | None = None
        self._names: set[str] = set()

    def read(self, words: list[str]) -> None:
        match words:
            case ["log", vkey, *url] if len(url) <= 1:
                self.logs.append(PolicyLog(parse_vkey(vkey), *url))
            case ["witness", name, vkey, *url] if len(url) <= 1:
                self.witnesses.append(PolicyWitness(name, parse_vkey(vkey), *url))
                self._names.add(name)
            case ["group", name, threshold, *members] if members:
                self._check_backward(members)
                needed = _parse_threshold(threshold, len(members))
                self.groups.append(PolicyGroup(name, needed, tuple(members)))
                self._names.add(name)
            case ["quorum", name]:
                if self.quorum is not None:
                    raise LogFormatError("a policy has one quorum line")
                if name != _NOBODY:
                    self._check_backward([name])
                self.quorum = name
            case ["log" | "witness" | "group" | "quorum", *_]:
                raise LogFormatError(f"a {words[0]} line has more or fewer words")
            case _:
                raise LogFormatError(f"{words[0]!r} begins no line of a policy")

    def _check_backward(self, names: list[str]) -> None:
        for name in names:
            if name not in self._names:
                raise LogFormatError(f"{name} is not defined on a line before")


def _vkey_and_url(placed: PolicyLog | PolicyWitness) -> Iterable[str]:
    yield format_vkey(placed.key)
    if placed.url is not None:
        yield placed.url


def _parse_threshold(text: str, members: int) -> int:
    if text == "all":
        return members
    if text == "any":
        return 1
    if not _THRESHOLD.fullmatch(text):
        raise LogFormatError(f"{text!r} is neither all nor any nor a number of members")
    return int(text)


def _define(name: str, known: set[str]) -> None:
    if name in known:
        raise LogFormatError(f"{name} is defined twice")
    known.add(name)


def _refuse_twice(kind: str, keys: list[VerifierKey]) -> None:
    if len({key.public_key for key in keys}) != len(keys):
        raise LogFormatError(f"a {kind} is listed twice, be it under two names")


def _encode(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise LogFormatError("the policy cannot be written as UTF-8") from error
