"""SCEP: messages that are damaged on every level (the signed message, the envelope, the request
inside), of all types, by GET and POST. Nothing but FAILURE or PENDING may come of them."""

import base64
import http.client
from dataclasses import dataclass
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import AttributeOID, NameOID

from interop.fuzz.cases import Case, Cases, Check, Reply, Rng, Subject, mutated, nothing
from interop.mutations import restructure
from pkiserver.clock import SystemClock
from pkiserver.cms import certs_only, enveloped_data, oids, signed_data
from pkiserver.cms.content_info import issuer_and_serial
from pkiserver.pkix import der

_TYPES = (b"3", b"17", b"18", b"19", b"19", b"19", b"20", b"21", b"22", b"99", b"x")
_QUERIES = (b"21", b"22")
_ENCRYPTION = ("aes128-cbc", "aes256-cbc", "des-ede3-cbc", "aes128-gcm")
_VERISIGN = "2.16.840.1.113733.1.9"
_PATHS = (b"/scep/default", b"/SCEP/default/pkiclient.exe", b"/cgi-bin/pkiclient.exe",
          b"/certsrv/mscep/mscep.dll", b"/scep/nobody", b"/scep/", b"/scep/%00")  # fmt: skip
_LONGEST = 200_000
_OPERATIONS = (b"GetCACaps", b"GetCACert", b"GetCACertChain", b"GetNextCACert", b"Nonsense", b"")


@dataclass(frozen=True)
class _Device:
    """A key, the certificate it signs with, and what it can put into messages: requests, and what
    GetCert and GetCRL ask for."""

    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    requests: tuple[bytes, ...]
    wanted: bytes

    def sign(self, data: bytes) -> bytes:
        if isinstance(self.key, rsa.RSAPrivateKey):
            return self.key.sign(data, padding.PKCS1v15(), hashes.SHA256())
        return self.key.sign(data, ec.ECDSA(hashes.SHA256()))


def cases(subject: Subject) -> Cases:
    authority = _registration_authority(subject)
    devices = (_stranger(), _holder(subject))

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
        device = rng.choice(devices)
        kind = rng.choice(_TYPES)
        asks = rng.random() < 0.3
        content = device.wanted if asks else rng.choice(device.requests)
        # A request may be damaged into what GetCert and GetCRL ask for.
        check = nothing if asks or kind in _QUERIES else _never_success
        return _over_http(rng, path, _message(rng, authority, device, kind, content), check)

    return make


def _registration_authority(subject: Subject) -> x509.Certificate:
    connection = http.client.HTTPConnection("127.0.0.1", subject.http_port, timeout=30)
    try:
        connection.request("GET", "/scep/default?operation=GetCACert")
        return certs_only.parse(connection.getresponse().read())[0]
    finally:
        connection.close()


def _stranger() -> _Device:
    """With a challenge that is none."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fuzzed")])
    now = SystemClock().now()
    certificate = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now).sign(
        key, hashes.SHA256()
    )
    return _device(key, certificate)


def _holder(subject: Subject) -> _Device:
    """With a certificate of the CA, of another profile."""
    key = load_pem_private_key(subject.good.with_suffix(".key").read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
    return _device(key, x509.load_pem_x509_certificates(subject.good.read_bytes())[0])


def _device(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, certificate: x509.Certificate
) -> _Device:
    builder = x509.CertificateSigningRequestBuilder().subject_name(certificate.subject)
    builder = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, b"not a challenge")
    request = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    names = (certificate.issuer.public_bytes(), certificate.subject.public_bytes())
    poll = der.encode(der.SEQUENCE, *names)
    wanted = issuer_and_serial(certificate.public_bytes(Encoding.DER)).encode()
    return _Device(key, certificate, (request, poll), wanted)


def _damaged(data: bytes, rng: Rng) -> bytes:
    """Octets at random, or elements with lengths that fit; no more than the server reads."""
    damaged = mutated(data, rng) if rng.random() < 0.5 else restructure(data, rng)
    return damaged[:_LONGEST]


def _message(
    rng: Rng, authority: x509.Certificate, device: _Device, kind: bytes, content: bytes
) -> bytes:
    level = rng.randrange(4)
    if level == 0:
        content = _damaged(content, rng)
    envelope = enveloped_data.encrypt(
        content,
        authority,
        rng.choice(_ENCRYPTION),
        key_transport=rng.choice(("rsa-v1.5", "oaep")),
        random_bytes=rng.randbytes,
    )
    if level == 1:
        envelope = _damaged(envelope, rng)
    sent = [
        (f"{_VERISIGN}.2", der.encode(der.PRINTABLE_STRING, kind)),
        (f"{_VERISIGN}.7", der.encode(der.PRINTABLE_STRING, rng.randbytes(8).hex().encode())),
        (f"{_VERISIGN}.5", der.encode(der.OCTET_STRING, rng.randbytes(rng.choice((0, 8, 16))))),
    ]
    if level == 2:
        sent = [(oid, mutated(value, rng, 1)) for oid, value in sent if rng.random() < 0.9]
    tbs = signed_data.to_be_signed(envelope, oids.DATA, "sha256", sent)
    message = signed_data.encode(tbs, device.sign(tbs.data), device.certificate)
    return _damaged(message, rng) if level == 3 else message


def _over_http(rng: Rng, path: bytes, data: bytes, check: Check) -> Case:
    if rng.random() < 0.7:
        return Case(b"POST", path + b"?operation=PKIOperation", body=data, check=check)
    text = base64.b64encode(data).decode()
    spelled = rng.choice((quote(text, safe=""), text, text.rstrip("="), text.replace("+", "%20")))
    query = f"?operation=PKIOperation&message={spelled}".encode()
    return Case(b"GET", path + query, check=check)


def _never_success(reply: Reply) -> str | None:
    if reply.status != 200:
        return None
    if signed_data.parse(reply.body).content is not None:
        return "SUCCESS for a request that has no challenge"
    return None
