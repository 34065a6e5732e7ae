"""Clients' IP addresses as limits count them."""

import ipaddress


def site(address: str) -> str:
    """What counts as one: an IPv6 site has any number of addresses, so its /64 does."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False).network_address)
