"""The composition root: from settings to a running CA core with its protocols, and to ASGI apps.

`create_app(settings)` is for embedding: a Starlette application to mount or to serve as it is.
`open_runtime` is what the server, the command line and the tests use.
"""

import asyncio
import datetime as dt
import tomllib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from pkiserver import registry
from pkiserver.ca.approvals import Approvals
from pkiserver.ca.audit import Audit
from pkiserver.ca.authorities import Authorities
from pkiserver.ca.issuance import Issuance
from pkiserver.ca.revocation import Revocation
from pkiserver.ca.status import StatusService
from pkiserver.clock import Clock, SystemClock
from pkiserver.config import CoreSettings, build, load
from pkiserver.errors import PKIError
from pkiserver.home import Home
from pkiserver.jobs import Scheduler
from pkiserver.keys import KeyProvider, file_provider
from pkiserver.plugin import Job, ProtocolApp, Services
from pkiserver.presence import Presence
from pkiserver.server_certificate import ServerCertificate
from pkiserver.storage import Database, migrate, open_database
from pkiserver.web.edge import Edge
from pkiserver.web.hot import HotPaths
from pkiserver.web.limits import Limits
from pkiserver.web.peer import TrustedProxies
from pkiserver.web.problems import HTTPProblem, exception_handlers

log = structlog.get_logger("pkiserver")

LOOK_FOR_CHANGES = 2.0
"""Seconds between looks at whether another process changed the authority tree."""


def load_settings(home: Path) -> CoreSettings:
    """The settings of a home, with every plug-in's sections. Raises `PKIError` CONFIGURATION."""
    return load(home, registry.sections(registry.available()))


def parse_settings(home: Path, text: str) -> CoreSettings:
    """What `load_settings` would say if `text` were the home's configuration."""
    return build(home, tomllib.loads(text), registry.sections(registry.available()))


@dataclass(frozen=True)
class Runtime:
    """A running CA core and its protocols."""

    services: Services
    keys: KeyProvider
    protocols: Mapping[str, ProtocolApp]

    async def recover(self) -> None:
        """End what a crash left half done. Before anything is served: if another process serves
        this home already, the scheduled work of all does it in its time."""
        with Presence(self.services.state).alone() as alone:
            if not alone:
                return
            await self.services.issuance.recover(dt.timedelta(0))
            for protocol in self.protocols.values():
                if protocol.recover is not None:
                    await protocol.recover()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Scheduled work and the protocols' own start and stop."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(Presence(self.services.state).serving())
            for protocol in self.protocols.values():
                if protocol.stop is not None:
                    stack.push_async_callback(protocol.stop)
                if protocol.start is not None:
                    await protocol.start()
            stack.push_async_callback(self.services.status.stop)
            await self.services.status.start()
            scheduler = Scheduler(self.services.database, self.services.clock, self._jobs())
            stack.push_async_callback(scheduler.stop)
            scheduler.start()
            watcher = asyncio.create_task(self._watch())
            stack.callback(watcher.cancel)
            yield

    def _jobs(self) -> list[Job]:
        certificate = ServerCertificate(self.services, self.keys)
        core = [
            Job("status", dt.timedelta(seconds=30), self.services.status.maintain),
            Job("issuance-recovery", dt.timedelta(minutes=1), self._recover_old),
            Job("approvals", dt.timedelta(minutes=1), self.services.approvals.maintain),
            Job("server-certificate", dt.timedelta(minutes=1), certificate.ensure),
        ]
        return core + [job for protocol in self.protocols.values() for job in protocol.jobs]

    async def _recover_old(self) -> None:
        await self.services.issuance.recover(dt.timedelta(minutes=1))

    async def _watch(self) -> None:
        """Another process, such as the command line, may add authorities."""
        while True:
            await asyncio.sleep(LOOK_FOR_CHANGES)
            try:
                await self.services.authorities.refresh_if_changed()
            except PKIError as error:
                log.warning("cannot look for new authorities", detail=error.detail)
            except Exception:
                log.exception("cannot look for new authorities")

    def app(self) -> ASGIApp:
        """Everything, as the HTTPS listener serves it."""
        return self._assemble(plain=False)

    def plain_app(self) -> ASGIApp:
        """What the plain HTTP listener serves."""
        return self._assemble(plain=True)

    def _assemble(self, *, plain: bool) -> ASGIApp:
        parts = self.protocols.values()
        hot = {path: app for part in parts for path, app in part.plain_hot.items()}
        if not plain:
            hot |= {path: app for part in parts for path, app in part.hot.items()}
        return HotPaths(starlette_app(self.routes(plain=plain)), prefixes=hot)

    def edge(self, app: ASGIApp, *, access_log: bool) -> Edge:
        """What stands in front of an application of ours: limits, errors, request ids."""
        settings = self.services.settings
        parts = self.protocols.values()
        return Edge(
            app,
            limits=Limits(
                body_bytes=settings.server.max_body,
                body_seconds=settings.server.request_timeout.total_seconds(),
            ),
            access_log=access_log,
            trusted_proxies=TrustedProxies(settings.server.trusted_proxies),
            forms={path: form for part in parts for path, form in part.forms.items()},
            lenient=self.lenient,
        )

    @property
    def lenient(self) -> tuple[str, ...]:
        """Path prefixes where devices may send what browsers may not."""
        return tuple(path for part in self.protocols.values() for path in part.lenient)

    def routes(self, *, plain: bool) -> list[BaseRoute]:
        """Health and the protocols' routes."""
        routes: list[BaseRoute] = [
            Route("/healthz", _alive),
            Route("/readyz", self._ready),
        ]
        for part in self.protocols.values():
            routes += part.plain_routes
            if not plain:
                routes += part.routes
        return routes

    async def _ready(self, request: Request) -> Response:
        """Ready: the database answers and every signing key that should be here is."""
        try:
            await self.services.database.read(lambda reader: reader.one("SELECT 1"))
        except PKIError as error:
            raise HTTPProblem(503, error.detail) from error
        return JSONResponse({"status": "ready"}, headers={"Cache-Control": "no-store"})


async def _alive(request: Request) -> Response:
    return JSONResponse({"status": "alive"}, headers={"Cache-Control": "no-store"})


def starlette_app(
    routes: Sequence[BaseRoute], lifespan: Callable[[Starlette], object] | None = None
) -> Starlette:
    """A Starlette application whose errors are problem documents and which never redirects."""
    app = Starlette(
        routes=routes,
        exception_handlers=exception_handlers(),
        lifespan=lifespan,  # type: ignore[arg-type]
    )
    app.router.redirect_slashes = False
    return app


@asynccontextmanager
async def open_runtime(
    settings: CoreSettings,
    *,
    clock: Clock | None = None,
    listeners: Sequence[tuple[str, int]] = (),
    development: bool = False,
) -> AsyncIterator[Runtime]:
    """Open the home's database, migrate it, load the authorities and create the protocols.
    Raises `PKIError`."""
    plugins = registry.enabled(registry.available(), settings)
    database = open_database(settings.storage.url, settings.home)
    try:
        await migrate(database, registry.migrations(plugins))
        services, keys = await _core(
            settings, database, clock or SystemClock(), listeners, development
        )
        protocols = {p.name: p.create(services, settings.section(p.name)) for p in plugins}
        yield Runtime(services, keys, protocols)
    finally:
        await database.close()


async def _core(
    settings: CoreSettings,
    database: Database,
    clock: Clock,
    listeners: Sequence[tuple[str, int]],
    development: bool,
) -> tuple[Services, KeyProvider]:
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
    return services, keys


def create_app(settings: CoreSettings | Path | str, *, development: bool = False) -> Starlette:
    """An application to mount into another one, or to serve as it is. `settings` may be the path
    of a home. The outer application has to run this one's lifespan:

        app = Starlette(routes=[Mount("/", app=pki)], lifespan=pki.router.lifespan_context)

    Mounted below a prefix, `server.external_url` has to end with that prefix, as it is what the
    URLs in answers begin with; `server.external_http_url` likewise where the application serves
    OCSP, CRLs and CA certificates over plain HTTP.
    """
    known = settings if isinstance(settings, CoreSettings) else load_settings(Path(settings))
    # Starlette hands a lifespan the outer application where one passes ours on.
    app = starlette_app(
        [Mount("", app=_not_started)], lambda outer: _embedded(known, app, development)
    )
    return app


async def _not_started(scope: Scope, receive: Receive, send: Send) -> None:
    raise HTTPProblem(503, "pkiserver's lifespan is not running; see pkiserver.create_app")


@asynccontextmanager
async def _embedded(
    settings: CoreSettings, app: Starlette, development: bool
) -> AsyncIterator[None]:
    async with open_runtime(settings, development=development) as runtime:
        await runtime.recover()
        async with runtime.serving():
            # Whoever embeds has an access log of his own, and prefixes that hot paths do not know.
            inner = starlette_app(runtime.routes(plain=False))
            before = app.router.routes[:]
            app.router.routes[:] = [Mount("", app=runtime.edge(inner, access_log=False))]
            app.state.pkiserver = runtime
            try:
                yield
            finally:
                app.router.routes[:] = before
