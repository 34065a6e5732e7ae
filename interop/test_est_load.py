"""Concurrent enrolments at a server with two workers: the CA's promises hold."""

import asyncio
import base64
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from interop import est_requests as requests
from interop.bench import aftermath
from interop.est_pki import Client, EstPKI, Held
from interop.fuzz.cases import Case
from interop.fuzz.client import Client as Connection

DEVICES = 20
BY_PASSWORD = 3
BY_CERTIFICATE = 2
PREFIX = "load-"


@dataclass
class Device:
    """A device that enrols by password a few times and renews by certificate, sending each request
    twice at once, on two connections, as one that lost patience would. It keeps what it got."""

    name: str
    pki: EstPKI
    folder: Path
    login: str
    got: list[bytes] = field(default_factory=list)

    async def work(self) -> None:
        for _ in range(BY_PASSWORD):
            await self._enrol("simpleenroll", None)
        for _ in range(BY_CERTIFICATE):
            await self._enrol("simplereenroll", self.held)

    held: Path | None = None

    async def _enrol(self, operation: str, held: Path | None) -> None:
        key = requests.new_key()
        body = base64.b64encode(requests.request(self.name, key))
        headers = [(b"content-type", b"application/pkcs10")]
        if held is None:
            headers.append((b"authorization", self.login.encode()))
        case = Case(b"POST", f"/.well-known/est/{operation}".encode(), tuple(headers), body)
        first, second = await asyncio.gather(self._send(case, held), self._send(case, held))
        assert first == second
        self.got.append(first)
        self.held = self._keep(first, key)

    async def _send(self, case: Case, held: Path | None) -> bytes:
        """The certificate in DER."""
        context = ssl.create_default_context(cafile=str(self.pki.root))
        if held is not None:
            context.load_cert_chain(held)
        while True:
            async with Connection(self.pki.https_port, context) as connection:
                reply = await connection.send(case)
            if reply.status != 202:
                break
            await asyncio.sleep(int(reply.headers[b"retry-after"]))
        assert reply.status == 200, (reply.status, reply.body)
        (found,) = pkcs7.load_der_pkcs7_certificates(base64.b64decode(reply.body))
        return found.public_bytes(Encoding.DER)

    def _keep(self, der: bytes, key: ec.EllipticCurvePrivateKey) -> Path:
        certificate = x509.load_der_x509_certificate(der)
        assert certificate.public_key() == key.public_key()
        path = self.folder / f"{self.name}.pem"
        path.write_bytes(requests.key_pem(key) + certificate.public_bytes(Encoding.PEM))
        return path


async def test_concurrent_enrolments(est: EstPKI, est_client: Client) -> None:
    """Everything handed out is in the inventory, and nothing else is; serial numbers are unique;
    the audit log is whole and has each of them once; OCSP and CRL know them."""
    password = est.add_user("load", subject=f"{PREFIX}*", dns="*.example.test")
    login = requests.basic("load", password)
    devices = [
        Device(f"{PREFIX}{number}", est, est_client.folder, login) for number in range(DEVICES)
    ]
    await asyncio.gather(*(device.work() for device in devices))
    handed_out = [der for device in devices for der in device.got]
    assert len(handed_out) == len(set(handed_out)) == DEVICES * (BY_PASSWORD + BY_CERTIFICATE)
    serials = {x509.load_der_x509_certificate(der).serial_number for der in handed_out}
    assert len(serials) == len(handed_out)
    database = est.home / "pki.db"
    sql = f"SELECT der, status FROM certificates WHERE subject LIKE '%{PREFIX}%'"
    assert sorted(aftermath.query(database, sql)) == sorted((der, "issued") for der in handed_out)
    _check_audit(database, len(handed_out))
    aftermath.check_database(database)
    est.cli("audit", "verify")
    for device in devices[::7]:
        assert device.held is not None
        held = Held(device.held, device.held)
        est_client.check(held, device.name)
        assert est_client.status(held) == "good"


def _check_audit(database: Path, count: int) -> None:
    issued = (
        "SELECT count(*) FROM audit WHERE action = 'certificate.issue' AND object IN "
        f"(SELECT id FROM certificates WHERE subject LIKE '%{PREFIX}%')"
    )
    assert aftermath.query(database, issued) == [(count,)]
