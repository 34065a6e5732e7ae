"""`/ocsp/...`: methods, forms, media types, errors in OCSP's own terms, caching (RFC 6960
appendix A, RFC 9919)."""

import base64
import contextlib
import datetime as dt
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from cryptography.x509 import ocsp
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from pkiserver.ca.issuance import Issued
from pkiserver.ca.ocsp_codec import MAX_REQUEST_SIZE, ResponseStatus
from pkiserver.errors import ErrorCode, MalformedMessage
from pkiserver.web.edge import Edge
from pkiserver.web.hot import HotPaths
from pkiserver.web.problems import exception_handlers
from protocols.ocsp.cache import FRESH
from protocols.ocsp.errors import STATUS_OF_CODE
from protocols.ocsp.http import PREFIX, OCSPEndpoint, decode_path
from tests.ca.status_support import NOW, PKI, ask, ask_serial, open_pki

TYPE = {"Content-Type": "application/ocsp-request"}


@dataclass(frozen=True)
class Server:
    pki: PKI
    http: httpx.AsyncClient
    issued: Issued
    request: bytes
    """About that certificate, which is good."""

    async def post(self, data: bytes, path: str = "/ocsp/issuing") -> httpx.Response:
        return await self.http.post(path, content=data, headers=TYPE)

    async def get(
        self, data: bytes, method: str = "GET", headers: dict[str, str] | None = None
    ) -> httpx.Response:
        path = "/ocsp/issuing/" + quote(base64.b64encode(data).decode(), safe="")
        return await self.http.request(method, path, headers=headers)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with open_pki(tmp_path) as pki:
        endpoint = OCSPEndpoint(pki.status, pki.clock, pki.settings.ocsp)
        app = Edge(HotPaths(_nothing_else(), prefixes={PREFIX: endpoint}), access_log=False)
        issued = await pki.issue()
        async with _client(app) as http:
            yield Server(pki, http, issued, ask(issued.certificate, pki.certificate()))


def _client(app: Edge | Starlette) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://pki.example.com"
    )


def _nothing_else() -> Starlette:
    return Starlette(exception_handlers=exception_handlers())


def status_of(response: httpx.Response) -> ocsp.OCSPResponseStatus:
    """Errors and answers alike: HTTP 200 and OCSP's media type."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/ocsp-response"
    return ocsp.load_der_ocsp_response(response.content).response_status


def is_problem(response: httpx.Response, status: int) -> bool:
    assert response.headers["content-type"] == "application/problem+json"
    return (response.status_code, response.json()["status"]) == (status, status)


@pytest.mark.parametrize("path", ["/ocsp/issuing", "/ocsp/issuing/"])
async def test_post_with_and_without_slash(server: Server, path: str) -> None:
    response = await server.post(server.request, path)
    assert status_of(response) is ocsp.OCSPResponseStatus.SUCCESSFUL


Spell = Callable[[str], str]


@pytest.mark.parametrize(
    "spell",
    [
        lambda text: quote(text, safe=""),
        lambda text: text,
        lambda text: "/" + text,
        lambda text: quote(quote(text, safe=""), safe=""),
        lambda text: text.rstrip("="),
        lambda text: text.replace("+", "%20"),
        lambda text: text + "%0A",
        lambda text: text[:64] + "%0d%0a" + text[64:],
    ],
    ids=["encoded", "bare", "slash", "twice", "no-padding", "space", "newline", "lines"],
)
async def test_get_in_the_forms_clients_use(server: Server, spell: Spell) -> None:
    text = base64.b64encode(_with_every_character(server)).decode()
    assert {"+", "/", "="} <= set(text)
    response = await server.http.get("/ocsp/issuing/" + spell(text))
    assert status_of(response) is ocsp.OCSPResponseStatus.UNAUTHORIZED


def _with_every_character(server: Server) -> bytes:
    """A request whose base64 has a plus, a slash and padding."""
    wanted = b"\xfb\xef\xbe\xff\xff\xff"  # "++++////" where it falls on a group of three
    serials = [
        b"\1" * before + wanted + b"\1" * after for before in (1, 2, 3) for after in range(3)
    ]
    asked = (ask_serial(int.from_bytes(s), server.pki.certificate()) for s in serials)
    return next(each for each in asked if {"+", "/", "="} <= set(base64.b64encode(each).decode()))


async def test_get_is_answered_as_post(server: Server) -> None:
    for response in (await server.get(server.request), await server.post(server.request)):
        loaded = ocsp.load_der_ocsp_response(response.content)
        assert loaded.certificate_status is ocsp.OCSPCertStatus.GOOD


async def test_caching_headers(server: Server) -> None:
    """RFC 9919 section 6 (was RFC 5019 section 6.2)."""
    response = await server.get(server.request)
    headers = response.headers
    assert headers["etag"] == f'"{hashlib.sha256(response.content).hexdigest()}"'
    assert headers["cache-control"] == ("max-age=300, public, no-transform, must-revalidate")
    assert headers["last-modified"] == "Sun, 01 Mar 2026 12:00:00 GMT"
    assert headers["expires"] == "Mon, 02 Mar 2026 12:00:00 GMT"
    assert headers["content-length"] == str(len(response.content))
    assert "vary" not in headers and "content-encoding" not in headers


async def test_max_age_never_passes_next_update(server: Server) -> None:
    end = server.pki.certificate().not_valid_after_utc
    server.pki.clock.advance(end - NOW - dt.timedelta(seconds=100))
    response = await server.get(server.request)
    assert response.headers["cache-control"].startswith("max-age=100,")


async def test_nonce_is_not_cached(server: Server) -> None:
    issued = await server.pki.issue("nonce.example.com")
    request = ask(issued.certificate, server.pki.certificate(), nonce=b"n" * 32)
    response = await server.get(request)
    assert status_of(response) is ocsp.OCSPResponseStatus.SUCCESSFUL
    assert response.headers["cache-control"] == "no-store"
    assert "etag" not in response.headers and "last-modified" not in response.headers


async def test_head_and_conditional_get(server: Server) -> None:
    whole = await server.get(server.request)
    head = await server.get(server.request, "HEAD")
    assert head.content == b"" and head.headers["content-length"]
    since = {"If-Modified-Since": whole.headers["last-modified"]}
    known = await server.get(server.request, headers=since)
    assert known.status_code == 304 and known.content == b"" and known.headers["expires"]
    server.pki.clock.advance(FRESH)
    assert (await server.get(server.request, headers=since)).status_code == 200
    posted = await server.http.post(
        "/ocsp/issuing", content=server.request, headers=TYPE | {"If-None-Match": "*"}
    )
    assert posted.status_code == 200


async def test_a_date_does_not_hide_a_revocation_of_the_same_second(server: Server) -> None:
    """RFC 9110 section 8.8.2: dates have seconds, and two answers of one may differ."""
    good = await server.get(server.request)
    since = {"If-Modified-Since": good.headers["last-modified"]}
    assert (await server.get(server.request, headers=since)).status_code == 304
    await server.pki.revoke(server.issued)
    for _ in range(2):
        answer = await server.get(server.request, headers=since)
        assert status_of(answer) is ocsp.OCSPResponseStatus.SUCCESSFUL
        shown = ocsp.load_der_ocsp_response(answer.content)
        assert shown.certificate_status is ocsp.OCSPCertStatus.REVOKED
        assert "last-modified" not in answer.headers
        tag = {"If-None-Match": answer.headers["etag"]}
        assert (await server.get(server.request, headers=tag)).status_code == 304
    server.pki.clock.advance(FRESH)
    later = await server.get(server.request, headers=since)
    assert later.status_code == 200 and later.headers["last-modified"]


async def test_never_good_over_http(server: Server) -> None:
    request = ask_serial(12345, server.pki.certificate())
    for response in (await server.get(request), await server.post(request)):
        assert status_of(response) is ocsp.OCSPResponseStatus.UNAUTHORIZED
        assert response.content == bytes.fromhex("30030a0106")
        assert response.headers["cache-control"] == "no-store"


async def test_unknown_authority_is_unauthorized(server: Server) -> None:
    response = await server.post(server.request, "/ocsp/nobody")
    assert status_of(response) is ocsp.OCSPResponseStatus.UNAUTHORIZED


@pytest.mark.parametrize("data", [b"", b"garbage", b"\x30\x00"])
async def test_malformed_post(server: Server, data: bytes) -> None:
    response = await server.post(data)
    assert status_of(response) is ocsp.OCSPResponseStatus.MALFORMED_REQUEST


@pytest.mark.parametrize("path", ["!!!", "MA", "M", "%ff%fe", "MAAA/../x", "%00", "a" * 4000])
async def test_malformed_get(server: Server, path: str) -> None:
    response = await server.http.get("/ocsp/issuing/" + path)
    assert status_of(response) is ocsp.OCSPResponseStatus.MALFORMED_REQUEST


async def test_trailing_octets_are_malformed(server: Server) -> None:
    response = await server.post(server.request + b"\0")
    assert status_of(response) is ocsp.OCSPResponseStatus.MALFORMED_REQUEST


async def test_nobody_to_sign_is_try_later(server: Server) -> None:
    until = int(NOW.timestamp()) + 60
    await server.pki.database.write(
        lambda tx: tx.execute(
            "INSERT INTO leases (name, holder, until) VALUES ('responder:issuing', 'x', ?)",
            (until,),
        )
    )
    response = await server.post(server.request)
    assert status_of(response) is ocsp.OCSPResponseStatus.TRY_LATER
    assert response.headers["retry-after"] == "5"
    assert response.headers["cache-control"] == "no-store"


async def test_unexpected_errors_are_internal_error(server: Server) -> None:
    await server.pki.database.write(
        lambda tx: tx.execute("UPDATE certificates SET revoked_at = 5, reason = 'nonsense'")
    )
    response = await server.post(server.request)
    assert status_of(response) is ocsp.OCSPResponseStatus.INTERNAL_ERROR


async def test_what_is_no_ocsp_request_gets_http_errors(server: Server) -> None:
    data = server.request
    assert is_problem(await server.http.post("/ocsp/issuing", content=data), 415)
    wrong = {"Content-Type": "application/octet-stream"}
    assert is_problem(await server.http.post("/ocsp/issuing", content=data, headers=wrong), 415)
    for method, path in (("GET", "/ocsp/issuing"), ("GET", "/ocsp/issuing/"),
                         ("PUT", "/ocsp/issuing"), ("DELETE", "/ocsp/issuing/MA")):  # fmt: skip
        response = await server.http.request(method, path)
        assert is_problem(response, 405) and response.headers["allow"]
    posted = await server.post(data, "/ocsp/issuing/MAAA")
    assert is_problem(posted, 405) and posted.headers["allow"] == "GET, HEAD"


async def test_media_type_with_parameters_is_accepted(server: Server) -> None:
    headers = {"Content-Type": "Application/OCSP-Request; charset=binary"}
    response = await server.http.post("/ocsp/issuing", content=server.request, headers=headers)
    assert status_of(response) is ocsp.OCSPResponseStatus.SUCCESSFUL


async def test_large_body_is_refused(server: Server) -> None:
    assert is_problem(await server.post(bytes(MAX_REQUEST_SIZE + 1)), 413)


async def test_below_a_mount_of_an_embedding_application(server: Server) -> None:
    endpoint = OCSPEndpoint(server.pki.status, server.pki.clock, server.pki.settings.ocsp)
    inner = Starlette(routes=[Route(PREFIX + "{request:path}", endpoint)])
    async with _client(Starlette(routes=[Mount("/pki", app=inner)])) as http:
        posted = await http.post("/pki/ocsp/issuing", content=server.request, headers=TYPE)
        path = quote(base64.b64encode(server.request).decode(), safe="")
        got = await http.get("/pki/ocsp/issuing/" + path)
    for response in (posted, got):
        assert status_of(response) is ocsp.OCSPResponseStatus.SUCCESSFUL


def test_every_error_code_has_a_status() -> None:
    assert set(STATUS_OF_CODE) == set(ErrorCode)
    assert ResponseStatus.SUCCESSFUL not in STATUS_OF_CODE.values()


@settings(max_examples=100)
@given(st.text(max_size=80))
def test_any_path_decodes_or_is_malformed(text: str) -> None:
    with contextlib.suppress(MalformedMessage):
        assert isinstance(decode_path(text), bytes)


@settings(max_examples=60)
@given(st.binary(min_size=1, max_size=80))
def test_decoding_reverses_encoding(data: bytes) -> None:
    text = base64.b64encode(data).decode()
    if text.startswith("/"):
        text = "/" + text  # a request starts with M: one slash in front is the proxy's
    assert decode_path(text) == data
