"""Attributes of a certification request that only EST gives a meaning (RFC 7030 sections 3.5, 4.2.2
and 4.4.1, RFC 7894, RFC 6402 section 2.8)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography import x509

from pkiserver.errors import MalformedMessage, PKIError
from pkiserver.pkix import cert, der, names
from pkiserver.pkix.csr import EXTENSION_REQUEST_OID
from pkiserver.pkix.names import AltName

CHALLENGE_PASSWORD = "1.2.840.113549.1.9.7"  # noqa: S105
SMIME_CAPABILITIES = "1.2.840.113549.1.9.15"
DECRYPT_KEY_ID = "1.2.840.113549.1.9.16.2.37"
ASYMMETRIC_DECRYPT_KEY_ID = "1.2.840.113549.1.9.16.2.54"
EST_IDENTITY_LINKING = "1.2.840.113549.1.9.16.2.58"
CHANGE_SUBJECT_NAME = "1.3.6.1.5.5.7.7.36"

MAX_KEY_ID = 256
_ALT_NAMES = 0xA1


@dataclass(frozen=True, slots=True)
class ChangeSubjectName:
    """RFC 6402 section 2.8: the names the new certificate is to have. None: as they are."""

    subject: x509.Name | None
    alt_names: tuple[AltName, ...] | None


@dataclass(frozen=True, slots=True)
class RequestAttributes:
    """What of all this a request has. `linking` is the text that ties it to the TLS connection:
    that of estIdentityLinking or, without one, of challengePassword. `capabilities` are the OIDs in
    SMIMECapabilities, the client's favourite first."""

    linking: str | None = field(default=None, repr=False)
    change_subject_name: ChangeSubjectName | None = None
    decrypt_key_id: bytes | None = None
    asymmetric_decrypt_key_id: bytes | None = None
    capabilities: tuple[str, ...] = ()


def parse(request: bytes) -> RequestAttributes:
    """The attributes of a request in DER. Raises `MalformedMessage`."""
    found = _by_oid(request)
    linking = found.get(EST_IDENTITY_LINKING) or found.get(CHALLENGE_PASSWORD)
    change = found.get(CHANGE_SUBJECT_NAME)
    return RequestAttributes(
        linking=None if linking is None else der.decode_text(linking),
        change_subject_name=None if change is None else _change(change, request),
        decrypt_key_id=_octets(found.get(DECRYPT_KEY_ID)),
        asymmetric_decrypt_key_id=_octets(found.get(ASYMMETRIC_DECRYPT_KEY_ID)),
        capabilities=_capabilities(found.get(SMIME_CAPABILITIES)),
    )


_OURS = frozenset(
    {
        CHALLENGE_PASSWORD, SMIME_CAPABILITIES, DECRYPT_KEY_ID, ASYMMETRIC_DECRYPT_KEY_ID,
        EST_IDENTITY_LINKING, CHANGE_SUBJECT_NAME,
    }
)  # fmt: skip


def _by_oid(request: bytes) -> Mapping[str, der.TLV]:
    """The only value of each attribute that concerns us."""
    info = der.sequence_of(cert.split(request)[0])
    found: dict[str, der.TLV] = {}
    for attribute in der.children(info[3].contents) if len(info) > 3 else ():
        members = der.children(attribute.contents)
        if [member.tag for member in members] != [der.OBJECT_IDENTIFIER, der.SET]:
            raise MalformedMessage("an attribute is not a type and a set of values")
        oid = der.decode_oid(members[0].contents)
        if oid not in _OURS:
            continue
        values = der.children(members[1].contents)
        if len(values) != 1 or oid in found:
            raise MalformedMessage(f"the attribute {oid} has not exactly one value")
        found[oid] = values[0]
    return found


def _octets(value: der.TLV | None) -> bytes | None:
    """DecryptKeyIdentifier ::= OCTET STRING; the asymmetric one likewise."""
    if value is None:
        return None
    if value.tag != der.OCTET_STRING or not 1 <= len(value.contents) <= MAX_KEY_ID:
        raise MalformedMessage(f"a key identifier is an OCTET STRING of 1 to {MAX_KEY_ID} octets")
    return value.contents


def _capabilities(value: der.TLV | None) -> tuple[str, ...]:
    """SMIMECapabilities ::= SEQUENCE OF SEQUENCE { capabilityID, parameters OPTIONAL }"""
    if value is None:
        return ()
    oids = []
    for capability in der.sequence_of(value.encoded):
        members = der.sequence_of(capability.encoded)
        if not 1 <= len(members) <= 2 or members[0].tag != der.OBJECT_IDENTIFIER:
            raise MalformedMessage("SMIMECapabilities is not a list of algorithms")
        oids.append(der.decode_oid(members[0].contents))
    return tuple(oids)


def _change(value: der.TLV, request: bytes) -> ChangeSubjectName:
    """ChangeSubjectName ::= SEQUENCE { subject Name OPTIONAL, subjectAlt GeneralNames OPTIONAL }

    Neither is tagged in RFC 6402 (some tag the second with [1]): a Name has SETs in it,
    GeneralNames have context tags.
    """
    members = der.sequence_of(value.encoded)
    if not 1 <= len(members) <= 2:
        raise MalformedMessage("ChangeSubjectName has neither a subject nor alternative names")
    subject = alternative = None
    for member in members:
        if alternative is None and member.tag in (der.SEQUENCE, _ALT_NAMES) and _has_names(member):
            alternative = der.encode(der.SEQUENCE, member.contents)
        elif subject is None and alternative is None and member.tag == der.SEQUENCE:
            subject = member.encoded
        else:
            raise MalformedMessage("ChangeSubjectName is not a subject and alternative names")
    read = _read(request, subject or der.encode(der.SEQUENCE), alternative)
    return ChangeSubjectName(
        None if subject is None else read.subject, None if alternative is None else _names(read)
    )


def _has_names(member: der.TLV) -> bool:
    return member.contents[:1] != b"" and member.contents[0] & 0x80 != 0


def _read(
    request: bytes, subject: bytes, alternative: bytes | None
) -> x509.CertificateSigningRequest:
    """The library reads names only where they belong: in the request, in place of its own."""
    tbs, algorithm, signature = cert.split(request)
    version, _, key, *_ = der.sequence_of(tbs)
    attributes = b""
    if alternative is not None:
        extension = der.encode(
            der.SEQUENCE,
            der.encode_oid(x509.SubjectAlternativeName.oid.dotted_string),
            der.encode(der.OCTET_STRING, alternative),
        )
        values = der.encode(der.SET, der.encode(der.SEQUENCE, extension))
        attributes = der.encode(der.SEQUENCE, der.encode_oid(EXTENSION_REQUEST_OID), values)
    info = der.encode(
        der.SEQUENCE, version.encoded, subject, key.encoded, der.encode(0xA0, attributes)
    )
    data = cert.assemble(info, algorithm, signature)
    cert.check_name_bounds(data)
    try:
        read = x509.load_der_x509_csr(data)
        read.subject.rfc4514_string()
        len(read.extensions)
    except cert.LIBRARY_ERRORS as error:
        raise MalformedMessage("ChangeSubjectName has names that do not follow RFC 5280") from error
    return read


def _names(read: x509.CertificateSigningRequest) -> tuple[AltName, ...]:
    found = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    try:
        return tuple(sorted(set(names.from_general_names(found))))
    except PKIError as error:
        raise MalformedMessage(error.detail) from error
