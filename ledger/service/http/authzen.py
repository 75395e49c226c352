"""The decision point: OpenID AuthZEN 1.0 evaluation and evaluations, bytes in and bytes out.

``DecisionPoint`` is the whole of it and knows no server. Two callers use it: ``AccessApp``, a plain
ASGI application that answers every such request, and ``protocol.CheckProtocol``, which answers the
ordinary ones inside the HTTP parser. So the two cannot differ in what they decide.

A denial is an answer with status 200, never an error: a caller that took it for one might fail
open.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from random import getrandbits
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from ledger.domain.errors import LedgerError
from ledger.domain.values import (
    ID_BYTES_MAX,
    Role,
    format_instant,
    from_microseconds,
    identifier,
    type_name,
)
from ledger.service.decision_log import DecisionLog
from ledger.service.feed import Feed
from ledger.service.http.problems import (
    MalformedRequest,
    MethodNotAllowed,
    NotAllowed,
    NotAuthenticated,
    UnsupportedMediaType,
    internal_error,
    invalid_header,
    problem_of,
)
from ledger.service.http.route import KEY_BYTES_MAX, POSITION, read_body
from ledger.service.limiter import Limiter
from ledger.service.metrics import CheckKind
from projections.access import NEVER, AccessIndex, Answer, Restriction
from projections.operators import Caller, Keyring

EVALUATION_PATH: Final = "/access/v1/evaluation"
EVALUATIONS_PATH: Final = "/access/v1/evaluations"
EVALUATION_PATHS: Final = frozenset((EVALUATION_PATH, EVALUATIONS_PATH))
EVALUATION_BYTES_MAX: Final = 256 * 1024  # a subject, a resource, and their properties
BATCH_BYTES_MAX: Final = 1024 * 1024  # a thousand evaluations of a kilobyte
BATCH_ITEMS_MAX: Final = 1_000  # some milliseconds of work; more would hold up single checks
DEPTH_MAX: Final = 32  # as on writes; no property is deeper than two
BRACKETS_MAX: Final = 50_000  # that open in a body; a full batch has some thousands
THROUGH_MAX: Final = 16  # subjects that one request acts through: application, organization, key …
ACTION_NAME_MAX: Final = 256  # an action's name is an identifier
CALLERS_KEPT_MAX: Final = 4_096  # keys seen and found valid, with the number of the keyring then
HEADS_KEPT_MAX: Final = 4_096  # heads of checks: some for each client, for each length of body
HEAD_BYTES_MAX: Final = 2_048  # longer heads are not ordinary
EXPLAINED_KEPT_MAX: Final = 10_000  # denials explained: about 11 MB
RESOURCES_KEPT_MAX: Final = 10_000  # resources seen and found well formed: about 2 MB
TYPES_KEPT_MAX: Final = 1_000  # type names seen and found valid; nobody has more types
TIMED_EVERY: Final = 64  # single checks; timing each would cost a sixth of its time

JSON_TYPES: Final = frozenset(
    (b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8")
)
APPEAL_HINT: Final = (
    "To have this looked at again, ask the provider and quote the id; an officer can shorten the "
    "suspension or end it."
)
SEMANTICS: Final = {
    "execute_all": None,
    "deny_on_first_deny": False,
    "permit_on_first_permit": True,
}
COUNTED_KEY: Final = "check_counted"
"""In a scope's state: the limit of the key has counted this request already."""

REQUEST_ID: Final = re.compile(rb"[\x20-\x7e]{1,256}\Z")
log = logging.getLogger(__name__)

_ESCAPE: Final = re.compile(rb"\\.", re.DOTALL)
_STRING: Final = re.compile(rb'"[^"]*"')
_BRACKETS: Final = bytes.maketrans(b"[]", b"{}")  # a valid text needs no two kinds
_NEITHER_BRACKET_NOR_QUOTE: Final = bytes(set(range(256)) - set(b'[]{}"\\'))
_ROUNDS: Final = 4  # as deep as a batch nests that gives no properties
_MEMBERS: Final = 3  # of an evaluation without context: subject, action and resource
_TYPE_AND_ID: Final = 2  # members of a subject or resource without properties
_LOG_DOUBTED: Final = b',"log":"not_verified"'
_PERMIT: Final = b'{"decision":true'
_NO_PROPERTIES: Final[Mapping[str, object]] = {}
_NOBODY: Final[Sequence[str]] = ()
_SECOND: Final = 1_000_000  # in microseconds
_THREE_DIGITS: Final = tuple(b"%03d" % number for number in range(1_000))
_LIMITS: Final = (EVALUATION_BYTES_MAX, BATCH_BYTES_MAX)  # of a body: of one, and of a batch


Entity = tuple[str, Mapping[str, object]]
"""The key of a subject or resource, or the name of an action, and its properties."""


def new_request_id() -> bytes:
    """Return an id for a request that came without one; it names it and hides nothing.

    Whoever asks the kernel for random bytes lets go of the interpreter, and waits to have it back.
    """
    return b"%032x" % getrandbits(128)


@dataclass(frozen=True, slots=True)
class KnownHead:
    """What is known of the head of a request: whose it is and how long its body is.

    ``length`` is 0 where the request is not ordinary. ``generation`` is that of the keyring when
    the key was checked.
    """

    length: int
    is_batch: bool
    caller: Caller
    generation: int
    request_id: bytes | None


class _Denial:
    """Why a subject may not use a resource, as answers say it: all but the position and the time.

    The index need not be asked again about ``action`` from ``since`` to before ``until``, as long
    as it has taken in as many ``changes`` as then.
    """

    __slots__ = ("action", "changes", "found", "since", "text", "until")

    def __init__(self, found: Answer, text: bytes) -> None:
        self.found = found
        self.text = text
        self.action = ""
        self.changes = self.since = self.until = 0


class DecisionPoint:
    """Answers evaluations from the index in memory.

    ``now`` says what time it is in microseconds since 1970. ``observe`` is told the seconds that
    one of ``TIMED_EVERY`` single checks took, and each batch.
    """

    def __init__(
        self,
        index: AccessIndex,
        keyring: Keyring,
        feed: Feed,
        now: Callable[[], int],
        *,
        limiter: Limiter | None = None,
        log: DecisionLog | None = None,
        observe: Mapping[CheckKind, Callable[[float], object]] | None = None,
    ) -> None:
        self._index = index
        self._keyring = keyring
        self._feed = feed
        self._now = now
        self._limiter = limiter
        self.counts = limiter is not None
        """Whether there is a limit to count requests against."""
        self._log = log
        self._observe = observe
        self._untimed = TIMED_EVERY
        # Plain integers, which the metrics take over from time to time.
        self.allowed = self.denied = self.refused = 0
        self._types: set[str] = set()
        self._resources: dict[tuple[object, object], Entity] = {}
        # What follows the reasons of a denial, up to the fraction of the second since ``begun``.
        self._second_begun = 0
        self._second_position = -1
        self._second = b""
        # What the newest answer is a function of. It is read before the index is asked: an event
        # that is applied meanwhile must not be claimed for an answer that missed it.
        self.position = 0
        self._permit_position = -1
        self._permit = b""
        self._denials: dict[tuple[str, str], _Denial] = {}
        self._log_mark = b""
        self._callers: dict[bytes, tuple[int, Caller]] = {}
        self.known_heads: dict[bytes, KnownHead] = {}

    def caller(self, authorization: bytes) -> Caller | None:
        """Return whom the value of an Authorization header belongs to; ``None``: nobody usable.

        Raises ``Unavailable`` when what is in memory cannot be trusted.
        """
        if self._feed.failure is not None:
            self._feed.require_current()
        generation, now = self._keyring.generation, self._now()
        known, caller = self._callers.get(authorization, (-1, None))
        if caller is None or known != generation or (caller.expires or now + 1) <= now:
            if authorization[:7].lower() != b"bearer " or len(authorization) > KEY_BYTES_MAX:
                return None
            caller = self._keyring.find(authorization[7:].strip(), now)
            if caller is None:
                return None
            if len(self._callers) >= CALLERS_KEPT_MAX:
                self._callers.clear()
            self._callers[authorization] = (generation, caller)
        return caller

    @property
    def generation(self) -> int:
        """A number that changes with every key and role."""
        return self._keyring.generation

    def still_admits(self, head: KnownHead) -> bool:
        """Tell whether the key of a known head is as good as when it was checked."""
        expires = head.caller.expires
        return (
            head.generation == self._keyring.generation
            and self._feed.failure is None
            and (expires is None or self._now() < expires)
        )

    def remember(self, head: bytes, known: KnownHead) -> None:
        """Keep a head that the parser accepted; when too many are kept, begin anew."""
        if len(self.known_heads) >= HEADS_KEPT_MAX:
            self.known_heads.clear()
        if len(head) <= HEAD_BYTES_MAX:
            self.known_heads[head] = known

    def count(self, caller: Caller) -> None:
        """Count a request against the limit of its key; raises ``TooManyRequests``."""
        if self._limiter is not None:
            self._limiter.count(caller.key)

    def mark_log_doubted(self) -> None:
        """Say in the context of every answer from now on that the log is not verified.

        What was made before is made again: that is why the mark costs an answer nothing.
        """
        self._log_mark = _LOG_DOUBTED
        self._permit_position = -1
        self._denials.clear()

    def drain(self) -> None:
        """Let go of requests that wait for news: the server is shutting down."""
        self._feed.drain()

    def evaluation(self, raw: bytes) -> bytes:
        """Answer the body of an evaluation request (AuthZEN 1.0, section 6).

        Raises ``MalformedRequest``. Members that are not known are ignored, as the standard wants.

        The ordinary one names its three entities and nothing else, a resource that was asked for
        before among them. It is taken apart here, without calls, and nests as deep as it shows.
        """
        self._untimed -= 1
        if not self._untimed:
            return self._timed(raw)
        self.position = position = self._index.position
        body = _parsed(raw)
        try:
            subject, resource, action = body["subject"], body["resource"], body["action"]
            kind, id_, name = subject["type"], subject["id"], action["name"]
            asked_for = self._resources.get((resource["type"], resource["id"]))
            is_ordinary = (
                asked_for is not None
                and type(id_) is str
                and kind in self._types
                and type(name) is str
                and len(body) == _MEMBERS
                and len(subject) == len(resource) == _TYPE_AND_ID
                and len(action) == 1
                and 0 < len(id_) <= ID_BYTES_MAX
                and id_.isascii()
                and id_.isprintable()
                and 0 < len(name) <= ACTION_NAME_MAX
            )
        except (KeyError, TypeError):
            is_ordinary = False  # it may be malformed, and what follows says how
        if not is_ordinary:
            _require_shallow(raw, _opened(raw))
            return self._decide(body)
        assert asked_for is not None
        key, wanted = f"{kind}:{id_}", asked_for[0]
        if self._log is not None:
            return self._decide_on(
                (key, _NO_PROPERTIES), asked_for, (name, _NO_PROPERTIES), _NOBODY, self._now()
            )
        if not self._index.allows_all(key):
            at, changes = self._now(), self._index.changes
            denial = self._denials.get((key, wanted))
            if (
                denial is not None
                and denial.changes == changes
                and denial.since <= at < denial.until
                and denial.action == name
            ):
                self.denied += 1
                return self._dated(denial.text, at)
            found = self._index.check(key, wanted, name, at)
            if not found.allowed:
                self.denied += 1
                denial = self._denial(found, key, wanted)
                denial.action, denial.changes = name, changes
                denial.since, denial.until = at, found.lasts
                return self._dated(denial.text, at)
        self.allowed += 1
        return self._permit if self._permit_position == position else self._permitted()

    def _timed(self, raw: bytes) -> bytes:
        """Answer one evaluation, and tell how long it took."""
        self._untimed = TIMED_EVERY + 1  # which this one counts down by one
        begun = time.perf_counter()
        answer = self.evaluation(raw)
        if self._observe is not None:
            self._observe["single"](time.perf_counter() - begun)
        return answer

    def evaluations(self, raw: bytes) -> bytes:
        """Answer the body of an evaluations request (AuthZEN 1.0, section 7).

        Without ``evaluations`` it is one evaluation. An item takes each entity it lacks, whole,
        from the top level. An item that is not a whole evaluation is denied by itself, with
        ``context.error``.
        """
        self.position = self._index.position
        begun = time.perf_counter()
        body = json_object(raw)
        items, stop_at = _batch(body)
        if not items:
            return self._decide(body)
        answers = []
        defaults = _Defaults(self, body)
        at, permitted = self._now(), self._permitted()
        asked_for: Entity | None = None
        is_free = False
        free = 0
        for item in items:
            try:
                subject = (
                    self.entity(item["subject"], "subject")
                    if "subject" in item
                    else defaults.subject
                )
                resource = (
                    self.resource(item["resource"]) if "resource" in item else defaults.resource
                )
                action = action_of(item["action"]) if "action" in item else defaults.action
                through = self.through(item["context"]) if "context" in item else defaults.through
                if subject is not asked_for:
                    asked_for, is_free = subject, self._is_free(subject)
                if is_free and not through:
                    free += 1
                    answer = permitted
                else:
                    answer = self._decide_on(subject, resource, action, through, at)
            except MalformedRequest as error:
                self.refused += 1
                answer = orjson.dumps(
                    {
                        "decision": False,
                        "context": {
                            "error": {"status": 400, "message": str(error)},
                            **({"log": "not_verified"} if self._log_mark else {}),
                        },
                    }
                )
            answers.append(answer)
            if stop_at is not None and answer.startswith(_PERMIT) is stop_at:
                break
        self.allowed += free
        if self._observe is not None:
            self._observe["batch"](time.perf_counter() - begun)
        return b'{"evaluations":[' + b",".join(answers) + b"]}"

    def _decide(self, item: Mapping[str, Any]) -> bytes:
        subject = self.entity(item.get("subject"), "subject")
        resource = self.resource(item.get("resource"))
        action = action_of(item.get("action"))
        through = self.through(item["context"]) if "context" in item else _NOBODY
        if not through and self._is_free(subject):
            self.allowed += 1
            return self._permitted()
        return self._decide_on(subject, resource, action, through, self._now())

    def _decide_on(
        self,
        subject: Entity,
        resource: Entity,
        action: Entity,
        through: Sequence[str],
        at: int,
    ) -> bytes:
        found = self._index.check(
            subject[0], resource[0], action[0], at, through, subject[1], resource[1], action[1]
        )
        if found.allowed:
            self.allowed += 1
        else:
            self.denied += 1
        if self._log is not None and self._log.takes(allowed=found.allowed):
            return self._logged(self._log, found, subject[0], action[0], resource[0], at)
        if found.allowed:
            return self._permitted()
        return self._dated(self._denial(found, subject[0], resource[0]).text, at)

    def _is_free(self, subject: Entity) -> bool:
        """Tell whether a subject may do everything, and nobody wants to know that it asked."""
        return self._log is None and self._index.allows_all(subject[0])

    def _permitted(self) -> bytes:
        """Return the answer of a permit, which is the same for all until the next event."""
        if self._permit_position != self.position:
            self._permit_position = self.position
            self._permit = b'{"decision":true,"context":{"position":%d%b}}' % (
                self.position,
                self._log_mark,
            )
        return self._permit

    def _denial(self, found: Answer, subject: str, resource: str) -> _Denial:
        """Return what does not change from one denial to the next, which is made once."""
        kept = self._denials.get((subject, resource))
        if kept is None or (kept.found is not found and kept.found != found):
            if len(self._denials) >= EXPLAINED_KEPT_MAX:
                self._denials.clear()
            reasons = orjson.dumps(explain(found, subject, resource))
            text = b'{"decision":false,"context":%b%b' % (reasons[:-1], self._log_mark)
            kept = self._denials[subject, resource] = _Denial(found, text)
        return kept

    def _dated(self, denial: bytes, at: int) -> bytes:
        """Say of a denial what it is a function of."""
        # As the index takes it, if the clock went back.
        recorded_at = self._index.recorded_at
        if at < recorded_at:  # noqa: PLR1730 - max() would take twice as long
            at = recorded_at
        fraction = at - self._second_begun
        if not 0 <= fraction < _SECOND or self._second_position != self.position:
            fraction = self._begin_second(at)
        # Joining takes a fifth of the time that formatting does.
        thousands, rest = fraction // 1_000, fraction % 1_000
        return b"".join(
            (denial, self._second, _THREE_DIGITS[thousands], _THREE_DIGITS[rest], b'Z"}}')
        )

    def _begin_second(self, at: int) -> int:
        """Write what denials within the second of ``at`` share; returns what is over of ``at``."""
        fraction = at % _SECOND
        self._second_begun, self._second_position = at - fraction, self.position
        second = format_instant(from_microseconds(at))[:-7]
        self._second = b',"position":%d,"as_of":"%b' % (self.position, second.encode())
        return fraction

    def _logged(
        self, log: DecisionLog, found: Answer, subject: str, action: str, resource: str, at: int
    ) -> bytes:
        """Answer with the id under which the decision is in the log."""
        context = {} if found.allowed else explain(found, subject, resource)
        as_of = max(at, self._index.recorded_at)
        decision_id = log.record(
            at=as_of,
            subject=subject,
            action=action,
            resource=resource,
            allowed=found.allowed,
            reasons=[] if found.allowed else reasons_of(found),
            suspensions=[restriction.id for restriction in found.restrictions],
            position=self.position,
        )
        context |= {"position": self.position, "decision_id": decision_id}
        if self._log_mark:
            context["log"] = "not_verified"
        if not found.allowed:
            context["as_of"] = format_instant(from_microseconds(as_of))
        return orjson.dumps({"decision": found.allowed, "context": context})

    def entity(self, raw: object, name: str) -> Entity:
        """Return the key and the properties of a subject or resource."""
        if type(raw) is not dict:
            raise MalformedRequest(f"{name} must be an object with type and id", field=f"/{name}")
        kind, id_, properties = raw.get("type"), raw.get("id"), raw.get("properties")
        if (
            type(id_) is str
            and type(kind) is str
            and kind in self._types
            and 0 < len(id_) <= ID_BYTES_MAX
            and id_.isascii()
            and id_.isprintable()
            and properties is None
        ):
            return f"{kind}:{id_}", _NO_PROPERTIES  # the ordinary case, without a call
        try:
            if kind not in self._types:
                known = type_name(kind)
                if len(self._types) < TYPES_KEPT_MAX:
                    self._types.add(known)
            identifier(id_)
        except (ValueError, TypeError) as error:
            raise MalformedRequest(
                f"{name} must have type and id: {error}", field=f"/{name}"
            ) from None
        if properties is None:
            return f"{kind}:{id_}", _NO_PROPERTIES
        return f"{kind}:{id_}", _properties(properties, name)

    def resource(self, raw: object) -> Entity:
        """Return the key and the properties of a resource; few are asked for, again and again."""
        try:
            found = self._resources.get((raw["type"], raw["id"]))  # type: ignore[index]
            if found is not None and len(raw) == _TYPE_AND_ID:  # type: ignore[arg-type]
                return found
        except (KeyError, TypeError):
            pass  # it is malformed, and ``entity`` says how
        entity = self.entity(raw, "resource")
        if entity[1] is _NO_PROPERTIES and len(self._resources) < RESOURCES_KEPT_MAX:
            kind, _, id_ = entity[0].partition(":")
            self._resources[kind, id_] = entity
        return entity

    def through(self, context: object) -> Sequence[str]:
        """Return the keys of ``context.subjects``: the application … that is acted through."""
        if context is None:
            return _NOBODY
        if not isinstance(context, dict):
            raise MalformedRequest("context must be an object", field="/context")
        subjects = context.get("subjects")
        if subjects is None:
            return _NOBODY
        if not isinstance(subjects, list) or len(subjects) > THROUGH_MAX:
            raise MalformedRequest(
                f"context.subjects must be an array of at most {THROUGH_MAX} subjects",
                field="/context/subjects",
            )
        return [self.entity(subject, "context.subjects")[0] for subject in subjects]


class _Defaults:
    """The top level's entities of a batch, each read once, when an item first lacks it."""

    def __init__(self, point: DecisionPoint, body: Mapping[str, Any]) -> None:
        self._point = point
        self._body = body

    @cached_property
    def subject(self) -> Entity:
        return self._point.entity(self._body.get("subject"), "subject")

    @cached_property
    def resource(self) -> Entity:
        return self._point.resource(self._body.get("resource"))

    @cached_property
    def action(self) -> Entity:
        return action_of(self._body.get("action"))

    @cached_property
    def through(self) -> Sequence[str]:
        return self._point.through(self._body.get("context"))


# --- the form of a request ------------------------------------------------------------------------


def json_object(raw: bytes) -> dict[str, Any]:
    """Return the JSON object that a body holds; raises ``MalformedRequest``."""
    body = _parsed(raw)
    _require_shallow(raw, _opened(raw))
    return body


def _parsed(raw: bytes) -> dict[str, Any]:
    """Return the JSON object that a body holds, however deep it nests."""
    # Counting is quick, and bounds what parsing and measuring the depth can take.
    if len(raw) > BRACKETS_MAX and (brackets := _opened(raw)) > BRACKETS_MAX:
        raise MalformedRequest(f"the body has {brackets} opening brackets, over {BRACKETS_MAX}")
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(f"the body is not JSON: {error}") from None
    if type(body) is not dict:
        raise MalformedRequest("the body must be a JSON object")
    return body


def _opened(raw: bytes) -> int:
    return raw.count(b"{") + raw.count(b"[")


def _require_shallow(raw: bytes, brackets: int) -> None:
    if brackets > DEPTH_MAX and nests_deeper(raw, DEPTH_MAX):
        raise MalformedRequest(f"the body nests deeper than {DEPTH_MAX}")


def nests_deeper(raw: bytes, depth: int) -> bool:
    """Tell whether a JSON text nests deeper than ``depth``, without walking what it holds.

    Everything but brackets is taken out. Each round takes the innermost pairs, which empties an
    ordinary text soon; what is left then is added up, bracket by bracket.
    """
    brackets = raw.translate(_BRACKETS, _NEITHER_BRACKET_NOR_QUOTE).replace(b'""', b"")
    if b'"' in brackets or b"\\" in brackets:  # a string holds a bracket, a quote or a backslash
        without_strings = _STRING.sub(b"", _ESCAPE.sub(b"", raw))
        brackets = without_strings.translate(_BRACKETS, _NEITHER_BRACKET_NOR_QUOTE)
    for _ in range(_ROUNDS):
        brackets = brackets.replace(b"{}", b"")
    opened = ord("{")
    levels = accumulate(1 if bracket == opened else -1 for bracket in brackets)
    return max(levels, default=0) > depth - _ROUNDS


def _batch(body: Mapping[str, Any]) -> tuple[Sequence[Mapping[str, Any]], bool | None]:
    """Return the items of a batch, and the decision at which it stops (``None``: never)."""
    items, options = body.get("evaluations"), body.get("options")
    if options is not None and not isinstance(options, dict):
        raise MalformedRequest("options must be an object", field="/options")
    semantic = (options or {}).get("evaluations_semantic", "execute_all")
    if not isinstance(semantic, str) or semantic not in SEMANTICS:
        raise MalformedRequest(
            f"evaluations_semantic must be one of {', '.join(SEMANTICS)}",
            field="/options/evaluations_semantic",
        )
    if items is None:
        return (), None
    if not isinstance(items, list) or not all(type(item) is dict for item in items):
        raise MalformedRequest("evaluations must be an array of objects", field="/evaluations")
    if len(items) > BATCH_ITEMS_MAX:
        raise MalformedRequest(
            f"evaluations has {len(items)} items, {BATCH_ITEMS_MAX} are allowed",
            field="/evaluations",
        )
    return items, SEMANTICS[semantic]


def action_of(raw: object) -> Entity:
    """Return the name and the properties of an action; raises ``MalformedRequest``."""
    if type(raw) is not dict or type(name := raw.get("name")) is not str:
        raise MalformedRequest("action must be an object with a name", field="/action")
    if not 0 < len(name) <= ACTION_NAME_MAX:
        raise MalformedRequest(
            f"action.name must have 1 to {ACTION_NAME_MAX} characters", field="/action/name"
        )
    properties = raw.get("properties")
    if properties is None:
        return name, _NO_PROPERTIES
    return name, _properties(properties, "action")


def _properties(raw: object, name: str) -> Mapping[str, object]:
    if not isinstance(raw, dict):
        raise MalformedRequest(f"{name}.properties must be an object", field=f"/{name}/properties")
    return raw


# --- why not --------------------------------------------------------------------------------------


def reasons_of(found: Answer) -> list[str]:
    """Return the codes of a denial."""
    return ["unknown_subject"] if found.unknown_subject else ["suspended"]


def explain(found: Answer, subject: str, resource: str) -> dict[str, object]:
    """Return why a request is denied: for the user, for the administrator, for programs.

    ``reason_user`` and ``reason_admin`` are keyed by language, ``reasons`` are codes.
    """
    if found.unknown_subject:
        return {
            "reason_user": {"en": "Access is given to registered users only."},
            "reason_admin": {"en": f"{subject} is not known to the ledger."},
            "reasons": reasons_of(found),
            "suspensions": [],
            "until": None,
        }
    until = _instant_or_none(found.until)
    ending = f"until {until[:16].replace('T', ' ')} UTC" if until else "until further notice"
    words = " ".join(dict.fromkeys(restriction.reason for restriction in found.restrictions))
    by = "; ".join(
        f"{restriction.id} for {clause}" if (clause := _clause(restriction)) else restriction.id
        for restriction in found.restrictions
    )
    return {
        "reason_user": {"en": f"Access to {resource} is suspended {ending}: {words}"},
        "reason_admin": {"en": f"{subject} is suspended from {resource} {ending} by {by}"},
        "reasons": reasons_of(found),
        "suspensions": [
            {
                "id": restriction.id,
                "effective_at": format_instant(from_microseconds(restriction.effective)),
                "ends_at": _instant_or_none(restriction.ends),
                "clause": _clause(restriction),
                "reason": restriction.reason,
                "appeal": APPEAL_HINT,
            }
            for restriction in found.restrictions
        ],
        "until": until,
    }


def _clause(restriction: Restriction) -> str | None:
    clauses = orjson.loads(restriction.clauses)
    return ", ".join(f"{c['policy']} {c['clause']}" for c in clauses) or None


def _instant_or_none(number: int | None) -> str | None:
    if number is None or number == NEVER:
        return None
    return format_instant(from_microseconds(number))


# --- the application ------------------------------------------------------------------------------


class AccessApp:
    """Answers the evaluation paths as a plain ASGI application, every error included.

    A client sends the same headers again and again. Those of an ordinary request are not looked at
    again as long as no key or role has changed since.
    """

    def __init__(self, point: DecisionPoint, feed: Feed, *, closed_port: int | None) -> None:
        self._point = point
        self._feed = feed
        self.closed_port = closed_port  # no checks are answered there
        self._heads: dict[str, dict[tuple[Any, ...], KnownHead]] = {
            path: {} for path in EVALUATION_PATHS
        }
        # Those of an answer at ``_position``, by the length of its body.
        self._position = -1
        self._headers: dict[int, Sequence[tuple[bytes, bytes]]] = {}

    async def elsewhere(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle what is no check."""
        raise NotImplementedError

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request in the order of every other route: who, may, form, answer."""
        if (
            scope["type"] != "http"
            or (heads := self._heads.get(scope["path"])) is None
            or (self.closed_port is not None and scope["server"][1] == self.closed_port)
        ):
            await self.elsewhere(scope, receive, send)
            return
        point = self._point
        head = heads.get(tuple(scope["headers"]))
        try:
            if head is not None and scope["method"] == "POST" and point.still_admits(head):
                if point.counts:
                    self._count(scope, head.caller)
                message = await receive()
                if message["type"] == "http.request" and not message.get("more_body"):
                    raw: bytes = message["body"]
                else:
                    raw = await _body(scope, _again(message, receive), head)
            else:
                head = self._admit(scope)
                raw = await _body(scope, receive, head)
                position = _header(scope, b"ledger-min-position")
                if position is not None:
                    await self._feed.wait_for(_position(position))
            body = point.evaluations(raw) if head.is_batch else point.evaluation(raw)
        except LedgerError as error:
            await self._refuse(problem_of(error), scope, receive, send)
            return
        except Exception:
            log.exception("a check failed")
            await self._refuse(problem_of(internal_error()), scope, receive, send)
            return
        answered = self._headers.get(len(body))
        if answered is None or self._position != point.position:
            answered = self._begin_position(len(body))
        if head.request_id is not None:
            answered = (*answered, (b"x-request-id", head.request_id))
        await send({"type": "http.response.start", "status": 200, "headers": answered})
        await send({"type": "http.response.body", "body": body})

    def _begin_position(self, length: int) -> Sequence[tuple[bytes, bytes]]:
        """Return the headers of an answer that none before had; forget those of other positions."""
        position = self._point.position
        if self._position != position or len(self._headers) >= HEADS_KEPT_MAX:
            self._position, self._headers = position, {}
        made = self._headers[length] = (
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % length),
            (b"ledger-position", b"%d" % position),
        )
        return made

    async def _refuse(self, refusal: Response, scope: Scope, receive: Receive, send: Send) -> None:
        self._point.refused += 1
        request_id = _header(scope, b"x-request-id")
        echoed = new_request_id() if request_id is None else request_id
        refusal.raw_headers.append((b"x-request-id", echoed))
        await refusal(scope, receive, send)

    def _admit(self, scope: Scope) -> KnownHead:
        """Refuse whom the request must not be answered, before anything of its body is read."""
        if scope["method"] != "POST":
            raise MethodNotAllowed("an evaluation is a POST")
        headers = dict(scope["headers"])
        generation = self._point.generation
        caller = self._point.caller(headers.get(b"authorization", b""))
        if caller is None:
            raise NotAuthenticated("the request carries no usable key")
        if caller.role is not Role.SERVICE:
            raise NotAllowed(
                f"{caller.operator} has the role {caller.role}; this needs {Role.SERVICE}"
            )
        request_id = headers.get(b"x-request-id")
        if request_id is not None and not REQUEST_ID.match(request_id):
            raise invalid_header("X-Request-ID", "must have 1 to 256 printable ASCII characters")
        self._count(scope, caller)
        length = headers.get(b"content-length", b"")
        is_batch = scope["path"] == EVALUATIONS_PATH
        is_ordinary = (
            headers.get(b"content-type", b"").lower() in JSON_TYPES
            and b"content-encoding" not in headers
            and length.isdigit()
            and 0 < int(length) <= _LIMITS[is_batch]
        )
        head = KnownHead(
            int(length) if is_ordinary else 0, is_batch, caller, generation, request_id
        )
        size = sum(len(name) + len(value) for name, value in scope["headers"])
        if is_ordinary and b"ledger-min-position" not in headers and size <= HEAD_BYTES_MAX:
            heads = self._heads[scope["path"]]
            if len(heads) >= HEADS_KEPT_MAX:
                heads.clear()
            heads[tuple(scope["headers"])] = head
        return head

    def _count(self, scope: Scope, caller: Caller) -> None:
        if not scope.get("state", _NO_PROPERTIES).get(COUNTED_KEY):
            self._point.count(caller)


def _position(raw: bytes) -> int:
    if not POSITION.match(raw.decode("latin-1")):
        raise invalid_header("Ledger-Min-Position", "must be a position, like 41")
    return int(raw)


def _header(scope: Scope, name: bytes) -> bytes | None:
    headers: dict[bytes, bytes] = dict(scope["headers"])
    return headers.get(name)


async def _body(scope: Scope, receive: Receive, head: KnownHead) -> bytes:
    """Return the body of a request; the ordinary one is read without more ado."""
    if head.length:
        message = await receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            body: bytes = message["body"]
            return body
        receive = _again(message, receive)
    try:
        return await read_body(Request(scope, receive), _LIMITS[head.is_batch])
    except UnsupportedMediaType as error:
        raise MalformedRequest(str(error)) from None  # AuthZEN 1.0: every fault of form is a 400


def _again(first: Message, receive: Receive) -> Receive:
    """Return a ``receive`` that gives ``first`` once more before what follows."""
    waiting = [first]

    async def receive_again() -> Message:
        return waiting.pop() if waiting else await receive()

    return receive_again
