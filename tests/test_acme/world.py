"""A real ACME service in one process: SQLite, key files, a root and an issuing CA, the ASGI
application; fake are only the clock and what challenge validation finds outside."""

import datetime as dt
import functools
import ipaddress
import shutil
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509

from pkiserver import config, registry
from pkiserver.app import Runtime, open_runtime
from pkiserver.clock import FixedClock
from pkiserver.config import CoreSettings, Section
from pkiserver.errors import PKIError
from pkiserver.storage import Row
from protocols.acme.build import build_endpoints
from protocols.acme.challenges.dns import account_label, key_authorization_digest
from protocols.acme.challenges.model import (
    ALPNAnswer,
    CAAAnswer,
    CAARecord,
    FailureKind,
    FetchHTTP,
    HTTPAnswer,
    ProbeALPN,
    Reached,
    ResolveCAA,
    ResolveTXT,
    TXTAnswer,
    ValidationFailed,
)
from protocols.acme.endpoints import Endpoints
from protocols.acme.http import ACMEApp
from protocols.acme.nonces import SharedNonces
from protocols.acme.service.directory import Directory
from protocols.acme.service.external import ExternalAccounts, NewExternalAccount
from protocols.acme.service.validation import Validation
from protocols.acme.settings import ACMESettings
from tests.test_acme.client import ACMEClient, Signer, make_csr

BASE = "https://acme.test"
NOW = dt.datetime(2026, 11, 21, 12, 0, 0, tzinfo=dt.UTC)
ADDRESS = "192.0.2.10"
PROFILES: dict[str, Any] = {
    "tls-server": {"validity": "90d"},
    "short": {"issuer": "issuing", "validity": "6d", "dns": {"allow": ["*.example.org"]},
              "extended_key_usage": ["serverAuth"], "description": "Six days"},
    "checked": {"issuer": "issuing", "validity": "90d", "dns": {"allow": ["*"]}, "caa": True,
                "wildcards": True, "extended_key_usage": ["serverAuth"]},
}  # fmt: skip
_TARGET = ipaddress.ip_address("192.0.2.80")
_REACHED = Reached((_TARGET,), _TARGET, 80)


@dataclass
class FakeProber:
    """The outside world: what is published there, and what fails. `failures` are raised, one for
    each request to a host or name, before anything is answered. `asked` lists every request."""

    pages: dict[tuple[str, str], str] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)
    caa: dict[str, list[CAARecord]] = field(default_factory=dict)
    certificates: dict[str, bytes] = field(default_factory=dict)
    failures: dict[str, list[FailureKind]] = field(default_factory=lambda: defaultdict(list))
    asked: list[object] = field(default_factory=list)

    def _note(self, request: object, name: str) -> None:
        self.asked.append(request)
        if self.failures[name]:
            raise ValidationFailed(self.failures[name].pop(0), f"{request}: failed as planned")

    async def fetch_http(self, request: FetchHTTP) -> HTTPAnswer:
        self._note(request, request.host)
        page = self.pages.get((request.host, request.target))
        status, body = (404, b"") if page is None else (200, page.encode())
        return HTTPAnswer(_REACHED, status, None, None, body, truncated=False)

    async def resolve_txt(self, request: ResolveTXT) -> TXTAnswer:
        self._note(request, request.name)
        records = tuple(text.encode() for text in self.texts.get(request.name, ()))
        return TXTAnswer(records, not records, (), "192.0.2.53:53")

    async def resolve_caa(self, request: ResolveCAA) -> CAAAnswer:
        self._note(request, request.name)
        return CAAAnswer(tuple(self.caa.get(request.name, ())), "192.0.2.53:53")

    async def probe_alpn(self, request: ProbeALPN) -> ALPNAnswer:
        self._note(request, request.host)
        certificate = self.certificates.get(request.host)
        return ALPNAnswer(_REACHED, None if certificate is None else "acme-tls/1", certificate)

    async def publish(
        self, authorization: dict[str, Any], challenge: dict[str, Any], proof: str
    ) -> None:
        """What a client does before it responds to http-01, dns-01 or dns-account-01."""
        value = authorization["identifier"]["value"].lower()
        if challenge["type"] == "http-01":
            self.pages[value, f"/.well-known/acme-challenge/{challenge['token']}"] = proof
        else:
            self.texts.setdefault(f"_acme-challenge.{value}", []).append(
                key_authorization_digest(proof)
            )

    def publish_for_account(self, domain: str, account_url: str, proof: str) -> None:
        """dns-account-01."""
        name = f"_{account_label(account_url)}._acme-challenge.{domain}"
        self.texts[name] = [key_authorization_digest(proof)]


@dataclass
class World:
    """The service under test."""

    runtime: Runtime
    clock: FixedClock
    prober: FakeProber
    endpoints: Mapping[str, Endpoints]
    app: ACMEApp
    http: httpx.AsyncClient

    async def client(self, directory: str = "default", signer: Signer | None = None) -> ACMEClient:
        """A client that has read the directory."""
        url = f"{BASE}/acme/{directory}/directory"
        return await ACMEClient(self.http, url, signer).start()

    async def account(self, directory: str = "default", **members: Any) -> ACMEClient:
        """A client with an account."""
        client = await self.client(directory)
        response = await client.new_account(**members)
        assert response.status_code == 201, response.text
        return client

    async def ready_order(
        self, client: ACMEClient, *names: str, challenge: str = "http-01", **members: Any
    ) -> dict[str, Any]:
        """An order whose authorizations have all been proven; the object has its `url`."""
        response = await client.new_order(names, **members)
        assert response.status_code == 201, response.text
        order = response.json()
        for url in order["authorizations"]:
            if (await client.post(url)).json()["status"] == "pending":
                answered = await client.answer(url, challenge, self.prober.publish)
                assert answered.json()["status"] == "valid", answered.text
        url = response.headers["location"]
        return {**(await client.post(url)).json(), "url": url}

    async def issue(self, client: ACMEClient, *names: str, **members: Any) -> "Issued":
        """A certificate by the usual way."""
        order = await self.ready_order(client, *names, **members)
        csr, key = make_csr(names)
        response = await client.finalize(order, csr)
        assert response.status_code == 200, response.text
        final = response.json()
        assert final["status"] == "valid", final
        chain = await client.post(final["certificate"])
        leaf = x509.load_pem_x509_certificates(chain.content)[0]
        return Issued({**final, "url": order["url"]}, leaf, key)

    def external(self, directory: str = "default") -> ExternalAccounts:
        return ExternalAccounts(self.endpoints[directory].directory)

    async def external_account(
        self, directory: str = "default", **fields: Any
    ) -> NewExternalAccount:
        wanted: dict[str, Any] = {
            "uses": 1, "lifetime": None, "profile": None, "names": (), "trusted": False,
            "note": "", "actor": "test:operator",
        }  # fmt: skip
        return await self.external(directory).create(**wanted | fields)

    async def rows(self, sql: str) -> list[Row]:
        return await self.runtime.services.database.read(lambda reader: reader.all(sql))

    async def issued(self) -> list[Row]:
        """(id, requester, status) of the certificates that ACME accounts asked for."""
        return await self.rows(
            "SELECT id, requester, status FROM certificates WHERE requester LIKE 'acme:%'"
        )

    async def contents(self) -> dict[str, list[Row]]:
        """Every row of ACME and of the inventory."""
        tables = await self.rows(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND "
            "(name LIKE 'acme%' OR name IN ('certificates', 'revocations', 'blocked_keys'))"
        )
        return {name: await self.rows(f"SELECT * FROM {name} ORDER BY 1, 2") for (name,) in tables}

    async def audit(self, action: str) -> list[Row]:
        return [
            row
            for row in await self.rows("SELECT action, object, outcome, detail FROM audit")
            if row[0] == action
        ]


@dataclass
class Issued:
    """An order that is done, its certificate and the certificate's key."""

    order: dict[str, Any]
    certificate: x509.Certificate
    key: Any


def settings_of(
    home: Path, acme: Mapping[str, Any], profiles: Mapping[str, Any] | None = None
) -> CoreSettings:
    table = {
        "server": {"hostname": "acme.test", "https": "127.0.0.1:443", "http": "127.0.0.1:80"},
        "profiles": {**PROFILES, **(profiles or {})},
        "acme": acme,
    }
    return config.build(home, table, _sections())


@functools.cache
def _sections() -> dict[str, type[Section]]:
    return registry.sections(registry.available())


@asynccontextmanager
async def open_acme(
    template: Path,
    home: Path,
    *,
    clock: FixedClock | None = None,
    delays: tuple[float, ...] = (0.0, 0.0),
    profiles: Mapping[str, Any] | None = None,
    **acme: Mapping[str, Any],
) -> AsyncIterator[World]:
    """The service in a copy of `template`, with one directory for each keyword; `default` is there
    anyway."""
    if not home.exists():
        shutil.copytree(template, home)
    clock = clock or FixedClock(NOW)
    settings = settings_of(home, {"default": {}, **acme}, profiles)
    prober = FakeProber()
    async with open_runtime(settings, clock=clock) as runtime:
        built = {
            name: _endpoints(Directory(name, item, runtime.services), prober, delays)
            for name, item in settings.section("acme").items()
            if isinstance(item, ACMESettings)
        }
        nonces = SharedNonces(home / "run" / "test-nonces", clock)
        app = ACMEApp(built, nonces)
        transport = httpx.ASGITransport(app, client=(ADDRESS, 40000))
        async with httpx.AsyncClient(transport=transport, base_url=BASE) as http:
            yield World(runtime, clock, prober, built, app, http)
        for endpoints in built.values():
            await endpoints.validation.stop()
            await endpoints.finalizer.stop()
        nonces.close()


def _endpoints(directory: Directory, prober: FakeProber, delays: tuple[float, ...]) -> Endpoints:
    validation = Validation(directory, prober, delays=delays)
    return replace(build_endpoints(directory, prober), validation=validation)


def problem(response: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    """The problem document of a refusal, its outside checked (RFC 8555 section 6.7, checklist 27
    and 29)."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["type"] == f"urn:ietf:params:acme:error:{kind}", body
    assert body["status"] == status
    assert body["detail"]
    assert b"null" not in response.content and b"{}" not in response.content
    if response.request.method == "POST":
        assert len(response.headers.get_list("replay-nonce")) == 1
    return body


__all__ = ["ADDRESS", "BASE", "NOW", "FakeProber", "PKIError", "World", "open_acme", "problem"]
