"""Making private keys of every kind the configuration names."""

from collections.abc import Callable, Mapping

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, rsa

from pkiserver.config_types import KeyKind
from pkiserver.keys.provider import PrivateKey

_PUBLIC_EXPONENT = 65537
_MAKE: Mapping[KeyKind, Callable[[], PrivateKey]] = {
    "rsa-2048": lambda: rsa.generate_private_key(_PUBLIC_EXPONENT, 2048),
    "rsa-3072": lambda: rsa.generate_private_key(_PUBLIC_EXPONENT, 3072),
    "rsa-4096": lambda: rsa.generate_private_key(_PUBLIC_EXPONENT, 4096),
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ed448": ed448.Ed448PrivateKey.generate,
    "ml-dsa-44": mldsa.MLDSA44PrivateKey.generate,
    "ml-dsa-65": mldsa.MLDSA65PrivateKey.generate,
    "ml-dsa-87": mldsa.MLDSA87PrivateKey.generate,
}


def generate_key(kind: KeyKind) -> PrivateKey:
    """A new key. RSA takes from a tenth of a second to several: not for the event loop."""
    return _MAKE[kind]()
