"""The command line: `pkiserver COMMAND`. One module per command group; a protocol adds its own.

Exit status 2 for a user's mistake, 1 for a failure; errors are one line on standard error."""

import functools
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Any

import typer

from pkiserver import registry
from pkiserver.cli import approvals, audit, ca, cert, server, status, token, why
from pkiserver.cli.context import printable
from pkiserver.errors import ErrorCode, PKIError

_USERS_MISTAKE = frozenset(ErrorCode) - {ErrorCode.UNAVAILABLE, ErrorCode.INTERNAL}


def build_app() -> typer.Typer:
    """Every command. Raises `PKIError` CONFIGURATION if a plug-in cannot be loaded."""
    app = typer.Typer(
        name="pkiserver",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(pkiserver)
    for group in (server, ca, cert, approvals, status, audit, token, why):
        group.add_to(app)
    for plugin in registry.available().values():
        if plugin.commands is not None:
            plugin.commands(app)
    return app


@functools.cache
def command() -> Any:
    """`build_app` as something to run: typer's own kind of a click command."""
    return typer.main.get_command(build_app())


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"pkiserver {version('pkiserver')}")
        raise typer.Exit


def pkiserver(
    _version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version"),
    ] = False,
) -> None:
    """A private-PKI server: ACME, EST, SCEP, OCSP and CRL on one CA core."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        # Bytes that are no UTF-8 arrive as lone surrogates, which nothing behind here takes.
        "".join(arguments).encode()
    except UnicodeEncodeError:
        return _fail("the command line is not UTF-8", 2)
    try:
        outcome = command().main(arguments, prog_name="pkiserver", standalone_mode=False)
        sys.stdout.flush()
    except typer.TyperException as error:
        return _usage(error.format_message())
    except (typer.Abort, KeyboardInterrupt):
        return _fail("interrupted", 130)
    except PKIError as error:
        return _fail(error.detail, 2 if error.code in _USERS_MISTAKE else 1)
    except BrokenPipeError:
        return _reader_gone()
    except OSError as error:
        return _fail(str(error), 1)
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        return _fail(f"internal error, shown whole by python -X dev: {error!r}", 1)
    return outcome if isinstance(outcome, int) else 0


def _usage(message: str) -> int:
    """A command line that says too little or too much; without any command, the help."""
    if message.startswith("Usage:"):
        print(message, file=sys.stderr)
        return 2
    return _fail(" ".join(message.split()), 2)


def _fail(message: str, status: int) -> int:
    for line in message.splitlines() or ["failed"]:
        print(f"pkiserver: {printable(line)}", file=sys.stderr)
    return status


def _reader_gone() -> int:
    """Whoever read our output has had enough, as `head` does: no more is written at the exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def run() -> None:
    """The console script."""
    sys.exit(main())
