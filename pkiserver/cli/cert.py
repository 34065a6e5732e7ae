"""`cert list`, `show`, `expiring`, `issue`, `renew`, `revoke`, `release`, `export`."""

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.ca import history, inventory
from pkiserver.ca.approvals import Approval, ApprovalStatus
from pkiserver.ca.inventory import Filter
from pkiserver.ca.model import CertificateRecord, CertificateStatus, Reason
from pkiserver.cli import files, issuing
from pkiserver.cli.approved import WAITS, Draft, obtain, report_waiting
from pkiserver.cli.context import (
    DEFAULT_HOME,
    HomeOption,
    JSONOption,
    LimitOption,
    duration,
    operator,
    read_input,
    read_password,
    require_free,
    with_core,
)
from pkiserver.cli.output import moment, print_json, print_members, print_table, say
from pkiserver.config_types import KeyKind
from pkiserver.core import Core
from pkiserver.errors import ErrorCode, PKIError, configuration_error
from pkiserver.home import write_private, write_public
from pkiserver.keys import PrivateKey
from pkiserver.keys.generate import generate_key
from pkiserver.pkix import cert, names
from pkiserver.pkix.names import AltName
from pkiserver.pkix.pem import csr_der, pem_chain
from pkiserver.storage import Reader

Which = Annotated[
    str, typer.Argument(metavar="SERIAL", help="Serial number in hexadecimal, or the id")
]
Issuer = Annotated[str | None, typer.Option(help="Authority that signed it")]
Force = Annotated[bool, typer.Option("--force", help="Replace files that are there")]
Names = list[str] | None
_NOT_MADE_HERE = frozenset({"ca", "ocsp-responder"})


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(help="Certificates", no_args_is_help=True)
    for name, command in (
        ("list", list_), ("show", show), ("expiring", expiring), ("issue", issue),
        ("renew", renew), ("revoke", revoke), ("release", release), ("export", export),
    ):  # fmt: skip
        group.command(name)(command)
    app.add_typer(group, name="cert")


def list_(
    issuer: Issuer = None,
    profile: Annotated[str | None, typer.Option(help="Profile it was issued under")] = None,
    requester: Annotated[str | None, typer.Option(help="Such as cli:root or acme:ID")] = None,
    name: Annotated[str | None, typer.Option(help="A name in it, whole")] = None,
    below: Annotated[str | None, typer.Option(help="A DNS domain: it and all below")] = None,
    revoked: Annotated[
        bool | None, typer.Option("--revoked/--not-revoked", help="Only these")
    ] = None,
    before: Annotated[str | None, typer.Option(help="The id a page ended with")] = None,
    limit: LimitOption = 100,
    home: HomeOption = DEFAULT_HOME,
    as_json: JSONOption = False,
) -> None:
    """Issued certificates, the newest first."""
    domain = None if below is None else names.dns_name(below).value
    what = Filter(
        issuer=issuer, profile=profile, requester=requester, name=name, below=domain,
        revoked=revoked,
    )  # fmt: skip

    def read(reader: Reader) -> list[CertificateRecord]:
        return inventory.newest(reader, what, before=before, limit=limit)

    async def work(core: Core) -> list[dict[str, Any]]:
        return await _listed(core, await core.services.database.read(read))

    _print_list(with_core(home, work), as_json)


def expiring(
    within: Annotated[
        dt.timedelta, typer.Option(parser=duration, metavar="DURATION", help="From now on")
    ] = "30d",  # type: ignore[assignment]  # parsed like what a user writes
    limit: LimitOption = 100,
    home: HomeOption = DEFAULT_HOME,
    as_json: JSONOption = False,
) -> None:
    """Certificates near their end, the first to expire first; not the revoked ones."""

    async def work(core: Core) -> list[dict[str, Any]]:
        now = core.services.clock.now()
        found = await core.services.database.read(
            lambda reader: inventory.expiring(reader, now, within, limit=limit)
        )
        return await _listed(core, found)

    _print_list(with_core(home, work), as_json)


def show(
    which: Which, issuer: Issuer = None, home: HomeOption = DEFAULT_HOME,
    as_json: JSONOption = False,
) -> None:  # fmt: skip
    """One certificate."""

    async def work(core: Core) -> dict[str, Any]:
        record = await _find(core, which, issuer)
        return {**(await _listed(core, [record]))[0], **_fingerprints(record)}

    details = with_core(home, work)
    if as_json:
        print_json(details)
    else:
        print_members(details)


def issue(
    out: Annotated[Path, typer.Option(metavar="BASE", help="Makes BASE.key and BASE.crt")],
    profile: Annotated[str, typer.Option(help="Profile to issue under")] = "tls-server",
    dns: Annotated[Names, typer.Option(metavar="NAME", help="DNS name")] = None,
    ip: Annotated[Names, typer.Option(metavar="ADDRESS", help="IP address")] = None,
    email: Annotated[Names, typer.Option(metavar="ADDRESS", help="E-mail address")] = None,
    uri: Annotated[Names, typer.Option(metavar="URI", help="URI")] = None,
    upn: Annotated[Names, typer.Option(metavar="NAME", help="User principal name")] = None,
    cn: Annotated[str | None, typer.Option(help="Common name, where the profile has one")] = None,
    csr: Annotated[
        Path | None, typer.Option(help="Certify this request's key; no BASE.key is made")
    ] = None,
    key: Annotated[KeyKind, typer.Option(help="Kind of the new key")] = "p256",
    validity: Annotated[
        dt.timedelta | None,
        typer.Option(parser=duration, metavar="DURATION", help="Shorter than the profile's"),
    ] = None,
    force: Force = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JSONOption = False,
) -> None:
    """Issue a certificate: BASE.key (for the owner alone) and BASE.crt (leaf first, chain after).
    With --csr and no names, those of the request. Where the profile needs approval, exit status 3
    says that the request waits: the same command again, once it is approved, writes the files."""
    asked = issuing.alt_names(dns=dns, ip=ip, email=email, uri=uri, upn=upn)
    request = None if csr is None else csr_der(read_input(csr, what="--csr"))
    order = issuing.Order(profile, asked, cn, request, validity)
    targets = files.Targets(out, with_key=request is None)
    require_free(*targets.paths, force=force)
    _issue(home, order, targets, None if request is not None else generate_key(key), as_json)


def renew(
    which: Which,
    out: Annotated[
        Path, typer.Option(metavar="BASE", help="Replaces BASE.key and BASE.crt if they are there")
    ],
    key: Annotated[
        KeyKind | None, typer.Option(help="Kind of the new key; default: as it was")
    ] = None,
    issuer: Issuer = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JSONOption = False,
) -> None:
    """Issue again what a certificate says, for a new key. The old one stays as it is."""
    targets = files.Targets(out, with_key=True)
    require_free(*targets.paths, force=True)

    async def look(core: Core) -> tuple[CertificateRecord, tuple[AltName, ...]]:
        record = await _find(core, which, issuer)
        known = await core.services.database.read(
            lambda reader: inventory.names_of(reader, record.id)
        )
        return record, known

    record, known = with_core(home, look)
    order, kind = _again(record, known)
    _issue(home, order, targets, generate_key(key or kind), as_json)


def revoke(
    which: Which,
    reason: Annotated[Reason, typer.Option(help="Why (RFC 5280 section 5.3.1)")],
    invalid_since: Annotated[
        dt.datetime | None,
        typer.Option(
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ"],
            help="When the key was lost, if known (UTC)",
        ),
    ] = None,
    issuer: Issuer = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JSONOption = False,
) -> None:
    """Revoke a certificate for good; with the reason certificateHold until 'cert release'."""
    since = None if invalid_since is None else invalid_since.replace(tzinfo=dt.UTC)

    async def work(core: Core) -> dict[str, Any]:
        record = await _find(core, which, issuer)
        changed = await core.services.revocation.revoke(
            record.issuer, record.serial, reason, actor=operator(), invalidity_date=since
        )
        return (await _listed(core, [changed]))[0]

    _print_changed(with_core(home, work), as_json)


def release(
    which: Which, issuer: Issuer = None, home: HomeOption = DEFAULT_HOME,
    as_json: JSONOption = False,
) -> None:  # fmt: skip
    """End a hold: the certificate is good again."""

    async def work(core: Core) -> dict[str, Any]:
        record = await _find(core, which, issuer)
        changed = await core.services.revocation.release(
            record.issuer, record.serial, actor=operator()
        )
        return (await _listed(core, [changed]))[0]

    _print_changed(with_core(home, work), as_json)


def export(
    which: Which,
    der: Annotated[bool, typer.Option("--der", help="The certificate alone, as DER")] = False,
    p12: Annotated[
        bool, typer.Option("--p12", help="Certificate, chain and --key as PKCS #12")
    ] = False,
    key: Annotated[Path | None, typer.Option(help="Its private key, PEM, for --p12")] = None,
    password_file: Annotated[
        Path | None,
        typer.Option(help="File with the PKCS #12 password; asked for if not given"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File; standard output if not given")] = None,
    issuer: Issuer = None,
    force: Force = False,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """The certificate and its chain: PEM, or as the options say."""
    if der and p12:
        raise configuration_error("say either --der or --p12")
    if (der or p12) and out is None:
        raise configuration_error("--der and --p12 are not text: give --out FILE")
    if (key is not None) != p12:
        raise configuration_error("--p12 and --key belong together")
    if out is not None:
        require_free(out, force=force)

    async def work(core: Core) -> tuple[CertificateRecord, Sequence[x509.Certificate]]:
        record = await _find(core, which, issuer)
        return record, core.services.authorities.chain(record.issuer)

    record, chain = with_core(home, work)
    leaf = _certificate(record)
    if p12 and key is not None and out is not None:
        private = files.read_key(key, leaf)
        password = read_password(password_file, what=f"Password for {out}", confirm=True)
        write_private(out, files.pkcs12_of(private, leaf, chain, password))
    elif der and out is not None:
        write_public(out, leaf.public_bytes(Encoding.DER))
    elif out is not None:
        write_public(out, pem_chain([leaf, *chain]))
    else:
        typer.echo(pem_chain([leaf, *chain]), nl=False)
        return
    say(f"Wrote {out}.")


def _issue(
    home: Path, order: issuing.Order, targets: files.Targets, key: PrivateKey | None,
    as_json: bool,
) -> None:  # fmt: skip
    """The key is on the disk before there is a certificate for it, and gone if there is none; what
    waits for approval is kept aside."""

    async def work(core: Core) -> dict[str, Any] | Approval:
        services = core.services
        profiles = services.issuance.profiles
        if order.profile not in profiles:
            known = ", ".join(sorted(profiles))
            raise configuration_error(f"there is no profile {order.profile!r}; there are: {known}")
        draft = Draft.of(targets, profiles.get(order.profile))
        used, kept = draft.key_and_csr(key)
        now = services.clock.now()
        request = issuing.certificate_request(order, used, operator(), now, kept=kept)
        approval = await draft.approval(services, request, used)
        if approval is not None and approval.status is ApprovalStatus.PENDING:
            return approval
        with targets.key_written(used):
            record = await obtain(services, request, approval)
            chain = services.authorities.chain(record.issuer)
            write_public(targets.certificate, pem_chain([_certificate(record), *chain]))
        draft.forget()
        return (await _listed(core, [record]))[0]

    row = with_core(home, work)
    if isinstance(row, Approval):
        report_waiting(row, as_json)
        raise typer.Exit(WAITS)
    paths = [str(path) for path in targets.paths]
    if as_json:
        print_json({**row, "files": paths})
    else:
        say(f"Issued {row['serial']}, valid until {row['not_after']}: {', '.join(paths)}")


def _again(record: CertificateRecord, known: tuple[AltName, ...]) -> tuple[issuing.Order, KeyKind]:
    if record.profile in _NOT_MADE_HERE:
        raise configuration_error(
            f"it was issued under {record.profile!r}: the server renews responders, 'ca create' "
            "makes authorities"
        )
    if record.revoked_at is not None:
        raise configuration_error("it is revoked; use 'cert issue' if the names are to go on")
    leaf = _certificate(record)
    return issuing.Order(record.profile, known, issuing.common_name(leaf), None, None), (
        issuing.kind_of(leaf)
    )


async def _find(core: Core, which: str, issuer: str | None) -> CertificateRecord:
    """By id, or by serial number in hexadecimal. Raises `PKIError` NOT_FOUND, also where a serial
    number alone says too little."""
    named = await core.services.database.read(
        lambda reader: history.certificates_named(reader, which)
    )
    records = [each for each in named if issuer in (None, each.issuer)]
    if len(records) > 1:
        issuers = ", ".join(each.issuer for each in records)
        raise configuration_error(f"{which} was used by several; say --issuer: {issuers}")
    if not records:
        raise PKIError(
            ErrorCode.NOT_FOUND, f"there is no certificate with the serial number or id {which!r}"
        )
    return records[0]


async def _listed(core: Core, records: Sequence[CertificateRecord]) -> list[dict[str, Any]]:
    now = core.services.clock.now()
    known = await core.services.database.read(
        lambda reader: [inventory.names_of(reader, record.id) for record in records]
    )
    return [_row(record, each, now) for record, each in zip(records, known, strict=True)]


def _row(record: CertificateRecord, known: Sequence[AltName], now: dt.datetime) -> dict[str, Any]:
    return {
        "id": record.id,
        "serial": cert.serial_hex(record.serial),
        "issuer": record.issuer,
        "profile": record.profile,
        "state": state(record, now),
        "subject": record.subject,
        "names": [str(name) for name in known],
        "requester": record.requester,
        "not_before": moment(record.not_before),
        "not_after": moment(record.not_after),
        "revoked_at": moment(record.revoked_at),
        "reason": record.reason,
    }


def state(record: CertificateRecord, now: dt.datetime) -> str:
    """In one word. Revoked comes before expired."""
    if record.status is not CertificateStatus.ISSUED:
        return record.status
    if record.reason is Reason.CERTIFICATE_HOLD:
        return "on hold"
    if record.revoked_at is not None:
        return "revoked"
    return "expired" if record.not_after < now else "valid"


def _fingerprints(record: CertificateRecord) -> dict[str, str]:
    if record.der is None:
        return {}
    leaf = _certificate(record)
    return {
        "key": issuing.kind_of(leaf),
        "key_sha256": record.spki_sha256.hex(),
        "sha256": leaf.fingerprint(hashes.SHA256()).hex(),
    }


def _certificate(record: CertificateRecord) -> x509.Certificate:
    if record.der is None:
        raise PKIError(ErrorCode.NOT_FOUND, "that certificate was never finished")
    return cert.parse_certificate(record.der)


def _print_list(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(rows)
        return
    print_table(
        ["SERIAL", "STATE", "UNTIL", "PROFILE", "NAMES OR SUBJECT"],
        [
            [r["serial"], r["state"], r["not_after"], r["profile"],
             ", ".join(r["names"]) or r["subject"]]
            for r in rows
        ],
    )  # fmt: skip


def _print_changed(row: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(row)
    else:
        say(f"{row['serial']} of {row['issuer']}: {row['state']}")
