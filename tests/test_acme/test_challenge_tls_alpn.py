"""tls-alpn-01, RFC 8737 and RFC 8738 section 6: the dialogue and the certificate."""

import hashlib
import ipaddress
from dataclasses import replace

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.acme.challenges.model import (
    ALPNAnswer,
    ChallengeType,
    FailureKind,
    ProbeALPN,
    ValidationFailed,
)
from protocols.acme.challenges.tls_alpn import ACME_TLS_1, check_certificate, tls_alpn01
from tests.test_acme.challenge_support import (
    CONTEXT,
    IP_CONTEXT,
    KEY_AUTHORIZATION,
    REACHED,
    ALPNCertificate,
    play,
)

DIGEST = hashlib.sha256(KEY_AUTHORIZATION.encode()).digest()
GOOD = ALPNCertificate(DIGEST)
GOOD_DER = GOOD.der()


def shown(certificate: bytes | None, protocol: str | None = ACME_TLS_1) -> ALPNAnswer:
    return ALPNAnswer(REACHED, protocol, certificate)


def test_rfc_8737_section_3() -> None:
    proof, requests = play(tls_alpn01(CONTEXT), shown(GOOD_DER))
    assert requests == [ProbeALPN("www.example.test", 443, "www.example.test", "acme-tls/1")]
    assert proof.challenge_type is ChallengeType.TLS_ALPN_01
    assert proof.records[0].address_used == "192.0.2.1"


@pytest.mark.parametrize(
    ("address", "server_name"),
    [
        ("192.0.2.7", "7.2.0.192.in-addr.arpa"),
        (
            "2001:db8::7",
            "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa",
        ),
    ],
)
def test_rfc_8738_section_6_server_name_of_an_address(address: str, server_name: str) -> None:
    context = replace(IP_CONTEXT, identifier_value=address, tls_alpn01_port=5001)
    certificate = replace(GOOD, names=(x509.IPAddress(ipaddress.ip_address(address)),))
    _, requests = play(tls_alpn01(context), shown(certificate.der()))
    assert requests == [ProbeALPN(address, 5001, server_name, "acme-tls/1")]


@pytest.mark.parametrize("protocol", [None, "h2", "http/1.1"])
def test_section_3_the_protocol_has_to_be_negotiated(protocol: str | None) -> None:
    with pytest.raises(ValidationFailed) as caught:
        play(tls_alpn01(CONTEXT), shown(GOOD_DER, protocol))
    assert caught.value.kind is FailureKind.TLS


@pytest.mark.parametrize(
    ("certificate", "words"),
    [
        (None, "is missing"),
        (b"", "cannot be read"),
        (GOOD_DER[:-1], "cannot be read"),
        (GOOD_DER + b"\x00", "cannot be read"),
        (replace(GOOD, self_signed=False).der(), "not self-signed"),
        (replace(GOOD, with_names=False).der(), "no subjectAltName"),
        (replace(GOOD, names=()).der(), "0 names"),
        (replace(GOOD, names=[*GOOD.names, x509.DNSName("b.test")]).der(), "2 names"),
        (replace(GOOD, names=[x509.DNSName("*.example.test")]).der(), "not for"),
        (replace(GOOD, names=[x509.DNSName("example.test")]).der(), "not for"),
        (replace(GOOD, names=[x509.RFC822Name("a@www.example.test")]).der(), "not for"),
        (replace(GOOD, with_digest=False).der(), "no acmeIdentifier"),
        (replace(GOOD, critical=False).der(), "not critical"),
        (replace(GOOD, extension=DIGEST).der(), "not the digest"),
        (replace(GOOD, extension=b"\x04\x21" + DIGEST + b"\x00").der(), "not the digest"),
        (replace(GOOD, extension=b"\x04\x20" + DIGEST + b"\x00").der(), "not the digest"),
        (replace(GOOD, extension=b"\x04\x81\x20" + DIGEST).der(), "not the digest"),
        (ALPNCertificate(hashlib.sha256(b"other").digest()).der(), "not the digest"),
    ],
)
def test_section_3_certificates_refused(certificate: bytes | None, words: str) -> None:
    with pytest.raises(ValidationFailed, match=words) as caught:
        play(tls_alpn01(CONTEXT), shown(certificate))
    assert caught.value.kind is FailureKind.INCORRECT_RESPONSE


def test_names_of_the_other_kind_do_not_match() -> None:
    as_text = replace(GOOD, names=[x509.DNSName("192.0.2.7")])
    with pytest.raises(ValidationFailed, match="not for"):
        play(tls_alpn01(IP_CONTEXT), shown(as_text.der()))


def test_dns_names_compare_without_case() -> None:
    certificate = replace(GOOD, names=[x509.DNSName("WWW.Example.test")])
    play(tls_alpn01(CONTEXT), shown(certificate.der()))


@settings(max_examples=100)
@given(st.integers(0, len(GOOD_DER) - 1), st.integers(1, 255))
def test_property_a_changed_certificate_is_refused_with_value_error(at: int, flip: int) -> None:
    """Every byte is covered by the structure, the digest or the self-signature."""
    changed = GOOD_DER[:at] + bytes([GOOD_DER[at] ^ flip]) + GOOD_DER[at + 1 :]
    with pytest.raises(ValueError):
        check_certificate(changed, "www.example.test", DIGEST)


@settings(max_examples=100)
@given(st.binary(max_size=200))
def test_property_random_bytes_are_refused_with_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        check_certificate(data, "www.example.test", DIGEST)
