"""Attributes with a meaning in EST only."""

import contextlib

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.errors import MalformedMessage
from pkiserver.pkix import der
from pkiserver.pkix.names import dns_name
from protocols.est import attributes
from tests.test_est.support import make_csr, new_key

KEY = new_key()
SUBJECT = x509.Name(
    [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example"),
        x509.NameAttribute(NameOID.COMMON_NAME, "new"),
    ]
)
ALT = der.encode(0x82, b"new.example.org")


def parsed(**values: bytes) -> attributes.RequestAttributes:
    by_oid = {getattr(attributes, name.upper()): value for name, value in values.items()}
    return attributes.parse(make_csr(key=KEY, attributes=by_oid))


def text(value: str) -> bytes:
    return der.encode(der.UTF8_STRING, value.encode())


def test_a_request_without_any() -> None:
    assert attributes.parse(make_csr()) == attributes.RequestAttributes()


def test_linking_by_challenge_password() -> None:
    assert attributes.parse(make_csr(challenge="abc")).linking == "abc"


def test_identity_linking_goes_before_the_challenge_password() -> None:
    """RFC 7894 section 3.3."""
    assert parsed(est_identity_linking=text("x"), challenge_password=text("y")).linking == "x"


def test_key_identifiers_and_capabilities() -> None:
    aes = der.encode(der.SEQUENCE, der.encode_oid("2.16.840.1.101.3.4.1.2"))
    other = der.encode(der.SEQUENCE, der.encode_oid("1.2.3"), der.encode(der.NULL))
    found = parsed(
        decrypt_key_id=der.encode(der.OCTET_STRING, b"alice"),
        asymmetric_decrypt_key_id=der.encode(der.OCTET_STRING, b"\1"),
        smime_capabilities=der.encode(der.SEQUENCE, aes, other),
    )
    assert found.decrypt_key_id == b"alice"
    assert found.asymmetric_decrypt_key_id == b"\1"
    assert found.capabilities == ("2.16.840.1.101.3.4.1.2", "1.2.3")


@pytest.mark.parametrize("tag", [der.SEQUENCE, 0xA1])
@pytest.mark.parametrize("subject", [SUBJECT, None])
def test_change_subject_name(subject: x509.Name | None, tag: int) -> None:
    """RFC 6402 section 2.8."""
    first = b"" if subject is None else subject.public_bytes()
    found = parsed(change_subject_name=der.encode(der.SEQUENCE, first, der.encode(tag, ALT)))
    assert found.change_subject_name is not None
    assert found.change_subject_name.subject == subject
    assert found.change_subject_name.alt_names == (dns_name("new.example.org"),)


def test_change_subject_name_of_the_subject_alone() -> None:
    found = parsed(change_subject_name=der.encode(der.SEQUENCE, SUBJECT.public_bytes()))
    assert found.change_subject_name == attributes.ChangeSubjectName(SUBJECT, None)


@pytest.mark.parametrize(
    "value",
    [
        der.encode(der.SEQUENCE),
        der.encode(der.NULL),
        der.encode(der.SEQUENCE, der.encode(der.NULL)),
        der.encode(der.SEQUENCE, SUBJECT.public_bytes(), SUBJECT.public_bytes()),
        der.encode(der.SEQUENCE, der.encode(der.SEQUENCE, ALT), der.encode(der.SEQUENCE, ALT)),
        der.encode(der.SEQUENCE, der.encode(der.SEQUENCE, ALT), SUBJECT.public_bytes()),
        der.encode(der.SEQUENCE, der.encode(der.SEQUENCE, der.encode(0x82, b"\xff"))),
        der.encode(der.SEQUENCE, der.encode(der.SEQUENCE, der.encode(0x82, b"a b"))),
        der.encode(der.SEQUENCE, der.encode(der.SEQUENCE, der.encode(der.SET))),
    ],
)
def test_change_subject_name_that_is_none(value: bytes) -> None:
    with pytest.raises(MalformedMessage):
        parsed(change_subject_name=value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("decrypt_key_id", der.encode(der.OCTET_STRING)),
        ("decrypt_key_id", text("alice")),
        ("decrypt_key_id", der.encode(der.OCTET_STRING, b"x" * 257)),
        ("asymmetric_decrypt_key_id", der.encode(der.NULL)),
        ("smime_capabilities", der.encode(der.NULL)),
        ("smime_capabilities", der.encode(der.SEQUENCE, der.encode(der.SEQUENCE))),
        ("est_identity_linking", der.encode(der.OCTET_STRING, b"x")),
        ("est_identity_linking", text("a") + text("b")),
    ],
)
def test_values_of_other_types(name: str, value: bytes) -> None:
    with pytest.raises(MalformedMessage):
        parsed(**{name: value})


@settings(max_examples=100)
@given(st.sampled_from(sorted(attributes._OURS)), st.binary(max_size=60))
def test_any_value_is_one_exception(oid: str, value: bytes) -> None:
    with contextlib.suppress(MalformedMessage):
        attributes.parse(make_csr(key=KEY, attributes={oid: value}))


@settings(max_examples=100)
@given(st.binary(max_size=100), st.integers(min_value=0, max_value=400))
def test_any_bytes_are_one_exception(junk: bytes, cut: int) -> None:
    for data in (junk, make_csr(key=KEY)[:cut]):
        with contextlib.suppress(MalformedMessage):
            attributes.parse(data)
