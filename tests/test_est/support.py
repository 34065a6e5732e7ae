"""EST in one process: a home, the ASGI application as the HTTPS listener serves it, and what TLS
would say of the client put in by hand. Fake is only the clock."""

import base64
import datetime as dt
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from starlette.types import Receive, Scope, Send

from pkiserver.app import Runtime, open_runtime, parse_settings
from pkiserver.clock import FixedClock, SystemClock, epoch
from pkiserver.cms import certs_only
from pkiserver.storage import Row
from pkiserver.web.peer import PEER_EXTENSION, Peer
from protocols.est import store
from protocols.est.store import User

ADDRESS = "192.0.2.10"
PASSWORD = "correct-horse-battery-staple"
PKCS10 = {"Content-Type": "application/pkcs10"}
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def quickly_derived(password: str) -> str:
    """What is stored says how much work it takes; here, little."""
    little = Argon2id(salt=os.urandom(16), length=32, iterations=1, lanes=1, memory_cost=8)
    return little.derive_phc_encoded(password.encode())


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def make_csr(
    cn: str | x509.Name = "dev1",
    dns: Sequence[str] = (),
    *,
    key: Key | None = None,
    attributes: Mapping[str, bytes] | None = None,
    challenge: str | None = None,
) -> bytes:
    """A request in DER. `attributes` are DER values by dotted OID."""
    subject = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)]) if isinstance(cn, str) else cn
    )
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if dns:
        names = x509.SubjectAlternativeName([x509.DNSName(name) for name in dns])
        builder = builder.add_extension(names, critical=False)
    if challenge is not None:
        oid = x509.oid.AttributeOID.CHALLENGE_PASSWORD
        builder = builder.add_attribute(oid, challenge.encode())
    request = builder.sign(key or new_key(), hashes.SHA256()).public_bytes(Encoding.DER)
    return request if attributes is None else with_attributes(request, attributes, key)


def with_attributes(request: bytes, values: Mapping[str, bytes], key: Key | None) -> bytes:
    """The request with further attributes, signed anew; by nobody if there is no EC key."""
    from pkiserver.pkix import cert, der

    tbs, algorithm, _ = cert.split(request)
    version, subject, spki, attributes = der.sequence_of(tbs)
    more = [
        der.encode(der.SEQUENCE, der.encode_oid(oid), der.encode(der.SET, value))
        for oid, value in values.items()
    ]
    old = [each.encoded for each in der.children(attributes.contents)]
    info = der.encode(
        der.SEQUENCE,
        version.encoded,
        subject.encoded,
        spki.encoded,
        der.encode(0xA0, *sorted([*old, *more])),
    )
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return cert.assemble(info, algorithm, key.sign(info, ec.ECDSA(hashes.SHA256())))


@dataclass(frozen=True)
class Held:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)


class Factory:
    """An outside CA: a root, an issuing CA below it, and device certificates."""

    def __init__(self, name: str = "Factory") -> None:
        self.now = SystemClock().now().replace(microsecond=0)
        self.root = self._ca(f"{name} Root", None)
        self.issuing = self._ca(f"{name} CA", self.root)

    def _ca(self, name: str, above: Held | None) -> Held:
        key = new_key()
        builder = (
            self._builder(name, key, above)
            .add_extension(x509.BasicConstraints(True, None), critical=True)
            .add_extension(_usage(key_cert_sign=True), critical=True)
        )
        return Held(builder.sign(above.key if above else key, hashes.SHA256()), key)

    def _builder(
        self, name: str, key: ec.EllipticCurvePrivateKey, above: Held | None
    ) -> x509.CertificateBuilder:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(above.certificate.subject if above else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now - dt.timedelta(days=1))
            .not_valid_after(self.now + dt.timedelta(days=100))
        )

    def device(
        self,
        name: str,
        *,
        eku: x509.ObjectIdentifier | None = None,
        usage: x509.KeyUsage | None = None,
        unknown_critical: bool = False,
        crl: str | None = None,
    ) -> Held:
        key = new_key()
        builder = self._builder(name, key, self.issuing)
        if eku is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([eku]), critical=False)
        if usage is not None:
            builder = builder.add_extension(usage, critical=True)
        if crl is not None:
            point = x509.DistributionPoint([x509.UniformResourceIdentifier(crl)], None, None, None)
            builder = builder.add_extension(x509.CRLDistributionPoints([point]), critical=False)
        if unknown_critical:
            oid = x509.ObjectIdentifier("1.3.6.1.4.1.99999.1")
            builder = builder.add_extension(x509.UnrecognizedExtension(oid, b"\5\0"), critical=True)
        return Held(builder.sign(self.issuing.key, hashes.SHA256()), key)


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature, False, False, False, False, key_cert_sign, key_cert_sign, False, False
    )


ENCIPHER_ONLY_USAGE = x509.KeyUsage(False, False, True, False, False, False, False, False, False)
SERVER_AUTH = ExtendedKeyUsageOID.SERVER_AUTH


class World:
    """A server and what was asked of it."""

    def __init__(self, runtime: Runtime, clock: FixedClock) -> None:
        self.runtime = runtime
        self.clock = clock
        self._app = runtime.edge(runtime.app(), access_log=False)

    async def request(
        self,
        method: str,
        path: str,
        *,
        peer: Peer | None = None,
        auth: tuple[str, str] | None = None,
        content: bytes = b"",
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    ) -> httpx.Response:
        """Below /.well-known/est/."""
        known = peer or Peer(ADDRESS, tls_version="TLSv1.3")

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope["extensions"] = {PEER_EXTENSION: known}
            await self._app(scope, receive, send)

        transport = httpx.ASGITransport(app, client=(known.address, 1))
        async with httpx.AsyncClient(transport=transport, base_url="https://est.test") as client:
            return await client.request(
                method,
                f"/.well-known/est/{path}",
                auth=auth,
                content=content,
                headers=headers,
            )

    async def post(self, path: str, request: bytes, **options: Any) -> httpx.Response:
        """A request for a certificate."""
        headers = {**PKCS10, **options.pop("headers", {})}
        body = base64.b64encode(request)
        return await self.request("POST", path, content=body, headers=headers, **options)

    async def enroll(
        self,
        cn: str | x509.Name = "dev1",
        dns: Sequence[str] = (),
        *,
        user: str = "alice",
        label: str = "",
    ) -> Held:
        """A certificate got with a password."""
        key = new_key()
        path = f"{label}/simpleenroll" if label else "simpleenroll"
        answer = await self.post(path, make_csr(cn, dns, key=key), auth=(user, PASSWORD))
        return Held(issued(answer), key)

    async def add_user(
        self,
        name: str = "alice",
        label: str = "default",
        names: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """With `PASSWORD`."""
        now = epoch(self.clock.now())
        new = User(f"{label}-{name}-{now}", label, name, quickly_derived(PASSWORD), names, now)
        await self.runtime.services.database.write(lambda tx: store.insert_user(tx, new))

    async def rows(self, sql: str) -> list[Row]:
        return await self.runtime.services.database.read(lambda reader: reader.all(sql))

    async def certificates(self) -> int:
        """How many were made for EST."""
        ((count,),) = await self.rows(
            "SELECT COUNT(*) FROM certificates WHERE requester LIKE 'est:%'"
        )
        return int(count)

    async def refusals(self) -> list[str]:
        """Their causes, from the audit log."""
        rows = await self.rows(
            "SELECT detail FROM audit WHERE outcome = 'refused' ORDER BY sequence"
        )
        return [str(row[0]) for row in rows]


def peer_with(held: Held | None, *chain: Held, version: str = "TLSv1.3", **more: Any) -> Peer:
    """What TLS says of a client with this certificate."""
    return Peer(
        more.pop("address", ADDRESS),
        certificate_der=None if held is None else held.der,
        chain_der=tuple(each.der for each in chain),
        tls_version=version,
        **more,
    )


def issued(answer: httpx.Response) -> x509.Certificate:
    """The only certificate in an answer (E10)."""
    assert answer.status_code == 200, (answer.status_code, answer.text)
    (certificate,) = certs_only.parse(base64.b64decode(answer.content, validate=True))
    return certificate


@asynccontextmanager
async def opened(home: Path, configuration: str, clock: FixedClock) -> AsyncIterator[World]:
    settings = parse_settings(home, configuration)
    async with open_runtime(settings, clock=clock) as runtime:
        yield World(runtime, clock)
