"""Models, other resources and groups: what access is to, and who is kept out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from eventsourcing.persistence import Cursor
from fastapi import Query, Request
from fastapi.responses import Response

from ledger.domain.catalogue import Catalogue
from ledger.domain.errors import NotFound
from ledger.domain.events import GroupDefined, ResourceListed
from ledger.domain.values import Resource
from ledger.service.console.frame import paged, render
from ledger.service.console.route import console_router
from ledger.service.console.shown import paged_by_key, within
from ledger.service.http.catalogue import NamePath
from ledger.service.http.conduct import READERS
from ledger.service.http.route import service_of
from ledger.service.http.shapes import (
    PageAsked,
    PageByKeyAsked,
    Times,
    Travel,
    subject_of,
)
from ledger.service.wiring import Service
from projections.access import selectors_of

KEPT_OUT_MAX: Final = 10_000  # suspensions counted of one resource: about 100 ms; beyond: "over"
GROUPS_SHOWN_MAX: Final = 20  # beside the resources; the page of groups has all

ResourceKey = Annotated[
    str, Query(max_length=400, description="As type:id.", examples=["model:atlas-3"])
]

routes = console_router()


@dataclass(frozen=True, slots=True)
class KeptOut:
    """How many suspensions in force cover something, and on how many subjects they are."""

    suspensions: int
    subjects: int

    @property
    def is_more(self) -> bool:
        """Whether there are more than were counted."""
        return self.suspensions > KEPT_OUT_MAX


@dataclass(frozen=True, slots=True)
class CataloguedResource:
    """A resource's entry, its groups, and how many suspensions in force cover it.

    ``None`` for who may not read that.
    """

    entry: ResourceListed
    groups: Sequence[str]
    suspensions: int | None


@dataclass(frozen=True, slots=True)
class CataloguedGroup:
    """A group's definition, and who is kept out by its name."""

    definition: GroupDefined
    kept_out: KeptOut | None


def groups_of(catalogue: Catalogue, resource: Resource, times: Times) -> list[str]:
    """Return the groups that hold a resource."""
    return [
        group
        for group in sorted(catalogue.groups)
        if catalogue.is_member(resource, group, times.at)
    ]


def groups_in(catalogue: Catalogue, times: Times) -> list[GroupDefined]:
    """Return the groups that are defined, by id."""
    found = (catalogue.groups[group].at(times.at) for group in sorted(catalogue.groups))
    return [definition for definition in found if definition]


def may_read_suspensions(request: Request) -> bool:
    """Tell whether whoever asks may read who is suspended."""
    return request.state.caller.role in READERS


def kept_out_of(
    request: Request, service: Service, c: Cursor, covering: Sequence[str], times: Times
) -> KeptOut | None:
    """Count who is kept out; ``None`` when whoever asks may not read that."""
    if not may_read_suspensions(request):
        return None
    counted = service.access.kept_out(
        c, covering, at=times.at, position=times.position, counted_max=KEPT_OUT_MAX + 1
    )
    return KeptOut(*counted)


@routes.get("/console/models")
def models(request: Request, asked: PageByKeyAsked, travel: Travel) -> Response:
    """List the catalogue, and its first groups."""
    service = service_of(request)
    with service.reading() as (c, head):
        times = travel.resolve(service, head)
        catalogue = service.ledger.known([], position=times.position).catalogue
        entries = sorted(catalogue.listed_at(times.at), key=lambda entry: entry.resource.key)
        listed = paged_by_key(asked, [(entry.resource.key, entry) for entry in entries])
        items = _counted(request, service, c, catalogue, listed.items, times)
        defined = groups_in(catalogue, times)
        shown = [
            CataloguedGroup(each, kept_out_of(request, service, c, [f"group {each.group}"], times))
            for each in defined[:GROUPS_SHOWN_MAX]
        ]
    return render(
        request,
        "models.html",
        times=times,
        listed=listed,
        items=items,
        counted_max=KEPT_OUT_MAX,
        groups=shown,
        groups_count=len(defined),
        counts=may_read_suspensions(request),
    )


def _counted(
    request: Request,
    service: Service,
    c: Cursor,
    catalogue: Catalogue,
    entries: Sequence[ResourceListed],
    times: Times,
) -> list[CataloguedResource]:
    """Return resources with their counts.

    Most are covered by type and group, as others are. That is counted once for all of them; to it
    comes, for each, what names the resource itself only.
    """
    known: dict[str, Any] = {
        "at": times.at,
        "position": times.position,
        "counted_max": KEPT_OUT_MAX + 1,
    }
    shared: dict[tuple[str, ...], int] = {}
    items = []
    for entry in entries:
        groups = groups_of(catalogue, entry.resource, times)
        counted = None
        if may_read_suspensions(request):
            by_id, *wider = selectors_of(entry.resource.key, groups)
            among = tuple(wider)
            if among not in shared:
                shared[among], _ = service.access.kept_out(c, among, **known)
            alone, _ = service.access.kept_out(c, [by_id], **known, beside=among)
            counted = shared[among] + alone
        items.append(CataloguedResource(entry, groups, counted))
    return items


@routes.get("/console/models/one")
def model(request: Request, resource: ResourceKey, asked: PageAsked, travel: Travel) -> Response:
    """Show one resource, and the suspensions in force that cover it by id, type or group."""
    named = subject_of(resource, parameter="resource")
    about = Resource(type=named.type, id=named.id)
    service, suspensions = service_of(request), None
    with service.reading() as (c, head):
        times = travel.resolve(service, head)
        catalogue = service.ledger.known([], position=times.position).catalogue
        history = catalogue.resources.get(about.key)
        groups = groups_of(catalogue, about, times)
        covering = selectors_of(about.key, groups)
        if may_read_suspensions(request):
            suspensions = _keeping_out(service, c, covering, times, **within(asked, times))
        kept_out = kept_out_of(request, service, c, covering, times)
    return render(
        request,
        "model.html",
        times=times,
        resource=about,
        entry=history.at(times.at) if history else None,
        groups=groups,
        kept_out=kept_out,
        listed=None if suspensions is None else paged(asked, suspensions),
    )


@routes.get("/console/groups")
def groups(request: Request, asked: PageByKeyAsked, travel: Travel) -> Response:
    """List every group."""
    service = service_of(request)
    with service.reading() as (c, head):
        times = travel.resolve(service, head)
        catalogue = service.ledger.known([], position=times.position).catalogue
        found = [(each.group, each) for each in groups_in(catalogue, times)]
        listed = paged_by_key(asked, found)
        items = [
            CataloguedGroup(each, kept_out_of(request, service, c, [f"group {each.group}"], times))
            for each in listed.items
        ]
    return render(
        request,
        "groups.html",
        area="/console/models",
        times=times,
        listed=listed,
        groups=items,
        counted_max=KEPT_OUT_MAX,
        counts=may_read_suspensions(request),
    )


@routes.get("/console/groups/{id}")
def group(request: Request, id: NamePath, asked: PageAsked, travel: Travel) -> Response:
    """Show one group with its members, and the suspensions in force that name it."""
    service, suspensions = service_of(request), None
    with service.reading() as (c, head):
        times = travel.resolve(service, head)
        catalogue = service.ledger.known([], position=times.position).catalogue
        history = catalogue.groups.get(id)
        definition = history.at(times.at) if history else None
        if definition is None:
            raise NotFound(f"no group {id!r} was defined")
        covering = [f"group {id}"]
        if may_read_suspensions(request):
            suspensions = _keeping_out(service, c, covering, times, **within(asked, times))
        kept_out = kept_out_of(request, service, c, covering, times)
    return render(
        request,
        "group.html",
        area="/console/models",
        times=times,
        group=definition,
        kept_out=kept_out,
        listed=None if suspensions is None else paged(asked, suspensions),
    )


def _keeping_out(
    service: Service, c: Cursor, covering: Sequence[str], times: Times, **page: Any
) -> list[dict[str, object]]:
    return service.access.suspensions(c, at=times.at, state="in_force", covering=covering, **page)
