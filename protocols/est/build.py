"""Builds the labels and says what runs when."""

import datetime as dt
from collections.abc import Callable, Mapping, Sequence

from starlette.routing import Mount

from pkiserver.clock import epoch
from pkiserver.errors import configuration_error
from pkiserver.pkix import pem
from pkiserver.plugin import Job, ProtocolApp, Services
from pkiserver.storage import Transaction
from pkiserver.web.peer import TrustedProxies
from protocols.est import crls, store
from protocols.est.authentication import Authentication
from protocols.est.certificates import ClientCertificates, OutsideCAs
from protocols.est.files import WatchedFiles
from protocols.est.http import OPERATIONS, ROOT, ESTApp, text_form
from protocols.est.package_signer import ServerSigner
from protocols.est.passwords import PasswordChecker
from protocols.est.service import Label
from protocols.est.settings import ESTSettings


def create(services: Services, settings: Mapping[str, ESTSettings]) -> ProtocolApp:
    """Everything below `/.well-known/est`."""
    for name, item in settings.items():
        _check(name, item, services)
    certificates = {name: _certificates(name, item, services) for name, item in settings.items()}
    passwords = PasswordChecker(services.clock)
    signer = ServerSigner(services)
    labels = {
        name: Label(
            name,
            item,
            services,
            Authentication(name, item, services, certificates[name], passwords),
            signer,
        )
        for name, item in settings.items()
    }
    asking = [certificates[name] for name, item in settings.items() if "mtls" in item.auth]
    if services.settings.server.mtls and settings and not asking:
        raise configuration_error(
            "server.mtls: no label of EST takes client certificates; add 'mtls' to auth of one, or "
            "leave server.mtls out"
        )

    def anchors() -> Sequence[bytes]:
        return [der for each in asking for der in each.listener_anchors()]

    async def clean() -> None:
        await _delete_old(services, settings)

    trusted = TrustedProxies(services.settings.server.trusted_proxies)
    return ProtocolApp(
        # Starlette hands a mount the path with its own part at the front of `root_path`.
        routes=[Mount(ROOT, app=ESTApp(labels, trusted, root=""))],
        hot={f"{ROOT}/": ESTApp(labels, trusted)},
        forms={f"{ROOT}/": text_form},
        jobs=[Job("est-clean", dt.timedelta(hours=1), clean)],
        client_anchors=anchors if asking else None,
    )


def _certificates(name: str, settings: ESTSettings, services: Services) -> ClientCertificates:
    home = services.settings.home
    outside = OutsideCAs(
        WatchedFiles(
            f"est.{name}.client_ca",
            [home / path for path in settings.client_ca],
            pem.parse_certificates,
        ),
        WatchedFiles(
            f"est.{name}.client_crl", [home / path for path in settings.client_crl], crls.parse
        ),
    )
    outside.anchors.read()
    outside.crls.read()
    return ClientCertificates(
        services.database,
        services.clock,
        services.authorities,
        outside,
        {settings.profile, *settings.client_profiles},
    )


def _check(name: str, settings: ESTSettings, services: Services) -> None:
    place = f"est.{name}"
    profile = services.issuance.profiles.get(settings.profile)
    if name in OPERATIONS:
        raise configuration_error(f"{place}: a label is not called like an operation of EST")
    if profile is None:
        known = ", ".join(sorted(services.issuance.profiles))
        raise configuration_error(
            f"{place}: there is no profile {settings.profile!r}; there are: {known}"
        )
    for other in settings.client_profiles:
        if other not in services.issuance.profiles:
            raise configuration_error(f"{place}.client_profiles: there is no profile {other!r}")
    if settings.client_ca and "mtls" not in settings.auth:
        raise configuration_error(f"{place}.client_ca: nobody looks at it without 'mtls' in auth")
    if settings.client_crl and not settings.client_ca:
        raise configuration_error(f"{place}.client_crl: nobody looks at it without client_ca")
    for key in ("server_keys", "key_kind"):
        kind = getattr(settings, key)
        if kind not in (None, "off") and kind not in profile.key_usages:
            raise configuration_error(
                f"{place}.{key}: profile {settings.profile!r} does not accept {kind} keys; choose "
                f"one of {', '.join(profile.key_usages)}"
            )


async def _delete_old(services: Services, settings: Mapping[str, ESTSettings]) -> None:
    now = services.clock.now()
    for name, item in settings.items():
        before = epoch(now - item.repeat - dt.timedelta(days=1))
        await services.database.write(
            lambda tx, name=name, before=before: store.delete_enrollments(tx, name, before)  # type: ignore[misc]
        )
    rates = [
        each for s in settings.values() for each in (s.failures_per_address, s.failures_per_user)
    ]
    longest = max((rate.period for rate in rates if rate is not None), default=dt.timedelta(0))
    oldest = epoch(now - longest)
    for delete, before in ((store.delete_failures, oldest), (store.delete_issued, epoch(now))):
        await _delete_all(services, delete, before)


async def _delete_all(
    services: Services, delete: Callable[[Transaction, int], int], before: int
) -> None:
    deleted = store.BATCH
    while deleted >= store.BATCH:
        deleted = await services.database.write(lambda tx: delete(tx, before))
