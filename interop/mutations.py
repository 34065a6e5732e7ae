"""Damaged messages: what parsers of DER and BER have to withstand, from a message that is right.

`truncations` and `flips` are complete for their kind. `mutate` and `restructure` make one of many
more, the same one for the same generator of random numbers: `mutate` of any octets, `restructure`
of a DER message, with lengths that fit again, so that it gets past the first look.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pkiserver.errors import MalformedMessage
from pkiserver.pkix import der

_TAGS = b"\x00\x01\x02\x03\x04\x05\x06\x0c\x13\x1f\x24\x30\x31\x80\xa0\xa1\xa2\xa3\xbf\xff"
_LENGTHS = (b"\x00", b"\x7f", b"\x80", b"\x81\x00", b"\x84\xff\xff\xff\xff", b"\x88" + b"\xff" * 8)


def truncations(message: bytes) -> Iterator[bytes]:
    """The message cut off before each of its octets."""
    return (message[:end] for end in range(len(message)))


def flips(message: bytes, mask: int = 0xFF) -> Iterator[bytes]:
    """The message with the bits of `mask` flipped in each of its octets, one at a time."""
    for position in range(len(message)):
        damaged = bytearray(message)
        damaged[position] ^= mask
        yield bytes(damaged)


def mutate(message: bytes, source: random.Random) -> bytes:
    """The message with one to four changes."""
    for _ in range(source.randint(1, 4)):
        message = source.choice(_CHANGES)(message, source)
    return message


def _position(message: bytes, source: random.Random) -> int:
    return source.randrange(len(message) + 1)


def _replace(message: bytes, source: random.Random) -> bytes:
    at = _position(message, source)
    return message[:at] + source.randbytes(1) + message[at + 1 :]


def _retag(message: bytes, source: random.Random) -> bytes:
    at = _position(message, source)
    return message[:at] + bytes((source.choice(_TAGS),)) + message[at + 1 :]


def _relength(message: bytes, source: random.Random) -> bytes:
    at = _position(message, source)
    return message[:at] + source.choice(_LENGTHS) + message[at + 1 :]


def _remove(message: bytes, source: random.Random) -> bytes:
    at = _position(message, source)
    return message[:at] + message[at + source.randint(1, 64) :]


def _repeat(message: bytes, source: random.Random) -> bytes:
    at = _position(message, source)
    piece = message[at : at + source.randint(1, 64)]
    return message[:at] + piece * source.randint(2, 16) + message[at + len(piece) :]


def _insert(message: bytes, source: random.Random) -> bytes:
    at = _position(message, source)
    return message[:at] + source.randbytes(source.randint(1, 16)) + message[at:]


def _nest(message: bytes, source: random.Random) -> bytes:
    """Inside indefinite lengths that nothing ends."""
    at = _position(message, source)
    opening = bytes((source.choice((0x24, 0x30, 0x31, 0xA0)), 0x80))
    return message[:at] + opening * source.choice((1, 30, 5000)) + message[at:]


_CHANGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _replace,
    _retag,
    _relength,
    _remove,
    _repeat,
    _insert,
    _nest,
)


@dataclass(slots=True)
class _Node:
    """An element; `members` is None where the contents are octets. An OCTET STRING around another
    element has that as its member."""

    tag: int
    contents: bytes
    members: "list[_Node] | None"

    def encode(self) -> bytes:
        if self.members is None:
            return der.encode(self.tag, self.contents)
        return der.encode(self.tag, *(member.encode() for member in self.members))

    def walk(self) -> "Iterator[_Node]":
        yield self
        for member in self.members or ():
            yield from member.walk()


def _node(element: der.TLV) -> _Node:
    members = None
    if element.constructed or element.contents[:1] == b"\x30":
        try:
            members = [_node(child) for child in der.children(element.contents)]
        except MalformedMessage:
            if element.constructed:
                raise
    return _Node(element.tag, element.contents, members)


def restructure(message: bytes, source: random.Random) -> bytes:
    """A DER message with one to three of its elements changed, gone, doubled or out of place."""
    root = _node(der.read_one(message))
    for _ in range(source.randint(1, 3)):
        nodes = list(root.walk())
        node = source.choice(nodes)
        if node.members:
            _rearrange(node.members, nodes, source)
        else:
            _change(node, source)
    return root.encode()


def _rearrange(members: list[_Node], nodes: list[_Node], source: random.Random) -> None:
    at = source.randrange(len(members))
    match source.randrange(5):
        case 0:
            del members[at]
        case 1:
            members[at:at] = [members[at]] * source.choice((1, 2, 100))
        case 2:
            source.shuffle(members)
        case 3:
            stranger = source.choice(nodes)
            members[at] = _Node(stranger.tag, stranger.encode(), None)
        case 4:
            members[at] = _Node(source.choice(_TAGS), members[at].encode(), None)


def _change(node: _Node, source: random.Random) -> None:
    match source.randrange(4):
        case 0:
            node.tag = source.choice(_TAGS)
        case 1:
            node.contents = source.randbytes(source.choice((0, 1, 2, 8, 16, 300)))
        case 2:
            node.contents = mutate(node.contents, source)
        case 3:
            node.contents = source.choice((b"\x80", b"\xff" * 70, b"\x00" + node.contents))
    node.members = None
