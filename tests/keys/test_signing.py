"""Signatures in X.509's form, whatever the kind of key."""

import asyncio
import multiprocessing
from typing import get_args

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from pkiserver.config_types import KeyKind
from pkiserver.keys import PrivateKey, sign
from pkiserver.keys.generate import generate_key
from pkiserver.pkix.algorithms import signature_hash_for

DATA = b"to be signed"


def verify(key: PrivateKey, signature: bytes, data: bytes) -> None:
    public, algorithm = key.public_key(), signature_hash_for(key)
    if isinstance(public, rsa.RSAPublicKey):
        assert algorithm is not None
        public.verify(signature, data, padding.PKCS1v15(), algorithm)
    elif isinstance(public, ec.EllipticCurvePublicKey):
        assert algorithm is not None
        public.verify(signature, data, ec.ECDSA(algorithm))
    else:
        public.verify(signature, data)


@pytest.mark.parametrize("kind", [kind for kind in get_args(KeyKind) if kind != "rsa-4096"])
async def test_a_signature_verifies_and_only_for_its_data(kind: KeyKind) -> None:
    key = generate_key(kind)
    signature = await sign(key, DATA)
    verify(key, signature, DATA)
    with pytest.raises(InvalidSignature):
        verify(key, signature, DATA + b"!")


@pytest.mark.parametrize(
    ("kind", "name"), [("rsa-2048", "sha256"), ("p256", "sha256"), ("p384", "sha384")]
)
def test_the_hash_goes_with_the_curve(kind: KeyKind, name: str) -> None:
    algorithm = signature_hash_for(generate_key(kind))
    assert algorithm is not None and algorithm.name == name


def _sign_once(key: PrivateKey) -> None:
    asyncio.run(asyncio.wait_for(sign(key, DATA), 10))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_process_forked_after_a_signature_signs_too() -> None:
    """Workers are forked from a process that may have signed with a large key."""
    key = generate_key("p384")
    _sign_once(key)
    child = multiprocessing.get_context("fork").Process(target=_sign_once, args=(key,))
    child.start()
    child.join(20)
    assert child.exitcode == 0
