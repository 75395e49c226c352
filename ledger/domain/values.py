"""The words the facts are made of: subjects, resources, scopes, conditions, durations, limits.

Identifiers are compared byte for byte, so nothing here normalises: what is not already in the one
allowed form is refused, or two different people could become one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    PlainValidator,
    StrictBool,
    StringConstraints,
    Tag,
    WithJsonSchema,
    model_validator,
)
from whenever import ItemizedDelta, ZonedDateTime

from ledger.domain.errors import EndTooFar, InvalidValue

ID_BYTES_MAX: Final = 256  # fits every index row and a URL; long enough for any account scheme
TITLE_MAX: Final = 200  # one line on a screen
SUMMARY_MAX: Final = 2_000  # a paragraph
REASON_MAX: Final = 4_000  # what a subject is asked to read
FREE_TEXT_MAX: Final = 16_000  # details and notes; sealed ASCII of it stays below EVENT_BYTES_MAX
CLAUSE_TEXT_MAX: Final = 8_000  # a clause of a rulebook
CLAUSES_MAX: Final = 100  # a rulebook that people can still read
EVIDENCE_MAX: Final = 50  # items of evidence on one violation
URI_MAX: Final = 2_000  # what browsers and proxies carry
GROUNDS_MAX: Final = 100  # violations under one decision
SCOPE_RESOURCES_MAX: Final = 100  # a longer list wants a group
ACTIONS_MAX: Final = 100  # actions of one scope or resource
CONDITIONS_MAX: Final = 20  # all of them are tried on every check
CONDITION_VALUES_MAX: Final = 100  # values of one condition
GROUP_RESOURCES_MAX: Final = 1_000  # one fact must hold the whole group
PROPERTIES_MAX: Final = 64  # recorded properties of one subject or resource
NUMBER_MAX: Final = 2**53  # beyond it two JSON numbers may become one; NaN and Infinity are none
PROPERTY_TEXT_MAX: Final = 1_000  # a property is a label or a status, not a document
EVENT_BYTES_MAX: Final = (
    60 * 1024
)  # a log entry may have 65,535 bytes; the rest is for its envelope
SUSPENSION_YEARS_MAX: Final = 100  # longer than that is indefinite, and should say so
PRECAUTION_DAYS_MAX: Final = 30  # a precaution must soon become a finding or end
OCCURRED_AHEAD_MAX: Final = timedelta(minutes=5)  # how far a reporter's clock may be ahead of ours
LINK_DEPTH_MAX: Final = 8  # links one above the other: person, team, company and some
PARENTS_MAX: Final = 32  # parents of one subject: each check looks at all of them
INSTANTS_REMEMBERED: Final = 256  # texts of instants: those of the facts that are being recorded
DURATIONS_REMEMBERED: Final = 1_000  # read before: more than anybody uses, in little memory

_TYPE = re.compile(r"[a-z][a-z0-9_.-]{0,63}\Z", re.ASCII)
_RFC3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)\Z", re.ASCII
)
# RFC 3339 appendix A: a unit may follow only the next larger one (P1Y2D is not a duration).
_DURATION = re.compile(
    r"P(?:\d+W|(?:\d+Y(?:\d+M(?:\d+D)?)?|\d+M(?:\d+D)?|\d+D)"
    r"(?:T(?:\d+H(?:\d+M(?:\d+S)?)?|\d+M(?:\d+S)?|\d+S))?"
    r"|T(?:\d+H(?:\d+M(?:\d+S)?)?|\d+M(?:\d+S)?|\d+S))\Z",
    re.ASCII,
)
_UTC_ZONE: Final = ZoneInfo("UTC")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class Value(BaseModel):
    """A frozen value that refuses members it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


# --- text and names -------------------------------------------------------------------------------


def identifier(raw: object) -> str:
    """Return ``raw`` when it is an identifier, else raise ``ValueError`` saying why not.

    1 to 256 bytes of UTF-8 in NFC, without control characters, U+FFFD or lone surrogates.
    """
    if not isinstance(raw, str):
        raise ValueError("must be a string")  # noqa: TRY004 - pydantic reports ValueError only
    if not raw:
        raise ValueError("must not be empty")
    if raw.isascii():
        if len(raw) > ID_BYTES_MAX:
            raise ValueError(f"must have at most {ID_BYTES_MAX} bytes")
        if not raw.isprintable():
            raise ValueError("must not hold control characters")
        return raw
    try:
        size = len(raw.encode())
    except UnicodeEncodeError:
        raise ValueError("must be valid UTF-8 without lone surrogates") from None
    if size > ID_BYTES_MAX:
        raise ValueError(f"must have at most {ID_BYTES_MAX} bytes")
    if any(unicodedata.category(char) == "Cc" for char in raw):
        raise ValueError("must not hold control characters")
    if "\ufffd" in raw:
        raise ValueError("must not hold U+FFFD, which stands for bytes that were lost")
    if not unicodedata.is_normalized("NFC", raw):
        raise ValueError("must be in Unicode normalisation form NFC")
    return raw


def type_name(raw: object) -> str:
    """Return ``raw`` when it is a type of subject or resource, else raise ``ValueError``."""
    if not isinstance(raw, str) or not _TYPE.match(raw):
        raise ValueError("must match [a-z][a-z0-9_.-]{0,63}, like user or api_key")
    return raw


def _plain_text(raw: str) -> str:
    if not raw.isprintable() and any(
        unicodedata.category(char) == "Cc" and char not in "\n\r\t" for char in raw
    ):
        raise ValueError("must not hold control characters except line ends and tabs")
    return raw


Identifier = Annotated[
    str,
    PlainValidator(identifier),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": ID_BYTES_MAX}),
]
TypeName = Annotated[
    str,
    PlainValidator(type_name),
    WithJsonSchema({"type": "string", "pattern": "^[a-z][a-z0-9_.-]{0,63}$"}),
]
Name = Annotated[str, StringConstraints(strict=True, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
"""A name that also stands in a URL path: of a policy, a clause, a group, an action."""

Title = Annotated[
    str,
    StringConstraints(strict=True, min_length=1, max_length=TITLE_MAX),
    AfterValidator(_plain_text),
]
Summary = Annotated[
    str,
    StringConstraints(strict=True, min_length=1, max_length=SUMMARY_MAX),
    AfterValidator(_plain_text),
]
Reason = Annotated[
    str,
    StringConstraints(strict=True, min_length=1, max_length=REASON_MAX),
    AfterValidator(_plain_text),
]
FreeText = Annotated[
    str,
    StringConstraints(strict=True, min_length=1, max_length=FREE_TEXT_MAX),
    AfterValidator(_plain_text),
]
ClauseText = Annotated[
    str,
    StringConstraints(strict=True, min_length=1, max_length=CLAUSE_TEXT_MAX),
    AfterValidator(_plain_text),
]
Uri = Annotated[
    str,
    StringConstraints(strict=True, min_length=1, max_length=URI_MAX),
    AfterValidator(_plain_text),
]


def scalar(raw: object) -> object:
    """Return ``raw`` when a property may hold it, else raise ``ValueError``.

    A number stays within 2^53, beyond which JSON readers disagree about its value (RFC 7493).
    """
    if isinstance(raw, str):
        if not 0 < len(raw) <= PROPERTY_TEXT_MAX:
            raise ValueError(f"a text must have 1 to {PROPERTY_TEXT_MAX} characters")
        if any(unicodedata.category(char) == "Cs" for char in raw):
            raise ValueError("must be valid UTF-8 without lone surrogates")
        return _plain_text(raw)
    if isinstance(raw, int | float) and not -NUMBER_MAX <= raw <= NUMBER_MAX:
        raise ValueError(f"must be a number between -{NUMBER_MAX} and {NUMBER_MAX}")
    if not isinstance(raw, bool | int | float):
        raise ValueError("must be a text, a number, true or false")  # noqa: TRY004
    return raw


def _property_value(raw: object) -> object:
    if not isinstance(raw, list | tuple):
        return scalar(raw)
    if len(raw) > CONDITION_VALUES_MAX:
        raise ValueError(f"must have at most {CONDITION_VALUES_MAX} values")
    return tuple(scalar(value) for value in raw)


_SCALAR_SCHEMA: Final[dict[str, Any]] = {
    "anyOf": [
        {"type": "string", "minLength": 1, "maxLength": PROPERTY_TEXT_MAX},
        {"type": "number", "minimum": -NUMBER_MAX, "maximum": NUMBER_MAX},
        {"type": "boolean"},
    ]
}
Scalar = Annotated[object, PlainValidator(scalar), WithJsonSchema(_SCALAR_SCHEMA)]
"""What a property or a condition may hold: a text, a number or a truth value."""

LogKeyText = Annotated[
    str,
    StringConstraints(
        strict=True, max_length=400, pattern=r"^[^\s+]+\+[0-9a-f]{8}\+[A-Za-z0-9+/]+={0,2}$"
    ),
]
"""A public key of the transparency log, as C2SP signed-note writes it: name, key id, key."""
Sha256 = Annotated[str, StringConstraints(strict=True, pattern=r"^[0-9a-f]{64}$")]


# --- what is sealed -------------------------------------------------------------------------------

DataKeyId = Annotated[str, StringConstraints(strict=True, pattern=r"^dek_[0-9a-f]{32}$")]
"""The fingerprint of a subject's data key: what names the key, and all that is left of it."""


class Sealed(Value):
    """A text that only the vault can open; once its key is destroyed, nobody can."""

    key: DataKeyId
    box: Annotated[
        str,
        StringConstraints(
            strict=True, min_length=40, pattern=r"^(?:[A-Za-z0-9+/]{4})+(?:[A-Za-z0-9+/]{2,3}=?=)?$"
        ),
    ] = Field(description="base64 of nonce (12 bytes), AES-256-GCM ciphertext and tag (16 bytes).")


class Unsealed:
    """A text that is to be sealed before it is recorded.

    Decisions hold it; sealing needs the place of the event, which no decision knows. It is no
    dataclass, which orjson would encode, and its representation does not show the text.
    """

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unsealed) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


def _sealable(raw: object) -> Sealed | Unsealed:
    if isinstance(raw, Sealed | Unsealed):
        return raw
    if not isinstance(raw, Mapping):
        raise ValueError("must be sealed")  # noqa: TRY004 - pydantic reports ValueError only
    return Sealed.model_validate(raw)


def _dump_sealed(value: str | Sealed | Unsealed) -> str | dict[str, str]:
    if isinstance(value, Unsealed):
        raise TypeError("a text that is not sealed is never written down")
    return value if isinstance(value, str) else {"key": value.key, "box": value.box}


Sealable = Annotated[
    Sealed | Unsealed,
    PlainValidator(_sealable),
    PlainSerializer(_dump_sealed),
    WithJsonSchema({"type": "object", "required": ["key", "box"]}),
]
"""A sealed member of a fact: sealed once it is recorded, not yet when it is only decided."""


# --- time -----------------------------------------------------------------------------------------


def parse_instant(raw: object) -> datetime:
    """Return the UTC instant of an RFC 3339 timestamp (or of an aware ``datetime``).

    Digits beyond microseconds are cut. Raises ``ValueError`` for anything else, so for a 30
    February.
    """
    if isinstance(raw, datetime):
        if raw.tzinfo is None:
            raise ValueError("must have an offset from UTC")
        return raw if raw.tzinfo is UTC else raw.astimezone(UTC)
    if not isinstance(raw, str) or not _RFC3339.match(raw):
        raise ValueError("must be an RFC 3339 timestamp like 2026-11-24T10:00:00Z")
    try:
        return datetime.fromisoformat(raw.upper()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"is no instant of the calendar: {error}") from None


def format_instant(instant: datetime) -> str:
    """Return the one form in which instants are stored and shown: UTC, six digits, ``Z``."""
    return _format_utc(instant if instant.tzinfo is UTC else instant.astimezone(UTC))


@lru_cache(INSTANTS_REMEMBERED)
def _format_utc(instant: datetime) -> str:
    """One fact is written into some ten rows, and each of them says when it was recorded."""
    return instant.isoformat(timespec="microseconds")[:-6] + "Z"


Instant = Annotated[
    datetime,
    PlainValidator(parse_instant),
    PlainSerializer(format_instant, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]


def duration(raw: object) -> str:
    """Return ``raw`` when it is a duration by RFC 3339 appendix A, else raise ``ValueError``."""
    if not isinstance(raw, str) or not _DURATION.match(raw):
        raise ValueError("must be an ISO 8601 duration like P2M, P14D or PT36H")
    if not any(char in "123456789" for char in raw):
        raise ValueError("must be longer than zero")
    return raw


Duration = Annotated[
    str,
    PlainValidator(duration),
    WithJsonSchema({"type": "string", "format": "duration", "examples": ["P2M", "PT36H"]}),
]


def end_after(start: datetime, length: str) -> datetime:
    """Return ``start`` plus an ISO 8601 duration, by the calendar, in UTC.

    Years and months first, with the day clamped to the month's last; then days and time, always
    from ``start``: P2M from 31 December ends on 28 or 29 February. Raises ``EndTooFar`` past year
    9999.
    """
    try:
        delta = _parsed_duration(length)
        return ZonedDateTime(start.astimezone(_UTC_ZONE)).add(delta).to_stdlib().astimezone(UTC)
    except ValueError as error:
        raise EndTooFar(
            f"{length} after {format_instant(start)} is beyond the calendar", field="/duration"
        ) from error


@lru_cache(DURATIONS_REMEMBERED)
def _parsed_duration(length: str) -> ItemizedDelta:
    """Most suspensions have one of a few lengths, and to read one takes as long as to add it."""
    return ItemizedDelta.parse_iso(length)


def microseconds(instant: datetime) -> int:
    """Return an instant as whole microseconds since 1970, exactly."""
    return (instant - _EPOCH) // _MICROSECOND


def from_microseconds(number: int) -> datetime:
    """Return the instant that ``microseconds`` came from."""
    return _EPOCH + number * _MICROSECOND


# --- subjects, resources, scopes ------------------------------------------------------------------


class Subject(Value):
    """Who is restricted: a user, an application, an organization, an API key, or any other type."""

    type: TypeName = Field(examples=["user"])
    id: Identifier = Field(examples=["alice"])

    @property
    def key(self) -> str:
        """``type:id``; the first colon parts them, so the key is unique."""
        return f"{self.type}:{self.id}"

    @classmethod
    def parse(cls, key: str) -> Self:
        """Read ``type:id``; raises ``InvalidValue`` with what is wrong."""
        kind, colon, id_ = key.partition(":")
        if not colon:
            raise InvalidValue(f"{key!r} must have the form type:id, like user:alice")
        try:
            return cls(type=type_name(kind), id=identifier(id_))
        except ValueError as error:
            raise InvalidValue(f"{key!r} is not type:id: {error}") from None


class Resource(Subject):
    """What access is to: mostly a model."""

    type: TypeName = Field(examples=["model"])
    id: Identifier = Field(examples=["sonnet-large"])


class OneResource(Value):
    """A selector of one resource."""

    type: TypeName
    id: Identifier

    @property
    def label(self) -> str:
        """How the selector reads in a sentence."""
        return f"{self.type}:{self.id}"


class ResourcesOfGroup(Value):
    """A selector of a group's members, later members included."""

    group: Name

    @property
    def label(self) -> str:
        """How the selector reads in a sentence."""
        return f"group:{self.group}"


class ResourcesOfType(Value):
    """A selector of every resource of a type."""

    type: TypeName

    @property
    def label(self) -> str:
        """How the selector reads in a sentence."""
        return f"every {self.type}"


def _selector_kind(raw: object) -> str:
    """Tell which selector is meant, so that an error speaks of that one only."""
    if isinstance(raw, ResourcesOfGroup) or (isinstance(raw, Mapping) and "group" in raw):
        return "[group]"
    if isinstance(raw, OneResource) or (isinstance(raw, Mapping) and "id" in raw):
        return "[resource]"
    return "[type]"


Selector = Annotated[
    Annotated[OneResource, Tag("[resource]")]
    | Annotated[ResourcesOfGroup, Tag("[group]")]
    | Annotated[ResourcesOfType, Tag("[type]")],
    Discriminator(_selector_kind),
]


class Condition(Value):
    """A demand on one property of the request; exactly one operator.

    ``in`` holds when the property has one of the values (or, being a list, holds one of them);
    ``not_in`` holds when ``in`` does not, so also when the property is absent; ``exists`` holds
    when the property is there, or with ``false`` when it is not.
    """

    attribute: Annotated[
        str,
        StringConstraints(
            strict=True, pattern=r"^(resource|subject|action)\.properties\.[A-Za-z0-9_.-]{1,128}$"
        ),
    ] = Field(examples=["resource.properties.status"])
    in_: (
        Annotated[tuple[Scalar, ...], Field(min_length=1, max_length=CONDITION_VALUES_MAX)] | None
    ) = Field(default=None, alias="in")
    not_in: (
        Annotated[tuple[Scalar, ...], Field(min_length=1, max_length=CONDITION_VALUES_MAX)] | None
    ) = None
    exists: StrictBool | None = None

    @model_validator(mode="after")
    def _one_operator(self) -> Self:
        if [self.in_, self.not_in, self.exists].count(None) != 2:  # noqa: PLR2004 - two of the three
            raise ValueError("a condition has exactly one of in, not_in and exists")
        return self

    def holds(self, properties: Mapping[str, Mapping[str, object]]) -> bool:
        """Tell whether the demand is met by the properties of subject, resource and action."""
        entity, _, name = self.attribute.split(".", 2)
        present = name in properties[entity]
        if self.exists is not None:
            return present == self.exists
        found = properties[entity].get(name)
        values = found if isinstance(found, list | tuple) else (found,)
        wanted = self.in_ if self.in_ is not None else (self.not_in or ())
        matches = present and any(same(value, want) for value in values for want in wanted)
        return matches == (self.in_ is not None)


def same(left: object, right: object) -> bool:
    """Compare two property values as JSON does: ``true`` is not ``1``, and ``1`` is ``1.0``."""
    return left == right and isinstance(left, bool) == isinstance(right, bool)


class Scope(Value):
    """What a suspension refuses: resources, actions (``None``: all), while all conditions hold."""

    resources: Annotated[tuple[Selector, ...], Field(min_length=1, max_length=SCOPE_RESOURCES_MAX)]
    actions: Annotated[tuple[Name, ...], Field(min_length=1, max_length=ACTIONS_MAX)] | None = None
    conditions: Annotated[tuple[Condition, ...], Field(max_length=CONDITIONS_MAX)] = ()

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that the scope names."""
        return tuple(s.group for s in self.resources if isinstance(s, ResourcesOfGroup))

    @property
    def label(self) -> str:
        """How the scope reads in a sentence."""
        text = ", ".join(selector.label for selector in self.resources)
        if self.actions is not None:
            text += f" ({', '.join(self.actions)} only)"
        if self.conditions:
            text += " under conditions"
        return text


PropertyName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]
PropertyValue = Annotated[
    object,
    PlainValidator(_property_value),
    WithJsonSchema(
        {
            "anyOf": [
                *_SCALAR_SCHEMA["anyOf"],
                {"type": "array", "maxItems": CONDITION_VALUES_MAX, "items": _SCALAR_SCHEMA},
            ]
        }
    ),
]


def _in_order(properties: dict[str, object]) -> dict[str, object]:
    """Return properties in the order in which they are stored, so that a fact is what is read."""
    return dict(sorted(properties.items())) if len(properties) > 1 else properties


Properties = Annotated[
    dict[PropertyName, PropertyValue],
    Field(max_length=PROPERTIES_MAX),
    AfterValidator(_in_order),
]


def same_properties(left: Properties, right: Properties) -> bool:
    """Tell whether properties would be recorded alike, in whatever order: ``true`` is not ``1``."""
    return sorted(map(repr, left.items())) == sorted(map(repr, right.items()))


class Evidence(Value):
    """Where a piece of evidence is kept, and the digest that pins it."""

    uri: Uri = Field(examples=["s3://evidence/2026/case-7781.json"])
    sha256: Sha256
    personal: StrictBool = Field(
        default=False, description="Where it is kept and its digest tell about a person: seal both."
    )

    def to_record(self) -> RecordedEvidence:
        """Return what is recorded of it; where it is personal, with both members to be sealed."""
        if not self.personal:
            return RecordedEvidence(uri=self.uri, sha256=self.sha256)
        return RecordedEvidence(uri=Unsealed(self.uri), sha256=Unsealed(self.sha256), personal=True)


class RecordedEvidence(Value):
    """A piece of evidence in a fact: in clear, or sealed because it is personal."""

    # A union would rather pass on what one of its serializers refuses: the two have one together.
    uri: Annotated[Uri | Sealable, PlainSerializer(_dump_sealed)]
    sha256: Annotated[Sha256 | Sealable, PlainSerializer(_dump_sealed)]
    personal: StrictBool = False

    @model_validator(mode="after")
    def _sealed_when_personal(self) -> Self:
        if [self.personal] * 2 != [not isinstance(one, str) for one in (self.uri, self.sha256)]:
            raise ValueError("evidence is sealed when it is personal, and only then")
        return self


class ClauseRef(Value):
    """A clause of a policy version, as it was when somebody relied on it."""

    policy: str
    clause: str
    category: str

    @property
    def label(self) -> str:
        """How the reference reads in a sentence."""
        return f"{self.policy} {self.clause}"


DetectedBy = Literal["automated", "human", "external"]
Disclosure = Literal["notified", "deferred", "public"]
Severity = Literal["low", "medium", "high", "critical"]


class Basis(StrEnum):
    """On what a suspension rests."""

    VIOLATIONS = "violations"
    PRECAUTIONARY = "precautionary"
    LEGAL_ORDER = "legal_order"


class Ending(StrEnum):
    """How a term ends: by itself, or only when a person has looked."""

    AUTOMATIC = "automatic"
    ON_REVIEW = "on_review"


class Cause(StrEnum):
    """Why a suspension ended."""

    TERM_SERVED = "term_served"
    EARLY = "early"
    APPEAL_UPHELD = "appeal_upheld"
    VIOLATION_OVERTURNED = "violation_overturned"
    ERROR = "error"
    LEGAL_ORDER = "legal_order"


class Role(StrEnum):
    """What an operator may do. None includes another."""

    SERVICE = "service"
    REPORTER = "reporter"
    OFFICER = "officer"
    APPROVER = "approver"
    AUDITOR = "auditor"
    ADMIN = "admin"


_BASE32: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's, in the order of its values
_PAIRS: Final = [first + second for first in _BASE32 for second in _BASE32]


def sortable_id(prefix: str, at: datetime, entropy: bytes) -> str:
    """Return ``prefix_`` and 26 characters that sort by time: 48 bits of it, 80 of entropy.

    The layout is that of a ULID (github.com/ulid/spec), in lower case: milliseconds, then
    ``entropy``, which has 10 bytes.
    """
    number = int(at.timestamp() * 1000) << 80 | int.from_bytes(entropy)
    return f"{prefix}_" + "".join([_PAIRS[number >> shift & 1023] for shift in range(120, -1, -10)])
