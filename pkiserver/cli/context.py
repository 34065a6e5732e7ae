"""What every command shares: the home option, a runtime, reading files, and printing."""

import asyncio
import contextlib
import datetime as dt
import json
import os
import pwd
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from pkiserver import logs
from pkiserver.app import Runtime, load_settings, open_runtime
from pkiserver.ca.model import Requester
from pkiserver.config import CoreSettings
from pkiserver.config_types import parse_duration
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


def with_runtime(home: Path, work: Callable[[Runtime], Awaitable[T]]) -> T:
    """Run `work` on the home's CA core; a server may be running on it at the same time."""
    settings = settings_of(home)
    logs.configure(style="console", level="error", cache=False)

    async def run() -> T:
        async with open_runtime(settings) as runtime:
            result = await work(runtime)
            await runtime.services.status.settle()
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


async def settle_interrupted(runtime: Runtime) -> None:
    """What a command that died left, where no server runs that would settle it."""
    await runtime.services.issuance.recover(dt.timedelta(minutes=1))


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


def moment(when: dt.datetime | None) -> str | None:
    """RFC 3339, for JSON and for people."""
    return None if when is None else when.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def printable(text: object) -> str:
    """On one line and without control characters: what clients sent must not steer a terminal."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in str(text))


def say(text: object) -> None:
    """A line for people."""
    typer.echo(printable(text))


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=True))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as they need to be; None is shown as a dash."""
    texts = [["-" if cell is None else printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *texts, strict=True)]
    for row in [list(headings), *texts]:
        typer.echo("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())


def print_members(members: dict[str, Any]) -> None:
    """A name and its value per line; None is left out, lists are joined."""
    shown = {name: value for name, value in members.items() if value not in (None, [], ())}
    width = max((len(name) for name in shown), default=0)
    for name, value in shown.items():
        text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
        say(f"{name.replace('_', ' '):<{width}}  {text}")
