"""What every connection shares, whichever HTTP version it speaks."""

import asyncio
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, Protocol

import structlog
from structlog.typing import FilteringBoundLogger

from pkiserver.clock import unix_time

log: FilteringBoundLogger = structlog.get_logger("pkiserver.server")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds, and the bytes a request head may have.

    `idle` bounds both the wait for a request and the reading of its head, so a client that
    dribbles header bytes is cut off like one that says nothing. Where the path begins with one of
    `lenient` (in lower case), a head may have `lenient_head_bytes` and lack the Host field: there
    are devices that send a whole message in the URL, over an HTTP/1.1 of their own.
    """

    handshake: float = 10
    idle: float = 30
    write: float = 30
    linger: float = 2
    head_bytes: int = 32768
    lenient: tuple[str, ...] = ()
    lenient_head_bytes: int = 131072


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """The connection's part of an ASGI scope."""

    scheme: str
    client: tuple[str, int] | None
    server: tuple[str, int] | None
    extensions: Mapping[str, Any] = field(default_factory=dict)


class Reader(asyncio.StreamReader):
    """Shows what arrives to `taker` before it is put away for `read`; True: it was dealt with."""

    taker: Callable[[bytes], bool] | None = None

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]  # always bytes here
        if self.taker is None or not self.taker(data):
            super().feed_data(data)


class Connection(Protocol):
    """What the listener needs of an HTTP engine."""

    async def serve(self) -> None:
        """Serve requests until the connection ends; never raises but for cancellation."""
        ...

    def drain(self) -> None:
        """Finish what is in progress, take nothing new, then close."""
        ...


def close(transport: asyncio.WriteTransport) -> None:
    """End a connection that is idle. What its client left unread is not waited for: closing would
    send that first, for as long as the client likes."""
    if transport.get_write_buffer_size():
        transport.abort()
    else:
        transport.close()


def date_header() -> bytes:
    """The Date field (RFC 9110 section 6.6.1), formatted once a second."""
    return _format_date(int(unix_time()))


@functools.lru_cache(maxsize=2)
def _format_date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode("ascii")
