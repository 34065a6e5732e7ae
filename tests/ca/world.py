"""A real small PKI for tests of the CA core: SQLite, key files, a root and an issuing CA."""

import datetime as dt
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from pkiserver import config
from pkiserver.ca.audit import Audit
from pkiserver.ca.authorities import Authorities
from pkiserver.ca.ca_certificate import Wish
from pkiserver.ca.issuance import Issuance, Issued
from pkiserver.ca.model import CertificateRequest, Requester
from pkiserver.ca.revocation import Revocation
from pkiserver.clock import FixedClock
from pkiserver.config import CoreSettings
from pkiserver.config_types import KeyKind
from pkiserver.keys import FileKeyProvider, create_passphrase, file_provider
from pkiserver.pkix.algorithms import signature_hash_for
from pkiserver.pkix.names import AltName, to_general_name
from pkiserver.storage import Database, Row, migrate, open_database

NOW = dt.datetime(2026, 11, 21, 12, 0, 0, 250_000, tzinfo=dt.UTC)
ALICE = Requester("test", "alice", "192.0.2.7")


@dataclass
class World:
    """The services under test and what they stand on."""

    settings: CoreSettings
    database: Database
    clock: FixedClock
    keys: FileKeyProvider
    audit: Audit
    authorities: Authorities
    issuance: Issuance
    revocation: Revocation

    def another_issuance(self, **changes: Any) -> Issuance:
        """As another process would have it."""
        return Issuance(
            self.database,
            self.clock,
            self.authorities,
            self.audit,
            changes.get("settings", self.settings),
        )

    async def issue(self, *names: AltName, profile: str = "tls-server", **more: Any) -> Issued:
        """A certificate for these names."""
        wanted = request(*names, profile=profile, **more)
        return await self.issuance.issue(await self.issuance.prepare(wanted))

    async def rows(self, sql: str) -> list[Row]:
        return await self.database.read(lambda reader: reader.all(sql))


def settings_of(home: Path, profiles: Mapping[str, Any] | None = None) -> CoreSettings:
    server = {"hostname": "pki.example", "http": "127.0.0.1:80"}
    return config.build(home, {"server": server, "profiles": dict(profiles or {})}, {})


@asynccontextmanager
async def open_world(
    home: Path,
    *,
    profiles: Mapping[str, Any] | None = None,
    issuing_kind: KeyKind = "p256",
    issuing: Mapping[str, Any] | None = None,
    new: bool = True,
) -> AsyncIterator[World]:
    """Root "root" and issuing CA "issuing" below it; `issuing` changes its `Wish`.
    `new` False opens what is there already."""
    settings = settings_of(home, profiles)
    if new:
        (home / "keys").mkdir(mode=0o700)
        create_passphrase(settings)
    database = open_database("sqlite:///pki.db", home)
    try:
        await migrate(database, {})
        clock = FixedClock(NOW)
        keys = file_provider(settings)
        audit = Audit(clock)
        authorities = Authorities(database, clock, keys, audit, settings)
        await authorities.load()
        if new:
            await _make(authorities, issuing_kind, issuing or {})
        yield World(
            settings,
            database,
            clock,
            keys,
            audit,
            authorities,
            Issuance(database, clock, authorities, audit, settings),
            Revocation(database, clock, authorities, audit),
        )
    finally:
        await database.close()


async def _make(authorities: Authorities, kind: KeyKind, issuing: Mapping[str, Any]) -> None:
    root = Wish(subject("Test Root"), dt.timedelta(days=7300))
    await authorities.create_root("root", root, "p256", actor="test:setup")
    wish: dict[str, Any] = {
        "subject": subject("Test Issuing"),
        "validity": dt.timedelta(days=1825),
        "path_length": 0,
        **issuing,
    }
    await authorities.create("issuing", "root", Wish(**wish), kind, actor="test:setup")


def subject(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def csr_for(
    names: Sequence[AltName] = (),
    *,
    common_name: str | None = None,
    key: CertificateIssuerPrivateKeyTypes | None = None,
    extensions: Sequence[x509.ExtensionType] = (),
) -> bytes:
    """A DER request."""
    name = subject(common_name) if common_name is not None else x509.Name([])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    if names:
        san = x509.SubjectAlternativeName([to_general_name(each) for each in names])
        builder = builder.add_extension(san, critical=False)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    key = key or new_key()
    hash_algorithm = signature_hash_for(key) or None
    assert hash_algorithm is None or isinstance(hash_algorithm, hashes.HashAlgorithm)
    return builder.sign(key, hash_algorithm).public_bytes(Encoding.DER)


def request(
    *names: AltName,
    profile: str = "tls-server",
    csr: bytes | None = None,
    requester: Requester = ALICE,
    authorised: bool = True,
    **more: Any,
) -> CertificateRequest:
    """A request for exactly these names; `authorised` False leaves them to the CSR."""
    return CertificateRequest(
        profile=profile,
        requester=requester,
        csr=csr if csr is not None else csr_for(names),
        names=names if authorised else None,
        **more,
    )
