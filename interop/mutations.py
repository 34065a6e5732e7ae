"""Damaged messages: what parsers of DER and BER have to withstand, from a message that is right.

`truncations` and `flips` are complete for their kind; `mutate` makes one of many more, the same
one for the same generator of random numbers.
"""

import random
from collections.abc import Callable, Iterator

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
