"""Looking up CA certificates and CRLs by hash (RFC 4387): `?sKIDHash=...` and the like.

A search key is the SHA-1 hash of the certificate, of the DER of a name, or of a key identifier, in
base64 without padding (section 2.1). As names of what is public, SHA-1 harms nobody here.
"""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from urllib.parse import parse_qsl

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.ca.encoding import fields_of
from pkiserver.ca.issuer import key_identifier
from pkiserver.errors import ErrorCode, PKIError

FILE = "search.cgi"
CERTIFICATE_KEYS = frozenset({"certHash", "iHash", "sHash", "sKIDHash"})
CRL_KEYS: Mapping[str, str] = MappingProxyType({"iHash": "sHash", "sKIDHash": "sKIDHash"})
"""What is asked of a CRL, and what that is of its issuer's certificate (section 2.2)."""

_VALUE = re.compile(r"[A-Za-z0-9+/]{27}")


def parse_query(query: bytes) -> tuple[str, str]:
    """Attribute and value. `PKIError` MALFORMED for anything but one of each, with the characters
    of base64 only (section 2.1)."""
    text = query[:200].decode("latin-1")
    # A plus sign that was not escaped is meant as one: base64 has no space.
    pairs = [(name, value.replace(" ", "+")) for name, value in parse_qsl(text)]
    if len(pairs) != 1 or not _VALUE.fullmatch(pairs[0][1]):
        raise PKIError(ErrorCode.MALFORMED, "ask with one attribute and a SHA-1 hash in base64")
    return pairs[0]


def matching(
    certificates: Mapping[str, x509.Certificate], attribute: str, value: str
) -> Sequence[str]:
    """The names of the authorities whose certificate has that."""
    return [name for name, each in certificates.items() if _keys(each).get(attribute) == value]


def _keys(certificate: x509.Certificate) -> dict[str, str]:
    fields = fields_of(certificate)
    return {
        "certHash": _search_key(certificate.public_bytes(Encoding.DER)),
        "iHash": _search_key(fields.issuer),
        "sHash": _search_key(fields.subject),
        "sKIDHash": _search_key(key_identifier(certificate)),
    }


def _search_key(octets: bytes) -> str:
    digest = hashlib.sha1(octets, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode("ascii").rstrip("=")
