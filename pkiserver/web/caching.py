"""Bytes that anybody may cache, as a bare ASGI answer: validators, conditional requests, HEAD
(RFC 9110 sections 8.8 and 13, RFC 9111)."""

import datetime as dt
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from email.utils import format_datetime, parsedate_to_datetime

from starlette.types import Message, Scope, Send

from pkiserver.web.instant import InstantAnswer

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class CacheableBytes:
    """`max_age` is in seconds; `expires` the moment from which the content is out of date, if it
    ever is. Without `last_modified` it is asked for again by tag only. The entity tag is the
    hexadecimal SHA-256 of the content, as RFC 9919 has it for OCSP."""

    content: bytes = field(repr=False)
    media_type: str
    last_modified: dt.datetime | None
    max_age: int
    expires: dt.datetime | None = None

    @property
    def etag(self) -> str:
        return f'"{hashlib.sha256(self.content).hexdigest()}"'


@dataclass(frozen=True, slots=True)
class PreparedAnswer:
    """`CacheableBytes` as the ASGI messages that answer with it; they are not to be changed."""

    etag: str
    last_modified: dt.datetime | None
    whole: Message = field(repr=False)
    unchanged: Message = field(repr=False)
    body: Message = field(repr=False)
    instant: InstantAnswer = field(repr=False)
    """The whole of it."""


_NO_BODY: Message = {"type": "http.response.body", "body": b""}
_CONDITIONS = frozenset({b"if-none-match", b"if-modified-since"})


def prepare(answer: CacheableBytes) -> PreparedAnswer:
    """For an answer that is given more than once."""
    etag = answer.etag
    headers = _headers(answer, etag)
    described = [
        *headers,
        (b"content-type", answer.media_type.encode("ascii")),
        (b"content-length", str(len(answer.content)).encode("ascii")),
    ]
    return PreparedAnswer(
        etag,
        answer.last_modified,
        whole={"type": "http.response.start", "status": 200, "headers": described},
        unchanged={"type": "http.response.start", "status": 304, "headers": headers},
        body={"type": "http.response.body", "body": answer.content},
        instant=InstantAnswer(
            200, b"".join(b"%s: %s\r\n" % field for field in described), answer.content
        ),
    )


async def send_cacheable(scope: Scope, send: Send, answer: CacheableBytes) -> None:
    """Answer a GET, HEAD or POST with 200, or 304 where the client has the content already."""
    await send_prepared(scope, send, prepare(answer))


async def send_prepared(scope: Scope, send: Send, answer: PreparedAnswer) -> None:
    """`send_cacheable` for an answer that is prepared."""
    method = scope["method"]
    if method == "POST":
        await send(answer.whole)
        await send(answer.body)
    elif is_conditional(scope["headers"]) and not_modified(
        scope, answer.etag, answer.last_modified
    ):
        await send(answer.unchanged)
        await send(_NO_BODY)
    else:
        await send(answer.whole)
        await send(_NO_BODY if method == "HEAD" else answer.body)


def is_conditional(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a request may be answered by 304."""
    for name, _ in headers:  # noqa: SIM110 - any() with a generator takes three times as long
        if name in _CONDITIONS:
            return True
    return False


def _headers(answer: CacheableBytes, etag: str) -> Headers:
    # no-transform: a signature does not survive being "optimised" on the way.
    control = f"max-age={answer.max_age}, public, no-transform, must-revalidate"
    headers = [
        (b"cache-control", control.encode("ascii")),
        (b"etag", etag.encode("ascii")),
    ]
    if answer.last_modified is not None:
        headers.append((b"last-modified", http_date(answer.last_modified)))
    if answer.expires is not None:
        headers.append((b"expires", http_date(answer.expires)))
    return headers


def http_date(moment: dt.datetime) -> bytes:
    """IMF-fixdate (RFC 9110 section 5.6.7)."""
    whole = moment.astimezone(dt.UTC).replace(microsecond=0)
    return format_datetime(whole, usegmt=True).encode("ascii")


def not_modified(scope: Scope, etag: str, last_modified: dt.datetime | None) -> bool:
    """Whether the request's conditions say that the client has this content. If-Modified-Since
    counts only without If-None-Match and where there is a date to compare (RFC 9110 section
    13.1.3); one that is no date is ignored."""
    tags = [value for name, value in scope["headers"] if name == b"if-none-match"]
    if tags:
        known = {
            tag.strip().removeprefix("W/") for tag in b",".join(tags).decode("latin-1").split(",")
        }
        return etag in known or "*" in known
    since = next((v for name, v in scope["headers"] if name == b"if-modified-since"), None)
    if since is None or last_modified is None:
        return False
    moment = _parse_date(since)
    return moment is not None and last_modified.replace(microsecond=0) <= moment


def _parse_date(value: bytes) -> dt.datetime | None:
    try:
        moment = parsedate_to_datetime(value.decode("ascii"))
        return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment
    except (ValueError, IndexError, OverflowError):
        return None
