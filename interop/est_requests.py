"""Certification requests that `openssl req` cannot make, and HTTP that curl cannot send. Nothing of
the server's own code is used."""

import base64
import email
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

DECRYPT_KEY_ID = x509.ObjectIdentifier("1.2.840.113549.1.9.16.2.37")
ASYMMETRIC_DECRYPT_KEY_ID = x509.ObjectIdentifier("1.2.840.113549.1.9.16.2.54")
CHALLENGE_PASSWORD = x509.oid.AttributeOID.CHALLENGE_PASSWORD
SECONDS = 60


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def request(
    name: str,
    key: ec.EllipticCurvePrivateKey | None = None,
    attributes: Mapping[x509.ObjectIdentifier, bytes | str] | None = None,
) -> bytes:
    """In DER, for that common name and `NAME.example.test`. Attributes that are bytes become an
    OCTET STRING, others a UTF8String."""
    names = x509.SubjectAlternativeName([x509.DNSName(f"{name}.example.test")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    builder = builder.add_extension(names, critical=False)
    for oid, value in (attributes or {}).items():
        text = isinstance(value, str)
        data = value.encode() if isinstance(value, str) else value
        tag = _ASN1Type.UTF8String if text else _ASN1Type.OctetString
        builder = builder.add_attribute(oid, data, _tag=tag)
    made = builder.sign(key or new_key(), hashes.SHA256())
    return made.public_bytes(Encoding.DER)


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; the names of its fields are as they came."""

    status: int
    fields: Mapping[str, str]
    body: bytes


@contextmanager
def connection(
    port: int, root: Path, version: ssl.TLSVersion, held: Path | None = None
) -> Iterator[ssl.SSLSocket]:
    """TLS of exactly that version; `held` is a PEM file with the key and certificate to show."""
    context = ssl.create_default_context(cafile=str(root))
    context.minimum_version = context.maximum_version = version
    if held is not None:
        context.load_cert_chain(held)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as sock,
        context.wrap_socket(sock, server_hostname="localhost") as wrapped,
    ):
        yield wrapped


def basic(user: str, password: str) -> str:
    """An Authorization field."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def post(sock: ssl.SSLSocket, path: str, body: bytes, **fields: str) -> Answer:
    """One request on a connection that ends with the answer; underscores in the names of fields
    stand for hyphens."""
    known = {"Host": "localhost", "Content-Type": "application/pkcs10"}
    known |= {"Content-Length": str(len(body)), "Connection": "close"}
    known |= {name.replace("_", "-"): value for name, value in fields.items()}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in known.items())]
    sock.sendall("\r\n".join([*lines, "", ""]).encode() + body)
    found = b""
    while data := sock.recv(65536):
        found += data
    head, _, content = found.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in rest)
    return Answer(int(first.split()[1]), {name: value.strip() for name, _, value in pairs}, content)


def parts(head: Mapping[str, str], body: bytes) -> list[tuple[str, bytes]]:
    """The media type and content of every part of a multipart body, by Python's mail parser."""
    text = f"Content-Type: {head['Content-Type']}\r\n\r\n".encode() + body
    found = email.message_from_bytes(text)
    return [
        (part["Content-Type"], bytes(part.get_payload(decode=True)))
        for part in found.walk()
        if not part.is_multipart()
    ]
