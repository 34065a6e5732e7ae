"""Signing with a key, whatever its kind: inline where it is cheap, else in a small pool, so that
other requests go on."""

import asyncio
import concurrent.futures
import os
from collections.abc import Callable
from typing import TypeVar

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from pkiserver.keys.provider import PrivateKey
from pkiserver.pkix.algorithms import cheap_to_sign, signature_hash_for

T = TypeVar("T")


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
    if len(data) > _QUICKLY_HASHED:
        return await in_pool(lambda: sign_now(key, data))
    return await with_key(key, lambda: sign_now(key, data))


async def with_key(key: PrivateKey, work: Callable[[], T]) -> T:
    """What `work` gives, which uses `key` and takes little time besides. Where more than that is to
    be done with signatures, to do it in one go spares changes of threads."""
    return work() if cheap_to_sign(key) else await in_pool(work)


async def in_pool(work: Callable[[], T]) -> T:
    """The same, whatever the key."""
    return await asyncio.get_running_loop().run_in_executor(_POOL.threads, work)


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
