"""One process's server: accepts connections on its listeners, reloads TLS, stops gracefully."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from pkiserver.errors import PKIError
from pkiserver.serving.connection import Connection, ConnectionInfo, Reader, log
from pkiserver.serving.hypercorn_seam import HypercornConnection
from pkiserver.serving.listeners import Listener, peer_of, tls_context, tls_stamp
from pkiserver.web.peer import PEER_EXTENSION

try:
    from pkiserver.serving.http1 import HTTP1Connection
except ImportError:  # without httptools Hypercorn's h11 speaks HTTP/1.1, at four times the CPU
    HTTP1Connection = None  # type: ignore[assignment,misc]

TLS_SHUTDOWN_SECONDS = 3.0
TLS_LOOK_SECONDS = 5.0
MOST_SESSIONS = 2048
"""OpenSSL keeps the session of each TLS 1.2 client that takes no tickets, 12 kB with a client's
certificate, for two hours, up to 20,480 of them. Python has no word in this."""
ACCEPTED_AT_ONCE = 100
ACCEPT_AGAIN_SECONDS = 1.0
"""After there were no file descriptors left."""


class Server:
    """Serves `listeners` from `start` to `stop`. All in one event loop.

    `start` raises PKIError when TLS files cannot be used. A later reload that fails keeps what was
    loaded and is logged: a server with an old certificate is worth more than none.
    """

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._acceptors = [_Acceptor(listener) for listener in listeners]
        self._watcher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        for acceptor in self._acceptors:
            await acceptor.open()
        if any(acceptor.listener.tls for acceptor in self._acceptors):
            self._watcher = asyncio.create_task(self._watch())

    async def reload(self) -> None:
        """Look at every listener's TLS files now and use them for new connections if changed."""
        for acceptor in self._acceptors:
            acceptor.refresh()

    async def stop(self, grace: float) -> None:
        """Accept nothing more, let running requests end within `grace` seconds, cut the rest."""
        if self._watcher is not None:
            self._watcher.cancel()
        tasks: set[asyncio.Task[None]] = set()
        for acceptor in self._acceptors:
            tasks |= acceptor.close()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace)
            for task in late:
                task.cancel()
            if late:
                log.warning("requests were cut off at the stop", count=len(late))
                await asyncio.wait(late, timeout=1)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(TLS_LOOK_SECONDS)
            await self.reload()


class _Acceptor:
    """One listener: its accepting socket, its TLS context, its connections."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self._server: asyncio.Server | None = None
        self._handshakes: _Handshakes | None = None
        self._stamp: object = None
        self._connections: dict[asyncio.Task[None], Connection] = {}
        self._full = False

    async def open(self) -> None:
        """Accept on a duplicate of the socket, so that closing leaves the port open."""
        listener = self.listener
        if listener.tls is None:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: asyncio.StreamReaderProtocol(Reader(), self._serve),
                sock=listener.sock.dup(),
            )
            return
        try:
            self._stamp = tls_stamp(listener)
        except OSError:  # the context says the same in the operator's words
            self._stamp = None
        context = tls_context(listener)
        self._handshakes = _Handshakes(listener, context, self._has_room, self._serve)

    def refresh(self) -> None:
        """A fresh context rather than a changed one: OpenSSL would keep an old certificate of
        another key type, and connections in their handshake would see half of a change."""
        if self._handshakes is None:
            return
        crowded = self._handshakes.context.session_stats()["number"] > MOST_SESSIONS
        try:
            stamp = tls_stamp(self.listener)
            if stamp == self._stamp and not crowded:
                return
            self._stamp = stamp
            self._handshakes.context = tls_context(self.listener)
        except (OSError, PKIError) as error:
            log.error("TLS files not reloaded; the old ones stay in use", reason=str(error))
            return
        port = self.listener.address[1]
        if not crowded:
            log.info("TLS files reloaded", port=port)
            return
        log.info("TLS sessions forgotten: there were many", port=port)
        # Sessions go with their context, and that with the last of its connections: those that
        # are in their handshake come later.
        self._drain()
        loop = asyncio.get_running_loop()
        loop.call_later(self.listener.timeouts.handshake + 0.1, self._drain)

    def close(self) -> set[asyncio.Task[None]]:
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._handshakes is not None:
            self._handshakes.close()
            self._handshakes = None
        self._drain()
        return set(self._connections)

    def _drain(self) -> None:
        for connection in self._connections.values():
            connection.drain()

    def _has_room(self) -> bool:
        """For another connection. Those whose handshake lasts count, too."""
        handshakes = 0 if self._handshakes is None else self._handshakes.count
        full = len(self._connections) + handshakes >= self.listener.max_connections
        if full and not self._full:
            log.warning("no more connections are taken", most=self.listener.max_connections)
        self._full = full
        return not full

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        closed = self._server is None and self._handshakes is None
        if closed or (self._server is not None and not self._has_room()):
            writer.transport.abort()
            return
        assert task is not None  # noqa: S101
        try:
            self._connections[task] = connection = self._make(reader, writer)
            await connection.serve()
        except OSError:  # gone before its address could be read
            pass
        except asyncio.CancelledError:  # by `stop`; asyncio's callback would report it as an error
            writer.transport.abort()
        except Exception:
            log.exception("connection failed")
        finally:
            self._connections.pop(task, None)
            await _close(writer)

    def _make(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Connection:
        listener = self.listener
        info, alpn_protocol = describe(writer)
        if alpn_protocol == "h2" or HTTP1Connection is None:
            return HypercornConnection(
                listener.app, info, listener.timeouts, reader, writer, alpn_protocol
            )
        return HTTP1Connection(listener.app, info, listener.timeouts, reader, writer)


class _Handshakes:
    """Accepts connections and begins TLS on them. asyncio's own server would not say how many are
    in their handshake."""

    def __init__(
        self,
        listener: Listener,
        context: ssl.SSLContext,
        has_room: Callable[[], bool],
        serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    ) -> None:
        self.context = context
        self._timeouts = listener.timeouts
        self._has_room = has_room
        self._serve = serve
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._sock = listener.sock.dup()
        self._again: asyncio.TimerHandle | None = None
        self._listen()

    @property
    def count(self) -> int:
        """Those in progress."""
        return len(self._tasks)

    def close(self) -> None:
        if self._again is not None:
            self._again.cancel()
        self._loop.remove_reader(self._sock)
        self._sock.close()
        for task in self._tasks:
            task.cancel()

    def _listen(self) -> None:
        self._again = None
        self._loop.add_reader(self._sock, self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                sock, name = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # out of file descriptors or memory
                log.error("cannot accept connections", reason=error.strerror)
                self._loop.remove_reader(self._sock)
                self._again = self._loop.call_later(ACCEPT_AGAIN_SECONDS, self._listen)
                return
            if not self._has_room():
                sock.close()
                continue
            self._tasks.add(self._loop.create_task(self._begin(sock, name)))

    async def _begin(self, sock: socket.socket, name: Any) -> None:
        """The handshake, then the connection in the same task. Why a client certificate was refused
        is said nowhere else: the client only sees the end."""
        task = asyncio.current_task()
        reader = Reader()
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            transport, _ = await self._loop.connect_accepted_socket(
                lambda: protocol,
                sock,
                ssl=self.context,
                ssl_handshake_timeout=self._timeouts.handshake,
                ssl_shutdown_timeout=TLS_SHUTDOWN_SECONDS,
            )
        except OSError as error:
            if isinstance(error, ssl.SSLCertVerificationError):
                reason = error.verify_message
                log.info("client certificate refused", client=_address(name)[0], reason=reason)
            error.__traceback__ = None  # its frames would keep the connection
            return
        finally:
            self._tasks.discard(task)
        await self._serve(reader, asyncio.StreamWriter(transport, protocol, reader, self._loop))


def describe(writer: asyncio.StreamWriter) -> tuple[ConnectionInfo, str]:
    """The connection's part of the scope, and the protocol agreed by ALPN."""
    client = _address(writer.get_extra_info("peername"))
    server = _address(writer.get_extra_info("sockname"))
    ssl_object = writer.get_extra_info("ssl_object")
    if ssl_object is None:
        return ConnectionInfo("http", client, server), "http/1.1"
    peer = peer_of(ssl_object, client[0])
    info = ConnectionInfo("https", client, server, {PEER_EXTENSION: peer})
    return info, ssl_object.selected_alpn_protocol() or "http/1.1"


def _address(name: Any) -> tuple[str, int]:
    """Host and port; OSError if the connection is gone already. A socket for both IPv6 and IPv4
    shows IPv4 addresses mapped (RFC 4291 section 2.5.5.2)."""
    if not name:
        raise ConnectionResetError
    return name[0].removeprefix("::ffff:"), name[1]


async def _close(writer: asyncio.StreamWriter) -> None:
    """Close and wait, but not for a client that leaves the last bytes unread."""
    writer.close()
    try:
        async with asyncio.timeout(TLS_SHUTDOWN_SECONDS):
            await writer.wait_closed()
    except TimeoutError:
        writer.transport.abort()
    except (OSError, ssl.SSLError) as error:
        # asyncio keeps the error at the connection, and its frames would keep the connection.
        error.__traceback__ = None


def quiet_loop_errors(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The event loop's exception handler: handshake failures are the clients' daily business."""
    error = context.get("exception")
    if isinstance(error, (ssl.SSLError, ConnectionError, TimeoutError)):
        log.debug("connection failed", reason=str(error))
    else:
        log.error("event loop error", message=context.get("message"), exc_info=error)
