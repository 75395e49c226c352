"""Where are the log's private keys? One to a line in a file that only its owner may read.

Trust: whoever reads this file can sign for the log. So a file that others may read, or that is
somebody else's, is refused. The lines are signer keys as Go's note package writes them,
``PRIVATE+KEY+<origin>+<key id>+<base64>``, oldest first; keys are added and never removed.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from ledger.domain.errors import InvalidValue
from ledger.store.secret_file import OWNER_ONLY, put_file, read_secret
from ledger.tlog.merkle import LogFormatError
from ledger.tlog.note import SEED_BYTES, Signer, format_signer, parse_signer


def read(path: Path) -> tuple[Signer, ...]:
    """Return the signers of a key file. Raises ``InvalidValue`` and says what is wrong with it."""
    raw = read_secret(
        path,
        "the log's key file",
        when_missing=(
            "put it back from where keys are kept, or make a new key with "
            "compliance-ledger keys rotate-log"
        ),
    )
    try:
        lines = raw.decode().splitlines()
    except UnicodeDecodeError as error:
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
        put_file(path, lines.encode(), OWNER_ONLY)
    except OSError as error:
        raise InvalidValue(f"the log's key file {path} cannot be written: {error}") from None
    return made
