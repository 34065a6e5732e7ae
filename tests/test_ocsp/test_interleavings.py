"""No stale `good`, whatever comes in between: a change of status in another process at each point
where a request waits, while answers are kept, made and put away (ADR 9 has the argument)."""

import asyncio
import itertools
import random
import sqlite3
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest
from cryptography.x509.ocsp import OCSPCertStatus

from pkiserver.ca.authorities import Authorities
from pkiserver.ca.issuance import Issued
from pkiserver.ca.model import Reason
from pkiserver.ca.status import StatusService
from pkiserver.config import OCSPSettings
from pkiserver.keys import PrivateKey, sign
from pkiserver.storage import Database, Reader, Transaction, open_database
from protocols.ocsp.http import OCSPEndpoint
from tests.ca.status_support import ACTOR, PKI, ask, open_pki
from tests.test_ocsp.asked import get, post

GOOD, REVOKED = OCSPCertStatus.GOOD, OCSPCertStatus.REVOKED
T = TypeVar("T")


async def _nothing() -> None:
    """Happens."""


@dataclass
class Points:
    """Where a request may be overtaken; `what` happens at the one with that number."""

    at: int = 0
    what: Callable[[], Awaitable[None]] = _nothing
    passed: int = 0

    async def here(self) -> None:
        self.passed += 1
        if self.passed == self.at:
            await self.what()

    def aim(self, at: int, what: Callable[[], Awaitable[None]] = _nothing) -> None:
        self.passed, self.at, self.what = 0, at, what


@dataclass(frozen=True)
class Overtaken:
    """A database where something happens before and after each thing it is asked."""

    inner: Database
    points: Points = field(default_factory=Points)

    async def read(self, work: Callable[[Reader], T]) -> T:
        return await self._around(lambda: self.inner.read(work))

    async def lookup(self, work: Callable[[Reader], T]) -> T:
        return await self._around(lambda: self.inner.lookup(work))

    async def change_mark(self) -> Hashable:
        return await self._around(self.inner.change_mark)

    def change_mark_now(self) -> Hashable | None:
        return self.inner.change_mark_now()

    async def write(self, work: Callable[[Transaction], T]) -> T:
        return await self._around(lambda: self.inner.write(work))

    async def close(self) -> None:
        await self.inner.close()

    async def _around(self, ask_it: Callable[[], Awaitable[T]]) -> T:
        await self.points.here()
        result = await ask_it()
        await self.points.here()
        return result


@dataclass(frozen=True)
class World:
    """`pki` is the process that changes statuses, `endpoint` another one that answers."""

    pki: PKI
    points: Points
    endpoint: OCSPEndpoint
    status: StatusService

    async def ask(self, issued: Issued) -> OCSPCertStatus | None:
        request = ask(issued.certificate, self.pki.certificate())
        return (await post(self.endpoint, request)).certificate_status

    def revoking(self, issued: Issued, reason: Reason) -> Callable[[], Awaitable[None]]:
        return lambda: self.pki.revoke(issued, reason)

    def releasing(self, issued: Issued) -> Callable[[], Awaitable[None]]:
        async def release() -> None:
            await self.pki.revocation.release("issuing", issued.record.serial, actor=ACTOR)

        return release


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        pki = await stack.enter_async_context(open_pki(tmp_path))
        await pki.status.start()
        database = Overtaken(open_database(pki.settings.storage.url, pki.home))
        stack.push_async_callback(database.close)
        authorities = Authorities(database, pki.clock, pki.keys, pki.audit, pki.settings)
        await authorities.load()
        status = StatusService(database, pki.clock, authorities, pki.keys, pki.audit, pki.settings)
        stack.push_async_callback(status.stop)

        async def overtaken(key: PrivateKey, data: bytes) -> bytes:
            await database.points.here()
            signature = await sign(key, data)
            await database.points.here()
            return signature

        monkeypatch.setattr("pkiserver.ca.ocsp.sign", overtaken)
        endpoint = OCSPEndpoint(status, pki.clock, OCSPSettings())
        yield World(pki, database.points, endpoint, status)


@pytest.mark.parametrize("kept", [False, True], ids=["cold", "kept"])
@pytest.mark.parametrize("other", [False, True], ids=["alone", "after another change"])
async def test_a_revocation_at_every_point_of_a_request(
    world: World, kept: bool, other: bool
) -> None:
    """Whoever it overtakes may be told either; whoever asks after it is told of it."""
    for at in itertools.count(1):
        issued = await world.pki.issue(f"{at}.example.com")
        another = await world.pki.issue(f"other-{at}.example.com")
        if kept:
            assert await world.ask(issued) is GOOD
        if other:
            await world.pki.revoke(another)
        world.points.aim(at, world.revoking(issued, Reason.SUPERSEDED))
        assert await world.ask(issued) in (GOOD, REVOKED)
        if world.points.passed < at:
            break
        assert await world.ask(issued) is REVOKED, at
        assert await world.ask(issued) is REVOKED, at
    assert (
        at == {(False, False): 5, (False, True): 5, (True, False): 5, (True, True): 9}[kept, other]
    ), "there are other points than were thought of"


async def test_hold_and_release_at_every_point_of_a_request(world: World) -> None:
    for at in itertools.count(1):
        issued = await world.pki.issue(f"{at}.example.com")
        assert await world.ask(issued) is GOOD
        await world.pki.revoke(issued, Reason.CERTIFICATE_HOLD)
        world.points.aim(at, world.releasing(issued))
        assert await world.ask(issued) in (GOOD, REVOKED)
        if world.points.passed < at:
            break
        assert await world.ask(issued) is GOOD, at
        world.points.aim(at, world.revoking(issued, Reason.KEY_COMPROMISE))
        await world.ask(issued)
        if world.points.passed < at:
            await world.pki.revoke(issued, Reason.KEY_COMPROMISE)
        world.points.aim(0)
        assert await world.ask(issued) is REVOKED, at
    assert at == 9, "there are other points than were thought of"


async def test_a_slow_answer_is_put_away_after_the_revocation_and_never_given(
    world: World,
) -> None:
    """Made before, kept after: of an older generation than the one that is there by then."""
    issued = await world.pki.issue()
    signing, going_on = asyncio.Event(), asyncio.Event()

    async def stall() -> None:
        signing.set()
        await going_on.wait()

    world.points.aim(3, stall)  # look-up before and after, then the signature
    slow = asyncio.create_task(world.ask(issued))
    await asyncio.wait_for(signing.wait(), 5)
    await world.pki.revoke(issued)
    assert await world.ask(issued) is REVOKED
    going_on.set()
    assert await slow is GOOD, "it asked before the revocation"
    assert await world.ask(issued) is REVOKED


async def test_another_process_revokes_under_load_with_checkpoints(world: World) -> None:
    """A real process, clients all the time, and the log emptied into the database in between,
    which moves the change mark, or not, as it likes."""
    pki, rng = world.pki, random.Random(9)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.test_ocsp.revoker", pki.home,
        stdin=PIPE, stdout=PIPE, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    issued = [await pki.issue(f"{n}.example.com") for n in range(12)]
    requests = [ask(each.certificate, pki.certificate()) for each in issued]
    revoked: set[int] = set()
    stopped = False
    seen = {GOOD: 0, REVOKED: 0}

    async def client(how: Callable[..., Awaitable[object]]) -> None:
        while not stopped:
            which = rng.randrange(len(requests))
            known = which in revoked
            answer = await (post if how is post else get)(world.endpoint, requests[which])
            assert answer.certificate_status is REVOKED or not known, "a stale good"
            assert answer.certificate_status is not None
            seen[answer.certificate_status] += 1
            await asyncio.sleep(0)

    clients = [asyncio.create_task(client((post, get)[n % 2])) for n in range(6)]
    outside = sqlite3.connect(pki.home / "pki.db", isolation_level=None)
    for turn, each in enumerate(issued):
        process.stdin.write(b"%d\n" % each.record.serial)
        assert await process.stdout.readline() == b"done\n"
        revoked.add(turn)
        kind = ("PASSIVE", "RESTART", "TRUNCATE")[turn % 3]
        outside.execute(f"PRAGMA wal_checkpoint({kind})")
        await asyncio.sleep(0.02)
    stopped = True
    await asyncio.gather(*clients)
    outside.close()
    process.stdin.close()
    assert await process.wait() == 0
    assert min(seen.values()) > 20, seen
