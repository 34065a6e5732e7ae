"""Decision 5: where validation may connect to."""

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.acme.challenges.model import FailureKind, IPAddress, ValidationFailed
from protocols.acme.network import NetworkPolicy, parse_network
from protocols.acme.probe.dial import candidates, is_local


def ip(text: str) -> IPAddress:
    return ipaddress.ip_address(text)


def nowhere(address: IPAddress) -> bool:
    return False


DENIED = [
    "127.0.0.1",
    "127.8.9.10",
    "::1",
    "0.0.0.0",
    "0.1.2.3",
    "::",
    "169.254.1.1",
    "169.254.169.254",
    "fe80::1",
    "224.0.0.1",
    "ff02::1",
    "240.0.0.1",
    "255.255.255.255",
    "100::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "168.63.129.16",
    "100.100.100.200",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0.0.0.0",
    "::127.0.0.1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "2001:0:7f00:1::",
]


@pytest.mark.parametrize("address", DENIED)
def test_denied_by_default(address: str) -> None:
    assert NetworkPolicy().refusal(ip(address), 80, nowhere)


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.5",
        "172.16.3.4",
        "192.168.1.1",
        "100.64.0.1",
        "fd12:3456::1",
        "8.8.8.8",
        "2606:4700::1",
        "::ffff:10.0.0.5",
        "64:ff9b::a00:5",
    ],
)
def test_private_and_public_addresses_are_allowed(address: str) -> None:
    assert NetworkPolicy().refusal(ip(address), 80, nowhere) is None


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "::1", "::ffff:127.0.0.1"])
def test_loopback_can_be_allowed_and_nothing_else_with_it(address: str) -> None:
    policy = NetworkPolicy(allow_loopback=True)
    assert policy.refusal(ip(address), 80, nowhere) is None
    assert policy.refusal(ip("169.254.1.1"), 80, nowhere)
    assert policy.refusal(ip("0.0.0.0"), 80, nowhere)


def test_configured_networks_are_denied_in_every_spelling() -> None:
    policy = NetworkPolicy(denied=(parse_network("10.9.0.0/16"), parse_network("fd99::/64")))
    for address in ("10.9.1.1", "::ffff:10.9.1.1", "fd99::1", "64:ff9b::a09:101"):
        assert policy.refusal(ip(address), 80, nowhere) == ("a network denied by the configuration")
    assert policy.refusal(ip("10.8.0.1"), 80, nowhere) is None


def test_own_listeners_are_denied() -> None:
    policy = NetworkPolicy(own_listeners=((ip("10.0.0.1"), 8443), (ip("::ffff:10.0.0.2"), 8080)))
    assert policy.refusal(ip("10.0.0.1"), 8443, nowhere)
    assert policy.refusal(ip("::ffff:10.0.0.1"), 8443, nowhere)
    assert policy.refusal(ip("10.0.0.2"), 8080, nowhere)
    assert policy.refusal(ip("10.0.0.1"), 80, nowhere) is None
    assert policy.refusal(ip("10.0.0.3"), 8443, nowhere) is None


@pytest.mark.parametrize("wildcard", ["0.0.0.0", "::"])
def test_a_wildcard_listener_is_on_every_local_address(wildcard: str) -> None:
    policy = NetworkPolicy(allow_loopback=True, own_listeners=((ip(wildcard), 8443),))
    here = {ip("10.0.0.1"), ip("fd12::1")}
    for address in ("10.0.0.1", "fd12::1", "127.0.0.1", "127.0.0.9", "::1", "::ffff:10.0.0.1"):
        assert policy.refusal(ip(address), 8443, here.__contains__), address
        assert policy.refusal(ip(address), 8444, here.__contains__) is None, address
    assert policy.refusal(ip("10.0.0.2"), 8443, here.__contains__) is None


def test_is_local() -> None:
    assert is_local(ip("127.0.0.1"))
    assert is_local(ip("127.1.2.3"))
    assert not is_local(ip("192.0.2.1"))
    assert not is_local(ip("2001:db8::1"))


def test_candidates_ipv6_first_and_only_allowed_ones() -> None:
    addresses = [ip(a) for a in ("127.0.0.1", "10.0.0.1", "10.0.0.2", "fe80::1", "fd12::1")]
    assert candidates(addresses, 80, NetworkPolicy()) == (ip("fd12::1"), ip("10.0.0.1"))


def test_if_none_is_allowed_the_reasons_are_named() -> None:
    with pytest.raises(ValidationFailed, match=r"127.0.0.1:80 is a loopback address") as caught:
        candidates([ip("127.0.0.1"), ip("fe80::1")], 80, NetworkPolicy())
    assert caught.value.kind is FailureKind.CONNECTION


@settings(max_examples=100)
@given(st.ip_addresses(v=4), st.integers(1, 65535))
def test_property_spellings_of_an_address_are_judged_alike(
    address: ipaddress.IPv4Address, port: int
) -> None:
    policy = NetworkPolicy()
    mapped = ipaddress.IPv6Address(b"\x00" * 10 + b"\xff\xff" + address.packed)
    translated = ipaddress.IPv6Address(b"\x00\x64\xff\x9b" + b"\x00" * 8 + address.packed)
    expected = policy.refusal(address, port, nowhere)
    assert policy.refusal(mapped, port, nowhere) == expected
    assert policy.refusal(translated, port, nowhere) == expected
