"""Shared by the validation tests: a context, a way to play a dialogue without any I/O, a
certificate maker for tls-alpn-01, and a small real name server."""

import asyncio
import contextlib
import datetime as dt
import ipaddress
import ssl
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar, cast

import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID, ObjectIdentifier

from protocols.acme.challenges.model import (
    Answer,
    ChallengeContext,
    Dialogue,
    HTTPAnswer,
    Reached,
    Request,
    TXTAnswer,
    ValidationFailed,
)

NOW = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
TOKEN = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0"
KEY_AUTHORIZATION = f"{TOKEN}.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"
ACCOUNT = "https://ca.example/acme/default/account/1"
CONTEXT = ChallengeContext(
    identifier_type="dns",
    identifier_value="www.example.test",
    wildcard=False,
    token=TOKEN,
    key_authorization=KEY_AUTHORIZATION,
    account_url=ACCOUNT,
    now=NOW,
    issuer_domains=("ca.example",),
)
IP_CONTEXT = replace(CONTEXT, identifier_type="ip", identifier_value="192.0.2.7")
TARGET = ipaddress.ip_address("192.0.2.1")
REACHED = Reached((TARGET,), TARGET, 80)

R = TypeVar("R")


def play(dialogue: Dialogue[R], *answers: Answer | ValidationFailed) -> tuple[R, list[Request]]:
    """Give the answers in turn; the dialogue has to end with the last one."""
    requests = []
    try:
        request = next(dialogue)
        for answer in answers:
            requests.append(request)
            if isinstance(answer, ValidationFailed):
                request = dialogue.throw(answer)
            else:
                request = dialogue.send(answer)
    except StopIteration as end:
        result: R = end.value
        return result, requests
    raise AssertionError(f"the dialogue wants more: {request}")


def page(body: bytes = KEY_AUTHORIZATION.encode(), status: int = 200) -> HTTPAnswer:
    return HTTPAnswer(REACHED, status, None, None, body, truncated=False)


def redirect(location: str | None, status: int = 302) -> HTTPAnswer:
    return HTTPAnswer(REACHED, status, location, None, b"", truncated=False)


def txt(*records: bytes, nxdomain: bool = False, aliases: tuple[str, ...] = ()) -> TXTAnswer:
    return TXTAnswer(records, nxdomain, aliases, "192.0.2.53:53")


ACME_IDENTIFIER = ObjectIdentifier("1.3.6.1.5.5.7.1.31")


@dataclass(frozen=True)
class ALPNCertificate:
    """A certificate as RFC 8737 section 3 wants it, each part of which can be spoiled."""

    digest: bytes
    names: Sequence[x509.GeneralName] = (x509.DNSName("www.example.test"),)
    critical: bool = True
    extension: bytes | None = None
    with_names: bool = True
    with_digest: bool = True
    self_signed: bool = True

    def build(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "challenge")])
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(7)
            .not_valid_before(NOW - dt.timedelta(days=3650))
            .not_valid_after(NOW)
        )
        if self.with_names:
            builder = builder.add_extension(x509.SubjectAlternativeName(self.names), critical=False)
        if self.with_digest:
            value = self.extension or b"\x04\x20" + self.digest
            builder = builder.add_extension(
                x509.UnrecognizedExtension(ACME_IDENTIFIER, value), critical=self.critical
            )
        signer = key if self.self_signed else ec.generate_private_key(ec.SECP256R1())
        return builder.sign(signer, hashes.SHA256()), key

    def der(self) -> bytes:
        return self.build()[0].public_bytes(serialization.Encoding.DER)

    def server_context(self, *protocols: str) -> ssl.SSLContext:
        certificate, key = self.build()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "server.pem"
            path.write_bytes(
                certificate.public_bytes(serialization.Encoding.PEM)
                + key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            )
            context.load_cert_chain(path)
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def listening(
    handler: Handler, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """A TCP or TLS server on a free loopback port. Connections are dropped at the end."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            tasks.add(task)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await handler(reader, writer)
        writer.transport.abort()

    server = await asyncio.start_server(serve, host, 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


@dataclass
class Zone(asyncio.DatagramProtocol):
    """A name server's data and manners. `records` maps (name, type) to texts; names absent from it
    do not exist. `chase` adds the targets of aliases to an answer, as resolvers do."""

    records: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    chase: bool = False
    authoritative: bool = False
    failures: dict[str, list[dns.rcode.Rcode | None]] = field(default_factory=dict)
    """By name, what to answer first: a return code, or silence (None)."""
    truncate: bool = False
    asked: Counter[str] = field(default_factory=Counter)
    queries: list[dns.message.Message] = field(default_factory=list)
    garbage: bytes | None = None

    def add(self, name: str, kind: str, *texts: str) -> None:
        self.records.setdefault((name, kind), []).extend(texts)

    def answer(self, wire: bytes, *, udp: bool) -> bytes | None:
        query = dns.message.from_wire(wire)
        self.queries.append(query)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked[f"{name} {kind} {'udp' if udp else 'tcp'}"] += 1
        reply = dns.message.make_response(query)
        planned = self.failures.get(name)
        if planned:
            code = planned.pop(0)
            if code is None:
                return None
            reply.set_rcode(code)
        elif udp and self.truncate:
            reply.flags |= dns.flags.TC
        else:
            self._fill(reply, name, kind)
        return self.garbage or reply.to_wire(max_size=65535)

    def _fill(self, reply: dns.message.Message, name: str, kind: str) -> None:
        if self.authoritative:
            reply.flags |= dns.flags.AA
        for _ in range(20):
            for found in (kind, "CNAME"):
                texts = self.records.get((name, found))
                if texts:
                    reply.answer.append(dns.rrset.from_text(f"{name}.", 60, "IN", found, *texts))
                    break
            else:
                if name not in {known for known, _ in self.records}:
                    reply.set_rcode(dns.rcode.NXDOMAIN)
                return
            if found == kind or not self.chase:
                return
            name = texts[0].rstrip(".")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        reply = self.answer(data, udp=True)
        if reply is not None:
            self._transport.sendto(reply, addr)

    async def stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(2), "big")
        reply = self.answer(await reader.readexactly(size), udp=False)
        if reply is not None:
            writer.write(len(reply).to_bytes(2, "big") + reply)
            await writer.drain()
            await reader.read()


@contextlib.asynccontextmanager
async def name_server(zone: Zone, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
    """Serve a zone on loopback, UDP and TCP on the same port."""
    async with contextlib.AsyncExitStack() as stack:
        loop = asyncio.get_running_loop()
        if port == 0:
            port = await stack.enter_async_context(listening(zone.stream, host=host))
        transport, _ = await loop.create_datagram_endpoint(lambda: zone, local_addr=(host, port))
        stack.callback(transport.close)
        yield port
