"""The command line: `pkiserver COMMAND`. One module per command group; a protocol adds its own.

Exit status 2 for a user's mistake, 1 for a failure; errors are one line on standard error."""

import functools
import gc
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pkiserver.cli.output import printable
from pkiserver.errors import ErrorCode, PKIError

_USERS_MISTAKE = frozenset(ErrorCode) - {ErrorCode.UNAVAILABLE, ErrorCode.INTERNAL}
_MODULES = {
    "up": "server", "init": "server", "serve": "server", "check": "server",
    "ca": "ca", "cert": "cert", "approvals": "approvals", "crl": "status", "ocsp": "status",
    "audit": "audit", "token": "token", "why": "why",
}  # fmt: skip
"""Our commands in the order of the help, and the module of each."""

AddTo = Callable[[typer.Typer], None]


class Commands(TyperGroup):
    """Imports what has the command that is asked for; everything for the help and for a command
    that nobody has. Raises `PKIError` CONFIGURATION if a plug-in cannot be loaded."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        for parts in (_ours, _of_plugin, _everything):
            if cmd_name not in self.commands:
                self.commands.update(_build(parts(cmd_name)))
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: Any) -> list[str]:
        self.commands = _build(_everything())
        return super().list_commands(ctx)


def _ours(name: str) -> Iterable[AddTo]:
    return [_adder(_MODULES[name])] if name in _MODULES else []


def _of_plugin(name: str) -> Iterable[AddTo]:
    """A plug-in's commands are mostly in a group that is called as it is."""
    plugin = _plugins().get(name)
    return [] if plugin is None or plugin.commands is None else [plugin.commands]


def _everything(_name: str = "") -> Iterable[AddTo]:
    yield from map(_adder, dict.fromkeys(_MODULES.values()))
    yield from (p.commands for p in _plugins().values() if p.commands is not None)


def _adder(module: str) -> AddTo:
    add_to: AddTo = importlib.import_module(f"pkiserver.cli.{module}").add_to
    return add_to


def _plugins() -> Any:
    from pkiserver import registry

    return registry.available()


def _build(parts: Iterable[AddTo]) -> dict[str, Any]:
    app = _app(TyperGroup)
    for add_to in parts:
        add_to(app)
    return dict(typer.main.get_group(app).commands)


def _app(group: type[TyperGroup]) -> typer.Typer:
    return typer.Typer(
        cls=group,
        name="pkiserver",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )


@functools.cache
def command() -> Any:
    """What is run: typer's own kind of a click command. Its `commands` are those asked for yet."""
    app = _app(Commands)
    app.callback()(pkiserver)
    return typer.main.get_group(app)


def whole_command() -> Any:
    """With every command in its `commands`."""
    group = command()
    group.commands = _build(_everything())
    return group


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

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
    # Imports make much that stays and little garbage: looked for less often, a command that reads
    # takes a sixth less of the processor.
    gc.set_threshold(10_000, 10, 10)
    sys.exit(main())
