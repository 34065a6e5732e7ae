"""Asking an OCSP endpoint as an HTTP client would, without a client in between."""

import base64
from collections import deque
from dataclasses import dataclass
from urllib.parse import quote

from cryptography.x509 import ocsp
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pkiserver.serving.connection import ConnectionInfo
from pkiserver.serving.http1_parser import Request
from protocols.ocsp.http import OCSPEndpoint

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


class Instantly:
    """An endpoint as our HTTP/1.1 asks it: on the spot, and if it has nothing the ordinary way."""

    def __init__(self, endpoint: OCSPEndpoint) -> None:
        self._endpoint = endpoint
        self.given = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()

        async def again() -> Message:
            return message

        answer = self._endpoint.answer_now(_request(scope, message["body"]))
        if answer is None:
            await self._endpoint(scope, again, send)
            return
        self.given += 1
        fields = [line.split(b": ", 1) for line in answer.head.splitlines()]
        headers = [(name, value) for name, value in fields]
        start = {"type": "http.response.start", "status": answer.status, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": answer.content})


def _request(scope: Scope, body: bytes) -> Request:
    info = ConnectionInfo("http", None, None)
    path: str = scope["path"]
    return Request(
        info, "1.1", scope["method"], path, path.encode(), b"", scope["headers"], 0, True, False,
        deque([body]), True,
    )  # fmt: skip


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
