"""Events to canonical bytes and back, on the mapper of the ``eventsourcing`` library.

The stored state of an event is JSON with sorted names and no white space, in UTF-8: its ``data``,
its ``schema`` version, and who acted (``operator``, ``on_behalf_of``, ``request_id``,
``caused_by``).
Position, stream, version, type and ``recorded_at`` stand beside it. The library's own mapper stores
module paths and imports what it reads; ours has a closed registry of stable types instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import orjson
from eventsourcing.persistence import JSONTranscoder, Mapper, Notification, StoredEvent
from pydantic import ValidationError

from ledger.domain.errors import EventTooLarge, TamperDetected, UnknownFact
from ledger.domain.events import EVENT_TYPES, Author, Draft, Recorded
from ledger.domain.values import EVENT_BYTES_MAX, Unsealed, format_instant

_ENVELOPE: Final = {"schema", "operator", "on_behalf_of", "request_id", "caused_by", "data"}
_ENVELOPE_COLUMNS_MAX: Final = 700  # bytes of stream, type, version, position, recorded_at at most


@dataclass(frozen=True)
class RecordedNotification(Notification):
    """A stored event with its position (``id``) and the instant at which it was recorded."""

    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class Placed:
    """A draft with its place in its stream, not yet in the ledger."""

    stream: str
    version: int
    draft: Draft


class LedgerMapper(Mapper[str]):
    """Maps a ``Placed`` draft to a stored event, and a stored event to a ``Recorded``."""

    def __init__(self) -> None:
        super().__init__(transcoder=JSONTranscoder())

    def to_stored_event(self, domain_event: Any) -> StoredEvent:
        """Encode a ``Placed`` draft. Raises ``EventTooLarge``."""
        placed: Placed = domain_event
        state = encode(placed.draft)
        size = len(state) + _ENVELOPE_COLUMNS_MAX
        if size > EVENT_BYTES_MAX:
            raise EventTooLarge(
                f"the fact takes {len(state)} bytes; with its envelope at most "
                f"{EVENT_BYTES_MAX} are allowed"
            )
        return StoredEvent(placed.stream, placed.version, placed.draft.event.TYPE, state)

    def to_domain_event(self, stored_event: StoredEvent) -> Recorded:  # type: ignore[override]
        """Decode a ``RecordedNotification``. Raises ``UnknownFact``, ``TamperDetected``."""
        if not isinstance(stored_event, RecordedNotification):
            raise TypeError("only events with a position can be decoded")
        return decode(
            stored_event.id,
            _text(stored_event.originator_id),
            stored_event.originator_version,
            stored_event.topic,
            stored_event.recorded_at,
            stored_event.state,
        )


def _text(originator_id: UUID | str) -> str:
    return originator_id.hex if isinstance(originator_id, UUID) else originator_id


def encode(draft: Draft) -> bytes:
    """Return the canonical bytes of a draft; the same draft gives the same bytes, always.

    A text that must be sealed and is not is a fault of ours, and is never written.
    """
    if any(isinstance(one, Unsealed) for _, one in draft.event.sealed_fields()):
        raise TypeError("a text that is not sealed is never written down")
    return orjson.dumps(
        {
            "schema": draft.event.SCHEMA,
            "operator": draft.author.operator,
            "on_behalf_of": draft.author.on_behalf_of,
            "request_id": draft.author.request_id,
            "caused_by": draft.caused_by,
            "data": draft.event.model_dump(by_alias=True),
        },
        option=orjson.OPT_SORT_KEYS,
    )


def decode(
    position: int, stream: str, version: int, type_: str, recorded_at: datetime, state: bytes
) -> Recorded:
    """Return the fact that stored columns and bytes hold.

    Raises ``UnknownFact`` for a type or schema version that this program does not know, and
    ``TamperDetected`` for bytes that no version of it can have written.
    """
    return _decoded(position, stream, version, type_, recorded_at, state)[0]


def _decoded(
    position: int, stream: str, version: int, type_: str, recorded_at: datetime, state: bytes
) -> tuple[Recorded, dict[str, Any]]:
    """Return the fact, and its data as it is stored."""
    try:
        envelope = _envelope(state)
        event_type = EVENT_TYPES.get((type_, envelope["schema"]))
        if event_type is None:
            raise UnknownFact(
                f"event {position} is a {type_} of schema {envelope['schema']}, "
                "which this version does not know",
                position=position,
            )
        author = Author(envelope["operator"], envelope["on_behalf_of"], envelope["request_id"])
        event = event_type.model_validate(envelope["data"])
        if event.stream != stream:
            raise ValueError(f"it is a fact of {event.stream}, not of {stream}")  # noqa: TRY301
    except (ValidationError, ValueError, TypeError, KeyError) as error:
        raise TamperDetected(
            f"event {position} ({type_}) cannot be read: {error}", position=position
        ) from error
    caused_by = envelope["caused_by"]
    recorded = Recorded(position, stream, version, recorded_at, author, caused_by, event)
    return recorded, envelope["data"]


def _envelope(state: bytes) -> dict[str, Any]:
    envelope = orjson.loads(state)
    if not isinstance(envelope, dict) or set(envelope) != _ENVELOPE:
        raise ValueError("the envelope has other members")
    return envelope


def parse_recorded_at(text: str, position: int | None = None) -> datetime:
    """Read the ``recorded_at`` column. Raises ``TamperDetected`` for another form than ours."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        raise TamperDetected(
            f"event {position} was recorded at {text!r}, which is no instant", position=position
        ) from None


def as_json(recorded: Recorded) -> dict[str, object]:
    """Return the event as the API shows it, in lists and alone."""
    at = format_instant(recorded.recorded_at)
    return _shown(recorded, at, recorded.event.model_dump(by_alias=True))


def stored_as_json(
    position: int, stream: str, version: int, type_: str, recorded_at: str, state: bytes
) -> dict[str, object]:
    """Return what ``as_json`` does of stored columns and bytes, in two thirds of the time.

    The members of its data are in the order in which they are stored. Raises as ``decode`` does.
    """
    at = parse_recorded_at(recorded_at, position)
    recorded, data = _decoded(position, stream, version, type_, at, state)
    return _shown(recorded, recorded_at, data)


def _shown(recorded: Recorded, recorded_at: str, data: dict[str, Any]) -> dict[str, object]:
    return {
        "position": recorded.position,
        "type": recorded.type,
        "schema": recorded.event.SCHEMA,
        "stream": recorded.stream,
        "version": recorded.version,
        "recorded_at": recorded_at,
        "operator": recorded.author.operator,
        "on_behalf_of": recorded.author.on_behalf_of,
        "request_id": recorded.author.request_id,
        "caused_by": recorded.caused_by,
        "data": data,
        "sentence": recorded.sentence,
    }
