"""`ca rotate`, `activate` and `retire`: from one generation of a CA's key to the next."""

import datetime as dt
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography import x509

from pkiserver.ca import closing
from pkiserver.ca.authorities import Authorities, Rotation, subject_name
from pkiserver.cli.authority_view import details, print_authority
from pkiserver.cli.context import (
    DEFAULT_HOME,
    HomeOption,
    JSONOption,
    duration,
    operator,
    require_free,
    settle_interrupted,
    with_core,
)
from pkiserver.cli.output import say
from pkiserver.config_types import KeyKind
from pkiserver.core import Core
from pkiserver.errors import ErrorCode, PKIError, configuration_error
from pkiserver.home import Home, write_public
from pkiserver.pkix.pem import pem_chain

Name = Annotated[str, typer.Argument(help="Name of the authority, any generation of it")]
_Duration = dt.timedelta | None


def rotate(
    name: Name,
    key: Annotated[
        KeyKind | None, typer.Option("--key", help="Kind of the new key; like the old one's")
    ] = None,
    validity: Annotated[
        _Duration,
        typer.Option(parser=duration, metavar="DURATION", help="Lifetime; like the old one's"),
    ] = None,
    subject: Annotated[
        str, typer.Option(help="Its name; the old one's with the number of the generation")
    ] = "",
    activate_after: Annotated[
        _Duration,
        typer.Option(
            "--activate-after", "--overlap", parser=duration, metavar="DURATION",
            help="Publish it now, have it take over so much later",
        ),
    ] = None,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Publish it now; 'ca activate' has it take over")
    ] = False,
    csr: Annotated[
        Path | None, typer.Option("--csr", help="Write a request for an outside CA to this file")
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JSONOption = False,
) -> None:  # fmt: skip
    """Make the next generation of an authority: a new key, certificate, list and responder. It
    issues from now on, unless --activate-after or --prepare; a root waits for 'ca activate' if
    --activate-after is not given. Certificates that are out stay as they are."""
    if prepare and activate_after is not None:
        raise configuration_error("say either --prepare or --activate-after")
    if csr is not None:
        require_free(csr, force=False)
    wanted_subject = subject_name(subject) if subject else None

    async def work(core: Core) -> dict[str, Any]:
        authorities = core.services.authorities
        after = activate_after or (
            None if prepare or _is_root(authorities, name) else dt.timedelta(0)
        )
        await settle_interrupted(core)
        wanted = Rotation(key, validity, wanted_subject, after)
        if csr is None:
            made = (await authorities.rotate(name, wanted, actor=str(operator()))).name
        else:
            made, pem = await authorities.rotate_outside(name, wanted, actor=str(operator()))
            write_public(csr, pem)
        await core.services.status.maintain()
        _keep_root_pem(core)
        return await details(core, authorities.get(made))

    print_authority(with_core(home, work), as_json)


def activate(name: Name, home: HomeOption = DEFAULT_HOME, as_json: JSONOption = False) -> None:
    """Have the next generation of an authority issue from now on."""

    async def work(core: Core) -> dict[str, Any]:
        made = await core.services.authorities.activate(name, actor=str(operator()))
        _keep_root_pem(core)
        return await details(core, made)

    print_authority(with_core(home, work), as_json)


def retire(
    name: Annotated[str, typer.Argument(help="Name of exactly this generation")],
    final: Annotated[
        bool, typer.Option("--final", help="Second phase: a last list, then the key is destroyed")
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Even if profiles issue from it, or with --final if certificates of it are "
            "valid: what is revoked after that is on no list",
        ),
    ] = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JSONOption = False,
) -> None:
    """Retire an authority: it issues nothing more and goes on with lists and OCSP. When its last
    certificate has expired, --final ends that too. Neither can be undone."""

    async def work(core: Core) -> dict[str, Any]:
        services, actor = core.services, str(operator())
        if final:
            made = await closing.close(
                services.authorities, services.status, services.clock, name,
                actor=actor, force=force,
            )  # fmt: skip
        else:
            if not force:
                _check_unused(core, name)
            made = await services.authorities.retire(name, actor=actor)
        _keep_root_pem(core)
        return await details(core, made)

    shown = with_core(home, work)
    print_authority(shown, as_json)
    if final and not as_json:
        say("Copies of the key in backups are yours to destroy.")


def _is_root(authorities: Authorities, name: str) -> bool:
    authority = authorities.get(name)
    return authority.parent is None and not authority.outside


def _keep_root_pem(core: Core) -> None:
    """`root.pem` of the home has every root of its line that is neither closed nor revoked, the one
    that issues first. A file that holds anything else is the operator's."""
    authorities, path = core.services.authorities, Home(core.services.settings.home).root_pem
    try:
        there = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError):
        return
    own = {each.certificate: each.name for each in authorities.list() if each.parent is None}
    if not set(there) <= own.keys():
        return
    current = authorities.current(own[there[0]])
    anchors = authorities.roots()
    line = [
        each.certificate
        for each in sorted(authorities.line(current), key=lambda each: each.name != current)
        if each.certificate in anchors
    ]
    if (
        line
        and line != there
        and set(there) <= {each.certificate for each in authorities.line(current)}
    ):
        write_public(path, pem_chain(line))


def _check_unused(core: Core, name: str) -> None:
    authorities = core.services.authorities
    using = [
        profile
        for profile, settings in core.services.settings.profiles.items()
        if _issues_from(authorities, settings.issuer, name)
    ]
    if using:
        raise PKIError(
            ErrorCode.CONFLICT,
            f"profiles issue from {name}: {', '.join(using)}; 'pkiserver ca rotate {name}' first, "
            "or --force",
        )


def _issues_from(authorities: Authorities, issuer: str, name: str) -> bool:
    try:
        return authorities.current(issuer) == name
    except PKIError:
        return False
