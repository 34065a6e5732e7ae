"""Large bytes that anybody may cache: `web.caching`, in chunks as the client takes them, and by
ranges (RFC 9110 section 14), so that an interrupted download goes on where it was."""

import datetime as dt
import re
from dataclasses import dataclass, field

from starlette.types import Scope, Send

from pkiserver.web.caching import Headers, http_date, not_modified

CHUNK = 256 * 1024
"""Octets handed to the connection at a time: it waits until the client has taken them."""

_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")


@dataclass(frozen=True, slots=True)
class Download:
    """`sha256` of the content is its entity tag; otherwise as `CacheableBytes`."""

    content: bytes = field(repr=False)
    sha256: bytes
    media_type: str
    last_modified: dt.datetime | None
    max_age: int
    expires: dt.datetime

    @property
    def etag(self) -> str:
        return f'"{self.sha256.hex()}"'


async def send_download(scope: Scope, send: Send, answer: Download) -> None:
    """Answer a GET or HEAD with 200, 206, 304 or 416."""
    size = len(answer.content)
    headers = _headers(answer)
    if not_modified(scope, answer.etag, answer.last_modified):
        await _send(send, 304, headers, memoryview(b""))
        return
    headers.append((b"content-type", answer.media_type.encode("ascii")))
    span = _wanted(scope, answer, size)
    if span is None:
        await _send(send, 416, _beyond(size), memoryview(b""))
        return
    begin, end = span
    status = 200
    if span != (0, size):
        status = 206
        headers.append((b"content-range", b"bytes %d-%d/%d" % (begin, end - 1, size)))
    headers.append((b"content-length", b"%d" % (end - begin)))
    body = memoryview(b"" if scope["method"] == "HEAD" else answer.content)
    await _send(send, status, headers, body[begin:end])


def _beyond(size: int) -> Headers:
    """Not to be cached: others ask for other parts."""
    return [
        (b"cache-control", b"no-store"),
        (b"content-range", b"bytes */%d" % size),
        (b"content-length", b"0"),
    ]


async def _send(send: Send, status: int, headers: Headers, body: memoryview) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    for at in range(0, len(body) - CHUNK, CHUNK):
        chunk = bytes(body[at : at + CHUNK])
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    rest = (len(body) - 1) // CHUNK * CHUNK if body else 0
    await send({"type": "http.response.body", "body": bytes(body[rest:])})


def _wanted(scope: Scope, answer: Download, size: int) -> tuple[int, int] | None:
    """Where what is asked for begins and ends; None if there is no such part. A Range that is not
    one range of bytes, or of content the client has another version of, is ignored (sections 13.1.5
    and 14.2)."""
    value = _header(scope, b"range")
    match = _RANGE.fullmatch(value) if value is not None else None
    if match is None or scope["method"] != "GET" or not _is_of_this(scope, answer):
        return 0, size
    first, last = match[1], match[2]
    if not first:
        if not last:
            return 0, size
        return (max(0, size - int(last)), size) if int(last) else None
    end = min(int(last) + 1, size) if last else size
    if last and int(last) < int(first):
        return 0, size
    return (int(first), end) if int(first) < size else None


def _is_of_this(scope: Scope, answer: Download) -> bool:
    """If-Range: a strong tag, or exactly the date (section 13.1.5)."""
    value = _header(scope, b"if-range")
    dated = answer.last_modified
    return value in (None, answer.etag) or (
        dated is not None and value == http_date(dated).decode("ascii")
    )


def _header(scope: Scope, name: bytes) -> str | None:
    values = [value for key, value in scope["headers"] if key == name]
    return values[0].decode("latin-1").strip() if len(values) == 1 else None


def _headers(answer: Download) -> Headers:
    control = f"max-age={answer.max_age}, public, no-transform, must-revalidate"
    headers = [
        (b"cache-control", control.encode("ascii")),
        (b"etag", answer.etag.encode("ascii")),
        (b"expires", http_date(answer.expires)),
        (b"accept-ranges", b"bytes"),
    ]
    if answer.last_modified is not None:
        headers.append((b"last-modified", http_date(answer.last_modified)))
    return headers
