"""RecipientInfo (RFC 5652 section 6.2): for whom the content-encryption key is, and how it is
encrypted. What does the encrypting is in `key_transport`, `key_agreement` and `shared_keys`."""

from dataclasses import dataclass

from pkiserver.cms import content_info
from pkiserver.cms.content_info import (
    EXPLICIT_0,
    EXPLICIT_2,
    Algorithm,
    Identifier,
)
from pkiserver.errors import MalformedMessage
from pkiserver.pkix import der

MAX_RECIPIENTS = 32
PASSWORD = 0xA3


@dataclass(frozen=True, slots=True)
class KeyTransRecipientInfo:
    """Encrypted with the public key of a certificate (section 6.2.1)."""

    identifier: Identifier
    algorithm: Algorithm
    encrypted_key: bytes


@dataclass(frozen=True, slots=True)
class KEKRecipientInfo:
    """Wrapped with a key both have, which has a name (section 6.2.3)."""

    key_identifier: bytes
    algorithm: Algorithm
    encrypted_key: bytes


@dataclass(frozen=True, slots=True)
class PasswordRecipientInfo:
    """Wrapped with a key derived from a password (section 6.2.4)."""

    derivation: Algorithm | None
    algorithm: Algorithm
    encrypted_key: bytes


RecipientInfo = KeyTransRecipientInfo | KEKRecipientInfo | PasswordRecipientInfo


def parse(element: der.TLV) -> tuple[RecipientInfo, ...]:
    """Those of RecipientInfos that can be read here: key agreement and others are left out."""
    infos = der.children(element.contents)
    if not 1 <= len(infos) <= MAX_RECIPIENTS:
        raise MalformedMessage(f"the message has not 1 to {MAX_RECIPIENTS} recipients")
    parsed = (_parse_one(info) for info in infos)
    return tuple(info for info in parsed if info is not None)


def _parse_one(element: der.TLV) -> RecipientInfo | None:
    match element.tag:
        case der.SEQUENCE:
            return _parse_key_transport(element)
        case content_info.EXPLICIT_2:
            return _parse_kek(element)
        case 0xA3:  # [3]
            return _parse_password(element)
        case content_info.EXPLICIT_1 | 0xA4:  # [1] and [4]
            return None
    raise MalformedMessage("a recipient of no known form")


def _parse_key_transport(element: der.TLV) -> KeyTransRecipientInfo:
    members = content_info.members_of(element, "KeyTransRecipientInfo")
    members.take(der.INTEGER)
    identifier = content_info.parse_identifier(members.take(der.SEQUENCE, 0x80, EXPLICIT_0))
    return KeyTransRecipientInfo(identifier, *_take_encrypted_key(members))


def _parse_kek(element: der.TLV) -> KEKRecipientInfo:
    members = content_info.members_of(element, "KEKRecipientInfo")
    members.take(der.INTEGER)
    name = content_info.members_of(members.take(der.SEQUENCE), "KEKIdentifier")
    key_identifier = name.take(der.OCTET_STRING).contents
    return KEKRecipientInfo(key_identifier, *_take_encrypted_key(members))


def _parse_password(element: der.TLV) -> PasswordRecipientInfo:
    members = content_info.members_of(element, "PasswordRecipientInfo")
    members.take(der.INTEGER)
    derivation = members.take_if(EXPLICIT_0)
    return PasswordRecipientInfo(
        None if derivation is None else content_info.parse_algorithm(derivation),
        *_take_encrypted_key(members),
    )


def _take_encrypted_key(members: content_info.Reader) -> tuple[Algorithm, bytes]:
    """keyEncryptionAlgorithm and encryptedKey, with which they all end."""
    algorithm = content_info.parse_algorithm(members.take(der.SEQUENCE))
    encrypted_key = members.take(der.OCTET_STRING).contents
    members.finish()
    return algorithm, encrypted_key


def encode(info: RecipientInfo) -> bytes:
    """Versions as section 6.2 has them: 0, 2 with a subjectKeyIdentifier, 4 for a KEK."""
    tail = (info.algorithm.encode(), der.encode(der.OCTET_STRING, info.encrypted_key))
    match info:
        case KeyTransRecipientInfo():
            by_name = isinstance(info.identifier, content_info.IssuerAndSerialNumber)
            version = der.encode_integer(0 if by_name else 2)
            return der.encode(der.SEQUENCE, version, info.identifier.encode(), *tail)
        case KEKRecipientInfo():
            name = der.encode(der.SEQUENCE, der.encode(der.OCTET_STRING, info.key_identifier))
            return der.encode(EXPLICIT_2, der.encode_integer(4), name, *tail)
        case PasswordRecipientInfo():
            derivation = b""
            if info.derivation is not None:
                parts = der.read_one(info.derivation.encode(), der.SEQUENCE)
                derivation = der.encode(EXPLICIT_0, parts.contents)
            return der.encode(PASSWORD, der.encode_integer(0), derivation, *tail)
