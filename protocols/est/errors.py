"""How refusals look in EST: a 4xx or 5xx status with a short text (RFC 7030 section 4.2.3), or a
bare 401 that asks for a password (section 3.2.3). Total over `ErrorCode`."""

from collections.abc import Mapping

from pkiserver.errors import ErrorCode, PKIError

STATUS: Mapping[ErrorCode, int] = {
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
