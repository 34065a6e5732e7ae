"""From a decision to the bytes that will be signed (RFC 5280 section 4.1).

    TBSCertificate ::= SEQUENCE { version [0], serialNumber, signature, issuer, validity, subject,
        subjectPublicKeyInfo, extensions [3] }

Put together here, since what certificates of one profile, authority and kind of key have in common
is encoded once. The lint certificate has them under a signature that nobody made, for linters that
read whole certificates.

An end-entity certificate has a subjectKeyIdentifier, as RFC 5280 section 4.2.1.2 recommends (CMS
recipients and renewals by device refer to it), and no basicConstraints (section 4.2.1.9 leaves it
open; the default cA FALSE would be an empty extension).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificateIssuerPrivateKeyTypes,
)

from pkiserver.ca import encoding
from pkiserver.ca.crl_scope import Scope
from pkiserver.ca.issuer import Issuer
from pkiserver.ca.policy import Decision
from pkiserver.ca.profiles import Profile
from pkiserver.pkix import algorithms, cert, der
from pkiserver.pkix.names import to_general_name

_MUST_STAPLE = x509.TLSFeature([x509.TLSFeatureType.status_request])
_VERSION_3 = der.encode(0xA0, der.encode_integer(2))
_NO_SIGNATURE = der.encode(der.SEQUENCE, der.encode_integer(1), der.encode_integer(1))
"""In the form that ECDSA has."""


@dataclass(frozen=True, slots=True)
class Template:
    """The lint certificate and its parts."""

    lint_certificate: bytes = field(repr=False)
    tbs: bytes = field(repr=False)
    signature_algorithm: bytes = field(repr=False)


def build(profile: Profile, issuer: Issuer, decision: Decision, serial: int) -> Template:
    """The template of a certificate that says what was decided."""
    algorithm = issuer.signature_algorithm
    tbs = der.encode(
        der.SEQUENCE,
        _VERSION_3,
        der.encode_integer(serial),
        algorithm,
        issuer.subject_der,
        encoding.validity(decision.not_before, decision.not_after),
        decision.subject.public_bytes(),
        decision.spki,
        der.encode(0xA3, der.encode(der.SEQUENCE, *_extensions(profile, issuer, decision, serial))),
    )
    return Template(cert.assemble(tbs, algorithm, _NO_SIGNATURE), tbs, algorithm)


def _extensions(
    profile: Profile, issuer: Issuer, decision: Decision, serial: int
) -> Iterator[bytes]:
    identifier = x509.SubjectKeyIdentifier(algorithms.key_identifier_of(decision.spki))
    yield _extension(identifier)
    if decision.names:
        names = x509.SubjectAlternativeName([to_general_name(name) for name in decision.names])
        # RFC 5280 section 4.2.1.6: critical if there is no subject to go by.
        yield _extension(names, critical=not decision.subject.rdns)
    if profile.crl_url:
        yield _lists(issuer, issuer.lists.scope(serial, ca=False))
    if decision.must_staple:
        yield _extension(_MUST_STAPLE)
    yield _common(profile, issuer, decision.key_kind)


@lru_cache(maxsize=256)
def _common(profile: Profile, issuer: Issuer, key_kind: str) -> bytes:
    """The extensions that do not depend on the request, end to end."""
    values = [
        _extension(issuer.authority_key_identifier),
        _extension(profile.key_usages[key_kind], critical=True),
        _extension(_information_access(profile, issuer)),
    ]
    if profile.extended_key_usage:
        values.append(_extension(x509.ExtendedKeyUsage(profile.extended_key_usage)))
    if profile.policies:
        values.append(_extension(_policies(profile)))
    return b"".join(values)


@lru_cache(maxsize=1024)
def _lists(issuer: Issuer, scope: Scope) -> bytes:
    return b"".join(
        _extension(value, critical=critical) for value, critical in issuer.lists.extensions(scope)
    )


def _extension(value: x509.ExtensionType, *, critical: bool = False) -> bytes:
    return encoding.extension(value.oid.dotted_string, value.public_bytes(), critical=critical)


def _policies(profile: Profile) -> x509.CertificatePolicies:
    return x509.CertificatePolicies([x509.PolicyInformation(oid, None) for oid in profile.policies])


def _information_access(profile: Profile, issuer: Issuer) -> x509.AuthorityInformationAccess:
    ocsp = [issuer.ocsp] if profile.ocsp_url else []
    return x509.AuthorityInformationAccess([*ocsp, issuer.ca_issuers])


_GENERATORS: dict[str, Callable[[], CertificateIssuerPrivateKeyTypes]] = {
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ed448": ed448.Ed448PrivateKey.generate,
    "ml-dsa-44": mldsa.MLDSA44PrivateKey.generate,
    "ml-dsa-65": mldsa.MLDSA65PrivateKey.generate,
    "ml-dsa-87": mldsa.MLDSA87PrivateKey.generate,
}


@cache
def throw_away_key(kind: str) -> CertificateIssuerPrivateKeyTypes:
    """A key whose signatures mean nothing, made once per process. For RSA the algorithm identifier
    does not depend on the size, so the smallest does."""
    if kind.startswith("rsa-"):
        return rsa.generate_private_key(65537, 2048)
    return _GENERATORS[kind]()
