"""What does it cost to import an event, and at which step?

Rates say little where others compute on the same cores, so it is the processor time that is told:
of the two processes that import into a database, and of a client and the service it sends to.
The peer is in ``bench_group_commit``: bare inserts into the same engine.

Registrations and violations are each about another user. The mix is what a history looks like: of
five lines two register users, two record a violation of each, and one suspends one of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, Final

from benchmarks.bench_group_commit import LINES, lines, publish
from benchmarks.server import cpu_seconds, environment, keys_of, new_ledger, serving
from ledger import application
from ledger.domain.values import format_instant
from ledger.service import importing, recording
from ledger.service.http import batch, route
from ledger.service.settings import Settings
from ledger.service.wiring import build
from ledger.store import codec, held
from ledger.tlog.log import LogRows
from projections.access import AccessRows
from projections.conduct import ConductRows
from projections.erasures import ErasureRows
from projections.operators import OperatorRows
from projections.report import ReportRows
from projections.trail import TrailRows
from tests.postgres import Server, fresh_database

KINDS: Final = ("registrations", "violations", "mix")
LONG: Final = 5 * LINES  # of a file that the command imports, so that its end matters less
SERVICE: Final = ("-m", "ledger")
SPLIT: Final = "split"  # the argument with which this file measures one import step by step


def main() -> None:
    """Measure and print; with arguments, only the stores that they name."""
    wanted = sys.argv[1:] or ["sqlite", "postgresql"]
    if "sqlite" in wanted:
        with tempfile.TemporaryDirectory() as name:
            measure("SQLite", Path(name), {})
    if "postgresql" in wanted:
        server = Server()
        try:
            for_all = {"LEDGER_ALLOW_OWNER": "true"}
            with fresh_database(server.url) as url, tempfile.TemporaryDirectory() as name:
                measure("PostgreSQL", Path(name), {**for_all, "LEDGER_DATABASE_URL": url})
        finally:
            server.remove()


def measure(store: str, folder: Path, where: dict[str, str]) -> None:
    """Measure one store and print."""
    settings = {**where, "LEDGER_FILES": str(folder), "LEDGER_LOG_LEVEL": "warning"}
    database = folder / "ledger.db"
    admin = new_ledger(database, **settings)
    with serving(database, workers=1, core=None, program=SERVICE, **settings) as (url, _, _):
        keys = keys_of(url, admin)
    publish(database, settings, admin)
    variables = {**environment(database, **settings), "LEDGER_API_KEY": keys["officer"]}
    for kind in KINDS:
        files = {name: folder / f"{kind}-{name}.ndjson" for name in ("own", "sent", SPLIT, "one")}
        now = format_instant(datetime.now(UTC))
        for name, path in files.items():
            many = LONG if name == "own" else LINES
            made = mixed(now, many) if kind == "mix" else lines(kind, now, many)
            told = [{**line, "body": _renamed(line["body"], f"{kind}-{name}")} for line in made]
            told = told[:1] if name == "one" else told
            path.write_text("".join(f"{json.dumps(line)}\n" for line in told))
        begun, begun_cpu, _ = run_import(files["one"], variables)
        took, cpu, _ = run_import(files["own"], variables)
        print(
            f"{store}, {kind}, by the command: {LONG / (took - begun):7.0f} events/s after "
            f"{begun:.1f} s of starting, {(cpu - begun_cpu) / LONG * 1e6:5.0f} us of CPU each"
        )
        with serving(database, workers=1, core=None, program=SERVICE, **settings) as (url, _, pid):
            run_import(files["one"], variables, "--url", url)
            before = cpu_seconds(pid)
            begun, begun_cpu, _ = run_import(files["one"], variables, "--url", url)
            took, cpu, _ = run_import(files["sent"], variables, "--url", url)
            served = cpu_seconds(pid) - before
        print(
            f"{store}, {kind}, to a service:   {LINES / (took - begun):7.0f} events/s, "
            f"{served / LINES * 1e6:5.0f} us of CPU each there, "
            f"{(cpu - begun_cpu) / LINES * 1e6:5.0f} us here"
        )
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.bench_import", SPLIT, str(files[SPLIT])],
            env=variables,
            check=True,
            capture_output=True,
            text=True,
        )
        print(done.stdout, end="", flush=True)


def mixed(occurred_at: str, count: int = LINES) -> Iterator[dict[str, Any]]:
    """Make batch lines of a history: registrations, violations, and a suspension."""
    registrations = lines("registrations", "", count)
    violations = lines("violations", occurred_at, count)
    for first in range(0, count, 5):
        users = [next(registrations), next(registrations)]
        yield from users
        for user in users:
            line = next(violations)
            yield {**line, "body": {**line["body"], **user["body"]}}
        yield {
            "method": "POST",
            "path": "/v1/suspensions",
            "body": {
                **users[0]["body"],
                "scope": {"resources": [{"type": "model", "id": "sonnet-large"}]},
                "basis": "precautionary",
                "duration": "P14D",
                "reason": f"Until case {first} is decided.",
            },
        }


def _renamed(body: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the body about another subject."""
    subject = body["subject"]
    return {**body, "subject": {**subject, "id": f"{name}-{subject['id']}"}}


def run_import(
    path: Path, variables: dict[str, str], *options: str
) -> tuple[float, float, dict[str, Any]]:
    """Import a file in a process; return seconds, processor seconds, and what was told."""
    begun, used = time.perf_counter(), os.times()
    done = subprocess.run(
        [sys.executable, "-m", "ledger", "import", str(path), "--json", *options],
        env=variables,
        check=True,
        capture_output=True,
    )
    elapsed, after = time.perf_counter() - begun, os.times()
    cpu = after.children_user + after.children_system - used.children_user - used.children_system
    return elapsed, cpu, json.loads(done.stdout)


# --- step by step ---------------------------------------------------------------------------------


class Steps:
    """Processor time by step: what a step calls that is a step too is not counted for it."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()
        self._threads = threading.local()

    def watch(self, step: str, owner: Any, name: str) -> None:
        """Count what a function, or a method of a class, takes."""
        called = getattr(owner, name)

        @wraps(called)
        def counted(*given: Any, **named: Any) -> Any:
            inner = self._threads.__dict__.setdefault("inner", [])
            inner.append(0)
            begun = time.thread_time_ns()
            try:
                return called(*given, **named)
            finally:
                took = time.thread_time_ns() - begun
                self.spent[step] += took - inner.pop()
                if inner:
                    inner[-1] += took

        setattr(owner, name, counted)


def split(path: Path) -> None:
    """Import a file in this process and print what each step of it took."""
    steps = Steps()
    watched: Sequence[tuple[str, Any, str]] = (
        ("read a line as JSON", batch, "strict_json"),
        ("fingerprint", batch, "fingerprint"),
        ("read what it asks for", route.LedgerRoute, "read"),
        ("rest of reading a line", importing, "asked_by"),
        ("key of the file's line", importing, "_with_key"),
        ("decide", application.Ledger, "_decide"),
        ("read ahead", application.Ledger, "_read_ahead"),
        ("encode", codec, "encode"),
        ("leaf", LogRows, "append"),
        ("hold rows", held.HeldInserts, "takes"),
        ("send rows", held.HeldInserts, "_send_rows"),
        ("answer", recording, "_answer"),
        *(
            ("project", projection, "apply")
            for projection in (AccessRows, ConductRows, OperatorRows, ErasureRows, ReportRows)
        ),
        ("project the trail", TrailRows, "apply"),
        ("rest of a transaction, the commit included", recording, "run"),
    )
    for each in watched:
        steps.watch(*each)
    count, whole = recorded_alone(path)
    for step, spent in steps.spent.most_common():
        print(f"    {spent / count / 1000:7.1f} us  {step}")
    rest = whole * 1e9 - steps.spent.total()
    print(f"    {rest / count / 1000:7.1f} us  all else; {whole / count * 1e6:.1f} us in all")


def recorded_alone(path: Path) -> tuple[int, float]:
    """Import a file in one thread; return its lines, and the processor seconds of it."""
    service = build(Settings())
    count = 0
    with service.signing():
        reader = importing.Reader(service, os.environ["LEDGER_API_KEY"])
        begun = time.thread_time()
        for part in importing.parts_of(path):
            group = reader.read(part)
            count += len(recording.run(service.ledger, group.packed))
        return count, time.thread_time() - begun


if __name__ == "__main__":
    if sys.argv[1:2] == [SPLIT]:
        split(Path(sys.argv[2]))
    else:
        main()
