"""Identifiers, texts, instants, durations, scopes and conditions: what is let in, what is not."""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from ledger.domain.errors import EndTooFar, InvalidValue
from ledger.domain.values import (
    ACTIONS_MAX,
    CLAUSE_TEXT_MAX,
    CONDITION_VALUES_MAX,
    CONDITIONS_MAX,
    FREE_TEXT_MAX,
    ID_BYTES_MAX,
    NUMBER_MAX,
    PROPERTIES_MAX,
    PROPERTY_TEXT_MAX,
    REASON_MAX,
    SCOPE_RESOURCES_MAX,
    SUMMARY_MAX,
    TITLE_MAX,
    URI_MAX,
    ClauseText,
    Condition,
    Evidence,
    FreeText,
    Name,
    Properties,
    Reason,
    Resource,
    Scalar,
    Scope,
    Sha256,
    Subject,
    Summary,
    Title,
    Uri,
    duration,
    end_after,
    format_instant,
    from_microseconds,
    identifier,
    microseconds,
    parse_instant,
    same,
    sortable_id,
    type_name,
)

E_ACUTE = "\u00e9"  # one code point, two bytes
E_ACUTE_NFD = "e\u0301"  # looks the same, but is not in the allowed form

ALLOWED_IDS = [
    "a",
    "alice",
    "Alice",
    "alice ",
    " alice",
    "alice@example.com",
    "a:b:c",
    "a/b",
    "..",
    "%2e%2e",
    "%ff%fe",
    "'; DROP TABLE events; --",
    "=cmd|' /C calc'!A0",
    "<script>alert(1)</script>",
    "null",
    "0",
    "00",
    E_ACUTE,
    "ж",
    "中文",
    "👩‍🚀",
    "\u202ealice",  # right-to-left override
    "ali\u200bce",  # zero-width space
    "alice\u200d",  # zero-width joiner
    "\u0430lice",  # a Cyrillic letter that looks like a Latin one
    "ﬁ",  # a ligature, which NFC keeps and NFKC would not
    "\u2028",  # a line separator, which is no control character
    "\ufeffalice",  # a byte order mark inside a text is a character
    "x" * ID_BYTES_MAX,
    E_ACUTE * (ID_BYTES_MAX // 2),
    "a" + "中" * (ID_BYTES_MAX // 3),
]

REFUSED_IDS: list[tuple[object, str]] = [
    ("", "must not be empty"),
    ("a\x00b", "must not hold control characters"),
    ("\x00", "must not hold control characters"),
    ("a\nb", "must not hold control characters"),
    ("a\tb", "must not hold control characters"),
    ("a\x1b[31mb", "must not hold control characters"),
    ("a\x7f", "must not hold control characters"),
    ("é\x00", "must not hold control characters"),
    ("a\u0085", "must not hold control characters"),
    ("\ud800", "must be valid UTF-8 without lone surrogates"),
    ("a\udfffb", "must be valid UTF-8 without lone surrogates"),
    ("\udc80\udcff", "must be valid UTF-8 without lone surrogates"),
    ("a\ufffdb", "must not hold U+FFFD, which stands for bytes that were lost"),
    (E_ACUTE_NFD, "must be in Unicode normalisation form NFC"),
    ("\u212b", "must be in Unicode normalisation form NFC"),  # the ångström sign
    ("x" * (ID_BYTES_MAX + 1), "must have at most 256 bytes"),
    (E_ACUTE * (ID_BYTES_MAX // 2) + "x", "must have at most 256 bytes"),
    ("x" + E_ACUTE * (ID_BYTES_MAX // 2), "must have at most 256 bytes"),
    ("中" * (ID_BYTES_MAX // 3 + 1), "must have at most 256 bytes"),
    (b"alice", "must be a string"),
    (1, "must be a string"),
    (None, "must be a string"),
    (["alice"], "must be a string"),
]


# --- identifiers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", ALLOWED_IDS, ids=ascii)
def test_an_identifier_is_taken_as_it_is(raw: str) -> None:
    """What is allowed is never changed, however odd it looks."""
    assert raw == identifier(raw)
    assert f"user:{raw}" == Subject(type="user", id=raw).key


@pytest.mark.parametrize(("raw", "why"), REFUSED_IDS, ids=lambda value: ascii(value)[:40])
def test_a_bad_identifier_is_refused_with_the_reason(raw: object, why: str) -> None:
    """What is not in the one allowed form is refused, never mended."""
    with pytest.raises(ValueError, match=re.escape(why)):
        identifier(raw)
    with pytest.raises(ValidationError, match=re.escape(why)):
        Subject.model_validate({"type": "user", "id": raw})


def test_no_two_identifiers_share_a_key() -> None:
    """The map from what was sent to the key is injective: nobody becomes somebody else."""
    senders = [(type_, raw) for type_ in ("user", "user.x", "u") for raw in ALLOWED_IDS]

    keys = {Subject(type=type_, id=raw).key for type_, raw in senders}

    assert len(senders) == len(keys)


@given(st.text(max_size=70))
def test_an_identifier_is_allowed_by_the_definition_alone(raw: str) -> None:
    """Any text is taken unchanged or refused, just as the written definition says."""
    allowed = (
        1 <= len(raw.encode(errors="surrogatepass")) <= ID_BYTES_MAX
        and not any(unicodedata.category(char) in ("Cc", "Cs") for char in raw)
        and "\ufffd" not in raw
        and unicodedata.normalize("NFC", raw) == raw
    )

    if allowed:
        assert raw == identifier(raw)
        assert Subject(type="user", id=raw) == Subject.parse(f"user:{raw}")
    else:
        with pytest.raises(ValueError, match="must"):
            identifier(raw)


@pytest.mark.parametrize("raw", ["user", "a", "api_key", "a.b-c_9", "a" * 64])
def test_a_type_is_a_short_lower_case_name(raw: str) -> None:
    """Types are names of up to 64 characters."""
    assert raw == type_name(raw)


@pytest.mark.parametrize(
    "raw", ["", "User", "1user", "_user", "us er", "user:x", "usér", "user\n", "a" * 65, None, 7]
)
def test_a_bad_type_is_refused(raw: object) -> None:
    """A type with a colon or a capital letter could be read in two ways."""
    with pytest.raises(ValueError, match="must match"):
        type_name(raw)


@pytest.mark.parametrize(
    ("key", "subject"),
    [
        ("user:alice", Subject(type="user", id="alice")),
        ("user:a:b", Subject(type="user", id="a:b")),
        ("user::", Subject(type="user", id=":")),
    ],
)
def test_the_first_colon_parts_a_key(key: str, subject: Subject) -> None:
    """An id may hold colons; a type may not."""
    assert subject == Subject.parse(key)
    assert key == subject.key


@pytest.mark.parametrize("key", ["alice", "", ":alice", "user:", "User:alice", "user:a\x00"])
def test_a_bad_key_is_refused_in_our_own_words(key: str) -> None:
    """A key that cannot be parted raises our error, not one of the library below."""
    with pytest.raises(InvalidValue, match="type:id"):
        Subject.parse(key)


# --- texts and numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "limit"),
    [
        (Title, TITLE_MAX),
        (Summary, SUMMARY_MAX),
        (Reason, REASON_MAX),
        (FreeText, FREE_TEXT_MAX),
        (ClauseText, CLAUSE_TEXT_MAX),
        (Uri, URI_MAX),
    ],
    ids=["title", "summary", "reason", "free text", "clause", "uri"],
)
def test_a_text_has_at_least_one_character_and_at_most_its_limit(form: Any, limit: int) -> None:
    """Each text is taken up to its limit, refused one beyond it, and refused when empty."""
    text = TypeAdapter[str](form)

    assert "x" == text.validate_python("x")
    assert "é" * limit == text.validate_python("é" * limit)
    for refused in ("", "x" * (limit + 1), 5, None, b"x"):
        with pytest.raises(ValidationError):
            text.validate_python(refused)


@pytest.mark.parametrize("char", ["\x00", "\x08", "\x1b", "\x7f", "\u0085", "\ud800"], ids=ascii)
def test_a_text_holds_no_control_characters(char: str) -> None:
    """Texts hold no control characters, so that a log line or a screen shows what is there."""
    with pytest.raises(ValidationError):
        TypeAdapter[str](Reason).validate_python(f"a{char}b")


def test_a_text_may_have_lines_and_tabs() -> None:
    """A paragraph keeps its line ends and tabs."""
    assert "a\r\n\tb\u2028" == TypeAdapter[str](Reason).validate_python("a\r\n\tb\u2028")


@pytest.mark.parametrize("raw", ["a", "A9_.-", "9", "a" * 64])
def test_a_name_stands_in_a_url(raw: str) -> None:
    """Names of policies, clauses, groups and actions have up to 64 plain characters."""
    assert raw == TypeAdapter[str](Name).validate_python(raw)


@pytest.mark.parametrize("raw", ["", "a" * 65, "_a", ".", "..", "a b", "a/b", "é", "a\n", 7])
def test_a_bad_name_is_refused(raw: object) -> None:
    """A name with a slash, a leading dot or a line end would not survive a URL."""
    with pytest.raises(ValidationError):
        TypeAdapter[str](Name).validate_python(raw)


@pytest.mark.parametrize("raw", ["0" * 63, "0" * 65, "A" * 64, "g" * 64, "0" * 64 + "\n", 0])
def test_a_digest_has_64_lower_case_hexadecimal_digits(raw: object) -> None:
    """A digest in another writing would not compare equal to itself."""
    assert "0a" * 32 == TypeAdapter[str](Sha256).validate_python("0a" * 32)
    with pytest.raises(ValidationError):
        Evidence.model_validate({"uri": "s3://x", "sha256": raw})


@pytest.mark.parametrize(
    "value", [True, False, 0, 1, -1, 1.5, NUMBER_MAX, -NUMBER_MAX, float(NUMBER_MAX), "a"]
)
def test_a_property_is_a_text_a_number_or_a_truth_value(value: object) -> None:
    """Scalars keep their value and their type: ``True`` does not become 1, nor 1 become 1.0."""
    found: object = TypeAdapter[Any](Scalar).validate_python(value)

    assert (type(value), value) == (type(found), found)


@pytest.mark.parametrize(
    "value",
    [
        NUMBER_MAX + 1,
        -NUMBER_MAX - 1,
        2**64,
        1e300,
        float("nan"),
        float("inf"),
        float("-inf"),
        "",
        "x\x00",
        "\ud800",
        b"x",
        None,
        {},
        [[1]],
    ],
    ids=repr,
)
def test_a_property_that_json_cannot_hold_exactly_is_refused(value: object) -> None:
    """NaN, Infinity and numbers beyond 2^53 would not come back from the store as they went in."""
    with pytest.raises(ValidationError):
        TypeAdapter[Any](Properties).validate_python({"p": value})


def test_the_values_of_properties_are_limited() -> None:
    """A text has at most 1,000 characters, a list at most 100 values; both may be that long."""
    properties = TypeAdapter[Any](Properties)
    text, values = "é" * PROPERTY_TEXT_MAX, [1] * CONDITION_VALUES_MAX

    assert {"p": text, "q": tuple(values), "r": ()} == properties.validate_python(
        {"p": text, "q": values, "r": []}
    )
    for refused in (text + "x", [*values, 1], [text + "x"], [""], [float("nan")], [None]):
        with pytest.raises(ValidationError):
            properties.validate_python({"p": refused})


def test_the_number_of_properties_is_limited() -> None:
    """A subject or resource has at most 64 properties, with plain names."""
    properties = TypeAdapter[Any](Properties)
    full = {f"p{number}": number for number in range(PROPERTIES_MAX)}

    assert full == properties.validate_python(full)
    for refused in (full | {"one.more": 1}, {"": 1}, {"a b": 1}, {"x" * 129: 1}):
        with pytest.raises(ValidationError):
            properties.validate_python(refused)


# --- time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "stored"),
    [
        ("2026-11-24T10:00:00Z", "2026-11-24T10:00:00.000000Z"),
        ("2026-11-24t10:00:00z", "2026-11-24T10:00:00.000000Z"),
        ("2026-11-24T10:00:00.5+05:30", "2026-11-24T04:30:00.500000Z"),
        ("2026-11-24T10:00:00.123456789-08:00", "2026-11-24T18:00:00.123456Z"),
        ("2024-02-29T23:59:59Z", "2024-02-29T23:59:59.000000Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000000Z"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_an_instant_is_stored_in_one_form(raw: str, stored: str) -> None:
    """Whatever its offset, an instant is stored in UTC with six digits, and read back the same."""
    assert stored == format_instant(parse_instant(raw))
    assert parse_instant(raw) == parse_instant(stored)


@pytest.mark.parametrize(
    "raw",
    [
        "2026-02-30T00:00:00Z",
        "2025-02-29T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-01-01T24:00:00Z",
        "2026-01-01T00:60:00Z",
        "2026-12-31T23:59:60Z",
        "2026-01-01T00:00:00+24:00",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01",
        "2026-01-01T00:00:00",
        "2026-01-01 00:00:00Z",
        "2026-01-01",
        "20260101T000000Z",
        "2026-W01-1T00:00:00Z",
        "2026-01-01T00:00:00.Z",
        "2026-01-01T00:00:00.1234567890Z",
        "2026-01-01T00:00:00Z\n",
        "\uff12026-01-01T00:00:00Z",
        "",
        1767225600,
        None,
        datetime(2026, 1, 1),  # noqa: DTZ001 - an instant without an offset is the fault
    ],
    ids=repr,
)
def test_what_is_no_instant_is_refused(raw: object) -> None:
    """A day that the calendar does not have, or a time without an offset, is no instant."""
    with pytest.raises(ValueError, match=r"must|is no instant"):
        parse_instant(raw)


def test_an_aware_datetime_is_taken_to_utc() -> None:
    """Code may pass a datetime with an offset instead of text."""
    raw = datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=2)))

    assert "2025-12-31T22:00:00.000000Z" == format_instant(parse_instant(raw))
    assert UTC is parse_instant(raw).tzinfo


@given(st.datetimes(timezones=st.just(UTC)))
def test_an_instant_is_a_whole_number_of_microseconds(at: datetime) -> None:
    """Any instant of the calendar survives as a number, and numbers sort as instants do."""
    assert at == from_microseconds(microseconds(at))
    assert microseconds(at) < microseconds(at) + 1
    assert (at < parse_instant("2026-01-01T00:00:00Z")) is (
        microseconds(at) < microseconds(parse_instant("2026-01-01T00:00:00Z"))
    )


@pytest.mark.parametrize(
    "raw",
    [
        "P1Y",
        "P2M",
        "P2W",
        "P14D",
        "PT36H",
        "PT1M",
        "PT1S",
        "P1Y2M",
        "P1Y2M3D",
        "P1M1D",
        "P1DT1H",
        "P1Y2M10DT2H30M",
        "PT1H1M1S",
        "P0Y1M",
        "P100Y",
    ],
)
def test_a_duration_by_the_standard_is_taken(raw: str) -> None:
    """Durations by RFC 3339 appendix A are taken as they are."""
    assert raw == duration(raw)


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "P",
        "PT",
        "P1",
        "1D",
        "P1DT",
        "P1Y2D",  # a unit may follow only the next larger one
        "PT1H1S",
        "P1W1D",
        "P1M1Y",
        "P1.5D",
        "P1,5D",
        "PT0.5S",
        "-P1D",
        "+P1D",
        "P-1D",
        "P0D",
        "PT0S",
        "P0Y0M0D",
        "p1d",
        " P1D",
        "P1D\n",
        "P\u0661D",  # an Arabic digit
        "P1D/2026-01-01",
        "two months",
        60,
        None,
    ],
    ids=ascii,
)
def test_what_is_no_duration_is_refused(raw: object) -> None:
    """Negative, fractional, empty and misordered durations are refused."""
    with pytest.raises(ValueError, match="must be"):
        duration(raw)


CALENDAR = [
    ("2025-12-31T00:00:00Z", "P2M", "2026-02-28T00:00:00Z"),
    ("2023-12-31T00:00:00Z", "P2M", "2024-02-29T00:00:00Z"),
    ("2026-01-31T12:00:00Z", "P1M", "2026-02-28T12:00:00Z"),
    ("2026-03-31T00:00:00Z", "P1M", "2026-04-30T00:00:00Z"),
    ("2024-02-29T00:00:00Z", "P1Y", "2025-02-28T00:00:00Z"),
    ("2024-02-29T00:00:00Z", "P4Y", "2028-02-29T00:00:00Z"),
    ("2026-01-31T00:00:00Z", "P1M1D", "2026-03-01T00:00:00Z"),
    ("2026-01-01T00:00:00Z", "P1Y2M10DT2H30M", "2027-03-11T02:30:00Z"),
    ("2026-01-01T00:00:00Z", "P52W", "2026-12-31T00:00:00Z"),
    ("2026-01-01T00:00:00Z", "PT36H", "2026-01-02T12:00:00Z"),
    ("2026-01-01T00:00:00.000001Z", "PT1S", "2026-01-01T00:00:01.000001Z"),
    # In New York a clock shows no 02:30 on the first of these days, and two on the second.
    ("2026-03-07T07:30:00Z", "P1D", "2026-03-08T07:30:00Z"),
    ("2026-03-08T06:30:00Z", "PT1H", "2026-03-08T07:30:00Z"),
    ("2026-10-31T06:30:00Z", "P1D", "2026-11-01T06:30:00Z"),
    ("2026-01-01T00:00:00Z", "P100Y", "2126-01-01T00:00:00Z"),
]


@pytest.fixture(params=["UTC", "America/New_York", "Asia/Kathmandu", "Pacific/Apia"])
def local_time(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run as if the machine stood elsewhere."""
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", request.param)
        time.tzset()
        yield request.param
    time.tzset()


@pytest.mark.parametrize(("start", "length", "end"), CALENDAR, ids=str)
def test_a_duration_is_added_by_the_calendar_in_utc(
    local_time: str, start: str, length: str, end: str
) -> None:
    """A term ends at the same instant wherever the machine stands; a missing day is clamped."""
    found = end_after(parse_instant(start), length)

    assert parse_instant(end) == found
    assert UTC is found.tzinfo


def test_the_local_time_of_the_machine_was_moved(local_time: str) -> None:
    """The tests above really run under another local time."""
    expected = {"UTC": 0, "America/New_York": -5, "Asia/Kathmandu": 5.75, "Pacific/Apia": 13}

    offset = datetime(2026, 1, 1).astimezone().utcoffset()

    assert timedelta(hours=expected[local_time]) == offset


@pytest.mark.parametrize(
    "length", ["P99999Y", "P8000Y", "P9999999D", f"P{'9' * 40}D", f"PT{'9' * 4000}S"]
)
def test_an_end_beyond_the_calendar_is_refused(length: str) -> None:
    """A duration that leaves the calendar is a refusal, not a crash."""
    with pytest.raises(EndTooFar, match="beyond the calendar"):
        end_after(parse_instant("2026-01-01T00:00:00Z"), length)


@given(
    st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1)),  # noqa: DTZ001
    st.integers(1, 1200),
)
@settings(max_examples=50)
def test_months_keep_the_day_or_clamp_it(start: datetime, months: int) -> None:
    """Adding months leads to the month that many later, at the same time of day, day clamped."""
    start = start.replace(tzinfo=UTC)

    end = end_after(start, f"P{months}M")

    assert months == (end.year - start.year) * 12 + end.month - start.month
    assert start.timetz() == end.timetz()
    assert end.day == start.day or (end.day < start.day and (end + timedelta(days=1)).day == 1)


# --- scopes and conditions ------------------------------------------------------------------------


def test_an_error_in_a_selector_speaks_of_the_selector_that_was_meant() -> None:
    """A selector with a group is a group, one with an id is a resource, anything else is a type."""
    scope = Scope.model_validate(
        {
            "resources": [{"type": "model", "id": "m1"}, {"group": "g"}, {"type": "tool"}],
            "actions": ["use"],
            "conditions": [{"attribute": "action.properties.n", "exists": True}],
        }
    )

    assert "model:m1, group:g, every tool (use only) under conditions" == scope.label
    assert ("g",) == scope.groups
    for wrong, where in (
        ({"group": "no spaces"}, "group"),
        ({"type": "model", "id": ""}, "resource"),
        ({"type": "Model"}, "type"),
        ({"group": "g", "id": "x"}, "group"),
        ({}, "type"),
        (7, "type"),
    ):
        with pytest.raises(ValidationError) as caught:
            Scope.model_validate({"resources": [wrong]})
        places = [error["loc"] for error in caught.value.errors()]
        assert {where} == {str(place[2]).strip("[]") for place in places if len(place) > 1}


@pytest.mark.parametrize(
    ("member", "one", "limit"),
    [
        ("resources", {"type": "model", "id": "m"}, SCOPE_RESOURCES_MAX),
        ("actions", "use", ACTIONS_MAX),
        ("conditions", {"attribute": "action.properties.n", "exists": True}, CONDITIONS_MAX),
    ],
)
def test_a_scope_is_limited(member: str, one: object, limit: int) -> None:
    """Each list of a scope is taken at its limit and refused one beyond it."""
    scope: dict[str, object] = {"resources": [{"type": "model"}]}

    Scope.model_validate(scope | {member: [one] * limit})
    with pytest.raises(ValidationError):
        Scope.model_validate(scope | {member: [one] * (limit + 1)})


@pytest.mark.parametrize("member", ["resources", "actions"])
def test_a_scope_without_resources_or_with_no_action_is_refused(member: str) -> None:
    """A suspension that refuses nothing says so by not being there."""
    with pytest.raises(ValidationError):
        Scope.model_validate({"resources": [{"type": "model"}], member: []})


def condition(**operator: object) -> Condition:
    """Return a condition on the request's resource property ``p``."""
    return Condition.model_validate({"attribute": "resource.properties.p"} | operator)


@pytest.mark.parametrize(
    ("operator", "properties", "holds"),
    [
        ({"in": ["a", "b"]}, {"p": "a"}, True),
        ({"in": ["a", "b"]}, {"p": "c"}, False),
        ({"in": ["a"]}, {}, False),
        ({"in": ["a"]}, {"p": ["x", "a"]}, True),
        ({"in": ["a"]}, {"p": ("x", "y")}, False),
        ({"in": ["a"]}, {"p": []}, False),
        ({"in": ["a"]}, {"p": None}, False),
        ({"in": ["a"]}, {"p": {"a": 1}}, False),
        ({"in": ["a"]}, {"p": "A"}, False),
        ({"in": ["1"]}, {"p": 1}, False),
        ({"in": [1]}, {"p": True}, False),
        ({"in": [True]}, {"p": 1}, False),
        ({"in": [True]}, {"p": True}, True),
        ({"in": [False]}, {"p": 0}, False),
        ({"in": [0]}, {"p": False}, False),
        ({"in": [1]}, {"p": 1.0}, True),
        ({"in": [1.5]}, {"p": 1.5}, True),
        ({"in": [1]}, {"p": [True, "1"]}, False),
        ({"not_in": ["a"]}, {"p": "b"}, True),
        ({"not_in": ["a"]}, {"p": "a"}, False),
        ({"not_in": ["a"]}, {}, True),
        ({"not_in": ["a"]}, {"p": ["b", "a"]}, False),
        ({"not_in": ["a"]}, {"p": []}, True),
        ({"not_in": [1]}, {"p": True}, True),
        ({"exists": True}, {"p": "a"}, True),
        ({"exists": True}, {"p": None}, True),
        ({"exists": True}, {"p": False}, True),
        ({"exists": True}, {"q": "a"}, False),
        ({"exists": False}, {}, True),
        ({"exists": False}, {"p": "a"}, False),
    ],
    ids=repr,
)
def test_a_condition_compares_as_json_does(
    operator: dict[str, object], properties: dict[str, object], holds: bool
) -> None:
    """``true`` is not ``1``; a list holds when one of its values does; absent is in nothing."""
    asked = {"subject": {}, "resource": properties, "action": {}}

    assert holds is condition(**operator).holds(asked)


@pytest.mark.parametrize("entity", ["subject", "resource", "action"])
def test_a_condition_looks_at_the_entity_it_names(entity: str) -> None:
    """The same name on another entity is another property; a name may hold dots."""
    demand = Condition.model_validate(
        {"attribute": f"{entity}.properties.a.b", "in": ["x"]},
    )
    nothing: dict[str, Mapping[str, object]] = {"subject": {}, "resource": {}, "action": {}}
    elsewhere: dict[str, Mapping[str, object]] = {
        name: {"a.b": "x"} for name in nothing if name != entity
    }

    assert demand.holds({**nothing, entity: {"a.b": "x"}})
    assert not demand.holds({**nothing, **elsewhere})


@pytest.mark.parametrize(
    "raw",
    [
        {"attribute": "resource.properties.p"},
        {"attribute": "resource.properties.p", "in": ["a"], "exists": True},
        {"attribute": "resource.properties.p", "in": ["a"], "not_in": ["b"]},
        {"attribute": "resource.properties.p", "in": []},
        {"attribute": "resource.properties.p", "not_in": []},
        {"attribute": "resource.properties.p", "in": ["a"] * (CONDITION_VALUES_MAX + 1)},
        {"attribute": "resource.properties.p", "in": [None]},
        {"attribute": "resource.properties.p", "in": [["a"]]},
        {"attribute": "resource.properties.p", "in": "a"},
        {"attribute": "resource.properties.p", "exists": 1},
        {"attribute": "resource.properties.p", "equals": "a"},
        {"attribute": "resource.properties.", "exists": True},
        {"attribute": "resource.id", "exists": True},
        {"attribute": "context.properties.p", "exists": True},
        {"attribute": "resource.properties.p\n", "exists": True},
        {"attribute": "resource.properties." + "p" * 129, "exists": True},
    ],
    ids=lambda raw: repr(raw)[:90],
)
def test_a_condition_that_says_nothing_clear_is_refused(raw: dict[str, object]) -> None:
    """A condition has one known attribute and exactly one operator with a value."""
    with pytest.raises(ValidationError):
        Condition.model_validate(raw)


def test_a_condition_may_have_as_many_values_as_the_limit() -> None:
    """The limit itself is allowed."""
    values = [f"v{number}" for number in range(CONDITION_VALUES_MAX)]

    assert tuple(values) == condition(not_in=values).not_in


def test_comparing_is_the_same_both_ways() -> None:
    """``same`` knows truth values from numbers on either side."""
    values: list[object] = [True, False, 1, 0, 1.0, "1", "", None]

    for left in values:
        for right in values:
            assert same(left, right) is same(right, left)


def test_a_value_is_frozen_and_knows_its_members() -> None:
    """A value is never changed after it was checked, and an unknown member is refused."""
    with pytest.raises(ValidationError, match="frozen"):
        Subject(type="user", id="a").id = "b"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        Subject.model_validate({"type": "user", "id": "a", "name": "A"})


def test_a_resource_is_not_a_subject() -> None:
    """The same type and id name two things, one that asks and one that is asked for."""
    assert Subject(type="model", id="m") != Resource(type="model", id="m")


# --- ids ------------------------------------------------------------------------------------------


def test_ids_sort_by_time() -> None:
    """A later id is greater; within a millisecond the random part decides."""
    start = parse_instant("2026-01-01T00:00:00Z")
    early = sortable_id("sus", start, b"\xff" * 10)
    late = sortable_id("sus", start + timedelta(milliseconds=1), b"\x00" * 10)

    assert early < late
    assert sortable_id("sus", start, b"\x00" * 10) < early


@given(
    st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(9999, 1, 1)),  # noqa: DTZ001
    st.binary(min_size=10, max_size=10),
)
def test_an_id_is_its_prefix_and_26_plain_characters(at: datetime, entropy: bytes) -> None:
    """Ids have one length and no letter that is easily misread."""
    id_ = sortable_id("vio", at.replace(tzinfo=UTC), entropy)

    assert id_.startswith("vio_")
    assert 30 == len(id_)
    assert not set(id_[4:]) & set("ilou")
    assert id_ == identifier(id_)
