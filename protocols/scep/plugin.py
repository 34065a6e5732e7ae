"""SCEP as a plug-in: builds the sections and says what runs when."""

import asyncio
import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pkiserver.clock import epoch
from pkiserver.errors import configuration_error
from pkiserver.plugin import Job, Plugin, ProtocolApp, Services
from protocols.scep import store
from protocols.scep.challenge import Validator
from protocols.scep.challenges import Challenges
from protocols.scep.http import PREFIXES, SCEPRoute, text_form
from protocols.scep.registration import Registration, RegistrationAuthorities
from protocols.scep.service import SCEPService
from protocols.scep.settings import SCEPSettings

if TYPE_CHECKING:
    import typer


def build(
    services: Services,
    settings: Mapping[str, SCEPSettings],
    validators: Mapping[str, Validator],
) -> tuple[RegistrationAuthorities, dict[str, SCEPService]]:
    """The registration authorities and the sections by label."""
    registrations = {
        label: Registration(
            issuer=services.settings.profiles[section.profile].issuer,
            kind=section.registration_key,
            validity=section.registration_validity,
        )
        for label, section in settings.items()
    }
    authorities = RegistrationAuthorities(services, list(registrations.values()))
    return authorities, {
        label: SCEPService(
            label, section, services, authorities, registrations[label], validators[label]
        )
        for label, section in settings.items()
    }


def create(services: Services, settings: Mapping[str, SCEPSettings]) -> ProtocolApp:
    """Everything below `/scep/`, and its aliases."""
    for label, section in settings.items():
        if section.profile not in services.settings.profiles:
            raise configuration_error(f"scep.{label}: there is no profile {section.profile!r}")
    challenges = Challenges(services, settings)
    authorities, sections = build(services, settings, challenges.validators)

    async def clean() -> None:
        for label, section in settings.items():
            await delete_old(services, label, section)

    return ProtocolApp(
        routes=challenges.routes(),
        plain_routes=[SCEPRoute(sections)],
        forms=dict.fromkeys(PREFIXES, text_form),
        lenient=PREFIXES,
        jobs=[
            Job("scep-registration", dt.timedelta(minutes=1), authorities.maintain),
            Job("scep-clean", dt.timedelta(hours=1), clean),
            *challenges.jobs,
        ],
        recover=challenges.recover,
        start=challenges.start,
        stop=challenges.stop,
    )


async def delete_old(services: Services, label: str, settings: SCEPSettings) -> None:
    """Transactions that need not be repeated any more, a batch at a time."""
    before = epoch(services.clock.now() - settings.retention)
    deleted = store.BATCH
    while deleted >= store.BATCH:
        deleted = await services.database.write(lambda tx: store.delete_old(tx, label, before))
        await asyncio.sleep(0)


def remedy(action: str, detail: Mapping[str, Any]) -> str | None:
    """What to do about a refused message, where the code alone does not say."""
    if action != "scep.refuse":
        return None
    rule = "scep.failures_per_address" if "address waits" in detail else detail.get("rule")
    return _REMEDIES.get(str(rule))


_REMEDIES: Mapping[str, str] = {
    "scep.recipient": "let the client fetch the CA certificates again (GetCACert): the one it "
    "encrypts for has ended or is of another server",
    "scep.messageData": "the cause is shown here only, the device learns no more than that the "
    "message is bad: compare what the client puts into its request",
    "scep.renewal": "let the client enrol anew with a challenge; see renewal, renewal_window and "
    "renewal_grace of the section",
    "allow_legacy": "let the client use SHA-256 and AES; for a device that has neither, set "
    "legacy = true in a section of its own",
    "csr.signature-hash": "let the client sign its request with SHA-256; for a device that has "
    "none, set legacy = true in a section of its own",
    "scep.challenge.missing": "let the client send a challenge password; make one with "
    "'scep challenge'",
    "scep.challenge.unknown": "make a challenge with 'scep challenge' for this section, and let "
    "the client send it as it is",
    "scep.challenge.used": "a challenge is good for one certificate: make another one",
    "scep.challenge.expired": "make another challenge, with --expires if an hour is too short",
    "scep.challenge.subject": "make a challenge whose --subject patterns match every name the "
    "client asks for",
    "scep.failures_per_address": "this address is not listened to for a while, as its requests "
    "keep being refused; see the rows before, or raise failures_per_address of the section",
}


def _commands(app: "typer.Typer") -> None:
    # Imported when the command line is built: a server that starts has no use for it.
    from protocols.scep.cli import add_to

    add_to(app)


PLUGIN = Plugin(
    name="scep",
    settings=SCEPSettings,
    migrations=Path(__file__).with_name("migrations"),
    create=create,
    commands=_commands,
    related=store.related,
    remedy=remedy,
)
