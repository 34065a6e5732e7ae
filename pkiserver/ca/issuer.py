"""What a certification path means for a certificate at its end: computed once per authority."""

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from pkiserver.ca.crl_scope import Distribution
from pkiserver.ca.encoding import fields_of, signature_algorithm
from pkiserver.config import CRLSettings
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix import algorithms, cert, constraints
from pkiserver.pkix.names import AltName

_ONE_LIST = CRLSettings()
_ANY = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE


@dataclass(frozen=True, slots=True, eq=False)
class Issuer:
    """An authority as the issuer of end entities. `not_before` and `not_after` are those of the
    whole path; `purposes` the extended key usages of each CA that has some; `subject_der` its name,
    octet for octet; `signature_algorithm` the AlgorithmIdentifier of its signatures, DER."""

    name: str
    certificate: x509.Certificate
    public_key: CertificatePublicKeyTypes = field(repr=False)
    not_before: dt.datetime
    not_after: dt.datetime
    constraints: tuple[x509.NameConstraints, ...]
    purposes: tuple[frozenset[x509.ObjectIdentifier], ...]
    subject_der: bytes = field(repr=False)
    authority_key_identifier: x509.AuthorityKeyIdentifier
    lists: Distribution
    signature_algorithm: bytes = field(repr=False)
    ca_issuers: x509.AccessDescription
    ocsp: x509.AccessDescription

    def check_names(self, names: Sequence[AltName], subject: x509.Name) -> None:
        """RFC 5280 section 6.1.3 (b) and (c): the constraints of every CA above."""
        for constraint in self.constraints:
            constraints.check(constraint, names, subject)

    def check_purposes(self, wanted: Sequence[x509.ObjectIdentifier], rule: str) -> None:
        """Most verifiers take a CA's extended key usage as a bound on what is below it."""
        for purposes in self.purposes:
            outside = [oid.dotted_string for oid in wanted if oid not in purposes]
            if outside or not wanted:
                raise PKIError(
                    ErrorCode.REFUSED_BY_PROFILE,
                    f"the authority {self.name} or one above it is restricted to other purposes",
                    rule=rule,
                )


def describe(
    name: str,
    path: Sequence[x509.Certificate],
    http_base: str,
    crl: CRLSettings = _ONE_LIST,
) -> Issuer:
    """The issuer whose certification path, its own certificate first, is `path`."""
    certificate = path[0]
    return Issuer(
        name=name,
        certificate=certificate,
        public_key=certificate.public_key(),
        not_before=max(each.not_valid_before_utc for each in path),
        not_after=min(each.not_valid_after_utc for each in path),
        constraints=tuple(_constraints(path)),
        purposes=tuple(_purposes(path)),
        subject_der=fields_of(certificate).subject,
        authority_key_identifier=x509.AuthorityKeyIdentifier(
            key_identifier(certificate), None, None
        ),
        lists=Distribution(name, http_base, crl),
        signature_algorithm=signature_algorithm(certificate.public_key()),
        ca_issuers=_access(AuthorityInformationAccessOID.CA_ISSUERS, f"{http_base}/ca/{name}.cer"),
        ocsp=_access(AuthorityInformationAccessOID.OCSP, f"{http_base}/ocsp/{name}"),
    )


def key_identifier(certificate: x509.Certificate) -> bytes:
    """RFC 5280 section 4.2.1.1: the issuer's subjectKeyIdentifier as it stands; computed only for
    an imported CA that has none."""
    standing = cert.subject_key_identifier(certificate)
    return standing or algorithms.key_identifier(certificate.public_key())


def _constraints(path: Iterable[x509.Certificate]) -> Iterator[x509.NameConstraints]:
    for certificate in path:
        for extension in certificate.extensions:
            if isinstance(extension.value, x509.NameConstraints):
                yield extension.value


def _purposes(
    path: Iterable[x509.Certificate],
) -> Iterator[frozenset[x509.ObjectIdentifier]]:
    for certificate in path:
        for extension in certificate.extensions:
            value = extension.value
            if isinstance(value, x509.ExtendedKeyUsage) and _ANY not in value:
                yield frozenset(value)


def _access(method: x509.ObjectIdentifier, url: str) -> x509.AccessDescription:
    return x509.AccessDescription(method, x509.UniformResourceIdentifier(url))
