"""Keys as files: encrypted PKCS#8, 0600, in a folder of mode 0700.

The passphrase comes from a file, an environment variable or a systemd credential. Modes that let
others read are refused: a key that leaked once cannot be called back.
"""

import asyncio
import base64
import os
import re
import secrets
import stat
from pathlib import Path
from typing import get_args

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pkiserver.config import CoreSettings
from pkiserver.config_types import KeyKind
from pkiserver.errors import ErrorCode, PKIError, configuration_error
from pkiserver.home import Home, write_private
from pkiserver.keys.generate import generate_key
from pkiserver.keys.provider import PrivateKey

PASSPHRASE_FILE = "passphrase"  # noqa: S105  its name
_KEY_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,127}")


class FileKeyProvider:
    """`KeyProvider` on a folder."""

    def __init__(self, folder: Path, passphrase: bytes) -> None:
        try:
            _require_private(folder, 0o700)
        except OSError as error:
            raise configuration_error(f"the folder of the keys: {error}") from error
        self._folder = folder
        self._passphrase = passphrase
        self._loaded: dict[str, PrivateKey] = {}

    def __repr__(self) -> str:
        return f"FileKeyProvider({str(self._folder)!r})"

    async def generate(self, key_id: str, kind: KeyKind) -> PrivateKey:
        if kind not in get_args(KeyKind):
            raise configuration_error(f"there is no key kind {kind!r}")
        self._require_free(key_id)
        key = await asyncio.to_thread(generate_key, kind)
        await self.store(key_id, key)
        return key

    async def store(self, key_id: str, key: PrivateKey) -> None:
        self._require_free(key_id)
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(self._passphrase),
        )
        await asyncio.to_thread(self._create, key_id, pem)
        self._loaded[key_id] = key

    def load(self, key_id: str) -> PrivateKey:
        key = self._loaded.get(key_id)
        if key is None:
            key = self._loaded[key_id] = self._read(self._path(key_id))
        return key

    async def delete(self, key_id: str) -> None:
        self._loaded.pop(key_id, None)
        await asyncio.to_thread(self._remove, self._path(key_id))

    def derive(self, label: str) -> bytes:
        kdf = HKDF(hashes.SHA256(), 32, salt=None, info=f"pkiserver:{label}".encode())
        return kdf.derive(self._passphrase)

    def passphrase(self) -> bytes:
        return self._passphrase

    def _path(self, key_id: str) -> Path:
        if not _KEY_ID.fullmatch(key_id):
            raise PKIError(ErrorCode.NOT_FOUND, f"{key_id!r} is not a key identifier")
        return self._folder / f"{key_id}.key"

    def _require_free(self, key_id: str) -> None:
        if self._path(key_id).exists():
            raise PKIError(ErrorCode.CONFLICT, f"there is a key {key_id!r} already")

    def _create(self, key_id: str, pem: bytes) -> None:
        """Written beside and linked into place, so that of two writers one is refused."""
        path = self._path(key_id)
        draft = path.with_suffix(f".{secrets.token_hex(8)}")
        try:
            write_private(draft, pem)
            path.hardlink_to(draft)
        except FileExistsError:
            raise PKIError(ErrorCode.CONFLICT, f"there is a key {key_id!r} already") from None
        except OSError as error:
            raise PKIError(
                ErrorCode.UNAVAILABLE, f"key {key_id!r} cannot be stored: {error.strerror}"
            ) from error
        finally:
            self._remove(draft)

    def _remove(self, path: Path) -> None:
        """Durably; so is what was done to the folder before."""
        path.unlink(missing_ok=True)
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _read(self, path: Path) -> PrivateKey:
        try:
            _require_private(path, 0o600)
            pem = path.read_bytes()
        except FileNotFoundError:
            raise PKIError(
                ErrorCode.NOT_FOUND, f"the key {path.stem!r} is not here; is it kept offline?"
            ) from None
        except OSError as error:
            raise PKIError(
                ErrorCode.UNAVAILABLE, f"key {path.stem!r} cannot be read: {error.strerror}"
            ) from error
        try:
            key = serialization.load_pem_private_key(pem, self._passphrase)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise PKIError(
                ErrorCode.UNAVAILABLE,
                f"key {path.stem!r} does not open: is the passphrase the one it was made with?",
            ) from None
        if not isinstance(key, PrivateKey):
            raise PKIError(ErrorCode.UNAVAILABLE, f"key {path.stem!r} is of no kind that signs")
        return key


def file_provider(settings: CoreSettings) -> FileKeyProvider:
    """The key files of a home. Raises `PKIError` CONFIGURATION for modes that are too wide or a
    passphrase that is not there."""
    return FileKeyProvider(Home(settings.home).keys, read_passphrase(settings))


def read_passphrase(settings: CoreSettings) -> bytes:
    """The passphrase from where the configuration says. Raises `PKIError` CONFIGURATION."""
    keys = settings.keys
    if keys.passphrase_env:
        return _from_environment(keys.passphrase_env)
    if keys.passphrase_credential:
        folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
        if not folder:
            raise configuration_error(
                "keys.passphrase_credential: CREDENTIALS_DIRECTORY is not set; "
                "start with systemd's LoadCredential="
            )
        return _from_file(Path(folder) / keys.passphrase_credential, private=False)
    return _from_file(_passphrase_path(settings), private=True)


def create_passphrase(settings: CoreSettings) -> None:
    """Make a random passphrase file unless the operator brings one."""
    keys = settings.keys
    path = _passphrase_path(settings)
    if keys.passphrase_env or keys.passphrase_credential or path.exists():
        return
    write_private(path, base64.b64encode(secrets.token_bytes(32)) + b"\n")


def _passphrase_path(settings: CoreSettings) -> Path:
    named = settings.keys.passphrase_file
    return settings.home / named if named else Home(settings.home).keys / PASSPHRASE_FILE


def _from_environment(name: str) -> bytes:
    value = os.environ.get(name, "")
    if not value:
        raise configuration_error(f"keys.passphrase_env: the variable {name} is not set")
    return value.encode()


def _from_file(path: Path, *, private: bool) -> bytes:
    try:
        if private:
            _require_private(path, 0o600)
        value = path.read_bytes().strip()
    except OSError as error:
        raise configuration_error(
            f"the passphrase of the keys cannot be read: {path}: {error.strerror}"
        ) from error
    if not value:
        raise configuration_error(f"the passphrase file {path} is empty")
    return value


def _require_private(path: Path, widest: int) -> None:
    """Raises `PKIError` CONFIGURATION if others may read; FileNotFoundError as it comes."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & ~widest:
        raise configuration_error(
            f"{path} has mode {mode:04o}, which lets others in; run: chmod {widest:o} {path}"
        )
