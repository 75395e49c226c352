"""The source itself is tested: names, layers, clocks, docstrings, and what is never committed."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("ledger", "projections")

# A module with such a name collects whatever nobody found a place for.
BANNED_NAMES = {"base", "common", "helper", "helpers", "kit", "manager", "util", "utils"}

# Here every instant is passed in: the same call gives the same answer today and in ten years.
# It runs in a gateway's own process, where nothing of ours is above it that could pass a clock in.
IN_A_GATEWAY = "projections/access/follower.py"
CLOCKLESS = ("ledger/domain", "ledger/store", "ledger/tlog", "ledger/application.py", "projections")

CLOCK_READS = {
    "datetime.date.today",
    "datetime.datetime.now",
    "datetime.datetime.today",
    "datetime.datetime.utcnow",
    "time.asctime",
    "time.clock_gettime",
    "time.clock_gettime_ns",
    "time.ctime",
    "time.gmtime",
    "time.localtime",
    "time.strftime",
    "time.time",
    "time.time_ns",
    "whenever.Date.today",
    "whenever.Date.today_in_system_tz",
    "whenever.Instant.now",
    "whenever.OffsetDateTime.now",
    "whenever.ZonedDateTime.now",
    "whenever.ZonedDateTime.now_in_system_tz",
}

# SQL can read the wall clock behind Python's back.
SQL_CLOCK = re.compile(
    r"\bCURRENT_(?:DATE|TIME|TIMESTAMP)\b"
    r"|\b(?:date|time|datetime|julianday|strftime|unixepoch)\s*\([^()]*'now'"
    r"|\b(?:clock_timestamp|now|statement_timestamp|transaction_timestamp)\s*\(\s*\)",
    re.IGNORECASE,
)


def python_files(*places: str) -> list[Path]:
    """Every Python file in the given files and folders, in a stable order."""
    found: list[Path] = []
    for place in places:
        path = ROOT / place
        found += [path] if path.is_file() else sorted(path.rglob("*.py"))
    return found


def shown(path: Path) -> str:
    """A path as a person would name it: from the project's root."""
    return path.relative_to(ROOT).as_posix()


def imported_names(tree: ast.AST) -> dict[str, str]:
    """What each imported name in a module stands for, wherever in it the import is."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                whole, top = alias.name, alias.name.partition(".")[0]
                names[alias.asname or top] = whole if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def dotted(node: ast.expr, names: dict[str, str]) -> str | None:
    """The full name that an expression such as `dt.datetime.now` stands for, if it is one."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = dotted(node.value, names)
        return owner and f"{owner}.{node.attr}"
    return None


def uses_of(tree: ast.AST, forbidden: set[str]) -> Iterator[tuple[int, str]]:
    """Line and full name of each use of a forbidden function, called or handed on."""
    names = imported_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            name = dotted(node, names)
            if name in forbidden:
                yield node.lineno, name


def docstrings(tree: ast.AST) -> set[int]:
    """The identity of every docstring node: prose, which may say "now()" as it likes."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr):
                found.add(id(first.value))
    return found


def clock_reads(source: str) -> list[tuple[int, str]]:
    """Line and name of each read of the wall clock in a module's source, by Python or by SQL."""
    tree = ast.parse(source)
    prose = docstrings(tree)
    found = list(uses_of(tree, CLOCK_READS))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            found += [(node.lineno, match.group()) for match in SQL_CLOCK.finditer(node.value)]
    return sorted(found)


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the import contracts of the packages in a folder, against the pyproject.toml there."""
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copied_tree(tmp_path: Path) -> Path:
    """The two packages and the project's configuration, in a folder where they may be spoilt."""
    for package in PACKAGES:
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=skipped)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def plant(path: Path, line: str) -> None:
    """Append a line to a module, which must exist, or the planted fault would prove nothing."""
    path.write_text(f"{path.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")


def test_no_module_is_named_for_being_a_heap() -> None:
    """Every module and folder of the source is named for what it answers."""
    heaps = [
        shown(path)
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*"))
        if BANNED_NAMES & set(path.name.removesuffix(".py").lower().split("_"))
    ]

    assert [] == heaps


def test_the_wall_clock_is_read_only_by_the_service() -> None:
    """Everything below the service is told what time it is and never looks for itself."""
    reads = [
        f"{shown(path)}:{line} {name}"
        for path in python_files(*CLOCKLESS)
        if shown(path) != IN_A_GATEWAY
        for line, name in clock_reads(path.read_text(encoding="utf-8"))
    ]

    assert [] == reads


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import datetime as dt\ndt.datetime.now(dt.UTC)", "datetime.datetime.now"),
        ("from datetime import datetime\ndatetime.utcnow()", "datetime.datetime.utcnow"),
        ("from datetime import date as day\nday.today()", "datetime.date.today"),
        ("import time\ndefault = time.time", "time.time"),
        ("from time import time_ns\ntime_ns()", "time.time_ns"),
        ("from whenever import Instant\nInstant.now()", "whenever.Instant.now"),
        ("def f():\n    import whenever\n    whenever.Instant.now()", "whenever.Instant.now"),
        ("sql = 'INSERT INTO t VALUES (CURRENT_TIMESTAMP)'", "CURRENT_TIMESTAMP"),
        ("sql = f\"SELECT {x}, strftime('%s', 'now')\"", "strftime('%s', 'now'"),
        ("sql = 'SELECT now()'", "now()"),
    ],
)
def test_every_way_to_read_the_wall_clock_is_found(source: str, expected: str) -> None:
    """The search for clocks sees aliases, late imports, functions handed on, and SQL."""
    assert [expected] == [name for _, name in clock_reads(source)]


@pytest.mark.parametrize(
    "source",
    [
        '"""What is in force now() is a question."""',
        "import time\ntime.monotonic()",
        "from ledger.domain.values import now\nnow()",
        "record.time(clock.now())",
    ],
)
def test_a_clock_passed_in_is_not_taken_for_the_wall_clock(source: str) -> None:
    """A clock that the caller passed in, a stopwatch and prose are all allowed."""
    assert [] == clock_reads(source)


@pytest.mark.parametrize("package", PACKAGES)
def test_the_two_packages_open_with_a_map_and_nothing_else(package: str) -> None:
    """Importing a package imports nothing else: its `__init__.py` is a docstring for the reader."""
    tree = ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8"))

    assert 1 == len(tree.body)
    assert ast.get_docstring(tree)


def test_every_module_says_what_it_is_for() -> None:
    """Every module of the source opens with a docstring."""
    silent = [
        shown(path)
        for path in python_files(*PACKAGES)
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]

    assert [] == silent


def test_imports_go_one_way(copied_tree: Path) -> None:
    """The source as it stands keeps every import contract."""
    checked = lint_imports(copied_tree)

    assert 0 == checked.returncode, checked.stdout + checked.stderr


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("ledger.domain.access", "import fastapi"),
        ("ledger.domain.access", "import sqlite3"),
        ("ledger.domain.access", "import ledger.application"),
        ("ledger.application", "import projections.access"),
        ("ledger.application", "import ledger.service"),
        ("ledger.tlog.verify", "import sqlite3"),
        ("ledger.tlog.tiled", "import ledger.store"),
        ("ledger.client.clients", "import ledger.store"),
        ("projections.conduct", "import ledger.service"),
        ("projections.conduct", "import projections.trail"),
    ],
)
def test_an_import_the_wrong_way_is_caught(copied_tree: Path, module: str, line: str) -> None:
    """An import that breaks a contract fails the check, which names the module it stands in."""
    plant((copied_tree / module.replace(".", "/")).with_suffix(".py"), line)

    checked = lint_imports(copied_tree)

    assert 0 != checked.returncode
    assert "BROKEN" in checked.stdout
    assert f"{module} -> {line.removeprefix('import ')}" in checked.stdout


def test_no_file_names_a_package_registry_or_a_path_of_one_machine() -> None:
    """What is committed, or about to be, works for everybody: no registry's host, no local path."""
    # Written in pieces, or this file would be its own first finding.
    banned = [
        "".join(pieces).encode()
        for pieces in (
            ("pypi", ".org"),
            ("files.", "pythonhosted", ".org"),
            ("registry.", "npmjs", ".org"),
            ("deb.", "debian", ".org"),
            ("/", "root", "/"),
            ("/", "tmp", "/w"),
            ("/", "work", "/"),
        )
    ]
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.split(b"\0")
    files = [path for name in listed if name and (path := ROOT / os.fsdecode(name)).is_file()]

    named = [
        f"{shown(path)}: {word.decode()}"
        for path in files
        for word in banned
        if word in path.read_bytes()
    ]

    assert [] == named
    assert Path(__file__).resolve() in files


def test_no_test_waits_for_the_clock_on_the_wall() -> None:
    """A test that sleeps is slow on every machine and wrong on a busy one: clocks are passed in."""
    sleeps = []
    for path in python_files("tests"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        sleeps += [f"{shown(path)}:{line}" for line, _ in uses_of(tree, {"time.sleep"})]
        names = imported_names(tree)
        sleeps += [
            f"{shown(path)}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and dotted(node.func, names) in {"asyncio.sleep", "anyio.sleep"}
            and ["0"] != [ast.unparse(argument) for argument in node.args]
        ]

    assert [] == sleeps
