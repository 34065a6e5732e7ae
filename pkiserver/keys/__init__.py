"""Key providers: where private keys live. A key is a cryptography key object."""

from pkiserver.keys.files import FileKeyProvider, create_passphrase, file_provider
from pkiserver.keys.provider import KeyProvider, PrivateKey
from pkiserver.keys.signing import sign, sign_now

__all__ = [
    "FileKeyProvider",
    "KeyProvider",
    "PrivateKey",
    "create_passphrase",
    "file_provider",
    "sign",
    "sign_now",
]
