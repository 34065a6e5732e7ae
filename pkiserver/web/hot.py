"""The short way for hot, anonymous paths: a bare ASGI callable found by prefix, before Starlette.

OCSP, CRL, CA certificates, directory and nonce answers are mostly cached bytes; routing, request
objects and exception middleware would cost more than the answer.
"""

from collections.abc import Awaitable, Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from pkiserver.web.instant import AnswerNow, CompleteRequest, InstantAnswer, answer_now_of


class HotPaths:
    """Dispatches exact paths first, then the longest matching prefix, else `fallback`.

    A prefix matches what `str.startswith` says, so it normally ends with a slash. Hot callables get
    the scope unchanged: no `root_path`, no path parameters. Those that are `Instant` are asked for
    an answer on the spot.
    """

    def __init__(
        self,
        fallback: ASGIApp,
        *,
        exact: Mapping[str, ASGIApp] | None = None,
        prefixes: Mapping[str, ASGIApp] | None = None,
    ) -> None:
        self._fallback = fallback
        self._exact = dict(exact or {})
        self._prefixes = sorted((prefixes or {}).items(), key=lambda item: -len(item[0]))
        self._any_prefix = tuple(prefix for prefix, _ in self._prefixes)
        self._instants: dict[int, AnswerNow] = {
            id(app): answer_now
            for app in (*self._exact.values(), *(prefixes or {}).values())
            if (answer_now := answer_now_of(app)) is not None
        }

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return self._find(scope.get("path", ""))(scope, receive, send)

    def answer_now(self, request: CompleteRequest) -> InstantAnswer | None:
        """Of the hot callable that the path belongs to."""
        answer_now = self._instants.get(id(self._find(request.path)))
        return None if answer_now is None else answer_now(request)

    def _find(self, path: str) -> ASGIApp:
        app = self._exact.get(path)
        if app is not None:
            return app
        if path.startswith(self._any_prefix):
            for prefix, candidate in self._prefixes:
                if path.startswith(prefix):
                    return candidate
        return self._fallback
