"""ACME over HTTP: a bare ASGI callable for everything below `/acme/`.

Order of checks for a signed request (RFC 8555 section 6): content type, JWS form, `url`, key or
account, signature, nonce. A forged request therefore cannot burn a nonce. Every answer to a POST
carries a fresh nonce, success or not; every refusal is a problem document and is logged with its
cause."""

import json
import re
from collections.abc import Mapping
from typing import Any, cast

import structlog
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pkiserver.errors import PKIError
from pkiserver.web.limits import read_body
from pkiserver.web.problems import PROBLEM_JSON, HTTPProblem
from protocols.acme import jwk, jws
from protocols.acme.endpoints import Call, Endpoint, Endpoints, Reply, no_resource
from protocols.acme.nonces import NonceSource
from protocols.acme.problems import Problem, ProblemType, bad_nonce, problem_from
from protocols.acme.records import Account

log = structlog.get_logger("protocols.acme")

MAX_BODY = 128 * 1024
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
Headers = list[tuple[bytes, bytes]]


class ACMEApp:
    """The directories of a server, by name."""

    def __init__(
        self, directories: Mapping[str, Endpoints], nonces: NonceSource, root: str = "/acme/"
    ) -> None:
        self._sites = {name: Site(endpoints, nonces) for name, endpoints in directories.items()}
        self._root = root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        name, *segments = path.removeprefix(self._root).split("/")
        site = self._sites.get(name)
        # No URL of ours holds an escape. `%2f` is no slash, and what a proxy in front lets through
        # by its spelling must not turn into another resource here.
        escaped = b"%" in scope.get("raw_path", b"")
        if site is None or not segments or escaped:
            await respond(send, scope["method"], _problem_reply(no_resource()), [])
        else:
            await site.handle(scope, receive, send, segments)


class Site:
    """One directory."""

    def __init__(self, endpoints: Endpoints, nonces: NonceSource) -> None:
        self._endpoints = endpoints
        self._directory = endpoints.directory
        self._nonces = nonces
        self._table = endpoints.table()
        self._index = f'<{self._directory.url("directory")}>;rel="index"'.encode()
        self._describe = json.dumps(endpoints.describe()).encode()

    async def handle(self, scope: Scope, receive: Receive, send: Send, path: list[str]) -> None:
        method = scope["method"]
        headers: Headers = []
        if path[0] != "directory":
            headers.append((b"link", self._index))
        if method == "POST" or path == ["new-nonce"]:
            headers.append((b"replay-nonce", self._nonces.mint().encode()))
        headers.append((b"cache-control", b"public, max-age=0, no-cache" if path == ["directory"]
                        else b"no-store"))  # fmt: skip
        try:
            if method == "POST":
                reply = await self._signed(scope, receive, path)
            elif method in ("GET", "HEAD"):
                reply = await self._plain(method, path)
            else:
                raise self._other_method(path)
        except (Problem, PKIError, HTTPProblem) as error:
            reply = self._refuse(error, scope, headers)
        await respond(send, method, reply, headers)

    def _other_method(self, path: list[str]) -> HTTPProblem:
        """405 for what is there under another method. Raises 404 for what is not."""
        if path == ["new-nonce"]:
            return _not_allowed("GET, HEAD, POST")
        if path == ["directory"] or _is_renewal_info(path):
            return _not_allowed("GET, HEAD")
        self._endpoint(path)
        return _not_allowed("POST")

    async def _plain(self, method: str, path: list[str]) -> Reply:
        if path == ["directory"]:
            return Reply(body=self._describe)
        if path == ["new-nonce"]:
            return Reply(200 if method == "HEAD" else 204)
        if _is_renewal_info(path):
            return await self._endpoints.renewal_info(path[1])
        raise self._other_method(path)

    def _endpoint(self, path: list[str]) -> Endpoint:
        endpoint = self._table.get((path[0], len(path) - 1))
        if endpoint is None or not all(_ID.fullmatch(part) for part in path[1:]):
            raise no_resource()
        return endpoint

    async def _signed(self, scope: Scope, receive: Receive, path: list[str]) -> Reply:
        if path == ["directory"] or path[0] == "renewal-info":
            raise self._other_method(path)
        endpoint = self._endpoint(path)
        body = await read_body(Request(scope, receive), MAX_BODY)
        request = jws.parse(body, _header(scope, b"content-type"))
        query = scope["query_string"].decode("latin-1")
        url = self._directory.url(*path) + (f"?{query}" if query else "")
        if request.url != url:
            raise Problem(
                ProblemType.UNAUTHORIZED, f"the JWS is for {request.url!r}, this is {url!r}"
            )
        account, key = await self._signer(request)
        payload = jws.verify(request, key)
        if not await self._nonces.redeem(request.nonce):
            raise bad_nonce()
        address = scope.get("state", {}).get("client_address") or _peer(scope)
        return await endpoint(
            Call(payload, url, address, tuple(path[1:]), query, account, key, request.jwk)
        )

    async def _signer(self, request: jws.SignedRequest) -> tuple[Account | None, PublicKeyTypes]:
        """The account a `kid` names and its key, or the key that is in the request."""
        if request.kid is None:
            assert request.jwk is not None  # noqa: S101  the parser has seen to it
            return None, jwk.parse(request.jwk)
        prefix = self._directory.url("acct", "")
        if not request.kid.startswith(prefix):
            raise Problem(
                ProblemType.ACCOUNT_DOES_NOT_EXIST, "kid is not an account URL of this directory"
            )
        account = await self._endpoints.accounts.by_id(request.kid.removeprefix(prefix))
        return account, jwk.load(account.jwk)

    def _refuse(self, error: Exception, scope: Scope, headers: Headers) -> Reply:
        problem = error if isinstance(error, Problem) else _as_problem(error)
        log.info(
            "refused", type=problem.type, status=problem.status, detail=problem.detail,
            path=scope["path"], rule=getattr(error, "rule", None),
            cause=repr(error.__cause__) if error.__cause__ else None,
        )  # fmt: skip
        if problem.type is ProblemType.USER_ACTION_REQUIRED:
            terms = self._directory.settings.terms_of_service
            headers.append((b"link", f'<{terms}>;rel="terms-of-service"'.encode()))
        if isinstance(error, HTTPProblem):
            headers += [(k.lower().encode(), v.encode()) for k, v in error.headers.items()]
        return _problem_reply(problem)


def _is_renewal_info(path: list[str]) -> bool:
    return path[0] == "renewal-info" and len(path) == 2 and path[1] != ""


def _as_problem(error: Exception) -> Problem:
    if isinstance(error, HTTPProblem):
        return Problem(_type_of_status(error.status), error.detail, status=error.status)
    if isinstance(error, PKIError):
        return problem_from(error)
    raise error


def _type_of_status(status: int) -> ProblemType:
    if status == 429:
        return ProblemType.RATE_LIMITED
    return ProblemType.MALFORMED if status < 500 else ProblemType.SERVER_INTERNAL


def problem_form(problem: HTTPProblem) -> Response:
    """Refusals made in front of this application, in its form."""
    reply = _problem_reply(_as_problem(problem))
    return Response(
        _dump(cast(Mapping[str, Any], reply.body)), reply.status, problem.headers, PROBLEM_JSON
    )


def _not_allowed(allowed: str) -> HTTPProblem:
    return HTTPProblem(405, f"this resource takes {allowed}", headers={"Allow": allowed})


def _problem_reply(problem: Problem) -> Reply:
    return Reply(
        problem.status,
        problem.to_json(),
        PROBLEM_JSON,
        location=problem.location,
        retry_after=problem.retry_after,
    )


def _header(scope: Scope, name: bytes) -> str | None:
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return None


def _peer(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""


async def respond(send: Send, method: str, reply: Reply, headers: Headers) -> None:
    """Send an answer. One header line per link: some clients read no further than the first."""
    body = reply.body if isinstance(reply.body, bytes) else _dump(reply.body)
    lines = list(headers)
    lines += [(b"link", f'<{url}>;rel="{rel}"'.encode()) for url, rel in reply.links]
    if reply.location is not None:
        lines.append((b"location", reply.location.encode()))
    if reply.retry_after is not None:
        lines.append((b"retry-after", b"%d" % reply.retry_after))
    if body:
        lines.append((b"content-type", reply.media_type.encode()))
    if reply.status != 204:
        lines.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": reply.status, "headers": lines})
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})


def _dump(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()
