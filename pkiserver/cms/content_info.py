"""The parts every CMS content shares (RFC 5652 sections 3 and 10).

ContentInfo ::= SEQUENCE { contentType OBJECT IDENTIFIER, content [0] EXPLICIT ANY }
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.cms import ber
from pkiserver.errors import MalformedMessage
from pkiserver.pkix import cert, der

EXPLICIT_0 = 0xA0
EXPLICIT_1 = 0xA1
EXPLICIT_2 = 0xA2
_IMPLICIT_0 = 0x80
_KEPT = 4096
"""Octets."""


class Reader:
    """The members of a SEQUENCE, taken one after the other."""

    def __init__(self, members: Sequence[der.TLV], what: str) -> None:
        self._members = members
        self._next = 0
        self._what = what

    def take(self, *tags: int) -> der.TLV:
        """The next member, which has one of these tags; any, where none is given."""
        if self._next < len(self._members):
            member = self._members[self._next]
            if not tags or member.tag in tags:
                self._next += 1
                return member
        raise MalformedMessage(f"{self._what} does not follow RFC 5652")

    def take_if(self, *tags: int) -> der.TLV | None:
        """The next member if there is one with one of these tags (any, where none is given):
        what is OPTIONAL."""
        if self._next == len(self._members):
            return None
        return self.take() if not tags or self._members[self._next].tag in tags else None

    def finish(self) -> None:
        if self._next != len(self._members):
            raise MalformedMessage(f"{self._what} has more members than RFC 5652 gives it")


def members_of(element: der.TLV, what: str) -> Reader:
    return Reader(der.children(element.contents), what)


def parse(data: bytes, *, max_size: int = ber.MAX_SIZE) -> tuple[str, der.TLV]:
    """(contentType, content) of a message in BER; the content is DER but for its SETs' order."""
    outer = Reader(der.sequence_of(ber.to_der(data, max_size=max_size)), "ContentInfo")
    content_type = der.decode_oid(outer.take(der.OBJECT_IDENTIFIER).contents)
    content = outer.take(EXPLICIT_0)
    outer.finish()
    return content_type, der.read_one(content.contents)


def encode(content_type: str, content: bytes) -> bytes:
    return der.encode(der.SEQUENCE, der.encode_oid(content_type), der.encode(EXPLICIT_0, content))


@dataclass(frozen=True, slots=True)
class Algorithm:
    """AlgorithmIdentifier: `parameters` is their DER, empty where they are absent."""

    oid: str
    parameters: bytes = b""

    def encode(self) -> bytes:
        return der.encode(der.SEQUENCE, der.encode_oid(self.oid), self.parameters)


def parse_algorithm(element: der.TLV) -> Algorithm:
    """From the SEQUENCE, or from what an IMPLICIT tag has put in its place."""
    members = members_of(element, "AlgorithmIdentifier")
    oid = der.decode_oid(members.take(der.OBJECT_IDENTIFIER).contents)
    parameters = members.take_if()
    members.finish()
    return Algorithm(oid, b"" if parameters is None else parameters.encoded)


@dataclass(frozen=True, slots=True)
class IssuerAndSerialNumber:
    """A certificate by its issuer, the DER of the Name, and its serial number."""

    issuer: bytes
    serial: int

    def encode(self) -> bytes:
        return der.encode(der.SEQUENCE, self.issuer, der.encode_integer(self.serial))


@dataclass(frozen=True, slots=True)
class SubjectKeyIdentifier:
    """A certificate by the value of its subjectKeyIdentifier extension."""

    identifier: bytes

    def encode(self) -> bytes:
        return der.encode(_IMPLICIT_0, self.identifier)


Identifier = IssuerAndSerialNumber | SubjectKeyIdentifier
"""SignerIdentifier (section 5.3) and RecipientIdentifier (6.2.1)."""


def parse_identifier(element: der.TLV) -> Identifier:
    """`[0]` is primitive but for a BER encoder that sends it in segments."""
    if element.tag == _IMPLICIT_0:
        return SubjectKeyIdentifier(element.contents)
    if element.tag == EXPLICIT_0:
        return SubjectKeyIdentifier(octets(element))
    return parse_issuer_and_serial(element)


def parse_issuer_and_serial(element: der.TLV) -> IssuerAndSerialNumber:
    """IssuerAndSerialNumber ::= SEQUENCE { issuer Name, serialNumber INTEGER }"""
    members = members_of(element, "IssuerAndSerialNumber")
    issuer = members.take(der.SEQUENCE).encoded
    serial = integer(members.take(der.INTEGER))
    members.finish()
    return IssuerAndSerialNumber(issuer, serial)


def integer(element: der.TLV) -> int:
    """Of up to 64 octets: serial numbers of devices' own certificates know no rule."""
    if not 1 <= len(element.contents) <= 64:
        raise MalformedMessage("an INTEGER is empty or longer than 64 octets")
    return int.from_bytes(element.contents, signed=True)


def octets(element: der.TLV) -> bytes:
    """The value of an OCTET STRING under an IMPLICIT tag, in one piece or in segments."""
    if not element.constructed:
        return element.contents
    return ber.join_octets([segment.encoded for segment in der.children(element.contents)])


def identifies(identifier: Identifier, certificate: bytes) -> bool:
    """Whether it stands for this certificate (DER). Of an issuer the attribute types and texts
    count, not the string types: there are clients that encode names anew."""
    if isinstance(identifier, SubjectKeyIdentifier):
        return _key_identifier(certificate) == identifier.identifier
    theirs = issuer_and_serial(certificate)
    return theirs.serial == identifier.serial and (
        theirs.issuer == identifier.issuer
        or _name_text(theirs.issuer) == _name_text(identifier.issuer)
    )


def issuer_and_serial(certificate: bytes) -> IssuerAndSerialNumber:
    """Of a certificate (DER) of any version, read from its own octets."""
    # The same few over and over; a long one of a stranger's is not kept.
    known = _issuer_and_serial_kept if len(certificate) <= _KEPT else _issuer_and_serial
    return known(certificate)


def _issuer_and_serial(certificate: bytes) -> IssuerAndSerialNumber:
    tbs = der.sequence_of(cert.split(certificate)[0])
    first = 1 if tbs and tbs[0].tag == EXPLICIT_0 else 0
    fields = Reader(tbs[first:], "TBSCertificate")
    serial = integer(fields.take(der.INTEGER))
    fields.take(der.SEQUENCE)
    return IssuerAndSerialNumber(fields.take(der.SEQUENCE).encoded, serial)


_issuer_and_serial_kept = functools.lru_cache(maxsize=64)(_issuer_and_serial)


def _key_identifier(certificate: bytes) -> bytes | None:
    try:
        return cert.subject_key_identifier(load_certificate(certificate))
    except MalformedMessage:
        return None


def _name_text(name: bytes) -> list[list[tuple[bytes, str]]]:
    return [
        sorted(_attribute_text(attribute) for attribute in der.children(rdn.contents))
        for rdn in der.sequence_of(name)
    ]


def _attribute_text(attribute: der.TLV) -> tuple[bytes, str]:
    members = members_of(attribute, "AttributeTypeAndValue")
    return members.take(der.OBJECT_IDENTIFIER).contents, der.decode_text(members.take())


def load_certificate(data: bytes) -> x509.Certificate:
    """A certificate that a message carries. It may be a device's own: of version 1, expired, with
    any positive serial number (RFC 8894 section 2.3); what it is worth is decided elsewhere."""
    if issuer_and_serial(data).serial <= 0:
        raise MalformedMessage("the certificate's serial number is not positive")
    try:
        certificate = x509.load_der_x509_certificate(data)
        certificate.public_key()
        len(certificate.extensions)
    except cert.LIBRARY_ERRORS as error:
        raise MalformedMessage("a certificate in the message does not follow RFC 5280") from error
    return certificate


def certificate_der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)
