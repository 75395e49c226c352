"""What an owner runs on PostgreSQL: tables, triggers, and the rights of three roles.

Tables and triggers are written once, in SQLite's form, beside the code that uses them; here they
get PostgreSQL's types and language. Text is compared by its bytes, as in SQLite.

    ledger_owner    owns the tables; nobody serves as it, because an owner can remove a trigger
    ledger_writer   reads and appends; changes projections and the vault, and nothing else
    ledger_reader   reads all but the vault

They are roles that nobody logs in as: a login is made a member of one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from ledger.store.recorder import DENSE, SCHEMA_VERSION

_NAMES: Final = re.compile(r"CREATE TABLE IF NOT EXISTS ([\w.]+)")
_TRIGGER: Final = re.compile(
    r"CREATE TRIGGER IF NOT EXISTS (?P<name>\w+) BEFORE (?P<event>\w+) ON (?P<table>\w+)\s+"
    r"(?:WHEN (?P<when>.*)\s+)?BEGIN SELECT raise\(ABORT, '(?P<message>[^']*)'\); END",
    re.DOTALL,
)
_TYPES: Final = (
    (re.compile(r"\bINTEGER\b"), "BIGINT"),
    (re.compile(r"\bBLOB\b"), "BYTEA"),
    (re.compile(r"\bTEXT\b(?! COLLATE)"), 'TEXT COLLATE "C"'),
    (re.compile(r"\)\s*(?:STRICT|WITHOUT ROWID)(?:,\s*(?:STRICT|WITHOUT ROWID))*\s*$"), ")"),
)
_SAME_KEY: Final = re.compile(
    r"EXISTS \(SELECT 1 FROM \w+ WHERE \w+ = NEW\.\w+(?: AND \w+ = NEW\.\w+)*\)"
)
# The same of all rows that a statement added.
_NOT_DENSE: Final = """EXISTS (
        SELECT 1 FROM (SELECT min(position) AS low, max(position) AS high, count(*) AS rows
            FROM added) a
        WHERE rows > 0 AND (high - low + 1 <> rows OR low <> 1 + coalesce(
            (SELECT max(position) FROM events WHERE position < low), 0))
    )"""
_SCHEMA_TABLE: Final = "CREATE TABLE IF NOT EXISTS ledger_schema (version BIGINT NOT NULL)"
# Whoever follows the ledger is told; one notice for a transaction, however much it appended.
_NOTICE: Final = (
    """CREATE OR REPLACE FUNCTION events_are_announced() RETURNS trigger
    LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
    BEGIN PERFORM pg_notify('ledger_events', ''); RETURN NULL; END $$""",
    """CREATE OR REPLACE TRIGGER events_are_announced AFTER INSERT ON events
    FOR EACH STATEMENT EXECUTE FUNCTION events_are_announced()""",
)


def translated(statement: str) -> list[str]:
    """Return what a statement that makes a table, an index or a trigger is on PostgreSQL."""
    trigger = _TRIGGER.fullmatch(statement.strip())
    if trigger is None:
        for pattern, instead in _TYPES:
            statement = pattern.sub(instead, statement)
        return [statement]
    name, event, table, when, message = trigger.group("name", "event", "table", "when", "message")
    fires = f"BEFORE {event} ON {table}"
    when = (when or "true").strip()
    if _SAME_KEY.fullmatch(when):
        # The key refuses the row, and ON CONFLICT would have to update the other, which is refused.
        # An earlier version made such a trigger nevertheless, which was asked for each row.
        return [f"DROP TRIGGER IF EXISTS {name} ON {table}"]
    if when == DENSE:
        fires, when = f"AFTER INSERT ON {table} REFERENCING NEW TABLE AS added", _NOT_DENSE
    elif event == "DELETE":
        fires = f"BEFORE DELETE OR TRUNCATE ON {table}"
    # What looks at a row is asked for each, which makes an insert of many some times as slow. All
    # else is asked once: a statement is refused even when it would meet no row.
    rows = "ROW" if "NEW." in when else "STATEMENT"
    return [
        # With its own search path, or a session's own table named like ours would be asked.
        f"""CREATE OR REPLACE FUNCTION {name}() RETURNS trigger
    LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
    BEGIN IF {when} THEN
        RAISE EXCEPTION '{message}' USING ERRCODE = 'integrity_constraint_violation';
    END IF; RETURN NEW; END $$""",
        f"""CREATE OR REPLACE TRIGGER {name} {fires}
    FOR EACH {rows} EXECUTE FUNCTION {name}()""",
        # Also where a session says that it only replays what another server did.
        f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}",
    ]


def schema(statements: Sequence[str]) -> list[str]:
    """Return the statements that make a ledger's tables and triggers on PostgreSQL."""
    made = [one for statement in statements for one in translated(statement)]
    return [
        *made,
        *_NOTICE,
        _SCHEMA_TABLE,
        f"""INSERT INTO ledger_schema SELECT {SCHEMA_VERSION}
    WHERE NOT EXISTS (SELECT 1 FROM ledger_schema)""",
    ]


def renewal(statements: Sequence[str], derived: Sequence[str]) -> list[str]:
    """Return the statements that empty ``derived`` tables which an older version made.

    Whoever owns the events owns them afterwards, too, and the roles may what they might before.
    """
    return [
        """DO $$ BEGIN EXECUTE format('SET LOCAL ROLE %I', (
    SELECT relowner::regrole::text FROM pg_class WHERE oid = 'events'::regclass)); END $$""",
        *(f"DROP TABLE IF EXISTS {table}" for table in derived),
        *schema(statements),
        *(
            f"""DO $$ BEGIN {grant};
    EXCEPTION WHEN undefined_object OR invalid_schema_name THEN NULL; END $$"""
            for grant in _rights(statements)
        ),
        f"UPDATE ledger_schema SET version = {SCHEMA_VERSION}",
        "RESET ROLE",
    ]


def tables(statements: Sequence[str]) -> list[str]:
    """Return the names of the tables that statements make."""
    return _NAMES.findall("\n".join(statements))


def script(statements: Sequence[str]) -> str:
    """Return all that an owner runs, to make a ledger or what a ledger lacks."""
    lines = [*_ROLES, *schema(statements), "RESET ROLE", *_rights(statements)]
    return "".join(f"{line};\n" for line in lines)


def _rights(statements: Sequence[str]) -> list[str]:
    """Return the grants: what is append-only for everybody can only be appended to."""
    found = [_TRIGGER.fullmatch(statement.strip()) for statement in statements]
    appended = {each["table"] for each in found if each and each["event"] == "DELETE"}
    appended |= {"commands", "vault.probe"}
    named = tables(statements)
    grants = [
        f"GRANT SELECT, INSERT{'' if name in appended else ', UPDATE, DELETE'} ON {name} "
        "TO ledger_writer"
        for name in named
    ]
    readable = ", ".join([*(name for name in named if "." not in name), "ledger_schema"])
    return [
        "GRANT USAGE ON SCHEMA public TO ledger_writer, ledger_reader",
        "GRANT USAGE ON SCHEMA vault TO ledger_writer",
        *grants,
        "GRANT SELECT ON ledger_schema TO ledger_writer",
        f"GRANT SELECT ON {readable} TO ledger_reader",
    ]


_ROLES: Final = (
    *(
        f"""DO $$ BEGIN CREATE ROLE {role} NOLOGIN;
    EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"""
        for role in ("ledger_owner", "ledger_writer", "ledger_reader")
    ),
    """DO $$ BEGIN EXECUTE format(
    'GRANT CONNECT, CREATE ON DATABASE %I TO ledger_owner', current_database()); END $$""",
    "GRANT USAGE, CREATE ON SCHEMA public TO ledger_owner",
    "GRANT ledger_owner TO CURRENT_USER",
    "SET ROLE ledger_owner",
)
