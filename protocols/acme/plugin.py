"""ACME as a plug-in: builds the directories and says what runs when."""

import asyncio
import datetime as dt
import ipaddress
from collections.abc import Mapping
from pathlib import Path

from starlette.routing import Mount

from pkiserver.errors import configuration_error
from pkiserver.plugin import Job, Plugin, ProtocolApp, Services
from protocols.acme.endpoints import Endpoints
from protocols.acme.http import ACMEApp, problem_form
from protocols.acme.network import NetworkPolicy, parse_network
from protocols.acme.nonces import SharedNonces
from protocols.acme.probe import NetworkProber, Prober, ProbeSettings
from protocols.acme.service.accounts import Accounts
from protocols.acme.service.authorizations import Authorizations
from protocols.acme.service.certificates import Certificates
from protocols.acme.service.directory import Directory
from protocols.acme.service.external import ExternalAccounts
from protocols.acme.service.finalize import Finalizer
from protocols.acme.service.names import NamePolicy
from protocols.acme.service.orders import Orders
from protocols.acme.service.renewal import Renewal
from protocols.acme.service.validation import Validation
from protocols.acme.settings import ACMESettings
from protocols.acme.store import upkeep

ABANDONED = dt.timedelta(seconds=60)
"""What has been processing for so long without an end belongs to a process that is gone."""


def build_endpoints(directory: Directory, prober: Prober) -> Endpoints:
    """The services of a directory, put together."""
    external = ExternalAccounts(directory)
    names = NamePolicy(directory, external)
    authorizations = Authorizations(directory, names)
    renewal = Renewal(directory)
    orders = Orders(directory, authorizations, names, external, renewal)
    return Endpoints(
        directory=directory,
        accounts=Accounts(directory, external),
        authorizations=authorizations,
        certificates=Certificates(directory),
        finalizer=Finalizer(directory, orders, prober),
        orders=orders,
        renewal=renewal,
        validation=Validation(directory, prober),
    )


def network_prober(directory: Directory) -> NetworkProber:
    """The prober of a directory. Raises `PKIError` CONFIGURATION for what it cannot use."""
    settings, services = directory.settings, directory.services
    try:
        denied = tuple(parse_network(text) for text in settings.deny_networks)
    except ValueError as error:
        raise configuration_error(f"acme.{directory.name}.deny_networks: {error}") from error
    policy = NetworkPolicy(
        allow_loopback=settings.allow_loopback or services.development,
        denied=denied,
        own_listeners=tuple(
            (ipaddress.ip_address(host), port) for host, port in services.listeners
        ),
    )
    return NetworkProber(
        ProbeSettings(
            policy=policy,
            resolvers=settings.dns_resolvers,
            authoritative=settings.dns_authoritative,
        )
    )


def create(services: Services, settings: Mapping[str, ACMESettings]) -> ProtocolApp:
    """Everything below `/acme/`."""
    directories = [Directory(name, item, services) for name, item in settings.items()]
    for directory in directories:
        _check_profiles(directory)
    built = {d.name: build_endpoints(d, network_prober(d)) for d in directories}
    nonces = SharedNonces(services.state / "nonces", services.clock)
    app = ACMEApp(built, nonces)

    async def sweep() -> None:
        for endpoints in built.values():
            await endpoints.finalizer.sweep(ABANDONED)
            await endpoints.validation.sweep(ABANDONED)

    async def recover() -> None:
        nonces.reset()
        for endpoints in built.values():
            await endpoints.finalizer.sweep(dt.timedelta(0))
            await endpoints.validation.release()

    async def clean() -> None:
        for directory in directories:
            await delete_old(directory)

    async def stop() -> None:
        await asyncio.gather(*(e.validation.stop() for e in built.values()))
        await asyncio.gather(*(e.finalizer.stop() for e in built.values()))
        nonces.close()

    return ProtocolApp(
        forms={"/acme/": problem_form},
        routes=[Mount("/acme", app=app)],
        hot={"/acme/": app},
        jobs=[
            Job("acme-sweep", dt.timedelta(seconds=20), sweep),
            Job("acme-clean", dt.timedelta(hours=1), clean),
        ],
        recover=recover,
        stop=stop,
    )


async def delete_old(directory: Directory) -> None:
    """Old orders and authorizations, a batch per transaction."""
    before = directory.now() - int(directory.settings.retention.total_seconds())
    database = directory.services.database
    while await database.write(lambda tx: upkeep.delete_expired(tx, before)) >= upkeep.BATCH:
        await asyncio.sleep(0)


def _check_profiles(directory: Directory) -> None:
    known = directory.services.settings.profiles
    for name in (directory.settings.profile, *directory.settings.profiles):
        if name not in known:
            raise configuration_error(f"acme.{directory.name}: there is no profile {name!r}")
        if known[name].caa and not directory.settings.caa_identities:
            raise configuration_error(
                f"acme.{directory.name}.caa_identities: profile {name!r} checks CAA, so say by "
                "which domain names CAA records may name this CA"
            )


PLUGIN = Plugin(
    name="acme",
    settings=ACMESettings,
    migrations=Path(__file__).with_name("migrations"),
    create=create,
)
