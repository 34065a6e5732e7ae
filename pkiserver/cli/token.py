"""`token create`, `list`, `revoke`: who may use the management interface."""

import datetime as dt
from typing import Annotated

import typer

from pkiserver.admin.tokens import Role, Token, create_token, list_tokens, revoke_token
from pkiserver.cli.context import (
    DEFAULT_HOME,
    HomeOption,
    JSONOption,
    duration,
    operator,
    with_core,
)
from pkiserver.cli.output import moment, print_json, print_table, say
from pkiserver.core import Core


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(help="Tokens of the management interface", no_args_is_help=True)
    group.command("create")(create)
    group.command("list")(list_)
    group.command("revoke")(revoke)
    app.add_typer(group, name="token")


def create(
    role: Annotated[Role, typer.Option(help="What it may do")],
    expires: Annotated[
        dt.timedelta | None,
        typer.Option(parser=duration, metavar="DURATION", help="Lifetime, such as 90d"),
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JSONOption = False,
) -> None:
    """Make a token. It is shown this once, as the last line."""

    async def work(core: Core) -> str:
        return await create_token(core.services, role=role, lifetime=expires, actor=str(operator()))

    secret = with_core(home, work)
    if as_json:
        print_json({"token": secret, "role": role})
    else:
        say("Keep it: it cannot be shown again.")
        say(secret)


def list_(home: HomeOption = DEFAULT_HOME, as_json: JSONOption = False) -> None:
    """Every token, without its secret."""

    async def work(core: Core) -> tuple[list[Token], dt.datetime]:
        return await list_tokens(core.services), core.services.clock.now()

    tokens, now = with_core(home, work)
    rows = [_row(token, now) for token in tokens]
    if as_json:
        print_json(rows)
    else:
        print_table(
            ["ID", "ROLE", "STATE", "CREATED", "EXPIRES"],
            [[r["id"], r["role"], r["state"], r["created"], r["expires"]] for r in rows],
        )


def revoke(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="As 'token list' shows it")],
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """End a token. What uses it is refused from now on."""

    async def work(core: Core) -> None:
        await revoke_token(core.services, token_id, actor=str(operator()))

    with_core(home, work)
    say(f"Token {token_id} is revoked.")


def _row(token: Token, now: dt.datetime) -> dict[str, str | None]:
    return {
        "id": token.id,
        "role": token.role,
        "state": _state(token, now),
        "created": moment(token.created),
        "expires": moment(token.expires),
        "revoked": moment(token.revoked),
    }


def _state(token: Token, now: dt.datetime) -> str:
    if token.revoked is not None:
        return "revoked"
    return "usable" if token.usable(now) else "expired"
