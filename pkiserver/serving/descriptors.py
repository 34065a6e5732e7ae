"""File descriptors: a connection takes one, and must leave some for files and for what the server
itself connects to."""

import resource
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from pkiserver.serving.listeners import Listener

ENOUGH = 65536
KEPT_BACK = 256


def raise_limit() -> None:
    """As far as the system lets us: shells and service managers begin with 1024, for the sake of
    programs that use select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(ENOUGH, hard)
    if wanted > soft:
        with suppress(OSError, ValueError):  # macOS has another limit behind this one
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def bounded(listeners: Sequence[Listener]) -> list[Listener]:
    """With no more connections than there are descriptors for."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY or not listeners:
        return [*listeners]
    each = (limit - min(KEPT_BACK, limit // 2)) // len(listeners)
    return [
        replace(listener, max_connections=min(each, listener.max_connections))
        for listener in listeners
    ]
