"""ACME as a plug-in. What builds and serves it is imported when a server is built: the command line
has no use for it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pkiserver.plugin import Plugin, ProtocolApp, Services
from protocols.acme.remedies import remedy
from protocols.acme.settings import ACMESettings
from protocols.acme.store.related import related

if TYPE_CHECKING:
    import typer


def _create(services: Services, settings: Mapping[str, ACMESettings]) -> ProtocolApp:
    from protocols.acme.build import create

    return create(services, settings)


def _commands(app: "typer.Typer") -> None:
    from protocols.acme.cli import add_to

    add_to(app)


PLUGIN = Plugin(
    name="acme",
    settings=ACMESettings,
    migrations=Path(__file__).with_name("migrations"),
    create=_create,
    commands=_commands,
    related=related,
    remedy=remedy,
)
