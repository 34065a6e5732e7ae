"""CRLs as bytes (RFC 5280 section 5), read back by another implementation."""

import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.ca import crl, crl_check, encoding
from pkiserver.ca.model import Reason
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix import cert, der

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
KEY = ec.generate_private_key(ec.SECP256R1())
REASONS = [reason for reason in Reason if reason is not Reason.REMOVE_FROM_CRL]


def authority(crl_sign: bool = True, ski: bytes | None = b"s" * 20) -> x509.Certificate:
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "CH"),
            x509.NameAttribute(NameOID.COMMON_NAME, "Test CA"),
        ]
    )
    builder = (
        x509.CertificateBuilder(name, name, KEY.public_key(), 1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + dt.timedelta(days=3650))
        .add_extension(
            x509.KeyUsage(False, False, False, False, False, True, crl_sign, False, False),
            critical=True,
        )
    )
    if ski:
        builder = builder.add_extension(x509.SubjectKeyIdentifier(ski), critical=False)
    return builder.sign(KEY, hashes.SHA256())


CA = authority()


def build(
    *entries: bytes,
    number: int = 1,
    this_update: dt.datetime = NOW,
    ca: x509.Certificate = CA,
) -> bytes:
    tbs = crl.to_be_signed(
        ca,
        number=number,
        this_update=this_update,
        next_update=this_update + dt.timedelta(days=7),
        entries=entries,
    )
    algorithm = encoding.signature_algorithm(KEY.public_key())
    return cert.assemble(tbs, algorithm, KEY.sign(tbs, ec.ECDSA(hashes.SHA256())))


def test_empty_list_has_no_revoked_certificates() -> None:
    """Section 5.1.2.6: the field is absent, not an empty sequence."""
    data = build()
    parsed = x509.load_der_x509_crl(data)
    tags = [member.tag for member in der.sequence_of(cert.split(data)[0])]
    assert len(parsed) == 0 and parsed.is_signature_valid(KEY.public_key())
    assert tags == [der.INTEGER, der.SEQUENCE, der.SEQUENCE, 0x17, 0x17, 0xA0]


def test_issuer_times_and_extensions() -> None:
    parsed = x509.load_der_x509_crl(build(number=42))
    aki = parsed.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    number = parsed.extensions.get_extension_for_class(x509.CRLNumber)
    assert parsed.issuer == CA.subject
    assert parsed.last_update_utc == NOW and parsed.next_update_utc == NOW + dt.timedelta(days=7)
    assert aki.value.key_identifier == b"s" * 20 and not aki.critical
    assert number.value.crl_number == 42 and not number.critical
    assert len(parsed.extensions) == 2


def test_key_identifier_without_one_in_the_certificate() -> None:
    parsed = x509.load_der_x509_crl(build(ca=authority(ski=None)))
    aki = parsed.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    assert aki.value.key_identifier


@pytest.mark.parametrize("reason", REASONS)
def test_entry_reads_back(reason: Reason) -> None:
    invalid = NOW - dt.timedelta(days=3)
    entry = crl.encode_entry(1 << 158, NOW, reason, invalid)
    (found,) = x509.load_der_x509_crl(build(entry))
    assert found.serial_number == 1 << 158 and found.revocation_date_utc == NOW
    since = found.extensions.get_extension_for_class(x509.InvalidityDate)
    assert since.value.invalidity_date_utc == invalid
    if reason is Reason.UNSPECIFIED:
        assert len(found.extensions) == 1
    else:
        shown = found.extensions.get_extension_for_class(x509.CRLReason)
        assert shown.value.reason.value == reason.value and not shown.critical


def test_unspecified_without_invalidity_date_has_no_extensions() -> None:
    """Section 5.3.1: unspecified is expressed by absence; an empty sequence would be invalid."""
    entry = crl.encode_entry(9, NOW, Reason.UNSPECIFIED, None)
    assert [member.tag for member in der.sequence_of(entry)] == [der.INTEGER, 0x17]


def test_remove_from_crl_is_for_delta_lists() -> None:
    with pytest.raises(ValueError, match="delta"):
        crl.encode_entry(9, NOW, Reason.REMOVE_FROM_CRL, None)


@pytest.mark.parametrize("serial", [0, -1, 1 << 160])
def test_entry_for_what_is_no_serial_number(serial: int) -> None:
    with pytest.raises(ValueError, match="serial"):
        crl.encode_entry(serial, NOW, Reason.SUPERSEDED, None)


def test_times_change_form_in_2050() -> None:
    """Section 5.1.2.4: UTCTime through 2049, GeneralizedTime from 2050; invalidityDate always
    GeneralizedTime."""
    last = dt.datetime(2049, 12, 31, 23, 59, 59, tzinfo=dt.UTC)
    first = last + dt.timedelta(seconds=1)
    assert encoding.time(last) == b"\x17\x0d491231235959Z"
    assert encoding.time(first) == b"\x18\x0f20500101000000Z"
    parsed = x509.load_der_x509_crl(build(this_update=last))
    assert parsed.last_update_utc == last and parsed.next_update_utc == last + dt.timedelta(days=7)
    assert b"\x18\x0f20260301120000Z" in crl.encode_entry(9, NOW, Reason.UNSPECIFIED, NOW)


def test_check_finds_what_is_wrong() -> None:
    entry = crl.encode_entry(9, NOW, Reason.SUPERSEDED, None)
    good = build(entry, number=3)
    crl_check.check(good, CA, number=3, entries=1)
    flipped = good[:-1] + bytes((good[-1] ^ 1,))
    for data, number, entries in ((good, 4, 1), (good, 3, 2), (flipped, 3, 1), (b"0", 3, 1)):
        with pytest.raises(PKIError) as caught:
            crl_check.check(data, CA, number=number, entries=entries)
        assert caught.value.code is ErrorCode.INTERNAL


@pytest.mark.parametrize("number", [0, -1, crl.MAX_CRL_NUMBER + 1])
def test_crl_number_is_bounded(number: int) -> None:
    """Section 5.2.3: positive, at most 20 octets."""
    with pytest.raises(ValueError, match="CRL number"):
        build(number=number)


def test_may_sign_reads_key_usage() -> None:
    assert crl.may_sign(CA)
    assert not crl.may_sign(authority(crl_sign=False))


@settings(max_examples=60)
@given(
    st.integers(1, (1 << 159) - 1),
    st.integers(0, 4_000_000_000).map(lambda seconds: dt.datetime.fromtimestamp(seconds, dt.UTC)),
    st.sampled_from(REASONS),
)
def test_any_entry_is_read_back_by_the_library(
    serial: int, revoked_at: dt.datetime, reason: Reason
) -> None:
    (found,) = x509.load_der_x509_crl(build(crl.encode_entry(serial, revoked_at, reason, None)))
    assert found.serial_number == serial
    assert found.revocation_date_utc == revoked_at
