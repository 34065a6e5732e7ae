"""One process's server: accepts connections on its listeners, reloads TLS, stops gracefully."""

import asyncio
import ssl
from collections.abc import Sequence
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
            await acceptor.refresh()

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
    """One listener: its accepting server, its TLS context, its connections."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self._server: asyncio.Server | None = None
        self._stamp: object = None
        self._connections: dict[asyncio.Task[None], Connection] = {}

    async def open(self) -> None:
        try:
            self._stamp = tls_stamp(self.listener)
        except OSError:  # the context says the same in the operator's words
            self._stamp = None
        self._server = await self._accept()

    async def refresh(self) -> None:
        if self.listener.tls is None or self._server is None:
            return
        try:
            stamp = tls_stamp(self.listener)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            replacement = await self._accept()
        except (OSError, PKIError) as error:
            log.error("TLS files not reloaded; the old ones stay in use", reason=str(error))
            return
        self._server.close()
        self._server = replacement
        log.info("TLS files reloaded", port=self.listener.address[1])

    async def _accept(self) -> asyncio.Server:
        """Accept on a duplicate of the socket, so that closing a server leaves the port open.

        A fresh context rather than a changed one: OpenSSL would keep an old certificate of another
        key type, and connections in their handshake would see half of a change.
        """
        listener = self.listener
        options: dict[str, Any] = {}
        if listener.tls is not None:
            options = {
                "ssl": tls_context(listener),
                "ssl_handshake_timeout": listener.timeouts.handshake,
                "ssl_shutdown_timeout": TLS_SHUTDOWN_SECONDS,
            }
        return await asyncio.get_running_loop().create_server(
            self._protocol, sock=listener.sock.dup(), **options
        )

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        return asyncio.StreamReaderProtocol(Reader(), self._connected)

    def close(self) -> set[asyncio.Task[None]]:
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in self._connections.values():
            connection.drain()
        return set(self._connections)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if len(self._connections) >= self.listener.max_connections or self._server is None:
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
    """Host and port; OSError if the connection is gone already."""
    if not name:
        raise ConnectionResetError
    return name[0], name[1]


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
