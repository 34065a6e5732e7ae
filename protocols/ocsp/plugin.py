"""OCSP as a plug-in. No configuration section of its own: `[ocsp]` belongs to the core."""

from collections.abc import Mapping
from typing import Any

from starlette.routing import Route

from pkiserver.plugin import Plugin, ProtocolApp, Services
from protocols.ocsp.http import PREFIX, OCSPEndpoint


def create(services: Services, sections: Mapping[str, Any]) -> ProtocolApp:
    """Both listeners, in front of the framework; the route is for embedding applications."""
    endpoint = OCSPEndpoint(services.status, services.clock, services.settings.ocsp)
    return ProtocolApp(
        plain_hot={PREFIX: endpoint},
        plain_routes=[Route(PREFIX + "{request:path}", endpoint)],
    )


PLUGIN = Plugin(name="ocsp", settings=None, migrations=None, create=create)
