"""Signing with a key, whatever its kind: inline where it is cheap, else in a small pool, so that
other requests go on."""

import asyncio
import concurrent.futures
import os

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from pkiserver.keys.provider import PrivateKey
from pkiserver.pkix.algorithms import cheap_to_sign, signature_hash_for


class _Pool:
    """Threads do not cross a fork: a child that believed in its parent's would wait for ever."""

    def __init__(self) -> None:
        self.renew()
        os.register_at_fork(after_in_child=self.renew)

    def renew(self) -> None:
        self.threads = concurrent.futures.ThreadPoolExecutor(2, "sign")


_POOL = _Pool()
_QUICKLY_HASHED = 1 << 16


async def sign(key: PrivateKey, data: bytes) -> bytes:
    """The signature in X.509's form: RSA PKCS#1 v1.5 with SHA-256, ECDSA with the hash of the
    curve's size, the others over the data itself."""
    if cheap_to_sign(key) and len(data) <= _QUICKLY_HASHED:
        return sign_now(key, data)
    return await asyncio.get_running_loop().run_in_executor(_POOL.threads, sign_now, key, data)


def sign_now(key: PrivateKey, data: bytes) -> bytes:
    """`sign`, in this thread."""
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), _hash(key))
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(data, ec.ECDSA(_hash(key)))
    return key.sign(data)


def _hash(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> hashes.HashAlgorithm:
    found = signature_hash_for(key)
    assert found is not None  # noqa: S101  RSA and ECDSA sign a hash
    return found
