"""What every command shares: the home option, settings, a runtime, and printing."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from pkiserver.app import Runtime, load_settings, open_runtime
from pkiserver.config import CoreSettings
from pkiserver.home import Home

T = TypeVar("T")

HomeOption = Annotated[
    Path,
    typer.Option("--home", envvar="PKISERVER_HOME", help="Home directory", show_default="./pki"),
]
JSONOption = Annotated[bool, typer.Option("--json", help="Print JSON")]
DEFAULT_HOME = Path("pki")


def settings_of(home: Path) -> CoreSettings:
    """The settings of an initialised home. Raises `PKIError` CONFIGURATION."""
    Home(home).require_initialised()
    return load_settings(home)


def with_runtime(home: Path, work: Callable[[Runtime], Awaitable[T]]) -> T:
    """Run `work` on the home's CA core; a server may be running on it at the same time."""
    settings = settings_of(home)

    async def run() -> T:
        async with open_runtime(settings) as runtime:
            return await work(runtime)

    return asyncio.run(run())


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(headings: list[str], rows: list[list[str]]) -> None:
    """Columns as wide as they need to be."""
    widths = [max(len(row[i]) for row in [headings, *rows]) for i in range(len(headings))]
    for row in [headings, *rows]:
        typer.echo("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())
