"""RFC 5280 section 4.2.1.6: one normal form for each name."""

import contextlib
import ipaddress

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.errors import ErrorCode, MalformedMessage, PKIError
from pkiserver.pkix import der, names
from pkiserver.pkix.names import AltName, NameType

LONG_LABEL = "a" * 63
LONGEST = ".".join([LONG_LABEL] * 3 + ["a" * 61])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("WWW.Example.COM", "www.example.com"),
        ("localhost", "localhost"),
        ("*.Example.com", "*.example.com"),
        ("1.in-addr.arpa", "1.in-addr.arpa"),
        ("3com.com", "3com.com"),
        ("a-b--c.example", "a-b--c.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        ("xn--80ak6aa92e.com", "xn--80ak6aa92e.com"),
        (LONGEST, LONGEST),
    ],
)
def test_dns_names(text: str, value: str) -> None:
    """RFC 5890, RFC 1123 section 2.1."""
    assert names.dns_name(text) == AltName(NameType.DNS, value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "*",
        "*.",
        "example.com.",
        ".example.com",
        "a..b",
        "foo_bar.example",
        "_acme-challenge.example",
        "-a.example",
        "a-.example",
        "www.*.example",
        "w*.example",
        "*.*.example",
        "a b.example",
        "a.example\n",
        "a.example\x00.evil",
        "http://a.example",
        "a.example:443",
        "bücher.example",
        "\u212aelvin.example",
        LONG_LABEL + "a.example",
        LONGEST + "a",
    ],
)
def test_what_is_no_dns_name(text: str) -> None:
    with pytest.raises(MalformedMessage):
        names.dns_name(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("127.0.0.1", "number"),
        ("1.2.3", "number"),
        ("example.123", "number"),
        ("a.0x7f", "number"),
        ("0x.0x", "number"),
        ("ab--cd.example", "reserved"),
        ("xn--a.example", "IDNA"),
        ("xn--abc.example", "IDNA"),
        ("xn--ls8h.example", "IDNA"),
        ("xn--.example", "(?s)."),
        ("xn--pple-43d.example", "look alike"),
        ("*.xn--pple-43d.example", "look alike"),
    ],
)
def test_dns_names_that_deceive(text: str, why: str) -> None:
    """Numbers that parse as addresses, reserved labels, punycode tricks, mixed scripts."""
    with pytest.raises(PKIError, match=why):
        names.dns_name(text)


def test_a_refusal_names_the_name() -> None:
    with pytest.raises(PKIError) as caught:
        names.dns_name("Example.123")
    assert caught.value.code is ErrorCode.REFUSED_NAME
    assert caught.value.names == ("Example.123",)


def test_u_labels_are_for_people() -> None:
    """RFC 5891 section 4: NFC, lower case, then the A-label."""
    value = names.internationalized_dns_name
    assert value("Bücher.example").value == "xn--bcher-kva.example"
    assert value("BU\u0308CHER.example").value == "xn--bcher-kva.example"
    assert value("*.faß.example").value == "*.xn--fa-hia.example"
    assert value("Example.com").value == "example.com"


@pytest.mark.parametrize("text", ["\U0001f4a9.example", "a\u3002b.example", "\u0301a.example"])
def test_u_labels_outside_idna(text: str) -> None:
    with pytest.raises(MalformedMessage):
        names.internationalized_dns_name(text)


def test_a_mixed_script_u_label() -> None:
    with pytest.raises(PKIError, match="look alike"):
        names.internationalized_dns_name("\u0430pple.example")


def test_only_dns_names_are_wildcards() -> None:
    assert names.dns_name("*.example.com").is_wildcard
    assert not names.dns_name("example.com").is_wildcard
    assert not AltName(NameType.URI, "*.example.com").is_wildcard


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("::", "::"),
    ],
)
def test_ip_addresses(text: str, value: str) -> None:
    """RFC 5952."""
    assert names.ip_address(text) == AltName(NameType.IP, value)


@pytest.mark.parametrize(
    "text",
    ["", "1", "127.1", "010.0.0.1", "192.0.2.1/24", "fe80::1%eth0", "[::1]", "::1 ", "١.١.١.١"],
)
def test_what_is_no_ip_address(text: str) -> None:
    with pytest.raises(MalformedMessage):
        names.ip_address(text)


def test_ipv4_mapped_addresses_are_refused() -> None:
    """One host under two names would pass two name constraints."""
    with pytest.raises(PKIError, match="IPv4-mapped"):
        names.ip_address("::ffff:192.0.2.1")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Jane.Doe+x@Example.COM", "Jane.Doe+x@example.com"),
        ("root@localhost", "root@localhost"),
    ],
)
def test_email(text: str, value: str) -> None:
    assert names.email(text) == AltName(NameType.EMAIL, value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@",
        "jane",
        "@example.com",
        "jane@",
        "jane@doe@example.com",
        ".jane@example.com",
        "jane..doe@example.com",
        '"jane doe"@example.com',
        "jane@[192.0.2.1]",
        "jane@*.example.com",
        "Jane <jane@example.com>",
        "jäne@example.com",
        "jane@example.com\n",
        "a" * 65 + "@example.com",
        "a@" + LONGEST,
    ],
)
def test_what_is_no_email_address(text: str) -> None:
    """RFC 5321 section 4.1.2, Dot-string only."""
    with pytest.raises(MalformedMessage):
        names.email(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("SPIFFE://Example.org/Work/load", "spiffe://example.org/Work/load"),
        ("https://Example.com:8443/A?b#c", "https://example.com:8443/A?b#c"),
        ("https://[2001:DB8::1]:8443/", "https://[2001:db8::1]:8443/"),
        ("https://192.0.2.1/", "https://192.0.2.1/"),
        ("urn:uuid:F81D4FAE-7DEC-11D0-A765-00A0C91E6BF6",) * 2,
        ("file:///etc/x",) * 2,
        ("sip:jane@example.com",) * 2,
        ("https://example.com/%41",) * 2,
    ],
)
def test_uris(text: str, value: str) -> None:
    """RFC 3986; RFC 5280: scheme and host compare without case."""
    assert names.uri(text) == AltName(NameType.URI, value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.com",
        "/path",
        "//example.com",
        "https:",
        "https://",
        "1http://example.com",
        "https://user@example.com/",
        "https://exa mple.com/",
        "https://example.com/%4",
        "https://example.com/\n",
        "https://bücher.example/",
        "https://*.example.com/",
        "https://foo_bar.example/",
        "https://[192.0.2.1]/",
        "https://[::1/",
        "https://::1/",
        "https://:80/",
        "https://example.com:http/",
        "https://0x7f.1/",
        "https://example.com/" + "a" * names.MAX_URI_LENGTH,
    ],
)
def test_what_is_no_uri(text: str) -> None:
    with pytest.raises(MalformedMessage):
        names.uri(text)


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("spiffe://example.org/x", "example.org"),
        ("https://[::1]:1/", "[::1]"),
        ("urn:a:b", None),
        ("file:///x", None),
    ],
)
def test_the_host_of_a_uri(name: str, host: str | None) -> None:
    assert names.uri_host(names.uri(name)) == host


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Jane@Corp.Example", "Jane@corp.example"),
        ("jane doe@corp", "jane doe@corp"),
        ("jäne@corp.example", "jäne@corp.example"),
        ("ja\u0308ne@corp.example", "jäne@corp.example"),
    ],
)
def test_user_principal_names(text: str, value: str) -> None:
    assert names.upn(text) == AltName(NameType.UPN, value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "jane",
        "@corp",
        "jane@",
        "a@b@c",
        "jane\x00@corp",
        "ja\u202ene@corp",
        "a" * 257 + "@corp",
    ],
)
def test_what_is_no_user_principal_name(text: str) -> None:
    with pytest.raises(MalformedMessage):
        names.upn(text)


ISSUED = [
    names.dns_name("*.example.com"),
    names.ip_address("192.0.2.1"),
    names.ip_address("2001:db8::1"),
    names.email("jane@example.com"),
    names.uri("spiffe://example.org/x"),
    names.upn("jäne@corp.example"),
]


@pytest.mark.parametrize("name", ISSUED, ids=str)
def test_names_survive_a_certificate(name: AltName) -> None:
    assert names.from_general_name(names.to_general_name(name)) == name
    assert names.alt_name(name.type, name.value) == name


def test_names_that_are_never_issued_become_readable() -> None:
    oid = x509.ObjectIdentifier("1.2.3")
    other = names.from_general_names(
        x509.SubjectAlternativeName(
            [
                x509.OtherName(oid, b"\x05\x00"),
                x509.RegisteredID(oid),
                x509.DirectoryName(x509.Name.from_rfc4514_string("CN=x,O=y")),
            ]
        )
    )
    assert [name.value for name in other] == [
        "otherName:1.2.3:0500",
        "registeredID:1.2.3",
        "directoryName:CN=x,O=y",
    ]
    for name in other:
        assert name.type is NameType.OTHER
        with pytest.raises(PKIError, match="not issued"):
            names.to_general_name(name)
    with pytest.raises(MalformedMessage):
        names.alt_name(NameType.OTHER, "x")


@pytest.mark.parametrize(
    "name",
    [
        x509.IPAddress(ipaddress.ip_network("192.0.2.0/24")),
        x509.OtherName(names.UPN_OID, der.encode(der.PRINTABLE_STRING, b"a@b")),
        x509.OtherName(names.UPN_OID, der.encode(der.UTF8_STRING, b"a@b") + b"\x00"),
        x509.OtherName(names.UPN_OID, der.encode(der.UTF8_STRING, b"\xff@b")),
    ],
)
def test_malformed_general_names(name: x509.GeneralName) -> None:
    with pytest.raises(MalformedMessage):
        names.from_general_name(name)


def test_reversed_names_share_the_prefix_of_their_domain() -> None:
    assert names.reversed_dns("www.example.com") == "com.example.www"
    assert names.reversed_dns("*.example.com") == "com.example.*"


def test_what_is_shown_is_short_and_printable() -> None:
    with pytest.raises(MalformedMessage) as caught:
        names.dns_name("\x1b[2J" + "a" * 1000)
    assert caught.value.detail.isprintable() and len(caught.value.detail) < 200


TEXT = st.text(max_size=40) | st.from_regex(
    r"[a-zA-Z0-9*_.:/@%\[\]-]{0,30}(xn--[a-z0-9-]{1,12})?(@|://)?[a-z0-9.-]{0,12}", fullmatch=True
)


@given(st.sampled_from([t for t in NameType if t is not NameType.OTHER]), TEXT)
@settings(max_examples=200)
def test_parsers_normalise_for_good_or_raise(name_type: NameType, text: str) -> None:
    with contextlib.suppress(PKIError):
        name = names.alt_name(name_type, text)
        assert names.alt_name(name_type, name.value) == name
        assert names.from_general_name(names.to_general_name(name)) == name


@given(st.text(max_size=30))
@settings(max_examples=100)
def test_internationalized_names_raise_only_refusals(text: str) -> None:
    with contextlib.suppress(PKIError):
        name = names.internationalized_dns_name(text + ".example")
        assert names.dns_name(name.value) == name


@given(st.from_regex(r"xn--[a-z0-9-]{1,20}", fullmatch=True))
@settings(max_examples=100)
def test_a_labels_raise_only_refusals(label: str) -> None:
    with contextlib.suppress(PKIError):
        names.dns_name(label + ".example")
