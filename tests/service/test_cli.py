"""The command line: what each command prints, changes and exits with."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer

from ledger.domain.values import Role
from ledger.service import keyfile
from ledger.service.cli import app, main
from ledger.service.settings import Settings
from ledger.service.wiring import Service, build
from ledger.tlog.note import KeyType, Signer, format_vkey
from tests.checks import check_ledger
from tests.histories import awake
from tests.serving import opened, program, started


def every_command() -> list[list[str]]:
    """The words of every command and group of commands, the program itself included."""
    found: list[list[str]] = [[]]
    waiting: list[tuple[list[str], Any]] = [([], typer.main.get_command(app))]
    while waiting:
        words, group = waiting.pop()
        for name, command in getattr(group, "commands", {}).items():
            found.append([*words, name])
            waiting.append(([*words, name], command))
    return found


@dataclass(frozen=True)
class Ran:
    """What a command did: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in a folder of its own, as the console script does."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"LEDGER_{name.upper()}", raising=False)
    monkeypatch.delenv("LEDGER_SETTINGS", raising=False)
    monkeypatch.delenv("LEDGER_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["compliance-ledger", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        code = ended.value.code
        return Ran(code if isinstance(code, int) else int(code is not None), *printed)

    return run


def held(path: Path = Path("var/ledger.db")) -> Service:
    """A service on a ledger that a command made."""
    return awake(build(Settings(database_url=f"sqlite:///{path.absolute()}")))


def rows(path: Path) -> list[tuple[object, ...]]:
    """Everything in a database."""
    with sqlite3.connect(path) as c:
        tables = [
            name
            for (name,) in c.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
            if not name.startswith("trail_words")
        ]
        found = [
            (table, *row) for table in sorted(tables) for row in c.execute(f"SELECT * FROM {table}")
        ]
    c.close()
    return found


# --- init -----------------------------------------------------------------------------------------


def test_init_opens_a_ledger_and_shows_the_admin_key_once(run: Run) -> None:
    """The key that is printed is that of the operator admin, and only its digest is kept."""
    ran = run("init")

    assert (0, "") == (ran.code, ran.err)
    assert "Opened the ledger ledger.localhost in" in ran.out
    key = next(word for word in ran.out.split() if word.startswith("clk_"))
    service = held()
    caller = service.keyring.find(key.encode(), 0)
    assert caller is not None
    assert ("admin", Role.ADMIN) == (caller.operator, caller.role)
    types = [recorded.type for recorded in service.recorder.events()]
    assert ["ledger.opened", "operator.enrolled", "operator.key_issued"] == types
    assert key.encode() not in Path("var/ledger.db").read_bytes()
    check_ledger(service)
    service.close()


def test_init_prints_json_for_machines(run: Run, tmp_path: Path) -> None:
    """Where the database is, what the ledger is called, both keys, and what is to be copied."""
    ran = run("init", "--json")

    assert 0 == ran.code
    assert ["database", "origin", "admin_key", "log_key", "vault_key_file"] == list(ran.json)
    assert str(tmp_path / "var" / "ledger.db") == ran.json["database"]
    assert "ledger.localhost" == ran.json["origin"]
    assert ran.json["admin_key"].startswith("clk_")
    (signer,) = keyfile.read(Path("var/ledger.log-key"))
    assert format_vkey(signer.verifier_key) == ran.json["log_key"]
    assert "ledger.localhost" == signer.name


def test_init_takes_the_origin_from_the_settings(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of the ledger is its first fact."""
    monkeypatch.setenv("LEDGER_ORIGIN", "ledger.example")

    assert "ledger.example" == run("init", "--json").json["origin"]
    service = held()
    first = service.recorder.event(1)
    assert first is not None
    assert "opened the ledger ledger.example" == first.event.sentence()
    service.close()


def test_only_its_owner_may_read_the_database(run: Run) -> None:
    """A ledger holds what people are accused of: it is nobody else's to read."""
    run("init")
    service = held()

    for path in Path("var").iterdir():
        assert 0o600 == stat.S_IMODE(path.stat().st_mode), path
    files = ["ledger.db", "ledger.db-shm", "ledger.db-wal"]
    files += ["ledger.log-key", "ledger.vault", "ledger.vault-key"]
    assert files == sorted(path.name for path in Path("var").iterdir())
    service.close()


def test_init_keeps_the_rights_of_a_file_that_is_there(run: Run) -> None:
    """Who made the file beforehand has decided who may read it; an empty one is used."""
    Path("var").mkdir()
    Path("var/ledger.db").touch(mode=0o640)
    Path("var/ledger.db").chmod(0o640)

    assert 0 == run("init").code
    assert 0o640 == stat.S_IMODE(Path("var/ledger.db").stat().st_mode)


def test_a_second_init_is_refused_and_changes_nothing(run: Run) -> None:
    """A ledger is opened once; its key and its facts stay as they are."""
    run("init")
    before = rows(Path("var/ledger.db"))

    ran = run("init", "--json")

    assert (1, "") == (ran.code, ran.out)
    assert "this database holds a ledger already" in ran.err
    assert before == rows(Path("var/ledger.db"))


def test_an_init_that_fails_leaves_no_half_of_a_ledger(run: Run) -> None:
    """The three first facts are recorded together."""
    run("init")
    with sqlite3.connect("var/ledger.db") as c:
        c.execute("DROP TABLE operator_keys")
        c.execute("CREATE TABLE operator_keys (key TEXT)")
        for trigger in ("deleted", "changed", "replaced"):
            c.execute(f"DROP TRIGGER events_are_never_{trigger}")
        c.execute("DROP TRIGGER log_hashes_are_never_deleted")
        for table in ("events", "operators", "trail", "trail_words", "log_hashes"):
            c.execute(f"DELETE FROM {table}")
    c.close()

    with pytest.raises(Exception, match="operator_keys"):
        run("init")

    assert [] == rows(Path("var/ledger.db"))


# --- settings -------------------------------------------------------------------------------------


def test_a_settings_file_says_which_ledger_is_meant(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LEDGER_SETTINGS names a TOML file."""
    database = tmp_path / "kept" / "here.db"
    Path("s.toml").write_text(
        f'origin = "from.file"\ndatabase_url = "sqlite:///{database}"\n', encoding="utf-8"
    )
    monkeypatch.setenv("LEDGER_SETTINGS", "s.toml")

    ran = run("init", "--json")

    assert (str(database), "from.file") == (ran.json["database"], ran.json["origin"])
    assert database.is_file()


@pytest.mark.parametrize("command", ["init", "serve", "rebuild", "keys list"])
@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("LEDGER_DATABASE_URL", "mysql://db/ledger", "LEDGER_DATABASE_URL: must be sqlite:///"),
        ("LEDGER_UNKNOWN_SUBJECT", "maybe", "LEDGER_UNKNOWN_SUBJECT: Input should be 'allow'"),
        ("LEDGER_ORIGIN", "", "LEDGER_ORIGIN: String should have at least 1 character"),
        ("LEDGER_SETTINGS", "none.toml", "LEDGER_SETTINGS names none.toml, which is no file"),
        ("LEDGER_SETTINGS", "slip.toml", "orgin is no setting; there are database_url, read_url,"),
        ("LEDGER_SETTINGS", "broken.toml", "broken.toml cannot be read as TOML"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_and_nothing_is_made(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: str, name: str, value: str, says: str
) -> None:
    """One sentence says which setting it is and what it must be."""
    Path("slip.toml").write_text('orgin = "a.slip"\n', encoding="utf-8")
    Path("broken.toml").write_text("origin =\n", encoding="utf-8")
    monkeypatch.setenv(name, value)

    ran = run(*command.split())

    assert (1, "") == (ran.code, ran.out)
    assert ran.err.startswith("compliance-ledger: ")
    assert says in ran.err
    assert "Traceback" not in ran.err
    assert not Path("var").exists()


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("init", "cannot be opened: file is not a database"),
        ("serve", "cannot be opened: file is not a database"),
        ("keys list", "cannot be opened: file is not a database"),
    ],
)
def test_a_file_that_is_no_database_is_refused(run: Run, command: str, says: str) -> None:
    """Whatever it is, it is not written over."""
    Path("var").mkdir()
    Path("var/ledger.db").write_text("This is a letter and no database." * 99, encoding="utf-8")

    ran = run(*command.split())

    assert (1, "") == (ran.code, ran.out)
    assert says in ran.err
    assert "This is a letter" in Path("var/ledger.db").read_text(encoding="utf-8")


def test_a_place_where_no_file_can_be_made_is_refused(run: Run) -> None:
    """A folder in the way, or a file where a folder would be, gets one sentence."""
    Path("var/ledger.db").mkdir(parents=True)
    for command in ("init", "rebuild"):
        assert (1, "") == (run(command).code, run(command).out)
        assert "var/ledger.db cannot be opened" in run(command).err
    Path("var/ledger.db").rmdir()
    Path("var").rmdir()
    Path("var").touch()

    ran = run("init")

    assert 1 == ran.code
    assert "var/ledger.db cannot be made: " in ran.err


# --- serve ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["serve"], ["rebuild"], ["keys", "list"]])
def test_without_init_a_command_says_what_to_do(run: Run, command: list[str]) -> None:
    """No database, or an empty one: run init first. Nothing is made meanwhile."""
    ran = run(*command)
    assert (1, "") == (ran.code, ran.out)
    assert "var/ledger.db does not exist; run compliance-ledger init first" in ran.err
    assert not Path("var").exists()

    Path("var").mkdir()
    Path("var/ledger.db").touch()
    ran = run(*command)
    assert 1 == ran.code
    assert "var/ledger.db holds no ledger; run compliance-ledger init first" in ran.err


@pytest.mark.parametrize("host", ["nowhere", "127.0.0.1:8080", "http://127.0.0.1", "256.0.0.1", ""])
def test_a_host_that_is_no_address_is_refused(run: Run, host: str) -> None:
    """A name would be looked up somewhere; an address says what it means."""
    run("init")

    ran = run("serve", "--host", host)

    assert 1 == ran.code
    assert f"--host '{host}' is no address; use 127.0.0.1 or 0.0.0.0" in ran.err


def test_a_place_that_is_taken_is_refused(run: Run) -> None:
    """Two programs cannot listen on one port; nor can one on an address of another machine."""
    run("init")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = run("serve", "--port", str(port))
    assert 1 == ran.code
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in ran.err

    ran = run("serve", "--host", "203.0.113.7", "--port", "0")
    assert 1 == ran.code
    assert "cannot listen on 203.0.113.7 port 0: " in ran.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "--port", "65536"],
        ["serve", "--port", "many"],
        ["serve", "--workers", "0"],
        ["serve", "--loud"],
        ["keys", "issue"],
        ["keys", "issue", "jane", "--role", "king"],
        ["keys", "revoke"],
        ["verify-everything"],
    ],
)
def test_a_command_line_that_is_wrong_exits_with_2(run: Run, arguments: list[str]) -> None:
    """What cannot be understood is told from what is refused."""
    ran = run(*arguments)

    assert 2 == ran.code
    assert "Usage: " in ran.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_program_serves_until_it_is_told_to_stop(tmp_path: Path, number: int) -> None:
    """``python -m ledger`` says where it serves, answers there, and ends with 0 at a signal."""
    database = tmp_path / "ledger.db"
    with started(database, opened(database)) as process:
        assert process.url.startswith("http://127.0.0.1:")
        assert "alive" == process("GET", "/livez").json()["status"]
        assert 201 == process.suspend("ann").status_code
        assert process.check("ann").json()["decision"] is False

        assert 0 == process.stop(number)
        with pytest.raises(httpx.ConnectError):
            process("GET", "/livez")
    service = held(database)
    assert "subject.suspended" == list(service.recorder.events())[-1].type
    check_ledger(service)
    service.close()


def test_the_module_is_the_same_program(tmp_path: Path) -> None:
    """``python -m ledger`` is ``compliance-ledger``."""
    database = tmp_path / "ledger.db"

    made = program("init", "--json", database=database)
    again = program("init", database=database)

    assert (0, "", str(database)) == (
        made.returncode,
        made.stderr,
        json.loads(made.stdout)["database"],
    )
    assert (1, "") == (again.returncode, again.stdout)
    assert again.stderr.startswith("compliance-ledger: this database holds a ledger already\n")


# --- rebuild --------------------------------------------------------------------------------------


def test_a_rebuild_of_a_sound_ledger_exits_with_0(run: Run) -> None:
    """It says how many events it read, and that nothing differed."""
    run("init")

    ran = run("rebuild")
    assert 0 == ran.code
    assert "3 events; every projection is what they say." in ran.out

    ran = run("rebuild", "--json")
    assert (0, {"events": 3, "differences": [], "repaired": False}) == (ran.code, ran.json)


def spoil() -> None:
    """Change rows behind the ledger's back."""
    with sqlite3.connect("var/ledger.db") as c:
        c.execute("UPDATE operators SET role = 'auditor'")
        c.execute("DELETE FROM trail WHERE position = 2")
    c.close()


def test_a_rebuild_repairs_what_differs_and_exits_with_1(run: Run) -> None:
    """What no event accounts for is named and replaced; the next rebuild finds nothing."""
    run("init")
    before = rows(Path("var/ledger.db"))
    spoil()

    ran = run("rebuild")

    assert 1 == ran.code
    assert "operators: 1 rows missing, 1 rows that no event accounts for" in ran.out
    assert "trail: 1 rows missing, 0 rows that no event accounts for" in ran.out
    assert "The live rows were replaced." in ran.out
    assert before == rows(Path("var/ledger.db"))
    assert 0 == run("rebuild").code


def test_a_rebuild_that_only_checks_leaves_what_differs(run: Run) -> None:
    """With --check nothing is replaced, and it is found again."""
    run("init")
    spoil()
    before = rows(Path("var/ledger.db"))

    for _ in range(2):
        ran = run("rebuild", "--check")
        assert 1 == ran.code
        assert "Nothing was changed." in ran.out
    assert before == rows(Path("var/ledger.db"))


def test_a_rebuild_says_in_json_what_differs(run: Run) -> None:
    """Every table that differs, with some of its rows, and whether they were replaced."""
    run("init")
    spoil()

    checked, repaired = run("rebuild", "--check", "--json"), run("rebuild", "--json")

    assert (1, 1) == (checked.code, repaired.code)
    assert (False, True) == (checked.json["repaired"], repaired.json["repaired"])
    assert checked.json["differences"] == repaired.json["differences"]
    assert [
        {
            "projection": "operators",
            "table": "operators",
            "missing": [["admin", "admin", "2"]],
            "extra": [["admin", "auditor", "2"]],
        }
    ] == checked.json["differences"][:1]
    assert ["operators", "trail"] == [each["table"] for each in checked.json["differences"]]


# --- keys -----------------------------------------------------------------------------------------


def test_a_key_is_issued_listed_and_revoked(run: Run) -> None:
    """The whole life of a key, as machines see it."""
    run("init")

    issued = run("keys", "issue", "jane", "--role", "officer", "--label", "her laptop", "--json")
    assert 0 == issued.code
    assert ["id", "operator", "key"] == list(issued.json)
    listed = run("keys", "list", "--json").json
    revoked = run("keys", "revoke", issued.json["id"], "--json")

    assert ["admin", "jane"] == [operator["id"] for operator in listed]
    jane = listed[1]
    assert ("officer", [issued.json["id"]]) == (jane["role"], [key["id"] for key in jane["keys"]])
    assert "her laptop" == jane["keys"][0]["label"]
    assert issued.json["key"] not in json.dumps(listed)
    assert (0, {"id": issued.json["id"], "position": 6}) == (revoked.code, revoked.json)
    service = held()
    assert service.keyring.find(issued.json["key"].encode(), 0) is None
    check_ledger(service)
    service.close()


def test_keys_are_shown_to_people_in_a_table(run: Run) -> None:
    """Each operator with each key, what it is for, and whether it opens anything."""
    run("init")
    run("keys", "issue", "jane", "--role", "auditor", "--expires-at", "2099-01-01T00:00:00Z")
    gone = run("keys", "issue", "jane", "--json").json["id"]

    assert f"Revoked {gone}." in run("keys", "revoke", gone).out
    ran = run("keys", "list")

    assert 0 == ran.code
    lines = {line.split("│")[3].strip(): line for line in ran.out.splitlines() if "key_" in line}
    assert 3 == len(lines)
    assert "revoked 20" in lines[gone]
    assert "usable until 2099-01-01T00:00" in ran.out
    assert "the first key" in ran.out


def test_an_issued_key_is_shown_to_people_once(run: Run) -> None:
    """The id to revoke it by, and the key."""
    run("init")

    ran = run("keys", "issue", "admin")

    assert 0 == ran.code
    assert "of admin, shown only now:" in ran.out
    key = ran.out.splitlines()[-1]
    service = held()
    caller = service.keyring.find(key.encode(), 0)
    assert caller is not None
    assert caller.key in ran.out
    service.close()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["issue", "nobody"], "no operator 'nobody' is enrolled"),
        (["issue", "system", "--role", "admin"], "'system' is the ledger itself"),
        (["issue", "admin", "--expires-at", "tomorrow"], "--expires-at must be an RFC 3339"),
        (["issue", "admin", "--expires-at", "2020-01-01T00:00:00Z"], "before it is issued"),
        (["issue", "admin", "--label", ""], "label: String should have at least 1 character"),
        (["issue", "", "--role", "admin"], "operator: must not be empty"),
        (["revoke", "key_none"], "nothing is recorded under the id 'key_none'"),
        (["revoke", "sus_none"], "nothing is recorded under the id 'sus_none'"),
    ],
)
def test_a_key_command_that_is_refused_records_nothing(
    run: Run, arguments: list[str], says: str
) -> None:
    """One sentence, exit code 1, and the ledger as it was."""
    run("init")
    before = rows(Path("var/ledger.db"))

    ran = run("keys", *arguments)

    assert (1, "") == (ran.code, ran.out)
    assert says in ran.err
    assert "Traceback" not in ran.err
    assert before == rows(Path("var/ledger.db"))


def test_the_last_admin_key_is_not_revoked(run: Run) -> None:
    """Nobody locks everybody out, not even from the command line."""
    run("init")
    key = run("keys", "list", "--json").json[0]["keys"][0]["id"]

    ran = run("keys", "revoke", key)
    assert 1 == ran.code
    assert "no other admin key is usable" in ran.err

    run("keys", "issue", "admin")
    assert 0 == run("keys", "revoke", key).code
    assert 1 == run("keys", "revoke", key).code


def test_a_role_given_with_a_key_that_is_refused_is_not_changed(run: Run) -> None:
    """Enrolling and issuing are one commit."""
    run("init")
    run("keys", "issue", "jane", "--role", "officer")

    ran = run("keys", "issue", "jane", "--role", "auditor", "--label", "x" * 999)

    assert 1 == ran.code
    assert "officer" == run("keys", "list", "--json").json[1]["role"]


# --- verify, export, backup -----------------------------------------------------------------------


def signed_ledger(run: Run) -> str:
    """Make a ledger and sign it, as serving does; returns the log's public key."""
    key = str(run("init", "--json").json["log_key"])
    sign()
    return key


def sign() -> None:
    """Sign what was recorded since."""
    service = held()
    service.signer.start()
    service.signer.stop()
    check_ledger(service)
    service.recorder.store.close()


def test_a_record_is_verified_with_a_key_and_a_kept_checkpoint(run: Run) -> None:
    """What --save keeps is what --checkpoint takes, and the record must continue it."""
    key = signed_ledger(run)

    ran = run("verify", "--key", key, "--save", "kept.txt")
    assert (0, ["Fine."]) == (ran.code, ran.out.splitlines()[-1:])
    assert Path("var/ledger.checkpoint").read_bytes() == Path("kept.txt").read_bytes()

    run("keys", "issue", "jane", "--role", "officer")
    sign()
    told = run("verify", "--key", key, "--checkpoint", "kept.txt", "--json").json
    assert ("fine", 5, [], [], []) == tuple(
        told[name] for name in ("verdict", "events", "findings", "doubts", "remarks")
    )
    assert ("ledger.localhost", 5) == (told["checkpoint"]["origin"], told["checkpoint"]["size"])


def test_what_was_tampered_with_is_told_with_exit_code_1(run: Run) -> None:
    """A finding has kind, sentence and position; nothing is saved."""
    key = signed_ledger(run)
    with sqlite3.connect("var/ledger.db") as c:
        c.execute("DROP TRIGGER events_are_never_changed")
        c.execute("UPDATE events SET recorded_at = '2020' WHERE position = 2")
    c.close()

    ran = run("verify", "--key", key, "--save", "kept.txt")
    told = run("verify", "--key", key, "--json")

    assert (1, 1) == (ran.code, told.code)
    assert ran.out.startswith("changed: Event 2 was changed")
    assert "Tampered." == ran.out.splitlines()[-1]
    assert not Path("kept.txt").exists()
    (finding,) = told.json["findings"]
    assert ("changed", 2, None) == (finding["kind"], finding["position"], finding["last"])


def test_what_could_not_be_told_is_exit_code_2(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """No ledger, nothing signed, a slip on the command line, or settings that are none."""
    assert 2 == run("verify").code
    run("init")
    ran = run("verify")
    assert (2, "Could not tell.") == (ran.code, ran.out.splitlines()[-1])
    for wrong in (
        ["--url", "http://127.0.0.1:1"],
        ["--url", "http://127.0.0.1:1", "--bundle", "x"],
        ["--bundle", "nowhere.tar"],
        ["--fork", "nowhere.json"],
        ["--key", "nonsense"],
        ["--checkpoint", "nowhere.txt"],
        ["--witness-policy", "nowhere.txt"],
        ["--witness-policy", "var/ledger.log-key"],
        ["--fork", "x", "--witness-policy", "x"],
    ):
        assert 2 == run("verify", *wrong).code, wrong
    monkeypatch.setenv("LEDGER_DATABASE_URL", "nonsense")
    assert 2 == run("verify").code


def test_who_vouches_is_told_when_a_policy_names_witnesses(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes from the command line, or from the settings; nobody has cosigned yet."""
    key = signed_ledger(run)
    witness = Signer("w.example/w", bytes(32), KeyType.COSIGNATURE).verifier_key
    Path("policy").write_text(f"witness w {format_vkey(witness)}\nquorum w\n")

    given = run("verify", "--key", key, "--witness-policy", "policy")
    monkeypatch.setenv("LEDGER_WITNESS_POLICY", "policy")
    told = run("verify", "--key", key, "--json")

    assert (2, 2) == (given.code, told.code)
    assert "No witness of the policy vouches for the newest checkpoint." in given.out
    size = told.json["checkpoint"]["size"]
    nobody = {"size": size, "by": [], "missing": ["w"], "quorum_met": False}
    assert nobody == told.json["witnesses"]


def test_many_findings_are_counted_and_not_all_printed(run: Run) -> None:
    """A person reads some; for machines all are there."""
    key = signed_ledger(run)
    with sqlite3.connect("var/ledger.db") as c:
        c.execute("DROP TRIGGER events_are_dense")
        for position in range(100, 160, 2):
            c.execute(
                "INSERT INTO events SELECT ?, 'x' || ?, version, type, recorded_at, state "
                "FROM events WHERE position = 2",
                (position, position),
            )
    c.close()

    ran = run("verify", "--key", key)

    assert 20 == sum(line.startswith("inserted: ") for line in ran.out.splitlines())
    assert "… and 10 more; --json has them all." in ran.out
    assert 30 == len(run("verify", "--json").json["findings"])


def test_an_export_is_an_archive_that_verifies(run: Run) -> None:
    """It is written once, and only of what was signed."""
    run("init")
    refused = run("export", "--bundle", "record.tar")
    assert (1, False) == (refused.code, Path("record.tar").exists())
    sign()

    told = run("export", "--bundle", "record.tar", "--json").json
    assert {"bundle": "record.tar", "origin": "ledger.localhost", "size": 3} == told
    assert 0 == run("verify", "--bundle", "record.tar").code
    assert 1 == run("export", "--bundle", "record.tar").code


def test_a_backup_is_verified_and_can_take_the_place_of_the_ledger(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vault comes along with a warning; a folder that is not empty is refused."""
    signed_ledger(run)
    with sqlite3.connect("var/ledger.vault") as c:
        c.execute("CREATE TABLE wrapped (key BLOB)")
    c.close()

    ran = run("backup", "copy")

    assert (0, "Fine.") == (ran.code, ran.out.splitlines()[-1])
    assert "MUST NOT be kept as long" in ran.out
    assert 1 == run("backup", "copy").code
    monkeypatch.setenv("LEDGER_DATABASE_URL", "sqlite:///copy/ledger.db")
    assert 0 == run("verify").code
    assert "fine" == run("backup", "again", "--json").json["verdict"]


def test_a_ledger_is_copied_to_another_database(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to serve from now on, and with which private files; again, it only verifies."""
    signed_ledger(run)
    move = ("migrate", "--from", "sqlite:///var/ledger.db", "--to", "sqlite:///new/ledger.db")

    ran = run(*move)

    assert (0, "Copied 3 events. What was found in new/ledger.db:") == (
        ran.code,
        ran.out.splitlines()[0],
    )
    assert "Fine.\nFrom now on serve only new/ledger.db" in ran.out
    here = Path.cwd() / "var"
    named = [line.removeprefix("Set ") for line in ran.out.splitlines()[-3:]]
    assert [
        f"LEDGER_LOG_KEY_FILE={here / 'ledger.log-key'}",
        f"LEDGER_CHECKPOINT_FILE={here / 'ledger.checkpoint'}",
        f"LEDGER_VAULT_KEY_FILE={here / 'ledger.vault-key'}",
    ] == named
    told = run(*move, "--json").json
    assert ("fine", 3, "new/ledger.db", 0) == tuple(
        told[name] for name in ("verdict", "events", "database", "copied")
    )
    monkeypatch.setenv("LEDGER_DATABASE_URL", "sqlite:///new/ledger.db")
    for line in named:
        monkeypatch.setenv(*line.split("="))
    assert 0 == run("verify").code
    assert 0 == run("keys", "list").code


def test_what_cannot_be_copied_is_told_from_what_was_tampered_with(run: Run) -> None:
    """An exit with 1 says that somebody edited the ledger, and nothing else does."""
    signed_ledger(run)
    move = ("migrate", "--to", "sqlite:///new/ledger.db", "--from")

    for url in ("sqlite:///none.db", "mysql://here/ledger"):
        assert 2 == run(*move, url).code
    with sqlite3.connect("var/ledger.db") as c:
        c.execute("DROP TRIGGER events_are_never_changed")
        c.execute("UPDATE events SET type = 'x' WHERE position = 2")
    c.close()
    ran = run(*move, "sqlite:///var/ledger.db")
    assert (1, "Tampered.") == (ran.code, ran.out.splitlines()[-1])
    assert not Path("new").exists()


# --- help -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", every_command(), ids=" ".join)
def test_every_command_explains_itself(run: Run, command: list[str]) -> None:
    """``--help`` says what it does and what it takes, and does nothing."""
    ran = run(*command, "--help")

    assert (0, "") == (ran.code, ran.err)
    first, _, rest = ran.out.partition("\n")
    assert first.startswith("Usage: ")
    assert f" {' '.join(command)}".rstrip() in first
    assert rest.strip()
    assert "--help" in ran.out
    assert not Path("var").exists()


def test_every_command_is_in_the_help(run: Run) -> None:
    """The first page names all of them."""
    shown = run("--help").out

    assert [] == [name for name, *_ in filter(None, every_command()) if f"  {name} " not in shown]


# --- report ---------------------------------------------------------------------------------------


def test_a_report_is_printed_for_people_and_for_machines(run: Run) -> None:
    """The same figures as tables and as JSON, with the position that they are a function of."""
    run("init")
    period = ["--from", "2026-01-01", "--to", "2100-01-01T00:00:00Z"]
    printed = run("report", *period)
    as_json = run("report", *period, "--json").json

    assert 0 == printed.code
    assert f"as known at position {as_json['known_position']}" in printed.out
    assert "Violations by category" not in printed.out  # an empty table is not printed
    assert "Reinstatements by cause" in printed.out
    assert 0 == as_json["violations"]["recorded"]
    assert 1 == run("report", *period, "--known-position", "1", "--json").json["known_position"]
    named = run("report", "--period", "2026-Q3", "--json").json
    assert "2026-07-01T00:00:00.000000Z" == named["from"]
    assert "2026-10-01T00:00:00.000000Z" == named["to"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give a period"),
        (["--from", "2026-01-01"], "give a period"),
        (["--period", "2026", "--to", "2027-01-01"], "give a period"),
        (["--period", "spring"], "a period is a month, quarter or year"),
        (["--from", "spring", "--to", "2027-01-01"], "must be an RFC 3339 timestamp"),
        (["--from", "2027-01-01", "--to", "2026-01-01"], "to must be later than from"),
        (["--period", "2026", "--known-position", "99"], "the ledger ends at position"),
        (["--period", "2026", "--url", "http://127.0.0.1:9"], "cannot be reached"),
    ],
)
def test_a_report_that_cannot_be_is_refused_with_words(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    """The exit code is 1, and a sentence says why."""
    run("init")
    monkeypatch.setenv("LEDGER_API_KEY", "k")
    ran = run("report", *arguments)

    assert 1 == ran.code
    assert words in ran.err


def test_a_key_is_never_an_argument(run: Run, tmp_path: Path) -> None:
    """Each command that asks a service takes it from the variable or a file, and says so."""
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "commands").write_text("{}\n")
    asking = {
        "status": (),
        "show": ("user:alice",),
        "trail": (),
        "tail": (),
        "report": ("--period", "2026"),
        "export": ("--output", str(tmp_path / "out")),
        "import": (str(tmp_path / "commands"),),
    }
    for command, arguments in asking.items():
        url = ("--url", "http://127.0.0.1:9")
        without = run(command, *arguments, *url)
        empty = run(command, *arguments, *url, "--key-file", str(tmp_path / "empty"))

        assert (2, True) == (without.code, "set LEDGER_API_KEY to the key of" in without.err)
        assert (2, True) == (empty.code, "holds no key" in empty.err)
        assert "--api-key" not in run(command, "--help").out
