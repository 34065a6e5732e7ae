"""The query of a SCEP request: `operation=...&message=...` (RFC 8894 section 4.1).

Read from the raw octets: in the base64 of a message a `+` is a plus sign, whatever form encoding
says, and clients differ in what they escape. Seen and put right: `%20` for a plus sign, line ends
within the base64, padding left out, the URL-safe alphabet.
"""

import base64
import binascii
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from pkiserver.errors import MalformedMessage

_TIDY = bytes.maketrans(b" -_", b"++/")
_WHITE = b"\r\n\t"


@dataclass(frozen=True, slots=True)
class Query:
    """`operation` is as the client wrote it, empty if it did not; `message` is unquoted once."""

    operation: str
    message: bytes = field(repr=False)


def parse_query(raw: bytes) -> Query:
    """Other parameters are ignored. Raises `MalformedMessage` for one that is there twice."""
    found: dict[bytes, bytes] = {}
    for part in raw.split(b"&"):
        name, _, value = part.partition(b"=")
        name = name.lower()
        if name in (b"operation", b"message"):
            if name in found:
                raise MalformedMessage(f"the parameter {name.decode()} occurs twice")
            found[name] = unquote_to_bytes(value)
    operation = found.get(b"operation", b"").decode("ascii", "replace")
    return Query(operation, found.get(b"message", b""))


def decode_message(text: bytes) -> bytes:
    """The octets of the message of a GET. Raises `MalformedMessage`."""
    tidy = text.translate(_TIDY, _WHITE).rstrip(b"=")
    try:
        return base64.b64decode(tidy + b"=" * (-len(tidy) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise MalformedMessage("the message is not base64") from None
