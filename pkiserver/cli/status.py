"""`crl show`, `crl refresh`, `ocsp show`: the revocation services' state."""

import datetime as dt
from typing import Annotated, Any

import typer

from pkiserver.ca.crl_service import ListStanding
from pkiserver.ca.crl_store import Published
from pkiserver.ca.model import Authority
from pkiserver.cli.context import DEFAULT_HOME, HomeOption, JSONOption, duration, with_core
from pkiserver.cli.output import moment, print_json, print_table
from pkiserver.core import Core

Which = Annotated[str | None, typer.Argument(metavar="AUTHORITY", help="Default: every one")]


def add_to(app: typer.Typer) -> None:
    crl = typer.Typer(help="Certificate revocation lists", no_args_is_help=True)
    crl.command("show")(show_crl)
    crl.command("refresh")(refresh)
    app.add_typer(crl, name="crl")
    ocsp = typer.Typer(help="OCSP responders", no_args_is_help=True)
    ocsp.command("show")(show_ocsp)
    app.add_typer(ocsp, name="ocsp")


def show_crl(
    which: Which = None, home: HomeOption = DEFAULT_HOME, as_json: JSONOption = False
) -> None:
    """The newest lists of an authority, whether newer ones are due, and what is wrong."""

    async def work(core: Core) -> list[dict[str, Any]]:
        return [row for name in _names(core, which) for row in await _lists_of(core, name)]

    _print_lists(with_core(home, work), as_json)


def refresh(
    which: Which = None,
    validity: Annotated[
        dt.timedelta | None,
        typer.Option(
            parser=duration,
            metavar="DURATION",
            help="Lists and OCSP responders that last so long: before a key goes offline",
        ),
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JSONOption = False,
) -> None:
    """Publish new lists now, whether due or not."""

    async def publish(core: Core, name: str) -> Published:
        status = core.services.status
        if validity is None:
            return await status.publish_crl(name)
        return await status.prepare_offline(name, validity)

    async def work(core: Core) -> list[dict[str, Any]]:
        names = _names(core, which)
        for name in names:
            await publish(core, name)
        return [row for name in names for row in await _lists_of(core, name)]

    _print_lists(with_core(home, work), as_json)


def show_ocsp(
    which: Which = None, home: HomeOption = DEFAULT_HOME, as_json: JSONOption = False
) -> None:
    """Until when each authority has a responder that signs answers, and what is wrong."""

    async def work(core: Core) -> list[dict[str, Any]]:
        return [await _responder_of(core, name) for name in _names(core, which)]

    rows = with_core(home, work)
    if as_json:
        print_json(rows)
    else:
        print_table(
            ["AUTHORITY", "RESPONDER UNTIL", "URL", "STATE"],
            [
                [row["authority"], row["responder_until"], row["url"], row["problem"] or "sound"]
                for row in rows
            ],
        )


def _names(core: Core, which: str | None) -> list[str]:
    authorities = core.services.authorities
    if which is not None:
        return [authorities.get(which).name]
    return [each.name for each in authorities.list() if _has_certificate(each)]


def _has_certificate(authority: Authority) -> bool:
    return authority.certificate is not None


async def _lists_of(core: Core, name: str) -> list[dict[str, Any]]:
    standing = await core.services.status.standing(name)
    return [_row(name, each) for each in standing.lists]


def _row(name: str, standing: ListStanding) -> dict[str, Any]:
    newest = standing.newest
    kind = [standing.scope] if standing.scope else []
    return {
        "authority": name,
        "list": " ".join([*kind, "delta"] if standing.delta else kind or ["complete"]),
        "number": None if newest is None else newest.number,
        "base": None if newest is None else newest.base,
        "this_update": None if newest is None else moment(newest.this_update),
        "next_update": None if newest is None else moment(newest.next_update),
        "entries": None if newest is None else newest.entries,
        "due": standing.due,
        "problem": standing.problem,
        "url": standing.url,
    }


async def _responder_of(core: Core, name: str) -> dict[str, Any]:
    standing = await core.services.status.standing(name)
    return {
        "authority": name,
        "responder_until": moment(standing.responder_until),
        "problem": standing.responder_problem,
        "url": f"{core.services.settings.server.http_base}/ocsp/{name}",
    }


def _print_lists(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(rows)
        return
    print_table(
        ["AUTHORITY", "LIST", "NUMBER", "THIS UPDATE", "NEXT UPDATE", "ENTRIES", "STATE"],
        [
            [row["authority"], row["list"], row["number"], row["this_update"], row["next_update"],
             row["entries"], row["problem"] or ("due" if row["due"] else "fresh")]
            for row in rows
        ],
    )  # fmt: skip
