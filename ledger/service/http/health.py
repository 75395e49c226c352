"""Is the process alive, and is it fit to answer?"""

from __future__ import annotations

from typing import Any, Literal

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from ledger.domain.errors import (
    LedgerError,
    LogNotVerified,
    StorageFailed,
    StorageFull,
    Unavailable,
)
from ledger.domain.values import from_microseconds
from ledger.service.http.problems import NotAllowed, NotAuthenticated, TooManyRequests, responses
from ledger.service.http.route import answer, router, service_of
from ledger.service.http.shapes import BEHIND_THE_GATE
from ledger.service.witnesses import State

routes = router("health")
KEY_PROBLEMS = (NotAuthenticated, NotAllowed, TooManyRequests)


class Alive(BaseModel):
    """The process answers."""

    status: Literal["alive"]


class WitnessStanding(BaseModel):
    """How one of our witnesses stands."""

    name: str = Field(description="Its name in our policy file.")
    state: State = Field(description="Whether it cosigns; if not, what it does instead.")
    detail: str | None = Field(description="What is wrong; null when nothing is.")
    cosigned_size: int = Field(description="The largest of our checkpoints that it cosigned.")
    behind: int = Field(description="How many events our newest checkpoint has more.")


class Ready(BaseModel):
    """The process is fit to answer."""

    status: Literal["ready"]
    position: int = Field(description="The newest position that this process has applied.")
    lag: int = Field(description="How many newer positions the store holds.")
    restricted_subjects: int = Field(description="Subjects with a suspension that can refuse.")
    clock_behind_s: float = Field(
        description="How far the clock is before the newest fact, in seconds; 0 when it is not."
    )
    log: Literal["checking", "verified"] = Field(
        description="Whether this process has recomputed the whole transparency log yet."
    )
    checkpoint: int = Field(description="How many events the newest published checkpoint covers.")
    decisions_dropped: int = Field(
        description="Decisions that the decision log had no room for since this process started."
    )
    vault_keys_lost: int = Field(
        description="Keys that the vault lacked at the start though no erasure destroyed them: "
        "what they seal cannot be read."
    )
    witnesses: list[WitnessStanding] = Field(description="Who else watches our checkpoints.")


def _answers(model: type[BaseModel], *errors: type[LedgerError]) -> dict[int | str, dict[str, Any]]:
    """Describe the answers of a route that anybody may use."""
    open_to_all = [kind for kind in BEHIND_THE_GATE if kind not in KEY_PROBLEMS]
    return {200: {"model": model}, **responses(*open_to_all, *errors)}


@routes.get("/livez", summary="Is the process alive?", responses=_answers(Alive))
async def livez(request: Request) -> Response:
    """Answer as long as the process can answer anything."""
    return answer({"status": "alive"}, position=service_of(request).feed.position)


@routes.get(
    "/readyz",
    summary="Is the process fit to answer?",
    responses=_answers(Ready, LogNotVerified, StorageFull, StorageFailed),
)
def readyz(request: Request) -> Response:
    """Answer with the position applied, how far that is behind the store, and the clock's state.

    503 when this process stopped following the store: its checks would be stale. Also when the log
    is not verified: nothing is recorded then, and checks are answered with a mark. And when it was
    told to stop: it answers what still comes, and wants no more. Also, or 507, when the disk
    refused the last write and refuses one now.
    """
    service = service_of(request)
    if request.app.state.drain.begun:
        raise Unavailable("this process is about to end")
    service.feed.require_current()
    service.signer.require_verified()
    service.recorder.store.require_writable()
    with service.reading(newest=True) as (c, head):
        behind_s = (from_microseconds(service.index.recorded_at) - service.clock()).total_seconds()
        body = {
            "status": "ready",
            "position": service.feed.position,
            "lag": max(0, head - service.feed.position),
            "restricted_subjects": service.index.subjects,
            "clock_behind_s": max(0.0, behind_s),
            "log": service.signer.state,
            "checkpoint": service.signer.published[0],
            "decisions_dropped": service.decision_log.dropped if service.decision_log else 0,
            "vault_keys_lost": request.app.state.vault_keys_lost,
            "witnesses": service.witnesses.standings(c),
        }
    return answer(body, position=service.feed.position)
