"""What Microsoft Intune's services are sent and answer, as bytes and values (sans-IO).

Facts: microsoft/Intune-Resource-Access (MIT) and learn.microsoft.com, "scep-libraries-apis".
"""

import base64
import datetime as dt
import enum
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.errors import ErrorCode, MalformedMessage

Members: TypeAlias = Mapping[str, Any]

VALIDATION_SERVICE = "ScepRequestValidationFEService"
CONNECTOR_SERVICE = "PkiConnectorFEService"
VALIDATION_VERSION = "2018-02-20"
CONNECTOR_VERSION = "5019-05-05"
VALIDATE = "ScepActions/validateRequest"
NOTIFY_SUCCESS = "ScepActions/successNotification"
NOTIFY_FAILURE = "ScepActions/failureNotification"
DOWNLOAD = "CertificateAuthorityRequests/downloadRevocationRequests"
UPLOAD = "CertificateAuthorityRequests/uploadRevocationResults"
MOST_REQUESTS = 500
"""Revocation requests of one download, the service's limit."""
MOST_DESCRIPTION = 255
_LONGEST_TOKEN = 64 * 1024


class Code(enum.StrEnum):
    """Outcomes the service names; it may answer others, which are refusals too."""

    UNKNOWN = "Unknown"
    SUCCESS = "Success"
    CERTIFICATE_REQUEST_DECODING_FAILED = "CertificateRequestDecodingFailed"
    CHALLENGE_PASSWORD_MISSING = "ChallengePasswordMissing"  # noqa: S105  an outcome
    CHALLENGE_DESERIALIZATION_ERROR = "ChallengeDeserializationError"
    CHALLENGE_DECRYPTION_ERROR = "ChallengeDecryptionError"
    CHALLENGE_DECODING_ERROR = "ChallengeDecodingError"
    CHALLENGE_INVALID_TIMESTAMP = "ChallengeInvalidTimestamp"
    CHALLENGE_EXPIRED = "ChallengeExpired"
    SUBJECT_NAME_MISSING = "SubjectNameMissing"
    SUBJECT_NAME_MISMATCH = "SubjectNameMismatch"
    SUBJECT_ALT_NAME_MISSING = "SubjectAltNameMissing"
    SUBJECT_ALT_NAME_MISMATCH = "SubjectAltNameMismatch"
    KEY_USAGE_MISMATCH = "KeyUsageMismatch"
    KEY_LENGTH_MISMATCH = "KeyLengthMismatch"
    ENHANCED_KEY_USAGE_MISSING = "EnhancedKeyUsageMissing"
    ENHANCED_KEY_USAGE_MISMATCH = "EnhancedKeyUsageMismatch"
    AAD_KEY_IDENTIFIER_LIST_MISSING = "AadKeyIdentifierListMissing"
    REGISTERED_KEY_MISMATCH = "RegisteredKeyMismatch"
    SIGNING_CERT_THUMBPRINT_MISMATCH = "SigningCertThumbprintMismatch"
    SCEP_PROFILE_NO_LONGER_TARGETED = "ScepProfileNoLongerTargetedToTheClient"
    SIGNATURE_VALIDATION_FAILED = "SignatureValidationFailed"
    BAD_CERTIFICATE_REQUEST_ID_IN_CHALLENGE = "BadCertificateRequestIdInChallenge"
    BAD_DEVICE_ID_IN_CHALLENGE = "BadDeviceIdInChallenge"
    BAD_USER_ID_IN_CHALLENGE = "BadUserIdInChallenge"


class RevocationError(enum.IntEnum):
    """Why a revocation was not done."""

    NONE = 0
    NON_RETRYABLE = 4000
    DATA_SERIALIZATION = 4001
    PARAMETER_DATA_INVALID = 4002
    CRYPTOGRAPHY = 4003
    CERTIFICATE_NOT_FOUND = 4004
    CONFLICT = 4005
    NOT_SUPPORTED = 4006
    PAYLOAD_TOO_LARGE = 4007
    RETRYABLE = 4100
    UNAVAILABLE = 4101
    TOO_BUSY = 4102
    AUTHENTICATION = 4103


HRESULT_OF_CODE: Mapping[ErrorCode, int] = MappingProxyType(
    dict.fromkeys(ErrorCode, 0x80004005)  # E_FAIL
    | {
        ErrorCode.MALFORMED: 0x80093100,  # CRYPT_E_ASN1_ERROR
        ErrorCode.BAD_CSR: 0x80093100,
        ErrorCode.BAD_PUBLIC_KEY: 0x80094811,  # CERTSRV_E_KEY_LENGTH
        ErrorCode.REFUSED_NAME: 0x80094001,  # CERTSRV_E_BAD_REQUESTSUBJECT
        ErrorCode.REFUSED_BY_PROFILE: 0x80094012,  # CERTSRV_E_TEMPLATE_DENIED
        ErrorCode.UNAUTHORIZED: 0x80070005,  # E_ACCESSDENIED
        ErrorCode.CONFLICT: 0x80094003,  # CERTSRV_E_BAD_REQUESTSTATUS
    }
)
"""What Intune's console shows of a failure: Windows' HRESULTs ([MS-ERREF] section 2.1.1)."""


@dataclass(frozen=True, slots=True)
class Token:
    """An access token and the seconds it lasts."""

    value: str = field(repr=False)
    seconds: int


@dataclass(frozen=True, slots=True)
class Result:
    """An outcome. `code` is the service's word, one of `Code` or not."""

    code: str
    description: str

    @property
    def is_success(self) -> bool:
        return self.code == Code.SUCCESS


@dataclass(frozen=True, slots=True)
class RevocationRequest:
    """A certificate Intune wants revoked. `context` goes back with the result; the serial number
    and the rest are what we said when we notified of it, or None where it is no text."""

    context: str
    serial: str | None
    issuer_name: str | None
    ca_configuration: str | None


@dataclass(frozen=True, slots=True)
class RevocationResult:
    """What became of a request."""

    context: str
    error: RevocationError = RevocationError.NONE
    message: str | None = None


def validation(transaction_id: str, csr: bytes, caller: str) -> bytes:
    """The body of validateRequest."""
    return _body({"request": _common(transaction_id, csr, caller)})


def success(
    transaction_id: str, csr: bytes, caller: str, certificate: x509.Certificate, authority: str
) -> bytes:
    """The body of successNotification. `authority` comes back in `ca_configuration`."""
    issuer = certificate.issuer.rfc4514_string()
    end = certificate.not_valid_after_utc.astimezone(dt.UTC)
    return _body(
        {
            "notification": {
                **_common(transaction_id, csr, caller),
                "certificateThumbprint": _thumbprint(certificate),
                "certificateSerialNumber": serial_text(certificate.serial_number),
                "certificateExpirationDateUtc": end.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
                "issuingCertificateAuthority": issuer,
                "caConfiguration": authority,
                "certificateAuthority": issuer,
            }
        }
    )


def failure(
    transaction_id: str, csr: bytes, caller: str, code: ErrorCode, description: str
) -> bytes:
    """The body of failureNotification. An HRESULT is a signed number of 32 bits."""
    text = " ".join(description.split())[:MOST_DESCRIPTION] or code.value
    return _body(
        {
            "notification": {
                **_common(transaction_id, csr, caller),
                "hResult": HRESULT_OF_CODE[code] - (1 << 32),
                "errorDescription": text,
            }
        }
    )


def download(most: int = MOST_REQUESTS) -> bytes:
    """The body of downloadRevocationRequests, of every issuer: the service compares `issuerName`
    with something else (Intune-Resource-Access issues 132 and 133)."""
    return _body({"downloadParameters": {"maxRequests": most, "issuerName": None}})


def upload(results: Sequence[RevocationResult]) -> bytes:
    """The body of uploadRevocationResults."""
    return _body(
        {
            "results": [
                {
                    "requestContext": each.context,
                    "succeeded": each.error is RevocationError.NONE,
                    "errorCode": int(each.error),
                    "errorMessage": each.message,
                }
                for each in results
            ]
        }
    )


def parse_token(body: bytes) -> Token:
    """RFC 6749 section 5.1. Raises `MalformedMessage`."""
    members = _object(body)
    token, seconds = members.get("access_token"), members.get("expires_in")
    if not isinstance(token, str) or not 0 < len(token) <= _LONGEST_TOKEN or not _visible(token):
        raise MalformedMessage("the answer has no access token")
    if str(members.get("token_type", "")).lower() != "bearer":
        raise MalformedMessage("the token is not a bearer token")
    if isinstance(seconds, bool) or not isinstance(seconds, int) or seconds <= 0:
        raise MalformedMessage("the token's lifetime is missing")
    return Token(token, seconds)


def parse_endpoints(body: bytes) -> dict[str, str]:
    """Graph's list of service endpoints: URIs by lower-case name. Raises `MalformedMessage`."""
    found: dict[str, str] = {}
    for entry in _list(_object(body).get("value")):
        name, uri = entry.get("providerName"), entry.get("uri")
        if isinstance(name, str) and isinstance(uri, str):
            found[name.lower()] = uri.rstrip("/")
    return found


def parse_result(body: bytes) -> Result:
    """The outcome of a ScepActions call. Raises `MalformedMessage`."""
    members = _object(body)
    code, description = members.get("code"), members.get("errorDescription")
    if not isinstance(code, str) or not isinstance(description, str | None):
        raise MalformedMessage("the answer has no outcome")
    return Result(_clean(code, 100), _clean(description or "", MOST_DESCRIPTION))


def parse_revocations(body: bytes) -> tuple[RevocationRequest, ...]:
    """The requests of a download, except those that cannot be answered for want of a context.
    Raises `MalformedMessage`."""
    entries = _list(_object(body).get("value"))
    if len(entries) > MOST_REQUESTS:
        raise MalformedMessage(f"more than {MOST_REQUESTS} requests")
    return tuple(
        RevocationRequest(
            context=entry["requestContext"],
            serial=_text(entry.get("serialNumber")),
            issuer_name=_text(entry.get("issuerName")),
            ca_configuration=_text(entry.get("caConfiguration")),
        )
        for entry in entries
        if isinstance(entry.get("requestContext"), str)
    )


def parse_uploaded(body: bytes) -> None:
    """Raises `MalformedMessage` unless the results were taken."""
    if _object(body).get("value") is not True:
        raise MalformedMessage("the results were not taken")


def serial_text(serial: int) -> str:
    """As Windows shows it."""
    return f"{serial:X}" if len(f"{serial:X}") % 2 == 0 else f"0{serial:X}"


def parse_serial(text: str) -> int:
    """Hexadecimal in any case, with what people put between. Raises `MalformedMessage`."""
    digits = text.translate({ord(c): None for c in " :-"})
    try:
        if not 1 <= len(digits) <= 64 or not digits.isalnum():
            raise ValueError
        return int(digits, 16)
    except ValueError:
        raise MalformedMessage("this is no serial number") from None


def _common(transaction_id: str, csr: bytes, caller: str) -> dict[str, Any]:
    return {
        "transactionId": transaction_id,
        "certificateRequest": base64.b64encode(csr).decode("ascii"),
        "callerInfo": caller,
    }


def _thumbprint(certificate: x509.Certificate) -> str:
    der = certificate.public_bytes(Encoding.DER)
    return hashlib.sha1(der, usedforsecurity=False).hexdigest().upper()


def _body(members: Members) -> bytes:
    return json.dumps(members).encode("ascii")


def _object(body: bytes) -> Members:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise MalformedMessage("the answer is not JSON") from None
    if not isinstance(value, dict):
        raise MalformedMessage("the answer is not a JSON object")
    return value


def _list(value: object) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise MalformedMessage("the answer has no list of objects")
    return value


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _clean(text: str, most: int) -> str:
    return "".join(c for c in text[:most] if c.isprintable())


def _visible(text: str) -> bool:
    return all("!" <= c <= "~" for c in text)
