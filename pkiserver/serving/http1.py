"""HTTP/1.1 and 1.0 for one connection: RFC 9112 framing by llhttp (httptools), ASGI above it.

One coroutine per connection: it parses a head, calls the application in place, lets the
application pull the body from the socket, then looks at the next head. Nothing is read that nobody
asked for, so a client cannot make the server buffer, and there is no task or queue per request.

What arrives while the coroutine waits for a request is parsed as it arrives. If it is a whole
request and the application has its answer at hand (`web.instant`), that is sent at once and the
coroutine sleeps on; anything else wakes it.
"""

import asyncio
import http

from starlette.types import ASGIApp, Message, Scope

from pkiserver.clock import monotonic
from pkiserver.serving.connection import ConnectionInfo, Reader, Timeouts, close, date_header, log
from pkiserver.serving.http1_parser import BadRequest, Request, RequestParser
from pkiserver.web.instant import answer_now_of
from pkiserver.web.problems import problem_body

READ_SIZE = 65536
LINGER_BYTES = 1 << 20

_STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode())
    for status in http.HTTPStatus
}
_BODILESS = frozenset({204, 304})
_KEEP_ALIVE = b"connection: keep-alive\r\n"


class ClosedByPeer(Exception):
    """The client went away in the middle of a message."""


class HTTP1Connection:
    """Serves one connection until it closes. `app` must not raise for bad requests; if it does
    raise, the client gets a 500 or, once an answer has begun, a closed connection."""

    def __init__(
        self,
        app: ASGIApp,
        info: ConnectionInfo,
        timeouts: Timeouts,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._app = app
        self._info = info
        self._timeouts = timeouts
        self._reader = reader
        self._writer = writer
        self._transport = writer.transport
        self._parser = RequestParser(info, timeouts)
        self._answer_now = answer_now_of(app)
        self._waiting = False
        self._parsed = 0  # octets at the head of `reader` that the parser has had
        self._ahead = bytearray()
        self._broken: BadRequest | None = None
        self._draining = False
        self._busy = False
        self._deadline: float | None = monotonic() + timeouts.idle
        self._timer = asyncio.get_running_loop().call_later(timeouts.idle, self._tick)
        if isinstance(reader, Reader):
            reader.taker = self._take

    def drain(self) -> None:
        """Stop after the request in progress; at once if there is none."""
        self._draining = True
        if not self._busy:
            self._transport.close()

    async def serve(self) -> None:
        try:
            while request := await self._next_request():
                self._busy = True
                self._deadline = None
                if not await self._answer(request) or self._draining:
                    return
                self._busy = False
                self._deadline = monotonic() + self._timeouts.idle
        except (ClosedByPeer, OSError):
            pass
        finally:
            self._timer.cancel()
            self._untie()

    def _untie(self) -> None:
        """Let go of what refers back to here. A TLS connection has half a megabyte of buffers and
        state, and would keep it until the garbage collector comes round."""
        if isinstance(self._reader, Reader):
            self._reader.taker = None
        self._parser.close()
        self._broken = None

    def _tick(self) -> None:
        """The one timer of the connection: looks whether the deadline has passed."""
        remaining = self._timeouts.idle if self._deadline is None else self._deadline - monotonic()
        if remaining > 0:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(remaining + 0.001, self._tick)
        elif self._busy:
            self._transport.abort()  # the client does not take its answer
        else:
            if self._parser.in_head:
                self._refuse(BadRequest(408, "the request head took too long"))
            close(self._transport)

    async def _next_request(self) -> Request | None:
        """The next request, as soon as its head is complete; None when there is no more."""
        requests = self._parser.requests
        try:
            while True:
                self._answer_ready()
                if requests:
                    break
                if self._broken is not None:
                    raise self._broken
                self._waiting = True
                try:
                    await self._read_more()
                finally:
                    self._waiting = False
        except BadRequest as refusal:
            self._refuse(refusal)
            await self._linger()
            return None
        except ClosedByPeer:
            return None
        return requests.popleft() if requests[0].complete else requests[0]

    async def _read_more(self) -> None:
        if self._ahead:
            data = bytes(self._ahead)
            self._ahead.clear()
        else:
            data = await self._reader.read(READ_SIZE)
        if not data:
            raise ClosedByPeer
        if self._parsed:
            known = min(self._parsed, len(data))
            self._parsed -= known
            data = data[known:]
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        if self._broken is not None:  # llhttp would say the same again, without our reason
            return
        try:
            self._parser.feed(data)
        except BadRequest as refusal:
            self._broken = refusal

    def _take(self, data: bytes) -> bool:
        """Bytes that arrive, before anybody waits for them; True if nobody needs to see them."""
        if not self._waiting:
            return False
        self._parse(data)
        self._answer_ready()
        if not self._parser.requests and self._broken is None:
            return True
        self._waiting = False
        self._parsed = len(data)
        return False

    def _answer_ready(self) -> None:
        """Answer on the spot the requests that can be, up to the first that cannot. A client that
        does not take its answers has to wait for the coroutine, which waits for it."""
        requests = self._parser.requests
        while (
            requests
            and (request := requests[0]).complete
            and request.keep_alive
            and self._answer_now is not None
            and not self.closing
            and self._transport.get_write_buffer_size() <= READ_SIZE
            and (answer := self._answer_now(request)) is not None
        ):
            requests.popleft()
            keep_alive = b"" if request.http11 else _KEEP_ALIVE
            self._transport.write(
                b"%s%s%sdate: %s\r\n\r\n%s"
                % (_STATUS_LINES[answer.status], answer.head, keep_alive, date_header(),
                   answer.content)
            )  # fmt: skip
            self._deadline = monotonic() + self._timeouts.idle

    async def _answer(self, request: Request) -> bool:
        """Run the application; True if the connection can carry another request."""
        exchange = _Exchange(self, request)
        await exchange.run()
        if self._broken is not None and not exchange.started:
            self._refuse(self._broken)
        if not exchange.reusable:
            if exchange.unread:
                await self._linger()
            return False
        requests = self._parser.requests
        if requests and requests[0] is request:
            requests.popleft()
        return True

    async def more_body(self, request: Request) -> None:
        """Read until `request` has body bytes or is complete."""
        while not request.body and not request.complete:
            if self._broken is not None:
                raise ClosedByPeer
            await self._read_more()

    async def peer_closed(self) -> None:
        """Return when the client has closed; what it sends meanwhile is kept for later."""
        while len(self._ahead) < READ_SIZE:
            data = await self._reader.read(READ_SIZE)
            if not data:
                return
            self._ahead += data
        await asyncio.get_running_loop().create_future()

    async def write(self, data: bytes) -> None:
        if self._transport.is_closing():  # or an endless answer would go nowhere, never waiting
            raise ConnectionResetError
        self._writer.write(data)
        if self._transport.get_write_buffer_size() > READ_SIZE:
            self._deadline = monotonic() + self._timeouts.write
            await self._writer.drain()
            self._deadline = None

    @property
    def closing(self) -> bool:
        return self._draining or self._broken is not None or self._transport.is_closing()

    def _refuse(self, refusal: BadRequest) -> None:
        """Answer bytes that never became a request (RFC 9457 document, connection closed)."""
        body = problem_body(refusal.status, refusal.detail)
        self._writer.write(
            _STATUS_LINES[refusal.status]
            + b"content-type: application/problem+json\r\ncontent-length: %d\r\n" % len(body)
            + b"connection: close\r\ndate: %s\r\n\r\n" % date_header()
            + body
        )

    async def _linger(self) -> None:
        """Take and drop what the client still sends: closing with unread bytes would reset the
        connection and destroy the answer on its way (RFC 9112 section 9.6)."""
        if self._writer.can_write_eof():
            self._writer.write_eof()
        dropped = 0
        try:
            async with asyncio.timeout(self._timeouts.linger):
                while dropped < LINGER_BYTES and (data := await self._reader.read(READ_SIZE)):
                    dropped += len(data)
        except TimeoutError:
            pass


class _Exchange:
    """One request and its response: the ASGI `receive` and `send`."""

    __slots__ = (
        "_chunked",
        "_connection",
        "_disconnected",
        "_finished",
        "_head",
        "_keep_alive",
        "_remaining",
        "_request",
        "_started",
        "_suppress",
        "_taken",
    )

    def __init__(self, connection: HTTP1Connection, request: Request) -> None:
        self._connection = connection
        self._request = request
        self._head: Message | None = None
        self._started = False
        self._finished = False
        self._taken = False
        self._chunked = False
        self._disconnected = False
        self._suppress = False
        self._remaining: int | None = None
        self._keep_alive = request.keep_alive

    @property
    def started(self) -> bool:
        return self._started

    @property
    def unread(self) -> bool:
        return not self._request.complete

    @property
    def reusable(self) -> bool:
        return self._finished and self._keep_alive and self._request.complete

    async def run(self) -> None:
        connection = self._connection
        scope: Scope = self._request.scope
        try:
            await connection._app(scope, self.receive, self.send)
        except (ClosedByPeer, OSError):
            return
        except Exception:
            log.exception("application error", path=self._request.path)
            if not self._started:
                self._head = None
                await self._send_500()
            return
        if not self._disconnected and not self._finished and self._head is None:
            log.error("no answer from the application", path=self._request.path)
            await self._send_500()

    async def _send_500(self) -> None:
        self._keep_alive = False
        body = problem_body(500, "internal error")
        headers = [(b"content-type", b"application/problem+json")]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    async def receive(self) -> Message:
        request = self._request
        if self._finished:
            return {"type": "http.disconnect"}
        if self._taken:
            await self._connection.peer_closed()
            return {"type": "http.disconnect"}
        if not request.body and not request.complete:
            if request.expects_continue and not self._started:
                request.expects_continue = False
                await self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            try:
                await self._connection.more_body(request)
            except (ClosedByPeer, OSError):
                self._disconnected = True
                self._keep_alive = False
                return {"type": "http.disconnect"}
        body = request.body.popleft() if len(request.body) == 1 else b"".join(request.body)
        request.body.clear()
        self._taken = request.complete
        return {"type": "http.request", "body": body, "more_body": not request.complete}

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start" and self._head is None:
            self._head = message
        elif kind == "http.response.body" and self._head is not None and not self._finished:
            await self._send_body(message.get("body", b""), message.get("more_body", False))
        else:
            raise RuntimeError(f"unexpected ASGI message {kind}")

    async def _send_body(self, body: bytes, more: bool) -> None:
        out = b""
        if not self._started:
            out = self._start(None if more else len(body))
            self._started = True
        if not self._suppress:
            out += self._frame(body, more)
        if not more:
            self._finished = True
            if self._remaining:
                self._keep_alive = False
                raise RuntimeError("the body is shorter than its Content-Length")
        if out:
            await self._connection.write(out)

    def _frame(self, body: bytes, more: bool) -> bytes:
        if self._chunked:
            chunk = b"%x\r\n%s\r\n" % (len(body), body) if body else b""
            return chunk if more else chunk + b"0\r\n\r\n"
        if self._remaining is not None:
            self._remaining -= len(body)
            if self._remaining < 0:
                self._keep_alive = False
                raise RuntimeError("the body is longer than its Content-Length")
        return body

    def _start(self, length: int | None) -> bytes:
        """The response head. `length` is the body's if all of it is known already."""
        head = self._head
        assert head is not None  # noqa: S101
        status: int = head["status"]
        parts = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
        for name, value in head.get("headers", ()):
            # An application may choose the case: there are clients that compare with it.
            field = name.lower()
            if field == b"content-length":
                self._remaining = int(value)
            elif field == b"connection" and value.lower() == b"close":
                self._keep_alive = False
                continue
            parts.append(b"%s: %s\r\n" % (name, value))
        if b"".join(parts).count(b"\n") != len(parts):
            self._keep_alive = False
            raise RuntimeError("a line break in a response header")
        self._suppress = self._request.method == "HEAD" or status in _BODILESS
        self._frame_headers(parts, status, length)
        return b"".join(parts)

    def _frame_headers(self, parts: list[bytes], status: int, length: int | None) -> None:
        if self._remaining is None and status not in _BODILESS:
            if length is not None:
                self._remaining = length
                parts.append(b"content-length: %d\r\n" % length)
            elif self._request.http11:
                self._chunked = True
                parts.append(b"transfer-encoding: chunked\r\n")
            else:
                self._keep_alive = False
        if self._suppress:
            self._remaining = None
        if self._connection.closing or not self._request.complete:
            self._keep_alive = False
        if not self._keep_alive:
            parts.append(b"connection: close\r\n")
        elif not self._request.http11:
            parts.append(_KEEP_ALIVE)
        parts.append(b"date: %s\r\n\r\n" % date_header())
