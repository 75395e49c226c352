"""The shapes of answers, for the OpenAPI document, and the parameters that lists share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Generic, TypeVar
from urllib.parse import urlencode

from fastapi import Depends, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from ledger.domain.errors import (
    Behind,
    Conflict,
    EventTooLarge,
    IdempotencyKeyReused,
    InvalidValue,
    LedgerError,
    LogNotVerified,
    NotFound,
    StorageFailed,
    StorageFull,
    StoreBusy,
    Unavailable,
    UnknownFact,
)
from ledger.domain.values import Instant, Subject
from ledger.service.http.problems import (
    BodyTooLarge,
    InvalidRequest,
    MalformedRequest,
    NotAllowed,
    NotAuthenticated,
    TooManyRequests,
    UnsupportedMediaType,
    responses,
)
from ledger.service.http.route import answer, service_of
from ledger.service.http.sealed import reveal_in
from ledger.service.wiring import Service

PAGE_MAX: Final = 1_000  # items of one page: about a megabyte
DIGITS_MAX: Final = 16  # of a position, which stays below 2^53
PAGE_DEFAULT: Final = 100  # items of a page when the request does not say

ItemT = TypeVar("ItemT")


def example(body: dict[str, Any]) -> ConfigDict:
    """Return the configuration of a request's model that shows a whole body in the document."""
    return ConfigDict(json_schema_extra={"examples": [body]})


class EventView(BaseModel):
    """An event. ``sentence`` is what a person reads."""

    position: int = Field(examples=[41])
    type: str = Field(examples=["subject.suspended"])
    schema_: int = Field(alias="schema", examples=[1])
    stream: str = Field(examples=["subject/user:alice"])
    version: int = Field(examples=[3])
    recorded_at: str = Field(examples=["2026-11-24T10:00:00.000000Z"])
    operator: str = Field(examples=["mod-tool"])
    on_behalf_of: str | None = Field(examples=["user:jane"])
    request_id: str | None
    caused_by: int | None
    data: dict[str, Any]
    sentence: str


class CommandAnswer(BaseModel):
    """What a command led to: the position of its event, the id of what it made, and the event."""

    position: int = Field(examples=[41])
    id: str = Field(examples=["sus_01k9qv4w4jbdph1z6cx3m0y7ra"])
    leaf_hash: str = Field(
        description="Base64 of what the transparency log commits to of the event.",
        examples=["nZ8dDRWIqR2vF0eKzPYzqg0OqfNDcNo3x5pKpLjxDxI="],
    )
    event: EventView


class KeyAnswer(CommandAnswer):
    """A command's answer with the key itself, which is shown only here."""

    key: str | None = Field(default=None, examples=["clk_…"])


class Page(BaseModel, Generic[ItemT]):
    """A page of a list: ``next`` is the cursor of the next page, null on the last."""

    model_config = ConfigDict(extra="allow")

    items: list[ItemT]
    next: str | None
    position: int = Field(description="The newest position that the answer takes into account.")


Item = dict[str, Any]
KeyedItem = tuple[str, Item]


BEHIND_THE_GATE: Final = (
    MalformedRequest,
    NotAuthenticated,
    NotAllowed,
    InvalidRequest,
    TooManyRequests,
    Unavailable,
    Behind,
)
"""What the gate before every route can answer by itself."""


# --- what routes can answer -----------------------------------------------------------------------


def command_responses(
    *errors: type[LedgerError],
    model: type[BaseModel] = CommandAnswer,
    may_hold: bool = False,
) -> dict[int | str, dict[str, Any]]:
    """Describe the answers of a command; ``may_hold``: the fact may hold already, without it."""
    held = {"model": model, "description": "Nothing was recorded: the fact held already."}
    return {
        **({200: held} if may_hold else {}),
        201: {"model": model, "description": "The fact is recorded."},
        **responses(
            *BEHIND_THE_GATE,
            BodyTooLarge,
            UnsupportedMediaType,
            InvalidValue,
            EventTooLarge,
            IdempotencyKeyReused,
            *errors,
            Conflict,
            StoreBusy,
            StorageFull,
            StorageFailed,
            UnknownFact,
            LogNotVerified,
        ),
    }


def read_responses(
    model: type[BaseModel], *errors: type[LedgerError]
) -> dict[int | str, dict[str, Any]]:
    """Describe the answers of a read."""
    return {
        200: {"model": model, "description": "The answer, and the position it is a function of."},
        **responses(*BEHIND_THE_GATE, InvalidValue, *errors),
    }


# --- parameters -----------------------------------------------------------------------------------

SubjectKey = Annotated[
    str, Query(description="A subject as type:id.", examples=["user:alice"], max_length=400)
]
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX, description="Items of a page.")]
Cursor = Annotated[str | None, Query(description="The `next` of the page before.", max_length=400)]
Order = Annotated[
    str, Query(pattern="^(newest|oldest)$", description="newest first, or oldest first")
]
At = Annotated[
    Instant | None, Query(description="What was in force at this instant; now when absent.")
]
KnownAt = Annotated[
    Instant | None, Query(description="As the ledger knew it at this instant; now when absent.")
]
KnownPosition = Annotated[
    int | None, Query(ge=0, le=2**53, description="As the ledger knew it at this position.")
]
From = Annotated[
    Instant | None, Query(alias="from", description="Recorded at this instant or later.")
]
To = Annotated[Instant | None, Query(description="Recorded before this instant.")]
OfSubject = Annotated[
    str | None,
    Query(max_length=400, description="Of this subject, as type:id.", examples=["user:alice"]),
]
OfPolicy = Annotated[
    str | None,
    Query(
        max_length=100,
        description="Of this policy, or of this version of one.",
        examples=["acceptable-use", "acceptable-use@1"],
    ),
]
OfCategory = Annotated[
    str | None, Query(max_length=100, description="Of clauses of this category.")
]
OfResource = Annotated[
    str | None,
    Query(
        max_length=400,
        description="Of this model, by its id, or of any resource, as type:id.",
        examples=["atlas-3", "model:atlas-3"],
    ),
]
OfClause = Annotated[str | None, Query(max_length=100, description="Of this clause.")]
OfSuspension = Annotated[str | None, Query(max_length=256, description="Of this suspension.")]
OnBehalfOf = Annotated[str | None, Query(max_length=400, description="For this human, as type:id.")]
ByOperator = Annotated[str | None, Query(max_length=256, description="By this operator.")]
IdPath = Annotated[str, Path(description="The id, as answers name it.")]


def subject_of(raw: str, *, parameter: str = "subject") -> Subject:
    """Return the subject that a parameter names; raises ``InvalidValue``, naming the parameter."""
    try:
        return Subject.parse(raw)
    except InvalidValue as error:
        raise InvalidValue(str(error), field=parameter) from None


def subject_key(raw: str | None, *, parameter: str = "subject") -> str | None:
    """Return a subject filter in its checked form; raises ``InvalidValue``."""
    return None if raw is None else subject_of(raw, parameter=parameter).key


def model_key(model: str | None, *, parameter: str = "model") -> str | None:
    """Return the resource key that a ``model`` filter means: ``atlas-3`` is ``model:atlas-3``."""
    if model is None:
        return None
    return subject_key(model if ":" in model else f"model:{model}", parameter=parameter)


def common_filters(
    subject: OfSubject = None,
    operator: ByOperator = None,
    recorded_from: From = None,
    to: To = None,
) -> dict[str, Any]:
    """Read the filters that every list of facts has, as keywords of the projections' queries."""
    return {
        "subject": subject_key(subject),
        "operator": operator,
        "recorded_from": recorded_from,
        "recorded_to": to,
    }


CommonFilters = Annotated[dict[str, Any], Depends(common_filters)]


@dataclass(frozen=True, slots=True)
class Times:
    """The two times of a question: what was in force at ``at``, as known at ``position``."""

    at: datetime
    position: int


@dataclass(frozen=True, slots=True)
class TimeTravel:
    """The parameters from which ``Times`` are made, against a snapshot's newest position."""

    at: datetime | None
    known_at: datetime | None
    known_position: int | None

    def resolve(self, service: Service, head: int) -> Times:
        """Return the two times; raises ``InvalidValue`` when ``known`` is given twice."""
        if self.known_at is not None and self.known_position is not None:
            raise InvalidValue("give known_at or known_position, not both", field="known_at")
        position = head
        if self.known_position is not None:
            position = min(self.known_position, head)
        elif self.known_at is not None:
            position = service.recorder.position_at(self.known_at)
        return Times(self.at or service.now(), position)


def time_travel(
    at: At = None, known_at: KnownAt = None, known_position: KnownPosition = None
) -> TimeTravel:
    """Read the parameters of time travel."""
    return TimeTravel(at, known_at, known_position)


Travel = Annotated[TimeTravel, Depends(time_travel)]


@dataclass(frozen=True, slots=True)
class Paging:
    """Which page of a list is asked for; ``after`` is the position that ended the page before."""

    limit: int
    after: int | None
    oldest_first: bool


def paging(limit: Limit = PAGE_DEFAULT, cursor: Cursor = None, order: Order = "newest") -> Paging:
    """Read the parameters of a page; raises ``InvalidValue`` for a cursor that is none of ours."""
    if cursor is not None and not (
        cursor.isascii() and cursor.isdigit() and len(cursor) <= DIGITS_MAX
    ):
        raise InvalidValue("cursor must be the next of an earlier page", field="cursor")
    return Paging(limit, None if cursor is None else int(cursor), order == "oldest")


PageAsked = Annotated[Paging, Depends(paging)]


@dataclass(frozen=True, slots=True)
class PagingByKey:
    """Which page of a list in the order of its keys; ``after`` is the key that ended the last."""

    limit: int
    after: str


def paging_by_key(limit: Limit = PAGE_DEFAULT, cursor: Cursor = None) -> PagingByKey:
    """Read the parameters of a page. A key is any text, so every cursor is near some key."""
    if cursor == "":
        raise InvalidValue("cursor must be the next of an earlier page", field="cursor")
    return PagingByKey(limit, cursor or "")


PageByKeyAsked = Annotated[PagingByKey, Depends(paging_by_key)]


def page(
    request: Request,
    asked: Paging,
    travel: TimeTravel,
    find: Callable[..., list[Item]],
    **filters: Any,
) -> Response:
    """Answer one page of a list that is ordered by position.

    ``find`` is called with a database cursor, the two times, and as keywords the page asked for and
    the filters; one item more than the page holds is asked for, to know whether another follows.
    """
    service = service_of(request)
    with service.reading() as (c, head):
        times = travel.resolve(service, head)
        items = find(
            c,
            times,
            position=times.position,
            limit=asked.limit + 1,
            cursor_position=asked.after,
            oldest_first=asked.oldest_first,
            **filters,
        )
    following = None
    if len(items) > asked.limit:
        items = items[: asked.limit]
        following = str(items[-1]["position"])
    return listed(request, items, following, times.position)


def page_by_key(
    request: Request, asked: PagingByKey, found: Iterable[KeyedItem], position: int
) -> Response:
    """Answer one page of a list in the order of its keys; what comes before it is passed over."""
    rest = [keyed for keyed in found if keyed[0] > asked.after]
    shown = rest[: asked.limit]
    following = shown[-1][0] if len(rest) > len(shown) else None
    return listed(request, [item for _, item in shown], following, position)


def listed(request: Request, items: list[Item], following: str | None, position: int) -> Response:
    """Answer a page, with a ``Link`` to the next (RFC 8288)."""
    headers: Mapping[str, str] = {}
    if following is not None:
        query = [(k, v) for k, v in request.query_params.multi_items() if k != "cursor"]
        target = f"{request.url.path}?{urlencode([*query, ('cursor', following)])}"
        headers = {"Link": f'<{target}>; rel="next"'}
    body = {"items": items, "next": following, "position": position}
    return answer(body, position=position, headers=headers)


def one(
    request: Request,
    travel: TimeTravel,
    id_: str,
    find: Callable[[Any, Times], list[Item]],
    *,
    reveal: bool = False,
) -> Response:
    """Answer the one item that ``find`` returns; raises ``NotFound``.

    ``reveal`` shows what is sealed in the event at the item's position, and records that it did.
    """
    service = service_of(request)
    with service.reading() as (c, head):
        times = travel.resolve(service, head)
        found = find(c, times)
    if not found:
        raise NotFound(f"nothing is recorded under the id {id_!r}")
    if reveal:
        reveal_in(request, found[0]["position"], found[0])
    return answer(found[0], position=times.position)
