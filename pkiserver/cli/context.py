"""What every command shares: the home option, the core, and reading files."""

import asyncio
import contextlib
import datetime as dt
import os
import pwd
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from pkiserver import logs
from pkiserver.ca.model import Requester
from pkiserver.config import CoreSettings
from pkiserver.config_types import parse_duration
from pkiserver.core import Core, load_settings, open_core
from pkiserver.errors import PKIError, configuration_error
from pkiserver.home import Home

T = TypeVar("T")

HomeOption = Annotated[
    Path,
    typer.Option("--home", envvar="PKISERVER_HOME", help="Home directory", show_default="./pki"),
]
JSONOption = Annotated[bool, typer.Option("--json", help="Print JSON")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most so many")]
DEFAULT_HOME = Path("pki")
MAX_INPUT = 1 << 20
"""Bytes that are read of a file given on the command line."""


def settings_of(home: Path) -> CoreSettings:
    """The settings of an initialised home. Raises `PKIError` CONFIGURATION."""
    Home(home).require_initialised()
    return load_settings(home)


def with_core(home: Path, work: Callable[[Core], Awaitable[T]]) -> T:
    """Run `work` on the home's CA core; a server may be running on it at the same time."""
    settings = settings_of(home)
    logs.configure(style="console", level="error", cache=False)

    async def run() -> T:
        async with open_core(settings) as core:
            result = await work(core)
            await core.services.status.settle()
            return result

    return asyncio.run(run())


LOGIN_UID = Path("/proc/self/loginuid")
NOBODY_LOGGED_IN = 2**32 - 1


def operator(login_uid: Path = LOGIN_UID) -> Requester:
    """Who is at the command line: the account that logged in, which sudo does not change, else the
    one the process runs as. So two people who use one service account are two."""
    uid = _login_uid(login_uid)
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    return Requester("cli", name)


def _login_uid(path: Path) -> int:
    """Linux: set once at login and inherited; a program cannot set it again."""
    try:
        uid = int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return os.geteuid()
    return os.geteuid() if uid == NOBODY_LOGGED_IN else uid


async def settle_interrupted(core: Core) -> None:
    """What a command that died left, where no server runs that would settle it."""
    await core.services.issuance.recover(dt.timedelta(minutes=1))


def duration(text: str) -> dt.timedelta:
    """An option's `90d`, `12h` and the like."""
    try:
        value = parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if not isinstance(value, dt.timedelta) or value <= dt.timedelta(0):
        raise typer.BadParameter("a duration is longer than nothing")
    return value


def read_input(path: Path, *, what: str) -> bytes:
    """A file the user named. Raises `PKIError` CONFIGURATION if it cannot be read or is too large
    to be what it should be."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_INPUT + 1)
    except OSError as error:
        raise configuration_error(f"{what}: cannot read {path}: {error.strerror}") from error
    if len(data) > MAX_INPUT:
        raise configuration_error(f"{what}: {path} is larger than {MAX_INPUT} bytes")
    return data


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Say in which file it is that something is wrong."""
    try:
        yield
    except PKIError as error:
        raise configuration_error(f"{path}: {error.detail}") from error


def read_password(path: Path | None, *, what: str, confirm: bool) -> bytes:
    """From the first line of a file, or asked on the terminal without showing it."""
    if path is not None:
        line = read_input(path, what=what).split(b"\n", 1)[0].rstrip(b"\r")
        if not line:
            raise configuration_error(f"{what}: the first line of {path} is empty")
        return line
    if not typer.get_text_stream("stdin").isatty():
        raise configuration_error(f"{what}: there is no terminal to ask on; use --password-file")
    answer: str = typer.prompt(what, hide_input=True, confirmation_prompt=confirm)
    return answer.encode()


def require_free(*paths: Path, force: bool) -> None:
    """Raises `PKIError` CONFIGURATION if a file is there that would be replaced, or no folder."""
    for path in paths:
        if not path.parent.is_dir():
            raise configuration_error(f"there is no folder {path.parent}")
        if path.is_dir():
            raise configuration_error(f"{path} is a folder")
        if path.exists() and not force:
            raise configuration_error(f"{path} is there already; use --force to replace it")
