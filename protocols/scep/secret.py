"""Secrets that the configuration names and does not hold."""

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from pkiserver.errors import PKIError, configuration_error

_MOST_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Secret:
    """Where a secret is: in a file (relative to the home) or in an environment variable. It is read
    each time, so a new one counts at once."""

    place: str
    home: Path = field(repr=False)
    file: str
    env: str

    def read(self) -> str:
        """The secret without the white space around it. Raises `PKIError` CONFIGURATION."""
        value = (self._from_file() if self.file else os.environ.get(self.env, "")).strip()
        if not value:
            raise self._problem("it is empty" if self.file else f"{self.env} is not set")
        return value

    def _from_file(self) -> str:
        path = self.home / self.file
        try:
            if stat.S_IMODE(path.stat().st_mode) & 0o007:
                raise self._problem(f"everybody can get at {path}; run: chmod o= {path}")
            with path.open("rb") as opened:
                data = opened.read(_MOST_BYTES + 1)
            if len(data) > _MOST_BYTES:
                raise self._problem(f"{path} has more than {_MOST_BYTES} bytes")
            return data.decode("utf-8")
        except OSError as error:
            raise self._problem(f"{path}: {error.strerror}") from error
        except UnicodeDecodeError:
            raise self._problem(f"{path} is not text in UTF-8") from None

    def _problem(self, what: str) -> PKIError:
        return configuration_error(f"{self.place}: the secret cannot be read: {what}")
