"""HTTP/1 request heads and bodies out of bytes, by llhttp (httptools). No I/O.

Refused: what llhttp refuses (bare LF, obs-fold, Content-Length together with Transfer-Encoding...),
HTTP versions other than 1.0 and 1.1, a missing or repeated Host in HTTP/1.1, transfer codings other
than chunked, CONNECT, a head that is too long. An Upgrade header is ignored, as RFC 9110 section
7.8 allows: Java's HTTP client offers h2c with every first request, POST included.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

import httptools

from pkiserver.serving.connection import ConnectionInfo, Timeouts

_LONGEST_PREFIX = 64
_MOST_DIGITS = 19


@dataclass(slots=True)
class BadRequest(Exception):
    """The bytes are not an acceptable HTTP/1 request: answer `status` and close."""

    status: int
    detail: str


@dataclass(slots=True, eq=False)
class Request:
    """`head_size` counts target and header fields, four octets for each field's punctuation."""

    info: ConnectionInfo
    version: str
    method: str
    path: str
    raw_path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]
    head_size: int
    keep_alive: bool
    expects_continue: bool
    body: deque[bytes]
    complete: bool = False
    _scope: dict[str, Any] | None = None

    @property
    def http11(self) -> bool:
        return self.version == "1.1"

    @property
    def client(self) -> tuple[str, int] | None:
        return self.info.client

    @property
    def content(self) -> bytes:
        """The body, as far as it has arrived and nobody has taken it."""
        return self.body[0] if len(self.body) == 1 else b"".join(self.body)

    @property
    def scope(self) -> dict[str, Any]:
        """For ASGI; the same one each time."""
        if self._scope is None:
            self._scope = {
                "type": "http",
                "asgi": {"version": "3.0", "spec_version": "2.4"},
                "http_version": self.version,
                "method": self.method,
                "scheme": self.info.scheme,
                "path": self.path,
                "raw_path": self.raw_path,
                "query_string": self.query,
                "root_path": "",
                "headers": self.headers,
                "client": self.info.client,
                "server": self.info.server,
                "state": {},
                "extensions": dict(self.info.extensions),
            }
        return self._scope


class RequestParser:
    """Turns bytes into `requests`; llhttp calls the `on_...` methods.

    `feed` raises BadRequest; requests completed before the bad bytes stay in `requests`. A head may
    have `timeouts.head_bytes`, exceeded at most by the length of one `feed`.
    """

    def __init__(self, info: ConnectionInfo, timeouts: Timeouts) -> None:
        self.requests: deque[Request] = deque()
        self._info = info
        self._timeouts = timeouts
        self._most = min(timeouts.head_bytes, timeouts.lenient_head_bytes)
        self._parser = httptools.HttpRequestParser(self)
        self._in_head = False
        self._head_size = 0
        self._unfinished = 0  # bytes of a line that llhttp has not handed over yet
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._without_upgrade = b""

    @property
    def in_head(self) -> bool:
        """Whether the head of a request has begun and is not complete."""
        return self._in_head

    def close(self) -> None:
        """The end of its use: llhttp's parser and this one hold each other."""
        del self._parser

    def feed(self, data: bytes) -> None:
        self._unfinished += len(data)
        while (at := self._parse(data)) is not None:
            # llhttp stops at an Upgrade: parse the same head again without the offer, then go on.
            data = self._without_upgrade + data[at:]
            self._parser = httptools.HttpRequestParser(self)
        if self._in_head:
            self._check_size()
        elif self._unfinished > self._timeouts.head_bytes:
            raise BadRequest(431, "chunk extensions or trailer fields are too long")

    def _parse(self, data: bytes) -> int | None:
        """Where llhttp stopped; None for at the end."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as stop:
            at: int = stop.args[0]
            return at
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            if not isinstance(cause, BadRequest):
                raise
            raise cause from None
        except httptools.HttpParserInvalidMethodError:
            raise BadRequest(501, "the request method is not known here") from None
        except httptools.HttpParserError as error:
            raise BadRequest(400, f"not HTTP/1.1: {error}") from None
        return None

    def _check_size(self) -> None:
        limits = self._timeouts
        most = limits.lenient_head_bytes if self._is_lenient() else limits.head_bytes
        if self._head_size + self._unfinished > most:
            raise BadRequest(431, f"the request head is longer than {most} bytes")

    def _is_lenient(self) -> bool:
        """By what is known of the target so far."""
        lenient = self._timeouts.lenient
        if not lenient:
            return False
        return self._target[:_LONGEST_PREFIX].decode("latin-1").lower().startswith(lenient)

    def on_message_begin(self) -> None:
        self._in_head = True
        self._head_size = self._unfinished = 0
        self._target = b""
        self._headers = []

    def on_url(self, part: bytes) -> None:
        self._target += part
        self._head_size = whole = self._head_size + len(part)
        self._unfinished = 0
        if whole > self._most:
            self._check_size()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # a trailer section's fields (RFC 9112 section 7.1.2) are dropped
            self._head_size = whole = self._head_size + len(name) + len(value) + 4
            self._unfinished = 0
            if whole > self._most:
                self._check_size()
            self._headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._unfinished = 0
        method = self._parser.get_method()
        version = self._parser.get_http_version()
        if method == b"CONNECT":
            raise BadRequest(501, "CONNECT is for proxies")
        if self._parser.should_upgrade():
            self._without_upgrade = _head_without_upgrade(
                method, self._target, version, self._headers
            )
            return
        expects_continue = _check_headers(self._headers, version, self._is_lenient)
        path, query = _split_target(self._target, method)
        raw = path.encode("ascii")
        self.requests.append(
            Request(
                self._info,
                version,
                method.decode("ascii"),
                unquote_to_bytes(raw).decode("utf-8", "replace") if b"%" in raw else path,
                raw,
                query,
                self._headers,
                self._head_size,
                self._parser.should_keep_alive(),
                expects_continue,
                deque(),
            )
        )

    def on_body(self, data: bytes) -> None:
        self._unfinished = 0
        self.requests[-1].body.append(data)

    def on_message_complete(self) -> None:
        self._unfinished = 0
        if self.requests and not self._parser.should_upgrade():
            self.requests[-1].complete = True


def _head_without_upgrade(
    method: bytes, target: bytes, version: str, headers: list[tuple[bytes, bytes]]
) -> bytes:
    lines = [b"%s %s HTTP/%s" % (method, target, version.encode())]
    hop = {b"upgrade", b"connection", b"http2-settings"}
    lines += [name + b": " + value for name, value in headers if name not in hop]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _check_headers(
    headers: list[tuple[bytes, bytes]], version: str, without_host: Callable[[], bool]
) -> bool:
    """Checks RFC 9112 leaves to the server; returns whether the client waits for a 100."""
    if version not in ("1.1", "1.0"):
        raise BadRequest(505, "HTTP/1.1 and HTTP/1.0 are spoken here")
    hosts = 0
    expects_continue = False
    for name, value in headers:
        if name == b"host":
            hosts += 1
        elif name == b"transfer-encoding":
            # Section 6.1: HTTP/1.0 has no such header, so its framing cannot be trusted.
            if version == "1.0":
                raise BadRequest(400, "Transfer-Encoding in HTTP/1.0")
            if value.lower() != b"chunked":
                raise BadRequest(501, "the only transfer coding known here is chunked")
        elif name == b"content-length" and len(value) > _MOST_DIGITS:
            raise BadRequest(400, "Content-Length is not a number")
        elif name == b"expect" and value.lower() == b"100-continue":
            expects_continue = version == "1.1"
    # RFC 9112 section 3.2; strongSwan's SCEP by GET has no Host.
    if hosts > 1 or (hosts == 0 and version == "1.1" and not without_host()):
        raise BadRequest(400, "exactly one Host header is required")
    return expects_continue


def _split_target(target: bytes, method: bytes) -> tuple[str, bytes]:
    """Path and query of a request target in origin, absolute or asterisk form (section 3.2)."""
    if not target.startswith(b"/"):
        if target == b"*" and method == b"OPTIONS":
            return "*", b""
        scheme, separator, rest = target.partition(b"://")
        if not separator or scheme.lower() not in (b"http", b"https"):
            raise BadRequest(400, "the request target is not a path")
        _, slash, path = rest.partition(b"/")
        target = slash + path or b"/"
    path, _, query = target.partition(b"?")
    if b"#" in target or not path.isascii():
        raise BadRequest(400, "the request target holds characters a URL path cannot")
    return path.decode("ascii"), query
