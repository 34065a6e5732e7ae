"""Certificate revocation lists as bytes (RFC 5280 section 5), without any I/O.

    TBSCertList ::= SEQUENCE { version v2, signature, issuer, thisUpdate, nextUpdate,
                               revokedCertificates SEQUENCE OF Entry OPTIONAL,
                               crlExtensions [0] EXPLICIT }
    Entry       ::= SEQUENCE { userCertificate, revocationDate, crlEntryExtensions OPTIONAL }

Entries are encoded once, when a certificate is revoked, and kept with the revocation: a list is
their concatenation and one signature, whatever its length.
"""

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPublicKeyTypes

from pkiserver.ca import encoding
from pkiserver.ca.issuer import key_identifier
from pkiserver.ca.model import Reason
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix import cert, der

MAX_CRL_NUMBER = (1 << 159) - 1
"""RFC 5280 section 5.2.3: at most 20 octets."""

_V2 = der.encode_integer(1)
_AUTHORITY_KEY_IDENTIFIER = "2.5.29.35"
_CRL_NUMBER = "2.5.29.20"
_REASON_CODE = "2.5.29.21"
_INVALIDITY_DATE = "2.5.29.24"


@dataclass(frozen=True, slots=True)
class CRL:
    """A published list. `generation` is the issuer's status generation it shows; `entries` counts
    the revoked certificates on it."""

    issuer: str
    number: int
    generation: int
    this_update: dt.datetime
    next_update: dt.datetime
    entries: int
    der: bytes = field(repr=False)


def encode_entry(
    serial: int, revoked_at: dt.datetime, reason: Reason, invalidity_date: dt.datetime | None
) -> bytes:
    """One entry of a full list. `unspecified` is expressed by the absence of a reason (section
    5.3.1). `ValueError` for a serial number that is none, and for removeFromCRL, which only a
    delta list may say."""
    if reason is Reason.REMOVE_FROM_CRL:
        raise ValueError("removeFromCRL appears on delta CRLs only")
    if not 0 < serial < 1 << (8 * cert.MAX_SERIAL_OCTETS - 1):
        raise ValueError("a serial number is positive and has up to 20 octets")
    extensions = b""
    if reason is not Reason.UNSPECIFIED:
        code = der.encode(encoding.ENUMERATED, bytes((reason.code,)))
        extensions += encoding.extension(_REASON_CODE, code)
    if invalidity_date is not None:
        # Section 5.3.2: GeneralizedTime whatever the year, unlike all other dates of a CRL.
        extensions += encoding.extension(
            _INVALIDITY_DATE, encoding.generalized_time(invalidity_date)
        )
    return der.encode(
        der.SEQUENCE,
        der.encode_integer(serial),
        encoding.time(revoked_at),
        der.encode(der.SEQUENCE, extensions) if extensions else b"",
    )


def to_be_signed(
    issuer: x509.Certificate,
    *,
    number: int,
    this_update: dt.datetime,
    next_update: dt.datetime,
    entries: Iterable[bytes],
) -> bytes:
    """The TBSCertList of `issuer`, to be signed with its key. `entries` come from
    `encode_entry`."""
    if not 0 < number <= MAX_CRL_NUMBER:
        raise ValueError("a CRL number is positive and has at most 20 octets")
    revoked = b"".join(entries)
    return der.encode(
        der.SEQUENCE,
        _V2,
        encoding.signature_algorithm(public_key(issuer)),
        encoding.fields_of(issuer).subject,
        encoding.time(this_update),
        encoding.time(next_update),
        # Section 5.1.2.6: where nothing is revoked the list is absent, not empty.
        der.encode(der.SEQUENCE, revoked) if revoked else b"",
        der.encode(0xA0, der.encode(der.SEQUENCE, *_extensions(issuer, number))),
    )


def _extensions(issuer: x509.Certificate, number: int) -> tuple[bytes, bytes]:
    """Sections 5.2.1 and 5.2.3: both are always there and never critical."""
    identifier = der.encode(0x80, key_identifier(issuer))
    return (
        encoding.extension(_AUTHORITY_KEY_IDENTIFIER, der.encode(der.SEQUENCE, identifier)),
        encoding.extension(_CRL_NUMBER, der.encode_integer(number)),
    )


def check(data: bytes, issuer: x509.Certificate, *, number: int, entries: int) -> None:
    """Read a new list with another implementation before anybody gets it: PKIError INTERNAL if it
    does not parse, has not this number of entries, or is not signed by the issuer's key."""
    try:
        parsed = x509.load_der_x509_crl(data)
        found = parsed.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        sound = (
            parsed.is_signature_valid(public_key(issuer))
            and parsed.issuer == issuer.subject
            and found == number
            and len(parsed) == entries
        )
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound) as error:
        raise PKIError(ErrorCode.INTERNAL, "the new CRL does not parse") from error
    if not sound:
        raise PKIError(ErrorCode.INTERNAL, "the new CRL is not what was to be signed")


def may_sign(issuer: x509.Certificate) -> bool:
    """Whether its certificate lets the authority sign CRLs (section 4.2.1.3: cRLSign)."""
    try:
        usage = issuer.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return usage.crl_sign


def public_key(issuer: x509.Certificate) -> CertificateIssuerPublicKeyTypes:
    """The key an authority's signatures are verified with."""
    return cast(CertificateIssuerPublicKeyTypes, issuer.public_key())
