"""An ACME client that remembers what the server told it, holds the server to it, and goes on after
the server died, from wherever each order stands."""

import asyncio
import contextlib
import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from interop.bench.client import Client, Refused, b64, new_csr

BROKEN = (OSError, asyncio.IncompleteReadError)
"""What a request raises when the server dies."""
SETTLE_SECONDS = 60
"""An order that has no end this long after the server is back cannot go on."""
_PROGRESS = ("pending", "ready", "processing", "valid")


class Broken(Refused):
    """The server does not stand by what it said."""


class Revocation(enum.Enum):
    NONE = enum.auto()
    ASKED = enum.auto()
    ACKNOWLEDGED = enum.auto()


@dataclass
class Known:
    """One order as its client knows it: the last status it was told, the certificate's URL, what
    was downloaded there."""

    name: str
    url: str
    status: str = "pending"
    certificate: str = ""
    chain: bytes = b""
    revocation: Revocation = Revocation.NONE

    def see(self, document: dict[str, Any]) -> None:
        """Take note of the order as it is now. Raises `Broken` if it went back or failed."""
        status = document["status"]
        if status not in _PROGRESS:
            raise Broken(f"{self.url} was {self.status}, and now: {document}")
        if _PROGRESS.index(status) < _PROGRESS.index(self.status):
            raise Broken(f"{self.url} went back from {self.status} to {status}")
        certificate = document.get("certificate", "")
        if self.certificate not in ("", certificate):
            raise Broken(f"{self.url}: another certificate than {self.certificate}: {certificate}")
        self.status, self.certificate = status, certificate

    @property
    def leaf(self) -> x509.Certificate:
        return x509.load_pem_x509_certificates(self.chain)[0]


@dataclass
class Witness(Client):
    """A client and its orders."""

    orders: list[Known] = field(default_factory=list)

    async def work(self, names: Iterator[str], revokes: Callable[[], bool]) -> None:
        """Issue, and now and then revoke, until the server dies."""
        with contextlib.suppress(*BROKEN):
            await self.register()
            for name in names:
                order = await self.begin(name)
                await self.advance(order)
                if revokes():
                    await self.revoke(order)
        self.close()

    async def resume(self) -> None:
        """Bring everything that was begun to its end. Raises `Broken` or `Refused`."""
        if not self.kid:
            await self.register()
        for order in self.orders:
            try:
                async with asyncio.timeout(SETTLE_SECONDS):
                    await self.advance(order)
            except TimeoutError:
                raise Broken(f"{order.url} cannot go on: it stays {order.status}") from None
            if order.revocation is Revocation.ASKED:
                await self.revoke(order)
        self.close()

    async def begin(self, name: str) -> Known:
        identifiers = [{"type": "dns", "value": name}]
        made = await self.post(self._directory["newOrder"], {"identifiers": identifiers})
        order = Known(name, made.headers["location"])
        self.orders.append(order)
        order.see(made.json())
        return order

    async def advance(self, order: Known) -> None:
        """From wherever it stands to a certificate, which is what it was if it was known."""
        document = (await self.post(order.url, None)).json()
        order.see(document)
        if order.status == "pending":
            for url in document["authorizations"]:
                await self._authorize(url)
            order.see((await self.post(order.url, None)).json())
        if order.status == "ready":
            csr = b64(new_csr(self.leaf_key, order.name))
            order.see((await self.post(document["finalize"], {"csr": csr})).json())
        while order.status != "valid":
            await asyncio.sleep(0.05)
            order.see((await self.post(order.url, None)).json())
        chain = (await self.post(order.certificate, None)).body
        if order.chain not in (b"", chain):
            raise Broken(f"{order.certificate} is not what it was")
        order.chain = chain

    async def _authorize(self, url: str) -> None:
        authorization = (await self.post(url, None)).json()
        if authorization["status"] == "pending":
            challenge = next(c for c in authorization["challenges"] if c["type"] == "http-01")
            token = challenge["token"]
            # For good: after a crash the server comes again.
            self.tokens[token] = f"{token}.{self._thumbprint}"
            await self.post(challenge["url"], {})
        await self._poll(url, authorization, ("pending",))

    async def revoke(self, order: Known) -> None:
        """As superseded. That it is revoked already is an answer if this was asked before."""
        asked = order.revocation is not Revocation.NONE
        order.revocation = Revocation.ASKED
        certificate = b64(order.leaf.public_bytes(Encoding.DER))
        try:
            await self.post(
                self._directory["revokeCert"], {"certificate": certificate, "reason": 4}
            )
        except Refused as refused:
            if not asked or ":alreadyRevoked" not in str(refused):
                raise
        order.revocation = Revocation.ACKNOWLEDGED
