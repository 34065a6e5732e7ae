"""Certification paths that come from outside: put in order and checked before an authority stands
on them (RFC 5280 section 6.1). Pure.

Stricter than section 6.1 asks: the root is checked like the others, keys have to be strong, and so
have all signatures but the root's own, in which nobody trusts.
"""

import datetime as dt
from collections import deque
from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from pkiserver.ca.ca_certificate import (
    is_self_issued,
    path_length,
    refuse,
    room_below,
    shown,
)
from pkiserver.errors import PKIError
from pkiserver.pkix import algorithms, constraints
from pkiserver.pkix.csr import STRONG_HASHES

MAX_PATH = 12
"""Certificates in a path."""

Path = tuple[x509.Certificate, ...]


def order(certificates: Sequence[x509.Certificate], key: CertificatePublicKeyTypes) -> Path:
    """The certificate of a key and those above it up to a self-signed root, from certificates in
    any order, of which some may not belong to it. Of several paths the shortest is taken, of
    several certificates for the key the first that has a path. Every signature is verified.
    `PKIError` REFUSED_BY_PROFILE if there is none."""
    spki = algorithms.spki_der(key)
    own = [c for c in certificates if algorithms.spki_der(c.public_key()) == spki]
    if not own:
        raise refuse("none of the certificates is for this authority's key")
    paths = (_path_from(certificate, certificates) for certificate in own)
    found = next((path for path in paths if path is not None), None)
    if found is None:
        raise refuse(
            f"no chain from {shown(own[0])} up to a self-signed root: the certificate of "
            f"{own[0].issuer.rfc4514_string()} or one above it is missing"
        )
    return found


def _path_from(start: x509.Certificate, certificates: Sequence[x509.Certificate]) -> Path | None:
    """Breadth first. Each certificate is come to once, so that any tangle ends soon."""
    reached = {start}
    waiting: deque[Path] = deque([(start,)])
    while waiting:
        path = waiting.popleft()
        if is_self_signed(path[-1]):
            return path
        if len(path) == MAX_PATH:
            continue
        for above in certificates:
            if above not in reached and issued(above, path[-1]):
                reached.add(above)
                waiting.append((*path, above))
    return None


def is_self_signed(certificate: x509.Certificate) -> bool:
    """A root. A certificate with its own name as issuer may be a link between two keys instead."""
    return is_self_issued(certificate) and issued(certificate, certificate)


def issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    """Whether the issuer's name is there and the signature verifies with its key."""
    if issuer.subject != certificate.issuer:
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def check(path: Sequence[x509.Certificate], now: dt.datetime) -> None:
    """Whether an authority may stand on a path of CAs whose signatures were verified, its own
    certificate first. `PKIError` says which certificate breaks which rule."""
    if not path[0].subject.rdns:
        raise refuse("the authority's certificate has an empty subject (section 4.1.2.6)")
    for certificate in path:
        _check_alone(certificate, now)
    for above in range(1, len(path)):
        # What an authority issues comes below all of these; each bounds what is between.
        if (room := room_below(path[: above + 1])) is not None and room < 0:
            raise refuse(f"{shown(path[above])}: its path length allows fewer CAs below it")
    for certificate in path[:-1]:
        _check_signature_hash(certificate)
    _check_constraints(path)


def may_sign_crls(certificate: x509.Certificate) -> bool:
    """cRLSign. Without key usage everything is allowed (section 4.2.1.3)."""
    usage = _key_usage(certificate)
    return usage is None or usage.crl_sign


def _check_alone(certificate: x509.Certificate, now: dt.datetime) -> None:
    name = shown(certificate)
    path_length(certificate)
    usage = _key_usage(certificate)
    if usage is not None and not usage.key_cert_sign:
        raise refuse(f"{name} may not sign certificates: its key usage lacks keyCertSign")
    if now < certificate.not_valid_before_utc:
        raise refuse(f"{name} is not valid yet")
    if now > certificate.not_valid_after_utc:
        raise refuse(f"{name} has expired")
    for extension in certificate.extensions:
        if extension.critical and isinstance(extension.value, x509.UnrecognizedExtension):
            oid = extension.oid.dotted_string
            raise refuse(f"{name} has a critical extension that is not known here: {oid}")
    try:
        algorithms.check_public_key(certificate.public_key())
    except PKIError as error:
        raise refuse(f"{name}: {error.detail}") from error


def _key_usage(certificate: x509.Certificate) -> x509.KeyUsage | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return None


def _check_signature_hash(certificate: x509.Certificate) -> None:
    try:
        used = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm as error:
        raise refuse(f"{shown(certificate)}: its signature is of an unknown kind") from error
    if used is not None and used.name not in STRONG_HASHES:
        raise refuse(f"{shown(certificate)} is signed over {used.name}, which is too weak")


def _check_constraints(path: Sequence[x509.Certificate]) -> None:
    """Section 6.1.3 (b) and (c): the names of every CA, in the constraints of all above it."""
    for depth, above in enumerate(path):
        try:
            limits = above.extensions.get_extension_for_class(x509.NameConstraints).value
        except x509.ExtensionNotFound:
            continue
        for below in path[:depth]:
            if not is_self_issued(below) or below is path[0]:
                constraints.check(limits, (), below.subject)
