"""Content-encryption keys under a secret both sides have: a key (RFC 3394) or a password
(RFC 8018, RFC 3211)."""

import hashlib
import hmac

from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from pkiserver.cms import content_encryption, content_info, oids
from pkiserver.cms.content_encryption import ContentCipher, RandomBytes
from pkiserver.cms.content_info import Algorithm
from pkiserver.cms.recipients import KEKRecipientInfo, PasswordRecipientInfo
from pkiserver.cms.signatures import refuse_algorithm
from pkiserver.errors import MalformedMessage
from pkiserver.pkix import der

ITERATIONS = 100_000
MAX_ITERATIONS = 1_000_000
"""About half a second; a message that asks for more is refused before any work is done."""
_SALT_SIZE = 16
_MAX_WRAPPED = 1024


def wrap(key: bytes, kek: bytes, key_identifier: bytes) -> KEKRecipientInfo:
    """With AES of the size of `kek`: 16, 24 or 32 octets (a `ValueError` otherwise)."""
    wrapped = aes_key_wrap(kek, key)
    algorithm = next(oid for oid, size in oids.AES_WRAP.items() if size == len(kek))
    return KEKRecipientInfo(key_identifier, Algorithm(algorithm), wrapped)


def unwrap(info: KEKRecipientInfo, kek: bytes) -> bytes:
    """`ValueError` if this key did not wrap it."""
    if oids.AES_WRAP.get(info.algorithm.oid) != len(kek):
        refuse_algorithm(f"key wrapping by {info.algorithm.oid} is not of this key's kind")
    try:
        return aes_key_unwrap(kek, info.encrypted_key)
    except InvalidUnwrap as error:
        raise ValueError("the key was wrapped with another") from error


def wrap_with_password(
    key: bytes, password: bytes, iterations: int, random_bytes: RandomBytes
) -> PasswordRecipientInfo:
    """PBKDF2 with HMAC-SHA-256, then AES-256 as RFC 3211 section 2.3.1 wraps."""
    cipher = content_encryption.create("aes256-cbc", random_bytes)
    salt = random_bytes(_SALT_SIZE)
    kek = hashlib.pbkdf2_hmac("sha256", password, salt, iterations, cipher.key_size)
    derivation = der.encode(
        der.SEQUENCE,
        der.encode(der.OCTET_STRING, salt),
        der.encode_integer(iterations),
        der.encode_integer(cipher.key_size),
        Algorithm(oids.oid_of(oids.HMACS, "sha256"), der.encode(der.NULL)).encode(),
    )
    return PasswordRecipientInfo(
        Algorithm(oids.PBKDF2, derivation),
        Algorithm(oids.PWRI_KEK, content_encryption.algorithm_of(cipher).encode()),
        _wrap_twice(cipher, kek, key, random_bytes),
    )


def unwrap_with_password(info: PasswordRecipientInfo, password: bytes) -> bytes:
    """`ValueError` if it was wrapped with another password."""
    if info.algorithm.oid != oids.PWRI_KEK:
        refuse_algorithm(f"key wrapping by {info.algorithm.oid} is not supported")
    wrapping = content_info.parse_algorithm(der.read_one(info.algorithm.parameters, der.SEQUENCE))
    cipher = content_encryption.parse(wrapping, allow_legacy=False)
    if cipher.authenticated:
        refuse_algorithm("a password's key wraps with a cipher in CBC mode")
    kek = _derive(info.derivation, password, cipher.key_size)
    return _unwrap_twice(cipher, kek, info.encrypted_key)


def _derive(derivation: Algorithm | None, password: bytes, size: int) -> bytes:
    """PBKDF2-params ::= SEQUENCE { salt OCTET STRING, iterationCount INTEGER, keyLength INTEGER
    OPTIONAL, prf AlgorithmIdentifier DEFAULT hmacWithSHA1 } (RFC 8018 appendix A.2)"""
    if derivation is None or derivation.oid != oids.PBKDF2:
        refuse_algorithm("a password's key is derived by PBKDF2")
    members = content_info.members_of(
        der.read_one(derivation.parameters, der.SEQUENCE), "PBKDF2-params"
    )
    salt = members.take(der.OCTET_STRING).contents
    iterations = content_info.integer(members.take(der.INTEGER))
    length = members.take_if(der.INTEGER)
    prf = members.take_if(der.SEQUENCE)
    members.finish()
    if not 1 <= iterations <= MAX_ITERATIONS:
        raise MalformedMessage(f"PBKDF2 with not 1 to {MAX_ITERATIONS} iterations")
    if length is not None and content_info.integer(length) != size:
        raise MalformedMessage("PBKDF2 gives a key of another size than the cipher has")
    digest = "sha1" if prf is None else oids.HMACS.get(content_info.parse_algorithm(prf).oid)
    if digest is None:
        refuse_algorithm("PBKDF2 with an unknown pseudo-random function")
    return hashlib.pbkdf2_hmac(digest, password, salt, iterations, size)


def _wrap_twice(cipher: ContentCipher, kek: bytes, key: bytes, random_bytes: RandomBytes) -> bytes:
    """RFC 3211 section 2.3.1: length, three check octets, key and random padding to at least two
    blocks, through CBC twice so that every octet depends on all."""
    block = len(cipher.nonce)
    plain = bytes((len(key),)) + bytes(octet ^ 0xFF for octet in key[:3]) + key
    plain += random_bytes(max(2 * block - len(plain), -len(plain) % block))
    once = cipher.encrypt_blocks(kek, plain)
    return ContentCipher(cipher.name, once[-block:]).encrypt_blocks(kek, once)


def _unwrap_twice(cipher: ContentCipher, kek: bytes, wrapped: bytes) -> bytes:
    """RFC 3211 section 2.3.2. The last block, with the one before it as vector, gives the vector
    of the outer pass."""
    block = len(cipher.nonce)
    if len(wrapped) % block or not 2 * block <= len(wrapped) <= _MAX_WRAPPED:
        raise ValueError("a wrapped key is at least two blocks")
    last = ContentCipher(cipher.name, wrapped[-2 * block : -block])
    vector = last.decrypt_blocks(kek, wrapped[-block:])
    once = ContentCipher(cipher.name, vector).decrypt_blocks(kek, wrapped)
    plain = cipher.decrypt_blocks(kek, once)
    length, check, key = plain[0], plain[1:4], plain[4 : 4 + plain[0]]
    expected = bytes(octet ^ 0xFF for octet in plain[4:7])
    if not hmac.compare_digest(check, expected) or len(key) != length:
        raise ValueError("the key was wrapped with another password")
    return key
