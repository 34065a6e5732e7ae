"""What happens at once, in one process and in two on the same home."""

import asyncio
import datetime as dt
import hashlib

import pytest

from pkiserver.ca import ledger
from pkiserver.ca.model import CertificateRequest, Requester
from pkiserver.clock import epoch
from pkiserver.storage import Transaction
from protocols.est import store
from protocols.est.store import EnrollmentKey
from tests.test_est.conftest import CONFIGURATION, OpenWorld
from tests.test_est.support import PASSWORD, World, issued, make_csr

ALICE = ("alice", PASSWORD)
MANY = 8


@pytest.fixture
async def pair(open_world: OpenWorld) -> tuple[World, World]:
    first, second = await open_world(CONFIGURATION), await open_world(CONFIGURATION)
    await first.add_user()
    return first, second


async def test_the_same_request_at_once_is_one_certificate(pair: tuple[World, World]) -> None:
    """E13: whichever process a copy comes to; one that is too early is told to wait."""
    request = make_csr()
    answers = await asyncio.gather(
        *(pair[number % 2].post("simpleenroll", request, auth=ALICE) for number in range(MANY))
    )
    assert {answer.status_code for answer in answers} <= {200, 202}
    found = {issued(answer) for answer in answers if answer.status_code == 200}
    assert len(found) == 1
    assert await pair[0].certificates() == 1
    assert issued(await pair[1].post("simpleenroll", request, auth=ALICE)) in found


async def test_different_requests_at_once(pair: tuple[World, World]) -> None:
    answers = await asyncio.gather(
        *(
            pair[number % 2].post("simpleenroll", make_csr(f"dev{number}"), auth=ALICE)
            for number in range(MANY)
        )
    )
    serials = {issued(answer).serial_number for answer in answers}
    assert len(serials) == MANY
    statuses = await pair[0].rows("SELECT DISTINCT status FROM certificates")
    assert statuses == [("issued",)]


async def test_an_approval_is_used_once(open_world: OpenWorld) -> None:
    text = "[profiles.device]\nrequires_approval = true\n[est.default]\n"
    first, second = await open_world(text), await open_world(text)
    await first.add_user()
    request = make_csr()
    answers = await asyncio.gather(
        *(world.post("simpleenroll", request, auth=ALICE) for world in (first, second) * 3)
    )
    assert {answer.status_code for answer in answers} == {202}
    approvals = first.runtime.services.approvals
    (pending,) = await approvals.newest()
    await approvals.approve(pending.id, Requester("cli", "operator"))
    answers = await asyncio.gather(
        *(world.post("simpleenroll", request, auth=ALICE) for world in (first, second) * 3)
    )
    assert {answer.status_code for answer in answers} <= {200, 202}
    assert len({issued(answer) for answer in answers if answer.status_code == 200}) == 1
    assert await first.certificates() == 1


async def claimed(world: World, request: bytes) -> str:
    """What a process leaves that died between its two transactions; the certificate's id."""
    services = world.runtime.services
    prepared = await services.issuance.prepare(
        CertificateRequest("device", Requester("est", "user:alice"), request)
    )
    key = EnrollmentKey("default", "est:user:alice", hashlib.sha256(request).digest())
    now = epoch(world.clock.now())

    def reserve(tx: Transaction) -> None:
        ledger.reserve(tx, prepared, now)
        assert store.claim(tx, key, prepared.id, None, now)

    await services.database.write(reserve)
    return prepared.id


async def test_what_a_crash_left_is_finished(world: World) -> None:
    """The client is told to wait, and gets the certificate that the serial was reserved for."""
    request = make_csr()
    identifier = await claimed(world, request)
    answer = await world.post("simpleenroll", request, auth=ALICE)
    assert (answer.status_code, answer.headers["retry-after"]) == (202, "2")
    await world.runtime.services.issuance.recover(dt.timedelta(0))
    issued(await world.post("simpleenroll", request, auth=ALICE))
    rows = await world.rows("SELECT id FROM certificates WHERE requester = 'est:user:alice'")
    assert rows == [(identifier,)]


async def test_what_was_given_up_is_made_anew(world: World) -> None:
    request = make_csr()
    identifier = await claimed(world, request)
    await world.runtime.services.database.write(lambda tx: ledger.abandon(tx, identifier))
    issued(await world.post("simpleenroll", request, auth=ALICE))
    assert await world.certificates() == 2


async def test_guesses_at_once_are_counted(open_world: OpenWorld) -> None:
    """Parallel guesses get no more tries than those in a row, but for what is under way."""
    world = await open_world('[est.default]\nfailures_per_user = "3/15m"\n')
    await world.add_user()
    answers = await asyncio.gather(
        *(
            world.post("simpleenroll", make_csr(), auth=("alice", f"guess{number}"))
            for number in range(20)
        )
    )
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {401, 429}
    assert statuses.count(401) <= 5
