"""SIGKILL under load: `python -m interop.bench.crash --rounds 50 [--write]`.

Clients issue and revoke against `pkiserver up`. At a random moment the parent and every worker are
killed; the server is started again on the same home, now and then killed while it starts, too.
Then nothing that a client was told may have become untrue, everything that was begun must come to
its end, and the home must be sound. `--write` puts the result into docs/performance.md."""

import argparse
import asyncio
import datetime as dt
import json
import os
import random
import shutil
import signal
import ssl
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from cryptography import x509

from interop.bench import aftermath, page
from interop.bench.acme import descendants
from interop.bench.aftermath import RelyingParty
from interop.bench.client import Refused, responder
from interop.bench.witness import Known, Revocation, Witness
from interop.dns import challenge_dns
from interop.processes import InteropError, Service, free_ports, run, service
from interop.target import START_SECONDS, https_get

CLIENTS = 8
LONGEST_LOAD = 2.0
"""Seconds of load before the kill, at most."""
START_KILLED = 0.25
"""How many of the starts after a crash are killed as well."""
REVOKED = 0.3
"""How many certificates are revoked as soon as they are there."""

SLOW_TARGETS, SLOW = 0.05, 1.5
"""How many targets of validation take their time, and at most how many seconds."""


class Server:
    """`pkiserver up` on one home and one set of ports, to be killed and started again."""

    def __init__(self, base: Path, resolver: str) -> None:
        https, http, self.http01_port = free_ports(3)
        self._base = base
        self.home = base / "pki"
        self.database = self.home / "pki.db"
        self.root = self.home / "root.pem"
        self.base_url = f"https://localhost:{https}"
        self.http_url = f"http://localhost:{http}"
        self._command = Path(sys.executable).with_name("pkiserver")
        self._listeners = ["--https", f"127.0.0.1:{https}", "--http", f"127.0.0.1:{http}"]
        settings = {
            "HTTP01_PORT": str(self.http01_port),
            "DNS_RESOLVERS": json.dumps([resolver]),
            "ORDERS_PER_ACCOUNT": "1000000/1h",
            "ACCOUNTS_PER_ADDRESS": "1000000/1h",
        }
        self._env = {f"PKISERVER_ACME__DEFAULT__{key}": text for key, text in settings.items()}
        self._stack = ExitStack()
        self._running: Service | None = None

    def start(self, workers: int) -> float:
        """Until it is ready; how many seconds that took."""
        began = time.monotonic()
        self.launch(workers).wait_until(self._ready, START_SECONDS, "readyz")
        return time.monotonic() - began

    def launch(self, workers: int) -> Service:
        words = [str(self._command), "up", "--home", str(self.home), "--hostname", "localhost"]
        words += [*self._listeners, "--workers", str(workers)]
        running = self._stack.enter_context(service(words, cwd=self._base, env=self._env))
        self._running = running
        return running

    def _ready(self) -> bool:
        try:
            https_get(f"{self.base_url}/readyz", self.root)
        except OSError:
            return False
        return True

    def kill(self) -> str:
        """SIGKILL to the parent and every worker; what they had logged, when all are gone."""
        if self._running is None:
            raise InteropError("the server was not started")
        process = self._running.process
        pids = [process.pid, *descendants(process.pid)]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        while any(_alive(pid) for pid in pids):
            time.sleep(0.005)
        return self._running.output()

    def stop(self) -> str:
        """SIGTERM; everything the last start logged."""
        self._stack.close()
        return "" if self._running is None else self._running.output()

    def verify_audit(self, anchor: str) -> None:
        """The chain holds, and the row that was the newest before the crash is in it."""
        words = [self._command, "audit", "verify", "--home", self.home, "--anchor", anchor]
        run(words, cwd=self._base, env=self._env)


def _alive(pid: int) -> bool:
    """Not gone, and not merely waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@dataclass
class Tally:
    """What was put under load and what came of it."""

    kills: int = 0
    start_kills: int = 0
    certificates: int = 0
    left_behind: Counter[str] = field(default_factory=Counter)
    revocations: Counter[Revocation] = field(default_factory=Counter)
    slowest_start: float = 0.0
    slowest_end: float = 0.0

    def at_the_kill(self, orders: Sequence[Known], left_behind: Counter[str]) -> None:
        self.kills += 1
        self.certificates += sum(bool(order.chain) for order in orders)
        self.left_behind += left_behind
        self.revocations.update(order.revocation for order in orders)

    def lines(self) -> list[str]:
        under_way = ", ".join(f"{count} {what}" for what, count in self.left_behind.items())
        return [
            f"- {self.kills} kills under load, {self.start_kills} more while the server started.",
            f"- {self.certificates} certificates downloaded before the kill, "
            f"{self.revocations[Revocation.ACKNOWLEDGED]} revocations acknowledged: none was lost. "
            f"{self.revocations[Revocation.ASKED]} revocations were not answered, and asked for "
            "again.",
            f"- Left behind in the database: {under_way}. Every order that its client knew of "
            "ended in a certificate.",
            f"- Until the server was ready again: {self.slowest_start:.1f} s at most. From then "
            f"until every client had what it had begun: {self.slowest_end:.1f} s at most.",
        ]


class Trial:
    """A home that is killed again and again; all clients it ever had."""

    def __init__(self, server: Server, chance: random.Random, tokens: dict[str, str]) -> None:
        self.tally = Tally()
        self._server = server
        self._chance = chance
        self._tokens = tokens
        self._names = (f"crash-{number}.bench.test" for number in count())
        self._context = ssl.create_default_context(cafile=str(server.root))
        certificate = aftermath.get(f"{server.http_url}/ca/issuing.cer")
        issuer = x509.load_der_x509_certificate(certificate)
        self._relying_party = RelyingParty(f"{server.http_url}/crl/issuing.crl", issuer)
        self._unknown: Counter[str] = (
            Counter()
        )  # orders that no client was told of stay as they are
        self._orders: list[Known] = []
        self._witnesses: list[Witness] = []

    async def round(self) -> None:
        """Load, kill, start, check; the server runs on. Raises InteropError or `Refused`."""
        url = f"{self._server.base_url}/acme/default/directory"
        fresh = [Witness(url, self._context, self._tokens) for _ in range(CLIENTS)]
        load = [
            asyncio.create_task(one.work(self._names, lambda: self._chance.random() < REVOKED))
            for one in fresh
        ]
        await asyncio.sleep(self._chance.uniform(0.1, LONGEST_LOAD))
        anchor = aftermath.audit_head(self._server.database)
        aftermath.check_log(await asyncio.to_thread(self._server.kill))
        await asyncio.gather(*load)
        orders = [order for one in fresh for order in one.orders]
        left = await asyncio.to_thread(aftermath.left_behind, self._server.database)
        self.tally.at_the_kill(orders, left - self._unknown)
        await self._start_again()
        began = time.monotonic()
        await asyncio.gather(*(one.resume() for one in fresh))
        self.tally.slowest_end = max(self.tally.slowest_end, time.monotonic() - began)
        await asyncio.to_thread(self._server.verify_audit, anchor)
        await self._check(orders)
        self._unknown = await asyncio.to_thread(aftermath.under_way, self._server.database)
        self._witnesses += fresh
        self._orders += orders

    async def _start_again(self) -> None:
        while self._chance.random() < START_KILLED:
            await asyncio.to_thread(self._server.launch, self._chance.choice((1, 2)))
            await asyncio.sleep(self._chance.uniform(0.2, self.tally.slowest_start or 2.0))
            aftermath.check_log(await asyncio.to_thread(self._server.kill))
            self.tally.start_kills += 1
        seconds = await asyncio.to_thread(self._server.start, self._chance.choice((1, 2)))
        self.tally.slowest_start = max(self.tally.slowest_start, seconds)

    async def _check(self, orders: Sequence[Known]) -> None:
        await asyncio.to_thread(aftermath.check_database, self._server.database)
        await asyncio.to_thread(aftermath.check_stored, self._server.database, orders)
        await self._relying_party.check(orders)

    async def end(self) -> Tally:
        """Everything of all rounds once more: what survived one crash has to survive the next."""
        for witness in self._witnesses:
            await witness.resume()
        await self._check(self._orders)
        serials = {order.leaf.serial_number for order in self._orders}
        if len(serials) != len(self._orders):
            raise InteropError("two orders got one certificate")
        aftermath.check_log(await asyncio.to_thread(self._server.stop))
        return self.tally

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """A relying party that fetches the CRL all the time."""
        watch = asyncio.create_task(self._relying_party.watch())
        try:
            yield
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch
        finally:
            watch.cancel()


async def crash(base: Path, rounds: int, chance: random.Random) -> Tally:
    """So many rounds on a new home below `base`. Raises InteropError or `Refused`."""
    tokens: dict[str, str] = {}
    with challenge_dns(base) as dns:
        server = Server(base, dns.resolver)
        try:
            async with await responder(server.http01_port, tokens, lambda: _delay(chance)):
                await asyncio.to_thread(server.start, 1)
                trial = Trial(server, chance, tokens)
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
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    given = parser.parse_args(argv)
    seed = random.randrange(1 << 32) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    base = Path(tempfile.mkdtemp(prefix="crash-"))
    try:
        tally = asyncio.run(crash(base, given.rounds, random.Random(seed)))
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
