"""Why a request failed, as SCEP says it: failInfo (RFC 8894 section 3.2.1.4) and, for people,
failInfoText (section 3.2.1.5). One total mapping from the core's error codes."""

import enum
from collections.abc import Mapping
from types import MappingProxyType

from pkiserver.errors import ErrorCode, PKIError


class FailInfo(enum.StrEnum):
    """By the numbers that go over the wire."""

    BAD_ALG = "0"
    """Unrecognised or unsupported algorithm."""
    BAD_MESSAGE_CHECK = "1"
    """Integrity check failed."""
    BAD_REQUEST = "2"
    """Transaction not permitted or supported."""
    BAD_TIME = "3"
    """The signing time is not close enough to ours."""
    BAD_CERT_ID = "4"
    """No certificate matches what was asked."""


class Refusal(PKIError):
    """A refusal of our own, with the failInfo it has."""

    def __init__(
        self,
        fail_info: FailInfo,
        detail: str,
        *,
        code: ErrorCode = ErrorCode.UNAUTHORIZED,
        rule: str | None = None,
    ) -> None:
        super().__init__(code, detail, rule=rule)
        self.fail_info = fail_info


FAIL_INFO_OF_CODE: Mapping[ErrorCode, FailInfo] = MappingProxyType(
    dict.fromkeys(ErrorCode, FailInfo.BAD_REQUEST)
    | {
        ErrorCode.BAD_ALGORITHM: FailInfo.BAD_ALG,
        ErrorCode.BAD_SIGNATURE: FailInfo.BAD_MESSAGE_CHECK,
        ErrorCode.MALFORMED: FailInfo.BAD_MESSAGE_CHECK,
        ErrorCode.BAD_PUBLIC_KEY: FailInfo.BAD_ALG,
        ErrorCode.NOT_FOUND: FailInfo.BAD_CERT_ID,
    }
)
_BY_RULE = MappingProxyType({"csr.signature-hash": FailInfo.BAD_ALG})
_SILENT = frozenset({ErrorCode.INTERNAL, ErrorCode.CONFIGURATION})
MOST_TEXT = 255
"""Characters of failInfoText: it goes to devices with little room."""


def fail_info(error: PKIError) -> FailInfo:
    """The failInfo of any refusal."""
    if isinstance(error, Refusal):
        return error.fail_info
    return _BY_RULE.get(error.rule or "", FAIL_INFO_OF_CODE[error.code])


def fail_info_text(error: PKIError) -> str:
    """The cause in words, for a person who reads the device's log. Our own faults stay ours."""
    return "internal error" if error.code in _SILENT else error.detail[:MOST_TEXT]
