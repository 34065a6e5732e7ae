"""New CA certificates: what may be in one below its issuer, and the bytes to sign (RFC 5280
sections 4.2.1.9, 4.2.1.10 and 4.1). Pure; `authorities.py` acts on it.

A child never has more than the CAs above it: its path length is smaller, its name constraints only
narrow, its purposes are among theirs, and it does not outlive them.
"""

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.ca.encoding import fields_of
from pkiserver.ca.issuer import Issuer
from pkiserver.ca.template import throw_away_key
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix import algorithms, cert, constraints

RULE = "ca-certificate"
BACKDATE = dt.timedelta(minutes=5)
LONGEST = dt.timedelta(days=100 * 366)
MAX_PATH_LENGTH = 10
_SECOND = dt.timedelta(seconds=1)
_KEY_USAGE = x509.KeyUsage(
    digital_signature=False, content_commitment=False, key_encipherment=False,
    data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
    encipher_only=False, decipher_only=False,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked of a new CA certificate. `path_length` None: as much as the CAs above leave;
    for a root, no bound."""

    subject: x509.Name
    validity: dt.timedelta
    path_length: int | None = None
    name_constraints: x509.NameConstraints | None = None
    extended_key_usage: tuple[x509.ObjectIdentifier, ...] = ()
    policies: tuple[x509.ObjectIdentifier, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """A wish that keeps every rule, and what follows from them. `issuer` None: a root."""

    wish: Wish
    issuer: Issuer | None
    not_before: dt.datetime
    not_after: dt.datetime
    path_length: int | None


@dataclass(frozen=True, slots=True)
class ToBeSigned:
    """The parts of a certificate without its signature."""

    tbs: bytes = field(repr=False)
    signature_algorithm: bytes = field(repr=False)


def refuse(detail: str) -> PKIError:
    return PKIError(ErrorCode.REFUSED_BY_PROFILE, detail, rule=RULE)


def plan_root(wish: Wish, now: dt.datetime) -> Plan:
    """A self-signed root. `PKIError` REFUSED_BY_PROFILE says which rule the wish breaks."""
    _check_wish(wish)
    start = now.replace(microsecond=0) - BACKDATE
    return Plan(wish, None, start, start + wish.validity - _SECOND, wish.path_length)


def plan_child(
    wish: Wish, issuer: Issuer, path: Sequence[x509.Certificate], now: dt.datetime
) -> Plan:
    """A CA below `issuer`, whose certification path, its own certificate first, is `path`.
    `PKIError` REFUSED_BY_PROFILE or REFUSED_NAME says which rule the wish breaks."""
    _check_wish(wish)
    if not issuer.not_before <= now <= issuer.not_after:
        raise refuse(f"the authority {issuer.name} or one above it is not valid now")
    start = max(now.replace(microsecond=0) - BACKDATE, issuer.not_before)
    # Section 4.1.2.5 counts both ends in; a child that outlives its issuer is of no use.
    end = min(start + wish.validity - _SECOND, issuer.not_after)
    _check_subject(wish.subject, issuer, path)
    for above in issuer.constraints:
        if not constraints.narrows(above, wish.name_constraints):
            raise refuse("the name constraints are wider than those of a CA above")
    issuer.check_purposes(wish.extended_key_usage, RULE)
    return Plan(wish, issuer, start, end, _tightened(wish.path_length, path))


def _check_wish(wish: Wish) -> None:
    if not wish.subject.rdns:
        raise refuse("an authority needs a subject (RFC 5280 section 4.1.2.6)")
    if not dt.timedelta(minutes=1) <= wish.validity <= LONGEST:
        raise refuse("the validity of an authority is a minute at least and 100 years at most")
    if wish.path_length is not None and not 0 <= wish.path_length <= MAX_PATH_LENGTH:
        raise refuse(f"a path length is a number from 0 to {MAX_PATH_LENGTH}")


def _check_subject(subject: x509.Name, issuer: Issuer, path: Sequence[x509.Certificate]) -> None:
    # Section 6.1.4 (l): a self-issued certificate does not count for path lengths and escapes
    # name constraints, so a child never has the name of a CA above it.
    if any(same_name(subject, above.subject) for above in path):
        raise refuse("a CA above has the same subject; choose another one")
    issuer.check_names((), subject)


def same_name(one: x509.Name, other: x509.Name) -> bool:
    """Without regard to case, which is more than section 7.1 counts as equal in our character
    sets: what is on the edge is taken for the same."""
    return one.rfc4514_string().casefold() == other.rfc4514_string().casefold()


def path_length(certificate: x509.Certificate) -> int | None:
    """pathLenConstraint; None if there is none. Raises `PKIError` for what is not a CA."""
    try:
        value = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        value = x509.BasicConstraints(ca=False, path_length=None)
    if not value.ca:
        raise refuse(f"{shown(certificate)} is not a CA certificate")
    return value.path_length


def shown(certificate: x509.Certificate) -> str:
    """Its subject, for a person to read."""
    return certificate.subject.rfc4514_string()


def is_self_issued(certificate: x509.Certificate) -> bool:
    """Section 6.1: issuer and subject are the same. It may still be signed with another key."""
    return certificate.subject == certificate.issuer


def room_below(path: Sequence[x509.Certificate]) -> int | None:
    """How many CAs may follow below the first of `path` (section 6.1.4 (l) and (m)); negative
    where there are too many already, None: no bound."""
    room: list[int] = []
    between = 0
    for certificate in path:
        limit = path_length(certificate)
        if limit is not None:
            room.append(limit - between)
        between += not is_self_issued(certificate)
    return min(room, default=None)


def _tightened(wanted: int | None, path: Sequence[x509.Certificate]) -> int | None:
    room = room_below(path)
    if room is None:
        return wanted
    if room < 1:
        raise refuse("the path length of a CA above allows no further CA here")
    if wanted is not None and wanted > room - 1:
        raise refuse(f"path length {wanted}: the CAs above allow {room - 1} at most")
    return room - 1 if wanted is None else wanted


def build(plan: Plan, public_key: CertificatePublicKeyTypes, serial: int) -> ToBeSigned:
    """What the issuer's key, or for a root its own, is to sign. Built with a key nobody trusts, as
    the library builds and signs in one step."""
    issuer_key = plan.issuer.public_key if plan.issuer else public_key
    stand_in = throw_away_key(algorithms.describe(issuer_key))
    draft = _builder(plan, public_key, serial).sign(
        stand_in, algorithms.signature_hash_for(stand_in)
    )
    # Section 4.1.2.4: relying parties compare the names octet for octet.
    if plan.issuer and fields_of(draft).issuer != plan.issuer.subject_der:
        raise refuse("the issuer's subject is encoded in a way that cannot be repeated")
    tbs, algorithm, _ = cert.split(draft.public_bytes(Encoding.DER))
    return ToBeSigned(tbs, algorithm)


def _builder(
    plan: Plan, public_key: CertificatePublicKeyTypes, serial: int
) -> x509.CertificateBuilder:
    builder = (
        x509.CertificateBuilder()
        .subject_name(plan.wish.subject)
        .issuer_name(plan.issuer.certificate.subject if plan.issuer else plan.wish.subject)
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(plan.not_before)
        .not_valid_after(plan.not_after)
    )
    for value, critical in (
        *ca_extensions(public_key, plan.path_length),
        *links(plan.issuer, public_key, serial),
        *_wishes(plan.wish),
    ):
        builder = builder.add_extension(value, critical)
    return builder


def ca_extensions(
    public_key: CertificatePublicKeyTypes, length: int | None
) -> Iterator[tuple[x509.ExtensionType, bool]]:
    """What makes a certificate, or a request for one, a CA's; and whether it is critical."""
    yield x509.BasicConstraints(ca=True, path_length=length), True
    yield _KEY_USAGE, True
    yield x509.SubjectKeyIdentifier(algorithms.key_identifier(public_key)), False


def links(
    issuer: Issuer | None, public_key: CertificatePublicKeyTypes, serial: int
) -> Iterator[tuple[x509.ExtensionType, bool]]:
    """What points to the issuer. A root has no URLs: nobody revokes or looks up a trust anchor."""
    if issuer is None:
        identifier = algorithms.key_identifier(public_key)
        yield x509.AuthorityKeyIdentifier(identifier, None, None), False
        return
    yield issuer.authority_key_identifier, False
    yield from issuer.lists.extensions(issuer.lists.scope(serial, ca=True))
    yield x509.AuthorityInformationAccess([issuer.ocsp, issuer.ca_issuers]), False


def _wishes(wish: Wish) -> Iterator[tuple[x509.ExtensionType, bool]]:
    if wish.name_constraints is not None:
        yield wish.name_constraints, True  # section 4.2.1.10: MUST be critical
    if wish.extended_key_usage:
        yield x509.ExtendedKeyUsage(wish.extended_key_usage), False
    if wish.policies:
        policies = [x509.PolicyInformation(oid, None) for oid in wish.policies]
        yield x509.CertificatePolicies(policies), False


def request_builder(
    subject: x509.Name, public_key: CertificatePublicKeyTypes
) -> x509.CertificateSigningRequestBuilder:
    """A request to an outside CA for a CA certificate."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    for value, critical in ca_extensions(public_key, None):
        builder = builder.add_extension(value, critical)
    return builder
