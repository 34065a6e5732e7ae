"""From a decision to the bytes that will be signed (RFC 5280 section 4.1).

The library builds and signs in one step, so the certificate is signed with a throw-away key, of a
kind that signs quickly, and gets the algorithm of the issuer's key put in: that is the lint
certificate (nobody trusts it), and its tbsCertificate is what the CA key signs later.

An end-entity certificate has a subjectKeyIdentifier, as RFC 5280 section 4.2.1.2 recommends (CMS
recipients and renewals by device refer to it), and no basicConstraints (section 4.2.1.9 leaves it
open; the default cA FALSE would be an empty extension).
"""

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificateIssuerPrivateKeyTypes,
)
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.ca import encoding
from pkiserver.ca.issuer import Issuer
from pkiserver.ca.policy import Decision
from pkiserver.ca.profiles import Profile
from pkiserver.pkix import algorithms, cert, der
from pkiserver.pkix.names import to_general_name

_MUST_STAPLE = x509.TLSFeature([x509.TLSFeatureType.status_request])


@dataclass(frozen=True, slots=True)
class Template:
    """The lint certificate and its parts."""

    lint_certificate: bytes = field(repr=False)
    tbs: bytes = field(repr=False)
    signature_algorithm: bytes = field(repr=False)


def build(profile: Profile, issuer: Issuer, decision: Decision, serial: int) -> Template:
    """The template of a certificate that says what was decided."""
    builder = x509.CertificateBuilder(  # at once: each of its methods makes another
        issuer_name=issuer.certificate.subject,
        subject_name=decision.subject,
        public_key=decision.public_key,
        serial_number=serial,
        # The encoder looks at no time zone, and a client may have named another.
        not_valid_before=decision.not_before.astimezone(dt.UTC),
        not_valid_after=decision.not_after.astimezone(dt.UTC),
        extensions=[
            x509.Extension(value.oid, critical, value)
            for value, critical in _extensions(profile, issuer, decision, serial)
        ],
    )
    key = throw_away_key("p256")
    signed = builder.sign(key, algorithms.signature_hash_for(key)).public_bytes(Encoding.DER)
    draft, drafts_algorithm, signature = cert.split(signed)
    algorithm = encoding.signature_algorithm(issuer.public_key)
    tbs = _with_algorithm(draft, drafts_algorithm, algorithm)
    return Template(cert.assemble(tbs, algorithm, signature), tbs, algorithm)


def _with_algorithm(tbs: bytes, present: bytes, algorithm: bytes) -> bytes:
    """TBSCertificate ::= SEQUENCE { version [0], serialNumber, signature, ... }"""
    version, serial, signature, *rest = (member.encoded for member in der.sequence_of(tbs))
    assert signature == present  # noqa: S101  the library has made it of version 3
    return der.encode(der.SEQUENCE, version, serial, algorithm, *rest)


def _extensions(
    profile: Profile, issuer: Issuer, decision: Decision, serial: int
) -> Iterator[tuple[x509.ExtensionType, bool]]:
    """Values, and whether they are critical."""
    yield issuer.authority_key_identifier, False
    yield x509.SubjectKeyIdentifier(algorithms.key_identifier(decision.public_key)), False
    yield profile.key_usages[decision.key_kind], True
    if profile.extended_key_usage:
        yield x509.ExtendedKeyUsage(profile.extended_key_usage), False
    if decision.names:
        names = x509.SubjectAlternativeName([to_general_name(name) for name in decision.names])
        # RFC 5280 section 4.2.1.6: critical if there is no subject to go by.
        yield names, not decision.subject.rdns
    if profile.policies:
        yield _policies(profile), False
    if profile.crl_url:
        yield from issuer.lists.extensions(serial, ca=False)
    yield _information_access(profile, issuer), False
    if decision.must_staple:
        yield _MUST_STAPLE, False


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
