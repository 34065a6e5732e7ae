"""A home made once, a copy of it for each test, and the command line run in this process."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog

from pkiserver.cli.main import main
from pkiserver.initialise import NewHome, initialise


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.status == 0, self.err
        return json.loads(self.out)


CLI = Callable[..., Result]


@pytest.fixture(scope="session")
def made_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("made") / "pki"
    initialise(home, NewHome(root_key="p256", organization="Example"))
    return home


@pytest.fixture
def home(made_home: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "pki"
    shutil.copytree(made_home, copy)
    return copy


@pytest.fixture
def cli(home: Path, capsys: pytest.CaptureFixture[str], logs_as_they_were: None) -> CLI:
    """Runs a command on the home. Words are `str()` of what is given."""

    def run(*words: object, at: Path = home) -> Result:
        capsys.readouterr()
        status = main([*(str(word) for word in words), "--home", str(at)])
        captured = capsys.readouterr()
        return Result(status, captured.out, captured.err)

    return run


@pytest.fixture
def logs_as_they_were() -> Iterator[None]:
    """A command sets up logging for its process; other tests share ours."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:], root.level = handlers, level
