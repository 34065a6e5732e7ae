"""`est user add|list|key|remove`."""

import secrets
from typing import Annotated

import typer

from pkiserver.ca.audit import JSON
from pkiserver.cli.context import DEFAULT_HOME, HomeOption, JSONOption, operator, with_core
from pkiserver.cli.output import moment, print_json, print_table, say
from pkiserver.clock import epoch, from_epoch
from pkiserver.core import Core
from pkiserver.errors import ErrorCode, PKIError, configuration_error
from pkiserver.storage import IntegrityError, Transaction
from protocols.est import identity, passwords, store
from protocols.est.service import decrypt_key
from protocols.est.store import User

MAX_NAME = 100
Name = Annotated[str, typer.Argument(metavar="NAME", help="User name")]
LabelOption = Annotated[str, typer.Option("--label", help="Name in the configuration: [est.NAME]")]


def _patterns(option: str, what: str) -> typer.models.OptionInfo:
    found: typer.models.OptionInfo = typer.Option(
        option, help=f"{what} the user may ask for; more than once for several"
    )
    return found


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(help="EST operations", no_args_is_help=True)
    users = typer.Typer(help="Users with passwords", no_args_is_help=True)
    users.command("add")(add)
    users.command("list")(list_)
    users.command("key")(key)
    users.command("remove")(remove)
    group.add_typer(users, name="user")
    app.add_typer(group, name="est")


def add(
    name: Name,
    label: LabelOption = "default",
    subject: Annotated[
        list[str] | None, _patterns("--subject", "Common name (or PREFIX*, *SUFFIX)")
    ] = None,
    dns: Annotated[list[str] | None, _patterns("--dns", "DNS name or *.DOMAIN")] = None,
    ip: Annotated[list[str] | None, _patterns("--ip", "IP address or network")] = None,
    email: Annotated[list[str] | None, _patterns("--email", "E-mail address or @DOMAIN")] = None,
    uri: Annotated[list[str] | None, _patterns("--uri", "URI, or a prefix and *")] = None,
    upn: Annotated[list[str] | None, _patterns("--upn", "User principal name")] = None,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Make a user; the password is the last line and is not shown again. Without patterns the
    user may ask for any name the profile allows."""
    if not 1 <= len(name) <= MAX_NAME or ":" in name or not name.isprintable():
        raise configuration_error(f"a user name has 1 to {MAX_NAME} characters and no colon")
    given = {"cn": subject, "dns": dns, "ip": ip, "email": email, "uri": uri, "upn": upn}
    names = {kind: patterns for kind, patterns in given.items() if patterns} or None
    if names is not None:
        identity.compile_names(names)
    password = passwords.generate()
    stored = passwords.derive(password)

    async def work(core: Core) -> None:
        _require_label(core, label)
        now = epoch(core.services.clock.now())
        new = User(secrets.token_hex(16), label, name, stored, names, now)

        def insert(tx: Transaction) -> None:
            store.insert_user(tx, new)
            _note(core, tx, "add", new.label, name, {"names": names})

        try:
            await core.services.database.write(insert)
        except IntegrityError as error:
            raise PKIError(
                ErrorCode.CONFLICT, f"label {label} has a user {name!r} already; remove it first"
            ) from error

    with_core(home, work)
    say(f"User {name} of label {label}; the password:")
    say(password)


def list_(
    label: Annotated[str | None, typer.Option("--label", help="Of this label only")] = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JSONOption = False,
) -> None:
    """Users, and the names they may ask for."""

    async def work(core: Core) -> list[User]:
        return await core.services.database.read(lambda reader: store.users(reader, label))

    found = with_core(home, work)
    if as_json:
        print_json(
            [
                {
                    "name": user.name,
                    "label": user.label,
                    "names": user.names,
                    "created": moment(from_epoch(user.created)),
                }
                for user in found
            ]
        )
        return
    rows = [
        (user.name, user.label, _shown(user), moment(from_epoch(user.created))) for user in found
    ]
    print_table(["NAME", "LABEL", "NAMES", "CREATED"], rows)


def _shown(user: User) -> str:
    if user.names is None:
        return "any"
    return ", ".join(f"{kind}:{text}" for kind, texts in user.names.items() for text in texts)


def key(name: Name, label: LabelOption = "default", home: HomeOption = DEFAULT_HOME) -> None:
    """Print the AES-256 key in hexadecimal, as the last line, that keys made by the server can be
    encrypted with for this user (RFC 7030 section 4.4.1.1). Its identifier is the user's name."""

    async def work(core: Core) -> bytes:
        services = core.services
        user = await services.database.lookup(lambda reader: store.user(reader, label, name))
        if user is None:
            raise PKIError(ErrorCode.NOT_FOUND, f"label {label} has no user {name!r}")
        await services.database.write(lambda tx: _note(core, tx, "key", label, name, {}))
        return decrypt_key(services, user.id)

    secret = with_core(home, work)
    say(f"DecryptKeyIdentifier is {name!r}; the key:")
    say(secret.hex())


def remove(name: Name, label: LabelOption = "default", home: HomeOption = DEFAULT_HOME) -> None:
    """Remove a user: the password is worth nothing from now on. Certificates stay."""

    async def work(core: Core) -> None:
        def delete(tx: Transaction) -> None:
            if not store.remove_user(tx, label, name):
                raise PKIError(ErrorCode.NOT_FOUND, f"label {label} has no user {name!r}")
            _note(core, tx, "remove", label, name, {})

        await core.services.database.write(delete)

    with_core(home, work)
    say(f"User {name} of label {label} is removed.")


def _require_label(core: Core, label: str) -> None:
    labels = core.services.settings.section("est")
    if label not in labels:
        known = ", ".join(sorted(labels)) or "none"
        raise configuration_error(f"there is no [est.{label}]; there are: {known}")


def _note(
    core: Core, tx: Transaction, verb: str, label: str, name: str, detail: dict[str, JSON]
) -> None:
    core.services.audit.append(
        tx,
        actor=str(operator()),
        action=f"est.user.{verb}",
        object=f"est:{label}:{name}",
        detail=detail,
    )
