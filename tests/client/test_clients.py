"""The client against a real server: every route, typed answers, pages, problems, positions."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import pytest

from ledger import client as package
from ledger.client import (
    AsyncClient,
    Client,
    Conflict,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    Refused,
    TooManyRequests,
    Unavailable,
    answers,
    question,
)
from ledger.client.call import NAMES_OF_PARAMETERS, ListMethod, Method
from ledger.client.decisions import LINES_TOGETHER_MAX
from ledger.client.problems import KINDS
from ledger.client.reading import Times
from ledger.domain.errors import InvalidValue
from ledger.domain.values import Cause, Resource, ResourcesOfGroup, Scope, Subject
from tests.service.conftest import FRONTIER, POLICY, Running, suspension_of, violation_of

# What these answer is for other programs: gateways, monitors, AuthZEN clients.
NOT_IN_THE_CLIENT = {
    "GET /.well-known/authzen-configuration",
    "GET /livez",
    "GET /metrics",
    "GET /v1/access/changes",
    "GET /v1/access/snapshot",
}
# Streams and documents, which are read by other means where they are served.
STREAMED = {
    "GET /transparency",
    "GET /transparency.json",
    "GET /transparency/plot/{name}.svg",
    "GET /v1/events/stream",
    "GET /v1/report",
    *(
        f"GET /v1/{view}/export{manifest}"
        for view in ("events", "suspensions", "violations", "reinstatements", "warnings")
        for manifest in ("", "/manifest")
    ),
}
CLAUSES: Any = POLICY["clauses"]
SHAPES: dict[str, type[answers.Answer]] = {
    "AccessAnswer": answers.Access,
    "BatchAnswer": answers.BatchAnswer,
    "CommandAnswer": answers.Recorded,
    "ConsistencyAnswer": answers.Consistency,
    "CountsAnswer": answers.Counts,
    "ErasureView": answers.Erasure,
    "EventView": answers.Event,
    "GroupView": answers.Group,
    "HoldView": answers.Hold,
    "InclusionAnswer": answers.Inclusion,
    "KeyAnswer": answers.KeyIssued,
    "KeyView": answers.Key,
    "LinksView": answers.Links,
    "ListedSuspension": answers.Suspension,
    "OperatorView": answers.Operator,
    "PolicyVersionView": answers.PolicyVersion,
    "PolicyView": answers.Policy,
    "Ready": answers.Ready,
    "RecordAnswer": answers.Record,
    "ReinstatementView": answers.Reinstatement,
    "ResourceAccess": answers.ResourceAccess,
    "ResourceView": answers.ListedResource,
    "StatusAnswer": answers.Status,
    "SuspensionView": answers.SuspensionInForce,
    "ViolationView": answers.Violation,
    "WarningView": answers.IssuedWarning,
    "WitnessStanding": answers.Witness,
}


@pytest.fixture(scope="module")
def clients(shared: Running) -> Iterator[dict[str, Client]]:
    """A client for each role."""
    made = {role: Client(shared.url, key) for role, key in shared.keys.items()}
    yield made
    for one in made.values():
        one.close()


def methods() -> dict[str, Method[Any, Any] | ListMethod[Any, Any]]:
    """Every method of the client that sends requests, by its name."""
    found = {name: getattr(Client, name) for name in dir(Client) if not name.startswith("_")}
    return {name: one for name, one in found.items() if isinstance(one, Method | ListMethod)}


def test_every_route_has_its_method(shared: Running) -> None:
    """What people and machines can ask over HTTP, they can ask the client."""
    paths = shared.http.get("/openapi.json").json()["paths"]
    routes = {f"{method.upper()} {path}" for path, found in paths.items() for method in found}

    assert routes - NOT_IN_THE_CLIENT - STREAMED == {method.route for method in methods().values()}
    assert NOT_IN_THE_CLIENT <= routes
    assert all(method.__doc__ for method in methods().values())


def test_every_parameter_of_a_route_can_be_given(shared: Running) -> None:
    """A method takes what its route takes, under the same name or the one that stands for it."""
    paths = shared.http.get("/openapi.json").json()["paths"]
    missing = {}
    for name, method in methods().items():
        verb, _, path = method.route.partition(" ")
        described = method.__wrapped__
        given = set(inspect.signature(described).parameters)
        for hint in get_type_hints(described).values():
            for filters in get_args(hint):
                given |= set(getattr(filters, "__annotations__", ()))
        given = {NAMES_OF_PARAMETERS.get(each, each) for each in given}
        parameters = paths[path][verb.lower()].get("parameters", [])
        wanted = {each["name"] for each in parameters if each["in"] == "query"} - {"cursor"}
        if wanted - given:
            missing[name] = wanted - given

    assert {} == missing


def test_every_answer_has_the_members_that_the_ledger_describes(shared: Running) -> None:
    """The shapes of the client are those of the OpenAPI document, member for member."""
    schemas = shared.http.get("/openapi.json").json()["components"]["schemas"]
    schemas["BatchAnswer"] = {"properties": dict.fromkeys(answers.BatchAnswer.model_fields)}

    assert {name: set(schemas[name]["properties"]) for name in SHAPES} == {
        name: {field.alias or member for member, field in shape.model_fields.items()}
        for name, shape in SHAPES.items()
    }


def test_a_decision_is_recorded_and_read_back(shared: Running, clients: dict[str, Client]) -> None:
    """The founding story in a few lines: a violation, a suspension, a check, a reinstatement."""
    officer, auditor, service = (clients[role] for role in ("officer", "auditor", "service"))
    violation = officer.acting_for("user:jane").record_violation(
        "user:ann",
        policy="aup",
        clause="fraud",
        occurred_at=shared.clock(),
        detected_by="human",
        summary="Phishing.",
        details="The whole text.",
        evidence=[{"uri": "s3://x", "sha256": "0" * 64}],
        resources=["model:atlas-3"],
    )
    suspension = officer.suspend(
        Subject(type="user", id="ann"),
        scope=Scope(resources=(ResourcesOfGroup(group="frontier"),)),
        duration="P2M",
        grounds=[violation.id],
        reason="Phishing.",
    )

    refused = service.at_least(officer.position).evaluate("user:ann", "use", "model:atlas-3")

    assert "user:jane" == violation.event.on_behalf_of
    assert not refused.decision
    assert [suspension.id] == [each.id for each in refused.context.suspensions]
    assert refused.context.position == suspension.position == officer.position
    several = service.evaluate_many(
        [question(resource=f"model:{model}") for model in ("atlas-3", "mini-2")],
        common=question("user:ann", "use"),
    )
    assert [False, True] == [each.decision for each in several.evaluations]
    shown = auditor.suspension(suspension.id)
    assert ("in_force", [violation.id]) == (shown.state, shown.grounds)
    assert (ResourcesOfGroup(group="frontier"),) == shown.scope.resources
    assert auditor.violation(violation.id, reveal=True).as_json()["details"] == "The whole text."
    ended = officer.reinstate(suspension.id, cause=Cause.EARLY, reason="She has complied.")
    assert service.at_least(ended.position).evaluate("user:ann", "use", "model:atlas-3").decision
    assert [ended.id] == [each.id for each in auditor.reinstatements(subject="user:ann")]
    with pytest.raises(Conflict) as error:
        officer.reinstate(suspension.id, cause="early", reason="Again.")
    assert ("already_ended", 409) == (error.value.code, error.value.status)
    assert {"ended_by": ended.position}.items() <= error.value.more.items()
    assert error.value.hint
    assert error.value.request_id


def test_every_other_command_is_sent_as_its_route_wants_it(
    shared: Running, clients: dict[str, Client]
) -> None:
    """Each method's arguments become the body that the ledger takes."""
    officer, admin, approver = (clients[role] for role in ("officer", "admin", "approver"))
    assert officer.register("user:ben", {"plan": "team"}).position
    officer.link("user:ben", "organization:acme")
    assert "organization:acme" == officer_record(clients).links.parents[0].subject.key
    officer.unlink("user:ben", "organization:acme")
    violation = violation_of(shared, "user:ben")
    warned = officer.warn("user:ben", reason="Please read it.", grounds=[violation])
    assert clients["auditor"].warning(warned.id).grounds == [violation]
    planned = suspension_of(shared, "user:ben", effective_at="2027-01-01T00:00:00Z")
    officer.revise(planned, duration="P1M", reason="Shorter.")
    officer.cancel(planned, reason="No need.")
    assert "cancelled" == clients["auditor"].suspension(planned).state
    approver.overturn(violation, reason="It was a test.")
    policy = admin.publish("other", title="Other", clauses=CLAUSES)
    assert policy.id == admin.policy("other").versions[0].policy == "other@1"
    assert {"aup", "other"} == {each.id for each in admin.policies(page_size=1)}
    admin.list_resource("model:new-1", properties={"status": "preview"}, actions=["use"])
    assert "model:new-1" in [each.resource.key for each in admin.resources(page_size=2)]
    admin.define_group("tests", [Resource(type="model", id="new-1"), "model:mini-2"])
    assert ["new-1", "mini-2"] == [each.id for each in admin.group("tests").resources]
    assert ["frontier", "tests"] == [each.id for each in admin.groups()]
    admin.enroll("second", role="auditor")
    key = admin.issue_key("second", label="one", expires_at="2027-01-01T00:00:00Z")
    assert key.key
    assert key.key.startswith("clk_")
    admin.revoke_key(key.id)
    second = next(each for each in admin.operators() if each.id == "second")
    assert second.keys[0].revoked_at is not None
    hold = admin.place_hold("user:ben", reason="A case.")
    assert "stands" == admin.hold(hold.id).state
    admin.lift_hold(hold.id)
    assert [hold.id] == [each.id for each in admin.holds(state="lifted")]
    erasure = admin.request_erasure("user:ben", reason="He asked.")
    approver.confirm_erasure(erasure.id)
    assert "erased" == approver.erasure(erasure.id).state
    assert [erasure.id] == [each.id for each in approver.erasures(subject="user:ben")]


def officer_record(clients: dict[str, Client]) -> answers.Record:
    """Ben's record, no older than what the officer has recorded."""
    return clients["officer"].record("user:ben")


def test_a_list_goes_on_page_after_page(shared: Running, clients: dict[str, Client]) -> None:
    """Every item comes once and in order, whatever the size of the pages, whichever the client."""
    auditor = clients["auditor"].at_least(shared.service.recorder.position)
    by_one_request = list(auditor.events(order="oldest"))

    pages = list(auditor.events(order="oldest", page_size=7).pages())

    assert [each for page in pages for each in page.items] == by_one_request
    assert list(range(1, len(by_one_request) + 1)) == [each.position for each in by_one_request]
    assert {7} == {len(page.items) for page in pages[:-1]}
    assert None is pages[-1].next

    async def listed() -> list[answers.Event]:
        async with AsyncClient(shared.url, shared.keys["auditor"]) as asking:
            return [each async for each in asking.events(order="oldest", page_size=9)]

    assert by_one_request == asyncio.run(listed())


def test_filters_and_times_are_sent_under_their_names(
    shared: Running, clients: dict[str, Client]
) -> None:
    """A list of types, an instant and a subject arrive as the route reads them."""
    auditor = clients["auditor"]
    found = list(
        auditor.events(
            types=["group.defined", "policy.published"],
            recorded_from=shared.clock(),
            order="oldest",
            subject=None,
        )
    )

    assert {"group.defined", "policy.published"} == {each.type for each in found}
    counted = auditor.counts(types=["group.defined"], known_position=found[-1].position)
    assert counted.total == len([each for each in found if each.type == "group.defined"])
    assert [] == list(auditor.events(subject="user:nobody"))
    assert [] == list(auditor.suspensions(known_position=1, review=False, model="atlas-3"))
    with pytest.raises(ValueError, match="must have an offset"):
        auditor.access("user:ann", at=shared.clock().replace(tzinfo=None))
    with pytest.raises(InvalidValue, match="must have the form type:id"):
        clients["service"].evaluate("ann", "use", "model:atlas-3")


def test_an_id_is_escaped_in_a_path(clients: dict[str, Client]) -> None:
    """An id is one part of a path, whatever is in it."""
    admin = clients["admin"]
    admin.enroll("team 1 & ü?#", role="auditor")

    assert "team 1 & ü?#" == admin.issue_key("team 1 & ü?#").event.data["operator"]


def test_searches_are_paged_by_their_tokens(clients: dict[str, Client]) -> None:
    """The three searches, each page asked for with the token of the one before."""
    officer, service = clients["officer"], clients["service"]
    for name in ("s1", "s2", "s3"):
        officer.register(f"user:{name}")
    service.at_least(officer.position)

    users = [
        each.id for each in service.search_subjects("user", "use", "model:mini-2", page_size=2)
    ]

    assert {"s1", "s2", "s3"} <= set(users)
    assert sorted(set(users)) == users
    models = [each.id for each in service.search_resources("user:s1", "use", page_size=2)]
    assert set(FRONTIER) <= set(models)
    assert ["use"] == [each.name for each in service.search_actions("user:s1", "model:mini-2")]


def test_a_batch_is_sent_in_requests_of_its_own(clients: dict[str, Client]) -> None:
    """Lines are numbered through, and a refused one is answered like any other."""
    officer = clients["officer"]
    lines: list[dict[str, Any]] = [
        {
            "method": "PUT",
            "path": "/v1/subjects",
            "body": {"subject": {"type": "user", "id": f"many-{number}"}},
        }
        for number in range(501)
    ]
    lines[3]["path"] = "/v1/nothing"

    pages = list(officer.batch(lines).pages())

    answered = [each for page in pages for each in page.items]
    assert [500, 1] == [len(page.items) for page in pages]
    assert list(range(1, 502)) == [each.line for each in answered]
    assert [404] == [each.status for each in answered if each.problem]
    assert officer.position == max(each.position or 0 for each in answered)


@pytest.mark.parametrize(("lines", "more"), [(LINES_TOGETHER_MAX, False), (501, True)])
def test_as_many_lines_as_may_be_are_one_request(lines: int, *, more: bool) -> None:
    """A request has 500 lines; what is beyond goes with the next."""
    first = Client.batch.first([{"method": "POST", "path": "/v1/warnings"}] * lines)

    assert first.call.content is not None
    assert LINES_TOGETHER_MAX == first.call.content.count(b"\n")
    assert more == (first.following(answers.Page[answers.BatchAnswer](items=[])) is not None)


def test_proofs_and_tiles_are_what_the_log_serves(
    shared: Running, clients: dict[str, Client]
) -> None:
    """Text stays text and bytes stay bytes, for the verifier that checks them."""
    auditor = clients["auditor"]

    assert auditor.proof(3).startswith("c2sp.org/tlog-proof@v1")
    size = int(auditor.checkpoint().splitlines()[1])
    assert auditor.inclusion(3, size=size).leaf_index == 2
    assert auditor.consistency(2, size).from_ == 2
    assert 32 * min(size, 256) == len(auditor.tile("0/000" if size >= 256 else f"0/000.p/{size}"))
    assert "ready" == auditor.ready().status


def test_problems_are_exceptions_of_their_kind(shared: Running, clients: dict[str, Client]) -> None:
    """Each says its code, its hint and the member at fault."""
    with pytest.raises(Refused) as refused:
        clients["officer"].suspend("user:ann", scope={"resources": []}, reason="", duration="P2M")
    assert ("invalid_request", "/scope/resources") == (refused.value.code, refused.value.field)
    assert ["#/scope/resources", "#/reason"] == [each["pointer"] for each in refused.value.errors]
    with pytest.raises(NotFound):
        clients["auditor"].violation("vio_none")
    with pytest.raises(NotAllowed):
        clients["service"].record_violation(
            "user:ann",
            policy="aup",
            clause="fraud",
            occurred_at=shared.clock(),
            detected_by="human",
            summary="x",
        )
    with Client(shared.url, "clk_wrong") as stranger, pytest.raises(NotAuthenticated):
        stranger.record("user:ann")
    assert (TooManyRequests, Unavailable) == (KINDS[429], KINDS[503])


def test_status_counts_what_the_lists_hold(shared: Running, clients: dict[str, Client]) -> None:
    """Each figure is the length of a list, at any time and as known at any position."""
    officer, auditor = clients["officer"], clients["auditor"]
    for name, term in (("due", {"duration": "P10D"}), ("long", {"indefinite": True})):
        suspension_of(shared, f"user:{name}", **term)
    suspension_of(shared, "user:due", duration="P20D", reinstatement="on_review")
    later = suspension_of(shared, "user:later", effective_at="2027-02-01T00:00:00Z")
    known = officer.cancel(later, reason="No need.").position - 1

    instants = ("2026-12-06T00:00:00Z", "2027-03-01T00:00:00Z")
    for times in (Times(), *(Times(at=instant) for instant in instants)):
        for position in (known, known + 1):
            times["known_position"] = position
            status = auditor.status(**times)
            in_force = list(auditor.suspensions(state="in_force", **times))
            scheduled = list(auditor.suspensions(state="scheduled", **times))
            due = [
                each
                for each in in_force
                if each.ends_at and status.at < each.ends_at <= status.due_until
            ]
            waiting = list(auditor.suspensions(review=True, **times))
            assert len(in_force) == status.in_force
            assert len({each.subject.key for each in in_force}) == status.restricted_subjects
            assert len(scheduled) == status.scheduled
            assert (len(due), len(waiting)) == (status.due, status.review)
            assert status.checkpoint is None or status.checkpoint.size <= position
    assert "9999-12-31" == auditor.status(at="9999-12-31T00:00:00Z").as_json()["due_until"][:10]


def test_the_package_says_what_it_offers() -> None:
    """Every name of the package is there."""
    assert sorted(package.__all__) == package.__all__
    assert all(hasattr(package, name) for name in package.__all__)
