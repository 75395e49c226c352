"""What the ledger measures of itself: right at once, added up over processes, about nobody."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from ledger.service.http.authzen import TIMED_EVERY
from ledger.service.settings import Settings
from ledger.service.wiring import build
from tests.checks import check_ledger
from tests.conftest import SetClock
from tests.histories import awake
from tests.service.conftest import (
    Running,
    found,
    joined,
    suspension_of,
    until,
)
from tests.service.conftest import opened as opened_here
from tests.serving import Process, asked, opened, started

Values = Mapping[str, float]
UNITS = (
    "seconds",
    "bytes",
    "positions",
    "subjects",
    "processes",
    "streams",
    "behind",
    "lost",
    "size",
)
STATES = ("position", "stopped", "detected", "info")
LABELS = {
    "result": {"allowed", "denied", "refused"},
    "kind": {"single", "batch"},
    "outcome": {"recorded", "repeated", "unchanged", "refused", "failed"},
    "method": {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other"},
}


def families(text: str) -> list[Metric]:
    """The metrics of a text, as the client library of Prometheus reads them."""
    return list(text_string_to_metric_families(text))


def values(text: str) -> dict[str, float]:
    """Each value, by name and labels as they are written."""
    read = {}
    for family in families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            read[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return read


def scraped(run: Running) -> Values:
    """The values of a running service."""
    response = run("GET", "/metrics", role="auditor")
    assert 200 == response.status_code, response.text
    assert "text/plain; version=0.0.4; charset=utf-8" == response.headers["content-type"]
    return values(response.text)


def grown(before: Values, after: Values) -> dict[str, float]:
    """How much each value grew that grew."""
    return {
        name: value - before.get(name, 0)
        for name, value in after.items()
        if value > before.get(name, 0)
    }


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A founded service that has a decision log and did some of everything."""
    folder = tmp_path_factory.mktemp("busy")
    settings = Settings(
        database_url=f"sqlite:///{folder / 'ledger.db'}",
        origin="test.ledger",
        decision_log=folder / "decisions.ndjson",
    )
    with opened_here(settings, SetClock()) as run:
        yield found(run)


def test_checks_are_counted_by_result(busy: Running) -> None:
    """A permit, a denial, a refusal and each item of a batch count once, and are there at once."""
    everything = {"resources": [{"type": "model"}]}
    suspension_of(busy, "user:counted", scope=everything)
    before = scraped(busy)
    busy.allowed("user:free", "m1")
    busy.allowed("user:counted", "m1")
    refused = busy("POST", "/access/v1/evaluation", role="service", json={"subject": 1})
    unknown = busy("POST", "/access/v1/evaluation", json=asked("free"))
    items = [asked("free"), asked("counted"), {**asked("free"), "subject": 1}, asked("free")]
    busy.done("POST", "/access/v1/evaluations", role="service", json={"evaluations": items})
    grew = grown(before, scraped(busy))

    assert (400, 401) == (refused.status_code, unknown.status_code)
    assert 3 == grew["ledger_checks_total{result=allowed}"]
    assert 2 == grew["ledger_checks_total{result=denied}"]
    assert 3 == grew["ledger_checks_total{result=refused}"]
    assert 1 == grew["ledger_check_duration_seconds_count{kind=batch}"]


def test_checks_without_the_parser_are_counted_alike(busy: Running) -> None:
    """A head that asks to wait for a position is answered by the application; it counts as well."""
    before = scraped(busy)
    headers = {"Ledger-Min-Position": "1"}
    busy.done("POST", "/access/v1/evaluation", role="service", json=asked("free"), headers=headers)
    grew = grown(before, scraped(busy))

    assert 1 == grew["ledger_checks_total{result=allowed}"]


def test_one_of_many_checks_is_timed(busy: Running) -> None:
    """Of single checks as many are timed as the constant says."""
    before = scraped(busy)
    for _ in range(2 * TIMED_EVERY):
        busy.allowed("user:free", "m1")
    grew = grown(before, scraped(busy))

    assert 2 * TIMED_EVERY == grew["ledger_checks_total{result=allowed}"]
    assert 2 == grew["ledger_check_duration_seconds_count{kind=single}"]
    assert 0 < grew["ledger_check_duration_seconds_sum{kind=single}"] < 60


def test_commands_are_counted_by_route_and_outcome(busy: Running) -> None:
    """Recorded, repeated, unchanged and refused commands are told apart."""
    resource = {"resource": {"type": "model", "id": "counted"}, "actions": ["use"]}
    before = scraped(busy)
    for _ in range(2):
        busy.done("PUT", "/v1/resources", role="admin", json=resource)
    body = {"subject": {"type": "user", "id": "w"}, "reason": "A warning.", "grounds": []}
    body |= {"scope": {"resources": [{"type": "model"}]}, "duration": "P1D"}
    busy("POST", "/v1/suspensions", role="officer", json=body)
    link = {
        "subject": {"type": "user", "id": "w"},
        "parent": {"type": "organization", "id": "acme"},
    }
    for _ in range(2):
        busy.done(
            "POST", "/v1/links", role="officer", json=link, headers={"Idempotency-Key": "again"}
        )
    grew = grown(before, scraped(busy))

    assert {
        "ledger_commands_total{outcome=recorded,route=PUT /v1/resources}": 1,
        "ledger_commands_total{outcome=unchanged,route=PUT /v1/resources}": 1,
        "ledger_commands_total{outcome=refused,route=POST /v1/suspensions}": 1,
        "ledger_commands_total{outcome=recorded,route=POST /v1/links}": 1,
        "ledger_commands_total{outcome=repeated,route=POST /v1/links}": 1,
    } == {name: value for name, value in grew.items() if name.startswith("ledger_commands")}
    assert 5 == grew["ledger_append_duration_seconds_count"]


def test_requests_are_counted_by_template(busy: Running) -> None:
    """Whatever an address names, its label is the route; an unknown one has none."""
    before = scraped(busy)
    for path in ("/v1/suspensions/sus_secret", "/v1/suspensions/sus_other"):
        busy("GET", path, role="auditor")
    busy("GET", "/secret")
    busy.http.request("PROPFIND", "/livez")
    grew = grown(before, scraped(busy))

    assert 2 == grew["ledger_http_requests_total{method=GET,route=/v1/suspensions/{id},status=404}"]
    assert 1 == grew["ledger_http_requests_total{method=GET,route=none,status=404}"]
    assert 1 == grew["ledger_http_requests_total{method=other,route=/livez,status=405}"]


def test_the_state_is_told(busy: Running) -> None:
    """Position, index, log and disk are those that the service has."""
    suspension_of(busy, "user:stated")
    until(lambda: busy.service.signer.published[0] == busy.service.recorder.position)
    read = scraped(busy)
    position = busy.service.recorder.position

    assert position == read["ledger_position"] == read["ledger_log_size"]
    assert position == read["ledger_checkpoint_size"]
    assert busy.service.index.subjects == read["ledger_index_subjects"] > 0
    assert 0 == read["ledger_lag_positions"] == read["ledger_lag_seconds"]
    assert 0 == read["ledger_tamper_detected"] == read["ledger_vault_keys_lost"]
    assert 0 == read["ledger_witnesses_behind"] == read["ledger_witness_lag_positions"]
    assert 0 <= read["ledger_checkpoint_age_seconds"] < 60
    assert 0 < read["ledger_disk_free_bytes"] < read["ledger_disk_size_bytes"]
    assert read["ledger_database_size_bytes"] > 100_000


def test_a_decision_that_was_dropped_is_counted(busy: Running) -> None:
    """What the decision log had no room for is told."""
    assert busy.service.decision_log is not None
    before = scraped(busy)
    busy.service.decision_log.dropped += 3

    assert 3 == grown(before, scraped(busy))["ledger_decisions_dropped_total"]


def test_doubt_is_told_at_once(running: Running) -> None:
    """An edited event makes the gauge 1 with the next scrape, and writing stops."""
    found(running)
    assert 0 == scraped(running)["ledger_tamper_detected"]
    with joined(running) as other:
        other.service.signer.mark_doubted("an event was edited")

        assert 1 == scraped(other)["ledger_tamper_detected"]


def test_a_process_that_lags_says_by_how_much(running: Running) -> None:
    """Positions and the age of the oldest that is not applied."""
    found(running)
    with joined(running) as other:
        other.service.feed._stop.set()
        assert other.service.feed._thread is not None
        other.service.feed._thread.join()
        suspension_of(running, "user:late")
        running.clock.move(seconds=30)
        read = scraped(other)

        assert read["ledger_position"] + read["ledger_lag_positions"] == read["ledger_log_size"]
        assert 2 == read["ledger_lag_positions"]
        assert 30 <= read["ledger_lag_seconds"] < 31
        other.service.feed.catch_up()
        assert 0 == scraped(other)["ledger_lag_positions"]


# --- conventions ----------------------------------------------------------------------------------


def test_names_follow_the_conventions_of_prometheus(busy: Running) -> None:
    """One prefix, base units, ``_total`` on counters and on nothing else, a sentence for each."""
    for family in families(busy("GET", "/metrics", role="auditor").text):
        counts = family.type == "counter"
        names = {sample.name for sample in family.samples}
        assert re.fullmatch(r"ledger(_[a-z]+)+", family.name), family.name
        assert family.documentation.endswith("."), family.name
        assert family.type in ("counter", "gauge", "histogram"), family.name
        assert counts == all(name.endswith("_total") for name in names), family.name
        if family.type == "histogram":
            assert family.name.endswith("_duration_seconds"), family.name
        elif not counts:
            assert family.name.rpartition("_")[2] in (*UNITS, *STATES), family.name
        assert not re.search(r"_(ms|us|milliseconds|kb|mb|percent|count|sum)$", family.name)


def test_buckets_begin_at_fifty_microseconds(busy: Running) -> None:
    """The histogram of checks can tell a fast one from a slow one, and its buckets add up."""
    read = scraped(busy)
    buckets = [
        (float(limit[1]), value)
        for name, value in read.items()
        if (limit := re.fullmatch(r"ledger_check_\w+_bucket\{kind=single,le=(.+)\}", name))
    ]

    assert 0.00005 == min(limit for limit, _ in buckets)
    assert sorted(buckets) == sorted(buckets, key=lambda bucket: bucket[1])
    assert max(buckets)[1] == read["ledger_check_duration_seconds_count{kind=single}"]


def test_labels_say_nothing_about_anybody(busy: Running) -> None:
    """Each label has its few values, and no id, name or address of a caller is among them."""
    suspension_of(busy, "user:canary-subject")
    busy("GET", "/v1/access?subject=user:canary-subject", role="auditor")
    busy("GET", "/v1/suspensions/sus_canary", role="auditor")
    text = busy("GET", "/metrics", role="auditor").text
    templates = {*busy.http.get("/openapi.json").json()["paths"], "/openapi.json", "none"}

    assert "canary" not in text
    assert not any(key in text for key in busy.keys.values())
    for family in families(text):
        for sample in family.samples:
            for name, value in sample.labels.items():
                if name == "route":
                    assert value.rpartition(" ")[2] in templates
                elif name == "status":
                    assert re.fullmatch(r"[1-5]\d\d", value)
                elif name not in ("le", "version", "python"):
                    assert value in LABELS[name], (name, value)


def test_the_metrics_are_for_auditors(busy: Running) -> None:
    """On the main port nobody else reads them."""
    assert 401 == busy("GET", "/metrics").status_code
    for role in set(busy.keys) - {"auditor"}:
        assert 403 == busy("GET", "/metrics", role=role).status_code


# --- processes ------------------------------------------------------------------------------------


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def check_all(process: Process, count: int) -> None:
    """Ask many checks, each on a connection of its own, so that each worker gets some."""
    for _ in range(count):
        assert 200 == process.check("alice", Connection="close").status_code


def workers_of(process: Process) -> list[int]:
    """The process ids of its workers."""
    pid = process.popen.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [int(child) for child in children if _is_worker(child)]


def _is_worker(child: str) -> bool:
    try:
        return b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    except FileNotFoundError:  # it has ended since
        return False


def test_two_workers_are_added_up(tmp_path: Path) -> None:
    """On a port of its own, without a key; the sum is that of both, whichever answers.

    A worker that is killed keeps what it counted, and no longer says how it stands.
    """
    database, port = tmp_path / "ledger.db", free_port()
    settings = {"LEDGER_METRICS_PORT": str(port)}
    with (
        started(database, opened(database), "--workers", "2", **settings) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"Connection": "close"}) as http,
    ):

        def read() -> Values:
            return values(http.get("/metrics").text)

        until(lambda: read().get("ledger_processes") == 2)
        check_all(process, 60)
        until(lambda: read()["ledger_checks_total{result=allowed}"] == 60)
        assert 201 == process.suspend("bob").status_code
        route = "ledger_commands_total{outcome=recorded,route=POST /v1/suspensions}"
        assert 1 == read()[route]
        assert 404 == http.get("/livez").status_code
        assert 404 == http.get("/v1/events").status_code
        assert 405 == http.post("/metrics").status_code
        headers = {"Authorization": f"Bearer {process.keys['service']}"}
        check = http.post("/access/v1/evaluation", json=asked("alice"), headers=headers)
        assert 404 == check.status_code
        auditor = process("GET", "/metrics", role="auditor")
        assert 60 == values(auditor.text)["ledger_checks_total{result=allowed}"]
        position = read()["ledger_log_size"]
        until(lambda: read()["ledger_position"] == position)
        killed = workers_of(process)[0]
        os.kill(killed, signal.SIGKILL)
        until(lambda: killed not in workers_of(process) and len(workers_of(process)) == 2)
        until(lambda: read()["ledger_processes"] == 2)
        assert 60 == read()["ledger_checks_total{result=allowed}"]

        assert 0 == process.stop()
    service = build(Settings(database_url=f"sqlite:///{database}"))
    check_ledger(awake(service))
    service.close()
