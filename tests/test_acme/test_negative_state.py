"""Requests that are refused, or not, for what was before them; each sent to every signed resource:
RFC 8555 sections 6.5 and 7.3.6; checklist items 5, 14, 54."""

import datetime as dt

import pytest

from protocols.acme.nonces import MAX_AGE
from tests.test_acme.client import CONTENT_TYPE
from tests.test_acme.signed import Targets, open_targets
from tests.test_acme.world import World, problem


@pytest.fixture
async def targets(world: World) -> Targets:
    return await open_targets(world)


async def test_parameters_of_the_content_type_are_tolerated(targets: Targets) -> None:
    for target in targets:
        if target.name == "revokeCert by key":
            continue
        body = await targets.sign(target)
        response = await targets.send(target, body, f"{CONTENT_TYPE}; charset=utf-8")
        assert response.is_success, target.name


async def test_a_stale_nonce(targets: Targets) -> None:
    before = await targets.world.contents()
    nonces = {target.name: await targets.nonce() for target in targets}
    targets.world.clock.advance(dt.timedelta(seconds=MAX_AGE + 1))
    for target in targets:
        body = await targets.sign(target, nonce=nonces[target.name])
        problem(await targets.send(target, body), 400, "badNonce")
    assert await targets.world.contents() == before


async def test_a_deactivated_account(targets: Targets) -> None:
    """Section 7.3.6 and checklist 14: 401."""
    await targets.client.post(str(targets.client.signer.kid), {"status": "deactivated"})
    before = await targets.world.contents()
    for target in targets:
        if target.signer.kid is None:
            continue
        response = await targets.send(target, await targets.sign(target))
        problem(response, 401, "unauthorized")
    assert await targets.world.contents() == before


async def test_another_accounts_resources(targets: Targets) -> None:
    """403 for everything that has an owner."""
    other = await targets.world.account()
    owned = {"account", "orders", "order", "finalize", "authorization", "challenge", "certificate",
             "revokeCert"}  # fmt: skip
    before = await targets.world.contents()
    for target in targets:
        if target.name in owned:
            response = await targets.send(target, await targets.sign(target, signer=other.signer))
            problem(response, 403, "unauthorized")
    assert await targets.world.contents() == before


async def test_every_target_is_good(targets: Targets) -> None:
    """What the suite sends would be accepted, were it not for the one thing that is wrong."""
    for target in targets:
        if target.name == "revokeCert by key":
            continue
        response = await targets.send(target, await targets.sign(target))
        assert response.is_success, (target.name, response.text)


async def test_a_replayed_nonce(targets: Targets) -> None:
    before = await targets.world.contents()
    spent = await targets.nonce()
    first = next(t for t in targets if t.name == "orders")
    assert (await targets.send(first, await targets.sign(first, nonce=spent))).is_success
    for target in targets:
        response = await targets.send(target, await targets.sign(target, nonce=spent))
        problem(response, 400, "badNonce")
    assert await targets.world.contents() == before
