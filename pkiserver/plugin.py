"""What a protocol is given and what it gives. A protocol is an object `PLUGIN` of its package:

    PLUGIN = Plugin(name="acme", settings=ACMESettings, migrations=..., create=create)

It is found in `registry.py` (ours) or by the entry-point group `pkiserver.protocols` (others').
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import typer
    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp

    from pkiserver.ca.approvals import Approvals
    from pkiserver.ca.audit import Audit
    from pkiserver.ca.authorities import Authorities
    from pkiserver.ca.issuance import Issuance
    from pkiserver.ca.revocation import Revocation
    from pkiserver.ca.status import StatusService
    from pkiserver.clock import Clock
    from pkiserver.config import CoreSettings, Section
    from pkiserver.keys import KeyProvider
    from pkiserver.storage import Database, Reader
    from pkiserver.web.problems import Render


@dataclass(frozen=True, slots=True)
class Services:
    """What a protocol may use of the core."""

    settings: CoreSettings
    database: Database
    clock: Clock
    audit: Audit
    authorities: Authorities
    issuance: Issuance
    approvals: Approvals
    revocation: Revocation
    status: StatusService
    keys: KeyProvider
    """For keys of a protocol's own; those of the authorities are in `authorities`."""
    derive_secret: Callable[[str], bytes]
    """A secret of 32 bytes for a label, derived from the key provider's; the same every time."""
    state: Path
    """A folder for what the processes of this host share and may lose."""
    listeners: Sequence[tuple[str, int]] = ()
    """Our own listening addresses, so that nobody makes the server call itself."""
    development: bool = False
    """Started by `up`: challenge validation may reach loopback addresses."""


@dataclass(frozen=True, slots=True)
class Job:
    """Work on a schedule: once per period, by one of all the processes. One that takes longer than
    its period may be begun by another process meanwhile, so what it does has to allow for that."""

    name: str
    every: dt.timedelta
    run: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ProtocolApp:
    """What a protocol adds to the server.

    `routes` are served over HTTPS, `plain_routes` on both listeners. `hot` are bare ASGI callables
    by path prefix, answered in front of the framework; those of `plain_hot` on both listeners.
    `forms` say, by path prefix, how refusals look that the HTTP edge makes before any route is
    known. `client_anchors` gives the DER of every CA whose client certificates it takes; a listener
    asks clients for one only if some protocol has it, and calls it again every few seconds, so it
    neither blocks nor raises anything but `PKIError`. `recover` runs once at the start of the
    server, before any process serves: it ends what a crash left half done. `start` runs in each
    process before requests are served, `stop` after the last. `lenient` are path prefixes, in lower
    case and matched in any, under which devices may leave out the Host field and send a whole
    message in the URL.
    """

    routes: Sequence[BaseRoute] = ()
    plain_routes: Sequence[BaseRoute] = ()
    hot: Mapping[str, ASGIApp] = field(default_factory=dict)
    plain_hot: Mapping[str, ASGIApp] = field(default_factory=dict)
    forms: Mapping[str, Render] = field(default_factory=dict)
    jobs: Sequence[Job] = ()
    recover: Callable[[], Awaitable[None]] | None = None
    start: Callable[[], Awaitable[None]] | None = None
    stop: Callable[[], Awaitable[None]] | None = None
    client_anchors: Callable[[], Sequence[bytes]] | None = None
    lenient: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Plugin:
    """A protocol. `settings` is the model of one `[NAME.x]` table (None: no section of its own),
    `migrations` the folder of its SQL files (None: no tables).

    `commands` adds its commands to the command line. `related` and `remedy` help `pkiserver why`:
    the ids whose audit rows belong to the story of an id (an order's authorizations), and what to
    do about a refusal, from the action and the detail in the audit log.
    """

    name: str
    settings: type[Section] | None
    migrations: Path | None
    create: Callable[[Services, Mapping[str, Any]], ProtocolApp]
    commands: Callable[[typer.Typer], None] | None = None
    related: Callable[[Reader, str], Sequence[str]] | None = None
    remedy: Callable[[str, Mapping[str, Any]], str | None] | None = None
