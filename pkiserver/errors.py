"""The one error tree of the core. Codes say what happened; how it looks on the wire (HTTP status,
ACME URN, SCEP failInfo, OCSP status) is decided by each protocol in one total mapping.

`PKIError`
 └ `MalformedMessage`   the peer's bytes are not what the grammar allows; raised by codecs only
"""

import enum
from collections.abc import Sequence


class ErrorCode(enum.StrEnum):
    """What went wrong. Every protocol maps every member (a test iterates them)."""

    MALFORMED = "malformed"
    """The request's bytes do not follow the grammar."""
    BAD_CSR = "bad-csr"
    """The certification request is unacceptable: signature, content, or names that differ."""
    BAD_PUBLIC_KEY = "bad-public-key"
    """The subject's key is weak, invalid, of a refused kind, or on the list of compromised keys."""
    BAD_SIGNATURE = "bad-signature"
    """A message's signature, digest or encryption does not check out with the key at hand."""
    BAD_ALGORITHM = "bad-algorithm"
    """An algorithm of the message is unknown, or too weak to be allowed here."""
    REFUSED_NAME = "refused-name"
    """Policy does not allow a certificate for this name."""
    REFUSED_BY_PROFILE = "refused-by-profile"
    """The profile does not allow what was asked; `PKIError.rule` names the rule."""
    UNAUTHORIZED = "unauthorized"
    """The requester is known or unknown, but may not do this."""
    NOT_FOUND = "not-found"
    """What the request names does not exist."""
    CONFLICT = "conflict"
    """The state changed meanwhile, or the same thing exists already."""
    ALREADY_REVOKED = "already-revoked"
    """The certificate is revoked for good already."""
    BAD_REVOCATION_REASON = "bad-revocation-reason"
    """The reason code is not one the requester may use here (RFC 5280 section 5.3.1)."""
    RATE_LIMITED = "rate-limited"
    """Too many requests; `PKIError.retry_after` says for how long."""
    PENDING_APPROVAL = "pending-approval"
    """A person has to approve first."""
    UNAVAILABLE = "unavailable"
    """A part the answer needs (database, key provider) is away; trying again may help."""
    CONFIGURATION = "configuration"
    """The operator's configuration or command is wrong; the detail says what to do."""
    INTERNAL = "internal"
    """Our fault. The cause is logged and never shown."""


class PKIError(Exception):
    """A refusal or failure with a code a protocol can map and a detail a person can read.

    `detail` is shown to clients: it never carries a secret or an internal path. `rule` names the
    configuration key or profile rule that refused; `names` are the identifiers concerned;
    `retry_after` is in seconds; `causes` are partial refusals of one request (one per name).
    """

    def __init__(
        self,
        code: ErrorCode,
        detail: str,
        *,
        rule: str | None = None,
        names: Sequence[str] = (),
        retry_after: int | None = None,
        causes: "Sequence[PKIError]" = (),
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.rule = rule
        self.names = tuple(names)
        self.retry_after = retry_after
        self.causes = tuple(causes)


class MalformedMessage(PKIError):
    """What a codec raises, and the only thing it raises, for bytes outside its grammar."""

    def __init__(self, detail: str, code: ErrorCode = ErrorCode.MALFORMED) -> None:
        super().__init__(code, detail)


def configuration_error(detail: str) -> PKIError:
    """The operator's mistake: the command line prints `detail` on one line and exits with 2."""
    return PKIError(ErrorCode.CONFIGURATION, detail)
