"""How many checks a second, against another policy decision point that speaks AuthZEN.

The peer is Cerbos, from the variable ``CERBOS`` or the search path. Both answer the same requests,
each in its turn alone on the server's core, and both deny the same users the same three models.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks.bench_checks import CONNECTIONS, SERVER_CORE, check_body, measure, median
from benchmarks.ledgers import MODELS, fill
from benchmarks.server import START_TIMEOUT_S, free_port, keys_of, new_ledger, serving

SUSPENDED: Final = 1_000
TURNS: Final = 3
SECONDS: Final = 5
PATH: Final = "/access/v1/evaluation"
USERS: Final = {"allowed": "nobody", "denied": "u7"}


def main() -> None:
    """Measure and print."""
    binary = os.environ.get("CERBOS") or shutil.which("cerbos")
    if binary is None:
        print("Cerbos: not present; name its binary in CERBOS")
        return
    print(f"one core for the server, {CONNECTIONS} connections, {TURNS} turns of {SECONDS} s each")
    ours: dict[str, list[Any]] = {name: [] for name in USERS}
    theirs: dict[str, list[Any]] = {name: [] for name in USERS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        database = folder / "ledger.db"
        admin = new_ledger(database)
        fill(database, 0, suspended=SUSPENDED).recorder.store.close()
        with serving(database, core=SERVER_CORE) as (url, _, _):
            key = keys_of(url, admin)["service"]
        for _ in range(TURNS):
            with serving(database, core=SERVER_CORE) as (_, port, _):
                ask(port, key, ours)
            with serving_cerbos(binary, folder) as port:
                ask(port, "none", theirs)
    for name in USERS:
        mine, other = median(ours[name]), median(theirs[name])
        show(f"a check that is {name}", mine, other)
        show(f"a check that is {name}, by Cerbos", other, other)


def ask(port: int, key: str, measured: dict[str, list[Any]]) -> None:
    """Measure a check that is allowed and one that is denied."""
    for name, user in USERS.items():
        answer = httpx.post(
            f"http://127.0.0.1:{port}{PATH}",
            json=check_body(user),
            headers={"Authorization": f"Bearer {key}"},
        )
        assert answer.json()["decision"] is (name == "allowed"), answer.text
        measured[name].append(measure(port, key, PATH, check_body(user), seconds=SECONDS))


@contextmanager
def serving_cerbos(binary: str, folder: Path) -> Iterator[int]:
    """Serve a policy that denies the suspended users; yields the port.

    It is started on its core rather than moved there, so that it sees from the beginning that it
    has one. It sends no telemetry and logs no requests.
    """
    policies = folder / "policies"
    policies.mkdir(exist_ok=True)
    (policies / "model.json").write_text(json.dumps(policy()))
    port = free_port()
    config = {
        "server": {
            "httpListenAddr": f"127.0.0.1:{port}",
            "grpcListenAddr": f"127.0.0.1:{free_port()}",
        },
        "storage": {"driver": "disk", "disk": {"directory": str(policies)}},
        "telemetry": {"disabled": True},
    }
    (folder / "cerbos.json").write_text(json.dumps(config))
    process = subprocess.Popen(
        [
            *("taskset", "-c", str(SERVER_CORE), binary, "server"),
            *("--config", str(folder / "cerbos.json"), "--log-level", "error"),
        ],
        env={**os.environ, "CERBOS_NO_TELEMETRY": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until_healthy(port, process)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def policy() -> Any:
    """Return a policy of the ledger's shape: all may, but the suspended not the three models."""
    users = json.dumps([f"u{number}" for number in range(SUSPENDED)])
    suspended = f"P.id in {users} && R.id in {json.dumps(MODELS)}"
    return {
        "apiVersion": "api.cerbos.dev/v1",
        "resourcePolicy": {
            "version": "default",
            "resource": "model",
            "rules": [
                {"actions": ["*"], "effect": "EFFECT_ALLOW", "roles": ["*"]},
                {
                    "actions": ["*"],
                    "effect": "EFFECT_DENY",
                    "roles": ["*"],
                    "condition": {"match": {"expr": suspended}},
                },
            ],
        },
    }


def wait_until_healthy(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return when Cerbos answers."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"Cerbos ended with {process.returncode}")
        try:
            if httpx.get(f"http://127.0.0.1:{port}/_cerbos/health").is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise RuntimeError("Cerbos did not become healthy")


def show(name: str, measured: Any, peer: Any) -> None:
    """Print one line."""
    print(
        f"{name:<36} {measured['rate']:>9,.0f} /s  "
        f"{measured['rate'] / peer['rate']:>5.2f} of peer  p50 {measured['p50_ms']:.2f}  "
        f"p99 {measured['p99_ms']:.2f}  p99.9 {measured['p999_ms']:.2f} ms"
    )


if __name__ == "__main__":
    main()
