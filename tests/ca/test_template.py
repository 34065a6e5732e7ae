"""Templates: octet for octet what the library builds, another implementation of RFC 5280."""

import datetime as dt
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
from asn1crypto import parser as asn1crypto_parser
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.ca import template
from pkiserver.ca.issuer import Issuer, describe
from pkiserver.ca.policy import Decision
from pkiserver.ca.profiles import Profile, compile_profiles
from pkiserver.config import CRLSettings
from pkiserver.config_types import KeyKind
from pkiserver.pkix import names
from pkiserver.pkix.algorithms import describe as kind_of
from pkiserver.pkix.algorithms import signature_hash_for, spki_der, spki_sha256
from pkiserver.pkix.names import to_general_name
from tests.ca.test_lint import ca
from tests.ca.world import NOW, settings_of, subject

parser: Any = asn1crypto_parser  # without types

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


ISSUERS = [
    describe("issuing", [ca(key)], "http://pki.example", lists)
    for key, lists in (
        (KEYS[0], CRLSettings()),
        (KEYS[3], CRLSettings(shards=16, delta=dt.timedelta(hours=1))),
    )
]
SIGNED_WITH: dict[Issuer, Any] = dict(zip(ISSUERS, (KEYS[0], KEYS[3]), strict=True))
EVERY_KIND = compile_profiles(
    settings_of(
        Path("home"),
        {
            "rich": {**RICH, "key_kinds": [k for k in get_args(KeyKind) if k[:3] != "rsa"]},
            "plain": {**PLAIN, "key_kinds": ["ml-dsa-65", "ed448", "p521"]},
        },
    )
)
SUBJECTS = st.lists(
    st.sampled_from(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, "a device"),
            x509.NameAttribute(NameOID.COMMON_NAME, "printable", _ASN1Type.PrintableString),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Größe", _ASN1Type.BMPString),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "x" * 200),
            x509.NameAttribute(NameOID.COUNTRY_NAME, "DE"),
            x509.NameAttribute(NameOID.EMAIL_ADDRESS, "a@example.com"),
        ]
    ).map(lambda attribute: x509.RelativeDistinguishedName([attribute])),
    max_size=4,
).map(x509.Name)


@given(st.data())
@settings(max_examples=100)
def test_what_was_decided_is_built_as_the_library_would(data: st.DataObject) -> None:
    """Each extension as it is and as critical as it is, and every other field octet for octet. The
    order of the extensions, which means nothing, is our own."""
    profile = EVERY_KIND[data.draw(st.sampled_from(["rich", "plain"]))]
    issuer = data.draw(st.sampled_from(ISSUERS))
    kind = data.draw(st.sampled_from(sorted(profile.key_usages)))
    seconds = data.draw(st.integers(-631152000, 2840140800))  # 1950 to 2060
    start = dt.datetime.fromtimestamp(seconds, dt.UTC)
    decided = decision(
        template.throw_away_key(kind),
        names=tuple(sorted(data.draw(st.sets(st.sampled_from(EVERY_NAME))))),
        subject=data.draw(SUBJECTS),
        must_staple=data.draw(st.booleans()),
        not_before=start,
        not_after=start + dt.timedelta(seconds=data.draw(st.integers(0, 10**9))),
    )
    serial = 1 << 144 | int.from_bytes(data.draw(st.binary(min_size=18, max_size=19)))
    built = template.build(profile, issuer, decided, serial)
    expected = _by_the_book(profile, issuer, decided, serial)
    assert _fields(built.lint_certificate) == _fields(expected)


def _by_the_book(profile: Profile, issuer: Issuer, decided: Decision, serial: int) -> bytes:
    public = template.throw_away_key(decided.key_kind).public_key()
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    _, bits = _members(spki)
    identifier = hashlib.sha256(parser.parse(bits)[4][1:]).digest()[:20]  # RFC 7093 section 2
    ocsp = [issuer.ocsp] if profile.ocsp_url else []
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (issuer.authority_key_identifier, False),
        (x509.SubjectKeyIdentifier(identifier), False),
        (profile.key_usages[decided.key_kind], True),
        (x509.AuthorityInformationAccess([*ocsp, issuer.ca_issuers]), False),
    ]
    if decided.names:
        general = [to_general_name(name) for name in decided.names]
        extensions.append((x509.SubjectAlternativeName(general), not decided.subject.rdns))
    if profile.extended_key_usage:
        extensions.append((x509.ExtendedKeyUsage(profile.extended_key_usage), False))
    if profile.policies:
        policies = [x509.PolicyInformation(oid, None) for oid in profile.policies]
        extensions.append((x509.CertificatePolicies(policies), False))
    if profile.crl_url:
        extensions += issuer.lists.extensions(issuer.lists.scope(serial, ca=False))
    if decided.must_staple:
        extensions.append((x509.TLSFeature([x509.TLSFeatureType.status_request]), False))
    builder = (
        x509.CertificateBuilder()
        .issuer_name(issuer.certificate.subject)
        .subject_name(decided.subject)
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(decided.not_before)
        .not_valid_after(decided.not_after)
    )
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    key = SIGNED_WITH[issuer]
    return builder.sign(key, signature_hash_for(key)).public_bytes(Encoding.DER)


def _fields(certificate: bytes) -> tuple[list[bytes], list[bytes], bytes]:
    """Read by a third implementation; the extensions sorted."""
    tbs, algorithm, _ = _members(certificate)
    *others, extensions = _members(tbs)
    return others, sorted(_members(*_members(extensions))), algorithm


def _members(data: bytes) -> list[bytes]:
    found, contents = [], parser.parse(data, strict=True)[4]
    while contents:
        length = parser.peek(contents)
        found.append(contents[:length])
        contents = contents[length:]
    return found
