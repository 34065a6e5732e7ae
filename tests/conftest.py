"""What no test should depend on: how fast the machine is, and its disk."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pkiserver.ca import crl_service
from pkiserver.storage import sqlite

Connect = Callable[..., sqlite3.Connection]


@pytest.fixture(autouse=True, scope="session")
def patience() -> Iterator[None]:
    """Whoever asks for a list gets the one that shows the latest change, also on a busy machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crl_service, "PATIENCE", 30.0)
        yield


@pytest.fixture(autouse=True, scope="session")
def durable_connect() -> Iterator[Connect]:
    """How the server opens a database. In the tests' own process nobody waits for the disk: what
    was written outlives a killed process, and none of them cuts the power. Servers and commands
    that tests start do wait."""
    real = sqlite.connect

    def connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
        raw = real(path, read_only=read_only)
        if not read_only:
            raw.execute("PRAGMA synchronous = OFF")
        return raw

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite, "connect", connect)
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield real
