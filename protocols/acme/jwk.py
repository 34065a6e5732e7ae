"""JSON Web Keys (RFC 7517, RFC 7518 section 6, RFC 8037) as ACME uses them: public keys to verify
with. Raises `Problem` and nothing else: malformed for what is no public JWK, badPublicKey for one
that is weak or of a kind we do not take.

A key has one spelling here, the members that RFC 7638 section 3.2 requires in their order, so
equal keys have equal thumbprints however a client wrote them.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from pkiserver.errors import MalformedMessage, PKIError
from pkiserver.pkix.algorithms import check_public_key
from protocols.acme.encoding import decode_base64url, encode_base64url, load_object, string
from protocols.acme.problems import Problem, ProblemType, malformed, problem_from

MAX_RSA_OCTETS = 1024
_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_CURVES: Mapping[str, ec.EllipticCurve] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
}
_CURVE_NAMES = {curve.name: name for name, curve in _CURVES.items()}


def parse(members: Mapping[str, Any]) -> PublicKeyTypes:
    """A key that a client sent, checked for strength. Members we have no use for are ignored
    (RFC 7517 section 4)."""
    if not _PRIVATE_MEMBERS.isdisjoint(members):
        raise malformed("The JWK holds private or symmetric key material: never use that key again")
    if members.get("use", "sig") != "sig":
        raise malformed("The JWK is not meant for signatures")
    key = _parse(members)
    try:
        check_public_key(key)
    except PKIError as error:
        raise problem_from(error) from error
    return key


@functools.lru_cache(maxsize=4096)
def load(stored: str) -> PublicKeyTypes:
    """A key from the form `canonical` gives, kept for the next request of its account."""
    try:
        members = load_object(stored.encode("utf-8", "replace"), "The JWK")
    except MalformedMessage as error:
        raise malformed(error.detail) from error
    return _parse(members)


def canonical(key: PublicKeyTypes) -> str:
    """The JSON a key is stored as, and of which the thumbprint is taken."""
    return json.dumps(_required_members(key), separators=(",", ":"), sort_keys=True)


def thumbprint(key: PublicKeyTypes) -> str:
    """RFC 7638 with SHA-256, in base64url."""
    return encode_base64url(hashlib.sha256(canonical(key).encode("ascii")).digest())


def _parse(members: Mapping[str, Any]) -> PublicKeyTypes:
    try:
        return _parser(string(members, "kty", "The JWK"))(members)
    except MalformedMessage as error:
        raise malformed(error.detail) from error


def _parser(kty: str) -> Callable[[Mapping[str, Any]], PublicKeyTypes]:
    parser = _PARSERS.get(kty)
    if parser is None:
        _refuse("the JWK's kty is none of RSA, EC, OKP")
    return parser


def _parse_rsa(members: Mapping[str, Any]) -> PublicKeyTypes:
    try:
        return rsa.RSAPublicNumbers(_positive(members, "e"), _positive(members, "n")).public_key()
    except ValueError:
        _refuse("modulus and exponent make no RSA key")


def _positive(members: Mapping[str, Any], name: str) -> int:
    """Base64urlUInt (RFC 7518 section 2): the fewest octets, or thumbprints would differ."""
    octets = decode_base64url(string(members, name, "The JWK"), f"The JWK's '{name}'")
    if not octets or octets[0] == 0 or len(octets) > MAX_RSA_OCTETS:
        _refuse(f"the RSA key's '{name}' is empty, too long or has leading zero octets")
    return int.from_bytes(octets, "big")


def _parse_ec(members: Mapping[str, Any]) -> PublicKeyTypes:
    curve = _CURVES.get(string(members, "crv", "The JWK"))
    if curve is None:
        _refuse("EC keys are on P-256, P-384 or P-521 here")
    # RFC 7518 section 6.2.1.2: coordinates have the full length of the field.
    size = (curve.key_size + 7) // 8
    point = b"\x04" + _octets(members, "x", size) + _octets(members, "y", size)
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(curve, point)
    except ValueError:
        _refuse("the EC point is not on its curve")


def _parse_okp(members: Mapping[str, Any]) -> PublicKeyTypes:
    if string(members, "crv", "The JWK") != "Ed25519":
        _refuse("OKP keys are Ed25519 here")
    try:
        return ed25519.Ed25519PublicKey.from_public_bytes(_octets(members, "x", 32))
    except (ValueError, UnsupportedAlgorithm):
        _refuse("the Ed25519 key is not valid")


_PARSERS: Mapping[str, Callable[[Mapping[str, Any]], PublicKeyTypes]] = {
    "RSA": _parse_rsa,
    "EC": _parse_ec,
    "OKP": _parse_okp,
}


def _octets(members: Mapping[str, Any], name: str, size: int) -> bytes:
    octets = decode_base64url(string(members, name, "The JWK"), f"The JWK's '{name}'")
    if len(octets) != size:
        raise MalformedMessage(f"The JWK's '{name}' does not have {size} octets")
    return octets


def _required_members(key: PublicKeyTypes) -> dict[str, str]:
    """RFC 7638 section 3.2 and RFC 8037 section 2."""
    match key:
        case rsa.RSAPublicKey():
            numbers = key.public_numbers()
            return {"kty": "RSA", "n": _minimal(numbers.n), "e": _minimal(numbers.e)}
        case ed25519.Ed25519PublicKey():
            x = encode_base64url(key.public_bytes_raw())
            return {"kty": "OKP", "crv": "Ed25519", "x": x}
        case ec.EllipticCurvePublicKey() if key.curve.name in _CURVE_NAMES:
            return _ec_members(key)
    _refuse("keys of this kind do not sign ACME requests")


def _ec_members(key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    point = key.public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    size = len(point) // 2
    x, y = encode_base64url(point[1 : size + 1]), encode_base64url(point[size + 1 :])
    return {"kty": "EC", "crv": _CURVE_NAMES[key.curve.name], "x": x, "y": y}


def _minimal(number: int) -> str:
    return encode_base64url(number.to_bytes((number.bit_length() + 7) // 8, "big"))


def _refuse(why: str) -> NoReturn:
    raise Problem(ProblemType.BAD_PUBLIC_KEY, f"This key is not accepted: {why}")
