"""``status``, ``show``, ``trail``: the same from a database and a URL, for people and pipes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ledger.client import Client
from ledger.domain.events import EVENT_TYPES
from ledger.domain.values import Role
from ledger.service.cli import app, main
from ledger.service.direct import READER, reading_client
from ledger.service.settings import Settings
from ledger.service.wiring import build
from tests.conftest import T0, SetClock, on_each_store
from tests.service.conftest import WITHIN_S, Running, suspension_of, violation_of

AT = T0.isoformat()
HOSTILE = "[bold]never[/bold] \\[x] markup"


@dataclass(frozen=True)
class Ran:
    """What a command did: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        """What it printed, as lines of JSON."""
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Ran]


@dataclass(frozen=True)
class Told:
    """What the shared service has on record: about Ann, her company, and others."""

    violation: str
    suspension: str
    of_company: str


@pytest.fixture(scope="module")
def told(shared: Running) -> Told:
    """A short story, with one of everything that is shown."""
    with Client(shared.url, shared.keys["officer"]) as officer:
        officer.register("user:ann", {"plan": "team"})
        officer.link("user:ann", "organization:acme")
        violation = violation_of(shared, "user:ann", summary=HOSTILE, details="In full.")
        officer.warn("user:ann", grounds=[violation], reason="Please stop.")
        suspension = suspension_of(shared, "user:ann", grounds=[violation], note="For us.")
        of_company = suspension_of(shared, "organization:acme", duration="P10D", reason=HOSTILE)
        ended = suspension_of(shared, "user:ann", duration="P1Y")
        officer.reinstate(ended, cause="early", reason="She complied.")
    # ``status`` tells what the newest checkpoint covers: were one signed between two questions,
    # the same question would have two right answers.
    assert shared.service.signer.wait_for(shared.service.recorder.position, WITHIN_S)
    return Told(violation, suspension, of_company)


@pytest.fixture
def run(
    shared: Running,
    told: Told,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Run a command on the shared ledger: on its database, or with ``url=True`` at its URL."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"LEDGER_{name.upper()}", raising=False)
    monkeypatch.delenv("LEDGER_API_KEY", raising=False)
    settings = shared.service.settings
    monkeypatch.setenv("LEDGER_DATABASE_URL", settings.database_url)
    monkeypatch.setenv("LEDGER_FILES", str(settings.files))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, url: bool = False, role: str = "auditor") -> Ran:
        where: tuple[str, ...] = ()
        if url:
            monkeypatch.setenv("LEDGER_API_KEY", shared.keys[role])
            where = ("--url", shared.url)
        monkeypatch.setattr(sys, "argv", ["compliance-ledger", *arguments, *where])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        code = ended.value.code
        return Ran(code if isinstance(code, int) else int(code is not None), *printed)

    return run


ASKED = [
    ("status", "--at", AT),
    ("status", "--at", AT, "--known-position", "20"),
    ("show", "user:ann", "--at", AT),
    ("show", "user:ann", "--at", AT, "--known-at", AT, "--json"),
    ("show", "user:nobody", "--at", "2020-01-01T00:00:00Z", "--known-position", "3"),
    ("show", "{suspension}"),
    ("show", "{violation}", "--known-position", "1000"),
    ("show", "3"),
    ("trail",),
    ("trail", "--limit", "3", "--order", "oldest", "--known-position", "20"),
    ("trail", "--subject", "user:ann", "--type", "warning.issued", "--type", "violation.recorded"),
    ("trail", "--words", "please stop*", "--category", "fraud", "--policy", "aup"),
    ("trail", "--resource", "atlas-3", "--from", AT, "--to", "2027-01-01T00:00:00Z"),
    ("trail", "--operator", "the-officer", "--on-behalf-of", "user:jane"),
]


@pytest.mark.parametrize("asked", ASKED, ids=" ".join)
def test_a_database_and_a_url_print_the_same(run: Run, told: Told, asked: tuple[str, ...]) -> None:
    """One code answers both, so what is read from one is what is read from the other."""
    words = [word.format(**vars(told)) for word in asked]

    for more in ((), ("--json",)):
        direct, served = run(*words, *more), run(*words, *more, url=True)
        assert (0, "") == (direct.code, direct.err)
        assert direct == served


def test_one_fact_is_printed_as_its_route_answers_it(run: Run, shared: Running, told: Told) -> None:
    """Member for member; what is sealed stays sealed, and nothing is recorded about reading."""
    before = shared.service.recorder.position
    for what, path in (
        (told.suspension, f"/v1/suspensions/{told.suspension}"),
        (told.violation, f"/v1/violations/{told.violation}"),
        ("7", "/v1/events/7"),
    ):
        answered = shared.done("GET", path, role="auditor")
        assert [answered] == run("show", what, "--json").lines
        assert "In full." not in run("show", what).out
    assert before == shared.service.recorder.position


def test_a_subject_is_shown_whole(run: Run, told: Told) -> None:
    """Standing, links, access with reasons, and every fact; texts stand as they were written."""
    shown = run("show", "user:ann", "--at", AT).out

    for words in (
        "suspended",
        "below organization:acme since",
        "plan = team",
        told.suspension,
        told.violation,
        told.of_company,
        HOSTILE,
        "Please stop.",
        "early",
    ):
        assert words in shown, words
    access = next(line for line in shown.splitlines() if "model:atlas-3 " in line)
    assert "no (use)" in access
    assert "2027-01-24 10:00:00 UTC" in access
    assert "yes" in next(line for line in shown.splitlines() if "model:mini-2" in line)
    (both,) = run("show", "user:ann", "--at", AT, "--json").lines
    assert ["record", "access"] == list(both)
    assert both["record"]["known_position"] == both["access"]["known_position"]


def test_the_past_is_shown_as_it_was_known(run: Run, shared: Running) -> None:
    """Before anything was known, the standing was good; at an instant, what held then."""
    (then,) = run("show", "user:ann", "--at", AT, "--known-position", "20", "--json").lines
    (before,) = run("show", "user:ann", "--at", "2026-01-01T00:00:00Z", "--json").lines

    assert ("good", 20) == (then["record"]["standing"], then["access"]["known_position"])
    assert "good" == before["record"]["standing"]


def test_status_says_what_is_going_on(run: Run, shared: Running, told: Told) -> None:
    """For people in words, for programs the route's answer."""
    (answered,) = run("status", "--at", AT, "--json").lines
    shown = run("status", "--at", AT).out

    assert answered == shared.done("GET", "/v1/status", role="auditor", params={"at": AT})
    assert (2, 2, 1, 0) == tuple(
        answered[name] for name in ("in_force", "restricted_subjects", "due", "review")
    )
    assert "2 suspensions of 2 subjects" in shown
    assert "1 end until 2026-12-24 10:00:00 UTC" in shown
    assert f"{answered['position']} of {answered['position']}" in shown


def test_the_trail_ends_where_it_is_told_to(run: Run, shared: Running) -> None:
    """A line for each event, at most as many as asked for, page after page."""
    head = shared.service.recorder.position
    newest = run("trail", "--limit", "4", "--json").lines

    assert list(range(head, head - 4, -1)) == [event["position"] for event in newest]
    assert 1 == len(run("trail", "--limit", "1", "--json").lines)
    assert min(50, head) == len(run("trail", "--json").lines)
    shown = run("trail", "--subject", "user:ann", "--type", "violation.recorded").out
    assert HOSTILE in shown
    assert "Nothing is recorded that fits.\n" == run("trail", "--subject", "user:none").out
    assert "" == run("trail", "--subject", "user:none", "--json").out


@pytest.mark.parametrize(
    ("asked", "code", "words"),
    [
        (("show", "sus_none"), 1, "nothing is recorded under the id 'sus_none'"),
        (("show", "100000"), 1, "the ledger ends at position"),
        (("show", "alice"), 1, "'alice' is no subject (user:alice), id (vio_…"),
        (("show", "Ab:c"), 1, "'Ab:c' is not type:id"),
        (("show", "user:ann", "--at", "yesterday"), 2, "must be an RFC 3339 timestamp"),
        (("show", "3", "--at", AT), 2, "an event is the same at all times"),
        (("show", "user:ann", "--known-at", AT, "--known-position", "3"), 1, "not both"),
        (("trail", "--limit", "0"), 2, "Invalid value"),
        (("trail", "--order", "random"), 2, "Invalid value"),
        (("trail", "--subject", "ann"), 1, "must have the form type:id"),
    ],
    ids=str,
)
def test_what_cannot_be_answered_is_said_in_words(
    run: Run, asked: tuple[str, ...], code: int, words: str
) -> None:
    """1: the ledger refused, 2: the command line is wrong; the same for both ways."""
    for url in (False, True):
        ran = run(*asked, url=url)
        assert code == ran.code, ran.err
        assert words in " ".join(ran.err.replace("│", " ").split())
        assert "" == ran.out


def test_who_asks_a_url_needs_a_key(run: Run, shared: Running, tmp_path: Path) -> None:
    """From the variable or a file, never on the command line; the ledger judges it."""
    key = tmp_path / "key"
    key.write_text(f"{shared.keys['auditor']}\n")

    assert 0 == run("status", "--url", shared.url, "--key-file", str(key)).code
    for words, code, told in (
        (("--url", shared.url), 2, "set LEDGER_API_KEY to the key of an auditor"),
        (("--url", shared.url, "--key-file", str(tmp_path / "none")), 1, "cannot be read"),
        (("--url", "ledger.example"), 2, "must begin with http"),
        (("--key-file", str(key)), 2, "a database is read without a key"),
    ):
        ran = run("status", *words)
        assert code == ran.code
        assert told in " ".join(ran.err.replace("│", " ").split())
    refused = run("trail", url=True, role="officer")
    assert (1, True) == (refused.code, "the-officer has the role officer" in refused.err)
    assert "Use a key of an operator" in refused.err


def test_nobody_listening_ends_with_two(
    run: Run, shared: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who got no answer knows nothing, and a script can tell that from a refusal."""
    monkeypatch.setattr("ledger.client.clients.FIRST_PAUSE_S", 0.0)
    monkeypatch.setenv("LEDGER_API_KEY", "k")
    ran = run("status", "--url", "http://127.0.0.1:1")

    assert (2, "") == (ran.code, ran.out)
    assert "got no answer" in ran.err


def test_a_database_that_is_not_there_is_not_made(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking changes nothing, so it makes nothing either."""
    monkeypatch.setenv("LEDGER_DATABASE_URL", f"sqlite:///{tmp_path}/none.db")

    ran = run("status")

    assert (1, True) == (ran.code, "run compliance-ledger init first" in ran.err)
    assert not list(tmp_path.glob("none*"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("trail --type subject.s", ["subject.suspended"]),
        ("trail --type ", sorted({event.TYPE for event in EVENT_TYPES.values()})),
        ("trail --order ", ["newest", "oldest"]),
        ("show us", ["user:"]),
        ("show su", ["sus_"]),
        ("st", ["status"]),
    ],
)
def test_the_shell_completes_what_there_is_to_choose(words: str, expected: list[str]) -> None:
    """Commands, event types and orders, as the installed completion asks for them."""
    asked = {
        "_COMPLIANCE_LEDGER_COMPLETE": "complete_bash",
        "COMP_WORDS": f"compliance-ledger {words}",
        "COMP_CWORD": str(len(f"compliance-ledger {words}".split(" ")) - 1),
    }

    completed = CliRunner().invoke(app, [], env=asked, prog_name="compliance-ledger")

    assert expected == completed.stdout.split()


@on_each_store
def test_a_direct_client_reads_either_store(
    settings: Settings, clock: SetClock, founded: Running
) -> None:
    """Its key is an auditor's and known to it alone, so it reads and does nothing else."""
    suspension_of(founded, "user:ann", duration="P10D")
    service = build(settings, clock=clock)

    async def ask() -> tuple[int, int, str]:
        async with reading_client(service) as client:
            status = await client.status()
            record = await client.record("user:ann")
            return status.due, status.in_force, record.standing

    assert (1, 1, "suspended") == asyncio.run(ask())
    assert founded.done("GET", "/v1/status", role="approver")["due"] == 1
    lent = [each for each in service.keyring._roles.items() if each[0] == READER]
    assert [(READER, Role.AUDITOR)] == lent
    service.close()
