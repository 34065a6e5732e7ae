"""RFC 7517, 7518, 7638 and 8037: public keys of accounts."""

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa, x25519
from hypothesis import given, settings
from hypothesis import strategies as st
from josepy.jwk import JWK

from protocols.acme import jwk
from protocols.acme.problems import Problem, ProblemType
from tests.test_acme.client import Signer, b64, new_key, public_jwk

ALGORITHMS = ("ES256", "ES384", "ES512", "RS256", "EdDSA")
KEYS = {algorithm: new_key(algorithm) for algorithm in ALGORITHMS}
EC_JWK = public_jwk(KEYS["ES256"])
RSA_JWK = public_jwk(KEYS["RS256"])
OKP_JWK = public_jwk(KEYS["EdDSA"])
RFC7638_MODULUS = (
    "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPeb"
    "WKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368Q"
    "QMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2"
    "NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
)


def test_the_example_of_rfc_7638() -> None:
    members = {"kty": "RSA", "n": RFC7638_MODULUS, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"}
    assert jwk.thumbprint(jwk.parse(members)) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


def test_the_example_of_rfc_8037() -> None:
    x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
    key = jwk.parse({"kty": "OKP", "crv": "Ed25519", "x": x})
    assert jwk.thumbprint(key) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_stored_keys_load_back(algorithm: str) -> None:
    key = jwk.parse(public_jwk(KEYS[algorithm]))
    stored = jwk.canonical(key)
    assert jwk.canonical(jwk.load(stored)) == stored
    assert jwk.thumbprint(jwk.load(stored)) == Signer(KEYS[algorithm], algorithm).thumbprint


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
def test_thumbprints_agree_with_josepy(algorithm: str) -> None:
    members = public_jwk(KEYS[algorithm])
    theirs = JWK.from_json(members).thumbprint()  # type: ignore[attr-defined]
    assert jwk.thumbprint(jwk.parse(members)) == b64(theirs)


def test_a_key_is_the_same_in_any_spelling() -> None:
    """Item 40: members in another order, and further ones."""
    other = dict(reversed(EC_JWK.items())) | {"alg": "ES256", "use": "sig", "kid": "x", "y2": 1}
    assert jwk.thumbprint(jwk.parse(other)) == jwk.thumbprint(jwk.parse(EC_JWK))


def _small_rsa() -> dict[str, str]:
    return public_jwk(rsa.generate_private_key(65537, 1024))


MALFORMED: dict[str, dict[str, Any]] = {
    "private EC": EC_JWK | {"d": "AA"},
    "private RSA": RSA_JWK | {"p": "AA"},
    "symmetric": {"kty": "oct", "k": "AA"},
    "encryption": EC_JWK | {"use": "enc"},
    "no kty": {"crv": "P-256"},
    "kty a list": {"kty": ["EC"]},
    "x missing": {k: v for k, v in EC_JWK.items() if k != "x"},
    "x a number": EC_JWK | {"x": 5},
    "x padded": EC_JWK | {"x": EC_JWK["x"] + "="},
    "x short": EC_JWK | {"x": b64(bytes(31))},
    "x long": EC_JWK | {"x": b64(b"\0" * 33)},
    "e missing": {k: v for k, v in RSA_JWK.items() if k != "e"},
    "Ed25519 short": OKP_JWK | {"x": b64(bytes(31))},
    "empty": {},
}
BAD_KEY: dict[str, dict[str, Any]] = {
    "kty unknown": {"kty": "AKP"},
    "curve unknown": EC_JWK | {"crv": "secp256k1"},
    "off the curve": EC_JWK | {"x": b64(b"\x01" * 32)},
    "origin": EC_JWK | {"x": b64(bytes(32)), "y": b64(bytes(32))},
    "X25519": OKP_JWK | {"crv": "X25519"},
    "Ed25519 of small order": OKP_JWK | {"x": b64(b"\x01" + bytes(31))},
    "RSA 1024": _small_rsa(),
    "RSA even": RSA_JWK | {"n": b64(b"\xc0" + bytes(255))},
    "RSA leading zero": RSA_JWK | {"n": "AA" + RSA_JWK["n"]},
    "RSA huge": RSA_JWK | {"n": b64(b"\xff" * 1025)},
    "RSA exponent 1": RSA_JWK | {"e": "AQ"},
    "RSA exponent 3": RSA_JWK | {"e": "Aw"},
    "RSA exponent even": RSA_JWK | {"e": "AQAC"},
    "RSA exponent empty": RSA_JWK | {"e": ""},
    "RSA exponent beyond the modulus": RSA_JWK | {"e": RSA_JWK["n"]},
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_public_key_is_malformed(name: str) -> None:
    with pytest.raises(Problem) as caught:
        jwk.parse(MALFORMED[name])
    assert caught.value.type is ProblemType.MALFORMED


@pytest.mark.parametrize("name", BAD_KEY)
def test_weak_and_unknown_keys_are_bad_public_keys(name: str) -> None:
    with pytest.raises(Problem) as caught:
        jwk.parse(BAD_KEY[name])
    assert caught.value.type is ProblemType.BAD_PUBLIC_KEY


@pytest.mark.parametrize(
    "key",
    [
        ed448.Ed448PrivateKey.generate().public_key(),
        x25519.X25519PrivateKey.generate().public_key(),
        ec.generate_private_key(ec.SECP256K1()).public_key(),
    ],
)
def test_keys_of_other_kinds_have_no_thumbprint(key: Any) -> None:
    with pytest.raises(Problem) as caught:
        jwk.thumbprint(key)
    assert caught.value.type is ProblemType.BAD_PUBLIC_KEY


@pytest.mark.parametrize("text", ["", "[]", "{", "{}", '{"kty":"EC"}', "\ud800"])
def test_what_is_not_stored_by_us_does_not_load(text: str) -> None:
    with pytest.raises(Problem):
        jwk.load(text)


@given(
    st.dictionaries(
        st.sampled_from(["kty", "crv", "x", "y", "n", "e", "use", "alg", "d"]),
        st.sampled_from(["EC", "RSA", "OKP", "P-256", "P-521", "Ed25519", "AQAB", EC_JWK["x"]])
        | st.text(max_size=90)
        | st.integers()
        | st.none(),
    )
)
@settings(max_examples=100)
def test_any_object_is_a_key_or_a_problem(members: dict[str, Any]) -> None:
    try:
        key = jwk.parse(members)
    except Problem:
        return
    assert json.loads(jwk.canonical(key)).keys() <= members.keys()
