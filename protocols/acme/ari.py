"""ACME renewal information (RFC 9773), the parts that are pure: certificate identifiers and when
to renew."""

import datetime as dt
import re
from dataclasses import dataclass
from typing import Any

from pkiserver.clock import rfc3339
from pkiserver.errors import MalformedMessage
from protocols.acme.encoding import decode_base64url, encode_base64url
from protocols.acme.problems import malformed

RETRY_AFTER = 6 * 3600
"""Seconds until a client asks again (section 4.3)."""
SHORT_LIVED = dt.timedelta(days=10)
MAX_KEY_IDENTIFIER = 64
MAX_SERIAL = 21
"""RFC 5280 section 4.1.2.2: 20 octets, and one more for a sign octet."""
_CERT_ID = re.compile(r"[A-Za-z0-9_-]{1,128}\.[A-Za-z0-9_-]{1,128}")
_ONE_HOUR = dt.timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class CertID:
    """Section 4.1: the authority key identifier and the serial number of a certificate."""

    key_identifier: bytes
    serial: int

    def __str__(self) -> str:
        return cert_id(self.key_identifier, self.serial)


def cert_id(key_identifier: bytes, serial: int) -> str:
    """The identifier as section 4.1 writes it: the serial as the content of its DER INTEGER, with
    a zero octet in front if the first bit would be set."""
    octets = serial.to_bytes(serial.bit_length() // 8 + 1, "big")
    return f"{encode_base64url(key_identifier)}.{encode_base64url(octets)}"


def parse_cert_id(text: str) -> CertID:
    """Serials are taken with or without the zero octet in front, for clients leave it out or put
    it where it does not belong. Raises `Problem` malformed."""
    if not _CERT_ID.fullmatch(text):
        raise malformed("A CertID is two base64url strings with a dot between (RFC 9773)")
    first, _, second = text.partition(".")
    try:
        key_identifier = decode_base64url(first, "The key identifier of the CertID")
        octets = decode_base64url(second, "The serial number of the CertID")
    except MalformedMessage as error:
        raise malformed(error.detail) from error
    if len(key_identifier) > MAX_KEY_IDENTIFIER or len(octets) > MAX_SERIAL:
        raise malformed("A part of the CertID is too long")
    return CertID(key_identifier, int.from_bytes(octets, "big"))


def suggested_window(
    not_before: dt.datetime,
    not_after: dt.datetime,
    now: dt.datetime,
    revoked_at: dt.datetime | None,
) -> tuple[dt.datetime, dt.datetime]:
    """When to renew: (start, end), start before end by two seconds at the least.

    Around two thirds of the lifetime, or half of a short one, within 5% of it, so that clients
    spread. For a revoked certificate the window has passed: renew now (section 4.2).
    """
    if revoked_at is not None:
        end = min(revoked_at, now)
        return end - _ONE_HOUR, end
    lifetime = not_after - not_before
    middle = not_before + (lifetime / 2 if lifetime < SHORT_LIVED else lifetime * 2 / 3)
    half = max(lifetime / 40, dt.timedelta(seconds=1))
    start = (middle - half).replace(microsecond=0)
    return start, start + max(2 * half, dt.timedelta(seconds=2))


def renewal_info_json(
    start: dt.datetime, end: dt.datetime, explanation_url: str | None = None
) -> dict[str, Any]:
    """The RenewalInfo object (section 4.2)."""
    window = {"start": rfc3339(start), "end": rfc3339(end)}
    explanation = {} if explanation_url is None else {"explanationURL": explanation_url}
    return {"suggestedWindow": window, **explanation}
