"""What happened, in order?

The rows find events; the events themselves are read from the store, by position. ``recorded_at`` never
goes back along positions, so the newest first is the highest position first, and a span of time is a
span of positions.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Final, TypedDict, Unpack

import orjson
from eventsourcing.persistence import Cursor

from ledger.domain.errors import InvalidValue
from ledger.domain.events import (
    GroupDefined,
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
from ledger.domain.policy import parse_policy_ref
from ledger.domain.values import (
    OneResource,
    ResourcesOfGroup,
    ResourcesOfType,
    Scope,
    format_instant,
)

SEARCH_CHARS_MAX: Final = 1_000  # a long sentence; each word of it costs a look into the index
_UNSEARCHABLE: Final = re.compile("[\0\ud800-\udfff]")  # ends a query of FTS5, or is no UTF-8


class Filters(TypedDict, total=False):
    """Which events are meant; all that are given must hold, ``None`` and ``()`` hold for every event.

    ``policy`` is a policy (``acceptable-use``) or a version of one (``acceptable-use@1``), ``resource`` a
    resource key. Policy and category must hold for the same clause. Times are of recording, from
    included, to excluded. ``q`` is words that must all occur in the sentence; ``alic*`` is any word
    that begins so.
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


class TrailRows:
    """The tables of events by what they concern, and the questions they answer.

    An event concerns the clauses and resources it names. One that is about an earlier suspension or
    violation concerns what that one does, and a group stands for the members it had at the time.
    A selector of every resource of a type is kept as the bare type, which no resource's key can be.
    """

    NAME: ClassVar[str] = "trail"
    TABLES: ClassVar[Sequence[str]] = (
        "trail",
        "trail_words",
        "trail_clauses",
        "trail_resources",
        "trail_about",
        "trail_groups",
    )
    # An index of ``trail`` ends with its key, so each of them is in the order of positions.
    DDL: ClassVar[Sequence[str]] = (
        """CREATE TABLE IF NOT EXISTS trail (
            position INTEGER PRIMARY KEY,
            type TEXT NOT NULL,
            subject TEXT,
            operator TEXT NOT NULL,
            on_behalf_of TEXT,
            recorded_at TEXT NOT NULL
        ) STRICT""",
        "CREATE INDEX IF NOT EXISTS trail_type ON trail (type)",
        "CREATE INDEX IF NOT EXISTS trail_subject ON trail (subject)",
        "CREATE INDEX IF NOT EXISTS trail_operator ON trail (operator)",
        """CREATE INDEX IF NOT EXISTS trail_on_behalf_of ON trail (on_behalf_of)
            WHERE on_behalf_of IS NOT NULL""",
        "CREATE INDEX IF NOT EXISTS trail_recorded_at ON trail (recorded_at)",
        # Its row ids are positions. Ids in a sentence fall into words at their punctuation, and are found
        # as those words in a row.
        """CREATE VIRTUAL TABLE IF NOT EXISTS trail_words USING fts5 (
            sentence, columnsize=0, tokenize='unicode61 remove_diacritics 2')""",
        """CREATE TABLE IF NOT EXISTS trail_clauses (
            position INTEGER NOT NULL,
            policy TEXT NOT NULL,
            version INTEGER NOT NULL,
            clause TEXT NOT NULL,
            category TEXT NOT NULL,
            PRIMARY KEY (position, policy, version, clause)
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
    )

    def apply(self, cursor: Cursor, recorded: Recorded) -> None:
        """Write what one event is and what it concerns.

        Each statement writes one row: for one that may write several, SQLite opens a savepoint, at which
        FTS5 writes out the words it holds in memory, and that takes longer than all the rest.
        """
        event, position = recorded.event, recorded.position
        cursor.execute(
            "INSERT INTO trail VALUES (?, ?, ?, ?, ?, ?)",
            (
                position,
                event.TYPE,
                event.subject.key if isinstance(event, SubjectEvent) else None,
                recorded.author.operator,
                recorded.author.on_behalf_of,
                format_instant(recorded.recorded_at),
            ),
        )
        cursor.execute(
            "INSERT INTO trail_words (rowid, sentence) VALUES (?, ?)", (position, recorded.sentence)
        )
        match event:
            case ViolationRecorded():
                clauses = [_clause_row(event.policy, event.clause, event.category)]
                resources = [resource.key for resource in event.resources]
                _concern(cursor, position, clauses, resources)
                _remember(cursor, event.violation, clauses, resources)
            case SubjectSuspended():
                clauses = [_clause_row(c.policy, c.clause, c.category) for c in event.clauses]
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
                clauses = [_clause_row(c.policy, c.clause, c.category) for c in event.clauses]
                _concern(cursor, position, clauses, [])
            case ResourceListed(resource=resource):
                _concern(cursor, position, [], [resource.key])
            case GroupDefined(group=group):
                resources = [resource.key for resource in event.resources]
                _concern(cursor, position, [], resources)
                cursor.execute(
                    "INSERT OR REPLACE INTO trail_groups VALUES (?, ?)", (group, _json(resources))
                )
            case _:
                pass

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

        ``cursor_position`` is where the page before ended. Raises ``InvalidValue`` for a ``policy`` or ``q``
        of another form.
        """
        bounds: dict[str, object] = {"<= ?": position}
        if cursor_position is not None:
            bounds["> ?" if oldest_first else "< ?"] = cursor_position
        matching, values = _matching(bounds, **filters)
        cursor.execute(
            f"{matching} ORDER BY position {'ASC' if oldest_first else 'DESC'} LIMIT ?",
            (*values, limit),
        )
        return [row[0] for row in cursor.fetchall()]

    def counts(
        self, cursor: Cursor, *, position: int, **filters: Unpack[Filters]
    ) -> dict[str, object]:
        """Count the events as known at ``position``: in all, and by each of five properties.

        An event counts once for each policy version and each category that it concerns. ``month`` is of
        recording. Raises ``InvalidValue`` as ``events`` does.
        """
        matching, values = _matching({"<= ?": position}, **filters)
        cursor.execute(
            f"WITH matching AS MATERIALIZED ({matching}) "
            "SELECT type, operator, substr(recorded_at, 1, 7), count(*) "
            "FROM matching JOIN trail USING (position) GROUP BY 1, 2, 3",
            values,
        )
        counted = {name: Counter[str]() for name in ("type", "operator", "month")}
        for type_, operator, month, count in cursor.fetchall():
            counted["type"][type_] += count
            counted["operator"][operator] += count
            counted["month"][month] += count
        for name, value in (("category", "category"), ("policy", "policy || '@' || version")):
            cursor.execute(
                f"WITH matching AS MATERIALIZED ({matching}) "
                f"SELECT {value}, count(DISTINCT position) "
                "FROM matching JOIN trail_clauses USING (position) GROUP BY 1",
                values,
            )
            counted[name] = Counter(dict(tuple(row) for row in cursor.fetchall()))
        return {
            "total": counted["type"].total(),
            **{
                name: [
                    {"value": value, "count": count}
                    for value, count in sorted(counter.items(), key=lambda of: (-of[1], of[0]))
                ]
                for name, counter in counted.items()
            },
        }


# --- writing --------------------------------------------------------------------------------------


def _clause_row(policy: str, clause: str, category: str) -> tuple[str, int, str, str]:
    name, _, version = policy.partition("@")
    return name, int(version), clause, category


def _covered(cursor: Cursor, scope: Scope) -> list[str]:
    """Return the resources that a scope names, and the members of its groups."""
    resources = []
    for selector in scope.resources:
        match selector:
            case OneResource(type=type_, id=id_):
                resources.append(f"{type_}:{id_}")
            case ResourcesOfType(type=type_):
                resources.append(type_)
            case ResourcesOfGroup(group=group):
                cursor.execute("SELECT resources FROM trail_groups WHERE name = ?", (group,))
                resources += orjson.loads(cursor.fetchone()[0])
    return resources


def _concern(
    cursor: Cursor, position: int, clauses: Iterable[Sequence[object]], resources: Iterable[str]
) -> None:
    for clause in clauses:
        cursor.execute("INSERT INTO trail_clauses VALUES (?, ?, ?, ?, ?)", (position, *clause))
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


@dataclass(frozen=True, slots=True)
class _Filter:
    """A condition on a row of ``table``, whose ``key`` is a position; any of ``alternatives`` may hold.

    One filter drives a search from its index; the others check what it finds.
    """

    condition: str
    alternatives: Sequence[tuple[object, ...]]
    table: str = "trail"
    key: str = "position"

    @property
    def source(self) -> str:
        """What a search that this drives reads; ``CROSS JOIN`` keeps SQLite to the order."""
        if self.table == "trail":
            return "trail d"
        return f"{self.table} d CROSS JOIN trail t ON t.position = d.{self.key}"

    def check(self, position: str) -> str:
        """The demand on an event found elsewhere; ``+`` keeps SQLite from driving by it after all."""
        sign = "+" if self.table == "trail" else ""
        either = " OR ".join([f"{sign}{self.condition}"] * len(self.alternatives))
        if self.table == "trail":
            return f"({either})"
        return f"EXISTS (SELECT 1 FROM {self.table} WHERE {self.key} = {position} AND ({either}))"


def _matching(
    bounds: dict[str, object],
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
) -> tuple[str, list[object]]:
    """Return a query of the positions that match, and its values.

    It reads one index for each alternative of the filter that drives, and merges them in order.
    """
    if recorded_from is not None:
        first = "(SELECT position FROM trail WHERE recorded_at >= ? ORDER BY recorded_at, position LIMIT 1)"
        bounds[f">= {first}"] = format_instant(recorded_from)
    if recorded_to is not None:
        last = "(SELECT position FROM trail WHERE recorded_at < ? ORDER BY recorded_at DESC, position DESC LIMIT 1)"
        bounds[f"<= {last}"] = format_instant(recorded_to)
    # The first that is given drives: from what picks few events to what picks many.
    filters = [
        _Filter("subject = ?", [(subject,)] if subject is not None else []),
        _words(q),
        _resource(resource),
        _Filter("on_behalf_of = ?", [(on_behalf_of,)] if on_behalf_of is not None else []),
        _clause(policy, category),
        _Filter("operator = ?", [(operator,)] if operator is not None else []),
        _Filter("type = ?", [(type_,) for type_ in dict.fromkeys(types)]),
    ]
    drive, *checks = [each for each in filters if each.alternatives] or [_Filter("true", [()])]
    position = f"d.{drive.key}"
    conditions = [
        drive.condition,
        *(f"{position} {bound}" for bound in bounds),
        *(check.check(position) for check in checks),
    ]
    query = (
        f"SELECT DISTINCT {position} AS position FROM {drive.source} "
        f"WHERE {' AND '.join(conditions)}"
    )
    bound = [*bounds.values()]
    bound += [value for check in checks for values in check.alternatives for value in values]
    values = [value for driving in drive.alternatives for value in (*driving, *bound)]
    return " UNION ".join([query] * len(drive.alternatives)), values


def _resource(resource: str | None) -> _Filter:
    """Events that concern a resource, by its key or by its type as a whole."""
    keys = [] if resource is None else dict.fromkeys([resource, resource.partition(":")[0]])
    return _Filter("resource = ?", [(key,) for key in keys], "trail_resources")


def _clause(policy: str | None, category: str | None) -> _Filter:
    """Events that concern a clause of a policy, of a version of it, of a category."""
    asked: dict[str, object] = {}
    if policy is not None:
        name, version = parse_policy_ref(policy)
        asked["policy = ?"] = name
        if version is not None:
            asked["version = ?"] = version
    if category is not None:
        asked["category = ?"] = category
    return _Filter(" AND ".join(asked), [tuple(asked.values())] if asked else [], "trail_clauses")


def _words(q: str | None) -> _Filter:
    """Events whose sentence holds all words; in quotes, nothing in a word is syntax of FTS5."""
    if q is not None and len(q) > SEARCH_CHARS_MAX:
        raise InvalidValue(
            f"q has {len(q)} characters, at most {SEARCH_CHARS_MAX} are allowed", field="q"
        )
    words = _UNSEARCHABLE.sub(" ", q or "").split()
    query = " ".join(
        '"' + word.rstrip("*").replace('"', '""') + '"' + ("*" if word.endswith("*") else "")
        for word in words
    )
    return _Filter("trail_words MATCH ?", [(query,)] if words else [], "trail_words", "rowid")
