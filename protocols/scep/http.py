"""SCEP over HTTP (RFC 8894 section 4): every path under which devices look for it, in any case.

    /scep/NAME, and anything below        [scep.NAME]
    /cgi-bin/pkiclient.exe                [scep.default]: what routers append to a host by default
    /certsrv/mscep/mscep.dll, and below   [scep.default]: the path of Microsoft's NDES

A message that can be read is answered with HTTP 200 whatever comes of it; what cannot be is a 400
with a line of text, and the rest is HTTP's own: 404, 405, 413, 503.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, NoMatchFound
from starlette.types import Receive, Scope, Send

from pkiserver.errors import MalformedMessage, PKIError
from pkiserver.web.edge import CLIENT_ADDRESS
from pkiserver.web.limits import read_body
from pkiserver.web.problems import HTTPProblem, as_problem
from protocols.scep import capabilities
from protocols.scep.messages import MAX_SIZE
from protocols.scep.query import Query, decode_message, parse_query
from protocols.scep.service import SCEPService

PREFIX = "/scep/"
DEFAULT = "default"
_ALIASES = ("/cgi-bin/pkiclient.exe", "/certsrv/mscep/mscep.dll")
PREFIXES = (PREFIX, *_ALIASES)
"""Lower-case prefixes of all paths."""

PKI_MESSAGE = "application/x-pki-message"
CA_RA_CERTIFICATES = "application/x-x509-ca-ra-cert"
NEXT_CA_CERTIFICATES = "application/x-x509-next-ca-cert"


def text_form(problem: HTTPProblem) -> Response:
    """How refusals look that are HTTP's: a line of text, as devices log it."""
    return Response(
        f"{problem.detail}\n",
        status_code=problem.status,
        headers={"Cache-Control": "no-store", **problem.headers},
        media_type="text/plain",
    )


def label_of(path: str) -> str | None:
    """The section a path is for; None if it is no path of SCEP."""
    path = path.lower()
    if f"{path}/".startswith(PREFIX):
        return f"{path}/".removeprefix(PREFIX).partition("/")[0]
    for alias in _ALIASES:
        if path == alias or path.startswith(f"{alias}/"):
            return DEFAULT
    return None


class SCEPRoute(BaseRoute):
    """Every path of every section."""

    def __init__(self, services: Mapping[str, SCEPService]) -> None:
        self._endpoints = {label: Endpoint(service) for label, service in services.items()}

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        label = label_of(path) if scope["type"] == "http" else None
        if label is None:
            return Match.NONE, {}
        return Match.FULL, {"endpoint": self._endpoints.get(label) or unknown_section(label)}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await scope["endpoint"](scope, receive, send)

    def url_path_for(self, name: str, /, **path_params: Any) -> Any:
        raise NoMatchFound(name, path_params)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One section as an ASGI application."""

    service: SCEPService

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except HTTPProblem as problem:
            response = text_form(problem)
        except PKIError as error:
            response = text_form(as_problem(error))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        if request.method not in ("GET", "POST"):
            raise HTTPProblem(405, "SCEP is GET or POST", headers={"Allow": "GET, POST"})
        query = parse_query(request.scope["query_string"])
        match query.operation.lower():
            case "getcacaps":
                body = capabilities.render(self.service.capabilities())
                return _response(body, capabilities.MEDIA_TYPE)
            case "getcacert":
                return _response(await self.service.ca_certificates(), CA_RA_CERTIFICATES)
            case "getcacertchain":
                return _response(self.service.ca_chain(), CA_RA_CERTIFICATES)
            case "getnextcacert":
                return _response(await self.service.next_ca_certificates(), NEXT_CA_CERTIFICATES)
            case "pkioperation":
                return await self._operation(request, query)
            case "" if request.method == "POST":  # there are clients that leave it out
                return await self._operation(request, query)
        raise MalformedMessage("the operation is missing or not one of RFC 8894 section 4")

    async def _operation(self, request: Request, query: Query) -> Response:
        if request.method == "POST":
            data = await read_body(request, MAX_SIZE)
        else:
            data = decode_message(query.message)
        address = request.scope["state"][CLIENT_ADDRESS]
        return _response(await self.service.operation(data, address), PKI_MESSAGE)


def unknown_section(label: str) -> Response:
    """For whoever mistyped a URL, or has not configured the section yet."""
    detail = f"there is no SCEP service {ascii(label[:64])} here; its URL is {PREFIX}NAME"
    return text_form(HTTPProblem(404, f"{detail} for [scep.NAME] of the configuration"))


def _response(body: bytes, media_type: str) -> Response:
    # Exactly this media type: a charset after it is more than some clients read.
    headers = {"Content-Type": media_type, "Cache-Control": "no-store"}
    return Response(body, headers=headers)
