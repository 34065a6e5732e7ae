"""RSA key transport: PKCS #1 v1.5 (RFC 3370 section 4.2.1) and OAEP (RFC 3560).

Whoever can tell well-formed v1.5 blocks from others decrypts with our key (Bleichenbacher), and
OAEP has its like (Manger). So no failure shows: where the block is bad or the key in it has the
wrong length, a key takes its place that depends on the block alone, and decrypting the content
fails as with any wrong key (RFC 3218 section 2.3.2).
"""

import hmac
import secrets
from typing import Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from pkiserver.cms import content_info, oids, signatures
from pkiserver.cms.content_info import Algorithm
from pkiserver.cms.recipients import KeyTransRecipientInfo
from pkiserver.cms.signatures import refuse_algorithm
from pkiserver.pkix import der

KeyTransport = Literal["rsa-v1.5", "oaep"]

PROCESS_SECRET = secrets.token_bytes(32)
"""What the substitute depends on, too, where the caller has no secret that lasts longer."""

_NULL = der.encode(der.NULL)


def decrypt_key(
    info: KeyTransRecipientInfo,
    private_key: rsa.RSAPrivateKey,
    size: int,
    substitute_secret: bytes,
) -> bytes:
    """The content-encryption key of `size` octets, or a substitute nobody can foresee."""
    scheme = padding_of(info.algorithm)
    substitute = hmac.digest(substitute_secret, info.encrypted_key, "sha512")[:size]
    try:
        key = private_key.decrypt(info.encrypted_key, scheme)
    except (ValueError, UnsupportedAlgorithm):
        key = b""
    return key if len(key) == size else substitute


def padding_of(algorithm: Algorithm) -> padding.PKCS1v15 | padding.OAEP:
    """PKIError BAD_ALGORITHM for what is neither."""
    if algorithm.oid == oids.RSA:
        return padding.PKCS1v15()
    if algorithm.oid == oids.RSA_OAEP:
        return _oaep(algorithm.parameters)
    refuse_algorithm(f"key encryption algorithm {algorithm.oid} is not supported")


def scheme_of(info: KeyTransRecipientInfo) -> tuple[KeyTransport, str | None]:
    """(scheme, digest of OAEP), for an answer in kind."""
    if info.algorithm.oid != oids.RSA_OAEP:
        return "rsa-v1.5", None
    members = _oaep_members(info.algorithm.parameters)
    return "oaep", signatures.hash_and_mask(members)[0]


def _oaep_members(parameters: bytes) -> content_info.Reader:
    element = der.read_one(parameters or der.encode(der.SEQUENCE), der.SEQUENCE)
    return content_info.members_of(element, "RSAES-OAEP-params")


def _oaep(parameters: bytes) -> padding.OAEP:
    """RSAES-OAEP-params (RFC 4055 section 4.1). Absent parameters, which Windows sends, are taken
    for the defaults."""
    members = _oaep_members(parameters)
    digest, mask = signatures.hash_and_mask(members)
    source = members.take_if(content_info.EXPLICIT_2)
    members.finish()
    if "md5" in (digest, mask):
        refuse_algorithm("RSAES-OAEP with MD5")
    label = None if source is None else _label(source.contents)
    mask_function = padding.MGF1(signatures.hash_of(mask))
    return padding.OAEP(mask_function, signatures.hash_of(digest), label)


def _label(data: bytes) -> bytes:
    source = content_info.parse_algorithm(der.read_one(data, der.SEQUENCE))
    if source.oid != oids.P_SPECIFIED:
        refuse_algorithm(f"RSAES-OAEP with a label by {source.oid}")
    return der.read_one(source.parameters, der.OCTET_STRING).contents


def encrypt_key(
    key: bytes,
    certificate: bytes,
    public_key: rsa.RSAPublicKey,
    scheme: KeyTransport,
    oaep_digest: str,
) -> KeyTransRecipientInfo:
    """For the holder of the certificate (DER), named by issuer and serial number. PKIError
    BAD_ALGORITHM if the key is too short for this padding."""
    algorithm = Algorithm(oids.RSA, _NULL)
    if scheme == "oaep":
        algorithm = Algorithm(oids.RSA_OAEP, _oaep_parameters(oaep_digest))
    try:
        encrypted = public_key.encrypt(key, padding_of(algorithm))
    except ValueError:
        refuse_algorithm("the RSA key is too short for what is to be encrypted with it")
    return KeyTransRecipientInfo(content_info.issuer_and_serial(certificate), algorithm, encrypted)


def _oaep_parameters(digest: str) -> bytes:
    """The same digest for MGF1; SHA-1, the default of both, is not encoded."""
    if digest == "sha1":
        return der.encode(der.SEQUENCE)
    hashed = signatures.digest_algorithm(digest).encode()
    mask = Algorithm(oids.MGF1, hashed).encode()
    return der.encode(
        der.SEQUENCE,
        der.encode(content_info.EXPLICIT_0, hashed),
        der.encode(content_info.EXPLICIT_1, mask),
    )
