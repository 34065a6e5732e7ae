"""BER in, DER out (X.690 sections 8 and 10; checklist S10)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.cms import ber
from pkiserver.errors import MalformedMessage
from pkiserver.pkix import der
from tests.cms import support

_PRIMITIVES = st.builds(
    der.encode,
    st.sampled_from([der.INTEGER, der.OCTET_STRING, der.OBJECT_IDENTIFIER, 0x0C, 0x13, 0x80, 0x17]),
    st.binary(max_size=200),
)
_TREES = st.recursive(
    _PRIMITIVES,
    lambda members: st.builds(
        lambda tag, parts: der.encode(tag, *parts),
        st.sampled_from([der.SEQUENCE, der.SET, 0xA0, 0xA1]),
        st.lists(members, max_size=5),
    ),
    max_leaves=20,
)


@settings(max_examples=100, deadline=None)
@given(
    tree=_TREES,
    chunk=st.none() | st.integers(1, 64),
    indefinite=st.booleans(),
    long_lengths=st.sampled_from([0, 4, 8]),
)
def test_every_form_of_ber_comes_out_as_der(
    tree: bytes, chunk: int | None, indefinite: bool, long_lengths: int
) -> None:
    encoded = support.to_ber(tree, chunk=chunk, indefinite=indefinite, long_lengths=long_lengths)
    assert ber.to_der(encoded) == tree


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_random_octets_are_der_afterwards_or_malformed(data: bytes) -> None:
    try:
        encoded = ber.to_der(data)
    except MalformedMessage:
        return
    list(der.walk(encoded))
    assert ber.to_der(encoded) == encoded


@settings(max_examples=100, deadline=None)
@given(tree=_TREES, place=st.integers(0, 300), octet=st.integers(0, 255))
def test_der_is_told_apart_as_reading_it_would(tree: bytes, place: int, octet: int) -> None:
    """What goes past the reading of each element is what would have come out of it unchanged."""
    place %= len(tree)
    changed = tree[:place] + bytes((octet,)) + tree[place + 1 :]
    assert _outcome(tree) == _outcome_by_elements(tree) == tree
    assert _outcome(changed) == _outcome_by_elements(changed)


def _outcome(data: bytes) -> bytes | str:
    try:
        return ber.to_der(data)
    except MalformedMessage as error:
        return error.detail


def _outcome_by_elements(data: bytes) -> bytes | str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ber, "_is_der", lambda _: False)
        return _outcome(data)


@pytest.mark.parametrize("elements", [ber.MAX_ELEMENTS - 2, ber.MAX_ELEMENTS - 1])
def test_the_bound_of_elements_is_the_same_for_der(elements: int) -> None:
    data = der.encode(der.SEQUENCE, b"\x05\x00" * (elements - 1))
    assert _outcome(data) == _outcome_by_elements(data)


def test_der_and_the_order_of_its_sets_stay() -> None:
    unordered = der.encode(der.SET, der.encode_integer(9), der.encode_integer(1))
    assert ber.to_der(unordered) == unordered


def test_strings_in_segments_of_segments_are_joined() -> None:
    inner = b"\x24\x80\x04\x01a\x04\x02bc\x00\x00"
    assert ber.to_der(b"\x24\x80" + inner + b"\x04\x00\x04\x01d\x00\x00") == b"\x04\x04abcd"


def test_bit_strings_in_segments_are_joined() -> None:
    assert (
        ber.to_der(b"\x23\x80\x03\x02\x00\xf0\x03\x02\x04\xf0\x00\x00") == b"\x03\x03\x04\xf0\xf0"
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30",
        b"\x30\x80",
        b"\x30\x80\x00",
        b"\x30\x80\x02\x01\x01\x00",
        b"\x04\x80\x00\x00",
        b"\x30\x03\x02\x02\x01",
        b"\x30\x02\x02\x01\x01",
        b"\x30\x04\x30\x80\x00\x00\x00",
        b"\x30\x03\x30\x80\x00\x00\x00",
        b"\x00\x00",
        b"\x30\x02\x00\x00",
        b"\x1f\x01\x00",
        b"\x3f\x01\x00",
        b"\x30\x89\x00\x00\x00\x00\x00\x00\x00\x00\x00",
        b"\x30\xff" + bytes(200),
        b"\x30\x88" + b"\xff" * 8,
        b"\x24\x80\x02\x01\x01\x00\x00",
        b"\x24\x03\x03\x01\x00",
        b"\x23\x80\x00\x00",
        b"\x23\x80\x03\x00\x00\x00",
        b"\x23\x80\x03\x02\x04\xf0\x03\x02\x00\xf0\x00\x00",
        b"\x2c\x80\x0c\x01a\x00\x00",
        b"\x05\x00\x00",
        b"\x30\x80\x00\x00\x00",
    ],
)
def test_what_is_not_one_element_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        ber.to_der(data)


@pytest.mark.parametrize("opening", [b"\x30\x80", b"\x24\x80", b"\xa0\x80"])
def test_nesting_is_limited_and_does_not_recurse(opening: bytes) -> None:
    with pytest.raises(MalformedMessage, match="nested"):
        ber.to_der(opening * 100_000)


def test_the_limit_of_nesting_is_that_of_the_der_reader() -> None:
    deepest = b""
    for _ in range(der.MAX_DEPTH):
        deepest = der.encode(der.SEQUENCE, deepest)
    assert list(der.walk(ber.to_der(deepest)))
    with pytest.raises(MalformedMessage, match="nested"):
        ber.to_der(der.encode(der.SEQUENCE, deepest))


def test_elements_and_size_are_limited() -> None:
    with pytest.raises(MalformedMessage, match="elements"):
        ber.to_der(der.encode(der.SEQUENCE, b"\x05\x00" * 100_000))
    with pytest.raises(MalformedMessage, match="larger"):
        ber.to_der(der.encode(der.OCTET_STRING, bytes(300)), max_size=200)
