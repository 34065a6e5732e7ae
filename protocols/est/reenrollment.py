"""Re-enrolment (RFC 7030 section 4.2.2): whether a request is for the names of the certificate it
replaces. Pure.

Names are compared octet by octet as they stand: what is written differently is another name.
"""

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.ca.encoding import fields_of
from pkiserver.errors import ErrorCode, MalformedMessage, PKIError
from pkiserver.pkix import cert, der
from pkiserver.pkix.csr import EXTENSION_REQUEST_OID, MICROSOFT_EXTENSION_REQUEST_OID

_ALT_NAMES = der.encode_oid(x509.SubjectAlternativeName.oid.dotted_string)
_REQUESTS = frozenset({EXTENSION_REQUEST_OID, MICROSOFT_EXTENSION_REQUEST_OID})


def check_same_names(request: bytes, certificate: x509.Certificate) -> None:
    """Raises `PKIError` REFUSED_NAME unless Subject and SubjectAltName of the request in DER are
    those of the certificate."""
    if requested_subject(request) != fields_of(certificate).subject:
        raise _differs("Subject", certificate)
    if requested_alt_names(request) != _alt_names_of(certificate):
        raise _differs("SubjectAltName", certificate)


def _differs(what: str, certificate: x509.Certificate) -> PKIError:
    subject = certificate.subject.rfc4514_string()
    return PKIError(
        ErrorCode.REFUSED_NAME,
        f"the request's {what} is not that of the certificate to renew ({subject})",
        rule="est.reenroll",
        names=[subject],
    )


def requested_subject(request: bytes) -> bytes:
    """The Name in a request, as it stands."""
    return der.sequence_of(cert.split(request)[0])[1].encoded


def requested_alt_names(request: bytes) -> bytes | None:
    """The value of the SubjectAltName it asks for, as it stands."""
    info = der.sequence_of(cert.split(request)[0])
    for attribute in der.children(info[3].contents) if len(info) > 3 else ():
        kind, values = _pair(attribute)
        if der.decode_oid(kind.contents) in _REQUESTS:
            return _alt_names_in(der.read_one(values.contents, der.SEQUENCE))
    return None


def _pair(element: der.TLV) -> tuple[der.TLV, der.TLV]:
    members = der.children(element.contents)
    if len(members) != 2:
        raise MalformedMessage("an attribute is not a type and a set of values")
    return members[0], members[1]


def _alt_names_in(extensions: der.TLV) -> bytes | None:
    for extension in der.children(extensions.contents):
        members = der.children(extension.contents)
        if members and members[0].encoded == _ALT_NAMES:
            return members[-1].contents
    return None


def _alt_names_of(certificate: x509.Certificate) -> bytes | None:
    """From the certificate's own octets: a value encoded anew may differ."""
    tbs = der.sequence_of(cert.split(certificate.public_bytes(Encoding.DER))[0])
    for member in tbs:
        if member.tag == 0xA3:
            return _alt_names_in(der.read_one(member.contents, der.SEQUENCE))
    return None
