"""Lint: templates of all shipped profiles are clean, and planted mistakes are found."""

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pkiserver.ca import lint
from pkiserver.ca.issuer import describe
from pkiserver.ca.lint import Severity
from pkiserver.ca.profiles import key_usage
from pkiserver.ca.samples import lint_profiles
from pkiserver.pkix.algorithms import key_identifier
from tests.ca.world import NOW, new_key, settings_of, subject

KEY = new_key()
LEAF = new_key()


def ca(key: Any = KEY, name: x509.Name | None = None) -> x509.Certificate:
    name = name or subject("CA")
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .serial_number(7)
        .public_key(key.public_key())
        .not_valid_before(NOW - dt.timedelta(days=365))
        .not_valid_after(NOW + dt.timedelta(days=36500))
        .add_extension(x509.BasicConstraints(True, None), True)
        .add_extension(x509.SubjectKeyIdentifier(b"skid"), False)
        .sign(key, hashes.SHA256())
    )


ISSUER = describe("issuing", [ca()], "http://pki.example")
Builder = x509.CertificateBuilder
SERVER_AUTH = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
NAMES = x509.SubjectAlternativeName([x509.DNSName("www.example.com")])


def build(
    *,
    issuer: x509.Name | None = None,
    name: x509.Name | None = None,
    serial: int = 1 << 130,
    start: dt.datetime = NOW,
    end: dt.datetime = NOW + dt.timedelta(days=1),
    extensions: dict[str, tuple[x509.ExtensionType, bool] | None] | None = None,
) -> bytes:
    """A certificate that is fine, but for what is said."""
    access = x509.AccessDescription(
        AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier("http://pki.example/")
    )
    values: dict[str, tuple[x509.ExtensionType, bool] | None] = {
        "aki": (ISSUER.authority_key_identifier, False),
        "ski": (x509.SubjectKeyIdentifier(key_identifier(LEAF.public_key())), False),
        "ku": (key_usage(frozenset({"digitalSignature"})), True),
        "eku": (SERVER_AUTH, False),
        "san": (NAMES, True),
        "aia": (x509.AuthorityInformationAccess([access]), False),
        **(extensions or {}),
    }
    builder = (
        Builder()
        .issuer_name(issuer or subject("CA"))
        .subject_name(name or x509.Name([]))
        .serial_number(serial)
        .public_key(LEAF.public_key())
        .not_valid_before(start)
        .not_valid_after(end)
    )
    for value in values.values():
        if value is not None:
            builder = builder.add_extension(*value)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(Encoding.DER)


def typed(tag: Any, oid: x509.ObjectIdentifier = NameOID.COMMON_NAME) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, "x", _type=tag)])


def test_a_sound_certificate_is_clean() -> None:
    assert lint.fast(build(), ISSUER) == []


URL = x509.UniformResourceIdentifier("https://pki.example/x.crl")
CDP = x509.CRLDistributionPoints([x509.DistributionPoint([URL], None, None, None)])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: build(serial=1 << 100), "serial"),
        (lambda: build(issuer=subject("Another CA")), "issuer"),
        (lambda: build(issuer=x509.Name([x509.NameAttribute(
            NameOID.COMMON_NAME, "CA", _type=_ASN1Type.PrintableString)])), "octet for octet"),
        (lambda: build(start=NOW - dt.timedelta(days=400)), "validity"),
        (lambda: build(end=NOW + dt.timedelta(days=40000)), "validity"),
        (lambda: build(name=typed(_ASN1Type.T61String)), "string type"),
        (lambda: build(extensions={"bc": (x509.BasicConstraints(True, None), True)}), "CA"),
        (lambda: build(extensions={"ku": None}), "keyUsage"),
        (lambda: build(extensions={"ku": (key_usage(frozenset({"digitalSignature"})), False)}),
         "keyUsage"),
        (lambda: build(extensions={"ku": (key_usage(frozenset({"keyEncipherment"})), True)}),
         "keyEncipherment"),
        (lambda: build(extensions={"eku": (x509.ExtendedKeyUsage(
            [ExtendedKeyUsageOID.OCSP_SIGNING]), False)}), "OCSPSigning"),
        (lambda: build(extensions={"san": None}), "neither a subject"),
        (lambda: build(extensions={"san": (NAMES, False)}), "critical"),
        (lambda: build(name=subject("x"), extensions={"san": (NAMES, True)}), "critical"),
        (lambda: build(name=subject("mail.example.com"), extensions={"san": (NAMES, False)}),
         "common name"),
        (lambda: build(extensions={"san": (x509.SubjectAlternativeName(
            [*NAMES, *NAMES]), True)}), "twice"),
        (lambda: build(extensions={"san": (x509.SubjectAlternativeName(
            [x509.RegisteredID(NameOID.COMMON_NAME)]), True)}), "never issued"),
        (lambda: build(extensions={"aki": (x509.AuthorityKeyIdentifier(
            b"other", None, None), False)}), "authorityKeyIdentifier"),
        (lambda: build(extensions={"ski": None}), "subjectKeyIdentifier"),
        (lambda: build(extensions={"cdp": (CDP, False)}), "http"),
        (lambda: build()[:-1], "DER"),
    ],
)  # fmt: skip
def test_planted_mistakes_are_found(make: Callable[[], bytes], says: str) -> None:
    findings = lint.fast(make(), ISSUER)
    assert any(says in finding for finding in findings), findings


def test_an_extension_that_occurs_twice_is_found() -> None:
    """RFC 5280 section 4.2. The library does not build it, so one OID is overwritten."""
    data = build(extensions={"cdp": (CDP, False)})
    twice = data.replace(bytes.fromhex("0603551d1f"), bytes.fromhex("0603551d25"))
    assert twice != data
    assert lint.fast(twice, ISSUER)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 500), st.integers(0, 255))
@example(15, 128)  # a negative serial number
def test_lint_of_any_bytes_finds_or_passes_but_never_fails(place: int, octet: int) -> None:
    data = bytearray(build())
    data[place % len(data)] = octet
    assert isinstance(lint.fast(bytes(data), ISSUER), list)


class Path1:
    """One authority."""

    def __init__(self, *path: x509.Certificate) -> None:
        self._path = path

    def current(self, name: str) -> str:
        return name

    def path(self, name: str) -> tuple[x509.Certificate, ...]:
        return self._path


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()])
def test_pkilint_has_nothing_against_any_shipped_profile(curve: ec.EllipticCurve) -> None:
    paths = Path1(ca(ec.generate_private_key(curve)))
    findings = lint_profiles(settings_of(Path("home")), paths, NOW)
    assert [f for f in findings if f.finding.severity <= Severity.WARNING] == []


def test_pkilint_is_a_second_opinion() -> None:
    without = build(extensions={"aki": None})
    assert any(
        finding.is_error and "authority_key_identifier" in finding.code
        for finding in lint.full(without)
    )
    assert lint.full(b"nonsense")[0].severity is Severity.FATAL


def test_a_profile_that_cannot_issue_is_found() -> None:
    limited = (
        x509.CertificateBuilder()
        .subject_name(subject("CA"))
        .issuer_name(subject("CA"))
        .serial_number(7)
        .public_key(KEY.public_key())
        .not_valid_before(NOW - dt.timedelta(days=1))
        .not_valid_after(NOW + dt.timedelta(days=1))
        .add_extension(SERVER_AUTH, False)
        .sign(KEY, hashes.SHA256())
    )
    findings = lint_profiles(settings_of(Path("home")), Path1(limited), NOW)
    assert {f.profile for f in findings if f.finding.is_error} >= {"tls-client", "smime"}
    assert "tls-server" not in {f.profile for f in findings if f.finding.is_error}


def test_hosts_without_a_dot_are_no_finding() -> None:
    """RFC 3986: `http://localhost:8080/` is a URI; pkilint wants a dot in the host."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    key = ec.generate_private_key(ec.SECP256R1())
    url = x509.UniformResourceIdentifier("http://localhost:8080/crl/issuing.crl")
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1 << 140)
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.CRLDistributionPoints([x509.DistributionPoint([url], None, None, None)]), False
        )
        .sign(key, hashes.SHA256())
    )
    codes = {finding.code for finding in lint.full(certificate.public_bytes(Encoding.DER))}
    assert codes
    assert "pkix.invalid_uri_syntax" not in codes
