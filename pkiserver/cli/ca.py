"""`ca list`, `show`, `create`, `csr`, `install`, `import`, `export`: the authority tree. Rolling
over is in `rollover.py`."""

import datetime as dt
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.ca import authority_files
from pkiserver.ca.authority_files import KeyAndCertificates
from pkiserver.ca.ca_certificate import Wish
from pkiserver.ca.subtrees import name_constraints, subject_name
from pkiserver.cli import rollover
from pkiserver.cli.authority_view import details, print_authority, standing, summary
from pkiserver.cli.context import (
    DEFAULT_HOME,
    HomeOption,
    JSONOption,
    duration,
    naming,
    operator,
    read_input,
    read_password,
    require_free,
    settle_interrupted,
    with_core,
)
from pkiserver.cli.output import print_json, print_table, say
from pkiserver.config_types import KeyKind
from pkiserver.core import Core
from pkiserver.errors import configuration_error
from pkiserver.home import write_public
from pkiserver.keys import PrivateKey
from pkiserver.pkix.pem import pem_chain

Name = Annotated[str, typer.Argument(help="Name of the authority, as in URLs")]
Subject = Annotated[str, typer.Option(help="Such as 'CN=Example Issuing CA,O=Example'")]
Key = Annotated[KeyKind, typer.Option("--key", help="Kind of its key")]
Out = Annotated[Path | None, typer.Option(help="File; standard output if not given")]
Force = Annotated[bool, typer.Option("--force", help="Replace the file")]
PasswordFile = Annotated[
    Path | None,
    typer.Option("--password-file", help="File with the password; asked for if not given"),
]


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(help="The authority tree", no_args_is_help=True)
    for name, command in (
        ("list", list_), ("show", show), ("create", create), ("csr", csr),
        ("install", install), ("import", import_), ("export", export),
        ("rotate", rollover.rotate), ("activate", rollover.activate), ("retire", rollover.retire),
    ):  # fmt: skip
        group.command(name)(command)
    app.add_typer(group, name="ca")


def list_(home: HomeOption = DEFAULT_HOME, as_json: JSONOption = False) -> None:
    """Every authority, parents before children."""

    async def work(core: Core) -> list[dict[str, Any]]:
        return [summary(core, each) for each in core.services.authorities.list()]

    rows = with_core(home, work)
    if as_json:
        print_json(rows)
        return
    columns = ["name", "parent", "status", "turn", "key", "signing_key", "not_after", "subject"]
    print_table(
        [column.upper().replace("_", " ") for column in columns],
        [[(row | {"status": standing(row)})[column] for column in columns] for row in rows],
    )


def show(name: Name, home: HomeOption = DEFAULT_HOME, as_json: JSONOption = False) -> None:
    """One authority, with its certificate's contents and URLs."""

    async def work(core: Core) -> dict[str, Any]:
        return await details(core, core.services.authorities.get(name))

    print_authority(with_core(home, work), as_json)


def create(
    name: Name,
    subject: Subject,
    parent: Annotated[str, typer.Option(help="Authority above it")] = "",
    root: Annotated[bool, typer.Option("--root", help="Make it a root, above all others")] = False,
    key: Key = "p256",
    validity: Annotated[
        dt.timedelta, typer.Option(parser=duration, metavar="DURATION", help="Lifetime")
    ] = "5y",  # type: ignore[assignment]  # parsed like what a user writes
    path_length_: Annotated[
        int | None, typer.Option("--path-length", min=0, max=8, help="CAs allowed below it")
    ] = None,
    permit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TYPE:VALUE", help="Name constraint: dns:, ip:, email:, uri:, dirname:"
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="TYPE:VALUE", help="Name constraint, excluding")
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JSONOption = False,
) -> None:
    """Make an authority: below --parent, or a new --root. Its list and OCSP responder are made at
    once."""
    if bool(parent) == root:
        raise configuration_error("say either --parent NAME or --root")
    wish = Wish(
        subject_name(subject), validity, path_length_,
        name_constraints(permit or [], exclude or []),
    )  # fmt: skip
    actor = str(operator())

    async def work(core: Core) -> dict[str, Any]:
        authorities = core.services.authorities
        await settle_interrupted(core)
        if root:
            made = await authorities.create_root(name, wish, key, actor=actor)
        else:
            made = await authorities.create(name, parent, wish, key, actor=actor)
        await core.services.status.maintain()
        return await details(core, made)

    print_authority(with_core(home, work), as_json)


def csr(
    name: Name,
    subject: Subject = "",
    key: Key = "p256",
    renew: Annotated[
        bool,
        typer.Option("--renew", help="For the name and key it has; answer to 'install --renew'"),
    ] = False,
    out: Out = None,
    force: Force = False,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Make a key and a request for a CA outside. 'ca install' takes its answer."""
    if bool(subject) == renew:
        raise configuration_error("say either --subject or --renew")
    if out is not None:
        require_free(out, force=force)
    wanted = subject_name(subject) if subject else None

    async def work(core: Core) -> bytes:
        authorities = core.services.authorities
        if wanted is None:
            return await authorities.renewal_request(name)
        return await authorities.request(name, wanted, key, actor=str(operator()))

    _write_or_print(with_core(home, work), out)


def install(
    name: Name,
    files: Annotated[
        list[Path], typer.Argument(help="The certificate and those above it up to the root")
    ],
    alternate: Annotated[
        bool,
        typer.Option("--alternate", help="A cross certificate: one more chain for clients"),
    ] = False,
    renew: Annotated[
        bool, typer.Option("--renew", help="Another certificate for the name and key it has")
    ] = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JSONOption = False,
) -> None:
    """Take the outside CA's answer to 'ca csr'. PEM, DER or PKCS #7, in any order."""
    if alternate and renew:
        raise configuration_error("say either --alternate or --renew")
    certificates = _read_certificates(files)

    async def work(core: Core) -> dict[str, Any]:
        authorities = core.services.authorities
        if renew:
            await authorities.renew(name, certificates, actor=str(operator()))
        elif alternate:
            await authorities.add_chain(name, certificates, actor=str(operator()))
        else:
            await authorities.install(name, certificates, actor=str(operator()))
            await core.services.status.maintain()
        return await details(core, authorities.get(name))

    print_authority(with_core(home, work), as_json)


def import_(
    name: Name,
    certificates: Annotated[
        list[Path] | None,
        typer.Option("--cert", help="Certificate and those above it up to the root"),
    ] = None,
    key: Annotated[Path | None, typer.Option("--key", help="Private key, PEM")] = None,
    p12: Annotated[Path | None, typer.Option("--p12", help="Key and certificates in one")] = None,
    password_file: PasswordFile = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JSONOption = False,
) -> None:
    """Take over an existing CA: --cert and --key, or --p12. The key is encrypted anew."""
    if (key is None) == (p12 is None) or (key is not None and not certificates):
        raise configuration_error("say either --key with --cert, or --p12")
    found = _read_certificates(certificates or [])
    if p12 is not None:
        bag = _read_p12(p12, password_file)
        private = bag.key
        found += bag.certificates
    elif key is not None:
        private = _read_key(key, password_file)

    async def work(core: Core) -> dict[str, Any]:
        authorities = core.services.authorities
        made = await authorities.import_(name, found, private, actor=str(operator()))
        await core.services.status.maintain()
        return await details(core, made)

    print_authority(with_core(home, work), as_json)


def export(
    name: Name,
    chain: Annotated[
        bool, typer.Option("--chain", help="With those above it, the root included")
    ] = False,
    der: Annotated[bool, typer.Option("--der", help="DER instead of PEM, into --out")] = False,
    out: Out = None,
    force: Force = False,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Its certificate; never its key."""
    if der and (chain or out is None):
        raise configuration_error("--der needs --out and is for one certificate, without --chain")
    if out is not None:
        require_free(out, force=force)

    async def work(core: Core) -> bytes:
        path = core.services.authorities.path(name)
        return path[0].public_bytes(Encoding.DER) if der else pem_chain(path if chain else path[:1])

    _write_or_print(with_core(home, work), out)


def _write_or_print(data: bytes, out: Path | None) -> None:
    if out is None:
        typer.echo(data, nl=False)
    else:
        write_public(out, data)
        say(f"Wrote {out}.")


def _read_certificates(files: list[Path]) -> list[x509.Certificate]:
    found: list[x509.Certificate] = []
    for file in files:
        with naming(file):
            found += authority_files.read_certificates(read_input(file, what="certificates"))
    return found


def _read_key(file: Path, password_file: Path | None) -> PrivateKey:
    data = read_input(file, what="--key")
    password = None
    if b"ENCRYPTED" in data or password_file is not None:
        password = read_password(password_file, what=f"Password of {file}", confirm=False)
    with naming(file):
        return authority_files.read_private_key(data, password)


def _read_p12(file: Path, password_file: Path | None) -> KeyAndCertificates:
    data = read_input(file, what="--p12")
    password = read_password(password_file, what=f"Password of {file}", confirm=False)
    with naming(file):
        return authority_files.read_pkcs12(data, password)
