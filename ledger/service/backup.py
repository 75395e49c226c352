"""A copy of a ledger that can take its place: consistent, while the service runs.

The checkpoint file is copied first, so the copied database holds all that it was signed over. The
log's private keys and the vault key are not copied: whoever has those can sign, and read.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from ledger.domain.errors import InvalidValue, Unavailable

VAULT_SUFFIX: Final = ".vault"
CHECKPOINT_SUFFIX: Final = ".checkpoint"


@dataclass(frozen=True, slots=True)
class Copied:
    """Where the copies are; ``vault`` is None where there was none."""

    database: Path
    checkpoint: Path
    vault: Path | None


def back_up(database: Path, checkpoint: Path, folder: Path) -> Copied:
    """Copy a ledger into a new or empty folder.

    Raises ``InvalidValue`` for any other folder, or when there is no ledger, ``Unavailable`` when
    a file cannot be copied.
    """
    if not database.exists():
        raise InvalidValue(f"{database} does not exist")
    copy = folder / database.name
    copied_checkpoint = copy.with_suffix(CHECKPOINT_SUFFIX)
    vault, copied_vault = database.with_suffix(VAULT_SUFFIX), copy.with_suffix(VAULT_SUFFIX)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InvalidValue(f"{folder} is not empty; name a folder that is new or empty")
        if checkpoint.exists():
            shutil.copyfile(checkpoint, copied_checkpoint)
        _copy(database, copy)
        if vault.exists():
            _copy(vault, copied_vault)
        for each in (*folder.iterdir(), folder):
            _sync(each)
    except (OSError, sqlite3.Error) as error:
        raise Unavailable(f"the copy in {folder} cannot be made: {error}") from None
    return Copied(copy, copied_checkpoint, copied_vault if vault.exists() else None)


def _copy(source: Path, target: Path) -> None:
    """Copy a database with SQLite's own means, which see one state of it, what is in use too."""
    target.touch(mode=0o600)
    url = f"file:{quote(str(source.absolute()))}?mode=ro"
    with (
        closing(sqlite3.connect(url, uri=True)) as reading,
        closing(sqlite3.connect(target)) as writing,
    ):
        reading.backup(writing)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
