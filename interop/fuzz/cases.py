"""What a fuzz target gives: requests, and what must hold of the answer."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Rng = random.Random


@dataclass(frozen=True)
class Reply:
    """An HTTP answer; names of header fields are lower case."""

    status: int
    headers: Mapping[bytes, bytes]
    body: bytes


Check = Callable[[Reply], str | None]
"""What is wrong with an answer, None if nothing is."""


def nothing(reply: Reply) -> None:
    """Whatever is below 500 will do, which is looked at for every case."""


@dataclass(frozen=True)
class Case:
    """A request, octet for octet: `target` goes into the request line as it is, Host and
    Content-Length are added. `secure`: over HTTPS."""

    method: bytes
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = field(default=b"", repr=False)
    secure: bool = False
    check: Check = nothing


@dataclass(frozen=True)
class Subject:
    """The server that is fuzzed: its home, its ports on loopback, and two certificates it issued,
    each a PEM file with the chain. `client`.crt and .key are what is shown over HTTPS."""

    command: Path
    home: Path
    https_port: int
    http_port: int
    good: Path
    revoked: Path
    client: Path


Cases = Callable[[Rng], Case]
Target = Callable[[Subject], Cases]
"""Makes, once per run, the function that makes cases."""


def mutated(data: bytes, rng: Rng, most: int = 4) -> bytes:
    """`data` with one to `most` small damages: octets changed, taken out, put in, or a piece
    repeated; lengths and tags of ASN.1 are hit as well as contents."""
    out = bytearray(data)
    for _ in range(rng.randint(1, most)):
        at = rng.randrange(len(out) + 1)
        kind = rng.randrange(6)
        if kind == 0 and out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
        elif kind == 1 and out:
            out[at % len(out)] = rng.choice((0, 1, 0x7F, 0x80, 0x81, 0x84, 0xFF, 0x30, 0xA0))
        elif kind == 2:
            del out[at : at + rng.randint(1, 8)]
        elif kind == 3:
            out[at:at] = rng.randbytes(rng.randint(1, 8))
        elif kind == 4:
            piece = out[at : at + rng.randint(1, 64)]
            out[at:at] = piece * rng.randint(1, 4)
        else:
            del out[at:]
    return bytes(out)
