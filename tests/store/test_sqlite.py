"""The recorder on SQLite keeps the contract, and the library's own; and what only SQLite can do."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from eventsourcing.tests.persistence import ApplicationRecorderTestCase

from ledger.domain.errors import Unavailable
from ledger.domain.events import Recorded
from ledger.store.projection import Projection
from ledger.store.recorder import SCHEMA_VERSION, LedgerRecorder
from ledger.store.sqlite import LedgerDatastore
from ledger.tlog.log import LogRows
from tests.conftest import SetClock
from tests.store.contract import (
    Interrupted,
    Names,
    RecorderContract,
    Where,
    enrolled,
    positions,
)

TRIGGERS = ("dense", "never_replaced", "never_changed", "never_deleted")


def open_recorder(
    path: Where,
    clock: Callable[[], datetime],
    *,
    projections: Sequence[Projection] = (),
    committed: Callable[[Sequence[Recorded]], None] = lambda _: None,
    lock_timeout_s: float = 10,
) -> LedgerRecorder:
    """Open a recorder on a file."""
    recorder = LedgerRecorder(
        LedgerDatastore(path, lock_timeout_s=lock_timeout_s),
        clock=clock,
        log=LogRows(),
        projections=projections,
        committed=committed,
    )
    recorder.create_table()
    return recorder


@contextmanager
def connected(path: Where) -> Iterator[Callable[[str], list[Any]]]:
    """Run statements on a file through a plain connection, each by itself."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield lambda statement: connection.execute(statement).fetchall()


class TestSQLiteRecorder(RecorderContract):
    """The contract, on a file."""

    OPENING: ClassVar[str] = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.conftest import SetClock\n"
        "from tests.store.test_sqlite import open_recorder\n"
        "recorder = open_recorder(Path(sys.argv[1]), SetClock())\n"
    )
    FORBIDDEN: ClassVar[Sequence[str]] = (
        *RecorderContract.FORBIDDEN,
        *(
            f"INSERT OR REPLACE INTO events SELECT {columns}, recorded_at, state FROM events "
            "WHERE position = 1"
            for columns in (
                "4, stream, version, 'x'",
                "1, stream, version, 'x'",
                "NULL, 'operator/x', 1, type",
                "1, 'operator/x', 1, type",
            )
        ),
        "UPDATE OR REPLACE events SET position = 1 WHERE position = 2",
    )

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
            path,
            clock,
            projections=projections,
            committed=committed,
            lock_timeout_s=lock_timeout_s,
        )

    def sql(self, path: Where) -> Any:
        return connected(path)

    def literal(self, value: bytes) -> str:
        return f"x'{value.hex()}'"

    def defenceless(self, path: Where) -> None:
        with connected(path) as run:
            for trigger in TRIGGERS:
                run(f"DROP TRIGGER events_are_{trigger}")

    # --- what only SQLite can do ------------------------------------------------------------------

    def test_a_commit_is_on_disk_when_it_returns(self, recorder: LedgerRecorder) -> None:
        """The write-ahead log is synced at each commit, on every connection that writes."""
        recorder.insert_events([enrolled()])

        with recorder.store.transaction(commit=True) as c:
            found = {}
            for pragma in ("journal_mode", "synchronous", "foreign_keys"):
                c.execute(f"PRAGMA {pragma}")
                found[pragma] = c.fetchone()[0]

        assert {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1} == found

    def test_what_is_sorted_to_be_read_need_not_fit_into_memory(
        self, recorder: LedgerRecorder
    ) -> None:
        """It goes to a temporary file; what a savepoint could take back does not, for speed."""
        found = []
        for commit in (False, True):
            with recorder.store.transaction(commit=commit) as c:
                c.execute("PRAGMA temp_store")
                found.append(c.fetchone()[0])

        default, memory = 0, 2
        assert [default, memory] == found

    def test_a_store_of_a_newer_version_is_refused_and_left_alone(
        self, path: Where, clock: SetClock, recorder: LedgerRecorder
    ) -> None:
        """A program that is older than the tables does not touch them."""
        recorder.insert_events([enrolled()])
        with connected(path) as run:
            run(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
            before = run("SELECT sql FROM sqlite_schema ORDER BY name")

        with pytest.raises(Unavailable, match="upgrade the program"):
            self.open(path, clock, projections=[Names()])

        with connected(path) as run:
            assert before == run("SELECT sql FROM sqlite_schema ORDER BY name")
            assert [(SCHEMA_VERSION + 1,)] == run("PRAGMA user_version")

    def test_opening_a_store_again_changes_nothing(
        self, path: Where, clock: SetClock, recorder: LedgerRecorder
    ) -> None:
        """Tables are made where they are missing, and are otherwise left as they are."""
        recorder.insert_events([enrolled()])
        with connected(path) as run:
            before = run("SELECT * FROM sqlite_schema")

        again = self.open(path, clock)

        with connected(path) as run:
            assert before == run("SELECT * FROM sqlite_schema")
            assert [(SCHEMA_VERSION,)] == run("PRAGMA user_version")
        assert [1] == positions(again)
        again.store.close()

    def test_the_data_version_changes_when_another_connection_commits(
        self, path: Where, clock: SetClock, recorder: LedgerRecorder
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

    def test_a_database_that_cannot_have_a_write_ahead_log_is_refused(self) -> None:
        """In memory nothing would survive, so it is refused rather than half supported."""
        with pytest.raises(Unavailable, match="cannot be opened in WAL mode"):
            open_recorder(Path(":memory:"), SetClock())

    def test_a_file_that_is_no_database_is_refused_and_left_alone(self, path: Path) -> None:
        """What somebody else keeps there is not overwritten."""
        path.write_bytes(b"Not a database. " * 100)

        with pytest.raises(Unavailable, match="cannot be opened"):
            open_recorder(path, SetClock())

        assert b"Not a database. " * 100 == path.read_bytes()

    def test_a_transaction_that_the_database_ended_goes_no_further(
        self, recorder: LedgerRecorder
    ) -> None:
        """When SQLite itself rolls back, as on a full disk, nothing that follows stands alone."""

        def fill_the_disk() -> None:
            with recorder.transaction() as c:
                c.execute("ROLLBACK")
                raise Interrupted

        def outer() -> None:
            with recorder.transaction():
                recorder.insert_events([enrolled("a")])
                with pytest.raises(Interrupted):
                    fill_the_disk()
                with pytest.raises(Unavailable, match="rolled back"):
                    recorder.insert_events([enrolled("b")])

        with pytest.raises(sqlite3.OperationalError):
            outer()

        assert [] == positions(recorder)
        assert [1] == recorder.insert_events([enrolled("c")])

    def test_many_stores_may_be_made_at_once(self, path: Path, clock: SetClock) -> None:
        """Whoever comes first makes the tables, the others find them."""
        for number in range(5):
            fresh = path.with_name(f"{number}.db")
            with ThreadPoolExecutor(4) as threads:
                opened = threads.map(
                    lambda _, fresh=fresh: self.open(fresh, clock).store.close(), range(4)
                )
                assert [None] * 4 == list(opened)


class TestLibraryContract(ApplicationRecorderTestCase[LedgerRecorder]):
    """The test case that the event sourcing library ships for recorders."""

    INITIAL_VERSION = 1

    def new_originator_id(self) -> str:
        return str(uuid4())

    def create_recorder(self) -> LedgerRecorder:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        recorder = open_recorder(Path(folder.name) / "ledger.db", SetClock())
        self.addCleanup(recorder.store.close)
        return recorder
