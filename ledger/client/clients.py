"""The two clients: one waits for its answers, one lets others run meanwhile.

What does not depend on waiting is written once: what is sent, when it is sent again, and what an
answer means. A command is sent again under the idempotency key of its first time, so however often
it arrives, it is recorded once.
"""

from __future__ import annotations

import asyncio
import copy
import random
import threading
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import httpx
from pydantic import ValidationError

from ledger.client.administration import Administration
from ledger.client.call import AsyncRunner, Call, Runner, SubjectLike, text_of
from ledger.client.checks import Checks
from ledger.client.decisions import Decisions
from ledger.client.problems import NoAnswer, UnexpectedAnswer, problem_of, retry_after_s
from ledger.client.reading import Reading

T = TypeVar("T")

ANSWER_TIMEOUT_S: Final = 30.0  # longer than the ledger waits for anything by itself
RETRIES_DEFAULT: Final = (
    4  # with the pauses between them some 3 seconds: a restart, a failover begun
)
FIRST_PAUSE_S: Final = 0.2  # before the first retry; doubled before each later one
PAUSE_MAX_S: Final = 10.0  # between two tries
RETRY_AFTER_MAX_S: Final = 60.0  # a longer wait that is asked for is the caller's to decide on

AGAIN: Final = frozenset(
    (
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    )
)
"""Statuses after which the same request may be answered differently a little later."""

FOR_GOOD: Final = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)
"""Failures that come again however often a request is sent."""

_jitter = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class Sending:
    """What a client sends beside what a method says."""

    idempotency_key: str | None = None
    on_behalf_of: str | None = None
    request_id: str | None = None


class Seen:
    """The newest position that a client, with its copies, knows to be recorded."""

    def __init__(self, position: int) -> None:
        self.position = position
        self._raising = threading.Lock()

    def raise_to(self, position: int) -> None:
        """Take note of a position."""
        with self._raising:
            self.position = max(self.position, position)


@dataclass(frozen=True, slots=True)
class Request:
    """A call as it is sent, the same each time."""

    method: str
    path: str
    query: Any
    content: bytes | None
    headers: dict[str, str]

    @property
    def idempotency_key(self) -> str | None:
        """The key of a command."""
        return self.headers.get("Idempotency-Key")

    def to_send(self) -> dict[str, Any]:
        """Return it as httpx takes it."""
        return {
            "method": self.method,
            "url": self.path,
            "params": self.query,
            "content": self.content,
            "headers": self.headers,
        }


class Exchange:
    """What both clients have in common: what is sent, how often, and what an answer means."""

    def __init__(self, *, min_position: int, retries: int) -> None:
        self._seen = Seen(min_position)
        self._retries = retries
        self._sending = Sending()

    @property
    def position(self) -> int:
        """The newest position that this client recorded, or was told of.

        Its reads and checks are answered no older than that.
        """
        return self._seen.position

    def at_least(self, position: int) -> Self:
        """Take note of a position, say of another client's command; return this client."""
        self._seen.raise_to(position)
        return self

    def once(self, idempotency_key: str) -> Self:
        """Return this client with an idempotency key of your own for the next command."""
        return self._with(replace(self._sending, idempotency_key=idempotency_key))

    def acting_for(self, subject: SubjectLike) -> Self:
        """Return this client on behalf of a human, who is recorded with what it does."""
        return self._with(replace(self._sending, on_behalf_of=text_of(subject)))

    def as_request(self, request_id: str) -> Self:
        """Return this client with an id that is recorded with what it does, and logged."""
        return self._with(replace(self._sending, request_id=request_id))

    def _with(self, sending: Sending) -> Self:
        changed = copy.copy(self)
        changed._sending = sending  # noqa: SLF001 - it is one of us
        return changed

    def _request(self, call: Call[Any]) -> Request:
        """Return what is sent for a call; a command gets its key here, once."""
        sending, headers = self._sending, {"Accept": "*/*"}
        if call.content is not None:
            headers["Content-Type"] = call.media_type
        if call.keyed:
            headers["Idempotency-Key"] = sending.idempotency_key or uuid.uuid4().hex
        if sending.on_behalf_of is not None:
            headers["Ledger-On-Behalf-Of"] = sending.on_behalf_of
        if sending.request_id is not None:
            headers["X-Request-ID"] = sending.request_id
        if call.wrote is None and call.waits and self.position:
            headers["Ledger-Min-Position"] = str(self.position)
        return Request(call.method, call.path, call.query, call.content, headers)

    def _pause_after(
        self, outcome: httpx.Response | httpx.RequestError, retried: int
    ) -> float | None:
        """Return how long to wait before sending again; ``None``: do not."""
        if retried >= self._retries:
            return None
        usual: float = min(FIRST_PAUSE_S * 2.0**retried, PAUSE_MAX_S)
        usual *= _jitter.uniform(0.5, 1.0)  # or all who were cut off come back together
        if isinstance(outcome, httpx.RequestError):
            return None if isinstance(outcome, FOR_GOOD) else usual
        if outcome.status_code not in AGAIN:
            return None
        asked = retry_after_s(outcome)
        if asked is None:
            return usual
        return None if asked > RETRY_AFTER_MAX_S else max(asked, usual)

    def _answer(
        self, call: Call[T], request: Request, outcome: httpx.Response | httpx.RequestError
    ) -> T:
        """Return what a call was answered with, or raise why it was not."""
        key = request.idempotency_key
        if isinstance(outcome, httpx.RequestError):
            why = str(outcome) or type(outcome).__name__
            raise NoAnswer(
                f"{request.method} {request.path} got no answer: {why}; see that the ledger "
                "runs at this URL and can be reached",
                idempotency_key=key,
            ) from outcome
        if not outcome.is_success:
            raise problem_of(outcome, idempotency_key=key)
        try:
            answer = call.read(outcome)
        except (ValidationError, ValueError, KeyError) as error:
            raise UnexpectedAnswer(
                f"{request.method} {request.path} was answered in a form that this client does not "
                f"know; use the client of the ledger's version: {error}",
                status=outcome.status_code,
            ) from error
        if call.wrote is not None:
            self._seen.raise_to(call.wrote(answer))
        return answer


def _headers(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}", "User-Agent": "compliance-ledger-client"}


class Client(Exchange, Checks, Decisions, Reading, Administration, Runner):
    """A client that waits for its answers. Safe to use from several threads.

    ``sleep`` waits between two tries; ``transport`` is one of httpx, for tests and proxies.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        timeout_s: float = ANSWER_TIMEOUT_S,
        retries: int = RETRIES_DEFAULT,
        min_position: int = 0,
        sleep: Callable[[float], object] = time.sleep,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(min_position=min_position, retries=retries)
        self._sleep = sleep
        self._http = httpx.Client(
            base_url=url, headers=_headers(key), timeout=timeout_s, transport=transport
        )

    def run(self, call: Call[T]) -> T:
        """Send a call, again where that may help; return its answer."""
        request = self._request(call)
        retried = 0
        while True:
            outcome: httpx.Response | httpx.RequestError
            try:
                outcome = self._http.request(**request.to_send())
            except httpx.RequestError as error:
                outcome = error
            pause = self._pause_after(outcome, retried)
            if pause is None:
                return self._answer(call, request, outcome)
            self._sleep(pause)
            retried += 1

    def close(self) -> None:
        """Close its connections, those of its copies too."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncClient(Exchange, Checks, Decisions, Reading, Administration, AsyncRunner):
    """A client whose answers are awaited; its lists are gone through with ``async for``."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        timeout_s: float = ANSWER_TIMEOUT_S,
        retries: int = RETRIES_DEFAULT,
        min_position: int = 0,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(min_position=min_position, retries=retries)
        self._sleep = sleep
        self._http = httpx.AsyncClient(
            base_url=url, headers=_headers(key), timeout=timeout_s, transport=transport
        )

    async def run(self, call: Call[T]) -> T:
        """Send a call, again where that may help; return its answer."""
        request = self._request(call)
        retried = 0
        while True:
            outcome: httpx.Response | httpx.RequestError
            try:
                outcome = await self._http.request(**request.to_send())
            except httpx.RequestError as error:
                outcome = error
            pause = self._pause_after(outcome, retried)
            if pause is None:
                return self._answer(call, request, outcome)
            await self._sleep(pause)
            retried += 1

    async def aclose(self) -> None:
        """Close its connections, those of its copies too."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()
