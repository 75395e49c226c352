"""What access is to: the resources with their properties and actions, and the groups of several."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from ledger.domain.errors import InvalidValue
from ledger.domain.events import GroupDefined, Recorded, ResourceListed
from ledger.domain.history import History
from ledger.domain.values import Properties, Resource, same_properties

DEFAULT_ACTION = "use"
"""The one action of a resource that was listed without any."""


@dataclass(slots=True)
class Catalogue:
    """All resources and groups that were ever set, folded from their streams.

    ``resources`` maps ``type:id`` to its entries, ``groups`` maps a group's id to its definitions.
    """

    resources: dict[str, History[ResourceListed]] = field(default_factory=dict)
    groups: dict[str, History[GroupDefined]] = field(default_factory=dict)

    @classmethod
    def replay(cls, events: Iterable[Recorded]) -> Catalogue:
        """Fold events; those of other streams are passed over."""
        self = cls()
        for recorded in events:
            self.evolve(recorded)
        return self

    def evolve(self, recorded: Recorded) -> None:
        """Take in one more event."""
        match recorded.event:
            case ResourceListed() as event:
                entries = self.resources.setdefault(event.resource.key, History())
                entries.set(recorded.recorded_at, event)
            case GroupDefined() as event:
                definitions = self.groups.setdefault(event.group, History())
                definitions.set(recorded.recorded_at, event)
            case _:
                pass

    def listed_at(self, at: datetime) -> list[ResourceListed]:
        """Return the catalogue's entries at an instant, by type and id."""
        entries = (history.at(at) for history in self.resources.values())
        return sorted(
            (entry for entry in entries if entry), key=lambda e: (e.resource.type, e.resource.id)
        )

    def properties_at(self, resource: Resource, at: datetime) -> Properties:
        """Return the recorded properties of a resource at an instant; none when not listed."""
        history = self.resources.get(resource.key)
        entry = history.at(at) if history else None
        return entry.properties if entry else {}

    def is_member(self, resource: Resource, group: str, at: datetime) -> bool:
        """Tell whether the group held the resource at an instant."""
        history = self.groups.get(group)
        definition = history.at(at) if history else None
        return definition is not None and resource in definition.resources


def list_resource(
    current: ResourceListed | None,
    *,
    resource: Resource,
    properties: Properties,
    actions: tuple[str, ...] | None,
) -> ResourceListed | None:
    """Decide to list a resource; ``None`` when the entry already says so."""
    chosen = tuple(dict.fromkeys(actions or (DEFAULT_ACTION,)))
    event = ResourceListed(resource=resource, properties=properties, actions=chosen)
    if (
        current is not None
        and current.actions == event.actions
        and same_properties(current.properties, event.properties)
    ):
        return None
    return event


def define_group(
    current: GroupDefined | None, *, group: str, resources: tuple[Resource, ...]
) -> GroupDefined | None:
    """Decide what a group holds; ``None`` when it already holds just that, in whatever order."""
    named: set[str] = set()
    for number, resource in enumerate(resources):
        if resource.key in named:
            raise InvalidValue(f"{resource.key} is named twice", field=f"/resources/{number}")
        named.add(resource.key)
    if current and {r.key for r in current.resources} == named:
        return None
    return GroupDefined(group=group, resources=resources)
