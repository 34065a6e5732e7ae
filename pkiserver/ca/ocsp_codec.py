"""OCSP messages as bytes (RFC 6960, RFC 9654, RFC 9919), both ways, without any I/O.

    OCSPRequest  ::= SEQUENCE { tbsRequest, optionalSignature [0] EXPLICIT Signature OPTIONAL }
    TBSRequest   ::= SEQUENCE { version [0] EXPLICIT DEFAULT v1, requestorName [1] OPTIONAL,
                                requestList SEQUENCE OF Request,
                                requestExtensions [2] EXPLICIT OPTIONAL }
    Request      ::= SEQUENCE { reqCert CertID, singleRequestExtensions [0] EXPLICIT OPTIONAL }
    CertID       ::= SEQUENCE { hashAlgorithm, issuerNameHash, issuerKeyHash, serialNumber }

Parsing takes strict DER and raises `MalformedMessage`, nothing else, for the rest. A signed request
is accepted and its signature not looked into: nobody is authorised by it, and RFC 9919 has the
requestor's name treated as absent.
"""

import datetime as dt
import enum
from collections.abc import Sequence
from dataclasses import dataclass

from pkiserver.ca.encoding import ENUMERATED, extension, generalized_time
from pkiserver.ca.model import Reason
from pkiserver.errors import MalformedMessage
from pkiserver.pkix import der

MAX_REQUEST_SIZE = 64 * 1024
"""Octets. A hundred SHA-512 CertIDs, or a signature with a post-quantum chain, fit."""
MAX_CERT_IDS = 100
MAX_NONCE = 128
_MAX_EXTENSIONS = 20
_MAX_SERIAL = 64

_BASIC = "1.3.6.1.5.5.7.48.1.1"
_NONCE = "1.3.6.1.5.5.7.48.1.2"
_ACCEPTABLE_RESPONSES = "1.3.6.1.5.5.7.48.1.4"
_ARCHIVE_CUTOFF = "1.3.6.1.5.5.7.48.1.6"
_EXTENDED_REVOKE = "1.3.6.1.5.5.7.48.1.9"
_HASHES = {
    "1.3.14.3.2.26": "sha1",
    "2.16.840.1.101.3.4.2.1": "sha256",
    "2.16.840.1.101.3.4.2.2": "sha384",
    "2.16.840.1.101.3.4.2.3": "sha512",
}
HASH_NAMES = tuple(_HASHES.values())
"""hashlib's names of the algorithms a CertID of ours may use."""

_EXPLICIT_0, _EXPLICIT_1, _EXPLICIT_2 = 0xA0, 0xA1, 0xA2
_NULL = b"\x05\x00"


class ResponseStatus(enum.IntEnum):
    """OCSPResponseStatus (RFC 6960 section 4.2.1); 4 is not used."""

    SUCCESSFUL = 0
    MALFORMED_REQUEST = 1
    INTERNAL_ERROR = 2
    TRY_LATER = 3
    SIG_REQUIRED = 5
    UNAUTHORIZED = 6


@dataclass(frozen=True, slots=True)
class CertID:
    """Which certificate is asked about. `encoded` is repeated in the answer octet for octet;
    `hash_name` is hashlib's name, None for an algorithm we do not have."""

    encoded: bytes
    hash_name: str | None
    issuer_name_hash: bytes
    issuer_key_hash: bytes
    serial: int


@dataclass(frozen=True, slots=True)
class OCSPRequest:
    """`nonce` is the extension's value, to be repeated octet for octet. `plain`: about one serial
    number, by one CertID or two, and nothing else; there are few such requests for a certificate,
    and no end of others."""

    cert_ids: tuple[CertID, ...]
    nonce: bytes | None
    plain: bool


@dataclass(frozen=True, slots=True)
class Revoked:
    """RevokedInfo: since when, in UTC, and why."""

    at: dt.datetime
    reason: Reason


class Plain(enum.Enum):
    """A CertStatus without more to say: NULL under its implicit tag."""

    GOOD = b"\x80\x00"
    UNKNOWN = b"\x82\x00"


NOT_ISSUED = Revoked(dt.datetime(1970, 1, 1, tzinfo=dt.UTC), Reason.CERTIFICATE_HOLD)
"""What RFC 6960 section 2.2 has for a certificate that was never issued, where a responder says
`revoked` of those; an answer with it needs the extended-revoke extension (section 4.4.8)."""


@dataclass(frozen=True, slots=True)
class SingleResponse:
    """The status of one certificate. `archive_cutoff` (RFC 6960 section 4.4.4) is the moment since
    when statuses are kept although certificates expire; None: not said."""

    cert_id: CertID
    status: Plain | Revoked
    archive_cutoff: dt.datetime | None = None


def parse_request(data: bytes) -> OCSPRequest:
    """The request, which asks about 1 to `MAX_CERT_IDS` certificates.

    Refused are also: a version other than v1, extensions that are repeated, or critical and not
    understood, a nonce outside 1 to 128 octets (RFC 9654 section 2.1), and a list of acceptable
    responses without the basic one, which every client has to accept (RFC 6960 section 4.4.3).
    """
    if len(data) > MAX_REQUEST_SIZE:
        raise MalformedMessage(f"the request is larger than {MAX_REQUEST_SIZE} octets")
    members = der.sequence_of(data)
    if not members or members[0].tag != der.SEQUENCE:
        raise MalformedMessage("the request has no tbsRequest")
    if len(members) > 1:
        _check_signature(members[1:])
    cert_ids, nonce = _parse_tbs(der.children(members[0].contents))
    one = len({each.serial for each in cert_ids}) == 1 and len(cert_ids) <= 2
    return OCSPRequest(cert_ids, nonce, one and data == _plain(cert_ids))


def _plain(cert_ids: Sequence[CertID]) -> bytes:
    """The request that asks about these, and nothing else."""
    requests = (der.encode(der.SEQUENCE, each.encoded) for each in cert_ids)
    tbs = der.encode(der.SEQUENCE, der.encode(der.SEQUENCE, *requests))
    return der.encode(der.SEQUENCE, tbs)


def _check_signature(members: Sequence[der.TLV]) -> None:
    """Signature ::= SEQUENCE { signatureAlgorithm, signature, certs [0] EXPLICIT OPTIONAL }"""
    if len(members) != 1 or members[0].tag != _EXPLICIT_0:
        raise MalformedMessage("only a signature may follow the tbsRequest")
    shape = [member.tag for member in der.sequence_of(members[0].contents)]
    if shape[:2] != [der.SEQUENCE, der.BIT_STRING] or shape[2:] not in ([], [_EXPLICIT_0]):
        raise MalformedMessage("the request's signature is not one")


def _parse_tbs(members: Sequence[der.TLV]) -> tuple[tuple[CertID, ...], bytes | None]:
    rest = list(members)
    if rest and rest[0].tag == _EXPLICIT_0:
        _check_version(rest.pop(0).contents)
    if rest and rest[0].tag == _EXPLICIT_1:
        der.read_one(rest.pop(0).contents)  # requestorName: one GeneralName, not used
    if not rest or rest[0].tag != der.SEQUENCE:
        raise MalformedMessage("the request has no requestList")
    cert_ids = _parse_request_list(der.children(rest.pop(0).contents))
    nonce = None
    if rest and rest[0].tag == _EXPLICIT_2:
        nonce = _parse_request_extensions(rest.pop(0).contents)
    if rest:
        raise MalformedMessage("something follows the fields of the tbsRequest")
    return cert_ids, nonce


def _check_version(contents: bytes) -> None:
    # The default v1 is not to be encoded in DER, but means the same where it is.
    if der.read_one(contents, der.INTEGER).contents != b"\x00":
        raise MalformedMessage("the request's version is not v1")


def _parse_request_list(requests: Sequence[der.TLV]) -> tuple[CertID, ...]:
    if not 1 <= len(requests) <= MAX_CERT_IDS:
        raise MalformedMessage(f"a request asks about 1 to {MAX_CERT_IDS} certificates")
    return tuple(_parse_single(request) for request in requests)


def _parse_single(request: der.TLV) -> CertID:
    members = der.children(request.contents) if request.tag == der.SEQUENCE else ()
    tags = [member.tag for member in members]
    if tags[:1] != [der.SEQUENCE] or tags[1:] not in ([], [_EXPLICIT_0]):
        raise MalformedMessage("the requestList has something that is not a Request")
    if len(members) == 2:
        for oid, (critical, _) in _parse_extensions(members[1].contents).items():
            _refuse_critical(oid, critical)
    return _parse_cert_id(members[0])


def _parse_cert_id(element: der.TLV) -> CertID:
    members = der.children(element.contents)
    shape = [der.SEQUENCE, der.OCTET_STRING, der.OCTET_STRING, der.INTEGER]
    if [member.tag for member in members] != shape:
        raise MalformedMessage("a CertID has an algorithm, two hashes and a serial number")
    algorithm, name_hash, key_hash, serial = members
    return CertID(
        element.encoded,
        _parse_hash_algorithm(der.children(algorithm.contents)),
        name_hash.contents,
        key_hash.contents,
        _parse_serial(serial.contents),
    )


def _parse_hash_algorithm(members: Sequence[der.TLV]) -> str | None:
    """Parameters are absent or NULL, both are in use (RFC 5754 section 2)."""
    if not members or members[0].tag != der.OBJECT_IDENTIFIER:
        raise MalformedMessage("a CertID's algorithm has no identifier")
    name = _HASHES.get(der.decode_oid(members[0].contents))
    if name is not None and [member.encoded for member in members[1:]] not in ([], [_NULL]):
        raise MalformedMessage("a hash algorithm has parameters")
    return name


def _parse_serial(octets: bytes) -> int:
    """Any INTEGER in its shortest form; whether a certificate of ours has it, is for the caller."""
    if not 1 <= len(octets) <= _MAX_SERIAL:
        raise MalformedMessage(f"a serial number has 1 to {_MAX_SERIAL} octets here")
    if len(octets) > 1 and octets[0] in (0x00, 0xFF) and octets[0] >> 7 == octets[1] >> 7:
        raise MalformedMessage("a serial number is not in its shortest form")
    return int.from_bytes(octets, signed=True)


def _parse_request_extensions(contents: bytes) -> bytes | None:
    """The nonce extension's value, if there is one."""
    extensions = _parse_extensions(contents)
    nonce = extensions.pop(_NONCE, None)
    acceptable = extensions.pop(_ACCEPTABLE_RESPONSES, None)
    if nonce is not None:
        _check_nonce(nonce[1])
    if acceptable is not None:
        _check_acceptable(acceptable[1])
    for oid, (critical, _) in extensions.items():
        _refuse_critical(oid, critical)
    return None if nonce is None else nonce[1]


def _parse_extensions(contents: bytes) -> dict[str, tuple[bool, bytes]]:
    """Extensions by OID: whether critical, and the contents of extnValue."""
    found: dict[str, tuple[bool, bytes]] = {}
    members = der.sequence_of(contents)
    if not 1 <= len(members) <= _MAX_EXTENSIONS:
        raise MalformedMessage(f"there are 1 to {_MAX_EXTENSIONS} extensions")
    for member in members:
        parts = der.children(member.contents) if member.tag == der.SEQUENCE else ()
        oid, critical, value = _parse_extension(parts)
        if oid in found:
            raise MalformedMessage(f"the extension {oid} is there twice")
        found[oid] = critical, value
    return found


def _parse_extension(parts: Sequence[der.TLV]) -> tuple[str, bool, bytes]:
    tags = [part.tag for part in parts]
    flagged = tags[1:2] == [der.BOOLEAN]
    if tags != [der.OBJECT_IDENTIFIER, *[der.BOOLEAN] * flagged, der.OCTET_STRING]:
        raise MalformedMessage("an extension has an identifier, perhaps a flag, and a value")
    # An explicit FALSE is not DER, but OpenSSL and others have sent it.
    if flagged and parts[1].contents not in (b"\x00", b"\xff"):
        raise MalformedMessage("an extension's critical flag is no BOOLEAN")
    critical = flagged and parts[1].contents == b"\xff"
    return der.decode_oid(parts[0].contents), critical, parts[-1].contents


def _refuse_critical(oid: str, critical: bool) -> None:
    # RFC 6960 section 4.4: what is critical and not understood must not be passed over.
    if critical:
        raise MalformedMessage(f"the critical extension {oid} is not understood")


def _check_nonce(value: bytes) -> None:
    # RFC 9654 section 2.1: Nonce ::= OCTET STRING (SIZE (1..128)); outside is malformedRequest.
    if not 1 <= len(der.read_one(value, der.OCTET_STRING).contents) <= MAX_NONCE:
        raise MalformedMessage(f"a nonce has 1 to {MAX_NONCE} octets")


def _check_acceptable(value: bytes) -> None:
    accepted = der.sequence_of(value)
    if any(member.tag != der.OBJECT_IDENTIFIER for member in accepted):
        raise MalformedMessage("an acceptable response type is no identifier")
    if _BASIC not in [der.decode_oid(member.contents) for member in accepted]:
        raise MalformedMessage("the client does not accept basic responses")


def error_response(status: ResponseStatus) -> bytes:
    """An unsigned answer that carries nothing but why there is none (RFC 6960 section 2.3)."""
    if status is ResponseStatus.SUCCESSFUL:
        raise ValueError("a successful response has response bytes")
    return der.encode(der.SEQUENCE, der.encode(ENUMERATED, bytes((status,))))


def response_data(
    *,
    responder_key_hash: bytes,
    produced_at: dt.datetime,
    this_update: dt.datetime,
    next_update: dt.datetime,
    responses: Sequence[SingleResponse],
    nonce: bytes | None,
) -> bytes:
    """ResponseData, to be signed. `responder_key_hash` is the SHA-1 of the responder's key bits:
    RFC 9919 wants new responders to be named by key. All responses share their times."""
    times = generalized_time(this_update) + der.encode(_EXPLICIT_0, generalized_time(next_update))
    return der.encode(
        der.SEQUENCE,
        der.encode(_EXPLICIT_2, der.encode(der.OCTET_STRING, responder_key_hash)),
        generalized_time(produced_at),
        der.encode(der.SEQUENCE, *(_single(single, times) for single in responses)),
        _response_extensions(responses, nonce),
    )


def _single(single: SingleResponse, times: bytes) -> bytes:
    extensions = b""
    if single.archive_cutoff is not None:
        cutoff = extension(_ARCHIVE_CUTOFF, generalized_time(single.archive_cutoff))
        extensions = der.encode(_EXPLICIT_1, der.encode(der.SEQUENCE, cutoff))
    return der.encode(
        der.SEQUENCE, single.cert_id.encoded, _status(single.status), times, extensions
    )


def _response_extensions(responses: Sequence[SingleResponse], nonce: bytes | None) -> bytes:
    extensions = []
    if nonce is not None:
        # RFC 9654: in responseExtensions, not with a single response.
        extensions.append(extension(_NONCE, nonce))
    if any(single.status is NOT_ISSUED for single in responses):
        extensions.append(extension(_EXTENDED_REVOKE, _NULL))
    return der.encode(_EXPLICIT_1, der.encode(der.SEQUENCE, *extensions)) if extensions else b""


def _status(status: Plain | Revoked) -> bytes:
    """CertStatus ::= CHOICE { good [0] IMPLICIT NULL, revoked [1] IMPLICIT RevokedInfo,
    unknown [2] IMPLICIT NULL }"""
    if isinstance(status, Plain):
        return status.value
    reason = b""
    if status.reason is not Reason.UNSPECIFIED:
        code = der.encode(ENUMERATED, bytes((status.reason.code,)))
        reason = der.encode(_EXPLICIT_0, code)
    return der.encode(_EXPLICIT_1, generalized_time(status.at), reason)


def basic_response(
    data: bytes, algorithm: bytes, signature: bytes, responder_certificate: bytes
) -> bytes:
    """A successful OCSPResponse: `data` from `response_data`, its signature, and the certificate of
    the delegated responder that made it. All but `signature` are DER."""
    basic = der.encode(
        der.SEQUENCE,
        data,
        algorithm,
        der.encode_bit_string(signature),
        der.encode(_EXPLICIT_0, der.encode(der.SEQUENCE, responder_certificate)),
    )
    response_bytes = der.encode(
        der.SEQUENCE, der.encode_oid(_BASIC), der.encode(der.OCTET_STRING, basic)
    )
    return der.encode(
        der.SEQUENCE,
        der.encode(ENUMERATED, bytes((ResponseStatus.SUCCESSFUL,))),
        der.encode(_EXPLICIT_0, response_bytes),
    )
