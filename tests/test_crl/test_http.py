"""Downloads of CRLs and CA certificates: media types (RFC 2585, RFC 5280), caching, conditions."""

import datetime as dt
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from pkiserver.ca.crl_view import BACKDATE
from pkiserver.web.caching import http_date
from pkiserver.web.edge import Edge
from pkiserver.web.hot import HotPaths
from pkiserver.web.problems import exception_handlers
from protocols.crl.http import (
    CA_PREFIX,
    CERTIFICATE_MAX_AGE,
    CRL_MAX_AGE,
    CRL_PREFIX,
    ROOTS_PATH,
    Downloads,
    Library,
)
from tests.ca.status_support import PKI, has, open_pki, tool

PATHS = ["/crl/issuing.crl", "/ca/issuing.cer", "/ca/issuing.pem", "/ca/issuing.p7c", "/roots.pem"]


@dataclass(frozen=True)
class Server:
    pki: PKI
    http: httpx.AsyncClient


def _client(app: Edge | Starlette) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://pki.example.com"
    )


def _hot(pki: PKI) -> dict[str, Downloads]:
    library = Library(pki.status, pki.authorities, pki.clock)
    return {
        CRL_PREFIX: Downloads(CRL_PREFIX, library.crl),
        CA_PREFIX: Downloads(CA_PREFIX, library.certificate),
        ROOTS_PATH: Downloads(ROOTS_PATH, library.roots),
    }


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with open_pki(tmp_path) as pki:
        nothing_else = Starlette(exception_handlers=exception_handlers())
        app = Edge(HotPaths(nothing_else, prefixes=_hot(pki)), access_log=False)
        async with _client(app) as http:
            yield Server(pki, http)


async def test_crl_with_its_headers(server: Server) -> None:
    response = await server.http.get("/crl/issuing.crl")
    loaded = x509.load_der_x509_crl(response.content)
    headers = response.headers
    assert loaded.issuer == server.pki.certificate().subject
    assert headers["content-type"] == "application/pkix-crl"
    assert headers["etag"] == f'"{hashlib.sha256(response.content).hexdigest()}"'
    assert headers["cache-control"] == (
        f"max-age={CRL_MAX_AGE}, public, no-transform, must-revalidate"
    )
    assert headers["last-modified"] == http_date(loaded.last_update_utc + BACKDATE).decode()
    assert headers["expires"] == "Sun, 08 Mar 2026 12:00:00 GMT"


async def test_an_outdated_crl_is_served_but_not_cached(server: Server) -> None:
    await server.http.get("/crl/root.crl")
    await server.pki.keys.delete(server.pki.authorities.get("root").key_id)
    server.pki.clock.advance(dt.timedelta(days=30))
    response = await server.http.get("/crl/root.crl")
    assert response.status_code == 200
    assert response.headers["cache-control"].startswith("max-age=0,")


async def test_ca_certificate_in_der(server: Server) -> None:
    for name in ("root", "issuing"):
        response = await server.http.get(f"/ca/{name}.cer")
        assert response.headers["content-type"] == "application/pkix-cert"
        assert x509.load_der_x509_certificate(response.content) == server.pki.certificate(name)
        assert f"max-age={CERTIFICATE_MAX_AGE}" in response.headers["cache-control"]


async def test_chain_in_pem_and_cms(server: Server) -> None:
    """Without the root, which whoever verifies has already; the root's own is itself."""
    for name in ("root", "issuing"):
        expected = [server.pki.certificate(name)]
        chain = await server.http.get(f"/ca/{name}.pem")
        assert chain.headers["content-type"] == "application/pem-certificate-chain"
        assert x509.load_pem_x509_certificates(chain.content) == expected
        bundle = await server.http.get(f"/ca/{name}.p7c")
        assert bundle.headers["content-type"].startswith("application/pkcs7-mime")
        assert pkcs7.load_der_pkcs7_certificates(bundle.content) == expected


async def test_roots(server: Server) -> None:
    response = await server.http.get("/roots.pem")
    assert response.headers["content-type"] == "application/x-pem-file"
    assert x509.load_pem_x509_certificates(response.content) == [server.pki.certificate("root")]


@pytest.mark.parametrize("path", PATHS)
async def test_conditional_requests(server: Server, path: str) -> None:
    """RFC 9110 section 13: 304 with the validators, and If-None-Match before If-Modified-Since."""
    first = await server.http.get(path)
    etag, modified = first.headers["etag"], first.headers["last-modified"]
    old = "Thu, 01 Jan 1970 00:00:00 GMT"
    cases = [
        ({"If-None-Match": etag}, 304),
        ({"If-None-Match": f'"other", W/{etag}'}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"other"'}, 200),
        ({"If-None-Match": '"other"', "If-Modified-Since": modified}, 200),
        ({"If-Modified-Since": modified}, 304),
        ({"If-Modified-Since": old}, 200),
        ({"If-Modified-Since": "no date at all"}, 200),
    ]
    for headers, status in cases:
        response = await server.http.get(path, headers=headers)
        assert response.status_code == status, headers
        assert response.headers["etag"] == etag
        assert bool(response.content) is (status == 200)


@pytest.mark.parametrize("path", PATHS)
async def test_head_has_the_headers_of_get(server: Server, path: str) -> None:
    got, head = await server.http.get(path), await server.http.head(path)
    assert head.status_code == 200 and head.content == b""
    for name in ("content-length", "content-type", "etag", "cache-control"):
        assert head.headers[name] == got.headers[name]


@pytest.mark.parametrize("path", PATHS)
async def test_other_methods_are_refused(server: Server, path: str) -> None:
    response = await server.http.post(path)
    assert response.status_code == response.json()["status"] == 405
    assert response.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "path",
    ["/crl/nobody.crl", "/crl/issuing.cer", "/crl/issuing", "/crl/", "/crl/.crl", "/ca/nobody.cer",
     "/ca/issuing.crl", "/ca/issuing.", "/ca/issuing.der", "/ca/a/b.cer", "/roots.pem/x",
     "/crl/%2e%2e%2fpki.db.crl"],
)  # fmt: skip
async def test_what_there_is_not(server: Server, path: str) -> None:
    response = await server.http.get(path)
    assert response.status_code == response.json()["status"] == 404
    assert response.headers["content-type"] == "application/problem+json"


async def test_no_list_yet_and_no_key_is_unavailable(server: Server) -> None:
    await server.pki.keys.delete(server.pki.authorities.get("root").key_id)
    response = await server.http.get("/crl/root.crl")
    assert response.status_code == response.json()["status"] == 503


async def test_pending_authority_has_no_certificate(server: Server) -> None:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Pending")])
    await server.pki.authorities.request("pending", subject, "p256", actor="test")
    assert (await server.http.get("/ca/pending.cer")).status_code == 503
    assert (await server.http.get("/crl/pending.crl")).status_code == 503
    assert (await server.http.get("/roots.pem")).status_code == 200


async def test_urls_in_certificates_lead_here(server: Server) -> None:
    """RFC 5280 sections 4.2.1.13 and 4.2.2.1: what a certificate points at is what it needs."""
    issued = await server.pki.issue()
    extensions = issued.certificate.extensions
    points = extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    (name,) = points[0].full_name or []
    listed = x509.load_der_x509_crl((await server.http.get(name.value)).content)
    assert listed.issuer == issued.certificate.issuer
    access = extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    (issuers,) = [
        each.access_location.value
        for each in access
        if each.access_method == AuthorityInformationAccessOID.CA_ISSUERS
    ]
    issuer = x509.load_der_x509_certificate((await server.http.get(issuers)).content)
    issued.certificate.verify_directly_issued_by(issuer)


async def test_below_a_mount_of_an_embedding_application(server: Server) -> None:
    hot = _hot(server.pki)
    inner = Starlette(
        routes=[
            Route(CRL_PREFIX + "{file}", hot[CRL_PREFIX]),
            Route(CA_PREFIX + "{file}", hot[CA_PREFIX]),
            Route(ROOTS_PATH, hot[ROOTS_PATH]),
        ]
    )
    async with _client(Starlette(routes=[Mount("/pki", app=inner)])) as http:
        for path in PATHS:
            assert (await http.get("/pki" + path)).status_code == 200
            assert (await http.head("/pki" + path)).status_code == 200


@pytest.mark.skipif(not has("openssl"), reason="needs openssl")
async def test_openssl_reads_the_certs_only_message(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "issuing.p7c"
    file.write_bytes((await server.http.get("/ca/issuing.p7c")).content)
    shown = tool("openssl", "pkcs7", "-inform", "DER", "-in", file, "-print_certs", "-noout")
    assert shown.returncode == 0 and "Example Issuing" in shown.stdout
