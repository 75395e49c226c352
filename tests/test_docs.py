"""The documentation is true: its examples run, and what it should name is named, exactly."""

from __future__ import annotations

import ast
import configparser
import dataclasses
import importlib
import inspect
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
import typer.main
from fastapi import FastAPI

from ledger.domain.errors import LedgerError
from ledger.domain.events import EVENT_TYPES, Event
from ledger.service import cli
from ledger.service.http import problems
from ledger.service.http.app import create_app
from ledger.service.settings import SETTINGS_FILE_VARIABLE, Settings
from ledger.service.wiring import build
from projections.access import AccessFollower, Verdict

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "ARCHITECTURE.md",
        ROOT / "changelog.d/README.md",
        *DOCS.rglob("*.md"),
    ]
)
RUN = ("bash", "python")
SHOWN_ONLY = ("console", "ini", "json", "text", "toml")
ANYTHING = "…"
LIFE_FILES_MAX = 6  # more files than a reader keeps in mind
START_RETRIES = 7  # with the pauses between them, half a minute
PAGE_TIMEOUT_S = 90
DECISION_LINES_MAX = 40  # a decision that takes longer to read is read by nobody


# --- reading pages --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """A fenced block: where it is, the word after its fence, and its text."""

    page: str
    line: int
    info: str
    text: str

    @property
    def place(self) -> str:
        """Where it is, as an editor opens it."""
        return f"{self.page}:{self.line}"


def name_of(page: Path) -> str:
    """A page as a person would name it: from the project's root."""
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> list[Block]:
    """Every fenced block of a page, in order."""
    found: list[Block] = []
    info: str | None = None
    begun, lines = 0, list[str]()
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.startswith("```"):
            lines.append(line)
        elif info is None:
            info, begun, lines = line[3:].strip(), number + 1, []
        else:
            found.append(Block(name_of(page), begun, info, "\n".join(lines)))
            info = None
    assert info is None, f"{name_of(page)} has a fence that is never closed"
    return found


def prose_of(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(
        r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )


def tables_of(text: str) -> Iterator[list[list[str]]]:
    """Every table of a text: its rows without the head, each a list of cells."""
    for table in re.findall(r"(?:^\|.*\|$\n?)+", text, flags=re.MULTILINE):
        rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()]
        yield rows[2:]


def rows_of(text: str) -> list[list[str]]:
    """The rows of every table of a text."""
    return [row for table in tables_of(text) for row in table]


def quoted(text: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", text)


def sections_of(page: Path, heading: str) -> dict[str, str]:
    """What stands under each heading that is a name in backticks, by that name."""
    parts = re.split(
        rf"^{heading} `([^`]+)`$", page.read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    return {
        name: re.split(rf"^#{{1,{len(heading)}}} ", section, flags=re.MULTILINE)[0]
        for name, section in zip(parts[1::2], parts[2::2], strict=True)
    }


def read(page: str) -> str:
    """The text of a page of the reference."""
    return (REFERENCE / page).read_text(encoding="utf-8")


ALL_BLOCKS = {name_of(page): blocks_of(page) for page in PAGES}
RUNNING = [page for page, blocks in ALL_BLOCKS.items() if any(b.info in RUN for b in blocks)]


# --- a demo to run against ------------------------------------------------------------------------


@dataclass(frozen=True)
class Demo:
    """A served founding story: its folder, its address, its keys."""

    folder: Path
    environment: dict[str, str]
    http: httpx.Client
    keys: dict[str, str]

    def __call__(self, method: str, path: str, role: str, **more: Any) -> httpx.Response:
        """Send a request with the key of a role."""
        headers = {"Authorization": f"Bearer {self.keys[role]}"}
        return self.http.request(method, path, headers=headers, **more)

    def done(self, method: str, path: str, role: str, **more: Any) -> dict[str, Any]:
        """Send a request that must succeed; returns the body."""
        response = self(method, path, role, **more)
        assert response.status_code in (200, 201), response.text
        body: dict[str, Any] = response.json()
        return body


@contextmanager
def served(folder: Path, environment: dict[str, str], port: int) -> Iterator[None]:
    """Run ``compliance-ledger demo`` in a folder, as a newcomer's first terminal does."""
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ledger", "demo", "--port", str(port)],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on."""
    with ExitStack() as stack:
        found = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in found]


def lay_out(folder: Path) -> None:
    """Make a folder look like the project's to a page: its programs, and its examples."""
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, words in (("compliance-ledger", "-m ledger "), ("python", "")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {words}"$@"\n')
        program.chmod(0o755)
    (folder / "docs").symlink_to(DOCS)


@contextmanager
def running_demo(folder: Path, settings: dict[str, str]) -> Iterator[Demo]:
    """A demo on a free port, served with these settings."""
    lay_out(folder)
    port, gateway_port = free_ports(2)
    url = f"http://127.0.0.1:{port}"
    programs = [str(folder / ".venv/bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LEDGER_")}
    environment |= {"PATH": os.pathsep.join(programs), "PYTHONPATH": str(ROOT)}
    environment |= {"LEDGER": url, "GATEWAY_PORT": str(gateway_port)}
    transport = httpx.HTTPTransport(retries=START_RETRIES)
    with (
        served(folder, {**environment, **settings}, port),
        httpx.Client(base_url=url, transport=transport, timeout=20) as http,
    ):
        assert 200 == http.get("/readyz").status_code, (folder / "server.log").read_text()
        keys = json.loads((folder / "var/demo/keys.json").read_bytes())
        yield Demo(folder, environment, http, keys)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """The demo of all pages that want no settings."""
    with running_demo(tmp_path_factory.mktemp("demo"), {}) as running:
        yield running


def settings_before(line: str) -> tuple[dict[str, str], str]:
    """The settings that a command line begins with, and the command."""
    found: dict[str, str] = {}
    while match := re.match(r"([A-Z][A-Z0-9_]*)=(\S+) +", line):
        found[match[1]] = match[2]
        line = line[match.end() :]
    return found, line


def settings_of(page: str) -> dict[str, str]:
    """The settings with which a page says to start the demo."""
    found: dict[str, str] = {}
    for block in ALL_BLOCKS[page]:
        for line in block.text.splitlines() if block.info == "console" else ():
            settings, command = settings_before(line)
            if command == "make run":
                found |= settings
    return found


def run_in_order(blocks: Iterable[Block], demo: Demo) -> list[tuple[int, str]]:
    """Run blocks in one shell, one after the other; returns exit status and output of each."""
    script = "trap 'kill $(jobs -p) 2> /dev/null' EXIT\n"
    for block in blocks:
        text = block.text
        if block.info == "python":
            text = f"python3 - <<'END OF BLOCK'\n{text}\nEND OF BLOCK"
        script += f"{text}\nprintf '\\n--- block ended with %s ---\\n' $?\n"
    with subprocess.Popen(
        ["bash", "-c", script],
        cwd=demo.folder,
        env=demo.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as shell:
        try:
            printed, _ = shell.communicate(timeout=PAGE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(shell.pid, signal.SIGKILL)  # what the page has started goes with its shell
            raise
    parts = re.split(r"\n--- block ended with (\d+) ---\n", printed)
    return [(int(status), out) for out, status in zip(parts[::2], parts[1::2], strict=False)]


def is_as_shown(shown: str, printed: str) -> bool:
    """Tell whether what was printed is what a page shows, where ``…`` stands for anything."""
    pattern = ".*?".join(re.escape(part) for part in shown.strip().split(ANYTHING))
    return re.fullmatch(pattern, printed.strip(), flags=re.DOTALL) is not None


@pytest.mark.parametrize("page", [page for page in RUNNING if not settings_of(page)])
def test_the_examples_of_a_page_run_as_they_stand(page: str, demo: Demo) -> None:
    """Every command of a page works word for word, and prints what the page shows after it."""
    check_examples(page, demo)


@pytest.mark.parametrize("page", [page for page in RUNNING if settings_of(page)])
def test_the_examples_of_a_page_run_with_its_settings(page: str, tmp_path: Path) -> None:
    """A page that starts the demo with settings works word for word against such a demo."""
    with running_demo(tmp_path, settings_of(page)) as own:
        check_examples(page, own)


def check_examples(page: str, demo: Demo) -> None:
    """Run a page, and compare what it prints with what it shows."""
    blocks = ALL_BLOCKS[page]
    names = next(block for block in ALL_BLOCKS["README.md"] if block.info == "bash")
    running = [block for block in blocks if block.info in RUN]
    if page != "README.md":
        running.insert(0, names)

    ran = run_in_order(running, demo)

    assert len(running) == len(ran), ran[-1:]
    following = dict(pairwise(blocks))
    for block, (status, printed) in zip(running, ran, strict=True):
        after = following.get(block)
        shown = after.text if after and after.info in ("json", "text") else ""
        assert 0 == status, f"{block.place}\n{printed}"
        assert is_as_shown(shown, printed), f"{block.place} printed\n{printed}\nand not\n{shown}"


@pytest.mark.parametrize(
    ("shown", "printed", "expected"),
    [
        ("a … c", "a b c", True),
        ("a\n…\nz", "a\nb\nc\nz", True),
        ("a …", "b c", False),
        ("a", "a b", False),
        ("a.c", "abc", False),
    ],
)
def test_what_was_printed_is_compared_in_full(shown: str, printed: str, *, expected: bool) -> None:
    """Only the sign for anything stands for anything; all else is compared as it is."""
    assert expected == is_as_shown(shown, printed)


def test_every_block_says_what_it_is() -> None:
    """The tests know what to do with each block, and output follows the command that prints it."""
    unknown = []
    for blocks in ALL_BLOCKS.values():
        unknown += [b.place for b in blocks if b.info not in (*RUN, *SHOWN_ONLY)]

    assert [] == unknown


def test_every_structured_block_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JSON is JSON, units are units, and a settings file is one that the ledger starts with."""
    blocks = [block for blocks in ALL_BLOCKS.values() for block in blocks]
    for block in blocks:
        if block.info == "json":
            json.loads(block.text)
        elif block.info == "ini":
            unit = configparser.ConfigParser(strict=False)
            unit.read_string(block.text)
            assert unit.sections(), block.place
        elif block.info == "toml":
            path = tmp_path / "settings.toml"
            path.write_text(block.text, encoding="utf-8")
            monkeypatch.setenv(SETTINGS_FILE_VARIABLE, str(path))
            settings, told = Settings().model_dump(mode="json"), tomllib.loads(block.text)
            assert told == {name: settings[name] for name in told}, block.place

    assert {"json", "ini", "toml"} <= {block.info for block in blocks}


# --- commands that are shown, and the command line ------------------------------------------------


def commands() -> dict[str, click.Command]:
    """Every command that does something, by the words that call it."""
    found: dict[str, click.Command] = {}

    def walk(command: Any, words: str) -> None:
        below = getattr(command, "commands", None)
        if below is None:
            found[words] = command
        for name, one in (below or {}).items():
            walk(one, f"{words} {name}")

    walk(typer.main.get_command(cli.app), "compliance-ledger")
    return found


def options_of(command: click.Command) -> dict[str, Any]:
    """The options of a command, by their long name."""
    return {
        name: parameter
        for parameter in command.params
        for name in parameter.opts
        if name.startswith("--")
    }


def make_targets() -> set[str]:
    """The targets that ``make`` lists."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z-]+):.*## ", makefile, flags=re.MULTILINE))


def test_commands_that_are_only_shown_exist() -> None:
    """A target, command or option that a page shows or names is one that there is."""
    shown = {
        line
        for page in PAGES
        for text in (
            *(block.text for block in ALL_BLOCKS[name_of(page)] if block.info == "console"),
            *(
                code
                for code in quoted(prose_of(page))
                if code.startswith(("make ", "compliance-l", "LEDGER_")) and " " in code
            ),
        )
        for line in text.splitlines()
    }
    assert shown
    existing = commands()
    names = {f"LEDGER_{name.upper()}" for name in Settings.model_fields}
    for whole in shown:
        settings, line = settings_before(whole)
        assert set(settings) <= names, whole
        words = shlex.split(line)
        if words[0] == "make":
            assert {word for word in words[1:] if word.islower()} <= make_targets(), line
            continue
        named = [name for name in existing if line.startswith(name) or name.startswith(line)]
        assert named or line == "compliance-ledger", line
        options = {name for command in named for name in options_of(existing[command])}
        assert {word for word in words if word.startswith("--")} <= options | {"--help"}, line


def test_every_command_has_its_section() -> None:
    """The page of the command line has a section for each command, and for nothing else."""
    assert set(commands()) == set(sections_of(REFERENCE / "command-line.md", "##"))


@pytest.mark.parametrize("words", commands())
def test_every_option_is_documented_with_its_default(words: str) -> None:
    """A command's table has exactly its options, each with the value it has when absent."""
    section = sections_of(REFERENCE / "command-line.md", "##")[words]
    documented = {quoted(row[0])[0]: quoted(row[2])[:1] for row in rows_of(section)}

    expected = {
        name: [str(option.default)] if option.default not in (None, False) else []
        for name, option in options_of(commands()[words]).items()
        if name != "--help"
    }
    assert expected == documented


def test_every_setting_is_documented_with_its_default() -> None:
    """The table of settings has exactly the settings, each with its variable and default."""
    page = (DOCS / "operating/settings.md").read_text(encoding="utf-8")
    documented = {quoted(row[0])[0]: quoted(row[1])[:1] for row in rows_of(page)}

    expected = {
        f"LEDGER_{name.upper()}": [] if field.default is None else [default_shown(field.default)]
        for name, field in Settings.model_fields.items()
    }
    assert {**expected, SETTINGS_FILE_VARIABLE: []} == documented


def default_shown(value: object) -> str:
    """A default as the page writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


# --- routes ---------------------------------------------------------------------------------------

STANDING_FOR = {
    "*times*": ["at", "known_at", "known_position"],
    "*page*": ["limit", "cursor", "order"],
}
TERM = {"duration", "ends_at", "indefinite"}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """The application, which nobody asks anything."""
    database = tmp_path_factory.mktemp("app") / "ledger.db"
    return create_app(build(Settings(database_url=f"sqlite:///{database}"))).api


@pytest.fixture(scope="module")
def operations(app: FastAPI) -> dict[str, dict[str, Any]]:
    """The operations of the OpenAPI document, by method and path."""
    return {
        f"{method.upper()} {path}": operation
        for path, methods in app.openapi()["paths"].items()
        for method, operation in methods.items()
    }


def route_rows() -> dict[str, list[str]]:
    """The rows about routes, by method and path."""
    return {
        quoted(row[0])[0]: row
        for table in tables_of(read("http.md"))
        for row in table
        if len(row) == 4
    }


def test_every_route_is_documented(app: FastAPI, operations: dict[str, dict[str, Any]]) -> None:
    """The page of routes has exactly the routes that there are."""
    assert {*operations, f"GET {app.openapi_url}"} == set(route_rows())


def test_every_route_is_documented_with_its_roles(operations: dict[str, dict[str, Any]]) -> None:
    """The roles of the page are those that the gate lets pass."""
    rows = route_rows()
    documented = {route: set(rows[route][1].split(", ")) for route in operations}

    assert {
        route: set(operation.get("x-roles", ["anyone"])) for route, operation in operations.items()
    } == documented


def test_every_route_is_documented_with_its_parameters(
    operations: dict[str, dict[str, Any]],
) -> None:
    """The parameters of the page are those that the route takes."""
    rows = route_rows()
    documented = {
        route: sorted(
            name
            for word in re.findall(r"[`*]\w+[`*]", rows[route][2])
            for name in STANDING_FOR.get(word, [word.strip("`")])
        )
        for route in operations
    }

    assert {
        route: sorted(p["name"] for p in operation.get("parameters", []) if p["in"] == "query")
        for route, operation in operations.items()
    } == documented


def test_every_header_is_documented(operations: dict[str, dict[str, Any]]) -> None:
    """Each header that a route takes stands on the page."""
    taken = {
        parameter["name"]
        for operation in operations.values()
        for parameter in operation.get("parameters", [])
        if parameter["in"] == "header"
    }

    documented = {
        name.partition(":")[0] for row in rows_of(read("http.md")) for name in quoted(row[0])
    }
    assert taken | {"Authorization", "Ledger-Position", "Link", "Retry-After"} <= documented


def test_every_body_is_documented(app: FastAPI, operations: dict[str, dict[str, Any]]) -> None:
    """The members of the page are those that a body must and may have."""
    schemas = app.openapi()["components"]["schemas"]
    expected = {}
    for route, operation in operations.items():
        content = operation.get("requestBody", {}).get("content", {})
        reference = content.get("application/json", {}).get("schema", {}).get("$ref")
        if reference is None:
            continue
        schema = schemas[reference.rpartition("/")[2]]
        members, required = set(schema["properties"]), set(schema.get("required", []))
        must = required | (TERM & members)
        expected[route] = (must, members - must)

    documented = {
        route: (set(quoted(row[1])), set(quoted(row[2])))
        for row in rows_of(read("http.md").partition("## Bodies")[2])
        for route in quoted(row[0])
    }
    assert expected == documented


# --- events ---------------------------------------------------------------------------------------


def test_every_event_type_has_its_section() -> None:
    """The page of events has a section for each type, and for nothing else."""
    types = {event.TYPE for event in EVENT_TYPES.values()}

    assert types == set(sections_of(REFERENCE / "events.md", "###"))


@pytest.mark.parametrize("event", EVENT_TYPES.values(), ids=lambda event: event.TYPE)
def test_every_member_of_an_event_is_documented(event: type[Event]) -> None:
    """The table of a type has exactly its members, in their order."""
    section = sections_of(REFERENCE / "events.md", "###")[event.TYPE]

    assert list(event.model_fields) == [quoted(row[0])[0] for row in rows_of(section)]


def test_what_stands_around_every_event_is_documented(demo: Demo) -> None:
    """The first table of the page has exactly the members of an event as it is answered."""
    event = demo.done("GET", "/v1/events/1", "auditor")

    documented = [quoted(row[0])[0] for row in next(tables_of(read("events.md")))]
    assert list(event) == documented


# --- errors ---------------------------------------------------------------------------------------

KINDS = {"ledger_error", "refused"}  # what other errors are, never answered themselves
OF_THE_FRAMEWORK = {"no_such_route", "method_not_allowed", "internal_error"}
OF_EVERY_COMMAND = {
    *("malformed_request", "not_authenticated", "not_allowed", "too_many_requests"),
    *("body_too_large", "conflict"),
    *("unsupported_media_type", "invalid_request", "invalid_value", "event_too_large"),
    *("idempotency_key_reused", "unavailable", "behind", "store_busy", "unknown_fact"),
    *("log_not_verified", "storage_full", "storage_failed"),
    *("internal_error", "tamper_detected"),
}


def every_error(above: type[LedgerError] = LedgerError) -> Iterator[type[LedgerError]]:
    """Each kind of error of the domain and of HTTP."""
    if above.__module__.startswith("ledger."):
        yield above
    for below in above.__subclasses__():
        yield from every_error(below)


def code_rows() -> dict[str, list[str]]:
    """The rows about codes, by code."""
    return {
        quoted(row[0])[0]: row for row in rows_of(read("errors.md").partition("## Every code")[2])
    }


def test_every_code_is_documented_with_status_and_hint() -> None:
    """The tables have each code that is answered, with the status and hint it comes with."""
    errors = {error.code: error for error in every_error() if error.code not in KINDS}
    rows = code_rows()

    assert {*errors, *OF_THE_FRAMEWORK} == set(rows)
    assert {code: str(problems.status_of(error(""))) for code, error in errors.items()} == {
        code: rows[code][1] for code in errors
    }
    assert {code: error.hint for code, error in errors.items()} == {
        code: rows[code][3] for code in errors
    }


def test_what_the_framework_refuses_is_documented(demo: Demo) -> None:
    """Unknown routes and methods come with the status and hint of the page."""
    rows = code_rows()
    for response in (
        demo.http.get("/no/such/route"),
        demo.http.delete("/livez"),
        httpx.Response(500, content=bytes(problems.problem_of(problems.internal_error()).body)),
    ):
        problem = response.json()
        assert str(response.status_code) == rows[problem["code"]][1]
        assert problem["hint"] == rows[problem["code"]][3]


def documented_order() -> dict[str, list[str]]:
    """The refusals of each command, in their order."""
    _, _, rest = read("errors.md").partition("## The order of each command")
    return {
        quoted(row[0])[0]: [code for code in quoted(row[1]) if "_" in code and code in code_rows()]
        for row in next(tables_of(rest))
    }


def test_every_refusal_of_a_command_is_documented(operations: dict[str, dict[str, Any]]) -> None:
    """The refusals of the page are those that the command declares, beside those of all."""
    declared = {}
    for route, operation in operations.items():
        parameters = {parameter["name"] for parameter in operation.get("parameters", [])}
        if "Idempotency-Key" in parameters:
            described = " ".join(one["description"] for one in operation["responses"].values())
            declared[route] = set(quoted(described)) - OF_EVERY_COMMAND

    documented = {
        route: set(codes) - OF_EVERY_COMMAND for route, codes in documented_order().items()
    }
    assert declared == documented


@dataclass(frozen=True)
class Mended:
    """A request with many faults, and what to change so that the next one shows."""

    route: str
    role: str
    body: dict[str, Any]
    steps: list[tuple[str, dict[str, Any]]]


def instant(**ago: float) -> str:
    """An instant before now."""
    return (datetime.now(UTC) - timedelta(**ago)).isoformat()


def alice(demo: Demo) -> dict[str, Any]:
    """Alice's standing violations and suspension, as the story left them."""
    return demo.done("GET", "/v1/subjects/record", "auditor", params={"subject": "user:alice"})


def faulty_suspension(demo: Demo) -> Mended:
    """A suspension with every fault that fits beside the others."""
    erin = demo.done("GET", "/v1/violations", "auditor", params={"subject": "user:erin"})
    overturned = erin["items"][0]["id"]
    another = alice(demo)["violations"][0]["id"]
    wrong = {
        "subject": {"type": "user", "id": "max"},
        "scope": {"resources": [{"group": "no-such-group"}]},
        "effective_at": instant(days=1),
        "reason": "Everything is wrong with it.",
    }
    return Mended(
        "POST /v1/suspensions",
        "officer",
        wrong,
        [
            ("term_required", {"duration": "P101Y"}),
            ("end_too_far", {"duration": None, "ends_at": instant(days=2)}),
            ("effective_in_past", {"effective_at": None}),
            ("end_in_past", {"ends_at": None, "duration": "P31D", "basis": "precautionary"}),
            ("end_too_far", {"basis": "violations"}),
            ("grounds_required", {"grounds": ["vio_none"]}),
            ("unknown_violation", {"grounds": [overturned]}),
            ("ground_overturned", {"grounds": [another]}),
            ("ground_of_another_subject", {"subject": {"type": "user", "id": "alice"}}),
            ("unknown_group", {"scope": {"resources": [{"group": "frontier"}]}}),
        ],
    )


def faulty_violation(_: Demo) -> Mended:
    """A violation with every fault that fits beside the others."""
    wrong = {
        "subject": {"type": "user", "id": "max"},
        "policy": "no such policy",
        "clause": "no-such-clause",
        "occurred_at": instant(days=-1),
        "detected_by": "human",
        "summary": "Everything is wrong with it.",
    }
    return Mended(
        "POST /v1/violations",
        "reporter",
        wrong,
        [
            ("invalid_value", {"policy": "no-such-policy"}),
            ("occurred_in_future", {"occurred_at": instant(days=3650)}),
            ("unknown_policy", {"policy": "acceptable-use@1"}),
            ("policy_not_in_force", {"occurred_at": instant(days=1)}),
            ("unknown_clause", {"clause": "fraud"}),
        ],
    )


def faulty_revision(demo: Demo) -> Mended:
    """A revision of a precaution with every fault that fits beside the others."""
    body = {
        "subject": {"type": "user", "id": "nina"},
        "scope": {"resources": [{"type": "model"}]},
        "duration": "P1D",
        "basis": "precautionary",
        "reason": "To be revised.",
    }
    suspension = demo.done("POST", "/v1/suspensions", "officer", json=body)["id"]
    return Mended(
        f"POST /v1/suspensions/{suspension}/revision",
        "officer",
        {"reason": "Everything is wrong with it."},
        [
            ("term_required", {"duration": "P101Y"}),
            ("end_too_far", {"duration": None, "ends_at": instant(days=1)}),
            ("end_in_past", {"ends_at": None, "duration": "P31D"}),
            ("end_too_far", {"duration": "P2D"}),
        ],
    )


def faulty_reinstatement(demo: Demo) -> Mended:
    """A reinstatement with every fault that fits beside the others."""
    carol = demo.done("GET", "/v1/suspensions", "auditor", params={"subject": "user:carol"})
    wrong = {
        "suspension": "sus_none",
        "cause": "term_served",
        "effective_at": instant(days=-1),
        "reason": "Everything is wrong with it.",
    }
    body = {
        "subject": {"type": "user", "id": "otto"},
        "scope": {"resources": [{"type": "model"}]},
        "indefinite": True,
        "basis": "legal_order",
        "reason": "To be ended.",
    }
    suspension = demo.done("POST", "/v1/suspensions", "officer", json=body)["id"]
    return Mended(
        "POST /v1/reinstatements",
        "officer",
        wrong,
        [
            ("not_found", {"suspension": carol["items"][0]["id"]}),
            ("already_ended", {"suspension": suspension}),
            ("cause_not_allowed", {"cause": "early"}),
            ("invalid_value", {"effective_at": None}),
        ],
    )


def faulty_link(demo: Demo) -> Mended:
    """A link below a subject that stands below, and one that stands already."""
    lower, upper = {"type": "user", "id": "pia"}, {"type": "organization", "id": "pia-and-sons"}
    demo.done("POST", "/v1/links", "officer", json={"subject": lower, "parent": upper})
    return Mended(
        "POST /v1/links",
        "officer",
        {"subject": upper, "parent": lower},
        [
            ("link_cycle", {"subject": lower, "parent": upper}),
            ("already_linked", {"parent": {"type": "organization", "id": "pia-alone"}}),
        ],
    )


@pytest.mark.parametrize(
    "faulty",
    [faulty_suspension, faulty_violation, faulty_revision, faulty_reinstatement, faulty_link],
    ids=lambda faulty: faulty.__name__,
)
def test_refusals_come_in_the_documented_order(faulty: Any, demo: Demo) -> None:
    """A request with many faults shows the documented first; mended, the next; then it is done."""
    mended: Mended = faulty(demo)
    method, path = mended.route.split(" ")
    body = dict(mended.body)
    codes = []
    for code, change in mended.steps:
        response = demo(method, path, mended.role, json=body)
        codes.append(response.json().get("code"))
        assert code == codes[-1], response.text
        body = {k: v for k, v in {**body, **change}.items() if v is not None}

    assert 201 == demo(method, path, mended.role, json=body).status_code
    documented = iter(documented_order()[re.sub(r"sus_\w+", "{id}", mended.route)])
    assert all(code in documented for code in codes), codes


# --- answers and limits ---------------------------------------------------------------------------


def test_every_member_of_an_access_answer_is_documented(demo: Demo) -> None:
    """The tables of the page have exactly the members of a denial, and of each suspension in it."""
    question = {
        "subject": {"type": "user", "id": "alice"},
        "action": {"name": "use"},
        "resource": {"type": "model", "id": "atlas-3"},
    }
    context = demo.done("POST", "/access/v1/evaluation", "service", json=question)["context"]
    tables = [
        [quoted(row[0])[0] for row in table] for table in tables_of(read("access-answers.md"))
    ]

    assert list(context) in tables
    assert list(context["suspensions"][0]) in tables


IS_A_LIMIT = re.compile(r"[A-Z][A-Z0-9_]*(_MAX|_S|_SECONDS|_DEFAULT)")


def constants(*places: str) -> dict[str, list[object]]:
    """The named limits in some files and folders: names that end as a limit's name does."""
    found: dict[str, list[object]] = {}
    for place in places:
        path = ROOT / place
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            names = [
                node.target.id
                for node in tree.body
                if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
            ]
            module = importlib.import_module(
                file.relative_to(ROOT).as_posix().removesuffix(".py").replace("/", ".")
            )
            for name in names:
                if IS_A_LIMIT.fullmatch(name) or name == "WRITTEN_TOGETHER":
                    found.setdefault(name, []).append(getattr(module, name))
    return found


def as_shown(value: object) -> str:
    """A limit as the page writes it."""
    if isinstance(value, timedelta):
        return f"{value.total_seconds() / 60:g}"
    assert isinstance(value, int | float)
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def test_every_limit_is_documented_with_its_value() -> None:
    """Each named limit of the values, the service and the follower stands on the page, as it is."""
    must = constants("ledger/domain/values.py", "ledger/service", "projections/access/follower.py")
    may = constants("ledger/domain", "ledger/application.py", "ledger/store")
    documented: dict[str, list[str]] = {}
    for row in rows_of(read("limits.md")):
        documented.setdefault(quoted(row[0])[0], []).append(row[1])

    assert set(must) <= set(documented)
    assert {name: sorted(map(as_shown, {**may, **must}[name])) for name in documented} == {
        name: sorted(values) for name, values in documented.items()
    }


def test_every_member_of_a_snapshot_is_documented(demo: Demo) -> None:
    """The page has each kind of line with as many columns as a line of it has."""
    section = sections_named(read("http.md"))["Snapshot and changes"]
    kinds, members = tables_of(section)
    documented = {quoted(row[0])[0]: len(quoted(row[1])) for row in kinds}

    lines = demo("GET", "/v1/access/snapshot", "service").text.splitlines()
    found = {kind: len(columns) for kind, *columns in map(json.loads, lines)}
    assert found.items() <= documented.items()
    assert {*found, "known"} == set(documented)
    changes = demo.done("GET", "/v1/access/changes?after=0", "service")
    assert list(changes) == [quoted(row[0])[0] for row in members]
    assert list(changes["events"][0]) == quoted(members[2][1])


def sections_named(text: str) -> dict[str, str]:
    """What stands under each heading, by the heading's words."""
    parts = re.split(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_follower_is_documented_as_it_is_called() -> None:
    """The tables of the page have the arguments of a follower and the members of a verdict."""
    page = (DOCS / "how-to/answer-in-your-own-process.md").read_text(encoding="utf-8")
    arguments, verdict, _ = tables_of(page)
    parameters = list(inspect.signature(AccessFollower).parameters.values())

    assert [one.name for one in parameters] == [quoted(row[0])[0] for row in arguments]
    assert [field.name for field in dataclasses.fields(Verdict)] == [
        quoted(row[0])[0] for row in verdict
    ]
    written = {quoted(row[0])[0]: quoted(row[1]) for row in arguments}
    for one in parameters:
        if isinstance(one.default, str | float):
            assert [str(one.default)] == written[one.name]


def test_every_member_of_a_logged_decision_is_documented() -> None:
    """The table of the page has the members of the line that its example prints."""
    page = DOCS / "how-to/find-wrongful-refusals.md"
    line = next(
        line for block in blocks_of(page) for line in block.text.splitlines() if line[0] == "{"
    )
    [table] = tables_of(page.read_text(encoding="utf-8"))

    assert re.findall(r'"(\w+)":', line) == [quoted(row[0])[0] for row in table]


def test_the_statuses_of_authzen_are_those_of_every_error() -> None:
    """The AuthZEN page gives each code the status that the page of errors gives it."""
    rows = code_rows()
    section = sections_named(read("authzen.md"))["Errors"]

    documented = [(row[0], code) for row in rows_of(section) for code in quoted(row[1])]
    assert documented
    assert documented == [(rows[code][1], code) for _, code in documented]


def test_every_benchmark_is_described() -> None:
    """The page about performance says what each benchmark does, and names no other."""
    page = (DOCS / "operating/performance.md").read_text(encoding="utf-8")
    described = {quoted(row[0])[0] for row in next(tables_of(page))}

    assert {path.stem for path in (ROOT / "benchmarks").glob("bench_*.py")} == described


# --- the life of a suspension ---------------------------------------------------------------------


def life_of_a_suspension() -> list[tuple[str, str]]:
    """File and function of each step."""
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    section = page.partition("## The life of a suspension")[2].partition("\n## ")[0]
    steps = re.findall(r"^\d+\. (.*)$", section, flags=re.MULTILINE)
    found = [re.match(r"`([\w/]+\.py)` `([\w.]+)`: ", step) for step in steps]
    assert all(found), steps
    return [(match[1], match[2]) for match in found if match]


def functions_of(file: str) -> set[str]:
    """The functions of a file, those of a class with its name before them."""
    found = set()
    for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{one.name}" for one in node.body if hasattr(one, "name")}
    return found


def test_each_step_in_the_life_of_a_suspension_exists() -> None:
    """The files and functions that the steps name are there, and a reader can keep them in mind."""
    steps = life_of_a_suspension()

    assert steps
    assert [] == [step for step in steps if step[1] not in functions_of(step[0])]
    assert LIFE_FILES_MAX >= len({file for file, _ in steps})


def test_the_life_goes_from_the_route_to_the_check() -> None:
    """The steps begin with the route that suspends and end with the check that it refuses."""
    steps = life_of_a_suspension()

    assert ("ledger/service/http/suspensions.py", "suspend") == steps[0]
    assert "AccessIndex.check" in [function for _, function in steps]
    assert steps[-1][0].startswith("ledger/service/http/")


# --- pages among themselves -----------------------------------------------------------------------

DECISIONS = sorted((DOCS / "decisions").glob("[0-9]*.md"))


def test_decisions_are_numbered_without_a_gap() -> None:
    """A decision is quoted by its number, which its title and its file's name agree on."""
    titles = [path.read_text(encoding="utf-8").partition(". ")[0] for path in DECISIONS]

    assert [f"# {number}" for number in range(1, len(DECISIONS) + 1)] == titles
    assert titles == [f"# {int(path.name[:4])}" for path in DECISIONS]


@pytest.mark.parametrize("page", DECISIONS, ids=name_of)
def test_a_decision_is_short_and_whole(page: Path) -> None:
    """A decision has its four sections, in at most forty lines."""
    text = page.read_text(encoding="utf-8")

    assert DECISION_LINES_MAX >= len(text.splitlines())
    assert ["Context", "Decision", "Consequences", "Alternatives"] == re.findall(
        r"^## (.*)$", text, flags=re.MULTILINE
    )


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as a renderer makes them."""
    headings = re.findall(r"^#+ (.*)$", prose_of(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page leads to a file that is there, and to a heading of it."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in anchors_of(there)):
            broken.append(target)

    assert [] == broken


def test_every_page_is_listed_in_the_index() -> None:
    """A page that the index does not name is a page that nobody finds."""
    index = DOCS / "README.md"
    listed = {(DOCS / path).resolve() for path in re.findall(r"\]\(([^)#\s]+)", prose_of(index))}
    pages = {page for page in DOCS.rglob("*.md") if "decisions" not in page.parts}

    assert [] == sorted(name_of(page) for page in pages - listed - {index})


FOREIGN = re.compile(
    r"\bissues? #?\d|#\d+\b|\bsessions? #?\d|\b(?:TODO|FIXME|XXX|TBD)\b|\bcoming soon\b|\bhelper\b",
    re.IGNORECASE,
)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_speaks_of_the_project_only(page: Path) -> None:
    """A page says what is so, not who wrote it when, nor what is still to be done."""
    assert [] == FOREIGN.findall(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_has_one_title_and_ends_with_a_line(page: Path) -> None:
    """A page opens with its title, has no second one, and leaves no space at the end of a line."""
    text = page.read_text(encoding="utf-8")

    assert text.startswith("# ")
    assert 1 == len(re.findall(r"^# ", prose_of(page), flags=re.MULTILINE))
    assert text.endswith("\n")
    assert [] == re.findall(r"[ \t]+$", text, flags=re.MULTILINE)
