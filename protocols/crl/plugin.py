"""CRL and CA certificate downloads as a plug-in. No configuration section of its own: `[crl]`
belongs to the core. What serves them is imported when a server is built."""

from collections.abc import Mapping
from typing import Any

from pkiserver.plugin import Plugin, ProtocolApp, Services


def _create(services: Services, sections: Mapping[str, Any]) -> ProtocolApp:
    from protocols.crl.build import create

    return create(services, sections)


PLUGIN = Plugin(name="crl", settings=None, migrations=None, create=_create)
