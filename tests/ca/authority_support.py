"""Authorities on a real database and key files, and CAs outside them that do as they like."""

import datetime as dt
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from pkiserver.ca.audit import Audit, verify
from pkiserver.ca.authorities import Authorities, subject_name
from pkiserver.ca.ca_certificate import Wish
from pkiserver.ca.model import Authority
from pkiserver.clock import FixedClock
from pkiserver.config import CoreSettings, ServerSettings
from pkiserver.keys import FileKeyProvider, PrivateKey
from pkiserver.pkix.algorithms import key_identifier, signature_hash_for
from pkiserver.storage import Database, Row, migrate, open_database

NOW = dt.datetime(2026, 3, 1, 12, 0, 0, 400_000, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
ACTOR = "test:tester"
HTTP_BASE = "http://pki.example.com"


@dataclass(frozen=True)
class World:
    """The authorities of one process, and what is behind them."""

    home: Path
    settings: CoreSettings
    database: Database
    clock: FixedClock
    keys: FileKeyProvider
    audit: Audit
    authorities: Authorities

    async def another_process(self) -> Authorities:
        keys = FileKeyProvider(self.home / "keys", b"passphrase")
        other = Authorities(self.database, self.clock, keys, self.audit, self.settings)
        await other.load()
        return other

    async def root(self, name: str = "root", **changes: object) -> Authority:
        wanted = wish(f"Example {name}", 7300, **changes)
        return await self.authorities.create_root(name, wanted, "p256", actor=ACTOR)

    async def child(self, name: str, parent: str = "root", **changes: object) -> Authority:
        wanted = wish(f"Example {name}", 1825, **changes)
        return await self.authorities.create(name, parent, wanted, "p256", actor=ACTOR)

    async def all(self, sql: str, *params: str) -> list[Row]:
        return await self.database.read(lambda reader: reader.all(sql, params))

    async def actions(self) -> list[tuple[str, str, str]]:
        """(action, object, outcome) of every row of the audit log, which has to verify."""
        assert (await self.database.read(verify)).broken is None
        rows = await self.all("SELECT action, object, outcome FROM audit ORDER BY sequence")
        return [(action, what, outcome) for action, what, outcome in rows]

    def key_files(self) -> set[str]:
        return {path.stem for path in (self.home / "keys").glob("*.key")}


def wish(common_name: str, days: int, **changes: object) -> Wish:
    wanted = Wish(subject_name(f"CN={common_name},O=Example,C=CH"), days * DAY)
    return replace(wanted, **changes)  # type: ignore[arg-type]


@asynccontextmanager
async def open_world(home: Path) -> AsyncIterator[World]:
    settings = CoreSettings(home=home, server=ServerSettings(external_http_url=HTTP_BASE))
    (home / "keys").mkdir(mode=0o700)
    database = open_database(settings.storage.url, home)
    await migrate(database, {})
    clock = FixedClock(NOW)
    keys = FileKeyProvider(home / "keys", b"passphrase")
    audit = Audit(clock)
    authorities = Authorities(database, clock, keys, audit, settings)
    await authorities.load()
    try:
        yield World(home, settings, database, clock, keys, audit, authorities)
    finally:
        await database.close()


@dataclass(frozen=True)
class OutsideCA:
    """A CA that is not ours. `path`: its certificate and those above it."""

    key: PrivateKey
    path: tuple[x509.Certificate, ...]

    @property
    def certificate(self) -> x509.Certificate:
        return self.path[0]


@dataclass(frozen=True)
class Says:
    """What a certificate says; each test changes one thing."""

    ca: bool | None = True
    path_length: int | None = None
    cert_sign: bool | None = True
    crl_sign: bool = True
    start: dt.datetime = NOW - DAY
    end: dt.datetime = NOW + 365 * DAY
    extra: Sequence[tuple[x509.ExtensionType, bool]] = field(default=())


SOUND = Says()


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def certify(
    subject: x509.Name,
    public_key: CertificatePublicKeyTypes,
    issuer: x509.Name,
    key: PrivateKey,
    says: Says = SOUND,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(says.start)
        .not_valid_after(says.end)
    )
    identifier = x509.SubjectKeyIdentifier(key_identifier(public_key))
    extensions: list[tuple[x509.ExtensionType, bool]] = [(identifier, False), *says.extra]
    if says.ca is not None:
        extensions.append((x509.BasicConstraints(says.ca, says.path_length), True))
    if says.cert_sign is not None:
        extensions.append((_usage(says), True))
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    return builder.sign(key, signature_hash_for(key))


def _usage(says: Says) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=bool(says.cert_sign),
        crl_sign=says.crl_sign, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def outside_root(name: str = "Outside Root", says: Says = SOUND) -> OutsideCA:
    key = new_key()
    subject = subject_name(f"CN={name}")
    return OutsideCA(key, (certify(subject, key.public_key(), subject, key, says),))


def below(
    ca: OutsideCA,
    name: str = "Outside Sub",
    says: Says = SOUND,
    key: PrivateKey | None = None,
) -> OutsideCA:
    key = key or new_key()
    subject = subject_name(f"CN={name}")
    made = certify(subject, key.public_key(), ca.certificate.subject, ca.key, says)
    return OutsideCA(key, (made, *ca.path))
