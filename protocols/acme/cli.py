"""`acme accounts`, `acme orders`, `acme eab create|list|revoke`."""

import datetime as dt
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from pkiserver.cli.context import (
    DEFAULT_HOME,
    HomeOption,
    JSONOption,
    LimitOption,
    duration,
    operator,
    with_core,
)
from pkiserver.cli.output import moment, print_json, print_table, say
from pkiserver.clock import epoch, from_epoch
from pkiserver.core import Core
from pkiserver.errors import ErrorCode, PKIError, configuration_error
from pkiserver.storage import Reader
from protocols.acme.records import Account, ExternalAccount, Order
from protocols.acme.service.accounts import Accounts
from protocols.acme.service.directory import Directory
from protocols.acme.service.external import ExternalAccounts, NewExternalAccount
from protocols.acme.settings import ACMESettings
from protocols.acme.states import order_status
from protocols.acme.store import accounts as account_store
from protocols.acme.store import orders as order_store

UNLIMITED = "unlimited"
DirectoryOption = Annotated[
    str | None,
    typer.Option("--directory", help="Name in the configuration: [acme.NAME]"),
]


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(help="ACME operations", no_args_is_help=True)
    group.command("accounts")(accounts)
    group.command("restrict")(restrict)
    group.command("orders")(orders)
    keys = typer.Typer(help="Keys for external account binding", no_args_is_help=True)
    keys.command("create")(create)
    keys.command("list")(list_)
    keys.command("revoke")(revoke)
    group.add_typer(keys, name="eab")
    app.add_typer(group, name="acme")


def accounts(
    directory: DirectoryOption = None,
    limit: LimitOption = 100,
    home: HomeOption = DEFAULT_HOME,
    as_json: JSONOption = False,
) -> None:
    """Accounts, the newest first."""

    def read(reader: Reader) -> list[Account]:
        return account_store.accounts(reader, directory, limit)

    async def work(core: Core) -> list[Account]:
        if directory is not None:
            _directory(core, directory)
        return await core.services.database.read(read)

    rows = [_account(account) for account in with_core(home, work)]
    _print(rows, ["id", "directory", "status", "contact", "names", "created", "address"], as_json)


def restrict(
    account: Annotated[str, typer.Argument(metavar="ID", help="As 'acme accounts' shows it")],
    name: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Names it may have; '!PATTERN': may not; none: any"),
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JSONOption = False,
) -> None:
    """Bind an account to names, for its orders from now on; without --name, unbind it."""

    async def work(core: Core) -> Account:
        known = await core.services.database.read(
            lambda reader: account_store.directory_of(reader, account)
        )
        if known is None:
            raise PKIError(ErrorCode.NOT_FOUND, f"there is no account {account!r}")
        chosen = _directory(core, known)
        service = Accounts(chosen, ExternalAccounts(chosen))
        return await service.restrict(account, tuple(name or ()), actor=str(operator()))

    changed = with_core(home, work)
    if as_json:
        print_json(_account(changed))
    else:
        say(f"Account {account} may have: {', '.join(changed.names) or 'any name'}")


def orders(
    limit: LimitOption = 100, home: HomeOption = DEFAULT_HOME, as_json: JSONOption = False
) -> None:
    """Orders, the newest first. 'pkiserver why ID' tells what became of one."""

    async def work(core: Core) -> list[dict[str, Any]]:
        now = epoch(core.services.clock.now())
        found = await core.services.database.read(lambda reader: order_store.orders(reader, limit))
        return [_order(order, now) for order in found]

    rows = with_core(home, work)
    _print(rows, ["id", "account", "status", "identifiers", "profile", "created"], as_json)


def create(
    directory: DirectoryOption = None,
    uses: Annotated[
        str, typer.Option(metavar="N|unlimited", help="Accounts that can be made with it")
    ] = "1",
    expires: Annotated[
        dt.timedelta | None,
        typer.Option(parser=duration, metavar="DURATION", help="No new accounts after this time"),
    ] = None,
    profile: Annotated[str | None, typer.Option(help="The only profile its accounts get")] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Names its accounts may have, '*.example.com'; '!PATTERN': may not",
        ),
    ] = None,
    trusted: Annotated[
        bool, typer.Option("--trusted", help="Its accounts prove no control over those names")
    ] = False,
    note: Annotated[str, typer.Option(help="For people: who has it")] = "",
    home: HomeOption = DEFAULT_HOME,
    as_json: JSONOption = False,
) -> None:
    """Make a key identifier and its MAC key, which is the last line."""
    count = _uses(uses)
    if trusted and not name:
        raise configuration_error("--trusted needs --name: say for which names")

    async def work(core: Core) -> NewExternalAccount:
        chosen = _directory_for_keys(core, directory)
        if profile is not None and profile not in core.services.settings.profiles:
            raise configuration_error(f"there is no profile {profile!r}")
        return await ExternalAccounts(chosen).create(
            uses=count,
            lifetime=None if expires is None else int(expires.total_seconds()),
            profile=profile,
            names=tuple(name or ()),
            trusted=trusted,
            note=note,
            actor=str(operator()),
        )

    new = with_core(home, work)
    if as_json:
        print_json({**_key(new.record), "kid": new.record.id, "hmac_key": new.mac_key})
        return
    say(f"Directory    {new.record.directory}")
    say(f"Key id       {new.record.id}")
    say("MAC key, base64url (HS256; 'eab list' does not show it again):")
    say(new.mac_key)


def list_(home: HomeOption = DEFAULT_HOME, as_json: JSONOption = False) -> None:
    """Every key identifier, without its MAC key."""

    async def work(core: Core) -> list[ExternalAccount]:
        return await core.services.database.read(account_store.external_accounts)

    rows = [_key(record) for record in with_core(home, work)]
    columns = ["id", "directory", "uses_left", "expires", "profile", "names", "trusted", "revoked"]
    _print(rows, columns, as_json)


def revoke(
    key_id: Annotated[str, typer.Argument(metavar="KID", help="As 'eab list' shows it")],
    home: HomeOption = DEFAULT_HOME,
    as_json: JSONOption = False,
) -> None:
    """End a key and freeze the accounts that were made with it."""

    async def work(core: Core) -> list[str]:
        known = await core.services.database.read(account_store.external_accounts)
        for record in known:
            if record.id == key_id and record.revoked is None:
                chosen = _directory(core, record.directory)
                frozen = await ExternalAccounts(chosen).revoke(key_id, actor=str(operator()))
                return frozen or []
        raise PKIError(ErrorCode.NOT_FOUND, f"there is no live key {key_id!r}")

    frozen = with_core(home, work)
    if as_json:
        print_json({"revoked": key_id, "accounts": frozen})
    else:
        say(f"Key {key_id} is revoked; accounts frozen: {', '.join(frozen) or 'none'}")


def _uses(text: str) -> int | None:
    if text == UNLIMITED:
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:10]) <= 1_000_000:
        raise configuration_error(f"--uses: write a number from 1 to 1000000, or {UNLIMITED}")
    return int(text)


def _configured(core: Core) -> Mapping[str, ACMESettings]:
    section = core.services.settings.section("acme")
    return {name: item for name, item in section.items() if isinstance(item, ACMESettings)}


def _directory(core: Core, name: str) -> Directory:
    configured = _configured(core)
    if name not in configured:
        there = ", ".join(configured) or "none"
        raise configuration_error(f"there is no [acme.{name}]; there are: {there}")
    return Directory(name, configured[name], core.services)


def _directory_for_keys(core: Core, name: str | None) -> Directory:
    """The named one; else the only one that requires a binding; else `default`."""
    if name is None:
        asking = [n for n, s in _configured(core).items() if s.external_account_required]
        name = asking[0] if len(asking) == 1 else "default"
    return _directory(core, name)


def _account(account: Account) -> dict[str, Any]:
    return {
        "id": account.id,
        "directory": account.directory,
        "status": account.status,
        "contact": list(account.contact),
        "external_account": account.external_account,
        "names": list(account.names),
        "thumbprint": account.thumbprint,
        "address": account.address,
        "created": _time(account.created),
    }


def _order(order: Order, now: int) -> dict[str, Any]:
    return {
        "id": order.id,
        "account": order.account,
        "status": order_status(order.status, order.expires, now),
        "identifiers": [identifier.sent for identifier in order.identifiers],
        "profile": order.profile,
        "certificate": order.certificate,
        "error": order.error,
        "created": _time(order.created),
        "expires": _time(order.expires),
    }


def _key(record: ExternalAccount) -> dict[str, Any]:
    return {
        "id": record.id,
        "directory": record.directory,
        "uses_left": UNLIMITED if record.uses_left is None else record.uses_left,
        "expires": _time(record.expires),
        "profile": record.profile,
        "names": list(record.names),
        "trusted": record.trusted,
        "note": record.note,
        "created": _time(record.created),
        "revoked": _time(record.revoked),
    }


def _time(seconds: int | None) -> str | None:
    return None if seconds is None else moment(from_epoch(seconds))


def _print(rows: list[dict[str, Any]], columns: list[str], as_json: bool) -> None:
    if as_json:
        print_json(rows)
        return
    headings = [column.upper().replace("_", " ") for column in columns]
    print_table(headings, [[_cell(row[column]) for column in columns] for row in rows])


def _cell(value: Any) -> Any:
    return (", ".join(value) or None) if isinstance(value, list) else value
