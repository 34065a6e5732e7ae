"""Clients that remember what the server told them, hold it to that, and go on after the server
died, from wherever each thing they asked for stands. Here what all have in common, and ACME; the
protocols of devices are in `device_witness`."""

import asyncio
import contextlib
import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from interop.bench.client import Client, Refused, b64, new_csr

BROKEN = (OSError, asyncio.IncompleteReadError)
"""What a request raises when the server dies."""
SETTLE_SECONDS = 60
"""What has no end this long after the server is back cannot go on."""
_PROGRESS = ("pending", "ready", "processing", "valid")


class Broken(Refused):
    """The server does not stand by what it said."""


class Revocation(enum.Enum):
    NONE = enum.auto()
    ASKED = enum.auto()
    ACKNOWLEDGED = enum.auto()


@dataclass
class Held:
    """A certificate that was asked for, as its client knows it: `chain` is the PEM that it was
    handed, empty before. The names are of this certificate alone."""

    name: str
    chain: bytes = b""
    revocation: Revocation = Revocation.NONE

    def take(self, chain: bytes) -> None:
        """Handed out: the same as ever. Raises `Broken`."""
        if self.chain not in (b"", chain):
            raise Broken(f"{self}: the certificate is not what it was")
        self.chain = chain

    def __str__(self) -> str:
        return self.name

    @property
    def leaf(self) -> x509.Certificate:
        return x509.load_pem_x509_certificates(self.chain)[0]


H = TypeVar("H", bound=Held)


def nobody_listens(_: x509.Certificate) -> None:
    """A revocation that nobody wants to hear of."""


@dataclass
class Witness(Client, ABC, Generic[H]):
    """A client and what it asked for. `on_revoked` is told each certificate whose revocation was
    acknowledged, at once."""

    orders: list[H] = field(default_factory=list)
    on_revoked: Callable[[x509.Certificate], None] = nobody_listens

    @abstractmethod
    async def connect(self) -> None:
        """Whatever has to be there before anything can be asked for, unless it is."""

    @abstractmethod
    async def begin(self, name: str) -> H:
        """Ask for something new, which is among `orders` from when it could be gone on with."""

    @abstractmethod
    async def advance(self, order: H) -> None:
        """From wherever it stands to a certificate, which is what it was if it was known."""

    async def work(self, names: Iterator[str], revokes: Callable[[], bool]) -> None:
        """Issue, and now and then revoke, until the server dies."""
        with contextlib.suppress(*BROKEN):
            await self.connect()
            for name in names:
                order = await self.begin(name)
                await self.advance(order)
                if revokes():
                    await self.revoke(order)
        self.close()

    async def resume(self) -> None:
        """Bring everything that was begun to its end. Raises `Broken` or `Refused`."""
        await self.connect()
        for order in self.orders:
            if order.revocation is Revocation.ASKED:
                await self.revoke(order)
            try:
                async with asyncio.timeout(SETTLE_SECONDS):
                    await self.advance(order)
            except TimeoutError:
                raise Broken(f"{order} cannot go on") from None
        self.close()

    async def revoke(self, order: H) -> None:
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
        self.on_revoked(order.leaf)


# ACME


@dataclass
class Order(Held):
    """An order: the last status it was told, and the certificate's URL."""

    url: str = ""
    status: str = "pending"
    certificate: str = ""

    def __str__(self) -> str:
        return f"{self.url} ({self.status})"

    def see(self, document: dict[str, Any]) -> None:
        """Take note of the order as it is now. Raises `Broken` if it went back or failed."""
        status = document["status"]
        if status not in _PROGRESS:
            raise Broken(f"{self} now is: {document}")
        if _PROGRESS.index(status) < _PROGRESS.index(self.status):
            raise Broken(f"{self} went back to {status}")
        certificate = document.get("certificate", "")
        if self.certificate not in ("", certificate):
            raise Broken(f"{self}: another certificate than {self.certificate}: {certificate}")
        self.status, self.certificate = status, certificate


@dataclass
class ACMEWitness(Witness[Order]):
    """An account and its orders."""

    async def connect(self) -> None:
        if not self.kid:
            await self.register()

    async def begin(self, name: str) -> Order:
        identifiers = [{"type": "dns", "value": name}]
        made = await self.post(self._directory["newOrder"], {"identifiers": identifiers})
        order = Order(name, url=made.headers["location"])
        self.orders.append(order)
        order.see(made.json())
        return order

    async def advance(self, order: Order) -> None:
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
        order.take((await self.post(order.certificate, None)).body)

    async def _authorize(self, url: str) -> None:
        authorization = (await self.post(url, None)).json()
        if authorization["status"] == "pending":
            challenge = next(c for c in authorization["challenges"] if c["type"] == "http-01")
            token = challenge["token"]
            # For good: after a crash the server comes again.
            self.tokens[token] = f"{token}.{self._thumbprint}"
            await self.post(challenge["url"], {})
        await self._poll(url, authorization, ("pending",))
