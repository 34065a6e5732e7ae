"""The scenarios Microsoft asks of a certification authority for Intune, as its TestMatrix.csv lists
them, told in our own words: a SCEP profile, what the device sends, what the certificate shows. The
failures of the matrix are in test_intune.py, under their names."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage
from cryptography.x509.oid import ObjectIdentifier

from pkiserver.errors import ErrorCode, PKIError
from tests.test_scep_challenges.intune_fake import Expected
from tests.test_scep_challenges.intune_world import (
    CHALLENGE,
    IntuneSection,
    device_csr,
    rsa_key,
    section,
    upn,
)
from tests.test_scep_challenges.world import World

DEVICE_ID = "7b1f0c5e-3b1d-4a56-9f5e-2f5b8f0b8f11"
SID = "tag:microsoft.com,2022-09-14:sid:S-1-5-21-1004336348-1177238915-682003330-512"
IPSEC_TUNNEL = ObjectIdentifier("1.3.6.1.5.5.7.3.6")


@dataclass(frozen=True)
class Scenario:
    """What the device asks for; Intune expects exactly that, and the certificate shows it."""

    name: str
    subject: str
    alt_names: Sequence[x509.GeneralName] = ()
    key_usage: Sequence[str] = ("digital_signature", "key_encipherment")
    extended_key_usage: Sequence[ObjectIdentifier] = (Usage.CLIENT_AUTH,)
    profile: str = "device"
    shown: Mapping[str, Any] = field(default_factory=dict)


SCENARIOS = [
    Scenario("SN Format: Common Name", "CN=Ada Lovelace"),
    Scenario("SN Format: Common Name with email", "CN=Ada,E=ada@contoso.example", profile="whole"),
    Scenario(
        "SN Format: Custom",
        "CN=Ada,E=ada@contoso.example,OU=Mobile,O=Finance,L=Redmond,ST=Washington,C=US",
        profile="whole",
    ),
    Scenario("SN Format: Common name as email", "CN=ada@contoso.example"),
    Scenario("SN Format: IMEI", "CN=490154203237518"),
    Scenario("SN Format: Serial number", "CN=C02XK0AAJG5H"),
    Scenario("SN Format: device id", f"CN={DEVICE_ID}"),
    Scenario("SAN: Email", "CN=Ada", [x509.RFC822Name("ada@contoso.example")]),
    Scenario("SAN: UPN", "CN=Ada", [upn("ada@contoso.example")]),
    Scenario(
        "SAN: Email and UPN", "CN=Ada",
        [x509.RFC822Name("ada@contoso.example"), upn("ada@contoso.example")],
    ),
    Scenario(
        "SAN: SID for strong mapping (KB5014754)", "CN=Ada",
        [upn("ada@contoso.example"), x509.UniformResourceIdentifier(SID)],
    ),
    Scenario("SAN: DNS", "CN=laptop-1", [x509.DNSName("laptop-1.contoso.example")]),
    Scenario("Key Usage: Digital signature", "CN=Ada", key_usage=("digital_signature",),
             profile="signing"),
    Scenario("Key Usage: Key encipherment", "CN=Ada", key_usage=("key_encipherment",),
             profile="encipherment"),
    Scenario("Key Usage: Digital signature and Key encipherment", "CN=Ada"),
    Scenario("Extended Key Usage: Client Authentication", "CN=Ada", profile="signing",
             key_usage=("digital_signature",)),
    Scenario("Extended Key Usage: Ipsec Tunnel", "CN=Ada", profile="tunnel",
             extended_key_usage=(IPSEC_TUNNEL,), key_usage=("digital_signature",)),
    Scenario("Validation Period Configuration", "CN=Ada", profile="short",
             shown={"days": 6}),
]  # fmt: skip


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_the_certificate_shows_what_intune_expects(world: World, scenario: Scenario) -> None:
    intune = section(world, scenario.profile)
    intune.fake.profiles[CHALLENGE] = Expected(
        subject=_name(scenario.subject),
        alt_names=frozenset(_texts(scenario.alt_names)),
        key_usage=frozenset(scenario.key_usage),
        extended_key_usage=frozenset(oid.dotted_string for oid in scenario.extended_key_usage),
        key_size=2048,
    )
    certificate = await intune.enrol(
        device_csr(
            subject=scenario.subject,
            alt_names=scenario.alt_names,
            key=rsa_key(2048),
            key_usage=scenario.key_usage,
            extended_key_usage=scenario.extended_key_usage,
        )
    )
    assert intune.fake.wrong == []
    assert certificate.subject.rfc4514_string() == _name(scenario.subject)
    shown = {type(value): value for value in (each.value for each in certificate.extensions)}
    if scenario.alt_names:
        names = shown[x509.SubjectAlternativeName]
        assert isinstance(names, x509.SubjectAlternativeName)
        assert set(_texts(list(names))) == set(_texts(scenario.alt_names))
    usage = shown[x509.KeyUsage]
    assert isinstance(usage, x509.KeyUsage)
    assert (usage.digital_signature, usage.key_encipherment) == (
        "digital_signature" in scenario.key_usage,
        "key_encipherment" in scenario.key_usage,
    )
    usages = shown[x509.ExtendedKeyUsage]
    assert isinstance(usages, x509.ExtendedKeyUsage)
    assert set(scenario.extended_key_usage) <= set(usages)
    if "days" in scenario.shown:
        life = certificate.not_valid_after_utc - world.clock.now()
        assert abs(life - dt.timedelta(days=scenario.shown["days"])) < dt.timedelta(minutes=10)


async def test_key_size_1024_is_refused_and_intune_is_told(world: World) -> None:
    """TestMatrix "Key Size: 1024": RFC 8894 leaves it to policy; we certify 2048 bits or more."""
    intune = section(world, key_size=1024)
    with pytest.raises(PKIError) as caught:
        await intune.enrol(device_csr(key=rsa_key(1024)))
    assert caught.value.code is ErrorCode.BAD_PUBLIC_KEY
    assert intune.fake.failures["T-1"]["hResult"] == 0x80094811 - (1 << 32)
    assert await intune.good_certificates() == 0


@pytest.mark.parametrize(
    ("expected", "code"),
    [
        ({"subject": "CN=other"}, "SubjectNameMismatch"),
        ({"alt_names": frozenset({"x@y.example"})}, "SubjectAltNameMissing"),
        ({"key_size": 4096}, "KeyLengthMismatch"),
        ({"key_usage": frozenset({"digital_signature"})}, "KeyUsageMismatch"),
        ({"extended_key_usage": frozenset({"1.3.6.1.5.5.7.3.2"})}, "EnhancedKeyUsageMissing"),
    ],
)
async def test_a_request_that_is_not_of_the_profile(
    world: World, expected: dict[str, Any], code: str
) -> None:
    """TestMatrix "Challenge Authentication Failure"."""
    intune: IntuneSection = section(world, **expected)
    with pytest.raises(PKIError) as caught:
        await intune.enrol(device_csr(key=rsa_key(2048)))
    assert caught.value.detail == f"Intune refused: {code}"
    assert await intune.good_certificates() == 0


def _name(text: str) -> str:
    return x509.Name.from_rfc4514_string(text, {"E": x509.NameOID.EMAIL_ADDRESS}).rfc4514_string()


def _texts(names: Sequence[x509.GeneralName]) -> list[str]:
    return [
        f"upn:{name.value[2:].decode()}" if isinstance(name, x509.OtherName) else str(name.value)
        for name in names
    ]
