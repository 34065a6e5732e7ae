"""RFC 5280 section 4.1: the signed shell, serial numbers, parsing with one exception."""

import contextlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pkiserver.errors import MalformedMessage
from pkiserver.pkix import cert, der
from tests.pkix import support

CERTIFICATE = support.certificate().public_bytes(Encoding.DER)


def resigned(tbs: bytes) -> bytes:
    return cert.assemble(tbs, support.SHA256_WITH_ECDSA, support.ecdsa(tbs))


def test_a_certificate_is_parsed_and_comes_apart_and_together() -> None:
    parsed = cert.parse_certificate(CERTIFICATE)
    tbs, algorithm, signature = cert.split(CERTIFICATE)
    assert parsed.serial_number == 0x1234
    assert (tbs, signature) == (parsed.tbs_certificate_bytes, parsed.signature)
    assert cert.assemble(tbs, algorithm, signature) == CERTIFICATE
    assert cert.subject_key_identifier(parsed) == b"k" * 20
    assert cert.authority_key_identifier(parsed) is None


def test_the_authority_key_identifier() -> None:
    aki = x509.AuthorityKeyIdentifier(b"a" * 20, None, None)
    built = (
        x509.CertificateBuilder()
        .subject_name(support.name())
        .issuer_name(support.name("ca"))
        .serial_number(1)
        .not_valid_before(support.NOW)
        .not_valid_after(support.NOW)
        .public_key(support.ec_key().public_key())
        .add_extension(aki, False)
        .sign(support.ec_key(), hashes.SHA256())
    )
    assert cert.authority_key_identifier(built) == b"a" * 20
    assert cert.subject_key_identifier(built) is None


def test_truncation_at_every_byte_and_a_trailing_one() -> None:
    for end in range(len(CERTIFICATE)):
        with pytest.raises(MalformedMessage):
            cert.parse_certificate(CERTIFICATE[:end])
    with pytest.raises(MalformedMessage):
        cert.parse_certificate(CERTIFICATE + b"\x00")


def test_the_size_is_bounded() -> None:
    with pytest.raises(MalformedMessage, match="larger than 100"):
        cert.parse_certificate(CERTIFICATE, max_size=100)


@pytest.mark.parametrize("serial", [b"\x02\x01\x00", b"\x02\x01\x80", b"\x02\x15" + b"\x01" * 21])
def test_serial_numbers_are_positive_and_of_twenty_octets(serial: bytes) -> None:
    """RFC 5280 section 4.1.2.2."""
    tbs, _, _ = cert.split(CERTIFICATE)
    fields = der.sequence_of(tbs)
    changed = [serial if position == 1 else f.encoded for position, f in enumerate(fields)]
    with pytest.raises(MalformedMessage, match="serial"):
        cert.parse_certificate(resigned(der.encode(der.SEQUENCE, *changed)))


def test_a_certificate_without_a_serial_number() -> None:
    with pytest.raises(MalformedMessage, match="no serial"):
        cert.parse_certificate(resigned(der.encode(der.SEQUENCE)))


def test_repeated_extensions_are_refused() -> None:
    """RFC 5280 section 4.2."""
    fields = [field.encoded for field in der.sequence_of(cert.split(CERTIFICATE)[0])]
    extension = support.extension("2.5.29.14", der.encode(der.OCTET_STRING, b"k"))
    fields[-1] = der.encode(0xA3, der.encode(der.SEQUENCE, extension, extension))
    with pytest.raises(MalformedMessage, match="5280"):
        cert.parse_certificate(resigned(der.encode(der.SEQUENCE, *fields)))


@pytest.mark.parametrize(
    ("oid", "value"),
    [("2.5.4.3", b"x" * 65), ("2.5.4.3", b""), ("2.5.4.6", b"CHE")],
)
def test_names_beyond_their_bounds_are_found_wherever_they_are(oid: str, value: bytes) -> None:
    """RFC 5280 appendix A.1; the library would only warn."""
    text = der.encode(der.UTF8_STRING, value)
    directory_name = der.encode(0xA4, der.encode(der.SEQUENCE, support.rdn(oid, text)))
    san = support.extension("2.5.29.17", der.encode(der.SEQUENCE, directory_name))
    for data in (directory_name, san):
        with pytest.raises(MalformedMessage, match="octets"):
            cert.check_name_bounds(data)


def test_extensions_in_extensions_do_not_exhaust_the_stack() -> None:
    data = der.encode(der.SEQUENCE)
    for _ in range(2000):
        data = support.extension("1.2.3", data)
    with pytest.raises(MalformedMessage, match="nested"):
        cert.check_name_bounds(data)


@pytest.mark.parametrize(
    "data", [b"\x30\x00", b"\x05\x00", b"\x30\x09\x30\x00\x30\x00\x03\x03\x07\x00\x80"]
)
def test_what_is_not_a_signed_structure(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        cert.split(data)


@given(st.integers(1, 2**159 - 1))
@example(0x80)
@example(0xFF00)
@settings(max_examples=50)
def test_serial_notations(serial: int) -> None:
    text = cert.serial_hex(serial)
    octets = cert.serial_bytes(serial)
    assert len(text) % 2 == 0 and text == text.lower() == octets.hex()
    assert int.from_bytes(octets) == serial and octets[0] != 0
    colons = ":".join(text[i : i + 2] for i in range(0, len(text), 2))
    assert cert.parse_serial(text) == cert.parse_serial(colons.upper()) == serial


def test_a_serial_with_the_sign_octet_openssl_prints() -> None:
    assert cert.parse_serial("00:80") == 0x80


@pytest.mark.parametrize("serial", [0, -1, 2**159])
def test_what_is_no_serial(serial: int) -> None:
    with pytest.raises(ValueError, match="serial"):
        cert.serial_bytes(serial)


@pytest.mark.parametrize(
    "text", ["", "0", "00", "xyz", "12:3", "0x12", "-1", "1" * 41, "f" * 40, "١"]
)
def test_what_is_no_serial_text(text: str) -> None:
    with pytest.raises(MalformedMessage):
        cert.parse_serial(text)


@given(st.data())
@settings(max_examples=100)
def test_a_changed_octet_raises_only_malformed(data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(CERTIFICATE) - 1))
    octet = data.draw(st.integers(0, 255))
    changed = CERTIFICATE[:position] + bytes((octet,)) + CERTIFICATE[position + 1 :]
    with contextlib.suppress(MalformedMessage):
        cert.parse_certificate(changed)
