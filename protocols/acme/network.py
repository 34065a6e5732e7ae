"""Where validation may connect to (RFC 8555 section 10.4: server-side request forgery).

Clients choose the names, and through DNS and redirects the addresses, so every address is judged
just before it is dialled. Private ranges are allowed, since what is validated lives there; what is
refused are addresses at which the answer would not be the client's: this host, its neighbours on
the link, groups, and the metadata services of clouds.
"""

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from protocols.acme.challenges.model import IPAddress

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_METADATA: frozenset[IPAddress] = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "169.254.169.254",  # most clouds
        "168.63.129.16",  # Azure
        "100.100.100.200",  # Alibaba
        "192.0.0.192",  # Oracle
        "fd00:ec2::254",  # Amazon
        "fd20:ce::254",  # Google
    )
)
_THIS_NETWORK = ipaddress.IPv4Network("0.0.0.0/8")
"""RFC 1122 section 3.2.1.3: Linux takes 0.0.0.0 for the host itself."""
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""RFC 6052 section 2.1: the last 32 bits are the IPv4 address reached."""


def parse_network(text: str) -> IPNetwork:
    """An address or a network in CIDR form; ValueError for anything else, host bits included."""
    return ipaddress.ip_network(text)


def _embedded(address: IPAddress) -> Iterable[IPAddress]:
    """The address, and every IPv4 address it is another spelling of or a tunnel to."""
    yield address
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            yield address.ipv4_mapped
        if address.sixtofour is not None:
            yield address.sixtofour
        if address.teredo is not None:
            yield from address.teredo
        if address in _NAT64:
            yield ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)


def unmapped(address: IPAddress) -> IPAddress:
    """The IPv4 address for an IPv4-mapped IPv6 one, others unchanged."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """`allow_loopback` is for development and tests. `denied` are the operator's own refusals.
    `own_listeners` are the sockets this server serves on; one on a wildcard address (`0.0.0.0` or
    `::`) stands for that port on every address of this host."""

    allow_loopback: bool = False
    denied: tuple[IPNetwork, ...] = ()
    own_listeners: tuple[tuple[IPAddress, int], ...] = ()

    def refusal(
        self, address: IPAddress, port: int, is_local: Callable[[IPAddress], bool]
    ) -> str | None:
        """Why `address` may not be dialled on `port`; None if it may. `is_local` tells whether an
        address belongs to this host."""
        for spelling in _embedded(address):
            reason = self._range_refusal(spelling) or self._own_refusal(spelling, port, is_local)
            if reason is not None:
                return reason
        return None

    def _range_refusal(self, address: IPAddress) -> str | None:
        if any(address.version == net.version and address in net for net in self.denied):
            return "a network denied by the configuration"
        if address in _METADATA:
            return "a cloud metadata service"
        if address.is_loopback:
            return None if self.allow_loopback else "a loopback address"
        if address.is_unspecified or address in _THIS_NETWORK:
            return "an unspecified address"
        if address.is_link_local:
            return "a link-local address"
        if address.is_multicast:
            return "a multicast address"
        if _is_reserved(address):
            return "a reserved address"
        return None

    def _own_refusal(
        self, address: IPAddress, port: int, is_local: Callable[[IPAddress], bool]
    ) -> str | None:
        for listener, listening_port in self.own_listeners:
            if port != listening_port:
                continue
            if unmapped(listener) == address:
                return "one of this server's own listeners"
            if listener.is_unspecified and (address.is_loopback or is_local(address)):
                return "one of this server's own listeners"
        return None


def _is_reserved(address: IPAddress) -> bool:
    """Reserved by the IETF. Spellings of IPv4 addresses lie in such a range and are judged by the
    address they stand for."""
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_reserved
    return address.is_reserved and address.ipv4_mapped is None and address not in _NAT64
