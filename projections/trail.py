"""What happened, in order?

The rows find events; the events themselves are read from the store, by position. ``recorded_at``
never goes back along positions, so a span of time is a span of positions, and the newest event is
the one with the highest.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Final, Literal, Protocol, TypedDict, Unpack

import orjson
from eventsourcing.persistence import Cursor

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
TALLY_EVENTS: Final = 1_000  # few enough to count them on every question

# What events are counted by: an expression, the table it is of, and how its rows count events.
_FACETS: Final = {
    "type": ("type", "trail", "count(*)"),
    "operator": ("operator", "trail", "count(*)"),
    "category": ("category", "trail_clauses", "count(DISTINCT t.position)"),
    "policy": ("policy", "trail_clauses", "count(DISTINCT t.position)"),
    "month": ("substr(recorded_at, 1, 7)", "trail", "count(*)"),
}


class Filters(TypedDict, total=False):
    """Which events are meant: all that are given must hold, and ``None`` and ``()`` say nothing.

    ``policy`` is a policy (``acceptable-use``) or a version of one (``acceptable-use@1``), and
    ``resource`` a resource's key. Times are those of recording, from included, to excluded. ``q``
    is words that must all occur in the sentence, or in the ids of what the event made and rests on:
    ``alic*`` is any word that begins so, ``user:alice`` both words in a row.
    """

    subject: str | None
    types: Sequence[str]
    operator: str | None
    on_behalf_of: str | None
    policy: str | None
    category: str | None
    resource: str | None
    recorded_from: datetime | None
    recorded_to: datetime | None
    q: str | None


@dataclass(frozen=True, slots=True)
class _Filter:
    """A condition on the rows of a table whose ``key`` is a position.

    An event is meant when it holds with one of ``alternatives``, which are its values.
    """

    condition: str
    alternatives: Sequence[Sequence[object]]
    table: str = "trail"
    key: str = "position"


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


class _Words(Protocol):
    """How a store keeps the words of each event, and finds events by them."""

    DDL: Sequence[str]
    ADD: str
    """Adds an event: its position and its words, between which stand spaces."""

    def holding(self, phrases: Sequence[Phrase]) -> _Filter:
        """Return the filter that all of these phrases occur."""


class _FTS5:
    """The words on SQLite: row ids are positions. What is no ASCII is left as it is."""

    DDL: Sequence[str] = (
        """CREATE VIRTUAL TABLE IF NOT EXISTS trail_words USING fts5 (
            words, columnsize=0, tokenize='ascii')""",
    )
    ADD: str = "INSERT INTO trail_words (rowid, words) VALUES (?, ?)"

    def holding(self, phrases: Sequence[Phrase]) -> _Filter:
        """Return the filter that all of these phrases occur; FTS5 finds nothing for none."""
        query = " ".join(f'"{" ".join(each.words)}"{"*" * each.begins}' for each in phrases) or '""'
        return _Filter("trail_words MATCH ?", [(query,)], "trail_words", "rowid")


class _TextSearch:
    """The words on PostgreSQL: words are lexemes as they are, without a dictionary or a parser.

    The index knows which words an event has. That they stand in a row is looked up in the text,
    because places in a ``tsvector`` end at 16,383 and are kept for 256 occurrences of a word.
    """

    DDL: Sequence[str] = (
        """CREATE TABLE IF NOT EXISTS trail_words (
            position INTEGER PRIMARY KEY,
            words TEXT NOT NULL
        ) STRICT""",
        """CREATE INDEX IF NOT EXISTS trail_words_each ON trail_words
            USING gin (array_to_tsvector(string_to_array(words, ' ')))""",
    )
    ADD: str = "INSERT INTO trail_words (position, words) VALUES (?, ?)"

    def holding(self, phrases: Sequence[Phrase]) -> _Filter:
        """Return the filter that all of these phrases occur; an empty query finds nothing."""
        lexemes: dict[str, None] = {}
        rows = []
        for each in phrases:
            *whole, last = each.words
            lexemes |= dict.fromkeys(f"'{word}'" for word in whole)
            lexemes[f"'{last}'{':*' * each.begins}"] = None
            if whole:
                rows.append(f" {' '.join(each.words)}{'' if each.begins else ' '}")
        condition = "array_to_tsvector(string_to_array(words, ' ')) @@ CAST(? AS tsquery)"
        condition += " AND strpos(' ' || words || ' ', ?) > 0" * len(rows)
        return _Filter(condition, [(" & ".join(lexemes), *rows)], "trail_words")


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
        "trail_clauses",
        "trail_resources",
        "trail_about",
        "trail_groups",
        "trail_tally",
    )
    # An index of ``trail`` ends with its key, so each of them is in the order of positions.
    _DDL: ClassVar[Sequence[str]] = (
        """CREATE TABLE IF NOT EXISTS trail (
            position INTEGER PRIMARY KEY,
            type TEXT NOT NULL,
            subject TEXT,
            operator TEXT NOT NULL,
            on_behalf_of TEXT,
            recorded_at TEXT NOT NULL
        ) STRICT""",
        "CREATE INDEX IF NOT EXISTS trail_type ON trail (type, position)",
        "CREATE INDEX IF NOT EXISTS trail_subject ON trail (subject, position)",
        "CREATE INDEX IF NOT EXISTS trail_operator ON trail (operator, position)",
        """CREATE INDEX IF NOT EXISTS trail_on_behalf_of ON trail (on_behalf_of, position)
            WHERE on_behalf_of IS NOT NULL""",
        "CREATE INDEX IF NOT EXISTS trail_recorded_at ON trail (recorded_at, position)",
        """CREATE TABLE IF NOT EXISTS trail_clauses (
            position INTEGER NOT NULL,
            policy TEXT NOT NULL,
            clause TEXT NOT NULL,
            category TEXT NOT NULL,
            PRIMARY KEY (position, policy, clause)
        ) STRICT, WITHOUT ROWID""",
        "CREATE INDEX IF NOT EXISTS trail_clauses_category ON trail_clauses (category, position)",
        """CREATE TABLE IF NOT EXISTS trail_resources (
            resource TEXT NOT NULL,
            position INTEGER NOT NULL,
            PRIMARY KEY (resource, position)
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE IF NOT EXISTS trail_about (
            id TEXT PRIMARY KEY,
            clauses TEXT NOT NULL,
            resources TEXT NOT NULL
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE IF NOT EXISTS trail_groups (
            name TEXT PRIMARY KEY,
            resources TEXT NOT NULL
        ) STRICT, WITHOUT ROWID""",
        # How often each value stands in the ``TALLY_EVENTS`` events up to a position.
        """CREATE TABLE IF NOT EXISTS trail_tally (
            position INTEGER NOT NULL,
            facet TEXT NOT NULL,
            value TEXT NOT NULL,
            count INTEGER NOT NULL,
            PRIMARY KEY (position, facet, value)
        ) STRICT, WITHOUT ROWID""",
    )

    def __init__(self, dialect: Literal["sqlite", "postgresql"] = "sqlite") -> None:
        self._words = _WORDS[dialect]
        self.DDL: Sequence[str] = (*self._DDL, *self._words.DDL)

    def apply(self, cursor: Cursor, recorded: Recorded) -> None:
        """Write what one event is and what it concerns.

        All statements but those of the tally write one row. For one that may write several SQLite
        sets a savepoint, at which FTS5 writes out what it holds: slower than all the rest.
        """
        event, position = recorded.event, recorded.position
        cursor.execute(
            "INSERT INTO trail VALUES (?, ?, ?, ?, ?, ?)",
            (
                position,
                event.TYPE,
                _subject(event),
                recorded.author.operator,
                recorded.author.on_behalf_of,
                format_instant(recorded.recorded_at),
            ),
        )
        cursor.execute(self._words.ADD, (position, " ".join(words_in(_text(recorded)))))
        match event:
            case ViolationRecorded():
                clauses = [(event.policy, event.clause, event.category)]
                resources = [resource.key for resource in event.resources]
                _concern(cursor, position, clauses, resources)
                _remember(cursor, event.violation, clauses, resources)
            case SubjectSuspended():
                clauses = [(c.policy, c.clause, c.category) for c in event.clauses]
                resources = _covered(cursor, event.scope)
                _concern(cursor, position, clauses, resources)
                _remember(cursor, event.suspension, clauses, resources)
            case (
                SuspensionRevised(suspension=id_)
                | SuspensionCancelled(suspension=id_)
                | SubjectReinstated(suspension=id_)
                | ViolationOverturned(violation=id_)
            ):
                cursor.execute("SELECT clauses, resources FROM trail_about WHERE id = ?", (id_,))
                clauses, resources = map(orjson.loads, cursor.fetchone())
                _concern(cursor, position, clauses, resources)
            case WarningIssued():
                clauses = [(c.policy, c.clause, c.category) for c in event.clauses]
                _concern(cursor, position, clauses, [])
            case ResourceListed():
                _concern(cursor, position, [], [event.resource.key])
            case GroupDefined():
                resources = [resource.key for resource in event.resources]
                _concern(cursor, position, [], resources)
                cursor.execute(
                    "INSERT INTO trail_groups VALUES (?, ?) ON CONFLICT (name) "
                    "DO UPDATE SET resources = excluded.resources",
                    (event.group, _json(resources)),
                )
            case _:
                pass
        if position % TALLY_EVENTS == 0:
            for facet, (value, table, count) in _FACETS.items():
                cursor.execute(
                    f"INSERT INTO trail_tally SELECT ?, ?, {value}, {count} "
                    f"FROM {table} t WHERE position > ? AND position <= ? GROUP BY {value}",
                    (position, facet, position - TALLY_EVENTS, position),
                )

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
        asked, first, last = _understood(cursor, self._words, position, **filters)
        if cursor_position is not None and oldest_first:
            first = max(first, cursor_position + 1)
        elif cursor_position is not None:
            last = min(last, cursor_position - 1)
        query, values = _matching(asked, first, last)
        cursor.execute(
            f"{query} ORDER BY position {'ASC' if oldest_first else 'DESC'} LIMIT ?",
            (*values, limit),
        )
        return [row[0] for row in cursor.fetchall()]

    def counts(
        self, cursor: Cursor, *, position: int, **filters: Unpack[Filters]
    ) -> dict[str, object]:
        """Count the events as known at ``position``: in all, and by five properties, most first.

        An event counts once for every policy version and every category that it concerns, and for
        the ``month`` in which it was recorded. Raises ``InvalidValue`` as ``events`` does.
        """
        asked, first, last = _understood(cursor, self._words, position, **filters)
        counted = {facet: Counter[str]() for facet in _FACETS}
        spans = [(first, last)]
        # Where nothing else is asked, only the ends of the span are read; between them are tallies.
        low = (first + TALLY_EVENTS - 2) // TALLY_EVENTS * TALLY_EVENTS
        high = last // TALLY_EVENTS * TALLY_EVENTS
        if not asked and low < high:
            spans = [(first, low), (high + 1, last)]
            cursor.execute(
                "SELECT facet, value, CAST(sum(count) AS BIGINT) FROM trail_tally "
                "WHERE position > ? AND position <= ? GROUP BY facet, value",
                (low, high),
            )
            for facet, value, count in cursor.fetchall():
                counted[facet][value] += count
        for span in spans:
            query, values = _matching(asked, *span)
            by_facet = " UNION ALL ".join(
                f"SELECT '{facet}', {value}, {count} "
                f"FROM matching m CROSS JOIN {table} t WHERE t.position = m.position "
                f"GROUP BY {value}"
                for facet, (value, table, count) in _FACETS.items()
            )
            cursor.execute(f"WITH matching AS MATERIALIZED ({query}) {by_facet}", values)
            for facet, value, count in cursor.fetchall():
                counted[facet][value] += count
        return {
            "total": counted["type"].total(),
            **{
                facet: [
                    {"value": value, "count": count}
                    for value, count in sorted(
                        counter.items(), key=lambda item: (-item[1], item[0])
                    )
                ]
                for facet, counter in counted.items()
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
    return resources


def _concern(
    cursor: Cursor, position: int, clauses: Iterable[Sequence[str]], resources: Iterable[str]
) -> None:
    for clause in clauses:
        cursor.execute("INSERT INTO trail_clauses VALUES (?, ?, ?, ?)", (position, *clause))
    for resource in dict.fromkeys(resources):
        cursor.execute("INSERT INTO trail_resources VALUES (?, ?)", (resource, position))


def _remember(
    cursor: Cursor, id_: str, clauses: Sequence[object], resources: Sequence[str]
) -> None:
    """Keep what a suspension or violation concerns, for what will be about it."""
    cursor.execute(
        "INSERT INTO trail_about VALUES (?, ?, ?)", (id_, _json(clauses), _json(resources))
    )


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


# --- finding --------------------------------------------------------------------------------------


_EVERY_EVENT: Final = _Filter("true", [()])


def _understood(
    cursor: Cursor,
    words: _Words,
    position: int,
    *,
    subject: str | None = None,
    types: Sequence[str] = (),
    operator: str | None = None,
    on_behalf_of: str | None = None,
    policy: str | None = None,
    category: str | None = None,
    resource: str | None = None,
    recorded_from: datetime | None = None,
    recorded_to: datetime | None = None,
    q: str | None = None,
) -> tuple[list[_Filter], int, int]:
    """Return the filters that were given, and the first and last position that may match.

    The filters are in order from what picks few events to what picks many.
    """
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
    phrases = _searched(q)
    filters = [
        _Filter("subject = ?", _given(subject)),
        *([] if phrases is None else [words.holding(phrases)]),
        _Filter("resource = ?", _keys(resource), "trail_resources"),
        _Filter("on_behalf_of = ?", _given(on_behalf_of)),
        _Filter("category = ?", _given(category), "trail_clauses"),
        _Filter("operator = ?", _given(operator)),
        _Filter("type = ?", [(type_,) for type_ in dict.fromkeys(types)]),
        _of_policy(policy),
    ]
    return [each for each in filters if each.alternatives], first, last


def _given(value: str | None) -> Sequence[Sequence[str]]:
    return [] if value is None else [(value,)]


def _keys(resource: str | None) -> Sequence[Sequence[str]]:
    """Return under what a resource is kept: its key, and its type, which stands for all of it."""
    if resource is None:
        return []
    return [(key,) for key in dict.fromkeys([resource, resource.partition(":")[0]])]


def _of_policy(policy: str | None) -> _Filter:
    if policy is None or "@" in policy:
        return _Filter("policy = ?", _given(policy), "trail_clauses")
    # "aup@" to "aupA" is every version of aup, because A is the character after @.
    versions = [(f"{policy}@", f"{policy}A")]
    return _Filter("policy >= ? AND policy < ?", versions, "trail_clauses")


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


def _matching(filters: Sequence[_Filter], first: int, last: int) -> tuple[str, list[object]]:
    """Return a query of the positions that match, and its values.

    The first filter drives: for each of its alternatives an index is read in the order of
    positions, and these are merged, so a full page ends the search. The others check what is found.
    """
    drive, *checks = filters or [_EVERY_EVENT]
    position = f"d.{drive.key}"
    # An event may have several rows of clauses; every other table has one that can match.
    distinct = "DISTINCT " if drive.table == "trail_clauses" else ""
    query = (
        f"SELECT {distinct}{position} AS position FROM {drive.table} d "
        f"WHERE {drive.condition} AND {position} BETWEEN ? AND ?"
    )
    checked: list[object] = []
    for check in checks:
        either = " OR ".join([f"({check.condition})"] * len(check.alternatives))
        query += (
            f" AND EXISTS (SELECT 1 FROM {check.table} "
            f"WHERE {check.key} = {position} AND ({either}))"
        )
        checked += [value for values in check.alternatives for value in values]
    values = [
        value for driving in drive.alternatives for value in (*driving, first, last, *checked)
    ]
    return " UNION ".join([query] * len(drive.alternatives)), values
