"""What happened, in order?

The rows find events; the events themselves are read from the store, by position. ``recorded_at``
never goes back along positions, so a span of time is a span of positions, and the newest event is
the one with the highest.

What many events have in common (a type, an operator, a clause) is kept as sets of positions, a
bitmap for each block of events: what is asked for is an intersection, and a count is its size. What
few have in common (a subject) is found by an index, and words by the index of words.
"""

from __future__ import annotations

import sys
import unicodedata
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, ClassVar, Final, Literal, Protocol, TypedDict, Unpack

import orjson
from eventsourcing.persistence import Cursor
from pyroaring import BitMap

from ledger.domain.errors import InvalidValue
from ledger.domain.events import (
    Event,
    GroupDefined,
    RecordDisclosed,
    Recorded,
    ResourceListed,
    SubjectEvent,
    SubjectReinstated,
    SubjectSuspended,
    SuspensionCancelled,
    SuspensionRevised,
    ViolationOverturned,
    ViolationRecorded,
    WarningIssued,
)
from ledger.domain.values import (
    OneResource,
    ResourcesOfType,
    Scope,
    format_instant,
)

SEARCH_CHARS_MAX: Final = 1_000  # a long sentence, pasted as it is
SEARCH_WORDS_MAX: Final = 50  # every word costs a walk through the index
WORD_CHARS_MAX: Final = 256  # of a longer word, so many count: an index entry has its limits
# Each is a multiple of the one before it. To change one is to derive the tables anew.
BLOCK_EVENTS: Final = 1_024  # few enough to read their rows on every question
MERGED_EVENTS: Final = 65_536  # of which a bitmap takes 8 KB at most, and the fewest rows
TEXTS_READ_MAX: Final = 2_048  # events whose words are read sooner than the index of words is asked
_WIDER: Final = 8  # times the events looked at before, where these did not fill a page

# What events are counted by, each with the filter that asks for one of its values.
_FACETS: Final = {
    "type": "types",
    "operator": "operator",
    "month": None,
    "category": "category",
    "policy": "policy",
    "clause": "clause",
    "resource": "resource",
    "subject_type": "subject_type",
}
_EVERY: Final = "resource_type"  # the facet of those that concern every resource of a type
_AFTER_ALL: Final = "\U0010ffff"  # no value begins with this character, or comes after it


class Filters(TypedDict, total=False):
    """Which events are meant: all that are given must hold, and ``None`` and ``()`` say nothing.

    ``policy`` is a policy (``acceptable-use``) or a version of one (``acceptable-use@1``),
    ``clause`` one of either (``acceptable-use@1/bots``) or, alone, of the ``policy`` that is given,
    and ``resource`` a resource's key. Times are those of recording, from included, to excluded.
    ``q`` is words that must all occur in the sentence, or in the ids of what the event made and
    rests on: ``alic*`` is any word that begins so, ``user:alice`` both words in a row.
    """

    subject: str | None
    subject_type: str | None
    types: Sequence[str]
    operator: str | None
    on_behalf_of: str | None
    policy: str | None
    clause: str | None
    category: str | None
    resource: str | None
    recorded_from: datetime | None
    recorded_to: datetime | None
    q: str | None


@dataclass(frozen=True, slots=True)
class _Rows:
    """Events by a condition on the rows of a table whose ``key`` is a position."""

    condition: str
    values: Sequence[object]
    table: str = "trail"
    key: str = "position"


@dataclass(frozen=True, slots=True)
class _Values:
    """The values of a facet from ``low`` to before ``high``, or ``low`` alone, with this ending."""

    facet: str
    low: str
    high: str | None = None
    ending: str = ""

    def holds(self, facet: str, value: str) -> bool:
        """Tell whether this is one of the values."""
        return (
            facet == self.facet
            and (value == self.low if self.high is None else self.low <= value < self.high)
            and value.endswith(self.ending)
        )


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is asked for: all of it must hold, of a facet one of the values that are given."""

    facets: Mapping[str, Sequence[_Values]]
    rows: Sequence[_Rows]
    phrases: Sequence[Phrase] | None
    first: int
    last: int


# --- words ----------------------------------------------------------------------------------------


class _Plain(dict[int, str]):
    """What each character is in words: a small letter without accents, a digit, or a space.

    By Unicode 3.2, which no Python will ever change, so a rebuild finds the same words. What came
    to Unicode later counts as a letter of its own.
    """

    _unicode: Final = unicodedata.ucd_3_2_0

    def __missing__(self, code: int) -> str:
        parts = self._unicode.normalize("NFKD", chr(code))
        self[code] = plain = "".join(map(self._plain, parts))
        return plain

    def _plain(self, character: str) -> str:
        match self._unicode.category(character):
            case "Lu" | "Ll" | "Lt" | "Lm" | "Lo" | "Nd" | "Nl" | "No":
                return character.casefold()
            case "Mn" | "Mc" | "Me":
                return "" if self._unicode.combining(character) else character
            case "Cn" | "Co":
                return character
            case _:
                return " "


_PLAIN: Final = _Plain()
_PLAIN_ASCII: Final = "".join(_PLAIN[code] for code in range(128)).encode() + bytes(128)


def words_in(text: str) -> list[str]:
    """Return the words of a text as they are indexed and searched for, on every store.

    An id falls into words at its punctuation. No word holds a character that any syntax knows.
    """
    if text.isascii():  # the same, ten times as fast
        plain = text.encode().translate(_PLAIN_ASCII).decode()
    else:
        plain = text.translate(_PLAIN)
    return [word[:WORD_CHARS_MAX] for word in plain.split()]


@dataclass(frozen=True, slots=True)
class Phrase:
    """Words in a row; the last is only the beginning of one if ``begins``."""

    words: tuple[str, ...]
    begins: bool

    def is_in(self, text: str) -> bool:
        """Tell whether it occurs in words that have a space before and after each."""
        return f" {' '.join(self.words)}{'' if self.begins else ' '}" in text


class _Words(Protocol):
    """How a store keeps the words of each event, finds events by them, and tells a set of rows."""

    DDL: Sequence[str]
    ADD: str
    """Adds an event: its position and its words, between which stand spaces."""
    TEXTS: str
    """Asks for the position and the words of each of the positions in a JSON array."""
    AS_ONE: str
    """Makes one value of a column of positions: a tenth of the time that as many rows take."""

    def positions(self, found: Any) -> BitMap:
        """Return the positions in such a value."""

    def holding(self, phrases: Sequence[Phrase]) -> _Rows:
        """Return the filter that all of these phrases occur."""


class _FTS5:
    """The words on SQLite: row ids are positions. What is no ASCII is left as it is.

    Beginnings of two and three characters are indexed, because all ids of some years begin alike:
    by the fourth character an id tells which twelve days it is of.
    """

    DDL: Sequence[str] = (
        """CREATE VIRTUAL TABLE IF NOT EXISTS trail_words USING fts5 (
            words, columnsize=0, tokenize='ascii', prefix='2 3')""",
    )
    ADD: str = "INSERT INTO trail_words (rowid, words) VALUES (?, ?)"
    TEXTS: str = (
        "SELECT rowid, words FROM trail_words WHERE rowid IN (SELECT value FROM json_each(?))"
    )
    AS_ONE: str = "json_group_array({})"

    def positions(self, found: str) -> BitMap:
        """Return the positions in a JSON array."""
        return BitMap(orjson.loads(found))

    def holding(self, phrases: Sequence[Phrase]) -> _Rows:
        """Return the filter that all of these phrases occur; FTS5 finds nothing for none."""
        query = " ".join(f'"{" ".join(each.words)}"{"*" * each.begins}' for each in phrases) or '""'
        return _Rows("trail_words MATCH ?", (query,), "trail_words", "rowid")


class _TextSearch:
    """The words on PostgreSQL: words are lexemes as they are, without a dictionary or a parser.

    The index knows which words an event has. That they stand in a row is looked up in the text,
    because places in a ``tsvector`` end at 16,383 and are kept for 256 occurrences of a word.

    Making the ``tsvector`` of a row has a price of its own, without which the planner takes it for
    nearly free and makes that of every row rather than look into the index.
    """

    DDL: Sequence[str] = (
        """CREATE TABLE IF NOT EXISTS trail_words (
            position INTEGER PRIMARY KEY,
            words TEXT NOT NULL
        ) STRICT""",
        """CREATE OR REPLACE FUNCTION trail_lexemes(words text) RETURNS tsvector
            LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE COST 100000 AS $$
            BEGIN RETURN array_to_tsvector(string_to_array(words, ' ')); END $$""",
        """CREATE INDEX IF NOT EXISTS trail_words_each ON trail_words
            USING gin (trail_lexemes(words))""",
    )
    ADD: str = "INSERT INTO trail_words (position, words) VALUES (?, ?)"
    TEXTS: str = (
        "SELECT position, words FROM trail_words WHERE position IN "
        "(SELECT CAST(each AS BIGINT) FROM json_array_elements_text(CAST(? AS json)) each)"
    )
    AS_ONE: str = "string_agg(int4send(CAST({} AS integer)), '')"  # several workers can make it

    def positions(self, found: bytes | None) -> BitMap:
        """Return the positions in a text of four bytes each, the most significant first."""
        numbers = array("I", found or b"")
        if sys.byteorder == "little":
            numbers.byteswap()
        return BitMap(numbers)

    def holding(self, phrases: Sequence[Phrase]) -> _Rows:
        """Return the filter that all of these phrases occur; an empty query finds nothing."""
        lexemes: dict[str, None] = {}
        rows = []
        for each in phrases:
            *whole, last = each.words
            lexemes |= dict.fromkeys(f"'{word}'" for word in whole)
            lexemes[f"'{last}'{':*' * each.begins}"] = None
            if whole:
                rows.append(f" {' '.join(each.words)}{'' if each.begins else ' '}")
        condition = "trail_lexemes(words) @@ CAST(? AS tsquery)"
        condition += " AND strpos(' ' || words || ' ', ?) > 0" * len(rows)
        return _Rows(condition, (" & ".join(lexemes), *rows), "trail_words")


_WORDS: Final[dict[str, _Words]] = {"sqlite": _FTS5(), "postgresql": _TextSearch()}


# --- the tables -----------------------------------------------------------------------------------


class TrailRows:
    """The tables of events by what they concern, and the questions they answer.

    An event concerns the clauses and the resources that it names, and one about an earlier
    suspension or violation concerns what that one does. A group stands for the members it had then.
    A selector of all resources of a type is kept as the bare type, which can be no resource's key.
    """

    NAME: ClassVar[str] = "trail"
    TABLES: ClassVar[Sequence[str]] = (
        "trail",
        "trail_words",
        "trail_members",
        "trail_about",
        "trail_groups",
    )
    # An index of ``trail`` ends with its key, so each of them is in the order of positions.
    _DDL: ClassVar[Sequence[str]] = (
        """CREATE TABLE IF NOT EXISTS trail (
            position INTEGER PRIMARY KEY,
            type TEXT NOT NULL,
            subject TEXT,
            operator TEXT NOT NULL,
            on_behalf_of TEXT,
            recorded_at TEXT NOT NULL,
            clauses TEXT,
            resources TEXT
        ) STRICT""",
        "CREATE INDEX IF NOT EXISTS trail_subject ON trail (subject, position)",
        """CREATE INDEX IF NOT EXISTS trail_on_behalf_of ON trail (on_behalf_of, position)
            WHERE on_behalf_of IS NOT NULL""",
        "CREATE INDEX IF NOT EXISTS trail_recorded_at ON trail (recorded_at, position)",
        # Which events of the block that ends at ``block_end`` have a value: a roaring bitmap.
        """CREATE TABLE IF NOT EXISTS trail_members (
            facet TEXT NOT NULL,
            value TEXT NOT NULL,
            block_end INTEGER NOT NULL,
            members BLOB NOT NULL,
            PRIMARY KEY (facet, value, block_end)
        ) STRICT""",
        """CREATE TABLE IF NOT EXISTS trail_about (
            id TEXT PRIMARY KEY,
            clauses TEXT NOT NULL,
            resources TEXT NOT NULL
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE IF NOT EXISTS trail_groups (
            name TEXT PRIMARY KEY,
            resources TEXT NOT NULL
        ) STRICT, WITHOUT ROWID""",
    )

    def __init__(self, dialect: Literal["sqlite", "postgresql"] = "sqlite") -> None:
        self._words = _WORDS[dialect]
        self.DDL: Sequence[str] = (*self._DDL, *self._words.DDL)

    def apply(self, cursor: Cursor, recorded: Recorded) -> None:
        """Write what one event is and what it concerns.

        All statements but one at the end of a block write one row. For one that may write several
        SQLite sets a savepoint, at which FTS5 writes out what it holds: slower than all the rest.
        """
        event, position = recorded.event, recorded.position
        clauses: list[Sequence[str]] = []
        resources: list[str] = []
        match event:
            case ViolationRecorded():
                clauses = [(event.policy, event.clause, event.category)]
                resources = [resource.key for resource in event.resources]
                _remember(cursor, event.violation, clauses, resources)
            case SubjectSuspended():
                clauses = [(c.policy, c.clause, c.category) for c in event.clauses]
                resources = _covered(cursor, event.scope)
                _remember(cursor, event.suspension, clauses, resources)
            case (
                SuspensionRevised(suspension=id_)
                | SuspensionCancelled(suspension=id_)
                | SubjectReinstated(suspension=id_)
                | ViolationOverturned(violation=id_)
            ):
                cursor.execute("SELECT clauses, resources FROM trail_about WHERE id = ?", (id_,))
                clauses, resources = map(orjson.loads, cursor.fetchone())
            case WarningIssued():
                clauses = [(c.policy, c.clause, c.category) for c in event.clauses]
            case ResourceListed():
                resources = [event.resource.key]
            case GroupDefined():
                resources = [resource.key for resource in event.resources]
                cursor.execute(
                    "INSERT INTO trail_groups VALUES (?, ?) ON CONFLICT (name) "
                    "DO UPDATE SET resources = excluded.resources",
                    (event.group, _json(resources)),
                )
            case _:
                pass
        cursor.execute(
            "INSERT INTO trail VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                position,
                event.TYPE,
                _subject(event),
                recorded.author.operator,
                recorded.author.on_behalf_of,
                format_instant(recorded.recorded_at),
                _json(clauses) if clauses else None,
                _json(resources) if resources else None,
            ),
        )
        cursor.execute(self._words.ADD, (position, " ".join(words_in(_text(recorded)))))
        if position % BLOCK_EVENTS == 0:
            _end_block(cursor, position)

    # --- questions --------------------------------------------------------------------------------

    def events(
        self,
        cursor: Cursor,
        *,
        position: int,
        limit: int,
        cursor_position: int | None = None,
        oldest_first: bool = False,
        **filters: Unpack[Filters],
    ) -> list[int]:
        """Return the positions of events as known at ``position``, the newest first.

        ``cursor_position`` is where the page before ended.
        Raises ``InvalidValue`` for a ``q`` of too many words or characters.
        """
        asked = _understood(cursor, position, **filters)
        first, last = asked.first, asked.last
        if cursor_position is not None and oldest_first:
            first = max(first, cursor_position + 1)
        elif cursor_position is not None:
            last = min(last, cursor_position - 1)
        search = _Search(cursor, self._words)
        found: list[int] = []
        # Where the nearest events fill no page, more are looked at, and then more again. What a
        # single index can tell in the order of positions, it is asked for at once.
        span = BLOCK_EVENTS
        alone = not asked.facets and len(asked.rows) + (asked.phrases is not None) <= 1
        while first <= last and len(found) < limit:
            missing = limit - len(found)
            if alone and (asked.phrases is None or span > BLOCK_EVENTS):
                return found + search.in_order(
                    asked, first, last, missing, oldest_first=oldest_first
                )
            if oldest_first:
                low, high = first, min(last, first + span - 1)
                first = high + 1
            else:
                low, high = max(first, last - span + 1), last
                last = low - 1
            matching = search.matching(asked, low, high)
            found += matching[:missing] if oldest_first else reversed(matching[-missing:])
            span *= _WIDER
        return found

    def counts(
        self,
        cursor: Cursor,
        *,
        position: int,
        alternatives: bool = False,
        **filters: Unpack[Filters],
    ) -> dict[str, object]:
        """Count the events as known at ``position``: in all, and by each facet, most first.

        An event counts once for every policy version, clause, category and resource that it
        concerns, and for the ``month`` in which it was recorded. A value counts as often as asking
        for it, too, would find; with ``alternatives``, as asking for it instead of the value of the
        same facet that is asked for. Raises ``InvalidValue`` as ``events`` does.
        """
        asked = _understood(cursor, position, **filters)
        search = _Search(cursor, self._words)
        of = {
            name: search.members(values, asked.first, asked.last)
            for name, values in asked.facets.items()
        }
        every = _span(asked.first, asked.last)
        narrowed = every if alternatives else BitMap.intersection(every, *of.values())
        narrowed = search.narrowed(asked, narrowed)
        whole = BitMap.intersection(narrowed, *of.values())
        bases = dict.fromkeys(_FACETS, whole)
        if alternatives:
            for facet, name in _FACETS.items():
                if name in of:
                    others = [members for other, members in of.items() if other != name]
                    bases[facet] = BitMap.intersection(narrowed, *others)
        return {
            "total": len(whole),
            **{
                facet: [
                    {"value": value, "count": count}
                    for value, count in sorted(
                        search.counted(facet, bases[facet], asked.first, asked.last).items(),
                        key=lambda item: (-item[1], item[0]),
                    )
                ]
                for facet in _FACETS
            },
        }


# --- writing --------------------------------------------------------------------------------------


def _subject(event: Event) -> str | None:
    """Return the key of the subject that an event is about, or whose data it says was shown."""
    if not isinstance(event, SubjectEvent | RecordDisclosed) or event.subject is None:
        return None
    return event.subject.key


def _text(recorded: Recorded) -> str:
    """Return the sentence, with ids that it leaves out: of what the event made, and its grounds.

    Sealed text is not in it.
    """
    event, sentence = recorded.event, recorded.sentence
    ids = [event.about or ""]
    if isinstance(event, SubjectSuspended | WarningIssued):
        ids += event.grounds
    return " ".join([sentence, *(id_ for id_ in ids if id_ not in sentence)])


def _covered(cursor: Cursor, scope: Scope) -> list[str]:
    """Return what a scope selects, with the present members of its groups."""
    resources: list[str] = []
    for selector in scope.resources:
        if isinstance(selector, OneResource):
            resources.append(selector.label)
        elif isinstance(selector, ResourcesOfType):
            resources.append(selector.type)
        else:
            cursor.execute("SELECT resources FROM trail_groups WHERE name = ?", (selector.group,))
            resources += orjson.loads(cursor.fetchone()[0])
    return list(dict.fromkeys(resources))


def _remember(
    cursor: Cursor, id_: str, clauses: Sequence[object], resources: Sequence[str]
) -> None:
    """Keep what a suspension or violation concerns, for what will be about it."""
    cursor.execute(
        "INSERT INTO trail_about VALUES (?, ?, ?)", (id_, _json(clauses), _json(resources))
    )


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


# --- blocks ---------------------------------------------------------------------------------------


_CONCERNS: Final = (
    "SELECT position, type, operator, subject, recorded_at, clauses, resources FROM trail "
    "WHERE position > ? AND position <= ?"
)
_ADD_MEMBERS: Final = "INSERT INTO trail_members VALUES (?, ?, ?, ?)"


def _members_in(rows: Iterable[Any]) -> dict[tuple[str, str], BitMap]:
    """Return which of these events have each value of each facet."""
    members: dict[tuple[str, str], list[int]] = defaultdict(list)
    for position, type_, operator, subject, recorded_at, clauses, resources in rows:
        values = {("type", type_), ("operator", operator), ("month", recorded_at[:7])}
        if subject is not None:
            values.add(("subject_type", _type_of(subject)))
        for policy, clause, category in orjson.loads(clauses or "[]"):
            values |= {
                ("policy", policy),
                ("clause", f"{policy}/{clause}"),
                ("category", category),
            }
        for resource in orjson.loads(resources or "[]"):
            values.add(("resource" if ":" in resource else _EVERY, resource))
        for value in values:
            members[value].append(position)
    return {value: BitMap(positions) for value, positions in members.items()}


def _end_block(cursor: Cursor, position: int) -> None:
    """Write the members of the block that ends here, or of all blocks that are merged here."""
    cursor.execute(_CONCERNS, (position - BLOCK_EVENTS, position))
    members = _members_in(cursor.fetchall())
    if position % MERGED_EVENTS == 0:
        earlier = position - MERGED_EVENTS
        cursor.execute(
            "SELECT facet, value, members FROM trail_members WHERE block_end > ?", (earlier,)
        )
        for facet, value, part in cursor.fetchall():
            members[facet, value] = members.get((facet, value), BitMap()) | BitMap.deserialize(part)
        cursor.execute("DELETE FROM trail_members WHERE block_end > ?", (earlier,))
    for (facet, value), found in sorted(members.items(), key=lambda item: item[0]):
        found.run_optimize()  # so that equal sets have equal bytes, however they were made
        cursor.execute(_ADD_MEMBERS, (facet, value, position, found.serialize()))


def _type_of(key: str) -> str:
    return key.partition(":")[0]


# --- finding --------------------------------------------------------------------------------------


_EVERY_EVENT: Final = _Rows("true", ())


def _understood(
    cursor: Cursor,
    position: int,
    *,
    subject: str | None = None,
    subject_type: str | None = None,
    types: Sequence[str] = (),
    operator: str | None = None,
    on_behalf_of: str | None = None,
    policy: str | None = None,
    clause: str | None = None,
    category: str | None = None,
    resource: str | None = None,
    recorded_from: datetime | None = None,
    recorded_to: datetime | None = None,
    q: str | None = None,
) -> _Asked:
    """Return what was asked for, with the first and last position that may match."""
    phrases = _searched(q)
    first, last = 1, position
    if recorded_from is not None:
        cursor.execute(
            "SELECT position FROM trail WHERE recorded_at >= ? "
            "ORDER BY recorded_at, position LIMIT 1",
            (format_instant(recorded_from),),
        )
        row = cursor.fetchone()
        first = row[0] if row else position + 1
    if recorded_to is not None:
        cursor.execute(
            "SELECT position FROM trail WHERE recorded_at < ? "
            "ORDER BY recorded_at DESC, position DESC LIMIT 1",
            (format_instant(recorded_to),),
        )
        row = cursor.fetchone()
        last = min(position, row[0]) if row else 0
    facets = {
        "types": [_Values("type", type_) for type_ in dict.fromkeys(types)],
        "subject_type": _exactly("subject_type", subject_type),
        "operator": _exactly("operator", operator),
        "category": _exactly("category", category),
        "policy": _of_policy(policy),
        "clause": _of_clause(clause, policy),
        "resource": _of_resource(resource),
    }
    rows = [("subject", subject), ("on_behalf_of", on_behalf_of)]
    return _Asked(
        facets={name: values for name, values in facets.items() if values},
        rows=[_Rows(f"{name} = ?", (value,)) for name, value in rows if value is not None],
        phrases=phrases,
        first=first,
        last=last,
    )


def _exactly(facet: str, value: str | None) -> list[_Values]:
    return [] if value is None else [_Values(facet, value)]


def _of_policy(policy: str | None) -> list[_Values]:
    if policy is None or "@" in policy:
        return _exactly("policy", policy)
    # "aup@" to "aupA" is every version of aup, because A is the character after @.
    return [_Values("policy", f"{policy}@", f"{policy}A")]


def _of_clause(clause: str | None, policy: str | None) -> list[_Values]:
    """Return a clause of a policy version, of every version of a policy, or of any policy."""
    if clause is None:
        return []
    if "/" not in clause:
        if policy is None:
            return [_Values("clause", "", _AFTER_ALL, f"/{clause}")]
        clause = f"{policy}/{clause}"
    policy, _, id_ = clause.partition("/")
    if "@" in policy:
        return [_Values("clause", clause)]
    return [_Values("clause", f"{policy}@", f"{policy}A", f"/{id_}")]


def _of_resource(resource: str | None) -> list[_Values]:
    """Return a resource, and what concerns every resource of its type."""
    if resource is None:
        return []
    return [_Values("resource", resource), _Values(_EVERY, _type_of(resource))]


def _searched(q: str | None) -> list[Phrase] | None:
    """Return what ``q`` asks for; ``None`` when it is blank, and nothing where it has no words."""
    if q is None:
        return None
    asked = dict.fromkeys(q[: SEARCH_CHARS_MAX + 1].split())
    if len(q) > SEARCH_CHARS_MAX or len(asked) > SEARCH_WORDS_MAX:
        raise InvalidValue(
            f"q may have {SEARCH_CHARS_MAX} characters and {SEARCH_WORDS_MAX} words", field="q"
        )
    phrases = [Phrase(tuple(words_in(each)), each.endswith("*")) for each in asked]
    return [each for each in phrases if each.words] if asked else None


def _span(first: int, last: int) -> BitMap:
    return BitMap(range(first, max(first, last + 1)))


def _block_condition(values: _Values, first: int, last: int) -> tuple[str, list[object]]:
    """Return what holds for the rows of blocks that may have these values in this span."""
    if values.high is None:
        condition, among = "value = ?", [values.low]
    else:
        condition, among = "value >= ? AND value < ?", [values.low, values.high]
    return (
        f"facet = ? AND {condition} AND block_end >= ? AND block_end < ?",
        [values.facet, *among, first, last + MERGED_EVENTS],
    )


class _Search:
    """One question to the tables, of which it reads the same rows once."""

    def __init__(self, cursor: Cursor, words: _Words) -> None:
        self._cursor = cursor
        self._words = words
        cursor.execute("SELECT max(position) FROM trail")
        row = cursor.fetchone()
        head = (row and row[0]) or 0
        self._ended = head // BLOCK_EVENTS * BLOCK_EVENTS

    @cached_property
    def _unended(self) -> dict[tuple[str, str], BitMap]:
        """Which events have each value, after the last block."""
        self._cursor.execute(_CONCERNS, (self._ended, self._ended + BLOCK_EVENTS))
        return _members_in(self._cursor.fetchall())

    def _parts(self, values: _Values, first: int, last: int) -> Iterator[tuple[str, BitMap]]:
        """Yield each of these values with its members in each block that may be in the span."""
        condition, given = _block_condition(values, first, last)
        self._cursor.execute(f"SELECT value, members FROM trail_members WHERE {condition}", given)
        for value, members in self._cursor.fetchall():
            if value.endswith(values.ending):
                yield value, BitMap.deserialize(members)
        if last > self._ended:
            for (facet, value), found in self._unended.items():
                if values.holds(facet, value):
                    yield value, found

    def members(self, alternatives: Sequence[_Values], first: int, last: int) -> BitMap:
        """Return the events of a span that have one of these values."""
        parts = [part for each in alternatives for _, part in self._parts(each, first, last)]
        return _span(first, last) & BitMap.union(BitMap(), *parts)

    def counted(self, facet: str, base: BitMap, first: int, last: int) -> dict[str, int]:
        """Count the events of ``base``, which is in the span, by the values of a facet.

        What concerns every resource of a type counts for each of them that is named.
        """
        every: dict[str, BitMap] = {}
        if facet == "resource":
            for type_, members in self._parts(_Values(_EVERY, "", _AFTER_ALL), first, last):
                every[type_] = every.get(type_, BitMap()) | (base & members)
        named = {type_: base - members for type_, members in every.items()}
        counted = Counter[str]()
        for value, members in self._parts(_Values(facet, "", _AFTER_ALL), first, last):
            if number := base.intersection_cardinality(members):
                of_type = named.get(_type_of(value)) if named else None
                counted[value] += (
                    number if of_type is None else of_type.intersection_cardinality(members)
                )
        return {
            value: number + len(every.get(_type_of(value), ())) for value, number in counted.items()
        }

    def matching(self, asked: _Asked, first: int, last: int) -> BitMap:
        """Return the events of a span that match."""
        base = _span(first, last)
        for values in asked.facets.values():
            base &= self.members(values, first, last)
        return self.narrowed(asked, base)

    def narrowed(self, asked: _Asked, base: BitMap) -> BitMap:
        """Return those of ``base`` of which all holds that is asked of rows and of words."""
        for rows in asked.rows:
            base = base & self._having(rows, base)
        if asked.phrases is None or not base:
            return base
        if not asked.phrases:
            return BitMap()
        if len(base) > TEXTS_READ_MAX:
            return base & self._having(self._words.holding(asked.phrases), base)
        self._cursor.execute(self._words.TEXTS, (_json(list(base)),))
        texts = [(position, f" {text} ") for position, text in self._cursor.fetchall()]
        return BitMap(
            position for position, text in texts if all(each.is_in(text) for each in asked.phrases)
        )

    def _having(self, rows: _Rows, base: BitMap) -> BitMap:
        """Return the events for which a condition on rows holds, in the span of ``base``."""
        if not base:
            return base
        self._cursor.execute(
            f"SELECT {self._words.AS_ONE.format(rows.key)} FROM {rows.table} "
            f"WHERE {rows.condition} AND {rows.key} BETWEEN ? AND ?",
            (*rows.values, base.min(), base.max()),
        )
        (row,) = self._cursor.fetchall()
        return self._words.positions(row[0])

    def in_order(
        self, asked: _Asked, first: int, last: int, limit: int, *, oldest_first: bool
    ) -> list[int]:
        """Return the first of what is asked for by nothing but one condition on rows, or by none.

        An index is read in the order of positions, so a full page ends the search.
        """
        if asked.phrases is not None:
            rows = self._words.holding(asked.phrases)
        else:
            rows = asked.rows[0] if asked.rows else _EVERY_EVENT
        self._cursor.execute(
            f"SELECT {rows.key} FROM {rows.table} d "
            f"WHERE {rows.condition} AND {rows.key} BETWEEN ? AND ? "
            f"ORDER BY {rows.key} {'ASC' if oldest_first else 'DESC'} LIMIT ?",
            (*rows.values, first, last, limit),
        )
        return [row[0] for row in self._cursor.fetchall()]
