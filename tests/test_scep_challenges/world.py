"""A CA core on a real database, with the tables of SCEP, and what a device's request looks like to
a validator. Only the clock is not real."""

import datetime as dt
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver import config
from pkiserver.app import open_runtime
from pkiserver.ca.issuance import Issued
from pkiserver.ca.model import CertificateRequest, Requester
from pkiserver.clock import FixedClock
from pkiserver.config import CoreSettings
from pkiserver.pkix import csr as csr_codec
from pkiserver.plugin import Services
from pkiserver.storage import Row, migrate
from protocols.scep.challenge import Accepted, ChallengeRequest
from tests.ca.world import csr_for

NOW = dt.datetime(2026, 11, 21, 12, 0, 0, tzinfo=dt.UTC)
MIGRATIONS = Path(__file__).parents[2] / "protocols" / "scep" / "migrations"
PROFILES: Mapping[str, Any] = {
    "approved": {"subject": "CN={cn}", "dns": {"allow": ["*.example"]}, "requires_approval": True},
    "signing": {"subject": "CN={cn}", "require_name": False, "key_usage": ["digitalSignature"],
                "extended_key_usage": ["clientAuth"]},
    "encipherment": {"subject": "CN={cn}", "require_name": False, "key_usage": ["keyEncipherment"],
                     "key_kinds": ["rsa-2048"], "extended_key_usage": ["clientAuth"]},
    "tunnel": {"subject": "CN={cn}", "require_name": False, "key_usage": ["digitalSignature"],
               "extended_key_usage": ["1.3.6.1.5.5.7.3.6"]},
    "whole": {"subject": "CN={cn},emailAddress={emailaddress},OU={ou},O={o},L={l},ST={st},C={c}",
              "require_name": False, "email": {"allow": ["@contoso.example"]},
              "key_usage": ["digitalSignature", "keyEncipherment"],
              "extended_key_usage": ["clientAuth"]},
    "short": {"subject": "CN={cn}", "dns": {"allow": ["*.example"]}, "validity": "6d",
              "key_usage": ["digitalSignature", "keyEncipherment"], "require_name": False,
              "extended_key_usage": ["clientAuth"]},
}  # fmt: skip


def settings_of(home: Path) -> CoreSettings:
    server = {"hostname": "pki.example", "http": "127.0.0.1:80"}
    return config.build(home, {"server": server, "profiles": dict(PROFILES)}, {})


@dataclass
class World:
    """The services and what a device does."""

    services: Services
    clock: FixedClock

    async def rows(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        return await self.services.database.read(lambda reader: reader.all(sql, params))

    async def issue(self, request: ChallengeRequest, accepted: Accepted) -> Issued:
        """What the service does once a validator accepted, without the delivery."""
        prepared = await self.services.issuance.prepare(
            CertificateRequest(
                profile=accepted.profile or "device",
                requester=Requester("scep", accepted.party, request.address),
                csr=request.csr_der,
            )
        )
        consume = accepted.on_reserved
        return await self.services.issuance.issue(
            prepared,
            on_reserved=None if consume is None else lambda tx: consume(tx, prepared.id),
        )

    async def secrets_seen(self) -> str:
        """Everything the database says in text."""
        tables = await self.rows("SELECT name FROM sqlite_master WHERE type = 'table'")
        return "\n".join([str(await self.rows(f"SELECT * FROM {name}")) for (name,) in tables])


@asynccontextmanager
async def open_world(template: Path, home: Path) -> AsyncIterator[World]:
    """A copy of the template home, or the one that is there already."""
    if not home.exists():
        shutil.copytree(template, home)
    clock = FixedClock(NOW)
    async with open_runtime(settings_of(home), clock=clock) as runtime:
        await migrate(runtime.services.database, {"scep": MIGRATIONS})
        yield World(runtime.services, clock)


def request(
    challenge: str | None,
    *,
    transaction_id: str = "T-1",
    common_name: str = "device-1.example",
    csr_der: bytes | None = None,
    label: str = "default",
    address: str = "192.0.2.7",
    names: Sequence[Any] = (),
) -> ChallengeRequest:
    """A PKCSReq as a validator sees it."""
    data = csr_for(names, common_name=common_name) if csr_der is None else csr_der
    return ChallengeRequest(
        transaction_id=transaction_id,
        csr=csr_codec.parse(data),
        csr_der=data,
        challenge=challenge,
        label=label,
        address=address,
    )


def public_bytes(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)
