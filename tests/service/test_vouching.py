"""Verifying who vouches: what witnesses cosigned is believed, and nothing that only says so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
from eventsourcing.persistence import Cursor

from ledger.service.cli_verifying import verify_stored
from ledger.service.verification import (
    COULD_NOT_TELL,
    FINE,
    TAMPERED,
    Report,
    Trusted,
    Vouched,
    verify_service,
)
from ledger.service.wiring import Service
from ledger.tlog.note import (
    KeyType,
    Signature,
    Signer,
    cosign,
    format_signatures,
    format_vkey,
    parse_note,
)
from ledger.tlog.policy_file import PolicyFile, parse_policy_file
from ledger.tlog.verify import Kind
from tests.checks import check_ledger
from tests.conftest import SetClock, on_each_store
from tests.histories import Drawing, founded, happen
from tests.service.test_migrating import sign_all
from tests.service.test_verification import contents_of, kinds, served

ANN, BEN, EVE = (
    Signer(f"{name}.example/w", bytes([number] * 32), KeyType.COSIGNATURE)
    for number, name in enumerate(("ann", "ben", "eve"))
)
AGAIN = Signer(ANN.name, bytes([9] * 32), KeyType.COSIGNATURE)
SIGNED_AT_S = 1_767_225_600


def policy_of(quorum: str) -> PolicyFile:
    """A policy of two witnesses, with a quorum of one of the two, of both, or of nobody."""
    lines = [
        f"witness {s.name.partition('.')[0]} {format_vkey(s.verifier_key)}" for s in (ANN, BEN)
    ]
    if quorum != "none":
        lines.append(f"group enough {quorum} ann ben")
        quorum = "enough"
    return parse_policy_file("".join(f"{each}\n" for each in (*lines, f"quorum {quorum}")).encode())


@dataclass
class Cosigned:
    """A ledger with three checkpoints, on which witnesses put what a test says."""

    service: Service
    sizes: list[int]

    def put(self, size: int, signer: Signer, *, over: int | None = None) -> None:
        """Keep a cosignature of a size, made over the text of that one or of another."""
        with self.service.reading() as (c, _):
            text = parse_note(self._note(c, over or size)).text
        self.put_line(size, signer.name, cosign(text, signer, SIGNED_AT_S))

    def put_line(self, size: int, witness: str, signature: Signature | str) -> None:
        """Keep a line as a witness's, whatever it is."""
        line = signature if isinstance(signature, str) else format_signatures([signature])
        with self.service.recorder.transaction() as c:
            self.service.log.add_cosignature(c, size, witness, line.rstrip("\n"))

    def _note(self, c: Cursor, size: int) -> bytes:
        note = self.service.log.checkpoint_at(c, size)
        assert note is not None
        return note

    def verified(self, policy: PolicyFile | None) -> Report:
        """Verify the database."""
        settings = self.service.settings
        database = settings.database_path or settings.database_url
        trusted = Trusted(policy=policy)
        return verify_stored(database, settings.checkpoint_path, trusted, lambda _d, _a: None)


@pytest.fixture
def cosigned(database_url: str, tmp_path: Path, clock: SetClock) -> Iterator[Cosigned]:
    """Such a ledger, which is checked as a whole in the end."""
    service = founded(tmp_path, clock, url=database_url)
    sizes = []
    for seed in range(3):
        happen(service, Drawing(Random(seed)), 5)
        sign_all(service)
        sizes.append(service.recorder.position)
    yield Cosigned(service, sizes)
    check_ledger(service)
    service.close()


def vouched(report: Report) -> tuple[int, Vouched | None]:
    """What a verification ended with, and who vouches."""
    return report.code, report.vouched


@on_each_store
def test_the_newest_checkpoint_whose_quorum_is_met_is_vouched_for(cosigned: Cosigned) -> None:
    """It says which witnesses cosigned it, and which did not; strangers count for nothing."""
    first, middle, last = cosigned.sizes
    cosigned.put(first, ANN)
    cosigned.put(first, BEN)
    cosigned.put(middle, BEN)
    cosigned.put(last, EVE)
    cosigned.put(last, AGAIN)  # another key of that name: not the one in the policy

    one = cosigned.verified(policy_of("any"))
    both = cosigned.verified(policy_of("all"))
    nobody = cosigned.verified(policy_of("none"))

    assert (FINE, Vouched(middle, ("ben",), ("ann",), quorum_met=True)) == vouched(one)
    assert (
        f"Witnesses that vouch for the first {middle} of {last} events: ben; not ann."
        in one.remarks
    )
    assert (FINE, Vouched(first, ("ann", "ben"), (), quorum_met=True)) == vouched(both)
    assert (FINE, Vouched(last, (), ("ann", "ben"), quorum_met=True)) == vouched(nobody)
    assert (FINE, None) == vouched(cosigned.verified(None))


@on_each_store
def test_a_quorum_that_is_met_nowhere_leaves_it_untold(cosigned: Cosigned) -> None:
    """Nothing is wrong with the record, and nobody vouches for it as the policy wants it."""
    first, _, last = cosigned.sizes
    cosigned.put(first, ANN)

    report = cosigned.verified(policy_of("all"))

    assert (COULD_NOT_TELL, Vouched(last, (), ("ann", "ben"), quorum_met=False)) == vouched(report)
    assert ["enough"] == [doubt.rsplit(" ", 1)[1].rstrip(".") for doubt in report.doubts]


@pytest.mark.parametrize("what", ["another checkpoint", "cut short", "no line"])
def test_a_cosignature_that_its_key_did_not_make_is_tampering(
    cosigned: Cosigned, what: str
) -> None:
    """Only verified ones are kept, so somebody edited it; without the policy nobody could know."""
    first, _, last = cosigned.sizes
    cosigned.put(last, BEN)
    if what == "another checkpoint":
        cosigned.put(last, ANN, over=first)
    elif what == "cut short":
        signature = cosign("a.example\n", ANN, SIGNED_AT_S)
        short = Signature(signature.name, signature.key_id, signature.payload[:-1])
        cosigned.put_line(last, ANN.name, short)
    else:
        cosigned.put_line(last, ANN.name, "— ann.example/w ====")

    report = cosigned.verified(policy_of("any"))

    assert TAMPERED == report.code
    assert [(Kind.CHECKPOINT, None, None)] == kinds(report)
    assert f"checkpoint of {last} events were edited" in report.findings[0].sentence
    assert report.vouched is not None
    assert ("ben",) == report.vouched.by
    assert FINE == cosigned.verified(None).code


def test_what_a_service_serves_is_vouched_for_by_the_cosignatures_in_it(
    cosigned: Cosigned,
) -> None:
    """A checkpoint over HTTP brings its own; one that was made up beside them is found."""
    last = cosigned.sizes[-1]
    cosigned.put(last, ANN)
    files = contents_of(cosigned.service)
    keys = tuple(each.key for each in cosigned.service.ledger.log_keys())
    trusted = Trusted(keys, policy=policy_of("any"))
    with served(files) as url:
        assert (FINE, Vouched(last, ("ann",), ("ben",), quorum_met=True)) == vouched(
            verify_service(url, trusted)
        )
    forged = format_signatures([cosign("a.example\n", BEN, SIGNED_AT_S)])
    with served({**files, "checkpoint": files["checkpoint"] + forged.encode()}) as url:
        assert TAMPERED == verify_service(url, trusted).code
