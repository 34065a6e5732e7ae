"""Public keys: what kind they are, whether they are strong enough to certify, and what they sign
with.

Refused, always: RSA moduli outside 2048 to 8192 bits or not whole octets, public exponents even or
outside 65537 to 2^256-1 (CA/Browser Forum BR 6.1.6), moduli with a small factor, the ROCA
fingerprint (CVE-2017-15361), two primes so close that Fermat's method finds them; EC curves other
than P-256, P-384 and P-521 (the library itself refuses points off their curve and the point at
infinity when it loads a key); Edwards keys that are no point, not canonical or of small order;
keys that cannot sign. A caller adds the kinds its profile allows and the keys it has blocked.
"""

import hashlib
import math
from collections.abc import Collection, Container
from typing import NoReturn

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificateIssuerPrivateKeyTypes,
    PublicKeyTypes,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix import der

MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192
FERMAT_ROUNDS = 100

SigningHash = hashes.SHA256 | hashes.SHA384 | hashes.SHA512

_CURVES: dict[str, tuple[str, type[SigningHash]]] = {
    "secp256r1": ("p256", hashes.SHA256),
    "secp384r1": ("p384", hashes.SHA384),
    "secp521r1": ("p521", hashes.SHA512),
}


def _primes_below(limit: int) -> list[int]:
    return [n for n in range(2, limit) if all(n % d for d in range(2, math.isqrt(n) + 1))]


_SMALL_PRIMES_PRODUCT = math.prod(_primes_below(752))


def _powers_of_65537(prime: int) -> frozenset[int]:
    return frozenset(pow(65537, exponent, prime) for exponent in range(prime))


# A ROCA prime is k*M + (65537^a mod M) with M the product of the first primes, so the modulus is a
# power of 65537 modulo each of them. A sound modulus is one by chance in 2^-27 or less.
_ROCA_RESIDUES = tuple(
    (prime, residues)
    for prime in _primes_below(168)[1:]
    if len(residues := _powers_of_65537(prime)) < prime - 1
)


def describe(key: PublicKeyTypes) -> str:
    """The kind: "rsa-" and the size in bits, "p256", "p384", "p521", "ed25519", "ed448",
    "ml-dsa-44", "ml-dsa-65", "ml-dsa-87". `PKIError` BAD_PUBLIC_KEY for any other."""
    match key:
        case rsa.RSAPublicKey():
            return f"rsa-{key.key_size}"
        case ec.EllipticCurvePublicKey() if key.curve.name in _CURVES:
            return _CURVES[key.curve.name][0]
        case ed25519.Ed25519PublicKey():
            return "ed25519"
        case ed448.Ed448PublicKey():
            return "ed448"
        case mldsa.MLDSA44PublicKey():
            return "ml-dsa-44"
        case mldsa.MLDSA65PublicKey():
            return "ml-dsa-65"
        case mldsa.MLDSA87PublicKey():
            return "ml-dsa-87"
    _refuse("keys of this kind or curve are not certified")


def check_public_key(
    key: PublicKeyTypes,
    *,
    allowed: Collection[str] | None = None,
    blocked: Container[bytes] = frozenset(),
) -> str:
    """The kind of a key that may be certified; `PKIError` BAD_PUBLIC_KEY says why not.

    `allowed` holds kinds as `describe` gives them, "rsa" standing for every accepted size; None
    allows all. `blocked` holds values of `spki_sha256`.
    """
    kind = describe(key)
    if allowed is not None and kind not in allowed and kind.partition("-")[0] not in allowed:
        _refuse(f"{kind} keys are not allowed here", rule="key_kinds")
    if spki_sha256(key) in blocked:
        _refuse("the key is known to be compromised", rule="blocked-keys")
    match key:
        case rsa.RSAPublicKey():
            numbers = key.public_numbers()
            check_rsa(numbers.n, numbers.e)
        case ed25519.Ed25519PublicKey():
            _check_ed25519(key.public_bytes_raw())
        case ed448.Ed448PublicKey():
            _check_ed448(key.public_bytes_raw())
    return kind


def check_rsa(modulus: int, exponent: int) -> None:
    """Refuse what makes an RSA key weak or an implementation stumble."""
    bits = modulus.bit_length()
    if not MIN_RSA_BITS <= bits <= MAX_RSA_BITS:
        _refuse(f"the RSA modulus has {bits} bits, not {MIN_RSA_BITS} to {MAX_RSA_BITS}")
    if bits % 8:
        _refuse("the RSA modulus is not a whole number of octets")
    if not 65537 <= exponent < 1 << 256 or exponent % 2 == 0:
        _refuse("the RSA exponent is even, below 65537 or beyond 256 bits")
    if math.gcd(modulus, _SMALL_PRIMES_PRODUCT) != 1:
        _refuse("the RSA modulus has a small factor")
    if has_roca_fingerprint(modulus):
        _refuse("the RSA key comes from a flawed chip (ROCA, CVE-2017-15361)")
    if has_close_primes(modulus):
        _refuse("the RSA primes are so close together that the modulus is easily factored")


def has_roca_fingerprint(modulus: int) -> bool:
    """Whether the modulus is a power of 65537 modulo every small prime where that is rare."""
    return all(modulus % prime in residues for prime, residues in _ROCA_RESIDUES)


def has_close_primes(modulus: int, rounds: int = FERMAT_ROUNDS) -> bool:
    """Fermat's method: whether modulus = a^2 - b^2 for one of the first `rounds` values of a."""
    first = math.isqrt(modulus - 1) + 1
    # Most numbers are no square already by what is left of them modulo a small number.
    a, n = first % _SIEVE, modulus % _SIEVE
    for step in range(rounds):
        if ((a + step) ** 2 - n) % _SIEVE in _SQUARES and _is_square((first + step) ** 2 - modulus):
            return True
    return False


_SIEVE = 5040
_SQUARES = frozenset(number * number % _SIEVE for number in range(_SIEVE))


def _is_square(number: int) -> bool:
    return math.isqrt(number) ** 2 == number


_P25519 = 2**255 - 19
_D25519 = -121665 * pow(121666, -1, _P25519) % _P25519
# The y coordinates of the eight points whose order divides the cofactor (RFC 7748 section 6.1
# has the matching u coordinates): identity, order 2, order 4, and the two of order 8.
_Y_ORDER_8 = int.from_bytes(
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
)
_SMALL_ORDER_Y25519 = frozenset({0, 1, _P25519 - 1, _Y_ORDER_8, _P25519 - _Y_ORDER_8})


def _check_ed25519(raw: bytes) -> None:
    """RFC 8032 section 5.1.3: little-endian y, the sign of x in the top bit."""
    p = _P25519
    y = int.from_bytes(raw, "little") & (1 << 255) - 1
    if y >= p or y in _SMALL_ORDER_Y25519:
        _refuse("the Ed25519 key is not canonical or has small order")
    x_squared = (y * y - 1) * pow(_D25519 * y * y + 1, -1, p) % p
    if pow(x_squared, (p - 1) // 2, p) != 1:
        _refuse("the Ed25519 key is not a point of the curve")


_P448 = 2**448 - 2**224 - 1
_D448 = -39081 % _P448


def _check_ed448(raw: bytes) -> None:
    """RFC 8032 section 5.2.3: little-endian y, then an octet with the sign of x on top. The
    cofactor is 4, so the points of small order have y = 1, -1 or 0."""
    p = _P448
    y = int.from_bytes(raw[:56], "little")
    if y >= p or raw[56] & 0x7F or y in {0, 1, p - 1}:
        _refuse("the Ed448 key is not canonical or has small order")
    x_squared = (y * y - 1) * pow(_D448 * y * y - 1, -1, p) % p
    if pow(x_squared, (p - 1) // 2, p) != 1:
        _refuse("the Ed448 key is not a point of the curve")


def signature_hash_for(
    key: PublicKeyTypes | CertificateIssuerPrivateKeyTypes,
) -> SigningHash | None:
    """The hash to sign with: as strong as the curve (RFC 5758), SHA-256 for RSA (PKCS #1 v1.5),
    None where the scheme has its own (EdDSA, ML-DSA)."""
    if isinstance(key, ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey):
        if key.curve.name not in _CURVES:
            _refuse("keys on this curve do not sign here")
        return _CURVES[key.curve.name][1]()
    if isinstance(key, rsa.RSAPublicKey | rsa.RSAPrivateKey):
        return hashes.SHA256()
    return None


def cheap_to_sign(key: PublicKeyTypes | CertificateIssuerPrivateKeyTypes) -> bool:
    """Whether one signature takes tens of microseconds (P-256, Ed25519) or a few hundred (RSA of
    up to 2048 bits), so that the event loop may wait for it: a change of threads and back costs
    about as much. True says nothing of where the key is: one in a token is slow all the same."""
    if isinstance(key, ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey):
        return key.curve.name == "secp256r1"
    if isinstance(key, rsa.RSAPublicKey | rsa.RSAPrivateKey):
        return key.key_size <= MIN_RSA_BITS
    return isinstance(key, ed25519.Ed25519PublicKey | ed25519.Ed25519PrivateKey)


def spki_der(key: PublicKeyTypes) -> bytes:
    """SubjectPublicKeyInfo in the form every certificate of ours has: EC points uncompressed."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def spki_sha256(key: PublicKeyTypes) -> bytes:
    """What a key is known by in the inventory and on the list of blocked keys."""
    return hashlib.sha256(spki_der(key)).digest()


def key_identifier(key: PublicKeyTypes) -> bytes:
    """RFC 7093 section 2, method 1: the leftmost 160 bits of the SHA-256 of the BIT STRING's
    value, without tag, length and count of unused bits."""
    return key_identifier_of(spki_der(key))


def key_identifier_of(spki: bytes) -> bytes:
    """The same, of a SubjectPublicKeyInfo (DER)."""
    _, bits = der.sequence_of(spki)
    return hashlib.sha256(bits.contents[1:]).digest()[:20]


def _refuse(why: str, rule: str | None = None) -> NoReturn:
    raise PKIError(ErrorCode.BAD_PUBLIC_KEY, why, rule=rule)
