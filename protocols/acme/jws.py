"""Requests signed with JWS (RFC 8555 section 6, RFC 7515) in the flattened JSON form.

The form is taken literally: exactly `protected`, `payload` and `signature`. Unprotected headers,
several signatures, critical extensions and unencoded payloads are refused, so all that is read is
under the one signature. Raises `Problem` and nothing else.

`parse` checks content type, form and algorithm. The caller then compares `url` with its own URL,
finds the key, has `verify` check the signature, and redeems the nonce last, so that a forged
request cannot spend one.
"""

import enum
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from pkiserver.errors import MalformedMessage
from protocols.acme import jwk
from protocols.acme.encoding import decode_base64url, load_object, string
from protocols.acme.problems import Problem, ProblemType, bad_nonce, malformed

CONTENT_TYPE = "application/jose+json"
MAX_BODY = 256 * 1024
MAX_HEADER = 8 * 1024
"""Largest protected header, encoded: an RSA key of 8192 bits takes under 2 KiB of it."""
MAX_URL = 2048
MAX_NONCE = 256
_NONCE = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_NONCE}}}")
_MEMBERS = frozenset({"protected", "payload", "signature"})


class Algorithm(enum.StrEnum):
    """What account and certificate keys may sign with (RFC 7518 section 3.1, RFC 8037)."""

    ES256 = "ES256"
    ES384 = "ES384"
    ES512 = "ES512"
    RS256 = "RS256"
    PS256 = "PS256"
    EDDSA = "EdDSA"


class ECParameters(NamedTuple):
    curve: str
    size: int
    hash: ec.ECDSA


# RFC 7518 section 3.4: curve and hash go together; `size` is the octets of r and of s.
_EC: Mapping[Algorithm, ECParameters] = {
    Algorithm.ES256: ECParameters("secp256r1", 32, ec.ECDSA(hashes.SHA256())),
    Algorithm.ES384: ECParameters("secp384r1", 48, ec.ECDSA(hashes.SHA384())),
    Algorithm.ES512: ECParameters("secp521r1", 66, ec.ECDSA(hashes.SHA512())),
}
_PSS = padding.PSS(padding.MGF1(hashes.SHA256()), hashes.SHA256.digest_size)
MAX_MISSING_OCTETS = 2


@dataclass(frozen=True, slots=True)
class Flattened:
    """A JWS taken apart, nothing verified."""

    header: Mapping[str, Any]
    signing_input: bytes = field(repr=False)
    unverified_payload: bytes = field(repr=False)
    signature: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """An outer request, well-formed and nothing verified. Exactly one of `jwk` (as sent, for
    `jwk.parse`) and `kid` is set. `verify` gives the payload."""

    algorithm: Algorithm
    nonce: str
    url: str
    jwk: dict[str, Any] | None
    kid: str | None
    form: Flattened = field(repr=False)


def parse(body: bytes, content_type: str | None) -> SignedRequest:
    """The request in `body` (RFC 8555 section 6.2)."""
    _check_content_type(content_type)
    if len(body) > MAX_BODY:
        raise malformed(f"A request has {MAX_BODY} octets at most", 413)
    try:
        return _request(parse_flattened(load_object(body, "The request")))
    except MalformedMessage as error:
        raise malformed(error.detail) from error


def _check_content_type(content_type: str | None) -> None:
    """RFC 8555 section 6.2 demands 415; parameters are tolerated."""
    essence = (content_type or "").partition(";")[0].strip().lower()
    if essence != CONTENT_TYPE:
        raise malformed(f"A signed request has the Content-Type {CONTENT_TYPE}", 415)


def parse_flattened(members: Mapping[str, Any]) -> Flattened:
    """RFC 7515 section 7.2.2, without `header`. Raises `MalformedMessage`."""
    if members.keys() != _MEMBERS:
        raise MalformedMessage(
            "A JWS has the members protected, payload and signature, and no others"
        )
    protected = string(members, "protected", "The JWS")
    payload = string(members, "payload", "The JWS")
    if len(protected) > MAX_HEADER:
        raise MalformedMessage("The protected header is too long")
    header = load_object(decode_base64url(protected, "'protected'"), "The protected header")
    # RFC 7515 section 4.1.11: no extension is understood here, so none may be critical; that
    # includes b64 (RFC 7797), which RFC 8555 section 6.2 forbids.
    if "crit" in header or "b64" in header:
        raise MalformedMessage("The protected header has 'crit' or 'b64'")
    content = decode_base64url(payload, "'payload'")
    signature = decode_base64url(string(members, "signature", "The JWS"), "'signature'")
    return Flattened(header, f"{protected}.{payload}".encode("ascii"), content, signature)


def _request(form: Flattened) -> SignedRequest:
    header = form.header
    algorithm = _algorithm(header)
    url = read_url(header)
    # RFC 8555 section 6.2: jwk and kid exclude each other, and one must be there.
    if ("jwk" in header) == ("kid" in header):
        raise MalformedMessage("The protected header has either 'jwk' or 'kid'")
    key, kid = (_jwk(header, algorithm), None) if "jwk" in header else (None, _kid(header))
    return SignedRequest(algorithm, _nonce(header), url, key, kid, form)


def _algorithm(header: Mapping[str, Any]) -> Algorithm:
    try:
        return Algorithm(string(header, "alg", "The protected header"))
    except ValueError:
        raise _bad_algorithm("'alg' is not an algorithm accepted here") from None


def _bad_algorithm(detail: str) -> Problem:
    """RFC 8555 section 6.2: the problem lists what is supported."""
    return Problem(ProblemType.BAD_SIGNATURE_ALGORITHM, detail, algorithms=tuple(Algorithm))


def read_url(header: Mapping[str, Any]) -> str:
    """The member `url`. Raises `MalformedMessage`."""
    url = string(header, "url", "The protected header")
    if len(url) > MAX_URL:
        raise MalformedMessage("'url' is too long")
    return url


def _kid(header: Mapping[str, Any]) -> str:
    kid = string(header, "kid", "The protected header")
    if len(kid) > MAX_URL or not kid.isascii() or not kid.isprintable():
        raise MalformedMessage("'kid' is not an account URL")
    return kid


def _jwk(header: Mapping[str, Any], algorithm: Algorithm) -> dict[str, Any]:
    members = header.get("jwk")
    if not isinstance(members, dict):
        raise MalformedMessage("'jwk' is not a JSON object")
    # RFC 7517 section 4.4: a key that names its algorithm is for that one.
    if members.get("alg", algorithm) != algorithm:
        raise _bad_algorithm("'alg' differs from the one the JWK is for")
    return members


def _nonce(header: Mapping[str, Any]) -> str:
    """RFC 8555 section 6.5.2: outside the base64url alphabet it makes the JWS malformed. A missing
    one is badNonce: a client that tries again with the fresh nonce is right to."""
    if "nonce" not in header:
        raise bad_nonce()
    nonce = string(header, "nonce", "The protected header")
    if not _NONCE.fullmatch(nonce):
        raise MalformedMessage(f"'nonce' is not 1 to {MAX_NONCE} characters of base64url")
    return nonce


def verify(request: SignedRequest, key: PublicKeyTypes) -> bytes:
    """The payload, once `key` is known to have signed it. Raises `Problem`: badSignatureAlgorithm
    if such a key does not sign that way, malformed if the signature is not its."""
    return _verify(request.form, request.algorithm, key)


def _verify(form: Flattened, algorithm: Algorithm, key: PublicKeyTypes) -> bytes:
    try:
        _verify_signature(algorithm, key, form.signature, form.signing_input)
    except InvalidSignature:
        raise malformed("The JWS signature is not valid for this key") from None
    return form.unverified_payload


def _verify_signature(
    algorithm: Algorithm, key: PublicKeyTypes, signature: bytes, data: bytes
) -> None:
    match key:
        case ec.EllipticCurvePublicKey():
            _verify_ec(algorithm, key, signature, data)
        case rsa.RSAPublicKey() if algorithm is Algorithm.RS256:
            key.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
        case rsa.RSAPublicKey() if algorithm is Algorithm.PS256:
            key.verify(signature, data, _PSS, hashes.SHA256())
        case ed25519.Ed25519PublicKey() if algorithm is Algorithm.EDDSA:
            key.verify(signature, data)
        case _:
            raise _bad_algorithm(f"'alg' {algorithm} is not for a key of this type")


def _verify_ec(
    algorithm: Algorithm, key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes
) -> None:
    parameters = _EC.get(algorithm)
    if parameters is None or parameters.curve != key.curve.name:
        raise _bad_algorithm(f"'alg' {algorithm} is not for an EC key on this curve")
    for r, s in _halves(signature, parameters.size, algorithm is Algorithm.ES256):
        try:
            return key.verify(encode_dss_signature(r, s), data, parameters.hash)
        except InvalidSignature:
            continue
    raise InvalidSignature


def _halves(signature: bytes, size: int, repair: bool) -> Iterator[tuple[int, int]]:
    """r and s (RFC 7518 section 3.4). Apple's clients drop leading zero octets of either half in
    ES256. Which half is short does not show, but each cut gives a different signature, and one of
    them must verify: no more is accepted than a signature by this key over these octets."""
    missing = 2 * size - len(signature)
    if missing == 0 or (repair and 0 < missing <= MAX_MISSING_OCTETS):
        for short in range(missing + 1):
            cut = size - short
            yield int.from_bytes(signature[:cut], "big"), int.from_bytes(signature[cut:], "big")


@dataclass(frozen=True, slots=True)
class KeyChangeRequest:
    """The verified inner JWS of a key change: the new key and what it signed."""

    key: PublicKeyTypes = field(repr=False)
    payload: bytes = field(repr=False)


def parse_key_change(outer_payload: bytes, *, url: str) -> KeyChangeRequest:
    """RFC 8555 section 7.3.5: the outer payload is a JWS by the new key, which stands in its
    `jwk`, with the `url` of the outer one and without a nonce."""
    try:
        form = parse_flattened(load_object(outer_payload, "The payload"))
        if "nonce" in form.header or "kid" in form.header:
            raise MalformedMessage("The inner JWS has neither 'nonce' nor 'kid'")
        algorithm = _algorithm(form.header)
        key = jwk.parse(_jwk(form.header, algorithm))
        if read_url(form.header) != url:
            raise MalformedMessage("The inner JWS has another 'url' than the outer one")
    except MalformedMessage as error:
        raise malformed(error.detail) from error
    return KeyChangeRequest(key, _verify(form, algorithm, key))
