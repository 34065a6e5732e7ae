"""X.690: only the distinguished encoding is read."""

from collections.abc import Iterator
from typing import Any

import pytest
from asn1crypto import parser as asn1crypto_parser
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.errors import MalformedMessage
from pkiserver.pkix import der

parser: Any = asn1crypto_parser  # without types
TREES = st.recursive(
    st.builds(der.encode, st.sampled_from([0x02, 0x04, 0x06, 0x0C, 0x80]), st.binary(max_size=140)),
    lambda members: st.builds(
        lambda tag, parts: der.encode(tag, *parts),
        st.sampled_from([der.SEQUENCE, der.SET, 0xA0, 0xA3]),
        st.lists(members, max_size=4),
    ),
    max_leaves=15,
)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("", "no room"),
        ("30", "no room"),
        ("3001", "past the end"),
        ("3080", "definite"),
        ("30810100", "shortest"),
        ("3082008000", "shortest"),
        ("308201", "cut off"),
        ("30850000000001", "at most four"),
        ("1f8101", "more than one octet"),
        ("300000", "after the end"),
    ],
)
def test_other_than_strict_der_is_refused(data: str, why: str) -> None:
    with pytest.raises(MalformedMessage, match=why):
        der.read_one(bytes.fromhex(data))


def test_the_tag_is_checked() -> None:
    with pytest.raises(MalformedMessage, match="0x30"):
        der.read_one(b"\x05\x00", der.SEQUENCE)


def test_nesting_is_bounded() -> None:
    data = b""
    for _ in range(der.MAX_DEPTH + 2):
        data = der.encode(der.SEQUENCE, data)
    with pytest.raises(MalformedMessage, match="deeper"):
        list(der.walk(data))


@given(st.integers(0x01, 0x1E), st.binary(max_size=300))
@settings(max_examples=50)
def test_what_is_written_is_read_back(tag: int, contents: bytes) -> None:
    element = der.read_one(der.encode(tag, contents))
    assert (element.tag, element.contents) == (tag, contents)


@given(st.integers(-(2**200), 2**200))
@settings(max_examples=100)
def test_integers(value: int) -> None:
    contents = der.read_one(der.encode_integer(value), der.INTEGER).contents
    assert int.from_bytes(contents, signed=True) == value
    assert len(contents) == 1 or contents[0] not in (0, 0xFF) or (contents[0] ^ contents[1]) & 0x80


@pytest.mark.parametrize("dotted", ["2.5.4.3", "0.9.2342.19200300.100.1.1", "2.999.1", "1.3.14"])
def test_object_identifiers(dotted: str) -> None:
    element = der.read_one(der.encode_oid(dotted), der.OBJECT_IDENTIFIER)
    assert der.decode_oid(element.contents) == dotted
    x509.ObjectIdentifier(dotted)


@pytest.mark.parametrize(
    "contents", [b"", b"\x80\x01", b"\x2a\x86", b"\x2a" + b"\xff" * 30 + b"\1"]
)
def test_bad_object_identifiers(contents: bytes) -> None:
    with pytest.raises(MalformedMessage):
        der.decode_oid(contents)


@pytest.mark.parametrize(
    ("tag", "contents", "text"),
    [
        (der.UTF8_STRING, "é".encode(), "é"),
        (der.BMP_STRING, "é".encode("utf-16-be"), "é"),
        (der.T61_STRING, b"\xe9", "é"),
        (der.PRINTABLE_STRING, b"e", "e"),
    ],
)
def test_strings_of_every_type(tag: int, contents: bytes, text: str) -> None:
    assert der.decode_text(der.read_one(der.encode(tag, contents))) == text


@pytest.mark.parametrize(
    ("tag", "contents"), [(der.UTF8_STRING, b"\xff"), (der.BMP_STRING, b"a"), (der.INTEGER, b"1")]
)
def test_what_is_no_string(tag: int, contents: bytes) -> None:
    with pytest.raises(MalformedMessage):
        der.decode_text(der.read_one(der.encode(tag, contents)))


@given(st.binary(max_size=200))
@settings(max_examples=100)
def test_random_octets_raise_only_malformed(data: bytes) -> None:
    try:
        for element in der.walk(data):
            der.decode_oid(element.contents)
    except MalformedMessage:
        pass


@given(TREES, st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=2))
@settings(max_examples=150)
def test_what_is_read_has_no_other_encoding(tree: bytes, changes: list[tuple[int, int]]) -> None:
    """And another implementation, which is not so strict, finds the same elements in it."""
    changed = bytearray(tree)
    for place, octet in changes:
        changed[place % len(changed)] = octet
    data = bytes(changed)
    try:
        elements = list(der.walk(data))
    except MalformedMessage:
        assert data != tree
        return
    assert _again(data) == data
    assert [element.encoded for element in elements] == list(_read_by_another(data))
    if len(der.children(data)) == 1:
        assert der.read_one(data) == elements[0]


def _again(contents: bytes) -> bytes:
    return b"".join(
        der.encode(each.tag, _again(each.contents) if each.constructed else each.contents)
        for each in der.children(contents)
    )


def _read_by_another(contents: bytes) -> Iterator[bytes]:
    while contents:
        _, constructed, _, header, inner, trailer = parser.parse(contents)
        length = len(header + inner + trailer)
        yield contents[:length]
        if constructed:
            yield from _read_by_another(inner)
        contents = contents[length:]
