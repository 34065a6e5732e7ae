"""Renewals: subject and names of the certificate that is renewed, byte for byte (EST checklist E20,
SCEP S28), within the profile's rules. And requests signed over SHA-1."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from pkiserver.ca.model import CertificateRequest, Reason
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix import cert
from pkiserver.pkix.names import AltName, dns_name, upn
from tests.ca.world import ALICE, World, csr_for, open_world, request, settings_of

NAMES = [dns_name("device1.example.com"), upn("device1@example.com")]
PROFILES: dict[str, Any] = {
    "device": {"subject": "CN={cn},O=Example Corp,C=CH"},
    "hosts": {"extended_key_usage": ["serverAuth"], "dns": {"allow": ["*"]}, "subject": "CN={cn}",
              "require_name": False},
}  # fmt: skip


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path, profiles=PROFILES) as world:
        yield world


async def old_one(world: World, common_name: str = "device 1") -> x509.Certificate:
    csr = csr_for(NAMES, common_name=common_name)
    issued = await world.issue(*NAMES, profile="device", csr=csr, subject_cn=common_name)
    return issued.certificate


def renewal(old: x509.Certificate, csr: bytes, profile: str = "device") -> CertificateRequest:
    return CertificateRequest(profile=profile, requester=ALICE, csr=csr, renewal_of=old)


def san(certificate: x509.Certificate) -> bytes:
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return extension.value.public_bytes()


async def refused(awaitable: Any, code: ErrorCode, words: str = "") -> None:
    with pytest.raises(PKIError) as caught:
        await awaitable
    assert caught.value.code is code, caught.value.detail
    assert words in caught.value.detail


@pytest.mark.parametrize("san_in_csr", [True, False])
@pytest.mark.parametrize("cn_in_csr", [True, False])
async def test_the_old_subject_and_names(world: World, san_in_csr: bool, cn_in_csr: bool) -> None:
    old = await old_one(world)
    csr = csr_for(NAMES if san_in_csr else [], common_name="device 1" if cn_in_csr else None)
    issued = await world.issuance.issue(await world.issuance.prepare(renewal(old, csr)))
    new = issued.certificate
    assert new.subject.public_bytes() == old.subject.public_bytes()
    assert san(new) == san(old)
    assert new.public_key() != old.public_key() and new.serial_number != old.serial_number


async def test_whatever_the_template_says_now(world: World) -> None:
    """The subject's string types too: a country is a PrintableString."""
    old = await old_one(world)
    changed = {**PROFILES, "device": {"subject": "CN={dns},O=Renamed"}}
    issuance = world.another_issuance(settings=settings_of(world.settings.home, changed))
    issued = await issuance.issue(await issuance.prepare(renewal(old, csr_for(NAMES))))
    assert issued.certificate.subject.public_bytes() == old.subject.public_bytes()


@pytest.mark.parametrize(
    "csr",
    [
        csr_for([*NAMES, dns_name("other.example.com")]),
        csr_for([dns_name("other.example.com")]),
        csr_for(NAMES, common_name="device 2"),
        csr_for(NAMES, common_name="other.example.com"),
    ],
    ids=["one more", "another", "another common name", "a host as common name"],
)
async def test_nothing_is_added(world: World, csr: bytes) -> None:
    await refused(world.issuance.prepare(renewal(await old_one(world), csr)), ErrorCode.BAD_CSR)


async def test_the_rules_of_the_profile_hold(world: World) -> None:
    old = await old_one(world)
    changed = {"device": {**PROFILES["device"], "dns": {"allow": ["*.example.org"]}}}
    issuance = world.another_issuance(settings=settings_of(world.settings.home, changed))
    await refused(issuance.prepare(renewal(old, csr_for(NAMES))), ErrorCode.REFUSED_NAME, "device1")


async def test_a_common_name_does_not_become_a_host(world: World) -> None:
    """It was certified for a client, where no rule for DNS names applies to it; under a profile
    for TLS servers it would be a server's name."""
    clients = {"subject": "CN={cn}", "extended_key_usage": ["clientAuth"], "require_name": False}
    hosts = {**PROFILES["hosts"], "dns": {"allow": ["*.example.com"]}}
    settings = settings_of(world.settings.home, {"clients": clients, "hosts": hosts})
    issuance = world.another_issuance(settings=settings)
    csr = csr_for(common_name="www.bank.example")
    wanted = request(profile="clients", csr=csr, subject_cn="www.bank.example")
    old = (await issuance.issue(await issuance.prepare(wanted))).certificate
    await refused(
        issuance.prepare(renewal(old, csr, "hosts")), ErrorCode.BAD_CSR, "www.bank.example"
    )


async def test_a_revoked_one_is_not_renewed(world: World) -> None:
    old = await old_one(world)
    await world.revocation.revoke("issuing", old.serial_number, Reason.SUPERSEDED, actor=ALICE)
    await refused(
        world.issuance.prepare(renewal(old, csr_for(NAMES))), ErrorCode.UNAUTHORIZED, "revoked"
    )


async def test_somebody_elses_is_not_renewed(world: World, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    async with open_world(tmp_path / "other", profiles=PROFILES) as other:
        foreign = await old_one(other)
    await refused(world.issuance.prepare(renewal(foreign, csr_for(NAMES))), ErrorCode.UNAUTHORIZED)


def sha1_csr(names: list[AltName]) -> bytes:
    """The library signs nothing over SHA-1, so the parts of a good request are put together."""
    key = rsa.generate_private_key(65537, 2048)
    good = x509.load_der_x509_csr(csr_for(names, common_name="old device", key=key))
    algorithm = bytes.fromhex("300d06092a864886f70d0101050500")
    signature = key.sign(good.tbs_certrequest_bytes, padding.PKCS1v15(), hashes.SHA1())
    return cert.assemble(good.tbs_certrequest_bytes, algorithm, signature)


async def test_a_request_over_sha1_by_permission_only(world: World) -> None:
    """SCEP S31: devices that know nothing better."""
    csr = sha1_csr(NAMES)
    await refused(
        world.issuance.prepare(request(*NAMES, profile="device", csr=csr, subject_cn="old device")),
        ErrorCode.BAD_CSR,
        "sha1",
    )
    wanted = request(
        *NAMES, profile="device", csr=csr, subject_cn="old device", allow_legacy_hash=True
    )
    issued = await world.issuance.issue(await world.issuance.prepare(wanted))
    certified = issued.certificate.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    assert certified in csr
    (country,) = issued.certificate.subject.get_attributes_for_oid(NameOID.COUNTRY_NAME)
    assert country.value == "CH"
