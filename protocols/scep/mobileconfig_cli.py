"""`scep mobileconfig`: an enrolment profile for Apple devices."""

import re
from pathlib import Path
from typing import Annotated

import typer

from pkiserver.cli.context import DEFAULT_HOME, HomeOption, operator, require_free, with_core
from pkiserver.cli.output import say
from pkiserver.core import Core
from pkiserver.errors import configuration_error
from pkiserver.home import write_private
from protocols.scep.mobileconfig import Enrolment, build
from protocols.scep.one_time import OneTimeChallenges
from protocols.scep.settings import SCEPSettings


def add_to(group: typer.Typer) -> None:
    """`group` is `scep`."""
    group.command("mobileconfig")(mobileconfig)


def mobileconfig(
    name: Annotated[str, typer.Option("--name", help="Common name of the certificate")],
    out: Annotated[Path, typer.Option("--out", help="File to write, NAME.mobileconfig")],
    label: Annotated[str, typer.Option(help="Name in the configuration: [scep.NAME]")] = "default",
    dns: Annotated[list[str] | None, typer.Option(help="DNS name in the certificate")] = None,
    organization: Annotated[str, typer.Option(help="Who the profile is from")] = "",
    identifier: Annotated[
        str | None, typer.Option(help="Of the profile; default: made of host, section and name")
    ] = None,
    key_size: Annotated[int, typer.Option(min=2048, max=4096, help="Bits of the RSA key")] = 2048,
    challenge: Annotated[
        bool, typer.Option(help="Put a new one-time challenge in, bound to the names")
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace the file")] = False,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Write an Apple configuration profile that enrols one device. With a challenge in it, the
    file is a secret until it is used."""
    require_free(out, force=force)
    names = tuple(dns or ())

    async def work(core: Core) -> bytes:
        settings = _section(core, label)
        secret = None
        if challenge:
            secret = await _challenge(core, label, settings, (name, *names))
        services = core.services
        issuer = services.authorities.current(services.settings.profiles[settings.profile].issuer)
        path = services.authorities.path(issuer)
        enrolment = Enrolment(
            # The messages are encrypted and signed, the CA is pinned; and the device does not
            # trust our HTTPS certificate before it has this profile.
            url=f"{services.settings.server.http_base}/scep/{label}",
            organization=organization,
            common_name=name,
            dns=names,
            challenge=secret,
            key_size=key_size,
            ca=path[0],
            roots=path[-1:],
        )
        host = ".".join(reversed(services.settings.server.hostname.split(".")))
        readable = re.sub(r"[^A-Za-z0-9.-]+", "-", name)
        return build(enrolment, identifier or f"{host}.scep.{label}.{readable}")

    write_private(out, with_core(home, work))
    say(f"Written: {out}")


def _section(core: Core, label: str) -> SCEPSettings:
    found = core.services.settings.section("scep").get(label)
    if not isinstance(found, SCEPSettings):
        raise configuration_error(f"there is no section [scep.{label}]")
    return found


async def _challenge(core: Core, label: str, settings: SCEPSettings, names: tuple[str, ...]) -> str:
    if settings.challenge != "one-time":
        raise configuration_error(
            f"[scep.{label}] has no one-time challenges; use --no-challenge and let your "
            "management system put one in"
        )
    challenges = OneTimeChallenges(core.services, label, settings.challenge_lifetime)
    new = await challenges.create(actor=str(operator()), subjects=names)
    return new.secret
