"""A running server on loopback and certificates for it."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from starlette.types import ASGIApp, Receive, Scope, Send

from pkiserver.server import Listener, Server, Timeouts, TLSFiles, bind
from pkiserver.serving import worker

PASSWORD = b"correct horse"


@dataclass(frozen=True)
class Files:
    """A CA and the server's files made with it."""

    ca: trustme.CA
    tls: TLSFiles
    ca_pem: bytes

    def client_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        return context


def write_server_files(ca: trustme.CA, folder: Path) -> TLSFiles:
    """A certificate for localhost and its key as encrypted PKCS#8; replaces what is there."""
    issued = ca.issue_cert("localhost", "127.0.0.1")
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(PASSWORD),
    )
    (folder / "tls.key").write_bytes(encrypted)
    (folder / "tls.crt").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    return TLSFiles(folder / "tls.crt", folder / "tls.key", lambda: PASSWORD)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    ca = trustme.CA()
    return Files(ca, write_server_files(ca, tmp_path_factory.mktemp("tls")), ca.cert_pem.bytes())


@pytest.fixture(params=["httptools", "h11"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """HTTP/1.1 once by llhttp and once by Hypercorn's h11, as without httptools."""
    if request.param == "h11":
        monkeypatch.setattr(worker, "HTTP1Connection", None)
    return str(request.param)


@asynccontextmanager
async def running(
    app: ASGIApp,
    tls: TLSFiles | None = None,
    *,
    http2: bool = False,
    client_ca: Callable[[], bytes] | None = None,
    client_certificate_required: bool = False,
    timeouts: Timeouts | None = None,
    max_connections: int = 100,
    grace: float = 1.0,
    send_buffer: int | None = None,
) -> AsyncIterator[tuple[Server, int]]:
    """The server and its port; stopped gracefully at the end."""
    sock = bind("127.0.0.1", 0)
    if send_buffer is not None:  # inherited by what is accepted
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    listener = Listener(
        sock,
        app,
        tls,
        http2,
        client_ca,
        client_certificate_required,
        timeouts or Timeouts(linger=0.2),
        max_connections,
    )
    server = Server([listener])
    try:
        await server.start()
        yield server, listener.address[1]
    finally:
        await server.stop(grace)
        sock.close()


async def converse(port: int, data: bytes) -> bytes:
    """Send `data` on a new connection and return everything until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        return await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()
        await writer.wait_closed()


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with method, path, query and body."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    text = f"{scope['method']} {scope['path']} ".encode() + scope["query_string"] + b" " + body
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-length", b"%d" % len(text))],
        }
    )
    await send({"type": "http.response.body", "body": text})
