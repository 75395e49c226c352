"""Files that only their owner may read: keys. And how a file is put in place, whole or not at all.

Trust: whoever reads a key can sign for the log or open what is sealed. So a file that others may
read, or that is somebody else's, is refused.
"""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from ledger.domain.errors import InvalidValue

OWNER_ONLY: Final = 0o600


def read_secret(path: Path, what: str, *, when_missing: str) -> bytes:
    """Return what a file of ours holds that nobody else may read.

    ``what`` names it in a refusal. Raises ``InvalidValue``, which says what to do.
    """
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise InvalidValue(f"{what} {path} is no regular file")
            if found.st_uid != os.geteuid():
                raise InvalidValue(
                    f"{what} {path} belongs to user {found.st_uid}, not to the user "
                    f"{os.geteuid()} of this process; give it to the user that runs the service"
                )
            if found.st_mode & 0o077:
                raise InvalidValue(
                    f"{what} {path} has mode {stat.S_IMODE(found.st_mode):04o}, so others may use "
                    f"it; run chmod 600 {path}, and take a new key if they could"
                )
            return file.read()
    except FileNotFoundError:
        raise InvalidValue(f"{what} {path} is missing; {when_missing}") from None
    except OSError as error:
        raise InvalidValue(f"{what} {path} cannot be read: {error.strerror}") from None


def put_file(path: Path, data: bytes, mode: int, *, replace: bool = True) -> None:
    """Put a file in place, whole or not at all, and on disk when this returns.

    Without ``replace`` one that is there stays as it is. Raises ``OSError``.
    """
    # What a crash left of a replacement is in the way of the next one, which takes it away; two
    # that make a file for the first time must not meet.
    made = path.with_name(f"{path.name}.new" if replace else f"{path.name}.{secrets.token_hex(8)}")
    if replace:
        made.unlink(missing_ok=True)
    file = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        try:
            os.fchmod(file, mode)
            with os.fdopen(file, "wb", closefd=False) as writing:
                writing.write(data)
            os.fsync(file)
        finally:
            os.close(file)
        if replace:
            made.replace(path)
        else:
            with suppress(FileExistsError):
                os.link(made, path)
    finally:
        made.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
