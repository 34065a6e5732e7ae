"""Answers on the spot, as the connection gives them: order, limits, slow clients, stop."""

import asyncio
import socket

import pytest
from starlette.types import Receive, Scope, Send

from pkiserver.server import Timeouts
from pkiserver.web.instant import CompleteRequest, InstantAnswer
from tests.server.conftest import Files, converse, echo, running


class Prompt:
    """Answers below /now/ on the spot, with the path and `padding` octets; the rest is `echo`."""

    def __init__(self, padding: int = 0) -> None:
        self._padding = b"." * padding
        self.given = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await echo(scope, receive, send)

    def answer_now(self, request: CompleteRequest) -> InstantAnswer | None:
        if not request.path.startswith("/now/"):
            return None
        self.given += 1
        content = b"%s|%s" % (request.path.encode(), request.content) + self._padding
        return InstantAnswer(200, b"content-length: %d\r\n" % len(content), content)


def get(path: str) -> bytes:
    return b"GET %s HTTP/1.1\r\nHost: h\r\n\r\n" % path.encode()


LAST = b"GET /last HTTP/1.0\r\n\r\n"


async def test_pipelined_requests_of_both_kinds_are_answered_in_order() -> None:
    """More at once than is read at once, so that some were parsed before they are read."""
    paths = [f"/now/{n}" if n % 3 else f"/later/{n}" for n in range(9000)]
    app = Prompt()
    async with running(app) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for first in (get("/now/first"), get("/first")):
            writer.write(first)
            await reader.readuntil(b"first")
        writer.write(b"".join(map(get, paths)) + LAST)
        answers = (await asyncio.wait_for(reader.read(), 20)).split(b"HTTP/1.1 200 OK")[1:]
        writer.close()
    found = [answer.partition(b"\r\n\r\n")[2].strip(b"GET| ").decode() for answer in answers]
    assert found == [*paths, "/last"]
    assert app.given > 100


@pytest.mark.parametrize("size", [1, 7, 60])
async def test_requests_in_pieces(size: int) -> None:
    app = Prompt()
    post = b"POST /now/1 HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nabcde"
    data = post + get("/now/2") + get("/2") + post
    async with running(app) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.transport.get_extra_info("socket").setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
        )
        for start in range(0, len(data), size):
            writer.write(data[start : start + size])
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        writer.write(LAST)
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    order = [b"/now/2", b"GET /2", b"GET /last"]
    assert answer.count(b"/now/1") == answer.count(b"abcde") == 2
    assert [answer.count(text) for text in order] == [1, 1, 1]
    assert sorted(order, key=answer.index) == order


async def test_over_tls(files: Files) -> None:
    app = Prompt()
    async with running(app, files.tls) as (_, port):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=files.client_context(), server_hostname="localhost"
        )
        for number in range(3):
            writer.write(get(f"/now/{number}"))
            await reader.readuntil(b"/now/%d|" % number)
        writer.close()
        await writer.wait_closed()
    assert app.given == 3


async def test_a_client_that_does_not_read_is_neither_buffered_for_nor_kept() -> None:
    """The answers that wait are bounded by the buffers, not by how many were asked for."""
    app = Prompt(padding=20_000)
    timeouts = Timeouts(idle=0.2, write=0.2, linger=0.1)
    async with running(app, timeouts=timeouts) as (_, port):
        loop = asyncio.get_running_loop()
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", port))
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(loop.sock_sendall(client, get("/now/x") * 300_000), 10)
        client.close()
    assert 0 < app.given < 2000


async def test_idle_time_begins_anew_with_each_answer() -> None:
    app = Prompt()
    async with running(app, timeouts=Timeouts(idle=0.3, linger=0.1)) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        began = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() < began + 0.6:
            writer.write(get("/now/x"))
            await reader.readuntil(b"/now/x|")
            await asyncio.sleep(0.02)
        writer.write(b"GET /now/never HTTP/1.1\r\nHo")
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    assert answer.startswith(b"HTTP/1.1 408 ")


async def test_a_stop_closes_connections_that_wait() -> None:
    app = Prompt()
    async with running(app) as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(get("/now/1"))
        await reader.readuntil(b"/now/1|")
        await server.stop(1)
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


async def test_who_closes_behind_a_request_gets_its_answer() -> None:
    app = Prompt()
    async with running(app) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(get("/now/1"))
        await reader.readuntil(b"/now/1|")
        writer.write(get("/now/2"))
        writer.write_eof()
        assert b"/now/2|" in await asyncio.wait_for(reader.read(), 5)
        writer.close()


@pytest.mark.parametrize("head", [b"GET /now/1 HTTP/1.1\r\n\r\n", b"GET \0\r\n\r\n"])
async def test_what_is_no_request_is_refused(head: bytes) -> None:
    async with running(Prompt()) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in range(2):
            writer.write(get(f"/now/{number}"))
            await reader.readuntil(b"/now/%d|" % number)
        writer.write(head)
        assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 400 ")
        writer.close()


async def test_content_length_with_more_digits_than_a_number_has() -> None:
    head = b"POST /now/1 HTTP/1.1\r\nHost: h\r\nContent-Length: %020d\r\n\r\nabc"
    async with running(Prompt()) as (_, port):
        assert (await converse(port, head % 3)).startswith(b"HTTP/1.1 400 ")
