"""Policy files: what is written is read back, what is malformed is refused, and quorums count."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.tlog.merkle import LogFormatError
from ledger.tlog.note import KeyType, Signer, VerifierKey, format_vkey
from ledger.tlog.policy_file import (
    MAX_POLICY_BYTES,
    PolicyFile,
    PolicyGroup,
    PolicyLog,
    PolicyWitness,
    format_policy_file,
    parse_policy_file,
)


def key(number: int, kind: KeyType = KeyType.COSIGNATURE) -> VerifierKey:
    """Make one of many keys."""
    name = f"{'witness' if kind is KeyType.COSIGNATURE else 'log'}.example/{number}"
    return Signer(name, number.to_bytes(32, "big"), kind).verifier_key


LOG = format_vkey(key(0, KeyType.ED25519))
VKEYS = [format_vkey(key(number)) for number in range(9)]

EXAMPLE = f"""# The example of the standard.
log {LOG} https://log.example

\twitness X1 {VKEYS[1]}
witness X2  {VKEYS[2]} https://x2.example
witness\tX3 {VKEYS[3]}
group X-witnesses 2 X1 X2 X3

witness Y1 {VKEYS[4]}
witness Y2 {VKEYS[5]}
witness Y3 {VKEYS[6]}
  # an inner comment
group Y-witnesses any Y1 Y2 Y3
group X-and-Y all X-witnesses Y-witnesses
quorum X-and-Y
""".encode()


WORDS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Zs", "Zl", "Zp"]), min_size=1
).filter(lambda word: word != "none")


@st.composite
def policies(draw: st.DrawFn) -> PolicyFile:
    """Make any policy that means something."""
    urls = st.none() | WORDS
    logs = tuple(
        PolicyLog(key(number, KeyType.ED25519), draw(urls))
        for number in range(draw(st.integers(0, 3)))
    )
    names = draw(st.lists(WORDS, unique=True, max_size=9))
    count = draw(st.integers(0, len(names)))
    witnesses = tuple(
        PolicyWitness(name, key(number), draw(urls)) for number, name in enumerate(names[:count])
    )
    free = list(names[:count])
    groups = []
    for name in names[count:]:
        members = draw(st.lists(st.sampled_from(free), unique=True)) if free else []
        if members:
            threshold = draw(st.integers(1, len(members)))
            groups.append(PolicyGroup(name, threshold, tuple(members)))
            free = [*(each for each in free if each not in members), name]
    known = [*names[:count], *(group.name for group in groups)]
    quorum = draw(st.none() | st.sampled_from(known)) if known else None
    return PolicyFile(logs, witnesses, tuple(groups), quorum)


@given(policies())
def test_what_is_written_is_read_back(policy: PolicyFile) -> None:
    """A policy goes through its file unchanged."""
    assert policy == parse_policy_file(format_policy_file(policy))


@given(st.binary(max_size=400) | st.lists(st.sampled_from(EXAMPLE.split())).map(b" ".join))
def test_whatever_is_read_is_a_policy_or_refused(data: bytes) -> None:
    """Noise and shuffled words raise our error, or are a policy that is written and read again."""
    with contextlib.suppress(LogFormatError):
        policy = parse_policy_file(data)
        assert policy == parse_policy_file(format_policy_file(policy))


@given(st.permutations(EXAMPLE.splitlines(keepends=True)))
def test_lines_in_any_order_mean_the_same_or_are_refused(lines: Sequence[bytes]) -> None:
    """Only an order in which each name stands before its uses is a policy."""
    example = parse_policy_file(EXAMPLE)
    with contextlib.suppress(LogFormatError):
        policy = parse_policy_file(b"".join(lines))
        assert set(example.witnesses) == set(policy.witnesses)
        assert set(example.groups) == set(policy.groups)


def test_the_example_of_the_standard_is_met_by_two_of_three_and_one_of_three() -> None:
    """Of every set of the six witnesses, exactly those with two X and one Y meet the quorum."""
    policy = parse_policy_file(EXAMPLE)
    for size in range(7):
        for numbers in combinations(range(1, 7), size):
            xs, ys = sum(each <= 3 for each in numbers), sum(each > 3 for each in numbers)
            assert (xs >= 2 and ys >= 1) == policy.is_met_by(key(each) for each in numbers)


def test_a_single_witness_and_nobody_are_quorums_too() -> None:
    """A quorum may name one witness, or nobody; the keys of strangers never count."""
    one = parse_policy_file(f"witness a {VKEYS[1]}\nquorum a\n".encode())
    nobody = parse_policy_file(f"witness a {VKEYS[1]}\nquorum none\n".encode())

    assert one.is_met_by([key(1), key(2)])
    assert not one.is_met_by([key(2)])
    assert nobody.is_met_by([])


def test_names_are_bytes() -> None:
    """A name that is no UTF-8 is taken as it is, and written as it was."""
    data = b"witness \xff\xfe " + VKEYS[1].encode() + b"\nquorum \xff\xfe\n"

    assert data == format_policy_file(parse_policy_file(data))


A, B = f"witness a {VKEYS[1]}\n", f"witness b {VKEYS[2]}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no quorum line"),
        (A, "no quorum line"),
        (f"{A}quorum a\nquorum a\n", "line 3: a policy has one quorum line"),
        (f"{A}quorum a\nquorum none\n", "one quorum line"),
        ("quorum none", "last line has no end"),
        ("quorum none\r\n", "control character"),
        ("quorum none\x7f\n", "control character"),
        ("quorum none\0\n", "control character"),
        ("quorum\n", "more or fewer words"),
        ("quorum none none\n", "more or fewer words"),
        ("quorum a\n", "line 1: a is not defined"),
        (f"quorum a\n{A}", "line 1: a is not defined"),
        ("Quorum none\n", "begins no line"),
        ("quorum none # why\n", "more or fewer words"),
        ("log\nquorum none\n", "more or fewer words"),
        (f"log {LOG} u v\nquorum none\n", "more or fewer words"),
        (f"log {LOG}\nlog {LOG}\nquorum none\n", "a log is listed twice"),
        (f"log {VKEYS[1]}\nquorum none\n", "cosignatures only"),
        ("log a+00000000+AAAA\nquorum none\n", "line 1: "),
        (f"witness a\n{B}quorum b\n", "more or fewer words"),
        (f"witness a {VKEYS[1]} u v\nquorum a\n", "more or fewer words"),
        (f"witness a {LOG}\nquorum a\n", "not of type 04"),
        (f"{A}witness b {VKEYS[1]}\nquorum a\n", "a witness is listed twice"),
        (f"{A}witness a {VKEYS[2]}\nquorum a\n", "a is defined twice"),
        (f"witness none {VKEYS[1]}\nquorum none\n", "none is defined twice"),
        (f"{A}group none any a\nquorum none\n", "none is defined twice"),
        (f"{A}group a any a\nquorum a\n", "a is defined twice"),
        (f"{A}group g any a\n{A.replace(' a ', ' g ')}quorum g\n", "twice"),
        (f"{A}group g any\nquorum g\n", "more or fewer words"),
        (f"{A}group g any b\n{B}quorum g\n", "line 2: b is not defined"),
        (f"{A}group g any g\nquorum g\n", "line 2: g is not defined"),
        (f"{A}group g any none\nquorum g\n", "line 2: none is not defined"),
        (f"{A}group g any a a\nquorum g\n", "a member twice"),
        (f"{A}group g any a\ngroup h any a\nquorum g\n", "a member twice"),
        (f"{A}group g 0 a\nquorum g\n", "neither all nor any"),
        (f"{A}group g 2 a\nquorum g\n", "2 of 1 members"),
        (f"{A}group g 01 a\nquorum g\n", "neither all nor any"),
        (f"{A}group g +1 a\nquorum g\n", "neither all nor any"),
        (f"{A}group g ALL a\nquorum g\n", "neither all nor any"),
        ("#\n" * 2000, "at most"),
        ("#" * MAX_POLICY_BYTES + "\n", "at most"),
    ],
)
def test_what_is_no_policy_is_refused(text: str, said: str) -> None:
    """Each fault is refused, with a sentence that says which it is."""
    with pytest.raises(LogFormatError) as refused:
        parse_policy_file(text.encode())

    assert said in str(refused.value)


@pytest.mark.parametrize("word", ["", "a b", "a\tb", "a\nb", "a\x7fb"])
def test_a_policy_that_could_not_be_read_back_cannot_be_made(word: str) -> None:
    """A name or URL that is no single word would change the meaning of its line."""
    with pytest.raises(LogFormatError, match="no single word"):
        PolicyFile(witnesses=(PolicyWitness(word, key(1)),))
    with pytest.raises(LogFormatError, match="no single word"):
        PolicyFile(logs=(PolicyLog(key(0, KeyType.ED25519), word),))
