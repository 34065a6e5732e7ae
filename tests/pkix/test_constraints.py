"""RFC 5280 section 4.2.1.10."""

import ipaddress
from collections.abc import Sequence

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix import constraints, der, names
from pkiserver.pkix.names import AltName, NameType

UPN = x509.OtherName(names.UPN_OID, der.encode(der.UTF8_STRING, b"example.com"))
EMPTY = x509.Name([])


def subtree(text: str) -> x509.GeneralName:
    """ "dns:example.com" and the like as a GeneralName."""
    kind, _, value = text.partition(":")
    match kind:
        case "dns":
            return x509.DNSName(value)
        case "ip":
            return x509.IPAddress(ipaddress.ip_network(value))
        case "email":
            return x509.RFC822Name._init_without_validation(value)
        case "uri":
            return x509.UniformResourceIdentifier._init_without_validation(value)
        case "dir":
            return x509.DirectoryName(distinguished(value))
        case "rid":
            return x509.RegisteredID(x509.ObjectIdentifier(value))
    assert kind == "upn"
    return UPN


def distinguished(text: str) -> x509.Name:
    return x509.Name.from_rfc4514_string(text, {"emailAddress": x509.NameOID.EMAIL_ADDRESS})


def limits(permitted: Sequence[str] = (), excluded: Sequence[str] = ()) -> x509.NameConstraints:
    return x509.NameConstraints(
        [subtree(text) for text in permitted] or None,
        [subtree(text) for text in excluded] or None,
    )


def alt(text: str) -> AltName:
    kind, _, value = text.partition(":")
    if kind == "other":
        return AltName(NameType.OTHER, value)
    return names.alt_name(NameType(kind), value)


def allowed(limit: x509.NameConstraints, text: str, subject: x509.Name = EMPTY) -> bool:
    try:
        constraints.check(limit, [alt(text)] if text else [], subject)
    except PKIError as error:
        assert error.code is ErrorCode.REFUSED_NAME and error.rule == constraints.RULE
        return False
    return True


IN_SUBTREE = [
    ("dns:example.com", "dns:example.com", True),
    ("dns:example.com", "dns:www.example.com", True),
    ("dns:example.com", "dns:a.b.example.com", True),
    ("dns:EXAMPLE.com", "dns:www.example.com", True),
    ("dns:example.com", "dns:badexample.com", False),
    ("dns:example.com", "dns:example.com.evil", False),
    ("dns:www.example.com", "dns:example.com", False),
    ("dns:", "dns:anything.example", True),
    ("dns:.example.com", "dns:www.example.com", True),
    ("dns:.example.com", "dns:example.com", False),
    ("dns:.example.com", "dns:badexample.com", False),
    ("dns:example.com", "dns:*.example.com", True),
    ("dns:.example.com", "dns:*.example.com", True),
    ("dns:example.com", "dns:*.www.example.com", True),
    ("dns:example.com", "dns:*.com", False),
    ("ip:192.0.2.0/24", "ip:192.0.2.255", True),
    ("ip:192.0.2.0/24", "ip:192.0.3.0", False),
    ("ip:0.0.0.0/0", "ip:192.0.2.1", True),
    ("ip:0.0.0.0/0", "ip:2001:db8::1", False),
    ("ip:2001:db8::/32", "ip:2001:db8::1", True),
    ("ip:2001:db8::/32", "ip:2001:db9::1", False),
    ("ip:2001:db8::/32", "ip:192.0.2.1", False),
    ("email:jane@example.com", "email:jane@example.com", True),
    ("email:jane@EXAMPLE.com", "email:jane@example.com", True),
    ("email:jane@example.com", "email:joe@example.com", False),
    ("email:example.com", "email:joe@example.com", True),
    ("email:example.com", "email:joe@mail.example.com", False),
    ("email:.example.com", "email:joe@mail.example.com", True),
    ("email:.example.com", "email:joe@example.com", False),
    ("uri:example.com", "uri:https://example.com/x", True),
    ("uri:example.com", "uri:https://example.com:8443/x", True),
    ("uri:example.com", "uri:https://www.example.com/x", False),
    ("uri:.example.com", "uri:https://www.example.com/x", True),
    ("uri:.example.com", "uri:https://example.com/x", False),
    ("uri:Example.org", "uri:spiffe://example.org/work", True),
]


@pytest.mark.parametrize(("tree", "name", "inside"), IN_SUBTREE)
def test_permitted_subtrees(tree: str, name: str, inside: bool) -> None:
    assert allowed(limits([tree]), name) is inside


@pytest.mark.parametrize(
    ("tree", "name", "inside"), [row for row in IN_SUBTREE if row[1] != "dns:*.com"]
)
def test_excluded_subtrees(tree: str, name: str, inside: bool) -> None:
    assert allowed(limits([], [tree]), name) is not inside


@pytest.mark.parametrize(
    ("tree", "name"),
    [
        ("dns:www.example.com", "dns:*.example.com"),
        ("dns:example.com", "dns:*.com"),
        ("dns:.www.example.com", "dns:*.example.com"),
        ("dns:example.com.", "dns:anything.example"),
        ("dns:.", "dns:anything.example"),
        ("email:JANE@example.com", "email:jane@example.com"),
        ("email:", "email:jane@example.com"),
        ("email:@example.com", "email:jane@other.example"),
        ("uri:", "uri:https://example.com/"),
        ("uri:example.com", "uri:urn:a:b"),
        ("uri:example.com", "uri:https://192.0.2.1/"),
        ("uri:bad host", "uri:https://example.com/"),
        ("upn:", "upn:jane@other.example"),
        ("upn:", "other:otherName:1.2.3:0500"),
        ("rid:1.2.3", "other:registeredID:9.9"),
        ("dir:O=x", "other:directoryName:O=y"),
    ],
)
def test_what_exclusion_catches_besides(tree: str, name: str) -> None:
    """Wildcards that could reach in, unsound subtrees, forms without semantics."""
    assert not allowed(limits([], [tree]), name)


@pytest.mark.parametrize(
    ("tree", "name"),
    [
        ("dns:www.example.com", "dns:*.example.com"),
        ("dns:.", "dns:anything.example"),
        ("email:", "email:jane@example.com"),
        ("email:@example.com", "email:jane@example.com"),
        ("uri:", "uri:https://example.com/"),
        ("uri:example.com", "uri:urn:a:b"),
        ("uri:example.com", "uri:file:///x"),
        ("uri:192.0.2.1", "uri:https://192.0.2.1/"),
        ("upn:", "upn:jane@example.com"),
        ("rid:1.2.3", "other:registeredID:1.2.3"),
        ("dir:O=x", "other:directoryName:O=x"),
    ],
)
def test_what_permission_does_not_cover(tree: str, name: str) -> None:
    assert not allowed(limits([tree]), name)


@pytest.mark.parametrize("name", ["ip:192.0.2.1", "email:a@b", "uri:urn:a:b", "upn:a@b"])
def test_forms_without_subtrees_are_free(name: str) -> None:
    assert allowed(limits(["dns:example.com"], ["dns:www.example.com"]), name)


def test_exclusion_wins() -> None:
    limit = limits(["dns:example.com"], ["dns:secret.example.com"])
    assert allowed(limit, "dns:www.example.com")
    assert not allowed(limit, "dns:a.secret.example.com")


def test_one_of_several_permitted_is_enough() -> None:
    limit = limits(["dns:a.example", "dns:b.example", "ip:192.0.2.0/24"])
    assert allowed(limit, "dns:x.b.example")
    assert not allowed(limit, "dns:c.example")


def test_the_refusal_names_name_and_subtree() -> None:
    with pytest.raises(PKIError) as caught:
        constraints.check(limits(["dns:a.example"]), [alt("dns:b.example")], EMPTY)
    assert "dns:b.example" in caught.value.detail
    assert "dNSName:a.example" in caught.value.detail
    assert caught.value.names == ("b.example",)
    with pytest.raises(PKIError, match="directoryName:O=x"):
        constraints.check(limits([], ["dir:O=x"]), [], distinguished("CN=y,O=x"))


@pytest.mark.parametrize(
    ("tree", "subject", "inside"),
    [
        ("dir:O=Example,C=CH", "CN=x,O=Example,C=CH", True),
        ("dir:O=Example,C=CH", r"CN=x,O=\ EXAMPLE\ ,C=ch", True),
        ("dir:O=Example,C=CH", "O=Example,C=CH", True),
        ("dir:O=Example,C=CH", "C=CH", False),
        ("dir:O=Example,C=CH", "CN=x,O=Other,C=CH", False),
        ("dir:O=Example,C=CH", "CN=x,C=CH,O=Example", False),
        ("dir:O=Example,C=CH", "CN=x,OU=Example,C=CH", False),
    ],
)
def test_directory_names(tree: str, subject: str, inside: bool) -> None:
    """Initial RDNs, compared as in section 7.1."""
    assert allowed(limits([tree]), "", distinguished(subject)) is inside
    assert allowed(limits([], [tree]), "", distinguished(subject)) is not inside


def test_an_empty_subject_is_no_name() -> None:
    assert allowed(limits(["dir:O=Example"]), "", EMPTY)


@pytest.mark.parametrize(
    ("tree", "subject", "inside"),
    [
        ("dns:example.com", "CN=www.example.com", True),
        ("dns:example.com", "CN=www.other.example", False),
        ("dns:example.com", "CN=WWW.OTHER.EXAMPLE", False),
        ("dns:example.com", "CN=device-7", True),
        ("dns:example.com", "CN=Jane Doe", True),
        ("ip:192.0.2.0/24", "CN=192.0.3.1", False),
        ("ip:192.0.2.0/24", "CN=192.0.2.1", True),
        ("email:example.com", "emailAddress=jane@example.com", True),
        ("email:example.com", "emailAddress=jane@other.example", False),
        ("email:example.com", "emailAddress=example.com", False),
    ],
)
def test_names_in_the_subject_count(tree: str, subject: str, inside: bool) -> None:
    """Section 4.2.1.10 for emailAddress; common names because clients read them as hosts."""
    assert allowed(limits([tree]), "", distinguished(subject)) is inside


def test_an_unreadable_address_in_the_subject_is_excluded() -> None:
    assert not allowed(limits([], ["email:other.example"]), "", distinguished("emailAddress=x y"))


def test_binary_attributes_are_compared_as_they_are() -> None:
    unique = x509.NameAttribute(
        x509.NameOID.X500_UNIQUE_IDENTIFIER, b"\x01", x509.name._ASN1Type.BitString
    )
    name = x509.Name([unique])
    limit = x509.NameConstraints([x509.DirectoryName(name)], None)
    constraints.check(limit, [], name)
    with pytest.raises(PKIError):
        constraints.check(limit, [], distinguished("CN=x"))


WITHIN = [
    ("dns:example.com", "dns:example.com", True),
    ("dns:a.example.com", "dns:example.com", True),
    ("dns:.example.com", "dns:example.com", True),
    ("dns:.Example.com", "dns:.example.COM", True),
    ("dns:a.example.com", "dns:.example.com", True),
    ("dns:example.com", "dns:.example.com", False),
    ("dns:example.com", "dns:a.example.com", False),
    ("dns:", "dns:example.com", False),
    ("dns:", "dns:", True),
    ("ip:192.0.2.0/25", "ip:192.0.2.0/24", True),
    ("ip:192.0.0.0/16", "ip:192.0.2.0/24", False),
    ("ip:2001:db8::/48", "ip:2001:db8::/32", True),
    ("ip:2001:db8::/48", "ip:0.0.0.0/0", False),
    ("email:a@example.com", "email:example.com", True),
    ("email:a@EXAMPLE.com", "email:a@example.com", True),
    ("email:example.com", "email:a@example.com", False),
    ("email:mail.example.com", "email:.example.com", True),
    ("email:.mail.example.com", "email:.example.com", True),
    ("email:example.com", "email:.example.com", False),
    ("uri:www.example.com", "uri:.example.com", True),
    ("uri:example.com", "uri:.example.com", False),
    ("uri:Example.com", "uri:example.com", True),
    ("dir:OU=a,O=x", "dir:O=x", True),
    ("dir:O=x", "dir:OU=a,O=x", False),
    ("rid:1.2.3", "rid:1.2.3", True),
    ("rid:1.2.3", "rid:1.2.4", False),
]


@pytest.mark.parametrize(("child", "parent", "inside"), WITHIN)
def test_a_child_narrows(child: str, parent: str, inside: bool) -> None:
    assert constraints.narrows(limits([parent]), limits([child])) is inside
    assert constraints.narrows(limits([], [parent]), limits([child])) is not inside


def test_a_child_may_leave_out_and_exclude() -> None:
    parent = limits(["dns:example.com"], ["dns:secret.example.com"])
    assert constraints.narrows(parent, None)
    assert constraints.narrows(None, parent)
    assert constraints.narrows(parent, limits(["ip:192.0.2.0/24"]))
    assert constraints.narrows(parent, limits([], ["dns:anything"]))
    assert not constraints.narrows(parent, limits(["dns:www.example.com", "dns:other.example"]))


LABELS = st.lists(st.sampled_from(["a", "b", "com"]), min_size=1, max_size=4).map(".".join)


@given(LABELS, LABELS, LABELS, st.booleans())
@settings(max_examples=100)
def test_what_a_narrower_subtree_permits_the_wider_permits(
    outer: str, inner: str, host: str, dotted: bool
) -> None:
    wide, narrow = limits([f"dns:{outer}"]), limits([f"dns:{'.' * dotted}{inner}"])
    if constraints.narrows(wide, narrow) and allowed(narrow, f"dns:{host}"):
        assert allowed(wide, f"dns:{host}")


@given(LABELS, LABELS, LABELS)
@settings(max_examples=100)
def test_a_wildcard_is_at_most_what_it_stands_for(tree: str, host: str, label: str) -> None:
    """Permitted only if every name below is; clear of an exclusion only if every name is."""
    one = f"{label.partition('.')[0]}.{host}"
    for limit in (limits([f"dns:{tree}"]), limits([], [f"dns:{tree}"])):
        if allowed(limit, f"dns:*.{host}"):
            assert allowed(limit, f"dns:{one}")
