"""The access index in a gateway's own process: checks cost a function call and need no network.

``AccessFollower`` loads a snapshot over HTTP, then follows every change in a thread of its own. It
knows its position and how old it is. What it answers when it is cut off from the ledger is the
gateway's choice, and must be made: ``deny`` everything, or ``allow_flagged``, which answers from
what was known last and marks it.

::

    follower = AccessFollower("https://ledger.example", key, when_cut_off="deny")
    with follower:
        if follower.is_allowed("user:alice", "use", "model:atlas-3"):
            ...
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, Self
from urllib.parse import urlsplit

import orjson

from ledger.domain.errors import Unavailable, UnknownFact
from ledger.domain.events import EVENT_TYPES, Author, Recorded
from ledger.domain.values import format_instant, from_microseconds
from projections.access.index import ALLOWED, NEVER, AccessIndex, Answer

CutOff = Literal["deny", "allow_flagged"]

WAIT_S: Final = 20.0  # how long the ledger holds a question for changes open
TIMEOUT_S: Final = 30.0  # longer than that, or every quiet period would look like a failure
RETRY_S: Final = 0.5  # between two tries while cut off
STOPPED_S: Final = 5.0  # how long stopping waits for the thread, which ends at once if it can
CUT_OFF_AFTER_S: Final = (
    45.0  # a quiet ledger answers every WAIT_S; twice that and some is too long
)

_NO_PROPERTIES: Final[Mapping[str, object]] = {}
_FOLLOWED: Final = Author("follower")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer with what it rests on.

    ``flagged``: given while cut off from the ledger. ``age_s``: seconds since the ledger last
    confirmed the position. ``until`` is an RFC 3339 instant, ``None`` when no end is known.
    """

    allowed: bool
    flagged: bool
    position: int
    age_s: float
    reasons: tuple[str, ...]
    suspensions: tuple[str, ...]
    until: str | None


class WentBack(Unavailable):
    """The ledger is at a position before one that it has confirmed."""


class AccessFollower:
    """Answers checks from an index that follows a ledger. Safe to ask from any thread."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        when_cut_off: CutOff,
        cut_off_after_s: float = CUT_OFF_AFTER_S,
        clock_ns: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = urlsplit(url)
        if self._url.scheme not in ("http", "https") or self._url.hostname is None:
            raise ValueError(f"{url!r} must be an http or https URL")
        self._key = key
        self._when_cut_off = when_cut_off
        self._cut_off_after_s = cut_off_after_s
        self._clock_ns = clock_ns
        self._monotonic = monotonic
        self._index = AccessIndex()
        self._confirmed_at = float("-inf")
        self._connection: http.client.HTTPConnection | None = None
        self._stop = threading.Event()
        self._loaded = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="access-follower", daemon=True)

    # --- starting and stopping --------------------------------------------------------------------

    def start(self, *, timeout_s: float = 60.0) -> None:
        """Load the snapshot and begin to follow.

        Raises ``Unavailable`` when that takes longer than ``timeout_s``; it goes on trying.
        """
        self._thread.start()
        if not self._loaded.wait(timeout_s):
            raise Unavailable(f"no snapshot from {self._url.geturl()} within {timeout_s} s")

    def stop(self) -> None:
        """Stop following; what is known stays answerable until it counts as cut off."""
        self._stop.set()
        connection = self._connection
        if connection is not None and (waiting := connection.sock) is not None:
            with contextlib.suppress(OSError):  # it may be closed already
                waiting.shutdown(socket.SHUT_RDWR)
        if self._thread.is_alive():
            self._thread.join(STOPPED_S)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- asking -----------------------------------------------------------------------------------

    @property
    def position(self) -> int:
        """The position that answers are a function of; 0 before the snapshot is loaded."""
        return self._index.position

    @property
    def age_s(self) -> float:
        """Seconds since the ledger last confirmed that nothing newer was missing."""
        return self._monotonic() - self._confirmed_at

    @property
    def is_cut_off(self) -> bool:
        """Whether the ledger was silent for longer than it may be."""
        return self._monotonic() - self._confirmed_at > self._cut_off_after_s

    def is_allowed(
        self,
        subject: str,
        action: str,
        resource: str,
        through: Sequence[str] = (),
        subject_properties: Mapping[str, object] = _NO_PROPERTIES,
        resource_properties: Mapping[str, object] = _NO_PROPERTIES,
        action_properties: Mapping[str, object] = _NO_PROPERTIES,
    ) -> bool:
        """Answer whether a subject (``user:alice``) may do an action with a resource now."""
        if self._monotonic() - self._confirmed_at > self._cut_off_after_s and (
            self._when_cut_off == "deny" or not self._index.position
        ):
            return False
        return (
            self._index.check(
                subject,
                resource,
                action,
                self._clock_ns() // 1000,
                through,
                subject_properties,
                resource_properties,
                action_properties,
            )
            is ALLOWED
        )

    def verdict(
        self,
        subject: str,
        action: str,
        resource: str,
        through: Sequence[str] = (),
        subject_properties: Mapping[str, object] = _NO_PROPERTIES,
        resource_properties: Mapping[str, object] = _NO_PROPERTIES,
        action_properties: Mapping[str, object] = _NO_PROPERTIES,
    ) -> Verdict:
        """Answer the same with why, until when, and how current it is."""
        index, cut_off = self._index, self.is_cut_off
        if cut_off and (self._when_cut_off == "deny" or not index.position):
            return Verdict(
                allowed=False,
                flagged=True,
                position=index.position,
                age_s=self.age_s,
                reasons=("cut_off",),
                suspensions=(),
                until=None,
            )
        position = index.position  # before the check: what comes in meanwhile may be missed
        found = index.check(
            subject,
            resource,
            action,
            self._clock_ns() // 1000,
            through,
            subject_properties,
            resource_properties,
            action_properties,
        )
        until = found.until
        return Verdict(
            allowed=found.allowed,
            flagged=cut_off,
            position=position,
            age_s=self.age_s,
            reasons=_reasons(found),
            suspensions=tuple(restriction.id for restriction in found.restrictions),
            until=None
            if until is None or until == NEVER
            else format_instant(from_microseconds(until)),
        )

    # --- following --------------------------------------------------------------------------------

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                if not self._loaded.is_set():
                    self._load()
                self._take_changes()
            except Exception as error:  # noqa: BLE001 - it goes on trying, whatever it was
                if not self._stop.is_set():
                    self._note(error)
                    self._stop.wait(RETRY_S)

    def _note(self, error: Exception) -> None:
        if isinstance(error, UnknownFact | WentBack):
            # That is no silence: what is in memory is known not to be what the ledger says.
            log.error("what the ledger says cannot be followed: %s", error)
            self._confirmed_at = float("-inf")
        elif isinstance(error, OSError | http.client.HTTPException | Unavailable):
            log.warning("cut off from the ledger at position %d: %s", self.position, error)
        else:
            # What is in memory may be half changed: begin anew, as cut off meanwhile.
            log.error("following failed at position %d", self.position, exc_info=error)
            self._loaded.clear()
            self._confirmed_at = float("-inf")

    def _load(self) -> None:
        index = AccessIndex()
        with self._connected() as connection:
            response = self._get(connection, "/v1/access/snapshot")
            index.load(_records(response))
        if not index.position:
            raise Unavailable("the snapshot ended before its last line")
        self._index = index
        self._confirmed_at = self._monotonic()
        self._loaded.set()

    def _take_changes(self) -> None:
        with self._connected() as connection:
            while not self._stop.is_set():
                index = self._index
                path = f"/v1/access/changes?after={index.position}&wait={WAIT_S:g}"
                changes = orjson.loads(self._get(connection, path).read())
                if changes["position"] < index.position:
                    raise WentBack(
                        f"the ledger is at {changes['position']}, behind {index.position}: it is "
                        "another one, or an old copy of this one"
                    )
                self._apply(index, changes)
                self._confirmed_at = self._monotonic()

    def _apply(self, index: AccessIndex, changes: Mapping[str, Any]) -> None:
        for change in changes["events"]:
            recorded = _recorded(change)
            index.skip(recorded.position - 1, recorded.recorded_at)
            index.apply(recorded)
        recorded_at = datetime.fromisoformat(changes["recorded_at"])
        index.skip(changes["position"], recorded_at, changes["known"])

    @contextlib.contextmanager
    def _connected(self) -> Iterator[http.client.HTTPConnection]:
        kind = (
            http.client.HTTPSConnection
            if self._url.scheme == "https"
            else http.client.HTTPConnection
        )
        assert self._url.hostname is not None
        with contextlib.closing(
            kind(self._url.hostname, self._url.port, timeout=TIMEOUT_S)
        ) as connection:
            connection.connect()
            # From here on stop() can end it; if that was called before, nothing is asked any more.
            self._connection = connection
            yield connection

    def _get(self, connection: http.client.HTTPConnection, path: str) -> http.client.HTTPResponse:
        if self._stop.is_set():
            raise Unavailable("following was stopped")
        headers = {"Authorization": f"Bearer {self._key}"}
        connection.request("GET", self._url.path.rstrip("/") + path, headers=headers)
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise Unavailable(f"{path} answered {response.status}: {response.read(500)!r}")
        return response


def _reasons(found: Answer) -> tuple[str, ...]:
    if found.allowed:
        return ()
    return ("unknown_subject",) if found.unknown_subject else ("suspended",)


def _records(response: http.client.HTTPResponse) -> Iterator[Sequence[Any]]:
    for line in response:
        yield orjson.loads(line)


def _recorded(change: Mapping[str, Any]) -> Recorded:
    event_type = EVENT_TYPES.get((change["type"], change["schema"]))
    if event_type is None:
        raise UnknownFact(f"event {change['position']} is a {change['type']}, which is not known")
    return Recorded(
        change["position"],
        change["stream"],
        change["version"],
        datetime.fromisoformat(change["recorded_at"]),
        _FOLLOWED,
        None,
        event_type.model_validate(change["data"]),
    )


# --- for ASGI gateways ----------------------------------------------------------------------------

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class RequireAccess:
    """ASGI middleware: passes a request on only when its subject may use its resource now.

    ``subject_of`` and ``resource_of`` return the keys (``user:alice``, ``model:atlas-3``) of a
    scope, or ``None`` for requests that need no access. A refusal is 403 with problem details
    (RFC 9457).
    """

    def __init__(
        self,
        app: ASGIApp,
        follower: AccessFollower,
        *,
        subject_of: Callable[[Scope], str | None],
        resource_of: Callable[[Scope], str | None],
        action: str = "use",
    ) -> None:
        self._app = app
        self._follower = follower
        self._subject_of = subject_of
        self._resource_of = resource_of
        self._action = action

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        subject, resource = self._subject_of(scope), self._resource_of(scope)
        if subject is None or resource is None:
            await self._app(scope, receive, send)
            return
        verdict = self._follower.verdict(subject, self._action, resource)
        if verdict.allowed:
            scope.setdefault("state", {})["access"] = verdict
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await _refuse(send, verdict, resource)


async def _refuse(send: Send, verdict: Verdict, resource: str) -> None:
    until = f" until {verdict.until}" if verdict.until else ""
    body = json.dumps(
        {
            "type": "urn:compliance-ledger:problem:access_refused",
            "title": "Access is refused",
            "status": 403,
            "detail": f"{resource} may not be used{until}.",
            "code": "access_refused",
            "reasons": verdict.reasons,
            "suspensions": verdict.suspensions,
            "until": verdict.until,
            "position": verdict.position,
        }
    ).encode()
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})
