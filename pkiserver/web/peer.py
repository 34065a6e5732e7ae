"""Who is at the other end: the client certificate, the TLS channel, the address.

The server puts a `Peer` into the extensions of every scope that came over TLS; `peer` reads it and
`client_address` looks through trusted proxies. Nothing else knows where these come from.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pkiserver.errors import configuration_error

PEER_EXTENSION = "pkiserver.peer"
MAX_FORWARDED_HOPS = 20

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of the connection a request came on.

    `certificate_der` is the client certificate, verified by TLS against the listener's anchors;
    `chain_der` is the rest of its chain, up to the anchor. `tls_version` is as OpenSSL names it,
    such as `TLSv1.3`, and None without TLS. `tls_unique` is the channel binding of RFC 5929, which
    exists up to TLS 1.2 only.
    """

    address: str
    certificate_der: bytes | None = field(default=None, repr=False)
    chain_der: tuple[bytes, ...] = field(default=(), repr=False)
    tls_version: str | None = None
    tls_unique: bytes | None = field(default=None, repr=False)


def peer(scope: Mapping[str, Any]) -> Peer:
    """The peer of an ASGI scope: the next hop, which may be a proxy."""
    known: Peer | None = (scope.get("extensions") or {}).get(PEER_EXTENSION)
    if known is not None:
        return known
    return Peer(scope["client"][0] if scope.get("client") else "")


class TrustedProxies:
    """The networks whose X-Forwarded-For and X-Request-Id are believed."""

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks = tuple(_network(text) for text in networks)

    def __contains__(self, address: str) -> bool:
        if not self._networks:
            return False
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        mapped = getattr(parsed, "ipv4_mapped", None)
        return any((mapped or parsed) in network for network in self._networks)


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise configuration_error(f"trusted proxy {text!r} is not a network: {error}") from None


def client_address(scope: Mapping[str, Any], trusted: TrustedProxies) -> str:
    """The client's IP address: the last hop that is not a trusted proxy.

    X-Forwarded-For is read from its end, each entry only if the hop that wrote it is trusted, so a
    client cannot name an address of its choice. An entry that is no address ends the search.
    """
    address: str = scope["client"][0] if scope.get("client") else ""
    if address not in trusted:
        return address
    forwarded = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for")
    for entry in reversed(forwarded.split(b",")[-MAX_FORWARDED_HOPS:]):
        try:
            address = str(ipaddress.ip_address(entry.strip().decode("ascii")))
        except ValueError:
            return address
        if address not in trusted:
            return address
    return address
