"""What somebody has filled in: the fields of a form, and how their text becomes members of a body.

Nothing is judged here but whether a line can be read at all; that is for the API's route.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from ledger.domain.errors import InvalidValue
from ledger.domain.values import Properties
from ledger.service.console.route import whole_instant
from ledger.service.http.shapes import subject_of

Kind = Literal["given", "text", "area", "instant", "choice", "checks"]

_OPERATORS: Final = ("in", "not_in", "exists")


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A field. ``given`` ones say what the form is about, and are asked for before the others.

    ``pointers`` are where its value stands in the body, so that a refusal is shown beside it.
    ``preset``: the first option is chosen where nothing else is.
    """

    name: str
    label: str
    kind: Kind = "text"
    help: str = ""
    required: bool = False
    sealed: bool = False
    options: tuple[tuple[str, str], ...] = ()
    preset: bool = False
    pointers: tuple[str, ...] = ()

    @property
    def is_many(self) -> bool:
        """Whether it may have several values."""
        return self.kind == "checks"


class Values:
    """The values of a form's fields, by name; a blank one is none."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            if value.strip():
                self._values.setdefault(name, []).append(value)

    def __getitem__(self, name: str) -> list[str]:
        """Return every value of a field as it was sent: an id may begin with a space."""
        return self._values.get(name, [])

    def one(self, name: str) -> str:
        """Return the first value as it was sent, or nothing."""
        return next(iter(self[name]), "")

    def text(self, name: str) -> str:
        """Return the first value without space around it, or nothing."""
        return self.one(name).strip()

    def instant(self, name: str) -> str:
        """Return a date and time as an instant in UTC."""
        return whole_instant(self.text(name))

    def lines(self, name: str) -> list[str]:
        """Return the lines of a text that are not blank."""
        return [line.strip() for line in self.one(name).splitlines() if line.strip()]

    def of(self, fields: Iterable[Field]) -> list[tuple[str, str]]:
        """Return the names and values of fields, for a form that carries them on."""
        return [
            (field.name, value)
            for field in fields
            for value in (self[field.name] if field.is_many else self[field.name][:1])
        ]


def present(**members: object) -> dict[str, object]:
    """Return the members that say something."""
    return {name: value for name, value in members.items() if value not in (None, "", [], {})}


def subject(values: Values, name: str = "subject") -> dict[str, Any]:
    """Return a subject that was written as ``type:id``."""
    return subject_of(values.one(name), parameter=f"/{name}").model_dump()


def term(values: Values) -> dict[str, object]:
    """Return the three ways of giving an end; that it is exactly one is for the rule to say."""
    chosen, written = values.text("duration"), values.text("other_duration")
    endless = chosen == "indefinite"
    if chosen and written and not endless:
        raise InvalidValue("choose a duration or write one, not both", field="/duration")
    return present(
        duration=written or ("" if endless else chosen),
        ends_at=values.instant("ends_at"),
        indefinite=endless or None,
    )


def scope(values: Values) -> dict[str, object]:
    """Return what is refused: groups, types, single resources; actions and conditions."""
    resources: list[dict[str, Any]] = [{"group": group} for group in values["groups"]]
    resources += [{"type": kind} for kind in values["types"]]
    resources += resources_of(values)
    if not resources:
        raise InvalidValue(
            "tick a group, a kind or a model, or write a resource", field="/scope/resources"
        )
    return {
        "resources": resources,
        **present(
            actions=values["actions"],
            conditions=[_condition(line) for line in values.lines("conditions")],
        ),
    }


def resources_of(values: Values, pointer: str = "/scope/resources") -> list[dict[str, Any]]:
    """Return the resources that were ticked, and those that were written, one on each line."""
    keys = dict.fromkeys([*values["models"], *values.lines("resources")])
    return [subject_of(key, parameter=pointer).model_dump() for key in keys]


def evidence(values: Values) -> list[dict[str, object]]:
    """Return pieces of evidence: on each line a URI, its SHA-256, and the word personal if so."""
    found = []
    for line in values.lines("evidence"):
        uri, *rest = line.split()
        digest = rest[0] if rest else ""
        if rest[1:] not in ([], ["personal"]):
            raise InvalidValue(
                f"{line!r} must be a URI, its SHA-256, and personal where it is",
                field="/evidence",
            )
        found.append({"uri": uri, "sha256": digest, **present(personal=bool(rest[1:]) or None)})
    return found


def _condition(line: str) -> dict[str, object]:
    """Read ``resource.properties.status in released, beta``, or ``… exists``, ``… exists no``."""
    attribute, _, rest = line.partition(" ")
    operator, _, text = rest.strip().partition(" ")
    if operator not in _OPERATORS:
        raise InvalidValue(
            f"{line!r} must be an attribute, then in, not_in or exists, then values",
            field="/scope/conditions",
        )
    if operator == "exists":
        return {"attribute": attribute, "exists": text.strip() not in ("no", "false")}
    whole = _json(text)
    values = whole if isinstance(whole, list) else [value_of(each) for each in text.split(",")]
    return {"attribute": attribute, operator: values}


def properties(values: Values) -> dict[str, object]:
    """Return the properties of a subject: on each line ``name = value``."""
    found: dict[str, object] = {}
    for line in values.lines("properties"):
        name, equals, text = line.partition("=")
        if not equals or name.strip() in found:
            raise InvalidValue(f"{line!r} must be name = value, once", field="/properties")
        found[name.strip()] = value_of(text)
    return found


def property_lines(properties: Properties) -> str:
    """Return properties as the lines from which ``properties`` reads them again."""
    return "\n".join(f"{name} = {_text_of(value)}" for name, value in properties.items())


def value_of(text: str) -> object:
    """Return a number, a truth value or a list where the text is one, else the text itself."""
    text = text.strip()
    found = _json(text)
    return text if found is None or isinstance(found, Mapping) else found


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _text_of(value: object) -> str:
    plain = isinstance(value, str) and value_of(value) == value and len(value.splitlines()) == 1
    return str(value) if plain else json.dumps(value, ensure_ascii=False)
