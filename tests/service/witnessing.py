"""Witnesses for tests: ours, served over a real socket, and ledgers that are watched by some."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn
from starlette.types import ASGIApp

from ledger.service.settings import Settings
from ledger.service.wiring import build
from ledger.service.witness import Witness, create_witness_app, make_witness
from ledger.tlog.checkpoint import Checkpoint, LogKey, format_checkpoint
from ledger.tlog.merkle import consistency_proof, leaf_hash, root
from ledger.tlog.note import Note, Signer, VerifierKey, format_note, format_vkey, parse_vkey, sign
from ledger.tlog.witness_protocol import AddCheckpoint, format_add_checkpoint
from tests.conftest import SetClock
from tests.service.conftest import Running, open_ledger, serving

COSIGNED_AT_S = 1767225600


@contextmanager
def over_http(app: ASGIApp) -> Iterator[str]:
    """Serve an application in a thread for as long as the block runs; yields the URL."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", ws="none")
    server = uvicorn.Server(config)
    arguments = {"sockets": [listening]}
    thread = threading.Thread(target=server.run, kwargs=arguments, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive()


@dataclass(frozen=True)
class Served:
    """A witness of ours that is served."""

    folder: Path
    url: str
    key: VerifierKey

    def post(self, body: bytes) -> httpx.Response:
        """Send a request to cosign."""
        return httpx.post(f"{self.url}/add-checkpoint", content=body, timeout=20)


@contextmanager
def witness_of(
    folder: Path, *log_keys: LogKey, name: str = "witness.example/w1"
) -> Iterator[Served]:
    """Serve a witness of these logs; it is made, unless the folder holds it already."""
    if not folder.exists():
        make_witness(folder, name)
    witness = Witness(folder, log_keys, now_s=lambda: COSIGNED_AT_S)
    try:
        with over_http(create_witness_app(witness)) as url:
            yield Served(folder, url, parse_vkey(witness.vkey))
    finally:
        witness.close()


class Branch:
    """A log that is signed with a key, and the requests with which it would be offered."""

    def __init__(self, signer: Signer, entries: list[bytes]) -> None:
        self.signer = signer
        self.leaves = [leaf_hash(each) for each in entries]

    def root(self, size: int) -> bytes:
        """Return the root of the first entries."""
        return root(self.leaves[:size])

    def note(self, size: int) -> Note:
        """Sign the checkpoint of the first entries."""
        text = format_checkpoint(Checkpoint(self.signer.name, size, self.root(size)))
        return Note(text, (sign(text, self.signer),))

    def signed(self, size: int) -> bytes:
        """Write that checkpoint."""
        return format_note(self.note(size))

    def request(self, old: int, size: int, *, proof: tuple[bytes, ...] | None = None) -> bytes:
        """Write the request to cosign a size after an older one."""
        if proof is None:
            proof = consistency_proof(old, size, self._hash_at)
        return format_add_checkpoint(AddCheckpoint(old, proof, self.note(size)))

    def _hash_at(self, level: int, index: int) -> bytes:
        return root(self.leaves[index << level : (index + 1) << level])


def policy_of(path: Path, urls: Mapping[str, tuple[VerifierKey, str]], quorum: str) -> Path:
    """Write a policy of witnesses by name; the quorum is a group of all of them, or `none`."""
    lines = [f"witness {name} {format_vkey(key)} {url}" for name, (key, url) in urls.items()]
    if quorum != "none":
        lines.append(f"group quorum {quorum} {' '.join(urls)}")
        quorum = "quorum"
    path.write_text("".join(f"{line}\n" for line in (*lines, f"quorum {quorum}")))
    return path


@dataclass
class Founded:
    """A ledger that was opened and is not served: its settings, its keys, the key of its log."""

    settings: Settings
    clock: SetClock
    keys: dict[str, str]
    log_key: LogKey

    @contextmanager
    def serving(self, policy: Path | None = None) -> Iterator[Running]:
        """Serve the ledger with a witness policy."""
        settings = self.settings.model_copy(update={"witness_policy": policy})
        service = build(settings, clock=self.clock)
        with serving(service) as url, httpx.Client(base_url=url, timeout=20) as http:
            yield Running(service, url, self.clock, self.keys, http)


def founded_in(path: Path, clock: SetClock) -> Founded:
    """Open a ledger in a new folder."""
    path.mkdir(parents=True, exist_ok=True)
    settings = Settings(database_url=f"sqlite:///{path / 'ledger.db'}", origin="test.ledger")
    service = build(settings, clock=clock)
    keys = open_ledger(service)
    log_key = service.ledger.log_keys()[-1]
    service.recorder.store.close()
    return Founded(settings, clock, keys, log_key)


def published(run: Running) -> bytes | None:
    """Return the checkpoint that a ledger shows to everybody."""
    response = run("GET", "/log/checkpoint")
    return response.content if response.status_code == 200 else None


def standing(run: Running, name: str) -> dict[str, object]:
    """Say how a witness stands, as /readyz does."""
    found: list[dict[str, object]] = run.done("GET", "/readyz", role="auditor")["witnesses"]
    return next(each for each in found if each["name"] == name)
