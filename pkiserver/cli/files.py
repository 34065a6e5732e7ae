"""Keys and certificates as files: BASE.key and BASE.crt, PKCS #12."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from cryptography.hazmat.primitives.serialization.pkcs12 import PKCS12PrivateKeyTypes
from cryptography.x509.oid import NameOID

from pkiserver.ca.authority_files import read_private_key
from pkiserver.cli.context import naming, read_input
from pkiserver.errors import configuration_error
from pkiserver.home import write_private
from pkiserver.keys import PrivateKey
from pkiserver.pkix.algorithms import spki_sha256

_ROUNDS = 600_000
"""PBKDF2 iterations for PKCS #12: what OWASP advises for HMAC-SHA-256."""


@dataclass(frozen=True, slots=True)
class Targets:
    """BASE.key (unless somebody else has the key) and BASE.crt."""

    base: Path
    with_key: bool

    @property
    def key(self) -> Path:
        return self.base.with_name(f"{self.base.name}.key")

    @property
    def certificate(self) -> Path:
        return self.base.with_name(f"{self.base.name}.crt")

    @property
    def paths(self) -> list[Path]:
        return [*([self.key] if self.with_key else []), self.certificate]

    @contextlib.contextmanager
    def key_written(self, key: PrivateKey | None) -> Iterator[None]:
        """Put the key beside its place, and into it if the block comes to its end: a renewal that
        fails leaves the old key where it was."""
        if key is None:
            yield
            return
        draft = self.key.with_name(f".{self.key.name}.new")
        write_private(draft, key_pem(key))
        try:
            yield
            draft.replace(self.key)
        finally:
            draft.unlink(missing_ok=True)


def key_pem(key: PrivateKey) -> bytes:
    """PKCS #8, not encrypted: the mode of its file protects it, as TLS servers expect."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def read_key(path: Path, leaf: x509.Certificate) -> PrivateKey:
    """The key of a certificate from its file. Raises `PKIError` CONFIGURATION."""
    with naming(path):
        key = read_private_key(read_input(path, what="--key"))
    if spki_sha256(key.public_key()) != spki_sha256(leaf.public_key()):
        raise configuration_error(f"{path} is not the key of this certificate")
    return key


def pkcs12_of(
    key: PrivateKey, leaf: x509.Certificate, chain: Sequence[x509.Certificate], password: bytes
) -> bytes:
    """RFC 7292 with PBES2, AES-256 and HMAC-SHA-256. Raises `PKIError` CONFIGURATION for a kind of
    key that cannot be put into it."""
    encryption = (
        PrivateFormat.PKCS12.encryption_builder()
        .kdf_rounds(_ROUNDS)
        .key_cert_algorithm(pkcs12.PBES.PBESv2SHA256AndAES256CBC)
        .hmac_hash(hashes.SHA256())
        .build(password)
    )
    try:
        return pkcs12.serialize_key_and_certificates(
            _friendly_name(leaf), cast(PKCS12PrivateKeyTypes, key), leaf, chain, encryption
        )
    except TypeError as error:
        raise configuration_error(f"PKCS #12 does not take this kind of key: {error}") from error


def _friendly_name(leaf: x509.Certificate) -> bytes | None:
    found = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value).encode() if found else None
