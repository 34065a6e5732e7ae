"""`POST /ocsp/{ca}` and `GET /ocsp/{ca}/{base64}` as one bare ASGI callable.

What is wrong with an OCSP request is said in OCSP, with HTTP status 200; HTTP's own statuses are
for what is no OCSP request at all: 404, 405, 413, 415.
"""

import base64
import binascii
from urllib.parse import unquote

import structlog
from starlette.types import Receive, Scope, Send

from pkiserver.ca.ocsp import OCSPAnswer
from pkiserver.ca.ocsp_codec import MAX_REQUEST_SIZE, ResponseStatus, error_response
from pkiserver.ca.status import StatusService
from pkiserver.clock import Clock
from pkiserver.config import OCSPSettings
from pkiserver.errors import MalformedMessage, PKIError
from pkiserver.web.caching import (
    CacheableBytes,
    PreparedAnswer,
    is_conditional,
    prepare,
    send_prepared,
)
from pkiserver.web.instant import CompleteRequest, Headers, InstantAnswer
from pkiserver.web.limits import receive_body
from pkiserver.web.problems import HTTPProblem
from protocols.ocsp.cache import AnswerCache, Entry, Key
from protocols.ocsp.errors import STATUS_OF_CODE

PREFIX = "/ocsp/"
REQUEST_TYPE = "application/ocsp-request"
RESPONSE_TYPE = "application/ocsp-response"
_REQUEST_TYPE = REQUEST_TYPE.encode("ascii")
_MAX_GET = 4096
_PUT_RIGHT = str.maketrans(" ", "+", "\r\n")

_log = structlog.get_logger("pkiserver.ocsp")


class OCSPEndpoint:
    """Answers everything below `PREFIX`, under whatever root path."""

    def __init__(
        self,
        status: StatusService,
        clock: Clock,
        settings: OCSPSettings,
        cache: AnswerCache | None = None,
    ) -> None:
        self._status = status
        self._clock = clock
        self._max_age = int(settings.max_age.total_seconds())
        self._cache = AnswerCache() if cache is None else cache

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        authority, encoded = split_path(scope)
        asked = await _asked(scope, receive, encoded)
        try:
            request_der = decode_path(asked) if isinstance(asked, str) else asked
            key = authority, _usual(asked, request_der)
            prepared = await self._kept(key)
            if prepared is None:
                answer = await self._status.ocsp(authority, request_der)
                if not answer.cacheable:
                    await _send_uncached(scope, send, answer.der, None)
                    return
                prepared = self._prepare(answer)
                self._cache.keep(key, answer, prepared, self._max_age)
        except PKIError as error:
            await _send_error(scope, send, STATUS_OF_CODE[error.code], error.retry_after)
        except Exception:
            # A client cannot read anything but OCSP, so that is what it gets.
            _log.exception("unexpected error", authority=authority)
            await _send_error(scope, send, ResponseStatus.INTERNAL_ERROR, None)
        else:
            await send_prepared(scope, send, prepared)

    def answer_now(self, request: CompleteRequest) -> InstantAnswer | None:
        """What is kept for a POST or an unconditional GET, if it is known to be still right."""
        authority, encoded = _split(request.path)
        asked: bytes | str
        if request.method == "POST" and not encoded and _is_ocsp(request.headers):
            asked = request.content
        elif request.method == "GET" and encoded and not is_conditional(request.headers):
            asked = encoded
        else:
            return None
        entry = self._cache.find((authority, asked))
        if entry is None or not self._is_young(entry):
            return None
        try:
            right = entry.stamp == self._status.ocsp_stamp_now(authority)
        except PKIError:
            return None
        return entry.answer.instant if right else None

    def _is_young(self, entry: Entry) -> bool:
        return entry.since <= self._clock.now().timestamp() < entry.until

    async def _kept(self, key: Key) -> PreparedAnswer | None:
        """An answer to the same request that is still right."""
        entry = self._cache.find(key)
        if entry is None:
            return None
        if self._is_young(entry) and entry.stamp == await self._status.ocsp_stamp(key[0]):
            return entry.answer
        self._cache.drop(key)
        return None

    def _prepare(self, answer: OCSPAnswer) -> PreparedAnswer:
        left = int((answer.next_update - self._clock.now()).total_seconds())
        return prepare(
            CacheableBytes(
                answer.der,
                RESPONSE_TYPE,
                last_modified=answer.last_modified,
                max_age=max(0, min(self._max_age, left)),
                expires=answer.next_update,
            )
        )


def split_path(scope: Scope) -> tuple[str, str]:
    """The authority's name and what follows it, without the slash between them."""
    return _split(scope["path"].removeprefix(scope.get("root_path", "")))


def _split(path: str) -> tuple[str, str]:
    authority, _, rest = path.removeprefix(PREFIX).partition("/")
    return authority, rest


async def _asked(scope: Scope, receive: Receive, encoded: str) -> bytes | str:
    """The request: its octets, or the text in the path. Raises `HTTPProblem` if there is none."""
    method = scope["method"]
    if method == "POST" and not encoded:
        _require_media_type(scope)
        return await receive_body(scope, receive, MAX_REQUEST_SIZE)
    if method in ("GET", "HEAD") and encoded:
        return encoded
    allowed = "GET, HEAD" if encoded else "POST"
    raise HTTPProblem(
        405,
        "an OCSP request is POSTed to the authority's URL, or follows it in base64 in a GET",
        headers={"Allow": allowed},
    )


def _require_media_type(scope: Scope) -> None:
    if not _is_ocsp(scope["headers"]):
        raise HTTPProblem(
            415, f"the body has to be {REQUEST_TYPE}", headers={"Accept-Post": REQUEST_TYPE}
        )


def _is_ocsp(headers: Headers) -> bool:
    for name, value in headers:
        if name == b"content-type" and (value == _REQUEST_TYPE or _bare(value) == _REQUEST_TYPE):
            return True
    return False


def _bare(media_type: bytes) -> bytes:
    """Without parameters."""
    return media_type.partition(b";")[0].strip().lower()


def decode_path(encoded: str) -> bytes:
    """The request in a path that was percent-decoded once (RFC 6960 appendix A.1).

    Seen from real clients and proxies, and put right: encoded twice, `+` that became a space, one
    slash too many in front, padding left out, the line breaks that `base64` makes. Slashes that a
    proxy merged cannot be.
    """
    if len(encoded) > _MAX_GET:
        raise MalformedMessage("the request is too long for a GET")
    text = unquote(encoded) if "%" in encoded else encoded
    text = text.removeprefix("/").translate(_PUT_RIGHT).rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise MalformedMessage("the path is not base64") from None


def _usual(asked: bytes | str, request_der: bytes) -> bytes | str:
    """What an answer is kept under: a path that clients make of the request, with padding and a
    second slash or without; for any other way to spell it, of which there is no end, the
    request."""
    if isinstance(asked, bytes):
        return asked
    usual = base64.b64encode(request_der).decode("ascii")
    return asked if asked.removeprefix("/") in (usual, usual.rstrip("=")) else request_der


async def _send_error(
    scope: Scope, send: Send, status: ResponseStatus, retry_after: int | None
) -> None:
    await _send_uncached(scope, send, error_response(status), retry_after)


async def _send_uncached(scope: Scope, send: Send, body: bytes, retry_after: int | None) -> None:
    """RFC 9919: errors are not to be cached; an answer with a nonce serves nobody else."""
    headers = [
        (b"content-type", RESPONSE_TYPE.encode("ascii")),
        (b"content-length", str(len(body)).encode("ascii")),
        (b"cache-control", b"no-store"),
    ]
    if retry_after is not None:
        headers.append((b"retry-after", str(retry_after).encode("ascii")))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
