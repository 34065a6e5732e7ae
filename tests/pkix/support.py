"""Building blocks for PKIX tests: requests the library would not build, made by hand."""

import datetime as dt
from collections.abc import Callable, Sequence
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.pkix import algorithms, cert, der

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
SHA256_WITH_ECDSA = der.encode(der.SEQUENCE, der.encode_oid("1.2.840.10045.4.3.2"))
SHA1_WITH_ECDSA = der.encode(der.SEQUENCE, der.encode_oid("1.2.840.10045.4.1"))
SHA1_WITH_RSA = der.encode(der.SEQUENCE, der.encode_oid("1.2.840.113549.1.1.5"), b"\x05\x00")
MD5_WITH_RSA = der.encode(der.SEQUENCE, der.encode_oid("1.2.840.113549.1.1.4"), b"\x05\x00")

Sign = Callable[[bytes], bytes]


@cache
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@cache
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def name(common_name: str | None = None) -> x509.Name:
    if common_name is None:
        return x509.Name([])
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])


def csr(
    *general_names: x509.GeneralName,
    common_name: str | None = None,
    extensions: Sequence[x509.ExtensionType] = (),
    challenge: bytes | None = None,
) -> bytes:
    """An ordinary request, built and signed by the library with a P-256 key."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(name(common_name))
    if general_names:
        builder = builder.add_extension(x509.SubjectAlternativeName(general_names), False)
    for extension in extensions:
        builder = builder.add_extension(extension, False)
    if challenge is not None:
        builder = builder.add_attribute(x509.oid.AttributeOID.CHALLENGE_PASSWORD, challenge)
    return builder.sign(ec_key(), hashes.SHA256()).public_bytes(Encoding.DER)


def ecdsa(data: bytes) -> bytes:
    return ec_key().sign(data, ec.ECDSA(hashes.SHA256()))


def rsa_signer(algorithm: hashes.HashAlgorithm) -> Sign:
    return lambda data: rsa_key().sign(data, padding.PKCS1v15(), algorithm)


def attribute(oid: str, *values: bytes) -> bytes:
    return der.encode(der.SEQUENCE, der.encode_oid(oid), der.encode(der.SET, *values))


def extension(oid: str, value: bytes) -> bytes:
    return der.encode(der.SEQUENCE, der.encode_oid(oid), der.encode(der.OCTET_STRING, value))


def rdn(oid: str, value: bytes) -> bytes:
    return der.encode(der.SET, der.encode(der.SEQUENCE, der.encode_oid(oid), value))


def handmade_csr(
    *attributes: bytes,
    subject: bytes = b"",
    sign: Sign = ecdsa,
    algorithm: bytes = SHA256_WITH_ECDSA,
    spki: bytes | None = None,
) -> bytes:
    """A signed request of given parts; `subject` is the contents of its RDNSequence."""
    info = der.encode(
        der.SEQUENCE,
        der.encode_integer(0),
        der.encode(der.SEQUENCE, subject),
        algorithms.spki_der(ec_key().public_key()) if spki is None else spki,
        der.encode(0xA0, *attributes),
    )
    return cert.assemble(info, algorithm, sign(info))


def certificate(common_name: str = "leaf.example", serial: int = 0x1234) -> x509.Certificate:
    """A self-signed certificate."""
    return (
        x509.CertificateBuilder()
        .subject_name(name(common_name))
        .issuer_name(name(common_name))
        .serial_number(serial)
        .not_valid_before(NOW)
        .not_valid_after(NOW + dt.timedelta(days=1))
        .public_key(ec_key().public_key())
        .add_extension(x509.SubjectKeyIdentifier(b"k" * 20), False)
        .sign(ec_key(), hashes.SHA256())
    )
