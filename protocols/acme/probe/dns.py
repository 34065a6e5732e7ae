"""DNS look-ups for validation: no cache, no search domains, no hosts file.

Questions go to the configured resolvers, or, in authoritative mode, to the name servers of the
zone itself, so that a resolver's cache of an earlier "no such name" cannot spoil a validation.
Replies are believed only for the name that was asked: aliases are followed question by question.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.resolver
import dns.rrset

from pkiserver.errors import configuration_error
from protocols.acme.challenges.model import (
    FailureKind,
    IPAddress,
    ValidationFailed,
)
from protocols.acme.network import NetworkPolicy, unmapped
from protocols.acme.probe.dial import is_local

MAX_ALIASES = 8
MAX_SERVERS = 6
"""Name servers of a zone that are asked at most."""
MAX_SERVER_NAMES = 4
DNS_PORT = 53
UDP_PAYLOAD = 1232
"""Octets of a UDP reply we ask for: what passes without fragments."""

RdataType = dns.rdatatype.RdataType

_HOST_PORT = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+))(?::(?P<port>\d{1,5}))?"
)


@dataclass(frozen=True, slots=True)
class Nameserver:
    """A server to ask. `host` is an address, or a name the operating system resolves."""

    host: str
    port: int = DNS_PORT

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Lookup:
    """What a look-up found: the records, the aliases passed, and the server that answered last.
    No records and not `nxdomain` means that the name exists without records of that type."""

    records: tuple[dns.rdata.Rdata, ...]
    nxdomain: bool
    aliases: tuple[str, ...]
    server: str


def parse_nameserver(text: str) -> Nameserver:
    """`host`, `host:port`, `[v6]:port` or a bare IPv6 address. Raises PKIError (CONFIGURATION)."""
    try:
        return Nameserver(str(ipaddress.IPv6Address(text)))
    except ValueError:
        match = _HOST_PORT.fullmatch(text.strip())
    port = int(match["port"] or DNS_PORT) if match else 0
    if match is None or not 0 < port < 65536:
        raise configuration_error(
            f"DNS resolver {text!r} is not of the form HOST, HOST:PORT or [IPV6]:PORT"
        )
    return Nameserver(match["v6"] or match["host"], port)


def system_nameservers() -> tuple[Nameserver, ...]:
    """The resolvers of this host; none if it has none, since a server that validates addresses
    only can do without."""
    try:
        configured = dns.resolver.Resolver().nameservers
    except (dns.exception.DNSException, OSError):
        return ()
    return tuple(parse_nameserver(str(server)) for server in configured)


@dataclass(frozen=True, slots=True)
class DNSClient:
    """Asks `nameservers` in turn, at least `tries` times, `timeout` seconds each; SERVFAIL,
    REFUSED, silence and garbage lead to the next try, truncation to TCP.

    In authoritative mode the zone's servers are found through `nameservers` and asked on
    `authoritative_port`, as far as `policy` lets them be dialled.
    """

    nameservers: tuple[Nameserver, ...]
    policy: NetworkPolicy = field(default_factory=NetworkPolicy)
    authoritative: bool = False
    authoritative_port: int = DNS_PORT
    timeout: float = 2.0
    tries: int = 3

    async def lookup(self, name: str, rdtype: RdataType) -> Lookup:
        """Records of `name`, through at most MAX_ALIASES aliases. Raises ValidationFailed (dns)."""
        return await self._lookup(_parse_name(name), rdtype, self.authoritative)

    async def addresses(self, host: str) -> tuple[IPAddress, ...]:
        """The addresses of `host`, IPv6 first; at least one. An address stands for itself, and
        localhost is what RFC 6761 section 6.3 says. Raises ValidationFailed (dns)."""
        try:
            return (ipaddress.ip_address(host),)
        except ValueError:
            if host == "localhost" or host.endswith(".localhost"):
                return ipaddress.ip_address("::1"), ipaddress.ip_address("127.0.0.1")
        return await self._addresses(_parse_name(host), self.authoritative)

    async def _addresses(self, host: dns.name.Name, authoritative: bool) -> tuple[IPAddress, ...]:
        found = await asyncio.gather(
            self._lookup(host, RdataType.AAAA, authoritative),
            self._lookup(host, RdataType.A, authoritative),
            return_exceptions=True,
        )
        failures = [answer for answer in found if isinstance(answer, BaseException)]
        lookups = [answer for answer in found if isinstance(answer, Lookup)]
        addresses = tuple(
            unmapped(ipaddress.ip_address(record.to_text()))
            for answer in lookups
            for record in answer.records
        )
        if addresses:
            return addresses
        # One family that failed may hide addresses, so it outweighs one that has none.
        if failures:
            raise failures[0]
        raise _failed(_no_addresses(host, lookups))

    async def _lookup(self, name: dns.name.Name, rdtype: RdataType, authoritative: bool) -> Lookup:
        aliases: list[str] = []
        current = name
        while True:
            reply, server = await self._ask(current, rdtype, authoritative)
            rrset = _answer_for(reply, current, rdtype)
            target = None if rrset is not None else _alias_of(reply, current)
            if target is None:
                nxdomain = rrset is None and reply.rcode() == dns.rcode.NXDOMAIN
                return Lookup(tuple(rrset or ()), nxdomain, tuple(aliases), server)
            if len(aliases) == MAX_ALIASES:
                raise _failed(f"{_question(name, rdtype)}: more than {MAX_ALIASES} aliases")
            aliases.append(_show(target))
            current = target

    async def _ask(
        self, name: dns.name.Name, rdtype: RdataType, authoritative: bool
    ) -> tuple[dns.message.Message, str]:
        if not authoritative:
            return await self._ask_any(self.nameservers, name, rdtype, recursive=True)
        servers = await self._zone_servers(name)
        return await self._ask_any(servers, name, rdtype, recursive=False)

    async def _ask_any(
        self,
        servers: Sequence[Nameserver],
        name: dns.name.Name,
        rdtype: RdataType,
        *,
        recursive: bool,
    ) -> tuple[dns.message.Message, str]:
        """The first usable reply and who gave it."""
        if not servers:
            raise _failed(f"{_question(name, rdtype)}: no DNS resolver (set dns_resolvers)")
        failures: list[str] = []
        for attempt in range(max(self.tries, len(servers))):
            server = servers[attempt % len(servers)]
            try:
                reply = await self._exchange(server, name, rdtype, recursive)
            except (dns.exception.DNSException, OSError, EOFError, ValueError) as error:
                failures.append(f"{_reason(error)} from {server}")
                continue
            problem = _unusable(reply, recursive)
            if problem is None:
                return reply, str(server)
            failures.append(f"{problem} from {server}")
        summary = ", ".join(dict.fromkeys(failures))
        raise _failed(f"{_question(name, rdtype)}: {summary}")

    async def _exchange(
        self, server: Nameserver, name: dns.name.Name, rdtype: RdataType, recursive: bool
    ) -> dns.message.Message:
        # Addresses fit into 512 octets, or come by TCP; EDNS is a fifth of the cost of a query.
        edns = None if rdtype in _ADDRESSES else 0
        query = dns.message.make_query(name, rdtype, use_edns=edns, payload=UDP_PAYLOAD)
        if not recursive:
            query.flags &= ~dns.flags.RD
        reply, _ = await dns.asyncquery.udp_with_fallback(
            query,
            await _server_address(server),
            timeout=self.timeout,
            port=server.port,
            ignore_unexpected=True,
            ignore_errors=True,
        )
        return reply

    async def _zone_servers(self, name: dns.name.Name) -> list[Nameserver]:
        """The servers of the zone `name` lies in: those of the nearest name with NS records."""
        zone = name
        while zone != dns.name.root:
            reply, _ = await self._ask_any(self.nameservers, zone, RdataType.NS, recursive=True)
            rrset = _answer_for(reply, zone, RdataType.NS)
            if rrset is not None:
                return await self._server_addresses(zone, rrset)
            zone = zone.parent()
        raise _failed(f"No zone was found for {_show(name)}")

    async def _server_addresses(
        self, zone: dns.name.Name, rrset: dns.rrset.RRset
    ) -> list[Nameserver]:
        names = [dns.name.from_text(record.to_text()) for record in rrset][:MAX_SERVER_NAMES]
        found = await asyncio.gather(
            *(self._addresses(name, False) for name in names), return_exceptions=True
        )
        # IPv4 first: far more hosts have it, and a dead IPv6 route costs a try.
        addresses = sorted(
            {address for group in found if isinstance(group, tuple) for address in group},
            key=lambda address: (address.version, int(address)),
        )
        port = self.authoritative_port
        allowed = [a for a in addresses if self.policy.refusal(a, port, is_local) is None]
        if not allowed:
            reason = "have no addresses" if not addresses else "are refused by network policy"
            raise _failed(f"The name servers of {_show(zone)} {reason}")
        return [Nameserver(str(address), port) for address in allowed[:MAX_SERVERS]]


def _parse_name(name: str) -> dns.name.Name:
    """The absolute name; no search list is ever applied."""
    try:
        return dns.name.from_text(name.encode("ascii").decode("ascii"), dns.name.root)
    except (dns.exception.DNSException, UnicodeError) as error:
        raise _failed(f"{name!r} is not a domain name DNS can carry") from error


def _answer_for(
    reply: dns.message.Message, name: dns.name.Name, rdtype: RdataType
) -> dns.rrset.RRset | None:
    for rrset in reply.answer:
        if rrset.name == name and rrset.rdtype == rdtype and rrset.rdclass == _IN:
            return rrset
    return None


_IN = dns.rdataclass.RdataClass.IN
_ADDRESSES = (RdataType.A, RdataType.AAAA)


def _alias_of(reply: dns.message.Message, name: dns.name.Name) -> dns.name.Name | None:
    """Where `name` is an alias to. A DNAME comes with the CNAME made from it (RFC 6672)."""
    rrset = _answer_for(reply, name, RdataType.CNAME)
    return None if rrset is None else dns.name.from_text(rrset[0].to_text())


def _unusable(reply: dns.message.Message, recursive: bool) -> str | None:
    """Why a reply cannot be taken as an answer; None if it can."""
    if reply.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        return dns.rcode.to_text(reply.rcode())
    # Without AA it is a referral or somebody's cache, not the zone's own word.
    if not recursive and not reply.flags & dns.flags.AA:
        return "no authoritative answer"
    return None


async def _server_address(server: Nameserver) -> str:
    try:
        return str(ipaddress.ip_address(server.host))
    except ValueError:
        found = await asyncio.get_running_loop().getaddrinfo(server.host, server.port)
        # IPv4 first: "localhost" has both, and most resolvers there listen on 127.0.0.1 alone.
        return str(min(found, key=lambda each: each[0] != socket.AF_INET)[4][0])


def _reason(error: Exception) -> str:
    if isinstance(error, dns.exception.Timeout | TimeoutError):
        return "no answer"
    if isinstance(error, OSError):
        return (error.strerror or type(error).__name__).lower()
    return "an unreadable answer"


def _question(name: dns.name.Name, rdtype: RdataType) -> str:
    return f"Looking up {dns.rdatatype.to_text(rdtype)} for {_show(name)}"


def _show(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True)


def _no_addresses(host: dns.name.Name, lookups: Sequence[Lookup]) -> str:
    why = "no such name (NXDOMAIN)" if any(a.nxdomain for a in lookups) else "no A or AAAA records"
    return f"Looking up addresses of {_show(host)}: {why}"


def _failed(detail: str) -> ValidationFailed:
    return ValidationFailed(FailureKind.DNS, detail)
