"""Builds the downloads of CRLs and CA certificates."""

from collections.abc import Mapping
from typing import Any

from starlette.routing import Route

from pkiserver.plugin import ProtocolApp, Services
from protocols.crl.http import CA_PREFIX, CRL_PREFIX, ROOTS_PATH, Downloads, Library


def create(services: Services, sections: Mapping[str, Any]) -> ProtocolApp:
    """Both listeners, in front of the framework; the routes are for embedding applications."""
    library = Library(services.status, services.authorities, services.clock)
    hot = {
        CRL_PREFIX: Downloads(CRL_PREFIX, library.crl),
        CA_PREFIX: Downloads(CA_PREFIX, library.certificate),
        ROOTS_PATH: Downloads(ROOTS_PATH, library.roots),
    }
    return ProtocolApp(
        plain_hot=hot,
        plain_routes=[
            Route(CRL_PREFIX + "{file}", hot[CRL_PREFIX]),
            Route(CA_PREFIX + "{file}", hot[CA_PREFIX]),
            Route(ROOTS_PATH, hot[ROOTS_PATH]),
        ],
    )
