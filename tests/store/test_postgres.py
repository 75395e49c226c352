"""The recorder on PostgreSQL keeps the contract, and the library's own; and what only it can do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import Any, ClassVar
from uuid import uuid4

import psycopg
import pytest
from eventsourcing.persistence import Cursor
from eventsourcing.tests.persistence import ApplicationRecorderTestCase

from ledger.domain.errors import Unavailable
from ledger.domain.events import Recorded
from ledger.store.postgres import ROWS_AHEAD, PostgresDatastore
from ledger.store.projection import Projection
from ledger.store.recorder import SCHEMA_VERSION, LedgerRecorder
from ledger.tlog.log import LogRows
from tests.conftest import SetClock
from tests.postgres import fresh_database
from tests.store.contract import (
    Interrupted,
    Names,
    RecorderContract,
    Where,
    append_then_raise,
    enrolled,
    positions,
)

TRIGGERS = ("dense", "never_changed", "never_deleted")


def open_recorder(
    url: str,
    clock: Callable[[], datetime],
    *,
    projections: Sequence[Projection] = (),
    committed: Callable[[Sequence[Recorded]], None] = lambda _: None,
    lock_timeout_s: float = 10,
) -> LedgerRecorder:
    """Open a recorder on a database."""
    recorder = LedgerRecorder(
        PostgresDatastore(url, lock_timeout_s=lock_timeout_s),
        clock=clock,
        log=LogRows(),
        projections=projections,
        committed=committed,
    )
    try:
        recorder.create_table()
    except Unavailable:
        recorder.store.close()
        raise
    return recorder


@contextmanager
def connected(url: str) -> Iterator[Callable[[str], list[Any]]]:
    """Run statements on a database through a plain connection, each by itself."""
    with psycopg.connect(url, autocommit=True) as connection:

        def run(statement: str) -> list[Any]:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

        yield run


def _each(c: Cursor, statement: str, rows: Sequence[Sequence[object]]) -> None:
    for row in rows:
        c.execute(statement, row)


class TestPostgresRecorder(RecorderContract):
    """The contract, on a database of a real server."""

    OPENING: ClassVar[str] = (
        "import sys\n"
        "from tests.conftest import SetClock\n"
        "from tests.store.test_postgres import open_recorder\n"
        "recorder = open_recorder(sys.argv[1], SetClock())\n"
    )
    FORBIDDEN: ClassVar[Sequence[str]] = (
        *RecorderContract.FORBIDDEN,
        "TRUNCATE events",
        "TRUNCATE events, commands CASCADE",
        "INSERT INTO events SELECT * FROM events ON CONFLICT (position) DO UPDATE SET type = 'x'",
        "SET session_replication_role = replica; DELETE FROM events",
        "UPDATE events SET state = state WHERE position = 100",
    )

    @pytest.fixture
    def path(self, postgres_url: str) -> str:
        return postgres_url

    def open(
        self,
        path: Where,
        clock: Callable[[], datetime],
        *,
        projections: Sequence[Projection] = (),
        committed: Callable[[Sequence[Recorded]], None] = lambda _: None,
        lock_timeout_s: float = 10,
    ) -> LedgerRecorder:
        return open_recorder(
            str(path),
            clock,
            projections=projections,
            committed=committed,
            lock_timeout_s=lock_timeout_s,
        )

    def sql(self, path: Where) -> Any:
        return connected(str(path))

    def literal(self, value: bytes) -> str:
        return rf"'\x{value.hex()}'::bytea"

    def defenceless(self, path: Where) -> None:
        with connected(str(path)) as run:
            for trigger in TRIGGERS:
                run(f"DROP TRIGGER events_are_{trigger} ON events")

    # --- what only PostgreSQL can do --------------------------------------------------------------

    def test_a_commit_is_on_disk_when_it_returns(self, path: str, clock: SetClock) -> None:
        """Also where the server's default is not to wait for the disk."""
        with connected(path) as run:
            [(name,)] = run("SELECT current_database()")
            run(f"ALTER DATABASE {name} SET synchronous_commit = off")
        recorder = self.open(path, clock)

        with recorder.store.transaction(commit=True) as c:
            c.execute("SHOW synchronous_commit")
            row = c.fetchone()
        recorder.store.close()

        assert ("on",) == row

    def test_a_row_that_is_refused_ahead_takes_its_whole_transaction_with_it(
        self, recorder: LedgerRecorder
    ) -> None:
        """The server inserts while others are decided; who reads meanwhile sees all of it."""
        store = recorder.store
        count = 3 * ROWS_AHEAD + 1
        insert = "INSERT INTO commands VALUES (?, ?, ?, ?, ?)"
        rows = [("jo", f"key-{number:04d}", "x", number, 1) for number in range(count)]
        refused = [*rows[:5], rows[0], *rows[5:]]

        failing = pytest.raises(psycopg.IntegrityError)
        with failing, store.transaction(commit=True), store.holding() as c:
            _each(c, insert, refused)
        with store.transaction(commit=True), store.holding() as c:
            _each(c, insert, rows[:-1])
            c.execute("SELECT count(*) FROM commands")
            read = c.fetchone()
            _each(c, insert, rows[-1:])
        with store.transaction(commit=False) as c:
            c.execute("SELECT idempotency_key FROM commands ORDER BY position")
            stored = [key for (key,) in c.fetchall()]

        assert (count - 1,) == read
        assert [row[1] for row in rows] == stored

    def test_rows_that_are_held_are_stored_as_each_alone_would_be(
        self, path: str, recorder: LedgerRecorder
    ) -> None:
        """Whatever is in them, with constants among them, and where some are there already."""
        texts = ["", "NULL", "a,b", '{"a": "b"}', "\\", '\\"', "é \u2028", "\t\n\r\x1f\x7f", None]
        rows = [
            (number, text, None if number % 2 else bytes([number, 0, 92, 34, 255]))
            for number, text in enumerate(texts)
        ]
        insert = "INSERT INTO odd VALUES (?, ?, NULL, ?, 7) ON CONFLICT (id) DO NOTHING"
        with connected(path) as run:
            run("CREATE TABLE odd (id bigint PRIMARY KEY, t text, none text, b bytea, n bigint)")
        store = recorder.store

        with store.transaction(commit=True) as c:
            c.execute(insert, rows[0])
            with store.holding() as holding:
                _each(holding, insert, [*rows, *rows])
        with connected(path) as run:
            stored = run("SELECT id, t, b FROM odd WHERE none IS NULL AND n = 7 ORDER BY id")
            run("DROP TABLE odd")

        assert rows == stored

    def test_a_store_of_a_newer_version_is_refused_and_left_alone(
        self, path: str, clock: SetClock, recorder: LedgerRecorder
    ) -> None:
        """A program that is older than the tables does not touch them."""
        with connected(path) as run:
            run(f"UPDATE ledger_schema SET version = {SCHEMA_VERSION + 1}")

        with pytest.raises(Unavailable, match="upgrade the program"):
            self.open(path, clock, projections=[Names()])

        with connected(path) as run:
            assert [(None,)] == run("SELECT to_regclass('names')")
            assert [(SCHEMA_VERSION + 1,)] == run("SELECT version FROM ledger_schema")

    def test_the_data_version_changes_when_somebody_commits(
        self, path: str, clock: SetClock, recorder: LedgerRecorder
    ) -> None:
        """Whoever watches notices each commit, also of its own process, and nothing else."""
        first = recorder.store.data_version()
        assert first == recorder.store.data_version()

        recorder.insert_events([enrolled("a")])
        own = recorder.store.data_version()
        other = self.open(path, clock)
        other.insert_events([enrolled("b")])
        others = recorder.store.data_version()
        other.store.close()

        assert 3 == len({first, own, others})
        assert others == recorder.store.data_version()

    def test_a_statement_that_failed_unseen_takes_the_transaction_with_it(
        self, recorder: LedgerRecorder
    ) -> None:
        """PostgreSQL answers such a COMMIT with a rollback; it is not taken for a commit."""

        def swallow() -> None:
            with recorder.transaction() as c:
                recorder.insert_events([enrolled("a")])
                with pytest.raises(psycopg.Error):
                    c.execute("SELECT 1 / 0")

        with pytest.raises(Unavailable, match="rolled back"):
            swallow()

        assert [] == positions(recorder)
        assert [1] == recorder.insert_events([enrolled("b")])

    def test_a_lost_connection_takes_all_that_was_under_way_and_no_more(
        self, path: str, recorder: LedgerRecorder
    ) -> None:
        """Nothing of the transaction stands, and the next one has a new connection."""

        def cut_off() -> None:
            with recorder.transaction() as c:
                recorder.insert_events([enrolled("b")])
                c.execute("SELECT pg_backend_pid()")
                row = c.fetchone()
                with connected(path) as run:
                    run(f"SELECT pg_terminate_backend({row[0]})")
                with pytest.raises(Unavailable, match="connection"):
                    append_then_raise(recorder, Interrupted, "c")
                with pytest.raises(Unavailable, match="rolled back"):
                    recorder.insert_events([enrolled("d")])

        recorder.insert_events([enrolled("a")])
        with pytest.raises(Unavailable, match="rolled back"):
            cut_off()

        assert [1] == positions(recorder)
        assert [2] == recorder.insert_events([enrolled("e")])

    def test_connections_that_were_lost_while_idle_are_replaced_unseen(
        self, path: str, recorder: LedgerRecorder
    ) -> None:
        """Whoever comes next is not told of it."""
        recorder.insert_events([enrolled("a")])
        with connected(path) as run:
            run(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

        assert [2] == recorder.insert_events([enrolled("b")])
        assert [1, 2] == positions(recorder)

    def test_rows_are_read_by_index_and_by_name(self, recorder: LedgerRecorder) -> None:
        """As on SQLite, with values of the same types."""
        recorder.insert_events([enrolled("a")])
        with recorder.store.transaction(commit=False) as c:
            c.execute(
                "SELECT position, stream, state, '50%?' AS x FROM events WHERE position = ?", (1,)
            )
            row = c.fetchone()

        assert (1, "operator/a", "50%?") == (row["position"], row[1], row["x"])
        assert [int, str, bytes, str] == [type(value) for value in row]
        assert ["position", "stream", "state", "x"] == row.keys()


class TestLibraryContract(ApplicationRecorderTestCase[LedgerRecorder]):
    """The test case that the event sourcing library ships for recorders."""

    INITIAL_VERSION = 1

    @pytest.fixture(autouse=True)
    def _server(self, postgres_server: str) -> None:
        self.server = postgres_server

    def new_originator_id(self) -> str:
        return str(uuid4())

    def create_recorder(self) -> LedgerRecorder:
        stack = ExitStack()
        self.addCleanup(stack.close)
        url = stack.enter_context(fresh_database(self.server))
        recorder = open_recorder(url, SetClock())
        stack.callback(recorder.store.close)
        return recorder
