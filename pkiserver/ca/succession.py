"""The next generation of a CA: what it is called, what it may do, and the certificates that link
two generations of a root (RFC 4210 section 4.4). Pure; `authority_rollover.py` acts on it.

A generation has a subject of its own ("Example CA G2"). A CRL speaks for its issuer's name, and
software that looks lists and CAs up by name alone would take those of one key for the other's.
"""

import datetime as dt
import re
from collections.abc import Collection
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from pkiserver.ca import ca_certificate
from pkiserver.ca.ca_certificate import Plan, ToBeSigned, Wish, refuse, same_name
from pkiserver.ca.encoding import fields_of
from pkiserver.ca.issuer import Issuer
from pkiserver.ca.template import throw_away_key
from pkiserver.errors import configuration_error
from pkiserver.pkix import algorithms, cert

T = TypeVar("T", bound=x509.ExtensionType)

_SECOND = dt.timedelta(seconds=1)
_LONGEST_BASE = 55
_MOST_IN_COMMON_NAME = 64
_GENERATION = re.compile(r"\s+G[0-9]{1,4}$")
_BY_THE_ISSUER = (
    x509.AuthorityKeyIdentifier,
    x509.CRLDistributionPoints,
    x509.AuthorityInformationAccess,
    x509.FreshestCRL,
)


def next_name(first: str, generations: int, taken: Collection[str]) -> tuple[str, int]:
    """The name of the authority after so many of the line that began with `first`, and its number:
    `issuing`, `issuing-2`, `issuing-3`."""
    number = generations + 1
    while (name := f"{first[:_LONGEST_BASE]}-{number}") in taken:
        number += 1
    return name, number


def wish_after(
    certificate: x509.Certificate,
    number: int,
    subject: x509.Name | None = None,
    validity: dt.timedelta | None = None,
) -> Wish:
    """What its successor is to be like: the same limits and lifetime, another name. `PKIError`
    CONFIGURATION if no name can be made from the present one."""
    lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc + _SECOND
    policies = _value(certificate, x509.CertificatePolicies) or ()
    return Wish(
        subject=subject or _named(certificate.subject, number),
        validity=validity or lifetime,
        path_length=ca_certificate.path_length(certificate),
        name_constraints=_value(certificate, x509.NameConstraints),
        extended_key_usage=tuple(_value(certificate, x509.ExtendedKeyUsage) or ()),
        policies=tuple(policy.policy_identifier for policy in policies),
    )


def _value(certificate: x509.Certificate, kind: type[T]) -> T | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _named(subject: x509.Name, number: int) -> x509.Name:
    names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if not names:
        raise configuration_error("the subject has no common name to number; say --subject")
    old = names[-1]
    text = f"{_GENERATION.sub('', str(old.value))} G{number}"
    if len(text) > _MOST_IN_COMMON_NAME:
        raise configuration_error(
            f"{ascii(text)} is longer than a common name may be; say --subject"
        )
    new = x509.NameAttribute(NameOID.COMMON_NAME, text, _type=old._type)
    return x509.Name(
        x509.RelativeDistinguishedName(new if each is old else each for each in rdn)
        for rdn in subject.rdns
    )


def check_links(old: x509.Certificate, subject: x509.Name) -> None:
    """Whether two roots can be linked. `PKIError` REFUSED_BY_PROFILE."""
    # RFC 5280 section 4.2.1.9: a link to another name counts as one more CA in every path, and
    # those below would not fit any more; a self-issued one does not count.
    if ca_certificate.path_length(old) is not None and not same_name(old.subject, subject):
        raise refuse(
            "the root has a path length, in which a link to a root of another name would count; "
            f"keep its name: --subject '{old.subject.rfc4514_string()}'"
        )


def plan_link(certificate: x509.Certificate, issuer: Issuer) -> Plan:
    """The certificate for a root's name and key by the root before or after it. It holds as long
    as the root itself, within the life of its issuer (RFC 4210 section 4.4)."""
    issuer.check_names((), certificate.subject)
    end = min(certificate.not_valid_after_utc, issuer.certificate.not_valid_after_utc)
    wish = Wish(certificate.subject, end - certificate.not_valid_before_utc)
    length = ca_certificate.path_length(certificate)
    return Plan(wish, issuer, certificate.not_valid_before_utc, end, length)


def build_link(plan: Plan, certificate: x509.Certificate, serial: int) -> ToBeSigned:
    """What the other root is to sign: the name, key and extensions of `certificate` as they stand,
    but for what points to the issuer."""
    issuer = plan.issuer
    assert issuer is not None  # noqa: S101  `plan_link` has one
    builder = x509.CertificateBuilder(
        issuer.certificate.subject, certificate.subject, certificate.public_key(), serial,
        plan.not_before, plan.not_after,
    )  # fmt: skip
    for extension in certificate.extensions:
        if not isinstance(extension.value, _BY_THE_ISSUER):
            builder = builder.add_extension(extension.value, extension.critical)
    for value, critical in ca_certificate.links(issuer, certificate.public_key(), serial):
        builder = builder.add_extension(value, critical)
    stand_in = throw_away_key(algorithms.describe(issuer.public_key))
    draft = builder.sign(stand_in, algorithms.signature_hash_for(stand_in))
    fields = fields_of(draft)
    # RFC 5280 section 4.1.2.4: relying parties compare the names octet for octet.
    if (fields.issuer, fields.subject) != (issuer.subject_der, fields_of(certificate).subject):
        raise refuse("a root's subject is encoded in a way that cannot be repeated")
    tbs, algorithm, _ = cert.split(draft.public_bytes(Encoding.DER))
    return ToBeSigned(tbs, algorithm)
