"""The request id: one per request, in every log line and on every answer."""

import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from pkiserver.web.peer import TrustedProxies

HEADER = b"x-request-id"

_ACCEPTABLE = re.compile(rb"[A-Za-z0-9._-]{8,64}")


class RequestIDs:
    """Makes ids; takes one from outside only if a trusted proxy sent it and it is harmless."""

    def __init__(
        self,
        trusted: TrustedProxies,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._trusted = trusted
        self._random_bytes = random_bytes

    def take(self, scope: Mapping[str, Any]) -> str:
        if scope.get("client") and scope["client"][0] in self._trusted:
            for name, value in scope["headers"]:
                if name == HEADER and _ACCEPTABLE.fullmatch(value):
                    return str(value, "ascii")
        return self.make()

    def make(self) -> str:
        """A new one, for a request that brought none we believe."""
        return self._random_bytes(8).hex()
