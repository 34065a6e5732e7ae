"""OCSP: requests with extensions of every kind, damaged requests, all the forms of GET. Never may
an answer say `good` of what was not asked about, or of what is not good."""

import base64
from pathlib import Path
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from interop import openssl
from interop.fuzz.cases import Case, Cases, Check, Reply, Rng, Subject, mutated

_DIGESTS = (hashes.SHA1(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512())
_TYPE = (b"content-type", b"application/ocsp-request")
_EXTENSIONS = tuple(
    x509.ObjectIdentifier(f"1.3.6.1.5.5.7.48.1.{number}") for number in (3, 4, 7, 8, 9, 99)
)


def cases(subject: Subject) -> Cases:
    good, issuer = _read(subject.good)
    revoked, _ = _read(subject.revoked)
    check = _never_wrongly_good({good.serial_number})

    def make(rng: Rng) -> Case:
        certificate = rng.choice((good, revoked, issuer))
        data = _request(rng, certificate, issuer)
        if rng.random() < 0.7:
            data = mutated(data, rng)
        elif rng.random() < 0.1:
            data = rng.randbytes(rng.choice((0, 1, 40, 70_000)))
        return _over_http(rng, data, check)

    return make


def _read(chain: Path) -> tuple[x509.Certificate, x509.Certificate]:
    parts = openssl.split(chain)[:2]
    certificate, issuer = (x509.load_pem_x509_certificate(part.read_bytes()) for part in parts)
    return certificate, issuer


def _request(rng: Rng, certificate: x509.Certificate, issuer: x509.Certificate) -> bytes:
    digest = rng.choice(_DIGESTS)
    builder = ocsp.OCSPRequestBuilder()
    if rng.random() < 0.7:
        builder = builder.add_certificate(certificate, issuer, digest)
    else:
        serial = rng.choice((1, rng.getrandbits(64) + 1, rng.getrandbits(150) + 1))
        asked = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, digest).build()
        builder = builder.add_certificate_by_hash(
            asked.issuer_name_hash, asked.issuer_key_hash, serial, digest
        )
    if rng.random() < 0.4:
        nonce = rng.randbytes(rng.choice((0, 1, 16, 32, 33, 128, 129, 1000)))
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=rng.random() < 0.2)
    for oid in rng.sample(_EXTENSIONS, rng.choice((0, 0, 1, 3))):
        value = x509.UnrecognizedExtension(oid, rng.randbytes(rng.randrange(20)))
        builder = builder.add_extension(value, critical=rng.random() < 0.1)
    return builder.build().public_bytes(Encoding.DER)


def _over_http(rng: Rng, data: bytes, check: Check) -> Case:
    authority = rng.choice((b"issuing",) * 8 + (b"root", b"nobody", b"%00", b"issuing/", b""))
    if rng.random() < 0.5:
        headers = (_TYPE if rng.random() < 0.95 else (b"content-type", b"text/plain"),)
        method = rng.choice((b"POST",) * 20 + (b"PUT", b"DELETE"))
        return Case(method, b"/ocsp/" + authority, headers, data, check=check)
    text = base64.b64encode(data[:2500]).decode()
    spelled = rng.choice(
        (
            text,
            quote(text, safe=""),
            quote(quote(text, safe=""), safe=""),
            text.rstrip("="),
            "/" + text,
            text.replace("+", "%20"),
            base64.urlsafe_b64encode(data[:2500]).decode(),
            quote(mutated(text.encode(), rng)),
        )
    )
    conditions = rng.choice(
        (
            (),
            (),
            ((b"if-none-match", b"*"),),
            ((b"if-modified-since", b"Sun, 01 Mar 2026 12:00:00 GMT"),),
        )
    )
    method = rng.choice((b"GET",) * 10 + (b"HEAD", b"POST"))
    return Case(method, b"/ocsp/" + authority + b"/" + spelled.encode(), conditions, check=check)


def _never_wrongly_good(good: set[int]) -> Check:
    def check(reply: Reply) -> str | None:
        if reply.status != 200 or not reply.body:
            return None
        if reply.headers.get(b"content-type") != b"application/ocsp-response":
            return "200 with another media type"
        answer = ocsp.load_der_ocsp_response(reply.body)
        if answer.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            cached = reply.headers.get(b"cache-control") != b"no-store"
            return "a cacheable error" if cached else None
        for single in answer.responses:
            is_good = single.certificate_status is ocsp.OCSPCertStatus.GOOD
            if is_good != (single.serial_number in good):
                return f"{single.certificate_status} for {single.serial_number:x}"
        return None

    return check
