"""The bytes of every event that was ever written can be read for ever, and mean what they meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from ledger.domain.events import EVENT_TYPES, Draft, Recorded
from ledger.store.codec import as_json, decode, encode, parse_recorded_at, stored_as_json
from tests.golden.make import EXAMPLES, FOLDER, add_missing, file_name

GOLDEN = sorted(FOLDER.glob("*.json"))


def read(path: Path) -> tuple[bytes, Recorded]:
    """Return the stored bytes that a golden file keeps, and the fact that they decode to."""
    kept: dict[str, Any] = orjson.loads(path.read_bytes())
    state = kept["state"].encode()
    recorded = decode(
        kept["position"],
        kept["stream"],
        kept["version"],
        kept["type"],
        parse_recorded_at(kept["recorded_at"]),
        state,
    )
    return state, recorded


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_kept_bytes_decode_and_encode_to_the_same_bytes(path: Path) -> None:
    """What was stored is read, and written again byte for byte; nothing is lost or added."""
    state, recorded = read(path)

    assert state == encode(Draft(recorded.event, recorded.author, recorded.caused_by))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_kept_bytes_are_canonical(path: Path) -> None:
    """Names are sorted and there is no white space: one fact has one form."""
    state, _ = read(path)

    assert state == orjson.dumps(orjson.loads(state), option=orjson.OPT_SORT_KEYS)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_kept_fact_belongs_to_its_stream_and_can_be_told(path: Path) -> None:
    """A fact of any version knows its stream and has a sentence for people."""
    _, recorded = read(path)

    assert recorded.stream == recorded.event.stream
    assert path.name == file_name(type(recorded.event))
    assert recorded.event.sentence().strip()
    assert recorded.sentence.startswith(recorded.author.operator)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_kept_bytes_are_shown_as_the_fact_is(path: Path) -> None:
    """What is made of the bytes alone says the same as what is made of the decoded fact."""
    kept = orjson.loads(path.read_bytes())
    place = (kept["position"], kept["stream"], kept["version"], kept["type"], kept["recorded_at"])
    state, recorded = read(path)

    shown = orjson.dumps(as_json(recorded), option=orjson.OPT_SORT_KEYS)
    assert shown == orjson.dumps(stored_as_json(*place, state), option=orjson.OPT_SORT_KEYS)


def test_every_type_and_version_is_kept() -> None:
    """No event is written before its bytes are kept here; ``make golden`` keeps them."""
    assert sorted(map(file_name, EVENT_TYPES.values())) == [path.name for path in GOLDEN]
    assert set(EVENT_TYPES.values()) == {type(draft.event) for draft in EXAMPLES}


def test_making_golden_files_adds_what_is_missing(tmp_path: Path) -> None:
    """The first run keeps every example; what is there already is none of its business."""
    made = add_missing(tmp_path)

    assert {path.name for path in GOLDEN} == {path.name for path in made}
    assert [] == add_missing(tmp_path)


def test_making_golden_files_never_overwrites_one(tmp_path: Path) -> None:
    """A file that is there stays as it is, even where its bytes are not those of today."""
    kept = tmp_path / file_name(type(EXAMPLES[0].event))
    kept.write_bytes(b"older bytes")

    made = add_missing(tmp_path)

    assert b"older bytes" == kept.read_bytes()
    assert kept not in made
    assert len(EXAMPLES) - 1 == len(made)
