"""Policies, resources and groups: what is judged by, and what access is to."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import Path, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from ledger.domain.catalogue import Catalogue
from ledger.domain.errors import EffectiveInPast, NotFound
from ledger.domain.events import Clause, GroupDefined, PolicyPublished, Recorded
from ledger.domain.policy import Policy
from ledger.domain.values import (
    ACTIONS_MAX,
    CLAUSES_MAX,
    GROUP_RESOURCES_MAX,
    Instant,
    Name,
    Properties,
    Resource,
    Role,
    Title,
    Value,
    format_instant,
)
from ledger.service.http.route import Command, allow, answer, router, service_of
from ledger.service.http.shapes import (
    Item,
    KeyedItem,
    Page,
    PageByKeyAsked,
    Times,
    TimeTravel,
    Travel,
    command_responses,
    example,
    page_by_key,
    read_responses,
)

routes = router("catalogue")
EVERYBODY = tuple(Role)
NamePath = Annotated[
    str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", description="The id, a name.")
]


class PolicyRequest(Value):
    """The words of a policy's next version."""

    model_config = example(
        {
            "title": "Acceptable use policy",
            "clauses": [
                {
                    "id": "fraud",
                    "title": "Fraud",
                    "text": "Do not use the models to deceive people for gain.",
                    "category": "fraud",
                    "severity": "high",
                }
            ],
        }
    )
    title: Title = Field(examples=["Acceptable use policy"])
    clauses: Annotated[tuple[Clause, ...], Field(min_length=1, max_length=CLAUSES_MAX)]
    effective_at: Instant | None = Field(
        default=None,
        description=(
            "From when conduct is judged by it; now when absent. Only the first version may be in "
            "force from before now."
        ),
    )


class ResourceRequest(Value):
    """A resource's entry in the catalogue, which replaces the one it had."""

    model_config = example(
        {
            "resource": {"type": "model", "id": "atlas-3"},
            "properties": {"status": "preview"},
            "actions": ["use", "fine-tune"],
        }
    )
    resource: Resource = Field(examples=[{"type": "model", "id": "atlas-3"}])
    properties: Properties = Field(default_factory=dict, examples=[{"status": "preview"}])
    actions: Annotated[tuple[Name, ...], Field(min_length=1, max_length=ACTIONS_MAX)] | None = (
        Field(default=None, description="What can be done with it; use when absent.")
    )


class GroupRequest(Value):
    """The members of a group, which replace those it had."""

    model_config = example({"resources": [{"type": "model", "id": "atlas-3"}]})
    resources: Annotated[tuple[Resource, ...], Field(max_length=GROUP_RESOURCES_MAX)]


class PolicyVersionView(BaseModel):
    """One version of a policy, for ever as it was published."""

    policy: str = Field(examples=["acceptable-use@1"])
    version: int
    title: str
    effective_at: Instant
    clauses: list[Clause]
    position: int
    recorded_at: Instant
    operator: str


class PolicyView(BaseModel):
    """A policy: the number of its newest version, and every version."""

    id: str = Field(examples=["acceptable-use"])
    version: int
    versions: list[PolicyVersionView]


class ResourceView(BaseModel):
    """A resource's entry in the catalogue, and the groups that hold it."""

    resource: Resource
    properties: Properties
    actions: list[str] = Field(examples=[["use"]])
    groups: list[str] = Field(examples=[["frontier"]])


class GroupView(BaseModel):
    """A group and its members."""

    id: str = Field(examples=["frontier"])
    resources: list[Resource]


@routes.put(
    "/v1/policies/{id}",
    status_code=201,
    summary="Publish the next version of a policy",
    openapi_extra=allow(Role.ADMIN, command=True),
    responses=command_responses(EffectiveInPast, may_hold=True),
)
def publish(request: Request, id: NamePath, body: PolicyRequest) -> Command:
    """Publish version n+1; 200 with the newest version when it says the same already."""
    ledger = service_of(request).ledger
    return Command(
        partial(
            ledger.publish,
            id,
            title=body.title,
            clauses=body.clauses,
            effective_at=body.effective_at,
        ),
    )


@routes.get(
    "/v1/policies",
    summary="List policies",
    openapi_extra=allow(*EVERYBODY),
    responses=read_responses(Page[PolicyView]),
)
def policies(request: Request, asked: PageByKeyAsked, travel: Travel) -> Response:
    """List every policy with all its versions, by id."""
    service = service_of(request)
    with service.reading() as (_, head):
        times = travel.resolve(service, head)
        found = service.ledger.policies(position=times.position)
    keyed = [(policy.id, _policy(policy)) for policy in found]
    return page_by_key(request, asked, keyed, times.position)


@routes.get(
    "/v1/policies/{id}",
    summary="One policy with all its versions",
    openapi_extra=allow(*EVERYBODY),
    responses=read_responses(PolicyView, NotFound),
)
def policy(request: Request, id: NamePath, travel: Travel) -> Response:
    """Return a policy and the versions that were ever published."""
    service = service_of(request)
    with service.reading() as (_, head):
        times = travel.resolve(service, head)
        found = {policy.id: policy for policy in service.ledger.policies(position=times.position)}
    if id not in found:
        raise NotFound(f"no policy {id!r} was published")
    return answer(_policy(found[id]), position=times.position)


def _policy(found: Policy) -> dict[str, Any]:
    versions = []
    for recorded in found.published:
        event = recorded.event
        assert isinstance(event, PolicyPublished)
        versions.append(
            {
                "policy": event.about,
                "version": event.version,
                "title": event.title,
                "effective_at": format_instant(event.effective_at),
                "clauses": [clause.model_dump() for clause in event.clauses],
                **_origin(recorded),
            }
        )
    return {"id": found.id, "version": versions[-1]["version"], "versions": versions}


def _origin(recorded: Recorded) -> dict[str, object]:
    return {
        "position": recorded.position,
        "recorded_at": format_instant(recorded.recorded_at),
        "operator": recorded.author.operator,
    }


def _catalogue(request: Request, travel: TimeTravel) -> tuple[Times, Catalogue]:
    """Return the two times asked for, and the catalogue as it was known then."""
    service = service_of(request)
    with service.reading() as (_, head):
        times = travel.resolve(service, head)
        return times, service.ledger.known([], position=times.position).catalogue


@routes.put(
    "/v1/resources",
    status_code=201,
    summary="List a resource in the catalogue",
    openapi_extra=allow(Role.ADMIN, command=True),
    responses=command_responses(may_hold=True),
)
def list_resource(request: Request, body: ResourceRequest) -> Command:
    """Put a resource into the catalogue, or replace its entry."""
    ledger = service_of(request).ledger
    return Command(
        partial(
            ledger.list_resource, body.resource, properties=body.properties, actions=body.actions
        ),
    )


@routes.get(
    "/v1/resources",
    summary="List the catalogue",
    openapi_extra=allow(*EVERYBODY),
    responses=read_responses(Page[ResourceView]),
)
def resources(request: Request, asked: PageByKeyAsked, travel: Travel) -> Response:
    """List every catalogued resource with properties, actions and groups, by type:id."""
    times, catalogue = _catalogue(request, travel)
    keyed: list[KeyedItem] = [
        (
            entry.resource.key,
            {
                "resource": entry.resource.model_dump(),
                "properties": entry.model_dump()["properties"],
                "actions": entry.actions,
                "groups": [
                    group
                    for group in sorted(catalogue.groups)
                    if catalogue.is_member(entry.resource, group, times.at)
                ],
            },
        )
        for entry in sorted(catalogue.listed_at(times.at), key=lambda e: e.resource.key)
    ]
    return page_by_key(request, asked, keyed, times.position)


@routes.put(
    "/v1/groups/{id}",
    status_code=201,
    summary="Set the members of a group",
    openapi_extra=allow(Role.ADMIN, command=True),
    responses=command_responses(may_hold=True),
)
def define_group(request: Request, id: NamePath, body: GroupRequest) -> Command:
    """Set a group's members; suspensions that name it cover them from now on."""
    ledger = service_of(request).ledger
    return Command(
        partial(ledger.define_group, id, resources=body.resources),
    )


@routes.get(
    "/v1/groups",
    summary="List groups",
    openapi_extra=allow(*EVERYBODY),
    responses=read_responses(Page[GroupView]),
)
def groups(request: Request, asked: PageByKeyAsked, travel: Travel) -> Response:
    """List every group with its members, by id."""
    times, catalogue = _catalogue(request, travel)
    keyed = [
        (group, _group(definition))
        for group in sorted(catalogue.groups)
        if (definition := catalogue.groups[group].at(times.at))
    ]
    return page_by_key(request, asked, keyed, times.position)


def _group(definition: GroupDefined) -> Item:
    return {
        "id": definition.group,
        "resources": [resource.model_dump() for resource in definition.resources],
    }


@routes.get(
    "/v1/groups/{id}",
    summary="One group",
    openapi_extra=allow(*EVERYBODY),
    responses=read_responses(GroupView, NotFound),
)
def group(request: Request, id: NamePath, travel: Travel) -> Response:
    """Return a group with its members."""
    times, catalogue = _catalogue(request, travel)
    history = catalogue.groups.get(id)
    definition = history.at(times.at) if history else None
    if definition is None:
        raise NotFound(f"no group {id!r} was defined")
    return answer(_group(definition), position=times.position)
