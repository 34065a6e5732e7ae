"""Serving a home: bind, recover, start the workers. And checking one without serving."""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress

import structlog

from pkiserver import logs, registry
from pkiserver.app import Runtime, open_runtime
from pkiserver.ca.samples import lint_profiles
from pkiserver.config import CoreSettings
from pkiserver.config_types import split_address
from pkiserver.core import open_core
from pkiserver.errors import PKIError
from pkiserver.home import Home
from pkiserver.keys import file_provider
from pkiserver.pkix.pem import encode_pem
from pkiserver.plugin import Services
from pkiserver.server import Listener, Timeouts, TLSFiles, bind, run
from pkiserver.server_certificate import PROFILE, ServerCertificate
from pkiserver.serving.listeners import load_certificate
from pkiserver.web.edge import Edge

log = structlog.get_logger("pkiserver")


def serve(
    settings: CoreSettings, *, development: bool, on_ready: Callable[[str], None] | None = None
) -> int:
    """Serve until a signal says stop; the exit status. `on_ready` is given the name of the
    authority that issues certificates for servers now. Raises `PKIError` if it cannot begin."""
    logs.configure(style=settings.log.format, level=settings.log.level)
    server = settings.server
    https = bind(*split_address(server.https))
    http = bind(*split_address(server.http))
    mtls = bind(*split_address(server.mtls)) if server.mtls else None
    addresses = [_address(sock) for sock in (https, http, mtls) if sock is not None]
    issuing = asyncio.run(prepare(settings, addresses, development))

    @asynccontextmanager
    async def make_listeners(worker: int) -> AsyncIterator[Sequence[Listener]]:
        async with (
            open_runtime(settings, listeners=addresses, development=development) as runtime,
            runtime.serving(),
        ):
            yield listeners(runtime, https, http, mtls)

    def ready() -> None:
        log.info("serving", https=server.https, http=server.http, workers=server.workers)
        if on_ready is not None:
            on_ready(issuing)

    return run(
        make_listeners,
        workers=server.workers,
        grace=server.shutdown_timeout.total_seconds(),
        on_ready=ready,
    )


def listeners(
    runtime: Runtime,
    https: socket.socket,
    http: socket.socket,
    mtls: socket.socket | None = None,
) -> list[Listener]:
    """What a runtime serves on bound sockets. Client certificates are asked for on `mtls`; without
    it on `https`, where a protocol takes them."""
    settings = runtime.services.settings
    app, files, http2 = _edge(runtime, plain=False), _tls_files(settings), settings.server.http2
    anchors, timeouts = client_bundle(runtime), Timeouts(lenient=runtime.lenient)
    found = [
        Listener(https, app, files, http2, client_ca=None if mtls else anchors, timeouts=timeouts),
        Listener(http, _edge(runtime, plain=True), timeouts=timeouts),
    ]
    if mtls is not None:
        found.append(Listener(mtls, app, files, http2, client_ca=anchors, timeouts=timeouts))
    return found


def client_bundle(runtime: Runtime) -> Callable[[], bytes] | None:
    """The PEM of every CA whose client certificates some protocol takes; None if none does."""
    sources = [
        protocol.client_anchors
        for protocol in runtime.protocols.values()
        if protocol.client_anchors is not None
    ]
    if not sources:
        return None

    def bundle() -> bytes:
        ders = dict.fromkeys(der for source in sources for der in source())
        return b"".join(encode_pem("CERTIFICATE", der) for der in ders)

    return bundle


async def prepare(
    settings: CoreSettings, addresses: Sequence[tuple[str, int]], development: bool
) -> str:
    """What has to be done once, before any worker serves. The authority that issues now for the
    profile of servers, or what the profile says where there is none. Raises `PKIError`."""
    async with open_runtime(settings, listeners=addresses, development=development) as runtime:
        await runtime.recover()
        await ServerCertificate(runtime.services, runtime.keys).ensure()
        for problem in await _lint(runtime.services):
            # Not a reason to refuse the others their renewals; the profile's own requests are.
            log.error("a profile does not lint", problem=problem)
        issuer = settings.profiles[PROFILE].issuer
        with suppress(PKIError):
            issuer = runtime.services.authorities.current(issuer)
        return issuer


def _address(sock: socket.socket) -> tuple[str, int]:
    host, port = sock.getsockname()[:2]
    return str(ipaddress.ip_address(host)), int(port)


def _edge(runtime: Runtime, *, plain: bool) -> Edge:
    app = runtime.plain_app() if plain else runtime.app()
    return runtime.edge(app, access_log=runtime.services.settings.log.requests)


def _tls_files(settings: CoreSettings) -> TLSFiles:
    server = settings.server
    if server.certificate:
        key = server.certificate_key or server.certificate
        # A key the operator brings is not encrypted with our passphrase.
        return TLSFiles(
            settings.home / server.certificate, settings.home / key, password=lambda: b""
        )
    own = Home(settings.home).server_pem
    return TLSFiles(own, own, password=file_provider(settings).passphrase)


async def check(settings: CoreSettings) -> list[str]:
    """What is wrong with a home, a line each: profiles that do not lint, files that are missing,
    protocols that cannot be made."""
    try:
        async with open_core(settings) as core:
            return [
                *await _lint(core.services),
                *_check_certificate(settings),
                *_check_protocols(core.services),
            ]
    except PKIError as error:
        return error.detail.splitlines()


async def _lint(services: Services) -> list[str]:
    """What is wrong with a sample certificate of each profile."""
    findings = await asyncio.to_thread(
        lint_profiles, services.settings, services.authorities, services.clock.now()
    )
    config = Home(services.settings.home).config
    return [
        f"{config}: profiles.{found.profile}: {found.finding}"
        for found in findings
        if found.finding.is_error
    ]


def _check_certificate(settings: CoreSettings) -> list[str]:
    """Of the certificate the operator brings; our own is made at the start."""
    if not settings.server.certificate:
        return []
    try:
        load_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), _tls_files(settings))
    except PKIError as error:
        return [f"{Home(settings.home).config}: server.certificate: {error.detail}"]
    return []


def _check_protocols(services: Services) -> Iterator[str]:
    """The first mistake of each."""
    settings = services.settings
    for plugin in registry.enabled(registry.available(), settings):
        try:
            plugin.create(services, settings.section(plugin.name))
        except PKIError as error:
            yield f"{Home(settings.home).config}: {error.detail}"
