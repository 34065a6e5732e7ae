"""OCSP as a plug-in. No configuration section of its own: `[ocsp]` belongs to the core. What
serves it is imported when a server is built."""

from collections.abc import Mapping
from typing import Any

from pkiserver.plugin import Plugin, ProtocolApp, Services


def _create(services: Services, sections: Mapping[str, Any]) -> ProtocolApp:
    from protocols.ocsp.build import create

    return create(services, sections)


PLUGIN = Plugin(name="ocsp", settings=None, migrations=None, create=_create)
