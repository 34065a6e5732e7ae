"""SCEP: messages that are damaged on every level (the signed message, the envelope, the request
inside), of all types, by GET and POST. Nothing but FAILURE or PENDING may come of them."""

import base64
import http.client
from functools import cache
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AttributeOID, NameOID

from interop.fuzz.cases import Case, Cases, Reply, Rng, Subject, mutated
from pkiserver.clock import SystemClock
from pkiserver.cms import certs_only, enveloped_data, oids, signed_data
from pkiserver.pkix import der

_TYPES = (b"3", b"17", b"18", b"19", b"19", b"19", b"20", b"21", b"22", b"99", b"x")
_ENCRYPTION = ("aes128-cbc", "aes256-cbc", "des-ede3-cbc", "aes128-gcm")
_VERISIGN = "2.16.840.1.113733.1.9"
_PATHS = (b"/scep/default", b"/SCEP/default/pkiclient.exe", b"/cgi-bin/pkiclient.exe",
          b"/certsrv/mscep/mscep.dll", b"/scep/nobody", b"/scep/", b"/scep/%00")  # fmt: skip
_OPERATIONS = (b"GetCACaps", b"GetCACert", b"GetCACertChain", b"GetNextCACert", b"Nonsense", b"")


def cases(subject: Subject) -> Cases:
    authority = _registration_authority(subject)

    def make(rng: Rng) -> Case:
        path = rng.choice(_PATHS[:4] * 6 + _PATHS)
        if rng.random() < 0.1:
            query = (
                b"?operation="
                + rng.choice(_OPERATIONS)
                + b"&message="
                + rng.randbytes(3).hex().encode()
            )
            return Case(b"GET", path + query)
        return _over_http(rng, path, _message(rng, authority))

    return make


def _registration_authority(subject: Subject) -> x509.Certificate:
    connection = http.client.HTTPConnection("127.0.0.1", subject.http_port, timeout=30)
    try:
        connection.request("GET", "/scep/default?operation=GetCACert")
        return certs_only.parse(connection.getresponse().read())[0]
    finally:
        connection.close()


@cache
def _device() -> tuple[rsa.RSAPrivateKey, x509.Certificate, bytes]:
    """A key, the certificate it signs with, and a request with a challenge that is none."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fuzzed")])
    now = SystemClock().now()
    certificate = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now).sign(
        key, hashes.SHA256()
    )
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    builder = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, b"not a challenge")
    request = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    return key, certificate, request


def _message(rng: Rng, authority: x509.Certificate) -> bytes:
    key, certificate, content = _device()
    level = rng.randrange(4)
    if level == 0:
        content = mutated(content, rng)
    envelope = enveloped_data.encrypt(
        content,
        authority,
        rng.choice(_ENCRYPTION),
        key_transport=rng.choice(("rsa-v1.5", "oaep")),
        random_bytes=rng.randbytes,
    )
    if level == 1:
        envelope = mutated(envelope, rng)
    sent = [
        (f"{_VERISIGN}.2", der.encode(der.PRINTABLE_STRING, rng.choice(_TYPES))),
        (f"{_VERISIGN}.7", der.encode(der.PRINTABLE_STRING, rng.randbytes(8).hex().encode())),
        (f"{_VERISIGN}.5", der.encode(der.OCTET_STRING, rng.randbytes(rng.choice((0, 8, 16))))),
    ]
    if level == 2:
        sent = [(oid, mutated(value, rng, 1)) for oid, value in sent if rng.random() < 0.9]
    tbs = signed_data.to_be_signed(envelope, oids.DATA, "sha256", sent)
    signature = key.sign(tbs.data, padding.PKCS1v15(), hashes.SHA256())
    message = signed_data.encode(tbs, signature, certificate)
    return mutated(message, rng) if level == 3 else message


def _over_http(rng: Rng, path: bytes, data: bytes) -> Case:
    if rng.random() < 0.7:
        return Case(b"POST", path + b"?operation=PKIOperation", body=data, check=_never_success)
    text = base64.b64encode(data).decode()
    spelled = rng.choice((quote(text, safe=""), text, text.rstrip("="), text.replace("+", "%20")))
    query = f"?operation=PKIOperation&message={spelled}".encode()
    return Case(b"GET", path + query, check=_never_success)


def _never_success(reply: Reply) -> str | None:
    if reply.status != 200:
        return None
    if signed_data.parse(reply.body).content is not None:
        return "SUCCESS for a request that has no challenge"
    return None
