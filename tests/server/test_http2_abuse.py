"""HTTP/2 clients that misbehave: each is cut off, and nothing of theirs stays."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import h2.config
import h2.connection
import h2.settings
import httpx
import pytest
from starlette.types import Receive, Scope, Send
from structlog.testing import capture_logs

from pkiserver.server import Server, Timeouts
from pkiserver.serving.hypercorn_seam import CONCURRENT_STREAMS
from pkiserver.web.edge import Edge
from pkiserver.web.limits import Limits
from tests.server.conftest import Files, echo, running

HEADERS = [(":method", "GET"), (":path", "/"), (":scheme", "https"), (":authority", "h")]


class Client:
    """An h2 connection that does only what it is told."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(validate_outbound_headers=False)
        )
        self.h2.initiate_connection()

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def get(self, headers: list[tuple[str, str]] = HEADERS) -> int:
        stream: int = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, headers, end_stream=True)
        return stream

    async def closed(self) -> None:
        """Read until the server closes, within five seconds."""
        try:
            async with asyncio.timeout(5):
                while await self.reader.read(65536):
                    pass
        except (ConnectionError, ssl.SSLError):
            pass


@asynccontextmanager
async def connected(
    files: Files, app: Any, timeouts: Timeouts
) -> AsyncIterator[tuple[Server, Client]]:
    context = files.client_context()
    context.set_alpn_protocols(["h2"])
    async with running(app, files.tls, http2=True, timeouts=timeouts, grace=0.1) as (server, port):
        streams = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname="localhost"
        )
        client = Client(*streams)
        try:
            yield server, client
        finally:
            client.writer.transport.abort()


async def hang(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.Event().wait()


async def test_rapid_reset_is_cut_off(files: Files) -> None:
    """CVE-2023-44487: streams opened and reset at speed do not pile up applications."""
    async with connected(files, hang, Timeouts()) as (_, client):
        for _ in range(2 * CONCURRENT_STREAMS + 1):
            client.h2.reset_stream(client.get())
        client.flush()
        await client.closed()


async def test_a_connection_whose_streams_were_reset_is_idle(files: Files) -> None:
    async with connected(files, hang, Timeouts(idle=0.1)) as (_, client):
        client.h2.reset_stream(client.get())
        client.flush()
        await client.closed()


async def test_a_client_that_opens_no_window_is_cut_off(files: Files) -> None:
    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 200_000})

    async with connected(files, large, Timeouts(write=0.1)) as (_, client):
        client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
        client.get()
        client.flush()
        await client.closed()


async def test_a_slow_body_gets_408_and_the_connection_goes_on(files: Files) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(0.2)
        yield b"y"

    app = Edge(echo, limits=Limits(body_seconds=0.05), access_log=False)
    async with (
        running(app, files.tls, http2=True) as (_, port),
        httpx.AsyncClient(verify=files.client_context(), http2=True) as client,
    ):
        answer = await client.post(f"https://localhost:{port}/", content=slow())
        assert answer.status_code == answer.json()["status"] == 408
        answer = await client.post(f"https://localhost:{port}/", content=b"quick")
        assert (answer.status_code, answer.http_version) == (200, "HTTP/2")


@pytest.mark.parametrize(
    "headers",
    [
        [*HEADERS, ("x", "y" * 40_000)],
        [*HEADERS, *[(f"x{number}", "y" * 100) for number in range(400)]],
    ],
)
async def test_a_header_list_over_the_limit_is_refused(
    files: Files, headers: list[tuple[str, str]]
) -> None:
    async with connected(files, echo, Timeouts()) as (_, client):
        client.h2.remote_settings[h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE] = 1 << 20
        client.get(headers)
        client.flush()
        await client.closed()


@pytest.mark.parametrize(
    "headers",
    [
        [(":method", "GET"), (":scheme", "https"), (":authority", "h")],
        [(":path", "/"), (":scheme", "https"), (":authority", "h")],
        [(":method", "GET"), (":path", "/\xff"), (":scheme", "https"), (":authority", "h")],
        [(":method", "CONNECT"), (":authority", "h:1")],
        [*HEADERS, ("connection", "close")],
    ],
)
async def test_malformed_requests_do_no_harm(files: Files, headers: list[tuple[str, str]]) -> None:
    with capture_logs() as events:
        async with connected(files, echo, Timeouts(idle=0.1)) as (_, client):
            client.get(headers)
            client.flush()
            await client.closed()
    assert not events
