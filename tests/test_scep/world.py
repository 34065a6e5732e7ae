"""A real SCEP service in one process: SQLite, key files, a root and an EC issuing CA, the ASGI
application; only the clock is fake."""

import asyncio
import datetime as dt
import functools
import json
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from starlette.types import ASGIApp

from pkiserver import config, registry
from pkiserver.app import Runtime, open_runtime
from pkiserver.ca.authorities import bootstrap
from pkiserver.clock import FixedClock
from pkiserver.cms import certs_only
from pkiserver.config import CoreSettings, Section
from pkiserver.keys import FileKeyProvider, KeyProvider, PrivateKey, create_passphrase
from pkiserver.storage import Row
from protocols.scep.one_time import OneTimeChallenges
from tests.test_scep.client import Device, Rep

NOW = dt.datetime(2026, 11, 21, 12, 0, 0, tzinfo=dt.UTC)
BASE = "http://scep.test"
ADDRESS = "192.0.2.10"
PROFILES: dict[str, Any] = {
    "approved": {"issuer": "issuing", "validity": "30d", "subject": "CN={cn}",
                 "require_name": False, "requires_approval": True, "dns": {"allow": ["*"]},
                 "extended_key_usage": ["clientAuth"]},
    "plain": {"issuer": "issuing", "validity": "30d", "dns": {"allow": ["*"]},
              "extended_key_usage": ["clientAuth", "serverAuth"]},
}  # fmt: skip


@functools.cache
def _sections() -> dict[str, type[Section]]:
    return registry.sections(registry.available())


def settings_of(
    home: Path, scep: Mapping[str, Any], profiles: Mapping[str, Any] | None = None
) -> CoreSettings:
    table = {
        "server": {"hostname": "scep.test", "https": "127.0.0.1:443", "http": "127.0.0.1:80"},
        "profiles": {**PROFILES, **(profiles or {})},
        "scep": scep,
    }
    return config.build(home, table, _sections())


def make_template(home: Path) -> None:
    """A home with its authorities and a registration authority, to be copied."""
    (home / "keys").mkdir(mode=0o700, parents=True)
    settings = settings_of(home, {"default": {}})
    create_passphrase(settings)

    async def fill() -> None:
        async with open_runtime(settings, clock=FixedClock(NOW)) as runtime:
            await bootstrap(
                runtime.services.authorities, organization="Acme, Inc.", root_key="p256",
                issuing_key="p256",
            )  # fmt: skip
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(application(runtime)), base_url=BASE
            ) as http:
                answer = await http.get("/scep/default?operation=GetCACert")
                assert answer.status_code == 200, answer.text

    asyncio.run(fill())


def application(runtime: Runtime, *, plain: bool = True) -> ASGIApp:
    app = runtime.plain_app() if plain else runtime.app()
    return runtime.edge(app, access_log=False)


@dataclass
class World:
    """The service, and what is needed to act on it."""

    runtime: Runtime
    clock: FixedClock
    http: httpx.AsyncClient

    async def ca(self, label: str = "default") -> tuple[x509.Certificate, ...]:
        answer = await self.http.get(f"/scep/{label}?operation=GetCACert")
        assert answer.status_code == 200, answer.text
        return certs_only.parse(answer.content)

    async def device(self, label: str = "default", **options: Any) -> Device:
        return Device.new(await self.ca(label), **options)

    async def challenge(self, label: str = "default", **options: Any) -> str:
        challenges = OneTimeChallenges(self.runtime.services, label, dt.timedelta(hours=1))
        return (await challenges.create(actor="test:operator", **options)).secret

    async def post(self, message: bytes, label: str = "default") -> httpx.Response:
        return await self.http.post(f"/scep/{label}?operation=PKIOperation", content=message)

    async def send(
        self,
        device: Device,
        message: bytes,
        label: str = "default",
        *,
        password: str | None = None,
    ) -> Rep:
        answer = await self.post(message, label)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/x-pki-message"
        return device.read(answer.content, password=password)

    async def enrol(self, device: Device, label: str = "default", **options: Any) -> Rep:
        """With a new one-time challenge."""
        message = device.pkcs_req(await self.challenge(label), **options)
        rep = await self.send(device, message, label)
        assert rep.status == "0", (rep.fail_info, rep.text)
        return rep

    async def rows(self, sql: str) -> list[Row]:
        return await self.runtime.services.database.read(lambda reader: reader.all(sql))

    async def issued(self) -> int:
        """How many certificates devices have got."""
        rows = await self.rows(
            "SELECT count(*) FROM certificates WHERE requester LIKE 'scep:%' "
            "AND profile NOT LIKE 'scep-ra%'"
        )
        return int(rows[0][0])

    async def refusals(self) -> list[dict[str, Any]]:
        rows = await self.rows("SELECT detail FROM audit WHERE action = 'scep.refuse'")
        return [json.loads(row[0]) for row in rows]


def _share_keys(keys: KeyProvider, home: Path) -> None:
    """Reading an RSA key takes longer than most tests: its primes are checked."""
    assert isinstance(keys, FileKeyProvider)
    for path in (home / "keys").glob("scep-*.key"):
        keys._loaded[path.stem] = _read_key(path.read_bytes(), keys.passphrase())


@functools.cache
def _read_key(pem: bytes, passphrase: bytes) -> PrivateKey:
    key = load_pem_private_key(pem, passphrase)
    assert isinstance(key, PrivateKey)
    return key


@asynccontextmanager
async def open_scep(
    template: Path,
    home: Path,
    *,
    clock: FixedClock | None = None,
    profiles: Mapping[str, Any] | None = None,
    **scep: Mapping[str, Any],
) -> AsyncIterator[World]:
    """The service in a copy of `template`, with one section for each keyword; `default` is there
    anyway."""
    if not home.exists():
        shutil.copytree(template, home)
    clock = clock or FixedClock(NOW)
    settings = settings_of(home, {"default": {}, **scep}, profiles)
    async with open_runtime(settings, clock=clock) as runtime:
        _share_keys(runtime.services.keys, home)
        transport = httpx.ASGITransport(application(runtime), client=(ADDRESS, 40000))
        async with httpx.AsyncClient(transport=transport, base_url=BASE) as http:
            yield World(runtime, clock, http)
