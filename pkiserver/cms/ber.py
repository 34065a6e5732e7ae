"""BER (X.690 section 8) brought into the form `pkix.der` reads: definite lengths in the fewest
octets, strings in one piece.

What is DER already comes out octet for octet, so certificates and signed attributes inside keep
the octets that were signed. The order in a SET is kept, too. Nothing here recurses: how deep a
message is nested is counted, not left to the interpreter's stack.
"""

from dataclasses import dataclass, field

from pkiserver.errors import MalformedMessage
from pkiserver.pkix import der

MAX_SIZE = 256 * 1024
"""Octets of a message. One with a certificate, a CRL of a few thousand entries or a key fits."""
MAX_ELEMENTS = 20_000
"""Of any kind, in the whole message: bounds the time spent on octets that are all lengths."""

_CONSTRUCTED = 0x20
_OCTET_STRING = der.OCTET_STRING | _CONSTRUCTED
_BIT_STRING = der.BIT_STRING | _CONSTRUCTED
_NEVER_STRINGS = frozenset({der.SEQUENCE, der.SET})
_UNIVERSAL_CONSTRUCTED = _NEVER_STRINGS | {_OCTET_STRING, _BIT_STRING}


@dataclass(slots=True)
class _Open:
    """A constructed element whose members are being read; `end` is None for an indefinite length,
    which two zero octets end (section 8.1.5)."""

    tag: int
    end: int | None
    limit: int
    members: list[bytes] = field(default_factory=list)


def to_der(data: bytes, *, max_size: int = MAX_SIZE) -> bytes:
    """The one element that `data` is, as `pkix.der` reads it; `MalformedMessage` otherwise."""
    if len(data) > max_size:
        raise MalformedMessage(f"the message is larger than {max_size} octets")
    if _is_der(data):
        return data
    whole = _Open(0, len(data), len(data))
    stack = [whole]
    offset = elements = 0
    while True:
        elements += 1
        if elements > MAX_ELEMENTS:
            raise MalformedMessage(f"the message has more than {MAX_ELEMENTS} elements")
        offset = _close_finished(stack, data, offset)
        if len(stack) == 1 and whole.members:
            break
        offset = _read_element(stack, data, offset)
    if offset != len(data):
        raise MalformedMessage("bytes after the end of the message")
    return whole.members[0]


def _is_der(data: bytes) -> bool:
    """Whether it is sure to come out as it is, which is so for the messages of most clients. False
    for whatever is wrong with others: the way through the elements below says what."""
    outer: list[int] = []
    offset, end = 0, len(data)
    for _ in range(MAX_ELEMENTS - 1):
        if offset + 2 > end:
            return False
        tag, length, start = data[offset], data[offset + 1], offset + 2
        if tag & 0x1F == 0x1F or tag == 0:
            return False
        if length >= 0x80:
            count = length & 0x7F
            if not 1 <= count <= 4 or start + count > end or data[start] == 0:
                return False
            length = int.from_bytes(data[start : start + count])
            start += count
            if length < 0x80:
                return False
        offset = start + length
        if offset > end or (not outer and offset != end):
            return False
        if tag & _CONSTRUCTED:
            if (tag < 0x40 and tag not in _NEVER_STRINGS) or len(outer) >= der.MAX_DEPTH:
                return False
            if length:
                outer.append(end)
                offset, end = start, offset
        while offset == end:
            if not outer:
                return True
            end = outer.pop()
    return False


def _read_element(stack: list[_Open], data: bytes, offset: int) -> int:
    """Take the element at `offset` into the innermost open one, or open it; the offset after."""
    parent = stack[-1]
    tag, length, start = _header(data, offset, parent.limit)
    if not tag & _CONSTRUCTED:
        if length is None:
            raise MalformedMessage("a primitive element has an indefinite length")
        parent.members.append(der.encode(tag, data[start : start + length]))
        return start + length
    if tag < 0x40 and tag not in _UNIVERSAL_CONSTRUCTED:
        raise MalformedMessage(f"tag {tag:#04x} does not occur in messages")
    # The bottom of the stack is no element; what is let through `der.walk` lets through.
    if len(stack) > der.MAX_DEPTH:
        raise MalformedMessage(f"the message is nested deeper than {der.MAX_DEPTH} levels")
    end = None if length is None else start + length
    stack.append(_Open(tag, end, parent.limit if end is None else end))
    return start


def _header(data: bytes, offset: int, limit: int) -> tuple[int, int | None, int]:
    """(tag octet, length or None if indefinite, offset of the contents) of what starts before
    `limit` and has to end there at the latest (section 8.1.2, 8.1.3)."""
    if offset + 2 > limit:
        raise MalformedMessage("the message is cut off")
    tag, length, start = data[offset], data[offset + 1], offset + 2
    if tag & 0x1F == 0x1F or tag == 0:
        raise MalformedMessage(f"tag {tag:#04x} does not occur in messages")
    if length == 0x80:
        return tag, None, start
    if length > 0x80:
        count = length & 0x7F
        # BER allows leading zeros in a length; eight octets are what encoders reserve.
        if count > 8 or start + count > limit:
            raise MalformedMessage("the message is cut off or a length has too many octets")
        length = int.from_bytes(data[start : start + count])
        start += count
    if start + length > limit:
        raise MalformedMessage("the message is cut off: a length runs past the end")
    return tag, length, start


def _close_finished(stack: list[_Open], data: bytes, offset: int) -> int:
    """Close every open element that ends at `offset`; the offset after their end marks."""
    while len(stack) > 1:
        innermost = stack[-1]
        if innermost.end is None:
            if data[offset : min(offset + 2, innermost.limit)] != b"\x00\x00":
                break
            offset += 2
        elif offset != innermost.end:
            break
        stack.pop()
        stack[-1].members.append(_closed(innermost.tag, innermost.members))
    return offset


def _closed(tag: int, members: list[bytes]) -> bytes:
    if tag == _OCTET_STRING:
        return der.encode(der.OCTET_STRING, join_octets(members))
    if tag == _BIT_STRING:
        return der.encode(der.BIT_STRING, _join_bits(members))
    return der.encode(tag, *members)


def join_octets(segments: list[bytes]) -> bytes:
    """The value of an OCTET STRING sent in these segments, each a whole element (section 8.7.3)."""
    return b"".join(der.read_one(segment, der.OCTET_STRING).contents for segment in segments)


def _join_bits(segments: list[bytes]) -> bytes:
    """Only the last segment may have unused bits (section 8.6.4)."""
    values = [der.read_one(segment, der.BIT_STRING).contents for segment in segments]
    if not values or any(not value for value in values):
        raise MalformedMessage("an empty BIT STRING")
    if any(value[0] for value in values[:-1]):
        raise MalformedMessage("unused bits in the middle of a BIT STRING")
    return values[-1][:1] + b"".join(value[1:] for value in values)
