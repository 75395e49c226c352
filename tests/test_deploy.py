"""What is in ``deploy/`` fits the program: each setting, route, metric and option is there."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families

from ledger.service import cli, cli_serving
from ledger.service.http.drain import DRAIN_S
from ledger.service.settings import Settings
from tests.conftest import SetClock
from tests.service.conftest import Running, found, opened

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())
UNITS = sorted((DEPLOY / "systemd").iterdir())
EXPOSURE_MAX = 2.0  # of 10, as systemd-analyze rates a service


def unit(path: Path) -> configparser.RawConfigParser:
    """A unit as sections; of a name that is given more than once the values are lines."""

    class Many(dict[str, Any]):
        def __setitem__(self, key: str, value: Any) -> None:
            if key in self and isinstance(value, list):
                self[key].extend(value)
            else:
                super().__setitem__(key, value)

    read = configparser.RawConfigParser(strict=False, dict_type=Many, interpolation=None)
    read.optionxform = str  # type: ignore[assignment,method-assign]
    read.read_string(path.read_text(encoding="utf-8"))
    return read


def documents(path: Path) -> list[dict[str, Any]]:
    """The documents of a YAML file."""
    return [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one]


def kinds() -> dict[str, dict[str, Any]]:
    """The objects of the manifest, by kind."""
    return {one["kind"]: one for one in documents(DEPLOY / "kubernetes/compliance-ledger.yaml")}


def options(words: list[str]) -> None:
    """Check a command line of the program: its command and its options exist."""
    command: Any = typer.main.get_command(cli.app)
    command = command.commands[words[0]]
    known = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in words[1:] if word.startswith("--")} <= known, words


def test_every_setting_named_there_exists() -> None:
    """A slip in a name would be a setting that was never made."""
    settings = {f"LEDGER_{name.upper()}" for name in Settings.model_fields}
    for path in FILES:
        named = set(re.findall(r"\bLEDGER_[A-Z_]+\b", path.read_text(encoding="utf-8")))
        assert named <= settings, path


def test_every_setting_has_a_value_that_can_be_used() -> None:
    """The settings of the unit and of the manifest are settings that the program starts with."""
    lines = unit(DEPLOY / "systemd/compliance-ledger.service")["Service"]["Environment"]
    for given in (
        dict(line.split("=", 1) for line in lines.splitlines()),
        kinds()["ConfigMap"]["data"],
    ):
        Settings.model_validate(
            {name.removeprefix("LEDGER_").lower(): value for name, value in given.items()}
        )


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_units_run_commands_that_exist(path: Path) -> None:
    """Each unit has its sections, and what a service starts is a command with its options."""
    read = unit(path)
    if path.suffix == ".timer":
        assert (path.with_suffix(".service")).is_file()
        assert read["Timer"]["OnCalendar"]
        return
    program, *words = shlex.split(read["Service"]["ExecStart"])
    assert program.endswith("/compliance-ledger")
    options(words)
    assert "root" != read["Service"]["User"]


def test_a_process_has_the_time_that_it_takes_to_end() -> None:
    """Whoever kills it waits for the delay and the drain."""
    service = unit(DEPLOY / "systemd/compliance-ledger.service")["Service"]
    pod = kinds()["StatefulSet"]["spec"]["template"]["spec"]
    delay_s = float(kinds()["ConfigMap"]["data"]["LEDGER_DRAIN_DELAY_S"])

    assert int(service["TimeoutStopSec"]) > DRAIN_S + Settings().drain_delay_s
    assert pod["terminationGracePeriodSeconds"] > DRAIN_S + delay_s


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_takes_the_units_and_finds_them_hardened(path: Path, tmp_path: Path) -> None:
    """No line is unknown to systemd, and a service may do little."""
    for each in UNITS:
        text = re.sub(r"(?<=ExecStart=)\S+", "/bin/true", each.read_text(encoding="utf-8"))
        (tmp_path / each.name).write_text(text, encoding="utf-8")
    copy = tmp_path / path.name
    verified = subprocess.run(
        ["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False
    )
    unknown = [line for line in verified.stderr.splitlines() if path.name in line]
    assert [] == [line for line in unknown if "nknown" in line or "nvalid" in line]
    if path.suffix == ".service":
        rated = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", copy],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        exposure = re.search(r"exposure level for \S+ ([\d.]+)", rated)
        assert exposure is not None, rated
        assert float(exposure[1]) <= EXPOSURE_MAX


def test_the_image_names_no_registry_and_runs_as_nobody() -> None:
    """Its base is an argument, its user a number, and its commands exist."""
    text = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    steps = re.findall(r"^([A-Z]+) (.+?)(?<!\\)$", text, flags=re.MULTILINE | re.DOTALL)
    bases = [words for step, words in steps if step == "FROM"]
    users = [words for step, words in steps if step == "USER"]

    assert ["${BASE} AS build", "${BASE}"] == bases
    assert users
    assert all(re.fullmatch(r"[1-9]\d*:[1-9]\d*", user) for user in users)
    assert {"HEALTHCHECK", "ENTRYPOINT", "STOPSIGNAL"} <= {step for step, _ in steps}
    for step, words in steps:
        if step == "CMD":
            options(yaml.safe_load(words))
        if step == "COPY" and not words.startswith("--from"):
            assert all((ROOT / name).exists() for name in words.split()[:-1]), words


def test_the_manifest_is_hardened_and_asks_routes_that_exist() -> None:
    """Probes ask open routes, the pod may do nothing, and one pod holds the file."""
    of = kinds()
    pod = of["StatefulSet"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    options(container["args"])
    ready = container["readinessProbe"]["httpGet"]["path"]
    live = {container[probe]["httpGet"]["path"] for probe in ("livenessProbe", "startupProbe")}

    assert ("/readyz", {"/livez"}) == (ready, live)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    } == container["securityContext"]
    assert 1 == of["StatefulSet"]["spec"]["replicas"]
    labels = of["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    assert labels == of["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]
    assert labels == of["Service"]["spec"]["selector"]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {"/tmp", "/var/lib/compliance-ledger"} == mounted  # noqa: S108 - in the container


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Running]:
    """A service that is asked for its metrics."""
    settings = Settings(database_url=f"sqlite:///{tmp_path / 'ledger.db'}", origin="test.ledger")
    with opened(settings, SetClock()) as running:
        yield found(running)


def test_alerts_and_the_page_name_the_metrics_that_there_are(run: Running) -> None:
    """Every metric in an alert is one that is answered, and the page has exactly those."""
    text = run("GET", "/metrics", role="auditor").text
    answered = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in text_string_to_metric_families(text)
    }
    page = (ROOT / "docs/operating/monitoring.md").read_text(encoding="utf-8")
    described = set(re.findall(r"^\| `(ledger_\w+)` \|", page, flags=re.MULTILINE))
    (rules,) = documents(DEPLOY / "prometheus/alerts.yaml")
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]

    assert answered == described
    for alert in alerts:
        named = set(re.findall(r"\bledger_\w+", alert["expr"]))
        assert named
        assert {re.sub(r"_bucket$", "", name) for name in named} <= answered, alert
        assert (ROOT / alert["annotations"]["runbook"]).is_file()
        assert alert["labels"]["severity"] in ("page", "ticket")
    assert sorted(alert["alert"] for alert in alerts) == sorted(
        re.findall(r"^\| `(Ledger\w+)` \|", page, flags=re.MULTILINE)
    )


def test_the_scrape_asks_the_port_and_the_route_that_there_are() -> None:
    """Prometheus asks the port that the unit opens, and the route is its own default."""
    (scrape,) = documents(DEPLOY / "prometheus/scrape.yaml")
    local = scrape["scrape_configs"][0]["static_configs"][0]["targets"]
    unit_text = (DEPLOY / "systemd/compliance-ledger.service").read_text(encoding="utf-8")
    port = re.search(r"LEDGER_METRICS_PORT=(\d+)", unit_text)

    assert port is not None
    assert [f"{cli_serving.METRICS_HOST}:{port[1]}"] == local


def test_every_file_is_described() -> None:
    """The page about deploying names each file, and no other."""
    page = (ROOT / "docs/operating/deploy.md").read_text(encoding="utf-8")
    described = set(re.findall(r"^\| `(deploy/\S+)` \|", page, flags=re.MULTILINE))

    assert {path.relative_to(ROOT).as_posix() for path in FILES} == described
