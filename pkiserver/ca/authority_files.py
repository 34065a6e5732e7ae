"""Files an operator brings: certificates as PEM, DER or PKCS #7, keys as PEM or DER, both together
as PKCS #12. `MalformedMessage` for files that do not read, and for wrong passwords."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InternalError
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    load_der_private_key,
    load_pem_private_key,
    pkcs12,
)

from pkiserver.cms import certs_only
from pkiserver.errors import MalformedMessage
from pkiserver.keys import PrivateKey
from pkiserver.pkix import cert, der, pem

MAX_FILE_SIZE = pem.MAX_BUNDLE_SIZE
_PKCS7_LABELS = ("PKCS7", "CMS")
_ERRORS = (*cert.LIBRARY_ERRORS, InternalError)


@dataclass(frozen=True, slots=True)
class KeyAndCertificates:
    """What a PKCS #12 file holds; the certificate of the key, if marked, comes first."""

    key: PrivateKey = field(repr=False)
    certificates: tuple[x509.Certificate, ...]


def read_certificates(data: bytes) -> list[x509.Certificate]:
    """All certificates of a file, in its order; at least one."""
    if len(data) > MAX_FILE_SIZE:
        raise MalformedMessage(f"the file is larger than {MAX_FILE_SIZE} octets")
    if data[:1] == bytes((der.SEQUENCE,)):
        return _read_der(data)
    found: list[x509.Certificate] = []
    for label, contents in pem.decode_blocks(data, max_blocks=pem.MAX_CERTIFICATES):
        if label == "CERTIFICATE":
            found.append(cert.parse_certificate(contents))
        elif label in _PKCS7_LABELS:
            found += _read_pkcs7(contents)
        else:
            raise MalformedMessage(f"the PEM block {label} holds no certificates")
    return found


def _read_der(data: bytes) -> list[x509.Certificate]:
    """A Certificate begins with its tbsCertificate, a ContentInfo (RFC 5652 section 3) with the
    OBJECT IDENTIFIER of its type."""
    members = der.sequence_of(data)
    if members and members[0].tag == der.OBJECT_IDENTIFIER:
        return _read_pkcs7(data)
    return [cert.parse_certificate(data)]


def _read_pkcs7(data: bytes) -> list[x509.Certificate]:
    loaded = certs_only.parse(data, max_size=MAX_FILE_SIZE)
    if len(loaded) > pem.MAX_CERTIFICATES:
        raise MalformedMessage(f"more than {pem.MAX_CERTIFICATES} certificates")
    return _strictly(loaded)


def _strictly(certificates: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    return [cert.parse_certificate(each.public_bytes(Encoding.DER)) for each in certificates]


def read_private_key(data: bytes, password: bytes | None = None) -> PrivateKey:
    """A private key that signs: PKCS #8, encrypted or not, or the older forms of OpenSSL."""
    if len(data) > MAX_FILE_SIZE:
        raise MalformedMessage(f"the file is larger than {MAX_FILE_SIZE} octets")
    is_der = data[:1] == bytes((der.SEQUENCE,))
    load = load_der_private_key if is_der else load_pem_private_key
    try:
        key = load(data, password)
    except TypeError as error:
        problem = "is not encrypted, leave the password out" if password else "needs its password"
        raise MalformedMessage(f"the private key {problem}") from error
    except _ERRORS as error:
        raise MalformedMessage("the private key does not open: wrong password or file") from error
    return _signing(key)


def read_pkcs12(data: bytes, password: bytes | None) -> KeyAndCertificates:
    """The key of a PKCS #12 file (RFC 7292) and all its certificates."""
    if len(data) > MAX_FILE_SIZE:
        raise MalformedMessage(f"the file is larger than {MAX_FILE_SIZE} octets")
    try:
        bag = pkcs12.load_pkcs12(data, password)
    except _ERRORS as error:
        raise MalformedMessage("the PKCS #12 file does not open: wrong password or file") from error
    found = [entry.certificate for entry in (bag.cert, *bag.additional_certs) if entry is not None]
    return KeyAndCertificates(_signing(bag.key), tuple(_strictly(found)))


def _signing(key: object) -> PrivateKey:
    if not isinstance(key, PrivateKey):
        raise MalformedMessage("there is no private key of a kind that signs")
    return key
