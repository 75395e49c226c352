"""For gateways that answer checks in their own process: a snapshot, then every change.

Both carry what the access index needs and nothing else: no details, notes, evidence or operators.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
from fastapi import Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel
from starlette.background import BackgroundTask

from ledger.domain.errors import Behind
from ledger.domain.events import SubjectEvent
from ledger.domain.values import Role, format_instant
from ledger.service.feed import MIN_POSITION_WAIT_S, Feed
from ledger.service.http.route import (
    allow,
    answer,
    bearer_key,
    caller_of,
    router,
    service_of,
)
from ledger.service.http.shapes import read_responses
from ledger.service.wiring import Service
from projections.access import CHANGES_ANSWERS, snapshot

routes = router("access")

CHANGES_MAX: Final = 1_000  # events of one answer
WAIT_MAX_S: Final = 20.0  # shorter than the patience of common proxies


class Changes(BaseModel):
    """What changed after a position, up to ``position``; ``known`` are subjects seen meanwhile."""

    position: int
    recorded_at: str
    events: list[dict[str, Any]]
    known: list[str]


@routes.get(
    "/v1/access/snapshot",
    summary="Everything that checks are answered from",
    openapi_extra=allow(Role.SERVICE),
    responses={
        **read_responses(Changes),
        200: {
            "description": "Lines of JSON arrays, a kind and its columns; the last is `ledger`.",
            "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
        },
    },
    response_class=Response,
)
async def access_snapshot(request: Request) -> Response:
    """Return the records that an access index is filled from, as of one position."""
    service = service_of(request)
    path, position = await run_in_threadpool(_write_snapshot, service)
    return FileResponse(
        path,
        media_type="application/x-ndjson",
        headers={"Ledger-Position": str(position), "Cache-Control": "no-store"},
        background=BackgroundTask(path.unlink),
    )


def _write_snapshot(service: Service) -> tuple[Path, int]:
    """Write the snapshot to a file, so that a slow reader holds no transaction open."""
    with (
        tempfile.NamedTemporaryFile("wb", prefix="ledger-snapshot-", delete=False) as file,
        service.recorder.store.transaction(commit=False) as c,
    ):
        c.execute("SELECT position, recorded_at FROM events ORDER BY position DESC LIMIT 1")
        position, recorded_at = c.fetchone()
        unknown = service.index.unknown
        for record in snapshot(c, position=position, recorded_at=recorded_at, unknown=unknown):
            file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
    return Path(file.name), position


@routes.get(
    "/v1/access/changes",
    summary="What changed after a position",
    openapi_extra=allow(Role.SERVICE),
    responses=read_responses(Changes),
)
async def access_changes(
    request: Request,
    after: Annotated[int, Query(ge=0, le=2**53, description="The position known so far.")],
    wait: Annotated[float, Query(ge=0, le=WAIT_MAX_S, description="For so many seconds.")] = 0.0,
) -> Response:
    """Return the events after a position that can change an answer; wait for the first when asked.

    Ask again with the ``position`` of the answer.
    """
    service = service_of(request)
    if wait:
        await _first(_news(service.feed, after, wait), _gone(request))
        caller_of(service_of(request), bearer_key(request))  # it may be revoked meanwhile
    body = await run_in_threadpool(_changes, service, after)
    return answer(body, position=body["position"], headers={"Cache-Control": "no-store"})


async def _news(feed: Feed, after: int, wait: float) -> None:
    with contextlib.suppress(Behind):  # that nothing changed is an answer too
        # First for what was seen elsewhere: that the ledger went back is to be told soon.
        await feed.wait_for(after, timeout_s=min(wait, MIN_POSITION_WAIT_S))
        await feed.wait_for(after + 1, timeout_s=wait)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _first(*waiting: Coroutine[Any, Any, None]) -> None:
    """Return when one of these has ended; the others are given up."""
    tasks = [asyncio.ensure_future(one) for one in waiting]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def _changes(service: Service, after: int) -> dict[str, Any]:
    events: list[dict[str, Any]] = []
    known: dict[str, None] = {}
    with service.reading(newest=True) as (_, head):
        position = min(head, after)
        newest = service.recorder.event(position) if position else None
        for recorded in service.recorder.events(after=after, until=after + CHANGES_MAX):
            position, newest = recorded.position, recorded
            event = recorded.event
            if isinstance(event, SubjectEvent) and service.index.unknown == "deny_unknown":
                known[event.subject.key] = None
            if event.TYPE in CHANGES_ANSWERS:
                events.append(
                    {
                        "position": recorded.position,
                        "type": event.TYPE,
                        "schema": event.SCHEMA,
                        "stream": recorded.stream,
                        "version": recorded.version,
                        "recorded_at": format_instant(recorded.recorded_at),
                        "data": event.model_dump(by_alias=True, exclude={"note", "details"}),
                    }
                )
    at = newest.recorded_at if newest else service.now()
    return {
        "position": position,
        "recorded_at": format_instant(at),
        "events": events,
        "known": list(known),
    }
