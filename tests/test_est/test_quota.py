"""`enrolments_per_client`: how many certificates one client gets, however it goes about it."""

import asyncio
import datetime as dt
from pathlib import Path

import pytest

from pkiserver.ca.model import Requester
from pkiserver.pkix.pem import pem_chain
from protocols.est.certificates import CMC_RA
from tests.test_est.conftest import OpenWorld
from tests.test_est.support import (
    ADDRESS,
    PASSWORD,
    Factory,
    Held,
    World,
    issued,
    make_csr,
    new_key,
    peer_with,
)

ALICE = ("alice", PASSWORD)
TWO = 'enrolments_per_client = "2/1h"\n'
FEW = f"[est.default]\n{TWO}"


@pytest.fixture
async def few(open_world: OpenWorld) -> World:
    world = await open_world(FEW)
    await world.add_user()
    return world


async def renewed(world: World, held: Held, name: str = "dev1") -> Held:
    key = new_key()
    answer = await world.post("simplereenroll", make_csr(name, key=key), peer=peer_with(held))
    return Held(issued(answer), key)


async def test_a_user_waits(few: World) -> None:
    """The same request again is no other certificate; others are not concerned; time passes."""
    request = make_csr()
    for _ in range(3):
        assert (await few.post("simpleenroll", request, auth=ALICE)).status_code == 200
    assert (await few.post("serverkeygen", make_csr(), auth=ALICE)).status_code == 200
    for operation in ("simpleenroll", "serverkeygen"):
        refused = await few.post(operation, make_csr(), auth=ALICE)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "3600")
    recorded = await few.refusals()
    assert sum("enrolments_per_client" in cause for cause in recorded) == 2
    assert all(f'"address":"{ADDRESS}"' in cause for cause in recorded)  # for `pkiserver why`
    assert (await few.post("simpleenroll", request, auth=ALICE)).status_code == 200
    await few.add_user("bob")
    assert (await few.post("simpleenroll", make_csr(), auth=("bob", PASSWORD))).status_code == 200
    few.clock.advance(dt.timedelta(hours=1))
    assert (await few.post("simpleenroll", make_csr(), auth=ALICE)).status_code == 200


async def test_what_a_clock_that_was_ahead_counted_keeps_nobody_out(few: World) -> None:
    few.clock.advance(dt.timedelta(days=30))
    for _ in range(2):
        assert (await few.post("simpleenroll", make_csr(), auth=ALICE)).status_code == 200
    few.clock.advance(dt.timedelta(days=-30))
    assert (await few.post("simpleenroll", make_csr(), auth=ALICE)).status_code == 200


async def test_a_restart_and_other_workers_change_nothing(open_world: OpenWorld) -> None:
    first, second = await open_world(FEW), await open_world(FEW)
    await first.add_user()
    answers = await asyncio.gather(
        *((first, second)[n % 2].post("simpleenroll", make_csr(), auth=ALICE) for n in range(8))
    )
    assert sorted(answer.status_code for answer in answers) == [200] * 2 + [429] * 6
    assert await first.certificates() == 2
    third = await open_world(FEW)
    assert (await third.post("simpleenroll", make_csr(), auth=ALICE)).status_code == 429


async def test_renewals_are_one_line(few: World) -> None:
    """Each with the certificate before it: or a stolen one would be worth any number. The devices
    of one user are a line each."""
    first, other = await few.enroll("dev1"), await few.enroll("dev2")
    third = await renewed(few, await renewed(few, first))
    for held in (first, third):
        answer = await few.post("simplereenroll", make_csr("dev1"), peer=peer_with(held))
        assert answer.status_code == 429
    await renewed(few, other, "dev2")
    few.clock.advance(dt.timedelta(days=1))
    (job,) = few.runtime.protocols["est"].jobs
    await job.run()
    await renewed(few, await renewed(few, third))
    answer = await few.post("simplereenroll", make_csr("dev1"), peer=peer_with(first))
    assert answer.status_code == 429


async def test_what_a_factory_certificate_gets_is_of_its_line(
    open_world: OpenWorld, factory: Factory, tmp_path: Path
) -> None:
    """Also under other names and another label."""
    anchors = tmp_path / "factory.pem"
    anchors.write_bytes(pem_chain([factory.root.certificate]))
    world = await open_world(
        f'[est.default]\n{TWO}[est.factory]\n{TWO}auth = ["mtls"]\n'
        f'client_ca = ["{anchors}"]\ncertificate_names = "any"\n'
    )
    device = factory.device("SN-1")
    key = new_key()
    peer = peer_with(device, factory.issuing)
    answer = await world.post("factory/simpleenroll", make_csr("any", key=key), peer=peer)
    mine = Held(issued(answer), key)
    request = make_csr("next", key=key)
    answer = await world.post("factory/simpleenroll", request, peer=peer_with(mine))
    other = Held(issued(answer), key)
    for path, known, name in (
        ("factory/simpleenroll", peer, "more"),
        ("factory/simpleenroll", peer_with(other), "more"),
        ("simplereenroll", peer_with(other), "next"),
    ):
        assert (await world.post(path, make_csr(name), peer=known)).status_code == 429
    peer = peer_with(factory.device("SN-2"), factory.issuing)
    assert (await world.post("factory/simpleenroll", make_csr("x"), peer=peer)).status_code == 200


async def test_registration_authorities_enrol_for_many(open_world: OpenWorld) -> None:
    """E27: an authority has one count, and each of its devices another; so have its renewals."""
    world = await open_world(
        f"[profiles.ra]\nsubject = 'CN={{cn}}'\nrequire_name = false\n"
        f"extended_key_usage = ['clientAuth', '{CMC_RA.dotted_string}']\n"
        f"[est.default]\n{TWO}registration_authorities = true\nclient_profiles = ['ra']\n"
        f"[est.ra]\n{TWO}profile = 'ra'\nregistration_authorities = true\n"
    )
    await world.add_user(label="ra")
    authority = await world.enroll("ra1", label="ra")
    devices = []
    for name in ("dev1", "dev2"):
        key = new_key()
        request = make_csr(name, key=key)
        answer = await world.post("simpleenroll", request, peer=peer_with(authority))
        devices.append(Held(issued(answer), key))
    refused = await world.post("simpleenroll", make_csr("dev3"), peer=peer_with(authority))
    assert refused.status_code == 429
    await renewed(world, await renewed(world, devices[0]))
    await renewed(world, devices[1], "dev2")
    answer = await world.post("ra/simplereenroll", make_csr("ra1"), peer=peer_with(authority))
    assert answer.status_code == 429
    world.clock.advance(dt.timedelta(hours=1))
    key = new_key()
    request = make_csr("ra1", key=key)
    answer = await world.post("ra/simplereenroll", request, peer=peer_with(authority))
    again = Held(issued(answer), key)
    for name, status in (("dev4", 200), ("dev5", 429)):
        answer = await world.post("simpleenroll", make_csr(name), peer=peer_with(again))
        assert answer.status_code == status


async def test_old_rows_are_deleted(few: World) -> None:
    """Those of a line, when the certificate has expired."""
    held = await renewed(few, await few.enroll("dev1"))
    (job,) = few.runtime.protocols["est"].jobs
    for moment, rows in (
        (few.clock.now(), 2),
        (few.clock.now() + dt.timedelta(days=1), 1),
        (held.certificate.not_valid_after_utc + dt.timedelta(seconds=1), 0),
    ):
        few.clock.advance(moment - few.clock.now())
        await job.run()
        assert await few.rows("SELECT COUNT(*) FROM est_issued") == [(rows,)]


async def test_an_approval_is_not_used_up_by_a_refusal(open_world: OpenWorld) -> None:
    world = await open_world(f"[profiles.device]\nrequires_approval = true\n{FEW}")
    await world.add_user()
    requests = [make_csr(f"dev{number}") for number in range(3)]
    for request in requests:
        assert (await world.post("simpleenroll", request, auth=ALICE)).status_code == 202
    approvals = world.runtime.services.approvals
    for pending in await approvals.newest():
        await approvals.approve(pending.id, Requester("cli", "operator"))
    for request, status in zip(requests, (200, 200, 429), strict=True):
        answer = await world.post("simpleenroll", request, auth=ALICE)
        assert answer.status_code == status
    world.clock.advance(dt.timedelta(hours=1))
    assert (await world.post("simpleenroll", requests[2], auth=ALICE)).status_code == 200


async def test_no_limit(open_world: OpenWorld) -> None:
    world = await open_world("[est.default]\nenrolments_per_client = false\n")
    await world.add_user()
    for _ in range(3):
        assert (await world.post("simpleenroll", make_csr(), auth=ALICE)).status_code == 200
    assert not await world.rows("SELECT 1 FROM est_issued")
