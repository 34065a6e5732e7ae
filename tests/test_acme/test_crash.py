"""What a crash leaves half done is ended at the next start or by the sweep: architecture invariant
1, checklist section 6 item 3; what is old is deleted, what must stay stays (section 6 item 9)."""

import asyncio
import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509

from pkiserver.ca import blocklist
from pkiserver.errors import ErrorCode, PKIError
from pkiserver.pkix.algorithms import spki_sha256
from protocols.acme.build import delete_old
from protocols.acme.challenges import FailureKind
from tests.test_acme.client import ACMEClient, make_csr
from tests.test_acme.conftest import OpenWorld
from tests.test_acme.test_service_challenges import SlowProber, pending, slow
from tests.test_acme.world import World, problem

NAME = "www.example.org"
NONE, MINUTE = dt.timedelta(0), dt.timedelta(minutes=1)


def fail_write(world: World, number: int) -> Callable[[], None]:
    """From the write of that number on, the database is away; call the result to bring it back."""
    database, count = world.runtime.services.database, 0
    real = database.write

    async def write(work: Any) -> Any:
        nonlocal count
        count += 1
        if count >= number:
            raise PKIError(ErrorCode.UNAVAILABLE, "the database is away")
        return await real(work)

    def restore() -> None:
        database.write = real  # type: ignore[method-assign]

    database.write = write  # type: ignore[method-assign]
    return restore


async def crash_while_signing(world: World, client: ACMEClient) -> tuple[dict[str, Any], Any]:
    """An order whose certificate was reserved and not stored, and its key."""
    order = await world.ready_order(client, NAME)
    csr, key = make_csr([NAME])
    restore = fail_write(world, 2)
    response = await client.finalize(order, csr)
    problem(response, 503, "serverInternal")
    restore()
    ((_, _, status),) = await world.issued()
    assert status == "signing"
    shown = (await client.post(order["url"])).json()
    assert shown["status"] == "processing" and "certificate" not in shown
    again = await client.finalize(order, csr)
    assert again.json()["status"] == "processing", "asked again, it is still on its way"
    return order, key


async def test_before_the_intent_is_durable(world: World, client: ACMEClient) -> None:
    """Nothing happened, and the client may try again."""
    order = await world.ready_order(client, NAME)
    csr, _ = make_csr([NAME])
    restore = fail_write(world, 1)
    problem(await client.finalize(order, csr), 503, "serverInternal")
    restore()
    assert await world.issued() == []
    assert (await client.finalize(order, csr)).json()["status"] == "valid"


async def test_between_intent_and_certificate(world: World, client: ACMEClient) -> None:
    order, key = await crash_while_signing(world, client)
    await world.endpoints["default"].finalizer.sweep(NONE)
    final = (await client.post(order["url"])).json()
    assert final["status"] == "valid"
    chain = await client.post(final["certificate"])
    leaf = x509.load_pem_x509_certificates(chain.content)[0]
    assert leaf.public_key() == key.public_key()
    assert len(await world.issued()) == 1


async def test_the_next_start_ends_it(open_world: OpenWorld) -> None:
    """As the server does it: recover, before anything is served."""
    world = await open_world()
    await crash_while_signing(world, await world.account())
    restarted = await open_world()
    await restarted.runtime.recover()
    ((status,),) = await restarted.rows("SELECT status FROM acme_orders")
    assert status == "valid"


async def test_a_certificate_that_may_not_be_finished(world: World, client: ACMEClient) -> None:
    """Its key was reported meanwhile: the order says invalid, and why."""
    order, key = await crash_while_signing(world, client)
    digest, now = spki_sha256(key.public_key()), world.clock.now()
    database = world.runtime.services.database
    await database.write(lambda tx: blocklist.block(tx, digest, "reported", now))
    await world.endpoints["default"].finalizer.sweep(NONE)
    final = (await client.post(order["url"])).json()
    assert final["status"] == "invalid"
    assert final["error"]["type"] == "urn:ietf:params:acme:error:serverInternal"
    ((_, _, status),) = await world.issued()
    assert status == "abandoned"
    csr, _ = make_csr([NAME])
    problem(await client.finalize(order, csr), 403, "orderNotReady")


async def test_what_is_in_progress_is_left_alone(world: World, client: ACMEClient) -> None:
    await crash_while_signing(world, client)
    await world.endpoints["default"].finalizer.sweep(MINUTE)
    ((_, _, status),) = await world.issued()
    assert status == "signing"
    world.clock.advance(MINUTE)
    await world.endpoints["default"].finalizer.sweep(MINUTE)
    ((_, _, status),) = await world.issued()
    assert status == "issued"


async def processing(world: World, client: ACMEClient) -> tuple[str, dict[str, Any], SlowProber]:
    """An order and its challenge, which a process has begun and will not end."""
    prober = slow(world)
    order, challenges = await pending(client)
    response = await client.answer(challenges["http-01"]["authz"], "http-01", prober.publish)
    assert response.json()["status"] == "processing"
    await world.endpoints["default"].validation.stop()
    return order, response.json(), prober


async def settle(world: World, url: str, client: ACMEClient) -> dict[str, Any]:
    """The challenge, once the sweep's validation is over."""
    world.endpoints["default"].validation._patience = 5
    return dict((await client.post(url, {})).json())


async def test_a_challenge_left_processing(world: World, client: ACMEClient) -> None:
    order, challenge, prober = await processing(world, client)
    prober.gate.set()
    validation = world.endpoints["default"].validation
    await validation.sweep()
    assert (await client.post(challenge["url"])).json()["status"] == "processing", "too early"
    assert prober.asked == []
    world.clock.advance(2 * MINUTE)
    await validation.sweep()
    assert (await settle(world, challenge["url"], client))["status"] == "valid"
    assert (await client.post(order)).json()["status"] == "ready"


async def test_a_start_takes_up_challenges_at_once(open_world: OpenWorld) -> None:
    world = await open_world()
    client = await world.account()
    order, challenge, prober = await processing(world, client)
    restarted = await open_world()
    restarted.prober.pages = prober.pages
    validation = restarted.endpoints["default"].validation
    await validation.release()
    await validation.sweep()
    again = await restarted.client(signer=client.signer)
    assert (await settle(restarted, challenge["url"], again))["status"] == "valid"
    assert (await again.post(order)).json()["status"] == "ready"


async def test_one_sweep_takes_a_challenge(open_world: OpenWorld) -> None:
    """Two nodes sweep at once: one of them validates."""
    first = await open_world()
    client = await first.account()
    _, challenge, prober = await processing(first, client)
    prober.gate.set()
    second = await open_world()
    second.prober.pages = prober.pages
    for world in (first, second):
        world.clock.advance(2 * MINUTE)
    validations = [world.endpoints["default"].validation for world in (first, second)]
    await asyncio.gather(*(validation.sweep() for validation in validations))
    while any(validation._running for validation in validations):
        await asyncio.gather(*(r.task for v in validations for r in v._running.values()))
    assert len(prober.asked) + len(second.prober.asked) == 1
    assert (await client.post(challenge["url"])).json()["status"] == "valid"


async def test_a_result_that_cannot_be_recorded(world: World, client: ACMEClient) -> None:
    """The database goes away between the start and the end of a validation."""
    prober = slow(world)
    _, challenges = await pending(client)
    url = challenges["http-01"]["url"]
    await client.answer(challenges["http-01"]["authz"], "http-01", prober.publish)
    restore = fail_write(world, 1)
    prober.gate.set()
    validation = world.endpoints["default"].validation
    await asyncio.wait({running.task for running in validation._running.values()})
    restore()
    assert (await client.post(url)).json()["status"] == "processing"
    world.clock.advance(2 * MINUTE)
    await validation.sweep()
    assert (await settle(world, url, client))["status"] == "valid"


async def test_the_sweep_waits_for_the_longest_validation(open_world: OpenWorld) -> None:
    """A process that is slow because it may be is not overtaken."""
    world = await open_world(default={"validation_timeout": "60s"}, delays=(1.0, 2.0, 4.0))
    client = await world.account()
    _, _, prober = await processing(world, client)
    world.clock.advance(dt.timedelta(seconds=250))
    await world.endpoints["default"].validation.sweep()
    assert not world.endpoints["default"].validation._running
    world.clock.advance(dt.timedelta(seconds=20))
    await world.endpoints["default"].validation.sweep()
    assert world.endpoints["default"].validation._running
    prober.gate.set()


async def test_old_orders_are_deleted(open_world: OpenWorld) -> None:
    """Certificates, accounts and what is not old stay; each directory has its own retention."""
    world = await open_world(other={"retention": "3650d"})
    client, other = await world.account(), await world.account("other")
    issued = await world.issue(client, NAME)
    await client.new_order(["b.example.org"])
    await world.issue(other, NAME)
    world.prober.failures["c.example.org"] = [FailureKind.UNAUTHORIZED]
    failed = await client.new_order(["c.example.org"])
    challenge = (await client.post(failed.json()["authorizations"][0])).json()["challenges"][0]
    await client.post(challenge["url"], {})
    world.clock.advance(dt.timedelta(days=36))
    recent = await client.new_order(["d.example.org"])
    before = await world.contents()
    for endpoints in world.endpoints.values():
        await delete_old(endpoints.directory)
    after = await world.contents()
    assert before.pop("acme_failures") and not after.pop("acme_failures")
    assert after == before, "thirty days after expiry, not before"
    world.clock.advance(dt.timedelta(days=2))
    for endpoints in world.endpoints.values():
        await delete_old(endpoints.directory)
    problem(await client.post(issued.order["url"]), 404, "malformed")
    assert (await client.post(issued.order["certificate"])).status_code == 200
    assert (await client.post(recent.headers["location"])).status_code == 200
    counts = {
        table: (await world.rows(f"SELECT COUNT(*) FROM {table}"))[0][0]
        for table in ("acme_accounts", "acme_orders", "acme_failures")
    }
    assert counts == {"acme_accounts": 2, "acme_orders": 2, "acme_failures": 0}
    assert len(await world.issued()) == 2
    assert await world.rows(
        "SELECT c.id FROM acme_challenges c LEFT JOIN acme_authorizations a "
        "ON a.id = c.authorization_id WHERE a.id IS NULL"
    ) == []  # fmt: skip


async def test_deletion_in_batches(world: World, client: ACMEClient) -> None:
    from protocols.acme.store import upkeep

    for number in range(7):
        await client.new_order([f"n{number}.example.org"])
    world.clock.advance(dt.timedelta(days=40))
    now = world.endpoints["default"].directory.now()
    database = world.runtime.services.database
    gone: list[int] = []
    while not gone or gone[-1]:
        gone.append(
            await database.write(lambda tx: upkeep.delete_expired(tx, "default", now, batch=3))
        )
    assert sum(gone) == 14 and max(gone) <= 6
    assert await world.rows("SELECT id FROM acme_orders") == []
    assert await world.rows("SELECT id FROM acme_challenges") == []


async def test_an_order_that_is_processing_is_never_deleted(
    world: World, client: ACMEClient
) -> None:
    order, _ = await crash_while_signing(world, client)
    world.clock.advance(dt.timedelta(days=60))
    await delete_old(world.endpoints["default"].directory)
    assert (await client.post(order["url"])).json()["status"] == "processing"


@pytest.mark.parametrize("job", ["acme-sweep", "acme-clean"])
async def test_the_jobs_run(world: World, client: ACMEClient, job: str) -> None:
    """As the plug-in hands them to the scheduler."""
    acme = world.runtime.protocols["acme"]
    await next(item for item in acme.jobs if item.name == job).run()
    assert (await client.new_order([NAME])).status_code == 201
