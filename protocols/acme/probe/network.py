"""The prober that uses the network."""

import asyncio
from dataclasses import dataclass, field

from dns.rdata import Rdata
from dns.rdtypes.ANY.CAA import CAA
from dns.rdtypes.ANY.TXT import TXT

from pkiserver.errors import MalformedMessage
from protocols.acme.challenges.model import (
    ALPNAnswer,
    CAAAnswer,
    CAARecord,
    FailureKind,
    FetchHTTP,
    HTTPAnswer,
    ProbeALPN,
    Reached,
    Request,
    ResolveCAA,
    ResolveTXT,
    TXTAnswer,
    ValidationFailed,
)
from protocols.acme.network import NetworkPolicy
from protocols.acme.probe.dial import TLSOptions, connect, describe, streams
from protocols.acme.probe.dns import (
    DNS_PORT,
    DNSClient,
    RdataType,
    parse_nameserver,
    system_nameservers,
)
from protocols.acme.probe.http import HTTPExchange, HTTPReply

_READ = 4096


@dataclass(frozen=True, slots=True)
class ProbeSettings:
    """`resolvers` are `host`, `host:port` or `[v6]:port`; empty means the system's. Times are
    seconds: to connect to one address, for all that follows on the connection, for one DNS try."""

    policy: NetworkPolicy = field(default_factory=NetworkPolicy)
    resolvers: tuple[str, ...] = ()
    authoritative: bool = False
    authoritative_port: int = DNS_PORT
    user_agent: str = "pkiserver (ACME validation, RFC 8555)"
    connect_timeout: float = 3.0
    exchange_timeout: float = 5.0
    dns_timeout: float = 2.0
    dns_tries: int = 3


class NetworkProber:
    """Implements `Prober`. Raises PKIError (CONFIGURATION) for resolvers it cannot use. Takes no
    proxy from the environment."""

    def __init__(self, settings: ProbeSettings) -> None:
        self._settings = settings
        self._dns = DNSClient(
            tuple(parse_nameserver(text) for text in settings.resolvers) or system_nameservers(),
            policy=settings.policy,
            authoritative=settings.authoritative,
            authoritative_port=settings.authoritative_port,
            timeout=settings.dns_timeout,
            tries=settings.dns_tries,
        )

    async def fetch_http(self, request: FetchHTTP) -> HTTPAnswer:
        exchange = HTTPExchange(request.authority, request.target, self._settings.user_agent)
        try:
            reply, reached = await self._exchange(request, exchange)
        except ValidationFailed as failure:
            raise _during(request, failure) from failure
        return HTTPAnswer(
            reached=reached,
            status=reply.status,
            location=reply.location,
            content_encoding=reply.content_encoding,
            body=reply.body,
            truncated=reply.truncated,
        )

    async def _exchange(
        self, request: FetchHTTP, exchange: HTTPExchange
    ) -> tuple[HTTPReply, Reached]:
        tls = TLSOptions(request.host, "http/1.1") if request.scheme == "https" else None
        addresses = await self._dns.addresses(request.host)
        policy, limit = self._settings.policy, self._settings.connect_timeout
        sock, reached = await connect(addresses, request.port, policy, limit)
        timeout = self._settings.exchange_timeout
        async with streams(sock, tls, str(reached), timeout) as (reader, writer):
            try:
                async with asyncio.timeout(timeout):
                    writer.write(exchange.request())
                    return await _read_reply(reader, exchange), reached
            except MalformedMessage as malformed:
                raise _connection(f"{reached}: {malformed.detail}") from malformed
            except OSError as error:
                raise _connection(describe(error, str(reached), timeout)) from error

    async def probe_alpn(self, request: ProbeALPN) -> ALPNAnswer:
        try:
            return await self._handshake(request)
        except ValidationFailed as failure:
            raise _during(request, failure) from failure

    async def _handshake(self, request: ProbeALPN) -> ALPNAnswer:
        tls = TLSOptions(request.server_name, request.protocol)
        addresses = await self._dns.addresses(request.host)
        policy, limit = self._settings.policy, self._settings.connect_timeout
        sock, reached = await connect(addresses, request.port, policy, limit)
        timeout = self._settings.exchange_timeout
        async with streams(sock, tls, str(reached), timeout) as (_, writer):
            session = writer.get_extra_info("ssl_object")
            return ALPNAnswer(
                reached=reached,
                protocol=session.selected_alpn_protocol(),
                certificate=session.getpeercert(binary_form=True),
            )

    async def resolve_txt(self, request: ResolveTXT) -> TXTAnswer:
        found = await self._dns.lookup(request.name, RdataType.TXT)
        return TXTAnswer(
            # RFC 1035 section 3.3.14: a long text comes as several strings of one record.
            records=tuple(b"".join(r.strings) for r in found.records if isinstance(r, TXT)),
            nxdomain=found.nxdomain,
            aliases=found.aliases,
            server=found.server,
        )

    async def resolve_caa(self, request: ResolveCAA) -> CAAAnswer:
        found = await self._dns.lookup(request.name, RdataType.CAA)
        return CAAAnswer(
            records=tuple(_caa_record(record) for record in found.records),
            server=found.server,
        )


def _caa_record(record: Rdata) -> CAARecord:
    """Fails rather than leaves a record out: it may be the one that forbids issuance."""
    if not isinstance(record, CAA):
        raise ValidationFailed(FailureKind.DNS, "A CAA record cannot be read")
    return CAARecord(record.flags, record.tag.decode("ascii"), record.value)


async def _read_reply(reader: asyncio.StreamReader, exchange: HTTPExchange) -> HTTPReply:
    while True:
        reply = exchange.receive(await reader.read(_READ))
        if reply is not None:
            return reply


def _during(request: Request, failure: ValidationFailed) -> ValidationFailed:
    return ValidationFailed(failure.kind, f"{request}: {failure.detail}")


def _connection(detail: str) -> ValidationFailed:
    return ValidationFailed(FailureKind.CONNECTION, detail)
