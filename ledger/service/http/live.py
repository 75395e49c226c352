"""How do a thousand people watch the trail as it is written, while each event is read once?

One task of the process follows the feed. What is new it reads as a span: for each distinct filter
of the open streams it asks the trail, once, which events match, so a live event passes exactly the
filters that it would pass in a list. Each event that anybody wants is encoded once, and the newest
spans are kept in a ring. A stream that is at a span of the ring takes its events from there; one
that is further behind, or whose filter is new, reads pages from the store until it is there.

Most streams are at the newest span and wait for the next. Those are given it straight into their
connections, all of a filter the same bytes, so that an event costs little more than what the kernel
does for it; the others send with a task of their own.

Nobody waits for a slow reader. A stream gives its connection a piece, and no other before the
kernel has taken most of that one; meanwhile the ring goes on without it. Who takes nothing for
``STALL_S`` is cut off, and comes back with the id of the last event that it has seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from eventsourcing.persistence import Cursor
from fastapi.concurrency import run_in_threadpool

from ledger.domain.errors import Behind, LedgerError, Unavailable
from ledger.domain.events import PersonalDataErased
from ledger.service.http.events import shown
from ledger.service.http.problems import TooManyStreams
from ledger.service.wiring import Service

STREAMS_MAX: Final = 2_000  # of one process: twice what is asked of it; each takes some 50 KB
HEARTBEAT_S: Final = 15.0  # of silence: shorter than the patience of common proxies
STALL_S: Final = 30.0  # a reader that takes less than a kilobyte a second is none
LAST_STALL_S: Final = 1.0  # the same when the process ends: others wait for it
STREAM_LOOK_S: Final = 0.5  # between two looks at all streams; a revoked key has a second
SPAN_PAUSE_S: Final = 0.1  # from one span to the next: nobody sees it, and many sends are one
SPAN_EVENTS_MAX: Final = 250  # of one span: some milliseconds of reading
RING_EVENTS_MAX: Final = 1_000  # five seconds of 200 events each; older ones are in the store
RING_BYTES_MAX: Final = 8 * 1024 * 1024  # of the ring, and of the events encoded for pages
PAGE_EVENTS_MAX: Final = 100  # read from the store at once, for one stream
PAGE_BYTES_MAX: Final = 64 * 1024  # of these, what a stream holds until its reader has taken it
PAGES_AT_ONCE: Final = 2  # threads that read pages: other requests need threads, too
PIECE_BYTES_MAX: Final = 32 * 1024  # of one send; a single event may be larger
CHUNK_BYTES_MAX: Final = 64 * 1024  # of a span straight into a connection: all of a filter share it
WOKEN_TOGETHER: Final = 50  # streams that send in a row, before others have their turn
RETRY_MS: Final = 2_000  # after which a reader comes back: a process has started again by then

Key = tuple[tuple[str, object], ...]
Frames = list[tuple[int, bytes]]

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Stream:
    """One reader. ``position`` is up to where it has been given everything that it asked for.

    ``require_allowed`` raises when it may not read on. ``key`` is what a stream has in common with
    those that have the same filters. ``connection`` is there when its answer is sent in chunks, and
    takes whole ones while the stream ``waits``.
    """

    filters: Mapping[str, Any]
    position: int
    require_allowed: Callable[[], object]
    is_ended: bool = False
    beat: bool = False
    sending_since: float | None = None
    sent_at: float = 0.0
    cut_off: Callable[[], object] = lambda: None
    connection: asyncio.Transport | None = None
    waits: bool = False
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    key: Key = field(init=False)

    def __post_init__(self) -> None:
        self.key = tuple(sorted(self.filters.items()))

    @property
    def goes_on(self) -> bool:
        """Whether more may be sent."""
        return not self.is_ended

    def end(self) -> None:
        """Let it end with what it is about to send."""
        self.is_ended = True
        self.wake.set()


@dataclass(slots=True)
class _Asked:
    """A filter that streams have. ``ready`` is set once the ring knows what it matches."""

    filters: Mapping[str, Any]
    streams: int = 0
    ready: asyncio.Event | None = None


@dataclass(slots=True)
class _Span:
    """The events after a position up to ``last``: for each filter, those that it matches."""

    after: int
    last: int
    matching: dict[Key, Frames]
    size: int
    pieces: dict[Key, list[bytes]] = field(default_factory=dict)
    pieces_size: int = 0
    chunks: dict[Key, bytes] = field(default_factory=dict)


class Live:
    """The open streams of one process, and what they are given. All but reading is in the loop."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._streams: set[Stream] = set()
        self._asked: dict[Key, _Asked] = {}
        self._spans: deque[_Span] = deque()
        self._position = 0
        self._encoded = _Encoded(service)
        self._pages = asyncio.Semaphore(PAGES_AT_ONCE)
        self._following: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self.cut = 0
        """How many streams were cut off because they were not read."""

    @property
    def open(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    def admit(self, stream: Stream) -> None:
        """Take in a stream, from its position on. Raises ``TooManyStreams``, ``Unavailable``."""
        feed = self._service.feed
        if feed.draining:
            raise Unavailable("this process is about to end")
        if len(self._streams) >= STREAMS_MAX:
            raise TooManyStreams(f"{STREAMS_MAX} streams are open in this process")
        loop = asyncio.get_running_loop()
        stream.sent_at = loop.time()
        self._streams.add(stream)
        self._asked.setdefault(stream.key, _Asked(stream.filters)).streams += 1
        # In a context of their own: what the request at hand wants binds only itself.
        if self._following is None or self._following.done():
            self._spans.clear()
            oldest = feed.position - RING_EVENTS_MAX
            self._position = max(0, oldest, min(stream.position, feed.position))
            self._following = loop.create_task(self._follow(), context=Context())
        if self._watching is None or self._watching.done():
            self._watching = loop.create_task(self._watch(), context=Context())

    def leave(self, stream: Stream) -> None:
        """Forget a stream."""
        self._streams.discard(stream)
        asked = self._asked[stream.key]
        asked.streams -= 1
        if not asked.streams:
            del self._asked[stream.key]
            for span in self._spans:
                span.matching.pop(stream.key, None)
        if not self._streams:
            self._spans.clear()
            self._encoded.forget()

    # --- what a stream is given -------------------------------------------------------------------

    async def pieces(self, stream: Stream) -> AsyncIterator[bytes]:
        """Yield what a stream is to send, until it ends.

        The first piece and each heartbeat name its position, so that its reader can come back to
        it also when no event came that the reader would know it by.
        """
        yield b"retry: %d\nid: %d\n\n" % (RETRY_MS, stream.position)
        await self._make_known(stream)
        while stream.goes_on:
            found = self._from_ring(stream)
            if found is None:
                found = await self._from_store(stream)
            pieces, position = found
            for piece in pieces:
                if stream.is_ended:
                    return
                yield piece
            if position > stream.position:
                stream.position = position
                continue
            if stream.beat:
                stream.beat = False
                yield b": heartbeat\nid: %d\n\n" % stream.position
                continue
            stream.wake.clear()
            stream.waits = True
            await stream.wake.wait()
            stream.waits = False
        yield b": goodbye\nid: %d\n\n" % stream.position

    async def _make_known(self, stream: Stream) -> None:
        """Let the ring know what a filter matches, so that who comes back need not read pages."""
        asked = self._asked[stream.key]
        if asked.ready is not None:
            await asked.ready.wait()
            return
        asked.ready = asyncio.Event()
        try:
            spans = [span for span in self._spans if stream.key not in span.matching]
            if not spans or stream.position >= spans[-1].last:
                return
            after, last = spans[0].after, spans[-1].last
            frames = await run_in_threadpool(self._read, after, last, stream.filters)
            for span in spans:
                span.matching.setdefault(
                    stream.key, [each for each in frames if span.after < each[0] <= span.last]
                )
        finally:
            asked.ready.set()

    def _read(self, after: int, until: int, filters: Mapping[str, Any]) -> Frames:
        with self._service.reading(newest=True) as (c, _):
            positions = self._matching(c, after, until, until - after, filters)
            return self._encoded.frames(c, positions)

    def _from_ring(self, stream: Stream) -> tuple[list[bytes], int] | None:
        """Return what follows in the ring, and up to where; ``None`` when it is not there."""
        position = stream.position
        if position >= self._position:
            return [], position
        for span in reversed(self._spans):
            if span.after <= position:
                matching = span.matching.get(stream.key)
                if matching is None:
                    return None
                if position > span.after:
                    return _joined(text for at, text in matching if at > position), span.last
                return self._pieces_of(span, stream.key, matching), span.last
        return None

    def _pieces_of(self, span: _Span, key: Key, matching: Frames) -> list[bytes]:
        found = span.pieces.get(key)
        if found is None:
            found = _joined(text for _, text in matching)
            shared = self._asked[key].streams > 1 and span is self._spans[-1]
            size = span.pieces_size + sum(map(len, found))
            if shared and size <= RING_BYTES_MAX:
                span.pieces[key], span.pieces_size = found, size
        return found

    async def _from_store(self, stream: Stream) -> tuple[list[bytes], int]:
        """Return the next page of what is older than the ring, and up to where it goes."""
        until = self._service.feed.position
        async with self._pages:
            return await run_in_threadpool(self._read_page, stream.position, until, stream.filters)

    def _read_page(
        self, after: int, until: int, filters: Mapping[str, Any]
    ) -> tuple[list[bytes], int]:
        with self._service.reading(newest=True) as (c, _):
            positions = self._matching(c, after, until, PAGE_EVENTS_MAX, filters)
            frames = self._encoded.frames(c, positions)
        end = until if len(positions) < PAGE_EVENTS_MAX else positions[-1]
        size = 0
        for count, (_, text) in enumerate(frames):
            size += len(text)
            if count and size > PAGE_BYTES_MAX:
                return _joined(text for _, text in frames[:count]), frames[count - 1][0]
        return _joined(text for _, text in frames), end

    def _matching(
        self, c: Cursor, after: int, until: int, limit: int, filters: Mapping[str, Any]
    ) -> list[int]:
        return self._service.trail.events(
            c,
            position=until,
            limit=limit,
            cursor_position=after,
            oldest_first=True,
            **filters,
        )

    # --- following --------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Read what is new, again and again, as long as anybody listens."""
        feed, loop = self._service.feed, asyncio.get_running_loop()
        try:
            while self._streams and not feed.draining:
                with contextlib.suppress(Behind):
                    await feed.wait_for(self._position + 1, timeout_s=STREAM_LOOK_S)
                until = min(feed.position, self._position + SPAN_EVENTS_MAX)
                if until <= self._position:
                    continue
                started = loop.time()
                asked = {key: each.filters for key, each in self._asked.items()}
                span, erased = await run_in_threadpool(
                    self._read_span, self._position, until, asked
                )
                self._add(span, erased=erased)
                await self._spread()
                if until < span.after + SPAN_EVENTS_MAX:
                    spent = loop.time() - started
                    await asyncio.sleep(max(SPAN_PAUSE_S - spent, spent / 4))
        except LedgerError as error:
            log.warning("the streams end, because the trail cannot be read: %s", error)
        except Exception:
            log.exception("the streams end, because the trail cannot be followed")
        finally:
            for stream in self._streams:
                stream.end()

    def _read_span(
        self, after: int, until: int, asked: Mapping[Key, Mapping[str, Any]]
    ) -> tuple[_Span, bool]:
        """Return what each filter matches of a span, and whether something was erased in it."""
        with self._service.reading(newest=True) as (c, _):
            erasing = {"types": (PersonalDataErased.TYPE,)}
            erased = bool(self._matching(c, after, until, 1, erasing))
            if erased:
                self._encoded.forget()  # what was encoded before shows what nobody can open now
            found = {
                key: self._matching(c, after, until, until - after, filters)
                for key, filters in asked.items()
            }
            wanted = sorted(set[int]().union(*found.values()))
            texts = dict(self._encoded.frames(c, wanted))
        matching = {
            key: [(position, texts[position]) for position in positions]
            for key, positions in found.items()
        }
        return _Span(after, until, matching, sum(map(len, texts.values()))), erased

    def _add(self, span: _Span, *, erased: bool) -> None:
        if erased:
            self._spans.clear()
        if self._spans:
            self._spans[-1].pieces.clear()
            self._spans[-1].chunks.clear()
        self._spans.append(span)
        self._position = span.last
        while len(self._spans) > 1 and (
            self._position - self._spans[0].after > RING_EVENTS_MAX
            or sum(each.size for each in self._spans) > RING_BYTES_MAX
        ):
            self._spans.popleft()

    async def _spread(self) -> None:
        """Give the newest span to all who wait for it; let the others look what there is."""
        span = self._spans[-1]
        for count, stream in enumerate(list(self._streams), start=1):
            if not self._give(stream, span):
                stream.wake.set()
            if count % WOKEN_TOGETHER == 0:
                await asyncio.sleep(0)

    def _give(self, stream: Stream, span: _Span) -> bool:
        """Write a span into a connection from which everything before it was taken."""
        connection = stream.connection
        if (
            connection is None
            or not stream.waits
            or stream.wake.is_set()
            or stream.position != span.after
            or connection.is_closing()
            or connection.get_write_buffer_size()
        ):
            return False
        chunk = span.chunks.get(stream.key)
        if chunk is None:
            matching = span.matching.get(stream.key)
            if matching is None:
                return False
            text = b"".join(text for _, text in matching)
            chunk = b"%x\r\n%b\r\n" % (len(text), text) if text else b""
            span.chunks[stream.key] = chunk
        if len(chunk) > CHUNK_BYTES_MAX:
            return False
        if chunk:
            connection.write(chunk)
            stream.sent_at = asyncio.get_running_loop().time()
        stream.position = span.last
        return True

    # --- looking after them -----------------------------------------------------------------------

    async def _watch(self) -> None:
        """Look at every stream: is it read, may it be read, is it silent, does the process end?"""
        loop = asyncio.get_running_loop()
        while self._streams:
            await asyncio.sleep(STREAM_LOOK_S)
            draining = self._service.feed.draining
            patience_s = LAST_STALL_S if draining else STALL_S
            for stream in list(self._streams):
                over = draining or not _may_go_on(stream)
                if over:
                    stream.end()
                if stream.sending_since is not None:
                    if loop.time() - stream.sending_since > patience_s or (over and not draining):
                        self._cut(stream)
                elif loop.time() - stream.sent_at > HEARTBEAT_S:
                    stream.beat = True
                    stream.wake.set()

    def _cut(self, stream: Stream) -> None:
        self.cut += 1
        stream.end()
        stream.cut_off()


class _Encoded:
    """Events as they are sent, those that were encoded last. Several threads read at a time."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._texts: dict[int, bytes] = {}
        self._size = 0
        self._age = 0

    def frames(self, c: Cursor, positions: list[int]) -> Frames:
        """Return the events at these positions, and encode those that are not kept."""
        age = self._age
        found = {position: self._texts.get(position) for position in positions}
        missing = [position for position, text in found.items() if text is None]
        new: dict[int, bytes] = {}
        for recorded in self._service.recorder.at_positions(missing):
            new[recorded.position] = encoded(shown(self._service, c, recorded))
        with self._lock:
            if age == self._age:
                for position, text in new.items():
                    self._size += len(text) - len(self._texts.get(position, b""))
                    self._texts[position] = text
                while self._size > RING_BYTES_MAX:
                    self._size -= len(self._texts.pop(next(iter(self._texts))))
        return [(position, found[position] or new[position]) for position in positions]

    def forget(self) -> None:
        """Drop everything, also what is being encoded just now."""
        with self._lock:
            self._texts.clear()
            self._size = 0
            self._age += 1


def encoded(event: Mapping[str, Any]) -> bytes:
    """Return an event of the trail as one of a stream: its position, its type, and all of it.

    JSON has no line ends inside, so its text is one line.
    """
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (
        event["position"],
        event["type"].encode(),
        orjson.dumps(event),
    )


def _joined(texts: Iterable[bytes]) -> list[bytes]:
    """Put events together into pieces, each as large as one send should be."""
    pieces: list[bytes] = []
    waiting: list[bytes] = []
    size = 0
    for text in texts:
        if waiting and size + len(text) > PIECE_BYTES_MAX:
            pieces.append(b"".join(waiting))
            waiting, size = [], 0
        waiting.append(text)
        size += len(text)
    if waiting:
        pieces.append(b"".join(waiting))
    return pieces


def _may_go_on(stream: Stream) -> bool:
    try:
        stream.require_allowed()
    except LedgerError:
        return False
    return True
