"""From what is asked on a command line to a certificate request."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from pkiserver.ca.authorities import key_kind
from pkiserver.ca.model import CertificateRequest, Requester
from pkiserver.config_types import KeyKind
from pkiserver.errors import configuration_error
from pkiserver.keys import PrivateKey
from pkiserver.pkix import algorithms, names
from pkiserver.pkix.names import AltName, NameType


@dataclass(frozen=True, slots=True)
class Order:
    """What to issue. `csr` is DER; without one, a request is made for a new key. No names and a
    `csr`: the names of the request."""

    profile: str
    names: Sequence[AltName]
    common_name: str | None
    csr: bytes | None = field(repr=False)
    validity: dt.timedelta | None


def alt_names(**given: Sequence[str] | None) -> list[AltName]:
    """Names by type as `NameType` spells it. Raises `PKIError` for what is no name."""
    return sorted(
        {
            names.alt_name(NameType(kind), text)
            for kind, texts in given.items()
            for text in texts or ()
        }
    )


def certificate_request(
    order: Order,
    key: PrivateKey | None,
    requester: Requester,
    now: dt.datetime,
    *,
    kept: bytes | None = None,
) -> CertificateRequest:
    """What to ask of issuance; `kept` is the request an earlier run made for the key. Raises
    `PKIError` CONFIGURATION without a key and a request."""
    if order.csr is not None:
        csr, known = order.csr, order.names or None
    elif key is not None:
        csr, known = kept or request_for(key, order.names, order.common_name), order.names
    else:
        raise configuration_error("there is neither a request nor a key to certify")
    return CertificateRequest(
        profile=order.profile,
        requester=requester,
        csr=csr,
        names=known,
        not_after=None if order.validity is None else now + order.validity,
        subject_cn=order.common_name,
    )


def request_for(key: PrivateKey, known: Sequence[AltName], common_name: str | None) -> bytes:
    """A PKCS #10 request, DER."""
    subject = [] if common_name is None else [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    if known:
        san = x509.SubjectAlternativeName([names.to_general_name(name) for name in known])
        builder = builder.add_extension(san, critical=False)
    return builder.sign(key, algorithms.signature_hash_for(key)).public_bytes(Encoding.DER)


def common_name(certificate: x509.Certificate) -> str | None:
    """The last common name of its subject."""
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[-1].value) if found else None


def kind_of(certificate: x509.Certificate) -> KeyKind:
    """The kind of its key, as in the configuration; RSA of an odd size counts as the next
    smaller."""
    kind = algorithms.describe(certificate.public_key())
    if kind.startswith("rsa-"):
        bits = int(kind.removeprefix("rsa-"))
        return "rsa-2048" if bits < 3072 else "rsa-3072" if bits < 4096 else "rsa-4096"
    return key_kind(kind)
