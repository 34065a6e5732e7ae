"""SCEP as a plug-in. What builds and serves it is imported when a server is built: the command line
has no use for it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pkiserver.plugin import Plugin, ProtocolApp, Services
from protocols.scep.remedies import remedy
from protocols.scep.settings import SCEPSettings
from protocols.scep.store import related

if TYPE_CHECKING:
    import typer


def _create(services: Services, settings: Mapping[str, SCEPSettings]) -> ProtocolApp:
    from protocols.scep.build import create

    return create(services, settings)


def _commands(app: "typer.Typer") -> None:
    from protocols.scep.cli import add_to

    add_to(app)


PLUGIN = Plugin(
    name="scep",
    settings=SCEPSettings,
    migrations=Path(__file__).with_name("migrations"),
    create=_create,
    commands=_commands,
    related=related,
    remedy=remedy,
)
