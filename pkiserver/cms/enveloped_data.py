"""EnvelopedData (RFC 5652 section 6) and AuthEnvelopedData (RFC 5083).

    EnvelopedData ::= SEQUENCE { version, originatorInfo [0] OPTIONAL, recipientInfos SET,
        encryptedContentInfo, unprotectedAttrs [1] OPTIONAL }
    AuthEnvelopedData ::= SEQUENCE { version, originatorInfo [0] OPTIONAL, recipientInfos SET,
        authEncryptedContentInfo, authAttrs [1] OPTIONAL, mac, unauthAttrs [2] OPTIONAL }
    EncryptedContentInfo ::= SEQUENCE { contentType, contentEncryptionAlgorithm,
        encryptedContent [0] IMPLICIT OCTET STRING OPTIONAL }

Whatever goes wrong with a key or a padding is one error with one text: PKIError BAD_SIGNATURE. A
wrong key goes unnoticed in CBC mode once in 256 times; then the content is noise, and what reads
it has to answer as for this error.
"""

import secrets
from dataclasses import dataclass, field
from typing import NoReturn

from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from pkiserver.cms import (
    attributes,
    ber,
    content_encryption,
    content_info,
    key_agreement,
    key_transport,
    oids,
    recipients,
    shared_keys,
)
from pkiserver.cms.content_encryption import ContentCipher, RandomBytes
from pkiserver.cms.content_info import EXPLICIT_0, EXPLICIT_1, EXPLICIT_2, Algorithm
from pkiserver.cms.key_transport import KeyTransport
from pkiserver.cms.recipients import (
    KEKRecipientInfo,
    KeyTransRecipientInfo,
    PasswordRecipientInfo,
    RecipientInfo,
)
from pkiserver.cms.signatures import refuse_algorithm
from pkiserver.errors import ErrorCode, MalformedMessage, PKIError
from pkiserver.pkix import der


@dataclass(frozen=True, slots=True)
class EnvelopedData:
    """What the message says. `content_encryption` is "aes256-cbc" and so on, or a dotted OID.

    `mac` is None in EnvelopedData; `authenticated_attributes` are their octets as a SET, empty
    where there are none. `recipients` are those of a form that can be read here.
    """

    content_type: str
    content_encryption: str
    algorithm: Algorithm
    encrypted_content: bytes = field(repr=False)
    recipients: tuple[RecipientInfo, ...]
    mac: bytes | None
    authenticated_attributes: bytes


def parse(data: bytes, *, max_size: int = ber.MAX_SIZE) -> EnvelopedData:
    """A ContentInfo with either of the two in BER of at most `max_size` octets."""
    content_type, content = content_info.parse(data, max_size=max_size)
    if content_type not in (oids.ENVELOPED_DATA, oids.AUTH_ENVELOPED_DATA):
        raise MalformedMessage("the message is not EnvelopedData")
    if content.tag != der.SEQUENCE:
        raise MalformedMessage("EnvelopedData is a SEQUENCE")
    members = content_info.members_of(content, "EnvelopedData")
    members.take(der.INTEGER)
    members.take_if(EXPLICIT_0)
    found = recipients.parse(members.take(der.SET))
    inner_type, algorithm, encrypted = _parse_encrypted(members.take(der.SEQUENCE))
    mac, authenticated = None, b""
    if content_type == oids.AUTH_ENVELOPED_DATA:
        mac, authenticated = _take_authentication(members, inner_type)
    else:
        members.take_if(EXPLICIT_1)
    members.finish()
    name = content_encryption.name_of(algorithm)
    return EnvelopedData(inner_type, name, algorithm, encrypted, found, mac, authenticated)


def _parse_encrypted(element: der.TLV) -> tuple[str, Algorithm, bytes]:
    members = content_info.members_of(element, "EncryptedContentInfo")
    content_type = der.decode_oid(members.take(der.OBJECT_IDENTIFIER).contents)
    algorithm = content_info.parse_algorithm(members.take(der.SEQUENCE))
    encrypted = content_info.octets(members.take(0x80, EXPLICIT_0))
    members.finish()
    return content_type, algorithm, encrypted


def _take_authentication(members: content_info.Reader, content_type: str) -> tuple[bytes, bytes]:
    """(mac, authAttrs as they are authenticated: under the tag of SET OF, RFC 5083 section 2.2)"""
    sent = members.take_if(EXPLICIT_1)
    mac = members.take(der.OCTET_STRING).contents
    members.take_if(EXPLICIT_2)
    if sent is None:
        if content_type != oids.DATA:
            raise MalformedMessage("content other than plain data has no authenticated attributes")
        return mac, b""
    found = attributes.parse(der.children(sent.contents))
    inner = attributes.single(found, oids.CONTENT_TYPE, der.OBJECT_IDENTIFIER)
    if inner is not None and der.decode_oid(inner.contents) != content_type:
        raise MalformedMessage("the authenticated content type is another")
    return mac, der.encode(der.SET, sent.contents)


def decrypt_key_transport(
    enveloped: EnvelopedData,
    recipient_certificate: x509.Certificate,
    private_key: rsa.RSAPrivateKey,
    *,
    allow_legacy: bool = False,
    substitute_secret: bytes = key_transport.PROCESS_SECRET,
) -> bytes:
    """The content, with the key of the certificate for which it is encrypted.

    `substitute_secret` is what other processes with the same key should have in common, so that
    they fail alike; `allow_legacy` lets single DES in.
    """
    cipher = _cipher(enveloped, allow_legacy=allow_legacy)
    own = content_info.certificate_der(recipient_certificate)
    for info in enveloped.recipients:
        if isinstance(info, KeyTransRecipientInfo) and content_info.identifies(
            info.identifier, own
        ):
            key = key_transport.decrypt_key(info, private_key, cipher.key_size, substitute_secret)
            return _decrypt(enveloped, cipher, key)
    _no_recipient()


def decrypt_password(enveloped: EnvelopedData, password: bytes) -> bytes:
    """The content, with the first PasswordRecipientInfo. Takes the time its author has chosen,
    within `shared_keys.MAX_ITERATIONS`."""
    cipher = _cipher(enveloped)
    for info in enveloped.recipients:
        if isinstance(info, PasswordRecipientInfo):
            try:
                key = shared_keys.unwrap_with_password(info, password)
            except ValueError as error:
                raise _failed() from error
            return _decrypt(enveloped, cipher, key)
    _no_recipient()


def decrypt_kek(enveloped: EnvelopedData, key_identifier: bytes, key: bytes) -> bytes:
    """The content, with the key-encryption key of this name."""
    cipher = _cipher(enveloped)
    for info in enveloped.recipients:
        if isinstance(info, KEKRecipientInfo) and info.key_identifier == key_identifier:
            try:
                content_key = shared_keys.unwrap(info, key)
            except ValueError as error:
                raise _failed() from error
            return _decrypt(enveloped, cipher, content_key)
    _no_recipient()


def _cipher(enveloped: EnvelopedData, *, allow_legacy: bool = False) -> ContentCipher:
    cipher = content_encryption.parse(enveloped.algorithm, allow_legacy=allow_legacy)
    if cipher.authenticated != (enveloped.mac is not None):
        refuse_algorithm(f"{cipher.name} does not go with this content type")
    return cipher


def _decrypt(enveloped: EnvelopedData, cipher: ContentCipher, key: bytes) -> bytes:
    tag, associated = enveloped.mac or b"", enveloped.authenticated_attributes
    if len(key) != cipher.key_size:
        raise _failed()
    try:
        return cipher.decrypt(key, enveloped.encrypted_content, tag, associated)
    except (ValueError, InvalidTag) as error:
        raise _failed() from error


def _failed() -> PKIError:
    return PKIError(ErrorCode.BAD_SIGNATURE, "the message cannot be decrypted")


def _no_recipient() -> NoReturn:
    raise PKIError(ErrorCode.BAD_SIGNATURE, "the message is not encrypted for this recipient")


def encrypt(
    content: bytes,
    recipient_certificate: x509.Certificate,
    content_encryption: str = "aes256-cbc",
    *,
    key_transport: KeyTransport = "rsa-v1.5",
    oaep_digest: str = "sha256",
    content_type: str = oids.DATA,
    random_bytes: RandomBytes = secrets.token_bytes,
) -> bytes:
    """The message, in DER: AuthEnvelopedData for AES-GCM, EnvelopedData otherwise. For an EC key
    the content-encryption key is agreed by ECDH and `key_transport` does not matter."""
    envelope = for_certificate(
        recipient_certificate,
        content_encryption,
        key_transport=key_transport,
        oaep_digest=oaep_digest,
        random_bytes=random_bytes,
    )
    return envelope.encrypt(content, content_type)


def for_certificate(
    certificate: x509.Certificate,
    content_encryption: str,
    *,
    key_transport: KeyTransport,
    oaep_digest: str,
    random_bytes: RandomBytes = secrets.token_bytes,
) -> "Envelope":
    """What `encrypt` puts its content into. PKIError BAD_ALGORITHM for a key that nothing, or not
    this much, can be encrypted for."""
    key, cipher = _new_key(content_encryption, random_bytes)
    return Envelope(key, cipher, _recipient(key, certificate, key_transport, oaep_digest))


def _recipient(
    key: bytes, certificate: x509.Certificate, scheme: KeyTransport, oaep_digest: str
) -> bytes:
    own = content_info.certificate_der(certificate)
    match certificate.public_key():
        case rsa.RSAPublicKey() as public_key:
            return recipients.encode(
                key_transport.encrypt_key(key, own, public_key, scheme, oaep_digest)
            )
        case ec.EllipticCurvePublicKey() as public_key:
            return key_agreement.encrypt_key(key, own, public_key)
    refuse_algorithm("nothing can be encrypted for a key of this kind")


def encrypt_password(
    content: bytes,
    password: bytes,
    content_encryption: str = "aes256-cbc",
    *,
    iterations: int = shared_keys.ITERATIONS,
    content_type: str = oids.DATA,
    random_bytes: RandomBytes = secrets.token_bytes,
) -> bytes:
    """The message, in DER, for who knows the password (section 6.2.4)."""
    key, cipher = _new_key(content_encryption, random_bytes)
    info = shared_keys.wrap_with_password(key, password, iterations, random_bytes)
    return Envelope(key, cipher, recipients.encode(info)).encrypt(content, content_type)


def encrypt_kek(
    content: bytes,
    key_identifier: bytes,
    key: bytes,
    content_encryption: str = "aes256-cbc",
    *,
    content_type: str = oids.DATA,
    random_bytes: RandomBytes = secrets.token_bytes,
) -> bytes:
    """The message, in DER, for who has the AES key (16, 24 or 32 octets) of this name."""
    content_key, cipher = _new_key(content_encryption, random_bytes)
    info = shared_keys.wrap(content_key, key, key_identifier)
    return Envelope(content_key, cipher, recipients.encode(info)).encrypt(content, content_type)


def _new_key(algorithm: str, random_bytes: RandomBytes) -> tuple[bytes, ContentCipher]:
    cipher = content_encryption.create(algorithm, random_bytes)
    return random_bytes(cipher.key_size), cipher


@dataclass(frozen=True, slots=True)
class Envelope:
    """A content-encryption key, as it is for its recipient (a RecipientInfo) too. It is good for
    one content: the initialisation vector or nonce is settled."""

    key: bytes = field(repr=False)
    cipher: ContentCipher
    recipient: bytes

    def encrypt(self, content: bytes, content_type: str = oids.DATA) -> bytes:
        """The message, in DER."""
        # RFC 5083 section 2.1: what is not plain data says authenticated what it is.
        named = self.cipher.authenticated and content_type != oids.DATA
        encoded_type = der.encode_oid(content_type)
        sent = attributes.encode([(oids.CONTENT_TYPE, encoded_type)]) if named else []
        associated = der.encode(der.SET, *sent) if sent else b""
        ciphertext, mac = self.cipher.encrypt(self.key, content, associated)
        encrypted = der.encode(
            der.SEQUENCE,
            encoded_type,
            content_encryption.algorithm_of(self.cipher).encode(),
            der.encode(0x80, ciphertext),
        )
        if not self.cipher.authenticated:
            return self._encode(oids.ENVELOPED_DATA, _version(self.recipient), encrypted)
        tail = der.encode(EXPLICIT_1, *sent) if sent else b""
        tail += der.encode(der.OCTET_STRING, mac)
        return self._encode(oids.AUTH_ENVELOPED_DATA, 0, encrypted, tail)

    def _encode(self, kind: str, version: int, encrypted: bytes, tail: bytes = b"") -> bytes:
        body = (der.encode_integer(version), der.encode(der.SET, self.recipient), encrypted, tail)
        return content_info.encode(kind, der.encode(der.SEQUENCE, *body))


def _version(recipient: bytes) -> int:
    """Section 6.1: 3 with a password, 2 with another recipient that is not version 0, else 0."""
    if recipient[0] == recipients.PASSWORD:
        return 3
    return 0 if recipient[0] == der.SEQUENCE else 2
