"""Key agreement for recipients with EC keys: ephemeral-static ECDH (RFC 5753 section 3.1).

KeyAgreeRecipientInfo ::= [1] SEQUENCE { version, originator [0] EXPLICIT,
    keyEncryptionAlgorithm, recipientEncryptedKeys SEQUENCE OF SEQUENCE { rid, encryptedKey } }
"""

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkiserver.cms import content_info, oids
from pkiserver.cms.content_info import EXPLICIT_0, EXPLICIT_1, EXPLICIT_2, Algorithm
from pkiserver.pkix import der

_AES256_WRAP = Algorithm("2.16.840.1.101.3.4.1.45")
_KEK_SIZE = 32


def encrypt_key(key: bytes, certificate: bytes, public_key: ec.EllipticCurvePublicKey) -> bytes:
    """The RecipientInfo, encoded, for the holder of the certificate (DER): one ephemeral key,
    SHA-256 for the derivation, AES-256 for the wrapping."""
    ephemeral = ec.generate_private_key(public_key.curve)
    point = ephemeral.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    kek = _derive(ephemeral.exchange(ec.ECDH(), public_key))
    recipient = der.encode(
        der.SEQUENCE,
        content_info.issuer_and_serial(certificate).encode(),
        der.encode(der.OCTET_STRING, aes_key_wrap(kek, key)),
    )
    return der.encode(
        EXPLICIT_1,
        der.encode_integer(3),
        der.encode(EXPLICIT_0, _originator(point)),
        Algorithm(oids.STD_DH_SHA256_KDF, _AES256_WRAP.encode()).encode(),
        der.encode(der.SEQUENCE, recipient),
    )


def _originator(point: bytes) -> bytes:
    """OriginatorPublicKey ::= [1] SEQUENCE { algorithm, publicKey }; the curve is the
    recipient's and not repeated."""
    algorithm = Algorithm(oids.EC_PUBLIC_KEY).encode()
    return der.encode(EXPLICIT_1, algorithm, der.encode_bit_string(point))


def _derive(shared_secret: bytes) -> bytes:
    """Section 7.2: ECC-CMS-SharedInfo with the wrapping algorithm and the key's size in bits."""
    bits = der.encode(der.OCTET_STRING, (_KEK_SIZE * 8).to_bytes(4))
    shared_info = der.encode(der.SEQUENCE, _AES256_WRAP.encode(), der.encode(EXPLICIT_2, bits))
    return X963KDF(hashes.SHA256(), _KEK_SIZE, shared_info).derive(shared_secret)
