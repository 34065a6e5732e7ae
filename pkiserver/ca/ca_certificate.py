"""CA certificates: what goes into one, and whether one may stand where it is to stand (RFC 5280
sections 4.2.1.9, 4.2.1.10 and 6.1). Pure; `authorities.py` acts on it."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificateIssuerPrivateKeyTypes,
    CertificatePublicKeyTypes,
)
from cryptography.x509.oid import AuthorityInformationAccessOID

from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix import algorithms, cert, constraints

MAX_PATH = 10
"""Certificates above an authority that are looked at."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked of a new CA certificate. `path_length` None: no bound of its own."""

    subject: x509.Name
    validity: dt.timedelta
    path_length: int | None = None
    name_constraints: x509.NameConstraints | None = None
    extended_key_usage: tuple[x509.ObjectIdentifier, ...] = ()
    policies: tuple[x509.ObjectIdentifier, ...] = ()


def refuse(detail: str) -> PKIError:
    return PKIError(ErrorCode.REFUSED_BY_PROFILE, detail, rule="ca-certificate")


def path_length(certificate: x509.Certificate) -> int | None:
    """pathLenConstraint; None if there is none. Raises `PKIError` for what is not a CA."""
    try:
        value = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        value = x509.BasicConstraints(ca=False, path_length=None)
    if not value.ca:
        raise refuse(f"{certificate.subject.rfc4514_string()} is not a CA certificate")
    return value.path_length


def tightened(wish: Wish, parents: Sequence[x509.Certificate]) -> int | None:
    """The path length of a child: what was asked, or as much as every CA above leaves. Raises
    `PKIError` if nothing is left or more was asked than that."""
    room: list[int] = []
    for depth, certificate in enumerate(parents):
        limit = path_length(certificate)
        if limit is not None:
            room.append(limit - depth - 1)
    if not room:
        return wish.path_length
    if min(room) < 0:
        raise refuse("the path length of a CA above allows no further CA here")
    if wish.path_length is not None and wish.path_length > min(room):
        raise refuse(f"path length {wish.path_length}: the CAs above allow {min(room)} at most")
    return min(room) if wish.path_length is None else wish.path_length


def check_constraints(wish: Wish, parents: Sequence[x509.Certificate]) -> None:
    """Name constraints only narrow. Raises `PKIError`."""
    for certificate in parents:
        above = _constraints(certificate)
        if not constraints.narrows(above, wish.name_constraints):
            raise refuse(
                "the name constraints are wider than those of "
                f"{certificate.subject.rfc4514_string()}"
            )


def _constraints(certificate: x509.Certificate) -> x509.NameConstraints | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return None


def root_builder(
    wish: Wish, public_key: CertificatePublicKeyTypes, serial: int, now: dt.datetime
) -> x509.CertificateBuilder:
    """A self-signed root, without URLs: nobody revokes or looks up a trust anchor."""
    end = now + wish.validity - dt.timedelta(seconds=1)
    identifier = algorithms.key_identifier(public_key)
    return _builder(
        wish, wish.subject, public_key, serial, now, end, wish.path_length
    ).add_extension(x509.AuthorityKeyIdentifier(identifier, None, None), critical=False)


def child_builder(
    wish: Wish, public_key: CertificatePublicKeyTypes, serial: int, now: dt.datetime,
    parents: Sequence[x509.Certificate], parent_name: str, http_base: str,
) -> x509.CertificateBuilder:  # fmt: skip
    """A CA below `parents` (nearest first). Raises `PKIError` where that is against a rule."""
    issuer = parents[0]
    length = tightened(wish, parents)
    check_constraints(wish, parents)
    end = min(
        now + wish.validity - dt.timedelta(seconds=1),
        *(parent.not_valid_after_utc for parent in parents),
    )
    if end <= now:
        raise refuse("a CA above has expired")
    identifier = cert.subject_key_identifier(issuer) or algorithms.key_identifier(
        issuer.public_key()
    )
    builder = _builder(wish, issuer.subject, public_key, serial, now, end, length)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier(identifier, None, None), critical=False
    )
    crl = x509.UniformResourceIdentifier(f"{http_base}/crl/{parent_name}.crl")
    points = x509.CRLDistributionPoints([x509.DistributionPoint([crl], None, None, None)])
    access = x509.AuthorityInformationAccess(
        [
            _access(AuthorityInformationAccessOID.OCSP, f"{http_base}/ocsp/{parent_name}"),
            _access(AuthorityInformationAccessOID.CA_ISSUERS, f"{http_base}/ca/{parent_name}.cer"),
        ]
    )
    return builder.add_extension(points, critical=False).add_extension(access, critical=False)


def _access(method: x509.ObjectIdentifier, url: str) -> x509.AccessDescription:
    return x509.AccessDescription(method, x509.UniformResourceIdentifier(url))


def _builder(
    wish: Wish, issuer: x509.Name, public_key: CertificatePublicKeyTypes, serial: int,
    start: dt.datetime, end: dt.datetime, length: int | None,
) -> x509.CertificateBuilder:  # fmt: skip
    builder = (
        x509.CertificateBuilder()
        .subject_name(wish.subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(start)
        .not_valid_after(end)
    )
    for value, critical in ca_extensions(public_key, length):
        builder = builder.add_extension(value, critical)
    if wish.name_constraints is not None:
        builder = builder.add_extension(wish.name_constraints, critical=True)
    if wish.extended_key_usage:
        builder = builder.add_extension(x509.ExtendedKeyUsage(wish.extended_key_usage), False)
    if wish.policies:
        policies = [x509.PolicyInformation(oid, None) for oid in wish.policies]
        builder = builder.add_extension(x509.CertificatePolicies(policies), critical=False)
    return builder


def ca_extensions(
    public_key: CertificatePublicKeyTypes, length: int | None
) -> list[tuple[x509.ExtensionType, bool]]:
    """What makes a certificate, or a request for one, a CA's; and whether it is critical."""
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
    return [
        (x509.BasicConstraints(ca=True, path_length=length), True),
        (usage, True),
        (x509.SubjectKeyIdentifier(algorithms.key_identifier(public_key)), False),
    ]


def request_builder(
    subject: x509.Name, public_key: CertificatePublicKeyTypes
) -> x509.CertificateSigningRequestBuilder:
    """A request to an outside CA for a CA certificate."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    for value, critical in ca_extensions(public_key, None):
        builder = builder.add_extension(value, critical)
    return builder


def order_chain(
    certificates: Sequence[x509.Certificate], key: CertificatePublicKeyTypes
) -> list[x509.Certificate]:
    """The certificate of a key and the path above it up to a self-signed root, in order, from
    certificates in any order. Raises `PKIError` if the path is not whole or does not verify."""
    spki = algorithms.spki_sha256(key)
    mine = [c for c in certificates if algorithms.spki_sha256(c.public_key()) == spki]
    if not mine:
        raise refuse("none of the certificates is for this authority's key")
    path = [mine[0]]
    while path[-1].subject != path[-1].issuer:
        above = [c for c in certificates if c not in path and _issued(c, path[-1])]
        if not above:
            raise refuse(
                "the chain is not whole: the certificate of "
                f"{path[-1].issuer.rfc4514_string()} is missing"
            )
        if len(path) > MAX_PATH:
            raise refuse(f"the chain has more than {MAX_PATH} certificates")
        path.append(above[0])
    if not _issued(path[-1], path[-1]):
        raise refuse("the root's signature on itself does not verify")
    return path


def _issued(issuer: x509.Certificate, subject: x509.Certificate) -> bool:
    try:
        subject.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def check_path(path: Sequence[x509.Certificate], now: dt.datetime) -> None:
    """RFC 5280 section 6.1 for a path of CAs, own certificate first: each a CA that may sign
    certificates, valid now, path lengths kept. Raises `PKIError`."""
    for depth, certificate in enumerate(path):
        name = certificate.subject.rfc4514_string()
        limit = path_length(certificate)
        if limit is not None and limit < depth:
            raise refuse(f"{name} allows {limit} CAs below it, there are {depth}")
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise refuse(f"{name} is not valid now")
        _require_signing(certificate, name)
        algorithms.check_public_key(certificate.public_key())


def _require_signing(certificate: x509.Certificate, name: str) -> None:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        raise refuse(f"{name} has no key usage; a CA needs keyCertSign") from None
    if not usage.key_cert_sign:
        raise refuse(f"{name} may not sign certificates: no keyCertSign")
    if not usage.crl_sign:
        raise refuse(f"{name} may not sign CRLs: no cRLSign")


def same_key(key: CertificateIssuerPrivateKeyTypes, certificate: x509.Certificate) -> bool:
    return algorithms.spki_sha256(key.public_key()) == algorithms.spki_sha256(
        certificate.public_key()
    )
