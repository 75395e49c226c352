"""Whatever breaks during an append on PostgreSQL: it is whole or absent, and the answer is true."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

from ledger.application import Ledger, Once
from ledger.domain.errors import OutcomeUnknown, Unavailable
from ledger.domain.events import Author
from ledger.domain.values import Subject
from ledger.store.postgres import PostgresCursor, PostgresDatastore
from tests.conftest import SetClock, check_store, open_ledger
from tests.postgres import SERVER_VARIABLE, NoServerError, Server
from tests.store.contract import ROOT

JO: Final = Author("jo")
MESSAGES_MAX: Final = 60  # more than one command sends


class Proxy:
    """Stands between a client and the server, and cuts every connection when it is told to."""

    def __init__(self, socket_path: str) -> None:
        self._upstream = socket_path
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._open: list[socket.socket] = []
        self._left = 0
        self._how = "lost"
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, at: int, how: str) -> None:
        """Cut at a message of the client from now on, counted from 1: when it is ``lost`` on its

        way, or ``sent``, or ``answered`` and the answer is lost.
        """
        self._left, self._how = at, how

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._upstream)
                self._open += [client, server]
                threading.Thread(target=self._carry, args=(client, server), daemon=True).start()

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        """Carry messages to the server, and each answer back; a client here never sends two."""
        with suppress(OSError), client, server:
            while message := client.recv(1 << 20):
                self._left -= 1
                now = self._left == 0
                if now and self._how == "lost":
                    self.cuts += 1
                    return
                server.sendall(message)
                if now and self._how == "sent":
                    self.cuts += 1
                    return
                if message[:1] == b"X":
                    return
                answer = b""
                # ReadyForQuery ends an answer; before it, a request to authenticate may.
                while not (answer[-6:-1] == b"Z\0\0\0\5" or answer == b"N"):
                    more = server.recv(1 << 20)
                    if not more:
                        return
                    answer += more
                if now:
                    self.cuts += 1
                    return
                client.sendall(answer)

    def close(self) -> None:
        """Stop, and cut what is open."""
        self._listening.close()
        for each in self._open:
            each.close()


@pytest.fixture
def proxy(postgres_url: str) -> Iterator[Proxy]:
    folder = parse_qs(urlsplit(postgres_url).query).get("host", [""])[0]
    if not folder.startswith("/"):
        pytest.skip("the server has no socket to stand in front of")
    proxy = Proxy(f"{folder}/.s.PGSQL.5432")
    yield proxy
    proxy.close()


def through(proxy: Proxy, url: str) -> str:
    """Return the address of a database behind the proxy."""
    name = urlsplit(url).path
    return f"postgresql://postgres@127.0.0.1:{proxy.port}{name}?sslmode=disable&gssencmode=disable"


def register(ledger: Ledger, number: int) -> str:
    """Make a subject known, under a key; return what came of it."""
    key = f"key-{number}"
    try:
        done = ledger.register(
            Subject(type="user", id=f"u{number}"),
            properties={},
            by=JO,
            once=Once(key, key),
        )
    except OutcomeUnknown:
        return "unknown"
    except Unavailable:
        return "nothing"
    return done.outcome


def is_recorded(url: str, number: int) -> bool:
    """Look behind the ledger's back; the fact and what is remembered of it go together."""
    with psycopg.connect(url) as c:
        facts = c.execute(
            "SELECT position FROM events WHERE stream = %s", (f"subject/user:u{number}",)
        ).fetchall()
        remembered = c.execute(
            "SELECT position FROM commands WHERE idempotency_key = %s", (f"key-{number}",)
        ).fetchall()
    assert facts == remembered
    return bool(facts)


@pytest.mark.parametrize("how", ["lost", "sent", "answered"])
def test_a_connection_cut_at_any_step_is_answered_truthfully(
    postgres_url: str, proxy: Proxy, tmp_path: Path, clock: SetClock, how: str
) -> None:
    """Recorded is answered as recorded; what is said not to be there is not there, nor comes."""
    store = PostgresDatastore(through(proxy, postgres_url))
    ledger = open_ledger(tmp_path / "ledger.db", clock, store=store)
    said = []
    for step in range(1, MESSAGES_MAX):
        before = proxy.cuts
        proxy.cut(step, how)
        outcome = register(ledger, step)
        proxy.cut(0, how)

        there = is_recorded(postgres_url, step)
        assert outcome in ("recorded", "nothing"), (step, outcome)
        assert (outcome == "recorded") == there, (step, outcome)
        assert register(ledger, step) == ("repeated" if there else "recorded"), step
        said.append(outcome)
        if proxy.cuts == before:
            break
    assert "nothing" in said
    assert len(said) < MESSAGES_MAX - 1

    # Recorded though cut: at BEGIN, which is tried again, and at a COMMIT that was carried out; and
    # where a connection was cut that the pool made meanwhile.
    assert how == "lost" or "recorded" in said[:-1]
    check_store(ledger.recorder)
    store.close()
    ledger.vault.close()


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A server of its own, to be broken."""
    try:
        server = Server()
    except NoServerError as error:
        pytest.skip(f"{error}; {SERVER_VARIABLE} cannot help, because this breaks the server")
    yield server
    server.remove()


class Load:
    """What four threads that write were answered, by the number of each command."""

    def __init__(self, ledger: Ledger) -> None:
        self.outcomes: dict[int, str] = {}
        self._ledger = ledger
        self._numbers = iter(range(10_000_000))
        self._recorded = threading.Semaphore(0)

    def write(self, stop: threading.Event) -> None:
        """Write until told to stop."""
        while not stop.is_set():
            number = next(self._numbers)
            self.outcomes[number] = register(self._ledger, number)
            if self.outcomes[number] == "recorded":
                self._recorded.release()

    def await_recorded(self, count: int) -> None:
        """Return when so many more commands were recorded."""
        for _ in range(count):
            assert self._recorded.acquire(timeout=30)

    def forget_recorded(self) -> None:
        """Count from here on, what was recorded before is not waited for any more."""
        while self._recorded.acquire(blocking=False):
            pass

    def check_answers(self, url: str) -> None:
        """Check that all that was answered is there and nothing else, and say each once more."""
        for number, outcome in self.outcomes.items():
            there = is_recorded(url, number)
            if outcome != "unknown":
                assert (outcome == "recorded") == there, (number, outcome)
            assert register(self._ledger, number) == ("repeated" if there else "recorded")


@contextmanager
def writing(ledger: Ledger) -> Iterator[Load]:
    """Write from four threads until the block ends."""
    load, stop = Load(ledger), threading.Event()
    threads = [threading.Thread(target=load.write, args=(stop,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        stop.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def restart_while_writing(server: Server, folder: Path, rounds: int) -> None:
    """Write from four threads, and restart the server as if it was killed, again and again."""
    store = PostgresDatastore(server.url)
    ledger = open_ledger(folder / "ledger.db", SetClock(), store=store)
    with writing(ledger) as load:
        for _ in range(rounds):
            load.await_recorded(30)
            server.stop("immediate")
            server.start()
            load.forget_recorded()
        load.await_recorded(30)
    load.check_answers(server.url)
    check_store(ledger.recorder)
    store.close()
    ledger.vault.close()


def test_a_server_killed_while_writing_has_everything_that_was_answered(
    own_server: Server, tmp_path: Path
) -> None:
    """Nothing answered is lost, nothing is taken for a conflict, and writing goes on by itself."""
    restart_while_writing(own_server, tmp_path, 3)


def test_a_warning_beside_the_answer_to_a_commit_does_not_undo_it(
    postgres_url: str, tmp_path: Path
) -> None:
    """So a server warns that is told to end just then; nobody but a standby could unconfirm it."""
    store = PostgresDatastore(postgres_url)
    ledger = open_ledger(tmp_path / "ledger.db", SetClock(), store=store)
    with psycopg.connect(postgres_url) as c:
        c.execute(
            "CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE WARNING 'this server is about to end'; RETURN NULL; END $$"
        )
        c.execute(
            "CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON events "
            "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION warn()"
        )

    assert "recorded" == register(ledger, 1)

    assert is_recorded(postgres_url, 1)
    check_store(ledger.recorder)
    store.close()
    ledger.vault.close()


@pytest.mark.soak
def test_a_server_killed_again_and_again_has_everything_that_was_answered(
    own_server: Server, tmp_path: Path
) -> None:
    """The same, ten times."""
    restart_while_writing(own_server, tmp_path, 10)


class FailingCursor(PostgresCursor):
    """A cursor that fails at one statement of its store."""

    def __init__(self, cursor: PostgresCursor, store: FailingStore) -> None:
        super().__init__(cursor.postgres_cursor)
        self._store = store

    def execute(self, statement: str | bytes, params: Any = None) -> None:
        """Execute a statement, or have the server refuse it."""
        self._store.statements += 1
        super().execute(
            "SELECT 1 / 0" if self._store.statements == self._store.fail_at else statement,
            None if self._store.statements == self._store.fail_at else params,
        )


class FailingStore(PostgresDatastore):
    """A store on which the n-th statement of a write fails at the server, counted from 1."""

    statements = 0
    fail_at = 0

    @contextmanager
    def transaction(self, *, commit: bool) -> Iterator[PostgresCursor]:
        """Yield a cursor that may fail."""
        with super().transaction(commit=commit) as cursor:
            writing = self._writing_thread == threading.get_ident()
            yield FailingCursor(cursor, self) if writing else cursor


def test_a_statement_that_fails_leaves_nothing_of_its_command(
    postgres_url: str, tmp_path: Path, clock: SetClock
) -> None:
    """Each in turn; the same command then goes through, and is recorded once."""
    store = FailingStore(postgres_url)
    ledger = open_ledger(tmp_path / "ledger.db", clock, store=store)
    step = 0
    while True:
        step += 1
        store.statements, store.fail_at = 0, step
        try:
            outcome = register(ledger, step)
        except psycopg.Error:
            assert not is_recorded(postgres_url, step)
        else:
            break  # it has fewer statements than that
        store.fail_at = 0
        assert register(ledger, step) == "recorded"
    assert outcome == "recorded"
    assert step > len(("version", "event", "leaf", "row", "command"))

    check_store(ledger.recorder)
    store.close()
    ledger.vault.close()


def test_four_processes_write_one_ledger(postgres_url: str, tmp_path: Path) -> None:
    """Each on its own subjects and on one they share: dense, nothing lost, nothing double."""
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from ledger.store.postgres import PostgresDatastore\n"
        "from tests.conftest import SetClock, open_ledger\n"
        "from tests.store.test_postgres_faults import register\n"
        "store = PostgresDatastore(sys.argv[1])\n"
        "ledger = open_ledger(Path(sys.argv[2]), SetClock(), store=store)\n"
        "first = int(sys.argv[3])\n"
        "for number in range(first, first + 40):\n"
        "    print(number, register(ledger, number), register(ledger, number % 10), flush=True)\n"
    )
    ledger = open_ledger(tmp_path / "ledger.db", SetClock(), store=PostgresDatastore(postgres_url))
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                program,
                postgres_url,
                str(tmp_path / f"{number}.db"),
                str(1_000 * number),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(1, 5)
    ]
    lines = [
        line.split() for each in processes for line in each.communicate(timeout=60)[0].splitlines()
    ]

    assert [0] * 4 == [each.returncode for each in processes]
    assert ["recorded"] * 160 == [own for _, own, _ in lines]
    assert 10 == sum(shared == "recorded" for _, _, shared in lines)
    assert {"recorded", "repeated"} == {shared for _, _, shared in lines}
    assert 170 == ledger.recorder.position
    check_store(ledger.recorder)
    ledger.recorder.store.close()
    ledger.vault.close()
