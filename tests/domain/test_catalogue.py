"""Resources and groups: what they were at an instant, and when something is recorded."""

from __future__ import annotations

from typing import Any

import pytest

from ledger.domain.catalogue import Catalogue, define_group, list_resource
from ledger.domain.errors import InvalidValue
from ledger.domain.events import GroupDefined, ResourceListed
from ledger.domain.values import GROUP_RESOURCES_MAX, Resource
from tests.domain.given import DAY, MODEL, START, TICK, recorded, violation

OTHER = Resource(type="model", id="m2")
TOOL = Resource(type="agent", id="z")


def listed(
    resource: Resource = MODEL, actions: tuple[str, ...] = ("use",), **properties: Any
) -> ResourceListed:
    """Return an entry of the catalogue."""
    return ResourceListed(resource=resource, properties=properties, actions=actions)


def group(*resources: Resource) -> GroupDefined:
    """Return a definition of the group ``frontier``."""
    return GroupDefined(group="frontier", resources=resources)


@pytest.mark.parametrize(
    ("current", "properties", "actions", "expected"),
    [
        (None, {}, None, listed()),
        (None, {}, (), listed()),
        (None, {"a": 1}, ("use", "tune"), listed(actions=("use", "tune"), a=1)),
        (None, {}, ("use", "tune", "use"), listed(actions=("use", "tune"))),
        (listed(), {}, None, None),
        (listed(), {}, ("use",), None),
        (listed(a=1, b=2), {"b": 2, "a": 1}, None, None),
        (listed(a=1), {"a": True}, None, listed(a=True)),
        (listed(), {"a": 1}, None, listed(a=1)),
        (listed(a=1), {}, None, listed()),
        (listed(), {}, ("tune",), listed(actions=("tune",))),
    ],
    ids=[
        "new",
        "new, no actions",
        "new, in full",
        "an action named twice",
        "the same",
        "the same, said in full",
        "the same, in other order",
        "true for 1",
        "a property more",
        "a property less",
        "another action",
    ],
)
def test_a_resource_is_listed_unless_it_is_so_already(
    current: ResourceListed | None,
    properties: dict[str, Any],
    actions: tuple[str, ...] | None,
    expected: ResourceListed | None,
) -> None:
    """An entry is set as a whole; without actions, the one action is ``use``."""
    event = list_resource(current, resource=MODEL, properties=properties, actions=actions)

    assert expected == event
    assert event is None or event.model_dump_json() == (expected and expected.model_dump_json())


@pytest.mark.parametrize(
    ("current", "resources", "expected"),
    [
        (None, (MODEL, OTHER), group(MODEL, OTHER)),
        (None, (), group()),
        (group(), (), None),
        (group(MODEL, OTHER), (OTHER, MODEL), None),
        (group(MODEL), (MODEL, OTHER), group(MODEL, OTHER)),
        (group(MODEL, OTHER), (OTHER,), group(OTHER)),
        (group(MODEL), (), group()),
    ],
    ids=["new", "new, empty", "the same, empty", "other order", "one more", "one less", "emptied"],
)
def test_a_group_is_defined_unless_it_is_so_already(
    current: GroupDefined | None, resources: tuple[Resource, ...], expected: GroupDefined | None
) -> None:
    """A group is a set: saying its members in another order changes nothing."""
    assert expected == define_group(current, group="frontier", resources=resources)


def test_a_group_names_each_resource_once() -> None:
    """A resource that is named twice is refused at its second place."""
    with pytest.raises(InvalidValue, match="model:m1 is named twice") as caught:
        define_group(None, group="frontier", resources=(MODEL, OTHER, MODEL, OTHER))

    assert "/resources/2" == caught.value.field


def test_a_group_holds_at_most_1000_resources() -> None:
    """The limit itself is allowed, one more is refused."""
    members = tuple(
        Resource(type="model", id=f"m{number}") for number in range(GROUP_RESOURCES_MAX)
    )

    assert group(*members) == define_group(None, group="frontier", resources=members)
    with pytest.raises(ValueError, match="at most 1000"):
        define_group(None, group="frontier", resources=(*members, TOOL))


def test_the_catalogue_of_a_past_instant_is_that_of_then() -> None:
    """Entries and groups hold from the instant they were recorded until they were set anew."""
    catalogue = Catalogue.replay(
        recorded(
            (START, listed(MODEL, tier="old")),
            (START, group(MODEL)),
            (START, violation()),
            (START + DAY, listed(TOOL)),
            (START + DAY, listed(MODEL, tier="new")),
            (START + DAY, group(OTHER)),
        )
    )
    before, then, now = START - TICK, START + DAY - TICK, START + DAY

    assert [] == catalogue.listed_at(before)
    assert [listed(MODEL, tier="old")] == catalogue.listed_at(then)
    assert [listed(TOOL), listed(MODEL, tier="new")] == catalogue.listed_at(now)
    assert [{}, {"tier": "old"}, {"tier": "new"}] == [
        catalogue.properties_at(MODEL, at) for at in (before, then, now)
    ]
    assert {} == catalogue.properties_at(OTHER, now)
    assert [False, True, False] == [
        catalogue.is_member(MODEL, "frontier", at) for at in (before, then, now)
    ]
    assert [False, False, True] == [
        catalogue.is_member(OTHER, "frontier", at) for at in (before, then, now)
    ]
    assert not catalogue.is_member(MODEL, "unknown", now)
