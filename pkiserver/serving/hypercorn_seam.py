"""The one place that knows Hypercorn's inside: connections spoken by its HTTP/2 and h11 engines.

Hypercorn 0.18 gives the application neither the client certificate nor the channel binding, runs
WebSocket and h2c upgrades nobody asked for, and can wait for ever for a client that does not read.
`HypercornConnection` is its TCPServer with these put right. The version is pinned, and
tests/server run it over real sockets.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any

import h2.events
import h11
from h2.errors import ErrorCodes
from h2.events import DataReceived, RequestReceived, StreamReset
from h2.exceptions import ProtocolError
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import EventWrapper, WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.typing import ConnectionState
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pkiserver.serving.connection import ConnectionInfo, Timeouts, close, date_header, log
from pkiserver.web.problems import problem_body

READ_SIZE = 65536
BUFFERED_MESSAGES = 16
CONCURRENT_STREAMS = 64


class _Config(Config):
    """Hypercorn's settings; nothing is read from files or the environment."""

    def response_headers(self, protocol: str) -> list[tuple[bytes, bytes]]:
        return [(b"date", date_header())]  # and no Server header


@lru_cache(maxsize=8)
def _config(timeouts: Timeouts) -> _Config:
    config = _Config()
    config.accesslog = None
    config.h11_max_incomplete_size = timeouts.head_bytes
    config.h2_max_header_list_size = timeouts.head_bytes
    config.h2_max_concurrent_streams = CONCURRENT_STREAMS
    config.keep_alive_max_requests = 1_000_000
    return config


class HypercornConnection(TCPServer):
    """One connection. Raises nothing; `drain` may be called at any time."""

    def __init__(
        self,
        app: ASGIApp,
        info: ConnectionInfo,
        timeouts: Timeouts,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        alpn_protocol: str,
    ) -> None:
        loop = asyncio.get_running_loop()
        context = WorkerContext(None)
        call = _adapt(app, info, timeouts, writer.transport)
        super().__init__(call, loop, _config(timeouts), context, {}, reader, writer)
        self._info = info
        self._timeouts = timeouts
        self._alpn_protocol = alpn_protocol
        self._idle_timer: asyncio.TimerHandle | None = None
        self._busy = False

    def drain(self) -> None:
        terminated = self.context.terminated
        if isinstance(terminated, EventWrapper):
            terminated._event.set()  # its own `set` is a coroutine, though it waits for nothing
        if not self._busy:
            self._say_goodbye()
            self.writer.transport.close()

    def _say_goodbye(self) -> None:
        """GOAWAY tells an HTTP/2 client that nothing it may have sent meanwhile was processed."""
        if isinstance(self.protocol.protocol, H2Protocol):
            self.protocol.protocol.connection.close_connection()
            self.writer.write(self.protocol.protocol.connection.data_to_send())

    async def serve(self) -> None:
        try:
            async with _Tasks(self.loop, self.writer.transport) as tasks:
                self.protocol = ProtocolWrapper(
                    self.app,
                    self.config,
                    self.context,
                    tasks,
                    ConnectionState({}),
                    self._info.scheme == "https",
                    self._info.client,
                    self._info.server,
                    self.protocol_send,
                    self._alpn_protocol,
                )
                self.protocol.protocol = _corrected(self.protocol.protocol)
                await self.protocol.initiate()
                self._set_idle(True)
                await self._read_data()
        except* (OSError, ssl.SSLError):
            pass
        finally:
            self._set_idle(False)
            del self.protocol  # it holds this connection, which nobody else would let go of

    def _set_idle(self, idle: bool) -> None:
        self._busy = not idle
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if idle and self.context.terminated.is_set():
            self.writer.transport.close()
        elif idle:
            self._idle_timer = self.loop.call_later(
                self._timeouts.idle, close, self.writer.transport
            )

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, RawData):
            await self._write(event.data)
        elif isinstance(event, Closed):
            self.writer.transport.close()
        elif isinstance(event, Updated):
            self._set_idle(event.idle)

    async def _write(self, data: bytes) -> None:
        self.writer.write(data)
        if self.writer.transport.get_write_buffer_size() <= READ_SIZE:
            return
        try:
            async with asyncio.timeout(self._timeouts.write), self.send_lock:
                await self.writer.drain()
        except (TimeoutError, ConnectionError):
            self.writer.transport.abort()

    async def _read_data(self) -> None:
        while data := await self._read():
            await self.protocol.handle(RawData(data))
        await self.protocol.handle(Closed())

    async def _read(self) -> bytes:
        try:
            return await self.reader.read(READ_SIZE)
        except OSError:
            return b""


class _Tasks(TaskGroup):
    """The connection's tasks: bounded, and never blocked by an application that reads no body."""

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.WriteTransport) -> None:
        super().__init__(loop)
        self._transport = transport
        self._applications = 0

    async def spawn_app(
        self, app: Any, config: Config, scope: Any, send: Callable[[Any], Awaitable[None]]
    ) -> Callable[[Any], Awaitable[None]]:
        # A reset stream leaves its application running; opening and resetting streams at speed
        # (CVE-2023-44487) must not pile them up.
        self._applications += 1
        if self._applications > 2 * CONCURRENT_STREAMS:
            log.warning("too many streams on one connection")
            self._transport.abort()
        inbox = _Inbox()
        self.spawn(self._run, app, scope, send, inbox)
        return inbox.put

    async def _run(
        self, app: Any, scope: Any, send: Callable[[Any], Awaitable[None]], inbox: "_Inbox"
    ) -> None:
        try:
            await app(scope, inbox.get, send, None, None)
        except ConnectionError:
            pass
        except Exception:
            log.exception("application error", path=scope.get("path"))
        finally:
            self._applications -= 1
            inbox.close()
            await send(None)


class _Inbox:
    """Messages for one application. `put` waits while it is full, until the application ends."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Any] = asyncio.Queue()
        self._room = asyncio.Event()
        self._room.set()
        self._closed = False

    async def put(self, message: Any) -> None:
        if message["type"] != "http.disconnect":
            await self._room.wait()
        if self._closed:
            return
        self._queue.put_nowait(message)
        if self._queue.qsize() >= BUFFERED_MESSAGES:
            self._room.clear()

    async def get(self) -> Any:
        message = await self._queue.get()
        if not self._closed and self._queue.qsize() < BUFFERED_MESSAGES:
            self._room.set()
        return message

    def close(self) -> None:
        self._closed = True
        self._room.set()


def _adapt(
    app: ASGIApp, info: ConnectionInfo, timeouts: Timeouts, transport: asyncio.WriteTransport
) -> Any:
    """Hypercorn's calling convention around `app`; adds the extensions Hypercorn does not know.

    An HTTP/2 client that opens no flow-control window would hold its answer for ever, so each
    `send` has the write timeout.
    """

    async def call(
        scope: Scope, receive: Receive, send: Send, sync_spawn: Any, call_soon: Any
    ) -> None:
        async def respond(message: Message) -> None:
            if transport.is_closing():
                raise ConnectionResetError
            try:
                async with asyncio.timeout(timeouts.write):
                    await send(message)
            except TimeoutError:
                transport.abort()
                raise ConnectionAbortedError("the client does not take its answer") from None

        scope.setdefault("extensions", {}).update(info.extensions)
        await app(scope, receive, respond)

    return call


def _corrected(made: H11Protocol | H2Protocol) -> H11Protocol | H2Protocol:
    """The same engine, in our version of it."""
    engine = _PlainHTTP1 if isinstance(made, H11Protocol) else _SteadyHTTP2
    return engine(
        made.app,
        made.config,
        made.context,
        made.task_group,
        made.connection_state,
        made.ssl,
        made.client,
        made.server,
        made.send,
    )


class _SteadyHTTP2(H2Protocol):
    """HTTP/2 without the ways a client has to take Hypercorn's engine down.

    Hypercorn looks up the stream of every DATA frame and fails, with every other request on the
    connection, when it is answered already; fails likewise on CONNECT and on a path that is not
    ASCII; and does not say that a connection is idle when the client has reset its last stream,
    which would leave it without a timeout.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.connection.decoder.max_header_list_size = self.config.h2_max_header_list_size

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            if isinstance(event, DataReceived) and event.stream_id not in self.streams:
                self._drop(event)
            elif isinstance(event, RequestReceived) and not _servable(event):
                with suppress(ProtocolError):
                    self.connection.reset_stream(event.stream_id or 0, ErrorCodes.PROTOCOL_ERROR)
            else:
                await super()._handle_events([event])
            if isinstance(event, StreamReset) and self.idle:
                await self.send(Updated(idle=True))
        await self._flush()

    def _drop(self, event: DataReceived) -> None:
        """Count the bytes as taken, so that the client can end its message.

        A reset (RFC 9113 section 8.1) would stop it sooner, but some clients lose the answer then.
        """
        with suppress(ProtocolError):
            self.connection.acknowledge_received_data(
                event.flow_controlled_length or 0, event.stream_id or 0
            )


def _servable(request: RequestReceived) -> bool:
    fields = dict(request.headers or ())
    path = fields.get(b":path", b"")
    return fields.get(b":method") != b"CONNECT" and path.startswith((b"/", b"*")) and path.isascii()


class _PlainHTTP1(H11Protocol):
    """h11 without upgrades, answering unusable bytes with a problem document."""

    async def _check_protocol(self, event: h11.Request) -> None:
        """No h2c: HTTP/2 is chosen by ALPN or not at all."""

    async def _send_error_response(self, status_code: int) -> None:
        body = problem_body(status_code, "the request is not acceptable HTTP/1.1")
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
            (b"date", date_header()),
        ]
        await self._send_h11_event(h11.Response(status_code=status_code, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())
