"""The composition root: from settings to a running CA core with its protocols, and to ASGI apps.

`create_app(settings)` is for embedding: a Starlette application to mount or to serve as it is.
`open_runtime` is what the server, the command line and the tests use.
"""

import asyncio
import datetime as dt
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
from pkiserver.clock import Clock
from pkiserver.config import CoreSettings
from pkiserver.core import Core, open_core
from pkiserver.core import load_settings as load_settings
from pkiserver.core import parse_settings as parse_settings
from pkiserver.errors import PKIError
from pkiserver.jobs import Scheduler
from pkiserver.plugin import Job, ProtocolApp
from pkiserver.presence import Presence
from pkiserver.server_certificate import ServerCertificate
from pkiserver.web.edge import Edge
from pkiserver.web.hot import HotPaths
from pkiserver.web.limits import Limits
from pkiserver.web.peer import TrustedProxies
from pkiserver.web.problems import HTTPProblem, exception_handlers

log = structlog.get_logger("pkiserver")

LOOK_FOR_CHANGES = 2.0
"""Seconds between looks at whether another process changed the authority tree."""


@dataclass(frozen=True)
class Runtime(Core):
    """A running CA core and its protocols."""

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
        """Ready: the database answers."""
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
    """Open the home's core and create the protocols. Raises `PKIError`."""
    plugins = registry.enabled(registry.available(), settings)
    async with open_core(
        settings, clock=clock, listeners=listeners, development=development
    ) as core:
        protocols = {p.name: p.create(core.services, settings.section(p.name)) for p in plugins}
        yield Runtime(core.services, core.keys, protocols)


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
