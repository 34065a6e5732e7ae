"""EST over HTTP: a bare ASGI callable for everything below `/.well-known/est`.

Clients are particular (RFC 7030 section 3.2, RFC 8951): names of header fields in Title-Case, a
Content-Length, a short head that leaves in one write with the body, base64 on one line, an empty
body with 401 and 202. Refusals are short texts.
"""

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import structlog
from cryptography import x509
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pkiserver.cms import certs_only
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.web.limits import read_body
from pkiserver.web.peer import Peer, TrustedProxies, peer
from pkiserver.web.problems import STATUS_OF_CODE, HTTPProblem
from protocols.est import codec
from protocols.est.authentication import Credentials
from protocols.est.codec import Part
from protocols.est.enrollment import Outcome, Wait
from protocols.est.errors import NotAuthenticated, text_of
from protocols.est.service import GeneratedKey, Label

log = structlog.get_logger("protocols.est")

ROOT = "/.well-known/est"
DEFAULT = "default"
OPERATIONS = frozenset(
    {"cacerts", "simpleenroll", "simplereenroll", "csrattrs", "serverkeygen", "fullcmc"}
)
CERTS_ONLY = "application/pkcs7-mime; smime-type=certs-only"
_PLAIN = "text/plain; charset=utf-8"
_READING = frozenset({"cacerts", "csrattrs"})
_LIBEST = re.compile(rb"libest", re.IGNORECASE)
_CHALLENGE = 'Basic realm="EST"'


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; `base64` says that the body is."""

    status: int = 200
    media_type: str = ""
    body: bytes = field(default=b"", repr=False)
    base64: bool = False
    headers: tuple[tuple[str, str], ...] = ()


class ESTApp:
    """The labels of a server, by name. `trusted` are proxies that end TLS before us: what their
    own connections say of a client is nothing about the client behind them."""

    def __init__(
        self, labels: Mapping[str, Label], trusted: TrustedProxies, root: str = ROOT
    ) -> None:
        self._labels = dict(labels)
        self._trusted = trusted
        self._root = root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            reply = await self._answer(scope, receive)
        except (PKIError, HTTPProblem) as error:
            reply = _refusal(error)
        await _respond(scope, send, reply)

    async def _answer(self, scope: Scope, receive: Receive) -> Reply:
        label, operation = self._find(scope)
        _check_method(scope["method"], operation)
        request = Request(scope, receive)
        client = self._peer(scope)
        if operation == "cacerts":
            return _ca_certificates(label, _fields(scope, b"user-agent"))
        if operation == "csrattrs":
            return _csr_attributes(label, client)
        body = await read_body(request, codec.MAX_BODY)
        _check_media_type(_only(scope, "Content-Type"))
        credentials = Credentials(
            _only(scope, "Authorization") or None, client, _address(scope, client)
        )
        return await _post(label, operation, credentials, body)

    def _find(self, scope: Scope) -> tuple[Label, str]:
        path = scope["path"].removeprefix(scope.get("root_path", "")).removeprefix(self._root)
        name, operation = DEFAULT, path.removeprefix("/")
        if "/" in operation:
            name, operation = operation.split("/", 1)
        label = self._labels.get(name)
        # No URL of ours holds an escape; see also the ACME directories.
        if label is None or operation not in OPERATIONS or b"%" in scope.get("raw_path", b""):
            raise PKIError(ErrorCode.NOT_FOUND, "there is no such EST label or operation")
        if operation == "fullcmc":
            raise PKIError(ErrorCode.NOT_FOUND, "full CMC is not available; use simpleenroll")
        return label, operation

    def _peer(self, scope: Scope) -> Peer:
        known = peer(scope)
        return Peer(known.address) if known.address in self._trusted else known


async def _post(label: Label, operation: str, credentials: Credentials, body: bytes) -> Reply:
    request = codec.decode_request(body)
    if operation == "simpleenroll":
        return _enrolled(await label.enroll(credentials, request))
    if operation == "simplereenroll":
        return _enrolled(await label.reenroll(credentials, request))
    return _generated(await label.generate_key(credentials, request))


def _ca_certificates(label: Label, agents: Sequence[bytes]) -> Reply:
    """RFC 7030 section 4.1.3. libest reads this one only in lines."""
    body = codec.encode_base64(
        certs_only.encode(label.ca_certificates(), in_order=False),
        wrapped=any(_LIBEST.match(agent) for agent in agents),
    )
    return Reply(media_type="application/pkcs7-mime", body=body, base64=True)


def _csr_attributes(label: Label, client: Peer) -> Reply:
    """Section 4.5.2; 204 where there is nothing to say."""
    found = label.csr_attributes(client)
    if found is None:
        return Reply(204)
    return Reply(media_type="application/csrattrs", body=codec.encode_base64(found), base64=True)


def _certificate(certificate: x509.Certificate) -> bytes:
    """Section 4.2.3: only the certificate that was issued."""
    return certs_only.encode([certificate])


def _enrolled(outcome: Outcome) -> Reply:
    if isinstance(outcome, Wait):
        seconds = max(1, int(outcome.retry_after.total_seconds()))
        return Reply(202, headers=(("Retry-After", str(seconds)),))
    body = codec.encode_base64(_certificate(outcome))
    return Reply(media_type=CERTS_ONLY, body=body, base64=True)


def _generated(answer: GeneratedKey) -> Reply:
    boundary = f"est-{secrets.token_hex(12)}"
    parts = [answer.key, Part(CERTS_ONLY, _certificate(answer.certificate))]
    return Reply(
        media_type=f"multipart/mixed; boundary={boundary}",
        body=codec.encode_multipart(parts, boundary),
        headers=(("Cache-Control", "no-store"),),
    )


def _check_method(method: str, operation: str) -> None:
    allowed = ("GET", "HEAD") if operation in _READING else ("POST",)
    if method not in allowed:
        names = ", ".join(allowed)
        raise HTTPProblem(405, f"{operation} is asked for with {names}", headers={"Allow": names})


def _check_media_type(value: bytes) -> None:
    """Strict, as a web page can make its visitor's browser, which holds a client certificate or a
    password, send other types to us; this one it cannot without asking us first (CORS)."""
    if value.partition(b";")[0].strip().lower() != b"application/pkcs10":
        raise HTTPProblem(415, "send the request as Content-Type: application/pkcs10")


def _only(scope: Scope, name: str) -> bytes:
    """The value of a field that may be there once (RFC 9110 section 5.3): of two, what stands
    before us may have checked the other."""
    found = _fields(scope, name.lower().encode())
    if len(found) > 1:
        raise HTTPProblem(400, f"{name} is there more than once")
    return found[0] if found else b""


def _fields(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key == name]


def _address(scope: Scope, client: Peer) -> str:
    known: str | None = scope.get("state", {}).get("client_address")
    return known or client.address


def _refusal(error: PKIError | HTTPProblem) -> Reply:
    if isinstance(error, HTTPProblem):
        return Reply(error.status, _PLAIN, _line(error.detail), headers=(*error.headers.items(),))
    if isinstance(error, NotAuthenticated):
        return Reply(401, headers=(("WWW-Authenticate", _CHALLENGE),))
    status = STATUS_OF_CODE[error.code]
    if status == 500:
        log.error("EST request failed", code=error.code, detail=error.detail)
    retry = () if error.retry_after is None else (("Retry-After", str(error.retry_after)),)
    return Reply(status, _PLAIN, _line(text_of(error)), headers=retry)


def _line(text: str) -> bytes:
    return text.encode("utf-8", "replace") + b"\n"


def text_form(problem: HTTPProblem) -> Response:
    """Refusals that the HTTP edge makes, in the form of this protocol."""
    reply = _refusal(problem)
    return Response(reply.body, reply.status, dict(problem.headers), media_type="text/plain")


async def _respond(scope: Scope, send: Send, reply: Reply) -> None:
    headers = [*reply.headers]
    if reply.media_type:
        headers.append(("Content-Type", reply.media_type))
    if reply.base64:
        headers.append(("Content-Transfer-Encoding", "base64"))
    if reply.status != 204:
        headers.append(("Content-Length", str(len(reply.body))))
    # HTTP/2 has lower-case names only (RFC 9113 section 8.2).
    lower = scope.get("http_version") == "2"
    raw = [((name.lower() if lower else name).encode(), value.encode()) for name, value in headers]
    await send({"type": "http.response.start", "status": reply.status, "headers": raw})
    body = b"" if scope["method"] == "HEAD" else reply.body
    await send({"type": "http.response.body", "body": body})
