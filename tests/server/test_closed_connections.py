"""What a closed connection had is given back at once, not when the garbage collector comes round:
a TLS connection takes half a megabyte, and clients open and close them by the thousand."""

import asyncio
import contextlib
import gc
import socket
import ssl
import struct
from collections.abc import Callable, Iterator

import httpx
import pytest

from pkiserver.server import Timeouts
from pkiserver.serving.http1 import HTTP1Connection
from pkiserver.serving.http1_parser import Request, RequestParser
from pkiserver.serving.hypercorn_seam import HypercornConnection
from tests.server.conftest import Files, converse, echo, running

CLIENTS = 3
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
OF_A_CONNECTION = (
    HTTP1Connection,
    HypercornConnection,
    Request,
    RequestParser,
    asyncio.StreamReader,
    asyncio.StreamWriter,
    ssl.SSLObject,
)

Visit = Callable[[ssl.SSLSocket], None]


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What is made from here on is of the youngest generation and stays in it."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def nothing_left() -> None:
    """Clients use blocking sockets, so that all of these are the server's."""
    try:
        async with asyncio.timeout(3):
            while left := _left():
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"still there: {left}")


def _left() -> list[str]:
    young = gc.get_objects(generation=0)
    return [type(each).__name__ for each in young if isinstance(each, OF_A_CONNECTION)]


def _read_all(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while connection.recv(65536):
            pass


def asks(connection: ssl.SSLSocket) -> None:
    connection.sendall(GET)
    connection.recv(65536)


def asks_to_close(connection: ssl.SSLSocket) -> None:
    connection.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    _read_all(connection)


def says_nothing(connection: ssl.SSLSocket) -> None:
    pass


def waits(connection: ssl.SSLSocket) -> None:
    _read_all(connection)


def sends_no_request(connection: ssl.SSLSocket) -> None:
    asks(connection)
    connection.sendall(b"\xff\xfe\r\n\r\n")
    _read_all(connection)


def resets(connection: ssl.SSLSocket) -> None:
    head = GET.replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 9\r\n\r\n")
    connection.sendall(head + b"begun")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize(
    "visit", [asks, asks_to_close, says_nothing, waits, sends_no_request, resets]
)
@pytest.mark.usefixtures("no_collector")
async def test_tls(files: Files, visit: Visit) -> None:
    context = files.client_context()

    def client(port: int) -> None:
        tcp = socket.create_connection(("127.0.0.1", port))
        with context.wrap_socket(tcp, server_hostname="localhost") as connection:
            visit(connection)

    async with running(echo, files.tls, timeouts=Timeouts(idle=0.2, linger=0.1)) as (_, port):
        await asyncio.gather(*(asyncio.to_thread(client, port) for _ in range(CLIENTS)))
        await nothing_left()


@pytest.mark.usefixtures("no_collector")
async def test_http2(files: Files) -> None:
    context = files.client_context()

    def client(port: int) -> None:
        with httpx.Client(verify=context, http2=True) as client:
            answer = client.get(f"https://localhost:{port}/")
        assert answer.http_version == "HTTP/2"

    async with running(echo, files.tls, http2=True) as (_, port):
        await asyncio.to_thread(client, port)
        await nothing_left()


@pytest.mark.parametrize("data", [GET, b"\xff\r\n\r\n"])
@pytest.mark.usefixtures("no_collector")
async def test_without_tls(data: bytes) -> None:
    async with running(echo, timeouts=Timeouts(idle=0.2, linger=0.1)) as (_, port):
        await converse(port, data)
        await nothing_left()
