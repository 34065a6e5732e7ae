"""Every signed resource of a directory with a request that it would accept."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
from cryptography.hazmat.primitives.serialization import Encoding

from tests.test_acme.client import CONTENT_TYPE, ACMEClient, Signer, b64, make_csr
from tests.test_acme.world import World


@dataclass(frozen=True)
class Target:
    """A resource, a payload that is good for it and who signs."""

    name: str
    url: str
    payload: object
    signer: Signer


@dataclass
class Targets:
    """An account with something behind each resource."""

    world: World
    client: ACMEClient
    all: list[Target]

    def __iter__(self) -> Iterator[Target]:
        return iter(self.all)

    async def send(
        self, target: Target, body: bytes, content_type: str | None = CONTENT_TYPE
    ) -> httpx.Response:
        headers = {} if content_type is None else {"Content-Type": content_type}
        return await self.world.http.post(target.url, content=body, headers=headers)

    async def nonce(self) -> str:
        response = await self.world.http.head(self.client.directory["newNonce"])
        return str(response.headers["replay-nonce"])

    async def sign(self, target: Target, **options: Any) -> bytes:
        """A request for the target; `signer`, `url`, `nonce`, `payload` replace what is right."""
        signer: Signer = options.pop("signer", target.signer)
        url: str = options.pop("url", target.url)
        payload = options.pop("payload", target.payload)
        nonce = options.pop("nonce") if "nonce" in options else await self.nonce()
        return signer.sign(url, payload, nonce=nonce, **options)


async def open_targets(world: World) -> Targets:
    client = await world.account()
    issued = await world.issue(client, "issued.example.org")
    ready = await world.ready_order(client, "ready.example.org")
    pending = (await client.new_order(["pending.example.org"])).json()
    authorization = pending["authorizations"][0]
    challenge = (await client.post(authorization)).json()["challenges"][0]["url"]
    csr, _ = make_csr(["ready.example.org"])
    certificate = {"certificate": b64(issued.certificate.public_bytes(Encoding.DER))}
    account, by_key = client.signer, Signer(issued.key)
    directory = client.directory
    change = account.key_change(Signer(), directory["keyChange"])
    order = {"identifiers": [{"type": "dns", "value": "new.example.org"}]}
    authz = {"identifier": {"type": "dns", "value": "new.example.org"}}
    return Targets(
        world,
        client,
        [
            Target("newNonce", directory["newNonce"], None, account),
            Target("newAccount", directory["newAccount"], {}, Signer()),
            Target("account", str(account.kid), {"contact": []}, account),
            Target("orders", f"{account.kid}/orders", None, account),
            Target("newOrder", directory["newOrder"], order, account),
            Target("order", ready["url"], None, account),
            Target("finalize", ready["finalize"], {"csr": b64(csr)}, account),
            Target("newAuthz", directory["newAuthz"], authz, account),
            Target("authorization", authorization, None, account),
            Target("challenge", challenge, {}, account),
            Target("certificate", issued.order["certificate"], None, account),
            Target("revokeCert", directory["revokeCert"], certificate, account),
            Target("revokeCert by key", directory["revokeCert"], certificate, by_key),
            Target("keyChange", directory["keyChange"], change, account),
        ],
    )


__all__ = ["Target", "Targets", "open_targets"]
