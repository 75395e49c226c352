"""What the pages of suspensions, violations, warnings and reinstatements share with each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from eventsourcing.persistence import Cursor

from ledger.domain.values import Role, Sealed
from ledger.service.console.frame import Listed
from ledger.service.http.shapes import Paging, PagingByKey, Times
from ledger.service.wiring import Service
from ledger.store.codec import as_json
from projections.operators import Caller

ABOUT_SHOWN_MAX: Final = 20  # events on the page of one thing; the trail shows the rest
RESTING_SHOWN_MAX: Final = 100  # decisions that rest on one violation; more would be a mistake


def within(asked: Paging, times: Times) -> dict[str, Any]:
    """Return which page is asked for, as keywords of the projections' queries.

    One item more than the page holds is asked for, to know whether another page follows.
    """
    return {
        "position": times.position,
        "limit": asked.limit + 1,
        "cursor_position": asked.after,
        "oldest_first": asked.oldest_first,
    }


def paged_by_key(asked: PagingByKey, found: Sequence[tuple[str, Any]]) -> Listed:
    """Return a page of a list in the order of its keys."""
    rest = [keyed for keyed in found if keyed[0] > asked.after]
    shown = rest[: asked.limit]
    following = shown[-1][0] if len(rest) > len(shown) else None
    return Listed([item for _, item in shown], following)


def is_sealed(shown: object) -> bool:
    """Tell whether a box is in what is shown that could be opened for whoever asks."""
    if isinstance(shown, dict):
        return shown.keys() == Sealed.model_fields.keys() or any(map(is_sealed, shown.values()))
    return isinstance(shown, list | tuple) and any(map(is_sealed, shown))


def with_human(service: Service, item: Mapping[str, Any]) -> dict[str, Any]:
    """Return an item with the human on whose behalf it was recorded, whom lists leave out."""
    (recorded,) = service.recorder.at_positions([item["position"]])
    return {**item, "on_behalf_of": recorded.author.on_behalf_of}


def events_about(
    service: Service, c: Cursor, caller: Caller, id_: str, times: Times
) -> list[dict[str, Any]] | None:
    """Return the events that made a thing, changed it or name it; ``None`` for other roles.

    Only auditors read the trail.
    """
    if caller.role is not Role.AUDITOR:
        return None
    positions = service.trail.events(
        c,
        position=times.position,
        limit=ABOUT_SHOWN_MAX,
        oldest_first=True,
        q=id_,
    )
    return [as_json(recorded) for recorded in service.recorder.at_positions(positions)]
