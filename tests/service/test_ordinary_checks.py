"""What is remembered of an ordinary check never changes what is answered.

A check of the ordinary form is taken apart without calls, and a denial is remembered until an event
may change it or its time is over. The peer of each answer here is that of a ``DecisionPoint`` that
remembers nothing yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from ledger.domain.events import SubjectSuspended
from ledger.domain.values import (
    ID_BYTES_MAX,
    Basis,
    Cause,
    Scope,
    Subject,
    format_instant,
)
from ledger.domain.values import Resource as ResourceOf
from ledger.service.feed import Feed
from ledger.service.http.authzen import (
    ACTION_NAME_MAX,
    TIMED_EVERY,
    DecisionPoint,
)
from ledger.service.http.problems import MalformedRequest
from ledger.service.wiring import Service
from projections.access import AccessIndex
from projections.operators import Keyring
from tests.checks import check_ledger
from tests.conftest import SetClock
from tests.histories import OFFICER, awake, founded

ANN: Final = Subject(type="user", id="ann")
ACME: Final = Subject(type="organization", id="acme")
ASKED: Final[dict[str, Any]] = {
    "subject": {"type": "user", "id": "ann"},
    "action": {"name": "use"},
    "resource": {"type": "model", "id": "m1"},
}
MODELS: Final = {"resources": [{"type": "model"}]}
ANOTHER_ACTION: Final = {**MODELS, "actions": ["train"]}
"""A suspension from this leaves nobody free, so nobody is answered for being free."""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A service whose memory follows its own writes, without a thread."""
    service = awake(founded(tmp_path, SetClock()))
    yield service
    check_ledger(service)
    service.recorder.store.close()


def clock_of(service: Service) -> SetClock:
    """Return the clock that a test may set."""
    assert isinstance(service.clock, SetClock)
    return service.clock


def point_of(service: Service, **more: Any) -> DecisionPoint:
    """Return a decision point that remembers nothing."""
    return DecisionPoint(service.index, service.keyring, service.feed, service.now_us, **more)


def suspend(
    service: Service,
    subject: Subject = ANN,
    scope: Mapping[str, Any] = MODELS,
    **more: Any,
) -> str:
    """Suspend a subject, without an end unless one is given; return the suspension's id."""
    done = service.ledger.suspend(
        subject,
        scope=Scope.model_validate(scope),
        indefinite=not more,
        basis=Basis.LEGAL_ORDER,
        reason="An order.",
        by=OFFICER,
        **more,
    )
    event = done.recorded.event
    assert isinstance(event, SubjectSuspended)
    return event.suspension


def answered(point: DecisionPoint, body: bytes) -> bytes | str:
    """Return the answer, or what is wrong with the request."""
    try:
        return point.evaluation(body)
    except MalformedRequest as error:
        return f"{error.field} {error}"


def changed(entity: str, **members: object) -> dict[str, Any]:
    """Return an ordinary check of which one entity has other members."""
    return {**ASKED, entity: {**ASKED[entity], **members}}


BODIES: Final[Mapping[str, object]] = {
    "an ordinary check": ASKED,
    "of somebody who is free": changed("subject", id="bob"),
    "another action": changed("action", name="train"),
    "another resource": changed("resource", id="m2"),
    "the longest id": changed("subject", id="i" * ID_BYTES_MAX),
    "an id too long": changed("subject", id="i" * (ID_BYTES_MAX + 1)),
    "no id": changed("subject", id=""),
    "an id that cannot be printed": changed("subject", id="a\u007f"),
    "an id beyond ASCII": changed("subject", id="zoë"),
    "an id that is a number": changed("subject", id=7),
    "an id that is an object": changed("subject", id={}),
    "a type that was never seen": changed("subject", type="crew"),
    "a type that is none": changed("subject", type="No Type"),
    "a type that is a list": changed("subject", type=[]),
    "properties": changed("subject", properties={"plan": "free"}),
    "properties that are null": changed("subject", properties=None),
    "properties that are none": changed("subject", properties=7),
    "another member": changed("subject", x=[[]]),
    "a resource with properties": changed("resource", properties={"tier": "open"}),
    "a resource with another member": changed("resource", x=1),
    "a resource whose id is a list": changed("resource", id=[]),
    "an action with properties": changed("action", properties={"rate": 1}),
    "an action with another member": changed("action", x=1),
    "the longest action": changed("action", name="n" * ACTION_NAME_MAX),
    "an action too long": changed("action", name="n" * (ACTION_NAME_MAX + 1)),
    "an action without a name": changed("action", name=""),
    "an action whose name is a list": changed("action", name=[]),
    "a context": {**ASKED, "context": {}},
    "a context with further subjects": {
        **ASKED,
        "context": {"subjects": [{"type": "organization", "id": "acme"}]},
    },
    "a context that is none": {**ASKED, "context": 7},
    "a member besides": {**ASKED, "x": 1},
    "a subject that is a text": {**ASKED, "subject": "ann"},
    "a subject that is a list": {**ASKED, "subject": ["type", "id"]},
    "a resource that is null": {**ASKED, "resource": None},
    "no action": {name: ASKED[name] for name in ("subject", "resource")},
    "an array": [ASKED],
    "null": None,
}


def test_a_check_is_answered_the_same_before_and_after_its_parts_are_known(
    service: Service,
) -> None:
    """Types, resources and denials are remembered; whoever remembers none says the same."""
    suspend(service, scope={"resources": [{"type": "model"}], "actions": ["use"]})
    suspend(service, ACME)
    bodies = {name: orjson.dumps(body) for name, body in BODIES.items()}
    known = point_of(service)
    for _ in range(2):
        for body in bodies.values():
            answered(known, body)

    fresh = {name: answered(point_of(service), body) for name, body in bodies.items()}

    assert fresh == {name: answered(known, body) for name, body in bodies.items()}
    assert {bytes, str} == {type(answer) for answer in fresh.values()}


Change = Callable[[Service, str], object]

CHANGES: Final[Mapping[str, tuple[Mapping[str, Any], bool, Change]]] = {
    "a reinstatement": (
        MODELS,
        True,
        lambda service, suspension: service.ledger.reinstate(
            suspension, cause=Cause.EARLY, reason="Settled.", by=OFFICER
        ),
    ),
    "a group that loses the model": (
        {"resources": [{"group": "some"}]},
        True,
        lambda service, _: service.ledger.define_group("some", resources=(), by=OFFICER),
    ),
    "a model whose properties no longer meet the condition": (
        {
            **MODELS,
            "conditions": [{"attribute": "resource.properties.tier", "in": ["restricted"]}],
        },
        True,
        lambda service, _: service.ledger.list_resource(
            ResourceOf(type="model", id="m1"), properties={"tier": "open"}, by=OFFICER
        ),
    ),
    "a second suspension": (
        MODELS,
        False,
        lambda service, _: suspend(service),
    ),
    "something else": (
        MODELS,
        False,
        lambda service, _: suspend(service, ACME),
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_denial_is_remembered_until_an_event_may_change_it(service: Service, name: str) -> None:
    """Every answer after the event is that of a decision point that has just begun."""
    scope, lifts, change = CHANGES[name]
    model = ResourceOf(type="model", id="m1")
    service.ledger.define_group("some", resources=(model,), by=OFFICER)
    service.ledger.list_resource(model, properties={"tier": "restricted"}, by=OFFICER)
    suspend(service, scope=ANOTHER_ACTION)
    suspension = suspend(service, scope=scope)
    body, point = orjson.dumps(ASKED), point_of(service)
    before = [point.evaluation(body) for _ in range(3)]
    assert [False] * 3 == [orjson.loads(one)["decision"] for one in before]

    change(service, suspension)

    after = [point.evaluation(body) for _ in range(3)]
    assert [point_of(service).evaluation(body)] * 3 == after
    assert orjson.loads(after[0])["decision"] is lifts
    assert orjson.loads(after[0])["context"]["position"] == service.index.position


class Asking(AccessIndex):
    """An index that is asked after each step of taking in an event."""

    def __init__(self) -> None:
        self.ask: Callable[[], object] = lambda: None
        super().__init__()

    def __setattr__(self, name: str, value: object) -> None:
        """Take the step, then be asked."""
        super().__setattr__(name, value)
        if name != "ask":
            self.ask()


def test_a_remembered_denial_claims_no_event_that_it_missed(service: Service) -> None:
    """Denied at a position means: by what holds after every event up to that position."""
    suspend(service, scope=ANOTHER_ACTION)
    suspension = suspend(service)
    index, keyring = Asking(), Keyring()
    for recorded in service.recorder.events():
        index.apply(recorded)
    point = DecisionPoint(
        index, keyring, Feed(service.recorder, (index,)), lambda: index.recorded_at
    )
    done = service.ledger.reinstate(suspension, cause=Cause.EARLY, reason="Settled.", by=OFFICER)
    said: list[tuple[bool, int]] = []

    def ask() -> None:
        answer = orjson.loads(point.evaluation(orjson.dumps(ASKED)))
        said.append((answer["decision"], answer["context"]["position"]))

    ask()
    ask()
    index.ask = ask
    index.apply(done.recorded)

    position = done.recorded.position
    assert [(False, position - 1)] * 2 == said[:2]
    assert (True, position) == said[-1]
    assert (False, position) not in said


def test_a_denial_through_a_parent_ends_with_the_link(service: Service) -> None:
    """What the subject inherits is remembered no longer than it inherits."""
    service.ledger.link(ANN, parent=ACME, by=OFFICER)
    suspend(service, scope=ANOTHER_ACTION)
    suspend(service, ACME)
    body, point = orjson.dumps(ASKED), point_of(service)
    before = [orjson.loads(point.evaluation(body))["decision"] for _ in range(2)]

    service.ledger.unlink(ANN, parent=ACME, by=OFFICER)

    after = [orjson.loads(point.evaluation(body))["decision"] for _ in range(2)]
    assert [False, False, True, True] == [*before, *after]


def test_a_denial_is_remembered_up_to_its_end_and_no_longer(service: Service) -> None:
    """At the last microsecond it is denied, at the end it is not; and again if the clock errs."""
    clock = clock_of(service)
    end = clock.now + timedelta(hours=1)
    suspend(service, ends_at=end)
    body, point = orjson.dumps(ASKED), point_of(service)
    said = []
    for instant in (
        clock.now,
        end - timedelta(microseconds=1),
        end,
        end - timedelta(microseconds=1),
    ):
        clock.now = instant
        answer = point.evaluation(body)
        assert point_of(service).evaluation(body) == answer
        said.append(orjson.loads(answer)["decision"])
    assert [False, False, True, False] == said


def test_a_denial_by_one_is_not_remembered_while_another_is_to_begin(service: Service) -> None:
    """The second gives its reasons from its first instant, without an event that says so."""
    clock = clock_of(service)
    first = suspend(service)
    begins = clock.now + timedelta(hours=1)
    second = suspend(service, effective_at=begins, duration="P1D")
    body, point = orjson.dumps(ASKED), point_of(service)
    named = []
    for instant in (clock.now, begins - timedelta(microseconds=1), begins):
        clock.now = instant
        answers = [orjson.loads(point.evaluation(body)) for _ in range(2)]
        assert answers[0] == answers[1]
        named.append([one["id"] for one in answers[0]["context"]["suspensions"]])
    assert [[first], [first], [first, second]] == named


def test_the_instant_of_a_denial_is_that_of_the_clock_to_the_microsecond(service: Service) -> None:
    """The part that a second has in common is made again with each second, back too."""
    clock = clock_of(service)
    suspend(service)
    body, point = orjson.dumps(ASKED), point_of(service)
    start = clock.now + timedelta(hours=1)
    for offset_us in (0, 1, 999_999, 1_000_000, 999_000, 61_000_001, 500, -1):
        clock.now = start + timedelta(microseconds=offset_us)
        assert format_instant(clock.now) == orjson.loads(point.evaluation(body))["context"]["as_of"]


def test_a_remembered_denial_says_when_the_log_is_doubted(service: Service) -> None:
    """What was made before is made again with the mark."""
    suspend(service)
    body, point = orjson.dumps(ASKED), point_of(service)
    before = [orjson.loads(point.evaluation(body))["context"] for _ in range(2)]

    point.mark_log_doubted()

    after = [orjson.loads(point.evaluation(body))["context"] for _ in range(2)]
    assert [None, None, *["not_verified"] * 2] == [one.get("log") for one in (*before, *after)]


def test_remembered_checks_are_counted_and_one_in_so_many_is_timed(service: Service) -> None:
    """Each denial counts, remembered or not, and so does each permit."""
    suspend(service)
    seconds: list[float] = []
    observe = {"single": seconds.append, "batch": seconds.append}
    point = point_of(service, observe=observe)
    for _ in range(TIMED_EVERY):
        point.evaluation(orjson.dumps(ASKED))
        point.evaluation(orjson.dumps(BODIES["of somebody who is free"]))
    assert (TIMED_EVERY, TIMED_EVERY, 2) == (point.denied, point.allowed, len(seconds))
