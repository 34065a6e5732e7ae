"""What EST carries in HTTP bodies (RFC 7030 section 4, RFC 8951 section 3): base64 of DER, whatever
Content-Transfer-Encoding says; and the multipart answer of server-side key generation.

A request may be base64 with any white space or none, PEM with its armour, or bare DER, as clients
send all three. Everything else is a `MalformedMessage`.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field

from pkiserver.errors import MalformedMessage
from pkiserver.pkix import pem

MAX_BODY = 192 * 1024
"""Octets of a request body: a request of 64 KiB as PEM, with white space to spare."""

_ARMOUR = b"-----"
_LINE = 64
_WHITE_SPACE = b" \t\r\n"


def decode_request(body: bytes) -> bytes:
    """The DER of a certification request; not parsed yet."""
    if len(body) > MAX_BODY:
        raise MalformedMessage(f"the request is larger than {MAX_BODY} octets")
    text = body.strip(_WHITE_SPACE)
    if not text:
        raise MalformedMessage("the request has no body")
    if text.startswith(_ARMOUR):
        return pem.csr_der(text)
    if body.startswith(b"\x30") and not _is_base64_text(body):
        return body
    return pem.decode_base64(text, "the body")  # RFC 8951 section 3.1


def _is_base64_text(body: bytes) -> bool:
    """The first octet of DER, 0x30, is a digit of base64 as well; what follows is not text."""
    return all(0x20 <= octet < 0x7F or octet in _WHITE_SPACE for octet in body)


def encode_base64(data: bytes, *, wrapped: bool = False) -> bytes:
    """Base64 on one line, as RFC 8951 section 3.1 has it; `wrapped` for libest, which reads CA
    certificates only in lines."""
    text = base64.b64encode(data)
    if not wrapped:
        return text
    lines = [text[start : start + _LINE] for start in range(0, len(text), _LINE)]
    return b"\n".join(lines) + b"\n"


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a multipart body, to be sent as base64."""

    media_type: str
    content: bytes = field(repr=False)


def encode_multipart(parts: Sequence[Part], boundary: str) -> bytes:
    """multipart/mixed (RFC 2046 section 5.1) as RFC 7030 section 4.4.2 shows it. Base64 has no
    hyphen, so no boundary of ours can occur in a part."""
    delimiter = b"--" + boundary.encode("ascii")
    lines: list[bytes] = []
    for part in parts:
        lines += [
            delimiter,
            b"Content-Type: " + part.media_type.encode("ascii"),
            b"Content-Transfer-Encoding: base64",
            b"",
            encode_base64(part.content),
        ]
    return b"\r\n".join([*lines, delimiter + b"--", b""])
