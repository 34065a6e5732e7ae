"""Answers on the spot: on the wire and in the log they are those of the ordinary way."""

import asyncio
import base64
import io
import json
import re
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import structlog
from starlette.types import Receive, Scope, Send

from pkiserver import logs
from pkiserver.serving.connection import ConnectionInfo
from pkiserver.serving.http1_parser import Request
from pkiserver.web.edge import Edge
from pkiserver.web.hot import HotPaths
from pkiserver.web.instant import CompleteRequest, InstantAnswer, answer_now_of
from pkiserver.web.limits import Limits
from pkiserver.web.peer import TrustedProxies
from protocols.ocsp.http import PREFIX, OCSPEndpoint
from tests.ca.status_support import PKI, ask, ask_serial, open_pki
from tests.server.conftest import converse, echo, running

LIMITS = Limits(url_bytes=500, header_bytes=800, header_count=12, body_bytes=900)


class Watched:
    """An endpoint that counts what it answers on the spot."""

    def __init__(self, endpoint: OCSPEndpoint) -> None:
        self._endpoint = endpoint
        self.given = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._endpoint(scope, receive, send)

    def answer_now(self, request: CompleteRequest) -> InstantAnswer | None:
        answer = self._endpoint.answer_now(request)
        self.given += answer is not None
        return answer


@dataclass(frozen=True)
class Both:
    """One endpoint behind two applications, of which one knows the ordinary way only."""

    pki: PKI
    watched: Watched
    request: bytes

    def app(self, instant: bool, **options: Any) -> Edge:
        async def ordinary(scope: Scope, receive: Receive, send: Send) -> None:
            await self.watched(scope, receive, send)

        hot = HotPaths(echo, prefixes={PREFIX: self.watched if instant else ordinary})
        return Edge(hot, limits=LIMITS, **options)


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[Both]:
    async with open_pki(tmp_path) as pki:
        endpoint = OCSPEndpoint(pki.status, pki.clock, pki.settings.ocsp)
        issued = await pki.issue()
        yield Both(pki, Watched(endpoint), ask(issued.certificate, pki.certificate()))


@pytest.fixture(params=["json", "console"])
def log(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    stream = io.StringIO()
    logs.configure(style=request.param, stream=stream, cache=False)
    yield stream
    structlog.reset_defaults()
    logs.configure()


def message(method: str, path: str, body: bytes = b"", *fields: str, version: str = "1.1") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: h", *fields]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


TYPE = "Content-Type: application/ocsp-request"
LAST = message("GET", "/last", b"", "Connection: close")


def requests(both: Both) -> dict[str, list[bytes]]:
    """What is sent on one connection."""
    plain = both.request
    path = PREFIX + "issuing/" + quote(base64.b64encode(plain).decode(), safe="")
    post = message("POST", PREFIX + "issuing", plain, TYPE)
    etag = 'If-None-Match: "x", *'
    return {
        "post": [post],
        "post, pipelined": [post + post + message("GET", path) + post],
        "post, parameters": [message("POST", PREFIX + "issuing/", plain, TYPE.upper() + "; a=b")],
        "post, http/1.0": [
            message(
                "POST", PREFIX + "issuing", plain, TYPE, "Connection: keep-alive", version="1.0"
            )
        ],
        "post, closing": [message("POST", PREFIX + "issuing", plain, TYPE, "Connection: close")],
        "post, chunked": [
            message("POST", PREFIX + "issuing", b"", TYPE, "Transfer-Encoding: chunked")
            + b"5\r\n" + plain[:5] + b"\r\n%x\r\n" % (len(plain) - 5) + plain[5:] + b"\r\n0\r\n\r\n"
        ],
        "post, expecting": [
            message("POST", PREFIX + "issuing", plain, TYPE, "Expect: 100-continue")
        ],
        "post, in pieces": [post[:9], post[9:80], post[80:-7], post[-7:]],
        "post, no type": [message("POST", PREFIX + "issuing", plain)],
        "post, another authority": [message("POST", PREFIX + "nobody", plain, TYPE)],
        "post, garbage": [message("POST", PREFIX + "issuing", b"garbage", TYPE)],
        "post, no number": [
            message("POST", PREFIX + "issuing", b"", TYPE, f"Content-Length: {len(plain):030}")
            + plain
        ],
        "post, not issued": [
            message("POST", PREFIX + "issuing", ask_serial(7, both.pki.certificate()), TYPE)
        ],
        "post, large": [message("POST", PREFIX + "issuing", plain + b"\0" * 900, TYPE)],
        "get": [message("GET", path)],
        "get, absolute": [message("GET", "http://h" + path)],
        "get, a query": [message("GET", path + "?a=b")],
        "get, twice a slash": [message("GET", path.replace("issuing/", "issuing//"))],
        "get, unchanged": [message("GET", path, b"", etag)],
        "get, changed": [message("GET", path, b"", 'If-None-Match: "x"')],
        "get, by date": [
            message("GET", path, b"", "If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT")
        ],
        "head": [message("HEAD", path)],
        "put": [message("PUT", path, b"x")],
        "get, long": [message("GET", path + "A" * 600)],
        "get, many fields": [message("GET", path, b"", *(f"X-{n}: y" for n in range(12)))],
        "get, large fields": [message("GET", path, b"", "X-Long: " + "y" * 900)],
        "get, an upgrade": [message("GET", path, b"", "Connection: Upgrade", "Upgrade: h2c")],
        "not http": [post + b"\0\0\r\n\r\n"],
        "a proxy's": [
            message("GET", path, b"", "X-Forwarded-For: 192.0.2.5", "X-Request-Id: from-the-proxy")
        ],
        "something else": [message("GET", "/else"), post],
    }  # fmt: skip


async def exchange(app: Edge, pieces: list[bytes]) -> bytes:
    """Everything that comes back, but for what is new each time."""
    async with running(app) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for piece in [*pieces, LAST]:
            writer.write(piece)
            for _ in range(5):
                await asyncio.sleep(0)
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    return re.sub(rb"date: [^\r]*|x-request-id: [0-9a-f]{16}\r", b"", answer)


def lines(log: io.StringIO) -> str:
    """What was logged since the last time, but for what is new each time."""
    text = log.getvalue()
    log.seek(0)
    log.truncate()
    return re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z|[0-9a-f]{16}|(\"ms\": |ms=)[\d.]+", "", text)


@pytest.mark.parametrize("proxies", [[], ["127.0.0.0/8"]])
async def test_both_ways_answer_and_log_alike(
    both: Both, log: io.StringIO, proxies: list[str]
) -> None:
    options = {"trusted_proxies": TrustedProxies(proxies)}
    instant, ordinary = both.app(True, **options), both.app(False, **options)
    for name, pieces in requests(both).items():
        await exchange(ordinary, pieces)  # from now on what can be kept is
        lines(log)
        expected = await exchange(ordinary, pieces), lines(log)
        given = both.watched.given
        found = await exchange(instant, pieces), lines(log)
        assert found == expected, name
        assert (both.watched.given > given) is (name in INSTANT), name


INSTANT = {
    "post", "post, pipelined", "post, parameters", "post, http/1.0", "post, chunked",
    "post, expecting", "get", "get, absolute", "get, a query", "get, twice a slash",
    "get, an upgrade", "a proxy's", "something else"
}  # fmt: skip


async def test_every_answer_has_an_id_of_its_own_that_is_in_the_log(both: Both) -> None:
    stream = io.StringIO()
    logs.configure(stream=stream, cache=False)
    post = message("POST", PREFIX + "issuing", both.request, TYPE)
    async with running(both.app(True)) as (_, port):
        answer = await converse(port, post * 5 + LAST)
    ids = re.findall(rb"x-request-id: ([0-9a-f]{16})\r", answer)
    logged = [json.loads(line)["request_id"].encode() for line in stream.getvalue().splitlines()]
    assert ids == logged and len(set(ids)) == 6 and both.watched.given >= 3
    structlog.reset_defaults()


async def test_no_answer_for_who_asks_the_wrong_way(both: Both) -> None:
    """An application without the short way, and one whose short way fails."""
    assert answer_now_of(echo) is None
    assert both.app(False).answer_now(_whole("/ocsp/issuing")) is None

    class Broken(Watched):
        def answer_now(self, request: CompleteRequest) -> InstantAnswer | None:
            raise ValueError("secret detail")

    endpoint = OCSPEndpoint(both.pki.status, both.pki.clock, both.pki.settings.ocsp)
    edge = Edge(HotPaths(echo, prefixes={PREFIX: Broken(endpoint)}), access_log=False)
    post = message("POST", PREFIX + "issuing", both.request, TYPE)
    async with running(edge) as (_, port):
        answer = await converse(port, post + LAST)
    assert answer.count(b"HTTP/1.1 200 OK") == 2 and b"secret" not in answer


def _whole(path: str) -> Request:
    info = ConnectionInfo("http", None, None)
    return Request(info, "1.1", "GET", path, path.encode(), b"", [], 0, True, False, deque(), True)
