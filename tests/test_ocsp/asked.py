"""Asking an OCSP endpoint as an HTTP client would, without a client in between."""

import base64
from dataclasses import dataclass
from urllib.parse import quote

from cryptography.x509 import ocsp
from starlette.types import ASGIApp, Message

TYPE = (b"content-type", b"application/ocsp-request")


@dataclass(frozen=True)
class Answer:
    """What an ASGI application answered."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def response(self) -> ocsp.OCSPResponse:
        return ocsp.load_der_ocsp_response(self.body)

    @property
    def certificate_status(self) -> ocsp.OCSPCertStatus | None:
        """None for an answer that is an OCSP error."""
        response = self.response
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            return None
        return response.certificate_status


async def post(app: ASGIApp, data: bytes, authority: str = "issuing") -> Answer:
    return await call(app, "POST", f"/ocsp/{authority}", data, TYPE)


async def get(app: ASGIApp, data: bytes, *headers: tuple[bytes, bytes]) -> Answer:
    path = "/ocsp/issuing/" + quote(base64.b64encode(data).decode(), safe="/+=")
    return await call(app, "GET", path, b"", *headers)


async def call(
    app: ASGIApp, method: str, path: str, body: bytes, *headers: tuple[bytes, bytes]
) -> Answer:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": list(headers)}
    await app(scope, receive, send)
    start, end = sent
    return Answer(start["status"], dict(start["headers"]), end["body"])
