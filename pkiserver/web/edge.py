"""The one middleware in front of everything: request id, limits, access log, errors.

One pure ASGI callable instead of one per concern, since each layer costs every request a coroutine
and a closure.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from pkiserver.clock import monotonic
from pkiserver.logs import log_request
from pkiserver.web import request_id
from pkiserver.web.instant import CompleteRequest, InstantAnswer, answer_now_of
from pkiserver.web.limits import LENIENT_URL_BYTES, LimitedReceive, Limits, check_head
from pkiserver.web.peer import TrustedProxies, client_address
from pkiserver.web.problems import HTTPProblem, Render, as_problem, render_problem

log: FilteringBoundLogger = structlog.get_logger("pkiserver.web")

REQUEST_ID = "request_id"
CLIENT_ADDRESS = "client_address"


class Edge:
    """Wraps the application of a listener.

    Every scope gets `state["request_id"]` and `state["client_address"]`. Refusals made here, before
    any route is known, take the form of `forms`: the `Render` of the longest path prefix that
    matches, else `render_problem`. Below the prefixes of `lenient` a URL may be long. Exceptions
    that reach this point are logged and answered with a 500, or re-raised when an answer has begun,
    so that the server breaks the connection off.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: Limits | None = None,
        access_log: bool = True,
        trusted_proxies: TrustedProxies | None = None,
        forms: Mapping[str, Render] | None = None,
        lenient: Sequence[str] = (),
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._app = app
        self._limits = limits or Limits()
        self._access_log = access_log
        self._trusted = trusted_proxies or TrustedProxies()
        self._lenient = tuple(lenient)
        self._long_urls = replace(self._limits, url_bytes=LENIENT_URL_BYTES)
        self._forms = sorted((forms or {}).items(), key=lambda item: -len(item[0]))
        self._ids = request_id.RequestIDs(self._trusted, random_bytes)
        self._instant = answer_now_of(app)
        self._small_head = min(self._limits.url_bytes, self._limits.header_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _decline(scope, receive, send)
            return
        identifier = self._ids.take(scope)
        address = client_address(scope, self._trusted)
        state = scope.setdefault("state", {})
        state[REQUEST_ID] = identifier
        state[CLIENT_ADDRESS] = address
        began = monotonic()
        answer = _Answer(send, identifier)
        structlog.contextvars.bind_contextvars(request_id=identifier)
        try:
            await self._run(scope, receive, answer)
        finally:
            if self._access_log:
                log_request(
                    method=scope["method"],
                    path=scope["path"],
                    status=answer.status,
                    ms=round((monotonic() - began) * 1000, 2),
                    client=address,
                    request_id=identifier,
                )
            structlog.contextvars.unbind_contextvars("request_id")

    def answer_now(self, request: CompleteRequest) -> InstantAnswer | None:
        """A request that is clearly within all limits, if the application has its answer at hand;
        identified and logged like any other."""
        if (
            self._instant is None
            or request.head_size > self._small_head
            or len(request.headers) > self._limits.header_count
            or len(request.content) > self._limits.body_bytes
        ):
            return None
        began = monotonic()
        try:
            answer = self._instant(request)
        except Exception as error:
            log.error("no answer on the spot", path=request.path, exc_info=error)
            return None
        if answer is None:
            return None
        identifier, address = self._who(request)
        if self._access_log:
            log_request(
                method=request.method,
                path=request.path,
                status=answer.status,
                ms=round((monotonic() - began) * 1000, 2),
                client=address,
                request_id=identifier,
            )
        head = answer.head + b"%s: %s\r\n" % (request_id.HEADER, identifier.encode("ascii"))
        return InstantAnswer(answer.status, head, answer.content)

    def _who(self, request: CompleteRequest) -> tuple[str, str]:
        """The id of a request and the address it is from."""
        address = request.client[0] if request.client else ""
        if address in self._trusted:
            return self._ids.take(request.scope), client_address(request.scope, self._trusted)
        return self._ids.make(), address

    async def _run(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        try:
            check_head(scope, self._limits_of(scope["path"]))
            await self._app(scope, LimitedReceive(receive, self._limits), answer)
        except HTTPProblem as problem:
            await self._refuse(problem, scope, receive, answer)
        except ClientDisconnect:
            log.info("the client left before its request was complete")
        except ConnectionError as error:
            if answer.status:  # sending failed: the client is gone, and nobody waits for more
                log.info("the client left before its answer was complete")
                raise
            await self._fail(error, scope, receive, answer)
        except Exception as error:
            await self._fail(error, scope, receive, answer)

    def _limits_of(self, path: str) -> Limits:
        if self._lenient and path.lower().startswith(self._lenient):
            return self._long_urls
        return self._limits

    async def _fail(
        self, error: Exception, scope: Scope, receive: Receive, answer: "_Answer"
    ) -> None:
        log.error("unexpected error", path=scope["path"], exc_info=error)
        if answer.complete:  # Starlette answers a 500 in the mount's own form, then raises
            return
        if answer.status:
            raise error
        await self._refuse(as_problem(error), scope, receive, answer)

    async def _refuse(
        self, problem: HTTPProblem, scope: Scope, receive: Receive, answer: "_Answer"
    ) -> None:
        if answer.status:
            raise problem
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        await self._form(path)(problem)(scope, receive, answer)

    def _form(self, path: str) -> Render:
        for prefix, render in self._forms:
            if path.startswith(prefix):
                return render
        return render_problem


class _Answer:
    """The ASGI `send`: adds the request id and remembers how far the answer got."""

    __slots__ = ("_header", "_send", "complete", "status")

    def __init__(self, send: Send, identifier: str) -> None:
        self._send = send
        self._header = (request_id.HEADER, identifier.encode("ascii"))
        self.status = 0
        self.complete = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), self._header]}
        elif not message.get("more_body", False):
            self.complete = True
        await self._send(message)


async def _decline(scope: Scope, receive: Receive, send: Send) -> None:
    """WebSockets are closed before they open; there is nothing to do for `lifespan`."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1000})
