"""HTTP/1.1 over real sockets, by both engines where they must not differ."""

import asyncio
import json
import socket

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from pkiserver.server import Timeouts
from pkiserver.web.edge import Edge
from pkiserver.web.limits import Limits
from tests.server.conftest import converse, echo, running

GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"


def parse(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    return int(lines[0].split(" ")[1]), headers, body


async def test_keep_alive_and_no_server_header(engine: str) -> None:
    async with running(echo) as (_, port), httpx.AsyncClient() as client:
        for number in range(3):
            answer = await client.post(f"http://127.0.0.1:{port}/p?q={number}", content=b"body")
            assert answer.text == f"POST /p q={number} body"
        assert "server" not in answer.headers
        assert "date" in answer.headers


async def test_pipelined_requests_are_answered_in_order(engine: str) -> None:
    async with running(echo) as (_, port):
        last = b"GET /3 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
        answer = await converse(port, GET + b"GET /2 HTTP/1.1\r\nHost: h\r\n\r\n" + last)
    found = [answer.index(text) for text in (b"GET /x", b"GET /2", b"GET /3")]
    assert found == sorted(found)


async def test_http10_without_host(engine: str) -> None:
    """Old OCSP and CRL clients: RFC 9112 asks for Host in HTTP/1.1 only."""
    async with running(echo) as (_, port):
        status, headers, body = parse(await converse(port, b"GET /old HTTP/1.0\r\n\r\n"))
    assert (status, body) == (200, b"GET /old  ")
    assert headers["connection"] == "close"


async def test_http10_keep_alive() -> None:
    async with running(echo) as (_, port):
        old = b"GET /o HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
        answer = await converse(port, old + b"GET /o HTTP/1.0\r\n\r\n")
    assert answer.count(b"200 OK") == 2
    assert answer.count(b"connection: keep-alive") == 1


async def test_expect_100_continue(engine: str) -> None:
    """ACME checklist 58: curl waits for a 100 before larger bodies."""
    async with running(echo) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nConnection: close\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        interim = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert interim.startswith(b"HTTP/1.1 100 ")
        writer.write(b"ok")
        assert (await reader.read()).endswith(b"POST /  ok")
        writer.close()


async def test_h2c_upgrade_is_not_taken(engine: str) -> None:
    async with running(echo) as (_, port):
        answer = await converse(
            port,
            b"GET /j HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings, close\r\n"
            b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"
            if engine == "h11"
            else b"POST /j HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\n"
            b"Upgrade: h2c\r\nContent-Length: 2\r\n\r\nhi" + b"GET / HTTP/1.0\r\n\r\n",
        )
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"/j" in answer


@pytest.mark.parametrize("data", [b"GET /\r\n\r\n", b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"])
async def test_bytes_that_are_no_request_get_a_problem_document(data: bytes, engine: str) -> None:
    """ACME checklist 27: every answer from 400 up is application/problem+json."""
    async with running(echo) as (_, port):
        status, headers, body = parse(await converse(port, data))
    assert headers["content-type"] == "application/problem+json"
    assert status >= 400
    assert json.loads(body)["status"] == status


@pytest.mark.parametrize(
    "data", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"PUT * HTTP/1.1\r\nHost: h\r\n\r\n"]
)
async def test_bytes_that_are_no_request_are_refused_when_they_come_late(data: bytes) -> None:
    """They are parsed as they arrive, and the coroutine that waits for them sees them after."""
    async with running(Edge(echo, access_log=False)) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"GET /x"), 5)
        writer.write(data)
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    status, _, body = parse(answer[answer.index(b"HTTP/1.1") :])
    assert status == json.loads(body)["status"] >= 400


async def test_bad_chunk_in_a_body_is_refused() -> None:
    head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with running(Edge(echo, access_log=False)) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head)
        await writer.drain()
        await asyncio.sleep(0)
        writer.write(b"xyz\r\n")
        status, _, body = parse(await asyncio.wait_for(reader.read(), 5))
        writer.close()
    assert status == json.loads(body)["status"] == 400


async def test_slow_head_is_cut_off(engine: str) -> None:
    async with running(echo, timeouts=Timeouts(idle=0.1)) as (_, port):
        answer = await converse(port, b"GET / HTTP/1.1\r\nHo")
        if engine == "httptools":
            assert parse(answer)[0] == 408
        assert await converse(port, b"") == b""


async def test_slow_body_is_cut_off_with_408(engine: str) -> None:
    app = Edge(echo, limits=Limits(body_seconds=0.1), access_log=False)
    async with running(app) as (_, port):
        head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc"
        status, _, body = parse(await converse(port, head))
    assert status == json.loads(body)["status"] == 408


async def test_body_too_large_is_refused_by_its_declared_length(engine: str) -> None:
    app = Edge(echo, limits=Limits(body_bytes=1000), access_log=False)
    async with running(app) as (_, port):
        head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\nConnection: close\r\n\r\n"
        status, _, body = parse(await converse(port, head + b"x" * 1001))
    assert status == json.loads(body)["status"] == 413


async def test_body_too_large_is_refused_while_it_arrives(engine: str) -> None:
    """Also: the answer survives although the client goes on sending (RFC 9112 section 9.6)."""
    app = Edge(echo, limits=Limits(body_bytes=1000), access_log=False)
    async with running(app) as (_, port):
        head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunk = b"1000\r\n" + b"x" * 4096 + b"\r\n"
        status, _, body = parse(await converse(port, head + chunk * 50))
    assert status == json.loads(body)["status"] == 413


async def test_an_application_that_reads_no_body_blocks_nothing(engine: str) -> None:
    async def deaf(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 405, "headers": []})
        await send({"type": "http.response.body", "body": b"no"})

    async with running(deaf) as (_, port):
        head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        answer = await converse(port, head + b"1\r\nx\r\n" * 200)
        assert parse(answer)[0] == 405


async def test_streamed_response_is_chunked_and_for_http10_delimited_by_close() -> None:
    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in (b"one", b"", b"two"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async with running(stream) as (_, port):
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"http://127.0.0.1:{port}/")
        assert answer.headers["transfer-encoding"] == "chunked"
        assert answer.content == b"onetwo"
        assert parse(await converse(port, b"GET / HTTP/1.0\r\n\r\n"))[2] == b"onetwo"


async def test_head_and_204_have_no_body(engine: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        status = 204 if scope["path"] == "/204" else 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"abc" if status == 200 else b""})

    async with running(app) as (_, port), httpx.AsyncClient() as client:
        for _ in range(2):
            answer = await client.head(f"http://127.0.0.1:{port}/")
            assert (answer.status_code, answer.content) == (200, b"")
            answer = await client.get(f"http://127.0.0.1:{port}/204")
            assert answer.status_code == 204
            assert "content-length" not in answer.headers


@pytest.mark.parametrize("value", [b"a\r\nSet-Cookie: x", b"a\nb"])
async def test_a_line_break_in_a_response_header_is_not_sent(value: bytes) -> None:
    async def splitting(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"location", value)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async with running(splitting) as (_, port):
        status, headers, _ = parse(await converse(port, GET))
    assert status == 500
    assert "set-cookie" not in headers


async def test_an_application_error_is_a_500_problem(engine: str) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("secret detail")

    async with running(Edge(broken, access_log=False)) as (_, port), httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{port}/")
    assert answer.status_code == answer.json()["status"] == 500
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"]


async def test_an_application_that_fails_in_mid_answer_breaks_the_connection() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"10")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"abc", "more_body": True})
        raise ValueError

    async with running(Edge(broken, access_log=False)) as (_, port):
        assert parse(await converse(port, GET + GET))[2] == b"abc"


async def test_a_client_that_does_not_read_is_cut_off(engine: str) -> None:
    ended = asyncio.Event()

    async def flood(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                block = {"type": "http.response.body", "body": b"x" * 65536, "more_body": True}
                await send(block)
        finally:
            ended.set()

    async with running(flood, timeouts=Timeouts(idle=0.1, write=0.1)) as (_, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(GET)
        await asyncio.wait_for(ended.wait(), 10)
        writer.transport.abort()


async def test_a_client_that_leaves_the_end_of_its_answer_is_cut_off(engine: str) -> None:
    """What nobody waits for any more would wait for ever: closing sends what is left first."""

    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 50_000})

    async with running(large, timeouts=Timeouts(idle=0.1), send_buffer=2048) as (_, port):
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.connect(("127.0.0.1", port))
            client.sendall(GET)
            with pytest.raises(ConnectionError):
                async with asyncio.timeout(3):
                    while client.send(b"\r\n"):  # which begins no request
                        await asyncio.sleep(0.02)


async def test_disconnect_is_told_to_an_application_that_waits_for_it(engine: str) -> None:
    told = asyncio.Event()

    async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        while (await receive())["type"] != "http.disconnect":
            pass
        told.set()

    async with running(waiting) as (_, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        await writer.drain()
        writer.close()
        await asyncio.wait_for(told.wait(), 5)


async def test_connections_over_the_limit_are_refused() -> None:
    async with running(echo, max_connections=1) as (_, port):
        first = await asyncio.open_connection("127.0.0.1", port)
        first[1].write(GET)
        await first[0].readuntil(b"/x")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with pytest.raises(ConnectionError):
            writer.write(GET)
            if await reader.read() == b"":
                raise ConnectionResetError
        writer.close()
        first[1].close()


async def test_graceful_stop_finishes_what_runs_and_closes_what_idles(engine: str) -> None:
    entered, release = asyncio.Event(), asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        entered.set()
        await release.wait()
        await echo(scope, receive, send)

    async with running(slow, grace=5) as (server, port):
        idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", port)
        busy = asyncio.create_task(converse(port, GET))
        await entered.wait()
        stop = asyncio.create_task(server.stop(5))
        assert await idle_reader.read() == b""
        idle_writer.close()
        assert not stop.done()
        release.set()
        assert parse(await busy)[0] == 200
        await stop


async def test_graceful_stop_is_bounded(engine: str) -> None:
    entered = asyncio.Event()

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        entered.set()
        await asyncio.Event().wait()

    async with running(endless) as (server, port):
        busy = asyncio.create_task(converse(port, GET))
        await entered.wait()
        await server.stop(0.05)
        assert not (await busy).startswith(b"HTTP/1.1 200")
