"""Where are the log's private keys? One to a line in a file that only its owner may read.

Trust: whoever reads this file can sign for the log. So a file that others may read, or that is
somebody else's, is refused. The lines are signer keys as Go's note package writes them,
``PRIVATE+KEY+<origin>+<key id>+<base64>``, oldest first; keys are added and never removed.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import Final

from ledger.domain.errors import InvalidValue
from ledger.tlog.merkle import LogFormatError
from ledger.tlog.note import SEED_BYTES, Signer, format_signer, parse_signer

OWNER_ONLY: Final = 0o600


def read(path: Path) -> tuple[Signer, ...]:
    """Return the signers of a key file. Raises ``InvalidValue`` and says what is wrong with it."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise InvalidValue(f"the log's key file {path} is no regular file")
            if found.st_uid != os.geteuid():
                raise InvalidValue(
                    f"the log's key file {path} belongs to user {found.st_uid}, not to the user "
                    f"{os.geteuid()} of this process; give it to the user that runs the service"
                )
            if found.st_mode & 0o077:
                raise InvalidValue(
                    f"the log's key file {path} has mode {stat.S_IMODE(found.st_mode):04o}, so "
                    f"others may use it; run chmod 600 {path}, and rotate the key if they could"
                )
            lines = file.read().decode().splitlines()
    except FileNotFoundError:
        raise InvalidValue(
            f"the log's key file {path} is missing; put it back from where keys are kept, or make "
            "a new key with compliance-ledger keys rotate-log"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidValue(f"the log's key file {path} cannot be read: {error}") from None
    try:
        signers = tuple(parse_signer(line) for line in lines)
    except LogFormatError as error:
        raise InvalidValue(f"the log's key file {path} is malformed: {error}") from None
    if not signers:
        raise InvalidValue(f"the log's key file {path} is empty")
    return signers


def add(path: Path, name: str) -> Signer:
    """Make a new key, keep it in the file after those that are there, and return it.

    Raises ``InvalidValue`` for a file that ``read`` would refuse, or a name no key can have.
    """
    known = read(path) if path.exists() else ()
    try:
        made = Signer(name, secrets.token_bytes(SEED_BYTES))
    except LogFormatError as error:
        raise InvalidValue(f"{name!r} cannot be the name of a log: {error}") from None
    lines = "".join(f"{format_signer(signer)}\n" for signer in (*known, made))
    try:
        replace_file(path, lines.encode(), OWNER_ONLY)
    except OSError as error:
        raise InvalidValue(f"the log's key file {path} cannot be written: {error}") from None
    return made


def replace_file(path: Path, data: bytes, mode: int) -> None:
    """Put a file in place, whole or not at all, and on disk when this returns."""
    made = path.with_name(f"{path.name}.new")
    made.unlink(missing_ok=True)
    file = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        os.fchmod(file, mode)
        with os.fdopen(file, "wb", closefd=False) as writing:
            writing.write(data)
        os.fsync(file)
    finally:
        os.close(file)
    made.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
