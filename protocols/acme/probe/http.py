"""One HTTP/1.1 exchange without I/O: bytes of a GET out, bytes of a response in (RFC 9112)."""

from dataclasses import dataclass

import h11

from pkiserver.errors import MalformedMessage

MAX_HEADER = 16_384
MAX_BODY = 512
"""Bytes. A key authorization is not longer than 150."""
MAX_RECEIVED = 65_536
"""Bytes in all, interim responses and framing included."""


@dataclass(frozen=True, slots=True)
class HTTPReply:
    """A response. `body` is read for status 200 only, and cut at `MAX_BODY` (`truncated`)."""

    status: int
    location: str | None
    content_encoding: str | None
    body: bytes
    truncated: bool


class HTTPExchange:
    """A GET of `target` and its response. Feed what arrives to `receive` until it returns."""

    def __init__(self, authority: str, target: str, user_agent: str) -> None:
        self._connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADER)
        self._request = h11.Request(
            method="GET",
            target=target,
            headers=[
                ("Host", authority),
                ("User-Agent", user_agent),
                ("Accept", "*/*"),
                # The body is compared byte by byte, so no content coding may come between.
                ("Accept-Encoding", "identity"),
                ("Connection", "close"),
            ],
        )
        self._received = 0
        self._response: h11.Response | None = None
        self._body = b""

    def request(self) -> bytes:
        """The bytes to send, once."""
        head = self._connection.send(self._request)
        end = self._connection.send(h11.EndOfMessage())
        return (head or b"") + (end or b"")

    def receive(self, data: bytes) -> HTTPReply | None:
        """The reply once it is complete or enough of it is known, None before. Empty `data` means
        the peer closed. Raises MalformedMessage."""
        self._received += len(data)
        if self._received > MAX_RECEIVED:
            raise MalformedMessage(f"the response is longer than {MAX_RECEIVED} bytes")
        try:
            self._connection.receive_data(data)
            return self._advance()
        except h11.RemoteProtocolError as error:
            what = "not valid HTTP/1.1" if data else "cut off by the end of the connection"
            raise MalformedMessage(f"the response is {what}") from error

    def _advance(self) -> HTTPReply | None:
        while True:
            event = self._connection.next_event()
            if isinstance(event, h11.Response):
                self._response = event
                if event.status_code != 200:
                    return self._reply()
            elif isinstance(event, h11.Data):
                self._body += event.data
                if len(self._body) > MAX_BODY:
                    return self._reply()
            elif isinstance(event, h11.EndOfMessage):
                return self._reply()
            elif event is h11.NEED_DATA:
                return None
            elif not isinstance(event, h11.InformationalResponse):
                raise MalformedMessage("the server switched to another protocol")

    def _reply(self) -> HTTPReply:
        if self._response is None:
            raise MalformedMessage("there is a body without a response")
        return HTTPReply(
            status=self._response.status_code,
            location=self._header(self._response, b"location"),
            content_encoding=self._header(self._response, b"content-encoding"),
            body=self._body[:MAX_BODY],
            truncated=len(self._body) > MAX_BODY,
        )

    @staticmethod
    def _header(response: h11.Response, name: bytes) -> str | None:
        """The first header of that name; bytes that are not ASCII stay visible as such."""
        values = [value for key, value in response.headers if key == name]
        return values[0].decode("latin-1") if values else None
