"""Witnesses that speak SCEP and EST. What was asked for once is asked for again after a crash, in
the same words: it has to become the same certificate, also where several ask at once."""

import asyncio
import base64
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from interop.bench.client import Answer, Connection, Refused, new_csr
from interop.bench.witness import BROKEN, Broken, Held, Revocation, Witness
from pkiserver.cms import certs_only
from tests.test_scep.client import Device, Rep, new_transaction

LOOK_SECONDS = 0.2
_AT_ONCE = 3
"""Connections of a client that asks for the same several times at once."""
T = TypeVar("T")
H = TypeVar("H", bound=Held)


@dataclass(frozen=True)
class Login:
    """Where a client of a section comes in: the label, the base URL of all, a name, a password."""

    label: str
    base_url: str
    name: str
    password: str = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        pair = base64.b64encode(f"{self.name}:{self.password}".encode()).decode()
        return {"Authorization": f"Basic {pair}"}


def nothing_twice() -> bool:
    """Whether to ask several times at once: no."""
    return False


@dataclass
class DeviceWitness(Witness[H]):
    """The key it signs to ACME with, to revoke, is the one it has certified. `twice` says whether
    the next request is sent several times at once."""

    login: Login = field(kw_only=True)
    twice: Callable[[], bool] = nothing_twice
    duplicates: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._others = [Connection(self.directory_url, self.context) for _ in range(_AT_ONCE - 1)]

    async def connect(self) -> None:
        if not self._directory:
            await self.look_around()

    def close(self) -> None:
        super().close()
        for each in self._others:
            each.close()

    async def _ask(
        self, send: Callable[[Connection], Awaitable[T]], take: Callable[[T], None]
    ) -> None:
        """Once, or at the same time on several connections: each answer that comes is taken, also
        where the server dies before the others."""
        connections = [self._connection]
        if self.twice():
            connections += self._others
            self.duplicates += len(self._others)
        found = await asyncio.gather(*map(send, connections), return_exceptions=True)
        for each in found:
            if not isinstance(each, BaseException):
                take(each)
        raised = [each for each in found if isinstance(each, BaseException)]
        # What is wrong goes before a connection that broke.
        for error in sorted(raised, key=lambda each: isinstance(each, BROKEN)):
            raise error


# SCEP


@dataclass
class Transaction(Held):
    """A transactionID and the one-time challenge that is for it."""

    transaction_id: str = ""
    challenge: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"transaction {self.transaction_id} for {self.name}"


@dataclass
class SCEPWitness(DeviceWitness[Transaction]):
    """`login` may fetch challenges."""

    async def connect(self) -> None:
        await super().connect()
        answer = await self._connection.request("GET", f"{self._url}?operation=GetCACert")
        self._ca = certs_only.parse(_checked(answer))

    @property
    def _url(self) -> str:
        return f"{self.login.base_url}/scep/{self.login.label}"

    async def begin(self, name: str) -> Transaction:
        url = f"{self.login.base_url}/scep-challenge/{self.login.label}"
        answer = await self._connection.request("POST", url, b"", self.login.headers)
        challenge = _checked(answer).decode()
        order = Transaction(name, transaction_id=new_transaction(), challenge=challenge)
        self.orders.append(order)
        return order

    async def advance(self, order: Transaction) -> None:
        if order.revocation is Revocation.ACKNOWLEDGED:
            await self._refused(order, order.transaction_id)
            return
        await self._ask(lambda connection: self._enrol(order, connection), self._taker(order))
        while not order.chain:
            await asyncio.sleep(LOOK_SECONDS)
            await self._ask(
                lambda connection: self._poll_for(order, connection), self._taker(order)
            )

    async def resume(self) -> None:
        await super().resume()
        for order in self.orders:
            await self._refused(order, new_transaction())
        self.close()

    def _taker(self, order: Transaction) -> Callable[[Rep], None]:
        known = bool(order.chain)
        return lambda rep: self._see(order, rep, known=known)

    def _see(self, order: Transaction, rep: Rep, *, known: bool) -> None:
        if rep.status == "0":
            order.take(rep.certificate.public_bytes(Encoding.PEM))
        elif rep.status != "3" or known:
            raise Broken(f"{order}: status {rep.status}, {rep.fail_info}, {rep.text}")

    async def _refused(self, order: Transaction, transaction_id: str) -> None:
        """A challenge is for one certificate, whatever became of it."""
        rep = await self._enrol(order, self._connection, transaction_id)
        if rep.status != "2":
            raise Broken(f"{order}: its challenge is good for another certificate: {rep.status}")

    async def _enrol(
        self, order: Transaction, connection: Connection, transaction_id: str = ""
    ) -> Rep:
        device = self._device(order)
        message = device.pkcs_req(
            order.challenge,
            csr={"names": [x509.DNSName(order.name)]},
            transaction_id=transaction_id or order.transaction_id,
        )
        return await self._operation(device, connection, message)

    async def _poll_for(self, order: Transaction, connection: Connection) -> Rep:
        device = self._device(order)
        message = device.cert_poll(transaction_id=order.transaction_id)
        return await self._operation(device, connection, message)

    def _device(self, order: Transaction) -> Device:
        return Device.new(self._ca, key=self.key, common_name=order.name)

    async def _operation(self, device: Device, connection: Connection, message: bytes) -> Rep:
        headers = {"Content-Type": "application/x-pki-message"}
        url = f"{self._url}?operation=PKIOperation"
        return device.read(_checked(await connection.request("POST", url, message, headers)))


# EST


@dataclass
class Enrollment(Held):
    """A request, to the octet."""

    csr: bytes = b""

    def __str__(self) -> str:
        return f"enrollment of {self.name}"


@dataclass
class ESTWitness(DeviceWitness[Enrollment]):
    """`login` is a user with a password."""

    async def begin(self, name: str) -> Enrollment:
        order = Enrollment(name, csr=new_csr(self.key, name))
        self.orders.append(order)
        return order

    async def advance(self, order: Enrollment) -> None:
        """One that is revoked is left: the same request is a new one then."""
        if order.revocation is Revocation.ACKNOWLEDGED:
            return
        send = self._sender(order)
        known = bool(order.chain)
        await self._ask(send, lambda answer: self._see(order, answer, known=known))
        while not order.chain:
            await asyncio.sleep(LOOK_SECONDS)
            await self._ask(send, lambda answer: self._see(order, answer, known=False))

    def _sender(self, order: Enrollment) -> Callable[[Connection], Awaitable[Answer]]:
        url = f"{self.login.base_url}/.well-known/est/{self.login.label}/simpleenroll"
        headers = {"Content-Type": "application/pkcs10", **self.login.headers}
        body = base64.b64encode(order.csr)
        return lambda connection: connection.request("POST", url, body, headers)

    def _see(self, order: Enrollment, answer: Answer, *, known: bool) -> None:
        """`known`: there was a certificate before this was asked."""
        if answer.status == 202 and not known:
            return
        if answer.status != 200:
            raise Broken(f"{order}: {answer.status} {answer.body[:300]!r}")
        certificates: Sequence[x509.Certificate] = certs_only.parse(base64.b64decode(answer.body))
        order.take(certificates[0].public_bytes(Encoding.PEM))


def _checked(answer: Answer) -> bytes:
    if answer.status != 200:
        raise Refused(f"{answer.status} {answer.body[:300]!r}")
    return answer.body
