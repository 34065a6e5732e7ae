"""Calls to other services: bounded in time and size, verified TLS, no redirects, no surprises from
the environment. Neither bodies nor header values reach a log or an error."""

import asyncio
import datetime as dt
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from pkiserver.errors import ErrorCode, PKIError, configuration_error

MOST_BYTES = 1 << 20


class Unreachable(PKIError):
    """No complete answer came: nobody knows whether the call was carried out."""

    def __init__(self, detail: str) -> None:
        super().__init__(ErrorCode.UNAVAILABLE, detail)


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer. `host` is who gave it, for messages."""

    status: int
    body: bytes = field(repr=False)
    host: str


class Outgoing:
    """One connection pool. `anchors` is a PEM file, None: the system's; `proxy` an HTTP proxy;
    `transport` replaces the network in tests."""

    def __init__(
        self,
        *,
        timeout: dt.timedelta,
        anchors: Path | None = None,
        proxy: str = "",
        transport: httpx.AsyncBaseTransport | None = None,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._seconds = timeout.total_seconds()
        self._most_bytes = most_bytes
        self._anchors = anchors
        self._proxy = proxy
        self._transport = transport
        self._client: httpx.AsyncClient | None = None

    def check(self) -> None:
        """Raises `PKIError` CONFIGURATION if the anchors or the proxy cannot be used."""
        self._connected()

    async def call(
        self, method: str, url: str, *, headers: Mapping[str, str], content: bytes = b""
    ) -> Answer:
        """The answer, whatever its status. Raises `Unreachable`."""
        host = urlsplit(url).hostname or "?"
        client = self._connected()
        sent = {**headers, "Accept-Encoding": "identity"}
        try:
            async with (
                asyncio.timeout(self._seconds),
                client.stream(method, url, headers=sent, content=content) as response,
            ):
                return Answer(response.status_code, await self._read(response, host), host)
        except TimeoutError:
            raise Unreachable(f"{host} did not answer within {self._seconds:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise Unreachable(f"{host} cannot be reached: {type(error).__name__}") from error

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _read(self, response: httpx.Response, host: str) -> bytes:
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise Unreachable(f"{host} answered in a form that was not asked for")
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > self._most_bytes:
                raise Unreachable(f"{host} answered with more than {self._most_bytes} bytes")
        return bytes(body)

    def _connected(self) -> httpx.AsyncClient:
        if self._client is None:
            options: dict[str, Any] = {"transport": self._transport}
            if self._transport is None:
                options = {"verify": self._context(), "proxy": self._proxy or None}
            try:
                self._client = httpx.AsyncClient(
                    trust_env=False, follow_redirects=False, timeout=self._seconds, **options
                )
            except (ValueError, httpx.InvalidURL) as error:
                raise configuration_error(f"proxy {self._proxy!r}: {error}") from error
        return self._client

    def _context(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self._anchors)
        except (OSError, ssl.SSLError) as error:
            raise configuration_error(f"{self._anchors} has no usable anchors: {error}") from error
