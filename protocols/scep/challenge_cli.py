"""`scep challenge`, `scep challenges list|revoke`, `scep login add|list|remove`."""

import datetime as dt
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
from pkiserver.errors import configuration_error
from protocols.scep import challenge_store as store
from protocols.scep.challenge_settings import ChallengeSettings
from protocols.scep.challenge_store import Challenge, Login
from protocols.scep.logins import Logins
from protocols.scep.one_time import NewChallenge, OneTimeChallenges

LabelOption = Annotated[str, typer.Option("--label", help="Name in the configuration: [scep.NAME]")]


def add_to(group: typer.Typer) -> None:
    """`group` is `scep`."""
    group.command("challenge")(challenge)
    challenges = typer.Typer(help="One-time challenges", no_args_is_help=True)
    challenges.command("list")(list_challenges)
    challenges.command("revoke")(revoke)
    group.add_typer(challenges, name="challenges")
    login = typer.Typer(help="Logins that fetch challenges over HTTPS", no_args_is_help=True)
    login.command("add")(add_login)
    login.command("list")(list_logins)
    login.command("remove")(remove_login)
    group.add_typer(login, name="login")


def challenge(
    label: LabelOption = "default",
    profile: Annotated[
        str | None, typer.Option(help="Profile of the certificate; default: the section's")
    ] = None,
    subject: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Every name in the request has to match one of these; '*': any characters",
        ),
    ] = None,
    expires: Annotated[
        dt.timedelta | None,
        typer.Option(parser=duration, metavar="DURATION", help="Default: the section's"),
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JSONOption = False,
) -> None:
    """Make a one-time challenge password, which is the last line."""

    async def work(core: Core) -> NewChallenge:
        return await _one_time(core, label).create(
            actor=str(operator()),
            profile=profile,
            subjects=tuple(subject or ()),
            lifetime=expires,
        )

    new = with_core(home, work)
    if as_json:
        print_json({**_challenge(new.record), "challenge": new.secret})
        return
    say(f"Section   {new.record.label}")
    say(f"Expires   {moment(from_epoch(new.record.expires))}")
    say("Challenge password, for one enrolment ('challenges list' does not show it again):")
    say(new.secret)


def list_challenges(
    label: Annotated[str | None, typer.Option("--label", help="Of this section only")] = None,
    limit: LimitOption = 100,
    home: HomeOption = DEFAULT_HOME,
    as_json: JSONOption = False,
) -> None:
    """One-time challenges, the newest first, without the passwords."""

    async def work(core: Core) -> list[dict[str, Any]]:
        found = await core.services.database.read(lambda reader: store.newest(reader, label, limit))
        now = epoch(core.services.clock.now())
        return [{**_challenge(each), "status": _status(each, now)} for each in found]

    rows = with_core(home, work)
    if as_json:
        print_json(rows)
        return
    columns = ["id", "label", "status", "profile", "subjects", "expires", "created_by"]
    print_table(
        [name.upper().replace("_", " ") for name in columns],
        [[_cell(row[name]) for name in columns] for row in rows],
    )


def revoke(
    challenge_id: Annotated[str, typer.Argument(metavar="ID", help="As 'challenges list' shows")],
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """End a challenge that was not used yet."""

    async def work(core: Core) -> None:
        one_time = OneTimeChallenges(core.services, "", dt.timedelta(0))
        await one_time.revoke(challenge_id, actor=str(operator()))

    with_core(home, work)
    say(f"Challenge {challenge_id} is revoked")


def add_login(
    name: Annotated[str, typer.Argument(help="Name the management system logs in with")],
    label: LabelOption = "default",
    home: HomeOption = DEFAULT_HOME,
    as_json: JSONOption = False,
) -> None:
    """Make a login for the password page and Jamf's webhook; its password is the last line."""

    async def work(core: Core) -> str:
        _one_time(core, label)
        return await Logins(core.services).add(name, label, actor=str(operator()))

    password = with_core(home, work)
    if as_json:
        print_json({"name": name, "label": label, "password": password})
        return
    say(f"Login     {name}, for challenges of [scep.{label}]")
    say("Password, which is not shown again:")
    say(password)


def list_logins(home: HomeOption = DEFAULT_HOME, as_json: JSONOption = False) -> None:
    """Who may fetch challenges over HTTPS."""

    async def work(core: Core) -> list[Login]:
        return await Logins(core.services).list()

    rows = [
        {"name": each.name, "label": each.label, "created": moment(from_epoch(each.created))}
        for each in with_core(home, work)
    ]
    if as_json:
        print_json(rows)
    else:
        print_table(["NAME", "LABEL", "CREATED"], [list(row.values()) for row in rows])


def remove_login(
    name: Annotated[str, typer.Argument(help="As 'login list' shows it")],
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """End a login; challenges it fetched stay usable."""

    async def work(core: Core) -> None:
        await Logins(core.services).remove(name, actor=str(operator()))

    with_core(home, work)
    say(f"Login {name} is removed")


def _one_time(core: Core, label: str) -> OneTimeChallenges:
    """The challenges of a section that uses them."""
    sections = core.services.settings.section("scep")
    settings = sections.get(label)
    if not isinstance(settings, ChallengeSettings):
        there = ", ".join(sections) or "none"
        raise configuration_error(f"there is no [scep.{label}]; there are: {there}")
    if settings.challenge != "one-time":
        raise configuration_error(
            f'[scep.{label}] has challenge = "{settings.challenge}", not "one-time"'
        )
    return OneTimeChallenges(core.services, label, settings.challenge_lifetime)


def _challenge(record: Challenge) -> dict[str, Any]:
    return {
        "id": record.id,
        "label": record.label,
        "profile": record.profile,
        "subjects": list(record.subjects),
        "created": moment(from_epoch(record.created)),
        "created_by": record.created_by,
        "expires": moment(from_epoch(record.expires)),
        "used": None if record.used is None else moment(from_epoch(record.used)),
        "certificate": record.certificate,
    }


def _status(record: Challenge, now: int) -> str:
    if record.revoked is not None:
        return "revoked"
    if record.used is not None:
        return "used"
    return "expired" if record.expires <= now else "unused"


def _cell(value: Any) -> Any:
    return (", ".join(value) or None) if isinstance(value, list) else value
