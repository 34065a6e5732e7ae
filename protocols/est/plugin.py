"""EST as a plug-in. What builds and serves it is imported when a server is built: the command line
has no use for it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pkiserver.plugin import Plugin, ProtocolApp, Services
from protocols.est.remedies import remedy
from protocols.est.settings import ESTSettings

if TYPE_CHECKING:
    import typer


def _create(services: Services, settings: Mapping[str, ESTSettings]) -> ProtocolApp:
    from protocols.est.build import create

    return create(services, settings)


def _commands(app: "typer.Typer") -> None:
    from protocols.est.cli import add_to

    add_to(app)


PLUGIN = Plugin(
    name="est",
    settings=ESTSettings,
    migrations=Path(__file__).with_name("migrations"),
    create=_create,
    commands=_commands,
    remedy=remedy,
)
