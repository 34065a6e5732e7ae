"""Builds the sections and says what runs when."""

import asyncio
import datetime as dt
from collections.abc import Callable, Mapping

from pkiserver.clock import epoch
from pkiserver.errors import configuration_error
from pkiserver.plugin import Job, ProtocolApp, Services
from pkiserver.storage import Transaction
from protocols.scep import store
from protocols.scep.challenge import Validator
from protocols.scep.challenges import Challenges
from protocols.scep.http import PREFIXES, SCEPRoute, text_form
from protocols.scep.registration import Registration, RegistrationAuthorities
from protocols.scep.service import SCEPService
from protocols.scep.settings import SCEPSettings


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
        await delete_issued(services)

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
    """Transactions that need not be repeated any more."""
    before = epoch(services.clock.now() - settings.retention)
    await _in_batches(services, lambda tx: store.delete_old(tx, label, before))


async def delete_issued(services: Services) -> None:
    """What does not count against a device any more."""
    now = epoch(services.clock.now())
    await _in_batches(services, lambda tx: store.delete_issued(tx, now))


async def _in_batches(services: Services, delete: Callable[[Transaction], int]) -> None:
    while await services.database.write(delete) >= store.BATCH:
        await asyncio.sleep(0)
