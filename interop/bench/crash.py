"""SIGKILL under load: `python -m interop.bench.crash --rounds 50 [--write]`.

Clients of ACME, SCEP and EST issue and revoke against `pkiserver up`, and somebody approves what
has to be approved. At a random moment the parent and every worker are killed; the server is started
again on the same home, now and then killed while it starts, too. Then nothing that a client was
told may have become untrue, everything that was begun must come to its end, and the home must be
sound. `--write` puts the result into docs/performance.md."""

import argparse
import asyncio
import datetime as dt
import os
import random
import shutil
import ssl
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from interop.bench import aftermath, page
from interop.bench.client import Refused, responder
from interop.bench.device_witness import DeviceWitness, ESTWitness, Login, SCEPWitness
from interop.bench.killable import APPROVED, Server
from interop.bench.relying_party import RelyingParty, get
from interop.bench.witness import ACMEWitness, Held, Revocation, Witness
from interop.dns import challenge_dns
from interop.processes import InteropError
from tests.test_scep.client import rsa_key

ACME_CLIENTS = 6
DEVICES = {"default": 2, APPROVED: 1}
"""Clients of SCEP, and of EST, by label."""
LONGEST_LOAD = 2.0
"""Seconds of load before the kill, at most."""
START_KILLED = 0.25
"""How many of the starts after a crash are killed as well."""
REVOKED = 0.3
"""How many certificates are revoked as soon as they are there."""
TWICE = 0.3
"""How many requests of devices are sent several times at once."""

WARM_SECONDS = 120
"""In which the first load has given every client something to lose."""

SLOW_TARGETS, SLOW = 0.05, 1.5
"""How many targets of validation take their time, and at most how many seconds."""


AnyWitness = Witness[Any]


@dataclass
class Tally:
    """What was put under load and what came of it; certificates by protocol."""

    kills: int = 0
    start_kills: int = 0
    certificates: Counter[str] = field(default_factory=Counter)
    settled: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    approved: int = 0
    asked: int = 0
    left_behind: Counter[str] = field(default_factory=Counter)
    revocations: Counter[Revocation] = field(default_factory=Counter)
    slowest_start: float = 0.0
    slowest_end: float = 0.0

    def at_the_kill(self, fresh: Sequence[AnyWitness], left_behind: Counter[str]) -> None:
        self.kills += 1
        self.left_behind += left_behind
        for one in fresh:
            self.certificates[protocol(one)] += sum(bool(order.chain) for order in one.orders)
            self.settled[protocol(one)] += sum(not order.chain for order in one.orders)
            self.revocations.update(order.revocation for order in one.orders)

    def lines(self) -> list[str]:
        under_way = ", ".join(f"{count} {what}" for what, count in self.left_behind.items())
        return [
            f"- {self.kills} kills under load, {self.start_kills} more while the server started.",
            f"- Certificates handed out before the kill: {_counts(self.certificates)}; "
            f"{self.revocations[Revocation.ACKNOWLEDGED]} revocations acknowledged: none was lost. "
            f"{self.revocations[Revocation.ASKED]} revocations were not answered, and asked for "
            "again.",
            f"- Asked for and not answered: {_counts(self.settled)}. Each got its certificate "
            "after the crash, and none got two.",
            f"- {self.duplicates} requests sent again at the same moment, {self.approved} requests "
            f"approved, {self.asked} answers of OCSP for certificates that were revoked.",
            f"- Left behind in the database: {under_way}.",
            f"- Until the server was ready again: {self.slowest_start:.1f} s at most. From then "
            f"until every client had what it had begun: {self.slowest_end:.1f} s at most, those "
            "that wait for a person aside.",
        ]


def protocol(witness: AnyWitness) -> str:
    return {ACMEWitness: "ACME", SCEPWitness: "SCEP", ESTWitness: "EST"}[type(witness)]


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{number} {what}" for what, number in counter.items())


@dataclass(frozen=True)
class Logins:
    """By label."""

    scep: dict[str, Login]
    est: dict[str, Login]

    @classmethod
    async def new(cls, server: Server) -> "Logins":
        asked = [(protocol, label) for protocol in ("scep", "est") for label in DEVICES]
        made = await asyncio.gather(*(asyncio.to_thread(server.login, *each) for each in asked))
        found = dict(zip(asked, made, strict=True))
        scep, est = ({label: found[each, label] for label in DEVICES} for each in ("scep", "est"))
        return cls(scep, est)


class Trial:
    """A home that is killed again and again; all clients it ever had. `workers` are how many there
    may be."""

    def __init__(
        self,
        server: Server,
        chance: random.Random,
        tokens: dict[str, str],
        logins: Logins,
        workers: Sequence[int],
    ) -> None:
        self.tally = Tally()
        self._server = server
        self._chance = chance
        self._tokens = tokens
        self._logins = logins
        self._workers = workers
        self._names = (f"crash-{number}.bench.test" for number in count())
        self._context = ssl.create_default_context(cafile=str(server.root))
        certificate = get(f"{server.http_url}/ca/issuing.cer")
        issuer = x509.load_der_x509_certificate(certificate)
        self._relying_party = RelyingParty(server.http_url, issuer)
        self._unknown: Counter[str] = (
            Counter()
        )  # orders that no client was told of stay as they are
        self._approved: list[str] = []
        self._orders: list[Held] = []
        self._rounds: list[list[AnyWitness]] = []

    async def round(self) -> None:
        """Load, kill, start, check; the server runs on. Raises InteropError or `Refused`."""
        fresh = [*self._fresh()]
        load = [
            asyncio.create_task(one.work(self._names, lambda: self._chance.random() < REVOKED))
            for one in fresh
        ]
        async with self._approving():
            if not self._rounds:
                await self._something_to_lose(fresh)
            await asyncio.sleep(self._chance.uniform(0.1, LONGEST_LOAD))
            anchor = aftermath.audit_head(self._server.database)
            aftermath.check_log(await asyncio.to_thread(self._server.kill))
        await asyncio.gather(*load)
        orders = [order for one in fresh for order in one.orders]
        left = await asyncio.to_thread(aftermath.left_behind, self._server.database)
        self.tally.at_the_kill(fresh, left - self._unknown)
        await self._start_again()
        async with self._approving():
            await asyncio.gather(*(self._resume(one) for one in fresh))
        await asyncio.to_thread(self._server.verify_audit, anchor)
        await self._check(orders)
        self._unknown = await asyncio.to_thread(aftermath.under_way, self._server.database)
        self._rounds.append(fresh)
        self._orders += orders

    async def _something_to_lose(self, fresh: Sequence[AnyWitness]) -> None:
        """Every client has begun, and a certificate is revoked, however slow the machine is."""
        deadline = time.monotonic() + WARM_SECONDS
        while not (
            all(one.orders for one in fresh)
            and any(o.revocation is Revocation.ACKNOWLEDGED for one in fresh for o in one.orders)
        ):
            if time.monotonic() > deadline:
                raise InteropError(f"nothing to lose after {WARM_SECONDS} s of load")
            await asyncio.sleep(0.05)

    def _fresh(self) -> Iterator[AnyWitness]:
        url = f"{self._server.base_url}/acme/default/directory"
        hear = self._relying_party.hear
        for _ in range(ACME_CLIENTS):
            yield ACMEWitness(url, self._context, self._tokens, on_revoked=hear)
        for label, number in DEVICES.items():
            scep, est = self._logins.scep[label], self._logins.est[label]
            common: dict[str, Any] = {"on_revoked": hear, "twice": self._twice}
            for each in range(number):
                yield SCEPWitness(url, self._context, {}, rsa_key(each), login=scep, **common)
                key = ec.generate_private_key(ec.SECP256R1())
                yield ESTWitness(url, self._context, {}, key, login=est, **common)

    def _twice(self) -> bool:
        return self._chance.random() < TWICE

    @asynccontextmanager
    async def _approving(self) -> AsyncIterator[None]:
        """Meanwhile somebody approves whatever waits; killed in whatever he does at the end."""
        task = asyncio.create_task(self._approve_all())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _approve_all(self) -> None:
        while True:
            for each in await asyncio.to_thread(aftermath.waiting, self._server.database):
                if await self._server.approve(each):
                    self._approved.append(each)
            await asyncio.sleep(0.1)

    async def _resume(self, one: AnyWitness) -> None:
        """How long it takes counts where nobody has to approve."""
        began = time.monotonic()
        await one.resume()
        if not (isinstance(one, DeviceWitness) and one.login.label == APPROVED):
            self.tally.slowest_end = max(self.tally.slowest_end, time.monotonic() - began)

    async def _start_again(self) -> None:
        while self._chance.random() < START_KILLED:
            await asyncio.to_thread(self._server.launch, self._chance.choice(self._workers))
            await asyncio.sleep(self._chance.uniform(0.2, self.tally.slowest_start or 2.0))
            aftermath.check_log(await asyncio.to_thread(self._server.kill))
            self.tally.start_kills += 1
        seconds = await asyncio.to_thread(self._server.start, self._chance.choice(self._workers))
        self.tally.slowest_start = max(self.tally.slowest_start, seconds)

    async def _check(self, orders: Sequence[Held]) -> None:
        await asyncio.to_thread(aftermath.check_database, self._server.database)
        await asyncio.to_thread(aftermath.check_stored, self._server.database, orders)
        await asyncio.to_thread(aftermath.check_approved, self._server.database, self._approved)
        await self._relying_party.check(orders)

    async def end(self) -> Tally:
        """Everything of all rounds once more: what survived one crash has to survive the next."""
        for witnesses in self._rounds:
            await asyncio.gather(*(one.resume() for one in witnesses))
        await self._check(self._orders)
        serials = {order.leaf.serial_number for order in self._orders}
        if len(serials) != len(self._orders):
            raise InteropError("two requests got one certificate")
        every = chain.from_iterable(self._rounds)
        devices = (one for one in every if isinstance(one, DeviceWitness))
        self.tally.duplicates = sum(one.duplicates for one in devices)
        self.tally.approved = len(self._approved)
        self.tally.asked = self._relying_party.asked
        aftermath.check_log(await asyncio.to_thread(self._server.stop))
        return self.tally

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """A relying party that asks OCSP and fetches the CRLs all the time."""
        watch = asyncio.create_task(self._relying_party.watch())
        try:
            yield
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch
        finally:
            watch.cancel()


async def crash(
    base: Path, rounds: int, chance: random.Random, workers: Sequence[int] = (1, 2)
) -> Tally:
    """So many rounds on a new home below `base`, each start with a number of `workers`. Raises
    InteropError or `Refused`."""
    tokens: dict[str, str] = {}
    with challenge_dns(base) as dns:
        server = Server(base, dns.resolver)
        try:
            async with await responder(server.http01_port, tokens, lambda: _delay(chance)):
                await asyncio.to_thread(server.start, 1)
                logins = await Logins.new(server)
                trial = Trial(server, chance, tokens, logins, workers)
                async with trial.watched():
                    for _ in range(rounds):
                        await trial.round()
                    return await trial.end()
        finally:
            await asyncio.to_thread(server.stop)


def _delay(chance: random.Random) -> float:
    """Some targets of validation are slow: the challenge is on record as processing meanwhile."""
    return chance.uniform(0.0, SLOW) if chance.random() < SLOW_TARGETS else 0.0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument(
        "--seed", type=int, default=None, help="of the moments; random if not given"
    )
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[1, 2], help="how many a start has, at random"
    )
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    given = parser.parse_args(argv)
    seed = random.randrange(1 << 32) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    base = Path(tempfile.mkdtemp(prefix="crash-"))
    try:
        tally = asyncio.run(crash(base, given.rounds, random.Random(seed), given.workers))
    except (InteropError, Refused) as wrong:
        print(f"{wrong}\nThe home and every log: {base}", file=sys.stderr)
        return 1
    shutil.rmtree(base)
    text = "\n".join(tally.lines())
    print(text)
    if given.write:
        page.write("crash", f"{dt.datetime.now(dt.UTC):%Y-%m-%d}, {os.cpu_count()} CPUs:\n{text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
