"""Addresses behind proxies: nobody chooses their own."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.errors import PKIError
from pkiserver.web.peer import PEER_EXTENSION, Peer, TrustedProxies, client_address, peer

PROXIES = TrustedProxies(["10.0.0.0/8", "2001:db8::/32"])


@pytest.mark.parametrize(
    "connection,forwarded,expected",
    [
        ("192.0.2.9", "198.51.100.1", "192.0.2.9"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "203.0.113.5, 198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "198.51.100.1, 10.1.1.1", "198.51.100.1"),
        ("10.0.0.1", "198.51.100.1, garbage", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "10.2.2.2", "10.2.2.2"),
        ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("2001:db8::1", "2001:DB9::0001", "2001:db9::1"),
        ("unix", "198.51.100.1", "unix"),
    ],
)
def test_forwarded_addresses(connection: str, forwarded: str, expected: str) -> None:
    scope = {
        "client": (connection, 1),
        "headers": [(b"x-forwarded-for", forwarded.encode())],
    }
    assert client_address(scope, PROXIES) == expected


def test_several_header_lines_are_one_list() -> None:
    headers = [(b"x-forwarded-for", b"198.51.100.1"), (b"x-forwarded-for", b"10.3.3.3")]
    assert client_address({"client": ("10.0.0.1", 1), "headers": headers}, PROXIES) == (
        "198.51.100.1"
    )


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=100))
def test_any_header_gives_an_address(value: bytes) -> None:
    scope = {"client": ("10.0.0.1", 1), "headers": [(b"x-forwarded-for", value)]}
    assert client_address(scope, PROXIES)


def test_a_wrong_network_is_the_operators_mistake() -> None:
    with pytest.raises(PKIError, match="10.0.0.1/8"):
        TrustedProxies(["10.0.0.1/8"])


def test_peer_without_tls_and_without_address() -> None:
    assert peer({"client": ("192.0.2.1", 5)}) == Peer("192.0.2.1")
    assert peer({"client": None, "extensions": {}}) == Peer("")
    known = Peer("192.0.2.1", certificate_der=b"secret-ish", tls_version="TLSv1.3")
    assert peer({"extensions": {PEER_EXTENSION: known}}) is known
    assert "secret-ish" not in repr(known)
