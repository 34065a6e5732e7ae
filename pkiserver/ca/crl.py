"""Certificate revocation lists as bytes (RFC 5280 section 5), without any I/O.

    TBSCertList ::= SEQUENCE { version v2, signature, issuer, thisUpdate, nextUpdate,
                               revokedCertificates SEQUENCE OF Entry OPTIONAL,
                               crlExtensions [0] EXPLICIT }
    Entry       ::= SEQUENCE { userCertificate, revocationDate, crlEntryExtensions OPTIONAL }

Entries are encoded once, when a certificate is revoked, and kept with the revocation: a list is
their concatenation and one signature, whatever its length.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPublicKeyTypes

from pkiserver.ca import encoding
from pkiserver.ca.issuer import key_identifier
from pkiserver.ca.model import Reason
from pkiserver.pkix import cert, der

MAX_CRL_NUMBER = (1 << 159) - 1
"""RFC 5280 section 5.2.3: at most 20 octets."""

_V2 = der.encode_integer(1)
_AUTHORITY_KEY_IDENTIFIER = "2.5.29.35"
_CRL_NUMBER = "2.5.29.20"
_REASON_CODE = "2.5.29.21"
_INVALIDITY_DATE = "2.5.29.24"
_DELTA_CRL_INDICATOR = "2.5.29.27"
_ISSUING_DISTRIBUTION_POINT = "2.5.29.28"
_FRESHEST_CRL = "2.5.29.46"
_CRITICAL_TRUE = b"\xff"
_ONLY_CONTAINS = {"user": 0x81, "ca": 0x82}


@dataclass(frozen=True, slots=True)
class CRL:
    """A published list. `scope` is the `Scope.name`, `base` the BaseCRLNumber of a delta;
    `generation` is the issuer's status generation it shows, `behind` whether there is a later
    change; `entries` counts what is on it."""

    issuer: str
    scope: str
    base: int | None
    number: int
    generation: int
    this_update: dt.datetime
    next_update: dt.datetime
    entries: int
    sha256: bytes = field(repr=False)
    der: bytes = field(repr=False)
    behind: bool = False


@dataclass(frozen=True, slots=True)
class Form:
    """The extensions of a list that depend on how the issuer's lists are cut: issuing distribution
    point and freshest CRL, each encoded, or empty."""

    distribution_point: bytes = b""
    freshest: bytes = b""

    @property
    def octets(self) -> bytes:
        return self.distribution_point + self.freshest


def form(covers: str, urls: Sequence[str], delta_url: str | None) -> Form:
    """`covers` is "all", "user" or "ca". The list of everything has no distribution point: some
    clients (NSS) refuse a list with a critical extension they do not know."""
    # Section 5.2.6: in the complete list only, never critical.
    freshest = b""
    if delta_url is not None:
        freshest = encoding.extension(
            _FRESHEST_CRL, der.encode(der.SEQUENCE, der.encode(der.SEQUENCE, _point([delta_url])))
        )
    if covers == "all":
        return Form(b"", freshest)
    # Section 5.2.5: critical. The URL is that of the certificates' distribution points, octet for
    # octet, as verifiers compare. The list of CAs has none, being complete for what it covers:
    # OpenSSL looks for the root's own status, too, and a root names no URL.
    only = der.encode(_ONLY_CONTAINS[covers], _CRITICAL_TRUE)
    value = der.encode(der.SEQUENCE, b"" if covers == "ca" else _point(urls), only)
    point = encoding.extension(_ISSUING_DISTRIBUTION_POINT, value, critical=True)
    return Form(point, freshest)


def _point(urls: Sequence[str]) -> bytes:
    """distributionPoint [0] { fullName [0] { uniformResourceIdentifier [6] ... } }"""
    names = [der.encode(0x86, url.encode("ascii")) for url in urls]
    return der.encode(0xA0, der.encode(0xA0, *names))


def encode_entry(
    serial: int, revoked_at: dt.datetime, reason: Reason, invalidity_date: dt.datetime | None
) -> bytes:
    """One entry of a full list. `unspecified` is expressed by the absence of a reason (section
    5.3.1). `ValueError` for a serial number that is none, and for removeFromCRL, which only a
    delta list may say."""
    if reason is Reason.REMOVE_FROM_CRL:
        raise ValueError("removeFromCRL appears on delta CRLs only")
    return _entry(serial, revoked_at, reason, invalidity_date)


def encode_removal(serial: int, released_at: dt.datetime) -> bytes:
    """The entry of a delta list for a hold that is over (section 5.3.1)."""
    return _entry(serial, released_at, Reason.REMOVE_FROM_CRL, None)


def _entry(
    serial: int, moment: dt.datetime, reason: Reason, invalidity_date: dt.datetime | None
) -> bytes:
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
        encoding.time(moment),
        der.encode(der.SEQUENCE, extensions) if extensions else b"",
    )


def to_be_signed(
    issuer: x509.Certificate,
    *,
    number: int,
    this_update: dt.datetime,
    next_update: dt.datetime,
    entries: Sequence[bytes],
    form: Form = Form(),
    base: int | None = None,
) -> bytes:
    """The TBSCertList of `issuer`, to be signed with its key. `entries` come from `encode_entry`,
    any number of them in one piece. With `base` it is a delta to the list of that number."""
    if not 0 < number <= MAX_CRL_NUMBER:
        raise ValueError("a CRL number is positive and has at most 20 octets")
    head = (
        _V2,
        encoding.signature_algorithm(public_key(issuer)),
        encoding.fields_of(issuer).subject,
        encoding.time(this_update),
        encoding.time(next_update),
    )
    # Section 5.1.2.6: where nothing is revoked the list is absent, not empty.
    length = sum(map(len, entries))
    revoked = (der.header(der.SEQUENCE, length), *entries) if length else ()
    extensions = _extensions(issuer, number, form, base)
    tail = der.encode(0xA0, der.encode(der.SEQUENCE, *extensions))
    parts = (*head, *revoked, tail)
    # One join: nothing that is as large as the list is copied twice.
    return b"".join((der.header(der.SEQUENCE, sum(map(len, parts))), *parts))


def _extensions(
    issuer: x509.Certificate, number: int, form: Form, base: int | None
) -> tuple[bytes, ...]:
    """Sections 5.2.1 and 5.2.3: the first two are always there and never critical. A delta has the
    distribution point of its base (section 5.2.4) and no freshest CRL (section 5.2.6)."""
    identifier = der.encode(0x80, key_identifier(issuer))
    always = (
        encoding.extension(_AUTHORITY_KEY_IDENTIFIER, der.encode(der.SEQUENCE, identifier)),
        encoding.extension(_CRL_NUMBER, der.encode_integer(number)),
    )
    if base is None:
        return (*always, form.distribution_point, form.freshest)
    indicator = encoding.extension(_DELTA_CRL_INDICATOR, der.encode_integer(base), critical=True)
    return (*always, indicator, form.distribution_point)


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
