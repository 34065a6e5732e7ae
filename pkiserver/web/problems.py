"""Problem documents (RFC 9457): how the HTTP edge says no.

A client that JSON-parses every answer from 400 up must never meet a framework's text or HTML, so
`exception_handlers` replaces Starlette's for 404, 405, 500 and the rest. What a refusal looks like
is a `Render`: this module's `render_problem`, or a protocol's own form for its mount.
"""

import http
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from pkiserver.errors import ErrorCode, PKIError

PROBLEM_JSON = "application/problem+json"

STATUS_OF_CODE: Mapping[ErrorCode, int] = {
    ErrorCode.MALFORMED: 400,
    ErrorCode.BAD_CSR: 400,
    ErrorCode.BAD_PUBLIC_KEY: 400,
    ErrorCode.BAD_SIGNATURE: 400,
    ErrorCode.BAD_ALGORITHM: 400,
    ErrorCode.REFUSED_NAME: 403,
    ErrorCode.REFUSED_BY_PROFILE: 403,
    ErrorCode.UNAUTHORIZED: 403,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.CONFLICT: 409,
    ErrorCode.ALREADY_REVOKED: 409,
    ErrorCode.BAD_REVOCATION_REASON: 400,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.PENDING_APPROVAL: 403,
    ErrorCode.UNAVAILABLE: 503,
    ErrorCode.CONFIGURATION: 500,
    ErrorCode.INTERNAL: 500,
}
"""The plain HTTP view of the core's refusals, for routes that have no protocol of their own."""


class HTTPProblem(Exception):
    """A refusal by the HTTP edge itself. `detail` is shown to the client."""

    def __init__(
        self, status: int, detail: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})


Render = Callable[[HTTPProblem], Response]
Handler = Callable[[Request, Exception], Awaitable[Response]]


def problem_body(status: int, detail: str, **members: Any) -> bytes:
    """The document's bytes. `members` may replace `type` and `title` and add others."""
    document = {"type": "about:blank", "title": _title(status), "status": status, "detail": detail}
    return json.dumps(document | members).encode("ascii")


def _title(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def problem_response(
    status: int, detail: str, *, headers: Mapping[str, str] | None = None, **members: Any
) -> Response:
    """An answer whose `status` member equals its HTTP status, never cached."""
    return Response(
        problem_body(status, detail, **members),
        status_code=status,
        headers={"Cache-Control": "no-store", **(headers or {})},
        media_type=PROBLEM_JSON,
    )


def render_problem(problem: HTTPProblem) -> Response:
    """The form of refusals where no protocol has its own."""
    return problem_response(problem.status, problem.detail, headers=problem.headers)


def as_problem(error: Exception) -> HTTPProblem:
    """Any exception as a refusal. What is not meant for clients becomes a bare 500."""
    if isinstance(error, HTTPProblem):
        return error
    if isinstance(error, HTTPException):
        return HTTPProblem(error.status_code, error.detail, headers=error.headers)
    if isinstance(error, PKIError):
        return _of_pki_error(error)
    return HTTPProblem(500, "internal error; the server's log has the cause under the request id")


def _of_pki_error(error: PKIError) -> HTTPProblem:
    status = STATUS_OF_CODE[error.code]
    if status == 500:
        return as_problem(Exception())
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return HTTPProblem(status, error.detail, headers=headers)


def exception_handlers(render: Render = render_problem) -> dict[Any, Handler]:
    """For `Starlette(exception_handlers=...)`: every error leaves in the form `render` gives it.

    Each mounted Starlette application may have its own. Starlette raises an unexpected exception
    again after answering, up to `edge.Edge`, which logs it with the request id.
    """

    async def refuse(request: Request, error: Exception) -> Response:
        return render(as_problem(error))

    async def gone(request: Request, error: Exception) -> Response:
        return render(HTTPProblem(400, "the request body ended early"))

    return {
        HTTPException: refuse,
        HTTPProblem: refuse,
        PKIError: refuse,
        ClientDisconnect: gone,
        Exception: refuse,
    }
