"""What a delegated OCSP responder's certificate has in it (RFC 6960 section 4.2.2.2, RFC 9919), and
of what kind its key is."""

import datetime as dt
from collections.abc import Mapping
from typing import cast, get_args

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pkiserver.ca.issuer import key_identifier
from pkiserver.ca.model import Authority, Prepared, Requester
from pkiserver.ca.template import throw_away_key
from pkiserver.config_types import KeyKind
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.keys import PrivateKey
from pkiserver.pkix import algorithms, cert

PROFILE = "ocsp-responder"
REQUESTER = Requester("status", "ocsp")
BACKDATE = dt.timedelta(minutes=5)


def key_kind(issuer: x509.Certificate) -> KeyKind:
    """The kind of the issuer's own key: whoever verified the certificate can verify the answer.
    RSA is kept short, as each answer costs a signature: 3072 bits stand for more."""
    kind = algorithms.describe(issuer.public_key())
    if kind.startswith("rsa-"):
        return "rsa-2048" if int(kind.removeprefix("rsa-")) < 3072 else "rsa-3072"
    return cast(KeyKind, kind) if kind in get_args(KeyKind) else "p256"


def own_certificate(authority: Authority) -> x509.Certificate:
    """The authority's. Raises `PKIError` UNAVAILABLE while it is awaited."""
    if authority.certificate is None:
        raise PKIError(ErrorCode.UNAVAILABLE, f"authority {authority.name} has no certificate yet")
    return authority.certificate


def prepare(
    authority: Authority,
    own_key: PrivateKey,
    serial: int,
    now: dt.datetime,
    validity: dt.timedelta,
) -> Prepared:
    """A certificate from `BACKDATE` before `now`, for `validity` unless the authority ends before.
    Raises `PKIError` UNAVAILABLE if it has ended."""
    issuer = own_certificate(authority)
    not_before = max(now - BACKDATE, issuer.not_valid_before_utc)
    not_after = min(now + validity, issuer.not_valid_after_utc)
    if not_after <= now:
        raise PKIError(ErrorCode.UNAVAILABLE, f"authority {authority.name} has expired")
    subject = _subject(issuer.subject)
    public_key = own_key.public_key()
    builder = x509.CertificateBuilder(
        issuer_name=issuer.subject,
        subject_name=subject,
        public_key=public_key,
        serial_number=serial,
        not_valid_before=not_before,
        not_valid_after=not_after,
    )
    for value, critical in _extensions(issuer, public_key).items():
        builder = builder.add_extension(value, critical)
    throw_away = throw_away_key(algorithms.describe(issuer.public_key()))
    signed = builder.sign(throw_away, algorithms.signature_hash_for(throw_away))
    tbs, signature_algorithm, _ = cert.split(signed.public_bytes(Encoding.DER))
    return Prepared(
        id=cert.serial_hex(serial),
        issuer=authority.name,
        profile=PROFILE,
        serial=serial,
        tbs=tbs,
        signature_algorithm=signature_algorithm,
        names=(),
        subject=subject.rfc4514_string(),
        spki_sha256=algorithms.spki_sha256(public_key),
        not_before=not_before,
        not_after=not_after,
        requester=REQUESTER,
    )


def _subject(issuer: x509.Name) -> x509.Name:
    """The issuer's own name with another common name: so it lies within the name constraints that
    the issuer lies within."""
    kept = [name for name in issuer if name.oid != NameOID.COMMON_NAME]
    return x509.Name([*kept, x509.NameAttribute(NameOID.COMMON_NAME, "OCSP responder")])


def _extensions(
    issuer: x509.Certificate, public_key: CertificatePublicKeyTypes
) -> Mapping[x509.ExtensionType, bool]:
    """Values, and whether they are critical. No way to ask for this certificate's own status: with
    id-pkix-ocsp-nocheck (RFC 6960 section 4.2.2.2.1) its short life stands for that."""
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    return {
        x509.AuthorityKeyIdentifier(key_identifier(issuer), None, None): False,
        x509.SubjectKeyIdentifier(algorithms.key_identifier(public_key)): False,
        usage: True,
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]): False,
        x509.OCSPNoCheck(): False,
    }
