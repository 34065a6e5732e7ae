"""Key strength. The weak moduli are built here, each with the flaw it is refused for."""

import hashlib
import math
import random

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import (
    dsa,
    ec,
    ed448,
    ed25519,
    mldsa,
    mlkem,
    x25519,
)
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificateIssuerPrivateKeyTypes,
    PublicKeyTypes,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix import algorithms
from tests.pkix import support

RANDOM = random.Random(20171016)
P25519, P448 = 2**255 - 19, 2**448 - 2**224 - 1


def is_prime(n: int) -> bool:
    """Miller-Rabin; good enough for numbers nobody chose to deceive."""
    if any(n % p == 0 for p in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)):
        return False
    s = ((n - 1) & -(n - 1)).bit_length() - 1
    d = n - 1 >> s
    for base in (2, 3, 5, 7, 11, 13):
        x = pow(base, d, n)
        if x in (1, n - 1):
            continue
        if all((x := x * x % n) != n - 1 for _ in range(s - 1)):
            return False
    return True


def next_prime(n: int) -> int:
    n |= 1
    while not is_prime(n):
        n += 2
    return n


def roca_prime(bits: int) -> int:
    """k*M + (65537^a mod M), M the product of the first 126 primes, as the flawed chips make
    them for moduli of 2048 bits."""
    primes = [n for n in range(2, 702) if all(n % d for d in range(2, math.isqrt(n) + 1))]
    assert len(primes) == 126
    m = math.prod(primes)
    while True:
        k = RANDOM.getrandbits(bits - m.bit_length()) | 1 << bits - m.bit_length()
        candidate = k * m + pow(65537, RANDOM.getrandbits(60), m)
        if candidate.bit_length() == bits and is_prime(candidate):
            return candidate


@pytest.fixture(scope="module")
def strong_modulus() -> int:
    return support.rsa_key().public_key().public_numbers().n


@pytest.fixture(scope="module")
def roca_modulus() -> int:
    while True:
        n = roca_prime(1024) * roca_prime(1024)
        if n.bit_length() == 2048:
            return n


def test_a_sound_modulus_passes(strong_modulus: int) -> None:
    algorithms.check_rsa(strong_modulus, 65537)
    algorithms.check_rsa(strong_modulus, 2**256 - 1)


def test_roca(roca_modulus: int) -> None:
    """CVE-2017-15361."""
    assert algorithms.has_roca_fingerprint(roca_modulus)
    with pytest.raises(PKIError, match="ROCA"):
        algorithms.check_rsa(roca_modulus, 65537)


def test_the_roca_fingerprint_is_rare() -> None:
    chance = math.prod(len(r) / (p - 1) for p, r in algorithms._ROCA_RESIDUES)
    assert chance < 2**-27


def test_close_primes() -> None:
    """Fermat's method (CVE-2022-26320)."""
    p = next_prime(RANDOM.getrandbits(1024) | 3 << 1022)
    n = p * next_prime(p + 2**20)
    assert n.bit_length() == 2048
    with pytest.raises(PKIError, match="close together"):
        algorithms.check_rsa(n, 65537)


@pytest.mark.parametrize("factor", [2, 3, 751])
def test_small_factors(strong_modulus: int, factor: int) -> None:
    n = strong_modulus // factor * factor
    n += 0 if n.bit_length() == 2048 else factor
    with pytest.raises(PKIError, match="small factor"):
        algorithms.check_rsa(n, 65537)


@pytest.mark.parametrize("bits", [1024, 2047, 8200])
def test_sizes_out_of_range(bits: int) -> None:
    with pytest.raises(PKIError, match=f"{bits} bits"):
        algorithms.check_rsa(1 << bits - 1 | 1, 65537)


def test_sizes_are_whole_octets() -> None:
    with pytest.raises(PKIError, match="octets"):
        algorithms.check_rsa(1 << 2049 | 1, 65537)


@pytest.mark.parametrize("exponent", [1, 3, 17, 65535, 65536, 65538, 2**256 + 1])
def test_exponents_out_of_range(strong_modulus: int, exponent: int) -> None:
    """BR 6.1.6: odd, 2^16+1 to 2^256-1."""
    with pytest.raises(PKIError, match="exponent"):
        algorithms.check_rsa(strong_modulus, exponent)


KEYS: dict[str, CertificateIssuerPrivateKeyTypes] = {
    "rsa-2048": support.rsa_key(),
    "p256": support.ec_key(),
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "p521": ec.generate_private_key(ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "ed448": ed448.Ed448PrivateKey.generate(),
    "ml-dsa-44": mldsa.MLDSA44PrivateKey.generate(),
    "ml-dsa-65": mldsa.MLDSA65PrivateKey.generate(),
    "ml-dsa-87": mldsa.MLDSA87PrivateKey.generate(),
}
HASHES = {"rsa-2048": "sha256", "p256": "sha256", "p384": "sha384", "p521": "sha512"}


@pytest.mark.parametrize("kind", KEYS)
def test_every_kind_is_known_checked_and_signs(kind: str) -> None:
    private = KEYS[kind]
    public = private.public_key()
    assert algorithms.describe(public) == algorithms.check_public_key(public) == kind
    assert algorithms.check_public_key(public, allowed=[kind]) == kind
    for key in (private, public):
        algorithm = algorithms.signature_hash_for(key)
        assert (algorithm.name if algorithm else None) == HASHES.get(kind)
        assert algorithms.cheap_to_sign(key) is (kind in {"p256", "ed25519", "rsa-2048"})


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256K1()).public_key(),
        dsa.generate_private_key(1024).public_key(),
        x25519.X25519PrivateKey.generate().public_key(),
        mlkem.MLKEM768PrivateKey.generate().public_key(),
    ],
)
def test_other_kinds_are_refused(key: PublicKeyTypes) -> None:
    with pytest.raises(PKIError, match="kind or curve") as caught:
        algorithms.check_public_key(key)
    assert caught.value.code is ErrorCode.BAD_PUBLIC_KEY


def test_other_curves_do_not_sign() -> None:
    with pytest.raises(PKIError, match="curve"):
        algorithms.signature_hash_for(ec.generate_private_key(ec.SECP256K1()))


def test_allowed_kinds() -> None:
    key = support.rsa_key().public_key()
    algorithms.check_public_key(key, allowed={"rsa"})
    for allowed in ({"p256", "rsa-3072"}, set[str]()):
        with pytest.raises(PKIError, match="rsa-2048") as caught:
            algorithms.check_public_key(key, allowed=allowed)
        assert caught.value.rule == "key_kinds"


def test_blocked_keys() -> None:
    key = support.ec_key().public_key()
    with pytest.raises(PKIError, match="compromised") as caught:
        algorithms.check_public_key(key, blocked={algorithms.spki_sha256(key)})
    assert caught.value.rule == "blocked-keys"


def test_points_off_the_curve_are_refused_by_the_library() -> None:
    """What `check_public_key` relies on."""
    numbers = support.ec_key().public_key().public_numbers()
    with pytest.raises(ValueError, match="."):
        ec.EllipticCurvePublicNumbers(numbers.x, numbers.y ^ 1, numbers.curve).public_key()
    with pytest.raises(ValueError, match="."):
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x00")


def edwards_double(x: int, y: int) -> tuple[int, int]:
    p, d = P25519, -121665 * pow(121666, -1, P25519)
    t = d * x * x * y * y
    return 2 * x * y * pow(1 + t, -1, p) % p, (y * y + x * x) * pow(1 - t, -1, p) % p


def x_of(y: int) -> int | None:
    p, d = P25519, -121665 * pow(121666, -1, P25519)
    square = (y * y - 1) * pow(d * y * y + 1, -1, p) % p
    x = pow(square, (p + 3) // 8, p)
    if x * x % p != square:
        x = x * pow(2, (p - 1) // 4, p) % p
    return x if x * x % p == square else None


def test_the_small_order_points_have_order_dividing_eight() -> None:
    for y in algorithms._SMALL_ORDER_Y25519:
        x = x_of(y)
        assert x is not None
        point = (x, y)
        for _ in range(3):
            point = edwards_double(*point)
        assert point == (0, 1)


def off_curve_25519() -> int:
    return next(y for y in range(2, 100) if x_of(y) is None)


@pytest.mark.parametrize("sign", [0, 1 << 255])
@pytest.mark.parametrize(
    "y", [*sorted(algorithms._SMALL_ORDER_Y25519), P25519, P25519 + 1, off_curve_25519()]
)
def test_bad_ed25519_points(y: int, sign: int) -> None:
    """RFC 8032 section 5.1.3, RFC 7748 section 7."""
    key = ed25519.Ed25519PublicKey.from_public_bytes((y | sign).to_bytes(32, "little"))
    with pytest.raises(PKIError, match="Ed25519"):
        algorithms.check_public_key(key)


@pytest.mark.parametrize("y", [0, 1, P448 - 1, P448, P448 + 1, 1 << 448])
def test_bad_ed448_points(y: int) -> None:
    """RFC 8032 section 5.2.3."""
    key = ed448.Ed448PublicKey.from_public_bytes(y.to_bytes(57, "little"))
    with pytest.raises(PKIError, match="Ed448"):
        algorithms.check_public_key(key)


def test_ed448_points_off_the_curve() -> None:
    refused = 0
    for y in range(2, 20):
        key = ed448.Ed448PublicKey.from_public_bytes(y.to_bytes(57, "little"))
        try:
            algorithms.check_public_key(key)
        except PKIError as error:
            assert "not a point" in error.detail
            refused += 1
    assert 0 < refused < 18


@given(st.binary(min_size=32, max_size=32))
@settings(max_examples=50)
def test_generated_edwards_keys_pass(seed: bytes) -> None:
    key = ed25519.Ed25519PrivateKey.from_private_bytes(seed).public_key()
    assert algorithms.check_public_key(key) == "ed25519"


def test_key_identifier_is_method_1_of_rfc_7093() -> None:
    """The library's SHA-1 identifier is over the same octets, so only the hash differs."""
    key = support.ec_key().public_key()
    point = algorithms.spki_der(key)[-65:]
    assert x509.SubjectKeyIdentifier.from_public_key(key).digest == hashlib.sha1(point).digest()
    assert algorithms.key_identifier(key) == hashlib.sha256(point).digest()[:20]


def test_spki_digest() -> None:
    key = support.ec_key().public_key()
    assert algorithms.spki_sha256(key) == hashlib.sha256(algorithms.spki_der(key)).digest()
    assert isinstance(algorithms.signature_hash_for(key), hashes.SHA256)
