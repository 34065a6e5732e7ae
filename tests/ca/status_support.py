"""A PKI with a real database, key files and a clock that stands still, for tests of status."""

import datetime as dt
import shutil
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import NameOID

from pkiserver.ca.audit import Audit
from pkiserver.ca.authorities import Authorities
from pkiserver.ca.ca_certificate import Wish
from pkiserver.ca.issuance import Issuance, Issued
from pkiserver.ca.model import CertificateRequest, Prepared, Reason, Requester
from pkiserver.ca.revocation import Revocation
from pkiserver.ca.status import StatusService
from pkiserver.clock import FixedClock
from pkiserver.config import CoreSettings, CRLSettings, OCSPSettings, ServerSettings
from pkiserver.config_types import KeyKind
from pkiserver.keys import FileKeyProvider
from pkiserver.pkix.names import dns_name
from pkiserver.storage import Database, migrate, open_database

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
ACTOR = Requester("test", "tester")


@dataclass(frozen=True)
class PKI:
    """Authorities `root` and `issuing`, and what makes and unmakes certificates."""

    home: Path
    settings: CoreSettings
    database: Database
    clock: FixedClock
    keys: FileKeyProvider
    audit: Audit
    authorities: Authorities
    issuance: Issuance
    revocation: Revocation
    status: StatusService

    def certificate(self, name: str = "issuing") -> x509.Certificate:
        return self.authorities.certificate(name)

    def another_process(self) -> StatusService:
        """A status service with nothing in its memory."""
        return StatusService(
            self.database, self.clock, self.authorities, self.keys, self.audit, self.settings
        )

    async def prepare(self, name: str = "www.example.com") -> Prepared:
        request = CertificateRequest("tls-server", ACTOR, csr(name), (dns_name(name),))
        return await self.issuance.prepare(request)

    async def issue(self, name: str = "www.example.com") -> Issued:
        """A server certificate."""
        return await self.issuance.issue(await self.prepare(name))

    async def revoke(self, issued: Issued, reason: Reason = Reason.SUPERSEDED) -> None:
        await self.revocation.revoke("issuing", issued.record.serial, reason, actor=ACTOR)


def csr(name: str) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.DNSName(name)])
    return (
        x509.CertificateSigningRequestBuilder(x509.Name([]))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )


def wish(common_name: str, days: int) -> Wish:
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "CH"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )
    return Wish(subject, dt.timedelta(days=days))


@asynccontextmanager
async def open_pki(
    home: Path,
    *,
    root_kind: KeyKind = "p256",
    issuing_kind: KeyKind = "p256",
    now: dt.datetime = NOW,
    crl: CRLSettings | None = None,
    ocsp: OCSPSettings | None = None,
    http_base: str = "http://pki.example.com",
) -> AsyncIterator[PKI]:
    """A new PKI in an empty folder."""
    settings = CoreSettings(
        home=home,
        server=ServerSettings(external_http_url=http_base),
        crl=crl or CRLSettings(),
        ocsp=ocsp or OCSPSettings(),
    )
    (home / "keys").mkdir(mode=0o700)
    database = open_database(settings.storage.url, home)
    await migrate(database, {})
    clock = FixedClock(now)
    keys = FileKeyProvider(home / "keys", b"a passphrase for tests")
    audit = Audit(clock)
    authorities = Authorities(database, clock, keys, audit, settings)
    await authorities.load()
    await authorities.create_root("root", wish("Example Root", 7300), root_kind, actor="test")
    await authorities.create(
        "issuing", "root", wish("Example Issuing", 1825), issuing_kind, actor="test"
    )
    status = StatusService(database, clock, authorities, keys, audit, settings)
    pki = PKI(
        home, settings, database, clock, keys, audit, authorities,
        Issuance(database, clock, authorities, audit, settings),
        Revocation(database, clock, authorities, audit),
        status,
    )  # fmt: skip
    try:
        yield pki
    finally:
        await status.stop()
        await database.close()


def ask(
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    algorithm: hashes.HashAlgorithm | None = None,
    nonce: bytes | None = None,
) -> bytes:
    """A request about one certificate, by another implementation."""
    builder = ocsp.OCSPRequestBuilder().add_certificate(
        certificate, issuer, algorithm or hashes.SHA256()
    )
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return builder.build().public_bytes(Encoding.DER)


def ask_serial(serial: int, issuer: x509.Certificate) -> bytes:
    """A request about a serial number, whether there is a certificate or not."""
    key = ec.generate_private_key(ec.SECP256R1())
    made_up = (
        x509.CertificateBuilder(issuer.subject, x509.Name([]), key.public_key(), serial)
        .not_valid_before(NOW)
        .not_valid_after(NOW + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return ask(made_up, issuer)


def pem(path: Path, certificates: Sequence[x509.Certificate]) -> Path:
    path.write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in certificates))
    return path


def tool(*command: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run a command line tool; stdout and stderr are one."""
    return subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=30,
    )


def has(name: str) -> bool:
    return shutil.which(name) is not None
