"""Builds the directories and says what runs when."""

import asyncio
import datetime as dt
import ipaddress
from collections.abc import Mapping

from starlette.routing import Mount

from pkiserver.errors import PKIError, configuration_error
from pkiserver.plugin import Job, ProtocolApp, Services
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
from protocols.acme.service.finalize import ABANDONED, Finalizer
from protocols.acme.service.names import NamePolicy
from protocols.acme.service.orders import Orders
from protocols.acme.service.renewal import Renewal
from protocols.acme.service.validation import Validation
from protocols.acme.settings import ACMESettings
from protocols.acme.store import upkeep


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
        finalizer=Finalizer(directory, orders, names, prober),
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
    probe = ProbeSettings(
        policy=policy,
        resolvers=settings.dns_resolvers,
        authoritative=settings.dns_authoritative,
    )
    try:
        return NetworkProber(probe)
    except PKIError as error:
        place = f"acme.{directory.name}.dns_resolvers"
        raise configuration_error(f"{place}: {error.detail}") from error


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
            await endpoints.finalizer.resume_decided()
            await endpoints.validation.sweep()

    async def recover() -> None:
        nonces.reset()
        for endpoints in built.values():
            await endpoints.finalizer.sweep(dt.timedelta(0))
            await endpoints.validation.release()

    async def start() -> None:
        # What `recover` released: its clients have waited long enough.
        for endpoints in built.values():
            await endpoints.validation.sweep()

    async def clean() -> None:
        for directory in directories:
            await delete_old(directory)

    async def stop() -> None:
        await asyncio.gather(*(e.validation.stop() for e in built.values()))
        await asyncio.gather(*(e.finalizer.stop() for e in built.values()))
        nonces.close()

    return ProtocolApp(
        forms={"/acme/": problem_form},
        # Starlette hands a mount the path with its own part at the front of `root_path`.
        routes=[Mount("/acme", app=ACMEApp(built, nonces, root="/"))],
        hot={"/acme/": app},
        jobs=[
            Job("acme-sweep", dt.timedelta(seconds=20), sweep),
            Job("acme-clean", dt.timedelta(hours=1), clean),
        ],
        recover=recover,
        start=start,
        stop=stop,
    )


async def delete_old(directory: Directory) -> None:
    """Old orders and authorizations, a batch per transaction."""
    before = directory.now() - int(directory.settings.retention.total_seconds())
    database = directory.services.database
    deleted = upkeep.BATCH
    while deleted >= upkeep.BATCH:
        deleted = await database.write(lambda tx: upkeep.delete_expired(tx, directory.name, before))


def _check_profiles(directory: Directory) -> None:
    known = directory.services.settings.profiles
    for name in (directory.settings.profile, *directory.settings.profiles):
        if name not in known:
            raise configuration_error(f"acme.{directory.name}: there is no profile {name!r}")
        if known[name].caa and not directory.settings.caa_identities:
            raise _nameless(directory, f"profile {name!r} checks CAA")
    if "dns-persist-01" in directory.settings.challenges and not directory.settings.caa_identities:
        raise _nameless(directory, "dns-persist-01 is offered")


def _nameless(directory: Directory, why: str) -> PKIError:
    return configuration_error(
        f"acme.{directory.name}.caa_identities: {why}, so say by which domain names DNS records "
        "may name this CA"
    )
