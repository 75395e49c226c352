"""What is shown of a sealed member: its box, that it was erased, or, when asked for, its text.

An event shows its box as it is stored. Once the key is destroyed there is nothing to open, and the
answer says so instead; the stored event stays as it was. A text is shown only to who asks with
``reveal=true``, after that is recorded.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from eventsourcing.persistence import Cursor
from fastapi import Query, Request
from pydantic import BaseModel, Field

from ledger.domain.values import DataKeyId, Sealed, Sha256, Uri
from ledger.service.http.route import author_of, service_of
from ledger.service.wiring import Service

Reveal = Annotated[
    Literal["true", "false"],
    Query(description="true shows sealed members in clear, and records that you were shown them."),
]


class Erased(BaseModel):
    """A sealed member whose key was destroyed, by the event at ``erased_by``."""

    key: DataKeyId
    erased: Literal[True]
    erased_by: int = Field(examples=[57])


class EvidenceView(BaseModel):
    """A piece of evidence; what is personal is sealed, erased, or shown because it was asked for.

    ``personal`` says which it is.
    """

    uri: Uri | Sealed | Erased
    sha256: Sha256 | Sealed | Erased
    personal: bool


def show_erased(service: Service, c: Cursor, shown: Any, *, known: int | None = None) -> Any:
    """Return what is shown, with a word about the erasure in place of each box without a key.

    Given the position ``known``, only of the erasures up to it: what was erased later is still
    shown as a box, which nobody can open.
    """
    if isinstance(shown, dict):
        if shown.keys() == Sealed.model_fields.keys():
            key = shown["key"]
            by = service.erasures.erased_by(c, [key])
            if not by or (known is not None and by[key] > known):
                return shown
            return {"key": key, "erased": True, "erased_by": by[key]}
        return {
            name: show_erased(service, c, member, known=known) for name, member in shown.items()
        }
    if isinstance(shown, list | tuple):
        return [show_erased(service, c, item, known=known) for item in shown]
    return shown


def with_sealed(service: Service, c: Cursor, item: dict[str, Any], member: str) -> dict[str, Any]:
    """Return an item with a sealed member of the event at its position, which lists leave out."""
    (recorded,) = service.recorder.at_positions([item["position"]])
    sealed = recorded.event.model_dump(include={member})[member]
    whole: dict[str, Any] = show_erased(service, c, {**item, member: sealed})
    return whole


def reveal_in(request: Request, position: int, shown: Any) -> None:
    """Put the texts that an event seals into what is shown of it, once that is recorded."""
    for path, text in service_of(request).ledger.disclose(position, by=author_of(request)).items():
        *way, last = path.split("/")
        place = shown
        for step in way:
            place = place[int(step) if isinstance(place, list) else step]
        place[last] = text
