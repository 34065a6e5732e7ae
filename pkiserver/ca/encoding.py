"""DER pieces that certificates, CRLs and OCSP responses share: times, extensions, the algorithm a
key signs with, and the octets of a CA certificate that relying parties compare (RFC 5280,
RFC 6960)."""

import datetime as dt
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.errors import MalformedMessage
from pkiserver.pkix import algorithms, cert, der

GENERALIZED_TIME = 0x18
UTC_TIME = 0x17
ENUMERATED = 0x0A

_TRUE = der.encode(der.BOOLEAN, b"\xff")
_NULL = der.encode(der.NULL)

# The signature algorithm that goes with each kind of key: RFC 4055 (parameters NULL), RFC 5758,
# RFC 8410 and RFC 9881 (no parameters).
_ALGORITHMS = {
    "p256": der.encode(der.SEQUENCE, der.encode_oid("1.2.840.10045.4.3.2")),
    "p384": der.encode(der.SEQUENCE, der.encode_oid("1.2.840.10045.4.3.3")),
    "p521": der.encode(der.SEQUENCE, der.encode_oid("1.2.840.10045.4.3.4")),
    "ed25519": der.encode(der.SEQUENCE, der.encode_oid("1.3.101.112")),
    "ed448": der.encode(der.SEQUENCE, der.encode_oid("1.3.101.113")),
    "ml-dsa-44": der.encode(der.SEQUENCE, der.encode_oid("2.16.840.1.101.3.4.3.17")),
    "ml-dsa-65": der.encode(der.SEQUENCE, der.encode_oid("2.16.840.1.101.3.4.3.18")),
    "ml-dsa-87": der.encode(der.SEQUENCE, der.encode_oid("2.16.840.1.101.3.4.3.19")),
}
_RSA_SHA256 = der.encode(der.SEQUENCE, der.encode_oid("1.2.840.113549.1.1.11"), _NULL)


def signature_algorithm(key: CertificatePublicKeyTypes) -> bytes:
    """The AlgorithmIdentifier of what `keys.signing.sign` makes with the private half of `key`."""
    kind = algorithms.describe(key)
    return _RSA_SHA256 if kind.startswith("rsa-") else _ALGORITHMS[kind]


def generalized_time(moment: dt.datetime) -> bytes:
    """GeneralizedTime with seconds, without a fraction (RFC 5280 section 4.1.2.5.2)."""
    return der.encode(
        GENERALIZED_TIME, moment.astimezone(dt.UTC).strftime("%Y%m%d%H%M%SZ").encode("ascii")
    )


def time(moment: dt.datetime) -> bytes:
    """Time: UTCTime through the year 2049, GeneralizedTime after (RFC 5280 section 5.1.2.4)."""
    if moment.astimezone(dt.UTC).year >= 2050:
        return generalized_time(moment)
    return der.encode(UTC_TIME, moment.astimezone(dt.UTC).strftime("%y%m%d%H%M%SZ").encode("ascii"))


def validity(not_before: dt.datetime, not_after: dt.datetime) -> bytes:
    """Validity (RFC 5280 section 4.1.2.5)."""
    return der.encode(der.SEQUENCE, time(not_before), time(not_after))


def extension(oid: str, value: bytes, *, critical: bool = False) -> bytes:
    """Extension; the default FALSE of `critical` is not encoded (X.690 section 11.5)."""
    flag = _TRUE if critical else b""
    return der.encode(der.SEQUENCE, der.encode_oid(oid), flag, der.encode(der.OCTET_STRING, value))


@dataclass(frozen=True, slots=True)
class CertificateFields:
    """Fields of a certificate, octet for octet as they stand in it: `issuer` and `subject` are
    the DER of the names, `key_bits` the contents of subjectPublicKey without the unused-bits
    octet."""

    issuer: bytes
    subject: bytes
    key_bits: bytes


def fields_of(certificate: x509.Certificate) -> CertificateFields:
    """Read from the certificate's own bytes: a name encoded anew may use other string types, and
    both CertID hashes and the CRL issuer have to match byte for byte."""
    tbs = der.sequence_of(cert.split(certificate.public_bytes(Encoding.DER))[0])
    first = 1 if tbs[0].tag == 0xA0 else 0
    # serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo
    issuer, subject, spki = tbs[first + 2], tbs[first + 4], tbs[first + 5]
    key = der.children(spki.contents)[1]
    if key.tag != der.BIT_STRING or key.contents[:1] != b"\x00":
        raise MalformedMessage("the public key is not a whole number of octets")
    return CertificateFields(issuer.encoded, subject.encoded, key.contents[1:])
