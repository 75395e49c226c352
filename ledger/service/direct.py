"""The ledger's answers without a server: the application itself, called in this process.

So what is read from a database is what a service on it would answer, to the byte. Nothing of the
service runs: no feed, no signer, no ticker. The key that opens the routes is known to this process
alone, is recorded nowhere, and is an auditor's, whom the gate lets read and nothing else.
"""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Final

import httpx

from ledger.client import AsyncClient
from ledger.domain.values import Role
from ledger.service.http.app import create_app
from ledger.service.wiring import Service

READER: Final = "command-line"  # who reads, in the process's own log lines
KEY_BYTES: Final = 32  # as many as the keys of operators have


def reading_client(service: Service) -> AsyncClient:
    """Return a client that an unstarted service answers."""
    with service.recorder.store.transaction(commit=False) as c:
        c.execute("SELECT position, recorded_at FROM events ORDER BY position DESC LIMIT 1")
        position, recorded_at = c.fetchone()
    # Only for what time it is. Nothing is asked of the index: checks are for services.
    service.index.skip(position, datetime.fromisoformat(recorded_at))
    key = secrets.token_urlsafe(KEY_BYTES)
    service.keyring.lend(key.encode(), READER, Role.AUDITOR)
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    return AsyncClient("http://direct", key, retries=0, transport=transport)
