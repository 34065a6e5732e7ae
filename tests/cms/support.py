"""Keys, certificates and messages for the tests of CMS; a BER encoder that has every quirk."""

import base64
import datetime as dt
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cryptography_vectors
from asn1crypto import cms as asn1
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from pkiserver.cms import oids, signed_data
from pkiserver.cms.signatures import hash_of
from pkiserver.pkix import der
from tests.pkix import support

VECTORS = Path(__file__).parent / "vectors" / "smallstep-scep"
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
MESSAGE_TYPE = "2.16.840.1.113733.1.9.2"
TRANSACTION_ID = "2.16.840.1.113733.1.9.7"
SCEP_ATTRIBUTES = (
    (MESSAGE_TYPE, der.encode(der.PRINTABLE_STRING, b"19")),
    (TRANSACTION_ID, der.encode(der.PRINTABLE_STRING, b"0123456789abcdef")),
)

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

rsa_key = support.rsa_key
ec_key = support.ec_key


@cache
def p384_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


@cache
def ed25519_key() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


@cache
def certificate(
    key: Callable[[], Key] = rsa_key,
    serial: int = 0x1234567890,
    common_name: str = "device",
    ski: bool = True,
) -> x509.Certificate:
    """Self-signed, as a device makes one for its first request."""
    private = key()
    name = x509.Name(
        [
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Example"),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name),
        ]
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(serial)
        .not_valid_before(NOW)
        .not_valid_after(NOW + dt.timedelta(days=3650))
    )
    if ski:
        identifier = x509.SubjectKeyIdentifier.from_public_key(private.public_key())
        builder = builder.add_extension(identifier, critical=False)
    algorithm = None if isinstance(private, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(private, algorithm)


def der_of(cert: x509.Certificate) -> bytes:
    return cert.public_bytes(serialization.Encoding.DER)


def pem_of(cert: x509.Certificate) -> bytes:
    return cert.public_bytes(serialization.Encoding.PEM)


def key_pem(key: Key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def raw_sign(key: Key, data: bytes, digest: str) -> bytes:
    match key:
        case rsa.RSAPrivateKey():
            return key.sign(data, padding.PKCS1v15(), hash_of(digest))
        case ec.EllipticCurvePrivateKey():
            return key.sign(data, ec.ECDSA(hash_of(digest)))
    return key.sign(data)


def sign(
    content: bytes | None = b"content",
    *,
    key: Callable[[], Key] = rsa_key,
    digest: str = "sha256",
    content_type: str = oids.DATA,
    attributes: Sequence[tuple[str, bytes]] = SCEP_ATTRIBUTES,
    certificates: Sequence[x509.Certificate] = (),
) -> bytes:
    tbs = signed_data.to_be_signed(content, content_type, digest, attributes)
    signature = raw_sign(key(), tbs.data, digest)
    return signed_data.encode(tbs, signature, certificate(key), certificates=certificates)


def oracle(data: bytes) -> Any:
    """The content of a ContentInfo as asn1crypto reads it."""
    return asn1.ContentInfo.load(data, strict=True)["content"]  # type: ignore[no-untyped-call]


def library_file(path: str) -> bytes:
    """Of the package cryptography-vectors."""
    with cryptography_vectors.open_vector_file(path, "rb") as file:
        data: bytes = file.read()
    return data


def vector(name: str) -> bytes:
    """A message of the package cryptography-vectors, out of its PEM if it has one."""
    data = library_file(f"pkcs7/{name}")
    if not data.startswith(b"-----"):
        return data
    return base64.b64decode(b"".join(data.split(b"-----")[2].split()))


def to_ber(
    data: bytes,
    *,
    chunk: int | None = None,
    indefinite: bool = True,
    long_lengths: int = 0,
    implicit: bool = False,
) -> bytes:
    """DER in another of BER's forms: indefinite lengths; OCTET STRINGs (and, if `implicit`, what
    stands under a primitive [0]) in segments of `chunk` octets; lengths in more octets than
    needed."""

    def header(tag: int, length: int) -> bytes:
        if not long_lengths:
            return der.encode(tag, bytes(length))[: -length or None]
        return bytes((tag, 0x80 | long_lengths)) + length.to_bytes(long_lengths)

    def constructed(tag: int, body: bytes) -> bytes:
        if indefinite:
            return bytes((tag, 0x80)) + body + b"\x00\x00"
        return header(tag, len(body)) + body

    def segments(contents: bytes) -> bytes:
        assert chunk is not None
        pieces = [contents[at : at + chunk] for at in range(0, len(contents), chunk)]
        return b"".join(header(der.OCTET_STRING, len(piece)) + piece for piece in pieces)

    def convert(element: der.TLV) -> bytes:
        if element.constructed:
            return constructed(
                element.tag, b"".join(convert(child) for child in der.children(element.contents))
            )
        if chunk is not None and element.tag == der.OCTET_STRING:
            return constructed(0x24, segments(element.contents))
        if chunk is not None and implicit and element.tag == 0x80:
            return constructed(0xA0, segments(element.contents))
        return header(element.tag, len(element.contents)) + element.contents

    return convert(der.read_one(data))
