"""The same ledger on SQLite and on PostgreSQL: the same events make the same rows and answers."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from random import Random

import psycopg
import pytest
from eventsourcing.persistence import StoredEvent

from ledger.domain.values import Basis, Scope
from ledger.service.cli_verifying import verify_stored
from ledger.service.verification import COULD_NOT_TELL, FINE, TAMPERED, Report, Trusted
from ledger.service.wiring import Service, build
from ledger.tlog.verify import Kind
from projections.trail import SEARCH_CHARS_MAX, SEARCH_WORDS_MAX
from tests.checks import check_ledger
from tests.conftest import SetClock, settings_at
from tests.histories import OFFICER, RESOURCES, SUBJECTS, Drawing, founded, happen, lists_of

WORDS = r"""
    fraud Fraud FRAUD frau straße STRASSE ﬁne fine Ⅷ x² １２ 12 zoë ZOE ǅ İstanbul ıstanbul Σίσυφος
    ΣΙΣΥΦΟΣ журнал й 名前 한국어 हिन्दी العربية עִבְרִית ไทย 🙂 👩‍🚀 Ꭰ ꭰ ẞ 𝔘𝔫𝔦 … -- c++ user:ann aup@1
    1e5 -5 3.14 1.2.3.4 a@b.example https://a.example/b?c=d&e &amp; <b>x</b> 2026-11-24T10:00 it's
    "quoted" back\slash a'b a:*b a&b|!c % _ a_b
"""  # noqa: RUF001 - letters that look like others are what this is about
TEXTS = (*WORDS.split(), "x" * 250, "y" * 300, "\u200bzero", "soft\u00adhyphen", "\ue000")
SPACES = (" ", " ", "  ", "\n", "\t", "\u00a0", "\u3000", "-", ".", ", ")


@contextmanager
def copied(service: Service, folder: Path, url: str) -> Iterator[Service]:
    """A ledger at another address with the same events, byte for byte, and the same keys."""
    copy = build(settings_at(url, folder), clock=service.clock)
    for stored in service.recorder.select_notifications(1, service.recorder.position):
        event = StoredEvent(
            stored.originator_id, stored.originator_version, stored.topic, stored.state
        )
        copy.recorder.insert_events([event], recorded_at=stored.recorded_at)
    yield copy
    copy.close()


def rows_of(service: Service) -> dict[str, list[tuple[object, ...]]]:
    """Every row of the projections and of the log, by table."""
    tables = ["log_hashes", *(t for each in service.recorder.projections for t in each.TABLES)]
    rows = {}
    with service.recorder.store.transaction(commit=False) as c:
        for table in tables:
            columns = "*"
            if table == "trail_words" and service.recorder.store.dialect == "sqlite":
                columns = "rowid, words"
            c.execute(f"SELECT {columns} FROM {table}")
            rows[table] = sorted((tuple(row) for row in c.fetchall()), key=repr)
    return rows


def test_the_same_events_make_the_same_ledger_on_either_store(
    tmp_path: Path, postgres_ledger: str
) -> None:
    """Rows, leaves and the hashes above them are equal, and so is every list at every position."""
    service = founded(tmp_path, SetClock())
    happen(service, Drawing(Random(1)), 550)
    last = service.recorder.position
    assert last > 256
    with copied(service, tmp_path, postgres_ledger) as copy:
        assert rows_of(service) == rows_of(copy)
        random = Random("asked")
        for _ in range(20):
            position = random.randint(1, last)
            at = service.now() + timedelta(days=random.randint(-60, 60))
            assert lists_of(service, at, position) == lists_of(copy, at, position)
        check_ledger(copy)
    service.close()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("seed", range(2))
def test_a_history_that_happens_on_postgresql_is_a_ledger(
    tmp_path: Path, database_url: str, seed: int
) -> None:
    """Commands decide there as on SQLite: the same history, and all that must hold of a ledger."""
    trails = []
    for url in (None, database_url):
        folder = tmp_path / ("sqlite" if url is None else "postgresql")
        folder.mkdir()
        service = founded(folder, SetClock(), url=url)
        refusals = happen(service, Drawing(Random(f"played {seed}")), 80)
        story = [(r.type, r.stream, r.version, r.recorded_at) for r in service.recorder.events()]
        trails.append((story, [refusal.code for refusal in refusals]))
        check_ledger(service)
        service.close()

    assert trails[0] == trails[1]


def random_text(random: Random) -> str:
    """A text of words in many scripts, with much between them."""
    return "".join(
        random.choice(TEXTS) + random.choice(SPACES) for _ in range(random.randint(1, 9))
    )


def asked_words(random: Random, texts: list[str]) -> str:
    """Words that a text has, or nearly: cut, joined, quoted, in another case or another form."""
    words = random.choice([*texts, random_text(random)]).split() or ["nothing"]
    asked = []
    for _ in range(random.randint(1, 3)):
        word = random.choice(words)
        match random.randint(0, 7):
            case 0:
                word = word[: random.randint(1, len(word))] + "*"
            case 1:
                word = word.upper()
            case 2:
                word = unicodedata.normalize(random.choice(["NFC", "NFD", "NFKC"]), word)
            case 3:
                word = random.choice(["'", '"', "(", "\\", "\0", "\ud800", "!"]) + word
            case 4:
                word = ":".join(random.sample(words, min(2, len(words)))) + random.choice(["", "*"])
            case _:
                pass
        asked.append(word)
    return random.choice(SPACES[:3]).join(asked)[:SEARCH_CHARS_MAX]


@pytest.mark.parametrize("seed", range(2))
def test_words_find_the_same_events_on_either_store(
    tmp_path: Path, postgres_ledger: str, seed: int
) -> None:
    """Whatever was written and whatever is asked for, both stores find and count the same."""
    random = Random(f"words {seed}")
    service = founded(tmp_path, SetClock())
    texts = [text for _ in range(60) if (text := random_text(random).strip())]
    texts.append("again " * 300 + "user:ann")  # more often than an index may keep places
    with service.ledger.together():
        for number, text in enumerate(texts):
            service.ledger.suspend(
                SUBJECTS[number % len(SUBJECTS)],
                scope=Scope.model_validate({"resources": [RESOURCES[0].model_dump()]}),
                basis=Basis.LEGAL_ORDER,
                indefinite=True,
                reason=unicodedata.normalize("NFC", text),
                by=OFFICER,
            )
    with copied(service, tmp_path, postgres_ledger) as copy:
        answers = []
        asked = [asked_words(random, texts) for _ in range(400)]
        asked += ["again user:ann", "again:user:ann", "user:ann*", "…", "'", "", " ", "*", "🙂"]
        asked.append(" ".join(f"{number}*" for number in range(SEARCH_WORDS_MAX)))
        for each in (service, copy):
            with each.reading() as (c, position):
                answers.append(
                    [
                        (
                            q,
                            each.trail.events(c, position=position, limit=1_000, q=q),
                            each.trail.counts(c, position=position, q=q),
                        )
                        for q in asked
                    ]
                )

        for here, there in zip(*answers, strict=True):
            assert here == there
        found = [len(positions) for _, positions, _ in answers[0]]
        assert sum(0 < number < len(texts) for number in found) > len(asked) // 3
        check_ledger(copy)
    service.close()


# --- verifying it ---------------------------------------------------------------------------------


@dataclass
class Signed:
    """A ledger on PostgreSQL, all of it signed, and nobody at work on it."""

    url: str
    anchor: Path

    def tamper(self, *statements: str) -> None:
        """Change it as somebody does who owns the database."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    @property
    def report(self) -> Report:
        """What is found in the history and in the projections."""
        return verify_stored(self.url, self.anchor, Trusted(), lambda _done, _all: None)


@pytest.fixture
def signed(tmp_path: Path, postgres_ledger: str) -> Signed:
    """A ledger in which something happened, and which signed it."""
    service = founded(tmp_path, SetClock(), url=postgres_ledger)
    happen(service, Drawing(Random("signed")), 40)
    service.signer.check()
    while service.signer._round():
        pass
    check_ledger(service)
    service.close()
    return Signed(postgres_ledger, service.settings.checkpoint_path)


def test_a_database_of_postgresql_is_verified(signed: Signed) -> None:
    """Events, log, triggers and projections fit, and the report says what is proven."""
    report = signed.report

    assert (FINE, ()) == (report.code, report.findings)
    assert report.proven is not None
    assert report.events == report.proven.checkpoint.size


@pytest.mark.parametrize(
    ("statements", "kind"),
    [
        (["UPDATE events SET recorded_at = '2020' WHERE position = 5"], Kind.CHANGED),
        (["DELETE FROM events WHERE position = 5"], Kind.MISSING),
        (["DELETE FROM access_suspensions"], Kind.PROJECTION),
        (["UPDATE trail_words SET words = 'nothing' WHERE position = 5"], Kind.PROJECTION),
        (["UPDATE trail_words SET position = 10000 WHERE position = 5"], Kind.PROJECTION),
        (["DROP TABLE conduct_warnings"], Kind.PROJECTION),
    ],
)
def test_what_an_owner_changes_in_postgresql_is_found(
    signed: Signed, statements: list[str], kind: Kind
) -> None:
    """Triggers do not stop an owner, who can drop them; the log does not fit then."""
    off = [f"ALTER TABLE events {what} TRIGGER ALL" for what in ("DISABLE", "ENABLE")]
    signed.tamper(off[0], *statements, off[1])

    report = signed.report
    assert TAMPERED == report.code
    assert kind in [finding.kind for finding in report.findings]


def test_a_trigger_that_was_switched_off_or_changed_is_remarked(signed: Signed) -> None:
    """The history fits, and the report says which triggers are not as the ledger makes them."""
    signed.tamper(
        "ALTER TABLE events DISABLE TRIGGER events_are_never_changed",
        "DROP TRIGGER log_hashes_are_never_deleted ON log_hashes",
        "CREATE OR REPLACE FUNCTION events_are_dense() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RETURN NEW; END $$",
    )

    report = signed.report
    assert FINE == report.code
    found = [remark for remark in report.remarks if "trigger" in remark]
    assert [
        "The trigger events_are_dense is not the one that the ledger makes.",
        "The trigger events_are_never_changed is missing, which the ledger makes.",
        "The trigger log_hashes_are_never_deleted is missing, which the ledger makes.",
    ] == found


def test_a_database_that_cannot_be_reached_is_no_verdict(tmp_path: Path) -> None:
    """Whoever cannot read a ledger cannot tell; a password in its address is not shown."""
    url = f"postgresql://jo:secret@/none?host={tmp_path}"
    report = verify_stored(url, tmp_path / "none", Trusted(), lambda _done, _all: None)

    assert COULD_NOT_TELL == report.code
    assert "cannot be read" in report.doubts[0]
    assert "secret" not in str(report)
