"""An HTTP/1.1 client that sends octets as they are: one connection, kept alive."""

import asyncio
import contextlib
import ssl
from types import TracebackType
from typing import Self

from interop.fuzz.cases import Case, Reply

SECONDS = 60
"""An answer that takes longer is a finding."""


class Client:
    """Not for several tasks at once. A connection that the server closed is opened again."""

    def __init__(self, port: int, context: ssl.SSLContext | None) -> None:
        self._port = port
        self._context = context
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        await self._close()

    async def send(self, case: Case) -> Reply:
        """Raises OSError or asyncio.IncompleteReadError where a new connection gives no answer."""
        kept = self._streams is not None
        try:
            return await asyncio.wait_for(self._exchange(case), SECONDS)
        except (OSError, asyncio.IncompleteReadError):
            await self._close()
            if not kept:
                raise
            return await asyncio.wait_for(self._exchange(case), SECONDS)

    async def _exchange(self, case: Case) -> Reply:
        if self._streams is None:
            self._streams = await asyncio.open_connection(
                "127.0.0.1", self._port, ssl=self._context,
                server_hostname="localhost" if self._context else None,
            )  # fmt: skip
        reader, writer = self._streams
        fields = [
            *case.headers,
            (b"host", b"localhost"),
            (b"content-length", b"%d" % len(case.body)),
        ]
        head = b"%s %s HTTP/1.1\r\n" % (case.method, case.target)
        writer.write(head + b"".join(b"%s: %s\r\n" % each for each in fields) + b"\r\n" + case.body)
        await writer.drain()
        return await self._read(reader, case.method == b"HEAD")

    async def _read(self, reader: asyncio.StreamReader, bodiless: bool) -> Reply:
        line, *rest = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        status = int(line.split()[1])
        headers = {}
        for field in rest:
            name, _, value = field.partition(b":")
            headers[name.strip().lower()] = value.strip()
        if bodiless or status in (204, 304):
            body = b""
        elif headers.get(b"transfer-encoding") == b"chunked":
            body = await self._chunks(reader)
        else:
            body = await reader.readexactly(int(headers.get(b"content-length", b"0")))
        if headers.get(b"connection") == b"close":
            await self._close()
        return Reply(status, headers, body)

    async def _chunks(self, reader: asyncio.StreamReader) -> bytes:
        body = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readuntil(b"\r\n")
        return body

    async def _close(self) -> None:
        streams, self._streams = self._streams, None
        if streams is None:
            return
        streams[1].close()
        with contextlib.suppress(OSError, TimeoutError):
            await asyncio.wait_for(streams[1].wait_closed(), SECONDS)
