"""Content encryption: CBC with AES, triple DES and DES (RFC 3565, RFC 3370), and AES-GCM
(RFC 5084)."""

from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from pkiserver.cms import content_info, oids
from pkiserver.cms.content_info import Algorithm
from pkiserver.cms.signatures import refuse_algorithm
from pkiserver.errors import MalformedMessage
from pkiserver.pkix import der

KEY_SIZES = {
    "des-cbc": 8,
    "des-ede3-cbc": 24,
    "aes128-cbc": 16,
    "aes192-cbc": 24,
    "aes256-cbc": 32,
    "aes128-gcm": 16,
    "aes192-gcm": 24,
    "aes256-gcm": 32,
}
"""Octets of the key of each algorithm."""
GCM_NONCE_SIZE = 12
GCM_TAG_SIZE = 16

RandomBytes = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class ContentCipher:
    """An algorithm with its parameters; `nonce` is the initialisation vector of CBC."""

    name: str
    nonce: bytes

    @property
    def authenticated(self) -> bool:
        return is_authenticated(self.name)

    @property
    def key_size(self) -> int:
        return KEY_SIZES[self.name]

    def encrypt(self, key: bytes, content: bytes, associated: bytes = b"") -> tuple[bytes, bytes]:
        """(ciphertext, tag); the tag is empty for CBC."""
        if not self.authenticated:
            padder = padding.PKCS7(len(self.nonce) * 8).padder()
            padded = padder.update(content) + padder.finalize()
            return self.encrypt_blocks(key, padded), b""
        encryptor = Cipher(AES(key), modes.GCM(self.nonce)).encryptor()
        encryptor.authenticate_additional_data(associated)
        ciphertext = encryptor.update(content) + encryptor.finalize()
        return ciphertext, encryptor.tag

    def decrypt(self, key: bytes, ciphertext: bytes, tag: bytes, associated: bytes) -> bytes:
        """`ValueError` or `InvalidTag` for what this key did not encrypt."""
        if not self.authenticated:
            unpadder = padding.PKCS7(len(self.nonce) * 8).unpadder()
            return unpadder.update(self.decrypt_blocks(key, ciphertext)) + unpadder.finalize()
        mode = modes.GCM(self.nonce, tag, min_tag_length=12)
        decryptor = Cipher(AES(key), mode).decryptor()
        decryptor.authenticate_additional_data(associated)
        return decryptor.update(ciphertext) + decryptor.finalize()

    def encrypt_blocks(self, key: bytes, data: bytes) -> bytes:
        """CBC over whole blocks, without padding."""
        encryptor = self._cbc(key).encryptor()
        return encryptor.update(data) + encryptor.finalize()

    def decrypt_blocks(self, key: bytes, data: bytes) -> bytes:
        decryptor = self._cbc(key).decryptor()
        return decryptor.update(data) + decryptor.finalize()

    def _cbc(self, key: bytes) -> Cipher[modes.CBC]:
        mode = modes.CBC(self.nonce)
        if self.name.startswith("aes"):
            return Cipher(AES(key), mode)
        # DES is triple DES with the same key three times.
        return Cipher(TripleDES(key * 3 if self.key_size == 8 else key), mode)


def is_authenticated(name: str) -> bool:
    return name.endswith("-gcm")


def name_of(algorithm: Algorithm) -> str:
    """ "aes256-cbc" and so on; the dotted OID for one that is not known."""
    return oids.CONTENT_ENCRYPTION.get(algorithm.oid, algorithm.oid)


def create(name: str, random_bytes: RandomBytes) -> ContentCipher:
    """One to encrypt with. Not DES: PKIError BAD_ALGORITHM for it and for unknown names."""
    if name not in KEY_SIZES or name == "des-cbc":
        refuse_algorithm(f"nothing is encrypted with {name} here")
    return ContentCipher(name, random_bytes(_nonce_size(name)))


def _nonce_size(name: str) -> int:
    if is_authenticated(name):
        return GCM_NONCE_SIZE
    return 16 if name.startswith("aes") else 8


def parse(algorithm: Algorithm, *, allow_legacy: bool) -> ContentCipher:
    """One to decrypt with. PKIError BAD_ALGORITHM for unknown ones, and DES without
    `allow_legacy`; `MalformedMessage` for parameters that are not the algorithm's."""
    name = name_of(algorithm)
    if name not in KEY_SIZES:
        refuse_algorithm(f"content encryption algorithm {name} is not supported")
    if name == "des-cbc" and not allow_legacy:
        refuse_algorithm("encryption with DES is not allowed here", rule="allow_legacy")
    if is_authenticated(name):
        return ContentCipher(name, _gcm_nonce(algorithm.parameters))
    vector = der.read_one(algorithm.parameters, der.OCTET_STRING).contents
    if len(vector) != _nonce_size(name):
        raise MalformedMessage("the initialisation vector is not one block")
    return ContentCipher(name, vector)


def _gcm_nonce(parameters: bytes) -> bytes:
    """GCMParameters ::= SEQUENCE { aes-nonce OCTET STRING, aes-ICVlen INTEGER DEFAULT 12 }; the
    length of the tag is that of the MAC in the message, 12 to 16 octets."""
    members = content_info.members_of(der.read_one(parameters, der.SEQUENCE), "GCMParameters")
    nonce = members.take(der.OCTET_STRING).contents
    members.take_if(der.INTEGER)
    members.finish()
    if not 8 <= len(nonce) <= 64:
        raise MalformedMessage("the nonce of AES-GCM has not 8 to 64 octets")
    return nonce


def algorithm_of(cipher: ContentCipher) -> Algorithm:
    nonce = der.encode(der.OCTET_STRING, cipher.nonce)
    if cipher.authenticated:
        nonce = der.encode(der.SEQUENCE, nonce, der.encode_integer(GCM_TAG_SIZE))
    return Algorithm(oids.oid_of(oids.CONTENT_ENCRYPTION, cipher.name), nonce)
