"""Builds the OCSP endpoint."""

from collections.abc import Mapping
from typing import Any

from starlette.routing import Route

from pkiserver.plugin import ProtocolApp, Services
from protocols.ocsp.http import PREFIX, OCSPEndpoint


def create(services: Services, sections: Mapping[str, Any]) -> ProtocolApp:
    """Both listeners, in front of the framework; the route is for embedding applications."""
    endpoint = OCSPEndpoint(services.status, services.clock, services.settings.ocsp)
    return ProtocolApp(
        plain_hot={PREFIX: endpoint},
        plain_routes=[Route(PREFIX + "{request:path}", endpoint)],
    )
