"""Problem documents of ACME (RFC 8555 section 6.7, RFC 9457): what a refusal is, how it looks on
the wire, how it is stored with an order or challenge, and what the core's refusals become.
"""

import enum
import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pkiserver.errors import ErrorCode, PKIError

URN_PREFIX = "urn:ietf:params:acme:error:"
_INTERNAL_DETAIL = "The server met an internal error"


class ProblemType(enum.StrEnum):
    """The registry of RFC 8555 section 6.7 with the later entries; values are the full URNs."""

    ACCOUNT_DOES_NOT_EXIST = URN_PREFIX + "accountDoesNotExist"
    ALREADY_REPLACED = URN_PREFIX + "alreadyReplaced"  # RFC 9773 section 7.4
    ALREADY_REVOKED = URN_PREFIX + "alreadyRevoked"
    BAD_CSR = URN_PREFIX + "badCSR"
    BAD_NONCE = URN_PREFIX + "badNonce"
    BAD_PUBLIC_KEY = URN_PREFIX + "badPublicKey"
    BAD_REVOCATION_REASON = URN_PREFIX + "badRevocationReason"
    BAD_SIGNATURE_ALGORITHM = URN_PREFIX + "badSignatureAlgorithm"
    CAA = URN_PREFIX + "caa"
    COMPOUND = URN_PREFIX + "compound"
    CONNECTION = URN_PREFIX + "connection"
    DNS = URN_PREFIX + "dns"
    EXTERNAL_ACCOUNT_REQUIRED = URN_PREFIX + "externalAccountRequired"
    INCORRECT_RESPONSE = URN_PREFIX + "incorrectResponse"
    INVALID_CONTACT = URN_PREFIX + "invalidContact"
    INVALID_PROFILE = URN_PREFIX + "invalidProfile"  # draft-ietf-acme-profiles
    MALFORMED = URN_PREFIX + "malformed"
    ORDER_NOT_READY = URN_PREFIX + "orderNotReady"
    RATE_LIMITED = URN_PREFIX + "rateLimited"
    REJECTED_IDENTIFIER = URN_PREFIX + "rejectedIdentifier"
    SERVER_INTERNAL = URN_PREFIX + "serverInternal"
    TLS = URN_PREFIX + "tls"
    UNAUTHORIZED = URN_PREFIX + "unauthorized"
    UNSUPPORTED_CONTACT = URN_PREFIX + "unsupportedContact"
    UNSUPPORTED_IDENTIFIER = URN_PREFIX + "unsupportedIdentifier"
    USER_ACTION_REQUIRED = URN_PREFIX + "userActionRequired"

    @property
    def token(self) -> str:
        """The name without the URN's prefix: `badNonce`."""
        return self.value.removeprefix(URN_PREFIX)


DEFAULT_STATUS: Mapping[ProblemType, int] = {
    ProblemType.ACCOUNT_DOES_NOT_EXIST: 400,
    ProblemType.ALREADY_REPLACED: 409,
    ProblemType.ALREADY_REVOKED: 400,
    ProblemType.BAD_CSR: 400,
    ProblemType.BAD_NONCE: 400,
    ProblemType.BAD_PUBLIC_KEY: 400,
    ProblemType.BAD_REVOCATION_REASON: 400,
    ProblemType.BAD_SIGNATURE_ALGORITHM: 400,
    ProblemType.CAA: 403,
    ProblemType.COMPOUND: 400,
    ProblemType.CONNECTION: 400,
    ProblemType.DNS: 400,
    ProblemType.EXTERNAL_ACCOUNT_REQUIRED: 403,
    ProblemType.INCORRECT_RESPONSE: 403,
    ProblemType.INVALID_CONTACT: 400,
    ProblemType.INVALID_PROFILE: 400,
    ProblemType.MALFORMED: 400,
    ProblemType.ORDER_NOT_READY: 403,
    ProblemType.RATE_LIMITED: 429,
    ProblemType.REJECTED_IDENTIFIER: 403,
    ProblemType.SERVER_INTERNAL: 500,
    ProblemType.TLS: 400,
    ProblemType.UNAUTHORIZED: 403,
    ProblemType.UNSUPPORTED_CONTACT: 400,
    ProblemType.UNSUPPORTED_IDENTIFIER: 400,
    ProblemType.USER_ACTION_REQUIRED: 403,
}


class WireIdentifier(NamedTuple):
    """An identifier exactly as it stands in JSON (RFC 8555 section 9.7.7)."""

    type: str
    value: str

    def to_json(self) -> dict[str, str]:
        return {"type": self.type, "value": self.value}


class Problem(Exception):
    """A refusal as the client sees it. `status` is the HTTP status and the member of that name.

    `retry_after` (seconds) and `location` (URL) become header fields; they are not part of the
    document, so they do not survive `to_json` and `from_json`. `algorithms` goes with
    badSignatureAlgorithm (section 6.2), `instance` with userActionRequired (section 7.3.3),
    `subproblems` have an `identifier` each (section 6.7.1).
    """

    def __init__(
        self,
        type: ProblemType,
        detail: str,
        *,
        status: int | None = None,
        identifier: WireIdentifier | None = None,
        subproblems: "Sequence[Problem]" = (),
        algorithms: Sequence[str] = (),
        instance: str | None = None,
        retry_after: int | None = None,
        location: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.type = type
        self.detail = detail
        self.status = DEFAULT_STATUS[type] if status is None else status
        self.identifier = identifier
        self.subproblems = tuple(subproblems)
        self.algorithms = tuple(algorithms)
        self.instance = instance
        self.retry_after = retry_after
        self.location = location

    def __str__(self) -> str:
        return f"{self.type.token}: {self.detail}"

    def to_json(self) -> dict[str, Any]:
        """The document. Absent members are left out: clients trip over null (certbot) and over
        empty objects (acme.sh)."""
        document: dict[str, Any] = {
            "type": self.type.value,
            "status": self.status,
            "detail": self.detail,
        }
        if self.instance is not None:
            document["instance"] = self.instance
        if self.algorithms:
            document["algorithms"] = list(self.algorithms)
        if self.identifier is not None:
            document["identifier"] = self.identifier.to_json()
        if self.subproblems:
            document["subproblems"] = [problem.to_json() for problem in self.subproblems]
        return document


def from_json(document: Mapping[str, Any]) -> Problem:
    """A stored document. Total: a row that some other version wrote must not make its order
    unreadable, so what is not understood is left out, down to a bare serverInternal."""
    type_ = _known_type(document.get("type"))
    status = document.get("status")
    return Problem(
        type_,
        _text(document.get("detail")) or _INTERNAL_DETAIL,
        status=status if _is_http_error(status) else None,
        identifier=_identifier(document.get("identifier")),
        subproblems=[
            from_json(item) for item in _items(document.get("subproblems")) if _is_mapping(item)
        ],
        algorithms=[item for item in _items(document.get("algorithms")) if isinstance(item, str)],
        instance=_text(document.get("instance")),
    )


def _known_type(value: object) -> ProblemType:
    try:
        return ProblemType(str(value))
    except ValueError:
        return ProblemType.SERVER_INTERNAL


def _is_http_error(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _items(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _identifier(value: object) -> WireIdentifier | None:
    if not isinstance(value, Mapping):
        return None
    kind, name = value.get("type"), value.get("value")
    return WireIdentifier(kind, name) if isinstance(kind, str) and isinstance(name, str) else None


_TYPE_OF_CODE: Mapping[ErrorCode, tuple[ProblemType, int | None]] = {
    ErrorCode.MALFORMED: (ProblemType.MALFORMED, None),
    ErrorCode.BAD_CSR: (ProblemType.BAD_CSR, None),
    ErrorCode.BAD_PUBLIC_KEY: (ProblemType.BAD_PUBLIC_KEY, None),
    ErrorCode.BAD_SIGNATURE: (ProblemType.MALFORMED, None),
    ErrorCode.BAD_ALGORITHM: (ProblemType.BAD_SIGNATURE_ALGORITHM, None),
    ErrorCode.REFUSED_NAME: (ProblemType.REJECTED_IDENTIFIER, None),
    # What a profile refuses at finalize is in the CSR, and trying it again is of no use.
    ErrorCode.REFUSED_BY_PROFILE: (ProblemType.BAD_CSR, None),
    ErrorCode.UNAUTHORIZED: (ProblemType.UNAUTHORIZED, None),
    ErrorCode.NOT_FOUND: (ProblemType.MALFORMED, 404),
    # Not 409: certbot reads any 409 as "the account exists", so it is kept for where RFCs say so.
    ErrorCode.CONFLICT: (ProblemType.MALFORMED, None),
    ErrorCode.ALREADY_REVOKED: (ProblemType.ALREADY_REVOKED, None),
    ErrorCode.BAD_REVOCATION_REASON: (ProblemType.BAD_REVOCATION_REASON, None),
    ErrorCode.RATE_LIMITED: (ProblemType.RATE_LIMITED, None),
    ErrorCode.PENDING_APPROVAL: (ProblemType.UNAUTHORIZED, None),
    ErrorCode.UNAVAILABLE: (ProblemType.SERVER_INTERNAL, 503),
    ErrorCode.CONFIGURATION: (ProblemType.SERVER_INTERNAL, None),
    ErrorCode.INTERNAL: (ProblemType.SERVER_INTERNAL, None),
}
_OURS = frozenset({ErrorCode.CONFIGURATION, ErrorCode.INTERNAL})
"""Codes whose detail is for the operator: the client learns only that it is our fault."""


def problem_from(error: PKIError) -> Problem:
    """What the core's refusal is in ACME. Total over `ErrorCode`."""
    type_, status = _TYPE_OF_CODE[error.code]
    if error.code in _OURS:
        return internal()
    return Problem(
        type_,
        error.detail,
        status=status,
        identifier=_single_name(error.names),
        subproblems=[problem_from(cause) for cause in error.causes],
        retry_after=error.retry_after,
    )


def _single_name(names: Sequence[str]) -> WireIdentifier | None:
    if len(names) != 1:
        return None
    try:
        return WireIdentifier("ip", str(ipaddress.ip_address(names[0])))
    except ValueError:
        return WireIdentifier("dns", names[0])


def internal() -> Problem:
    """Our fault, with no word about what."""
    return Problem(ProblemType.SERVER_INTERNAL, _INTERNAL_DETAIL)


def malformed(detail: str, status: int | None = None) -> Problem:
    return Problem(ProblemType.MALFORMED, detail, status=status)


def unauthorized(detail: str, status: int | None = None) -> Problem:
    return Problem(ProblemType.UNAUTHORIZED, detail, status=status)


def bad_nonce() -> Problem:
    """The detail is part of the interface: acme.sh tries again only if it finds these words."""
    return Problem(ProblemType.BAD_NONCE, "JWS has an invalid anti-replay nonce")
