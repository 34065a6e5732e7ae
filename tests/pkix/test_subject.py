"""Subject templates: RFC 4514 text, RFC 5280 appendix A bounds."""

import contextlib

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix import der, names
from pkiserver.pkix.subject import SubjectTemplate, fields_for, requested_fields


def render(template: str, **fields: str) -> str:
    return SubjectTemplate.parse(template).render(fields).rfc4514_string()


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("CN={cn},O=Example Corp,C=CH", "CN=x,O=Example Corp,C=CH"),
        (" cn = {cn} , o = Example ", "CN=x,O=Example"),
        ("CN=host-{cn}.example", "CN=host-x.example"),
        (r"O=Example\, Inc.", r"O=Example\, Inc."),
        (r"O=a\+b\=c\\", r"O=a\+b=c\\"),
        (r"O=\{cn\}", "O={cn}"),
        (r"O=trailing\ ", r"O=trailing\ "),
        ("OU=a=b", "OU=a=b"),
        ("CN={cn},DC=example,DC=com", "CN=x,DC=example,DC=com"),
        ("UID={cn},L=Bern,ST=BE,OU=y", "UID=x,L=Bern,ST=BE,OU=y"),
        ("", ""),
        ("  ", ""),
    ],
)
def test_templates(template: str, text: str) -> None:
    assert render(template, cn="x") == text


def test_the_first_rdn_written_is_the_last_encoded() -> None:
    """RFC 4514 section 2.1."""
    name = SubjectTemplate.parse("CN={cn},O=y,C=CH").render({"cn": "x"})
    assert [attribute.value for attribute in name] == ["CH", "y", "x"]


def test_string_types_are_those_of_rfc_5280() -> None:
    template = "CN=x,serialNumber=1,emailAddress=a@b,DC=d,C=CH"
    name = SubjectTemplate.parse(template).render({})
    tags = [
        der.sequence_of(der.children(rdn.contents)[0].encoded)[1].tag
        for rdn in der.sequence_of(name.public_bytes())
    ]
    printable, ia5, utf8 = der.PRINTABLE_STRING, der.IA5_STRING, der.UTF8_STRING
    assert tags == [printable, ia5, ia5, printable, utf8]


@pytest.mark.parametrize(
    ("template", "text"),
    [("CN={cn},O=y", "O=y"), ("CN={cn}", ""), ("CN={dns}-{cn},O=y", "O=y")],
)
def test_rdns_without_a_value_are_left_out(template: str, text: str) -> None:
    assert render(template, dns="d") == text
    assert render(template, dns="d", cn="") == text


@pytest.mark.parametrize(
    "value", ["a,O=Evil", "a+O=Evil", 'a"b', "#04", "a\\,b", " a ", "{dns}", "<;>", "=", "a=b"]
)
def test_data_never_makes_another_rdn(value: str) -> None:
    name = SubjectTemplate.parse("CN={cn},O=Good").render({"cn": value, "dns": "d"})
    assert [len(rdn) for rdn in name.rdns] == [1, 1]
    assert [attribute.value for attribute in name] == ["Good", value]
    assert x509.Name.from_rfc4514_string(name.rfc4514_string()) == name


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("x", "ATTRIBUTE=value"),
        ("CN=a,", "ATTRIBUTE=value"),
        (",CN=a", "ATTRIBUTE=value"),
        ("=a", "ATTRIBUTE=value"),
        ("CN=", "no value"),
        ("XY=a", "no attribute XY"),
        ("2.5.4.3=a", "ATTRIBUTE=value"),
        ("CN={name}", "no field name"),
        ("CN={CN}", "escaped"),
        ("CN={cn", "escaped"),
        ("CN=a}", "escaped"),
        ("CN=a+O=b", "escaped"),
        ('CN="a"', "escaped"),
        ("CN=a\\", "backslash"),
        ("CN=\\61", "escaped"),
        ("CN=a\x00", "escaped"),
        ("CN=#0401", "hexadecimal"),
        ("C=CHE", "C would"),
        ("C=ch", "C would"),
        ("O=" + "x" * 65, "O would"),
        ("serialNumber=a_b", "serialNumber would"),
        ("DC=é", "DC would"),
        (",".join(["OU=x"] * 33), "more than 32"),
    ],
)
def test_bad_templates(template: str, why: str) -> None:
    with pytest.raises(PKIError, match=why) as caught:
        SubjectTemplate.parse(template)
    assert caught.value.code is ErrorCode.CONFIGURATION


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("CN={cn}", "x" * 65),
        ("CN={cn}", "é" * 33),
        ("CN={cn}", "a\x00b"),
        ("CN={cn}", "a\nb"),
        ("CN={cn}", "\ud800"),
        ("C={cn}", "CHE"),
        ("C={cn}", "C1"),
        ("L={cn}", "x" * 129),
        ("serialNumber={cn}", "a@b"),
        ("emailAddress={cn}", "é@b"),
        ("UID={cn}", "x" * 257),
    ],
)
def test_values_outside_their_bounds(template: str, value: str) -> None:
    with pytest.raises(PKIError) as caught:
        render(template, cn=value)
    assert caught.value.code is ErrorCode.REFUSED_BY_PROFILE
    assert caught.value.rule == "subject"


def test_fields_are_the_first_name_of_each_type() -> None:
    given_names = [
        names.dns_name("b.example"),
        names.dns_name("a.example"),
        names.ip_address("192.0.2.1"),
        names.AltName(names.NameType.OTHER, "x"),
        names.AltName(names.NameType.EMAIL, "e@example.com"),
    ]
    assert fields_for(given_names, "x") == {
        "cn": "x",
        "dns": "b.example",
        "ip": "192.0.2.1",
        "email": "e@example.com",
    }
    assert fields_for([], None) == fields_for([], "") == {}


@given(st.text(max_size=40) | st.from_regex(r"(CN|O|C)= ?(\{cn\}|\\?[a-z,+\\{} ]){0,8}"))
@settings(max_examples=100)
def test_templates_parse_or_are_refused(text: str) -> None:
    with contextlib.suppress(PKIError):
        SubjectTemplate.parse(text).render({"cn": "x"})


@given(st.text(min_size=1, max_size=64))
@settings(max_examples=100)
def test_any_value_stays_one_value(value: str) -> None:
    template = SubjectTemplate.parse("O=x,CN={cn},C=CH")
    with contextlib.suppress(PKIError):
        name = template.render({"cn": value})
        assert [attribute.value for attribute in name] == ["CH", value, "x"]


def test_fields_of_a_requests_subject() -> None:
    subject = x509.Name.from_rfc4514_string(
        "CN=x,E=a@b.example,OU=Sales,OU=Other,O=Contoso,L=Bern,ST=BE,C=CH,2.5.4.5=C02",
        {"E": x509.NameOID.EMAIL_ADDRESS},
    )
    fields = requested_fields(subject)
    assert fields == {
        "emailaddress": "a@b.example", "ou": "Other", "o": "Contoso", "l": "Bern", "st": "BE",
        "c": "CH", "serialnumber": "C02",
    }  # fmt: skip
    template = "CN={cn},OU={ou},O={o},L={l},UID={uid},C={c}"
    assert render(template, cn="x", **fields) == "CN=x,OU=Other,O=Contoso,L=Bern,C=CH"
    assert requested_fields(x509.Name([])) == {}
