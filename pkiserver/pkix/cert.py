"""Certificates as bytes (RFC 5280 section 4.1): parsing with one exception, serial numbers in
their three notations, and the signed shell taken apart and put together.

    Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm, signatureValue BIT STRING }
"""

import re
from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from pkiserver.errors import MalformedMessage
from pkiserver.pkix import der

MAX_CERTIFICATE_SIZE = 64 * 1024
"""Octets. An ML-DSA-87 certificate has about 8 KiB, one with 1000 names about 50."""
MAX_SERIAL_OCTETS = 20
_MAX_EXTENSION_DEPTH = 4

LIBRARY_ERRORS = (
    ValueError,
    TypeError,
    AssertionError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What the X.509 library raises for bytes it does not accept."""

# RFC 5280 appendix A.1: ub-common-name and ub-country-name-alpha-length.
_BOUNDS = {
    der.encode_oid("2.5.4.3"): ("common name", 1, 64),
    der.encode_oid("2.5.4.6"): ("country", 2, 2),
    der.encode_oid("1.3.6.1.4.1.311.60.2.1.3"): ("jurisdiction country", 2, 2),
}
_SERIAL_TEXT = re.compile(r"[0-9a-fA-F]{1,42}|[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){0,20}")


def parse_certificate(data: bytes, *, max_size: int = MAX_CERTIFICATE_SIZE) -> x509.Certificate:
    """One DER certificate whose every field reads without a further error.

    Refused with `MalformedMessage`: anything but strict DER of at most `max_size` octets, a serial
    number that is not positive or longer than 20 octets (RFC 5280 section 4.1.2.2), repeated
    extensions, name attributes beyond their bounds, a public key that is not one.
    Roots of earlier days with the serial number 0 are among them; the library is about to drop
    those, too.
    """
    if len(data) > max_size:
        raise MalformedMessage(f"the certificate is larger than {max_size} octets")
    check_name_bounds(data)
    _check_serial(split(data)[0])
    try:
        certificate = x509.load_der_x509_certificate(data)
        _read_all(certificate)
    except LIBRARY_ERRORS as error:
        raise MalformedMessage("the certificate does not follow RFC 5280") from error
    return certificate


def _read_all(certificate: x509.Certificate) -> None:
    """The library reads lazily: what is wrong shall show now, not when a field is used."""
    certificate.public_key()
    for name in (certificate.subject, certificate.issuer):
        name.rfc4514_string()
    if certificate.not_valid_before_utc > certificate.not_valid_after_utc:
        raise ValueError("notBefore is after notAfter")
    len(certificate.extensions)


def _check_serial(tbs: bytes) -> None:
    fields = der.sequence_of(tbs)
    position = 1 if fields and fields[0].tag == 0xA0 else 0
    if len(fields) <= position or fields[position].tag != der.INTEGER:
        raise MalformedMessage("the certificate has no serial number")
    octets = fields[position].contents
    if not 1 <= len(octets) <= MAX_SERIAL_OCTETS or int.from_bytes(octets, signed=True) <= 0:
        raise MalformedMessage("the serial number is not a positive integer of up to 20 octets")


def check_name_bounds(data: bytes) -> None:
    """Refuse name attributes outside RFC 5280's bounds, wherever in the DER structure `data`, which
    is known to be strict DER to its last element afterwards. Values of extensions are looked into
    as well: names occur there too."""
    _check_bounds(der.children(data), 0, 0)


def _check_bounds(members: Sequence[der.TLV], levels: int, extensions: int) -> None:
    """`extensions` counts those that these are the members of: an extension inside an extension
    inside an extension serves nobody."""
    if levels > der.MAX_DEPTH:
        raise MalformedMessage(f"DER nested deeper than {der.MAX_DEPTH} levels")
    if extensions > _MAX_EXTENSION_DEPTH:
        raise MalformedMessage("extensions nested in extensions")
    for element in members:
        if not element.tag & der.CONSTRUCTED:
            continue
        inner = der.children(element.contents)
        if element.tag == der.SEQUENCE and inner and inner[0].tag == der.OBJECT_IDENTIFIER:
            if len(inner) == 2 and inner[0].encoded in _BOUNDS:
                _check_attribute(inner[0], inner[1])
            if _has_structure(inner):
                _check_bounds(der.children(inner[-1].contents), 0, extensions + 1)
        _check_bounds(inner, levels + 1, extensions)


def _has_structure(members: Sequence[der.TLV]) -> bool:
    """Extension ::= SEQUENCE { extnID, critical BOOLEAN DEFAULT FALSE, extnValue OCTET STRING },
    with a SEQUENCE in the OCTET STRING."""
    value = members[-1]
    return (
        len(members) in (2, 3)
        and value.tag == der.OCTET_STRING
        and value.contents[:1] == bytes((der.SEQUENCE,))
    )


def _check_attribute(attribute_type: der.TLV, value: der.TLV) -> None:
    label, least, most = _BOUNDS[attribute_type.encoded]
    if not least <= len(der.decode_text(value).encode()) <= most:
        raise MalformedMessage(f"the {label} in a name has not {least} to {most} octets")


def split(data: bytes) -> tuple[bytes, bytes, bytes]:
    """(tbsCertificate DER, signatureAlgorithm DER, signature octets) of a DER certificate.

    Certification requests and CRLs have the same shell.
    """
    members = der.sequence_of(data)
    if [member.tag for member in members] != [der.SEQUENCE, der.SEQUENCE, der.BIT_STRING]:
        raise MalformedMessage("not a signed structure of to-be-signed, algorithm and signature")
    tbs, algorithm, signature = members
    if signature.contents[:1] != b"\x00":
        raise MalformedMessage("the signature is not a whole number of octets")
    return tbs.encoded, algorithm.encoded, signature.contents[1:]


def assemble(tbs: bytes, algorithm_der: bytes, signature: bytes) -> bytes:
    """The reverse of `split`: the DER of the signed structure."""
    return der.encode(der.SEQUENCE, tbs, algorithm_der, der.encode_bit_string(signature))


def serial_bytes(serial: int) -> bytes:
    """The form serial numbers have in the database: big-endian without leading zeros, so not the
    contents of the INTEGER, which have a zero octet in front where the top bit is set.
    `ValueError` for what is not positive or needs more than 20 octets of INTEGER."""
    if not 0 < serial < 1 << (8 * MAX_SERIAL_OCTETS - 1):
        raise ValueError("a serial number is positive and has up to 20 octets")
    return serial.to_bytes((serial.bit_length() + 7) // 8)


def serial_hex(serial: int) -> str:
    """Lower-case hexadecimal with an even number of digits, as `openssl x509 -serial` counts."""
    text = f"{serial:x}"
    return "0" + text if len(text) % 2 else text


def parse_serial(text: str) -> int:
    """Hexadecimal, with or without colons between the octets, in either case."""
    if not _SERIAL_TEXT.fullmatch(text):
        raise MalformedMessage("a serial number is written in hexadecimal, at most 20 octets")
    serial = int(text.replace(":", ""), 16)
    if serial == 0 or serial.bit_length() >= MAX_SERIAL_OCTETS * 8:
        raise MalformedMessage("a serial number is positive and has up to 20 octets")
    return serial


def authority_key_identifier(certificate: x509.Certificate) -> bytes | None:
    """The keyIdentifier of the authorityKeyIdentifier extension (RFC 5280 section 4.2.1.1)."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    except x509.ExtensionNotFound:
        return None
    return extension.value.key_identifier


def subject_key_identifier(certificate: x509.Certificate) -> bytes | None:
    """The subjectKeyIdentifier as it stands in the certificate (section 4.2.1.2): what children
    have to repeat in their authorityKeyIdentifier, however it was computed."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        return None
    return extension.value.digest
