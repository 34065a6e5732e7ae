"""Lint: a second look at the bytes that are about to be signed, by code that did not make them.

`fast` runs on every certificate. `full` is pkilint's RFC 5280 linter: 5 ms each, so it is a gate
only in profiles that ask for it; `samples.lint_profiles` runs it on a sample of every profile.
"""

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, TypeVar

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pkiserver.ca.issuer import Issuer
from pkiserver.ca.policy import host_in
from pkiserver.errors import PKIError
from pkiserver.pkix import algorithms, cert, der
from pkiserver.pkix.names import AltName, NameType, from_general_names

T = TypeVar("T", bound=x509.ExtensionType)
Extensions = Mapping[x509.ObjectIdentifier, x509.Extension[x509.ExtensionType]]

_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
# RFC 5280 section 4.1.2.4 and appendix A.1; everything else is a DirectoryString.
_STRING_TYPES = {
    NameOID.COUNTRY_NAME.dotted_string: {der.PRINTABLE_STRING},
    NameOID.SERIAL_NUMBER.dotted_string: {der.PRINTABLE_STRING},
    NameOID.EMAIL_ADDRESS.dotted_string: {der.IA5_STRING},
    NameOID.DOMAIN_COMPONENT.dotted_string: {der.IA5_STRING},
}
_DIRECTORY_STRING = {der.PRINTABLE_STRING, der.UTF8_STRING}


def fast(lint_certificate: bytes, issuer: Issuer) -> list[str]:
    """What is wrong with an end-entity certificate; empty if nothing is."""
    try:
        fields = der.sequence_of(cert.split(lint_certificate)[0])
        problems = list(_envelope(fields, lint_certificate, issuer))
        if problems:  # such as a negative serial number, of which the library only warns
            return problems
        certificate = x509.load_der_x509_certificate(lint_certificate)
        extensions = {each.oid: each for each in certificate.extensions}
        return [
            *_times(certificate, fields, issuer),
            *_strings(fields[5]),
            *_key_usage(certificate, extensions),
            *_names(certificate, extensions),
            *_authority(extensions, fields[6].encoded, issuer),
            *_locations(extensions),
        ]
    except PKIError as error:
        return [error.detail]
    except cert.LIBRARY_ERRORS as error:
        return [f"not a certificate the library reads: {error}"]


def _envelope(fields: Sequence[der.TLV], data: bytes, issuer: Issuer) -> Iterator[str]:
    version, serial, algorithm, issuer_name = fields[:4]
    if version.encoded != bytes.fromhex("a003020102"):
        yield "the certificate is not version 3 (RFC 5280 section 4.1.2.1)"
    # Invariant: at least 128 random bits, so at least 16 octets.
    if not 16 <= len(serial.contents) <= cert.MAX_SERIAL_OCTETS or serial.contents[0] & 0x80:
        yield "the serial number has not 16 to 20 octets, or is negative"
    if algorithm.encoded != cert.split(data)[1]:
        yield "the two signature algorithms differ (RFC 5280 section 4.1.1.2)"
    if issuer_name.encoded != issuer.subject_der:
        yield "the issuer is not the authority's subject, octet for octet (section 4.1.2.4)"


def _times(
    certificate: x509.Certificate, fields: Sequence[der.TLV], issuer: Issuer
) -> Iterator[str]:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not issuer.not_before <= start < end <= issuer.not_after:
        yield "the validity is empty or not within the issuer's"
    for element, moment in zip(der.children(fields[4].contents), (start, end), strict=True):
        utc = element.tag == _UTC_TIME and len(element.contents) == 13 and moment.year < 2050
        late = element.tag == _GENERALIZED_TIME and len(element.contents) == 15
        if not utc and not (late and moment.year >= 2050):
            yield "a time is not in the form RFC 5280 section 4.1.2.5 wants"


def _strings(subject: der.TLV) -> Iterator[str]:
    for rdn in der.children(subject.contents):
        for attribute in der.children(rdn.contents):
            oid, value = der.children(attribute.contents)
            dotted = der.decode_oid(oid.contents)
            if value.tag not in _STRING_TYPES.get(dotted, _DIRECTORY_STRING):
                yield f"the subject's {dotted} has the wrong string type (section 4.1.2.4)"


def _key_usage(certificate: x509.Certificate, extensions: Extensions) -> Iterator[str]:
    constraints = _value(extensions, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        yield "basicConstraints says CA"
    usage = _value(extensions, x509.KeyUsage)
    if usage is None or not extensions[x509.KeyUsage.oid].critical:
        yield "keyUsage is missing or not critical (section 4.2.1.3)"
    elif usage.key_cert_sign or usage.crl_sign:
        yield "keyUsage has keyCertSign or cRLSign"
    else:
        yield from _usage_of_kind(algorithms.describe(certificate.public_key()), usage)
    purposes = _value(extensions, x509.ExtendedKeyUsage)
    if purposes is not None and ExtendedKeyUsageOID.OCSP_SIGNING in purposes:
        yield "extendedKeyUsage has OCSPSigning"


def _usage_of_kind(kind: str, usage: x509.KeyUsage) -> Iterator[str]:
    if usage.key_encipherment and not kind.startswith("rsa-"):
        yield f"keyEncipherment with a {kind} key"
    if usage.key_agreement and kind not in ("p256", "p384", "p521"):
        yield f"keyAgreement with a {kind} key"


def _names(certificate: x509.Certificate, extensions: Extensions) -> Iterator[str]:
    value = _value(extensions, x509.SubjectAlternativeName)
    empty = not certificate.subject.rdns
    if value is None:
        if empty:
            yield "neither a subject nor a subjectAltName (section 4.1.2.6)"
    elif extensions[x509.SubjectAlternativeName.oid].critical != empty:
        yield "subjectAltName is critical if and only if the subject is empty (section 4.2.1.6)"
    names = from_general_names(value or ())
    if len(set(names)) != len(names):
        yield "a name occurs twice"
    if any(name.type is NameType.OTHER for name in names):
        yield "a name of a type that is never issued"
    purposes = _value(extensions, x509.ExtendedKeyUsage)
    if purposes is None or ExtendedKeyUsageOID.SERVER_AUTH in purposes:
        yield from _common_names(certificate, set(names))


def _common_names(certificate: x509.Certificate, names: set[AltName]) -> Iterator[str]:
    for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
        text = str(attribute.value)
        if "." in text and (host := host_in(text)) is not None and host not in names:
            yield f"the common name {ascii(text)} is not among the names"


def _authority(extensions: Extensions, spki: bytes, issuer: Issuer) -> Iterator[str]:
    authority = _value(extensions, x509.AuthorityKeyIdentifier)
    expected = issuer.authority_key_identifier.key_identifier
    if authority is None or authority.key_identifier != expected:
        yield "authorityKeyIdentifier is not the issuer's subjectKeyIdentifier (section 4.2.1.1)"
    own = _value(extensions, x509.SubjectKeyIdentifier)
    if own is None or own.digest != algorithms.key_identifier_of(spki):
        yield "subjectKeyIdentifier is missing or not that of the key (section 4.2.1.2)"


def _locations(extensions: Extensions) -> Iterator[str]:
    for extension in extensions.values():
        if isinstance(extension.value, x509.AuthorityInformationAccess):
            urls = [access.access_location.value for access in extension.value]
        elif isinstance(extension.value, x509.CRLDistributionPoints):
            urls = [name.value for point in extension.value for name in point.full_name or ()]
        else:
            continue
        # Over HTTPS, checking the status would need a certificate whose status is to be checked.
        if extension.critical or not all(url.startswith("http://") for url in urls):
            yield f"{extension.oid.dotted_string} is critical or points to something but http"


def _value(extensions: Extensions, kind: type[T]) -> T | None:
    found = extensions.get(kind.oid)
    return None if found is None else found.value  # type: ignore[return-value]


NOT_OURS = frozenset({"pkix.invalid_uri_syntax"})
"""pkilint takes URIs only with a host that has a dot. RFC 3986 does not ask for that, a private
network's hosts (and localhost) may have none, and our own URLs are built from checked parts."""


class Severity(enum.IntEnum):
    """pkilint's, worst first. From ERROR on a certificate is not signed."""

    FATAL = 0
    ERROR = 1
    WARNING = 2
    NOTICE = 3
    INFO = 4
    DEBUG = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing pkilint says. `code` is its name of the rule."""

    severity: Severity
    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.code} {self.message}".strip()

    @property
    def is_error(self) -> bool:
        return self.severity <= Severity.ERROR


def full(certificate: bytes) -> list[Finding]:
    """What pkilint finds in a DER certificate, worst first. Takes milliseconds, and a quarter of a
    second the first time: for a thread."""
    loader: Any = import_module("pkilint.loader")
    try:
        document = loader.RFC5280CertificateDocumentLoader().load_der_document(certificate)
    except ValueError as error:
        return [Finding(Severity.FATAL, "pkiserver.not_a_certificate", str(error))]
    found = [
        Finding(
            Severity(description.finding.severity),
            description.finding.code,
            description.message or "",
        )
        for result in _pkilint().validate(document.root)
        for description in result.finding_descriptions
        if description.finding.code not in NOT_OURS
    ]
    return sorted(found, key=lambda finding: (finding.severity, finding.code))


@cache
def _pkilint() -> Any:
    """The linter of RFC 5280, once per process; imported late since few processes need it."""
    certificate: Any = import_module("pkilint.pkix.certificate")
    extension: Any = import_module("pkilint.pkix.extension")
    name: Any = import_module("pkilint.pkix.name")
    return certificate.create_pkix_certificate_validator_container(
        certificate.create_decoding_validators(
            name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS
        ),
        [
            certificate.create_issuer_validator_container([]),
            certificate.create_validity_validator_container(),
            certificate.create_subject_validator_container([]),
            certificate.create_extensions_validator_container([]),
            certificate.create_spki_validator_container([]),
        ],
    )
