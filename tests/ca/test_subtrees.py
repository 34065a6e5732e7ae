"""Name constraints and subjects as a person writes them (RFC 5280 section 4.2.1.10, RFC 4514)."""

import ipaddress

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from pkiserver.ca.subtrees import name_constraints, subject_name
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix import constraints


@pytest.mark.parametrize(
    ("text", "subtree"),
    [
        ("dns:Example.COM", x509.DNSName("example.com")),
        ("dns:.example.com", x509.DNSName("example.com")),
        (" DNS : example.com ", x509.DNSName("example.com")),
        ("email:User@Example.com", x509.RFC822Name("User@example.com")),
        ("email:example.com", x509.RFC822Name("example.com")),
        ("email:.example.com", x509.RFC822Name(".example.com")),
        ("uri:host.example.com", x509.UniformResourceIdentifier("host.example.com")),
        ("uri:.example.com", x509.UniformResourceIdentifier(".example.com")),
        ("ip:10.0.0.0/8", x509.IPAddress(ipaddress.ip_network("10.0.0.0/8"))),
        ("ip:2001:db8::/32", x509.IPAddress(ipaddress.ip_network("2001:db8::/32"))),
        ("dirname:O=Example,C=CH", x509.DirectoryName(subject_name("O=Example,C=CH"))),
    ],
)
def test_subtrees_read_and_are_sound(text: str, subtree: x509.GeneralName) -> None:
    read = name_constraints([text], [text])
    assert read == x509.NameConstraints([subtree], [subtree])
    only = x509.NameConstraints([subtree], None)
    assert constraints.narrows(only, only)


@pytest.mark.parametrize(
    "text",
    [
        "", "example.com", "dns:", "dns:*.example.com", "uri:*.example.com", "email:*.example.com",
        "dns:a b", "dns:..", "email:a@b@c",
        "uri:https://example.com/", "ip:10.0.0.1/8", "ip:10.0.0.0/33", "ip:nonsense",
        "dirname:", "dirname:O", "dirname:CN={cn}", "upn:user@example.com",
    ],
)  # fmt: skip
def test_what_is_no_subtree_says_so(text: str) -> None:
    with pytest.raises(PKIError) as caught:
        name_constraints([text])
    assert caught.value.code is ErrorCode.CONFIGURATION
    assert text in caught.value.detail


def test_nothing_constrains_nothing() -> None:
    assert name_constraints([], []) is None


def test_the_number_is_bounded() -> None:
    with pytest.raises(PKIError, match="more than 200"):
        name_constraints([f"dns:h{n}.example.com" for n in range(201)])


def test_the_most_special_part_of_a_subject_is_written_first_and_encoded_last() -> None:
    attributes = [each.oid for each in subject_name("CN=Root,O=Example,C=CH")]
    assert attributes == [NameOID.COUNTRY_NAME, NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME]


@pytest.mark.parametrize("text", ["", " ", "Root", "CN=", "XX=a", "CN={cn}", "C=Schweiz", "CN=a,"])
def test_what_is_no_subject_says_so(text: str) -> None:
    with pytest.raises(PKIError) as caught:
        subject_name(text)
    assert caught.value.code is ErrorCode.CONFIGURATION


@given(st.one_of(st.text(), st.builds("{}:{}".format, st.sampled_from(
    ["dns", "ip", "email", "uri", "dirname"]), st.text())))  # fmt: skip
def test_any_text_is_a_subtree_or_a_typed_error(text: str) -> None:
    try:
        name_constraints([text], [text])
    except PKIError as error:
        assert error.code is ErrorCode.CONFIGURATION


@given(st.text())
def test_any_text_is_a_subject_or_a_typed_error(text: str) -> None:
    try:
        subject_name(f"CN={text}")
    except PKIError:
        return
