"""A section with Intune, the fake behind it, and devices that enrol."""

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AttributeOID, ObjectIdentifier

from pkiserver.pkix import csr as csr_codec
from protocols.scep.challenge_settings import IntuneSettings
from protocols.scep.enrolment import Enrolments
from protocols.scep.intune import IntuneValidator
from protocols.scep.intune_client import IntuneClient
from protocols.scep.intune_revocation import Revocations
from protocols.scep.outgoing import Outgoing
from protocols.scep.requests import Ask
from protocols.scep.secret import Secret
from protocols.scep.settings import SCEPSettings
from protocols.scep.store import Key
from tests.test_scep_challenges.intune_fake import (
    CLIENT_ID,
    CLIENT_SECRET,
    TENANT,
    Expected,
    FakeMicrosoft,
)
from tests.test_scep_challenges.world import World

CHALLENGE = "MIIP" + "q3J5cHRlZA" * 190  # as long as Intune's, which is beyond RFC 2985's 255
SETTINGS = IntuneSettings(tenant=TENANT, client_id=CLIENT_ID, client_secret_file="client-secret")


@dataclass
class IntuneSection:
    """`[scep.default]` with Intune, on services of one process."""

    world: World
    fake: FakeMicrosoft
    profile: str = "device"
    settings: IntuneSettings = SETTINGS
    make: type[IntuneValidator] = IntuneValidator
    client: IntuneClient = field(init=False)
    validator: IntuneValidator = field(init=False)
    enrolments: Enrolments = field(init=False)
    revocations: Revocations = field(init=False)

    def __post_init__(self) -> None:
        services = self.world.services
        path: Path = services.settings.home / "client-secret"
        path.write_text(f"{CLIENT_SECRET}\n", encoding="utf-8")
        path.chmod(0o600)
        self.client = IntuneClient(
            self.settings,
            Secret("scep.default.intune.client_secret", path.parent, path.name, ""),
            Outgoing(timeout=dt.timedelta(seconds=10), transport=self.fake.transport()),
            services.clock,
        )
        self.validator = self.make(services, "default", self.client)
        section = SCEPSettings(profile=self.profile, challenge="intune", intune=self.settings)
        self.enrolments = Enrolments("default", section, services, self.validator, patience=0.0)
        self.revocations = Revocations(services, "default", self.client)

    async def enrol(self, csr_der: bytes, transaction_id: str = "T-1") -> x509.Certificate:
        """What the device gets. Raises `PKIError`."""
        der = await self.enrolments.enrol(ask(csr_der, transaction_id))
        assert der is not None, "Intune's flow is synchronous: nothing is pending"
        return x509.load_der_x509_certificate(der)

    async def statuses(self) -> list[tuple[str, str, bool]]:
        """Per certificate: its status, Intune's, and whether it is revoked."""
        rows = await self.world.rows(
            "SELECT c.status, i.status, c.revoked_at FROM scep_intune i "
            "JOIN certificates c ON c.id = i.certificate ORDER BY i.transaction_id"
        )
        return [(status, intune, revoked is not None) for status, intune, revoked in rows]

    async def good_certificates(self) -> int:
        """How many anybody could rely on."""
        ((count,),) = await self.world.rows(
            "SELECT COUNT(*) FROM certificates "
            "WHERE requester LIKE 'scep:%' AND status = 'issued' AND revoked_at IS NULL"
        )
        return int(count)


def section(world: World, profile: str = "device", **expected: object) -> IntuneSection:
    """With one profile assigned to one device."""
    fake = FakeMicrosoft(world.clock.now)
    fake.profiles[CHALLENGE] = Expected(**expected)  # type: ignore[arg-type]
    return IntuneSection(world, fake, profile)


def ask(csr_der: bytes, transaction_id: str = "T-1") -> Ask:
    parsed = csr_codec.parse(csr_der)
    key = Key("default", transaction_id, parsed.spki_sha256, "", b"content")
    return Ask(key, parsed, b"signer", "192.0.2.7")


@cache
def rsa_key(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def device_csr(
    challenge: str | None = CHALLENGE,
    *,
    subject: str = "CN=device-1",
    alt_names: Iterable[x509.GeneralName] = (),
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | None = None,
    key_usage: Sequence[str] = (),
    extended_key_usage: Sequence[ObjectIdentifier] = (),
) -> bytes:
    """A PKCS #10 as devices under Intune make it."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name.from_rfc4514_string(subject, {"E": x509.NameOID.EMAIL_ADDRESS})
    )
    names = list(alt_names)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if key_usage:
        builder = builder.add_extension(_usage(key_usage), critical=True)
    if extended_key_usage:
        builder = builder.add_extension(x509.ExtendedKeyUsage(extended_key_usage), critical=False)
    if challenge is not None:
        builder = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, challenge.encode())
    request = builder.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return request.public_bytes(Encoding.DER)


def upn(name: str) -> x509.OtherName:
    encoded = name.encode()
    return x509.OtherName(
        ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), bytes([0x0C, len(encoded)]) + encoded
    )


def _usage(names: Sequence[str]) -> x509.KeyUsage:
    every = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
        "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: name in names for name in every})
