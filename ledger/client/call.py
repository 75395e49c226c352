"""What is a method of the client? A request that is described once, and can be sent in two ways.

A method says its route, what that answers, and which parts its arguments become. ``Client`` sends
what is described and returns the answer; ``AsyncClient`` returns what is to be awaited. The
descriptors here give the method the right type on each, so nothing is written twice.
"""

from __future__ import annotations

import functools
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Concatenate, Final, Generic, ParamSpec, Self, TypeVar, overload
from urllib.parse import quote

import httpx
from pydantic import BaseModel
from pydantic_core import to_json

from ledger.client.answers import Page, Recorded
from ledger.domain.values import Subject, format_instant, parse_instant

P = ParamSpec("P")
T = TypeVar("T")
RecordedT = TypeVar("RecordedT", bound=Recorded)
ItemT = TypeVar("ItemT", bound=BaseModel)

JSON: Final = "application/json"
SubjectLike = Subject | str
"""A subject or resource, or its ``type:id``."""
When = datetime | str
"""An instant with an offset from UTC, or its RFC 3339 text."""

NAMES_OF_PARAMETERS: Final[Mapping[str, str]] = {
    "recorded_from": "from",
    "recorded_to": "to",
    "types": "type",
    "page_size": "limit",
    "from_": "from",
}
"""Parameters whose names are none in Python, or would say too little there."""


# --- parts of a request ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Parts:
    """What a method's arguments become: members of the path, parameters, and the body."""

    path: Mapping[str, object] = field(default_factory=dict)
    query: Sequence[tuple[str, str]] = ()
    body: object = None


def text_of(value: object) -> str:
    """Return a value as a parameter is written."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return format_instant(parse_instant(value))
    return value.key if isinstance(value, Subject) else str(value)


def query_of(asked: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return the parameters of a request; what is ``None`` is left out."""
    return [
        (NAMES_OF_PARAMETERS.get(name, name), text_of(one))
        for name, value in asked.items()
        if value is not None
        for one in (value if isinstance(value, list | tuple) else (value,))
    ]


def subject_of(subject: SubjectLike) -> dict[str, str]:
    """Return a subject or resource as a body names it; raises ``InvalidValue``."""
    found = subject if isinstance(subject, Subject) else Subject.parse(subject)
    return {"type": found.type, "id": found.id}


def body_of(**members: object) -> dict[str, object]:
    """Return a body; what is ``None`` is left out, and an instant has an offset."""
    return {
        name: format_instant(parse_instant(value)) if isinstance(value, datetime) else value
        for name, value in members.items()
        if value is not None
    }


# --- calls ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A described request, and how its answer is read."""

    method: str
    path: str
    query: Sequence[tuple[str, str]]
    content: bytes | None
    media_type: str
    read: Callable[[httpx.Response], T]
    wrote: Callable[[T], int] | None = None
    """The newest position that the answer to a command names; ``None`` for reads and checks."""
    keyed: bool = False
    """Whether it takes an idempotency key."""
    waits: bool = True
    """Whether it answers no older than the client's position."""


@dataclass(frozen=True, slots=True)
class Paged(Generic[T]):
    """A page of a list that is described, and which follows the answered one."""

    call: Call[Page[T]]
    following: Callable[[Page[T]], Paged[T] | None]


class Runner:
    """Sends calls, and waits for their answers."""

    def run(self, call: Call[T]) -> T:
        """Send a call; return its answer."""
        raise NotImplementedError


class AsyncRunner:
    """Sends calls, and lets others run until they are answered."""

    async def run(self, call: Call[T]) -> T:
        """Send a call; return its answer."""
        raise NotImplementedError


class Listing(Generic[T]):
    """The items of a list, page after page as they are wanted."""

    def __init__(self, runner: Runner, first: Paged[T]) -> None:
        self._runner = runner
        self._first = first

    def pages(self) -> Iterator[Page[T]]:
        """Yield each page, with the position that it takes into account."""
        asked: Paged[T] | None = self._first
        while asked is not None:
            page = self._runner.run(asked.call)
            yield page
            asked = asked.following(page)

    def __iter__(self) -> Iterator[T]:
        for page in self.pages():
            yield from page.items


class AsyncListing(Generic[T]):
    """The items of a list, page after page as they are wanted."""

    def __init__(self, runner: AsyncRunner, first: Paged[T]) -> None:
        self._runner = runner
        self._first = first

    async def pages(self) -> AsyncIterator[Page[T]]:
        """Yield each page, with the position that it takes into account."""
        asked: Paged[T] | None = self._first
        while asked is not None:
            page = await self._runner.run(asked.call)
            yield page
            asked = asked.following(page)

    async def __aiter__(self) -> AsyncIterator[T]:
        async for page in self.pages():
            for item in page.items:
                yield item


# --- methods --------------------------------------------------------------------------------------


class Method(Generic[P, T]):
    """A method that sends one request."""

    def __init__(
        self, route: str, describe: Callable[Concatenate[Any, P], Parts], **told: Any
    ) -> None:
        self.route = route
        self._describe = describe
        self._told = told
        self.__doc__, self.__wrapped__ = describe.__doc__, describe

    def call(self, *arguments: P.args, **named: P.kwargs) -> Call[T]:
        """Return what a call with these arguments sends."""
        return described(self.route, self._describe(None, *arguments, **named), **self._told)

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Runner, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(
        self, instance: AsyncRunner, owner: type
    ) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, instance: Runner | AsyncRunner | None, owner: type) -> Any:
        """Return the method of a client, which sends; of the class, what it describes."""
        if instance is None:
            return self
        runner = instance

        @functools.wraps(self._describe)
        def method(*arguments: P.args, **named: P.kwargs) -> Any:
            return runner.run(self.call(*arguments, **named))

        return method


class ListMethod(Generic[P, T]):
    """A method that sends a request for each page of a list."""

    def __init__(
        self,
        route: str,
        describe: Callable[Concatenate[Any, P], Parts],
        paged: Callable[[str, Parts], Paged[T]],
    ) -> None:
        self.route = route
        self._describe = describe
        self._paged = paged
        self.__doc__, self.__wrapped__ = describe.__doc__, describe

    def first(self, *arguments: P.args, **named: P.kwargs) -> Paged[T]:
        """Return what is sent for the first page."""
        return self._paged(self.route, self._describe(None, *arguments, **named))

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Runner, owner: type) -> Callable[P, Listing[T]]: ...
    @overload
    def __get__(self, instance: AsyncRunner, owner: type) -> Callable[P, AsyncListing[T]]: ...
    def __get__(self, instance: Runner | AsyncRunner | None, owner: type) -> Any:
        """Return the method of a client, which lists; of the class, what it describes."""
        if instance is None:
            return self
        runner = instance

        @functools.wraps(self._describe)
        def method(*arguments: P.args, **named: P.kwargs) -> Any:
            first = self.first(*arguments, **named)
            if isinstance(runner, Runner):
                return Listing(runner, first)
            return AsyncListing(runner, first)

        return method


def described(
    route: str,
    parts: Parts,
    read: Callable[[httpx.Response], T],
    *,
    wrote: Callable[[T], int] | None = None,
    keyed: bool = False,
    waits: bool = True,
) -> Call[T]:
    """Return the call of a route with these parts."""
    method, _, template = route.partition(" ")
    path = template
    for name, value in parts.path.items():
        path = path.replace(
            f"{{{name}}}", quote(text_of(value), safe="/" if name == "path" else "")
        )
    content, media_type = None, JSON
    if isinstance(parts.body, bytes):
        content, media_type = parts.body, "application/x-ndjson"
    elif parts.body is not None:
        content = to_json(parts.body, by_alias=True, exclude_none=True)
    return Call(
        method, path, parts.query, content, media_type, read, wrote, keyed=keyed, waits=waits
    )


def reader_of(model: type[T]) -> Callable[[httpx.Response], T]:
    """Return what reads an answer: as a model, as text, or as bytes."""
    if model is str:
        return lambda response: response.text  # type: ignore[return-value]
    if model is bytes:
        return lambda response: response.content  # type: ignore[return-value]
    assert issubclass(model, BaseModel)
    return lambda response: model.model_validate_json(response.content)


def call(
    route: str, answers: type[T], *, waits: bool = True
) -> Callable[[Callable[Concatenate[Any, P], Parts]], Method[P, T]]:
    """Make a method of a read or a check; ``answers`` is what it is answered with."""

    def method(describe: Callable[Concatenate[Any, P], Parts]) -> Method[P, T]:
        return Method(route, describe, read=reader_of(answers), waits=waits)

    return method


def command(
    route: str, answers: type[RecordedT]
) -> Callable[[Callable[Concatenate[Any, P], Parts]], Method[P, RecordedT]]:
    """Make a method of a command, which is sent under an idempotency key."""

    def method(describe: Callable[Concatenate[Any, P], Parts]) -> Method[P, RecordedT]:
        return Method(
            route,
            describe,
            read=reader_of(answers),
            wrote=lambda recorded: recorded.position,
            keyed=True,
        )

    return method


def listing(
    route: str, item: type[ItemT]
) -> Callable[[Callable[Concatenate[Any, P], Parts]], ListMethod[P, ItemT]]:
    """Make a method of a list that is paged by cursors."""

    def read(response: httpx.Response) -> Page[ItemT]:
        return Page[item].model_validate_json(response.content)  # type: ignore[valid-type]

    def paged(route: str, parts: Parts) -> Paged[ItemT]:
        def following(page: Page[ItemT]) -> Paged[ItemT] | None:
            if page.next is None:
                return None
            kept = [(name, value) for name, value in parts.query if name != "cursor"]
            return paged(route, replace(parts, query=[*kept, ("cursor", page.next)]))

        return Paged(described(route, parts, read), following)

    def method(describe: Callable[Concatenate[Any, P], Parts]) -> ListMethod[P, ItemT]:
        return ListMethod(route, describe, paged)

    return method
