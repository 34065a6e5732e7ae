"""How refusals look in EST: a 4xx or 5xx status with a short text (RFC 7030 section 4.2.3), or a
bare 401 that asks for a password (section 3.2.3). Status codes are those of `web.problems`."""

from pkiserver.errors import ErrorCode, PKIError

_OURS = frozenset({ErrorCode.CONFIGURATION, ErrorCode.INTERNAL})
_MOST_TEXT = 400


class NotAuthenticated(PKIError):
    """The client has not proven who it is, and a password would do: 401."""

    def __init__(self, detail: str) -> None:
        super().__init__(ErrorCode.UNAUTHORIZED, detail, rule="est.authentication")


def text_of(error: PKIError) -> str:
    """What the client is told: one line. Our own faults are only named as such."""
    if error.code in _OURS:
        return "the server met an internal error"
    return " ".join(error.detail.split())[:_MOST_TEXT]
