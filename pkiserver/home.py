"""The home directory: where things are, and making a new one."""

import os
from dataclasses import dataclass
from pathlib import Path

from pkiserver.config import FILE_NAME
from pkiserver.errors import configuration_error


@dataclass(frozen=True, slots=True)
class Home:
    """The paths of a home."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / FILE_NAME

    @property
    def keys(self) -> Path:
        return self.path / "keys"

    @property
    def server_pem(self) -> Path:
        """The server's own key (encrypted) and chain in one file, replaced as one."""
        return self.keys / "server.pem"

    @property
    def root_pem(self) -> Path:
        return self.path / "root.pem"

    @property
    def admin_token(self) -> Path:
        return self.path / "admin.token"

    @property
    def state(self) -> Path:
        """What the processes of this host share and may lose."""
        return self.path / "run"

    def require_empty(self) -> None:
        """Raises `PKIError` CONFIGURATION if there is anything in the way of `init`."""
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise configuration_error(
                f"{self.path} is not empty; choose another --home, or remove it if you mean to"
            )

    def require_initialised(self) -> None:
        """Raises `PKIError` CONFIGURATION unless `init` has been here."""
        if not self.config.exists():
            raise configuration_error(
                f"{self.path} is not a pkiserver home; run 'pkiserver init --home {self.path}'"
            )


def write_private(path: Path, data: bytes) -> None:
    """Write a file only its owner can read, all of it or nothing, durably."""
    _write(path, data, 0o600)


def write_public(path: Path, data: bytes) -> None:
    """Write a file anybody may read, all of it or nothing, durably."""
    _write(path, data, 0o644)


def _write(path: Path, data: bytes, mode: int) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
