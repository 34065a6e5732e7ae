"""`pkiserver.create_app` in somebody else's application: at the root, below a prefix, in several
processes; a whole ACME order each time."""

import asyncio
import logging
import secrets
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

import pkiserver
from pkiserver.app import Runtime, load_settings, open_runtime
from pkiserver.ca.model import CertificateRequest, Requester
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.initialise import NewHome, initialise
from pkiserver.pkix.names import dns_name
from pkiserver.presence import Presence
from pkiserver.storage import Transaction
from tests.ca.world import csr_for
from tests.test_acme.client import ACMEClient, make_csr

CONFIGURATION = """\
[server]
external_url = "{https}"
external_http_url = "{http}"

[acme.default]
authorization = "trusted"
"""


@pytest.fixture(scope="session")
def made_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("embedded") / "pki"
    initialise(home, NewHome(root_key="p256"))
    return home


@pytest.fixture
def home(made_home: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "pki"
    shutil.copytree(made_home, copy)
    return copy


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:], root.level = handlers, level


def configure(home: Path, prefix: str = "") -> None:
    text = CONFIGURATION.format(
        https=f"https://portal.example{prefix}", http=f"http://portal.example{prefix}"
    )
    (home / "pkiserver.toml").write_text(text, encoding="utf-8")


def lifespan_of(app: Starlette) -> AbstractAsyncContextManager[object]:
    return app.router.lifespan_context(app)


@asynccontextmanager
async def client_of(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, client=("192.0.2.1", 1234))
    async with httpx.AsyncClient(transport=transport) as client:
        yield client


async def hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


def portal(inner: Starlette, prefix: str) -> Starlette:
    """An application of somebody else's, who passes our lifespan on as the documentation says."""
    return Starlette(
        routes=[Route("/hello", hello), Mount(prefix or "/", app=inner)],
        lifespan=inner.router.lifespan_context,
    )


async def certificate_by_acme(http: httpx.AsyncClient, base: str) -> list[x509.Certificate]:
    client = await ACMEClient(http, f"{base}/acme/default/directory").start()
    assert all(url.startswith(f"{base}/acme/default/") for url in client.directory.values()
               if isinstance(url, str))  # fmt: skip
    assert (await client.new_account()).status_code == 201
    order = (await client.new_order(["www.example.com"])).json()
    csr, _ = make_csr(["www.example.com"])
    done = (await client.finalize(order, csr)).json()
    assert done["status"] == "valid", done
    chain = await client.post(done["certificate"])
    assert chain.status_code == 200
    return x509.load_pem_x509_certificates(chain.content)


@pytest.mark.parametrize("prefix", ["", "/pki", "/a/b", "/acme", "/crl"])
async def test_a_whole_order_in_another_application(home: Path, prefix: str) -> None:
    """RFC 8555 section 7, and the URLs that the certificate carries."""
    configure(home, prefix)
    app = portal(pkiserver.create_app(home), prefix)
    base = f"https://portal.example{prefix}"
    async with lifespan_of(app), client_of(app) as http:
        assert (await http.get("https://portal.example/hello")).text == "hello"
        leaf, issuer = await certificate_by_acme(http, base)
        leaf.verify_directly_issued_by(issuer)

        access = leaf.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
        urls = {each.access_method: each.access_location.value for each in access}
        question = ocsp.OCSPRequestBuilder().add_certificate(
            leaf, issuer, hashes.SHA256()
        ).build().public_bytes(Encoding.DER)  # fmt: skip
        answer = await http.post(
            urls[AuthorityInformationAccessOID.OCSP],
            content=question,
            headers={"Content-Type": "application/ocsp-request"},
        )
        status = ocsp.load_der_ocsp_response(answer.content).certificate_status
        assert status is ocsp.OCSPCertStatus.GOOD
        assert (
            await http.get(urls[AuthorityInformationAccessOID.CA_ISSUERS])
        ).content == issuer.public_bytes(Encoding.DER)
        points = leaf.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
        assert points[0].full_name
        crl = x509.load_der_x509_crl((await http.get(points[0].full_name[0].value)).content)
        assert crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
        assert (await http.get(f"{base}/readyz")).json() == {"status": "ready"}


async def test_the_example_of_the_document(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(home, "/pki")
    document = Path(__file__).parent.parent / "docs" / "embedding.md"
    example = document.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(home.parent)
    module: dict[str, Any] = {}
    exec(compile(example, str(document), "exec"), module)
    async with lifespan_of(module["app"]), client_of(module["app"]) as http:
        assert (await http.get("https://portal.example/hello")).text == "hello"
        assert len(await certificate_by_acme(http, "https://portal.example/pki")) == 2


async def test_served_as_it_is(home: Path) -> None:
    configure(home)
    app = pkiserver.create_app(load_settings(home))
    async with lifespan_of(app), client_of(app) as http:
        assert len(await certificate_by_acme(http, "https://portal.example")) == 2


@pytest.mark.parametrize("prefix", ["", "/pki"])
async def test_limits_and_the_form_of_refusals_hold_there_too(home: Path, prefix: str) -> None:
    configure(home, prefix)
    app = portal(pkiserver.create_app(home), prefix)
    base = f"https://portal.example{prefix}"
    async with lifespan_of(app), client_of(app) as http:
        large = await http.post(f"{base}/acme/default/new-order", content=bytes(2 << 20))
        assert large.status_code == 413
        assert large.json()["type"].startswith("urn:ietf:params:acme:error:")
        assert large.headers["content-type"] == "application/problem+json"
        unknown = await http.get(f"{base}/nothing")
        assert unknown.status_code == 404 and "x-request-id" in unknown.headers


async def test_without_the_lifespan_it_says_so(home: Path) -> None:
    configure(home)
    app = Starlette(routes=[Mount("/", app=pkiserver.create_app(home))])
    async with client_of(app) as http:
        answer = await http.get("https://portal.example/acme/default/directory")
        assert answer.status_code == 503 and "lifespan" in answer.text


async def test_it_starts_and_stops_again_and_again(home: Path) -> None:
    configure(home)
    app = pkiserver.create_app(home)
    for _ in range(2):
        async with lifespan_of(app), client_of(app) as http:
            assert (await http.get("https://portal.example/readyz")).status_code == 200
        async with client_of(app) as http:
            assert (await http.get("https://portal.example/readyz")).status_code == 503


async def test_several_processes_serve_one_home(home: Path) -> None:
    """As under a process manager: one account, used here and there, with nonces of either."""
    configure(home)
    first, second = pkiserver.create_app(home), pkiserver.create_app(home)
    async with (
        lifespan_of(first), lifespan_of(second), client_of(first) as one, client_of(second) as two
    ):  # fmt: skip
        client = await ACMEClient(one, "https://portal.example/acme/default/directory").start()
        await client.new_account()
        client.http = two
        assert (await client.new_order(["www.example.com"])).status_code == 201


async def leave_unfinished(runtime: Runtime) -> None:
    names = [dns_name("www.example.com")]
    issuance = runtime.services.issuance
    wanted = CertificateRequest("tls-server", Requester("test", "x"), csr_for(names), names)

    def crash(tx: Transaction) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await issuance.issue(await issuance.prepare(wanted), on_issued=crash)


async def signing(runtime: Runtime) -> int:
    sql = "SELECT COUNT(*) FROM certificates WHERE status = 'signing'"
    row = await runtime.services.database.read(lambda reader: reader.one(sql))
    return int(row[0]) if row else -1


async def test_a_process_that_starts_leaves_the_work_of_others_alone(home: Path) -> None:
    """What is half done may be in the middle of being done; alone, it is what a crash left."""
    configure(home)
    settings = load_settings(home)
    async with open_runtime(settings) as busy:
        async with busy.serving():
            await leave_unfinished(busy)
            async with open_runtime(settings) as late:
                await late.recover()
            assert await signing(busy) == 1
        async with open_runtime(settings) as alone:
            await alone.recover()
        assert await signing(busy) == 0


async def test_presence(tmp_path: Path) -> None:
    first, second = Presence(tmp_path), Presence(tmp_path)
    async with first.serving(), second.serving():
        with Presence(tmp_path).alone() as alone:
            assert not alone
    with first.alone() as alone, second.alone() as two:
        assert alone and not two
        waiting = asyncio.create_task(_serve_once(second))
        await asyncio.wait({waiting}, timeout=0.05)
        assert not waiting.done()
    await waiting


async def _serve_once(presence: Presence) -> None:
    async with presence.serving():
        pass


async def test_what_started_is_stopped_when_the_rest_does_not_start(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(home)
    async with open_runtime(load_settings(home)) as runtime:

        async def away() -> None:
            raise PKIError(ErrorCode.UNAVAILABLE, "away")

        monkeypatch.setattr(runtime.services.status, "start", away)
        before = asyncio.all_tasks()
        with pytest.raises(PKIError, match="away"):
            async with runtime.serving():
                pass
        assert asyncio.all_tasks() == before
        with Presence(runtime.services.state).alone() as alone:
            assert alone


async def test_no_local_variables_in_the_log_of_an_application_that_configures_none(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """structlog's own default would show what was in them: keys, passwords."""
    configure(home)
    async with lifespan_of(pkiserver.create_app(home)):
        passphrase = secrets.token_hex(8)
        try:
            raise RuntimeError("failed")
        except RuntimeError:
            structlog.get_logger("pkiserver").exception("internal error", password=passphrase)
    shown = capsys.readouterr().out
    assert "RuntimeError" in shown and "Traceback" in shown
    assert passphrase not in shown
