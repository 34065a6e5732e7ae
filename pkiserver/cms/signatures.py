"""Digest and signature algorithms of SignerInfo (RFC 3370, RFC 4056, RFC 5753, RFC 5754,
RFC 8419)."""

import hashlib
from typing import NoReturn

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from pkiserver.cms import content_info, oids
from pkiserver.cms.content_info import Algorithm
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix import der

LEGACY_DIGESTS = frozenset({"md5", "sha1"})
"""Collisions are within reach: only where the caller allows it for devices that have no other."""

_NULL = der.encode(der.NULL)
_HASHES: dict[str, type[hashes.HashAlgorithm]] = {
    "md5": hashes.MD5,
    "sha1": hashes.SHA1,
    "sha224": hashes.SHA224,
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}


def refuse_algorithm(detail: str, rule: str | None = None) -> NoReturn:
    raise PKIError(ErrorCode.BAD_ALGORITHM, detail, rule=rule)


def hash_of(digest: str) -> hashes.HashAlgorithm:
    """cryptography's object for "md5", "sha1", "sha224" ... "sha512"; BAD_ALGORITHM otherwise."""
    if digest not in _HASHES:
        refuse_algorithm(f"digest algorithm {digest} is not supported")
    return _HASHES[digest]()


def compute_digest(digest: str, data: bytes) -> bytes:
    hash_of(digest)
    return hashlib.new(digest, data, usedforsecurity=False).digest()


def check_digest(digest: str, *, allow_legacy: bool) -> None:
    """BAD_ALGORITHM for one that is unknown, or too weak without `allow_legacy`."""
    hash_of(digest)
    if digest in LEGACY_DIGESTS and not allow_legacy:
        refuse_algorithm(f"signatures over {digest} are not allowed here", rule="allow_legacy")


def verify(
    algorithm: Algorithm, digest: str, key: PublicKeyTypes, signature: bytes, data: bytes
) -> None:
    """Whether `key` signed `data`: PKIError BAD_SIGNATURE if not, BAD_ALGORITHM for an algorithm
    that is unknown, not the key's, or at odds with the SignerInfo's digest algorithm."""
    try:
        match key:
            case rsa.RSAPublicKey():
                key.verify(signature, data, _rsa_padding(algorithm, digest), hash_of(digest))
            case ec.EllipticCurvePublicKey():
                _expect(oids.ECDSA_WITH | {oids.EC_PUBLIC_KEY: digest}, algorithm, digest)
                key.verify(signature, data, ec.ECDSA(hash_of(digest)))
            case ed25519.Ed25519PublicKey():
                _expect({oids.ED25519: digest}, algorithm, digest)
                key.verify(signature, data)
            case _:
                refuse_algorithm("keys of this kind do not sign messages")
    except InvalidSignature as error:
        raise PKIError(ErrorCode.BAD_SIGNATURE, "the signature does not verify") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        # Among them RSA keys too small for the digest.
        raise PKIError(ErrorCode.BAD_SIGNATURE, "the signature cannot be verified") from error


def _expect(digests: dict[str, str], algorithm: Algorithm, digest: str) -> None:
    known = digests.get(algorithm.oid)
    if known is None:
        refuse_algorithm(f"signature algorithm {algorithm.oid} is not one of this key's")
    if known != digest:
        refuse_algorithm("the signature and digest algorithms name different digests")


def _rsa_padding(algorithm: Algorithm, digest: str) -> padding.PKCS1v15 | padding.PSS:
    if algorithm.oid == oids.RSA_PSS:
        return _pss(algorithm, digest)
    _expect(oids.RSA_WITH | {oids.RSA: digest}, algorithm, digest)
    return padding.PKCS1v15()


def _pss(algorithm: Algorithm, digest: str) -> padding.PSS:
    """RSASSA-PSS-params (RFC 4055 section 3.1); every member has a default."""
    if not algorithm.parameters:
        refuse_algorithm("RSASSA-PSS without parameters")
    members = content_info.members_of(
        der.read_one(algorithm.parameters, der.SEQUENCE), "RSASSA-PSS-params"
    )
    hash_name, mask_hash = hash_and_mask(members)
    salt = members.take_if(content_info.EXPLICIT_2)
    trailer = members.take_if(0xA3)
    members.finish()
    if hash_name != digest:
        refuse_algorithm("the signature and digest algorithms name different digests")
    if trailer is not None and trailer.contents != der.encode_integer(1):
        refuse_algorithm("RSASSA-PSS with an unknown trailer field")
    length = 20
    if salt is not None:
        length = content_info.integer(der.read_one(salt.contents, der.INTEGER))
    if not 0 <= length <= 512:
        refuse_algorithm("RSASSA-PSS with an impossible length of the salt")
    return padding.PSS(padding.MGF1(hash_of(mask_hash)), length)


def hash_and_mask(members: content_info.Reader) -> tuple[str, str]:
    """(digest, digest of MGF1): the first two members of the parameters of RSASSA-PSS and
    RSAES-OAEP (RFC 4055 sections 3.1, 4.1), SHA-1 where they are absent."""
    hashed = members.take_if(content_info.EXPLICIT_0)
    masked = members.take_if(content_info.EXPLICIT_1)
    digest = "sha1" if hashed is None else digest_name(_algorithm_in(hashed.contents))
    if masked is None:
        return digest, "sha1"
    mask = _algorithm_in(masked.contents)
    if mask.oid != oids.MGF1:
        refuse_algorithm(f"mask generation function {mask.oid} is not supported")
    return digest, digest_name(_algorithm_in(mask.parameters))


def _algorithm_in(data: bytes) -> Algorithm:
    return content_info.parse_algorithm(der.read_one(data, der.SEQUENCE))


def digest_name(algorithm: Algorithm) -> str:
    """ "sha256" and so on; the dotted OID for one that is not known."""
    return oids.DIGESTS.get(algorithm.oid, algorithm.oid)


def digest_algorithm(digest: str) -> Algorithm:
    """Without parameters, as RFC 5754 section 2 has it."""
    hash_of(digest)
    return Algorithm(oids.oid_of(oids.DIGESTS, digest))


def signature_algorithm(key: PublicKeyTypes, digest: str) -> Algorithm:
    """What a SignerInfo says of a signature by this key over this digest. For RSA rsaEncryption
    (RFC 3370 section 3.2): there are clients that know no other, and none that does not know it."""
    match key:
        case rsa.RSAPublicKey():
            return Algorithm(oids.RSA, _NULL)
        case ec.EllipticCurvePublicKey() if digest in oids.ECDSA_WITH.values():
            return Algorithm(oids.oid_of(oids.ECDSA_WITH, digest))
        case ed25519.Ed25519PublicKey() if digest == "sha512":
            # RFC 8419 section 3.1 wants SHA-512 for the message digest.
            return Algorithm(oids.ED25519)
    refuse_algorithm(f"keys of this kind do not sign messages with {digest}")
