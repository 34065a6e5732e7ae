"""Partial lists, deltas, ranges and look-ups by hash over HTTP (RFC 9110 section 14, RFC 4387)."""

import base64
import datetime as dt
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.types import Message

from pkiserver.config import CRLSettings
from pkiserver.errors import PKIError
from pkiserver.web import downloads
from pkiserver.web.caching import http_date
from pkiserver.web.downloads import Download, send_download
from pkiserver.web.edge import Edge
from pkiserver.web.hot import HotPaths
from pkiserver.web.problems import exception_handlers
from protocols.crl import search
from protocols.crl.http import CA_PREFIX, CRL_MAX_AGE_BEHIND, CRL_PREFIX, Downloads, Library
from tests.ca.status_support import NOW, PKI, open_pki

CONTENT = bytes(range(256)) * 4
DAY = dt.timedelta(days=1)


@dataclass(frozen=True)
class Server:
    pki: PKI
    http: httpx.AsyncClient

    async def get(self, path: str) -> httpx.Response:
        return await self.http.get(path)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    settings = CRLSettings(delta=DAY, shards=2, scopes="split")
    async with open_pki(tmp_path, crl=settings) as pki:
        library = Library(pki.status, pki.authorities, pki.clock)
        hot = {
            CRL_PREFIX: Downloads(CRL_PREFIX, library.crl),
            CA_PREFIX: Downloads(CA_PREFIX, library.certificate),
        }
        app = Edge(
            HotPaths(Starlette(exception_handlers=exception_handlers()), prefixes=hot),
            access_log=False,
        )
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://pki") as http:
            yield Server(pki, http)


# Lists


async def test_the_urls_in_a_certificate_are_there(server: Server) -> None:
    issued = await server.pki.issue()
    extensions = issued.certificate.extensions
    point = extensions.get_extension_for_class(x509.CRLDistributionPoints).value[0]
    freshest = extensions.get_extension_for_class(x509.FreshestCRL).value[0]
    for names, delta in ((point.full_name, False), (freshest.full_name, True)):
        assert names is not None
        response = await server.get(names[0].value)
        assert response.headers["content-type"] == "application/pkix-crl"
        parsed = x509.load_der_x509_crl(response.content)
        kinds = {type(each.value) for each in parsed.extensions}
        assert (x509.DeltaCRLIndicator in kinds) is delta
        assert x509.IssuingDistributionPoint in kinds


@pytest.mark.parametrize(
    "path",
    ["/crl/issuing.2.2.crl", "/crl/issuing.4.0.crl", "/crl/issuing.2.0.crl",
     "/crl/issuing.user.crl", "/crl/issuing.3.1.crl", "/crl/issuing.delta",
     "/crl/issuing.%E2%91%A1.0.crl",
     "/crl/issuing.crl/", "/crl//issuing.crl", "/crl/issuing.crl%00", "/crl/issuing.2.0.crl.crl",
     "/crl/" + "a" * 4000 + ".crl", "/crl/issuing.delta.ca.crl"],
)  # fmt: skip
async def test_lists_there_are_not(server: Server, path: str) -> None:
    """Also shards no certificate points to."""
    response = await server.get(path)
    assert response.status_code == response.json()["status"] == 404


async def test_a_list_that_is_behind_is_cached_shortly(server: Server) -> None:
    await server.get("/crl/issuing.crl")
    issued = await server.pki.issue()
    await server.pki.keys.delete(server.pki.authorities.get("issuing").key_id)
    await server.pki.revoke(issued)
    response = await server.get("/crl/issuing.crl")
    assert response.status_code == 200
    assert response.headers["cache-control"].startswith(f"max-age={CRL_MAX_AGE_BEHIND},")


async def test_two_lists_of_one_second_are_told_apart_by_date(server: Server) -> None:
    """Whoever sends If-Modified-Since alone must not be kept from the second."""
    first = await server.get("/crl/issuing.crl")
    await server.pki.revoke(await server.pki.issue())
    server.pki.clock.advance(dt.timedelta(seconds=2))
    since = {"If-Modified-Since": first.headers["last-modified"]}
    second = await server.http.get("/crl/issuing.crl", headers=since)
    assert second.status_code == 200 and second.headers["etag"] != first.headers["etag"]


async def test_who_sends_the_time_of_its_last_download_gets_a_list_made_since(
    server: Server,
) -> None:
    """As `curl -z` does. thisUpdate lies back by more than the time between the two."""
    await server.get("/crl/issuing.crl")
    server.pki.clock.advance(dt.timedelta(minutes=1))
    downloaded = {"If-Modified-Since": http_date(server.pki.clock.now()).decode()}
    assert (await server.http.get("/crl/issuing.crl", headers=downloaded)).status_code == 304
    server.pki.clock.advance(dt.timedelta(minutes=1))
    await server.pki.revoke(await server.pki.issue())
    assert (await server.http.get("/crl/issuing.crl", headers=downloaded)).status_code == 200


async def test_a_list_that_is_dated_ahead_is_asked_for_by_tag_only(server: Server) -> None:
    """The second one of this second, or those of a clock that was ahead."""
    first = await server.get("/crl/issuing.crl")
    await server.pki.revoke(await server.pki.issue())
    since = {"If-Modified-Since": first.headers["last-modified"]}
    second = await server.http.get("/crl/issuing.crl", headers=since)
    assert second.status_code == 200 and "last-modified" not in second.headers
    tag = {"If-None-Match": second.headers["etag"]}
    assert (await server.http.get("/crl/issuing.crl", headers=tag)).status_code == 304


# Ranges


async def ask(method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    digest = hashlib.sha256(CONTENT).digest()
    answer = Download(CONTENT, digest, "application/pkix-crl", NOW, 300, NOW + DAY)
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    await send_download({"method": method, "headers": named}, send, answer)
    shown = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    assert [each.get("more_body", False) for each in sent[1:]] == [True] * (len(sent) - 2) + [False]
    return sent[0]["status"], shown, b"".join(each["body"] for each in sent[1:])


@pytest.mark.parametrize(
    ("asked", "begin", "end"),
    [("bytes=0-0", 0, 1), ("bytes=0-99", 0, 100), ("bytes=1000-", 1000, 1024),
     ("bytes=-24", 1000, 1024), ("bytes=1000-5000", 1000, 1024), ("bytes=-5000", 0, 1024)],
)  # fmt: skip
async def test_ranges(asked: str, begin: int, end: int) -> None:
    status, headers, body = await ask(range=asked)
    assert body == CONTENT[begin:end] and headers["content-length"] == str(end - begin)
    if (begin, end) == (0, 1024):
        assert status == 200 and "content-range" not in headers
    else:
        assert status == 206 and headers["content-range"] == f"bytes {begin}-{end - 1}/1024"


@pytest.mark.parametrize(
    "asked",
    ["bytes=5-2", "bytes=-", "bytes=0-1,4-5", "lines=0-1", "bytes=a-b", "bytes 0-1", "",
     "bytes=0-1;", "bytes=0x1-2", "bytes=" + "9" * 400 + "-"],
)  # fmt: skip
async def test_what_is_no_range_of_ours_is_ignored(asked: str) -> None:
    status, headers, body = await ask(range=asked)
    assert (status, body) == (200, CONTENT) and headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize("asked", ["bytes=1024-", "bytes=99999-", "bytes=-0"])
async def test_range_beyond_the_end(asked: str) -> None:
    status, headers, body = await ask(range=asked)
    assert (status, body) == (416, b"") and headers["content-range"] == "bytes */1024"
    assert headers["cache-control"] == "no-store", "it would keep others from the list"
    assert "etag" not in headers


async def test_if_range(tmp_path: Path) -> None:
    """Section 13.1.5: the part only of what the client has; a weak tag is never that."""
    etag = f'"{hashlib.sha256(CONTENT).hexdigest()}"'
    date = "Sun, 01 Mar 2026 12:00:00 GMT"
    for value, status in ((etag, 206), (date, 206), (f"W/{etag}", 200), ('"other"', 200),
                          ("Sun, 01 Mar 2026 11:59:59 GMT", 200)):  # fmt: skip
        assert (await ask(range="bytes=0-1", if_range=value))[0] == status
    assert (await ask(range="bytes=0-1", if_none_match=etag))[0] == 304


async def test_head_ignores_ranges() -> None:
    status, headers, body = await ask("HEAD", range="bytes=0-1")
    assert (status, body, headers["content-length"]) == (200, b"", "1024")


async def test_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (1, 7, 512, 1023, 1024, 2000):
        monkeypatch.setattr(downloads, "CHUNK", size)
        assert (await ask())[2] == CONTENT
        assert (await ask(range="bytes=3-1000"))[2] == CONTENT[3:1001]


@settings(max_examples=60)
@given(st.text(alphabet="bytes=-0123456789, ", max_size=24))
async def test_any_range_is_answered(asked: str) -> None:
    status, _, body = await ask(range=asked)
    assert status in (200, 206, 416) and body in CONTENT


# Look-ups by hash


def key_of(octets: bytes) -> str:
    return base64.b64encode(hashlib.sha1(octets, usedforsecurity=False).digest()).decode()[:27]


async def test_certificates_and_lists_by_hash(server: Server) -> None:
    own = server.pki.certificate()
    ski = own.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    hashes = {
        "certHash": key_of(own.public_bytes(Encoding.DER)),
        "sHash": key_of(own.subject.public_bytes()),
        "sKIDHash": key_of(ski),
    }
    for attribute, value in hashes.items():
        response = await server.get(f"/ca/search.cgi?{attribute}={quote(value, safe='')}")
        assert x509.load_der_x509_certificate(response.content) == own, attribute
    for attribute, value in (("iHash", hashes["sHash"]), ("sKIDHash", hashes["sKIDHash"])):
        response = await server.get(f"/crl/search.cgi?{attribute}={value}")
        assert x509.load_der_x509_crl(response.content).issuer == own.subject
    below = await server.get(f"/ca/search.cgi?iHash={key_of(own.issuer.public_bytes())}")
    assert below.headers["content-type"].startswith("application/pkcs7-mime"), "root and issuing"


@pytest.mark.parametrize(
    ("query", "status"),
    [("", 400), ("sHash=", 400), ("sHash=" + "a" * 28, 400), ("sHash=" + "a" * 26 + "*", 400),
     ("sHash=" + "a" * 27, 404), ("name=" + "a" * 27, 404), ("uri=x", 400),
     ("sHash=" + "a" * 27 + "&sHash=" + "a" * 27, 400), ("a" * 300, 400), ("%00=%ff", 400)],
)  # fmt: skip
async def test_queries_that_find_nothing(server: Server, query: str, status: int) -> None:
    for prefix in (CRL_PREFIX, CA_PREFIX):
        response = await server.get(f"{prefix}search.cgi?{query}")
        assert response.status_code == status


@settings(max_examples=100)
@given(st.binary(max_size=80))
def test_any_query_is_understood_or_refused(query: bytes) -> None:
    try:
        _, value = search.parse_query(query)
    except PKIError:
        return
    assert len(value) == 27
