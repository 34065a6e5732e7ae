"""Limits on what a client may send: length of the URL, of the head, of the body, and time.

Pure functions and one `receive` wrapper; `edge.Edge` applies them to every request. A handler that
wants less than the edge allows says so with `read_body(request, limit)`.
"""

import asyncio
from collections.abc import Awaitable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from pkiserver.web.problems import HTTPProblem


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes, counts and seconds. `body_seconds` is for the whole body, so that a client sending a
    byte now and then is cut off too."""

    url_bytes: int = 4096
    header_bytes: int = 16384
    header_count: int = 100
    body_bytes: int = 1 << 20
    body_seconds: float = 30.0


LENIENT_URL_BYTES = 98304
"""Of a URL that carries a whole message (SCEP by GET)."""


def body_too_large(limit: int) -> HTTPProblem:
    return HTTPProblem(413, f"the request body may have at most {limit} bytes")


def check_head(scope: Mapping[str, Any], limits: Limits) -> None:
    """Refuses a request by its head alone: HTTPProblem 400, 413, 414 or 431."""
    path = scope.get("raw_path") or scope["path"].encode()  # ASGI leaves it out at will
    if len(path) + len(scope["query_string"]) > limits.url_bytes:
        raise HTTPProblem(414, f"the URL may have at most {limits.url_bytes} bytes")
    headers = scope["headers"]
    if len(headers) > limits.header_count:
        raise HTTPProblem(431, f"at most {limits.header_count} header fields are accepted")
    size = 0
    for name, value in headers:
        size += len(name) + len(value)
        if name == b"content-length":
            _check_content_length(value, limits.body_bytes)
    if size > limits.header_bytes:
        raise HTTPProblem(431, f"the header fields may have at most {limits.header_bytes} bytes")


def _check_content_length(value: bytes, limit: int) -> None:
    if not value.isdigit() or len(value) > 19:  # RFC 9110 section 8.6: 1*DIGIT
        raise HTTPProblem(400, "Content-Length is not a number")
    if int(value) > limit:
        raise body_too_large(limit)


class LimitedReceive:
    """An ASGI `receive` that raises HTTPProblem 413 or 408 instead of reading on."""

    __slots__ = ("_complete", "_deadline", "_inner", "_left", "_limits", "_loop")

    def __init__(self, inner: Receive, limits: Limits) -> None:
        self._inner = inner
        self._limits = limits
        self._left = limits.body_bytes
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + limits.body_seconds
        self._complete = False

    async def __call__(self) -> Message:
        if self._complete:  # what follows the body is only ever the disconnect: no limit on that
            return await self._inner()
        try:
            message = await _Until(self._inner(), self._deadline)
        except TimeoutError:
            raise HTTPProblem(
                408, f"the request body did not arrive within {self._limits.body_seconds:g} s"
            ) from None
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                raise body_too_large(self._limits.body_bytes)
            self._complete = not message.get("more_body", False)
        return message


class _Until:
    """Awaits something until a moment of the loop's time, then raises TimeoutError. A timer is set
    only if there is anything to wait for: most bodies have arrived with their head."""

    __slots__ = ("_awaited", "_deadline", "_first")

    def __init__(self, awaited: Awaitable[Message], deadline: float) -> None:
        self._awaited = awaited.__await__()
        self._deadline = deadline
        self._first: Any = None

    def __await__(self) -> Generator[Any, Any, Message]:
        try:
            self._first = next(self._awaited)
        except StopIteration as done:
            message: Message = done.value
            return message
        return (yield from self._wait().__await__())

    async def _wait(self) -> Message:
        async with asyncio.timeout_at(self._deadline):
            return await _Rest(self._first, self._awaited)


class _Rest:
    """The rest of an await whose first step was taken, and asked to wait for `first`."""

    __slots__ = ("_awaited", "_first")

    def __init__(self, first: Any, awaited: Generator[Any, Any, Message]) -> None:
        self._first = first
        self._awaited = awaited

    def __await__(self) -> Generator[Any, Any, Message]:
        step = self._first
        try:
            while True:
                try:
                    sent = yield step
                except BaseException as error:  # a cancellation above all
                    step = self._awaited.throw(error)
                else:
                    step = self._awaited.send(sent)
        except StopIteration as done:
            message: Message = done.value
            return message


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body, or HTTPProblem 413 as soon as it is known to be over `limit` bytes."""
    return await receive_body(request.scope, request.receive, limit)


async def receive_body(scope: Mapping[str, Any], receive: Receive, limit: int) -> bytes:
    """`read_body` for a bare ASGI callable."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            _check_content_length(value, limit)
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise body_too_large(limit)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunk if len(chunks) == 1 else b"".join(chunks)
