"""The command line: `pkiserver COMMAND`. One module per command group.

Exit status 2 for a user's mistake, 1 for a failure; errors are one line on standard error."""

import sys
from collections.abc import Sequence

import click
import typer

from pkiserver.cli import server
from pkiserver.errors import ErrorCode, PKIError

app = typer.Typer(
    name="pkiserver",
    help="A private-PKI server: ACME, OCSP and CRL on one CA core.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
server.add_to(app)

_USERS_MISTAKE = frozenset(ErrorCode) - {ErrorCode.UNAVAILABLE, ErrorCode.INTERNAL}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit status."""
    command = typer.main.get_command(app)
    try:
        outcome = command.main(
            args=None if argv is None else list(argv), prog_name="pkiserver", standalone_mode=False
        )
    except click.ClickException as error:
        return _fail(f"{error.format_message()}; see 'pkiserver --help'", 2)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", 130)
    except PKIError as error:
        return _fail(error.detail, 2 if error.code in _USERS_MISTAKE else 1)
    except OSError as error:
        return _fail(str(error), 1)
    return outcome if isinstance(outcome, int) else 0


def _fail(message: str, status: int) -> int:
    for line in message.splitlines():
        print(f"pkiserver: {line}", file=sys.stderr)
    return status


def run() -> None:
    """The console script."""
    sys.exit(main())
