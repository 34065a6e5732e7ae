"""The port behind which private keys live. A key is a cryptography key object, so every builder
works unchanged whether it is a file or a token."""

from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, rsa

from pkiserver.config_types import KeyKind

PrivateKey = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
    | mldsa.MLDSA44PrivateKey
    | mldsa.MLDSA65PrivateKey
    | mldsa.MLDSA87PrivateKey
)


class KeyProvider(Protocol):
    """Keeps private keys under identifiers of letters, digits and hyphens.

    What `generate` and `store` put away is durable when they return; both raise `PKIError` CONFLICT
    for an identifier that is taken. `load` raises NOT_FOUND for one that is not there and
    UNAVAILABLE when the key cannot be had now. All may be called concurrently.
    """

    async def generate(self, key_id: str, kind: KeyKind) -> PrivateKey:
        """Make a key and keep it."""
        ...

    async def store(self, key_id: str, key: PrivateKey) -> None:
        """Keep a key that was made elsewhere."""
        ...

    def load(self, key_id: str) -> PrivateKey:
        """The key; kept in memory after the first time."""
        ...

    async def delete(self, key_id: str) -> None:
        """Forget a key. One that is not there is no error."""
        ...

    def derive(self, label: str) -> bytes:
        """32 bytes that depend on the provider's own secret and the label alone."""
        ...

    def passphrase(self) -> bytes:
        """What protects keys that have to be in a file of another kind (the HTTPS listener's)."""
        ...
