"""Answers given on the spot: without a coroutine, an ASGI scope or a message.

An ASGI application that has finished answers in memory may offer `answer_now` beside `__call__`.
The HTTP/1.1 connection asks it once a request is complete. Whatever it has no answer for goes the
ordinary way, so that refusals, conditions, HEAD and everything that waits are in one place only.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from starlette.types import ASGIApp, Scope

Headers = Sequence[tuple[bytes, bytes]]


class CompleteRequest(Protocol):
    """A request of which all has arrived; `scope` is made when it is asked for."""

    @property
    def method(self) -> str: ...

    @property
    def path(self) -> str:
        """Percent-decoded, as in a scope; there is no root path."""
        ...

    @property
    def headers(self) -> Headers:
        """Names are in lower case."""
        ...

    @property
    def content(self) -> bytes: ...

    @property
    def head_size(self) -> int:
        """Octets of target and header fields, at least."""
        ...

    @property
    def client(self) -> tuple[str, int] | None: ...

    @property
    def scope(self) -> Scope: ...


class InstantAnswer(NamedTuple):
    """`head` is finished header lines, Content-Length among them and no Connection or Date."""

    status: int
    head: bytes
    content: bytes


AnswerNow = Callable[[CompleteRequest], InstantAnswer | None]


@runtime_checkable
class Instant(Protocol):
    """An application that may have an answer at once."""

    def answer_now(self, request: CompleteRequest) -> InstantAnswer | None:
        """What `__call__` would answer now, or None: ask that. It changes nothing and does not
        raise."""
        ...


def answer_now_of(app: ASGIApp) -> AnswerNow | None:
    """The short way through an application, if it has one."""
    return app.answer_now if isinstance(app, Instant) else None
