"""The CA core of a home, without protocols: what the command line works on, and what `app` builds a
server on."""

import tomllib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pkiserver import logs, registry
from pkiserver.ca.approvals import Approvals
from pkiserver.ca.audit import Audit
from pkiserver.ca.authorities import Authorities
from pkiserver.ca.issuance import Issuance
from pkiserver.ca.revocation import Revocation
from pkiserver.ca.status import StatusService
from pkiserver.clock import Clock, SystemClock
from pkiserver.config import CoreSettings, build, load
from pkiserver.home import Home
from pkiserver.keys import KeyProvider, file_provider
from pkiserver.plugin import Services
from pkiserver.storage import Database, migrate, open_database


def load_settings(home: Path) -> CoreSettings:
    """The settings of a home, with every plug-in's sections. Raises `PKIError` CONFIGURATION."""
    return load(home, registry.sections(registry.available()))


def parse_settings(home: Path, text: str) -> CoreSettings:
    """What `load_settings` would say if `text` were the home's configuration."""
    return build(home, tomllib.loads(text), registry.sections(registry.available()))


@dataclass(frozen=True)
class Core:
    """An open CA core."""

    services: Services
    keys: KeyProvider


@asynccontextmanager
async def open_core(
    settings: CoreSettings,
    *,
    clock: Clock | None = None,
    listeners: Sequence[tuple[str, int]] = (),
    development: bool = False,
) -> AsyncIterator[Core]:
    """Open the home's database, migrate it and load the authorities. Raises `PKIError`."""
    logs.configure_if_nobody_did()
    plugins = registry.enabled(registry.available(), settings)
    database = open_database(settings.storage.url, settings.home)
    try:
        await migrate(database, registry.migrations(plugins))
        yield await _core(settings, database, clock or SystemClock(), listeners, development)
    finally:
        await database.close()


async def _core(
    settings: CoreSettings,
    database: Database,
    clock: Clock,
    listeners: Sequence[tuple[str, int]],
    development: bool,
) -> Core:
    keys = file_provider(settings)
    audit = Audit(clock)
    authorities = Authorities(database, clock, keys, audit, settings)
    await authorities.load()
    status = StatusService(database, clock, authorities, keys, audit, settings)
    revocation = Revocation(database, clock, authorities, audit)
    revocation.on_change(status.schedule)
    state = Home(settings.home).state
    state.mkdir(mode=0o700, exist_ok=True)
    issuance = Issuance(database, clock, authorities, audit, settings)
    services = Services(
        settings=settings,
        database=database,
        clock=clock,
        audit=audit,
        authorities=authorities,
        issuance=issuance,
        approvals=Approvals(database, clock, audit, issuance, settings.approvals),
        revocation=revocation,
        status=status,
        keys=keys,
        derive_secret=keys.derive,
        state=state,
        listeners=tuple(listeners),
        development=development,
    )
    return Core(services, keys)
