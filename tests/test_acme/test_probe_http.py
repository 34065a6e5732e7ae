"""http-01 over real sockets, and the exchange without any."""

import asyncio
import ipaddress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.errors import MalformedMessage
from protocols.acme.challenges import ChallengeType, start_validation
from protocols.acme.challenges.model import (
    FailureKind,
    FetchHTTP,
    ValidationFailed,
)
from protocols.acme.network import NetworkPolicy
from protocols.acme.probe import NetworkProber, ProbeSettings, run
from protocols.acme.probe.dial import is_local
from protocols.acme.probe.http import MAX_BODY, HTTPExchange
from tests.test_acme.challenge_support import (
    CONTEXT,
    KEY_AUTHORIZATION,
    TOKEN,
    ALPNCertificate,
    Handler,
    Zone,
    listening,
    name_server,
)

SETTINGS = ProbeSettings(
    policy=NetworkPolicy(allow_loopback=True),
    resolvers=("127.0.0.1:1",),
    connect_timeout=0.5,
    exchange_timeout=0.5,
    dns_timeout=0.5,
    dns_tries=1,
)
IPV6 = pytest.mark.skipif(not is_local(ipaddress.ip_address("::1")), reason="no IPv6 here")
LOCAL = replace(CONTEXT, identifier_type="ip", identifier_value="127.0.0.1")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"


def serving(*replies: bytes, heads: list[bytes] | None = None, hang: bool = False) -> Handler:
    """Answers one connection with each of the replies, in turn."""
    left = list(replies)

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if heads is not None:
            heads.append(head)
        writer.write(left.pop(0))
        await writer.drain()
        if hang:
            await reader.read()
        else:
            writer.close()
            await writer.wait_closed()

    return handler


def with_body(body: bytes) -> bytes:
    return OK % (len(body), body)


GOOD = with_body(KEY_AUTHORIZATION.encode() + b"\n")


async def test_http01_end_to_end() -> None:
    heads: list[bytes] = []
    async with listening(serving(GOOD, heads=heads)) as port:
        context = replace(LOCAL, http01_port=port)
        proof = await run(start_validation(ChallengeType.HTTP_01, context), NetworkProber(SETTINGS))
    assert proof.records[0].address_used == "127.0.0.1"
    lines = heads[0].decode().split("\r\n")
    assert lines[0] == f"GET /.well-known/acme-challenge/{TOKEN} HTTP/1.1"
    assert f"Host: 127.0.0.1:{port}" in lines
    assert any(line.startswith("User-Agent: pkiserver") for line in lines)
    assert "Accept-Encoding: identity" in lines


async def test_a_domain_is_resolved_by_the_configured_resolver() -> None:
    zone = Zone()
    zone.add("www.example.test", "A", "127.0.0.1")
    async with name_server(zone) as dns_port, listening(serving(GOOD)) as port:
        settings = replace(SETTINGS, resolvers=(f"127.0.0.1:{dns_port}",))
        context = replace(CONTEXT, http01_port=port)
        proof = await run(start_validation(ChallengeType.HTTP_01, context), NetworkProber(settings))
    assert proof.records[0].hostname == "www.example.test"
    assert zone.asked["www.example.test AAAA udp"] == 1


async def test_localhost_needs_no_resolver_and_falls_back_to_ipv4() -> None:
    """RFC 6761 section 6.3. Nothing listens on ::1, so the IPv4 address is tried next."""
    async with listening(serving(GOOD)) as port:
        context = replace(CONTEXT, identifier_value="localhost", http01_port=port)
        proof = await run(start_validation(ChallengeType.HTTP_01, context), NetworkProber(SETTINGS))
    assert proof.records[0].addresses_resolved == ("::1", "127.0.0.1")
    assert proof.records[0].address_used == "127.0.0.1"


@IPV6
async def test_ipv4_is_not_tried_once_ipv6_has_answered() -> None:
    async with listening(serving(with_body(b"wrong")), host="::1") as port:
        context = replace(CONTEXT, identifier_value="localhost", http01_port=port)
        with pytest.raises(ValidationFailed, match=rf"\[::1\]:{port} answered with 5 bytes"):
            await run(start_validation(ChallengeType.HTTP_01, context), NetworkProber(SETTINGS))


@IPV6
async def test_ipv6_literal() -> None:
    heads: list[bytes] = []
    async with listening(serving(GOOD, heads=heads), host="::1") as port:
        context = replace(LOCAL, identifier_value="::1", http01_port=port)
        await run(start_validation(ChallengeType.HTTP_01, context), NetworkProber(SETTINGS))
    assert f"Host: [::1]:{port}\r\n".encode() in heads[0]


async def test_a_redirect_to_https_goes_without_certificate_verification() -> None:
    tls = ALPNCertificate(b"\x00" * 32).server_context("http/1.1")
    async with listening(serving(GOOD), tls=tls) as https_port:
        moved = (
            f"HTTP/1.1 301 Moved\r\nLocation: https://127.0.0.1:{https_port}/x\r\n"
            "Content-Length: 1000000\r\n\r\n"
        ).encode()
        async with listening(serving(moved)) as port:
            context = replace(LOCAL, http01_port=port, tls_alpn01_port=https_port)
            proof = await run(
                start_validation(ChallengeType.HTTP_01, context), NetworkProber(SETTINGS)
            )
    assert proof.records[1].url == f"https://127.0.0.1:{https_port}/x"


async def test_the_policy_holds_after_a_redirect() -> None:
    moved = b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/latest/\r\n\r\n"
    async with listening(serving(moved)) as port:
        context = replace(LOCAL, http01_port=port)
        with pytest.raises(ValidationFailed, match="a cloud metadata service") as caught:
            await run(start_validation(ChallengeType.HTTP_01, context), NetworkProber(SETTINGS))
    assert caught.value.kind is FailureKind.CONNECTION


async def test_own_listeners_are_not_dialled() -> None:
    async with listening(serving(GOOD)) as port:
        listener = (ipaddress.ip_address("0.0.0.0"), port)
        policy = NetworkPolicy(allow_loopback=True, own_listeners=(listener,))
        context = replace(LOCAL, http01_port=port)
        with pytest.raises(ValidationFailed, match="own listeners"):
            await run(
                start_validation(ChallengeType.HTTP_01, context),
                NetworkProber(replace(SETTINGS, policy=policy)),
            )


async def test_proxies_in_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    async with listening(serving(GOOD)) as port:
        context = replace(LOCAL, http01_port=port)
        await run(start_validation(ChallengeType.HTTP_01, context), NetworkProber(SETTINGS))


async def failure_of(handler: Handler) -> ValidationFailed:
    async with listening(handler) as port:
        context = replace(LOCAL, http01_port=port)
        with pytest.raises(ValidationFailed) as caught:
            await run(start_validation(ChallengeType.HTTP_01, context), NetworkProber(SETTINGS))
    assert f"Fetching http://127.0.0.1:{port}/.well-known/" in caught.value.detail
    return caught.value


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (b"", "cut off"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf", "cut off"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000, "not valid HTTP"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 4000, "longer than 65536 bytes"),
    ],
)
async def test_broken_servers(reply: bytes, words: str) -> None:
    failure = await failure_of(serving(reply))
    assert failure.kind is FailureKind.CONNECTION
    assert words in failure.detail


async def test_an_endless_body_is_not_read() -> None:
    endless = b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * 100_000
    failure = await failure_of(serving(endless, hang=True))
    assert failure.kind is FailureKind.INCORRECT_RESPONSE
    assert "too long" in failure.detail


async def test_slow_servers_are_given_up() -> None:
    failure = await failure_of(serving(b"HTTP/1.1 200 OK\r\n", hang=True))
    assert failure.kind is FailureKind.CONNECTION
    assert "no answer from 127.0.0.1:" in failure.detail
    assert "within 0.5 seconds" in failure.detail


async def test_a_refused_connection_names_the_address() -> None:
    async with listening(serving()) as port:
        pass
    context = replace(CONTEXT, identifier_value="localhost", http01_port=port)
    with pytest.raises(ValidationFailed) as caught:
        await run(start_validation(ChallengeType.HTTP_01, context), NetworkProber(SETTINGS))
    assert caught.value.kind is FailureKind.CONNECTION
    assert f"connection refused by 127.0.0.1:{port}" in caught.value.detail
    assert f"http://localhost:{port}/.well-known/acme-challenge/{TOKEN}" in caught.value.detail


async def test_https_that_is_not_tls() -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async with listening(plain) as port:
        prober = NetworkProber(SETTINGS)
        with pytest.raises(ValidationFailed, match="TLS handshake") as caught:
            await prober.fetch_http(FetchHTTP("https", "127.0.0.1", port, "/"))
    assert caught.value.kind is FailureKind.TLS


def exchange() -> HTTPExchange:
    made = HTTPExchange("a.test", "/", "test")
    made.request()
    return made


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_response_in_pieces(size: int) -> None:
    data = (
        b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Encoding: Identity\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    )
    running = exchange()
    replies = [running.receive(data[at : at + size]) for at in range(0, len(data), size)]
    assert replies[-1] is not None
    assert (replies[-1].status, replies[-1].body) == (200, b"abcde")
    assert replies[-1].content_encoding == "Identity"


def test_bodies_are_cut() -> None:
    reply = exchange().receive(b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * (MAX_BODY + 1))
    assert reply is not None
    assert reply.truncated
    assert len(reply.body) == MAX_BODY


def test_without_a_length_the_end_of_the_connection_ends_the_body() -> None:
    running = exchange()
    assert running.receive(b"HTTP/1.0 200 OK\r\n\r\nabc") is None
    reply = running.receive(b"")
    assert reply is not None
    assert reply.body == b"abc"


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 99999 OK\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"\x00" * 100,
    ],
)
def test_malformed_responses(data: bytes) -> None:
    running = exchange()
    with pytest.raises(MalformedMessage):
        running.receive(data)
        running.receive(b"")


@settings(max_examples=100)
@given(
    st.lists(
        st.binary(max_size=40)
        | st.sampled_from(
            [
                b"HTTP/1.1 200 OK\r\n",
                b"HTTP/1.1 101 Switching\r\n",
                b"Content-Length: 3\r\n",
                b"Transfer-Encoding: chunked\r\n",
                b"Upgrade: x\r\n",
                b"\r\n",
                b"3\r\nabc\r\n",
                b"0\r\n\r\n",
                b"",
            ]
        ),
        max_size=10,
    )
)
def test_property_an_exchange_replies_or_is_malformed(pieces: list[bytes]) -> None:
    running = exchange()
    try:
        for piece in pieces:
            if running.receive(piece) is not None:
                return
            if not piece:
                raise AssertionError("the end of the connection did not end the exchange")
    except MalformedMessage:
        return
