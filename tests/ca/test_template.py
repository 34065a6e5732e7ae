"""Templates: octet for octet what the library builds, another implementation of RFC 5280."""

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from pkiserver.ca import template
from pkiserver.ca.issuer import Issuer, describe
from pkiserver.ca.policy import Decision
from pkiserver.ca.profiles import Profile, compile_profiles
from pkiserver.config import CRLSettings
from pkiserver.pkix import names
from pkiserver.pkix.algorithms import describe as kind_of
from pkiserver.pkix.algorithms import signature_hash_for, spki_der, spki_sha256
from tests.ca.test_lint import ca
from tests.ca.world import NOW, settings_of, subject

KEYS = [
    ec.generate_private_key(ec.SECP256R1()),
    ec.generate_private_key(ec.SECP384R1()),
    ed25519.Ed25519PrivateKey.generate(),
    rsa.generate_private_key(65537, 2048),
]
EVERY_NAME = (
    names.dns_name("*.example.com"),
    names.dns_name("www.example.com"),
    names.ip_address("2001:db8::1"),
    names.email("a@example.com"),
    names.uri("urn:uuid:1"),
    names.upn("ü@example.com"),
)
RICH: Mapping[str, Any] = {
    "issuer": "issuing",
    "validity": "90d",
    "extended_key_usage": ["serverAuth", "1.2.3.4"],
    "policies": ["2.23.140.1.2.1", "1.2.3.5"],
    "key_usage": ["digitalSignature", "keyEncipherment", "keyAgreement"],
}
PLAIN = {"issuer": "issuing", "validity": "90d", "crl_url": False, "ocsp_url": False}
PROFILES = compile_profiles(settings_of(Path("home"), {"rich": RICH, "plain": PLAIN}))


def decision(key: Any, **changes: Any) -> Decision:
    public = key.public_key()
    values: dict[str, Any] = {
        "spki": spki_der(public),
        "spki_sha256": spki_sha256(public),
        "key_kind": kind_of(public),
        "names": EVERY_NAME,
        "subject": subject("a device"),
        "must_staple": False,
        "not_before": NOW.replace(microsecond=0),
        "not_after": NOW.replace(microsecond=0) + dt.timedelta(days=90),
        **changes,
    }
    return Decision(**values)


def by_the_library(data: bytes, key: Any) -> bytes:
    """The same certificate, read and built anew."""
    read = x509.load_der_x509_certificate(data)
    builder = x509.CertificateBuilder(
        issuer_name=read.issuer,
        subject_name=read.subject,
        public_key=read.public_key(),
        serial_number=read.serial_number,
        not_valid_before=read.not_valid_before_utc,
        not_valid_after=read.not_valid_after_utc,
        extensions=list(read.extensions),
    )
    return builder.sign(key, signature_hash_for(key)).tbs_certificate_bytes


@pytest.mark.parametrize("key", KEYS, ids=lambda key: kind_of(key.public_key()))
@pytest.mark.parametrize("profile", [PROFILES["rich"], PROFILES["plain"]], ids=lambda p: p.name)
def test_the_library_builds_the_same(profile: Profile, key: Any) -> None:
    issuer = describe("issuing", [ca()], "http://pki.example")
    _assert_same(profile, issuer, decision(key))


@pytest.mark.parametrize("key", [KEYS[1], KEYS[3]], ids=["p384", "rsa"])
def test_whatever_kind_of_key_signs(key: Any) -> None:
    issuer = describe("issuing", [ca(key)], "http://pki.example")
    built = template.build(PROFILES["rich"], issuer, decision(KEYS[0]), 1 << 130)
    assert by_the_library(built.lint_certificate, key) == built.tbs


@pytest.mark.parametrize(
    "changes",
    [
        {"subject": x509.Name([])},
        {"names": ()},
        {"must_staple": True},
        {"not_after": dt.datetime(2050, 1, 1, tzinfo=dt.UTC)},
        {"not_before": dt.datetime(2049, 12, 31, 23, 59, 59, tzinfo=dt.UTC),
         "not_after": dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)},
        {"not_before": dt.datetime(2026, 1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=2)))},
    ],
)  # fmt: skip
def test_whatever_was_decided(changes: dict[str, Any]) -> None:
    issuer = describe("issuing", [ca()], "http://pki.example")
    _assert_same(PROFILES["rich"], issuer, decision(KEYS[0], **changes))


@pytest.mark.parametrize("serial", [1 << 130, (1 << 136) - 1, 0x81 << 128])
def test_each_certificate_names_its_own_lists(serial: int) -> None:
    """What is kept of one certificate for the next does not get into the wrong one."""
    lists = CRLSettings(shards=16, delta=dt.timedelta(hours=1))
    profile = PROFILES["rich"]
    issuer = describe("issuing", [ca()], "http://pki.example", lists)
    other = describe("other", [ca(name=subject("Other"))], "http://other.example", lists)
    for each in (issuer, other, issuer):
        built = _assert_same(profile, each, decision(KEYS[0]), serial)
        found = {e.oid: e.value for e in x509.load_der_x509_certificate(built).extensions}
        scope = each.lists.scope(serial, ca=False)
        for value, _ in each.lists.extensions(scope):
            assert found[value.oid] == value
        assert found[x509.AuthorityInformationAccess.oid] == x509.AuthorityInformationAccess(
            [each.ocsp, each.ca_issuers]
        )


def _assert_same(
    profile: Profile, issuer: Issuer, decided: Decision, serial: int = 1 << 130
) -> bytes:
    built = template.build(profile, issuer, decided, serial)
    assert by_the_library(built.lint_certificate, KEYS[0]) == built.tbs
    read = x509.load_der_x509_certificate(built.lint_certificate)
    assert read.serial_number == serial
    assert read.subject == decided.subject
    assert (read.not_valid_before_utc, read.not_valid_after_utc) == (
        decided.not_before, decided.not_after,
    )  # fmt: skip
    return built.lint_certificate
