"""DER tag-length-value, strictly (X.690 section 10): definite lengths in the fewest octets, tags
below 31, nothing after the end.

For the few places where the bytes themselves matter: what exactly is signed, attributes a library
drops, structures put together around a signature. Every refusal is a `MalformedMessage`.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

from pkiserver.errors import MalformedMessage

BOOLEAN = 0x01
INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
NULL = 0x05
OBJECT_IDENTIFIER = 0x06
UTF8_STRING = 0x0C
PRINTABLE_STRING = 0x13
T61_STRING = 0x14
IA5_STRING = 0x16
UNIVERSAL_STRING = 0x1C
BMP_STRING = 0x1E
SEQUENCE = 0x30
SET = 0x31

MAX_DEPTH = 32
"""Levels of nesting; a certificate with every extension needs about 12."""

CONSTRUCTED = 0x20
"""The bit of a tag octet."""
_TEXT_CODECS = {
    UTF8_STRING: "utf-8",
    PRINTABLE_STRING: "ascii",
    # T.61 proper has shift sequences nobody sends; what is out there is Latin-1.
    T61_STRING: "latin-1",
    IA5_STRING: "ascii",
    UNIVERSAL_STRING: "utf-32-be",
    BMP_STRING: "utf-16-be",
}


class TLV(NamedTuple):
    """One element: its tag octet, its contents octets, and the whole encoding."""

    tag: int
    contents: bytes
    encoded: bytes

    @property
    def constructed(self) -> bool:
        return bool(self.tag & CONSTRUCTED)


def span(data: bytes, offset: int) -> tuple[int, int, int]:
    """Tag, and where the contents of the element at `offset` begin and end, without copying what
    may be large."""
    if offset + 2 > len(data):
        raise _no_room()
    if data[offset] & 0x1F == 0x1F:
        raise _long_tag()
    start, length = _read_length(data, offset + 1)
    if start + length > len(data):
        raise _too_long()
    return data[offset], start, start + length


def _read_length(data: bytes, offset: int) -> tuple[int, int]:
    """Offset of the contents and their length (X.690 section 8.1.3, 10.1)."""
    first = data[offset]
    if first < 0x80:
        return offset + 1, first
    count = first & 0x7F
    if not 1 <= count <= 4:
        raise MalformedMessage("DER wants a definite length of at most four octets")
    octets = data[offset + 1 : offset + 1 + count]
    if len(octets) < count:
        raise MalformedMessage("truncated DER: the length is cut off")
    length = int.from_bytes(octets)
    if length < 0x80 or octets[0] == 0:
        raise MalformedMessage("a DER length is not in its shortest form")
    return offset + 1 + count, length


def read_one(data: bytes, tag: int | None = None) -> TLV:
    """The only element in `data`, with this tag if one is given."""
    found, start, end = span(data, 0)
    if end != len(data):
        raise MalformedMessage("bytes after the end of a DER element")
    if tag is not None and found != tag:
        raise MalformedMessage(f"expected DER tag {tag:#04x}, found {found:#04x}")
    return TLV(found, data[start:], data)


def children(contents: bytes) -> tuple[TLV, ...]:
    """All the elements in the contents of a constructed one."""
    found: list[TLV] = []
    offset, end = 0, len(contents)
    while offset < end:
        if offset + 2 > end:
            raise _no_room()
        # The commonest lengths without a call: messages have hundreds of elements.
        tag, length, start = contents[offset], contents[offset + 1], offset + 2
        if tag & 0x1F == 0x1F:
            raise _long_tag()
        if length >= 0x80:
            start, length = _read_length(contents, offset + 1)
        after = start + length
        if after > end:
            raise _too_long()
        found.append(_new(TLV, (tag, contents[start:after], contents[offset:after])))
        offset = after
    return tuple(found)


_new = tuple.__new__


def _no_room() -> MalformedMessage:
    return MalformedMessage("truncated DER: no room for a tag and a length")


def _too_long() -> MalformedMessage:
    return MalformedMessage("truncated DER: the length runs past the end")


def _long_tag() -> MalformedMessage:
    return MalformedMessage("tags of more than one octet do not occur in PKIX")


def sequence_of(data: bytes) -> tuple[TLV, ...]:
    """The members of the SEQUENCE that `data` is."""
    return children(read_one(data, SEQUENCE).contents)


def walk(data: bytes, depth: int = 0) -> Iterator[TLV]:
    """Every element in `data`, outermost first; so the whole tree is known to be strict DER."""
    if depth > MAX_DEPTH:
        raise MalformedMessage(f"DER nested deeper than {MAX_DEPTH} levels")
    for element in children(data):
        yield element
        if element.constructed:
            yield from walk(element.contents, depth + 1)


def decode_oid(contents: bytes) -> str:
    """Dotted text of an OBJECT IDENTIFIER's contents octets (X.690 section 8.19)."""
    # The same few over and over; a long one of a stranger's is not kept.
    return _decode_short_oid(contents) if len(contents) <= 16 else _decode_oid(contents)


@functools.lru_cache(maxsize=512)
def _decode_short_oid(contents: bytes) -> str:
    return _decode_oid(contents)


def _decode_oid(contents: bytes) -> str:
    if not contents or contents[-1] & 0x80:
        raise MalformedMessage("truncated object identifier")
    arcs: list[int] = []
    value = 0
    for octet in contents:
        if value == 0 and octet == 0x80:
            raise MalformedMessage("object identifier arc with a leading zero")
        value = value << 7 | octet & 0x7F
        # X.667: the longest arcs in use are 128-bit UUIDs.
        if value.bit_length() > 128:
            raise MalformedMessage("object identifier arc beyond 128 bits")
        if not octet & 0x80:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(str(arc) for arc in (first, arcs[0] - 40 * first, *arcs[1:]))


def decode_text(element: TLV) -> str:
    """The text of any of the string types of X.680 that certificates use."""
    codec = _TEXT_CODECS.get(element.tag)
    if codec is None:
        raise MalformedMessage(f"DER tag {element.tag:#04x} is not a character string")
    try:
        return element.contents.decode(codec)
    except UnicodeDecodeError as error:
        raise MalformedMessage(f"not valid text for DER tag {element.tag:#04x}") from error


def encode(tag: int, *contents: bytes) -> bytes:
    """One element around the given pieces of contents."""
    body = b"".join(contents)
    return header(tag, len(body)) + body


def header(tag: int, length: int) -> bytes:
    """What stands before contents of that length."""
    if length < 0x80:
        return bytes((tag, length))
    octets = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes((tag, 0x80 | len(octets))) + octets


def encode_integer(value: int) -> bytes:
    """INTEGER, positive or not."""
    size = (value + (value < 0)).bit_length() // 8 + 1
    return encode(INTEGER, value.to_bytes(size, signed=True))


@functools.lru_cache(maxsize=512)
def encode_oid(dotted: str) -> bytes:
    """OBJECT IDENTIFIER from dotted text of our own (a `ValueError` otherwise)."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    return encode(OBJECT_IDENTIFIER, *(_base128(arc) for arc in (40 * first + second, *rest)))


def _base128(value: int) -> bytes:
    octets = [value & 0x7F]
    while value := value >> 7:
        octets.append(value & 0x7F | 0x80)
    return bytes(reversed(octets))


def encode_bit_string(octets: bytes) -> bytes:
    """BIT STRING of whole octets."""
    return encode(BIT_STRING, b"\x00", octets)
