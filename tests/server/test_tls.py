"""TLS, client certificates, HTTP/2 and the reload of certificates, over real sockets."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import trustme
import uvloop
from cryptography import x509
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from structlog.testing import capture_logs

from pkiserver.errors import ErrorCode, PKIError
from pkiserver.server import Listener, Server, Timeouts, TLSFiles, bind
from pkiserver.serving import worker
from pkiserver.web.edge import Edge
from pkiserver.web.limits import Limits
from pkiserver.web.peer import peer
from tests.server.conftest import PASSWORD, Files, echo, running, write_server_files


async def tell_peer(request: Request) -> JSONResponse:
    """What the application knows about the other end."""
    known = peer(request.scope)
    certificate = known.certificate_der
    return JSONResponse(
        {
            "http": request.scope["http_version"],
            "scheme": request.scope["scheme"],
            "address": known.address,
            "subject": certificate
            and x509.load_der_x509_certificate(certificate).subject.rfc4514_string(),
            "chain": [
                x509.load_der_x509_certificate(der).subject.rfc4514_string()
                for der in known.chain_der
            ],
            "tls": known.tls_version,
            "unique": known.tls_unique and known.tls_unique.hex(),
        }
    )


PEER_APP = Starlette(routes=[Route("/", tell_peer)])


async def fetch(port: int, context: ssl.SSLContext, http2: bool = False) -> dict[str, object]:
    async with httpx.AsyncClient(verify=context, http2=http2) as client:
        for _ in range(2):
            answer = await client.get(f"https://localhost:{port}/")
        found: dict[str, object] = answer.json()
        return found


async def test_https_without_client_certificate(files: Files, engine: str) -> None:
    async with running(PEER_APP, files.tls) as (_, port):
        seen = await fetch(port, files.client_context())
    assert seen["scheme"] == "https"
    assert seen["tls"] == "TLSv1.3"
    assert seen["subject"] is seen["unique"] is None
    assert seen["address"] == "127.0.0.1"


@pytest.mark.parametrize("http2", [False, True])
async def test_client_certificate_reaches_the_application(
    files: Files, http2: bool, engine: str
) -> None:
    context = files.client_context()
    files.ca.issue_cert("client@example.org").configure_cert(context)
    offer = running(PEER_APP, files.tls, http2=True, client_ca=lambda: files.ca_pem)
    async with offer as (_, port):
        seen = await fetch(port, context, http2)
    assert seen["http"] == ("2" if http2 else "1.1")
    assert "trustme" in str(seen["subject"])
    assert len(seen["chain"]) == 1  # type: ignore[arg-type]


async def test_an_intermediate_anchor_is_enough(files: Files) -> None:
    """The issuing CA is an anchor although its root is offline and unknown to the server."""
    issuing = files.ca.create_child_ca()
    context = files.client_context()
    issuing.issue_cert("client@example.org").configure_cert(context)
    offer = running(PEER_APP, files.tls, client_ca=lambda: issuing.cert_pem.bytes())
    async with offer as (_, port):
        seen = await fetch(port, context)
    assert seen["subject"]


async def test_a_client_certificate_of_an_unknown_ca_ends_the_handshake(files: Files) -> None:
    context = files.client_context()
    trustme.CA().issue_cert("client@example.org").configure_cert(context)
    async with running(PEER_APP, files.tls, client_ca=lambda: files.ca_pem) as (_, port):
        with capture_logs() as logs, pytest.raises(httpx.TransportError):
            await fetch(port, context)
    assert [(each["client"], each["reason"]) for each in logs] == [
        ("127.0.0.1", "unable to get local issuer certificate")
    ]


async def test_a_required_client_certificate(files: Files) -> None:
    offer = running(
        PEER_APP, files.tls, client_ca=lambda: files.ca_pem, client_certificate_required=True
    )
    async with offer as (_, port):
        with pytest.raises(httpx.TransportError):
            await fetch(port, files.client_context())


async def test_tls_unique_in_tls12_is_the_clients(files: Files, engine: str) -> None:
    """RFC 7030 section 3.5 links the request to the TLS connection by tls-unique."""
    context = files.client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with running(PEER_APP, files.tls) as (_, port):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname="localhost"
        )
        binding = writer.get_extra_info("ssl_object").get_channel_binding("tls-unique")
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
    assert b'"unique":"%s"' % binding.hex().encode() in answer


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
async def test_old_tls_and_weak_ciphers_are_refused(files: Files) -> None:
    async with running(PEER_APP, files.tls) as (_, port):
        for weaken in ("version", "cipher"):
            context = files.client_context()
            if weaken == "version":
                context.set_ciphers("DEFAULT:@SECLEVEL=0")
                context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
            else:
                context.maximum_version = ssl.TLSVersion.TLSv1_2
                context.set_ciphers("AES128-SHA")
            with pytest.raises(httpx.TransportError):
                await fetch(port, context)


@pytest.mark.parametrize("offered", [False, True])
async def test_http2_only_if_offered(files: Files, offered: bool) -> None:
    async with running(PEER_APP, files.tls, http2=offered) as (_, port):
        seen = await fetch(port, files.client_context(), http2=True)
    assert seen["http"] == ("2" if offered else "1.1")


async def test_http2_bodies_limits_and_concurrent_streams(files: Files) -> None:
    app = Edge(echo, limits=Limits(body_bytes=200_000), access_log=False)
    context = files.client_context()
    async with (
        running(app, files.tls, http2=True) as (_, port),
        httpx.AsyncClient(verify=context, http2=True) as client,
    ):
        url = f"https://localhost:{port}/big"
        answers = await asyncio.gather(
            *(client.post(url, content=b"x" * 150_000) for _ in range(5))
        )
        assert {answer.http_version for answer in answers} == {"HTTP/2"}
        assert all(len(answer.content) == 150_000 + len("POST /big  ") for answer in answers)
        refused = await client.post(url, content=b"x" * 300_000)
        assert refused.status_code == refused.json()["status"] == 413
        assert "server" not in refused.headers


async def test_http2_idle_connection_is_closed_and_graceful_stop_says_goaway(
    files: Files,
) -> None:
    context = files.client_context()
    context.set_alpn_protocols(["h2"])
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
    idle = Timeouts(idle=0.2)
    async with running(echo, files.tls, http2=True, timeouts=idle) as (server, port):
        for stop in (False, True):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=context, server_hostname="localhost"
            )
            writer.write(preface)
            first = await reader.read(9)
            if stop:
                await server.stop(1)
            frames = first + await asyncio.wait_for(reader.read(), 5)
            assert (b"\x07\x00\x00\x00\x00\x00" in frames) is stop
            writer.close()


async def test_a_new_certificate_is_used_without_restart(files: Files, tmp_path: Path) -> None:
    """Running connections stay; broken files change nothing."""
    tls = write_server_files(files.ca, tmp_path)
    context = files.client_context()

    async def served(port: int) -> bytes:
        _, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname="localhost"
        )
        certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return certificate

    async with running(echo, tls) as (server, port), httpx.AsyncClient(verify=context) as client:
        url = f"https://localhost:{port}/"
        assert (await client.get(url)).status_code == 200
        first = await served(port)
        await server.reload()
        assert await served(port) == first

        write_server_files(files.ca, tmp_path)
        await server.reload()
        second = await served(port)
        assert second != first
        assert (await client.get(url)).status_code == 200

        tls.cert_path.write_text("garbage")
        await server.reload()
        assert await served(port) == second

        write_server_files(files.ca, tmp_path)
        await server.reload()
        assert await served(port) not in (first, second)


async def test_new_client_anchors_are_used_without_restart(files: Files) -> None:
    other = trustme.CA()
    anchors = [files.ca_pem]
    context = files.client_context()
    other.issue_cert("client@example.org").configure_cert(context)
    async with running(PEER_APP, files.tls, client_ca=lambda: anchors[0]) as (server, port):
        anchors[0] = files.ca_pem + other.cert_pem.bytes()
        await server.reload()
        assert (await fetch(port, context))["subject"]


@pytest.mark.parametrize(
    "change,says",
    [
        ({"password": lambda: b"wrong"}, "cannot use certificate"),
        ({"cert_path": Path("/nonexistent")}, "cannot use certificate"),
    ],
)
async def test_unusable_files_stop_the_start(
    files: Files, change: dict[str, object], says: str
) -> None:
    values = {
        "cert_path": files.tls.cert_path,
        "key_path": files.tls.key_path,
        "password": lambda: PASSWORD,
    }
    sock = bind("127.0.0.1", 0)
    server = Server([Listener(sock, echo, TLSFiles(**(values | change)))])  # type: ignore[arg-type]
    with pytest.raises(PKIError, match=says) as caught:
        await server.start()
    assert caught.value.code is ErrorCode.CONFIGURATION
    sock.close()


async def test_client_anchors_that_are_not_pem_stop_the_start(files: Files) -> None:
    sock = bind("127.0.0.1", 0)
    server = Server([Listener(sock, echo, files.tls, client_ca=lambda: b"\xff")])
    with pytest.raises(PKIError, match="not PEM"):
        await server.start()
    sock.close()


async def test_plain_bytes_on_the_tls_port_do_no_harm(files: Files) -> None:
    async with running(PEER_APP, files.tls, timeouts=Timeouts(handshake=0.2)) as (_, port):
        for data in (b"GET / HTTP/1.1\r\n\r\n", b""):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data)
            assert len(await asyncio.wait_for(reader.read(), 5)) < 20
            writer.close()
        assert (await fetch(port, files.client_context()))["scheme"] == "https"


async def _half_open(port: int, files: Files) -> None:
    """Connections that begin no handshake, or break off in one, count like others."""
    waiting = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    for _, each in waiting:
        each.write(b"no handshake")
    for other, each in waiting:
        with suppress(ConnectionError):
            await asyncio.wait_for(other.read(), 5)
        each.close()
    assert (await fetch(port, files.client_context()))["scheme"] == "https"


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_handshakes_in_progress_are_connections(
    files: Files, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def main() -> None:
        timeouts = Timeouts(handshake=5, linger=0.1)
        async with running(PEER_APP, files.tls, timeouts=timeouts, max_connections=2) as (_, port):
            await _half_open(port, files)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


async def test_a_handshake_that_is_not_ended_is_cut_off(files: Files) -> None:
    """Byte by byte does not help: the time is for all of it."""
    async with running(PEER_APP, files.tls, timeouts=Timeouts(handshake=0.1)) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(bytes.fromhex("16030102000100"))
        with suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 2) == b""
        writer.close()


async def test_a_stop_waits_for_no_handshake(files: Files) -> None:
    async with running(PEER_APP, files.tls, grace=5) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.sleep(0)
        async with asyncio.timeout(1):
            await server.stop(5)
            with suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()


async def test_ipv4_clients_of_an_ipv6_socket_are_ipv4_clients() -> None:
    sock = bind("::ffff:127.0.0.1", 0)
    port = sock.getsockname()[1]
    server = Server([Listener(sock, PEER_APP)])
    await server.start()
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{port}/")
    assert answer.json()["address"] == "127.0.0.1"
    await server.stop(1)
    sock.close()


async def test_sessions_of_clients_without_tickets_are_forgotten(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the connections that would keep them; a few are kept, and resumed."""
    monkeypatch.setattr(worker, "MOST_SESSIONS", 2)
    context = files.client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET
    clients: list[ssl.SSLSocket] = []

    async def connect(session: ssl.SSLSession | None) -> ssl.SSLSocket:
        def blocking() -> ssl.SSLSocket:
            tcp = socket.create_connection(("127.0.0.1", port), timeout=5)
            return context.wrap_socket(tcp, server_hostname="localhost", session=session)

        clients.append(await asyncio.to_thread(blocking))
        return clients[-1]

    async with running(PEER_APP, files.tls) as (server, port):
        session = (await connect(None)).session
        await connect(None)
        await server.reload()
        assert (await connect(session)).session_reused
        await connect(None)
        await server.reload()
        for client in clients:
            assert await asyncio.to_thread(client.recv, 1) == b""
        assert not (await connect(session)).session_reused
        for client in clients:
            client.close()


async def test_a_handshake_older_than_a_change_of_sessions_keeps_none_of_them(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a client that has one connection over each change would keep them all."""
    monkeypatch.setattr(worker, "MOST_SESSIONS", 0)
    context = files.client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET

    def connect() -> socket.socket:
        return socket.create_connection(("127.0.0.1", port), timeout=2)

    def shake(tcp: socket.socket) -> ssl.SSLSocket:
        return context.wrap_socket(tcp, server_hostname="localhost")

    async with running(PEER_APP, files.tls, timeouts=Timeouts(handshake=0.3)) as (server, port):
        begun = connect()
        # By then the other one is accepted as well.
        (await asyncio.to_thread(shake, connect())).close()
        with capture_logs() as logs:
            await server.reload()
        assert [each["event"] for each in logs] == ["TLS sessions forgotten: there were many"]
        late = await asyncio.to_thread(shake, begun)
        assert await asyncio.to_thread(late.recv, 1) == b""
        late.close()


def test_the_password_is_not_in_the_repr(files: Files) -> None:
    assert "correct" not in repr(files.tls) and "lambda" not in repr(files.tls)


def test_bind_says_what_to_do() -> None:
    with bind("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
        with pytest.raises(PKIError, match=f"127.0.0.1:{port}: the port is in use"):
            bind("127.0.0.1", port)
    with pytest.raises(PKIError, match="no such address"):
        bind("192.0.2.1", 0)
    with pytest.raises(PKIError, match="cannot listen on"):
        bind("no.such.host.invalid", 1)
