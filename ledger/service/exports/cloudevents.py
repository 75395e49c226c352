"""One JSON array of CloudEvents 1.0 (``application/cloudevents-batch+json``).

``id`` is the position, which is unique in its ``source``, the log. ``data`` is the event as the API
shows it. Integers of CloudEvents have 32 bits, so ``sequence`` is a text that sorts as the number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import quote

import orjson

from ledger.service.exports.views import Row, View

SOURCE: Final = "urn:compliance-ledger:log:"
TYPE: Final = "compliance-ledger."
SEQUENCE_DIGITS: Final = 20  # as the extension of this name suggests


def write(_: View, pages: Iterable[list[Row]], origin: str) -> Iterator[bytes]:
    """Yield the array, the events of each page together."""
    source = SOURCE + quote(origin, safe="")
    before = b"[\n"
    for page in pages:
        events = [orjson.dumps(event_of(row, source)) for row in page]
        yield before + b",\n".join(events)
        before = b",\n"
    yield b"[]\n" if before[:1] == b"[" else b"\n]\n"


def event_of(row: Row, source: str) -> dict[str, object]:
    """Return an event of the trail as a CloudEvent."""
    event: dict[str, object] = {
        "specversion": "1.0",
        "id": str(row["position"]),
        "source": source,
        "type": f"{TYPE}{row['type']}.v{row['schema']}",
        "subject": row["stream"].removeprefix("subject/"),
        "time": row["recorded_at"],
        "datacontenttype": "application/json",
        "sequence": str(row["position"]).zfill(SEQUENCE_DIGITS),
        "authid": row["operator"],
    }
    if row["request_id"]:
        event["correlationid"] = row["request_id"]
    if row["caused_by"] is not None:
        event["causationid"] = str(row["caused_by"])
    event["data"] = row
    return event
