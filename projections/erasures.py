"""What was erased about whom, what waits to be, and what forbids it?

Also which data key is whose: every key that an event names, its subject, and the event that says it
was destroyed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final, Literal

import orjson
from eventsourcing.persistence import Cursor

from ledger.domain.events import (
    ErasureRequested,
    HoldLifted,
    HoldPlaced,
    PersonalDataErased,
    Recorded,
    SubjectEvent,
)
from ledger.domain.values import Sealed, Subject, format_instant

ErasureState = Literal["requested", "erased"]
HoldState = Literal["stands", "lifted"]

ALL: Final = 2**62  # more keys than there can be


class ErasureRows:
    """The tables of erasures, legal holds and data keys, and the questions they answer."""

    NAME: ClassVar[str] = "erasures"
    TABLES: ClassVar[Sequence[str]] = ("erasure_requests", "erasure_holds", "erasure_keys")
    DDL: ClassVar[Sequence[str]] = (
        """CREATE TABLE IF NOT EXISTS erasure_requests (
            position INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            subject TEXT NOT NULL,
            reason TEXT NOT NULL,
            operator TEXT NOT NULL,
            recorded_at TEXT NOT NULL,
            done_position INTEGER,
            done_at TEXT,
            done_by TEXT,
            keys TEXT
        ) STRICT""",
        """CREATE INDEX IF NOT EXISTS erasure_requests_subject
            ON erasure_requests (subject, position)""",
        """CREATE TABLE IF NOT EXISTS erasure_holds (
            position INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            subject TEXT NOT NULL,
            reason TEXT NOT NULL,
            operator TEXT NOT NULL,
            recorded_at TEXT NOT NULL,
            done_position INTEGER,
            done_at TEXT,
            done_by TEXT
        ) STRICT""",
        """CREATE INDEX IF NOT EXISTS erasure_holds_subject
            ON erasure_holds (subject, position)""",
        """CREATE TABLE IF NOT EXISTS erasure_keys (
            key TEXT PRIMARY KEY,
            subject TEXT NOT NULL,
            erased_by INTEGER
        ) STRICT, WITHOUT ROWID""",
        "CREATE INDEX IF NOT EXISTS erasure_keys_subject ON erasure_keys (subject)",
        """CREATE INDEX IF NOT EXISTS erasure_keys_erased ON erasure_keys (key)
            WHERE erased_by IS NOT NULL""",
    )

    def apply(self, cursor: Cursor, recorded: Recorded) -> None:
        """Write what one event changes."""
        event = recorded.event
        if isinstance(event, SubjectEvent) and event.SEALED:
            keys = {one.key for _, one in event.sealed_fields() if isinstance(one, Sealed)}
            for key in sorted(keys):
                cursor.execute(
                    "INSERT INTO erasure_keys VALUES (?, ?, NULL) ON CONFLICT (key) DO NOTHING",
                    (key, event.subject.key),
                )
        if not isinstance(event, ErasureRequested | PersonalDataErased | HoldPlaced | HoldLifted):
            return
        by_whom = (recorded.author.operator, format_instant(recorded.recorded_at))
        match event:
            case ErasureRequested():
                cursor.execute(
                    "INSERT INTO erasure_requests "
                    "VALUES (?, ?, ?, ?, ?, ?, NULL, NULL, NULL, NULL)",
                    (recorded.position, event.erasure, event.subject.key, event.reason, *by_whom),
                )
            case PersonalDataErased():
                cursor.execute(
                    "UPDATE erasure_requests "
                    "SET done_position = ?, done_by = ?, done_at = ?, keys = ? WHERE id = ?",
                    (
                        recorded.position,
                        *by_whom,
                        orjson.dumps(event.keys).decode(),
                        event.erasure,
                    ),
                )
                for key in event.keys:
                    # A key that sealed nothing is named by this event alone.
                    cursor.execute(
                        "INSERT INTO erasure_keys VALUES (?, ?, ?) ON CONFLICT (key) "
                        "DO UPDATE SET subject = excluded.subject, erased_by = excluded.erased_by",
                        (key, event.subject.key, recorded.position),
                    )
            case HoldPlaced():
                cursor.execute(
                    "INSERT INTO erasure_holds VALUES (?, ?, ?, ?, ?, ?, NULL, NULL, NULL)",
                    (recorded.position, event.hold, event.subject.key, event.reason, *by_whom),
                )
            case HoldLifted(hold=hold):
                cursor.execute(
                    "UPDATE erasure_holds SET done_position = ?, done_by = ?, done_at = ? "
                    "WHERE id = ?",
                    (recorded.position, *by_whom, hold),
                )

    # --- questions --------------------------------------------------------------------------------

    def stream_of(self, cursor: Cursor, id_: str) -> str | None:
        """Return the stream that holds an erasure or a hold."""
        table = "erasure_requests" if id_.startswith("era_") else "erasure_holds"
        cursor.execute(f"SELECT subject FROM {table} WHERE id = ?", (id_,))
        row = cursor.fetchone()
        return f"subject/{row[0]}" if row else None

    def keys(
        self,
        cursor: Cursor,
        *,
        erased: bool,
        subject: str | None = None,
        after: str = "",
        limit: int = ALL,
    ) -> list[str]:
        """Return the data keys that an event says are destroyed, or those of which none does.

        They come in order, at most ``limit`` of those after one.
        """
        whose = "" if subject is None else "AND subject = ? "
        cursor.execute(
            f"SELECT key FROM erasure_keys WHERE erased_by IS {'NOT ' if erased else ''}NULL "
            f"AND key > ? {whose}ORDER BY key LIMIT ?",
            (after, *(() if subject is None else (subject,)), limit),
        )
        return [row[0] for row in cursor.fetchall()]

    def done(self, cursor: Cursor, *, after: int, limit: int) -> list[tuple[int, int]]:
        """Return erasures that are done, by position, at most ``limit`` of those after one.

        Each is its position, and that of the event which says that the keys are destroyed.
        """
        cursor.execute(
            "SELECT position, done_position FROM erasure_requests "
            "WHERE done_position IS NOT NULL AND position > ? ORDER BY position LIMIT ?",
            (after, limit),
        )
        return [(row[0], row[1]) for row in cursor.fetchall()]

    def erased_by(self, cursor: Cursor, keys: Iterable[str]) -> dict[str, int]:
        """Return the position of the event that destroyed a key, of those that were destroyed."""
        found = {}
        for key in keys:
            cursor.execute("SELECT erased_by FROM erasure_keys WHERE key = ?", (key,))
            row = cursor.fetchone()
            if row is not None and row[0] is not None:
                found[key] = int(row[0])
        return found

    def erasures(
        self,
        cursor: Cursor,
        *,
        position: int,
        limit: int,
        cursor_position: int | None = None,
        oldest_first: bool = False,
        id_: str | None = None,
        subject: str | None = None,
        state: ErasureState | None = None,
    ) -> list[dict[str, object]]:
        """Return erasures as known at ``position``, by position."""
        rows = _listed(
            cursor,
            "erasure_requests",
            position=position,
            limit=limit,
            cursor_position=cursor_position,
            oldest_first=oldest_first,
            id_=id_,
            subject=subject,
            done=None if state is None else state == "erased",
        )
        return [
            {
                **shown,
                "state": "erased" if done else "requested",
                "erased": {**done, "keys": orjson.loads(row["keys"])} if done else None,
            }
            for row, shown, done in rows
        ]

    def holds(
        self,
        cursor: Cursor,
        *,
        position: int,
        limit: int,
        cursor_position: int | None = None,
        oldest_first: bool = False,
        id_: str | None = None,
        subject: str | None = None,
        state: HoldState | None = None,
    ) -> list[dict[str, object]]:
        """Return legal holds as known at ``position``, by position."""
        rows = _listed(
            cursor,
            "erasure_holds",
            position=position,
            limit=limit,
            cursor_position=cursor_position,
            oldest_first=oldest_first,
            id_=id_,
            subject=subject,
            done=None if state is None else state == "lifted",
        )
        return [
            {**shown, "state": "lifted" if done else "stands", "lifted": done}
            for _, shown, done in rows
        ]


Row = Mapping[str, Any]


def _listed(
    cursor: Cursor,
    table: str,
    *,
    position: int,
    limit: int,
    cursor_position: int | None,
    oldest_first: bool,
    id_: str | None,
    subject: str | None,
    done: bool | None,
) -> list[tuple[Row, dict[str, object], dict[str, object] | None]]:
    """Return rows, each with what both tables show of it, and with what ended it."""
    conditions = {
        "position <= ?": position,
        f"position {'>' if oldest_first else '<'} ?": cursor_position,
        "id = ?": id_,
        "subject = ?": subject,
        f"{'' if done else 'NOT '}coalesce(done_position <= ?, false)": (
            None if done is None else position
        ),
    }
    asked = {condition: value for condition, value in conditions.items() if value is not None}
    cursor.execute(
        f"SELECT * FROM {table} WHERE {' AND '.join(asked)} "
        f"ORDER BY position {'ASC' if oldest_first else 'DESC'} LIMIT ?",
        (*asked.values(), limit),
    )
    found: list[tuple[Row, dict[str, object], dict[str, object] | None]] = []
    for row in cursor.fetchall():
        shown = {
            "id": row["id"],
            "position": row["position"],
            "subject": Subject.parse(row["subject"]).model_dump(),
            "reason": row["reason"],
            "operator": row["operator"],
            "recorded_at": row["recorded_at"],
        }
        ended = None
        if row["done_position"] is not None and row["done_position"] <= position:
            ended = {
                "position": row["done_position"],
                "at": row["done_at"],
                "operator": row["done_by"],
            }
        found.append((row, shown, ended))
    return found
