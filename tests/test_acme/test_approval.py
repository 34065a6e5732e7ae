"""Orders under a profile that needs a second person: `processing` until somebody decided (RFC 8555
section 7.1.6), then valid or invalid, whoever looks first."""

import asyncio
import datetime as dt
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pkiserver.ca.approvals import Approval, ApprovalStatus
from pkiserver.ca.model import Requester
from pkiserver.errors import ErrorCode, PKIError
from protocols.acme.build import delete_old
from protocols.acme.challenges import FailureKind
from tests.test_acme.client import ACMEClient, make_csr
from tests.test_acme.conftest import OpenWorld
from tests.test_acme.test_crash import fail_write
from tests.test_acme.world import World, problem

NAME = "www.example.org"
PROFILES: dict[str, Any] = {
    "tls-server": {"validity": "90d", "requires_approval": True},
    "checked": {"issuer": "issuing", "validity": "90d", "dns": {"allow": ["*"]}, "caa": True,
                "extended_key_usage": ["serverAuth"], "requires_approval": True},
}  # fmt: skip
BOB = Requester("cli", "bob")
NONE = dt.timedelta(0)


@pytest.fixture
async def world(open_world: OpenWorld) -> World:
    return await open_world(profiles=PROFILES)


async def waiting(world: World, client: ACMEClient) -> tuple[dict[str, Any], bytes]:
    """An order that waits, and its CSR."""
    order = await world.ready_order(client, NAME)
    csr, _ = make_csr([NAME])
    response = await client.finalize(order, csr)
    assert response.status_code == 200, response.text
    assert response.json()["status"] == "processing"
    assert response.headers["retry-after"] == "10"
    return order, csr


async def the_approval(world: World) -> Approval:
    (found,) = await world.runtime.services.approvals.newest()
    return found


async def approve(world: World) -> None:
    await world.runtime.services.approvals.approve((await the_approval(world)).id, BOB)


async def status_of(client: ACMEClient, order: dict[str, Any]) -> str:
    return str((await client.post(order["url"])).json()["status"])


async def test_an_account_bound_to_other_names_while_it_waited(
    world: World, client: ACMEClient
) -> None:
    order, _ = await waiting(world, client)
    await world.endpoints["default"].accounts.restrict(
        str(client.signer.kid).rsplit("/", 1)[1], ("*.example.net",), actor="cli:ops"
    )
    await approve(world)
    ended = (await client.post(order["url"])).json()
    assert ended["status"] == "invalid"
    assert ended["error"]["type"].endswith(":rejectedIdentifier")
    assert await world.issued() == []


async def test_valid_when_polled_after_the_approval(world: World, client: ACMEClient) -> None:
    order, csr = await waiting(world, client)
    approval = await the_approval(world)
    assert (approval.status, approval.names) == (ApprovalStatus.PENDING, (f"dns:{NAME}",))
    assert approval.requester == f"acme:{str(client.signer.kid).rpartition('/')[2]}"
    assert approval.reference == order["url"].rpartition("/")[2]
    assert approval.csr == csr
    again = await client.finalize(order, csr)
    assert (again.status_code, again.json()["status"]) == (200, "processing")
    assert await status_of(client, order) == "processing"
    assert await world.issued() == []
    await approve(world)
    final = (await client.post(order["url"])).json()
    assert final["status"] == "valid"
    assert (await client.post(final["certificate"])).status_code == 200
    used = await the_approval(world)
    ((identifier, _, _),) = await world.issued()
    assert (used.status, used.certificate) == (ApprovalStatus.USED, identifier)


async def test_valid_when_finalize_is_repeated(world: World, client: ACMEClient) -> None:
    order, csr = await waiting(world, client)
    await approve(world)
    assert (await client.finalize(order, csr)).json()["status"] == "valid"


async def test_valid_without_a_client_that_looks(world: World, client: ACMEClient) -> None:
    """The scheduled work finds what was decided, and only that."""
    order, _ = await waiting(world, client)
    finalizer = world.endpoints["default"].finalizer
    await finalizer.resume_decided()
    assert await world.issued() == []
    await approve(world)
    await finalizer.resume_decided()
    ((_, _, status),) = await world.issued()
    assert status == "issued"
    assert await status_of(client, order) == "valid"


async def test_another_csr_while_waiting(world: World, client: ACMEClient) -> None:
    order, _ = await waiting(world, client)
    other, _ = make_csr([NAME])
    problem(await client.finalize(order, other), 403, "orderNotReady")
    await the_approval(world)


async def test_rejected(world: World, client: ACMEClient) -> None:
    order, csr = await waiting(world, client)
    approvals = world.runtime.services.approvals
    await approvals.reject((await the_approval(world)).id, BOB, "not your host")
    body = (await client.post(order["url"])).json()
    assert body["status"] == "invalid"
    assert body["error"]["type"].endswith(":unauthorized")
    assert "not your host" in body["error"]["detail"]
    problem(await client.finalize(order, csr), 403, "orderNotReady")
    assert await world.issued() == []
    ((_, subject, outcome, _),) = await world.audit("acme.order.refuse")
    assert (subject, outcome) == (order["url"].rpartition("/")[2], "refused")


async def test_nobody_decides(world: World, client: ACMEClient) -> None:
    """The order outlives its own `expires` while it waits, not the approval's."""
    order, _ = await waiting(world, client)
    world.clock.advance(dt.timedelta(days=13))
    await delete_old(world.endpoints["default"].directory)
    await world.endpoints["default"].finalizer.sweep(NONE)
    assert await status_of(client, order) == "processing"
    world.clock.advance(dt.timedelta(days=1))
    await world.runtime.services.approvals.maintain()
    await world.endpoints["default"].finalizer.resume_decided()
    body = (await client.post(order["url"])).json()
    assert body["status"] == "invalid" and "in time" in body["error"]["detail"]


async def test_the_sweep_and_a_restart_leave_it(
    open_world: OpenWorld, world: World, client: ACMEClient
) -> None:
    order, _ = await waiting(world, client)
    await world.endpoints["default"].finalizer.sweep(NONE)
    assert await status_of(client, order) == "processing"
    another = await open_world(profiles=PROFILES, clock=world.clock)
    await another.endpoints["default"].finalizer.sweep(NONE)
    await approve(another)
    assert await status_of(client, order) == "valid"


async def test_names_authorized_no_longer(world: World, client: ACMEClient) -> None:
    """Section 7.4: every authorization is valid at the moment of issuing."""
    order, _ = await waiting(world, client)
    for url in order["authorizations"]:
        await client.post(url, {"status": "deactivated"})
    await approve(world)
    body = (await client.post(order["url"])).json()
    assert body["status"] == "invalid" and body["error"]["type"].endswith(":unauthorized")
    assert await world.issued() == []


async def test_an_account_that_is_gone(world: World, client: ACMEClient) -> None:
    await waiting(world, client)
    await client.post(str(client.signer.kid), {"status": "deactivated"})
    await approve(world)
    await world.endpoints["default"].finalizer.resume_decided()
    assert await world.rows("SELECT status FROM acme_orders") == [("invalid",)]


async def test_many_at_once_issue_one(
    open_world: OpenWorld, world: World, client: ACMEClient
) -> None:
    """Polls of one process and the scheduled work of two."""
    order, csr = await waiting(world, client)
    another = await open_world(profiles=PROFILES, clock=world.clock)
    await approve(world)
    await asyncio.gather(
        another.endpoints["default"].finalizer.resume_decided(),
        world.endpoints["default"].finalizer.resume_decided(),
        *(client.post(order["url"]) for _ in range(4)),
        client.finalize(order, csr),
    )
    await another.endpoints["default"].finalizer.resume_decided()
    assert len(await world.issued()) == 1
    assert await status_of(client, order) == "valid"


async def test_finalize_at_once_files_one(world: World, client: ACMEClient) -> None:
    order = await world.ready_order(client, NAME)
    csrs = [make_csr([NAME])[0] for _ in range(4)]
    answers = await asyncio.gather(*(client.finalize(order, csr) for csr in csrs))
    assert sorted(answer.status_code for answer in answers) == [200, 403, 403, 403]
    await the_approval(world)


async def test_what_policy_refuses_is_not_filed(world: World, client: ACMEClient) -> None:
    order = await world.ready_order(client, NAME)
    csr, _ = make_csr(["other.example.org"])
    problem(await client.finalize(order, csr), 400, "badCSR")
    assert await world.runtime.services.approvals.newest() == []
    assert await status_of(client, order) == "ready"


async def test_the_account_key_is_not_filed(world: World, client: ACMEClient) -> None:
    """RFC 8555 section 11.1."""
    order = await world.ready_order(client, NAME)
    key = client.signer.key
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    csr, _ = make_csr([NAME], key=key)
    problem(await client.finalize(order, csr), 400, "badCSR")
    assert await world.runtime.services.approvals.newest() == []


async def test_a_failure_that_passes(world: World, client: ACMEClient) -> None:
    """The database is away, then back: the order is issued when it is looked at again."""
    order, _ = await waiting(world, client)
    await approve(world)
    restore = fail_write(world, 1)
    assert await status_of(client, order) == "processing"
    restore()
    assert await status_of(client, order) == "valid"


async def test_caa_is_checked_again(open_world: OpenWorld) -> None:
    """RFC 8659 section 4: at the moment of issuing. A resolver that fails is no answer."""
    world = await open_world(
        profiles=PROFILES, default={"profile": "checked", "caa_identities": ["ca.example"]}
    )
    client = await world.account()
    order, _ = await waiting(world, client)
    await approve(world)
    world.prober.failures[NAME] = [FailureKind.DNS]
    assert await status_of(client, order) == "processing"
    assert await status_of(client, order) == "valid"


async def test_an_order_whose_approval_is_gone(world: World, client: ACMEClient) -> None:
    order, _ = await waiting(world, client)
    await world.runtime.services.database.write(lambda tx: tx.execute("DELETE FROM approvals"))
    await world.endpoints["default"].finalizer.resume_decided()
    body = (await client.post(order["url"])).json()
    assert body["status"] == "invalid"
    with pytest.raises(PKIError) as caught:
        await world.runtime.services.approvals.get("0")
    assert caught.value.code is ErrorCode.NOT_FOUND
