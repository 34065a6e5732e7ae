"""The core's refusals as OCSP response statuses (RFC 6960 section 2.3)."""

from collections.abc import Mapping

from pkiserver.ca.ocsp_codec import ResponseStatus
from pkiserver.errors import ErrorCode

STATUS_OF_CODE: Mapping[ErrorCode, ResponseStatus] = {
    ErrorCode.MALFORMED: ResponseStatus.MALFORMED_REQUEST,
    ErrorCode.BAD_CSR: ResponseStatus.INTERNAL_ERROR,
    ErrorCode.BAD_ALGORITHM: ResponseStatus.INTERNAL_ERROR,
    ErrorCode.BAD_SIGNATURE: ResponseStatus.INTERNAL_ERROR,
    ErrorCode.BAD_PUBLIC_KEY: ResponseStatus.INTERNAL_ERROR,
    ErrorCode.REFUSED_NAME: ResponseStatus.INTERNAL_ERROR,
    ErrorCode.REFUSED_BY_PROFILE: ResponseStatus.INTERNAL_ERROR,
    ErrorCode.UNAUTHORIZED: ResponseStatus.UNAUTHORIZED,
    # An authority that is not here is one there are no records of.
    ErrorCode.NOT_FOUND: ResponseStatus.UNAUTHORIZED,
    ErrorCode.CONFLICT: ResponseStatus.TRY_LATER,
    ErrorCode.ALREADY_REVOKED: ResponseStatus.INTERNAL_ERROR,
    ErrorCode.BAD_REVOCATION_REASON: ResponseStatus.INTERNAL_ERROR,
    ErrorCode.RATE_LIMITED: ResponseStatus.TRY_LATER,
    ErrorCode.PENDING_APPROVAL: ResponseStatus.INTERNAL_ERROR,
    ErrorCode.UNAVAILABLE: ResponseStatus.TRY_LATER,
    ErrorCode.CONFIGURATION: ResponseStatus.INTERNAL_ERROR,
    ErrorCode.INTERNAL: ResponseStatus.INTERNAL_ERROR,
}
